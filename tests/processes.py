"""Processes seen from outside, for tests that end them."""

import time
from pathlib import Path


def state_of(pid):
    """Return (state, parent's id) of a process, or ("", 0) if it is gone."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return "", 0
    return state, int(parent)


def is_alive(pid):
    return state_of(pid)[0] not in ("", "Z", "X")


def children(pid):
    """Return the ids of a process's children, without those that only wait to be taken note of."""
    found = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    return [child for child in found if state_of(child)[1] == pid and is_alive(child)]


def descendants(pid):
    found = children(pid)
    return [*found, *(below for child in found for below in descendants(child))]


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
