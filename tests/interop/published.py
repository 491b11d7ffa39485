"""Small folders like those on the Hub: random weights, and tokenizers trained on real text in many scripts."""

import functools
import io
import json

import sentencepiece
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from mlm_jax.config import default_config
from mlm_jax.data import bible
from mlm_jax.data.vocabulary.pieces import Vocabulary
from tests.interop import parity

LANGUAGES = ("en", "de", "es", "fr", "ru", "ar", "fa", "hi", "ko", "vi", "it", "tl")


@functools.cache
def sentences(step):
    """Every ``step``-th verse in twelve languages and five scripts."""
    return [verse for language in LANGUAGES for _, verse in bible._verses(language)[::step]]


@functools.cache
def our_vocabulary(languages, kind="unigram"):
    """A vocabulary of our own, with three sentinels."""
    config = default_config().vocabulary
    config.update(kind=kind, size=2000, sentinels=3)
    return Vocabulary.train(sentences(100), config, languages)


@functools.cache
def sentencepiece_model(kind="unigram", size=900, **options):
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences(200)),
        model_writer=out,
        model_type=kind,
        vocab_size=size,
        character_coverage=0.999,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return out.getvalue()


def xlm_roberta_tokenizer(folder):
    """A SentencePiece file whose ids transformers moves by fairseq's rules; returns the rows that they need."""
    (folder / "sentencepiece.bpe.model").write_bytes(sentencepiece_model())
    config = {
        "tokenizer_class": "XLMRobertaTokenizer",
        "model_max_length": 60,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "cls_token": "<s>",
        "sep_token": "</s>",
        "mask_token": {"content": "<mask>", "lstrip": True, "__type": "AddedToken"},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model()).get_piece_size() + 2


@functools.cache
def gemma_pieces():
    """The tokenizer.json of byte-fallback BPE over whole sentences, without the special pieces around a text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=1200, special_tokens=[*special, "<unused0>", *alphabet], limit_alphabet=300, show_progress=False
    )
    tokenizer.train_from_iterator(sentences(200), trainer)
    described = json.loads(tokenizer.to_str())  # bytes are pieces of the model, and no special tokens
    described["added_tokens"] = [token for token in described["added_tokens"] if token["content"] not in alphabet]
    return json.dumps(described)


def gemma_tokenizer(folder):
    """Byte-fallback BPE over whole sentences in a tokenizer.json, as mmBERT took it from Gemma."""
    tokenizer = Tokenizer.from_str(gemma_pieces())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", pair="<bos> $A <eos> $B:1 <eos>:1", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer.get_vocab_size()


@functools.cache
def bert_pieces():
    from tokenizers import BertWordPieceTokenizer

    tokenizer = BertWordPieceTokenizer(lowercase=False)
    tokenizer.train_from_iterator(sentences(200), vocab_size=1500, limit_alphabet=400, show_progress=False)
    return sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id)


def bert_tokenizer(folder):
    """A vocab.txt of word pieces."""
    pieces = bert_pieces()
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": False})
    )
    return len(pieces)


def t5_tokenizer(folder):
    """A SentencePiece file with padding first, and sentinels that transformers appends backwards."""
    model = sentencepiece_model(size=900, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    (folder / "spiece.model").write_bytes(model)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 20}))
    return sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size() + 20


# The pre-tokenizer of Llama 3, whose tokenizer EuroBERT uses.
LLAMA = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@functools.cache
def eurobert_pieces():
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(LLAMA), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|mask|>", "<|pad|>", "<|reserved_special_token_0|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1200, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(sentences(200), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A <|end_of_text|>",
        pair="<|begin_of_text|> $A <|end_of_text|> $B:1 <|end_of_text|>:1",
        special_tokens=[("<|begin_of_text|>", 0), ("<|end_of_text|>", 1)],
    )
    return tokenizer.to_str()


def eurobert_tokenizer(folder):
    """Byte-level BPE in a tokenizer.json, as EuroBERT took it from Llama 3."""
    (folder / "tokenizer.json").write_text(eurobert_pieces(), encoding="utf-8")
    roles = {"bos": "begin_of_text", "cls": "begin_of_text", "eos": "end_of_text", "sep": "end_of_text"}
    named = {f"{role}_token": f"<|{name}|>" for role, name in {**roles, "mask": "mask", "pad": "pad"}.items()}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **named}))
    return Tokenizer.from_str(eurobert_pieces()).get_vocab_size()


TOKENIZERS = {
    "xlm-roberta": xlm_roberta_tokenizer,
    "modernbert": gemma_tokenizer,
    "bert": bert_tokenizer,
    "t5": t5_tokenizer,
    "eurobert": eurobert_tokenizer,
}
SMALL = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4}


def published(folder, kind, **changes):
    """Write a whole model of this kind into ``folder`` and return transformers' own object."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = TOKENIZERS[{"xmod": "xlm-roberta", "mt5": "t5", "umt5": "t5"}.get(kind, kind)](folder)
    if kind == "xlm-roberta":
        config = transformers.XLMRobertaConfig(
            vocab_size=rows, **{**SMALL, "max_position_embeddings": 66, "type_vocab_size": 1, **changes}
        )
        model = parity.random_model(transformers.XLMRobertaForMaskedLM, config)
    elif kind == "modernbert":
        ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1, "cls_token_id": 2, "sep_token_id": 1}
        config = transformers.ModernBertConfig(
            vocab_size=rows, **{**SMALL, "max_position_embeddings": 64, "local_attention": 8, **ids, **changes}
        )
        model = parity.random_model(transformers.ModernBertForMaskedLM, config)
    elif kind == "bert":
        config = transformers.BertConfig(vocab_size=rows, **{**SMALL, "max_position_embeddings": 64, **changes})
        model = parity.random_model(transformers.BertForMaskedLM, config)
    elif kind == "xmod":
        languages = {"languages": ("de_DE", "en_XX"), "default_language": "de_DE"}
        adapters = {"ln_before_adapter": True, "adapter_reuse_layer_norm": True}
        config = transformers.XmodConfig(
            vocab_size=rows,
            **{**SMALL, "max_position_embeddings": 66, "type_vocab_size": 1, **languages, **adapters, **changes},
        )
        model = parity.random_model(transformers.XmodForMaskedLM, config)
    elif kind == "eurobert":
        ids = {"bos_token_id": 0, "eos_token_id": 1, "mask_token_id": 2, "pad_token_id": 3}
        config = transformers.EuroBertConfig(
            vocab_size=rows, **{**SMALL, "max_position_embeddings": 64, "num_key_value_heads": 2, **ids, **changes}
        )
        model = parity.random_model(transformers.EuroBertForMaskedLM, config)
    else:
        name = {"t5": "T5", "mt5": "MT5", "umt5": "UMT5"}[kind]
        sizes = {"d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
        # Rounded up, as in the published model.
        config = getattr(transformers, f"{name}Config")(vocab_size=-(-rows // 128) * 128, **{**sizes, **changes})
        model = parity.random_model(getattr(transformers, f"{name}ForConditionalGeneration"), config)
    model.save_pretrained(folder)
    torch.manual_seed(0)
    return model
