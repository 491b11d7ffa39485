"""Facts about the vocabulary that objectives need, from a real vocabulary or a planned one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mlm_jax.common.errors import UserError
from mlm_jax.data.loading import curriculum
from mlm_jax.data.text.languages import run_languages
from mlm_jax.data.vocabulary.folder import open_vocabulary
from mlm_jax.data.vocabulary.pieces import Vocabulary
from mlm_jax.objectives import Context, create_objectives, kinds, objective_class


def make_context(
    vocabulary: Vocabulary,
    languages: tuple[str, ...],
    config: ConfigDict,
    labels: Mapping[str, tuple[str, ...]] | None = None,
) -> Context:
    """Return the context of a run.

    Args:
      vocabulary: the vocabulary of the run's text.
      languages: language codes in index order.
      config: the config of the run.
      labels: {task with labels: names of its classes}, for objectives with class weights.

    Raises:
      UserError: a task masks pieces, but the vocabulary has no mask piece.
    """
    hiding = [task for task, entry in config.tasks.items() if objective_class(entry["objective"], task).masks]
    if hiding and vocabulary.mask_id < 0:
        raise UserError(
            f"task {hiding[0]!r} masks pieces, but this vocabulary has no <mask>",
            remedy="use an objective that needs no <mask> (denoising, translation, ranking), or a vocabulary of your own",
        )
    prefixes = [vocabulary.document_prefix(config.data.prefix, language) for language in languages]
    # Without a stored prefix a decoder starts with padding, as T5's does.
    starts = np.array([prefix[0] if prefix else vocabulary.pad_id for prefix in prefixes], np.int32)
    return Context(
        vocabulary_size=vocabulary.size,
        special=vocabulary.is_special,
        word_starts=vocabulary.word_starts,
        mask_id=vocabulary.mask_id,
        pad_id=vocabulary.pad_id,
        eos_id=vocabulary.eos_id,
        sentinels=vocabulary.sentinel_ids,
        language_starts=starts,
        prefixed=config.data.prefix != "none",
        labels=labels or {},
        **_settings(languages, config),
    )


def check_vocabulary(config: ConfigDict) -> None:
    """Check that the vocabulary has the special pieces that the tasks need, before hours go into preparing data.

    The vocabulary of ``data.mixture`` is known only when the data is read.

    Raises:
      UserError: it lacks some; or the config names a vocabulary that does not exist or is damaged.
    """
    named, languages = config.vocabulary, run_languages(config)
    if named.path:
        context = make_context(open_vocabulary(named.path, languages, named.sentinels), languages, config)
    elif config.data.mixture:
        return
    else:
        context = planned_context(languages, config)
    for tasks in curriculum.tasks_by_phase(config, kinds(config.tasks)):
        for task, objective in create_objectives(config.tasks).items():
            objective.check_pieces(context, tasks[task]["length"])


def planned_context(languages: tuple[str, ...], config: ConfigDict) -> Context:
    """Return the context of a run whose vocabulary does not exist yet, with ``config.vocabulary.size`` pieces.

    Shapes and costs are those of the real run: the number of special pieces is the same, but their ids may differ.
    """
    size, sentinels = config.vocabulary.size, config.vocabulary.sentinels
    first_language = 5  # after <pad> </s> <unk> <s> <mask>
    special = np.arange(size) < first_language + len(languages) + sentinels
    return Context(
        vocabulary_size=size,
        special=special,
        word_starts=np.arange(size) % 2 == 0,
        mask_id=4,
        pad_id=0,
        eos_id=1,
        sentinels=np.arange(sentinels, dtype=np.int32) + first_language + len(languages),
        language_starts=np.arange(len(languages), dtype=np.int32) + first_language,
        prefixed=config.data.prefix != "none",
        **_settings(languages, config),
    )


def _settings(languages: tuple[str, ...], config: ConfigDict) -> dict[str, Any]:
    return {
        "languages": len(languages),
        "normalize": config.training.normalize,
        "z_loss": config.training.z_loss,
        "chunk": config.model.cross_entropy_chunk,
    }
