"""Where a finished segmentation goes in the scene, and which contours may be replaced."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from slicer.i18n import tr as _

from .. import __version__
from ..engine.errors import InputError
from ..engine.segmentation import Segmentation
from ..service.seg_nrrd import SEGMENT_COLOUR, SEGMENT_NAME, TERMINOLOGY
from .conversion import read_segment, write_segment

ATTRIBUTE_PREFIX = "DDSPSegmentation."
# References, unlike node IDs in attributes, follow their node when a scene is appended to another.
VOLUME_ROLE = ATTRIBUTE_PREFIX + "Volume"
SEGMENTATION_ROLE = ATTRIBUTE_PREFIX + "Segmentation"


@dataclass
class ProstateResult:
    """What a caller of the logic gets.

    Attributes:
        outputSegmentationNode: holds the segment "Prostate".
        tableNode: its measurements, one row.
        segmentation: everything the engine said.
        message: one sentence about where the result went when that needs saying, else empty.
    """

    outputSegmentationNode: slicer.vtkMRMLSegmentationNode
    tableNode: slicer.vtkMRMLTableNode
    segmentation: Segmentation
    message: str


@dataclass
class _Target:
    """Where a result may go; without a node a new one is made, without a segment a new segment."""

    node: slicer.vtkMRMLSegmentationNode | None = None
    segment_id: str = ""
    kept: str = ""
    reason: str = ""


def check_output_node(node: slicer.vtkMRMLSegmentationNode | None) -> None:
    """Raise InputError for an output that is no segmentation of this scene."""
    if node is None:
        return
    if not isinstance(node, slicer.vtkMRMLSegmentationNode) or not _in_scene(node):
        name = node.GetName() if isinstance(node, slicer.vtkMRMLNode) else str(node)
        raise InputError(f"Output '{name}' is not a segmentation of this scene.", "Choose a segmentation, or none.")


def state_of(volume_node: slicer.vtkMRMLScalarVolumeNode) -> tuple:
    """What a result depends on: voxels, geometry, transform; equal as long as the volume was not changed."""
    to_world = vtk.vtkMatrix4x4()
    if volume_node.GetParentTransformNode() is not None:
        volume_node.GetParentTransformNode().GetMatrixTransformToWorld(to_world)
    ijk_to_ras = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(ijk_to_ras)
    elements = [matrix.GetElement(i, j) for matrix in (to_world, ijk_to_ras) for i in range(4) for j in range(4)]
    return (volume_node.GetImageData(), volume_node.GetImageData().GetMTime(), *elements)


def check_unchanged(volume_node: slicer.vtkMRMLScalarVolumeNode, before: tuple) -> None:
    """Raise InputError when the volume was deleted or changed while it was being segmented."""
    if not _in_scene(volume_node) or volume_node.GetImageData() is None or state_of(volume_node) != before:
        raise InputError(
            f"Volume '{volume_node.GetName()}' was deleted or changed while it was being segmented; "
            "the result was dropped.",
            "Segment it again.",
        )


def place_result(
    segmentation: Segmentation,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
    output_node: slicer.vtkMRMLSegmentationNode | None = None,
    overwrite_edited: bool = False,
) -> ProstateResult:
    """Put the mask and its measurements beside the volume they belong to.

    An earlier result of the same volume is updated when nobody edited it; an edited contour and a segment drawn by
    somebody are kept, unless ``overwrite_edited``, and the result goes to a new segmentation.

    Raises:
        InputError: the mask is not on the volume's voxel grid.
    """
    mask = sitk.GetArrayFromImage(segmentation.mask)
    dimensions = volume_node.GetImageData().GetDimensions()
    if mask.shape != dimensions[::-1]:
        raise InputError(
            f"The mask of volume '{volume_node.GetName()}' has {mask.shape[::-1]} voxels, the volume {dimensions}.",
            "Report this as a bug of the runner.",
        )
    if output_node is not None and not _in_scene(output_node):
        output_node = None  # deleted meanwhile
    target = _choose_target(volume_node, output_node, overwrite_edited)
    added = []
    try:
        node = target.node
        if node is None:
            name = slicer.mrmlScene.GenerateUniqueName(f"{volume_node.GetName()} prostate")
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
            added.append(node)
            node.CreateDefaultDisplayNodes()
            added.append(node.GetDisplayNode())
        segment_id = _write_contour(mask, node, target.segment_id, volume_node)
        _write_provenance(segmentation, mask, segment_id, node, volume_node)
        table_node = _table_of(node, volume_node)
        if table_node is None:
            table_node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", f"{node.GetName()} measurements")
            added.append(table_node)
            table_node.SetNodeReferenceID(SEGMENTATION_ROLE, node.GetID())
            table_node.SetNodeReferenceID(VOLUME_ROLE, volume_node.GetID())
        _write_row(segmentation.as_row(), table_node)
        for placed in (node, table_node):
            _place_beside(volume_node, placed)
    except Exception:
        for leftover in reversed(added):
            slicer.mrmlScene.RemoveNode(leftover)
        raise
    return ProstateResult(node, table_node, segmentation, target.reason.format(kept=target.kept, new=node.GetName()))


def add_uncertainty_volume(
    result: ProstateResult, volume_node: slicer.vtkMRMLScalarVolumeNode
) -> slicer.vtkMRMLScalarVolumeNode:
    """Show where the network was unsure: a volume in [0, 1] on the grid and under the transform of its scan."""
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    node = slicer.util.addVolumeFromArray(
        sitk.GetArrayViewFromImage(result.segmentation.uncertainty), matrix, f"{volume_node.GetName()} uncertainty"
    )
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    node.SetNodeReferenceID(VOLUME_ROLE, volume_node.GetID())
    _place_beside(volume_node, node)
    return node


def is_edited(segmentation_node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLScalarVolumeNode) -> bool:
    """True when the contour that was computed for this volume has other voxels on its grid by now."""
    now = read_segment(segmentation_node, _own_segment_id(segmentation_node), volume_node)
    return _fingerprint(now) != _attribute(segmentation_node, "MaskSHA256")


def _choose_target(
    volume_node: slicer.vtkMRMLScalarVolumeNode,
    output_node: slicer.vtkMRMLSegmentationNode | None,
    overwrite_edited: bool,
) -> _Target:
    if output_node is not None:
        chosen = _judge(output_node, volume_node, overwrite_edited)
        if chosen.node is not None:
            return chosen
    latest_first = reversed(slicer.util.getNodesByClass("vtkMRMLSegmentationNode"))
    judged = [
        _judge(node, volume_node, overwrite_edited)
        for node in latest_first
        if node.GetNodeReference(VOLUME_ROLE) is volume_node and _own_segment_id(node)
    ]
    updatable = [target for target in judged if target.node is not None]
    if output_node is not None:  # what was chosen is kept: an earlier result that may be updated, else a new node
        return replace(updatable[0], kept=chosen.kept, reason=chosen.reason) if updatable else chosen
    return (updatable or judged or [_Target()])[0]


def _judge(
    node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLScalarVolumeNode, overwrite_edited: bool
) -> _Target:
    """Into the node when nothing that somebody drew would be lost there, else into a new one."""
    segments = node.GetSegmentation()
    own_id = _own_segment_id(node)
    drawn_id = segments.GetSegmentIdBySegmentName(SEGMENT_NAME)
    if segments.GetNumberOfSegments() == 0:
        return _Target(node)
    if segments.GetSourceRepresentationName() != slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName():
        reason = _("'{kept}' is not stored as a labelmap and is left alone; the new result is in '{new}'.")
    elif _belongs_elsewhere(node, volume_node):
        reason = _("'{kept}' belongs to another volume or transform and is left alone; the new result is in '{new}'.")
    elif own_id and not overwrite_edited and is_edited(node, volume_node):
        reason = _("The contour in '{kept}' was edited and is kept; the new result is in '{new}'.")
    elif drawn_id and not own_id and not overwrite_edited:
        reason = _("The segment Prostate in '{kept}' was not made here and is kept; the new result is in '{new}'.")
    else:
        return _Target(node, own_id or drawn_id)
    return _Target(kept=node.GetName(), reason=reason)


def _belongs_elsewhere(
    node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLScalarVolumeNode
) -> bool:
    source = node.GetNodeReference(VOLUME_ROLE)
    if source is not None:
        return source is not volume_node
    reference = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
    moved = node.GetParentTransformNode() is not volume_node.GetParentTransformNode()
    return moved or (reference is not None and reference is not volume_node)


def _own_segment_id(node: slicer.vtkMRMLSegmentationNode) -> str:
    segment_id = _attribute(node, "SegmentID")
    return segment_id if segment_id and node.GetSegmentation().GetSegment(segment_id) is not None else ""


def _write_contour(
    mask: np.ndarray,
    node: slicer.vtkMRMLSegmentationNode,
    segment_id: str,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
) -> str:
    """Write the mask; returns the segment's ID."""
    segments = node.GetSegmentation()
    first = segments.GetNumberOfSegments() == 0
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    if not segment_id:
        segment_id = segments.AddEmptySegment(
            segments.GenerateUniqueSegmentID(SEGMENT_NAME), SEGMENT_NAME, list(SEGMENT_COLOUR)
        )
        terminology_tag = slicer.vtkSegment.GetTerminologyEntryTagName()
        segments.GetSegment(segment_id).SetTag(terminology_tag, TERMINOLOGY)
    segment = segments.GetSegment(segment_id)
    segment.SetTag("DICOM.SegmentAlgorithmType", "AUTOMATIC")
    segment.SetTag("DICOM.SegmentAlgorithmName", f"DDSPSegmentation {__version__}")
    write_segment(mask, node, segment_id, volume_node)
    surface = slicer.vtkSegmentationConverter.GetClosedSurfaceRepresentationName()
    if segments.ContainsRepresentation(surface) or (first and _has_views()):
        node.CreateClosedSurfaceRepresentation()
    return segment_id


def _in_scene(node: slicer.vtkMRMLNode) -> bool:
    return node.GetID() is not None and slicer.mrmlScene.GetNodeByID(node.GetID()) is node


def _has_views() -> bool:
    application = getattr(slicer, "app", None)
    return application is not None and application.layoutManager() is not None


def _write_provenance(
    segmentation: Segmentation,
    mask: np.ndarray,
    segment_id: str,
    node: slicer.vtkMRMLSegmentationNode,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
) -> None:
    node.SetNodeReferenceID(VOLUME_ROLE, volume_node.GetID())
    for name, value in (
        ("SegmentID", segment_id),
        ("MaskSHA256", _fingerprint(mask)),
        ("ModelVersion", segmentation.model_version),
        ("ModelSHA256", segmentation.model_sha256),
        ("Mode", segmentation.mode),
        ("Threshold", f"{segmentation.threshold:g}"),
    ):
        node.SetAttribute(ATTRIBUTE_PREFIX + name, value)


def _attribute(node: slicer.vtkMRMLNode, name: str) -> str:
    return node.GetAttribute(ATTRIBUTE_PREFIX + name) or ""


def _fingerprint(mask: np.ndarray) -> str:
    """SHA-256 over the size and the voxels of a mask, whatever its type."""
    inside = np.packbits(mask != 0)
    return hashlib.sha256(f"{mask.shape}".encode() + inside.tobytes()).hexdigest()


def _table_of(
    node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLScalarVolumeNode
) -> slicer.vtkMRMLTableNode | None:
    for table_node in slicer.util.getNodesByClass("vtkMRMLTableNode"):
        if (
            table_node.GetNodeReference(SEGMENTATION_ROLE) is node
            and table_node.GetNodeReference(VOLUME_ROLE) is volume_node
        ):
            return table_node
    return None


def _write_row(row: dict[str, float | str], table_node: slicer.vtkMRMLTableNode) -> None:
    table_node.RemoveAllColumns()
    for name, value in row.items():
        column = vtk.vtkStringArray() if isinstance(value, str) else vtk.vtkDoubleArray()
        column.SetName(name)
        column.InsertNextValue(value)
        table_node.AddColumn(column)
    table_node.SetUseColumnTitleAsColumnHeader(True)
    table_node.SetLocked(True)


def _place_beside(volume_node: slicer.vtkMRMLScalarVolumeNode, node: slicer.vtkMRMLNode) -> None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    volume_item = hierarchy.GetItemByDataNode(volume_node)
    parent = hierarchy.GetItemParent(volume_item) if volume_item else hierarchy.GetSceneItemID()
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.SetItemParent(item, parent)
    else:  # only where no application adds the items by itself
        hierarchy.CreateItem(parent, node)
