"""The panel's section Result: what was measured on the contour, and what the network thinks of it."""

from __future__ import annotations

from collections.abc import Callable

import slicer
from slicer.i18n import tr as _

from ...engine.errors import DDSPSegmentationError
from ...engine.quality import verdict
from ...engine.segmentation import GlandMeasurements
from ..result_nodes import (
    add_table,
    current_row,
    facts_of,
    is_edited,
    measure,
    own_segment_id,
    psa_density,
    psa_of,
    results_of,
    say_who_drew,
    set_psa,
    table_of,
    write_row,
)
from ..unseen_by_undo import unseen_by_undo

USUAL_THRESHOLD = 0.5
REFERENCE_PSA_DENSITY = 0.15  # ng/ml per ml, the threshold most often named in guidelines


class ResultSection:
    """Shows one result at a time; every figure is read from the result's own nodes."""

    def __init__(self, ui, say: Callable[[str], None]):
        self.ui, self._say = ui, say
        self._node = self._volumeNode = None
        self._measurements: GlandMeasurements | None = None
        self.edited = False
        self._filling = False
        self._aboutDice = ui.diceLabel.toolTip
        ui.psaSpinBox.connect("valueChanged(double)", self._onPsaChanged)
        ui.copyButton.connect("clicked(bool)", self._onCopy)
        ui.tableButton.connect("clicked(bool)", self._onTable)
        self.show(None, None)

    def show(self, node, volumeNode) -> None:
        """Show the result of a volume, or nothing."""
        self._node, self._volumeNode = node, volumeNode
        self.ui.resultCollapsibleButton.setVisible(node is not None)
        self.measure()

    @property
    def isFound(self) -> bool:
        """Whether the contour has a voxel."""
        return self._measurements is not None and self._measurements.volume_ml > 0

    def measure(self) -> None:
        """Measure the contour as it is now and refresh every figure, the table's too."""
        self._measurements, self.edited = None, False
        if self._node is not None and own_segment_id(self._node):
            try:
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
        self._filling = True
        ui.psaSpinBox.value = 0.0 if self._node is None else psa_of(self._node)
        self._filling = False
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
        ui.warningsLabel.text = "\n".join([_("Before your correction:"), *lines] if self.edited and lines else lines)
        ui.warningsLabel.setVisible(bool(lines))
        ui.detailsLabel.text = "" if facts is None else self._detailsText(facts)

    @staticmethod
    def _detailsText(facts) -> str:
        text = _("{model}, mode {mode}, {device}, {seconds:.1f} s").format(
            model=facts.model_version, mode=facts.mode, device=facts.device.upper(), seconds=facts.seconds
        )
        if facts.threshold == USUAL_THRESHOLD:
            return text
        return _("{text}, threshold {threshold:g}").format(text=text, threshold=facts.threshold)

    def _diceText(self, facts) -> str:
        expected = facts.expected_dice
        if expected is None:
            figure, value = _("not calibrated") if facts.why_no_expected_dice else _("none"), None
        else:
            figure, value = _("{value:.2f} ({low:.2f} to {high:.2f})").format(**expected._asdict()), expected.value
        if self.edited:
            return figure if expected is None else _("{figure}, of the network's contour").format(figure=figure)
        words = {"good": _("good"), "check": _("check"), "doubtful": _("doubtful"), "": ""}
        word = words[verdict(value, facts.warnings)]
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

    def _onPsaChanged(self, value: float) -> None:
        if self._node is not None and not self._filling:
            for node in results_of(self._volumeNode):  # it is the patient's, not the contour's
                set_psa(node, value)
            self.ui.psaDensityLabel.text = self._densityText()
            for node in results_of(self._volumeNode):
                self._updateTable(node)

    def text(self) -> str:
        """The figures as lines for a report; no name of the patient or of the volume."""
        ui = self.ui
        rows = [
            (_("Prostate volume"), ui.volumeLabel.text),
            (_("Size"), ui.sizeLabel.text),
            (_("Ellipsoid volume"), ui.ellipsoidLabel.text),
            (_("Contour"), _("corrected by hand") if self.edited else _("as the network made it")),
            (_("Expected Dice"), ui.diceLabel.text),
            (_("Warnings"), ui.warningsLabel.text.replace("\n", " ")),
            (_("Made by"), "DDSPSegmentation, " + ui.detailsLabel.text),
        ]
        psa = psa_of(self._node)
        if psa:
            rows[3:3] = [(_("PSA"), _("{psa:g} ng/ml").format(psa=psa)), (_("PSA density"), ui.psaDensityLabel.text)]
        return "\n".join([f"{name}: {value}" for name, value in rows if value] + [ui.disclaimerLabel.text])

    def _onCopy(self, checked: bool = False) -> None:
        slicer.app.clipboard().setText(self.text())
        self._say(_("The figures are in the clipboard."))

    def _updateTable(self, node) -> None:
        """Bring the table of a result of the volume up to date; empty it when the contour cannot be measured."""
        tableNode = None if node is None else table_of(node, self._volumeNode)
        if tableNode is None:
            return
        if node is not self._node:
            row = current_row(node, measure(node, self._volumeNode), is_edited(node, self._volumeNode))
        else:
            row = {} if self._measurements is None else current_row(node, self._measurements, self.edited)
        write_row(row, tableNode)

    def _onTable(self, checked: bool = False) -> None:
        tableNode = table_of(self._node, self._volumeNode) or add_table(self._node, self._volumeNode)
        self._updateTable(self._node)
        application = slicer.app.applicationLogic()
        application.GetSelectionNode().SetActiveTableID(tableNode.GetID())
        application.PropagateTableSelection()
        name = tableNode.GetName()
        self._say(_("The figures are in the table '{name}'; the module Tables shows it.").format(name=name))
