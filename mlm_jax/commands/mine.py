"""``mlm-jax mine``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mlm_jax.commands.options import CHECKPOINT, PAIR, path
from mlm_jax.common.files import writing

if TYPE_CHECKING:
    from mlm_jax.evaluation.bitext import MinedPair, MiningScores
    from mlm_jax.inference.miner import Sentences

ABOUT = "find sentences of two texts that are translations of each other"
EXAMPLE = "runs/mine english.txt german.txt --languages en-de --output pairs.tsv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments."""
    parser.add_argument("checkpoint", type=path, help=CHECKPOINT)
    parser.add_argument(
        "source",
        type=path,
        help="text file, one SENTENCE or IDENTIFIER<tab>SENTENCE (as in BUCC) per line; - is standard input",
    )
    parser.add_argument("target", type=path, help="text file in the other language")
    parser.add_argument("--languages", metavar="SOURCE-TARGET", help=PAIR)
    parser.add_argument("--gold", type=path, default="", help="file of ID<tab>ID lines, for precision, recall and F1")
    parser.add_argument(
        "--threshold", type=float, help="lowest ratio margin of a pair; by default the best for --gold, or 1"
    )
    parser.add_argument(
        "--output", type=path, default="-", help="FILE.tsv of score, both identifiers, both texts; - is standard output"
    )


def run(options: argparse.Namespace) -> None:
    """Mine the two texts."""
    mine_command(
        options.checkpoint,
        options.source,
        options.target,
        languages=options.languages,
        gold=options.gold,
        threshold=options.threshold,
        output=options.output,
    )


def mine_command(
    checkpoint: str | Path,
    source: str,
    target: str,
    *,
    languages: str | None = None,
    gold: str = "",
    threshold: float | None = None,
    output: str = "-",
) -> None:
    """Write the pairs of sentences that are translations of each other as TSV: score, source name, target name, source, target.

    Pairs are ranked by ratio margin (Artetxe & Schwenk 2019). The numbers of empty and of repeated lines, and with gold pairs
    precision, recall and F1, go to standard error. Without a threshold, the best one for these gold
    pairs is used and printed.

    Args:
      checkpoint: a workdir or one of its checkpoints.
      source: a text file with one sentence per line, or ``identifier TAB sentence`` as in BUCC; repeated sentences count once;
        "-" is standard input.
      target: a file of the same form in the other language.
      languages: the languages of the two texts, such as "de-en"; None if the model does not depend on the language.
      gold: a file of ``source identifier TAB target identifier`` lines.
      threshold: the lowest score of a pair; None is the best one for ``gold``, or 1.0 (nearer than the neighbourhood).
      output: FILE.tsv, which appears when it is complete, or "-".

    Raises:
      UserError: a file cannot be read or written, or is empty, or the model does not know a language.
    """
    from mlm_jax.evaluation.bitext import best_threshold, mine, mining_scores
    from mlm_jax.inference.encoder import load
    from mlm_jax.inference.miner import pair_codes, read_gold, read_sentences

    sides = read_sentences(source), read_sentences(target)
    for name, side in zip((source, target), sides):
        if side.empty or side.repeated:
            left_out = f"{side.empty:,} lines without one, {side.repeated:,} repeat an earlier one"
            print(f"{name}: {len(side.texts):,} sentences; {left_out}", file=sys.stderr)
    pairs = read_gold(gold, *sides) if gold else None
    model = load(checkpoint)
    codes = pair_codes(languages, model)
    left, right = (model.embed(side.texts, language=code) for side, code in zip(sides, codes))
    mined = mine(left, right)
    if threshold is None:
        threshold = best_threshold(mined, pairs) if pairs else 1.0
    if pairs is not None:
        print(describe(mining_scores(mined, pairs, threshold)), file=sys.stderr)
    kept = [pair for pair in mined if pair.score >= threshold]
    with writing(output) as file:
        _write(kept, *sides, file)
    print(f"{len(kept):,} pairs with a ratio margin of at least {threshold:.4g}", file=sys.stderr)


def describe(scores: MiningScores) -> str:
    """Return the scores as one line, in percent."""
    shares = ((name, 100 * value) for name, value in zip(("precision", "recall", "F1"), scores[:3]))
    return ", ".join(f"{name} {value:.2f}" for name, value in shares) + f" at threshold {scores.threshold:.4f}"


def _write(pairs: Sequence[MinedPair], source: Sentences, target: Sentences, file: IO[str]) -> None:
    for i, j, score in pairs:
        print(f"{score:.5f}", source.names[i], target.names[j], source.texts[i], target.texts[j], sep="\t", file=file)
