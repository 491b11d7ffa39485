"""The real gcloud and kubectl, if they are installed, know every command of the golden files; nobody is logged in to them.

A command line that they do not know is refused before they ask for an account or a cluster.
"""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
pytestmark = pytest.mark.slow


def commands(program):
    """Every command of a program in the golden files, those with the same options once."""
    lines = [
        line[2:] for file in sorted(GOLDEN.glob("*.txt")) for line in file.read_text().splitlines() if line[:2] == "$ "
    ]
    found = [words for words in map(shlex.split, lines) if words[0] == program]
    kinds = {tuple(word for word in words if not re.search("[/=:]", word))[:40]: words for words in found}
    return list(
        {(*kind[:6], *(word for word in kind if word[0] == "-")): words for kind, words in kinds.items()}.values()
    )


def said_by(command, tmp_path):
    environment = os.environ | {
        "CLOUDSDK_CONFIG": str(tmp_path),
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        "KUBECONFIG": "none",
    }
    return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120).stderr


@pytest.mark.skipif(not shutil.which("gcloud"), reason="gcloud is not installed")
def test_gcloud(tmp_path):
    found = commands("gcloud")
    assert len(found) > 10
    for command in found:
        assert "You do not currently have an active account selected" in said_by(command, tmp_path), command
    wrong = [word for word in found[0] if word != "ls"] + ["--no-such-option"]
    assert "active account" not in said_by(wrong, tmp_path)


@pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")
def test_kubectl(tmp_path):
    from mlm_jax.parallel.topology import parse
    from tpu import gke
    from tpu.job import Job

    job = Job("name", "c.py", "run", parse("v5e:4x4"), bucket="b", namespace="n")
    (tmp_path / "name.yaml").write_text("kind: List\napiVersion: v1\nitems: []\n")
    applied = [("kubectl", "apply", "-f", "name.yaml")]
    for command in [gke.status(job), gke.logs(job), gke.stop(job), *applied]:
        assert not re.search("unknown|Usage|invalid", said := said_by(command, tmp_path)), (command, said)
    assert "unknown flag" in said_by((*gke.status(job), "--no-such-option"), tmp_path)
