"""Shards of several machines, processes or Beam workers, joined to the store of a single run."""

import time
from pathlib import Path

import numpy as np
import pytest

from mlm_jax.cli import main
from mlm_jax.common.errors import UserError
from mlm_jax.common.lock import only_writer
from mlm_jax.config import default_config
from mlm_jax.data.store.prepare import join, prepare, prepare_shard
from mlm_jax.data.store.shards import share
from mlm_jax.data.store.store import Store


def write_text(folder, files=5):
    """Write texts of several files, parallel text, held-out text and labels, and return the config of them all."""
    rng = np.random.default_rng(0)
    words = {"en": "in the beginning was word and light".split(), "de": "am anfang war das wort und licht".split()}  # noqa: SIM905

    def line(language, most=9):
        return " ".join(rng.choice(words[language], rng.integers(3, most)))

    for language in words:
        for number in range(files):
            lines = [line(language, 40) for _ in range(rng.integers(5, 60))]
            (folder / f"{language}[{number}].txt").write_text("\n".join(lines))
    for number in range(3):
        pairs = [f"{line('de')}\t{line('en')}" for _ in range(20)] + ["\tno german"] * number
        (folder / f"pairs{number}.tsv").write_text("\n".join(pairs))
    (folder / "held.txt").write_text("\n".join(line("de") for _ in range(8)))
    (folder / "genre.tsv").write_text("the light\tgood\nthe word\tbad\n" * 6)
    config = default_config()
    config.data.corpora = {language: str(folder / f"{language}*.txt") for language in words}
    config.data.parallel = {"de-en": str(folder / "pairs*.tsv")}
    config.data.validation = {"de": str(folder / "held.txt")}
    config.data.labelled = {"genre": {"format": "tsv", "language": "en", "train": str(folder / "genre.tsv")}}
    config.data.validation_fraction, config.data.max_document_tokens = 0.1, 20
    config.vocabulary.update(size=290, sentinels=2)
    return config


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    config = write_text(folder)
    prepare(config, folder / "single", progress=False)
    return config, contents(folder / "single")


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in Path(folder).rglob("*") if file.is_file()}


@pytest.mark.parametrize("count", [1, 3, 16])
def test_shards_joined_are_the_single_run_bit_for_bit(single, tmp_path, count):
    config, expected = single
    for index in reversed(range(count)):  # whatever the order
        prepare_shard(config, tmp_path / "store", index, count, progress=False)
    join(config, tmp_path / "store", count, progress=False)
    assert contents(tmp_path / "store") == expected
    assert [file.name for file in tmp_path.iterdir()] == ["store"]


@pytest.mark.slow  # eight seconds for each process to import TensorFlow
def test_processes_of_one_machine_are_the_single_run_bit_for_bit(single, tmp_path):
    config, expected = single
    config = config.copy_and_resolve_references()
    config.data.workers = 2
    prepare(config, tmp_path / "store", progress=False)
    assert contents(tmp_path / "store") == expected
    (tmp_path / "bad.txt").write_bytes(b"gut\nsch\xf6n\n")
    config.data.corpora = {"en": config.data.corpora["en"], "de": str(tmp_path / "bad.txt")}
    config.vocabulary.kind = "bytes"  # so that it is a process that meets the bad line
    with pytest.raises(UserError, match=r"bad\.txt:2: this is not UTF-8"):
        prepare(config, tmp_path / "other", progress=False)
    assert {file.name for file in tmp_path.iterdir()} == {"store", "bad.txt"}


def test_a_missing_shard_is_named_and_done_ones_are_left_alone(single, tmp_path):
    config, _ = single
    for index in (0, 2):
        prepare_shard(config, tmp_path / "store", index, 3, progress=False)
    with pytest.raises(UserError, match=r"shard 1/3 is missing. Remedy: run mlm-jax prepare --shard 1/3"):
        join(config, tmp_path / "store", 3, progress=False)
    assert not (tmp_path / "store").exists()
    manifest = tmp_path / "store.shards" / "00002-of-00003" / "manifest.json"
    before = manifest.stat().st_mtime_ns
    begun = time.perf_counter()
    prepare_shard(config, tmp_path / "store", 2, 3, progress=False)
    assert manifest.stat().st_mtime_ns == before and time.perf_counter() - begun < 5
    other = config.copy_and_resolve_references()
    other.data.max_document_tokens = 30
    prepare_shard(other, tmp_path / "store", 1, 3, progress=False)
    with pytest.raises(UserError, match="shard 1/3 was made of other text or by another config"):
        join(config, tmp_path / "store", 3, progress=False)
    with pytest.raises(UserError, match="there is no shard 3/3. Remedy: count from 0: the last is 2/3"):
        prepare_shard(config, tmp_path / "store", 3, 3, progress=False)


def test_a_language_without_text_is_found_when_shards_are_joined(single, tmp_path):
    config, _ = single
    config = config.copy_and_resolve_references()
    (tmp_path / "empty.txt").write_text("\n \n")
    config.data.corpora = {**config.data.corpora, "en": str(tmp_path / "empty.txt")}
    config.vocabulary.kind = "bytes"
    for index in range(2):
        prepare_shard(config, tmp_path / "store", index, 2, progress=False)
    with pytest.raises(UserError, match="'en' has no examples after filtering"):
        join(config, tmp_path / "store", 2, progress=False)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("count", range(1, 30, 4))
def test_every_file_is_in_one_shard_in_order_and_held_out_text_once(single, count):
    config, _ = single
    shards = [share(config, index, count) for index in range(count)]
    for kind, files in (("corpora", 10), ("parallel", 3)):
        for name in config.data[kind]:
            parts = [part for shard in shards for part in shard.data[kind].get(name, ())]
            assert parts == sorted(set(parts))
        assert sum(len(parts) for shard in shards for parts in shard.data[kind].values()) == files
    assert sum("genre" in shard.data.labelled for shard in shards) == 1
    assert sum("de" in shard.data.corpora and shard.data.validation["de"] != () for shard in shards) == 1
    sizes = [sum(map(len, shard.data.corpora.values())) for shard in shards]
    assert max(sizes) <= 10 // count + 3  # of files of about one size, no shard gets many more than another


def test_the_command_line(single, tmp_path, capsys):
    config, expected = single
    (tmp_path / "config.py").write_text(
        f"from mlm_jax.config import default_config\n\ndef get_config():\n    config = default_config()\n"
        f"    config.data.update({ {key: config.data[key] for key in ('corpora', 'parallel', 'validation', 'labelled')}!r})\n"
        "    config.data.validation_fraction, config.data.max_document_tokens = 0.1, 20\n"
        "    config.vocabulary.update(size=290, sentinels=2)\n    return config\n"
    )
    command = ["prepare", "--config", str(tmp_path / "config.py"), "--workdir", str(tmp_path)]
    assert (
        main([*command, "--shard", "0/2"]) == main([*command, "--shard", "1/2"]) == main([*command, "--join", "2"]) == 0
    )
    assert contents(tmp_path / "store") == expected
    for wrong in (["--shard", "2"], ["--shard", "2/2"], ["--join", "0"]):
        assert main([*command, *wrong]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()[-1]) > 20


def test_a_beam_pipeline_is_the_single_run_bit_for_bit(single, tmp_path):
    pytest.importorskip("apache_beam")
    from mlm_jax.data.store import beam

    config, expected = single
    prepare_shard(config, tmp_path / "store", 1, 3, progress=False)  # a pipeline continues from existing shards
    beam.run(config, tmp_path / "store", 3, ["--runner=DirectRunner"])
    assert contents(tmp_path / "store") == expected
    broken = config.copy_and_resolve_references()
    (tmp_path / "bad.txt").write_bytes(b"gut\nsch\xf6n\n")
    broken.data.corpora = {**config.data.corpora, "de": str(tmp_path / "bad.txt")}
    with pytest.raises(UserError, match=r"bad\.txt:2: this is not UTF-8"):
        beam.run(broken, tmp_path / "other", 3)
    assert not (tmp_path / "other").exists()


def test_a_beam_pipeline_filters_holds_out_and_draws_as_a_single_run(single, tmp_path):
    pytest.importorskip("apache_beam")
    from mlm_jax.data.store import beam

    config = single[0].copy_and_resolve_references()
    german = {"web": f"{tmp_path}/a*.txt", "books": {"files": config.data.corpora["de"], "documents": 40}}
    for name in ("a0", "a1"):
        (tmp_path / f"{name}.txt").write_text("das Licht und das Wort\n" * 3 + f"und ein Satz aus {name}\n" * 20)
    config.data.corpora = {"en": config.data.corpora["en"], "de": german}
    config.data.filters = ("exact_duplicates", {"filter": "length", "least": 12, "only": ("en",)})
    prepare(config, tmp_path / "single", progress=False)
    beam.run(config, tmp_path / "store", 3, ["--runner=DirectRunner"])
    assert contents(tmp_path / "store") == contents(tmp_path / "single")
    facts = Store.open(tmp_path / "store").manifest["facts"]
    assert facts["held_out"] and facts["filters"]["de:books"]["documents"][0]
    assert facts["filters"]["de:web"]["1 exact_duplicates"][0] == 43


def test_what_killed_processes_left_is_removed_whatever_their_number(single, tmp_path):
    config, expected = single
    for number in range(2):  # the second time, the store is there and up to date
        left = tmp_path / f".store.0123456{number}.incomplete" / "store.shards" / "00002-of-00003"
        left.mkdir(parents=True)
        (left / "manifest.json").write_text("{}")
        for lock in ("store.lock", "store.shards.lock"):
            (tmp_path / lock).write_text("process 1 on a host")
        prepare(config, tmp_path / "store", progress=False)
        assert [file.name for file in tmp_path.iterdir()] == ["store"]
    assert contents(tmp_path / "store") == expected


def test_what_others_hold_or_wait_for_stays(single, tmp_path):
    config, _ = single
    prepare(config, tmp_path / "store", progress=False)
    prepare_shard(config, tmp_path / "store", 0, 3, progress=False)  # of another machine, which waits for its peers
    with only_writer(tmp_path / "store"):
        prepare(config, tmp_path / "store", progress=False)
        assert sorted(file.name for file in tmp_path.iterdir()) == ["store", "store.lock", "store.shards"]
    assert (tmp_path / "store.shards" / "00000-of-00003" / "manifest.json").exists()
