"""Warnings of our modules as plain lines, whatever libraries do to the root logger."""

from __future__ import annotations

import logging
from typing import TextIO

from mlm_jax.common.errors import printable


def plain_warnings(stream: TextIO | None = None) -> None:
    """Print warnings of our modules as lines ``mlm-jax: …``.

    Args:
      stream: where they go; None means standard error.
    """
    handler, ours = logging.StreamHandler(stream), logging.getLogger("mlm_jax")
    handler.setFormatter(_OneLine("mlm-jax: %(message)s"))
    ours.addHandler(handler)
    ours.propagate = False


class _OneLine(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))
