"""A job's processes end together: if one dies or fails, the others end too, with a line that names it."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import threading
import time
import traceback
from typing import Any, NoReturn

import jax

from mlm_jax.common.errors import UserError, one_line

PULSE_SECONDS = 3.0
# A process without a pulse for this long counts as dead. It is less than JAX's own heartbeat, which does not name the process.
SILENCE_SECONDS = 45.0
PULSES, VERDICTS = "mlm_jax/pulse", "mlm_jax/verdict"
LEFT = "left"  # the pulse of a process that has finished
# How messages of XLA's runtime begin. JAX raises some of them as ValueError ("UNKNOWN: Gloo AllGather failed").
STATUS = re.compile("(ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION|INTERNAL|UNAVAILABLE|UNKNOWN): ")


class Peers:
    """Watches over the other processes of the job from a thread.

    A collective that waits for a dead process cannot be interrupted, and on an accelerator it waits forever. So every
    process writes a pulse into the coordination service of ``jax.distributed``. Process 0 reads all pulses and writes a
    verdict that names silent processes; the others read the verdict. Silence is counted in rounds of process 0 and not by
    the clock, so that no process is declared dead after the whole job was suspended. If process 0 is stopped (SIGSTOP, a
    host that hangs), the service does not answer: the others notice that their own rounds do not come to an end. If
    process 0 is killed, the service ends with it: JAX notices at once and calls :meth:`lose_service`.

    Args:
      client: the client of the coordination service.
      index: the index of this process.
      count: the number of processes.
    """

    def __init__(self, client: Any, index: int, count: int):
        self.client, self.index, self.count = client, index, count
        self._name = f"process {index} of {count} ({socket.gethostname()})"
        self._leaving = threading.Event()
        self._ending = threading.Lock()  # of the first thread that ends this process
        self._pulse = 0
        self._heard: dict[int, str] = {}  # the last pulse of each process, for process 0
        self._silent_rounds = [0] * count
        self._thread = threading.Thread(target=self._watch, name="peers", daemon=True)
        self._guard = threading.Thread(target=self._watch_service, name="coordinator", daemon=True)

    def start(self) -> None:
        """Start watching."""
        self._thread.start()
        if self.index:
            self._guard.start()

    def leave(self) -> None:
        """Stop watching, because this process has finished."""
        self._leaving.set()
        self._thread.join(SILENCE_SECONDS)
        self._tell(f"{PULSES}/{self.index}", LEFT)

    def fail(self, error: BaseException) -> NoReturn:
        """End this process because of an error, and the others by a verdict that names it."""
        if isinstance(error, jax.errors.JaxRuntimeError) or STATUS.match(str(error)):
            # A dead process may have broken a collective: then the other thread names it and ends this one.
            wait = 2 * SILENCE_SECONDS  # the rounds of process 0 take a little longer than their pauses
            say(f"mlm-jax: a computation failed, perhaps because another process died; this is known in {wait:.0f} s")
            self._thread.join(wait)
        if isinstance(error, UserError):
            code, problem = 2, str(error)
            say(f"mlm-jax: error: {error}")
        else:
            code, problem = 1, f"{type(error).__name__}: {one_line(error)}"
            say("".join(traceback.format_exception(error)).rstrip())
        self._leaving.set()
        if not self._ending.acquire(blocking=False):
            self._thread.join(SILENCE_SECONDS)  # another thread is ending this process
        self._tell(f"{VERDICTS}/{self.index}", f"{code} {self._name} failed: {problem}")
        self._exit(code)

    def _tell(self, key: str, value: str) -> None:
        """Write a value into the service, but do not wait for longer than ``SILENCE_SECONDS``: process 0 may be stopped."""

        def write() -> None:
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # process 0 is gone: there is nobody to tell
                self.client.key_value_set(key, value, allow_overwrite=True)

        writer = threading.Thread(target=write, name="verdict", daemon=True)
        writer.start()
        writer.join(SILENCE_SECONDS)

    def _watch(self) -> None:
        while not self._leaving.wait(PULSE_SECONDS):
            try:
                self._pulse += 1
                self.client.key_value_set(f"{PULSES}/{self.index}", str(self._pulse), allow_overwrite=True)
                if self.index == 0:
                    self._judge()
                verdicts = self.client.key_value_dir_get(VERDICTS)
            except jax.errors.JaxRuntimeError as error:
                verdicts = [("", f"1 process 0 of {self.count} does not answer: {one_line(error)}")]
            if verdicts and not self._leaving.is_set():
                code, _, problem = verdicts[0][1].partition(" ")
                self._end(problem, int(code))

    def lose_service(self) -> NoReturn:
        """End this process because the service, and so process 0, is gone."""
        self._end(f"process 0 of {self.count} died, or its connection broke", 1)

    def _watch_service(self) -> None:
        """End this process if the service, which process 0 keeps, does not answer for too long."""
        pulse, waited = 0, 0
        while not self._leaving.wait(PULSE_SECONDS):
            # Counted in rounds of this thread, which stand still while the job is suspended.
            waited = waited + 1 if pulse == self._pulse else 0
            pulse = self._pulse
            if waited * PULSE_SECONDS >= SILENCE_SECONDS:
                self._end(f"process 0 of {self.count} died: not heard of for {SILENCE_SECONDS:.0f} s", 1)

    def _judge(self) -> None:
        """Count the rounds in which each process has been silent, and write a verdict if one is dead."""
        pulses = {int(key.rsplit("/", 1)[1]): pulse for key, pulse in self.client.key_value_dir_get(PULSES)}
        for peer in range(self.count):
            is_silent = pulses.get(peer, "") == self._heard.get(peer, "") and pulses.get(peer) != LEFT
            self._silent_rounds[peer] = self._silent_rounds[peer] + 1 if is_silent else 0
        self._heard = pulses
        dead = [peer for peer, rounds in enumerate(self._silent_rounds) if rounds * PULSE_SECONDS >= SILENCE_SECONDS]
        if dead:
            who = f"process {dead[0]}" if len(dead) == 1 else f"processes {', '.join(map(str, dead))}"
            self.client.key_value_set(
                f"{VERDICTS}/0",
                f"1 {who} of {self.count} died: not heard of for {SILENCE_SECONDS:.0f} s",
                allow_overwrite=True,
            )

    def _end(self, problem: str, code: int) -> NoReturn:
        """Print why this process ends, and end it; if several threads call this, the first one does it."""
        if not self._ending.acquire(blocking=False):
            threading.Event().wait()
        remedy = "" if code == 2 else ". Remedy: start the job again; it continues from its last checkpoint"
        say(f"mlm-jax: error: {problem}{remedy}")
        self._exit(code)

    def _exit(self, code: int) -> NoReturn:
        """Exit without the shutdown of ``jax.distributed``, which would wait for dead processes."""
        self._leaving.set()  # so that the other thread does not end the process a second time
        if self.index == 0:  # this process holds the verdict: leave the others time to read it
            time.sleep(2 * PULSE_SECONDS)
        with contextlib.suppress(OSError):  # as in say
            sys.stdout.flush()
        os._exit(code)


def say(line: str) -> None:
    """Print a line to standard error.

    If nobody reads it any more, because the launcher was killed, the process must end nevertheless.
    """
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)
