import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from mlm_jax.objectives.ranking import TranslationRanking
from tests.objectives.helpers import make_context, random_rows

ROWS, WIDTH = 16, 12


class BagOfWords:
    """The simplest model with sentence embeddings."""

    def __init__(self, table):
        self.table = table

    def sentence_embeddings(self, rows, *, task="", key=None, same_language_rows=1):
        real = (rows.segment_ids > 0)[..., None]
        return (jnp.tanh(self.table[rows.tokens]) * real).sum(axis=1) / real.sum(axis=1)


def table(seed=0):
    return np.random.default_rng(seed).normal(size=(50, WIDTH)).astype(np.float32)


def batch(seed=0, rows=ROWS, duplicates=True):
    inputs = random_rows(2 * seed, rows=rows, documents=1, length=10)
    targets = random_rows(2 * seed + 1, rows=rows, documents=1, length=10)
    # 1 and 4 have the same translation, 2 and 7 the same text, 9's text is 6's translation: no negatives.
    if duplicates:
        inputs, targets = (jax.tree.map(np.copy, side) for side in (inputs, targets))
        for side, one, other_side, other in ((targets, 1, targets, 4), (inputs, 2, inputs, 7), (targets, 6, inputs, 9)):
            other_side.tokens[other], other_side.segment_ids[other] = side.tokens[one], side.segment_ids[one]
    return {"inputs": inputs, "targets": targets}


def embed(rows, weights):
    out = []
    for tokens, segments in zip(rows.tokens, rows.segment_ids):
        vector = np.mean([np.tanh(weights[t].astype(np.float64)) for t, s in zip(tokens, segments) if s > 0], axis=0)
        out.append(vector / np.linalg.norm(vector))
    return np.array(out)


def closed_form(batches, weights, margin=0.3, scale=20.0, hardness=0.0):
    """The loss of the first batch with the others as a queue, sentence by sentence."""
    sides = [(embed(b["inputs"], weights), embed(b["targets"], weights)) for b in batches]
    texts = [([tuple(t) for t in b["inputs"].tokens], [tuple(t) for t in b["targets"].tokens]) for b in batches]
    total = 0.0
    for own, other in ((0, 1), (1, 0)):
        candidates = np.concatenate([side[other] for side in sides])
        names = [pair for text in texts for pair in zip(*text)]
        for i, query in enumerate(sides[0][own]):
            cosines = candidates @ query
            negatives = [j for j in range(len(candidates)) if not {*names[i]} & {*names[j]}]
            tilt = np.exp(hardness * cosines[negatives])
            mass = (tilt / tilt.mean() * np.exp(scale * cosines[negatives])).sum()
            true = np.exp(scale * (cosines[i] - margin))
            total -= np.log(true / (true + mass))
    return total / len(sides[0][0])


@pytest.mark.parametrize("hardness", [0.0, 2.0])
@pytest.mark.parametrize("margin, scale", [(0.3, 20.0), (0.0, 5.0)])
def test_the_loss_is_the_closed_form(margin, scale, hardness):
    objective = TranslationRanking(margin=margin, scale=scale, hardness=hardness)
    loss, metrics = objective.loss(BagOfWords(table()), batch(), make_context(), None)
    np.testing.assert_allclose(loss, closed_form([batch()], table(), margin, scale, hardness), rtol=1e-5)
    numerator, denominator = metrics["loss"]
    np.testing.assert_allclose(numerator.sum() / ROWS, loss, rtol=1e-5)
    assert denominator.sum() == ROWS


def test_the_gradient_is_that_of_the_closed_form():
    objective = TranslationRanking(hardness=1.0)

    def loss(weights):
        return objective.loss(BagOfWords(weights), batch(), make_context(), None)[0]

    gradient = jax.grad(loss)(table())
    rng, step = np.random.default_rng(1), 1e-4
    for _ in range(3):
        direction = rng.normal(size=table().shape)
        ahead, behind = (closed_form([batch()], table() + s * step * direction, hardness=1.0) for s in (1, -1))
        np.testing.assert_allclose((gradient * direction).sum(), (ahead - behind) / (2 * step), rtol=2e-3)


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_change_neither_loss_nor_gradient(parts):
    objective = TranslationRanking()

    def loss(weights, parts):
        return objective.whole_loss(BagOfWords(weights), batch(), make_context(), None, parts, None)[0]

    whole, gradient = jax.value_and_grad(loss)(table(), 1)
    divided, divided_gradient = jax.value_and_grad(loss)(table(), parts)
    np.testing.assert_allclose(divided, whole, rtol=1e-6)
    np.testing.assert_allclose(divided_gradient, gradient, atol=1e-6 * np.abs(gradient).max())


def test_negatives_come_from_all_devices():
    assert jax.device_count() == 8
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    objective = TranslationRanking(queue=ROWS)
    spread = jax.device_put(batch(), NamedSharding(mesh, P("data")))

    @jax.jit
    def loss(weights, examples, memory):
        return objective.whole_loss(BagOfWords(weights), examples, make_context(), None, 1, memory)[::2]

    memory = objective.initial_memory(WIDTH)
    for _ in range(2):  # the second time against the queue too
        alone, alone_memory = loss(table(), batch(), memory)
        found, memory = loss(table(), spread, memory)
        np.testing.assert_allclose(found, alone, rtol=1e-6)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), memory, alone_memory)
    np.testing.assert_allclose(found, closed_form([batch(), batch()], table()), rtol=1e-5)


def test_the_queue_gives_the_negatives_of_earlier_batches():
    objective = TranslationRanking(queue=2 * ROWS + 3, hardness=0.5)
    memory = objective.initial_memory(WIDTH)
    batches = [batch(seed, duplicates=seed == 0) for seed in range(4)]
    batches[2]["targets"] = batches[1]["targets"]  # sentences of the queue that equal right answers
    for number, examples in enumerate(batches):
        loss, _, memory = objective.whole_loss(BagOfWords(table()), examples, make_context(), None, 1, memory)
        seen = batches[max(0, number - 2) : number + 1][::-1]
        if number == 3:  # the queue is full: of the oldest batch it still holds the first three pairs
            oldest = {side: jax.tree.map(lambda x: x[:3], rows) for side, rows in batches[0].items()}
            seen.append(oldest)
        np.testing.assert_allclose(loss, closed_form(seen, table(), hardness=0.5), rtol=1e-5)
    assert memory.filled.all()


def test_the_queue_takes_in_nothing_before_its_first_batch():
    objective = TranslationRanking(queue=2 * ROWS, queue_after=2)
    memory = objective.initial_memory(WIDTH)
    batches = [batch(seed) for seed in range(4)]
    for number, examples in enumerate(batches):
        loss, _, memory = objective.whole_loss(BagOfWords(table()), examples, make_context(), None, 1, memory)
        seen = [examples, *batches[2:number]]
        np.testing.assert_allclose(loss, closed_form(seen, table()), rtol=1e-5)


def test_no_gradient_flows_into_the_queue():
    objective = TranslationRanking(queue=ROWS)
    empty = objective.initial_memory(WIDTH)

    def two_steps(earlier_weights):
        memory = objective.whole_loss(BagOfWords(earlier_weights), batch(0), make_context(), None, 1, empty)[2]
        return objective.whole_loss(BagOfWords(table()), batch(1), make_context(), None, 1, memory)[0]

    assert not np.asarray(jax.grad(two_steps)(table(3))).any()
    assert two_steps(table(3)) != two_steps(table(4))  # although what is in it does count


def test_a_perfect_ranking_counts_as_one_and_equal_sentences_do_not_spoil_it():
    same = batch()["targets"]
    objective = dataclasses.replace(TranslationRanking(), task="ranking")
    _, metrics = objective.loss(BagOfWords(table()), {"inputs": same, "targets": same}, make_context(), None)
    numerator, denominator = metrics["accuracy"]
    assert numerator.sum() == denominator.sum() == ROWS
