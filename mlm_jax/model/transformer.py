"""The multilingual Transformer: embeddings, layer groups, and heads."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from mlm_jax.common.errors import UserError
from mlm_jax.config.check import check_model_values
from mlm_jax.config.together import longest_row
from mlm_jax.data.loading.batch import Rows
from mlm_jax.model.block import KeysValues, Scope
from mlm_jax.model.characters import CharacterEncoder
from mlm_jax.model.cross_lingual import CrossLingualAttention
from mlm_jax.model.heads import Classifiers, Form, LogVariances, MaskedHead, Transforms
from mlm_jax.model.layers import Norm, computation_type, dropout, pad_length, split_key
from mlm_jax.model.parameters import parameter
from mlm_jax.model.positions import Rotation, rotation
from mlm_jax.model.sharing import family_table, indexes
from mlm_jax.model.stack import Groups
from mlm_jax.parallel.mesh import platform
from mlm_jax.parallel.rules import constrain


class Cache(NamedTuple):
    """Arrays that a decoder keeps between tokens; rows are the first axis of every array.

    Attributes:
      written: {group: keys and values ``[rows, layers, kv_heads, capacity, head_dim]``} of the tokens so far.
      remembered: {group: keys and values ``[rows, layers, kv_heads, memory length, head_dim]``} of the memory. This and
        all attributes below stay the same from token to token, and for all hypotheses of one source.
      memory_segment_ids: ``[rows, memory length]``.
      language: ``[rows]`` language of the target.
      source_language: ``[rows]`` language of the source.
      memory: ``[rows, memory length, width]`` if the model has cross-lingual attention, else None.
    """

    written: dict[str, KeysValues]
    remembered: dict[str, KeysValues]
    memory_segment_ids: jax.Array
    language: jax.Array
    source_language: jax.Array
    memory: jax.Array | None = None


class Transformer(nnx.Module):
    """Encoder, optional decoder, and heads.

    Args:
      config: ``config.model``.
      vocabulary_size: pieces of the vocabulary.
      languages: language codes in index order.
      families: {family: its languages}.
      tasks: names in index order.
      labels: {classification task: number of labels}.
      forms: {classification task: its form}; tasks that are not named get the default form.
      uncertain: tasks whose weight in the loss is learned.
      rngs: the random number generators of the initial weights.

    Raises:
      UserError: the configuration has a value that does not exist, or values that do not fit each other.
    """

    def __init__(
        self,
        config: ConfigDict,
        *,
        vocabulary_size: int,
        languages: tuple[str, ...],
        families: Mapping[str, tuple[str, ...]] = {},
        tasks: tuple[str, ...] = (),
        labels: Mapping[str, int] = {},
        forms: Mapping[str, Form] = {},
        uncertain: tuple[str, ...] = (),
        rngs: nnx.Rngs,
    ):
        check_model_values(config)
        width = config.width
        self.table_rows = -(-vocabulary_size // config.vocabulary_multiple) * config.vocabulary_multiple
        self.vocabulary_size, self.width, self.tasks = vocabulary_size, width, tuple(tasks)
        self.dtype_name, self.rate, self.pooling = config.dtype, config.dropout, config.pooling
        self.head_dim = config.head_width or width // config.heads
        self.rope_theta = config.rope_theta if config.position == "rope" else None
        self.local_rope_theta = config.local_rope_theta if config.position == "rope" else None
        self.type_boundary = config.type_boundary
        self.position_offset, self.longest = config.position_offset, longest_row(config)
        self.output_scale = width**-0.5 if "output_scale" in config.norms else 1.0
        self.family_of = family_table(languages, families) if families else None
        sizes = {
            "shared": 0,
            "source_language": len(languages),
            "target_language": len(languages),
            "family": len(families),
            "task": len(tasks),
        }
        for weights in {index for entry in (*config.encoder, *config.decoder) for index in indexes(entry)} - {"shared"}:
            if not sizes[weights]:
                raise UserError(
                    f"a layer group is indexed by {weights!r}, but the config defines no {weights.replace('_', ' ')}",
                    remedy="name them in config.families" if weights == "family" else "",
                )

        table = functools.partial(parameter, rngs, "table", stddev=config.initializer_stddev)
        pieces = {"vocabulary": self.table_rows, "embed": width}
        positions = {"positions": config.max_positions, "embed": width}
        types = {"positions": config.embedding_types, "embed": width}
        of_languages = {"groups": len(languages), "embed": width}
        self.embedding = table(pieces)
        self.position_embedding = table(positions) if config.position == "learned" else None
        self.type_embedding = table(types) if config.embedding_types else None
        self.language_embedding = table(of_languages) if config.language_embedding else None
        self.embedding_norm = Norm(config, rngs=rngs) if "embedding" in config.norms else None

        shared_bias = config.position == "relative" and not config.relative["per_layer"]
        buckets = {"positions": config.relative["buckets"], "heads": config.heads}
        self.characters = CharacterEncoder(config, rngs=rngs) if config.character_downsampling else None
        self.encoder = Groups(config, config.encoder, sizes, decoder=False, rngs=rngs)
        self.encoder_relative = table(buckets) if shared_bias else None
        self.encoder_norm = Norm(config, rngs=rngs) if "final" in config.norms else None
        self.cross_lingual = CrossLingualAttention(config, rngs=rngs) if config.cross_lingual else None
        self.decoder = Groups(config, config.decoder, sizes, decoder=True, rngs=rngs) if config.decoder else None
        self.decoder_relative = table(buckets) if shared_bias and config.decoder else None
        self.decoder_norm = Norm(config, rngs=rngs) if config.decoder and "final" in config.norms else None

        self.head = MaskedHead(config, rngs=rngs) if config.head_transform else None
        self.output = None if config.tied_embeddings else table(pieces)
        self.output_bias = parameter(rngs, "bias", {"vocabulary": self.table_rows}) if "head" in config.biases else None
        self.classifiers = Classifiers(config, labels, rngs=rngs)
        self.forms = {task: forms.get(task, Form()) for task in labels}
        self.classifier_transforms = Transforms(config, self.forms, rngs=rngs)
        self.uncertainty = LogVariances(uncertain, rngs=rngs) if uncertain else None

    @property
    def dtype(self) -> Any:
        """The type of the computation: bfloat16 or float32."""
        return computation_type(self.dtype_name, platform())

    # ------------------------------------------------------------------------------------------------ encoder

    @jax.named_scope("embedding")
    def embed(self, rows: Rows, key: jax.Array | None = None, *, n_grams: jax.Array | None = None) -> jax.Array:
        """Return ``[rows, length, width]`` embeddings of tokens (and n-grams), positions and languages.

        Raises:
          UserError: rows are longer than ``model.max_positions`` allows.
        """
        if rows.tokens.shape[1] > self.longest:
            raise UserError(
                f"a row of {rows.tokens.shape[1]} tokens is longer than the model, which takes {self.longest}",
                remedy="shorten the task's rows, or raise model.max_positions",
            )
        # The table stays split over the devices of an fsdp group. Each of them looks up its part of the width for all rows
        # of the group; then the vectors move to the devices of their rows, and their gradients move back. The vectors are
        # fewer bytes than the table.
        x = self.embedding[...][constrain(rows.tokens, "lookup_rows", "length")]
        x = constrain(constrain(x, "lookup_rows", "length", "lookup_embed"), "rows", "length", "activation_embed")
        x = x if n_grams is None else x + n_grams
        if self.position_embedding is not None:
            x = x + self.position_embedding[...][rows.positions + self.position_offset]
        if self.type_embedding is not None:
            x = x + self.type_embedding[...][self.types(rows)]
        if self.language_embedding is not None:
            own = self.language_embedding[...][rows.language]  # [rows, width], or [rows, length, width]
            x = x + (own if own.ndim == 3 else own[:, None])
        x = x if self.embedding_norm is None else self.embedding_norm(x)
        return constrain(dropout(x.astype(self.dtype), self.rate, key), "rows", "length", "activation_embed")

    def types(self, rows: Rows) -> jax.Array | int:
        """Return the type of each token, ``[rows, length]`` int32: 1 after a document's first boundary token, else 0."""
        if self.type_boundary < 0:
            return 0
        is_boundary = (rows.tokens == self.type_boundary).astype(jnp.int32)
        before = jnp.cumsum(is_boundary, axis=1) - is_boundary  # boundary tokens before each token of the row
        first = jnp.maximum(jnp.arange(rows.tokens.shape[1]) - rows.positions, 0)  # where each token's document begins
        return jnp.minimum(before - jnp.take_along_axis(before, first, axis=1), 1)  # [rows, length]

    def encode(
        self,
        rows: Rows,
        *,
        target_language: jax.Array | None = None,
        task: str = "",
        key: jax.Array | None = None,
        same_language_rows: int = 1,
    ) -> jax.Array:
        """Return hidden states ``[rows, length, width]``. A token attends to its own document only.

        Args:
          rows: packed documents.
          target_language: ``[rows]`` language of the output, for weights indexed by it; None: the language of the rows.
          task: selects the weights that are indexed by the task.
          key: the random key of dropout; None: no dropout.
          same_language_rows: length of the runs of consecutive rows that share their languages. Weights are gathered once for
            each run. 0: all rows share their languages.

        Raises:
          UserError: rows are too long, or weights are indexed by the task and no task has this name.
        """
        target = rows.language if target_language is None else target_language
        index = self._index(rows.language, target, rows.language, task, same_language_rows)
        keys = split_key(key, 3 + len(self.encoder.indexes))
        if self.characters is None:
            x = self._layers(self.embed(rows, keys[0]), rows.segment_ids, rows.positions, index, keys[3:])
        else:
            fine_scope = Scope(rows.segment_ids, windowed=self._angles(rows.positions, self.local_rope_theta))
            x = self.embed(rows, keys[0], n_grams=self.characters.n_grams(rows))
            fine, slots = self.characters.downsample(x, rows, fine_scope, keys[1])
            hidden = self._layers(slots.hidden, slots.segment_ids, slots.positions, index, keys[3:])
            x = self.characters.upsample(fine, slots._replace(hidden=hidden), fine_scope, keys[2])
        return x if self.encoder_norm is None else self.encoder_norm(x)

    def _layers(
        self,
        x: jax.Array,
        segment_ids: jax.Array,
        positions: jax.Array,
        index: Mapping[str, jax.Array | None],
        keys: Sequence[jax.Array | None],
    ) -> jax.Array:
        """Run the encoder's layer groups on ``[rows, length, width]``."""
        whole, windowed = (self._angles(positions, theta) for theta in (self.rope_theta, self.local_rope_theta))
        scope = Scope(segment_ids, whole, windowed, self.encoder.bias(self.encoder_relative, x.shape[1]))
        for (_, group, scope_here), key in zip(self.encoder.with_scopes(scope, index), keys):
            x = group(x, scope_here, key=key)
        return x

    def sentence_embeddings(
        self, rows: Rows, *, task: str = "", key: jax.Array | None = None, same_language_rows: int = 1
    ) -> jax.Array:
        """Return ``[rows, width]`` float32: each row's hidden states, pooled by ``model.pooling`` without padding."""
        hidden = self.encode(rows, task=task, key=key, same_language_rows=same_language_rows)
        return pool(hidden, rows.segment_ids, self.pooling)

    def encode_with_source(
        self, target: Rows, source: Rows, *, task: str = "", key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Encode both sides of pairs, and let each target position attend to its source (ERNIE-M, VECO).

        ``encode(target)`` gives the target's hidden states before they attend to the source.

        Args:
          target: rows that attend to their source.
          source: their translations. Document i of a source row is the translation of document i of the target row.
          task: as in :meth:`encode`.
          key: as in :meth:`encode`.

        Returns:
          the fused target ``[rows, length, width]``, and the attention weights ``[rows, length, source length]`` float32.

        Raises:
          UserError: the model has no cross-lingual attention; or for the reasons of :meth:`encode`.
        """
        if self.cross_lingual is None:
            raise UserError(
                "this model has no cross-lingual attention",
                remedy='set model.cross_lingual={"score": "scaled_dot", "fuse": "residual"}',
            )
        lengths = [side.tokens.shape[1] for side in (target, source)]

        def pad(x: jax.Array) -> jax.Array:
            return pad_length(x, 0, max(lengths) - x.shape[1])

        sides = [
            Rows(pad(side.tokens), pad(side.segment_ids), pad(side.positions), side.language)
            for side in (target, source)
        ]
        both = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *sides)  # one pass, one program
        x, y = jnp.split(self.encode(both, task=task, key=key), 2)
        return self.cross_lingual(x[:, : lengths[0]], y[:, : lengths[1]], target.segment_ids, source.segment_ids)

    # ------------------------------------------------------------------------------------------------ decoder

    def decode(
        self,
        rows: Rows,
        memory: jax.Array,
        memory_segment_ids: jax.Array,
        *,
        source_language: jax.Array | None = None,
        task: str = "",
        key: jax.Array | None = None,
        same_language_rows: int = 1,
    ) -> jax.Array:
        """Return the decoder's hidden states ``[rows, length, width]``.

        Each token attends to itself, to earlier tokens and to the memory. If the model has cross-lingual attention, the decoder's
        last hidden states also attend to the memory through it: a layer that was trained to predict masked words of aligned
        sentences thus helps to translate (Luo et al. 2021, VECO).

        Args:
          rows: the target, shifted right. Document i of a row attends to document i of the memory.
          memory: ``[rows, memory length, width]``, the source's hidden states (:meth:`encode`).
          memory_segment_ids: ``[rows, memory length]``.
          source_language: ``[rows]``, for weights indexed by it; None: the language of the target.
          task: as in :meth:`encode`.
          key: as in :meth:`encode`.
          same_language_rows: as in :meth:`encode`.

        Raises:
          UserError: there is no decoder; or for the reasons of :meth:`encode`.
        """
        decoder = self._decoder()
        source = rows.language if source_language is None else source_language
        index = self._index(source, rows.language, rows.language, task, same_language_rows)
        keys = split_key(key, 1 + len(decoder.indexes))
        x = self.embed(rows, keys[0])
        bias = decoder.bias(self.decoder_relative, x.shape[1])
        scope = Scope(
            rows.segment_ids, self._angles(rows.positions, self.rope_theta), None, bias, memory, memory_segment_ids
        )
        for (_, group, scope_here), group_key in zip(decoder.with_scopes(scope, index), keys[1:]):
            x = group(x, scope_here, key=group_key)
        return self._fused(
            x if self.decoder_norm is None else self.decoder_norm(x), memory, rows.segment_ids, memory_segment_ids
        )

    def start_decoding(
        self,
        memory: jax.Array,
        memory_segment_ids: jax.Array,
        *,
        language: jax.Array,
        capacity: int,
        source_language: jax.Array | None = None,
        task: str = "",
        same_language_rows: int = 1,
    ) -> Cache:
        """Return the cache from which :meth:`decode_step` starts: it holds the memory's keys and values, and no token.

        Args:
          memory: ``[rows, memory length, width]``, hidden states of one document a row (:meth:`encode`).
          memory_segment_ids: ``[rows, memory length]``, 1 or 0.
          language: ``[rows]`` language of the output.
          capacity: the largest number of tokens that will be written.
          source_language: ``[rows]``, for weights indexed by it; None: ``language``.
          task: as in :meth:`encode`.
          same_language_rows: as in :meth:`encode`.

        Raises:
          UserError: there is no decoder, or it cannot take ``capacity`` tokens.
        """
        if capacity > self.longest:
            raise UserError(f"the model cannot write {capacity} tokens: it takes rows of at most {self.longest}")
        source = language if source_language is None else source_language
        index = self._index(source, language, language, task, same_language_rows)
        written, remembered = {}, {}
        for name, group, scope in self._decoder().with_scopes(Scope(memory_segment_ids), index):
            keys, values = remembered[name] = group.remember(memory, scope)
            empty = jnp.zeros((*keys.shape[:3], capacity, keys.shape[4]), keys.dtype)
            written[name] = (empty, jnp.zeros_like(empty, values.dtype))
        looked_at = None if self.cross_lingual is None else memory
        return Cache(written, remembered, memory_segment_ids, language, source, looked_at)

    def decode_step(
        self, tokens: jax.Array, position: jax.Array, cache: Cache, *, task: str = "", same_language_rows: int = 1
    ) -> tuple[jax.Array, Cache]:
        """Run the decoder on one token of every row; the result is that of :meth:`decode` at this position.

        Args:
          tokens: ``[rows]`` int32.
          position: ``()`` int32, the same for all rows; the cache holds the earlier positions.
          cache: the cache of :meth:`start_decoding` or of the step before.
          task: as given to :meth:`start_decoding`.
          same_language_rows: as in :meth:`encode`.

        Returns:
          ``[rows, width]`` hidden states, and the cache with this token in it.
        """
        decoder, position = self._decoder(), jnp.asarray(position, jnp.int32)
        here = jnp.broadcast_to(position, (tokens.shape[0], 1))
        rows = Rows(tokens[:, None], jnp.ones_like(here), here, cache.language)
        capacity = jax.tree.leaves(cache.written)[0].shape[3]
        bias = decoder.bias(self.decoder_relative, capacity, position)
        scope = Scope(rows.segment_ids, self._angles(here, self.rope_theta), None, bias, None, cache.memory_segment_ids)
        index = self._index(cache.source_language, cache.language, cache.language, task, same_language_rows)
        x, written = self.embed(rows), {}
        for name, group, scope_here in decoder.with_scopes(scope, index):
            x, written[name] = group.step(x, scope_here, position, cache.written[name], cache.remembered[name])
        x = x if self.decoder_norm is None else self.decoder_norm(x)
        x = self._fused(x, cache.memory, rows.segment_ids, cache.memory_segment_ids)
        return x[:, 0], cache._replace(written=written)

    # ------------------------------------------------------------------------------------------------ heads

    @jax.named_scope("head")
    def masked_head(self, hidden: jax.Array) -> jax.Array:
        """Return the output layer's input ``[rows, positions, width]`` in masked language modelling."""
        return hidden if self.head is None else self.head(hidden)

    def decoder_head(self, hidden: jax.Array) -> jax.Array:
        """Return the output layer's input ``[…, width]`` after a decoder; T5 scales it by 1/√width (Raffel et al. 2020)."""
        return hidden * self.output_scale

    def output_table(self) -> tuple[jax.Array, jax.Array | None]:
        """Return the output layer's ``[table rows, width]`` and bias ``[table rows]`` or None.

        The rows from the vocabulary's size on are padding.
        """
        table = self.embedding if self.output is None else self.output
        return table[...].astype(self.dtype), None if self.output_bias is None else self.output_bias[...]

    def logits(self, read: jax.Array) -> jax.Array:
        """Return ``[…, vocabulary]`` float32 logits of ``[…, width]`` (:meth:`masked_head` or :meth:`decoder_head`)."""
        table, bias = self.output_table()
        logits = jnp.einsum("...w,vw->...v", read, table, preferred_element_type=jnp.float32)
        return (logits if bias is None else logits + bias)[..., : self.vocabulary_size]

    def classify(self, task: str, hidden: jax.Array, segment_ids: jax.Array, *, pooled: bool) -> jax.Array:
        """Return a task's logits: ``[rows, labels]`` of whole texts if ``pooled``, else ``[rows, length, labels]``."""
        pooling, transform = self.forms[task]
        if pooled and pooling != "late":
            hidden = pool(hidden, segment_ids, pooling).astype(hidden.dtype)
        read = hidden if transform == "none" else getattr(self.classifier_transforms, task)(hidden)
        logits = getattr(self.classifiers, task)(read)
        return mean_of_tokens(logits, segment_ids) if pooled and pooling == "late" else logits

    # ------------------------------------------------------------------------------------------------ helpers

    def _decoder(self) -> Groups:
        if self.decoder is None:
            raise UserError("this model has no decoder", remedy="give it layers in model.decoder")
        return self.decoder

    def _fused(
        self, x: jax.Array, memory: jax.Array | None, segment_ids: jax.Array, memory_segment_ids: jax.Array
    ) -> jax.Array:
        """Return a decoder's ``[rows, length, width]`` after cross-lingual attention to the memory, if the model has it."""
        if self.cross_lingual is None:
            return x
        assert memory is not None
        return self.cross_lingual(x, memory, segment_ids, memory_segment_ids)[0]

    def _angles(self, positions: jax.Array, theta: float | None) -> Rotation | None:
        return None if theta is None else rotation(positions, self.head_dim, theta)

    def _index(
        self, source: jax.Array, target: jax.Array, own: jax.Array, task: str, same_language_rows: int = 1
    ) -> dict[str, jax.Array | None]:
        """Return {kind of index: the index of each run's weights}: ``[runs]``, or ``()`` if all rows share their languages."""
        source, target, own = (
            each[::same_language_rows] if same_language_rows else each[0] for each in (source, target, own)
        )
        index: dict[str, jax.Array | None] = {"shared": None, "source_language": source, "target_language": target}
        index["family"] = None if self.family_of is None else jnp.asarray(self.family_of)[own]
        stacks = [groups for groups in (self.encoder, self.decoder) if groups is not None]
        index["task"] = None
        if "task" in {name for groups in stacks for both in groups.indexes for name in both}:
            if task not in self.tasks:
                raise UserError(f"weights are indexed by the task, but {task!r} is not one of {', '.join(self.tasks)}")
            index["task"] = jnp.asarray(self.tasks.index(task))
        return index


def pool(hidden: jax.Array, segment_ids: jax.Array, pooling: str) -> jax.Array:
    """Return ``[rows, width]`` float32 of ``[rows, length, width]``: the mean of the tokens, or the first one."""
    return mean_of_tokens(hidden, segment_ids) if pooling == "mean" else hidden[:, 0].astype(jnp.float32)


def mean_of_tokens(hidden: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """Return the ``[rows, width]`` float32 mean of ``[rows, length, width]`` over the tokens that are not padding."""
    real = (segment_ids > 0)[..., None]
    return (hidden.astype(jnp.float32) * real).sum(axis=1) / jnp.maximum(real.sum(axis=1), 1)
