"""Mining parallel sentences out of two monolingual texts, and scoring it as BUCC does."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from mlm_jax.common.errors import UserError
from mlm_jax.common.files import writing
from mlm_jax.common.lines import read_lines
from mlm_jax.data.text.languages import pair_languages
from mlm_jax.evaluation.bitext import MinedPair, MiningScores, best_threshold, mine, mining_scores
from mlm_jax.inference.encoder import Model, load


class Sentences(NamedTuple):
    """Distinct sentences and their names: BUCC's identifiers, or line numbers from 1.

    Attributes:
      names: of each sentence where it stands first.
      texts: the sentences.
      place: {name: index of its sentence}, with the names of repeated sentences.
      empty: lines without a sentence.
      repeated: lines whose sentence stood before.
    """

    names: tuple[str, ...]
    texts: tuple[str, ...]
    place: Mapping[str, int]
    empty: int
    repeated: int


def mine_command(place: str | Path, source: str, target: str, *, languages: str | None = None, gold: str = "",
                 threshold: float | None = None, output: str = "-") -> None:  # fmt: skip
    """Write the pairs of sentences that translate each other as TSV: score, source name, target name, source, target.

    Pairs are ranked by ratio margin (Artetxe & Schwenk 2019). Against gold pairs precision, recall and F1 go to
    standard error, as do the numbers of empty and of repeated lines; without a threshold the best one for these gold
    pairs is taken, and said.

    Args:
      place: a workdir or one of its checkpoints.
      source: a text file, a sentence a line, or ``identifier TAB sentence`` as in BUCC; repeated sentences count once;
        "-" is standard input.
      target: likewise, in the other language.
      languages: of the two texts, such as "de-en"; None if the model makes no difference.
      gold: a file of ``source identifier TAB target identifier`` lines.
      threshold: least score of a pair; None is the best against ``gold``, or 1.0 (nearer than the neighbourhood).
      output: FILE.tsv, which appears when it is whole, or "-".

    Raises:
      UserError: a file cannot be read or written, or is empty, or the model does not know a language.
    """
    sides = read_sentences(source), read_sentences(target)
    for name, side in zip((source, target), sides):
        if side.empty or side.repeated:
            left_out = f"{side.empty:,} lines without one, {side.repeated:,} repeat an earlier one"
            print(f"{name}: {len(side.texts):,} sentences; {left_out}", file=sys.stderr)
    pairs = read_gold(gold, *sides) if gold else None
    model = load(place)
    codes = pair_codes(languages, model)
    left, right = (model.embed(side.texts, language=code) for side, code in zip(sides, codes))
    mined = mine(left, right)
    if threshold is None:
        threshold = best_threshold(mined, pairs) if pairs else 1.0
    if pairs is not None:
        print(describe(mining_scores(mined, pairs, threshold)), file=sys.stderr)
    kept = [pair for pair in mined if pair.score >= threshold]
    with writing(output) as file:
        _write(kept, *sides, file)
    print(f"{len(kept):,} pairs with a ratio margin of at least {threshold:.4g}", file=sys.stderr)


def pair_codes(pair: str | None, model: Model) -> tuple[str, str] | tuple[None, None]:
    """Return the two languages of a pair such as "de-en", whose codes may hold hyphens; None if the model makes no difference.

    Raises:
      UserError: it is no pair of languages that the model knows, or none was given to a model that needs it.
    """
    known = model.languages
    if not pair:
        if len(known) > 1 and model.needs_language:
            raise UserError("this model reads every language in its own way, so it must be told which ones these are",
                            remedy=f"give --languages SOURCE-TARGET, of {', '.join(known)}")  # fmt: skip
        return None, None
    found = pair_languages(pair, known)
    if not found:
        raise UserError(
            f"--languages {pair!r} is not a pair of the model's languages, {', '.join(known)}",
            remedy="write SOURCE-TARGET",
        )
    return found[0], found[1]


def read_sentences(file: str) -> Sentences:
    """Read ``identifier TAB sentence`` lines, or sentences whose names are then their line numbers.

    A sentence that occurs again is the same one under another name; empty lines are passed over. Both are counted.

    Raises:
      UserError: the file cannot be read, has no sentence, or an identifier twice.
    """
    found: dict[str, str] = {}  # sentence → its first name
    text_of: dict[str, str] = {}
    empty = 0
    for number, line in enumerate(read_lines(file), start=1):
        name, tab, text = line.partition("\t")
        text, name = (text.strip(), name) if tab else (line.strip(), str(number))
        if name in text_of:
            raise UserError(f"the identifier {name!r} is that of an earlier line", file=file, line=number,
                            remedy="give each sentence an identifier of its own")  # fmt: skip
        if text:
            found.setdefault(text, name)
            text_of[name] = text
        empty += not text
    if not found:
        raise UserError("there is no sentence in it", file=file, remedy="write a sentence a line")
    place = {text: index for index, text in enumerate(found)}
    names = {name: place[text] for name, text in text_of.items()}
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
            raise UserError("not two identifiers with a tab between them", file=file, line=number,
                            remedy="write the source's identifier, a tab, and the target's")  # fmt: skip
        for name, side, what in zip(names, (source, target), ("source", "target")):
            if name not in side.place:  # passed over, it would make recall look higher
                raise UserError(f"the {what} has no sentence {name!r}", file=file, line=number,
                                remedy="check that identifiers are the texts' own")  # fmt: skip
        pairs.add((source.place[names[0]], target.place[names[1]]))
    if not pairs:
        raise UserError("there is no pair in it", file=file, remedy="write a pair of identifiers a line")
    return pairs


def describe(scores: MiningScores) -> str:
    """Return the scores as one line, in percent."""
    shares = ((name, 100 * value) for name, value in zip(("precision", "recall", "F1"), scores[:3]))
    return ", ".join(f"{name} {value:.2f}" for name, value in shares) + f" at threshold {scores.threshold:.4f}"


def _write(pairs: Sequence[MinedPair], source: Sentences, target: Sentences, file: IO[str]) -> None:
    for i, j, score in pairs:
        print(f"{score:.5f}", source.names[i], target.names[j], source.texts[i], target.texts[j], sep="\t", file=file)
