"""The answer for one scan: mask, probability, uncertainty and what is measured on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

EXPECTED_COLUMNS = ("expected_dice", "expected_dice_low", "expected_dice_high")
MOST_PSA = 5000  # ng/ml


class ExpectedDice(NamedTuple):
    """The Dice that an expert's mask would give, and the interval that held four of five unseen patients."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class GlandMeasurements:
    """Volume in ml and the three diameters in mm of a binary mask."""

    volume_ml: float
    left_right_mm: float
    antero_posterior_mm: float
    cranio_caudal_mm: float

    @property
    def ellipsoid_volume_ml(self) -> float:
        """Length x width x height x pi/6, as radiology reports use it."""
        return self.left_right_mm * self.antero_posterior_mm * self.cranio_caudal_mm * math.pi / 6000

    def as_row(self) -> dict[str, float]:
        """Volumes in ml and diameters in mm, rounded, for tables and CSV files."""
        return {
            "volume_ml": round(self.volume_ml, 2),
            "left_right_mm": round(self.left_right_mm, 1),
            "antero_posterior_mm": round(self.antero_posterior_mm, 1),
            "cranio_caudal_mm": round(self.cranio_caudal_mm, 1),
            "ellipsoid_volume_ml": round(self.ellipsoid_volume_ml, 2),
        }


def measure_gland(mask: sitk.Image) -> GlandMeasurements:
    """Measure a binary mask along the acquired axes nearest to left-right, antero-posterior and cranio-caudal.

    Args:
        mask: 3D image, 0 outside and anything else inside, spacing in mm.
    """
    oriented = sitk.DICOMOrient(mask, "LPS")
    inside = sitk.GetArrayViewFromImage(oriented) != 0
    spacing = oriented.GetSpacing()
    box = bounding_box(inside) or (slice(0, 0),) * 3
    extents = [(part.stop - part.start) * step for part, step in zip(box[::-1], spacing, strict=True)]
    return GlandMeasurements(float(inside.sum()) * math.prod(spacing) / 1000, *extents)


def psa_density(psa: float, volume_ml: float) -> float | None:
    """PSA divided by the gland's volume, in ng/ml per ml; ``None`` without both."""
    return psa / volume_ml if psa > 0 and volume_ml > 0 else None


def bounding_box(inside: np.ndarray) -> tuple[slice, ...] | None:
    """The smallest box (z, y, x) that holds all of a mask of bool; None for an empty mask."""
    return ndimage.find_objects(inside.astype(np.uint8), max_label=1)[0]


def connected_parts(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Separate parts of a mask: voxels that share a face are connected, as Islands in Slicer's Segment Editor counts.

    Args:
        inside: bool (z, y, x).

    Returns:
        The number of each voxel's part, 1 for the largest, 0 outside, and the voxels of each part.
    """
    parts = sitk.ConnectedComponent(sitk.GetImageFromArray(inside.astype(np.uint8)))
    labels = sitk.GetArrayFromImage(sitk.RelabelComponent(parts))
    return labels, np.bincount(labels.ravel())[1:]


def acquired_axis(spacing: Sequence[float]) -> int:
    """Array axis (0, 1, 2 for z, y, x) along which the slices were acquired: the coarsest; z when all are alike.

    Args:
        spacing: mm (x, y, z).
    """
    return int(np.argmax(np.round(spacing[::-1], 3)))


def _expected(said: Segmentation) -> dict[str, float | str]:
    """The expected Dice and the ends of its interval, empty where none is known."""
    if said.expected_dice is None:
        return dict.fromkeys(EXPECTED_COLUMNS, "")
    return {name: round(number, 3) for name, number in zip(EXPECTED_COLUMNS, said.expected_dice, strict=True)}


def network_row(said: Segmentation, seconds: float) -> dict[str, float | str]:
    """What the network said, as columns of tables and CSV files.

    Args:
        said: a Segmentation, or whatever kept these attributes of one.
    """
    return {
        **_expected(said),
        "warnings": " ".join(said.warnings),
        "notices": " ".join(said.notices),
        "model_version": said.model_version,
        "mode": said.mode,
        "bias_field": said.bias_field,
        "device": said.device,
        "seconds": round(seconds, 2),
    }


@dataclass
class Segmentation:
    """Everything the engine says about one scan; all images lie on the input's own grid.

    Attributes:
        mask: uint8, 1 inside the prostate.
        probability: float32 in [0, 1], the fused probability.
        uncertainty: float32 in [0, 1], entropy of the fused probability and disagreement of the branches.
        measurements: volume and diameters of ``mask``.
        expected_dice: what to expect of the Dice with an expert's mask; ``None`` where the version, its mode or the
            threshold was not calibrated.
        features: what it rests on, see ``confidence.pair_features``; ``None`` for a single network.
        slice_doubts: for each acquired slice (see ``acquired_axis``) how much of it is expected to be wrong, as
            a share of the gland's largest cross-section; ``None`` where there is no gland.
        warnings: sentences a radiologist should read before trusting the mask.
        notices: sentences about how it was computed (for instance a fall-back to the CPU).
        seconds: seconds per phase; ``peak_memory_mb``: the process's peak per phase.
        model_version, model_sha256: which weights answered.
        mode, threshold, bias_field, device, precision: how they were asked.
    """

    mask: sitk.Image
    probability: sitk.Image
    uncertainty: sitk.Image
    measurements: GlandMeasurements
    expected_dice: ExpectedDice | None
    features: list[float] | None
    slice_doubts: list[float | None]
    warnings: list[str]
    notices: list[str]
    seconds: dict[str, float]
    peak_memory_mb: dict[str, float]
    model_version: str
    model_sha256: str
    mode: str
    threshold: float
    bias_field: str
    device: str
    precision: str

    def as_row(self) -> dict[str, float | str]:
        """The measurements as one flat row, for tables and CSV files."""
        return {**self.measurements.as_row(), **network_row(self, sum(self.seconds.values()))}
