"""The one worker of this Slicer, which panel, scripts and self test share."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import slicer

from ..service.process_identity import process_is_alive
from .worker_client import WorkerClient

FOLDER = "DDSPSegmentation-{process}-"

_worker: WorkerClient | None = None


def shared_worker() -> WorkerClient:
    """The worker, made at the first call; its process is started by its first request or by ``start()``."""
    global _worker
    if _worker is None:
        folder = Path(slicer.util.tempDirectory(key=FOLDER.format(process=os.getpid())))
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
        shutil.rmtree(worker.logPath.parent, ignore_errors=True)


def _remove_leftovers(temporary: Path) -> None:
    """Delete the scans that a Slicer which crashed left in the temporary folder."""
    for folder in temporary.glob(FOLDER.format(process="*") + "*"):
        found = re.match(FOLDER.format(process=r"(\d+)"), folder.name)
        process = int(found.group(1)) if found else os.getpid()
        if process != os.getpid() and not process_is_alive(process):
            shutil.rmtree(folder, ignore_errors=True)
