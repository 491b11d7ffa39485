"""Kill runs repeatedly, and compare their results with runs that were not killed.

    python benchmarks/kills.py [--kills 100] [--variants prepare adapt plain decoder indexed] [--output RESULTS.json]

A run prepares its data, compiles, trains, evaluates, saves and reports. It is killed (SIGKILL), and the same command
continues, until it is done. Two of three kills come at a file operation: the run, or the process that prepares its data,
kills itself just before a rename, a removal or an fsync (``killed/sitecustomize.py``). All such operations of an unkilled run
take turns, until a process was killed at each. The other kills come at a random time. A kill counts as survived if the run
completes, and if afterwards

* ``metrics.jsonl`` has the same entries as that of the unkilled run, each once, and so have TensorBoard and ``report.json``;
* values are equal bit for bit; if the number of devices changed, losses are equal to 1e-5, and metrics that count hits (accuracy,
  retrieval) exist, because the last bit of a score can change them;
* no process, lock or temporary file is left.

``plain`` runs on one device. ``prepare`` is the same run, but two processes prepare its data. Most of its kills come at
random times of the preparation, and hit the run or one of these processes. ``adapt`` trims and grows a published model before it
prepares its data; most of its kills come before the first step, too. ``decoder`` (with language-indexed weights, a
curriculum and EMA) and ``indexed`` (with adapters, microbatches and Muon) begin on 8 devices and continue on 4, 2 and 1. Only
runs that are killed in these phases prepare their data and compile; the others begin with a copy of a store and use compiled
programs. The script prints the numbers of kills and of survived kills, and a table of file operations by phase of the run;
the exit code is 1 if a kill was not survived. The results are written after each run.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import math
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT, KILLED = Path(__file__).parents[1], Path(__file__).parent / "killed"
SETTINGS = {
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0",  # runs do not start themselves again
    "PYTHONPATH": f"{ROOT}:{KILLED}",
}
DEVICES = {"prepare": (1,), "adapt": (1,), "plain": (1,), "decoder": (8, 4, 2, 1), "indexed": (8, 4, 2, 1)}
KILLS_A_RUN, PLACES_A_RUN = 7, 4
PREPARING = ("prepare", "adapt")  # variants whose runs all prepare their data
KILLS_PREPARING = 5  # of those of a run of these variants
ALONE = 20  # seconds that a process may outlive its parent: Python's start, on a busy machine
SOURCES = "sources"  # folder of what the variant "adapt" adapts
TRIES = 3  # attempts to kill at an operation: a continued run may not reach it, because it has less to do
PHASES = (  # phases of a run: (name, pattern of the file operations in it)
    ("adapt", "adapted"),
    ("prepare", "helper|store"),
    ("compile", "compiled"),
    ("start", r"config\.json|provenance|\.metrics\.jsonl|\.tensorboard"),
    ("steps and evaluation", r"metrics\.jsonl|tensorboard|report\.json"),
    ("checkpoint", "checkpoints|goodput"),
    ("end", r"report\.html|train\.lock"),
)
SPEED = ("train/tokens_per_second", "train/seconds_left")  # differ from run to run
HITS = re.compile("accuracy|retrieval|samples")
ENDINGS = (".incomplete", ".lock", ".old", ".damaged")


class Runs:
    """Starts of the runs of one variant, in a folder that all variants share.

    Args:
      folder: the folder of the workdirs and the compiled programs.
      variant: the variant of the config.
    """

    def __init__(self, folder: Path, variant: str):
        self.folder, self.variant = folder, variant
        self.reference, self.log = folder / f"reference-{variant}", folder / f"operations-{variant}"
        self.output = folder / f"output-{variant}"

    def start(self, workdir: Path, devices: int, kill_at: str = "", *, compiles: bool = False) -> int:
        """Start a run, or continue it, in a fork of this process, which has imported everything; return its process id.

        Args:
          workdir: the workdir of the run.
          devices: the number of its devices.
          kill_at: the operation before which it kills itself, in the format of sitecustomize.py.
          compiles: whether its compiled programs are its own; otherwise those of earlier runs are used.
        """
        process = os.fork()
        if process:
            return process
        import jax
        import sitecustomize

        from mlm_jax import cli

        code = 1
        try:
            os.setsid()
            output = os.open(self.output, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
            os.environ["KILLS_LOG"], os.environ["KILLS_AT"] = str(self.log), kill_at or "0 "
            os.environ["KILLED_SOURCES"] = str(self.folder / SOURCES)
            sitecustomize.watch()
            config = f"{KILLED / 'killed_run.py'}:{self.variant}"
            sys.argv = ["mlm-jax", "train", "--config", config, "--workdir", str(workdir)]
            jax.config.update("jax_compilation_cache_dir", str((workdir if compiles else self.folder) / "compiled"))
            code = cli.main()
        except SystemExit as error:
            code = int(error.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def operations(self) -> list[str]:
        """Return the operations of all starts since the last call."""
        found = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return found

    def said(self) -> str:
        """Return the end of the output of the last starts."""
        return self.output.read_text(errors="replace")[-1500:]


def values(workdir: Path) -> list[tuple[tuple[int, str], float | None]]:
    """Return ((step, key), value) of everything in metrics.jsonl."""
    events = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [((event["step"], key), event[key]) for event in events for key in event if key not in ("step", "time")]


def shown(workdir: Path) -> list[tuple[int, str]]:
    """Return (step, key) of everything in TensorBoard's files."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for file in sorted((workdir / "tensorboard").iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            tags = [value.tag for value in event.summary.value if not value.tag.startswith(("config/", "_hparams_/"))]
            found += [(event.step, tag) for tag in tags]
            data = data[16 + length :]
    return found


def differences(found: Any, wanted: Any, tolerance: float, where: str = "") -> Iterator[str]:
    """Yield where two nested values differ, floats by more than a tolerance."""
    if isinstance(wanted, dict) and isinstance(found, dict) and found.keys() == wanted.keys():
        for key in wanted:
            yield from differences(found[key], wanted[key], tolerance, f"{where} {key}")
    elif isinstance(wanted, list) and isinstance(found, list) and len(found) == len(wanted):
        for one, other in zip(found, wanted):
            yield from differences(one, other, tolerance, where)
    elif isinstance(wanted, float) and isinstance(found, float):
        if not math.isclose(found, wanted, rel_tol=tolerance, abs_tol=tolerance):
            yield f"{where}: {found} and not {wanted}"
    elif found != wanted:
        yield f"{where}: {str(found)[:60]} and not {str(wanted)[:60]}"


def without_hits(content: Any) -> Any:
    """Return nested values, in which a value that counts hits is replaced by whether it exists."""
    if isinstance(content, dict):
        return {key: value is not None if HITS.search(key) else without_hits(value) for key, value in content.items()}
    return [without_hits(value) for value in content] if isinstance(content, list) else content


def problems(workdir: Path, reference: Path, tolerance: float) -> Iterator[str]:
    """Yield what is wrong with a run that was killed and is done."""
    found, wanted = values(workdir), values(reference)
    if len(found) != len(dict(found)):
        yield "a value occurs twice in metrics.jsonl"
    if sorted(shown(workdir)) != sorted(key for key, _ in found):
        yield "TensorBoard's values are not those of metrics.jsonl"
    numbers = [
        {f"step {step} {key}": value for (step, key), value in some if key not in SPEED} for some in (found, wanted)
    ]
    # The config of an adapted model names folders in the workdir.
    texts = [(folder / "report.json").read_text().replace(str(folder), "") for folder in (workdir, reference)]
    pages = [json.loads(text) for text in texts]
    for page in pages:
        page.pop("title")
        page["facts"] = [fact for fact in page["facts"] if "×" not in fact]  # the devices
        page.pop("map", None)  # the signs of its axes depend on the last bits
    if tolerance:
        numbers, pages = without_hits(numbers), without_hits(pages)
    if missing := sorted(numbers[0].keys() ^ numbers[1].keys()):
        yield f"in only one of the two runs: {', '.join(missing)}"
    else:
        yield from differences(*numbers, tolerance)
    yield from (f"report.json{told}" for told in differences(*pages, 10 * tolerance))
    if "</html>" not in (workdir / "report.html").read_text():
        yield "report.html is incomplete"
    # Beside the workdir too: locks and half-written folders have the names of what they guard, such as run.lock or .run.*.
    beside = [file for file in workdir.parent.iterdir() if file.name.strip(".").startswith(f"{workdir.name}.")]
    left = [file for file in workdir.rglob("*") if file.name.endswith(ENDINGS) or "tmp" in file.name]
    yield from (f"left: {file.relative_to(workdir.parent)}" for file in [*left, *beside])


def ended(process: int, seconds: float = math.inf) -> int | None:
    """Wait for a process; return its exit code, or None if it has not ended after some seconds."""
    until = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(process, 0 if seconds == math.inf else os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.01)


def is_alive(session: int) -> bool:
    """Return whether a process of a start still runs; a new process needs seconds to notice that its parent is gone."""
    for _ in range(ALONE * 10):
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.1)
    return True


class Killer:
    """Kills runs of one variant, each several times, and looks at what they leave.

    Args:
      runs: the runs of the variant.
      draw: random numbers that choose times.
      least: the smallest number of kills.
      note: called with kills that have been judged.
    """

    def __init__(self, runs: Runs, draw: random.Random, least: int, note: Callable[[list[dict[str, Any]]], None]):
        self.runs, self.draw, self.least, self.note = runs, draw, least, note
        self.devices = DEVICES[runs.variant]
        self.store = runs.folder / "store"  # most runs begin with a copy of it
        self.kills: list[dict[str, Any]] = []
        self.counts: Counter[str] = Counter()  # how often an unkilled run does each operation
        self.duration = self.preparation = 0.0  # seconds of an unkilled run, and of its preparation of data
        self.number = 0

    def measure(self) -> None:
        """Run without kills, twice: the first run compiles."""
        for workdir in (self.runs.folder / f"run-{self.runs.variant}-first", self.runs.reference):
            begun = time.time()
            if ended(self.runs.start(workdir, self.devices[0])):
                raise SystemExit(f"a run that is not killed fails:\n{self.runs.said()}")
            self.duration = time.time() - begun
            self.preparation = (workdir / "store").stat().st_mtime - begun
            self.counts |= Counter(self.runs.operations())
            if not self.store.exists():
                shutil.copytree(workdir / "store", self.store)

    def kill_all(self, places: Iterable[str]) -> None:
        """Kill until there are enough kills, with one at each of these operations that a run reaches."""
        order = {place: index for index, place in enumerate(self.counts)}  # of the operations of a run
        tries = Counter({place: 0 for place in places if place in order})
        while True:
            killed = {kill.get("before") for kill in self.kills}
            left = [place for place, number in tries.items() if place not in killed and number < TRIES]
            if not left and len(self.kills) >= self.least:
                return
            self.draw.shuffle(left)
            chain = left[:PLACES_A_RUN] or self.draw.sample(list(order), min(PLACES_A_RUN, len(order)))
            tries.update(chain)
            self.kill_one(sorted(chain, key=order.__getitem__), rare=all(tries[place] > 1 for place in chain))

    def kill_one(self, places: list[str], *, rare: bool = False) -> None:
        """Kill one run until it is done, and judge it.

        Args:
          places: operations at which to kill it; other kills come at a random time.
          rare: whether to kill it at the first of equal operations; otherwise at any of them.
        """
        workdir = self.runs.folder / f"run-{self.runs.variant}-{self.number}"
        compiles = any(place.startswith("run") and "compiled" in place for place in places)
        prepares = self.runs.variant in PREPARING or any(place.startswith("helper") for place in places)
        if not prepares and self.number:  # the first one prepares its data
            shutil.copytree(self.store, workdir / "store")
        self.number += 1
        here: list[dict[str, Any]] = []
        wrong: list[str] = []
        while True:
            devices = self.devices[min(len(here), len(self.devices) - 1)]
            enough = len(here) >= KILLS_A_RUN or (not places and len(self.kills) + len(here) >= self.least)
            at_random = len(here) < KILLS_PREPARING if self.runs.variant in PREPARING else len(here) % 3 == 2
            place = "" if enough or at_random or not places else places.pop(0)
            number = 1 if rare or not place else self.draw.randrange(self.counts[place]) + 1
            at = f"{number} {place}" if place else ""
            code, kill = self._start(workdir, devices, at, by_time=not place and not enough, compiles=compiles)
            if kill is None:  # the run is done, or failed
                break
            here += [kill | {"devices": devices}] if kill else []
            if code not in (-signal.SIGKILL, 2) and kill:
                wrong.append(f"exit code {code} after a kill")
        said = self.runs.said() if code else ""
        tolerance = 1e-5 if len({kill["devices"] for kill in here} | {devices}) > 1 else 0.0
        wrong += [f"exit code {code}"] if code else list(problems(workdir, self.runs.reference, tolerance))
        judged = [kill | {"survived": not wrong, "variant": self.runs.variant} for kill in here]
        self.kills += judged
        told = "; ".join(wrong[:5]) or "the same as without"
        print(f"{self.runs.variant} {self.number}: {len(here)} kills, {told}", flush=True)
        if wrong:
            print(json.dumps(here, indent=1), said, flush=True)
            shutil.copytree(workdir, f"{workdir}.wrong")
        shutil.rmtree(workdir)
        self.note(judged)

    def _start(
        self, workdir: Path, devices: int, at: str, *, by_time: bool, compiles: bool
    ) -> tuple[int, dict[str, Any] | None]:
        """Start once; return the exit code, and how the start was killed, or None if it was not."""
        prepared = (workdir / "store").exists()
        is_adapted = self.runs.variant != "adapt" or (workdir / "adapted" / "config.json").exists()
        process = self.runs.start(workdir, devices, at, compiles=compiles)
        after = self.draw.random() * (self.duration if prepared else self.preparation)
        code, killed = ended(process, after if by_time else math.inf), ""
        if code is None:
            victim = self.draw.choice([process, *helpers(process)])
            killed = "run" if victim == process else "helper"
            prepared = (workdir / "store").exists()
            is_adapted = is_adapted or (workdir / "adapted" / "config.json").exists()
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            code = ended(process)
        assert code is not None
        done = self.runs.operations()
        if is_alive(process):
            return 1, {"left": "a process"}
        if killed and code == {"run": -signal.SIGKILL, "helper": 2}[killed]:
            during = {} if prepared else {"phase": "prepare" if is_adapted else "adapt"}
            return code, {"seconds": round(after, 2), "of": killed, "after": done[-1] if done else "nothing"} | during
        # If the process that prepares the data is killed, the run ends with a one-line error.
        helper = code == 2 and at.partition(" ")[2].startswith("helper")
        return code, {"before": at.partition(" ")[2]} if at and (code == -signal.SIGKILL or helper) else None


def helpers(process: int) -> list[int]:
    """Return the processes that a start has begun, and those that they have begun, without Python's resource trackers."""
    found = []
    for child in map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found += [child, *helpers(child)]
    return found


def import_everything() -> None:
    """Import the modules of a run, once: runs are forks of this process, which first restarts itself in their environment."""
    if os.environ.get("PYTHONPATH") != SETTINGS["PYTHONPATH"]:
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | SETTINGS)
    from mlm_jax.run import loop  # noqa: F401


def write_sources(folder: Path) -> None:
    """Write a published model and texts to adapt it with; in a process of its own, because transformers imports torch."""
    code = "import pathlib, sys; from tests.interop.published import published; published(pathlib.Path(sys.argv[1]), 'bert')"
    subprocess.run([sys.executable, "-c", code, str(folder / "model")], cwd=ROOT, check=True, capture_output=True)
    from killed_run import text

    for language in ("en", "de"):
        (folder / f"{language}.txt").write_text("\n".join(text(language, "train")))


def phase_of(place: str) -> str:
    """Return the phase of a run in which it does a file operation."""
    return next((phase for phase, pattern in PHASES if re.search(pattern, place)), "start")


def table_of(kills: Iterable[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Return {phase: {operation, or "any moment": kills}}; a random time is in the phase of the operation before it."""
    table: dict[str, Counter[str]] = {phase: Counter() for phase, _ in PHASES}
    for kill in kills:
        if "left" not in kill:
            operation = kill["before"].split()[1] if "before" in kill else "any moment"
            table[kill.get("phase") or phase_of(kill.get("before") or kill["after"])][operation] += 1
    return {phase: dict(counts) for phase, counts in table.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, nargs="+", default=[100], help="at least: together, or of each variant")
    parser.add_argument("--variants", nargs="+", choices=list(DEVICES), default=list(DEVICES))
    parser.add_argument("--some", action="store_true", help="do not kill at every place")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file for what was measured")
    options = parser.parse_args()
    if len(options.kills) not in (1, len(options.variants)):
        parser.error("--kills takes one number, or one for each variant")
    import_everything()
    draw, begun = random.Random(options.seed), time.monotonic()
    kills: list[dict[str, Any]] = []
    seen: dict[str, None] = {}  # places

    def note(judged: list[dict[str, Any]]) -> None:
        kills.extend(judged)
        if options.output:
            places = {kill["before"] for kill in kills if "before" in kill}
            measured = {"date": datetime.date.today().isoformat(), "kills": len(kills)}
            measured["survived"] = sum(kill["survived"] for kill in kills)
            measured |= {"minutes": round((time.monotonic() - begun) / 60, 1)}
            measured |= {"places": len(seen), "places_killed_at": len(places), "table": table_of(kills), "each": kills}
            measured["passed_by"] = sorted(seen.keys() - places)
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(measured, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        if "adapt" in options.variants:
            write_sources(Path(folder, SOURCES))
        for index, variant in enumerate(options.variants):
            together = (options.kills[0] - len(kills)) // (len(options.variants) - index)
            wanted = together if len(options.kills) == 1 else options.kills[index]
            killer = Killer(Runs(Path(folder), variant), draw, wanted, note)
            killer.measure()
            seen |= dict.fromkeys(killer.counts)
            left = [place for place in seen if place not in {kill.get("before") for kill in kills}]
            share = left[:: len(options.variants) - index]  # the other variants do most of these operations too
            killer.kill_all([] if options.some else share)
    survived = sum(kill["survived"] for kill in kills)
    places = {kill["before"] for kill in kills if "before" in kill}
    minutes = round((time.monotonic() - begun) / 60, 1)
    print(f"{len(kills)} kills × {survived} survived, in {minutes} minutes; at {len(places)} of {len(seen)} places")
    for phase, counts in table_of(kills).items():
        print(f"{phase}: {', '.join(f'{operation} {number}' for operation, number in counts.items())}")
    return int(survived < len(kills))


if __name__ == "__main__":
    sys.exit(main())
