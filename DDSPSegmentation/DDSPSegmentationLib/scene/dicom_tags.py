"""What DICOM says about a volume: tags of its first image, from the database or from the subject hierarchy."""

from __future__ import annotations

import logging

import slicer
from slicer.i18n import tr as _

from ..learning.case_index import known_patient

PATIENT_ID = "0010,0020"
MANUFACTURER = "0008,0070"
SCANNER_MODEL = "0008,1090"
FIELD_STRENGTH = "0018,0087"
_told: set[str] = set()


def first_image_tag(volume_node: slicer.vtkMRMLScalarVolumeNode, tag: str) -> str:
    """A DICOM tag of the volume's first image; empty where the database does not know it, or cannot be asked.

    A database that fails must not stand between a user and a scan: the log says why, once.
    """
    value, trouble = _asked(volume_node, tag)
    if trouble and trouble not in _told:
        _told.add(trouble)
        logging.warning(trouble)
    return value


def database_trouble(volume_node: slicer.vtkMRMLScalarVolumeNode) -> str:
    """Why the DICOM database cannot be asked about a volume, as a sentence; "" where it can, or need not be."""
    return _asked(volume_node, PATIENT_ID)[1]


def _asked(volume_node: slicer.vtkMRMLScalarVolumeNode, tag: str) -> tuple[str, str]:
    """The value of a tag, and why it cannot be told."""
    uids = (volume_node.GetAttribute("DICOM.instanceUIDs") or "").split()
    database = getattr(slicer, "dicomDatabase", None)
    if not uids or database is None:
        return "", ""
    try:
        return str(database.instanceValue(uids[0], tag) or "").strip() if database.isOpen else "", ""
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
        return "", _("The DICOM database cannot be asked about this scan ({error}).").format(error=found)


def patient_key_of(volume_node: slicer.vtkMRMLScalarVolumeNode) -> str:
    """What tells the patient of a volume from all others; empty where DICOM does not tell, see ``known_patient``.

    The key names the patient: it is never written anywhere, only a salted digest of it is. The issuer of the ID is
    left out: a scene without the database does not know it, and one patient must not become two, on both sides of
    the split.
    """
    return known_patient(first_image_tag(volume_node, PATIENT_ID)) or known_patient(_patient_in_hierarchy(volume_node))


def scanner_of(volume_node: slicer.vtkMRMLScalarVolumeNode) -> str:
    """Manufacturer, model and field strength of the scanner, as far as DICOM tells them."""
    strength = first_image_tag(volume_node, FIELD_STRENGTH)
    parts = (
        first_image_tag(volume_node, MANUFACTURER),
        first_image_tag(volume_node, SCANNER_MODEL),
        f"{strength} T" if strength else "",
    )
    return " ".join(part for part in parts if part)


def _patient_in_hierarchy(volume_node: slicer.vtkMRMLScalarVolumeNode) -> str:
    """A scene keeps it when the database is on another computer."""
    constants = slicer.vtkMRMLSubjectHierarchyConstants
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(volume_node) if hierarchy is not None else 0
    if not item:
        return ""
    name = constants.GetDICOMPatientIDAttributeName()
    return hierarchy.GetAttributeFromItemAncestor(item, name, constants.GetDICOMLevelPatient()).strip()
