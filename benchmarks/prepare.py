"""Tokens per second of ``prepare`` against Hugging Face ``datasets.map`` with the fast tokenizer, and prepare's memory.

    python benchmarks/prepare.py            # needs the extras [demo], [datasets] and [hf]

Both read the same lines of the demo's Bible in four languages from one text file each, tokenise with the same
SentencePiece model and write a store that training can read, on one core; runs alternate and medians are printed. Then
what it costs to keep held-out text and exact copies out of training, where one text in a hundred is held out: shares of the
processor's time, and the bytes that a held-out text takes. Then the peak memory of training the vocabulary, of prepare with both
and of the loader on 1× and 10× of the text, a process each.

    python benchmarks/prepare.py --rounds 5 --only held-out    # needs [demo] alone
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LANGUAGES = ("en", "de", "ru", "hi")
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


def held_out(folder: Path, model: Path, rounds: int) -> None:
    """Print what it costs to keep held-out text and copies out of training text."""
    from mlm_jax.data.store.held_out import collect
    from mlm_jax.data.store.prepare import prepare

    config = config_for(folder, model)
    config.data.validation_fraction, config.data.workers = 0.01, 1
    variants = {"neither": (False, ()), "held-out text": (True, ()), "both": (True, ("exact_duplicates",))}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, (compared, filters) in variants.items():
            config.data.decontaminate, config.data.filters = compared, filters
            with tempfile.TemporaryDirectory() as out:
                begun = time.process_time()  # others may use the machine
                prepare(config, Path(out) / "store", progress=False)
                seconds[name].append(time.process_time() - begun)
    config.data.filters = ()
    begun = time.process_time()
    found = collect(config)
    finding = time.process_time() - begun
    neither, one, whole = (min(taken) for taken in seconds.values())  # what others do on the machine only adds to it
    compared, copies = one - neither, whole - one
    print(
        f"of prepare's {whole:.1f} s: finding held-out text {finding / whole:.1%}, comparing {compared / whole:.1%}, exact copies "
        f"{copies / whole:.1%}, in all {(finding + compared + copies) / whole:.1%}; "
        f"{8 * len(found) / len(found.chosen):.1f} bytes for each of {len(found.chosen):,} held-out texts, sentences included"
    )


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
    """Do, in this process, what the memory of is asked for, and print the peak."""
    config, store = config_for(folder, model), folder / "memory_store"
    if part == "vocabulary":
        from mlm_jax.data.store.prepare import vocabulary_sentences
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
            held_out(folder, model, options.rounds)
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
