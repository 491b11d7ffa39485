"""Edits of a published model's folder."""

import json

from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, processors


def cut_short(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def text(name, content):
    return lambda folder: (folder / name).write_text(content)


def shards(index):
    """An edit that leaves an index of shards, and no single file."""

    def edit(folder):
        (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
        (folder / "model.safetensors.index.json").write_text(index)

    return edit


def without(name):
    return lambda folder: (folder / name).unlink()


def edit_tensor(change):
    def edit(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return edit


def edit_json(name, **values):
    def edit(folder):
        file = folder / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return edit


def template(single, **pieces):
    """An edit after which the tokenizer adds other pieces to a text than the special pieces that it names."""

    def edit(folder):
        file = str(folder / "tokenizer.json")
        tokenizer = Tokenizer.from_file(file)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[(piece, index) for piece, index in pieces.items() if piece in single]
        )
        tokenizer.save(file)

    return edit


def other_tokenizer(folder):
    from tests.interop.published import bert_tokenizer

    (folder / "tokenizer.json").unlink()
    bert_tokenizer(folder)


def swap(tensors):
    tensors["model.layers.1.mlp.Wo.weight"] = tensors["model.layers.1.mlp.Wo.weight"].T.copy()
