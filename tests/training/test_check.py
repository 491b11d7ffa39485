"""Errors of a config are found before its data is prepared."""

import pytest

from mlm_jax.common.errors import UserError
from mlm_jax.config import default_config, located, set_key
from mlm_jax.config.values import BadValue
from mlm_jax.data.loading.loader import Loader
from mlm_jax.data.vocabulary.pieces import Vocabulary
from mlm_jax.objectives import kinds
from mlm_jax.run import loop
from mlm_jax.training.check import check_config
from mlm_jax.training.context import check_vocabulary
from tests.evaluation import runs


def make_config():
    config = default_config()
    config.data.corpora = {"en": "en.txt", "de": "de.txt"}
    config.data.parallel = {"de-en": "de-en.tsv"}
    config.steps = 10
    config.optimizer.warmup_steps = config.optimizer.decay_steps = 2
    config.tasks = {name: {"objective": name, "rows": 8, "length": 16} for name in ("mlm", "ranking")}
    config.model.update(width=16, heads=2, mlp_width=16, encoder=({"layers": 1},))
    return config


def test_a_config_that_can_work_passes_with_or_without_languages():
    config = make_config()
    config.curriculum = ({"steps": 4, "rates": {"de": 1, "en": 2, "de-en": 1}}, {"steps": 6, "rope_theta": 5.0})
    config.optimizer.freeze_table = (("embedding", 250_000), (".*", False))  # of a vocabulary that is yet to be read
    check_config(config)
    config.data.corpora, config.data.parallel = {}, {}
    check_config(config)


@pytest.mark.parametrize(
    "override, key, message",
    [
        ("optimizer.name=adamm", "optimizer.name", "no optimizer 'adamm'; did you mean 'adamw'"),
        ("optimizer.schedule=cosin", "optimizer.schedule", "did you mean 'cosine'"),
        ("model.heads=3", "model.heads", "cannot be divided among 3 heads"),
        (
            "tasks.ranking.objective=translation",
            "model.decoder",
            "task 'ranking' needs a model with a decoder. Remedy: set",
        ),
        ("tasks.mlm.objective=denoising", "model.decoder", "task 'mlm' needs a model with a decoder"),
        (
            "tasks.ranking.objective=cross_attention_mlm",
            "model.cross_lingual",
            "'ranking' needs a model with cross-lingual attention",
        ),
        (
            "tasks.ranking={'objective': 'tlm', 'rows': 8, 'length': 5000}",
            "tasks.ranking.length",
            "tasks.ranking.length is 5000, which makes rows of 10000, but the model takes rows of 8192",
        ),
        ("tasks.mlm.length=9000", "tasks.mlm.length", "tasks.mlm.length is 9000, but the model takes rows of 8192"),
        ("curriculum=({'steps': 10, 'length': 9000},)", "curriculum[0].length", "curriculum[0].length is 9000, but"),
        (
            "curriculum=({'steps': 10, 'length': {'ranking': 9000}},)",
            "curriculum[0].length",
            "curriculum[0].length is 9000, but",
        ),
        (
            "curriculum=({'steps': 10, 'mask_rate': {'ranking': 0.2}},)",
            "curriculum[0].mask_rate",
            "curriculum[0].mask_rate names task 'ranking', which masks no tokens. Remedy: leave it out",
        ),
        (
            "tasks.mlm.data='dee'",
            "tasks.mlm.data",
            "names 'dee', but config.data defines no such set; did you mean 'de'",
        ),
        (
            "tasks.ranking.data=('de-en', 'de-fr')",
            "tasks.ranking.data",
            "names 'de-fr', but config.data defines no such set",
        ),
        ("model.norm=rmss", "model.norm", "did you mean 'rms'"),
        ("model.dtype=fp16", "model.dtype", "use one of auto, float32, bfloat16"),
        (
            "tasks.mlm.objective=['mlm']",
            "tasks.mlm.objective",
            "tasks.mlm.objective is ['mlm']. Remedy: write the name of",
        ),
        ("tasks.mlm.objective=mml", "tasks.mlm.objective", "did you mean 'mlm'"),
        ("tasks.mlm.mask_rat=0.2", "tasks.mlm.mask_rat", "did you mean 'mask_rate'"),
        ("tasks.ranking.direction=forward", "tasks.ranking.direction", "did you mean 'directions'"),
        ("data.corpora={'Tagalog (new)': 'a.txt'}", "", "'Tagalog (new)' cannot be the code of a language"),
        ("tasks.mlm.mask_rate=0", "tasks.mlm.mask_rate", "tasks.mlm.mask_rate is 0. Remedy: use a number above 0 to 1"),
        ("tasks.mlm.mask_rate=1.5", "tasks.mlm.mask_rate", "tasks.mlm.mask_rate is 1.5"),
        ("tasks.mlm.unit=wrd", "tasks.mlm.unit", "tasks.mlm.unit is 'wrd'; did you mean 'word'"),
        (
            "tasks.ranking.queue=2.5",
            "tasks.ranking.queue",
            "tasks.ranking.queue is 2.5. Remedy: use a whole number from 0",
        ),
        ("tasks.mlm.objective='nowhere:Mine'", "tasks.mlm.objective", "cannot import 'nowhere:Mine'"),
        (
            "tasks.mlm.objective='json:JSONDecoder'",
            "tasks.mlm.objective",
            "is not a subclass of mlm_jax.objectives.Objective",
        ),
        ("tasks.mlm.keep=0.95", "tasks.mlm.keep", "keep=0.95 and replace=0.1 is more than 1"),
        ("tasks.mlm.evaluate_on=('ner',)", "tasks.mlm.evaluate_on", "names labelled sets, and mlm reads none"),
        ("tasks.mlm.weight='0:0,5:x'", "tasks.mlm.weight", "not a piecewise linear weight"),
        ("tasks.mlm.weight='0:-1,4:1'", "tasks.mlm.weight", "negative or not finite"),
        ("tasks.mlm.weight='0:nan'", "tasks.mlm.weight", "negative or not finite"),
        ("tasks.mlm.weight=uncertanty", "tasks.mlm.weight", "did you mean 'uncertainty'"),
        ("curriculum=({'steps': 9},)", "curriculum", "take 9 steps, but the run has 10"),
        ("curriculum=({'steps': 10, 'languages': ('fr',)},)", "curriculum", "language 'fr' is not in the run"),
        (
            "optimizer.freeze_table=(('encodr/.*', True), ('.*', False))",
            "",
            "optimizer.freeze_table: no parameter matches",
        ),
        ("model.encoder=({'layers': 1, 'weights': 'family'},)", "", "config.families"),
        ("model.encoder=(12,)", "model.encoder[0]", 'model.encoder[0] is 12. Remedy: write {"layers": 12'),
        (
            "model.encoder=({'layers': 2.5},)",
            "model.encoder[0].layers",
            "layers is 2.5. Remedy: use a whole number from 1",
        ),
        (
            "model.encoder=({'layers': 1, 'adapter': '8'},)",
            "model.encoder[0].adapter",
            "is '8'. Remedy: use a whole number from 0",
        ),
        ("model.decoder=({'layers': 1, 'wieghts': 'task'},)", "model.decoder[0].wieghts", "did you mean 'weights'"),
        ("model.decoder=({'layers': 1, 'weights': 'tsk'},)", "model.decoder[0].weights", "did you mean 'task'"),
        (
            "model.decoder=({'layers': 1, 'weights': 'task', 'adapter_weights': 'family'},)",
            "model.decoder[0].adapter_weights",
            "has weights indexed by 'task' and adapters by 'family'",
        ),
        ("model.cross_lingual={'score': 'dto', 'fuse': 'gate'}", "model.cross_lingual.score", "did you mean 'dot'"),
        ("model.cross_lingual={'score': 'dot'}", "model.cross_lingual", "model.cross_lingual has no 'fuse'"),
        ("mesh.fsdp=0", "mesh.fsdp", "mesh.fsdp is 0. Remedy: write a whole number from 1, or -1"),
        ("mixing.rates={'en': -1}", "mixing.rates.en", "mixing.rates.en is -1"),
        (
            "model.relative={'bucket': 32}",
            "model.relative.bucket",
            "has an unknown key 'bucket'; did you mean 'buckets'",
        ),
        ("model.relative={'buckets': 32}", "model.relative", "model.relative has no 'max_distance'"),
        (
            "model.relative={'buckets': 32.0, 'max_distance': 128, 'per_layer': False}",
            "model.relative.buckets",
            "is 32.0",
        ),
        ("languages=('en', 'de', 'en')", "", "config.languages names 'en' twice"),
        (
            "languages=('en', 'de', 3)",
            "languages",
            "languages is ('en', 'de', 3). Remedy: write language codes such as",
        ),
    ],
)
def test_invalid_values_are_named_with_their_key(override, key, message):
    config = make_config()
    set_key(config, *override.split("=", 1))
    with pytest.raises(UserError) as raised:
        check_config(config)
    assert message in str(raised.value)
    assert getattr(raised.value, "key", "") == key


def test_only_rows_that_are_too_long_are_refused():
    config = make_config()
    config.model.max_positions, config.model.decoder = 32, ({"layers": 1},)
    rows = {"rows": 8, "length": 16}
    config.tasks = {"mlm": {"objective": "mlm", **rows}, "tlm": {"objective": "tlm", **rows}}
    config.curriculum = ({"steps": 10, "length": 32},)  # of tasks that read text: pairs stay as they are
    check_config(config)
    config.tasks, config.curriculum = {"denoising": {"objective": "denoising", **rows, "length": 34}}, ()
    check_config(config)  # noise leaves 34 − 5 + 2 + 1 = 32 tokens for the encoder
    config.tasks["denoising"]["length"] = 36
    with pytest.raises(
        BadValue, match="tasks.denoising.length is 36, which makes rows of 34, but the model takes rows of 32"
    ):
        check_config(config)


def test_rates_of_a_store_that_is_there_already_may_name_its_pairs():
    config = make_config()
    config.data.corpora, config.data.parallel, config.languages = {}, {}, ("en", "de")
    config.mixing.strategy, config.mixing.rates = "explicit", {"en": 1, "de": 1, "de-en": 1}
    check_config(config)


def test_a_phase_cannot_change_rotary_positions_that_there_are_none_of():
    config = make_config()
    config.model.position, config.curriculum = "learned", ({"steps": 4}, {"steps": 6, "rope_theta": 5.0})
    with pytest.raises(BadValue, match=r"curriculum\[1\] has a rope_theta, but model.position is 'learned'"):
        check_config(config)


def test_nothing_is_prepared_or_written_for_a_config_that_cannot_work(tmp_path, monkeypatch):
    config = make_config()
    config.optimizer.name = "adamm"
    monkeypatch.setattr(loop, "prepared", lambda *_: pytest.fail("data was prepared"))
    with pytest.raises(BadValue) as raised:
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    file = tmp_path / "config.py"
    file.write_text("def get_config():\n    config.optimizer.name = 'adamm'\n")
    assert str(located(raised.value, file)).startswith(f"{file}:2: ")


def test_a_vocabulary_without_the_pieces_that_a_task_needs_is_refused_before_data_is_read(tmp_path):
    config = make_config()
    config.tasks = {"denoising": {"objective": "denoising", "rows": 8, "length": 64}}
    check_vocabulary(config)
    config.curriculum = ({"steps": 5}, {"steps": 5, "length": 128})
    config.vocabulary.sentinels = 5
    with pytest.raises(UserError, match="rows of 128 tokens need 6 sentinels, the vocabulary has 5"):
        check_vocabulary(config)
    Vocabulary.bytes(("en", "de"), 6).save(
        tmp_path / "bytes"
    )  # a given one counts, not the number for one to be trained
    config.vocabulary.path = str(tmp_path / "bytes")
    check_vocabulary(config)
    config.vocabulary.path = str(tmp_path / "none")
    with pytest.raises(UserError, match="no vocabulary|existing file"):
        check_vocabulary(config)


@pytest.mark.parametrize(
    "objective, name, message",
    [
        ("classification", "ner-en", "labels of words. Remedy: use objective 'token_classification'"),
        (
            "token_classification",
            "genre-en",
            "labels of whole texts. Remedy: use objective 'classification'",
        ),
    ],
)
def test_a_task_of_texts_reads_no_labels_of_words(tmp_path, objective, name, message):
    store, config = runs.make_store(tmp_path / "store"), runs.make_config()
    config.tasks = {"task": {"objective": objective, "rows": 2, "length": 8, "data": name}}
    with pytest.raises(UserError, match=f"task 'task' reads the labelled set {name!r}, which has {message}"):
        loop.check_labels(Loader(store, config, kinds(config.tasks)), config)
    config.tasks["task"]["data"] = "ner-en" if name == "genre-en" else "genre-en"
    loop.check_labels(Loader(store, config, kinds(config.tasks)), config)


@pytest.mark.parametrize(
    "init, message",
    [
        ({"from": "none"}, "none: there is no checkpoint here"),
        ({"form": "none"}, "has an unknown key 'form'; did you mean 'from'"),
        ({"like": {}}, "checkpoint.init has no 'from'"),
    ],
)
def test_weights_to_begin_with_are_looked_for_before_data_is_prepared(tmp_path, monkeypatch, init, message):
    config = make_config()
    config.checkpoint.init = init
    monkeypatch.setattr(loop, "prepared", lambda *_: pytest.fail("data was prepared"))
    with pytest.raises(UserError, match=message):
        loop.train(config, tmp_path / "run")
    if "from" not in init:
        return
    # A continued run does not need them.
    (tmp_path / "run" / "checkpoints" / "3").mkdir(parents=True)
    monkeypatch.setattr(loop, "prepared", lambda *_: (_ for _ in ()).throw(LookupError))
    with pytest.raises(LookupError):
        loop.train(config, tmp_path / "run")


def test_each_phase_has_data_for_each_task_before_any_is_read(caplog):
    config = make_config()
    config.steps, config.data.corpora = 10, {"de": {"web": "a", "wiki": "b"}, "en": "c"}
    config.data.parallel, config.data.labelled = {"de-en": "d"}, {}
    rows = {"rows": 8, "length": 16}
    config.tasks = {"mlm": {"objective": "mlm", **rows}, "rank": {"objective": "ranking", **rows}}

    def check(**phase):
        config.curriculum = ({"steps": 10, **phase},)
        check_config(config)

    check(sources=("wiki", "en", "de-en"))
    assert not caplog.records  # some text of each language is read
    check(sources=("wiki", "de-en"))
    assert "curriculum[0].sources leaves out all data of en for task mlm" in caplog.text
    for phase, problem in (
        ({"sources": "wiki"}, r"task 'rank' has no data in .* of the sources wiki. Remedy: .*or one of its sources"),
        ({"sources": {"web": 0, "wiki": 1}}, "task 'rank' has no data"),
        ({"sources": ("en", "de-en"), "languages": ("de",)}, "task 'mlm' has no data in de of the sources"),
        ({"languages": ("de",)}, r"curriculum\[0\]: task 'rank' has no data in de\. "),
        ({"rates": {"de": 0, "en": 0, "de-en": 1}}, "the rates of de, en are all 0"),
        ({"rates": {"de": 1, "en": 1}}, "the explicit rates have no rate for 'de-en'"),
        ({"strategy": "mixture"}, "mixes by the rates of a mixture, but data.mixture is not set"),
    ):
        with pytest.raises(BadValue, match=problem) as raised:
            check(**phase)
        assert raised.value.key == "curriculum"
    config.curriculum, config.mixing.strategy, config.mixing.rates = (), "explicit", {"de": 1, "en": 1}
    with pytest.raises(BadValue, match="the run: the explicit rates have no rate for 'de-en'") as raised:
        check_config(config)
    assert raised.value.key == "mixing.rates"
    config.mixing.strategy, config.mixing.rates = "alpha", {}
    config.data.labelled = {"set": {"format": "tsvv", "language": "en", "train": "e"}}
    with pytest.raises(BadValue, match="data.labelled.set.format is 'tsvv'; did you mean 'tsv'"):
        check()
    config.data.labelled = {}
    for task, problem in (
        ({"objective": "ranking", "data": ("de-en", "de:web"), **rows}, "reads pairs, but 'de:web' is of kind text"),
        ({"objective": "classification", **rows}, "reads labelled, but config.data has none"),
    ):
        config.tasks = {"one": task}
        with pytest.raises(BadValue, match=f"task 'one' {problem}") as raised:
            check()
        assert raised.value.key == "tasks.one"
