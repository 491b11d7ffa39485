"""Flip one bit in every file of a run, and remove each file: the reader must notice it, or read the same values as before.

    python benchmarks/flip_bits.py [--places 10]

A small run leaves a token store, checkpoints and compiled programs. In each of their files one bit is flipped, at ten positions
one after the other, and the file is read by its reader: the store with its vocabulary and its loader, ``load``, a continued
run, and the check of compiled programs. The script prints the number of damages that were noticed (by a one-line error, or by
using an earlier checkpoint), harmless (all values are the same), silent (a value differs without a message: must be 0) or raw
(an exception other than an error for users: must be 0).
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
sys.path.insert(0, str(Path(__file__).parents[1]))

import jax
import numpy as np

from mlm_jax.checkpoints.checkpoint import find_checkpoint, load_parameters
from mlm_jax.checkpoints.saving import Checkpoints
from mlm_jax.common.errors import UserError
from mlm_jax.data.loading.loader import Loader
from mlm_jax.data.store.store import Store
from mlm_jax.objectives import kinds
from mlm_jax.run.compiled import CompiledPrograms
from mlm_jax.run.loop import train
from tests.tiny import tiny_config, write_store

Reader = Callable[[Path], Any]  # reads a copy of the run's folder, and returns what it has read


class Noticed(Exception):
    """The values are not those of the damaged file, and the log says so."""


class Warnings(logging.Handler):
    """Counts the warnings that are logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count a record."""
        self.count += "damaged" in record.getMessage() or "cannot be read" in record.getMessage()


warnings = Warnings()


def read_store(run: Path) -> Any:
    """Return everything that a store holds, and a batch of its loader."""
    store = Store.open(run / "store")
    arrays = {
        f"{stream.name}/{split}/{feature}": found[feature].read()
        for stream in store.streams.values()
        for split, found in stream.splits.items()
        for feature in found.features
    }
    config = tiny_config(run / "store")
    return store.manifest, store.vocabulary.fingerprint, arrays, Loader(store, config, kinds(config.tasks)).batch(3)


def read_model(run: Path) -> Any:
    """Return what ``load`` gives of the last checkpoint; an earlier one shows that the damage was noticed."""
    loaded = load_parameters(run)
    if loaded.step != 4:
        raise Noticed
    return loaded.config.to_dict(), loaded.vocabulary.fingerprint, loaded.languages, loaded.labels, loaded.params


def reads_state(abstract: Any, config: Any, loaded: Any) -> Reader:
    """Return the reader of a run that continues."""

    def read(run: Path) -> Any:
        state = Checkpoints(run, config, loaded.vocabulary, loaded.languages, loaded.labels).restore(abstract)
        if int(state.step) != 4:
            raise Noticed
        return state, find_checkpoint(run).name

    return read


def read_programs(run: Path) -> Any:
    """Return the compiled programs that are still there."""
    before = set((run / "compiled").glob("*-cache"))
    jax.config.update("jax_compilation_cache_dir", str(run / "compiled"))
    CompiledPrograms(run, True)
    jax.config.update("jax_compilation_cache_dir", None)
    if set((run / "compiled").glob("*-cache")) != before:
        raise Noticed
    return {file.name: file.read_bytes() for file in before}


def damages(file: Path, places: int) -> Iterator[Callable[[Path], None]]:
    """Yield functions that damage a file: flipped bits, and its removal."""
    draw = random.Random(file.name)
    size = file.stat().st_size
    for _ in range(min(places, 8 * size)):
        place, bit = draw.randrange(size), draw.randrange(8)

        def flip(target: Path, place: int = place, bit: int = bit) -> None:
            content, times = bytearray(target.read_bytes()), target.stat()
            content[place] ^= 1 << bit
            target.write_bytes(content)
            os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))

        yield flip
    yield Path.unlink


def outcome(read: Reader, run: Path, whole: Any) -> str:
    """Return the outcome of reading a damaged run."""
    warnings.count = 0
    try:
        found = read(run)
    except (UserError, Noticed):
        return "noticed"
    except Exception as error:
        print(f"    {type(error).__name__}: {str(error)[:200]}")
        return "raw"
    if read is read_programs:  # one that is missing is compiled again
        return "harmless" if all(whole[name] == content for name, content in found.items()) else "silent"
    if same(found, whole):
        return "harmless"
    return "noticed" if warnings.count else "silent"


def same(one: Any, other: Any) -> bool:
    """Return whether two nested values are equal bit for bit."""
    if jax.tree.structure(one) != jax.tree.structure(other):
        return False
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other))
    return all(a == b if isinstance(a, str | bytes) else np.array_equal(a, b) for a, b in pairs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--places", type=int, default=10, help="places in each file")
    options = parser.parse_args()
    logging.getLogger("mlm_jax").addHandler(warnings)
    logging.getLogger("mlm_jax").propagate = False
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "whole")
        write_store(run / "store")
        config = tiny_config(run / "store", steps=4)
        config.evaluation.every, config.evaluation.select = 2, "eval/loss/mean"
        train(config, run)
        for file in (run / "compiled").iterdir():
            os.utime(file, (0, 0))
        CompiledPrograms(run, True).record()
        # Programs that are compiled from here on are not the run's.
        jax.config.update("jax_compilation_cache_dir", None)
        loaded = load_parameters(run)
        readers: dict[str, list[Reader]] = {
            "store": [read_store],
            "checkpoints/4": [read_model, reads_state(abstract_state(run, config), config, loaded)],
            "compiled": [read_programs],
        }
        for part, reads in readers.items():
            for read in reads:
                damaged = Path(folder, "damaged")
                shutil.copytree(run, damaged)
                whole = read(damaged)
                shutil.rmtree(damaged)
                found: Counter[str] = Counter()
                for file in sorted(file for file in (run / part).rglob("*") if file.is_file()):
                    for damage in damages(file, options.places):
                        shutil.copytree(run, damaged)
                        damage(damaged / file.relative_to(run))
                        result = outcome(read, damaged, whole)
                        found[result] += 1
                        if result in ("silent", "raw"):
                            print(f"    {result}: {file.relative_to(run)}")
                        shutil.rmtree(damaged)
                counts += found
                print(f"{part} by {read.__name__}: {dict(found)}", flush=True)
    print(", ".join(f"{name} {counts[name]:,}" for name in ("noticed", "harmless", "silent", "raw")))
    return int(bool(counts["silent"] or counts["raw"]))


def abstract_state(run: Path, config: Any) -> Any:
    """Return the shapes of the run's state, as a run that continues asks for them."""
    from mlm_jax.parallel.mesh import make_mesh
    from mlm_jax.training.context import make_context
    from mlm_jax.training.step import build_program

    store = Store.open(run / "store")
    loader = Loader(store, config, kinds(config.tasks))
    context = make_context(store.vocabulary, loader.languages, config)
    return build_program(config, context, loader.languages, make_mesh(config.mesh), labels={}).state


if __name__ == "__main__":
    sys.exit(main())
