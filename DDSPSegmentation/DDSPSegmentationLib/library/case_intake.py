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


@dataclass
class NewCase:
    """A scan and a mask that have passed the door, with what their bringer says about them.

    Attributes:
        image, mask, prediction: see ``check_case``.
        model_version, model_sha256: what made the prediction.
        edited: whether a person changed the prediction; None for a mask that was imported.
        note: the radiologist's own words; label: a person's own name for the case. Both stay in the library's folder.
        patient_key: what tells patients apart, for instance the DICOM PatientID; only a salted hash of it is kept.
            Without it the scan itself stands for the patient.
        same_patient_as: id of a case whose patient this is, where a person knows it; the split is that patient's.
        source_name: the case's name where it was imported from.

    Raises:
        DatasetError: see ``check_case``.
    """

    image: sitk.Image
    mask: sitk.Image
    prediction: sitk.Image | None = None
    model_version: str = ""
    model_sha256: str = ""
    edited: bool | None = True
    note: str = ""
    label: str = ""
    patient_key: str = ""
    scanner: str = ""
    source_name: str = ""
    same_patient_as: str = ""

    def __post_init__(self) -> None:
        self.mask, self.prediction, self.dice, self.warnings = check_case(self.image, self.mask, self.prediction)

    @cached_property
    def identity(self) -> ScanIdentity:
        return ScanIdentity(self.image)

    def content(self, patients: Patients) -> str:
        """A salted hash of size, spacing and values, whatever type the values are kept in."""
        return patients.content_of(self.identity.digest)

    def revision(self, number: int, date: str, mask_sha256: str) -> Revision:
        state = "imported" if self.edited is None else "corrected" if self.edited else "unedited"
        dice = None if self.dice is None else round(self.dice, 4)
        return Revision(number, date, state, self.model_version, self.model_sha256, dice, self.note, mask_sha256)

    def place_as(self, case: StoredCase) -> None:
        """Put the masks where the case's scan was stored; the voxels may have been moved since, as by registration."""
        place = read_mask(case.mask_path)
        for mask in filter(None, (self.mask, self.prediction)):
            mask.CopyInformation(place)

    def is_known_to(self, case: StoredCase) -> bool:
        """Whether a mask of the case, the newest or an earlier one, has the same voxels."""
        inside = sitk.GetArrayViewFromImage(self.mask) != 0
        stored = (read_mask(case.mask_path_of(revision.number)) for revision in reversed(case.revisions))
        return any(np.array_equal(sitk.GetArrayViewFromImage(one) != 0, inside) for one in stored)
