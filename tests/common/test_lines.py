import threading

import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.common.lines import Arriving, arriving, read_lines, windows


def test_lines_end_at_line_feeds_and_begin_without_a_byte_order_mark(tmp_path):
    (tmp_path / "in.txt").write_bytes("\ufeffa\u2028b\x85\fc\r\n\ufeffd".encode())
    assert list(read_lines(str(tmp_path / "in.txt"))) == ["a\u2028b\x85\fc", "\ufeffd"]


def test_lines_that_have_come_are_not_kept_waiting():
    more = threading.Event()

    def lines():
        yield from ("a", "", "b")
        assert more.wait(60)
        yield "c"
        raise UserError("not UTF-8")

    found = windows(Arriving(lines()), 10)
    seen = next(found)
    assert seen  # before there is more
    more.set()
    with pytest.raises(UserError, match="not UTF-8"):
        for window in found:
            seen += window
    assert seen == ["a", "", "b", "c"]
    for source in (Arriving(iter("abcde")), iter("abcde")):
        together = list(windows(source, 2))
        assert "".join(map("".join, together)) == "abcde" and max(map(len, together)) == 2
    lines = iter("ab")
    assert arriving(lines, "file.txt") is lines
