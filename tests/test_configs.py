"""Every config file loads, and its program can be built: shapes only, nothing is allocated."""

from pathlib import Path

import jax
import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.config import check_keys, default_config, import_config, load_config
from mlm_jax.objectives import kinds
from mlm_jax.parallel.mesh import make_mesh
from mlm_jax.training.check import check_config
from mlm_jax.training.context import planned_context
from mlm_jax.training.step import build_program

FOLDER = Path(__file__).parents[1] / "configs"
FILES = {
    "transfer_demo": "VARIANTS",
    "sharing": "VARIANTS",
    "cross_attention": "STAGES",
    "back_translation": "VARIANTS",
    "new_language": "VARIANTS",
    "multitask": "VARIANTS",
    "representation": "VARIANTS",
    "model_transfer": "VARIANTS",
    "entities": "VARIANTS",
    "translate_train": "VARIANTS",
    "mmbert": "VARIANTS",
    "context_extension": "VARIANTS",
}


def variants():
    for name, names in FILES.items():
        for variant in ("", *getattr(import_config(FOLDER / f"{name}.py"), names)):
            yield f"{name}.py:{variant}" if variant else f"{name}.py"


@pytest.mark.parametrize("config_file", variants())
def test_a_config_can_be_built(config_file, monkeypatch):
    monkeypatch.chdir(FOLDER.parent)
    config = load_config(FOLDER / config_file)
    check_keys(config, default_config())
    check_config(config)
    languages = tuple(config.languages) or ("en", "de")
    labels = {
        name: len(config.data.labelled[entry["data"][0]]["labels"])
        for name, entry in config.tasks.items()
        if kinds(config.tasks)[name] == "labelled"
    }
    context = planned_context(languages, config)
    program = build_program(config, context, languages, make_mesh(config.mesh, jax.devices()[:1]), labels=labels)
    assert jax.tree.leaves(program.state.params)


def test_a_variant_that_does_not_exist_is_named():
    with pytest.raises(UserError, match="no variant 'decoder'; did you mean 'decoders'"):
        load_config(FOLDER / "sharing.py:decoder")
