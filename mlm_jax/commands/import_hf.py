"""``mlm-jax import-hf``."""

from __future__ import annotations

import argparse

from mlm_jax.commands.options import path

ABOUT = "turn a model of Hugging Face transformers into a checkpoint, to use it or to continue its training"
EXAMPLE = "FacebookAI/xlm-roberta-base --out runs/xlmr --languages de,en"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "source", type=path, help="folder with config.json, safetensors and a tokenizer, or a name on the Hub"
    )
    parser.add_argument("--out", type=path, required=True, help="workdir to make")
    parser.add_argument(
        "--languages", default="", metavar="de,en,…", help="codes of the languages that its rows may be of"
    )
    parser.add_argument(
        "--allow-nonfinite", action="store_true", help="import weights that are NaN or infinite as they are"
    )


def run(options: argparse.Namespace) -> None:
    """Import the model."""
    from mlm_jax.interop.importing import RECIPE, import_hf

    languages = tuple(code.strip() for code in options.languages.split(",") if code.strip())
    out = import_hf(options.source, options.out, languages=languages, allow_nonfinite=options.allow_nonfinite)
    print(f"wrote {out}; {out / RECIPE} goes on with its training")
