"""mmBERT's three phases as ``configs/mmbert.py`` has them: the languages, rates and masks that batches really have."""

from pathlib import Path

import jax
import numpy as np
import pytest

from mlm_jax.config import load_config
from mlm_jax.data.loading import curriculum
from mlm_jax.data.loading.loader import Loader
from mlm_jax.objectives import create_objectives
from mlm_jax.training.cost import in_phase
from tests.data.stores import documents, write
from tests.objectives.helpers import make_context

CONFIG = Path(__file__).parents[2] / "configs" / "mmbert.py"
# (exponent, mask rate) of each phase; Marone et al. 2025, section 3.
PUBLISHED = [(0.7, 0.30), (0.5, 0.15), (0.3, 0.05)]


def phases_of(config, languages):
    """Return the config's phases, those of the batch's warm-up and the rest of pre-training as one list."""
    first, *middle, second, decay = curriculum.resolve(config, languages)
    return [[first, *middle], [second], [decay]]


def test_languages_join_as_published(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(1833 - 109):
        (tmp_path / "text" / f"x{number:04}").mkdir(parents=True)
    (tmp_path / "text" / "deu").mkdir()  # of the first phase; found once
    config = load_config(CONFIG)
    languages = tuple(config.data.corpora)
    groups = phases_of(config, languages)
    read = [[set(phase.languages) for phase in group] for group in groups]
    assert [len(found - {"code"}) for group in read for found in group] == [60] * len(read[0]) + [109, 1833]
    assert read[0][0] < read[1][0] < read[2][0] == set(languages)  # all are in the vocabulary from the start
    for group, (alpha, rate) in zip(groups, PUBLISHED):
        assert {(phase.alpha, phase.mask_rate("mlm", 0.9)) for phase in group} == {(alpha, rate)}
    steps = [sum(phase.stop_step - phase.start_step for phase in group) for group in groups]
    assert steps[1:] == pytest.approx([6e11 / (4608 * 1024), 1e11 / (4608 * 1024)], rel=1e-4)
    tokens = sum(
        (p.stop_step - p.start_step) * p.rows("mlm", "text", 4608) * p.length("mlm", "text", 1024) for p in groups[0]
    )
    assert tokens == pytest.approx(2.3e12, rel=1e-4)


def test_batches_have_the_languages_rates_and_masks_of_their_phase(tmp_path):
    config = load_config(f"{CONFIG}:bible")
    config.tasks = {"mlm": {**config.tasks["mlm"], "rows": 64}}
    sizes = {language: 4000 * 2**number for number, language in enumerate(config.languages)}  # tokens
    streams = {
        language: ("text", [language], {"train": {"inputs": documents([50] * (size // 50), size)}})
        for language, size in sizes.items()
    }
    loader = Loader(write(tmp_path / "store", streams, config.languages), config, {"mlm": "text"})
    (objective,) = create_objectives(config.tasks).values()
    for group, (alpha, rate) in zip(phases_of(config, config.languages), PUBLISHED):
        phase = group[-1]
        read = [language for language in config.languages if language in phase.languages]
        wanted = np.array([sizes[language] ** alpha for language in read])
        realised = loader.realised_shares("mlm", phase.start_step, phase.stop_step)
        assert {language for language, share in realised.items() if share} == {*read}
        rows = phase.rows("mlm", "text", 64) * (phase.stop_step - phase.start_step)
        np.testing.assert_allclose([realised[language] for language in read], wanted / wanted.sum(), atol=3 / rows)
        batch = loader.batch(phase.start_step)["mlm"]["inputs"]
        masked = in_phase(objective, phase).mask(jax.random.key(0), batch, make_context(1000, 8))
        length = phase.length("mlm", "text", 64)
        chosen = (
            masked.chosen.sum(axis=1) / length
        )  # [rows]; special tokens are not masked, and a part of a token is not
        np.testing.assert_allclose(np.asarray(chosen), rate, atol=1.0 / length + 0.1 * rate)
        np.testing.assert_array_equal(batch.tokens.shape[1], length)
