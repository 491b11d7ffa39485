"""Small languages that are weighted up by sampling and by the loss's weights: the closed forms, and the warning in a run's log."""

import json

import numpy as np
import pytest

from mlm_jax.config import default_config
from mlm_jax.data.loading.loader import Loader
from mlm_jax.data.store.store import Store
from mlm_jax.data.store.writer import StoreWriter
from mlm_jax.data.vocabulary.pieces import Vocabulary
from mlm_jax.run.lift import lifts, warning
from mlm_jax.run.loop import train
from tests.tiny import tiny_config

TOKENS = {"en": 16_000, "sw": 1_000}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    vocabulary, folder = Vocabulary.bytes(tuple(TOKENS), 4), tmp_path_factory.mktemp("lift") / "store"
    with StoreWriter(folder, vocabulary, tuple(TOKENS)) as writer:
        for language, tokens in TOKENS.items():
            lines = np.random.default_rng(0).integers(100, 120, (tokens // 50, 49)).tolist()
            documents = {"inputs": [[*line, vocabulary.eos_id] for line in lines]}
            for split in ("train", "validation"):
                writer.add(language, "text", (language,), split, documents, characters=tokens, bytes=tokens)
    return folder


@pytest.mark.parametrize("alpha, sampling, weight", [(1.0, 1.0, 8.5), (0.5, 3.4, 2.5), (0.0, 8.5, 1.0)])
def test_lifts_are_shares_over_shares(store, alpha, sampling, weight):
    """sw has 1/17 of the text; its share becomes 1/17, 1/5, 1/2 and its tokens' weight (1/2) over that."""
    config = default_config()
    config.mixing.alpha = alpha
    config.tasks = {"mlm": {"objective": "mlm", "rows": 4, "length": 16}}
    found = lifts(Loader(Store.open(store), config, {"mlm": "text"}), "mlm", 0)
    assert found["sw"] == pytest.approx((sampling, weight), rel=1e-6)
    assert found["en"][0] * found["en"][1] == pytest.approx(17 / 16 / 2)
    assert bool(warning(found)) == (alpha == 0.5)  # else only one of the two lifts
    if alpha == 0.5:
        assert (
            "sw 3.4 × 2.5 = 8.5" in warning(found) and "en" not in warning(found).split("normalize): ")[1].split(";")[0]
        )


@pytest.mark.parametrize("normalize", ["per_language", "token"])
def test_a_run_says_so_and_logs_the_product(store, tmp_path, capsys, normalize):
    config = tiny_config(store, steps=3)
    config.tasks = {"mlm": {"objective": "mlm", "rows": 4, "length": 16, "mask_rate": 0.3}}
    config.training.normalize, config.mixing.alpha, config.evaluation.pairs = normalize, 0.5, 1
    train(config, tmp_path / "run")
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = {key: value for event in events for key, value in event.items() if "/lift/" in key}
    said = "weighted up twice" in " ".join(capsys.readouterr().out.split())
    assert said == (normalize == "per_language")
    assert logged == (pytest.approx({"plan/mlm/lift/en": 17 / 32, "plan/mlm/lift/sw": 8.5}) if said else {})
