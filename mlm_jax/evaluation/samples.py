"""Fill-in-the-blank samples: held-out text with some words masked, and the model's guesses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mlm_jax.data.loading.batch import Rows
from mlm_jax.data.vocabulary.pieces import Vocabulary
from mlm_jax.evaluation.embedding import document_batches, document_rows

GUESSES = 5
SHARE = 6  # one word in six is masked


def predict_pieces(
    model: Any, rows: Rows, positions: jax.Array, special: jax.Array, top_k: int, task: str = ""
) -> tuple[jax.Array, jax.Array]:
    """Return the most probable ordinary pieces at some positions of each row.

    Args:
      model: the model.
      rows: rows with the mask piece at masked positions.
      positions: ``[rows, blanks]``.
      special: ``[vocabulary]`` bool, pieces that cannot be guessed.
      top_k: number of pieces for each position.
      task: selects the weights that are indexed by the task.

    Returns:
      pieces ``[rows, blanks, top_k]`` int32, the most probable first, and their probabilities among ordinary pieces.
    """
    hidden = model.encode(rows, task=task)  # [rows, length, width]
    picked = jnp.take_along_axis(hidden, positions[..., None], axis=1)  # [rows, blanks, width]
    table, bias = model.output_table()
    logits = jnp.einsum("rpd,vd->rpv", model.masked_head(picked), table, preferred_element_type=jnp.float32)
    logits = (logits if bias is None else logits + bias)[..., : special.shape[0]]  # the table may be padded
    probabilities, pieces = jax.lax.top_k(jax.nn.softmax(jnp.where(special, -jnp.inf, logits)), top_k)
    return pieces.astype(jnp.int32), probabilities


def wordless(pieces: Sequence[str]) -> np.ndarray:
    """Return, for each piece, whether it has neither letter nor digit: ``[pieces]`` bool."""
    return np.array([not any(sign.isalnum() for sign in piece) for piece in pieces])


def choose_blanks(
    document: np.ndarray, vocabulary: Vocabulary, rng: np.random.Generator, common: np.ndarray | None = None
) -> np.ndarray:
    """Choose the tokens of a document to mask: words of one piece, content words if possible, else any pieces with letters.

    Args:
      document: token ids.
      vocabulary: the vocabulary of the document.
      rng: draws the tokens.
      common: pieces that many texts of the language have, from :func:`common_pieces`.
    """
    text = [vocabulary.decode([int(token)]).strip() for token in document]
    readable = np.array([any(c.isalpha() for c in piece) and "\ufffd" not in piece for piece in text])
    readable &= ~vocabulary.is_special[document]
    starts = vocabulary.word_starts[document]
    whole = readable & starts & np.append(starts[1:], True)  # the next token begins another word
    content = whole & ~np.isin(document, [] if common is None else common)
    chosen = next((words for words in (content, whole) if words.sum() >= 2), readable)
    candidates = np.flatnonzero(chosen)
    return np.sort(rng.permutation(candidates)[: max(1, len(candidates) // SHARE)])


def common_pieces(documents: Sequence[np.ndarray]) -> np.ndarray:
    """Return the pieces that more than a quarter of a language's documents have, and at least two: function words, mostly."""
    pieces, counts = np.unique(np.concatenate([np.unique(document) for document in documents]), return_counts=True)
    return pieces[counts > max(len(documents) // 4, 1)]


def masked_samples(
    predict: Callable[[Rows, np.ndarray], tuple[np.ndarray, np.ndarray]],
    documents: Mapping[str, Sequence[np.ndarray]],
    languages: Sequence[str],
    vocabulary: Vocabulary,
    *,
    longest: int,
    multiple: int = 1,
    keep: int = 0,
) -> dict[str, list[list[Any]]]:
    """Mask words of held-out documents, let the model guess them, and keep the documents that it fills best.

    Args:
      predict: (rows, positions ``[rows, blanks]``) → pieces and probabilities ``[rows, blanks, guesses]``.
      documents: {language: token ids of each document}, prefix and end included.
      languages: language codes in index order.
      vocabulary: the vocabulary of the documents.
      longest: the largest number of tokens of a row; longer documents are skipped.
      multiple: the number of rows of a batch must be a multiple of this.
      keep: samples of each language; 0 keeps all.

    Returns:
      {language: [sample]}; a sample is a list of text and blanks, {"truth": text, "guesses": [[text, probability], …]}.
    """
    rng = np.random.default_rng(0)  # the same blanks at every evaluation
    common = {language: common_pieces(mine) for language, mine in documents.items() if len(mine)}
    chosen = [
        (language, document, blanks)
        for language, mine in documents.items()
        for document in mine
        if len(document) <= longest and len(blanks := choose_blanks(document, vocabulary, rng, common[language]))
    ]
    if not chosen:
        return {}
    hidden = []
    for _, document, blanks in chosen:
        hidden.append(document.copy())
        hidden[-1][blanks] = vocabulary.mask_id
    width = max(len(blanks) for _, _, blanks in chosen)
    index = [list(languages).index(language) for language, _, _ in chosen]
    samples: dict[int, list[Any]] = {}
    for batch in document_batches([len(document) for document in hidden], longest, multiple=multiple):
        positions = np.zeros((batch.rows, width), np.int32)
        for row, which in enumerate(batch.indices):
            positions[row, : len(chosen[which][2])] = chosen[which][2]
        pieces, probabilities = predict(document_rows(hidden, index, batch, vocabulary.pad_id), positions)
        for row, which in enumerate(batch.indices):
            _, document, blanks = chosen[which]
            guesses = [
                [[piece_text(vocabulary, piece), round(float(p), 4)] for piece, p in zip(*found)]
                for found in zip(pieces[row][: len(blanks)], probabilities[row][: len(blanks)])
            ]
            samples[int(which)] = sample_parts(document, blanks, guesses, vocabulary)
    by_language: dict[str, list[list[Any]]] = {}
    for which in sorted(samples):
        by_language.setdefault(chosen[which][0], []).append(samples[which])
    if not keep:
        return by_language
    return {language: sorted(mine, key=knowledge, reverse=True)[:keep] for language, mine in by_language.items()}


def knowledge(sample: list[Any]) -> tuple[float, float]:
    """Return the share of a sample's blanks that are guessed right, and the mean probability of the true pieces."""
    blanks = [part for part in sample if isinstance(part, dict)]
    right = [blank["guesses"][0][0].strip() == blank["truth"] for blank in blanks]
    known = [next((p for piece, p in blank["guesses"] if piece.strip() == blank["truth"]), 0.0) for blank in blanks]
    return sum(right) / len(blanks), sum(known) / len(blanks)


def sample_parts(
    document: np.ndarray, blanks: np.ndarray, guesses: list[list[list[Any]]], vocabulary: Vocabulary
) -> list[Any]:
    """Cut a document at its blanks: [text, blank, text, blank, …]; empty texts are left out."""
    parts: list[Any] = []
    start = 0
    for position, found in zip(blanks.tolist(), guesses):
        before, truth = (
            text_between(vocabulary, document, start, position),
            text_between(vocabulary, document, position, position + 1),
        )
        space = " " if truth.startswith(" ") else ""
        parts += [before + space, {"truth": truth.strip(), "guesses": found}]
        start = position + 1
    parts.append(text_between(vocabulary, document, start, len(document)))
    return [part for part in parts if part != ""]


def text_between(vocabulary: Vocabulary, document: np.ndarray, start: int, stop: int) -> str:
    """Return the text of the tokens ``[start, stop)`` of a document, with its spaces."""
    return vocabulary.decode(document[:stop].tolist())[len(vocabulary.decode(document[:start].tolist())) :]


def piece_text(vocabulary: Vocabulary, piece: int) -> str:
    """Return a piece as text; a single byte that is not a character, as hexadecimal digits."""
    text = vocabulary.decode([int(piece)]).strip()
    return text if text and "\ufffd" not in text else vocabulary.pieces([int(piece)])[0]
