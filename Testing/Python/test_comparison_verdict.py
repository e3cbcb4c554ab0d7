"""What follows from the figures of two model versions: the verdict, the default, and what a reader is told."""

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from DDSPSegmentationLib.engine.model import ModelDescription
from DDSPSegmentationLib.engine.scan_identity import NOTHING_SEEN, SeenScans
from DDSPSegmentationLib.learning.comparison_record import (
    NO_DIFFERENCE,
    TOO_FEW,
    ComparedCase,
    Evidence,
    Figures,
    summarize,
)
from DDSPSegmentationLib.learning.comparison_verdict import LEAST_AGREEMENT, Comparison
from DDSPSegmentationLib.learning.comparison_words import doubt_about_activation, doubt_in_short
from DDSPSegmentationLib.learning.statistics import mean_interval

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Benchmarks"))
import activation  # noqa: E402

OLD = ModelDescription("one", "a1", {}, {}, seen=NOTHING_SEEN)
NEW = ModelDescription("two", "b2", {}, {}, seen=NOTHING_SEEN)


def figures(dice, expected=0.9):
    return Figures(dice, 1.0 - dice, 5 * (1 - dice), 100 * (dice - 1) / 2, expected)


EMPTY = Figures(0.0, None, None, -100.0, 0.0)


def compared(*pairs, patients=None, prefix="c", agreement=0.97):
    """Cases with (old Dice, new Dice), each of its own patient unless told."""
    patients = patients or range(len(pairs))
    return [
        ComparedCase(f"{prefix}{number}", f"p{patient}", "", figures(old), figures(new), agreement)
        for number, ((old, new), patient) in enumerate(zip(pairs, patients, strict=True))
    ]


def gains(*values, **options):
    return compared(*((0.85, 0.85 + value) for value in values), **options)


def verdict_of(hold_out, sample_agreement=0.99, old=OLD, new=NEW, **evidence):
    return Comparison(Evidence(old, new, hold_out, sample_agreement=sample_agreement, **evidence))


def said(comparison):
    return "\n".join(comparison.sentences)


# ---- figures by patient


def test_several_cases_of_one_patient_count_as_one():
    summary = summarize(compared((0.8, 0.9), (0.8, 0.9), (0.8, 0.8), (0.6, 0.5), patients=(1, 1, 1, 2)))
    assert (summary.cases, summary.patients, summary.wins, summary.losses, summary.ties) == (4, 2, 2, 1, 1)
    assert summary.patient_gains == pytest.approx((0.2 / 3, -0.1))
    assert summary.gain == pytest.approx((0.2 / 3 - 0.1) / 2)
    assert summary.old["dice"] == pytest.approx((0.8 + 0.6) / 2)
    assert summary.new["dice"] - summary.old["dice"] == pytest.approx(summary.gain)
    assert summary.interval is None and summary.largest_loss == pytest.approx(0.1)


def test_the_interval_is_that_of_the_patients():
    summary = summarize(gains(0.1, 0.0, 0.02, 0.03, 0.01, 0.05, patients=(1, 1, 2, 3, 4, 5)))
    assert summary.interval == pytest.approx(mean_interval([0.05, 0.02, 0.03, 0.01, 0.05]))


@pytest.mark.parametrize("empty", ["old", "new"])
def test_a_mask_without_distance_leaves_the_case_out_of_both_mean_distances(empty):
    pair = {"old": figures(0.5), "new": figures(0.5)} | {empty: EMPTY}
    cases = [*compared((0.8, 0.9), (0.8, 0.9)), ComparedCase("lost", "p9", "", **pair)]
    summary = summarize(cases)
    assert summary.undefined == 1
    assert (summary.old["abd_mm"], summary.new["abd_mm"]) == pytest.approx((0.2, 0.1))
    assert (summary.old["hd95_mm"], summary.new["hd95_mm"]) == pytest.approx((1.0, 0.5))
    mean, volume = getattr(summary, empty), {"old": 10, "new": 5}[empty]
    assert mean["dice"] == pytest.approx(2 * {"old": 0.8, "new": 0.9}[empty] / 3)
    assert mean["absolute_volume_error_percent"] == pytest.approx((2 * volume + 100) / 3)
    assert mean["volume_error_percent"] == pytest.approx((-2 * volume - 100) / 3)


# ---- verdicts


@pytest.mark.parametrize(
    ("changes", "verdict", "recommendation"),
    [
        ([0.02] * 6, "better", "activate"),
        ([0.02] * 7 + [-0.01], "better", "activate"),
        ([0.03, 0.02, 0.04, 0.01, 0.03], "better", "activate"),
        ([0.03, 0.02, 0.001, -0.01, 0.02], NO_DIFFERENCE, "keep"),
        ([0.02, -0.03, 0.03, -0.01, 0.02, -0.02], NO_DIFFERENCE, "keep"),
        ([0.011, 0.006, 0.012, 0.01, 0.006], NO_DIFFERENCE, "keep"),
        ([0.004] * 20, NO_DIFFERENCE, "keep"),
        ([0.0] * 6, NO_DIFFERENCE, "keep"),
        ([-0.004] * 8, NO_DIFFERENCE, "keep"),
        ([0.09] * 7 + [-0.06], "better", "keep"),
        ([-0.01] * 6, "worse", "keep"),
        ([-0.01, -0.02, -0.006, -0.01, -0.01], "worse", "keep"),
        ([0.01] * 9 + [-0.4], "worse", "keep"),
        ([0.2] * 4, TOO_FEW, "keep"),
        ([-0.2], TOO_FEW, "keep"),
        ([], TOO_FEW, "keep"),
    ],
)
def test_the_verdict_and_the_default_follow_from_the_change_of_dice(changes, verdict, recommendation):
    comparison = verdict_of(gains(*changes))
    assert (comparison.verdict, comparison.recommendation) == (verdict, recommendation)
    start = {"better": "The new version is better", "worse": "The new version is worse"}.get(verdict, verdict)
    assert start.lower() in comparison.sentences[0].lower()
    assert comparison.sentences[-1].startswith("Activating" if recommendation == "activate" else "Keeping the old")


@pytest.mark.parametrize("patients", [3, 5, 6, 8, 20])
def test_chance_is_rarely_recommended_and_a_gain_mostly(patients):
    """As Testing/Benchmarks/activation.py, with fewer draws and room for their chance."""
    shares = {kind: activation.share_recommended(kind, patients, draws=2000) for kind in activation.CHANGES}
    assert shares["no change"] <= 0.035
    assert shares["skewed"] <= 0.10 and shares["heavy-tailed"] <= 0.10
    assert shares["gain"] >= (0.80 if patients >= 6 else 0.65 if patients == 5 else 0)
    assert patients >= 5 or set(shares.values()) == {0}


def test_who_compares_again_on_the_same_hold_out_must_be_surer():
    changes = [0.03, 0.02, 0.04, 0.01, 0.03]
    first, third = (verdict_of(gains(*changes), comparisons=count) for count in (1, 3))
    assert first.recommendation == "activate" and "comparison" not in said(first)
    assert 0.025 / 3 > third.p_value == first.p_value and third.recommendation == "activate"
    assert "This is comparison 3 on these patients kept for checking" in said(third) and "p below 0.0083" in said(third)
    tenth = verdict_of(gains(*changes), comparisons=10)
    assert (tenth.verdict, tenth.recommendation, tenth.to_dict()["comparisons"]) == (NO_DIFFERENCE, "keep", 10)
    assert "may be chance" in tenth.sentences[-1]


def test_with_no_true_change_ten_versions_on_one_hold_out_are_as_safe_as_one():
    import numpy as np

    draws = np.random.default_rng(5).normal(0, 0.02, (300, 10, 8))
    fooled = sum(
        any(verdict_of(gains(*row), comparisons=n).recommendation == "activate" for n, row in enumerate(rows, 1))
        for rows in draws.tolist()
    )
    assert fooled / len(draws) <= 0.1  # the shares of all ten add up to 0.073; without the count it is 0.22


def test_the_verdict_is_told_with_its_figures():
    first = verdict_of(gains(*[0.02, 0.04] * 3)).sentences[0]
    assert "6 patients kept for checking (6 cases)" in first
    assert "rose from 0.850 to 0.880 (+0.030)" in first
    assert "95 % interval +0.019 to +0.041" in first
    assert "one-sided paired t-test over patients, p < 0.001, where a gain counts below 0.025" in first


@pytest.mark.parametrize(("patients", "missing"), [(0, 25), (1, 20), (3, 10), (4, 5)])
def test_below_five_patients_it_is_told_how_many_more_it_takes(patients, missing):
    first = verdict_of(gains(*[0.05] * 2 * patients, patients=[*range(patients)] * 2)).sentences[0]
    told = f"With 5 patients kept for checking instead of {patients or 'none'} a comparison can say"
    assert first.startswith(f"Too few cases to judge. {told}")
    assert f"about {missing} more accepted patients, as one in 5 is kept" in first


def test_twelve_cases_of_two_patients_are_too_few():
    assert verdict_of(gains(*[0.05] * 12, patients=[1, 2] * 6)).verdict == TOO_FEW


def test_a_gland_that_only_the_new_version_misses_makes_it_worse_whatever_the_mean():
    cases = [*compared(*[(0.5, 0.9)] * 6), ComparedCase("missed", "p9", "", figures(0.3), EMPTY)]
    comparison = verdict_of(cases)
    assert comparison.hold_out_summary.gain > 0.2
    assert (comparison.verdict, comparison.recommendation) == ("worse", "keep")
    assert "found no prostate in missed, where the old version did" in comparison.sentences[0]


def test_a_gland_that_both_versions_miss_is_a_tie_but_never_good():
    cases = [*gains(*[0.02] * 8), ComparedCase("hard", "p9", "", EMPTY, EMPTY)]
    comparison = verdict_of(cases)
    assert (comparison.verdict, comparison.recommendation) == ("better", "keep")
    assert "the new version found no prostate in hard" in comparison.sentences[-1]


def test_a_case_that_could_not_be_compared_is_in_no_figure_and_keeps_the_old_version():
    cases = [*gains(*[0.02] * 6), ComparedCase("broken", "p9", error="File 'x' is damaged.")]
    comparison = verdict_of(cases)
    assert comparison.hold_out_summary.cases == 6 and comparison.hold_out_summary.failed == ("broken",)
    assert (comparison.verdict, comparison.recommendation) == ("better", "keep")
    assert "Not compared: broken." in said(comparison) and "1 case could not be compared" in comparison.sentences[-1]


def test_what_is_not_a_number_never_counts_as_good():
    cases = gains(*[0.02] * 6)
    cases[2] = replace(cases[2], new=replace(cases[2].new, dice=math.nan))
    comparison = verdict_of(cases)
    assert comparison.verdict != "better" and comparison.recommendation == "keep"


# ---- forgetting, and how far the versions differ


@pytest.mark.parametrize(
    ("changes", "forgotten"),
    [([-0.011] * 4, True), ([-0.009] * 4, False), ([0.02] * 9 + [-0.06], True), ([0.02] * 9 + [-0.04], False)],
)
def test_forgetting_is_flagged_by_the_mean_or_by_one_case(changes, forgotten):
    comparison = verdict_of(gains(*[0.02] * 6), forgetting=gains(*changes, prefix="r"), forgetting_name="replay folder")
    assert comparison.verdict == ("forgotten" if forgotten else "better")
    assert comparison.recommendation == ("keep" if forgotten else "activate")
    assert comparison.sentences[0].startswith("The new version has forgotten") == forgotten
    assert f"on the replay folder ({len(changes)} cases) the mean Dice went from 0.850" in said(comparison)
    assert "the mean Dice rose from 0.850 to 0.870" in said(comparison)


def test_a_gland_that_is_missed_in_the_forgetting_test_is_forgotten():
    missed = [*gains(*[0.2] * 9, prefix="r"), ComparedCase("r9", "p9", "", figures(0.03), EMPTY)]
    assert verdict_of(gains(*[0.02] * 6), forgetting=missed).verdict == "forgotten"


def test_without_cases_for_forgetting_it_is_told_that_it_was_not_measured():
    comparison = verdict_of(gains(*[0.02] * 6))
    assert (comparison.verdict, comparison.recommendation) == ("better", "activate")
    assert "What was forgotten could not be measured" in said(comparison)


def test_the_agreement_is_measured_on_every_scan_that_both_versions_segmented():
    cases = gains(*[0.02] * 6, agreement=0.95)
    others = [cases[0], *gains(0.0, prefix="r", agreement=0.89)]
    comparison = verdict_of(cases, sample_agreement=0.99, forgetting=others)
    assert comparison.agreement == pytest.approx((0.99 + 6 * 0.95 + 0.89) / 8)
    assert "On 8 scans the new version's masks agree with the old one's to a mean Dice of 0.948." in said(comparison)
    assert verdict_of([], sample_agreement=None).agreement is None


def test_that_a_version_differs_from_the_old_one_never_keeps_it_out_alone():
    far = LEAST_AGREEMENT - 0.2
    comparison = verdict_of(gains(*[0.02] * 6, agreement=far), sample_agreement=far)
    assert (comparison.verdict, comparison.recommendation) == ("better", "activate")
    assert "differs" not in said(comparison) and f"{far:.3f}" in said(comparison)


def test_that_a_version_differs_from_the_old_one_is_told_beside_another_doubt():
    far = LEAST_AGREEMENT - 0.2
    comparison = verdict_of(gains(*[0.001] * 6, agreement=far), sample_agreement=far)
    assert (comparison.verdict, comparison.recommendation) == (NO_DIFFERENCE, "keep")
    assert "it differs from the old version" in comparison.sentences[-1]
    near = verdict_of(gains(*[0.001] * 6))
    assert "differs" not in said(near)


def test_worse_on_the_hold_out_is_said_before_what_else_is_wrong():
    comparison = verdict_of(gains(*[-0.1] * 6, agreement=0.5), forgetting=gains(-0.2, prefix="r"))
    assert comparison.verdict == "worse" and "worse" in comparison.sentences[0]
    assert "forgotten" in said(comparison) and "differs" in said(comparison)


# ---- what else a reader is told


@pytest.mark.parametrize("hold_out", [1, 6])
@pytest.mark.parametrize(
    ("left_out", "label"),
    [
        ("one patient", "Each of the 5 patients for training was left out of it once"),
        ("groups of patients", "The 5 patients for training were left out a few at a time"),
    ],
)
def test_the_cross_validation_is_shown_beside_the_hold_out_as_what_it_is(hold_out, left_out, label):
    found = {"patients": 5, "dice_before": 0.81, "dice_after": 0.84, "left_out": left_out, "per_case": {}}
    told = said(verdict_of(gains(*[0.1] * hold_out), cross_validation=found))
    assert f"{label}: the mean Dice on those left out went from 0.810 to 0.840 (+0.030)" in told
    assert "do not replace patients kept for checking" in told


def test_cross_validation_without_figures_says_nothing():
    for found in ({}, {"dice_before": math.nan, "dice_after": 0.9}, {"dice_before": None, "dice_after": 0.9}):
        assert "training cases" not in said(verdict_of([], cross_validation=found))


def test_masks_that_were_corrected_from_the_old_version_are_counted():
    comparison = verdict_of(gains(0.1, 0.1, 0.1), old_masks=frozenset({"c0", "c2", "elsewhere"}))
    assert comparison.to_dict()["old_masks"] == ["c0", "c2"]
    told = "2 of the 3 cases kept for checking have a mask that was corrected from the old version's own"
    assert told in said(comparison) and "favors the old version" in said(comparison)
    assert "favors" not in said(verdict_of(gains(0.1)))


def test_the_error_of_the_expected_dice_is_told_where_there_is_one():
    cases = gains(0.0, 0.05, 0.1)  # expected 0.9, true 0.85, 0.9, 0.95
    assert "expected Dice is off by 0.033 on average on these cases." in said(verdict_of(cases))
    without = [replace(case, new=replace(case.new, expected_dice=None)) for case in cases]
    assert "expected Dice" not in said(verdict_of(without))


def test_a_hold_out_case_that_was_trained_on_is_named_and_keeps_the_old_version():
    comparison = verdict_of(gains(*[0.02] * 6), seen=["c1"])
    assert comparison.recommendation == "keep"
    assert "trained on c1 of the cases kept for checking" in said(comparison)


def test_a_version_that_does_not_say_what_it_saw_is_never_better_on_unseen_cases():
    for old, new in ((replace(OLD, seen=SeenScans()), NEW), (OLD, replace(NEW, seen=SeenScans()))):
        comparison = verdict_of(gains(*[0.02] * 6), old=old, new=new)
        unknown = old if not old.seen.known else new
        assert comparison.recommendation == "keep"
        assert f"'{unknown.version}' does not say what it was trained on: it cannot be told" in said(comparison)


def test_rehearsed_cases_of_the_forgetting_test_are_counted():
    comparison = verdict_of(
        gains(*[0.02] * 6),
        forgetting=gains(0, 0, prefix="r"),
        forgetting_name="replay folder",
        rehearsed=["r1"],
    )
    assert "1 of the 2 cases of the replay folder" in said(comparison) and "rehearsed" in said(comparison)


def test_no_reader_trips_over_a_word_of_statisticians():
    found = {"patients": 5, "dice_before": 0.81, "dice_after": 0.84, "left_out": "one patient", "per_case": {}}
    everything = {"cross_validation": found, "comparisons": 2, "seen": ["c1"], "left_out": ["c9"], "rehearsed": ["r0"]}
    everything |= {"forgetting": gains(-0.2, 0.0, prefix="r"), "old_masks": frozenset({"c0"})}
    told = "".join(
        said(verdict_of(gains(*changes), new=replace(NEW, seen=SeenScans()), **everything))
        for changes in ([0.02] * 6, [0.02] * 5 + [-0.2], [0.1], [0.0] * 6)
    )
    assert not re.search("hold-?out|held out|split|drift|leave-one|cross-validation", told, re.IGNORECASE)
    assert "1 of the 6 cases kept for checking has a mask" in told and "1 of the 2 cases" in told


def test_the_doubt_in_short_is_the_recommendation_alone():
    record = verdict_of(gains(*[0.001] * 6)).to_dict()
    assert doubt_in_short(record, "one") == record["sentences"][-1] != doubt_about_activation(record, "one")
    assert doubt_in_short(record, "three") == "It was compared with one, not with three."
    assert doubt_in_short({}, "one") == "It was not compared with the version before."
    assert doubt_in_short(verdict_of(gains(*[0.02] * 6)).to_dict(), "one") == ""


def test_the_record_is_json_without_nan():
    cases = [
        *gains(*[0.02] * 6),
        ComparedCase("broken", "p9", error="Damaged."),
        ComparedCase("e", "p", "", EMPTY, EMPTY),
    ]
    found = {"patients": 2, "dice_before": math.nan, "per_case": {"a": [0.1, math.inf]}}
    comparison = verdict_of(cases, forgetting=gains(0.1, prefix="r"), cross_validation=found)
    values = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert values["hold_out_summary"]["gain"] == pytest.approx(comparison.hold_out_summary.gain)
    assert values["hold_out"][6]["new"]["dice"] is None and values["hold_out"][6]["error"] == "Damaged."
    assert values["cross_validation"] == {"patients": 2, "dice_before": None, "per_case": {"a": [0.1, None]}}
