import types

import numpy as np
import pytest

from mlm_jax.commands.mine import mine_command
from mlm_jax.common.errors import UserError
from mlm_jax.inference import miner as mine


class Words:
    """A model that embeds a sentence of numbers as the bag of its numbers, in any spelling of the digits."""

    languages, needs_language = ("en", "hi"), True

    def __init__(self, place):
        pass

    def embed(self, texts, *, language=None):
        digits = {"en": "0123456789", "hi": "०१२३४५६७८९"}[language]
        rng = np.random.default_rng(0)
        table = rng.normal(size=(10, 24))
        return np.stack([sum(table[digits.index(digit)] for digit in text if digit in digits) for text in texts])


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """Forty sentences on either side, fifteen of which are translations of each other."""
    monkeypatch.setattr("mlm_jax.inference.encoder.load", Words)
    rng = np.random.default_rng(1)
    common = ["".join(map(str, rng.integers(0, 10, 7))) for _ in range(15)]
    only = ["".join(map(str, rng.integers(0, 10, 7))) for _ in range(50)]
    english, hindi = common + only[:25], only[25:] + common
    hindi = [line.translate(str.maketrans("0123456789", "०१२३४५६७८९")) for line in hindi]
    (tmp_path / "en").write_text("".join(f"en-{i}\t{line}\n" for i, line in enumerate(english)))
    (tmp_path / "hi").write_text("".join(f"hi-{i}\t{line}\n" for i, line in enumerate(hindi)), encoding="utf-8")
    (tmp_path / "gold").write_text("".join(f"en-{i}\thi-{25 + i}\n" for i in range(15)))
    return tmp_path


def run(texts, **options):
    mine_command("run", str(texts / "en"), str(texts / "hi"), languages="en-hi", **options)


def test_translations_are_found_and_scored(texts, capsys):
    run(texts, gold=str(texts / "gold"))
    printed = capsys.readouterr()
    rows = [line.split("\t") for line in printed.out.splitlines()]
    assert {(row[1], row[2]) for row in rows} >= {(f"en-{i}", f"hi-{25 + i}") for i in range(15)}
    assert [float(row[0]) for row in rows] == sorted((float(row[0]) for row in rows), reverse=True)
    assert "recall 100.00" in printed.err


def test_a_file_appears_whole(texts):
    run(texts, threshold=1.01, output=str(texts / "mined.tsv"))
    rows = [line.split("\t") for line in (texts / "mined.tsv").read_text(encoding="utf-8").splitlines()]
    assert rows and all(float(row[0]) >= 1.01 and len(row) == 5 for row in rows)
    assert not list(texts.glob("*.incomplete"))


def test_plain_lines_are_named_by_their_number_and_repeated_ones_count_once(tmp_path):
    (tmp_path / "text").write_text("\ufeffone\n\ntwo\u2028zwei\x0c\none\n", encoding="utf-8")
    sentences = mine.read_sentences(str(tmp_path / "text"))
    assert sentences == mine.Sentences(("1", "3"), ("one", "two\u2028zwei"), {"1": 0, "3": 1, "4": 0}, 1, 1)
    (tmp_path / "gold").write_text("4\t3\n")
    assert mine.read_gold(str(tmp_path / "gold"), sentences, sentences) == {(0, 1)}


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("en", b"\n\n", "en: the file has no sentence"),
        ("en", b"fine\n\xff\n", "en:2: this is not UTF-8"),
        ("en", b"en-1\tone\nen-2\ttwo\nen-1\tthree\n", "en:3: the identifier 'en-1' occurs on an earlier line"),
        ("gold", b"en-1\thi-1\nen-1 hi-1\n", "gold:2: not two identifiers"),
        ("gold", b"en-1\thi-1\nen-1\thi-99\n", "gold:2: the target has no sentence 'hi-99'"),
        ("gold", b"", "gold: the file has no pair"),
    ],
)
def test_bad_files_are_named_with_their_line(texts, name, content, problem):
    (texts / name).write_bytes(content)
    with pytest.raises(UserError, match=problem):
        run(texts, gold=str(texts / "gold"))


def test_what_is_left_out_is_counted(texts, capsys):
    with (texts / "en").open("a") as file:
        file.write("\nen-98\t\nen-99\t" + (texts / "en").read_text().split("\n")[0].partition("\t")[2] + "\n")
    run(texts)
    assert capsys.readouterr().err.startswith(
        f"{texts / 'en'}: 40 sentences; 2 lines without one, 1 repeat an earlier one\n"
    )


def test_a_missing_file_is_named(texts):
    with pytest.raises(UserError, match="nowhere: cannot read"):
        run(texts, gold=str(texts / "nowhere"))


def test_languages_are_a_pair_that_the_model_knows(texts):
    with pytest.raises(UserError, match="'en-de' is not a pair of the model's languages, en, hi"):
        mine_command("run", str(texts / "en"), str(texts / "hi"), languages="en-de")
    with pytest.raises(UserError, match="Remedy: give --languages SOURCE-TARGET, of en, hi"):
        mine_command("run", str(texts / "en"), str(texts / "hi"))


def test_codes_of_a_pair_may_hold_hyphens():
    model = types.SimpleNamespace(languages=("de", "zh-Hans"), needs_language=False)
    assert mine.pair_codes("zh-Hans-de", model) == ("zh-Hans", "de")
    assert mine.pair_codes(None, model) == (None, None)


@pytest.mark.parametrize(
    "lines, line",
    [
        (["Fluss", "Stein", "", "Brief\tBrot", "Winter"], 4),
        (["a\tFluss", "b\tStein", "Brief"], 3),
    ],
)
def test_a_tab_on_some_lines_only_is_an_error(tmp_path, lines, line):
    """Otherwise the word before it would be taken for an identifier, and the sentence would lose it."""
    (tmp_path / "de").write_text("\n".join(lines))
    with pytest.raises(UserError, match=rf"de:{line}: (a|no) tab, but the lines before have (none|one): is"):
        mine.read_sentences(str(tmp_path / "de"))
