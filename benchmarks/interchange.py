"""The table of docs/interchange.md: the differences of each family to transformers, over three configurations of random weights.

    python -m benchmarks.interchange
    python -m benchmarks.interchange --memory  # instead: peak memory of import-hf and export-hf, a ModernBERT of 1.2 GB

Float32 on CPU, the models of tests/oracles; a few minutes. Differences are the largest of all positions, parameters and
configurations: of logits as they are, of gradients relative to the largest gradient, of an AdamW step in learning rates.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

FAMILIES = {
    "xlm_roberta": "XLM-RoBERTa",
    "bert": "BERT, mBERT",
    "modernbert": "ModernBERT, mmBERT",
    "eurobert": "EuroBERT",
    "xmod": "X-MOD",
    "t5": "T5",
    "mt5": "mT5",
    "umt5": "umT5",
}


MEASURED = """
import re
from pathlib import Path
import jax, orbax.checkpoint
from mlm_jax.interop.{0} import {1}
jax.devices("cpu")
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
{1}({2!r}, {3!r}{4})
print(before, peak())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead of differences")
    if parser.parse_args().memory:
        memory()
        return
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


def memory() -> None:
    """Print peak memory of an import and an export, a process each, above what its libraries take."""
    from tests.interop.published import published

    sizes = {"hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 28, "num_attention_heads": 16}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        model = published(folder / "one", "modernbert", **sizes)
        total = 4 * sum(parameter.numel() for parameter in model.parameters())
        published(folder / "shards", "modernbert", **sizes | {"num_hidden_layers": 1})  # for its tokenizer
        (folder / "shards" / "model.safetensors").unlink()
        model.save_pretrained(folder / "shards", max_shard_size="300MB")
        print(f"The model takes {total / 1e9:.2f} GB.\n\n| | peak above libraries, GB | of the model |\n|---|---|---|")
        for title, module, verb, source, out, options in (
            ("import, one file", "importing", "import_hf", "one", "run", ""),
            ("import, shards of 300 MB", "importing", "import_hf", "shards", "again", ""),
            ("export, shards of 300 MB", "exporting", "export_hf", "run", "out", ", shard_bytes=300_000_000"),
        ):
            code = MEASURED.format(module, verb, str(folder / source), str(folder / out), options)
            done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
            before, peak = map(int, done.stdout.split())
            print(f"| {title} | {(peak - before) / 1e9:.2f} | {(peak - before) / total:.2f} × |", flush=True)


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
