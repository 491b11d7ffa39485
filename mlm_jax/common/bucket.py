"""Workdirs in an object store: a run works in a local copy of the workdir, which is mirrored to the bucket.

Files that changed in the copy are sent at every log line. An object is written whole or not at all, so files need no rename in the
bucket. A checkpoint consists of many objects. It is valid only if the object ``checkpoints/STEP.whole`` exists, which is written
last and removed first. A run may remove a checkpoint from the copy while it is being sent. Therefore hard links to its files are
sent: otherwise, if a run saves faster than it sends, the bucket would never contain a complete checkpoint. Arrays of checkpoints
are fetched only when they are read.

In a job of several processes each has a copy of its own, because they may run on different machines. Every process writes its
blocks of a checkpoint's arrays into its copy, sends them, and tells the others. Process 0 sends all other files, and writes
``STEP.whole`` when all processes have told. Before a checkpoint is saved, every process has sent the last one.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import logging
import os
import re
import shutil
import socket
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import tensorstore as ts

from mlm_jax.common.addresses import is_local
from mlm_jax.common.errors import UserError, one_line
from mlm_jax.common.files import SCRATCH, inside, scratch_folder
from mlm_jax.common.lock import only_writer
from mlm_jax.common.objects import FAILURES, open_keys

log = logging.getLogger(__name__)

WRITABLE = re.compile(r"(gs|s3|file)://")  # addresses at which TensorStore writes objects
CHECKPOINTS, STORE, WHOLE = "checkpoints", "store", ".whole"
PROFILE = "profile/"  # files of which every process of a job writes its own
ARRAYS = re.compile(r"(?:(?:checkpoints/)?[^/]+/)?state/")  # prefixes of the names of a checkpoint's arrays
# Prefixes of the names of all files of a checkpoint.
CHECKPOINT = re.compile(r"(?:checkpoints/)?\d[^/]*(?=/)|checkpoints/[^/]+(?=/)")
UNFINISHED = ".orbax-checkpoint-tmp"
LOCK = "run.lock"  # the object that names the process which uses the workdir
ANSWER = 60  # seconds in which a bucket must answer at first; TensorStore itself tries again for many minutes
PAUSE = 0.2  # seconds between two looks for messages of other processes
AT_ONCE = 256 << 20  # bytes of objects that are transferred at the same time
Stamp = tuple[int, int]  # time of a file's last change in nanoseconds, and its bytes


class Job(Protocol):
    """The processes of a job, which send messages to each other.

    Attributes:
      index: the index of this process.
    """

    index: int

    def meet(self, place: str) -> None:
        """Return when all processes have called this with the same name of a place."""

    def tell(self, message: str) -> None:
        """Tell the other processes something."""

    def have_told(self, message: str) -> bool:
        """Return whether all processes, this one included, have told something."""


class LocalWorkdir:
    """The folder in which a run works. In this base class it is the workdir itself, so nothing is sent.

    Attributes:
      folder: a folder of this machine.
      address: the workdir as the user named it.
      is_shared: whether all processes of the job work in this folder; otherwise each has a folder of its own.
    """

    def __init__(self, folder: Path, address: str):
        self.folder, self.address, self.is_shared = folder, address, True

    def push(self) -> None:
        """Send changed files to the address before this returns, and checkpoints in the background."""

    def settle(self) -> None:
        """Wait for checkpoints that are on their way."""

    def deliver(self) -> None:
        """Send everything that has changed, and return when it has arrived."""


class Copy(LocalWorkdir):
    """A local copy of a workdir, or of a checkpoint, at an address.

    Args:
      folder: the folder of the copy.
      address: ``gs://…`` or ``s3://…``.
      works: whether a run works in the copy; otherwise the copy is only read, and fetched again at the next call.
      job: the job of this process if it has several processes, each with a copy.

    Raises:
      UserError: it is an address of another kind, or contains "." or "..".
    """

    def __init__(self, folder: Path, address: str, *, works: bool = False, job: Job | None = None):
        super().__init__(folder, address)
        self.job, self.is_shared, self.is_first = job, job is None, job is None or job.index == 0
        if not WRITABLE.match(address):
            remedy = "name gs://… or s3://…, or mount the store as a folder and name the folder"
            raise UserError("a workdir cannot be at an address of this kind", file=address, remedy=remedy)
        if {".", ".."} & {*address.split("/")}:  # the copy would be outside its folder
            raise UserError("an address cannot contain '.' or '..'", file=address, remedy="name the folder itself")
        self.works = works
        self.keys = open_keys(address)
        self.files: dict[str, Stamp] = {}  # files that are the same in copy and bucket, without checkpoints
        self.checkpoints: dict[str, dict[str, Stamp]] = {}  # the files of each checkpoint
        self.left: set[str] = set()  # names of arrays that have not been fetched from the bucket
        self.links = folder.parent / "sending"  # hard links to the files of checkpoints that are being sent
        self.sending: Future[None] | None = None
        self.sender = ThreadPoolExecutor(1)
        # Whether the run has failed. Other processes may have failed, too, and are no longer waited for.
        self.has_failed = threading.Event()

    def fetch(self, *, tidy: bool = False) -> None:
        """Make the copy equal to the bucket, without the token store and the arrays.

        Args:
          tidy: whether to remove incomplete checkpoints, which a killed process has left, from the bucket.

        Raises:
          UserError: the bucket cannot be read, or an object has a name that no file can have.
        """
        with self._failures("read"):
            self.keys.read(LOCK).result(timeout=ANSWER)
            found = [name.decode() for span in _without_store() for name in self.keys.list(span).result()]
            # Consoles and mounts write empty objects "folder/" for folders.
            names = [name for name in found if name and not name.endswith("/") and name != LOCK]
            whole = {name.removesuffix(WHOLE) for name in names if name.endswith(WHOLE)}
            broken = {checkpoint for name in names if (checkpoint := _checkpoint(name)) and checkpoint not in whole}
            names = [name for name in names if not name.endswith(WHOLE) and _checkpoint(name) not in broken]
            for checkpoint in broken if tidy else ():
                self._remove_below(checkpoint)
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            self.files, self.checkpoints, self.left = {}, {}, {name for name in names if ARRAYS.match(name)}
            for name in self.left:
                self._path(name).parent.mkdir(parents=True, exist_ok=True)
            self._read(name for name in names if name not in self.left)

    def begin(self) -> None:
        """Write the name of this process into the bucket, which also shows at once whether the bucket can be written to.

        A bucket has no locks: if it has the name of another process, only a warning is logged.

        Raises:
          UserError: the bucket cannot be written to.
        """
        with self._failures("write"):
            other = self.keys.read(LOCK).result().value.decode(errors="replace")
            if other:
                log.warning(
                    "%s uses this workdir and has not ended; if it still runs, both write to %s", other, self.address
                )
            self.keys.write(LOCK, f"process {os.getpid()} on {socket.gethostname()}".encode()).result()

    def end(self) -> None:
        """Send the remaining changes, checkpoints included, and remove the name of this process.

        Raises:
          UserError: the bucket cannot be written to.
        """
        self.deliver()
        if self.is_first:
            with self._failures("write"):
                self.keys.write(LOCK, None).result()

    def bring(self, below: str) -> None:
        """Fetch the arrays whose names begin with a prefix.

        Raises:
          UserError: the bucket cannot be read.
        """
        wanted = sorted(name for name in self.left if name.startswith(below))
        with self._failures("read"):
            self._read(wanted)
        self.left -= set(wanted)

    def push(self) -> None:
        """Send the files that have changed; checkpoints follow in the background, one batch at a time.

        Raises:
          UserError: the bucket cannot be written to.
        """
        here = _stamps(self.folder, self._walk())
        here = {name: stamp for name, stamp in here.items() if self.is_first or name.startswith(PROFILE)}
        with self._failures("write"):
            self._send((name for name, stamp in here.items() if self.files.get(name) != stamp), self.folder)
            for gone in [name for name in self.files if self.is_first and name not in here]:
                self.keys.write(gone, None).result()
            self.files = here
            if self.sending is None or self.sending.done():
                self.settle()
                self._send_checkpoints()

    def settle(self) -> None:
        """Wait for checkpoints that are on their way.

        Raises:
          UserError: the bucket cannot be written to.
        """
        sending, self.sending = self.sending, None
        if sending is not None:
            with self._failures("write"):
                sending.result()

    def deliver(self) -> None:
        """Send everything that has changed, checkpoints included, and wait until it has arrived.

        Raises:
          UserError: the bucket cannot be written to.
        """
        self.settle()
        self.push()
        self.settle()

    def publish(self, file: Path) -> None:
        """Send one file.

        Raises:
          UserError: the bucket cannot be written to.
        """
        with self._failures("write"):
            self._send([file.relative_to(self.folder).as_posix()], self.folder)

    # ------------------------------------------------------------------------------------------------ details

    def _send_checkpoints(self) -> None:
        """Begin to send new and changed checkpoints; afterwards remove those from the bucket that are gone from the copy."""
        checkpoints = [f"{CHECKPOINTS}/{folder.name}" for folder in sorted((self.folder / CHECKPOINTS).glob("*"))]
        checkpoints = [
            checkpoint
            for checkpoint in checkpoints
            if UNFINISHED not in checkpoint and (self.folder / checkpoint).is_dir()
        ]
        found = {checkpoint: self._stamps_below(checkpoint) for checkpoint in checkpoints}
        gone = [checkpoint for checkpoint in self.checkpoints if checkpoint not in found]
        changed = {checkpoint: self._changed(checkpoint, files) for checkpoint, files in found.items()}
        changed = {name: files for name, files in changed.items() if files and self._link(name, files)}
        if changed or gone:
            for checkpoint in gone:
                del self.checkpoints[checkpoint]
            for checkpoint, files in changed.items():
                self.checkpoints[checkpoint] = self.checkpoints.get(checkpoint, {}) | files
            self.sending = self.sender.submit(self._send_whole, changed, gone if self.is_first else ())

    def _changed(self, checkpoint: str, files: dict[str, Stamp]) -> dict[str, Stamp]:
        """Return the files of a checkpoint that this process has to send."""
        known = self.checkpoints.get(checkpoint, {})
        return {
            name: stamp
            for name, stamp in files.items()
            if known.get(name) != stamp and (self.is_first or ARRAYS.match(name))
        }

    def _link(self, checkpoint: str, files: dict[str, Stamp]) -> bool:
        """Make hard links to the files of a checkpoint; return False if the run is removing the checkpoint."""
        shutil.rmtree(self.links / checkpoint, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            for name in files:
                (self.links / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(self.folder / name, self.links / name)
        return files.items() <= self._stamps_below(checkpoint).items()

    def _stamps_below(self, checkpoint: str) -> dict[str, Stamp]:
        walk = os.walk(self.folder / checkpoint)
        return _stamps(self.folder, (Path(below, name) for below, _, names in walk for name in names))

    def _send_whole(self, changed: dict[str, dict[str, Stamp]], gone: Iterable[str]) -> None:
        for checkpoint, files in changed.items():
            self._send(files, self.links)
            has_arrays = any(ARRAYS.match(name) for name in files)
            if self.job is not None and has_arrays:
                self.job.tell(checkpoint)
            if self.is_first and (not has_arrays or self._have_all_sent(checkpoint)):
                self.keys.write(f"{checkpoint}{WHOLE}", b"").result()
        shutil.rmtree(self.links, ignore_errors=True)
        for checkpoint in gone:  # only now: until then the bucket would have no checkpoint if this process were killed
            self._remove_below(checkpoint)

    def _have_all_sent(self, checkpoint: str) -> bool:
        """Wait until all processes have sent their blocks of a checkpoint; return False if the run fails meanwhile."""
        while self.job is not None and not self.job.have_told(checkpoint):
            if self.has_failed.wait(PAUSE):
                return False
        return True

    def _remove_below(self, checkpoint: str) -> None:
        self.keys.write(f"{checkpoint}{WHOLE}", None).result()
        self.keys.delete_range(ts.KvStore.KeyRange(f"{checkpoint}/", f"{checkpoint}0")).result()  # "0" follows "/"
        self.left = {name for name in self.left if not name.startswith(f"{checkpoint}/")}

    def _walk(self) -> Iterator[Path]:
        """Yield the files of the copy, except checkpoints, locks and temporary files."""
        for below, folders, files in os.walk(self.folder):
            top = Path(below) == self.folder
            folders[:] = [name for name in folders if not name.endswith(SCRATCH) and not (top and name == CHECKPOINTS)]
            yield from (Path(below, name) for name in files if not name.endswith((SCRATCH, ".lock")))

    def _send(self, names: Iterable[str], folder: Path) -> None:
        """Write files of a folder as objects, several at a time."""
        flying: list[Any] = []
        weight = 0
        for name in names:
            content = (folder / name).read_bytes()
            if flying and weight + len(content) > AT_ONCE:
                for future in flying:
                    future.result()
                flying, weight = [], 0
            flying.append(self.keys.write(name, content))
            weight += len(content)
        for future in flying:
            future.result()

    def _read(self, names: Iterable[str]) -> None:
        """Write objects as files, a few at a time."""
        names = list(names)
        for start in range(0, len(names), 16):
            some = names[start : start + 16]
            for name, future in [(name, self.keys.read(name)) for name in some]:
                found = future.result()
                if found.state != "value":  # the object was removed after it was listed
                    continue
                file = self._path(name)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(found.value)
                checkpoint = _checkpoint(name)
                files = self.checkpoints.setdefault(checkpoint, {}) if checkpoint else self.files
                files |= _stamps(self.folder, [file])

    def _path(self, name: str) -> Path:
        file = self.folder
        for part in name.split("/"):
            file = inside(file, part)
        return file

    @contextlib.contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            if isinstance(error, UserError):
                raise
            remedy = "check the address, the credentials and the network; the same command continues"
            why = f"no answer within {ANSWER} s" if isinstance(error, TimeoutError) else one_line(error)
            raise UserError(f"cannot {what} this address: {why}", file=self.address, remedy=remedy) from error


_copies: dict[Path, Copy] = {}  # of this process, by their folders


@contextlib.contextmanager
def local_workdir(workdir: str | Path, job: Job | None = None) -> Iterator[LocalWorkdir]:
    """Yield the folder of a run: the workdir itself, or a local copy of an address, which is sent at the end and then removed.

    Args:
      workdir: a folder or an address.
      job: the job of this process if it has several processes, each of which calls this.

    Raises:
      UserError: the bucket cannot be read or written to, or another process of this machine works on the same address.
    """
    if is_local(workdir):
        yield LocalWorkdir(Path(workdir), str(workdir))
        return
    address = str(workdir).rstrip("/")
    digest = hashlib.sha256(address.encode()).hexdigest()[:16]
    home = _cache() / "work" / (digest if job is None else f"{digest}.{job.index}")  # machines may share home folders
    with only_writer(home):
        copy = Copy(home / address.rpartition("/")[2], address, works=True, job=job)
        _copies[copy.folder] = copy
        try:
            if copy.is_first:
                copy.fetch(tidy=True)
                copy.begin()
            if job is not None:
                job.meet("tidied")  # until then, incomplete checkpoints may be found
            if not copy.is_first:
                copy.fetch()
            try:
                yield copy
            except BaseException:
                copy.has_failed.set()
                raise
            finally:
                copy.end()
        finally:
            del _copies[copy.folder]
            copy.sender.shutdown()
            shutil.rmtree(home, ignore_errors=True)


def local_path(path: str | Path) -> Path:
    """Return the folder of a workdir or checkpoint; for an address, a local copy without arrays, removed when the process ends.

    Raises:
      UserError: the address cannot be read.
    """
    if is_local(path):
        return Path(path)
    address = str(path).rstrip("/")
    copy = next((copy for copy in _copies.values() if copy.address == address), None)
    if copy is None:
        held = contextlib.ExitStack()
        home = held.enter_context(scratch_folder(_cache() / "read" / "copy"))
        atexit.register(held.close)
        copy = Copy(home / address.rpartition("/")[2], address)
        copy.fetch()
        _copies[copy.folder] = copy
    elif not copy.works:
        copy.fetch()
    return copy.folder


def bring(path: Path) -> None:
    """Fetch the arrays of a checkpoint in a local copy; do nothing in other folders.

    Raises:
      UserError: the bucket cannot be read.
    """
    if copy := _copy_of(path):
        below = path.relative_to(copy.folder).as_posix()
        copy.bring("" if below == "." else f"{below}/")


def original(path: str | Path) -> str:
    """Return a path as the user named it: an address if the path lies in a local copy."""
    if is_local(path) and (copy := _copy_of(Path(path))):
        below = Path(path).relative_to(copy.folder).as_posix()
        return copy.address if below == "." else f"{copy.address}/{below}"
    return str(path)


def publish(file: Path) -> None:
    """Send a file that was written into a local copy; do nothing in other folders.

    Raises:
      UserError: the bucket cannot be written to.
    """
    if copy := _copy_of(file):
        copy.publish(file)


def _copy_of(path: Path) -> Copy | None:
    return next((copy for folder, copy in _copies.items() if path == folder or folder in path.parents), None)


def _cache() -> Path:
    """Return the folder of local copies, which needs disk space for the checkpoints that a run keeps."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").resolve() / "mlm_jax"


def _checkpoint(name: str) -> str:
    """Return the checkpoint that an object's name belongs to; "" if it belongs to none."""
    found = CHECKPOINT.match(name)
    return found[0] if found else ""


def _without_store() -> tuple[ts.KvStore.KeyRange, ts.KvStore.KeyRange]:
    """Return the ranges of names before and after those of the token store, which is read from the bucket directly."""
    return ts.KvStore.KeyRange(exclusive_max=f"{STORE}/"), ts.KvStore.KeyRange(inclusive_min=f"{STORE}0")


def _stamps(folder: Path, files: Iterable[Path]) -> dict[str, Stamp]:
    found = {}
    for file in files:
        with contextlib.suppress(FileNotFoundError):  # the file was removed after it was listed
            facts = file.stat()
            found[file.relative_to(folder).as_posix()] = (facts.st_mtime_ns, facts.st_size)
    return found
