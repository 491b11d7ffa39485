"""Every key that a run can set, declared once: name, default, kind of its values, and what it does.

The checks, their messages, ``mlm-jax config`` and docs/config.md all come from these declarations. A config file defines
``get_config()`` and changes what it wants to::

    from mlm_jax.config import default_config

    def get_config():
        config = default_config()
        config.data.corpora = {"en": "text/en/*.txt", "de": "text/de/*.txt"}
        return config

A key that is not in here is an error that names the nearest one (``load_config``).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mlm_jax.config.sources import Sources, are_names_or_rates
from mlm_jax.config.values import (
    ABOVE_ZERO,
    BELOW_ONE,
    FLAG,
    FOREVER,
    NAME_OR_NAMES,
    NAMES,
    REQUIRED,
    SOURCE,
    TEXT,
    ByName,
    Each,
    Entries,
    Entry,
    Fits,
    Key,
    Line,
    Number,
    OneOrByName,
    are_names,
    choice,
    is_number,
    is_several,
    is_text,
    some,
    whole,
)


def _are_language_codes(value: Any) -> bool:
    return are_names(value) and all(re.fullmatch(r"[\w-]+", code) for code in value)


def _are_betas(value: Any) -> bool:
    return len(value) == 2 and all(is_number(beta) and 0 <= beta < 1 for beta in value)


def _are_first_and_last(value: Any) -> bool:
    return not value or (len(value) == 2 and all(isinstance(step, int) for step in value) and 0 <= value[0] <= value[1])


def _is_decay(entry: Any) -> bool:
    return _is_row(entry) and isinstance(entry[1], bool)


def _is_factor(entry: Any) -> bool:
    return _is_row(entry) and is_number(entry[1]) and 0 <= entry[1] < FOREVER


def _is_frozen(entry: Any) -> bool:
    return _is_row(entry) and (isinstance(entry[1], int) or _are_ranges(entry[1]))


def _are_ranges(value: Any) -> bool:
    """Return whether these are (first, behind the last) of ranges of rows, in order."""
    if not is_several(value) or not all(is_several(part) and len(part) == 2 for part in value):
        return False
    bounds = [bound for part in value for bound in part]
    return (
        bool(bounds) and all(type(bound) is int for bound in bounds) and bounds[0] >= 0 and bounds == sorted({*bounds})
    )


def _is_row(entry: Any) -> bool:
    return is_several(entry) and len(entry) == 2 and isinstance(entry[0], str)


def _are_steps(value: Any) -> bool:
    return is_number(value) and 0 <= value < FOREVER and (value < 1 or value == int(value))


def _is_filter(entry: Any) -> bool:
    named = entry.get("filter") if isinstance(entry, Mapping) else entry
    only = entry.get("only", ()) if isinstance(entry, Mapping) else ()
    return isinstance(named, str) and (isinstance(only, str) or are_names(only))


def _is_axis(value: Any) -> bool:
    return type(value) is int and (value >= 1 or value == -1)


def _is_weight(value: Any) -> bool:
    return isinstance(value, str) or (is_number(value) and 0 <= value < FOREVER)


STEPS = Fits(_are_steps, "a whole number of steps, or a share of `steps` below 1")
INDEX = choice("shared", "source_language", "target_language", "family", "task")
AXIS = Fits(_is_axis, "a whole number from 1, or -1 for all devices that remain (one axis at most)")
STRATEGY = choice("alpha", "unimax", "explicit", "mixture")
DIRECTIONS = choice("both", "forward")

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
            "Of questions: tokens of a row (384 by default); longer texts become several rows.",
        ),
        Key(
            "overlap",
            None,
            whole(0),
            "Of questions: tokens that neighbouring windows of a text share (128 by default).",
        ),
    ),
    example='{"format": "tsv", "language": "en", "train": "genre.tsv"}',
)

PHASE_OPTIMIZER = Entry(
    (
        Key("schedule", None, TEXT, "As `optimizer.schedule`."),
        Key("learning_rate", None, Number(0), "As `optimizer.learning_rate`."),
        Key(
            "warmup_steps",
            None,
            STEPS,
            "Length of a linear warm-up, in steps or as a share of the phase; none if it is left out.",
        ),
        Key("decay_steps", None, STEPS, "As `optimizer.decay_steps`, of the phase."),
        Key("final_fraction", None, Number(0, 1), "As `optimizer.final_fraction`."),
    ),
    example='{"schedule": "wsd", "warmup_steps": 0.05}',
)

PHASE = Entry(
    (
        Key("steps", REQUIRED, whole(1), "Steps of the phase; those of all phases add up to `steps`."),
        Key(
            "languages",
            None,
            Fits(are_names, 'a tuple of languages: ("de",)'),
            "Languages that are read, and with them pairs of two of them.",
        ),
        Key(
            "sources",
            None,
            Fits(are_names_or_rates, 'names of sources: ("wiki", "de:books"), or their rates: {"wiki": 2, "web": 1}'),
            "Sources that are read, by their names in `data`: `wiki` is that of every language, `de:wiki` of one. Text whose "
            "source has no name is not read. Rates share a language's rows among its sources.",
        ),
        Key(
            "strategy",
            None,
            STRATEGY,
            "As `mixing.strategy`; it follows from the next three keys if one of them is given.",
        ),
        Key("alpha", None, Number(0, 1), "As `mixing.alpha`."),
        Key("unimax_epochs", None, Number(ABOVE_ZERO), "As `mixing.unimax_epochs`."),
        Key("rates", None, ByName(Number(0), '{"en": 1, "de": 2}'), "As `mixing.rates`."),
        Key(
            "mask_rate",
            None,
            OneOrByName(Line(Number(ABOVE_ZERO, 1)), '{"mlm": 0.15}'),
            "Mask rate of all tasks that mask, or of each task by name. Of two rates, the first holds in the phase's first step "
            "and the second in its last; between them it changes by the same amount each step.",
        ),
        Key(
            "rows",
            None,
            OneOrByName(whole(1), '{"mlm": 512}'),
            "Rows a step: a number for all tasks that read text, or numbers of tasks by name.",
        ),
        Key(
            "length",
            None,
            OneOrByName(whole(2), '{"mlm": 1024}'),
            "Tokens a row: a number for all tasks that read text, or numbers of tasks by name.",
        ),
        Key("rope_theta", None, Number(ABOVE_ZERO), "As `model.rope_theta`."),
        Key("local_rope_theta", None, Number(ABOVE_ZERO), "As `model.local_rope_theta`."),
        Key("rate_factor", None, Number(0), "Factor on the run's schedule in this phase."),
        Key(
            "optimizer",
            None,
            PHASE_OPTIMIZER,
            "A schedule of the phase's own instead of the run's. It counts the phase's steps; a key that it leaves out is as in "
            "`optimizer`.",
        ),
    ),
    example='{"steps": 1000, "alpha": 0.3}',
)

TASK = Entry(
    (
        Key(
            "objective",
            REQUIRED,
            Fits(is_text, "the name of an objective, such as mlm"),
            "What the task learns: an objective, of those listed below.",
        ),
        Key("rows", REQUIRED, whole(1), "Rows a step, over all devices (the batch size)."),
        Key("length", REQUIRED, whole(2), "Tokens a row (the sequence length)."),
        Key(
            "weight",
            1.0,
            Fits(_is_weight, 'a number from 0, "step:value,step:value" or "uncertainty"'),
            'Weight of the task\'s loss: a number, a piecewise linear function of the step such as "0:0,1000:1", or '
            '"uncertainty", which learns it (Kendall et al. 2018).',
        ),
        Key(
            "data",
            (),
            NAME_OR_NAMES,
            "Names of the streams in `data` that the task reads. () reads all that fit the objective.",
        ),
        Key(
            "evaluate_on",
            None,
            NAME_OR_NAMES,
            "Labelled sets that the task is evaluated on, besides the validation splits of those it reads. By default these are "
            "all sets that no task reads or names and whose labels it knows.",
        ),
        Key(
            "same_language_rows",
            1,
            whole(1),
            "Length of the runs of consecutive rows that share one language and direction. Language-specific weights are gathered "
            "once a run.",
        ),
        Key("packed", True, FLAG, "Rows of text are slices of joined documents; False puts one document in each row."),
        Key(
            "directions",
            "both",
            DIRECTIONS,
            "Of pairs: both reads each pair either way, forward reads it as it is named.",
        ),
    ),
    example='{"objective": "mlm", "rows": 64, "length": 512}',
    open=True,
    renamed=(("alike", "same_language_rows"), ("test", "evaluate_on")),
)

LAYER_GROUP = Entry(
    (
        Key("layers", REQUIRED, whole(1), "Number of layers."),
        Key("weights", "shared", INDEX, "What chooses a layer's weights: shared uses the same ones for all rows."),
        Key("adapter", 0, whole(0), "Width of a bottleneck adapter in each layer; 0 for none."),
        Key(
            "adapter_weights",
            None,
            INDEX,
            "What chooses an adapter's weights; by default what chooses the layer's, or the source language if that is shared.",
        ),
        Key(
            "adapter_norm",
            "own",
            choice("own", "reused"),
            "own: the adapter has a norm and begins as the identity. reused: the layer's norm is applied before and after the "
            "adapter (X-MOD).",
        ),
    ),
    example='{"layers": 12, "weights": "shared"}',
)

RELATIVE = Entry(
    (
        Key("buckets", REQUIRED, whole(4), "Number of buckets for distances, a multiple of 4."),
        Key(
            "max_distance",
            REQUIRED,
            Number(3),
            "Distance from which on all are in the last bucket; more than half of `buckets`.",
        ),
        Key("per_layer", REQUIRED, FLAG, "Whether each layer has its own table (umT5), or all share one (T5)."),
    ),
    example='{"buckets": 32, "max_distance": 128, "per_layer": False}',
)

SCORES = choice("dot", "scaled_dot", "cosine", "bilinear", "additive")
FUSIONS = choice("residual", "gate", "concat")
CROSS_LINGUAL = Entry(
    (
        Key("score", REQUIRED, SCORES, "How the attention between two positions is scored."),
        Key("fuse", REQUIRED, FUSIONS, "How the output of cross-lingual attention joins the target's hidden states."),
    ),
    example='{"score": "scaled_dot", "fuse": "residual"}',
    empty=True,
)

LORA = Entry(
    (
        Key("rank", REQUIRED, whole(1), "Rank r of the products A B beside kernels."),
        Key(
            "alpha", None, Number(ABOVE_ZERO), "Scale: alpha / rank is what A B is multiplied by; by default the rank."
        ),
        Key(
            "products",
            None,
            some("query", "key", "value", "output", "gate", "up", "down"),
            "Products that have them; by default query and value.",
        ),
    ),
    example='{"rank": 8, "alpha": 16}',
    empty=True,
)

INIT = Entry(
    (
        Key("from", REQUIRED, TEXT, "The other run's workdir, or one of its checkpoints."),
        Key("include", (".*",), NAME_OR_NAMES, "Regular expressions over this run's parameter paths: those to take."),
        Key(
            "exclude",
            (),
            NAME_OR_NAMES,
            "Regular expressions over this run's parameter paths: those to leave as they are.",
        ),
        Key(
            "rename",
            (),
            Entries(_is_row, "(regex, replacement)"),
            "(regex, replacement) pairs that turn the other run's paths into this run's.",
        ),
        Key(
            "like",
            {},
            ByName(TEXT, '{"tl": "id"}'),
            "{new language: language of the other run whose weights it begins with}.",
        ),
    ),
    example='{"from": "runs/mine"}',
    empty=True,
)

GROUPS = {  # {group of keys: what it is about}
    "": "The run as a whole.",
    "data": "Where the text comes from, and how it is stored.",
    "vocabulary": "The vocabulary: a given one, or one that is trained on the text.",
    "mixing": "How often each language is read.",
    "model": "The Transformer.",
    "optimizer": "How the weights are updated.",
    "training": "The training step, and what is logged of it.",
    "mesh": "How devices share the work.",
    "checkpoint": "What is saved, and what a new run starts from.",
    "evaluation": "What is measured on held-out text, and how often.",
}

KEYS: tuple[Key, ...] = (
    Key("seed", 0, whole(), "Seed of the initial weights, of the order of the data and of the masks."),
    Key("steps", 10_000, whole(1), "Optimizer steps of the whole run."),
    Key(
        "languages",
        (),
        Fits(_are_language_codes, "language codes such as sw, zh-Hans or deu_Latn"),
        "Language codes in the order of their indices. () takes the order in which `data` names them.",
    ),
    Key(
        "families",
        {},
        ByName(Fits(are_names, 'a tuple of languages: ("de", "en")'), '{"germanic": ("de", "en")}'),
        'Languages of each family, for layer groups whose weights are indexed by "family".',
    ),
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
        "Held-out text of a language or pair, from the same kinds of source. The language or pair need not have training text: "
        "it is then a test set.",
    ),
    Key(
        "data.validation_fraction",
        0.01,
        Number(0, 1),
        "Share of a corpus that is held out if `data.validation` names nothing for it, at least ten texts or "
        "a tenth of fewer than a hundred; 0 for none. A function yields its own held-out text.",
    ),
    Key(
        "data.filters",
        (),
        Entries(
            _is_filter,
            'names of filters, or dictionaries such as {"filter": "length", "least": 20, "only": ("de", "web")}',
        ),
        "Steps that training text goes through in order, each of which drops some of it: filters of docs/data.md, or "
        "`module:function`.",
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
    Key("data.store", "", TEXT, 'Folder of the token store; "" is WORKDIR/store.'),
    Key("data.workers", 1, whole(0), "Processes that tokenise, each its share of the files; 0 uses one for each core."),
    Key(
        "vocabulary.path",
        "",
        TEXT,
        'A SentencePiece .model file or a vocabulary folder, such as WORKDIR/store/vocabulary of a run. "" trains a vocabulary.',
    ),
    Key("vocabulary.kind", "unigram", choice("unigram", "bpe", "bytes"), "Kind of vocabulary to train."),
    Key(
        "vocabulary.size",
        32_000,
        whole(1),
        "Number of pieces at most, special tokens and byte fallback included. Text that has fewer gives fewer.",
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
    Key(
        "mixing.strategy",
        "alpha",
        STRATEGY,
        "alpha: by share**alpha. unimax: uniform, with at most `mixing.unimax_epochs` repetitions. explicit: by `mixing.rates`. "
        "mixture: as the seqio Mixture of `data.mixture` has it.",
    ),
    Key(
        "mixing.alpha", 0.5, Number(0, 1), "Exponent of a language's share of the tokens: 1 is proportional, 0 uniform."
    ),
    Key(
        "mixing.unimax_epochs",
        4.0,
        Number(ABOVE_ZERO),
        "Most repetitions of any language's text during the run, under unimax (Chung et al. 2023).",
    ),
    Key(
        "mixing.rates",
        {},
        ByName(Number(0), '{"en": 1, "de": 2}'),
        "Rate of each language or pair, under explicit. Rates need not sum to one.",
    ),
    Key(
        "curriculum",
        (),
        Each(PHASE),
        "Phases of the run, in order. A phase leaves the keys that it does not name as they are in the rest of the config. () is "
        "a single phase.",
    ),
    Key(
        "tasks",
        {"mlm": {"objective": "mlm", "rows": 64, "length": 512, "weight": 1.0, "mask_rate": 0.3}},
        ByName(TASK, '{"mlm": {"objective": "mlm", "rows": 64, "length": 512}}'),
        "Tasks that are trained together, by name. Besides these keys, each task has the options of its objective.",
    ),
    Key(
        "model.encoder",
        ({"layers": 12, "weights": "shared"},),
        Each(LAYER_GROUP),
        "Layer groups of the encoder, in order.",
    ),
    Key(
        "model.decoder",
        (),
        Each(LAYER_GROUP),
        "Layer groups of the decoder, whose layers attend to the encoder's output; () is a model without a decoder.",
    ),
    Key(
        "model.character_downsampling",
        0,
        whole(0),
        "r > 0 makes a character encoder (CANINE) that turns every r characters into one position; 0 for none.",
    ),
    Key("model.width", 768, whole(1), "Width of the hidden states."),
    Key("model.heads", 12, whole(1), "Number of attention heads."),
    Key(
        "model.kv_heads",
        0,
        whole(0),
        "Number of heads of keys and values (grouped-query attention); 0 is `model.heads`.",
    ),
    Key("model.head_width", 0, whole(0), "Width of one head; 0 is `model.width` / `model.heads`."),
    Key("model.mlp_width", 1152, whole(1), "Inner width of the feed-forward layer."),
    Key(
        "model.activation",
        "geglu",
        choice("geglu", "swiglu", "gelu", "gelu_tanh", "geglu_tanh", "relu"),
        "Activation of the feed-forward layer; geglu, geglu_tanh and swiglu are gated.",
    ),
    Key("model.norm", "layer", choice("layer", "rms"), "Kind of norm: LayerNorm or RMSNorm."),
    Key(
        "model.norm_position",
        "pre",
        choice("pre", "post"),
        "Whether norms come before or after attention and feed-forward layer.",
    ),
    Key("model.norm_epsilon", 1e-5, Number(0), "ε of the norms."),
    Key(
        "model.biases",
        ("head",),
        some("norm", "attention", "mlp", "head"),
        "What has biases; head is the output layer.",
    ),
    Key(
        "model.position",
        "rope",
        choice("rope", "learned", "relative", "none"),
        "How positions are told apart; relative is by T5's buckets.",
    ),
    Key("model.max_positions", 8192, whole(1), "Longest row that is accepted, and rows of the learned position table."),
    Key("model.position_offset", 0, whole(0), "First row of the learned position table in use (XLM-R: 2)."),
    Key(
        "model.relative",
        {"buckets": 32, "max_distance": 128, "per_layer": False},
        RELATIVE,
        "Relative position bias (T5).",
    ),
    Key("model.rope_theta", 160_000.0, Number(ABOVE_ZERO), "RoPE base of layers that attend to everything."),
    Key("model.local_rope_theta", 10_000.0, Number(ABOVE_ZERO), "RoPE base of layers with a window."),
    Key("model.window", 128, whole(0), "Layers with a window attend to window // 2 tokens on either side."),
    Key(
        "model.global_every",
        3,
        whole(1),
        "Layers 0, n, 2n … attend to everything, the others have the window; 1 lets all attend to everything.",
    ),
    Key("model.attention_scale", True, FLAG, "Divide attention scores by √head_width (T5: False)."),
    Key(
        "model.embedding_types", 0, whole(0), "Rows of a token-type table, of which row 0 is added (BERT: 2, XLM-R: 1)."
    ),
    Key(
        "model.norms",
        ("embedding", "final"),
        some("embedding", "first_attention", "final", "output_scale"),
        "Norms outside the layers. embedding: after the embeddings; layer 0 then has no attention norm, unless first_attention is "
        "also named. final: after the last encoder and decoder layer. output_scale: divide the decoder's output by √width before "
        "the output layer (T5).",
    ),
    Key("model.language_embedding", False, FLAG, "Add an embedding of the row's language to every position."),
    Key("model.tied_embeddings", True, FLAG, "The output layer uses the token embeddings as its weights."),
    Key(
        "model.pooling",
        "mean",
        choice("mean", "first"),
        "What a text's embedding is: the mean of its hidden states, or the first token's.",
    ),
    Key(
        "model.head_transform",
        True,
        FLAG,
        "Dense layer, activation and norm before the output layer of masked language modelling.",
    ),
    Key(
        "model.cross_lingual",
        {},
        CROSS_LINGUAL,
        "Cross-lingual attention from a target (a row of text, or the decoder's output) to its source; {} for none.",
    ),
    Key(
        "model.lora",
        {},
        LORA,
        "LoRA in every layer (Hu et al. 2022): with the default `optimizer.freeze_table`, it is all that is trained, beside the "
        "heads of tasks. {} for none.",
    ),
    Key("model.dropout", 0.0, Number(0, BELOW_ONE), "Dropout on embeddings and residual branches, in training."),
    Key("model.initializer_stddev", 0.02, Number(0), "Standard deviation of the initial weights."),
    Key(
        "model.vocabulary_multiple",
        1,
        whole(1),
        "The number of rows of the embedding table is rounded up to a multiple of this, so that devices can share it.",
    ),
    Key(
        "model.dtype",
        "auto",
        choice("auto", "float32", "bfloat16"),
        "Type of the computation; auto is float32 on CPU, else bfloat16. Parameters are float32.",
    ),
    Key(
        "model.attention",
        "auto",
        choice("auto", "reference", "flash", "cudnn", "splash"),
        "Attention kernel; auto chooses by platform.",
    ),
    Key(
        "model.remat",
        "none",
        choice("none", "dots", "full"),
        "What the backward pass recomputes (gradient checkpointing): none, all but products with shared weights, or everything.",
    ),
    Key(
        "model.scan_layers",
        "auto",
        choice("auto", "always", "never"),
        "Whether equal layers are one compiled program that runs in a loop; auto is never on GPUs for groups of up to 48 layers, "
        "else always. Without the loop an H100 took 30 % less time for a step and 32 % less memory, but compiled twice as long.",
    ),
    Key(
        "model.cross_entropy_chunk",
        0,
        whole(0),
        "Predicted positions of each row whose logits are in memory at once. 0 is all of them, or as many as fit if all of them "
        "would take more than a quarter of a device's memory.",
    ),
    Key("optimizer.name", "adamw", TEXT, "Update rule: adamw, stable_adamw, adafactor, lion or muon."),
    Key("optimizer.learning_rate", 5e-4, Number(0), "Highest learning rate of the run."),
    Key(
        "optimizer.schedule",
        "wsd",
        TEXT,
        "Learning rate over the run: wsd (warm-up, stable, 1 − √ decay), cosine, linear, rsqrt or constant.",
    ),
    Key("optimizer.warmup_steps", 0.05, STEPS, "Length of the linear warm-up, in steps or as a share of the run."),
    Key(
        "optimizer.decay_steps",
        0.1,
        STEPS,
        "Length of the decay at the end of the run, under wsd, in steps or as a share of the run.",
    ),
    Key(
        "optimizer.final_fraction",
        0.02,
        Number(0, 1),
        "Share of the highest learning rate at which wsd, cosine and linear end, and at which the warm-up of wsd begins.",
    ),
    Key(
        "optimizer.betas",
        (0.9, 0.98),
        Fits(_are_betas, "two numbers from 0 to below 1"),
        "Decay of the first and of the second moment.",
    ),
    Key("optimizer.epsilon", 1e-6, Number(ABOVE_ZERO), "ε of the update rule."),
    Key("optimizer.clip", 1.0, Number(0), "Global norm that gradients are clipped to; 0 for no clipping."),
    Key("optimizer.weight_decay", 0.01, Number(0), "Decoupled weight decay."),
    Key(
        "optimizer.decay_table",
        ((r"(.*(bias|scale|norm.*)|uncertainty/.*)", False), (r".*", True)),
        Entries(_is_decay, "(regex, True or False)"),
        "Which parameters decay, by regular expressions over paths such as encoder/0/attention/query/kernel. The first that "
        "matches counts, and every parameter must match one.",
    ),
    Key(
        "optimizer.rate_table",
        ((r".*", 1.0),),
        Entries(_is_factor, "(regex, factor from 0)"),
        "Factors on the learning rate, by regular expressions as in `optimizer.decay_table`.",
    ),
    Key(
        "optimizer.layer_decay",
        1.0,
        Number(ABOVE_ZERO, 1),
        "Factor on the learning rate from each layer to the one before it: layer i of n, counted from 0, has "
        "the factor to the power of n − i, embeddings n + 1, heads 0. 0.65 to 0.95 is usual; 1 for none.",
    ),
    Key(
        "optimizer.freeze_table",
        ((r".*", False),),
        Entries(_is_frozen, "(regex, True, False, a number of rows or ranges of rows)"),
        "Which parameters are frozen, by regular expressions as in `optimizer.decay_table`: True, False, or a number n, which "
        "freezes the first n rows only (the old pieces of a grown vocabulary, or the weights of the first languages). Ranges such "
        "as ((0, 4), (9, 8000)) freeze the rows from 0 to 3 and from 9 to 7999.",
    ),
    Key(
        "training.normalize",
        "per_language",
        choice("per_language", "per_language_mean", "token"),
        "per_language: Σ_l 1/N_l Σ_i over the N_l predictions of each language l. per_language_mean: that over the number of "
        "languages. token: the mean over all predictions.",
    ),
    Key(
        "training.microbatches",
        1,
        whole(1),
        "A step's rows go through the model in this many parts (gradient accumulation). The loss does not change.",
    ),
    Key("training.z_loss", 0.0, Number(0), "Weight of log²Z, which keeps logits small (PaLM)."),
    Key(
        "training.ema",
        0.0,
        Number(0, BELOW_ONE),
        "Decay of an exponential moving average of the weights, which is then what is measured and used; 0 for none.",
    ),
    Key(
        "training.nonfinite",
        "stop",
        choice("stop", "skip"),
        "What a gradient that is not finite does: stop ends the run by the next log line, skip leaves the step out and counts it.",
    ),
    Key("training.log_every", 10, whole(1), "Steps between two log lines."),
    Key(
        "training.profile",
        (),
        Fits(_are_first_and_last, "(first step, last step), or ()"),
        "Steps (first, last) that are traced into WORKDIR/profile, for TensorBoard or Perfetto.",
    ),
    Key("training.wandb", "", TEXT, 'Weights & Biases project; "" for none.'),
    Key("mesh.data", -1, AXIS, "Devices that split the rows and hold whole weights; -1 is all that remain."),
    Key("mesh.fsdp", 1, AXIS, "Devices that split the rows and the weights."),
    Key("mesh.tensor", 1, AXIS, "Devices that split heads, feed-forward width and vocabulary."),
    Key("mesh.sequence", 1, AXIS, "Devices that split the length of a row."),
    Key("mesh.slices", 1, whole(1), "Slices of a multi-slice TPU job, joined over the data axis."),
    Key("checkpoint.every", 1_000, whole(1), "Steps between two checkpoints."),
    Key("checkpoint.keep_last", 3, whole(1), "Number of latest checkpoints that are kept."),
    Key(
        "checkpoint.keep_every",
        0,
        whole(0),
        "Checkpoints of steps that are multiples of this are kept for good; 0 for none.",
    ),
    Key(
        "checkpoint.init",
        {},
        INIT,
        "Start from another run's weights. Vocabulary and languages may differ (checkpoints/transplant.py); {} is a fresh start.",
    ),
    Key("evaluation.every", 1_000, whole(1), "Steps between two evaluations. The last step is always evaluated."),
    Key("evaluation.rows", 64, whole(1), "Most held-out rows of each stream and task."),
    Key(
        "evaluation.pairs",
        1_000,
        whole(1),
        "Most held-out sentence pairs of each language pair that retrieval is measured on.",
    ),
    Key(
        "evaluation.select",
        "",
        TEXT,
        'Metric that picks the best checkpoint, such as eval/loss/mean; "" picks the last one.',
    ),
    Key(
        "evaluation.patience",
        0,
        whole(0),
        "Evaluations in a row without a better value of `evaluation.select` after which the run ends (early stopping), also at a "
        "high learning rate; 0 for none.",
    ),
)
KEY = {key.name: key for key in KEYS}


def default_config() -> ConfigDict:
    """Return every key with its default; a new object at each call."""
    config = ConfigDict(convert_dict=False)
    for key in KEYS:
        group, _, name = key.name.rpartition(".")
        if group and group not in config:
            config[group] = ConfigDict(convert_dict=False)
        (config[group] if group else config)[name] = copy.deepcopy(key.default)
    return config.lock()
