"""``mlm-jax grow``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mlm_jax.commands.options import CHECKPOINT, as_source, by_language, path
from mlm_jax.config.module import search

ABOUT = "add a language to a checkpoint's vocabulary, for a run that goes on with it"
EXAMPLE = "runs/mine --language tl --text 'text/tl/*.txt' --out runs/mine_tl_vocabulary"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("checkpoint", type=path, help=CHECKPOINT)
    parser.add_argument("--language", required=True, help="code of the new language")
    parser.add_argument(
        "--text",
        required=True,
        metavar="GLOB",
        help="text of the new language, or module:function, as in config.data.corpora",
    )
    parser.add_argument("--pieces", type=int, default=2000, help="most pieces to add")
    parser.add_argument(
        "--old-text",
        action="append",
        default=[],
        metavar="LANGUAGE=GLOB",
        help="text of a language that the model knows, to count how many of its tokens change; repeatable",
    )
    parser.add_argument(
        "--start",
        choices=("spelling", "lexicon"),
        default="spelling",
        help="initial embeddings of new pieces: from the old pieces that spell them, or from those that occur in translations",
    )
    parser.add_argument(
        "--pairs",
        action="append",
        default=[],
        metavar="PAIR=GLOB",
        help="translations between the new language and one that the model knows, or a dictionary, for --start lexicon, such as "
        "tl-en=tl-en.tsv; repeatable",
    )
    parser.add_argument(
        "--out", type=path, required=True, help="folder of the new vocabulary, for config.vocabulary.path"
    )


def run(options: argparse.Namespace) -> None:
    """Grow the vocabulary, and print the config that continues with it."""
    from mlm_jax.adaptation.grow_model import freeze_table, grow
    from mlm_jax.checkpoints.checkpoint import describe
    from mlm_jax.data.vocabulary.folder import load_vocabulary

    search(Path.cwd())  # where a file with "module:function" stands that no config names
    old_texts = by_language(options.old_text, "--old-text")
    report = grow(
        options.checkpoint,
        options.language,
        options.text,
        options.out,
        pieces=options.pieces,
        old_texts={code: as_source(found) for code, found in old_texts.items()},
        start=options.start,
        pairs={name: as_source(found) for name, found in by_language(options.pairs, "--pairs").items()},
    )
    known = describe(options.checkpoint)
    frozen = freeze_table(known.vocabulary, load_vocabulary(options.out), known.config.model, len(known.languages))
    print(
        *report.lines(),
        f"wrote {options.out}. A config that trains the new language and leaves the others alone:",
        "    from mlm_jax.adaptation.continuing import continued_config",
        f'    config = continued_config("{options.checkpoint}", vocabulary="{options.out}")',
        f"    config.languages = {tuple(dict.fromkeys((*known.languages, options.language)))}",
        f"    config.optimizer.freeze_table = {frozen}",
        sep="\n",
    )
