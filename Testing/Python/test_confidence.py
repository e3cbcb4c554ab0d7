"""The Dice to expect: what members disagree about, told alike for any order of them, and the line that reads it."""

import itertools
import json
import math

import numpy as np
import pytest
from engine_parts import a_calibration

from DDSPSegmentationLib.engine.confidence import (
    BEST,
    FEATURES,
    NEIGHBORHOOD_MM,
    Calibration,
    from_line,
    on_line,
    pair_features,
    soft_dice,
)

SPACING = (3.0, 1.0, 1.0)


def answer(low=2, high=14, wide=10, shift=0, sure=0.97, shape=(18, 48, 48)):
    """What one member says: sure of a box from slice ``low`` up to ``high``, and of nothing else."""
    probability = np.full(shape, 0.04, np.float32)  # where one alone sees it, so does the mean
    probability[low:high, 24 - wide + shift : 24 + wide + shift, 24 - wide : 24 + wide] = sure
    return probability


def features_of(*members, spacing=SPACING):
    return dict(zip(FEATURES, pair_features(np.stack(members), spacing), strict=True))


# ---- what members disagree about


def test_the_order_of_the_members_changes_nothing():
    members = [answer(), answer(shift=2), answer(high=12, sure=0.8), answer(wide=8)]
    expected = pair_features(np.stack(members), SPACING)
    for order in itertools.permutations(members):
        assert pair_features(np.stack(order), SPACING) == pytest.approx(expected, rel=1e-6)


def test_several_members_are_told_as_the_mean_of_their_pairs():
    members = [answer(), answer(shift=3), answer(wide=7)]
    pairs = [pair_features(np.stack(pair), SPACING) for pair in itertools.combinations(members, 2)]
    assert pair_features(np.stack(members), SPACING) == pytest.approx(np.mean(pairs, axis=0), rel=1e-6)


def test_the_more_members_disagree_the_less_is_expected():
    expected = [
        a_calibration().expect(pair_features(np.stack([answer(), answer(shift=shift)]), SPACING))
        for shift in (0, 1, 2, 4, 8)
    ]
    values = [one.value for one in expected]
    assert all(better > worse for better, worse in itertools.pairwise(values))
    assert all(0 <= one.low < one.value < one.high <= BEST for one in expected)


def test_one_member_and_members_that_see_no_gland_have_no_features():
    assert pair_features(answer()[None], SPACING) is None
    assert pair_features(np.stack([answer(sure=0.2)] * 2), SPACING) is None
    # One sees it and two do not: the pair of these two has nothing to compare.
    assert pair_features(np.stack([answer(), answer(sure=0.2), answer(sure=0.2)]), SPACING) is None


def test_z_goes_towards_superior_so_the_first_slices_are_the_apex():
    shorter_at_the_apex = features_of(answer(), answer(low=4))
    assert shorter_at_the_apex["agreement_at_apex"] < shorter_at_the_apex["agreement_at_base"] == on_line(1.0)
    shorter_at_the_base = features_of(answer(), answer(high=12))
    assert shorter_at_the_base["agreement_at_base"] < shorter_at_the_base["agreement_at_apex"] == on_line(1.0)


def test_thirds_are_those_of_the_slices_of_the_common_contour():
    # Twelve slices; in the middle four one member is far off.
    other = answer()
    other[6:10] = answer(shift=6)[6:10]
    found = features_of(answer(), other)
    assert found["agreement_at_base"] == found["agreement_at_apex"] == on_line(1.0) > found["agreement"]


def test_volumes_that_are_equal_agree_wherever_they_lie():
    found = features_of(answer(), answer(shift=5))
    assert found["agreement_in_volume"] == on_line(1.0) > found["agreement"]
    assert features_of(answer(), answer(wide=8))["agreement_in_volume"] < on_line(1.0)


@pytest.mark.parametrize("spacing", [(3.0, 1.0, 1.0), (3.0, 0.4, 0.4), (1.5, 2.0, 1.0)], ids=str)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_doubt_within_ten_mm_of_the_gland_counts_and_doubt_farther_away_does_not(spacing, axis):
    probability = np.where(answer(20, 28, 10, shape=(60, 110, 110)) > 0.5, np.float32(0.9), np.float32(0))
    sure, last = features_of(probability, probability, spacing=spacing), np.argwhere(probability).max(axis=0)[axis]
    for millimeters, counts in ((NEIGHBORHOOD_MM - 2, True), (NEIGHBORHOOD_MM + 2.5, False)):
        place = [24, 24, 24]
        place[axis] = last + math.ceil(millimeters / spacing[axis])
        doubtful = probability.copy()
        doubtful[tuple(place)] = 0.45
        found = features_of(doubtful, doubtful, spacing=spacing)
        assert (found["soft_dice"] < sure["soft_dice"]) == counts, place


def test_soft_dice_is_1_for_a_certain_mask_and_falls_with_doubt():
    mask = np.zeros((4, 4), bool)
    mask[:2] = True
    assert soft_dice(mask, mask.astype(np.float32)) == 1
    assert soft_dice(mask, np.where(mask, 0.8, 0.2)) == pytest.approx(2 * 8 * 0.8 / (8 + 8 * 0.8 + 8 * 0.2))
    assert soft_dice(mask, np.zeros((4, 4))) == 0
    assert soft_dice(~mask & mask, np.zeros((4, 4))) == 0


# ---- the line


@pytest.mark.parametrize("dice", [0.0, 0.3, 0.85, 0.99])
def test_a_dice_goes_to_the_line_and_back(dice):
    assert from_line(on_line(dice)) == pytest.approx(dice)


@pytest.mark.parametrize(("value", "dice"), [(-1e6, 0.0), (-0.1, 0.0), (1e6, BEST), (on_line(1.0), BEST)])
def test_nothing_on_the_line_is_more_than_a_dice_can_be(value, dice):
    assert from_line(value) == pytest.approx(dice)


def test_the_expected_dice_lies_where_its_features_put_it_on_the_line():
    calibration = a_calibration(weights=(0.0, 0.5, 0.0, 0.0, -0.25), scales=(1.0, 2.0, 1.0, 1.0, 0.5))
    found = calibration.expect([9.0, 3.0, 9.0, 9.0, 2.5])
    middle = 2.0 + 0.5 * (3 - 2) / 2 - 0.25 * (2.5 - 2) / 0.5
    assert found == pytest.approx([1 - math.exp(-middle), 1 - math.exp(-(middle - 0.5)), 1 - math.exp(-(middle + 0.4))])


# ---- as model.json keeps it


def test_a_calibration_comes_back_from_json_as_it_was():
    calibration = a_calibration(centers=(1.5, 2.25, 0.5, 1.0, 3.0))
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration


@pytest.mark.parametrize("values", [{}, {"soft_dice": [0.0, 0.8, 0.9], "dice": [0.0, 0.6, 0.8]}])
def test_no_calibration_and_the_map_of_version_1_expect_nothing(values):
    assert Calibration.from_dict(values) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"weights": (0.1, 0.2)},
        {"centers": (0.0,) * (len(FEATURES) + 1)},
        {"weights": (math.nan, *(0.0,) * (len(FEATURES) - 1))},
        {"intercept": math.inf},
        {"intercept": None},
        {"threshold": "0.5"},
        {"scales": (0.0, *(1.0,) * (len(FEATURES) - 1))},
        {"scales": (-1.0, *(1.0,) * (len(FEATURES) - 1))},
        {"reach": (0.4, -0.5)},
        {"reach": (0.1, 0.2)},
        {"reach": (-0.1, 0.0, 0.1)},
        {"reach": 0.3},
        {"centers": "12345"},
        {"mood": "good"},
    ],
    ids=str,
)
def test_a_calibration_that_nothing_can_follow_is_refused(changes):
    with pytest.raises((ValueError, TypeError)):
        Calibration.from_dict({**a_calibration().to_dict(), **changes})


def test_a_calibration_that_lacks_something_is_refused():
    for name in a_calibration().to_dict():
        with pytest.raises(TypeError):
            Calibration.from_dict({key: value for key, value in a_calibration().to_dict().items() if key != name})
