"""From files to the store: vocabulary, readers, seqio tasks, prepare."""

import gzip
import json
import re

import numpy as np
import pytest
import sentencepiece
import seqio
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.data import bible
from mlm_jax.data.store.freshness import is_fresh
from mlm_jax.data.store.prepare import drawn, prepare
from mlm_jax.data.store.store import Store
from mlm_jax.data.store.tasks import CUT, SeqioVocabulary, register
from mlm_jax.data.text import corpora, labelled
from mlm_jax.data.vocabulary.folder import load_vocabulary
from mlm_jax.data.vocabulary.normalisation import normaliser
from mlm_jax.data.vocabulary.pieces import Vocabulary, language_token, sentinel
from mlm_jax.interop.tokenizer import to_tokenizers
from mlm_jax.report.store_tables import fertility

LANGUAGES = ("en", "de")
WORDS = "in the beginning was word and light shines darkness not it that is there who from all made him".split()  # noqa: SIM905
WOERTER = "am anfang war das wort und licht scheint finsternis nicht es ist da wer von alles gemacht ihn".split()  # noqa: SIM905


def sentences(words, count, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(words, rng.integers(4, 12))) for _ in range(count)]


@pytest.fixture(scope="module")
def vocabulary():
    config = default_config().vocabulary
    config.size, config.sentinels = 310, 3
    return Vocabulary.train(sentences(WORDS, 300) + sentences(WOERTER, 300), config, LANGUAGES)


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
    assert f"the text has pieces for a vocabulary of {store.vocabulary.size:,}, not of 5,000" in said


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


# -------------------------------------------------------------------------------------------------- readers


def test_every_kind_of_file(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = "eins\n\nzwei\n"
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "c.txt.zst").write_bytes(pa.compress(text.encode(), codec="zstd", asbytes=True))
    (tmp_path / "d.jsonl").write_text('{"text": "eins"}\n{"text": "zwei"}\n')
    pq.write_table(pa.table({"text": ["eins", "zwei"]}), tmp_path / "e.parquet")
    for name in ("a.txt", "b.txt.gz", "c.txt.zst", "d.jsonl", "e.parquet"):
        found = list(corpora.documents(str(tmp_path / name), "de", "train"))
        assert found == (["eins", "", "zwei"] if ".txt" in name else ["eins", "zwei"]), name
    assert len(list(corpora.documents(str(tmp_path / "*.txt*"), "de", "train"))) == 9

    (tmp_path / "p.tsv").write_text("a\tb\nc\td\n")
    (tmp_path / "p.tmx").write_text(
        '<tmx><body><tu><tuv xml:lang="de-DE"><seg>a</seg></tuv><tuv xml:lang="en"><seg>b</seg></tuv></tu></body></tmx>'
    )
    assert list(corpora.sentence_pairs(str(tmp_path / "p.tsv"), "de-en", "train")) == [("a", "b"), ("c", "d")]
    assert list(corpora.sentence_pairs(str(tmp_path / "p.tmx"), "de-en", "train")) == [("a", "b")]


def test_a_byte_order_mark_is_no_text(tmp_path):
    for name, text in (("a.txt", "eins"), ("a.jsonl", '{"text": "eins"}')):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        assert list(corpora.documents(str(tmp_path / name), "de", "train")) == ["eins"]
    header = "language\tgold_label\tsentence1\tsentence2\n"
    (tmp_path / "xnli.tsv").write_text(header + "ar\tneutral\ta\tb\nde\tneutral\tc\td\n", encoding="utf-8-sig")
    entry = {"format": "xnli", "language": "de", "train": str(tmp_path / "xnli.tsv")}
    assert [example.texts for example in labelled.examples(entry, "train")] == [("c", "d")]


def tmx(*units, namespace=""):
    """Return translation memory of units {code: text}."""

    def side(code, text):
        return f'<tuv xml:lang="{code}"><seg>{text}</seg></tuv>'

    body = "".join(f"<tu>{''.join(side(*entry) for entry in unit.items())}</tu>" for unit in units)
    return f"<tmx{namespace}><body>{body}</body></tmx>"


@pytest.mark.parametrize(
    "pair, unit, namespace",
    [
        ("de-en", {"DE": "a", "EN": "b"}, ' xmlns="http://www.lisa.org/tmx14"'),
        ("DE-en", {"de_DE": "a", "en-US": "b"}, ""),
        ("pt_BR-en", {"pt-PT": "x", "pt-br": "a", "en": "b"}, ""),
        ("pt_BR-en", {"pt": "a", "EN-gb": "b"}, ""),
        ("en_GB-en_US", {"en-US": "b", "en-GB": "a"}, ""),
    ],
)
def test_languages_of_translation_memory_by_any_of_their_codes(tmp_path, pair, unit, namespace):
    (tmp_path / "p.tmx").write_text(tmx(unit, namespace=namespace))
    assert list(corpora.sentence_pairs(str(tmp_path / "p.tmx"), pair, "train")) == [("a", "b")]


def test_units_without_a_language_are_pairs_with_an_empty_side(tmp_path):
    file = tmp_path / "p.tmx"
    file.write_text(tmx({"de": "a", "en": "b"}, {"de": "a", "": "b"}, {"en-US": "b"}))
    assert list(corpora.sentence_pairs(str(file), "de-en", "train")) == [("a", "b"), ("a", ""), ("", "b")]
    for pair in ("fr-en", "en_US-en_GB"):
        with pytest.raises(
            UserError, match=r"no unit has both .* the file's codes are 'de', 'en', '', 'en-us'\. Remedy"
        ):
            list(corpora.sentence_pairs(str(file), pair, "train"))


@pytest.mark.parametrize("name", ["p.tmx.gz", "p.tmx.zst", "p.tmx"])
def test_translation_memory_that_is_damaged(tmp_path, name):
    import pyarrow as pa

    text = tmx(*({"de": f"{n} {n * n}", "en": f"{n}"} for n in range(2000))).encode()
    packed = {".gz": gzip.compress(text), ".zst": pa.compress(text, codec="zstd", asbytes=True), ".tmx": text}
    damaged = [b"neither", packed[(tmp_path / name).suffix][:-99], b'<?xml version="1.0" encoding="klingon"?>' + text]
    for content in damaged:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=r"p\.tmx.*(cannot read it|not TMX)"):
            list(corpora.sentence_pairs(str(tmp_path / name), "de-en", "train"))


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", "gut\nschön\n".encode("latin-1"), r"a\.txt:2: this is not UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"text"\n', r"a\.jsonl:2: this is not JSON"),
        ("a.jsonl", b'{"txt": "a"}\n', r"a\.jsonl:1: no field 'text', only \{'txt': 'str'\}"),
        ("a.jsonl", b"[" * 100_000, r"a\.jsonl:1: this is not JSON: maximum recursion depth"),
        ("a.jsonl", b'{"text": ' + b"1" * 5000 + b"}", r"a\.jsonl:1: this is not JSON: Exceeds"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "a\\ud83d"}\n',
            r"a\.jsonl:2: character 2 of the text is half of a surrogate",
        ),
        ("a.txt.gz", b"not gzip", r"a\.txt\.gz:1: cannot read it"),
        ("a.txt.zst", b"not zstd", r"a\.txt\.zst"),
        ("a.parquet", b"not parquet", r"a\.parquet: this is not a whole Parquet file"),
        ("a.doc", b"x", r"ends in '\.doc'"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(corpora.documents(str(tmp_path / name), "de", "train"))


def test_parquet_that_is_not_utf8(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    latin = pa.array(["schön".encode("latin-1")]).view(pa.string())
    pq.write_table(pa.table({"text": latin}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet: this is not a whole Parquet file: 'utf-8' codec can't decode"):
        list(corpora.documents(str(tmp_path / "a.parquet"), "de", "train"))


@pytest.mark.parametrize("packing", ["gz", "zst"])
@pytest.mark.parametrize("harm", ["cut short", "a byte changed"])
def test_packed_files_that_are_damaged(tmp_path, packing, harm):
    import pyarrow as pa

    text = "\n".join(sentences(WORDS, 2000)).encode()
    packed = gzip.compress(text) if packing == "gz" else pa.compress(text, codec="zstd", asbytes=True)
    half = len(packed) // 2
    damaged = packed[:half] if harm == "cut short" else packed[:half] + bytes(20) + packed[half + 20 :]
    file = tmp_path / f"a.txt.{packing}"
    file.write_bytes(damaged)
    with pytest.raises(UserError, match=rf"a\.txt\.{packing}:\d+: cannot read it|not UTF-8"):
        list(corpora.documents(str(file), "en", "train"))


def test_pairs_that_do_not_fit(tmp_path):
    (tmp_path / "a").write_text("1\n2\n")
    (tmp_path / "b").write_text("1\n")
    with pytest.raises(UserError, match="not aligned"):
        list(corpora.sentence_pairs((str(tmp_path / "a"), str(tmp_path / "b")), "de-en", "train"))
    (tmp_path / "c.tsv").write_text("a\tb\nonly one\n")
    with pytest.raises(UserError, match=r"c\.tsv:2: 1 columns"):
        list(corpora.sentence_pairs(str(tmp_path / "c.tsv"), "de-en", "train"))
    with pytest.raises(UserError, match="no file matches"):
        list(corpora.documents(str(tmp_path / "absent*.txt"), "de", "train"))
    with pytest.raises(UserError, match=r"this is a folder. Remedy: write .*/\*.txt"):
        list(corpora.documents(str(tmp_path), "de", "train"))
    with pytest.raises(UserError, match="has no function 'txt'; did you mean 'text'"):
        list(corpora.documents("mlm_jax.data.bible:txt", "de", "train"))


def read_labelled(entry):
    """The texts and labels of a set's training examples."""
    return [example[:2] for example in labelled.examples(entry, "train")]


def test_words_with_labels(tmp_path):
    (tmp_path / "a.iob2").write_text("# sent\n1\tAnna\tB-PER\t-\t-\n2\tsingt\tO\t-\t-\n\n1\tUlm\tB-LOC\t-\t-\n")
    (tmp_path / "wikiann.txt").write_text("en:Paris B-LOC\nen:shines O\n\n")
    entry = {"format": "conll", "language": "de", "train": str(tmp_path / "a.iob2")}
    assert read_labelled(entry) == [(("Anna", "singt"), ("B-PER", "O")), (("Ulm",), ("B-LOC",))]
    assert labelled.label_names(entry) == ("B-LOC", "B-PER", "O")
    (example,) = labelled.examples({**entry, "train": str(tmp_path / "wikiann.txt")}, "train")
    assert example.texts == ("Paris", "shines")
    with pytest.raises(UserError, match=r"a\.iob2:2: label 'B-PER' is not one of"):
        list(labelled.examples({**entry, "labels": ("O", "B-LOC")}, "train"))
    (tmp_path / "x.tsv").write_text("sentence1\tsentence2\tgold_label\nA man\tA person\tentailment\n")
    (pair,) = labelled.examples({"format": "xnli", "language": "en", "train": str(tmp_path / "x.tsv")}, "train")
    assert pair[:2] == (("A man", "A person"), ("entailment",))


def test_words_that_look_like_numbers_or_marks_are_words(tmp_path):
    def read(name, text):
        (tmp_path / name).write_text(text)
        return read_labelled({"format": "conll", "language": "en", "train": str(tmp_path / name)})

    conll = "-DOCSTART- -X- O O\n\nThe DT I-NP O\n22 CD I-NP O\nmen NNS I-NP O\n"
    assert read("conll2003.txt", conll) == [(("The", "22", "men"), ("O", "O", "O"))]
    uner = "1\tat\tO\t-\t-\n2\t12:30\tO\t-\t-\n"
    assert read("a.iob2", uner) == [(("at", "12:30"), ("O", "O"))]
    assert read("time.conll", "10:45\tO\n") == [(("10:45",), ("O",))]
    assert read("address.conll", "http://a.org\tO\n\nftp://a.org\tO\n") == [
        (("http://a.org",), ("O",)),
        (("ftp://a.org",), ("O",)),
    ]
    assert read("wikiann.txt", "en:at O\nen:10:45 O\n") == [(("at", "10:45"), ("O", "O"))]


def test_a_file_of_many_languages_gives_those_lines_that_are_asked_for(tmp_path):
    file = tmp_path / "xnli.tsv"
    entry = {"format": "xnli", "language": "de", "train": str(file)}
    header = "language\tgold_label\tsentence1\tsentence2\n"
    file.write_text(header + "ar\tneutral\ta\tb\nde\tentailment\tc\td\n")
    assert read_labelled(entry) == [(("c", "d"), ("entailment",))]
    with pytest.raises(UserError, match="no line is in 'fr', only ar, de"):
        list(labelled.examples(entry | {"language": "fr"}, "train"))
    file.write_text(header + "de\tneutral\t\td\n")
    with pytest.raises(UserError, match=r"xnli\.tsv:2: premise, hypothesis or label is empty"):
        list(labelled.examples(entry, "train"))


# -------------------------------------------------------------------------------------------------- prepare


def text_config(folder):
    (folder / "en.txt").write_text("\n".join(sentences(WORDS, 120)))
    (folder / "de.txt").write_text("\n".join(sentences(WOERTER, 100, 1)))
    (folder / "pairs.tsv").write_text("das wort\tthe word\n\tempty side\nlicht\tlight\n" * 20)
    (folder / "genre.tsv").write_text("the light\tgood\nthe darkness\tbad\n" * 10)
    config = default_config()
    config.data.corpora = {"en": str(folder / "en.txt"), "de": str(folder / "de.txt")}
    config.data.parallel = {"de-en": str(folder / "pairs.tsv")}
    config.data.labelled = {"genre": {"format": "tsv", "language": "en", "train": str(folder / "genre.tsv")}}
    config.data.validation_fraction = 0.2
    config.vocabulary.size, config.vocabulary.sentinels = 310, 3
    return config


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    config = text_config(folder)
    prepare(config, folder / "store", progress=False)
    return config, folder


def test_the_store_holds_what_the_files_hold(prepared):
    config, folder = prepared
    store = Store.open(folder / "store")
    assert store.languages == ("en", "de") and {*store.streams} == {"en", "de", "de-en", "genre"}
    vocabulary = store.vocabulary
    texts = set()
    for split in ("train", "validation"):
        found = store.stream("en").split(split)
        documents = found["inputs"].documents(np.arange(found.documents))
        for document in documents:
            assert document[0] == vocabulary.language_ids["en"] and document[-1] == vocabulary.eos_id
        mine = {vocabulary.decode(document.tolist()) for document in documents}
        assert not mine & texts  # nothing is on both sides
        texts |= mine
    assert texts == set(sentences(WORDS, 120))
    pairs = store.stream("de-en")
    assert sum(split.documents for split in pairs.splits.values()) == 40
    assert store.manifest["facts"]["skipped"]["de-en"] == {"a side is empty": 20}
    assert store.stream("genre").labels == ("bad", "good")
    assert store.stream("genre").split("train")["labels"].documents([0, 1])[0] == [1]
    sizes = store.stream("en").splits
    assert sum(split.characters for split in sizes.values()) == sum(map(len, sentences(WORDS, 120)))


def test_the_bar_counts_the_tokens_of_the_store(prepared, tmp_path, capsys):
    prepare(prepared[0], tmp_path / "store")
    said = " ".join(capsys.readouterr().err.split())
    for name, stream in Store.open(tmp_path / "store").streams.items():
        tokens = sum(split.tokens for split in stream.splits.values())
        assert re.search(rf"{name} \S+ {tokens:,} tokens", said), (name, tokens, said)


def test_the_store_holds_what_seqio_makes_of_the_tasks(prepared):
    config, folder = prepared
    store = Store.open(folder / "store")
    for one in register(config, store.vocabulary):
        for split in one.splits:
            examples = list(one.task.get_dataset(sequence_length=None, split=split, shuffle=False).as_numpy_iterator())
            assert (split in store.stream(one.name).splits) == bool(examples)
            if not examples:
                continue
            found = store.stream(one.name).split(split)
            assert found.documents == len(examples)
            for feature in one.task.output_features:
                for ours, theirs in zip(found[feature].documents(np.arange(found.documents)), examples):
                    np.testing.assert_array_equal(ours, theirs[feature])


def test_text_without_pieces_is_left_out_and_counted(tmp_path, vocabulary):
    config, nothing = text_config(tmp_path), "\u200b"
    (tmp_path / "en.txt").write_text(f"the light\n{nothing}\n \n")
    (tmp_path / "pairs.tsv").write_text(f"das wort\tthe word\n{nothing}\tthe light\nlicht\t{nothing}{nothing}\n")
    (tmp_path / "genre.tsv").write_text(f"the light\tgood\n{nothing}\tbad\n")
    (tmp_path / "nli.tsv").write_text(f"the light\t{nothing}\tgood\nthe light\tthe word\tbad\n")
    (tmp_path / "ner.conll").write_text(f"{nothing} O\n\nlight O\n")
    for name, form in (("genre", "tsv"), ("nli", "tsv"), ("ner", "conll")):
        config.data.labelled[name] = {"format": form, "language": "en", "train": str(tmp_path / f"{name}.{form}")}
    config.data.validation_fraction = 0.0
    wanted = {
        "en": "a blank line, or no text",
        "de-en": "a side is empty",
        "genre": "a blank line, or no text",
        "nli": "a side is empty",
        "ner": "a blank line, or no text",
    }
    for one in register(config, vocabulary):
        if one.name in wanted:
            assert len([*one.examples("train")]) == 1
            assert one.skipped[wanted[one.name]] == (2 if one.kind != "labelled" else 1)


def test_fertility_is_of_the_text_alone(tmp_path):
    """A byte is a token of a character of this text, and words are four letters long, with a space between."""
    (tmp_path / "en.txt").write_text("word mark\n" * 30)
    (tmp_path / "pairs.tsv").write_text("wort wort\tword mark\n" * 20)
    (tmp_path / "nli.tsv").write_text("word mark\tmark word\tyes\n" * 20)
    config = default_config()
    config.data.corpora, config.data.parallel = {"en": str(tmp_path / "en.txt")}, {"de-en": str(tmp_path / "pairs.tsv")}
    config.data.labelled = {"nli": {"format": "tsv", "language": "en", "train": str(tmp_path / "nli.tsv")}}
    config.vocabulary.kind = "bytes"
    store = Store.open(prepare(config, tmp_path / "store", progress=False))
    for name, expected in {
        "en": (4.5, 1),
        "de-en": (4.5, 1),
        "nli": (4.5, 18 / 19),
    }.items():  # a pair's text has a space more
        assert fertility(store, store.stream(name).split("train")) == pytest.approx(expected)


def test_prepared_again_it_is_the_same_and_fresh(prepared, tmp_path):
    config, folder = prepared
    assert is_fresh(config, folder / "store")
    prepare(config, tmp_path / "again", progress=False)
    one, two = (json.loads((place / "manifest.json").read_text()) for place in (folder / "store", tmp_path / "again"))
    assert one == two
    for name in ("en", "de-en"):
        a, b = (
            Store.open(place).stream(name).split("train")["inputs"].read()
            for place in (folder / "store", tmp_path / "again")
        )
        np.testing.assert_array_equal(a, b)
    config.data.max_document_tokens = 5
    try:
        assert not is_fresh(config, folder / "store")
        prepare(config, tmp_path / "short", progress=False)
        short = Store.open(tmp_path / "short")
        assert short.stream("en").split("train").longest("inputs") == 5
        assert short.manifest["facts"]["skipped"]["de-en"] == {"a side is empty": 20, CUT: 40}
    finally:
        config.data.max_document_tokens = 8192


def test_a_store_whose_sources_are_elsewhere_is_fresh_for_its_own_config_only(tmp_path):
    config = default_config()
    config.data.corpora, config.vocabulary.kind = {"en": str(tmp_path / "en.txt")}, "bytes"
    (tmp_path / "en.txt").write_text("\n".join(sentences(WORDS, 20)))
    prepare(config, tmp_path / "store", progress=False)
    (tmp_path / "en.txt").unlink()
    assert is_fresh(config, tmp_path / "store")
    for changes in ({"corpora": {"de": str(tmp_path / "absent.txt")}}, {"max_document_tokens": 9}):
        other = config.copy_and_resolve_references()
        other.data.update(changes)
        with pytest.raises(UserError, match="no file matches"):
            prepare(other, tmp_path / "store", progress=False)
    config.data.corpora = {}
    assert is_fresh(config, tmp_path / "store")


def test_what_cannot_be_prepared_leaves_nothing(tmp_path):
    config = text_config(tmp_path)
    (tmp_path / "empty.txt").write_text("\n  \n")
    for changes, message in (
        ({"corpora": {"en": str(tmp_path / "empty.txt")}}, r"empty\.txt: language 'en' has no text"),
        ({"parallel": {"deen": str(tmp_path / "pairs.tsv")}}, "not two languages"),
        ({"corpora": {}, "parallel": {}, "labelled": {}}, "names no data"),
        ({"mixture": "absent"}, "data.mixture and data.corpora are both set"),
        ({"mixture": "absent", "corpora": {}, "labelled": {}}, "data.mixture and data.parallel are both set"),
        ({"mixture": "absent", "corpora": {}, "parallel": {}}, "data.mixture and data.labelled are both set"),
        (
            {"mixture": "absent", "mixture_languages": {"a": "en"}, "corpora": {}, "parallel": {}, "labelled": {}},
            "no seqio mixture 'absent'",
        ),
    ):
        broken = text_config(tmp_path)
        broken.data.update(changes)
        with pytest.raises(UserError, match=message):
            prepare(broken, tmp_path / "store", progress=False)
        assert not list(tmp_path.glob("store*"))
    assert config.data.corpora["en"].endswith("en.txt")


# -------------------------------------------------------------------------------------------------- the demo's corpus


def test_the_bible_is_aligned_and_held_out_by_books():
    pairs = list(bible.pairs("de-en", "validation"))
    assert len(pairs) > 900 and all(a and b for a, b in pairs)
    held_out = {b for _, b in pairs}
    seen = {b for _, b in bible.pairs("de-en", "train")}
    assert len(held_out & seen) < 0.02 * len(held_out)  # Mark shares a few short verses with other gospels
    assert bible.clean("आदि में (इब्रा. 1:10, इब्रा. 11:3)") == "आदि में"
    assert {label for _, label in bible.genre("en", "train")} == set(bible.GENRES)
    with pytest.raises(UserError, match="no language 'xx'"):
        list(bible.text("xx", "train"))


@given(have=st.integers(1, 60), share=st.floats(0, 1))
def test_sentences_of_the_vocabulary_are_drawn_exactly_and_the_same_each_time(have, share):
    count = int(share * have)
    sentences = [str(i) for i in range(have)]
    found = list(drawn(sentences, count, have, seed="de"))
    assert len(found) == count and found == sorted(found, key=int) and set(found) <= set(sentences)
    assert found == list(drawn(sentences, count, have, seed="de"))


def test_a_text_with_a_period_gives_all_of_it_to_the_vocabulary():
    """Every second sentence would be all odd or all even."""
    found = list(drawn((str(i % 2) for i in range(2000)), 1000, 2000, seed="de"))
    assert 400 < found.count("0") < 600
