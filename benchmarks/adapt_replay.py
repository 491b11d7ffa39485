"""Replay of the old language, compared: bits per byte of the new language and of the old one after continued training.

    python -m benchmarks.adapt_replay

The published-style XLM-RoBERTa of ``benchmarks/adapt.py`` is trimmed, grown by Tagalog pieces, and trained for ``--steps`` steps as
``configs/adapt.py`` does it: with a quarter of the rows English (``continue``), with Tagalog alone, and with the new pieces alone
trained (``rows``). The table is printed and written to ``benchmarks/results/adapt_replay.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import date

from rich.console import Console
from rich.table import Table

from benchmarks.adapt import MASKING, NEW, OLD, RESULTS, RUNS, bits, evaluated, shortened, train
from mlm_jax.common.files import write_whole

SIDES = {  # {side: (stage of configs/adapt.py, share of rows that the old language gets)}
    "replayed": ("continue", 0.25),
    "not replayed": ("continue", 0.0),
    "new pieces alone are trained, replayed": ("rows", 0.25),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train each side and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args(arguments).steps
    folder = shortened("xlm-roberta")
    every = {"steps": steps, "checkpoint.every": steps, "evaluation.every": steps, "evaluation.rows": 10_000}
    found: dict[str, dict[str, float]] = {}
    for number, (name, (stage, share)) in enumerate(SIDES.items()):
        rates = {NEW: 1 - share, OLD: share}
        settings = {"optimizer.learning_rate": 1e-3, "tasks": MASKING, "mixing.rates": rates, **every}
        workdir = RUNS / f"xlm-roberta-replay-{steps}-{number}"
        measured = train(f"configs/adapt.py:{stage},{folder}", workdir, **settings)
        found.setdefault("before", bits(measured[0]))
        found[name] = bits(evaluated(workdir))
    table = Table("", NEW, OLD, title=f"Bits per byte after {steps} steps")
    for name, values in found.items():
        table.add_row(name, f"{values[NEW]:.3f}", f"{values[OLD]:.3f}")
    Console().print(table)
    file = RESULTS.with_name("adapt_replay.json")
    write_whole(file, json.dumps({"date": f"{date.today()}", "steps": steps, **found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
