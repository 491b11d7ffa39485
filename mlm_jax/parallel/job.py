"""Messages between the processes of a job, through the coordination service of ``jax.distributed``."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import jax
from jax._src import distributed  # the client of the coordination service has no public name

from mlm_jax.common.errors import UserError, one_line

WAIT = 24 * 3600  # seconds; if a process dies meanwhile, :mod:`mlm_jax.parallel.peers` ends this one
_numbers = itertools.count()


class Job:
    """The processes of a job. Threads may use it while devices compute, as no message goes over the devices.

    All processes make the same number of these, in the same order: a message belongs to one of them.

    Attributes:
      index: the index of this process.
      count: the number of processes.
    """

    def __init__(self) -> None:
        self.index, self.count = jax.process_index(), jax.process_count()
        self._room = f"mlm_jax/job/{next(_numbers)}"
        self._client: Any = distributed.global_state.client

    def meet(self, place: str) -> None:
        """Return when all processes have called this with the same name of a place, which serves once."""
        self._client.wait_at_barrier(f"{self._room}/{place}", WAIT * 1000)

    def tell(self, message: str) -> None:
        """Tell the other processes something.

        Raises:
          UserError: process 0 is gone.
        """
        with _process_0():
            self._client.key_value_set(f"{self._room}/{message}/{self.index}", "", allow_overwrite=True)

    def have_told(self, message: str) -> bool:
        """Return whether all processes, this one included, have told something.

        Raises:
          UserError: process 0 is gone.
        """
        with _process_0():
            return len(self._client.key_value_dir_get(f"{self._room}/{message}")) == self.count


@contextlib.contextmanager
def _process_0() -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        remedy = "start the job again; it continues from its last checkpoint"
        raise UserError(f"process 0 of the job does not answer: {one_line(error)}", remedy=remedy) from error


def this_job() -> Job | None:
    """Return the job of this process; None if it has no other process."""
    return Job() if jax.process_count() > 1 else None
