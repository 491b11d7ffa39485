import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.evaluation.alignment import (
    Alignment,
    alignment_error_rate,
    draw_alignments,
    read_links,
    word_weights,
    words_of,
)


def test_pieces_are_counted_by_words():
    starts = np.array([False, False, True, False, True])  # 2 and 4 begin words
    special = np.array([True, False, False, False, False])
    ids = np.array([0, 1, 3, 2, 1, 4, 4, 0, 0])  # the piece after a special one begins a word, whatever it is
    assert words_of(ids, starts, special).tolist() == [-1, 0, 0, 1, 1, 2, 3, -1, -1]
    assert words_of(ids[:0], starts, special).tolist() == []


def test_source_pieces_add_up_and_target_pieces_are_averaged():
    weights = np.array([[0.5, 0.2, 0.2, 0.1], [0.0, 0.6, 0.2, 0.2], [0.4, 0.1, 0.1, 0.4]])
    found = word_weights(weights, np.array([0, 0, 1]), np.array([-1, 0, 0, 1]))
    np.testing.assert_allclose(found, [[(0.4 + 0.8) / 2, (0.1 + 0.2) / 2], [0.2, 0.4]])
    alignment = Alignment(("a", "b"), ("x", "y"), found)
    assert alignment.links == [(0, 0), (1, 1)]


def test_error_rate_is_och_and_neys():
    found, sure, possible = [[(0, 0), (1, 1), (2, 2)], []], [{(0, 0), (1, 2)}, {(0, 0)}], [{(1, 1)}, set()]
    # |A ∩ S| = 1, |A ∩ P| = 2 (sure links are possible), |A| = 3, |S| = 3
    np.testing.assert_allclose(alignment_error_rate(found, sure, possible), 1 - 3 / 6)
    assert alignment_error_rate([[(0, 0)]], [{(0, 0)}], [set()]) == 0
    with pytest.raises(UserError, match="no link"):
        alignment_error_rate([[]], [set()], [set()])
    with pytest.raises(UserError, match="1 alignments cannot be scored against 2"):
        alignment_error_rate([[]], [set(), set()], [set(), set()])


def test_links_are_read_sure_and_possible():
    assert read_links("0-0 1p2 10-3") == ({(0, 0), (10, 3)}, {(0, 0), (1, 2), (10, 3)})
    with pytest.raises(ValueError, match="'1:2' is not a link"):
        read_links("0-0 1:2")


def test_a_drawing_has_a_cell_for_each_pair_of_words_and_any_script():
    alignment = Alignment(("<a>", "солнце"), ("धूप", "&", "c"), np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]]))
    root = ElementTree.fromstring(draw_alignments([alignment, alignment]))

    def tag(name):
        return root.iter("{http://www.w3.org/2000/svg}" + name)

    cells = [cell for cell in tag("rect") if "class" not in cell.attrib]
    assert [float(cell.get("fill-opacity")) for cell in cells][:6] == [0.9, 0.1, 0.2, 0.8, 0.3, 0.7] and len(
        cells
    ) == 12
    assert len([cell for cell in tag("rect") if cell.get("class") == "link"]) == 6
    assert [text.text for text in tag("text")][:5] == ["<a>", "солнце", "धूप", "&", "c"]
