"""What an image file leaves open about its voxels and their place, told to whoever uses the mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .image_headers import says_orientation
from .nifti_headers import NIFTI, apart_mm, places_of, taken_place

FORMS_APART_MM = 0.5  # rounding leaves less
NO_ORIENTATION = "The file does not say the scan's orientation, so left and right are not known: check the sides."
CONTRADICTION = (
    "The file's qform and sform contradict each other by up to {apart:.3g} mm; the {taken} was taken: check the place."
)
NOT_NUMBERS = "{count} of {voxels} voxels are not numbers (NaN) and were read as 0."


def doubts_about_file(path: Path, image: sitk.Image) -> list[str]:
    """Sentences on what was assumed where a file is silent or contradicts itself; none for most files.

    Args:
        path: a file that ``read_image`` took. image: what it made of it.
    """
    if not path.name.lower().endswith(NIFTI):
        return [] if says_orientation(path) else [NO_ORIENTATION]
    doubts = []
    places = places_of(path)
    if not places:
        doubts.append(NO_ORIENTATION)
    elif len(places) == 2:
        doubts += _about_places(places, image)
    return doubts


def about_non_numbers(missing: int, voxels: int) -> list[str]:
    """A sentence on voxels that are not numbers, of so many."""
    return [NOT_NUMBERS.format(count=missing, voxels=voxels)] if missing else []


def _about_places(places: dict[str, np.ndarray], image: sitk.Image) -> list[str]:
    """Whether the two forms contradict each other, and which of them was taken."""
    apart = apart_mm(places["qform"], places["sform"], image.GetSize())
    taken = taken_place(places, image)
    return [CONTRADICTION.format(apart=apart, taken=taken)] if apart > FORMS_APART_MM else []
