"""The record of a run in its workdir: command, code, packages and machine."""

import json
import os
import subprocess
import sys

import jax
import pytest

from mlm_jax.checkpoints.provenance import git_state, provenance, read_provenance, record
from mlm_jax.common.errors import UserError


def checkout(folder):
    folder.mkdir()
    commands = (
        "git init -q .",
        "git config user.email a@b",
        "git config user.name c",
        "touch kept",
        "git add .",
        "git commit -qm x",
    )
    subprocess.run(" && ".join(commands), shell=True, cwd=folder, check=True)
    return folder


def test_the_state_of_a_checkout(tmp_path):
    folder = checkout(tmp_path / "a")
    head = subprocess.run(("git", "rev-parse", "HEAD"), cwd=folder, capture_output=True, text=True).stdout.strip()
    assert git_state(folder) == {"root": str(folder), "commit": head, "dirty": []}
    (folder / "kept").write_text("changed")
    (folder / "untracked").touch()
    assert git_state(folder)["dirty"] == ["kept"]
    assert git_state(tmp_path / "none") is None


def test_looking_at_a_checkout_writes_nothing_into_it(tmp_path):
    """Git would refresh its index under a lock, which it leaves there if it is killed."""
    folder = checkout(tmp_path / "a")
    os.utime(folder / "kept", (1, 1))
    (folder / ".git" / "index.lock").touch()
    before = (folder / ".git" / "index").stat()
    assert git_state(folder)["dirty"] == []
    (folder / ".git" / "index.lock").unlink()
    assert git_state(folder)["dirty"] == []
    assert (folder / ".git" / "index").stat().st_ino == before.st_ino


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    folder = checkout(tmp_path / "a")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(folder) is None


def test_every_start_is_a_line(tmp_path, monkeypatch):
    monkeypatch.chdir(checkout(tmp_path / "project"))
    monkeypatch.setattr(sys, "argv", ["mlm-jax", "train", "--set", "a='b c'"])
    record(tmp_path, 0)
    record(tmp_path, 7)
    with (tmp_path / "provenance.jsonl").open("a") as file:
        file.write('{"step": 9, "com')  # killed in the middle of a line
    first, second = read_provenance(tmp_path)
    assert (first["step"], second["step"]) == (0, 7)
    assert (
        first["command"] == "mlm-jax train --set 'a='\"'\"'b c'\"'\"''" and first["packages"]["jax"] == jax.__version__
    )
    assert first["project"]["root"] == str(tmp_path / "project") and first["devices"].startswith(
        f"{len(jax.devices())} × "
    )
    assert json.loads(json.dumps(first)) == first
    assert read_provenance(tmp_path / "elsewhere") == []


def test_the_package_and_the_working_directory_of_one_checkout_are_named_once(request, monkeypatch):
    monkeypatch.chdir(request.config.rootpath)
    assert provenance(0, ["x"])["project"] is None


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "provenance.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="provenance.jsonl:1: this line does not describe the start"):
        read_provenance(tmp_path)
