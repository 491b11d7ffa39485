"""The reference of the keys is generated from their declarations, and can be searched."""

import runpy
from pathlib import Path

import pytest

from mlm_jax.cli import VERBS, main
from mlm_jax.config.keys import KEYS

FOLDER = Path(__file__).parents[2] / "docs"
PAGES = runpy.run_path(str(FOLDER / "reference.py"))["PAGES"]


def printed(capsys, *arguments):
    assert main(["config", *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name, page", PAGES.items(), ids=list(PAGES))
def test_a_page_is_what_the_code_says(name, page):
    assert (FOLDER / name).read_text(encoding="utf-8") == page(), "run python docs/reference.py"


def test_the_verb_prints_the_page_too(capsys):
    assert printed(capsys, "--markdown") == (FOLDER / "config.md").read_text(encoding="utf-8")


def test_all_keys_are_listed_with_their_sentences(capsys):
    text = " ".join(printed(capsys).split())
    for key in KEYS:
        assert key.name in text and " ".join(key.doc.replace("`", "").split()) in text


@pytest.mark.parametrize(
    "words, first, others",
    [
        (("learning", "RATE"), "optimizer.learning_rate", ["optimizer.rate_table"]),
        (("batch_size",), "tasks.TASK.rows", []),
        (("gradient-accumulation",), "training.microbatches", []),
        (("label_smoothing",), "tasks.TASK.smoothing", []),
        (("checkpoint.init.like",), "checkpoint.init.like", []),
        (("warmup",), "optimizer.warmup_steps", ["curriculum[i].optimizer"]),
    ],
)
def test_words_find_keys(capsys, words, first, others):
    lines = [line.split()[0] for line in printed(capsys, *words).splitlines() if line and not line.startswith(" ")]
    assert lines[0] == first and set(others) <= set(lines)
    assert others or len(lines) == 1


def test_a_word_that_no_key_has_is_an_error(capsys):
    assert main(["config", "lerning_rate"]) == 2
    assert "no config key has lerning_rate; did you mean 'learning_rate'?" in capsys.readouterr().err
    assert main(["config", "resume_from_checkpoint"]) == 2
    assert "it is not a key here: the same command continues a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given, meant",
    [
        ("trian", "train"),
        ("Evaluate", "eval"),
        ("export", "export-hf"),
        ("resume", "train"),
        ("fill_mask", "fill-mask"),
    ],
)
def test_a_verb_that_there_is_not_names_the_nearest(capsys, given, meant):
    with pytest.raises(SystemExit) as stopped:
        main([given, "--config", "c.py"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert f"there is no verb {given!r}; did you mean {meant!r}?" in error and ", ".join(VERBS) in error
