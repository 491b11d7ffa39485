"""Kill a run again and again, and compare what is left with a run that was not killed.

    python benchmarks/kills.py [--kills 100]

A run prepares its data, compiles, trains, evaluates, saves and reports. Every second kill comes at a random time, every
other one at a file operation: the run kills itself (SIGKILL) just before its n-th rename, removal, new folder or fsync.
The same command then continues; a kill survives if the run comes to its end, and if afterwards

* ``metrics.jsonl`` and TensorBoard hold each value once, and losses equal the other run's bit for bit,
* no process, lock or temporary file is left.

Kills of one run follow each other until it is done. Printed is kills × survived; the exit code is 1 if one did not survive.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
STEPS, DEVICES = 6, 2
EVENTS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")  # of Python's audit hooks
CONFIG = """
from tests.tiny import tiny_config
def text(language, split):
    letters, first = {"en": "abcdefgh", "de": "ijklmnop"}[language], {"train": 0, "validation": 100}[split]
    return [" ".join(letters[(i * j + i // 8) % 8] * 3 for j in range(1, 9)) + f" {i}" for i in range(first, first + 60)]
def get_config():
    config = tiny_config("", steps=STEPS)
    config.data.store, config.data.workers = "", 1
    config.data.validation = {"en": "kills_config:text", "de": "kills_config:text"}
    config.data.corpora = {"en": "kills_config:text", "de": "kills_config:text"}
    config.vocabulary.kind = "bytes"
    config.tasks = {"mlm": config.tasks["mlm"]}
    config.evaluation.every, config.evaluation.select = 2, "eval/loss/mean"
    return config
""".replace("STEPS", str(STEPS))
PROGRAM = f"""
import os, signal, sys
left = int(os.environ.get("KILL_AT", "0"))
def count(event, arguments=()):
    global left
    if left and (event in {EVENTS!r} or event == "os.fsync"):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
fsync = os.fsync
os.fsync = lambda descriptor: (count("os.fsync"), fsync(descriptor))[1]
sys.argv[0] = "mlm-jax"
from mlm_jax import cli
sys.exit(cli.main())
"""


def start(workdir: Path, folder: Path, kill_at: int = 0) -> subprocess.Popen:
    """Start the run, or continue it; ``kill_at``: the file operation before which it kills itself."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "PYTHONPATH": f"{ROOT}:{folder}",
        "KILL_AT": str(kill_at),
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0",  # the run does not start itself again
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
    }
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        "train",
        "--config",
        str(folder / "kills_config.py"),
        "--workdir",
        str(workdir),
    ]
    with (folder / "log.txt").open("a") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def values(workdir: Path) -> list[tuple[int, str, float]]:
    """Return (step, key, value) of everything in metrics.jsonl."""
    events = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(event["step"], key, event[key]) for event in events for key in event if key not in ("step", "time")]


def shown(workdir: Path) -> list[tuple[int, str]]:
    """Return (step, key) of everything in TensorBoard's files."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted((workdir / "tensorboard").iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            found += [(event.step, value.tag) for value in event.summary.value if value.tag != "config/text_summary"]
            data = data[16 + length :]
    return found


def problems(workdir: Path, reference: Path, session: list[int]) -> list[str]:
    """Return what is wrong with a run that was killed and is done."""
    found, wanted, wrong = values(workdir), values(reference), []
    keys = [(step, key) for step, key, _ in found]
    if len(keys) != len(set(keys)):
        wrong.append("a value stands twice in metrics.jsonl")
    if sorted(shown(workdir)) != sorted(keys):
        wrong.append("TensorBoard does not hold what metrics.jsonl holds")
    same = {(step, key): value for step, key, value in wanted if "loss" in key or key.startswith("eval/")}
    if {(step, key): value for step, key, value in found if (step, key) in same} != same:
        wrong.append("losses differ")
    endings = (".incomplete", ".lock", ".old")
    left = [file for file in workdir.rglob("*") if file.name.endswith(endings) or "tmp" in file.name]
    wrong += [f"left: {file.relative_to(workdir)}" for file in left]
    for leader in session:
        try:
            os.killpg(leader, 0)
            wrong.append("a process is left")
        except ProcessLookupError:
            pass
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw, kills, survived, number, starts = random.Random(options.seed), 0, 0, 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "kills_config.py").write_text(CONFIG)
        for reference in ("compiles", "reference"):  # later runs read the first one's compiled programs
            begun = time.monotonic()
            if start(folder / reference, folder).wait():
                print((folder / "log.txt").read_text())
                return 1
        duration = time.monotonic() - begun
        while kills < options.kills:
            workdir, done, here, session = folder / f"run{number}", False, 0, []
            while not done:
                starts, kill = starts + 1, kills + here < options.kills
                by_event = starts % 2 == 1
                process = start(workdir, folder, draw.randrange(1, 60) if by_event and kill else 0)
                session.append(process.pid)
                if not by_event and kill:
                    try:
                        process.wait(draw.uniform(0.1, 0.9) * duration)
                    except subprocess.TimeoutExpired:
                        process.send_signal(signal.SIGKILL)
                code = process.wait()
                here += code == -signal.SIGKILL
                done = code != -signal.SIGKILL
            wrong = problems(workdir, folder / "reference", session) if code == 0 else [f"exit code {code}"]
            kills, survived, number = kills + here, survived + here * (not wrong), number + 1
            print(f"run {number}: {here} kills, {', '.join(wrong) or 'the same as without'}", flush=True)
            if code:
                print((folder / "log.txt").read_text()[-2000:])
    print(f"{kills} kills × {survived} survived")
    return int(survived < kills)


if __name__ == "__main__":
    sys.exit(main())
