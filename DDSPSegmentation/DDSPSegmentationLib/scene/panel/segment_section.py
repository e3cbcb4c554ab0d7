"""The panel's section Segment: the large button, what it asks first, the run, and its progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace

import slicer
from slicer.i18n import tr as _

from ...engine.errors import Canceled, DDSPSegmentationError
from .. import results
from ..conversion import image_from_volume_node, lps_from_ras
from ..locations import location_of, start_placing
from ..result_nodes import is_edited, is_imported, results_of
from ..shared_worker import end_shared_worker, shared_worker
from ..torch_installation import find_missing
from .double_click import DoubleClick
from .enabling import enable
from .guard import WENT_WRONG, Guard
from .question import Question

# How far the bar has come when a phase begins; nearly all of the time is preprocessing, which tells no fractions, so
# that within a phase the bar creeps towards its end.
PHASE_STARTS = {"Starting engine": 0.0, "Loading model": 0.1, "Preprocessing": 0.2, "Segmenting": 0.7, "Measuring": 0.9}
CREEPING_S = 2.0
TICK_MS = 200


def end_of_phase(begin: float) -> float:
    """How far the bar has come when the phase that began there is over."""
    return min((start for start in PHASE_STARTS.values() if start > begin), default=1.0)


class Run:
    """One click: what was chosen then, whatever the panel shows by now."""

    def __init__(self, volumeNode, outputNode, overwrite: bool, asNew: bool):
        self.volumeNode, self.outputNode, self.overwrite, self.asNew = volumeNode, outputNode, overwrite, asNew
        self.before: tuple = ()
        self.phase, self.fraction, self.started = "Starting engine", 0.0, time.monotonic()
        self.phaseEnd, self.phaseStarted = end_of_phase(self.fraction), self.started

    @property
    def progress(self) -> float:
        """How far the bar is, in [0, 1]: what was reported, and what time alone suggests."""
        crept = 1 - math.exp(-(time.monotonic() - self.phaseStarted) / CREEPING_S)
        return self.fraction + crept * (self.phaseEnd - self.fraction)


class SegmentSection:
    """Sends the chosen volume to the worker and hands back what comes.

    Args:
        parameters: called for the panel's parameters.
        asked: called for the settings that the section Advanced gives a run.
        onDone: called with the run and its Segmentation.
        onChanged: called when a run began or ended, and with True when there is nothing else to say.
    """

    def __init__(self, ui, parameters: Callable, asked: Callable, guard: Guard, onDone: Callable, onChanged: Callable):
        import qt

        self.ui, self._parameters, self._asked = ui, parameters, asked
        self._guard, self._say, self._onDone, self._onChanged = guard, guard.say, onDone, onChanged
        self.doubleClick = DoubleClick()
        self._run: Run | None = None
        self._installing = False
        self.isImporting = False
        answers = (ui.firstAnswerButton, ui.secondAnswerButton, ui.thirdAnswerButton)
        labels = ui.questionLabel, ui.questionDetailsLabel
        self.question = Question(ui.questionFrame, *labels, answers, lambda: self._say(_("Answer the question above.")))
        self._clock = qt.QTimer()
        self._clock.setInterval(TICK_MS)
        self._clock.connect("timeout()", self._showProgress)
        ui.segmentButton.connect("clicked(bool)", self._onButton)
        ui.locationSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._onLocationChanged)
        ui.locationSelector.connect("nodeAddedByUser(vtkMRMLNode*)", start_placing)
        ui.progressBar.setVisible(False)

    @property
    def isRunning(self) -> bool:
        return self._run is not None

    @property
    def runningOn(self):
        """The volume that is being segmented, or ``None``."""
        return None if self._run is None else self._run.volumeNode

    def refresh(self) -> None:
        """Say on the button what a click does, or in its tooltip why it does nothing."""
        button, reason = self.ui.segmentButton, ""
        if self._installing:
            reason = _("PyTorch is being installed.")
        elif not self.isRunning and self._parameters().inputVolume is None:
            reason = _("Choose an axial T2 volume as input volume.")
        button.text = _("Cancel") if self.isRunning else _("Segment Prostate")
        starting = _("Outline the prostate in the chosen volume.")
        enable(button, reason, _("End the run; nothing in the scene changes.") if self.isRunning else starting)
        if self.ui.locationSelector.currentNode() is not self._parameters().location:
            self.ui.locationSelector.setCurrentNode(self._parameters().location)

    def abandon(self) -> bool:
        """End a run whose scene is gone; returns whether there was one."""
        self.question.withdraw()
        if self._run is None:
            return False
        self._end()
        shared_worker().cancel()
        return True

    def cleanup(self) -> None:
        self._run = None
        self._clock.stop()

    def _onLocationChanged(self, node) -> None:
        chosen = self._parameters()
        if chosen is not None and not slicer.mrmlScene.IsClosing() and not self.isImporting:
            chosen.location = node

    # ---- the click

    def _onButton(self, checked: bool = False) -> None:
        if self.doubleClick.isSecond():
            return
        if self.isRunning:
            shared_worker().cancel()
        else:
            self._guard(self._click)

    def _click(self) -> None:
        """Ask what has to be asked first, or start."""
        self.question.withdraw()
        chosen = self._parameters()
        output, volumeNode = chosen.outputSegmentation, chosen.inputVolume
        missing = find_missing()
        if missing is not None:
            self._askForTorch(missing)
        elif output is not None and output in results_of(volumeNode) and is_edited(output, volumeNode):
            self._askAboutCorrection(output)
        else:
            self._start(output)

    def _askAboutCorrection(self, output) -> None:
        beside = _("Beside the contour that is there, into a new segmentation.")
        instead = _("In place of the contour that is there; Undo brings it back.")
        corrected = _("You corrected this contour. Keep it beside the new result, or replace it?")
        imported = _("This contour was imported. Keep it beside the new result, or replace it?")
        self.question.ask(
            imported if is_imported(output) else corrected,
            (_("New"), beside, lambda: self._start(None, asNew=True)),
            (_("Replace"), instead, lambda: self._start(output, overwrite=True)),
            (_("Cancel"), _("Keep everything as it is."), lambda: self._onChanged(True)),
        )

    def _askForTorch(self, missing) -> None:
        def install() -> None:
            end_shared_worker()  # Windows does not replace files that are in use
            self._installing = True
            self._say(_("Installing. Slicer hardly responds until it is done."))
            self._onChanged()
            slicer.app.processEvents()
            said = self._guard(missing.install)
            self._installing = False
            self._onChanged()
            if said is not WENT_WRONG:
                self._say(said)

        self.question.ask(
            missing.question,
            (missing.accept, "", install),
            (_("Not Now"), "", lambda: self._say(missing.refused)),
            details=missing.details,
        )
        self._say(_("Answer the question above to continue."))

    # ---- the run

    def _start(self, outputNode, overwrite: bool = False, asNew: bool = False) -> None:
        run = Run(self._parameters().inputVolume, outputNode, overwrite, asNew)
        if self._guard(lambda: self._submit(run)) is not WENT_WRONG:
            self._run = run
            self.ui.progressBar.value = 0
            self._clock.start()
            self._showProgress()
        self._onChanged()

    def _submit(self, run: Run) -> None:
        chosen = self._parameters()
        results.check_output_node(run.outputNode)
        image = image_from_volume_node(run.volumeNode)
        run.before = results.state_of(run.volumeNode)
        location = location_of(chosen.location)
        point = None if location is None else lps_from_ras(location)
        shared_worker().submit(
            image,
            replace(self._asked(), threshold=chosen.threshold, location=point),
            name=run.volumeNode.GetName(),
            onProgress=lambda phase, fraction: self._onProgress(run, phase, fraction),
            onResult=lambda segmentation: self._onResult(run, segmentation),
            onError=lambda error: self._onError(run, error),
        )

    def _onProgress(self, run: Run, phase: str, fraction: float) -> None:
        begin = PHASE_STARTS.get(phase, run.fraction)
        run.phaseEnd = end_of_phase(begin)
        run.fraction = max(run.progress if phase == run.phase else 0.0, begin + fraction * (run.phaseEnd - begin))
        run.phase, run.phaseStarted = phase, time.monotonic()
        if run is self._run:
            self._showProgress()

    def _showProgress(self) -> None:
        if self._run is None:
            return
        words = {
            "Starting engine": _("Starting engine"),
            "Loading model": _("Loading model"),
            "Preprocessing": _("Preparing the scan"),
            "Segmenting": _("Segmenting"),
            "Measuring": _("Measuring"),
        }
        run = self._run
        self.ui.progressBar.setVisible(True)
        self.ui.progressBar.value = max(self.ui.progressBar.value, round(100 * run.progress))
        values = {
            "phase": words.get(run.phase, run.phase),
            "seconds": time.monotonic() - run.started,
            "name": run.volumeNode.GetName(),
        }
        isShown = self._parameters().inputVolume is run.volumeNode
        text = _("{phase} ({seconds:.0f} s elapsed)") if isShown else _("{phase} of '{name}' ({seconds:.0f} s elapsed)")
        self._say(text.format(**values))

    def _onResult(self, run: Run, segmentation) -> None:
        if run is self._run:
            self._end()
            self._onChanged()
            self._guard(lambda: self._onDone(run, segmentation))

    def _onError(self, run: Run, error: DDSPSegmentationError) -> None:
        if run is not self._run:
            return
        self._end()
        canceled = _("Canceled; nothing was changed. Press Segment Prostate to start again.")
        self._say(canceled if isinstance(error, Canceled) else str(error))
        self._onChanged()

    def _end(self) -> None:
        self._run = None
        self._clock.stop()
        self.ui.progressBar.setVisible(False)
