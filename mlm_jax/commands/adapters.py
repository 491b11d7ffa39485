"""``mlm-jax adapters``."""

from __future__ import annotations

import argparse

from mlm_jax.commands.options import CHECKPOINT, path

ABOUT = "write the adapters of a model alone, or put such adapters back onto the model that they were trained on"
EXAMPLE = "runs/mine --language sw --out sw_adapters"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("checkpoint", type=path, help=CHECKPOINT)
    parser.add_argument("--out", type=path, required=True, help="folder to make; with --load, a workdir")
    parser.add_argument("--language", default="", help="write only this language's adapters")
    parser.add_argument(
        "--load", type=path, default="", metavar="FOLDER", help="instead: put these adapters on the checkpoint's model"
    )


def run(options: argparse.Namespace) -> None:
    """Write adapters, or a model with them."""
    from mlm_jax.adaptation.adapters import load_adapters, save_adapters

    if options.load:
        print(f"wrote {load_adapters(options.checkpoint, options.load, options.out)}, a workdir with these adapters")
        return
    out = save_adapters(options.checkpoint, options.out, options.language)
    size = sum(file.stat().st_size for file in out.iterdir())
    print(f"wrote {out}: adapters of {size / 1e6:.1f} MB")
