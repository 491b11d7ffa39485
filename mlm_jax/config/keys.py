"""Every key that a run can set, with its default: the one place to look up what a config may say.

A config file defines ``get_config()`` and changes what it wants to::

    from mlm_jax.config import default_config

    def get_config():
        config = default_config()
        config.data.corpora = {"en": "text/en/*.txt", "de": "text/de/*.txt"}
        return config

A key that is not in here is an error that names the nearest one (``load_config``).
"""

from __future__ import annotations

from ml_collections import ConfigDict


def default_config() -> ConfigDict:
    """Return every key with its default; a new object at each call."""
    config = ConfigDict(convert_dict=False)
    config.seed = 0  # of the initial weights, the data's order and the masks
    config.steps = 10_000  # optimizer steps of the whole run
    config.languages = ()  # language codes in index order; () is the order in which the data names them
    config.families = {}  # {family: (language, ...)}: for layer groups whose weights are indexed by "family"

    config.data = data = ConfigDict(convert_dict=False)
    data.corpora = {}  # text, {language: glob, (glob, ...) or "module:function"}: .txt .jsonl, plain, .gz or .zst; .parquet
    data.parallel = {}  # parallel text, {"de-en": tsv or tmx glob, (file of one side, file of the other), or "module:function"}
    data.labelled = {}  # {name: {"format": ..., "language": ..., "train": glob, "validation": glob, "labels": (...)}}
    # Held-out text, {language or pair: what corpora and parallel take}, also of one without training text (a test set).
    data.validation = {}
    data.validation_fraction = 0.01  # share held out of a corpus for which validation names nothing; a function yields its own
    data.mixture = ""  # a registered seqio Mixture to use instead of corpora and parallel
    data.mixture_languages = {}  # {seqio task of that mixture: language or "de-en" pair}
    data.modules = ()  # Python modules to import first: they register seqio tasks or define corpus functions
    data.prefix = "language"  # first token of every document: language | bos | none
    data.max_document_tokens = 8192  # longer documents become several; longer sides of pairs and labelled texts are cut
    data.store = ""  # folder of the token store; "" is WORKDIR/store
    data.workers = 1  # processes that prepare tokenises with, each its share of the files; 0 is one a core

    config.vocabulary = vocabulary = ConfigDict(convert_dict=False)
    vocabulary.path = ""  # a SentencePiece .model or a vocabulary folder, as of a run: WORKDIR/store/vocabulary; "" trains one
    vocabulary.kind = "unigram"  # unigram | bpe | bytes
    vocabulary.size = 32_000  # pieces in all, special tokens and byte fallback included
    vocabulary.alpha = 0.5  # languages are sampled by share**alpha to train the vocabulary
    vocabulary.sentences = 1_000_000  # sampled for the vocabulary, all languages together
    vocabulary.character_coverage = 0.9998  # share of characters that get pieces; the rest falls back to bytes
    vocabulary.sentinels = 100  # <extra_id_0> …: for span corruption

    config.mixing = mixing = ConfigDict(convert_dict=False)
    # alpha: share**alpha | unimax: uniform with at most unimax_epochs | explicit: rates | mixture: as data.mixture says
    mixing.strategy = "alpha"
    mixing.alpha = 0.5  # exponent of a language's share of tokens; 1 is proportional, 0 uniform
    mixing.unimax_epochs = 4.0  # most repetitions of any language's text in the run under unimax (Chung et al. 2023)
    mixing.rates = {}  # {language: rate} under explicit; need not sum to one

    # Phases of the run, in order: {"steps": n, and any of "languages", "strategy", "alpha", "rates", "unimax_epochs",
    # "mask_rate", "length", "rope_theta"}; what a phase does not say is as in the rest of the config. () is one phase.
    config.curriculum = ()

    # {name: {"objective": mlm | tlm | ranking | cross_attention_mlm | translation | denoising | classification |
    # token_classification, "rows": rows per step over all devices, "length": tokens a row, "weight": number,
    # "step:value,…" (piecewise linear) or "uncertainty" (learned, Kendall et al. 2018), "data": streams it reads (() is all
    # that fit), "same_language_rows": length of the runs of consecutive rows that share one language and direction (1): their
    # language-specific weights are gathered once a run,
    # "evaluate_on": labelled sets that it is evaluated on besides its own, and the objective's own options}}
    config.tasks = {"mlm": {"objective": "mlm", "rows": 64, "length": 512, "weight": 1.0, "mask_rate": 0.3}}

    config.model = model = ConfigDict(convert_dict=False)
    # Layer groups: {"layers": n, "weights": shared | source_language | target_language | family | task,
    # "adapter": width of a bottleneck adapter a layer (0: none), "adapter_weights": whose index picks the adapter,
    # "adapter_norm": "own" (an adapter begins as the identity) or "reused" (X-MOD: the layer's, before and after it)}
    model.encoder = ({"layers": 12, "weights": "shared"},)
    model.decoder = ()  # layer groups with attention to the encoder's output; () is an encoder-only model
    model.character_downsampling = 0  # r > 0: CANINE-style character encoder, every r characters become one position
    model.width = 768  # of the residual stream
    model.heads = 12  # attention heads
    model.kv_heads = 0  # heads of keys and values (grouped-query attention); 0 is as many as heads
    model.head_width = 0  # of one head; 0 is width / heads
    model.mlp_width = 1152  # inner width of the feed-forward layer
    model.activation = "geglu"  # geglu | swiglu | gelu | gelu_tanh | geglu_tanh | relu
    model.norm = "layer"  # layer | rms
    model.norm_position = "pre"  # pre | post
    model.norm_epsilon = 1e-5
    model.biases = ("head",)  # what has biases: any of norm, attention, mlp, head (the output layer)
    model.position = "rope"  # rope | learned | relative (T5's buckets) | none
    model.max_positions = 8192  # rows of the learned position table, and the longest row that is accepted
    model.position_offset = 0  # first row of the learned position table in use (XLM-R: 2)
    model.relative = {"buckets": 32, "max_distance": 128, "per_layer": False}  # T5's relative position bias (umT5: per_layer)
    model.rope_theta = 160_000.0  # RoPE base of layers that see everything
    model.local_rope_theta = 10_000.0  # RoPE base of layers with a window
    model.window = 128  # local layers see window // 2 tokens to either side
    model.global_every = 3  # layers 0, n, 2n … see everything, the rest the window; 1: all see everything
    model.attention_scale = True  # divide scores by √head_width (T5: False)
    model.embedding_types = 0  # rows of a token-type table of which row 0 is added (BERT: 2, XLM-R: 1)
    # Norms besides each layer's: "embedding", and then "first_attention" where layer 0's attention is to have its own as well;
    # "final", at the end of encoder and decoder; "output_scale": the decoder's output layer reads it divided by √width (T5).
    model.norms = ("embedding", "final")
    model.language_embedding = False  # add an embedding of the row's language to every position
    model.tied_embeddings = True  # the output layer reuses the token embeddings
    model.head_transform = True  # dense + activation + norm before the output layer of masked language modelling
    # The attention layer between a target, a row or what a decoder writes, and its source: {"score": dot | scaled_dot |
    # cosine | bilinear | additive, "fuse": residual | gate | concat}; {} is none.
    model.cross_lingual = {}
    model.dropout = 0.0  # on embeddings and residual branches, in training
    model.initializer_stddev = 0.02
    model.vocabulary_multiple = 1  # the embedding table's rows are rounded up to a multiple of this, to shard evenly
    model.dtype = "auto"  # of the computation: float32 | bfloat16 | auto (float32 on CPU); parameters are float32
    model.attention = "auto"  # auto (by platform) | reference | cudnn | splash
    model.remat = "none"  # what the backward pass recomputes: none | dots (all but products with shared weights) | full
    # Whether equal layers are one compiled program that runs in a loop: always | never | auto (never on GPUs for groups of up to
    # 48 layers, else always). Without the loop an H100 took 30 % less time for a step and 32 % less memory, but compiled twice
    # as long (22 layers: 43 s instead of 20); what a layer keeps for the backward pass is then not copied into one array.
    model.scan_layers = "auto"
    model.cross_entropy_chunk = 0  # predicted positions of each row whose logits exist at once; 0 is all

    config.optimizer = optimizer = ConfigDict(convert_dict=False)
    optimizer.name = "adamw"  # adamw | stable_adamw | adafactor | lion | muon
    optimizer.learning_rate = 5e-4  # at its highest
    optimizer.schedule = "wsd"  # wsd (warm-up, stable, 1-sqrt decay) | cosine | linear | rsqrt | constant
    optimizer.warmup_steps = 500
    optimizer.decay_steps = 1_000  # wsd only: length of the decay at the end
    optimizer.final_fraction = 0.02  # of the highest learning rate: where wsd, cosine and linear end, and wsd's warm-up begins
    optimizer.betas = (0.9, 0.98)  # decay of the first and the second moment
    optimizer.epsilon = 1e-6
    optimizer.clip = 1.0  # global norm that gradients are clipped to; 0 is off
    optimizer.weight_decay = 0.01
    # Regex tables over parameter paths such as "encoder/0/attention/query/kernel": the first match wins, and every
    # parameter must match. Values: whether it decays, a factor on the learning rate, whether it is frozen (a number: the
    # vocabulary's first pieces or the first languages' own weights are, as when others were added behind them).
    optimizer.decay_table = ((r"(.*(bias|scale|norm.*)|uncertainty/.*)", False), (r".*", True))
    optimizer.rate_table = ((r".*", 1.0),)
    optimizer.freeze_table = ((r".*", False),)

    config.training = training = ConfigDict(convert_dict=False)
    training.normalize = "per_language"  # per_language: Σ_l 1/N_l Σ_i | per_language_mean: that over the languages | token
    training.microbatches = 1  # a step's rows go through the model in this many parts; the loss does not change
    training.z_loss = 0.0  # weight of log²Z, which keeps logits small (PaLM)
    training.ema = 0.0  # decay of an exponential moving average of the weights, which is what is measured and used; 0 is off
    training.nonfinite = "stop"  # a gradient that is not finite: stop (by the next log line) | skip (counted)
    training.log_every = 10  # steps
    training.profile = ()  # steps (first, last) to trace into WORKDIR/profile
    training.wandb = ""  # Weights & Biases project; "" is off

    config.mesh = mesh = ConfigDict(convert_dict=False)
    mesh.data = -1  # devices that split the rows and hold whole weights; -1 is all that remain
    mesh.fsdp = 1  # devices that split the rows and the weights
    mesh.tensor = 1  # devices that split heads, feed-forward width and vocabulary
    mesh.sequence = 1  # devices that split the length of a row
    mesh.slices = 1  # slices of a multi-slice TPU job, joined over the data axis

    config.checkpoint = checkpoint = ConfigDict(convert_dict=False)
    checkpoint.every = 1_000  # steps
    checkpoint.keep_last = 3
    checkpoint.keep_every = 0  # steps whose multiples are kept for good; 0 is none
    # Start from other weights: {"from": workdir or checkpoint, "include": (regex, …), "exclude": (regex, …),
    # "rename": ((regex, replacement), …)}, matched against parameter paths, and "like": {new language: old language}
    # whose weights it begins with; vocabulary and languages may differ (training/transplant.py). {} is a fresh start.
    checkpoint.init = {}

    config.evaluation = evaluation = ConfigDict(convert_dict=False)
    evaluation.every = 1_000  # steps; the last step is always evaluated
    evaluation.rows = 64  # held-out rows of each stream and task, at most
    evaluation.pairs = 1_000  # held-out sentence pairs of each language pair that retrieval is measured on, at most
    evaluation.select = ""  # metric that picks the best checkpoint, such as "eval/loss/mean"; "" is the last
    return config.lock()
