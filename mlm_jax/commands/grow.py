"""``mlm-jax grow``."""

from __future__ import annotations

import argparse
import itertools
import shutil
from pathlib import Path

from mlm_jax.commands.options import CHECKPOINT
from mlm_jax.common.errors import UserError
from mlm_jax.config.module import search

ABOUT = "add a language to a checkpoint's vocabulary, for a run that goes on with it"
EXAMPLE = "runs/mine --language tl --text 'text/tl/*.txt' --out runs/mine_tl_vocabulary"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("checkpoint", help=CHECKPOINT)
    parser.add_argument("--language", required=True, help="code of the new language")
    parser.add_argument(
        "--text", required=True, metavar="GLOB", help="its text, or module:function, as in config.data.corpora"
    )
    parser.add_argument("--pieces", type=int, default=2000, help="most pieces to add")
    parser.add_argument("--out", required=True, help="folder of the new vocabulary, for config.vocabulary.path")


def run(options: argparse.Namespace) -> None:
    """Grow the vocabulary."""
    grow_command(options.checkpoint, options.language, options.text, options.pieces, options.out)


def grow_command(place: str | Path, language: str, source: str, pieces: int, out: str | Path) -> None:
    """Write a checkpoint's vocabulary with a language added, and say how a config goes on with it.

    Args:
      place: a workdir or one of its checkpoints.
      language: code of the new language.
      source: its text, as ``config.data.corpora`` takes it: a glob or "module:function".
      pieces: to add at most.
      out: folder to make.

    Raises:
      UserError: as :func:`.grow_vocabulary`; there is no checkpoint or no text; the folder exists, or
        cannot be written.
    """
    from mlm_jax.adaptation.grow import MOST_DOCUMENTS, grow_vocabulary, language_specific
    from mlm_jax.checkpoints.checkpoint import load_parameters
    from mlm_jax.data.text.corpora import documents
    from mlm_jax.interop.published_tokenizer import UNUSED_ROWS

    if Path(out).exists():
        raise UserError("this folder already exists", file=out, remedy="name another folder")
    loaded = load_parameters(place)
    old = loaded.vocabulary
    search(Path.cwd())  # where a file with "module:function" stands that no config names
    found = (document for document in documents(source, language, "train") if document.strip())
    text = itertools.islice(found, MOST_DOCUMENTS)
    first = next(text, None)
    if first is None:
        raise UserError("there is no text in it", file=source, remedy="give text of the new language")
    grown = grow_vocabulary(old, language, itertools.chain([first], text), pieces)
    try:
        grown.save(out)
    except OSError as error:
        shutil.rmtree(out, ignore_errors=True)  # it was not there before
        raise UserError(f"cannot write: {error.strerror}", file=out) from error
    own = [f'("{pattern}", {len(loaded.languages)}), ' for pattern in language_specific(loaded.config.model)]
    reused = old.pieces(range(old.size)) != grown.pieces(range(old.size))  # places that were kept for later
    frozen = False if reused else old.size
    trained = f'(("(embedding|output|output_bias)", {frozen}), {"".join(own)}(".*", True))'
    multiple = loaded.config.model.vocabulary_multiple
    rounded = -grown.size % multiple > UNUSED_ROWS  # as of an import whose table is not rounded up evenly
    print(
        f"{grown.size - old.size:,} pieces added to {old.size:,}. "
        "A config that trains the new language and leaves the others alone:\n"
        f"    config.languages = {(*loaded.languages, language)}\n"
        f'    config.vocabulary.path = "{out}"\n'
        f'    config.checkpoint.init = {{"from": "{place}"}}\n'
        f"    config.optimizer.freeze_table = {trained}"
        + ("\n    config.model.vocabulary_multiple = 1" if rounded else "")
    )
