"""One GPU: embedding and translating beside torch, on the same weights and texts.

    python -m benchmarks.gpu_use --json use.json    # ModernBERT-base and T5-base shapes, a few minutes
    python -m benchmarks.gpu_use --tiny             # a smoke run on a CPU: says nothing about speed

``embed`` runs against sentence-transformers (mean of the tokens), ``translate`` against transformers' ``generate``, greedy
and with four beams. Weights are random, so that texts end late and both sides write as many tokens; tokenizers are trained
on verses in twelve languages. Both sides compute in bfloat16 on a GPU and in float32 on a CPU. Each side has a process of
its own and runs all texts once before it is measured, which compiles. Needs the extras [hf] and [demo] and
sentence-transformers; neither TensorFlow nor seqio is imported.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ENCODERS = {
    "base": {
        "hidden_size": 768,
        "intermediate_size": 1152,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "max_position_embeddings": 1024,
    },
    "tiny": {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
    },
}
DECODERS = {
    "base": {
        "d_model": 768,
        "d_kv": 64,
        "d_ff": 2048,
        "num_layers": 12,
        "num_heads": 12,
        "feed_forward_proj": "gated-gelu",
    },
    "tiny": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
}
TEXTS = {"base": (8192, 512), "tiny": (24, 6)}  # {size: (texts to embed, texts to translate)}
BATCH = {"base": (256, 128), "tiny": (8, 4)}  # the same for torch's batches, of texts sorted by length
WRITTEN = {"base": 64, "tiny": 8}  # tokens of a translation


def texts(count: int) -> list[str]:
    """Return verses in twelve languages and five scripts."""
    from tests.interop.published import sentences

    found = sentences(40)
    return (found * (1 + count // len(found)))[:count]


def make(folder: Path, size: str) -> None:
    """Write two published models with random weights, and import them."""
    import torch
    import transformers

    from mlm_jax.interop.importing import import_hf
    from tests.interop.published import TOKENIZERS

    torch.manual_seed(0)
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1, "cls_token_id": 2, "sep_token_id": 1}
    for name, tokenizer in (("encoder", "modernbert"), ("decoder", "t5")):
        theirs = folder / name
        theirs.mkdir()
        pieces = TOKENIZERS[tokenizer](theirs)
        if name == "encoder":
            config = transformers.ModernBertConfig(vocab_size=pieces, **ENCODERS[size], **ids)
            transformers.ModernBertForMaskedLM(config).save_pretrained(theirs)
        else:
            config = transformers.T5Config(vocab_size=pieces, **DECODERS[size], decoder_start_token_id=0)
            transformers.T5ForConditionalGeneration(config).save_pretrained(theirs)
        import_hf(theirs, folder / f"our_{name}", languages=("en", "de"))


def our_embed(folder: Path, size: str) -> tuple[Callable[[], object], int]:
    """Return a function that embeds all texts, and the number of texts."""
    import mlm_jax

    model, lines = mlm_jax.load(folder / "our_encoder"), texts(TEXTS[size][0])
    return lambda: model.embed(lines), len(lines)


def their_embed(folder: Path, size: str) -> tuple[Callable[[], object], int]:
    """Return the same for sentence-transformers."""
    import torch
    from sentence_transformers import SentenceTransformer, models

    on_gpu = torch.cuda.is_available()
    options = {"dtype": torch.bfloat16 if on_gpu else torch.float32, "attn_implementation": "sdpa"}
    encoder = models.Transformer(str(folder / "encoder"), model_args=options)
    model = SentenceTransformer(modules=[encoder, models.Pooling(ENCODERS[size]["hidden_size"], "mean")])
    lines = texts(TEXTS[size][0])
    return lambda: model.encode(lines, batch_size=BATCH[size][0], show_progress_bar=False), len(lines)


def our_translate(beams: int) -> Callable[[Path, str], tuple[Callable[[], object], int]]:
    """Return a side that translates all texts with a number of beams; it counts tokens."""

    def side(folder: Path, size: str) -> tuple[Callable[[], object], int]:
        from mlm_jax.inference.translator import Search, load_translator

        translator, lines = load_translator(folder / "our_decoder"), texts(TEXTS[size][1])
        search = Search(beams=beams, length=WRITTEN[size])
        return lambda: translator.translate(lines, target_language="de", search=search), len(lines) * WRITTEN[size]

    return side


def their_translate(beams: int) -> Callable[[Path, str], tuple[Callable[[], object], int]]:
    """Return the same for transformers' generate, in batches of texts sorted by length."""

    def side(folder: Path, size: str) -> tuple[Callable[[], object], int]:
        import torch
        import transformers

        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        model = (
            transformers.T5ForConditionalGeneration.from_pretrained(folder / "decoder", dtype=dtype).to(device).eval()
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "decoder")
        lines, batch = sorted(texts(TEXTS[size][1]), key=len), BATCH[size][1]

        def run() -> None:
            for first in range(0, len(lines), batch):
                inputs = tokenizer(lines[first : first + batch], return_tensors="pt", padding=True).to(device)
                with torch.inference_mode():
                    written = model.generate(
                        input_ids=inputs.input_ids,
                        attention_mask=inputs.attention_mask,
                        num_beams=beams,
                        do_sample=False,
                        max_new_tokens=WRITTEN[size],
                        min_new_tokens=WRITTEN[size],
                    )
                tokenizer.batch_decode(written)

        return run, len(lines) * WRITTEN[size]

    return side


SIDES = {
    "embed": (our_embed, their_embed),
    "translate, greedy": (our_translate(1), their_translate(1)),
    "translate, 4 beams": (our_translate(4), their_translate(4)),
}
UNITS = {"embed": "texts/s"}


def side(folder: Path, size: str, what: str, who: int, runs: int, *, gate: bool) -> dict:
    """Return the speed of one side: the best of some runs after one that compiles.

    With ``gate``, "ready" is printed after that run, and a line from stdin begins the others.
    """
    import numpy as np

    run, amount = SIDES[what][who](folder, size)
    begun = time.perf_counter()
    first = run()
    compiled = time.perf_counter() - begun
    if gate:
        print("ready", flush=True)
        sys.stdin.readline()
    seconds = []
    for _ in range(runs):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    result = {"per_second": amount / min(seconds), "seconds": seconds, "first_run_seconds": compiled}
    if what == "embed":
        np.save(folder / f"vectors_{who}.npy", np.asarray(first, np.float32))
    return result


def in_process(*arguments: str, tiny: bool) -> str:
    """Run this script in a process of its own and return the last line that it prints."""
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    environment |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""} if tiny else {}
    command = [sys.executable, "-m", "benchmarks.gpu_use", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stderr[-3000:]}\n{' '.join(arguments)} failed")
    return (done.stdout.splitlines() or [""])[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="a smoke run on a CPU")
    parser.add_argument("--json", type=Path, help="also write the result here")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--make", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--gate", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    size = "tiny" if options.tiny else "base"
    if options.make:
        make(options.folder, size)
        return
    if options.side:
        what, who = options.side
        print(json.dumps(side(options.folder, size, what, int(who), options.runs, gate=options.gate)))
        return
    import numpy as np

    flags = ["--tiny"] if options.tiny else []
    result: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as scratch:
        in_process("--make", "--folder", scratch, *flags, tiny=options.tiny)
        for what in SIDES:
            ours, theirs = (
                json.loads(
                    in_process(
                        "--side",
                        what,
                        str(who),
                        "--folder",
                        scratch,
                        "--runs",
                        str(options.runs),
                        *flags,
                        tiny=options.tiny,
                    )
                )
                for who in (0, 1)
            )
            result[what] = {"ours": ours, "torch": theirs, "times_torch": ours["per_second"] / theirs["per_second"]}
            unit = UNITS.get(what, "tokens/s")
            print(
                f"{what:20s} {ours['per_second']:12,.0f} {unit}   torch {theirs['per_second']:12,.0f} {unit}   "
                f"{result[what]['times_torch']:.2f}x",
                flush=True,
            )
        a, b = (np.load(Path(scratch) / f"vectors_{who}.npy") for who in (0, 1))
        cosine = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        result["embed"]["least_cosine"] = float(cosine.min())
    print(f"the same vectors: cosine of each text's two at least {cosine.min():.6f}")
    if options.tiny:
        print("a smoke run on a CPU: none of these numbers says anything about speed")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
