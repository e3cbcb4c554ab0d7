"""Retraining on the library's training cases: fine-tune, compare the candidate with the old version, publish it.

A run lives in its own folder and goes on from there after any kill; ``retraining_run`` tells in which order.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine.errors import DatasetError, DDSPSegmentationError
from ..engine.files import make_folder
from ..engine.model import describe_model
from ..learning.comparison_words import counted, too_few_patients
from ..learning.dataset import read_dataset
from ..learning.finetuning import FineTuningProgress
from ..learning.finetuning_settings import LEAST_CASES
from ..library.case_library import CaseLibrary
from ..library.case_records import HOLD_OUT, TRAINING, StoredCase
from ..library.folder_lock import FolderLock
from ..library.model_registry import ModelRegistry
from ..library.model_version import ModelVersion
from .retraining_job import JOB_FILE, FrozenCase, RetrainingJob
from .retraining_run import NothingGained, RetrainingRun, estimate_seconds
from .retraining_status import DONE, read_status
from .runner import require_torch

if TYPE_CHECKING:
    from ..learning.finetuning_settings import FineTuningSettings

RETRAINING_LOCK = "retraining.lock"


def retraining_lock(runs: Path) -> FolderLock:
    """Held by the one retraining that is at work in a models folder."""
    return FolderLock(runs, name=RETRAINING_LOCK, what="runs folder")


@dataclass(frozen=True)
class RetrainingPlan:
    """What a retraining would do, before it starts.

    Attributes:
        parent: version that it starts from; '' when there is no usable one.
        training, hold_out: cases; ``replay``: scans in the replay folder.
        seconds: estimate of the whole on this machine's processor.
        refusals: why it cannot start; ``notes``: what the comparison will not be able to say.
    """

    parent: str
    training: int
    training_patients: int
    hold_out: int
    hold_out_patients: int
    replay: int
    seconds: float
    refusals: tuple[DDSPSegmentationError, ...]
    notes: tuple[str, ...]

    @property
    def obstacles(self) -> tuple[str, ...]:
        """Why it cannot start, each with what to do."""
        return tuple(map(str, self.refusals))


def plan_retraining(
    cases_folder: Path | str, models_folder: Path | str, replay_folder: Path | str = "", device: str = "auto"
) -> RetrainingPlan:
    """What a retraining would do; loads neither torch nor a scan, and never raises for what stands in its way."""
    refusals: list[DDSPSegmentationError] = []

    def tried(question: Callable, otherwise: object):
        try:
            return question()
        except DDSPSegmentationError as error:
            refusals.append(error)
            return otherwise

    tried(require_torch, "")
    active = tried(lambda: ModelRegistry(models_folder).active(), None)
    parent = active.name if active else ""
    members = len(active.description.members) if active and active.description else 1
    library = CaseLibrary(cases_folder)
    cases = tried(library.cases_that_count, [])
    training = [case for case in cases if case.split == TRAINING]
    hold_out = [case for case in cases if case.split == HOLD_OUT]
    patients, held_out = ({case.patient for case in part} for part in (training, hold_out))
    replay = len(tried(lambda: read_dataset(replay_folder), [])) if replay_folder else 0
    refusals += _too_few(training)
    return RetrainingPlan(
        parent,
        len(training),
        len(patients),
        len(hold_out),
        len(held_out),
        replay,
        seconds=sum(estimate_seconds(training, len(hold_out), replay, device, members)),
        refusals=tuple(refusals),
        notes=tuple(_notes(len(held_out), bool(replay_folder), len(tried(library.not_compared, [])))),
    )


def _too_few(training: Sequence[StoredCase | FrozenCase]) -> list[DatasetError]:
    """Why these cases do not do: too few, or without a second patient, whom cross-validation leaves out."""
    count = len(training)
    if count < LEAST_CASES:
        return [
            DatasetError(
                f"The case library has {counted(count, 'training case')}; retraining needs {LEAST_CASES}.",
                f"Accept {counted(LEAST_CASES - count, 'more case')} (about one in five is kept for checking).",
            )
        ]
    if len({case.patient for case in training}) < 2:
        return [DatasetError(f"All {count} training cases are of one patient.", "Accept a case of another patient.")]
    return []


def _notes(hold_out_patients: int, replay: bool, not_compared: int) -> list[str]:
    notes = [too_few_patients(hold_out_patients)]
    if not_compared:
        notes.append(
            f"{counted(not_compared, 'case')} kept for checking will not be compared: a model version was trained on "
            "another scan of the patient."
        )
    if not replay:
        notes.append(
            "No replay folder: whether old ability is lost is measured on cases of other scanners kept for checking, "
            "if there are any."
        )
    return list(filter(None, notes))


# ---- the job


def make_job(
    cases_folder: Path | str, models_folder: Path | str, replay_folder: Path | str = "", device: str = "auto"
) -> Path:
    """Freeze what a retraining works on, and make its run folder.

    Raises:
        DatasetError: too few training cases, or a replay folder without cases; ModelError: the active
            version is damaged; TorchMissingError; FolderInUseError: another retraining or a writer of the library is
            at work; StorageError.
    """
    for refusal in plan_retraining(cases_folder, models_folder, replay_folder, device).refusals:
        raise refusal
    registry, library = ModelRegistry(models_folder), CaseLibrary(cases_folder)
    runs = registry.runs_folder
    make_folder(runs, "Check its disk, or choose another models folder.")
    with retraining_lock(runs):
        _sweep(runs)
        parent = registry.active()
        with library.locked():
            cases = tuple(FrozenCase.of(case, library.folder) for case in library.cases_that_count())
        job = RetrainingJob(
            token=secrets.token_hex(8),
            made=time.strftime("%Y-%m-%d %H:%M:%S"),
            cases_folder=str(Path(cases_folder).resolve()),
            models_folder=str(Path(models_folder).resolve()),
            replay_folder=str(Path(replay_folder).resolve()) if replay_folder else "",
            device=device,
            parent=parent.name,
            parent_sha256=describe_model(parent.folder).sha256,
            cases=cases,
        )
        for refusal in _too_few(job.training):
            raise refusal
        run_folder = runs / f"run-{time.strftime('%Y-%m-%d-%H%M%S')}-{job.token[:4]}"
        aside = runs / f".{run_folder.name}"
        make_folder(aside)
        job.write(aside)
        os.replace(aside, run_folder)
    return run_folder


def _sweep(runs: Path) -> None:
    """Delete what runs that are over have left; called while none is at work."""
    for folder in runs.iterdir():
        is_over = not (folder / JOB_FILE).is_file() or read_status(folder).state == DONE
        if folder.is_dir() and (folder.name.startswith(".") or is_over):
            shutil.rmtree(folder, ignore_errors=True)


# ---- the run


def retrain(
    run_folder: Path | str,
    progress: Callable[[FineTuningProgress], None] = lambda told: None,
    pause: Callable[[], None] = lambda: None,
    settings: FineTuningSettings | None = None,
    ended: Callable[[ModelVersion | NothingGained], None] = lambda outcome: None,
) -> ModelVersion:
    """Do a job, or go on with it: fine-tune, compare the candidate, publish it with its comparison.

    Args:
        run_folder: see ``make_job``; its prepared scans, checkpoints and job are deleted at the end.
        progress: called every few steps; ``pause``: called between steps, may wait and may raise Canceled.
        ended: called with what came of it, before anything of the run is deleted.

    Returns:
        The candidate; it is not activated.

    Raises:
        DatasetError, ModelError, DeviceError, TorchMissingError, StorageError, FolderInUseError, Canceled: the run
            can be resumed unless the next step says otherwise. NothingGained: no training was better than none.
    """
    require_torch()
    run_folder = Path(run_folder)
    job = RetrainingJob.read(run_folder)
    runs = ModelRegistry(job.models_folder).runs_folder
    with retraining_lock(runs):
        return RetrainingRun(run_folder, job, progress, pause, settings, ended).run()
