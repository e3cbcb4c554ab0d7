"""How well a mask agrees with a reference: overlap, volume and surface distances on the native grid.

Regions follow the PROMISE12 challenge (Litjens et al. 2014, Medical Image Analysis 18(2):359): the whole gland, its
cranial third (base) and its caudal third (apex). The score is "PROMISE12-style", never the official one: the
challenge's own second-reader figures are not public in full, so they are a table here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from .errors import DatasetError
from .grids import describe_grid, same_grid
from .image_headers import shear_of
from .segmentation import bounding_box

REGIONS = ("whole", "base", "apex")
METRICS = ("dsc", "jaccard", "arvd_percent", "abd_mm", "hd95_mm")


@dataclass(frozen=True)
class RegionMetrics:
    """Agreement of a prediction with a reference in one region.

    Attributes:
        dsc: Dice similarity coefficient, in [0, 1].
        jaccard: intersection over union, in [0, 1].
        arvd_percent: absolute relative volume difference, 100 * abs(Vp / Vr - 1).
        abd_mm: mean distance of the points of both surfaces, pooled, to the nearest point of the other surface.
        hd95_mm: the larger of the two directed 95th percentiles of these distances (linear interpolation).

    Empty masks are defined so: nothing to find and nothing found is perfect (1, 1, 0, 0, 0); a missed region is
    (0, 0, 100, inf, inf); a region found where the reference has none is (0, 0, inf, inf, inf).
    """

    dsc: float
    jaccard: float
    arvd_percent: float
    abd_mm: float
    hd95_mm: float


@dataclass(frozen=True)
class SecondReader:
    """The mean agreement of a second human reader with the first, worth 85 points in each metric."""

    dsc_percent: float
    arvd_percent: float
    abd_mm: float
    hd95_mm: float


# Measured on two Prostate158 cases that two readers segmented.
SECOND_READER: Mapping[str, SecondReader] = {
    "whole": SecondReader(89.1, 10.2, 1.18, 3.62),
    "base": SecondReader(84.1, 9.1, 0.75, 3.36),
    "apex": SecondReader(84.1, 23.8, 0.65, 3.89),
}


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Dice of two bool arrays, in [0, 1]; 1 when both are empty."""
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else 1.0


def dice_of(one: sitk.Image, other: sitk.Image) -> float:
    """Dice of two masks on one grid, 0 outside and anything else inside."""
    return dice(*(sitk.GetArrayViewFromImage(mask) != 0 for mask in (one, other)))


def compare_masks(prediction: sitk.Image, reference: sitk.Image) -> dict[str, RegionMetrics]:
    """Compare two masks on one grid: whole gland, base and apex, distances in mm.

    The n slices between the reference's first and last one are split at round(n/3) and round(2n/3) along the
    acquired axis nearest to the patient's cranio-caudal one, whichever array axis that is and whichever way it runs.
    Base is everything from the upper split cranially, apex everything below the lower split, beyond the reference's
    own slices too. A region's surface points are those of the whole surface inside it, and their distances go to the
    whole other surface, so the cut adds no surface. A surface voxel is a foreground voxel with a 6-neighbor outside;
    beyond the image counts as outside.

    Args:
        prediction, reference: 3D images, 0 outside and anything else inside, orthogonal directions.

    Returns:
        RegionMetrics for "whole", "base" and "apex".

    Raises:
        DatasetError: a mask is not a 3D scalar image, or the two lie on different grids.
    """
    check_same_grid(prediction, reference)
    predicted, expected, spacing = _crop_caudal_to_cranial(prediction, reference)
    if not (predicted.any() and expected.any()):
        return dict.fromkeys(REGIONS, _without_surfaces(int(predicted.sum()), int(expected.sum())))
    predicted_surface, expected_surface = _surface(predicted), _surface(expected)
    to_expected = _distances(predicted_surface, expected_surface, spacing)
    to_predicted = _distances(expected_surface, predicted_surface, spacing)
    predicted_slice, expected_slice = np.nonzero(predicted_surface)[0], np.nonzero(expected_surface)[0]
    metrics = {}
    for region, (first, last) in _slice_ranges(expected).items():
        metrics[region] = _region_metrics(
            predicted[first:last],
            expected[first:last],
            to_expected[(predicted_slice >= first) & (predicted_slice < last)],
            to_predicted[(expected_slice >= first) & (expected_slice < last)],
        )
    return metrics


def promise12_style_score(
    regions: Mapping[str, RegionMetrics], second_reader: Mapping[str, SecondReader] = SECOND_READER
) -> float:
    """Mean of the 12 metric scores (DSC, aRVD, ABD, 95HD for whole, base, apex), in [0, 100].

    Each is linear with 100 for perfect agreement and 85 for the second reader's mean, floored at 0. A region that only
    one of the two masks has scores 0 in all four.

    Args:
        regions: what compare_masks returns.
        second_reader: the agreement worth 85 points, for each region.

    Raises:
        DatasetError: the second reader is perfect (or better) in some metric, which leaves no scale.
    """
    scores = []
    for region in REGIONS:
        metrics, reader = regions[region], second_reader[region]
        pairs = (
            (100 - 100 * metrics.dsc, 100 - reader.dsc_percent),
            (metrics.arvd_percent, reader.arvd_percent),
            (metrics.abd_mm, reader.abd_mm),
            (metrics.hd95_mm, reader.hd95_mm),
        )
        if any(worth_85 <= 0 for _, worth_85 in pairs):
            raise DatasetError(
                f"The second reader's figures for {region} leave no scale: {reader}.",
                "Give a DSC below 100 % and an aRVD, ABD and 95HD above 0.",
            )
        missed = math.isinf(metrics.abd_mm)
        scores += [0.0 if missed else max(0.0, 100 - 15 * found / worth_85) for found, worth_85 in pairs]
    return float(np.mean(scores))


def check_same_grid(prediction: sitk.Image, reference: sitk.Image) -> None:
    """Raise DatasetError unless both are 3D scalar images whose voxels lie at the same places.

    Which places are the same is up to ``same_grid``.
    """
    for role, mask in (("prediction", prediction), ("reference", reference)):
        if mask.GetDimension() != 3 or mask.GetNumberOfComponentsPerPixel() != 1:
            raise DatasetError(
                f"The {role} has {mask.GetDimension()} dimensions and {mask.GetNumberOfComponentsPerPixel()} "
                "components a voxel.",
                "Masks are 3D images with one label value a voxel.",
            )
        if shear_of(mask.GetDirection()):
            raise DatasetError(f"The {role} has axes that are not orthogonal.", "Resample it on an orthogonal grid.")
    if not same_grid(prediction, reference):
        raise DatasetError(
            f"The prediction's grid ({describe_grid(prediction)}) is not the reference's ({describe_grid(reference)}).",
            "Compare masks of the same scan, or resample one onto the other's grid.",
        )


def _crop_caudal_to_cranial(
    prediction: sitk.Image, reference: sitk.Image
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Both masks as bool arrays, cut to what they occupy and padded by one voxel, with the spacing of their axes.

    The first axis runs from caudal to cranial; the other two keep their order.
    """
    predicted, expected = _foreground(prediction, "prediction"), _foreground(reference, "reference")
    occupied = bounding_box(predicted | expected) or (slice(0, 0),) * 3
    letters = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(reference.GetDirection())[::-1]
    cranio_caudal = next(axis for axis, letter in enumerate(letters) if letter in "SI")
    order = (cranio_caudal, *(axis for axis in range(3) if axis != cranio_caudal))

    def turned(mask: np.ndarray) -> np.ndarray:
        crop = np.pad(mask[occupied], 1).transpose(order)
        return np.ascontiguousarray(crop if letters[cranio_caudal] == "S" else crop[::-1])

    spacing = reference.GetSpacing()[::-1]
    return turned(predicted), turned(expected), tuple(spacing[axis] for axis in order)


def _foreground(mask: sitk.Image, role: str) -> np.ndarray:
    values = sitk.GetArrayViewFromImage(mask)
    if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
        raise DatasetError(f"The {role} holds values that are not numbers.", "Save it as a label image.")
    return values != 0


def _slice_ranges(expected: np.ndarray) -> dict[str, tuple[int, int]]:
    """First and past-the-last slice of each region, the array running from caudal to cranial."""
    occupied = np.flatnonzero(expected.any(axis=(1, 2)))
    first, count = int(occupied[0]), int(occupied[-1] - occupied[0] + 1)
    end = expected.shape[0]
    return {"whole": (0, end), "base": (first + round(2 * count / 3), end), "apex": (0, first + round(count / 3))}


def _surface(mask: np.ndarray) -> np.ndarray:
    """Foreground voxels with a 6-neighbor outside."""
    return mask & ~ndimage.binary_erosion(mask)


def _distances(points: np.ndarray, surface: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Exact distance in mm of every voxel of one surface (in array order) to the nearest voxel of the other.

    The Maurer map measures from voxels with a neighbor outside. Every surface voxel has one, thanks to the padding.
    """
    image = sitk.GetImageFromArray(surface.view(np.uint8))
    image.SetSpacing(spacing[::-1])
    squared = sitk.SignedMaurerDistanceMap(image, squaredDistance=True, useImageSpacing=True)
    distances = np.sqrt(np.abs(sitk.GetArrayViewFromImage(squared)[points].astype(np.float64)))
    distances[surface[points]] = 0  # the map rounds there, by some 1e-5 mm
    return distances


def _region_metrics(
    predicted: np.ndarray, expected: np.ndarray, to_expected: np.ndarray, to_predicted: np.ndarray
) -> RegionMetrics:
    predicted_voxels, expected_voxels = int(predicted.sum()), int(expected.sum())
    if not (predicted_voxels and expected_voxels):
        return _without_surfaces(predicted_voxels, expected_voxels)
    shared = int((predicted & expected).sum())
    return RegionMetrics(
        dsc=dice(predicted, expected),
        jaccard=shared / (predicted_voxels + expected_voxels - shared),
        arvd_percent=100 * abs(predicted_voxels / expected_voxels - 1),
        abd_mm=float(np.concatenate((to_expected, to_predicted)).mean()),
        hd95_mm=float(max(np.percentile(to_expected, 95), np.percentile(to_predicted, 95))),
    )


def _without_surfaces(predicted_voxels: int, expected_voxels: int) -> RegionMetrics:
    """The definition where at least one of the two is empty; see RegionMetrics."""
    if predicted_voxels == expected_voxels:
        return RegionMetrics(1.0, 1.0, 0.0, 0.0, 0.0)
    return RegionMetrics(0.0, 0.0, math.inf if predicted_voxels else 100.0, math.inf, math.inf)
