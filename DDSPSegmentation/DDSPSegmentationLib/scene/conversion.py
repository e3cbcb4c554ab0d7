"""Between MRML nodes (RAS, under a parent transform) and SimpleITK images (LPS); the flip lives here alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from ..engine.errors import InputError
from ..engine.image_headers import shear_of

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
# A rotation changes the length of a column in its last bits; rounded to a nanometre, a volume and its rotated twin
# have the same spacing, hence the same mask voxels.
SPACING_DECIMALS = 6


def image_from_volume_node(volume_node: slicer.vtkMRMLScalarVolumeNode) -> sitk.Image:
    """The volume as the engine takes it: its voxels, copied, and the place they have in the world.

    Args:
        volume_node: one scalar a voxel. A parent transform counts: its rotation turns the image, its scale changes the
            spacing.

    Returns:
        The image on the volume's own voxel grid, array order z,y,x, LPS millimetres.

    Raises:
        InputError: the node is missing, of another class or without voxels, or its axes are not orthogonal in the
            world.
    """
    image = sitk.GetImageFromArray(_voxels(volume_node))
    _place_in_world(image, volume_node)
    return image


def mask_image(mask: np.ndarray, volume_node: slicer.vtkMRMLScalarVolumeNode) -> sitk.Image:
    """A mask (z,y,x) on a volume's voxel grid as an image in the world, LPS millimetres.

    Raises:
        InputError: the volume's axes are not orthogonal in the world.
    """
    image = sitk.GetImageFromArray(np.ascontiguousarray(mask, np.uint8))
    _place_in_world(image, volume_node)
    return image


def _place_in_world(image: sitk.Image, volume_node: slicer.vtkMRMLScalarVolumeNode) -> None:
    matrix = RAS_TO_LPS @ ijk_to_world(volume_node)
    spacing = np.round(np.linalg.norm(matrix[:3, :3], axis=0), SPACING_DECIMALS)
    if not np.isfinite(matrix).all() or (spacing <= 0).any():
        raise InputError(
            _("Volume '{name}' has a voxel size of {size} mm.").format(
                name=volume_node.GetName(), size=" x ".join(f"{length:g}" for length in spacing)
            ),
            _("Correct its spacing or its transform."),
        )
    direction = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    if shear := shear_of(direction):
        raise InputError(
            _("Volume '{name}' is sheared: its axes are {angle:.2g} degrees off a right angle.").format(
                name=volume_node.GetName(), angle=np.degrees(np.arcsin(min(shear, 1.0)))
            ),
            _("Resample it: in the module Crop Volume, with interpolated cropping, onto a new volume."),
        )
    image.SetSpacing(spacing.tolist())
    image.SetDirection(direction.ravel().tolist())
    image.SetOrigin(matrix[:3, 3].tolist())


def add_volume_node(image: sitk.Image, name: str) -> slicer.vtkMRMLScalarVolumeNode:
    """Add a 3D scalar image to the scene as a volume; 64-bit integers become 32-bit ones, which MRML can show."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    voxels = sitk.GetArrayViewFromImage(image)
    if voxels.dtype in (np.int64, np.uint64):
        voxels = voxels.astype(np.int32)
    return slicer.util.addVolumeFromArray(voxels, RAS_TO_LPS @ matrix, name)


def lps_from_ras(point: Sequence[float]) -> tuple[float, float, float]:
    """A point of the world, given as Slicer does, as SimpleITK counts it."""
    right, anterior, superior = point
    return (-float(right), -float(anterior), float(superior))


def write_segment(
    mask: np.ndarray,
    segmentation_node: slicer.vtkMRMLSegmentationNode,
    segment_id: str,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
) -> None:
    """Replace one segment's voxels; the node's other segments, overlapping ones too, and their surfaces stay.

    No temporary node enters the scene, unlike with slicer.util.updateSegmentBinaryLabelmapFromArray.

    Args:
        mask: z,y,x on the volume's grid, 0 outside and 1 inside.

    Raises:
        InputError: the segmentation is not stored as a labelmap, or a non-linear transform lies between the two.
    """
    source = segmentation_node.GetSegmentation().GetSourceRepresentationName()
    if source != slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName():
        raise InputError(
            _("'{name}' is not stored as a labelmap.").format(name=segmentation_node.GetName()),
            _("Make the binary labelmap its source representation in the module Segmentations."),
        )
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    labelmap = _oriented_image(np.ascontiguousarray(mask, np.uint8), volume_node, segmentation_node)
    if not logic.SetBinaryLabelmapToSegment(
        labelmap, segmentation_node, segment_id, logic.MODE_REPLACE, labelmap.GetExtent()
    ):
        raise RuntimeError(f"Segment '{segment_id}' of '{segmentation_node.GetName()}' did not take its voxels.")


def read_segment(
    segmentation_node: slicer.vtkMRMLSegmentationNode,
    segment_id: str,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
    ignore_transforms: bool = False,
) -> np.ndarray:
    """One segment's voxels on the volume's grid, wherever transforms put the two.

    Args:
        ignore_transforms: compare the two in their own coordinates, as they were before one of them was moved.

    Returns:
        uint8, z,y,x, 0 outside and 1 inside; empty when there is no such segment.

    Raises:
        InputError: a non-linear transform lies between the two.
    """
    empty = np.zeros(volume_node.GetImageData().GetDimensions()[::-1], np.uint8)
    grid = _oriented_image(empty, volume_node, None if ignore_transforms else segmentation_node)
    on_grid = slicer.vtkOrientedImageData()
    resample = slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage
    labelmap = labelmap_of(segmentation_node, segment_id)
    if labelmap is None:
        return empty
    if not resample(labelmap, grid, on_grid, False, False):
        raise RuntimeError(f"Segment '{segment_id}' of '{segmentation_node.GetName()}' cannot be read.")
    return vtk_to_numpy(on_grid.GetPointData().GetScalars()).reshape(empty.shape).astype(np.uint8)


def labelmap_of(
    segmentation_node: slicer.vtkMRMLSegmentationNode, segment_id: str
) -> slicer.vtkOrientedImageData | None:
    """One segment's voxels in the segmentation's own coordinates, up to their extent; ``None`` without any."""
    labelmap = slicer.vtkOrientedImageData()
    is_there = segmentation_node.GetSegmentation().GetSegment(segment_id) is not None  # VTK complains about others
    if not is_there or not segmentation_node.GetBinaryLabelmapRepresentation(segment_id, labelmap):
        return None
    return None if labelmap.IsEmpty() else labelmap


def _voxels(volume_node: slicer.vtkMRMLScalarVolumeNode | None) -> np.ndarray:
    if volume_node is None:
        raise InputError(_("No volume was given."), _("Load an axial T2 volume and choose it."))
    name = volume_node.GetName() if isinstance(volume_node, vtk.vtkObject) else str(volume_node)
    if isinstance(volume_node, slicer.vtkMRMLLabelMapVolumeNode):
        raise InputError(
            _("Volume '{name}' is a labelmap, not an image.").format(name=name),
            _("Choose the T2 volume it was drawn on."),
        )
    if not isinstance(volume_node, slicer.vtkMRMLScalarVolumeNode):
        raise InputError(
            _("'{name}' is a {kind}, not a volume.").format(name=name, kind=type(volume_node).__name__),
            _("Choose an axial T2 volume."),
        )
    image_data = volume_node.GetImageData()
    if image_data is None or image_data.GetNumberOfPoints() == 0 or image_data.GetPointData().GetScalars() is None:
        raise InputError(
            _("Volume '{name}' has no voxels.").format(name=name), _("Load the scan again, or choose another volume.")
        )
    components = image_data.GetNumberOfScalarComponents()
    if components != 1 or isinstance(volume_node, slicer.vtkMRMLVectorVolumeNode):
        raise InputError(
            _("Volume '{name}' is a vector volume with {number} components a voxel.").format(
                name=name, number=components
            ),
            _("Choose a volume with one value a voxel."),
        )
    return vtk_to_numpy(image_data.GetPointData().GetScalars()).reshape(image_data.GetDimensions()[::-1])


def ijk_to_world(volume_node: slicer.vtkMRMLScalarVolumeNode) -> np.ndarray:
    """From a volume's voxels to the world, RAS mm; 4 x 4. Raises InputError under a non-linear transform."""
    matrix = ijk_to_coordinates_under(None, volume_node)
    if matrix is None:
        raise InputError(
            _("Volume '{name}' is under the non-linear transform '{transform}'.").format(
                name=volume_node.GetName(), transform=volume_node.GetParentTransformNode().GetName()
            ),
            _("Harden the transform."),
        )
    return matrix


def ijk_to_coordinates_under(
    transform_node: slicer.vtkMRMLTransformNode | None, volume_node: slicer.vtkMRMLScalarVolumeNode
) -> np.ndarray | None:
    """From a volume's voxels to what a transform is applied to, without one to the world.

    ``None`` where a non-linear transform lies between.
    """
    between = vtk.vtkMatrix4x4()
    source = volume_node.GetParentTransformNode()
    if not slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(source, transform_node, between):
        return None
    return slicer.util.arrayFromVTKMatrix(between) @ ijk_to_ras(volume_node)


def ijk_to_ras(volume_node: slicer.vtkMRMLScalarVolumeNode) -> np.ndarray:
    """From a volume's voxels to its own RAS coordinates, mm, without a parent transform; 4 x 4."""
    matrix = vtk.vtkMatrix4x4()
    volume_node.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def has_voxel_size_of(
    segmentation_node: slicer.vtkMRMLSegmentationNode,
    segment_id: str,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
) -> bool:
    """Whether a segment's voxels have the size of the volume's; an empty one has any."""
    labelmap = labelmap_of(segmentation_node, segment_id)
    return labelmap is None or np.allclose(labelmap.GetSpacing(), volume_node.GetSpacing(), rtol=1e-3)


def image_to_world(image: slicer.vtkOrientedImageData) -> np.ndarray:
    """From voxels (i, j, k, 1) of a labelmap to the coordinates of its segmentation, 4 x 4."""
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def is_on_grid(
    segmentation_node: slicer.vtkMRMLSegmentationNode,
    segment_id: str,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
) -> bool:
    """Whether a segment's voxels are voxels of the volume, where the two are now."""
    labelmap = labelmap_of(segmentation_node, segment_id)
    expected = ijk_to_coordinates_under(segmentation_node.GetParentTransformNode(), volume_node)
    if labelmap is None or expected is None:
        return False
    to_voxels = np.linalg.inv(expected) @ image_to_world(labelmap)
    first, last = (np.array(labelmap.GetExtent())[side::2] + to_voxels[:3, 3] for side in (0, 1))
    inside = (first > -0.5).all() and (last < np.array(volume_node.GetImageData().GetDimensions()) - 0.5).all()
    whole = np.allclose(to_voxels[:3, 3], np.rint(to_voxels[:3, 3]), atol=0.02)
    return bool(inside and whole and np.allclose(to_voxels[:3, :3], np.eye(3), atol=1e-3))


def _oriented_image(
    voxels: np.ndarray,
    volume_node: slicer.vtkMRMLScalarVolumeNode,
    segmentation_node: slicer.vtkMRMLSegmentationNode | None,
) -> slicer.vtkOrientedImageData:
    """Voxels on the volume's grid, in the segmentation's own coordinates; without one, in the volume's own."""
    coordinates = segmentation_node or volume_node
    matrix = ijk_to_coordinates_under(coordinates.GetParentTransformNode(), volume_node)
    if matrix is None:
        raise InputError(
            _("A non-linear transform lies between '{name}' and its volume.").format(name=coordinates.GetName()),
            _("Put both under the same transform, or harden it on both."),
        )
    scalars = numpy_to_vtk(voxels.ravel(), deep=True)
    scalars.SetName("ImageScalars")
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(*voxels.shape[::-1])
    image.GetPointData().SetScalars(scalars)
    image.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(matrix))
    return image
