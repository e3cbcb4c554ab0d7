"""A change of the model registry that Slicer does not wait for, see ``service.model_process``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..engine.errors import DDSPSegmentationError
from ..service.protocol import error_of
from .shared_worker import shared_worker
from .worker_process import WorkerProcess, python_program

MODULE = "DDSPSegmentationLib.service.model_process"


class ModelProcess:
    """Activates, rolls back or imports in a process of its own; torch never loads into Slicer for it.

    Args:
        words: the change and what it is about, see ``service.model_process``.
        onDone: called with the version's name; onError: called with the error. One of them, once, from Qt's event
            loop; none of them after ``cancel``.
    """

    def __init__(self, modelsFolder: Path, words: list[str], onDone: Callable[[str], None],
                 onError: Callable[[DDSPSegmentationError], None]):  # fmt: skip
        self._onDone, self._onError = onDone, onError
        log = shared_worker().logPath
        command = [python_program(), "-m", MODULE, str(modelsFolder), *words]
        self._process = WorkerProcess(command, log.parent, log, self._onMessage, onError, lambda gone: None)
        self._process.start()

    def cancel(self) -> None:
        """End it; the change was made or it was not."""
        self._process.kill()

    def _onMessage(self, message: dict) -> None:
        self._process.kill()  # it has said all it had to
        if message.get("event") == "result":
            self._onDone(str(message.get("version")))
        else:
            self._onError(error_of(message))
