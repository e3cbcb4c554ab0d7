"""The way to the network's grid and back, over random geometries; bias field and intensities."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from engine_parts import centroid, dice, ellipsoid, middle_of, phantom, rotation, scan_of
from hypothesis import given, settings
from hypothesis import strategies as st

from DDSPSegmentationLib.engine import preprocessing
from DDSPSegmentationLib.engine.errors import InputError
from DDSPSegmentationLib.engine.preprocessing import (
    Grid,
    PreprocessingSettings,
    bias_corrected,
    estimate_log_bias_field,
    normalized,
    prepare,
    resample,
    resampling_matrix,
    tissue_mask,
)

SETTINGS = PreprocessingSettings()
OFF = PreprocessingSettings(bias_field="off")
SPACING = np.array(SETTINGS.spacing_mm[::-1])
QUICK = settings(max_examples=25, deadline=None, derandomize=True)
ORIENTATIONS = [
    "".join(letters)
    for axes in itertools.permutations(("LR", "PA", "SI"))
    for letters in itertools.product(*axes)
]  # fmt: skip


@st.composite
def geometries(draw, steps=((0.6, 1.3), (0.6, 1.3), (1.0, 4.0))):
    """An empty scan of any size, spacing, origin and direction: oblique, flipped and with its axes exchanged."""
    lengths = [draw(st.floats(70, 100)), draw(st.floats(70, 100)), draw(st.floats(66, 90))]
    spacing = [draw(st.floats(*limits)) for limits in steps]
    size = [round(length / step) for length, step in zip(lengths, spacing, strict=True)]
    axes = np.eye(3)[:, list(draw(st.permutations(range(3))))] * draw(st.tuples(*[st.sampled_from((-1, 1))] * 3))
    turned = rotation(draw(st.tuples(*[st.floats(-50, 50)] * 3))) @ axes
    origin = draw(st.tuples(*[st.floats(-300, 300)] * 3))
    return scan_of(np.zeros(size[::-1], np.float32), spacing, turned, origin)


@st.composite
def scans_with_a_gland(draw):
    """A scan of 0 and 1 with an ellipsoid, and the ellipsoid's middle in world mm and its volume in ml."""
    image = draw(geometries())
    center = middle_of(image) + draw(st.tuples(*[st.floats(-5, 5)] * 3))
    radii = draw(st.tuples(*[st.floats(14, 22)] * 3))
    gland = sitk.GetImageFromArray(ellipsoid(image, center, radii).astype(np.uint8))
    gland.CopyInformation(image)
    return gland, center, np.prod(radii) * 4 / 3 * np.pi / 1000


def canonical_index(image, point):
    """Index (z, y, x) on the network's grid of a world point, by SimpleITK's own reordering of the scan."""
    oriented = sitk.DICOMOrient(image, "LPS")
    index = np.array(oriented.TransformPhysicalPointToContinuousIndex(point))[::-1]
    size, spacing = np.array(oriented.GetSize())[::-1], np.array(oriented.GetSpacing())[::-1]
    size_out = np.array(Grid.of(image, SETTINGS).size)
    return (index - (size - 1) / 2) * spacing / SPACING + (size_out - 1) / 2


@QUICK
@given(scans_with_a_gland())
def test_an_ellipsoid_goes_to_the_network_grid_and_comes_back(case):
    image, _, _ = case
    drawn = sitk.GetArrayFromImage(image) > 0
    grid = Grid.of(image, SETTINGS)
    on_network = grid.to_network(grid.canonical_array(image))
    back = grid.restore_image((grid.to_native(on_network) > 0.5).astype(np.uint8), image)
    found = sitk.GetArrayFromImage(back) > 0
    assert back.GetSize() == image.GetSize() and back.GetSpacing() == image.GetSpacing()
    assert back.GetOrigin() == image.GetOrigin() and back.GetDirection() == image.GetDirection()
    assert dice(found, drawn) >= 0.97
    assert np.abs(centroid(found) - centroid(drawn)).max() < 0.5


@QUICK
@given(scans_with_a_gland())
def test_an_ellipsoid_lies_on_the_network_grid_where_it_lies_in_the_patient(case):
    image, center, volume_ml = case
    grid = Grid.of(image, SETTINGS)
    on_network = grid.to_network(grid.canonical_array(image)) > 0.5
    assert on_network.shape == grid.size
    assert np.count_nonzero(on_network) * np.prod(SPACING) / 1000 == pytest.approx(volume_ml, rel=0.05)
    assert np.abs(centroid(on_network) - canonical_index(image, center)).max() < 0.25
    assert np.abs(centroid(on_network) - grid.index_of(tuple(center), image)).max() < 0.25


@QUICK
@given(geometries(steps=((1.5, 3.0),) * 3), st.data())
def test_index_of_a_point_agrees_with_a_marked_voxel(image, data):
    marked = [data.draw(st.integers(0, size - 1)) for size in image.GetSize()]
    point = image.TransformIndexToPhysicalPoint(marked)
    marker = sitk.Cast(image, sitk.sitkUInt8)
    marker[marked] = 1
    grid = Grid.of(image, SETTINGS)
    found = np.argwhere(grid.canonical_array(marker))[0]
    offset = (found - (np.array(grid.native_size) - 1) / 2) * grid.native_spacing_mm
    expected = offset / SPACING + (np.array(grid.size) - 1) / 2
    assert np.abs(grid.index_of(point, image) - expected).max() < 1e-3
    assert np.abs(canonical_index(image, point) - expected).max() < 1e-3


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_canonical_voxels_run_towards_left_posterior_and_superior(orientation):
    canonical = sitk.GetImageFromArray(np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5))
    canonical.SetSpacing((0.5, 0.7, 3.0))
    acquired = sitk.DICOMOrient(canonical, orientation)
    grid = Grid.of(acquired, SETTINGS)
    assert grid.orientation == orientation
    assert grid.native_size == (3, 4, 5) and grid.native_spacing_mm == (3.0, 0.7, 0.5)
    assert np.array_equal(grid.canonical_array(acquired), sitk.GetArrayFromImage(canonical))
    restored = grid.restore_image(grid.canonical_array(acquired), acquired)
    assert np.array_equal(sitk.GetArrayFromImage(restored), sitk.GetArrayFromImage(acquired))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_acquired_axes_never_reach_the_network(orientation):
    scan, _ = phantom((9, -6, 5))
    expected, _ = prepare(scan, OFF)
    found, _ = prepare(sitk.DICOMOrient(scan, orientation), OFF)
    assert np.array_equal(found, expected)


def test_network_grid_covers_the_scan_with_the_spacing_of_the_paper():
    grid = Grid.of(scan_of(np.zeros((19, 384, 320), np.float32), (0.5, 0.625, 3.0)), SETTINGS)
    assert grid.size == (38, 240, 160) and grid.spacing_mm == (1.5, 1.0, 1.0)


@pytest.mark.parametrize("mode", ["fast", "off"])
def test_a_rigid_motion_changes_not_one_voxel(mode):
    still, _ = phantom((9, -6, 5), direction=rotation((3, -4, 5)))
    moved = sitk.Image(still)
    turned = rotation((12, -17, 8)) @ np.array(still.GetDirection()).reshape(3, 3)
    moved.SetDirection(turned.ravel().tolist())
    moved.SetOrigin((-87.3, 41.1, 1203.7))
    settings = PreprocessingSettings(bias_field=mode)
    (expected, grid), (found, other_grid) = prepare(still, settings), prepare(moved, settings)
    assert grid == other_grid
    assert np.array_equal(found, expected)


@QUICK
@given(st.integers(5, 60), st.floats(0.3, 4), st.integers(2, 60))
def test_every_output_voxel_is_an_average_of_input_voxels(size_in, spacing_in, size_out):
    for spacing_out in (spacing_in / 3, spacing_in, spacing_in * 2.7):
        matrix = resampling_matrix(size_in, spacing_in, size_out, spacing_out)
        assert matrix.shape == (size_out, size_in) and matrix.dtype == np.float32
        assert (matrix >= 0).all()
        np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-5)


@QUICK
@given(st.integers(10, 80), st.floats(0.3, 1.4), st.data())
def test_area_averaging_keeps_the_mean(size_in, spacing_in, data):
    size_out = data.draw(st.integers(3, size_in))
    values = np.random.default_rng(size_in).uniform(0, 100, (1, 1, size_in))
    spacing_out = size_in * spacing_in / size_out
    found = resample(values, (1, 1, spacing_in), (1, 1, size_out), (1, 1, spacing_out))
    assert float(found.mean()) == pytest.approx(float(values.mean()), rel=1e-5)


@QUICK
@given(st.integers(4, 40), st.floats(0.6, 4.0), st.floats(0.2, 1.0), st.integers(4, 80), st.integers(0, 2))
def test_linear_upsampling_is_exact_on_a_ramp(size_in, spacing_in, ratio, size_out, axis):
    spacing_out = spacing_in * ratio
    shape_in, shape_out, steps_in, steps_out = [1, 1, 1], [1, 1, 1], [1.0] * 3, [1.0] * 3
    shape_in[axis], shape_out[axis], steps_in[axis], steps_out[axis] = size_in, size_out, spacing_in, spacing_out
    ramp = (np.arange(size_in) - (size_in - 1) / 2) * spacing_in
    found = resample(ramp.reshape(shape_in), tuple(steps_in), tuple(shape_out), tuple(steps_out))
    expected = ((np.arange(size_out) - (size_out - 1) / 2) * spacing_out).clip(ramp[0], ramp[-1])
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-4)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_area_averaging_is_exact_on_a_ramp(factor):
    ramp = np.arange(12.0).reshape(1, 12, 1)
    found = resample(ramp, (1, 0.5, 1), (1, 12 // factor, 1), (1, 0.5 * factor, 1))
    np.testing.assert_allclose(found.ravel(), ramp.reshape(-1, factor).mean(axis=1), rtol=1e-6)


def test_equal_grids_are_left_as_they_are():
    values = np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)
    np.testing.assert_array_equal(resample(values, (1.5, 1, 1), values.shape, (1.5, 1, 1)), values)


def coil_scan():
    """A body with a brighter spot on its left, seen by a coil whose sensitivity falls threefold."""
    image = scan_of(np.zeros((20, 80, 80), np.float32), (2.0, 2.0, 3.0))
    body = ellipsoid(image, middle_of(image), (70, 60, 60))
    z, y, x = np.meshgrid(np.linspace(-1, 1, 20), np.linspace(-1, 1, 80), np.linspace(-1, 1, 80), indexing="ij")
    tissue = np.where(body, 300.0, 20.0)
    wedge = body & (abs(x - 0.4) < 0.1) & (abs(y - 0.3) < 0.1) & (abs(z - 0.45) < 0.2)
    tissue[wedge] = 420
    noise = np.random.default_rng(3).normal(0, 6, tissue.shape)
    scan = ((tissue + noise) * np.exp(0.9 * y - 0.4 * x * x)).astype(np.float32)
    homogeneous = ellipsoid(image, middle_of(image), (50, 45, 25)) & ~wedge
    return scan_of(scan, image.GetSpacing()), tissue, homogeneous


@pytest.mark.parametrize("mode", ["fast", "full"])
def test_bias_field_correction_evens_out_a_homogeneous_tissue(mode):
    image, tissue, homogeneous = coil_scan()
    grid = Grid.of(image, SETTINGS)
    inside = grid.to_network(homogeneous.astype(np.float32)) > 0.99
    before = grid.to_network(sitk.GetArrayFromImage(image))
    after = bias_corrected(sitk.GetArrayFromImage(image), grid, mode)
    variation = [values[inside].std() / values[inside].mean() for values in (before, after)]
    assert variation[0] > 0.2
    assert variation[1] < variation[0] / 3
    true = grid.to_network(tissue)
    assert np.corrcoef(after.ravel(), true.ravel())[0, 1] > 0.97
    for axis in range(3):  # and stays on its side
        wedge = true > 400
        opposite = np.flip(wedge, axis) & (true > 290)
        assert after[wedge].mean() > 1.15 * after[opposite].mean()


@pytest.mark.parametrize(("slices", "left"), [(5, 5), (8, 4), (12, 4), (40, 6)])
def test_the_bias_field_keeps_at_least_four_slices(slices, left):
    array = np.random.default_rng(0).normal(300, 10, (slices, 60, 60)).astype(np.float32)
    assert estimate_log_bias_field(array, (1.0, 2.0, 2.0), "fast").shape == (left, 20, 20)


@pytest.mark.parametrize("padding", [((0, 0), (30, 30), (30, 30)), ((4, 4), (40, 30), (30, 60))])
def test_an_even_border_around_a_scan_has_no_say_in_its_bias_field(padding, monkeypatch):
    image, _, _ = coil_scan()
    values = sitk.GetArrayFromImage(image)
    padded = np.pad(values, padding)
    looked_at = []

    def estimate(array, *settings):
        looked_at.append(array.shape)
        return estimate_log_bias_field(array, *settings)

    monkeypatch.setattr(preprocessing, "estimate_log_bias_field", estimate)
    corrected = []
    for array in (values, padded):
        on_same_voxels = PreprocessingSettings(spacing_mm=image.GetSpacing())
        grid = Grid.of(scan_of(array, image.GetSpacing()), on_same_voxels)
        corrected.append(bias_corrected(array, grid, "fast"))
    inner = tuple(slice(before, before + n) for (before, _), n in zip(padding, values.shape, strict=True))
    even = all(before == after for before, after in padding)
    assert looked_at[0] == values.shape and (looked_at[1] == values.shape) == even
    found = corrected[1][inner]
    scale = found.mean() / corrected[0].mean()
    assert np.corrcoef(found.ravel(), corrected[0].ravel())[0, 1] > (0.99999 if even else 0.98)
    assert scale == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("mode", ["fast", "full"])
@pytest.mark.parametrize(
    "scanned", [np.s_[10:11], np.s_[:, :, 60:68], np.s_[:, 50:62, 50:62], np.s_[9:12, 63:65, 63:65]]
)
def test_a_scan_that_is_nearly_all_border_still_has_a_bias_field(scanned, mode):
    values = np.zeros((21, 128, 128), np.float32)
    values[scanned] = np.random.default_rng(0).normal(300, 40, values.shape)[scanned]
    grid = Grid.of(scan_of(values, (0.6, 0.6, 3.6)), SETTINGS)
    corrected = bias_corrected(values, grid, mode)
    assert corrected.shape == grid.size and np.isfinite(corrected).all() and corrected.max() > 0


@pytest.mark.parametrize("shape", [(1, 128, 128), (21, 1, 128), (21, 128, 2), (3, 3, 3)])
def test_a_bias_field_of_fewer_than_two_samples_along_an_axis_is_none_at_all(shape):
    values = np.random.default_rng(0).normal(300, 40, shape).astype(np.float32)
    field = estimate_log_bias_field(values, (3.6, 0.6, 0.6), "fast")
    assert np.isfinite(field).all() and (min(shape) > 1 or not field.any())


@pytest.mark.parametrize("value", [-50, -400, -2000, -32768])
def test_the_value_of_an_even_border_has_no_say_in_the_correction(value):
    """The field was estimated above the scan's own darkest voxel; so it holds above that one, not above the border."""
    image, _, _ = coil_scan()
    values = sitk.GetArrayFromImage(image)
    corrected = []
    for border in (0, value):
        padded = np.pad(values, ((0, 0), (30, 30), (30, 30)), constant_values=border)
        grid = Grid.of(scan_of(padded, image.GetSpacing()), PreprocessingSettings(spacing_mm=image.GetSpacing()))
        corrected.append(bias_corrected(padded, grid, "fast"))
        assert corrected[-1].min() >= 0
    np.testing.assert_allclose(*(scan[:, 30:-30, 30:-30] for scan in corrected), rtol=1e-4, atol=1e-3)


def test_grain_is_neither_tissue_in_the_air_nor_air_in_the_tissue():
    body = np.zeros((10, 24, 24), np.float32)
    body[2:8, 6:18, 6:18] = 300
    grainy = body.copy()
    grainy[5, 2, 2], grainy[5, 12, 12] = 300, 0  # one voxel each
    found = sitk.GetArrayFromImage(tissue_mask(scan_of(grainy, (6.0, 6.0, 6.0))))
    assert found[5, 2, 2] == 0 and found[5, 12, 12] == 1
    assert dice(found > 0, body > 0) > 0.9


def test_bias_field_correction_can_be_left_out():
    image, _, _ = coil_scan()
    grid, values = Grid.of(image, SETTINGS), sitk.GetArrayFromImage(image)
    assert np.array_equal(bias_corrected(values, grid, "off"), grid.to_network(values))


def test_bias_field_correction_of_negative_intensities_is_that_of_shifted_ones():
    image, _, _ = coil_scan()
    grid, values = Grid.of(image, SETTINGS), sitk.GetArrayFromImage(image)
    np.testing.assert_allclose(
        bias_corrected(values - 1000, grid, "fast"), bias_corrected(values, grid, "fast"), atol=2.0
    )


def test_intensities_get_zero_mean_and_unit_variance_in_the_middle():
    random = np.random.default_rng(0)
    array = random.gamma(2, 100, (6, 200, 220)).astype(np.float32)
    middle = (slice(None), slice(28, 172), slice(38, 182))  # the central 144 x 144 mm of every slice
    array[:, :20], array[:, :, :30] = 1e6, -1e6  # what lies outside has no say
    found = normalized(array, SETTINGS)
    assert found.dtype == np.float32 and found.shape == array.shape
    assert float(found[middle].mean()) == pytest.approx(0, abs=1e-4)
    assert float(found[middle].std()) == pytest.approx(1, rel=1e-4)


def test_intensities_are_clipped_to_the_percentiles_of_the_middle():
    array = np.random.default_rng(1).normal(500, 100, (4, 150, 150)).astype(np.float32)
    middle = array[:, 3:147, 3:147]
    low, high = np.percentile(middle, (0.5, 99.5))
    found = normalized(array, SETTINGS)
    clipped = middle.clip(low, high)
    assert float(found.min()) == pytest.approx((low - clipped.mean()) / clipped.std(), rel=1e-4)
    assert float(found.max()) == pytest.approx((high - clipped.mean()) / clipped.std(), rel=1e-4)
    assert np.count_nonzero(found == found.max()) == np.count_nonzero(array >= high)


@pytest.mark.parametrize(("scale", "shift"), [(3.0, 0.0), (1.0, -800.0)])
def test_scale_and_offset_of_the_scanner_do_not_matter(scale, shift):
    array = np.random.default_rng(2).normal(500, 100, (4, 40, 40)).astype(np.float32)
    np.testing.assert_allclose(normalized(array * scale + shift, SETTINGS), normalized(array, SETTINGS), atol=1e-4)


def test_a_scan_with_an_empty_middle_is_refused():
    array = np.full((8, 200, 200), 7, np.float32)
    array[:, :20] = 900
    with pytest.raises(InputError, match=r"same intensity \(7\) nearly everywhere\. Choose a T2-weighted volume"):
        normalized(array, SETTINGS)


@pytest.mark.parametrize("mode", ["fast", "full", "off"])
@pytest.mark.parametrize("voxel_type", [sitk.sitkInt16, sitk.sitkUInt8, sitk.sitkFloat64])
def test_a_prepared_scan_is_finite_float32_on_the_network_grid(mode, voxel_type):
    scan, _ = phantom()
    scan = sitk.Cast(sitk.IntensityWindowing(scan, 0, 600, 0, 255), voxel_type)
    array, grid = prepare(scan, PreprocessingSettings(bias_field=mode))
    assert array.dtype == np.float32 and array.shape == grid.size == (36, 96, 96)
    assert np.isfinite(array).all()


def test_settings_survive_a_dictionary():
    original = PreprocessingSettings(bias_field="off", clip_percentiles=(1.0, 99.0))
    assert PreprocessingSettings.from_dict(original.to_dict()) == original


@pytest.mark.parametrize(
    ("values", "message"),
    [({"margin": 3}, "unknown keys: margin"), ({"bias_field": "n3"}, "bias_field 'n3' is unknown")],
)
def test_settings_that_nothing_follows_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        PreprocessingSettings.from_dict(values)
