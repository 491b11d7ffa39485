import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlm_jax.common.seal import SEAL, sealed, unsealed

VALUES = st.dictionaries(
    st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists), max_size=4
)


@given(VALUES, st.data())
def test_every_flipped_bit_is_noticed_or_changes_nothing(values, data):
    values.pop(SEAL, None)
    content = bytearray(json.dumps(sealed(values), ensure_ascii=False).encode(errors="surrogatepass"))
    assert unsealed(json.loads(content)) == values
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = unsealed(json.loads(content))
    except (ValueError, TypeError):
        return
    assert found == values or SEAL not in json.loads(content)  # a flip in the seal's own name changes nothing else


def test_what_older_versions_wrote_is_taken_as_it_is():
    assert unsealed({"a": 1}) == {"a": 1}
    with pytest.raises(ValueError, match="its checksum differs"):
        unsealed(sealed({"a": 1}) | {"a": 2})
