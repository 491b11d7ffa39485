"""What other frameworks and papers call a config key."""

from __future__ import annotations

import re

# {key here: what it is called elsewhere}; TASK stands for the name of a task.
WORDS: dict[str, tuple[str, ...]] = {
    "tasks.TASK.rows": (
        "batch",
        "batch_size",
        "global_batch_size",
        "train_batch_size",
        "per_device_train_batch_size",
        "micro_batch_size",
    ),
    "tasks.TASK.length": (
        "seq_len",
        "seq_length",
        "sequence_length",
        "max_len",
        "max_length",
        "max_seq_len",
        "max_seq_length",
        "block_size",
        "context_length",
    ),
    "tasks.TASK.mask_rate": ("mask_prob", "mask_ratio", "masking_rate", "mlm_prob", "mlm_probability"),
    "tasks.TASK.smoothing": ("label_smoothing", "label_smoothing_factor"),
    "tasks.TASK.weight": ("loss_weight", "task_weight"),
    "tasks.TASK.queue": ("queue_size", "memory_size"),
    "steps": (
        "epoch",
        "epochs",
        "max_epochs",
        "max_steps",
        "num_epochs",
        "num_steps",
        "num_train_epochs",
        "total_steps",
        "train_steps",
    ),
    "seed": ("random_seed", "rng_seed", "data_seed"),
    "data.corpora": (
        "corpus",
        "data_dir",
        "data_path",
        "dataset",
        "datasets",
        "files",
        "text",
        "train_data",
        "train_file",
    ),
    "data.parallel": ("bitext", "parallel_data"),
    "data.validation": ("dev", "eval_data", "eval_file", "test_data", "validation_data", "validation_file"),
    "data.validation_fraction": ("dev_size", "test_size", "validation_split", "val_split"),
    "data.workers": ("dataloader_num_workers", "num_proc", "num_workers"),
    "vocabulary.size": ("vocab_size", "n_vocab"),
    "vocabulary.path": (
        "spm_model",
        "tokenizer",
        "tokenizer_name",
        "tokenizer_path",
        "vocab",
        "vocab_file",
        "vocab_path",
    ),
    "vocabulary.kind": ("model_type", "tokenizer_type", "vocab_type"),
    "mixing.alpha": ("language_sampling", "sampling_alpha", "sampling_temperature", "smoothing_alpha", "temperature"),
    "mixing.rates": ("language_weights", "mixture_weights", "sampling_weights"),
    "model.encoder": (
        "depth",
        "encoder_layers",
        "n_layer",
        "n_layers",
        "num_encoder_layers",
        "num_hidden_layers",
        "num_layers",
    ),
    "model.decoder": ("decoder_layers", "num_decoder_layers"),
    "model.width": (
        "d_model",
        "dim",
        "emb_dim",
        "embed_dim",
        "embedding_dim",
        "hidden",
        "hidden_dim",
        "hidden_size",
        "n_embd",
    ),
    "model.heads": ("attention_heads", "n_head", "n_heads", "nhead", "num_attention_heads", "num_heads"),
    "model.kv_heads": ("n_kv_heads", "num_key_value_heads", "num_kv_heads"),
    "model.head_width": ("d_head", "d_kv", "head_dim"),
    "model.mlp_width": (
        "d_ff",
        "dim_feedforward",
        "ff_dim",
        "ffn_dim",
        "ffn_hidden_size",
        "intermediate_size",
        "mlp_dim",
    ),
    "model.activation": ("activation_function", "feed_forward_proj", "hidden_act", "hidden_activation"),
    "model.norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon", "norm_eps", "rms_norm_eps"),
    "model.max_positions": ("max_position", "max_position_embeddings", "n_positions"),
    "model.position": ("pos_encoding", "position_embedding_type", "position_embeddings", "positional_encoding"),
    "model.rope_theta": ("global_rope_theta", "rope_base", "rotary_base"),
    "model.window": ("attention_window", "local_attention", "sliding_window"),
    "model.tied_embeddings": ("share_embeddings", "tie_embeddings", "tie_word_embeddings"),
    "model.dropout": ("attention_dropout", "dropout_prob", "dropout_rate", "hidden_dropout", "hidden_dropout_prob"),
    "model.initializer_stddev": ("init_std", "initializer_range"),
    "model.dtype": ("amp", "bf16", "fp16", "mixed_precision", "precision", "torch_dtype"),
    "model.attention": ("attn_implementation", "flash_attention", "use_flash_attention"),
    "model.remat": (
        "activation_checkpointing",
        "gradient_checkpointing",
        "recompute",
        "rematerialization",
        "rematerialisation",
    ),
    "optimizer.name": ("optim", "optimizer_name", "optimizer_type"),
    "optimizer.learning_rate": ("base_lr", "lr", "max_lr", "peak_lr"),
    "optimizer.schedule": ("lr_schedule", "lr_scheduler", "lr_scheduler_type", "scheduler"),
    "optimizer.warmup_steps": ("lr_warmup_steps", "num_warmup_steps", "warmup", "warmup_fraction", "warmup_ratio"),
    "optimizer.decay_steps": ("cooldown", "cooldown_steps", "decay_ratio", "num_decay_steps"),
    "optimizer.final_fraction": ("final_lr", "min_lr", "min_lr_ratio"),
    "optimizer.betas": ("adam_beta1", "adam_beta2", "b1", "b2", "beta1", "beta2", "momentum"),
    "optimizer.epsilon": ("adam_eps", "adam_epsilon", "eps"),
    "optimizer.clip": (
        "clip_grad",
        "clip_norm",
        "grad_clip",
        "gradient_clip_val",
        "gradient_clipping",
        "max_grad_norm",
    ),
    "optimizer.weight_decay": ("l2", "wd"),
    "optimizer.freeze_table": ("freeze", "frozen", "freeze_layers", "trainable"),
    "training.microbatches": (
        "accumulate_grad_batches",
        "accumulation_steps",
        "grad_accum",
        "grad_accumulation",
        "gradient_accumulation",
        "gradient_accumulation_steps",
    ),
    "training.ema": ("ema_decay", "weight_averaging"),
    "training.log_every": ("log_every_n_steps", "log_interval", "log_steps", "logging_steps"),
    "training.profile": ("profiler", "trace"),
    "training.wandb": ("project", "report_to", "wandb_project"),
    "mesh.data": ("data_parallel", "devices", "dp", "gpus", "n_gpu", "num_devices", "num_gpus"),
    "mesh.fsdp": ("zero", "zero_stage"),
    "mesh.tensor": ("model_parallel", "tensor_parallel", "tp"),
    "mesh.sequence": ("context_parallel", "cp", "sequence_parallel", "sp"),
    "checkpoint.every": ("checkpoint_every", "save_every", "save_interval", "save_steps"),
    "checkpoint.keep_last": ("max_to_keep", "save_total_limit"),
    "checkpoint.init": (
        "finetune_from",
        "init_checkpoint",
        "init_from",
        "load_from",
        "model_name_or_path",
        "pretrained",
    ),
    "evaluation.every": ("eval_every", "eval_interval", "eval_steps"),
    "evaluation.rows": ("eval_batch_size", "per_device_eval_batch_size"),
    "evaluation.examples": ("max_eval_samples",),
    "evaluation.patience": ("early_stopping", "early_stopping_patience"),
    "evaluation.select": ("best_metric", "load_best_model_at_end", "metric_for_best_model"),
}
COMMANDS = {  # {what to do instead of setting a key: what elsewhere is one}
    "a run's folder is --workdir": (
        "checkpoint_dir",
        "experiment_name",
        "log_dir",
        "logging_dir",
        "output_dir",
        "run_name",
        "save_dir",
        "workdir",
    ),
    "the same command continues a run": ("auto_resume", "overwrite_output_dir", "resume", "resume_from_checkpoint"),
    "train and eval are verbs": ("do_eval", "do_predict", "do_train"),
    "mlm-jax export-hf --push-to-hub uploads a model": ("hub_model_id", "push_to_hub"),
    "mlm-jax translate has --beams": ("beam_size", "num_beams"),
}
NOTES = {  # {key: what differs from what the other names mean}
    "steps": "a run is measured in steps, not in epochs",
    "mixing.alpha": "alpha is 1 / temperature",
    "model.encoder": 'the number of layers of each group: ({"layers": 12},)',
    "model.decoder": 'the number of layers of each group: ({"layers": 6},)',
    "tasks.TASK.rows": "rows a step over all devices",
}


def plain(word: str) -> str:
    """Return a word without what names are spelled differently by: capitals, hyphens and underscores."""
    return re.sub(r"[-_\s]", "", word).lower()


_COMMAND_FOR = {plain(word): command for command, words in COMMANDS.items() for word in words}
_KEY_OF = {plain(word): key for key, words in WORDS.items() for word in words}


def called_here(word: str) -> str:
    """Return the key that another framework calls by this word, or an empty string."""
    return _KEY_OF.get(plain(word), "")


def here(word: str, task: str = "TASK") -> str:
    """Return ``"; here it is called 'x'"`` for what another framework calls a key, or what to do instead, or an empty string.

    Args:
      word: what the key is called elsewhere.
      task: name of the task, if one is meant.
    """
    if command := _COMMAND_FOR.get(plain(word)):
        return f"; it is not a key here: {command}"
    key = called_here(word)
    note = f" ({NOTES[key]})" if key in NOTES else ""
    return f"; here it is called {key.replace('TASK', task)!r}{note}" if key else ""
