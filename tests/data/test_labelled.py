"""Labelled text in the store: pairs that are cut, words without pieces, lines that are passed over."""


from mlm_jax.config import default_config
from mlm_jax.data.prepare import prepare
from mlm_jax.data.store import Store
from mlm_jax.data.tasks import CUT


def stored(folder, name, text, **entry):
    """Prepare a labelled set of bytes, and return its texts (of each example, between special ids) and what was skipped."""
    (folder / name).write_text(text, encoding="utf-8")
    config = default_config()
    config.data.labelled = {"set": {"language": "en", "train": str(folder / name), **entry}}
    config.vocabulary.kind, config.data.max_document_tokens = "bytes", 20
    store = Store.open(prepare(config, folder / "store", progress=False))
    split = store.stream("set").split("train")
    documents = split["inputs"].documents(range(split.documents))
    texts = [store.vocabulary.decode(ids.tolist()) for ids in documents]
    return texts, store.manifest["facts"]["skipped"]["set"]


def test_of_a_pair_of_texts_the_longer_one_is_cut_first_and_it_is_counted(tmp_path):
    """A language token, an end, and a separator leave 17 of 20."""
    text = "a" * 14 + "\tbbb\tyes\n" + "a" * 30 + "\tbbb\tyes\n" + "aaa\t" + "b" * 30 + "\tno\n"
    texts, skipped = stored(tmp_path, "nli.tsv", text, format="tsv")
    assert texts == ["a" * 14 + "bbb", "a" * 14 + "bbb", "aaa" + "b" * 14]
    assert skipped == {CUT: 2}
