"""Metrics against brute force on surface points, SimpleITK's overlaps, and the score's definition."""

import math

import numpy as np
import pytest
import SimpleITK as sitk

from DDSPSegmentationLib.engine.errors import DatasetError
from DDSPSegmentationLib.engine.metrics import (
    METRICS,
    REGIONS,
    SECOND_READER,
    RegionMetrics,
    SecondReader,
    compare_masks,
    promise12_style_score,
)

PERFECT = RegionMetrics(1.0, 1.0, 0.0, 0.0, 0.0)
SHAPE = (17, 26, 23)
SPACING = (0.7, 1.1, 3.0)


def mask_image(array, spacing=SPACING):
    """An image with identity direction: its first array axis runs from caudal to cranial."""
    image = sitk.GetImageFromArray(np.asarray(array, np.uint8))
    image.SetSpacing(spacing)
    image.SetOrigin((-11.0, 7.5, 42.0))
    return image


def ragged_gland(seed, shift=(0, 0, 0), radii=(6.5, 9.0, 8.0)):
    """An ellipsoid with a random, uneven border."""
    noise = np.random.default_rng(seed).normal(size=SHAPE)
    noise = sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(noise), 1.5))
    distance = np.zeros(SHAPE)
    for axis, positions in enumerate(np.ogrid[tuple(slice(size) for size in SHAPE)]):
        distance = distance + ((positions - SHAPE[axis] / 2 - shift[axis]) / radii[axis]) ** 2
    return distance + 6 * noise < 1


def a_pair():
    return ragged_gland(1), ragged_gland(2, shift=(1, -1.5, 1), radii=(7, 8, 7))


def surface_points(mask, spacing):
    """Index and mm coordinates of foreground voxels with a 6-neighbor outside, one voxel after the other."""
    found = []
    for index in np.argwhere(mask):
        for axis in range(3):
            for step in (-1, 1):
                neighbor = index.copy()
                neighbor[axis] += step
                outside = neighbor[axis] < 0 or neighbor[axis] >= mask.shape[axis]
                if outside or not mask[tuple(neighbor)]:
                    found.append(tuple(index))
    found = np.array(sorted(set(found)))
    return found, found * np.array(spacing[::-1])


def brute_force_distances(predicted, expected, spacing, slices):
    """ABD and 95HD of the surface points inside ``slices``, each against the whole other surface."""
    from scipy.spatial import cKDTree

    predicted_index, predicted_mm = surface_points(predicted, spacing)
    expected_index, expected_mm = surface_points(expected, spacing)
    one_way = cKDTree(expected_mm).query(predicted_mm)[0][np.isin(predicted_index[:, 0], slices)]
    other_way = cKDTree(predicted_mm).query(expected_mm)[0][np.isin(expected_index[:, 0], slices)]
    pooled = (one_way.sum() + other_way.sum()) / (one_way.size + other_way.size)
    return pooled, max(np.percentile(one_way, 95), np.percentile(other_way, 95))


def region_slices(expected):
    """Slices of each region for an array that runs from caudal to cranial."""
    occupied = np.flatnonzero(expected.any(axis=(1, 2)))
    first, count = occupied[0], occupied[-1] - occupied[0] + 1
    depth = expected.shape[0]
    return {
        "whole": range(depth),
        "base": range(first + round(2 * count / 3), depth),
        "apex": range(first + round(count / 3)),
    }


def rotation(angles_degrees):
    transform = sitk.Euler3DTransform()
    transform.SetRotation(*np.radians(angles_degrees))
    return np.reshape(transform.GetMatrix(), (3, 3))


def assert_same(found, wanted):
    for region in REGIONS:
        for metric in METRICS:
            assert getattr(found[region], metric) == pytest.approx(getattr(wanted[region], metric), rel=1e-5), (
                region,
                metric,
            )


@pytest.mark.parametrize("spacing", [(0.7, 1.1, 3.0), (3.0, 0.5, 0.8), (1.0, 1.0, 1.0), (0.2734375, 0.2734375, 3.6)])
def test_distances_equal_brute_force_on_surface_points(spacing):
    pytest.importorskip("scipy")
    predicted, expected = a_pair()
    found = compare_masks(mask_image(predicted, spacing), mask_image(expected, spacing))
    for region, slices in region_slices(expected).items():
        abd, hd95 = brute_force_distances(predicted, expected, spacing, slices)
        assert found[region].abd_mm == pytest.approx(abd, rel=1e-5), region
        assert found[region].hd95_mm == pytest.approx(hd95, rel=1e-5), region


def test_distances_equal_brute_force_where_masks_touch_the_border_of_the_image():
    pytest.importorskip("scipy")
    predicted, expected = a_pair()
    predicted, expected = predicted[4:13, 8:19, 6:16], expected[4:13, 8:19, 6:16]
    assert predicted[0].any() and expected[:, :, -1].any()
    found = compare_masks(mask_image(predicted), mask_image(expected))
    for region, slices in region_slices(expected).items():
        abd, hd95 = brute_force_distances(predicted, expected, SPACING, slices)
        assert found[region].abd_mm == pytest.approx(abd, rel=1e-5), region
        assert found[region].hd95_mm == pytest.approx(hd95, rel=1e-5), region


def test_a_mask_that_fills_the_image_has_the_border_as_its_surface():
    expected = np.ones((6, 7, 8), bool)
    predicted = expected.copy()
    predicted[:, :, 0] = False
    found = compare_masks(mask_image(predicted, (1, 1, 1)), mask_image(expected, (1, 1, 1)))["whole"]
    predicted_points, expected_points = 6 * 7 * 7 - 4 * 5 * 5, 6 * 7 * 8 - 4 * 5 * 6
    inner_wall, outer_wall = 4 * 5, 6 * 7
    assert found.abd_mm == pytest.approx((inner_wall + outer_wall) / (predicted_points + expected_points))


@pytest.mark.parametrize("spacing", [(1.0, 2.0, 5.0), (5.0, 1.0, 2.0), (2.0, 5.0, 1.0)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_axis_has_its_own_spacing(spacing, axis):
    predicted, expected = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    expected[8, 8, 8] = True
    predicted[tuple(8 + 3 * (axis == other) for other in range(3))] = True
    found = compare_masks(mask_image(predicted, spacing), mask_image(expected, spacing))["whole"]
    assert found.abd_mm == pytest.approx(3 * spacing[2 - axis])
    assert found.hd95_mm == pytest.approx(3 * spacing[2 - axis])


def test_overlaps_equal_those_of_simpleitk():
    predicted, expected = a_pair()
    whole = compare_masks(mask_image(predicted), mask_image(expected))
    for region, slices in region_slices(expected).items():
        rows = list(slices)
        overlap = sitk.LabelOverlapMeasuresImageFilter()
        overlap.Execute(mask_image(expected[rows]), mask_image(predicted[rows]))
        assert whole[region].dsc == pytest.approx(overlap.GetDiceCoefficient(), rel=1e-12)
        assert whole[region].jaccard == pytest.approx(overlap.GetJaccardCoefficient(), rel=1e-12)
        # SimpleITK's volume similarity is 2 (Vs - Vt) / (Vs + Vt).
        ratio = (2 - overlap.GetVolumeSimilarity()) / (2 + overlap.GetVolumeSimilarity())
        assert whole[region].arvd_percent == pytest.approx(100 * abs(ratio - 1), rel=1e-9)


def test_relative_volume_difference_is_relative_to_the_reference_and_has_no_sign():
    small, large = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    small[4:10, 5:15, 5:15] = True
    large[4:10, 5:15, 5:20] = True
    assert compare_masks(mask_image(large), mask_image(small))["whole"].arvd_percent == pytest.approx(50)
    assert compare_masks(mask_image(small), mask_image(large))["whole"].arvd_percent == pytest.approx(100 / 3)


def test_hausdorff_distance_takes_the_worse_direction_whichever_mask_is_the_larger():
    expected = np.zeros((20, 40, 40), bool)
    expected[5:15, 5:15, 5:15] = True
    predicted = expected.copy()
    predicted[5:15, 5:15, 15:35] = True
    one = compare_masks(mask_image(predicted, (1, 1, 1)), mask_image(expected, (1, 1, 1)))["whole"]
    other = compare_masks(mask_image(expected, (1, 1, 1)), mask_image(predicted, (1, 1, 1)))["whole"]
    assert one.hd95_mm == pytest.approx(other.hd95_mm)
    assert one.hd95_mm > 15


def test_mean_distance_pools_the_points_of_both_surfaces_rather_than_averaging_two_means():
    expected, predicted = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    expected[8, 8, 8] = True
    predicted[8, 8, 8] = predicted[8, 8, 10] = predicted[8, 8, 12] = True
    found = compare_masks(mask_image(predicted, (1, 1, 1)), mask_image(expected, (1, 1, 1)))["whole"]
    assert found.abd_mm == pytest.approx((0 + 2 + 4 + 0) / 4)


def test_base_is_the_cranial_third_and_apex_the_caudal_one():
    expected = ragged_gland(1)
    predicted = expected.copy()
    predicted[list(region_slices(expected)["base"])] = False
    found = compare_masks(mask_image(predicted), mask_image(expected))
    assert found["base"].dsc == 0
    assert found["apex"].dsc == 1


@pytest.mark.parametrize("angles", [(0, 0, 0), (25, 0, 0), (-20, 15, 30), (0, 35, 10)])
@pytest.mark.parametrize(
    "flips", [(False, False, False), (False, False, True), (True, False, True), (True, True, True)]
)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (0, 2, 1), (2, 1, 0)])
def test_the_same_voxels_stored_in_another_order_give_the_same_metrics(order, flips, angles):
    canonical = [mask_image(array) for array in a_pair()]
    wanted = compare_masks(*canonical)
    stored = []
    for image in canonical:
        image = sitk.Image(image)
        image.SetDirection(rotation(angles).ravel())
        stored.append(sitk.Flip(sitk.PermuteAxes(image, order), flips))
    assert wanted["base"] != wanted["apex"]
    assert_same(compare_masks(*stored), wanted)


@pytest.mark.parametrize("count", range(1, 13))
def test_the_reference_splits_at_rounded_thirds(count):
    expected = np.zeros((count + 6, 8, 8), bool)
    expected[3 : 3 + count, 2:6, 2:6] = True
    in_base, in_apex = [], []
    for index in range(count):
        predicted = expected.copy()
        predicted[3 + index, 2, 2] = False
        found = compare_masks(mask_image(predicted), mask_image(expected))
        assert found["whole"].dsc < 1
        in_base += [index] if found["base"].dsc < 1 else []
        in_apex += [index] if found["apex"].dsc < 1 else []
    assert in_apex == list(range(math.floor(count / 3 + 0.5)))
    assert in_base == list(range(math.floor(2 * count / 3 + 0.5), count))


def test_slices_beyond_the_reference_belong_to_the_region_they_prolong():
    expected = np.zeros((20, 10, 10), bool)
    expected[6:12, 2:8, 2:8] = True
    predicted = expected.copy()
    predicted[12:14, 2:8, 2:8] = True
    found = compare_masks(mask_image(predicted), mask_image(expected))
    assert found["base"].arvd_percent == pytest.approx(100)
    assert found["apex"] == PERFECT


def test_the_split_follows_the_reference_and_not_the_prediction():
    expected, predicted = np.zeros((24, 10, 10), bool), np.zeros((24, 10, 10), bool)
    expected[3:12, 2:8, 2:8] = True
    predicted[3:21, 2:8, 2:8] = True
    found = compare_masks(mask_image(predicted), mask_image(expected))
    assert found["apex"].dsc == 1
    assert found["base"].dsc == pytest.approx(2 * 3 / (3 + 12))


def test_a_cut_between_regions_adds_no_surface():
    """Two boxes, one 2 mm wider on each side in plane: in the base the only flat part is the cranial end."""
    expected, predicted = np.zeros((15, 30, 30), bool), np.zeros((15, 30, 30), bool)
    expected[3:12, 10:20, 10:20] = True
    predicted[3:12, 8:22, 8:22] = True
    spacing = (1.0, 1.0, 30.0)
    found = compare_masks(mask_image(predicted, spacing), mask_image(expected, spacing))["base"]
    outer_wall = 4 * 10 * 2 + 4 * (2 * math.sqrt(5) + math.sqrt(8))
    outer_end = outer_wall + 4 * 10 * 1 + 4 * math.sqrt(2)
    inner_wall = 36 * 2
    points = (52 + 52 + 14 * 14) + (36 + 36 + 10 * 10)
    assert found.abd_mm == pytest.approx((2 * outer_wall + outer_end + 2 * inner_wall) / points)


def test_distances_of_a_region_go_to_the_whole_other_surface():
    """The prediction's base lies beside the gland; the nearest reference voxel is in the slice below the cut."""
    expected, predicted = np.zeros((15, 40, 10), bool), np.zeros((15, 40, 10), bool)
    expected[3:9, 4:6, 4:6] = True
    expected[9:12, 30:32, 4:6] = True
    predicted[3:12, 4:6, 4:6] = True
    found = compare_masks(mask_image(predicted, (1, 1, 1)), mask_image(expected, (1, 1, 1)))["base"]
    to_expected = [1, 2, 3] * 4
    to_predicted = [25, 25, 26, 26] * 3
    assert found.dsc == 0
    assert found.abd_mm == pytest.approx(np.mean([*to_expected, *to_predicted]))


def test_equal_masks_are_perfect_everywhere():
    image = mask_image(ragged_gland(3))
    assert compare_masks(image, image) == dict.fromkeys(REGIONS, PERFECT)


def test_any_label_above_zero_is_prostate():
    expected = ragged_gland(3)
    zones = np.where(expected, 1 + np.arange(SHAPE[2]) % 2, 0)
    assert compare_masks(mask_image(zones), mask_image(expected))["whole"] == PERFECT


def test_an_empty_prediction_is_a_miss_in_every_region_and_scores_zero():
    found = compare_masks(mask_image(np.zeros(SHAPE)), mask_image(ragged_gland(3)))
    assert found == dict.fromkeys(REGIONS, RegionMetrics(0.0, 0.0, 100.0, math.inf, math.inf))
    assert promise12_style_score(found) == 0


def test_an_empty_reference_is_a_false_alarm_in_every_region_and_scores_zero():
    found = compare_masks(mask_image(ragged_gland(3)), mask_image(np.zeros(SHAPE)))
    assert found == dict.fromkeys(REGIONS, RegionMetrics(0.0, 0.0, math.inf, math.inf, math.inf))
    assert promise12_style_score(found) == 0


def test_two_empty_masks_agree():
    empty = mask_image(np.zeros(SHAPE))
    assert compare_masks(empty, empty) == dict.fromkeys(REGIONS, PERFECT)


def test_a_missed_apex_scores_zero_there_and_leaves_the_other_regions_alone():
    expected = ragged_gland(3)
    predicted = expected.copy()
    predicted[list(region_slices(expected)["apex"])] = False
    found = compare_masks(mask_image(predicted), mask_image(expected))
    assert found["apex"] == RegionMetrics(0.0, 0.0, 100.0, math.inf, math.inf)
    assert found["base"].dsc == 1 and 0 < found["whole"].abd_mm < 3
    score = promise12_style_score({"whole": PERFECT, "base": PERFECT, "apex": found["apex"]})
    assert score == pytest.approx(200 / 3)


def at_second_reader(share=1.0):
    """Metrics whose distance from perfect is ``share`` of the second reader's."""
    return {
        region: RegionMetrics(
            1 - share * (100 - reader.dsc_percent) / 100,
            0.0,
            share * reader.arvd_percent,
            share * reader.abd_mm,
            share * reader.hd95_mm,
        )
        for region, reader in SECOND_READER.items()
    }


@pytest.mark.parametrize("share, score", [(0, 100), (0.5, 92.5), (1, 85), (2, 70), (5, 25), (100 / 15, 0), (6.2, 7)])
def test_the_score_is_linear_from_perfect_through_the_second_reader(share, score):
    assert promise12_style_score(at_second_reader(share)) == pytest.approx(score, abs=1e-9)


def test_a_metric_cannot_fall_below_zero_points():
    regions = dict.fromkeys(REGIONS, PERFECT)
    regions["base"] = RegionMetrics(1.0, 1.0, 1e6, 0.0, 0.0)
    assert promise12_style_score(regions) == pytest.approx(100 * 11 / 12)


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("metric", ["dsc", "arvd_percent", "abd_mm", "hd95_mm"])
def test_each_metric_of_each_region_is_a_twelfth_of_the_score(region, metric):
    values = vars(PERFECT) | {metric: getattr(at_second_reader()[region], metric)}
    regions = dict.fromkeys(REGIONS, PERFECT) | {region: RegionMetrics(**values)}
    assert promise12_style_score(regions) == pytest.approx((11 * 100 + 85) / 12)


def test_the_second_reader_is_a_setting():
    table = dict.fromkeys(REGIONS, SecondReader(80.0, 20.0, 2.0, 8.0))
    regions = dict.fromkeys(REGIONS, RegionMetrics(0.9, 0.0, 10.0, 1.0, 4.0))
    assert promise12_style_score(regions, table) == pytest.approx(92.5)


def test_a_perfect_second_reader_is_refused():
    table = dict(SECOND_READER) | {"apex": SecondReader(100.0, 20.0, 2.0, 8.0)}
    with pytest.raises(DatasetError, match="apex"):
        promise12_style_score(dict.fromkeys(REGIONS, PERFECT), table)


def test_the_default_table_is_that_of_two_readers_of_prostate158():
    assert SECOND_READER["whole"] == SecondReader(89.1, 10.2, 1.18, 3.62)
    assert SECOND_READER["base"] == SecondReader(84.1, 9.1, 0.75, 3.36)
    assert SECOND_READER["apex"] == SecondReader(84.1, 23.8, 0.65, 3.89)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.SetSpacing((0.7, 1.1, 3.1)),
        lambda image: image.SetOrigin((-11.0, 7.5, 43.0)),
        lambda image: image.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, -1)),
        lambda image: image.SetDirection(rotation((2, 0, 0)).ravel()),
    ],
    ids=["spacing", "origin", "flip", "rotation"],
)
def test_masks_on_different_grids_are_refused_with_both_grids_named(change):
    reference = mask_image(ragged_gland(3))
    prediction = sitk.Image(reference)
    change(prediction)
    with pytest.raises(DatasetError, match=r"23x26x17 voxels of .* is not the reference's \(23x26x17 voxels of"):
        compare_masks(prediction, reference)


def test_masks_of_different_sizes_are_refused_with_both_sizes_named():
    reference = mask_image(ragged_gland(3))
    with pytest.raises(DatasetError, match=r"23x26x16 voxels .*\(23x26x17 voxels"):
        compare_masks(reference[:, :, :-1], reference)


def test_what_a_file_format_rounds_off_is_no_other_grid():
    reference = mask_image(ragged_gland(3))
    reference.SetDirection(rotation((10, 5, 2)).ravel())
    prediction = sitk.Image(reference)
    prediction.SetSpacing(tuple(float(np.float32(step)) for step in reference.GetSpacing()))
    prediction.SetOrigin((-11.0004, 7.5003, 42.0))
    prediction.SetDirection(np.round(reference.GetDirection(), 6))
    assert compare_masks(prediction, reference)["whole"] == PERFECT


@pytest.mark.parametrize("image", [sitk.Image(9, 9, sitk.sitkUInt8), sitk.Image((9, 9, 9), sitk.sitkVectorUInt8, 3)])
def test_a_mask_that_is_not_a_scalar_volume_is_refused(image):
    with pytest.raises(DatasetError, match="The prediction has"):
        compare_masks(image, mask_image(ragged_gland(3)))


def test_a_mask_with_values_that_are_not_numbers_is_refused():
    reference = mask_image(ragged_gland(3))
    values = ragged_gland(3).astype(np.float32)
    values[0, 0, 0] = np.nan
    prediction = sitk.GetImageFromArray(values)
    prediction.CopyInformation(reference)
    with pytest.raises(DatasetError, match="not numbers"):
        compare_masks(prediction, reference)


def test_sheared_axes_are_refused():
    sheared = mask_image(ragged_gland(3))
    sheared.SetDirection((1, 0.1, 0, 0, 1, 0, 0, 0, 1))
    with pytest.raises(DatasetError, match="orthogonal"):
        compare_masks(sheared, sheared)
