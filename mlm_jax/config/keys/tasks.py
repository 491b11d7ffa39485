"""The key ``tasks``: tasks that are trained together, and the keys of a task. An objective declares its own options."""

from __future__ import annotations

from typing import Any

from mlm_jax.config.values import (
    FLAG,
    FOREVER,
    NAME_OR_NAMES,
    REQUIRED,
    ByName,
    Entry,
    Fits,
    Key,
    choice,
    is_number,
    is_text,
    whole,
)


def _is_weight(value: Any) -> bool:
    return isinstance(value, str) or (is_number(value) and 0 <= value < FOREVER)


DIRECTIONS = choice("both", "forward")

TASK = Entry(
    (
        Key(
            "objective",
            REQUIRED,
            Fits(is_text, "the name of an objective, such as mlm"),
            "The objective that the task is trained with, one of those listed below.",
        ),
        Key("rows", REQUIRED, whole(1), "Rows a step, over all devices (the batch size)."),
        Key("length", REQUIRED, whole(2), "Tokens a row (the sequence length)."),
        Key(
            "weight",
            1.0,
            Fits(_is_weight, 'a number from 0, "step:value,step:value" or "uncertainty"'),
            'Weight of the task\'s loss: a number, a piecewise linear function of the step such as "0:0,1000:1", or '
            '"uncertainty", which learns it (Kendall et al. 2018).',
        ),
        Key(
            "data",
            (),
            NAME_OR_NAMES,
            "Names of the streams in `data` that the task reads. () reads all that fit the objective.",
        ),
        Key(
            "evaluate_on",
            None,
            NAME_OR_NAMES,
            "Labelled sets that the task is evaluated on, besides the validation splits of those it reads. By default "
            "these are all sets that no task reads or names, if all their labels are labels of the task.",
        ),
        Key(
            "same_language_rows",
            1,
            whole(1),
            "Length of the runs of consecutive rows that share one language and direction. Language-specific weights are gathered "
            "once a run.",
        ),
        Key("packed", True, FLAG, "Rows of text are slices of joined documents; False puts one document in each row."),
        Key(
            "directions",
            "both",
            DIRECTIONS,
            "For pairs: both reads each pair in both directions, forward only in that of its name.",
        ),
    ),
    example='{"objective": "mlm", "rows": 64, "length": 512}',
    open=True,
    renamed=(("alike", "same_language_rows"), ("test", "evaluate_on")),
)

KEYS: tuple[Key, ...] = (
    Key(
        "tasks",
        {"mlm": {"objective": "mlm", "rows": 64, "length": 512, "weight": 1.0, "mask_rate": 0.3}},
        ByName(TASK, '{"mlm": {"objective": "mlm", "rows": 64, "length": 512}}'),
        "Tasks that are trained together, by name. Besides these keys, each task has the options of its objective.",
    ),
)
