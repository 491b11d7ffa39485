"""Transfer of weights to a model with another vocabulary, more languages or another sharing plan.

Rows of embeddings are matched by the name of their piece, slices of language-indexed weights by the name of their language,
so ids and orders may differ. A piece that the old vocabulary lacks is composed of the old pieces that spell it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from mlm_jax import model as model_room
from mlm_jax.checkpoints.starts import Mixtures, read_starts
from mlm_jax.common.errors import UserError, nearest
from mlm_jax.data.vocabulary.pieces import BYTE, WORD, Vocabulary, language_token
from mlm_jax.model.sharing import indexes
from mlm_jax.training.optimizer import axes_by_path

LONGEST_PIECE = 64  # characters; SentencePiece's own are at most 16
# Keys of config.model.
SIZES = "width", "heads", "kv_heads", "head_width", "mlp_width", "max_positions", "encoder", "decoder"


class ModelSpec(NamedTuple):
    """What gives parameters their meaning: the config of their run, its vocabulary, and its languages in index order."""

    config: ConfigDict
    vocabulary: Vocabulary
    languages: tuple[str, ...]


class Transplanted(NamedTuple):
    """Parameters, and which of them were taken from the other run.

    Attributes:
      params: {path: array} of the requested parameters.
      copied: number of pieces that both vocabularies have.
      composed: number of pieces that were composed of the old pieces that spell them.
      fresh: pieces that keep their initial values.
      new_groups: names of languages (families, tasks) whose weights keep their initial values.
    """

    params: dict[str, np.ndarray]
    copied: int
    composed: int
    fresh: int
    new_groups: tuple[str, ...]


def transplant(
    source: Mapping[str, Any],
    old: ModelSpec,
    initial: Mapping[str, Any],
    new: ModelSpec,
    *,
    like: Mapping[str, str] | None = None,
    renamed: Mapping[str, str] | None = None,
    starts: str = "",
) -> Transplanted:
    """Fit another model's parameters to this one's shapes.

    Args:
      source: {path: array} of the old model.
      old: facts of the old model.
      initial: {path: array} of the requested parameters of the new model: initial values of parts that the old model lacks.
      new: facts of the new model.
      like: {new language: old language}; the new language begins with the weights of the old one instead of initial values.
      renamed: {path in the new model: path in the old one}; the same if not given.
      starts: file with the initial values of new pieces (:mod:`.starts`); "": as the old pieces that spell them.

    Raises:
      UserError: a shape differs for another reason than vocabulary, languages, families or tasks; ``like`` names a
        language that does not exist; or as :func:`.read_starts`.
    """
    like = dict(like or {})
    added = [language for language in new.languages if language not in old.languages]
    for name, known in [(name, added) for name in like] + [(name, old.languages) for name in like.values()]:
        if name not in known:
            choices = f"out of {', '.join(added)} and {', '.join(old.languages)}"
            raise UserError(
                f"checkpoint.init 'like' names {name!r}{nearest(name, known)}",
                remedy=f"write {{new language: old language}}, {choices}",
            )
    old_axes, new_axes = _axes(old), _axes(new)
    same_table = old.vocabulary.fingerprint == new.vocabulary.fingerprint
    same_table &= old.config.model.vocabulary_multiple == new.config.model.vocabulary_multiple
    rows = None if same_table else row_sources(old.vocabulary, new.vocabulary, like)
    mixtures = read_starts(starts, old.vocabulary, new.vocabulary) if starts and rows is not None else {}
    params: dict[str, np.ndarray] = {}
    new_groups: dict[str, None] = {}
    for name, fresh in initial.items():
        there = (renamed or {}).get(name, name)
        value, axes = np.asarray(source[there]), new_axes.get(name, ())
        if rows is not None and "vocabulary" in axes:
            axis = old_axes.get(there, axes).index("vocabulary")
            if not _alike_but_for(axis, value, fresh):
                raise _other_shape(name, value, fresh, old, new)
            value = _take_rows(value, rows, _whole(fresh), axis, mixtures)
        if "groups" in axes:
            members, theirs = _groups(name, new), _groups(there, old)
            if "groups" not in old_axes.get(there, axes):  # one model's shared weights become everyone's own
                value = np.repeat(np.expand_dims(value, axes.index("groups")), len(members), axes.index("groups"))
            elif members != theirs and _alike_but_for(axes.index("groups"), value, fresh):
                value, missing = _take_groups(value, theirs, members, like, _whole(fresh), axes.index("groups"))
                new_groups |= dict.fromkeys(missing)
        if value.shape != np.shape(fresh):
            raise _other_shape(name, np.asarray(source[there]), fresh, old, new)
        params[name] = value
    pieces = [2 if index in mixtures else len(parts) for index, parts in enumerate(rows or ())]
    copied = new.vocabulary.size if rows is None else pieces.count(1)
    return Transplanted(params, copied, sum(n > 1 for n in pieces), pieces.count(0), tuple(new_groups))


# ---------------------------------------------------------------------------------------------------- vocabulary


def row_sources(old: Vocabulary, new: Vocabulary, like: Mapping[str, str] | None = None) -> list[list[int]]:
    """Return, for each piece of the new vocabulary, the rows of the old one whose mean is its initial value.

    A piece of both vocabularies is copied. Another piece is composed of the fewest old pieces that spell it (Gee et al. 2022,
    fast vocabulary transfer), with bytes for characters without a piece. A new language token begins as that of ``like``, or as
    the mean of all old ones. Pieces without any source, such as further sentinels, get an empty list.

    Args:
      old: the old vocabulary.
      new: the new one.
      like: {new language: old language}.

    Returns:
      ``[new pieces]`` lists of old ids.
    """
    known: dict[str, int] = {}
    for index, piece in enumerate(old.pieces(range(old.size))):
        known.setdefault(piece, index)
    spelt = {_in_words(piece, old): index for piece, index in known.items()}
    special = {new.pieces([index])[0] for index in new.special_ids.tolist()}
    tokens = {language_token(code): code for code in new.languages}
    sources = []
    for piece in new.pieces(range(new.size)):
        if piece in known:
            sources.append([known[piece]])
        elif piece in tokens:
            model = (like or {}).get(tokens[piece])
            found = [old.language_ids[model]] if model in old.language_ids else [*old.language_ids.values()]
            sources.append(found)
        elif piece in special or BYTE.fullmatch(piece):
            sources.append([])
        else:
            sources.append(spelling(_in_words(piece, new), spelt))
    return sources


def _in_words(piece: str, vocabulary: Vocabulary) -> str:
    """Return a piece with ▁ where a word begins, also of WordPiece, which marks the pieces inside a word with ``##``."""
    if not getattr(vocabulary, "marks_inside", False):
        return piece
    return piece.removeprefix("##") if piece.startswith("##") else WORD + piece


def spelling(piece: str, known: Mapping[str, int]) -> list[int]:
    """Return the fewest ids of ``known`` pieces that spell a piece, longer ones first; [] if none do.

    Args:
      piece: with ▁ for a space, as SentencePiece writes it.
      known: {piece: id}; a character without a piece of its own is spelt in bytes, ``<0xE1>``, if they are all there.
    """
    best: list[list[int] | None] = [None] * len(piece) + [[]]  # best spelling of the rest from each character on
    for start in reversed(range(len(piece))):
        options = [
            [known[piece[start:stop]], *rest]
            for stop in range(min(len(piece), start + LONGEST_PIECE), start, -1)
            if piece[start:stop] in known and (rest := best[stop]) is not None
        ]
        in_bytes = [known.get(f"<0x{byte:02X}>") for byte in piece[start].replace(WORD, " ").encode()]
        if (rest := best[start + 1]) is not None and None not in in_bytes:
            options.append([*in_bytes, *rest])  # type: ignore[list-item]
        best[start] = min(options, key=len, default=None)
    return best[0] or []


# ---------------------------------------------------------------------------------------------------- arrays


def _take_rows(
    value: np.ndarray, rows: list[list[int]], fresh: np.ndarray, axis: int, mixtures: Mixtures
) -> np.ndarray:
    """Return ``fresh`` with the means of old rows in the rows of pieces that have a source, weighted if there is a mixture."""
    value, out = np.moveaxis(value, axis, 0), np.moveaxis(fresh.copy(), axis, 0)
    single = np.array([parts[0] if len(parts) == 1 else -1 for parts in rows])
    out[: len(rows)][single >= 0] = value[single[single >= 0]]  # copied, not averaged: bit for bit
    for index, parts in enumerate(rows):
        if len(parts) > 1:
            out[index] = value[parts].mean(axis=0)
    for index, (ids, weights) in mixtures.items():
        out[index] = np.tensordot(weights, value[ids], 1)
    return np.moveaxis(out, 0, axis)


def _take_groups(
    value: np.ndarray, old: Sequence[str], new: Sequence[str], like: Mapping[str, str], fresh: np.ndarray, axis: int
) -> tuple[np.ndarray, list[str]]:
    """Return ``fresh`` with the slices of old members, and the names of new members."""
    value, out = np.moveaxis(value, axis, 0), np.moveaxis(fresh.copy(), axis, 0)
    missing = []
    for index, member in enumerate(new):
        origin = like.get(member, member)
        if origin in old:
            out[index] = value[old.index(origin)]
        else:
            missing.append(member)
    return np.moveaxis(out, 0, axis), missing


def _alike_but_for(axis: int, there: np.ndarray, here: Any) -> bool:
    return np.delete(there.shape, axis).tolist() == np.delete(np.shape(here), axis).tolist()


def _other_shape(name: str, there: np.ndarray, here: Any, old: ModelSpec, new: ModelSpec) -> UserError:
    """Return the error of a parameter that cannot be fitted; it names the keys of ``config.model`` that differ, if any."""
    sizes = [(key, old.config.model[key], new.config.model[key]) for key in SIZES]
    keys = [f"model.{key} is {theirs} there and {ours} here" for key, theirs, ours in sizes if theirs != ours]
    problem = f"parameter {name!r} has shape {there.shape} there and {np.shape(here)} here"
    leave_out = "leave it out with checkpoint.init 'exclude'"
    return UserError("; ".join([problem, *keys]), remedy=f"make them equal, or {leave_out}" if keys else leave_out)


def _whole(array: Any) -> np.ndarray:
    """Return an array, which may be sharded over processes, as a complete array on the host."""
    if getattr(array, "is_fully_addressable", True):
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def _groups(name: str, facts: ModelSpec) -> tuple[str, ...]:
    """Return the names of the slices of a parameter that has a "groups" axis."""
    stack, _, rest = name.partition("/")
    index = "source_language"
    if stack in ("encoder", "decoder"):
        weights, adapter = indexes(facts.config.model[stack][int(rest.partition("/")[0])])
        index = weights if weights != "shared" else adapter
    names = {"family": tuple(facts.config.families), "task": tuple(facts.config.tasks)}
    return names.get(index, facts.languages)


def _axes(facts: ModelSpec) -> dict[str, tuple[str, ...]]:
    """Return {path: logical axes} of a model."""
    axes = model_room.abstract(facts.config, vocabulary_size=facts.vocabulary.size, languages=facts.languages)[2]
    return axes_by_path(axes)
