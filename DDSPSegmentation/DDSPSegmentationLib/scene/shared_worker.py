"""The one worker of this Slicer, which panel, scripts and self test share."""

from __future__ import annotations

import shutil

import slicer

from .worker_client import WorkerClient

_worker: WorkerClient | None = None


def shared_worker() -> WorkerClient:
    """The worker, made at the first call; its process is started by its first request or by ``start()``."""
    global _worker
    if _worker is None:
        _worker = WorkerClient(slicer.util.tempDirectory(key="DDSPSegmentation"))
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
