"""A fake gcloud that fails on demand, and a secret in the environment."""

import json
import os
import sys

import pytest

from tests.tpu.launches import ROOT, SECRET

PYTHON = f"#!{sys.executable} -IS"  # a stand-in starts much faster if Python searches for no packages

# A gcloud that records its arguments, answers like the real one, and fails at the commands that FAIL names: {words: [exit code,
# what it prints, how many times]}.
GCLOUD = """
import json, os, sys
folder = os.environ["GCLOUD_FOLDER"]
words = " ".join(sys.argv[1:])
with open(f"{folder}/calls", "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
with open(f"{folder}/fail.json") as file:
    failures = json.load(file)
for fragment, failure in failures.items():
    if fragment in words and failure[2] > 0:
        failure[2] -= 1
        with open(f"{folder}/fail.json", "w") as file:
            json.dump(failures, file)
        print(failure[1], file=sys.stderr)
        sys.exit(failure[0])
if "describe" in words:
    print(open(f"{folder}/state").read())
"""


@pytest.fixture
def secret(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)


@pytest.fixture
def gcloud(tmp_path, monkeypatch):
    """Put the stand-in on PATH; returns (fail, calls, set the state)."""
    program = tmp_path / "bin" / "gcloud"
    program.parent.mkdir()
    program.write_text(PYTHON + GCLOUD)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("GCLOUD_FOLDER", str(tmp_path))
    monkeypatch.chdir(ROOT)
    (tmp_path / "fail.json").write_text("{}")
    (tmp_path / "state").write_text("READY")

    class Stand:
        def fail(self, fragment, code, text, times=1):
            (tmp_path / "fail.json").write_text(json.dumps({fragment: [code, text, times]}))

        def state(self, state):
            (tmp_path / "state").write_text(state)

        def calls(self):
            lines = (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []
            return [" ".join(json.loads(line)) for line in lines]

        def verbs(self):
            known = ("create", "scp", "ssh", "describe", "delete")
            found = (next((word for word in call.split() if word in known), "") for call in self.calls())
            return [verb for verb in found if verb]

    return Stand()
