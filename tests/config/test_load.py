import json
import pickle
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from mlm_jax.checkpoints.workdir import claim_workdir
from mlm_jax.commands.options import path
from mlm_jax.common.errors import UserError
from mlm_jax.config import check_keys, default_config, load_config, located, set_key


def write(tmp_path, body):
    file = tmp_path / "c.py"
    file.write_text(
        "from mlm_jax.config import default_config\ndef get_config(argument='x'):\n    c = default_config()\n" + body
    )
    return file


def test_a_typo_names_file_line_and_neighbour(tmp_path):
    file = write(tmp_path, "    c.model.widht = 3\n    return c\n")
    with pytest.raises(UserError, match=r"c\.py:4: unknown config key 'widht'; did you mean 'width'"):
        load_config(file)


def test_a_relative_path_names_the_line_too(tmp_path, monkeypatch):
    write(tmp_path, "    c.stepz = 3\n    return c\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^c\.py:4: unknown config key 'stepz'"):
        load_config("c.py")


def test_overrides_and_arguments(tmp_path):
    file = write(tmp_path, "    c.data.store = argument\n    return c\n")
    config = load_config(f"{file}:here", ("model.width=64", "model.heads=4", "tasks.mlm.rows=8", "optimizer.name=lion"))
    assert (config.data.store, config.model.width, config.tasks["mlm"]["rows"], config.optimizer.name) == (
        "here",
        64,
        8,
        "lion",
    )
    with pytest.raises(UserError, match="did you mean 'width'"):
        load_config(file, ("model.widht=64",))
    with pytest.raises(UserError, match="is not KEY=VALUE"):
        load_config(file, ("model.width",))


def test_the_home_folder_and_the_folder_of_a_config_in_json(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    file = write(
        tmp_path, "    c.checkpoint.init = {'from': '~/base', 'starts': '~/s.json', 'like': {'~': '~'}}\n    return c\n"
    )
    config = load_config(file, ("data.store=~/store", "vocabulary.path=/a/~b"))
    init = {"from": "/home/me/base", "starts": "/home/me/s.json", "like": {"~": "~"}}
    assert (config.data.store, config.vocabulary.path) == ("/home/me/store", "/a/~b")
    assert config.checkpoint.init == init
    claim_workdir(tmp_path / "run", config)
    (tmp_path / "link").symlink_to(tmp_path / "run")
    config.vocabulary.path, config.data.store = str(tmp_path / "link" / "vocabulary"), "gs://bucket/store"
    claim_workdir(tmp_path / "run", config)
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    assert json.loads((moved / "config.json").read_text())["vocabulary"]["path"] == "{workdir}/vocabulary"
    config.vocabulary.path = str(moved / "vocabulary")
    assert load_config(moved / "config.json") == config
    assert [path(value) for value in ("~/a", "-", "a~", "gs://b/~")] == ["/home/me/a", "-", "a~", "gs://b/~"]


@pytest.mark.parametrize(
    "body, message",
    [
        ("    return c\n    ] \n", r"c\.py:5: "),
        ("    raise ValueError('no such thing')\n", r"c\.py:4: no such thing"),
        ("    c.seed = 'a'\n    return c\n", r"c\.py:4: "),
    ],
)
def test_a_broken_file_names_its_line(tmp_path, body, message):
    with pytest.raises(UserError, match=message):
        load_config(write(tmp_path, body))


@pytest.mark.parametrize(
    "override, message",
    [
        ("steps=many", "'steps' is 'many', which is not of type int"),
        ("model.tied_embeddings=no", "not of type bool"),
        ("model=3", "'model' is a group of keys.* model.activation"),
        ("model.width.x=3", "unknown config key 'model.width.x'. Remedy: mlm-jax config lists every key"),
        ("wide.xyzzy=3", "unknown config key 'wide.xyzzy'.* Remedy: mlm-jax config lists every key"),
        ("=3", "is not KEY=VALUE"),
        ("steps=0", "steps is 0. Remedy: use a whole number from 1"),
        ("mixing.alpha=1.5", "mixing.alpha is 1.5. Remedy: use a number from 0 to 1"),
        ("mixing.strategy=aplha", "mixing.strategy is 'aplha'; did you mean 'alpha'?"),
        ("optimizer.learning_rate=-1.0", "optimizer.learning_rate is -1.0"),
        (
            "optimizer.warmup_steps=1.5",
            "optimizer.warmup_steps is 1.5. Remedy: write a whole number of steps, or a share",
        ),
        ("optimizer.decay_steps=-1", "optimizer.decay_steps is -1"),
        ("optimizer.warmup_steps=0.95", "warmup_steps=9500 and decay_steps=1000 are more than the run's 10000 steps"),
        ("optimizer.betas=(0.9,)", "two numbers"),
        ("tasks={}", "tasks is empty"),
        ("tasks.mlm=3", "tasks.mlm is 3"),
        (
            "tasks={'': {'objective': 'mlm'}}",
            "a task is called ''. Remedy: begin its name with a letter, and use only letters, digits, '_' and '-'",
        ),
        (
            "tasks={'a/b': {'objective': 'mlm'}}",
            "a task is called 'a/b'. Remedy: begin its name with a letter, and use only letters, digits, '_' and '-'",
        ),
        ("tasks={3: {'objective': 'mlm'}}", "a task is called 3"),
        ("tasks={'a b': {'objective': 'mlm'}}", "a task is called 'a b'"),
        ("tasks={'a.b': {'objective': 'mlm'}}", "a task is called 'a.b'"),
        (
            "data.mixture_languages={'ted': ('de', 'en')}",
            "data.mixture_languages.ted is .* Remedy: write a language or a pair",
        ),
        ("tasks.mlm.rows=x", "tasks.mlm.rows is 'x'. Remedy: use a whole number from 1"),
        (
            "tasks.mlm.alike=4",
            "tasks.mlm.alike is now called 'same_language_rows'. Remedy: rename it to tasks.mlm.same_language_rows",
        ),
        ("tasks.mlm.test=('ner',)", "tasks.mlm.test is now called 'evaluate_on'"),
        ("tasks.mlm.weight=-1", "tasks.mlm.weight is -1"),
        ("model.kv_heads=-1", "model.kv_heads is -1. Remedy: use a whole number from 0"),
        ("model.rope_theta=0", "model.rope_theta is 0.0. Remedy: use a number above 0"),
        ("model.local_rope_theta=-1", "model.local_rope_theta is -1.0. Remedy: use a number above 0"),
        ("model.norm_epsilon=1e999", "model.norm_epsilon is inf"),
        ("model.dropout=1", "model.dropout is 1.0. Remedy: use a number from 0 to below 1"),
        ("model.cross_entropy_chunk=-3", "model.cross_entropy_chunk is -3"),
        (
            "optimizer.decay_table=(('.*',),)",
            r"optimizer.decay_table has the entry \('.*',\). Remedy: write \(regex, True or False\)",
        ),
        ("optimizer.decay_table=(('.*', 0.1),)", r"optimizer.decay_table has the entry \('.*', 0.1\)"),
        (
            "optimizer.rate_table=((3, 1.0),)",
            r"optimizer.rate_table has the entry \(3, 1.0\). Remedy: write \(regex, factor from 0\)",
        ),
        ("optimizer.rate_table=(('.*', -1),)", r"optimizer.rate_table has the entry \('.*', -1\)"),
        (
            "optimizer.freeze_table=(('.*', None),)",
            r"the entry \('.*', None\). Remedy: write \(regex, True, False, a number",
        ),
        (
            "families={'germanic': 'de'}",
            r"families.germanic is 'de'. Remedy: write a tuple of languages: \(\"de\", \"en\"\)",
        ),
        ("training.microbatches=3", "tasks.mlm.rows is 64, which 3 microbatches cannot share"),
        (
            "mixing.rates={'en': 1}",
            "mixing.strategy is 'alpha', which has no use for it. Remedy: set mixing.strategy='explicit'",
        ),
        (
            "curriculum=({'steps': 9, 'languages': 'de'},)",
            r"languages is 'de'. Remedy: write a tuple of languages: \(\"de\",\)",
        ),
        ("data.corpora={'en': 3}", "data.corpora.en is 3. Remedy: write a glob"),
        ("data.parallel={'de-en': ()}", r"data.parallel.de-en is \(\). Remedy: write a glob"),
        ("data.modules=(3,)", "data.modules has the entry 3"),
        ("data.labelled={'genre': {'format': 'tsv', 'language': 'en', 'train': 3}}", "data.labelled.genre.train is 3"),
        ("data.labelled={'genre': 'genre.tsv'}", "data.labelled.genre is 'genre.tsv'. Remedy: write {\"format\""),
        ("data.labelled={'genre': {'format': 'tsv', 'train': 'genre.tsv'}}", "data.labelled.genre has no 'language'"),
        (
            "data.labelled={'genre': {'format': 'tsv', 'language': 'en'}}",
            "data.labelled.genre has neither 'train' nor 'validation'",
        ),
        (
            "data.labelled={'genre': {'format': 'tsv', 'language': 'en', 'trian': 'genre.tsv'}}",
            "key 'trian'; did you mean 'train'?",
        ),
        (
            "data.labelled={'genre': {'format': 'tsv', 'language': ('en',), 'train': 'a.tsv'}}",
            "data.labelled.genre.language is",
        ),
        (
            "data.labelled={'genre': {'format': 'tsv', 'language': 'en', 'train': 'a.tsv', 'labels': (0, 1)}}",
            r"data.labelled.genre.labels is \(0, 1\). Remedy: write a tuple of names",
        ),
        ("tasks.mlm.data=3", "tasks.mlm.data is 3. Remedy: write a name, or a tuple of names"),
        ("curriculum=({'steps': 5, 'rates': 3},)", r"curriculum\[0\].rates is 3. Remedy: write {"),
        ("curriculum=({'steps': 5, 'alpha': 2},)", r"curriculum\[0\].alpha is 2"),
        ("training.ema=1", "training.ema is 1.0. Remedy: use a number from 0 to below 1"),
    ],
)
def test_a_value_that_cannot_work_is_named_before_anything_is_read(tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        load_config(write(tmp_path, "    return c\n"), (override,))


def test_a_value_of_the_file_that_cannot_work_is_found_in_its_line(tmp_path):
    file = write(tmp_path, "    c.mixing.alpha = 0.3  # alpha\n    c.training.ema = 2.0\n    return c\n")
    with pytest.raises(UserError, match=r"c\.py:5: training\.ema is 2\.0"):
        load_config(file)
    assert load_config(file, ("training.ema=0.9", "model.tied_embeddings=false")).model.tied_embeddings is False


def test_an_error_of_any_room_that_names_a_key_names_the_line_that_set_it(tmp_path):
    file = write(tmp_path, "    c.mesh = {'data': 3}\n    c.optimizer.warmup_steps = 9\n    return c\n")
    found = UserError("config.optimizer.warmup_steps is more than steps", remedy="shorten it")
    assert str(located(found, f"{file}:argument")) == (
        f"{file}:5: config.optimizer.warmup_steps is more than steps. Remedy: shorten it"
    )
    assert str(located(found, file, ("optimizer.warmup_steps=9",))) == str(found)  # the command line did
    several = UserError("optimizer.warmup_steps=9 and optimizer.decay_steps=5 are more than steps")
    assert str(located(several, file)).startswith(f"{file}:5: ")
    assert str(located(several, file, ("optimizer.decay_steps=5",))) == str(several)  # one of several keys will do
    elsewhere = UserError("training.ema is 2", file="other.py")
    assert str(located(elsewhere, file)) == "other.py: training.ema is 2"
    assert str(located(UserError("no files match 'text/de.txt'"), file)) == "no files match 'text/de.txt'"


def test_what_get_config_returns_is_a_config(tmp_path):
    with pytest.raises(UserError, match=r"c\.py:2: get_config\(\) returns NoneType"):
        load_config(write(tmp_path, "    pass\n"))
    with pytest.raises(UserError, match=r"c\.py:4: unknown config key 'optimiser'; did you mean 'optimizer'"):
        load_config(write(tmp_path, "    c.optimiser.name = 'lion'\n    return c\n"))


@pytest.mark.parametrize(
    "signature, argument, message",
    [
        ("which", "", r"c.py: get_config\(\) wants an argument. Remedy: write \S+c.py:ARGUMENT"),
        ("", ":large", r"c.py: get_config\(\) takes no argument. Remedy: write \S+c.py$"),
    ],
)
def test_an_argument_too_few_or_too_many_is_told(tmp_path, signature, argument, message):
    (tmp_path / "c.py").write_text(f"def get_config({signature}):\n    raise AssertionError\n")
    with pytest.raises(UserError, match=message):
        load_config(f"{tmp_path}/c.py{argument}")


def test_missing_file_and_wrong_type(tmp_path):
    with pytest.raises(UserError, match="no such config file"):
        load_config(tmp_path / "absent.py")
    config = default_config()
    with pytest.raises(UserError, match="'model.widths'"):
        check_keys(ConfigDict({"model": {"widths": 1}}), config)
    with pytest.raises(UserError, match="unknown config key"):
        set_key(config, "modle.width", "1")


def test_errors_travel_between_processes():
    error = UserError("it broke", file="a.txt", line=3, remedy="mend it")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == "a.txt:3: it broke. Remedy: mend it"


def test_help_imports_neither_jax_nor_tensorflow():
    code = "import sys; sys.argv=['mlm-jax','--help']\ntry:\n from mlm_jax.cli import main; main()\nexcept SystemExit: pass\n"
    code += "bad={'jax','tensorflow','seqio','numpy'} & set(sys.modules); assert not bad, bad"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout
