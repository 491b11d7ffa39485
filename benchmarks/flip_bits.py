"""Flip one bit in every file of a run, and remove each file: the reader must notice it, or read the same values as before.

    python benchmarks/flip_bits.py [--places 10] [--parts store compiled …] [--output benchmarks/results/flip_bits.json]

A small run leaves a token store, checkpoints and compiled programs. Beside it are the same checkpoints in a bucket (an address
``file://…``), a published model that ``config.adapt`` has trimmed and grown, and a folder of adapters. In each of their files one
bit is flipped, at ten positions one after the other, and the file is read by its reader: the store with its vocabulary and its
loader, ``load``, a continued run, the check of compiled programs, the start of a run with ``config.adapt``, and the verb that puts
adapters on a model. The script prints the number of damages that were noticed (by a one-line error, or by using an earlier
checkpoint), harmless (all values are the same), silent (a value differs without a message: must be 0) or raw (an exception other
than an error for users: must be 0).
"""

from __future__ import annotations

import argparse
import datetime
import json
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

from mlm_jax.adaptation.adapted import adapted
from mlm_jax.adaptation.adapters import load_adapters, save_adapters
from mlm_jax.checkpoints.checkpoint import find_checkpoint, load_parameters
from mlm_jax.checkpoints.saving import Checkpoints
from mlm_jax.checkpoints.starts import read_starts
from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.data.loading.loader import Loader
from mlm_jax.data.store.store import Store
from mlm_jax.data.vocabulary.folder import load_vocabulary
from mlm_jax.objectives import kinds
from mlm_jax.run.compiled import CompiledPrograms
from mlm_jax.run.loop import train
from tests.adaptation.test_adapters import workdir as with_adapters
from tests.interop.published import published
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


def read_model(run: Path | str) -> Any:
    """Return what ``load`` gives of the last checkpoint; an earlier one shows that the damage was noticed."""
    loaded = load_parameters(run)
    if loaded.step != 4:
        raise Noticed
    return loaded.config.to_dict(), loaded.vocabulary.fingerprint, loaded.languages, loaded.labels, loaded.params


def read_bucket(run: Path) -> Any:
    """Return what ``load`` gives of a bucket."""
    return read_model((run / "bucket").as_uri())


def adapt_config(sources: Path, place: Path) -> Any:
    """Return a config that trims a published model and grows it with a lexicon."""
    config = default_config()
    config.data.corpora = corpora = {code: str(sources / f"{code}.txt") for code in ("de", "xx")}
    grow = {"language": "xx", "pieces": 12, "start": "lexicon", "pairs": {"de-xx": str(sources / "de-xx.tsv")}}
    config.adapt.update(model=str(sources / "theirs"), trim={"de": corpora["de"]}, grow=grow, folder=str(place))
    return config


def write_adapted(sources: Path, place: Path) -> None:
    """Write a published model with texts to adapt it with, and the adapted model."""
    words = {"kalongo": "Himmel", "mbizabi": "Erde", "tuwanga": "Wasser", "pemberu": "Licht"}
    draw = random.Random(0)
    order = [draw.sample([*words], 3) for _ in range(60)]
    texts = {"xx": [" ".join(line) for line in order], "de": [" ".join(words[word] for word in line) for line in order]}
    sources.mkdir()
    for code, lines in texts.items():
        (sources / f"{code}.txt").write_text("\n".join(lines))
    (sources / "de-xx.tsv").write_text("".join(f"{de}\t{xx}\n" for de, xx in zip(texts["de"], texts["xx"])))
    published(sources / "theirs", "xlm-roberta")
    adapted(adapt_config(sources, place), None)


def reads_adapted(sources: Path, place: Path) -> Reader:
    """Return the reader of an adapted model. It is copied to ``place``, where it was made: paths in it are absolute."""

    def read_adapted(run: Path) -> Any:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(run / "adapted", place)
        found = adapted(adapt_config(sources, place), None)
        model = load_parameters(found.checkpoint.init["from"])
        vocabulary = load_vocabulary(found.vocabulary.path)
        starts = read_starts(found.checkpoint.init["starts"], model.vocabulary, vocabulary)
        return found.to_dict(), vocabulary.fingerprint, starts, model.vocabulary.fingerprint, model.params

    return read_adapted


def read_adapters(run: Path) -> Any:
    """Return a model with adapters that were saved alone."""
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_parameters(load_adapters(run / "base", run / "adapters", Path(folder, "both")))
    return loaded.config.to_dict(), loaded.languages, loaded.params


def reads_state(abstract: Any, config: Any, loaded: Any) -> Reader:
    """Return the reader of a run that continues."""

    def read_state(run: Path) -> Any:
        state = Checkpoints(run, config, loaded.vocabulary, loaded.languages, loaded.labels).restore(abstract)
        if int(state.step) != 4:
            raise Noticed
        return state, find_checkpoint(run).name

    return read_state


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
    parts = ("store", "checkpoints/4", "compiled", "bucket/checkpoints/4", "adapted", "adapters")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="whose files are damaged")
    parser.add_argument("--output", type=Path, help="JSON file for what was measured")
    options = parser.parse_args()
    logging.getLogger("mlm_jax").addHandler(warnings)
    logging.getLogger("mlm_jax").propagate = False
    counts: Counter[str] = Counter()
    measured: dict[str, Any] = {"date": datetime.date.today().isoformat(), "places": options.places}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"  # of copies of the bucket
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
        sources, place = Path(folder, "sources"), Path(folder, "place")
        if "adapted" in options.parts:
            write_adapted(sources, place)
            place.rename(run / "adapted")
        if "adapters" in options.parts:
            with_adapters(run / "base")
            save_adapters(with_adapters(Path(folder, "with"), adapter=4), run / "adapters")
        if "bucket/checkpoints/4" in options.parts:
            shutil.copytree(run / "checkpoints", run / "bucket" / "checkpoints")
            for step in (run / "checkpoints").iterdir():
                (run / "bucket" / "checkpoints" / f"{step.name}.whole").touch()
        readers: dict[str, list[Reader]] = {
            "store": [read_store],
            "checkpoints/4": [read_model, reads_state(abstract_state(run, config), config, loaded)],
            "compiled": [read_programs],
            "bucket/checkpoints/4": [read_bucket],
            "adapted": [reads_adapted(sources, place)],
            "adapters": [read_adapters],
        }
        for part in options.parts:
            for read in readers[part]:
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
                measured[f"{part} by {read.__name__}"] = dict(found)
                print(f"{part} by {read.__name__}: {dict(found)}", flush=True)
    print(", ".join(f"{name} {counts[name]:,}" for name in ("noticed", "harmless", "silent", "raw")))
    if options.output:
        measured |= {name: counts[name] for name in ("noticed", "harmless", "silent", "raw")}
        options.output.write_text(json.dumps(measured, indent=1) + "\n")
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
