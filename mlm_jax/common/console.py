"""Consoles that print text without Rich's markup, and tables without cutting their numbers."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console
from rich.text import Text

from mlm_jax.common.errors import visible

WIDTH_WITHOUT_TERMINAL = 200  # columns; Rich's 80 would cut numbers


class PlainConsole(Console):
    """A console that shows control characters in names and texts as escapes, also in cells of tables."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return the text that is printed for a string."""
        return super().render_str(visible(text), **options)


def plain_console(**options: Any) -> Console:
    """Return a Rich console for names and texts of users: without markup, and with control characters escaped.

    Args:
      **options: arguments of ``rich.console.Console``.
    """
    return PlainConsole(markup=False, emoji=False, highlight=False, **options)


def table_console(**options: Any) -> Console:
    """Return a :func:`plain_console` that is wide enough for a table's numbers if there is no terminal (a log, a pipe,
    nohup).

    The width of a terminal is kept, and so is the environment variable COLUMNS, by which a user sets the width of a log.
    """
    console = plain_console(**options)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDTH_WITHOUT_TERMINAL
    return console
