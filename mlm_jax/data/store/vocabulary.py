"""The vocabulary of a store: the one that the config names, or one trained on a sample of the store's training text."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator

from ml_collections import ConfigDict
from rich.console import Console

from mlm_jax.common.errors import UserError
from mlm_jax.data.store import streams
from mlm_jax.data.store.held_out import HeldOut, collect
from mlm_jax.data.text.languages import languages_of, named_languages, only_held_out, split_pair
from mlm_jax.data.text.rates import rates
from mlm_jax.data.text.sources import shown
from mlm_jax.data.vocabulary.folder import open_vocabulary
from mlm_jax.data.vocabulary.pieces import Vocabulary

SENTENCE = 2000  # most characters of a sentence to train on; longer documents are cut into several


def given_vocabulary(config: ConfigDict, languages: tuple[str, ...]) -> Vocabulary | None:
    """Return the vocabulary that the config names, or that of ``data.mixture``; None if one will be trained.

    Raises:
      UserError: there is no such vocabulary, it is damaged, or ``data.mixture`` tokenises with another vocabulary.
    """
    from mlm_jax.data.store import tasks

    settings = config.vocabulary
    if settings.path or settings.kind == "bytes":
        given = (
            open_vocabulary(settings.path, languages, settings.sentinels)
            if settings.path
            else Vocabulary.bytes(languages, settings.sentinels)
        )
        if config.data.mixture:
            tasks.check_mixture_vocabulary(config, given)
        return given
    return tasks.mixture_vocabulary(config, languages) if config.data.mixture else None


def train_vocabulary(config: ConfigDict, languages: tuple[str, ...], console: Console, held_out: HeldOut) -> Vocabulary:
    """Train a vocabulary on text sampled by ``vocabulary.alpha``.

    Raises:
      UserError: as :class:`mlm_jax.data.vocabulary.pieces.Vocabulary`.
    """
    settings = config.vocabulary
    console.print(f"training a vocabulary of at most {settings.size:,} pieces ({settings.kind})")
    trained = Vocabulary.train(vocabulary_sentences(config, languages, held_out), settings, languages)
    if trained.size < settings.size:
        console.print(f"the text has enough pieces for a vocabulary of {trained.size:,}, not of {settings.size:,}")
    return trained


def vocabulary_sentences(
    config: ConfigDict, languages: tuple[str, ...], held_out: HeldOut | None = None
) -> Iterator[str]:
    """Yield at most ``vocabulary.sentences`` sentences, of languages in proportion to their shares of the characters ** alpha.

    If a language has fewer sentences than its share, they are repeated. If it has more, sentences are drawn at random, the same
    ones in every run. Only counts are kept in memory.

    Args:
      config: the run's config.
      languages: languages of the run.
      held_out: text that is left out; None: computed from the config's text.

    Raises:
      UserError: a language has no text, though the config names some to train on.
    """
    held_out = collect(config) if held_out is None else held_out
    languages = tuple(language for language in languages if not _only_tested(config, language))
    sentences: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    for language in languages:
        for sentence in _training_sentences(config, language, held_out):
            sentences[language] += 1
            characters[language] += len(sentence)
        if not sentences[language]:
            named = (source.train for source in streams.sources(config) if language in source.languages)
            source = shown(next(named, None))
            raise UserError(
                f"language {language!r} has no text after filtering",
                file=source,
                remedy="check its files in config.data, or take the vocabulary of another run by vocabulary.path",
            )
    shares = rates([characters[language] for language in languages], config.vocabulary.alpha)
    total = min(config.vocabulary.sentences, sum(sentences.values()))
    for language, proportion in zip(languages, shares):
        quota, have, given = int(proportion * total), sentences[language], 0
        while given < quota:
            this_pass = min(quota - given, have)
            yield from drawn(_training_sentences(config, language, held_out), this_pass, have, seed=language)
            given += this_pass


def drawn(sentences: Iterable[str], count: int, have: int, *, seed: str) -> Iterator[str]:
    """Yield exactly ``count`` of ``have`` sentences in their order; every subset is equally likely (Knuth's algorithm S).

    Taking every n-th sentence instead would be biased for text with a period, such as alternating questions and answers.
    """
    generator = random.Random(seed)
    for left, sentence in zip(range(have, 0, -1), sentences):
        if not count:
            return
        if generator.random() * left < count:
            count -= 1
            yield sentence


def _only_tested(config: ConfigDict, language: str) -> bool:
    """Return whether a language has text or labels to evaluate on, but none to train on (zero-shot transfer)."""
    known, sets = (
        named_languages(config),
        [entry for entry in config.data.labelled.values() if entry["language"] == language],
    )
    if language in config.data.corpora or any(language in split_pair(pair, known) for pair in config.data.parallel):
        return False
    evaluated = bool(sets) or any(language in languages_of(config, name) for name in only_held_out(config))
    return evaluated and not any("train" in entry for entry in sets)


def _training_sentences(config: ConfigDict, language: str, held_out: HeldOut) -> Iterator[str]:
    """Yield the training text of a language in pieces of at most ``SENTENCE`` characters."""
    nothing = Counter[str]()  # not used: examples that are left out are counted when the store is written
    if language in config.data.corpora:
        for source in streams.sources(config):
            if (source.of, source.kind) == (language, "text"):
                for _, documents in held_out.split(source, ("train",), nothing):
                    for document in documents:
                        if document.strip():
                            yield from (
                                document[start : start + SENTENCE] for start in range(0, len(document), SENTENCE)
                            )
        return
    for source in streams.sources(config):
        if source.train is not None and language in source.languages:
            side = source.languages.index(language)
            for _, pairs in held_out.split(source, ("train",), nothing):
                yield from (pair[side][:SENTENCE] for pair in pairs if pair[side].strip())
    for entry in config.data.labelled.values():
        if entry["language"] == language:
            found = held_out.labelled(dict(entry), ("train",), nothing, config.data.max_document_bytes)
            yield from (" ".join(example.texts)[:SENTENCE] for _, example in found)
