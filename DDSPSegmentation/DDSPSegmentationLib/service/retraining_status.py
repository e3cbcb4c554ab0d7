"""What a retraining says about itself in its run folder, in ``status.json`` and ``curve.csv``; whether it is at work.

At work is who holds the lock of the run folder: the process takes it when it starts, and the system frees it at the
moment in which the process ends, however it ends.
"""

from __future__ import annotations

import csv
import json
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..engine.errors import StorageError
from ..engine.files import csv_text, read_json, write_json, write_text
from ..learning.finetuning import FineTuningProgress
from ..library.folder_lock import FolderLock, lock_holder
from .retraining_job import JOB_FILE
from .retraining_run import CURVE_FILE, RUN_LOCK, STATUS_FILE

RUNNING, PAUSED, INTERRUPTED = "running", "paused", "interrupted"
FAILED, DONE, DISCARDED = "failed", "done", "discarded"
CURVE_COLUMNS = ("step", "loss", "dice")
STARTING = "Starting"
_WRITE_SECONDS = 1.0


@dataclass(frozen=True)
class RunStatus:
    """How a retraining stands.

    Attributes:
        state: "running" or "paused" (a process is at work on it, on this computer or on another), "interrupted" (it
            can be resumed), "failed" (with ``message`` and ``next_step``; it can be resumed), "done" (``version`` is
            the candidate; '' and a ``message`` where training did not help), or "discarded" (nothing is left of it).
        pid: of the process that is at work, not of a launcher; 0 when there is none.
        fraction: of the whole; ``seconds_left``: of a run that is at work.
        made: when the run was begun; the folder's name, which holds the date, where the job cannot be read.
    """

    folder: Path
    state: str
    stage: str = ""
    fraction: float = 0.0
    seconds_left: float = 0.0
    step: int = 0
    steps: int = 0
    loss: float | None = None
    dice: float | None = None
    message: str = ""
    next_step: str = ""
    version: str = ""
    pid: int = 0
    made: str = ""


_TOLD = ("stage", "fraction", "seconds_left", "step", "steps", "loss", "dice", "message", "next_step", "version")


def run_lock(run_folder: Path) -> FolderLock:
    """The lock that whoever works on a run holds until the end."""
    return FolderLock(run_folder, RUN_LOCK, wait_seconds=2.0, what="retraining")


def read_status(run_folder: Path | str) -> RunStatus:
    """How a run stands; never raises, whatever its folder holds."""
    folder = Path(run_folder)
    holder, values = lock_holder(folder, RUN_LOCK), _read_values(folder / STATUS_FILE)
    made = str(_read_values(folder / JOB_FILE).get("made") or folder.name)  # of whatever version the job is
    state = values.get("state")
    if holder is not None:  # what it says about its end is true when it has ended
        state = PAUSED if state == PAUSED else RUNNING
    elif state not in (FAILED, DONE):
        state = INTERRUPTED if (folder / JOB_FILE).is_file() else DISCARDED
    status = RunStatus(folder, state, made=made, pid=0 if holder is None else holder.process)
    return replace(status, **{key: values[key] for key in _TOLD if key in values})


def read_curve(run_folder: Path | str) -> list[tuple[int, float | None, float | None]]:
    """Step, loss and Dice as far as they were measured, in the order of the steps."""
    rows = []
    path = Path(run_folder) / CURVE_FILE
    with suppress(OSError, ValueError, KeyError), open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            loss, dice = (float(row[key]) if row[key] else None for key in CURVE_COLUMNS[1:])
            rows.append((int(row["step"]), loss, dice))
    return rows


def _read_values(path: Path) -> dict:
    """What a file of the run says, {} when it cannot be read."""
    values = read_json(path)
    return values if isinstance(values, dict) else {}


# ---- the process's own side


class StatusWriter:
    """Keeps ``status.json`` and ``curve.csv`` of a run up to date; what cannot be written now is written later."""

    def __init__(self, run_folder: Path):
        self.folder = run_folder
        self._values: dict = {"state": RUNNING, "stage": STARTING}
        self._curve_begun = False
        self._write()

    def tell(self, told: FineTuningProgress) -> None:
        if told.loss is not None or told.dice is not None:
            self._append_to_curve(told)
        new_stage = told.stage != self._values["stage"]
        self._values |= {key: value for key, value in asdict(told).items() if value is not None}
        if new_stage or time.monotonic() - self._written >= _WRITE_SECONDS:
            self._write()

    def set_state(self, state: str) -> None:
        self._values["state"] = state
        self._write()

    def end(self, state: str, **said: str) -> None:
        """The last word, also on a full disk, and where Windows lets nobody rename while a reader has the file open."""
        self._values |= {"state": state, "seconds_left": 0.0, **said}
        if self._write():
            return
        with suppress(OSError), open(self.folder / STATUS_FILE, "r+", encoding="utf-8") as file:
            file.write(json.dumps(self._values))
            file.truncate()

    def _write(self) -> bool:
        self._written = time.monotonic()
        try:
            write_json(self._values, self.folder / STATUS_FILE)
        except StorageError:
            return False
        return True

    def _append_to_curve(self, told: FineTuningProgress) -> None:
        """A row; the first one of a resumed run takes the place of those that its lost steps have left."""
        path = self.folder / CURVE_FILE
        with suppress(OSError, StorageError):
            if not self._curve_begun:
                kept = [row for row in read_curve(self.folder) if row[0] < told.step]
                write_text(csv_text([CURVE_COLUMNS, *kept]), path)
                self._curve_begun = True
            with open(path, "a", encoding="utf-8", newline="") as file:
                file.write(csv_text([(told.step, told.loss, told.dice)]))
