"""Keys ``model.…``: the Transformer."""

from __future__ import annotations

from mlm_jax.config.values import ABOVE_ZERO, BELOW_ONE, FLAG, REQUIRED, Each, Entry, Key, Number, choice, some, whole

ABOUT = "The Transformer."

INDEX = choice("shared", "source_language", "target_language", "family", "task")

SCORES = choice("dot", "scaled_dot", "cosine", "bilinear", "additive")

FUSIONS = choice("residual", "gate", "concat")

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

KEYS: tuple[Key, ...] = (
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
        "How positions enter the model; relative is T5's bias by buckets of distances.",
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
    Key("model.embedding_types", 0, whole(0), "Rows of a token-type table (BERT: 2, XLM-R: 1). Text is of type 0."),
    Key(
        "model.type_boundary",
        -1,
        whole(-1),
        "Token id after which the tokens of a document, so the second text of a pair, are of type 1 (BERT: [SEP]); -1: "
        "all tokens are of type 0.",
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
        "What the backward pass recomputes (gradient checkpointing): nothing, all but products with shared weights, or everything.",
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
)
