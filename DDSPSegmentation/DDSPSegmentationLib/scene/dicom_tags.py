"""What DICOM says about a volume: tags of its first image, from the database or from the subject hierarchy."""

from __future__ import annotations

import re

import slicer

PATIENT_ID = "0010,0020"
MANUFACTURER = "0008,0070"
SCANNER_MODEL = "0008,1090"
FIELD_STRENGTH = "0018,0087"
# What anonymizers write instead of an ID; as a key it would make one patient of everybody.
_PLACEHOLDER = re.compile(r"[\W_]*|0+|.*anon.*|.*de-?ident.*|.*removed.*|unknown|none|n/?a|patient|test|x+", re.I)


def first_image_tag(volume_node: slicer.vtkMRMLScalarVolumeNode, tag: str) -> str:
    """A DICOM tag of the volume's first image, empty where the database does not know or cannot be asked."""
    uids = (volume_node.GetAttribute("DICOM.instanceUIDs") or "").split()
    database = getattr(slicer, "dicomDatabase", None)
    if not uids or database is None:
        return ""
    try:
        return str(database.instanceValue(uids[0], tag) or "").strip() if database.isOpen else ""
    except Exception:  # a database that fails in whatever way must not stand between a user and a scan
        return ""


def patient_key_of(volume_node: slicer.vtkMRMLScalarVolumeNode) -> str:
    """What tells the patient of a volume from all others; empty where DICOM does not tell.

    The key names the patient: it is never written anywhere, only a salted digest of it is. The issuer of the ID is
    left out: a scene without the database does not know it, and one patient must not become two, on both sides of
    the split.
    """
    patient = first_image_tag(volume_node, PATIENT_ID) or _patient_in_hierarchy(volume_node)
    return "" if _PLACEHOLDER.fullmatch(patient) else patient


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
