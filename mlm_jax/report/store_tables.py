"""Tables of a token store: counts, fertility, samples, the planned mix, and the mix under other values of alpha."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from mlm_jax.common.tables import Table
from mlm_jax.config.values import is_number, is_several
from mlm_jax.data.loading.curriculum import Phase
from mlm_jax.data.loading.loader import Loader
from mlm_jax.data.store.held_out import REASONS
from mlm_jax.data.store.manifest import TOKENS
from mlm_jax.data.store.question_rows import END, START
from mlm_jax.data.store.store import Split, Store, Stream
from mlm_jax.data.text.rates import rates

ALPHAS = (1.0, 0.7, 0.5, 0.3, 0.0)
SAMPLE_TOKENS = 24
MOST_NAMES = 8  # names that are listed in a cell; if there are more, the cell has their number
MOST_PASSES = 4  # passes through a language's text beyond which repetition helps less


def counts_table(store: Store) -> Table:
    """Return streams with their documents, tokens, characters and bytes, and their fertility."""
    table = Table("stream", "kind", "split", title="What the store holds")
    for column in ("documents", "tokens", "characters", "bytes", "tokens/word", "tokens/character"):
        table.add_column(column, justify="right")
    for stream in store.streams.values():
        for name, split in stream.splits.items():
            per_word, per_character = fertility(store, split)
            table.add_row(
                stream.name,
                stream.kind,
                name,
                f"{split.documents:,}",
                f"{split.tokens:,}",
                f"{split.characters:,}",
                f"{split.bytes:,}",
                f"{per_word:.2f}",
                f"{per_character:.3f}",
            )
    return table


def fertility(store: Store, split: Split, documents: int = 200) -> tuple[float, float]:
    """Return (tokens per word, tokens per character). Tokens per word means little for scripts without spaces.

    Language tokens and end tokens around the text are not counted. Words are those of the first documents.
    """
    around = np.setdiff1d(store.vocabulary.special_ids, store.vocabulary.unk_id)
    first = np.arange(min(split.documents, documents))
    found = [ids for feature in split.features if feature in TOKENS for ids in split[feature].documents(first)]
    bounds = [np.flatnonzero(np.isin(ids, around)) for ids in found]
    # "premise </s> hypothesis" are two texts.
    texts = [part for ids, cuts in zip(found, bounds) for part in np.split(ids, cuts)]
    words = sum(len(store.vocabulary.decode(part.tolist()).split()) for part in texts)
    added = sum(map(len, bounds))
    tokens = split.tokens - added / max(len(first), 1) * split.documents
    return (sum(map(len, found)) - added) / max(words, 1), tokens / max(split.characters, 1)


def overlap_table(store: Store) -> Table:
    """Return a table of the held-out text that was removed from each stream's training text."""
    facts = store.manifest["facts"]
    table = Table("stream", title="Training text that was also validation text, and was left out")
    for column in ("text held out", "sentence held out", "sentences cut out of", "examples left to train on"):
        table.add_column(column, justify="right")
    for name, reasons in facts.get("skipped", {}).items():
        counts = [reasons.get(reason, 0) for reason in REASONS]
        if any(counts):
            train = store.streams[name].splits.get("train")
            table.add_row(name, *(f"{count:,}" for count in (*counts, train.documents if train else 0)))
    table.caption = f"compared with {facts.get('held_out', 0):,} validation texts and sentences"
    return table


def filters_table(store: Store) -> Table:
    """Return a table of the examples, characters and tokens that each filter dropped from each stream, and of those it kept."""
    table = Table("stream", "step", title="What the filters dropped and kept")
    for which in ("dropped", "kept"):
        for unit in ("examples", "characters", "tokens"):
            table.add_column(f"{which}: {unit}", justify="right")
    for name, steps in store.manifest["facts"].get("filters", {}).items():
        kept = np.sum([*steps.values()], axis=0)  # [examples, characters, tokens] before the first step
        for step, dropped in steps.items():
            if step != "stored" and dropped[0]:
                kept = kept - dropped
                table.add_row(name, step, *(f"{number:,}" for number in (*dropped, *kept.tolist())))
        table.add_section()
    table.caption = "without steps that dropped nothing, and without held-out text that is left out of training"
    return table


def plan_table(loader: Loader) -> Table:
    """Return a table of the planned share of each task's rows for each language in each phase."""
    table = Table("language", title="Planned share of each task's rows (a pair counts half for each side)")
    shares = []
    for task in loader.config.tasks:
        for phase in loader.phases:
            of_phase = f", phase {phase.index}" if len(loader.phases) > 1 else ""
            table.add_column(f"{task}{of_phase} ({phase.strategy})", justify="right")
            first = phase.start_step
            shares.append(loader.planned_shares(task, first) | loader.planned_by_source(task, first))
    for name in _names(loader):
        table.add_row(name, *(f"{share.get(name, 0):.2%}" for share in shares))
    return table


def changes_table(loader: Loader) -> Table:
    """Return a table of the settings of each phase of the curriculum; without a curriculum it has no rows."""
    entries = loader.config.curriculum
    keys = [*dict.fromkeys(key for entry in entries for key in entry if key != "steps")]
    table = Table("phase", *keys, title="What each phase sets")
    for phase, entry in zip(loader.phases, entries):
        table.add_row(
            f"{phase.index}: steps {phase.start_step:,} to {phase.stop_step:,}",
            *(_brief(entry.get(key)) for key in keys),
        )
    return table


def phase_title(phase: Phase, entry: Mapping[str, Any]) -> str:
    """Return the name of a phase and its settings, such as "curriculum[1]: rows 512, mask_rate from 0.3 to 0.15"."""
    return f"{phase.name}: {', '.join(f'{key} {_brief(value)}' for key, value in entry.items() if key != 'steps')}"


def _brief(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_brief(entry)}" for key, entry in value.items())
    if is_several(value) and len(value) == 2 and all(map(is_number, value)):  # a line of mask rates
        return f"from {value[0]:g} to {value[1]:g}"
    if is_several(value):
        return " ".join(map(str, value)) if len(value) <= MOST_NAMES else f"{len(value):,}"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


def phases_table(loader: Loader) -> Table:
    """Return a table of the planned tokens of each language and source in each phase, and of the passes through its text.

    The passes are counted from the start of the run, for the stream of the language that is read most often. More than
    ``MOST_PASSES`` passes are marked.
    """
    table = Table(
        "language", title="Tokens that each language sees in each phase, and passes through its text until then"
    )
    for phase in loader.phases:
        table.add_column(f"phase {phase.index}: to step {phase.stop_step:,}", justify="right")
        table.add_column("passes", justify="right")
    bounds = [0, *(phase.stop_step for phase in loader.phases)]
    seen = [loader.tokens_seen(step) | loader.tokens_by_source(step) for step in bounds]
    passes = [_passes(loader, step) for step in bounds[1:]]
    for language in _names(loader):
        cells = []
        for before, after, read in zip(seen, seen[1:], passes):
            often = read.get(language, 0.0)
            cells += [f"{after[language] - before[language]:,}", f"{often:.2f}" + " (many)" * (often > MOST_PASSES)]
        table.add_row(language, *cells)
    table.caption = f"many: more than {MOST_PASSES} (Muennighoff et al. 2023: up to 4 are as good as new text)"
    return table


def _names(loader: Loader) -> list[str]:
    """Return the languages, each followed by its sources, and then the sources of pairs."""
    sources = loader.sources()
    of_pairs = [source.name for source in sources if len(source.languages) > 1]
    each = ([code, *(s.name for s in sources if s.languages == (code,))] for code in loader.languages)
    return [name for names in each for name in names] + of_pairs


def _passes(loader: Loader, step: int) -> dict[str, float]:
    """Return {language: largest number of passes of a task through one of its streams} in the steps before ``step``."""
    found: dict[str, float] = {}
    for task in loader.config.tasks:
        epochs = loader.epochs(task, step)
        for stream in loader.streams(task):
            for name in (*stream.languages, *([stream.name] if stream.source else [])):
                found[name] = max(found.get(name, 0.0), epochs[stream.name])
    return found


def mix_table(store: Store) -> Table:
    """Return a table of the share of rows that each language would get under several values of alpha."""
    # The loader mixes languages; streams of one language are mixed in proportion to their tokens.
    text: Counter[str] = Counter()
    for stream in store.streams.values():
        if stream.kind == "text" and "train" in stream.splits:
            text[stream.languages[0]] += stream.splits["train"].tokens
    table = Table("language", title="Share of the text's rows by alpha (share of tokens to the power of alpha)")
    for value in ALPHAS:
        table.add_column(f"{value:g}", justify="right")
    shares = [rates([*text.values()], value) for value in ALPHAS] if text else []
    for index, name in enumerate(text):
        table.add_row(name, *(f"{share[index]:.2%}" for share in shares))
    return table


def _labels_of(stream: Stream, labels: np.ndarray) -> str:
    """Return the labels of an example, as text."""
    if stream.kind == "scored":
        return f"{labels.astype(np.int32).view(np.float32)[0]:g}"
    if stream.kind == "multilabelled":
        return ", ".join(name for name, has in zip(stream.labels, labels) if has) or "·"
    if stream.kind == "questions":
        started, ended = (np.flatnonzero((labels > 0) & (labels & flag > 0)) for flag in (START, END))
        return f"tokens {started[0]} to {ended[0]}"
    return " ".join(stream.labels[label] if label >= 0 else "·" for label in labels[:SAMPLE_TOKENS])


def samples_table(store: Store) -> Table:
    """Return the first training example of each stream, as pieces."""
    table = Table("stream", "first example", title="Samples", show_lines=True)
    for stream in store.streams.values():
        split = stream.splits.get("train") or next(iter(stream.splits.values()))
        sides = [split[feature].documents([0])[0] for feature in split.features]
        lines = []
        for feature, side in zip(split.features, sides):
            if feature == "answers":
                continue
            if feature == "labels":
                lines.append(_labels_of(stream, side))
            else:
                more = " …" if len(side) > SAMPLE_TOKENS else ""
                lines.append(" ".join(store.vocabulary.pieces(side[:SAMPLE_TOKENS])) + more)
        table.add_row(stream.name, "\n".join(lines))
    return table
