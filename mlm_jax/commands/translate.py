"""``mlm-jax translate``: lines in, translations out; or a synthetic parallel corpus with its provenance."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlm_jax.commands.options import CHECKPOINT, LANGUAGE, STREAMS, path
from mlm_jax.common.console import plain_console
from mlm_jax.common.errors import UserError
from mlm_jax.common.files import writing
from mlm_jax.common.lines import arriving, read_lines

if TYPE_CHECKING:
    from mlm_jax.inference.synthetic import Recipe
    from mlm_jax.inference.translator import Search

ABOUT = "translate each line of text, or write a synthetic parallel corpus"
EXAMPLE = "runs/mine --to de --from en < sentences.txt > translations.txt"
HINT = STREAMS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("checkpoint", type=path, help=CHECKPOINT)
    parser.add_argument(
        "--to", required=True, metavar="LANGUAGE", help="language to translate into; de,fr: both, a column each"
    )
    parser.add_argument("--from", dest="source", metavar="LANGUAGE", help=LANGUAGE)
    parser.add_argument(
        "--input", type=path, default="-", help="text file with one sentence per line; - is standard input"
    )
    parser.add_argument("--output", type=path, default="-", help="text file; standard output if not given")
    parser.add_argument("--beams", type=int, metavar="N", help="hypotheses kept at each position (4); 1 is greedy")
    parser.add_argument(
        "--n-best", type=int, default=1, metavar="N", help="write N lines NUMBER<tab>SCORE<tab>TEXT for each line"
    )
    parser.add_argument("--length-penalty", type=float, default=1.0, help="α of the score Σ log P / lengthᵅ")
    parser.add_argument(
        "--length", type=int, default=0, help="most tokens of a translation; by default about twice the text's"
    )
    parser.add_argument("--temperature", type=float, default=0.0, help="above 0: sample instead of searching")
    parser.add_argument("--top-k", type=int, default=0, help="sample among the K likeliest pieces")
    parser.add_argument("--top-p", type=float, default=1.0, help="sample among the likeliest pieces of this share")
    parser.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="piece of the vocabulary that also ends a translation, and stays in it; repeatable",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of sampling")
    parser.add_argument(
        "--synthetic",
        choices=("back", "forward"),
        help="write a parallel corpus: back puts the translation first and tags it",
    )
    parser.add_argument(
        "--margin", type=float, default=1.0, help="lowest ratio margin of a synthetic pair; 0 keeps all"
    )
    parser.add_argument(
        "--encoder",
        type=path,
        help="checkpoint whose sentence embeddings judge synthetic pairs; by default the model's own",
    )
    parser.add_argument("--tag", default="<BT>", help="put before back-translations")


def run(options: argparse.Namespace) -> None:
    """Translate the lines, or write a synthetic corpus."""
    from mlm_jax.inference.synthetic import Recipe
    from mlm_jax.inference.translator import Search

    if options.beams is not None and options.temperature:
        raise UserError(
            "a translation is sampled (--temperature) or searched for (--beams)", remedy="leave out one of them"
        )
    search = Search(
        4 if options.beams is None else options.beams,
        options.n_best,
        options.length_penalty,
        options.temperature,
        options.top_k,
        options.top_p,
        options.seed,
        options.length,
        tuple(options.stop),
    )
    targets = [code.strip() for code in options.to.split(",") if code.strip()]
    if options.synthetic:
        if len(targets) != 1:
            raise UserError("a synthetic corpus has one pair of languages", remedy="name one language after --to")
        recipe = Recipe(options.synthetic, options.source, targets[0], search, options.margin, options.tag)
        synthesise_command(
            options.checkpoint, recipe, input=options.input, output=options.output, encoder=options.encoder
        )
    else:
        translate_command(
            options.checkpoint,
            target=targets,
            source=options.source,
            input=options.input,
            output=options.output,
            search=search,
        )


def translate_command(
    checkpoint: str | Path,
    *,
    target: str | Sequence[str],
    source: str | None = None,
    input: str = "-",
    output: str = "-",
    search: Search | None = None,
) -> None:
    """Translate each line of a text into a line, in order; an empty line stays empty.

    Several languages become columns with tabs between them. With ``search.count`` > 1 each translation is a line
    ``number TAB score TAB text``, where input lines are numbered from 1. Lines that are typed or piped in are answered as they
    come. The numbers of cut and of empty translations go to standard error.

    Args:
      checkpoint: a workdir or one of its checkpoints.
      target: language to translate into, or several.
      source: language of the text; None if the encoder does not depend on the language.
      input: a text file in UTF-8 with one sentence per line; "-" is standard input.
      output: a text file, which appears when it is complete, or "-".
      search: how translations are searched for; None is with four beams.

    Raises:
      UserError: the model has no decoder or does not know a language; a file cannot be read or written.
    """
    from mlm_jax.inference.synthetic import as_column
    from mlm_jax.inference.translator import Search, load_translator

    search = search or Search()
    targets = (target,) if isinstance(target, str) else tuple(target)
    if not targets:
        raise UserError("no language to translate into was named", remedy="give --to LANGUAGE")
    if len(targets) > 1 and search.count > 1:
        raise UserError(
            "--n-best is for translations into one language", remedy="name one language, or leave out --n-best"
        )
    translator = load_translator(checkpoint)
    counts, row = Counter(lines=0), list[str]()
    with writing(output) as file, _counting("translating", read_lines(input)) as lines:
        found = translator.stream(
            arriving(lines, input), target_language=targets, source_language=source, search=search, counts=counts
        )
        for _, translation in found:
            if len(row) == 0:
                counts["lines"] += 1
                counts["empty"] += not translation.hypotheses
            row.append(as_column(translation.text))
            counts["with an empty translation"] += bool(translation.hypotheses) and not row[-1]
            counts["not ended within the length"] += (
                bool(translation.hypotheses) and not translation.hypotheses[0].ended
            )
            if search.count > 1:
                for hypothesis in translation.hypotheses:
                    print(counts["lines"], f"{hypothesis.score:.4f}", as_column(hypothesis.text), sep="\t", file=file)
            elif len(row) == len(targets):
                print(*row, sep="\t", file=file)
            if len(row) == len(targets):
                row.clear()
                file.flush()  # for whoever waits at the other end of a pipe
    _report(counts)


def synthesise_command(
    checkpoint: str | Path, recipe: Recipe, *, input: str = "-", output: str, encoder: str | None = None
) -> None:
    """Write a synthetic corpus as TSV pairs, and its provenance beside it (FILE.tsv.json).

    Args:
      checkpoint: the translator's workdir or one of its checkpoints.
      recipe: the corpus to make.
      input: monolingual text with one sentence per line; "-" is standard input.
      output: FILE.tsv, which appears when it is complete.
      encoder: workdir or checkpoint of the encoder that judges the pairs; None is the translator's own.

    Raises:
      UserError: as :func:`translate_command`, or no pair was kept.
    """
    from mlm_jax.inference.encoder import load
    from mlm_jax.inference.synthetic import provenance, provenance_file, synthetic_pairs, write_provenance
    from mlm_jax.inference.translator import load_translator

    if output == "-" or not output.endswith(".tsv"):
        raise UserError("a synthetic corpus is a .tsv file", remedy="give --output FILE.tsv")
    translator = load_translator(checkpoint)
    judge = translator if encoder is None else load(encoder)
    counts = Counter(texts=0)
    with writing(output) as file, _counting("translating", read_lines(input)) as lines:
        for first, second in synthetic_pairs(translator, judge, lines, recipe, counts):
            print(first, second, sep="\t", file=file)
        if not counts["kept"]:
            raise UserError(
                f"no pair was kept ({_described(counts)})",
                remedy="lower --margin, raise --length, or train the model longer",
            )
    facts = provenance(
        translator, judge, recipe, counts, checkpoint=str(checkpoint), judge=str(encoder or checkpoint), text=input
    )
    write_provenance(output, facts)  # after the corpus itself: provenance must describe a file that exists
    _report(counts)
    print(
        f'config.data.parallel["{recipe.pair}"] = "{output}"  # {provenance_file(output)} says how it was made',
        file=sys.stderr,
    )


@contextlib.contextmanager
def _counting(what: str, lines: Iterable[str]) -> Iterator[Iterator[str]]:
    """Show on a terminal how many lines have been taken."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description} {task.completed:,} lines"),
        BarColumn(),
        TimeElapsedColumn(),
    )
    console = plain_console(stderr=True)
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
