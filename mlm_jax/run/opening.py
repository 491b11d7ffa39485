"""The lines that a run logs before its first step: devices, dtypes, attention kernels, parameters and tokens."""

from __future__ import annotations

import jax.numpy as jnp

from mlm_jax.data.loading import curriculum
from mlm_jax.data.loading.loader import Loader
from mlm_jax.model.layers import computation_type
from mlm_jax.training.cost import batch_shapes, parameters_by_group, phase_flops, tokens_of
from mlm_jax.training.schedule import schedule_line
from mlm_jax.training.slow_attention import attention_of
from mlm_jax.training.step import Program


def opening_lines(program: Program, loader: Loader) -> list[str]:
    """Return a few aligned lines ``name  value``.

    Args:
      program: the program of the run.
      loader: the loader of the run.
    """
    config, mesh = program.config, program.mesh
    device = mesh.devices.flat[0]
    axes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items() if size > 1)
    facts = {
        "devices": f"{mesh.size} × {device.device_kind}" + (f", mesh {axes}" if axes else ""),
        "computes in": jnp.dtype(computation_type(config.model.dtype, device.platform)).name,
        "attention": _attention(program),
        "parameters": _parameters(program),
        "step": _step(program, loader),
        "learning rate": schedule_line(config.optimizer, config.steps, config.curriculum).removeprefix(
            "learning rate: "
        ),
    }
    width = max(map(len, facts))
    return [f"{name:{width}}  {fact}" for name, fact in facts.items()]


def _attention(program: Program) -> str:
    """Return the attention kernel of each kind of layer, and the reason if it is not the accelerator's fast kernel."""
    found: dict[str, None] = {}
    for chosen in attention_of(program.config, program.mesh).values():
        for layers, kernel, obstacle in chosen:
            found[f"{kernel} ({layers})" + (f", since {obstacle.problem}" if obstacle else "")] = None
    return "; ".join(found)


def _parameters(program: Program) -> str:
    """Return the numbers of parameters, such as "2.2 M: embedding 1.5 M, encoder/0 0.5 M, decoder/0 by family 0.2 M"."""
    counts = parameters_by_group(program)
    groups = (f"{name} {in_millions(count)}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
    return f"{in_millions(sum(counts.values()))}: {', '.join(groups)}"


def _step(program: Program, loader: Loader) -> str:
    """Return tokens and FLOPs of a step of the first phase, and the tokens of all steps."""
    phases = loader.phases
    tokens = [tokens_of(batch_shapes(program, phase)) for phase in phases]
    whole = sum(count * (phase.stop_step - phase.start_step) for count, phase in zip(tokens, phases))
    flops = phase_flops(program, curriculum.at(phases, 0), program.mesh.devices.flat[0].platform).model
    in_all = f"{in_millions(whole)} tokens in {program.config.steps:,} steps"
    return f"{tokens[0]:,} tokens, {flops / tokens[0] / 1e6:,.1f} MFLOP a token; {in_all}"


def in_millions(count: int) -> str:
    """Return a number such as "2.2 M", or "43,210" if it is less than 50,000."""
    return f"{count / 1e6:,.1f} M" if count >= 50_000 else f"{count:,}"
