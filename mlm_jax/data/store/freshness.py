"""Whether a token store is the one that the config asks for. TensorFlow is not needed for this."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mlm_jax.common.errors import UserError, one_line
from mlm_jax.common.objects import FAILURES, open_keys
from mlm_jax.config.keys import default_config
from mlm_jax.config.sources import as_prepared, named_sources
from mlm_jax.data.store.filtering import functions
from mlm_jax.data.store.layout import MANIFEST
from mlm_jax.data.store.store import Store
from mlm_jax.data.text.libraries.code import code_digest
from mlm_jax.data.text.sources import fingerprint
from mlm_jax.data.vocabulary.folder import open_vocabulary

# Keys of config.data that change what the store holds.
KEYS = (
    "corpora",
    "parallel",
    "labelled",
    "validation",
    "validation_fraction",
    "mixture",
    "mixture_languages",
    "modules",
    "prefix",
    "max_document_tokens",
    "decontaminate",
    "filters",
)

NAMED = ("corpora", "parallel")  # keys whose values may be several sources by name


def sources(config: ConfigDict) -> list[Any]:
    """Return every source that ``config.data`` names."""
    trained = [source.files for kind in NAMED for source in named_sources(config.data[kind])]
    found = [*trained, *config.data.validation.values()]
    labelled = config.data.labelled.values()
    return found + [entry[split] for entry in labelled for split in ("train", "validation") if split in entry]


def code(config: ConfigDict) -> dict[str, list[str]]:
    """Return {module: digests of its code} for the modules that register a user's seqio tasks or define filters."""
    modules = (*config.data.modules, *(name.partition(":")[0] for name in functions(config)))
    return {module: code_digest(module) for module in modules}


def request(config: ConfigDict) -> dict[str, Any]:
    """Return, as JSON, everything that decides what a store holds: keys of the config, and sizes and times of the sources."""
    asked = {
        "data": {key: as_prepared(config.data[key]) if key in NAMED else config.data[key] for key in KEYS},
        "vocabulary": config.vocabulary.to_dict(),
        "languages": config.languages,
        "sources": [fingerprint(source) for source in sources(config)],
        "code": code(config),
    }
    if config.vocabulary.path:
        asked["model"] = fingerprint(config.vocabulary.path)
    return _as_json(asked)


def is_fresh(config: ConfigDict, folder: str | Path, *, or_older: bool = True) -> bool:
    """Return whether ``folder`` holds the store that the config asks for.

    If none of the sources is on this machine, a store that was prepared elsewhere with the same config is fresh. If the config
    names no source, every store is.

    Args:
      config: the run's config.
      folder: folder of the store, or of one of its shards.
      or_older: whether a store of an older version, which knew fewer keys, counts as fresh; :func:`what_it_lacks` describes
        what such a store lacks.
    """
    if not _exists(folder):
        return False
    made_of = _made_of(folder)
    if not or_older and made_of is not None and not {*KEYS} <= {*made_of["data"]}:
        return False
    asked = _asked(config, folder, made_of)
    if not any(asked["sources"]) and not config.data.mixture:  # no file here to compare sizes and times of
        written = ("data", "vocabulary", "languages")
        return not asked["sources"] or (made_of is not None and all(made_of[key] == asked[key] for key in written))
    return made_of == asked


def what_it_lacks(config: ConfigDict, folder: str | Path) -> str:
    """Return a line about what a store of an older version lacks of what the config asks for; "" if it lacks nothing."""
    made_of = _made_of(folder) or {}
    if not config.data.decontaminate or "decontaminate" in made_of.get("data", {"decontaminate": True}):
        return ""
    return (
        f"token store {folder} was prepared before data.decontaminate existed: its training text may contain validation text. "
        "It is used as it is. To prepare it again, delete it and begin a new workdir"
    )


def check_unchanged(config: ConfigDict, folder: str | Path) -> None:
    """Check that a store has not changed since a run was trained on it; a folder without a store passes.

    Raises:
      UserError: it is not the store that the config asks for; the message names a file that has changed, or the keys that
        differ.
    """
    if not _exists(folder) or is_fresh(config, folder):
        return
    made_of = _made_of(folder) or {}
    asked = _asked(config, folder, made_of)
    before, now = _files(made_of), _files(asked)
    new_run = "use a new workdir, with checkpoint.init to start from these weights"
    changed = _changed(before, now)
    if changed and before:
        name, others = changed[0], len(changed) - 1
        then, here = before.get(name), now.get(name)
        size, remedy = "it is gone", f"restore it, or {new_run}"
        if here and not then:
            size, remedy = "it is new", f"remove it, or {new_run}"
        elif here and then and here[0] != then[0]:
            size = f"{then[0]:,} bytes then, {here[0]:,} bytes now"
        elif here and then:
            size = f"same size, {here[0]:,} bytes, but another modification time"
            remedy = f"if its text is still the same, delete {folder}, which is then made again; if not, restore it, or {new_run}"
        more = f"; {others:,} more have changed" if others else ""
        raise UserError(f"the text that this run was trained on has changed ({size}{more})", file=name, remedy=remedy)
    if names := _changed_code(made_of, asked):
        raise UserError(
            f"the code that yields this run's text has changed: {', '.join(names)}",
            file=folder,
            remedy=f"restore it, or {new_run}",
        )
    keys = ", ".join(_keys(made_of, asked))
    raise UserError(
        f"this run was trained on the token store, which was made by another config; these keys differ: {keys}",
        file=folder,
        remedy=f"name another folder in data.store, or {new_run}",
    )


def why_stale(config: ConfigDict, folder: str | Path) -> str:
    """Return in what a store differs from the one that the config asks for; "" if there is no store."""
    if not _exists(folder):
        return ""
    made_of = _made_of(folder)
    if made_of is None:
        return "it was not made by prepare"
    asked = _asked(config, folder, made_of)
    changed = [
        *_changed(_files(made_of), _files(asked))[:1],
        *(f"the code of {name}" for name in _changed_code(made_of, asked)),
    ]
    return ", ".join([f"{key} differs" for key in _keys(made_of, asked)] + [f"{what} has changed" for what in changed])


def _asked(config: ConfigDict, folder: str | Path, made_of: dict[str, Any] | None) -> dict[str, Any]:
    """Return the request for a config's store, in a form that can be compared with the one that a store was made for.

    A given vocabulary may be in another folder now: it is the same if its content is.
    """
    asked = _comparable(request(config), made_of)
    if not (made_of and made_of.get("model") and asked.get("model")):
        return asked
    then, now = ({"path": one["vocabulary"].get("path"), "model": one["model"]} for one in (made_of, asked))
    if then == now or not _is_vocabulary_of(folder, config.vocabulary):
        return asked
    return asked | {"vocabulary": asked["vocabulary"] | {"path": then["path"]}, "model": then["model"]}


def _is_vocabulary_of(folder: str | Path, named: ConfigDict) -> bool:
    """Return whether a store has the vocabulary that ``config.vocabulary`` names."""
    facts = Store.open(folder).manifest
    given = open_vocabulary(named.path, facts["languages"], named.sentinels)
    return bool(given.fingerprint == facts["vocabulary"]["fingerprint"])


def _comparable(asked: dict[str, Any], made_of: dict[str, Any] | None) -> dict[str, Any]:
    """Return a request without what the version that made a store did not record: digests of code, and newer keys.

    A newer key is compared if the config changes its default, since the store was made as by the default. The exception is
    ``decontaminate``: older stores were made as if it were False, which :func:`what_it_lacks` reports.
    """
    made_of = made_of or {}
    asked = asked if "code" in made_of else {key: value for key, value in asked.items() if key != "code"}
    known, defaults = made_of.get("data", {}), default_config().data
    newer = {
        key
        for key, value in asked["data"].items()
        if known and key not in known and (key == "decontaminate" or value == _as_json(defaults[key]))
    }
    asked = asked | {"data": {key: value for key, value in asked["data"].items() if key not in newer}}
    if "code" in asked:
        asked = asked | {
            "code": {name: _as_then(made_of["code"].get(name), now) for name, now in asked["code"].items()}
        }
    before = made_of.get("sources", [])
    if len(before) != len(asked["sources"]):
        return asked
    return asked | {"sources": [_as_then(then, now) for then, now in zip(before, asked["sources"])]}


def _as_then(then: Any, now: list) -> list:
    """Return what is known now of a source or a module, but only as much as was known when the store was made.

    An older version recorded less of the code of a function, and only the name of a data set. If the function or the data set
    is not on this machine, only its name is known now, and the store was prepared elsewhere.
    """
    named = bool(then) and isinstance(then[0], str)
    return then if named and (then == now[: len(then)] or now == then[:1]) else now


def _changed_code(made_of: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Return the functions and modules whose code has changed since a store was made."""
    before = _digests(made_of)
    return [name for name, digest in _digests(asked).items() if name in before and before[name] != digest]


def _digests(asked: dict[str, Any]) -> dict[str, Any]:
    named = [found for found in asked.get("sources", ()) if found and isinstance(found[0], str)]
    functions = {name: [part for part in known if isinstance(part, str)] for name, *known in named}
    return functions | asked.get("code", {})


def _keys(made_of: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Return the keys of the config in which two requests differ."""
    before, now = made_of.get("data", {}), asked["data"]
    found = [f"data.{key}" for key in KEYS if before.get(key) != now.get(key)]
    return found + [key for key in ("vocabulary", "languages") if made_of.get(key) != asked[key]]


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=list))


def _exists(folder: str | Path) -> bool:
    try:
        return open_keys(folder).read(MANIFEST).result().state == "value"
    except FAILURES as error:
        raise UserError(f"cannot look for a token store: {one_line(error)}", file=folder) from error


def _made_of(folder: str | Path) -> dict[str, Any] | None:
    """Return the request that a store was made for; None if ``prepare`` did not make it."""
    return Store.open(folder).manifest["facts"].get("request")


def _files(asked: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """Return {file: (bytes, modification time)} of a request's sources and its vocabulary."""
    found = [file for source in (*asked.get("sources", ()), asked.get("model", ())) for file in source]
    return {file[0]: (file[1], file[2]) for file in found if isinstance(file, list)}  # a function has a name only


def _changed(before: dict[str, tuple[int, int]], now: dict[str, tuple[int, int]]) -> list[str]:
    """Return the files that are new, missing or changed."""
    return [file for file in sorted({*before, *now}) if before.get(file) != now.get(file)]
