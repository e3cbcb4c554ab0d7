"""The panel's section Models: the versions of the network, and which of them segments."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from slicer.i18n import tr as _

from ...engine.errors import DDSPSegmentationError
from ...learning.comparison_words import dice_change, doubt_about_activation, hold_out_dice, left_out_dice
from ...library.model_version import ModelVersion
from ...service.model_process import ACTIVATE, IMPORT, ROLL_BACK
from ..model_process import change_models
from ..user_folders import model_registry
from ..worker_process import WorkerProcess
from .enabling import enable
from .guard import WENT_WRONG, Guard
from .paths import ask_for_file, ask_for_new_file

REPORT = "comparison.html"
SUFFIX = ".zip"


class ModelsSection:
    """A table of versions and what can be done with the chosen one; nothing here activates a version by itself.

    Args:
        ask: puts a question with buttons into the panel.
        onActivated: called when another version segments from now on.
    """

    def __init__(self, ui, guard: Guard, ask: Callable, onActivated: Callable[[], None]):
        self.ui, self._guard, self._say, self._ask = ui, guard, guard.say, ask
        self._onActivated = onActivated
        self._versions: list[ModelVersion] = []
        self._active = self._aboutActive = self._previous = ""
        self._change: WorkerProcess | None = None  # under way
        self._buttons = {
            ui.activateModelButton: self._onActivate,
            ui.showComparisonButton: self._onShowComparison,
            ui.deletePicturesButton: self._onDeletePictures,
            ui.deleteModelButton: self._onDelete,
            ui.exportModelButton: self._onExport,
        }
        self._tips = {button: button.toolTip for button in self._buttons}
        for button, method in self._buttons.items():
            button.connect("clicked(bool)", partial(self._onVersionButton, method))
        ui.rollBackButton.connect("clicked(bool)", lambda checked: self._begin([ROLL_BACK], self._changed))
        ui.importModelButton.connect("clicked(bool)", self._onImport)
        table = ui.modelsTable
        titles = [_("Version"), _("State"), _("Hold-out Dice"), _("Left-out Dice"), _("Cases"), _("Date"), _("Parent")]
        table.setColumnCount(len(titles))
        table.setHorizontalHeaderLabels(titles)
        table.verticalHeader().setVisible(False)
        table.connect("itemSelectionChanged()", self._refreshButtons)
        self._refreshButtons()

    def refresh(self) -> None:
        """Read the versions again; the chosen one stays chosen."""
        self._guard(self._read)

    @property
    def isChanging(self) -> bool:
        """Whether a version is being tried; what comes of it is shown by itself."""
        return self._change is not None

    def cleanup(self) -> None:
        if self._change is not None:
            self._change.kill()
        self.ui.modelsTable.disconnect("itemSelectionChanged()", self._refreshButtons)

    def show(self, version: ModelVersion) -> None:
        """Choose a version, such as the candidate that was just made, and show what its comparison says."""
        self.refresh()
        self._select(version.name)

    # ---- the table

    def _read(self) -> None:
        registry = model_registry()
        chosen = self._chosen()
        self._versions, self._previous = registry.versions(), ""
        try:
            active = registry.active()
            self._active, self._aboutActive = active.name, active.note
        except DDSPSegmentationError as error:
            self._active, self._aboutActive = "", str(error)
        with suppress(DDSPSegmentationError):
            self._previous = registry.previous()
        self._fill()
        self._select(chosen.name if chosen is not None else self._active)

    def _fill(self) -> None:
        import qt

        table = self.ui.modelsTable
        wasBlocked = table.blockSignals(True)
        table.setRowCount(len(self._versions))
        for row, version in enumerate(self._versions):
            for column, text in enumerate(self._texts(version)):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(version.problem or text)
                table.setItem(row, column, item)
        table.resizeColumnsToContents()
        table.blockSignals(wasBlocked)

    def _texts(self, version: ModelVersion) -> list[str]:
        description = version.description
        if description is None:
            return [version.name, self._state(version), "", "", "", "", ""]
        training = description.training
        return [
            version.name,
            self._state(version),
            dice_change(hold_out_dice(version.comparison)),
            dice_change(left_out_dice(version.comparison.get("cross_validation") or {})),
            str(len(training.get("cases", []))),
            description.date[:16].replace("T", " "),
            "" if version.builtin else str(training.get("parent", "")),
        ]

    def _state(self, version: ModelVersion) -> str:
        state = _("built in") if version.builtin else _("candidate")
        if version.problem:
            state = _("damaged")
        if version.name != self._active:
            return state
        return _("active") if not version.builtin else _("active, {state}").format(state=state)

    def _chosen(self) -> ModelVersion | None:
        row = self.ui.modelsTable.currentRow()
        return self._versions[row] if 0 <= row < len(self._versions) else None

    def _select(self, name: str) -> None:
        row = next((row for row, version in enumerate(self._versions) if version.name == name), -1)
        if row >= 0:
            self.ui.modelsTable.setCurrentCell(row, 0)
        self._refreshButtons()

    def _refreshButtons(self) -> None:
        ui, version = self.ui, self._chosen()
        reasons = dict.fromkeys(self._buttons, "" if version is not None else _("Choose a version in the table."))
        if version is not None:
            isActive = version.name == self._active
            if version.problem:
                reasons[ui.activateModelButton] = reasons[ui.exportModelButton] = version.problem
            elif isActive:
                reasons[ui.activateModelButton] = _("This version is active already.")
            if version.builtin:
                reasons[ui.deleteModelButton] = _("The built-in version stays.")
                reasons[ui.exportModelButton] = _("The built-in version is everywhere already.")
            elif isActive:
                reasons[ui.deleteModelButton] = _("This version is active. Activate another one, or roll back, first.")
            if version.builtin or not version.pictures:
                reasons[ui.deletePicturesButton] = _("There are no pictures of scans in this version.")
            if not (version.folder / REPORT).is_file():
                reasons[ui.showComparisonButton] = _("There is no comparison of this version.")
        busy = _("A version is being tried; this takes seconds.") if self.isChanging else ""
        if busy:
            reasons |= dict.fromkeys((ui.activateModelButton, ui.deleteModelButton), busy)
        for button, reason in reasons.items():
            enable(button, reason, self._tips[button])
        obstacle = busy or ("" if self._previous else _("No other version was active before."))
        enable(ui.rollBackButton, obstacle, _("Go back to {name}.").format(name=self._previous))
        ui.importModelButton.enabled = not busy
        ui.comparisonLabel.text = self._aboutChosen(version)

    def _aboutChosen(self, version: ModelVersion | None) -> str:
        lines = [self._aboutActive] if self._aboutActive else []
        if version is not None and version.problem:
            lines.append(version.problem)
        elif version is not None:
            lines += version.comparison.get("sentences", [])
        return "\n".join(lines)

    # ---- activate, roll back

    def _onVersionButton(self, method: Callable[[ModelVersion], None], checked: bool = False) -> None:
        version = self._chosen()
        if version is not None:
            method(version)

    def _onActivate(self, version: ModelVersion) -> None:
        current = self._active or _("the old version")
        reason = "" if version.builtin else doubt_about_activation(version.comparison, self._active)
        if not reason:
            self._activate(version)
            return
        self._ask(
            _("Activate {name}? {reason}").format(name=version.name, reason=reason),
            (
                _("Keep {name}").format(name=current),
                _("Nothing changes; the other version stays a candidate."),
                lambda: self._say(_("{name} stays active.").format(name=current)),
            ),
            (
                _("Activate Anyway"),
                _("{name} segments from now on; Roll Back undoes it.").format(name=version.name),
                lambda: self._activate(version),
            ),
        )

    def _activate(self, version: ModelVersion) -> None:
        self._begin([ACTIVATE, version.name], self._changed)

    def _begin(self, words: list[str], onDone: Callable[[str], None]) -> None:
        """Let another process read weights, which takes seconds, and then change what is active or there."""

        def end(show: Callable[[], None]) -> None:
            self._change = None
            self.refresh()
            show()

        def begin() -> None:
            self._change = change_models(
                model_registry().folder,
                words,
                lambda name: end(lambda: onDone(name)),
                lambda error: end(lambda: self._say(str(error))),
            )

        if self._guard(begin) is not WENT_WRONG:
            self._say(_("Trying the weights; you can go on working."))
        self._refreshButtons()

    def _changed(self, name: str) -> None:
        self._select(name)
        self._onActivated()
        self._say(_("{name} segments from now on.").format(name=name))

    # ---- delete, import, export, comparison

    def _onDelete(self, version: ModelVersion) -> None:
        self._ask(
            _("Delete version {name} from the disk? This cannot be undone.").format(name=version.name),
            (_("Keep"), _("Nothing changes."), lambda: self._say(_("{name} stays.").format(name=version.name))),
            (_("Delete"), "", lambda: self._delete(version)),
        )

    def _delete(self, version: ModelVersion) -> None:
        if self._guard(lambda: model_registry().delete(version.name)) is not WENT_WRONG:
            self.refresh()
            self._select(self._active)
            self._say(_("{name} was deleted.").format(name=version.name))

    def _onDeletePictures(self, version: ModelVersion) -> None:
        pictures = version.pictures
        text = _(
            "Delete what shows scans of patients in version {name}: {files} ({megabytes:.1f} MB)? Its figures stay."
        )
        self._ask(
            text.format(
                name=version.name,
                files=", ".join(path.name for path in pictures),
                megabytes=sum(path.stat().st_size for path in pictures) / 1e6,
            ),
            (_("Keep"), _("Nothing changes."), lambda: self._say(_("The pictures stay."))),
            (_("Delete"), _("They cannot be brought back."), lambda: self._deletePictures(version)),
        )

    def _deletePictures(self, version: ModelVersion) -> None:
        if self._guard(lambda: model_registry().delete_pictures(version.name)) is not WENT_WRONG:
            self.show(version)
            self._say(_("The pictures of {name} were deleted.").format(name=version.name))

    def _onImport(self, checked: bool = False) -> None:
        path = ask_for_file(_("Import a Version"), _("Exported version (*.zip)"))
        if path:
            self._begin([IMPORT, path], self._imported)

    def _imported(self, name: str) -> None:
        self._select(name)
        self._say(_("{name} is here as a candidate; Activate makes it segment.").format(name=name))

    def _onExport(self, version: ModelVersion) -> None:
        kind = _("Exported version (*.zip)")
        path = ask_for_new_file(_("Export a Version"), version.name, SUFFIX, kind, self._say)
        if path and self._guard(lambda: model_registry().export(version.name, path)) is not WENT_WRONG:
            self._say(_("Written: {path}").format(path=path))

    def _onShowComparison(self, version: ModelVersion) -> None:
        import qt

        url = qt.QUrl.fromLocalFile(str(version.folder / REPORT))
        if not qt.QDesktopServices.openUrl(url):
            self._say(_("No program opens the report: {path}").format(path=version.folder / REPORT))
