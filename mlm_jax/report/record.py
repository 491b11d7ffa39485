"""What an evaluation of a run leaves for its report."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax

from mlm_jax.data.loader import Loader
from mlm_jax.evaluation.held_out import Evaluation
from mlm_jax.report.sections import map_section, retrieval_section, save_sections
from mlm_jax.report.table import LanguageRow, language_rows
from mlm_jax.training.step import Program


def save_evaluation(
    workdir: str | Path, program: Program, loader: Loader, evaluation: Evaluation, step: int
) -> list[LanguageRow]:
    """Write ``report.json`` of a run's latest evaluation, and return the rows of its table.

    Args:
      workdir: of the run.
      program: model and config.
      loader: of the training data; tells what each language got.
      evaluation: what was measured.
      step: after how many steps.
    """
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(program.state.params))
    devices = program.mesh.devices.ravel()
    first_task = next(iter(program.config.tasks))
    rows = language_rows(
        program.languages, evaluation.metrics, loader.tokens_seen(step),
        planned_shares(loader, first_task, step), loader.realised_shares(first_task, 0, step) if step else {},
    )  # fmt: skip
    sections: dict[str, Any] = {
        "title": Path(workdir).resolve().name,
        "languages": program.languages,
        "facts": [
            f"{len(program.languages)} languages",
            f"{short_number(parameters)} parameters",
            f"{len(devices)} × {devices[0].device_kind}",
        ],
        "config": program.config.to_dict(),
        "table": rows,
        "samples": evaluation.samples,
    }
    found = evaluation.retrieval
    if found is not None:
        sections["retrieval"] = retrieval_section(found.matrices, found.languages, found.candidates, step)
        if len(found.embeddings) > 1 and all(len(rows) > 2 for rows in found.embeddings.values()):
            sections["map"] = map_section(found.embeddings, found.texts)
    save_sections(workdir, sections)
    return rows


def planned_shares(loader: Loader, task: str, steps: int) -> dict[str, float]:
    """Return {language: share of a task's rows} that is planned for the first steps, over all phases."""
    if steps == 0:
        return loader.planned_shares(task, 0)
    shares: dict[str, float] = {}
    for phase in loader.phases:
        part = max(min(phase.stop_step, steps) - phase.start_step, 0) / steps
        if part:
            for language, share in loader.planned_shares(task, phase.start_step).items():
                shares[language] = shares.get(language, 0.0) + part * share
    return shares


def short_number(count: float) -> str:
    """Return a number with three digits: 1,250,000 is "1.25 M"."""
    for size, unit in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.3g}"
