"""``mlm-jax classify``."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mlm_jax.commands.options import CHECKPOINT, LANGUAGE, STREAMS, path
from mlm_jax.common.errors import UserError
from mlm_jax.common.files import writing
from mlm_jax.common.lines import arriving, counting_empty, input_name, read_lines, windows

if TYPE_CHECKING:
    from mlm_jax.inference.classifier import Classifier

ABOUT = "predict the class or classes of each line of text, a number, or the label of each of its words"
EXAMPLE = "runs/mine --language sw --input sentences.txt --output classes.tsv"
HINT = STREAMS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("checkpoint", type=path, help=CHECKPOINT)
    parser.add_argument("--task", default="", help="task whose classifier to use, if there are several")
    parser.add_argument(
        "--input",
        type=path,
        default="-",
        help="text file with one text per line, or two (question and text) with a tab between; - is standard input",
    )
    parser.add_argument(
        "--output",
        type=path,
        default="-",
        help="file of CLASS<tab>PROBABILITY<tab>LINE, NUMBER<tab>LINE or WORD<tab>TAG",
    )
    parser.add_argument("--language", help=LANGUAGE)
    parser.add_argument(
        "--no-answer",
        nargs="?",
        type=float,
        const=0.0,
        metavar="MARGIN",
        help="margin by which 'no answer' must score above the best answer for an empty answer (0)",
    )


def run(options: argparse.Namespace) -> None:
    """Classify the lines."""
    classify_command(
        options.checkpoint,
        options.task,
        options.input,
        options.output,
        language=options.language,
        no_answer=options.no_answer,
    )


def classify_command(
    checkpoint: str | Path,
    task: str = "",
    input: str = "-",
    output: str = "-",
    *,
    language: str | None = None,
    no_answer: float | None = None,
) -> None:
    """Write the class of each line, its probability and the line as TSV, or of each word of it (CoNLL: a word a line).

    Several classes, and their probabilities, are joined by commas. If the task predicts a number, only the number comes before
    the line. If it answers questions, the answer is printed instead of the class.

    An empty line stays empty. Empty lines and texts that were cut are counted on standard error.

    Args:
      checkpoint: a workdir or one of its checkpoints.
      task: the task whose head is used; "" if there is only one.
      input: a text file in UTF-8 with one text per line, or two with a tab between. Words to tag have spaces between them. "-" is
        standard input.
      output: a text file, or "-".
      language: of the text.
      no_answer: as in :meth:`.Classifier.answers`.

    Raises:
      UserError: ``no_answer`` is given for a task that does not answer questions; as :func:`.load_classifier` and
        :meth:`.Classifier.classify`; a line is neither a text nor two; or a file cannot be read or written.
    """
    from mlm_jax.inference.classifier import load_classifier
    from mlm_jax.inference.encoder import WINDOW

    model, counts, read = load_classifier(checkpoint, task), Counter[str](), 0
    if no_answer is not None and model.kind != "questions":
        raise UserError(f"--no-answer is for questions, which task {model.task!r} does not answer")
    with writing(output) as file:
        for lines in windows(arriving(counting_empty(read_lines(input), counts), input), WINDOW):
            file.writelines(
                _tagged(model, lines, language, counts)
                if model.by_word and model.kind == "labelled"
                else _classified(model, lines, language, counts, input_name(input), read + 1, no_answer)
            )
            file.flush()
            read += len(lines)
    model.warn_of_counts(counts)


def _tagged(model: Classifier, lines: list[str], language: str | None, counts: Counter[str]) -> Iterator[str]:
    # Any other white space is part of a word, as in CoNLL.
    sentences = [line.replace("\t", " ").split(" ") for line in lines]
    sentences = [[word for word in words if word] for words in sentences]
    for words, found in zip(sentences, model._tag(sentences, language, counts)):
        yield from (f"{word}\t{one.label or 'O'}\n" for word, one in zip(words, found))
        yield "\n"


def _classified(
    model: Classifier,
    lines: list[str],
    language: str | None,
    counts: Counter[str],
    file: str,
    first: int,
    no_answer: float | None,
) -> Iterator[str]:
    """Yield the lines of output for lines of a file; ``first`` is the number of the first line."""
    texts = [_text(line, file, number) for number, line in enumerate(lines, first) if line.strip()]
    if model.kind == "questions" and not all(isinstance(text, tuple) for text in texts):
        number = next(number for number, line in enumerate(lines, first) if line.strip() and "\t" not in line)
        raise UserError(
            "a question without its text", file=file, line=number, remedy="write both on the line, with a tab between"
        )
    found = iter(_columns(model, texts, language, counts, no_answer))
    for line in lines:
        yield f"{next(found)}\t{line}\n" if line.strip() else "\n"


def _columns(
    model: Classifier,
    texts: list[str | tuple[str, str]],
    language: str | None,
    counts: Counter[str],
    no_answer: float | None,
) -> list[str]:
    """Return the output before each line: its class and probability, or its number."""
    if model.kind == "scored":
        return [f"{number:.4f}" for number in model._scores(texts, language, counts)]
    if model.kind == "questions":
        answers = model.answers(texts, language=language, no_answer=no_answer)  # type: ignore[arg-type]
        return [f"{one.text}\t{one.probability:.4f}" for one in answers]
    if model.kind == "multilabelled":
        several = model._classes(texts, language, counts)
    else:
        several = [(one,) for one in model._classify(texts, language, counts)]
    return [
        ",".join(one.label for one in found) + "\t" + ",".join(f"{one.probability:.4f}" for one in found)
        for found in several
    ]


def _text(line: str, file: str, number: int) -> str | tuple[str, str]:
    """Return the text on a line, or the two."""
    first, *others = line.split("\t")
    if len(others) > 1:
        raise UserError(
            f"{len(others) + 1} columns; a text has 1 and a pair 2",
            file=file,
            line=number,
            remedy="take out the tabs",
        )
    if others and not (first.strip() and others[0].strip()):
        raise UserError("a side of the pair is empty", file=file, line=number, remedy="leave the line out, or the tab")
    return (first, others[0]) if others else first
