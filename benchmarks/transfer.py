"""Comparisons of methods for transfer between languages: the numbers of docs/methods.md, on the Bible, in minutes on two cores.

    python benchmarks/transfer.py genre           # head on English labels: pretrained and aligned, by MLM alone, from scratch
    python benchmarks/transfer.py attention       # cross-lingual attention: source plugged in, unplugged; word alignments
    python benchmarks/transfer.py sentences       # what aligns sentences: ranking, its options, tlm; retrieval and mining
    python benchmarks/transfer.py translation     # which weights languages share, in translation
    python benchmarks/transfer.py representation  # subwords, bytes, characters; ways to tell the model the language
    python benchmarks/transfer.py synthetic       # back-translation: real pairs against real and synthetic ones
    python benchmarks/transfer.py translate_train # German labels from translations of labelled English text
    python benchmarks/transfer.py model_transfer  # German after English against German from scratch
    python benchmarks/transfer.py new_language    # Korean added to five languages: its own adapters, or a new vocabulary
    python benchmarks/transfer.py adapters        # the genre head with adapters in a frozen encoder
    python benchmarks/transfer.py multitask       # four tasks at once; then the classifier or the decoder alone
    python benchmarks/transfer.py entities --data FOLDER  # Universal NER's files, with and without pretraining

Run it in the folder that contains ``configs``. Every run is a ``mlm-jax train`` with a seed and a workdir under ``runs``. Finished
runs are not repeated, interrupted ones continue. Each seed has its own pretraining. The table is printed and written to
``runs/NAME.json`` with the values of every seed; ± is the standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mlm_jax.common.errors import UserError
from mlm_jax.common.files import write_whole
from mlm_jax.config import import_config
from mlm_jax.report.history import read_history

RUNS = Path("runs")
Values = dict[str, float]  # of one method and seed, by language or other column
console = Console(stderr=True, highlight=False, soft_wrap=True)


# ---------------------------------------------------------------------------------------------------- runs


def mlm_jax(*arguments: str) -> str:
    """Run a verb of mlm-jax and return its standard output; programs compiled by one run serve the next.

    Raises:
      UserError: it failed; its own message is on standard error.
    """
    environment = {"JAX_COMPILATION_CACHE_DIR": str((RUNS / "compiled").resolve())} | os.environ
    console.print(f"mlm-jax {' '.join(arguments)}")
    command = [sys.executable, "-m", "mlm_jax.cli", *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"mlm-jax {arguments[0]} ended with exit code {done.returncode}")
    return done.stdout


def train(config: str, workdir: Path, seed: int, after: Path | None = None, **settings: object) -> Path:
    """Train one run to its end, from the weights of ``after``, and return its workdir.

    A run that has a report, which is written last, is not repeated.
    """
    if not (workdir / "report.html").is_file():
        keys = {"seed": seed} | ({"checkpoint.init.from": after} if after else {}) | settings
        overrides = [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]
        mlm_jax("train", "--config", f"configs/{config}", "--workdir", str(workdir), *overrides)
    return workdir


def last_metrics(workdir: Path, prefix: str) -> Values:
    """Return {rest of the key after the prefix: value} of a run's last evaluation."""
    history = read_history(workdir)
    return {key.removeprefix(prefix): series[-1][1] for key, series in history.items() if key.startswith(prefix)}


def evaluated(workdir: Path, prefix: str) -> Values:
    """Return {rest of the key after the prefix: value} of ``mlm-jax eval``, which runs once; the workdir keeps its output."""
    kept = workdir / "eval.json"
    if not kept.is_file():
        write_whole(kept, mlm_jax("eval", str(workdir), "--all", "--json"))
    metrics = json.loads(kept.read_text())
    return {key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)}


# ---------------------------------------------------------------------------------------------------- comparisons


def genre(seed: int, options: argparse.Namespace) -> dict[str, Values]:
    """Accuracy of genre in % with a head trained on English labels only; "zero-shot" is the mean of the other languages."""
    found = {origin: zero_shot(fine_tuned("genre", origin, seed)) for origin in ("aligned", "mlm", "scratch")}
    for origin in ("aligned", "mlm"):  # how well pretraining went: retrieval of held-out translations
        retrieval = last_metrics(RUNS / "transfer" / f"{origin}-{seed}", "eval/retrieval_at_1/")["mean"]
        found[origin]["retrieval"] = 100 * retrieval
    return found


def adapters(seed: int, options: argparse.Namespace) -> dict[str, Values]:
    """Accuracy of genre in %: the whole aligned encoder fine-tuned, or adapters in the frozen one."""
    return {kind: zero_shot(fine_tuned(kind, "aligned", seed)) for kind in ("genre", "adapter")}


def fine_tuned(kind: str, origin: str, seed: int) -> Path:
    """Return the workdir of a genre classifier, whose encoder was pretrained with the same seed or is from scratch."""
    folder, after = RUNS / "transfer", None
    if origin != "scratch":
        after = train(f"transfer_demo.py:{origin}", folder / f"{origin}-{seed}", seed)
    return train(f"transfer_demo.py:{kind}-{origin}", folder / f"{kind}-{origin}-{seed}", seed, after)


def zero_shot(workdir: Path) -> Values:
    """Return accuracy in % by language, and "zero-shot", the mean over all but English."""
    accuracy = {code: 100 * value for code, value in last_metrics(workdir, "eval/accuracy/").items() if len(code) == 2}
    others = [value for code, value in accuracy.items() if code != "en"]
    return accuracy | {"zero-shot": float(np.mean(others))}


def attention(seed: int, options: argparse.Namespace) -> dict[str, Values]:
    """Cross-lingual attention, all stages: masked German words, decoding German, genre; alignment of synthetic pairs."""
    folder = RUNS / "cross_attention"
    source = train("cross_attention.py:source", folder / f"source-{seed}", seed)
    pairs = train("cross_attention.py:attention", folder / f"attention-{seed}", seed, source)
    synthetic = train("cross_attention.py:synthetic", folder / f"synthetic-{seed}", seed)
    found = {}
    for name, ending in (("source plugged in", ""), ("unplugged", "_unplugged")):
        loss, accuracy = (last_metrics(pairs, f"eval/{metric}{ending}/")["de"] for metric in ("loss", "accuracy"))
        found[name] = {"loss": loss, "accuracy %": 100 * accuracy}
    found["synthetic pairs"] = {"alignment %": 100 * alignment_accuracy(synthetic)}
    decoder, genre = (
        train(f"cross_attention.py:{stage}", folder / f"{stage}-{seed}", seed, pairs) for stage in ("decoder", "genre")
    )
    plain = train("cross_attention.py:decoder", folder / f"plain-{seed}", seed, pairs, **{"model.cross_lingual": {}})
    for name, workdir in (("German decoded", decoder), ("the same without the layer", plain)):
        found[name] = {"chrF++": evaluated(workdir, "eval/chrf/")["de"]}
    accuracy = last_metrics(genre, "eval/accuracy/")
    found["genre"] = {f"accuracy {code} %": 100 * accuracy[code] for code in ("en", "de")}
    return found


def alignment_accuracy(workdir: Path) -> float:
    """Return the share of target words of held-out synthetic pairs whose largest attention weight is on the right source word."""
    from mlm_jax.inference.aligner import load_aligner

    made_up = import_config("configs/cross_attention.py")
    sources, targets = zip(*made_up.synthetic_pairs(made_up.SYNTHETIC, "validation"))
    first, second = made_up.SYNTHETIC.split("-")
    found = load_aligner(workdir).align(sources, targets, source_language=first, target_language=second)
    right = [len(set(one.links) & set(made_up.gold_links(len(one.target)))) for one in found]
    return sum(right) / sum(len(one.target) for one in found)


def sentences(seed: int, options: argparse.Namespace) -> dict[str, Values]:
    """Retrieval@1 (CSLS) among 200 held-out sentences, and best F1 of mining de-en verses of which half have a partner."""
    folder = RUNS / "transfer"
    runs = {
        variant: train(f"transfer_demo.py:{variant}", folder / f"{variant}-{seed}", seed)
        for variant in ("aligned", "hard", "queue", "tlm", "mlm")
    }
    for variant in ("aligned", "queue"):  # embeddings of earlier batches help once the model changes slowly
        place = folder / f"{variant}-after-{seed}"
        runs[f"{variant}, after aligned"] = train(f"transfer_demo.py:{variant}", place, seed, runs["aligned"])
    return {
        name: {
            "retrieval@1 %": 100 * last_metrics(workdir, "eval/retrieval_at_1/")["mean"],
            "mining F1 %": 100 * mining(workdir),
        }
        for name, workdir in runs.items()
    }


def mining(workdir: Path) -> float:
    """Return F1 of mined pairs: a third of the held-out verses is in both languages, a third in German, a third in English."""
    from mlm_jax.data import bible
    from mlm_jax.evaluation.bitext import best_threshold, mine, mining_scores
    from mlm_jax.inference.encoder import load

    german, english = zip(*bible.unlabelled_pairs("de-en", "validation"))
    left = [i for i in range(len(german)) if i % 3 != 1]
    right = [i for i in range(len(english)) if i % 3 != 2]
    model = load(workdir)
    mined = mine(
        model.embed([german[i] for i in left], language="de"), model.embed([english[i] for i in right], language="en")
    )
    gold = {(left.index(i), right.index(i)) for i in range(0, len(german), 3)}
    return mining_scores(mined, gold, best_threshold(mined, gold)).f1


def translation(seed: int, options: argparse.Namespace) -> dict[str, Values]:
    """Held-out loss and chrF++ by target of plans to share weights; the same data and steps; "hi" has a tenth of the text."""
    plans = ("shared", "decoders", "encoders", *options.plans)
    workdirs = {plan: train(f"sharing.py:{plan}", RUNS / "sharing" / f"{plan}-{seed}", seed) for plan in plans}
    found: dict[str, Values] = {}
    for plan, workdir in workdirs.items():
        losses = last_metrics(workdir, "eval/loss/")
        found[plan] = {f"loss {code}": value for code, value in losses.items() if code != "micro"}
        found[plan] |= {f"chrF++ {code}": value for code, value in evaluated(workdir, "eval/chrf/").items()}
    return found


def representation(seed: int, options: argparse.Namespace) -> dict[str, Values]:
    """Bits per byte of held-out text, and tokens and bytes of text a second (median of the run's log lines)."""
    found = {}
    for variant in ("subwords", "bytes", "characters", "embedding", "none"):
        workdir = train(f"representation.py:{variant}", RUNS / "representation" / f"{variant}-{seed}", seed)
        speed = float(np.median([value for _, value in read_history(workdir)["train/tokens_per_second"]]))
        bits = {code: value for code, value in last_metrics(workdir, "eval/bits_per_byte/").items() if code != "micro"}
        found[variant] = bits | {"tokens/s": speed, "bytes/s": speed * bytes_a_token(workdir / "store")}
    return found


def bytes_a_token(store: Path) -> float:
    """Return UTF-8 bytes a token of a store's training text."""
    from mlm_jax.data.store.store import Store

    splits = [stream.split("train") for stream in Store.open(store).streams.values()]
    return sum(split.bytes for split in splits) / sum(split.tokens for split in splits)


def write_synthetic(written: Path, translator: Path, texts: Sequence[str], *recipe: str) -> None:
    """Write a synthetic corpus with a translator, greedily, unless it exists; ``recipe`` has further arguments of the verb."""
    if written.is_file():
        return
    source = written.with_suffix(".txt")
    source.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    mlm_jax("translate", str(translator), *recipe, "--beams", "1", "--input", str(source), "--output", str(written))


def synthetic(seed: int, options: argparse.Namespace) -> dict[str, Values]:
    """chrF++ of English into German from 4,000 real pairs, and with back-translations of other German verses added."""
    back_translation = import_config("configs/back_translation.py")
    folder = RUNS / "back"
    reverse = train("back_translation.py:reverse", folder / f"reverse-{seed}", seed)
    written = folder / f"synthetic-{seed}.tsv"
    german = back_translation.german_alone(options.sentences)
    write_synthetic(written, reverse, german, "--from", "de", "--to", "en", "--synthetic", "back", "--margin", "1.0")
    shutil.copyfile(written, back_translation.SYNTHETIC)  # the corpus that the config names
    kinds = {kind: train(f"back_translation.py:{kind}", folder / f"{kind}-{seed}", seed) for kind in ("real", "both")}
    lines = len(written.read_text(encoding="utf-8").splitlines())
    scores = {kind: {"chrF++ de": evaluated(workdir, "eval/chrf/")["de"]} for kind, workdir in kinds.items()}
    scores["both"]["synthetic pairs"] = lines
    return scores


def translate_train(seed: int, options: argparse.Namespace) -> dict[str, Values]:
    """Accuracy of genre in %, from scratch: English labels alone, and with their translations into German added."""
    config = import_config("configs/translate_train.py")
    folder = RUNS / "translate_train"
    translator = train("translate_train.py:translator", folder / f"translator-{seed}", seed)
    written = folder / f"synthetic-{seed}.tsv"
    english = config.english_texts()
    write_synthetic(
        written, translator, english, "--from", "en", "--to", "de", "--synthetic", "forward", "--margin", "0"
    )
    shutil.copyfile(written, config.SYNTHETIC)  # the corpus that the config names
    found = {"translator": {"chrF++ de": evaluated(translator, "eval/chrf/")["de"]}}
    for kind in ("english", "translated"):
        accuracy = last_metrics(train(f"translate_train.py:{kind}", folder / f"{kind}-{seed}", seed), "eval/accuracy/")
        found[kind] = {f"genre {code} %": 100 * accuracy[code] for code in ("en", "de")}
    return found


def model_transfer(seed: int, options: argparse.Namespace) -> dict[str, Values]:
    """Masked language modelling of German from little text: after English, or from scratch; bits per byte."""
    folder = RUNS / "model_transfer"
    source = train("model_transfer.py:source", folder / f"source-{seed}", seed)
    runs = {
        "after English": train("model_transfer.py:target", folder / f"target-{seed}", seed, source),
        "from scratch": train("model_transfer.py:scratch", folder / f"scratch-{seed}", seed),
    }
    return {
        name: {
            "bits per byte": last_metrics(workdir, "eval/bits_per_byte/")["de"],
            "accuracy %": 100 * last_metrics(workdir, "eval/accuracy/")["de"],
        }
        for name, workdir in runs.items()
    }


def new_language(seed: int, options: argparse.Namespace) -> dict[str, Values]:
    """Masked language modelling after Korean was added to five languages; bits per byte of Korean and of the five (mean)."""
    folder = RUNS / "new_language"
    old = train("new_language.py:old", folder / f"old-{seed}", seed)
    vocabulary = folder / f"vocabulary-{seed}"
    if not vocabulary.is_dir():
        mlm_jax(
            "grow",
            str(old),
            "--language",
            "ko",
            "--text",
            "mlm_jax.data.bible:unlabelled_text",
            "--pieces",
            "1000",
            "--out",
            str(vocabulary),
        )
    grown = {"vocabulary.path": vocabulary}
    runs = {
        "five languages": old,
        "its own adapters and pieces": train("new_language.py:new", folder / f"new-{seed}", seed, old, **grown),
        "a new vocabulary": train("new_language.py:other-vocabulary", folder / f"other-{seed}", seed, old),
        "from scratch": train("new_language.py:scratch", folder / f"scratch-{seed}", seed),
    }
    found = {}
    for name, workdir in runs.items():
        bits = {code: value for code, value in last_metrics(workdir, "eval/bits_per_byte/").items() if len(code) == 2}
        others = [value for code, value in bits.items() if code != "ko"]
        found[name] = ({"ko": bits["ko"]} if "ko" in bits else {}) | (
            {"others": float(np.mean(others))} if others else {}
        )
    return found


def multitask(seed: int, options: argparse.Namespace) -> dict[str, Values]:
    """Held-out loss of each task and accuracy of genre in %: all in one run, then one task with the rest frozen."""
    folder = RUNS / "multitask"
    entities = f",{Path(options.data).resolve()}" if options.data else ""
    together = {
        kind: train(f"multitask.py:{kind}{entities}", folder / f"{kind}-{seed}", seed)
        for kind in ("fixed", "uncertainty")
    }
    found = {}
    for kind, workdir in together.items():
        losses = {
            task: last_metrics(workdir, f"eval/{task}/loss/")["mean"] for task in ("translation", "denoising", "genre")
        }
        accuracy = last_metrics(workdir, "eval/genre/accuracy/")
        found[kind] = {"mlm": last_metrics(workdir, "eval/loss/")["mean"]} | losses
        found[kind] |= {f"genre {code} %": 100 * accuracy[code] for code in ("en", "de")}
        if entities:
            found[kind]["entities F1 %"] = 100 * last_metrics(workdir, "eval/entities/f1/")["en"]
    compared = json.loads(
        mlm_jax("eval", str(together["fixed"]), "--gradients", "tasks", "--parameters", "encoder/.*", "--json")
    )
    with_mlm = dict(zip(compared["names"], compared["cosines"][compared["names"].index("mlm")]))
    found["cosine with the gradient of mlm"] = {task: cosine for task, cosine in with_mlm.items() if task != "mlm"}
    head, decoder = (
        train(f"multitask.py:{kind}", folder / f"{kind}-{seed}", seed, together["fixed"])
        for kind in ("head", "decoder")
    )
    accuracy = last_metrics(head, "eval/accuracy/")
    found["head alone"] = {"genre": last_metrics(head, "eval/loss/")["mean"]}
    found["head alone"] |= {f"genre {code} %": 100 * accuracy[code] for code in ("en", "de")}
    found["decoder alone"] = {"translation": last_metrics(decoder, "eval/loss/")["mean"]}
    return found


def entities(seed: int, options: argparse.Namespace) -> dict[str, Values]:
    """F1 of named entities in %, trained on English: from scratch, and from the aligned encoder of ``genre``."""
    if not options.data:
        raise UserError("entities needs the files of Universal NER", remedy="--data FOLDER with en_ewt-ud-dev.iob2 …")
    pretrained = train("transfer_demo.py:aligned", RUNS / "transfer" / f"aligned-{seed}", seed)
    folder = Path(options.data).resolve()
    runs = {
        "from scratch": train(f"entities.py:scratch,{folder}", RUNS / "entities" / f"scratch-{seed}", seed),
        "aligned": train(f"entities.py:aligned,{folder}", RUNS / "entities" / f"aligned-{seed}", seed, pretrained),
    }
    return {
        name: {code: 100 * value for code, value in last_metrics(workdir, "eval/f1/").items() if code != "mean"}
        for name, workdir in runs.items()
    }


COMPARISONS: dict[str, Callable[[int, argparse.Namespace], dict[str, Values]]] = {
    one.__name__: one
    for one in (
        genre,
        attention,
        sentences,
        translation,
        representation,
        synthetic,
        translate_train,
        model_transfer,
        new_language,
        adapters,
        multitask,
        entities,
    )
}


# ---------------------------------------------------------------------------------------------------- tables


def table(title: str, by_seed: Sequence[Mapping[str, Values]]) -> Table:
    """Return methods × columns, each the mean over seeds ± their standard deviation."""
    methods = list(by_seed[0])
    columns = list(dict.fromkeys(column for values in by_seed[0].values() for column in values))
    made = Table("", *columns, title=title, title_justify="left")
    for method in methods:
        cells = []
        for column in columns:
            values = [one[method][column] for one in by_seed if column in one[method]]
            spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):,.2f}{spread}" if values else "–")
        made.add_row(method, *cells)
    return made


def main() -> int:
    """Run a comparison and print it after every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", choices=COMPARISONS)
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 0 1 2 for genre, else 0")
    parser.add_argument("--data", help="entities: folder of IOB2 files")
    parser.add_argument(
        "--plans", nargs="*", default=(), help="translation: further plans, of layers, families and adapters"
    )
    parser.add_argument("--sentences", type=int, default=4_000, help="synthetic: number of sentences to translate back")
    options = parser.parse_args()
    compare = COMPARISONS[options.comparison]
    seeds = options.seeds or ([0, 1, 2] if compare is genre else [0])
    sys.path.insert(0, str(Path.cwd()))  # configs, whose functions make some of the data
    by_seed: list[dict[str, Values]] = []
    try:
        for seed in seeds:
            by_seed.append(compare(seed, options))
            title = f"{(compare.__doc__ or '').strip()} Seeds {seeds[: len(by_seed)]}."
            Console(width=140).print(table(title, by_seed))
    except UserError as error:
        print(f"transfer.py: error: {error}", file=sys.stderr)
        return 2
    written = RUNS / f"{options.comparison}.json"
    found = {"comparison": options.comparison, "seeds": seeds, "values": by_seed}
    written.write_text(json.dumps(found, indent=1, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
