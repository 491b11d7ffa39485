"""Untrusted folders of models: import-hf refuses hostile ones with a one-line error and leaves no output."""

import json
import os
import shutil
import struct

import numpy as np
import pytest
from ml_dtypes import float8_e4m3fn
from safetensors.numpy import load_file, save_file

from mlm_jax import cli
from mlm_jax.config import load_config
from mlm_jax.interop.tokenizer_files import MOST_PIECES
from tests.hostile.limits import limited, refused
from tests.interop.published import published

KINDS = ("xlm-roberta", "bert", "modernbert", "t5")
HUGE = 10**12
DEEP = "[" * 200_000


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """{kind: a good folder} of every kind of tokenizer."""
    place = tmp_path_factory.mktemp("good")
    for kind in KINDS:
        published(place / kind, kind)
    return place


def setting(**values):
    def change(folder):
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


def many_pieces(folder):
    with (folder / "vocab.txt").open("w") as file:
        file.writelines(f"{number}\n" for number in range(MOST_PIECES + 1))


def tokenizer_setting(**values):
    def change(folder):
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


def written(name, content):
    def change(folder):
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def tokenizer_json(change_json):
    def change(folder):
        file = folder / "tokenizer.json"
        described = json.loads(file.read_text())
        change_json(described)
        file.write_text(json.dumps(described))

    return change


def tensors(change_tensors):
    def change(folder):
        file = folder / "model.safetensors"
        found = load_file(file)
        change_tensors(found, next(name for name in found if name.endswith("weight") and found[name].ndim == 1))
        save_file(found, file)

    return change


def header(change_header):
    """Change the text of the header of the weights and leave the data."""

    def change(folder):
        file = folder / "model.safetensors"
        content = file.read_bytes()
        size = struct.unpack("<Q", content[:8])[0]
        new = change_header(content[8 : 8 + size].decode()).encode()
        file.write_bytes(struct.pack("<Q", len(new)) + new + content[8 + size :])

    return change


def in_header(change_header):
    return header(lambda text: json.dumps(change_header(json.loads(text))))


def first_entry(**values):
    def change(found):
        name = next(name for name in found if name != "__metadata__")
        return {**found, name: {**found[name], **values}}

    return in_header(change)


def fifo(name):
    def change(folder):
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def directory(name):
    def change(folder):
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return change


def sparse(name, size):
    """A file that claims many bytes and holds none."""

    def change(folder):
        with (folder / name).open("wb") as file:
            file.truncate(size)

    return change


def index(weight_map):
    def change(folder):
        (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
        shutil.copy(folder / "model-00001-of-00002.safetensors", folder / "model-00002-of-00002.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return change


def first_key_twice(text):
    name = next(name for name in json.loads(text) if name != "__metadata__")
    entry = json.dumps({name: json.loads(text)[name]})[1:-1]
    return text[:1] + entry + "," + text[1:]


def with_value(value):
    def change(found, name):
        found[name] = found[name].copy()
        found[name][0] = value

    return tensors(change)


def modules(path, name="", content="", **pooling):
    """A pooling module at a path, and a file of settings."""

    def change(folder):
        (folder / "modules.json").write_text(json.dumps([{"type": "models.Pooling", "path": path}]))
        if pooling:
            setting(**pooling)(folder)
        if name:
            (folder / name).write_text(content)

    return change


NO_PIECES = {"type": "BPE", "vocab": {}, "merges": []}
UNKNOWN_AT_999 = {
    "version": "1.0",
    "added_tokens": [],
    "model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 999},
}
CASES = {
    # ---------------------------------------------------------------------------------- config.json asks for too much
    "a million layers": ("xlm-roberta", setting(num_hidden_layers=10**6)),
    "a billion layers": ("bert", setting(num_hidden_layers=10**9)),
    "layers beyond any counter": ("modernbert", setting(num_hidden_layers=10**30)),
    "a million layers of ModernBERT": ("modernbert", setting(num_hidden_layers=10**6, layer_types=None)),
    "T5 with a million layers": ("t5", setting(num_layers=10**6)),
    "T5 with a million layers of the decoder": ("t5", setting(num_decoder_layers=10**6)),
    "a vocabulary of a billion": ("bert", setting(vocab_size=10**9)),
    "a vocabulary of a trillion": ("xlm-roberta", setting(vocab_size=HUGE)),
    "wide as a trillion": ("xlm-roberta", setting(hidden_size=HUGE)),
    "wide as two billion": ("modernbert", setting(hidden_size=2**31)),
    "a feed-forward layer of two billion": ("bert", setting(intermediate_size=2**31)),
    "two billion positions": ("bert", setting(max_position_embeddings=2**31)),
    "two billion types": ("bert", setting(type_vocab_size=2**31)),
    "two billion heads": ("bert", setting(num_attention_heads=2**31)),
    "heads that do not divide the width": ("bert", setting(num_attention_heads=7)),
    "two billion buckets": ("t5", setting(relative_attention_num_buckets=2**31)),
    "heads as wide as two billion": ("t5", setting(d_kv=2**31)),
    "numbers with a million digits": (
        "bert",
        written("config.json", '{"model_type": "bert", "hidden_size": ' + "9" * 10**6 + "}"),
    ),
    "negative layers": ("bert", setting(num_hidden_layers=-1)),
    "half a layer": ("bert", setting(num_hidden_layers=1.5)),
    "an epsilon that is infinite": (
        "bert",
        written("config.json", '{"model_type": "bert", "layer_norm_eps": Infinity}'),
    ),
    "an epsilon that is NaN": ("bert", setting(layer_norm_eps=float("nan"))),
    "dropout of three": ("bert", setting(hidden_dropout_prob=3)),
    "padding at a trillion": ("xlm-roberta", setting(pad_token_id=HUGE)),
    "a window of a trillion": ("modernbert", setting(local_attention=HUGE)),
    "kinds of layers without end": ("modernbert", setting(layer_types=["full_attention"] * 10**6)),
    "a kind of layer that is a number": ("modernbert", setting(layer_types=[1, 2, 3])),
    "a kind of model that is a list": ("bert", setting(model_type=["bert"])),
    # ------------------------------------------------------------------------------------------- config.json is no config
    "nested brackets for a config": ("bert", written("config.json", DEEP)),
    "nested objects for a config": ("bert", written("config.json", '{"a":' * 200_000)),
    "a config that is not UTF-8": ("bert", written("config.json", b"\xff\xfe\x00{")),
    "an empty config": ("bert", written("config.json", "")),
    "a config that is a number": ("bert", written("config.json", "1")),
    "a config that is a list": ("bert", written("config.json", '["model_type"]')),
    "a config that is a FIFO": ("bert", fifo("config.json")),
    "a config that is a folder": ("bert", directory("config.json")),
    "a config of a gigabyte": ("bert", sparse("config.json", 10**9)),
    # --------------------------------------------------------------------------------------------------------- the weights
    "a header that says it is two exabytes": ("bert", written("model.safetensors", struct.pack("<Q", 2**61) + b"{}")),
    "a header that says it is two gigabytes": ("bert", written("model.safetensors", struct.pack("<Q", 2**31) + b"{}")),
    "an empty file of weights": ("bert", written("model.safetensors", b"")),
    "seven bytes": ("bert", written("model.safetensors", b"1234567")),
    "a terabyte of zeros": ("bert", sparse("model.safetensors", 10**12)),
    "weights that are a FIFO": ("bert", fifo("model.safetensors")),
    "weights that are a folder": ("bert", directory("model.safetensors")),
    "a header of nested brackets": ("bert", header(lambda text: DEEP)),
    "a header that is a list": ("bert", header(lambda text: "[]")),
    "a header with a key twice": ("bert", header(first_key_twice)),
    "a header of texts": ("bert", header(lambda text: '{"a": "b"}')),
    "a shape that is a text": ("bert", first_entry(shape="12")),
    "a shape with a negative size": ("bert", first_entry(shape=[-1, 3])),
    "a shape beyond the data": ("bert", first_entry(shape=[HUGE, HUGE])),
    "no shape": ("bert", in_header(lambda found: {name: {} for name in found})),
    "offsets beyond the file": ("bert", first_entry(data_offsets=[0, HUGE])),
    "offsets that overlap": (
        "bert",
        in_header(lambda found: {n: {**e, "data_offsets": [0, 4]} for n, e in found.items()}),
    ),
    "a type that does not exist": ("bert", first_entry(dtype="F7")),
    "weights of bytes": ("bert", tensors(lambda found, name: found.update({name: found[name].astype(np.int8)}))),
    "weights of 8-bit floats": (
        "bert",
        tensors(lambda found, name: found.update({name: found[name].astype(float8_e4m3fn)})),
    ),
    "a NaN": ("bert", with_value(np.nan)),
    "an infinity": ("xlm-roberta", with_value(np.inf)),
    "a million names": (
        "bert",
        in_header(
            lambda found: {
                f"{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(200_000)
            }
        ),
    ),
    "an index of another folder": ("bert", index({"a": "../model.safetensors"})),
    "an index of an absolute path": ("bert", index({"a": "/etc/passwd"})),
    "an index that is a list": ("bert", index(["a"])),
    "tensors in two shards": (
        "bert",
        index({"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}),
    ),
    # ------------------------------------------------------------------------------------------------------- the tokenizer
    "a hundred million sentinels": ("t5", tokenizer_setting(extra_ids=100_000_000)),
    "sentinels that are a text": ("t5", tokenizer_setting(extra_ids="many")),
    "minus one sentinel": ("t5", tokenizer_setting(extra_ids=-1)),
    "lowering that is a text": ("bert", tokenizer_setting(do_lower_case="no")),
    "settings of nested brackets": ("bert", written("tokenizer_config.json", DEEP)),
    "settings that are a list": ("bert", written("special_tokens_map.json", "[]")),
    "a mask that is a number": ("bert", tokenizer_setting(mask_token=5)),
    "a class that is unknown": ("bert", tokenizer_setting(tokenizer_class="EvilTokenizer")),
    "a class that is a list": ("bert", tokenizer_setting(tokenizer_class=["BertTokenizer"])),
    "added tokens at a trillion": ("bert", written("added_tokens.json", f'{{"x": {HUGE}}}')),
    "added tokens at minus one": ("bert", written("added_tokens.json", '{"x": -1}')),
    "added tokens that are a list": ("bert", written("added_tokens.json", "[1]")),
    "added tokens with a gap": ("bert", tokenizer_setting(added_tokens_decoder={"1499": {"content": "neu"}})),
    "added tokens that are none": ("bert", tokenizer_setting(added_tokens_decoder={"1500": {"a": 1}})),
    "an id that is a text": ("bert", tokenizer_setting(added_tokens_decoder={"x": {"content": "neu"}})),
    "vocab.txt that is not UTF-8": ("bert", written("vocab.txt", b"\xff\xfe\xff")),
    "an empty vocab.txt": ("bert", written("vocab.txt", "")),
    "vocab.txt of a gigabyte": ("bert", sparse("vocab.txt", 10**9)),
    "vocab.txt of more than two million pieces": ("bert", many_pieces),
    "vocab.txt that is a FIFO": ("bert", fifo("vocab.txt")),
    "vocab.txt of other special pieces": ("bert", written("vocab.txt", "a\nb\nc\n")),
    "a SentencePiece model that is none": ("xlm-roberta", written("sentencepiece.bpe.model", b"\x00\x01\x02" * 99)),
    "an empty SentencePiece model": ("t5", written("spiece.model", b"")),
    "tokenizer.json of nested brackets": ("modernbert", written("tokenizer.json", DEEP)),
    "tokenizer.json that is a list": ("modernbert", written("tokenizer.json", "[]")),
    "tokenizer.json without a model": ("modernbert", tokenizer_json(lambda described: described.pop("model"))),
    "tokenizer.json of a gigabyte": ("modernbert", sparse("tokenizer.json", 10**9)),
    "a piece at four billion": (
        "modernbert",
        tokenizer_json(lambda d: d["model"]["vocab"].update({"Wort": 2**32 - 1})),
    ),
    "no pieces": ("modernbert", tokenizer_json(lambda d: d.update(added_tokens=[], model=NO_PIECES))),
    "merges of what is not there": (
        "modernbert",
        tokenizer_json(lambda d: d["model"]["merges"].append(["qqq", "zzz"])),
    ),
    "normalisation of garbage": (
        "modernbert",
        tokenizer_json(lambda d: d.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAA="})),
    ),
    "normalisation that reads beyond its table": (
        "modernbert",
        tokenizer_json(lambda d: d.update(normalizer={"type": "Precompiled", "precompiled_charsmap": "BAAAAP////8="})),
    ),
    "a SentencePiece model of millions of pieces": ("t5", written("spiece.model", b"\n\0" * 20_000_000)),
    # ------------------------------------------------------------------------------ the modules of sentence-transformers
    "modules nested deep": ("bert", written("modules.json", DEEP)),
    "modules that are texts": ("bert", written("modules.json", '["Pooling"]')),
    "a module in another folder": ("bert", modules("../theirs")),
    "a module at an absolute path": ("bert", modules("/etc")),
    "a module with a long name": ("bert", modules("x" * 100_000)),
    "a module with NUL in its name": ("bert", modules("a\0b")),
    "a pooling that is a list": ("bert", modules("", pooling_mode=[["mean"]])),
    "a pooling that is a number": ("bert", modules("", pooling_mode=3)),
    "settings of embeddings that are a list": ("bert", modules("", "sentence_bert_config.json", "[]")),
    "prompts nested deep": ("bert", modules("", "config_sentence_transformers.json", DEEP)),
    "an unknown piece that is not there": ("bert", written("tokenizer.json", json.dumps(UNKNOWN_AT_999))),
}


@pytest.mark.parametrize("case", CASES)
def test_a_hostile_folder_is_one_line_and_nothing_is_written(case, folders, tmp_path, capfd):
    kind, change = CASES[case]
    shutil.copytree(folders / kind, tmp_path / "theirs")
    change(tmp_path / "theirs")
    line = refused(capfd, "import-hf", tmp_path / "theirs", "--out", tmp_path / "ours")
    assert str(tmp_path / "theirs") in line
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


@pytest.mark.parametrize(
    "name", ['a"""\nimport os; os.mkdir("evil")\n"""', "a'''b", "back\\slash", "{braces} %s", "new\nline"]
)
def test_a_name_is_never_code(name, folders, tmp_path, monkeypatch):
    """The config that goes on with an import holds names as literals, whatever they are."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folders / "bert", tmp_path / name)
    assert cli.main(["import-hf", str(tmp_path / name), "--out", str(tmp_path / "ours")]) == 0
    load_config(tmp_path / "ours" / "config.py")
    assert not (tmp_path / "evil").exists()
    namespace: dict = {"__file__": str(tmp_path / "ours" / "config.py")}
    exec((tmp_path / "ours" / "config.py").read_text(), namespace)
    assert namespace["SOURCE"] == str(tmp_path / name)


def test_weights_that_are_not_finite_can_be_asked_for(folders, tmp_path):
    shutil.copytree(folders / "bert", tmp_path / "theirs")
    with_value(np.nan)(tmp_path / "theirs")
    with limited():
        assert (
            cli.main(["import-hf", str(tmp_path / "theirs"), "--out", str(tmp_path / "ours"), "--allow-nonfinite"]) == 0
        )
