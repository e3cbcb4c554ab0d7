"""Augmented samples: repeatable, and image and reference always changed alike, in millimetres."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from learning_parts import ellipsoid

from DDSPSegmentationLib.learning import augmentation
from DDSPSegmentationLib.learning.augmentation import (
    PAPER_AUGMENTATION,
    AugmentationSettings,
    _thick_slices,
    bspline_deformation,
    cubic_bspline_basis,
    jacobian_determinant,
    random_crop,
    sampling_coordinates,
    vary_intensity,
)

NOTHING = replace(PAPER_AUGMENTATION, deformation_voxels=(0.0, 0.0, 0.0))
EVERYTHING = AugmentationSettings()
VOLUME, SIZE, SPACING_MM = (32, 64, 60), (24, 48, 48), (3.0, 2.0, 1.5)
MIDDLE = tuple((n - 1) / 2 for n in VOLUME)
AT_GLAND = (0.0, 0.0, 0.0)


pytestmark = pytest.mark.usefixtures("one_thread")


def smooth_gland(center=MIDDLE, radii_mm=(15, 14, 12)):
    """Image and label of a soft ellipsoid: its intensities have the same centroid as its mask."""
    grid = np.ogrid[tuple(slice(0, n) for n in VOLUME)]
    squares = [
        ((axis - c) * step / radius) ** 2
        for axis, c, step, radius in zip(grid, center, SPACING_MM, radii_mm, strict=True)
    ]
    distance = np.sqrt(sum(squares))
    label = torch.from_numpy(np.clip((1 - distance) * 6 + 0.5, 0, 1).astype(np.float32))
    return 3 * label, label


def crop_of(settings, seed=0, center=MIDDLE, gland=MIDDLE, **options):
    image, label = smooth_gland(gland, **options)
    return random_crop(image, label, center, settings, SIZE, SPACING_MM, seed)


def centroid_mm(weights):
    """Centroid of a crop (z, y, x) in mm from the crop's center."""
    points = torch.stack(torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in weights.shape), indexing="ij"), dim=-1)
    mean = (points * weights[..., None]).sum(dim=(0, 1, 2)) / weights.sum()
    return mean.numpy() * SPACING_MM


def axes_mm(settings, seed):
    """Where the crop's unit steps (1 mm along z, y, x) lead in the scan, as columns in mm."""
    generator = torch.Generator().manual_seed(seed)
    found = sampling_coordinates(VOLUME, MIDDLE, settings, SIZE, SPACING_MM, generator).numpy() * SPACING_MM
    corner = found[0, 0, 0]
    return np.stack([found[1, 0, 0] - corner, found[0, 1, 0] - corner, found[0, 0, 1] - corner], axis=1) / SPACING_MM


# ---- seeds


def test_one_seed_gives_one_sample_and_another_seed_another():
    one, again, other = crop_of(EVERYTHING, 7), crop_of(EVERYTHING, 7), crop_of(EVERYTHING, 8)
    assert torch.equal(one[0], again[0]) and torch.equal(one[1], again[1])
    assert not torch.equal(one[0], other[0]) and not torch.equal(one[1], other[1])


def test_samples_do_not_touch_the_global_random_numbers():
    torch.manual_seed(5)
    first = torch.rand(1)
    torch.manual_seed(5)
    crop_of(EVERYTHING, 3)
    assert torch.equal(torch.rand(1), first)


@pytest.mark.parametrize(
    "changes",
    [
        {"flip": 1.0},
        {"rotation_degrees": (15.0, 0.0, 0.0)},
        {"scale": 0.2},
        {"deformation_voxels": (1.0, 3.0, 3.0)},
        {"center_jitter": (3.0, 3.0, 3.0)},
        {"center_jitter": AT_GLAND, "far_share": 1.0},
        {"gamma": 0.3},
        {"contrast": 0.3},
        {"noise": 0.2},
        {"bias": 0.5},
        {"coil": 1.0},
        {"blur": 1.0},
        {"thick": 1.0},
    ],
    ids=lambda changes: list(changes)[-1],
)
def test_each_change_alone_changes_the_sample(changes):
    gland = (15.0, 33.0, 27.0)
    plain, changed = (
        [crop_of(replace(NOTHING, **settings), seed, gland=gland)[0] for seed in range(4)] for settings in ({}, changes)
    )
    assert any(float((one - other).abs().max()) > 1e-2 for one, other in zip(plain, changed, strict=True))


# ---- nothing changed


@pytest.mark.parametrize("volume", [(32, 64, 60), (31, 65, 59), (24, 48, 48)])
def test_without_changes_the_sample_is_the_plain_central_crop(volume):
    image = torch.randn(volume, generator=torch.Generator().manual_seed(0))
    label = torch.rand(volume, generator=torch.Generator().manual_seed(1))
    starts = [int(np.rint((n - m) / 2)) for n, m in zip(volume, SIZE, strict=True)]
    inside = tuple(slice(start, start + m) for start, m in zip(starts, SIZE, strict=True))
    crop, reference = random_crop(image, label, (0, 0, 0), NOTHING, SIZE, SPACING_MM, 3)
    assert crop.shape == reference.shape == SIZE and crop.dtype == reference.dtype == torch.float32
    assert torch.allclose(crop, image[inside], atol=1e-4)
    sure = (label[inside] - 0.5).abs() > 1e-4
    assert torch.equal(reference[sure], (label[inside] >= 0.5).float()[sure])


def test_crop_about_the_gland_has_it_in_the_middle():
    gland = (13.5, 28.5, 33.5)
    _, reference = crop_of(replace(NOTHING, center_jitter=AT_GLAND), center=gland, gland=gland)
    assert np.abs(centroid_mm(reference)).max() < 0.1


def test_beyond_the_scan_the_border_goes_on_and_there_is_no_gland():
    image, label = torch.full((8, 20, 20), 4.0), torch.ones(8, 20, 20)
    crop, reference = random_crop(image, label, (4, 10, 10), NOTHING, SIZE, SPACING_MM, 0)
    assert torch.allclose(crop, torch.tensor(4.0), atol=1e-4) and reference.sum() == label.sum()


def test_reference_is_binary_and_both_are_float32_from_half_precision_input():
    image, label = (array.half() for array in smooth_gland())
    for seed in range(5):
        crop, reference = random_crop(image, label, MIDDLE, EVERYTHING, SIZE, SPACING_MM, seed)
        assert crop.dtype == reference.dtype == torch.float32
        assert set(reference.unique().tolist()) <= {0.0, 1.0} and torch.isfinite(crop).all()


# ---- space


def test_flip_mirrors_left_and_right_alone():
    gland = (17.0, 28.0, 36.0)
    settings = replace(NOTHING, center_jitter=AT_GLAND)
    plain, mirrored = crop_of(settings, gland=gland), crop_of(replace(settings, flip=1.0), gland=gland)
    for one, other in zip(plain, mirrored, strict=True):
        assert torch.allclose(one.flip(-1), other, atol=1e-4)
    assert centroid_mm(plain[1])[2] == pytest.approx((36 - MIDDLE[2]) * SPACING_MM[2], abs=0.2)


def test_flip_has_its_probability():
    flipped = [np.linalg.det(axes_mm(replace(NOTHING, flip=0.5), seed)) < 0 for seed in range(60)]
    assert 15 < sum(flipped) < 45


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["cranio-caudal", "antero-posterior", "left-right"])
def test_rotation_keeps_distances_in_millimetres_and_its_axis(axis):
    degrees = [0.0, 0.0, 0.0]
    degrees[axis] = 40.0
    settings = replace(NOTHING, rotation_degrees=tuple(degrees), center_jitter=AT_GLAND)
    gland = np.array((18.5, 36.5, 37.5))
    offset_mm = (gland - MIDDLE) * SPACING_MM
    angles = []
    for seed in range(4):
        turn = axes_mm(settings, seed)
        assert np.allclose(turn.T @ turn, np.eye(3), atol=1e-4) and np.linalg.det(turn) > 0
        assert np.allclose(turn[:, axis], np.eye(3)[axis], atol=1e-5)
        angles.append(np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))))
        crop, reference = crop_of(settings, seed, gland=tuple(gland), radii_mm=(12, 9, 10))
        expected = turn.T @ offset_mm
        assert np.allclose(centroid_mm(crop), expected, atol=0.2)
        assert np.allclose(centroid_mm(reference), expected, atol=0.4)
        volume_ml = reference.sum().item() * np.prod(SPACING_MM)
        assert volume_ml == pytest.approx(4 / 3 * np.pi * 12 * 9 * 10, rel=0.05)
    assert max(angles) > 5 and max(angles) <= 40 and np.ptp(angles) > 1


def test_rotation_about_all_axes_is_rigid():
    turn = axes_mm(replace(NOTHING, rotation_degrees=(30.0, 20.0, 25.0)), 5)
    assert np.allclose(turn.T @ turn, np.eye(3), atol=1e-4) and np.linalg.det(turn) > 0
    assert np.abs(turn - np.eye(3)).max() > 0.1


def test_scale_changes_the_volume_of_image_and_reference_by_its_factor():
    settings = replace(NOTHING, scale=0.3, center_jitter=AT_GLAND)
    radii_mm = (22, 22, 22)
    plain_image, plain = crop_of(NOTHING, radii_mm=radii_mm)
    factors = []
    for seed in range(5):
        matrix = axes_mm(settings, seed)
        factors.append(np.diag(matrix))
        assert np.allclose(matrix, np.diag(factors[-1]), atol=1e-4)
        crop, reference = crop_of(settings, seed, radii_mm=radii_mm)
        for one, other, tolerance in ((plain_image, crop, 0.01), (plain, reference, 0.03)):
            assert (other.sum() / one.sum()).item() == pytest.approx(1 / np.prod(factors[-1]), rel=tolerance)
    factors = np.array(factors)
    assert (factors > 1.3 ** (-4 / 3)).all() and (factors < 1.3 ** (4 / 3)).all()
    assert factors.max() > 1.05 and factors.min() < 0.95 and np.ptp(factors, axis=1).max() > 0.02


def test_jitter_is_in_millimetres_with_the_deviation_asked_for():
    settings = replace(NOTHING, center_jitter=(6.0, 4.0, 2.0))
    shifts = []
    for seed in range(150):
        generator = torch.Generator().manual_seed(seed)
        # A crop of two voxels an axis has the same center and is quicker.
        found = sampling_coordinates(VOLUME, MIDDLE, settings, (2, 2, 2), SPACING_MM, generator)
        shifts.append((found.mean(dim=(0, 1, 2)).numpy() - MIDDLE) * SPACING_MM)
    assert np.allclose(np.std(shifts, axis=0), (6, 4, 2), rtol=0.25) and np.abs(np.mean(shifts, axis=0)).max() < 2


def test_far_crops_come_as_often_and_reach_as_far_as_asked():
    settings = replace(NOTHING, center_jitter=AT_GLAND, far_jitter=(30.0, 20.0, 10.0), far_share=0.3)
    shifts = []
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        found = sampling_coordinates(VOLUME, MIDDLE, settings, (2, 2, 2), SPACING_MM, generator)
        shifts.append((found.mean(dim=(0, 1, 2)).numpy() - MIDDLE) * SPACING_MM)
    shifts = np.abs(shifts)
    far = shifts.max(axis=1) > 1e-3
    assert 0.2 < far.mean() < 0.4
    assert (shifts <= (30.001, 20.001, 10.001)).all() and (shifts.max(axis=0) > (22, 15, 7)).all()


def test_crops_contain_the_gland():
    """A gland of 25 ml in crops of 72 x 96 x 72 mm: whole in most near ones, mostly seen in far ones, never missed."""
    image, label = smooth_gland(radii_mm=(20, 17, 17))
    _, whole = crop_of(NOTHING, radii_mm=(20, 17, 17))
    near, far = (
        np.array([
            random_crop(image, label, MIDDLE, replace(NOTHING, center_jitter=EVERYTHING.center_jitter, far_share=share),
                        SIZE, SPACING_MM, seed)[1].sum().item() / whole.sum().item()
            for seed in range(20)
        ])
        for share in (0, 1)
    )  # fmt: skip
    assert near.min() > 0.75 and np.mean(near > 0.97) >= 0.7 and far.min() > 0.2 and np.mean(far > 0.5) >= 0.8


# ---- B-spline deformation


@pytest.mark.parametrize(("size", "cells"), [(48, 2), (96, 2), (17, 3), (2, 2)])
def test_bspline_weights_sum_to_one_and_reproduce_a_straight_line(size, cells):
    basis = cubic_bspline_basis(size, cells)
    assert basis.shape == (size, cells + 3) and (basis >= 0).all()
    assert torch.allclose(basis.sum(dim=1), torch.ones(size), atol=1e-6)
    knots = torch.arange(cells + 3).float() - 1
    assert torch.allclose(basis @ knots, torch.linspace(0, cells, size), atol=1e-5)


def drawn_control_points(seed, deviation):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(5, 5, 5, 3, generator=generator) * torch.tensor(deviation)


@pytest.mark.parametrize("deviation", [(1.0, 5.0, 5.0), (0.0, 15.0, 15.0)])
def test_deformation_is_that_of_simpleitk_for_the_same_control_points(deviation):
    size = (24, 96, 64)
    displacement = bspline_deformation(size, deviation, torch.Generator().manual_seed(4))
    control = drawn_control_points(4, deviation).numpy()
    transform = sitk.BSplineTransform(3, 3)
    transform.SetTransformDomainOrigin((0.0, 0.0, 0.0))
    transform.SetTransformDomainPhysicalDimensions([float(n - 1) for n in size[::-1]])
    transform.SetTransformDomainMeshSize((2, 2, 2))
    transform.SetParameters(np.concatenate([control[..., axis].ravel() for axis in (2, 1, 0)]).astype(float).tolist())
    draw = np.random.default_rng(0)
    for _ in range(200):
        index = [int(draw.integers(0, n - 1)) for n in size]
        point = [float(i) for i in index[::-1]]
        moved = np.subtract(transform.TransformPoint(point), point)[::-1]
        assert np.allclose(displacement[tuple(index)].numpy(), moved, atol=1e-4)


def finely_sampled_jacobian(displacement):
    """Jacobian determinants by second-order central differences at every voxel, border included."""
    parts = [np.gradient(displacement[..., axis].double().numpy(), edge_order=2) for axis in range(3)]
    return np.linalg.det(np.moveaxis(np.array(parts), (0, 1), (-2, -1)) + np.eye(3))


@pytest.mark.parametrize("deviation", [EVERYTHING.deformation_voxels, PAPER_AUGMENTATION.deformation_voxels])
def test_deformations_of_both_plans_are_not_rejected_and_do_not_fold(deviation):
    for seed in range(2):
        displacement = bspline_deformation((48, 96, 96), deviation, torch.Generator().manual_seed(seed))
        assert displacement.abs().max() > deviation[2] / 2
        assert finely_sampled_jacobian(displacement).min() > 0


def test_strong_deformations_that_fold_are_drawn_again_or_left_out():
    size, deviation = (16, 32, 32), (3.0, 14.0, 14.0)
    first_draws, left_out = 0, 0
    for seed in range(16):
        displacement = bspline_deformation(size, deviation, torch.Generator().manual_seed(seed))
        assert finely_sampled_jacobian(displacement).min() > 0
        bases = [cubic_bspline_basis(n) for n in size]
        drawn = torch.einsum("ai,bj,ck,ijkd->abcd", *bases, drawn_control_points(seed, deviation))
        first_draws += torch.allclose(drawn, displacement, atol=1e-4)
        left_out += not displacement.any()
    assert 0 < first_draws < 16 and left_out < 16


def test_when_every_draw_folds_there_is_no_deformation():
    displacement = bspline_deformation((16, 32, 32), (60.0, 60.0, 60.0), torch.Generator().manual_seed(0))
    assert displacement.shape == (16, 32, 32, 3) and not displacement.any()


def test_jacobian_of_a_known_map():
    z, y, x = torch.meshgrid(torch.arange(8.0), torch.arange(9.0), torch.arange(10.0), indexing="ij")
    displacement = torch.stack((0.5 * z, -0.25 * y + 0.5 * x, 0.125 * x), dim=-1)
    assert torch.allclose(jacobian_determinant(displacement), torch.tensor(1.5 * 0.75 * 1.125), atol=1e-5)
    folded = torch.stack((torch.zeros_like(z), torch.zeros_like(z), -1.5 * x), dim=-1)
    assert (jacobian_determinant(folded) < 0).all()


def test_the_papers_deformation_stays_within_the_slices():
    displacement = bspline_deformation(SIZE, PAPER_AUGMENTATION.deformation_voxels, torch.Generator().manual_seed(0))
    assert not displacement[..., 0].any()
    assert displacement[..., 1].abs().max() > 3 and displacement[..., 2].abs().max() > 3


def test_the_papers_plan_only_deforms():
    assert replace(PAPER_AUGMENTATION, deformation_voxels=(0.0, 0.0, 0.0)) == NOTHING
    assert PAPER_AUGMENTATION.deformation_voxels == (0.0, 15.0, 15.0)
    image, label = smooth_gland()
    samples = [random_crop(image, label, (0, 0, 0), PAPER_AUGMENTATION, SIZE, SPACING_MM, seed) for seed in range(2)]
    assert not torch.equal(samples[0][0], samples[1][0]) and samples[0][1].any()


def test_deformation_moves_image_and_reference_together():
    settings = replace(NOTHING, deformation_voxels=(1.0, 4.0, 4.0))
    moved = []
    for seed in range(3):
        crop, reference = crop_of(settings, seed)
        assert np.allclose(centroid_mm(crop), centroid_mm(reference), atol=0.3)
        assert torch.equal(crop >= 1.5, reference > 0)
        moved.append(np.abs(centroid_mm(crop)).max())
    assert max(moved) > 0.5


# ---- intensities


def noisy_image():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(SIZE, generator=generator) + 2 * torch.from_numpy(ellipsoid(SIZE, (12, 24, 24), (6, 12, 12)))


def test_intensities_keep_mean_and_deviation_about_where_they_were():
    image = noisy_image()
    for seed in range(12):
        varied = vary_intensity(image, EVERYTHING, torch.Generator().manual_seed(seed))
        assert torch.isfinite(varied).all() and abs(varied.mean() - image.mean()) < EVERYTHING.contrast + 0.05
        assert 0.7 < (varied.std() / image.std()).item() < 1.35


@pytest.mark.parametrize("value", [0.0, -3.0, 7.0])
def test_constant_crops_stay_finite(value):
    for seed in range(6):
        varied = vary_intensity(torch.full(SIZE, value), EVERYTHING, torch.Generator().manual_seed(seed))
        assert torch.isfinite(varied).all() and varied.std() < 1


def test_bias_field_and_coil_are_smooth_positive_changes():
    generator = torch.Generator().manual_seed(1)
    field, spot = augmentation._smooth_field(SIZE, generator), augmentation._coil_spot(SIZE, generator)
    assert field.shape == spot.shape == SIZE and field.abs().max() <= 1 and 0 < spot.min() and spot.max() <= 1
    for part in (field, spot):
        assert max(part.diff(dim=axis).abs().max() for axis in range(3)) < 0.2
    brightest = np.unravel_index(int(spot.argmax()), SIZE)
    assert brightest[1] > SIZE[1] / 2  # behind the gland


# ---- thick slices


def test_thick_slices_lose_detail_through_plane_and_keep_it_in_plane():
    """Lines across the slices are averaged away, lines within a slice stay."""
    z, y, _ = torch.meshgrid(*(torch.arange(n) for n in (24, 40, 40)), indexing="ij")
    for seed in range(8):
        across, within = (_thick_slices((axis % 2).float(), torch.Generator().manual_seed(seed)) for axis in (z, y))
        assert across.shape == within.shape == z.shape
        assert float(across.std()) < 0.6 * float((z % 2).float().std())
        assert torch.allclose(within, (y % 2).float(), atol=1e-5)


def test_thick_slices_keep_a_ramp_where_it_is():
    ramp = torch.arange(24.0)[:, None, None].expand(24, 8, 8)
    for seed in range(8):
        found = _thick_slices(ramp, torch.Generator().manual_seed(seed))
        assert float((found - ramp)[5:-5].abs().max()) < 1e-4


def test_the_same_seed_gives_the_same_sample_whether_or_not_thick_slices_exist():
    """A draw of its own, made only where it is wanted: runs of earlier plans stay repeatable."""
    plain = crop_of(EVERYTHING, 7)[0]
    assert torch.equal(plain, crop_of(replace(EVERYTHING, thick=0.0), 7)[0])
