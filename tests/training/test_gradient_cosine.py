import jax
import numpy as np
import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.training.gradient_cosine import between_languages, between_tasks, only_language
from tests.training.test_exactness import batch as small_batch
from tests.training.test_exactness import small
from tests.training.test_multitask import LANGUAGES, batch, compiled
from tests.training.test_step import make_program


def flat(tree):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.fixture(scope="module")
def start():
    program = compiled()[0]
    return program, program.initialise().params


def test_between_tasks_compares_what_both_move(start):
    program, params = start
    found = between_tasks(program, params, batch(3))
    assert found.names == ("mlm", "ranking")
    np.testing.assert_allclose(np.diagonal(found.cosines), 1, rtol=1e-6)
    own = between_tasks(program, params, batch(3), parameters="(head|output).*")
    assert own.norms[0] > 0 and own.norms[1] == 0 and np.isnan(own.cosines[0, 1])  # ranking has no output layer
    shared = between_tasks(program, params, batch(3), parameters="(?!head|output).*")
    np.testing.assert_allclose(found.cosines, shared.cosines, atol=1e-6)
    assert abs(found.cosines[0, 1]) < 1


def test_between_languages_takes_the_sum_of_the_loss_apart(start):
    program, params = start
    found = between_languages(program, params, batch(3), task="mlm", parameters="encoder/.*")
    present = tuple(np.unique(batch(3)["mlm"]["inputs"].language).tolist())
    assert found.names == tuple(LANGUAGES[language] for language in present) and len(present) > 1
    objective, context = program.objectives["mlm"], program.context

    @jax.jit
    def gradient(params, rows):
        examples = objective.prepare(rows, jax.random.key(0), context)
        return jax.grad(lambda params: objective.loss(program.model(params), examples, context, None)[0])(params)

    rows = batch(3)["mlm"]
    each = [rows, *(only_language(rows, language) for language in present)]
    whole, *parts = (flat(gradient(params, part)["encoder"]) for part in each)
    np.testing.assert_allclose(sum(parts), whole, atol=1e-6)
    np.testing.assert_allclose(found.cosines[0, 1], cosine(parts[0], parts[1]), atol=1e-5)
    np.testing.assert_allclose(found.norms, [np.linalg.norm(part) for part in parts], rtol=1e-5)


@pytest.fixture(scope="module")
def indexed():
    """A program whose encoder is indexed by language, its parameters and a batch."""
    config = small()
    config.tasks, config.model.language_embedding = {"mlm": config.tasks["mlm"]}, True
    config.model.encoder = ({"layers": 1, "weights": "source_language"}, {"layers": 1, "weights": "shared"})
    program = make_program(config)
    return program, program.initialise().params, small_batch()


def test_slices_of_different_languages_are_not_shared(indexed):
    program, params, rows = indexed

    def measure(parameters):
        return between_languages(program, params, rows, task="mlm", parameters=parameters)

    own, shared, everything = measure("encoder/0/.*"), measure("(?!encoder/0/|language_).*"), measure(".*")
    different = ~np.eye(len(own.names), dtype=bool)
    assert len(own.names) > 1 and np.isnan(own.cosines[different]).all()
    np.testing.assert_allclose(np.diagonal(own.cosines), 1, rtol=1e-6)
    np.testing.assert_allclose(everything.cosines[different], shared.cosines[different], atol=1e-6)


def test_rows_of_two_languages_are_not_taken_apart():
    config = small()
    config.tasks = {"both": {"objective": "tlm", "rows": 8, "length": 16}}
    with pytest.raises(UserError, match="rows of task 'both' contain two languages"):
        between_languages(make_program(config), {}, {"both": small_batch()["ranking"]}, task="both")


def test_bad_input(start):
    program, params = start
    with pytest.raises(UserError, match="did you mean 'mlm'"):
        between_languages(program, params, batch(0), task="mml")
    with pytest.raises(UserError, match="compares rows of all languages"):
        between_languages(program, params, batch(0), task="ranking")
    with pytest.raises(UserError, match="no parameter matches"):
        between_languages(program, params, batch(0), task="mlm", parameters="enc")
