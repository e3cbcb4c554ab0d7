"""What a review does with the slice views: the scan in its own planes, the slices to look at, nobody else's voxels.

Without a window, or before there are slice views, nothing happens and nothing is raised.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence

import numpy as np
import slicer
from slicer.i18n import tr as _

from ..engine import segmentation as engine
from .conversion import ijk_to_ras

AROUND_GLAND = 1.8  # of the gland's size is seen of its scan


def show_volume(volume_node: slicer.vtkMRMLScalarVolumeNode | None) -> None:
    """Show a volume in the background of every slice view, in the planes it was acquired in.

    A view that showed it already keeps its zoom and the place it looks at; a view that did not is fitted to it, and
    what lay over the other volume there goes.
    """
    if volume_node is None:
        return
    for logic in slice_logics():
        composite, view = logic.GetSliceCompositeNode(), logic.GetSliceNode()
        is_new = composite.GetBackgroundVolumeID() != volume_node.GetID()
        if is_new:
            composite.SetForegroundVolumeID(None)
            composite.SetLabelVolumeID(None)
        composite.SetBackgroundVolumeID(volume_node.GetID())
        _turn_to(volume_node, view)
        if is_new:
            logic.FitSliceToBackground()


def show_in_new_view(volume_node: slicer.vtkMRMLScalarVolumeNode, logic: slicer.vtkMRMLSliceLogic) -> None:
    """Show a volume in its planes in a view that came with a layout, unless that shows another one."""
    composite = logic.GetSliceCompositeNode()
    shown = composite.GetBackgroundVolumeID()
    if shown in (None, "", volume_node.GetID()):
        composite.SetBackgroundVolumeID(volume_node.GetID())
        _turn_to(volume_node, logic.GetSliceNode())
        if not shown:
            logic.FitSliceToBackground()


def empty_layers(volume_node: slicer.vtkMRMLVolumeNode) -> None:
    """Take a volume that is about to be removed out of every slice view: Slicer would put a neighbor in its place."""
    for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        for layer in ("Background", "Foreground", "Label"):
            if getattr(composite, f"Get{layer}VolumeID")() == volume_node.GetID():
                getattr(composite, f"Set{layer}VolumeID")(None)


def remove_volume(volume_node: slicer.vtkMRMLVolumeNode) -> None:
    """Take a volume out of the views and the scene."""
    empty_layers(volume_node)
    slicer.mrmlScene.RemoveNode(volume_node)


def views_in_use() -> list[slicer.vtkMRMLSliceLogic]:
    """The slice views of the present layout in which there is a volume."""
    logics = slice_logics()
    in_layout = [logic for logic in logics if logic.GetSliceNode().IsMappedInLayout()] or logics
    return [logic for logic in in_layout if logic.GetSliceCompositeNode().GetBackgroundVolumeID() or _over(logic)]


def shows(logic: slicer.vtkMRMLSliceLogic, volume_node: slicer.vtkMRMLVolumeNode) -> bool:
    """Whether a slice view shows a volume, alone or under another one."""
    return volume_node.GetID() in (logic.GetSliceCompositeNode().GetBackgroundVolumeID(), _over(logic))


def is_in_views(volume_node: slicer.vtkMRMLVolumeNode, but: Collection[slicer.vtkMRMLSliceLogic] = ()) -> bool:
    """Whether any view in use shows a volume, some left aside."""
    return any(shows(logic, volume_node) for logic in views_in_use() if logic not in but)


def volume_in(logic: slicer.vtkMRMLSliceLogic) -> slicer.vtkMRMLVolumeNode | None:
    """The volume that a view shows, the one below where there are two."""
    shown = logic.GetSliceCompositeNode().GetBackgroundVolumeID() or _over(logic)
    return slicer.mrmlScene.GetNodeByID(shown) if shown else None


def _over(logic: slicer.vtkMRMLSliceLogic) -> str:
    """ID of the volume that is to be seen over the background, empty without."""
    composite = logic.GetSliceCompositeNode()
    return (composite.GetForegroundVolumeID() or "") if composite.GetForegroundOpacity() > 0 else ""


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
    if not slice_logics():
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


def zoom_to(volume_node: slicer.vtkMRMLScalarVolumeNode, mask: np.ndarray) -> None:
    """Look at a gland from near in every view that shows its scan; a view's own Fit goes back to the whole scan.

    Args:
        mask: z,y,x on the volume's grid, 0 outside; not empty.
    """
    where = np.argwhere(mask)
    first, last = where.min(axis=0) - 0.5, where.max(axis=0) + 0.5
    corners = np.array([_world_of(volume_node, zyx[::-1]) for zyx in itertools.product(*zip(first, last, strict=True))])
    for logic in slice_logics():
        if not shows(logic, volume_node):
            continue
        view = logic.GetSliceNode()
        axes = slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS())[:3, :2]
        extent = np.ptp(corners @ axes, axis=0) * AROUND_GLAND
        field = np.array(view.GetFieldOfView())
        closer = float((extent / field[:2]).max())
        if closer < 1:  # whoever looks at it from nearer still keeps that
            view.SetFieldOfView(*(field[:2] * closer), field[2])


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


def slice_logics() -> list[slicer.vtkMRMLSliceLogic]:
    """Of all slice views that there are."""
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
