"""What a retraining says about itself in its run folder: ``status.json``, replaced every second, and ``curve.csv``."""

from __future__ import annotations

import csv
import io
import json
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..engine.errors import DDSPSegmentationError, StorageError
from ..engine.files import write_text
from .process_identity import process_birth
from .retraining_job import JOB_FILE, RetrainingJob
from .retraining_run import CURVE_FILE, STATUS_FILE, RetrainingProgress

RUNNING, PAUSED, INTERRUPTED, FAILED, DONE, DISCARDED = (
    "running",
    "paused",
    "interrupted",
    "failed",
    "done",
    "discarded",
)
CURVE_COLUMNS = ("step", "loss", "dice")
STARTING = "Starting"
_STARTING_SECONDS = 60.0
_BEAT_SECONDS = 1.0


@dataclass(frozen=True)
class RunStatus:
    """How a retraining stands.

    Attributes:
        state: "running" or "paused" (its process is alive on this computer), "interrupted" (it can be resumed),
            "failed" (with ``message`` and ``next_step``; it can be resumed), "done" (``version`` is the candidate), or
            "discarded" (there is nothing left of it).
        pid: of the process itself, not of a launcher; 0 while it starts.
        fraction: of the whole; ``seconds_left``: of a run that is at work.
        made: when the run was begun.
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


_TOLD = ("stage", "fraction", "seconds_left", "step", "steps", "loss", "dice", "message", "next_step", "version", "pid")


def read_status(run_folder: Path | str) -> RunStatus:
    """How a run stands; never raises, whatever its folder holds."""
    folder = Path(run_folder)
    values = read_values(folder)
    try:
        made = RetrainingJob.read(folder).made
    except DDSPSegmentationError:
        made = ""
    state = values.get("state")
    if state in (RUNNING, PAUSED) and not is_at_work(values):
        state = None
    if state not in (RUNNING, PAUSED, FAILED, DONE):
        state = INTERRUPTED if (folder / JOB_FILE).is_file() else DISCARDED
    try:
        return RunStatus(folder, state, made=made, **{key: values[key] for key in _TOLD if key in values})
    except TypeError:
        return RunStatus(folder, state, made=made)


def read_curve(run_folder: Path | str) -> list[tuple[int, float | None, float | None]]:
    """Step, loss and Dice as far as they were measured, in the order of the steps."""
    rows = []
    path = Path(run_folder) / CURVE_FILE
    with suppress(OSError, ValueError, KeyError), open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            loss, dice = (float(row[key]) if row[key] else None for key in CURVE_COLUMNS[1:])
            rows.append((int(row["step"]), loss, dice))
    return rows


def read_values(folder: Path) -> dict:
    """What ``status.json`` says, {} when it cannot be read."""
    try:
        values = json.loads((folder / STATUS_FILE).read_text(encoding="utf-8"))
        return values if isinstance(values, dict) else {}
    except (OSError, ValueError):
        return {}


def is_at_work(values: dict) -> bool:
    """Whether the process that wrote this is alive on this computer; one that is only just starting counts."""
    with suppress(TypeError, ValueError):
        if values.get("state") not in (RUNNING, PAUSED) or values.get("host") != socket.gethostname():
            return False
        if not values.get("pid"):
            return 0 <= time.time() - float(values.get("updated", 0)) < _STARTING_SECONDS
        return process_birth(int(values["pid"])) == values.get("birth") != ""
    return False


# ---- the process's own side


class StatusWriter:
    """Keeps ``status.json`` and ``curve.csv`` of a run up to date; what cannot be written now is written later."""

    def __init__(self, run_folder: Path, pid: int | None = None):
        self.folder = run_folder
        pid = os.getpid() if pid is None else pid
        self._values: dict = {
            "state": RUNNING,
            "pid": pid,
            "birth": process_birth(pid),
            "host": socket.gethostname(),
            "stage": STARTING,
        }
        self._lock = threading.Lock()
        self._written = 0.0
        self._curve_begun = False
        self._write()

    def tell(self, told: RetrainingProgress) -> None:
        if told.loss is not None or told.dice is not None:
            self._append_to_curve(told)
        with self._lock:
            new_stage = told.stage != self._values["stage"]
            measured = {key: getattr(told, key) for key in ("loss", "dice") if getattr(told, key) is not None}
            plain = {key: getattr(told, key) for key in ("stage", "fraction", "seconds_left", "step", "steps")}
            self._values |= {**plain, **measured}
        if new_stage:
            self._write()
        else:
            self.beat()

    def beat(self) -> None:
        """Show that the process is alive, when it has not done so for a second."""
        if time.monotonic() - self._written >= _BEAT_SECONDS:
            self._write()

    def set_state(self, state: str) -> None:
        with self._lock:
            self._values["state"] = state
        self._write()

    def end(self, state: str, **said: str) -> None:
        """The last word, also on a full disk."""
        with self._lock:
            self._values |= {"state": state, "seconds_left": 0.0, **said}
        for _ in range(5):
            if self._write():
                return
            time.sleep(0.1)  # a reader on Windows has the file open for a moment
        with suppress(OSError), open(self.folder / STATUS_FILE, "r+", encoding="utf-8") as file:
            file.write(json.dumps(self._values))
            file.truncate()

    def _write(self) -> bool:
        with self._lock:
            self._written = time.monotonic()
            text = json.dumps({**self._values, "updated": time.time()}, indent=1) + "\n"
            try:
                write_text(text, self.folder / STATUS_FILE)
            except StorageError:
                return False
            return True

    def _append_to_curve(self, told: RetrainingProgress) -> None:
        """A row; the first one of a resumed run takes the place of those that its lost steps have left."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        path = self.folder / CURVE_FILE
        with suppress(OSError, StorageError):
            if not self._curve_begun:
                kept = [row for row in read_curve(self.folder) if row[0] < told.step]
                writer.writerows([CURVE_COLUMNS, *kept])
                write_text(text.getvalue(), path)
                text.seek(0)
                text.truncate()
                self._curve_begun = True
            writer.writerow((told.step, told.loss, told.dice))
            with open(path, "a", encoding="utf-8", newline="") as file:
                file.write(text.getvalue())
