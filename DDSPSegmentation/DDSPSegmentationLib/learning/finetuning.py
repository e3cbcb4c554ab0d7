"""Fine-tuning of a model version on a few corrected cases, without losing what it knew.

The old ability is kept in four ways: few steps, batch norm with the statistics it has, a pull
towards the old weights (or rehearsal of old cases where there are any), and new weights half way between the old and
the trained ones. How many steps are taken is found by cross-validation over the patients of the training cases, and by
nothing else.

The members of a version each go on without the patients of the folds that they left out, new ones included, so that
cross-validation and candidate are one. A single network that saw everybody takes more: one run for each group of
patients that is left out, then one on all.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engine.errors import Canceled, DatasetError, ModelError, StorageError
from ..engine.files import make_folder, os_errors_as, read_json, write_json, write_text
from .dataset import Case, PreparedCase, files_digest, prepare_dataset
from .ensemble import draw_folds
from .finetuning_settings import FineTuningSettings, expected_step_seconds
from .statistics import LEAST_PATIENTS_TO_CALIBRATE, patient_means

if TYPE_CHECKING:
    from torch import Tensor

    from .training import Trainer

STATE_FILE, FOLDS_FILE = "state.json", "folds.json"
_FORMAT = 3  # of the files that say how far a run has got
MODEL_FOLDER = "model"
SAVE_SECONDS = 30.0
REPORT_STEPS = 5
_PLAN = "fine-tuning"
_PREPARING, _FINAL = "Preparing the cases", "Training on all cases"
_CALIBRATING = "Calibrating the expected Dice"


@dataclass(frozen=True)
class FineTuningProgress:
    """Where a run is: of training alone, or of a retraining with its comparison.

    Attributes:
        fraction: of the whole; ``step`` of ``steps``: of the training.
        loss, dice: of the last steps, and of the patients left out; ``None`` when not measured just now.
    """

    stage: str
    fraction: float
    seconds_left: float
    step: int = 0
    steps: int = 0
    loss: float | None = None
    dice: float | None = None


@dataclass(frozen=True)
class FineTuned:
    """What a run leaves.

    Attributes:
        folder: the model folder, its weights are final; None where no training was better than the old version.
        ledger: parent, cases, settings, and for every choice what steered it.
        cross_validation: ``patients``, ``dice_before`` and ``dice_after`` (means over patients at the chosen length),
            ``per_case`` {name: [before, after]}, ``steps``, ``left_out`` ("one patient" or "groups of patients");
            empty with a single patient. Its ``steps`` are 0 where nothing was trained.
    """

    folder: Path | None
    ledger: dict
    cross_validation: dict


class FineTuner:
    """Fine-tunes one model version; a run that was killed goes on where its folder says.

    Args:
        model: folder of the version to start from.
        cases: training cases; those of one patient never part. Nothing else steers the run.
        folder: for prepared scans, checkpoints and the new model; whoever named it deletes it.
        replay: cases of the old training to rehearse.
        progress: called with a FineTuningProgress after every few steps.
        pause: called between steps; it may wait, and may raise Canceled, after which the run can be resumed.

    Raises:
        DatasetError: no cases, or one that cannot be read; ModelError: the version, or another run's folder.
    """

    def __init__(
        self,
        model: Path | str,
        cases: Sequence[Case],
        folder: Path | str,
        *,
        replay: Sequence[Case] = (),
        device: str = "auto",
        progress: Callable[[FineTuningProgress], None] | None = None,
        pause: Callable[[], None] | None = None,
        settings: FineTuningSettings | None = None,
    ):
        if not cases:
            raise DatasetError("There are no training cases.", "Accept some corrected cases first.")
        both = {case.name for case in cases} & {case.name for case in replay}
        if both:
            raise DatasetError(f"Case '{min(both)}' is both new and replayed.", "Take it out of the replay folder.")
        self.model, self.folder, self.device = Path(model), Path(folder), device
        self.cases, self.replay_cases = list(cases), list(replay)
        self.settings = settings or FineTuningSettings()
        self._progress = progress or (lambda told: None)
        self._pause = pause or (lambda: None)
        self._starts: list[dict[str, Tensor]] = []
        self._done = 0
        self._seconds_per_step = expected_step_seconds()

    def run(self) -> FineTuned:
        """Prepare the cases, choose the length, train on all cases, write the model; unless not to train is best."""
        from ..engine.model import load_networks
        from ..engine.preprocessing import PreprocessingSettings

        networks, self._parent = load_networks(self.model)
        self._claim_folder()
        self._starts = [{key: value.clone() for key, value in network.state_dict().items()} for network in networks]
        self._network_settings = networks[0].settings
        self._preprocessing = PreprocessingSettings.from_dict(self._parent.preprocessing)
        self._steps = self.settings.all_steps(
            len(self.cases), len({case.patient for case in self.cases}), len(networks)
        )
        self._tell(_PREPARING)
        self._prepared = {case.name: case for case in self._prepare(self.cases)}
        self._replay = self._prepare(self.replay_cases)
        if self._has_members:
            return self._train_members()
        scores: dict[str, list[float]] = {}
        groups = self._groups()
        for number, names in enumerate(groups):
            scores |= self._score_left_out(number, len(groups), set(names))
        length, cross_validation = self._choose_length(scores)
        model = self._train_on_all(length) if length else None
        return FineTuned(model, self._ledger(length, scores, cross_validation), cross_validation)

    def _train_members(self) -> FineTuned:
        """Every member goes on without its own folds; the length is the one that is best for all patients so left out.

        A member without a case to learn from stays as it is.
        """
        fold_of, members = self._folds(), self._parent.members
        left_out = [{name for name, fold in fold_of.items() if fold in member["left_out"]} for member in members]
        learning = [number for number, names in enumerate(left_out) if not set(self._prepared) <= names]
        if not any(left_out[number] & set(self._prepared) for number in learning):
            cause = "No training case can be left out by a network that learns from others: nothing could be measured."
            raise DatasetError(cause, "Accept corrected cases of other patients, then retrain.")
        found = [self._score_left_out(number, len(members), left_out[number]) for number in learning]
        scores = {
            name: np.mean([one[name] for one in found if name in one], axis=0).tolist()
            for name in self._prepared
            if any(name in one for one in found)
        }
        length, cross_validation = self._choose_length(scores)
        model = self._join(length, fold_of, learning) if length else None
        return FineTuned(model, self._ledger(length, scores, cross_validation), cross_validation)

    def _folds(self) -> dict[str, int | None]:
        """The fold of each case, drawn once for a run."""
        path = self.folder / FOLDS_FILE
        kept = read_json(path)
        if kept is not None:
            return kept
        patient_of = {case.name: case.patient for case in (*self.cases, *self.replay_cases)}
        scans = {
            case.name: (patient_of[case.name], case.identity) for case in (*self._prepared.values(), *self._replay)
        }
        drawn = draw_folds(self._parent, scans, self.settings.seed)
        write_json(drawn, path)
        return drawn

    # ---- cases

    @property
    def _has_members(self) -> bool:
        return len(self._starts) > 1

    @property
    def _longest(self) -> int:
        return self.settings.longest_run(len(self.cases))

    @property
    def _lengths(self) -> list[int]:
        """Steps after which the left-out patients are segmented."""
        return [max(1, round(stop * self._longest)) for stop in self.settings.stops]

    def _groups(self) -> list[list[str]]:
        """Names of the cases that are left out together: one patient, or several when there are many."""
        patients = sorted({case.patient for case in self.cases})
        if len(patients) < 2:
            return []
        random.Random(self.settings.seed).shuffle(patients)
        count = min(self.settings.folds, len(patients))
        fold_of = {patient: number % count for number, patient in enumerate(patients)}
        return [[case.name for case in self.cases if fold_of[case.patient] == fold] for fold in range(count)]

    def _prepare(self, cases: Sequence[Case]) -> list[PreparedCase]:
        prepared = []
        for case in cases:
            self._pause()
            prepared += prepare_dataset([case], self._preprocessing, self.folder / "prepared", lambda text: None)
            self._tell(_PREPARING)
        return prepared

    def _claim_folder(self) -> None:
        """The folder is new, or was used by this very run; files may change behind their names."""
        ours = {
            "format": _FORMAT,
            "model": self._parent.sha256,
            "members": self._parent.members,
            "seen": [[scan.digest, scan.fold] for group in self._parent.seen.groups for scan in group.scans],
            "cases": {case.name: _digest(case) for case in self.cases},
            "replay": {case.name: _digest(case) for case in self.replay_cases},
            "settings": asdict(self.settings),
        }
        text = json.dumps(ours, indent=2)
        state = make_folder(self.folder) / STATE_FILE
        with os_errors_as(StorageError, f"The folder '{self.folder.name}' cannot be used", "Choose another folder."):
            before = state.read_text(encoding="utf-8") if state.exists() else text
        if before != text:
            cause = f"The run in '{self.folder.name}' has another model, other cases, patients or settings."
            if f'"format": {_FORMAT}' not in before:
                cause = f"The run in '{self.folder.name}' was begun by another version of this extension."
            raise ModelError(cause, "Discard that run, then start again.")
        write_text(text, state)

    # ---- training

    def _trainer(
        self,
        name: str,
        left_out: Container[str] = (),
        start: int = 0,
        resume: bool = True,
        **facts: Any,
    ) -> Trainer:
        """A trainer that goes on from its last checkpoint.

        Args:
            name: of its folder.
            left_out: names of the cases that it neither trains on nor rehearses.
            start: number of the network that it starts from.
            facts: what model.json says about the weights.
        """
        from .plans import TrainingPlan
        from .training import CHECKPOINT_FILE, Trainer

        settings = self.settings
        replay = [case for case in self._replay if case.name not in left_out]
        plan = TrainingPlan(
            _PLAN,
            steps=self._longest,
            learning_rate=settings.learning_rate,
            weight_decay=0.0,
            decay_share=0.6,
            ema_decay=settings.ema_decay,
            frozen_batch_norm=True,
            new_share=settings.new_share,
            anchor=0.0 if replay else settings.anchor,
            replay_share=settings.replay_share,
            seed=settings.seed,
            network=self._network_settings,
            preprocessing=self._preprocessing,
        )
        trainer = Trainer(
            plan,
            [case for case in self._prepared.values() if case.name not in left_out],
            [],
            self.folder / name,
            device=self.device,
            start_from=self._starts[start],
            replay=replay,
            seen_before=self._parent.seen,
            facts=facts,
            progress=lambda text: None,
        )
        if resume and (trainer.folder / CHECKPOINT_FILE).is_file():
            trainer.load_checkpoint()
        return trainer

    def _train(self, trainer: Trainer, until: int, stage: str, before: int) -> None:
        """Train up to a step; a kill loses at most ``SAVE_SECONDS``, a cancel nothing."""
        saved, losses = time.monotonic(), []
        while trainer.step < until:
            try:
                self._pause()
            except Canceled:
                trainer.save_checkpoint()
                raise
            started = time.monotonic()
            losses.append(trainer.train_step())
            seconds = time.monotonic() - started
            self._seconds_per_step += (seconds - self._seconds_per_step) * (0.5 if trainer.step <= 4 else 0.1)
            self._done = before + trainer.step
            if trainer.step % REPORT_STEPS == 0 or trainer.step == until:
                self._tell(stage, loss=sum(losses) / len(losses))
                losses = []
            if time.monotonic() - saved > SAVE_SECONDS:
                trainer.save_checkpoint()
                saved = time.monotonic()

    def _score_left_out(self, number: int, count: int, left_out: set[str]) -> dict[str, list[float]]:
        """Dice of each left-out case before training and at each stop of a run on the others.

        The weights of every stop are kept where they may become a member of the new version.
        """
        name = f"left-out-{number + 1}"
        path = self.folder / f"{name}.json"
        stage = f"Cross-validation {number + 1} of {count}"
        cases = [case for case in self._prepared.values() if case.name in left_out]
        member = number if self._has_members else 0
        stops = [0, *self._lengths]
        fresh: dict[str, Any] = {"stops": 0, "dice": {case.name: [] for case in cases}}
        state = read_json(path) or fresh
        kept = [(self.folder / name / f"after-{until}").is_dir() for until in stops[: state["stops"]]]
        if set(state["dice"]) != set(fresh["dice"]) or (self._has_members and not all(kept)):
            state = fresh  # somebody deleted files of it: it begins again
        if state["stops"] < len(stops):
            # Without the scores of the start nothing can go on from a checkpoint: the weights are other ones by then.
            trainer = self._trainer(name, left_out, member, resume=state["stops"] > 0)
            for until in stops[state["stops"] :]:
                self._train(trainer, until, stage, number * self._longest)
                for case in cases:
                    state["dice"][case.name].append(trainer.validate_case(case))
                trainer.save_checkpoint()
                if self._has_members:
                    trainer.publish(trainer.folder / f"after-{until}")
                state["stops"] += 1
                write_text(json.dumps(state), path)
                self._tell(stage, dice=fmean(values[-1] for values in state["dice"].values()) if cases else None)
        self._done = (number + 1) * self._longest
        return state["dice"]

    def _choose_length(self, scores: dict[str, list[float]]) -> tuple[int, dict]:
        """The shortest length that is about the best for left-out patients; 0 where that is not to train at all."""
        lengths = [0, *self._lengths]
        if not scores:
            return lengths[(len(lengths) + 1) // 2], {}
        means = [
            fmean(patient_means((case.patient, scores[case.name][stop]) for case in self.cases if case.name in scores))
            for stop in range(len(lengths))
        ]
        best = max(means)
        chosen = next(number for number, mean in enumerate(means) if mean >= best - self.settings.patience)
        patients = len({case.patient for case in self.cases if case.name in scores})
        one_by_one = not self._has_members and len(self._groups()) == patients
        return lengths[chosen], {
            "patients": patients,
            "left_out": "one patient" if one_by_one else "groups of patients",
            "dice_before": means[0],
            "dice_after": means[chosen],
            "dice_at_stops": dict(zip(map(str, lengths[1:]), means[1:], strict=True)),
            "per_case": {name: [values[0], values[chosen]] for name, values in scores.items()},
            "steps": lengths[chosen],
        }

    @property
    def _facts(self) -> dict[str, Any]:
        """Where the version comes from; nobody has measured what its expected Dice would rest on."""
        return {
            "training": {"parent": self._parent.version, "replay": [case.name for case in self.replay_cases]},
            "license": self._parent.license,
        }

    def _train_on_all(self, length: int) -> Path:
        trainer = self._trainer("final", **self._facts)
        # The learning rate falls as it did in the cross-validation, whose run went on beyond this length.
        self._train(trainer, length, _FINAL, self._steps - self._longest)
        trainer.save_checkpoint()
        self._done = self._steps
        self._tell(_FINAL)
        return trainer.folder / MODEL_FOLDER

    def _join(self, length: int, fold_of: Mapping[str, int | None], learning: Sequence[int]) -> Path:
        """The members after so many steps, as one version; those that did not learn are the old one's."""
        from ..engine.model import load_networks, save_model

        networks, _ = load_networks(self.model)
        trained = {"plan": _PLAN, "steps": length, "seed": self.settings.seed, "cases": [c.name for c in self.cases]}
        for number in learning:
            (networks[number],), _ = load_networks(self.folder / f"left-out-{number + 1}" / f"after-{length}")
        facts = self._facts
        facts["training"] = {**trained, **facts["training"]}
        seen = [(case.name, case.identity) for case in (*self._prepared.values(), *self._replay)]
        save_model(
            self.folder / MODEL_FOLDER,
            networks,
            self._parent.preprocessing,
            members=self._parent.members,
            seen=self._parent.seen.with_training(seen, fold_of),
            date=time.strftime("%Y-%m-%d"),
            **facts,
        )
        if len({case.patient for case in self.cases if fold_of[case.name] is not None}) >= LEAST_PATIENTS_TO_CALIBRATE:
            self._calibrate()
        self._done = self._steps
        self._tell(_FINAL)
        return self.folder / MODEL_FOLDER

    def _calibrate(self) -> None:
        """Measure what the new version's expected Dice is worth on its own left-out patients, and keep it if it is."""
        from .calibration import calibrate_model

        def progress(case: str) -> None:
            self._pause()
            self._tell(_CALIBRATING)

        with suppress(DatasetError):  # too few were left out by two members: it stays without one
            calibrate_model(self.folder / MODEL_FOLDER, self.cases, self.device, progress, degraded=False)

    # ---- what is told

    def _ledger(self, length: int, scores: dict, cross_validation: dict) -> dict:
        how = f"cross-validation, {cross_validation['left_out']} left out at a time" if scores else "fixed: one patient"
        rehearsed = [case.name for case in self.replay_cases]
        return {
            "parent": {"version": self._parent.version, "sha256": self._parent.sha256},
            "training": [{"case": case.name, "patient": case.patient} for case in self.cases],
            "replay": rehearsed,
            "settings": asdict(self.settings),
            "choices": [
                {
                    "choice": "learning rate, pull to the old weights, share of the new ones, longest run",
                    "how": "fixed before; the longest run follows from the number of cases",
                    "steered_by": [],
                },
                {"choice": "steps", "value": length, "how": how, "steered_by": sorted(scores)},
                {
                    "choice": "how the old ability is kept",
                    "value": "rehearsal" if rehearsed else "pull to the old weights",
                    "how": "rehearsal when there are replay cases",
                    "steered_by": [],
                },
            ],
            "cross_validation": cross_validation,
        }

    def _tell(self, stage: str, loss: float | None = None, dice: float | None = None) -> None:
        left = (self._steps - self._done) * self._seconds_per_step
        done = self._done / self._steps
        self._progress(FineTuningProgress(stage, done, left, self._done, self._steps, loss, dice))


def _digest(case: Case) -> list[str]:
    """What is in a case's files, and whose it is; the patient's own name has no place in a run's folder."""
    return [files_digest(case), hashlib.sha256(case.patient.encode()).hexdigest()[:12]]
