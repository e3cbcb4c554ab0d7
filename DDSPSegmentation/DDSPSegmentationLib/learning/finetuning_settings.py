"""How a fine-tuning is done and how long it takes; needs no torch, so that a panel can tell before it starts."""

from __future__ import annotations

from dataclasses import dataclass

from ..engine.cores import usable_cores
from .statistics import LEAST_PATIENTS_TO_CALIBRATE

# From three cases of a hospital that the network never saw the gain was not certain, and cases of other hospitals lost
# up to 0.30 Dice; from five it was +0.030 (95 % interval +0.011 to +0.055): one network, 0.1.0, docs/evaluation.md.
LEAST_CASES = 5

_SECONDS_TO_PREPARE = 4.0
_SECONDS_TO_START = 12.0
_SECONDS_TO_CALIBRATE = 2.0  # a case, by the members that left it out
_CORE_SECONDS = 2.4  # of a step on one core


@dataclass(frozen=True)
class FineTuningSettings:
    """What does not depend on the cases; the defaults are those that did best in ``Testing/Benchmarks``.

    Attributes:
        learning_rate: of AdamW at the start of its fall.
        anchor, new_share: see ``TrainingPlan``; with replay cases there is no anchor.
        steps_per_case: longest run, in steps for each training case, within ``least_steps`` and ``most_steps``.
        stops: shares of the longest run at which the left-out patients are segmented, to choose the length.
        patience: the shortest length wins whose Dice is within so much of the best; not to train is one of them.
        folds: parts of the cross-validation; with as many patients or fewer one patient is left out at a time.
    """

    learning_rate: float = 1e-3
    anchor: float = 30.0
    new_share: float = 0.5
    ema_decay: float = 0.95
    steps_per_case: int = 12
    least_steps: int = 48
    most_steps: int = 240
    stops: tuple[float, ...] = (1 / 3, 2 / 3, 1.0)
    patience: float = 0.001
    folds: int = 5
    replay_share: float = 0.5
    seed: int = 0

    def longest_run(self, cases: int) -> int:
        return min(self.most_steps, max(self.least_steps, self.steps_per_case * cases))

    def all_steps(self, cases: int, patients: int, members: int = 1) -> int:
        """Steps of the cross-validation and the final run together, at most; several members need no final run."""
        if members > 1:
            return members * self.longest_run(cases)
        folds = min(self.folds, patients) if patients > 1 else 0
        return (folds + 1) * self.longest_run(cases)


def estimate_seconds(
    cases: int,
    patients: int,
    replay: int = 0,
    seconds_per_step: float | None = None,
    settings: FineTuningSettings | None = None,
    members: int = 1,
) -> float:
    """How long a run will take, before it starts; from the number of processor cores when no speed was measured."""
    steps = (settings or FineTuningSettings()).all_steps(cases, patients, members)
    seconds = expected_step_seconds() if seconds_per_step is None else seconds_per_step
    calibrated = cases if members > 1 and patients >= LEAST_PATIENTS_TO_CALIBRATE else 0
    around = (cases + replay) * _SECONDS_TO_PREPARE + calibrated * _SECONDS_TO_CALIBRATE
    return _SECONDS_TO_START + around + steps * seconds


def expected_step_seconds() -> float:
    """Seconds a step takes on this machine's processor, before one was measured."""
    return _CORE_SECONDS / min(8, usable_cores())
