"""The retraining that this Slicer runs: a process of its own, followed through the files of its run folder."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from slicer.i18n import tr as _

from ..engine.errors import Canceled, DDSPSegmentationError, WorkerError
from ..engine.files import write_text
from ..library.model_registry import ModelRegistry
from ..library.model_version import ModelVersion
from ..service.retraining import make_job, retrain
from ..service.retraining_process import (
    CANCEL_SECONDS,
    ask_to_end,
    cancel_retraining,
    discard_run,
    pause_retraining,
    start_retraining_process,
    unfinished_runs,
)
from ..service.retraining_run import LOG_FILE, NothingGained
from ..service.retraining_status import (
    DISCARDED,
    DONE,
    FAILED,
    INTERRUPTED,
    PAUSED,
    RUNNING,
    STARTING,
    RunStatus,
    StatusWriter,
    read_curve,
    read_status,
)
from .learning_curve import Point
from .user_folders import case_library, has_window, model_registry
from .worker_process import python_program

OWNER_FILE = "slicer.txt"  # in the run folder: which Slicer it belongs to
POLL_MS = 500
AT_WORK = (RUNNING, PAUSED)


class RetrainingClient:
    """Starts one retraining at a time, looks how it stands, and ends it; nothing here waits for it.

    The process ends by itself soon after this Slicer. After the module was reloaded ``find`` takes up what goes on.
    """

    def __init__(self):
        self._folder: Path | None = None
        self._process = None
        self._isPaused = False
        self._canceledAt: float | None = None
        self._points: list[Point] = []

    @property
    def isRunning(self) -> bool:
        """Whether there is a run to look at; ``look`` tells when it is over."""
        return self._folder is not None

    @property
    def isCanceling(self) -> bool:
        return self._canceledAt is not None

    def find(self, modelsFolder: Path) -> list[RunStatus]:
        """Take up the run of this Slicer that goes on; returns the others that are at work, interrupted or failed."""
        others = []
        for status in unfinished_runs(modelsFolder):
            if self._folder is None and status.state in AT_WORK and _isOurs(status.folder):
                self._follow(status.folder, None)
            if status.folder != self._folder:
                others.append(status)
        return others

    def start(self, casesFolder: Path, modelsFolder: Path, replayFolder: str, device: str) -> None:
        """Freeze what is trained on, and start.

        Raises:
            DDSPSegmentationError: what stands in its way, see ``service.retraining.make_job``.
        """
        program = python_program()
        self._launch(make_job(casesFolder, modelsFolder, replayFolder, device), program)

    def resume(self, folder: Path) -> None:
        """Go on with a run that was interrupted or failed. Raises like ``start``."""
        self._launch(Path(folder), python_program())

    def look(self) -> RunStatus:
        """How the run stands now; one that is over is let go of.

        Raises:
            DDSPSegmentationError: a run that is to be canceled cannot be deleted.
        """
        status = read_status(self._folder)
        if self._process is not None and status.state not in AT_WORK:
            # It has not taken up its work yet, or has just put it down: whether its program runs is known here.
            code = self._process.poll()
            if code is None:
                status = replace(status, state=RUNNING)
            elif status.state == INTERRUPTED and status.stage == STARTING and not self.isCanceling:
                status = self._endedSilently(code)
        if self.isCanceling and status.state != DONE:
            if status.state in AT_WORK and time.monotonic() < self._canceledAt + CANCEL_SECONDS:
                return status  # it ends by itself in a moment
            cancel_retraining(self._letGo(), patience_seconds=0)
            return replace(status, state=DISCARDED)
        if status.state not in AT_WORK:
            self.points()
            folder = self._letGo()
            if status.state == DONE:
                with suppress(DDSPSegmentationError):
                    discard_run(folder)
        return status

    def cancel(self, wait: bool = False) -> None:
        """Let the run end and delete what it made so far; ``look`` does so as soon as its process is gone.

        Args:
            wait: do it now, which may take seconds. Raises like ``look`` then.

        Raises:
            StorageError: the run folder cannot be written.
        """
        if self._folder is None:
            return
        if wait:
            cancel_retraining(self._letGo())
        elif not self.isCanceling:
            self._canceledAt = time.monotonic()
            ask_to_end(self._folder)

    def yieldTo(self, busy: bool) -> None:
        """Let the run wait while something else needs the processor, also one that is started meanwhile.

        Raises:
            StorageError: the run folder cannot be written.
        """
        changed, self._isPaused = busy != self._isPaused, busy
        if changed and self._folder is not None:
            pause_retraining(self._folder, busy)

    def points(self) -> list[Point]:
        """Step, loss and Dice of the run, or of the last one; see ``service.retraining_status.read_curve``."""
        if self._folder is not None:
            self._points = read_curve(self._folder) or self._points
        return self._points

    def _endedSilently(self, code: int) -> RunStatus:
        """Say it in its place, or it would count as starting for a while."""
        cause = _("The retraining's program ended while it was starting (exit code {code}).").format(code=code)
        step = _("Resume it; if it ends again, report what {log} in {folder} says.")
        step = step.format(log=LOG_FILE, folder=self._folder)
        StatusWriter(self._folder).end(FAILED, message=cause, next_step=step)
        return read_status(self._folder)

    def _launch(self, folder: Path, program: str) -> None:
        write_text(_thisSlicer(), folder / OWNER_FILE)
        self._follow(folder, start_retraining_process(folder, [program]))

    def _follow(self, folder: Path, process) -> None:
        self._folder, self._process, self._canceledAt = folder, process, None
        self._points = []
        with suppress(DDSPSegmentationError):
            pause_retraining(folder, self._isPaused)

    def _letGo(self) -> Path:
        folder, self._folder, self._process, self._canceledAt = self._folder, None, None, None
        return folder


def _isOurs(folder: Path) -> bool:
    """Whether a run that is at work belongs to this Slicer: its owner lives, so no other process has its id."""
    with suppress(OSError, ValueError):
        return (folder / OWNER_FILE).read_text(encoding="utf-8") == _thisSlicer()
    return False


def _thisSlicer() -> str:
    return f"process {os.getpid()} on host {socket.gethostname()}"


def fine_tune(
    cases_folder: Path | str | None = None,
    models_folder: Path | str | None = None,
    replay_folder: Path | str = "",
    device: str = "auto",
    progress: Callable[[str, float], None] | None = None,
) -> ModelVersion:
    """See the module's ``fineTune``.

    In a Slicer with a window the work is done by a process of its own; views are drawn meanwhile, clicks and keys wait.
    What ``progress`` raises ends the work, deletes what it made so far, and is raised. A run that failed can be
    resumed.

    Raises:
        NothingGained: no training was better than none.
    """
    folders = Path(cases_folder or case_library().folder), Path(models_folder or model_registry().folder)
    if not has_window():
        return _fine_tune_here(make_job(*folders, replay_folder, device), progress)
    client = RetrainingClient()
    client.start(*folders, str(replay_folder), device)
    status = _wait(client, progress)
    if status.state == DONE and status.version:
        return ModelRegistry(folders[1]).version(status.version)
    if status.state == DONE:
        raise NothingGained(status.message, status.next_step)
    if status.state == DISCARDED:
        raise Canceled()
    raise WorkerError(
        status.message or _("The retraining ended unexpectedly."),
        status.next_step or _("Resume it under Learn, or discard it there."),
    )


def _fine_tune_here(run_folder: Path, progress: Callable[[str, float], None] | None) -> ModelVersion:
    raised = []

    def tell(told) -> None:
        try:
            if progress is not None:
                progress(told.stage, told.fraction)
        except BaseException as error:
            raised.append(error)
            raise

    try:
        return retrain(run_folder, tell)
    except BaseException:
        if raised:
            discard_run(run_folder)
        raise


def _wait(client: RetrainingClient, progress: Callable[[str, float], None] | None) -> RunStatus:
    """Follow a run in an event loop until it is over."""
    import qt

    loop, waking = qt.QEventLoop(), qt.QTimer()
    waking.start(POLL_MS)  # so that there is an event to wait for
    try:
        while (status := client.look()).state in AT_WORK:
            if progress is not None:
                progress(status.stage, status.fraction)
            loop.processEvents(qt.QEventLoop.ExcludeUserInputEvents | qt.QEventLoop.WaitForMoreEvents)
        return status
    except BaseException:
        with suppress(DDSPSegmentationError):
            client.cancel(wait=True)
        raise
    finally:
        waking.stop()
