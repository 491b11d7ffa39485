"""FLOPs of a training step, computed from the config, because XLA counts the body of a loop only once.

A multiplication and an addition are two FLOPs. Only matrix products are counted, once forward and twice backward. Attention
counts all keys for which a query's score is computed, padding and other documents of the row included; with a window these
are the keys of its blocks. The output layer counts predicted positions only.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from mlm_jax.model.attention import reference_window_block
from mlm_jax.model.choice import LANES, choose, shapes
from mlm_jax.model.flash import tiles_of
from mlm_jax.model.kernels import block_size, cudnn_window_block
from mlm_jax.model.masks import BLOCKS_AT_LEAST
from mlm_jax.objectives import Context, Objective, create_objectives
from mlm_jax.objectives.traffic import Traffic
from mlm_jax.training.optimizer import axes_by_path
from mlm_jax.training.paths import by_path

TRAINING = 3  # a matrix product has two more in the backward pass, one for the gradient of each argument


@dataclasses.dataclass(frozen=True)
class Flops:
    """FLOPs of one step over all devices.

    Attributes:
      parts: {"encoder", "decoder", "attention", "output" and the like: FLOPs}, forward and backward.
      recomputed: FLOPs that the backward pass repeats to save memory (``model.remat``, ranking in parts). Devices execute
        them, but they do not count in MFU.
    """

    parts: dict[str, float]
    recomputed: float = 0.0

    @property
    def model(self) -> float:
        """Return the FLOPs of the model, forward and backward, as MFU counts them (Chowdhery et al. 2022, appendix B)."""
        return sum(self.parts.values())

    @property
    def executed(self) -> float:
        """Return the FLOPs that devices execute, including repeated ones."""
        return self.model + self.recomputed


def mfu(flops_per_step: float, seconds: float, devices: int, peak: float) -> float:
    """Return model FLOPs utilisation: the model's FLOP/s as a share of the devices' peak.

    Args:
      flops_per_step: the FLOPs per step of all devices together.
      seconds: the duration of a step.
      devices: number of devices.
      peak: FLOP/s of one device.
    """
    return flops_per_step / (seconds * devices * peak)


def step_flops(
    config: ConfigDict,
    context: Context,
    params: Any,
    axes: Any,
    batch: Any,
    *,
    platform: str,
    objectives: Mapping[str, Objective] | None = None,
) -> Flops:
    """Return the FLOPs of a step.

    Args:
      config: the config of the run.
      context: facts about the vocabulary.
      params: tree of arrays or shapes.
      axes: tree of logical axes, from :func:`mlm_jax.model.abstract`.
      batch: {task: TaskBatch} of shapes, the global rows.
      platform: "tpu" | "gpu" | "cpu", which decides how attention is computed.
      objectives: the objectives of a curriculum phase; those of ``config.tasks`` if not given.
    """
    kernels = _kernels(params, axes)
    parts: dict[str, float] = {}
    recomputed = 0.0

    def add(name: str, forward: float) -> None:
        if forward:
            parts[name] = parts.get(name, 0.0) + TRAINING * forward

    for task, objective in (objectives or create_objectives(config.tasks)).items():
        seen = traffic(objective, batch[task], context)
        layers = _layer_flops(config, kernels, seen, platform)
        for name, forward in layers.items():
            add(name, forward)
        head = 2 * sum(size for path, size in kernels.items() if path[0] == "head")
        add("head", seen.headed * head)
        rows = -(-context.vocabulary_size // config.model.vocabulary_multiple) * config.model.vocabulary_multiple
        add("output", 2 * seen.predicted * rows * config.model.width)
        measured = seen.measured * (head + 2 * rows * config.model.width)
        parts |= {"measured": parts.get("measured", 0.0) + measured} if measured else {}  # forward only
        add("compared", 2 * seen.compared * config.model.width)
        of_task = (("classifiers", task, "kernel"), ("classifier_transforms", task, "dense", "kernel"))
        add("classifiers", 2 * seen.classified * sum(kernels.get(path, 0) for path in of_task))
        # Full recomputation repeats the layers' forward pass. "dots" keeps the products except those of attention, which
        # have batch dimensions.
        again = {"none": (), "dots": ("attention",), "full": ("encoder", "decoder", "attention")}[config.model.remat]
        recomputed += sum(layers.get(name, 0.0) for name in again)
        if not objective.additive and config.training.microbatches > 1:
            recomputed += sum(layers.values())
    return Flops(parts, recomputed)


def _visited(length: int, kv_length: int, block: int, kv_block: int, *, window: int, causal: bool) -> int:
    """Return the number of pairs of a query and a key in the blocks that a kernel visits, if a row is one document."""
    reach, visited = window // 2 if window else kv_length, 0
    for first in range(0, length, block):
        last = first + block - 1
        for key_first in range(0, kv_length, kv_block):
            key_last = key_first + kv_block - 1
            near = key_first <= last + (0 if causal else reach) and key_last >= first - reach
            visited += block * kv_block if near else 0
    return visited


def traffic(objective: Objective, batch: Any, context: Context) -> Traffic:
    """Return an objective's traffic for a batch of these shapes."""
    return objective.traffic(jax.eval_shape(lambda batch: objective.prepare(batch, jax.random.key(0), context), batch))


def implementation(model: ConfigDict, platform: str, length: int, kv_length: int, *, biased: bool) -> str:
    """Return the implementation that :func:`mlm_jax.model.choice.choose` chooses for rows of these lengths."""
    if model.attention != "auto":
        return model.attention
    return choose("auto", *shapes(model, length, kv_length, platform), biased=biased, here=platform)


def keys_per_query(
    length: int, kv_length: int, *, window: int, causal: bool, implementation: str, head_dim: int = 64
) -> float:
    """Return the mean number of keys for which :mod:`mlm_jax.model.attention` computes a query's score."""
    if implementation == "splash":
        padded, kv_padded = (-(-size // LANES) * LANES for size in (length, kv_length))
        blocks = block_size(padded), block_size(kv_padded)
        return _visited(padded, kv_padded, *blocks, window=window, causal=causal) / length
    if implementation == "flash":
        blocks = tiles_of(head_dim, window).forward[:2]
        padded, kv_padded = (-(-size // block) * block for size, block in zip((length, kv_length), blocks))
        return _visited(padded, kv_padded, *blocks, window=window, causal=causal) / length
    block, reach = cudnn_window_block(window)
    if implementation == "reference":
        block = reach = reference_window_block(window)
    if window and length == kv_length >= BLOCKS_AT_LEAST * block:
        return (block + 2 * reach) * (-(-length // block) * block) / length
    return kv_length


def _layer_flops(
    config: ConfigDict, kernels: Mapping[tuple[str, ...], int], seen: Traffic, platform: str
) -> dict[str, float]:
    """Return {part: FLOPs forward} of a task's layers."""
    model, down = config.model, config.model.character_downsampling
    slots = -(-seen.length // down) if down else seen.length
    tokens, targets = seen.rows * slots, seen.target_rows * seen.target_length
    wide = model.heads * (model.head_width or model.width // model.heads)

    # Two products: of queries and keys, and of weights and values.
    def attend(rows: int, length: int, seen_keys: float) -> float:
        return 4 * rows * length * seen_keys * wide

    relative = model.position == "relative"

    def keys(length: int, kv_length: int, window: int = 0, causal: bool = False, biased: bool = relative) -> float:
        chosen = implementation(model, platform, length, kv_length, biased=biased)
        return keys_per_query(
            length,
            kv_length,
            window=0 if biased and chosen == "reference" else window,
            causal=causal,
            implementation=chosen,
            head_dim=model.head_width or model.width // model.heads,
        )

    # Target positions with cross-lingual attention to a source: those of aligned rows, or of a decoder's output.
    looking_rows, lookers = (seen.aligned, seen.length) if seen.aligned else (seen.target_rows, seen.target_length)
    looked_at = seen.length
    found = {"encoder": 0.0, "decoder": 0.0, "attention": 0.0, "cross_lingual": 0.0}
    for path, size in kernels.items():
        if path[0] == "encoder":
            found["encoder"] += 2 * size * tokens
        elif path[0] == "decoder" and targets:
            of_memory = "memory_attention" in path and path[-2] in ("key", "value")
            found["decoder"] += 2 * size * (seen.rows * seen.length if of_memory else targets)
        elif path[0] == "characters":
            # The strided convolution runs once for each slot, everything else once for each character.
            found["encoder"] += 2 * size * (tokens if path[1] == "down" else seen.rows * seen.length)
        elif path[0] == "cross_lingual":
            # An additive score has a product for each pair of positions, the other parts one for each position.
            times = {"additive": lookers * looked_at, "source": looked_at}.get(path[1], lookers)
            found["cross_lingual"] += 2 * size * looking_rows * times
    if model.cross_lingual:  # scores, unless they are additive, and the weighted sums of source positions
        products = 1 if model.cross_lingual["score"] == "additive" else 2
        found["cross_lingual"] += products * 2 * looking_rows * lookers * looked_at * model.width
    layers = sum(entry["layers"] for entry in model.encoder)
    whole = -(-layers // max(1, model.global_every))
    everything, near = keys(slots, slots), keys(slots, slots, model.window)
    found["attention"] += attend(seen.rows, slots, whole * everything + (layers - whole) * near)
    if down:
        found["attention"] += 2 * attend(seen.rows, seen.length, keys(seen.length, seen.length, model.window))
    if targets:
        layers = sum(entry["layers"] for entry in model.decoder)
        own = keys(seen.target_length, seen.target_length, causal=True)
        memory = keys(seen.target_length, seen.length, biased=False)
        found["attention"] += layers * attend(seen.target_rows, seen.target_length, own + memory)
    return found


def _kernels(params: Any, axes: Any) -> dict[tuple[str, ...], int]:
    """Return {path of a kernel: elements that one token is multiplied with}: of all layers, and of one group."""
    axes_of = axes_by_path(axes)
    return {
        tuple(path.split("/")): math.prod(
            n for n, axis in zip(leaf.shape, axes_of[path], strict=True) if axis != "groups"
        )
        for path, leaf in by_path(params).items()
        if path.endswith("/kernel")
    }
