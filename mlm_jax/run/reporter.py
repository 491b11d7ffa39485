"""Reports of a run: log lines (one step late), evaluations, the report's data and the tables at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mlm_jax.checkpoints.metrics import value_of
from mlm_jax.checkpoints.workdir import config_json, has_checkpoints, saved_steps
from mlm_jax.common.bucket import original
from mlm_jax.common.console import table_console
from mlm_jax.common.errors import UserError
from mlm_jax.data.loading.loader import Loader
from mlm_jax.evaluation.bootstrap import save_rows
from mlm_jax.evaluation.held_out import HeldOut, Retrieval
from mlm_jax.objectives import metric_prefix
from mlm_jax.objectives.multitask import uncertainty_weight
from mlm_jax.parallel.chips import chip_of
from mlm_jax.report import (
    LanguageRow,
    language_rows,
    language_table,
    map_section,
    retrieval_section,
    save_sections,
    task_tables,
)
from mlm_jax.report.history import read_evaluations
from mlm_jax.report.store_tables import phase_title
from mlm_jax.run.goodput import Goodput
from mlm_jax.run.metrics import MetricsWriter, TrainingProgress
from mlm_jax.run.opening import in_millions
from mlm_jax.training.cost import phase_flops
from mlm_jax.training.flops import mfu
from mlm_jax.training.state import TrainState
from mlm_jax.training.step import Program

MEAN_LOSS = "eval/loss/mean"  # decides which evaluation is the best if config.evaluation.select is not set
MAP_SENTENCES = 24  # number of sentences of each language on the report's map


class Reporter:
    """Makes log lines from the sums on the device, and evaluations from held-out data.

    Log lines are read one step late: by then the device is busy with the next step, so it never waits for the host.

    Args:
      program: the program of the run.
      loader: the loader of the run.
      held_out: data and functions of evaluations.
      workdir: the workdir of the run.
      metrics: writer of the numbers.
      progress: the terminal's display.
      goodput: counts the time.
    """

    def __init__(
        self,
        program: Program,
        loader: Loader,
        held_out: HeldOut,
        workdir: Path,
        metrics: MetricsWriter,
        progress: TrainingProgress,
        goodput: Goodput,
    ):
        self.program, self.loader, self.held_out, self.workdir = program, loader, held_out, workdir
        self.metrics, self.progress, self.goodput = metrics, progress, goodput
        self.first_task = next(iter(program.config.tasks))
        self.pending: tuple[int, Any] | None = None
        self.marked: tuple[int, float] | None = None  # step and time of the last log line, for the speed
        self.rows: list[LanguageRow] = []
        self.found: dict[str, float] = {}  # metrics of the last evaluation
        self.flops: dict[int, float] = {}  # FLOPs of a step in each curriculum phase

    def take(self, step: int, state: TrainState) -> None:
        """Keep the sums up to ``step``, which :meth:`flush` reads later."""
        # The step will reuse the state's memory: keep copies of the small values.
        kept = (state.window, state.gradient_norm, state.skipped, state.first_skipped)
        copies = jax.tree.map(lambda leaf: leaf + 0, kept)
        # Rates and weights are computed on the device, too. In `flush`, they would wait for the step that runs by then.
        self.pending = (step, (*copies, self.program.learning_rate(step - 1), self._weights(step, state)))

    def flush(self) -> None:
        """Write the log line that is waiting, if any.

        Raises:
          UserError: a gradient was not finite and ``training.nonfinite`` is "stop".
        """
        if self.pending is None:
            return
        (step, values), self.pending = self.pending, None
        with self.goodput.span("step"):  # the host waits here for the device to finish the step
            window, norm, skipped, first_skipped, rate, weights = jax.device_get(values)
        line = {"train/learning_rate": float(rate), "train/gradient_norm": float(norm)}
        line |= window_metrics(window, self.program.languages, self.program.config.tasks)
        line["train/tokens"] = sum(self.loader.tokens_seen(step).values())
        line |= self._speed(step)
        line |= self._shares(step) | {f"train/weight/{task}": float(weight) for task, weight in weights.items()}
        if skipped:
            line["train/skipped_steps"] = int(skipped)
        self.metrics.write(step, line)
        self.progress.update(step, line)
        check_finite(self.program.config, int(first_skipped), self.workdir)

    def evaluate(self, step: int, state: TrainState, *, is_logged: bool = False) -> dict[str, float]:
        """Evaluate on held-out data, log the metrics, keep the report's data, and return the metrics.

        Args:
          step: the step of the state.
          state: the state to evaluate.
          is_logged: whether an earlier start of the run has logged this evaluation.
        """
        with self.goodput.span("evaluation"):
            params = state.average if self.program.config.training.ema else state.params
            found = self.held_out.after(step).evaluate(params)
            self.recall(step, found.metrics)
            self._save_sections(step, found.retrieval, found.samples)
            if jax.process_index() == 0:
                save_rows(self.workdir, step, found.observed, keep=saved_steps(self.workdir))
            if not is_logged:  # logged last: an evaluation in the log is therefore complete
                self.metrics.write(step, found.metrics)
        if self.marked is not None:
            self.marked = (step, time.perf_counter())  # the time of the evaluation is not counted as time of steps
        return found.metrics

    def recall(self, step: int, metrics: dict[str, float]) -> None:
        """Keep the metrics of an earlier evaluation for the tables at the end."""
        self.found = metrics
        loader, task = self.loader, self.first_task
        planned = average_plan(loader, task, step)
        realised = loader.realised_shares(task, 0, step) | loader.realised_by_source(task, 0, step) if step else {}
        tokens = loader.tokens_seen(step) | loader.tokens_by_source(step)
        sources = [source.name for source in loader.sources()]
        self.rows = language_rows(self.program.languages, metrics, tokens, planned, realised, sources)

    def farewell(self, report: Path) -> None:
        """Print a table of each task, the shares of time, and the report's path.

        Tasks that train sentence embeddings have no table: their metric, retrieval, is a column of the first table.
        """
        console = table_console(quiet=jax.process_index() != 0)
        console.print(language_table(self.rows))
        objectives = self.program.objectives
        shown = [task for task, objective in objectives.items() if task == self.first_task or not objective.embeds]
        for table in task_tables(self.found, shown, self.program.languages):
            console.print(table)
        console.print(self.goodput.summary(), soft_wrap=True)
        console.print(best_checkpoint(self.workdir, self.program.config.evaluation.select), soft_wrap=True)
        console.print(f"report: {original(report)}", soft_wrap=True)

    def _weights(self, step: int, state: TrainState) -> dict[str, Any]:
        """Return the weight of each task's loss in the last step; learned weights are those after this step."""
        if len(self.program.config.tasks) == 1:
            return {}
        given = {task: weight(step - 1) for task, weight in self.program.task_weights.items()}
        learned = {task: uncertainty_weight(value) for task, value in state.params.get("uncertainty", {}).items()}
        return given | learned

    def _speed(self, step: int) -> dict[str, float]:
        now = time.perf_counter()
        marked, self.marked = self.marked, (step, now)
        if marked is None:
            return {}
        tokens = sum(self.loader.tokens_seen(step).values()) - sum(self.loader.tokens_seen(marked[0]).values())
        seconds = now - marked[1]
        left = (self.program.config.steps - step) * seconds / (step - marked[0])
        return {"train/tokens_per_second": tokens / seconds, "train/seconds_left": left} | self._mfu(
            marked[0], step, seconds
        )

    def _mfu(self, start: int, step: int, seconds: float) -> dict[str, float]:
        """Return model FLOPs utilisation of these steps; {} if the devices' peak is unknown."""
        chip = chip_of(jax.devices()[0])
        if chip is None:
            return {}
        flops = 0.0
        for phase in self.loader.phases:
            steps = min(step, phase.stop_step) - max(start, phase.start_step)
            if steps > 0:
                if phase.index not in self.flops:
                    self.flops[phase.index] = phase_flops(self.program, phase, chip.platform).model
                flops += steps * self.flops[phase.index]
        return {"train/mfu": mfu(flops, seconds, jax.device_count(), chip.peak_flops / chip.devices_per_chip)}

    def _shares(self, step: int) -> dict[str, float]:
        loader, task = self.loader, self.first_task
        planned = loader.planned_shares(task, step - 1) | loader.planned_by_source(task, step - 1)
        realised = loader.realised_shares(task, 0, step) | loader.realised_by_source(task, 0, step)
        return {f"plan/share/{name}": share for name, share in planned.items()} | {
            f"train/share/{name}": share for name, share in realised.items()
        }

    def _save_sections(self, step: int, retrieval: Retrieval | None, samples: dict) -> None:
        if jax.process_index() != 0:
            return
        languages = self.program.languages
        parameters = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(self.program.state.params))
        device = jax.devices()[0]
        sections: dict[str, Any] = {
            "title": self.workdir.name,
            "languages": list(languages),
            "facts": [
                f"{in_millions(parameters)} parameters",
                f"{step:,} steps",
                f"{len(languages)} languages",
                f"{jax.device_count()} × {device.device_kind}",
            ],
            "config": config_json(self.program.config),
            "phases": [
                (phase.start_step, phase.stop_step, phase_title(phase, entry))
                for phase, entry in zip(self.loader.phases, self.program.config.curriculum)
            ],
            "table": self.rows,
            "samples": samples,
        }
        if retrieval is not None:
            sections["retrieval"] = retrieval_section(
                retrieval.matrices, retrieval.languages, retrieval.candidates, step
            )
            if retrieval.embeddings and min(len(rows) for rows in retrieval.embeddings.values()) > 2:
                sections["map"] = map_section(retrieval.embeddings, retrieval.texts, MAP_SENTENCES)
        save_sections(self.workdir, sections)


def best_checkpoint(workdir: Path, select: str) -> str:
    """Return a line that names a run's best evaluation, and the checkpoint that other verbs take.

    Args:
      workdir: the folder of the run.
      select: the metric that the config selects checkpoints by; "" if it selects the last one.
    """
    key = select or MEAN_LOSS
    found = read_evaluations(workdir, key)
    if found.best is None:
        return f"no evaluation has {key}"
    best, value = found.best[1]["step"], value_of(found.best[0], key)
    reason = "" if select else ", the last one (evaluation.select chooses by a metric)"
    taken = best if select else found.scores[-1][0]
    return (
        f"best evaluation by {key}: step {best:,} ({value:.4g}); eval, export-hf and load take step {taken:,}{reason}"
    )


def check_finite(config: ConfigDict, first_skipped: int, workdir: Path) -> None:
    """Raise if a gradient was not finite and ``training.nonfinite`` is "stop".

    Args:
      config: the config of the run.
      first_skipped: the first step with such a gradient; −1 if there was none.
      workdir: the workdir of the run.

    Raises:
      UserError: names the step.
    """
    if first_skipped >= 0 and config.training.nonfinite == "stop":
        raise UserError(
            f"the gradient of step {first_skipped} is not finite; "
            + ("the last checkpoint is from before it" if has_checkpoints(workdir) else "there is no checkpoint yet"),
            remedy="lower optimizer.learning_rate, or set training.nonfinite='skip' to leave such steps out, and run the "
            "same command again",
        )


def average_plan(loader: Loader, task: str, step: int) -> dict[str, float]:
    """Return {language or source: planned share of a task's rows} over the steps so far, phases weighted by their rows."""
    shares: dict[str, float] = {}
    total = 0
    for phase in loader.phases:
        rows = (min(phase.stop_step, max(step, 1)) - phase.start_step) * loader.rows(task, phase.start_step)
        if rows > 0:
            total += rows
            planned = loader.planned_shares(task, phase.start_step) | loader.planned_by_source(task, phase.start_step)
            for language, share in planned.items():
                shares[language] = shares.get(language, 0.0) + share * rows
    return {language: share / total for language, share in shares.items()}


def window_metrics(window: dict, languages: tuple[str, ...], tasks: Mapping[str, Any]) -> dict[str, float]:
    """Return {"train/loss/de": …} of the first task, {"train/ranking/loss/de": …} of the others, each with its mean.

    Args:
      window: {task: {metric: (numerator, denominator)}}, in any order, because a compiled step sorts its keys.
      languages: language codes in index order.
      tasks: ``config.tasks``, in order.
    """
    line: dict[str, float] = {}
    for task, metrics in window.items():
        for name, (numerator, denominator) in metrics.items():
            base = f"{metric_prefix('train', task, tasks)}/{name}"
            seen = np.flatnonzero(np.asarray(denominator) > 0)
            values = {languages[i]: float(numerator[i] / denominator[i]) for i in seen}
            line |= {f"{base}/{language}": value for language, value in values.items()}
            if values:
                line[f"{base}/mean"] = sum(values.values()) / len(values)
    return line
