"""Keys ``optimizer.…``: how the weights are updated."""

from __future__ import annotations

from typing import Any

from mlm_jax.config.values import (
    ABOVE_ZERO,
    FOREVER,
    TEXT,
    Entries,
    Fits,
    Key,
    Number,
    is_number,
    is_row,
    is_several,
)

ABOUT = "How the weights are updated."


def _are_betas(value: Any) -> bool:
    return len(value) == 2 and all(is_number(beta) and 0 <= beta < 1 for beta in value)


def _are_steps(value: Any) -> bool:
    return is_number(value) and 0 <= value < FOREVER and (value < 1 or value == int(value))


def _is_decay(entry: Any) -> bool:
    return is_row(entry) and isinstance(entry[1], bool)


def _is_factor(entry: Any) -> bool:
    return is_row(entry) and is_number(entry[1]) and 0 <= entry[1] < FOREVER


def _is_frozen(entry: Any) -> bool:
    return is_row(entry) and (isinstance(entry[1], int) or _are_ranges(entry[1]))


def _are_ranges(value: Any) -> bool:
    """Return whether these are (first, behind the last) of ranges of rows, in order."""
    if not is_several(value) or not all(is_several(part) and len(part) == 2 for part in value):
        return False
    bounds = [bound for part in value for bound in part]
    return (
        bool(bounds) and all(type(bound) is int for bound in bounds) and bounds[0] >= 0 and bounds == sorted({*bounds})
    )


STEPS = Fits(_are_steps, "a whole number of steps, or a share of `steps` below 1")

KEYS: tuple[Key, ...] = (
    Key("optimizer.name", "adamw", TEXT, "Update rule: adamw, stable_adamw, adafactor, lion or muon."),
    Key("optimizer.learning_rate", 5e-4, Number(0), "Highest learning rate of the run."),
    Key(
        "optimizer.schedule",
        "wsd",
        TEXT,
        "Learning rate over the run: wsd (warm-up, stable, 1 − √ decay), cosine, linear, rsqrt or constant.",
    ),
    Key("optimizer.warmup_steps", 0.05, STEPS, "Length of the linear warm-up, in steps or as a share of the run."),
    Key(
        "optimizer.decay_steps",
        0.1,
        STEPS,
        "Length of the decay at the end of the run, under wsd, in steps or as a share of the run.",
    ),
    Key(
        "optimizer.final_fraction",
        0.02,
        Number(0, 1),
        "Share of the highest learning rate at which wsd, cosine and linear end, and at which the warm-up of wsd begins.",
    ),
    Key(
        "optimizer.betas",
        (0.9, 0.98),
        Fits(_are_betas, "two numbers from 0 to below 1"),
        "Decay of the first and of the second moment.",
    ),
    Key("optimizer.epsilon", 1e-6, Number(ABOVE_ZERO), "ε of the update rule."),
    Key("optimizer.clip", 1.0, Number(0), "Global norm that gradients are clipped to; 0 for no clipping."),
    Key("optimizer.weight_decay", 0.01, Number(0), "Decoupled weight decay."),
    Key(
        "optimizer.decay_table",
        ((r"(.*(bias|scale|norm.*)|uncertainty/.*)", False), (r".*", True)),
        Entries(_is_decay, "(regex, True or False)"),
        "Which parameters decay, by regular expressions over paths such as encoder/0/attention/query/kernel. The first that "
        "matches counts, and every parameter must match one.",
    ),
    Key(
        "optimizer.rate_table",
        ((r".*", 1.0),),
        Entries(_is_factor, "(regex, factor from 0)"),
        "Factors on the learning rate, by regular expressions as in `optimizer.decay_table`.",
    ),
    Key(
        "optimizer.layer_decay",
        1.0,
        Number(ABOVE_ZERO, 1),
        "Factor on the learning rate from each layer to the one before it: layer i of n, counted from 0, has "
        "the factor to the power of n − i, embeddings n + 1, heads 0. 0.65 to 0.95 is usual; 1 for none.",
    ),
    Key(
        "optimizer.freeze_table",
        ((r".*", False),),
        Entries(_is_frozen, "(regex, True, False, a number of rows or ranges of rows)"),
        "Which parameters are frozen, by regular expressions as in `optimizer.decay_table`: True, False, or a number n, which "
        "freezes the first n rows only (the old pieces of a grown vocabulary, or the weights of the first languages). Ranges such "
        "as ((0, 4), (9, 8000)) freeze the rows from 0 to 3 and from 9 to 7999.",
    ),
)
