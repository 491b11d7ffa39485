"""Tokens per second and core from a token store through ``Loader.batch``, compared with seqio's packing of the same documents.

Run ``python benchmarks/loader.py``: it writes two stores of Zipf tokens in ten languages to a temporary folder, one
that fits into the cache of decoded blocks and one ten times as large that does not. The process is pinned to one core, and its CPU
time with all its threads is measured; the files are in the page cache. The second table shows the memory that a process needs
to load from each store.

    python benchmarks/loader.py --against ../checkout    # which loader is faster: this one, or that of another commit

Each of the two writes its stores with its own writer and loads from them, in turns; medians of the CPU time are compared.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mlm_jax.config import default_config
from mlm_jax.data.loading.loader import Loader
from mlm_jax.data.store.store import Store
from mlm_jax.data.store.writer import StoreWriter

LANGUAGES = [f"l{i}" for i in range(10)]
DOCUMENT = 700  # tokens on average
RESULTS = Path(__file__).parent / "results" / "loader_against.json"


class Ids:
    """The part of a vocabulary that a store uses."""

    pad_id, eos_id, fingerprint = 0, 1, "zipf"

    def __init__(self, size: int):
        self.size = size

    def files(self) -> dict[str, bytes]:
        """Return a file."""
        return {"ids.txt": str(self.size).encode()}


def documents(vocabulary: int, seed: int) -> list[np.ndarray]:
    """Return 4 Mi tokens, Zipf distributed, in documents of geometric length."""
    rng = np.random.default_rng(seed)
    cumulative = np.cumsum(1 / np.arange(1, vocabulary + 1))
    tokens = np.searchsorted(cumulative, rng.random(1 << 22) * cumulative[-1]).astype(np.int32)
    starts = np.cumsum(rng.geometric(1 / DOCUMENT, (1 << 22) // DOCUMENT))
    return np.split(tokens, starts[starts < len(tokens)])


def write_store(folder: Path, tokens: int, vocabulary: int) -> float:
    """Write a store whose languages have 10 : 9 : … : 1 shares of the tokens, and return the seconds in the writer."""
    texts = [documents(vocabulary, seed) for seed in range(2)]
    spent = 0.0
    with StoreWriter(folder, Ids(vocabulary), LANGUAGES) as writer:
        for rank, language in enumerate(LANGUAGES):
            left = tokens * (10 - rank) // 55
            for text in itertools.cycle(texts):
                taken = int(np.searchsorted(np.cumsum([len(d) for d in text]), left)) + 1
                begin = time.process_time()
                writer.add(language, "text", [language], "train", {"inputs": text[:taken]})
                spent += time.process_time() - begin
                left -= sum(len(document) for document in text[:taken])
                if left <= 0:
                    break
    return spent


def make_loader(folder: Path, rows: int, length: int) -> Loader:
    config = default_config()
    config.tasks = {"mlm": {"objective": "mlm", "rows": rows, "length": length}}
    return Loader(Store.open(folder), config, {"mlm": "text"})


def measure(name: str, work: Callable[[], Iterator[int]], seconds: float) -> dict[str, Any]:
    """Return the best tokens a second of five parts of a time, by CPU time and by the clock."""
    counts = work()
    next(counts)
    best = {"cpu": 0.0, "wall": 0.0}
    for _ in range(5):
        tokens, cpu, wall = 0, time.process_time(), time.perf_counter()
        while time.perf_counter() - wall < seconds / 5:
            tokens += next(counts)
        best["cpu"] = max(best["cpu"], tokens / (time.process_time() - cpu))
        best["wall"] = max(best["wall"], tokens / (time.perf_counter() - wall))
    return {"name": name, **best}


def ours(folder: Path, rows: int, length: int) -> Iterator[int]:
    loader = make_loader(folder, rows, length)
    for step in itertools.count():
        yield int((loader.batch(step)["mlm"]["inputs"].segment_ids > 0).sum())


def memory_map(folder: Path, rows: int, length: int) -> Iterator[int]:
    """Copy random rows of an uncompressed file: no documents, no languages, no order. It shows what the disk cache can deliver."""
    loader = make_loader(folder, rows, length)
    file = folder / "flat.npy"
    np.save(file, loader.streams("mlm")[0].split("train")["inputs"].read())
    flat = np.load(file, mmap_mode="r")
    rng = np.random.default_rng(0)
    for _ in itertools.count():
        starts = rng.integers(0, len(flat) - length, rows)
        batch = np.stack([flat[start : start + length] for start in starts])
        yield batch.size


def seqio_packing(options: argparse.Namespace) -> Iterator[int]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import seqio
    import tensorflow as tf

    text = documents(options.vocabulary, 0)
    ragged = tf.RaggedTensor.from_row_lengths(np.concatenate(text), [len(document) for document in text])
    examples = tf.data.Dataset.from_tensor_slices(ragged).map(lambda tokens: {"inputs": tokens}).repeat()
    for row in seqio.trim_and_pack_dataset(examples, {"inputs": options.length}).as_numpy_iterator():
        yield int((row["inputs_segment_ids"] > 0).sum())


def peak_memory(folder: Path, rows: int, length: int) -> int:
    """Return the peak memory, in MiB, of another process that loads 40 M tokens."""
    command = [sys.executable, __file__, "--memory-of", str(folder), "--rows", str(rows), "--length", str(length)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def load_and_print_memory(folder: Path, rows: int, length: int) -> None:
    counts, tokens = ours(folder, rows, length), 0
    while tokens < 40e6:
        tokens += next(counts)
    status = Path("/proc/self/status").read_text()  # getrusage would count what the parent had before the exec
    print(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1024)


ONE_TURN = """
import importlib.util, os, sys, time
from pathlib import Path
tree, folder, tokens, rows, length, vocabulary, warm = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:8])
sys.path.insert(0, tree)
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
spec = importlib.util.spec_from_file_location("benchmark", f"{tree}/benchmarks/loader.py")
spec.loader.exec_module(benchmark := importlib.util.module_from_spec(spec))
if not folder.exists():
    benchmark.write_store(folder, tokens, vocabulary)
counts = benchmark.ours(folder, rows, length)
for _ in range(warm):
    next(counts)
begun = time.process_time()
loaded = sum(next(counts) for _ in range(100))
print(loaded / (time.process_time() - begun))
"""


def compare(options: argparse.Namespace, rounds: int = 5) -> None:
    """Print, and write to RESULTS, the median speeds of this checkout's loader and of another one's."""
    trees = {"this": Path(__file__).parents[1], "other": options.against.resolve()}
    names = {which: _git(tree, "log", "-1", "--format=%h of %cs") for which, tree in trees.items()}
    speeds: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for _, size, which in itertools.product(range(rounds), (1, 10), trees):
            tokens = int(options.tokens) * size
            warm = int(options.tokens) // (options.rows * options.length) if size == 1 else 20  # steps: fill the cache
            numbers = (tokens, options.rows, options.length, options.vocabulary, warm)
            folder = f"{temporary}/{which}{size}"
            command = [sys.executable, "-c", ONE_TURN, str(trees[which]), folder, *map(str, numbers)]
            found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=temporary)
            speeds.setdefault(f"{tokens / 1e6:,.0f} M tokens", {}).setdefault(which, []).append(float(found.stdout))
    medians = {
        size: {names[which]: round(statistics.median(values) / 1e6, 1) for which, values in by_tree.items()}
        for size, by_tree in speeds.items()
    }
    print(json.dumps(medians, indent=1))
    RESULTS.write_text(json.dumps({"M tokens/s, CPU time": medians, "rounds": rounds}, indent=1) + "\n")


def _git(tree: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", tree, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=float, default=100e6, help="of the store")
    parser.add_argument("--vocabulary", type=int, default=32_000, help="up to 32,768 are stored in two bytes")
    parser.add_argument("--rows", type=int, default=256, help="a step")
    parser.add_argument("--length", type=int, default=1024, help="tokens a row")
    parser.add_argument("--seconds", type=float, default=10, help="a measurement")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="compare with the loader of another checkout")
    parser.add_argument("--memory-of", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        return load_and_print_memory(options.memory_of, options.rows, options.length)
    if options.against:
        return compare(options)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    console = Console()
    tokens, shape = int(options.tokens), (options.rows, options.length)
    with tempfile.TemporaryDirectory() as temporary:
        stores = {f"{times * tokens / 1e6:,.0f} M tokens": Path(temporary, str(times)) for times in (1, 10)}
        results = []
        for (name, folder), times in zip(stores.items(), (1, 10)):
            spent = write_store(folder, times * tokens, options.vocabulary)
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / times / tokens
            results.append(
                {"name": f"StoreWriter.add, {name}, {size:.2f} bytes a token", "cpu": times * tokens / spent}
            )
            results.append(
                measure(f"Loader.batch, {name}", lambda folder=folder: ours(folder, *shape), options.seconds)
            )
        packing = measure("seqio.trim_and_pack_dataset", lambda: seqio_packing(options), options.seconds)
        results += [
            packing,
            measure("copying rows of a memory map", lambda: memory_map(folder, *shape), options.seconds),
        ]
        table = Table(title=f"one core, {shape[0]} rows of {shape[1]} tokens, vocabulary of {options.vocabulary:,}")
        table.add_column("")
        for heading in ("M tokens/s, CPU time", "by the clock", "times seqio"):
            table.add_column(heading, justify="right")
        for result in results:
            wall = f"{result['wall'] / 1e6:.1f}" if "wall" in result else ""
            times_seqio = f"{result['cpu'] / packing['cpu']:.0f}" if "wall" in result else ""
            table.add_row(result["name"], f"{result['cpu'] / 1e6:.1f}", wall, times_seqio)
        console.print(table)
        table = Table(title="peak memory of a process that loads")
        table.add_column("from")
        table.add_column("MiB", justify="right")
        for name, folder in stores.items():
            table.add_row(name, str(peak_memory(folder, *shape)))
        console.print(table)


if __name__ == "__main__":
    main()
