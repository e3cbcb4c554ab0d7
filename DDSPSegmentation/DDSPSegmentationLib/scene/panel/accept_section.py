"""The end of the panel's section Correct: one large button that stores the contour as a case to learn from."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from slicer.i18n import tr as _

from ...engine.errors import DDSPSegmentationError
from ...library.case_library import CaseLibrary, Stored
from ..case_exchange import case_number, cases_until_retraining, store_result, take_back
from ..dicom_tags import database_trouble, patient_key_of
from ..result_nodes import case_note_of, case_of, differs_from_case, set_case_note
from ..user_folders import case_library, model_registry
from .attention import set_shown
from .enabling import enable, other_scan
from .guard import WENT_WRONG, Guard
from .words import about_purposes, purpose


@dataclass
class _Accepted:
    """What Undo takes back."""

    library: CaseLibrary
    node: object
    stored: Stored


class AcceptSection:
    """Accepts the result of the panel, corrected or as it is.

    Args:
        onChanged: called when the library holds something else.
        onStored: called with a result and its volume when it became a case, or is none any more.
    """

    def __init__(self, ui, guard: Guard, onChanged: Callable[[], None], onStored: Callable):
        self.ui, self._guard, self._say, self._onChanged, self._onStored = ui, guard, guard.say, onChanged, onStored
        self._node = self._volumeNode = None
        self._last: _Accepted | None = None
        self._offeredFor = None  # the volume whose patient can be chosen
        self._wasRefused, self._obstacle = False, ""
        self._troubles: set[str] = set()
        ui.noteLineEdit.connect("textChanged(QString)", self._onNote)
        ui.acceptButton.connect("clicked(bool)", lambda checked: self._do(self._store))
        ui.undoAcceptButton.connect("clicked(bool)", self._onUndo)
        self.show(None, None)

    def show(self, node, volumeNode) -> None:
        """Offer the result of a volume, or nothing."""
        self._node, self._volumeNode, self._wasRefused = node, volumeNode, False
        if self._last is not None and self._last.node.GetScene() is None:
            self._last = None
        self.ui.noteLineEdit.text = "" if node is None else case_note_of(node)
        self.offerPatients()
        self.refresh()

    def offerPatients(self) -> None:
        """Where nothing says whose the scan is, offer the patients of the cases that are there now."""
        combo, node = self.ui.patientComboBox, self._node
        unknown = node is not None and not case_of(node) and not patient_key_of(self._volumeNode)
        chosen = combo.currentData if self._volumeNode is self._offeredFor else ""
        self._offeredFor = self._volumeNode
        combo.clear()
        combo.setVisible(unknown)
        if unknown:
            combo.addItem(_("Patient not known: a new one"), "")
            cases: list[str] = []
            with suppress(DDSPSegmentationError):  # Accept says what is wrong with the library
                cases = case_library().ids()
            for case in reversed(cases):
                combo.addItem(_("Same patient as case {number}").format(number=case_number(case)), case)
            combo.currentIndex = max(combo.findData(chosen), 0)
            why = _(
                "Neither DICOM nor the scene says whose scan this is. If its patient has a case already, choose it: "
                "scans of one patient must not be trained on and compared on."
            )
            combo.toolTip = " ".join(filter(None, (database_trouble(self._volumeNode), why)))

    def lock(self, isElsewhere: bool) -> None:
        """Nobody accepts what the views do not show."""
        obstacle = other_scan(isElsewhere)
        if obstacle != self._obstacle:
            self._obstacle = obstacle
            self.refresh()

    def changed(self) -> None:
        """The contour or its case is another one: what was said last is out of date."""
        self._wasRefused = False
        self.refresh()

    def refresh(self) -> None:
        """Say which case the contour is, and whether it changed since."""
        ui, node = self.ui, self._node
        text = "" if node is None else self._state()
        ui.acceptedLabel.text = text
        ui.acceptedLabel.setVisible(bool(text))
        ui.acceptedLabel.toolTip = about_purposes()
        offersUndo = self._canTakeBack() and not self._wasRefused  # beside a refusal it would seem to undo that
        set_shown(ui.undoAcceptButton, offersUndo)
        tip = _(
            "Stores the scan and the contour as a case that the network can learn from, corrected or not, "
            "on this computer (Ctrl+Enter): {folder}"
        )
        enable(ui.acceptButton, self._obstacle, tip.format(folder=case_library().folder))

    def _canTakeBack(self) -> bool:
        last = self._last
        return last is not None and last.node is self._node and case_of(last.node) == last.stored.case.id

    def _state(self) -> str:
        case = case_of(self._node)
        if not case:
            return ""
        try:
            changed = differs_from_case(self._node, self._volumeNode)
        except DDSPSegmentationError:
            changed = True  # nobody knows any more what it is
        words = _("Case {number}, changed since it was stored.") if changed else _("Case {number}, stored as shown.")
        return words.format(number=case_number(case))

    def _onNote(self, text: str) -> None:
        if self._node is not None:
            set_case_note(self._node, text)

    def _do(self, action: Callable[[], str]) -> None:
        """Do something to the library and say how it went in the status line."""
        said = self._guard(action)
        if said is not WENT_WRONG:
            self._onChanged()
            self._say(said)
            self._onStored(self._node, self._volumeNode)
        self._wasRefused = said is WENT_WRONG
        if not self._wasRefused:
            self.offerPatients()
        self.refresh()

    def _store(self) -> str:
        library = case_library()
        if self._isStoredAsShown(library):
            return _("Case {number} is stored as shown already.").format(number=case_number(case_of(self._node)))
        same_patient_as = self.ui.patientComboBox.currentData or ""
        stored = store_result(library, self._node, self._volumeNode, same_patient_as)
        self._last = _Accepted(library, self._node, stored)
        return " ".join([self._sentence(stored), *stored.warnings, *self._trouble(), self._outlook(library)]).strip()

    def _trouble(self) -> list[str]:
        """What is wrong with the DICOM database, told once."""
        told = {database_trouble(self._volumeNode)} - self._troubles - {""}
        self._troubles |= told
        return [_("{trouble} So the patient is not known.").format(trouble=trouble) for trouble in told]

    def _isStoredAsShown(self, library: CaseLibrary) -> bool:
        """Whether a second click would store what the first one did."""
        known = {case.id: case for case in library.cases()}.get(case_of(self._node))
        return (
            known is not None
            and known.current.note == case_note_of(self._node)
            and not differs_from_case(self._node, self._volumeNode)
        )

    @staticmethod
    def _sentence(stored: Stored) -> str:
        case = stored.case
        words = {"number": case.number, "purpose": purpose(case.split), "revision": case.current.number}
        if stored.is_new:
            return _("Stored as case {number} ({purpose}).").format(**words)
        return _("Stored again: revision {revision} of case {number} ({purpose}).").format(**words)

    def _outlook(self, library: CaseLibrary) -> str:
        try:
            missing = cases_until_retraining(library, model_registry())
        except DDSPSegmentationError:  # the case is stored all the same
            return ""
        if missing:
            return _("{count} more before retraining pays.").format(count=missing)
        return _("Retraining pays now: see Learn.")

    def _onUndo(self, checked: bool = False) -> None:
        if self._canTakeBack():
            self._do(self._takeBack)

    def _takeBack(self) -> str:
        last = self._last
        take_back(last.library, last.node, last.stored)
        self._last = None
        words = (
            _("Case {number} was taken back; it is in the trash of the library.")
            if last.stored.is_new
            else _("Case {number} is again as it was before.")
        )
        return words.format(number=last.stored.case.number)
