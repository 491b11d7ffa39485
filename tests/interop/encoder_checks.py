"""The tests that every family of encoders goes through; a module of a family gives configurations and a ``pair``."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForMaskedLM

from mlm_jax.interop.weights import Published
from tests.interop import parity


class EncoderChecks:
    """``pair`` is (their model, ours imported from what they saved)."""

    family = ""
    languages = 1
    pad = 0

    def inputs(self, model, rows, packed):
        return parity.their_inputs(rows, packed=packed)

    def rows(self, model):
        return parity.random_rows(model.config.vocab_size, languages=self.languages, pad=self.pad)

    @pytest.mark.parametrize("packed", [False, True], ids=["a document a row", "packed"])
    def test_logits(self, pair, packed):
        model, ours = pair
        rows = self.rows(model) if packed else parity.unpacked(self.rows(model))
        assert parity.difference(ours.logits(rows), model(**self.inputs(model, rows, packed)).logits, rows) < 1e-4

    def test_gradients_one_step_and_leaks(self, pair, tmp_path):
        model, ours = pair
        rows = self.rows(model)
        inputs, labels = self.inputs(model, rows, True), parity.labels_for(rows, model.config.vocab_size)
        error, their_error = parity.gradient_difference(model, ours, inputs, rows, labels, tmp_path / "gradient")
        assert error < max(1e-4, their_error)
        assert parity.adamw_difference(model, ours, inputs, rows, labels, tmp_path / "step") < 1e-2
        assert parity.leak(ours, rows) == 0.0
        assert parity.leak(ours, rows, as_one=True) > 1e-3  # the probe finds a leak that exists

    def test_round_trip(self, pair, tmp_path):
        """Import and export give the same bytes, with which transformers computes the same logits."""
        model, ours = pair
        folder = parity.export(ours, tmp_path / "ours", family=self.family, shard_bytes=20_000)
        assert len(list(folder.glob("*.safetensors"))) > 1
        assert parity.tensors_of(folder) == parity.tensors_of(ours.foreign.folder)
        again = AutoModelForMaskedLM.from_pretrained(folder, attn_implementation="eager").eval()
        inputs = self.inputs(model, parity.unpacked(self.rows(model)), False)
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)

    def test_base_model_alone(self, pair, tmp_path):
        """A base model without a head is read, and written as a base model."""
        model, ours = pair
        base = model.base_model
        base.save_pretrained(tmp_path / "base")
        bare = parity.load(tmp_path / "base")
        rows = parity.unpacked(self.rows(model))
        inputs = self.inputs(model, rows, False)
        hidden = np.asarray(bare.run(bare.params, rows)[1])
        assert parity.difference(hidden, base(**inputs).last_hidden_state, rows) < 1e-4
        folder = parity.export(bare, tmp_path / "ours", family=self.family)
        again = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
        assert torch.equal(again(**inputs).last_hidden_state, base(**inputs).last_hidden_state)

    def test_bfloat16(self, pair, tmp_path):
        """Weights and computation in bfloat16: about as far from the exact logits as transformers is."""
        model, ours = pair
        with parity.in_bfloat16(model):
            model.save_pretrained(tmp_path / "half")
            rows = parity.unpacked(self.rows(model))
            inputs = self.inputs(model, rows, False)
            theirs = model(**inputs).logits
            exact = model.float()(**inputs).logits  # the same rounded weights, computed exactly
        half = parity.load(tmp_path / "half", dtype="bfloat16")
        error = parity.difference(half.logits(rows), exact, rows)
        assert 0 < error < 2 * parity.difference(theirs.detach().float().numpy(), exact, rows)
        folder = parity.export(half, tmp_path / "ours", family=self.family, dtype="bfloat16")
        assert parity.tensors_of(folder) == parity.tensors_of(tmp_path / "half")

    def test_a_tensor_left_over(self, pair, tmp_path):
        model, ours = pair
        shutil.copytree(ours.foreign.folder, tmp_path / "less")
        file = tmp_path / "less" / "config.json"
        config = json.loads(file.read_text())
        config["num_hidden_layers"] -= 1
        config.pop("layer_types", None)
        file.write_text(json.dumps(config))
        with pytest.raises(Exception, match=f"layers?.{config['num_hidden_layers']}.*has no place"):
            parity.load(tmp_path / "less")
        assert Published(ours.foreign.folder).settings == ours.foreign.settings
