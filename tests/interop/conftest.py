"""A published model."""

import pytest

from tests.interop.published import published


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good") / "model"
    published(folder, "modernbert")
    return folder
