"""The panel's section Models: the versions of the network, and which of them segments."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from slicer.i18n import tr as _

from ...engine.errors import DDSPSegmentationError
from ...learning.comparison_words import dice_change, doubt_in_short, hold_out_dice, left_out_dice
from ...library.model_version import ModelVersion
from ...service.model_process import ACTIVATE, IMPORT, ROLL_BACK
from ..model_process import change_models
from ..user_folders import model_registry
from ..worker_process import WorkerProcess
from .enabling import enable
from .guard import WENT_WRONG, Guard
from .paths import ask_for_file, ask_for_new_file
from .tables import cell, fit_height, set_titles
from .words import counted

REPORT = "comparison.html"
SUFFIX = ".zip"
VERSION, AGREEMENT = range(2)
ROWS_SHOWN = 4


class ModelsSection:
    """A table of versions and what can be done with the chosen one; nothing here activates a version by itself.

    Args:
        ask: puts a question with up to two answers below the table.
        onChanged: called when another version segments from now on, or when one came or went.
    """

    def __init__(self, ui, guard: Guard, ask: Callable, onChanged: Callable[[], None]):
        import qt

        self.ui, self._guard, self._say, self._ask = ui, guard, guard.say, ask
        self._onChanged = onChanged
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
        self._importTip = ui.importModelButton.toolTip
        self._tips = {button: button.toolTip for button in self._buttons}
        for button, method in self._buttons.items():
            button.connect("clicked(bool)", partial(self._onVersionButton, method))
        ui.rollBackButton.connect("clicked(bool)", lambda checked: self._begin([ROLL_BACK], self._changed))
        ui.importModelButton.connect("clicked(bool)", self._onImport)
        table = ui.modelsTable
        agreement = _(
            "Agreement with the contours kept for checking, old version -> this one (mean Dice on the hold-out; 1 is "
            "the best)."
        )
        set_titles(table, (_("Version"), "", False), (_("Agreement"), agreement, True))
        table.horizontalHeader().setSectionResizeMode(VERSION, qt.QHeaderView.Stretch)
        table.horizontalHeader().setSectionResizeMode(AGREEMENT, qt.QHeaderView.ResizeToContents)
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
        table = self.ui.modelsTable
        wasBlocked = table.blockSignals(True)
        table.setRowCount(len(self._versions))
        for row, version in enumerate(self._versions):
            name = f"{version.name}\n{self._state(version)}"
            table.setItem(row, VERSION, cell(name, version.problem or name))
            change = dice_change(hold_out_dice(version.comparison))
            table.setItem(row, AGREEMENT, cell(change, change, isNumber=True))
        table.resizeRowsToContents()
        fit_height(table, ROWS_SHOWN)
        self.ui.deletePicturesButton.setVisible(any(version.pictures for version in self._versions))
        table.blockSignals(wasBlocked)

    def _about(self, version: ModelVersion | None) -> str:
        """What the table has no room for."""
        description = None if version is None else version.description
        if version is None or description is None:
            return ""
        training = description.training
        day = description.date[:10]
        parent = "" if version.builtin else str(training.get("parent", ""))
        made = _("Made on {day} from {parent}") if parent else _("Made on {day}")
        learned = counted(len(training.get("cases", [])), _("trained on 1 case"), _("trained on {count} cases"))
        lines = [f"{made}, {learned}.".format(day=day, parent=parent)]
        leftOut = dice_change(left_out_dice(version.comparison.get("cross_validation") or {}))
        if leftOut:
            lines.append(_("Agreement on patients left out of the training in turn: {change}.").format(change=leftOut))
        return "\n".join(lines)

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
                reasons[ui.showComparisonButton] = self._whyNoPage(version)
        busy = _("A version is being tried; this takes seconds.") if self.isChanging else ""
        if busy:
            reasons |= dict.fromkeys((ui.activateModelButton, ui.deleteModelButton), busy)
        for button, reason in reasons.items():
            enable(button, reason, self._tips[button])
        obstacle = busy or ("" if self._previous else _("No other version was active before."))
        enable(ui.rollBackButton, obstacle, _("Go back to {name}.").format(name=self._previous))
        enable(ui.importModelButton, busy, self._importTip)
        for label, text, tip in (
            (ui.chosenVersionLabel, self._about(version), _("Left out in turn: cross-validation by patient.")),
            (ui.comparisonLabel, self._aboutChosen(version), _("Kept for checking: the hold-out.")),
        ):
            label.text, label.toolTip = text, tip
            label.setVisible(bool(text))

    @staticmethod
    def _whyNoPage(version: ModelVersion) -> str:
        if not version.comparison:
            return _("There is no comparison of this version.")
        return _(
            "Page not exported: this version came without it, or its pictures were deleted. Its words stand below."
        )

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
        reason = "" if version.builtin else doubt_in_short(version.comparison, self._active)
        if not reason:
            self._activate(version)
            return
        self._ask(
            _("Activate {name}?").format(name=version.name),
            (
                _("Keep the Old One"),
                _("{name} goes on segmenting; the other version stays a candidate.").format(name=current),
                lambda: self._say(_("{name} stays active.").format(name=current)),
            ),
            (
                _("Activate Anyway"),
                _("{name} segments from now on; Roll Back undoes it.").format(name=version.name),
                lambda: self._activate(version),
            ),
            details=reason,
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
        self._onChanged()
        self._say(_("{name} segments from now on.").format(name=name))

    # ---- delete, import, export, comparison

    def _onDelete(self, version: ModelVersion) -> None:
        self._ask(
            _("Delete version {name}?").format(name=version.name),
            (_("Keep"), _("Nothing changes."), lambda: self._say(_("{name} stays.").format(name=version.name))),
            (_("Delete"), _("It cannot be brought back."), lambda: self._delete(version)),
            details=_("It goes from the disk, which cannot be undone."),
        )

    def _delete(self, version: ModelVersion) -> None:
        if self._guard(lambda: model_registry().delete(version.name)) is not WENT_WRONG:
            self.refresh()
            self._select(self._active)
            self._onChanged()
            self._say(_("{name} was deleted.").format(name=version.name))

    def _onDeletePictures(self, version: ModelVersion) -> None:
        pictures = version.pictures
        files = ", ".join(path.name for path in pictures)
        megabytes = sum(path.stat().st_size for path in pictures) / 1e6
        self._ask(
            _("Delete the pictures of scans in {name}?").format(name=version.name),
            (_("Keep"), _("Nothing changes."), lambda: self._say(_("The pictures stay."))),
            (_("Delete"), _("They cannot be brought back."), lambda: self._deletePictures(version)),
            details=_("{files} ({megabytes:.1f} MB) go for good; the figures stay.").format(
                files=files, megabytes=megabytes
            ),
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
        self._onChanged()
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
