"""Consoles that print text without Rich's markup, and tables without cutting their numbers."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console

WIDTH_WITHOUT_TERMINAL = 200  # columns; Rich's 80 would cut numbers


def plain_console(**options: Any) -> Console:
    """Return a Rich console without markup, because names and texts of users may contain square brackets and colons.

    Args:
      **options: arguments of ``rich.console.Console``.
    """
    return Console(markup=False, emoji=False, highlight=False, **options)


def table_console(**options: Any) -> Console:
    """Return a :func:`plain_console` that is wide enough for a table's numbers if there is no terminal (a log, a pipe,
    nohup).

    The width of a terminal is kept, and so is the environment variable COLUMNS, by which a user sets the width of a log.
    """
    console = plain_console(**options)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDTH_WITHOUT_TERMINAL
    return console
