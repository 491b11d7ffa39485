"""``mlm-jax config``."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import shutil

from mlm_jax.config.values import Key, Kind

ABOUT = "list the config keys with their defaults, values and meaning, or search them"
EXAMPLE = "learning rate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("word", nargs="*", help="words that must all occur, or another framework's name of a key (batch_size)")
    parser.add_argument("--markdown", action="store_true", help="print docs/config.md")


def run(options: argparse.Namespace) -> None:
    """Print keys.

    Raises:
      UserError: no key has the words.
    """
    from mlm_jax.common.errors import UserError, nearest
    from mlm_jax.config.reference import all_keys, markdown, search, text

    declared = objective_options()
    if options.markdown:
        print(markdown(declared), end="")
        return
    keys = all_keys(declared)
    found = search(keys, options.word)
    if not found:
        names = [key.name.rpartition(".")[2] for key in keys]
        raise UserError(f"no config key has {' and '.join(options.word)}{nearest(options.word[-1], names)}",
                        remedy="mlm-jax config without a word lists all keys")  # fmt: skip
    print(text(found, min(shutil.get_terminal_size().columns, 120)))


def objective_options() -> dict[str, list[Key]]:
    """Return {objective: its options}."""
    from mlm_jax.config.check import OPTIONS, UNITS
    from mlm_jax.config.values import choice
    from mlm_jax.objectives import OBJECTIVES

    kinds: dict[str, Kind] = {**OPTIONS, "unit": choice(*UNITS)}
    return {
        name: [Key(field.name, field.default, kinds[field.name], _doc(objective, field.name))
               for field in dataclasses.fields(objective) if field.name in kinds]
        for name, objective in OBJECTIVES.items()
    }  # fmt: skip


def _doc(objective: type, option: str) -> str:
    """Return what a class's docstring says of an attribute."""
    for kind in objective.__mro__:
        found = re.search(rf"^ *{option}: (.+(\n        .+)*)", inspect.cleandoc(kind.__doc__ or ""), re.MULTILINE)
        if found:
            return " ".join(found[1].split())
    return ""
