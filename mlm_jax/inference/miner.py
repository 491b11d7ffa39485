"""Mining parallel sentences from two monolingual texts, and scoring the result as BUCC does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mlm_jax.common.errors import UserError
from mlm_jax.common.lines import read_lines
from mlm_jax.data.text.languages import pair_languages
from mlm_jax.inference.encoder import Model


class Sentences(NamedTuple):
    """Distinct sentences and their names: BUCC's identifiers, or line numbers from 1.

    Attributes:
      names: the name of each sentence at its first occurrence.
      texts: the sentences.
      index_of: {name: index of its sentence}, also for the names of repeated sentences.
      empty: number of lines without a sentence.
      repeated: number of lines with a sentence that occurred before.
    """

    names: tuple[str, ...]
    texts: tuple[str, ...]
    index_of: Mapping[str, int]
    empty: int
    repeated: int


def pair_codes(pair: str | None, model: Model) -> tuple[str, str] | tuple[None, None]:
    """Return the two languages of a pair such as "de-en", whose codes may contain hyphens.

    Both are None if no pair is given and the model has no language-specific parts.

    Raises:
      UserError: ``pair`` is not a pair of the model's languages, or no pair was given and the model needs one.
    """
    known = model.languages
    if not pair:
        if len(known) > 1 and model.needs_language:
            raise UserError(
                "this model has language-specific parts, so the languages of the texts are required",
                remedy=f"give --languages SOURCE-TARGET, of {', '.join(known)}",
            )
        return None, None
    found = pair_languages(pair, known)
    if not found:
        raise UserError(
            f"--languages {pair!r} is not a pair of the model's languages, {', '.join(known)}",
            remedy="write SOURCE-TARGET",
        )
    return found[0], found[1]


def read_sentences(file: str) -> Sentences:
    """Read lines ``identifier TAB sentence``, or lines of sentences, which are then named by their line numbers.

    A repeated sentence gets a further name. Empty lines are skipped. Both are counted.

    Raises:
      UserError: the file cannot be read, has no sentence, an identifier twice, or tabs on some lines only.
    """
    found: dict[str, str] = {}  # sentence → its first name
    text_of: dict[str, str] = {}
    empty = 0
    named: bool | None = None  # whether the lines have identifiers; the first line that is not empty decides
    for number, line in enumerate(read_lines(file), start=1):
        if line.strip():
            named = "\t" in line if named is None else named
            if named != ("\t" in line):
                problem = "no tab, but the lines before have one" if named else "a tab, but the lines before have none"
                raise UserError(
                    f"{problem}: is the text before a tab an identifier?",
                    file=file,
                    line=number,
                    remedy="write IDENTIFIER<tab>SENTENCE on each line, or take out the tabs",
                )
        name, tab, text = line.partition("\t")
        text, name = (text.strip(), name) if tab else (line.strip(), str(number))
        if name in text_of:
            raise UserError(
                f"the identifier {name!r} occurs on an earlier line",
                file=file,
                line=number,
                remedy="give each sentence an identifier of its own",
            )
        if text:
            found.setdefault(text, name)
            text_of[name] = text
        empty += not text
    if not found:
        raise UserError("the file has no sentence", file=file, remedy="write one sentence on each line")
    index_of = {text: index for index, text in enumerate(found)}
    names = {name: index_of[text] for name, text in text_of.items()}
    return Sentences(tuple(found.values()), tuple(found), names, empty, len(text_of) - len(found))


def read_gold(file: str, source: Sentences, target: Sentences) -> set[tuple[int, int]]:
    """Read gold pairs as indices of the sentences.

    Raises:
      UserError: the file cannot be read or is empty, a line is malformed, or names none of these sentences.
    """
    pairs = set()
    for number, line in enumerate(read_lines(file), start=1):
        names = line.split("\t")
        if len(names) != 2:
            raise UserError(
                "not two identifiers with a tab between them",
                file=file,
                line=number,
                remedy="write the source's identifier, a tab, and the target's",
            )
        for name, side, what in zip(names, (source, target), ("source", "target")):
            if name not in side.index_of:  # to skip the pair would make recall look higher
                raise UserError(
                    f"the {what} has no sentence {name!r}",
                    file=file,
                    line=number,
                    remedy="check that identifiers are the texts' own",
                )
        pairs.add((source.index_of[names[0]], target.index_of[names[1]]))
    if not pairs:
        raise UserError("the file has no pair", file=file, remedy="write one pair of identifiers on each line")
    return pairs
