"""What slicer.app is asked for in tests: events, folders, settings, reading and writing files."""

import os
import tempfile

import slicer
import vtk
from PySide6 import QtCore, QtWidgets


class Application:
    """slicer.app without a window."""

    def __init__(self):
        self.temporaryPath = tempfile.mkdtemp(prefix="slicer-stand-in-")
        self._qt = QtWidgets.QApplication.instance() or QtWidgets.QApplication([])
        self._settings = QtCore.QSettings(os.path.join(self.temporaryPath, "settings.ini"), QtCore.QSettings.IniFormat)

    def layoutManager(self):
        return None

    def processEvents(self, flags=None):
        self._qt.processEvents()

    def testingEnabled(self):
        return True

    def userSettings(self):
        return self._settings

    def coreIOManager(self):
        return _FileManager()


class _FileManager:
    def fileWriterFileType(self, node):
        return ""

    def saveNodes(self, fileType, properties, messages):
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        node.AddDefaultStorageNode()
        node.GetStorageNode().SetFileName(properties["fileName"])
        return bool(node.GetStorageNode().WriteData(node))

    def loadNodes(self, fileType, properties, loaded, messages):
        path = properties["fileName"]
        if fileType == "SegmentationFile":
            node = slicer.modules.segmentations.logic().LoadSegmentationFromFile(path)
        else:
            node = slicer.modules.volumes.logic().AddArchetypeVolume(path, os.path.basename(path).split(".")[0])
        if node is not None:
            loaded.AddItem(node)
        return node is not None


def add_hierarchy_items(scene):
    """Give each new node its subject hierarchy item, as Slicer's plugins do; returns the observer's tag."""

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def add(caller, event, node):
        if isinstance(node, slicer.vtkMRMLDisplayableNode | slicer.vtkMRMLTableNode):
            hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
            if not hierarchy.GetItemByDataNode(node):
                hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

    return scene.AddObserver(scene.NodeAddedEvent, add)
