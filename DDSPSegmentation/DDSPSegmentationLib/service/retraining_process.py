"""A retraining as a process of its own: ``python -m DDSPSegmentationLib.service.retraining_process RUN_FOLDER``.

It holds the lock of its run folder, by which others know that it is at work, and writes there how it stands. It waits
between two steps while the file ``pause`` is there, and ends by itself when the file ``cancel`` is, when its folder is
gone, or when its standard input closes: that is a pipe to the process that it works for, and nothing ever goes through
it. Whatever ended it, the run goes on from its folder when it is started again.
"""

from __future__ import annotations

import errno
import faulthandler
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine.errors import (
    Canceled,
    DDSPSegmentationError,
    DeviceError,
    StorageError,
    WorkerError,
    is_out_of_memory,
)
from ..engine.files import delete_file, os_errors_as
from ..learning.finetuning import FineTuningProgress
from ..library.folder_lock import FolderInUseError, lock_holder
from ..library.model_registry import ModelRegistry
from .processes import kill_process, python_environment
from .retraining import retrain, retraining_lock
from .retraining_job import JOB_FILE, RetrainingJob
from .retraining_run import LOG_FILE, RUN_LOCK, NothingGained
from .retraining_status import (
    DISCARDED,
    DONE,
    FAILED,
    INTERRUPTED,
    PAUSED,
    RUNNING,
    RunStatus,
    StatusWriter,
    read_status,
    run_lock,
)
from .runner import load_torch

if TYPE_CHECKING:
    from ..library.model_version import ModelVersion

PAUSE_FILE, CANCEL_FILE = "pause", "cancel"
EXIT_FAILED = 70  # never 1: a launcher says 1 for a process that was killed
EXIT_STOPPED = 71
EXIT_NOT_NEEDED = 72
NICENESS = 10

CANCEL_SECONDS = 5.0  # in which a process ends by itself, or is ended
_LOOK_SECONDS = 0.2


def start_retraining_process(run_folder: Path | str, command: Sequence[str] | None = None) -> subprocess.Popen:
    """Start a run, or go on with it, in the background; it ends soon after this process. See ``read_status``.

    Args:
        command: the Python to run, with its first arguments; this one by default.

    Raises:
        FolderInUseError: a process is at work on the run. DatasetError: there is no such run. StorageError,
            WorkerError: it cannot be started.
    """
    folder = Path(run_folder).resolve()
    if lock_holder(folder, RUN_LOCK) is not None:
        raise FolderInUseError(f"The retraining '{folder.name}' is at work already.", "Wait for it, or cancel it.")
    RetrainingJob.read(folder)
    for name in (PAUSE_FILE, CANCEL_FILE):
        _mark(folder / name, False)
    status = StatusWriter(folder)
    # Our end is a plain number, which nothing closes but the end of this process: not even a reload of this module.
    its_input, ours = os.pipe()
    try:
        with open(folder / LOG_FILE, "ab") as log:
            return subprocess.Popen(
                [*(command or [sys.executable]), "-m", "DDSPSegmentationLib.service.retraining_process", str(folder)],
                stdin=its_input,
                stdout=log,
                stderr=log,
                cwd=folder.parent,
                env=python_environment(),
                **_DETACHED,
            )
    except OSError as error:
        failed = WorkerError(
            f"The retraining's process could not be started ({error.strerror or error}).",
            "Install Slicer again if its Python is missing; else try again.",
        )
        os.close(ours)
        status.end(FAILED, message=failed.cause, next_step=failed.next_step)
        raise failed from error
    finally:
        os.close(its_input)


# No console window on Windows; elsewhere Ctrl-C in a terminal is for the program that started it.
_DETACHED: dict = {"start_new_session": True}
if sys.platform == "win32":
    _DETACHED = {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.BELOW_NORMAL_PRIORITY_CLASS}


def unfinished_runs(models_folder: Path | str) -> list[RunStatus]:
    """Runs that are at work, were interrupted or failed, oldest first."""
    runs = ModelRegistry(models_folder).runs_folder
    try:
        folders = sorted(path for path in runs.iterdir() if not path.name.startswith("."))
    except OSError:
        return []
    found = [read_status(folder) for folder in folders if (folder / JOB_FILE).is_file()]
    return [status for status in found if status.state not in (DONE, DISCARDED)]


def pause_retraining(run_folder: Path | str, paused: bool) -> None:
    """Make a run wait between two steps, or let it go on.

    Raises:
        StorageError: the run folder cannot be written.
    """
    _mark(Path(run_folder) / PAUSE_FILE, paused)


def _mark(path: Path, there: bool) -> None:
    cause = f"'{path.name}' in the run's folder cannot be written"
    with os_errors_as(StorageError, cause, "Check the drive of the models folder."):
        if there:
            path.touch()
        else:
            delete_file(path)


def ask_to_end(run_folder: Path | str) -> None:
    """Let the process of a run end by itself, in a moment, wherever it is. Raises StorageError."""
    folder = Path(run_folder)
    if folder.is_dir():
        _mark(folder / CANCEL_FILE, True)


def cancel_retraining(run_folder: Path | str, patience_seconds: float = CANCEL_SECONDS) -> None:
    """End the process of a run, and discard the run.

    The process is asked to end. One that does not hear is ended by the id that it wrote into its lock: while the lock
    is held, and has been by that same process for all these seconds, the id is not yet another's.

    Raises:
        FolderInUseError: its process does not end, or is one of another computer. StorageError: the folder cannot be
            deleted.
    """
    folder = Path(run_folder)
    ask_to_end(folder)
    asked = lock_holder(folder, RUN_LOCK)
    if not _wait_for_end(folder, patience_seconds):
        holder = lock_holder(folder, RUN_LOCK)
        if holder is not None and holder == asked and holder.host == socket.gethostname() and holder.process > 1:
            kill_process(holder.process)
        _wait_for_end(folder, CANCEL_SECONDS)
    discard_run(folder)


def _wait_for_end(folder: Path, seconds: float) -> bool:
    give_up = time.monotonic() + seconds
    while (at_work := lock_holder(folder, RUN_LOCK) is not None) and time.monotonic() < give_up:
        time.sleep(0.02)
    return not at_work


def discard_run(run_folder: Path | str) -> None:
    """Delete a run that is not at work, with everything it has made that is no version yet.

    Raises:
        FolderInUseError: a retraining is at work in this models folder. StorageError: it cannot be deleted.
    """
    folder = Path(run_folder)
    if not folder.is_dir():
        return
    with retraining_lock(folder.parent):
        if (holder := lock_holder(folder, RUN_LOCK)) is not None:
            cause = f"The retraining '{folder.name}' is at work in process {holder.process}."
            raise FolderInUseError(cause, "Wait for it, or cancel it.")
        aside = folder.with_name(f".discarded-{folder.name}")
        step = "Close the programs that have its files open, then try again."
        with os_errors_as(StorageError, f"The run '{folder.name}' cannot be deleted", step):
            os.replace(folder, aside)
        shutil.rmtree(aside, ignore_errors=True)


# ---- the process itself


class ReportedRun:
    """A retraining in this process that keeps its status up to date, and can be paused and stopped from outside.

    Args:
        told: called with every progress as well.
    """

    def __init__(self, run_folder: Path, told: Callable[[FineTuningProgress], None] | None = None):
        self._folder, self._told = run_folder, told or (lambda progress: None)
        self._stopped = threading.Event()
        self._ended = threading.Event()

    def run(self) -> ModelVersion:
        """Retrain; whatever is raised is in the status, too.

        Raises:
            NothingGained: it ended well, without a version.
            FolderInUseError: another process is at work on this run; its status stays as it is. Canceled: stopped.
        """
        with run_lock(self._folder):
            self._status = StatusWriter(self._folder)
            threading.Thread(target=self._watch, daemon=True).start()
            try:
                load_torch()
                version = retrain(self._folder, self._tell, self._pause, ended=self._end)
            except (Canceled, KeyboardInterrupt):
                self._status.end(INTERRUPTED)
                raise
            except NothingGained:
                raise
            except BaseException as error:
                explained = explain(error)
                self._status.end(FAILED, message=explained.cause, next_step=explained.next_step)
                raise
            finally:
                self._ended.set()
        return version

    def _end(self, outcome: ModelVersion | NothingGained) -> None:
        if isinstance(outcome, NothingGained):
            self._status.end(DONE, message=outcome.cause, next_step=outcome.next_step)
        else:
            self._status.end(DONE, version=outcome.name)

    def stop(self, *_signal: object) -> None:
        """End between two steps, with a checkpoint."""
        self._stopped.set()

    def _tell(self, progress: FineTuningProgress) -> None:
        self._status.tell(progress)
        self._told(progress)

    def _pause(self) -> None:
        if (self._folder / PAUSE_FILE).exists():
            self._status.set_state(PAUSED)
            while (self._folder / PAUSE_FILE).exists() and not self._stopped.wait(0.1):
                pass
            self._status.set_state(RUNNING)
        if self._stopped.is_set():
            raise Canceled()

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            if not self._folder.is_dir() or (self._folder / CANCEL_FILE).exists():
                os._exit(EXIT_NOT_NEEDED)


def _end_with_input() -> None:
    """End when the process that this one works for has ended, and with it the other end of the pipe."""
    while os.read(0, 4096):
        pass
    os._exit(EXIT_NOT_NEEDED)


def explain(error: BaseException) -> DDSPSegmentationError:
    """Cause and next step of whatever ended a run, without the path or name of any scan."""
    if isinstance(error, DDSPSegmentationError):
        return error
    text = f"{type(error).__name__} {error}".lower()
    if is_out_of_memory(error):
        what = "The GPU" if "cuda" in text or "mps" in text else "The computer"
        step = "Close other programs, then resume; or start again with the device CPU."
        return DeviceError(f"{what} ran out of memory.", step)
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "no space left" in text:
        return StorageError("The disk is full.", "Free some space, then resume the retraining.")
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return WorkerError(
        f"The retraining ended unexpectedly ({type(error).__name__}{place}).",
        f"Resume it; if it fails again, report what {LOG_FILE} in its folder says.",
    )


def main(words: Sequence[str]) -> int:
    """Do one run; returns the exit code, 0 only when it was done to its end."""
    (run_folder,) = words
    faulthandler.enable()
    if hasattr(os, "nice"):  # everything else goes first; on Windows it was started so
        os.nice(NICENESS)
    threading.Thread(target=_end_with_input, daemon=True).start()
    run = ReportedRun(Path(run_folder))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, run.stop)
    try:
        run.run()
    except NothingGained:
        return 0
    except Canceled:
        return EXIT_STOPPED
    except BaseException as error:
        _print_details(error)
        return EXIT_FAILED
    return 0


def _print_details(error: BaseException) -> None:
    """What happened, for the log: no message of a stranger, which may name a scan and with it a patient."""
    words = f"{error.cause}\n" if isinstance(error, DDSPSegmentationError) else ""
    if not words or error.__cause__ is not None:
        trace = error.__cause__ or error
        words += f"{''.join(traceback.format_tb(trace.__traceback__))}{type(trace).__name__}\n"
    print(words, end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # nothing to tidy up, and no thread may hold the process back
