"""The shapes and the training steps that ``benchmarks/gpu_step.py`` measures: ours and torch's, compiled and ready to be timed."""

from __future__ import annotations

import collections
import functools
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

MODERNBERT = {
    "family": "modernbert",
    "layers": 22,
    "mlp": 1152,
    "vocabulary": 256_000,
    "length": 1024,
    "mask_rate": 0.3,
}
MT5 = {
    "family": "mt5",
    "layers": 8,
    "width": 512,
    "heads": 6,
    "mlp": 1024,
    "vocabulary": 250_112,
    "length": 568,  # span corruption turns such a row into 512 encoder tokens and 114 decoder tokens
    "rows": (32, 64),
}
LANGUAGES = ("en", "de", "fr", "ru", "hi")
SHAPES = {
    "mmbert-base": MODERNBERT | {"width": 768, "heads": 12, "rows": (16, 48)},
    "mmbert-small": MODERNBERT | {"width": 384, "heads": 6, "rows": (32, 96)},
    "xlmr-base": {
        "family": "xlmr",
        "layers": 12,
        "width": 768,
        "heads": 12,
        "mlp": 3072,
        "vocabulary": 250_002,
        "length": 512,
        "mask_rate": 0.15,
        "rows": (32, 96),
    },
    "mt5-small": MT5,
    # configs/sharing.py:decoders in the size of mT5-small: a decoder for each of four target languages.
    "sharing": MT5 | {"length": 128, "decoders": 4, "rows": (128,)},
    "tiny": MODERNBERT
    | {"layers": 2, "width": 64, "heads": 2, "mlp": 96, "vocabulary": 512, "length": 64, "rows": (4, 8)},
    "tiny-sharing": MT5
    | {
        "layers": 2,
        "width": 64,
        "heads": 2,
        "mlp": 96,
        "vocabulary": 512,
        "length": 32,
        "decoders": 4,
        "rows": (8,),
    },
}
WINDOW, GLOBAL_EVERY, HEAD_WIDTH = 128, 3, 64
PROFILED, KERNELS = 3, 25
STAGES = ("embedding", "memory_attention", "attention", "feed_forward", "head", "cross_entropy", "optimizer")


class Side(NamedTuple):
    """A compiled step.

    Attributes:
      run: starts a step.
      wait: returns when the device has done all steps.
      outcome: further results, read after the steps were timed.
    """

    run: Callable[[], object]
    wait: Callable[[], object]
    outcome: Callable[[], dict]


# ---------------------------------------------------------------------------------------------------------------- ours


def our_config(shape: dict, rows: int) -> Any:
    """Return the config of our side."""
    from our_models import xlm_roberta

    from mlm_jax.config import default_config

    config = default_config()
    config.vocabulary.size = shape["vocabulary"]
    config.model.update(
        width=shape["width"],
        heads=shape["heads"],
        mlp_width=shape["mlp"],
        dtype="bfloat16",
        window=WINDOW,
        encoder=({"layers": shape["layers"], "weights": "shared"},),
        max_positions=shape["length"],
        global_every=GLOBAL_EVERY,
    )
    if shape["family"] == "xlmr":
        config.model.update(xlm_roberta(shape["length"]))
    if shape["family"] == "mt5":
        config.model.update(
            decoder=({"layers": shape["layers"], "weights": "shared"},),
            head_width=HEAD_WIDTH,
            position="relative",
            norm="rms",
            norms=("first_attention", "final"),
            activation="geglu_tanh",
            global_every=1,
            biases=(),
            attention_scale=False,
            tied_embeddings=False,
            head_transform=False,
        )
        config.tasks = {"denoising": {"objective": "denoising", "rows": rows, "length": shape["length"]}}
        if "decoders" in shape:
            config.model.decoder = ({"layers": shape["layers"], "weights": "target_language"},)
            runs = {"same_language_rows": rows // shape["decoders"]}
            config.tasks = {"translation": {"objective": "translation", "rows": rows, "length": shape["length"]} | runs}
    else:
        config.tasks = {
            "mlm": {"objective": "mlm", "rows": rows, "length": shape["length"], "mask_rate": shape["mask_rate"]}
        }
    config.optimizer.schedule, config.optimizer.warmup_steps = "constant", 0
    return config


def our_side(shape: dict, rows: int, *, profiled: bool = False) -> Side:
    """Return our step; its outcome has peak memory and FLOPs or, if ``profiled``, the time of each stage and kernel."""
    import time

    import jax
    import numpy as np
    from our_models import random_rows

    from mlm_jax import model as model_room
    from mlm_jax.parallel.batches import to_devices
    from mlm_jax.parallel.mesh import make_mesh
    from mlm_jax.training.context import planned_context
    from mlm_jax.training.flops import step_flops
    from mlm_jax.training.step import build_program, make_train_step

    config, languages = our_config(shape, rows), LANGUAGES[: 1 + shape.get("decoders", 0)]
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    context = planned_context(languages, config)
    program = build_program(config, context, languages, mesh)
    step, state = make_train_step(program), program.initialise()
    task = next(iter(config.tasks))
    made = random_rows(rows, shape["length"], shape["vocabulary"])
    batch = {task: {"inputs": made}}
    if "decoders" in shape:  # runs of rows of one target language
        batch[task]["targets"] = made._replace(language=1 + np.arange(rows, dtype=np.int32) * shape["decoders"] // rows)
    axes = model_room.abstract(config, vocabulary_size=context.vocabulary_size, languages=languages)[2]
    platform = jax.devices()[0].platform
    parts = step_flops(config, context, program.state.params, axes, batch, platform=platform).parts
    if shape["family"] != "mt5":
        parts |= {"attention": attention_flops(shape, rows)}
    placed = to_devices(batch, mesh)
    begun = time.perf_counter()
    compiled = step.lower(state, placed).compile()  # jax.jit uses it for the calls of `step`
    compilation = time.perf_counter() - begun
    holder = [state]

    def run() -> None:
        holder[0] = step(holder[0], placed)

    def wait() -> None:
        jax.block_until_ready(holder[0].step)

    def outcome() -> dict:
        return {
            "compilation": compilation,
            "memory": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0),
            "device": jax.devices()[0].device_kind,
            "flops": sum(parts.values()),
        }

    def kernels() -> dict:
        return {"profile": profile(run, wait, compiled.as_text())}

    return Side(run, wait, kernels if profiled else outcome)


def attention_flops(shape: dict, rows: int) -> float:
    """Return FLOPs of attention in a step, forward and twice backward (a query sees the keys of its window)."""
    length, layers = shape["length"], shape["layers"]
    whole = -(-layers // GLOBAL_EVERY) if shape["family"] == "modernbert" else layers
    keys = whole * length + (layers - whole) * min(WINDOW + 1, length)
    return 3 * 4 * rows * length * keys * shape["width"]


def profile(run: Callable[[], object], wait: Callable[[], object], program: str) -> dict:
    """Trace some steps and return milliseconds a step by stage and by kernel, as the device counted them.

    Args:
      run: starts a step.
      wait: returns when it is done.
      program: optimised HLO, whose metadata has the stage (``jax.named_scope``) of each kernel.
    """
    import jax

    stage_of = {
        name: next((stage for stage in STAGES if f"{stage}/" in path or f"({stage})" in path), "other")
        for name, path in re.findall(r'%?([\w.-]+) = .*?metadata=\{[^}]*?op_name="([^"]*)"', program)
    }
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(PROFILED):
                run()
            wait()
        file = next(Path(folder).rglob("*.xplane.pb"))
        trace = jax.profiler.ProfileData.from_file(str(file))
        kernels: dict[str, float] = collections.defaultdict(float)
        for plane in trace.planes:
            on_gpu = plane.name.startswith("/device:GPU")
            for line in plane.lines:
                if on_gpu and not line.name.startswith("Stream"):
                    continue  # XLA's own lines repeat the events of the streams
                for event in line.events:
                    operation = dict(event.stats).get("hlo_op")
                    if operation or on_gpu:
                        kernels[str(operation or event.name)] += event.duration_ns / 1e6 / PROFILED
    stages: dict[str, float] = collections.defaultdict(float)
    for name, milliseconds in kernels.items():
        stages[stage_of.get(name, "other")] += milliseconds
    longest = sorted(kernels, key=lambda name: -kernels[name])[:KERNELS]
    return {
        "milliseconds": sum(kernels.values()),
        "kernels_a_step": len(kernels),
        "stages": dict(sorted(stages.items(), key=lambda item: -item[1])),
        "longest": [[name, stage_of.get(name, "other"), kernels[name]] for name in longest],
    }


# --------------------------------------------------------------------------------------------------------------- torch


def torch_side(attention: str) -> Callable[[dict, int], Side]:
    """Return the side of transformers with an attention implementation: compiled, fused AdamW, bfloat16 autocast."""

    def side(shape: dict, rows: int) -> Side:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = torch_model(shape, attention).to(device).train()
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=5e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, fused=True
        )
        compiled = torch.compile(model) if device == "cuda" else model
        how = {"compiled": device == "cuda"}
        tokens = torch.randint(120, shape["vocabulary"], (rows, shape["length"]), device=device)

        def masked() -> dict:
            # The same number in each row, as on our side, so that shapes stay the same.
            hidden = int(shape["length"] * shape["mask_rate"])
            chosen = torch.zeros(tokens.shape, dtype=torch.bool, device=device)
            chosen.scatter_(1, torch.rand(tokens.shape, device=device).topk(hidden, dim=1).indices, True)
            inputs = torch.where(chosen & (torch.rand(tokens.shape, device=device) < 0.8), 4, tokens)
            return {"input_ids": inputs, "labels": torch.where(chosen, tokens, -100)}

        def corrupted() -> dict:  # the same numbers of encoder and decoder tokens as on our side
            from mlm_jax.objectives.denoising import Denoising

            _, _, encoder, decoder = Denoising("denoising").lengths(shape["length"])
            return {"input_ids": tokens[:, :encoder], "labels": tokens[:, :decoder]}

        def pairs() -> dict:
            return {"input_ids": tokens, "labels": tokens}

        inputs = pairs if "decoders" in shape else corrupted if shape["family"] == "mt5" else masked

        def backward(model: Any) -> None:
            with torch.autocast(device, torch.bfloat16):
                loss = model(**inputs()).loss
            loss.backward()

        try:
            backward(compiled)
        except (
            Exception
        ) as error:  # of the compiler, whatever its type; what memory cannot hold will not fit without it
            if device != "cuda" or isinstance(error, torch.OutOfMemoryError):
                raise
            compiled, how = model, {"compiled": False, "compiler": str(error).strip()[:300]}

        def run() -> None:
            backward(compiled)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        def wait() -> None:
            if device == "cuda":
                torch.cuda.synchronize()

        return Side(run, wait, lambda: how | {"memory": torch.cuda.max_memory_allocated() if device == "cuda" else 0})

    return side


def torch_model(shape: dict, attention: str) -> Any:
    """Return transformers' model of a shape, with random weights and without dropout, as ours."""
    import transformers
    from torch_models import masked_model

    if shape["family"] == "mt5":
        model = transformers.MT5ForConditionalGeneration(
            transformers.MT5Config(
                vocab_size=shape["vocabulary"],
                d_model=shape["width"],
                d_kv=HEAD_WIDTH,
                d_ff=shape["mlp"],
                num_layers=shape["layers"],
                num_heads=shape["heads"],
                dropout_rate=0.0,
            )
        )
        return several_decoders(model, shape["decoders"]) if "decoders" in shape else model
    return masked_model(
        shape["family"] == "xlmr",
        **{name: shape[name] for name in ("vocabulary", "width", "layers", "heads", "mlp", "length")},
        attn_implementation=attention,
    )


def several_decoders(model: Any, count: int) -> Any:
    """Return an mT5 whose rows are runs of ``count`` target languages, each with a decoder of its own."""
    import copy
    import types

    import torch

    class Decoders(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.whole = model  # with the first decoder
            self.more = torch.nn.ModuleList(copy.deepcopy(model.decoder) for _ in range(count - 1))
            for decoder in self.more:
                decoder.embed_tokens = model.shared

        def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> Any:
            memory = self.whole.encoder(input_ids=input_ids).last_hidden_state
            begun = torch.nn.functional.pad(labels[:, :-1], (1, 0))  # shifted right
            written = [
                decoder(input_ids=rows, encoder_hidden_states=seen, use_cache=False).last_hidden_state
                for decoder, rows, seen in zip(
                    (self.whole.decoder, *self.more), begun.chunk(count), memory.chunk(count), strict=True
                )
            ]
            logits = self.whole.lm_head(torch.cat(written))
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
            return types.SimpleNamespace(loss=loss)

    return Decoders()


# ------------------------------------------------------------------------------------------------------------- ceiling


def ceiling_side(shape: dict, rows: int) -> Side:
    """Return large bfloat16 products; its outcome has the speed of a copy and how exact attention in bfloat16 is too."""
    import statistics
    import time

    import jax
    import jax.numpy as jnp

    size, times, floats = (8192, 20, 2**28) if jax.default_backend() == "gpu" else (512, 2, 2**20)
    a = jax.random.normal(jax.random.key(0), (size, size), jnp.bfloat16)
    product = jax.jit(lambda a: jax.lax.fori_loop(0, times, lambda _, x: x @ a * 0.01, a))
    large = jnp.ones((floats,), jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    errors = attention_errors()
    holder = [a]

    def run() -> None:
        holder[0] = product(a)

    def copied() -> float:
        begun = time.perf_counter()
        copy(large).block_until_ready()
        return time.perf_counter() - begun

    def outcome() -> dict:
        copied()
        return {
            "flops": times * 2 * size**3,
            "bytes_per_second": 2 * large.nbytes / statistics.median(copied() for _ in range(8)),
            "gradient_errors": errors,
            "device": jax.devices()[0].device_kind,
        }

    return Side(run, lambda: jax.block_until_ready(holder[0]), outcome)


def attention_errors() -> dict[str, float]:
    """Return |g − g₃₂| / |g₃₂| of the gradients of attention in bfloat16, by this platform's kernel and by the reference."""
    import jax
    import jax.numpy as jnp

    from mlm_jax.model.attention import attention

    keys = jax.random.split(jax.random.key(0), 3)
    exact = [jax.random.normal(key, (2, 1024, 4, 64), jnp.float32).astype(jnp.bfloat16) for key in keys]
    segments = jnp.tile(
        jnp.repeat(jnp.array([1, 2, 3, 0]), jnp.array([500, 20, 404, 100]), total_repeat_length=1024), (2, 1)
    )

    def gradients(implementation: str, window: int, dtype: Any) -> list[jax.Array]:
        def total(arrays: list[jax.Array]) -> jax.Array:
            mixed = attention(*arrays, segment_ids=segments, window=window, implementation=implementation)
            return jnp.sum(jnp.where(segments[..., None, None] > 0, mixed, 0).astype(jnp.float32) ** 2)

        found = jax.jit(jax.grad(total))([array.astype(dtype) for array in exact])
        return jnp.concatenate([jnp.ravel(each).astype(jnp.float32) for each in found])

    errors = {}
    for window in (0, WINDOW):
        wanted = gradients("reference", window, jnp.float32)
        for implementation in ("auto", "reference"):
            difference = gradients(implementation, window, jnp.bfloat16) - wanted
            errors[f"{implementation}, window {window}"] = float(jnp.linalg.norm(difference) / jnp.linalg.norm(wanted))
    return errors


SIDES = {
    "ceiling": ceiling_side,
    "ours": our_side,
    "kernels": functools.partial(our_side, profiled=True),
    "sdpa": torch_side("sdpa"),
    "flex": torch_side("flex_attention"),
}
