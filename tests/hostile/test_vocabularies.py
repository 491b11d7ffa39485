"""Untrusted vocabularies that vocabulary.path names: folders of every kind, and SentencePiece models."""

import json
import os

import pytest
from tokenizers import Tokenizer, models

from mlm_jax.common.errors import UserError
from mlm_jax.data.vocabulary.folder import load_vocabulary, open_vocabulary
from mlm_jax.data.vocabulary.pieces import FACTS, MODEL, Vocabulary
from mlm_jax.data.vocabulary.published import TOKENIZER, PublishedVocabulary
from tests.hostile.limits import limited

PIECES = {"<pad>": 0, "</s>": 1, "[UNK]": 2, "a": 3, "##b": 4}
IDS = {"pad": 0, "eos": 1, "unk": 2}
WHOLE = Tokenizer(models.WordPiece(PIECES, unk_token="[UNK]")).to_str()
LISTS = b"[" + b"[]," * 5_000_000 + b"1]"
GARBAGE = {"type": "Precompiled", "precompiled_charsmap": "AAAAgP////8AAAAA"}


def described(**changes):
    return json.dumps({"kind": "tokenizers", "ids": IDS, "languages": []} | changes)


def tokenizer(**changes):
    return json.dumps(json.loads(WHOLE) | changes)


def model(**changes):
    return tokenizer(model=json.loads(WHOLE)["model"] | changes)


CASES = {  # {what: {name of a file: content}}
    "facts of millions of lists": {FACTS: b'{"kind": "bytes", "languages": [], "x": ' + LISTS + b"}"},
    "facts of 20 MB": {FACTS: b'{"kind": "bytes", "languages": ["' + b"x" * 20_000_000 + b'"]}'},
    "facts with half a character": {FACTS: '{"kind": "bytes", "languages": ["\\ud800"]}'},
    "languages that are a text": {FACTS: '{"kind": "bytes", "languages": "de", "sentinels": 0}'},
    "languages that are null": {FACTS: '{"kind": "bytes", "languages": null, "sentinels": 0}'},
    "sentinels that are true": {FACTS: '{"kind": "bytes", "languages": ["de"], "sentinels": true}'},
    "half a sentinel": {FACTS: '{"kind": "bytes", "languages": ["de"], "sentinels": 0.5}'},
    "a kind that is a list": {FACTS: '{"kind": ["bytes"], "languages": []}'},
    "another fingerprint": {FACTS: described(fingerprint="0"), TOKENIZER: WHOLE},
    "no tokenizer": {FACTS: described()},
    "ids that are texts": {FACTS: described(ids={"pad": "0"}), TOKENIZER: WHOLE},
    "ids that are a list": {FACTS: described(ids=[0]), TOKENIZER: WHOLE},
    "an id beyond the pieces": {FACTS: described(ids=IDS | {"mask": 10**9}), TOKENIZER: WHOLE},
    "an id of thirty digits": {FACTS: described(ids=IDS | {"mask": 10**30}), TOKENIZER: WHOLE},
    "an id below -1": {FACTS: described(ids=IDS | {"pad": -7}), TOKENIZER: WHOLE},
    "a piece at four billion": {FACTS: described(), TOKENIZER: model(vocab=PIECES | {"c": 2**32 - 1})},
    "a piece at a billion": {FACTS: described(), TOKENIZER: model(vocab=PIECES | {"c": 10**9})},
    "no pieces": {FACTS: described(), TOKENIZER: model(vocab={})},
    "a tokenizer of millions of lists": {FACTS: described(), TOKENIZER: LISTS},
    "a tokenizer nested deep": {FACTS: described(), TOKENIZER: "[" * 200_000},
    "a tokenizer that is a list": {FACTS: described(), TOKENIZER: "[]"},
    "a tokenizer that is not UTF-8": {FACTS: described(), TOKENIZER: b"\xff"},
    "a tokenizer of four million pieces": {
        FACTS: described(),
        TOKENIZER: WHOLE.replace('"vocab":{', '"vocab":{' + '"a":3,' * 4_000_000).encode(),
    },
    "normalisation of garbage": {FACTS: described(), TOKENIZER: tokenizer(normalizer=GARBAGE)},
    "a unigram model whose unknown piece is missing": {
        FACTS: described(),
        TOKENIZER: tokenizer(model={"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 999}),
    },
    "a model of millions of empty pieces": {
        FACTS: '{"kind": "sentencepiece", "languages": [], "sentinels": 0}',
        MODEL: b"\n\0" * 20_000_000,
    },
    "a model of rubbish": {FACTS: '{"kind": "sentencepiece", "languages": [], "sentinels": 0}', MODEL: b"\1" * 99},
}


@pytest.mark.parametrize("case", CASES)
def test_a_hostile_vocabulary_is_one_line(case, tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    for name, content in CASES[case].items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with limited(), pytest.raises(UserError) as raised:
        open_vocabulary(folder, ("de",), 0)
    assert "\n" not in str(raised.value) and str(folder) in str(raised.value) and len(str(raised.value)) < 1500


@pytest.mark.parametrize("make", [os.mkfifo, lambda file: file.symlink_to("/dev/zero"), os.mkdir])
@pytest.mark.parametrize("name", [FACTS, TOKENIZER])
def test_what_is_no_file(make, name, tmp_path):
    (tmp_path / FACTS).write_text(described())
    (tmp_path / name).unlink(missing_ok=True)
    make(tmp_path / name)
    with limited(), pytest.raises(UserError, match="regular file"):
        open_vocabulary(tmp_path, ("de",), 0)


def test_a_model_of_millions_of_pieces(tmp_path):
    (tmp_path / "a.model").write_bytes(b"\n\0" * 20_000_000)
    with limited(), pytest.raises(UserError, match=r"a\.model.*pieces"):
        open_vocabulary(tmp_path / "a.model", ("de",), 0)


@pytest.mark.parametrize(
    "vocabulary", [Vocabulary.bytes(("de",), 4), PublishedVocabulary(WHOLE, IDS)], ids=["bytes", "tokenizers"]
)
def test_every_bit_of_a_vocabulary_counts(vocabulary, tmp_path):
    """A flipped bit is noticed, or the vocabulary is the same: in the white space and in the names of keys."""
    vocabulary.save(tmp_path)
    for file in sorted(tmp_path.iterdir()):
        content = file.read_bytes()
        for place in range(0, len(content), 7):
            changed = bytearray(content)
            changed[place] ^= 1 << place % 8
            file.write_bytes(changed)
            try:
                found = load_vocabulary(tmp_path)
            except UserError as error:
                assert "\n" not in str(error)
            else:
                assert found.fingerprint == vocabulary.fingerprint
        file.write_bytes(content)
    assert load_vocabulary(tmp_path).fingerprint == vocabulary.fingerprint
