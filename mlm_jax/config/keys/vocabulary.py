"""Keys ``vocabulary.…``: a given vocabulary, or one that is trained on the text."""

from __future__ import annotations

from mlm_jax.config.values import ABOVE_ZERO, PATH, Key, Number, choice, whole

ABOUT = "The vocabulary: a given one, or one that is trained on the text."

KEYS: tuple[Key, ...] = (
    Key(
        "vocabulary.path",
        "",
        PATH,
        'A SentencePiece .model file or a vocabulary folder, such as WORKDIR/store/vocabulary of a run. "" trains a vocabulary.',
    ),
    Key("vocabulary.kind", "unigram", choice("unigram", "bpe", "bytes"), "Kind of vocabulary to train."),
    Key(
        "vocabulary.size",
        32_000,
        whole(1),
        "Number of pieces at most, including special tokens and byte fallback. A small corpus gives fewer.",
    ),
    Key("vocabulary.alpha", 0.5, Number(0, 1), "Languages are sampled by share**alpha to train the vocabulary."),
    Key(
        "vocabulary.sentences",
        1_000_000,
        whole(1),
        "Sentences sampled to train the vocabulary, of all languages together.",
    ),
    Key(
        "vocabulary.character_coverage",
        0.9998,
        Number(ABOVE_ZERO, 1),
        "Share of all characters that are covered by pieces. The rest are spelled as bytes.",
    ),
    Key("vocabulary.sentinels", 100, whole(0), "Number of sentinel pieces <extra_id_0> …, for span corruption."),
)
