"""Parameters are counted once each, in the group whose index picks them; shapes of a batch are those of the loader's batches."""

import jax
import numpy as np

from mlm_jax.config import default_config
from mlm_jax.data.loading.loader import Loader
from mlm_jax.data.store.manifest import FEATURES
from mlm_jax.data.store.store import Store
from mlm_jax.data.store.writer import StoreWriter
from mlm_jax.objectives import kinds
from mlm_jax.parallel.batches import shapes_of, to_devices
from mlm_jax.parallel.mesh import make_mesh
from mlm_jax.training.context import make_context, planned_context
from mlm_jax.training.cost import batch_shapes, parameters_by_group
from mlm_jax.training.step import build_program
from tests.evaluation import runs

LANGUAGES = ("de", "en", "ru")
OBJECTIVES = {  # {kind of stream: an objective that reads it}
    "text": "mlm",
    "pairs": "translation",
    "labelled": "classification",
    "words": "token_classification",
    "multilabelled": "multilabel_classification",
    "scored": "regression",
    "questions": "question_answering",
}


def store_of_every_kind(folder):
    """A store with a stream of each kind (labels of words have their own, "words"),"""
    vocabulary = runs.make_store(folder / "text").vocabulary
    documents = [np.full(6, 300, np.int32)] * 8
    labels = {"labelled": [[1]] * 8, "words": [[0] * 6] * 8, "multilabelled": [[0, 1, 1]] * 8, "scored": [[7]] * 8}
    with StoreWriter(folder / "store", vocabulary, ("en", "ru")) as writer:
        for name in OBJECTIVES:
            kind, languages = "labelled" if name == "words" else name, ("en", "ru") if name == "pairs" else ("en",)
            given = {"inputs": documents, "targets": documents, "answers": [[0]] * 8}
            given["labels"] = labels.get(name, [[0] * 6] * 8)
            features = {feature: given[feature] for feature in FEATURES[kind]}
            writer.add(
                "en" if name == "text" else "en-ru" if name == "pairs" else name, kind, languages, "train", features
            )
        writer.labels = {name: tuple("abc") for name in ("labelled", "words", "multilabelled")}
        writer.labels |= {"scored": ("score",), "questions": ("start", "end")}
    return Store.open(folder / "store")


def test_shapes_are_those_of_the_loaders_batches(tmp_path):
    store, config = store_of_every_kind(tmp_path), runs.make_config(decoder=({"layers": 1, "weights": "shared"},))
    config.tasks = {
        name: {"objective": objective, "rows": 8, "length": 16}
        | ({} if name in ("text", "pairs") else {"data": (name,)})
        for name, objective in OBJECTIVES.items()
    }
    config.mesh.data, config.mesh.fsdp = 4, 2
    loader, mesh = Loader(store, config, kinds(config.tasks)), make_mesh(config.mesh)
    labels = {task: len(names) for task, names in loader.labels().items()}
    context = make_context(store.vocabulary, loader.languages, config)
    program = build_program(config, context, loader.languages, mesh, labels=labels)
    assert shapes_of(to_devices(loader.batch(0), mesh)) == batch_shapes(program, loader.phases[0])


def test_parameters_are_counted_by_what_picks_them():
    config = default_config()
    config.vocabulary.size = 64
    config.model.update(
        width=8,
        heads=2,
        mlp_width=8,
        encoder=({"layers": 2, "weights": "shared", "adapter": 4}, {"layers": 1, "weights": "source_language"}),
        decoder=({"layers": 1, "weights": "target_language"},),
    )
    config.tasks = {"translation": {"objective": "translation", "rows": 2, "length": 8}}
    program = build_program(config, planned_context(LANGUAGES, config), LANGUAGES, make_mesh(config.mesh))
    counts = parameters_by_group(program)
    assert sum(counts.values()) == sum(leaf.size for leaf in jax.tree.leaves(program.state.params))
    layers = {name for name in counts if name.split("/")[0] in ("encoder", "decoder")}
    assert layers == {
        "encoder/0",
        "encoder/0 adapters by source_language",
        "encoder/1 by source_language",
        "decoder/0 by target_language",
    }
    assert counts["encoder/0"] * len(LANGUAGES) == 2 * counts["encoder/1 by source_language"]  # two layers, one layer
