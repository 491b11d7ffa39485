"""The exception for errors that the user can fix, printed as one line with exit code 2."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

UNFINISHED = (
    75  # exit code of a run, or a sweep, that a signal stopped with steps remaining (EX_TEMPFAIL of sysexits.h)
)

# Control characters but tab and line feed; embeddings, overrides and isolates of direction, which reorder the text around them.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class UserError(Exception):
    """An error that the user can fix: the problem, where it is, and the remedy.

    Args:
      problem: what is wrong, in one sentence without a full stop.
      file: the user's file in which the problem was found.
      line: the line of that file, counted from 1.
      remedy: what the user can do, in one sentence without a full stop.
    """

    def __init__(self, problem: str, *, file: str | Path | None = None, line: int | None = None, remedy: str = ""):
        self.problem, self.file, self.line, self.remedy = problem, file, line, remedy
        where = "" if file is None else f"{file}:{line}: " if line is not None else f"{file}: "
        message = f"{where}{problem}" + (f"{'' if problem.endswith('?') else '.'} Remedy: {remedy}" if remedy else "")
        super().__init__(printable(message))

    def __reduce__(self) -> tuple[Any, ...]:  # so that a worker process can raise it in its parent
        return _rebuild, (self.problem, self.file, self.line, self.remedy)


def _rebuild(problem: str, file: str | Path | None, line: int | None, remedy: str) -> UserError:
    return UserError(problem, file=file, line=line, remedy=remedy)


def printable(text: str) -> str:
    """Return a text in one line, with control characters and stray bytes escaped, so that a name cannot control a terminal."""
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def visible(text: str) -> str:
    """Return a text of several lines with control characters escaped that could control a terminal or reorder what it shows.

    Tabs and characters that scripts need, such as ZWNJ and the marks of direction, stay.
    """
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(message: object) -> str:
    """Return a message, such as that of an exception, without line breaks and shortened to a readable length."""
    return " ".join(str(message).split())[:300]


def nearest(name: Any, candidates: Iterable[Any]) -> str:
    """Return ``"; did you mean 'x'?"`` for the candidate that looks most like ``name``, or an empty string."""
    import difflib

    close = difflib.get_close_matches(str(name), [str(candidate) for candidate in candidates], n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
