"""Held-out text: which texts are for validation, and which training text is the same as one of them.

No text of a validation split is in a training stream: not as a document, nor as a side of a pair, nor as a labelled text
(:mod:`.same_text` defines when two texts are the same). A user's seqio mixture has splits of its own: its training examples are
compared with ``data.validation`` only. Longer text is compared by its sentences:

- the texts of the validation splits are held out, and their sentences of ``LONG`` bytes or more;
- sentences that are held out are removed from a training document, which is left out if nothing remains;
- a pair or a labelled example is left out if one of its texts is held out, or a sentence of ``LONG`` bytes or more is.

``data.validation_fraction`` holds out texts, not examples. Among pairs, the language that most pairs share decides: its pairs are
split by the hash of the text in that language, so that all pairs of an n-way parallel corpus are split in the same way. In other
streams, texts that are held out already are held out too. If that is less than half of the share, the stream is also split by a
hash of its own text. At least ``FEW`` texts of a small source are held out, or a tenth of it, if it has five or more different
texts.
"""

from __future__ import annotations

import logging
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, TypeVar

import numpy as np
from ml_collections import ConfigDict

from mlm_jax.common.disk import disk_errors
from mlm_jax.common.files import temporary_folder
from mlm_jax.common.lines import windows
from mlm_jax.data.store.cleaning import Cleaned, Tally, clean
from mlm_jax.data.store.same_text import Fingerprints, fingerprints, sentences, whole_fingerprints
from mlm_jax.data.store.streams import BATCH, BATCH_CHARACTERS, SPLITS, Source, sources, texts_of
from mlm_jax.data.text import labelled
from mlm_jax.data.text.labelled import Example

log = logging.getLogger(__name__)

Item = TypeVar("Item")
FEW = 10  # fewest texts that are held out of a source, unless that is more than a tenth of them
FEWEST_SORTED = 1 << 20  # hashes that are added before they are sorted
LONG = (
    40  # fewest bytes, without white space, of a sentence that is held out by itself: 40 Latin or 13 Chinese characters
)
TEXT_HELD_OUT = "not for training: the text is held out"
SENTENCE_HELD_OUT = "not for training: a sentence of it is held out"
CUT_OUT = "held-out sentences were cut out"
LEFT_OUT = (TEXT_HELD_OUT, SENTENCE_HELD_OUT)
REASONS = (*LEFT_OUT, CUT_OUT)


@dataclass(frozen=True)
class HeldOut:
    """The held-out texts of a run, as sorted 64-bit hashes.

    Attributes:
      chosen: ``[texts]`` uint64, hashes of texts that ``data.validation_fraction`` holds out.
      named: ``[texts]`` uint64, hashes of texts that the config or a function names for validation, and of the long sentences
        of all held-out texts.
      enforced: whether training text is compared with them (``data.decontaminate``).
      cleaned: verdicts of filters, which are applied to training text before.
    """

    chosen: np.ndarray
    named: np.ndarray
    enforced: bool = True
    cleaned: Cleaned = field(default_factory=Cleaned)

    def __len__(self) -> int:
        return len(self.chosen) + len(self.named)

    def pack(self) -> bytes:
        """Return the hashes as bytes: the number of chosen texts, then all hashes, eight bytes each."""
        parts = (np.array([len(self.chosen)], "<u8"), self.chosen, self.named)
        return b"".join(part.astype("<u8").tobytes() for part in parts)

    @classmethod
    def unpack(cls, packed: bytes, enforced: bool, cleaned: bytes = b"") -> HeldOut:
        """Read what :meth:`pack` wrote, and :meth:`.Cleaned.pack`."""
        numbers = np.frombuffer(packed, "<u8")
        chosen = int(numbers[0])
        return cls(numbers[1 : 1 + chosen], numbers[1 + chosen :], enforced, Cleaned.unpack(cleaned))

    def with_named(self, texts: Iterable[str]) -> HeldOut:
        """Return held-out text with more texts that are named for validation."""
        found = _Distinct(self.named)
        for batch in windows(texts, BATCH):
            prints = fingerprints(batch, LONG)
            found.add(np.delete(prints.hashes, prints.whole[prints.empty]))
        return replace(self, named=found.sorted())

    def split(
        self, source: Source, splits: Sequence[str], skipped: Counter[str], tally: Tally | None = None
    ) -> Iterator[tuple[str, list[Any]]]:
        """Yield (split, documents or pairs) of a source in batches; each text is read once.

        Args:
          source: the source.
          splits: splits that are wanted.
          skipped: {reason: number of examples left out or changed}, added to.
          tally: counts examples that filters drop.

        Raises:
          UserError: as :meth:`.Cleaned.batches`.
        """
        if source.train is not None and ("train" in splits or source.by_fraction):
            counted = skipped if "train" in splits else Counter()
            sift: Callable[..., tuple[list, list]] = self.documents if source.kind == "text" else self.pairs
            for batch in self.cleaned.batches(source, counted, tally):
                for split, examples in zip(SPLITS, sift(batch, source.by_fraction, counted)):
                    if examples and split in splits:
                        yield split, examples
        if "validation" in splits and not source.by_fraction:
            for batch in source.batches("validation", skipped):
                yield "validation", batch

    def labelled(
        self, entry: dict[str, Any], splits: Sequence[str], skipped: Counter[str], most_bytes: int
    ) -> Iterator[tuple[str, Example]]:
        """Yield (split, example) of a labelled set, without training examples whose text is held out.

        Args:
          entry: entry of the set in ``config.data.labelled``.
          splits: splits that are wanted.
          skipped: as in :meth:`split`.
          most_bytes: ``data.max_document_bytes``.

        Raises:
          UserError: as :func:`.labelled.examples`.
        """
        for split in splits:
            for batch in windows(labelled.examples(entry, split, skipped, most_bytes), BATCH):
                free = self.free(
                    [texts_of(entry, example) for example in batch], skipped if split == "train" else Counter()
                )
                yield from ((split, example) for example, keep in zip(batch, free.tolist()) if keep or split != "train")

    def documents(self, texts: Sequence[str], by_fraction: bool, counted: Counter[str]) -> tuple[list[str], list[str]]:
        """Return which documents are for training, without held-out sentences, and which for validation.

        Args:
          texts: documents of a corpus.
          by_fraction: whether the corpus is split by ``data.validation_fraction``; otherwise all are for training.
          counted: {reason: number of documents left out or changed}, added to.
        """
        if not self._needed(by_fraction):
            return [*texts], []
        prints = fingerprints(texts, 1) if self.enforced else whole_fingerprints(texts)
        held, chosen = self._held(prints.hashes), self._chosen(prints, by_fraction)
        if not (self.enforced and held.any()):
            return _divided(texts, np.ones(len(texts), bool), chosen)
        touched = np.zeros(len(texts), bool)
        touched[prints.owners[held]] = True
        kept = [*texts]
        for index in np.flatnonzero(touched & ~chosen).tolist():
            rest = "" if held[prints.whole[index]] else self._without_held_out(texts[index])
            counted[CUT_OUT if rest else TEXT_HELD_OUT] += 1
            touched[index], kept[index] = not rest, rest
        return _divided(kept, ~touched, chosen)

    def pairs(
        self, pairs: Sequence[tuple[str, str]], by_fraction: bool, counted: Counter[str]
    ) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """Return the pairs for training, and those for validation: pairs of which both sides are held out.

        Args:
          pairs: pairs of a parallel corpus.
          by_fraction: as in :meth:`documents`.
          counted: as in :meth:`documents`.
        """
        if not self._needed(by_fraction):
            return [*pairs], []
        texts = [side for pair in pairs for side in pair]
        if not self.enforced:
            chosen = self._chosen(whole_fingerprints(texts), by_fraction).reshape(-1, 2).min(1)
            return _divided(pairs, np.ones(len(pairs), bool), chosen)
        prints = fingerprints(texts, LONG)
        chosen = self._chosen(prints, by_fraction).reshape(-1, 2).min(1)
        return _divided(pairs, self._free(prints, np.arange(len(texts)) // 2, chosen, counted), chosen)

    def free(self, groups: Sequence[Sequence[str]], counted: Counter[str]) -> np.ndarray:
        """Return which examples are for training, ``[groups]`` bool; each example is a group of texts."""
        if not self._needed(by_fraction=False):
            return np.ones(len(groups), bool)
        owners = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
        prints = fingerprints([text for group in groups for text in group], LONG)
        return self._free(prints, owners, np.zeros(len(groups), bool), counted)

    def _free(self, prints: Fingerprints, groups: np.ndarray, chosen: np.ndarray, counted: Counter[str]) -> np.ndarray:
        """Return which groups contain no held-out text, ``[groups]`` bool; ``groups`` is the group of each text."""
        held = self._held(prints.hashes)
        free = np.ones(len(chosen), bool)
        if held.any():
            whole = np.zeros(len(chosen), bool)
            whole[groups[held[prints.whole]]] = True
            free[groups[prints.owners[held]]] = False
            counted[TEXT_HELD_OUT] += int((whole & ~chosen).sum())
            counted[SENTENCE_HELD_OUT] += int((~free & ~whole & ~chosen).sum())
        return free

    def _needed(self, by_fraction: bool) -> bool:
        return len(self) > 0 and (self.enforced or by_fraction)

    def _held(self, hashes: np.ndarray) -> np.ndarray:
        return _among(hashes, self.chosen) | _among(hashes, self.named)

    def _chosen(self, prints: Fingerprints, by_fraction: bool) -> np.ndarray:
        if not by_fraction:
            return np.zeros(len(prints.whole), bool)
        return _among(prints.hashes[prints.whole], self.chosen)

    def _without_held_out(self, text: str) -> str:
        """Return a text without its held-out sentences; "" if nothing remains, or if the rest is held out as well."""
        parts = sentences(text)
        held = self._held(whole_fingerprints(parts).hashes)
        rest = "".join(part for part, gone in zip(parts, held.tolist()) if not gone).strip()
        return "" if self._held(whole_fingerprints([rest]).hashes)[0] else rest


def collect(config: ConfigDict, warn: Callable[[str], object] = log.warning) -> HeldOut:
    """Clean the text of a run and find its held-out text, in one pass over validation text and text that is split by a share.

    Memory grows with the held-out text: 8 bytes for each of its different texts and long sentences, and for a short time
    four times as many.

    Args:
      config: the run's config.
      warn: called with a line about each source that is so small that more than the share is held out.
    """
    found = sources(config)
    with temporary_folder("mlm_jax_filters") as folder:
        with disk_errors(folder.parent, remedy="set TMPDIR to a folder on a larger disk"):
            cleaned = clean(config, found, warn, folder)
        held_out = HeldOut(_NONE, _NONE, config.data.decontaminate, cleaned)
        held_out = held_out.with_named(_named_texts(config, found))
        for source, side in _in_order(found) if config.data.validation_fraction else ():
            held_out = _choose(source, config.data.validation_fraction, side, held_out, warn)
    return replace(held_out, cleaned=replace(held_out.cleaned, hashes={}))


def _named_texts(config: ConfigDict, found: Sequence[Source]) -> Iterator[str]:
    for source in found:
        if not source.by_fraction:
            for batch in source.batches("validation"):
                yield from batch if source.kind == "text" else chain.from_iterable(batch)
    for entry in config.data.labelled.values():
        for example in labelled.examples(dict(entry), "validation", most_bytes=config.data.max_document_bytes):
            yield from texts_of(entry, example)


def _choose(
    source: Source, fraction: float, hub: int | None, before: HeldOut, warn: Callable[[str], object]
) -> HeldOut:
    """Return the held-out text including a share of one more source.

    Args:
      source: a source without validation text of its own.
      fraction: the share.
      hub: index of the side of its pairs whose hash decides; None: text held out before decides, if it is enough.
      before: text held out of earlier sources.
      warn: as in :func:`collect`.
    """
    bound = np.uint64(min(int((1 - fraction) * 2.0**64), 2**64 - 1))
    drawn, taken_over = _Growing(before), _Growing(before)
    examples = touched = 0
    sides = len(source.languages)
    last: dict[int, list[str]] = {}  # {hash: texts} of the FEW examples with the largest hashes
    for batch, prints in before.cleaned.fingerprinted(source):
        texts = batch if sides == 1 else [side for pair in batch for side in pair]
        hashes, usable = prints.hashes.reshape(-1, sides), ~prints.empty.reshape(-1, sides).any(1)
        held = usable & _among(prints.hashes, before.chosen).reshape(-1, sides).any(1)
        examples, touched = examples + int(usable.sum()), touched + int(held.sum())
        deciding: np.ndarray = np.where(usable, hashes[:, hub or 0], np.uint64(0))
        drawn.add(texts, np.repeat(usable & (deciding >= bound), sides))
        for value, index in zip(*(found[-FEW:].tolist() for found in np.unique(deciding, return_index=True))):
            if value:
                last[value] = texts[index * sides : (index + 1) * sides]
        last = dict(sorted(last.items())[-FEW:])
        if hub is None:
            taken_over.add(texts, np.repeat(held, sides))
    enough = hub is None and touched and touched >= fraction * examples / 2
    if enough:
        return taken_over.held_out()
    different = examples if len(last) == FEW else len(last)
    wanted = min(FEW, max(different // 10, 1)) if different >= 5 else 0
    if wanted > sum(value >= int(bound) for value in last):
        share = f"data.validation_fraction={fraction:g}"
        warn(f"{source.name}: {wanted} of {examples:,} texts are held out; the share {share} would be fewer")
        for texts in [*last.values()][-wanted:]:
            drawn.add(texts, np.ones(sides, bool))
    return drawn.held_out()


class _Growing:
    """Held-out text that grows: texts that are chosen, and their long sentences."""

    def __init__(self, before: HeldOut):
        self._before = before
        self._chosen, self._named = _Distinct(before.chosen), _Distinct(before.named)
        self._waiting: list[str] = []  # a batch has few chosen texts; many together are hashed faster
        self._characters = 0

    def add(self, texts: Sequence[str], which: np.ndarray) -> None:
        """Add the texts at which ``which``, ``[texts]`` bool, is True."""
        added = [texts[index] for index in np.flatnonzero(which).tolist()]
        self._waiting += added
        self._characters += sum(map(len, added))
        if len(self._waiting) >= BATCH or self._characters >= BATCH_CHARACTERS:
            self._hash()

    def held_out(self) -> HeldOut:
        """Return the text held out before together with the text that was added."""
        self._hash()
        return replace(self._before, chosen=self._chosen.sorted(), named=self._named.sorted())

    def _hash(self) -> None:
        prints = fingerprints(self._waiting, LONG)
        self._chosen.add(prints.hashes[prints.whole])
        self._named.add(np.delete(prints.hashes, prints.whole))
        self._waiting, self._characters = [], 0


class _Distinct:
    """Distinct hashes. Their memory does not depend on how often each is added.

    Args:
      known: the first of them, sorted.
    """

    def __init__(self, known: np.ndarray):
        self._known, self._added = known, array("Q")

    def add(self, hashes: np.ndarray) -> None:
        self._added.frombytes(hashes.tobytes())
        if len(self._added) > max(len(self._known), FEWEST_SORTED):
            self.sorted()

    def sorted(self) -> np.ndarray:
        """Return all of them, sorted."""
        self._known, self._added = _sorted(self._added, self._known), array("Q")
        return self._known


def _in_order(found: Sequence[Source]) -> list[tuple[Source, int | None]]:
    """Return the sources that are split by a fraction, in the order in which they are split, and the side of each that decides.

    The languages of pairs form a graph. In each of its components, the language with most pairs is the hub (in a tie, the
    second language of the first pair). Pairs of a hub come first, and the hub's side decides. Other pairs follow in order of
    their distance from the hub. Single languages come last. For these, the text that is held out already decides.
    """
    pairs = [source for source in found if source.by_fraction and source.kind == "pairs"]
    degree = Counter(language for source in pairs for language in reversed(source.languages))
    distance: dict[str, int] = {}  # of a language from its hub
    for hub in sorted(degree, key=lambda language: -degree[language]):
        reached = [] if hub in distance else [hub]
        distance |= dict.fromkeys(reached, 0)
        for language in reached:
            for other in (other for source in pairs if language in source.languages for other in source.languages):
                if other not in distance:
                    distance[other] = distance[language] + 1
                    reached.append(other)
    nearest_first = sorted(pairs, key=lambda source: min(distance[language] for language in source.languages))
    sides = [[distance[language] for language in source.languages] for source in nearest_first]
    decides = [ranks.index(0) if 0 in ranks else None for ranks in sides]
    single = [source for source in found if source.by_fraction and source.kind == "text"]
    return [*zip(nearest_first, decides), *((source, None) for source in single)]


def _divided(examples: Sequence[Item], free: np.ndarray, chosen: np.ndarray) -> tuple[list[Item], list[Item]]:
    """Split examples into those for training and those for validation."""
    if free.all() and not chosen.any():
        return [*examples], []
    training = [example for example, keep in zip(examples, (free & ~chosen).tolist()) if keep]
    return training, [example for example, keep in zip(examples, chosen.tolist()) if keep]


def _among(hashes: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Return which hashes are in a sorted array, bool."""
    if not len(ordered):
        return np.zeros(len(hashes), bool)
    return ordered[np.minimum(np.searchsorted(ordered, hashes), len(ordered) - 1)] == hashes


def _sorted(*parts: array[int] | np.ndarray) -> np.ndarray:
    """Return the distinct numbers of all parts, sorted."""
    joined = np.concatenate([np.frombuffer(part, np.uint64) for part in parts])
    joined.sort()
    return joined[np.concatenate([[True], joined[1:] != joined[:-1]])] if len(joined) else joined


_NONE = np.empty(0, np.uint64)
