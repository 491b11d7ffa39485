"""Whether a token store is what the config asks for: no TensorFlow is needed to tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mlm_jax.data import corpora
from mlm_jax.data.addresses import open_keys
from mlm_jax.data.ragged import FAILURES, one_line
from mlm_jax.data.store import MANIFEST
from mlm_jax.errors import UserError

# Keys of config.data that change what the store holds.
KEYS = ("corpora", "parallel", "labelled", "validation", "validation_fraction", "mixture", "mixture_languages", "modules",
        "prefix", "max_document_tokens")  # fmt: skip


def request(config: ConfigDict) -> dict[str, Any]:
    """Return, as JSON, everything that decides what a store holds: the config's share, and what the sources look like."""
    sources = [*config.data.corpora.values(), *config.data.parallel.values(), *config.data.validation.values()]
    sources += [
        entry[split] for entry in config.data.labelled.values() for split in ("train", "validation") if split in entry
    ]
    asked = {
        "data": {key: config.data[key] for key in KEYS},
        "vocabulary": config.vocabulary.to_dict(),
        "languages": config.languages,
        "sources": [corpora.fingerprint(source) for source in sources],
    }
    if config.vocabulary.path:
        asked["model"] = corpora.fingerprint(config.vocabulary.path)
    return json.loads(json.dumps(asked, default=list))


def is_fresh(config: ConfigDict, folder: str | Path) -> bool:
    """Return whether ``folder`` holds the store that the config asks for.

    Where none of the sources is here, a store that was prepared elsewhere with the same config is fresh. A config that
    names no source takes the store as it is.
    """
    from mlm_jax.data.store import Store

    try:
        if open_keys(folder).read(MANIFEST).result().state != "value":
            return False
    except FAILURES as error:
        raise UserError(f"cannot look for a token store: {one_line(error)}", file=folder) from error
    made_of = Store.open(folder).manifest["facts"].get("request")
    asked = request(config)
    if not any(asked["sources"]) and not config.data.mixture:  # what they look like cannot be compared
        written = ("data", "vocabulary", "languages")
        return not asked["sources"] or (made_of is not None and all(made_of[key] == asked[key] for key in written))
    return made_of == asked
