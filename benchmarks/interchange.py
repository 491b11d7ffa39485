"""The table of docs/interchange.md: how far from transformers each family is, over three configurations of random weights.

    python -m benchmarks.interchange

Float32 on CPU, the models of tests/oracles; a few minutes. Differences are the largest of all positions, parameters and
configurations: of logits as they are, of gradients relative to the largest gradient, of an AdamW step in learning rates.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path

import numpy as np

FAMILIES = {
    "xlm_roberta": "XLM-RoBERTa", "bert": "BERT, mBERT", "modernbert": "ModernBERT, mmBERT", "eurobert": "EuroBERT",
    "xmod": "X-MOD", "t5": "T5", "mt5": "mT5", "umt5": "umT5",
}  # fmt: skip


def main() -> None:
    print("| family | import | export | logits | packed logits | packed gradients | AdamW step | leak | generation |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, title in FAMILIES.items():
        found = [measure(name, config) for config in importlib.import_module(f"tests.oracles.test_{name}").CONFIGS]
        worst = np.max([row[:5] for row in found], axis=0)
        assert all(row[5] for row in found)
        numbers = " | ".join(f"{value:.0e}" if value else "0" for value in worst)
        agree = [row[6] for row in found if row[6] is not None]
        generation = f"{sum(a for a, _ in agree)} of {sum(n for _, n in agree)}" if agree else "–"
        print(f"| {title} | yes | same bytes | {numbers} | {generation} |", flush=True)


def measure(name: str, config: str) -> tuple:
    """Return the five differences, whether the exported bytes are the imported ones, and (texts that agree, texts)."""
    from tests.interop import parity
    from tests.interop.t5_checks import EncoderDecoderChecks, both_generate

    module = importlib.import_module(f"tests.oracles.test_{name}")
    (kind,) = (
        value for key, value in vars(module).items() if key.startswith("Test") and value.__module__ == module.__name__
    )
    checks, model = kind(), module.make(config)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        ours = parity.load(parity.save(model, folder / "theirs"))
        pairs = isinstance(checks, EncoderDecoderChecks)
        batch = checks.batch(model) if pairs else checks.rows(model)
        alone = tuple(map(parity.unpacked, batch)) if pairs else parity.unpacked(batch)
        ask = (
            (lambda b, packed: checks.inputs(*b, packed))
            if pairs
            else (lambda b, packed: checks.inputs(model, b, packed))
        )
        target = batch[1] if pairs else batch
        logits = [
            parity.difference(ours.logits(b), parity.their_logits(model, ask(b, packed)), target)
            for b, packed in ((alone, False), (batch, True))
        ]
        given = (model, ours, ask(batch, True), batch, parity.labels_for(target, model.config.vocab_size))
        gradient, _ = parity.gradient_difference(*given, folder / "gradient")
        step = parity.adamw_difference(*given, folder / "step")
        out = parity.export(ours, folder / "ours", family=checks.family)
        same = parity.tensors_of(out) == parity.tensors_of(folder / "theirs")
        agree = None
        if pairs:
            both = [both_generate(model, ours, beams) for beams in (1, 4)]
            agree = sum(int((a == b).all(axis=1).sum()) for a, b in both), sum(len(a) for a, _ in both)
        return *logits, gradient, step, parity.leak(ours, batch), same, agree


if __name__ == "__main__":
    main()
