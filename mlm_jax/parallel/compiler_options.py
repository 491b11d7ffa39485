"""Compiler options by platform that make a training step faster than XLA's defaults do.

The step gets them by ``jax.jit(..., compiler_options=...)``, so that a plan and a run compile with the same options in any
environment. ``XLA_FLAGS`` and ``LIBTPU_INIT_ARGS`` are added to them.
"""

from __future__ import annotations

import jaxlib.version
from jax.sharding import Mesh

Options = dict[str, bool | str]

CPU: Options = {
    # YNNPACK for matrix products only: its sums over rows, as in gradients of biases and norms, take up to 20 times as long
    # as XLA's own in jax 0.10 (docs/training.md).
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT",
}
TPU: Options = {
    # Gather a layer's weights first, then multiply. For operands above this size in MiB (256 by default) XLA multiplies
    # shard by shard as they arrive. With a width of 768 over 16 devices these are products over 48 dimensions, which fill
    # a third of the matrix unit (docs/scale.md).
    "xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000",
}
TPU_SLICES: Options = {
    # All-reduces of gradients between slices are slow: start each as soon as its gradient is computed, whatever its size,
    # and wait for it only when it is used (AI-Hypercomputer/maxtext, benchmarks/xla_flags_library.py, DATA_PARALLEL_OVERLAP).
    "xla_tpu_enable_data_parallel_all_reduce_opt": True,
    "xla_tpu_data_parallel_opt_different_sized_ops": True,
}
GPU: Options = {
    # Order the program so that collectives run while kernels compute (docs.jax.dev, "GPU performance tips").
    "xla_gpu_enable_latency_hiding_scheduler": True,
    "xla_gpu_enable_while_loop_double_buffering": True,
}
# Gather the next layer's weights, and scatter the last one's gradients, one round of the scan ahead (same page).
# XLA refuses the old names from jaxlib 0.11.1 on, and the new ones before.
GPU |= (
    {f"xla_gpu_pipeline_{what}": "COLLECTIVE_PIPELINING_MODE_ON" for what in ("all_gather", "reduce_scatter")}
    if jaxlib.version.__version_info__ >= (0, 11, 1)
    else {f"xla_gpu_enable_pipelined_{what}": True for what in ("all_gather", "reduce_scatter")}
)


def compiler_options(mesh: Mesh) -> Options:
    """Return the options for a program that runs on the devices of a mesh."""
    devices = list(mesh.devices.flat)
    platform = devices[0].platform
    if platform == "tpu":
        slices = {getattr(device, "slice_index", 0) for device in devices}
        return TPU | (TPU_SLICES if len(slices) > 1 else {})
    if platform == "gpu":
        return GPU if len(devices) > 1 else {}  # all options for GPUs concern collectives
    return CPU
