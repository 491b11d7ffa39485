"""Large arrays in huge pages: memory that XLA takes anew at every step on a CPU, without a fault for every 4 KiB of it."""

from __future__ import annotations

import os
import sys

TUNABLE = "glibc.malloc.hugetlb=1"  # ask the kernel for transparent huge pages (glibc 2.35 and later; others ignore it)


def restart_with_huge_pages() -> None:
    """Start this process over, once, with huge pages; glibc reads the wish for them only when a process begins.

    Does nothing where the environment says something about glibc already, or on other systems than Linux. What a step on
    CPUs gains is in docs/training.md.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = TUNABLE
        os.execv(sys.executable, sys.orig_argv)
