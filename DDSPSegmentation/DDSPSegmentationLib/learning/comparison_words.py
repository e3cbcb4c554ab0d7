"""A comparison in sentences that a radiologist reads: the verdict first, the recommendation last."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..library.patients import ONE_IN
from .comparison_record import (
    ACTIVATE,
    BETTER,
    FORGOTTEN,
    NO_DIFFERENCE,
    TIE,
    WORSE,
    Evidence,
    Summary,
    recommends_activation,
)
from .statistics import LEAST_PATIENTS

if TYPE_CHECKING:
    from .comparison_verdict import Comparison

_STARTS = {
    BETTER: "The new version is better: ",
    WORSE: "The new version is worse: ",
    NO_DIFFERENCE: "There is no clear difference: ",
}


def tell(evidence: Evidence, comparison: Comparison) -> tuple[str, ...]:
    hold_out, forgetting = comparison.hold_out_summary, comparison.forgetting_summary
    sentences = [_hold_out(evidence, comparison)]
    if forgetting is not None and forgetting.cases:
        sentences.insert(0 if comparison.verdict == FORGOTTEN else 1, _forgetting(evidence, comparison, forgetting))
    if hold_out.cases:
        sentences += _details(hold_out)
    sentences += [_agreement(evidence, comparison), left_out_sentence(evidence.cross_validation)]
    sentences += [*_cautions(evidence, comparison), _recommendation(comparison.reasons)]
    return tuple(filter(None, sentences))


def too_few_patients(patients: int) -> str:
    """How many more accepted patients it takes until a comparison can say which version is better; '' for none."""
    missing = LEAST_PATIENTS - patients
    if missing <= 0:
        return ""
    return (
        f"With {LEAST_PATIENTS} patients kept for checking instead of {patients or 'none'} a comparison can say which "
        f"version is better. That takes about {missing * ONE_IN} more accepted patients, as one in {ONE_IN} is kept."
    )


def doubt_about_activation(record: Mapping, active: str) -> str:
    """Why a version with this comparison.json does not take the active one's place unasked; '' where it does."""
    old = record.get("old_version") or "another version"
    if recommends_activation(record) and old == active:
        return ""
    if not record:
        return "It was not compared with the version before."
    sentences = record.get("sentences", [])
    reason = " ".join([*sentences[:1], *sentences[1:][-1:]]) or f"Its comparison says '{record.get('verdict')}'."
    return reason if old == active else f"{_compared_with_another(old, active)} {reason}"


def doubt_in_short(record: Mapping, active: str) -> str:
    """The doubt about activation in one sentence, for where the comparison's own stand beside it; '' for none."""
    doubt = doubt_about_activation(record, active)
    if not doubt or not record:
        return doubt
    old = record.get("old_version") or "another version"
    if old != active:
        return _compared_with_another(old, active)
    if record.get("recommendation") == ACTIVATE:
        return "It was compared by an earlier version of this extension, which asked for less proof."
    return ([*record.get("sentences", [])] or [doubt])[-1]


def _compared_with_another(old: str, active: str) -> str:
    """Better than that one says nothing about the active one."""
    return f"It was compared with {old}, not with {active or 'the active version'}."


def left_out_sentence(found: Mapping) -> str:
    """What cross-validation on the training cases gave, labeled as what it is; '' without its figures."""
    dice = left_out_dice(found)
    if dice is None:
        return ""
    before, after = dice
    patients = f"{found.get('patients', '')} patients for training"
    one = found.get("left_out") == "one patient"
    how = f"Each of the {patients} was left out of it once" if one else f"The {patients} were left out a few at a time"
    return (
        f"{how}: the mean Dice on those left out went from {before:.3f} to {after:.3f} ({signed(after - before)}). "
        "These figures chose the length of the training and come from other weights than the new version's; they do "
        "not replace patients kept for checking."
    )


def hold_out_dice(record: Mapping) -> tuple[float, float] | None:
    """Mean Dice of the old and the new version on the hold-out patients of a comparison.json, where there are any."""
    summary = record.get("hold_out_summary") or {}
    return _both((summary.get("old") or {}).get("dice"), (summary.get("new") or {}).get("dice"))


def left_out_dice(found: Mapping) -> tuple[float, float] | None:
    """Mean Dice before and after of the patients that cross-validation left out, where it is known."""
    return _both(found.get("dice_before"), found.get("dice_after"))


def dice_change(dice: tuple[float, float] | None) -> str:
    """As in a table; '' where it is not known."""
    return "" if dice is None else f"{dice[0]:.3f} -> {dice[1]:.3f}"


def _both(before: object, after: object) -> tuple[float, float] | None:
    if not isinstance(before, (int, float)) or not isinstance(after, (int, float)):
        return None
    return (float(before), float(after)) if math.isfinite(before) and math.isfinite(after) else None


def _hold_out(evidence: Evidence, comparison: Comparison) -> str:
    summary = comparison.hold_out_summary
    if comparison.p_value is None or summary.interval is None:
        start = f"Too few cases to judge. {too_few_patients(summary.patients)}"
        return start if not summary.cases else f"{start} There the mean Dice went {_from_to(summary)}."
    missed = [case.name for case in evidence.hold_out if case.is_missed]
    start = _STARTS[comparison.found]
    if missed:
        start += f"it found no prostate in {listed(missed)}, where the old version did; "
    where = f"on {counted(summary.patients, 'patient')} kept for checking ({counted(summary.cases, 'case')})"
    direction = "rose" if summary.gain > 0 else "fell" if summary.gain < 0 else "stayed"
    low, high = summary.interval
    p = "p < 0.001" if comparison.p_value < 0.001 else f"p = {comparison.p_value:.3f}"
    return (
        f"{start}{where} the mean Dice {direction} {_from_to(summary)}; 95 % interval {signed(low)} to {signed(high)}; "
        f"one-sided paired t-test over patients, {p}, where a gain counts below {comparison.limit:.2g}."
    )


def _from_to(summary: Summary) -> str:
    return f"from {summary.old['dice']:.3f} to {summary.new['dice']:.3f} ({signed(summary.gain)})"


def _details(summary: Summary) -> list[str]:
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
        many = counted(summary.undefined, "case")
        sentences.append(f"{many} without a mask have no distance and are in no mean distance.")
    if summary.expected_dice_error is not None:
        sentences.append(
            f"The new version's expected Dice is off by {summary.expected_dice_error:.3f} on average on these cases."
        )
    return sentences


def _pair(old: dict, new: dict, measure: str, digits: int, sign: str = "") -> str:
    values = (old[measure], new[measure])
    return " to ".join("unknown" if value is None else f"{value:{sign}.{digits}f}" for value in values)


def _forgetting(evidence: Evidence, comparison: Comparison, summary: Summary) -> str:
    start = "The new version has forgotten" if comparison.has_forgotten else "The old ability is kept"
    worst = min((case for case in evidence.forgetting if not case.error), key=lambda case: case.gain)
    loss = f"; the largest loss of a case is {-worst.gain:.3f} ({worst.name})" if worst.gain < 0 else ""
    name = evidence.forgetting_name or "cases of the old training"
    return f"{start}: on the {name} ({counted(summary.cases, 'case')}) the mean Dice went {_from_to(summary)}{loss}."


def _agreement(evidence: Evidence, comparison: Comparison) -> str:
    """How far the new version's masks are from the old one's, and what could not be measured."""
    start = ""
    if comparison.forgetting_summary is None or not comparison.forgetting_summary.cases:
        start = (
            "What was forgotten could not be measured, for want of a replay folder and of cases of other scanners "
            "kept for checking. "
        )
    if comparison.agreement is None:
        return start.strip()
    scans = counted(len(evidence.agreements), "scan")
    agreement = f"{start}On {scans} the new version's masks agree with the old one's to a mean Dice of"
    sentence = f"{agreement} {comparison.agreement:.3f}"
    if comparison.differs and comparison.reasons:
        return f"{sentence}: it differs from the old version by more than a retraining usually does."
    return f"{sentence}."


def _cautions(evidence: Evidence, comparison: Comparison) -> list[str]:
    sentences = []
    if evidence.comparisons > 1:
        sentences.append(
            f"This is comparison {evidence.comparisons} on these patients kept for checking; who looks often enough "
            f"finds a gain by chance, so it must be surer each time (p below {comparison.limit:.2g})."
        )
    ours = sum(case.name in evidence.old_masks for case in evidence.hold_out)
    if ours:
        sentences.append(
            f"{ours} of the {counted(len(evidence.hold_out), 'case')} kept for checking "
            f"{'has' if ours == 1 else 'have'} a mask that was corrected from the old version's own, which favors the "
            "old version."
        )
    if evidence.seen:
        sentences.append(
            f"Not unseen: the new version was trained on {listed(evidence.seen)} of the cases kept for checking, or on "
            "another scan of the patient."
        )
    if evidence.left_out:
        sentences.append(f"Not compared, since the old version was trained on them: {listed(evidence.left_out)}.")
    if evidence.cannot_tell:
        sentences.append(
            f"Version '{evidence.cannot_tell}' does not say what it was trained on: it cannot be told whether a scan "
            "kept for checking was among it."
        )
    rehearsed = len(evidence.rehearsed)
    if rehearsed:
        sentences.append(
            f"{rehearsed} of the {counted(len(evidence.forgetting), 'case')} of the {evidence.forgetting_name} "
            f"{'was' if rehearsed == 1 else 'were'} rehearsed in the retraining; what was forgotten elsewhere may be "
            "more."
        )
    for summary in (comparison.hold_out_summary, comparison.forgetting_summary):
        if summary is not None and summary.failed:
            sentences.append(f"Not compared: {listed(summary.failed)}.")
    return sentences


def _recommendation(reasons: Sequence[str]) -> str:
    if reasons:
        return f"Keeping the old version is the default: {'; '.join(reasons)}."
    return "Activating the new version is the default; rolling back stays possible at any time."


def signed(value: float) -> str:
    """A change of Dice with its sign, and no minus before a zero."""
    return f"{round(value, 3) + 0.0:+.3f}"


def counted(number: int, thing: str) -> str:
    """As in "1 case" and "2 cases"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
