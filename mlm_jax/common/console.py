"""Where tables are printed: as wide as the terminal, and whole where there is none (a log, a pipe, nohup)."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console

WIDTH_WITHOUT_TERMINAL = 200  # columns; Rich's 80 would cut numbers


def table_console(**options: Any) -> Console:
    """Return a Rich console that cuts no number of a table; ``options`` are those of ``rich.console.Console``.

    A terminal's own width is kept, and so is COLUMNS, by which a user says how wide a log is.
    """
    console = Console(**options)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDTH_WITHOUT_TERMINAL
    return console
