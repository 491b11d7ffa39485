"""``mlm-jax grow``."""

from __future__ import annotations

import argparse
import itertools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from mlm_jax.commands.options import CHECKPOINT, by_language
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
    parser.add_argument(
        "--old-text",
        action="append",
        default=[],
        metavar="LANGUAGE=GLOB",
        help="text of a language that the model knows, to count how much of it is cut otherwise; repeatable",
    )
    parser.add_argument("--out", required=True, help="folder of the new vocabulary, for config.vocabulary.path")


def run(options: argparse.Namespace) -> None:
    """Grow the vocabulary."""
    old_texts = by_language(options.old_text, "--old-text")
    grow_command(options.checkpoint, options.language, options.text, options.pieces, options.out, old_texts)


def grow_command(
    place: str | Path,
    language: str,
    source: str,
    pieces: int,
    out: str | Path,
    old_texts: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> None:
    """Write a checkpoint's vocabulary with a language added, and say how a config goes on with it.

    Args:
      place: a workdir or one of its checkpoints.
      language: code of the new language.
      source: its text, as ``config.data.corpora`` takes it: a glob or "module:function".
      pieces: to add at most.
      out: folder to make.
      old_texts: {language that the model knows: sources}, of which the texts whose ids change are counted.

    Raises:
      UserError: as :func:`.grow_vocabulary`; there is no checkpoint or no text; the folder exists, or
        cannot be written.
    """
    from mlm_jax.adaptation.grow import MOST_DOCUMENTS, grow_vocabulary, language_specific, old_rows, recut
    from mlm_jax.checkpoints.checkpoint import load_parameters
    from mlm_jax.data.text.corpora import documents

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
    rows = old_rows(old, grown)
    frozen = old.size if rows == ((0, old.size),) else rows
    new = grown.size - sum(behind - first for first, behind in rows)
    print(f"{new:,} new pieces; the vocabulary had {old.size:,} and has {grown.size:,}")
    for code, sources in {language: (source,), **old_texts}.items():
        texts = (document for one in sources for document in documents(one, code, "train"))
        count = recut(old, grown, itertools.islice(texts, MOST_DOCUMENTS))
        print(
            f"{code}: {count.changed:,} of {count.texts:,} texts change their ids; "
            f"{count.before:,} tokens → {count.after:,} ({100 * count.after / max(count.before, 1) - 100:+.2f} %)"
        )
    print(
        f"wrote {out}. A config that trains the new language and leaves the others alone:\n"
        "    from mlm_jax.adaptation.continuing import continued_config\n"
        f'    config = continued_config("{place}", vocabulary="{out}")\n'
        f"    config.languages = {(*loaded.languages, language)}\n"
        f'    config.optimizer.freeze_table = (("(embedding|output|output_bias)", {frozen}), {"".join(own)}(".*", True))'
    )
