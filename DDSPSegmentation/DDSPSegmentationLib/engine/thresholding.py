"""From a probability to a mask: the largest part above a threshold, and what has to be said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import SimpleITK as sitk

from .images import about_small_view
from .quality import NOT_AXIAL, NOT_CALIBRATED, SOME_SEE_NONE, find_warnings, slice_doubts
from .segmentation import GlandMeasurements, Segmentation, acquired_axis, bounding_box, connected_parts, measure_gland


def at_threshold(found: Segmentation, threshold: float) -> Segmentation:
    """The answer that another threshold would have given; the networks need not look again.

    Args:
        threshold: probability, in (0, 1), from which a voxel counts as prostate.

    Returns:
        An answer without an expected Dice, unless the threshold is that of ``found``.
    """
    if threshold == found.threshold:
        return found
    gland = gland_above(found.probability, threshold)
    of_the_scan = [
        warning for warning in found.warnings if warning in (NOT_AXIAL, SOME_SEE_NONE, *about_small_view(found.mask))
    ]
    uncalibrated = NOT_CALIBRATED.format(what=f"the threshold {threshold:g}")
    values = {field.name: getattr(found, field.name) for field in fields(Segmentation)}
    values |= {
        "mask": gland.mask,
        "measurements": gland.measurements,
        "expected_dice": None,
        "features": None,
        "slice_doubts": gland.slice_doubts,
        "warnings": of_the_scan + gland.warnings(None),
        "notices": ([uncalibrated] if found.expected_dice is not None else []) + found.notices,
        "threshold": threshold,
    }
    return Segmentation(**values)


@dataclass(frozen=True)
class Gland:
    """What lies above a threshold, on the scan's own grid.

    Attributes:
        mask: 0 and 1; ``shares``: the other parts, relative to the largest, which alone is in the mask.
        slice_doubts: see ``quality.slice_doubts``.
    """

    mask: sitk.Image
    measurements: GlandMeasurements
    shares: list[float]
    slice_doubts: list[float | None]

    def warnings(self, expected_dice: float | None) -> list[str]:
        sides = touched_sides(sitk.GetArrayFromImage(sitk.DICOMOrient(self.mask, "LPS")) != 0)
        return find_warnings(self.measurements.volume_ml, sides, self.shares, expected_dice)


def gland_above(probability: sitk.Image, threshold: float) -> Gland:
    """The largest part above a threshold, and what is measured on it."""
    voxels, slice_axis = sitk.GetArrayViewFromImage(probability), acquired_axis(probability.GetSpacing())
    inside, shares = largest_component(voxels > threshold, slice_axis)
    mask = sitk.GetImageFromArray(inside.astype(np.uint8))
    mask.CopyInformation(probability)
    return Gland(mask, measure_gland(mask), shares, slice_doubts(inside, voxels, slice_axis))


def largest_component(inside: np.ndarray, slice_axis: int = 0) -> tuple[np.ndarray, list[float]]:
    """Largest part (see ``connected_parts``), no slice of which has a hole, and the others' sizes relative to it.

    Args:
        inside: bool (z, y, x).
        slice_axis: array axis across the slices.
    """
    if not inside.any():
        return inside, []
    box = _box_around(inside, margin=(1, 1, 1))
    labels, counts = connected_parts(inside[box])
    result = np.zeros_like(inside)
    # Filled slice by slice: a hole of the first or last slice is open through the slices.
    for part, found in zip(np.moveaxis(result[box], slice_axis, 0), np.moveaxis(labels, slice_axis, 0), strict=True):
        part[:] = sitk.GetArrayFromImage(sitk.BinaryFillhole(sitk.GetImageFromArray((found == 1).astype(np.uint8))))
    return result, (counts[1:] / counts[0]).tolist()


def _box_around(inside: np.ndarray, margin: Sequence[int]) -> tuple[slice, ...]:
    box = bounding_box(inside) or ()
    return tuple(slice(max(0, s.start - wider), s.stop + wider) for s, wider in zip(box, margin, strict=True))


def touched_sides(mask: np.ndarray) -> list[str]:
    """Sides of the field of view that a canonical mask (z, y, x; towards left, posterior, superior) touches."""
    sides = (("inferior", "superior"), ("anterior", "posterior"), ("right", "left"))
    return [
        side
        for axis, pair in enumerate(sides)
        for side, position in zip(pair, (0, -1), strict=True)
        if mask.take(position, axis=axis).any()
    ]
