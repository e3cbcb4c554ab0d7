"""Calibration of the expected Dice: fitted on scans and degraded copies, judged on patients left out, kept or not."""

import csv
from dataclasses import dataclass, replace

import numpy as np
import pytest
import SimpleITK as sitk
from engine_parts import BRIGHT, bright_model, centroid, phantom, rotation

from DDSPSegmentationLib.engine.confidence import FEATURES, Calibration, from_line, on_line
from DDSPSegmentationLib.engine.errors import DatasetError
from DDSPSegmentationLib.engine.grids import same_grid
from DDSPSegmentationLib.engine.metrics import dice_of
from DDSPSegmentationLib.engine.model import describe_model
from DDSPSegmentationLib.engine.scan_identity import NOTHING_SEEN, ScanIdentity
from DDSPSegmentationLib.engine.segmenter import Segmenter
from DDSPSegmentationLib.learning import calibration
from DDSPSegmentationLib.learning.calibration import (
    LEAST_GAIN,
    LEAST_PATIENTS_TO_CALIBRATE,
    ORIGINAL,
    WRECKED,
    CalibrationSample,
    calibrate_model,
    collect_samples,
    degraded_copies,
    figures,
    fit_calibration,
    judge_calibration,
)


def made_up(patients, known=1.0, seed=0, copies=3, name="p"):
    """Samples of exchangeable patients: a good original each, and ``copies`` that are worse.

    Args:
        known: how much of the Dice the features tell, from 0, nothing, to 1, all but some noise.
    """
    random = np.random.default_rng(seed)
    samples = []
    for patient in (f"{name}{number}" for number in range(patients)):
        quality = random.normal(2.1, 0.35)  # on the line; a Dice of 0.88
        for copy in range(copies + 1):
            true = quality - (random.uniform(0.2, 1.2) if copy else 0)
            told = [known * true + (1 - known) * random.normal(2, 0.5) + random.normal(0, 0.15) for _ in FEATURES]
            kind = f"noise {copy}" if copy else ORIGINAL
            samples.append(CalibrationSample(patient, patient, kind, tuple(told), from_line(true)))
    return samples


# ---- the fit


def test_two_clearly_different_samples_are_ranked():
    fitted = fit_calibration(made_up(20))
    good, bad = (fitted.expect([on_line(dice)] * len(FEATURES)) for dice in (0.93, 0.7))
    assert good.low > bad.high and good.value == pytest.approx(0.93, abs=0.03)
    assert fitted.patients == 20 and Calibration.from_dict(fitted.to_dict()) == fitted


def test_a_feature_that_never_differs_spoils_nothing():
    samples = [replace(sample, features=(*sample.features[:-1], 5.298)) for sample in made_up(20)]
    fitted = Calibration.from_dict(fit_calibration(samples).to_dict())
    usual = fitted.expect([*samples[0].features[:-1], 5.298]).value
    assert abs(fitted.expect([*samples[0].features[:-1], 4.0]).value - usual) < 1e-6


def test_every_patient_counts_alike_however_many_scans_it_has():
    few, many = made_up(10, seed=1, name="a"), made_up(10, seed=2, name="b")
    repeated = [replace(sample, case=f"{sample.case}-{n}") for sample in many[:4] for n in range(50)]
    once, often = fit_calibration([*few, *many]), fit_calibration([*few, *repeated, *many[4:]])
    assert often.weights == pytest.approx(once.weights, abs=1e-4)
    assert often.intercept == pytest.approx(once.intercept, abs=1e-4)


# ---- patients left out


def test_copies_that_no_scanner_sends_do_not_bend_the_line():
    samples = made_up(20)
    wrecked = [replace(sample, kind=kind, dice=0.1) for sample in samples[:8] for kind in WRECKED]
    assert fit_calibration([*samples, *wrecked]) == fit_calibration(samples)
    assert len(judge_calibration([*samples, *wrecked])) == len(samples) + len(wrecked)
    scan, gland = phantom()
    made = {kind for kind, *_ in degraded_copies(scan, sitk.GetImageFromArray(gland.astype(np.uint8)), seed=0)}
    assert set(WRECKED) < made


def test_no_patient_says_anything_about_itself():
    samples = made_up(16)
    changed = [replace(s, dice=0.2) if s.patient == "p3" else s for s in samples]
    before, after = (
        [one.expected for one in judge_calibration(s) if one.sample.patient == "p3"] for s in (samples, changed)
    )
    assert len(before) == 4 and before == after


def test_a_planted_leak_is_found():
    """One patient, of two scans, has a mark in its features and a poor Dice: only who has seen it can expect that."""
    marked = [
        CalibrationSample(f"marked-{scan}", "marked", ORIGINAL, (2.0, 2.0, 2.0, 2.0, 5.0), 0.5) for scan in range(2)
    ]
    others = [replace(s, features=(*s.features[:-1], 2.0), dice=0.9) for s in made_up(20, copies=0)]
    samples = [*others, *marked]
    leaking = fit_calibration(samples).expect(marked[0].features).value
    judged = [one.expected.value for one in judge_calibration(samples) if one.sample.patient == "marked"]
    assert leaking < 0.75 and judged == pytest.approx([0.9, 0.9], abs=0.005)


def test_the_interval_comes_from_patients_left_out_of_the_line():
    # On 8 patients 5 weights fit the noise; residuals of the line itself would be far too small.
    samples = made_up(16, known=0.0, copies=0)
    fitted = fit_calibration(samples)
    own = sorted(on_line(s.dice) - fitted.on_line(s.features) for s in samples)
    assert fitted.reach[0] < own[0] and fitted.reach[1] > own[-1]


def test_four_of_five_exchangeable_patients_lie_inside_their_interval():
    inside = []
    for seed in range(30):
        fitted = fit_calibration(made_up(30, known=0.7, seed=seed))
        for sample in made_up(100, known=0.7, seed=1000 + seed, copies=0):
            expected = fitted.expect(sample.features)
            inside.append(expected.low <= sample.dice <= expected.high)
    assert 0.77 < np.mean(inside) < 0.85
    judged = figures(judge_calibration(made_up(60, known=0.7)))["inside_the_interval"]
    assert 0.7 < judged < 0.92


def test_the_figures_are_those_of_the_scans_as_they_are():
    judged = judge_calibration(made_up(20, known=0.9))
    originals = [one for one in judged if one.sample.kind == ORIGINAL]
    assert len(originals) == 20 < len(judged)
    found = figures(judged)
    errors = [abs(one.expected.value - one.sample.dice) for one in originals]
    poor = [one for one in originals if one.sample.dice < 0.85]
    assert found["patients"] == found["scans"] == 20 and found["below_0.85"] == len(poor) > 0
    assert found["mean_absolute_error"] == pytest.approx(np.mean(errors), abs=1e-4)
    assert found["mean_absolute_error"] < found["mean_absolute_error_of_the_median"]
    assert found["below_0.85_caught"] == sum(one.expected.value < 0.85 for one in poor)
    assert found["false_alarms"] == sum(one.expected.value < 0.85 <= one.sample.dice for one in originals)


# ---- the version


@pytest.fixture
def calibrated(tmp_path, monkeypatch):
    """Calibrates one version of two networks on given samples: its figures and its description."""
    folder = bright_model(tmp_path / "run" / "model", [BRIGHT, BRIGHT], metrics={"dice": 0.9})

    def calibrate(samples):
        monkeypatch.setattr(calibration, "collect_samples", lambda *_: samples)
        return calibrate_model(folder, [], "cpu", lambda line: None), describe_model(folder)

    return calibrate


def test_a_version_is_calibrated_in_place_with_its_figures(calibrated, tmp_path):
    samples = made_up(20)
    found, description = calibrated(samples)
    assert Calibration.from_dict(description.calibration) == fit_calibration(samples)
    assert description.metrics == {"dice": 0.9, "expected_dice": found}
    with open(tmp_path / "run" / "calibration.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(samples) and float(rows[5][FEATURES[2]]) == samples[5].features[2]
    assert Segmenter(tmp_path / "run" / "model", "cpu").segment(phantom()[0]).expected_dice is not None


def test_features_that_know_nothing_calibrate_nothing(calibrated, tmp_path):
    found, description = calibrated(made_up(20, known=0.0))
    assert found["gain_at_least"] <= 0
    assert description.calibration == {} and description.metrics["expected_dice"] == found
    assert Segmenter(tmp_path / "run" / "model", "cpu").segment(phantom()[0]).expected_dice is None


def test_features_that_surely_know_something_but_little_calibrate_nothing(calibrated):
    """An error a tenth below that of the median is below it for sure in enough patients, and no help for anyone."""
    found, description = calibrated(made_up(120, known=0.3, copies=0))
    share = found["mean_absolute_error"] / found["mean_absolute_error_of_the_median"]
    assert found["gain_at_least"] > 0 and 1 - LEAST_GAIN < share < 1
    assert description.calibration == {} and description.metrics["expected_dice"] == found
    assert calibrated(made_up(20))[1].calibration, "but those that know more do"


def test_a_version_that_was_calibrated_before_loses_it_when_it_turns_out_to_know_nothing(calibrated):
    assert calibrated(made_up(20))[1].calibration
    assert calibrated(made_up(20, known=0.0))[1].calibration == {}


def test_features_that_know_nothing_hardly_ever_pass_for_knowing():
    """By the plain comparison of the two errors a quarter of these would pass."""
    passed = [
        figures(judge_calibration(made_up(15, known=0.0, seed=seed, copies=0)))["gain_at_least"] > 0
        for seed in range(40)
    ]
    assert sum(passed) <= 3
    assert figures(judge_calibration(made_up(15, known=1.0, copies=0)))["gain_at_least"] > 0


def test_too_few_patients_are_an_error_that_counts_them(calibrated, tmp_path):
    before = calibrated(made_up(LEAST_PATIENTS_TO_CALIBRATE))[1]
    too_few = made_up(LEAST_PATIENTS_TO_CALIBRATE - 1)
    # Copies of a patient whose scan itself gave no answer do not count: the interval is that of scans as they are.
    without_original = [s for s in made_up(5, name="q") if s.kind != ORIGINAL]
    for samples in (too_few, [*too_few, *without_original]):
        with pytest.raises(DatasetError, match="never saw 14 of these patients; a calibration needs 15"):
            calibrated(samples)
    assert describe_model(tmp_path / "run" / "model") == before and before.calibration


# ---- the samples


@dataclass(frozen=True)
class ACase:
    """A phantom as a case, with grain of its own: by that a scan is recognized, and it is no copy of another's."""

    name: str
    patient: str
    offset: float

    def load_image(self):
        image = phantom((self.offset, 0, 0), direction=rotation((4, -6, 9)))[0]
        grain = np.random.default_rng(ord(self.name)).normal(0, 20, image.GetSize()[::-1]).astype(np.float32)
        result = sitk.GetImageFromArray(sitk.GetArrayViewFromImage(image) + grain)
        result.CopyInformation(image)
        return result

    def load_mask(self):
        mask = sitk.GetImageFromArray(phantom((self.offset, 0, 0))[1].astype(np.uint8))
        mask.CopyInformation(self.load_image())
        return mask


def test_samples_are_answers_of_the_members_that_never_saw_the_patient(tmp_path, monkeypatch):
    cases = [ACase("a", "A", -8.0), ACase("b", "B", 0.0), ACase("c", "C", 8.0)]
    scans = [(case.name, ScanIdentity(case.load_image())) for case in cases]
    folder = bright_model(
        tmp_path / "model",
        [BRIGHT, 1.0, 1.6],
        members=[{"left_out": folds} for folds in ([0, 1], [1], [0])],
        seen=NOTHING_SEEN.with_training(scans, {"a": 0, "b": 1, "c": None}),
    )
    kinds = (ORIGINAL, "inverted", "blur 3.0 mm")
    monkeypatch.setattr(
        calibration, "degraded_copies", lambda *parts, seed: (c for c in degraded_copies(*parts, seed) if c[0] in kinds)
    )
    segmenter = Segmenter(folder, "cpu")
    samples = collect_samples(segmenter, cases, lambda line: None)
    assert {sample.case for sample in samples} == {"a", "b"}, "every member has seen c"
    assert {sample.kind for sample in samples} <= set(kinds) and len(samples) >= 4
    for case, members in ((cases[0], [0, 2]), (cases[1], [0, 1])):
        alone = segmenter.segment(case.load_image(), members=members)
        (sample,) = (s for s in samples if s.case == case.name and s.kind == ORIGINAL)
        assert sample.patient == case.patient and list(sample.features) == alone.features
        assert sample.dice == dice_of(alone.mask, case.load_mask())


def test_degraded_copies_keep_the_grid_and_differ_from_the_scan():
    scan, gland = phantom(direction=rotation((4, -6, 9)))
    mask = sitk.GetImageFromArray(gland.astype(np.uint8))
    mask.CopyInformation(scan)
    copies, masks = ({kind: pair[which] for kind, *pair in degraded_copies(scan, mask, seed=0)} for which in (0, 1))
    assert sitk.GetArrayFromImage(copies.pop("original")).tolist() == sitk.GetArrayFromImage(scan).tolist()
    for kind, copy in copies.items():
        assert np.isfinite(sitk.GetArrayViewFromImage(copy)).all()
        assert same_grid(copy, masks[kind])
        assert same_grid(copy, scan) or kind in ("thick slices", "cropped")
        here = centroid(sitk.GetArrayFromImage(masks[kind]))[::-1].tolist()
        there = centroid(gland)[::-1].tolist()
        places = copy.TransformContinuousIndexToPhysicalPoint(here), scan.TransformContinuousIndexToPhysicalPoint(there)
        assert np.allclose(*places, atol=0.5), "the gland stays where it is in the patient"
    assert copies["thick slices"].GetSpacing()[2] == 2 * scan.GetSpacing()[2]
    again = {kind: copy for kind, copy, _ in degraded_copies(scan, mask, seed=0)}
    assert (sitk.GetArrayFromImage(copies["noise 0.25"]) == sitk.GetArrayFromImage(again["noise 0.25"])).all()


@pytest.mark.parametrize("stored", ["SLP", "ILA", "LSP", "RAI", "LPS"])
def test_degraded_copies_are_those_of_the_patient_however_the_scan_is_stored(stored):
    scan, gland = phantom((6, 4, 5))
    mask = sitk.GetImageFromArray(gland.astype(np.uint8))
    mask.CopyInformation(scan)
    turned = [sitk.DICOMOrient(image, stored) for image in (scan, mask)]
    expected = {kind: pair for kind, *pair in degraded_copies(scan, mask, seed=0)}
    found = {kind: pair for kind, *pair in degraded_copies(*turned, seed=0)}
    assert found.keys() == expected.keys() and same_grid(found[ORIGINAL][0], turned[0])
    for kind in ("thick slices", "cropped", "blur 3.0 mm", "contrast", "inverted"):
        for copy, other in zip(found[kind], expected[kind], strict=True):
            again = sitk.DICOMOrient(copy, "LPS")
            assert same_grid(again, other), kind
            np.testing.assert_allclose(sitk.GetArrayFromImage(again), sitk.GetArrayFromImage(other), atol=0.01)


def test_dice_of_two_masks_matches_the_overlap_filter():
    generator = np.random.default_rng(1)
    first, second = (sitk.GetImageFromArray(generator.integers(0, 2, (6, 7, 8)).astype(np.uint8)) for _ in range(2))
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(first, second)
    assert dice_of(first, second) == pytest.approx(overlap.GetDiceCoefficient())
