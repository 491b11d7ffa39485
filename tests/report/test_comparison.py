"""Comparison of runs from their files alone."""

import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mlm_jax import cli
from mlm_jax.checkpoints.metrics import is_less_better
from mlm_jax.checkpoints.workdir import claim_workdir
from mlm_jax.commands.compare import page_title
from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.evaluation.bootstrap import Observed, save_rows, unit_numbers
from mlm_jax.report.comparison import (
    best_of,
    by_seed,
    columns_of,
    compare_workdirs,
    difference_intervals,
    difference_of,
    metric_named,
    metrics_of,
    names_of,
    ranking_key,
)
from mlm_jax.report.comparison_page import page_of, write_comparison
from mlm_jax.report.comparison_tables import language_comparison, seeds_table, summary_table
from tests.report.helpers import drawn_by_a_browser, needs_chromium

LANGUAGES = ("de", "sw")


def write_run(folder, losses, steps=4, **settings):
    """A run whose held-out loss of each language is ``losses[i] - step``, with a pair of languages retrieved."""
    config = default_config()
    config.steps = steps
    for key, value in settings.items():
        room, _, name = key.partition("__")
        if name:
            config[room][name] = value
        else:
            config[room] = value
    claim_workdir(folder, config)
    lines = []
    for step in (0, 2, 4):
        event = {"eval/genre/accuracy/mean": 0.5}
        event |= {f"eval/loss/{code}": loss - step for code, loss in zip(LANGUAGES, losses)}
        event |= {
            "eval/loss/mean": sum(losses) / 2 - step,
            "eval/retrieval_at_1/de-sw": 0.25,
            "eval/retrieval_at_1/sw-de": 0.75,
            "eval/retrieval_at_1/mean": 0.5,
            "eval/genre/accuracy/de": 0.1 * step,
            "train/loss/de": 1.0,
        }
        lines.append(json.dumps({"step": step, "time": 0, **event}))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def printed(table):
    console = Console(width=200, file=io.StringIO())
    console.print(table)
    return console.file.getvalue()


@pytest.fixture
def runs(tmp_path):
    return compare_workdirs(
        [
            write_run(tmp_path / "a", (8.0, 9.0), mixing__alpha=0.3),
            write_run(tmp_path / "b", (7.0, 9.5), mixing__alpha=0.7, seed=1, data__store="elsewhere"),
            write_run(tmp_path / "c", (6.0, 7.5), mixing__alpha=0.7, seed=2),
            write_run(tmp_path / "d", (1.0, 1.0), steps=9, mixing__alpha=0.7, seed=2),
        ]
    )


def test_the_keys_in_which_runs_differ(runs):
    assert [dict(run.settings) for run in runs][:2] == [
        {"mixing.alpha": 0.3, "seed": 0, "steps": 4},
        {"mixing.alpha": 0.7, "seed": 1, "steps": 4},
    ]
    assert [run.state for run in runs] == ["finished"] * 3 + ["at step 4 of 9"]
    # The metrics of the first task come first.
    assert metrics_of(runs) == ["eval/loss", "eval/retrieval_at_1", "eval/genre/accuracy"]
    assert columns_of(runs, "eval/retrieval_at_1") == ["de", "sw", "mean"]  # each language's pairs, not the pairs
    assert runs[0].metrics["eval/retrieval_at_1/de"] == 0.5


def test_the_best_run_is_finished_and_differences_are_to_the_baseline(runs):
    assert ranking_key(runs) == "eval/loss/mean" and best_of(runs[:3], "eval/loss/mean") is runs[2]
    assert (
        difference_of(runs[1], runs[0], "eval/loss/de") == -1.0
        and difference_of(runs[1], runs[0], "eval/none/de") is None
    )
    assert is_less_better("eval/loss/mean") and not is_less_better("eval/genre/accuracy/mean")
    text = printed(summary_table(runs))
    lines = [line for line in text.splitlines() if line.startswith("│")]
    assert [line.split()[1] for line in lines] == ["c", "b", "a", "d"]  # unfinished ones come last
    assert "best" in lines[0] and "baseline" in lines[2] and "at step 4 of 9" in lines[3] and "-1.750" in lines[0]


def test_the_config_says_by_what_runs_are_ranked(tmp_path):
    folders = [
        write_run(tmp_path / name, losses, evaluation__select="eval/genre/accuracy/de")
        for name, losses in (("a", (1.0, 1.0)), ("b", (2.0, 2.0)))
    ]
    runs = compare_workdirs(folders)
    assert ranking_key(runs) == "eval/genre/accuracy/de" and metrics_of(runs)[0] == "eval/genre/accuracy"


def test_seeds_are_averaged(runs):
    groups = by_seed(runs[:3])
    assert [len(group.runs) for group in groups] == [1, 2]
    assert groups[1].means["eval/loss/de"] == 2.5 and math.isclose(groups[1].spreads["eval/loss/de"], 0.5**0.5)
    assert groups[0].spreads == {} and "2.500 ± 0.707" not in printed(seeds_table(runs[:3]))
    assert "3.500 ± 1.061" in printed(seeds_table(runs[:3]))  # of the mean: 4.25 and 2.75
    assert seeds_table(runs[:2]) is None


def test_languages_that_differ_most_come_first(runs):
    text = printed(language_comparison(runs[:2], "eval/loss", runs[0]))
    lines = [line.split() for line in text.splitlines() if line.startswith("│")]
    assert [line[1] for line in lines] == ["de", "sw", "mean"] and "-1.000" in lines[0] and "+0.500" in lines[1]


def test_names_are_as_short_as_tells_them_apart(tmp_path):
    assert names_of([Path("x/1/run"), Path("x/2/run"), Path("y/other")]) == ["1/run", "2/run", "y/other"]
    with pytest.raises(UserError, match="named twice"):
        names_of([Path("x"), Path("y/../x")])


def test_the_page_holds_values_curves_and_links(runs, tmp_path):
    (tmp_path / "b" / "report.html").touch()
    data = page_of(runs, "title", tmp_path)
    assert [run["report"] for run in data["runs"]] == [None, "b/report.html", None, None]
    assert data["values"]["loss"]["de"] == [4.0, 3.0, 2.0, -3.0]
    assert data["curves"]["loss"]["sw"][0] == [(0, 9.0), (2, 7.0), (4, 5.0)]
    assert data["languages"] == ["de", "sw", "mean"] and data["baseline"] == "a" and data["ranking"] == "loss/mean"
    assert {metric["name"]: metric["less"] for metric in data["metrics"]} == {
        "loss": True,
        "retrieval_at_1": False,
        "genre/accuracy": False,
    }


def test_a_page_of_many_runs_and_languages_holds_the_curves_of_averages_only(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("mlm_jax.report.comparison_page.MOST_CURVES", 5)
    assert list(page_of(runs, "title", tmp_path)["curves"]["loss"]) == ["mean"]


def test_the_verb(runs, tmp_path, capsys):
    two = ["compare", str(tmp_path / "a"), str(tmp_path / "b")]
    assert cli.main([*two, "--output", str(tmp_path / "page.html"), "--metric", "loss"]) == 0
    said = capsys.readouterr().out
    assert all(text in said for text in ("config keys that differ", "mixing.alpha", "runs by eval/loss/mean", "-1.000"))
    assert (tmp_path / "page.html").exists()
    assert cli.main(["compare", str(tmp_path / "a")]) == 2 and "nothing to compare" in capsys.readouterr().err
    assert (
        cli.main(["compare", str(tmp_path / "a"), str(tmp_path)]) == 2
        and "there is no run here" in capsys.readouterr().err
    )
    assert cli.main([*two, "--metric", "los"]) == 2
    assert "no metric 'los'; did you mean 'loss'?" in capsys.readouterr().err
    assert metric_named(runs, "") == "eval/loss"
    assert (
        page_title(runs) == " · ".join(run.name for run in runs) and page_title(30 * runs) == f"{30 * len(runs)} runs"
    )


@needs_chromium
def test_the_page_ranks_finished_runs_and_links_to_their_reports(runs, tmp_path):
    (tmp_path / "b" / "report.html").touch()
    page = write_comparison(tmp_path / "comparison.html", runs, title="<b> & co")
    drawn = drawn_by_a_browser(page, tmp_path / "browser")
    assert "<h1>&lt;b&gt; &amp; co</h1>" in drawn
    table = drawn.partition('id="runs"')[2].partition("</table>")[0]
    assert re.findall(r'<tr data-language="(.)"', table) == ["d", "c", "b", "a"]  # by loss
    assert (
        re.search(r'>c<small class="best">best</small>', table) and '<a href="b/report.html" title="b">b</a>' in table
    )
    assert "at step 4 of 9" in table and 'class="unfinished"' in table
    scatter = drawn.partition('id="scatter"')[2].partition('id="curves"')[0]
    assert scatter.count("<circle") == 3  # finished runs only


def with_rows(folder, differences, data="text"):
    """Give a run the rows of its last evaluation: two languages of 200 rows whose losses are shifted by ``differences``."""
    hard = np.random.default_rng(0).normal(3.0, 1.0, (2, 200))
    noise = np.random.default_rng(int(-100 * sum(differences)) + 1).normal(0, 0.02, hard.shape)
    rows = {
        f"eval/loss/{code}": Observed(unit_numbers(f"{data}-{code}", 200), mine + more + extra, np.ones(200))
        for code, mine, more, extra in zip(LANGUAGES, hard, noise, differences)
    }
    save_rows(folder, 4, rows)
    return folder


def test_differences_have_intervals_that_are_paired_on_the_same_rows(tmp_path, monkeypatch):
    first = with_rows(write_run(tmp_path / "a", (8.0, 9.0)), (0.0, 0.0))
    same = with_rows(write_run(tmp_path / "b", (7.9, 9.0), mixing__alpha=0.7), (-0.1, 0.0))
    elsewhere = with_rows(write_run(tmp_path / "c", (7.9, 9.0), mixing__alpha=0.8), (-0.1, 0.0), "other text")
    without = write_run(tmp_path / "d", (7.9, 9.0), mixing__alpha=0.9)
    runs = compare_workdirs([first, same, elsewhere, without])
    none, paired, apart, nothing = difference_intervals(runs, runs[0])
    assert none == nothing == {}
    low, high = paired["eval/loss/de"]
    assert -0.11 < low < -0.1 < high < -0.09 and paired["eval/loss/sw"][0] < 0 < paired["eval/loss/sw"][1]
    assert -0.06 < paired["eval/loss/mean"][0] < paired["eval/loss/mean"][1] < -0.04
    # If the rows differ, the interval is far wider.
    assert apart["eval/loss/de"][0] < -0.2 and apart["eval/loss/de"][1] > 0
    text = printed(language_comparison(runs, "eval/loss", runs[0]))
    assert f"-0.100 [{low:+.3f}, {high:+.3f}]" in text and "95 % interval" in text
    assert f"[{paired['eval/loss/mean'][0]:+.3f}, " in printed(summary_table(runs))
    page = page_of(runs, "x", tmp_path)
    assert page["intervals"]["loss"]["de"][1] == pytest.approx([low, high], rel=1e-4)
    assert page["intervals"]["loss"]["de"][3] is None and "genre/accuracy" in page["intervals"]
    # Any other run may be chosen as the baseline; the interval of the opposite difference has the opposite ends.
    assert page["between"]["loss"]["de"][1] == [pytest.approx([low, high], rel=1e-4)]
    low, high = difference_intervals(runs, runs[2])[1]["eval/loss/sw"]
    assert page["between"]["loss"]["sw"][2][1] == pytest.approx([-high, -low], rel=1e-4)
    assert page["between"]["loss"]["sw"][3] == [None] * 3
    monkeypatch.setattr("mlm_jax.report.comparison_page.MOST_INTERVALS", 10)
    assert list(page_of(runs, "x", tmp_path)["between"]["loss"]) == ["mean"]
