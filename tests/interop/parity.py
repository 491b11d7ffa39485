"""Comparisons for every family: the same numbers as transformers, in both directions."""

import contextlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file

from mlm_jax import model as model_room
from mlm_jax.config import default_config
from mlm_jax.data.loading.batch import Rows
from mlm_jax.interop.family import Facts, bind
from mlm_jax.interop.tensors import TensorWriter
from mlm_jax.interop.weights import Published, choose_family, flat_shapes, write_weights
from mlm_jax.training import optimizer as optimizer_room
from mlm_jax.training.paths import by_path

LENGTH, ROWS = 20, 3
DOCUMENTS = ((7, 9), (20,), (5, 4, 8))  # lengths of the documents of each row; the rest is padding
FIRST_TOKEN = 5  # ids below this one are special tokens


def random_model(kind, config, seed=0, untied=False):
    """A transformers model in float32 in which no weight is zero or one and attention is far from uniform.

    ``untied`` gives a T5 its own output layer; published T5s have one, but transformers never makes one.
    """
    torch.manual_seed(seed)
    config._attn_implementation = "eager"
    model = kind(config).eval()
    if untied:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
        model.all_tied_weights_keys.pop("lm_head.weight")
    generator = torch.Generator().manual_seed(seed)
    seen = set()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.data_ptr() in seen:
                continue
            seen.add(value.data_ptr())
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(1 + 0.2 * noise if value.ndim == 1 and "bias" not in name else 0.25 * noise)
    return model


def save(model, folder, **options):
    model.save_pretrained(folder, **options)
    return folder


# These programs run once: compiling them well takes longer than running them badly.
QUICKLY = {"xla_backend_optimization_level": 0}


class Imported:
    """A model of ours with weights of theirs; each of its two functions is compiled once."""

    def __init__(self, foreign, config, params, languages):
        self.foreign, self.config, self.params, self.languages = foreign, config, params, languages
        self.graphdef, self.shapes, self.axes = model_room.abstract(
            config, vocabulary_size=foreign.facts.rows, languages=languages, labels={}
        )
        self.forward = jax.jit(lambda params, batch: self.run(params, batch)[0], compiler_options=QUICKLY)
        self.gradient = jax.jit(jax.grad(self._probe), compiler_options=QUICKLY)

    def merged(self, params):
        return model_room.merge(self.graphdef, params)

    def run(self, params, batch):
        """(logits, hidden states) of rows, or of (source, target) rows if there is a decoder."""
        model = self.merged(params)
        if self.config.model.decoder:
            source, target = batch
            memory = model.encode(source, target_language=target.language)
            hidden = model.decode(target, memory, source.segment_ids, source_language=source.language)
            head = model.decoder_head(hidden)
        else:
            hidden = model.encode(batch)
            head = model.masked_head(hidden)
        table, bias = model.output_table()
        logits = jnp.einsum("rlw,vw->rlv", head, table, preferred_element_type=jnp.float32)
        return (logits if bias is None else logits + bias), hidden

    def _probe(self, params, batch, labels, first):
        """The loss of the labels, plus a function of the hidden states at the positions ``first``."""
        logits, hidden = self.run(params, batch)
        return (
            mean_cross_entropy(logits, labels)
            + (jnp.square(hidden) * jnp.arange(hidden.shape[-1]) * first[..., None]).sum()
        )

    def logits(self, batch):
        return np.asarray(self.forward(self.params, batch))

    def loss_gradient(self, batch, labels):
        return self.gradient(self.params, batch, labels, np.zeros(labels.shape, np.float32))


def load(folder, **settings):
    foreign = Published(folder)
    config = default_config()
    config.model.update(foreign.settings)
    config.model.update(settings)
    languages = foreign.facts.languages or ("de", "en")
    flat = foreign.params(flat_shapes(config, foreign.facts.rows, languages), config.model, languages)
    return Imported(foreign, config, jax.tree.map(jnp.asarray, unflatten_dict(flat, sep="/")), languages)


def random_rows(vocabulary, seed=1, languages=1, documents=DOCUMENTS, pad=0, length=LENGTH):
    rng = np.random.default_rng(seed)
    tokens = np.full((len(documents), length), pad, np.int32)
    segments, positions = np.zeros_like(tokens), np.zeros_like(tokens)
    for row, lengths in enumerate(documents):
        at = 0
        for number, size in enumerate(lengths, 1):
            tokens[row, at : at + size] = rng.integers(FIRST_TOKEN, vocabulary, size)
            segments[row, at : at + size] = number
            positions[row, at : at + size] = np.arange(size)
            at += size
    return Rows(tokens, segments, positions, (np.arange(len(documents)) % languages).astype(np.int32))


def unpacked(rows):
    """The same rows, each as one document."""
    real = rows.segment_ids > 0
    positions = np.where(real, np.arange(rows.tokens.shape[1]), 0).astype(np.int32)
    return rows._replace(segment_ids=real.astype(np.int32), positions=positions)


def block_masks(rows, window=None, seen=None, causal=False):
    """Additive masks ``[rows, 1, length, length of seen]`` under which a document sees itself (or its source) only."""
    seen = rows if seen is None else seen
    same = (rows.segment_ids[:, :, None] == seen.segment_ids[:, None, :]) & (seen.segment_ids > 0)[:, None, :]
    ahead = np.arange(seen.tokens.shape[1])[None, :] - np.arange(rows.tokens.shape[1])[:, None]
    if window is not None:
        same &= (np.abs(ahead) <= window // 2)[None]
    if causal:
        same &= (ahead <= 0)[None]
    return torch.tensor(np.where(same, 0.0, torch.finfo(torch.float32).min)[:, None], dtype=torch.float32)


def their_inputs(rows, *, packed, offset=0, window=None, window_kinds=False, xmod=False):
    inputs = {"input_ids": torch.tensor(rows.tokens, dtype=torch.long)}
    if packed:
        mask = block_masks(rows)
        local = {"full_attention": mask, "sliding_attention": block_masks(rows, window)}
        inputs["attention_mask"] = local if window_kinds else mask
        inputs["position_ids"] = torch.tensor(rows.positions + offset, dtype=torch.long)
    else:
        inputs["attention_mask"] = torch.tensor(rows.segment_ids > 0, dtype=torch.long)
    if xmod:
        inputs["lang_ids"] = torch.tensor(rows.language, dtype=torch.long)
    return inputs


def difference(ours, theirs, rows):
    """Largest difference at real positions; theirs must not all be equal."""
    real = rows.segment_ids > 0
    theirs = theirs.detach().float().numpy() if isinstance(theirs, torch.Tensor) else theirs
    assert theirs[real].std() > 0.1
    return float(np.abs(np.asarray(ours, np.float32)[real] - theirs[real]).max())


def labels_for(rows, vocabulary, seed=2):
    """Labels of a third of the real tokens, -100 elsewhere."""
    rng = np.random.default_rng(seed)
    chosen = (rows.segment_ids > 0) & (rng.random(rows.tokens.shape) < 0.33)
    return np.where(chosen, rng.integers(FIRST_TOKEN, vocabulary, rows.tokens.shape), -100)


def mean_cross_entropy(logits, labels):
    chosen = labels >= 0
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    return -(picked * chosen).sum() / jnp.maximum(chosen.sum(), 1)


def their_logits(model, inputs):
    """``inputs`` are keyword arguments, or a function of the model if one call is not enough."""
    return inputs(model) if callable(inputs) else model(**inputs).logits


def their_loss(model, inputs, labels):
    logits = their_logits(model, inputs)
    return torch.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), torch.tensor(labels).reshape(-1))


def in_our_layout(imported, values, folder):
    """Their values (one per parameter: gradients, or updated weights) read through the table into our tree.

    Parameters of ours that are not used are NaN.
    """
    folder.mkdir()
    writer = TensorWriter(folder)
    for name in imported.foreign.tensors:
        writer.add(name, values[name].detach().numpy())
    writer.close()
    (folder / "config.json").write_text((imported.foreign.folder / "config.json").read_text())
    shapes = {path: leaf.shape for path, leaf in by_path(imported.params).items()}
    foreign = Published(folder)
    arrays = foreign.params(shapes, imported.config.model, imported.languages)
    for one in bind(foreign.family, shapes, imported.config.model, imported.languages, foreign.base).values():
        for path, index, _ in one.parts if one.unused else ():
            arrays[path][index] = np.nan
    return arrays


def named_values(model, pick):
    """{name: pick(parameter)} under every name a tied parameter has."""
    return {name: pick(value) for name, value in model.named_parameters(remove_duplicate=False)}


def largest(tree):
    return max(float(np.nanmax(np.abs(value))) for value in tree.values())


def gradient_difference(model, imported, inputs, batch, labels, folder):
    """(ours, theirs): distance of float32 gradients of a masked loss from theirs in float64, over the largest gradient.

    For badly conditioned weights, no implementation in float32 is closer.
    """

    def their_gradient(name):
        model.zero_grad()
        their_loss(model, inputs, labels).backward()

        def zero(p):
            return (p.grad if p.grad is not None else torch.zeros_like(p)).float()

        return in_our_layout(imported, named_values(model, zero), folder.with_name(folder.name + name))

    theirs = their_gradient("32")
    model.double()
    exact = their_gradient("64")
    model.float()  # float32 → float64 → float32 changes nothing
    ours = by_path(imported.loss_gradient(batch, labels))

    def distance(found):
        return largest({p: np.asarray(found[p]) - exact[p] for p in exact}) / largest(exact)

    return distance(ours), distance(theirs)


def adamw_difference(model, imported, inputs, batch, labels, folder):
    """Largest difference of a parameter after one AdamW step of ours and of torch's, in units of the learning rate."""
    rate = 1e-3
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.zero_grad()
    their_loss(model, inputs, labels).backward()
    trained = [p for p in model.parameters() if p.grad is not None]
    # An epsilon above rounding errors, so that a gradient that is zero up to rounding does not decide a whole step.
    epsilon = 1e-2 * max(float(p.grad.abs().max()) for p in trained)
    settings = {"lr": rate, "betas": (0.9, 0.98), "eps": epsilon, "weight_decay": 0.01}
    torch.optim.AdamW(trained, **settings).step()
    theirs = in_our_layout(imported, named_values(model, lambda p: p), folder)
    model.load_state_dict(before)  # the model is shared by the tests of its configuration
    config = default_config()
    config.optimizer.update(
        name="adamw",
        learning_rate=rate,
        schedule="constant",
        warmup_steps=0,
        betas=settings["betas"],
        epsilon=settings["eps"],
        clip=0.0,
        weight_decay=settings["weight_decay"],
        decay_table=((r".*", True),),
    )
    transformation = optimizer_room.create(config.optimizer, 10, imported.shapes, imported.axes)
    grads = imported.loss_gradient(batch, labels)
    update = jax.jit(lambda g, p: transformation.update(g, transformation.init(p), p)[0], compiler_options=QUICKLY)
    updates = update(grads, imported.params)
    assert largest(by_path(updates)) > 0.8 * rate
    ours = by_path(jax.tree.map(jnp.add, imported.params, updates))
    return largest({path: np.asarray(ours[path]) - theirs[path] for path in theirs}) / rate


def leak(imported, batch, as_one=False):
    """Largest gradient of the second documents' hidden states with respect to embeddings of tokens outside them.

    With a decoder, the batch is (source, target) and a document is a pair of them. ``as_one`` takes each row
    for one document, which must leak.
    """

    # Tokens of the second documents are even, all others odd, so that a row of the table belongs to one side.
    def marked(rows):
        tokens = np.clip(rows.tokens, 0, imported.foreign.facts.rows - 2) // 2 * 2 + (rows.segment_ids != 2)
        segments = np.minimum(rows.segment_ids, 1) if as_one else rows.segment_ids
        return rows._replace(tokens=tokens.astype(np.int32), segment_ids=segments)

    target = batch if isinstance(batch, Rows) else batch[1]
    marks = marked(batch) if isinstance(batch, Rows) else tuple(map(marked, batch))
    second, nothing = (target.segment_ids == 2).astype(np.float32), np.full(target.tokens.shape, -100)
    gradient = np.asarray(imported.gradient(imported.params, marks, nothing, second)["embedding"])
    assert np.abs(gradient[::2]).max() > 1e-3
    return float(np.abs(gradient[1::2]).max())


def export(imported, folder, *, family="", dtype="float32", shard_bytes=10**9, ids=None):
    """Write our model as a folder of transformers; ``ids`` are the special ids that a vocabulary would have."""
    folder.mkdir()
    facts = Facts(
        imported.foreign.facts.rows,
        imported.foreign.facts.languages,
        imported.foreign.facts.ids if ids is None else ids,
    )
    chosen = choose_family(imported.config.model, facts, family)
    writer = TensorWriter(folder, dtype=dtype, shard_bytes=shard_bytes)
    params = {path: np.asarray(value) for path, value in by_path(imported.params).items()}
    write_weights(writer, chosen, params, imported.config.model, imported.languages)
    writer.close()
    described = {"model_type": chosen.model_type, **chosen.describe(imported.config.model, facts)}
    (folder / "config.json").write_text(json.dumps(described))
    return folder


def tensors_of(folder):
    """{name: (dtype, shape, bytes)} of all tensors of a folder."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= {name: (str(value.dtype), value.shape, value.tobytes()) for name, value in load_file(file).items()}
    return found


@contextlib.contextmanager
def in_bfloat16(model):
    """The model in bfloat16, and back."""
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        yield model.bfloat16()
    finally:
        model.float().load_state_dict(weights)
