"""What a comparison of two model versions holds: figures for each case, their summary by patient, and the outcome."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from ..engine.errors import ModelError
from .statistics import mean_interval, sign_flip_p_value

SCHEMA_VERSION = 1
LEAST_PATIENTS = 3
LEAST_PATIENTS_TO_TEST = 6  # below, not even a gain for every patient can reach p < 0.05
TIE = 0.005  # Dice; contours that differ by less look the same
MEASURES = ("dice", "abd_mm", "hd95_mm", "volume_error_percent", "absolute_volume_error_percent")


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


@dataclass(frozen=True)
class ComparedCase:
    """A case with the figures of both versions, or with the reason why there are none."""

    name: str
    patient: str
    center: str = ""
    old: Figures | None = None
    new: Figures | None = None
    error: str = ""

    @property
    def gain(self) -> float:
        """Dice of the new version minus that of the old one; NaN for a case that could not be compared."""
        return math.nan if self.error else self.new.dice - self.old.dice

    @property
    def is_missed(self) -> bool:
        """The new version found no gland where the old one did."""
        return not self.error and self.new.is_empty and not self.old.is_empty


@dataclass(frozen=True)
class Summary:
    """A group of cases. A mean is the mean over patients of the mean over a patient's cases: several cases of one
    patient are not independent.

    Attributes:
        cases, patients: that could be compared; ``failed``: names of those that could not.
        old, new: mean by measure (``MEASURES``); None without a value. A case where one version's mask is empty has no
            distance and is left out of both versions' mean distances; there are ``undefined`` such cases.
        wins, losses, ties: in cases, by Dice; a tie differs by no more than 0.005.
        patient_gains: change of Dice for each patient; ``gain``: their mean; ``interval``: its 95 % bootstrap
            interval; ``p_value``: paired sign-flip test, None below six patients.
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
    gain: float | None
    interval: tuple[float, float] | None
    p_value: float | None
    largest_loss: float
    expected_dice_error: float | None


def summarize(cases: Sequence[ComparedCase]) -> Summary:
    compared = [case for case in cases if not case.error]
    patients: dict[str, list[ComparedCase]] = {}
    for case in compared:
        patients.setdefault(case.patient or case.name, []).append(case)
    gains = tuple(_mean(case.gain for case in members) for members in patients.values())
    old, new = ({name: _by_patient(patients.values(), name, which) for name in MEASURES} for which in ("old", "new"))
    known = [case.new for case in compared if case.new.expected_dice is not None]
    return Summary(
        cases=len(compared),
        patients=len(patients),
        failed=tuple(case.name for case in cases if case.error),
        old=old,
        new=new,
        undefined=sum(not _has_both(case, "abd_mm") for case in compared),
        wins=sum(case.gain > TIE for case in compared),
        losses=sum(case.gain < -TIE for case in compared),
        ties=sum(abs(case.gain) <= TIE for case in compared),
        patient_gains=gains,
        gain=_mean(gains),
        interval=mean_interval(gains) if len(gains) >= LEAST_PATIENTS else None,
        p_value=sign_flip_p_value(gains) if len(gains) >= LEAST_PATIENTS_TO_TEST else None,
        largest_loss=max([0.0, *(-case.gain for case in compared)]),
        expected_dice_error=_mean(abs(figures.expected_dice - figures.dice) for figures in known),
    )


def _by_patient(patients: Iterable[list[ComparedCase]], measure: str, version: str) -> float | None:
    means = []
    for members in patients:
        means.append(_mean(getattr(getattr(c, version), measure) for c in members if _has_both(c, measure)))
    return _mean(mean for mean in means if mean is not None)


def _has_both(case: ComparedCase, measure: str) -> bool:
    return all(getattr(figures, measure) is not None for figures in (case.old, case.new))


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class Comparison:
    """What came out, as comparison.json keeps it.

    Attributes:
        verdict: ``better``, ``no clear difference``, ``worse``, ``too few cases to judge``, ``forgotten`` or
            ``drifted``; ``recommendation``: ``activate`` or ``keep``, the default a panel offers.
        sentences: for a reader; the verdict first, the recommendation last.
        hold_out, forgetting: case by case, each with its summary; ``forgetting_name``: what the latter cases are.
        agreement: Dice of the new version's mask with the old one's on the sample scan; None when there is none.
        old_masks: hold-out cases whose mask was corrected from the old version's.
        cross_validation: figures of the fine-tuning on its own training cases, by patient; may be empty.
    """

    old_version: str
    new_version: str
    old_sha256: str
    new_sha256: str
    date: str
    verdict: str
    recommendation: str
    sentences: tuple[str, ...]
    hold_out: tuple[ComparedCase, ...]
    hold_out_summary: Summary
    forgetting: tuple[ComparedCase, ...] = ()
    forgetting_summary: Summary | None = None
    forgetting_name: str = ""
    agreement: float | None = None
    old_masks: tuple[str, ...] = ()
    cross_validation: dict = field(default_factory=dict)

    def to_dict(self) -> dict:
        """Values that JSON knows; what is not a number is None."""
        return {"schema_version": SCHEMA_VERSION, **without_nan(asdict(self))}

    @classmethod
    def from_dict(cls, values: dict) -> Comparison:
        """Raises ModelError when the values are damaged or of a newer schema."""
        try:
            fields = dict(values)
            schema = fields.pop("schema_version")
            if schema != SCHEMA_VERSION:
                raise ModelError(
                    f"The comparison has schema version {schema}; this version reads {SCHEMA_VERSION}.",
                    "Update the extension, or compare the versions again.",
                )
            for group in ("hold_out", "forgetting"):
                fields[group] = tuple(_case_from(case) for case in fields[group])
                fields[f"{group}_summary"] = _summary_from(fields[f"{group}_summary"])
            for name in ("sentences", "old_masks"):
                fields[name] = tuple(fields[name])
            return cls(**fields)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError("The comparison of the versions is damaged.", "Compare the versions again.") from error


def _case_from(values: dict) -> ComparedCase:
    figures = {which: None if values[which] is None else Figures(**values[which]) for which in ("old", "new")}
    return ComparedCase(**{**values, **figures})


def _summary_from(values: dict | None) -> Summary | None:
    if values is None:
        return None
    interval = values["interval"]
    return Summary(
        **{
            **values,
            "failed": tuple(values["failed"]),
            "patient_gains": tuple(values["patient_gains"]),
            "interval": None if interval is None else tuple(interval),
        }
    )


def without_nan(value: object) -> object:
    """The same values as lists and dictionaries, with None for what is not finite; JSON has no word for it."""
    if isinstance(value, dict):
        return {str(key): without_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
