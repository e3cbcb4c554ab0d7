"""The panel's section Review: contour, surface and uncertainty in the views, and the slices to look at first."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import slicer
from slicer.i18n import tr as _

from ...engine.thresholding import at_threshold
from ..contour_display import CONTOUR_WIDTH, apply_display, has_surface, keep_to_scan, set_surface_smoothing
from ..conversion import read_segment, write_segment
from ..result_nodes import facts_of, is_edited, network_mask, own_segment_id
from ..results import add_uncertainty_volume, follow_scan, place_again, remove_with_display, uncertainty_volume_of
from ..slice_views import SliceTour, jump_to_slice, show_volume, zoom_to
from ..uncertainty_overlay import UncertaintyOverlay
from ..unseen_by_undo import unseen_by_undo
from .enabling import enable, no_network_contour, other_scan
from .guard import Guard

BEFORE_COLOR = (0.2, 0.8, 1.0)
THRESHOLD_MS = 150  # the slider has come to rest


class ReviewSection:
    """How the views show the result of the panel.

    Args:
        parameters: called for the panel's parameters.
        onPlacedAgain: called when the contour followed the threshold.
    """

    def __init__(self, ui, parameters: Callable, guard: Guard, onPlacedAgain: Callable[[], None]):
        import qt

        self.ui, self._parameters, self._guard, self._onPlacedAgain = ui, parameters, guard, onPlacedAgain
        self._node = self._volumeNode = self._beforeNode = None
        # Of results of this session: segmentation node ID to what the network said and where its images can be read.
        self._uncertainty: dict[str, tuple] = {}
        self._overlay = UncertaintyOverlay()
        self._facts = None
        self._tour = SliceTour([])
        self._tips = {button: button.toolTip for button in (ui.nextSliceButton, ui.previousSliceButton)}
        self._shown = None
        self._wasVisible = True
        self.isElsewhere = False  # the views show another volume
        self.surfacePaused = False
        ui.nextSliceButton.connect("clicked(bool)", partial(self._go, 1))
        ui.previousSliceButton.connect("clicked(bool)", partial(self._go, -1))
        ui.beforeButton.connect("toggled(bool)", self._onBeforeToggled)
        self._placed = None  # the node that a run has just put a result into
        self._asked: float | None = None  # the threshold that nobody has asked for since the result is shown
        self._zoomedTo: set[str] = set()  # IDs of volumes
        self._resting = qt.QTimer()
        self._resting.setSingleShot(True)
        self._resting.connect("timeout()", lambda: self._guard(self._followThreshold))
        ui.thresholdSlider.connect("valueChanged(double)", lambda value: self._resting.start(THRESHOLD_MS))
        self.show(None, None)

    def keepUncertainty(self, node, segmentation) -> None:
        """Remember where the uncertainty of a new result can be read, and show no longer that of an earlier one."""
        isThere = slicer.mrmlScene.GetNodeByID
        self._uncertainty = {nodeId: kept for nodeId, kept in self._uncertainty.items() if isThere(nodeId) is not None}
        self._uncertainty[node.GetID()] = facts_of(node), segmentation
        self._placed = node
        if node is self._node:
            self._overlay.hide()

    def loses(self, volumeNode) -> bool:
        """A volume is about to leave the scene; returns whether it was the uncertainty that is shown."""
        if self._node is None or uncertainty_volume_of(self._node) is not volumeNode:
            return False
        self._overlay.hide()
        return True

    def show(self, node, volumeNode) -> None:
        """Review the result of a volume, or nothing."""
        if node is not self._node:
            self.leave()
        self._node, self._volumeNode, self._shown, self.isElsewhere = node, volumeNode, None, False
        self.ui.reviewCollapsibleButton.setVisible(node is not None)
        self.ui.actionsWidget.setVisible(node is not None)
        facts = None if node is None else facts_of(node)
        self._startTour(facts)
        if node is not None and node is self._placed:
            self._asked = None
            self._resting.start(THRESHOLD_MS)  # the slider may have moved during the run
        elif node is not None:
            self._asked = self._parameters().threshold  # it is as it was when somebody looked at this result last
        self._placed = None

    def _startTour(self, facts) -> None:
        self._facts = facts
        self._tour = SliceTour([] if facts is None else facts.slice_doubts)
        self.ui.tourLabel.text = _("Least certain slices")
        obstacle = "" if len(self._tour) else _("The result does not say how sure it is about its slices.")
        for button, tip in self._tips.items():
            enable(button, obstacle, tip)

    def showInViews(self) -> None:
        """Turn the views to the scan and the middle of its gland."""
        show_volume(self._volumeNode)
        mask = read_segment(self._node, own_segment_id(self._node), self._volumeNode)
        occupied = mask.any(axis=(1, 2)).nonzero()[0]
        if occupied.size:
            jump_to_slice(self._volumeNode, mask, int(occupied[len(occupied) // 2]), axis=0)
            if self._parameters().zoomToGland and self._volumeNode.GetID() not in self._zoomedTo:
                self._zoomedTo.add(self._volumeNode.GetID())
                zoom_to(self._volumeNode, mask)
        if slicer.app.layoutManager() is not None:
            slicer.util.resetThreeDViews()

    def refresh(self, edited: bool) -> None:
        """Bring views and widgets in line with the panel's parameters."""
        if self._node is None:
            return
        chosen = self._parameters()
        facts = facts_of(self._node)
        if facts != self._facts:  # a script put another result into the node
            self._startTour(facts)
        available = uncertainty_volume_of(self._node) is not None or self._kept() is not None
        self.ui.uncertaintyCheckBox.text = _("Network's uncertainty") if edited else _("Uncertainty")
        enable(
            self.ui.uncertaintyCheckBox,
            "" if available else _("The uncertainty was not saved with the scene. Segment again to see it."),
            _("Colors show where the network was unsure of its contour, from dark (a little) to bright yellow (most)."),
        )
        self.ui.uncertaintySlider.enabled = available and chosen.showUncertainty
        if not keep_to_scan(self._node, self._volumeNode):
            if not self.isElsewhere:  # once, so that whoever wants to see it there can
                self.showAfter()
                self._node.GetDisplayNode().SetVisibility(False)
            self.isElsewhere = True
        else:
            self._showContour(chosen)
        self._refreshBefore(edited)
        self._refreshOverlay(chosen.showUncertainty and available, chosen.uncertaintyOpacity)

    def _showContour(self, chosen) -> None:
        if self._beforeNode is not None:
            keep_to_scan(self._beforeNode, self._volumeNode)
            return
        surface = chosen.showSurface and not self.surfacePaused
        wanted = (chosen.showContour, chosen.showFill, surface, chosen.surfaceSmoothing)
        if self.isElsewhere:
            self._node.GetDisplayNode().SetVisibility(True)
        if wanted != self._shown or self.isElsewhere or self._surfaceDiffers(surface):
            with unseen_by_undo(self._node):
                if self._shown is None or self._shown[3] != chosen.surfaceSmoothing:
                    set_surface_smoothing(self._node, chosen.surfaceSmoothing)
                apply_display(self._node, own_segment_id(self._node), *wanted[:3])
            self._shown, self.isElsewhere = wanted, False

    def _surfaceDiffers(self, wanted: bool) -> bool:
        """Undo brings the surface back, or takes it away, as it was when the state was saved."""
        alone = self._node.GetSegmentation().GetNumberOfSegments() == 1
        return has_surface(self._node) != wanted and (wanted or alone)

    def _kept(self):
        facts, segmentation = self._uncertainty.get(self._node.GetID(), (None, None))
        return segmentation if facts is not None and facts == self._facts else None

    def uncertainty(self):
        """Where the network was unsure of the contour shown (image in [0, 1] on the scan's grid); ``None`` where nobody
        knows, or somebody else drew it."""
        kept = None if self._node is None else self._kept()
        return None if kept is None or is_edited(self._node, self._volumeNode) else kept.uncertainty

    def _refreshOverlay(self, wanted: bool, opacity: float) -> None:
        if wanted:
            volumeNode = uncertainty_volume_of(self._node)
            if volumeNode is None:
                volumeNode = add_uncertainty_volume(self._kept().uncertainty, self._node, self._volumeNode)
            follow_scan(volumeNode, self._volumeNode)
            self._overlay.show(volumeNode, self._volumeNode, opacity)
        elif self._overlay.is_shown():
            self._overlay.hide()

    def _followThreshold(self) -> None:
        """The probability is there: a contour that nobody edited follows the threshold at once."""
        if self._node is None or slicer.mrmlScene.IsClosing():
            return
        found, threshold = self._kept(), self._parameters().threshold
        if self._facts is None or threshold in (self._facts.threshold, self._asked):
            return
        self._asked = None
        if found is None or is_edited(self._node, self._volumeNode):
            self._guard.say(
                _("The threshold of {threshold:g} counts from the next run on.").format(threshold=threshold)
            )
            return
        place_again(at_threshold(found, threshold), self._node, self._volumeNode)
        self._onPlacedAgain()
        self._uncertainty[self._node.GetID()] = facts_of(self._node), found

    def _go(self, by: int, checked: bool = False) -> None:
        stop = self._tour.step(by)
        if stop is None:
            return
        mask = read_segment(self._node, own_segment_id(self._node), self._volumeNode)
        index, label = stop
        jump_to_slice(self._volumeNode, mask, index)
        self.ui.tourLabel.text = _("Slice {number} ({label})").format(number=index + 1, label=label)

    # ---- before and after a correction

    def _refreshBefore(self, edited: bool) -> None:
        button = self.ui.beforeButton
        if not edited and button.checked:
            button.checked = False
        obstacle = no_network_contour(self._node, edited) or other_scan(self.isElsewhere)
        enable(button, obstacle, _("Shows the contour as the network made it instead of yours."))

    def _onBeforeToggled(self, on: bool) -> None:
        self._removeBefore()
        self.ui.beforeButton.text = _("Show Your Contour") if on else _("Show Network's Contour")
        if not on:
            return
        mask = None if self._node is None else network_mask(self._node, self._volumeNode)
        if mask is None:
            self.ui.beforeButton.checked = False
            enable(self.ui.beforeButton, _("The network's contour is no longer available. Segment again."), "")
            return
        before = slicer.vtkMRMLSegmentationNode()
        before.SetName(_("Before correction"))
        before.SetHideFromEditors(True)  # before it is added, or it gets an item in the Data module
        before.SetSaveWithScene(False)
        # All of the segment is there before it is added, too: without an item Slicer reports a change as an error.
        before.SetScene(slicer.mrmlScene)  # to find the transform
        before.SetAndObserveTransformNodeID(self._volumeNode.GetTransformNodeID())
        before.SetReferenceImageGeometryParameterFromVolumeNode(self._volumeNode)
        segmentId = before.GetSegmentation().AddEmptySegment("", _("Before correction"), list(BEFORE_COLOR))
        write_segment(mask, before, segmentId, self._volumeNode)
        if self._parameters().showSurface:
            before.CreateClosedSurfaceRepresentation()
        self._beforeNode = before = slicer.mrmlScene.AddNode(before)
        before.CreateDefaultDisplayNodes()
        before.GetDisplayNode().SetSaveWithScene(False)
        before.GetDisplayNode().SetSliceIntersectionThickness(CONTOUR_WIDTH)
        before.GetDisplayNode().SetVisibility2DFill(False)
        keep_to_scan(before, self._volumeNode)
        self._wasVisible = bool(self._node.GetDisplayNode().GetVisibility())
        self._node.GetDisplayNode().SetVisibility(False)

    def _removeBefore(self) -> None:
        before, self._beforeNode = self._beforeNode, None
        if before is None:
            return
        remove_with_display(before)
        if self._node is not None and self._node.GetDisplayNode() is not None:
            self._node.GetDisplayNode().SetVisibility(self._wasVisible)

    def showAfter(self) -> None:
        """Show the contour as it is now: somebody edits it, or leaves the panel."""
        self.ui.beforeButton.checked = False

    def cleanup(self) -> None:
        self._resting.stop()
        self.leave()

    def leave(self) -> None:
        """Give the views back what was there before."""
        self.showAfter()
        self._overlay.hide()

    def forget(self) -> None:
        """The scene is being closed: its nodes go by themselves."""
        self._overlay.forget()
        self._uncertainty.clear()
        self._zoomedTo.clear()
        self._beforeNode = self._node = self._volumeNode = None
        self.showAfter()
