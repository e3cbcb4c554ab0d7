"""One retraining from its job to the compared candidate; each step is skipped when an earlier process has done it.

The job is frozen, then the weights are fixed and named. Only then are the hold-out cases read, once, by the comparison;
and only with it is the candidate published, in one step: until then it is a file of its run and goes with it.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..engine.errors import DDSPSegmentationError, ModelError
from ..engine.files import delete_file, read_json, write_json
from ..engine.model import describe_model, write_description
from ..learning.comparison import compare_versions
from ..learning.dataset import Case, read_dataset
from ..learning.finetuning import FineTuner, FineTuningProgress
from ..learning.finetuning_settings import estimate_seconds as estimate_training
from ..library.case_library import CaseLibrary
from ..library.model_registry import ModelRegistry
from ..library.model_version import LEDGER_FILE, ModelVersion
from ..library.patients import read_memory
from .hold_out_uses import count_use
from .retraining_job import (
    JOB_FILE,
    OTHER_SCANNERS,
    REPLAY_FOLDER,
    START_AGAIN,
    FrozenCase,
    ReplayCases,
    RetrainingJob,
    check_training_cases,
    split_replay,
)

if TYPE_CHECKING:
    from ..learning.finetuning import FineTuned
    from ..learning.finetuning_settings import FineTuningSettings
    from ..library.case_records import StoredCase

LEDGER_SCHEMA = 1
CANDIDATE_FILE = "candidate.json"
STATUS_FILE, CURVE_FILE, LOG_FILE, RUN_LOCK = "status.json", "curve.csv", "retraining.log", "run.lock"
_SECONDS_TO_COMPARE = 8.0  # a case by two versions on two cores
_SECONDS_PER_STEP_ON_GPU = 0.15

_TRAINING_FOLDER, _COMPARISON_FOLDER = "training", "comparison"


def estimate_seconds(
    training: Sequence[StoredCase | FrozenCase], hold_out: int, replay: int, device: str, members: int
) -> tuple[float, float]:
    """How long training and comparison will take, before they start.

    Args:
        training: cases; ``hold_out``, ``replay``: how many cases.
        members: networks of the version to start from.
    """
    rehearsing = round(replay * 2 / 3)
    compared = hold_out + (replay - rehearsing) + 1
    patients = len({case.patient for case in training})
    seconds_per_step = _SECONDS_PER_STEP_ON_GPU if device in ("cuda", "mps") else None
    to_train = estimate_training(len(training), patients, rehearsing, seconds_per_step, members=members)
    return to_train if training else 0.0, compared * _SECONDS_TO_COMPARE


class NothingGained(DDSPSegmentationError):
    """The outcome of a retraining that ended as it should and made no version: the old one is still the best."""


class RetrainingRun:
    """See ``retraining.retrain``, which makes sure that there is but one at a time."""

    def __init__(
        self,
        folder: Path,
        job: RetrainingJob,
        progress: Callable[[FineTuningProgress], None],
        pause: Callable[[], None],
        settings: FineTuningSettings | None,
        ended: Callable[[ModelVersion | NothingGained], None],
    ):
        self.folder, self.job, self.settings = folder, job, settings
        self.library, self.registry = CaseLibrary(job.cases_folder), ModelRegistry(job.models_folder)
        self._progress, self._pause, self._ended = progress, pause, ended
        training, hold_out = job.training, job.hold_out
        self._seconds_to_train, self._seconds_to_compare = estimate_seconds(
            training, len(hold_out), self._count_replay(), job.device, self._count_members()
        )
        self._training_share = self._seconds_to_train / (self._seconds_to_train + self._seconds_to_compare)

    def run(self) -> ModelVersion:
        candidate = read_json(self.folder / CANDIDATE_FILE)
        if candidate is None:
            tuned, replay = self._fine_tune()
            if tuned.folder is None:
                outcome = _nothing_gained(tuned.cross_validation, self.job.parent)
                self._ended(outcome)
                _clear(self.folder)
                raise outcome
            candidate = self._fix_candidate(tuned, tuned.folder, replay)
        version = self._published(candidate) or self._publish(candidate, self._compare(candidate))
        self._tell("Done", 1.0, 0.0)
        self._ended(version)
        _clear(self.folder)
        return version

    def _count_replay(self) -> int:
        with suppress(DDSPSegmentationError):  # what reads the folder says what is wrong with it
            return len(read_dataset(self.job.replay_folder)) if self.job.replay_folder else 0
        return 0

    def _count_members(self) -> int:
        with suppress(ModelError):  # the same
            return len(describe_model(self.registry.checked_folder(self.job.parent)).members)
        return 1

    # ---- training

    def _fine_tune(self) -> tuple[FineTuned, ReplayCases]:
        """Train on the job's training cases; nothing of a hold-out case is opened."""
        job = self.job
        self._tell("Checking the cases", 0.0, self._seconds_to_train + self._seconds_to_compare)
        check_training_cases(job, self.library)
        parent = self._parent_folder()
        replay = split_replay(job, self.folder, self.library, self._pause)
        tuner = FineTuner(
            parent,
            [job.case(case) for case in job.training],
            self.folder / _TRAINING_FOLDER,
            replay=replay.rehearse,
            device=job.device,
            progress=self._tell_training,
            pause=self._pause,
            settings=self.settings,
        )
        return tuner.run(), replay

    def _parent_folder(self) -> Path:
        folder = self.registry.checked_folder(self.job.parent)
        if describe_model(folder).sha256 != self.job.parent_sha256:
            raise ModelError(f"Version '{self.job.parent}' is not the one this retraining started from.", START_AGAIN)
        return folder

    # ---- the candidate

    def _fix_candidate(self, tuned: FineTuned, folder: Path, replay: ReplayCases) -> dict:
        """Name the candidate by its weights, which from now on do not change."""
        sha256 = describe_model(folder).sha256
        name = self._free_name(sha256)
        candidate = {
            "version": name,
            "folder": folder.relative_to(self.folder).as_posix(),
            "ledger": self._ledger(tuned, replay, sha256),
            "cross_validation": tuned.cross_validation,
        }
        write_description(folder, replace(describe_model(folder), version=name))
        write_json(candidate, self.folder / CANDIDATE_FILE)
        return candidate

    def _free_name(self, sha256: str) -> str:
        taken = {version.name for version in self.registry.versions()}
        names = (f"tuned-{time.strftime('%Y-%m-%d')}-{sha256[:length]}" for length in range(4, len(sha256)))
        return next(name for name in names if name not in taken)

    def _ledger(self, tuned: FineTuned, replay: ReplayCases, sha256: str) -> dict:
        """What was trained on, what steered each choice, and what was not touched."""
        job = self.job
        return {
            **tuned.ledger,
            "schema_version": LEDGER_SCHEMA,
            "run": job.token,
            "started": job.made,
            "package_version": __version__,
            "weights_sha256": sha256,
            "training": [case.in_ledger() for case in job.training],
            "replay": [case.name for case in replay.rehearse],
            "forgetting": [case.name for case in replay.measure],
            "replay_left_out": replay.left_out,
            "hold_out": [{**case.in_ledger(), "first_read": None} for case in job.hold_out],
        }

    def _published(self, candidate: dict) -> ModelVersion | None:
        """The version, when an earlier process of this run has got so far.

        Raises:
            ModelError: it is there without its comparison, as 0.1.0 published it.
        """
        name, versions = candidate["version"], self.registry.versions()
        found = next((one for one in versions if one.name == name and one.ledger.get("run") == self.job.token), None)
        if found is not None and not found.comparison:
            raise ModelError(f"Version '{name}' was published before it was compared.", START_AGAIN)
        return found

    def _publish(self, candidate: dict, compared: Path) -> ModelVersion:
        """The candidate becomes a version together with its ledger and its comparison."""
        self._tell("Publishing the candidate", 1.0, 0.0)
        files = {path.name: path for path in sorted(compared.iterdir())}
        ledger = {LEDGER_FILE: json.dumps(candidate["ledger"], indent=2).encode()}
        return self.registry.publish(self.folder / candidate["folder"], candidate["version"], {**files, **ledger})

    # ---- the comparison

    def _compare(self, candidate: dict) -> Path:
        """Read the hold-out cases, whose time of reading is written down first; the folder of what came of it."""
        output = self.folder / _COMPARISON_FOLDER
        if output.is_dir():
            return output  # by an earlier process: it appears whole
        job, ledger, new_folder = self.job, candidate["ledger"], self.folder / candidate["folder"]
        if describe_model(new_folder).sha256 != ledger["weights_sha256"]:
            cause = f"The weights of version '{candidate['version']}' are not those of this retraining."
            raise ModelError(cause, START_AGAIN)
        memory = read_memory(self.library.folder / "patients.json")  # who turned out to be one patient meanwhile is one
        hold_out = [replace(case, patient=memory.root(case.patient)) for case in job.hold_out if self._is_there(case)]
        hold_out = [case for case in hold_out if case.patient not in memory.not_compared]
        compared, now = {case.id for case in hold_out}, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        for case in ledger["hold_out"]:
            if case["case"] in compared:
                case["first_read"] = case["first_read"] or now
        write_json(candidate, self.folder / CANDIDATE_FILE)
        forgetting, forgetting_name = self._forgetting(hold_out)
        aside = output.with_name(f".{output.name}")
        shutil.rmtree(aside, ignore_errors=True)
        compare_versions(
            self._parent_folder(),
            new_folder,
            [job.case(case) for case in hold_out],
            aside,
            old_masks=frozenset(case.id for case in hold_out if case.model_version == job.parent),
            forgetting=forgetting,
            forgetting_name=forgetting_name,
            comparisons=count_use(self.library, job.token, {case.patient for case in hold_out}),
            cross_validation=candidate["cross_validation"],
            device=job.device,
            progress=self._tell_comparison,
        )
        os.replace(aside, output)
        return output

    def _is_there(self, case: FrozenCase) -> bool:
        """A case that was deleted meanwhile is not compared."""
        stored = self.job.case(case)
        return stored.image_path.is_file() and stored.label_path.is_file()

    def _forgetting(self, hold_out: list[FrozenCase]) -> tuple[list[Case], str]:
        replay = split_replay(self.job, self.folder, self.library, self._pause).measure
        if replay:
            return list(replay), REPLAY_FOLDER
        elsewhere = self.job.of_other_scanners(hold_out)
        return [self.job.case(case) for case in elsewhere], OTHER_SCANNERS if elsewhere else ""

    # ---- what is told

    def _tell(self, stage: str, fraction: float, seconds_left: float) -> None:
        self._progress(FineTuningProgress(stage, fraction, seconds_left))

    def _tell_training(self, told: FineTuningProgress) -> None:
        seconds_left = told.seconds_left + self._seconds_to_compare
        self._progress(replace(told, fraction=told.fraction * self._training_share, seconds_left=seconds_left))

    def _tell_comparison(self, phase: str, fraction: float) -> None:
        """Tell, and wait or stop where asked to: between two cases as between two steps."""
        self._pause()
        share = self._training_share
        self._tell(phase, share + (1 - share) * fraction, self._seconds_to_compare * (1 - fraction))


def _nothing_gained(found: dict, parent: str) -> NothingGained:
    best = max(found["dice_at_stops"].values())
    cause = (
        f"Training does not help with these cases yet: patients that it left out were segmented with a mean Dice of "
        f"{found['dice_before']:.3f} before and at most {best:.3f} after it."
    )
    return NothingGained(cause, f"No version was made and '{parent}' stays; accept more cases, then retrain.")


def _clear(run_folder: Path) -> None:
    """Delete a finished run but for what its watcher still reads; the job is the last but one."""
    last = (JOB_FILE, CANDIDATE_FILE)
    for path in list(run_folder.iterdir()):
        if path.name not in (*last, STATUS_FILE, CURVE_FILE, LOG_FILE, RUN_LOCK):
            _remove(path)
    for name in last:
        _remove(run_folder / name)
    with suppress(OSError):
        run_folder.rmdir()


def _remove(path: Path) -> None:
    """Delete a file or folder, as far as the system lets us."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            delete_file(path)
