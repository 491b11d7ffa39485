"""Arguments that a command line does not know."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from mlm_jax.common.errors import nearest


def unrecognized(rest: Sequence[str], parser: argparse.ArgumentParser) -> str:
    """Return the error about arguments that a parser left over, with the option that looks most like the first of them.

    Args:
      rest: the arguments.
      parser: the parser, whose options are candidates.
    """
    options = re.findall(r"--[\w-]+", parser.format_usage())
    wrong = [word.partition("=")[0] for word in rest if word.startswith("--")]
    return f"unrecognized arguments: {' '.join(rest)}{nearest(wrong[0], options) if wrong else ''}"
