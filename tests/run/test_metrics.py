"""metrics.jsonl, TensorBoard, the terminal, and where the time went."""

import errno
import json
import math
import struct
import sys
import types

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from mlm_jax.checkpoints.workdir import config_json
from mlm_jax.common.disk import disk_errors
from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.report.history import read_events
from mlm_jax.run import goodput as goodput_room
from mlm_jax.run.goodput import Goodput
from mlm_jax.run.loop import train
from mlm_jax.run.metrics import MetricsWriter, TrainingProgress
from mlm_jax.run.weights_and_biases import check_wandb


def write(workdir, start, steps, value=lambda step: step / 3, **options):
    with MetricsWriter(workdir, start, writes=True, **options) as writer:
        for step in steps:
            writer.write(step, {"train/loss/de": value(step), "train/learning_rate": 0.1})


def losses(workdir):
    return [(event["step"], event["train/loss/de"]) for event in read_events(workdir)]


def test_an_event_is_a_line_of_flat_keys(tmp_path):
    write(tmp_path, 0, [10])
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    event = json.loads(line)
    assert list(event) == ["step", "time", "train/loss/de", "train/learning_rate"]
    assert event["step"] == 10 and event["train/loss/de"] == 10 / 3 and event["time"] > 1.6e9
    assert [*read_events(tmp_path)] == [event]
    assert not [*read_events(tmp_path / "elsewhere")]


def test_an_interrupted_run_leaves_the_same_losses_as_an_uninterrupted_one(tmp_path):
    (tmp_path / "one").mkdir(), (tmp_path / "other").mkdir()
    write(tmp_path / "one", 0, range(1, 11))
    write(tmp_path / "other", 0, range(1, 8), lambda step: step / 3 if step <= 4 else -1.0)
    with (tmp_path / "other" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "train/lo')  # killed in the middle of a line
    assert len([*read_events(tmp_path / "other")]) == 7
    write(tmp_path / "other", 4, range(5, 11))  # from the checkpoint of step 4
    assert losses(tmp_path / "other") == losses(tmp_path / "one")


def test_a_run_that_begins_again_forgets_the_earlier_one(tmp_path):
    write(tmp_path, 0, range(5))
    write(tmp_path, 0, range(2))
    assert [step for step, _ in losses(tmp_path)] == [0, 1]


def test_what_is_not_finite_is_null_which_every_reader_of_json_knows(tmp_path):
    write(tmp_path, 0, [1, 2, 3], lambda step: {1: math.nan, 2: math.inf, 3: 1.0}[step])
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert losses(tmp_path) == [(1, None), (2, None), (3, 1.0)]


def test_a_damaged_line_is_named(tmp_path):
    write(tmp_path, 0, [1, 2, 3])
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    (tmp_path / "metrics.jsonl").write_text("\n".join([lines[0], "}", lines[2], ""]))
    with pytest.raises(UserError, match=r"metrics.jsonl:2: this is not a JSON object"):
        [*read_events(tmp_path)]
    with pytest.raises(UserError, match=":2:"):
        write(tmp_path, 1, [])


def test_only_the_process_that_writes_does(tmp_path):
    with MetricsWriter(tmp_path, 0, writes=False) as writer:
        writer.write(1, {"train/loss/de": 1.0})
    assert not list(tmp_path.iterdir())


def tensorboard_events(folder):
    """Read event files: records of a length, its checksum, the bytes, and theirs."""
    events = []
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            events.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return events


def numbers(workdir):
    """Return (step, key, value) of everything in TensorBoard's files."""
    events = tensorboard_events(workdir / "tensorboard")
    return [(event.step, value.tag, value.simple_value) for event in events for value in event.summary.value]


def test_tensorboard_has_each_value_of_the_metrics_once_whatever_ended_earlier_starts(tmp_path):
    write(tmp_path, 0, [0, 1, 2, 3])
    write(tmp_path, 1, [2])  # killed after step 3, its last checkpoint was of step 1
    write(tmp_path, 2, [3, 4], config={"seed": 3})
    write(tmp_path, 4, [], config={"seed": 3})  # all steps are done
    events = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    wanted = [(event["step"], key, event[key]) for event in events for key in event if key not in ("step", "time")]
    found = numbers(tmp_path)
    about = [
        "config/text_summary",
        *(f"_hparams_/{name}" for name in ("experiment", "session_start_info", "session_end_info")),
    ]
    assert [found.pop(0)[:2] for _ in about] == [(0, name) for name in about]
    assert [(step, key) for step, key, _ in found] == [(step, key) for step, key, _ in wanted]
    assert [value for *_, value in found] == pytest.approx([value for *_, value in wanted])
    assert len({(step, key) for step, key, _ in found}) == len(found) == 10
    assert [file.name for file in tmp_path.glob(".*")] == []


def test_tensorboard_shows_often_varied_keys_and_those_not_at_their_defaults_as_hyperparameters(tmp_path):
    config = config_json(default_config())
    config["seed"], config["optimizer"]["learning_rate"], config["tasks"] = 3, 0.5, {"mlm": {"rows": 8}}
    write(tmp_path, 0, [0], config=config)
    summaries = [
        event.summary.value[0] for event in tensorboard_events(tmp_path / "tensorboard") if event.summary.value
    ]
    content = next(value.metadata.plugin_data.content for value in summaries if "session_start" in value.tag)
    found = HParamsPluginData.FromString(content).session_start_info.hparams
    assert (found["seed"].number_value, found["optimizer.learning_rate"].number_value) == (3, 0.5)
    often = {"seed", "optimizer.learning_rate", "mixing.alpha", "steps"}  # also at their defaults
    assert set(found) == {*often, *(key for key in found if key.startswith("tasks"))}
    content = next(value.metadata.plugin_data.content for value in summaries if "experiment" in value.tag)
    first = [info.name for info in HParamsPluginData.FromString(content).experiment.hparam_infos[:4]]
    assert set(first) == often  # TensorBoard shows the first few
    assert any(key.startswith("tasks") and "8" in str(value) for key, value in found.items())


def test_a_start_from_the_beginning_begins_tensorboard_anew(tmp_path):
    write(tmp_path, 0, [0, 1])
    write(tmp_path, 0, [0])
    assert [(step, key) for step, key, _ in numbers(tmp_path)] == [(0, "train/loss/de"), (0, "train/learning_rate")]


class Full:
    """A file on a disk that is full."""

    def write(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("what", ["metrics.jsonl", "tensorboard"])
def test_a_disk_that_is_full_reaches_the_caller(tmp_path, what, monkeypatch):
    writer = MetricsWriter(tmp_path, 0, writes=True)
    place = (writer, "file") if what == "metrics.jsonl" else (writer.tensorboard._writer._py_recordio_writer, "_writer")
    monkeypatch.setattr(*place, Full())
    with pytest.raises(UserError, match="the disk is full"), disk_errors(tmp_path):
        writer.write(1, {"train/loss/de": 1.0})


def test_weights_and_biases_gets_the_same_in_one_run_a_workdir(tmp_path, monkeypatch):
    logged, runs = [], []
    run = types.SimpleNamespace(
        log=lambda values, step: logged.append((step, values)), finish=lambda: logged.append("end")
    )
    errors = types.SimpleNamespace(Error=ConnectionError)
    wandb = types.SimpleNamespace(init=lambda **options: runs.append(options) or run, errors=errors)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for folder in ("a/run", "a/run", "b/run"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        write(tmp_path / folder, 0, [1], wandb_project="mine")
    assert logged[:2] == [(1, {"train/loss/de": 1 / 3, "train/learning_rate": 0.1}), "end"]
    assert [options["project"] for options in runs] == ["mine"] * 3
    assert runs[0]["id"] == runs[1]["id"] != runs[2]["id"]
    config = {"seed": 3, "tasks": {"a": {"objective": "mlm"}, "b": {"objective": "ranking"}}}
    write(tmp_path / "b/run", 0, [1], wandb_project="mine", config=config)
    assert runs[-1]["config"] == config and runs[-1]["tags"] == ["mlm", "ranking"]
    monkeypatch.setenv("WANDB_TAGS", "mine")  # W&B reads it unless tags are given
    write(tmp_path / "b/run", 0, [1], wandb_project="mine", config=config)
    assert "tags" not in runs[-1]


def test_a_run_without_weights_and_biases_or_its_key_ends_before_it_writes_anything(tmp_path, monkeypatch, config):
    class NoKey(Exception):
        pass

    def login():
        raise NoKey("No API key configured.")

    config.training.wandb = "mine"
    monkeypatch.delenv("WANDB_MODE", raising=False)
    wandb = types.SimpleNamespace(login=login, errors=types.SimpleNamespace(Error=NoKey))
    for library, message in (
        (None, "Biases is not installed"),
        (wandb, "No API key configured. Remedy: run wandb login"),
    ):
        monkeypatch.setitem(sys.modules, "wandb", library)
        with pytest.raises(UserError, match=message):
            train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_wandb()


LINE = {
    "train/loss/de": 2.5,
    "train/loss/mean": 3.25,
    "train/accuracy/de": 0.5,
    "train/tokens_per_second": 12345.6,
    "train/seconds_left": 90.0,
    "train/ranking/loss/mean": 4.5,
    "train/ranking/loss/de": 4.0,
    "train/learning_rate": 1e-3,
}


def test_where_no_terminal_is_progress_is_plain_lines(capsys):
    with TrainingProgress(100, 0, shown=True) as progress:
        progress.update(10, LINE)
        progress.print("[de] is no markup")
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["step 10/100  12,346 tokens/s  1.5 min left  de 2.50 mean 3.25 ranking 4.50", "[de] is no markup"]


def test_a_plain_line_of_many_languages_has_the_mean_and_the_worst(capsys):
    losses = {f"train/loss/l{index}": 2.0 + index / 100 for index in range(100)} | {"train/loss/l7": float("nan")}
    with TrainingProgress(100, 0, shown=True) as progress:
        progress.update(10, losses | {"train/loss/mean": 2.5, "train/ranking/loss/mean": 4.5})
    (line,) = capsys.readouterr().out.splitlines()
    assert line == (
        "step 10/100  mean 2.50 ranking 4.50  worst of 100 languages: l7 nan l99 2.99 l98 2.98 l97 2.97 l96 2.96"
    )


@pytest.mark.parametrize("languages, last", [(6, "l5"), (300, "+")])
def test_a_terminal_shows_a_bar_and_the_losses_that_fit(capsys, monkeypatch, languages, last):
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "90", "LINES": "24"}.items():
        monkeypatch.setenv(name, value)
    progress = TrainingProgress(10_000, 20, shown=True)
    progress.update(1_000, {f"train/loss/l{index}": 2.0 for index in range(languages)} | LINE)
    with progress.console.capture() as capture:
        progress.console.print(progress._picture())
    text = capture.get()
    for shown in ("1,000/10,000", "12,346 tokens/s", "left", "mean", "3.25", "l0", last):
        assert shown in text
    assert len(text.splitlines()) <= 7
    with progress:
        progress.print("a line above")
    out = capsys.readouterr().out
    assert "a line above" in out and "1,000/10,000" in out


def test_other_processes_show_nothing(capsys):
    with TrainingProgress(100, 0, shown=False) as progress:
        progress.update(10, LINE)
        progress.print("hello")
    assert capsys.readouterr().out == ""


def test_goodput_adds_up_over_restarts(tmp_path, monkeypatch):
    clock = types.SimpleNamespace(now=100.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(goodput_room, "time", clock)

    def start(spans):
        goodput = Goodput(tmp_path)
        for name, seconds in spans:
            if name:
                with goodput.span(name):
                    clock.now += seconds
            else:
                clock.now += seconds
        goodput.write()
        return goodput

    first = start([("compile", 10), ("step", 60), ("data", 5), ("", 5)])
    assert first.totals() == {"step": 60, "compile": 10, "data": 5, "checkpoint": 0, "evaluation": 0, "other": 5}
    clock.now += 1000  # nobody runs
    second = start([("step", 100), ("checkpoint", 4), ("evaluation", 16)])
    shares = second.shares()
    assert shares == {
        "step": 0.8,
        "compile": 0.05,
        "data": 0.025,
        "checkpoint": 0.02,
        "evaluation": 0.08,
        "other": 0.025,
    }
    assert second.summary() == (
        "goodput: step 80.0%, compile 5.0%, data 2.5%, checkpoint 2.0%, evaluation 8.0%, other 2.5%"
    )
    with pytest.raises(ValueError), second.span("evaluation"):  # a failed span counts its time too
        clock.now += 50
        raise ValueError
    assert second.totals()["evaluation"] == 66

    Goodput(tmp_path, writes=False).write()
    assert json.loads((tmp_path / "goodput.json").read_text())["step"] == 160
    (tmp_path / "goodput.json").write_text("{")
    with pytest.raises(UserError, match="goodput.json: this is not JSON"):
        Goodput(tmp_path)


def test_a_run_that_mostly_evaluates_is_told_so_once(tmp_path):
    goodput = Goodput(tmp_path)
    goodput.begun -= 400
    goodput.add("step", 100)
    goodput.add("evaluation", 190)
    assert goodput.advice() == ""  # less than half
    goodput.add("evaluation", 20)
    goodput.begun -= 10
    assert "evaluation takes 51% of the time and steps 24%: raise evaluation.every" in goodput.advice()
    assert goodput.advice() == ""


def test_nothing_is_said_of_a_run_that_has_just_begun(tmp_path):
    goodput = Goodput(tmp_path)
    goodput.begun -= 100
    goodput.add("evaluation", 90)
    assert goodput.advice() == ""
