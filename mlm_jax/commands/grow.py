"""``mlm-jax grow``."""

from __future__ import annotations

import argparse
import itertools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from mlm_jax.commands.options import CHECKPOINT, by_language
from mlm_jax.common.errors import UserError, nearest
from mlm_jax.config.module import search

ABOUT = "add a language to a checkpoint's vocabulary, for a run that goes on with it"
EXAMPLE = "runs/mine --language tl --text 'text/tl/*.txt' --out runs/mine_tl_vocabulary"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("checkpoint", help=CHECKPOINT)
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
    parser.add_argument("--out", required=True, help="folder of the new vocabulary, for config.vocabulary.path")


def run(options: argparse.Namespace) -> None:
    """Grow the vocabulary."""
    grow_command(
        options.checkpoint,
        options.language,
        options.text,
        options.pieces,
        options.out,
        by_language(options.old_text, "--old-text"),
        start=options.start,
        pairs=by_language(options.pairs, "--pairs"),
    )


def grow_command(
    checkpoint: str | Path,
    language: str,
    source: str,
    pieces: int,
    out: str | Path,
    old_texts: Mapping[str, Sequence[str]] = MappingProxyType({}),
    *,
    start: str = "spelling",
    pairs: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> None:
    """Write a checkpoint's vocabulary with a language added, and print the config that continues with it.

    Args:
      checkpoint: a workdir or one of its checkpoints.
      language: code of the new language.
      source: text of the new language, as in ``config.data.corpora``: a glob or "module:function".
      pieces: the most pieces to add.
      out: the folder to make.
      old_texts: {language that the model knows: sources} of the texts that are counted if their ids change.
      start: how the embeddings of new pieces are initialised, a key of :data:`.STARTS`.
      pairs: {pair of languages: sources} of translations, if ``start`` reads them.

    Raises:
      UserError: as :func:`.grow_vocabulary`; there is no checkpoint, no text or no translation; ``start`` is unknown; the folder
        exists, or cannot be written.
    """
    from mlm_jax.adaptation.grow import MOST_DOCUMENTS, grow_vocabulary, language_specific, old_rows, recut
    from mlm_jax.adaptation.starts import STARTS
    from mlm_jax.checkpoints.checkpoint import load_parameters
    from mlm_jax.checkpoints.starts import FILE, write_starts
    from mlm_jax.data.text.corpora import documents

    if start not in STARTS:
        raise UserError(
            f"there is no start {start!r}{nearest(start, STARTS)}", remedy=f"use one of {', '.join(STARTS)}"
        )
    if (start == "lexicon") != bool(pairs):
        problem = "--start lexicon needs translations" if not pairs else "--pairs are for --start lexicon"
        raise UserError(problem, remedy="give --start lexicon --pairs tl-en=tl-en.tsv, or neither")
    if Path(out).exists():
        raise UserError("this folder already exists", file=out, remedy="name another folder")
    loaded = load_parameters(checkpoint)
    old = loaded.vocabulary
    search(Path.cwd())  # where a file with "module:function" stands that no config names
    found = (document for document in documents(source, language, "train") if document.strip())
    text = itertools.islice(found, MOST_DOCUMENTS)
    first = next(text, None)
    if first is None:
        raise UserError("there is no text in it", file=source, remedy="give text of the new language")
    translations = translations_of(pairs, language, loaded.languages)
    grown = grow_vocabulary(old, language, itertools.chain([first], text), pieces)
    mixtures = STARTS[start](old, grown, translations)
    try:
        grown.save(out)
        if mixtures:
            write_starts(Path(out) / FILE, mixtures, old, grown)
    except OSError as error:
        shutil.rmtree(out, ignore_errors=True)  # it was not there before
        raise UserError(f"cannot write: {error.strerror}", file=out) from error
    own = [f'("{pattern}", {len(loaded.languages)}), ' for pattern in language_specific(loaded.config.model)]
    rows = old_rows(old, grown)
    frozen = old.size if rows == ((0, old.size),) else rows
    new = grown.size - sum(behind - first for first, behind in rows)
    print(f"{new:,} new pieces; the vocabulary had {old.size:,} and has {grown.size:,}")
    if pairs:
        print(f"{len(mixtures):,} of them begin as old pieces of {len(translations):,} translations")
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
        f'    config = continued_config("{checkpoint}", vocabulary="{out}")\n'
        f"    config.languages = {tuple(dict.fromkeys((*loaded.languages, language)))}\n"
        f'    config.optimizer.freeze_table = (("(embedding|output|output_bias)", {frozen}), {"".join(own)}(".*", True))'
    )


def translations_of(pairs: Mapping[str, Sequence[str]], language: str, known: Sequence[str]) -> list[tuple[str, str]]:
    """Return translations as (text of the new language, text of another one).

    Args:
      pairs: {pair of languages: sources}.
      language: the new language.
      known: codes of the languages that the model knows.

    Raises:
      UserError: a pair does not name the new language, or there is no translation in its files.
    """
    from mlm_jax.adaptation.grow import MOST_DOCUMENTS
    from mlm_jax.data.text.corpora import sentence_pairs
    from mlm_jax.data.text.languages import split_pair

    found: list[tuple[str, str]] = []
    for name, sources in pairs.items():
        codes = (language, *known)
        sides = split_pair(name, codes)
        if language not in sides:
            raise UserError(f"--pairs {name} does not name {language!r}", remedy=f"write --pairs {language}-en=FILE")
        turned = sides[1] == language
        both = (pair for one in sources for pair in sentence_pairs(one, name, "train", codes) if all(pair))
        read = [(b, a) if turned else (a, b) for a, b in itertools.islice(both, MOST_DOCUMENTS)]
        if not read:
            raise UserError(f"there is no translation of {name}", remedy="check its files")
        found += read
    return found
