"""Scan and contour apart: whichever of the two was moved, hardened or not, and how the contour is brought along."""

import numpy as np
import pytest
import slicer
from panel_parts import add_result
from scene_parts import put_under_transform, rigid_matrix

from DDSPSegmentationLib.engine.errors import InputError
from DDSPSegmentationLib.scene.conversion import read_segment
from DDSPSegmentationLib.scene.result_nodes import is_edited, own_segment_id
from DDSPSegmentationLib.scene.together import are_apart, check_together, move_along

pytestmark = pytest.mark.usefixtures("scene")


def shift(*millimetres):
    matrix = np.eye(4)
    matrix[:3, 3] = millimetres
    return matrix


MOVES = {"turned": rigid_matrix(), "shifted": shift(3.3, -2.1, 4.7), "shifted by whole voxels": shift(8.0, 0.0, 12.0)}


@pytest.fixture
def pair():
    return add_result(1)


def harden(node):
    slicer.vtkSlicerTransformLogic.hardenTransform(node)
    assert node.GetParentTransformNode() is None


def test_a_new_result_is_where_its_scan_is(pair):
    volume, node = pair
    assert not are_apart(node, volume)
    check_together(node, volume)


@pytest.mark.parametrize("matrix", MOVES.values(), ids=MOVES)
@pytest.mark.parametrize("hardened", [False, True], ids=["", "hardened"])
@pytest.mark.parametrize("which", ["scan", "contour"])
def test_what_is_moved_alone_is_apart_until_the_contour_is_brought_along(pair, which, hardened, matrix):
    volume, node = pair
    before = read_segment(node, own_segment_id(node), volume)
    moved = volume if which == "scan" else node
    put_under_transform(moved, matrix)
    if hardened:
        harden(moved)
    assert are_apart(node, volume)
    with pytest.raises(InputError, match="do not belong together"):
        check_together(node, volume)
    move_along(node, volume)
    assert not are_apart(node, volume)
    after = read_segment(node, own_segment_id(node), volume)
    assert (after == before).all() and not is_edited(node, volume)


@pytest.mark.parametrize("matrix", MOVES.values(), ids=MOVES)
@pytest.mark.parametrize("hardened", [(), ("scan",), ("contour",), ("scan", "contour")])
def test_what_is_moved_together_stays_together(pair, hardened, matrix):
    volume, node = pair
    transform = put_under_transform(volume, matrix)
    node.SetAndObserveTransformNodeID(transform.GetID())
    for name, moved in (("scan", volume), ("contour", node)):
        if name in hardened:
            harden(moved)
    assert not are_apart(node, volume)


def test_a_transform_that_is_taken_away_again_leaves_no_trace(pair):
    volume, node = pair
    put_under_transform(volume, MOVES["turned"])
    volume.SetAndObserveTransformNodeID(None)
    assert not are_apart(node, volume)


def test_a_bent_scan_and_its_contour_are_apart(pair):
    volume, node = pair
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode")
    import vtk

    warp = vtk.vtkThinPlateSplineTransform()
    points = [vtk.vtkPoints(), vtk.vtkPoints()]
    for corner in np.ndindex(2, 2, 2):
        for number, place in enumerate(points):
            place.InsertNextPoint(*(100.0 * np.array(corner) + number * 5.0 * (corner == (1, 1, 1))))
    warp.SetSourceLandmarks(points[0])
    warp.SetTargetLandmarks(points[1])
    transform.SetAndObserveTransformToParent(warp)
    volume.SetAndObserveTransformNodeID(transform.GetID())
    assert are_apart(node, volume)
    move_along(node, volume)
    assert not are_apart(node, volume)


def test_a_contour_drawn_with_finer_voxels_is_not_apart(pair):
    volume, node = pair
    fine = slicer.vtkOrientedImageData()
    labelmap = slicer.vtkOrientedImageData()
    node.GetBinaryLabelmapRepresentation(own_segment_id(node), labelmap)
    fine.DeepCopy(labelmap)
    fine.SetSpacing([size / 2 for size in labelmap.GetSpacing()])
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    assert logic.SetBinaryLabelmapToSegment(fine, node, own_segment_id(node), logic.MODE_REPLACE, fine.GetExtent())
    assert not are_apart(node, volume)


def test_a_scale_that_was_hardened_on_both_is_none_between_them(pair):
    volume, node = pair
    transform = put_under_transform(volume, np.diag([1.1, 1.1, 1.0, 1.0]))
    node.SetAndObserveTransformNodeID(transform.GetID())
    assert not are_apart(node, volume)
    for moved in (volume, node):
        harden(moved)
    assert not are_apart(node, volume)


def test_a_contour_of_finer_voxels_is_brought_along_once(pair):
    volume, node = pair
    labelmap, fine = slicer.vtkOrientedImageData(), slicer.vtkOrientedImageData()
    node.GetBinaryLabelmapRepresentation(own_segment_id(node), labelmap)
    fine.DeepCopy(labelmap)
    fine.SetSpacing([size / 2 for size in labelmap.GetSpacing()])
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    assert logic.SetBinaryLabelmapToSegment(fine, node, own_segment_id(node), logic.MODE_REPLACE, fine.GetExtent())
    put_under_transform(volume, shift(20.0, 0.0, 0.0))
    harden(volume)
    bounds = [0.0] * 6
    node.GetRASBounds(bounds)
    assert are_apart(node, volume)
    for _ in range(2):
        move_along(node, volume)
        assert not are_apart(node, volume)
    moved = [0.0] * 6
    node.GetRASBounds(moved)
    assert moved[0] - bounds[0] == pytest.approx(20.0, abs=0.01)
