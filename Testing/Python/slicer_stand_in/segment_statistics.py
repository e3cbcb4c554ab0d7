"""``import SegmentStatistics``: volumes of segments, under the keys of Slicer's labelmap plugin."""

import math

import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

PLUGIN = "LabelmapSegmentStatisticsPlugin"


class SegmentStatisticsLogic:
    def __init__(self, parent=None):
        self._node = slicer.vtkMRMLScriptedModuleNode()
        self._statistics = {"SegmentIDs": []}

    def getParameterNode(self):
        return self._node

    def computeStatistics(self):
        node = slicer.mrmlScene.GetNodeByID(self._node.GetParameter("Segmentation"))
        segmentation = node.GetSegmentation()
        self._statistics = {"SegmentIDs": list(segmentation.GetSegmentIDs())}
        for segment_id in self._statistics["SegmentIDs"]:
            labelmap = slicer.vtkOrientedImageData()
            node.GetBinaryLabelmapRepresentation(segment_id, labelmap)
            scalars = labelmap.GetPointData().GetScalars()
            count = int((vtk_to_numpy(scalars) != 0).sum()) if scalars is not None else 0
            mm3 = count * abs(_determinant(labelmap))
            self._statistics[segment_id, "Segment"] = segmentation.GetSegment(segment_id).GetName()
            self._statistics[segment_id, f"{PLUGIN}.voxel_count"] = count
            self._statistics[segment_id, f"{PLUGIN}.volume_mm3"] = mm3
            self._statistics[segment_id, f"{PLUGIN}.volume_cm3"] = mm3 / 1000

    def getStatistics(self):
        return self._statistics


def _determinant(labelmap):
    matrix = vtk.vtkMatrix4x4()
    labelmap.GetImageToWorldMatrix(matrix)
    determinant = matrix.Determinant()
    return determinant if math.isfinite(determinant) else 0.0
