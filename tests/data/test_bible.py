"""The demo's corpus."""

import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.data import bible


def test_the_bible_is_aligned_and_held_out_by_books():
    pairs = list(bible.pairs("de-en", "validation"))
    assert len(pairs) > 900 and all(a and b for a, b in pairs)
    held_out = {b for _, b in pairs}
    seen = {b for _, b in bible.pairs("de-en", "train")}
    assert len(held_out & seen) < 0.02 * len(held_out)  # Mark shares a few short verses with other gospels
    assert bible.clean("आदि में (इब्रा. 1:10, इब्रा. 11:3)") == "आदि में"
    assert {label for _, label in bible.genre("en", "train")} == set(bible.GENRES)
    with pytest.raises(UserError, match="no language 'xx'"):
        list(bible.text("xx", "train"))
