"""Keys ``checkpoint.…``: what is saved, and what a new run starts from."""

from __future__ import annotations

from mlm_jax.config.values import NAME_OR_NAMES, PATH, REQUIRED, TEXT, ByName, Entries, Entry, Key, is_row, whole

ABOUT = "What is saved, and what a new run starts from."

INIT = Entry(
    (
        Key("from", REQUIRED, PATH, "The other run's workdir, or one of its checkpoints."),
        Key("include", (".*",), NAME_OR_NAMES, "Regular expressions over this run's parameter paths: those to take."),
        Key(
            "exclude",
            (),
            NAME_OR_NAMES,
            "Regular expressions over this run's parameter paths: those to leave as they are.",
        ),
        Key(
            "rename",
            (),
            Entries(is_row, "(regex, replacement)"),
            "(regex, replacement) pairs that turn the other run's paths into this run's.",
        ),
        Key(
            "like",
            {},
            ByName(TEXT, '{"tl": "id"}'),
            "{new language: language of the other run whose weights it begins with}.",
        ),
        Key(
            "starts",
            "",
            PATH,
            'JSON file {"new piece": {"old piece": weight}} (`mlm-jax grow --start`): a piece that the other run lacks begins as '
            "this weighted mean of old ones. Pieces that are not in the file begin as the mean of the old pieces that spell them.",
        ),
    ),
    example='{"from": "runs/mine"}',
    empty=True,
)

KEYS: tuple[Key, ...] = (
    Key("checkpoint.every", 1_000, whole(1), "Steps between two checkpoints."),
    Key("checkpoint.keep_last", 3, whole(1), "Number of latest checkpoints that are kept."),
    Key(
        "checkpoint.keep_every",
        0,
        whole(0),
        "Checkpoints of steps that are multiples of this are kept for good; 0 for none.",
    ),
    Key(
        "checkpoint.init",
        {},
        INIT,
        "Start from another run's weights. Vocabulary and languages may differ (checkpoints/transplant.py); {} is a fresh start.",
    ),
)
