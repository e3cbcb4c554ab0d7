"""Comparison of two model versions: what is measured, what follows from it, and what a reader gets to see."""

import itertools
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from engine_parts import bright_model, phantom, scan_of
from learning_parts import toy_plan, toy_scan, toy_trainer

from DDSPSegmentationLib.engine.errors import Canceled, ModelError, StorageError
from DDSPSegmentationLib.engine.images import write_image
from DDSPSegmentationLib.engine.metrics import compare_masks
from DDSPSegmentationLib.engine.model import ModelDescription, save_model
from DDSPSegmentationLib.engine.pictures import PROSTATE_COLOR, REFERENCE_COLOR
from DDSPSegmentationLib.engine.preprocessing import PreprocessingSettings
from DDSPSegmentationLib.engine.quality import UNCALIBRATED
from DDSPSegmentationLib.engine.segmenter import Segmenter
from DDSPSegmentationLib.learning.comparison import OLD_COLOR, compare_versions
from DDSPSegmentationLib.learning.comparison_record import ComparedCase, Evidence, Figures, summarize
from DDSPSegmentationLib.learning.comparison_verdict import judge
from DDSPSegmentationLib.learning.dataset import Case, prepare_dataset
from DDSPSegmentationLib.learning.statistics import mean_interval, sign_flip_p_value

OLD, NEW = ModelDescription("one", "a1", {}, {}), ModelDescription("two", "b2", {}, {})
GOOD, WIDE, BLIND = 2.8, 1.2, 100.0  # brightness from which the toy networks say prostate


def figures(dice, expected=0.9):
    return Figures(dice, 1.0 - dice, 5 * (1 - dice), 100 * (dice - 1) / 2, expected)


EMPTY = Figures(0.0, None, None, -100.0, 0.0)


def compared(*pairs, patients=None, prefix="c"):
    """Cases with (old Dice, new Dice), each of its own patient unless told."""
    patients = patients or range(len(pairs))
    return [
        ComparedCase(f"{prefix}{number}", f"p{patient}", "", figures(old), figures(new))
        for number, ((old, new), patient) in enumerate(zip(pairs, patients, strict=True))
    ]


def gains(*values, **options):
    return compared(*((0.85, 0.85 + value) for value in values), **options)


def verdict_of(hold_out, agreement=0.99, old=OLD, new=NEW, **evidence):
    return judge(Evidence(old, new, hold_out, agreement=agreement, **evidence))


def said(comparison):
    return "\n".join(comparison.sentences)


# ---- statistics


@pytest.mark.parametrize("values", [[0.1] * 6, [0.3, -0.1, 0.2, 0.05, 0.0, -0.02, 0.4], [-0.2, 0.1]])
def test_the_sign_flip_test_counts_every_pattern_of_signs(values):
    sums = [
        abs(sum(s * v for s, v in zip(p, values, strict=True))) for p in itertools.product((1, -1), repeat=len(values))
    ]
    expected = sum(found >= abs(sum(values)) - 1e-9 for found in sums) / len(sums)
    assert sign_flip_p_value(values) == expected


def test_six_gains_are_the_fewest_that_can_be_significant():
    assert sign_flip_p_value([0.02] * 5) == 2 / 32 > 0.05 > sign_flip_p_value([0.02] * 6) == 2 / 64


def test_many_differences_are_drawn_alike_each_time_and_close_to_the_exact_value():
    values = np.random.default_rng(1).normal(0.3, 1, 12)
    with_nothing_added = [*values, *[0.0] * 8]  # zeros change no sum, hence no p value
    drawn = sign_flip_p_value(with_nothing_added)
    assert drawn == sign_flip_p_value(with_nothing_added) == pytest.approx(sign_flip_p_value(values), abs=0.02)
    assert sign_flip_p_value([1.0] * 40) == pytest.approx(1e-4, rel=0.01)


def test_the_interval_of_a_mean_is_seeded_and_as_wide_as_theory_says():
    values = np.random.default_rng(4).normal(10, 2, 400)
    low, high = mean_interval(values)
    assert (low, high) == mean_interval(values)
    assert low == pytest.approx(values.mean() - 1.96 * values.std() / 20, abs=0.02)
    assert high == pytest.approx(values.mean() + 1.96 * values.std() / 20, abs=0.02)
    assert mean_interval([0.1]) is None


def test_several_cases_of_one_patient_count_as_one():
    summary = summarize(compared((0.8, 0.9), (0.8, 0.9), (0.8, 0.8), (0.6, 0.5), patients=(1, 1, 1, 2)))
    assert (summary.cases, summary.patients, summary.wins, summary.losses, summary.ties) == (4, 2, 2, 1, 1)
    assert summary.patient_gains == pytest.approx((0.2 / 3, -0.1))
    assert summary.gain == pytest.approx((0.2 / 3 - 0.1) / 2)
    assert summary.old["dice"] == pytest.approx((0.8 + 0.6) / 2)
    assert summary.new["dice"] - summary.old["dice"] == pytest.approx(summary.gain)
    assert summary.p_value is None and summary.largest_loss == pytest.approx(0.1)


def test_a_mask_without_distance_leaves_the_case_out_of_both_mean_distances():
    cases = [*compared((0.8, 0.9), (0.8, 0.9)), ComparedCase("lost", "p9", "", figures(0.5), EMPTY)]
    summary = summarize(cases)
    assert summary.undefined == 1
    assert (summary.old["abd_mm"], summary.new["abd_mm"]) == pytest.approx((0.2, 0.1))
    assert summary.new["dice"] == pytest.approx(0.6)
    assert summary.new["absolute_volume_error_percent"] == pytest.approx((5 + 5 + 100) / 3)
    assert summary.new["volume_error_percent"] == pytest.approx((-5 - 5 - 100) / 3)


# ---- verdicts


@pytest.mark.parametrize(
    ("changes", "verdict", "recommendation"),
    [
        ([0.02] * 6, "better", "activate"),
        ([0.02] * 7 + [-0.01], "better", "activate"),
        ([0.03, 0.02, 0.04], "better", "activate"),
        ([0.03, 0.02, 0.001], "no clear difference", "activate"),
        ([0.02, -0.03, 0.03, -0.01, 0.02, -0.02], "no clear difference", "activate"),
        ([0.004] * 8, "no clear difference", "activate"),
        ([0.0] * 6, "no clear difference", "keep"),
        ([-0.004] * 8, "no clear difference", "keep"),
        ([0.09] * 7 + [-0.06], "better", "keep"),
        ([-0.01] * 6, "worse", "keep"),
        ([-0.01, -0.02, -0.006], "worse", "keep"),
        ([0.01] * 9 + [-0.4], "worse", "keep"),
        ([0.2, 0.2], "too few cases to judge", "keep"),
        ([-0.2], "too few cases to judge", "keep"),
        ([], "too few cases to judge", "keep"),
    ],
)
def test_the_verdict_and_the_default_follow_from_the_change_of_dice(changes, verdict, recommendation):
    comparison = verdict_of(gains(*changes))
    assert (comparison.verdict, comparison.recommendation) == (verdict, recommendation)
    start = {"better": "The new version is better", "worse": "The new version is worse"}.get(verdict, verdict)
    assert start.lower() in comparison.sentences[0].lower()
    assert comparison.sentences[-1].startswith("Activating" if recommendation == "activate" else "Keeping the old")


def test_the_verdict_is_told_with_its_figures():
    first = verdict_of(gains(*[0.02, 0.04] * 3)).sentences[0]
    assert "6 patients of the hold-out (6 cases)" in first
    assert "rose from 0.850 to 0.880 (+0.030)" in first
    assert "95 % interval +0.0" in first and "p = 0.031" in first
    few = verdict_of(gains(0.02, 0.03, 0.04)).sentences[0]
    assert "too few patients for a statistical test" in few and "p =" not in few


def test_twelve_cases_of_two_patients_are_too_few():
    assert verdict_of(gains(*[0.05] * 12, patients=[1, 2] * 6)).verdict == "too few cases to judge"


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


@pytest.mark.parametrize("where", ["hold-out", "agreement"])
def test_what_is_not_a_number_never_counts_as_good(where):
    cases, agreement = gains(*[0.02] * 6), 0.99
    if where == "hold-out":
        cases[2] = replace(cases[2], new=replace(cases[2].new, dice=math.nan))
    else:
        agreement = math.nan
    comparison = verdict_of(cases, agreement=agreement)
    assert comparison.verdict != "better" and comparison.recommendation == "keep"


# ---- forgetting and drift


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


def test_without_cases_for_forgetting_only_drift_is_told_and_named_so():
    comparison = verdict_of(gains(*[0.02] * 6), agreement=0.968)
    assert (comparison.verdict, comparison.recommendation) == ("better", "activate")
    assert "could not be measured" in said(comparison) and "only drift" in said(comparison)
    assert "to a Dice of 0.968." in said(comparison)


def test_drift_below_the_limit_keeps_the_old_version_even_if_the_hold_out_gains():
    comparison = verdict_of(gains(*[0.02] * 6), agreement=0.949)
    assert (comparison.verdict, comparison.recommendation) == ("drifted", "keep")
    assert "which is below 0.95" in comparison.sentences[0]
    assert "better" in comparison.sentences[1]


def test_an_error_that_hold_out_and_forgetting_cases_share_is_flagged_by_drift():
    others = gains(*[0.3] * 3, prefix="r")
    comparison = verdict_of(gains(*[0.3] * 6), forgetting=others, agreement=0.6)
    assert (comparison.verdict, comparison.recommendation) == ("drifted", "keep")
    assert "could not be measured" not in said(comparison)


def test_a_sample_scan_that_cannot_be_compared_is_told_and_not_good():
    comparison = verdict_of(gains(*[0.02] * 6), agreement=None)
    assert comparison.recommendation == "keep" and "the sample scan could not be compared" in comparison.sentences[-1]


def test_worse_on_the_hold_out_is_said_before_what_else_is_wrong():
    comparison = verdict_of(gains(*[-0.1] * 6), agreement=0.5, forgetting=gains(-0.2, prefix="r"))
    assert comparison.verdict == "worse" and comparison.sentences[0].startswith("The new version is worse")
    assert "has forgotten" in said(comparison) and "below 0.95" in said(comparison)


# ---- what else a reader is told


@pytest.mark.parametrize(
    ("left_out", "label"),
    [("one patient", "Leave-one-patient-out"), ("groups of patients", "Cross-validation by patient")],
)
def test_with_too_few_cases_the_cross_validation_is_shown_as_what_it_is(left_out, label):
    found = {"patients": 5, "dice_before": 0.81, "dice_after": 0.84, "left_out": left_out, "per_case": {}}
    comparison = verdict_of(gains(0.1), cross_validation=found)
    assert comparison.verdict == "too few cases to judge"
    assert f"{label} on the 5 patients of the training cases: mean Dice from 0.810 to 0.840 (+0.030)" in said(
        comparison
    )
    assert "do not replace a hold-out" in said(comparison)
    assert label not in said(verdict_of(gains(0.1, 0.1, 0.1), cross_validation=found))


def test_cross_validation_without_figures_says_nothing():
    for found in ({}, {"dice_before": math.nan, "dice_after": 0.9}):
        assert "atient-out" not in said(verdict_of([], cross_validation=found))


def test_masks_that_were_corrected_from_the_old_version_are_counted():
    comparison = verdict_of(gains(0.1, 0.1, 0.1), old_masks=frozenset({"c0", "c2", "elsewhere"}))
    assert comparison.old_masks == ("c0", "c2")
    assert "2 of the 3 cases of the hold-out have a mask that was corrected from the old version's own" in said(
        comparison
    )
    assert "favors the old version" in said(comparison)
    assert "favors" not in said(verdict_of(gains(0.1)))


def test_the_error_of_the_expected_dice_is_told_and_that_it_is_uncalibrated():
    cases = gains(0.0, 0.05, 0.1)  # expected 0.9, true 0.85, 0.9, 0.95
    assert "expected Dice is off by 0.033 on average on the hold-out." in said(verdict_of(cases))
    comparison = verdict_of(cases, new=replace(NEW, metrics={"expected_dice": UNCALIBRATED}))
    assert "off by 0.033 on average on the hold-out; it has not been calibrated" in said(comparison)


@pytest.mark.parametrize("key", ["cases", "replay", "parent_cases"])
def test_a_hold_out_case_that_was_trained_on_is_named_and_keeps_the_old_version(key):
    comparison = verdict_of(gains(*[0.02] * 6), new=replace(NEW, training={key: ["c1", "other"]}))
    assert comparison.recommendation == "keep"
    assert "trained on c1 of the hold-out" in said(comparison)


def test_rehearsed_cases_of_the_forgetting_test_are_counted():
    comparison = verdict_of(
        gains(*[0.02] * 6),
        forgetting=gains(0, 0, prefix="r"),
        forgetting_name="replay folder",
        new=replace(NEW, training={"replay": ["r1"]}),
    )
    assert "1 of the 2 cases of the replay folder" in said(comparison) and "rehearsed" in said(comparison)


# ---- the record


def test_a_comparison_survives_json_and_holds_no_nan():
    cases = [
        *gains(*[0.02] * 6),
        ComparedCase("broken", "p9", error="Damaged."),
        ComparedCase("e", "p", "", EMPTY, EMPTY),
    ]
    found = {"patients": 2, "dice_before": math.nan, "per_case": {"a": [0.1, math.inf]}}
    comparison = verdict_of(cases, forgetting=gains(0.1, prefix="r"), cross_validation=found)
    text = json.dumps(comparison.to_dict(), allow_nan=False)
    assert Comparison.from_dict(json.loads(text)) == comparison
    assert comparison.cross_validation == {"patients": 2, "dice_before": None, "per_case": {"a": [0.1, None]}}


@pytest.mark.parametrize(
    "damage", [{"schema_version": 2}, {"hold_out": None}, {"hold_out": [{"name": 1}]}, {"unknown": 1}, {"sentences": 3}]
)
def test_a_damaged_or_newer_record_is_refused(damage):
    values = {**verdict_of(gains(0.1)).to_dict(), **damage}
    with pytest.raises(ModelError, match="schema version 2" if "schema_version" in damage else "damaged"):
        Comparison.from_dict(values)


def test_a_comparison_can_be_read_without_torch():
    code = "import sys; sys.modules['torch'] = None; import DDSPSegmentationLib.learning.comparison"
    folder = Path(__file__).resolve().parents[2] / "DDSPSegmentation"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=120)


# ---- what both versions say


def cone(offset, slope=12.0, seed=0):
    """A scan that gets darker with the distance from a gland's middle: how much is gland is a matter of brightness."""
    image, _ = phantom()
    z, y, x = np.indices(image.GetSize()[::-1])
    distance = np.sqrt(((z - 8.5) * 3) ** 2 + ((y - 31.5) * 1.5 - offset) ** 2 + ((x - 31.5) * 1.5) ** 2)
    noise = np.random.default_rng(seed).normal(0, 4, distance.shape)
    return scan_of((200 + np.clip(300 - slope * distance, 0, None) + noise).astype(np.float32), image.GetSpacing())


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    levels = {"good": GOOD, "wide": WIDE, "blind": BLIND}
    return {name: bright_model(folder / name, bright) for name, bright in levels.items()}


@pytest.fixture(scope="module")
def hold_out(versions, tmp_path_factory):
    """Cases of four patients whose reference is what the good network says."""
    folder = tmp_path_factory.mktemp("cases")
    segmenter = Segmenter(versions["good"], "cpu")
    cases = []
    for number in range(4):
        scan = cone(offset=2.0 * number - 3, slope=12 + number, seed=number)
        cases.append(written(folder, f"a3f9-000{number}", scan, segmenter.segment(scan).mask, f"p{number}"))
    return cases


def written(folder, name, scan, mask, patient):
    case = Case(name, folder / f"{name}.mha", folder / f"{name}-mask.mha", "A", patient)
    write_image(scan, case.image_path)
    write_image(mask, case.label_path)
    return case


def compare(versions, old, new, cases, output, **options):
    sample = options.pop("sample", cases[0].image_path)
    return compare_versions(versions[old], versions[new], cases, output, sample=sample, device="cpu", **options)


def test_both_versions_are_measured_on_the_native_grid(versions, hold_out, tmp_path):
    comparison = compare(versions, "wide", "good", hold_out, tmp_path)
    assert (comparison.old_version, comparison.new_version) == ("wide", "good")
    assert [case.name for case in comparison.hold_out] == [case.name for case in hold_out]
    assert [case.new.dice for case in comparison.hold_out] == [1.0] * 4
    wide = Segmenter(versions["wide"], "cpu").segment(hold_out[2].load_image())
    expected = compare_masks(wide.mask, hold_out[2].load_mask())["whole"]
    found = comparison.hold_out[2].old
    assert (found.dice, found.abd_mm, found.hd95_mm) == (expected.dsc, expected.abd_mm, expected.hd95_mm)
    assert found.volume_error_percent == pytest.approx(expected.arvd_percent) and found.volume_error_percent > 20
    assert found.expected_dice == wide.expected_dice
    assert comparison.verdict in ("better", "drifted") and comparison.hold_out_summary.wins == 4
    assert comparison.agreement == comparison.hold_out[0].old.dice


def test_a_version_agrees_with_itself_and_the_old_one_is_kept(versions, hold_out, tmp_path):
    comparison = compare(versions, "wide", "wide", hold_out[:3], tmp_path, sample=None)
    assert comparison.agreement == 1.0
    assert (comparison.verdict, comparison.recommendation) == ("no clear difference", "keep")


def toy_case(folder, name, seed, poison=lambda mask: mask):
    """A toy scan with a gland off the image's middle."""
    center = np.array((6, 18, 14)) + np.random.default_rng(seed).uniform(-2, 2, 3)
    scan, mask = toy_scan(seed, center, radii=(4, 7, 7))
    poisoned = sitk.GetImageFromArray(np.ascontiguousarray(poison(sitk.GetArrayFromImage(mask))))
    poisoned.CopyInformation(mask)
    return written(folder, name, scan, poisoned, name)


def trained(folder, poison=lambda mask: mask, steps=40):
    """A tiny network trained for some seconds on masks that somebody may have spoiled."""
    preprocessing = PreprocessingSettings(spacing_mm=(2.0, 2.0, 4.0), bias_field="off")
    cases = [toy_case(folder, f"train{number}", number, poison) for number in range(4)]
    prepared = prepare_dataset(cases, preprocessing, progress=lambda text: None)
    trainer = toy_trainer(folder / "run", toy_plan(steps=steps, learning_rate=1e-2), prepared)
    for _ in range(steps):
        trainer.train_step()
    save_model(folder / "model", trainer.network, preprocessing.to_dict())
    return folder / "model"


@pytest.fixture(scope="module")
def clean_version(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("clean"))


@pytest.mark.parametrize(
    "poison",
    [lambda mask: np.roll(mask, 7, axis=2), lambda mask: mask[:, :, ::-1]],
    ids=["shifted by 14 mm", "flipped about the midline"],
)
def test_what_learned_from_poisoned_masks_is_worse_on_a_clean_hold_out(clean_version, tmp_path, poison, one_thread):
    poisoned = trained(tmp_path, poison)
    cases = [toy_case(tmp_path, f"clean{number}", 100 + number) for number in range(6)]
    sample = cases[0].image_path
    comparison = compare_versions(clean_version, poisoned, cases, tmp_path / "out", sample=sample, device="cpu")
    assert (comparison.verdict, comparison.recommendation) == ("worse", "keep")
    assert comparison.hold_out_summary.losses == 6 and comparison.hold_out_summary.p_value == 2 / 64
    assert comparison.agreement < 0.95  # all poisoned, hold-out too, this alone would tell


def test_a_version_that_draws_too_wide_is_worse_and_kept_out(versions, hold_out, tmp_path):
    comparison = compare(versions, "good", "wide", hold_out, tmp_path)
    assert (comparison.verdict, comparison.recommendation) == ("worse", "keep")
    assert comparison.hold_out_summary.losses == 4 and comparison.agreement < 0.95


@pytest.mark.parametrize("old", ["good", "blind"])
def test_a_version_that_finds_nothing_is_never_good(versions, hold_out, tmp_path, old):
    comparison = compare(versions, old, "blind", hold_out, tmp_path)
    assert comparison.recommendation == "keep" and comparison.agreement == 0.0
    assert [case.new.dice for case in comparison.hold_out] == [0.0] * 4
    assert {case.new.abd_mm for case in comparison.hold_out} == {None}
    assert comparison.verdict == ("worse" if old == "good" else "drifted")
    assert len(list(tmp_path.glob("worst-*.png"))) >= 2


def test_a_broken_case_and_an_empty_reference_are_named_and_do_not_stop_the_comparison(versions, hold_out, tmp_path):
    empty = written(tmp_path, "empty", hold_out[0].load_image(), hold_out[0].load_mask() * 0, "p8")
    broken = Case("broken", tmp_path / "missing.mha", tmp_path / "missing-mask.mha", "", "p9")
    comparison = compare(versions, "wide", "good", [broken, *hold_out, empty], tmp_path)
    assert comparison.hold_out_summary.failed == ("broken", "empty")
    assert "does not exist" in comparison.hold_out[0].error
    assert comparison.hold_out[-1].error.startswith("The reference mask is empty.")
    assert comparison.recommendation == "keep" and "not compared" in (tmp_path / "comparison.html").read_text()


def test_a_case_that_serves_twice_is_segmented_once(versions, hold_out, tmp_path, monkeypatch):
    asked, segment = [], Segmenter.segment
    monkeypatch.setattr(
        Segmenter,
        "segment",
        lambda self, image, **options: (asked.append(options["name"]), segment(self, image, **options))[1],
    )
    comparison = compare(
        versions,
        "wide",
        "good",
        hold_out,
        tmp_path,
        forgetting=hold_out[1:2],
        forgetting_name="cases of other scanners",
    )
    assert sorted(asked) == sorted([case.name for case in hold_out] * 2 + [hold_out[0].image_path.name] * 2)
    assert comparison.forgetting == comparison.hold_out[1:2]


def test_progress_only_rises_and_canceling_leaves_no_result(versions, hold_out, tmp_path):
    steps = []
    compare(versions, "wide", "good", hold_out, tmp_path / "whole", progress=lambda *step: steps.append(step))
    fractions = [fraction for _, fraction in steps]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
    assert "Comparing the versions, case 2 of 4" in [phase for phase, _ in steps]

    def cancel(phase, fraction):
        if fraction > 0.5:
            raise Canceled

    with pytest.raises(Canceled):
        compare(versions, "wide", "good", hold_out, tmp_path / "half", progress=cancel)
    assert list((tmp_path / "half").iterdir()) == []


# ---- the files


@pytest.fixture(scope="module")
def written_comparison(versions, hold_out, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison")
    (folder / "worst-3-of an earlier one.png").write_bytes(b"")
    (folder / "worst-notes.png").write_bytes(b"the user's own")
    found = {"patients": 2, "dice_before": 0.8, "dice_after": 0.85, "per_case": {"a3f9-0020": [0.8, 0.85]}}
    comparison = compare(
        versions,
        "good",
        "wide",
        hold_out,
        folder,
        forgetting=hold_out[:1],
        forgetting_name="<replay>",
        cross_validation=found,
    )
    return folder, comparison


def test_record_page_and_pictures_are_written_and_nothing_else_stays(written_comparison):
    folder, comparison = written_comparison
    by_dice = sorted(comparison.hold_out, key=lambda case: case.new.dice)
    names = sorted(path.name for path in folder.iterdir())
    pictures = [name for name in names if name.startswith("worst-")]
    assert names == ["comparison.html", "comparison.json", *pictures]
    assert pictures[:2] == [f"worst-1-{by_dice[0].name}.png", f"worst-2-{by_dice[1].name}.png"]
    assert "worst-notes.png" in pictures and "worst-3-of an earlier one.png" not in pictures
    assert Comparison.from_dict(json.loads((folder / "comparison.json").read_text(encoding="utf-8"))) == comparison


def test_the_picture_shows_the_old_contour_left_the_new_one_right_and_the_reference_in_both(written_comparison):
    folder, _ = written_comparison
    picture = sitk.GetArrayFromImage(sitk.ReadImage(str(next(folder.glob("worst-1-*.png")))))
    half = picture.shape[1] // 2
    left, right = picture[:, :half].reshape(-1, 3), picture[:, half:].reshape(-1, 3)

    def count(pixels, color):
        return (pixels == color).all(axis=1).sum()

    assert count(left, OLD_COLOR) > 50 and count(left, PROSTATE_COLOR) == 0
    assert count(right, PROSTATE_COLOR) > 50 and count(right, OLD_COLOR) == 0
    assert count(right, REFERENCE_COLOR) > 50


def test_the_page_needs_no_other_file_and_says_all_sentences(written_comparison):
    folder, comparison = written_comparison
    page = (folder / "comparison.html").read_text(encoding="utf-8")
    assert set(re.findall(r'(?:src|href)="([^"]{0,22})', page)) == {"data:image/png;base64,"}
    assert "<script" not in page and "http" not in page and "url(" not in page
    assert "prefers-color-scheme: dark" in page and "Research use only. Not a medical device." in page
    for sentence in comparison.sentences:
        assert sentence.replace("'", "&#x27;").replace("<", "&lt;").replace(">", "&gt;") in page
    assert "<replay>" not in page and "a3f9-0020" in page


def test_the_page_has_a_row_and_a_point_for_each_case(written_comparison):
    folder, comparison = written_comparison
    page = (folder / "comparison.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2 and page.count('<circle class="new"') == 4 * (4 + 1)
    plot = re.search(r"<svg.*?</svg>", page, re.DOTALL).group()
    for case in comparison.hold_out:
        assert f"<td>{case.name}</td><td>{case.old.dice:.3f}</td><td>{case.new.dice:.3f}</td>" in page
        assert f"<title>{case.name}: {case.old.dice:.3f} old, {case.new.dice:.3f} new</title>" in plot
    heights = {
        which: float(re.search(rf'circle class="{which}" cx="\S+" cy="(\S+)"', plot).group(1))
        for which in ("old", "new")
    }
    assert heights["old"] < heights["new"]  # a higher Dice is drawn higher up


def test_an_output_folder_that_cannot_be_made_is_named(versions, hold_out, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StorageError, match="taken"):
        compare(versions, "good", "wide", hold_out, tmp_path / "taken")
