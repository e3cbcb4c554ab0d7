"""Expected Dice: fitted on scans and degraded copies, judged on patients left out, kept in model.json."""

import numpy as np
import pytest
import SimpleITK as sitk
from engine_parts import bright_model, phantom, rotation

from DDSPSegmentationLib.engine.metrics import dice_of
from DDSPSegmentationLib.engine.model import describe_model
from DDSPSegmentationLib.engine.quality import expected_dice
from DDSPSegmentationLib.engine.segmenter import Segmenter
from DDSPSegmentationLib.learning import calibration
from DDSPSegmentationLib.learning.calibration import (
    CalibrationSample,
    calibrate_model,
    degraded_copies,
    fit_calibration,
)


def samples_of(patients, bias=0.0):
    """A network whose soft Dice is too high by 0.1 for everybody, and by ``bias`` more for the last patient."""
    truth = np.linspace(0.5, 0.9, 12)
    return [
        CalibrationSample(f"{patient}-{n}", patient, "original" if n == 0 else "noise", true + 0.1 + extra, true)
        for patient, extra in zip(patients, [0.0] * (len(patients) - 1) + [bias], strict=True)
        for n, true in enumerate(truth)
    ]


def test_a_constant_optimism_is_taken_back():
    report = fit_calibration(samples_of(["a", "b", "c"]))
    for soft in (0.7, 0.8, 0.9):
        assert expected_dice(soft, report.calibration) == pytest.approx(soft - 0.1, abs=0.02)
    assert report.mean_absolute_error < 0.02


def test_each_patient_is_judged_by_the_others_alone():
    unbiased, biased = (fit_calibration(samples_of(["a", "b", "c"], bias)) for bias in (0.0, 0.08))
    assert biased.mean_absolute_error > unbiased.mean_absolute_error + 0.02


def test_poor_segmentations_caught_and_false_alarms_are_counted():
    report = fit_calibration(samples_of(["a", "b", "c"]))
    poor = sum(sample.dice < 0.85 for sample in report.samples)
    assert report.poor == poor and poor - 3 <= report.caught <= poor and report.false_alarms <= 3
    assert report.figures()["samples"] == 36


def test_degraded_copies_keep_the_grid_and_differ_from_the_scan():
    scan, _ = phantom(direction=rotation((4, -6, 9)))
    copies = dict(degraded_copies(scan, seed=0))
    assert sitk.GetArrayFromImage(copies.pop("original")).tolist() == sitk.GetArrayFromImage(scan).tolist()
    for copy in copies.values():
        assert copy.GetSize() == scan.GetSize() and copy.GetDirection() == scan.GetDirection()
        assert np.isfinite(sitk.GetArrayViewFromImage(copy)).all()
    again = dict(degraded_copies(scan, seed=0))
    assert (sitk.GetArrayFromImage(copies["noise 0.25"]) == sitk.GetArrayFromImage(again["noise 0.25"])).all()


def test_a_model_is_calibrated_in_place(tmp_path, monkeypatch):
    folder = bright_model(tmp_path / "run" / "model")
    scan, _ = phantom()
    mask = Segmenter(folder).segment(scan).mask

    class OneCase:
        name = patient = "scan"
        load_image, load_mask = staticmethod(lambda: scan), staticmethod(lambda: mask)

    kinds = ("original", "inverted")
    monkeypatch.setattr(
        calibration, "degraded_copies", lambda image, seed: (c for c in degraded_copies(image, seed) if c[0] in kinds)
    )
    report = calibrate_model(folder, [OneCase], "cpu", lambda line: None)
    assert [sample.kind for sample in report.samples] == list(kinds)
    assert report.samples[0].dice == 1.0 and report.samples[1].dice < 1.0
    assert describe_model(folder).calibration == report.calibration
    assert describe_model(folder).metrics["expected_dice"] == report.figures()
    assert len((folder.parent / "calibration.csv").read_text(encoding="utf-8").splitlines()) == 3


def test_dice_of_two_masks_matches_the_overlap_filter():
    generator = np.random.default_rng(1)
    first, second = (sitk.GetImageFromArray(generator.integers(0, 2, (6, 7, 8)).astype(np.uint8)) for _ in range(2))
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(first, second)
    assert dice_of(first, second) == pytest.approx(overlap.GetDiceCoefficient())
