"""How a result is shown: contour, fill and surface, only where its scan is, and only one result at a time."""

from __future__ import annotations

from collections.abc import Collection

import slicer

from .result_nodes import ATTRIBUTE_PREFIX, own_segment_id, results_in_scene, volume_of
from .slice_views import shows, views_in_use

CONTOUR_COLOR = (0.3, 1.0, 0.35)  # to be told from tissue, bright or dark, and from the colors of the uncertainty
CONTOUR_WIDTH = 2  # pixels
CONFINED = ATTRIBUTE_PREFIX + "Confined"  # of a display node whose views were chosen here


def apply_display(
    segmentation_node: slicer.vtkMRMLSegmentationNode,
    segment_id: str,
    contour: bool,
    fill: bool,
    surface: bool,
) -> None:
    """Show one segment as contour, filled, as a surface, or not at all; other segments keep their visibility.

    The surface is made when it is asked for; a segmentation without other segments loses it when it is not, since
    it would be computed anew at every edit.
    """
    if segmentation_node.GetDisplayNode() is None:
        segmentation_node.CreateDefaultDisplayNodes()
    display_node = segmentation_node.GetDisplayNode()
    alone = segmentation_node.GetSegmentation().GetNumberOfSegments() == 1
    if surface and not has_surface(segmentation_node):
        segmentation_node.CreateClosedSurfaceRepresentation()
    elif alone and not surface and has_surface(segmentation_node):
        segmentation_node.RemoveClosedSurfaceRepresentation()
    with slicer.util.NodeModify(display_node):
        for part, wanted in (
            ("Visibility", contour or fill or surface),
            ("Visibility2DOutline", contour),
            ("Visibility2DFill", fill),
            ("Visibility3D", surface),
        ):
            getattr(display_node, f"SetSegment{part}")(segment_id, wanted)
            # Slicer complains of a whole segmentation with neither outline nor fill; that of the segment it takes.
            if wanted or (alone and (contour or fill or not part.startswith("Visibility2D"))):
                getattr(display_node, f"Set{part}")(wanted)


def keep_to_scan(segmentation_node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLVolumeNode) -> bool:
    """Confine a result to the views that show its scan or another series of its study, where others show anything else.

    Returns:
        Whether it may be seen at all: any view shows the scan, or none shows anything.
    """
    views = views_in_use()
    with_scan = [logic.GetSliceNode().GetID() for logic in views if _is_of_patient(logic, volume_node)]
    wanted: list[str] = []  # of none: in all views, in those of later layouts too
    if 0 < len(with_scan) < len(views):
        wanted = with_scan + [view.GetID() for view in slicer.util.getNodesByClass("vtkMRMLViewNode")]
    display_node = segmentation_node.GetDisplayNode()
    by_user = display_node is None or (not wanted and not display_node.GetAttribute(CONFINED))
    if not by_user and list(display_node.GetViewNodeIDs()) != wanted:
        display_node.SetAttribute(CONFINED, "1" if wanted else None)
        with slicer.util.NodeModify(display_node):
            display_node.RemoveAllViewNodeIDs()
            for view_id in wanted:
                display_node.AddViewNodeID(view_id)
    return bool(with_scan) or not views


def _is_of_patient(logic: slicer.vtkMRMLSliceLogic, volume_node: slicer.vtkMRMLVolumeNode) -> bool:
    """Whether a view shows a volume, or one that the subject hierarchy keeps in the same study.

    The same patient is not enough: where names were taken away, one patient stands for many.
    """
    if shows(logic, volume_node):
        return True
    shown = slicer.mrmlScene.GetNodeByID(logic.GetSliceCompositeNode().GetBackgroundVolumeID() or "")
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    level = slicer.vtkMRMLSubjectHierarchyConstants.GetDICOMLevelStudy()
    studies = [
        hierarchy.GetItemAncestorAtLevel(item, level) if (item := hierarchy.GetItemByDataNode(node)) else 0
        for node in (shown, volume_node)
        if node is not None
    ]
    return len(studies) == 2 and studies[0] == studies[1] != hierarchy.GetInvalidItemID()


def hide_others(
    shown: slicer.vtkMRMLSegmentationNode | None,
    volume_node: slicer.vtkMRMLVolumeNode | None,
    hidden_before: Collection[str] = (),
) -> set[str]:
    """Hide every result but one. What somebody drew beside a result of the same volume stays as it is.

    Args:
        hidden_before: IDs of results that stay as somebody may have made them meanwhile.

    Returns:
        The IDs of all results.
    """
    nodes = results_in_scene()
    for node in nodes:
        display_node = node.GetDisplayNode()
        if node is shown or display_node is None or node.GetID() in hidden_before:
            continue
        segment_id = own_segment_id(node)
        if volume_of(node) is volume_node and node.GetSegmentation().GetNumberOfSegments() > (1 if segment_id else 0):
            if segment_id:
                display_node.SetSegmentVisibility(segment_id, False)
        else:
            display_node.SetVisibility(False)
    return {node.GetID() for node in nodes}


def set_surface_smoothing(segmentation_node: slicer.vtkMRMLSegmentationNode, factor: float) -> None:
    """Smooth the surface by 0 (the voxels' steps) to 1 (most); one that is there is computed anew."""
    segments = segmentation_node.GetSegmentation()
    parameter = slicer.vtkBinaryLabelmapToClosedSurfaceConversionRule.GetSmoothingFactorParameterName()
    segments.SetConversionParameter(parameter, f"{factor:g}")
    if has_surface(segmentation_node):
        segments.CreateRepresentation(slicer.vtkSegmentationConverter.GetClosedSurfaceRepresentationName(), True)


def has_surface(segmentation_node: slicer.vtkMRMLSegmentationNode) -> bool:
    """Whether the segments have a closed surface now."""
    name = slicer.vtkSegmentationConverter.GetClosedSurfaceRepresentationName()
    return segmentation_node.GetSegmentation().ContainsRepresentation(name)
