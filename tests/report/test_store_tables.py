"""The tables of ``mlm-jax inspect``."""

import io

import pytest
from rich.console import Console

from mlm_jax.data.loading.loader import Loader
from mlm_jax.report.store_tables import plan_table
from tests.data.stores import config, documents, write

TASKS = {"mlm": {"objective": "mlm", "rows": 4, "length": 8}}


def shown(store, **keys):
    """Return the rows of the table of the planned mix, as words."""
    console = Console(file=io.StringIO(), width=200)
    console.print(plan_table(Loader(store, config(TASKS, steps=10, **keys), {"mlm": "text"})))
    return [line.replace("│", " ").split() for line in console.file.getvalue().splitlines() if "%" in line]


@pytest.fixture
def store(tmp_path):
    text = {
        code: ("text", [code], {"train": {"inputs": documents([size])}}) for code, size in (("de", 900), ("en", 100))
    }
    return write(tmp_path / "store", text, ["de", "en"])


def test_the_planned_mix_is_that_of_the_configs_strategy(store):
    assert shown(store, mixing={"alpha": 1.0}) == [["de", "90.00%"], ["en", "10.00%"]]
    explicit = {"strategy": "explicit", "rates": {"de": 1, "en": 3}}
    assert shown(store, mixing=explicit) == [["de", "25.00%"], ["en", "75.00%"]]
    assert shown(store, mixing={"strategy": "unimax"}) == [["de", "50.00%"], ["en", "50.00%"]]  # 320 tokens
    phases = ({"steps": 4, "alpha": 0.0}, {"steps": 6, "languages": ("de",)})
    assert shown(store, curriculum=phases) == [["de", "50.00%", "100.00%"], ["en", "50.00%", "0.00%"]]
