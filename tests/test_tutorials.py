"""The tutorials of the command line: what a page says is typed runs, and prints what stands there, on less text."""

import os
import re
import runpy
import shlex
import subprocess
from pathlib import Path

import pytest

from mlm_jax import cli
from mlm_jax.config import load_config
from mlm_jax.run.sweep import read_trials
from mlm_jax.training.check import check_config

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ["command_line", "sweep"]
FEWER = {  # the same, in seconds
    r"\), 400\)": "), 40)",
    r", 8000\)": ", 200)",
    r"vocabulary\.size = \d+": "vocabulary.size = 600",
    r'"rows": \d+': '"rows": 8',
    r"width=128": "width=32",
    r"steps, config\.evaluation\.every = .*": "steps, config.evaluation.every = 4, 2",
    r"\(5e-4, 2e-3, 8e-3\)": "(5e-4, 8e-3)",
}


def blocks(page):
    """Every (language, file name or "", content) of a page's code, the pages before it first."""
    texts = [(DOCS / f"{name}.md").read_text(encoding="utf-8") for name in PAGES[: PAGES.index(page) + 1]]
    return re.findall(r'^```(\w+)(?: title="(.*?)")?\n(.*?)^```$', "\n".join(texts), re.DOTALL | re.MULTILINE)


def write_files(page, folder):
    for _, name, content in blocks(page):
        if name:
            for whole, fewer in FEWER.items():
                content = re.sub(whole, fewer, content)
            (folder / name).write_text(content, encoding="utf-8")


def commands(page):
    """Every (command, what it prints) of a page's console blocks, the pages before it first."""
    consoles = "".join(content for language, _, content in blocks(page) if language == "console")
    typed = re.split(r"^\$ ", consoles, flags=re.MULTILINE)[1:]
    return [(one.partition("\n")[0], one.partition("\n")[2]) for one in typed]


def run(command, capfd):
    """Run one command; returns what it prints, on both streams."""
    words = shlex.split(command)
    if words[0] == "mlm-jax":
        assert cli.main(words[1:]) == 0, command
    elif words[0] == "python":
        runpy.run_path(words[1])
    else:
        subprocess.run(command, shell=True, check=True)
    return "".join(capfd.readouterr())


def names(text):
    """The words of what is printed, without warnings, which pytest takes."""
    lines = [line for line in text.splitlines() if not line.startswith("mlm-jax: ")]
    return set(re.findall(r"[^\W\d_]{3,}", "\n".join(lines)))


@pytest.mark.parametrize("page", PAGES)
def test_files_and_commands_of_a_page_are_right(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_files(page, tmp_path)
    configs = set()
    for words in (shlex.split(command) for command, _ in commands(page)):
        if words[0] == "mlm-jax":
            configs |= {getattr(cli.build_parser().parse_args(words[1:]), "config", None)} - {None}
    assert configs
    for config in configs:
        check_config(load_config(config))
    if page == "sweep":
        assert len(read_trials("my_sweep.py")) > 1


@pytest.mark.slow
def test_what_a_page_says_is_printed_is_printed(tmp_path, monkeypatch, capfd):
    page = PAGES[-1]  # it continues with the results of the others
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(DOCS.parent), str(tmp_path)]))
    monkeypatch.setenv("COLUMNS", "130")
    write_files(page, tmp_path)
    for command, shown in commands(page):
        printed = run(command, capfd)
        if "fill-mask" not in command:  # its guesses differ
            missing = {word for word in names(shown) if word not in printed}  # a table may have broken it elsewhere
            assert len(missing) <= 0.1 * len(names(shown)), (command, missing)
