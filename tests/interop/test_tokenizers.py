"""Tokenizers in both directions: the same ids on ten thousand sentences in twelve languages."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models, processors
from transformers import AutoTokenizer

from mlm_jax.common.errors import UserError
from mlm_jax.data.vocabulary.folder import load_vocabulary
from mlm_jax.data.vocabulary.pieces import Vocabulary
from mlm_jax.data.vocabulary.published import PublishedVocabulary
from mlm_jax.inference.encoder import encode_masked
from mlm_jax.interop.exporting import write_tokenizer
from mlm_jax.interop.published_tokenizer import around, read_vocabulary, smallest_multiple
from tests.interop.published import LANGUAGES, TOKENIZERS, our_vocabulary, sentences

STEP = 36  # of 31,102 verses in twelve languages: 10,368 sentences
ODD = [
    "",
    " ",
    "  two   spaces ",
    "ﬁ ½ Å e\u0301 🙂 👨‍👩‍👧",
    "\u00a0no-break\u3000wide\ttab\nline",
    "𐍈 ꙮ",
    "क\u094dष \u200d",
    "▁a ▁",
]


@pytest.mark.parametrize("kind", ["unigram", "bpe", "bytes"])
def test_ours_in_transformers(kind, tmp_path):
    """AutoTokenizer gives our ids, between the prefix and the end that our documents have, and our text back."""
    if kind == "bytes":
        ours = Vocabulary.bytes(LANGUAGES, sentinels=3)
    else:
        ours = our_vocabulary(LANGUAGES, kind)
    prefix = ours.document_prefix("language", "de")
    write_tokenizer(tmp_path, ours, prefix, 512)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert len(theirs) == ours.size and theirs.model_max_length == 512
    texts = [*sentences(STEP), *(ODD if kind != "bytes" else [text.strip() for text in ODD])]
    assert len(texts) > 10_000
    expected = ours.encode_batch(texts)
    assert theirs(texts)["input_ids"] == [[*prefix, *ids, ours.eos_id] for ids in expected]
    sample = expected[::100]
    assert theirs.batch_decode(sample, skip_special_tokens=True, clean_up_tokenization_spaces=False) == [
        ours.decode(ids) for ids in sample
    ]
    for role in ("pad", "eos", "unk", "mask"):
        assert getattr(theirs, f"{role}_token_id") == getattr(ours, f"{role}_id")
    assert theirs.cls_token_id == prefix[0] and theirs.sep_token_id == ours.eos_id


@pytest.mark.parametrize(
    "text", ["Hello <mask> world.", "<2de>Hallo", "<2de> Hallo <mask>.", "a<mask>b", "<extra_id_0> x <extra_id_1>"]
)
def test_special_pieces_in_text(text, tmp_path):
    ours = our_vocabulary(LANGUAGES)
    write_tokenizer(tmp_path, ours, [], 512)
    theirs = AutoTokenizer.from_pretrained(tmp_path)(text, add_special_tokens=False)["input_ids"]
    assert theirs == ours.encode_special(text)
    if "<mask> " in text:  # fill-mask reads the same; without the space, it continues the word
        assert theirs[theirs.index(ours.mask_id) :] == encode_masked(ours, text[text.index("<mask>") :])


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_theirs_here_and_back(kind, tmp_path):
    """A published tokenizer read here gives transformers' ids, after saving too, and again when it is written."""
    rows = TOKENIZERS[kind](tmp_path)
    (tmp_path / "config.json").write_text(f'{{"model_type": "{kind}"}}')
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ours = read_vocabulary(tmp_path, kind, rows, {})
    assert ours.size == len(theirs) == rows
    texts = [*sentences(STEP), *ODD]
    expected = theirs(texts, add_special_tokens=False)["input_ids"]
    assert ours.encode_batch(texts) == expected
    ours.save(tmp_path / "saved")
    again = load_vocabulary(tmp_path / "saved")
    assert isinstance(again, PublishedVocabulary) and again.fingerprint == ours.fingerprint
    assert again.encode_batch(texts[:50]) == expected[:50]
    (tmp_path / "written").mkdir()
    write_tokenizer(tmp_path / "written", ours, ours.document_prefix("bos" if ours.bos_id >= 0 else "none", ""), 64)
    written = AutoTokenizer.from_pretrained(tmp_path / "written")
    assert written(texts[:500])["input_ids"] == theirs(texts[:500])["input_ids"]
    assert written.mask_token_id == theirs.mask_token_id and written.pad_token_id == theirs.pad_token_id == ours.pad_id


def test_facts_of_a_published_vocabulary(tmp_path):
    for kind in TOKENIZERS:
        (tmp_path / kind).mkdir()
    roberta = read_vocabulary(
        tmp_path / "xlm-roberta", "xlm-roberta", TOKENIZERS["xlm-roberta"](tmp_path / "xlm-roberta"), {}
    )
    assert (roberta.bos_id, roberta.pad_id, roberta.eos_id, roberta.unk_id) == (0, 1, 2, 3)
    assert roberta.mask_id == roberta.size - 1 and {0, 1, 2, 3, roberta.mask_id} == set(roberta.special_ids)
    starts = [piece.startswith("▁") for piece in roberta.pieces(range(4, roberta.mask_id))]
    assert roberta.word_starts[4:-1].tolist() == starts and 0 < np.mean(starts) < 1
    gemma = read_vocabulary(
        tmp_path / "modernbert", "modernbert", TOKENIZERS["modernbert"](tmp_path / "modernbert"), {}
    )
    assert (gemma.pad_id, gemma.eos_id, gemma.bos_id, gemma.unk_id, gemma.mask_id) == (0, 1, 2, 3, 4)
    assert set(gemma.special_ids) == {0, 1, 2, 3, 4, 5}  # <unused0> too, and no byte
    assert gemma.decode([2, *gemma.encode("Im Anfang"), 1]) == "Im Anfang"
    bert = read_vocabulary(tmp_path / "bert", "bert", TOKENIZERS["bert"](tmp_path / "bert"), {})
    pieces = bert.pieces(range(bert.size))
    assert [pieces[i] for i in (bert.pad_id, bert.unk_id, bert.bos_id, bert.eos_id, bert.mask_id)] == [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
    ]
    assert all(start != piece.startswith("##") for start, piece in zip(bert.word_starts, pieces))
    t5 = read_vocabulary(tmp_path / "t5", "t5", TOKENIZERS["t5"](tmp_path / "t5"), {})
    assert t5.sentinel_ids.tolist() == [t5.size - 1 - n for n in range(20)] and t5.mask_id == t5.bos_id == -1
    with pytest.raises(UserError, match="has no token for language 'de'"):
        t5.document_prefix("language", "de")


@pytest.mark.parametrize("unknown", [None, "<unk>"])
def test_what_stands_around_a_text_of_another_script(unknown):
    """If the vocabulary has no "a", the pieces around a text are found with one of its own pieces."""
    tokenizer = Tokenizer(models.BPE({"<s>": 0, "</s>": 1, "<unk>": 2, "ქ": 3, "ა": 4}, [], unk_token=unknown))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    assert around(tokenizer) == ([0], [1])


def test_padding_and_truncation_of_the_file_are_no_part_of_a_text(tmp_path):
    rows = TOKENIZERS["modernbert"](tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.enable_padding(length=16)
    tokenizer.enable_truncation(4)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    ours = read_vocabulary(tmp_path, "modernbert", rows, {})
    assert (ours.pad_id, ours.eos_id, ours.bos_id) == (0, 1, 2)
    assert around(Tokenizer.from_str(ours.tokenizer_json)) == ([2], [1])


def test_text_that_looks_special_is_text(tmp_path):
    gemma = read_vocabulary(tmp_path, "modernbert", TOKENIZERS["modernbert"](tmp_path), {})
    assert gemma.mask_id not in gemma.encode("a <mask> b") and gemma.mask_id in gemma.encode_special("a <mask> b")


@pytest.mark.parametrize(("pieces", "rows"), [(250_100, 250_112), (32_100, 32_128), (7, 7)])
def test_rows_beyond_the_pieces(pieces, rows):
    """Tables of mT5 and T5 have more rows than their tokenizers have pieces."""
    multiple = smallest_multiple(pieces, rows)
    assert -(-pieces // multiple) * multiple == rows and multiple <= 128


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_words_are_cut_as_their_sentence_and_begin_where_they_stand(kind, tmp_path):
    vocabulary = read_vocabulary(tmp_path, kind, TOKENIZERS[kind](tmp_path), {})
    for text in sentences(400):
        words = text.split()
        ids, starts = vocabulary.encode_words([words[0], "", *words[1:]])  # WikiANN has empty words
        assert ids == vocabulary.encode(" ".join(words)) and starts.pop(1) == -1
        own = [start for start in starts if start >= 0]
        assert own == sorted({*own}) and starts[0] == 0
        # The pieces before a word's first piece are those of the words before it.
        for number, start in enumerate(starts):
            before = vocabulary.encode(" ".join(words[:number]))
            if start >= 0 and kind != "modernbert":  # its pieces may contain spaces here
                assert ids[:start] == before
