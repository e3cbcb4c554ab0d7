"""Whether the voxels of two images are the same ones: one rule and one tolerance, and masks brought to one grid."""

from __future__ import annotations

import itertools
import math

import numpy as np
import SimpleITK as sitk

from .errors import DatasetError
from .image_headers import SHEAR_TOLERANCE
from .segmentation import acquired_axis

# Of the smallest voxel edge. Who is nearer than this to a voxel is nearest to that one, so nothing is misplaced when
# the voxels are matched by number; what a file format rounds off is far less.
TOLERANCE_VOXELS = 0.5
MOST_VOXELS = 2**27  # as 512 x 512 x 512; masks that far apart belong to no scan


def same_grid(one: sitk.Image, other: sitk.Image) -> bool:
    """Whether two 3D images have their voxels at the same places, see ``place_in``."""
    return one.GetSize() == other.GetSize() and place_in(one, other) == (0, 0, 0)


def place_in(part: sitk.Image, whole: sitk.Image) -> tuple[int, ...] | None:
    """Index (x, y, z) in ``whole`` of the first voxel of ``part``; None when they are no voxels of one endless grid.

    They are where no corner lies half a voxel off; or where the part is as large as the whole, begins at its first
    voxel, and its axes are the whole's but for rounding. The part may stick out: the index may be negative.
    """
    first = whole.TransformPhysicalPointToContinuousIndex(part.GetOrigin())
    if not all(math.isfinite(index) for index in first):
        return None
    place = tuple(round(index) for index in first)
    limit = TOLERANCE_VOXELS * min(whole.GetSpacing())
    if _largest_shift_mm(part, whole, place) <= limit:
        return place
    begins_there = not any(place) and _shift_mm(part, whole, place, (0, 0, 0)) <= limit
    rounded = part.GetSize() == whole.GetSize() and _axes_apart(part, whole) <= SHEAR_TOLERANCE
    return place if begins_there and rounded else None


def _largest_shift_mm(part: sitk.Image, whole: sitk.Image, place: tuple[int, ...]) -> float:
    """How far a corner of the part lies off the voxel of the whole that it is taken for."""
    corners = itertools.product(*((0, size - 1) for size in part.GetSize()))
    return max(_shift_mm(part, whole, place, corner) for corner in corners)


def _shift_mm(part: sitk.Image, whole: sitk.Image, place: tuple[int, ...], index: tuple[int, ...]) -> float:
    there = [float(start + step) for start, step in zip(place, index, strict=True)]
    shift = math.dist(part.TransformIndexToPhysicalPoint(index), whole.TransformContinuousIndexToPhysicalPoint(there))
    return shift if math.isfinite(shift) else math.inf


def _axes_apart(one: sitk.Image, other: sitk.Image) -> float:
    """By how much the axes of two images differ at most, as a share of a voxel's length."""
    steps, expected = (np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing() for image in (one, other))
    return float((np.abs(steps - expected) / other.GetSpacing()).max())


def about_fit(part: sitk.Image, whole: sitk.Image, what: str = "mask", of: str = "scan") -> list[str]:
    """What was assumed where a part was put on a whole by ``place_in``: rounded axes, slices that it does not have."""
    place = place_in(part, whole)
    if place is None:
        return []
    told = []
    off = _largest_shift_mm(part, whole, place)
    if off > TOLERANCE_VOXELS * min(whole.GetSpacing()):
        told.append(f"The {what}'s axes are rounded: it lies up to {off:.2g} mm off the {of}'s grid and was put on it.")
    axis = 2 - acquired_axis(whole.GetSpacing())
    slices, expected = part.GetSize()[axis], whole.GetSize()[axis]
    if slices < expected:
        told.append(f"The {what} has {slices} slices and the {of} {expected}: there is no gland on the others.")
    return told


def on_grid(mask: sitk.Image, image: sitk.Image, what: str = "mask") -> sitk.Image:
    """A mask as 0 and 1 (uint8) with its scan's very geometry; a part of the scan, as Slicer saves it, is completed.

    What that assumes is told by ``about_fit``.

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
