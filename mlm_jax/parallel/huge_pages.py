"""Huge pages for large arrays: on a CPU, XLA allocates memory at every step, and huge pages avoid a page fault per 4 KiB."""

from __future__ import annotations

import os
import sys

TUNABLE = "glibc.malloc.hugetlb=1"  # ask the kernel for transparent huge pages (glibc 2.35 and later; others ignore it)


def restart_with_huge_pages() -> None:
    """Restart this process once, with huge pages: glibc reads the setting only when a process starts.

    Nothing is done if the environment already configures glibc, on systems other than Linux, and if Python does not know
    how it was started or reads its program from standard input. docs/training.md shows how much a step on CPUs gains.
    """
    can_restart = sys.platform == "linux" and bool(sys.executable) and sys.orig_argv[1:2] not in ([], ["-"])
    if can_restart and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = TUNABLE
        os.execv(sys.executable, sys.orig_argv)
