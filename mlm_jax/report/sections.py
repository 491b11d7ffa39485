"""The sections of a report besides the metrics, stored in ``report.json``: facts, retrieval matrix, map, samples, table.

The training loop writes the file at each evaluation. Every section except ``languages`` may be missing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlm_jax.common.errors import UserError
from mlm_jax.common.files import write_whole
from mlm_jax.common.foreign_files import read_json
from mlm_jax.evaluation.retrieval import normalize
from mlm_jax.report.table import LanguageRow

FILE = "report.json"
LARGEST = 1e300  # larger numbers are invalid in a report
SECTIONS = ("title", "languages", "facts", "config", "phases", "table", "retrieval", "map", "samples")


def save_sections(workdir: str | Path, sections: Mapping[str, Any]) -> Path:
    """Write ``report.json`` atomically.

    Args:
      workdir: the workdir of the run.
      sections: ``title`` str; ``languages`` [code]; ``facts`` [short phrase]; ``config`` nested dict; ``phases``
        [(first step, step after the last, "name: settings")]; ``table`` [:class:`LanguageRow`]; ``retrieval`` from
        :func:`retrieval_section`; ``map`` from :func:`map_section`; ``samples`` {code: [sample]} from
        :func:`mlm_jax.evaluation.samples.masked_samples`.

    Raises:
      ValueError: a section does not exist, or ``languages`` is missing.
    """
    unknown = set(sections) - set(SECTIONS)
    if unknown or "languages" not in sections:
        raise ValueError(f"a report has the sections {SECTIONS} and needs languages; got {sorted(sections)}")
    file = Path(workdir) / FILE
    write_whole(file, json.dumps(plain(sections), ensure_ascii=False, allow_nan=False))
    return file


def load_sections(workdir: str | Path) -> dict[str, Any]:
    """Read ``report.json``.

    Raises:
      UserError: ``report.json`` is missing or damaged.
    """
    file = Path(workdir) / FILE
    if not file.parent.is_dir():
        raise UserError("there is no such folder", file=workdir, remedy="name the workdir of a run")
    if not file.exists():
        raise UserError("the run has not been evaluated yet", file=file, remedy="mlm-jax train writes it")
    remedy = "delete it; the next evaluation writes it again"
    try:
        sections = read_json(file)
    except UserError as error:
        raise UserError(error.problem, file=file, remedy=remedy) from error
    if not isinstance(sections, dict) or not sections.get("languages"):
        raise UserError("not a report's data: it names no languages", file=file, remedy=remedy)
    for name, (fits, what) in SHAPES.items():
        if name in sections and not fits(sections[name]):
            raise UserError(f"not a report's data: {name!r} is not {what}", file=file, remedy=remedy)
    return sections


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _are_phases(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(phase, list) and len(phase) == 3 and all(map(_is_number, phase[:2])) and _is_text(phase[2])
        for phase in value
    )


def _is_table(value: Any) -> bool:
    """Return whether a value is rows of numbers with a language's name."""
    return isinstance(value, list) and all(
        isinstance(row, dict)
        and all(_is_text(cell) if key == "language" else _is_number(cell) for key, cell in row.items())
        for row in value
    )


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST)


def _is_retrieval(value: Any) -> bool:
    if value is None:
        return True
    if (
        not isinstance(value, dict)
        or not _are_texts(value.get("languages"))
        or not isinstance(value.get("scores"), dict)
    ):
        return False
    size = len(value["languages"])
    numbers = _is_number(value.get("candidates")) and _is_number(value.get("step"))
    return numbers and all(_is_matrix(scores, size, size) for scores in value["scores"].values())


def _is_matrix(value: Any, rows: int, columns: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == rows
        and all(isinstance(row, list) and len(row) == columns and all(map(_is_number, row)) for row in value)
    )


def _is_map(value: Any) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict) or not isinstance(value.get("texts"), dict):
        return False
    texts = value["texts"]
    parts = [value.get("raw"), value.get("centred")]
    return all(map(_are_texts, texts.values())) and all(
        isinstance(part, dict)
        and isinstance(part.get("points"), dict)
        and all(_is_matrix(points, len(texts.get(code, ())), 2) for code, points in part["points"].items())
        for part in parts
    )


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


SHAPES: dict[str, tuple[Callable[[Any], bool], str]] = {  # {section: (whether a value is valid, description)}
    "title": (_is_text, "a text"),
    "languages": (_are_texts, "a list of codes"),
    "facts": (_are_texts, "a list of phrases"),
    "config": (_is_object, "an object"),
    "phases": (_are_phases, "a list of (first step, last step, title)"),
    "table": (_is_table, "a list of rows of numbers"),
    "retrieval": (_is_retrieval, "square matrices of numbers"),
    "map": (_is_map, "points of texts"),
    "samples": (_is_object, "an object"),
}


def retrieval_section(
    matrices: Mapping[str, np.ndarray], languages: Sequence[str], candidates: int, step: int
) -> dict[str, Any]:
    """Return the section of the retrieval matrix.

    Args:
      matrices: {score: ``[languages, languages]`` accuracy@1, source × target}; NaN where nothing was measured.
      languages: the languages of rows and columns.
      candidates: number of sentences among which a translation is searched; chance is its inverse.
      step: the step of the evaluation.
    """
    return {"languages": languages, "candidates": candidates, "step": step, "scores": matrices}


def map_section(
    embeddings: Mapping[str, np.ndarray], texts: Mapping[str, Sequence[str]], sentences: int = 30
) -> dict[str, Any]:
    """Return the section of the 2-D map: the two principal components of all sentences, some of which are drawn.

    Args:
      embeddings: {language: ``[sentences, width]``}; row i means the same in every language.
      texts: {language: [text]} of the same rows.
      sentences: number of sentences to draw, spread evenly over the rows.

    Returns:
      points with and without each language's mean, and the share of variance that each map shows.
    """
    unit = {language: normalize(rows) for language, rows in embeddings.items()}
    centred = {language: rows - rows.mean(axis=0) for language, rows in unit.items()}
    count = min(len(rows) for rows in unit.values())
    drawn = np.unique(np.linspace(0, count - 1, min(sentences, count)).astype(int))
    section: dict[str, Any] = {"texts": {code: [texts[code][row] for row in drawn] for code in unit}}
    for name, vectors in (("raw", unit), ("centred", centred)):
        points, explained = principal_components(np.concatenate(list(vectors.values())))
        parts = np.split(points, np.cumsum([len(rows) for rows in vectors.values()])[:-1])
        section[name] = {"explained": explained, "points": {code: part[drawn] for code, part in zip(vectors, parts)}}
    return section


def principal_components(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """Project ``[vectors, width]`` on the two directions of most variance.

    Returns:
      ``[vectors, 2]`` coordinates, and the share of the variance that they hold. Each axis points where its largest
      weight is positive, so that maps of one run do not flip.
    """
    centred = np.asarray(vectors, np.float64) - np.mean(vectors, axis=0, dtype=np.float64)
    values, directions = np.linalg.eigh(centred.T @ centred)  # ascending; [width, width]
    axes = directions[:, ::-1][:, :2]  # [width, 2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), [0, 1]])
    return centred @ axes, float(values[-2:].sum() / max(values.sum(), np.finfo(np.float64).tiny))


def plain(value: Any) -> Any:
    """Return a value in JSON's types: arrays as lists of numbers with five digits, numbers that are not finite as null.

    Raises:
      TypeError: a value cannot be expressed in JSON.
    """
    if isinstance(value, LanguageRow):
        return plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return [plain(item) for item in value] if value.ndim else plain(float(f"{value.item():.5g}"))
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.floating):
        return plain(float(f"{value:.5g}"))
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    if value is None or isinstance(value, (str, bool, int)):
        return value
    raise TypeError(f"{value!r} of type {type(value).__name__} cannot be written to report.json")
