"""Commands that are printed or run, one after the other, with their output shown line by line."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from mlm_jax.common.errors import UserError
from mlm_jax.common.files import temporary_folder, write_whole

REMEMBERED = 5_000  # last lines of a command's output that are kept to find the reason of a failure


class CommandFailed(Exception):
    """A command ended with another exit code than 0.

    Attributes:
      code: the exit code.
      output: the end of its output.
    """

    def __init__(self, command: Sequence[str], code: int, output: str):
        super().__init__(f"{shlex.join(command[:6])} … ended with exit code {code}")
        self.code, self.output = code, output

    def reason(self) -> str:
        """Return the line of the output with the reason: the first line that is marked as an error, else the last line."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()] or [str(self)]
        message = next((line for line in lines if re.match(r"(\w+: )?error\b", line, re.IGNORECASE)), lines[-1])
        return message.removesuffix(".")


class Shell:
    """Runs commands and writes files, or only shows them.

    Args:
      dry_run: whether to only show them.
    """

    def __init__(self, dry_run: bool = False):
        self.dry_run = dry_run

    def run(self, command: Sequence[str]) -> str:
        """Run a command, show its output (both streams) line by line, and return the end of the output; "" in a dry run.

        Raises:
          CommandFailed: the command's exit code is not 0.
          UserError: there is no such program.
        """
        print(f"$ {shlex.join(command)}", flush=True)
        if self.dry_run:
            return ""
        lines: deque[str] = deque(maxlen=REMEMBERED)
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1)
        except FileNotFoundError as error:
            raise UserError(f"{command[0]} is not installed", remedy="install it, or look with --dry-run") from error
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line)
        if process.returncode:
            raise CommandFailed(command, process.returncode, "".join(lines))
        return "".join(lines)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield a folder for files of commands, which only its owner may read; a dry run yields its name alone.

        It is removed after the block, or by the next launch if this one is killed.
        """
        if self.dry_run:
            yield Path("/tmp/mlm_jax-XXXXXXXX")
            return
        with temporary_folder("mlm_jax_launch") as folder:
            yield folder

    def write(self, file: str | Path, text: str, *, shown: str | None = None) -> None:
        """Write a file for a command atomically, and print its path.

        Args:
          file: the path of the file.
          text: its content.
          shown: text that a dry run prints instead of a secret content; only the owner may then read the file.

        Raises:
          UserError: the file cannot be written.
        """
        print(f"# {file}\n{text if shown is None else shown}" if self.dry_run else f"wrote {file}", flush=True)
        if self.dry_run:
            return
        try:
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            if shown is None:
                write_whole(file, text)
            else:
                with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as opened:
                    opened.write(text)
        except OSError as error:
            raise UserError(f"cannot write: {error.strerror}", file=file) from error
