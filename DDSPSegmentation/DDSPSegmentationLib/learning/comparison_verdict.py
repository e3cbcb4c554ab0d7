"""What follows from a comparison: verdict, recommendation, and the sentences a radiologist reads.

The rules are lopsided on purpose. To be called better a version has to prove it; to be called worse, suspicion is
enough, because a good version that is kept back costs one more retraining, and a bad one that is let in costs masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

from ..engine.model import ModelDescription
from ..engine.quality import UNCALIBRATED
from .comparison_figures import LEAST_PATIENTS, TIE, ComparedCase, Comparison, Summary, summarize, without_nan

BETTER, NO_DIFFERENCE, WORSE = "better", "no clear difference", "worse"
TOO_FEW, FORGOTTEN, DRIFTED = "too few cases to judge", "forgotten", "drifted"
ACTIVATE, KEEP = "activate", "keep"

SIGNIFICANT = 0.05
# A mean loss of two points is worse even where the test is not sure; an outlier that explains it is reason enough.
WORSE_GAIN = 0.02
# About half of what two readers disagree by: in one case that is a contour that went wrong, not noise.
LOST_CASE = 0.05
# Twice the half point that a retraining may cost elsewhere; the mean of a few cases does not wobble by more.
FORGOTTEN_GAIN = 0.01
# The contour of an unchanged ability differs by a voxel here and there, which costs a gland two or three points.
DRIFTED_AGREEMENT = 0.95


@dataclass(frozen=True)
class Evidence:
    """All that a verdict rests on; attributes as in Comparison, versions as their model.json describes them."""

    old: ModelDescription
    new: ModelDescription
    hold_out: Sequence[ComparedCase] = ()
    forgetting: Sequence[ComparedCase] = ()
    forgetting_name: str = ""
    agreement: float | None = None
    old_masks: frozenset[str] = frozenset()
    cross_validation: Mapping | None = None

    @property
    def seen_hold_out(self) -> list[str]:
        """Hold-out cases that one of the versions was trained on."""
        seen = _trained_on(self.old) | _trained_on(self.new)
        return [case.name for case in self.hold_out if case.name in seen]

    @property
    def rehearsed(self) -> list[str]:
        """Cases of the forgetting test that the retraining rehearsed."""
        seen = _names(self.new, "replay")
        return [case.name for case in self.forgetting if case.name in seen]


def _trained_on(version: ModelDescription) -> set[str]:
    return {name for key in ("cases", "replay", "parent_cases") for name in _names(version, key)}


def _names(version: ModelDescription, key: str) -> set[str]:
    listed = version.training.get(key)
    return {str(name) for name in listed} if isinstance(listed, list) else set()


def judge(evidence: Evidence) -> Comparison:
    """The comparison that follows from what was measured.

    The verdict is ``worse`` before ``forgotten`` before ``drifted`` before what the hold-out says otherwise; the
    hold-out's own finding is always among the sentences. Drift counts even where forgetting was measured: cases of
    the same library may share an error, the sample scan does not.

    Activation is recommended only for a mean gain on the hold-out of three patients or more, where nothing was
    forgotten, nothing drifted, no case lost more than 0.05 Dice, every mask has a gland and every case was compared.
    """
    hold_out = summarize(evidence.hold_out)
    forgetting = summarize(evidence.forgetting) if evidence.forgetting else None
    found = _hold_out_verdict(hold_out, evidence.hold_out)
    has_forgotten = forgetting is not None and _has_forgotten(forgetting, evidence.forgetting)
    has_drifted = evidence.agreement is not None and not evidence.agreement >= DRIFTED_AGREEMENT
    verdict = found
    if found != WORSE and (has_forgotten or has_drifted):
        verdict = FORGOTTEN if has_forgotten else DRIFTED
    reasons = _reasons_to_keep(evidence, hold_out, found, has_forgotten, has_drifted)
    first = [(found, _hold_out_sentence(hold_out, found, evidence.hold_out))]
    if forgetting is not None and forgetting.cases:
        first.append((FORGOTTEN, _forgetting_sentence(forgetting, evidence, has_forgotten)))
    first.append((DRIFTED, _drift_sentence(evidence, forgetting, has_drifted)))
    first.sort(key=lambda entry: entry[0] != verdict)
    sentences = [sentence for _, sentence in first]
    sentences += _hold_out_details(evidence, hold_out)
    cross_validation = without_nan(dict(evidence.cross_validation or {}))
    if found == TOO_FEW:
        sentences.append(cross_validation_sentence(cross_validation))
    sentences += _cautions(evidence, hold_out, forgetting)
    sentences.append(_recommendation_sentence(reasons))
    return Comparison(
        old_version=evidence.old.version,
        new_version=evidence.new.version,
        old_sha256=evidence.old.sha256,
        new_sha256=evidence.new.sha256,
        date=date.today().isoformat(),
        verdict=verdict,
        recommendation=KEEP if reasons else ACTIVATE,
        sentences=tuple(sentence for sentence in sentences if sentence),
        hold_out=tuple(evidence.hold_out),
        hold_out_summary=hold_out,
        forgetting=tuple(evidence.forgetting),
        forgetting_summary=forgetting,
        forgetting_name=evidence.forgetting_name,
        agreement=evidence.agreement,
        old_masks=tuple(case.name for case in evidence.hold_out if case.name in evidence.old_masks),
        cross_validation=cross_validation,
    )


def _hold_out_verdict(summary: Summary, cases: Sequence[ComparedCase]) -> str:
    if summary.patients < LEAST_PATIENTS:
        return TOO_FEW
    if any(case.is_missed for case in cases) or summary.gain <= -WORSE_GAIN:
        return WORSE
    if summary.p_value is None:
        gained = all(gain > TIE for gain in summary.patient_gains)
        lost = all(gain < -TIE for gain in summary.patient_gains)
    else:
        is_sure = summary.p_value < SIGNIFICANT
        gained, lost = is_sure and summary.gain > TIE, is_sure and summary.gain < -TIE
    return BETTER if gained else WORSE if lost else NO_DIFFERENCE


def _has_forgotten(summary: Summary, cases: Sequence[ComparedCase]) -> bool:
    has_lost = summary.gain is not None and (summary.gain < -FORGOTTEN_GAIN or summary.largest_loss > LOST_CASE)
    return has_lost or any(case.is_missed for case in cases)


def _reasons_to_keep(
    evidence: Evidence, hold_out: Summary, found: str, has_forgotten: bool, has_drifted: bool
) -> list[str]:
    reasons = []
    if found == TOO_FEW:
        reasons.append("there are too few hold-out patients to judge")
    elif not hold_out.gain > 0:
        reasons.append("the mean Dice on the hold-out did not rise")
    elif found == WORSE:
        reasons.append("the new version is worse")
    if has_forgotten:
        reasons.append("the old ability suffered")
    if has_drifted:
        reasons.append("the mask of the sample scan changed too much")
    lost = [case for case in evidence.hold_out if case.gain < -LOST_CASE]
    if lost:
        worst = min(lost, key=lambda case: case.gain)
        reasons.append(f"{_cases(len(lost))} of the hold-out lost more than {LOST_CASE:g} Dice, {worst.name} most")
    everything = {case.name: case for case in (*evidence.hold_out, *evidence.forgetting)}.values()
    empty = [case.name for case in everything if not case.error and case.new.is_empty]
    if empty:
        reasons.append(f"the new version found no prostate in {_listed(empty)}")
    failed = [case.name for case in everything if case.error]
    if failed:
        reasons.append(f"{_cases(len(failed))} could not be compared")
    if evidence.agreement is None:
        reasons.append("the sample scan could not be compared")
    if evidence.seen_hold_out:
        reasons.append("the hold-out is not unseen")
    return reasons


def _recommendation_sentence(reasons: Sequence[str]) -> str:
    if reasons:
        return f"Keeping the old version is the default: {'; '.join(reasons)}."
    return "Activating the new version is the default; rolling back stays possible at any time."


def _hold_out_sentence(summary: Summary, found: str, cases: Sequence[ComparedCase]) -> str:
    where = f"on {_patients(summary.patients)} of the hold-out ({_cases(summary.cases)})"
    if found == TOO_FEW:
        start = f"Too few cases to judge: the hold-out has {_patients(summary.patients)}, {LEAST_PATIENTS} are needed."
        return start if not summary.cases else f"{start} There the mean Dice went {_from_to(summary)}."
    missed = [case.name for case in cases if case.is_missed]
    if missed:
        start = f"The new version is worse: it found no prostate in {_listed(missed)}, where the old version did; "
    else:
        start = {
            BETTER: "The new version is better: ",
            WORSE: "The new version is worse: ",
            NO_DIFFERENCE: "There is no clear difference: ",
        }[found]
    direction = "rose" if summary.gain > 0 else "fell" if summary.gain < 0 else "stayed"
    low, high = summary.interval
    certainty = f"95 % interval {signed(low)} to {signed(high)}; "
    if summary.p_value is None:
        certainty += "too few patients for a statistical test"
    else:
        p = "p < 0.001" if summary.p_value < 0.001 else f"p = {summary.p_value:.3f}"
        certainty += f"paired permutation test over patients, {p}"
    return f"{start}{where} the mean Dice {direction} {_from_to(summary)}; {certainty}."


def _from_to(summary: Summary) -> str:
    return f"from {summary.old['dice']:.3f} to {summary.new['dice']:.3f} ({signed(summary.gain)})"


def _hold_out_details(evidence: Evidence, summary: Summary) -> list[str]:
    if not summary.cases:
        return []
    old, new = summary.old, summary.new
    parts = [
        f"mean surface distance {_pair(old, new, 'abd_mm', 2)} mm",
        f"95 % Hausdorff distance {_pair(old, new, 'hd95_mm', 1)} mm",
        f"volume error {_pair(old, new, 'absolute_volume_error_percent', 1)} % of the gland "
        f"(with its sign {_pair(old, new, 'volume_error_percent', 1, '+')} %)",
    ]
    sentences = [
        f"Case by case the new version wins {summary.wins}, loses {summary.losses} and ties {summary.ties} "
        f"(a tie is a Dice within {TIE:g}).",
        f"From the old to the new version: {', '.join(parts)}.",
    ]
    if summary.undefined:
        sentences.append(f"{_cases(summary.undefined)} without a mask have no distance and are in no mean distance.")
    if summary.expected_dice_error is not None:
        uncalibrated = evidence.new.metrics.get("expected_dice") == UNCALIBRATED
        sentences.append(
            f"The new version's expected Dice is off by {summary.expected_dice_error:.3f} on average on the hold-out"
            + ("; it has not been calibrated for this version." if uncalibrated else ".")
        )
    return sentences


def _pair(old: dict, new: dict, measure: str, digits: int, sign: str = "") -> str:
    values = (old[measure], new[measure])
    return " to ".join("unknown" if value is None else f"{value:{sign}.{digits}f}" for value in values)


def _forgetting_sentence(summary: Summary, evidence: Evidence, has_forgotten: bool) -> str:
    start = "The new version has forgotten" if has_forgotten else "The old ability is kept"
    compared = [case for case in evidence.forgetting if not case.error]
    worst = min(compared, key=lambda case: case.gain)
    loss = f"; the largest loss of a case is {-worst.gain:.3f} ({worst.name})" if worst.gain < 0 else ""
    name = evidence.forgetting_name or "cases of the old training"
    return f"{start}: on the {name} ({_cases(summary.cases)}) the mean Dice went {_from_to(summary)}{loss}."


def _drift_sentence(evidence: Evidence, forgetting: Summary | None, has_drifted: bool) -> str:
    start = "Drift: "
    if forgetting is None or not forgetting.cases:
        start = (
            "What was forgotten could not be measured, for want of a replay folder and of hold-out cases of other "
            "scanners; only drift could: "
        )
    if evidence.agreement is None:
        return f"{start}the sample scan could not be compared."
    sentence = (
        f"{start}on the bundled sample scan the new version's mask agrees with the old one's to a Dice of "
        f"{evidence.agreement:.3f}"
    )
    flagged = f", which is below {DRIFTED_AGREEMENT:g}: it changed more there than a retraining should."
    return sentence + (flagged if has_drifted else ".")


def cross_validation_sentence(found: Mapping) -> str:
    """What cross-validation on the training cases gave, labeled as what it is; '' without its figures."""
    before, after = found.get("dice_before"), found.get("dice_after")
    if not isinstance(before, (int, float)) or not isinstance(after, (int, float)):
        return ""
    label = "Leave-one-patient-out" if found.get("left_out") == "one patient" else "Cross-validation by patient"
    return (
        f"{label} on the {found.get('patients', '')} patients of the training cases: mean Dice from "
        f"{before:.3f} to {after:.3f} ({signed(after - before)}). These figures chose the length of the training and "
        "come from other weights than the new version's; they do not replace a hold-out."
    )


def _cautions(evidence: Evidence, hold_out: Summary, forgetting: Summary | None) -> list[str]:
    sentences = []
    ours = sum(case.name in evidence.old_masks for case in evidence.hold_out)
    if ours:
        sentences.append(
            f"{ours} of the {_cases(len(evidence.hold_out))} of the hold-out have a mask that was corrected from the "
            "old version's own, which favors the old version."
        )
    if evidence.seen_hold_out:
        sentences.append(
            f"Not unseen: one of the versions was trained on {_listed(evidence.seen_hold_out)} of the hold-out."
        )
    if evidence.rehearsed:
        sentences.append(
            f"{len(evidence.rehearsed)} of the {_cases(len(evidence.forgetting))} of the {evidence.forgetting_name} "
            "were rehearsed in the retraining; what was forgotten elsewhere may be more."
        )
    for summary in (hold_out, forgetting):
        if summary is not None and summary.failed:
            sentences.append(f"Not compared: {_listed(summary.failed)}.")
    return sentences


def signed(value: float) -> str:
    """A change of Dice with its sign, and no minus before a zero."""
    return f"{round(value, 3) + 0.0:+.3f}"


def _cases(count: int) -> str:
    return f"{count} case{'s' * (count != 1)}"


def _patients(count: int) -> str:
    return f"{count} patient{'s' * (count != 1)}" if count else "no patient"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
