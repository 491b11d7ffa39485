"""Checks, before machines are paid for, that they will have the text or token store and the other files that the run reads."""

from __future__ import annotations

import fnmatch
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from ml_collections import ConfigDict

from mlm_jax.common.addresses import is_local
from mlm_jax.common.errors import UserError
from mlm_jax.config.sources import named_sources
from tpu.job import Job
from tpu.shell import CommandFailed, Shell

MANIFEST = "manifest.json"  # file that every token store has


# Parts of a config that need an extra: functions and libraries of sources, filters, and objectives evaluated by libraries.
EXTRAS_OF_SOURCES = {"mlm_jax.data.bible": "demo", "datasets": "datasets"}
EXTRAS_OF_FILTERS = {"near_duplicates": "filters", "language": "filters"}
EXTRAS_OF_OBJECTIVES = {"token_classification": "metrics", "translation": "metrics"}


def extras_of(config: ConfigDict) -> tuple[str, ...]:
    """Return the extras of the package that a config needs on the machines, as far as the config shows it."""
    found = {"wandb"} if config.training.wandb else set()
    found |= {EXTRAS_OF_OBJECTIVES.get(task["objective"], "") for task in config.tasks.values()}
    if not config.data.store:
        found |= {EXTRAS_OF_SOURCES.get(entry.partition(":")[0], "") for _, entry in sources(config)}
        named = (one["filter"] if isinstance(one, Mapping) else one for one in config.data.filters)
        found |= {EXTRAS_OF_FILTERS.get(name, "") for name in named}
    return tuple(sorted(found - {""}))


def check_files(config: ConfigDict, job: Job) -> None:
    """Check that machines which get a checkout and a mounted bucket have every file that the config names.

    Raises:
      UserError: a file would be missing.
    """
    mount = f"{job.mount.rstrip('/')}/"
    local = [(key, path) for key, path in named_files(config) if is_local(path) and not path.startswith(mount)]
    kept = copied_files(job.source) if local else []
    for key, path in local:
        if not any(fnmatch.fnmatch(file, path) or file.startswith(f"{path.rstrip('/')}/") for file in kept):
            text = key.startswith("data.") and key != "data.store"
            remedy = (
                f"put it below the bucket, as {job.mount}/…"
                if not text
                else (
                    f"put the text below the bucket, as {job.mount}/…, or prepare a token store there with mlm-jax prepare "
                    f"and add --set data.store={job.mount}/store"
                )
            )
            raise UserError(
                f"{key} names {path!r}, which the machines would not have: it is neither in the checkout nor below "
                f"{job.mount}",
                remedy=remedy,
            )


def check_store(job: Job, shell: Shell) -> None:
    """Check that the token store exists in the bucket, by listing its manifest.

    Raises:
      UserError: the store does not exist, or the bucket cannot be read.
    """
    mount = f"{job.mount.rstrip('/')}/"
    if not job.store or (is_local(job.store) and not job.store.startswith(mount)):  # none, or one in the checkout
        return
    address = f"gs://{job.bucket}/{job.store.removeprefix(mount)}" if is_local(job.store) else job.store
    command = ("gcloud", "storage", "ls") if address.startswith("gs://") else ("aws", "s3", "ls")
    try:
        shell.run((*command, f"{address.rstrip('/')}/{MANIFEST}"))
    except CommandFailed as failure:
        raise UserError(
            f"there is no token store at {address}, or it cannot be read: {failure.reason()}",
            remedy="prepare it (mlm-jax prepare), or check that this account may read the bucket",
        ) from failure


def check_image(job: Job, shell: Shell) -> None:
    """Check that a container image exists in Google's Artifact Registry; images of other registries are not checked.

    Raises:
      UserError: the image does not exist.
    """
    if "-docker.pkg.dev/" not in job.image:
        return
    try:
        shell.run(
            (
                "gcloud",
                "artifacts",
                "docker",
                "images",
                "describe",
                job.image,
                "--format",
                "value(image_summary.digest)",
            )
        )
    except CommandFailed as failure:
        raise UserError(
            f"there is no image {job.image}, or it cannot be read: {failure.reason()}",
            remedy="build the Dockerfile and push it, or check that this account may read the registry",
        ) from failure


def named_files(config: ConfigDict) -> Iterator[tuple[str, str]]:
    """Yield (key, path or glob) of all files and folders that a run of this config reads."""
    if config.data.store:
        yield "data.store", config.data.store
    else:
        yield from ((key, entry) for key, entry in sources(config) if ":" not in entry or "://" in entry)
        if config.vocabulary.path:
            yield "vocabulary.path", config.vocabulary.path
    if config.checkpoint.init.get("from"):
        yield 'checkpoint.init["from"]', config.checkpoint.init["from"]


def sources(config: ConfigDict) -> Iterator[tuple[str, str]]:
    """Yield (key, source) for all text that a config names; a source is a path, glob, function or data set of a library."""
    found = [
        (f"data.{key}.{source.stream}", source.files)
        for key in ("corpora", "parallel")
        for source in named_sources(config.data[key])
    ]
    found += [(f"data.validation.{name}", files) for name, files in config.data.validation.items()]
    found += [
        (f"data.labelled.{name}", entry[split])
        for name, entry in config.data.labelled.items()
        for split in ("train", "validation")
        if entry.get(split)
    ]
    for key, files in found:
        yield from ((key, entry) for entry in ((files,) if isinstance(files, str) else files))


def copied_files(source: str) -> list[str]:
    """Return the files of a folder that are copied to the machines: in a git checkout those that git does not ignore, else all."""
    command = ("git", "-C", source, "ls-files", "-coz", "--exclude-standard")
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # git is not installed
        listed = None
    if listed is not None and listed.returncode == 0:
        return listed.stdout.split("\0")
    return [str(file.relative_to(source)) for file in Path(source).rglob("*") if file.is_file()]


def check_here(config: ConfigDict, job: Job) -> None:
    """Check that files exist here if the machines read them from the same file system.

    Raises:
      UserError: a file does not exist.
    """
    root = Path(job.source)
    for key, path in named_files(config):
        if is_local(path) and not any(
            root.glob(path) if not Path(path).is_absolute() else Path("/").glob(path.lstrip("/"))
        ):
            raise UserError(
                f"{key} names {path!r}, which does not exist", file=root, remedy="see config.data in the config file"
            )
