"""The panel: joins its sections, the scene and the worker."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from ...engine.errors import TorchMissingError
from ...service.runner import require_torch
from .. import results
from ..contour_display import hide_others
from ..input_choice import doubt_about, preferred_volume
from ..locations import set_visible
from ..result_nodes import results_of, volume_of
from ..shared_worker import end_shared_worker, shared_worker
from ..slice_views import empty_layers, is_in_views, show_volume
from .advanced_section import AdvancedSection
from .correct_section import CorrectSection
from .export_section import ExportSection
from .guard import Guard
from .learn_section import LearnSection
from .looks import Folding, show_icons
from .next_step import next_step
from .parameters import CHOSEN_NODES, KEPT_ON_CLOSE, PanelParameters, connect_widgets
from .result_section import ResultSection
from .review_list_section import ReviewListSection
from .review_section import ReviewSection
from .segment_section import Run, SegmentSection
from .shown_volume import ShownVolume

BEFORE_SELECTORS = 10.0  # priority of an observer that is asked before the node selectors


class Panel(VTKObservationMixin):
    """Wires the widgets of DDSPSegmentation.ui.

    Args:
        ui: the widgets by name.
        parameterNode: called for the module's parameter node.
        modulePath: of the module file.
    """

    def __init__(self, ui, parameterNode: Callable, modulePath: str):
        import qt

        super().__init__()
        self.ui, self._parameterNode = ui, parameterNode
        self._parameters = self._disconnectWidgets = None
        self._volumeNode = self._resultNode = self._outputNode = self._doubtfulGuess = None
        self.isEntered = self._refreshing = self._preselecting = self._sceneIsChanging = False
        self._placing = self._resultWasDeleted = False
        self._kept: dict = {}
        self._guard = Guard(self.say)
        self._lastShown: dict[str, str] = {}  # volume's node ID to that of the result
        self._locations: dict[str, object] = {}  # volume's node ID to the point or box that was chosen for it
        self._hidden: set[str] = set()  # IDs of the results that the user may have shown again by hand
        self._volumeTags: list[tuple] = []
        self.advanced = AdvancedSection(ui, modulePath, self.say)
        self.segment = SegmentSection(
            ui, lambda: self._parameters, self.advanced.asked, self._guard, self._place, self._onRunChanged
        )
        self.result = ResultSection(ui, self.say)
        self.review = ReviewSection(ui, lambda: self._parameters, self._guard, self._onPlacedAgain)
        self.shown = ShownVolume(ui, lambda: self._parameters, self.refresh)
        self.correct = CorrectSection(ui, self._onContourSettled, self._onBrush, self.say)
        self.export = ExportSection(ui, self._guard, self.review.uncertainty)
        self.folding = Folding(ui)
        ui.correctCollapsibleButton.connect("contentsCollapsed(bool)", self.correct.onFolded)
        show_icons(ui)
        self.reviewList = ReviewListSection(ui, self._guard, self._look, lambda: self.segment.runningOn)
        self.learn = LearnSection(
            ui, self._guard, self._onReopened, self.advanced.showModel, self.reviewList.noteStored
        )
        self._settling = qt.QTimer()
        self._settling.setSingleShot(True)
        self._settling.connect("timeout()", self._onSceneSettled)
        scene = slicer.mrmlScene
        for event, method in (
            (scene.StartCloseEvent, self._onStartClose),
            (scene.EndCloseEvent, self._onEndClose),
            (scene.StartImportEvent, self._onStartImport),
            (scene.EndImportEvent, self._onEndImport),
            (scene.NodeAddedEvent, self._onNodesChanged),
            (scene.NodeRemovedEvent, self._onNodesChanged),
        ):
            self.addObserver(scene, event, method)
        leaving = scene.NodeAboutToBeRemovedEvent
        self.addObserver(scene, leaving, self._onNodeAboutToBeRemoved, priority=BEFORE_SELECTORS)
        if slicer.app.layoutManager() is not None:
            slicer.app.layoutManager().connect("layoutChanged(int)", self._onLayoutChanged)
        self._connectParameters()
        self._showNote("")
        self.refresh()
        self.sayNextStep()

    # ---- Slicer's life cycle

    def enter(self) -> None:
        """The module is shown."""
        self.isEntered = True
        self._listenToWorker()
        self._connectParameters()
        self.correct.enter()
        self.export.refresh()  # the DICOM database may be open by now
        self.advanced.showModel()
        self.learn.enter()
        self._preselect()
        self._takeUpNext()
        self.refresh()
        self.reviewList.refresh()
        self._hidden = hide_others(self._resultNode, self._volumeNode, self._hidden)
        if not slicer.app.testingEnabled():
            with suppress(TorchMissingError):
                require_torch()
                shared_worker().start()  # so that the first click need not wait for it

    def exit(self) -> None:
        """Another module is shown; a run goes on."""
        self.isEntered = False
        self.correct.exit()
        self.review.showAfter()
        self.reviewList.close()

    def cleanup(self) -> None:
        """The module is unloaded, or Slicer ends."""
        self._settling.stop()
        self._watchVolume(None)
        self.segment.cleanup()
        end_shared_worker()
        self._disconnectParameters()
        self.removeObservers()
        if slicer.app.layoutManager() is not None:
            slicer.app.layoutManager().disconnect("layoutChanged(int)", self._onLayoutChanged)
        self.review.cleanup()
        self.reviewList.close()
        self.shown.cleanup()
        self.correct.cleanup()
        self.learn.cleanup()
        self.advanced.cleanup()

    # ---- parameters

    def _connectParameters(self) -> None:
        """Bind the widgets to the scene's parameter node; a scene that is closed or loaded keeps the node."""
        node = self._parameterNode()
        if self._parameters is not None and self._parameters.parameterNode is node:
            return
        self._disconnectParameters()
        self._parameters = PanelParameters(node)
        self._disconnectWidgets = connect_widgets(self._parameters, self.ui)
        self.addObserver(node, "ModifiedEvent", self._onParametersModified)

    def _disconnectParameters(self) -> None:
        if self._parameters is None:
            return
        node = self._parameters.parameterNode
        self.removeObserver(node, "ModifiedEvent", self._onParametersModified)
        self._disconnectWidgets()
        self._parameters = self._disconnectWidgets = None

    def _onParametersModified(self, caller, event) -> None:
        self.refresh()

    # ---- scene

    def _onStartClose(self, caller, event) -> None:
        self._kept = {name: getattr(self._parameters, name) for name in KEPT_ON_CLOSE}
        self._sceneIsChanging = True
        self._watchVolume(None)
        self._lastShown.clear()
        self._locations.clear()
        self._hidden.clear()
        self.review.forget()
        self.shown.forget()
        self.correct.startClose()
        self._showResult(None)

    def _onEndClose(self, caller, event) -> None:
        self._sceneIsChanging = False
        self._connectParameters()
        for name, value in self._kept.items():
            setattr(self._parameters, name, value)
        wasRunning = self.segment.abandon()
        self.learn.retrain.yieldTo(False)
        self.correct.connectEditor()
        self.refresh()
        self.reviewList.refresh()
        self.sayNextStep()
        if wasRunning:
            self.say(_("The scene was closed, so the run was ended."))

    def _onStartImport(self, caller, event) -> None:
        """Node selectors forget what they show when a scene was imported; nothing of that may reach the parameters."""
        self._sceneIsChanging = True
        self.segment.isImporting = True
        self._disconnectWidgets()

    def _onEndImport(self, caller, event) -> None:
        self._sceneIsChanging = False
        # A wrapper remembers nodes, and the parameter node may have been read before those it refers to.
        self._disconnectParameters()
        self._connectParameters()
        self.segment.isImporting = False
        self.segment.question.withdraw()
        self._volumeNode, self._outputNode = self._parameters.inputVolume, self._parameters.outputSegmentation
        self._showNote(doubt_about(self._volumeNode) if self._volumeNode is not None else "")
        self._resultNode = None
        self.refresh()
        self.correct.connectEditor()
        self._preselect()
        self.reviewList.refresh()
        self.sayNextStep()

    def _onLayoutChanged(self, layout: int = 0) -> None:
        if self.isEntered and not self._sceneIsChanging:
            self.correct.turnOffLightboxes()
        self.refresh()

    def _onNodesChanged(self, caller, event) -> None:
        if self.isEntered and not self._sceneIsChanging:
            self._settling.start(0)  # a node is filled only after it was added

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeAboutToBeRemoved(self, caller, event, node) -> None:
        """Choose none in place of a node that goes: selectors, the views' too, would choose the one beside it."""
        if self._parameters is None or self._sceneIsChanging:
            return
        if isinstance(node, slicer.vtkMRMLVolumeNode):
            if not self._placing and self.review.loses(node):
                self._parameters.showUncertainty = False  # or it would come again at once
            empty_layers(node)
        self._resultWasDeleted |= node is self._resultNode
        for name in CHOSEN_NODES:
            if getattr(self._parameters, name) is node:
                setattr(self._parameters, name, None)

    def _onSceneSettled(self) -> None:
        if self.isEntered and not self._sceneIsChanging and self._parameters is not None:
            self._preselect()
            self._takeUpNext()
            self.refresh()
            self._hidden = hide_others(self._resultNode, self._volumeNode, self._hidden)
            self.reviewList.refresh()

    def _takeUpNext(self) -> None:
        """In place of a result that was deleted, show the latest one that its volume has left."""
        chosen = self._parameters
        if self._resultWasDeleted and chosen.outputSegmentation is None:
            chosen.outputSegmentation = self._latestResult(chosen.inputVolume)
        self._resultWasDeleted = False

    def _preselect(self) -> None:
        """Choose the T2 volume that the user most likely means, as long as the user chose none."""
        chosen = self._parameters.inputVolume
        isOpen = chosen is None or (chosen is self._doubtfulGuess and not results_of(chosen))
        if not isOpen or self.segment.isRunning:
            return
        volumeNode, note = preferred_volume()
        if volumeNode is not None and volumeNode is not chosen:
            self._preselecting = True  # the views stay as the user arranged them
            self._parameters.inputVolume = volumeNode
            self._preselecting = False
            if note:
                self._showNote(note)
            self._doubtfulGuess = volumeNode if doubt_about(volumeNode) else None

    # ---- what is shown

    def say(self, text: str) -> None:
        """Put what to do next, or what went wrong, into the status line."""
        self.ui.statusLabel.text = text

    def sayNextStep(self) -> None:
        """Say what to do next while nothing runs."""
        if not self.segment.isRunning:
            self.say(next_step(self._parameters.inputVolume, self._resultNode, self.result))

    def refresh(self) -> None:
        """Bring every widget in line with parameters, scene and run."""
        if self._refreshing or self._sceneIsChanging or self._parameters is None:
            return
        self._refreshing = True
        try:
            self._followInput()
            self.segment.refresh()
            self.correct.refresh(self.result.edited)
            self._guard(lambda: self.review.refresh(self.result.edited))
            self.correct.lock(self.review.isElsewhere)
            self.learn.accept.lock(self.review.isElsewhere)
            self.shown.refresh()
        finally:
            self._refreshing = False

    def _followInput(self) -> None:
        """Figures and contour belong to one volume: with another volume its own result is shown, or none."""
        chosen = self._parameters
        volumeNode, output = chosen.inputVolume, chosen.outputSegmentation
        changed = volumeNode is not self._volumeNode
        if changed:
            self._watchVolume(volumeNode)
            self._changeLocation(volumeNode)
            self._volumeNode, self._doubtfulGuess = volumeNode, None
            if output is None or volume_of(output) is not volumeNode:
                output = chosen.outputSegmentation = self._latestResult(volumeNode)
            self._showNote(doubt_about(volumeNode) if volumeNode is not None else "")
        if self.segment.question.isOpen and (changed or output is not self._outputNode):
            self.segment.question.withdraw()
            self.sayNextStep()
        isNewOutput = output is not self._outputNode
        self._outputNode = output
        shown = self._resultNode
        self._showResult(output if output is not None and output in results_of(volumeNode) else None)
        if changed and not self._preselecting:
            show_volume(volumeNode)
        if changed or shown is not self._resultNode:
            self._hidden = hide_others(self._resultNode, volumeNode)
            self.sayNextStep()
        self.reviewList.follow(volumeNode)
        if isNewOutput and output is not None and volumeNode is not None and self.isEntered:
            self._offerToTakeUp(output, volumeNode)

    def _changeLocation(self, volumeNode) -> None:
        """A place in one scan is none in another, nor seen there: with each scan its own comes back."""
        if self._volumeNode is None:
            return  # it was chosen before any scan was
        before = self._locations[self._volumeNode.GetID()] = self._parameters.location
        location = None if volumeNode is None else self._locations.get(volumeNode.GetID())
        self._parameters.location = location if slicer.mrmlScene.IsNodePresent(location) else None
        set_visible(before, False)
        set_visible(self._parameters.location, True)

    def _offerToTakeUp(self, node, volumeNode) -> None:
        """A contour that was loaded, or drawn elsewhere, can be measured, corrected and accepted as any other."""
        segmentId = results.contour_to_take_up(node, volumeNode)
        if not segmentId:
            return

        def takeUp() -> None:
            results.take_up(node, segmentId, volumeNode)
            self.refresh()
            self.sayNextStep()

        words = _("Take up the contour of '{contour}' for '{scan}'?")
        self.segment.question.ask(
            words.format(contour=node.GetName(), scan=volumeNode.GetName()),
            (_("Take It Up"), _("It is measured, and can be corrected and accepted."), lambda: self._guard(takeUp)),
            (_("Leave It"), _("It stays as it is; a new result goes beside it."), self.sayNextStep),
        )

    def _latestResult(self, volumeNode):
        """What was shown of a volume last, or else its latest result."""
        found = results_of(volumeNode)
        last = self._lastShown.get(volumeNode.GetID()) if volumeNode is not None else None
        return next((node for node in found if node.GetID() == last), found[0] if found else None)

    def _watchVolume(self, volumeNode) -> None:
        """A volume that is cropped, resampled or transformed changes its figures."""
        for node, tag in self._volumeTags:
            node.RemoveObserver(tag)
        self._volumeTags = []
        if volumeNode is not None:
            for event in (volumeNode.ImageDataModifiedEvent, volumeNode.TransformModifiedEvent):
                self._volumeTags.append((volumeNode, volumeNode.AddObserver(event, self._onVolumeModified)))

    def _onVolumeModified(self, caller, event) -> None:
        if self._resultNode is not None and not self._sceneIsChanging:
            self.correct.contourChanged()

    def _showNote(self, text: str) -> None:
        self.ui.inputNoteLabel.text = text
        self.ui.inputNoteLabel.setVisible(bool(text))

    def _showResult(self, node) -> None:
        if node is self._resultNode and node is not None:
            return
        self._resultNode = node
        volumeNode = None if node is None else volume_of(node)
        if node is not None:
            self._lastShown[volumeNode.GetID()] = node.GetID()
        for section in (self.correct, self.review, self.result, self.export):
            section.show(node, volumeNode)
        self.learn.showResult(node, volumeNode)

    def _onContourSettled(self) -> None:
        before = self.result.edited, self.result.apart
        self.result.measure()
        if self.result.apart:
            self.review.showAfter()
        self.learn.accept.changed()
        self.refresh()
        self.reviewList.refresh()
        if (self.result.edited, self.result.apart) != before and not self.review.surfacePaused:
            self.sayNextStep()

    def _onPlacedAgain(self) -> None:
        self.correct.forgetUndo()

    def _onBrush(self, active: bool) -> None:
        """A surface that follows every stroke would make strokes slow."""
        self.review.surfacePaused = active
        if active:
            self.correct.turnOffLightboxes()
            self.review.showAfter()
            self.say(_("Editing. The 3D surface is hidden until the tool is off: press Esc, or click the tool again."))
        elif not self._sceneIsChanging:
            self.sayNextStep()
        self.refresh()

    # ---- a run

    def _onRunChanged(self, isIdle: bool = False) -> None:
        if self.segment.isRunning:
            self._listenToWorker()  # it may be another one since something was installed
        self.learn.retrain.yieldTo(self.segment.isRunning)
        if not self.segment.isRunning and self.isEntered and not self._sceneIsChanging:
            self._preselect()  # the volume of the run may have been deleted meanwhile
        self.refresh()
        if isIdle:
            self.sayNextStep()

    def _place(self, run: Run, segmentation) -> None:
        """Put a result into the scene, beside the volume that was chosen at the click."""
        results.check_unchanged(run.volumeNode, run.before)
        isShown = run.outputNode is not None and run.outputNode is self._resultNode
        # After a later one the views stay as somebody looks at them.
        isNews = not results_of(run.volumeNode) or not is_in_views(run.volumeNode)
        overwrite = run.overwrite and isShown  # or Undo could not bring the correction back
        if isShown:
            self.correct.saveStateForUndo()
        self._placing = True
        try:
            placed = results.place_result(segmentation, run.volumeNode, run.outputNode, overwrite, run.asNew)
        finally:
            self._placing = False
        node = placed.outputSegmentationNode
        self.review.keepUncertainty(node, segmentation)
        if self._parameters.inputVolume is not run.volumeNode:
            self._hidden = hide_others(self._resultNode, self._volumeNode, self._hidden)
            name = run.volumeNode.GetName()
            self.say(_("The result of '{name}' is in the scene; choose that volume to see it.").format(name=name))
            return
        self._refreshing = True
        self._parameters.outputSegmentation = node
        self._refreshing = False
        self._resultNode = None  # the same node may hold another result now
        self.refresh()
        if self.isEntered and isNews:
            self.review.showInViews()
        self.sayNextStep()
        if placed.message:
            self.say(f"{placed.message} {self.ui.statusLabel.text}")

    # ---- cases

    def _onReopened(self, volumeNode, node) -> None:
        """Show a case that came back into the scene."""
        self._look(volumeNode, node)
        self.ui.correctCollapsibleButton.collapsed = False

    def _look(self, volumeNode, node) -> None:
        """Look at a scan and its result, or at the scan alone."""
        self._parameters.inputVolume, self._parameters.outputSegmentation = volumeNode, node
        if node is None:
            show_volume(volumeNode)
        else:
            self.review.showInViews()

    def _listenToWorker(self) -> None:
        shared_worker().onStateChanged = self._onWorkerStateChanged
        self._onWorkerStateChanged()

    def _onWorkerStateChanged(self) -> None:
        hello = shared_worker().hello
        if hello is not None:  # what an engine found stays true when it is ended
            self.advanced.showDevices(hello)
