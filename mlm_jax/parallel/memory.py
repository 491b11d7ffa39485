"""Memory of a CPU: a program's need is compared with the free memory before it runs.

An accelerator refuses an allocation that does not fit. For a CPU, the operating system grants it, and kills the process once the
memory is used. So the sizes that a config asks for, which may be a stranger's, are checked before anything is allocated.
"""

from __future__ import annotations

import math
import os
import resource
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from mlm_jax.common.errors import UserError

# Bytes of memory for each byte of a batch: intermediate values of the loader, and batches that are sent ahead.
OF_A_BATCH = 10
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container
REMEDY = "use fewer or shorter rows, a smaller model, or a machine with more memory"


def machine_memory() -> float:
    """Return the bytes of memory that this process may use: those of the machine, or the limit of a container or a shell."""
    found = [float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))]
    allowed = resource.getrlimit(resource.RLIMIT_AS)[0]
    if allowed != resource.RLIM_INFINITY:
        found.append(float(allowed))
    for file in map(Path, LIMITS):
        if file.is_file() and (limit := file.read_text().strip()).isdigit():
            found.append(float(limit))
    return min(found)


def free_memory() -> float:
    """Return the bytes of memory that are free for this process, at most :func:`machine_memory`."""
    facts = Path("/proc/meminfo")
    lines = facts.read_text().splitlines() if facts.is_file() else []
    free = [1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return min([machine_memory(), *free])


class Fitting:
    """A jitted function that is not run on a CPU with too little memory; called like the function itself.

    Args:
      function: the jitted function.
      what: the work that it does, for messages, such as "embedding".
      mesh: the mesh on which it runs; None if the caller sets one, or none is needed.

    Raises:
      UserError: the program for the shapes of a call needs more memory than is free. Nothing was allocated for it.
    """

    def __init__(self, function: Callable[..., Any], what: str, mesh: Mesh | None = None):
        self._function, self._what = function, what
        self._mesh = mesh
        self._fit: set[Any] = set()

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Call the function; its program for arguments of these shapes is checked first."""
        shapes = tuple(getattr(leaf, "shape", leaf) for leaf in jax.tree.leaves((arguments, options)))
        if shapes not in self._fit:
            self.check(*arguments, **options)
            self._fit.add(shapes)
        with self._on_mesh():
            return self._function(*arguments, **options)

    def check(self, *arguments: Any, **options: Any) -> None:
        """Compare the memory of the program for these arguments; arrays may be given as ``ShapeDtypeStruct``."""
        if jax.default_backend() != "cpu":
            return
        check_batch((arguments, options), self._what)  # before such a program is compiled
        # jax.jit keeps the program that is compiled here, and uses it when it is called with the same shapes.
        with self._on_mesh():
            found = self._function.lower(*arguments, **options).compile().memory_analysis()  # type: ignore[attr-defined]
        own = found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
        _compare(own * jax.local_device_count(), self._what)

    def _on_mesh(self) -> AbstractContextManager[Any]:
        return nullcontext() if self._mesh is None else jax.set_mesh(self._mesh)

    @property
    def programs(self) -> int:
        """Number of shapes for which the function was called."""
        return len(self._fit)


def check_batch(batch: Any, what: str) -> None:
    """Check that a batch that is not read yet, a tree of ``ShapeDtypeStruct``, fits into the free memory of a CPU.

    Raises:
      UserError: it does not.
    """
    leaves = [leaf for leaf in jax.tree.leaves(batch) if isinstance(leaf, jax.ShapeDtypeStruct)]
    _compare(OF_A_BATCH * sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves), what)


def _compare(needed: float, what: str) -> None:
    if needed > (free := free_memory()):
        sizes = f"{needed / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB are free"
        raise UserError(f"{what} rows of this number and length needs {sizes}", remedy=REMEDY)
