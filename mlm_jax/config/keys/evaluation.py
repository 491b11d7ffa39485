"""Keys ``evaluation.…``: what is measured on held-out text, and how often."""

from __future__ import annotations

from mlm_jax.config.values import TEXT, Key, whole

ABOUT = "What is measured on held-out text, and how often."

KEYS: tuple[Key, ...] = (
    Key("evaluation.every", 1_000, whole(1), "Steps between two evaluations. The last step is always evaluated."),
    Key(
        "evaluation.rows",
        64,
        whole(1),
        "Most held-out rows of each stream of text or pairs that a task is evaluated on. `mlm-jax eval --all` takes all rows.",
    ),
    Key(
        "evaluation.examples",
        0,
        whole(0),
        "Most held-out examples of each labelled set; 0 for all. A limit saves time, but scores of a part of a test set cannot be "
        "compared with published ones.",
    ),
    Key(
        "evaluation.pairs",
        1_000,
        whole(1),
        "Most held-out sentence pairs of each language pair that retrieval is measured on.",
    ),
    Key(
        "evaluation.select",
        "",
        TEXT,
        'Metric that picks the best checkpoint, such as eval/loss/mean; "" picks the last one.',
    ),
    Key(
        "evaluation.patience",
        0,
        whole(0),
        "Evaluations in a row without a better value of `evaluation.select` after which the run ends (early stopping), also at a "
        "high learning rate; 0 for none.",
    ),
)
