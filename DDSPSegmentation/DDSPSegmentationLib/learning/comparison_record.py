"""What a comparison of two model versions holds: the figures of each case, their summary by patient, the outcome."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from ..engine.model import ModelDescription
from .statistics import mean_interval, patient_means

SCHEMA_VERSION = 2
TIE = 0.005  # Dice; contours that differ by less look the same
MEASURES = ("dice", "abd_mm", "hd95_mm", "volume_error_percent", "absolute_volume_error_percent")

BETTER, NO_DIFFERENCE, WORSE = "better", "no clear difference", "worse"
TOO_FEW, FORGOTTEN = "too few cases to judge", "forgotten"
ACTIVATE, KEEP = "activate", "keep"


@dataclass(frozen=True)
class Figures:
    """One version's mask against the reference, on the native grid.

    Attributes:
        dice: of the whole gland; ``expected_dice``: what the version itself expected of it; None when not a number.
        abd_mm, hd95_mm: mean and 95th percentile surface distance; None for an empty mask.
        volume_error_percent: 100 * (V / V of the reference - 1); -100 for an empty mask.
    """

    dice: float
    abd_mm: float | None
    hd95_mm: float | None
    volume_error_percent: float
    expected_dice: float | None

    @property
    def absolute_volume_error_percent(self) -> float:
        return abs(self.volume_error_percent)

    @property
    def is_empty(self) -> bool:
        return self.volume_error_percent <= -100


NO_FIGURES = Figures(math.nan, None, None, math.nan, None)


@dataclass(frozen=True)
class ComparedCase:
    """A case with the figures of both versions, or with the reason why there are none.

    Attributes:
        agreement: Dice of the new version's mask with the old one's.
    """

    name: str
    patient: str
    center: str = ""
    old: Figures = NO_FIGURES
    new: Figures = NO_FIGURES
    agreement: float | None = None
    error: str = ""

    @property
    def gain(self) -> float:
        """Dice of the new version minus that of the old one; NaN for a case that could not be compared."""
        return self.new.dice - self.old.dice

    @property
    def is_missed(self) -> bool:
        """The new version found no gland where the old one did."""
        return self.new.is_empty and not self.old.is_empty


@dataclass(frozen=True)
class Summary:
    """A group of cases. A mean is the mean over patients of the mean over a patient's cases: several cases of one
    patient are not independent.

    Attributes:
        cases, patients: that could be compared; ``failed``: names of those that could not.
        old, new: mean by measure (``MEASURES``); None without a value. A case where one version's mask is empty has no
            distance and is left out of both versions' mean distances; there are ``undefined`` such cases.
        wins, losses, ties: in cases, by Dice; a tie differs by no more than 0.005.
        patient_gains: change of Dice for each patient; ``gain``: their mean, 0 without patients; ``interval``: its 95 %
            interval, None below five patients.
        largest_loss: of Dice in one case, 0 when none lost; ``expected_dice_error``: mean absolute error of the new
            version's expected Dice.
    """

    cases: int
    patients: int
    failed: tuple[str, ...]
    old: dict[str, float | None]
    new: dict[str, float | None]
    undefined: int
    wins: int
    losses: int
    ties: int
    patient_gains: tuple[float, ...]
    gain: float
    interval: tuple[float, float] | None
    largest_loss: float
    expected_dice_error: float | None


def summarize(cases: Sequence[ComparedCase]) -> Summary:
    compared = [case for case in cases if not case.error]
    gains = patient_means((case.patient or case.name, case.gain) for case in compared)
    old, new = ({name: _by_patient(compared, name, version) for name in MEASURES} for version in ("old", "new"))
    errors = [abs(new.expected_dice - new.dice) for new in (c.new for c in compared) if new.expected_dice is not None]
    return Summary(
        cases=len(compared),
        patients=len(gains),
        failed=tuple(case.name for case in cases if case.error),
        old=old,
        new=new,
        undefined=sum(not _has_both(case, "abd_mm") for case in compared),
        wins=sum(case.gain > TIE for case in compared),
        losses=sum(case.gain < -TIE for case in compared),
        ties=sum(abs(case.gain) <= TIE for case in compared),
        patient_gains=tuple(gains),
        gain=fmean(gains) if gains else 0.0,
        interval=mean_interval(gains),
        largest_loss=max([0.0, *(-case.gain for case in compared)]),
        expected_dice_error=fmean(errors) if errors else None,
    )


def _by_patient(cases: Sequence[ComparedCase], measure: str, version: str) -> float | None:
    means = patient_means(
        (case.patient or case.name, getattr(getattr(case, version), measure))
        for case in cases
        if _has_both(case, measure)
    )
    return fmean(means) if means else None


def _has_both(case: ComparedCase, measure: str) -> bool:
    return all(getattr(figures, measure) is not None for figures in (case.old, case.new))


@dataclass(frozen=True)
class Evidence:
    """All that a verdict rests on.

    Attributes:
        old, new: the versions as their model.json describes them.
        hold_out, forgetting: compared cases; ``forgetting_name``: what the latter are, such as "replay folder".
        seen: names of hold-out cases that the new version was trained on, although the old one was not.
        rehearsed: names of cases of the forgetting test that the retraining rehearsed.
        left_out: names of hold-out cases that were not compared, since the old version was trained on them elsewhere.
        comparisons: how often hold-out patients of these were used to compare versions, this time included.
        sample_agreement: Dice of the new version's mask with the old one's on the sample scan; None when unknown.
        old_masks: names of cases whose mask was corrected from the old version's.
        cross_validation: what the fine-tuning measured on its own training cases.
    """

    old: ModelDescription
    new: ModelDescription
    hold_out: Sequence[ComparedCase] = ()
    forgetting: Sequence[ComparedCase] = ()
    forgetting_name: str = ""
    seen: Sequence[str] = ()
    rehearsed: Sequence[str] = ()
    left_out: Sequence[str] = ()
    comparisons: int = 1
    sample_agreement: float | None = None
    old_masks: frozenset[str] = frozenset()
    cross_validation: Mapping = field(default_factory=dict)

    @property
    def cases(self) -> list[ComparedCase]:
        """Of the hold-out and of the forgetting test, each once."""
        return list({case.name: case for case in (*self.hold_out, *self.forgetting)}.values())

    @property
    def agreements(self) -> list[float]:
        """Of the two versions, on every scan that both have segmented."""
        found = [self.sample_agreement, *(case.agreement for case in self.cases)]
        return [agreement for agreement in found if agreement is not None]

    @property
    def cannot_tell(self) -> str:
        """A version that does not say what it was trained on, so that no case can be called unseen; "" without."""
        versions = (self.old, self.new) if self.hold_out else ()
        return next((version.version for version in versions if not version.seen.known), "")


def recommends_activation(record: Mapping) -> bool:
    """Whether a comparison.json does; those of before the gain had to be proven do not."""
    return record.get("recommendation") == ACTIVATE and record.get("schema_version", 1) >= SCHEMA_VERSION
