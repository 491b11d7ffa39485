"""Run mmBERT's phases on the Bible's languages, kill the run in each phase, and compare it with one that was not killed.

    python benchmarks/curriculum.py [--set KEY=VALUE …]        # some minutes; needs the extra [demo]

Every value of ``metrics.jsonl``, except times, must be the same bit for bit. For each phase the script prints its steps, its
changes, and the languages that it reads.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIG = "configs/mmbert.py:bible"
TIMES = ("time", "train/tokens_per_second", "train/seconds_left", "train/mfu")


def start(workdir: Path, changes: list[str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "mlm_jax.cli", "train", "--config", str(ROOT / CONFIG), "--workdir", str(workdir)]
    command += [part for change in changes for part in ("--set", change)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(run: subprocess.Popen) -> None:
    _, said = run.communicate()
    if run.returncode:
        sys.exit(f"the run ended with {run.returncode}:\n{said}")


def events(workdir: Path) -> list[dict]:
    file = workdir / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def values(workdir: Path) -> dict[tuple[int, str], float]:
    return {
        (event["step"], key): value for event in events(workdir) for key, value in event.items() if key not in TIMES
    }


def killed_after(step: int, workdir: Path, changes: list[str]) -> int:
    """Continue a run and kill it once it has logged a step; return the last step that it logged."""
    run = start(workdir, changes)
    while run.poll() is None:
        logged = [event["step"] for event in events(workdir)]
        if logged and logged[-1] >= step:
            run.send_signal(signal.SIGKILL)
            run.communicate()
            return logged[-1]
        time.sleep(0.05)
    sys.exit(f"the run ended with {run.returncode} before step {step}:\n{run.communicate()[1]}")


def main() -> None:
    """Run, kill, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    changes = parser.parse_args().set
    sys.path.insert(0, str(ROOT))
    from mlm_jax.config import load_config

    config = load_config(ROOT / CONFIG, tuple(changes))
    with tempfile.TemporaryDirectory() as place:
        changes.append(f"data.store={place}/store")  # both runs read one token store
        whole, killed = Path(place, "whole"), Path(place, "killed")
        finish(start(whole, changes))
        stop = 0
        for index, phase in enumerate(config.curriculum):
            begin, stop = stop, stop + phase["steps"]
            at = killed_after(begin + config.training.log_every, killed, changes)
            changed = {key: value for key, value in phase.items() if key not in ("steps", "languages")}
            print(f"phase {index}: steps {begin} to {stop}, killed after step {at}; {changed}")
            last = next(
                event for event in reversed(events(whole)) if event["step"] == stop and "train/loss/mean" in event
            )
            read = [key.rpartition("/")[2] for key in last if key.startswith("train/loss/")]
            print(f"  loss {last['train/loss/mean']:.3f} of {', '.join(code for code in read if code != 'mean')}")
            if {*read} - {"mean"} != {*phase["languages"]}:
                sys.exit(f"phase {index} should read {', '.join(phase['languages'])}")
        finish(start(killed, changes))
        one, other = values(whole), values(killed)
        if one != other:
            different = [key for key in {*one, *other} if one.get(key) != other.get(key)]
            sys.exit(f"{len(different)} of {len(one)} values differ, such as {sorted(different)[:3]}")
        print(
            f"killed in each of {len(config.curriculum)} phases, and all {len(one):,} values are the same bit for bit"
        )


if __name__ == "__main__":
    main()
