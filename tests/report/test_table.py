import dataclasses
import io

import pytest
from rich.console import Console

from mlm_jax.evaluation.classification import transfer_matrix
from mlm_jax.report import LanguageRow, language_rows, language_table, task_tables, transfer_table
from mlm_jax.report.table import mean_row

METRICS = {
    "eval/loss/de": 3.0,
    "eval/loss/hi": 4.0,
    "eval/accuracy/de": 0.4,
    "eval/accuracy/hi": 0.2,
    "eval/retrieval_at_1/de-hi": 0.5,
    "eval/retrieval_at_1/hi-de": 0.7,
    "eval/retrieval_at_1/mean": 0.6,
}


def text(table):
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    return console.file.getvalue()


def test_each_language_has_its_shares_and_its_results():
    de, hi, mean = language_rows(["de", "hi"], METRICS, {"de": 750, "hi": 250}, {"de": 0.7, "hi": 0.3}, {"de": 0.75})
    assert (de.tokens, de.planned, de.realised, de.loss) == (750, 0.7, 0.75, 3.0)
    assert hi.retrieval_at_1 == pytest.approx(0.6)
    assert hi.bits_per_byte is None
    assert (mean.language, mean.tokens, mean.loss) == ("mean", None, 3.5)  # a sum would not be one
    assert mean.accuracy == pytest.approx(0.3)
    assert mean.retrieval_at_1 == 0.6
    *_, mean = language_rows(["de", "hi"], METRICS | {"eval/retrieval_at_1/mean": 0.4}, {}, {}, {})
    assert mean.retrieval_at_1 == 0.4  # over pairs, as the evaluation says, and not over languages


def test_the_table_leaves_out_what_was_not_measured():
    printed = text(
        language_table(language_rows(["de", "hi"], METRICS, {"de": 1_500_000, "hi": 500_000}, {}, {"de": 0.75}))
    )
    assert "1,500,000" in printed
    assert "75.00" in printed
    assert "60.0" in printed
    assert "bits" not in printed
    assert "planned" not in printed
    assert "…" not in printed


def test_each_task_but_the_first_has_a_table_of_its_own():
    metrics = METRICS | {
        "eval/ranking/loss/de": 1.25,
        "eval/ranking/accuracy/de": 0.5,
        "eval/ranking/loss/mean": 1.25,
        "eval/entities/f1/hi": 0.75,
        "eval/entities/f1/mean": 0.75,
    }
    ranking, entities = map(text, task_tables(metrics, ("mlm", "ranking", "unmeasured", "entities"), ["de", "hi"]))
    assert ranking.split()[0] == "ranking" and "1.250" in ranking and "50.0" in ranking and "3.000" not in ranking
    assert entities.split()[0] == "entities" and "F1" in entities and "75.0" in entities and "loss" not in entities
    assert task_tables(METRICS, ("mlm",), ["de", "hi"]) == []


def test_every_column_fits_a_terminal():
    rows = [LanguageRow("zh-Hans", 1_234_567_890, 0.1449, 0.1450, 7.352, 0.094, 3.141, retrieval_at_1=0.529)]
    printed = text(language_table([*rows, mean_row(rows)]))
    assert "1,234.6 M" in printed
    assert "…" not in printed


def test_scores_of_a_labelled_task_are_columns():
    scores = {"loss": 1.5, "accuracy": 0.25, "exact_match": 0.75, "f1": 0.875, "pearson": -0.125, "spearman": 0.5}
    metrics = {f"eval/{name}/{code}": value for name, value in scores.items() for code in ("de", "hi")}
    rows = language_rows(["de", "hi"], metrics, {"de": 750, "hi": 1_250_000}, {"de": 1.0}, {"de": 1.0})
    answers = [dataclasses.replace(row, pearson=None, spearman=None) for row in rows]
    printed = text(language_table(answers))
    assert "exact" in printed and "75.0" in printed and "F1" in printed and "87.5" in printed and "…" not in printed
    assert "Pearson" not in printed
    assert rows[-1].pearson == -0.125 and "-12.5" in text(language_table(rows[-1:]))


def test_a_run_without_evaluation_still_has_a_table():
    rows = language_rows(["de"], {}, {}, {}, {})
    assert rows[0].realised is None
    assert "de" in text(language_table(rows))


def test_transfer_is_shown_with_its_gap_and_what_chose_the_checkpoint():
    matrix = transfer_matrix({"en": {"en": 0.9, "de": 0.7}, "de": {"en": 0.6}}, "accuracy", {"en": "eval/accuracy/en"})
    printed = text(transfer_table(matrix))
    for part in ("90.0", "70.0", "20.0", "eval/accuracy/en", "last step"):
        assert part in printed
