"""Weights with which the losses of several tasks are summed: fixed, changing over time, or learned."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

UNCERTAINTY = "uncertainty"  # the value of a task's "weight" in the config if the weight is learned


def uncertainty_weight(log_variance: jax.Array) -> jax.Array:
    """Return 1/σ² of L_total = Σ_k L_k / σ_k² + log σ_k (Kendall et al. 2018, section 3.2), σ learned like a weight."""
    return jnp.exp(-log_variance)


def uncertainty_penalty(log_variances: Any) -> jax.Array:
    """Return Σ_k log σ_k, which keeps σ from growing without end; added once a step."""
    return sum((leaf / 2 for leaf in jax.tree.leaves(log_variances)), jnp.zeros((), jnp.float32))
