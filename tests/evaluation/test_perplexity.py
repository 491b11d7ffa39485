import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from mlm_jax.data.loading.batch import Rows
from mlm_jax.evaluation.perplexity import (
    add_sums,
    bits_per_byte,
    bits_per_byte_by_language,
    evaluate_rows,
    flatten,
    language_metrics,
    make_batch_metrics,
    totals,
)
from mlm_jax.objectives import create_objectives
from tests.objectives.helpers import SPECIALS, make_context, random_rows

LANGUAGES = ("de", "fr", "hi")


class Unigram:
    """A model that knows how frequent pieces are and nothing else: its loss has a closed form."""

    def __init__(self, log_probabilities):
        self.log_probabilities = log_probabilities

    def encode(self, rows, *, task="", key=None, same_language_rows=1):
        assert key is None, "evaluation must not use dropout"
        return jnp.zeros((*rows.tokens.shape, 2))

    def masked_head(self, hidden):
        return hidden

    def output_table(self):
        return jnp.zeros((self.log_probabilities.shape[0], 2)), self.log_probabilities


def unigram(seed=0, vocabulary=50):
    return jax.nn.log_softmax(jnp.asarray(np.random.default_rng(seed).normal(size=vocabulary)))


def sums_of(measure, params, batches):
    return totals(evaluate_rows(measure, params, batches), len(LANGUAGES))


def measure_of(mesh=None, **options):
    objective = create_objectives({"mlm": {"objective": "mlm", "mask_rate": 0.4, **options}})["mlm"]
    return make_batch_metrics(Unigram, objective, make_context(), mesh)


def with_language(rows, language):
    return {"inputs": rows._replace(language=np.full(len(rows.tokens), language, np.int32))}


def test_masks_of_a_row_depend_on_the_row_only():
    rows, measure = random_rows(1), measure_of()
    count = len(rows.tokens) // 2 * 2
    whole = rows._replace(**{name: value[:count] for name, value in rows._asdict().items()})
    cut = [{"inputs": jax.tree.map(lambda leaf, at=at: leaf[at : at + 2], whole)} for at in range(0, count, 2)]
    together, apart = (sums_of(measure, unigram(), batches) for batches in ([{"inputs": whole}], cut))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), together, apart)
    other = {"inputs": jax.tree.map(lambda leaf: leaf[::-1], whole)}  # the same rows with other numbers
    assert (sums_of(measure, unigram(), [other])["loss"][0] != together["loss"][0]).any()


def test_loss_is_the_mean_over_the_hidden_tokens_of_each_language():
    """Every ordinary token is hidden, so the oracle needs no knowledge of the masks."""
    log_p = unigram()
    batches = [with_language(random_rows(seed), seed % 2) for seed in range(4)]  # no batch of language 2
    objective = create_objectives({"mlm": {"objective": "mlm", "mask_rate": 1.0}})["mlm"]
    sums = sums_of(make_batch_metrics(Unigram, objective, make_context()), log_p, batches)
    metrics = language_metrics(sums, LANGUAGES)
    losses = {}
    for number, batch in enumerate(batches):
        rows = batch["inputs"]
        ordinary = rows.tokens[(rows.segment_ids > 0) & (rows.tokens >= SPECIALS)]
        losses.setdefault(LANGUAGES[number % 2], []).extend(-np.asarray(log_p)[ordinary])
    assert set(metrics["loss"]) == {"de", "fr", "mean", "micro"}
    assert metrics["loss"]["de"] == pytest.approx(np.mean(losses["de"]), rel=1e-5)
    assert metrics["loss"]["fr"] == pytest.approx(np.mean(losses["fr"]), rel=1e-5)
    assert metrics["loss"]["mean"] == pytest.approx((np.mean(losses["de"]) + np.mean(losses["fr"])) / 2, rel=1e-5)
    assert metrics["loss"]["micro"] == pytest.approx(np.mean(losses["de"] + losses["fr"]), rel=1e-5)


def test_masks_are_the_same_at_every_evaluation_and_differ_between_batches():
    batch = {"inputs": random_rows(0)}
    once, again = (sums_of(measure_of(), unigram(), [batch]) for _ in range(2))
    np.testing.assert_array_equal(once["loss"][0], again["loss"][0])
    twice = sums_of(measure_of(), unigram(), [batch, batch])
    assert not np.allclose(twice["loss"][0], 2 * once["loss"][0])


def filled_up(rows, missing):
    """As the loader fills up the last batch."""
    return Rows(*(np.pad(leaf, ((0, missing),) + ((0, 0),) * (leaf.ndim - 1)) for leaf in rows))


def test_rows_of_padding_change_nothing():
    rows = random_rows(0, rows=5)
    objective = create_objectives({"mlm": {"objective": "mlm", "mask_rate": 1.0}})["mlm"]
    measure = make_batch_metrics(Unigram, objective, make_context())
    plain = sums_of(measure, unigram(), [{"inputs": rows}])
    padded = sums_of(measure, unigram(), [{"inputs": filled_up(rows, 3)}])
    for name in plain:
        np.testing.assert_allclose(padded[name], plain[name], rtol=1e-6)


def test_sums_add_up_metric_by_metric():
    one, two = np.array([1.0, 0.0]), np.array([2.0, 2.0])
    total = add_sums({"loss": (one, one), "f1": (two, two)}, {"loss": (two, one)})
    np.testing.assert_array_equal(total["loss"], [[3.0, 2.0], [2.0, 0.0]])
    np.testing.assert_array_equal(total["f1"], [two, two])


def test_one_shape_is_compiled_once():
    traces = []

    def model_of(params):
        traces.append(1)
        return Unigram(params)

    objective = create_objectives({"mlm": {"objective": "mlm"}})["mlm"]
    measure = make_batch_metrics(model_of, objective, make_context())
    sums_of(measure, unigram(), [{"inputs": random_rows(seed)} for seed in range(3)])
    sums_of(measure, unigram(1), [{"inputs": random_rows(9)}])
    assert len(traces) == 1


def test_a_mesh_gives_the_same_numbers():
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(8, 1, 1, 1), ("data", "fsdp", "tensor", "sequence"))
    batches = [{"inputs": random_rows(seed, rows=8)} for seed in range(2)]
    alone, sharded = (sums_of(measure_of(where), unigram(), batches) for where in (None, mesh))
    for name in alone:
        np.testing.assert_allclose(sharded[name], alone[name], rtol=1e-6)


def test_nothing_to_evaluate_is_nothing():
    assert sums_of(measure_of(), unigram(), []) == {}
    zeros = np.zeros(3)
    assert language_metrics({"loss": (zeros, zeros)}, LANGUAGES) == {}


def test_bits_per_byte_of_a_uniform_guess_is_the_length_of_a_plain_code():
    """256 equally likely pieces of 2 bytes each: 8 bits a piece, 4 bits a byte."""
    assert bits_per_byte(math.log(256), tokens=500, byte_count=1000) == pytest.approx(4.0)
    with pytest.raises(ValueError, match="without bytes"):
        bits_per_byte(1.0, 10, 0)


def test_bits_per_byte_averages_over_languages_and_over_bytes():
    values = bits_per_byte_by_language(
        {"de": math.log(2), "hi": math.log(2), "mean": 9.0, "micro": 9.0}, {"de": (100, 200), "hi": (100, 600)}
    )
    assert values == pytest.approx({"de": 0.5, "hi": 1 / 6, "mean": 1 / 3, "micro": 200 / 800})
    assert bits_per_byte_by_language({"mean": 1.0}, {}) == {}


def test_flat_keys_are_those_of_the_metrics_file():
    flat = flatten({"loss": {"de": 1.0, "mean": 2.0}}, "eval")
    assert flat == {"eval/loss/de": 1.0, "eval/loss/mean": 2.0}
