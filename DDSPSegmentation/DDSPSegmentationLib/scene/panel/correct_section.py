"""The panel's section Correct: the Segment Editor on the result, and the way back to what the network made."""

from __future__ import annotations

from collections.abc import Callable

import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from ...engine.errors import DDSPSegmentationError
from ..conversion import write_segment
from ..result_nodes import network_mask, own_segment_id
from .enabling import enable, no_network_contour

EDITOR_TAG = "DDSPSegmentation"
FIRST_EFFECTS = ("Paint", "Erase", "Draw", "Smoothing", "Margin", "Islands", "Fill between slices")
UNDO_STATES = 20
SETTLING_MS = 300
LAST = -1000.0  # priority of an observer that is asked after all others


class CorrectSection(VTKObservationMixin):
    """An embedded Segment Editor with an editor node of its own.

    Args:
        onEdited: called when the contour has not changed for 300 ms after a change.
        onBrush: called with True when an effect becomes active and with False when none is.
        say: puts a sentence into the panel's status line.
    """

    def __init__(self, ui, onEdited: Callable[[], None], onBrush: Callable[[bool], None], say: Callable[[str], None]):
        import qt

        super().__init__()
        self.ui, self._onEdited, self._onBrush, self._say = ui, onEdited, onBrush, say
        self._node = self._volumeNode = self._editorNode = None
        self._brushActive = False
        self._nodeTags: list[int] = []
        self._settling = qt.QTimer()
        self._settling.setSingleShot(True)
        self._settling.connect("timeout()", onEdited)
        self.editor = slicer.qMRMLSegmentEditorWidget()
        self.editor.setMaximumNumberOfUndoStates(UNDO_STATES)
        for part in ("SegmentationNodeSelector", "SourceVolumeNodeSelector", "SwitchToSegmentationsButton",
                     "AddRemoveSegmentButtons", "Show3DButton", "SpecifyGeometryButton"):  # fmt: skip
            setVisible = getattr(self.editor, f"set{part}Visible", None)
            if setVisible is not None:
                setVisible(False)
        self.editor.setAutoShowSourceVolumeNode(False)  # it would hide the uncertainty overlay
        self.editor.setEffectNameOrder(list(FIRST_EFFECTS))
        self.editor.unorderedEffectsVisible = True
        self._selectEditorNode()
        self.editor.setMRMLScene(slicer.mrmlScene)
        scene = slicer.mrmlScene  # the editor observes it too, and has to be done first
        self.addObserver(scene, scene.EndBatchProcessEvent, self._onEndBatch, priority=LAST)
        self._factory = slicer.qSlicerSegmentEditorEffectFactory.instance()
        self._factory.connect("effectRegistered(QString)", self._onEffectRegistered)
        ui.correctCollapsibleButton.layout().insertWidget(1, self.editor)
        ui.resetButton.connect("clicked(bool)", self._onReset)
        self.show(None, None)

    def show(self, node, volumeNode) -> None:
        """Edit the result of a volume, or nothing."""
        if self._settling.isActive():
            self._settling.stop()
            if not slicer.mrmlScene.IsClosing():
                self._onEdited()  # or the table of this result would miss its last edit
        self._forgetNode()
        self._node, self._volumeNode = node, volumeNode
        self.ui.correctCollapsibleButton.setVisible(node is not None)
        self.connectEditor()
        if node is None:
            return
        self.editor.setCurrentSegmentID(own_segment_id(node))
        segmentation = slicer.vtkSegmentation
        edits = (segmentation.SourceRepresentationModified, segmentation.SegmentModified,
                 segmentation.SegmentAdded, segmentation.SegmentRemoved, node.TransformModifiedEvent)  # fmt: skip
        self._nodeTags = [node.AddObserver(event, self._onSegmentationModified) for event in edits]
        self._showSegments()
        self.turnOffLightboxes()

    def _forgetNode(self) -> None:
        """By tags: the mixin would keep every segmentation that was ever shown in memory."""
        for tag in self._nodeTags:
            self._node.RemoveObserver(tag)
        self._nodeTags = []

    def connectEditor(self) -> None:
        """Point the editor at the result; Slicer itself moves it to other nodes, as when a scene was imported."""
        self._selectEditorNode()
        if slicer.mrmlScene.IsBatchProcessing():
            return  # the editor takes nothing in; it is asked again at the end
        if self._node is None:
            self._letGo()
            return
        if self._editorNode.GetSegmentationNode() is not self._node:
            self.editor.setSegmentationNode(self._node)
        if self._editorNode.GetSourceVolumeNode() is not self._volumeNode:
            self.editor.setSourceVolumeNode(self._volumeNode)
        segmentId = self.editor.currentSegmentID()
        if not segmentId or self._node.GetSegmentation().GetSegment(segmentId) is None:
            self.editor.setCurrentSegmentID(own_segment_id(self._node))

    def _letGo(self) -> None:
        """Empty the editor, the volume first: its selector, left alone with one that is deleted, would choose another
        volume, which the editor refuses without a segmentation and reports as an error."""
        self.editor.setSourceVolumeNode(None)
        if self._editorNode.GetSegmentationNode() is not None:
            self.editor.setSegmentationNode(None)

    def _onEndBatch(self, caller, event) -> None:
        if self._node is None or self._node.GetScene() is not None:
            self.connectEditor()

    def saveStateForUndo(self) -> None:
        """Let Undo bring back the contour as it is now."""
        if self._node is not None:
            self.editor.saveStateForUndo()

    def refresh(self, edited: bool) -> None:
        """Enable Reset where it would change something."""
        obstacle = no_network_contour(self._node, edited)
        enable(self.ui.resetButton, obstacle, _("Brings the network's contour back. Undo brings yours back."))

    def enter(self) -> None:
        """The module is shown: shortcuts work, and an editor node that the scene lost is there again."""
        self.editor.installKeyboardShortcuts()
        self.connectEditor()
        if self._node is not None:
            self.turnOffLightboxes()

    def exit(self) -> None:
        """Another module is shown: no brush is left active, and no shortcut."""
        self.editor.setActiveEffect(None)
        self.editor.uninstallKeyboardShortcuts()
        self.editor.removeViewObservations()

    def startClose(self) -> None:
        """The scene is about to be closed."""
        self.show(None, None)
        self.editor.removeViewObservations()
        if self._editorNode is not None:
            self.removeObserver(self._editorNode, "ModifiedEvent", self._onEditorNodeModified)
        self._editorNode = None

    def cleanup(self) -> None:
        self._settling.stop()
        self._factory.disconnect("effectRegistered(QString)", self._onEffectRegistered)
        self._forgetNode()
        self.removeObservers()
        self.exit()
        self._letGo()  # without its node it would report an error for everything that it still follows
        self.editor.setMRMLSegmentEditorNode(None)
        self.editor.setMRMLScene(None)

    def onFolded(self, collapsed: bool) -> None:
        """No tool is left active where nobody sees it."""
        if collapsed:
            self.editor.setActiveEffect(None)

    def forgetUndo(self) -> None:
        """Another contour of the network's own took the place of this one: nothing earlier belongs to it."""
        self.editor.setMaximumNumberOfUndoStates(0)
        self.editor.setMaximumNumberOfUndoStates(UNDO_STATES)

    def lock(self, locked: bool) -> None:
        """Nothing is edited that the views do not show."""
        if locked:
            self.editor.setActiveEffect(None)
        self.editor.readOnly = locked

    def _onEffectRegistered(self, name: str = "") -> None:
        self.editor.updateEffectList()  # extensions register theirs when Slicer has started

    def turnOffLightboxes(self) -> None:
        """The Segment Editor does not work in views of several slices."""
        views = slicer.util.getNodesByClass("vtkMRMLSliceNode")
        has_lightbox = any(view.GetLayoutGridRows() * view.GetLayoutGridColumns() > 1 for view in views)
        # Newer Slicers have no lightbox, and warn whoever turns it off.
        if self._node is not None and has_lightbox and self.editor.turnOffLightboxes():
            self._say(_("Views that showed several slices at once were reset; the Segment Editor does not work there."))

    def _selectEditorNode(self) -> None:
        editorNode = slicer.mrmlScene.GetSingletonNode(EDITOR_TAG, "vtkMRMLSegmentEditorNode")
        if editorNode is None:
            editorNode = slicer.vtkMRMLSegmentEditorNode()
            editorNode.SetSingletonTag(EDITOR_TAG)
            editorNode = slicer.mrmlScene.AddNode(editorNode)
        if editorNode is not self._editorNode:
            if self._editorNode is not None:
                self.removeObserver(self._editorNode, "ModifiedEvent", self._onEditorNodeModified)
            self._editorNode = editorNode
            self.addObserver(editorNode, "ModifiedEvent", self._onEditorNodeModified)
            self.editor.setMRMLSegmentEditorNode(editorNode)

    def contourChanged(self) -> None:
        """Have the contour measured once nothing has changed for 300 ms."""
        self._settling.start(SETTLING_MS)

    def _showSegments(self) -> None:
        """The table of segments takes the place of tools; where there is one segment, nothing can be chosen in it."""
        several = self._node.GetSegmentation().GetNumberOfSegments() > 1
        for table in slicer.util.findChildren(self.editor, name="SegmentsTableResizableFrame"):
            table.setVisible(several)

    def _onSegmentationModified(self, caller, event) -> None:
        self._showSegments()
        self._settling.start(SETTLING_MS if own_segment_id(self._node) else 0)

    def _onEditorNodeModified(self, caller, event) -> None:
        if self._editorNode is None:
            return
        # A shortcut chooses a tool where there is nothing to edit, too.
        active = self._node is not None and bool(self._editorNode.GetActiveEffectName())
        if active != self._brushActive:
            self._brushActive = active
            self._onBrush(active)

    def _onReset(self, checked: bool = False) -> None:
        mask = network_mask(self._node, self._volumeNode)
        if mask is None or not own_segment_id(self._node):
            self._say(_("The network's contour is no longer available. Segment again."))
            return
        self.saveStateForUndo()
        try:
            write_segment(mask, self._node, own_segment_id(self._node), self._volumeNode)
        except DDSPSegmentationError as error:
            self._say(str(error))
