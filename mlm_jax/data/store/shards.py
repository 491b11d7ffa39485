"""Shards: the part of the sources that each of several machines prepares, and how shards are joined into one store.

Imagine all files in the config's order on one line, where each file is as long as its size in bytes. Shard i of n takes the files
whose middle is in the i-th of n equal parts of the line. The concatenated shards then have the config's order, and the joined
store is bit for bit the one that a single process writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mlm_jax.common.addresses import is_local
from mlm_jax.common.errors import UserError
from mlm_jax.common.files import remove_abandoned
from mlm_jax.config.sources import named_sources, with_source
from mlm_jax.data.store.addresses import remove
from mlm_jax.data.store.cleaning import joined_samples
from mlm_jax.data.store.freshness import is_fresh, request
from mlm_jax.data.store.layout import DROPPED, MANIFEST
from mlm_jax.data.store.store import Store
from mlm_jax.data.store.writer import StoreWriter
from mlm_jax.data.text import corpora
from mlm_jax.data.text.languages import only_held_out, run_languages
from mlm_jax.data.text.sources import files, fingerprint, is_library, shown


def shard_folder(folder: str | Path, index: int, count: int) -> str:
    """Return the folder of shard ``index`` of ``count``, which is beside the folder of the store.

    Raises:
      UserError: the index is not in [0, count).
    """
    if not 0 <= index < count:
        remedy = f"count from 0: the last is {count - 1}/{count}" if count > 0 else "make one shard or more"
        raise UserError(f"there is no shard {index}/{count}", remedy=remedy)
    return f"{str(folder).rstrip('/')}.shards/{index:05d}-of-{count:05d}"


def share(config: ConfigDict, index: int, count: int) -> ConfigDict:
    """Return the config with the sources that shard ``index`` of ``count`` reads, and no others.

    A piece is a file, a function, a data set of a library, a labelled set, or two aligned files; pieces are not cut. Validation
    text of a corpus is read by the shard of the corpus's first piece; other text of ``data.validation`` is a piece of its own.

    Raises:
      UserError: a source's files are missing.
    """
    pieces = _pieces(config)
    known = [size for *_, size in pieces if size is not None]
    typical = sum(known) // len(known) if known else 0  # for pieces of unknown size
    weights = [1 + (typical if size is None else size) for *_, size in pieces]
    mine = config.copy_and_resolve_references()
    mine.data.update(corpora={}, parallel={}, labelled={}, validation={})
    given = {kind: {one.stream: one for one in named_sources(config.data[kind])} for kind in ("corpora", "parallel")}
    mine.languages = run_languages(config)  # so that the names of pairs are understood without the other corpora
    before, seen = 0, set[tuple[str, str]]()
    for (kind, name, part, _), weight in zip(pieces, weights):
        if (2 * before + weight) * count // (2 * sum(weights)) == index:
            found = {one.stream: one.files for one in named_sources(mine.data[kind])} if kind in given else {}
            if name not in found and name in config.data.validation:
                held_out = () if (kind, name) in seen else config.data.validation[name]
                mine.data.validation = {**mine.data.validation, name: held_out}
            if kind in given:
                of = given[kind][name].of
                if of != name and of in config.data.validation:  # so that no fraction of its sources is held out
                    mine.data.validation = {of: (), **mine.data.validation}
                joined = (*found.get(name, ()), *part) if isinstance(part, tuple) else part
                mine.data[kind] = with_source(mine.data[kind], given[kind][name], joined)
            else:
                mine.data[kind] = {**mine.data[kind], name: part}
        seen.add((kind, name))
        before += weight
    return mine


def done_shard(config: ConfigDict, folder: str | Path, count: int) -> Store | None:
    """Return a finished shard, whose vocabulary and held-out text later shards use; None if there is none."""
    for index in range(count):
        if is_fresh(config, shard_folder(folder, index, count), or_older=False):
            return Store.open(shard_folder(folder, index, count))
    return None


def join_shards(config: ConfigDict, folder: str | Path, count: int, into: str | Path | None = None) -> None:
    """Join all shards into the store, and remove them.

    Args:
      config: config of the shards.
      folder: folder of the store, from which the shards have their names.
      count: number of shards.
      into: folder in which the store is written; None for ``folder``.

    Raises:
      UserError: a shard is missing, or was made of other text or with another vocabulary; the message names it.
    """
    shards = [_open(config, folder, index, count) for index in range(count)]
    for index, shard in enumerate(shards):
        if shard.manifest["vocabulary"] != shards[0].manifest["vocabulary"]:
            raise UserError(
                f"shards 0 and {index} of {count} have different vocabularies",
                file=shard.folder,
                remedy=f"delete it and run mlm-jax prepare --shard {index}/{count}, which takes that of shard 0",
            )
    streams = {name: stream for shard in shards for name, stream in reversed(shard.streams.items())}
    order = list(dict.fromkeys(name for shard in shards for name in shard.streams))
    skipped: dict[str, dict[str, int]] = {}
    for shard in shards:
        for name, reasons in shard.manifest["facts"]["skipped"].items():
            of_others = skipped.get(name, {})
            sums = of_others | {reason: of_others.get(reason, 0) + number for reason, number in reasons.items()}
            skipped[name] = dict(sorted(sums.items()))  # in the order in which a single process writes them
    filtered: dict[str, dict[str, list[int]]] = {}
    for counts in (shard.manifest["facts"].get("filters", {}) for shard in shards):
        for name, found in counts.items():
            of_before = filtered.setdefault(name, {})
            nothing = [0, 0, 0]
            of_before |= {
                step: [a + b for a, b in zip(of_before.get(step, nothing), numbers)] for step, numbers in found.items()
            }
    with StoreWriter(folder if into is None else into, shards[0].vocabulary, shards[0].languages) as writer:
        for name in order:
            for split in ("train", "validation"):
                for shard in shards:
                    if name in shard.streams and split in shard.streams[name].splits:
                        writer.extend(shard.streams[name], split)
            if streams[name].labels:
                writer.labels[name] = streams[name].labels
            if (rate := streams[name].rate) is not None:
                writer.rates[name] = rate
        check_streams(config, writer, skipped)
        writer.facts |= {"request": request(config), "skipped": skipped}
        writer.facts |= {"held_out": shards[0].manifest["facts"]["held_out"]}
        writer.held_out = shards[0].held_out
        if filtered:
            writer.facts["filters"] = filtered
            labels = [*dict.fromkeys(step for counts in filtered.values() for step in counts)]
            samples = {f"{shard.folder}/{DROPPED}": shard.file(DROPPED) for shard in shards}
            writer.files[DROPPED] = joined_samples(samples, labels)
    remove_shards(folder, count)


def remove_shards(folder: str | Path, count: int) -> None:
    """Remove the shards of a store that exist, and what killed processes left of others."""
    for index in range(count):
        path = shard_folder(folder, index, count)
        remove(path)
        if is_local(path):
            remove_abandoned(Path(path))
            Path(f"{path}.lock").unlink(missing_ok=True)
    parent = Path(shard_folder(folder, 0, count)).parent
    if parent.is_dir() and not any(parent.iterdir()):
        parent.rmdir()


def check_streams(config: ConfigDict, writer: StoreWriter, names: Iterable[str]) -> None:
    """Check that each stream has training examples, and validation examples if ``data.validation`` names text for it.

    Raises:
      UserError: a stream has none.
    """
    data, streams = config.data, writer.streams
    for name in names:
        if name not in streams:
            labelled = data.labelled.get(name, {}).get("train")
            trained = {one.stream: one.files for key in ("corpora", "parallel") for one in named_sources(data[key])}
            source = trained.get(name, data.validation.get(name, labelled))
            raise UserError(
                f"{name!r} has no examples after filtering", file=shown(source), remedy="check its files in config.data"
            )
        if name in data.validation and "validation" not in streams[name]:
            raise UserError(
                f"data.validation[{name!r}] has no text after filtering",
                file=shown(data.validation[name]),
                remedy="check the file, or leave it out and let data.validation_fraction hold out some text",
            )


def _pieces(config: ConfigDict) -> list[tuple[str, str, Any, int | None]]:
    """Return (key of config.data, name, source or tuple of one glob, bytes or None) of each piece, in order."""
    pieces: list[tuple[str, str, Any, int | None]] = []
    for kind, endings in (("corpora", corpora.TEXT_ENDINGS), ("parallel", corpora.PAIR_ENDINGS)):
        for name, _, _, source, _ in named_sources(config.data[kind]):
            if is_library(source):
                pieces.append((kind, name, source, None))
            elif kind == "parallel" and corpora.is_aligned(source):
                pieces.append((kind, name, list(source), sum(size for _, size, _ in fingerprint(source))))
            else:
                pieces += [(kind, name, (str(file),), file.stat().st_size) for file in files(source, endings)]
    for name, entry in config.data.labelled.items():
        pieces.append(("labelled", name, entry, None))
    for name in only_held_out(config):
        pieces.append(("validation", name, config.data.validation[name], None))
    return pieces


def _open(config: ConfigDict, folder: str | Path, index: int, count: int) -> Store:
    path, remedy = shard_folder(folder, index, count), f"run mlm-jax prepare --shard {index}/{count}"
    if is_local(path) and not Path(path, MANIFEST).exists():
        raise UserError(f"shard {index}/{count} is missing", file=path, remedy=remedy)
    shard = Store.open(path)
    if not is_fresh(config, path, or_older=False):
        raise UserError(f"shard {index}/{count} was made of other text or by another config", file=path, remedy=remedy)
    return shard
