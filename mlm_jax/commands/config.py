"""``mlm-jax config``."""

from __future__ import annotations

import argparse
import shutil

from mlm_jax.config.values import Key

ABOUT = "list the config keys with their defaults, values and meaning, or search them"
EXAMPLE = "learning rate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "word", nargs="*", help="words that must all occur, or another framework's name of a key (batch_size)"
    )
    parser.add_argument("--markdown", action="store_true", help="print docs/config.md")


def run(options: argparse.Namespace) -> None:
    """Print keys.

    Raises:
      UserError: no key has the words.
    """
    from mlm_jax.common.errors import UserError, nearest
    from mlm_jax.config.reference import all_keys, markdown, search, text
    from mlm_jax.config.words import here

    declared = objective_options()
    if options.markdown:
        print(markdown(declared), end="")
        return
    keys = all_keys(declared)
    found = search(keys, options.word)
    if not found:
        names = [key.name.rpartition(".")[2] for key in keys]
        raise UserError(
            f"no config key has {' and '.join(options.word)}{here(options.word[-1]) or nearest(options.word[-1], names)}",
            remedy="mlm-jax config without a word lists all keys",
        )
    print(text(found, min(shutil.get_terminal_size().columns, 120)))


def objective_options() -> dict[str, list[Key]]:
    """Return {objective: its options, without those that every task has}."""
    from mlm_jax.config.keys.tasks import TASK
    from mlm_jax.config.option import options_of
    from mlm_jax.objectives import OBJECTIVES

    common = {key.name for key in TASK.keys}
    return {
        name: [option for option in options_of(objective).values() if option.name not in common]
        for name, objective in OBJECTIVES.items()
    }
