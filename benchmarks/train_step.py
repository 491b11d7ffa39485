"""Tokens per second of one training step: ours against Hugging Face ModernBERT and XLM-R in torch, side by side.

    python benchmarks/train_step.py                     # CPU, float32, 11.6 M parameters
    python benchmarks/train_step.py --rounds 5 --json out.json

The same shapes, the same masked share, AdamW on both sides, float32. Steps alternate between the contestants, so that a
change of the machine's speed meets all of them; medians are printed. Needs the extra [hf].
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np

ROWS, LENGTH, VOCABULARY, MASK_RATE = 32, 128, 8192, 0.3
WIDTH, LAYERS, HEADS, MLP = 384, 6, 6, 576


def our_step(window: int, xlmr: bool) -> Callable[[], None]:
    """Return a function that does one step of ours: masking, forward, backward, clip and AdamW in one jit."""
    import jax

    from mlm_jax.batch import Rows
    from mlm_jax.config import default_config
    from mlm_jax.parallel.batches import to_devices
    from mlm_jax.parallel.mesh import make_mesh
    from mlm_jax.training.context import planned_context
    from mlm_jax.training.step import build_program, make_train_step

    config = default_config()
    config.vocabulary.size = VOCABULARY
    config.model.update(width=WIDTH, heads=HEADS, mlp_width=MLP, window=window, encoder=({"layers": LAYERS, "weights": "shared"},))
    if xlmr:
        config.model.update(
            position="learned", norm_position="post", norms=("embedding",), activation="gelu", mlp_width=4 * WIDTH,
            biases=("norm", "attention", "mlp", "head"), global_every=1, max_positions=LENGTH + 2, position_offset=2,
            embedding_types=1,
        )  # fmt: skip
    config.tasks = {"mlm": {"objective": "mlm", "rows": ROWS, "length": LENGTH, "mask_rate": MASK_RATE}}
    config.optimizer.schedule, config.optimizer.warmup_steps = "constant", 0
    mesh = make_mesh(config.mesh)
    program = build_program(config, planned_context(("en",), config), ("en",), mesh)
    step, state = make_train_step(program), program.initialise()
    rng = np.random.default_rng(0)
    tokens = rng.integers(120, VOCABULARY, (ROWS, LENGTH)).astype(np.int32)
    positions = np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1))
    batch = {"mlm": {"inputs": Rows(tokens, np.ones_like(tokens), positions, np.zeros(ROWS, np.int32))}}
    holder = [state]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))

    def run() -> None:
        holder[0] = step(holder[0], to_devices(batch, mesh))
        jax.block_until_ready(holder[0].step)

    run.parameters = parameters  # type: ignore[attr-defined]
    return run


def torch_step(xlmr: bool) -> Callable[[], None]:
    """Return a function that does one step of transformers' model with torch's fused AdamW and gradient clipping."""
    import torch
    from transformers import ModernBertConfig, ModernBertForMaskedLM, XLMRobertaConfig, XLMRobertaForMaskedLM

    if xlmr:
        model = XLMRobertaForMaskedLM(XLMRobertaConfig(
            vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
            intermediate_size=4 * WIDTH, max_position_embeddings=LENGTH + 2, type_vocab_size=1,
            hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        ))  # fmt: skip
    else:
        model = ModernBertForMaskedLM(ModernBertConfig(
            vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
            intermediate_size=MLP, max_position_embeddings=LENGTH, sparse_prediction=True, local_attention=128,
            pad_token_id=0, bos_token_id=3, eos_token_id=1, cls_token_id=3, sep_token_id=1,
        ))  # fmt: skip
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, fused=True)
    rng = np.random.default_rng(0)
    tokens = torch.tensor(rng.integers(120, VOCABULARY, (ROWS, LENGTH)))

    def run() -> None:
        labels = torch.full_like(tokens, -100)
        chosen = torch.rand(tokens.shape) < MASK_RATE
        labels[chosen] = tokens[chosen]
        inputs = torch.where(chosen & (torch.rand(tokens.shape) < 0.8), 4, tokens)
        loss = model(input_ids=inputs, attention_mask=torch.ones_like(tokens), labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    run.parameters = sum(p.numel() for p in model.parameters())  # type: ignore[attr-defined]
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", help="also write the result here")
    options = parser.parse_args()
    contestants = {
        "mlm_jax, ModernBERT shape": our_step(window=128, xlmr=False),
        "transformers ModernBERT, sparse prediction": torch_step(xlmr=False),
        "mlm_jax, XLM-R shape": our_step(window=0, xlmr=True),
        "transformers XLM-R": torch_step(xlmr=True),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for run in contestants.values():  # compile and warm up
        run()
        run()
    for _ in range(options.rounds):
        for name, run in contestants.items():
            begun = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begun)
    speed = {name: ROWS * LENGTH / statistics.median(taken) for name, taken in seconds.items()}
    for name, run in contestants.items():
        print(f"{name:45s} {run.parameters / 1e6:6.1f} M parameters {speed[name]:8.0f} tokens/s")
    names = list(contestants)
    ratios = {}
    for ours, theirs in (names[:2], names[2:]):
        pairs = [b / a for a, b in zip(seconds[ours], seconds[theirs])]
        ratios[theirs] = statistics.median(pairs)
        print(f"{ratios[theirs]:.2f}x {theirs} (median of {options.rounds} pairs, {min(pairs):.2f}–{max(pairs):.2f})")
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"tokens_per_second": speed, "ratios": ratios}, file, indent=1)


if __name__ == "__main__":
    main()
