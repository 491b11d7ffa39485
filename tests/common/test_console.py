import io
import re
import sys
from pathlib import Path

import pytest
from rich.progress import Progress, TextColumn

import mlm_jax
from mlm_jax.common.console import plain_console, table_console
from mlm_jax.common.files import writing
from mlm_jax.common.tables import Table
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


def test_nothing_is_cut_in_a_narrow_terminal(monkeypatch):
    """The names of trials differ in their last characters."""
    monkeypatch.setenv("COLUMNS", "40")
    table, file = Table("run", *(f"metric_{number}" for number in range(4))), io.StringIO()
    for rate in ("0.0005", "0.0007"):
        table.add_row(f"learning_rate={rate},alpha=0.3", *["12.345"] * 4)
    table_console(file=file).print(table)
    columns = zip(*(re.split("[│┃]", line) for line in file.getvalue().splitlines() if line[0] in "│┃"))
    text = "|".join("".join(cell.strip() for cell in column) for column in columns)
    assert "runlearning_rate=0.0005,alpha=0.3learning_rate=0.0007,alpha=0.3" in text and "metric_312.34512.345" in text
    assert "…" not in file.getvalue()


@pytest.mark.parametrize("width", [80, 60])
def test_a_narrow_table_breaks_no_word_but_continues_below(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    table, names = Table(title="trials"), ("learning_rate=0.0005,alpha=0.3", "learning_rate=0.0007,alpha=0.3")
    headings = ("trial", "bits_per_byte", "retrieval_at_1", "tokens_per_second", "notes")
    for heading in headings:
        table.add_column(heading)
    for name in names:
        table.add_row(name, "2.345", "61.7", "1,234,567", "failed: killed by signal 9")
    file = io.StringIO()
    table_console(file=file).print(table)
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= width and file.getvalue().count("trials") == 1
    assert all(word in file.getvalue() for word in (*headings, "2.345", "61.7", "1,234,567", "killed"))
    assert [sum(name in line for line in lines) for name in names] == [file.getvalue().count("┏" + "━" * 32)] * 2


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


def test_every_table_is_one_that_cuts_nothing():
    package = Path(mlm_jax.__file__).parent
    for file in package.rglob("*.py"):
        if file.name != "tables.py" or file.parent.name != "common":
            found = re.findall(r"from rich\.table import .*\bTable\b", file.read_text())
            assert not found or file.name == "metrics.py", file  # a grid of losses, as many as fit


HOSTILE = "a\x1b[2J\x9b1m\x07\u202e[b]x\r"  # clears the screen, rings, reverses the rest, is markup, returns
SAFE = "می\u200cخواهم\tb"


def test_names_control_no_terminal(monkeypatch, capsys):
    shown = r"a\x1b[2J\x9b1m\x07\u202e[b]x\r"
    file = io.StringIO()
    console = table_console(file=file, force_terminal=True, color_system=None)
    table = Table("name", title=HOSTILE)
    table.add_row(HOSTILE)
    console.print(table)
    console.print(HOSTILE, style="yellow")
    assert file.getvalue().count(shown) == 3
    plain = io.StringIO()
    plain_console(file=plain).print(SAFE.replace("\t", " "))
    assert plain.getvalue() == SAFE.replace("\t", " ") + "\n"
    with writing("-") as output:
        print(HOSTILE, end="", file=output)
    assert capsys.readouterr().out == HOSTILE  # programs read the very text
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with writing("-") as output:
        print(HOSTILE, SAFE, sep="", end="", file=output)
    assert capsys.readouterr().out == shown + SAFE
