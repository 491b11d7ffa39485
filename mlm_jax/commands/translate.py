"""``mlm-jax translate``: lines in, translations out; or a synthetic corpus with its provenance."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from mlm_jax.common.errors import UserError
from mlm_jax.common.files import writing
from mlm_jax.common.lines import arriving, read_lines
from mlm_jax.inference.encoder import load
from mlm_jax.inference.synthetic import (
    Recipe,
    as_column,
    provenance,
    provenance_file,
    synthetic_pairs,
    write_provenance,
)
from mlm_jax.inference.translator import Search, load_translator


def translate_command(place: str | Path, *, target: str | Sequence[str], source: str | None = None, input: str = "-",
                      output: str = "-", search: Search | None = None) -> None:  # fmt: skip
    """Translate each line of a text into a line, in order; an empty line stays empty.

    Several languages are as many columns with tabs between them. With ``search.count`` > 1 each translation is a line
    ``number TAB score TAB text``, numbers of input lines from 1. Lines that are typed or piped in are answered as they
    come. What was cut short or left empty is counted on standard error.

    Args:
      place: a workdir or one of its checkpoints.
      target: language to translate into, or several.
      source: language of the text; None if the encoder makes no difference.
      input: a text file in UTF-8, a sentence a line; "-" is standard input.
      output: a text file, which appears when it is whole, or "-".
      search: how; None is by four beams.

    Raises:
      UserError: the model has no decoder or does not know a language; a file cannot be read or written.
    """
    search = search or Search()
    targets = (target,) if isinstance(target, str) else tuple(target)
    if not targets:
        raise UserError("no language to translate into was named", remedy="give --to LANGUAGE")
    if len(targets) > 1 and search.count > 1:
        raise UserError("--n-best is for translations into one language", remedy="name one language, or leave out --n-best")
    translator = load_translator(place)
    counts, row = Counter(lines=0), list[str]()
    with writing(output) as file, _counting("translating", read_lines(input)) as lines:
        found = translator.stream(arriving(lines, input), target_language=targets, source_language=source, search=search,
                                  counts=counts)  # fmt: skip
        for _, translation in found:
            if len(row) == 0:
                counts["lines"] += 1
                counts["empty"] += not translation.hypotheses
            row.append(as_column(translation.text))
            counts["with an empty translation"] += bool(translation.hypotheses) and not row[-1]
            counts["not ended within the length"] += bool(translation.hypotheses) and not translation.hypotheses[0].ended
            if search.count > 1:
                for hypothesis in translation.hypotheses:
                    print(counts["lines"], f"{hypothesis.score:.4f}", as_column(hypothesis.text), sep="\t", file=file)
            elif len(row) == len(targets):
                print(*row, sep="\t", file=file)
            if len(row) == len(targets):
                row.clear()
                file.flush()  # for whoever waits at the other end of a pipe
    _report(counts)


def synthesise_command(place: str | Path, recipe: Recipe, *, input: str = "-", output: str,
                       encoder: str | None = None) -> None:  # fmt: skip
    """Write a synthetic corpus as TSV pairs, and beside it (FILE.tsv.json) how it came about.

    Args:
      place: the translator's workdir or one of its checkpoints.
      recipe: what to make.
      input: monolingual text, a sentence a line; "-" is standard input.
      output: FILE.tsv, which appears when it is whole.
      encoder: workdir or checkpoint of the encoder that judges the pairs; None is the translator's own.

    Raises:
      UserError: as :func:`translate_command`; nothing was kept.
    """
    if output == "-" or not output.endswith(".tsv"):
        raise UserError("a synthetic corpus is a .tsv file", remedy="give --output FILE.tsv")
    translator = load_translator(place)
    judge = translator if encoder is None else load(encoder)
    counts = Counter(texts=0)
    with writing(output) as file, _counting("translating", read_lines(input)) as lines:
        for first, second in synthetic_pairs(translator, judge, lines, recipe, counts):
            print(first, second, sep="\t", file=file)
        if not counts["kept"]:
            raise UserError(f"no pair was kept ({_described(counts)})",
                            remedy="lower --margin, raise --length, or train the model longer")  # fmt: skip
    facts = provenance(translator, judge, recipe, counts, checkpoint=str(place), judge=str(encoder or place), text=input)
    write_provenance(output, facts)  # not sooner: it says how a corpus that is there was made
    _report(counts)
    print(f'config.data.parallel["{recipe.pair}"] = "{output}"  # {provenance_file(output)} says how it was made', file=sys.stderr)


@contextlib.contextmanager
def _counting(what: str, lines: Iterable[str]) -> Iterator[Iterator[str]]:
    """Show on a terminal how many lines have been taken."""
    columns = SpinnerColumn(), TextColumn("{task.description} {task.completed:,} lines"), BarColumn(), TimeElapsedColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)

        def counted() -> Iterator[str]:
            for line in lines:
                yield line
                progress.advance(task)

        yield counted()


def _described(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)


def _report(counts: Counter[str]) -> None:
    print(_described(counts), file=sys.stderr)
