"""Decoding: greedy, sampling and beam search, each a jittable loop.

The search is independent of the model: ``step(cache, tokens, position) -> (logits, cache)`` writes one token of every row. Rows
may have different languages. Scores are log-probabilities in nats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# step(cache, tokens [rows] int32, position () int32) -> (logits [rows, vocabulary], cache)
Step = Callable[[Any, jax.Array, jax.Array], tuple[jax.Array, Any]]
NEVER = -jnp.inf  # log-probability of tokens that must not be written


class Hypotheses(NamedTuple):
    """The hypotheses of each row, best first.

    Attributes:
      tokens: ``[rows, count, length]`` int32, without the start token; padding follows the stop token.
      lengths: ``[rows, count]`` int32, including the stop token; 0 if there is no further hypothesis.
      scores: ``[rows, count]`` float32; −inf if there is no further hypothesis.
    """

    tokens: jax.Array
    lengths: jax.Array
    scores: jax.Array


def take_rows(cache: Any, index: jax.Array) -> Any:
    """Return a cache whose row r is row ``index[r]`` of the given one; rows are the first axis of every array."""
    return jax.tree.map(lambda leaf: leaf[index], cache)


def greedy(
    step: Step,
    cache: Any,
    starts: jax.Array,
    *,
    length: int,
    stop: tuple[int, ...],
    pad_id: int = 0,
    forbidden: jax.Array | None = None,
    active: jax.Array | None = None,
) -> Hypotheses:
    """Write the likeliest token at every position; arguments and scores as in :func:`sample`."""
    keys = jax.random.split(jax.random.key(0), starts.shape[0])  # not used at temperature 0
    options: dict[str, Any] = {
        "length": length,
        "stop": stop,
        "pad_id": pad_id,
        "forbidden": forbidden,
        "active": active,
    }
    return sample(step, cache, starts, keys, temperature=0.0, **options)


def sample(
    step: Step,
    cache: Any,
    starts: jax.Array,
    keys: jax.Array,
    *,
    length: int,
    stop: tuple[int, ...],
    pad_id: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    forbidden: jax.Array | None = None,
    active: jax.Array | None = None,
) -> Hypotheses:
    """Sample one text for each row; the text of a row depends only on the row's own key.

    Args:
      step: writes one token of every row.
      cache: what ``step`` starts from.
      starts: ``[rows]`` first token of each row, which is not part of the result.
      keys: ``[rows]`` PRNG keys.
      length: the largest number of tokens, including the stop token.
      stop: tokens that end a text.
      pad_id: id that fills the rest of a text that ends early.
      temperature: logits are divided by it; 0 is greedy.
      top_k: draw among the k likeliest tokens only (Fan et al. 2018); 0 is all.
      top_p: draw among the likeliest tokens that make up this share of the probability (Holtzman et al. 2020).
      forbidden: ``[vocabulary]`` bool, tokens that are never written.
      active: ``[rows]`` bool, rows that the search waits for: it ends when their texts have ended; None means all rows.

    Returns:
      one hypothesis for each row; its score is Σ log P of the tokens under the model, at temperature 1.
    """
    rows = starts.shape[0]
    ends = jnp.asarray(stop, jnp.int32)
    awaited = jnp.ones(rows, bool) if active is None else active

    def unfinished(state: tuple) -> jax.Array:
        position, _, _, _, lengths, _ = state
        return (position < length) & ((lengths == 0) & awaited).any()

    def write(state: tuple) -> tuple:
        position, tokens, last, scores, lengths, cache = state
        logits, cache = step(cache, last, position)
        log_probabilities = allowed_log_probabilities(logits, forbidden)  # [rows, vocabulary]
        if temperature == 0:
            chosen = log_probabilities.argmax(axis=-1)
        else:
            tempered = restrict(log_probabilities / temperature, top_k, top_p)
            here = jax.vmap(jax.random.fold_in, (0, None))(keys, position)
            chosen = jax.vmap(jax.random.categorical)(here, tempered)
        running = lengths == 0
        gained = jnp.take_along_axis(log_probabilities, chosen[:, None], axis=-1)[:, 0]
        chosen = jnp.where(running, chosen, pad_id).astype(jnp.int32)
        ended = running & (jnp.isin(chosen, ends) | (position == length - 1))
        return (
            position + 1,
            tokens.at[:, position].set(chosen),
            chosen,
            scores + jnp.where(running, gained, 0.0),
            jnp.where(ended, position + 1, lengths),
            cache,
        )

    tokens = jnp.full((rows, length), pad_id, jnp.int32)
    none = jnp.zeros(rows, jnp.int32)
    begin = (jnp.zeros((), jnp.int32), tokens, starts.astype(jnp.int32), jnp.zeros(rows), none, cache)
    _, tokens, _, scores, lengths, _ = jax.lax.while_loop(unfinished, write, begin)
    return Hypotheses(tokens[:, None], lengths[:, None], scores[:, None])


class Beams(NamedTuple):
    """The state of a beam search: unfinished hypotheses, ``[rows, beams]``, and the best finished ones."""

    position: jax.Array
    tokens: jax.Array  # [rows, beams, length]
    log_probabilities: jax.Array  # [rows, beams] Σ log P so far; −inf: no hypothesis
    finished: Hypotheses
    cache: Any


def beam_search(
    step: Step,
    cache: Any,
    starts: jax.Array,
    *,
    beams: int,
    length: int,
    stop: tuple[int, ...],
    pad_id: int = 0,
    count: int = 1,
    length_penalty: float = 1.0,
    forbidden: jax.Array | None = None,
    active: jax.Array | None = None,
    reorder: Callable[[Any, jax.Array], Any] = take_rows,
) -> Hypotheses:
    """Keep the ``beams`` likeliest texts at every position and return the best that ended.

    A text that reaches ``length`` counts as finished. The search of a row ends when no unfinished text can have a better score than
    the row's worst finished one, so ending early does not change the result (``early_stopping="never"`` in transformers).

    Args:
      step: writes one token of every row; row r · beams + b is beam b of row r.
      cache: the initial cache of ``step``, with rows · beams rows (:func:`repeat_rows`).
      starts: ``[rows]`` first token of each row, which is not part of the result.
      beams: number of texts that are kept.
      length: the largest number of tokens, including the stop token.
      stop: tokens that end a text.
      pad_id: id that fills the rest of a text that ends early.
      count: number of texts to return for each row, at most ``beams``.
      length_penalty: α of the score Σ log P / lengthᵅ (length includes the stop token); 0 prefers short texts.
      forbidden: ``[vocabulary]`` bool, tokens that are never written.
      active: ``[rows]`` bool, rows that the search waits for: it ends when their texts have ended; None means all rows.
      reorder: (cache, index ``[rows · beams]``) → cache whose row r is the given one's row ``index[r]``.

    Raises:
      ValueError: ``count`` is larger than ``beams``.
    """
    if not 1 <= count <= beams:
        raise ValueError(f"{count} texts cannot be returned from {beams} beams")
    rows = starts.shape[0]
    ends = jnp.asarray(stop, jnp.int32)
    awaited = jnp.ones(rows, bool) if active is None else active

    def score(log_probabilities: jax.Array, size: Any) -> jax.Array:
        return log_probabilities / jnp.asarray(size, jnp.float32) ** length_penalty

    def unfinished(state: Beams) -> jax.Array:
        # log P only falls. The best score that a text can still reach: with α > 0 at the largest length, otherwise by ending now.
        size = length if length_penalty > 0 else state.position + 1
        best_to_come = score(state.log_probabilities.max(axis=1), size)  # [rows]
        return (state.position < length) & ((best_to_come > state.finished.scores.min(axis=1)) & awaited).any()

    def write(state: Beams) -> Beams:
        last = jnp.where(state.position == 0, starts[:, None], state.tokens[:, :, state.position - 1])  # [rows, beams]
        logits, cache = step(state.cache, last.reshape(-1), state.position)
        gained = allowed_log_probabilities(logits, forbidden)
        vocabulary = gained.shape[-1]
        totals = state.log_probabilities[..., None] + gained.reshape(rows, beams, vocabulary)
        # Enough candidates: even if every beam ended with every stop token, ``beams`` unfinished ones would remain.
        candidates = min((1 + max(len(stop), 1)) * beams, beams * vocabulary)
        totals, flat = jax.lax.top_k(totals.reshape(rows, -1), candidates)  # [rows, candidates]
        beam, token = flat // vocabulary, flat % vocabulary
        tokens = jnp.take_along_axis(state.tokens, beam[..., None], axis=1).at[:, :, state.position].set(token)
        ended = jnp.isin(token, ends)

        # A text may end only if it is among the best ``beams`` candidates, at the last position as before.
        final = (ended | (state.position == length - 1)) & (jnp.arange(candidates) < beams) & (totals > NEVER)
        final_scores = jnp.where(final, score(totals, state.position + 1), NEVER)
        sizes = jnp.where(final, state.position + 1, 0)
        new = Hypotheses(tokens, sizes, final_scores)
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), state.finished, new)
        _, best = jax.lax.top_k(both.scores, beams)
        finished = _pick(both, best)

        log_probabilities, going = jax.lax.top_k(jnp.where(ended, NEVER, totals), beams)  # [rows, beams]
        origin = jnp.take_along_axis(beam, going, axis=1) + beams * jnp.arange(rows)[:, None]
        going_tokens = jnp.take_along_axis(tokens, going[..., None], axis=1)
        return Beams(state.position + 1, going_tokens, log_probabilities, finished, reorder(cache, origin.reshape(-1)))

    empty = jnp.full((rows, beams, length), pad_id, jnp.int32)
    nothing = Hypotheses(empty, jnp.zeros((rows, beams), jnp.int32), jnp.full((rows, beams), NEVER))
    # All beams begin with the same text. Only the first has a finite score; else the same text would be found ``beams`` times.
    first = jnp.broadcast_to(jnp.where(jnp.arange(beams) == 0, 0.0, NEVER), (rows, beams))
    end = jax.lax.while_loop(unfinished, write, Beams(jnp.zeros((), jnp.int32), empty, first, nothing, cache))
    return jax.tree.map(lambda leaf: leaf[:, :count], end.finished)


def repeat_rows(tree: Any, times: int) -> Any:
    """Return arrays ``[rows · times, …]`` in which every row is repeated ``times`` times."""
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, times, axis=0), tree)


def allowed_log_probabilities(logits: jax.Array, forbidden: jax.Array | None) -> jax.Array:
    """Return float32 log-probabilities over the allowed tokens, −inf for the others: ``[rows, vocabulary]``.

    Columns of ``logits`` after the last of ``forbidden`` are padding of the embedding table, and are forbidden as well.
    """
    logits = logits.astype(jnp.float32)
    if forbidden is not None:
        padded = jnp.pad(jnp.asarray(forbidden), (0, logits.shape[-1] - len(forbidden)), constant_values=True)
        logits = jnp.where(padded, NEVER, logits)
    return jax.nn.log_softmax(logits, axis=-1)


def restrict(logits: jax.Array, top_k: int, top_p: float) -> jax.Array:
    """Set logits ``[rows, vocabulary]`` outside the top k, then outside the nucleus of mass ``top_p``, to −inf."""
    if 0 < top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits < least, NEVER, logits)
    if top_p < 1:
        order = jnp.argsort(logits, axis=-1, descending=True)
        ordered = jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1)
        before = jnp.cumsum(ordered, axis=-1) - ordered  # mass of the likelier tokens: 0 for the first, which stays
        outside = jnp.put_along_axis(jnp.zeros(logits.shape, bool), order, before >= top_p, axis=-1, inplace=False)
        logits = jnp.where(outside, NEVER, logits)
    return logits


def _pick(hypotheses: Hypotheses, index: jax.Array) -> Hypotheses:
    return Hypotheses(
        jnp.take_along_axis(hypotheses.tokens, index[..., None], axis=1),
        jnp.take_along_axis(hypotheses.lengths, index, axis=1),
        jnp.take_along_axis(hypotheses.scores, index, axis=1),
    )
