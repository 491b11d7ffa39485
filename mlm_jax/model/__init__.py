"""The model: a Transformer as ``config.model`` describes it. Its parameters are a plain nested dict.

``create`` makes a model, ``merge`` puts parameters into it, and ``abstract`` returns their shapes and logical axes without
allocating them. ``parameters.py`` has the initial values. The tree of parameters, as paths such as
``encoder/0/layers/attention/query/kernel``; a configuration has those that it needs::

    embedding                        [vocabulary, width]   rows rounded up to a multiple of vocabulary_multiple
    position_embedding               [max_positions, width]          position = "learned"
    type_embedding                   [embedding_types, width]        row 0 is added
    language_embedding               [languages, width]
    embedding_norm/…                 norm = scale [width], bias [width]
    characters/…                     character_downsampling: hashes [8, 16384, width / 8], first/… and last/… (layers),
        down/kernel [r, width, width], up/kernel [r, 2 width, width], biases, down_norm/…, up_norm/…
    encoder/<group>/layers/…         layer; every array is [layers, …], or [layers, groups, …] if weights are indexed
        attention_norm/…             (not used by layer 0 after an embedding norm, unless "first_attention")
        attention/query/…            kernel [width, heads, head_dim], bias [heads, head_dim]
        attention/key/…              kernel [width, kv_heads, head_dim], bias [kv_heads, head_dim]
        attention/value/…            as key
        attention/output/…           kernel [heads, head_dim, width], bias [width]
        attention/relative           [buckets, heads]                position = "relative" with per_layer
        mlp_norm/…
        mlp/up/…, mlp/gate/…         kernel [width, mlp_width], bias [mlp_width]; act(gate) · up, or act(up) without a gate
        mlp/down/…                   kernel [mlp_width, width], bias [width]
        adapter/norm/…               unless adapter_norm = "reused"
        adapter/down/…, adapter/up/… kernels [width, adapter] and [adapter, width], biases
        adapter/weights/…            the three above as [layers, groups, …], if only adapters are indexed
    encoder_relative                 [buckets, heads]                position = "relative", one table for all layers
    encoder_norm/…                   "final" in norms
    cross_lingual/fusion/…           kernel [width or 2 width, width], bias; the score's own: bilinear/kernel,
        scale [], or target/kernel, source/kernel, additive/kernel
    decoder/<group>/layers/…         as the encoder's, and
        memory_norm/…, memory_attention/{query, key, value, output}/…
    decoder_relative, decoder_norm/…
    head/dense/…, head/norm/…        kernel [width, width]           head_transform
    output                           [vocabulary, width]             unless tied_embeddings
    output_bias                      [vocabulary]
    classifiers/<task>/…             kernel [width, labels], bias [labels]
    classifier_transforms/<task>/…   dense, norm                     the task's transform
    uncertainty/<task>               ()                              tasks whose weight in the loss is learned

Axes of activations, as comments at line ends and docstrings name them, and the letters that stand for them in ``einsum``::

    rows r        sequences of a batch; runs: consecutive rows that share language-indexed weights
    length q      tokens of a row that attend (queries); kv_length k: tokens that they attend to (keys)
    heads         of queries; kv_heads n: of keys and values; g: heads / kv_heads, the query heads of one of them
    head_dim d    of one head; width w: of the residual stream; mlp_width: inside the feed-forward layer
    positions p   of a row that are predicted; vocabulary v: pieces
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx
from ml_collections import ConfigDict

from mlm_jax.common.errors import UserError
from mlm_jax.model.heads import Form
from mlm_jax.model.transformer import Cache, Transformer

__all__ = ["Cache", "Transformer", "abstract", "create", "merge"]

# {number of axes before those that a parameter was declared with: their logical names}
STACKED: tuple[tuple[str, ...], ...] = ((), ("layers",), ("layers", "groups"))


def create(
    config: ConfigDict,
    *,
    vocabulary_size: int,
    languages: tuple[str, ...],
    labels: Mapping[str, int] | None = None,
    seed: int | jax.Array = 0,
) -> tuple[Any, dict[str, Any]]:
    """Return (graphdef, parameters) of the model that ``config`` describes; parameters are a plain nested dict.

    Args:
      config: a run's config.
      vocabulary_size: pieces of the vocabulary.
      languages: language codes in index order.
      labels: {classification task: number of labels}.
      seed: the seed of the initial weights, or its key, which may be traced.

    Raises:
      UserError: ``config.model`` has a value that does not exist, or values that do not fit each other.
    """
    graphdef, state = nnx.split(_build(config, vocabulary_size, languages, labels, seed), nnx.Param)
    return graphdef, nnx.to_pure_dict(state)


def abstract(
    config: ConfigDict, *, vocabulary_size: int, languages: tuple[str, ...], labels: Mapping[str, int] | None = None
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Return (graphdef, shapes, logical axes) of a model without allocating anything.

    Shapes are ``ShapeDtypeStruct``; logical axes are tuples of names in :data:`mlm_jax.parallel.rules.RULES`. Both are trees
    like that of the parameters. Arguments and errors are those of :func:`create`.
    """
    found: dict[str, Any] = {}

    def build() -> dict[str, Any]:
        found["graphdef"], state = nnx.split(_build(config, vocabulary_size, languages, labels, 0), nnx.Param)
        found["axes"] = {path: variable.get_metadata()["axes"] for path, variable in nnx.to_flat_state(state)}
        return nnx.to_pure_dict(state)

    def axes_of(path: Any, leaf: jax.ShapeDtypeStruct) -> tuple[str, ...]:
        declared = found["axes"][tuple(entry.key for entry in path)]
        return STACKED[len(leaf.shape) - len(declared)] + declared

    shapes = jax.eval_shape(build)
    return found["graphdef"], shapes, jax.tree_util.tree_map_with_path(axes_of, shapes)


def merge(graphdef: Any, params: Any, *, rope_bases: tuple[float, float] | None = None) -> Transformer:
    """Return the model with these parameters.

    Args:
      graphdef: the graphdef of :func:`create` or :func:`abstract`.
      params: nested dict of arrays.
      rope_bases: (``rope_theta``, ``local_rope_theta``) to use instead of those of ``config.model``, or None.

    Raises:
      UserError: the model has no RoPE whose base could be changed.
    """
    model = nnx.merge(graphdef, params)
    if rope_bases is not None:
        if model.rope_theta is None:
            raise UserError("a curriculum phase changes rope_theta, but the model has no RoPE")
        model.rope_theta, model.local_rope_theta = rope_bases
    return model


def _build(
    config: ConfigDict,
    vocabulary_size: int,
    languages: tuple[str, ...],
    labels: Mapping[str, int] | None,
    seed: int | jax.Array,
) -> Transformer:
    forms = {
        task: Form(entry.get("pooling", "mean"), entry.get("transform", "none")) for task, entry in config.tasks.items()
    }
    uncertain = tuple(task for task, entry in config.tasks.items() if entry.get("weight") == "uncertainty")
    return Transformer(
        config.model,
        vocabulary_size=vocabulary_size,
        languages=languages,
        families=config.families,
        tasks=tuple(config.tasks),
        labels=labels or {},
        forms=forms,
        uncertain=uncertain,
        rngs=nnx.Rngs(seed),
    )
