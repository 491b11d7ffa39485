"""The limits for every hostile input: exit code 2, one line on standard error, little memory, little time."""

import contextlib
import re
import signal
from pathlib import Path

from mlm_jax import cli

# Seconds of processor time in user mode: a busy machine needs more by the clock. The signal is not SIGPROF, because libtpu
# has timers of its own that send it once it has made a topology.
SECONDS, KILOBYTES = 20, 1_000_000
HANGS = 6  # times as long by the clock: it waits for something


@contextlib.contextmanager
def limited(seconds=SECONDS, kilobytes=KILOBYTES):
    """Fail if the block takes longer, or if its peak memory is higher than what the process held before by more."""

    def too_long(number, _):
        what = "of processor time" if number == signal.SIGVTALRM else "by the clock"
        raise AssertionError(f"not done within {seconds if number == signal.SIGVTALRM else HANGS * seconds} s {what}")

    old = {number: signal.signal(number, too_long) for number in (signal.SIGALRM, signal.SIGVTALRM)}
    # The peak starts again, because that of an earlier test would hide this one's.
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_kilobytes()
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    signal.alarm(HANGS * seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        for number, handler in old.items():
            signal.signal(number, handler)
    grown = peak_kilobytes() - before
    assert grown < kilobytes, f"took {grown / 1e6:.1f} GB"


def peak_kilobytes():
    """Return the peak of this process's resident memory, in kB."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def refused(capfd, *arguments):
    """Return the one line that a command which must be refused says."""
    capfd.readouterr()
    with limited():
        assert cli.main([*map(str, arguments)]) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and len(lines[0]) < 1500, lines
    assert "Traceback" not in lines[0]
    return lines[0]


def refused_after_progress(capfd, *arguments):
    """Return the error of a command that must be refused, and that may have shown progress before: its last line."""
    capfd.readouterr()
    with limited():
        assert cli.main([*map(str, arguments)]) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("mlm-jax: error: ")]
    assert errors == lines[-1:] and len(errors[0]) < 2000, lines[-5:]
    assert "Traceback" not in "".join(lines)
    return errors[0]
