"""What slicer.app is asked for: events, folders, settings, views, files."""

import os
import pathlib
import shutil
import sys
import tempfile
from types import SimpleNamespace

import slicer
import vtk
from PySide6 import QtCore, QtWidgets

from .color_maps import keep_color_maps, remove_color_maps
from .error_log import ErrorLogModel, SegmentsInHierarchy
from .layout import LayoutManager
from .module_window import closeModule, qSlicerMainWindow
from .parameter_nodes import forget_widgets
from .python_qt import dressed, wrapped
from .signals import Signals


class Application(Signals):
    """slicer.app of a Slicer 5.8; what is not here is asked of Qt's application.

    ``hasLayout``: without it layoutManager() is None, as where Slicer runs without a main window.
    ``testing``: what testingEnabled() says. ``extensionsManager``: what extensionsManagerModel() gives.
    """

    signals = ("startupCompleted()", "aboutToQuit()", "lastWindowClosed()", "mrmlSceneChanged(vtkMRMLScene*)")
    applicationName = "Slicer"
    applicationVersion = "5.8.1-2025-03-02"
    majorVersion, minorVersion = 5, 8
    revision = repositoryRevision = "33241"
    platform = "linux-amd64"
    documentationBaseUrl = "https://slicer.readthedocs.io/en/5.8/"

    def __init__(self, scene, applicationLogic, hasLayout=True):
        self._qt = QtWidgets.QApplication.instance() or wrapped(QtWidgets.QApplication)([])
        self._scene, self._logic = scene, applicationLogic
        self.temporaryPath = tempfile.mkdtemp(prefix="slicer-stand-in-")
        self.slicerHome = os.path.join(self.temporaryPath, "home")
        self.cachePath = os.path.join(self.temporaryPath, "RemoteIO")
        self.extensionsInstallPath = os.path.join(self.temporaryPath, "Extensions")
        self.launcherExecutableFilePath = os.path.join(self.slicerHome, "Slicer")
        for folder in (self.slicerHome, self.cachePath, self.extensionsInstallPath):
            os.makedirs(folder)
        self._make_python_slicer()
        QtCore.QSettings.setDefaultFormat(QtCore.QSettings.IniFormat)
        QtCore.QSettings.setPath(QtCore.QSettings.IniFormat, QtCore.QSettings.UserScope, self.temporaryPath)
        QtCore.QCoreApplication.setOrganizationName("slicer.org")
        QtCore.QCoreApplication.setApplicationName("Slicer")
        self._settings = wrapped(QtCore.QSettings)()
        self.testing = True
        self.extensionsManager = None
        self._modules = ModuleManager()
        self._errors = ErrorLogModel()
        self._layout = LayoutManager(scene, applicationLogic) if hasLayout else None
        self._window = qSlicerMainWindow() if hasLayout else None
        self._tags = (add_hierarchy_items(scene), remove_hierarchy_items(scene), keep_color_maps(scene))
        self._segments = SegmentsInHierarchy(scene)  # after the items: it is told of a node when it has one

    def _make_python_slicer(self):
        """A launcher, as in Slicer: the Python that does the work is its child."""
        launcher = pathlib.Path(self.slicerHome, "bin", "PythonSlicer")
        launcher.parent.mkdir()
        # Slicer's launcher says 1 for a child that was killed.
        launcher.write_text(f"#!/bin/sh\n'{sys.executable}' \"$@\"\ncode=$?\n[ $code -lt 128 ] || exit 1\nexit $code\n")
        launcher.chmod(0o755)

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._qt, name)

    def close(self):
        """End, as Slicer does: the modules first, then the window and the views. A second call does nothing more."""
        self.raiseSignal("aboutToQuit()")
        for name in self._modules.modulesNames():
            closeModule(name)
        forget_widgets()
        if self._window is not None:
            self._window.deleteLater()
            self._window = None
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._tags = ()
        self._segments.close()
        remove_color_maps(self._scene)
        if self._layout is not None:
            self._layout.close()
            self._layout = None
        self.processEvents()
        self._errors.close()
        shutil.rmtree(self.temporaryPath, ignore_errors=True)

    def processEvents(self, *flags):
        self._qt.processEvents(*flags)
        self._qt.sendPostedEvents(None, QtCore.QEvent.DeferredDelete)

    def testingEnabled(self):
        return self.testing

    def mainWindow(self):
        return self._window

    def topLevelWidgets(self):
        return dressed(self._qt.topLevelWidgets())

    def layoutManager(self):
        return self._layout

    def applicationLogic(self):
        return self._logic

    def mrmlScene(self):
        return self._scene

    def moduleManager(self):
        return self._modules

    def moduleLogic(self, name):
        return self._logic.GetModuleLogic(name)

    def errorLogModel(self):
        return self._errors

    def extensionsManagerModel(self):
        return self.extensionsManager

    def userSettings(self):
        return self._settings

    settings = revisionUserSettings = userSettings

    def coreIOManager(self):
        return FileManager()

    ioManager = coreIOManager

    def dicomDatabase(self):
        return getattr(slicer, "dicomDatabase", None)

    def pauseRender(self):
        self._logic.PauseRender()

    def resumeRender(self):
        self._logic.ResumeRender()


class ModuleManager(Signals):
    """slicer.app.moduleManager(): the modules that tests opened or added, by name."""

    signals = ("moduleAboutToBeUnloaded(QString)", "moduleLoaded(QString)", "modulesLoaded(QStringList)")

    def __init__(self):
        self.modules = {}

    def module(self, name):
        return self.modules.get(name)

    def modulesNames(self):
        return tuple(self.modules)

    def factoryManager(self):
        return SimpleNamespace(loadedModuleNames=self.modulesNames)


class FileManager:
    """slicer.app.coreIOManager() for volumes, segmentations, and scenes in one .mrb file."""

    def fileWriterFileType(self, node):
        return ""

    def saveNodes(self, fileType, properties, messages):
        if fileType == "SceneFile":
            return bool(slicer.mrmlScene.WriteToMRB(properties["fileName"]))
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        node.AddDefaultStorageNode()
        node.GetStorageNode().SetFileName(properties["fileName"])
        return bool(node.GetStorageNode().WriteData(node))

    def loadNodes(self, fileType, properties, loaded, messages):
        path = properties["fileName"]
        if fileType == "SceneFile":
            return self._load_scene(path, properties.get("clear", False))
        if fileType == "SegmentationFile":
            node = slicer.modules.segmentations.logic().LoadSegmentationFromFile(path)
        else:
            node = slicer.modules.volumes.logic().AddArchetypeVolume(path, os.path.basename(path).split(".")[0])
        if node is None:
            return False
        if properties.get("name"):
            node.SetName(slicer.mrmlScene.GenerateUniqueName(properties["name"]))
        if fileType != "SegmentationFile" and properties.get("show", True):
            show_volume(node)
        loaded.AddItem(node)
        return True

    def _load_scene(self, path, clear):
        folder = tempfile.mkdtemp(dir=slicer.app.temporaryPath)
        slicer.mrmlScene.SetURL(slicer.vtkMRMLScene.UnpackSlicerDataBundle(path, folder))
        return bool(slicer.mrmlScene.Connect() if clear else slicer.mrmlScene.Import())


def show_volume(node):
    """Make a volume the background of every view, as loading it in Slicer does."""
    application = slicer.app.applicationLogic()
    application.GetSelectionNode().SetActiveVolumeID(node.GetID())
    application.PropagateVolumeSelection()


def add_hierarchy_items(scene):
    """Give each new node its subject hierarchy item, as Slicer's plugins do; returns the observer's tag."""

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def add(caller, event, node):
        if isinstance(node, slicer.vtkMRMLDisplayableNode | slicer.vtkMRMLTableNode) and not node.GetHideFromEditors():
            hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
            if not hierarchy.GetItemByDataNode(node):
                hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

    return scene.AddObserver(scene.NodeAddedEvent, add)


def remove_hierarchy_items(scene):
    """Take the item of a node away with it; returns the observer's tag."""

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def remove(caller, event, node):
        if not scene.IsClosing() and not node.IsA("vtkMRMLSubjectHierarchyNode"):
            hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
            item = hierarchy.GetItemByDataNode(node)
            if item:
                hierarchy.RemoveItem(item, False, False)

    return scene.AddObserver(scene.NodeAboutToBeRemovedEvent, remove)
