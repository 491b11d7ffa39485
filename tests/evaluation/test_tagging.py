import numpy as np
import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.evaluation.tagging import entity_scores, is_entity_tags, tag_sentences, uncut

NAMES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


def test_only_labelled_tokens_of_each_row_are_tagged():
    gold = np.array([[-1, 1, -1, 2, 0], [3, -1, -1, -1, -1]])
    predicted = np.array([[4, 1, 4, 0, 0], [3, 4, 4, 4, 4]])
    ours, right = tag_sentences(predicted, gold, NAMES)
    assert ours == [["B-PER", "O", "O"], ["B-LOC"]]
    assert right == [["B-PER", "I-PER", "O"], ["B-LOC"]]


def test_words_beyond_the_row_count_as_outside():
    row = np.array([1, 2, 3])
    np.testing.assert_array_equal(uncut(row, 2, 0), [1, 2])
    np.testing.assert_array_equal(uncut(row, 3, 0), [1, 2, 3])
    np.testing.assert_array_equal(uncut(row, 5, 0), [1, 2, 0, 0, 3])


def test_an_entity_counts_only_whole_and_languages_apart():
    gold = [["B-PER", "I-PER", "O"], ["B-LOC", "O"], ["B-LOC", "O"]]
    predicted = [["B-PER", "O", "O"], ["B-LOC", "O"], ["B-PER", "B-LOC"]]
    scores = entity_scores(predicted, gold, ["en", "en", "hi"])
    assert scores["en"][:4] == (0.5, 0.5, 0.5, 2)
    assert scores["hi"][:4] == (0.0, 0.0, 0.0, 1)
    # By sentence, for intervals: a wrong boundary and a wrong type are predicted, there, and not right.
    assert [part.tolist() for part in scores["en"][4:]] == [[0, 1], [1, 1], [1, 1]]
    assert [part.tolist() for part in scores["hi"][4:]] == [[0], [2], [1]]


def test_a_language_without_entities_has_no_score_but_a_false_alarm_has():
    scores = entity_scores([["O"], ["B-PER"]], [["O"], ["O"]], ["en", "hi"])
    assert list(scores) == ["hi"]
    assert scores["hi"].f1 == 0.0


def test_tags_of_entities_are_told_from_parts_of_speech():
    assert is_entity_tags(NAMES)
    assert not is_entity_tags(("NOUN", "VERB"))
    assert not is_entity_tags(("O", "NOUN"))


@pytest.mark.parametrize(
    ("predicted", "gold", "languages", "problem"),
    [
        ([["O"]], [["O", "O"]], ["en"], "1 predicted tags and 2 right ones"),
        ([["NOUN"]], [["O"]], ["en"], "'NOUN' is not the tag"),
        ([["O"]], [["O"]], ["en", "de"], "2 languages"),
    ],
)
def test_tags_that_cannot_be_scored_are_refused(predicted, gold, languages, problem):
    with pytest.raises(UserError, match=problem):
        entity_scores(predicted, gold, languages)


@pytest.mark.parametrize("begin, inside, end, single", ["BIES", "BILU", "BMES", "BIIB"])
def test_every_scheme_of_tags_is_measured(begin, inside, end, single):
    gold = [[f"{begin}-PER", f"{inside}-PER", f"{end}-PER", f"{single}-LOC", f"{single}-LOC", "O"]]
    predicted = [[f"{begin}-PER", f"{inside}-PER", f"{end}-PER", "O", f"{single}-LOC", "O"]]
    assert is_entity_tags([*{*gold[0]}])
    scores = entity_scores(predicted, gold, ["en"])["en"]
    assert (scores.precision, scores.recall, scores.entities) == (1.0, pytest.approx(2 / 3), 3)
