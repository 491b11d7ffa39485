"""``mlm-jax export-hf``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mlm_jax.commands.options import CHECKPOINT, path

ABOUT = "write a checkpoint as a folder that transformers and sentence-transformers load"
EXAMPLE = "runs/mine --out published"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("checkpoint", type=path, help=CHECKPOINT)
    parser.add_argument("--out", type=path, required=True, help="folder to make")
    parser.add_argument(
        "--family",
        default="",
        metavar="MODEL_TYPE",
        help="family of models to write, such as modernbert; by default the first that fits",
    )
    parser.add_argument(
        "--dtype", default="float32", help="type of the weights: float32 (default), bfloat16 or float16"
    )
    parser.add_argument("--language", default="", help="language whose token the tokenizer puts before each text")
    parser.add_argument(
        "--task", default="", help="task whose classifier to write, in place of the head that predicts tokens"
    )
    parser.add_argument(
        "--push-to-hub", default="", metavar="NAME", help="repository of the Hub to upload the folder to as well"
    )
    parser.add_argument(
        "--lora-only", action="store_true", help="instead: LoRA's products alone, as a folder of the peft library"
    )
    parser.add_argument("--to", default="", metavar="LANGUAGE", help="language whose token the decoder begins with")


def run(options: argparse.Namespace) -> None:
    """Export the checkpoint."""
    out = lora_only(options) if options.lora_only else whole(options)
    if options.push_to_hub:
        from mlm_jax.interop.hub import push

        print(f"uploaded to {push(out, options.push_to_hub)}")


def lora_only(options: argparse.Namespace) -> Path:
    """Write the low-rank updates alone."""
    from mlm_jax.common.errors import UserError
    from mlm_jax.interop.peft import export_peft

    given = {"--language": options.language, "--to": options.to, "--dtype": options.dtype != "float32"}
    if unused := [name for name, value in given.items() if value]:
        raise UserError(f"{' and '.join(unused)} cannot be combined with --lora-only", remedy="leave it out")
    out = export_peft(options.checkpoint, options.out, family=options.family, task=options.task)
    print(f"wrote {out}; {out / 'README.md'} shows how to load it")
    return out


def whole(options: argparse.Namespace) -> Path:
    """Write the whole model."""
    from mlm_jax.interop.exporting import export_hf

    out = export_hf(
        options.checkpoint,
        options.out,
        family=options.family,
        dtype=options.dtype,
        language=options.language,
        to=options.to,
        task=options.task,
    )
    print(f"wrote {out}; {out / 'README.md'} is its model card: fill in the licence")
    return out
