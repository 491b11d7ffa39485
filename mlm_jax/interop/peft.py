"""LoRA as a folder of the peft library: only the low-rank products, to be loaded onto the model from which training began."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlm_jax.checkpoints.checkpoint import Loaded, check_arrays, host, load_parameters
from mlm_jax.common.errors import UserError
from mlm_jax.config.keys import KEY
from mlm_jax.interop.exporting import is_written, special_ids, written_as
from mlm_jax.interop.family import Bound, Contents, Facts, bind
from mlm_jax.interop.folder import new_folder
from mlm_jax.interop.model_card import unchanged_source, write_lora_card
from mlm_jax.interop.sentence_modules import write_json
from mlm_jax.interop.task_heads import QUESTION, SEQUENCE, TOKEN, form_of
from mlm_jax.interop.tensors import TensorWriter
from mlm_jax.model.lora import is_low_rank
from mlm_jax.training.paths import by_path

CONFIG, WEIGHTS, PREFIX = "adapter_config.json", "adapter_model.safetensors", "base_model.model."
TASK_TYPES = {SEQUENCE: "SEQ_CLS", TOKEN: "TOKEN_CLS", QUESTION: "QUESTION_ANS"}


def export_peft(checkpoint: str | Path, out: str | Path, *, family: str = "", task: str = "") -> Path:
    """Write the low-rank products of a model with LoRA as a folder that ``peft.PeftModel.from_pretrained`` loads.

    If a published family joins several of our kernels in one matrix (ModernBERT's Wqkv), the rank of that matrix is the sum
    of the ranks of our products.

    Args:
      checkpoint: a workdir, or one of its checkpoints.
      out: the new folder, which must not exist yet.
      family: ``model_type`` of the base model; "": the first that can express the model.
      task: the task whose head is written beside the products; "": no head.

    Returns:
      ``out``.

    Raises:
      UserError: the model has no LoRA, or more than LoRA was trained; no family can express it; or the disk is full. Nothing is
        half-written.
    """
    loaded = load_parameters(checkpoint, device=host())
    check_arrays(loaded)
    settings = loaded.config.model.lora
    _check(loaded, checkpoint)
    loaded.config.model.lora = {}
    every = {path: np.asarray(value) for path, value in by_path(loaded.params).items()}
    start = loaded.vocabulary.pad_id  # the first token of a decoder, on which no product depends
    facts = Facts(every["embedding"].shape[0], loaded.languages, special_ids(loaded.vocabulary, start))
    chosen, model, theirs, base = written_as(loaded, task, facts, family)
    base = base or (chosen.base if Contents.of_model(model).head or chosen.only_output else "")
    plain = {path: value for path, value in every.items() if not is_low_rank(path) and is_written(path, task)}
    bound = bind(chosen, {path: value.shape for path, value in plain.items()}, model, loaded.languages, base)
    tensors: dict[str, np.ndarray] = {}
    ranks: dict[str, int] = {}
    for name, one in bound.items():
        if (found := low_rank_of(one, every)) is not None:
            module = name.removesuffix(".weight")
            tensors[f"{PREFIX}{module}.lora_A.weight"], tensors[f"{PREFIX}{module}.lora_B.weight"] = found
            ranks[module.removeprefix(base)] = len(found[0])
    of_task = [name for name, one in bound.items() if one.parts[0][0].startswith(("classifiers/", "classifier_tr"))]
    tensors |= {f"{PREFIX}{name}": bound[name].to_theirs(every) for name in of_task}
    out = Path(os.path.abspath(out))
    with new_folder(out) as scratch:
        objective = loaded.config.tasks[task]["objective"] if task else ""
        described = describe(settings, ranks, sorted({name.removeprefix(base).split(".")[0] for name in of_task}))
        described["task_type"] = TASK_TYPES[form_of(objective, task)[0]] if task else None
        source = unchanged_source(loaded)
        described["base_model_name_or_path"] = source or None
        write_json(scratch / CONFIG, described)
        write_lora_card(scratch, loaded, source, theirs, task)
        writer = TensorWriter(scratch, shard_bytes=1 << 62)
        for name, value in tensors.items():
            writer.add(name, value)
        writer.close()
        (scratch / "model.safetensors").rename(scratch / WEIGHTS)
    return out


def _check(loaded: Loaded, checkpoint: str | Path) -> None:
    if not loaded.config.model.lora:
        raise UserError(
            "this model has no LoRA", file=checkpoint, remedy="train with model.lora, or export the whole model"
        )
    if tuple(map(tuple, loaded.config.optimizer.freeze_table)) != KEY["optimizer.freeze_table"].default:
        raise UserError(
            "more than LoRA may have been trained, since the run has an optimizer.freeze_table of its own",
            file=checkpoint,
            remedy="export the whole model",
        )


def low_rank_of(one: Bound, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return peft's A ``[rank, in]`` and B ``[out, rank]`` of a matrix of the family; None if it has no low-rank product.

    Args:
      one: the matrix, and our kernels that it joins.
      arrays: {path: array} of our model.
    """
    firsts, seconds, row = [], [], 0
    for path, index, shape in one.parts:
        outputs = int(np.prod(shape[one.inputs :]))
        beside = f"{path.removesuffix('/kernel')}/low_rank"
        if f"{beside}/first/kernel" in arrays:
            first, second = (arrays[f"{beside}/{part}/kernel"][index] for part in ("first", "second"))
            firsts.append(first.reshape(-1, first.shape[-1]).T)  # [rank, in]
            padded = np.zeros((one.shape[0], len(second)), np.float32)
            padded[row : row + outputs] = second.reshape(len(second), -1).T
            seconds.append(padded)
        row += outputs
    return (np.concatenate(firsts), np.concatenate(seconds, axis=1)) if firsts else None


def describe(settings: Mapping[str, Any], ranks: Mapping[str, int], saved: list[str]) -> dict[str, Any]:
    """Return adapter_config.json without the names of task and base model.

    Args:
      settings: ``config.model.lora``.
      ranks: {module of the family: rank}.
      saved: modules that are trained completely: the head of a task.
    """
    rank, alpha = settings["rank"], settings.get("alpha", settings["rank"])
    larger = {name: own for name, own in ranks.items() if own != rank}
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": [*ranks],
        "rank_pattern": larger,
        "alpha_pattern": {name: alpha * own / rank for name, own in larger.items()},  # so that alpha / rank stays
        "modules_to_save": saved or None,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
