import json
import re
import shutil

import numpy as np
import pytest

import mlm_jax
from mlm_jax.checkpoints.saving import Checkpoints
from mlm_jax.commands.eval import evaluate_command, gradients_command
from mlm_jax.common.errors import UserError
from mlm_jax.common.seal import SEAL, sealed
from mlm_jax.evaluation.held_out import HeldOut
from mlm_jax.interop.exporting import export_hf
from mlm_jax.run.evaluate import Evaluated, evaluate, transfer_between
from tests.evaluation import runs
from tests.hostile.limits import refused_after_progress


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    store = runs.make_store(folder / "store")
    config = runs.make_config()
    loader, program = runs.make_program(store, config)
    checkpoints = Checkpoints(folder, config, store.vocabulary, runs.LANGUAGES, {"entities": runs.TAGS})
    state = program.initialise()
    checkpoints.save(7, state)
    checkpoints.wait()
    held_out = HeldOut(program, loader, store)
    expected, everything = (held_out.evaluate(state.params, everything=which).metrics for which in (False, True))
    return folder, expected, everything


def test_a_checkpoint_is_evaluated_on_the_rows_of_its_run_or_all_of_the_held_out_data(run):
    folder, *expected = run
    assert expected[0]["eval/loss/en"] != expected[1]["eval/loss/en"]
    for everything, wanted in zip((False, True), expected):
        evaluated = evaluate(folder, everything=everything)
        assert evaluated.step == 7
        assert evaluated.sources == {"entities": ("en",)}
        assert evaluated.metrics.keys() == wanted.keys()
        for key, value in wanted.items():
            assert evaluated.metrics[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key
        for key in ("eval/loss/en", "eval/loss/mean", "eval/entities/f1/ru", "eval/retrieval_at_1/mean"):
            low, high = evaluated.intervals[key]
            assert low <= evaluated.metrics[key] <= high and low < high or high == 0, key
        assert "eval/retrieval_at_1/hi" in evaluated.intervals  # of a language's pairs


@pytest.mark.parametrize("changes", [{"width": 10**12}, {"heads": 1}, {"lora": {"rank": 2}}], ids=str)
def test_a_config_of_another_model_than_the_arrays_is_refused(run, tmp_path, changes):
    shutil.copytree(run[0], tmp_path / "run")
    (step,) = (tmp_path / "run" / "checkpoints").glob("*")
    facts = json.loads((step / "facts" / "metadata").read_text())
    del facts[SEAL]
    facts["config"]["model"].update(changes)
    (step / "facts" / "metadata").write_text(json.dumps(sealed(facts)))
    readers = (evaluate, mlm_jax.load, lambda place: export_hf(place, tmp_path / "out"))
    for read in readers:
        with pytest.raises(UserError, match="damaged: array '.*' is .* by its config, but .* in its files"):
            read(tmp_path / "run")
    assert not (tmp_path / "out").exists()


def test_one_task_alone_is_printed_with_its_transfer(run, capsys):
    folder, expected, _ = run
    evaluate_command([str(folder)], task="entities")
    printed = capsys.readouterr().out
    assert "step 7" in printed
    assert "ranking" not in printed
    assert "source × target" in printed
    for language in ("en", "ru"):
        assert f"{100 * expected[f'eval/entities/f1/{language}']:.1f}" in printed


def test_json_has_every_number_and_nothing_else(run, capsys):
    folder, _, expected = run
    evaluate_command([str(folder)], task="entities", everything=True, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["step"] == 7
    low, high = found["intervals"]["eval/entities/loss/ru"]
    assert low < found["eval/entities/loss/ru"] < high
    assert found["eval/entities/loss/ru"] == pytest.approx(expected["eval/entities/loss/ru"], rel=1e-4)


def test_a_task_that_does_not_exist_is_named(run):
    with pytest.raises(UserError, match="no task 'entity'; did you mean 'entities'"):
        evaluate(run[0], "entity")


def test_checkpoints_of_several_sources_make_a_matrix_and_seeds_are_averaged(caplog):
    config = runs.make_config()
    languages = ("en", "ru", "hi")

    def trained_on(source, scores):
        metrics = {f"eval/entities/accuracy/{code}": value for code, value in scores.items()}
        return Evaluated("run", 1, config, languages, metrics, {}, {"entities": source})

    matrix = transfer_between(
        [
            trained_on(("en",), {"en": 0.9, "ru": 0.5}),
            trained_on(("en",), {"en": 0.7, "ru": 0.3}),
            trained_on(("ru",), {"en": 0.4, "ru": 0.8}),
            trained_on(("en", "ru"), {"en": 1.0, "ru": 1.0}),
        ],
        "entities",
    )
    np.testing.assert_allclose(matrix.scores, [[0.8, 0.4], [0.4, 0.8]])
    assert caplog.messages == [
        "run was trained on entities in en, ru, so it has no row in the matrix of transfer from one language"
    ]
    assert matrix.gap("en") == pytest.approx(0.4)
    assert transfer_between([trained_on(("en", "ru"), {})], "entities") is None


def test_gradients_of_tasks_and_of_languages_are_compared(run, capsys):
    folder, *_ = run
    gradients_command(str(folder), "tasks", parameters="encoder/.*", as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["names"] == ["mlm", "ranking", "entities"]
    cosines = np.array(found["cosines"])
    np.testing.assert_allclose(np.diag(cosines), 1, rtol=1e-5)
    assert (np.abs(cosines - cosines.T) < 1e-5).all() and (np.abs(cosines[0, 1:]) < 1).all()
    gradients_command(str(folder), "languages", task="mlm")
    printed = capsys.readouterr().out
    assert "1.00" in printed and "norm" in printed and sum(code in printed for code in runs.LANGUAGES) >= 2


@pytest.mark.parametrize(
    "sizes",
    [
        {"tasks.mlm.rows": 10**9, "tasks.mlm.length": 10**9, "evaluation.rows": 10**9},
        {"tasks.mlm.length": 10**6},
        {"tasks.ranking.length": 10**15},
    ],
)
@pytest.mark.parametrize("options", [(), ("--gradients", "tasks")])
def test_rows_of_a_stranger_that_do_not_fit_are_refused_before_they_are_read(run, tmp_path, capfd, sizes, options):
    folder, *_ = run
    shutil.copytree(folder / "checkpoints", tmp_path / "checkpoints")
    file = tmp_path / "checkpoints" / "7" / "facts" / "metadata"
    facts = json.loads(file.read_text())
    del facts[SEAL]
    for key, value in {"data.store": str(folder / "store"), "model.max_positions": 10**16, **sizes}.items():
        room = facts["config"]
        *path, last = key.split(".")
        for part in path:
            room = room[part]
        room[last] = value
    file.write_text(json.dumps(sealed(facts)))
    said = refused_after_progress(capfd, "eval", tmp_path, "--task", next(iter(sizes)).split(".")[1], *options)
    assert re.search(
        r"rows of this number and length needs [\d,.]+ GB of memory, and [\d,.]+ GB are free. Remedy", said
    )
