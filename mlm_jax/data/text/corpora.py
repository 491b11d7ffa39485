"""Text and parallel text out of files, Python functions and data set libraries, one document at a time.

What a config may name for a corpus (``config.data.corpora``, ``parallel``, ``validation``):

- a glob, or a tuple of globs, over .txt (a document a line) and .jsonl ("text"), each also .gz or .zst, and .parquet ("text");
- for parallel text: a glob over .tsv (two columns) and .tmx, also .gz or .zst, and .zip (OPUS, Moses); or a pair (file of one side,
  file of the other), of lines or of any text format;
- ``"module:function"``: called as function(language or pair, split), yields documents or (source, target);
- ``"tfds:name"``: a TensorFlow Datasets text set; ``"datasets:folder"``: a Hugging Face data set saved to disk.

A new format is one module in ``formats`` and one row of the tables below; a new library is one in ``libraries`` and one row of
``sources.LIBRARIES``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlm_jax.common.errors import UserError
from mlm_jax.data.text.formats import aligned, jsonl, moses_zip, parquet, tmx, tsv, txt
from mlm_jax.data.text.languages import split_pair
from mlm_jax.data.text.reading import MOST_BYTES, Wanted, ending
from mlm_jax.data.text.sources import files, is_library, library, named_file


class Fields(NamedTuple):
    """Which field of a document holds the text, and which values others must have, as :class:`.Wanted` has them."""

    text: str = "text"
    where: Mapping[str, str | float] = {}


TEXT_FORMATS: dict[str, aligned.Reader] = {".txt": txt.read, ".jsonl": jsonl.read, ".parquet": parquet.read}
PAIR_FORMATS: dict[str, Callable[[Path, Wanted], Iterator[tuple[str, str]]]] = {
    ".tsv": tsv.read,
    ".tmx": tmx.read,
    ".zip": moses_zip.read,
}
EVERYTHING = Fields()
TEXT_ENDINGS, PAIR_ENDINGS = tuple(TEXT_FORMATS), tuple(PAIR_FORMATS)


def documents(
    source: Any,
    language: str,
    split: str,
    *,
    most_bytes: int = MOST_BYTES,
    skipped: Counter[str] | None = None,
    fields: Fields = EVERYTHING,
) -> Iterator[str]:
    """Yield the documents of a corpus, also those of nothing but white space, which the caller counts.

    Args:
      source: what the config names for the corpus.
      language: its language.
      split: train | validation; only functions and data set libraries look at it.
      most_bytes: limit on one document.
      skipped: {reason: examples left out}, added to.
      fields: of documents that have some.

    Raises:
      UserError: a file is missing, of an unknown kind, not UTF-8 or malformed, or a document is too large; the message has
        file and line.
    """
    wanted = Wanted(language, split, (), most_bytes, Counter() if skipped is None else skipped, *fields)
    if is_library(source):
        module, rest = library(source)
        yield from module.read(rest, wanted)
        return
    for file in files(source, TEXT_ENDINGS):
        yield from TEXT_FORMATS[ending(file)](file, wanted)


def sentence_pairs(
    source: Any,
    pair: str,
    split: str,
    languages: Sequence[str] = (),
    *,
    most_bytes: int = MOST_BYTES,
    skipped: Counter[str] | None = None,
    fields: Fields = EVERYTHING,
) -> Iterator[tuple[str, str]]:
    """Yield the sentence pairs of a parallel corpus; a side that is empty or missing comes as "", for the caller to count.

    Args:
      source: what the config names for the corpus.
      pair: its languages, such as "de-en".
      split: train | validation.
      languages: codes that the two may be, if some hold hyphens.
      most_bytes: limit on one side, line or unit.
      skipped: {reason: examples left out}, added to.
      fields: of the documents of two aligned files that have some.

    Raises:
      UserError: as :func:`documents`, the name is not two languages, or the two aligned files are not equally long.
    """
    sides = split_pair(pair, languages)
    wanted = Wanted(pair, split, sides, most_bytes, Counter() if skipped is None else skipped, *fields)
    if is_library(source):
        module, rest = library(source)
        yield from module.read(rest, wanted)
        return
    if is_aligned(source):
        if wanted.where:
            raise UserError(
                f"the source of {pair!r} has `where`, which would shift one of two aligned files against the other",
                file=" and ".join(source),
                remedy="leave it out",
            )
        first, second = (named_file(name, "config.data.parallel") for name in source)
        yield from aligned.read(first, second, wanted, TEXT_FORMATS)
        return
    for file in files(source, PAIR_ENDINGS):
        yield from PAIR_FORMATS[ending(file)](file, wanted)


def is_aligned(source: Any) -> bool:
    """Return whether a source of parallel text is two aligned files."""
    return (
        not isinstance(source, str)
        and len(source) == 2
        and not any(ending(Path(name)) in PAIR_ENDINGS for name in source)
    )
