import threading

import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.common.lines import MOST_BYTES, Arriving, arriving, read_lines, windows


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


@pytest.mark.parametrize(
    "content, message",
    [
        (b"a\n\xff\n", "in.txt:2: this is not UTF-8"),
        (b"a\nb\0\n", "in.txt:2: NUL in line 2: is this UTF-16"),
        ("ab\n".encode("utf-16"), "in.txt:1: this is UTF-16"),
        (b"a\rb\r", "in.txt:1: the lines end in CR alone"),
        (b"a\n" + b"x" * (MOST_BYTES + 1), "in.txt:2: the line has more than 16,777,216 bytes. Remedy: split the line"),
    ],
)
def test_lines_that_are_no_text_are_named(tmp_path, content, message):
    (tmp_path / "in.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_lines(str(tmp_path / "in.txt")))
