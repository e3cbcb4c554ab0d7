"""What follows from a comparison: the verdict, and whether the panel offers to activate or to keep.

The rules are lopsided on purpose. To be called better a version has to prove it; to be called worse, suspicion is
enough, because a good version that is kept back costs one more retraining, and a bad one that is let in costs masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from ..engine.files import as_json
from .comparison_record import (
    ACTIVATE,
    BETTER,
    FORGOTTEN,
    KEEP,
    NO_DIFFERENCE,
    SCHEMA_VERSION,
    TIE,
    TOO_FEW,
    WORSE,
    ComparedCase,
    Evidence,
    Summary,
    summarize,
)
from .comparison_words import counted, listed, tell
from .statistics import LEAST_PATIENTS, gain_p_value

SIGNIFICANT = 0.025
# Below, five patients whose gains scatter by 0.02 and are skewed to the left would pass by chance in more than one of
# ten comparisons without a true gain (Testing/Benchmarks/activation.py); a trimmed test passes more of them, not fewer.
LEAST_SPREAD = 0.01
# A mean loss of two points is worse even where the test is not sure; an outlier that explains it is reason enough.
WORSE_GAIN = 0.02
# About half of what two readers disagree by: in one case that is a contour that went wrong, not noise.
LOST_CASE = 0.05
# Twice the half point that a retraining may cost elsewhere; the mean of a few cases does not wobble by more.
FORGOTTEN_GAIN = 0.01
# Below what retrainings on right masks agreed by, 0.943 to 0.978 a scan: one of a version that never saw the hospital,
# three of the built-in one. Masks 15 mm aside gave 0.903. Testing/Benchmarks/poisoned.py --repeats measures more.
LEAST_AGREEMENT = 0.92


class Comparison:
    """What the rules make of the evidence; comparison.json keeps both.

    The verdict is ``worse`` before ``forgotten`` before what the hold-out says otherwise; the hold-out's own finding
    is always among the sentences.

    Activation is recommended only where a one-sided paired t-test over five or more hold-out patients finds a gain of
    more than 0.005, at 0.025 divided by how often this hold-out was used; where no case lost more than 0.05 Dice,
    nothing was forgotten, every mask has a gland and every case was compared.

    Attributes:
        verdict: ``better``, ``no clear difference``, ``worse``, ``too few cases to judge`` or ``forgotten``;
            ``found``: what the hold-out alone says.
        p_value: one-sided, of the gain on the hold-out, None below five patients; ``limit``: below it the gain counts,
            after so many comparisons.
        agreement: mean Dice of the new version's masks with the old one's on all scans that both have segmented;
            ``differs``: by more than right masks usually make a new one differ. That says nothing about which is
            better, and is told only beside another doubt.
        recommendation: ``activate`` or ``keep``, the default a panel offers; ``reasons``: why the old version is kept.
        sentences: for a reader; the verdict first, the recommendation last.
    """

    def __init__(self, evidence: Evidence):
        self.evidence, self.date = evidence, date.today().isoformat()
        self.hold_out_summary = summarize(evidence.hold_out)
        self.forgetting_summary = summarize(evidence.forgetting) if evidence.forgetting else None
        self.limit = SIGNIFICANT / evidence.comparisons
        enough = self.hold_out_summary.patients >= LEAST_PATIENTS
        self.p_value = gain_p_value(self.hold_out_summary.patient_gains, LEAST_SPREAD) if enough else None
        self.found = _found(self.hold_out_summary, evidence.hold_out, self.p_value, self.limit)
        forgetting = self.forgetting_summary
        self.has_forgotten = forgetting is not None and _has_forgotten(forgetting, evidence.forgetting)
        self.verdict = FORGOTTEN if self.has_forgotten and self.found != WORSE else self.found
        agreements = evidence.agreements
        self.agreement = sum(agreements) / len(agreements) if agreements else None
        self.differs = self.agreement is not None and self.agreement < LEAST_AGREEMENT
        self.reasons = _reasons_to_keep(evidence, self.hold_out_summary, self.found, self.has_forgotten)
        if self.reasons and self.differs:
            self.reasons.append("it differs from the old version more than a retraining usually does")
        self.recommendation = KEEP if self.reasons else ACTIVATE
        self.sentences = tell(evidence, self)

    def to_dict(self) -> dict:
        """Values that JSON knows; what is not a number is None."""
        evidence = self.evidence
        values = {
            "schema_version": SCHEMA_VERSION,
            "old_version": evidence.old.version,
            "new_version": evidence.new.version,
            "old_sha256": evidence.old.sha256,
            "new_sha256": evidence.new.sha256,
            "old_masks": [case.name for case in evidence.hold_out if case.name in evidence.old_masks],
        }
        values |= {name: getattr(self, name) for name in _KEPT}
        return as_json(values | {name: getattr(evidence, name) for name in _KEPT_EVIDENCE})


_KEPT_SUMMARIES = ("hold_out_summary", "forgetting_summary")
_KEPT = ("date", "verdict", "recommendation", "sentences", "p_value", "agreement", *_KEPT_SUMMARIES)
_KEPT_EVIDENCE = ("comparisons", "hold_out", "forgetting", "forgetting_name", "left_out", "cross_validation")


def _found(summary: Summary, cases: Sequence[ComparedCase], p_value: float | None, limit: float) -> str:
    """What the hold-out says."""
    if p_value is None:
        return TOO_FEW
    if any(case.is_missed for case in cases) or summary.gain <= -WORSE_GAIN:
        return WORSE
    if summary.gain < -TIE and gain_p_value([-gain for gain in summary.patient_gains]) < SIGNIFICANT:
        return WORSE
    return BETTER if summary.gain > TIE and p_value < limit else NO_DIFFERENCE


def _has_forgotten(summary: Summary, cases: Sequence[ComparedCase]) -> bool:
    has_lost = summary.gain < -FORGOTTEN_GAIN or summary.largest_loss > LOST_CASE
    return has_lost or any(case.is_missed for case in cases)


def _reasons_to_keep(evidence: Evidence, hold_out: Summary, found: str, has_forgotten: bool) -> list[str]:
    reasons = []
    if found == TOO_FEW:
        reasons.append("there are too few patients kept for checking")
    elif found == WORSE:
        reasons.append("the new version is worse")
    elif found == NO_DIFFERENCE:
        chance = hold_out.gain > TIE
        reasons.append(
            "the gain may be chance" if chance else f"the patients kept for checking gained no more than {TIE:g} Dice"
        )
    if has_forgotten:
        reasons.append("the old ability suffered")
    lost = [case for case in evidence.hold_out if case.gain < -LOST_CASE]
    if lost:
        worst = min(lost, key=lambda case: case.gain)
        many = counted(len(lost), "case")
        reasons.append(f"{many} kept for checking lost more than {LOST_CASE:g} Dice, {worst.name} most")
    empty = [case.name for case in evidence.cases if case.new.is_empty]
    if empty:
        reasons.append(f"the new version found no prostate in {listed(empty)}")
    failed = sum(bool(case.error) for case in evidence.cases)
    if failed:
        reasons.append(f"{counted(failed, 'case')} could not be compared")
    if evidence.seen:
        reasons.append("a case kept for checking was trained on")
    if evidence.cannot_tell:
        reasons.append("nobody can tell whether a case kept for checking was trained on")
    return reasons
