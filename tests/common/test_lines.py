import io
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlm_jax.common.errors import UserError
from mlm_jax.common.lines import MOST_BYTES, Arriving, arriving, decoded_lines, read_lines, windows


def test_lines_end_at_line_feeds_and_begin_without_a_byte_order_mark(tmp_path):
    (tmp_path / "in.txt").write_bytes("\ufeffa\u2028b\x85\fc\r\n\ufeffd".encode())
    assert list(read_lines(str(tmp_path / "in.txt"))) == ["a\u2028b\x85\fc", "\ufeffd"]


@settings(max_examples=150, deadline=None)
@given(
    lines=st.lists(st.text(st.sampled_from("aé\u2028\r水 "), max_size=9), max_size=30),
    ended=st.booleans(),
    block=st.integers(1, 9),
)
def test_lines_are_the_same_whatever_comes_at_once(lines, ended, block):
    content = "\n".join(lines).encode() + b"\n" * ended

    class Stream(io.BytesIO):
        def read1(self, size=-1):
            return super().read1(block)

    expected = [line.decode().rstrip("\r\n") for line in io.BytesIO(content)]
    if b"\n" not in content and b"\r" in content.rstrip(b"\r"):  # a file of one line
        return
    assert list(decoded_lines(Stream(content), "in.txt", 1000, "")) == expected


@pytest.mark.parametrize("bad", [b"\xff", b"\0"])
def test_invalid_text_after_many_lines_is_named_with_its_line(bad):
    stream = io.BytesIO(b"a line\n" * 20_000 + bad + b"\n")
    lines = decoded_lines(stream, "in.txt", 1000, "")
    assert [next(lines) for _ in range(20_000)] == ["a line"] * 20_000
    with pytest.raises(UserError, match="in.txt:20001: "):
        next(lines)


def test_lines_are_yielded_as_they_arrive():
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
def test_invalid_lines_are_named(tmp_path, content, message):
    (tmp_path / "in.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_lines(str(tmp_path / "in.txt")))
