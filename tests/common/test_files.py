import pytest

from mlm_jax.common.files import write_whole


def test_a_text_that_cannot_be_written_whole_leaves_the_old_one(tmp_path):
    file = tmp_path / "config.json"
    write_whole(file, "old ü")
    with pytest.raises(UnicodeEncodeError):
        write_whole(file, "new, then half a surrogate pair: \ud800")
    assert file.read_text(encoding="utf-8") == "old ü"
    assert list(tmp_path.iterdir()) == [file]
