"""What the views show against what the panel works on: it says so where they differ, and offers both ways out."""

from __future__ import annotations

from collections.abc import Callable

import slicer
from slicer.i18n import tr as _

from ..input_choice import can_be_segmented
from ..slice_views import is_in_views, show_in_new_view, show_volume, slice_logics, views_in_use, volume_in
from .attention import set_shown


class ShownVolume:
    """Watches the layers of every slice view.

    Args:
        parameters: called for the panel's parameters.
        onChanged: called, once for many changes, when the views show other volumes than before.
    """

    def __init__(self, ui, parameters: Callable, onChanged: Callable[[], None]):
        import qt

        self.ui, self._parameters, self._onChanged = ui, parameters, onChanged
        self._tags: dict = {}  # composite node to the tag of its observer
        self._seen: list = []
        self._other = None
        self._settling = qt.QTimer()
        self._settling.setSingleShot(True)
        self._settling.connect("timeout()", self._onSettled)
        ui.useShownButton.connect("clicked(bool)", self._onUseShown)
        ui.showInputButton.connect("clicked(bool)", self._onShowInput)
        ui.otherVolumeFrame.setVisible(False)

    def refresh(self) -> None:
        """Show the scan in views that came since, and say which volume the views show where it is not the panel's."""
        new = [logic for logic in slice_logics() if logic.GetSliceCompositeNode() not in self._tags]
        chosen = self._parameters().inputVolume
        isShown = chosen is not None and is_in_views(chosen, but=new)
        for logic in new:
            if isShown:
                show_in_new_view(chosen, logic)
            composite = logic.GetSliceCompositeNode()
            self._tags[composite] = composite.AddObserver("ModifiedEvent", self._onLayers)
        self._seen = self._layers()
        self._other = self._volumeShownInstead()
        set_shown(self.ui.otherVolumeFrame, self._other is not None)
        if self._other is not None:
            self.ui.useShownButton.setVisible(can_be_segmented(self._other))
            names = {"shown": self._other.GetName(), "chosen": self._parameters().inputVolume.GetName()}
            text = _("The views show '{shown}'; the panel works on '{chosen}'.")
            self.ui.otherVolumeLabel.text = text.format(**names)
            self.ui.useShownButton.toolTip = _("Makes '{shown}' the input volume.").format(**names)
            self.ui.showInputButton.toolTip = _("Shows '{chosen}' in the views.").format(**names)

    def forget(self) -> None:
        """The scene is being closed: its nodes go by themselves."""
        self._settling.stop()
        self._other, self._seen = None, []

    def cleanup(self) -> None:
        self._settling.stop()
        for composite, tag in self._tags.items():
            composite.RemoveObserver(tag)
        self._tags = {}

    def _volumeShownInstead(self):
        chosen = None if self._parameters() is None else self._parameters().inputVolume
        if chosen is None or is_in_views(chosen):
            return None
        return next(filter(None, map(volume_in, views_in_use())), None)

    @staticmethod
    def _layers() -> list:
        composites = [logic.GetSliceCompositeNode() for logic in slice_logics()]
        return [
            (one.GetBackgroundVolumeID(), one.GetForegroundVolumeID(), one.GetForegroundOpacity() > 0)
            for one in composites
        ]

    def _onLayers(self, caller, event) -> None:
        if not slicer.mrmlScene.IsClosing() and self._layers() != self._seen:
            self._settling.start(0)

    def _onSettled(self) -> None:
        if not slicer.mrmlScene.IsClosing():
            self._onChanged()

    def _onUseShown(self, checked: bool = False) -> None:
        if slicer.mrmlScene.IsNodePresent(self._other):
            self._parameters().inputVolume = self._other

    def _onShowInput(self, checked: bool = False) -> None:
        show_volume(self._parameters().inputVolume)
