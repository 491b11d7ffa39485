"""Large arrays in huge pages: memory that XLA takes anew at every step on a CPU, without a fault for every 4 KiB of it."""

from __future__ import annotations

import os
import sys

TUNABLE = "glibc.malloc.hugetlb=1"  # ask the kernel for transparent huge pages (glibc 2.35 and later; others ignore it)


def restart_with_huge_pages() -> None:
    """Start this process over, once, with huge pages; glibc reads the wish for them only when a process begins.

    Does nothing where the environment says something about glibc already, on other systems than Linux, and where Python does
    not know how it was started or reads its program from standard input. What a step on CPUs gains is in docs/training.md.
    """
    can_restart = sys.platform == "linux" and bool(sys.executable) and sys.orig_argv[1:2] not in ([], ["-"])
    if can_restart and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = TUNABLE
        os.execv(sys.executable, sys.orig_argv)
