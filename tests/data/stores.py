"""Small token stores for tests."""

import numpy as np

from mlm_jax.config import default_config
from mlm_jax.data.store.store import Store
from mlm_jax.data.store.writer import StoreWriter

PAD, EOS = 0, 1


class Ids:
    """What a store asks of a vocabulary, without any pieces."""

    pad_id, eos_id, fingerprint = PAD, EOS, "ids"

    def __init__(self, size=1000):
        self.size = size

    def files(self):
        return {"ids.txt": str(self.size).encode()}


def documents(lengths, seed=0, size=1000):
    """Return random documents of these lengths, each closed by EOS."""
    rng = np.random.default_rng(seed)
    return [np.append(rng.integers(2, size, length - 1), EOS).astype(np.int32) for length in lengths]


def write(folder, streams, languages, size=1000, **attributes):
    """Write and open a store of {name: (kind, languages, {split: features})}."""
    with StoreWriter(folder, Ids(size), languages) as writer:
        for name, (kind, codes, splits) in streams.items():
            for split, features in splits.items():
                writer.add(name, kind, codes, split, features)
        for attribute, value in attributes.items():
            setattr(writer, attribute, value)
    return Store.open(folder)


def config(tasks, **keys):
    """Return the default config with these tasks and these top-level keys; ``mixing`` and the like are dictionaries."""
    changed = default_config()
    changed.tasks = tasks
    for key, value in keys.items():
        if key in ("mixing", "model"):
            changed[key].update(value)
        else:
            changed[key] = value
    return changed
