"""Makes a process kill itself just before a file operation. Python imports this first, also in child processes.

``KILLS_LOG`` names a file that gets a line for each rename, removal and fsync below its folder. ``KILLS_AT`` is "N PLACE":
before its N-th operation at this place, the process sends SIGKILL to itself.
"""

import os
import re
import signal
import sys
from collections import Counter

EVENTS = ("os.rename", "os.remove", "os.rmdir", "shutil.rmtree")  # of Python's audit hooks
NAMES = (  # what differs from run to run
    (r"^(run|reference)[^/]*/?", ""),
    (r"^compiled/\.?jit_.*-cache", "compiled/PROGRAM"),
    (r"[0-9a-f]{8}(?=\.incomplete)", "*"),
    (r"events\.out\.tfevents.*", "events"),
    (r"(?<=checkpoints/)\d+", "STEP"),
    (r"[0-9a-f]{32}", "HASH"),
)


def place_of(event: str, file: str) -> str:
    """Return what an operation is called: the process, the operation and the file, without what differs from run to run."""
    role = "helper" if "spawn_main" in " ".join(sys.orig_argv) else "run"
    for pattern, name in NAMES:
        file = re.sub(pattern, name, file)
    return f"{role} {event.split('.')[1]} {file or '.'}"


def watch() -> None:
    """Log every operation from now on, and kill this process at the one that is asked for."""
    folder = os.path.dirname(os.environ["KILLS_LOG"]) + "/"
    log = os.open(os.environ["KILLS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    number, _, wanted = os.environ.get("KILLS_AT", "0 ").partition(" ")
    done: Counter[str] = Counter()
    fsync = os.fsync

    def note(event: str, file: str) -> None:
        if not file.startswith(folder):
            return
        place = place_of(event, file.removeprefix(folder))
        done[place] += 1
        os.write(log, f"{place}\n".encode())
        if place == wanted and done[place] == int(number):
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, arguments: tuple) -> None:
        if event in EVENTS and isinstance(arguments[0], str | os.PathLike):
            parents = [part for part in arguments[1:] if isinstance(part, int) and part >= 0]
            parent = os.readlink(f"/proc/self/fd/{parents[0]}") if parents else os.getcwd()
            note(event, os.path.join(parent, os.fspath(arguments[0])))

    def noted_fsync(file: object) -> None:
        descriptor = file if isinstance(file, int) else file.fileno()  # type: ignore[attr-defined]
        note("os.fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    sys.addaudithook(audit)
    os.fsync = noted_fsync


if "KILLS_LOG" in os.environ:
    watch()
