"""Initial embeddings of new pieces; docs/adapt.md compares them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse

from mlm_jax.checkpoints.starts import Mixtures
from mlm_jax.data.vocabulary.pieces import Vocabulary

TRANSLATIONS = 5  # old pieces whose weighted mean is the initial embedding of a new piece
Pairs = Sequence[tuple[str, str]]  # (text of the new language, text of a language that the model knows)


def new_pieces(old: Vocabulary, new: Vocabulary) -> list[int]:
    """Return the ids of the ordinary pieces that are not in the old vocabulary."""
    known, names = {*old.pieces(range(old.size))}, new.pieces(range(new.size))
    return [index for index in range(new.size) if not new.is_special[index] and names[index] not in known]


def spelling(old: Vocabulary, new: Vocabulary, pairs: Pairs) -> Mixtures:
    """Return {}: the initial embedding is the mean of the old pieces that spell it, see :func:`.transplant.row_sources`."""
    return {}


def lexicon(old: Vocabulary, new: Vocabulary, pairs: Pairs) -> Mixtures:
    """Return, for each new piece, old pieces that occur in translations of texts with the new piece.

    The weight of an old piece b for a new piece a is the square of c(a, b)² / (c(a) c(b)); c is the number of pairs of texts that
    contain the pieces. Pairs are sentences or entries of a dictionary. After WECHSEL (Minixhofer et al. 2022), which uses a
    dictionary of words.

    Args:
      old: the vocabulary of the trained model.
      new: the grown vocabulary.
      pairs: translations.

    Returns:
      {new id: (old ids, weights)}; pieces that occur in no pair are left out.
    """
    ours, theirs = (
        _occurrences(vocabulary, [pair[side] for pair in pairs]) for side, vocabulary in enumerate((new, old))
    )
    together = (ours.T @ theirs).tocsr()  # [new vocabulary, old vocabulary]: number of pairs with both pieces
    of_ours, of_theirs = (np.asarray(found.sum(axis=0)).ravel() for found in (ours, theirs))
    mixtures: Mixtures = {}
    for index in new_pieces(old, new):
        row = together[index]
        ids, counts = row.indices, row.data
        score = np.where(old.is_special[ids], 0, counts**2 / (of_ours[index] * of_theirs[ids]))
        best = np.argsort(-score, kind="stable")[:TRANSLATIONS]
        best = best[score[best] > 0]
        if len(best):
            mixtures[index] = ids[best], score[best] ** 2 / (score[best] ** 2).sum()
    return mixtures


STARTS: dict[str, Callable[[Vocabulary, Vocabulary, Pairs], Mixtures]] = {"spelling": spelling, "lexicon": lexicon}


def _occurrences(vocabulary: Vocabulary, texts: Sequence[str]) -> scipy.sparse.csr_matrix:
    """Return ``[texts, pieces]``: 1 if the text has the piece."""
    pieces = [np.unique(np.array(ids, np.int64)) for ids in vocabulary.encode_batch(texts)]
    rows = np.repeat(np.arange(len(pieces)), [len(ids) for ids in pieces])
    values = (np.ones(len(rows)), (rows, np.concatenate(pieces)))
    return scipy.sparse.csr_matrix(values, shape=(len(pieces), vocabulary.size))
