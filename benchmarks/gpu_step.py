"""One GPU: our step in bfloat16 against torch's, the share of its matrix products' speed, memory, the largest batch.

    python benchmarks/gpu_step.py --rows 16 --json gpu.json     # 22 x 768, 256 k pieces, rows of 1,024 tokens
    python benchmarks/gpu_step.py --tiny                        # a smoke run on CPU: says nothing about speed

Needs a CUDA build of JAX; torch and transformers with CUDA for the comparison, which is left out where they are missing.
Neither TensorFlow nor seqio is imported. Each side runs in processes of its own, one after the other, ours and theirs in
turn, so that neither holds the other's memory; medians are printed. MFU is against the bfloat16 matrix products that this
GPU was measured to do, in the same run.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

SHAPE = {"layers": 22, "width": 768, "heads": 12, "mlp": 1152, "vocabulary": 256_000, "length": 1024}
TINY = {"layers": 2, "width": 64, "heads": 2, "mlp": 96, "vocabulary": 512, "length": 64}
MASK_RATE, WARM_UP, LARGEST = 0.3, 3, 1024


def our_side(shape: dict, rows: int, steps: int) -> dict:
    """Return seconds of steps of ours, peak memory, and the model's FLOPs a step."""
    import jax
    import numpy as np

    from mlm_jax import model as model_room
    from mlm_jax.config import default_config
    from mlm_jax.data.loading.batch import Rows
    from mlm_jax.parallel.batches import to_devices
    from mlm_jax.parallel.mesh import make_mesh
    from mlm_jax.training.context import planned_context
    from mlm_jax.training.flops import step_flops
    from mlm_jax.training.step import build_program, make_train_step

    config = default_config()
    config.vocabulary.size = shape["vocabulary"]
    config.model.update(width=shape["width"], heads=shape["heads"], mlp_width=shape["mlp"], dtype="bfloat16",
                        encoder=({"layers": shape["layers"], "weights": "shared"},), max_positions=shape["length"],
                        cross_entropy_chunk=32)  # fmt: skip
    config.tasks = {"mlm": {"objective": "mlm", "rows": rows, "length": shape["length"], "mask_rate": MASK_RATE}}
    config.optimizer.schedule, config.optimizer.warmup_steps = "constant", 0
    mesh = make_mesh(config.mesh)
    context = planned_context(("en",), config)
    program = build_program(config, context, ("en",), mesh)
    step, state = make_train_step(program), program.initialise()
    tokens = np.random.default_rng(0).integers(120, shape["vocabulary"], (rows, shape["length"])).astype(np.int32)
    positions = np.tile(np.arange(shape["length"], dtype=np.int32), (rows, 1))
    batch = {"mlm": {"inputs": Rows(tokens, np.ones_like(tokens), positions, np.zeros(rows, np.int32))}}
    axes = model_room.abstract(config, vocabulary_size=context.vocabulary_size, languages=("en",))[2]
    platform = jax.devices()[0].platform
    flops = step_flops(config, context, program.state.params, axes, batch, platform=platform).model
    placed, holder = to_devices(batch, mesh), [state]

    def run() -> None:
        holder[0] = step(holder[0], placed)
        jax.block_until_ready(holder[0].step)

    seconds = timed(run, steps)
    memory = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    return {"seconds": seconds, "memory": memory, "flops": flops, "device": jax.devices()[0].device_kind}


def torch_side(shape: dict, rows: int, steps: int) -> dict:
    """Return the same of transformers' ModernBERT with SDPA, torch.compile and fused AdamW, under bfloat16 autocast."""
    import torch
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = ModernBertForMaskedLM(ModernBertConfig(
        vocab_size=shape["vocabulary"], hidden_size=shape["width"], num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"], intermediate_size=shape["mlp"], max_position_embeddings=shape["length"],
        sparse_prediction=True, pad_token_id=0, bos_token_id=3, eos_token_id=1, cls_token_id=3, sep_token_id=1,
        attn_implementation="sdpa",
    )).to(device)  # fmt: skip
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, fused=True)
    compiled = torch.compile(model) if device == "cuda" else model
    tokens = torch.randint(120, shape["vocabulary"], (rows, shape["length"]), device=device)

    def run() -> None:
        chosen = torch.rand(tokens.shape, device=device) < MASK_RATE
        labels = torch.where(chosen, tokens, -100)
        inputs = torch.where(chosen & (torch.rand(tokens.shape, device=device) < 0.8), 4, tokens)
        with torch.autocast(device, torch.bfloat16):
            loss = compiled(input_ids=inputs, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()

    return {"seconds": timed(run, steps), "memory": torch.cuda.max_memory_allocated() if device == "cuda" else 0}


def ceiling_side(shape: dict, rows: int, steps: int) -> dict:
    """Return the bfloat16 FLOP/s of a large matrix product, and how far cuDNN's attention is from the reference."""
    import jax
    import jax.numpy as jnp

    from mlm_jax.model.attention import attention

    on_gpu = jax.default_backend() == "gpu"
    size, times = (8192, 20) if on_gpu else (512, 2)
    a = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    product = jax.jit(lambda a: jax.lax.fori_loop(0, times, lambda _, x: x @ a * 0.01, a))
    seconds = statistics.median(timed(lambda: product(a).block_until_ready(), steps))
    parity = None
    if on_gpu:
        query, key, value = (jax.random.normal(jax.random.key(i), (4, 512, 12, 64), jnp.bfloat16) for i in range(3))
        segments = jnp.repeat(jnp.array([[1, 2, 3, 0]]), 128, axis=1).repeat(4, axis=0)

        def outcome(implementation: str, window: int) -> jax.Array:
            def total(query: jax.Array) -> jax.Array:
                mixed = attention(query, key, value, segment_ids=segments, window=window, implementation=implementation)
                return jnp.sum(jnp.where(segments[..., None, None] > 0, mixed, 0).astype(jnp.float32) ** 2)

            return jnp.stack([*map(jnp.ravel, jax.jit(jax.grad(total))(query)[None].astype(jnp.float32))])

        parity = max(float(jnp.abs(outcome("cudnn", w) - outcome("reference", w)).max()) for w in (0, 128))
    return {"flops_per_second": times * 2 * size**3 / seconds, "parity": parity}


def timed(run: Callable[[], object], steps: int) -> list[float]:
    """Return the seconds of ``steps`` runs after some to warm up."""
    for _ in range(WARM_UP):
        run()
    seconds = []
    for _ in range(steps):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    return seconds


SIDES = {"ours": our_side, "torch": torch_side, "ceiling": ceiling_side}


def in_process(side: str, rows: int, steps: int, tiny: bool) -> dict | None:
    """Run one side in a process of its own; None if it ran out of memory."""
    command = [sys.executable, __file__, "--side", side, "--rows", str(rows), "--steps", str(steps)]
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | ({"JAX_PLATFORMS": "cpu"} if tiny else {})
    done = subprocess.run([*command, "--tiny"] if tiny else command, env=environment, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if "RESOURCE_EXHAUSTED" in done.stderr or "out of memory" in done.stderr.lower():
        return None
    sys.exit(f"{done.stderr[-3000:]}\n{side} failed")


def largest_batch(side: str, rows: int) -> int:
    """Return the largest power of two times ``rows`` that a step of this side has memory for; 0 if not even ``rows``."""
    fits = 0
    while rows <= LARGEST and in_process(side, rows, 1, False):
        fits, rows = rows, 2 * rows
    return fits


def has_gpu() -> bool:
    """Return whether JAX sees a GPU."""
    import jax

    return any(device.platform == "gpu" for device in jax.devices())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="a smoke run on CPU")
    parser.add_argument("--json", help="also write the result here")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    shape = TINY if options.tiny else SHAPE
    if options.side:
        print(json.dumps(SIDES[options.side](shape, options.rows, options.steps)))
        return 0
    if not options.tiny and not has_gpu():
        print("gpu_step: error: JAX sees no GPU. Remedy: install a CUDA build, or look with --tiny", file=sys.stderr)
        return 2
    sides = ["ours"] + (["torch"] if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers") else [])
    measured: dict[str, list[dict]] = {side: [] for side in sides}
    ceiling = in_process("ceiling", options.rows, options.steps, options.tiny)
    for _ in range(options.rounds):
        for side in sides:
            found = in_process(side, options.rows, options.steps, options.tiny)
            if found is None:
                sys.exit(f"{side} has no memory for {options.rows} rows: take fewer with --rows")
            measured[side].append(found)
    assert ceiling is not None
    tokens = options.rows * shape["length"]
    seconds = {side: statistics.median(s for run in runs for s in run["seconds"]) for side, runs in measured.items()}
    first = measured["ours"][0]
    share = first["flops"] / seconds["ours"] / ceiling["flops_per_second"]
    result = {
        "device": first["device"], "rows": options.rows, "shape": shape, "mfu": share,
        "matmul_flops_per_second": ceiling["flops_per_second"], "cudnn_largest_difference": ceiling["parity"],
    }  # fmt: skip
    for side in sides:
        memory = max(run["memory"] for run in measured[side])
        result[side] = {"tokens_per_second": tokens / seconds[side], "peak_bytes": memory}
        print(f"{side:6s} {tokens / seconds[side]:12,.0f} tokens/s, {memory / 1e9:6.1f} GB at most")
        if not options.tiny:
            result[side]["largest_batch"] = largest_batch(side, options.rows)
            print(f"{side:6s} {result[side]['largest_batch']} rows of {shape['length']} fit (of {options.rows} doubled)")
    if "torch" in sides:
        result["ratio"] = seconds["torch"] / seconds["ours"]
        print(f"{result['ratio']:.2f}x torch, SDPA and torch.compile")
    print(f"MFU {share:.1%} of {ceiling['flops_per_second'] / 1e12:.1f} TFLOP/s, on {first['device']}"
          f"; cuDNN's attention differs by at most {ceiling['parity']}")  # fmt: skip
    if options.tiny:
        print("a smoke run on CPU: none of these numbers says anything about speed")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
