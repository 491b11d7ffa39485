"""All steps of docs/adapt.md: adapt a published encoder to a language, and export it to transformers.

    python -m benchmarks.adapt                      # both families
    python -m benchmarks.adapt --family modernbert  # one of them

It makes two published folders (``adapt_published.py``: an XLM-RoBERTa, and a ModernBERT with Gemma's kind of BPE, trained here on
English, German, Spanish and Russian), and takes each to Tagalog with the commands of docs/adapt.md: import, inspect, trim, grow,
continued training with English replayed, fine-tuning of a classifier (the genre of a verse) and of a tagger (names, labelled by a
rule), export with heads. In the end transformers' pipelines must give the same results as our verbs.

Run it in the folder that contains ``configs``. Everything is written under ``runs/adapt``; existing results are reused, so remove
that folder to time the whole path. The tables, with the minutes of each verb and of the whole call, are printed and written
to ``benchmarks/results/adapt.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.adapt_published import KNOWN, make
from mlm_jax.common.errors import UserError
from mlm_jax.common.files import write_whole
from mlm_jax.data import bible

RUNS, RESULTS = Path("runs/adapt"), Path("benchmarks/results/adapt.json")
TIMES = f"times-{Path(sys.argv[0]).stem}.jsonl"  # times of all commands of this script
FAMILIES = ("xlm-roberta", "modernbert")
NEW, OLD = "tl", "en"
PRETRAINING, CONTINUED, FINE_TUNING = 600, 400, 250  # steps
PIECES = 1500  # new pieces
MASKING = {"mlm": {"objective": "mlm", "rows": 16, "length": 128, "mask_rate": 0.3}}
GENRES, VERSES = tuple(bible.GENRES), 150  # verses of each genre
SENTENCES = {"train": 2000, "test": 400}  # sentences with names
COMPARED = 100  # number of texts on which pipelines and verbs are compared
console = Console(stderr=True, highlight=False, soft_wrap=True)


# ---------------------------------------------------------------------------------------------------- commands


def mlm_jax(*arguments: str) -> str:
    """Run a verb and return its output; runs share their compiled programs.

    Raises:
      UserError: it failed; its own message is on standard error.
    """
    console.print(f"mlm-jax {' '.join(arguments)}")
    environment = {"JAX_COMPILATION_CACHE_DIR": str((RUNS / "compiled").resolve())} | os.environ
    command = [sys.executable, "-m", "mlm_jax.cli", *arguments]
    began, used = time.monotonic(), cpu_seconds()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise UserError(f"mlm-jax {arguments[0]} ended with exit code {done.returncode}")
    family = next(family for family in FAMILIES if family in " ".join(arguments))
    line = {"family": family, "verb": arguments[0], "seconds": time.monotonic() - began, "cpu": cpu_seconds() - used}
    with (RUNS / TIMES).open("a") as file:
        file.write(json.dumps(line) + "\n")
    return done.stdout


def cpu_seconds() -> float:
    """Return the CPU time of finished child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def minutes(family: str) -> dict[str, Any]:
    """Return the minutes of all commands of a family, including earlier calls."""
    lines = [json.loads(line) for line in (RUNS / TIMES).read_text().splitlines()]
    own = [line for line in lines if line["family"] == family]
    by_verb: dict[str, float] = {}
    for line in own:
        by_verb[line["verb"]] = by_verb.get(line["verb"], 0) + line["seconds"] / 60
    total = {"minutes": sum(line["seconds"] for line in own) / 60, "CPU minutes": sum(line["cpu"] for line in own) / 60}
    return {**total, "minutes by verb": by_verb}


def train(config: str, workdir: Path, **settings: object) -> dict[int, dict[str, float]]:
    """Train to the end, unless the run is finished, and return {step: metrics}."""
    if not (workdir / "report.html").is_file():
        overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        mlm_jax("train", "--config", config, "--workdir", str(workdir), *overrides)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if any(key.startswith("eval/") for key in line)}


def evaluated(workdir: Path) -> dict[str, float]:
    """Return the metrics of ``mlm-jax eval`` on all held-out text; they are computed once and kept in the workdir."""
    kept = workdir / "eval.json"
    if not kept.is_file():
        write_whole(kept, mlm_jax("eval", str(workdir), "--all", "--json"))
    return json.loads(kept.read_text())


# ---------------------------------------------------------------------------------------------------- text and labels


def write_data(folder: Path) -> None:
    """Write the Bible as a user would have it: text and held-out text by language, and labels of the new language."""
    for split, room in (("train", "text"), ("validation", "held_out")):
        for language in (NEW, OLD):
            place = folder / room / language
            place.mkdir(parents=True)
            (place / "bible.txt").write_text("\n".join(bible.text(language, split)), encoding="utf-8")
    labels = folder / "labels"
    labels.mkdir()
    for split, name in (("train", "train"), ("validation", "test")):
        rows = [f"{verse}\t{genre}\n" for verse, genre in genres(split)]
        (labels / f"topic-{name}.tsv").write_text("".join(rows), encoding="utf-8")
        blocks = ["".join(f"{word}\t{tag}\n" for word, tag in found) for found in names(split, SENTENCES[name])]
        (labels / f"entities-{name}.conll").write_text("\n".join(blocks), encoding="utf-8")


def genres(split: str) -> Iterator[tuple[str, str]]:
    """Yield verses with their genre, the same number of each, spread over its books."""
    ordered = sorted(bible.genre(NEW, split), key=lambda pair: pair[1])
    for _, group in groupby(ordered, key=lambda pair: pair[1]):
        found = list(group)
        yield from (found[place] for place in np.linspace(0, len(found) - 1, VERSES).astype(int))


def names(split: str, wanted: int) -> Iterator[list[tuple[str, str]]]:
    """Yield verses as (word, tag): a name is a word that is never written in lower case, and neighbouring names are one.

    The labels come from a rule, not from a person; they show that the commands work, not how well names are found.
    """
    words = [re.findall(r"\w+|[^\w\s]", verse) for _, verse in bible._verses(NEW)]
    small = {word for verse in words for word in verse if word[0].islower()}
    inside = {word for verse in words for before, word in zip(verse, verse[1:]) if before.isalnum() and word.istitle()}
    known = {word for word in inside if word.lower() not in small and len(word) > 2}
    verses = [
        verse
        for (place, _), verse in zip(bible._verses(NEW), words)
        if (place[0] in bible.HELD_OUT) == (split == "validation")
    ]
    for place in np.linspace(0, len(verses) - 1, wanted).astype(int):
        tags, before = [], False
        for word in verses[place]:
            tags.append("O" if word not in known else "I-NAME" if before else "B-NAME")
            before = word in known
        yield list(zip(verses[place], tags))


# ---------------------------------------------------------------------------------------------------- the path


def published(family: str) -> Path:
    """Return a folder in the Hub's format, of a model for the languages ``KNOWN``; train it first if it does not exist."""
    folder = RUNS / family
    if not (folder / "published").is_dir():
        if not (folder / "untrained").is_dir():
            make(folder / "untrained", family)
        if not (folder / "begun").is_dir():
            mlm_jax(
                "import-hf", str(folder / "untrained"), "--out", str(folder / "begun"), "--languages", ",".join(KNOWN)
            )
        settings = {"optimizer.learning_rate": 2e-3, "optimizer.warmup_steps": 0.1, "tasks": MASKING}
        text = {language: "mlm_jax.data.bible:text" for language in KNOWN}
        every = {"steps": PRETRAINING, "checkpoint.every": PRETRAINING, "evaluation.every": PRETRAINING}
        config = str(folder / "begun" / "config.py")
        train(config, folder / "pretrained", **{"data.corpora": text}, **settings, **every)
        mlm_jax("export-hf", str(folder / "pretrained"), "--out", str(folder / "published"))
    return folder / "published"


def shortened(family: str) -> Path:
    """Import a published model, trim it and grow it, unless this was done before; return the folder of the results."""
    source, folder = published(family), RUNS / f"{family}-{NEW}"
    if not (folder / "labels").is_dir():
        write_data(folder)
    text, held_out = ({code: f"{folder}/{room}/{code}/*.txt" for code in (NEW, OLD)} for room in ("text", "held_out"))
    model, small, grown = (folder / name for name in ("model", "small", "vocabulary"))
    if not model.is_dir():
        mlm_jax("import-hf", str(source), "--out", str(model), "--languages", f"{NEW},{OLD}")
        data = ("--set", f"data.corpora={text}", "--set", f"data.validation={held_out}", "--set", f"tasks={MASKING}")
        mlm_jax("prepare", "--config", str(model / "config.py"), "--workdir", str(model), *data)
    if not small.is_dir():
        texts = [part for code in text for part in ("--text", f"{code}={text[code]}")]
        print(mlm_jax("trim", str(model), *texts, "--out", str(small)))
    if not grown.is_dir():
        options = ("--language", NEW, "--text", text[NEW], "--old-text", f"{OLD}={text[OLD]}", "--pieces", str(PIECES))
        print(mlm_jax("grow", str(small), *options, "--out", str(grown)))
        places = [part for place in (source, small, grown) for part in ("--vocabulary", str(place))]
        texts = [part for code in text for part in ("--text", f"{code}={held_out[code]}")]
        print(mlm_jax("inspect", *places, *texts, "--pairs", f"{NEW}-{OLD}=mlm_jax.data.bible:pairs"))
    return folder


def adapt(family: str) -> dict[str, Any]:
    """Do all steps with a published model, and return the measurements."""
    folder = shortened(family)
    model, small, continued = (folder / name for name in ("model", "small", "continued"))
    few = {"optimizer.learning_rate": 1e-3, "tasks": MASKING, "evaluation.rows": 10_000}
    every = {"steps": CONTINUED, "checkpoint.every": CONTINUED, "evaluation.every": CONTINUED}
    masked = train(f"configs/adapt.py:continue,{folder}", continued, **few, **every)
    scores = {}
    for task, length in (("topic", 48), ("entities", 64)):
        every = {"steps": FINE_TUNING, "checkpoint.every": FINE_TUNING, "evaluation.every": FINE_TUNING}
        settings = {"optimizer.learning_rate": 5e-4, f"tasks.{task}.length": length}
        measured = train(f"configs/adapt.py:{task},{folder}", folder / task, **settings, **every)[FINE_TUNING]
        scores[task] = {key.removeprefix("eval/"): value for key, value in measured.items() if key.startswith("eval/")}
        if not (folder / f"{task}-out").is_dir():
            mlm_jax("export-hf", str(folder / task), "--task", task, "--out", str(folder / f"{task}-out"))
    if not (folder / "masked-out").is_dir():
        mlm_jax("export-hf", str(continued), "--out", str(folder / "masked-out"))
    return {
        "sizes": {
            name: sizes(place) for name, place in (("published", model), ("trimmed", small), ("grown", continued))
        },
        "bits per byte": {
            "published": bits(evaluated(model)),
            "trimmed, grown": bits(masked[0]),
            "continued": bits(masked[CONTINUED]),
        },
        "scores": scores,
        "pipelines agree": agreement(folder),
    }


def bits(measured: dict[str, float]) -> dict[str, float]:
    """Return {language: bits per byte of held-out text}."""
    return {code: measured[f"eval/bits_per_byte/{code}"] for code in (NEW, OLD)}


def sizes(workdir: Path) -> dict[str, float]:
    """Return pieces, parameters and megabytes of a workdir's model."""
    from mlm_jax.checkpoints.checkpoint import load_parameters
    from mlm_jax.training.paths import by_path

    loaded = load_parameters(workdir)
    count = sum(value.size for value in by_path(loaded.params).values())
    return {"pieces": loaded.vocabulary.size, "parameters": count, "megabytes": 4e-6 * count}


def agreement(folder: Path) -> dict[str, str]:
    """Compare transformers' pipelines on the exported folders with our verbs; return {pipeline: number of equal results}.

    Raises:
      AssertionError: a label or a piece differs, or a probability by more than 1e-4.
    """
    from transformers import pipeline

    import mlm_jax
    from mlm_jax.data.text.labelled_formats import conll
    from mlm_jax.data.text.labelled_formats.example import Asked

    verses = [verse for line in bible.text(NEW, "validation") for verse in [line[:120].rpartition(" ")[0]]][:COMPARED]
    theirs = pipeline("text-classification", str(folder / "topic-out"), device="cpu")(verses)
    ours = mlm_jax.load_classifier(folder / "topic").classify(verses)
    assert [one["label"] for one in theirs] == [one.label for one in ours]
    assert max(abs(a["score"] - b.probability) for a, b in zip(theirs, ours)) < 1e-4

    asked = Asked(NEW, "validation")
    sentences = [example.texts for _, example in conll.read(folder / "labels" / "entities-test.conll", asked)]
    sentences = [words for words in sentences if len(words) < 40][:COMPARED]
    tagged = mlm_jax.load_classifier(folder / "entities").tag(sentences)
    ner = pipeline("ner", str(folder / "entities-out"), device="cpu", ignore_labels=[])
    count = 0
    for words, ours_of in zip(sentences, tagged):
        # The first of two pieces at one position.
        found = {piece["start"]: piece for piece in reversed(ner(" ".join(words)))}
        at = 0
        for word, one in zip(words, ours_of):
            piece = found.get(at - 1) or found[at]  # a word's first piece may begin with the space before it
            assert piece["entity"] == one.label and abs(piece["score"] - one.probability) < 1e-4
            at, count = at + len(word) + 1, count + 1

    blanks = [f"{verse.rpartition(' ')[0]} <mask>" for verse in verses[:20]]
    fill = pipeline("fill-mask", str(folder / "masked-out"), device="cpu", top_k=40)
    used = mlm_jax.load(folder / "continued")
    for text in blanks:
        wanted = [one["token"] for one in fill(text) if not used.vocabulary.is_special[one["token"]]][:5]
        assert [one.id for one in used.fill_mask(text, top_k=5)[0]] == wanted
    return {
        "text-classification": f"{len(verses)} texts",
        "ner": f"{count} words",
        "fill-mask": f"{len(blanks)} blanks",
    }


def table(found: dict[str, Any]) -> Table:
    """Return a table of the results of each family."""
    shown = Table("", *found, title=f"From a published encoder to {NEW}")
    rows: dict[str, list[str]] = {}
    for measured in found.values():
        for stage, size in measured["sizes"].items():
            cell = f"{size['pieces']:,} pieces, {size['parameters'] / 1e6:.2f} M parameters, {size['megabytes']:.1f} MB"
            rows.setdefault(stage, []).append(cell)
        for stage, values in measured["bits per byte"].items():
            cell = ", ".join(f"{code} {value:.3f}" for code, value in values.items())
            rows.setdefault(f"bits per byte, {stage}", []).append(cell)
        for task, values in measured["scores"].items():
            metric = next(key for key in (f"f1/{NEW}", f"accuracy/{NEW}") if key in values)
            rows.setdefault(f"{task}: {metric.partition('/')[0]} %", []).append(f"{100 * values[metric]:.1f}")
        rows.setdefault("pipelines agree", []).append(
            ", ".join(f"{k} ({v})" for k, v in measured["pipelines agree"].items())
        )
        if "minutes" in measured:
            time_of = f"{measured['minutes']:.1f} ({measured['CPU minutes']:.1f})"
            rows.setdefault("minutes (of CPU)", []).append(time_of)
    for name, cells in rows.items():
        shown.add_row(name, *cells)
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all steps and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, action="append", help="by default both")
    options = parser.parse_args(arguments)
    RUNS.mkdir(parents=True, exist_ok=True)
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for family in options.family or FAMILIES:
        begun = time.monotonic()
        found[family] = {"date": f"{date.today()}", **adapt(family)}
        found[family] |= {**minutes(family), "minutes of this call": (time.monotonic() - begun) / 60}
    Console(width=160).print(table(found))
    total = sum(found[family]["minutes of this call"] for family in options.family or FAMILIES)
    print(f"{total:.1f} minutes in all")
    RESULTS.parent.mkdir(exist_ok=True)
    write_whole(RESULTS, json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
