"""The language of each row and the order in which text is read: apportionment and index shuffles, in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlm_jax.common.errors import UserError

FEISTEL_ROUNDS = 8  # each half is mixed four times
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # odd, far from any small multiple of another key


class Apportionment:
    """Assigns seats one after another so that at any time every holder has its share of them, up to a few seats.

    The k-th seat (k = 1, 2, …) of a holder of weight w has the time (k − ½) / w. Seats are sorted by time; at equal times,
    by holder. So after n seats, holder l has ⌊w_l λ + ½⌋ seats for a λ near n (Sainte-Laguë's divisor method). This number
    never falls as n grows.

    Args:
      weights: ``[holders]``, at least 0 and not all 0; a holder of weight 0 gets no seats.

    Raises:
      UserError: a weight is negative or not finite, or all are 0.
    """

    def __init__(self, weights: Sequence[float] | np.ndarray):
        weights = np.asarray(weights, np.float64)
        if not np.isfinite(weights).all() or (weights < 0).any() or not weights.sum() > 0:
            raise UserError(
                f"mixing rates {weights.tolist()} must be at least 0, and not all 0", remedy="set mixing.rates"
            )
        self.shares = weights / weights.sum()  # [holders]
        self._holders = np.flatnonzero(self.shares > 1e-18)  # a smaller weight never gets a seat
        self._weights = self.shares[self._holders]

    def counts(self, n: int) -> np.ndarray:
        """Return the number of each holder's seats among the first ``n``: ``[holders]`` int64."""
        counts = np.zeros(len(self.shares), np.int64)
        below = self._surely_within(n)
        holders, _ = self._next_seats(below, n)
        below += np.bincount(holders[: n - below.sum()], minlength=len(below))
        counts[self._holders] = below
        return counts

    def seats(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the holder of each of the seats ``start`` … ``stop - 1``, and the seat's index among that holder's seats,
        from 0.

        Returns:
          ``[stop - start]`` int64 holders, and ``[stop - start]`` int64 indices.
        """
        below = self._surely_within(start)
        skipped = start - int(below.sum())
        holders, ordinals = self._next_seats(below, stop)
        chosen = slice(skipped, skipped + stop - start)
        return self._holders[holders[chosen]], ordinals[chosen]

    def sequence(self, start: int, stop: int) -> np.ndarray:
        """Return the holders of the seats ``start`` … ``stop - 1``: ``[stop - start]`` int64."""
        return self.seats(start, stop)[0]

    def _surely_within(self, n: int) -> np.ndarray:
        """Return for each holder a number of seats that are surely among the first ``n``; it may be a few less than all."""
        time = n - len(self._weights) / 2  # Σ ⌊w t + ½⌋ ≤ t + holders / 2 = n
        return np.maximum(np.floor(self._weights * time + 0.5).astype(np.int64) - 1, 0)  # − 1: rounding errors

    def _next_seats(self, below: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the seats after ``below``, at least up to seat ``n``, in order: holders and indices."""
        time = n + len(self._weights) / 2  # Σ ⌊w t + ½⌋ ≥ t − holders / 2 = n
        above = np.floor(self._weights * time + 0.5).astype(np.int64) + 1
        counts = above - below
        holders = np.repeat(np.arange(len(below)), counts)
        first = np.cumsum(counts) - counts  # start of each holder's seats in this list
        ordinals = np.arange(len(holders)) - np.repeat(first - below, counts)
        order = np.lexsort((holders, (ordinals + 0.5) / self._weights[holders]))
        return holders[order], ordinals[order]


def permute(index: np.ndarray | int, size: np.ndarray | int, seed: np.ndarray | int) -> np.ndarray:
    """Return the position of ``index`` after a shuffle of [0, size); a bijection for each seed.

    A Feistel network over a grid of about √size × √size, applied again while the result is outside of [0, size). No table is
    stored.

    Args:
      index: in [0, size).
      size: at least 1, below 2**62.
      seed: any 64 bits. The three are broadcast against each other.

    Returns:
      int64 of the broadcast shape.

    Source: Black and Rogaway 2002, Ciphers with arbitrary finite domains, generalized-Feistel construction.
    """
    index, size, seed = np.broadcast_arrays(np.asarray(index), np.asarray(size), np.asarray(seed))
    shape = index.shape
    result = index.reshape(-1).astype(np.uint64)
    size, seed = size.reshape(-1).astype(np.uint64), seed.reshape(-1).astype(np.uint64)
    columns = np.ceil(np.sqrt(size.astype(np.float64))).astype(np.uint64)
    rows = -(-size.astype(np.int64) // columns.astype(np.int64)).astype(np.uint64)
    keys = mix(seed) + np.arange(1, FEISTEL_ROUNDS + 1, dtype=np.uint64)[:, None] * GOLDEN  # [rounds, …]
    walking = np.arange(len(result))
    while len(walking):
        left, right = np.divmod(result[walking], columns[walking])  # in [0, rows), [0, columns)
        for number in range(0, FEISTEL_ROUNDS, 2):
            left = (left + mix(right ^ keys[number][walking]) % rows[walking]) % rows[walking]
            right = (right + mix(left ^ keys[number + 1][walking]) % columns[walking]) % columns[walking]
        result[walking] = left * columns[walking] + right
        walking = walking[result[walking] >= size[walking]]
    return result.astype(np.int64).reshape(shape)


def mix(value: np.ndarray) -> np.ndarray:
    """Return a hash: uint64 whose bits depend on all bits of ``value`` (Steele et al. 2014, SplitMix64's finalizer)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
