"""The panel's section Scans to Review: from one scan to the next until each is accepted or rejected."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from ...engine.errors import InputError
from ...service.batch_review import BatchReview, Reviewed
from ...service.review_states import ACCEPTED, CORRECTED, REJECTED, STATES, TO_REVIEW
from ..review_lists import FolderList, SceneList
from ..settings import read_setting, write_setting
from .double_click import DoubleClick
from .enabling import enable
from .guard import WENT_WRONG, Guard
from .paths import ask_for_folder
from .tables import cell, fit_height, set_titles
from .words import counted, verdict_in_words

ROWS_SHOWN = 6
TITLE = 0
RESULTS_SETTING, SCANS_SETTING = "reviewFolder", "reviewScansFolder"


class ReviewListSection:
    """Shows the scans of the scene, or of the folder of a batch, and opens one after the other.

    Args:
        onOpened: called with the volume and the segmentation of a scan that is to be looked at; the latter is ``None``
            where it has none yet.
        runningOn: called for the volume that is being segmented, ``None`` where none is.
    """

    def __init__(self, ui, guard: Guard, onOpened: Callable, runningOn: Callable):
        import qt

        self.ui, self._guard, self._say = ui, guard, guard.say
        self._onOpened, self._runningOn = onOpened, runningOn
        self.nextDoubleClick, self.rejectDoubleClick = DoubleClick(), DoubleClick()
        self._list: SceneList | FolderList = SceneList()
        self._rows: list[Reviewed] = []
        self._filled: list[Reviewed] = []  # what the table holds
        self._failed = ""  # the key of a scan that could not be opened: Next goes on from there
        self._volumeNode = None
        table, resize = ui.reviewTable, qt.QHeaderView
        set_titles(
            table,
            (_("Scan"), "", False),
            (_("State"), _("Accepted scans are cases of the library; corrected ones were changed first."), False),
            (_("Verdict"), _("The network's own word for its contour; doubtful scans come first."), False),
        )
        header = table.horizontalHeader()
        header.setSectionResizeMode(resize.ResizeToContents)
        header.setSectionResizeMode(TITLE, resize.Stretch)
        table.connect("cellActivated(int,int)", lambda row, column: self._open(self._rows[row].key))
        ui.nextScanButton.connect("clicked(bool)", self._onNext)
        ui.rejectScanButton.connect("clicked(bool)", self._onReject)
        ui.reviewFolderButton.connect("clicked(bool)", self._onFolder)
        ui.reviewSceneButton.connect("clicked(bool)", self._onScene)
        ui.reviewListCollapsibleButton.connect("contentsCollapsed(bool)", lambda collapsed: self.refresh())
        self.refresh()

    @property
    def isOpen(self) -> bool:
        return not self.ui.reviewListCollapsibleButton.collapsed

    # ---- what is shown

    def follow(self, volumeNode) -> None:
        """Another volume is looked at."""
        if volumeNode is not self._volumeNode:
            self._volumeNode, self._failed = volumeNode, ""
            self.refresh()

    def refresh(self) -> None:
        """Show the list as it is now, if anybody looks."""
        if not self.isOpen or slicer.mrmlScene.IsClosing():
            return
        rows = self._guard(self._list.rows)
        isWrong = rows is WENT_WRONG
        self._rows = [] if isWrong else rows
        self._fill()
        self.ui.reviewListLabel.text = self.ui.statusLabel.text if isWrong else self._summary()
        self.ui.reviewSceneButton.setVisible(isinstance(self._list, FolderList))
        others = [row for row in self._rows if row.state == TO_REVIEW]
        enable(
            self.ui.nextScanButton,
            "" if others else _("No scan is left to review."),
            _("Opens the next scan that is to be reviewed, the most doubtful first (Ctrl+Right)."),
        )
        self._refreshReject()

    def _refreshReject(self) -> None:
        row = self._current()
        isRejected = row is not None and row.state == REJECTED
        button = self.ui.rejectScanButton
        keys = button.shortcut
        button.text = _("Review Again") if isRejected else _("Reject")
        button.shortcut = keys  # which a new text takes away
        obstacle = "" if row is not None else _("The scan that is shown is none of this list.")
        tip = (
            _("Puts the scan back among those to review (Ctrl+Backspace).")
            if isRejected
            else _("Notes that the scan that is shown cannot be used; nothing is deleted (Ctrl+Backspace).")
        )
        enable(button, obstacle, tip)

    def _fill(self) -> None:
        table, current = self.ui.reviewTable, self._key()
        wasBlocked = table.blockSignals(True)
        table.clearSelection()
        table.setRowCount(len(self._rows))
        for number, (row, before) in enumerate(zip_longest(self._rows, self._filled[: len(self._rows)])):
            if row != before:  # thousands of rows take seconds
                for column, text in enumerate((row.title, state_in_words(row.state), verdict_in_words(row.word))):
                    table.setItem(number, column, cell(text, text))
            if row.key == current:
                table.setCurrentCell(number, TITLE)
        self._filled = self._rows
        table.blockSignals(wasBlocked)
        fit_height(table, ROWS_SHOWN)

    def _summary(self) -> str:
        isScene, states = isinstance(self._list, SceneList), [row.state for row in self._rows]
        if not states:
            return _("No scan in the scene yet.") if isScene else _("The batch has segmented no scan.")
        what = counted(len(states), _("1 scan"), _("{count} scans"))
        where = _("in the scene") if isScene else _("in '{folder}'").format(folder=self._list.title)
        told = [f"{states.count(state)} {state_in_words(state)}" for state in STATES if state in states]
        return f"{what} {where}: {', '.join(told)}."

    def _key(self) -> str:
        return "" if self._volumeNode is None else self._list.key_of(self._volumeNode)

    def _current(self) -> Reviewed | None:
        key = self._key()
        return next((row for row in self._rows if row.key == key), None)

    # ---- from one to the next

    def _onNext(self, checked: bool = False) -> None:
        if self.nextDoubleClick.isSecond():
            return
        keys, last = [row.key for row in self._rows], self._failed or self._key()
        after = keys.index(last) + 1 if last in keys else 0
        ahead = [row for row in self._rows[after:] + self._rows[:after] if row.state == TO_REVIEW]
        if ahead:
            self._open(ahead[0].key)
        self.nextDoubleClick.settle()

    def _open(self, key: str) -> None:
        before = self._key()
        staying = self._guard(lambda: self._lookAt(key))
        self._failed = key if staying is WENT_WRONG else ""
        if staying is not WENT_WRONG and before in staying:
            words = _("'{name}' stays open: {reason}.").format(name=before, reason=staying[before])
            self._say(f"{words} {self.ui.statusLabel.text}")
        self.refresh()

    def _lookAt(self, key: str) -> dict[str, str]:
        """Returns the scans that stay in the scene, and why."""
        self._onOpened(*self._list.open(key))
        return self._list.leave_all_but(key, self._runningOn())

    def _onReject(self, checked: bool = False) -> None:
        row = self._current()
        if row is None or self.rejectDoubleClick.isSecond():
            return
        state = TO_REVIEW if row.state == REJECTED else REJECTED
        if self._guard(lambda: self._list.decide(row.key, state)) is not WENT_WRONG:
            self.refresh()
            words = _("'{name}' is rejected.") if state == REJECTED else _("'{name}' is to be reviewed again.")
            self._say(words.format(name=row.title))

    def noteStored(self, node, volumeNode) -> None:
        """A result was accepted, or that was taken back."""
        key = self._list.key_of(volumeNode)
        if key:
            self._guard(lambda: self._list.note_stored(key, node))
        self.refresh()

    # ---- which list

    def _onFolder(self, checked: bool = False) -> None:
        folder = ask_for_folder(_("Folder of results of a batch"))
        if not folder:
            return
        opened = self._guard(lambda: self._listOf(Path(folder)))
        if opened is not WENT_WRONG and opened is not None:
            self._take(opened)

    def _listOf(self, folder: Path) -> FolderList | None:
        """The list of a folder; ``None`` when the user does not say where the scans are."""
        review = BatchReview(folder)
        if read_setting(RESULTS_SETTING, "") == str(folder):
            with suppress(InputError):  # they were moved
                self._lookForScans(review, read_setting(SCANS_SETTING, ""))
                return FolderList(review)
        scans = ask_for_folder(_("Folder of the scans that this batch was given"))
        if not scans:
            return None
        self._lookForScans(review, scans)
        write_setting(RESULTS_SETTING, str(folder))
        write_setting(SCANS_SETTING, scans)
        return FolderList(review)

    def _lookForScans(self, review: BatchReview, folder: str) -> None:
        """Of thousands of DICOM files every header is read."""
        self._say(_("Looking for the scans ..."))
        slicer.app.processEvents()
        review.look_for_scans(Path(folder))

    def _onScene(self, checked: bool = False) -> None:
        self._take(SceneList())

    def _take(self, other: SceneList | FolderList) -> None:
        self.close()
        self._list = other
        self.refresh()
        self._say(self._summary())

    def close(self) -> None:
        """The panel is left, or another list is taken."""
        self._guard(self._list.close)


def state_in_words(state: str) -> str:
    """For the table and the sums."""
    words = {TO_REVIEW: _("to review"), CORRECTED: _("corrected"), ACCEPTED: _("accepted"), REJECTED: _("rejected")}
    return words[state]
