"""What a result's nodes carry: how it was made, the network's own contour, the PSA, and the table of measurements.

Everything lies on the segmentation node, so that it is saved with the scene and never stands beside another volume.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import zlib
from dataclasses import asdict, dataclass

import numpy as np
import SimpleITK as sitk
import slicer
import vtk

from .. import __version__
from ..engine.quality import NO_EXPECTED_DICE, NOT_CALIBRATED, review_rank, verdict
from ..engine.segmentation import (
    EXPECTED_COLUMNS,
    ExpectedDice,
    GlandMeasurements,
    Segmentation,
    measure_gland,
    network_row,
    psa_density,
)
from .conversion import has_voxel_size_of, ijk_to_ras, mask_image, read_segment

ATTRIBUTE_PREFIX = "DDSPSegmentation."
# References, unlike node IDs in attributes, follow their node when a scene is appended to another.
VOLUME_ROLE = ATTRIBUTE_PREFIX + "Volume"
SEGMENTATION_ROLE = ATTRIBUTE_PREFIX + "Segmentation"


@dataclass(frozen=True)
class NetworkFacts:
    """What the network said about a result when it made it; an edit of the contour does not change it.

    Attributes:
        expected_dice: ``None`` where there is none; ``slice_doubts``: one value an acquired slice, ``None`` where there
            is no gland.
        seconds: from the scan to the mask.
    """

    expected_dice: ExpectedDice | None
    slice_doubts: list[float | None]
    warnings: list[str]
    notices: list[str]
    model_version: str
    mode: str
    bias_field: str
    device: str
    threshold: float
    seconds: float

    @property
    def word(self) -> str:
        """See ``quality.verdict``."""
        return verdict(self.expected_dice and self.expected_dice.value, self.warnings)

    @property
    def review_rank(self) -> tuple[int, float]:
        """See ``quality.review_rank``."""
        return review_rank(self.expected_dice and self.expected_dice.value, self.warnings)

    @property
    def why_no_expected_dice(self) -> str:
        """The notice that says so; empty where the version, its mode and the threshold were calibrated."""
        return next((notice for notice in self.notices if notice.startswith(NO_EXPECTED_DICE)), "")


def write_facts(
    segmentation: Segmentation,
    segment_id: str,
    node: slicer.vtkMRMLSegmentationNode,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
) -> None:
    """Note on a segmentation node how its segment was made and from which volume."""
    mask = sitk.GetArrayViewFromImage(segmentation.mask)
    write_origin(mask, segment_id, node, volume_node, segmentation.model_version, segmentation.model_sha256)
    said = {name: getattr(segmentation, name) for name in NetworkFacts.__dataclass_fields__ if name != "seconds"}
    note_facts(NetworkFacts(**said, seconds=round(sum(segmentation.seconds.values()), 2)), node)


def note_facts(facts: NetworkFacts, node: slicer.vtkMRMLSegmentationNode) -> None:
    """Note on a result what the network said about its own contour."""
    for name, value in (
        ("NetworkFacts", json.dumps(asdict(facts))),
        ("Mode", facts.mode),
        ("Threshold", f"{facts.threshold:g}"),
    ):
        node.SetAttribute(ATTRIBUTE_PREFIX + name, value)


def write_origin(
    mask: np.ndarray | None,
    segment_id: str,
    node: slicer.vtkMRMLSegmentationNode,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
    model_version: str,
    model_sha256: str,
) -> None:
    """Note on a segmentation node which volume its segment belongs to and what the network's own contour was.

    Args:
        mask: the network's contour (z,y,x) on the volume's grid; ``None`` where no network drew one.
    """
    if volume_of(node) is not volume_node:
        forget_case(node)
    node.SetNodeReferenceID(VOLUME_ROLE, volume_node.GetID())
    for name, value in (
        ("SegmentID", segment_id),
        ("MaskSHA256", None if mask is None else _fingerprint(mask)),
        ("MaskSize", _size(volume_node.GetImageData().GetDimensions())),
        ("NetworkMask", None if mask is None else _packed(mask)),
        ("ModelVersion", model_version),
        ("ModelSHA256", model_sha256),
    ):
        node.SetAttribute(ATTRIBUTE_PREFIX + name, value)
    note_place(node, volume_node)


def facts_of(node: slicer.vtkMRMLSegmentationNode) -> NetworkFacts | None:
    """What the network said about a result; ``None`` for a node that holds none, or one that cannot be read."""
    try:
        said = json.loads(_attribute(node, "NetworkFacts"))
        expected = said["expected_dice"]
        if isinstance(expected, (int, float)):  # of an old scene; it knew nothing of single scans
            said["notices"].append(NOT_CALIBRATED.format(what=f"version '{said['model_version']}'"))
            expected = None
        return NetworkFacts(**{**said, "expected_dice": expected and ExpectedDice(*map(float, expected))})
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def volume_of(node: slicer.vtkMRMLSegmentationNode) -> slicer.vtkMRMLScalarVolumeNode | None:
    """The volume that a result was computed on."""
    return node.GetNodeReference(VOLUME_ROLE)


def note_place(node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Keep where the volume is while the contour lies on it, see ``together``."""
    numbers = " ".join(f"{number:.9g}" for number in ijk_to_ras(volume_node).ravel())
    node.SetAttribute(ATTRIBUTE_PREFIX + "PlacedOn", numbers)


def placed_on(node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLScalarVolumeNode) -> np.ndarray:
    """The volume's matrix from voxels to its own RAS coordinates (4 x 4) when the contour was placed on it.

    A result of an old scene does not say; it is taken to have been placed on the volume as it is now.
    """
    numbers = _attribute(node, "PlacedOn").split()
    return np.array(numbers, float).reshape(4, 4) if len(numbers) == 16 else ijk_to_ras(volume_node)


def own_segment_id(node: slicer.vtkMRMLSegmentationNode) -> str:
    """ID of the segment that was computed; empty when there is none any more."""
    segment_id = _attribute(node, "SegmentID")
    return segment_id if segment_id and node.GetSegmentation().GetSegment(segment_id) is not None else ""


def results_in_scene() -> list[slicer.vtkMRMLSegmentationNode]:
    """Every segmentation that was made of a volume, of whichever and with its segment or without, the latest first."""
    nodes = reversed(slicer.util.getNodesByClass("vtkMRMLSegmentationNode"))
    return [node for node in nodes if node.GetNodeReferenceID(VOLUME_ROLE)]


def all_results() -> list[slicer.vtkMRMLSegmentationNode]:
    """Every result in the scene that still has its segment, of whatever volume, the latest first."""
    return [node for node in results_in_scene() if own_segment_id(node)]


def results_of(volume_node: slicer.vtkMRMLScalarVolumeNode | None) -> list[slicer.vtkMRMLSegmentationNode]:
    """Every result that was computed on a volume and still has its segment, the latest first.

    A volume that was cropped or resampled in place since has none: their figures are not its own.
    """
    if volume_node is None or volume_node.GetImageData() is None:
        return []
    size = _size(volume_node.GetImageData().GetDimensions())
    return [
        node for node in all_results() if volume_of(node) is volume_node and _attribute(node, "MaskSize") in ("", size)
    ]


def is_edited(node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLScalarVolumeNode) -> bool:
    """True when the contour that was computed for this volume has other voxels by now, or voxels of another size.

    Moving the volume or the contour by a transform is no edit, hardened or not.
    """
    segment_id, computed = own_segment_id(node), _attribute(node, "MaskSHA256")
    if not has_voxel_size_of(node, segment_id, volume_node):
        return True
    if _fingerprint(read_segment(node, segment_id, volume_node, ignore_transforms=True)) == computed:
        return False
    apart = node.GetParentTransformNode() is not volume_node.GetParentTransformNode()
    return not (apart and _fingerprint(read_segment(node, segment_id, volume_node)) == computed)


def say_who_drew(node: slicer.vtkMRMLSegmentationNode, edited: bool) -> None:
    """Mark the segment as drawn by the network alone, or by somebody on top of it; every export carries these tags.

    An imported contour keeps what its author said.
    """
    if is_imported(node):
        return
    segment = node.GetSegmentation().GetSegment(own_segment_id(node))
    for name, value in (
        ("DICOM.SegmentAlgorithmType", "SEMIAUTOMATIC" if edited else "AUTOMATIC"),
        ("DICOM.SegmentAlgorithmName", f"DDSPSegmentation {__version__}"),
    ):
        written = vtk.reference("")
        if segment is not None and not (segment.GetTag(name, written) and str(written) == value):
            segment.SetTag(name, value)


def forget_network(node: slicer.vtkMRMLSegmentationNode) -> None:
    """Nothing that a network or somebody said of another contour, or of another patient, stays with a node."""
    for name in ("NetworkFacts", "Mode", "Threshold", "PSA"):
        node.RemoveAttribute(ATTRIBUTE_PREFIX + name)


def is_imported(node: slicer.vtkMRMLSegmentationNode) -> bool:
    """Whether no network drew the contour: it came with a case, or from a file."""
    return not _attribute(node, "MaskSHA256")


def network_mask(
    node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLScalarVolumeNode
) -> np.ndarray | None:
    """The contour as the network made it, uint8 (z, y, x) on the volume's grid; ``None`` when it is not known."""
    shape = volume_node.GetImageData().GetDimensions()[::-1]
    try:
        bits = np.frombuffer(zlib.decompress(base64.b64decode(_attribute(node, "NetworkMask"))), np.uint8)
        mask = np.unpackbits(bits, count=math.prod(shape)).reshape(shape)
    except (ValueError, zlib.error):
        return None
    return mask if _fingerprint(mask) == _attribute(node, "MaskSHA256") else None


def measure(node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLScalarVolumeNode) -> GlandMeasurements:
    """Volume in ml and diameters in mm of the contour as it is now."""
    return measure_gland(mask_image(read_segment(node, own_segment_id(node), volume_node), volume_node))


def model_of(node: slicer.vtkMRMLSegmentationNode) -> tuple[str, str]:
    """Version and SHA-256 of the model that drew the network's contour; empty where none did."""
    return _attribute(node, "ModelVersion"), _attribute(node, "ModelSHA256")


def note_case(node: slicer.vtkMRMLSegmentationNode, case_id: str, mask: np.ndarray) -> None:
    """Note on a result which case of the library holds it, and the contour (z,y,x) that was stored."""
    node.SetAttribute(ATTRIBUTE_PREFIX + "CaseID", case_id)
    node.SetAttribute(ATTRIBUTE_PREFIX + "CaseMaskSHA256", _fingerprint(mask))


def forget_case(node: slicer.vtkMRMLSegmentationNode) -> None:
    """A result is no longer, or not yet, a case of the library."""
    for name in ("CaseID", "CaseMaskSHA256", "CaseNote"):
        node.RemoveAttribute(ATTRIBUTE_PREFIX + name)


def case_of(node: slicer.vtkMRMLSegmentationNode) -> str:
    """ID of the case that holds a result, empty when none does; it begins with the ID of its library."""
    return _attribute(node, "CaseID")


def case_note_of(node: slicer.vtkMRMLSegmentationNode) -> str:
    """What the user wrote about the case that a result is or may become."""
    return _attribute(node, "CaseNote")


def set_case_note(node: slicer.vtkMRMLSegmentationNode, text: str) -> None:
    """Keep what the user wrote about a case with its result; an empty text removes it."""
    node.SetAttribute(ATTRIBUTE_PREFIX + "CaseNote", text or None)


def differs_from_case(node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLScalarVolumeNode) -> bool:
    """Whether the contour is another one by now than the one that was stored as a case."""
    return _fingerprint(read_segment(node, own_segment_id(node), volume_node)) != _attribute(node, "CaseMaskSHA256")


def note_file(node: slicer.vtkMRMLSegmentationNode, mask: np.ndarray) -> None:
    """Note on a result the contour (z,y,x) that it was read from a file with."""
    node.SetAttribute(ATTRIBUTE_PREFIX + "FileMaskSHA256", _fingerprint(mask))


def differs_from_file(node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLScalarVolumeNode) -> bool:
    """Whether the contour is another one by now than in the file that it was read from, or never was in one."""
    return _fingerprint(read_segment(node, own_segment_id(node), volume_node)) != _attribute(node, "FileMaskSHA256")


def psa_of(node: slicer.vtkMRMLSegmentationNode) -> float:
    """The patient's PSA in ng/ml as noted with a result; 0 when none was."""
    return float(_attribute(node, "PSA") or 0)


def set_psa(node: slicer.vtkMRMLSegmentationNode, psa: float) -> None:
    """Note the patient's PSA in ng/ml with a result; 0 removes it."""
    node.SetAttribute(ATTRIBUTE_PREFIX + "PSA", f"{psa:g}" if psa > 0 else None)


def current_row(
    node: slicer.vtkMRMLSegmentationNode, measurements: GlandMeasurements, edited: bool
) -> dict[str, float | str]:
    """The figures of a result as one flat row; what the network said keeps its own name once the contour was edited.

    A number that is not known is NaN, so that its column has the type of a number in every table.
    """
    facts, psa = facts_of(node), psa_of(node)
    row = {
        **measurements.as_row(),
        "contour": "imported" if is_imported(node) else "corrected" if edited else "network",
        "psa_ng_per_ml": psa,
        "psa_density": round(psa_density(psa, measurements.volume_ml) or 0.0, 3),
    }
    if facts is not None:
        row |= {**network_row(facts, facts.seconds), "threshold": facts.threshold}
        row |= {name: math.nan for name in EXPECTED_COLUMNS if row[name] == ""}
    return row


def add_table(
    node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLScalarVolumeNode
) -> slicer.vtkMRMLTableNode:
    """A new table for the figures of a result."""
    table_node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", f"{node.GetName()} measurements")
    table_node.SetNodeReferenceID(SEGMENTATION_ROLE, node.GetID())
    table_node.SetNodeReferenceID(VOLUME_ROLE, volume_node.GetID())
    return table_node


def write_row(row: dict[str, float | str], table_node: slicer.vtkMRMLTableNode) -> None:
    """Replace what a table holds by one row; texts and numbers keep their types."""
    table_node.RemoveAllColumns()
    for name, value in row.items():
        column = vtk.vtkStringArray() if isinstance(value, str) else vtk.vtkDoubleArray()
        column.SetName(name)
        column.InsertNextValue(value)
        table_node.AddColumn(column)
    table_node.SetUseColumnTitleAsColumnHeader(True)
    table_node.SetLocked(True)


def table_of(
    node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLScalarVolumeNode
) -> slicer.vtkMRMLTableNode | None:
    """The table of measurements of a result."""
    wanted = [node, volume_node]
    for table_node in slicer.util.getNodesByClass("vtkMRMLTableNode"):
        if [table_node.GetNodeReference(role) for role in (SEGMENTATION_ROLE, VOLUME_ROLE)] == wanted:
            return table_node
    return None


def _attribute(node: slicer.vtkMRMLNode, name: str) -> str:
    return node.GetAttribute(ATTRIBUTE_PREFIX + name) or ""


def _size(dimensions: tuple[int, ...]) -> str:
    return " ".join(str(number) for number in dimensions)


def _packed(mask: np.ndarray) -> str:
    """A mask as text of some kilobytes."""
    return base64.b64encode(zlib.compress(np.packbits(mask != 0).tobytes())).decode("ascii")


def _fingerprint(mask: np.ndarray) -> str:
    """SHA-256 over the size and the voxels of a mask, whatever its type."""
    inside = np.packbits(mask != 0)
    return hashlib.sha256(f"{mask.shape}".encode() + inside.tobytes()).hexdigest()
