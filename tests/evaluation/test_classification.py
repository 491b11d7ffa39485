import numpy as np
import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.evaluation.classification import transfer_matrix

SCORES = {"en": {"en": 0.9, "de": 0.7, "hi": 0.5}, "de": {"en": 0.6, "de": 0.8}}


def test_matrix_keeps_every_pair_and_marks_what_was_not_measured():
    matrix = transfer_matrix(SCORES, "accuracy", {"en": "en"})
    assert (matrix.sources, matrix.targets) == (("en", "de"), ("en", "de", "hi"))
    np.testing.assert_array_equal(matrix.scores, [[0.9, 0.7, 0.5], [0.6, 0.8, np.nan]])
    assert matrix.selected_by == ("en", "")


def test_transfer_gap_is_the_loss_from_the_source_to_the_others():
    matrix = transfer_matrix(SCORES)
    assert matrix.transfer("en") == pytest.approx(0.6)
    assert matrix.gap("en") == pytest.approx(0.3)
    assert matrix.gap("de") == pytest.approx(0.2)


def test_transfer_to_nowhere_is_refused():
    with pytest.raises(UserError, match="not tested on any other"):
        transfer_matrix({"en": {"en": 1.0}}).transfer("en")
    with pytest.raises(UserError, match="did you mean 'en'"):
        transfer_matrix(SCORES).gap("eng")
