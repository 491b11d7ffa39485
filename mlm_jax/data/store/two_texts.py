"""Two texts in one row, cut if they do not fit."""

from __future__ import annotations

from collections.abc import Sequence


def cut_longer(first: int, second: int, room: int) -> tuple[int, int]:
    """Return how many tokens of two texts to keep so that both fit into ``room``; the longer one is cut first."""
    kept = min(second, max(room // 2, room - first))
    return min(first, room - kept), kept


def joined(first: Sequence[int], second: Sequence[int], separator: Sequence[int], room: int) -> list[int]:
    """Return two texts with the separator between them, cut so that they fit into ``room``; the longer one is cut first."""
    kept, other = cut_longer(len(first), len(second), room - len(separator))
    return [*first[:kept], *separator, *second[:other]]
