"""Readers: text and parallel text out of files, Python functions and data set libraries, one document at a time.

What a config may say of a corpus (``config.data.corpora``, ``parallel``, ``validation``):

- a glob, or a tuple of globs, over .txt (a document a line) and .jsonl ("text"), each also .gz or .zst, and .parquet ("text");
- of parallel text: a glob over .tsv (two columns) and .tmx, also .gz or .zst, or a pair (file of one side, file of the other);
- ``"module:function"``: called as function(language or pair, split), yields documents or (source, target);
- ``"tfds:name"``: a TensorFlow Datasets text set; ``"datasets:folder"``: a Hugging Face data set saved to disk.
"""

from __future__ import annotations

import contextlib
import glob
import gzip
import importlib
import io
import json
import zlib
from collections.abc import Collection, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from mlm_jax.common.errors import UserError, nearest, one_line
from mlm_jax.config.check import several
from mlm_jax.data.text.languages import split_pair

TEXT_ENDINGS = (".txt", ".jsonl", ".parquet")
PAIR_ENDINGS = (".tsv", ".tmx")
PACKINGS = (".gz", ".zst")
BLANK = "a blank line, or no text"  # why a document is left out
DAMAGED = (OSError, EOFError, zlib.error)  # what reading or unpacking a file raises


def documents(source: Any, language: str, split: str) -> Iterator[str]:
    """Yield the documents of a corpus; those of nothing but white space too, for the caller to count.

    Args:
      source: what the config says of the corpus.
      language: its language.
      split: train | validation; only functions and data set libraries look at it.

    Raises:
      UserError: a file is missing, of an unknown kind, not UTF-8 or malformed; the message has file and line.
    """
    if is_library(source):
        yield from _from_library(source, language, split)
        return
    for file in files(source, TEXT_ENDINGS):
        kind = ending(file)
        reader = {".txt": lines, ".jsonl": _jsonl, ".parquet": _parquet}[kind]
        yield from reader(file)


def sentence_pairs(source: Any, pair: str, split: str, languages: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Yield the sentence pairs of a parallel corpus; an empty side comes as "", and so does one that a TMX unit lacks,
    for the caller to count.

    Args:
      source: what the config says of the corpus.
      pair: its languages, such as "de-en".
      split: train | validation.
      languages: codes that the two may be, where some hold hyphens.

    Raises:
      UserError: as :func:`documents`, the name is not two languages, or the two files of aligned lines are not equally long.
    """
    sides = split_pair(pair, languages)
    if is_library(source):
        yield from _from_library(source, pair, split, sides)
        return
    if is_aligned(source):
        yield from _aligned(Path(source[0]), Path(source[1]))
        return
    for file in files(source, PAIR_ENDINGS):
        yield from _tsv(file) if ending(file) == ".tsv" else _tmx(file, sides)


def is_library(source: Any) -> bool:
    """Return whether a source is ``"module:function"``, ``"tfds:…"`` or ``"datasets:…"``."""
    return isinstance(source, str) and ":" in source and not Path(source).exists()


def is_aligned(source: Any) -> bool:
    """Return whether a source of parallel text is two files of aligned lines."""
    return (
        not isinstance(source, str)
        and len(source) == 2
        and not any(ending(Path(name)) in PAIR_ENDINGS for name in source)
    )


def files(source: Any, endings: tuple[str, ...]) -> list[Path]:
    """Return the files of a glob or of several, sorted.

    Raises:
      UserError: nothing matches, or a file is of an unknown kind or a folder.
    """
    found = matches(source)
    for file in found:
        if file.is_dir():
            raise UserError("this is a folder", file=file, remedy=f"write {file}/*{endings[0]}")
        if ending(file) not in endings:
            raise UserError(f"cannot read a file that ends in {''.join(file.suffixes[-2:])!r}", file=file,
                            remedy=f"use {', '.join(endings)}, plain or with {' or '.join(PACKINGS)}")  # fmt: skip
    return found


def matches(source: Any) -> list[Path]:
    """Return what a glob, or each of several in turn, matches, sorted.

    Raises:
      UserError: one matches nothing.
    """
    found: list[Path] = []
    for pattern in several(source):
        names = _names(pattern)
        if not names:
            raise UserError(f"no file matches {pattern!r}", remedy=f"check the path in config.data, which begins at {Path.cwd()}")
        found += sorted(map(Path, names))
    return found


def _names(pattern: str) -> list[str]:
    return glob.glob(str(Path(pattern).expanduser()), recursive=True)


def fingerprint(source: Any) -> list:
    """Return what changes when a corpus changes: path, size and time of each file, or the function's name."""
    if is_library(source):
        return [source]
    names = sorted(name for pattern in several(source) for name in _names(pattern))
    return [[name, Path(name).stat().st_size, Path(name).stat().st_mtime_ns] for name in names]


def shown(source: Any) -> str | None:
    """Return a source as a message names it: the function, or the globs one after another."""
    return source if source is None or isinstance(source, str) else ", ".join(source)


def ending(file: Path) -> str:
    """Return ".txt" for both ``a.txt`` and ``a.txt.gz``."""
    suffixes = file.suffixes
    return suffixes[-2] if len(suffixes) > 1 and suffixes[-1] in PACKINGS else file.suffix


def lines(file: Path) -> Generator[str, None, None]:
    """Yield a file's lines without their ends, and without a byte order mark before the first.

    Raises:
      UserError: the file cannot be read or unpacked, or a line is not UTF-8.
    """
    number = 0
    try:
        with _open(file) as stream:
            for line in stream:
                number += 1
                yield line.decode("utf-8" if number > 1 else "utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(f"this is not UTF-8 (byte {error.start + 1} of the line)", file=file, line=number,
                        remedy="convert the file, for example with iconv") from error  # fmt: skip
    except DAMAGED as error:
        raise _unreadable(error, file, number + 1) from error


def _unreadable(error: Exception, file: Path, line: int | None = None) -> UserError:
    problem = f"cannot read it: {one_line(error)}"
    return UserError(problem, file=file, line=line, remedy="fetch or pack the file again")


def _open(file: Path) -> BinaryIO:
    if file.suffix == ".gz":
        return gzip.open(file)  # type: ignore[return-value]
    if file.suffix == ".zst":
        import pyarrow as pa  # which, unlike zstandard's reader, says so where a file was cut short

        return io.BufferedReader(pa.input_stream(file, compression="zstd"))
    return file.open("rb")


def _jsonl(file: Path) -> Iterator[str]:
    for number, line in enumerate(lines(file), 1):
        if not line.strip():
            yield ""
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:  # an endless number is only a ValueError
            raise UserError(f"this is not JSON: {getattr(error, 'msg', error)}", file=file, line=number,
                            remedy="write one JSON object a line") from error  # fmt: skip
        if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
            found = {key: type(value).__name__ for key, value in entry.items()} if isinstance(entry, dict) else type(entry).__name__
            raise UserError(f'no string "text" here, only {found}', file=file, line=number, remedy='name the field "text"')
        try:
            entry["text"].encode()
        except UnicodeEncodeError as error:
            raise UserError(f"character {error.start + 1} of the text is half of a surrogate pair", file=file, line=number,
                            remedy="leave the line out, or mend what cut the text there") from error  # fmt: skip
        yield entry["text"]


def _parquet(file: Path) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if file.suffix in PACKINGS:
        raise UserError("Parquet files are compressed inside", file=file, remedy="unpack it")
    try:
        table = pq.ParquetFile(file)
        names = table.schema_arrow.names
        if "text" not in names:
            raise UserError(f'no column "text", only {", ".join(names)}', file=file, remedy='name the column "text"')
        row = 0
        for batch in table.iter_batches(batch_size=1024, columns=["text"]):
            for value in batch.column(0).to_pylist():
                row += 1
                if not isinstance(value, str):
                    raise UserError(f"row {row}: the text is {value!r}", file=file, remedy="leave such rows out")
                yield value
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"this is not a whole Parquet file: {one_line(error)}", file=file,
                        remedy="fetch or write the file again") from error  # fmt: skip


def _tsv(file: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines(file), 1):
        columns = line.split("\t") if line.strip() else ["", ""]
        if len(columns) != 2:
            raise UserError(f"{len(columns)} columns where a pair has 2", file=file, line=number,
                            remedy="separate the two sides by one tab")  # fmt: skip
        yield columns[0], columns[1]


def _aligned(first: Path, second: Path) -> Iterator[tuple[str, str]]:
    for file in (first, second):
        if not file.is_file():
            raise UserError("there is no such file", file=file, remedy="check config.data.parallel")
    missing = object()
    with contextlib.closing(lines(first)) as a, contextlib.closing(lines(second)) as b:
        number = 0
        while True:
            number += 1
            left, right = next(a, missing), next(b, missing)
            if left is missing and right is missing:
                return
            if left is missing or right is missing:
                shorter, longer = (first, second) if left is missing else (second, first)
                raise UserError(f"the file ends where {longer} has line {number}: the two are not aligned",
                                file=shorter, line=number, remedy="align them line by line")  # fmt: skip
            yield left, right  # type: ignore[misc]


def _tmx(file: Path, sides: tuple[str, str]) -> Iterator[tuple[str, str]]:
    from xml.etree import ElementTree

    plain = lambda code: code.casefold().replace("_", "-")  # noqa: E731
    wanted = [plain(code) for code in sides]
    lang = "{http://www.w3.org/XML/1998/namespace}lang"
    found: dict[str, None] = {}
    whole = 0
    try:
        with _open(file) as stream:
            above = None
            for event, unit in ElementTree.iterparse(stream, ("start", "end")):
                name = unit.tag.rpartition("}")[2]
                above = unit if (event, name) == ("start", "body") else above
                if (event, name) != ("end", "tu"):
                    continue
                texts = {}
                for variant in unit.iterfind("{*}tuv"):
                    segment = variant.find("{*}seg")
                    text = " ".join("".join(segment.itertext()).split()) if segment is not None else ""
                    texts[plain(variant.get(lang) or variant.get("lang") or "")] = text
                (unit if above is None else above).clear()  # and not only its parts: a million empty units are 100 MB
                found |= dict.fromkeys(texts)
                texts[""] = ""  # of a language that the unit lacks
                first, second = (_code_of(language, texts) for language in wanted)
                second = "" if second == first else second  # a unit's only English is not both en-US and en-GB
                whole += bool(first and second)
                yield texts[first], texts[second]
    except ElementTree.ParseError as error:
        raise UserError(f"this is not TMX: {error.msg}", file=file, line=error.position[0],
                        remedy="mend the file, for example with xmllint") from error  # fmt: skip
    except (LookupError, ValueError) as error:
        raise UserError(f"this is not TMX: {error}", file=file, remedy="write it in UTF-8") from error
    except DAMAGED as error:
        raise _unreadable(error, file) from error
    if found and not whole:
        codes = ", ".join(map(repr, found))
        raise UserError(f"no unit has both {wanted[0]!r} and {wanted[1]!r}, the file's codes are {codes}", file=file,
                        remedy="name the pair by them in config.data.parallel")  # fmt: skip


def _code_of(language: str, codes: Collection[str]) -> str:
    """Return which code means a language: the same in full, else one where either is the other's primary subtag, or ""."""
    primary = lambda code: code.partition("-")[0]  # noqa: E731
    near = (code for code in codes if primary(code) == language or code == primary(language))
    return language if language in codes else next(near, "")


def _from_library(source: str, name: str, split: str, sides: tuple[str, ...] = ()) -> Iterator[Any]:
    scheme, _, rest = source.partition(":")
    if scheme == "tfds":
        yield from _tfds(rest, sides, split)
    elif scheme == "datasets":
        yield from _datasets(rest, sides, split)
    else:
        yield from corpus_function(source)(name, split)


def corpus_function(source: str) -> Any:
    """Return the function that ``"module:function"`` names.

    Raises:
      UserError: there is no such module or function.
    """
    module_name, _, function_name = source.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"cannot import {module_name!r} of {source!r}: {error}", remedy="check config.data") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        known = [key for key in vars(module) if not key.startswith("_")]
        raise UserError(f"module {module_name!r} has no function {function_name!r}{nearest(function_name, known)}",
                        remedy="name a function of a file that Python imports, such as my_text.py for 'my_text:function'"
                        )  # fmt: skip
    return function


def _tfds(name: str, sides: tuple[str, ...], split: str) -> Iterator[Any]:
    import tensorflow_datasets as tfds

    try:
        data = tfds.data_source(name, split=split, download=False)
    except Exception as error:  # the library raises many kinds, all of them about what the user named
        raise UserError(
            f"tfds:{name}: {one_line(error)}", remedy="prepare the set with tfds first"
        ) from error
    for entry in data:
        yield _entry(entry, f"tfds:{name}", sides)


def _datasets(folder: str, sides: tuple[str, ...], split: str) -> Iterator[Any]:
    try:
        import datasets
    except ImportError as error:
        raise UserError("Hugging Face datasets is not installed", remedy="pip install 'mlm_jax[datasets]'") from error
    try:
        data = datasets.load_from_disk(folder)
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"no data set saved here: {one_line(error)}", file=folder,
                        remedy="save it with datasets' save_to_disk") from error  # fmt: skip
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise UserError(f"the data set has no split {split!r}{nearest(split, data)}", file=folder)
        data = data[split]
    for entry in data:
        yield _entry(entry, folder, sides)


def _entry(entry: dict, place: str, sides: tuple[str, ...]) -> Any:
    """Return the text, or the two sides of a pair if it is to be one, of one example of a data set library."""
    to_text = lambda value: value.decode() if isinstance(value, bytes) else value  # noqa: E731
    if sides:
        texts = entry.get("translation", entry)
        first, second = sides
        if first in texts and second in texts:
            return to_text(texts[first]), to_text(texts[second])
        raise UserError(f"an example has no sides {first!r} and {second!r}, only {', '.join(texts)}", file=place,
                        remedy="rename its languages to those of the pair")  # fmt: skip
    if "text" not in entry:
        raise UserError(f'an example has no "text", only {", ".join(entry)}', file=place, remedy='rename its column to "text"')
    return to_text(entry["text"])
