"""Keys ``mixing.…``: how often each language is read."""

from __future__ import annotations

from mlm_jax.config.values import ABOVE_ZERO, ByName, Key, Number, choice

ABOUT = "How often each language is read."

STRATEGY = choice("alpha", "unimax", "explicit", "mixture")

KEYS: tuple[Key, ...] = (
    Key(
        "mixing.strategy",
        "alpha",
        STRATEGY,
        "alpha: by share**alpha. unimax: uniform, with at most `mixing.unimax_epochs` repetitions. explicit: by "
        "`mixing.rates`. mixture: by the rates of the seqio Mixture of `data.mixture`.",
    ),
    Key(
        "mixing.alpha", 0.5, Number(0, 1), "Exponent of a language's share of the tokens: 1 is proportional, 0 uniform."
    ),
    Key(
        "mixing.unimax_epochs",
        4.0,
        Number(ABOVE_ZERO),
        "Most repetitions of any language's text during the run, under unimax (Chung et al. 2023).",
    ),
    Key(
        "mixing.rates",
        {},
        ByName(Number(0), '{"en": 1, "de": 2}'),
        "Rate of each language or pair, under explicit. Rates need not sum to one.",
    ),
)
