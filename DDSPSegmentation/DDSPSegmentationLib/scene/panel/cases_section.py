"""The panel's section Learn > Cases: what the library holds, and what can be done with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import slicer
from slicer.i18n import tr as _

from ...engine.errors import Canceled
from ...library.case_library import HOLD_OUT, TRAINING, StoredCase
from ..case_exchange import case_number, cases_to_accept_next, reopen, results_that_are
from ..result_nodes import forget_case
from ..settings import write_setting
from ..user_folders import case_library
from .enabling import enable
from .guard import WENT_WRONG, Guard
from .paths import ask_for_folder
from .tables import Columns, cell, fit_height, set_titles
from .words import about_purposes, cases, counted, patients, purpose

REASONS_SHOWN = 5
NEXT_CASES_SHOWN = 5
ROWS_SHOWN = 6
USE, NUMBER_COLUMNS = 2, (0, 3)


class CasesSection:
    """Shows the library as a table; everything it does to the library ends with a sentence in the status line.

    Args:
        ask: puts a question with up to two answers below the table.
        onReopened: called with the volume and the segmentation that a case became in the scene.
        onChanged: called when the library holds something else, or is another one.
    """

    def __init__(self, ui, guard: Guard, ask: Callable, onReopened: Callable, onChanged: Callable[[], None]):
        import qt

        self.ui, self._guard, self._say, self._ask = ui, guard, guard.say, ask
        self._onReopened, self._onChanged = onReopened, onChanged
        self._cases: dict[str, StoredCase] = {}
        self._trashed: list[str] = []
        self._problems: list[str] = []
        self._said = ""
        self._busyButton = None
        self._isRead = self._isCanceled = self._isOver = False
        self._tips = {name: getattr(ui, name).toolTip for name in self._needs()}
        table = ui.casesTable
        set_titles(
            table,
            (_("Case"), "", True),
            (_("State"), _("How the contour came to be; deleted cases lie in the trash of the library."), False),
            (_("Use"), about_purposes(), False),
            (_("Agreement"), self._agreementTip(), True),
            (_("Note"), "", False),
        )
        self._columns = Columns(table, spare=USE)
        table.sortByColumn(0, qt.Qt.AscendingOrder)
        table.connect("itemSelectionChanged()", self._refreshButtons)
        table.connect("cellDoubleClicked(int,int)", lambda row, column: self._onReopen())
        importing, exporting = _("Folder of scans and masks"), _("Folder for the dataset")
        for button, method in (
            (ui.reopenCaseButton, self._onReopen),
            (ui.deleteCaseButton, self._onDelete),
            (ui.restoreCaseButton, self._onRestore),
            (ui.emptyTrashButton, self._onEmptyTrash),
            (ui.importCasesButton, partial(self._copy, ui.importCasesButton, importing, self._import)),
            (ui.exportCasesButton, partial(self._copy, ui.exportCasesButton, exporting, self._export)),
            (ui.casesFolderButton, self._onFolder),
        ):
            button.connect("clicked(bool)", method)
        self._fill()
        self.showNext()

    # ---- what is shown

    def refresh(self) -> None:
        """Read the library again and show it."""
        library = case_library()
        self._cases, self._trashed, self._problems = {}, [], []

        def read() -> None:
            self._cases = {case.id: case for case in library.cases()}
            self._trashed = library.trashed()
            self._problems = library.problems()

        self._isRead = self._guard(read) is not WENT_WRONG
        self._said = "" if self._isRead else self.ui.statusLabel.text
        self._fill()
        self._showSummary()
        self.showNext()

    def cleanup(self) -> None:
        """The widgets go; an import that is under way ends with the case it is at."""
        self._isOver = True
        self._columns.cleanup()

    def _showSummary(self) -> None:
        self.ui.casesLabel.text = "\n".join(filter(None, [self._summary(), *self._problems, self._said]))
        self.ui.casesLabel.toolTip = about_purposes()

    def _summary(self) -> str:
        if not self._isRead:
            return ""
        if not self._cases:
            return _("No cases yet. Accept a contour, or import a folder.")
        known = self._cases.values()
        return _("{cases} of {patients}: {training} for training, {kept} kept for checking").format(
            cases=cases(len(known)),
            patients=patients(len({case.patient for case in known})),
            training=sum(case.split == TRAINING for case in known),
            kept=sum(case.split == HOLD_OUT for case in known),
        )

    def _fill(self) -> None:
        table, chosen = self.ui.casesTable, self._chosen() + self._chosen(deleted=True)
        wasBlocked = table.blockSignals(True)
        table.setSortingEnabled(False)  # or rows would move while they are filled
        rows = [(case.id, self._values(case)) for case in self._cases.values()]
        rows += [(case, (case_number(case), _("deleted"), None, None, None)) for case in self._trashed]
        table.setRowCount(len(rows))
        for row, (case, values) in enumerate(rows):
            self._fillRow(row, case, values, case in chosen)
        table.setSortingEnabled(True)
        self._columns.fit()
        fit_height(table, ROWS_SHOWN)
        self.ui.restoreCaseButton.setVisible(bool(self._trashed))
        self.ui.emptyTrashButton.setVisible(bool(self._trashed))
        table.blockSignals(wasBlocked)
        self._refreshButtons()

    @staticmethod
    def _agreementTip() -> str:
        return _("Agreement of the network's contour with your correction (Dice before correction; 1 is the same).")

    @classmethod
    def _values(cls, case: StoredCase) -> tuple:
        """What the columns say of a case; ``None`` where there is nothing to say."""
        dice, use = case.current.dice, _("training") if case.split == TRAINING else _("checking")
        return case.number, cls._state(case), use, None if dice is None else f"{dice:.3f}", cls._note(case)

    @staticmethod
    def _state(case: StoredCase) -> str:
        states = {"corrected": _("corrected"), "unedited": _("unedited"), "imported": _("imported")}
        return states.get(case.current.state, case.current.state)

    @staticmethod
    def _note(case: StoredCase) -> str:
        return " - ".join(text for text in (case.label or case.source_name, case.current.note) if text)

    def _fillRow(self, row: int, case: str, values: tuple, chosen: bool) -> None:
        import qt

        table = self.ui.casesTable
        for column, value in enumerate(values):
            tip = case if column == 0 else str(value or "")
            item = cell(value, tip, isNumber=column in NUMBER_COLUMNS)
            table.setItem(row, column, item)
            if column == 0:
                item.setData(qt.Qt.UserRole, case)
            if chosen:
                item.setSelected(True)

    def _showChosen(self) -> None:
        """What the table has no room for."""
        chosen, deleted = self._chosen(), self._chosen(deleted=True)
        text = ""
        if len(chosen) + len(deleted) > 1:
            text = _("{cases} are chosen.").format(cases=cases(len(chosen) + len(deleted)))
        elif deleted:
            text = _("Case {number} is in the trash; Restore brings it back.").format(number=case_number(deleted[0]))
        elif chosen:
            text = self._about(self._cases[chosen[0]])
        self.ui.chosenCaseLabel.text = text
        self.ui.chosenCaseLabel.setVisible(bool(text))

    def _about(self, case: StoredCase) -> str:
        revision, note = case.current, self._note(case)
        text = _("Case {number}, {state} on {day}, {purpose}.").format(
            number=case.number, state=self._state(case), day=revision.date[:10], purpose=purpose(case.split)
        )
        if revision.dice is not None:
            text += " " + _("Agreement with your correction: {dice:.3f}.").format(dice=revision.dice)
        return f"{text}\n{note}" if note else text

    def showNext(self) -> None:
        """Name the open volumes whose correction would teach the network most."""
        ranked = cases_to_accept_next()[:NEXT_CASES_SHOWN]
        lines = [f"{volumeNode.GetName()}: {self._reason(facts)}" for volumeNode, facts in ranked]
        self.ui.nextCasesLabel.text = "\n".join([_("Open volumes that would help most next:"), *lines])
        self.ui.nextCasesLabel.setVisible(bool(lines))

    @staticmethod
    def _reason(facts) -> str:
        if facts.expected_dice is not None:
            return _("expected Dice {dice:.2f}").format(dice=facts.expected_dice.value)
        return _("with a warning") if facts.warnings else _("without a warning")

    def _chosen(self, deleted: bool = False) -> list[str]:
        """IDs of the cases whose rows are selected: those that are there, or those in the trash."""
        import qt

        table = self.ui.casesTable
        items = [table.item(row, 0) for row in range(table.rowCount)]
        chosen = [item.data(qt.Qt.UserRole) for item in items if item is not None and item.isSelected()]
        return [case for case in chosen if case in (self._trashed if deleted else self._cases)]

    def _needs(self) -> dict[str, str]:
        """What a button lacks before it can do anything; empty texts where it lacks nothing."""
        chosen, deleted = self._chosen(), self._chosen(deleted=True)
        return {
            "reopenCaseButton": "" if len(chosen) == 1 else _("Choose one case in the table."),
            "deleteCaseButton": "" if chosen else _("Choose the cases to delete in the table."),
            "restoreCaseButton": "" if deleted else _("Choose deleted cases in the table."),
            "emptyTrashButton": "" if self._trashed else _("The trash of the library is empty."),
            "importCasesButton": "",
            "exportCasesButton": "" if self._cases else _("There are no cases yet."),
            "casesFolderButton": "",
        }

    def _refreshButtons(self) -> None:
        self._showChosen()
        where = _("Where the cases are: {folder}").format(folder=case_library().folder)
        for name, lacking in self._needs().items():
            button = getattr(self.ui, name)
            if self._busyButton is not None:
                lacking = "" if button is self._busyButton else _("Cases are being copied.")
            enable(button, lacking, where if name == "casesFolderButton" else self._tips[name])

    # ---- one case

    def _do(self, action: Callable[[], str]) -> None:
        """Do something to the library and say what it said; the table follows whether it went well or not."""
        said = self._guard(action)
        if said is WENT_WRONG:
            said = self.ui.statusLabel.text
        self._onChanged()
        self._tell(said)

    def _tell(self, text: str) -> None:
        """Say something in the status line, and here: the line may be out of sight."""
        self._say(text)
        self._said = text
        self._showSummary()

    def _onReopen(self, checked: bool = False) -> None:
        chosen = self._chosen()
        if len(chosen) != 1:
            return
        opened = self._guard(lambda: reopen(case_library().case(chosen[0])))
        if opened is not WENT_WRONG:
            self._onReopened(*opened)
            words = _("Case {number} is open. Fix it under Correct, then press Accept to store it again.")
            self._tell(words.format(number=case_number(chosen[0])))

    def _onDelete(self, checked: bool = False) -> None:
        chosen = self._chosen()
        text = (
            _("Delete case {number}?").format(number=case_number(chosen[0]))
            if len(chosen) == 1
            else _("Delete {cases}?").format(cases=cases(len(chosen)))
        )
        self._ask(
            text,
            (_("Keep"), _("Keep everything as it is."), lambda: self._tell(_("Nothing was deleted."))),
            (_("Delete"), _("Into the trash of the library; Restore brings it back."),
             lambda: self._do(lambda: self._delete(chosen))),
        )  # fmt: skip

    def _delete(self, chosen: list[str]) -> str:
        library = case_library()
        for case in chosen:
            library.delete(case)
            for node in results_that_are(case):
                forget_case(node)
        return _("Deleted: {numbers}.").format(numbers=_numbers(chosen))

    def _onRestore(self, checked: bool = False) -> None:
        chosen = self._chosen(deleted=True)
        self._do(lambda: self._restore(chosen))

    def _restore(self, chosen: list[str]) -> str:
        for case in chosen:
            case_library().restore(case)
        return _("Back again: {numbers}.").format(numbers=_numbers(chosen))

    def _onEmptyTrash(self, checked: bool = False) -> None:
        self._ask(
            counted(
                len(self._trashed),
                _("Remove 1 deleted case from the disk for good?"),
                _("Remove {count} deleted cases from the disk for good?"),
            ),
            (_("Keep"), _("Keep everything as it is."), lambda: self._tell(_("Nothing was removed."))),
            (_("Remove"), _("They cannot be brought back."), lambda: self._do(self._emptyTrash)),
        )

    def _emptyTrash(self) -> str:
        case_library().empty_trash()
        return _("The trash is empty.")

    # ---- the whole library

    def _copy(self, button, title: str, action: Callable[[str], str], checked: bool = False) -> None:
        """Do something that takes as long as there are cases; a second click on its button ends it."""
        if self._busyButton is not None:
            self._isCanceled = True
            return
        folder = ask_for_folder(title)
        if not folder:
            return
        text, self._busyButton, self._isCanceled = button.text, button, False
        button.text = _("Cancel")
        self._refreshButtons()
        said = self._guard(lambda: action(folder))
        if self._isOver:
            return
        self._busyButton, button.text = None, text
        if said is WENT_WRONG:
            canceled = _("Canceled; the cases that were copied until then stay.")
            said = canceled if self._isCanceled else self.ui.statusLabel.text
        self._onChanged()
        self._tell(said)

    def _showProgress(self, index: int, count: int, name: str) -> None:
        self._tell(_("Case {number} of {count}: {name}").format(number=index + 1, count=count, name=name))
        slicer.app.processEvents()
        if self._isCanceled or self._isOver:
            raise Canceled

    def _import(self, folder: str) -> str:
        report = case_library().import_folder(folder, progress=self._showProgress)
        lines = [_("{cases} imported.").format(cases=cases(len(report.stored)))]
        if report.failed:
            lines.append(_("{count} refused:").format(count=len(report.failed)))
        reasons = [f"{name}: {reason}" for name, reason in report.failed.items()] + list(report.warnings)
        lines += reasons[:REASONS_SHOWN]
        if len(reasons) > REASONS_SHOWN:
            lines.append(_("and {count} more").format(count=len(reasons) - REASONS_SHOWN))
        return "\n".join(filter(None, [*lines, report.about_patients]))

    def _export(self, folder: str) -> str:
        count = case_library().export(folder, progress=self._showProgress)
        return _("{cases} written into {folder}").format(cases=cases(count), folder=folder)

    def _onFolder(self, checked: bool = False) -> None:
        folder = ask_for_folder(_("Folder for the cases"))
        if folder:
            write_setting("casesFolder", os.path.normpath(folder))
            self._do(lambda: _("The cases are in {folder}").format(folder=folder))


def _numbers(cases: list[str]) -> str:
    return ", ".join(str(case_number(case)) for case in cases)
