"""``mlm-jax trim``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mlm_jax.commands.options import CHECKPOINT, as_source, by_language, path
from mlm_jax.config.module import search

ABOUT = "keep only the pieces of a vocabulary that given text needs; the model loses the rows of the others"
EXAMPLE = "runs/xlmr --text sw='text/sw/*.txt' --text en='text/en/*.txt' --out runs/xlmr_small"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument(
        "checkpoint",
        type=path,
        help=f"{CHECKPOINT}; or a published model as for import-hf, a folder or a name on the Hub",
    )
    parser.add_argument(
        "--text",
        required=True,
        action="append",
        metavar="LANGUAGE=GLOB",
        help="text whose tokens must not change, or module:function, as in config.data.corpora; repeatable",
    )
    parser.add_argument("--out", type=path, required=True, help="workdir to make")


def run(options: argparse.Namespace) -> None:
    """Trim the model, and print its sizes before and after."""
    from mlm_jax.adaptation.trim_model import trim

    search(Path.cwd())  # where a file with "module:function" stands that no config names
    texts = {code: as_source(found) for code, found in by_language(options.text, "--text").items()}
    report = trim(options.checkpoint, texts, options.out)
    out = Path(os.path.abspath(options.out))
    print(
        *report.lines(),
        f"wrote {out}. A config that goes on with it:",
        "    from mlm_jax.adaptation.continuing import continued_config",
        f'    config = continued_config("{out}")',
        sep="\n",
    )
