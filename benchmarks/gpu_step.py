"""One GPU: our training step in bfloat16 compared with torch's, its time by kernel, and its share of the card's peak.

    python benchmarks/gpu_step.py                        # 22 x 768, 256,000 pieces, rows of 1,024 tokens: at most 8 minutes
    python benchmarks/gpu_step.py --shape xlmr-base      # another shape: see SHAPES in gpu_sides.py
    python benchmarks/gpu_step.py --tiny                 # a smoke run on a CPU: says nothing about speed

Needs a CUDA build of JAX. torch and transformers with CUDA are measured beside it if they are installed: ModernBERT, XLM-R
or mT5 with SDPA and with flex_attention, compiled, fused AdamW, bfloat16 autocast. Neither TensorFlow nor seqio is imported.

Each measurement runs in its own process, so that none holds memory of another: turns of ``--steps`` steps, with a wait
at the end of each turn, as in a training loop. The most important measurements come first. Those that do not fit into
``--minutes`` are listed as skipped, and failed ones are listed with their last error. The time by kernel is measured in one
more process, whose kernels are started one by one. MFU is the share of this card's measured speed of bfloat16 matrix products:
a windowed layer counts its window, not the blocks that are computed, and the output layer only masked positions. The result
goes to benchmarks/results/gpu_step-DATE-DEVICE-SHAPE.json.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from gpu_sides import SHAPES, SIDES, Side

WARM_UP, TURNS = 3, 5
ONE_BY_ONE = "--xla_gpu_enable_command_buffer="  # the profiler sees the kernels of a graph as one event
RESULTS = Path(__file__).parent / "results"


def timed(side: Side, steps: int) -> list[float]:
    """Return the seconds of a step in each turn of ``steps`` steps."""
    seconds = []
    for _ in range(TURNS):
        begun = time.perf_counter()
        for _ in range(steps):
            side.run()
        side.wait()
        seconds.append((time.perf_counter() - begun) / steps)
    return seconds


def in_process(side: str, rows: int, options: argparse.Namespace, seconds: float) -> dict:
    """Run one side in a process of its own; returns its result, or {"failed": reason}."""
    command = [sys.executable, __file__, "--side", side, "--at", str(rows)]
    command += ["--steps", str(options.steps), "--shape", options.shape]
    environment = dict(os.environ)
    if options.tiny:
        environment |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    elif side == "kernels":
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {ONE_BY_ONE}"
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"failed": f"stopped after {seconds:.0f} s"}
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else failure(done.stderr, done.returncode)


def failure(stderr: str, code: int) -> dict:
    """Return {"failed": reason} of a process that ended without a result."""
    if "RESOURCE_EXHAUSTED" in stderr or "out of memory" in stderr.lower():
        return {"failed": "out of memory"}
    lines = stderr.strip().splitlines() or [f"exit code {code}"]
    return {
        "failed": next((line for line in reversed(lines) if re.match(r"[\w.]*(Error|Exception)\b", line)), lines[-1])[
            -500:
        ]
    }


def measure(options: argparse.Namespace) -> dict[str, dict]:
    """Return {"side at rows": result} of all sides, the most important ones first, within the time limit."""
    end = time.monotonic() + 60 * options.minutes
    first, *more = SHAPES[options.shape]["rows"]
    peers = ["sdpa"] if all(map(importlib.util.find_spec, ("torch", "transformers"))) else []
    if peers and not options.tiny and SHAPES[options.shape]["family"] != "mt5":
        peers.append("flex")  # it has no backward pass on a CPU, and cannot add mT5's bias in this way
    found: dict[str, dict] = {}
    longest: dict[str, float] = {}  # {side: seconds of a measurement}

    def add(side: str, rows: int) -> None:
        begun, left = time.monotonic(), end - time.monotonic()
        if left < longest.get(side, 30):
            found[f"{side} at {rows}"] = {"failed": "skipped: no time left"}
            return
        result = found[f"{side} at {rows}"] = in_process(side, rows, options, left)
        took = time.monotonic() - begun
        longest[side] = max(longest.get(side, 0.0), took)
        print(f"{side} at {rows}: {result.get('failed') or 'measured'} ({took:.0f} s)", file=sys.stderr, flush=True)

    for side in ("ceiling", "ours", *peers):
        add(side, first)
    speeds = {side: median(found[f"{side} at {first}"]) for side in peers}
    better = min((side for side in peers if speeds[side]), key=lambda side: speeds[side], default="")
    for rows in more:
        for side in filter(None, ("ours", better)):
            add(side, rows)
    add("kernels", first)
    return found


def median(result: dict) -> float:
    """Return the median seconds of a step; 0 if the measurement failed."""
    return statistics.median(result["seconds"]) if "seconds" in result else 0.0


def summary(shape: dict, found: dict[str, dict]) -> dict:
    """Return tokens/s, memory and MFU of each measurement, our ratio to torch at the same rows and at each side's best."""
    ceiling = found[f"ceiling at {shape['rows'][0]}"]
    peak = ceiling["flops"] / median(ceiling) if "flops" in ceiling else 0.0
    sides: dict[str, dict] = {}
    for name, result in found.items():
        side, rows = name.split(" at ")
        if side not in ("ours", "sdpa", "flex"):
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
    parser.add_argument(
        "--minutes", type=float, default=7.5, help="start no measurement that would end later than this"
    )
    parser.add_argument("--tiny", action="store_true", help="a smoke run on a CPU")
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--at", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--gate", action="store_true", help=argparse.SUPPRESS)  # measure when a line comes from stdin
    options = parser.parse_args()
    if options.side:
        side = SIDES[options.side](SHAPES[options.shape], options.at)
        for _ in range(WARM_UP):
            side.run()
        side.wait()
        if options.gate:
            print("ready", flush=True)
            sys.stdin.readline()
        print(json.dumps({"seconds": timed(side, options.steps)} | side.outcome()))
        return 0
    if options.tiny:
        options.shape = "tiny"
    elif not has_gpu():
        print(
            "gpu_step: error: JAX sees no GPU. Remedy: install a CUDA build, or try the script with --tiny",
            file=sys.stderr,
        )
        return 2
    shape, found = SHAPES[options.shape], measure(options)
    first = shape["rows"][0]
    ceiling, ours = found[f"ceiling at {first}"], found[f"ours at {first}"]
    sides = summary(shape, found)
    if "flops" in ceiling:
        ceiling["flops_per_second"] = ceiling.pop("flops") / median(ceiling)
    result = {
        "date": datetime.date.today().isoformat(),
        "device": ceiling.get("device") or ours.get("device"),
        "shape": {"name": options.shape} | shape,
        "versions": versions(),
        "ceiling": ceiling,
        **sides,
        "compilation_seconds": ours.get("compilation"),
        "profile": found[f"kernels at {first}"].get("profile"),
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
    """Return the versions of the measured libraries."""
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
