"""Unusual tokenizer files: the ids are AutoTokenizer's, or the import is an error."""

import io
import json
import shutil

import pytest
import sentencepiece
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from mlm_jax.common.errors import UserError
from mlm_jax.data.vocabulary.pieces import Vocabulary
from mlm_jax.interop.exporting import export_hf
from mlm_jax.interop.importing import import_hf
from mlm_jax.interop.published_tokenizer import UNUSED_ROWS, read_vocabulary
from mlm_jax.interop.tokenizer import to_tokenizers
from tests.interop.published import TOKENIZERS, bert_pieces, bert_tokenizer, published, sentences, xlm_roberta_tokenizer

EDGES = ["", " ", "ends in a space ", "mark\u200f", "  two  spaces\tand a tab\n", "(der)"]


def settings(folder, **values):
    file = folder / "tokenizer_config.json"
    old = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**old, **values}))


def same_ids(folder, kind, rows, texts):
    theirs, ours = AutoTokenizer.from_pretrained(folder), read_vocabulary(folder, kind, rows, {})
    assert ours.encode_batch(texts) == theirs(texts, add_special_tokens=False)["input_ids"]
    masked = f"Im {theirs.mask_token} war"
    assert ours.encode_special(masked) == theirs(masked, add_special_tokens=False)["input_ids"]
    before = [] if ours.bos_id < 0 else [ours.bos_id]
    assert theirs("Im Anfang")["input_ids"] == [*before, *ours.encode("Im Anfang"), ours.eos_id]
    return theirs, ours


@pytest.mark.parametrize("saved", [False, True], ids=["SentencePiece", "tokenizer.json"])
def test_a_bert_with_the_tokenizer_of_xlm_roberta(saved, tmp_path):
    """Multilingual MiniLMs: the tokenizer's class decides, not the model's; in either file, with spaces at the ends."""
    rows = xlm_roberta_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    if saved:
        AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "saved")
        described = json.loads((tmp_path / "saved" / "tokenizer.json").read_text())
        for token in described["added_tokens"]:  # as transformers 4 wrote it for e5
            token["lstrip"] = False
        (tmp_path / "tokenizer.json").write_text(json.dumps(described))
        (tmp_path / "sentencepiece.bpe.model").unlink()
    theirs, ours = same_ids(tmp_path, "bert", rows, [*sentences(500), *EDGES])
    assert ours.mask_id == theirs.mask_token_id == rows - 1


def test_a_class_that_nothing_names(tmp_path):
    xlm_roberta_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match="BertTokenizer needs tokenizer.json or vocab.txt.*tokenizer_class"):
        read_vocabulary(tmp_path, "bert", 902, {})
    with pytest.raises(UserError, match="there is no tokenizer: without tokenizer.json, ids can be derived"):
        read_vocabulary(tmp_path, "modernbert", 902, {})


@pytest.mark.parametrize("form", ["added_tokens.json", "added_tokens_decoder"])
@pytest.mark.parametrize("kind", ["bert", "xlm-roberta"])
def test_pieces_that_were_added_later(kind, form, tmp_path):
    rows = TOKENIZERS[kind](tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    if form == "added_tokens.json":
        (tmp_path / form).write_text(json.dumps({"Weltraumpunkt": rows, "Zweitpunkt": rows + 1}))
    else:
        flags = {"lstrip": False, "rstrip": False, "normalized": True, "single_word": False, "special": False}
        settings(
            tmp_path,
            added_tokens_decoder={
                str(rows): {"content": "Weltraumpunkt", **flags},
                str(rows + 1): {"content": "Zweitpunkt", **flags},
            },
        )
    _, ours = same_ids(tmp_path, kind, rows + 2, ["Der Weltraumpunkt dort und ein Zweitpunkt", *sentences(3000)])
    assert ours.size == rows + 2 and rows in ours.encode("Weltraumpunkt") and not ours.is_special[rows]


@pytest.mark.parametrize(
    "values",
    [
        {"do_lower_case": False},
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": False, "tokenize_chinese_chars": False},
    ],
)
def test_settings_of_bert_override_its_tokenizer_json(values, tmp_path):
    rows = bert_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    settings(tmp_path, do_lower_case=True)
    AutoTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "saved")
    shutil.copy(tmp_path / "saved" / "tokenizer.json", tmp_path)
    settings(tmp_path, **values)
    same_ids(tmp_path, "bert", rows, [*sentences(500), *EDGES, "Ä é 中文字", "Und GOTT sprach"])


def test_special_pieces_of_other_names(tmp_path):
    """BERTweet-like vocab.txt: tokenizer_config.json names its special pieces."""
    names = {"[PAD]": "<pad>", "[UNK]": "<unk>", "[CLS]": "<s>", "[SEP]": "</s>", "[MASK]": "<mask>"}
    pieces = [names.get(piece, piece) for piece in bert_pieces()]
    (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="vocab.txt has no piece '.UNK.', the unk_token.*name its own"):
        read_vocabulary(tmp_path, "bert", len(pieces), {})
    settings(
        tmp_path,
        do_lower_case=False,
        pad_token="<pad>",
        unk_token="<unk>",
        cls_token="<s>",
        sep_token="</s>",
        mask_token="<mask>",
    )
    theirs, ours = same_ids(tmp_path, "bert", len(pieces), sentences(1000))
    assert (ours.mask_id, ours.pad_id, ours.unk_id) == (theirs.mask_token_id, theirs.pad_token_id, theirs.unk_token_id)


def test_rows_that_were_never_used(tmp_path):
    """Multilingual MiniLMs have 250,037 rows, a prime, for 250,002 pieces."""
    rows = xlm_roberta_tokenizer(tmp_path)
    for more in (35, 97, UNUSED_ROWS):
        assert read_vocabulary(tmp_path, "xlm-roberta", rows + more, {}).size == rows
    with pytest.raises(UserError, match="the model's table of embeddings"):
        read_vocabulary(tmp_path, "xlm-roberta", rows + UNUSED_ROWS + 1, {})


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_nothing_in_a_text_is_special(kind, tmp_path):
    """HTML's <s>20</s> is a crossed-out price; a unigram model would take it for its own piece, of the best score."""
    ours = read_vocabulary(tmp_path, kind, TOKENIZERS[kind](tmp_path), {})
    for index in [index for index in ours.special_ids if index != ours.unk_id]:
        piece = ours.pieces([index])[0]
        for text in (f"Preis: {piece}20{piece} 15", piece, f"a {piece} b", f"das{piece}Wort"):
            assert not [i for i in ours.encode(text) if ours.is_special[i] and i != ours.unk_id], (piece, text)
        assert index in ours.encode_special(f"a {piece} b")


@pytest.mark.parametrize("kind", ["xlm-roberta", "bert", "modernbert"])
def test_pairs_after_import_and_export(kind, tmp_path):
    published(tmp_path / "theirs", kind)
    import_hf(tmp_path / "theirs", tmp_path / "ours")
    right, found = (
        dict(AutoTokenizer.from_pretrained(folder)("Im Anfang", "das Wort"))
        for folder in (tmp_path / "theirs", export_hf(tmp_path / "ours", tmp_path / "out"))
    )
    right.pop("token_type_ids", None) if kind == "modernbert" else None  # which ModernBERT does not read
    assert found == right
    vocabulary = read_vocabulary(tmp_path / "theirs", kind, _rows(tmp_path / "theirs"), {})
    first, second = vocabulary.encode_batch(["Im Anfang", "das Wort"])
    before = [] if vocabulary.bos_id < 0 else [vocabulary.bos_id]
    assert [*before, *first, *vocabulary.pair_separator, *second, vocabulary.eos_id] == right["input_ids"]


def _rows(folder):
    return json.loads((folder / "config.json").read_text())["vocab_size"]


# ------------------------------------------------------------------------------------------------ SentencePiece of one's own


def trained(**options):
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences(200)),
        model_writer=out,
        vocab_size=900,
        character_coverage=0.999,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return Vocabulary(out.getvalue(), ("de",), 0)


OWN = {
    "user-defined": {"user_defined_symbols": ["der", "20,00"]},
    "white space kept": {"remove_extra_whitespaces": False},
    "white space kept, BPE": {"remove_extra_whitespaces": False, "model_type": "bpe"},
    "no dummy prefix": {"add_dummy_prefix": False},
    "neither": {"add_dummy_prefix": False, "remove_extra_whitespaces": False},
    "identity": {"normalization_rule_name": "identity"},
    "nfkc": {"normalization_rule_name": "nfkc"},
    "nfkc_cf": {"normalization_rule_name": "nfkc_cf"},
    "nmt_nfkc_cf": {"normalization_rule_name": "nmt_nfkc_cf"},
    "no end": {"eos_id": -1},
}
HARD = [
    " vorn",
    "  zwei",
    "hinten ",
    "\tTab",
    "Tab\t",
    "\u3000weit\u3000",
    "\u200evorn",
    "a\u00a0b",
    "wieder der Bruder",
    "20,00 der",
    "der",
    "derder",
    "Zeile\nZeile",
    " \u3000 ",
    "",
]


@pytest.mark.parametrize("name", OWN)
def test_models_of_ones_own_keep_their_ids(name):
    ours = trained(**OWN[name])
    written = to_tokenizers(ours, [], [ours.eos_id])
    texts = [*sentences(400), *HARD]
    found = [encoding.ids for encoding in written.encode_batch(texts, add_special_tokens=False)]
    different = [
        (text, ours.pieces(a), ours.pieces(b)) for text, a, b in zip(texts, ours.encode_batch(texts), found) if a != b
    ]
    assert not different
    assert ours.eos_id >= 0 and ours.pieces([ours.eos_id]) == ["</s>"]


def test_symbols_that_bpe_takes_whole_are_refused():
    ours = trained(model_type="bpe", user_defined_symbols=["der"])
    with pytest.raises(UserError, match="user_defined_symbols of a BPE model"):
        to_tokenizers(ours, [], [ours.eos_id])


def test_an_unpadded_tokenizer_json_is_kept(tmp_path):
    """The file of a generic class has all settings, and none of them is changed."""
    rows = TOKENIZERS["modernbert"](tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "modernbert"}')
    same_ids(tmp_path, "modernbert", rows, [*sentences(1000), *EDGES])
    file = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert json.loads(read_vocabulary(tmp_path, "modernbert", rows, {}).tokenizer_json) == json.loads(file.to_str())
