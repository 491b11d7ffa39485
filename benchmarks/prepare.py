"""Tokens per second of ``prepare`` against Hugging Face ``datasets.map`` with the fast tokenizer, and prepare's memory.

    python benchmarks/prepare.py            # needs the extras [demo], [datasets] and [hf]

Both read the same lines of the demo's Bible in four languages from one text file each, tokenise with the same
SentencePiece model and write a store that training can read, on one core; runs alternate and medians are printed. The second
table is the cost of keeping held-out text and exact copies out of training, if one text in a hundred is held out: shares of the
processor's time, and bytes of memory for each held-out text. The third is the peak memory of training the vocabulary, of prepare
with both and of the loader, on 1× and 10× of the text, each in its own process.

    python benchmarks/prepare.py --rounds 5 --only held-out    # needs [demo] alone; benchmarks/results/held_out.json
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

LANGUAGES = ("en", "de", "ru", "hi")
RESULTS = Path(__file__).parent / "results" / "held_out.json"
PARTS = ("vocabulary", "prepare", "loader")  # the loader reads what prepare wrote


def write_text(folder: Path, copies: int) -> None:
    from mlm_jax.data import bible

    for language in LANGUAGES:
        lines = [verse.replace("\n", " ") for _, verse in bible._verses(language)]
        (folder / f"{language}.txt").write_text("".join(line + "\n" for line in lines) * copies)


def config_for(folder: Path, model: Path | None):
    from mlm_jax.config import default_config

    config = default_config()
    config.data.corpora = {language: str(folder / f"{language}.txt") for language in LANGUAGES}
    config.data.prefix, config.data.validation_fraction = "none", 0.0
    config.vocabulary.update(size=16_000, sentences=50_000, sentinels=0, path=str(model) if model else "")
    return config


def ours(folder: Path, model: Path) -> tuple[float, int]:
    """Return seconds and tokens of one prepare."""
    from mlm_jax.data.store.prepare import prepare
    from mlm_jax.data.store.store import Store

    with tempfile.TemporaryDirectory() as out:
        begun = time.perf_counter()
        prepare(config_for(folder, model), Path(out) / "store", progress=False)
        seconds = time.perf_counter() - begun
        store = Store.open(Path(out) / "store")
        return seconds, sum(split.tokens for stream in store.streams.values() for split in stream.splits.values())


def held_out(folder: Path, model: Path, rounds: int) -> dict[str, Any]:
    """Return what it costs to keep held-out text and copies out of training text, in shares of prepare's processor time.

    Each round prepares three times, and looks for held-out text once more by itself. The shares are medians over the rounds of
    what a round's three prepares and one search took, so that a noisy minute spoils one round only.
    """
    from mlm_jax.data.store.held_out import collect
    from mlm_jax.data.store.prepare import prepare

    config = config_for(folder, model)
    config.data.validation_fraction, config.data.workers = 0.01, 1
    variants = {"neither": (False, ()), "held-out text": (True, ()), "both": (True, ("exact_duplicates",))}
    shares: dict[str, list[float]] = {"finding": [], "comparing": [], "copies": [], "all": [], "seconds": []}
    for number in range(rounds + 1):
        took = []
        for compared, filters in variants.values():
            config.data.decontaminate, config.data.filters = compared, filters
            with tempfile.TemporaryDirectory() as out:
                begun = time.process_time()  # others may use the machine
                prepare(config, Path(out) / "store", progress=False)
                took.append(time.process_time() - begun)
        config.data.filters = ()
        begun = time.process_time()
        found = collect(config)
        finding = time.process_time() - begun
        neither, one, both = took
        parts = {"finding": finding, "comparing": one - neither, "copies": both - one}
        if number:  # the first round imports TensorFlow
            for name, part in {**parts, "all": sum(parts.values())}.items():
                shares[name].append(part / both)
            shares["seconds"].append(both)
    medians = {name: statistics.median(values) for name, values in shares.items()}
    bytes_each = 8 * len(found) / len(found.chosen)
    print(
        f"of prepare's {medians['seconds']:.1f} s: finding held-out text {medians['finding']:.1%}, comparing "
        f"{medians['comparing']:.1%}, exact copies {medians['copies']:.1%}, in all {medians['all']:.1%}; "
        f"{bytes_each:.1f} bytes for each of {len(found.chosen):,} held-out texts, sentences included"
    )
    return {**medians, "bytes": bytes_each, "texts": len(found.chosen), "rounds": rounds, "date": str(date.today())}


def theirs(folder: Path, tokenizer) -> tuple[float, int]:
    """Return seconds and tokens of one datasets.map and save_to_disk."""
    import datasets

    datasets.disable_progress_bars()
    datasets.disable_caching()
    with tempfile.TemporaryDirectory() as out:
        begun, sets = time.perf_counter(), []
        for language in LANGUAGES:
            lines = datasets.load_dataset(
                "text", data_files=str(folder / f"{language}.txt"), split="train", cache_dir=out
            )
            mapped = lines.map(
                lambda batch: {"input_ids": [e.ids for e in tokenizer.encode_batch(batch["text"])]},
                batched=True,
                remove_columns=["text"],
            )
            mapped.save_to_disk(f"{out}/{language}")
            sets.append(mapped)
        seconds = time.perf_counter() - begun
        return seconds, sum(len(ids) for mapped in sets for ids in mapped["input_ids"])


def fast_tokenizer(model: Path):
    """Return the SentencePiece unigram model as a Rust tokenizer with the same pieces and scores."""
    import sentencepiece
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    pieces = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(processor.get_piece_size())]
    tokenizer = Tokenizer(models.Unigram(pieces, processor.unk_id(), byte_fallback=True))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def peak_memory(part: str, folder: Path, model: Path, copies: int) -> int:
    """Return the peak resident memory, in MiB, of a process that does one part over and over the text."""
    write_text(folder, copies)
    command = [sys.executable, __file__, "--memory", part, "--folder", str(folder), "--model", str(model)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def do_part(part: str, folder: Path, model: Path) -> None:
    """Do one part in this process, and print its peak memory."""
    config, store = config_for(folder, model), folder / "memory_store"
    if part == "vocabulary":
        from mlm_jax.data.store.vocabulary import vocabulary_sentences
        from mlm_jax.data.text.languages import run_languages
        from mlm_jax.data.vocabulary.pieces import Vocabulary

        config.vocabulary.update(path="", size=2000, sentences=10_000)
        languages = run_languages(config)
        Vocabulary.train(vocabulary_sentences(config, languages), config.vocabulary, languages)
    elif part == "prepare":
        from mlm_jax.data.store.prepare import prepare

        config.data.validation_fraction, config.data.filters = 0.01, ("exact_duplicates",)
        prepare(config, store, progress=False)
    else:
        from mlm_jax.data.loading.loader import Loader
        from mlm_jax.data.store.store import Store

        config.tasks = {"mlm": {"objective": "mlm", "rows": 64, "length": 512}}
        loader = Loader(Store.open(store), config, {"mlm": "text"})
        for step in range(300):
            loader.batch(step)
    status = Path("/proc/self/status").read_text()  # ru_maxrss would count the process that this one was forked from
    print(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024)  # type: ignore[index]


def _rounded(value: Any) -> Any:
    return round(value, 3) if isinstance(value, float) else value


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("held-out",), help="measure this alone")
    for flag, kind in (("--memory", str), ("--folder", Path), ("--model", Path)):  # of a process of its own
        parser.add_argument(flag, type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        return do_part(options.memory, options.folder, options.model)
    with tempfile.TemporaryDirectory() as place:
        folder, model = Path(place), Path(place) / "bench.model"
        write_text(folder, 1)
        from mlm_jax.data.store.prepare import prepare
        from mlm_jax.data.store.store import Store

        prepare(config_for(folder, None), folder / "first", progress=False)
        model.write_bytes(Store.open(folder / "first").vocabulary.model)
        if options.rounds:
            measured = held_out(folder, model, options.rounds)
            RESULTS.write_text(json.dumps({name: _rounded(value) for name, value in measured.items()}, indent=1) + "\n")
        if options.only:
            return
        tokenizer, speeds = fast_tokenizer(model), {"mlm-jax prepare": [], "datasets.map, fast tokenizer": []}
        for _ in range(options.rounds):
            for name, run in zip(speeds, (lambda: ours(folder, model), lambda: theirs(folder, tokenizer))):
                seconds, tokens = run()
                speeds[name].append(tokens / seconds)
        for name, values in speeds.items() if options.rounds else ():
            print(f"{name:32s} {statistics.median(values) / 1e3:8.0f} k tokens/s")
        first, second = speeds.values()
        if first:
            print(f"ratio {statistics.median(a / b for a, b in zip(first, second)):.2f}x")
        peaks = {copies: [peak_memory(part, folder, model, copies) for part in PARTS] for copies in (1, 10)}
        print(f"{'peak memory, MiB':18s}" + "".join(f"{part:>12s}" for part in PARTS))
        for copies, row in peaks.items():
            print(f"{copies:>3d}x the text      " + "".join(f"{peak:12d}" for peak in row))


if __name__ == "__main__":
    os.sched_setaffinity(0, {0})  # one core for all threads of both
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    main()
