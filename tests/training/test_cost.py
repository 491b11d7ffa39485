"""Parameters are counted once each, in the group whose index picks them."""

import jax

from mlm_jax.config import default_config
from mlm_jax.parallel.mesh import make_mesh
from mlm_jax.training.context import planned_context
from mlm_jax.training.cost import parameters_by_group
from mlm_jax.training.step import build_program

LANGUAGES = ("de", "en", "ru")


def test_parameters_are_counted_by_what_picks_them():
    config = default_config()
    config.vocabulary.size = 64
    config.model.update(
        width=8,
        heads=2,
        mlp_width=8,
        encoder=({"layers": 2, "weights": "shared", "adapter": 4}, {"layers": 1, "weights": "source_language"}),
        decoder=({"layers": 1, "weights": "target_language"},),
    )
    config.tasks = {"translation": {"objective": "translation", "rows": 2, "length": 8}}
    program = build_program(config, planned_context(LANGUAGES, config), LANGUAGES, make_mesh(config.mesh))
    counts = parameters_by_group(program)
    assert sum(counts.values()) == sum(leaf.size for leaf in jax.tree.leaves(program.state.params))
    layers = {name for name in counts if name.split("/")[0] in ("encoder", "decoder")}
    assert layers == {
        "encoder/0",
        "encoder/0 adapters by source_language",
        "encoder/1 by source_language",
        "decoder/0 by target_language",
    }
    assert counts["encoder/0"] * len(LANGUAGES) == 2 * counts["encoder/1 by source_language"]  # two layers, one layer
