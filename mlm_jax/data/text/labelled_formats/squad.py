"""``squad``: questions whose answers are spans of a text: JSON of SQuAD 1.1 and 2.0, XQuAD, MLQA and TyDi QA's GoldP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlm_jax.common.errors import UserError
from mlm_jax.common.foreign_files import check_file, parse_json
from mlm_jax.data.text.labelled_formats.example import Answer, Asked, Example, Question
from mlm_jax.data.text.reading import BLANK, checked_text

MOST_BYTES = 250_000_000  # of a file, which is in memory as a whole; SQuAD's training file has 30 million
ELSEWHERE = "the answer does not stand in the text"
REMEDY = 'see SQuAD\'s files: {"data": [{"paragraphs": [{"context", "qas": [{"id", "question", "answers"}]}]}]}'


def read(file: Path, asked: Asked) -> Iterator[tuple[None, Example]]:
    """Yield (None, example) of each question, with its text and answers.

    If an answer is not at the position that the file gives, its nearest occurrence in the text is used. Answers that do not occur
    in the text are left out; a question that loses all its answers is left out and counted. A question without answers is
    unanswerable.

    Raises:
      UserError: the file is not of this form; the message has the path inside the file.
    """
    check_file(file, MOST_BYTES)
    for where, paragraph in _paragraphs(parse_json(file.read_bytes(), file), file):
        context = checked_text(paragraph.get("context"), asked.most_bytes, file, where=f"{where}.context")
        for number, entry in enumerate(_list(paragraph, "qas", where, file)):
            path = f"{where}.qas[{number}]"
            if not isinstance(entry, dict):
                raise UserError(f"{path} is not an object", file=file, remedy=REMEDY)
            question = checked_text(entry.get("question"), asked.most_bytes, file, where=f"{path}.question")
            if not (question.strip() and context.strip()):
                asked.skipped[BLANK] += 1
                continue
            given = [] if entry.get("is_impossible") is True else _list(entry, "answers", path, file)
            answers = [_answer(answer, f"{path}.answers", file) for answer in given]
            placed = tuple(found for answer in answers if (found := _placed(answer, context)))
            asked.skipped[ELSEWHERE] += len(placed) < len(answers)
            if placed or not answers:
                name = str(entry.get("id", path))
                yield None, Example((question, context), (), Question(name, placed))


def _paragraphs(found: Any, file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (path, paragraph) of each paragraph of a file."""
    if not isinstance(found, dict):
        raise UserError("this is not an object", file=file, remedy=REMEDY)
    for number, article in enumerate(_list(found, "data", "the file", file)):
        for index, paragraph in enumerate(_list(article, "paragraphs", f"data[{number}]", file)):
            where = f"data[{number}].paragraphs[{index}]"
            if not isinstance(paragraph, dict):
                raise UserError(f"{where} is not an object", file=file, remedy=REMEDY)
            yield where, paragraph


def _list(parent: Any, key: str, where: str, file: Path) -> list[Any]:
    if not isinstance(parent, dict) or not isinstance(parent.get(key), list):
        raise UserError(f"{where} has no list {key!r}", file=file, remedy=REMEDY)
    return parent[key]


def _answer(answer: Any, where: str, file: Path) -> Answer:
    text, start = (answer.get("text"), answer.get("answer_start")) if isinstance(answer, dict) else (None, None)
    if not isinstance(text, str) or not text.strip() or type(start) is not int:
        raise UserError(f"{where} contains an answer without text or answer_start", file=file, remedy=REMEDY)
    return Answer(text, start)


def _placed(answer: Answer, context: str) -> Answer | None:
    """Return the answer at the position at which it occurs in the text; None if it does not occur."""
    text, start = answer
    if context[start : start + len(text)] == text and start >= 0:
        return answer
    near = max(start, 0)
    starts = [at for at in (context.find(text, near), context.rfind(text, 0, near + len(text))) if at >= 0]
    return Answer(text, min(starts, key=lambda at: abs(at - start))) if starts else None
