"""Comparison of vocabularies: into how many tokens each of them splits the text of each language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlm_jax.common.tables import Table
from mlm_jax.data.vocabulary.fertility import fertility, parity
from mlm_jax.data.vocabulary.pieces import Vocabulary

NONE = "–"


def vocabularies_table(
    vocabularies: Mapping[str, Vocabulary],
    texts: Mapping[str, Sequence[str]],
    with_english: Mapping[str, Sequence[tuple[str, str]]],
) -> Table:
    """Return a table with a row for each language and vocabulary.

    Args:
      vocabularies: {name: vocabulary}.
      texts: {language: documents}.
      with_english: {language: (text, its English translation)}.
    """
    table = Table("language", "vocabulary", title="Vocabularies side by side")
    for column in ("tokens/word", "characters/token", "parity with English", "bytes %", "unknown %", "pieces used"):
        table.add_column(column, justify="right")
    for language in dict.fromkeys((*texts, *with_english)):
        for name, vocabulary in vocabularies.items():
            pairs = with_english.get(language)
            counted = fertility(vocabulary, texts.get(language) or [text for text, _ in pairs or ()])
            table.add_row(
                language,
                name,
                f"{counted.tokens_per_word:.3f}",
                f"{counted.characters_per_token:.3f}",
                f"{parity(vocabulary, pairs):.3f}" if pairs else NONE,
                f"{100 * counted.byte_share:.2f}",
                f"{100 * counted.unknown_share:.2f}",
                f"{counted.pieces:,} of {vocabulary.size:,}",
            )
        table.add_section()
    table.caption = (
        "parity: tokens for each token of the English translation. tokens/word means little for scripts without spaces"
    )
    return table
