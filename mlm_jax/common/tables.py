"""Tables for terminals of any width, in which nothing is cut."""

from __future__ import annotations

import copy
from typing import Any

import rich.table
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement

ANY_WIDTH = 10_000


class Table(rich.table.Table):
    """Rich's table, but without cut or broken words.

    If a terminal is too narrow for the longest words of all columns, the last columns follow in further tables, which repeat the
    first column. Only a word that is longer than a line is broken; Rich would cut it, and end it with "…".
    """

    def add_column(self, *arguments: Any, overflow: Any = "fold", **options: Any) -> None:
        """Add a column, as Rich's method does."""
        super().add_column(*arguments, overflow=overflow, **options)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table, or its parts."""
        if self._measured(console, options).maximum <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        first, *others = range(len(self.columns))
        group: list[int] = []
        for index in others:
            wider = self._with_columns([first, *group, index])
            if group and wider._measured(console, options).minimum > options.max_width:
                yield from self._part([first, *group], console, options)
                group = []
            group.append(index)
        yield from self._part([first, *group], console, options)

    def _part(self, indices: list[int], console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield a table of some columns, each as wide as its longest word or wider, if the line is long enough for that."""
        part = self._with_columns(indices)
        part.title = self.title if indices[:2] == [0, 1] else None
        any_width = options.update_width(ANY_WIDTH)
        left = options.max_width - part._measured(console, options).minimum
        for column in part.columns if left >= 0 else ():
            needed = part._measure_column(console, any_width, column)
            more = max(min(left, needed.maximum - needed.minimum), 0)
            column.min_width = needed.minimum + more - part._get_padding_width(column._index)
            column.max_width = column.min_width
            left -= more
        yield from super(Table, part).__rich_console__(console, options)

    def _with_columns(self, indices: list[int]) -> Table:
        """Return a copy with some of the columns."""
        part = copy.copy(self)
        part.columns = [copy.copy(self.columns[index]) for index in indices]
        for number, column in enumerate(part.columns):
            column._index = number
        return part

    def _measured(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Return the widths of the table with each column as narrow as its longest word, and with no line broken."""
        return self.__rich_measure__(console, options.update_width(ANY_WIDTH))
