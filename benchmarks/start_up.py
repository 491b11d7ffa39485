"""Seconds from the command to the end of the first step, on a prepared store, with and without compiled programs; and of --help.

    mlm-jax train --config configs/demo.py --workdir runs/demo   # makes the store, once
    python benchmarks/start_up.py --config configs/demo.py --store runs/demo/store

An evaluation comes before the first step, as in every new run. The compiled programs are those of the run before, in
another workdir.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def first_step(config: str, store: str, workdir: Path, compiled: Path) -> tuple[float, float]:
    """Start a run, end it after its first steps, and return seconds until its first evaluation and its first step."""
    command = [
        sys.executable,
        "-m",
        "mlm_jax.cli",
        "train",
        "--config",
        config,
        "--workdir",
        str(workdir),
        "--set",
        f"data.store={store}",
        "--set",
        "training.log_every=1",
    ]
    begun = time.time()
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(compiled)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if line.startswith("step 2/"):  # a line is written while the step after it runs
                break
        run.kill()
    events = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    evaluated = next(event["time"] for event in events if any(key.startswith("eval/") for key in event))
    stepped = next(event["time"] for event in events if event["step"] == 1)
    return evaluated - begun, stepped - begun


def main() -> None:
    """Print both times, without and with programs that were compiled before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/demo.py")
    parser.add_argument("--store", default="runs/demo/store")
    options = parser.parse_args()
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-m", "mlm_jax.cli", "--help"], check=True, stdout=subprocess.DEVNULL)
    print(f"--help: {time.perf_counter() - begun:.2f} s")
    with tempfile.TemporaryDirectory() as scratch:
        for title in ("nothing compiled before", "compiled before"):
            place = Path(scratch)
            evaluated, stepped = first_step(options.config, options.store, place / title, place / "compiled")
            print(f"{title}: evaluated after {evaluated:.1f} s, first step after {stepped:.1f} s")


if __name__ == "__main__":
    main()
