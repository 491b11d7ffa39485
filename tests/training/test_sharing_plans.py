"""Every sharing plan is what a loop over languages would be, leaves absent languages alone, and costs no compilation."""

import jax
import numpy as np
import pytest

from mlm_jax import model as model_room
from mlm_jax.config import default_config
from mlm_jax.parallel.mesh import make_mesh
from mlm_jax.training.step import build_program, make_train_step, to_devices
from tests.objectives.helpers import make_context, random_rows

LANGUAGES = ("en", "de", "fr", "ru")
FAMILIES = {"germanic": ("en", "de"), "romance": ("fr",), "slavic": ("ru",)}
SHARED = {"layers": 1, "weights": "shared"}
OWN = {"layers": 1, "weights": "source_language"}
PLANS = {  # name: (encoder, decoder)
    "shared encoder, a decoder for each language": ((SHARED,), ({"layers": 1, "weights": "target_language"},)),
    "an encoder for each language, shared decoder": ((OWN,), (SHARED,)),
    "language-specific layers between shared ones": ((SHARED, OWN, SHARED), (SHARED,)),
    "families": (({"layers": 2, "weights": "family"},), ({"layers": 1, "weights": "family"},)),
    "adapters": (
        ({"layers": 2, "weights": "shared", "adapter": 4, "adapter_weights": "source_language"},),
        ({"layers": 1, "weights": "shared", "adapter": 4, "adapter_weights": "target_language"},),
    ),
}


def make_config(encoder, decoder):
    config = default_config()
    config.steps, config.families = 10, FAMILIES
    rows = {"rows": 8, "length": 8}
    config.tasks = {"translation": {"objective": "translation", **rows}, "mlm": {"objective": "mlm", **rows}}
    model, optimizer = config.model, config.optimizer
    model.encoder, model.decoder, model.global_every = encoder, decoder, 1
    model.width, model.heads, model.mlp_width = 8, 2, 12
    optimizer.warmup_steps, optimizer.decay_steps, optimizer.weight_decay = 0, 1, 0.1
    return config


def make_program(config, languages=LANGUAGES):
    context = make_context(languages=len(languages), language_starts=np.full(len(languages), 3), prefixed=False)
    config.families = {family: members for family, members in FAMILIES.items() if set(members) <= set(languages)}
    return build_program(config, context, languages, make_mesh(config.mesh, jax.devices()[:1]))


def drawn(program, seed=0):
    """Parameters of which none is zero, so that no gradient vanishes because another weight does."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), program.state.params)


def batch(languages, seed=0, rows=8):
    """Rows in the given languages by turns, translated into the next one."""
    given = np.resize(np.asarray(languages, np.int32), rows)
    text = lambda n, language: random_rows(10 * seed + n, rows=rows, length=8, documents=1)._replace(language=language)  # noqa: E731
    pairs = {"inputs": text(0, given), "targets": text(1, np.roll(given, 1))}
    return {"translation": pairs, "mlm": {"inputs": text(2, given)}}


def own_slices(params, axes, config, source, target):
    """The weights that one language pair uses, without the axis of languages."""
    of_language = {"source_language": source, "target_language": target}
    family = [LANGUAGES[source] in members for members in FAMILIES.values()].index(True)
    families = {"encoder": family, "decoder": [LANGUAGES[target] in m for m in FAMILIES.values()].index(True)}

    def one(path, leaf, names):
        stack, group = path[0].key, path[1].key if len(path) > 1 else None
        if "groups" not in names:
            return leaf
        entry = config.model[stack][int(group)]
        index = entry["weights"] if entry["weights"] != "shared" else entry["adapter_weights"]
        return np.take(leaf, of_language[index] if index != "family" else families[stack], names.index("groups"))

    return jax.tree_util.tree_map_with_path(one, params, axes)


@pytest.mark.parametrize("plan", PLANS)
def test_a_mixed_batch_equals_a_loop_over_languages(plan):
    config = make_config(*PLANS[plan])
    program = make_program(config)
    params, axes = drawn(program), model_room.abstract(
        config, vocabulary_size=program.context.vocabulary_size, languages=LANGUAGES
    )[2]  # fmt: skip
    assert any("groups" in names for names in jax.tree.leaves(axes, is_leaf=lambda node: isinstance(node, tuple)))
    shared = lambda entries: tuple(  # noqa: E731
        {**entry, "weights": "shared", **({"adapter_weights": "shared"} if "adapter" in entry else {})} for entry in entries
    )
    plain = make_program(make_config(*map(shared, PLANS[plan])))
    examples = {
        task: objective.prepare(batch(range(4))[task], jax.random.key(1), program.context)
        for task, objective in program.objectives.items()
    }

    def total(program, params, examples):
        model = program.model(params)
        return sum(
            objective.loss(model, examples[task], program.context, None)[0]
            for task, objective in program.objectives.items()
        )

    whole, gradient = jax.jit(jax.value_and_grad(lambda p: total(program, p, examples)))(params)

    @jax.jit
    def one_pair(params, rows):
        return total(plain, params, jax.tree.map(lambda leaf: leaf[rows], examples))

    @jax.jit
    def of_slices(params, rows, source, target):
        return one_pair(own_slices_traced(params, source, target), rows)

    found = 0.0
    source = np.asarray(batch(range(4))["translation"]["inputs"].language)
    target = np.asarray(batch(range(4))["translation"]["targets"].language)
    slopes = jax.tree.map(np.zeros_like, params)
    for first, second in sorted(set(zip(source.tolist(), target.tolist()))):
        rows = np.flatnonzero((source == first) & (target == second))
        slices = lambda p: own_slices(p, axes, config, first, second)  # noqa: E731,B023
        part, slope = jax.value_and_grad(one_pair)(slices(params), rows)
        found += part
        back = jax.linear_transpose(lambda p: jax.tree.map(lambda x: x, slices_jax(p, axes, config, first, second)), params)  # noqa: B023
        slopes = jax.tree.map(np.add, slopes, back(slope)[0])
    np.testing.assert_allclose(found, whole, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), slopes, gradient)
