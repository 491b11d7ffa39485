"""The examples or the error of a reader."""

import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.data.text import corpora


def texts(source, **options):
    return [*corpora.documents(source if isinstance(source, tuple) else str(source), "de", "train", **options)]


def pairs(source, **options):
    return [*corpora.sentence_pairs(source if isinstance(source, tuple) else str(source), "de-en", "train", **options)]


def refused(read, *arguments, **options):
    """The message of the UserError that reading raises: one line."""
    with pytest.raises(UserError) as caught:
        read(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
