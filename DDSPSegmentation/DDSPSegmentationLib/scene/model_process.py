"""A change of the model registry that Slicer does not wait for, see ``service.model_process``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..service.protocol import error_of
from .shared_worker import shared_worker
from .worker_client import OnError
from .worker_process import WorkerProcess, python_program

MODULE = "DDSPSegmentationLib.service.model_process"


def change_models(
    modelsFolder: Path, words: list[str], onDone: Callable[[str], None], onError: OnError
) -> WorkerProcess:
    """Activate, roll back or import in a process of its own; torch never loads into Slicer for it.

    Args:
        words: the change and what it is about, see ``service.model_process``.
        onDone: called with the version's name; onError: called with the error. One of them, once, from Qt's event
            loop.

    Returns:
        The process; after its ``kill`` the change was made or it was not, and nobody is called.
    """

    def onMessage(message: dict) -> None:
        process.kill()  # it has said all it had to
        if message.get("event") == "result":
            onDone(str(message.get("version")))
        else:
            onError(error_of(message))

    log = shared_worker().logPath
    command = [python_program(), "-m", MODULE, str(modelsFolder), *words]
    process = WorkerProcess(command, log.parent, log, onMessage, onError, lambda gone: None)
    process.start()
    return process
