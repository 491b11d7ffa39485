"""One GPU: our training step in bfloat16 beside torch's, where its time goes, and the share of the card's matrix products.

    python benchmarks/gpu_step.py                        # 22 x 768, 256,000 pieces, rows of 1,024 tokens: at most 8 minutes
    python benchmarks/gpu_step.py --shape xlmr-base      # another shape: see SHAPES
    python benchmarks/gpu_step.py --tiny                 # a smoke run on a CPU: says nothing about speed

Needs a CUDA build of JAX. torch and transformers with CUDA are measured beside it if they are installed: ModernBERT or XLM-R
with SDPA and with flex_attention, compiled, fused AdamW, bfloat16 autocast. Neither TensorFlow nor seqio is imported.

Each measurement has a process of its own, so that none holds another's memory. The most important ones come first: the
ceiling, then every side at the same rows, then each side at more rows. What does not fit into ``--minutes`` is listed as
skipped, and what fails is listed with its last error. MFU is the share of the bfloat16 matrix products that this card was
measured to do: a windowed layer counts its window, not the blocks that are computed, and the output layer hidden positions
only. The result goes to benchmarks/results/gpu_step-DATE-DEVICE.json.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHAPES = {
    "mmbert-base": {
        "family": "modernbert",
        "layers": 22,
        "width": 768,
        "heads": 12,
        "mlp": 1152,
        "vocabulary": 256_000,
        "length": 1024,
        "mask_rate": 0.3,
        "rows": (16, 48, 32),
    },
    "mmbert-small": {
        "family": "modernbert",
        "layers": 22,
        "width": 384,
        "heads": 6,
        "mlp": 1152,
        "vocabulary": 256_000,
        "length": 1024,
        "mask_rate": 0.3,
        "rows": (16, 64, 32),
    },
    "xlmr-base": {
        "family": "xlmr",
        "layers": 12,
        "width": 768,
        "heads": 12,
        "mlp": 3072,
        "vocabulary": 250_002,
        "length": 512,
        "mask_rate": 0.15,
        "rows": (32, 96, 64),
    },
    "tiny": {
        "family": "modernbert",
        "layers": 2,
        "width": 64,
        "heads": 2,
        "mlp": 96,
        "vocabulary": 512,
        "length": 64,
        "mask_rate": 0.3,
        "rows": (4, 8),
    },
}
WINDOW, GLOBAL_EVERY = 128, 3
WARM_UP, PROFILED, KERNELS = 3, 3, 25
STAGES = ("embedding", "memory_attention", "attention", "feed_forward", "head", "cross_entropy", "optimizer")
RESULTS = Path(__file__).parent / "results"


# ---------------------------------------------------------------------------------------------------------------- ours


def our_config(shape: dict, rows: int) -> Any:
    """Return the config of our side."""
    from mlm_jax.config import default_config

    config = default_config()
    config.vocabulary.size = shape["vocabulary"]
    config.model.update(
        width=shape["width"],
        heads=shape["heads"],
        mlp_width=shape["mlp"],
        dtype="bfloat16",
        window=WINDOW,
        encoder=({"layers": shape["layers"], "weights": "shared"},),
        max_positions=shape["length"],
        global_every=GLOBAL_EVERY,
    )
    if shape["family"] == "xlmr":
        config.model.update(
            position="learned",
            norm_position="post",
            norms=("embedding",),
            activation="gelu",
            global_every=1,
            biases=("norm", "attention", "mlp", "head"),
            max_positions=shape["length"] + 2,
            position_offset=2,
            embedding_types=1,
        )
    config.tasks = {
        "mlm": {"objective": "mlm", "rows": rows, "length": shape["length"], "mask_rate": shape["mask_rate"]}
    }
    config.optimizer.schedule, config.optimizer.warmup_steps = "constant", 0
    return config


def our_side(shape: dict, rows: int, steps: int) -> dict:
    """Return seconds of our steps, peak memory, FLOPs of a step, and where its time goes."""
    import jax
    import numpy as np

    from mlm_jax import model as model_room
    from mlm_jax.data.loading.batch import Rows
    from mlm_jax.parallel.batches import to_devices
    from mlm_jax.parallel.mesh import make_mesh
    from mlm_jax.training.context import planned_context
    from mlm_jax.training.flops import step_flops
    from mlm_jax.training.step import build_program, make_train_step

    config = our_config(shape, rows)
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    context = planned_context(("en",), config)
    program = build_program(config, context, ("en",), mesh)
    step, state = make_train_step(program), program.initialise()
    tokens = np.random.default_rng(0).integers(120, shape["vocabulary"], (rows, shape["length"])).astype(np.int32)
    positions = np.tile(np.arange(shape["length"], dtype=np.int32), (rows, 1))
    batch = {"mlm": {"inputs": Rows(tokens, np.ones_like(tokens), positions, np.zeros(rows, np.int32))}}
    axes = model_room.abstract(config, vocabulary_size=context.vocabulary_size, languages=("en",))[2]
    platform = jax.devices()[0].platform
    parts = step_flops(config, context, program.state.params, axes, batch, platform=platform).parts
    placed = to_devices(batch, mesh)
    begun = time.perf_counter()
    compiled = step.lower(state, placed).compile()
    compilation = time.perf_counter() - begun
    holder = [state]

    def run() -> None:
        with jax.set_mesh(mesh):
            holder[0] = compiled(holder[0], placed)
        jax.block_until_ready(holder[0].step)

    seconds = timed(run, steps)
    memory = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    return {
        "seconds": seconds,
        "compilation": compilation,
        "memory": memory,
        "device": jax.devices()[0].device_kind,
        "flops": sum(parts.values()) - parts["attention"] + attention_flops(shape, rows),
        "profile": profile(run, compiled.as_text()),
    }


def attention_flops(shape: dict, rows: int) -> float:
    """Return FLOPs of attention in a step, forward and twice backward; a query of a windowed layer has its window's keys."""
    length, layers = shape["length"], shape["layers"]
    whole = -(-layers // GLOBAL_EVERY) if shape["family"] == "modernbert" else layers
    keys = whole * length + (layers - whole) * min(WINDOW + 1, length)
    return 3 * 4 * rows * length * keys * shape["width"]


def profile(run: Callable[[], None], program: str) -> dict:
    """Trace some steps and return milliseconds a step by stage and by kernel, as the device counted them.

    Args:
      run: does one step.
      program: optimised HLO, whose metadata has the stage (``jax.named_scope``) of each kernel.
    """
    import jax

    stage_of = {
        name: next((stage for stage in STAGES if f"{stage}/" in path or f"({stage})" in path), "other")
        for name, path in re.findall(r'%?([\w.-]+) = .*?metadata=\{[^}]*?op_name="([^"]*)"', program)
    }
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(PROFILED):
                run()
        file = next(Path(folder).rglob("*.xplane.pb"))
        trace = jax.profiler.ProfileData.from_file(str(file))
        kernels: dict[str, float] = collections.defaultdict(float)
        for plane in trace.planes:
            on_gpu = plane.name.startswith("/device:GPU")
            for line in plane.lines:
                if on_gpu and not line.name.startswith("Stream"):
                    continue  # XLA's own lines repeat what the streams say
                for event in line.events:
                    operation = dict(event.stats).get("hlo_op")
                    if operation or on_gpu:
                        kernels[str(operation or event.name)] += event.duration_ns / 1e6 / PROFILED
    stages: dict[str, float] = collections.defaultdict(float)
    for name, milliseconds in kernels.items():
        stages[stage_of.get(name, "other")] += milliseconds
    longest = sorted(kernels, key=lambda name: -kernels[name])[:KERNELS]
    return {
        "milliseconds": sum(kernels.values()),
        "kernels_a_step": len(kernels),
        "stages": dict(sorted(stages.items(), key=lambda item: -item[1])),
        "longest": [[name, stage_of.get(name, "other"), kernels[name]] for name in longest],
    }


# --------------------------------------------------------------------------------------------------------------- torch


def torch_side(attention: str) -> Callable[[dict, int, int], dict]:
    """Return the side of transformers with an attention implementation: compiled, fused AdamW, bfloat16 autocast."""

    def side(shape: dict, rows: int, steps: int) -> dict:
        import torch
        from transformers import ModernBertConfig, ModernBertForMaskedLM, XLMRobertaConfig, XLMRobertaForMaskedLM

        device = "cuda" if torch.cuda.is_available() else "cpu"
        common = {
            "vocab_size": shape["vocabulary"],
            "hidden_size": shape["width"],
            "num_hidden_layers": shape["layers"],
            "num_attention_heads": shape["heads"],
            "intermediate_size": shape["mlp"],
            "attn_implementation": attention,
        }
        if shape["family"] == "xlmr":
            model = XLMRobertaForMaskedLM(
                XLMRobertaConfig(
                    **common,
                    max_position_embeddings=shape["length"] + 2,
                    type_vocab_size=1,
                    hidden_dropout_prob=0.0,
                    attention_probs_dropout_prob=0.0,
                )
            )
        else:
            model = ModernBertForMaskedLM(
                ModernBertConfig(
                    **common,
                    max_position_embeddings=shape["length"],
                    sparse_prediction=True,
                    local_attention=WINDOW,
                    global_attn_every_n_layers=GLOBAL_EVERY,
                    pad_token_id=0,
                    bos_token_id=3,
                    eos_token_id=1,
                    cls_token_id=3,
                    sep_token_id=1,
                )
            )
        model = model.to(device).train()
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=5e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, fused=True
        )
        compiled = torch.compile(model) if device == "cuda" else model
        tokens = torch.randint(120, shape["vocabulary"], (rows, shape["length"]), device=device)
        hidden = int(shape["length"] * shape["mask_rate"])  # as many in each row, as ours; so shapes stay the same

        def run() -> None:
            chosen = torch.zeros(tokens.shape, dtype=torch.bool, device=device)
            chosen.scatter_(1, torch.rand(tokens.shape, device=device).topk(hidden, dim=1).indices, True)
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

    return side


# ------------------------------------------------------------------------------------------------------------- ceiling


def ceiling_side(shape: dict, rows: int, steps: int) -> dict:
    """Return FLOP/s of a large bfloat16 product, bytes/s of a copy, and how exact attention in bfloat16 is."""
    import jax
    import jax.numpy as jnp

    on_gpu = jax.default_backend() == "gpu"
    size, times = (8192, 20) if on_gpu else (512, 2)
    a = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    product = jax.jit(lambda a: jax.lax.fori_loop(0, times, lambda _, x: x @ a * 0.01, a))
    seconds = statistics.median(timed(lambda: product(a).block_until_ready(), steps))
    large = jnp.ones((2**28 if on_gpu else 2**20,), jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    copied = statistics.median(timed(lambda: copy(large).block_until_ready(), steps))
    return {
        "flops_per_second": times * 2 * size**3 / seconds,
        "bytes_per_second": 2 * large.nbytes / copied,
        "gradient_errors": attention_errors(),
        "device": jax.devices()[0].device_kind,
    }


def attention_errors() -> dict[str, float]:
    """Return |g − g₃₂| / |g₃₂| of the gradients of attention in bfloat16, by this platform's kernel and by the reference."""
    import jax
    import jax.numpy as jnp

    from mlm_jax.model.attention import attention

    keys = jax.random.split(jax.random.key(0), 3)
    exact = [jax.random.normal(key, (2, 1024, 4, 64), jnp.float32).astype(jnp.bfloat16) for key in keys]
    segments = jnp.tile(
        jnp.repeat(jnp.array([1, 2, 3, 0]), jnp.array([500, 20, 404, 100]), total_repeat_length=1024), (2, 1)
    )

    def gradients(implementation: str, window: int, dtype: Any) -> list[jax.Array]:
        def total(arrays: list[jax.Array]) -> jax.Array:
            mixed = attention(*arrays, segment_ids=segments, window=window, implementation=implementation)
            return jnp.sum(jnp.where(segments[..., None, None] > 0, mixed, 0).astype(jnp.float32) ** 2)

        found = jax.jit(jax.grad(total))([array.astype(dtype) for array in exact])
        return jnp.concatenate([jnp.ravel(each).astype(jnp.float32) for each in found])

    errors = {}
    for window in (0, WINDOW):
        wanted = gradients("reference", window, jnp.float32)
        for implementation in ("auto", "reference"):
            difference = gradients(implementation, window, jnp.bfloat16) - wanted
            errors[f"{implementation}, window {window}"] = float(jnp.linalg.norm(difference) / jnp.linalg.norm(wanted))
    return errors


# ------------------------------------------------------------------------------------------------------------ measuring


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


SIDES = {"ceiling": ceiling_side, "ours": our_side, "sdpa": torch_side("sdpa"), "flex": torch_side("flex_attention")}


def in_process(side: str, rows: int, options: argparse.Namespace, seconds: float) -> dict:
    """Run one side in a process of its own; returns its result, or {"failed": why}."""
    command = [
        sys.executable,
        __file__,
        "--side",
        side,
        "--at",
        str(rows),
        "--steps",
        str(options.steps),
        "--shape",
        options.shape,
    ]
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if options.tiny:
        environment |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"failed": f"stopped after {seconds:.0f} s"}
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if "RESOURCE_EXHAUSTED" in done.stderr or "out of memory" in done.stderr.lower():
        return {"failed": "out of memory"}
    return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][-500:]}


def measure(options: argparse.Namespace) -> dict[str, dict]:
    """Return {"side at rows": result} of all sides, the most important ones first, within the time that there is."""
    end = time.monotonic() + 60 * options.minutes
    first, *more = SHAPES[options.shape]["rows"]
    peers = ["sdpa"] if all(map(importlib.util.find_spec, ("torch", "transformers"))) else []
    peers += ["flex"] if peers and not options.tiny else []  # flex_attention has no backward pass on a CPU
    found: dict[str, dict] = {}
    longest: dict[str, float] = {}  # {side: seconds of a measurement}

    def add(side: str, rows: int) -> None:
        left = end - time.monotonic()
        if left < longest.get(side, 30):
            found[f"{side} at {rows}"] = {"failed": "skipped: no time left"}
            return
        begun = time.monotonic()
        result = found[f"{side} at {rows}"] = in_process(side, rows, options, left)
        longest[side] = max(longest.get(side, 0.0), time.monotonic() - begun)
        print(
            f"{side} at {rows}: {result.get('failed') or 'measured'} ({longest[side]:.0f} s)",
            file=sys.stderr,
            flush=True,
        )

    add("ceiling", first)
    for side in ("ours", *peers):
        add(side, first)
    speeds = {side: median(found[f"{side} at {first}"]) for side in peers}
    better = [min((side for side in peers if speeds[side]), key=lambda side: speeds[side], default="")]
    for rows in more:
        for side in ("ours", *filter(None, better)):
            add(side, rows)
    return found


def median(result: dict) -> float:
    """Return the median seconds of a step; 0 if the measurement failed."""
    return statistics.median(result["seconds"]) if "seconds" in result else 0.0


def summary(shape: dict, found: dict[str, dict]) -> dict:
    """Return tokens/s, memory and MFU of each measurement, our ratio to torch at the same rows and at each side's best."""
    peak = found[f"ceiling at {shape['rows'][0]}"].get("flops_per_second")
    sides: dict[str, dict] = {}
    for name, result in found.items():
        side, rows = name.split(" at ")
        if side == "ceiling":
            continue
        if not (seconds := median(result)):
            sides[name] = {"failed": result["failed"]}
            continue
        sides[name] = {
            "milliseconds": 1e3 * seconds,
            "tokens_per_second": int(rows) * shape["length"] / seconds,
            "peak_bytes": result["memory"],
        }
        if "flops" in result and peak:
            sides[name]["mfu"] = result["flops"] / seconds / peak

    def fastest(names: tuple[str, ...], rows: str = "") -> float:
        speeds = [
            each.get("tokens_per_second", 0.0)
            for name, each in sides.items()
            if name.split(" at ")[0] in names and name.split(" at ")[1] == (rows or name.split(" at ")[1])
        ]
        return max(speeds, default=0.0)

    first, theirs = str(shape["rows"][0]), ("sdpa", "flex")
    pairs = {
        "same_rows": (fastest(("ours",), first), fastest(theirs, first)),
        "best": (fastest(("ours",)), fastest(theirs)),
    }
    return {
        "sides": sides,
        "times_torch": {name: ours / torch for name, (ours, torch) in pairs.items() if ours and torch},
    }


def has_gpu() -> bool:
    """Return whether JAX sees a GPU, asked in a process of its own, which then holds no memory."""
    code = "import jax; print(any(d.platform == 'gpu' for d in jax.devices()))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "True"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="mmbert-base")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=7.5, help="no measurement begins that would not end by then")
    parser.add_argument("--tiny", action="store_true", help="a smoke run on a CPU")
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--at", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(SIDES[options.side](SHAPES[options.shape], options.at, options.steps)))
        return 0
    if options.tiny:
        options.shape = "tiny"
    elif not has_gpu():
        print("gpu_step: error: JAX sees no GPU. Remedy: install a CUDA build, or look with --tiny", file=sys.stderr)
        return 2
    shape, found = SHAPES[options.shape], measure(options)
    first = shape["rows"][0]
    ceiling, ours = found[f"ceiling at {first}"], found[f"ours at {first}"]
    result = {
        "date": datetime.date.today().isoformat(),
        "device": ceiling.get("device") or ours.get("device"),
        "shape": {"name": options.shape} | shape,
        "versions": versions(),
        "ceiling": ceiling,
        **summary(shape, found),
        "compilation_seconds": ours.get("compilation"),
        "profile": ours.get("profile"),
    }
    report(result)
    if options.tiny:
        print("a smoke run on a CPU: none of these numbers says anything about speed")
    device = re.sub(r"\W+", "-", result["device"] or "unknown")
    file = options.json or (
        None if options.tiny else RESULTS / f"gpu_step-{result['date']}-{device}-{options.shape}.json"
    )
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=1) + "\n")
    failed = {name: each["failed"] for name, each in (found | result["sides"]).items() if "failed" in each}
    return 1 if any(not why.startswith(("skipped", "out of memory")) for why in failed.values()) else 0


def versions() -> dict[str, str]:
    """Return the versions of what is measured."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("jax", "jaxlib", "torch", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def report(result: dict) -> None:
    """Print the result as tables."""
    print(f"{result['device']}, {result['date']}, {result['shape']['name']}")
    ceiling = result["ceiling"]
    if "failed" in ceiling:
        print(f"ceiling: {ceiling['failed']}")
    else:
        print(
            f"ceiling: {ceiling['flops_per_second'] / 1e12:.1f} TFLOP/s, {ceiling['bytes_per_second'] / 1e12:.2f} TB/s"
        )
        for name, error in ceiling["gradient_errors"].items():
            print(f"relative error of attention's gradient in bfloat16: {error:.1e} ({name})")
    for name, each in result["sides"].items():
        if "failed" in each:
            print(f"{name:16s} {each['failed']}")
            continue
        mfu = f"   MFU {each['mfu']:.1%}" if "mfu" in each else ""
        print(
            f"{name:16s} {each['milliseconds']:8.1f} ms {each['tokens_per_second']:12,.0f} tokens/s "
            f"{each['peak_bytes'] / 1e9:6.1f} GB{mfu}"
        )
    for name, ratio in result["times_torch"].items():
        print(f"{ratio:.2f}x torch ({name.replace('_', ' ')})")
    if traced := result["profile"]:
        print(
            f"our step on the device: {traced['milliseconds']:.1f} ms; compiled in {result['compilation_seconds']:.0f} s"
        )
        for stage, milliseconds in traced["stages"].items():
            print(f"  {stage:18s} {milliseconds:8.2f} ms")
        for name, stage, milliseconds in traced["longest"]:
            print(f"    {milliseconds:8.2f} ms  {stage:14s} {name}")


if __name__ == "__main__":
    sys.exit(main())
