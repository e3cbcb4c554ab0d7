"""Uncertainty, the word for a result, and the warnings."""

import numpy as np
import pytest

from DDSPSegmentationLib.engine.quality import (
    find_warnings,
    review_rank,
    slice_doubts,
    uncertainty_map,
    verdict,
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


@pytest.mark.parametrize(
    ("dice", "warnings", "word"),
    [
        (0.9, [], "good"),
        (0.87, [], "good"),
        (0.86, [], "check"),
        (0.9, ["Look."], "check"),
        (0.84, [], "doubtful"),
        (0.84, ["Look."], "doubtful"),
        (None, [], ""),
        (None, ["Look."], "check"),
    ],
)
def test_nothing_is_called_good_or_doubtful_without_an_expected_dice(dice, warnings, word):
    assert verdict(dice, warnings) == word


def test_the_most_doubtful_come_first_and_those_of_which_nothing_is_known_before_the_good_ones():
    results = [(None, []), (0.9, []), (None, ["Look."]), (0.4, ["Look."]), (0.0, [])]
    in_order = sorted(results, key=lambda result: review_rank(*result))
    assert in_order == [(0.0, []), (0.4, ["Look."]), (None, ["Look."]), (None, []), (0.9, [])]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_slice_where_most_is_expected_to_be_wrong_is_the_most_doubtful(axis):
    probability = np.zeros((6, 20, 20), np.float32)
    probability[1] = 0.02  # a rim
    probability[2, 5:15, 5:15] = 1.0
    probability[3, 5:15, 5:15] = 0.8  # a hundred voxels, 20 of which are expected to be wrong
    probability[4, 9:11, 9:11] = 0.6  # four, of which 1.6 are: a larger share of the slice, but less to correct
    probability, mask = (np.moveaxis(array, 0, axis) for array in (probability, probability > 0.5))
    assert slice_doubts(mask, probability, axis) == pytest.approx([None, None, 0.0, 0.2, 0.016, None], abs=1e-4)


def test_a_slice_that_the_mask_left_out_though_gland_was_promised_is_shown():
    probability = np.zeros((3, 10, 10), np.float32)
    probability[0], probability[1] = 0.9, 0.45
    assert slice_doubts(probability > 0.5, probability, 0) == pytest.approx([0.1, 0.45, None], abs=1e-4)


def test_a_plain_good_result_has_no_warning():
    assert find_warnings(40.0, [], [0.01], 0.9) == find_warnings(40.0, [], [0.01], None) == []


@pytest.mark.parametrize(
    ("volume_ml", "touches", "shares", "dice", "words"),
    [
        (0.0, [], [], 0.0, "No prostate was found."),
        (0.0, [], [], None, "No prostate was found."),
        (8.0, [], [], None, "volume of 8 ml is outside the usual 10-250 ml"),
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
