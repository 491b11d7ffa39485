import jax
import numpy as np
import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.model import create, merge
from mlm_jax.objectives import check_parts
from mlm_jax.objectives.tlm import TranslationLanguageModelling
from mlm_jax.objectives.translation import sequence_examples
from tests.objectives.helpers import SPECIALS, make_context, random_rows


def pairs():
    first, second = random_rows(0, documents=1), random_rows(1, documents=1)
    return first._replace(language=np.zeros(6, np.int32)), second._replace(language=np.full(6, 2, np.int32))


def test_tlm_lays_pairs_side_by_side_and_weighs_each_side_by_its_language():
    first, second = pairs()
    context = make_context()
    examples = TranslationLanguageModelling(mask_rate=0.4).prepare(
        {"inputs": first, "targets": second}, jax.random.key(0), context
    )
    rows, length = examples.masked.rows, first.tokens.shape[1]
    originals = np.concatenate([first.tokens, second.tokens], axis=1)
    positions, chosen = np.asarray(examples.masked.positions), np.asarray(examples.masked.chosen)
    assert rows.tokens.shape == (6, 2 * length)
    np.testing.assert_array_equal(rows.positions[:, length:], second.positions)  # positions restart
    np.testing.assert_array_equal(rows.language, np.repeat([[0, 2]], length, axis=1).repeat(6, axis=0))
    np.testing.assert_array_equal(np.take_along_axis(originals, positions, 1), examples.masked.labels)
    assert (np.take_along_axis(originals, positions, 1)[chosen] >= SPECIALS).all()
    language = np.asarray(examples.language)
    assert (language == np.where(positions < length, 0, 2)).all()
    for index in (0, 2):  # Σ of the weights of a language is 1
        np.testing.assert_allclose(np.asarray(examples.weights)[language == index].sum(), 1.0, rtol=1e-6)


def test_each_side_of_a_pair_gets_the_embedding_of_its_own_language():
    config = default_config()
    config.model.update(width=8, heads=2, mlp_width=8, max_positions=64, global_every=1, language_embedding=True)
    config.model.encoder = ({"layers": 1, "weights": "shared"},)
    config.tasks = {"tlm": {"objective": "tlm", "rows": 6, "length": 24}}
    objective, context = TranslationLanguageModelling(task="tlm"), make_context()
    first, second = pairs()
    examples = objective.prepare({"inputs": first, "targets": second}, jax.random.key(0), context)
    graphdef, params = create(config, vocabulary_size=50, languages=("a", "b", "c"))

    def loss(params):
        return objective.loss(merge(graphdef, params), examples, context, None)[0]

    gradient = np.abs(jax.jit(jax.grad(loss))(params)["language_embedding"]).sum(axis=1)
    assert gradient[0] > 0 and gradient[1] == 0 and gradient[2] > 0

    config.model.encoder = ({"layers": 1, "weights": "source_language"},)
    with pytest.raises(UserError, match="'tlm' contain two languages"):
        check_parts({"tlm": objective}, config.model)


def test_shift_right_with_and_without_a_stored_prefix():
    first, second = pairs()
    for prefixed in (True, False):
        context = make_context(prefixed=prefixed, language_starts=np.array([10, 11, 12]))
        examples = sequence_examples(first, second, context)
        labels = second.tokens[:, 1:] if prefixed else second.tokens
        width = labels.shape[1]
        assert (np.asarray(examples.decoder.tokens)[:, 0] == 12).all()
        np.testing.assert_array_equal(np.asarray(examples.labels)[:, :width], labels)
        np.testing.assert_array_equal(np.asarray(examples.decoder.tokens)[:, 1:width], labels[:, :-1])
        count = int((np.asarray(examples.weights) > 0).sum())
        assert count == int((second.segment_ids[:, 1 if prefixed else 0 :] > 0).sum())
