"""Whether the voxels of two images are the same ones: one rule and one tolerance, and masks brought to one grid."""

from __future__ import annotations

import itertools
import math

import numpy as np
import SimpleITK as sitk

from .errors import DatasetError

# Of the smallest voxel edge. Who is nearer than this to a voxel is nearest to that one, so nothing is misplaced when
# the voxels are matched by number; what a file format rounds off is far less.
TOLERANCE_VOXELS = 0.5
MOST_VOXELS = 2**27  # as 512 x 512 x 512; masks that far apart belong to no scan


def same_grid(one: sitk.Image, other: sitk.Image) -> bool:
    """Whether two 3D images have their voxels at the same places, within half a voxel at every corner."""
    return one.GetSize() == other.GetSize() and place_in(one, other) == (0, 0, 0)


def place_in(part: sitk.Image, whole: sitk.Image) -> tuple[int, ...] | None:
    """Index (x, y, z) in ``whole`` of the first voxel of ``part``; None when they are no voxels of one endless grid.

    The part may stick out: the index may be negative.
    """
    first = whole.TransformPhysicalPointToContinuousIndex(part.GetOrigin())
    if not all(math.isfinite(index) for index in first):
        return None
    place = tuple(round(index) for index in first)
    for corner in itertools.product(*((0, size - 1) for size in part.GetSize())):
        there = [float(start + step) for start, step in zip(place, corner, strict=True)]
        shift = math.dist(
            part.TransformIndexToPhysicalPoint(corner), whole.TransformContinuousIndexToPhysicalPoint(there)
        )
        if not shift <= TOLERANCE_VOXELS * min(whole.GetSpacing()):
            return None
    return place


def on_grid(mask: sitk.Image, image: sitk.Image, what: str = "mask") -> sitk.Image:
    """A mask as 0 and 1 (uint8) with its scan's very geometry; a part of the scan, as Slicer saves it, is completed.

    Raises:
        DatasetError: it lies on another grid, or reaches beyond the scan.
    """
    redraw = "Draw it on this scan, or resample it to the scan's grid."
    if mask.GetDimension() != 3 or mask.GetNumberOfComponentsPerPixel() != 1:
        raise DatasetError(f"The {what} is not a 3D image with one value in each voxel.", redraw)
    place = place_in(mask, image)
    sizes = tuple(zip(mask.GetSize(), image.GetSize(), strict=True))
    if place is None or any(start < 0 or start + part > size for start, (part, size) in zip(place, sizes, strict=True)):
        raise DatasetError(
            f"The {what} lies on another grid ({describe_grid(mask)}) than the scan ({describe_grid(image)}).", redraw
        )
    voxels = np.zeros(image.GetSize()[::-1], np.uint8)
    box = tuple(slice(start, start + part) for start, (part, _) in zip(place, sizes, strict=True))[::-1]
    voxels[box] = sitk.GetArrayViewFromImage(mask) > 0
    completed = sitk.GetImageFromArray(voxels)
    completed.CopyInformation(image)
    return completed


def on_one_grid(one: sitk.Image, other: sitk.Image) -> tuple[sitk.Image, sitk.Image]:
    """Two masks that cover parts of one grid, on the smallest grid that holds both; others as they are.

    Raises:
        DatasetError: they lie so far apart that no scan can hold both.
    """
    if one.GetDimension() != 3 or other.GetDimension() != 3 or (place := place_in(other, one)) is None:
        return one, other
    ends = [max(start + count, size) for start, count, size in zip(place, other.GetSize(), one.GetSize(), strict=True)]
    before = [max(0, -start) for start in place]
    held = math.prod(start + end for start, end in zip(before, ends, strict=True))
    if held > max(MOST_VOXELS, one.GetNumberOfPixels() + other.GetNumberOfPixels()):
        raise DatasetError(
            f"The masks lie too far apart to belong to one scan ({describe_grid(one)}, and {describe_grid(other)}).",
            "Compare masks of the same scan.",
        )
    after = [end - size for end, size in zip(ends, one.GetSize(), strict=True)]
    whole = sitk.ConstantPad(one, before, after, 0.0)
    before = [max(0, start) for start in place]
    after = [end - start - count for end, start, count in zip(ends, place, other.GetSize(), strict=True)]
    padded = sitk.ConstantPad(other, before, after, 0.0)
    padded.CopyInformation(whole)
    return whole, padded


def describe_grid(image: sitk.Image) -> str:
    """Size, spacing, origin and direction of an image in one line."""

    def listed(values: tuple[float, ...]) -> str:
        return ", ".join(f"{value:.4g}" for value in values)

    return (
        f"{'x'.join(map(str, image.GetSize()))} voxels of {'x'.join(f'{step:.4g}' for step in image.GetSpacing())} mm, "
        f"origin {listed(image.GetOrigin())}, direction {listed(image.GetDirection())}"
    )
