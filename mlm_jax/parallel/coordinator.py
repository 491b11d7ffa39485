"""The end of JAX's coordination service, which runs in process 0 of a job: a call into Python instead of an abort.

If process 0 is killed, its connections close, and JAX aborts every other process at once with a C++ stack trace. JAX's client
takes a callback instead, but jaxlib (0.10) cannot turn the callback's argument into a Python object: a C++ exception that
nobody catches. So C++ also calls the same function before it would abort because of an exception of this type.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from jax._src import distributed  # jax.distributed.initialize does not pass a callback on

NOT_CONVERTED = (b"St8bad_cast", b"N8nanobind10cast_errorE")  # names of C++ types
_kept: list[Any] = []  # functions that C++ may call must not be freed


@contextlib.contextmanager
def watching_its_end(on_end: Callable[[], None]) -> Iterator[None]:
    """Within the block, create clients that call ``on_end`` in a thread of their own when the service ends.

    Args:
      on_end: must end the process; if it returned, JAX would abort.
    """
    if sys.platform != "linux":
        yield
        return
    module = distributed._jax
    make = module.get_distributed_runtime_client
    _call_before_abort(on_end)
    module.get_distributed_runtime_client = partial(make, missed_heartbeat_callback=lambda status: on_end())
    try:
        yield
    finally:
        module.get_distributed_runtime_client = make


def _call_before_abort(on_end: Callable[[], None]) -> None:
    """Make C++ call a function before it aborts because an argument of a callback could not be converted."""
    runtime = ctypes.CDLL("libstdc++.so.6")
    current_type, set_terminate = runtime.__cxa_current_exception_type, runtime._ZSt13set_terminatePFvvE
    current_type.restype = set_terminate.restype = ctypes.c_void_p

    def terminate() -> None:
        if _name(current_type()) in NOT_CONVERTED:
            on_end()
        ctypes.CFUNCTYPE(None)(before)()

    handler = ctypes.CFUNCTYPE(None)(terminate)
    _kept.append(handler)
    before = set_terminate(handler)


def _name(type_info: int | None) -> bytes:
    """Return the name in a C++ ``std::type_info``, which follows the pointer to its virtual functions."""
    if not type_info:
        return b""
    address = ctypes.c_void_p.from_address(type_info + ctypes.sizeof(ctypes.c_void_p))
    return ctypes.string_at(address.value) if address.value else b""
