import io
import json
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax import cli
from mlm_jax import model as model_room
from mlm_jax.checkpoints.saving import Checkpoints
from mlm_jax.commands.translate import translate_command
from mlm_jax.common.lines import Arriving
from mlm_jax.inference.synthetic import as_column
from mlm_jax.inference.translator import Search, load_translator
from tests.evaluation.runs import LANGUAGES, make_config, make_store, sentence


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The checkpoint of a translation model with drawn weights, which ends its sentences now and then."""
    folder = tmp_path_factory.mktemp("command")
    vocabulary = make_store(folder / "store").vocabulary
    config = make_config(max_positions=64, decoder=({"layers": 1, "weights": "target_language"},), global_every=1)
    config.tasks = {"translation": {"objective": "translation", "rows": 8, "length": 24}}
    _, shapes, _ = model_room.abstract(config, vocabulary_size=vocabulary.size, languages=LANGUAGES)
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32), shapes)
    params["output_bias"] = params["output_bias"].at[vocabulary.eos_id].add(3.0)  # so that texts end
    checkpoints = Checkpoints(folder / "run", config, vocabulary, LANGUAGES, {})
    checkpoints.save(3, {"params": params})
    checkpoints.wait()
    return folder / "run"


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "in.txt"
    file.write_text("\n".join([sentence("en", 0), "", *(sentence("en", seed) for seed in range(1, 15))]) + "\n")
    return file


def test_lines_in_lines_out(run, text, tmp_path, capsys):
    out = tmp_path / "out.txt"
    arguments = ["translate", str(run), "--to", "ru", "--from", "en", "--input", str(text), "--length", "8"]
    assert cli.main([*arguments, "--beams", "2", "--output", str(out)]) == 0
    texts = text.read_text().split("\n")[:-1]
    search = Search(beams=2, count=2, length=8)
    wanted = load_translator(run).translate(texts, target_language="ru", source_language="en", search=search)
    assert out.read_text() == "".join(as_column(translation.text) + "\n" for translation in wanted)
    assert f"{len(texts)} lines, 1 empty" in capsys.readouterr().err
    assert cli.main([*arguments, "--beams", "2", "--n-best", "2"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == [str(n) for n in range(1, len(texts) + 1) for _ in range(2) if texts[n - 1]]
    assert [row[2] for row in rows] == [
        as_column(found.text) for translation in wanted for found in translation.hypotheses
    ]
    assert len({row[2] for row in rows}) > 5 and float(rows[0][1]) >= float(rows[1][1])


def test_a_translation_with_line_ends_is_one_line(run, text, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "mlm_jax.data.vocabulary.pieces.Vocabulary.decode", lambda self, ids: f" {len(ids)}\n\ttokens\u2028"
    )
    out = tmp_path / "out.txt"
    arguments = ["translate", str(run), "--to", "ru", "--from", "en", "--input", str(text), "--output", str(out)]
    for n_best in (1, 2):
        assert cli.main([*arguments, "--length", "4", "--beams", "2", "--n-best", str(n_best)]) == 0
        written = out.read_text().split("\n")[:-1]
        assert len(written) == (16 if n_best == 1 else 30)
        assert {line.partition(" ")[2] for line in written if line} == {"tokens"}


def test_a_line_without_pieces_is_an_empty_one(run, tmp_path, capsys):
    (tmp_path / "in.txt").write_text(f"{sentence('en', 0)}\n\u200b\n", encoding="utf-8")
    arguments = [
        "translate",
        str(run),
        "--to",
        "ru",
        "--from",
        "en",
        "--input",
        str(tmp_path / "in.txt"),
        "--length",
        "4",
    ]
    assert cli.main([*arguments, "--beams", "1"]) == 0
    out, err = capsys.readouterr()
    assert out.split("\n")[1:] == ["", ""] and err.startswith("2 lines, 1 empty")


def test_languages_are_columns_and_empty_translations_are_counted(run, text, monkeypatch, capsys):
    monkeypatch.setattr("mlm_jax.data.vocabulary.pieces.Vocabulary.decode", lambda self, ids: "" if ids[0] % 2 else "x")
    options = ["--from", "en", "--input", str(text), "--length", "4", "--beams", "1"]
    columns = []
    for to in ("ru", "hi", "ru,hi"):
        assert cli.main(["translate", str(run), "--to", to, *options]) == 0
        out, err = capsys.readouterr()
        columns.append(out.split("\n")[:-1])
        assert err.startswith("16 lines, 1 empty, ")
        empty = sum(cell == "" for line in columns[-1] for cell in line.split("\t")) - to.count(",") - 1
        assert f"{empty} with an empty translation" in err
    assert columns[2] == ["\t".join(both) for both in zip(*columns[:2])]


def test_a_line_is_answered_before_the_next_one_is_there(run, monkeypatch):
    answered, waited = threading.Event(), []

    class Out(io.StringIO):
        def flush(self):
            if self.getvalue():
                answered.set()

    def lines(place):
        yield sentence("en", 0)
        waited.append(answered.wait(120))
        yield sentence("en", 1)

    out = Out()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("mlm_jax.commands.translate.read_lines", lines)
    monkeypatch.setattr("mlm_jax.commands.translate.arriving", lambda lines, place: Arriving(lines))
    translate_command(run, target="ru", source="en", search=Search(beams=1, length=4))
    assert waited == [True] and out.getvalue().count("\n") == 2


def test_a_synthetic_corpus_comes_with_its_provenance(run, text, tmp_path, capsys):
    out = tmp_path / "back.tsv"
    arguments = ["translate", str(run), "--to", "ru", "--input", str(text), "--length", "16"]
    synthetic = ["--synthetic", "back", "--from", "en", "--output", str(out)]
    assert cli.main([*arguments, *synthetic, "--margin", "9"]) == 2
    assert "no pair was kept" in capsys.readouterr().err and not list(tmp_path.glob("back*"))
    assert cli.main([*arguments, *synthetic, "--margin", "0", "--temperature", "1"]) == 0
    pairs = [line.split("\t") for line in out.read_text().splitlines()]
    facts = json.loads((tmp_path / "back.tsv.json").read_text())
    assert facts["pair"] == "ru-en" and facts["synthetic"] == "back" and facts["translator"]["step"] == 3
    assert facts["counts"]["kept"] == len(pairs) > 0 and facts["recipe"]["search"]["temperature"] == 1.0
    assert all(first.startswith("<BT> ") and second in text.read_text() for first, second in pairs)
    assert 'config.data.parallel["ru-en"]' in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--to", "fr"], "does not know the language 'fr'"),
        (
            ["--to", "ru"],
            "the language of the text is required. Remedy: give source_language= or --from: one of en, ru, hi",
        ),
        (["--to", "ru", "--from", "en", "--beams", "0"], "beams and n-best are numbers from 1"),
        (["--to", "ru", "--from", "en", "--synthetic", "back"], "is a .tsv file"),
        (["--to", "ru", "--synthetic", "back", "--output", "x.tsv"], "give --from"),
        (["--to", "ru,hi", "--synthetic", "back", "--output", "x.tsv", "--from", "en"], "name one language after --to"),
        (
            ["--to", "ru", "--synthetic", "back", "--output", "x.tsv", "--from", "en", "--n-best", "2"],
            "leave out --n-best",
        ),
        (["--to", "ru,hi", "--n-best", "2"], "leave out --n-best"),
        (["--to", ","], "no language to translate into"),
        (["--to", "ru", "--top-k", "5"], "Remedy: add --temperature 1"),
        (["--to", "ru", "--beams", "2", "--temperature", "1"], "leave out one of them"),
        (["--to", "ru", "--temperature", "nan"], "temperature is nan"),
    ],
)
def test_errors_are_one_line(run, text, capsys, arguments, message):
    assert cli.main(["translate", str(run), "--input", str(text), *arguments]) == 2
    found = capsys.readouterr().err
    assert message in found and found.count("\n") == 1
