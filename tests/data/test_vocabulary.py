"""Vocabularies: pieces and bytes, trained, saved, completed, and as seqio sees them."""

import pytest
import sentencepiece
import seqio
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.data.store.prepare import prepare
from mlm_jax.data.store.store import Store
from mlm_jax.data.store.tasks import SeqioVocabulary
from mlm_jax.data.vocabulary.folder import load_vocabulary
from mlm_jax.data.vocabulary.normalisation import normaliser
from mlm_jax.data.vocabulary.pieces import Vocabulary, language_token, sentinel
from mlm_jax.interop.tokenizer import to_tokenizers
from tests.data.words import LANGUAGES, WOERTER, WORDS, sentences


@pytest.fixture(scope="module", params=["sentencepiece", "bytes"])
def any_vocabulary(request, vocabulary):
    return vocabulary if request.param == "sentencepiece" else Vocabulary.bytes(LANGUAGES, 3)


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=30))
def test_every_text_survives_as_bytes(text):
    vocabulary = Vocabulary.bytes(LANGUAGES, 3)
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_byte_fallback_keeps_what_has_no_piece(vocabulary):
    assert vocabulary.decode(vocabulary.encode("light 光 и свет")) == "light 光 и свет"
    assert vocabulary.unk_id not in vocabulary.encode("光")


def test_special_pieces_are_themselves_and_special(any_vocabulary):
    vocabulary = any_vocabulary
    pieces = ["<mask>", language_token("de"), sentinel(2)]
    ids = [vocabulary.mask_id, vocabulary.language_ids["de"], vocabulary.sentinel_ids[2]]
    assert vocabulary.pieces(ids) == pieces
    assert set(ids) | {vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id} <= set(vocabulary.special_ids)
    assert vocabulary.encode_special("the <mask> light").count(vocabulary.mask_id) == 1
    assert vocabulary.decode(vocabulary.encode_special("the <mask>")) == "the"
    ordinary = set(range(vocabulary.size)) - set(vocabulary.special_ids)
    assert set(vocabulary.encode("in the beginning")) <= ordinary


def test_text_that_looks_like_a_special_piece_is_text(any_vocabulary):
    text = "the <mask> light <2de> and <extra_id_0> </s>"
    assert not set(any_vocabulary.encode(text)) & set(any_vocabulary.special_ids)
    assert any_vocabulary.decode(any_vocabulary.encode(text)) == text


def test_a_model_whose_special_pieces_are_user_defined_takes_them_for_text_too(tmp_path, vocabulary):
    """As vocabularies of earlier versions had them."""
    proto = ModelProto.FromString(vocabulary.model)
    for index in (vocabulary.mask_id, *vocabulary.language_ids.values(), *vocabulary.sentinel_ids):
        proto.pieces[index].type = ModelProto.SentencePiece.USER_DEFINED
    older = Vocabulary(proto.SerializeToString(), LANGUAGES, 3)
    assert older.size == vocabulary.size and older.pieces(range(older.size)) == vocabulary.pieces(range(older.size))
    text = "the <mask> light <2de><extra_id_0>"
    assert older.encode(text) == vocabulary.encode(text) and older.encode_special(text) == vocabulary.encode_special(
        text
    )
    assert older.decode(older.encode(text)) == text
    older.save(tmp_path)
    assert load_vocabulary(tmp_path).fingerprint == older.fingerprint != vocabulary.fingerprint


def test_saved_and_loaded_and_trained_again_it_is_the_same(vocabulary, tmp_path):
    vocabulary.save(tmp_path)
    assert load_vocabulary(tmp_path).fingerprint == vocabulary.fingerprint
    config = default_config().vocabulary
    config.size, config.sentinels = 310, 3
    again = Vocabulary.train(sentences(WORDS, 300) + sentences(WOERTER, 300), config, LANGUAGES)
    assert again.fingerprint == vocabulary.fingerprint
    (tmp_path / "vocabulary.model").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="damaged"):
        load_vocabulary(tmp_path)


def test_a_foreign_model_gets_the_missing_pieces_appended(tmp_path, vocabulary):
    from importlib.resources import files

    model = files("seqio") / "test_data" / "sentencepiece" / "sentencepiece.model"
    foreign = Vocabulary.from_model(model, LANGUAGES, 2)
    base = foreign.processor.get_piece_size()
    assert foreign.mask_id >= base and foreign.language_ids["de"] >= base
    assert foreign.encode("this is a test") == foreign.processor.encode("this is a test")
    oracle = seqio.SentencePieceVocabulary(str(model))
    assert foreign.encode("that is good") == oracle.encode("that is good")


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_the_zero_width_non_joiner_is_kept(kind):
    """It is a letter's form in Persian: without it "می‌خواهم" (I want) falls apart into two words."""
    lines = ["می\u200cخواهم به خانه بروم", "کتاب\u200cها را می\u200cخوانم"]
    config = default_config().vocabulary
    config.kind, config.size, config.sentinels = kind, 330, 3
    vocabulary = Vocabulary.train(lines * 20, config, ("fa",))
    assert [vocabulary.decode(vocabulary.encode(line)) for line in lines] == lines
    exported = to_tokenizers(vocabulary, [], [])
    assert [exported.encode(line, add_special_tokens=False).ids for line in lines] == vocabulary.encode_batch(lines)


def test_a_new_vocabulary_normalises_every_other_character_as_nmt_nfkc():
    options = {"add_dummy_prefix": False, "escape_whitespaces": False, "remove_extra_whitespaces": False}
    theirs = sentencepiece.SentencePieceNormalizer(rule_name="nmt_nfkc", **options)
    texts = [f"a{chr(code)}b" for code in range(1, 0x30000) if not 0xD800 <= code < 0xE000]
    ours = normaliser()
    assert [text for text in texts if ours.normalize(text) != theirs.normalize(text)] == ["a\u200cb"]
    for text in ("ﬁ  ① ｶﾞ \u0410\u0306", "e\u0301\u200ce"):
        assert ours.normalize(text) == theirs.normalize(text).replace("é e", "é\u200ce")


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_the_size_of_a_vocabulary_is_a_limit(tmp_path, kind, capsys):
    """Text that has fewer pieces gives fewer, and that is printed."""
    (tmp_path / "en.txt").write_text("\n".join(sentences(WORDS, 50)))
    config = default_config()
    config.data.corpora = {"en": str(tmp_path / "en.txt")}
    config.vocabulary.update(kind=kind, size=5000, sentinels=3)
    store = Store.open(prepare(config, tmp_path / "store"))
    assert 270 < store.vocabulary.size < 1000
    said = " ".join(capsys.readouterr().err.split())
    assert "at most 5,000 pieces" in said
    assert f"the text has enough pieces for a vocabulary of {store.vocabulary.size:,}, not of 5,000" in said


def test_a_vocabulary_that_is_too_small_is_refused():
    config = default_config().vocabulary
    config.sentinels = 3
    config.size = 200
    with pytest.raises(UserError, match="no room"):
        Vocabulary.train(sentences(WORDS, 50), config, LANGUAGES)
    config.size, config.character_coverage = 300, 1.0
    characters = [chr(0x4E00 + index) * 3 for index in range(200)]
    with pytest.raises(
        UserError, match=r"size=300 is too small for the \d+ pieces.*raise vocabulary.size or lower vocab"
    ):
        Vocabulary.train(sentences(WORDS, 50) + characters, config, LANGUAGES)


def test_ours_as_seqios(any_vocabulary):
    theirs = SeqioVocabulary(any_vocabulary)
    text = "in the beginning"
    assert theirs.encode(text) == any_vocabulary.encode(text) == theirs.encode_tf(text).numpy().tolist()
    assert theirs.decode(theirs.encode(text)) == text
    assert theirs.vocab_size == any_vocabulary.size
