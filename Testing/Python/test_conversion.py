"""Volume nodes to images and back, with every kind of geometry that MRML can hold."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from scene_parts import gland_voxels, new_volume, put_under_transform, rigid_matrix

from DDSPSegmentationLib.engine.errors import InputError
from DDSPSegmentationLib.scene.conversion import (
    add_volume_node,
    image_from_volume_node,
    lps_from_ras,
    read_segment,
    write_segment,
)

pytestmark = pytest.mark.usefixtures("scene")
CORNERS = list(itertools.product((0, 23), (0, 19), (0, 11)))


def world_of_voxel(volume, index):
    """Where Slicer shows a voxel: RAS, mm, parent transform included."""
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    point = np.array(matrix.MultiplyPoint((*index, 1.0))[:3])
    world = [0.0, 0.0, 0.0]
    volume.TransformPointToWorld(point, world)
    return np.array(world)


def assert_same_place(image, volume):
    for index in CORNERS:
        left, posterior, superior = image.TransformIndexToPhysicalPoint(index)
        assert (-left, -posterior, superior) == pytest.approx(tuple(world_of_voxel(volume, index)), abs=1e-4)


def oblique_matrix():
    matrix = rigid_matrix(23.0, (1.0, 0.2, -0.5))
    matrix[:3, :3] *= (0.6, 0.7, 3.3)
    return matrix


def test_voxels_keep_their_values_and_order():
    volume = new_volume(voxels=np.arange(12 * 20 * 24, dtype=np.int16).reshape(12, 20, 24))
    image = image_from_volume_node(volume)
    assert image.GetSize() == (24, 20, 12)
    assert image.GetSpacing() == (0.5, 0.5, 3.0)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), slicer.util.arrayFromVolume(volume))


def test_image_is_a_copy():
    volume = new_volume()
    image = image_from_volume_node(volume)
    image[0, 0, 0] = 77
    assert slicer.util.arrayFromVolume(volume)[0, 0, 0] == 0


def test_straight_volume_keeps_its_place():
    volume = new_volume()
    image = image_from_volume_node(volume)
    assert image.GetOrigin() == (-11.0, 7.0, 40.0)
    assert_same_place(image, volume)


def test_oblique_volume_keeps_its_place():
    volume = new_volume(ijk_to_ras=oblique_matrix())
    image = image_from_volume_node(volume)
    assert image.GetSpacing() == (0.6, 0.7, 3.3)
    assert_same_place(image, volume)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_left_handed_volume_keeps_its_place(axis):
    matrix = oblique_matrix()
    matrix[:3, axis] *= -1
    volume = new_volume(ijk_to_ras=matrix)
    image = image_from_volume_node(volume)
    assert np.linalg.det(np.reshape(image.GetDirection(), (3, 3))) == pytest.approx(-1)
    assert_same_place(image, volume)
    canonical = sitk.DICOMOrient(image, "LPS")
    assert sitk.GetArrayFromImage(canonical).sum() == gland_voxels().sum()


def test_rigid_transform_moves_the_image_and_keeps_its_spacing_to_the_bit():
    volume = new_volume(ijk_to_ras=oblique_matrix())
    spacing = image_from_volume_node(volume).GetSpacing()
    put_under_transform(volume, rigid_matrix())
    image = image_from_volume_node(volume)
    assert image.GetSpacing() == spacing
    assert_same_place(image, volume)


def test_transforms_of_transforms_count_too():
    volume = new_volume()
    inner = put_under_transform(volume, rigid_matrix(5.0))
    put_under_transform(inner, rigid_matrix(40.0, (0, 1, 0.2), (1, 2, 3)))
    assert_same_place(image_from_volume_node(volume), volume)


def test_scale_of_a_transform_changes_the_spacing():
    volume = new_volume()
    put_under_transform(volume, np.diag([2.0, 1.0, 0.5, 1.0]))
    image = image_from_volume_node(volume)
    assert image.GetSpacing() == (1.0, 0.5, 1.5)
    assert_same_place(image, volume)


def test_mirroring_transform_is_taken_as_it_is():
    volume = new_volume()
    put_under_transform(volume, np.diag([-1.0, 1.0, 1.0, 1.0]))
    assert_same_place(image_from_volume_node(volume), volume)


def test_sheared_transform_is_refused():
    volume = new_volume("Sheared T2")
    shear = np.eye(4)
    shear[0, 1] = 3e-3
    put_under_transform(volume, shear)
    with pytest.raises(InputError, match="'Sheared T2' is sheared.*Resample it: in the module Crop Volume"):
        image_from_volume_node(volume)


def test_scale_of_a_rotated_volume_shears_it_and_is_refused():
    volume = new_volume(ijk_to_ras=oblique_matrix())
    put_under_transform(volume, np.diag([1.2, 1.0, 1.0, 1.0]))
    with pytest.raises(InputError, match="sheared"):
        image_from_volume_node(volume)


def test_shear_below_the_limit_is_accepted():
    volume = new_volume()
    shear = np.eye(4)
    shear[0, 1] = 1.9e-3
    put_under_transform(volume, shear)
    assert image_from_volume_node(volume).GetSize() == (24, 20, 12)


def test_non_linear_transform_is_refused():
    volume = new_volume()
    grid = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "Warp")
    grid.SetAndObserveTransformFromParent(vtk.vtkThinPlateSplineTransform())
    volume.SetAndObserveTransformNodeID(grid.GetID())
    with pytest.raises(InputError, match="'T2' is under the non-linear transform 'Warp'.*Harden"):
        image_from_volume_node(volume)


def test_flat_transform_is_refused():
    volume = new_volume()
    put_under_transform(volume, np.diag([1.0, 1.0, 0.0, 1.0]))
    with pytest.raises(InputError, match="0.5 x 0.5 x 0 mm"):
        image_from_volume_node(volume)


def test_missing_volume_is_named_as_missing():
    with pytest.raises(InputError, match="No volume was given"):
        image_from_volume_node(None)


@pytest.mark.parametrize(
    ("class_name", "message"),
    [
        ("vtkMRMLScalarVolumeNode", "Volume 'Odd' has no voxels"),
        ("vtkMRMLLabelMapVolumeNode", "Volume 'Odd' is a labelmap"),
        ("vtkMRMLModelNode", "'Odd' is a vtkMRMLModelNode, not a volume"),
        ("vtkMRMLSegmentationNode", "'Odd' is a vtkMRMLSegmentationNode, not a volume"),
    ],
)
def test_node_that_is_no_image_is_refused_by_name(class_name, message):
    node = slicer.mrmlScene.AddNewNodeByClass(class_name, "Odd")
    with pytest.raises(InputError, match=message):
        image_from_volume_node(node)


def test_object_that_is_no_node_is_refused():
    with pytest.raises(InputError, match="'T2.nrrd' is a str"):
        image_from_volume_node("T2.nrrd")


def test_color_volume_is_refused():
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "Photo")
    voxels = vtk.vtkImageData()
    voxels.SetDimensions(4, 4, 4)
    voxels.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    node.SetAndObserveImageData(voxels)
    with pytest.raises(InputError, match="'Photo' is a vector volume with 3 components"):
        image_from_volume_node(node)


@pytest.mark.parametrize("voxel_type", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_image_goes_to_the_scene_and_back(voxel_type):
    image = sitk.GetImageFromArray(np.arange(12 * 20 * 24).reshape(12, 20, 24).astype(voxel_type))
    image.SetSpacing((0.6, 0.7, 3.3))
    image.SetOrigin((1.0, -2.0, 30.0))
    image.SetDirection(rigid_matrix()[:3, :3].ravel().tolist())
    volume = add_volume_node(image, "Loaded")
    assert volume.GetName() == "Loaded"
    assert_same_place(image, volume)
    back = image_from_volume_node(volume)
    assert back.GetPixelID() == image.GetPixelID()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(image))
    assert back.GetSpacing() == pytest.approx(image.GetSpacing())
    assert back.GetDirection() == pytest.approx(image.GetDirection())


def test_long_integers_are_shortened_for_the_scene():
    volume = add_volume_node(sitk.GetImageFromArray(gland_voxels().astype(np.int64)), "Long")
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(volume), gland_voxels())


def test_point_is_turned_from_ras_to_lps():
    assert lps_from_ras((1, 2, 3)) == (-1.0, -2.0, 3.0)


def new_segmentation(volume, *names):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Drawn")
    node.CreateDefaultDisplayNodes()
    node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    return node, [node.GetSegmentation().AddEmptySegment(name, name) for name in names]


def test_segment_has_the_voxels_that_slicer_reads_back():
    volume = new_volume(ijk_to_ras=oblique_matrix())
    put_under_transform(volume, rigid_matrix())
    node, (segment_id,) = new_segmentation(volume, "Prostate")
    mask = (gland_voxels() > 50).astype(np.uint8)
    write_segment(mask, node, segment_id, volume)
    np.testing.assert_array_equal(slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, volume), mask)
    np.testing.assert_array_equal(read_segment(node, segment_id, volume), mask)


def test_segment_can_be_emptied():
    volume = new_volume()
    node, (segment_id,) = new_segmentation(volume, "Prostate")
    write_segment(np.ones((12, 20, 24), np.uint8), node, segment_id, volume)
    write_segment(np.zeros((12, 20, 24), np.uint8), node, segment_id, volume)
    assert not read_segment(node, segment_id, volume).any()


def test_overlapping_segments_and_their_surfaces_stay():
    volume = new_volume()
    node, (prostate, lesion, bladder) = new_segmentation(volume, "Prostate", "Lesion", "Bladder")
    small, low = np.zeros((2, 12, 20, 24), np.uint8)
    small[4:6, 8:11, 8:11] = 1
    low[0:2] = 1
    write_segment(small, node, lesion, volume)
    write_segment(low, node, bladder, volume)
    node.GetSegmentation().CollapseBinaryLabelmaps(False)
    node.CreateClosedSurfaceRepresentation()
    points = node.GetClosedSurfaceInternalRepresentation(lesion).GetNumberOfPoints()
    write_segment(np.ones((12, 20, 24), np.uint8), node, prostate, volume)
    np.testing.assert_array_equal(read_segment(node, lesion, volume), small)
    np.testing.assert_array_equal(read_segment(node, bladder, volume), low)
    assert node.GetClosedSurfaceInternalRepresentation(lesion).GetNumberOfPoints() == points > 0


def test_writing_a_segment_leaves_no_temporary_node():
    volume = new_volume()
    node, (segment_id,) = new_segmentation(volume, "Prostate")
    count = slicer.mrmlScene.GetNumberOfNodes()
    write_segment(np.ones((12, 20, 24), np.uint8), node, segment_id, volume)
    read_segment(node, segment_id, volume)
    assert slicer.mrmlScene.GetNumberOfNodes() == count
