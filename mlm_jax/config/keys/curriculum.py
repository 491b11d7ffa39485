"""The key ``curriculum``: phases of the run, and the keys of a phase."""

from __future__ import annotations

from mlm_jax.config.keys.mixing import STRATEGY
from mlm_jax.config.keys.optimizer import STEPS
from mlm_jax.config.sources import are_names_or_rates
from mlm_jax.config.values import (
    ABOVE_ZERO,
    REQUIRED,
    TEXT,
    ByName,
    Each,
    Entry,
    Fits,
    Key,
    Line,
    Number,
    OneOrByName,
    are_names,
    whole,
)

PHASE_OPTIMIZER = Entry(
    (
        Key("schedule", None, TEXT, "As `optimizer.schedule`."),
        Key("learning_rate", None, Number(0), "As `optimizer.learning_rate`."),
        Key(
            "warmup_steps",
            None,
            STEPS,
            "Length of a linear warm-up, in steps or as a share of the phase; none if it is left out.",
        ),
        Key("decay_steps", None, STEPS, "As `optimizer.decay_steps`, of the phase."),
        Key("final_fraction", None, Number(0, 1), "As `optimizer.final_fraction`."),
    ),
    example='{"schedule": "wsd", "warmup_steps": 0.05}',
)

PHASE = Entry(
    (
        Key("steps", REQUIRED, whole(1), "Steps of the phase; those of all phases add up to `steps`."),
        Key(
            "languages",
            None,
            Fits(are_names, 'a tuple of languages: ("de",)'),
            "Languages that are read, and pairs of two of these languages.",
        ),
        Key(
            "sources",
            None,
            Fits(are_names_or_rates, 'names of sources: ("wiki", "de:books"), or their rates: {"wiki": 2, "web": 1}'),
            "Sources that are read, by their names in `data`: `wiki` is the source of this name of every language, "
            "`de:wiki` that of German. Text from a source without a name is not read. Rates share a language's rows "
            "among its sources.",
        ),
        Key(
            "strategy",
            None,
            STRATEGY,
            "As `mixing.strategy`; it follows from the next three keys if one of them is given.",
        ),
        Key("alpha", None, Number(0, 1), "As `mixing.alpha`."),
        Key("unimax_epochs", None, Number(ABOVE_ZERO), "As `mixing.unimax_epochs`."),
        Key("rates", None, ByName(Number(0), '{"en": 1, "de": 2}'), "As `mixing.rates`."),
        Key(
            "mask_rate",
            None,
            OneOrByName(Line(Number(ABOVE_ZERO, 1)), '{"mlm": 0.15}'),
            "Mask rate of all tasks that mask, or of each task by name. Of two rates, the first holds in the phase's first step "
            "and the second in its last; between them it changes by the same amount each step.",
        ),
        Key(
            "rows",
            None,
            OneOrByName(whole(1), '{"mlm": 512}'),
            "Rows a step: a number for all tasks that read text, or numbers of tasks by name.",
        ),
        Key(
            "length",
            None,
            OneOrByName(whole(2), '{"mlm": 1024}'),
            "Tokens a row: a number for all tasks that read text, or numbers of tasks by name.",
        ),
        Key("rope_theta", None, Number(ABOVE_ZERO), "As `model.rope_theta`."),
        Key("local_rope_theta", None, Number(ABOVE_ZERO), "As `model.local_rope_theta`."),
        Key("rate_factor", None, Number(0), "Factor on the run's schedule in this phase."),
        Key(
            "optimizer",
            None,
            PHASE_OPTIMIZER,
            "A schedule of the phase's own instead of the run's. It counts the phase's steps; a key that it leaves out is as in "
            "`optimizer`.",
        ),
    ),
    example='{"steps": 1000, "alpha": 0.3}',
)

KEYS: tuple[Key, ...] = (
    Key(
        "curriculum",
        (),
        Each(PHASE),
        "Phases of the run, in order. Keys that a phase does not have keep their values from the rest of the config. ()"
        " is a single phase.",
    ),
)
