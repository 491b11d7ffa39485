import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mlm_jax import cli
from mlm_jax import model as model_room
from mlm_jax.adaptation.grow import grow_vocabulary
from mlm_jax.adaptation.merging import further_merges
from mlm_jax.checkpoints.initialise import initialise_from
from mlm_jax.checkpoints.saving import Checkpoints
from mlm_jax.checkpoints.transplant import ModelSpec, row_sources, spelling, transplant
from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config
from mlm_jax.data.loading.batch import Rows
from mlm_jax.data.vocabulary.folder import load_vocabulary
from mlm_jax.data.vocabulary.pieces import Vocabulary
from mlm_jax.evaluation.embedding import DocumentBatch, document_rows
from mlm_jax.parallel.batches import to_devices
from mlm_jax.parallel.mesh import make_mesh
from mlm_jax.training.context import make_context
from mlm_jax.training.step import build_program, make_train_step


def texts(letters, seed=0):
    """Sixty sentences over a hundred words of one to three syllables."""
    rng = np.random.default_rng(seed)
    syllables = [a + b for a in letters[:8] for b in letters[8:]]
    words = ["".join(rng.choice(syllables, rng.integers(1, 4))) for _ in range(100)]
    return [" ".join(rng.choice(words, 8)) for _ in range(60)]


LATIN, GREEK = texts("thrskdngaeiou"), texts("θρσκδνγλαειου")


def vocabulary(languages=("en", "de"), size=360, sentences=LATIN, kind="unigram"):
    config = default_config()
    config.vocabulary.kind = kind
    config.vocabulary.size, config.vocabulary.sentinels, config.vocabulary.character_coverage = size, 2, 1.0
    return Vocabulary.train(sentences, config.vocabulary, languages)


def facts(vocabulary, languages, *encoder, **model):
    config = default_config()
    config.model.encoder = encoder or ({"layers": 1, "weights": "shared"},)
    config.model.width, config.model.heads, config.model.mlp_width, config.model.global_every = 8, 2, 12, 1
    config.model.update(model)
    return ModelSpec(config, vocabulary, languages)


def create(facts, seed=0):
    """A model with all its parameters drawn, those that begin as zeros too."""
    graphdef, shapes, _ = model_room.abstract(
        facts.config, vocabulary_size=facts.vocabulary.size, languages=facts.languages
    )
    rng = np.random.default_rng(seed)
    return graphdef, jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)


def flat(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(entry.key for entry in path): np.asarray(leaf) for path, leaf in leaves}


def nested(values, like):
    return jax.tree_util.tree_map_with_path(lambda path, _: values["/".join(e.key for e in path)], like)


def logits(facts, graphdef, params, texts, language, size):
    documents = facts.vocabulary.encode_batch(texts)
    length = max(map(len, documents))
    tokens = np.array([document + [0] * (length - len(document)) for document in documents], np.int32)
    real = np.array([[1] * len(document) + [0] * (length - len(document)) for document in documents], np.int32)
    index = np.full(len(texts), facts.languages.index(language))
    rows = Rows(tokens, real, np.arange(length, dtype=np.int32) * real, index)

    @jax.jit
    def old_logits(params, rows):
        model = model_room.merge(graphdef, params)
        table, bias = model.output_table()  # as many columns as before: a matmul's last bits depend on its shape
        return model.masked_head(model.encode(rows)) @ table[:size].T + bias[:size]

    return np.asarray(old_logits(params, rows))


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_grown_vocabulary_cuts_old_text_as_before_and_new_text_into_new_pieces(kind):
    old = vocabulary(kind=kind)
    grown = grow_vocabulary(old, "el", GREEK, pieces=40)
    assert grown.languages == ("en", "de", "el") and grown.size > old.size + 10
    assert grown.encode_batch(LATIN) == old.encode_batch(LATIN)
    assert grown.pieces(range(old.size)) == old.pieces(range(old.size))
    assert grown.language_ids["el"] == old.size and grown.language_ids["de"] == old.language_ids["de"]
    assert len(grown.encode(GREEK[0])) < len(old.encode(GREEK[0])) / 2  # before, its letters were bytes
    assert grown.decode(grown.encode(GREEK[1])) == GREEK[1]
    again = grow_vocabulary(grown, "fr", LATIN, pieces=0)
    assert again.size == grown.size + 1
    assert again.pieces(range(grown.size)) == grown.pieces(range(grown.size))
    assert grown.language_ids["el"] in again.special_ids
    with pytest.raises(UserError, match="has language 'el' already"):
        grow_vocabulary(grown, "el", GREEK, pieces=1)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_language_of_a_known_script_gets_the_pieces_asked_for(kind):
    old, new = vocabulary(kind=kind), texts("thrskdngaeiou", seed=5)
    grown = grow_vocabulary(old, "tl", new, pieces=60)
    added = grown.pieces(range(old.size, grown.size))
    assert old.size + 45 < grown.size <= old.size + 61 and added[0] == "<2tl>"  # sixty sentences give no more
    assert grown.pieces(range(old.size)) == old.pieces(range(old.size))
    tokens = [sum(map(len, each.encode_batch(new))) for each in (old, grown)]
    assert tokens[1] < 0.8 * tokens[0]
    used = {index for ids in grown.encode_batch(new) for index in ids}
    assert len(used & set(range(old.size + 1, grown.size))) > 30  # the new pieces are used
    covered = set(added)
    # Old text keeps its ids, except where a new piece covers it.
    for text, ids in zip(LATIN, grown.encode_batch(LATIN)):
        assert ids == old.encode(text) or covered & {*grown.pieces(ids)}
        assert grown.decode(ids) == old.decode(old.encode(text))


def test_merges_go_on_with_the_commonest_pair():
    words = {("▁a", "b", "c"): 5, ("▁d", "b", "c"): 3, ("e", "e", "e"): 2, ("x", "y"): 1}
    merges = [("b", "c"), ("▁a", "bc"), ("e", "e"), ("▁d", "bc"), ("ee", "e")]
    assert further_merges(words, 10, {"bc"}) == merges
    assert further_merges(words, 1, {"bc"}) == merges[:2]


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_more_characters_than_pieces_and_documents_of_any_length(kind):
    """The commonest characters become pieces, of one document of 90,000 bytes."""
    rng = np.random.default_rng(0)
    signs = np.array([chr(0x4E00 + number) for number in range(3000)])
    text = "".join(signs) + "".join(signs[rng.integers(0, 20, 27_000)])
    grown = grow_vocabulary(vocabulary(kind=kind), "zh", [text], pieces=30)
    assert set(signs[:20]) <= set(grown.pieces(range(grown.size)))
    assert grown.size <= vocabulary(kind=kind).size + 31 and grown.decode(grown.encode(text)) == text


def test_text_without_new_pieces_is_a_one_line_error(monkeypatch):
    old = vocabulary()
    with pytest.raises(UserError, match="the number of new pieces must be at least 0, not -5"):
        grow_vocabulary(old, "el", GREEK, pieces=-5)

    def fails(**options):
        raise RuntimeError("Internal: trainer_interface.cc(1) \n too much")

    monkeypatch.setattr("sentencepiece.SentencePieceTrainer.train", fails)
    with pytest.raises(UserError, match="SentencePiece could not be trained: Internal: .* too much. Remedy"):
        grow_vocabulary(old, "el", GREEK, pieces=5)


@pytest.mark.parametrize(
    "piece, parts",
    [
        ("▁the", ["▁the"]),
        ("▁there", ["▁the", "re"]),  # two pieces rather than three
        ("re▁", ["re", "▁"]),
        ("thé", ["t", "h", "<0xC3>", "<0xA9>"]),
        ("☃", []),
    ],
)
def test_spelling_takes_the_fewest_pieces_and_bytes_for_characters_without_a_piece(piece, parts):
    names = ["▁the", "▁", "t", "h", "e", "r", "re", "<0x20>", "<0xC3>", "<0xA9>", "<0x98>"]
    known = {name: index for index, name in enumerate(names)}
    assert [names[index] for index in spelling(piece, known)] == parts


def test_rows_of_another_vocabulary():
    old, new = vocabulary(), vocabulary(languages=("de", "en", "el"), size=400, sentences=LATIN[:30] + GREEK)
    sources = row_sources(old, new, {"el": "en"})
    names, old_names = new.pieces(range(new.size)), old.pieces(range(old.size))
    assert sources[new.language_ids["de"]] == [old.language_ids["de"]]
    assert sources[new.language_ids["el"]] == [old.language_ids["en"]]
    assert row_sources(old, new)[new.language_ids["el"]] == [old.language_ids["en"], old.language_ids["de"]]
    composed = 0
    for name, parts in zip(names, sources):
        if name in old_names:
            assert parts == [old_names.index(name)]
        elif name.startswith("▁") and name != "▁":
            spelt = "".join(old_names[part] for part in parts)
            composed += 1
            assert spelt == name or "<0x" in spelt
    assert composed > 10


def test_a_new_language_leaves_every_old_logit_bit_for_bit_as_it_is():
    old = facts(vocabulary(), ("en", "de"), {"layers": 1, "weights": "shared", "adapter": 4}, language_embedding=True)
    grown = grow_vocabulary(old.vocabulary, "el", GREEK, pieces=40)
    new = ModelSpec(old.config, grown, ("el", "en", "de"))  # in another order, too
    graphdef, params = create(old, seed=1)
    new_graphdef, initial = create(new, seed=2)
    found = transplant(flat(params), old, flat(initial), new)
    assert found.copied == old.vocabulary.size and found.new_groups == ("el",)
    assert found.composed == grown.size - old.vocabulary.size and found.fresh == 0
    for language in ("en", "de"):
        before = logits(old, graphdef, params, LATIN[:3], language, old.vocabulary.size)
        after = logits(new, new_graphdef, nested(found.params, initial), LATIN[:3], language, old.vocabulary.size)
        np.testing.assert_array_equal(after, before)
    # The new language has an adapter with initial weights or, if the config asks for it, a copy of another language's.
    path = next(name for name in found.params if "adapter" in name and name.endswith("down/kernel"))
    assert (found.params[path][:, 0] == flat(initial)[path][:, 0]).all()
    copied = transplant(flat(params), old, flat(initial), new, like={"el": "de"}).params
    assert (copied[path][:, 0] == flat(params)[path][:, 1]).all()
    assert (copied["embedding"][grown.language_ids["el"]] == copied["embedding"][grown.language_ids["de"]]).all()
    with pytest.raises(UserError, match="names 'dee'; did you mean 'de'"):
        transplant(flat(params), old, flat(initial), new, like={"el": "dee"})


def test_shared_weights_become_each_languages_own_and_other_shapes_are_refused():
    old = facts(vocabulary(), ("en", "de"))
    own = facts(old.vocabulary, ("en", "de", "fr"), {"layers": 1, "weights": "source_language"})
    params, initial = flat(create(old, seed=1)[1]), flat(create(own)[1])
    found = transplant(params, old, initial, own).params
    path = next(name for name in params if name.startswith("encoder/") and name.endswith("query/kernel"))
    for language in range(3):
        np.testing.assert_array_equal(found[path][:, language], params[path])
    wide = facts(old.vocabulary, ("en", "de"), mlp_width=16)
    with pytest.raises(
        UserError, match="mlp.* has shape.*; model.mlp_width is .* there and 16 here. Remedy: make them equal"
    ):
        transplant(params, old, flat(create(wide)[1]), wide)


def test_another_width_is_an_error_even_if_vocabulary_or_languages_differ_too():
    old = facts(vocabulary(), ("en", "de"), {"layers": 1, "weights": "source_language"})
    grown = grow_vocabulary(old.vocabulary, "el", GREEK, pieces=40)
    wide = facts(grown, ("en", "de", "el"), {"layers": 1, "weights": "source_language"}, width=16)
    params, initial = flat(create(old)[1]), flat(create(wide)[1])
    for name in ("embedding", "encoder/0/layers/mlp/up/kernel"):
        with pytest.raises(UserError, match=f"'{name}' has shape .*; model.width is 8 there and 16 here"):
            transplant(params, old, {name: initial[name]}, wide)


def test_renamed_weights_are_told_apart_by_their_place_in_the_old_model():
    shared, own = {"layers": 1, "weights": "shared"}, {"layers": 1, "weights": "source_language"}
    old, new = facts(vocabulary(), ("en", "de"), shared, own), facts(vocabulary(), ("de", "en"), own, shared)
    params, initial = flat(create(old, seed=1)[1]), flat(create(new)[1])
    swapped = {name: name.replace("encoder/0/", "encoder/x/") for name in params}
    swapped = {
        name: path.replace("encoder/1/", "encoder/0/").replace("encoder/x/", "encoder/1/")
        for name, path in swapped.items()
    }
    renamed = {path: name for name, path in swapped.items()}
    found = transplant(params, old, initial, new, renamed=renamed).params
    ending = "/layers/attention/query/kernel"
    np.testing.assert_array_equal(found["encoder/0" + ending][:, 0], params["encoder/1" + ending][:, 1])  # German's
    np.testing.assert_array_equal(found["encoder/1" + ending], params["encoder/0" + ending])


def grow_and_train(old, tasks, make_batch, folder, capsys):
    """Add Greek to a run with drawn weights, and train three steps by the config that ``mlm-jax grow`` prints.

    Returns the arguments, the old run's model and parameters, the new facts and program, and parameters before and after.
    """
    graphdef, params = create(old, seed=1)
    checkpoints = Checkpoints(folder / "run", old.config, old.vocabulary, old.languages, {})
    checkpoints.save(3, {"params": jax.tree.map(jnp.asarray, params)})
    checkpoints.wait()
    (folder / "el.txt").write_text("\n".join(GREEK))
    arguments = ["grow", str(folder / "run"), "--language", "el", "--text", str(folder / "el.txt")]
    assert cli.main([*arguments, "--pieces", "40", "--out", str(folder / "grown")]) == 0
    grown = load_vocabulary(folder / "grown")

    scope = {}
    for line in capsys.readouterr().out.splitlines():  # the lines that it prints for a config work
        if line.startswith("    "):
            exec(line.strip(), scope)
    config = scope["config"]
    config.tasks = tasks
    config.optimizer.warmup_steps, config.optimizer.decay_steps, config.optimizer.learning_rate = 0, 1, 0.1
    assert config.languages == ("en", "de", "el")
    program = build_program(config, make_context(grown, config.languages, config), config.languages, one_device(config))
    new = ModelSpec(config, grown, config.languages)
    before = initialise_from(program.initialise().params, config.checkpoint.init, new)
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), program.state)._replace(params=before)
    start = jax.device_get(before)
    step, batch = make_train_step(program), make_batch(grown)
    for _ in range(3):
        state = step(state, to_devices(batch, program.mesh))
    return arguments, graphdef, params, new, program, start, jax.device_get(state.params)


def test_a_language_is_added_to_a_checkpoint_and_trained_while_the_others_stay(tmp_path, capsys, monkeypatch):
    old = facts(vocabulary(), ("en", "de"), {"layers": 1, "weights": "shared", "adapter": 4}, language_embedding=True)

    def batch(grown):
        documents = [np.array(grown.encode(line)) for line in GREEK]
        return {"mlm": {"inputs": document_rows(documents, [2] * 60, DocumentBatch(np.arange(4), 4, 16), 0)}}

    tasks = {"mlm": {"objective": "mlm", "rows": 4, "length": 16}}
    arguments, graphdef, params, new, program, start, after = grow_and_train(old, tasks, batch, tmp_path, capsys)
    for language in ("en", "de"):
        size = old.vocabulary.size
        kept = logits(new, program.graphdef, after, LATIN[:3], language, size)
        np.testing.assert_array_equal(kept, logits(new, program.graphdef, start, LATIN[:3], language, size))
        np.testing.assert_array_equal(kept, logits(old, graphdef, params, LATIN[:3], language, size))
    assert (after["embedding"][old.vocabulary.size :] != start["embedding"][old.vocabulary.size :]).any()
    moved = [name for name, leaf in flat(after).items() if (leaf != flat(start)[name]).any()]
    assert {name for name in moved if "adapter" not in name} == {"embedding", "output_bias", "language_embedding"}
    assert any("adapter" in name for name in moved)

    assert cli.main([*arguments, "--out", str(tmp_path / "grown")]) == 2
    assert "this folder already exists" in capsys.readouterr().err
    assert cli.main([*arguments, "--out", str(tmp_path / "el.txt" / "grown")]) == 2
    assert "el.txt/grown: cannot write: Not a directory" in capsys.readouterr().err
    (tmp_path / "el.txt").write_text("\n")
    assert cli.main([*arguments, "--out", str(tmp_path / "again")]) == 2
    assert "el.txt: there is no text in it" in capsys.readouterr().err and not (tmp_path / "again").exists()

    (tmp_path / "greek_of_a_user.py").write_text(f"def good(language, split): return {GREEK!r}\n")
    monkeypatch.chdir(tmp_path)  # unless a config says otherwise
    monkeypatch.setattr(sys, "path", [*sys.path])
    arguments[arguments.index("--text") + 1] = "greek_of_a_user:good"
    assert cli.main([*arguments, "--out", str(tmp_path / "by_function")]) == 0 and (tmp_path / "by_function").is_dir()


def test_translating_in_both_directions_leaves_the_old_languages_decoders_as_they_are(tmp_path, capsys):
    """English is written too, and German's weights are used by nothing: only Greek's move."""
    own, shared = {"layers": 1, "weights": "target_language"}, {"layers": 1, "weights": "shared", "adapter": 4}
    old = facts(vocabulary(), ("en", "de"), {"layers": 1, "weights": "source_language"}, decoder=(own, shared))

    def batch(grown):
        lines, languages = [*LATIN[:4], *GREEK[:4]], [0] * 4 + [2] * 4
        tokens = [grown.language_ids["en"], grown.language_ids["de"], grown.language_ids["el"]]
        documents = [np.array([tokens[n], *grown.encode(line)]) for line, n in zip(lines, languages)]

        def rows(order):
            return document_rows([documents[n] for n in order], [languages[n] for n in order], whole, 0)

        whole = DocumentBatch(np.arange(8), 8, 16)
        return {"translation": {"inputs": rows(range(8)), "targets": rows((*range(4, 8), *range(4)))}}

    tasks = {"translation": {"objective": "translation", "rows": 8, "length": 16}}
    *_, new, _, start, after = grow_and_train(old, tasks, batch, tmp_path, capsys)
    _, _, axes = model_room.abstract(new.config, vocabulary_size=new.vocabulary.size, languages=new.languages)
    axes = {
        "/".join(entry.key for entry in path): names
        for path, names in jax.tree_util.tree_leaves_with_path(axes, is_leaf=lambda node: isinstance(node, tuple))
    }
    moved, start = set(), flat(start)
    for name, leaf in flat(after).items():
        of_old, by_language = ..., "groups" in axes[name]
        if by_language or "vocabulary" in axes[name]:
            at = axes[name].index("groups" if by_language else "vocabulary")
            of_old = (*[slice(None)] * at, slice(2 if by_language else old.vocabulary.size))
        np.testing.assert_array_equal(leaf[of_old], start[name][of_old], err_msg=name)
        moved |= {name.partition("/layers")[0]} if (leaf != start[name]).any() else set()
    assert moved == {"embedding", "output_bias", "encoder/0", "decoder/0", "decoder/1"}


def one_device(config):
    return make_mesh(config.mesh, jax.devices()[:1])
