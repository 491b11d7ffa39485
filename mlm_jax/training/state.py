"""The training state: with the config and the data, everything that a resumed run needs."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax


class TrainState(NamedTuple):
    """The arrays that a training step reads and updates; a pytree. Make one by keyword.

    Attributes:
      step: int32, steps done.
      params: nested dict of the model's float32 parameters.
      optimizer_state: optax's.
      average: exponential moving average of ``params``; ``{}`` if it is off.
      extras: {task: its objective's memory} of the objectives that keep a memory from step to step.
      window: {task: {metric: (numerator, denominator)}} summed since the last log line, so that metrics never make the
        step wait and a resumed run logs the same numbers.
      gradient_norm: global norm before clipping, of the last step.
      skipped: int32, steps left out because a gradient was not finite.
      first_skipped: int32, the first skipped step since the run was last started; -1 if there was none.
    """

    step: jax.Array
    params: Any
    optimizer_state: Any
    average: Any
    extras: Any
    window: Any
    gradient_norm: jax.Array
    skipped: jax.Array
    first_skipped: jax.Array
