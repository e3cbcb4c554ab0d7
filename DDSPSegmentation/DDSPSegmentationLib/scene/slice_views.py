"""What a review does with the views: the scan, doubt laid over it, the slices to look at, contour and surface.

Without a window, or before there are slice views, nothing happens and nothing is raised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import slicer
from slicer.i18n import tr as _

from ..engine import segmentation as engine
from .conversion import ijk_to_ras

# Slicer loads the first two from files; the last one is built in.
COLOR_MAPS = ("Inferno", "Magma", "Iron")
VISIBLE_DOUBT = 0.1
# Above 1, or rounding while the volume is resliced would cut holes where the doubt is greatest.
MOST_VISIBLE_DOUBT = 1.1


def show_volume(volume_node: slicer.vtkMRMLScalarVolumeNode | None) -> None:
    """Show a volume in the background of every slice view, in the planes it was acquired in.

    A view that showed it already keeps its zoom and the place it looks at; a view that did not is fitted to it.
    """
    if volume_node is None:
        return
    for logic in _slice_logics():
        composite, view = logic.GetSliceCompositeNode(), logic.GetSliceNode()
        is_new = composite.GetBackgroundVolumeID() != volume_node.GetID()
        composite.SetBackgroundVolumeID(volume_node.GetID())
        _turn_to(volume_node, view)
        if is_new:
            logic.FitSliceToBackground()


def acquired_axis(volume_node: slicer.vtkMRMLScalarVolumeNode) -> int:
    """Array axis (0, 1, 2 for z, y, x) along which a volume's slices were acquired, as the engine counts it."""
    corner = _world_of(volume_node, (0, 0, 0))
    return engine.acquired_axis([math.dist(corner, _world_of(volume_node, step)) for step in np.eye(3)])


def jump_to_slice(
    volume_node: slicer.vtkMRMLScalarVolumeNode, mask: np.ndarray | None, index: int, axis: int | None = None
) -> None:
    """Move all slice views to one acquired slice: to the middle of the gland there, or else of the slice.

    The zoom stays.

    Args:
        mask: z,y,x on the volume's grid, 0 outside.
        index: of the slice along ``axis``.
        axis: array axis; the acquired one unless told otherwise.
    """
    if not _slice_logics():
        return
    if axis is None:
        axis = acquired_axis(volume_node)
    middle = [(length - 1) / 2 for length in reversed(volume_node.GetImageData().GetDimensions())]
    middle[axis] = index
    if mask is not None:
        inside = np.argwhere(np.take(mask, index, axis))
        if inside.size:
            in_plane = [other for other in range(3) if other != axis]
            for other, place in zip(in_plane, inside.mean(axis=0), strict=True):
                middle[other] = float(place)
    right, anterior, superior = _world_of(volume_node, middle[::-1])
    slicer.modules.markups.logic().JumpSlicesToLocation(right, anterior, superior, True)


def least_certain_slices(doubts: Sequence[float | None]) -> list[int]:
    """Indices of the acquired slices from the least certain on; slices without a value are left out."""
    known = [index for index, doubt in enumerate(doubts) if doubt is not None and not math.isnan(doubt)]
    return sorted(known, key=lambda index: -doubts[index])


class SliceTour:
    """Steps through the slices from the least certain to the most certain one, and round again.

    Args:
        doubts: one value an acquired slice, the higher the less certain; ``None`` where there is no gland.
    """

    def __init__(self, doubts: Sequence[float | None]):
        self._order = least_certain_slices(doubts)
        self._place: int | None = None

    def __len__(self) -> int:
        return len(self._order)

    def step(self, by: int) -> tuple[int, str] | None:
        """The slice so many places further; the first step, in either direction, is the least certain one.

        Returns:
            Its index along the acquired axis, and the words for its rank (1: the least certain).
        """
        if not self._order:
            return None
        self._place = 0 if self._place is None else (self._place + by) % len(self._order)
        label = _("{rank} of {total}").format(rank=self._place + 1, total=len(self._order))
        return self._order[self._place], label


class UncertaintyOverlay:
    """The doubt of the network as the foreground of every slice view, and what it displaced there."""

    def __init__(self):
        self._volume_node = None
        # Keyed by the composite node itself: an ID may be another node's after the scene was closed.
        self._displaced: dict = {}

    def is_shown(self) -> bool:
        return bool(self._displaced and _is_there(self._volume_node))

    def show(self, volume_node: slicer.vtkMRMLScalarVolumeNode, opacity: float) -> None:
        """Lay a volume of doubt in [0, 1] over the views.

        Called again it takes in the views that came since and leaves those in which the user chose another foreground.
        """
        logics = _slice_logics()
        if not logics:
            return
        if volume_node is not self._volume_node:
            self._hide_legend()
            self._displaced = {view: layer for view, layer in self._displaced.items() if self._is_ours(view)}
            self._volume_node = volume_node
            for composite in self._displaced:
                composite.SetForegroundVolumeID(volume_node.GetID())
        _color(volume_node)
        for logic in logics:
            composite = logic.GetSliceCompositeNode()
            if composite not in self._displaced:
                self._displaced[composite] = self._layer_of(composite)
                composite.SetForegroundVolumeID(volume_node.GetID())
        self.set_opacity(opacity)
        self._show_legend()

    def set_opacity(self, opacity: float) -> None:
        """0 to see the scan alone, 1 to see the doubt alone; views with a foreground of the user's are left."""
        for composite in self._displaced:
            if self._is_ours(composite):
                composite.SetForegroundOpacity(opacity)

    def hide(self) -> None:
        """Bring back the foreground each view had, unless the user chose another one meanwhile."""
        for composite, (volume_node, opacity) in self._displaced.items():
            if _is_there(composite) and self._is_ours(composite):
                composite.SetForegroundVolumeID(volume_node.GetID() if _is_there(volume_node) else None)
                composite.SetForegroundOpacity(opacity)
        self._hide_legend()
        self.forget()

    def forget(self) -> None:
        """Let go of every node, as they are: the scene is closing, or was closed."""
        self._volume_node, self._displaced = None, {}

    def _is_ours(self, composite: slicer.vtkMRMLSliceCompositeNode) -> bool:
        """A volume that was deleted while it was shown leaves an empty foreground behind."""
        shown = composite.GetForegroundVolumeID()
        return shown == self._volume_node.GetID() if _is_there(self._volume_node) else shown is None

    def _layer_of(self, composite: slicer.vtkMRMLSliceCompositeNode) -> tuple:
        volume_id = composite.GetForegroundVolumeID()
        volume_node = slicer.mrmlScene.GetNodeByID(volume_id) if volume_id else None
        if volume_node is self._volume_node:  # left in a scene that was saved with it
            return None, 0.0
        return volume_node, composite.GetForegroundOpacity()

    def _show_legend(self) -> None:
        display_node = self._volume_node.GetDisplayNode()
        legend_node = slicer.modules.colors.logic().AddDefaultColorLegendDisplayNode(display_node)
        legend_node.SetTitleText(_("Network's uncertainty"))
        legend_node.SetLabelFormat("%.2f")
        legend_node.SetVisibility(True)

    def _hide_legend(self) -> None:
        if _is_there(self._volume_node):
            legend_node = slicer.modules.colors.logic().GetColorLegendDisplayNode(self._volume_node)
            if legend_node is not None:
                legend_node.SetVisibility(False)


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
            if wanted or alone:
                getattr(display_node, f"Set{part}")(wanted)


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


def _slice_logics() -> list[slicer.vtkMRMLSliceLogic]:
    layout = slicer.app.layoutManager() if hasattr(slicer, "app") else None
    logics = [] if layout is None else layout.mrmlSliceLogics()
    return [logic for logic in logics if logic.GetSliceNode() is not None and logic.GetSliceCompositeNode() is not None]


def _turn_to(volume_node: slicer.vtkMRMLScalarVolumeNode, view: slicer.vtkMRMLSliceNode) -> None:
    transform_node = volume_node.GetParentTransformNode()
    if transform_node is not None and not transform_node.IsTransformToWorldLinear():
        return  # a bent volume has no plane
    looked_at = _middle_of(view)
    view.RotateToVolumePlane(volume_node)
    # A view that was panned turns about a point beside its middle.
    if math.dist(looked_at, _middle_of(view)) > 1e-6:
        view.JumpSliceByCentering(*looked_at)


def _middle_of(view: slicer.vtkMRMLSliceNode) -> tuple[float, ...]:
    return tuple(view.GetSliceToRAS().MultiplyPoint((*view.GetXYZOrigin(), 1.0))[:3])


def _world_of(volume_node: slicer.vtkMRMLScalarVolumeNode, ijk: Sequence[float]) -> list[float]:
    """Where a voxel (i,j,k) lies in the world: RAS, mm, parent transform included."""
    world = [0.0, 0.0, 0.0]
    volume_node.TransformPointToWorld((ijk_to_ras(volume_node) @ (*ijk, 1.0))[:3], world)
    return world


def _color(volume_node: slicer.vtkMRMLScalarVolumeNode) -> None:
    volume_node.CreateDefaultDisplayNodes()
    display_node = volume_node.GetScalarVolumeDisplayNode()
    found = (slicer.mrmlScene.GetFirstNode(name, "vtkMRMLColorTableNode") for name in COLOR_MAPS)
    color_node = next((node for node in found if node is not None), None)
    with slicer.util.NodeModify(display_node):
        if color_node is not None:
            display_node.SetAndObserveColorNodeID(color_node.GetID())
        display_node.SetAutoWindowLevel(False)
        display_node.SetWindowLevelMinMax(0.0, 1.0)
        display_node.SetAutoThreshold(False)
        display_node.SetThreshold(VISIBLE_DOUBT, MOST_VISIBLE_DOUBT)
        display_node.SetApplyThreshold(True)


def _is_there(node: slicer.vtkMRMLNode | None) -> bool:
    return bool(slicer.mrmlScene.IsNodePresent(node))
