"""Named entities and other spans: precision, recall and F1 of whole entities, per language."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mlm_jax.common.errors import UserError
from mlm_jax.evaluation.extras import metric_library

# Prefixes of tags: B begins an entity, I and M continue it, E and L end it, S and U are entities of one token.
PREFIXES, BEGINS, ENDS = "BIMELSU", "BSU", "ELSU"


class EntityScores(NamedTuple):
    """Scores over whole entities.

    Attributes:
      precision: share of predicted entities that are right.
      recall: share of gold entities that are found.
      f1: their harmonic mean.
      entities: number of gold entities.
      right: ``[sentences]`` predicted entities that are right.
      predicted: ``[sentences]`` predicted entities.
      gold: ``[sentences]`` gold entities.
    """

    precision: float
    recall: float
    f1: float
    entities: int
    right: np.ndarray
    predicted: np.ndarray
    gold: np.ndarray


def entity_scores(
    predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]], languages: Sequence[str]
) -> dict[str, EntityScores]:
    """Score tagged sentences by entity, as CoNLL does (Tjong Kim Sang 2002; micro average over types).

    Args:
      predicted: tags of each sentence, ``O`` or a prefix and a type: IOB2, IOBES, BILUO or BMES.
      gold: the right tags.
      languages: the languages of each sentence.

    Returns:
      {language: scores}; a language without gold and predicted entities is left out.

    Raises:
      UserError: nervaluate is missing, lengths differ, or a tag has another form.
    """
    if not len(predicted) == len(gold) == len(languages):
        raise UserError(f"{len(predicted)} tagged sentences, {len(gold)} right ones, {len(languages)} languages")
    _check_tags(predicted, gold)
    nervaluate = metric_library("nervaluate")
    scores = {}
    for language in dict.fromkeys(languages):
        mine = [index for index, code in enumerate(languages) if code == language]
        right, ours = ([_as_iob2(tags[index]) for index in mine] for tags in (gold, predicted))
        types = sorted({tag[2:] for sentence in (*right, *ours) for tag in sentence if tag != "O"})
        if types:
            results = nervaluate.Evaluator(right, ours, tags=types, loader="list").evaluate()
            found, indices = results["overall"]["strict"], results["overall_indices"]["strict"]

            def counted(*kinds: str, indices: Any = indices, sentences: int = len(mine)) -> np.ndarray:
                which = [sentence for kind in kinds for sentence, _ in getattr(indices, f"{kind}_indices")]
                return np.bincount(which, minlength=sentences)

            counts = (counted("correct"), counted("correct", "incorrect", "spurious"))
            gold_counts = counted("correct", "incorrect", "missed")
            scores[language] = EntityScores(
                found.precision, found.recall, found.f1, found.possible, *counts, gold_counts
            )
    return scores


def _as_iob2(tags: Sequence[str]) -> list[str]:
    """Return tags with B and I only; after a tag that ends an entity, the next one begins another."""
    written, ended = [], False
    for tag in tags:
        begins = tag[0] in BEGINS or ended
        written.append(tag if tag == "O" else f"{'B' if begins else 'I'}-{tag[2:]}")
        ended = tag[0] in ENDS
    return written


def tag_sentences(
    predicted: Sequence[np.ndarray], gold: Sequence[np.ndarray], names: Sequence[str]
) -> tuple[list[list[str]], list[list[str]]]:
    """Turn class numbers into the tags of each row's labelled tokens.

    Args:
      predicted: ``[tokens]`` class numbers of each row.
      gold: as ``predicted``; −1 if a token has no label (not a word's first piece, or padding).
      names: tag of each class.

    Returns:
      predicted and right tags of each row.
    """
    name = np.asarray(names)

    def split(classes: Any) -> list:
        return [name[row[right >= 0]].tolist() for row, right in zip(classes, gold)]

    return split(predicted), split(gold)


def uncut(row: np.ndarray, tokens: int, outside: int) -> np.ndarray:
    """Return ``[tokens]`` classes of a whole document, whose row kept only the first tokens and the last one if it was too long.

    Args:
      row: ``[length]`` class numbers.
      tokens: the tokens of the document.
      outside: class of the tokens that were cut off.
    """
    if tokens <= len(row):
        return row[:tokens]
    return np.concatenate([row[:-1], np.full(tokens - len(row), outside, row.dtype), row[-1:]])


def is_entity_tags(names: Sequence[str]) -> bool:
    """Return whether class names are tags of entities; other classes, such as parts of speech, are evaluated by accuracy only."""
    return "O" in names and all(_is_tag(name) for name in names)


def _check_tags(predicted: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> None:
    for index, (ours, right) in enumerate(zip(predicted, gold)):
        if len(ours) != len(right):
            raise UserError(f"sentence {index} has {len(ours)} predicted tags and {len(right)} right ones")
        for tag in (*ours, *right):
            if not _is_tag(tag):
                raise UserError(
                    f"sentence {index}: {tag!r} is not the tag of an entity", remedy="use O, B-TYPE, I-TYPE"
                )


def _is_tag(tag: str) -> bool:
    return tag == "O" or (len(tag) > 2 and tag[0] in PREFIXES and tag[1] == "-")
