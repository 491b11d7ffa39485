"""Every sharing plan equals a loop over languages, and leaves absent languages unchanged."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mlm_jax import model as model_room
from mlm_jax.config import default_config
from mlm_jax.parallel.batches import to_devices
from mlm_jax.parallel.mesh import make_mesh
from mlm_jax.training.step import build_program, gradient_function, make_train_step
from tests.objectives.helpers import make_context, random_rows

LANGUAGES = ("en", "de", "fr", "ru")
FAMILIES = {"germanic": ("en", "de"), "romance": ("fr",), "slavic": ("ru",)}
SHARED = {"layers": 1, "weights": "shared"}
OWN = {"layers": 1, "weights": "source_language"}
DECODERS = {"layers": 1, "weights": "target_language"}
FAMILY = {"layers": 1, "weights": "family"}
ADAPTERS = {"layers": 2, "weights": "shared", "adapter": 4, "adapter_weights": "source_language"}
PLANS = {  # name: (encoder, decoder)
    "shared encoder, a decoder for each language": ((SHARED,), (DECODERS,)),
    "an encoder for each language, shared decoder": ((OWN,), (SHARED,)),
    "layers of a language and of a family beside shared ones": ((SHARED, OWN), (SHARED, FAMILY)),
    "adapters": ((ADAPTERS,), (SHARED | {"adapter": 4, "adapter_weights": "target_language"},)),
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


def make_program(config, languages=LANGUAGES, families=FAMILIES, devices=1):
    context = make_context(languages=len(languages), language_starts=np.full(len(languages), 3), prefixed=False)
    config.families = families
    return build_program(config, context, languages, make_mesh(config.mesh, jax.devices()[:devices]))


def drawn(program, seed=0):
    """Parameters of which none is zero, so that no gradient vanishes because another weight does."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), program.state.params)


def batch(languages, seed=0, rows=8, same_language_rows=1):
    """Rows in the given languages by turns, so many on end in each, translated into the next one."""
    given = np.repeat(np.resize(np.asarray(languages, np.int32), rows // same_language_rows), same_language_rows)

    def text(number, language):
        return random_rows(10 * seed + number, rows=rows, length=8, documents=1)._replace(language=language)

    pairs = {"inputs": text(0, given), "targets": text(1, np.roll(given, same_language_rows))}
    return {"translation": pairs, "mlm": {"inputs": text(2, given)}}


def own_slices(params, axes, config, source, target):
    """The weights that one language pair uses, without the axis of languages."""
    family_of = np.array([[code in members for members in FAMILIES.values()].index(True) for code in LANGUAGES])
    of = {
        "source_language": lambda stack: source,
        "target_language": lambda stack: target,
        "family": lambda stack: jnp.asarray(family_of)[source if stack == "encoder" else target],
    }

    def one(path, leaf, names):
        if "groups" not in names:
            return leaf
        stack = path[0].key
        entry = config.model[stack][int(path[1].key)]
        index = entry["weights"] if entry["weights"] != "shared" else entry["adapter_weights"]
        return jnp.take(leaf, of[index](stack), axis=names.index("groups"))

    return jax.tree_util.tree_map_with_path(one, params, axes)


def axes_of(config, program):
    size = program.context.vocabulary_size
    return model_room.abstract(config, vocabulary_size=size, languages=program.languages)[2]


@pytest.mark.parametrize("plan", PLANS)
def test_a_mixed_batch_equals_a_loop_over_languages(plan):
    config = make_config(*PLANS[plan])
    program = make_program(config)
    params, axes = drawn(program), axes_of(config, program)
    without = {"weights": "shared", "adapter_weights": "shared"}
    shared = (
        tuple({**entry, **{key: without[key] for key in entry if key in without}} for entry in stack)
        for stack in PLANS[plan]
    )
    plain = make_program(make_config(*shared))
    objective, rows = program.objectives["translation"], batch(range(4))["translation"]
    examples = jax.tree.map(jnp.asarray, objective.prepare(rows, jax.random.key(1), program.context))

    def total(program, params, examples):
        return objective.loss(program.model(params), examples, program.context, None)[0]

    @jax.jit
    def of_one_pair(params, index, source, target):
        own = jax.tree.map(lambda leaf: leaf[index], examples)

        def loss(params):
            return total(plain, own_slices(params, axes, config, source, target), own)

        return jax.value_and_grad(loss)(params)

    languages = rows["inputs"].language, rows["targets"].language
    pairs = sorted(set(zip(*(side.tolist() for side in languages))))
    assert len(pairs) == 4
    loss, gradient = 0.0, jax.tree.map(np.zeros_like, params)
    for source, target in pairs:
        index = np.flatnonzero((languages[0] == source) & (languages[1] == target))
        part, slope = of_one_pair(params, index, source, target)
        loss, gradient = loss + part, jax.tree.map(np.add, gradient, slope)

    mixed, mixed_gradient = jax.jit(jax.value_and_grad(lambda params: total(program, params, examples)))(params)
    np.testing.assert_allclose(mixed, loss, rtol=1e-5)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * scale), mixed_gradient, gradient)


@pytest.mark.parametrize("plan", PLANS)
def test_runs_of_rows_take_their_weights_once_and_learn_the_same(plan):
    rows = batch(range(4), rows=16, same_language_rows=4)
    rows["ranking"] = rows["translation"]

    def slopes(same_language_rows, parts, devices=1):
        config = make_config(*PLANS[plan])
        config.mesh.fsdp = min(devices, 2)
        config.tasks = config.tasks | {"ranking": {"objective": "ranking", "length": 8}}
        for entry in config.tasks.values():
            entry.update(rows=16, same_language_rows=same_language_rows)
        config.training.microbatches = parts
        program = make_program(config, devices=devices)
        function = gradient_function(program, program.objectives)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, program.state.params)
        find = jax.jit(
            lambda params, rows: function(params, rows, jax.random.key(0), 0, {})[0], out_shardings=shardings
        )
        with jax.set_mesh(program.mesh):
            return jax.device_get(find(jax.device_put(drawn(program), shardings), to_devices(rows, program.mesh)))

    expected = slopes(1, 1)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))

    def distance(found):
        return max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max() / scale, found, expected)))

    for parts, devices in ((2, 1), (1, 4)):
        assert distance(slopes(4, parts, devices)) < 1e-5
    if plan == next(iter(PLANS)):  # one compilation shows that wrong runs would be noticed
        assert distance(slopes(8, 1)) > 1e-3


@pytest.mark.parametrize("plan", PLANS)
def test_rows_that_are_alike_may_take_their_weights_once(plan):
    program = make_program(make_config(*PLANS[plan]))
    rows = batch(range(4))["translation"]["inputs"]
    rows = rows._replace(language=np.full_like(rows.language, 2))
    target = np.ones_like(rows.language)

    def hidden(params, same_language_rows):
        return program.model(params).encode(rows, target_language=target, same_language_rows=same_language_rows)

    each, *together = (
        jax.jit(hidden, static_argnums=1)(drawn(program), same_language_rows) for same_language_rows in (1, 2, 0)
    )
    for found in together:
        np.testing.assert_allclose(found, each, atol=1e-5)


@pytest.mark.parametrize("plan", PLANS)
def test_a_batch_of_many_languages_is_written_with_a_cache_as_without_one(plan):
    program = make_program(make_config(*PLANS[plan]))
    examples = program.objectives["translation"].prepare(
        batch(range(4))["translation"], jax.random.key(1), program.context
    )
    source, decoder = examples.source, examples.decoder
    assert len(set(zip(source.language.tolist(), decoder.language.tolist()))) == 4

    @jax.jit
    def both(params):
        model = program.model(params)
        memory = model.encode(source, target_language=decoder.language)
        whole = model.decode(
            decoder, memory, source.segment_ids, source_language=source.language
        )  # [rows, length, width]
        cache = model.start_decoding(
            memory,
            source.segment_ids,
            language=decoder.language,
            capacity=whole.shape[1],
            source_language=source.language,
        )
        steps = []
        for position in range(whole.shape[1]):
            hidden, cache = model.decode_step(decoder.tokens[:, position], position, cache)
            steps.append(hidden)
        return whole, jnp.stack(steps, axis=1)

    real = np.asarray(decoder.segment_ids) > 0
    without, with_cache = (np.asarray(hidden)[real] for hidden in both(drawn(program)))
    np.testing.assert_allclose(with_cache, without, atol=1e-5)


@pytest.mark.parametrize("plan", PLANS)
def test_weights_of_absent_languages_stay_bit_for_bit_as_they_are(plan):
    config = make_config(*PLANS[plan])
    config.model.language_embedding = True
    program = make_program(config)
    step, axes = make_train_step(program), axes_of(config, program)
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), program.state)
    state = state._replace(params=jax.tree.map(jnp.asarray, drawn(program)))
    state = step(state, to_devices(batch(range(4)), program.mesh))  # all have momentum now
    before = jax.device_get(state)
    after = jax.device_get(step(state, to_devices(batch((0, 1), seed=1), program.mesh)))  # en and de
    moved, kept = set(), 0

    def check(path, names, old, new):
        nonlocal kept
        if "groups" not in names:
            return
        stack, *rest = (entry.key for entry in path)
        by_family = rest and config.model[stack][int(rest[0])]["weights"] == "family"
        present = (0,) if by_family else (0, 1)  # germanic
        for group in range(old.shape[names.index("groups")]):
            a, b = (np.take(leaf, group, names.index("groups")) for leaf in (old, new))
            if group not in present:
                np.testing.assert_array_equal(a, b, err_msg=str(path))
                kept += 1
            elif (a != b).any():
                moved.add((stack, *rest[:1], group))

    def is_names(node):
        return isinstance(node, tuple)

    moments = [
        [optax.tree_utils.tree_get(state.optimizer_state, name) for state in (before, after)] for name in ("mu", "nu")
    ]
    for old, new in ((before.params, after.params), *moments):
        jax.tree_util.tree_map_with_path(check, axes, old, new, is_leaf=is_names)
    indexed = {
        (stack, str(number), group)
        for stack, entries in zip(("encoder", "decoder"), PLANS[plan])
        for number, entry in enumerate(entries)
        if {entry["weights"], entry.get("adapter_weights", "shared")} != {"shared"}
        for group in ((0,) if entry["weights"] == "family" else (0, 1))
    }
    assert moved == indexed | {("language_embedding", 0), ("language_embedding", 1)} and kept


@pytest.mark.parametrize("plan", PLANS)
def test_a_program_does_not_grow_with_the_number_of_languages(plan):
    lengths = []
    for count in (4, 64):
        languages = tuple(f"l{index}" for index in range(count))
        config = make_config(*PLANS[plan])
        program = make_program(config, languages, {language: (language,) for language in languages})
        step = make_train_step(program)
        lowered = step.lower(program.state, jax.eval_shape(lambda: batch(range(4))))
        lengths.append(len(lowered.as_text().splitlines()))
    assert lengths[0] == lengths[1]
