"""Read text and parallel text from files, Python functions and data set libraries, one document at a time.

Sources that a config may name in ``config.data.corpora``, ``parallel`` and ``validation``:

- a glob, or a tuple of globs, of .txt (one document per line), .jsonl (field "text"), both also .gz or .zst, and .parquet (column
  "text") files;
- for parallel text: a glob of .tsv (two columns) and .tmx, both also .gz or .zst, and .zip (OPUS, Moses) files; or a pair (file of
  one side, file of the other side) of lines or of any text format;
- ``"module:function"``: a function that is called with (language or pair, split) and yields documents or (source, target);
- ``"tfds:name"``: a data set of TensorFlow Datasets; ``"datasets:folder"``: a Hugging Face data set that was saved to disk.

A new format is one module in ``formats`` and one row of the tables below; a new library is one module in ``libraries`` and one row
of ``sources.LIBRARIES``.
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
    """The field that holds a document's text, and values that other fields must have; see :class:`.Wanted`."""

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
    """Yield the documents of a corpus, including blank ones, which the caller counts.

    Args:
      source: source of the corpus in the config.
      language: language of the corpus.
      split: train | validation; only functions and data set libraries use it.
      most_bytes: most bytes of a document.
      skipped: {reason: number of examples left out}, added to.
      fields: fields to read, for formats with fields.

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
    """Yield the sentence pairs of a parallel corpus. An empty or missing side is "", which the caller counts.

    Args:
      source: source of the corpus in the config.
      pair: its languages, such as "de-en".
      split: train | validation.
      languages: known codes, needed if codes contain hyphens.
      most_bytes: most bytes of a side, a line or a unit.
      skipped: {reason: number of examples left out}, added to.
      fields: fields to read, for two aligned files in a format with fields.

    Raises:
      UserError: as :func:`documents`, the name is not that of two languages, or two aligned files have different lengths.
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
                f"the source of {pair!r} has `where`, which would leave lines out of one of two aligned files",
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
