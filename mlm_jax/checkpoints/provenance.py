"""Provenance of a run: command, code, packages and machine, one line for each start."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

import mlm_jax
from mlm_jax.common.errors import UserError
from mlm_jax.common.files import append_to
from mlm_jax.common.foreign_files import MOST_JSON, check_characters, check_file

FILE = "provenance.jsonl"
PACKAGES = (
    "jax",
    "jaxlib",
    "libtpu",
    "flax",
    "optax",
    "orbax-checkpoint",
    "tensorstore",
    "numpy",
    "sentencepiece",
    "seqio",
    "tensorflow",
    "transformers",
)
GIT_SECONDS = 20  # the longest wait for git


def provenance(step: int, arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Return this process's command, code, packages and machine, as JSON values.

    Args:
      step: the step at which the run begins or continues.
      arguments: the arguments of the command; this process's own if not given.

    Returns:
      {"step", "time", "command", "folder", "code", "project", "python", "packages", "host", "system", "devices", "processes"};
      ``code`` is the git state of the package, ``project`` that of the working directory if it is another checkout.
    """
    code, project = git_state(Path(mlm_jax.__file__).parent), git_state(Path.cwd())
    devices = jax.devices()
    return {
        "step": step,
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime()),
        "command": shlex.join(sys.argv if arguments is None else arguments),
        "folder": str(Path.cwd()),
        "code": code,
        "project": None if project is None or (code is not None and project["root"] == code["root"]) else project,
        "python": platform.python_version(),
        "packages": {"mlm_jax": mlm_jax.__version__}
        | {name: version for name in PACKAGES if (version := installed(name))},
        "host": socket.gethostname(),
        "system": platform.platform(),
        "devices": f"{len(devices)} × {devices[0].device_kind}",
        "processes": jax.process_count(),
    }


def installed(package: str) -> str | None:
    """Return the version of an installed package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return {"root", "commit", "dirty": files that differ from the commit}; None outside of a git checkout, or without git."""
    root, commit = git(folder, "rev-parse", "--show-toplevel"), git(folder, "rev-parse", "HEAD")
    changed = git(folder, "status", "--porcelain", "--untracked-files=no")
    if root is None or commit is None or changed is None:
        return None
    return {"root": root, "commit": commit, "dirty": [line[3:] for line in changed.splitlines()]}


def git(folder: Path, *arguments: str) -> str | None:
    """Return the output of a git command in a folder; None if it fails."""
    try:
        # Without optional locks, git writes nothing: killed, it would leave a lock in the user's checkout.
        command = ("git", "--no-optional-locks", "-C", str(folder), *arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip("\n") if done.returncode == 0 else None


def record(workdir: Path, step: int) -> None:
    """Append a line for this start of a run to WORKDIR/provenance.jsonl."""
    with append_to(workdir / FILE) as file:
        file.write(json.dumps(provenance(step), ensure_ascii=False) + "\n")


def read_provenance(workdir: Path) -> list[dict[str, Any]]:
    """Return the starts of a run, in order; [] if none was recorded. An incomplete last line, after a crash, is ignored.

    Raises:
      UserError: the file is damaged.
    """
    file = workdir / FILE
    if not file.exists():
        return []
    check_file(file, MOST_JSON)
    *lines, _ = file.read_bytes().split(b"\n")
    starts = []
    for number, line in enumerate(lines, start=1):
        try:
            start = json.loads(line)
            check_characters(line, start)
            if type(start["step"]) is not int or not isinstance(start["command"], str):
                raise ValueError("no step and command")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                "this line does not describe the start of a run", file=file, line=number, remedy="delete the line"
            ) from error
        starts.append(start)
    return starts
