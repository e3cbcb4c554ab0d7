"""slicer.qMRMLSegmentEditorWidget on real MRML: the choice of nodes and effect, undo, and keyboard shortcuts."""

import slicer
from PySide6 import QtCore, QtGui, QtWidgets

from .error_log import complain
from .mrml_widgets import qMRMLNodeComboBox, qMRMLWidget
from .python_qt import wrapped
from .segment_effects import EFFECT_NAMES, Effect, stroke
from .watched import Watched

COLUMNS = 2
WIDGET = "qMRMLSegmentEditorWidget"
FLAGS = (
    "readOnly",
    "unorderedEffectsVisible",
    "segmentationNodeSelectorVisible",
    "sourceVolumeNodeSelectorVisible",
    "autoShowSourceVolumeNode",
    "maskingSectionVisible",
    "specifyGeometryButtonVisible",
    "show3DButtonVisible",
    "addRemoveSegmentButtonsVisible",
    "switchToSegmentationsButtonVisible",
    "jumpToSelectedSegmentEnabled",
    "undoEnabled",
)


def _flag(name):
    return QtCore.Property(bool, lambda self: self._flags[name], lambda self, value: self._set_flag(name, value))


class qMRMLSegmentEditorWidget(qMRMLWidget):
    """Works on one vtkMRMLSegmentEditorNode; updateWidgetFromMRML() follows whatever changes in it."""

    currentSegmentIDChanged = QtCore.Signal(str)
    segmentationNodeChanged = QtCore.Signal(object)
    sourceVolumeNodeChanged = QtCore.Signal(object)
    signatures = {
        **qMRMLWidget.signatures,
        "currentSegmentIDChanged(QString)": "currentSegmentIDChanged",
        "segmentationNodeChanged(vtkMRMLSegmentationNode*)": "segmentationNodeChanged",
        "sourceVolumeNodeChanged(vtkMRMLVolumeNode*)": "sourceVolumeNodeChanged",
    }

    def __init__(self, parent=None):
        super().__init__(parent)
        self._node = self._segmentation = self._source = self._active = None
        self._segment_id = ""
        self._views_observed = self._updating = False
        self._order = []
        self._flags = {name: True for name in FLAGS}
        self._flags.update(readOnly=False, jumpToSelectedSegmentEnabled=False)
        self._effects = [Effect(name, self) for name in EFFECT_NAMES]
        self._shortcuts = []
        self._logic = slicer.vtkSlicerSegmentEditorLogic()
        self._history = slicer.vtkSegmentationHistory()
        self._logic.SetSegmentationHistory(self._history)
        self._watched, self._node_watched, self._segmentation_watched = Watched(), Watched(), Watched()
        for watched in (self._watched, self._node_watched, self._segmentation_watched):
            self.destroyed.connect(watched.end)
        self._build()
        self._watched.add(self._history, "ModifiedEvent", lambda caller, event: self._update_undo_buttons())

    def _build(self):
        make = {
            name: wrapped(getattr(QtWidgets, name))
            for name in ("QFormLayout", "QGridLayout", "QGroupBox", "QHBoxLayout", "QPushButton", "QToolButton")
        }
        form = make["QFormLayout"](self)
        form.setContentsMargins(0, 0, 0, 0)
        self._segmentation_box, self._source_box = qMRMLNodeComboBox(), qMRMLNodeComboBox()
        self._segmentation_box.nodeTypes = ["vtkMRMLSegmentationNode"]
        self._source_box.noneEnabled = True
        self._source_box.noneDisplay = "Select source volume for editing"
        self._source_box.hideChildNodeTypes = ["vtkMRMLLabelMapVolumeNode", "vtkMRMLDiffusionTensorVolumeNode"]
        self._source_box.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        form.addRow("Segmentation:", self._segmentation_box)
        form.addRow("Source volume:", self._source_box)
        self._form = form
        self._segmentation_box.currentNodeChanged.connect(self._on_segmentation_chosen)
        self._source_box.currentNodeChanged.connect(self._on_source_chosen)
        self._effects_group = make["QGroupBox"]("Effects")
        self._grid = make["QGridLayout"](self._effects_group)
        self._buttons = {}
        for effect in self._effects:
            button = self._buttons[effect.name] = make["QToolButton"]()
            button.text, button.checkable, button.name = effect.name, True, effect.name
            button.clicked.connect(self._chooser(effect.name))
        form.addRow(self._effects_group)
        self._undo_button, self._redo_button = make["QPushButton"]("Undo"), make["QPushButton"]("Redo")
        row = make["QHBoxLayout"]()
        for button, action in ((self._undo_button, self.undo), (self._redo_button, self.redo)):
            row.addWidget(button)
            button.clicked.connect(action)
        form.addRow(row)
        self._selectors = {
            "segmentationNodeSelectorVisible": self._segmentation_box,
            "sourceVolumeNodeSelectorVisible": self._source_box,
        }
        self.updateEffectList()
        self._update_undo_buttons()

    # ---- scene and nodes

    def setMRMLScene(self, scene):
        if scene is self.mrmlScene():
            return
        if self.mrmlScene() is not None:
            self._watched.forget(self.mrmlScene())
        if self._segmentation is not None and self._segmentation.GetScene() is not scene and self._segment_id:
            self._need_editor_node()  # the table of segments is emptied, so its selection changes
        boxes = (self._segmentation_box, self._source_box)
        before = [box.blockSignals(True) for box in boxes]
        super().setMRMLScene(scene)
        for box, was in zip(boxes, before, strict=True):
            box.setMRMLScene(scene)
            box.blockSignals(was)
        self.updateWidgetFromMRML()
        if scene is not None:
            self._watched.add(scene, scene.EndCloseEvent, lambda caller, event: self.updateWidgetFromMRML())
            self._watched.add(scene, scene.EndBatchProcessEvent, lambda caller, event: self._on_batch_end())

    def _on_batch_end(self):
        if self._node is not None:
            if self._node.GetSegmentationNode() is not self._segmentation_box.currentNode():
                self.setSegmentationNode(self._segmentation_box.currentNode())
            if self._node.GetSourceVolumeNode() is not self._source_box.currentNode():
                self.setSourceVolumeNode(self._source_box.currentNode())
        self.updateWidgetFromMRML()

    def mrmlSegmentEditorNode(self):
        return self._node

    def setMRMLSegmentEditorNode(self, node):
        if node is self._node:
            return
        self._node_watched.end()
        self._node = node
        self._logic.SetSegmentEditorNode(node)
        if node is not None:
            self._node_watched.add(node, "ModifiedEvent", lambda caller, event: self.updateWidgetFromMRML())
            self.updateWidgetFromMRML()

    def segmentationNode(self):
        return self._segmentation_box.currentNode()

    def segmentationNodeID(self):
        return self._segmentation_box.currentNodeID

    def setSegmentationNode(self, node):
        if self._node is None or self._node.GetSegmentationNode() is node:
            if self._node is None and node is not None:
                complain(WIDGET, "setSegmentationNode failed: need to set segment editor node first")
            return
        self.setActiveEffect(None)
        self._node.SetAndObserveSegmentationNode(node)

    def sourceVolumeNode(self):
        return self._node.GetSourceVolumeNode() if self._node is not None else None

    def sourceVolumeNodeID(self):
        return self.sourceVolumeNode().GetID() if self.sourceVolumeNode() is not None else ""

    def setSourceVolumeNode(self, node):
        if self._node is None or self.segmentationNode() is None:
            if node is not None:
                complain(WIDGET, "setSourceVolumeNode failed: need to set segment editor and segmentation nodes first")
        elif self._node.GetSourceVolumeNode() is not node:
            self._node.SetAndObserveSourceVolumeNode(node)

    def currentSegmentID(self):
        return (self._node.GetSelectedSegmentID() or "") if self._node is not None else ""

    def setCurrentSegmentID(self, segment_id):
        if self._node is not None:
            self._node.SetSelectedSegmentID(segment_id)

    def _on_segmentation_chosen(self, node):
        if self.mrmlScene() is not None and not self.mrmlScene().IsBatchProcessing():
            self.setSegmentationNode(node)

    def _on_source_chosen(self, node):
        if self.mrmlScene() is not None and not self.mrmlScene().IsBatchProcessing():
            self.setSourceVolumeNode(node)

    # ---- following the editor's node

    def updateWidgetFromMRML(self):
        scene = self.mrmlScene()
        if scene is None or scene.IsClosing() or scene.IsBatchProcessing() or self._updating:
            return
        self._segmentation_box.enabled = self._node is not None
        if self._node is None:
            self._effects_group.enabled = self._source_box.enabled = False
            return
        self._updating = True
        try:
            with slicer.util.NodeModify(self._node):
                self._follow_segmentation()
                self._follow_source()
                self._follow_segment()
                self._follow_effect()
        finally:
            self._updating = False
        self._update_undo_buttons()

    def _follow_segmentation(self):
        node = self._node.GetSegmentationNode()
        _choose(self._segmentation_box, node)
        self._source_box.enabled = node is not None
        if node is not self._segmentation:
            self._segmentation_watched.end()
            self._segmentation = node
            if node is not None:
                self._segmentation_watched.add(node, "ModifiedEvent", lambda *_: self.updateWidgetFromMRML())
                for name in ("ContainedRepresentationNamesModified", "SegmentAdded", "SegmentRemoved"):
                    event = getattr(slicer.vtkSegmentation, name)
                    self._segmentation_watched.add(node, event, lambda *_: self._need_editor_node())
                event = slicer.vtkSegmentation.SegmentModified
                self._segmentation_watched.add(node, event, lambda *_: self._on_segment_modified())
                role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
                self._node.SetAndObserveSourceVolumeNode(node.GetNodeReference(role))
                node.CreateDefaultDisplayNodes()
                if node.GetSegmentation().GetNumberOfSegments() > 0:
                    self._node.SetSelectedSegmentID(node.GetSegmentation().GetNthSegmentID(0))
            self.segmentationNodeChanged.emit(node)
        self._history.SetSegmentation(node.GetSegmentation() if node is not None else None)

    def _follow_source(self):
        node = self._node.GetSourceVolumeNode()
        if self._segmentation is not None and node is not self._source:
            self._source = node
            _choose(self._source_box, node)
            if node is not None and self.autoShowSourceVolumeNode:
                self.showSourceVolumeInSliceViewers()
            self.sourceVolumeNodeChanged.emit(node)

    def _need_editor_node(self):
        if self._node is None:
            complain(WIDGET, "Invalid segment editor parameter set node")

    def _on_segment_modified(self):
        if self.mrmlScene() is not None and not self.mrmlScene().IsClosing():
            self._need_editor_node()

    def showSourceVolumeInSliceViewers(self, forceShowInBackground=False, fitSlice=False):
        volume = self.sourceVolumeNode()
        layout = slicer.app.layoutManager()
        for name in layout.sliceViewNames() if volume is not None and layout is not None else ():
            composite = layout.sliceWidget(name).mrmlSliceCompositeNode()
            shown = (composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID())
            if forceShowInBackground or volume.GetID() not in shown:
                composite.SetBackgroundVolumeID(volume.GetID())
                composite.SetForegroundVolumeID(None)
                composite.SetLabelVolumeID(None)
            if fitSlice:
                layout.sliceWidget(name).fitSliceToBackground()

    def _follow_segment(self):
        if self.currentSegmentID() != self._segment_id:
            self._segment_id = self.currentSegmentID()
            self.currentSegmentIDChanged.emit(self._segment_id)

    def _follow_effect(self):
        possible = self._node.GetSourceVolumeNode() is not None and not self.readOnly
        self._effects_group.enabled = possible
        segments = self._segmentation.GetSegmentation().GetNumberOfSegments() if self._segmentation is not None else 0
        for button in self._buttons.values():
            button.enabled = possible and segments > 0 and bool(self.currentSegmentID())
        active = self.effectByName(self._node.GetActiveEffectName() or "")
        if active is not self._active:
            self._active = active
            if active is not None:
                self.setupViewObservations()
            else:
                self.removeViewObservations()
        for name, button in self._buttons.items():
            button.checked = active is not None and name == active.name

    # ---- effects

    def availableEffectNames(self):
        return EFFECT_NAMES

    def effectByName(self, name):
        return next((effect for effect in self._effects if effect.name == name), None)

    def activeEffect(self):
        return self._active

    def setActiveEffect(self, effect):
        if self._node is not None:
            self._node.SetActiveEffectName(effect.name if effect is not None else "")

    def setActiveEffectByName(self, name):
        self.setActiveEffect(self.effectByName(name))

    def setEffectNameOrder(self, names):
        self._order = list(names)
        self.updateEffectList()

    def effectNameOrder(self):
        return tuple(self._order)

    def updateEffectList(self):
        """Show the buttons of the chosen order first, and the others only where they are wanted."""
        ordered = [name for name in self._order if name in EFFECT_NAMES]
        others = [name for name in EFFECT_NAMES if name not in ordered] if self.unorderedEffectsVisible else []
        for button in self._buttons.values():
            self._grid.removeWidget(button)
            button.setParent(None)
        for number, name in enumerate(ordered + others):
            self._grid.addWidget(self._buttons[name], number // COLUMNS, number % COLUMNS)
            self._buttons[name].show()

    def setupViewObservations(self):
        self._views_observed = slicer.app.layoutManager() is not None

    def removeViewObservations(self):
        self._views_observed = False

    def turnOffLightboxes(self):
        views = self.mrmlScene().GetNodesByClass("vtkMRMLSliceNode") if slicer.app.layoutManager() is not None else ()
        grids = [view for view in views if (view.GetLayoutGridRows(), view.GetLayoutGridColumns()) != (1, 1)]
        for view in grids:
            view.SetLayoutGrid(1, 1)
        return bool(grids)

    # ---- undo and shortcuts

    def saveStateForUndo(self):
        if self._history.GetMaximumNumberOfStates() > 0:
            self._history.SaveState()

    def undo(self):
        self._restore(self._history.RestorePreviousState)

    def redo(self):
        self._restore(self._history.RestoreNextState)

    def _restore(self, restore):
        if self._segmentation is not None:
            with slicer.util.NodeModify(self._segmentation):
                restore()
                self._segmentation.InvokeCustomModifiedEvent(slicer.vtkMRMLDisplayableNode.DisplayModifiedEvent)

    def _update_undo_buttons(self):
        self._undo_button.enabled = not self.readOnly and self._history.IsRestorePreviousStateAvailable()
        self._redo_button.enabled = not self.readOnly and self._history.IsRestoreNextStateAvailable()

    def installKeyboardShortcuts(self, parent=None):
        self.uninstallKeyboardShortcuts()
        actions = {
            "Z": self.undo,
            "Ctrl+Z": self.undo,
            "Y": self.redo,
            "Ctrl+Y": self.redo,
            "Esc": lambda: self.setActiveEffect(None),
        }
        for number, name in enumerate(self._order[:10] or EFFECT_NAMES[:10], 1):
            actions[str(number % 10)] = self._chooser(name, toggles=True)
        for key, action in actions.items():
            shortcut = wrapped(QtGui.QShortcut)(QtGui.QKeySequence(key), parent or slicer.util.mainWindow() or self)
            shortcut.activated.connect(action)
            self._shortcuts.append(shortcut)

    def _chooser(self, name, toggles=False):
        def choose():
            active = self._active is not None and self._active.name == name
            self.setActiveEffect(None if active and toggles else self.effectByName(name))

        return choose

    def uninstallKeyboardShortcuts(self):
        for shortcut in self._shortcuts:
            shortcut.setParent(None)
            shortcut.deleteLater()
        self._shortcuts = []

    # ---- for tests alone

    def installedShortcuts(self):
        return [shortcut.key.toString() for shortcut in self._shortcuts]

    def viewsAreObserved(self):
        return self._views_observed

    def paintSphere(self, ras, radius, erase=False):
        """One stroke of a spherical brush of so many mm at a point of the world, as a person paints it."""
        if self._active is None or self._segmentation is None or not self.currentSegmentID():
            raise AssertionError("A person cannot paint here: no active effect or no segment.")
        self.saveStateForUndo()
        self._logic.SetSegmentationNode(self._segmentation)
        self._logic.SetSourceVolumeNode(self.sourceVolumeNode())
        stroke(self._logic, self._segmentation, self.currentSegmentID(), ras, radius, erase)

    def eraseSphere(self, ras, radius):
        self.paintSphere(ras, radius, erase=True)

    # ---- properties

    def _set_flag(self, name, value):
        self._flags[name] = value
        if name == "unorderedEffectsVisible":
            self.updateEffectList()
        elif name == "readOnly":
            if value:
                self.setActiveEffect(None)
            self.updateWidgetFromMRML()
        elif name in self._selectors:
            box = self._selectors[name]
            box.setVisible(value)
            self._form.labelForField(box).setVisible(value)

    readOnly = _flag("readOnly")
    unorderedEffectsVisible = _flag("unorderedEffectsVisible")
    segmentationNodeSelectorVisible = _flag("segmentationNodeSelectorVisible")
    sourceVolumeNodeSelectorVisible = _flag("sourceVolumeNodeSelectorVisible")
    autoShowSourceVolumeNode = _flag("autoShowSourceVolumeNode")
    maskingSectionVisible = _flag("maskingSectionVisible")
    specifyGeometryButtonVisible = _flag("specifyGeometryButtonVisible")
    show3DButtonVisible = _flag("show3DButtonVisible")
    addRemoveSegmentButtonsVisible = _flag("addRemoveSegmentButtonsVisible")
    switchToSegmentationsButtonVisible = _flag("switchToSegmentationsButtonVisible")
    jumpToSelectedSegmentEnabled = _flag("jumpToSelectedSegmentEnabled")
    undoEnabled = _flag("undoEnabled")
    maximumNumberOfUndoStates = QtCore.Property(
        int,
        lambda self: self._history.GetMaximumNumberOfStates(),
        lambda self, count: self._history.SetMaximumNumberOfStates(count),
    )


def _choose(box, node):
    was = box.blockSignals(True)
    box.setCurrentNode(node)
    box.blockSignals(was)
