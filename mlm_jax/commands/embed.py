"""``mlm-jax embed``."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mlm_jax.commands.options import CHECKPOINT, LANGUAGE, STREAMS, path
from mlm_jax.common.errors import UserError
from mlm_jax.common.files import writing
from mlm_jax.common.lines import arriving, counting_empty, read_lines

if TYPE_CHECKING:
    import numpy as np

ABOUT = "turn each line of text into a sentence embedding"
EXAMPLE = "runs/mine --language sw --input sentences.txt --output vectors.npy"
HINT = STREAMS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("checkpoint", type=path, help=CHECKPOINT)
    parser.add_argument(
        "--input", type=path, default="-", help="text file with one sentence per line; - is standard input"
    )
    parser.add_argument(
        "--output", type=path, default="-", help="FILE.npy, or JSON lines to FILE.jsonl or standard output"
    )
    parser.add_argument("--language", help=LANGUAGE)


def run(options: argparse.Namespace) -> None:
    """Embed the lines."""
    embed_command(options.checkpoint, options.input, options.output, language=options.language)


def embed_command(checkpoint: str | Path, input: str = "-", output: str = "-", *, language: str | None = None) -> None:
    """Embed each line of a text file, as an array ``[lines, width]`` or as JSON lines.

    The numbers of cut texts and of empty lines go to standard error. An empty line gets the embedding of an empty text.

    Args:
      checkpoint: a workdir or one of its checkpoints.
      input: a text file in UTF-8 with one text per line; "-" is standard input.
      output: FILE.npy, FILE.jsonl, or "-". The file appears when it is complete.
      language: of the text.

    Raises:
      UserError: as :func:`.load` and :meth:`.Model.embed`; or a file cannot be read or written.
    """
    from mlm_jax.inference.encoder import load

    suffix = Path(output).suffix if output != "-" else ".jsonl"
    if suffix not in (".npy", ".jsonl"):
        raise UserError(
            "embeddings are written as .npy or .jsonl",
            file=output,
            remedy="let the name after --output end in one of them",
        )
    model, counts = load(checkpoint), Counter[str]()
    lines = arriving(counting_empty(read_lines(input), counts), input)
    embedded = model.embed_stream(lines, language=language, counts=counts)
    write = _write_npy if suffix == ".npy" else _write_json_lines
    with writing(output) as file:
        write(embedded, file.buffer, model.width)
    model.warn_of_counts(counts)


def _write_json_lines(embedded: Iterator[tuple[list[str], np.ndarray]], file: IO[bytes], width: int) -> None:
    for texts, embeddings in embedded:
        for text, vector in zip(texts, embeddings):
            line = {"text": text, "embedding": [float(f"{number:.7g}") for number in vector]}
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        file.flush()


def _write_npy(embedded: Iterator[tuple[list[str], np.ndarray]], file: IO[bytes], width: int) -> None:
    """Write an array whose length is known only at the end: NumPy's header has room for a larger number."""
    import numpy as np

    if not file.seekable():
        raise UserError(
            "a pipe cannot take .npy, whose first bytes say how many rows follow", remedy="write .jsonl, or to a file"
        )
    header = {"descr": "<f4", "fortran_order": False, "shape": (0, width)}
    np.lib.format.write_array_header_1_0(file, header)
    rows = 0
    for _, embeddings in embedded:
        file.write(np.ascontiguousarray(embeddings, "<f4").tobytes())
        rows += len(embeddings)
    file.seek(0)
    np.lib.format.write_array_header_1_0(file, {**header, "shape": (rows, width)})
