"""One writer at a time in a folder: a lock of the operating system, on a file that also says who holds it.

The system frees the lock at the moment in which its holder ends, however it ends; so what is locked is at work, on
every host that shares the folder, and nothing is concluded from process ids, clocks or the age of a file. The file
stays where it is when it is released: whoever deleted it could delete the one that somebody else has just locked.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import threading
import time
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..engine.errors import DDSPSegmentationError, StorageError

LOCK_NAME = ".ddsp-segmentation.lock"
_BYTE = 1 << 20  # the one that is locked: far behind the text, which Windows would not let others read
_TEXT_BYTES = 512
_LOOK_AGAIN_SECONDS = 0.05
_LEAST_WAIT_SECONDS = 0.1  # who only looks, see lock_holder, is gone by then
_TAKEN = (errno.EACCES, errno.EAGAIN)

# POSIX locks belong to a process: two runs in it do not exclude each other, and the lock is gone once the process
# closes any descriptor of the file. So what is held here is remembered, and no such file is opened a second time.
_HELD: dict[tuple[int, int, str], Holder] = {}
_MUTEX = threading.Lock()
_PROVED: set[int] = set()  # drives of which it was seen that their locks keep another process out


class FolderInUseError(DDSPSegmentationError):
    """Another process, or another run of this one, holds the folder."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock, as far as it can be told."""

    process: int = 0
    host: str = ""
    since: str = ""


class FolderLock:
    """Holds a folder for this process between ``with`` and its end.

    Args:
        folder: exists already.
        name: of the lock file in it.
        wait_seconds: how long to wait for a holder before it is named in an error.
        what: the folder is called so in messages.

    Raises:
        FolderInUseError: somebody holds the folder.
        StorageError: the lock file cannot be written, or the drive does not keep two writers apart. That two hosts
            are kept apart on a shared drive can only be believed of it; two processes of this host are tried.
    """

    def __init__(self, folder: Path, name: str = LOCK_NAME, wait_seconds: float = 0.0, what: str = "output folder"):
        self._path = Path(folder) / name
        self._what, self._wait_seconds = what, wait_seconds
        self._descriptor = -1
        self._identity = (0, 0, name)

    def __enter__(self) -> FolderLock:
        give_up = time.monotonic() + max(self._wait_seconds, _LEAST_WAIT_SECONDS)
        while (in_the_way := self._take()) is not None:
            if time.monotonic() >= give_up:
                cause = f"The {self._what} '{self._path.parent.name}' is in use by {in_the_way}."
                raise FolderInUseError(cause, "Wait for it, or choose another folder.")
            time.sleep(_LOOK_AGAIN_SECONDS)
        return self

    def __exit__(self, *_) -> None:
        with _MUTEX:
            _HELD.pop(self._identity, None)
            _close(self._descriptor)

    def confirm(self) -> None:
        """Make sure, before what was written counts, that the lock file is still the one that this lock locked.

        Raises:
            FolderInUseError: somebody has deleted it, so that another writer may have come in.
        """
        with suppress(OSError):
            if _identity_of(self._path, self._path.name) == self._identity:
                return
        raise FolderInUseError(
            f"The lock file '{self._path.name}' of the {self._what} '{self._path.parent.name}' was deleted while it "
            "was in use, so that others may have written there at the same time.",
            "Nothing was changed by this. Leave the file where it is, then try again.",
        )

    def _take(self) -> str | None:
        """Lock the file; when somebody else has, who that is."""
        with _MUTEX:
            try:
                if _identity_of(self._path, self._path.name) in _HELD:
                    return "another run of this very process"
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            except OSError as error:
                raise self._refused("written", error) from error
            kept = False
            try:
                if not _lock(descriptor):
                    return _name(_read_holder(descriptor))
                self._identity = _identity_of(descriptor, self._path.name)
                if self._identity != _identity_of(self._path, self._path.name):
                    return "a process that has just deleted its lock"
                self._check_drive(descriptor)
                _HELD[self._identity] = self._write_holder(descriptor)
                self._descriptor, kept = descriptor, True
            except OSError as error:
                raise self._refused("locked", error) from error
            finally:
                if not kept:
                    _close(descriptor)
        return None

    def _check_drive(self, descriptor: int) -> None:
        """See once for each drive that its locks are more than words."""
        if self._identity[0] in _PROVED:
            return
        if not _keeps_others_out(descriptor, self._path):
            raise StorageError(
                f"The {self._what} '{self._path.parent.name}' lies on a drive whose file locks have no effect, so two "
                "programs could write there at the same time.",
                "Choose a folder on another drive, or have file locks turned on for this one.",
            )
        _PROVED.add(self._identity[0])

    def _write_holder(self, descriptor: int) -> Holder:
        holder = Holder(os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S"))
        text = json.dumps(vars(holder)).encode().ljust(_TEXT_BYTES)
        if os.fstat(descriptor).st_size > _TEXT_BYTES:
            os.ftruncate(descriptor, _TEXT_BYTES)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, text)
        if hasattr(os, "fchmod"):
            with suppress(OSError):  # the file of another account: that one has seen to it
                os.fchmod(descriptor, os.stat(self._path.parent).st_mode & 0o666 | 0o600)
        return holder

    def _refused(self, what: str, error: OSError) -> StorageError:
        return StorageError(
            f"The {self._what} '{self._path.parent.name}' cannot be {what} ({error.strerror}).",
            "Choose a folder you may write to, on a disk with free space that locks files.",
        )


def lock_holder(folder: Path, name: str = LOCK_NAME) -> Holder | None:
    """Who holds the lock of a folder at this moment; ``None`` when nobody does, or when it cannot be looked at."""
    path = Path(folder) / name
    with _MUTEX:
        try:
            identity = _identity_of(path, name)
            if identity in _HELD:
                return _HELD[identity]
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            return None
        try:
            return None if _lock(descriptor, looking=True) else _read_holder(descriptor)
        except OSError:
            return None
        finally:
            _close(descriptor)


def _lock(descriptor: int, looking: bool = False) -> bool:
    """Lock the byte at once, or say that another process has it; ``looking`` keeps away no other who only looks.

    Raises:
        OSError: this drive does not lock.
    """
    try:
        if sys.platform == "win32":
            _lock_on_windows(descriptor, patient=looking)
        else:
            import fcntl  # lockf and not flock: over NFS it reaches the server on every system

            kind = fcntl.LOCK_SH if looking else fcntl.LOCK_EX
            fcntl.lockf(descriptor, kind | fcntl.LOCK_NB, 1, _BYTE)
        return True
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        return False


def _lock_on_windows(descriptor: int, patient: bool) -> None:
    """Who only looks has to lock, too, so one who finds the byte locked may have met another look: ask once more."""
    if sys.platform == "win32":  # where type checkers know msvcrt
        import msvcrt

        for attempts_left in (2, 1, 0) if patient else (0,):
            os.lseek(descriptor, _BYTE, os.SEEK_SET)
            try:
                return msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            except OSError:
                if not attempts_left:
                    raise
                time.sleep(0.01)


def _close(descriptor: int) -> None:
    """Closing gives the lock free; Windows wants to be told first, or it takes its time."""
    if sys.platform == "win32":
        import msvcrt

        with suppress(OSError):  # it did not have the lock
            os.lseek(descriptor, _BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
    os.close(descriptor)


def _keeps_others_out(descriptor: int, path: Path) -> bool:
    """Whether another process is refused the lock that this one has: seen, not believed.

    On POSIX the other process is a fork, which asks and ends: no lock is inherited, and no interpreter starts. On
    Windows locks belong to an open file, so that a second one shows the same.
    """
    if sys.platform == "win32":
        other = os.open(path, os.O_RDWR)
        try:
            return not _lock(other)
        finally:
            _close(other)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which the child has no use for
        child = os.fork()
    if child == 0:
        got_it = True
        try:
            got_it = _lock(descriptor)
        finally:
            os._exit(got_it)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _forget_in_child() -> None:
    """A forked process holds none of its parent's locks."""
    global _MUTEX
    _MUTEX = threading.Lock()
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


def _identity_of(file: Path | int, name: str) -> tuple[int, int, str]:
    """The same for every path to a lock file. Some drives of Windows number no files, so its name counts as well."""
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return (0, 0, name)
    return found.st_dev, found.st_ino, name


def _read_holder(descriptor: int) -> Holder:
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        said = json.loads(os.read(descriptor, _TEXT_BYTES))
        return Holder(int(said["process"]), str(said["host"]), str(said.get("since", "?")))
    except (OSError, ValueError, TypeError, KeyError):
        return Holder()


def _name(holder: Holder) -> str:
    if not holder.process:
        return "another process"
    return f"process {holder.process} on host '{holder.host}' (since {holder.since})"
