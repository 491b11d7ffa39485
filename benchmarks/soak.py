"""Train for many steps with frequent evaluations and checkpoints: memory and open files must stay flat.

    python benchmarks/soak.py [--steps 3000] [--every 20] [--output benchmarks/results/soak.json]

A tiny run is evaluated and saved every few steps. Its resident memory and open files are read at each evaluation; the
first quarter, in which caches fill, is left out. The script prints both after the first quarter and at the end; the exit code
is 1 if memory has grown by more than a tenth, or open files by more than five.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parents[1]))

from mlm_jax.run.loop import train
from mlm_jax.run.reporter import Reporter
from tests.tiny import tiny_config, write_store

PAGE = os.sysconf("SC_PAGE_SIZE")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument(
        "--every", type=int, default=20, help="steps between evaluations; checkpoints come twice as often"
    )
    parser.add_argument("--output", type=Path, help="JSON file for what was measured")
    options = parser.parse_args()
    seen: list[tuple[float, int]] = []  # MiB and open files at each evaluation
    evaluate = Reporter.evaluate

    def evaluate_and_look(self: Reporter, *arguments: Any, **named: Any) -> dict[str, float]:
        found = evaluate(self, *arguments, **named)
        memory = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 2**20
        seen.append((memory, len(os.listdir("/proc/self/fd"))))
        return found

    Reporter.evaluate = evaluate_and_look  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        config = tiny_config(write_store(Path(folder, "store")), steps=options.steps)
        config.evaluation.every, config.checkpoint.every = options.every, max(options.every // 2, 1)
        config.training.log_every = options.every
        train(config, Path(folder, "run"))
    settled = seen[len(seen) // 4 :]
    part = max(len(settled) // 5, 1)
    memory = [statistics.median(memory for memory, _ in some) for some in (settled[:part], settled[-part:])]
    files = [max(count for _, count in some) for some in (settled[:part], settled[-part:])]
    print(
        f"{options.steps:,} steps, {len(seen)} evaluations: memory {memory[0]:,.0f} → {memory[1]:,.0f} MiB, "
        f"open files {files[0]} → {files[1]}"
    )
    if options.output:
        measured = {
            "date": datetime.date.today().isoformat(),
            "steps": options.steps,
            "evaluations": len(seen),
            "checkpoints": options.steps // max(options.every // 2, 1),
            "memory_mib": {"after_a_quarter": round(memory[0]), "at_the_end": round(memory[1])},
            "open_files": {"after_a_quarter": files[0], "at_the_end": files[1]},
            "memory_mib_at_each_evaluation": [round(memory) for memory, _ in seen],
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(measured) + "\n")
    return int(memory[1] > 1.1 * memory[0] or files[1] > files[0] + 5)


if __name__ == "__main__":
    sys.exit(main())
