"""Whether a contour still lies where its scan is, and how to bring it along when only the scan was moved.

Either may be put under a transform, which may be hardened on it. What tells is where the scan was when the contour was
placed (``result_nodes.placed_on``) and where the contour's own voxels are by now.
"""

from __future__ import annotations

import itertools

import numpy as np
import slicer
from slicer.i18n import tr as _

from ..engine.errors import InputError
from .conversion import ijk_to_coordinates_under, image_to_world, labelmap_of
from .result_nodes import note_place, own_segment_id, placed_on

TOLERANCE_MM = 0.1


def are_apart(node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLScalarVolumeNode) -> bool:
    """Whether scan and contour were moved against each other since the contour was placed."""
    same_transform = node.GetParentTransformNode() is volume_node.GetParentTransformNode()
    way = _way_back(node, volume_node)
    return not same_transform if way is None else way is not _NONE


def check_together(node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Raise InputError for a contour that lies elsewhere than its scan."""
    if are_apart(node, volume_node):
        raise InputError(
            _("The scan was moved and its contour was not, or the other way round: they do not belong together."),
            _("Press Move Contour Along under Result, or undo the move."),
        )


def move_along(node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLScalarVolumeNode) -> None:
    """Bring a contour to where its scan is: under the same transform, and hardened as far as the scan was."""
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    way = _way_back(node, volume_node)
    if way is not None and way is not _NONE:
        node.ApplyTransformMatrix(slicer.util.vtkMatrixFromArray(way))
    note_place(node, volume_node)


_NONE = np.eye(4)


def _way_back(node: slicer.vtkMRMLSegmentationNode, volume_node: slicer.vtkMRMLScalarVolumeNode) -> np.ndarray | None:
    """From where the contour is to where it belongs, in its own coordinates: ``_NONE`` where it lies there already.

    ``None`` where a non-linear transform lies between.
    """
    where_the_scan_is = ijk_to_coordinates_under(node.GetParentTransformNode(), volume_node)
    if where_the_scan_is is None:
        return None
    if _lies_on_scaled(node, where_the_scan_is, placed := placed_on(node, volume_node)):
        return _NONE
    ways = [where_the_scan_is @ np.linalg.inv(moved @ placed) for moved in _moves_of(node, placed)]
    corners = np.array(list(itertools.product(*((0, n - 1) for n in volume_node.GetImageData().GetDimensions()), (1,))))
    voxels = placed @ corners.T
    is_none = [np.abs(way @ voxels - voxels)[:3].max() < TOLERANCE_MM for way in ways]
    return _NONE if any(is_none) else ways[0]


def _moves_of(node: slicer.vtkMRMLSegmentationNode, placed: np.ndarray) -> list[np.ndarray]:
    """How the contour's own coordinates may have been moved since, by a transform that was hardened on it."""
    labelmap = labelmap_of(node, own_segment_id(node))
    if labelmap is None:
        return [_NONE]
    now = image_to_world(labelmap)
    if not _same_sizes(now, placed):
        return [_NONE]  # somebody drew with other voxels
    moved, shift = now @ np.linalg.inv(placed), np.linalg.inv(placed) @ now
    whole_voxels = np.eye(4)
    whole_voxels[:3, 3] = np.rint(shift[:3, 3])
    # A labelmap may begin some voxels further on without having been moved; its segmentation's grid does not.
    return [moved] if not np.allclose(shift, whole_voxels, atol=1e-2) or _grid_is(node, now) else [_NONE, moved]


def _lies_on_scaled(node: slicer.vtkMRMLSegmentationNode, where_the_scan_is: np.ndarray, placed: np.ndarray) -> bool:
    """Whether a transform that changed the size of the scan's voxels was hardened on both."""
    if _same_sizes(where_the_scan_is, placed):
        return False
    labelmap = labelmap_of(node, own_segment_id(node))
    if labelmap is None:
        return False
    return np.allclose(np.linalg.inv(where_the_scan_is) @ image_to_world(labelmap), np.eye(4), atol=1e-2)


def _same_sizes(one: np.ndarray, other: np.ndarray) -> bool:
    return np.allclose(*(np.linalg.norm(matrix[:3, :3], axis=0) for matrix in (one, other)), rtol=1e-3)


def _grid_is(node: slicer.vtkMRMLSegmentationNode, matrix: np.ndarray) -> bool:
    """Whether a segmentation draws on the grid of this matrix."""
    converter, grid = slicer.vtkSegmentationConverter, slicer.vtkOrientedImageData()
    text = node.GetSegmentation().GetConversionParameter(converter.GetReferenceImageGeometryParameterName())
    return (
        bool(text)
        and converter.DeserializeImageGeometry(text, grid, False)
        and np.allclose(image_to_world(grid), matrix, atol=1e-3)
    )
