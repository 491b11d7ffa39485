"""The command line: every verb has complete help, and errors are one line with exit code 2."""

import argparse
import os
import shlex
import subprocess
import sys

import pytest

from mlm_jax.cli import VERBS, build_parser, main, verb_module


def verbs():
    (action,) = (action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return action.choices


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_says_what_it_does_and_shows_an_example_that_parses(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"mlm-jax {name} {verb_module(name).EXAMPLE}" in shown
    assert all(action.help for action in verbs()[name]._actions)
    arguments = shlex.split(verb_module(name).EXAMPLE.partition(" < ")[0])
    assert build_parser().parse_args([name, *arguments]).verb == name


@pytest.mark.parametrize(
    "arguments", [[], ["trian"], ["train"], ["train", "--config", "c.py"], ["embed"], ["translate", "runs/mine"]]
)
def test_an_incomplete_command_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: mlm-jax" in capsys.readouterr().err


def test_errors_are_one_line_and_leave_no_output(tmp_path, capsys):
    workdir = tmp_path / "run"
    assert main(["train", "--config", str(tmp_path / "none.py"), "--workdir", str(workdir)]) == 2
    said = f"{tmp_path / 'none.py'}: there is no such config file. Remedy: see the folder configs/ for examples"
    assert capsys.readouterr().err == f"mlm-jax: error: {said}\n"
    assert not workdir.exists()


@pytest.mark.parametrize("below", ["", "run"])
def test_a_workdir_that_is_a_file_is_one_line(below, tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    for verb in ("train", "prepare", "sweep"):
        assert main([verb, "--config", "configs/demo.py", "--workdir", str(file / below)]) == 2
        assert capsys.readouterr().err == (
            f"mlm-jax: error: {file}: this is a file, so it cannot be a workdir. Remedy: give another --workdir\n"
        )


def test_paths_that_no_file_can_have_are_one_line(tmp_path, capsys):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "broken").symlink_to("nowhere")
    for path in ("loop", "loop/x", "broken", "bad\udcff", "two\nlines\x1b[31m/x"):
        place = str(tmp_path / path)
        for arguments in (
            ["train", "--config", "configs/demo.py", "--workdir"],
            ["eval"],
            ["import-hf", place, "--out"],
        ):
            if path != "two\nlines\x1b[31m/x" or arguments == ["eval"]:
                assert main([*arguments, place]) == 2
                said = capsys.readouterr().err
                assert said.startswith("mlm-jax: error: ") and said.count("\n") == 1 and "\x1b" not in said
    assert not (tmp_path / "nowhere").exists()


def test_another_runs_weights_are_named_on_the_command_line(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr("mlm_jax.run.loop.train", lambda config, workdir: given.append(config.checkpoint.init))
    file = tmp_path / "c.py"
    file.write_text(
        "from mlm_jax.config import default_config\ndef get_config():\n    c = default_config()\n"
        "    c.checkpoint.init = {'from': 'old', 'exclude': ('decoder/.*',)}\n    return c\n"
    )
    assert main(["train", "--config", str(file), "--workdir", str(tmp_path / "run"), "--init-from", "runs/1"]) == 0
    assert given == [{"from": "runs/1", "exclude": ("decoder/.*",)}]


@pytest.mark.parametrize("given", ["--runner=DirectRunner", "--runner=DirectRunner --direct_num_workers=2"])
def test_options_of_beam_are_handed_to_it(given, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(
        "mlm_jax.data.store.beam.run", lambda config, folder, count, options: found.append((count, options))
    )
    arguments = ["--config", "configs/demo.py", "--workdir", str(tmp_path), "--beam", "4", "--beam-options", given]
    assert main(["prepare", *arguments]) == 0
    assert found == [(4, given.split())]


@pytest.mark.parametrize("arguments", ["--language en a b", "a --language en b", "a b --language en"])
def test_texts_stand_before_options_and_behind_them(arguments, monkeypatch, capsys):
    found = []
    command = "mlm_jax.commands.fill_mask.fill_mask_command"
    monkeypatch.setattr(command, lambda *given, **options: found.append((given, options["language"])))
    assert main(["fill-mask", "run", *arguments.split()]) == 0
    assert found == [(("run", ["a", "b"]), "en")]
    for wrong, said in (
        (["fill-mask", "run", "a", "--langage", "en"], "--langage en; did you mean '--language'?"),
        (["report", "run", "b"], "b\n"),
    ):
        with pytest.raises(SystemExit):
            main(wrong)
        assert f"unrecognized arguments: {said}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, texts",
    [
        ("-- -a", ["-a"]),
        ("--language en -- -a b", ["-a", "b"]),
        ("a --language en -- -b", ["a", "-b"]),
        ("--language en b -- --language", ["b", "--language"]),
    ],
)
def test_texts_that_begin_with_a_dash_stand_behind_two_dashes(arguments, texts, monkeypatch, capsys):
    found = []
    monkeypatch.setattr(
        "mlm_jax.commands.fill_mask.fill_mask_command", lambda place, given, **options: found.append(given)
    )
    assert main(["fill-mask", "run", *arguments.split()]) == 0
    assert found == [texts]
    with pytest.raises(SystemExit):
        main(["fill-mask", "run", "--language", "en", "-a"])
    assert "unrecognized arguments: -a; write -- before text that begins with a dash" in capsys.readouterr().err


@pytest.mark.parametrize(
    "output, code, said",
    [
        ("open('/dev/full', 'w')", 2, "mlm-jax: error: the disk is full. Remedy: free some space\n"),
        ("os.fdopen(gone[1], 'w')", 0, ""),
    ],
)
def test_a_closed_pipe_ends_without_a_traceback(output, code, said):
    script = f"""import os, sys
from mlm_jax import cli
from mlm_jax.commands import report
gone = os.pipe()
os.close(gone[0])
sys.stdout = {output}
report.run = lambda options: print("line")
sys.exit(cli.main(["report", "run"]))"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, said)


def test_warnings_are_plain_lines_whatever_a_library_has_set_up():
    script = """import logging, sys
from mlm_jax import cli
from mlm_jax.commands import report
def warn(options):
    logging.basicConfig()  # as absl does
    logging.getLogger("mlm_jax.data.loading.task").warning("cuts 3 texts")
    _async_serialize_shardings()  # as Orbax leaves it after an error
async def _async_serialize_shardings():
    pass
report.run = warn
sys.argv = ["mlm-jax", "report", "run"]
sys.exit(cli.main())"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "mlm-jax: cuts 3 texts\n")
    notebook = """import logging, sys, types
sys.modules["ipykernel"] = types.ModuleType("ipykernel")
logging.basicConfig()
import mlm_jax
logging.getLogger("mlm_jax.data.loading.task").warning("cuts 3 texts")"""
    done = subprocess.run([sys.executable, "-c", notebook], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("mlm-jax: cuts 3 texts\n", "")


@pytest.mark.parametrize("name", ["a[1]", "betas=[0.9,0.98]", "what?", "x*"])
def test_a_workdir_whose_checkpoints_could_not_be_read_is_refused_before_anything_is_written(name, tmp_path, capsys):
    """Orbax takes the path of a checkpoint for a glob: training would end well, and every checkpoint would be unreadable."""
    (tmp_path / "en.txt").write_text("the word was light\n" * 9)
    (tmp_path / "config.py").write_text(
        "from mlm_jax.config import default_config\n\n"
        "def get_config():\n    config = default_config()\n"
        f"    config.data.corpora = {{'en': {str(tmp_path / 'en.txt')!r}}}\n    return config\n"
    )
    assert main(["train", "--config", str(tmp_path / "config.py"), "--workdir", str(tmp_path / name)]) == 2
    assert "in its path: its checkpoints could not be read. Remedy: give a workdir without" in capsys.readouterr().err
    assert not (tmp_path / name).exists()


def test_any_text_can_be_printed_in_any_locale(tmp_path):
    """Also what is no text, such as the stray bytes of a file's name."""
    missing = f"{tmp_path}/no\\udc80東.txt"  # in code, so that the config itself is UTF-8
    (tmp_path / "config.py").write_text(
        "from mlm_jax.config import default_config\n\n"
        "def get_config():\n    config = default_config()\n"
        f"    config.data.corpora = {{'de': '{missing}'}}\n    return config\n",
        encoding="utf-8",
    )
    locale = {**os.environ, "PYTHONUTF8": "0", "LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0"}
    arguments = ["prepare", "--config", str(tmp_path / "config.py"), "--workdir", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-m", "mlm_jax.cli", *arguments], env=locale, capture_output=True, timeout=120
    )
    said = done.stderr.decode("utf-8")
    assert done.returncode == 2 and "Traceback" not in said
    assert said.splitlines()[-1].startswith("mlm-jax: error: no file matches") and "東.txt" in said


def test_fill_mask_answers_a_line_before_the_next_one_is_written(monkeypatch, capsys):
    """Whoever writes the lines waits for each answer."""
    from mlm_jax.commands import fill_mask
    from mlm_jax.common.lines import windows

    read, write = os.pipe()
    monkeypatch.setattr(os, "fstat", lambda descriptor, fstat=os.fstat: fstat(read if descriptor == 0 else descriptor))
    lines = os.fdopen(read, encoding="utf-8")
    monkeypatch.setattr(fill_mask, "read_lines", lambda place: (line.rstrip("\n") for line in lines))

    class Model:
        def fill_masks(self, texts, **options):
            for window in windows(texts, 4096):
                yield from ([[]] for _ in window)
                answered.append(len(window))
                os.write(write, b"second <mask>\n") if len(answered) == 1 else os.close(write)

    answered = []
    monkeypatch.setattr("mlm_jax.inference.encoder.load", lambda place: Model())
    os.write(write, b"first <mask>\n")
    fill_mask.fill_mask_command("somewhere")
    assert answered == [1, 1] and capsys.readouterr().out == "first <mask>\nsecond <mask>\n"


@pytest.mark.parametrize(
    "error", [MemoryError("Unable to allocate 3 TiB"), RuntimeError("RESOURCE_EXHAUSTED: Out of\nmemory")], ids=str
)
def test_memory_that_is_full_is_a_line(monkeypatch, capsys, error):
    def run(options):
        raise error

    monkeypatch.setattr("mlm_jax.commands.config.run", run)
    assert main(["config"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "memory is full: " in line and "Remedy: use fewer or shorter rows" in line


def test_other_errors_of_native_code_are_not_taken_for_full_memory(monkeypatch):
    def run(options):
        raise RuntimeError("INTERNAL: a bug")

    monkeypatch.setattr("mlm_jax.commands.config.run", run)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["config"])
