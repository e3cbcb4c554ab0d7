"""The one worker of this Slicer, which panel, scripts and self test share."""

from __future__ import annotations

import shutil
from contextlib import ExitStack, suppress
from pathlib import Path

import slicer

from ..engine.errors import StorageError
from ..library.folder_lock import FolderInUseError, FolderLock
from .worker_client import WorkerClient

FOLDER = "DDSPSegmentation-engine-"

_worker: WorkerClient | None = None
_lock = ExitStack()  # of its folder: what nobody holds was left by a Slicer that crashed


def shared_worker() -> WorkerClient:
    """The worker, made at the first call; its process is started by its first request or by ``start()``."""
    global _worker
    if _worker is None:
        folder = Path(slicer.util.tempDirectory(key=FOLDER))
        with suppress(StorageError):  # a drive that does not lock keeps what is left on it
            _lock.enter_context(FolderLock(folder))
        _remove_leftovers(folder.parent)
        _worker = WorkerClient(folder)
        slicer.app.connect("aboutToQuit()", end_shared_worker)
    return _worker


def end_shared_worker() -> None:
    """End the process and delete its folder of scans, answers and log."""
    global _worker
    worker, _worker = _worker, None
    if worker is not None:
        worker.onStateChanged = None  # whoever asks for the worker then would make another one
        slicer.app.disconnect("aboutToQuit()", end_shared_worker)
        worker.stop(wait=True)
        _lock.close()
        shutil.rmtree(worker.logPath.parent, ignore_errors=True)


def _remove_leftovers(temporary: Path) -> None:
    """Delete the scans that a Slicer which crashed left in the temporary folder."""
    for folder in temporary.glob(f"{FOLDER}*"):
        with suppress(FolderInUseError, StorageError):
            with FolderLock(folder):
                pass
            shutil.rmtree(folder, ignore_errors=True)
