from pathlib import Path

import pytest

from mlm_jax.common.addresses import is_local, refuse_address, refuse_to_read
from mlm_jax.common.errors import UserError


def test_addresses_are_told_from_paths():
    assert is_local("runs/mine") and is_local(Path("/runs")) and not is_local("gs://bucket/run")


@pytest.mark.parametrize("place", ["gs://bucket/run", "s3://bucket/run", Path("gs://bucket/run"), "file:///runs"])
def test_an_address_is_refused_where_a_file_is_written(place):
    with pytest.raises(UserError, match="address of an object store.* Remedy: name a folder, and copy it"):
        refuse_address(place)


@pytest.mark.parametrize("place", ["gs://bucket/a.txt", Path("s3://bucket/a.txt"), "https://example.org/a.txt"])
def test_an_address_is_refused_where_a_file_is_read(place):
    with pytest.raises(UserError, match="this is an address.* Remedy: copy it to this machine"):
        refuse_to_read(place)


def test_a_folder_is_not_refused(tmp_path):
    for refuse in (refuse_address, refuse_to_read):
        refuse(tmp_path)
        refuse("gs/run")
