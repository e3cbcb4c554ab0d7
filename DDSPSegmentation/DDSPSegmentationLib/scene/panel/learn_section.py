"""The panel's section Learn: the case library, retraining, and the versions of the network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from slicer.i18n import tr as _

from .accept_section import AcceptSection
from .cases_section import CasesSection
from .guard import Guard
from .models_section import ModelsSection
from .question import Answer, Question
from .retrain_section import RetrainSection
from .room import keep_room, settle


class LearnSection:
    """Wires Accept, Cases, Retrain and Models; only what is open reads the disk.

    Args:
        onReopened: called with the volume and the segmentation that a case became in the scene.
        onModelsChanged: called when another version of the network is the active one, or one came or went.
        onStored: called with a result and its volume when it became a case, or is none any more.
    """

    def __init__(self, ui, guard: Guard, onReopened: Callable, onModelsChanged: Callable[[], None], onStored: Callable):
        import qt

        self.ui, self._onModelsChanged = ui, onModelsChanged
        answers = (ui.learnFirstAnswerButton, ui.learnSecondAnswerButton)
        labels = ui.learnQuestionLabel, ui.learnQuestionDetailsLabel
        where = _("Answer the question under Learn.")
        self.question = Question(ui.learnQuestionFrame, *labels, answers, lambda: guard.say(where))
        self.accept = AcceptSection(ui, guard, self.refresh, onStored)
        askBelowCases, askBelowModels = (partial(self._askBelow, box) for box in (ui.casesGroupBox, ui.modelsGroupBox))
        self.cases = CasesSection(ui, guard, askBelowCases, onReopened, self._onCasesChanged)
        self.retrain = RetrainSection(ui, guard, self._onPublished)
        self.models = ModelsSection(ui, guard, askBelowModels, self._onVersionsChanged)
        ui.learnCollapsibleButton.connect("contentsCollapsed(bool)", self._onCollapsed)
        self._boxes = {
            ui.casesGroupBox: (ui.casesLabel, ui.chosenCaseLabel, ui.nextCasesLabel),
            ui.retrainGroupBox: (ui.retrainLabel, ui.replayFolderLabel, ui.retrainStatusLabel),
            ui.modelsGroupBox: (ui.chosenVersionLabel, ui.comparisonLabel),
            ui.learnQuestionFrame: labels,
        }
        self._settling = qt.QTimer(ui.learnCollapsibleButton)
        self._settling.setSingleShot(True)
        self._settling.connect("timeout()", self._settle)
        settleSoon = partial(self._settling.start, 0)
        self._watchers = [keep_room(box, wrapping, settleSoon) for box, wrapping in self._boxes.items()]
        for box in (ui.casesGroupBox, ui.retrainGroupBox, ui.modelsGroupBox):
            box.connect("toggled(bool)", lambda opened: settleSoon())

    @property
    def isOpen(self) -> bool:
        return not self.ui.learnCollapsibleButton.collapsed

    def refresh(self) -> None:
        """Show cases and versions as they are on the disk now, if anybody looks."""
        if self.isOpen:
            self.models.refresh()
            self._refreshOthers()

    def _refreshOthers(self) -> None:
        self.cases.refresh()
        self.retrain.refresh()
        self._settling.start(0)

    def _settle(self) -> None:
        for box in self._boxes:
            settle(box)

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
        self._settling.stop()
        self._watchers.clear()
        self.cases.cleanup()
        self.retrain.cleanup()
        self.models.cleanup()

    def _askBelow(self, box, title: str, *answers: Answer, details: str = "") -> None:
        """Ask right below the part of the section that has the question."""
        layout, frame = self.ui.learnCollapsibleButton.layout(), self.ui.learnQuestionFrame
        layout.removeWidget(frame)
        layout.insertWidget(layout.indexOf(box) + 1, frame)
        self.question.ask(title, *answers, details=details)

    def _onCollapsed(self, collapsed: bool) -> None:
        if not collapsed:
            self.refresh()

    def _onCasesChanged(self) -> None:
        self.refresh()
        self.accept.offerPatients()
        self.accept.changed()

    def _onPublished(self, version) -> None:
        self._onVersionsChanged()
        self.models.show(version)

    def _onVersionsChanged(self) -> None:
        """The versions are shown as they are now already."""
        if self.isOpen:
            self._refreshOthers()
        self._onModelsChanged()
