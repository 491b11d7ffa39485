"""The reference of the config keys, from their declarations: as text that can be searched, and as docs/config.md."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mlm_jax.config.keys import GROUPS, KEYS
from mlm_jax.config.values import REQUIRED, Entry, Key, Kind
from mlm_jax.config.words import COMMANDS, NOTES, WORDS, called_here

Options = Mapping[str, Sequence[Key]]  # {objective: its options}

HEAD = """# Config keys

This page is generated from the declarations in `mlm_jax/config/keys/` by `python docs/reference.py`.
`mlm-jax config WORD` searches the same text. A config file defines `get_config()`, which changes what it wants to of
`default_config()`; `--set KEY=VALUE` changes a key for one command, such as `--set optimizer.learning_rate=1e-3` or
`--set tasks.mlm.rows=8`. A key that does not exist, or a value that cannot work, is an error that names file, line, the nearest key
and the remedy, before anything is read.
"""


def all_keys(options: Options) -> list[Key]:
    """Return every key under its full name, keys of dictionaries and the options of objectives included.

    Args:
      options: {objective: its options}, which are keys of the tasks that have this objective.
    """
    found: list[Key] = []
    for key in KEYS:
        found.append(key)
        found += [
            Key(f"{prefix}.{inner.name}", inner.default, inner.kind, inner.doc)
            for prefix, inner in _inner(key.name, key.kind)
        ]
    for objective, its_options in options.items():
        found += [
            Key(f"tasks.TASK.{key.name}", key.default, key.kind, f"[{objective}] {key.doc}") for key in its_options
        ]
    return found


def search(keys: Iterable[Key], words: Sequence[str]) -> list[Key]:
    """Return the keys that have all words in name, values or sentence; a word of another framework finds its key here.

    Keys that another framework calls by one of the words come first.
    """
    found = [key for key in keys if all(_has(key, word) for word in words)]
    meant = [called_here(word) for word in words]
    return sorted(found, key=lambda key: key.name not in meant)


def text(keys: Iterable[Key], width: int = 100) -> str:
    """Return keys with defaults, values and sentences, for a terminal of this many columns."""
    blocks = []
    for key in keys:
        default = "(required)" if key.default is REQUIRED else "" if key.default is None else f"= {key.default!r}"
        about = "\n".join(
            textwrap.fill(line, width, initial_indent="    ", subsequent_indent="    ", break_long_words=False)
            for line in (key.doc.replace("`", ""), f"Takes {key.kind.words}.")
        )
        blocks.append(f"{key.name} {default}".rstrip() + f"\n{about}")
    return "\n\n".join(blocks)


def markdown(options: Options) -> str:
    """Return docs/config.md."""
    parts = [HEAD]
    for group, about in GROUPS.items():
        keys = [key for key in KEYS if key.name.rpartition(".")[0] == group]
        parts.append(f"## {f'`{group}`' if group else 'The run'}\n\n{about}\n\n{_table(keys)}")
        for key in keys:
            for prefix, inner in _dictionaries_of(key):
                parts.append(f"### `{prefix}`\n\n{_table(inner)}")
                if key.name == "tasks":
                    parts += [
                        f"#### Options of `{objective}`\n\n{_table(found)}"
                        for objective, found in options.items()
                        if found
                    ]
    rows = [
        (word, f"`{key}`{f': {NOTES[key]}' if key in NOTES else ''}") for key, words in WORDS.items() for word in words
    ]
    rows += [(word, f"no key: {command}") for command, words in COMMANDS.items() for word in words]
    lines = [f"| `{word}` | {there} |" for word, there in sorted(rows)]
    parts.append("## Names in other frameworks\n\n| elsewhere | here |\n|---|---|\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def _has(key: Key, word: str) -> bool:
    where = f"{key.name} {key.doc} {key.kind.words}".lower()
    return word.lower() in where or called_here(word) == key.name


def _inner(name: str, kind: Kind) -> Iterator[tuple[str, Key]]:
    """Yield (prefix, key) of the dictionaries that a key's values are, or hold."""
    prefix = {
        "curriculum": "curriculum[i]",
        "model.encoder": "model.encoder[i]",
        "model.decoder": "model.decoder[i]",
        "tasks": "tasks.TASK",
        "data.labelled": "data.labelled.SET",
        "data.corpora": "data.corpora.LANGUAGE",
        "data.parallel": "data.parallel.PAIR",
    }.get(name, name)
    entry = _entry(kind)
    yield from ((prefix, key) for key in (entry.keys if entry else ()))


def _entry(kind: Any) -> Entry | None:
    return kind if isinstance(kind, Entry) else _entry(kind.kind) if hasattr(kind, "kind") else None


def _dictionaries_of(key: Key) -> list[tuple[str, list[Key]]]:
    found = [*_inner(key.name, key.kind)]
    return [(found[0][0], [inner for _, inner in found])] if found else []


def _table(keys: Sequence[Key]) -> str:
    rows = [f"| `{key.name}` | {_default(key)} | {_cell(key.kind.words)} | {_cell(key.doc)} |" for key in keys]
    return "| key | default | takes | meaning |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"


def _default(key: Key) -> str:
    if key.default is REQUIRED:
        return "required"
    return "" if key.default is None else f"`{key.default!r}`".replace("|", "\\|")


def _cell(text: str) -> str:
    return re.sub(r"([<>*])", r"\\\1", text).replace("|", "\\|")
