"""The panel's section Advanced: how the network runs, a test of the installation, the batch command, the log."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from ...engine.errors import DDSPSegmentationError
from ...engine.model import describe_model
from ...engine.run_settings import MODES, RunSettings
from ...service.processes import kill_process
from ..settings import read_setting, write_setting
from ..shared_worker import shared_worker
from ..user_folders import model_registry
from ..worker_process import append_to_log, descendants
from .enabling import enable

# The exit code tells the outcome: what Slicer prints does not reach its standard output everywhere.
PASSED, TORCH_MISSING = 0, 3
SELF_TEST = f"""
import traceback
status = 1
try:
    slicer.selfTests["DDSPSegmentation"]()
    from DDSPSegmentation import DDSPSegmentationLogic
    status = {TORCH_MISSING} if DDSPSegmentationLogic().missingTorch() else {PASSED}
except BaseException:
    traceback.print_exc()
slicer.util.exit(status)
"""
LOG_LINES = 2000
MODE_SETTING = "networkMode"  # "mode" keeps choices from when the default was called fast


class AdvancedSection:
    """Choices that belong to the machine and its user, kept in the application settings.

    Args:
        modulePath: of the module file.
        say: puts a sentence into the panel's status line.
    """

    def __init__(self, ui, modulePath: str, say: Callable[[str], None]):
        self.ui, self._modulePath, self._say = ui, Path(modulePath), say
        self._process = self._logWindow = None
        labels = {"standard": _("Standard"), "fast": _("Fast"), "paper": _("Paper")}
        for mode in MODES:
            ui.modeComboBox.addItem(labels[mode], mode)
        self._select(ui.modeComboBox, read_setting(MODE_SETTING, MODES[0]))
        self.showDevices(None)
        ui.modelComboBox.addItem(_("{version} (built in)").format(version=describe_model().version))
        ui.biasFieldCheckBox.checked = read_setting("biasField", "on") == "on"
        for combo, name in ((ui.modeComboBox, MODE_SETTING), (ui.deviceComboBox, "device")):
            combo.connect("currentIndexChanged(int)", partial(self._onChosen, combo, name))
        ui.biasFieldCheckBox.connect("toggled(bool)", lambda on: write_setting("biasField", "on" if on else "off"))
        ui.testButton.connect("clicked(bool)", self._onTest)
        ui.batchButton.connect("clicked(bool)", self._onBatch)
        ui.logButton.connect("clicked(bool)", self._onLog)
        ui.testLabel.setVisible(False)
        self._testTip = ui.testButton.toolTip

    def asked(self) -> RunSettings:
        """What the section asks of the next run.

        Raises:
            ModelError: the active version of the network cannot be used.
        """
        version = model_registry().active()  # checked file by file
        return RunSettings(
            mode=self.ui.modeComboBox.currentData,
            bias_field=None if self.ui.biasFieldCheckBox.checked else "off",
            device=self.ui.deviceComboBox.currentData,
            model=None if version.builtin else str(version.folder),
        )

    def showModel(self) -> None:
        """Name the version that the next run uses, where there is more than one."""
        try:
            version = model_registry().active()
            text = _("{version} (built in)") if version.builtin else "{version}"
            text, tip = text.format(version=version.name), _("Version of the network; choose another one under Models.")
            tip = f"{version.note} {tip}".strip()
            hasChoice = not version.builtin or model_registry().has_own()
        except DDSPSegmentationError as error:
            text, tip, hasChoice = _("not usable"), str(error), True
        self.ui.modelComboBox.setItemText(0, text)
        self.ui.modelComboBox.toolTip = tip
        for widget in (self.ui.modelLabel, self.ui.modelComboBox):
            widget.setVisible(hasChoice)

    def showDevices(self, hello: dict | None) -> None:
        """List the devices that the engine found; before it has started, those that are everywhere."""
        chosen = read_setting("device", "auto")
        found = ["cpu"] if hello is None else list(hello["devices"])
        auto = _("Auto") if hello is None else _("Auto ({found})").format(found=hello["auto"])
        combo = self.ui.deviceComboBox
        wasBlocked = combo.blockSignals(True)
        combo.clear()
        combo.addItem(auto, "auto")
        for device in dict.fromkeys([*found, *([] if chosen == "auto" or hello is not None else [chosen])]):
            combo.addItem(device.upper(), device)
        self._select(combo, chosen)
        combo.blockSignals(wasBlocked)

    @staticmethod
    def _select(combo, value: str) -> None:
        combo.currentIndex = max(combo.findData(value), 0)

    @staticmethod
    def _onChosen(combo, name: str, index: int) -> None:
        write_setting(name, combo.currentData)

    # ---- test of the installation

    def _onTest(self, checked: bool = False) -> None:
        import qt

        process = qt.QProcess(self.ui.testButton)  # without a parent it would be deleted inside its own signal
        process.setProcessChannelMode(qt.QProcess.MergedChannels)
        process.connect("finished(int,QProcess::ExitStatus)", self._onTestFinished)
        process.connect("errorOccurred(QProcess::ProcessError)", self._onTestFailedToStart)
        self._process = process
        enable(self.ui.testButton, _("The test is running."), "")
        self._showTest(_("Testing in a second Slicer; this takes up to a minute. You can go on working."))
        program, arguments = self.testCommand()
        process.start(program, arguments)

    def testCommand(self) -> tuple[str, list[str]]:
        """Program and arguments of a Slicer that runs the module's self test in a scene of its own and ends."""
        return slicerProgram(), [
            "--no-splash", "--no-main-window", "--testing", "--additional-module-path", str(self._modulePath.parent),
            "--python-code", SELF_TEST,
        ]  # fmt: skip

    def _onTestFinished(self, code: int, status) -> None:
        import qt

        output = bytes(self._process.readAllStandardOutput().data()).decode("utf-8", "replace")
        lines = [line for line in output.splitlines() if line.strip()]
        ended = status == qt.QProcess.NormalExit
        if ended and code == PASSED:
            text = _("The installation works: the bundled scan was segmented and checked.")
        elif ended and code == TORCH_MISSING:
            text = _("PyTorch is missing, so nothing was segmented. Press Segment Prostate to install it.")
        else:
            reason = next((line.strip() + " " for line in reversed(lines) if "Error" in line), "")
            text = _("The test failed. {reason}Press Show Log for details.").format(reason=reason)
        log = "\n".join([_("Test of the installation:"), *lines[-200:], ""])
        append_to_log(shared_worker().logPath, log.encode())
        self._endTest(text)

    def _onTestFailedToStart(self, error) -> None:
        import qt

        if error == qt.QProcess.FailedToStart:  # any other error is followed by the end
            self._endTest(_("The second Slicer did not start ({program}).").format(program=slicerProgram()))

    def _endTest(self, text: str) -> None:
        self._process.deleteLater()
        self._process = None
        enable(self.ui.testButton, "", self._testTip)
        self._showTest(text)

    def _showTest(self, text: str) -> None:
        self.ui.testLabel.text = text
        self.ui.testLabel.setVisible(True)

    # ---- batch and log

    def batchCommand(self) -> str:
        """Command line that segments a folder of scans without a window."""
        script = self._modulePath.parent / "Scripts" / "segment_batch.py"
        return (
            f'"{slicerProgram()}" --no-splash --no-main-window --python-script "{script}" -- "SCANS" --output "RESULTS"'
        )

    def _onBatch(self, checked: bool = False) -> None:
        slicer.app.clipboard().setText(self.batchCommand())
        self._say(_("The command is in the clipboard; replace SCANS and RESULTS with your folders."))

    def _onLog(self, checked: bool = False) -> None:
        import qt

        path, lines = shared_worker().logPath, []
        if path.exists():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
        if self._logWindow is None:
            self._logWindow = qt.QPlainTextEdit(slicer.util.mainWindow())
            self._logWindow.setWindowFlags(qt.Qt.Window)
            self._logWindow.readOnly = True
            self._logWindow.resize(800, 500)
        self._logWindow.windowTitle = str(path)
        self._logWindow.plainText = "\n".join(lines) or _("The engine has not said anything yet.")
        self._logWindow.moveCursor(qt.QTextCursor.End)
        self._logWindow.ensureCursorVisible()
        self._logWindow.show()
        self._logWindow.raise_()

    def cleanup(self) -> None:
        """End a test that runs, and the log's window."""
        process, self._process = self._process, None
        if process is not None:
            process.blockSignals(True)
            for pid in descendants(int(process.processId())):  # the program started is a launcher
                kill_process(pid)
            process.kill()
            process.deleteLater()
        if self._logWindow is not None:
            self._logWindow.deleteLater()
            self._logWindow = None


def slicerProgram() -> str:
    """The program to start another Slicer with: the launcher, as far as this Slicer has one."""
    launcher = slicer.app.launcherExecutableFilePath
    return launcher if launcher and os.path.exists(launcher) else slicer.app.applicationFilePath()
