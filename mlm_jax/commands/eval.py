"""``mlm-jax eval``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from mlm_jax.commands.options import CHECKPOINT, path

ABOUT = "evaluate a checkpoint on held-out data, per language, with intervals"
EXAMPLE = "runs/mine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "checkpoint",
        type=path,
        nargs="+",
        help=f"{CHECKPOINT}; several classifiers, each trained on one language, make a matrix of transfer",
    )
    parser.add_argument("--task", help="only this task of the config")
    parser.add_argument(
        "--all",
        action="store_true",
        help="use all held-out rows, not only those that the run uses (evaluation.rows and evaluation.examples)",
    )
    parser.add_argument(
        "--gradients",
        choices=("tasks", "languages"),
        help="instead: cosines between the gradients of tasks, or of the languages of --task",
    )
    parser.add_argument("--parameters", default=".*", metavar="REGEX", help="parameters whose gradients are compared")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace) -> None:
    """Evaluate checkpoints, or compare gradients."""
    if options.gradients:
        for checkpoint in options.checkpoint:
            gradients_command(
                checkpoint, options.gradients, task=options.task, parameters=options.parameters, as_json=options.json
            )
    else:
        evaluate_command(options.checkpoint, task=options.task, everything=options.all, as_json=options.json)


def evaluate_command(
    checkpoints: Sequence[str], *, task: str | None = None, everything: bool = False, as_json: bool = False
) -> None:
    """Evaluate checkpoints and print a table of each, and the matrix of zero-shot transfer if they have labelled tasks.

    Args:
      checkpoints: workdirs (their last complete checkpoint) or checkpoints.
      task: only this task of their configs.
      everything: whether to use all held-out rows.
      as_json: whether to print one JSON object for each checkpoint instead.

    Raises:
      UserError: as :func:`mlm_jax.run.evaluate.evaluate`.
    """
    from mlm_jax.common.console import table_console
    from mlm_jax.report.table import metrics_table, transfer_table
    from mlm_jax.run.evaluate import evaluate, transfer_between

    evaluated = []
    console = table_console()
    for checkpoint in checkpoints:
        found = evaluate(checkpoint, task, everything=everything)
        evaluated.append(found)
        if as_json:
            values = {"checkpoint": str(checkpoint), "step": found.step, **found.metrics, "intervals": found.intervals}
            print(json.dumps(values, ensure_ascii=False), flush=True)
        else:
            rows = "all held-out rows" if everything else "the rows that the run uses"
            title = f"{checkpoint}, step {found.step:,}, {rows}; ±: half of the 95 % interval"
            console.print(metrics_table(found.metrics, found.languages, title, found.intervals))
    for name in dict.fromkeys(name for found in evaluated for name in found.sources):
        matrix = transfer_between(evaluated, name)
        if matrix is not None and not as_json:
            console.print(transfer_table(matrix, name))


def gradients_command(
    checkpoint: str, between: str, *, task: str | None = None, parameters: str = ".*", as_json: bool = False
) -> None:
    """Print the cosines between the gradients of tasks, or of a task's languages, on the next training batch.

    Args:
      checkpoint: a workdir or one of its checkpoints.
      between: tasks | languages.
      task: the task whose languages are compared; by default the first of the config.
      parameters: regular expression of the paths of the parameters that are compared.
      as_json: whether to print a JSON object instead of a table.

    Raises:
      UserError: as :func:`mlm_jax.run.evaluate.open_run`; the loss of the task is not a sum over languages; no parameter matches.
    """
    import jax
    import numpy as np

    from mlm_jax.common.console import table_console
    from mlm_jax.data.loading.curriculum import at
    from mlm_jax.parallel.batches import to_devices
    from mlm_jax.parallel.memory import check_batch
    from mlm_jax.report.table import cosine_table
    from mlm_jax.run.evaluate import open_run
    from mlm_jax.training.cost import batch_shapes
    from mlm_jax.training.gradient_cosine import between_languages, between_tasks

    run = open_run(checkpoint, task)
    check_batch(batch_shapes(run.program, at(run.loader.phases, run.loaded.step)), "the gradient of")
    batch = to_devices(run.loader.batch(run.loaded.step), run.program.mesh)
    with jax.set_mesh(run.program.mesh):
        if between == "tasks":
            found = between_tasks(run.program, run.params, batch, parameters=parameters)
        else:
            name = task or next(iter(run.loaded.config.tasks))
            found = between_languages(run.program, run.params, batch, task=name, parameters=parameters)
    if as_json:
        cosines = [[None if np.isnan(value) else float(value) for value in row] for row in found.cosines]
        print(json.dumps({"names": found.names, "cosines": cosines, "norms": found.norms.tolist()}, ensure_ascii=False))
    else:
        title = f"cosines between gradients, {checkpoint}, step {run.loaded.step:,}"
        table_console().print(cosine_table(found, title))
