"""Uncertainty, soft and expected Dice, and the warnings."""

import numpy as np
import pytest

from DDSPSegmentationLib.engine.quality import (
    expected_dice,
    find_warnings,
    monotone_fit,
    soft_dice,
    uncertainty_map,
)


def test_uncertainty_is_highest_at_one_half_and_absent_where_all_agree():
    certain, doubtful = np.array([0.0, 1.0]), np.array([0.5])
    np.testing.assert_allclose(uncertainty_map(certain, np.zeros(2)), 0, atol=1e-4)
    np.testing.assert_allclose(uncertainty_map(doubtful, np.zeros(1)), 1, atol=1e-6)


def test_disagreement_of_the_outputs_raises_the_uncertainty():
    probability = np.full(3, 0.9)
    found = uncertainty_map(probability, np.array([0.0, 0.1, 0.4]))
    entropy = -(0.9 * np.log2(0.9) + 0.1 * np.log2(0.1))
    assert found[0] == pytest.approx(entropy, rel=1e-4)
    assert found[1] == pytest.approx(entropy + 0.2 - 0.2 * entropy, rel=1e-4)
    assert found[0] < found[1] < found[2] < 1


def test_uncertainty_is_float32_between_0_and_1_for_any_probability():
    random = np.random.default_rng(0)
    found = uncertainty_map(random.uniform(0, 1, 1000), random.uniform(0, 0.5, 1000))
    assert found.dtype == np.float32 and 0 <= found.min() <= found.max() <= 1


def test_soft_dice_is_1_for_a_certain_mask_and_falls_with_doubt():
    mask = np.zeros((4, 4), bool)
    mask[:2] = True
    assert soft_dice(mask, mask.astype(np.float32)) == 1
    assert soft_dice(mask, np.where(mask, 0.8, 0.2)) == pytest.approx(2 * 8 * 0.8 / (8 + 8 * 0.8 + 8 * 0.2))
    assert soft_dice(mask, np.zeros((4, 4))) == 0
    assert soft_dice(~mask & mask, np.zeros((4, 4))) == 0


def test_expected_dice_without_calibration_is_the_soft_dice():
    assert expected_dice(0.87, {}) == 0.87


@pytest.mark.parametrize(
    ("soft", "expected"), [(0.0, 0.0), (0.4, 0.3), (0.8, 0.6), (0.85, 0.7), (0.9, 0.8), (1.0, 0.8)]
)
def test_expected_dice_lies_on_straight_lines_between_the_knots(soft, expected):
    calibration = {"soft_dice": [0.0, 0.8, 0.9], "dice": [0.0, 0.6, 0.8]}
    assert expected_dice(soft, calibration) == pytest.approx(expected)


def test_fitted_calibration_is_monotone_and_near_the_truth():
    random = np.random.default_rng(0)
    soft = random.uniform(0.5, 0.98, 200)
    dice = (soft**2 + random.normal(0, 0.03, 200)).clip(0, 1)
    calibration = monotone_fit(soft, dice)
    assert calibration["soft_dice"] == sorted(calibration["soft_dice"])
    assert calibration["dice"] == sorted(calibration["dice"])
    assert calibration["soft_dice"][0] == calibration["dice"][0] == 0
    found = [expected_dice(value, calibration) for value in soft]
    assert np.abs(np.array(found) - soft**2).mean() < 0.03


def test_fitted_calibration_pools_what_would_fall():
    calibration = monotone_fit([0.6, 0.7, 0.8, 0.9], [0.5, 0.8, 0.7, 0.9], knots=4)
    assert calibration == {"soft_dice": [0.0, 0.6, 0.7, 0.8, 0.9], "dice": [0.0, 0.5, 0.75, 0.75, 0.9]}


def test_fitted_calibration_needs_no_more_cases_than_there_are():
    assert monotone_fit([0.8, 0.9], [0.7, 0.85])["dice"] == [0.0, 0.7, 0.85]


def test_a_plain_good_result_has_no_warning():
    assert find_warnings(40.0, [], [0.01], 0.9) == []


@pytest.mark.parametrize(
    ("volume_ml", "touches", "shares", "dice", "words"),
    [
        (0.0, [], [], 0.0, "No prostate was found."),
        (40.0, ["superior"], [], 0.9, "touches the superior edge of the scan"),
        (40.0, ["left", "superior"], [], 0.9, "touches the left and superior edge"),
        (8.0, [], [], 0.9, "volume of 8 ml is outside the usual 10-250 ml"),
        (315.0, [], [], 0.9, "volume of 315 ml is outside the usual 10-250 ml"),
        (40.0, [], [0.5, 0.2, 0.01], 0.9, "3 separate parts were found"),
        (40.0, [], [], 0.71, "rates its contour as unreliable"),
    ],
)
def test_each_reason_for_doubt_is_one_warning(volume_ml, touches, shares, dice, words):
    warnings = find_warnings(volume_ml, touches, shares, dice)
    assert len(warnings) == 1 and words in warnings[0]


def test_several_reasons_are_several_warnings():
    assert len(find_warnings(300.0, ["inferior"], [0.4], 0.6)) == 4
