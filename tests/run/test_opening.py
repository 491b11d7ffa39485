"""The lines that a run logs before its first step."""

import jax

from mlm_jax.data.loading.loader import Loader
from mlm_jax.data.store.store import Store
from mlm_jax.objectives import kinds
from mlm_jax.parallel.mesh import make_mesh
from mlm_jax.run.opening import opening_lines
from mlm_jax.training.context import make_context
from mlm_jax.training.step import build_program


def test_devices_type_attention_parameters_and_tokens_are_told(config, store_folder):
    config.mesh.fsdp = 2
    config.curriculum = ({"steps": 2}, {"steps": 4, "length": 64})
    store = Store.open(store_folder)
    loader = Loader(store, config, kinds(config.tasks))
    context = make_context(store.vocabulary, loader.languages, config)
    program = build_program(config, context, loader.languages, make_mesh(config.mesh))
    lines = dict(line.split("  ", 1) for line in opening_lines(program, loader))
    facts = {name.strip(): fact.strip() for name, fact in lines.items()}
    count = jax.device_count()
    assert facts["devices"] == f"{count} × cpu, mesh data {count // 2}, fsdp 2"
    assert facts["computes in"] == "float32"
    assert facts["attention"] == "reference (encoder, whole rows); reference (encoder, window of 128)"
    sizes = sum(leaf.size for leaf in jax.tree.leaves(program.state.params))
    assert facts["parameters"].startswith(f"{sizes:,}: encoder/0 ")
    # 8 rows of 32 tokens, and 8 pairs of 32 and 32; masked rows of 64 in the second phase.
    assert facts["step"].startswith("768 tokens, ")
    assert facts["step"].endswith(f"{2 * 768 + 4 * 1024:,} tokens in 6 steps")
    assert facts["learning rate"].startswith("wsd, at most 0.0005, warm-up over 1 steps, decay over the last 2")
