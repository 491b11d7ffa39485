import io
import re
from pathlib import Path

import pytest
from rich.progress import Progress, TextColumn
from rich.table import Table

import mlm_jax
from mlm_jax.common.console import plain_console, table_console
from mlm_jax.report.table import language_rows, language_table

LONG = 123_456_789


def printed(**options):
    file = io.StringIO()
    metrics = {f"eval/{name}/de": 1234.567 for name in ("loss", "accuracy", "bits_per_byte")}
    rows = language_rows(("de",), metrics, {"de": LONG}, {"de": 1.0}, {"de": 1.0})
    table = language_table(rows, "a title")
    for number in range(12):  # more than 80 columns hold
        table.add_column(f"metric {number}")
        table.columns[-1]._cells = ["1234.567"] * table.row_count
    table_console(file=file, **options).print(table)
    return file.getvalue()


def test_numbers_are_not_cut_without_a_terminal(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert printed().count("1234.567") == 12 * 2 + 2 * 2  # the language and the mean; accuracy is in percent
    assert "…" not in printed()


def test_a_width_that_the_user_gives_is_kept(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(len, printed().splitlines())) <= 60


@pytest.mark.parametrize("text", ["[/bold]", "[red]x[/]", "[link=x]y", ":smile:", "a [1] b"])
def test_texts_of_users_are_no_markup(text):
    file = io.StringIO()
    table_console(file=file).print(Table(text, title=text, show_header=True))
    with Progress(TextColumn("{task.description}", markup=False), console=plain_console(file=file)) as bar:
        bar.add_task(text)
    assert file.getvalue().count(text) >= 3


def test_there_is_no_console_that_takes_markup():
    package = Path(mlm_jax.__file__).parent
    for file in package.rglob("*.py"):
        if file.name != "console.py":
            assert not re.search(r"\bConsole\(|rich\.print|from rich import print", file.read_text()), file
