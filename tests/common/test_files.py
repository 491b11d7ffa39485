import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading

import pytest

from mlm_jax.common.disk import disk_errors, disk_problem
from mlm_jax.common.errors import UserError
from mlm_jax.common.files import (
    append_to,
    check_file_place,
    check_folder_place,
    inside,
    temporary_folder,
    whole_file,
    whole_folder,
    write_whole,
    writing,
)
from mlm_jax.common.lock import only_writer


def test_a_text_that_cannot_be_written_whole_leaves_the_old_one(tmp_path):
    file = tmp_path / "config.json"
    write_whole(file, "old ü")
    with pytest.raises(UnicodeEncodeError):
        write_whole(file, "new, then half a surrogate pair: \ud800")
    assert file.read_text(encoding="utf-8") == "old ü"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "a\\b", "..", ".", "", "a\0b", "x" * 256, None, 3, ["x"]])
def test_a_name_from_a_file_of_others_stays_in_its_folder(tmp_path, name):
    with pytest.raises(UserError, match="is not the name of a file in this folder"):
        inside(tmp_path, name)
    assert inside(tmp_path, "x..y[1]") == tmp_path / "x..y[1]"


def test_places_where_nothing_can_be_written_are_refused_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "broken").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "file/x", tmp_path / "none/x", "/", "/proc/none", tmp_path / "loop"):
        with pytest.raises(UserError):
            check_file_place(place)
    for place in (
        tmp_path / "file/x",
        tmp_path / "pipe/x",
        tmp_path / "loop",
        tmp_path / "loop/x",
        tmp_path / "broken",
    ):
        with pytest.raises(UserError):
            check_folder_place(place)
    for place in (tmp_path / "file", tmp_path / "new", tmp_path / "pipe", "/dev/null", "/dev/stdout"):
        check_file_place(place)
    for place in (tmp_path, tmp_path / "new", tmp_path / "new/x"):
        check_folder_place(place)


def test_nothing_is_written_through_a_link(tmp_path):
    precious, link = tmp_path / "precious", tmp_path / "report.html"
    precious.write_text("old")
    for target in (precious, tmp_path / "not there"):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        for write in (write_whole, lambda file, _: append_to(file), lambda file, _: whole_folder(file).__enter__()):
            with pytest.raises(UserError, match="symbolic link"):
                write(link, "new")
        with pytest.raises(UserError, match=f"Remedy: name {target}"), writing(str(link)):
            pass
    assert precious.read_text() == "old" and link.is_symlink()


def test_a_guessed_temporary_name_does_no_harm(tmp_path):
    (tmp_path / "precious").write_text("old")
    (tmp_path / "x.incomplete").symlink_to("precious")
    (tmp_path / ".x.00000000.incomplete").symlink_to("precious")
    write_whole(tmp_path / "x", "new")
    assert (tmp_path / "precious").read_text() == "old" and (tmp_path / "x").read_text() == "new"


def test_pipes_and_devices_are_written_to_as_they_are(tmp_path):
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    with writing(str(pipe)) as file:
        file.write("through")
    reader.join(10)
    assert read == ["through"] and pipe.is_fifo()
    with writing("/dev/null") as file:
        file.write("gone")
    script = "from mlm_jax.common.files import writing\nwith writing('/dev/stdout') as file: file.write('shown')"
    with (tmp_path / "redirected").open("w") as redirected:
        subprocess.run([sys.executable, "-c", script], stdout=redirected, check=True)
    assert (tmp_path / "redirected").read_text() == "shown"


KILLED = """
import os, signal, sys
from mlm_jax.common.files import whole_file, whole_folder
with whole_file(sys.argv[1]) as file, whole_folder(sys.argv[2]) as folder:
    file.write("half"), file.flush(), (folder / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_writer_removes_files_of_a_killed_one_but_not_of_a_running_one(tmp_path):
    file, folder = tmp_path / "a [x].json", tmp_path / ("long" * 60)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(file), str(folder)], check=False)
    assert killed.returncode == -signal.SIGKILL and len(list(tmp_path.iterdir())) == 2
    with whole_file(file) as other:
        other.write("slow")
        write_whole(file, "fast")  # another writer, which does not take the first one's file for abandoned
    assert file.read_text() == "slow"
    for content in ("first", "second"):
        with whole_folder(folder) as scratch:
            (scratch / "x").write_text(content)
    assert (folder / "x").read_text() == "second"
    assert sorted(tmp_path.iterdir()) == sorted([file, folder])


KILLED_WITH_FILES = """
import os, signal
from mlm_jax.common.files import temporary_folder
with temporary_folder("keys") as folder:
    (folder / "0").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_next_start_removes_temporary_files_of_a_killed_one(tmp_path, monkeypatch):
    killed = subprocess.run([sys.executable, "-c", KILLED_WITH_FILES], env={**os.environ, "TMPDIR": str(tmp_path)})
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary_folder("keys") as one, temporary_folder("keys") as other:
        assert {*tmp_path.iterdir()} == {one, other} and left not in (one, other)
        assert one.stat().st_mode & 0o077 == 0
    assert not [*tmp_path.iterdir()]


def test_a_folder_is_as_it_was_if_the_new_one_does_not_become_whole(tmp_path):
    with whole_folder(tmp_path / "x") as scratch:
        (scratch / "a").touch()
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "x") as scratch:
        (scratch / "b").touch()
        raise RuntimeError
    assert [str(file.relative_to(tmp_path)) for file in sorted(tmp_path.rglob("*"))] == ["x", "x/a"]


def test_one_writer_at_a_time_and_the_other_learns_who(tmp_path):
    store, holder = tmp_path / "store", rf"process {os.getpid()} on .* is writing here"
    with only_writer(store), pytest.raises(UserError, match=holder), only_writer(store):
        pass
    with only_writer(tmp_path / "a/b/store"):  # as of a run whose config turns out to be invalid
        pass
    assert not list(tmp_path.iterdir())
    with only_writer(tmp_path / "a/b/store"):
        (tmp_path / "a/file").touch()
    assert [file.name for file in tmp_path.rglob("*")] == ["a", "file"]
    (tmp_path / "a/file").unlink()
    for folder in ("/proc/none", "/proc/1"):  # where no folder and no file can be made
        with pytest.raises(UserError, match="cannot write: No such file"), only_writer(f"{folder}/store"):
            pass
    (tmp_path / "store.lock").symlink_to("elsewhere")
    with pytest.raises(OSError), only_writer(tmp_path / "store"):
        pass
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    "error, problem",
    [
        (OSError(errno.ENOSPC, "x"), "the disk is full"),
        (OSError(errno.EROFS, "x"), "the disk is read-only"),
        (OSError(errno.EMFILE, "x"), "the file system refuses: too many open files"),
        (
            ValueError("RESOURCE_EXHAUSTED: Error writing [OS error 28: ENOSPC No space left on device]"),
            "the disk is full",
        ),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes"), ""),
        (OSError(errno.EACCES, "x"), ""),
    ],
)
def test_errors_of_the_disk_from_every_library(error, problem):
    outer = RuntimeError("closed")
    outer.__context__ = error
    assert disk_problem(error) == disk_problem(outer) == problem


def test_errors_of_the_disk_are_one_line_and_others_are_as_they_were(tmp_path):
    whole = "the disk is full; all is whole. Remedy: free some space"
    with pytest.raises(UserError, match=whole), disk_errors("x", left="all is whole"):
        raise OSError(errno.ENOSPC, "x")
    with pytest.raises(UserError, match="its folder does not exist"), disk_errors(tmp_path / "gone" / "x"):
        (tmp_path / "gone" / "x").write_text("")
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="this folder is gone"), disk_errors(tmp_path / "run", is_there=True):
        (tmp_path / "run").rmdir()
        raise ValueError("NOT_FOUND: whatever a library says")
    (tmp_path / "run").mkdir()
    with pytest.raises(KeyError), disk_errors(tmp_path / "run", is_there=True):  # a bug of the program
        (tmp_path / "run").rmdir()
        raise KeyError("tasks")
    with pytest.raises(UserError, match="cannot write: Is a directory"), writing(str(tmp_path)):
        pass
    for other in (ValueError, FileNotFoundError):
        with pytest.raises(other), disk_errors(tmp_path / "x"):
            raise other
