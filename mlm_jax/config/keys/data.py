"""Keys ``data.…``: where the text comes from, and how it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlm_jax.config.sources import Sources
from mlm_jax.config.values import (
    FLAG,
    NAMES,
    PATH,
    REQUIRED,
    SOURCE,
    TEXT,
    ByName,
    Entries,
    Entry,
    Fits,
    Key,
    Number,
    are_names,
    choice,
    is_text,
    whole,
)

ABOUT = "Where the text comes from, and how it is stored."


def _is_filter(entry: Any) -> bool:
    named = entry.get("filter") if isinstance(entry, Mapping) else entry
    only = entry.get("only", ()) if isinstance(entry, Mapping) else ()
    return isinstance(named, str) and (isinstance(only, str) or are_names(only))


LABELLED_SET = Entry(
    (
        Key("format", REQUIRED, TEXT, "Format of its files, such as tsv; docs/data.md lists the formats."),
        Key("language", REQUIRED, TEXT, "Language of its text."),
        Key("train", None, SOURCE, "Files to train on."),
        Key("validation", None, SOURCE, "Files to evaluate on."),
        Key("labels", None, NAMES, "Labels, in the order of their indices; by default those of the training split."),
        Key(
            "kind",
            None,
            choice("class", "classes", "number"),
            "What the label of a text is: a class (the default), several classes, or a number such as a similarity.",
        ),
        Key(
            "window",
            None,
            whole(16),
            "For questions: tokens of a row (384 by default). Longer texts become several rows.",
        ),
        Key(
            "overlap",
            None,
            whole(0),
            "For questions: tokens that neighbouring windows of a text share (128 by default).",
        ),
    ),
    example='{"format": "tsv", "language": "en", "train": "genre.tsv"}',
)

KEYS: tuple[Key, ...] = (
    Key(
        "data.corpora",
        {},
        ByName(Sources('{"web": "text/en/web/*.txt", "books": "text/en/books/*.txt"}'), '{"en": "text/en/*.txt"}'),
        "Text of each language: files that end in .txt or .jsonl (plain, .gz or .zst) or .parquet, or a function; or several such "
        "sources by name.",
    ),
    Key(
        "data.parallel",
        {},
        ByName(Sources('{"opus": "opus.tsv", "ted": "ted.tsv"}'), '{"de-en": "text/de-en.tsv"}'),
        "Parallel text of each pair of languages: .tsv or .tmx files, (file of one side, file of the other), or a function; or "
        "several such sources by name.",
    ),
    Key("data.labelled", {}, ByName(LABELLED_SET, '{"genre": {"format": "tsv", …}}'), "Labelled sets, by name."),
    Key(
        "data.validation",
        {},
        ByName(SOURCE, '{"en": "text/en/held_out.txt"}'),
        "Held-out text of a language or pair, from the same kinds of source. A language or pair without training text "
        "is only tested.",
    ),
    Key(
        "data.validation_fraction",
        0.01,
        Number(0, 1),
        "Share of a corpus that is held out if `data.validation` has no text for it: at least ten texts, or a tenth if "
        "there are fewer than a hundred; 0 for none. A function yields its own held-out text.",
    ),
    Key(
        "data.filters",
        (),
        Entries(
            _is_filter,
            'names of filters, or dictionaries such as {"filter": "length", "least": 20, "only": ("de", "web")}',
        ),
        "Filters that are applied to training text in this order: those of docs/data.md, or `module:function`.",
    ),
    Key(
        "data.decontaminate",
        True,
        FLAG,
        "Whether training leaves out text that is validation text of any stream. Turn it off only if you know why.",
    ),
    Key(
        "data.mixture",
        "",
        TEXT,
        "Name of a registered seqio Mixture to use instead of `data.corpora` and `data.parallel`.",
    ),
    Key(
        "data.mixture_languages",
        {},
        ByName(Fits(is_text, 'a language or a pair such as "de-en"'), '{"my_task": "de-en"}'),
        "Language or pair of each seqio task of `data.mixture`.",
    ),
    Key(
        "data.modules",
        (),
        Entries(is_text, "names of Python modules"),
        "Python modules that are imported first: they register seqio tasks or define corpus functions.",
    ),
    Key("data.prefix", "language", choice("language", "bos", "none"), "First token of every document."),
    Key(
        "data.max_document_tokens",
        8192,
        whole(1),
        "Longer documents are split into several. Longer sides of pairs and longer labelled texts are cut.",
    ),
    Key(
        "data.max_document_bytes",
        1 << 24,
        whole(1),
        "Limit on one document, line or cell of the text, in bytes. A larger one is an error, so that memory stays bounded.",
    ),
    Key("data.store", "", PATH, 'Folder of the token store; "" is WORKDIR/store.'),
    Key("data.workers", 1, whole(0), "Processes that tokenise, each its share of the files; 0 uses one for each core."),
)
