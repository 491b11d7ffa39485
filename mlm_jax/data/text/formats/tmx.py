"""``.tmx``: translation memory (TMX 1.4b, LISA OSCAR 2005), read unit by unit with bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from mlm_jax.common.errors import UserError, one_line
from mlm_jax.data.text.formats.codes import code_of, plain_code
from mlm_jax.data.text.reading import DAMAGED, Wanted, open_file, too_large, unreadable

CHUNK = 1 << 16  # bytes given to the XML parser at a time
CODES = ("bpt", "ept", "ph", "it", "ut")  # elements with native code of the translated document, which is not text
XML_LANG = "http://www.w3.org/XML/1998/namespace lang"
DOUBLED = "a second segment of the same language in a unit"  # why a segment is left out


def read(file: Path, wanted: Wanted) -> Iterator[tuple[str, str]]:
    """Yield the two segments of each unit; a segment that is missing or empty is "".

    If a unit has several segments in one language, the first one that is not empty is used, and the others are counted as skipped.
    Native code in a segment is left out with everything inside it; highlighted text (``<hi>``) is text.

    Raises:
      UserError: the file is not TMX, a unit is too large, or no unit has both languages.
    """
    languages = [plain_code(code) for code in wanted.sides]
    found: dict[str, None] = {}
    whole = 0
    for texts in _units(file, wanted):
        found |= dict.fromkeys(texts)
        texts = {code: text for code, text in texts.items() if text}  # an empty en gives way to en-US
        first, second = (code_of(language, texts) for language in languages)
        second = "" if second == first else second  # a single English segment is not both en-US and en-GB
        pair = texts[first] if first else "", texts[second] if second else ""
        whole += all(pair)
        yield pair
    if found and not whole:
        codes = one_line(", ".join(map(repr, found)))
        raise UserError(
            f"no unit has both {languages[0]!r} and {languages[1]!r}; the codes in the file are {codes}",
            file=file,
            remedy="name the pair by these codes in config.data.parallel",
        )


def _units(file: Path, wanted: Wanted) -> Iterator[dict[str, str]]:
    """Yield {language code: text} of each unit."""
    parser = expat.ParserCreate(namespace_separator=" ")
    state = _State(wanted, parser)
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = state.start, state.end
    parser.CharacterDataHandler = state.text
    fed = 0
    try:
        with open_file(file) as stream:
            while chunk := stream.read(CHUNK):
                parser.Parse(chunk, False)
                fed += len(chunk)
                yield from state.take()
                if fed - state.unit_ended_at > wanted.most_bytes + CHUNK:
                    raise too_large("a unit", wanted.most_bytes, file, parser.CurrentLineNumber)
            parser.Parse(b"", True)
            yield from state.take()
    except expat.ExpatError as error:
        raise UserError(
            f"this is not TMX: {expat.ErrorString(error.code)}",
            file=file,
            line=error.lineno,
            remedy="fix the file, for example with the help of xmllint",
        ) from error
    except (LookupError, ValueError) as error:
        raise UserError(f"this is not TMX: {one_line(error)}", file=file, remedy="write it in UTF-8") from error
    except DAMAGED as error:
        raise unreadable(error, file) from error


@dataclass
class _State:
    """State of parsing a TMX file. Only the text of segments is kept.

    Attributes:
      wanted: what the reader is asked for; its ``skipped`` counts segments that are left out.
      parser: the XML parser, which knows its position in the file.
      language: language of the segment's variant (``<tuv>``).
      inside_code: number of open elements, from the outermost element with native code; 0 outside of code.
      segment: parts of the segment's text; None outside of segments.
      texts: {language code: text} of the unit.
      units: complete units that were not yet yielded.
      unit_ended_at: byte of the file at which the last unit ended.
    """

    wanted: Wanted
    parser: expat.XMLParserType
    language: str = ""
    inside_code: int = 0
    segment: list[str] | None = None
    texts: dict[str, str] = field(default_factory=dict)
    units: list[dict[str, str]] = field(default_factory=list)
    unit_ended_at: int = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        tag = name.rpartition(" ")[2]
        if self.inside_code or (self.segment is not None and tag in CODES):
            self.inside_code += 1
        elif tag == "tuv":
            self.language = plain_code(attributes.get(XML_LANG) or attributes.get("lang") or "")
        elif tag == "seg":
            self.segment = []
        elif tag == "tu":
            self.texts = {}

    def text(self, data: str) -> None:
        if self.segment is not None and not self.inside_code:
            self.segment.append(data)

    def end(self, name: str) -> None:
        tag = name.rpartition(" ")[2]
        if self.inside_code:
            self.inside_code -= 1
        elif tag == "seg" and self.segment is not None:
            text = " ".join("".join(self.segment).split())
            if text and self.texts.get(self.language):
                self.wanted.skipped[DOUBLED] += 1
            else:
                self.texts[self.language] = text or self.texts.get(self.language, "")
            self.segment = None
        elif tag == "tu":
            self.units.append(self.texts)
            self.texts = {}
            self.unit_ended_at = self.parser.CurrentByteIndex

    def take(self) -> list[dict[str, str]]:
        units, self.units = self.units, []
        return units
