"""Untrusted text: prepare refuses hostile text with a one-line error and leaves no output."""

import pytest

from tests.hostile.corpora import LABELLED, PAIRS, TEXTS
from tests.hostile.limits import refused_after_progress

CASES = TEXTS | PAIRS | LABELLED
CONFIG = """from mlm_jax.config import default_config

def get_config():
    config = default_config()
    config.data.update({data!r})
    config.data.validation_fraction = 0.0
    config.vocabulary.kind = "bytes"
    return config
"""


@pytest.mark.parametrize("name", CASES)
def test_hostile_text_is_refused(tmp_path, capfd, name):
    folder = tmp_path / "text"
    folder.mkdir()
    config = tmp_path / "config.py"
    config.write_text(CONFIG.format(data=CASES[name](folder)))
    said = refused_after_progress(capfd, "prepare", "--config", config, "--workdir", tmp_path / "run")
    assert not (tmp_path / "run" / "store").exists()
    assert "passwd" not in said or "root:" not in said
    assert not [*tmp_path.glob("run/*.incomplete")]
