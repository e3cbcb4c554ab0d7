"""One writer at a time in a folder: a lock file that names its holder, also for folders that several hosts share."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from ..engine.errors import DDSPSegmentationError, StorageError

LOCK_NAME = ".ddsp-segmentation.lock"
_HELD_HERE: set[Path] = set()
_LOOK_AGAIN_SECONDS = 0.05
_HALF_WRITTEN_SECONDS = 3
_MOST_STALE = 5


class FolderInUseError(DDSPSegmentationError):
    """Another process holds the folder."""


class FolderLock:
    """Holds a folder for this process between ``with`` and its end.

    The lock is a file made by exclusive creation, with process id, host and time in it. One whose process has ended
    (on this host) is stale and taken over; ``note`` then says so. One of another host cannot be judged from here: it
    is named, and ``take_over`` removes it.

    Args:
        folder: exists already.
        name: of the lock file in it.
        wait_seconds: how long to wait for a holder before it is named in an error.
        what: the folder is called so in messages.

    Raises:
        FolderInUseError: another living process, or a process on another host, holds the folder.
        StorageError: the lock cannot be written.
    """

    def __init__(self, folder: Path, name: str = LOCK_NAME, wait_seconds: float = 0.0, what: str = "output folder"):
        self._path = Path(folder) / name
        self._what, self._wait_seconds = what, wait_seconds
        self._content = json.dumps(
            {
                "process": os.getpid(),
                "host": socket.gethostname(),
                "since": time.strftime("%Y-%m-%d %H:%M:%S"),
                "token": secrets.token_hex(8),
            }
        )
        self.note = ""

    def __enter__(self) -> FolderLock:
        give_up, stale = time.monotonic() + self._wait_seconds, 0
        while not self._created():
            try:
                self._remove_stale()
                stale += 1
                if stale > _MOST_STALE:
                    raise self._in_use("a process that cannot be told")
            except FolderInUseError:
                if time.monotonic() >= give_up:
                    raise
                time.sleep(_LOOK_AGAIN_SECONDS)
        _HELD_HERE.add(self._path.resolve())
        return self

    def __exit__(self, *_) -> None:
        _HELD_HERE.discard(self._path.resolve())
        if _text(self._path) == self._content:
            _unlink(self._path)

    def confirm(self) -> None:
        """Look whether the lock is still ours, before what was prepared under it becomes valid.

        Raises:
            FolderInUseError: somebody took it over meanwhile, for instance while this computer slept.
        """
        if _text(self._path) != self._content:
            raise FolderInUseError(
                f"The {self._what} '{self._path.parent.name}' was taken over by another process meanwhile.",
                "Nothing was changed; try again.",
            )

    def _created(self) -> bool:
        try:
            descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        except OSError as error:
            if isinstance(error, PermissionError) and self._path.exists():
                return False  # Windows says so while the holder's file is being deleted
            raise self._not_writable(error) from error
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(self._content)
        except OSError as error:
            _unlink(self._path)
            raise self._not_writable(error) from error
        return True

    def _remove_stale(self) -> None:
        """Delete the lock of a process that has ended; refuse when its holder may still be at work.

        Who deletes it must first make a claim file that is named after its content, so that of several processes
        that find a stale lock none deletes the lock that another one has made in its place.
        """
        if self._path.resolve() in _HELD_HERE:
            raise self._in_use("another run of this very process")
        content = _text(self._path)
        holder = _holder(content)
        if holder is not None:
            name = f"process {holder['process']} on host '{holder['host']}' (since {holder['since']})"
            if holder["host"] != socket.gethostname() or process_is_alive(holder["process"]):
                raise self._in_use(name)
        claim = self._path.with_name(f"{self._path.name}.{hashlib.sha256(content.encode()).hexdigest()[:12]}")
        if not self._claimed(claim):
            raise self._in_use("another run that is just starting")
        try:
            if _text(self._path) != content or not self._path.exists():
                return
            if holder is None and _seconds_between(self._path, claim) < _HALF_WRITTEN_SECONDS:
                raise self._in_use("a run that is just starting")
            _unlink(self._path)
            if holder is not None:
                self.note = f"The lock of an earlier run that ended without cleaning up ({name}) was taken over."
        finally:
            _unlink(claim)

    def _claimed(self, claim: Path) -> bool:
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            return True
        except FileExistsError:
            with suppress(OSError):
                if time.time() - claim.stat().st_mtime > _HALF_WRITTEN_SECONDS:
                    claim.unlink()  # whoever made it was ended within the moment that it lasts
            return False
        except OSError as error:
            raise self._not_writable(error) from error

    def _in_use(self, holder: str) -> FolderInUseError:
        return FolderInUseError(
            f"The {self._what} '{self._path.parent.name}' is in use by {holder}.",
            f"Wait for it or choose another folder; if it has ended, delete '{self._path.name}' there.",
        )

    def _not_writable(self, error: OSError) -> StorageError:
        return StorageError(
            f"The {self._what} '{self._path.parent.name}' cannot be written ({error.strerror}).",
            "Choose a folder you may write to, on a disk with free space.",
        )


def take_over(folder: Path, name: str = LOCK_NAME) -> None:
    """Remove a lock whose holder has surely ended, for instance on another host; only a person can know that.

    Raises:
        FolderInUseError: this very process, or a living one of this host, holds it.
        StorageError: it cannot be deleted.
    """
    path = Path(folder) / name
    holder = _holder(_text(path))
    ours = holder is not None and holder["host"] == socket.gethostname() and process_is_alive(holder["process"])
    if ours or path.resolve() in _HELD_HERE:
        raise FolderInUseError(
            f"'{path.parent.name}' is held by a process of this computer that is still at work.", "Wait for it."
        )
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"'{name}' cannot be deleted ({error.strerror}).", "Delete it by hand.") from error


def process_is_alive(process: int) -> bool:
    """Whether another process of this host still runs; in doubt yes."""
    if process == os.getpid():
        return False  # this process holds no lock there, so an earlier process had the same id
    if sys.platform == "win32":
        import ctypes

        kernel = ctypes.windll.kernel32
        handle = kernel.OpenProcess(0x1000, False, process)  # PROCESS_QUERY_LIMITED_INFORMATION
        if not handle:
            return kernel.GetLastError() == 5  # access denied: it exists
        code = ctypes.c_ulong()
        kernel.GetExitCodeProcess(handle, ctypes.byref(code))
        kernel.CloseHandle(handle)
        return code.value == 259  # STILL_ACTIVE
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    # Linux keeps the id of an ended process until its parent has asked how it ended.
    return not _text(Path(f"/proc/{process}/stat")).rpartition(")")[2].strip().startswith("Z")


def _unlink(path: Path) -> None:
    """Windows refuses while another process reads the file, which takes a moment."""
    for _ in range(20):
        try:
            path.unlink(missing_ok=True)
            return
        except PermissionError:
            time.sleep(_LOOK_AGAIN_SECONDS)
        except OSError:
            return


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _seconds_between(earlier: Path, later: Path) -> float:
    """By the clock of the disk they are on, which on a network is another computer's."""
    try:
        return later.stat().st_mtime - earlier.stat().st_mtime
    except OSError:
        return 0.0


def _holder(content: str) -> dict | None:
    try:
        holder = json.loads(content)
        return {"process": int(holder["process"]), "host": str(holder["host"]), "since": str(holder.get("since", "?"))}
    except (ValueError, TypeError, KeyError):
        return None
