"""Consoles that print text as it is, and tables whole."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console

WIDTH_WITHOUT_TERMINAL = 200  # columns; Rich's 80 would cut numbers


def plain_console(**options: Any) -> Console:
    """Return a Rich console that prints text as it is: names and texts of users may hold square brackets and colons.

    Args:
      **options: of ``rich.console.Console``.
    """
    return Console(markup=False, emoji=False, highlight=False, **options)


def table_console(**options: Any) -> Console:
    """Return a :func:`plain_console` that is wide enough for a table's numbers if there is no terminal (a log, a pipe,
    nohup).

    A terminal's own width is kept, and so is COLUMNS, by which a user says how wide a log is.
    """
    console = plain_console(**options)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDTH_WITHOUT_TERMINAL
    return console
