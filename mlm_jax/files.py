"""Text files that are whole or not there."""

from __future__ import annotations

from pathlib import Path


def write_whole(file: str | Path, text: str) -> None:
    """Write a text in UTF-8; whoever reads the file meanwhile, or after a crash, finds the old text or the new one."""
    scratch = Path(f"{file}.incomplete")
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(file)
    finally:
        scratch.unlink(missing_ok=True)
