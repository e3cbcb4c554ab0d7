"""Widgets that follow an MRML scene: qMRMLWidget and qMRMLNodeComboBox."""

import vtk
from PySide6 import QtCore, QtWidgets

from .python_qt import PythonQtMixin, wrapped
from .watched import Watched

FIRST, LAST = 10.0, -10.0  # priorities with which qMRMLSceneModel hears of nodes that come and go


def _option(name, kind):
    return QtCore.Property(kind, lambda self: self._options[name], lambda self, value: self._set(name, value))


class qMRMLWidget(PythonQtMixin, QtWidgets.QWidget):
    """Hands its scene on to the widgets that its .ui file connects."""

    mrmlSceneChanged = QtCore.Signal(object)
    signatures = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged"}

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None

    def setMRMLScene(self, scene):
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self):
        return self._scene


class qMRMLNodeComboBox(PythonQtMixin, QtWidgets.QWidget):
    """Offers the nodes of some classes in the scene."""

    currentNodeChanged = QtCore.Signal(object)
    currentNodeValidChanged = QtCore.Signal(bool)
    currentNodeIDChanged = QtCore.Signal(str)
    nodeActivated = QtCore.Signal(object)
    nodeAdded = QtCore.Signal(object)
    nodeAddedByUser = QtCore.Signal(object)
    nodeAboutToBeRemoved = QtCore.Signal(object)
    currentNodeRenamed = QtCore.Signal(str)
    signatures = {
        "currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged",
        "currentNodeChanged(bool)": "currentNodeValidChanged",
        "currentNodeIDChanged(QString)": "currentNodeIDChanged",
        "nodeActivated(vtkMRMLNode*)": "nodeActivated",
        "nodeAdded(vtkMRMLNode*)": "nodeAdded",
        "nodeAddedByUser(vtkMRMLNode*)": "nodeAddedByUser",
        "nodeAboutToBeRemoved(vtkMRMLNode*)": "nodeAboutToBeRemoved",
        "currentNodeRenamed(QString)": "currentNodeRenamed",
    }

    def __init__(self, parent=None):
        super().__init__(parent)
        self._options = {
            "showHidden": False,
            "showChildNodeTypes": True,
            "noneEnabled": False,
            "addEnabled": True,
            "removeEnabled": True,
            "editEnabled": False,
            "renameEnabled": False,
            "selectNodeUponCreation": True,
            "noneDisplay": "None",
            "nodeTypes": [],
            "hideChildNodeTypes": [],
            "baseName": "",
        }
        self._attributes = []
        self._scene = None
        self._requested = ""
        self._watched = Watched()
        self.destroyed.connect(self._watched.end)
        self._leaving = None
        self._ids = []
        self._current = ""
        self._box = wrapped(QtWidgets.QComboBox)()
        self._box.setSizeAdjustPolicy(QtWidgets.QComboBox.AdjustToMinimumContentsLengthWithIcon)
        row = wrapped(QtWidgets.QHBoxLayout)(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._box)
        self._box.currentIndexChanged.connect(self._on_index)
        self._box.activated.connect(lambda index: self.nodeActivated.emit(self.currentNode()))
        self.setEnabled(False)

    # ---- the scene

    def mrmlScene(self):
        return self._scene

    def setMRMLScene(self, scene):
        if scene is self._scene:
            return
        self._watched.end()
        self._scene = scene
        if scene is not None:
            added = vtk.calldata_type(vtk.VTK_OBJECT)(lambda caller, event, node: self._on_node_added(node))
            leaving = vtk.calldata_type(vtk.VTK_OBJECT)(lambda caller, event, node: self._on_node_leaving(node))
            self._watched.add(scene, scene.NodeAddedEvent, added, FIRST)
            self._watched.add(scene, scene.NodeAboutToBeRemovedEvent, leaving, LAST)
            self._watched.add(scene, scene.EndCloseEvent, lambda caller, event: self._refresh())
            self._watched.add(scene, scene.EndImportEvent, lambda caller, event: self._on_import())
        self.setEnabled(scene is not None)
        self._refresh(choose_first=True)
        if scene is not None and self._requested:
            self.setCurrentNodeID(self._requested)
            self._requested = ""

    def _offers(self, node):
        options = self._options
        classes = options["nodeTypes"]
        of_class = any(
            node.IsA(name) and (options["showChildNodeTypes"] or node.GetClassName() == name) for name in classes
        )
        hidden = node.GetHideFromEditors() and not options["showHidden"]
        hidden = hidden or any(node.IsA(name) for name in options["hideChildNodeTypes"])
        fits = all(
            node.GetAttribute(name) is not None and value in (None, node.GetAttribute(name))
            for kind, name, value in self._attributes
            if node.IsA(kind)
        )
        return of_class and fits and not hidden and node is not self._leaving

    def _on_node_added(self, node):
        if self._scene.IsImporting():  # IDs and references are not valid yet
            return
        if any(node.IsA(name) for name in self._options["nodeTypes"]):
            self._refresh()
            if node.GetID() in self._ids:
                self.nodeAdded.emit(node)

    def _on_import(self):
        """The list is emptied and filled again, which forgets the choice."""
        self._box.setCurrentIndex(0 if self._options["noneEnabled"] else -1)
        self._refresh()

    def _on_node_leaving(self, node):
        if node.GetID() in self._ids and not self._scene.IsClosing():  # the list is made anew when it was closed
            self.nodeAboutToBeRemoved.emit(node)
            self._leaving = node
            self._refresh()
            self._leaving = None
        self._watched.forget(node)

    def _on_node_modified(self, node):
        index = self._box.findData(node.GetID())
        if (index >= 0) != bool(self._offers(node)):
            self._refresh()
        elif index >= 0 and self._box.itemText(index) != node.GetName():
            self._box.setItemText(index, node.GetName())

    def _refresh(self, choose_first=False):
        """Make the list anew; where the chosen node is gone, the one in its place is chosen, else the last.

        The first node to arrive is chosen by itself in a list of nodes alone: QComboBox counts the entries "None",
        "Create new ..." and "Delete current ...".
        """
        nodes = []
        if self._scene is not None:
            everything = [self._scene.GetNthNode(number) for number in range(self._scene.GetNumberOfNodes())]
            for node in everything:
                if any(node.IsA(name) for name in self._options["nodeTypes"]):
                    self._watched.add(node, "ModifiedEvent", lambda caller, event: self._on_node_modified(caller))
            nodes = [node for node in everything if self._offers(node)]
        position, was_empty = self._box.currentIndex, not self._ids
        self._ids = [node.GetID() for node in nodes]
        none = [(self._options["noneDisplay"], "")] if self._options["noneEnabled"] else []
        entries = none + [(node.GetName(), node.GetID()) for node in nodes]
        was = self._box.blockSignals(True)
        self._box.clear()
        for text, node_id in entries:
            self._box.addItem(text, node_id)
        if self._current in self._ids:
            position = self._box.findData(self._current)
        elif self._current:
            position = min(max(position, 0), len(entries) - 1)
        else:
            actions = ("addEnabled", "removeEnabled", "editEnabled", "renameEnabled")
            alone = was_empty and not any(self._options[name] for name in actions)
            position = 0 if none or self._ids and (alone or choose_first) else -1
        self._box.setCurrentIndex(position)
        self._box.blockSignals(was)
        self._on_index(position)

    # ---- the choice

    def _on_index(self, index):
        chosen = self._box.itemData(index) or "" if index >= 0 else ""
        if chosen == self._current:
            return
        self._current = chosen
        node = self.currentNode()
        self.currentNodeChanged.emit(node)
        self.currentNodeValidChanged.emit(node is not None)
        self.currentNodeIDChanged.emit(chosen)

    def currentNode(self):
        return self._scene.GetNodeByID(self._current) if self._scene is not None and self._current else None

    def setCurrentNode(self, node):
        self.setCurrentNodeID(node.GetID() if node is not None else "")

    def setCurrentNodeID(self, node_id):
        node_id = node_id or ""
        if self._scene is None:
            self._requested = node_id
        self._box.setCurrentIndex(
            self._box.findData(node_id) if node_id in self._ids or not node_id else self._box.findData("")
        )

    def setCurrentNodeIndex(self, index):
        self._box.setCurrentIndex(index + self._options["noneEnabled"])

    def nodeCount(self):
        return len(self._ids)

    def nodeFromIndex(self, index):
        return self._scene.GetNodeByID(self._ids[index]) if 0 <= index < len(self._ids) else None

    def addNode(self, node_type=None):
        """What the entry "Create new ..." does."""
        node_type = node_type or self._options["nodeTypes"][0]
        label = self._options["baseName"] or self._scene.GetTypeDisplayNameByClassName(node_type) or "Node"
        node = self._scene.CreateNodeByClass(node_type)
        node.UnRegister(None)
        node.SetName(self._scene.GenerateUniqueName(label))
        for kind, name, value in self._attributes:
            if node.IsA(kind):
                node.SetAttribute(name, value or "")
        node = self._scene.AddNode(node)
        if self._options["selectNodeUponCreation"]:
            self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def removeCurrentNode(self):
        self._scene.RemoveNode(self.currentNode())

    def addAttribute(self, node_type, name, value=None):
        self._attributes.append((node_type, name, value))
        self._refresh()

    def _set(self, name, value):
        if name == "nodeTypes":
            value = [kind for kind in value if kind]
        self._options[name] = value
        self._refresh()

    currentNodeID = QtCore.Property(str, lambda self: self._current, setCurrentNodeID)
    showHidden = _option("showHidden", bool)
    showChildNodeTypes = _option("showChildNodeTypes", bool)
    noneEnabled = _option("noneEnabled", bool)
    addEnabled = _option("addEnabled", bool)
    removeEnabled = _option("removeEnabled", bool)
    editEnabled = _option("editEnabled", bool)
    renameEnabled = _option("renameEnabled", bool)
    selectNodeUponCreation = _option("selectNodeUponCreation", bool)
    noneDisplay = _option("noneDisplay", str)
    baseName = _option("baseName", str)
    nodeTypes = _option("nodeTypes", "QStringList")
    hideChildNodeTypes = _option("hideChildNodeTypes", "QStringList")
