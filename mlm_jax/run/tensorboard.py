"""A run's metrics for TensorBoard: one events file, written again from ``metrics.jsonl`` at each start of the run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.summary import hparams as hparams_summaries
from tensorboardX.summary import text as text_summary

from mlm_jax.common.files import whole_folder
from mlm_jax.report.history import is_number

FOLDER = "tensorboard"
METRICS_BESIDE_SETTINGS = (
    "eval/loss/mean",
    "eval/accuracy/mean",
    "eval/bits_per_byte/mean",
    "eval/retrieval_at_1/mean",
)


class TensorBoard:
    """Writes WORKDIR/tensorboard, so that it contains each value of ``metrics.jsonl`` once, even if earlier starts were killed.

    Unlike TensorBoard's own writer, this one needs no TensorFlow. It writes at once, so that an error of the disk reaches the
    caller; tensorboardX's usual writer loses the error in a thread and then waits for that thread forever.

    Args:
      workdir: the workdir of the run.
      events: the events of earlier starts, as in ``metrics.jsonl``.
      config: the config of the run, as JSON values: TensorBoard's text "config".
      settings: {key: value} of the keys that tell runs apart: the columns of TensorBoard's HPARAMS, which shows the first few.
    """

    def __init__(
        self,
        workdir: str | Path,
        events: Iterable[Mapping[str, Any]],
        config: Mapping[str, Any],
        settings: Mapping[str, Any],
    ):
        with whole_folder(Path(workdir, FOLDER)) as scratch:
            # The writer keeps writing to this file after the folder is renamed.
            self._writer = EventsWriter(str(scratch / "events"))
            if config:
                lines = json.dumps(config, indent=1, ensure_ascii=False).splitlines()
                # Indented lines are code in Markdown.
                self._add(text_summary("config", "\n".join(f"    {line}" for line in lines)), 0, 0.0)
                select = config.get("evaluation", {}).get("select")
                for summary in hparams_summaries(
                    plain(settings), [*([select] if select else ()), *METRICS_BESIDE_SETTINGS]
                ):
                    self._add(summary, 0, 0.0)
            for event in events:
                own = {key: value for key, value in event.items() if key not in ("step", "time")}
                values = {key: value for key, value in own.items() if value is None or is_number(value)}
                self.write(event["step"], values, event["time"] if is_number(event.get("time")) else 0.0)
            self.flush()

    def write(self, step: int, values: Mapping[str, float | None], time: float) -> None:
        """Write the values of one event; None stands for a number that is not finite."""
        numbers = {name: math.nan if value is None else value for name, value in values.items()}
        self._add(
            Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]), step, time
        )

    def flush(self) -> None:
        """Write buffered events to disk."""
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()

    def _add(self, summary: Summary, step: int, time: float) -> None:
        self._writer.write_event(Event(wall_time=time, step=step, summary=summary))


def plain(settings: Mapping[str, Any]) -> dict[str, str | bool | float]:
    """Return values in the form of TensorBoard's HPARAMS; values other than numbers, booleans and texts become JSON."""
    return {
        key: value if isinstance(value, (str, bool, int, float)) else json.dumps(value, ensure_ascii=False)
        for key, value in settings.items()
    }
