"""Which voxels of two images are the same ones, and masks that cover a part of their scan."""

import numpy as np
import pytest
import SimpleITK as sitk
from learning_parts import toy_scan

from DDSPSegmentationLib.engine.errors import DatasetError
from DDSPSegmentationLib.engine.grids import about_fit, on_grid, on_one_grid, place_in, same_grid

DIRECTION = (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1)


def oblique() -> tuple[sitk.Image, sitk.Image]:
    image, mask = toy_scan()
    for part in (image, mask):
        part.SetDirection(DIRECTION)
        part.SetOrigin((-30.0, 12.5, 7.0))
    return image, mask


def voxels(mask: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(mask)


def shifted(mask: sitk.Image, voxels: float) -> sitk.Image:
    moved = sitk.Image(mask)
    moved.SetOrigin(mask.TransformContinuousIndexToPhysicalPoint((voxels, 0.0, 0.0)))
    return moved


def test_half_a_voxel_is_the_limit_for_a_whole_mask_and_for_a_part():
    image, mask = oblique()
    part = mask[8:30, 6:28, 2:10]
    for fits, by in ((True, 0.49), (False, 0.51)):
        assert same_grid(shifted(mask, by), image) == fits
        assert (place_in(shifted(part, by), image) == (8, 6, 2)) == fits


def test_a_mask_saved_no_larger_than_its_gland_is_completed_on_its_scans_very_grid():
    image, mask = oblique()
    completed = on_grid(shifted(mask[8:32, 6:30, 1:12] * 3, 0.2), image)
    assert (voxels(completed) == voxels(mask)).all() and completed.GetPixelID() == sitk.sitkUInt8
    assert completed.GetOrigin() == image.GetOrigin() and completed.GetDirection() == image.GetDirection()


def test_a_mask_whose_axes_were_rounded_is_put_on_its_scans_grid_and_told():
    image, mask = (sitk.Resample(part, (384, 384, 19), outputSpacing=(0.5, 0.5, 3.0)) for part in oblique())
    for part in (image, mask):
        part.SetDirection((1, 0, 0, 0, 0.94838, 0.31714, 0, -0.31714, 0.94838))
    assert about_fit(mask, image) == []
    rounded = sitk.Image(mask)
    rounded.SetDirection((1, 0, 0.0012, 0.0018, 0.94838, 0.31714, 0, -0.31714, 0.94838))
    assert same_grid(rounded, image) and on_grid(rounded, image).GetDirection() == image.GetDirection()
    (told,) = about_fit(rounded, image)
    assert "axes are rounded" in told and "up to 0.35 mm off" in told
    for direction in ((1, 0, 0, 0.0025, 0.94838, 0.31714, 0, -0.31714, 0.94838), (-1, 0, 0, 0, -1, 0, 0, 0, 1)):
        rounded.SetDirection(direction)
        assert place_in(rounded, image) is None and about_fit(rounded, image) == []


def test_slices_that_a_mask_does_not_have_are_told():
    image, mask = oblique()
    assert about_fit(mask[8:32, 6:30, :], image) == []
    told = ["The mask has 10 slices and the scan 12: there is no gland on the others."]
    assert about_fit(mask[:, :, 1:11], image) == told and about_fit(mask[8:32, 6:30, 1:11], image) == told


@pytest.mark.parametrize(
    "change",
    [
        lambda mask: sitk.ConstantPad(mask, (0, 0, 1), (0, 0, 0)),
        lambda mask: sitk.Flip(mask, (True, False, False)),
        lambda mask: sitk.BinShrink(mask, (2, 2, 1)),
        lambda mask: shifted(mask, 1.0),
    ],
    ids=["larger", "flipped", "coarser", "moved by a voxel"],
)
def test_a_mask_that_is_no_part_of_its_scan_is_refused_with_both_grids(change):
    image, mask = oblique()
    with pytest.raises(DatasetError, match=r"mask lies on another grid \(.*direction.*than the scan \(40x36x12"):
        on_grid(change(mask), image)


def test_two_masks_that_cover_parts_of_one_grid_meet_on_the_smallest_that_holds_both():
    mask = oblique()[1]
    one, other = on_one_grid(mask[8:32, 6:30, 2:10], mask[4:31, 7:36, :9])
    assert same_grid(one, other) and one.GetSize() == (28, 30, 10)
    wanted = voxels(mask[4:32, 6:36, :10])
    inside = voxels(mask[4:31, 7:36, :9]).sum()
    assert (voxels(one) == wanted).all() and voxels(other).sum() == inside
    alone = sitk.BinShrink(mask, (2, 2, 1))
    assert on_one_grid(mask, alone)[1] is alone
