"""Two small models in the Hub's format, trained for minutes: an XLM-RoBERTa, and a ModernBERT with Gemma's kind of BPE.

``benchmarks/adapt.py`` adapts them. Tokenizer and model are trained on the Bible in the languages ``KNOWN`` only.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mlm_jax.data import bible

KNOWN = ("en", "de", "es", "ru")  # languages of the published models
PIECES = 8000
LENGTH = 256  # tokens that the models take


def verses(language: str, held_out: bool = False, without: frozenset[int] = frozenset()) -> Iterator[str]:
    """Yield the verses of the books that are held out, or of the others."""
    for (book, _, _), verse in bible._verses(language):
        if (book in bible.HELD_OUT) == held_out and book not in without:
            yield verse


def make(folder: Path, family: str) -> None:
    """Write an untrained model of a family, and a tokenizer that is trained on ``KNOWN``.

    Args:
      folder: to make.
      family: xlm-roberta | modernbert.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    folder.mkdir(parents=True)
    text = [verse for language in KNOWN for verse in verses(language)][::3]
    sizes = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
    if family == "xlm-roberta":
        rows = _xlm_roberta_tokenizer(folder, text)
        config: Any = transformers.XLMRobertaConfig(
            vocab_size=rows, intermediate_size=256, max_position_embeddings=LENGTH + 2, type_vocab_size=1, **sizes
        )
        model: Any = transformers.XLMRobertaForMaskedLM(config)
    else:
        rows = _gemma_tokenizer(folder, text)
        config = transformers.ModernBertConfig(
            vocab_size=-(-rows // 64) * 64,  # rounded up, as mmBERT's
            intermediate_size=192,
            max_position_embeddings=LENGTH,
            local_attention=128,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=1,
            cls_token_id=2,
            sep_token_id=1,
            **sizes,
        )
        model = transformers.ModernBertForMaskedLM(config)
    model.save_pretrained(folder)


def _xlm_roberta_tokenizer(folder: Path, text: Sequence[str]) -> int:
    """Write a SentencePiece unigram model, whose ids transformers shifts by fairseq's rules; return the number of rows needed."""
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_writer=out,
        vocab_size=PIECES - 2,
        character_coverage=0.9995,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "sentencepiece.bpe.model").write_bytes(out.getvalue())
    mask = {"content": "<mask>", "lstrip": True, "__type": "AddedToken"}
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    settings = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": LENGTH, **special}
    settings |= {"cls_token": "<s>", "sep_token": "</s>", "mask_token": mask}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return PIECES


def _gemma_tokenizer(folder: Path, text: Sequence[str]) -> int:
    """Write a tokenizer.json with BPE and byte fallback over text whose spaces are ▁, as Gemma's; return its number of pieces."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁?[^▁]+"), "isolated")  # no piece reaches over a space
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<unused{number}>" for number in range(99))]
    alphabet = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES, special_tokens=[*special, *alphabet], limit_alphabet=300, show_progress=False
    )
    tokenizer.train_from_iterator(text, trainer)
    # As Gemma has it: there are no spaces left.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", pair="<bos> $A <eos> $B:1 <eos>:1", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    described = json.loads(tokenizer.to_str())  # bytes are pieces of the model, and no special ones
    described["added_tokens"] = [token for token in described["added_tokens"] if token["content"] not in alphabet]
    (folder / "tokenizer.json").write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")
    named = {
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": LENGTH, **named})
    )
    return tokenizer.get_vocab_size()
