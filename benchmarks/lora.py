"""LoRA beside full fine-tuning: seconds and memory of a training step, in turns.

    python -m benchmarks.lora
    python -m benchmarks.lora --vocabulary 250000   # as large a table as XLM-R's, which LoRA keeps frozen

An XLM-RoBERTa (six layers, 384 wide) in float32 with AdamW; rows of 128 tokens. The sides are in one process and take turns of a
few steps, so that a change of the machine's speed affects all; medians are printed. Memory is that of the compiled step:
its arguments (weights, optimizer state, batch) and its temporary arrays. The result is written to ``benchmarks/results/lora.json``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console
from rich.table import Table

from benchmarks.our_models import POST_NORM, random_rows
from mlm_jax.common.files import write_whole
from mlm_jax.config import default_config
from mlm_jax.parallel.batches import to_devices
from mlm_jax.parallel.mesh import make_mesh
from mlm_jax.training.context import planned_context
from mlm_jax.training.optimizer import frozen_parameters
from mlm_jax.training.step import build_program, make_train_step

STEPS = 2  # steps of a turn
SIDES: dict[str, dict[str, Any]] = {
    "full": {},
    "LoRA, rank 8, query and value": {"rank": 8},
    "LoRA, rank 8, all products": {"rank": 8, "products": ("query", "key", "value", "output", "up", "down")},
}


class Side(NamedTuple):
    """A function that does one step, and what the step needs: trained numbers, bytes of arguments and of temporary arrays."""

    run: Callable[[], None]
    trained: int
    arguments: int
    temporary: int


def side(lora: dict[str, Any], rows: int, vocabulary: int) -> Side:
    """Build and compile a step."""
    config = default_config()
    config.vocabulary.size = vocabulary
    config.model.update(
        width=384,
        heads=6,
        mlp_width=1536,
        encoder=({"layers": 6, "weights": "shared"},),
        window=0,
        lora=lora,
        **POST_NORM,
    )
    config.tasks = {"mlm": {"objective": "mlm", "rows": rows, "length": 128}}
    config.optimizer.schedule, config.optimizer.warmup_steps = "constant", 0
    mesh = make_mesh(config.mesh)
    program = build_program(config, planned_context(("en",), config), ("en",), mesh)
    batch = {"mlm": {"inputs": random_rows(rows, 128, vocabulary)}}
    step, holder = make_train_step(program), [program.initialise()]
    memory = step.lower(holder[0], to_devices(batch, mesh)).compile().memory_analysis()  # type: ignore[attr-defined]

    def run() -> None:
        holder[0] = step(holder[0], to_devices(batch, mesh))
        jax.block_until_ready(holder[0].step)

    frozen = jax.tree.leaves(frozen_parameters(config.optimizer, holder[0].params))
    sizes = [leaf.size for leaf in jax.tree.leaves(holder[0].params)]
    trained = sum(size for size, is_frozen in zip(sizes, frozen) if is_frozen is not True)
    return Side(run, trained, memory.argument_size_in_bytes, memory.temp_size_in_bytes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the sides and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args(arguments)
    sides = {name: side(lora, options.rows, options.vocabulary) for name, lora in SIDES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for one in sides.values():
        one.run()  # compiles
    for _ in range(options.turns):
        for name, one in sides.items():
            begun = time.perf_counter()
            for _ in range(STEPS):
                one.run()
            seconds[name].append((time.perf_counter() - begun) / STEPS)
    table = Table(
        "", "trained", "seconds a step", "of full", "MB of state", "MB of temporary arrays", "MB in all, of full"
    )
    whole, found = sides["full"], {}
    for name, one in sides.items():
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds["full"]))
        memory = (one.arguments + one.temporary) / (whole.arguments + whole.temporary)
        found[name] = {
            "trained": one.trained,
            "seconds": statistics.median(seconds[name]),
            "time of full": ratio,
            "megabytes of arguments": one.arguments / 1e6,
            "megabytes of temporary arrays": one.temporary / 1e6,
            "memory of full": memory,
        }
        table.add_row(
            name,
            f"{one.trained:,}",
            f"{statistics.median(seconds[name]):.3f}",
            f"{ratio:.2f}",
            f"{one.arguments / 1e6:.0f}",
            f"{one.temporary / 1e6:.0f}",
            f"{memory:.2f}",
        )
    Console(width=140).print(table)
    file = Path("benchmarks/results/lora.json")
    known = json.loads(file.read_text()) if file.is_file() else {}
    known[f"{options.vocabulary} pieces, {options.rows} rows"] = {"date": f"{date.today()}", **found}
    write_whole(file, json.dumps(known, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
