"""slicer.app.errorLogModel(): what turns the mark in the status bar red, and the parts of Slicer that complain there.

Counted are the complaints that the sources of Slicer make about nodes and widgets, and VTK's own warnings and errors.
"""

import slicer
import vtk

from .watched import Watched


class ErrorLogModel:
    """ctkErrorLogModel without its grouping: every warning and every error is an entry."""

    def __init__(self):
        self._entries = []
        self._window = vtk.vtkOutputWindow.GetInstance()
        self._tags = [self._window.AddObserver(event, self._on_vtk) for event in ("WarningEvent", "ErrorEvent")]

    def add(self, origin, text):
        """What qWarning() and qCritical() do in Slicer."""
        self._entries.append(f"{origin}: {text}")

    @vtk.calldata_type(vtk.VTK_STRING)
    def _on_vtk(self, caller, event, text):
        self.add("VTK", text.strip())

    def logEntryCount(self):
        return len(self._entries)

    def logEntryDescription(self, row):
        return self._entries[row] if 0 <= row < len(self._entries) else ""

    def clear(self):
        self._entries.clear()

    def close(self):
        for tag in self._tags:
            self._window.RemoveObserver(tag)
        self._tags = []


def complain(origin, text):
    """An entry in the error log of the window that is open, if any."""
    application = getattr(slicer, "app", None)
    if application is not None:
        application.errorLogModel().add(origin, text)


class SegmentsInHierarchy:
    """qSlicerSubjectHierarchySegmentationsPlugin: it wants an item for every segmentation whose segments change."""

    events = {
        "SegmentAdded": "Failed to access subject hierarchy item for segmentation node",
        "SegmentRemoved": "Subject hierarchy item cannot be found for segmentation node",
        "SegmentModified": "Unable to find subject hierarchy item for segmentation node",
    }

    def __init__(self, scene):
        self._scene, self._watched = scene, Watched()
        added = vtk.calldata_type(vtk.VTK_OBJECT)(lambda caller, event, node: self._watch(node))
        removed = vtk.calldata_type(vtk.VTK_OBJECT)(lambda caller, event, node: self._watched.forget(node))
        self._watched.add(scene, scene.NodeAddedEvent, added)
        self._watched.add(scene, scene.NodeRemovedEvent, removed)

    def _watch(self, node):
        if isinstance(node, slicer.vtkMRMLSegmentationNode):
            for name in self.events:
                self._watched.add(node, getattr(slicer.vtkSegmentation, name), self._checker(name))

    def _checker(self, name):
        def check(node, event):
            scene = node.GetScene()
            if scene is not None and scene.IsImporting() and name != "SegmentRemoved":
                return  # the items are not there yet
            hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self._scene)
            if not hierarchy.GetItemByDataNode(node):
                complain("qSlicerSubjectHierarchySegmentationsPlugin", f"{self.events[name]} {node.GetName()}")

        return check

    def close(self):
        self._watched.end()
