"""One GPU: all that is measured on it, in one command of at most ten minutes, the most important measurements first.

    pip install -e '.[cuda,hf,demo]' torch sentence-transformers     # CUDA builds of JAX and torch
    python benchmarks/gpu_all.py                                     # at most 9.5 minutes
    python benchmarks/gpu_all.py --only mt5-small,translate          # a second call for what the first one left out
    python benchmarks/gpu_all.py --tiny                              # a smoke run on a CPU: says nothing about speed

Needs no network, TensorFlow or seqio. Without torch and transformers only our side is measured; [demo] is the text of the
part ``use``. Expected minutes of processor time by part, on 16 cores (compiling: it overlaps; measuring takes 2 to 15 s each):

    mmbert-base   ceiling 0.3, ours 1.1, flex_attention 1.7, time by kernel 1.1, SDPA 1.1
    mmbert-small  ours 1.0, flex_attention 1.6
    sharing       a decoder for each of four target languages: ours 1.0, torch 1.5
    mt5-small     ours 0.8, torch 1.2
    use           weights and tokenizers 0.5, then embed and translate, ours and torch: 0.3 to 0.6 each
    more rows     ours 1.1 and flex_attention 1.7, with 48 rows

Several processes compile at the same time, as many as the card's memory allows. When one is ready, all others are stopped
(SIGSTOP) until it is measured. After each measurement, its result is printed and all results are written to
benchmarks/results/gpu_all-DATE-DEVICE.json. If the time is up, or the script is ended by a signal, nothing that was
measured is lost; what is missing is listed with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import importlib.util
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gpu_step
from gpu_sides import SHAPES

ROOT = Path(__file__).parents[1]
CARD = 72  # GB that processes may hold together
AT_THE_END = 5.0  # seconds kept for ending


@dataclasses.dataclass
class Job:
    """One measurement.

    Attributes:
      part: the part that it belongs to.
      name: its name within the part.
      command: arguments of Python; the process prints "ready", waits for a line, and prints a JSON object.
      memory: GB that it is expected to hold.
      profiled: whether kernels are started one by one, so that the profiler sees them.
    """

    part: str
    name: str
    command: list[str]
    memory: float
    profiled: bool = False


def step_jobs(shape: str, part: str, memory: dict[str, float], rows: int, steps: int) -> list[Job]:
    """Return the jobs of a shape's training step: {side: GB that it is expected to hold}, in this order."""
    script = [
        str(ROOT / "benchmarks" / "gpu_step.py"),
        "--gate",
        "--shape",
        shape,
        "--at",
        str(rows),
        "--steps",
        str(steps),
    ]
    return [
        Job(part, f"{side} at {rows}", [*script, "--side", side], each, side == "kernels")
        for side, each in memory.items()
    ]


def all_jobs(options: argparse.Namespace, folder: Path) -> list[Job]:
    """Return all jobs, the most important ones first; those of ``use`` read the models in ``folder``."""
    if options.tiny:
        jobs = step_jobs("tiny", "tiny", {"ceiling": 1, "ours": 1, "sdpa": 1, "kernels": 1}, 4, 1)
        jobs += step_jobs("tiny-sharing", "tiny-sharing", {"ours": 1, "sdpa": 1}, 8, 1)
    else:
        base = {"ceiling": 4, "ours": 18, "flex": 22, "kernels": 18, "sdpa": 28}
        jobs = step_jobs("mmbert-base", "mmbert-base", base, 16, 8)
        jobs += step_jobs("mmbert-small", "mmbert-small", {"ours": 24, "flex": 45}, 32, 8)
        jobs += step_jobs("sharing", "sharing", {"ours": 20, "sdpa": 40}, 128, 8)
        jobs += step_jobs("mt5-small", "mt5-small", {"ours": 14, "sdpa": 35}, 32, 8)
    size = ["--tiny"] if options.tiny else []
    for what in ("embed", "translate, greedy", "translate, 4 beams"):
        for number, who in enumerate(("ours", "torch")):
            side = ["--side", what, str(number), "--folder", str(folder), "--runs", "1" if options.tiny else "3"]
            jobs.append(Job("use", f"{what}: {who}", ["-m", "benchmarks.gpu_use", "--gate", *side, *size], 12))
    if not options.tiny:
        jobs += step_jobs("mmbert-base", "more rows", {"ours": 45, "flex": 56}, 48, 8)
    if not all(map(importlib.util.find_spec, ("torch", "transformers"))):
        jobs = [job for job in jobs if job.part != "use" and not job.name.startswith(("sdpa", "flex"))]
    wanted = options.only.split(",") if options.only else []
    return [job for job in jobs if not wanted or any(each in f"{job.part} {job.name}" for each in wanted)]


class Worker:
    """The process of a job, in a session of its own."""

    def __init__(self, job: Job, events: queue.Queue, *, tiny: bool):
        self.job, self.begun, self.errors = job, time.monotonic(), ""
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONPATH": str(ROOT)}
        if tiny:
            environment |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        elif job.profiled:
            environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {gpu_step.ONE_BY_ONE}"
        self.process = subprocess.Popen(
            [sys.executable, *job.command],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._read, args=(events,), daemon=True).start()
        self.reader = threading.Thread(target=self._read_errors, daemon=True)
        self.reader.start()

    def _read(self, events: queue.Queue) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            events.put((self, line.strip()))
        events.put((self, None))

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors += line

    def signal(self, number: int) -> None:
        """Send a signal to the process and those that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def go(self) -> None:
        """Let a ready process measure."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def failure(self) -> dict:
        """Return why the process ended without a result."""
        self.process.wait()
        self.reader.join(timeout=5)  # a process that it started may hold the pipe open
        return gpu_step.failure(self.errors, self.process.returncode)


def measured(
    jobs: list[Job], end: float, may_begin: Callable[[Job], bool], *, together: int, tiny: bool
) -> Iterator[tuple[Job, dict]]:
    """Yield each job's result as soon as it is known; all processes have ended when the iterator is closed."""
    waiting, running = list(jobs), set[Worker]()
    events: queue.Queue[tuple[Worker, str | None]] = queue.Queue()
    results: set[Worker] = set()  # workers whose result is known, but which have not ended
    try:
        while waiting or running:
            left = end - time.monotonic()
            if left <= 0:
                break
            held = sum(worker.job.memory for worker in running)
            able = filter(may_begin, waiting)
            fits = next((job for job in able if not running or held + job.memory <= CARD), None)
            if fits is not None and len(running) < together:
                waiting.remove(fits)
                running.add(Worker(fits, events, tiny=tiny))
                continue
            try:
                worker, line = events.get(timeout=min(left, 1))
            except queue.Empty:
                continue
            if line is None:
                running.discard(worker)
                if worker not in results:
                    yield worker.job, worker.failure()
            elif line == "ready":
                others = running - {worker}
                for other in others:
                    other.signal(signal.SIGSTOP)
                time.sleep(0.3)  # kernels that they have started end
                worker.go()
                later = []
                with contextlib.suppress(queue.Empty):
                    while True:
                        who, line = events.get(timeout=max(end - time.monotonic(), 0.01))
                        if who is not worker:
                            later.append((who, line))
                        elif line is None or line.startswith("{"):
                            break
                for other in others:
                    other.signal(signal.SIGCONT)
                for event in later:
                    events.put(event)
                if line is None:
                    running.discard(worker)
                    yield worker.job, worker.failure()
                elif line.startswith("{"):
                    results.add(worker)
                    yield worker.job, json.loads(line) | {"process_seconds": time.monotonic() - worker.begun}
        for worker in running - results:
            yield worker.job, {"failed": f"no time left: stopped after {time.monotonic() - worker.begun:.0f} s"}
        for job in waiting:
            yield job, {"failed": "no time left: not begun"}
    finally:
        for worker in running:
            worker.signal(signal.SIGKILL)
            worker.process.wait()


def models(options: argparse.Namespace, jobs: list[Job], folder: Path) -> str:
    """Write the models of the part ``use``, beside other measurements' compilation; returns why that failed, or ""."""
    if not any(job.part == "use" for job in jobs):
        return ""
    command = [sys.executable, "-m", "benchmarks.gpu_use", "--make", "--folder", str(folder)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    command += ["--tiny"] if options.tiny else []
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    return gpu_step.failure(done.stderr, done.returncode)["failed"] if done.returncode else ""


def ratios(found: dict[str, dict[str, dict]]) -> dict[str, float]:
    """Return {measurement: our speed / the best of torch's} of all that both sides have."""
    result: dict[str, float] = {}
    for part, sides in found.items():
        for name, ours in sides.items():
            if part == "use" and name.endswith(": ours"):
                torch = sides.get(name.replace(": ours", ": torch"), {})
                if "per_second" in ours and "per_second" in torch:
                    result[name.removesuffix(": ours")] = ours["per_second"] / torch["per_second"]
            elif name.startswith("ours at "):
                rows = name.split(" at ")[1]
                theirs = [gpu_step.median(sides.get(f"{side} at {rows}", {})) for side in ("sdpa", "flex")]
                best = min(filter(None, theirs), default=0.0)
                if best and gpu_step.median(ours):
                    result[f"{part}, {rows} rows"] = best / gpu_step.median(ours)
    return result


def line_of(job: Job, result: dict) -> str:
    """Return what is printed about a measurement."""
    if "failed" in result:
        return result["failed"]
    took = f"({result['process_seconds']:.0f} s with compilation)"
    if "per_second" in result:
        return f"{result['per_second']:,.0f} a second {took}"
    milliseconds = 1e3 * gpu_step.median(result)
    if "bytes_per_second" in result:
        speeds = f"{result['flops'] / milliseconds / 1e9:.0f} TFLOP/s, {result['bytes_per_second'] / 1e12:.2f} TB/s"
        return f"{speeds}, errors of attention's gradient {result['gradient_errors']} {took}"
    if profile := result.get("profile"):
        stages = ", ".join(f"{stage} {each:.2f}" for stage, each in profile["stages"].items())
        return f"{profile['milliseconds']:.1f} ms on the device: {stages} {took}"
    return f"{milliseconds:.1f} ms, {result['memory'] / 1e9:.1f} GB {took}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=9.5, help="everything ends after this time")
    parser.add_argument(
        "--only", help="measure only what has one of these words in its part or name, separated by commas"
    )
    parser.add_argument("--together", type=int, default=3, help="processes that compile at the same time")
    parser.add_argument("--tiny", action="store_true", help="a smoke run on a CPU")
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args()
    begun = time.monotonic()
    end = begun + 60 * options.minutes - AT_THE_END
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # processes are ended on the way out
    if not options.tiny and not gpu_step.has_gpu():
        print("gpu_all: error: JAX sees no GPU. Remedy: install a CUDA build, or try --tiny", file=sys.stderr)
        return 2
    record: dict = {"date": datetime.date.today().isoformat(), "device": None, "versions": gpu_step.versions()}
    found: dict[str, dict[str, dict]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        jobs = all_jobs(options, Path(scratch))
        making = threading.Thread(
            target=lambda: record.update(no_models=models(options, jobs, Path(scratch))), daemon=True
        )
        making.start()

        def may_begin(job: Job) -> bool:
            return job.part != "use" or not making.is_alive()

        for job, result in measured(jobs, end, may_begin, together=options.together, tiny=options.tiny):
            found.setdefault(job.part, {})[job.name] = result
            record["device"] = record["device"] or result.get("device")
            record |= {"minutes": (time.monotonic() - begun) / 60, "times_torch": ratios(found), "measured": found}
            print(f"{record['minutes']:4.1f} min  {job.part:14s} {job.name:24s} {line_of(job, result)}", flush=True)
            write(record, options)
    for name, ratio in ratios(found).items():
        print(f"{ratio:.2f}x torch: {name}")
    if options.tiny:
        print("a smoke run on a CPU: none of these numbers says anything about speed")
    failed = [each["failed"] for sides in found.values() for each in sides.values() if "failed" in each]
    return 1 if any(not why.startswith(("no time left", "out of memory")) for why in failed) else 0


def write(record: dict, options: argparse.Namespace) -> None:
    """Write the results so far, whole."""
    device = re.sub(r"\W+", "-", record["device"] or "unknown")
    file = options.json or gpu_step.RESULTS / f"gpu_all-{record['date']}-{device}.json"
    if options.tiny and not options.json:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(
        json.dumps(record | {"shapes": {part: SHAPES[part] for part in record["measured"] if part in SHAPES}}, indent=1)
        + "\n"
    )
    part.replace(file)


if __name__ == "__main__":
    sys.exit(main())
