"""Tables for terminals of any width, in which nothing is cut."""

from __future__ import annotations

from typing import Any

import rich.table


class Table(rich.table.Table):
    """Rich's table, but text that is wider than its column continues on the next line; Rich would cut it, and end it with "…".

    The names of a sweep's trials differ in their last characters, so that cut names would all be the same.
    """

    def add_column(self, *arguments: Any, overflow: Any = "fold", **options: Any) -> None:
        """Add a column, as Rich's method does."""
        super().add_column(*arguments, overflow=overflow, **options)
