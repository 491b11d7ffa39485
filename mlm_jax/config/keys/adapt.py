"""Keys ``adapt.…``: the trained model that a run continues, and how its vocabulary changes before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlm_jax.config.sources import Sources
from mlm_jax.config.values import FLAG, PATH, REQUIRED, TEXT, BadValue, ByName, Entry, Key, choice, whole

ABOUT = (
    "The published or trained model that a run continues; `mlm-jax train` imports, trims and grows it before the first step "
    "([adapt](adapt.md))."
)

TEXTS = ByName(Sources('{"web": "text/en/web/*.txt", "books": "text/en/books/*.txt"}'), '{"en": "text/en/*.txt"}')
GROW = Entry(
    (
        Key("language", REQUIRED, TEXT, "Code of the new language."),
        Key(
            "text",
            None,
            Sources('{"web": "text/tl/web/*.txt", "books": "text/tl/books/*.txt"}'),
            "Text from which new pieces are learned; by default `data.corpora` of the language.",
        ),
        Key("pieces", 2000, whole(0), "Most pieces to add."),
        Key(
            "start",
            "spelling",
            choice("spelling", "lexicon"),
            "Initial embeddings of new pieces: from the old pieces that spell them, or from those that occur in translations.",
        ),
        Key(
            "pairs",
            {},
            ByName(Sources('{"opus": "opus.tsv", "ted": "ted.tsv"}'), '{"tl-en": "tl-en.tsv"}'),
            "Translations between the new language and known ones, or a dictionary, for `lexicon`.",
        ),
    ),
    example='{"language": "tl", "pieces": 2000}',
    empty=True,
)


def check_growth(key: str, growth: Mapping[str, Any]) -> None:
    """Check the settings of a growing vocabulary, each by itself and together.

    Args:
      key: name of the settings in messages.
      growth: values as of ``adapt.grow``.

    Raises:
      BadValue: a value is not of its kind; or only one of a lexicon and its translations is given.
    """
    GROW.check(key, growth)
    if (growth.get("start") == "lexicon") != bool(growth.get("pairs")):
        raise BadValue(
            key, f"{key} has only one of the start 'lexicon' and pairs of translations", "give both, or neither"
        )


KEYS: tuple[Key, ...] = (
    Key(
        "adapt.model",
        "",
        PATH,
        "A folder of transformers, a name on the Hub, a workdir or a checkpoint. The run gets its `config.model`, `data.prefix`, "
        "vocabulary and weights. Keys of `model` that are set to another value than their default are kept.",
    ),
    Key(
        "adapt.trim",
        {},
        TEXTS,
        "Text of each language for which the model will be used: other pieces leave the vocabulary (`mlm-jax trim`); {} keeps all.",
    ),
    Key("adapt.grow", {}, GROW, "Pieces of a new language are added to the vocabulary (`mlm-jax grow`)."),
    Key(
        "adapt.only_new",
        False,
        FLAG,
        "Train only the new pieces of `adapt.grow` and the new language's own weights; all others stay the same bit for bit.",
    ),
    Key(
        "adapt.like",
        {},
        ByName(TEXT, '{"tl": "id"}'),
        "{new language: language of the model whose weights it begins with}, as in `checkpoint.init`.",
    ),
    Key(
        "adapt.folder",
        "",
        PATH,
        'Folder of the imported, trimmed and grown model; "" is WORKDIR/adapted. It is made once. Remove it to make it again.',
    ),
)
