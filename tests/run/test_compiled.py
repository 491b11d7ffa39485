import os
import time
from pathlib import Path

import jax
import pytest

from mlm_jax.run import compiled
from mlm_jax.run.compiled import CompiledPrograms


@pytest.fixture
def kept(tmp_path):
    """A cache with one compiled program that is recorded and one that is not."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    from jax.experimental.compilation_cache import compilation_cache

    compilation_cache.reset_cache()
    programs = CompiledPrograms(tmp_path, True)
    for number in range(2):
        jax.jit(lambda x, number=number: x * number + 7)(1.0)
        if number == 0:
            for entry in (tmp_path / "compiled").glob("*-cache"):
                os.utime(entry, (0, 0))
            programs.record()
    for entry in (tmp_path / "compiled").glob("*-cache"):
        os.utime(entry, (0, 0))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)
    compilation_cache.reset_cache()


def test_damaged_programs_are_removed_said_and_compiled_again(kept, caplog):
    entries = sorted((kept / "compiled").glob("*-cache"))
    assert len(entries) >= 2 and len(list((kept / "compiled").glob("*.crc32"))) < len(entries)
    CompiledPrograms(kept, True)
    assert sorted((kept / "compiled").glob("*-cache")) == entries and not caplog.text
    for entry in entries:
        content = bytearray(entry.read_bytes())
        content[len(content) // 2] ^= 4
        entry.write_bytes(content)
        os.utime(entry, (0, 0))
    CompiledPrograms(kept, False)  # not the first process of its job
    assert sorted((kept / "compiled").glob("*-cache")) == entries
    CompiledPrograms(kept, True)
    assert not list((kept / "compiled").iterdir())
    assert caplog.text.count("is damaged: it is compiled again") == len(entries)


def test_a_program_that_another_process_is_writing_is_left_alone(kept):
    half = kept / "compiled" / "jit_x-cache"
    half.write_bytes(b"\x78half")
    programs = CompiledPrograms(kept, True)
    programs.record()
    assert half.exists() and not (kept / "compiled" / "jit_x-cache.crc32").exists()
    os.utime(half, (time.time() - compiled.YOUNG - 1,) * 2)
    CompiledPrograms(kept, True)
    assert not half.exists()


def test_a_program_that_another_run_removes_meanwhile_is_passed_over(kept, monkeypatch, caplog):
    read = Path.read_bytes

    def read_late(file):
        file.unlink()
        return read(file)

    monkeypatch.setattr(Path, "read_bytes", read_late)
    CompiledPrograms(kept, True)
    assert not list((kept / "compiled").glob("*-cache")) and not caplog.text


def test_a_pipe_in_place_of_a_program_is_removed_and_a_folder_is_somebody_elses(kept):
    for entry in (kept / "compiled").glob("*-cache"):
        entry.unlink()
        os.mkfifo(entry)
        os.utime(entry, (0, 0))
    (kept / "compiled" / "my-cache").mkdir()
    CompiledPrograms(kept, True)
    assert [entry.name for entry in (kept / "compiled").iterdir()] == ["my-cache"]
