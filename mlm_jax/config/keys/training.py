"""Keys ``training.…``: the training step, and what is logged of it."""

from __future__ import annotations

from typing import Any

from mlm_jax.config.values import BELOW_ONE, TEXT, Fits, Key, Number, choice, whole

ABOUT = "The training step, and what is logged of it."


def _are_first_and_last(value: Any) -> bool:
    return not value or (len(value) == 2 and all(isinstance(step, int) for step in value) and 0 <= value[0] <= value[1])


KEYS: tuple[Key, ...] = (
    Key(
        "training.normalize",
        "per_language",
        choice("per_language", "per_language_mean", "token"),
        "per_language: Σ_l 1/N_l Σ_i over the N_l predictions of each language l. per_language_mean: the same, divided "
        "by the number of languages. token: the mean over all predictions.",
    ),
    Key(
        "training.microbatches",
        1,
        whole(1),
        "A step's rows go through the model in this many parts (gradient accumulation). The loss does not change.",
    ),
    Key("training.z_loss", 0.0, Number(0), "Weight of log²Z, which keeps logits small (PaLM)."),
    Key(
        "training.ema",
        0.0,
        Number(0, BELOW_ONE),
        "Decay of an exponential moving average of the weights, which is then evaluated and used instead of them; 0 for none.",
    ),
    Key(
        "training.nonfinite",
        "stop",
        choice("stop", "skip"),
        "What happens if a gradient is not finite: stop ends the run by the next log line, skip leaves the step out and counts it.",
    ),
    Key("training.log_every", 10, whole(1), "Steps between two log lines."),
    Key(
        "training.profile",
        (),
        Fits(_are_first_and_last, "(first step, last step), or ()"),
        "Steps (first, last) that are traced into WORKDIR/profile, for TensorBoard or Perfetto.",
    ),
    Key("training.wandb", "", TEXT, 'Weights & Biases project; "" for none.'),
)
