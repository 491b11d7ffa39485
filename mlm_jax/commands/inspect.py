"""``mlm-jax inspect``: what the data holds; or vocabularies side by side."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from typing import Any

from mlm_jax.commands.options import adapted_config, add_config, by_language, config_of, path, store_folder
from mlm_jax.common.errors import UserError

ABOUT = "show what the data holds: counts, fertility, samples, the planned mix and alpha's; or compare vocabularies"
EXAMPLE = "--config my_config.py --workdir runs/mine"
MOST = 10_000  # documents, or pairs, of a language that vocabularies are compared on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    add_config(parser, required=False)
    parser.add_argument("--workdir", type=path, help="folder of the token store")
    parser.add_argument(
        "--vocabulary",
        type=path,
        action="append",
        default=[],
        metavar="PLACE",
        help="instead of the data, show how this vocabulary cuts text: a workdir, a vocabulary folder, a .model file, a folder "
        "of transformers or a name on the Hub; repeatable, to compare several",
    )
    parser.add_argument(
        "--text",
        action="append",
        default=[],
        metavar="LANGUAGE=GLOB",
        help=f"text to compare vocabularies on (its first {MOST:,} documents), or module:function; repeatable. By default "
        "the config's corpora",
    )
    parser.add_argument(
        "--pairs",
        action="append",
        default=[],
        metavar="LANGUAGE-en=GLOB",
        help="translations into English, for parity; repeatable. By default the config's parallel text with English",
    )


def run(options: argparse.Namespace) -> None:
    """Print tables."""
    if options.vocabulary:
        inspect_vocabularies(options)
    elif options.text or options.pairs:
        raise UserError("--text and --pairs are for comparing vocabularies", remedy="give --vocabulary as well")
    elif not options.config:
        raise UserError("there is nothing to show", remedy="give --config, or --vocabulary and --text")
    else:
        inspect_data(options)


def inspect_data(options: argparse.Namespace) -> None:
    """Print tables of the token store, which is prepared first if it is not up to date."""
    from mlm_jax.common.console import table_console
    from mlm_jax.data.loading.loader import Loader
    from mlm_jax.data.store.prepare import prepare
    from mlm_jax.data.store.store import Store
    from mlm_jax.objectives import create_objectives
    from mlm_jax.report.store_tables import (
        changes_table,
        counts_table,
        filters_table,
        mix_table,
        overlap_table,
        phases_table,
        plan_table,
        samples_table,
    )
    from mlm_jax.training.check import check_data

    config, console = adapted_config(options), table_console()
    objectives = create_objectives(config.tasks)
    check_data(config, objectives)  # before hours of preparing
    store = Store.open(prepare(config, store_folder(config, options.workdir)))
    tables = (counts_table(store), filters_table(store), overlap_table(store), mix_table(store), samples_table(store))
    for table in tables:
        if table.row_count:
            console.print(table)
    if not overlap_table(store).row_count and store.manifest["facts"].get("held_out"):
        console.print("No training text was also validation text.")
    for name, reasons in store.manifest["facts"].get("skipped", {}).items():
        for reason, count in reasons.items():
            console.print(f"{name}: {count:,} examples: {reason}")
    loader = Loader(store, config, {task: objective.kind for task, objective in objectives.items()})
    console.print(plan_table(loader))
    if config.curriculum:
        console.print(changes_table(loader))
    console.print(phases_table(loader))


def inspect_vocabularies(options: argparse.Namespace) -> None:
    """Print how vocabularies cut the text that the options or the config name.

    Raises:
      UserError: there is no such vocabulary, or no text.
    """
    from mlm_jax.common.console import table_console
    from mlm_jax.interop.any_vocabulary import any_vocabulary
    from mlm_jax.report.vocabulary_table import vocabularies_table

    texts, pairs = texts_and_pairs(options)
    if not texts and not pairs:
        raise UserError("there is no text to compare on", remedy="give --text sw='text/sw/*.txt', --pairs or --config")
    vocabularies = {name: any_vocabulary(name) for name in options.vocabulary}
    found = {language: [*itertools.islice(documents, MOST)] for language, documents in texts.items()}
    translated: dict[str, list[tuple[str, str]]] = {}
    for name, sides in pairs.items():
        turned = name.startswith(tuple(f"{code}-" for code in ENGLISH))
        of_pair = ((b, a) if turned else (a, b) for a, b in itertools.islice(sides, MOST))
        translated.setdefault(other_than_english(name), []).extend(of_pair)
    for language, texts_of in (*found.items(), *translated.items()):
        if not texts_of:
            raise UserError(f"there is no text of {language!r}", remedy="check its files")
    table_console().print(vocabularies_table(vocabularies, found, translated))


def texts_and_pairs(options: argparse.Namespace) -> tuple[dict[str, Iterator[str]], dict[str, Iterator[Any]]]:
    """Return {language: its documents} and {pair with English: its pairs} of the options or, without them, of the config."""
    from mlm_jax.data.store.streams import sources
    from mlm_jax.data.text.corpora import documents, sentence_pairs

    texts, pairs = by_language(options.text, "--text"), by_language(options.pairs, "--pairs")
    for name in pairs:
        if not other_than_english(name):
            raise UserError(f"--pairs {name} has no English side", remedy="write --pairs sw-en='text/sw-en.tsv'")
    read: dict[str, dict[str, Iterator[Any]]] = {"text": {}, "pairs": {}}
    for language, globs in texts.items():
        read["text"][language] = _all([documents(glob, language, "train") for glob in globs])
    for name, globs in pairs.items():
        known = (other_than_english(name), *texts, *ENGLISH)
        read["pairs"][name] = _all([sentence_pairs(glob, name, "train", known) for glob in globs])
    given = {kind for kind, found in read.items() if found}
    for source in sources(config_of(options)) if options.config else ():
        wanted = source.kind == "text" or other_than_english(source.of)
        if source.train is not None and source.kind not in given and wanted:
            of_source = _all(source.batches("train"))
            read[source.kind][source.of] = itertools.chain(read[source.kind].get(source.of, ()), of_source)
    return read["text"], read["pairs"]


ENGLISH = ("en", "eng", "eng_Latn")


def other_than_english(pair: str) -> str:
    """Return the language that a pair such as "sw-en" has beside English; "" if neither side is English."""
    first, _, rest = pair.partition("-")
    if first in ENGLISH:
        return rest
    rest, _, last = pair.rpartition("-")
    return rest if last in ENGLISH else ""


_all = itertools.chain.from_iterable
