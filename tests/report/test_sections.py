import json

import numpy as np
import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.report.sections import (
    load_sections,
    map_section,
    plain,
    principal_components,
    retrieval_section,
    save_sections,
)


def test_sections_come_back_as_they_were(tmp_path):
    matrix = np.array([[np.nan, 0.123456789], [0.5, np.nan]])
    config = default_config().to_dict()
    retrieval = retrieval_section({"csls": matrix}, ("de", "fr"), 10, 5)
    save_sections(tmp_path, {"languages": ("de", "fr"), "retrieval": retrieval, "config": config})
    sections = load_sections(tmp_path)
    assert sections["languages"] == ["de", "fr"]
    assert sections["retrieval"]["scores"]["csls"] == [[None, 0.12346], [0.5, None]]
    assert sections["config"]["optimizer"]["betas"] == [0.9, 0.98]
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_section_that_no_page_shows_is_a_mistake(tmp_path):
    with pytest.raises(ValueError, match="has the sections"):
        save_sections(tmp_path, {"languages": ["de"], "tables": []})
    with pytest.raises(ValueError, match="needs languages"):
        save_sections(tmp_path, {"title": "x"})
    with pytest.raises(TypeError, match="cannot be written to report.json"):
        plain({"x": object()})


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "not been evaluated"), ("{", "not JSON"), ("{}", "no languages")]
)
def test_missing_and_damaged_files_are_named(tmp_path, content, problem):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(UserError, match=problem) as raised:
        load_sections(tmp_path)
    assert "report.json" in str(raised.value)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="/none: there is no such folder"):
        load_sections(tmp_path / "none")


def test_principal_components_equal_the_singular_value_decomposition():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 7)) * np.arange(1, 8) + 5.0
    points, explained = principal_components(vectors)
    u, s, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(points), np.abs(u[:, :2] * s[:2]), rtol=1e-8)
    assert explained == pytest.approx((s[:2] ** 2).sum() / (s**2).sum())
    np.testing.assert_allclose(principal_components(vectors.copy())[0], points)


def test_the_centred_map_takes_the_languages_apart_from_their_meaning():
    """Two languages that differ by a constant only: raw they lie apart, centred their sentences coincide."""
    rng = np.random.default_rng(1)
    meaning = rng.normal(size=(50, 6))
    embeddings = {"de": meaning, "hi": meaning + np.array([9.0, 0, 0, 0, 0, 0])}
    texts = {code: [f"{code} {row}" for row in range(50)] for code in embeddings}
    section = map_section(embeddings, texts, sentences=5)
    assert section["texts"]["hi"] == ["hi 0", "hi 12", "hi 24", "hi 36", "hi 49"]

    def distance(name):
        points = section[name]["points"]
        return np.abs(points["de"] - points["hi"]).mean()

    assert section["raw"]["points"]["de"].shape == (5, 2)
    assert distance("centred") < distance("raw")
    json.dumps(plain(section))
