"""The panel's section Review: contour, surface and uncertainty in the views, and the slices to look at first."""

from __future__ import annotations

from collections.abc import Callable

import slicer
from slicer.i18n import tr as _

from ..conversion import read_segment, write_segment
from ..result_nodes import facts_of, network_mask, own_segment_id
from ..results import add_uncertainty_volume, uncertainty_volume_of
from ..slice_views import (
    SliceTour,
    UncertaintyOverlay,
    apply_display,
    jump_to_slice,
    set_surface_smoothing,
    show_volume,
)

BEFORE_COLOR = (0.2, 0.8, 1.0)


class ReviewSection:
    """How the views show the result of the panel.

    Args:
        parameters: called for the panel's parameters.
    """

    def __init__(self, ui, parameters: Callable):
        self.ui, self._parameters = ui, parameters
        self._node = self._volumeNode = self._beforeNode = None
        self._uncertainty: dict[str, Callable] = {}  # of results of this session: segmentation node ID to its image
        self._overlay = UncertaintyOverlay()
        self._tour = SliceTour([])
        self._shown = None
        self.surfacePaused = False
        ui.nextSliceButton.connect("clicked(bool)", self._onNext)
        ui.previousSliceButton.connect("clicked(bool)", self._onPrevious)
        ui.beforeButton.connect("toggled(bool)", self._onBeforeToggled)
        self.show(None, None)

    def keepUncertainty(self, node, image: Callable) -> None:
        """Remember where the uncertainty of a new result can be read, and forget what was shown of an earlier one."""
        self._uncertainty[node.GetID()] = image
        earlier = uncertainty_volume_of(node)
        if earlier is not None:
            self._overlay.hide()
            slicer.mrmlScene.RemoveNode(earlier)

    def show(self, node, volumeNode) -> None:
        """Review the result of a volume, or nothing."""
        if node is not self._node:
            self.leave()
        self._node, self._volumeNode, self._shown = node, volumeNode, None
        self.ui.reviewCollapsibleButton.setVisible(node is not None)
        facts = None if node is None else facts_of(node)
        self._tour = SliceTour([] if facts is None else facts.slice_doubts)
        self.ui.tourLabel.text = _("Least certain slices")
        for button in (self.ui.nextSliceButton, self.ui.previousSliceButton):
            button.enabled = len(self._tour) > 0
            if not button.enabled:
                button.toolTip = _("The result does not say how sure it is about its slices.")

    def showInViews(self) -> None:
        """Turn the views to the scan and the middle of its gland."""
        show_volume(self._volumeNode)
        mask = read_segment(self._node, own_segment_id(self._node), self._volumeNode)
        occupied = mask.any(axis=(1, 2)).nonzero()[0]
        if occupied.size:
            jump_to_slice(self._volumeNode, mask, int(occupied[len(occupied) // 2]), axis=0)
        if slicer.app.layoutManager() is not None:
            slicer.util.resetThreeDViews()

    def refresh(self, edited: bool) -> None:
        """Bring views and widgets in line with the panel's parameters."""
        if self._node is None:
            return
        chosen = self._parameters()
        self._refreshBefore(edited)
        available = uncertainty_volume_of(self._node) is not None or self._node.GetID() in self._uncertainty
        self.ui.uncertaintyCheckBox.enabled = available
        self.ui.uncertaintyCheckBox.toolTip = (
            _("Colors show where the network was unsure when it made its result.") if available
            else _("The uncertainty was not saved with the scene. Segment again to see it.")
        )
        self.ui.uncertaintySlider.enabled = available and chosen.showUncertainty
        surface = chosen.showSurface and not self.surfacePaused
        wanted = (chosen.showContour, chosen.showFill, surface, chosen.surfaceSmoothing)
        if wanted != self._shown and self._beforeNode is None:
            if self._shown is None or self._shown[3] != chosen.surfaceSmoothing:
                set_surface_smoothing(self._node, chosen.surfaceSmoothing)
            apply_display(self._node, own_segment_id(self._node), *wanted[:3])
            self._shown = wanted
        self._refreshOverlay(chosen.showUncertainty and available, chosen.uncertaintyOpacity)

    def _refreshOverlay(self, wanted: bool, opacity: float) -> None:
        if wanted:
            volumeNode = uncertainty_volume_of(self._node)
            if volumeNode is None:
                image = self._uncertainty[self._node.GetID()]()
                volumeNode = add_uncertainty_volume(image, self._node, self._volumeNode)
            self._overlay.show(volumeNode, opacity)
        elif self._overlay.isShown():
            self._overlay.hide()

    def _onNext(self, checked: bool = False) -> None:
        self._go(self._tour.next())

    def _onPrevious(self, checked: bool = False) -> None:
        self._go(self._tour.previous())

    def _go(self, stop) -> None:
        if stop is None:
            return
        mask = read_segment(self._node, own_segment_id(self._node), self._volumeNode)
        jump_to_slice(self._volumeNode, mask, stop.index)
        self.ui.tourLabel.text = _("Slice {number}: {label} least certain").format(
            number=stop.index + 1, label=stop.label
        )

    # ---- before and after a correction

    def _refreshBefore(self, edited: bool) -> None:
        button = self.ui.beforeButton
        if not edited and button.checked:
            button.checked = False
        button.enabled = edited
        button.toolTip = (
            _("Shows the contour as the network made it instead of yours.") if edited
            else _("The contour is still as the network made it.")
        )

    def _onBeforeToggled(self, on: bool) -> None:
        self._removeBefore()
        mask = network_mask(self._node, self._volumeNode) if on and self._node is not None else None
        if mask is None:
            return
        before = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", _("Before correction"))
        before.SetHideFromEditors(True)
        before.SetSaveWithScene(False)
        before.CreateDefaultDisplayNodes()
        before.GetDisplayNode().SetSaveWithScene(False)
        before.SetAndObserveTransformNodeID(self._volumeNode.GetTransformNodeID())
        before.SetReferenceImageGeometryParameterFromVolumeNode(self._volumeNode)
        segmentId = before.GetSegmentation().AddEmptySegment("", _("Before correction"), list(BEFORE_COLOR))
        write_segment(mask, before, segmentId, self._volumeNode)
        before.GetDisplayNode().SetVisibility2DFill(False)
        self._beforeNode = before
        self._node.GetDisplayNode().SetVisibility(False)

    def _removeBefore(self) -> None:
        before, self._beforeNode = self._beforeNode, None
        if before is not None and before.GetScene() is not None:
            slicer.mrmlScene.RemoveNode(before)
            if self._node is not None and self._node.GetDisplayNode() is not None:
                self._node.GetDisplayNode().SetVisibility(True)

    def showAfter(self) -> None:
        """Show the contour as it is now: somebody edits it, or leaves the panel."""
        self.ui.beforeButton.checked = False

    def leave(self) -> None:
        """Give the views back what was there before."""
        self.showAfter()
        self._overlay.hide()

    def forget(self) -> None:
        """The scene is being closed: its nodes go by themselves."""
        self._overlay.forget()
        self._uncertainty.clear()
        self._beforeNode = self._node = self._volumeNode = None
        self.showAfter()
