"""The panel's section Result: what was measured on the contour, and what the network thinks of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import slicer
from slicer.i18n import tr as _

from ...engine.errors import DDSPSegmentationError
from ...engine.preprocessing import PreprocessingSettings
from ...engine.run_settings import DEFAULTS
from ...engine.segmentation import MOST_PSA, GlandMeasurements, psa_density
from ..result_nodes import (
    add_table,
    current_row,
    facts_of,
    is_edited,
    is_imported,
    measure,
    own_segment_id,
    psa_of,
    results_of,
    say_who_drew,
    set_psa,
    table_of,
    write_row,
)
from ..together import are_apart, move_along
from ..unseen_by_undo import unseen_by_undo
from .attention import set_shown
from .words import verdict_in_words

USUAL_THRESHOLD, USUAL_BIAS_FIELD = DEFAULTS.threshold, PreprocessingSettings().bias_field
REFERENCE_PSA_DENSITY = 0.15  # ng/ml per ml, the threshold most often named in guidelines


class ResultSection:
    """Shows one result at a time; every figure is read from the result's own nodes."""

    def __init__(self, ui, say: Callable[[str], None]):
        self.ui, self._say = ui, say
        self._node = self._volumeNode = None
        self._measurements: GlandMeasurements | None = None
        self.edited = False
        self.apart = False
        self._psaBefore: float | None = None
        self._psaNode = None  # whose PSA the field shows
        self._aboutDice = ui.diceLabel.toolTip
        self._figures = (ui.volumeLabel, ui.diceLabel, ui.sizeLabel, ui.ellipsoidLabel, ui.psaDensityLabel)
        ui.psaLineEdit.connect("editingFinished()", self._onPsaEdited)
        ui.psaUndoButton.connect("clicked(bool)", self._onPsaUndo)
        ui.moveAlongButton.connect("clicked(bool)", self._onMoveAlong)
        ui.copyButton.connect("clicked(bool)", self._onCopy)
        ui.tableButton.connect("clicked(bool)", self._onTable)
        self.show(None, None)

    def show(self, node, volumeNode) -> None:
        """Show the result of a volume, or nothing."""
        if node is not self._node:
            if self.ui.psaLineEdit.modified:  # it was written for the patient who goes
                self._onPsaEdited()
            self._psaBefore = None
        self._node, self._volumeNode = node, volumeNode
        self.ui.resultCollapsibleButton.setVisible(node is not None)
        self.measure()

    @property
    def isFound(self) -> bool:
        """Whether the contour has a voxel."""
        return self._measurements is not None and self._measurements.volume_ml > 0

    def measure(self) -> None:
        """Measure the contour as it is now and refresh every figure, the table's too."""
        self._measurements, self.edited, self.apart = None, False, False
        if self._node is not None and own_segment_id(self._node):
            try:
                self.apart = are_apart(self._node, self._volumeNode)
                self.edited = is_edited(self._node, self._volumeNode)
                self._measurements = measure(self._node, self._volumeNode)
                with unseen_by_undo(self._node):
                    say_who_drew(self._node, self.edited)
            except DDSPSegmentationError as error:
                self.edited = True  # nobody knows any more what it is
                self._say(str(error))
        self._fill()
        self._updateTable(self._node)

    def _fill(self) -> None:
        ui, found = self.ui, self._measurements
        facts = None if self._node is None else facts_of(self._node)
        self._showPsa()
        volume = size = ellipsoid = ""
        if found is not None:
            volume = _("{ml:.1f} ml").format(ml=found.volume_ml)
            size = _("{lr:.0f} x {ap:.0f} x {cc:.0f} mm (LR x AP x CC)").format(
                lr=found.left_right_mm, ap=found.antero_posterior_mm, cc=found.cranio_caudal_mm
            )
            ellipsoid = _("{ml:.1f} ml (LR x AP x CC x pi/6)").format(ml=found.ellipsoid_volume_ml)
        ui.volumeLabel.text, ui.sizeLabel.text, ui.ellipsoidLabel.text = volume, size, ellipsoid
        ui.psaDensityLabel.text = self._densityText()
        ui.diceLabel.text = "" if facts is None else self._diceText(facts)
        why = "" if facts is None else facts.why_no_expected_dice
        ui.diceLabel.toolTip = why or self._aboutDice
        lines = [] if facts is None else [*facts.warnings, *(line for line in facts.notices if line != why)]
        lines = [_("Before your correction:"), *lines] if self.edited and lines else lines
        if self.apart:
            lines = [_("Scan and contour were moved apart: these figures are not of this gland."), *lines]
        ui.warningsLabel.text = "\n".join(lines)
        ui.warningsLabel.setVisible(bool(lines))
        set_shown(ui.moveAlongButton, self.apart)
        for label in self._figures:
            label.enabled = not self.apart
        ui.detailsLabel.text = self._aboutOrigin(facts)
        hasFacts = facts is not None
        for widget in (ui.diceCaptionLabel, ui.diceLabel, ui.detailsLabel):
            widget.setVisible(hasFacts or (widget is ui.detailsLabel and bool(ui.detailsLabel.text)))

    def _aboutOrigin(self, facts) -> str:
        """How the contour came about; what a run was asked otherwise than usual stands there too."""
        if facts is None:
            return _("This contour was imported; no network drew it.") if self.isImported else ""
        text = _("{model}, mode {mode}, {device}, {seconds:.1f} s").format(
            model=facts.model_version, mode=facts.mode, device=facts.device.upper(), seconds=facts.seconds
        )
        if facts.threshold != USUAL_THRESHOLD:
            text = _("{text}, threshold {threshold:g}").format(text=text, threshold=facts.threshold)
        if facts.bias_field != USUAL_BIAS_FIELD:
            text = _("{text}, bias field {bias_field}").format(text=text, bias_field=facts.bias_field)
        return text

    @property
    def isImported(self) -> bool:
        """Whether no network drew the contour that is shown."""
        return self._node is not None and is_imported(self._node)

    def _diceText(self, facts) -> str:
        expected = facts.expected_dice
        if expected is None:
            figure = _("not calibrated") if facts.why_no_expected_dice else _("none")
        else:
            figure = _("{value:.2f} ({low:.2f} to {high:.2f})").format(**expected._asdict())
        if self.edited:
            return figure if expected is None else _("{figure}, of the network's contour").format(figure=figure)
        if self.apart:
            return figure
        word = verdict_in_words(facts.word)
        return f"{figure} - {word}" if word else figure

    def _densityText(self) -> str:
        if self._node is None or self._measurements is None:
            return ""
        psa = psa_of(self._node)
        if not psa:
            return _("enter the PSA")
        density = psa_density(psa, self._measurements.volume_ml)
        if density is None:
            return _("none, the contour is empty")
        return _("{density:.3f} ng/ml per ml (reference: {reference:.2f})").format(
            density=density, reference=REFERENCE_PSA_DENSITY
        )

    # ---- PSA

    def _showPsa(self) -> None:
        psa = 0.0 if self._node is None else psa_of(self._node)
        if self._node is not self._psaNode or not self.ui.psaLineEdit.modified:  # somebody may be writing
            self.ui.psaLineEdit.text = f"{psa:g}" if psa else ""
        self._psaNode = self._node
        self.ui.psaUndoButton.setVisible(self._psaBefore is not None)
        if self._psaBefore is not None:
            before = _("{psa:g} ng/ml").format(psa=self._psaBefore) if self._psaBefore else _("not given")
            self.ui.psaUndoButton.toolTip = _("Back to what it was before: {before}.").format(before=before)

    def _onPsaEdited(self) -> None:
        if self._node is None:
            return
        text = self.ui.psaLineEdit.text.strip()
        self.ui.psaLineEdit.modified = False
        psa = _psa(text)
        if psa is None:
            self._say(_("'{text}' is no PSA: write a number in ng/ml up to {most}, or nothing.").format(
                text=text, most=MOST_PSA
            ))  # fmt: skip
            self._showPsa()
        elif psa != psa_of(self._node):
            self._psaBefore = psa_of(self._node)
            self._setPsa(psa)

    def _onPsaUndo(self, checked: bool = False) -> None:
        psa, self._psaBefore = self._psaBefore, None
        if psa is not None and self._node is not None:
            self._setPsa(psa)

    def _setPsa(self, psa: float) -> None:
        for node in results_of(self._volumeNode):  # it is the patient's, not the contour's
            set_psa(node, psa)
        self._showPsa()
        self.ui.psaDensityLabel.text = self._densityText()
        for node in results_of(self._volumeNode):
            self._updateTable(node)

    # ---- scan and contour apart

    def _onMoveAlong(self, checked: bool = False) -> None:
        if self._node is not None:
            move_along(self._node, self._volumeNode)
            self.measure()
            if not self.apart:
                self._say(_("The contour lies where its scan is again."))

    # ---- elsewhere

    def text(self) -> str:
        """The figures as lines for a report; no name of the patient or of the volume."""
        ui = self.ui
        rows = [
            (_("Prostate volume"), ui.volumeLabel.text),
            (_("Size"), ui.sizeLabel.text),
            (_("Ellipsoid volume"), ui.ellipsoidLabel.text),
            (_("Contour"), self._whoDrewIt()),
            (_("Expected Dice"), ui.diceLabel.text),
            (_("Warnings"), ui.warningsLabel.text.replace("\n", " ")),
            (_("Made by"), "" if self.isImported else "DDSPSegmentation, " + ui.detailsLabel.text),
        ]
        psa = psa_of(self._node)
        if psa:
            rows[3:3] = [(_("PSA"), _("{psa:g} ng/ml").format(psa=psa)), (_("PSA density"), ui.psaDensityLabel.text)]
        return "\n".join([f"{name}: {value}" for name, value in rows if value] + [ui.disclaimerLabel.text])

    def _whoDrewIt(self) -> str:
        if self.isImported:
            return _("imported")
        return _("corrected by hand") if self.edited else _("as the network made it")

    def _onCopy(self, checked: bool = False) -> None:
        slicer.app.clipboard().setText(self.text())
        self._say(_("The figures are in the clipboard."))

    def _updateTable(self, node) -> None:
        """Bring the table of a result of the volume up to date; empty it when the contour cannot be measured."""
        tableNode = None if node is None else table_of(node, self._volumeNode)
        if tableNode is None:
            return
        row: dict = {}
        with suppress(DDSPSegmentationError):  # what cannot be measured has no figures
            if node is not self._node:
                together = not are_apart(node, self._volumeNode)
                found, edited = measure(node, self._volumeNode), is_edited(node, self._volumeNode)
            else:
                together, found, edited = not self.apart, self._measurements, self.edited
            row = current_row(node, found, edited) if together and found is not None else {}
        write_row(row, tableNode)

    def _onTable(self, checked: bool = False) -> None:
        tableNode = table_of(self._node, self._volumeNode) or add_table(self._node, self._volumeNode)
        self._updateTable(self._node)
        self._showInLayout(tableNode)
        self._say(_("The figures are in the table '{name}'.").format(name=tableNode.GetName()))

    @staticmethod
    def _showInLayout(tableNode) -> None:
        """Beside the views, as Tables shows a table; a layout that has a place for tables stays."""
        manager = slicer.app.layoutManager()
        if manager is not None:
            with_table = slicer.modules.tables.logic().GetLayoutWithTable(manager.layout)
            if manager.layout != with_table:
                manager.setLayout(with_table)
        application = slicer.app.applicationLogic()
        application.GetSelectionNode().SetActiveTableID(tableNode.GetID())
        application.PropagateTableSelection()


def _psa(text: str) -> float | None:
    """The number that somebody wrote, with a point or a comma; 0 of nothing, ``None`` of no number."""
    try:
        psa = float(text.replace(",", ".") or 0)
    except ValueError:
        return None
    return psa if 0 <= psa <= MOST_PSA else None
