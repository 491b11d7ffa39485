"""``mlm-jax fill-mask``."""

from __future__ import annotations

import argparse
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mlm_jax.commands.options import CHECKPOINT, LANGUAGE, path
from mlm_jax.common.errors import UserError, visible
from mlm_jax.common.lines import EMPTY, arriving, counting_empty, read_lines

ABOUT = "fill in the <mask> of each line of text"
EXAMPLE = 'runs/mine "Habari za <mask>" --language sw'
HINT = "; write -- before text that begins with a dash"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("checkpoint", type=path, help=CHECKPOINT)
    parser.add_argument(
        "text",
        nargs="*",
        help="text with <mask> (write -- before text that begins with a dash); by default standard input",
    )
    parser.add_argument("--behind", action="append", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--top", type=int, default=5, help="number of candidates for each mask")
    parser.add_argument("--language", help=LANGUAGE)


def arrange(arguments: list[str]) -> list[str]:
    """Turn texts after ``--`` into values of an option, because argparse does not find texts after both an option and ``--``."""
    if "--" not in arguments:
        return arguments
    index = arguments.index("--")
    return [*arguments[:index], *(f"--behind={text}" for text in arguments[index + 1 :])]


def take_rest(options: argparse.Namespace, rest: list[str]) -> bool:
    """Take texts that come after an option, where argparse does not look for them; return whether they are texts."""
    if any(argument.startswith("-") for argument in rest):
        return False
    options.text += rest
    return True


def run(options: argparse.Namespace) -> None:
    """Fill in the masks."""
    fill_mask_command(
        options.checkpoint, [*options.text, *options.behind], top_k=options.top, language=options.language
    )


def fill_mask_command(
    checkpoint: str | Path, texts: Sequence[str] = (), *, top_k: int = 5, language: str | None = None
) -> None:
    """Print the most probable pieces for each mask of each text, or of each line of standard input; an empty line stays empty.

    Empty lines are counted on standard error.

    Raises:
      UserError: as :func:`.load` and :meth:`.Model.fill_mask`; or a text is empty.
    """
    from mlm_jax.inference.encoder import MASK, load

    for number, text in enumerate(texts, start=1):
        if not text.strip():
            raise UserError(f"text {number} is empty", remedy=f"write {MASK} where a word is missing")
    model = load(checkpoint)
    read: deque[str] = deque()  # lines that a thread may have read ahead, in order

    def noted(lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            read.append(line)
            yield line

    counts: Counter[str] = Counter()
    lines = noted(texts) if texts else arriving(noted(counting_empty(read_lines("-"), counts)), "-")
    for blanks in model.fill_masks(lines, top_k=top_k, language=language):
        print(read.popleft())
        for number, candidates in enumerate(blanks, start=1):
            if len(blanks) > 1:
                print(f"  {MASK} {number}")
            for candidate in candidates:
                print(f"  {100 * candidate.probability:5.1f} %  {visible(candidate.token)}")
        sys.stdout.flush()  # whoever typed the line, or writes the next one, waits for the answer
    if counts[EMPTY]:
        model.warn_of_counts(counts)
