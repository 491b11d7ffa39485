"""Optimizers: absent languages, frozen parameters, regex tables, stacks and shardings."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.parallel.mesh import make_mesh
from mlm_jax.training import optimizer
from mlm_jax.training.directions import DIRECTIONS

LAYERS, GROUPS = 2, 3
SHAPES_AND_AXES = {
    "embedding": ((9, 4), ("vocabulary", "embed")),
    "encoder/kernel": ((LAYERS, 4, 2, 3), ("layers", "embed", "heads", "head_dim")),
    "encoder/scale": ((LAYERS, 4), ("layers", "norm")),
    "decoder/kernel": ((LAYERS, GROUPS, 4, 6), ("layers", "groups", "embed", "mlp")),
    "decoder/bias": ((LAYERS, GROUPS, 6), ("layers", "groups", "mlp")),
    "adapter/kernel": ((GROUPS, 4, 6), ("groups", "embed", "adapter")),
    "uncertainty/task": ((), ()),
    "large/kernel": ((LAYERS, GROUPS, 128, 130), ("layers", "groups", "mlp", "embed")),  # Adafactor factors this one
}
INDEXED = [name for name, (_, axes) in SHAPES_AND_AXES.items() if "groups" in axes]


def nested(flat):
    tree = {}
    for name, value in flat.items():
        room, _, rest = name.partition("/")
        if rest:
            tree.setdefault(room, {})[rest] = value
        else:
            tree[room] = value
    return tree


AXES = nested({name: axes for name, (_, axes) in SHAPES_AND_AXES.items()})


def draw(seed):
    rng = np.random.default_rng(seed)
    return nested({name: rng.normal(size=shape).astype(np.float32) for name, (shape, _) in SHAPES_AND_AXES.items()})


def absent(gradient, groups):
    """Set the gradient of some languages to zero."""

    def silence(leaf, axes):
        if "groups" not in axes:
            return leaf
        index = [slice(None)] * leaf.ndim
        index[axes.index("groups")] = groups
        silent = leaf.copy()
        silent[tuple(index)] = 0
        return silent

    return jax.tree.map(silence, gradient, AXES, is_leaf=lambda node: isinstance(node, np.ndarray))


def make_config(name="adamw", **changes):
    config = default_config().optimizer
    config.update(name=name, schedule="constant", warmup_steps=0, learning_rate=1e-2, weight_decay=0.1, clip=0.0)
    config.decay_table = ((".*(bias|scale)", False), (".*", True))
    config.update(changes)
    return config


def make(config, params=None):
    transformation = optimizer.create(config, 100, draw(0) if params is None else params, AXES)

    @jax.jit
    def step(params, state, gradient):
        updates, state = transformation.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return transformation, step


def train(config, gradients):
    params = draw(0)
    transformation, step = make(config)
    state = transformation.init(params)
    for gradient in gradients:
        params, state = step(params, state, gradient)
    return params, state


def group_slices(tree, group):
    """The slices of one language of everything in a tree that is like the parameters, or holds such trees."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        keys = [str(getattr(entry, "key", entry)) for entry in path]
        for name in INDEXED:
            axes = SHAPES_AND_AXES[name][1]
            if name.split("/") == keys[-2:] and leaf.ndim == len(axes):
                found[jax.tree_util.keystr(path)] = np.take(np.asarray(leaf), group, axes.index("groups"))
    return found


@pytest.mark.parametrize("name", DIRECTIONS)
def test_an_absent_language_stays_bit_for_bit_as_it_is_and_the_others_do_not_notice(name):
    params = draw(0)
    transformation, step = make(make_config(name, freeze_table=(("embedding", True), (".*", False))))
    state = transformation.init(params)
    for seed in (1, 2):
        params, state = step(params, state, draw(seed))
    before = (params, state)
    after, together = before, before
    for seed, missing in ((3, [1]), (4, [1, 2])):
        after = step(*after, absent(draw(seed), missing))
        together = step(*together, draw(seed))

    kept, still = group_slices(before, 1), group_slices(after, 1)
    assert len(kept) >= 2 * len(INDEXED) and kept.keys() == still.keys()  # the weights, and a moment of each at least
    for key, value in kept.items():
        np.testing.assert_array_equal(still[key], value, err_msg=key)
    for key, value in group_slices(together, 0).items():
        np.testing.assert_array_equal(group_slices(after, 0)[key], value, err_msg=key)
        assert (group_slices(before, 0)[key] != value).any(), key


@pytest.mark.parametrize("name", DIRECTIONS)
def test_a_stack_moves_like_the_tensors_that_it_holds(name):
    def train(params, axes, gradients):
        transformation = optimizer.create(make_config(name, decay_table=((".*", True),)), 100, params, axes)
        state, update = transformation.init(params), jax.jit(transformation.update)
        for gradient in gradients:
            updates, state = update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        return params["large"]["kernel"]

    def only_large(tree):
        return {"large": {"kernel": tree["large"]["kernel"]}}

    stacked = train(only_large(draw(0)), only_large(AXES), [only_large(draw(1)), only_large(draw(2))])
    for layer, group in ((0, 0), (1, 2)):
        start, *gradients = [{"large": {"kernel": draw(seed)["large"]["kernel"][layer, group]}} for seed in range(3)]
        alone = train(start, {"large": {"kernel": ("mlp", "embed")}}, gradients)
        np.testing.assert_allclose(stacked[layer, group], alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_frozen_parameters_have_no_state_and_do_not_move(name):
    freeze = (("encoder/.*|embedding", True), (".*", False))
    params, state = train(make_config(name, freeze_table=freeze), [draw(1), draw(2)])
    np.testing.assert_array_equal(params["embedding"], draw(0)["embedding"])
    jax.tree.map(np.testing.assert_array_equal, params["encoder"], draw(0)["encoder"])
    assert (params["decoder"]["kernel"] != draw(0)["decoder"]["kernel"]).any()
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    assert any("decoder" in path for path in paths)
    assert not [path for path in paths if "encoder" in path or "embedding" in path]


def test_clipping_is_by_one_norm_of_all_that_is_trained():
    freeze = (("embedding", True), (".*", False))  # frozen parameters do not count in the norm
    trained = {key: value for key, value in draw(1).items() if key != "embedding"}
    factor = 2.0 / float(optax.global_norm(trained))
    assert factor < 1
    clipped, _ = train(make_config(clip=2.0, freeze_table=freeze, epsilon=1.0), [draw(1)])
    by_hand, _ = train(make_config(freeze_table=freeze, epsilon=1.0), [jax.tree.map(lambda g: g * factor, draw(1))])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), clipped, by_hand)


def test_decay_and_rate_tables():
    # AdamW's first step is the sign of the gradient times the rate
    table = (("decoder/.*", 0.0), ("encoder/scale", 3.0), (".*", 1.0))
    params, _ = train(make_config(rate_table=table, epsilon=0.0), [draw(1)])
    start, gradient = draw(0), draw(1)
    jax.tree.map(np.testing.assert_array_equal, params["decoder"], start["decoder"])
    np.testing.assert_allclose(
        params["encoder"]["scale"], start["encoder"]["scale"] - 0.03 * np.sign(gradient["encoder"]["scale"]), atol=1e-6
    )
    kernel = start["encoder"]["kernel"]
    decayed = kernel - 1e-2 * (np.sign(gradient["encoder"]["kernel"]) + 0.1 * kernel)
    np.testing.assert_allclose(params["encoder"]["kernel"], decayed, atol=1e-6)


@pytest.mark.parametrize(
    "table, message",
    [
        ((("decoder/.*", True),), "no pattern matches the parameter 'adapter/kernel'"),
        ((("decodr/.*", True), (".*", False)), "no parameter matches 'decodr/.*'; did you mean 'decoder'?"),
        (((".*", False), ("decoder/.*", True)), "earlier patterns take every parameter that 'decoder/.*' matches"),
        ((("decoder/(", True), (".*", False)), "'decoder/(' is not a regular expression"),
        (((".*", True),), "freezes every parameter"),
    ],
)
def test_tables_that_do_not_fit_the_parameters_are_errors(table, message):
    with pytest.raises(UserError) as raised:
        make(make_config(freeze_table=table))
    assert "optimizer.freeze_table" in str(raised.value) and message in str(raised.value)


def test_a_catch_all_may_have_nothing_left_to_catch():
    train(make_config(freeze_table=((".*/.*|embedding", False), (".*", True))), [draw(1)])


def test_an_unknown_optimizer_names_the_nearest():
    with pytest.raises(UserError, match="no optimizer 'adamv'; did you mean 'adamw'"):
        make(make_config("adamv"))


@pytest.mark.parametrize("name", DIRECTIONS)
def test_moments_lie_where_their_parameters_lie(name):
    mesh = make_mesh({"data": 2, "fsdp": 2, "tensor": 2, "sequence": 1})
    specs = {"large/kernel": P(None, None, "tensor", "fsdp"), "encoder/kernel": P(None, "fsdp")}
    shardings = nested({key: NamedSharding(mesh, specs.get(key, P())) for key in SHAPES_AND_AXES})
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, draw(0)))
    transformation, _ = make(make_config(name, freeze_table=(("embedding", True), (".*", False))), shapes)
    wanted = optimizer.optimizer_state_shardings(transformation, shapes, shardings)
    params = jax.device_put(draw(0), shardings)
    state = jax.jit(transformation.init, out_shardings=wanted)(params)
    moments = [
        leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state) if "'large'" in jax.tree_util.keystr(path)
    ]
    moments = [leaf for leaf in moments if leaf.ndim == 4]
    assert moments
    for leaf in moments:  # Adafactor's are 1 along the axis over which they are means
        split = (*leaf.sharding.spec, None, None, None, None)[2:4]
        assert split == ("tensor" if leaf.shape[2] > 1 else None, "fsdp" if leaf.shape[3] > 1 else None)
    # A step on the mesh keeps the layout, and gives what one device gives.
    update = jax.jit(transformation.update, out_shardings=(shardings, wanted))
    updates, state = update(jax.device_put(draw(1), shardings), state, params)
    alone, _ = jax.jit(transformation.update)(draw(1), transformation.init(draw(0)), draw(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), updates, alone)


@pytest.mark.parametrize("rows", [6, ((0, 2), (3, 7))], ids=["the first", "ranges"])
@pytest.mark.parametrize("name", DIRECTIONS)
def test_rows_of_some_pieces_stay_and_do_not_count_in_the_norm(name, rows):
    table = (("embedding", rows), (".*", False))
    params, state = train(make_config(name, freeze_table=table, clip=1.0), [draw(1), draw(2)])
    before = draw(0)
    frozen = np.zeros(len(before["embedding"]), bool)
    for first, behind in ((0, rows),) if isinstance(rows, int) else rows:
        frozen[first:behind] = True
    np.testing.assert_array_equal(params["embedding"][frozen], before["embedding"][frozen])
    assert (np.asarray(params["embedding"]) != before["embedding"]).any(axis=1).tolist() == (~frozen).tolist()
    louder = [draw(1), draw(2)]
    for gradient in louder:
        gradient["embedding"][frozen] *= 1e3  # would be all of the global norm
    again, _ = train(make_config(name, freeze_table=table, clip=1.0), louder)
    jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.parametrize("name", DIRECTIONS)
def test_the_first_languages_weights_stay(name):
    table = ((".*/kernel|decoder/bias", 2), (".*", False))
    table = (("encoder/kernel", False), *table)
    params, _ = train(make_config(name, freeze_table=table), [draw(1), draw(2)])
    for room, leaf in (("decoder", "kernel"), ("decoder", "bias"), ("adapter", "kernel"), ("large", "kernel")):
        at = (slice(None),) * AXES[room][leaf].index("groups")
        new, old = np.asarray(params[room][leaf]), draw(0)[room][leaf]
        np.testing.assert_array_equal(new[(*at, slice(2))], old[(*at, slice(2))])
        assert (new[(*at, 2)] != old[(*at, 2)]).any()


def test_rows_that_cannot_be_frozen_are_an_error():
    wrong = (
        (3, "encoder/kernel", "neither pieces of the vocabulary"),
        (3, "decoder/kernel", "shape"),
        (9, "embedding", "shape"),
        (-1, "embedding", "shape"),
        (((0, 2), (4, 10)), "embedding", "shape"),
        (((0, 1),), "encoder/kernel", "neither pieces of the vocabulary"),
    )
    for value, name, message in wrong:
        with pytest.raises(UserError, match=message):
            make(make_config(freeze_table=((name, value), (".*", False))))
