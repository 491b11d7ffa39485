"""A run's numbers for TensorBoard: one events file, written again from ``metrics.jsonl`` at each start of the run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import text as text_summary

from mlm_jax.common.files import whole_folder

FOLDER = "tensorboard"


class TensorBoard:
    """Writes WORKDIR/tensorboard, so that it holds each value of ``metrics.jsonl`` once, whatever ended earlier starts.

    Unlike TensorBoard's own, this writer needs no TensorFlow. It writes at once, so that an error of the disk reaches the
    caller; tensorboardX's usual writer loses it in a thread and then waits for that thread for ever.

    Args:
      workdir: of the run.
      events: those of earlier starts, as ``metrics.jsonl`` has them.
      text: Markdown that TensorBoard shows under "config"; "" is none.
    """

    def __init__(self, workdir: str | Path, events: Iterable[Mapping[str, Any]], text: str = ""):
        with whole_folder(Path(workdir, FOLDER)) as scratch:
            self._writer = EventsWriter(str(scratch / "events"))  # goes on in the same file when the folder is renamed
            if text:
                self._add(text_summary("config", text), 0, 0.0)
            for event in events:
                values = {key: value for key, value in event.items() if key not in ("step", "time")}
                self.write(event["step"], values, event.get("time", 0.0))
            self.flush()

    def write(self, step: int, values: Mapping[str, float | None], time: float) -> None:
        """Write the values of one event; None is a number that is not finite."""
        numbers = {name: math.nan if value is None else value for name, value in values.items()}
        self._add(
            Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]), step, time
        )

    def flush(self) -> None:
        """Bring to disk what was written."""
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _add(self, summary: Summary, step: int, time: float) -> None:
        self._writer.write_event(Event(wall_time=time, step=step, summary=summary))
