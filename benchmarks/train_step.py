"""Tokens per second of one training step: ours against Hugging Face ModernBERT and XLM-R in torch, side by side.

    python benchmarks/train_step.py                     # CPU, float32, 11–14 M parameters, 8,192 pieces
    python benchmarks/train_step.py --size published    # the shapes of mmBERT-small and of multilingual MiniLM: 250,000 pieces
    python benchmarks/train_step.py --turns 9 --json out.json

The same shapes, the same masked share, AdamW on both sides, float32. Each side runs in its own process. They take turns of a few
consecutive steps, so that changes of the machine's speed affect both; medians are printed. Needs the extra [hf].
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np

from mlm_jax.parallel.huge_pages import restart_with_huge_pages

STEPS = 3  # measured steps of a turn, after one step that is not measured


class Shape(NamedTuple):
    """The shape that both sides of a comparison compute."""

    rows: int
    length: int
    vocabulary: int
    mask_rate: float
    width: int
    layers: int
    heads: int
    mlp: int


SIZES = {  # {size: (ModernBERT's, XLM-R's)}
    "small": (Shape(32, 128, 8192, 0.3, 384, 6, 6, 576), Shape(32, 128, 8192, 0.3, 384, 6, 6, 1536)),
    # jhu-clsp/mmBERT-small, and microsoft/Multilingual-MiniLM-L12-H384 with XLM-R's vocabulary and its rows of 512 tokens
    "published": (Shape(2, 1024, 256_000, 0.3, 384, 22, 6, 1152), Shape(4, 512, 250_002, 0.15, 384, 12, 12, 1536)),
}


Side = Callable[[Shape, bool], Callable[[], None]]  # (shape, whether it is XLM-R's) → a function that does one step


def our_step(shape: Shape, xlmr: bool) -> Callable[[], None]:
    """Return a function that does one step of ours: masking, forward, backward, clip and AdamW in one jit."""
    import jax
    from our_models import random_rows, xlm_roberta

    from mlm_jax.config import default_config
    from mlm_jax.parallel.batches import to_devices
    from mlm_jax.parallel.mesh import make_mesh
    from mlm_jax.training.context import planned_context
    from mlm_jax.training.step import build_program, make_train_step

    config = default_config()
    config.vocabulary.size = shape.vocabulary
    config.model.update(
        width=shape.width,
        heads=shape.heads,
        mlp_width=shape.mlp,
        window=0 if xlmr else 128,
        max_positions=shape.length,
        encoder=({"layers": shape.layers, "weights": "shared"},),
    )
    if xlmr:
        config.model.update(xlm_roberta(shape.length))
    config.tasks = {
        "mlm": {"objective": "mlm", "rows": shape.rows, "length": shape.length, "mask_rate": shape.mask_rate}
    }
    config.optimizer.schedule, config.optimizer.warmup_steps = "constant", 0
    mesh = make_mesh(config.mesh)
    program = build_program(config, planned_context(("en",), config), ("en",), mesh)
    step, state = make_train_step(program), program.initialise()
    batch = {"mlm": {"inputs": random_rows(shape.rows, shape.length, shape.vocabulary)}}
    holder = [state]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))

    def run() -> None:
        holder[0] = step(holder[0], to_devices(batch, mesh))
        jax.block_until_ready(holder[0].step)

    run.parameters = parameters  # type: ignore[attr-defined]
    return run


def torch_step(shape: Shape, xlmr: bool) -> Callable[[], None]:
    """Return a function that does one step of transformers' model with torch's fused AdamW and gradient clipping."""
    import torch
    from torch_models import masked_model

    model = masked_model(
        xlmr,
        vocabulary=shape.vocabulary,
        width=shape.width,
        layers=shape.layers,
        heads=shape.heads,
        mlp=shape.mlp,
        length=shape.length,
    )
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=5e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, fused=True
    )
    rng = np.random.default_rng(0)
    tokens = torch.tensor(rng.integers(120, shape.vocabulary, (shape.rows, shape.length)))

    def run() -> None:
        labels = torch.full_like(tokens, -100)
        chosen = torch.rand(tokens.shape) < shape.mask_rate
        labels[chosen] = tokens[chosen]
        inputs = torch.where(chosen & (torch.rand(tokens.shape) < 0.8), 4, tokens)
        loss = model(input_ids=inputs, attention_mask=torch.ones_like(tokens), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    run.parameters = sum(p.numel() for p in model.parameters())  # type: ignore[attr-defined]
    return run


def steps(connection: Connection, side: Side, shape: Shape, xlmr: bool) -> None:
    """Serve one side in a process of its own: send its parameters; then receive numbers of steps and send their mean seconds."""
    run = side(shape, xlmr)
    connection.send(run.parameters)  # type: ignore[attr-defined]
    while count := connection.recv():
        run()  # compiles; later, allocates memory that was freed during the other side's turn
        begun = time.perf_counter()
        for _ in range(count):
            run()
        connection.send((time.perf_counter() - begun) / count)


def compare(shape: Shape, xlmr: bool, turns: int) -> tuple[list[int], list[list[float]]]:
    """Return the parameters of each side, and its seconds a step in each turn; the sides take turns of ``STEPS`` steps."""
    spawn = multiprocessing.get_context("spawn")
    processes, connections = [], []
    for side in (our_step, torch_step):
        here, there = spawn.Pipe()
        processes.append(spawn.Process(target=steps, args=(there, side, shape, xlmr), daemon=True))
        processes[-1].start()
        there.close()  # so that a side that dies ends this process too, instead of letting it wait
        connections.append(here)
    parameters = [connection.recv() for connection in connections]
    seconds: list[list[float]] = [[], []]
    for _ in range(turns):
        for taken, connection in zip(seconds, connections):
            connection.send(STEPS)
            taken.append(connection.recv())
    for connection in connections:
        connection.send(0)
    for process in processes:
        process.join()
    return parameters, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", help="also write the result here")
    options = parser.parse_args()
    restart_with_huge_pages()  # as mlm-jax train does; torch has the gain too
    found = {}
    for name, xlmr, shape in zip(("ModernBERT, sparse prediction", "XLM-R"), (False, True), SIZES[options.size]):
        parameters, taken = compare(shape, xlmr, options.turns)
        speeds = [shape.rows * shape.length / statistics.median(seconds) for seconds in taken]
        for who, count, speed in zip(("mlm_jax", "transformers"), parameters, speeds):
            print(f"{who:12s} {name:30s} {count / 1e6:6.1f} M parameters {speed:8.0f} tokens/s")
        pairs = [b / a for a, b in zip(*taken)]
        ratio = statistics.median(pairs)
        print(
            f"{ratio:.2f}x transformers {name} (median of {options.turns} turns, {min(pairs):.2f}–{max(pairs):.2f})",
            flush=True,
        )
        found[name] = {
            "shape": shape._asdict(),
            "tokens_per_second": dict(zip(("ours", "theirs"), speeds)),
            "ratio": ratio,
        }
    if options.json:
        with open(options.json, "w") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
