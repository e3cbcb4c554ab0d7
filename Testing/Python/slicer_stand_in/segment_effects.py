"""Effects of the Segment Editor as scripts see them, and the stroke of a brush on a real segment."""

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from .signals import Signals

EFFECT_NAMES = (
    "Paint",
    "Draw",
    "Erase",
    "Level tracing",
    "Grow from seeds",
    "Fill between slices",
    "Threshold",
    "Margin",
    "Hollow",
    "Smoothing",
    "Scissors",
    "Islands",
    "Logical operators",
    "Mask volume",
)


class qSlicerSegmentEditorEffectFactory(Signals):
    """Where extensions register effects of their own, after Slicer has started."""

    signals = ("effectRegistered(QString)",)
    _instance = None

    @classmethod
    def instance(cls):
        cls._instance = cls._instance or cls()
        return cls._instance


class Effect:
    """An effect as scripts see it; its parameters are attributes of the segment editor node."""

    perSegment = requireSegments = True

    def __init__(self, name, editor):
        self.name = self.title = name
        self._editor = editor

    def setParameter(self, name, value):
        self._editor.mrmlSegmentEditorNode().SetAttribute(f"{self.name}.{name}", str(value))

    def parameter(self, name):
        return self._editor.mrmlSegmentEditorNode().GetAttribute(f"{self.name}.{name}") or ""

    def setCommonParameter(self, name, value):
        self._editor.mrmlSegmentEditorNode().SetAttribute(name, str(value))


def stroke(logic, segmentation, segment_id, ras, radius, erase):
    """Add a sphere (world, mm) to a segment, or take it away, as the Paint and Erase effects do."""
    logic.ResetModifierLabelmapToDefault()
    brush = logic.GetModifierLabelmap()
    _fill_sphere(brush, _from_world(segmentation, ras), radius)
    mode = logic.ModificationModeRemove if erase else logic.ModificationModeAdd
    logic.ModifySegmentByLabelmap(segmentation, segment_id, brush, mode, True, False)


def _from_world(node, ras):
    matrix = vtk.vtkMatrix4x4()
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(None, node.GetParentTransformNode(), matrix)
    return (slicer.util.arrayFromVTKMatrix(matrix) @ [*ras, 1.0])[:3]


def _fill_sphere(labelmap, center, radius):
    """Set the voxels of a labelmap (its own frame, mm) that lie within a sphere."""
    matrix = vtk.vtkMatrix4x4()
    labelmap.GetImageToWorldMatrix(matrix)
    to_world = slicer.util.arrayFromVTKMatrix(matrix)
    from_world = np.linalg.inv(to_world)
    low, high = np.array(labelmap.GetExtent()).reshape(3, 2).T
    middle, reach = from_world[:3] @ [*center, 1.0], radius * np.linalg.norm(from_world[:3, :3], axis=1)
    first, last = np.clip([np.floor(middle - reach), np.ceil(middle + reach)], low, high).astype(int)
    box = tuple(slice(a, b + 1) for a, b in zip(first - low, last - low, strict=True))
    index = np.stack(np.mgrid[tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))], -1)
    voxels = vtk_to_numpy(labelmap.GetPointData().GetScalars()).reshape(*(high - low + 1)[::-1]).T
    voxels[:] = 0
    voxels[box] = ((index @ to_world[:3, :3].T + to_world[:3, 3] - center) ** 2).sum(-1) <= radius**2
    labelmap.Modified()
