"""One run at a time in an output folder: a lock file that names its holder."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path

from ..engine.errors import DDSPSegmentationError, StorageError

LOCK_NAME = ".ddsp-segmentation.lock"
_HELD_HERE: set[Path] = set()


class FolderInUseError(DDSPSegmentationError):
    """Another run holds the folder."""


class FolderLock:
    """Holds a folder for this process between ``with`` and its end.

    The lock is a file made by exclusive creation, with process id, host and time in it. One whose process has ended
    (on this host) is stale and taken over; ``note`` then says so.

    Raises:
        FolderInUseError: another living process, or a process on another host, holds the folder.
        StorageError: the lock cannot be written.
    """

    def __init__(self, folder: Path):
        self._path = Path(folder) / LOCK_NAME
        self._content = json.dumps(
            {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        )
        self.note = ""

    def __enter__(self) -> FolderLock:
        if not self._created():
            self._take_over()
            if not self._created():
                raise self._in_use("another run")
        _HELD_HERE.add(self._path.resolve())
        return self

    def __exit__(self, *_) -> None:
        _HELD_HERE.discard(self._path.resolve())
        if _text(self._path) == self._content:
            self._path.unlink(missing_ok=True)

    def _created(self) -> bool:
        try:
            descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        except OSError as error:
            raise StorageError(
                f"The output folder '{self._path.parent.name}' cannot be written ({error.strerror}).",
                "Choose a folder you may write to, on a disk with free space.",
            ) from error
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(self._content)
        except OSError as error:
            self._path.unlink(missing_ok=True)
            raise StorageError(
                f"The output folder '{self._path.parent.name}' cannot be written ({error.strerror}).",
                "Choose a folder you may write to, on a disk with free space.",
            ) from error
        return True

    def _take_over(self) -> None:
        """Move a stale lock out of the way; refuse when its holder may still be at work."""
        if self._path.resolve() in _HELD_HERE:
            raise self._in_use("another run of this very process")
        content = _text(self._path)
        holder = _holder(content)
        if holder is None and _age_seconds(self._path) < 10:
            raise self._in_use("a run that is just starting")
        if holder is not None:
            name = f"process {holder['process']} on host '{holder['host']}' (since {holder['since']})"
            if holder["host"] != socket.gethostname() or process_is_alive(holder["process"]):
                raise self._in_use(name)
            self.note = f"The lock of an earlier run that ended without cleaning up ({name}) was taken over."
        aside = self._path.with_name(f"{LOCK_NAME}.{os.getpid()}")
        try:
            os.replace(self._path, aside)
        except FileNotFoundError:
            return
        if _text(aside) != content:  # another process took the stale lock over a moment earlier: it is theirs
            os.replace(aside, self._path)
            raise self._in_use("another run")
        aside.unlink(missing_ok=True)

    def _in_use(self, holder: str) -> FolderInUseError:
        return FolderInUseError(
            f"The output folder '{self._path.parent.name}' is in use by {holder}.",
            f"Wait for that run or choose another folder; if it has ended, delete '{LOCK_NAME}' there.",
        )


def process_is_alive(process: int) -> bool:
    """Whether a process of this host still runs; in doubt yes."""
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
    return True


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _age_seconds(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _holder(content: str) -> dict | None:
    try:
        holder = json.loads(content)
        return {"process": int(holder["process"]), "host": str(holder["host"]), "since": str(holder.get("since", "?"))}
    except (ValueError, TypeError, KeyError):
        return None
