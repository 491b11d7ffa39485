"""Comparison of initial embeddings for new pieces: bits per byte of a language that is new to the model.

    python -m benchmarks.adapt_starts                             # Korean, with the XLM-RoBERTa that benchmarks/adapt.py trains
    python -m benchmarks.adapt_starts --language tl --family modernbert --starts spelling,lexicon

The model's vocabulary gets 1,500 pieces of the language's text, and then everything is trained on that text. The rows of new pieces
begin

- ``random``: as in a new model;
- ``spelling``: as the mean of the old pieces that spell them (Gee et al. 2022), or as ``random`` if none do (``grow``);
- ``mean``: as the mean of all old rows (Hewitt 2021);
- ``related``: as the mean of a related language's pieces, weighted by frequency (Spanish for Tagalog, English for Korean);
- ``similar``: as a mean of old pieces with similar neighbours in the new text, weighted by sparsemax over cosines
  of static vectors (FOCUS, Dobler and de Melo 2023; here vectors are of PPMI and SVD);
- ``lexicon``: as a mean of the English pieces that occur in the same verses (WECHSEL, Minixhofer et al. 2022, has a dictionary).

The table is printed and written to ``benchmarks/results/adapt_starts.json``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse
import scipy.sparse.linalg
from rich.console import Console
from rich.table import Table

from benchmarks.adapt import FAMILIES, PIECES, RESULTS, RUNS, published, train
from mlm_jax.adaptation import starts
from mlm_jax.adaptation.continuing import continued_config
from mlm_jax.adaptation.grow import grow_vocabulary
from mlm_jax.adaptation.trim import ROWS
from mlm_jax.checkpoints.checkpoint import Loaded, load_parameters
from mlm_jax.checkpoints.starts import Mixtures
from mlm_jax.checkpoints.transplant import row_sources
from mlm_jax.common.files import write_whole
from mlm_jax.data import bible
from mlm_jax.data.vocabulary.pieces import Vocabulary
from mlm_jax.interop.importing import import_hf, write_workdir
from mlm_jax.training.paths import by_path

STEPS = (0, 100, 400)
RELATED = {"tl": "es", "ko": "en"}
# Neighbours on either side; width of static vectors; factor on cosines in sparsemax.
WINDOW, WIDTH, SHARPNESS = 5, 128, 10.0
OFTEN = 5  # the smallest number of weighted neighbours for which a piece has a static vector


class Grown(NamedTuple):
    """The old and the grown vocabulary, and the new pieces of the grown one."""

    old: Vocabulary
    new: Vocabulary
    language: str
    added: list[int]
    shared: np.ndarray  # ids of ordinary pieces that both have


def grown_by(old: Vocabulary, language: str) -> Grown:
    """Grow a vocabulary by pieces of a language's text."""
    new = grow_vocabulary(old, language, bible.text(language, "train"), PIECES)
    added = starts.new_pieces(old, new)
    return Grown(old, new, language, added, np.setdiff1d(np.flatnonzero(~new.is_special), added))


def random(grown: Grown) -> Mixtures:
    """Return no mixtures: all new rows are random."""
    return {}


def spelling(grown: Grown) -> Mixtures:
    """Return the old pieces that spell each new one."""
    sources = row_sources(grown.old, grown.new)
    return {index: _evenly(np.array(sources[index])) for index in grown.added if sources[index]}


def mean(grown: Grown) -> Mixtures:
    """Return all old pieces for each new one."""
    return {index: _evenly(grown.shared) for index in grown.added}


def related(grown: Grown) -> Mixtures:
    """Return the pieces of a related language for each new one."""
    ids = np.concatenate(grown.old.encode_batch([*bible.text(RELATED[grown.language], "train")]))
    counts = np.bincount(ids, minlength=grown.old.size).astype(float)  # [old pieces]
    counts[grown.old.is_special] = 0
    used = np.flatnonzero(counts)
    return {index: (used, counts[used] / counts.sum()) for index in grown.added}


def similar(grown: Grown) -> Mixtures:
    """Return the old pieces whose static vectors are most similar to that of each new piece."""
    vectors, often = static_vectors(grown.new.encode_batch([*bible.text(grown.language, "train")]), grown.new.size)
    anchors = grown.shared[often[grown.shared] >= OFTEN]
    cosines = vectors[grown.added] @ vectors[anchors].T  # [new pieces, anchors]
    weights = [sparsemax(SHARPNESS * row) for row in cosines]
    return {index: (anchors[row > 0], row[row > 0]) for index, row in zip(grown.added, weights)}


def lexicon(grown: Grown) -> Mixtures:
    """Return the English pieces that occur in the same verses as each new one, as ``mlm-jax grow --start lexicon`` does."""
    return starts.lexicon(grown.old, grown.new, [*bible.pairs(f"{grown.language}-en", "train")])


STARTS: dict[str, Callable[[Grown], Mixtures]] = {
    start.__name__: start for start in (random, spelling, mean, related, similar, lexicon)
}


def static_vectors(documents: Sequence[Sequence[int]], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return ``[pieces, WIDTH]`` unit vectors of pieces, and ``[pieces]`` how many weighted neighbours each has.

    They are the singular vectors of positive pointwise mutual information, with neighbours weighted by one over their distance
    and contexts smoothed by the power 0.75 (Levy et al. 2015).
    """
    rows, columns, weights = [], [], []
    for document in map(np.array, documents):
        for distance in range(1, WINDOW + 1):
            before, after = document[:-distance], document[distance:]
            rows += [before, after]
            columns += [after, before]
            weights += [np.full(len(before), 1 / distance)] * 2
    at = np.concatenate(rows), np.concatenate(columns)
    counts = scipy.sparse.coo_matrix((np.concatenate(weights), at), shape=(size, size)).tocsr()
    total, often = counts.sum(), np.asarray(counts.sum(axis=1)).ravel()
    context = often**0.75
    context *= total / context.sum()
    found = counts.tocoo()
    information = np.log(found.data * total / (often[found.row] * context[found.col]))
    kept = information > 0
    at = found.row[kept], found.col[kept]
    matrix = scipy.sparse.coo_matrix((information[kept], at), shape=(size, size)).tocsr()
    left, singular, _ = scipy.sparse.linalg.svds(matrix, k=WIDTH, v0=np.ones(size))
    vectors = left * np.sqrt(singular)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9), often


def sparsemax(scores: np.ndarray) -> np.ndarray:
    """Return the nearest point to the scores among distributions (Martins and Astudillo 2016)."""
    ordered = np.sort(scores)[::-1]
    sums, count = np.cumsum(ordered), np.arange(1, len(scores) + 1)
    support = (1 + count * ordered > sums).sum()
    return np.maximum(scores - (sums[support - 1] - 1) / support, 0)


def _evenly(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return ids, np.full(len(ids), 1 / len(ids))


def compare(family: str, language: str, named: Sequence[str], steps: Sequence[int]) -> dict[str, dict[str, float]]:
    """Train from each start and return {start: {step: bits per byte}}."""
    folder = RUNS / f"{family}-starts-{language}"
    if not (folder / "model").is_dir():
        import_hf(published(family), folder / "model")
    loaded = load_parameters(folder / "model")
    grown = grown_by(loaded.vocabulary, language)
    found = {}
    for start in named:
        if not (folder / start).is_dir():
            write_start(folder / start, loaded, grown, STARTS[start](grown))
        config = folder / f"{start}.py"
        text = {language: "mlm_jax.data.bible:text"}
        config.write_text(
            "from mlm_jax.adaptation.continuing import continued_config\n\n\ndef get_config():\n"
            f"    config = continued_config({str(folder / start)!r})\n"
            f"    config.data.corpora, config.data.store = {text}, {str(folder / 'store')!r}\n"
            '    config.tasks = {"mlm": {"objective": "mlm", "rows": 8, "length": 128, "mask_rate": 0.3}}\n'
            '    config.optimizer.update(learning_rate=1e-3, schedule="constant", warmup_steps=0.05)\n'
            f"    config.steps = config.checkpoint.every = {max(steps)}\n    config.evaluation.every = {steps[1]}\n"
            "    return config\n"
        )
        measured = train(str(config), folder / f"{start}-run")
        found[start] = {str(step): measured[step][f"eval/bits_per_byte/{language}"] for step in steps}
    return found


def write_start(workdir: Path, loaded: Loaded, grown: Grown, mixtures: Mixtures) -> None:
    """Write a workdir of the model with the grown vocabulary; new rows begin as the given mixtures of old rows."""
    rng = np.random.default_rng(0)
    params = {path: np.asarray(value) for path, value in by_path(loaded.params).items()}
    for name in (name for name in ROWS if name in params):
        old = params[name]
        table = np.zeros((grown.new.size, *old.shape[1:]), old.dtype)
        kept = min(len(old), grown.new.size)
        table[:kept] = old[:kept]
        for index in grown.added:
            ids, weights = mixtures.get(index, (None, None))
            drawn = 0.02 * rng.normal(size=old.shape[1:]) if old.ndim > 1 else 0.0
            table[index] = drawn if ids is None else np.tensordot(weights, old[ids], 1)
        params[name] = table
    config = continued_config(RUNS / workdir.parent.name / "model")
    config.checkpoint.init, config.model.vocabulary_multiple = {}, 1
    write_workdir(workdir, config, grown.new, loaded.languages, params)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the starts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", choices=RELATED, default="ko")
    parser.add_argument("--family", choices=FAMILIES, default=FAMILIES[0])
    parser.add_argument("--starts", default=",".join(STARTS), help="separated by commas")
    parser.add_argument(
        "--steps", default=",".join(map(str, STEPS)), help="to measure at: 0, then multiples of the second"
    )
    options = parser.parse_args(arguments)
    RUNS.mkdir(parents=True, exist_ok=True)
    steps = [int(step) for step in options.steps.split(",")]
    found = compare(options.family, options.language, options.starts.split(","), steps)
    table = Table("start", *map(str, steps), title=f"Bits per byte, {options.language}, {options.family}, after steps")
    for start, values in found.items():
        table.add_row(start, *(f"{values[str(step)]:.3f}" for step in steps))
    Console().print(table)
    file = RESULTS.with_name("adapt_starts.json")
    known = json.loads(file.read_text()) if file.is_file() else {}
    of_this = known.setdefault(f"{options.family} {options.language}", {})
    of_this |= {"date": f"{date.today()}", **found}
    file.parent.mkdir(exist_ok=True)
    write_whole(file, json.dumps(known, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
