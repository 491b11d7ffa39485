"""Word alignments: from attention weights, scored against gold links, drawn as SVG."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mlm_jax.common.errors import UserError

Link = tuple[int, int]  # word of the source, word of the target; both from 0
CELL, MARGIN, FONT = 28, 120, 14  # of a drawing, in pixels
LINK = re.compile(r"(\d+)([-p])(\d+)")


class Alignment(NamedTuple):
    """The word alignment of a sentence and its translation, as attention weights.

    Attributes:
      source: words.
      target: words.
      weights: ``[target words, source words]`` share of each target word's attention that goes to each source word.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    weights: np.ndarray

    @property
    def links(self) -> list[Link]:
        """For each target word, (the source word with the largest weight, the target word)."""
        if not self.source:
            return []
        return [(int(best), index) for index, best in enumerate(self.weights.argmax(axis=1))]


def words_of(ids: np.ndarray, word_starts: np.ndarray, special: np.ndarray) -> np.ndarray:
    """Return the index of each piece's word, ``[pieces]``: from 0, and −1 for special pieces and padding.

    Args:
      ids: ``[pieces]`` token ids.
      word_starts: ``[vocabulary]`` bool, pieces that begin a word.
      special: ``[vocabulary]`` bool, pieces that belong to no word.
    """
    ordinary = ~special[ids]
    after_special = np.append(True, special[ids][:-1]) if len(ids) else np.zeros(0, bool)
    begins = ordinary & (word_starts[ids] | after_special)
    return np.where(ordinary, np.cumsum(begins) - 1, -1)


def word_weights(weights: np.ndarray, target: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Turn attention between pieces into attention between words: ``[target words, source words]``.

    The weights of a source word's pieces are summed, those of a target word's pieces are averaged.

    Args:
      weights: ``[target pieces, source pieces]``.
      target: index of each target piece's word, −1 for none.
      source: index of each source piece's word, −1 for none.
    """

    def belongs(words: np.ndarray) -> np.ndarray:
        return words[:, None] == np.arange(words.max(initial=-1) + 1)  # [pieces, words]

    sums = belongs(target).T @ weights @ belongs(source)
    return sums / np.maximum(belongs(target).sum(axis=0), 1)[:, None]


def alignment_error_rate(
    found: Sequence[Sequence[Link]], sure: Sequence[set[Link]], possible: Sequence[set[Link]]
) -> float:
    """Return AER = 1 − (|A ∩ S| + |A ∩ P|) / (|A| + |S|) over all sentences (Och & Ney 2003); P includes S.

    Args:
      found: links of each sentence.
      sure: gold links that the alignment must contain.
      possible: gold links that the alignment may contain.

    Raises:
      UserError: the numbers of sentences differ, or there is neither a link nor a gold link.
    """
    if not len(found) == len(sure) == len(possible):
        raise UserError(f"{len(found)} alignments cannot be scored against {len(sure)} gold ones")
    both = [(set(links), must, may | must) for links, must, may in zip(found, sure, possible)]
    size = sum(len(links) + len(must) for links, must, _ in both)
    if not size:
        raise UserError("there is no link to score, neither found nor gold")
    return 1 - sum(len(links & must) + len(links & may) for links, must, may in both) / size


def read_links(line: str) -> tuple[set[Link], set[Link]]:
    """Return the sure and the possible links of a line such as "0-0 1p2", words counted from 0.

    Raises:
      ValueError: the line has another form; the message quotes the entry.
    """
    sure, possible = set(), set()
    for entry in line.split():
        parts = LINK.fullmatch(entry)
        if parts is None:
            raise ValueError(f"{entry!r} is not a link such as 0-0 (sure) or 0p0 (possible)")
        link = int(parts[1]), int(parts[3])
        possible.add(link)
        if parts[2] == "-":
            sure.add(link)
    return sure, possible


def draw_alignments(alignments: Sequence[Alignment]) -> str:
    """Return an SVG picture of attention between words, target from top to bottom, source from left to right."""
    height, width, parts = 0, 0, []
    for alignment in alignments:
        parts.append(_matrix(alignment, height))
        height += MARGIN + CELL * len(alignment.target) + CELL
        width = max(width, MARGIN + CELL * len(alignment.source) + MARGIN)
    style = (
        f"text {{ font: {FONT}px sans-serif; fill: #222 }} rect {{ fill: #1f5fa8 }} "
        ".link { fill: none; stroke: #d1495b; stroke-width: 2 }"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f'<style>{style}</style><path d="M0 0h{width}v{height}H0z" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def _matrix(alignment: Alignment, top: int) -> str:
    """Return the cells of one sentence pair, darker for more attention, its links framed."""
    parts = []
    first = top + MARGIN
    for column, word in enumerate(alignment.source):
        x = MARGIN + CELL * column + CELL // 2
        parts.append(f'<text transform="translate({x + 4} {first - 6}) rotate(-50)">{html.escape(word)}</text>')
    for row, word in enumerate(alignment.target):
        y = first + CELL * row
        parts.append(f'<text x="{MARGIN - 8}" y="{y + CELL * 0.65:.0f}" text-anchor="end">{html.escape(word)}</text>')
        for column, weight in enumerate(alignment.weights[row]):
            box = f'x="{MARGIN + CELL * column}" y="{y}" width="{CELL - 2}" height="{CELL - 2}"'
            parts.append(f'<rect {box} fill-opacity="{float(weight):.3f}"><title>{float(weight):.3f}</title></rect>')
            if (column, row) in alignment.links:
                parts.append(f'<rect class="link" {box}/>')
    return "".join(parts)
