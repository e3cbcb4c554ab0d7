"""A scan and its mask on their way into the case library: checked, and hashed so that they are known again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import SimpleITK as sitk

from ..engine.images import read_mask
from ..engine.scan_identity import ScanIdentity
from .case_checks import check_case
from .case_records import Revision, StoredCase
from .patients import Patients

STATES = {True: "corrected", False: "unedited"}  # of a mask, by whether a person edited it


@dataclass(frozen=True)
class Admitted:
    """A mask that has passed the door; ``draft`` is its revision but for number, date and file."""

    mask: sitk.Image
    prediction: sitk.Image | None
    draft: Revision
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Scan:
    """A scan with what its bringer says about it; ``CaseLibrary.add`` explains the words."""

    image: sitk.Image
    patient_key: str = ""
    label: str = ""
    scanner: str = ""
    source_name: str = ""
    same_patient_as: str = ""

    @cached_property
    def identity(self) -> ScanIdentity:
        return ScanIdentity(self.image)

    def content(self, patients: Patients) -> str:
        """A salted hash of size, spacing and values, whatever type the values are kept in."""
        return patients.content_of(self.identity.digest)


def admit(
    image: sitk.Image,
    mask: sitk.Image,
    prediction: sitk.Image | None,
    state: str,
    model_version: str = "",
    model_sha256: str = "",
    note: str = "",
) -> Admitted:
    """Let a mask through the door, see ``check_case``. Raises DatasetError."""
    mask, prediction, dice, warnings = check_case(image, mask, prediction)
    dice = None if dice is None else round(dice, 4)
    draft = Revision(0, "", state, model_version, model_sha256, dice, note, "")
    return Admitted(mask, prediction, draft, tuple(warnings))


def placed_as(case: StoredCase, admitted: Admitted) -> Admitted:
    """The masks where the case's scan was stored; the same voxels may have been moved since, as by registration."""
    place = read_mask(case.mask_path)
    for mask in filter(None, (admitted.mask, admitted.prediction)):
        mask.CopyInformation(place)
    return admitted


def same_mask(case: StoredCase, mask: sitk.Image) -> bool:
    """Whether a mask of a case, the newest or an earlier one, has the same voxels."""
    inside = sitk.GetArrayViewFromImage(mask) != 0
    stored = (read_mask(case.mask_path_of(revision.number)) for revision in reversed(case.revisions))
    return any(np.array_equal(sitk.GetArrayViewFromImage(one) != 0, inside) for one in stored)
