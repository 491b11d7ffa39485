"""Checkpoints: other meshes, damage, contradictions, and starting from another run's weights."""

import json
import logging
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax.checkpoints import checkpoint, contents, initialise
from mlm_jax.checkpoints.checkpoint import load_parameters
from mlm_jax.checkpoints.checksum import checksums
from mlm_jax.checkpoints.initialise import initialise_from
from mlm_jax.checkpoints.workdir import check_workdir, claim_workdir, config_json
from mlm_jax.common.errors import UserError
from mlm_jax.data.vocabulary.pieces import Vocabulary
from mlm_jax.run.stop import StopSignal
from tests.checkpoints.helpers import (
    LANGUAGES,
    VOCABULARY,
    assert_same,
    make_config,
    make_state,
    open_run,
    save,
    shapes,
)


def files_of(folder):
    return sorted((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A workdir with checkpoints 1 and 2, to be copied."""
    folder = tmp_path_factory.mktemp("run")
    save(open_run(folder), 1, 2)
    return folder


@pytest.fixture
def workdir(written, tmp_path):
    subprocess.run(["cp", "-r", f"{written}/checkpoints", str(tmp_path)], check=True)
    return tmp_path


def test_a_checkpoint_may_be_mounted_in_the_root_folder(workdir):
    """As in a container: it has no folder of a run around it."""
    facts = contents.load_facts(workdir / "checkpoints" / "2")
    assert checkpoint._describe(Path("/model"), facts).languages == LANGUAGES


@pytest.mark.parametrize("devices", [8, 4, 2, 1])
def test_a_checkpoint_is_restored_bit_for_bit_on_any_number_of_devices(workdir, devices):
    like = make_state(devices)
    state = open_run(workdir).restore(shapes(like))
    assert_same(state, make_state(seed=2, step=2))
    assert state.params["encoder"]["kernel"].sharding == like.params["encoder"]["kernel"].sharding


def test_saving_does_not_wait_for_the_disk_nor_see_what_is_done_to_the_state_meanwhile(tmp_path):
    checkpoints, state = open_run(tmp_path), make_state(seed=3)
    wanted = jax.device_get(state)
    checkpoints.save(3, state)
    jax.tree.map(lambda leaf: leaf.delete(), state)  # as donation does
    checkpoints.wait()
    assert_same(open_run(tmp_path).restore(shapes(make_state())), wanted)


def test_there_is_nothing_to_restore_in_a_new_workdir(tmp_path):
    assert open_run(tmp_path).restore(shapes(make_state())) is None


def flip_bits(folder):
    """Flip a bit here and there in every file that holds arrays."""
    for file in data_of(folder):
        data = bytearray(file.read_bytes())
        for position in range(100, len(data), 1000):
            data[position] ^= 4
        file.write_bytes(data)


def truncate(folder):
    for file in data_of(folder):
        file.write_bytes(file.read_bytes()[:999])


def data_of(folder):
    """Return the files that hold arrays; how many there are is a matter of timing."""
    return [file for file in files_of(folder / "state") if file.parent.name == "d" and file.stat().st_size > 1500]


@pytest.mark.parametrize(
    "damage",
    [
        flip_bits,
        truncate,
        lambda folder: (folder / "state" / "manifest.ocdbt").unlink(),
        lambda folder: (folder / "state" / "_METADATA").write_text("{"),
        lambda folder: (folder / "facts" / "metadata").write_text("{}"),
    ],
    ids=["flipped bits", "truncated", "no manifest", "metadata", "facts"],
)
def test_a_damaged_checkpoint_is_skipped_with_a_warning(workdir, damage, caplog):
    damage(workdir / "checkpoints" / "2")
    assert load_parameters(workdir).step == 1
    checkpoints = open_run(workdir)
    state = checkpoints.restore(shapes(make_state()))
    assert_same(state, make_state(seed=1, step=1))
    assert "checkpoint 2 is damaged and is skipped" in caplog.text
    assert (workdir / "checkpoints" / "2.damaged").is_dir()
    save(checkpoints, 2)  # the run reaches this step again
    assert_same(open_run(workdir).restore(shapes(make_state())), make_state(seed=2, step=2))


def test_if_none_can_be_read_nothing_is_touched(workdir):
    for step in (1, 2):
        flip_bits(workdir / "checkpoints" / str(step))
    with pytest.raises(UserError, match="no checkpoint can be read"):
        open_run(workdir).restore(shapes(make_state()))
    assert sorted(child.name for child in (workdir / "checkpoints").iterdir() if child.is_dir()) == ["1", "2"]
    with pytest.raises(UserError, match="the checkpoint is damaged"):
        load_parameters(workdir)


def test_memory_that_is_full_is_not_damage(workdir, monkeypatch):
    def restore(*_, **__):
        raise ValueError("cannot place the array") from MemoryError("RESOURCE_EXHAUSTED")

    monkeypatch.setattr(contents.ocp.PyTreeCheckpointHandler, "restore", restore)
    with pytest.raises(ValueError, match="cannot place"):
        open_run(workdir).restore(shapes(make_state()))
    assert (workdir / "checkpoints" / "2").is_dir()


def test_an_incomplete_checkpoint_is_skipped_and_removed(workdir, caplog):
    (workdir / "checkpoints" / "2").rename(workdir / "checkpoints" / "2.orbax-checkpoint-tmp")
    checkpoints = open_run(workdir)
    assert "checkpoint 2 is incomplete and is skipped" in caplog.text
    assert_same(checkpoints.restore(shapes(make_state())), make_state(seed=1, step=1))
    save(checkpoints, 3)
    assert sorted(child.name for child in (workdir / "checkpoints").iterdir() if child.is_dir()) == ["1", "3"]


@pytest.mark.parametrize(
    "other, message",
    [
        (
            {"config": make_config(model__width=7, optimizer__epsilon=1.0)},
            "config.model.width, config.optimizer.epsilon",
        ),
        ({"vocabulary": Vocabulary.bytes(LANGUAGES, 5)}, "these differ: vocabulary"),
        ({"languages": ("de", "en")}, "these differ: languages"),
        ({"labels": {"genre": ("a", "b")}}, "these differ: labels"),
    ],
)
def test_a_checkpoint_of_another_run_is_an_error(workdir, other, message):
    with pytest.raises(UserError) as raised:
        open_run(workdir, **other).restore(shapes(make_state()))
    assert message in str(raised.value) and str(workdir) in str(raised.value)
    assert (workdir / "checkpoints" / "2").is_dir()


def test_keys_that_may_change_are_changed(workdir):
    config = make_config(mesh__fsdp=4, evaluation__every=7, checkpoint__keep_last=1, training__microbatches=2)
    config.steps = 99
    # It changes what is evaluated, not what is trained.
    config.tasks = {"mlm": {**config.tasks["mlm"], "evaluate_on": ()}}
    assert open_run(workdir, config).restore(shapes(make_state())) is not None


def test_another_model_in_the_checkpoint_is_an_error_that_names_an_array(workdir):
    state = make_state()
    wider = state._replace(params={"encoder": {**state.params["encoder"], "kernel": jnp.zeros((64, 81))}})
    with pytest.raises(UserError, match="the first is 'params/encoder/kernel'"):
        open_run(workdir).restore(shapes(wider))
    more = state._replace(optimizer_state=(state.optimizer_state, {"nu": state.params["encoder"]["bias"]}))
    with pytest.raises(UserError, match="the first is 'optimizer_state/"):
        open_run(workdir).restore(shapes(more))


def test_a_workdir_belongs_to_its_config(tmp_path):
    check_workdir(tmp_path, make_config())
    claim_workdir(tmp_path, make_config())
    config = make_config(evaluation__rows=1)
    config.steps = 3
    check_workdir(tmp_path, config)
    config.model.width, config.seed = 7, 5
    with pytest.raises(UserError, match=r"differ: model.width \(768 there, 7 here\), seed \(0 there, 5 here\)"):
        check_workdir(tmp_path, config)
    # A key that this version has added has its default, and a key that it has dropped is ignored.
    values = json.loads((tmp_path / "config.json").read_text())
    del values["model"]["dropout"]
    values["model"]["forgotten"] = 1
    (tmp_path / "config.json").write_text(json.dumps(values))
    check_workdir(tmp_path, make_config())
    # A share of the steps equals that number of steps, also in the defaults of old runs.
    config = make_config(optimizer__warmup_steps=0.05, optimizer__decay_steps=0.1)
    config.steps = 10_000
    values = config_json(config)
    values["optimizer"].update(warmup_steps=500, decay_steps=1000)
    (tmp_path / "config.json").write_text(json.dumps(values))
    check_workdir(tmp_path, config)
    config.steps = 2_000
    with pytest.raises(UserError, match=r"warmup_steps \(500.0 there, 0.05 here\)"):
        check_workdir(tmp_path, config)
    # Runs of older versions continue, although two options of a task have new names.
    config = make_config()
    config.tasks = {"mlm": {**config.tasks["mlm"], "same_language_rows": 4, "evaluate_on": ("ner",)}}
    values = config_json(config)
    values["tasks"]["mlm"]["alike"] = values["tasks"]["mlm"].pop("same_language_rows")
    values["tasks"]["mlm"]["test"] = values["tasks"]["mlm"].pop("evaluate_on")
    (tmp_path / "config.json").write_text(json.dumps(values))
    check_workdir(tmp_path, config)
    with pytest.raises(UserError, match="tasks.mlm.same_language_rows"):
        check_workdir(tmp_path, make_config())
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        check_workdir(tmp_path, make_config())


def test_a_checkpoint_alone_is_enough_to_use_the_model(workdir):
    (workdir / "checkpoints" / "2").rename(workdir / "elsewhere")
    loaded = load_parameters(workdir / "elsewhere")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, make_state(seed=2).params)
    assert loaded.config.languages == LANGUAGES and loaded.languages == LANGUAGES
    assert loaded.vocabulary.fingerprint == VOCABULARY.fingerprint
    assert {device for leaf in jax.tree.leaves(loaded.params) for device in leaf.devices()} == {jax.devices()[0]}
    with pytest.raises(UserError, match="no checkpoint here"):
        load_parameters(workdir / "nowhere")


def test_a_model_is_used_with_the_rotary_positions_of_its_last_phase(tmp_path):
    config = make_config()
    config.steps, config.curriculum = 3, ({"steps": 1}, {"steps": 2, "rope_theta": 7.0})
    save(open_run(tmp_path, config), 1, 2)
    for step, theta in ((1, config.model.rope_theta), (2, 7.0)):
        assert load_parameters(tmp_path / "checkpoints" / str(step)).config.model.rope_theta == theta
    assert open_run(tmp_path, config).restore(shapes(make_state())).step == 2  # the same run still


def test_the_average_of_the_weights_is_used_if_there_is_one(tmp_path):
    config, state = make_config(training__ema=0.9), make_state(seed=1)
    checkpoints = open_run(tmp_path, config)
    checkpoints.save(1, state._replace(average=make_state(seed=5).params))
    checkpoints.wait()
    jax.tree.map(np.testing.assert_array_equal, load_parameters(tmp_path).params, make_state(seed=5).params)


def test_a_full_disk_is_an_error_and_leaves_earlier_checkpoints_whole(workdir, monkeypatch):
    checkpoints = open_run(workdir)

    def no_space(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: Error writing local file: No space left on device")

    monkeypatch.setattr(checkpoints.manager, "wait_until_finished", no_space)
    half_written = workdir / "checkpoints" / "3.orbax-checkpoint-tmp"
    half_written.mkdir()
    with pytest.raises(UserError, match="the disk is full; earlier checkpoints are complete"):
        checkpoints.save(3, make_state())
    assert not half_written.exists()
    with pytest.raises(UserError, match="the disk is full"):
        checkpoints.wait()
    assert_same(open_run(workdir).restore(shapes(make_state())), make_state(seed=2, step=2))


# ------------------------------------------------------------------------------------------------- checksums


def test_checksums_are_of_the_bits_and_do_not_depend_on_the_mesh():
    assert checksums(make_state(8)) == checksums(make_state(1)) == checksums(make_state(4))
    rng = random.Random(0)
    value = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    plain = checksums({"w": jnp.asarray(value)})
    bits = value.view(np.uint32).ravel().astype(object)
    assert plain == {"w": int(sum(b * (2 * i + 1) for i, b in enumerate(bits)) % 2**32)}
    for _ in range(20):
        other = value.copy()
        other.view(np.uint32)[rng.randrange(5), rng.randrange(7)] ^= np.uint32(1 << rng.randrange(32))
        assert checksums({"w": jnp.asarray(other)}) != plain
    assert checksums({"w": jnp.asarray(value[::-1])}) != plain  # the order counts
    large = np.random.default_rng(0).normal(size=(6, 1024, 1024)).astype(np.float32)  # read block by block
    positions = 2 * np.arange(large.size, dtype=np.uint32) + 1
    assert checksums({"w": jnp.asarray(large)}) == {
        "w": int((large.view(np.uint32).ravel() * positions).sum(dtype=np.uint32))
    }
    mixed = {"a": jnp.ones(3, jnp.bfloat16), "b": jnp.array([True, False]), "c": jnp.int32(-1), "d": jnp.int8([-1, 2])}
    assert checksums(mixed) == {"a": 0x3F80 * 9, "b": 1, "c": 2**32 - 1, "d": 255 + 6}


# ----------------------------------------------------------------------------------------- another run's weights


class Grown:
    composed, fresh, copied, new_groups = 0, 0, 0, ()

    def __init__(self, params):
        self.params = params


@pytest.fixture
def same_shapes(monkeypatch):
    """Leave out what other vocabularies and sharing plans ask for, which has its own tests."""
    monkeypatch.setattr(
        initialise,
        "transplant",
        lambda source, old, initial, new, like, renamed, starts: Grown(
            {name: np.asarray(source[renamed[name]]) for name in initial}
        ),
    )


def facts():
    return initialise.ModelSpec(make_config(), VOCABULARY, LANGUAGES)


def test_weights_are_taken_by_patterns_and_renamed(workdir, same_shapes, caplog):
    caplog.set_level(logging.WARNING)
    fresh, old = make_state(4, seed=9).params, make_state(seed=2).params
    everything = initialise_from(fresh, {"from": str(workdir)}, facts())
    jax.tree.map(np.testing.assert_array_equal, everything, old)
    assert everything["encoder"]["kernel"].sharding == fresh["encoder"]["kernel"].sharding
    for settings in ({"include": (".*/kernel",)}, {"exclude": (".*bias",)}, {"include": ".*/kernel"}):
        params = initialise_from(fresh, {"from": str(workdir), **settings}, facts())
        np.testing.assert_array_equal(params["encoder"]["kernel"], old["encoder"]["kernel"])
        np.testing.assert_array_equal(params["encoder"]["bias"], fresh["encoder"]["bias"])
    assert "took 1 parameters" in caplog.text and "fresh: encoder/bias" in caplog.text
    renamed = initialise_from(
        {"body": fresh["encoder"]}, {"from": str(workdir), "rename": (("^encoder/", "body/"),)}, facts()
    )
    jax.tree.map(np.testing.assert_array_equal, renamed["body"], old["encoder"])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"form": "x"}, "unknown key 'form'; did you mean 'from'"),
        ({"include": ()}, "takes no parameter"),
        ({"include": ("decoder/.*",)}, "'include': no parameter matches 'decoder/.*'; did you mean 'encoder'?"),
        ({"exclude": ("encoder/(",)}, "'exclude': 'encoder/(' is not a regular expression"),
        ({"rename": (("body", "encoder"),)}, "'rename': 'body' changes no path"),
        ({"rename": (("bias", "kernel"),)}, "gives two parameters the same path"),
    ],
)
def test_patterns_that_do_not_fit_are_errors(workdir, settings, message):
    with pytest.raises(UserError) as raised:
        initialise_from(make_state().params, {"from": str(workdir), **settings}, facts())
    assert message in str(raised.value)


# -------------------------------------------------------------------------------------------- signals and kills


def test_a_signal_is_noted_once_and_kills_the_second_time():
    before = signal.getsignal(signal.SIGINT)
    with StopSignal() as stop:
        stop.begin_steps(0)
        assert not stop.received
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert signal.getsignal(signal.SIGINT) is before


KILLED = """
import sys
from tests.checkpoints.helpers import *
checkpoints = open_run(sys.argv[1])
for step in range(1, 1000):
    checkpoints.save(step, make_state(1, seed=step, step=step))
    print(step, flush=True)
"""


def test_killed_at_any_moment_a_whole_checkpoint_is_left(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    while int(process.stdout.readline()) < 4:
        pass
    time.sleep(random.random() * 0.05)
    process.kill()
    process.wait()
    state = open_run(tmp_path).restore(shapes(make_state()))
    step = int(state.step)
    assert step >= 3
    assert_same(state, make_state(seed=step, step=step))


ONE_OF_TWO = """
import sys
import jax
from mlm_jax.parallel import multihost
place, port, index = sys.argv[1:]
multihost.initialise(f"127.0.0.1:{port}", 2, int(index))
from tests.checkpoints.helpers import *
checkpoints = open_run(place)
state = checkpoints.restore(shapes(make_state(4)))
print("restored", None if state is None else int(state.step), flush=True)
for step in (1, 2) if state is None else ():
    checkpoints.save(step, make_state(4, seed=step, step=step))
checkpoints.wait()
"""


def run_two(workdir):
    """Run ONE_OF_TWO as a job of two processes of two devices each, and return what they printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    job = [
        subprocess.Popen(
            [sys.executable, "-c", ONE_OF_TWO, str(workdir), str(port), str(index)],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for index in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in job]
    finally:
        for process in job:
            process.kill()
    assert [process.returncode for process in job] == [0, 0], outputs
    return outputs


@pytest.mark.slow
def test_damage_in_one_process_makes_all_processes_skip_a_checkpoint(tmp_path):
    assert all("restored None" in output for output in run_two(tmp_path))
    for file in data_of(tmp_path / "checkpoints" / "2"):
        if "ocdbt.process_1" in str(file):
            file.write_bytes(file.read_bytes()[:300])
    outputs = run_two(tmp_path)
    assert all("restored 1" in output and "checkpoint 2 is damaged" in output for output in outputs), outputs
    assert sorted(child.name for child in (tmp_path / "checkpoints").iterdir() if child.is_dir()) == ["1", "2.damaged"]
    # and one process reads what two have written
    assert_same(open_run(tmp_path).restore(shapes(make_state(8))), make_state(seed=1, step=1))
