"""One GPU: attention forward and backward by our flash attention, by cuDNN with a mask, and by cuDNN without any.

    python benchmarks/gpu_attention.py --json benchmarks/results/gpu_attention.json     # half a minute
    python benchmarks/gpu_attention.py --tiny                                           # a smoke run on a CPU

Twelve heads of 64 in bfloat16. Rows contain one document or several; layers have a window of 128 or none. "no mask" is the time of
cuDNN if it computes every pair of a row: a lower bound, whose result is wrong for packed rows.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mlm_jax.model import kernels
from mlm_jax.model.attention import attention

CASES = {  # {name: (rows, length, (shortest, longest) document or None)}
    "16 x 1,024, one document": (16, 1024, None),
    "16 x 1,024, documents of 100-500": (16, 1024, (100, 500)),
    "2 x 8,192, one document": (2, 8192, None),
    "2 x 8,192, documents of 300-3,000": (2, 8192, (300, 3000)),
}
HEADS, HEAD_DIM, WINDOW, CALLS, TURNS = 12, 64, 128, 20, 5


def segments(rows: int, length: int, sizes: tuple[int, int] | None) -> np.ndarray:
    """Return ``[rows, length]`` segments of documents of random sizes, or of one a row."""
    if sizes is None:
        return np.ones((rows, length), np.int32)
    rng = np.random.default_rng(0)
    lengths = rng.integers(*sizes, size=(rows, length // sizes[0] + 1))
    return np.stack([np.repeat(np.arange(1, each.size + 1), each)[:length] for each in lengths]).astype(np.int32)


def implementations(ids: jax.Array, window: int, *, on_gpu: bool) -> dict[str, Callable]:
    """Return {name: function of queries, keys and values}."""
    options = {"window": window, "causal": False, "scale": HEAD_DIM**-0.5}
    if not on_gpu:
        return {"reference": functools.partial(attention, segment_ids=ids, window=window, implementation="reference")}
    found = {
        "flash": lambda query, key, value: kernels.flash(query, key, value, ids, ids, **options),
        "cudnn": lambda query, key, value: kernels.cudnn(query, key, value, ids, ids, **options),
    }
    if not window:
        found["no mask"] = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    return found


def milliseconds(attend: Callable, arrays: list[jax.Array]) -> float:
    """Return the median time of a forward and backward pass."""

    def both(query: jax.Array, key: jax.Array, value: jax.Array, gradient: jax.Array) -> tuple:
        out, backward = jax.vjp(attend, query, key, value)
        return out, *backward(gradient)

    compiled, turns = jax.jit(both).lower(*arrays).compile(), []
    jax.block_until_ready(compiled(*arrays))
    for _ in range(TURNS):
        begun = time.perf_counter()
        for _ in range(CALLS):
            out = compiled(*arrays)
        jax.block_until_ready(out)
        turns.append((time.perf_counter() - begun) / CALLS * 1e3)
    return statistics.median(turns)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a smoke run on a CPU")
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args()
    on_gpu = jax.default_backend() == "gpu"
    if not (on_gpu or options.tiny):
        print(
            "gpu_attention: error: JAX sees no GPU. Remedy: install a CUDA build, or try the script with --tiny",
            file=sys.stderr,
        )
        return 2
    device = jax.devices()[0].device_kind
    found: dict[str, dict[str, float]] = {}
    for name, (rows, length, sizes) in {"tiny": (1, 256, None)}.items() if options.tiny else CASES.items():
        ids = jnp.asarray(segments(rows, length, sizes))
        keys = jax.random.split(jax.random.key(0), 4)
        arrays = [jax.random.normal(key, (rows, length, HEADS, HEAD_DIM), jnp.bfloat16) for key in keys]
        for window in (WINDOW, 0):
            case = f"{name}, " + (f"window {window}" if window else "no window")
            attends = implementations(ids, window, on_gpu=on_gpu)
            found[case] = {kind: milliseconds(attend, arrays) for kind, attend in attends.items()}
            print(
                f"{case:50s} " + "   ".join(f"{kind} {took:.3f} ms" for kind, took in found[case].items()), flush=True
            )
    if options.json:
        result = {
            "date": datetime.date.today().isoformat(),
            "device": device,
            "jax": jax.__version__,
            "milliseconds": found,
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
