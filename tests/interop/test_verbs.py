"""import-hf and export-hf as a user meets them: whole folders in and out."""

import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import sentence_transformers
import torch
from tokenizers import Tokenizer
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer

import mlm_jax
from mlm_jax import cli
from mlm_jax import model as model_room
from mlm_jax.checkpoints.saving import Checkpoints
from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config, load_config
from mlm_jax.data.vocabulary.folder import open_vocabulary
from mlm_jax.interop.exporting import export_hf
from mlm_jax.interop.importing import import_hf
from mlm_jax.objectives.denoising import Denoising
from tests.interop import parity
from tests.interop.edits import edit_json, template
from tests.interop.published import LANGUAGES, our_vocabulary, published, sentences

KINDS = ("modernbert", "xlm-roberta", "bert")


@pytest.fixture(params=KINDS, scope="module")
def imported(request, tmp_path_factory):
    """(their model, their folder, our workdir)."""
    folder = tmp_path_factory.mktemp(request.param)
    model = published(folder / "theirs", request.param)
    assert cli.main(["import-hf", str(folder / "theirs"), "--out", str(folder / "ours"), "--languages", "de,en"]) == 0
    return model, folder / "theirs", folder / "ours"


def test_an_imported_model_is_used_as_any_other(imported):
    """Mean pooling and blanks: what transformers computes from its own files."""
    model, theirs, ours = imported
    used = mlm_jax.load(ours)
    tokenizer = AutoTokenizer.from_pretrained(theirs)
    texts = [text[:60] for text in sentences(3000)[:9]]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model.base_model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    expected = ((hidden * mask).sum(1) / mask.sum(1)).numpy()
    np.testing.assert_allclose(used.embed(texts, language="de"), expected, atol=2e-5)


def test_documents_begin_as_the_tokenizer_begins_a_text(good, tmp_path):
    """A tokenizer may have a name for <bos> and still not write one."""
    shutil.copytree(good, tmp_path / "theirs")
    template("$A eos", eos=1)(tmp_path / "theirs")
    ours = mlm_jax.load(import_hf(tmp_path / "theirs", tmp_path / "ours"))
    assert ours.config.data.prefix == "none" and ours.vocabulary.bos_id == 2
    texts = sentences(3000)[:1]
    inputs = AutoTokenizer.from_pretrained(tmp_path / "theirs")(texts, return_tensors="pt")
    with torch.no_grad():
        expected = AutoModel.from_pretrained(tmp_path / "theirs").eval()(**inputs).last_hidden_state.mean(1).numpy()
    np.testing.assert_allclose(ours.embed(texts), expected, atol=2e-5)


def test_blanks_of_an_imported_model_are_filled_in_as_in_transformers(imported):
    model, theirs, ours = imported
    used = mlm_jax.load(ours)
    tokenizer = AutoTokenizer.from_pretrained(theirs)
    for text in ("Im Anfang war das <mask>.", "<mask> the earth", "God said<mask> be light and <mask>"):
        found = used.fill_mask(text, top_k=4, language="de")
        inputs = tokenizer(text.replace("<mask>", tokenizer.mask_token), return_tensors="pt")
        with torch.no_grad():
            logits = model(**inputs).logits[inputs["input_ids"] == tokenizer.mask_token_id]
        logits[:, used.vocabulary.special_ids.tolist()] = -torch.inf
        expected = torch.softmax(logits[:, : used.vocabulary.size], dim=-1).topk(4)
        assert [[candidate.id for candidate in blank] for blank in found] == expected.indices.tolist()
        probabilities = [[candidate.probability for candidate in blank] for blank in found]
        np.testing.assert_allclose(probabilities, expected.values, rtol=1e-3)
        assert found[0][0].text.count("<mask>") == text.count("<mask>") - 1


def test_export_of_an_import_is_the_original(imported, tmp_path):
    model, theirs, ours = imported
    assert cli.main(["export-hf", str(ours), "--out", str(tmp_path / "again")]) == 0
    assert parity.tensors_of(tmp_path / "again") == parity.tensors_of(theirs)
    text = sentences(3000)[:20]
    first, second = (
        AutoTokenizer.from_pretrained(folder)(text)["input_ids"] for folder in (theirs, tmp_path / "again")
    )
    assert first == second
    reloaded = AutoModelForMaskedLM.from_pretrained(tmp_path / "again", attn_implementation="eager").eval()
    inputs = {"input_ids": torch.tensor([first[0][:40]])}
    assert torch.equal(reloaded(**inputs).logits, model(**inputs).logits)


def test_the_recipe_is_a_config_that_fits(imported, tmp_path):
    _, _, ours = imported
    config = load_config(ours / "config.py")
    assert config.checkpoint.init == {"from": str(ours)}
    settings = json.loads((ours / "config.json").read_text())["model"]
    assert json.loads(json.dumps(config.model.to_dict(), default=list)) == settings
    assert open_vocabulary(config.vocabulary.path, LANGUAGES, 0).size == config.vocabulary.size
    assert "train --config THIS_FILE --workdir" in (ours / "config.py").read_text()
    shutil.copytree(ours, tmp_path / "moved")
    moved = load_config(tmp_path / "moved" / "config.py")
    assert moved.checkpoint.init == {"from": str(tmp_path / "moved")}
    assert moved.vocabulary.path == str(tmp_path / "moved" / "vocabulary")


def test_an_encoder_decoder(tmp_path):
    """T5 with more rows than pieces: back to the same bytes and ids, and to a decoder that starts with padding."""
    model = published(tmp_path / "theirs", "t5")
    ours = import_hf(tmp_path / "theirs", tmp_path / "ours")
    config = load_config(ours / "config.py")
    assert config.data.prefix == "none" and set(config.tasks) == {"denoising"}
    assert Denoising().lengths(config.tasks["denoising"]["length"])[1] <= 20  # sentinels of this tokenizer
    assert config.vocabulary.size < model.config.vocab_size and config.model.vocabulary_multiple == 128
    out = export_hf(ours, tmp_path / "again")
    assert parity.tensors_of(out) == parity.tensors_of(tmp_path / "theirs")
    texts = sentences(3000)[:20]
    first, second = (AutoTokenizer.from_pretrained(folder)(texts)["input_ids"] for folder in (tmp_path / "theirs", out))
    assert first == second
    again = AutoModelForSeq2SeqLM.from_pretrained(out)
    assert again.generation_config.decoder_start_token_id == 0 and again.generation_config.eos_token_id == 1
    assert not (out / "modules.json").exists()
    with pytest.raises(UserError, match="has no mask to fill in"):
        mlm_jax.load(ours).fill_mask("Im <mask>")
    edit_json("tokenizer_config.json", extra_ids=0)(tmp_path / "theirs")
    assert set(load_config(import_hf(tmp_path / "theirs", tmp_path / "none") / "config.py").tasks) == {"translation"}
    edit_json("config.json", decoder_start_token_id=5)(tmp_path / "theirs")
    with pytest.raises(
        UserError, match="config.json: decoder_start_token_id is 5, but .* begin with 0, which is padding"
    ):
        import_hf(tmp_path / "theirs", tmp_path / "other")


def our_workdir(folder, **settings):
    """A workdir with a small model of our own, untrained, and a trained vocabulary."""
    config = default_config()
    config.vocabulary.update(size=2000, sentinels=3)
    config.model.update(
        width=32, heads=4, mlp_width=40, max_positions=64, window=8, encoder=({"layers": 4, "weights": "shared"},)
    )
    config.model.update(settings)
    languages, vocabulary = ("de", "en"), our_vocabulary(("de", "en"))
    _, shapes, _ = model_room.abstract(config, vocabulary_size=vocabulary.size, languages=languages, labels={})
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: (
            (1 + 0.2 * rng.normal(size=leaf.shape)).astype(np.float32)
            if leaf.ndim < 3
            else (0.3 * rng.normal(size=leaf.shape)).astype(np.float32)
        ),
        shapes,
    )
    params["embedding"] = rng.normal(size=params["embedding"].shape).astype(np.float32)
    checkpoints = Checkpoints(folder, config, vocabulary, languages, labels={})
    checkpoints.save(7, {"params": params})
    checkpoints.wait()
    return folder


OURS = {
    "modernbert": {},
    "xlm-roberta": {
        "position": "learned",
        "position_offset": 1,
        "norm_position": "post",
        "norms": ("embedding",),
        "embedding_types": 1,
        "biases": ("norm", "attention", "mlp", "head"),
        "activation": "gelu",
        "global_every": 1,
    },
    "eurobert": {
        "norm": "rms",
        "activation": "swiglu",
        "norms": ("first_attention", "final"),
        "global_every": 1,
        "head_transform": False,
        "biases": (),
        "kv_heads": 2,
        "tied_embeddings": False,
    },
}


@pytest.mark.parametrize("family", OURS)
def test_our_own_model_loads_everywhere(family, tmp_path):
    """AutoTokenizer → AutoModelForMaskedLM and AutoModel, and SentenceTransformer, give what we compute from text."""
    workdir = our_workdir(tmp_path / "run", **OURS[family])
    assert export_hf(workdir, tmp_path / "out", language="de") == tmp_path / "out"
    texts = [text[:70] for text in sentences(3000)[:9]]
    expected = mlm_jax.load(workdir).embed(texts, language="de")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(tmp_path / "out").eval()(**inputs).last_hidden_state
        logits = AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval()(**inputs).logits
    mask = inputs["attention_mask"][..., None]
    np.testing.assert_allclose(((hidden * mask).sum(1) / mask.sum(1)).numpy(), expected, atol=1e-4)
    assert logits.shape[-1] == 2000
    encoder = sentence_transformers.SentenceTransformer(str(tmp_path / "out"), device="cpu")
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-4)
    can_be_served(tmp_path / "out")


# Keys of config.json without which text-embeddings-inference 1.9.3 does not start.
SERVED = {
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
}
SERVED |= {"initializer_range", "pad_token_id"}
SERVED_BERT = {"hidden_act", "hidden_dropout_prob", "type_vocab_size", "layer_norm_eps"}
SERVED_MODERNBERT = {"hidden_activation", "initializer_cutoff_factor", "norm_eps", "norm_bias", "classifier_activation"}
SERVED_MODERNBERT |= {f"{name}_token_id" for name in ("eos", "bos", "cls", "sep")} | {"global_attn_every_n_layers"}
SERVED_MODERNBERT |= {"attention_bias", "attention_dropout", "global_rope_theta", "local_rope_theta", "local_attention"}


def can_be_served(folder):
    """Check what text-embeddings-inference reads besides the weights; it takes types of tokens from tokenizer.json alone."""
    config = json.loads((folder / "config.json").read_text())
    own = {"modernbert": SERVED_MODERNBERT, "xlm-roberta": SERVED_BERT, "bert": SERVED_BERT}
    if config["model_type"] in own:
        assert all(config[key] is not None for key in SERVED | own[config["model_type"]])
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode_mean_tokens"] is True and pooling["pooling_mode_cls_token"] is False
    rows = config["max_position_embeddings"]
    used = rows - config["pad_token_id"] - 1 if config["model_type"] == "xlm-roberta" else rows
    assert json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"] == used
    pair = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("a", "b")
    assert max(pair.type_ids) < config.get("type_vocab_size", 2)


def test_adapters_by_language_are_written_as_xmod(tmp_path):
    """Our adapters under our languages; transformers uses that of --language by default."""
    adapters = {
        "layers": 4,
        "weights": "shared",
        "adapter": 8,
        "adapter_weights": "source_language",
        "adapter_norm": "reused",
    }
    workdir = our_workdir(tmp_path / "run", **{**OURS["xlm-roberta"], "encoder": (adapters,)})
    out = export_hf(workdir, tmp_path / "out", language="en")
    texts = [text[:70] for text in sentences(3000)[:5]]
    inputs = AutoTokenizer.from_pretrained(out)(texts, padding=True, return_tensors="pt")
    model = AutoModel.from_pretrained(out).eval()
    assert model.config.model_type == "xmod" and model.config.languages == ["de", "en"]
    mask = inputs["attention_mask"][..., None]
    for language, options in (("en", {}), ("de", {"lang_ids": torch.zeros(5, dtype=torch.long)})):
        with torch.no_grad():
            inputs["input_ids"][:, 0] = 5 + ("de", "en").index(language)  # <2de> <2en>, behind <mask>
            hidden = model(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], **options
            ).last_hidden_state
        expected = mlm_jax.load(workdir).embed(texts, language=language)
        np.testing.assert_allclose(((hidden * mask).sum(1) / mask.sum(1)).numpy(), expected, atol=1e-4)


REFUSED = {
    "language-specific layers": (
        {"encoder": ({"layers": 4, "weights": "source_language"},)},
        "model.encoder is .*source_language",
    ),
    "cross-lingual attention": ({"cross_lingual": {"score": "dot", "fuse": "residual"}}, "model.cross_lingual is"),
    "language embedding": ({"language_embedding": True}, "model.language_embedding is True, not False"),
    "rms norm": (
        {"norm": "rms"},
        "cannot be expressed as 'modernbert', the nearest family: model.norm is 'rms', not 'layer'",
    ),
    "relu": ({"activation": "relu"}, "model.activation is 'relu', not"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_no_family_expresses_is_refused_by_its_name(reason, tmp_path, capsys):
    settings, message = REFUSED[reason]
    workdir = our_workdir(tmp_path / "run", **settings)
    with pytest.raises(UserError, match=message):
        export_hf(workdir, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    with pytest.raises(UserError, match="cannot be expressed as 'bert': .*model.norm_position is 'pre', not 'post'"):
        export_hf(workdir, tmp_path / "out", family="bert")


def test_neither_verb_needs_torch(good, tmp_path, monkeypatch):
    """Both verbs work without torch and transformers."""
    code = (
        "import sys; sys.modules.update(torch=None, transformers=None, tensorflow=None)\n"
        "from mlm_jax.cli import main\n"
        f"assert main(['import-hf', {str(good)!r}, '--out', {str(tmp_path / 'ours')!r}]) == 0\n"
        f"assert main(['export-hf', {str(tmp_path / 'ours')!r}, '--out', {str(tmp_path / 'out')!r}]) == 0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert parity.tensors_of(tmp_path / "out") == parity.tensors_of(good)
