"""Sweeps: a config file's ``sweep()`` lists trials, with the functions of this package.

In the same file as ``get_config``::

    from mlm_jax.run.sweep import product

    def sweep():
        return product({"mixing.alpha": (0.3, 0.5, 0.7), "seed": (0, 1)})

or, at random, ``search({"optimizer.learning_rate": Range(1e-4, 1e-2, log=True), "mixing.alpha": (0.3, 0.5)}, trials=20)``;
``optuna_search`` takes the same arguments, and proposes each trial by the results of those before.
"""

from mlm_jax.run.sweep.axes import Range, chain, product, search, trial_name, zipped
from mlm_jax.run.sweep.optuna_search import optuna_search
from mlm_jax.run.sweep.runner import read_trials, run_sweep, trial_settings

__all__ = [
    "Range",
    "chain",
    "optuna_search",
    "product",
    "read_trials",
    "run_sweep",
    "search",
    "trial_name",
    "trial_settings",
    "zipped",
]
