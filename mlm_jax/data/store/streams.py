"""The corpora and the parallel text of a config, each with the sources of its training text and its validation text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ml_collections import ConfigDict

from mlm_jax.common.lines import bounded_windows
from mlm_jax.config.sources import NamedSource, named_sources
from mlm_jax.data.text import corpora, labelled
from mlm_jax.data.text.languages import languages_of, named_languages, only_held_out, split_pair
from mlm_jax.data.text.sources import files, is_function, is_library

BATCH = 512  # most examples of a batch
BATCH_CHARACTERS = 1 << 22  # most characters of a batch, without its last example
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Source:
    """A corpus, or the parallel text of a pair of languages.

    Attributes:
      name: name of its stream: a language or a pair, or one of several sources of it, such as ``de:wiki``.
      of: the language or pair, as the config names it.
      kind: text | pairs.
      languages: its language, or the two languages of a pair.
      train: source of the training text; None: there is none, since this is a test set.
      validation: source of the validation text; None: ``data.validation_fraction`` of ``train``.
      most_bytes: ``data.max_document_bytes``.
      most_documents: most documents that are drawn from the training text; 0 for all.
      fields: the field that holds the text, and values that other fields must have in training text.
    """

    name: str
    of: str
    kind: str
    languages: tuple[str, ...]
    train: Any
    validation: Any
    most_bytes: int
    most_documents: int = 0
    fields: corpora.Fields = corpora.EVERYTHING

    @property
    def by_fraction(self) -> bool:
        """Whether ``data.validation_fraction`` of the training text is held out."""
        return self.validation is None

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that it has: train and validation, or validation alone."""
        return SPLITS if self.train is not None else SPLITS[1:]

    def pieces(self) -> list[tuple[str, Source]]:
        """Return (name, source) of each file of the training text in order; a source that is not files is one entry.

        Raises:
          UserError: as :func:`.sources.files`.
        """
        if is_library(self.train):
            return [(self.train, self)]
        if self.kind == "pairs" and corpora.is_aligned(self.train):
            return [(" and ".join(self.train), self)]
        endings = corpora.TEXT_ENDINGS if self.kind == "text" else corpora.PAIR_ENDINGS
        return [(str(file), replace(self, train=(str(file),))) for file in files(self.train, endings)]

    def batches(self, split: str, skipped: Counter[str] | None = None) -> Iterator[list[Any]]:
        """Yield the documents, or the (source, target) pairs, of a split's text in batches.

        Args:
          split: train | validation.
          skipped: {reason: number of examples left out}, added to.

        Raises:
          UserError: as :func:`.corpora.documents` and :func:`.corpora.sentence_pairs`.
        """
        named = self.train if split == "train" else self.validation
        fields = self.fields if split == "train" else corpora.Fields(self.fields.text)
        if self.kind == "text":
            texts = corpora.documents(named, self.of, split, most_bytes=self.most_bytes, skipped=skipped, fields=fields)
            return bounded_windows(texts, BATCH, len, BATCH_CHARACTERS)
        pairs = corpora.sentence_pairs(
            named, self.of, split, self.languages, most_bytes=self.most_bytes, skipped=skipped, fields=fields
        )
        return bounded_windows(pairs, BATCH, lambda sides: len(sides[0]) + len(sides[1]), BATCH_CHARACTERS)


def sources(config: ConfigDict) -> list[Source]:
    """Return the corpora, the parallel text and the test sets of a config, in its order; with a mixture, only the test sets."""
    data, most = config.data, config.data.max_document_bytes
    found = []
    if not data.mixture:
        for one in named_sources(data.corpora):
            found.append(
                Source(one.stream, one.of, "text", (one.of,), one.files, _validation(data, one), most, *_settings(one))
            )
        for one in named_sources(data.parallel):
            sides = split_pair(one.of, named_languages(config))
            found.append(
                Source(one.stream, one.of, "pairs", sides, one.files, _validation(data, one), most, *_settings(one))
            )
    for name in only_held_out(config):
        languages = languages_of(config, name)
        kind = "pairs" if len(languages) == 2 else "text"
        found.append(Source(name, name, kind, languages, None, data.validation[name], most))
    return found


def texts_of(entry: Mapping[str, Any], example: labelled.Example) -> tuple[str, ...]:
    """Return the texts of a labelled example that must not be in both training and held-out text.

    For a question, this is the text that it is about: the same question ("When was it built?") may be asked about many texts.
    """
    if example.question is not None:
        return example.texts[1:]
    return (" ".join(example.texts),) if labelled.is_per_word(dict(entry)) else example.texts


def _settings(source: NamedSource) -> tuple[int, corpora.Fields]:
    """Return the cap on documents and the fields of a source."""
    settings = source.settings
    return settings.get("documents", 0), corpora.Fields(settings.get("field", "text"), settings.get("where", {}))


def _validation(data: ConfigDict, source: NamedSource) -> Any:
    """Return the source of validation text; a function that yields a corpus yields its validation text too.

    Validation text that is named for a language is shared by its sources: no fraction of any of them is held out.
    """
    if source.stream in data.validation:
        return data.validation[source.stream]
    return source.files if is_function(source.files) else () if source.of in data.validation else None
