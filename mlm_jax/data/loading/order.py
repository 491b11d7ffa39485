"""The loader's plan, without any data: the part of a stream that each row of a task takes, in closed form.

A stream's epoch is its *units* in a shuffled order: tokens for packed text (a row takes ``length`` of them), else documents
(a row takes one). Rows of a stream are counted through the run. Consecutive phases with the same row length form an *era*,
which continues in the epoch in which the previous era stopped. So every unit is taken once an epoch.

Packed text is shuffled twice. The tokens of an epoch are laid out in a new order of large blocks (and rotated, so that
rows are cut elsewhere every time); an era takes a contiguous part of this layout, cut into rows, and shuffles the rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mlm_jax.data.loading.apportionment import Apportionment, mix, permute

BLOCKS = 256  # the largest number of blocks into which an epoch of packed text is cut
BLOCK_TOKENS = 1 << 16  # tokens of the smallest block: the edges of blocks cut documents
SAMPLED_TOKENS, PLACES = 1 << 13, 16  # if only a share of a stream is read: smallest block; smallest number of blocks


class RowPlan(NamedTuple):
    """The parts of streams that rows take; every field is ``[rows]`` int64.

    Attributes:
      stream: index into the task's streams.
      epoch: the epoch of that stream, from 0.
      start: first unit in the epoch's layout.
      units: number of units; less than the row length only in the last row of an epoch.
      run: index of the run of consecutive rows, counted separately in each stream.
    """

    stream: np.ndarray
    epoch: np.ndarray
    start: np.ndarray
    units: np.ndarray
    run: np.ndarray


class Slices(NamedTuple):
    """Parts of streams that fill rows; every field is ``[slices]`` int64.

    Attributes:
      row, column: start of the part in the batch.
      stream: index into the task's streams.
      start, stop: units of the stream as stored.
    """

    row: np.ndarray
    column: np.ndarray
    stream: np.ndarray
    start: np.ndarray
    stop: np.ndarray


@dataclass
class _Era:
    length: int  # units a row
    rows_before: np.ndarray  # [streams] taken in earlier eras
    epoch: np.ndarray  # [streams] in which it begins
    position: np.ndarray  # [streams] units of that epoch that are taken already
    rows: np.ndarray | None = None  # [streams] that it takes; None: the last era, which has no end


@dataclass(frozen=True)
class _Phase:
    start_step: int
    rows: int  # a step
    apportionment: Apportionment
    rows_before: np.ndarray  # [streams] taken in earlier phases
    era: _Era


class Order:
    """The order of one task's rows.

    Args:
      names: the names of the streams. The shuffles of a stream depend only on the seed and its name, not on other streams.
      sizes: ``[streams]`` units, at least 1.
      rows: the number of rows of the task per step, over all hosts.
      seed: any text.
      run_length: number of consecutive rows that are of one stream.
      stored: ``[streams]`` units that are stored. If they are more than ``sizes``, a sample that is spread evenly over all of
        them is read, the same one in every epoch. None: as many as ``sizes``.
    """

    def __init__(
        self,
        names: Sequence[str],
        sizes: Sequence[int] | np.ndarray,
        rows: int,
        seed: str,
        run_length: int = 1,
        stored: Sequence[int] | np.ndarray | None = None,
    ):
        self.sizes = np.asarray(sizes, np.int64)
        self._stored = self.sizes if stored is None else np.asarray(stored, np.int64)
        self.rows, self.run_length = rows, run_length
        digests = [hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8] for name in names]
        self._keys = np.array([int.from_bytes(digest, "little") for digest in digests], np.uint64)
        self._phases: list[_Phase] = []

    def begin(self, start_step: int, length: int, weights: np.ndarray, rows: int | None = None) -> None:
        """Begin the next phase.

        Args:
          start_step: its first step.
          length: units a row.
          weights: ``[streams]`` shares of the rows.
          rows: a step in this phase, over all hosts; None: the task's rows.
        """
        nothing = np.zeros_like(self.sizes)
        if not self._phases:
            before, era = nothing, _Era(length, nothing, nothing, nothing)
        else:
            before, era = self.rows_taken(start_step), self._phases[-1].era
            if era.length != length:
                era.rows = before - era.rows_before
                era = _Era(length, before, *self._after(era, before))
        self._phases.append(_Phase(start_step, rows or self.rows, Apportionment(weights), before, era))

    # ------------------------------------------------------------------------------------------- counting

    def shares(self, step: int) -> np.ndarray:
        """Return the planned shares of the streams in a step: ``[streams]``."""
        return self._phase(step).apportionment.shares

    def rows_taken(self, step: int) -> np.ndarray:
        """Return the rows of each stream in the steps before ``step``: ``[streams]`` int64."""
        phase = self._phase(step)
        runs = (step - phase.start_step) * phase.rows // self.run_length
        return phase.rows_before + phase.apportionment.counts(runs) * self.run_length

    def units_taken(self, step: int) -> np.ndarray:
        """Return the units of each stream in the steps before ``step``, over all epochs: ``[streams]`` int64."""
        if not self._phases:
            return np.zeros_like(self.sizes)
        epoch, position = self._after(self._phase(step).era, self.rows_taken(step))
        return epoch * self.sizes + position

    def _after(self, era: _Era, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return each stream's epoch, and the units taken of that epoch, after ``rows`` rows of the run: ``[streams]`` each."""
        epoch, start, _, index = self._piece(era, np.arange(len(self.sizes)), rows - era.rows_before)
        return epoch, start + index * era.length  # the short row comes last, so all rows before it are whole

    # ------------------------------------------------------------------------------------------- rows

    def plan(self, step: int, start_row: int, stop_row: int) -> RowPlan:
        """Return the parts that rows ``start_row`` … ``stop_row - 1`` of a step take; both are at the edge of a run."""
        phase = self._phase(step)
        first = (step - phase.start_step) * phase.rows
        seats = phase.apportionment.seats((first + start_row) // self.run_length, (first + stop_row) // self.run_length)
        stream, ordinal = (np.repeat(each, self.run_length) for each in seats)
        ordinal = ordinal * self.run_length + np.arange(len(ordinal)) % self.run_length + phase.rows_before[stream]
        run, era = ordinal // self.run_length, phase.era
        ordinal = ordinal - era.rows_before[stream]
        epoch, start, units, index = self._piece(era, stream, ordinal)
        whole = units // era.length  # rows to shuffle: all but the epoch's short one
        if era.rows is not None:  # the last epoch of an era ends where the next era begins
            end_epoch, end_start, _, end_index = self._piece(era, stream, era.rows[stream])
            ends = (epoch == end_epoch) & (start == end_start)
            whole = np.where(ends, np.minimum(whole, end_index), whole)
        seed = self._seed(stream, epoch, 0)
        shuffled = permute(np.minimum(index, np.maximum(whole - 1, 0)), np.maximum(whole, 1), seed)
        offset = np.where(index < whole, shuffled, index) * era.length
        return RowPlan(stream, epoch, start + offset, np.minimum(era.length, units - offset), run)

    def documents(self, plan: RowPlan) -> np.ndarray:
        """Return the document, as stored, that each row of one document takes: ``[rows]``."""
        size, stored = self.sizes[plan.stream], self._stored[plan.stream]
        return plan.start * (stored // size) + plan.start * (stored % size) // size

    def slices(self, plan: RowPlan) -> Slices:
        """Return the parts of packed text, as stored, that fill rows: most rows are one part, some two or three."""
        size = self.sizes[plan.stream]  # [rows]
        left_out = self._stored[plan.stream] - size  # [rows]
        smallest = np.where(left_out > 0, np.minimum(SAMPLED_TOKENS, -(-size // PLACES)), BLOCK_TOKENS)
        block = np.maximum(smallest, -(-size // BLOCKS))
        blocks = size // block  # whole blocks; the remainder stays at the end
        gap = left_out // np.maximum(blocks, 1)  # [rows] tokens between two blocks as stored
        rotation = (self._seed(plan.stream, plan.epoch, 1) % size.astype(np.uint64)).astype(np.int64)
        seed = self._seed(plan.stream, plan.epoch, 2)
        row, column, remaining = np.arange(len(size)), np.zeros_like(size), plan.units
        parts = []
        while len(row):
            position = (plan.start[row] + column + rotation[row]) % size[row]  # in the layout of blocks
            number = position // block[row]
            moved = number < blocks[row]
            target = permute(np.where(moved, number, 0), np.maximum(blocks[row], 1), seed[row])
            start = np.where(moved, target, number) * (block[row] + gap[row]) + position % block[row]
            room = np.where(moved, (number + 1) * block[row], size[row]) - position
            taken = np.minimum(room, remaining)
            parts.append(Slices(row, column, plan.stream[row], start, start + taken))
            more = remaining > taken
            row, column, remaining = row[more], (column + taken)[more], (remaining - taken)[more]
        return Slices(*(np.concatenate(field) for field in zip(*parts)))

    def _piece(self, era: _Era, stream: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """Find the row that follows ``rows`` rows of an era.

        Returns:
          ``[rows]`` each: the row's epoch, the start and the number of units of the era's part of it, and the row's index in
          the part.
        """
        size = self.sizes[stream]
        rest = -(-(size - era.position[stream]) // era.length)  # rows left of the epoch that the era began in
        whole = -(-size // era.length)  # rows of a whole epoch
        first = rows < rest
        epoch = era.epoch[stream] + np.where(first, 0, 1 + (rows - rest) // whole)
        start = np.where(first, era.position[stream], 0)
        index = np.where(first, rows, (rows - rest) % whole)
        return epoch, start, size - start, index

    def _seed(self, stream: np.ndarray, epoch: np.ndarray, use: int) -> np.ndarray:
        return mix(self._keys[stream] ^ mix(epoch.astype(np.uint64) * np.uint64(4) + np.uint64(use)))

    def _phase(self, step: int) -> _Phase:
        return next(phase for phase in reversed(self._phases) if phase.start_step <= step)
