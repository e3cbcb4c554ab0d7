"""Where a finished segmentation goes in the scene, and which contours may be replaced."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import SimpleITK as sitk
import slicer
from slicer.i18n import tr as _

from ..engine.errors import InputError
from ..engine.segmentation import Segmentation
from ..service.mask_files import SEGMENT_NAME, TERMINOLOGY
from .contour_display import CONTOUR_COLOR, CONTOUR_WIDTH, has_surface
from .conversion import ijk_to_ras, ijk_to_world, is_on_grid, write_segment
from .result_nodes import (
    SEGMENTATION_ROLE,
    VOLUME_ROLE,
    add_table,
    current_row,
    forget_network,
    is_edited,
    own_segment_id,
    psa_of,
    results_of,
    say_who_drew,
    set_psa,
    table_of,
    volume_of,
    write_facts,
    write_origin,
    write_row,
)
from .slice_views import remove_volume


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
    if not isinstance(node, slicer.vtkMRMLSegmentationNode) or not slicer.mrmlScene.IsNodePresent(node):
        name = node.GetName() if isinstance(node, slicer.vtkMRMLNode) else str(node)
        raise InputError(
            _("Output '{name}' is not a segmentation of this scene.").format(name=name),
            _("Choose a segmentation, or 'Automatic'."),
        )


def state_of(volume_node: slicer.vtkMRMLScalarVolumeNode) -> tuple:
    """What a result depends on: voxels, geometry, transform; equal as long as the volume was not changed."""
    image_data = volume_node.GetImageData()
    return image_data, image_data.GetMTime(), ijk_to_world(volume_node).tobytes()


def check_unchanged(volume_node: slicer.vtkMRMLScalarVolumeNode, before: tuple) -> None:
    """Raise InputError when the volume was deleted or changed while it was being segmented."""
    if not slicer.mrmlScene.IsNodePresent(volume_node):
        cause = _("Volume '{name}' was deleted while it was being segmented; the result was dropped.")
        raise InputError(cause.format(name=volume_node.GetName()), _("Choose another volume."))
    if volume_node.GetImageData() is None or state_of(volume_node) != before:
        cause = _("Volume '{name}' was changed while it was being segmented; the result was dropped.")
        raise InputError(cause.format(name=volume_node.GetName()), _("Segment it again."))


def place_result(
    segmentation: Segmentation,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
    output_node: slicer.vtkMRMLSegmentationNode | None = None,
    overwrite_edited: bool = False,
    as_new: bool = False,
) -> ProstateResult:
    """Put the mask and its measurements beside the volume they belong to.

    An earlier result of the same volume is updated when nobody edited it; an edited contour and a segment drawn by
    somebody are kept, unless ``overwrite_edited``, and the result goes to a new segmentation; with ``as_new`` it
    always does.

    Raises:
        InputError: the mask is not on the volume's voxel grid.
    """
    mask = sitk.GetArrayFromImage(segmentation.mask)
    dimensions = volume_node.GetImageData().GetDimensions()
    if mask.shape != dimensions[::-1]:
        cause = _("The mask of volume '{name}' has {found} voxels, the volume {expected}.")
        raise InputError(
            cause.format(name=volume_node.GetName(), found=mask.shape[::-1], expected=dimensions),
            _("Report this as a bug of the runner."),
        )
    if not slicer.mrmlScene.IsNodePresent(output_node):
        output_node = None  # deleted meanwhile
    target = _Target() if as_new else _choose_target(volume_node, output_node, overwrite_edited)
    added = []
    try:
        node = target.node
        if node is None:
            node = _add_segmentation_node(volume_node)
            added += [node, node.GetDisplayNode()]
        segment_id = _write_contour(mask, node, target.segment_id, volume_node)
        if volume_of(node) not in (None, volume_node):
            _forget_other_volume(node)
        write_facts(segmentation, segment_id, node, volume_node)
        say_who_drew(node, edited=False)
        _keep_psa(node, volume_node)
        table_node = table_of(node, volume_node)
        if table_node is None:
            table_node = add_table(node, volume_node)
            added.append(table_node)
        write_row(current_row(node, segmentation.measurements, edited=False), table_node)
        for placed in (node, table_node):
            _place_beside(volume_node, placed)
    except Exception:
        for leftover in reversed(added):
            slicer.mrmlScene.RemoveNode(leftover)
        raise
    earlier = uncertainty_volume_of(node)
    if earlier is not None:  # it belonged to the result that was here before
        remove_volume(earlier)
    return ProstateResult(node, table_node, segmentation, target.reason.format(kept=target.kept, new=node.GetName()))


def place_again(
    segmentation: Segmentation, node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLScalarVolumeNode
) -> None:
    """Put another reading of the same answer, by another threshold, in place of a contour that nobody edited."""
    segment_id = _write_contour(sitk.GetArrayViewFromImage(segmentation.mask), node, own_segment_id(node), volume_node)
    write_facts(segmentation, segment_id, node, volume_node)


def place_contour(
    mask: np.ndarray,
    network_mask: np.ndarray | None,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
    model_version: str,
    model_sha256: str,
    name: str = "",
) -> slicer.vtkMRMLSegmentationNode:
    """A contour that was stored earlier as a new result of a volume.

    Args:
        mask: z,y,x on the volume's grid.
        network_mask: what the network had drawn, for Reset; ``None`` when it is not known.
        name: of the segmentation; "": that of the volume.

    Returns:
        The segmentation; what the network had said about its contour is not known any more.
    """
    node = _add_segmentation_node(volume_node, name)
    try:
        segment_id = _write_contour(mask, node, "", volume_node)
        write_origin(network_mask, segment_id, node, volume_node, model_version, model_sha256)
        say_who_drew(node, is_edited(node, volume_node))
        _place_beside(volume_node, node)
    except Exception:
        remove_with_display(node)
        raise
    return node


def remove_with_display(node: slicer.vtkMRMLDisplayableNode) -> None:
    """Take a node out of the scene, and what shows it, which the scene would keep."""
    for leftover in (node.GetDisplayNode(), node):
        if slicer.mrmlScene.IsNodePresent(leftover):
            slicer.mrmlScene.RemoveNode(leftover)


def _add_segmentation_node(
    volume_node: slicer.vtkMRMLScalarVolumeNode, name: str = ""
) -> slicer.vtkMRMLSegmentationNode:
    name = slicer.mrmlScene.GenerateUniqueName(name or f"{volume_node.GetName()} prostate")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetSliceIntersectionThickness(CONTOUR_WIDTH)
    return node


def contour_to_take_up(node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLScalarVolumeNode) -> str:
    """ID of the segment that may become a result of a volume, as one that was exported and loaded again; "" of none.

    It is the only segment, or called Prostate, is stored as a labelmap on the volume's grid, and lies where the volume
    is.
    """
    segments = node.GetSegmentation()
    labelmap_name = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    alone = segments.GetNthSegmentID(0) if segments.GetNumberOfSegments() == 1 else ""
    segment_id = segments.GetSegmentIdBySegmentName(SEGMENT_NAME) or alone
    is_labelmap = segments.GetSourceRepresentationName() == labelmap_name
    is_result = volume_of(node) is volume_node
    if not segment_id or not is_labelmap or is_result or _belongs_elsewhere(node, volume_node):
        return ""
    return segment_id if is_on_grid(node, segment_id, volume_node) else ""


def take_up(node: slicer.vtkMRMLSegmentationNode, segment_id: str, volume_node: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Make a segment that somebody drew or loaded a result of a volume: measured, corrected and accepted as others."""
    forget_network(node)
    write_origin(None, segment_id, node, volume_node, "", "")
    _keep_psa(node, volume_node)
    _place_beside(volume_node, node)


def add_uncertainty_volume(
    uncertainty: sitk.Image,
    node: slicer.vtkMRMLSegmentationNode,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
) -> slicer.vtkMRMLScalarVolumeNode:
    """Show where the network was unsure about a result: a volume in [0, 1] on the grid and under the transform of
    its scan."""
    name = f"{volume_node.GetName()} uncertainty"
    voxels = sitk.GetArrayViewFromImage(uncertainty)
    shown = slicer.util.addVolumeFromArray(voxels, ijk_to_ras(volume_node), name)
    shown.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    shown.SetNodeReferenceID(VOLUME_ROLE, volume_node.GetID())
    shown.SetNodeReferenceID(SEGMENTATION_ROLE, node.GetID())
    _place_beside(volume_node, shown)
    return shown


def follow_scan(shown: slicer.vtkMRMLScalarVolumeNode, volume_node: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Bring a volume on the grid of a scan to where the scan is by now."""
    if shown.GetParentTransformNode() is not volume_node.GetParentTransformNode():
        shown.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    if not np.array_equal(ijk_to_ras(shown), ijk_to_ras(volume_node)):
        shown.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ijk_to_ras(volume_node)))


def uncertainty_volume_of(node: slicer.vtkMRMLSegmentationNode) -> slicer.vtkMRMLScalarVolumeNode | None:
    """The volume that shows where the network was unsure about a result, when there is one."""
    volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    return next((volume for volume in volumes if volume.GetNodeReference(SEGMENTATION_ROLE) is node), None)


def _choose_target(
    volume_node: slicer.vtkMRMLScalarVolumeNode,
    output_node: slicer.vtkMRMLSegmentationNode | None,
    overwrite_edited: bool,
) -> _Target:
    if output_node is not None:
        chosen = _judge(output_node, volume_node, overwrite_edited)
        if chosen.node is not None:
            return chosen
    judged = [_judge(node, volume_node, overwrite_edited) for node in results_of(volume_node)]
    updatable = [target for target in judged if target.node is not None]
    if output_node is not None:  # what was chosen is kept: an earlier result that may be updated, else a new node
        return replace(updatable[0], kept=chosen.kept, reason=chosen.reason) if updatable else chosen
    return (updatable or judged or [_Target()])[0]


def _judge(
    node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLScalarVolumeNode, overwrite_edited: bool
) -> _Target:
    """Into the node when nothing that somebody drew would be lost there, else into a new one."""
    segments = node.GetSegmentation()
    own_id = own_segment_id(node)
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


def _belongs_elsewhere(node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLScalarVolumeNode) -> bool:
    source = volume_of(node)
    moved = node.GetParentTransformNode() is not volume_node.GetParentTransformNode()
    if source is not None:
        return source is not volume_node or (moved and node.GetSegmentation().GetNumberOfSegments() > 1)
    reference = node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole())
    return moved or (reference is not None and reference is not volume_node)


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
            segments.GenerateUniqueSegmentID(SEGMENT_NAME), SEGMENT_NAME, list(CONTOUR_COLOR)
        )
        terminology_tag = slicer.vtkSegment.GetTerminologyEntryTagName()
        segments.GetSegment(segment_id).SetTag(terminology_tag, TERMINOLOGY)
    write_segment(mask, node, segment_id, volume_node)
    has_views = hasattr(slicer, "app") and slicer.app.layoutManager() is not None
    if has_surface(node) or (first and has_views):
        node.CreateClosedSurfaceRepresentation()
    return segment_id


def _forget_other_volume(node: slicer.vtkMRMLSegmentationNode) -> None:
    """An emptied result of another volume takes a new one in: nothing of the other patient stays with it."""
    set_psa(node, 0.0)
    table_node = table_of(node, volume_of(node))
    if table_node is not None:
        slicer.mrmlScene.RemoveNode(table_node)


def _keep_psa(node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLScalarVolumeNode) -> None:
    """The PSA belongs to the patient: a new result of the same volume takes it over."""
    if not psa_of(node):
        set_psa(node, next((psa_of(other) for other in results_of(volume_node) if psa_of(other)), 0.0))


def _place_beside(volume_node: slicer.vtkMRMLScalarVolumeNode, node: slicer.vtkMRMLNode) -> None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    volume_item = hierarchy.GetItemByDataNode(volume_node)
    parent = hierarchy.GetItemParent(volume_item) if volume_item else hierarchy.GetSceneItemID()
    hierarchy.CreateItem(parent, node)  # or moves the one that there is
