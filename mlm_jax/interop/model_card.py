"""The model card of a published folder: README.md with metadata for the Hub, and the config of the run."""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlm_jax.checkpoints.checkpoint import Loaded, describe, find_checkpoint
from mlm_jax.checkpoints.workdir import config_json
from mlm_jax.common.errors import UserError, printable
from mlm_jax.common.foreign_files import read_json
from mlm_jax.interop.task_heads import QUESTION, SEQUENCE, TOKEN, form_of
from mlm_jax.report.history import Series, curves_by_language, evaluation_at, retrieval_curves

log = logging.getLogger(__name__)

CARD, RUN_CONFIG, SOURCE = "README.md", "mlm_jax_config.json", "source.json"
TAG = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*")  # a language code that the Hub accepts
MARKUP = re.compile(r"[\\`*_\[\](){}<>|&~#!$]")
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
# {form of a head: pipeline}
PIPELINES = {SEQUENCE: "text-classification", TOKEN: "token-classification", QUESTION: "question-answering"}
UNKNOWN = "und"
HEAD_KEYS = ("id2label", "label2id", "problem_type", "classifier_pooling")  # of config.json


def write_card(folder: Path, loaded: Loaded, checkpoint: str | Path, architecture: str, task: str = "") -> None:
    """Write README.md and the run's config into a published folder.

    Args:
      folder: the folder of the model.
      loaded: the exported checkpoint.
      checkpoint: path of the checkpoint.
      architecture: class of transformers that loads the folder.
      task: the task whose head is exported; "": none.
    """
    config = without_folders(config_json(loaded.config))
    (folder / RUN_CONFIG).write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    base = base_model(loaded, checkpoint)
    metadata = {
        "language": [code for code in loaded.languages if TAG.fullmatch(code) and code != UNKNOWN],
        "base_model": base if HUB_NAME.fullmatch(base) else None,
        "library_name": "transformers",
        "pipeline_tag": pipeline(loaded, task),
        "tags": ["mlm_jax"],
    }
    table = _table(loaded.languages, measured(loaded, task, metrics(checkpoint, loaded.step)))
    text = _yaml(metadata) + _body(loaded, base, architecture, task, table)
    (folder / CARD).write_text(text, encoding="utf-8")


def base_model(loaded: Loaded, checkpoint: str | Path) -> str:
    """Return the published model from which a run, or a run that it was initialised from, began; "" if there is none.

    It is a Hub name, or the name of a folder.
    """
    config, here = loaded.config, Path(checkpoint).resolve()
    visited: set[Path] = set()
    while here not in visited:
        visited.add(here)
        for folder in (here, *here.parents[:2]):
            if (folder / SOURCE).is_file():
                found = read_json(folder / SOURCE)
                source = str(found.get("source", "") if isinstance(found, dict) else "")
                return source if HUB_NAME.fullmatch(source) else Path(source).name
        here = Path(config.checkpoint.init.get("from") or here).resolve()
        if here in visited or not here.is_dir():
            break
        try:
            config = describe(here).config
        except UserError:  # the other run cannot be read any more
            break
    return ""


def write_source(workdir: Path, source: str, is_folder: bool, *, is_changed: bool = False) -> None:
    """Record the source of an imported workdir: a Hub name, or the name of a folder without its path.

    Args:
      workdir: the workdir.
      source: the Hub name or the folder.
      is_folder: whether ``source`` is a folder.
      is_changed: whether the workdir's weights differ from those of the source.
    """
    name = Path(source).resolve().name if is_folder else source
    facts = {"source": name, **({"changed": True} if is_changed else {})}
    (workdir / SOURCE).write_text(json.dumps(facts, ensure_ascii=False) + "\n", encoding="utf-8")


def unchanged_source(loaded: Loaded) -> str:
    """Return the published model whose very weights a run began with; "" if they were changed before, or are unknown."""
    begun = loaded.config.checkpoint.init.get("from")
    if not begun:
        return ""
    here = Path(begun).resolve()
    file = next((folder / SOURCE for folder in (here, *here.parents[:2]) if (folder / SOURCE).is_file()), None)
    if file is None:
        return ""
    try:
        facts, vocabulary = read_json(file), describe(here).vocabulary
    except UserError:  # it cannot be read any more
        return ""
    if not isinstance(facts, dict) or facts.get("changed") or vocabulary.fingerprint != loaded.vocabulary.fingerprint:
        return ""
    return str(facts.get("source", ""))


def write_lora_card(folder: Path, loaded: Loaded, base: str, described: Mapping[str, Any], task: str) -> None:
    """Write README.md into a folder of the peft library, with the code that loads it.

    Args:
      folder: the folder.
      loaded: the exported checkpoint.
      base: the published model on which the updates were trained; "" if there is none.
      described: config.json of the whole model.
      task: the task whose head lies beside the updates; "": none.
    """
    hub = base if HUB_NAME.fullmatch(base) else None
    architecture = described["architectures"][0]
    given = {key: described[key] for key in HEAD_KEYS if task and described.get(key)}
    if "id2label" in given:  # from_pretrained takes numbers, unlike a JSON file
        given["id2label"] = {int(index): name for index, name in given["id2label"].items()}
    settings = "".join(f", {key}={literal(value)}" for key, value in given.items())
    lines = [
        f"{_yaml({'base_model': hub, 'library_name': 'peft', 'tags': ['mlm_jax', 'lora']})}",
        f"# LoRA\n\nLow-rank updates, trained with mlm_jax for {loaded.step:,} steps. They belong to",
        f"{escaped(base) if base else 'the model from which the training started, as export-hf writes it'}.\n",
        f"```python\nfrom peft import PeftModel\nfrom transformers import {architecture}\n",
        f"base = {architecture}.from_pretrained({literal(base or '…')}{settings})",
        'model = PeftModel.from_pretrained(base, "…")  # this folder\n```\n',
    ]
    (folder / CARD).write_text("\n".join(lines), encoding="utf-8")


def literal(value: Any) -> str:
    """Return a value as Python's source, without the character that could end a block of code in Markdown."""
    return repr(value).replace("`", r"\x60")


def pipeline(loaded: Loaded, task: str) -> str:
    """Return the pipeline of transformers for a model's head."""
    if task:
        return PIPELINES[form_of(loaded.config.tasks[task]["objective"], task)[0]]
    return "text2text-generation" if loaded.config.model.decoder else "fill-mask"


def metrics(checkpoint: str | Path, step: int) -> dict[str, float]:
    """Return the numbers of the run's evaluation at a step; {} if there was none, or the metrics cannot be read."""
    folder = find_checkpoint(checkpoint)  # WORKDIR/checkpoints/STEP
    try:
        found = evaluation_at(folder.parent.parent, step)
    except UserError as error:
        log.warning("the model card has no results: %s", error)
        return {}
    return {key: value for key, value in found.items() if not math.isnan(value)}


def measured(loaded: Loaded, task: str, found: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return {metric: {language or "mean": value}} of the exported head.

    Args:
      loaded: the exported checkpoint.
      task: the task whose head is exported; "": the head that predicts tokens.
      found: the run's evaluation. Keys of the first task do not contain its name.
    """
    first = next(iter(loaded.config.tasks), "")
    series = {key: [(0, value)] for key, value in found.items()}
    columns: dict[str, dict[str, float]] = {}
    for name, curves in curves_by_language(series, loaded.languages).items():
        named, _, metric = name.rpartition("/")
        of = named or first
        if of == task if task else of not in loaded.labels:
            columns[metric if task or not named else f"{of}: {metric}"] = values_of(curves["eval"])
    if not task and (retrieval := retrieval_curves(series, loaded.languages)):
        columns["retrieval_at_1"] = values_of(retrieval)
    return columns


def values_of(curves: Mapping[str, Series]) -> dict[str, float]:
    """Return the last value of each series."""
    return {name: points[-1][1] for name, points in curves.items()}


def without_folders(value: Any) -> Any:
    """Return a config whose absolute paths are cut to their last part, so that the card does not publish folders of a machine."""
    if isinstance(value, Mapping):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_folders(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def escaped(name: str) -> str:
    """Return a name that comes from outside as Markdown that shows it in one line, and is neither HTML nor a link."""
    return MARKUP.sub(r"\\\g<0>", printable(str(name)))


def _yaml(metadata: Mapping[str, Any]) -> str:
    lines = ["---", "# license: fill in, such as apache-2.0; mind those of the data and of the base model"]
    for key, value in metadata.items():
        if isinstance(value, list) and value:
            # Quoted, since YAML reads the language code no as false.
            lines += [f"{key}:", *(f"- {json.dumps(item)}" for item in value)]
        elif value:
            lines.append(f"{key}: {value}")
    return "\n".join([*lines, "---", ""])


def _body(loaded: Loaded, base: str, architecture: str, task: str, table: str) -> str:
    config = loaded.config
    data = sorted({*config.data.corpora, *config.data.parallel, *config.data.labelled})
    tasks = [f"{escaped(name)} ({escaped(entry['objective'])})" for name, entry in config.tasks.items()]
    facts = [
        f"- class: `{architecture}`" + (f", the classifier of the task {escaped(task)}" if task else ""),
        *([f"- base model: {escaped(base)}"] if base else []),
        f"- steps: {loaded.step:,}",
        f"- tasks: {', '.join(tasks)}",
        f"- training data: {', '.join(map(escaped, data)) if data else 'fill in'}",
        f"- config: [{RUN_CONFIG}]({RUN_CONFIG}); `mlm-jax train` takes such keys",
    ]
    labels = [f"- labels: {', '.join(map(escaped, loaded.labels[task]))}"] if task else []
    loads = f'from transformers import AutoTokenizer, {architecture}\n\nmodel = {architecture}.from_pretrained("…")\n'
    parts = [
        "\n# Model card\n\nTrained with mlm_jax, and written by `mlm-jax export-hf`. Fill in intended and unintended uses.\n",
        "\n".join([*facts, *labels]),
        f'\n```python\n{loads}tokenizer = AutoTokenizer.from_pretrained("…")\n```',
        f"\n## Measured on held-out data\n\n{table}" if table else "",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _table(languages: Sequence[str], columns: Mapping[str, Mapping[str, float]]) -> str:
    """Return a table of metrics by language, in Markdown; "" if there are none."""
    rows = [code for code in (*languages, "mean") if any(code in values for values in columns.values())]
    if not rows:
        return ""
    lines = [f"| language | {' | '.join(map(escaped, columns))} |", "|---" * (len(columns) + 1) + "|"]
    for code in rows:
        values = [values.get(code) for values in columns.values()]
        lines.append(f"| {escaped(code)} | {' | '.join('' if value is None else f'{value:.4g}' for value in values)} |")
    return "\n".join(lines)
