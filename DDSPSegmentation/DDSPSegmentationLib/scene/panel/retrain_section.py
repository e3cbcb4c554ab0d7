"""The panel's section Retrain: what a retraining would do, the one that runs, and the one that was interrupted."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from ...library.model_version import ModelVersion
from ...service.retraining import RetrainingPlan, plan_retraining
from ...service.retraining_process import discard_run
from ...service.retraining_status import DISCARDED, DONE, FAILED, PAUSED, RunStatus
from ..learning_curve import LearningCurve
from ..retraining_client import AT_WORK, POLL_MS, RetrainingClient
from ..settings import read_setting, write_setting
from ..user_folders import case_library, model_registry
from .attention import bring_into_view, set_shown
from .enabling import enable
from .guard import WENT_WRONG, Guard
from .paths import ask_for_folder
from .words import about_purposes, cases, counted, patients

LEAVING_OUT = "Cross-validation"  # how such a stage of a run begins


class RetrainSection:
    """Starts a retraining in a process of its own and follows it, whatever happens to the scene or the module.

    Args:
        onPublished: called with the candidate that a retraining made; only a person activates it.
    """

    def __init__(self, ui, guard: Guard, onPublished: Callable[[ModelVersion], None]):
        import qt

        self.ui, self._guard, self._say, self._onPublished = ui, guard, guard.say, onPublished
        self._client, self._curve = RetrainingClient(), LearningCurve()
        self._plan: RetrainingPlan | None = None
        self._status: RunStatus | None = None  # of the run that is at work
        self._others: list[RunStatus] = []
        self._outcome = ""
        self._offered = False
        self._replayTip = ui.replayFolderButton.toolTip
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.connect("timeout()", self._look)
        ui.retrainButton.connect("clicked(bool)", self._onButton)
        ui.resumeRunButton.connect("clicked(bool)", self._onResume)
        ui.discardRunButton.connect("clicked(bool)", self._onDiscard)
        ui.curveButton.connect("clicked(bool)", self._onCurve)
        ui.replayFolderButton.connect("clicked(bool)", self._onReplayFolder)
        if slicer.app.layoutManager() is not None:
            slicer.app.layoutManager().connect("layoutChanged(int)", self._showCurveButton)
        self._show()

    # ---- Slicer's life cycle

    def enter(self) -> None:
        """Take up what goes on since before the module was reloaded, and offer what was interrupted."""
        self._find()
        if self._interrupted() is not None and not self._offered:
            self._offered = True
            self.ui.learnCollapsibleButton.collapsed = self.ui.retrainGroupBox.collapsed = False
            self._say(_("A retraining was interrupted. Resume or discard it under Learn."))
            self._show()
            bring_into_view(self.ui.resumeRunButton)
        self._show()

    def cleanup(self) -> None:
        """The module is unloaded, or Slicer ends: the process ends soon after Slicer, by itself."""
        self._timer.stop()
        if slicer.app.layoutManager() is not None:
            slicer.app.layoutManager().disconnect("layoutChanged(int)", self._showCurveButton)

    def refresh(self) -> None:
        """Say anew what a retraining would do; the library or the models may have changed."""
        self._find()
        plan = self._guard(lambda: plan_retraining(*self._work()))
        if plan is not WENT_WRONG:
            self._plan = plan
        self._show()

    def yieldTo(self, busy: bool) -> None:
        """Let the run wait while a scan is segmented."""
        self._guard(lambda: self._client.yieldTo(busy))
        self._showCurveButton()  # the scene may have been closed

    # ---- the run

    def _find(self) -> None:
        others = self._guard(lambda: self._client.find(model_registry().folder))
        if others is not WENT_WRONG:
            self._others = others
        if self._client.isRunning and not self._timer.active:
            self._timer.start()
            self._look()

    def _interrupted(self) -> RunStatus | None:
        """The last run that can be resumed, as long as none is at work."""
        if self._client.isRunning or self._elsewhere() is not None:
            return None
        return self._others[-1] if self._others else None

    def _elsewhere(self) -> RunStatus | None:
        """A run of this computer that another Slicer or a terminal has begun."""
        return next((status for status in self._others if status.state in AT_WORK), None)

    def _onButton(self, checked: bool = False) -> None:
        if self._client.isRunning:
            self._guard(self._client.cancel)
            self._look()
        else:
            self._begin(lambda: self._client.start(*self._work()))

    def _work(self) -> tuple[Path, Path, str, str]:
        """What is trained on, as the user has chosen it."""
        return case_library().folder, model_registry().folder, self._replayFolder(), read_setting("device", "auto")

    def _onResume(self, checked: bool = False) -> None:
        interrupted = self._interrupted()
        if interrupted is not None:
            self._begin(lambda: self._client.resume(interrupted.folder))

    def _begin(self, start: Callable[[], None]) -> None:
        self._outcome = ""
        if self._guard(start) is not WENT_WRONG:
            self._say(_("Retraining. You can go on working; it yields to you."))
        self._find()
        self._show()

    def _onDiscard(self, checked: bool = False) -> None:
        interrupted = self._interrupted()
        if interrupted is not None and self._guard(lambda: discard_run(interrupted.folder)) is not WENT_WRONG:
            self._outcome = ""
            self._say(_("The interrupted retraining was discarded; cases and models are as they were."))
        self.refresh()

    def _look(self) -> None:
        """See how the run stands; nothing here waits for it."""
        looked = self._guard(self._client.look) if self._client.isRunning else WENT_WRONG
        if looked is not WENT_WRONG:
            self._status = looked
        if not self._client.isRunning:
            self._timer.stop()
            self._end(None if looked is WENT_WRONG else looked)
            return
        self._guard(lambda: self._curve.update(self._client.points()))
        self._show()

    def _end(self, last: RunStatus | None) -> None:
        """Tell what became of the run that was at work a moment ago."""
        self._status = None
        self._guard(lambda: self._curve.update(self._client.points()))
        version = WENT_WRONG
        if last is None:
            self._outcome = self.ui.statusLabel.text
        elif last.state == DONE and last.version:
            version = self._guard(lambda: model_registry().version(last.version))
            self._outcome = self.ui.statusLabel.text if version is WENT_WRONG else _about(version)
        elif last.state == DISCARDED:
            self._outcome = _("Canceled; no version was made.")
        elif last.state in (DONE, FAILED):
            self._outcome = f"{last.message} {last.next_step}".strip()
        else:
            self._outcome = _("The retraining ended unexpectedly; Resume goes on where it was.")
        self.refresh()
        if version is not WENT_WRONG:
            self._onPublished(version)
        self._say(self._outcome)

    # ---- what is shown

    def _show(self) -> None:
        ui, status, interrupted = self.ui, self._status, self._interrupted()
        isRunning = self._client.isRunning
        reason = self._reason(interrupted)
        ui.retrainButton.text = _("Cancel") if isRunning else _("Start Retraining")
        starts = _("Make a new version of the network from your cases; the active one stays until you activate it.")
        enable(ui.retrainButton, reason, _("End the retraining; no version is made.") if isRunning else starts)
        ui.retrainLabel.text = text = self._planText()
        ui.retrainLabel.toolTip = about_purposes()
        ui.retrainLabel.setVisible(bool(text))
        ui.retrainProgressBar.setVisible(isRunning)
        ui.retrainProgressBar.value = 0 if status is None else round(100 * status.fraction)
        ui.retrainStatusLabel.text = text = self._statusText(interrupted)
        ui.retrainStatusLabel.toolTip = _("Patients left out in turn: cross-validation by patient.")
        ui.retrainStatusLabel.setVisible(bool(text))
        for button in (ui.resumeRunButton, ui.discardRunButton):
            set_shown(button, interrupted is not None)
        self._showReplayFolder(isRunning)
        self._showCurveButton()

    def _reason(self, interrupted: RunStatus | None) -> str:
        """Why a click on the button does nothing, or an empty text."""
        if self._client.isRunning:
            return _("The retraining is being ended.") if self._client.isCanceling else ""
        elsewhere = self._elsewhere()
        if elsewhere is not None:
            text = _("Another Slicer or a terminal is retraining ({percent} %). Wait for it, or end it there.")
            return text.format(percent=round(100 * elsewhere.fraction))
        if interrupted is not None:
            return _("Resume or discard the retraining that was interrupted first.")
        return "" if self._plan is None else "\n".join(self._plan.obstacles)

    def _planText(self) -> str:
        plan = self._plan
        if plan is None or self._client.isRunning:
            return ""
        if plan.obstacles:
            return "\n".join(plan.obstacles)
        text = _("Trains on {cases} of {patients}, starting from {parent}; {kept}. {time} on this computer.")
        lines = [
            text.format(
                cases=cases(plan.training),
                patients=patients(plan.training_patients),
                parent=plan.parent,
                kept=counted(
                    plan.hold_out_patients,
                    _("1 patient is kept for checking"),
                    _("{count} patients are kept for checking"),
                ),
                time=_duration(plan.seconds),
            ),
            *plan.notes,
        ]
        return "\n".join(lines)

    def _statusText(self, interrupted: RunStatus | None) -> str:
        status = self._status
        if self._client.isCanceling:
            return _("Ending the retraining...")
        if status is not None and status.state == PAUSED:
            return _("Paused while a scan is segmented.")
        if status is not None and not status.seconds_left:
            return _stageText(status.stage)
        if status is not None:
            left = _duration(status.seconds_left)
            return _("{stage}. {time} left.").format(stage=_stageText(status.stage), time=left)
        if self._elsewhere() is not None:
            return self._reason(None)
        if interrupted is None or self._outcome:
            return self._outcome
        if interrupted.state == FAILED:
            return f"{interrupted.message} {interrupted.next_step}".strip()
        return _("The retraining of {date} was interrupted at {percent} %.").format(
            date=interrupted.made, percent=round(100 * interrupted.fraction)
        )

    # ---- curve and replay folder

    def _showCurveButton(self, layout: int = 0) -> None:
        button = self.ui.curveButton
        button.text = _("Hide Curve") if self._curve.isShown else _("Show Curve")
        missing = "" if self._client.points() else _("There is a curve once a retraining has taken its first steps.")
        enable(button, missing, _("Loss and Dice of the retraining, step by step, as a chart."))

    def _onCurve(self, checked: bool = False) -> None:
        if self._curve.isShown:
            self._curve.hide()
        else:
            self._curve.show(self._client.points())
        self._showCurveButton()

    @staticmethod
    def _replayFolder() -> str:
        return read_setting("replayFolder", "")

    def _onReplayFolder(self, checked: bool = False) -> None:
        earlier = self._replayFolder()
        folder = "" if earlier else ask_for_folder(_("Folder of scans with masks from an earlier training"))
        if folder or earlier:
            write_setting("replayFolder", os.path.normpath(folder) if folder else "")
            self.refresh()

    def _showReplayFolder(self, isRunning: bool) -> None:
        ui, folder = self.ui, self._replayFolder()
        ui.replayFolderButton.text = _("No Replay Folder") if folder else _("Replay Folder...")
        begun = _("The retraining has begun with what was chosen.") if isRunning else ""
        enable(ui.replayFolderButton, begun, _("Train without these scans.") if folder else self._replayTip)
        ui.replayFolderLabel.text = folder or _("none")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return _("Less than a minute")
    return _("About 1 minute") if minutes == 1 else _("About {minutes} minutes").format(minutes=minutes)


def _stageText(stage: str) -> str:
    words = {
        "Starting": _("Starting"),
        "Checking the cases": _("Checking the cases"),
        "Preparing the cases": _("Preparing the cases"),
        "Training on all cases": _("Training on all cases"),
        "Calibrating the expected Dice": _("Calibrating the expected Dice"),
        "Publishing the candidate": _("Storing the candidate"),
    }
    if stage.startswith(LEAVING_OUT):
        return _("Training with patients left out in turn, {turn}").format(turn=stage[len(LEAVING_OUT) :].strip())
    return words.get(stage, stage)


def _about(version: ModelVersion) -> str:
    """What the comparison found, and that nothing has changed yet."""
    sentences = list(version.comparison.get("sentences", []))
    text = _("{name} is a candidate and does not segment yet. {verdict} Look at it under Models.")
    return text.format(name=version.name, verdict=sentences[0] if sentences else "")
