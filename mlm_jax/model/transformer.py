"""The multilingual Transformer: embeddings, layer groups, and heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from mlm_jax.batch import Rows
from mlm_jax.errors import UserError, nearest
from mlm_jax.model.block import Scope
from mlm_jax.model.layers import ACTIVATIONS, GATED, Dense, Norm, dropout, parameter
from mlm_jax.model.stack import LayerGroup
from mlm_jax.parallel.rules import constrain

INDEXES = ("shared", "source_language", "target_language", "family", "task")


class Groups(nnx.Module):
    """The layer groups of an encoder or a decoder, under the names "0", "1", …"""

    def __init__(self, groups: list[nnx.Module]):
        for number, group in enumerate(groups):
            setattr(self, str(number), group)
        self.size = len(groups)

    def __iter__(self):
        return (getattr(self, str(number)) for number in range(self.size))


class MaskedHead(nnx.Module):
    """Dense, activation and norm before the output layer."""

    def __init__(self, config: ConfigDict, *, rngs: nnx.Rngs):
        self.activation = GATED.get(config.activation, config.activation)
        self.dense = Dense({"embed": config.width}, {"activation_embed": config.width}, bias="mlp" in config.biases,
                           stddev=config.initializer_stddev, rngs=rngs)  # fmt: skip
        self.norm = Norm(config.width, config, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(ACTIVATIONS[self.activation](self.dense(x)))


class Transformer(nnx.Module):
    """Encoder, optional decoder, and heads."""

    def __init__(self, config: ConfigDict, *, vocabulary_size: int, languages: tuple[str, ...],
                 families: Mapping[str, tuple[str, ...]] = {}, tasks: tuple[str, ...] = (), labels: Mapping[str, int] = {},
                 uncertain: tuple[str, ...] = (), rngs: nnx.Rngs):  # fmt: skip
        stddev, width = config.initializer_stddev, config.width
        rows = -(-vocabulary_size // config.vocabulary_multiple) * config.vocabulary_multiple
        self.rope_theta, self.rate = config.rope_theta, config.dropout
        bf16 = config.dtype == "bfloat16" or (config.dtype == "auto" and jax.default_backend() != "cpu")
        self.dtype = jnp.bfloat16 if bf16 else jnp.float32
        self.position_offset = config.position_offset
        sizes = {"shared": 0, "source_language": len(languages), "target_language": len(languages),
                 "family": len(families), "task": len(tasks)}  # fmt: skip
        self.family_of = family_table(languages, families)
        self.embedding = parameter(rngs, (rows, width), ("vocabulary", "embed"), stddev)
        learned = config.position == "learned"
        self.position_embedding = parameter(rngs, (config.max_positions, width), ("positions", "embed"), stddev) if learned else None
        types = config.embedding_types
        self.type_embedding = parameter(rngs, (types, width), ("positions", "embed"), stddev) if types else None
        self.language_embedding = parameter(rngs, (len(languages), width), ("groups", "embed"), stddev) if config.language_embedding else None
        self.embedding_norm = Norm(width, config, rngs=rngs) if "embedding" in config.norms else None
        self.encoder = self._groups(config, config.encoder, sizes, decoder=False, rngs=rngs)
        self.encoder_indexes = tuple(indexes(entry) for entry in config.encoder)
        final = "final" in config.norms
        self.encoder_norm = Norm(width, config, rngs=rngs) if final else None
        self.decoder = self._groups(config, config.decoder, sizes, decoder=True, rngs=rngs) if config.decoder else None
        self.decoder_indexes = tuple(indexes(entry) for entry in config.decoder)
        self.decoder_norm = Norm(width, config, rngs=rngs) if config.decoder and final else None
        self.head = MaskedHead(config, rngs=rngs) if config.head_transform else None
        self.output = None if config.tied_embeddings else parameter(rngs, (rows, width), ("vocabulary", "embed"), stddev)
        self.output_bias = parameter(rngs, (rows,), ("vocabulary",), 0) if "head" in config.biases else None
        self.classifiers = Classifiers({task: Dense({"embed": width}, {"labels": count}, bias=True, stddev=stddev, rngs=rngs)
                                        for task, count in labels.items()})  # fmt: skip
        self.uncertainty = LogVariances(uncertain, rngs=rngs) if uncertain else None

    def _groups(self, config, entries, sizes, *, decoder, rngs):
        groups, first = [], 0
        for entry in entries:
            weights, adapter = indexes(entry)
            # Where whole layers are indexed, their adapters are already the row's own.
            adapter_groups = 0 if sizes[weights] else sizes[adapter]
            groups.append(LayerGroup(config, entry, groups=sizes[weights], adapter_groups=adapter_groups, decoder=decoder,
                                     first_layer=first, rngs=rngs))  # fmt: skip
            first += entry["layers"]
        return Groups(groups)

    def embed(self, rows: Rows, key: jax.Array | None = None) -> jax.Array:
        # Gather the table's width first: a look-up in a table split both ways would be replicated by the compiler.
        x = constrain(self.embedding[...], "activation_vocabulary", "activation_embed")[rows.tokens]
        if self.position_embedding is not None:
            x = x + self.position_embedding[...][rows.positions + self.position_offset]
        if self.type_embedding is not None:
            x = x + self.type_embedding[...][0]
        if self.language_embedding is not None:
            x = x + self.language_embedding[...][rows.language][:, None]
        x = x if self.embedding_norm is None else self.embedding_norm(x)
        return constrain(dropout(x.astype(self.dtype), self.rate, key), "rows", "length", "activation_embed")

    def encode(self, rows: Rows, *, target_language=None, task: int = 0, key=None) -> jax.Array:
        target = rows.language if target_language is None else target_language
        index = self._index(rows.language, target, rows.language, task)
        keys = _split(key, self.encoder.size + 1)
        x = self.embed(rows, keys[0])
        for group, (weights, adapter), group_key in zip(self.encoder, self.encoder_indexes, keys[1:]):
            scope = Scope(rows.segment_ids, rows.positions, index=index[weights], adapter_index=index[adapter])
            x = group(x, scope, rope_theta=self.rope_theta, key=group_key)
        return x if self.encoder_norm is None else self.encoder_norm(x)

    def decode(self, rows: Rows, memory, memory_segment_ids, *, source_language=None, task: int = 0, key=None) -> jax.Array:
        source = rows.language if source_language is None else source_language
        index = self._index(source, rows.language, rows.language, task)
        keys = _split(key, self.decoder.size + 1)
        x = self.embed(rows, keys[0])
        for group, (weights, adapter), group_key in zip(self.decoder, self.decoder_indexes, keys[1:]):
            scope = Scope(rows.segment_ids, rows.positions, memory=memory, memory_segment_ids=memory_segment_ids,
                          index=index[weights], adapter_index=index[adapter])  # fmt: skip
            x = group(x, scope, rope_theta=self.rope_theta, key=group_key)
        return x if self.decoder_norm is None else self.decoder_norm(x)

    def _index(self, source, target, own, task) -> dict[str, Any]:
        return {"shared": None, "source_language": source, "target_language": target,
                "family": None if self.family_of is None else jnp.asarray(self.family_of)[own],
                "task": jnp.full_like(own, task)}  # fmt: skip

    def sentence_embeddings(self, rows: Rows, *, key=None) -> jax.Array:
        hidden = self.encode(rows, key=key).astype(jnp.float32)
        real = (rows.segment_ids > 0)[..., None]
        return (hidden * real).sum(axis=1) / jnp.maximum(real.sum(axis=1), 1)

    def masked_head(self, hidden: jax.Array) -> jax.Array:
        return hidden if self.head is None else self.head(hidden)

    def decoder_head(self, hidden: jax.Array) -> jax.Array:
        return hidden

    def output_table(self):
        table = self.embedding if self.output is None else self.output
        return table[...].astype(self.dtype), None if self.output_bias is None else self.output_bias[...]

    def classify(self, task: str, hidden: jax.Array, segment_ids: jax.Array, *, pooled: bool) -> jax.Array:
        if pooled:
            real = (segment_ids > 0)[..., None]
            hidden = (hidden * real).sum(axis=1) / jnp.maximum(real.sum(axis=1), 1).astype(hidden.dtype)
        return getattr(self.classifiers, task)(hidden)


class Classifiers(nnx.Module):
    """One output layer for each classification task, by name."""

    def __init__(self, heads: Mapping[str, nnx.Module]):
        for task, head in heads.items():
            setattr(self, task, head)


class LogVariances(nnx.Module):
    """log σ² of each task whose weight in the loss is learned, by name (Kendall et al. 2018)."""

    def __init__(self, tasks: tuple[str, ...], *, rngs: nnx.Rngs):
        for task in tasks:
            setattr(self, task, parameter(rngs, (), (), 0))


def indexes(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Return what picks a layer group's weights, and its adapters."""
    known = ("layers", "weights", "adapter", "adapter_weights")
    for key in entry:
        if key not in known:
            raise UserError(f"a layer group has no key {key!r}{nearest(key, known)}")
    chosen = entry.get("weights", "shared"), entry.get("adapter_weights", "source_language" if entry.get("adapter") else "shared")
    for name in chosen:
        if name not in INDEXES:
            raise UserError(f"layer group weights {name!r} are unknown{nearest(name, INDEXES)}", remedy=f"use one of {', '.join(INDEXES)}")
    return chosen


def family_table(languages, families):
    if not families:
        return None
    table = []
    for language in languages:
        found = [i for i, members in enumerate(families.values()) if language in members]
        if not found:
            raise UserError(f"language {language!r} is in no family", remedy="add it to config.families")
        table.append(found[0])
    return tuple(table)


def _split(key, count):
    return (None,) * count if key is None else jax.random.split(key, count)
