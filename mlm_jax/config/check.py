"""Whether a config's values can work: bounds, choices and tasks, found out before anything is read or written.

What needs the model's code (``mlm_jax/model/check.py``), the devices or the data is checked where those are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from mlm_jax.common.errors import UserError, nearest

SMALL = 1e-30  # the least value of what must be above 0
BELOW_ONE = math.nextafter(1, 0)  # the largest value of what must be below 1
FOREVER = math.inf

MODEL_NUMBERS = {  # {key of config.model: (least, most)}
    "character_downsampling": (0, FOREVER),
    "width": (1, FOREVER),
    "heads": (1, FOREVER),
    "kv_heads": (0, FOREVER),
    "head_width": (0, FOREVER),
    "mlp_width": (1, FOREVER),
    "norm_epsilon": (0, FOREVER),
    "max_positions": (1, FOREVER),
    "position_offset": (0, FOREVER),
    "rope_theta": (SMALL, FOREVER),
    "local_rope_theta": (SMALL, FOREVER),
    "window": (0, FOREVER),
    "global_every": (1, FOREVER),
    "embedding_types": (0, FOREVER),
    "dropout": (0, BELOW_ONE),
    "initializer_stddev": (0, FOREVER),
    "vocabulary_multiple": (1, FOREVER),
    "cross_entropy_chunk": (0, FOREVER),
}
NUMBERS = {  # {key: (least, most)}
    "steps": (1, FOREVER),
    "data.validation_fraction": (0, 1),
    "data.max_document_tokens": (1, FOREVER),
    "data.workers": (0, FOREVER),
    "vocabulary.size": (1, FOREVER),
    "vocabulary.alpha": (0, 1),
    "vocabulary.sentences": (1, FOREVER),
    "vocabulary.character_coverage": (SMALL, 1),
    "vocabulary.sentinels": (0, FOREVER),
    "mixing.alpha": (0, 1),
    "mixing.unimax_epochs": (SMALL, FOREVER),
    **{f"model.{name}": bounds for name, bounds in MODEL_NUMBERS.items()},
    "optimizer.learning_rate": (0, FOREVER),
    "optimizer.warmup_steps": (0, FOREVER),
    "optimizer.decay_steps": (0, FOREVER),
    "optimizer.final_fraction": (0, 1),
    "optimizer.epsilon": (SMALL, FOREVER),
    "optimizer.clip": (0, FOREVER),
    "optimizer.weight_decay": (0, FOREVER),
    "training.microbatches": (1, FOREVER),
    "training.z_loss": (0, FOREVER),
    "training.ema": (0, BELOW_ONE),
    "training.log_every": (1, FOREVER),
    "checkpoint.every": (1, FOREVER),
    "checkpoint.keep_last": (1, FOREVER),
    "checkpoint.keep_every": (0, FOREVER),
    "evaluation.every": (1, FOREVER),
    "evaluation.rows": (1, FOREVER),
    "evaluation.pairs": (1, FOREVER),
}
OPTIONS = {  # the same for what a task says, of any objective
    "rows": (1, FOREVER),
    "length": (2, FOREVER),
    "same_language_rows": (1, FOREVER),
    "weight": (0, FOREVER),
    "mask_rate": (SMALL, 1),
    "noise_density": (SMALL, 1),
    "mean_span": (1, FOREVER),
    "keep": (0, 1),
    "replace": (0, 1),
    "unplugged": (0, 1),
    "margin": (0, FOREVER),
    "scale": (SMALL, FOREVER),
    "hardness": (0, FOREVER),
    "queue": (0, FOREVER),
    "queue_after": (0, FOREVER),
    "smoothing": (0, 1),
}
RENAMED = {"alike": "same_language_rows", "test": "evaluate_on"}  # {old option of a task: its name now}
WHOLE = ("rows", "length", "same_language_rows", "queue", "queue_after")
UNITS = ("token", "word", "span")  # what masking hides together
LABELLED = ("format", "language", "train", "validation", "labels")  # keys of a labelled set
TABLES: dict[str, tuple[str, Callable[[Any], bool]]] = {  # {table of config.optimizer: (its values, whether one is such)}
    "decay_table": ("True or False", lambda value: isinstance(value, bool)),
    "rate_table": ("factor from 0", lambda value: _is_number(value) and 0 <= value < FOREVER),
    "freeze_table": ("True, False or a number of rows", lambda value: isinstance(value, int)),
}
CHOICES = {  # {key: the values there are}
    "data.prefix": ("language", "bos", "none"),
    "vocabulary.kind": ("unigram", "bpe", "bytes"),
    "mixing.strategy": ("alpha", "unimax", "explicit", "mixture"),
    "training.normalize": ("per_language", "per_language_mean", "token"),
    "training.nonfinite": ("stop", "skip"),
}


class BadValue(UserError):
    """A value that cannot work, with its dotted key, so that whoever read the config can tell where it was set."""

    def __init__(self, key: str, problem: str, remedy: str = ""):
        super().__init__(problem, remedy=remedy)
        self.key = key


def check_values(config: ConfigDict) -> None:
    """Check the values of a config whose keys and types are right.

    Raises:
      BadValue: a number is out of its bounds, a choice does not exist, or a task or a labelled set cannot be.
    """
    for key, (least, most) in NUMBERS.items():
        check_number(key, _value(config, key), least, most)
    for key, known in CHOICES.items():
        value = _value(config, key)
        if value not in known:
            raise BadValue(key, f"{key} is {value!r}{nearest(value, known)}", f"use one of {', '.join(known)}")
    for module in config.data.modules:
        if not isinstance(module, str):
            raise BadValue("data.modules", f"data.modules names {module!r}", "write names of Python modules")
    for stream, languages in config.data.mixture_languages.items():
        if not isinstance(languages, str):
            key = f"data.mixture_languages.{stream}"
            raise BadValue(key, f"{key} is {languages!r}", 'write a language or a pair such as "de-en"')
    betas = config.optimizer.betas
    if len(betas) != 2 or not all(_is_number(beta) and 0 <= beta < 1 for beta in betas):
        raise BadValue("optimizer.betas", f"optimizer.betas is {betas!r}", "write two numbers from 0 to below 1")
    profile = config.training.profile
    if len(profile) not in (0, 2) or not all(isinstance(step, int) and step >= 0 for step in profile):
        raise BadValue("training.profile", f"training.profile is {profile!r}", "write (first step, last step), or ()")
    for table, (what, fits) in TABLES.items():
        for entry in config.optimizer[table]:
            if not (_is_several(entry) and len(entry) == 2 and isinstance(entry[0], str) and fits(entry[1])):
                raise BadValue(f"optimizer.{table}", f"optimizer.{table} has the entry {entry!r}", f"write (regex, {what})")
    for family, members in config.families.items():
        if not (_is_several(members) and all(isinstance(member, str) for member in members)):
            raise BadValue(f"families.{family}", f"families.{family} is {members!r}", 'write a tuple of languages: ("de", "en")')
    for kind in ("corpora", "parallel", "validation"):
        for name, source in config.data[kind].items():
            _check_source(f"data.{kind}.{name}", source)
    for name, entry in config.data.labelled.items():
        _check_labelled(f"data.labelled.{name}", entry)
    if not config.tasks:
        raise BadValue("tasks", "tasks is empty, so there is nothing to train on",
                       'write {"mlm": {"objective": "mlm", "rows": 64, "length": 512}}')  # fmt: skip
    for task, entry in config.tasks.items():
        _check_task(task, entry)
        runs, rest = divmod(entry["rows"], entry.get("same_language_rows", 1))
        if rest:
            key = f"tasks.{task}.same_language_rows"
            raise BadValue(key, f"{key} is {entry['same_language_rows']}, but {entry['rows']} rows cannot come in such runs",
                           f"make tasks.{task}.rows a multiple of it")  # fmt: skip
        if runs % config.training.microbatches:
            raise BadValue(
                "training.microbatches",
                f"tasks.{task}.rows is {entry['rows']}, which {config.training.microbatches} microbatches cannot share",
                "make it a multiple of training.microbatches" + " · same_language_rows" * ("same_language_rows" in entry),
            )
    for index, entry in enumerate(config.curriculum):
        key = f"curriculum[{index}]"
        if not isinstance(entry, Mapping):
            raise BadValue("curriculum", f"{key} is {entry!r}", 'write {"steps": n, "alpha": …}')
        if isinstance(entry.get("languages"), str):
            raise BadValue(f"{key}.languages", f"{key}.languages is {entry['languages']!r}",
                           f"write a tuple: ({entry['languages']!r},)")  # fmt: skip
        if not isinstance(entry.get("rates", {}), Mapping):
            raise BadValue(f"{key}.rates", f"{key}.rates is {entry['rates']!r}", 'write {"en": 1, "de": 2}')
        if "alpha" in entry:
            check_number(f"{key}.alpha", entry["alpha"], 0, 1)
        if "rope_theta" in entry and config.model.position != "rope":
            raise BadValue(f"{key}.rope_theta", f"{key} has a rope_theta, but model.position is {config.model.position!r}",
                           "leave it out, or set model.position='rope'")  # fmt: skip
    _check_rates(config)


def _check_rates(config: ConfigDict) -> None:
    explicit = any("rates" in entry or entry.get("strategy") == "explicit" for entry in config.curriculum)
    if config.mixing.rates and config.mixing.strategy != "explicit" and not explicit:
        raise BadValue("mixing.rates", f"mixing.rates is set, but mixing.strategy is {config.mixing.strategy!r}, which has no "
                       "use for it", "set mixing.strategy='explicit', or leave mixing.rates out")  # fmt: skip


def _check_source(key: str, source: Any) -> None:
    globs = [source] if isinstance(source, str) else source
    if not (_is_several(globs) and globs and all(isinstance(entry, str) for entry in globs)):
        raise BadValue(key, f"{key} is {source!r}", "write a glob such as 'text/en/*.txt', a tuple of them, or 'module:function'")


def _check_labelled(key: str, entry: Any) -> None:
    remedy = 'write {"format": "tsv", "language": "en", "train": "genre.tsv"}'
    if not isinstance(entry, Mapping):
        raise BadValue(key, f"{key} is {entry!r}", remedy)
    for option in entry:
        if option not in LABELLED:
            raise BadValue(f"{key}.{option}", f"{key} has an unknown key {option!r}{nearest(option, LABELLED)}",
                           f"its keys are {', '.join(LABELLED)}")  # fmt: skip
    for option in ("format", "language"):
        if option not in entry:
            raise BadValue(key, f"{key} has no {option!r}", remedy)
    if not isinstance(entry["language"], str):
        raise BadValue(f"{key}.language", f"{key}.language is {entry['language']!r}", 'write a language such as "en"')
    labels = entry.get("labels", ())
    if not (_is_several(labels) and all(isinstance(label, str) for label in labels)):
        raise BadValue(f"{key}.labels", f"{key}.labels is {labels!r}", 'write a tuple of names: ("0", "1")')
    if "train" not in entry and "validation" not in entry:
        raise BadValue(key, f"{key} has neither 'train' nor 'validation'", remedy)
    for split in ("train", "validation"):
        if split in entry:
            _check_source(f"{key}.{split}", entry[split])


def renamed_options(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task's entry with options that older versions called by other names under the names of this version."""
    return {RENAMED.get(option, option): value for option, value in entry.items()}


def several(names: str | Sequence[str]) -> tuple[str, ...]:
    """Return what a key names, where a single name may stand for a tuple of one."""
    return (names,) if isinstance(names, str) else tuple(names)


def _check_task(task: str, entry: Any) -> None:
    key = f"tasks.{task}"
    if not isinstance(task, str) or not task or task.startswith("_"):
        raise BadValue("tasks", f"a task is called {task!r}", "begin its name with a letter")
    if not isinstance(entry, Mapping):
        raise BadValue(key, f"{key} is {entry!r}", 'write {"objective": "mlm", "rows": 64, "length": 512}')
    for old, new in RENAMED.items():
        if old in entry:
            raise BadValue(f"{key}.{old}", f"{key}.{old} is now called {new!r}", f"rename it to {key}.{new}")
    for option in ("objective", "rows", "length"):
        if option not in entry:
            raise BadValue(key, f"{key} has no {option!r}", "every task has an objective, rows and a length")
    for option, (least, most) in OPTIONS.items():
        if option in entry and not (option == "weight" and isinstance(entry[option], str)):  # "0:0,1000:1"
            check_number(f"{key}.{option}", entry[option], least, most, whole=option in WHOLE)
    for option in ("data", "evaluate_on"):
        names = entry.get(option, ())
        if not isinstance(names, str) and not (_is_several(names) and all(isinstance(name, str) for name in names)):
            raise BadValue(f"{key}.{option}", f"{key}.{option} is {names!r}", "name streams of config.data, in a tuple")
    unit = entry.get("unit", UNITS[0])
    if unit not in UNITS:
        raise BadValue(f"{key}.unit", f"{key}.unit is {unit!r}{nearest(unit, UNITS)}", f"use one of {', '.join(UNITS)}")


def longest_row(model: ConfigDict) -> int:
    """Return the most tokens of a row that ``config.model`` has positions for."""
    return model.max_positions - (model.position_offset if model.position == "learned" else 0)


def check_number(key: str, value: Any, least: float, most: float = FOREVER, *, whole: bool = False) -> None:
    """Check that a value is a finite number from ``least`` (above 0 if that is ``SMALL``) to ``most``, and perhaps whole.

    Raises:
      BadValue: it is not.
    """
    if (
        not _is_number(value)
        or not least <= value <= most
        or math.isinf(value)
        or (whole and not isinstance(value, int))
    ):
        bounds = "above 0" if least == SMALL else f"from {least}"
        bounds += " to below 1" if most == BELOW_ONE else f" to {most}" if most != FOREVER else ""
        raise BadValue(key, f"{key} is {value!r}", f"use a {'whole ' if whole else ''}number {bounds}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_several(value: Any) -> bool:
    return isinstance(value, (tuple, list))


def _value(config: ConfigDict, key: str) -> Any:
    room, _, name = key.rpartition(".")
    return config[room][name] if room else config[name]
