"""From a probability to a mask: the largest part above a threshold, and what has to be said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import SimpleITK as sitk

from .images import about_small_view
from .quality import NOT_AXIAL, NOT_CALIBRATED, SOME_SEE_NONE, find_warnings, slice_doubts
from .segmentation import Segmentation, acquired_axis, bounding_box, connected_parts, measure_gland


def at_threshold(found: Segmentation, threshold: float) -> Segmentation:
    """The answer that another threshold would have given; the networks need not look again.

    Args:
        threshold: probability, in (0, 1), from which a voxel counts as prostate.

    Returns:
        An answer without an expected Dice, unless the threshold is that of ``found``.
    """
    if threshold == found.threshold:
        return found
    probability = sitk.GetArrayViewFromImage(found.probability)
    inside, shares = largest_component(probability > threshold)
    mask = sitk.GetImageFromArray(inside.astype(np.uint8))
    mask.CopyInformation(found.mask)
    measurements = measure_gland(mask)
    sides = touched_sides(sitk.GetArrayFromImage(sitk.DICOMOrient(mask, "LPS")) != 0)
    of_the_scan = [
        warning for warning in found.warnings if warning in (NOT_AXIAL, SOME_SEE_NONE, *about_small_view(mask))
    ]
    uncalibrated = NOT_CALIBRATED.format(what=f"the threshold {threshold:g}")
    values = {field.name: getattr(found, field.name) for field in fields(Segmentation)}
    values |= {
        "mask": mask,
        "measurements": measurements,
        "expected_dice": None,
        "features": None,
        "slice_doubts": slice_doubts(inside, probability, acquired_axis(mask.GetSpacing())),
        "warnings": of_the_scan + find_warnings(measurements.volume_ml, sides, shares, None),
        "notices": ([uncalibrated] if found.expected_dice is not None else []) + found.notices,
        "threshold": threshold,
    }
    return Segmentation(**values)


def largest_component(inside: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Largest part (see ``connected_parts``) with its holes filled, and the sizes of the others relative to it.

    Args:
        inside: bool (z, y, x).
    """
    if not inside.any():
        return inside, []
    box = _box_around(inside, margin=(1, 1, 1))
    labels, counts = connected_parts(inside[box])
    filled = sitk.BinaryFillhole(sitk.GetImageFromArray((labels == 1).astype(np.uint8)))
    result = np.zeros_like(inside)
    result[box] = sitk.GetArrayViewFromImage(filled) != 0
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
