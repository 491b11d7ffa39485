"""``mlm-jax inspect``."""

from __future__ import annotations

import argparse

from mlm_jax.commands.options import add_config, config_of, store_folder

ABOUT = "show what the data holds: counts, fertility, samples, the planned mix and alpha's"
EXAMPLE = "--config my_config.py --workdir runs/mine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    add_config(parser)
    parser.add_argument("--workdir", help="folder of the token store")


def run(options: argparse.Namespace) -> None:
    """Print tables of the token store, which is prepared first if it is not up to date."""
    from mlm_jax.common.console import table_console
    from mlm_jax.data.loading.loader import Loader
    from mlm_jax.data.store.prepare import prepare
    from mlm_jax.data.store.store import Store
    from mlm_jax.objectives import kinds
    from mlm_jax.report.store_tables import (
        counts_table,
        mix_table,
        overlap_table,
        phases_table,
        plan_table,
        samples_table,
    )

    config, console = config_of(options), table_console()
    reads = kinds(config.tasks)
    store = Store.open(prepare(config, store_folder(config, options.workdir)))
    for table in (counts_table(store), overlap_table(store), mix_table(store), samples_table(store)):
        if table.row_count:
            console.print(table)
    if not overlap_table(store).row_count and store.manifest["facts"].get("held_out"):
        console.print("No training text was also validation text.")
    for name, reasons in store.manifest["facts"].get("skipped", {}).items():
        for reason, count in reasons.items():
            console.print(f"{name}: {count:,} examples: {reason}")
    loader = Loader(store, config, reads)
    console.print(plan_table(loader))
    console.print(phases_table(loader))
