import html
import json
import re
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest

from mlm_jax.checkpoints.workdir import claim_workdir
from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.evaluation.bootstrap import Observed, save_rows, unit_numbers
from mlm_jax.report import save_sections, write_report
from mlm_jax.report.families import BRANCHES, FAMILY_OF
from mlm_jax.report.page import best_checkpoint, changed_keys, families, page_data, render, table_html
from tests.report.helpers import ARTICLE, drawn_by_a_browser, needs_chromium, write_run


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "demo"
    folder.mkdir()
    write_run(folder)
    write_report(folder)
    return folder


def page(workdir):
    return (workdir / "report.html").read_text(encoding="utf-8")


def data(html):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)[1])


def test_the_page_needs_nothing_beside_it(workdir):
    html = page(workdir)
    assert not re.search(r'(?:src|href)\s*=|url\("?http|@import|fetch\(', html)
    assert "{{" not in html
    assert not list(workdir.glob("*.incomplete"))


def test_the_page_holds_every_section_of_the_run(workdir):
    held = data(page(workdir))
    assert held["title"] == "demo"
    assert list(held["curves"]) == ["loss", "accuracy", "bits_per_byte", "retrieval_at_1"]
    assert set(held["curves"]["loss"]["eval"]) == {*ARTICLE, "mean"}
    assert [curve["title"] for curve in held["run"]] == ["Learning rate", "Tokens per second", "Gradient norm"]
    assert held["steps"] == 3000
    assert len(held["retrieval"]["scores"]["csls"]) == 7
    assert held["retrieval"]["scores"]["csls"][0][0] is None
    assert held["map"]["raw"]["points"].keys() == ARTICLE.keys()
    assert ARTICLE["ar"].split()[0] in json.dumps(held["samples"]["ar"], ensure_ascii=False)


def test_text_of_the_corpus_cannot_break_out_of_the_data(workdir):
    html = page(workdir)
    assert html.count("</script>") == 2  # the data's and the program's
    assert "</script>" in [
        piece for part in data(html)["samples"]["en"][0] if isinstance(part, dict) for piece, _ in part["guesses"]
    ]


def test_a_title_is_text(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss/de": 2.0}\n')
    save_sections(tmp_path, {"languages": ["de"], "title": "<b>{{data}}</b>"})
    assert "<h1>&lt;b&gt;{{data}}&lt;/b&gt;</h1>" in write_report(tmp_path).read_text()


def test_without_metrics_there_is_no_report(tmp_path):
    save_sections(tmp_path, {"languages": ["de"]})
    with pytest.raises(UserError, match="no metrics"):
        write_report(tmp_path)


def test_the_table_is_there_without_a_script():
    rows = [{"language": "de", "tokens": 1000, "loss": 2.5, "accuracy": 0.4, "planned": None}]
    html = table_html(rows)
    assert "tokens seen" in html and "planned" not in html
    assert '<td style="--share:0.4000" data-value="0.4">40.0</td>' in html


def test_config_marks_what_differs_from_the_defaults():
    config = default_config()
    config.model.width = 128
    config.tasks["mlm"]["mask_rate"] = 0.15
    config.tasks["rank"] = {"objective": "ranking"}
    changed = {key: value for key, value, differs in changed_keys(config.to_dict()) if differs}
    assert changed == {"model.width": "128", "tasks.mlm.mask_rate": "0.15", "tasks.rank.objective": "ranking"}


@needs_chromium
def test_a_browser_draws_every_section_without_an_error(workdir, tmp_path):
    drawn = drawn_by_a_browser(workdir / "report.html", tmp_path)
    for name in ("curves", "retrieval", "map", "samples", "run", "config"):
        assert re.search(rf'<section class="card[^"]*" id="{name}">', drawn), f"{name} is still hidden"
    assert drawn.count('class="star"') == 30
    assert drawn.count('class="blank') == 28
    assert drawn.count('class="cell  ') == 49
    assert 'dir="auto" lang="ar"' in drawn


@needs_chromium
def test_axes_are_of_whole_steps_and_name_a_share_as_it_is(tmp_path):
    history = {"eval/accuracy/de": [(0, 0.0), (6, 0.15)]}
    (tmp_path / "page.html").write_text(render(page_data({"languages": ["de"]}, history, "x")))
    drawn = drawn_by_a_browser(tmp_path / "page.html", tmp_path)
    labels = re.findall(r"<text[^>]*>([^<]+)</text>", drawn)
    assert "12.5 %" in labels and "15 %" in labels and "13 %" not in labels
    assert "4" in labels and not [label for label in labels if re.fullmatch(r"\d+\.\d+", label)]


CLICK = """<script>
const keep = (text) => document.body.append(Object.assign(document.createElement("pre"), { id: "file", textContent: text }));
URL.createObjectURL = (blob) => { blob.text().then(keep); return "#"; };
addEventListener("load", () => setTimeout(() => document.querySelector(".drawing").click(), 200));
</script></body>"""


@needs_chromium
def test_curves_download_as_a_drawing_that_needs_no_style_of_the_page(workdir, tmp_path):
    (tmp_path / "page.html").write_text((workdir / "report.html").read_text().replace("</body>", CLICK))
    drawn = drawn_by_a_browser(tmp_path / "page.html", tmp_path)
    file = ElementTree.fromstring(html.unescape(re.search(r'<pre id="file">(.*?)</pre>', drawn, re.DOTALL)[1]))
    nodes = {node.get("class"): node.get("style") for node in file.iter() if node.get("class")}
    assert file.tag == "{http://www.w3.org/2000/svg}svg" and float(file.get("width")) > 0
    assert "fill:none" in nodes["curve train"] and re.search(
        r"stroke:rgb\(|stroke:color|stroke:okl", nodes["curve train"]
    )
    assert "paint-order:stroke" in nodes["label"] and any(node.text == "steps" for node in file.iter())


@needs_chromium
def test_a_language_without_a_name_stands_once(tmp_path):
    write_run(tmp_path, languages=("de", "xa"), steps=250)
    drawn = drawn_by_a_browser(write_report(tmp_path), tmp_path)
    assert "de<small>German</small>" in drawn and "<small>xa</small>" not in drawn


def test_a_row_tells_perplexity_and_the_gap_to_training(tmp_path):
    lines = [{"step": step, "train/loss/de": 2.0 + step / 100, "train/loss/mean": 5.0} for step in range(1, 41)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    save_sections(tmp_path, {"languages": ["de", "sw"], "table": [{"language": "de", "loss": 3.0}, {"language": "sw"}]})
    de, sw = data(write_report(tmp_path).read_text())["table"]
    # The training loss is the mean of the last two of forty lines.
    assert abs(de["perplexity"] - 20.0855) < 1e-3 and abs(de["gap"] - (3.0 - (2.395))) < 1e-9
    assert sw["perplexity"] is None and sw["gap"] is None


def test_the_best_checkpoint_is_the_one_that_the_config_selects(tmp_path):
    values = {0: (9.5, 1.0), 10: (3.0, 0.2), 20: (2.0, 0.5), 30: (2.5, 0.5)}  # the last ones tie in accuracy
    lines = ({"step": step, "eval/loss/de": a, "eval/accuracy/mean": b} for step, (a, b) in values.items())
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for select, found in (("eval/loss/de", (20, 2.0)), ("eval/accuracy/mean", (30, 0.5))):  # none is saved at step 0
        best = best_checkpoint(tmp_path, {"evaluation": {"select": select}})
        assert (best["metric"], best["step"], best["value"]) == (select.removeprefix("eval/"), *found)
    assert best_checkpoint(tmp_path, {}) is None
    assert best_checkpoint(tmp_path, {"evaluation": {"select": "eval/f1/de"}}) is None


def test_phases_are_shaded_if_there_are_several():
    history = {"eval/loss/de": [(0, 3.0), (9, 1.0)]}
    phases = [(0, 4, "short rows"), (4, 9, "long rows")]
    assert page_data({"languages": ["de"], "phases": phases}, history, "x")["phases"] == phases
    assert page_data({"languages": ["de"], "phases": phases[:1]}, history, "x")["phases"] == []


@needs_chromium
def test_a_hundred_languages_are_grouped_and_the_worst_ten_can_be_chosen(tmp_path):
    codes = [f"{a}{b}" for a in "abcdefghij" for b in "klmnopqrst"]
    write_run(tmp_path, languages=codes, steps=500)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 500, "train/tokens": 5000, "train/mfu": 0.4}) + "\n")
    (tmp_path / "goodput.json").write_text(json.dumps({"step": 90.0, "compile": 10.0}))
    drawn = drawn_by_a_browser(write_report(tmp_path), tmp_path / "browser")
    assert "worst ten by loss" in drawn and "third with least text (33)" in drawn and "download CSV" in drawn
    assert "loss, nats a token" in drawn and ">steps<" in drawn and "tokens seen" in drawn
    assert '<div class="label">MFU</div><div class="value">40.0 %</div>' in drawn
    assert '<div class="label">Goodput</div><div class="value">90.0 %</div>' in drawn
    samples = drawn.partition('<div class="samples">')[2].partition("</section>")[0]
    assert samples.count('class="sample"') == 8


@needs_chromium
def test_the_page_tells_what_made_the_run(workdir, tmp_path):
    shutil.copytree(workdir, tmp_path / "run")
    start = {
        "step": 0,
        "time": "2026-01-01",
        "command": "mlm-jax train --config <c>",
        "folder": "/f",
        "python": "3.11",
        "packages": {"jax": "1"},
        "code": {"root": "/r", "commit": "0123456789abcdef", "dirty": ["a.py"]},
        "project": None,
        "host": "h",
        "system": "s",
        "devices": "8 × cpu",
        "processes": 1,
    }
    (tmp_path / "run" / "provenance.jsonl").write_text(json.dumps(start) + "\n")
    drawn = drawn_by_a_browser(write_report(tmp_path / "run"), tmp_path / "browser")
    assert "mlm-jax train --config &lt;c&gt;" in drawn and "0123456789ab, and 1 changed file(s): a.py" in drawn


def test_intervals_stand_in_the_table_and_in_the_data(tmp_path):
    metrics = write_run(tmp_path)
    rng = np.random.default_rng(0)
    rows = {
        f"eval/loss/{code}": Observed(unit_numbers(code, 200), rng.normal(3, 1, 200), np.ones(200)) for code in ARTICLE
    }
    save_rows(tmp_path, 3000, rows)
    held = data(write_report(tmp_path).read_text())
    low, high = held["table"][0]["intervals"]["loss"]
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(200), rel=0.15) and "mean" in held["table"][-1]["language"]
    mean_low, mean_high = held["table"][-1]["intervals"]["loss"]
    assert mean_high - mean_low == pytest.approx((high - low) / np.sqrt(7), rel=0.2)
    assert f"{metrics['eval/loss/en']:.3f} <small>±{(high - low) / 2:.3f}</small>" in page(tmp_path)


def test_a_second_run_stands_beside_the_first(tmp_path):
    for name, rate in (("one", 1e-3), ("two", 2e-3)):
        (tmp_path / name).mkdir()
        write_run(tmp_path / name)
        config = default_config()
        config.steps, config.optimizer.learning_rate = 3000, rate
        claim_workdir(tmp_path / name, config)
        file, shift = tmp_path / name / "metrics.jsonl", 0.0 if name == "one" else 0.25
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            line |= {key: value + shift for key, value in line.items() if key.startswith("eval/loss/")}
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = write_report(tmp_path / "one", tmp_path / "two").read_text()
    held = data(report)["beside"]
    assert held["title"] == "two" and held["curves"].keys() >= {"loss", "retrieval_at_1"}
    section = report.partition('id="beside"')[2].partition("</section>")[0]
    assert section.count("−0.250") == 8  # of seven languages and the mean: ours is lower
    assert "optimizer.learning_rate" in section and "<td>0.001</td><td>0.002</td>" in section
    alone = write_report(tmp_path / "one").read_text()
    assert data(alone)["beside"] is None and 'id="beside"' not in alone


def test_languages_have_families_without_a_config():
    assert families(["de", "zh-Hant", "xx"], {}) == {
        "Germanic": ["de"],
        "Sino-Tibetan": ["zh-Hant"],
        "unknown family": ["xx"],
    }
    assert families(["de"], {"families": {"mine": ["de"]}}) == {"mine": ["de"]}
    assert len(FAMILY_OF) == sum(len(codes.split()) for codes in BRANCHES.values())  # no code is in two


@needs_chromium
def test_charts_go_over_steps_tokens_or_time_with_the_second_run_dashed(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_run(tmp_path / name)
        claim_workdir(tmp_path / name, default_config())
    drawn = drawn_by_a_browser(write_report(tmp_path / "one", tmp_path / "two"), tmp_path / "browser")
    curves = drawn.partition('id="curves"')[2].partition("</section>")[0]
    assert curves.count('class="curve beside"') == 8 and curves.count('class="curve raw"') == 7
    assert re.findall(r"<option value=\"(\w+)\"", curves) == ["steps", "time", "none", "light", "strong"]
