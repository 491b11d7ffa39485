"""The tests that T5, mT5 and umT5 go through; a module of a family gives configurations and a ``pair``."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM
from transformers.modeling_outputs import BaseModelOutput

from mlm_jax.inference.search import beam_search, greedy, repeat_rows
from tests.interop import parity

TARGETS = ((6, 5), (13,), (4, 3, 6))  # lengths of the targets of parity.DOCUMENTS
TARGET_LENGTH = 14
INPUTS, WRITTEN = 200, 12


class EncoderDecoderChecks:
    """``pair`` is (their model, ours imported from what they saved)."""

    family = ""

    def batch(self, model):
        rows = model.config.vocab_size
        return parity.random_rows(rows), parity.random_rows(rows, seed=5, documents=TARGETS, length=TARGET_LENGTH)

    def inputs(self, source, target, packed):
        """Packed rows need three masks, which transformers takes in two calls."""
        tokens = [torch.tensor(rows.tokens, dtype=torch.long) for rows in (source, target)]
        if not packed:
            mask, target_mask = (torch.tensor(rows.segment_ids > 0, dtype=torch.long) for rows in (source, target))
            return {
                "input_ids": tokens[0],
                "attention_mask": mask,
                "decoder_input_ids": tokens[1],
                "decoder_attention_mask": target_mask,
            }

        def run(model):
            memory = model.encoder(input_ids=tokens[0], attention_mask=parity.block_masks(source)).last_hidden_state
            return model(
                encoder_outputs=BaseModelOutput(memory),
                attention_mask=parity.block_masks(target, seen=source),
                decoder_input_ids=tokens[1],
                decoder_attention_mask=parity.block_masks(target, causal=True),
            ).logits

        return run

    @pytest.mark.parametrize("packed", [False, True], ids=["a document a row", "packed"])
    def test_logits(self, pair, packed):
        model, ours = pair
        source, target = self.batch(model) if packed else map(parity.unpacked, self.batch(model))
        theirs = parity.their_logits(model, self.inputs(source, target, packed))
        assert parity.difference(ours.logits((source, target)), theirs, target) < 1e-4

    def test_gradients_one_step_and_leaks(self, pair, tmp_path):
        model, ours = pair
        batch = self.batch(model)
        inputs, labels = self.inputs(*batch, True), parity.labels_for(batch[1], model.config.vocab_size)
        error, their_error = parity.gradient_difference(model, ours, inputs, batch, labels, tmp_path / "gradient")
        assert error < max(1e-4, their_error)
        assert parity.adamw_difference(model, ours, inputs, batch, labels, tmp_path / "step") < 1e-2
        assert parity.leak(ours, batch) == 0.0
        assert parity.leak(ours, batch, as_one=True) > 1e-3  # the probe finds a leak that exists

    def test_round_trip(self, pair, tmp_path):
        """Import and export give the same bytes, with which transformers computes the same logits."""
        model, ours = pair
        folder = parity.export(ours, tmp_path / "ours", family=self.family, shard_bytes=20_000)
        assert parity.tensors_of(folder) == parity.tensors_of(ours.foreign.folder)
        again = AutoModelForSeq2SeqLM.from_pretrained(folder, attn_implementation="eager").eval()
        inputs = self.inputs(*map(parity.unpacked, self.batch(model)), False)
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)

    def test_bfloat16(self, pair, tmp_path):
        """Weights and computation in bfloat16: about as far from the exact logits as transformers is."""
        model, ours = pair
        with parity.in_bfloat16(model):
            model.save_pretrained(tmp_path / "half")
            source, target = map(parity.unpacked, self.batch(model))
            inputs = self.inputs(source, target, False)
            theirs = model(**inputs).logits.detach().float().numpy()
            exact = model.float()(**inputs).logits  # the same rounded weights, computed exactly
        half = parity.load(tmp_path / "half", dtype="bfloat16")
        error = parity.difference(half.logits((source, target)), exact, target)
        assert 0 < error < 2 * parity.difference(theirs, exact, target)
        folder = parity.export(half, tmp_path / "ours", family=self.family, dtype="bfloat16")
        assert parity.tensors_of(folder) == parity.tensors_of(tmp_path / "half")

    @pytest.mark.parametrize("beams", [1, 4])
    def test_generation(self, pair, beams):
        """Greedy and beam search write transformers' text, token for token, on 200 inputs, except for ties in float32."""
        ours, theirs = both_generate(*pair, beams)
        ended = (theirs == pair[0].config.eos_token_id).any(axis=1)
        assert len(theirs) == INPUTS and 0.02 < ended.mean() < 0.98 and len({tuple(row) for row in theirs}) > 20
        different = np.flatnonzero((ours != theirs).any(axis=1))
        assert len(different) <= INPUTS // 100
        for row in different:
            gap = likelihood_gap(pair[0], row, ours[row], theirs[row], beams)
            assert gap < 1e-5, f"input {row}: {ours[row]} is not {theirs[row]}, and {gap} nats apart"


def likelihood_gap(model, row, ours, theirs, beams):
    """The difference of the scores of two texts for an input, in nats, computed by transformers in float64.

    Greedy search compares the first tokens that differ, beam search the means over the texts.
    """
    source, exact = sources(model), copy.deepcopy(model).double()

    def log_likelihoods(text):
        shifted = torch.tensor(np.r_[0, text[:-1]][None], dtype=torch.long)
        asked = {
            "input_ids": torch.tensor(source.tokens[row : row + 1], dtype=torch.long),
            "decoder_input_ids": shifted,
        }
        logits = exact(attention_mask=torch.tensor(source.segment_ids[row : row + 1] > 0), **asked).logits[0]
        written = torch.log_softmax(logits, dim=-1).detach().numpy()[np.arange(len(text)), text]
        ends = np.flatnonzero(text == model.config.eos_token_id)
        return written[: ends[0] + 1] if len(ends) else written

    both = [log_likelihoods(text) for text in (ours, theirs)]
    if beams > 1:
        return abs(both[0].mean() - both[1].mean())
    first = np.flatnonzero(ours != theirs)[0]
    return abs(both[0][first] - both[1][first])


def sources(model):
    """Inputs of different lengths."""
    lengths = np.random.default_rng(3).integers(3, parity.LENGTH + 1, INPUTS)
    return parity.random_rows(model.config.vocab_size, seed=4, documents=[(size,) for size in lengths])


def both_generate(model, imported, beams):
    """(ours, theirs) for the same inputs of different lengths: ``[200, written]``, padding after the end."""
    source = sources(model)
    theirs = model.generate(
        input_ids=torch.tensor(source.tokens, dtype=torch.long),
        attention_mask=torch.tensor(source.segment_ids > 0),
        num_beams=beams,
        do_sample=False,
        max_new_tokens=WRITTEN,
        early_stopping="never" if beams > 1 else None,
    )[:, 1:].numpy()
    ends = theirs == model.config.eos_token_id
    theirs = np.where(ends.cumsum(axis=1) - ends > 0, 0, theirs)  # its beam search pads with ends
    return np.asarray(generate(imported, source, beams))[:, : theirs.shape[1]], theirs


def ends_more_often(model, factor=2.5):
    """Make the end token likelier, so that texts of random weights end."""
    with torch.no_grad():
        model.lm_head.weight[model.config.eos_token_id] *= factor


def generate(imported, source, beams):
    """Greedy or beam search of ours, ``[rows, written]``; starts with padding, as T5 does."""
    config, eos = imported.foreign.config, imported.foreign.facts.ids["eos"]

    def search(params, source):
        model = imported.merged(params)
        rows = jax.tree.map(jnp.asarray, source)
        rows = repeat_rows(rows, beams)
        cache = model.start_decoding(model.encode(rows), rows.segment_ids, language=rows.language, capacity=WRITTEN)

        def step(cache, tokens, position):
            hidden, cache = model.decode_step(tokens, position, cache)
            return model.logits(model.decoder_head(hidden)), cache

        starts = jnp.full(source.tokens.shape[0], config["decoder_start_token_id"])
        if beams == 1:
            return greedy(step, cache, starts, length=WRITTEN, stop=(eos,)).tokens[:, 0]
        return beam_search(step, cache, starts, beams=beams, length=WRITTEN, stop=(eos,)).tokens[:, 0]

    return jax.jit(search, compiler_options=parity.QUICKLY)(imported.params, source)
