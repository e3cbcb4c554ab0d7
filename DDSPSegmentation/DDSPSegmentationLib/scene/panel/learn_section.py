"""The panel's section Learn: the case library, retraining, and the versions of the network."""

from __future__ import annotations

from collections.abc import Callable

from .accept_section import AcceptSection
from .cases_section import CasesSection
from .guard import Guard
from .models_section import ModelsSection
from .retrain_section import RetrainSection


class LearnSection:
    """Wires Accept, Cases, Retrain and Models; only what is open reads the disk.

    Args:
        ask: puts a question with up to three answers into the panel.
        onReopened: called with the volume and the segmentation that a case became in the scene.
        onActivated: called when another version of the network is the active one.
    """

    def __init__(self, ui, guard: Guard, ask: Callable, onReopened: Callable, onActivated: Callable[[], None]):
        self.ui, self._onActivated = ui, onActivated
        self.accept = AcceptSection(ui, guard, self.refresh)
        self.cases = CasesSection(ui, guard, ask, onReopened, self._onCasesChanged)
        self.retrain = RetrainSection(ui, guard, self._onPublished)
        self.models = ModelsSection(ui, guard, ask, self._onVersionActivated)
        ui.learnCollapsibleButton.connect("contentsCollapsed(bool)", self._onCollapsed)

    @property
    def isOpen(self) -> bool:
        return not self.ui.learnCollapsibleButton.collapsed

    def refresh(self) -> None:
        """Show cases and versions as they are on the disk now, if anybody looks."""
        if self.isOpen:
            self.cases.refresh()
            self.retrain.refresh()
            self.models.refresh()

    def showResult(self, node, volumeNode) -> None:
        """Offer the result of a volume to be accepted, or nothing."""
        self.accept.show(node, volumeNode)
        if self.isOpen:
            self.cases.showNext()

    def enter(self) -> None:
        """The module is shown; the library may have changed meanwhile."""
        self.retrain.enter()
        self.refresh()

    def cleanup(self) -> None:
        self.cases.cleanup()
        self.retrain.cleanup()
        self.models.cleanup()

    def _onCollapsed(self, collapsed: bool) -> None:
        if not collapsed:
            self.refresh()

    def _onCasesChanged(self) -> None:
        self.refresh()
        self.accept.offerPatients()
        self.accept.changed()

    def _onPublished(self, version) -> None:
        self.refresh()
        self.models.show(version)

    def _onVersionActivated(self) -> None:
        self.refresh()
        self._onActivated()
