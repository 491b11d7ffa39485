"""Seconds to compile a training step by the number of languages that have weights of their own.

    python benchmarks/compile_time.py                     # 4, 16 and 64 languages
    python benchmarks/compile_time.py --languages 4 256

The weights of a language are gathered by its index, without a loop over languages, so the program is the same for any number.
"""

from __future__ import annotations

import argparse
import time

import jax

from mlm_jax.config import default_config
from mlm_jax.parallel.mesh import make_mesh
from mlm_jax.parallel.topology import parse
from mlm_jax.planning.prepare import prepare
from mlm_jax.training.step import make_train_step

SHARED = {"layers": 4, "weights": "shared"}
PLANS = {
    "a decoder each": ((SHARED,), (SHARED | {"weights": "target_language"},)),
    "an encoder each": ((SHARED | {"weights": "source_language"},), (SHARED,)),
    "adapters": (
        (SHARED | {"adapter": 32, "adapter_weights": "source_language"},),
        (SHARED | {"adapter": 32, "adapter_weights": "target_language"},),
    ),
}


def seconds(plan: str, languages: int) -> float:
    """Return the seconds to trace and compile the step of a translator with this number of languages."""
    config = default_config()
    config.languages = tuple(f"l{number}" for number in range(languages))
    config.data.parallel = {f"{language}-l0": "" for language in config.languages[1:]}
    config.vocabulary.size = 1_000
    config.tasks = {"translation": {"objective": "translation", "rows": 64, "length": 32}}
    config.model.update(width=64, heads=2, mlp_width=128, dtype="float32")
    config.model.encoder, config.model.decoder = PLANS[plan]
    planned = prepare(config, parse("cpu:1"), make_mesh(config.mesh, jax.devices()[:1]))
    step = make_train_step(planned.program, objectives=planned.objectives)
    begun = time.perf_counter()
    step.lower(planned.program.state, planned.batch).compile()  # type: ignore[attr-defined]
    return time.perf_counter() - begun


def main() -> None:
    """Print a line for each sharing plan."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--languages", type=int, nargs="+", default=(4, 16, 64))
    counts = parser.parse_args().languages
    seconds("adapters", 2)  # warm-up: the first compilation takes longer
    for plan in PLANS:
        print(
            f"{plan:16s}",
            *(f"{count} languages {seconds(plan, count):5.1f} s" for count in counts),
            sep="  ",
            flush=True,
        )


if __name__ == "__main__":
    main()
