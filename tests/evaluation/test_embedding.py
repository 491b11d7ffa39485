import numpy as np
import pytest

from mlm_jax.evaluation.embedding import cut_document, document_batches, document_rows, embed_documents


def documents(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(5, 50, length).astype(np.int32) for length in lengths]


def mean_token(rows):
    """An encoder whose answer does not depend on padding, neighbours or the order of documents."""
    real = rows.segment_ids > 0
    mean = (rows.tokens * real).sum(axis=1) / np.maximum(real.sum(axis=1), 1)
    return np.stack([mean, rows.language], axis=1)


def test_every_document_is_in_one_batch_that_it_fits():
    lengths = np.random.default_rng(0).integers(1, 200, 300)
    batches = list(document_batches(lengths, 128, multiple=4, tokens=1024))
    assert sorted(np.concatenate([batch.indices for batch in batches])) == list(range(300))
    for batch in batches:
        assert len(batch.indices) <= batch.rows
        assert batch.rows % 4 == 0
        assert batch.rows * batch.length <= 1024
        assert (np.minimum(lengths[batch.indices], 128) <= batch.length).all()


def test_shapes_are_few_however_many_documents_there_are():
    lengths = np.random.default_rng(1).integers(1, 3000, 5000)
    shapes = {(batch.rows, batch.length) for batch in document_batches(lengths, 2048, tokens=4096)}
    assert len(shapes) <= 2 * 8  # widths 16 … 2048


def test_one_short_text_does_not_cost_a_whole_batch():
    (batch,) = document_batches([5], 512, tokens=16_384)
    assert (batch.rows, batch.length) == (128, 16)


def test_embeddings_come_back_in_the_order_of_the_documents():
    texts = documents(np.random.default_rng(2).integers(1, 90, 77))
    languages = [i % 3 for i in range(77)]
    embedded = embed_documents(mean_token, texts, languages, longest=64, pad_id=0, multiple=8)
    expected = [cut_document(text, 64).mean() for text in texts]
    np.testing.assert_allclose(embedded[:, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(embedded[:, 1], languages)


def test_a_document_that_is_too_long_keeps_its_last_token():
    assert cut_document(np.arange(10), 4).tolist() == [0, 1, 2, 9]
    assert cut_document(np.arange(4), 4).tolist() == [0, 1, 2, 3]


def test_rows_hold_one_document_each_and_padding_is_no_segment():
    texts = documents([3, 5])
    (batch,) = document_batches([3, 5], 32, tokens=1024)
    rows = document_rows(texts, [2, 1], batch, pad_id=9)
    first = int(np.flatnonzero(batch.indices == 0)[0])
    assert rows.tokens[first, :4].tolist() == [*texts[0], 9]
    assert rows.segment_ids[first].sum() == 3
    assert rows.positions[first, :4].tolist() == [0, 1, 2, 0]
    assert rows.language[first] == 2
    assert rows.segment_ids[2:].sum() == 0


def test_nothing_cannot_be_embedded():
    with pytest.raises(ValueError, match="no document"):
        embed_documents(mean_token, [], [], longest=8, pad_id=0)
