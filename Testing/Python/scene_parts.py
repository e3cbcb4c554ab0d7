"""What tests of the Slicer side share: volumes in a real MRML scene, and a runner that needs no network."""

import numpy as np
import SimpleITK as sitk
import slicer
import vtk

from DDSPSegmentationLib.engine.segmentation import ExpectedDice, Segmentation, measure_gland

SHAPE = (12, 20, 24)


def gland_voxels() -> np.ndarray:
    """A bright box of 6 x 10 x 12 voxels (z,y,x) in the dark, nearer to one corner than to the other."""
    voxels = np.zeros(SHAPE, np.int16)
    voxels[3:9, 5:15, 4:16] = 100
    return voxels


def new_volume(name: str = "T2", voxels: np.ndarray | None = None, ijk_to_ras: np.ndarray | None = None):
    """A volume of 0.5 x 0.5 x 3 mm at an odd place, unless told otherwise."""
    if ijk_to_ras is None:
        ijk_to_ras = np.diag([0.5, 0.5, 3.0, 1.0])
        ijk_to_ras[:3, 3] = (11.0, -7.0, 40.0)
    return slicer.util.addVolumeFromArray(gland_voxels() if voxels is None else voxels, ijk_to_ras, name)


def put_under_transform(node, matrix: np.ndarray):
    transform_node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Move")
    transform_node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    node.SetAndObserveTransformNodeID(transform_node.GetID())
    return transform_node


def rigid_matrix(degrees: float = 17.0, axis: tuple = (0.3, -0.4, 0.8), shift: tuple = (12.5, -30.0, 7.0)):
    turn = vtk.vtkTransform()
    turn.Translate(*shift)
    turn.RotateWXYZ(degrees, *axis)
    return slicer.util.arrayFromVTKMatrix(turn.GetMatrix())


def node_names() -> list[str]:
    scene = slicer.mrmlScene
    return sorted(scene.GetNthNode(number).GetID() for number in range(scene.GetNumberOfNodes()))


class ThresholdRunner:
    """Takes every voxel above 50 for prostate; keeps what it was asked."""

    def __init__(self, above: float = 50.0):
        self.above = above
        self.image = None
        self.settings, self.asked = None, {}

    def segment(self, image, settings, *, name, progress=None) -> Segmentation:
        self.image = image
        self.settings, self.asked = settings, dict(name=name, progress=progress)
        if progress is not None:
            progress("network", 0.5)
        mask = sitk.Cast(image > self.above, sitk.sitkUInt8)
        probability = sitk.Cast(mask, sitk.sitkFloat32)
        return Segmentation(
            mask=mask,
            probability=probability,
            uncertainty=probability * 0.25,
            measurements=measure_gland(mask),
            expected_dice=ExpectedDice(0.9, 0.86, 0.93),
            features=None,
            slice_doubts=[None] * 3 + [0.3, 0.1, 0.05, 0.02, 0.1, 0.2] + [None] * 3,
            warnings=["Gland touches the edge."],
            notices=[],
            seconds={"network": 0.5},
            peak_memory_mb={"network": 100.0},
            model_version="threshold-1",
            model_sha256="0" * 64,
            mode=settings.mode,
            threshold=settings.threshold,
            bias_field=settings.bias_field or "off",
            device="cpu",
            precision="float32",
        )
