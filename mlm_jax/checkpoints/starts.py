"""Initial values of a vocabulary's new pieces, in a file that ``mlm-jax grow --start`` writes and ``checkpoint.init`` names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mlm_jax.common.errors import UserError, nearest
from mlm_jax.common.files import write_whole
from mlm_jax.common.foreign_files import MOST_TOKENIZER, read_json
from mlm_jax.common.seal import sealed, unsealed
from mlm_jax.data.vocabulary.pieces import Vocabulary

FILE = "starts.json"  # beside a grown vocabulary
SEAL = ""  # the key of the checksum: no piece is empty
LARGEST = 1e9  # weight in a file: the sum of many is finite
Mixtures = dict[int, tuple[np.ndarray, np.ndarray]]  # {new id: (old ids, weights that sum to 1)}


def write_starts(file: Path, mixtures: Mixtures, old: Vocabulary, new: Vocabulary) -> None:
    """Write what new pieces begin as: a JSON object {new piece: {old piece: weight}}, with a checksum under ``SEAL``.

    Args:
      file: to write.
      mixtures: {new id: (old ids, weights)}.
      old: the vocabulary of the trained model.
      new: the grown vocabulary.
    """
    found = {
        new.pieces([index])[0]: dict(zip(old.pieces(ids), map(float, weights)))
        for index, (ids, weights) in mixtures.items()
    }
    write_whole(file, json.dumps(sealed(found, SEAL), ensure_ascii=False, indent=1) + "\n")


def read_starts(file: str | Path, old: Vocabulary, new: Vocabulary) -> Mixtures:
    """Return what new pieces begin as, with weights that sum to 1.

    Args:
      file: that :func:`write_starts` wrote.
      old: the vocabulary of the trained model.
      new: the vocabulary of this run.

    Raises:
      UserError: the file is missing, damaged or of another form, or names a piece that its vocabulary lacks.
    """
    file = Path(file)
    if not file.is_file():
        raise UserError("checkpoint.init 'starts' names no file", file=file, remedy="mlm-jax grow --start writes it")
    there, here = (
        {piece: index for index, piece in enumerate(vocabulary.pieces(range(vocabulary.size)))}
        for vocabulary in (old, new)
    )
    found = read_json(file, most=MOST_TOKENIZER)
    try:
        found = unsealed(found, SEAL) if isinstance(found, dict) else {"": found}
    except ValueError as error:
        raise UserError(
            str(error),
            file=file,
            remedy=f"make it again with mlm-jax grow --start; if you have changed it, remove its key {SEAL!r}",
        ) from error
    mixtures: Mixtures = {}
    for piece, parts in found.items():
        if not (isinstance(parts, dict) and parts and all(_is_weight(weight) for weight in parts.values())):
            raise UserError(
                f"{piece!r} begins as no mixture", file=file, remedy='write {"new piece": {"old piece": weight}}'
            )
        for name, known in ((piece, here), *((part, there) for part in parts)):
            if name not in known:
                whose = "this run's vocabulary" if known is here else "the vocabulary of the model"
                raise UserError(f"{whose} has no piece {name!r}{nearest(name, known)}", file=file)
        weights = np.array([*parts.values()], np.float64)
        mixtures[here[piece]] = np.array([there[part] for part in parts]), weights / weights.sum()
    return mixtures


def _is_weight(value: object) -> bool:
    return type(value) in (int, float) and 0 < value <= LARGEST  # type: ignore[operator]
