"""Names of other frameworks lead to the config key."""

import re

import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.config import load_config
from mlm_jax.config.keys import KEYS
from mlm_jax.config.keys.tasks import TASK
from mlm_jax.config.words import COMMANDS, NOTES, WORDS, called_here
from mlm_jax.objectives import OBJECTIVES

NAMES = {key.name for key in KEYS} | {f"tasks.TASK.{key.name}" for key in TASK.keys}


def test_each_word_leads_to_one_key_that_exists():
    words = [word for words in WORDS.values() for word in words]
    assert len(words) == len(set(words))
    options = {f"tasks.TASK.{name}" for kind in OBJECTIVES.values() for name in kind.__dataclass_fields__}
    assert set(WORDS) | set(NOTES) <= NAMES | options
    assert all(called_here(word) == key for key, words in WORDS.items() for word in words)


def test_no_word_hides_a_key():
    last = {name.rpartition(".")[2] for name in NAMES}
    of_keys, of_commands = ({word for words in table.values() for word in words} for table in (WORDS, COMMANDS))
    assert last & (of_keys | of_commands) == set() and of_keys & of_commands == set()


def write(tmp_path, line):
    file = tmp_path / "c.py"
    body = f"    c = default_config()\n    {line}\n    return c\n"
    file.write_text(f"from mlm_jax.config import default_config\ndef get_config():\n{body}")
    return file


@pytest.mark.parametrize(
    "line, problem",
    [
        (
            "c.batch_size = 8",
            "unknown config key 'batch_size'; here it is called 'tasks.TASK.rows' (rows a step over all devices)",
        ),
        ("c.training.batch_size = 8", "unknown config key 'batch_size'; here it is called 'tasks.TASK.rows'"),
        ("c.model.hidden_size = 8", "unknown config key 'hidden_size'; here it is called 'model.width'"),
        ("c.model.num_layers = 8", "unknown config key 'num_layers'; here it is called 'model.encoder'"),
        ("c.optimizer.lr = 1e-3", "unknown config key 'lr'; here it is called 'optimizer.learning_rate'"),
        ("c.output_dir = 'x'", "unknown config key 'output_dir'; it is not a key here: a run's folder is --workdir"),
        ("c.training.resume = True", "key 'resume'; it is not a key here: the same command continues a run"),
        ("c.learning_rate = 1e-3", "unknown config key 'learning_rate'; did you mean 'optimizer.learning_rate'?"),
        (
            "print(c.gradientAccumulation)",
            "unknown config key 'gradientAccumulation'; here it is called 'training.microbatches'",
        ),
        ("c.training.update(lr=1)", "unknown config key 'lr'; here it is called 'optimizer.learning_rate'"),
        (
            "c.tasks['mlm']['batch_size'] = 8",
            "tasks.mlm has no option 'batch_size'; here it is called 'tasks.mlm.rows'",
        ),
        ("{'de': 1}['xx']", "'xx'"),
        (
            "c.curriculum = ({'steps': 10_000, 'seq_len': 8},)",
            "curriculum[0] has an unknown key 'seq_len'; here it is called",
        ),
        (
            "c.model.encoder = ({'num_layers': 8},)",
            "model.encoder[0] has an unknown key 'num_layers'; did you mean 'layers'?",
        ),
    ],
)
def test_a_config_file_is_told(tmp_path, line, problem):
    from mlm_jax.objectives import create_objectives

    with pytest.raises(UserError, match=re.escape(problem)) as raised:
        create_objectives(load_config(write(tmp_path, line)).tasks)
    assert raised.value.line == 4 or "tasks.mlm" in problem or "[0]" in problem


@pytest.mark.parametrize(
    "override, problem",
    [
        ("batch_size=1", "unknown config key 'batch_size'; here it is called 'tasks.TASK.rows'"),
        ("model.hidden_size=1", "unknown config key 'model.hidden_size'; here it is called 'model.width'"),
        ("optimizer.lr=1", "unknown config key 'optimizer.lr'; here it is called 'optimizer.learning_rate'"),
        ("training.temperature=2", "'mixing.alpha' (alpha is 1 / temperature)"),
        ("width=64", "unknown config key 'width'; did you mean 'model.width'?"),
        ("model.learning_rate=1", "did you mean 'optimizer.learning_rate'?"),
        ("optimiser.lr=1", "unknown config key 'optimiser.lr'; here it is called 'optimizer.learning_rate'"),
    ],
)
def test_the_command_line_is_told(tmp_path, override, problem):
    with pytest.raises(UserError, match=re.escape(problem)):
        load_config(write(tmp_path, "pass"), (override,))
