"""``mlm-jax align``."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlm_jax.commands.options import CHECKPOINT, PAIR, path
from mlm_jax.common.errors import UserError
from mlm_jax.common.files import writing
from mlm_jax.common.lines import read_lines, windows

if TYPE_CHECKING:
    from mlm_jax.evaluation.alignment import Alignment, Link

ABOUT = "align the words of a text with those of its translation"
EXAMPLE = "runs/mine source.txt target.txt --languages en-de --draw alignment.svg"
DRAWN = 8  # sentence pairs in a drawing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("checkpoint", type=path, help=f"{CHECKPOINT}, with cross-lingual attention")
    parser.add_argument("source", type=path, help="text file with one sentence per line")
    parser.add_argument("target", type=path, help="translation of the text, line by line")
    parser.add_argument("--languages", metavar="SOURCE-TARGET", help=PAIR)
    parser.add_argument(
        "--gold", type=path, default="", help="file of gold links, such as 0-0 1p2, for the alignment error rate"
    )
    parser.add_argument(
        "--draw", type=path, default="", metavar="FILE.svg", help="picture of the first sentences' attention"
    )


def run(options: argparse.Namespace) -> None:
    """Align the two texts."""
    align_command(
        options.checkpoint,
        options.source,
        options.target,
        languages=options.languages,
        gold=options.gold,
        draw=options.draw,
    )


def align_command(
    checkpoint: str | Path, source: str, target: str, *, languages: str | None = None, gold: str = "", draw: str = ""
) -> None:
    """Print the links of each line's words, "0-0 1-2" for source-target (Pharaoh's format), and AER against gold links.

    Args:
      checkpoint: a workdir or one of its checkpoints.
      source: a text file, a sentence a line.
      target: the translation of the text, line by line.
      languages: the languages of the two texts, such as "de-en"; None if the model does not depend on the language.
      gold: a file of lines such as "0-0 1p2" (p: possible only); the alignment error rate goes to standard error.
      draw: FILE.svg for a picture of the first pairs' attention.

    Raises:
      UserError: a file cannot be read or written, the files (also that of gold links) have different numbers of lines, a gold link
        names a word that does not exist, or as :func:`.load_aligner`.
    """
    from mlm_jax.evaluation.alignment import alignment_error_rate, draw_alignments
    from mlm_jax.inference.aligner import EMPTY, load_aligner
    from mlm_jax.inference.miner import pair_codes

    if draw and Path(draw).suffix != ".svg":
        raise UserError("alignments are drawn as .svg", file=draw, remedy="let the name after --draw end in .svg")
    links = list(_gold(gold)) if gold else []
    model, counts = load_aligner(checkpoint), Counter[str]()
    codes = pair_codes(languages, model)
    found: list[list[Link]] = []
    drawn: list[Alignment] = []
    sides = [(source, read_lines(source)), (target, read_lines(target)), *([(gold, links)] if gold else [])]
    for lines in _windows(sides):
        first, second = list(zip(*lines))[:2]
        aligned = model.align_window(first, second, codes[0], codes[1], counts)
        if gold:
            _check_links(gold, len(found) + 1, lines, aligned)
        for alignment in aligned:
            counts[EMPTY] += not (alignment.source and alignment.target)
            print(" ".join(f"{i}-{j}" for i, j in alignment.links))
            found.append(alignment.links)
            drawn += [alignment] if draw and len(drawn) < DRAWN else []
    if draw:
        with writing(draw) as file:
            file.write(draw_alignments(drawn))
    model.warn_of_counts(counts)
    if counts[EMPTY]:
        print(f"{counts[EMPTY]:,} {EMPTY}", file=sys.stderr)
    if gold:
        sure, possible = [entry[0] for entry in links], [entry[1] for entry in links]
        print(f"alignment error rate {100 * alignment_error_rate(found, sure, possible):.1f} %", file=sys.stderr)


def _windows(sides: Sequence[tuple[str, Iterable[Any]]], size: int = 1024) -> Iterator[list[tuple[Any, ...]]]:
    """Yield batches of tuples of the same line of several (file, lines)."""
    together = enumerate(itertools.zip_longest(*(lines for _, lines in sides)), start=1)
    for window in windows(together, size):
        for number, entries in window:
            for (file, _), entry in zip(sides, entries):
                if entry is None:
                    raise UserError(
                        f"the file ends before line {number}, which the other one has",
                        file=file,
                        remedy="give files with equal numbers of lines",
                    )
        yield [entries for _, entries in window]


def _check_links(gold: str, first: int, lines: Sequence[tuple[Any, ...]], aligned: Sequence[Alignment]) -> None:
    """Check that the words of gold links exist, by any way of counting words; ``first`` is the number of the first line."""
    for number, ((*texts, (_, possible)), alignment) in enumerate(zip(lines, aligned), start=first):
        # A text that was cut has fewer words to the model, and one without spaces between words has more.
        sizes = [max(len(text.split()), len(words)) for text, words in zip(texts, alignment[:2])]
        for i, j in sorted(possible):
            if i >= sizes[0] or j >= sizes[1]:
                raise UserError(
                    f"the link {i}-{j} names a word that does not exist: the texts have {sizes[0]} and {sizes[1]}",
                    file=gold,
                    line=number,
                    remedy="count words from 0",
                )


def _gold(file: str) -> Iterator[tuple[set[Link], set[Link]]]:
    from mlm_jax.evaluation.alignment import read_links

    for number, line in enumerate(read_lines(file), start=1):
        try:
            yield read_links(line)
        except ValueError as error:
            raise UserError(str(error), file=file, line=number) from error
