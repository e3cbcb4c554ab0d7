"""The door of the case library: what is refused and what is worth a second look, before a case is stored."""

from __future__ import annotations

import math

import numpy as np
import SimpleITK as sitk

from ..engine.errors import DatasetError, InputError
from ..engine.grids import on_grid
from ..engine.images import check_image
from ..engine.metrics import dice_of
from ..engine.quality import unusual_volume
from ..engine.segmentation import connected_parts

POSSIBLE_VOLUME_ML = (5.0, 500.0)
SECOND_GLAND = 0.1  # of the largest part's volume
# Of 40 PROMISE12 cases from four centers none lies farther off the middle than 8, 21 and 16 mm.
USUAL_OFFSET_MM = {"left-right": 12.0, "antero-posterior": 30.0, "cranio-caudal": 25.0}
LITTLE_IN_COMMON = 0.5
NAME = "of this case"


def check_case(
    image: sitk.Image, mask: sitk.Image, prediction: sitk.Image | None = None
) -> tuple[sitk.Image, sitk.Image | None, float | None, list[str]]:
    """Refuse what must never be trained on, and say what the radiologist should look at again.

    Args:
        image: the T2 scan.
        mask: any value but 0 is prostate (zones are merged); on the scan's grid, see ``on_grid``.
        prediction: the network's mask on the same grid.

    Returns:
        mask and prediction as 0 and 1 (uint8) exactly on the scan's grid, the Dice between them (None without a
        prediction), and warnings.

    Raises:
        DatasetError: not an MR scan of the prostate, another geometry, an empty mask, several glands or an
            implausible volume.
    """
    try:
        check_image(image, NAME)
    except InputError as error:
        raise DatasetError(error.cause, error.next_step) from error
    mask = on_grid(mask, image, "mask")
    warnings = check_mask(mask)
    if prediction is None:
        return mask, None, None, warnings
    prediction = on_grid(prediction, image, "prediction")
    dice = dice_of(mask, prediction)
    if dice < LITTLE_IN_COMMON and sitk.GetArrayViewFromImage(prediction).any():
        warnings.append(
            f"The correction has little in common with the network's contour (Dice {dice:.2f}). "
            "Check that it was not shifted or flipped and belongs to this scan."
        )
    return mask, prediction, dice, warnings


def check_mask(mask: sitk.Image) -> list[str]:
    """Warnings about a binary mask.

    Raises:
        DatasetError: it is empty, has several large parts, or a volume no prostate has.
    """
    inside = sitk.GetArrayViewFromImage(mask) != 0
    if not inside.any():
        raise DatasetError("The mask is empty.", "Draw the prostate first.")
    volumes = connected_parts(inside)[1] * math.prod(mask.GetSpacing()) / 1000
    shown = " and ".join(f"{volume:.1f}" for volume in volumes[:2])
    if volumes.size > 1 and volumes[1] > SECOND_GLAND * volumes[0]:
        raise DatasetError(
            f"The mask has {volumes.size} separate parts, the two largest of {shown} ml; a gland is one part.",
            "Join them or remove what is not prostate (Islands in the Segment Editor).",
        )
    total = float(volumes.sum())
    if not POSSIBLE_VOLUME_ML[0] <= total <= POSSIBLE_VOLUME_ML[1]:
        raise DatasetError(
            f"The mask has a volume of {total:.1f} ml; a prostate has {POSSIBLE_VOLUME_ML[0]:.0f} to "
            f"{POSSIBLE_VOLUME_ML[1]:.0f} ml.",
            "Draw the whole prostate and check the scan's voxel spacing.",
        )
    warnings = []
    if volumes.size > 1:
        count = f"{volumes.size - 1} speck{'s' if volumes.size > 2 else ''}"
        warnings.append(
            f"The mask has {count} apart from the gland, the largest of {volumes[1]:.2f} ml. "
            "Remove what is not prostate (Islands in the Segment Editor)."
        )
    warnings += unusual_volume(total)
    edges = [np.take(inside, index, axis).any() for axis in range(3) for index in (0, -1)]
    if any(edges):
        warnings.append("The mask touches the edge of the scan; part of the gland may be missing.")
    return warnings + _far_off(mask, inside)


def _far_off(mask: sitk.Image, inside: np.ndarray) -> list[str]:
    """A gland far from the middle of the scan: the scan is planned on the gland, so this is rare."""
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(mask.GetDirection())
    named = {"R": "left-right", "L": "left-right", "A": "antero-posterior", "P": "antero-posterior"}
    warnings = []
    middle = np.argwhere(inside).mean(axis=0)[::-1]
    for letter, step, size, place in zip(code, mask.GetSpacing(), mask.GetSize(), middle, strict=True):
        offset = abs(float(place) - (size - 1) / 2) * step
        direction = named.get(letter, "cranio-caudal")
        if offset > USUAL_OFFSET_MM[direction]:
            warnings.append(
                f"The gland lies {offset:.0f} mm off the middle of the scan ({direction}), which is unusual. "
                "Check that the mask was not shifted or flipped."
            )
    return warnings
