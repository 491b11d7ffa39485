import pytest

from tests.tiny import tiny_config, write_store


@pytest.fixture(scope="session")
def store_folder(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "store")


@pytest.fixture
def config(store_folder):
    return tiny_config(store_folder)
