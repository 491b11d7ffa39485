"""Transformers' models for comparisons of speed: random weights, no dropout."""

from __future__ import annotations

from typing import Any


def masked_model(
    xlmr: bool, *, vocabulary: int, width: int, layers: int, heads: int, mlp: int, length: int, **options: Any
) -> Any:
    """Return XLM-R, or ModernBERT as mmBERT has it, with a head for masked language modelling.

    Args:
      xlmr: whether it is XLM-R.
      vocabulary: rows of the embedding table.
      width: width of the hidden states.
      layers: number of layers.
      heads: number of attention heads.
      mlp: inner width of the feed-forward layers.
      length: tokens of the longest row.
      **options: of transformers' config, such as ``attn_implementation``.
    """
    import transformers

    sizes = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": mlp,
        **options,
    }
    if xlmr:
        return transformers.XLMRobertaForMaskedLM(
            transformers.XLMRobertaConfig(
                **sizes,
                max_position_embeddings=length + 2,
                type_vocab_size=1,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            )
        )
    return transformers.ModernBertForMaskedLM(
        transformers.ModernBertConfig(
            **sizes,
            max_position_embeddings=length,
            sparse_prediction=True,
            local_attention=128,
            global_attn_every_n_layers=3,
            pad_token_id=0,
            bos_token_id=3,
            eos_token_id=1,
            cls_token_id=3,
            sep_token_id=1,
        )
    )
