"""The sections Result and Review as a person uses them: figures of one volume, and what the views show of them."""

import re

import numpy as np
import pytest
import slicer
import vtk
from panel_parts import (
    MODULE_FILE,
    NO_PSA,
    OF_NETWORK,
    PRESS,
    READY,
    UNCALIBRATED,
    add_result,
    load_sample,
    load_scene,
    save_scene,
    wait_for,
)
from slicer_stand_in import enterModule, leaveModule

from DDSPSegmentationLib.engine.html_page import RESEARCH_ONLY
from DDSPSegmentationLib.engine.model import BUILTIN_MODEL
from DDSPSegmentationLib.scene.result_nodes import facts_of, network_mask, psa_of, table_of
from DDSPSegmentationLib.scene.results import uncertainty_volume_of
from DDSPSegmentationLib.scene.slice_views import least_certain_slices


def nodes(class_name):
    return slicer.util.getNodesByClass(class_name)


def work():
    """Let everything happen that was put off."""
    for _ in range(5):
        slicer.app.processEvents()


def eroded(mask):
    """The contour without its upper half of slices."""
    smaller = mask.copy()
    smaller[: mask.shape[0] // 2] = 0
    return smaller


def ml_of(person, node=None):
    return np.count_nonzero(person.mask(node)) * np.prod(person.volume.GetSpacing()) / 1000


# ---- figures


def test_figures_are_those_of_the_contour(segmented):
    ui, mask = segmented.ui, segmented.mask()
    k, j, i = (np.ptp(np.nonzero(mask)[axis]) + 1 for axis in range(3))
    spacing = segmented.volume.GetSpacing()
    left_right, antero_posterior, cranio_caudal = map(int, re.findall(r"\d+", ui.sizeLabel.text))
    assert "LR x AP x CC" in ui.sizeLabel.text
    for shown, voxels, step in ((left_right, i, spacing[0]), (antero_posterior, j, spacing[1]),
                                (cranio_caudal, k, spacing[2])):  # fmt: skip
        assert shown == pytest.approx(voxels * step, abs=6)  # the scan is tilted a little
    ellipsoid = float(ui.ellipsoidLabel.text.split()[0])
    assert ellipsoid == pytest.approx(left_right * antero_posterior * cranio_caudal * np.pi / 6 / 1000, rel=0.1)
    facts = facts_of(segmented.result)
    for part in (facts.model_version, "mode standard", "CPU", f"{facts.seconds:.1f} s"):
        assert part in ui.detailsLabel.text
    # Nothing was calibrated without the bias field; the figure's place says so, and its tooltip why.
    assert facts.expected_dice is None and ui.diceLabel.text.startswith(UNCALIBRATED)
    why = "There is no expected Dice: bias field off was not calibrated."
    assert why in facts.notices and why in ui.diceLabel.toolTip
    said = [line for line in (*facts.warnings, *facts.notices) if line != why]
    assert len(said) == len(facts.warnings) + len(facts.notices) - 1
    assert ui.warningsLabel.text == "\n".join(said)
    assert ui.warningsLabel.isHidden() == (not ui.warningsLabel.text)


@pytest.mark.parametrize(
    ("expected_dice", "warnings", "text"),
    [
        (0.9, [], "0.90 (0.86 to 0.93) - good"),
        (0.9, ["Look."], "0.90 (0.86 to 0.93) - check"),
        (0.6, [], "0.60 (0.56 to 0.63) - doubtful"),
        (None, [], "not calibrated"),
        (None, ["Look."], "not calibrated - check"),
    ],
)
def test_the_expected_dice_is_shown_with_its_interval_and_a_word_or_not_at_all(person, expected_dice, warnings, text):
    ui, (volume, _node) = person.ui, add_result(expected_dice=expected_dice, warnings=warnings)
    usual = ui.diceLabel.toolTip
    ui.inputSelector.setCurrentNode(volume)
    assert ui.diceLabel.text == text and ui.warningsLabel.text == "\n".join(warnings)
    assert (ui.diceLabel.toolTip == usual) == (expected_dice is not None)
    ui.tableButton.click()
    shown = person.table()["expected_dice"]
    assert np.isnan(shown) if expected_dice is None else shown == expected_dice
    ui.copyButton.click()
    assert f"Expected Dice: {text}" in slicer.app.clipboard().text()
    ui.inputSelector.setCurrentNode(None)
    assert ui.diceLabel.text == "" and ui.diceLabel.toolTip == usual


def test_psa_density_and_table_follow_psa_and_contour(segmented):
    ui = segmented.ui
    assert ui.psaDensityLabel.text == NO_PSA
    segmented.set_psa(6.5)
    before = ml_of(segmented)
    assert ui.psaDensityLabel.text == f"{6.5 / before:.3f} ng/ml per ml (reference: 0.15)"
    assert segmented.table()["psa_ng_per_ml"] == 6.5
    segmented.write(eroded(segmented.mask()))
    segmented.settle()
    after = ml_of(segmented)
    assert after < before * 0.8
    assert ui.volumeLabel.text == f"{after:.1f} ml"
    assert ui.psaDensityLabel.text.startswith(f"{6.5 / after:.3f} ng/ml per ml")
    row = segmented.table()
    assert row["volume_ml"] == pytest.approx(after, abs=0.01)
    assert row["psa_density"] == pytest.approx(6.5 / after, abs=0.001)
    assert row["contour"] == "corrected"
    segmented.write(np.zeros_like(segmented.mask()))
    segmented.settle()
    assert ui.volumeLabel.text == "0.0 ml" and ui.psaDensityLabel.text == "none, the contour is empty"
    segmented.set_psa(0)
    assert ui.psaDensityLabel.text == NO_PSA and psa_of(segmented.result) == 0


def test_what_the_network_said_is_called_so_after_an_edit(segmented):
    ui = segmented.ui
    assert ui.diceCaptionLabel.text == "Expected Dice:" and ui.uncertaintyCheckBox.text == "Uncertainty"
    segmented.paint()
    segmented.settle()
    assert ui.diceLabel.text == UNCALIBRATED
    assert ui.uncertaintyCheckBox.text == "Network's uncertainty"
    ui.inputSelector.setCurrentNode(add_result()[0])
    segmented.write(eroded(segmented.mask()))
    segmented.settle()
    assert ui.diceLabel.text == f"0.90 (0.86 to 0.93), {OF_NETWORK}"
    ui.copyButton.click()
    assert "corrected by hand" in slicer.app.clipboard().text()
    assert OF_NETWORK in slicer.app.clipboard().text()


def test_copied_text_has_the_figures_and_no_name(segmented):
    segmented.volume.SetName("DOE^JOHN")
    segmented.set_psa(4.2)
    segmented.ui.copyButton.click()
    text = slicer.app.clipboard().text()
    for part in (segmented.ui.volumeLabel.text, segmented.ui.sizeLabel.text, "PSA: 4.2 ng/ml", "PSA density: ",
                 "as the network made it", BUILTIN_MODEL, RESEARCH_ONLY):  # fmt: skip
        assert part in text
    assert "DOE" not in text and segmented.status == "The figures are in the clipboard."


def test_table_that_was_deleted_comes_back_at_the_button(segmented):
    segmented.set_psa(9)
    slicer.mrmlScene.RemoveNode(nodes("vtkMRMLTableNode")[0])
    work()
    assert segmented.table() is None
    segmented.ui.tableButton.click()
    assert segmented.table()["psa_ng_per_ml"] == 9
    (table,) = nodes("vtkMRMLTableNode")
    assert slicer.app.applicationLogic().GetSelectionNode().GetActiveTableID() == table.GetID()
    assert table.GetName() in segmented.status


def test_figures_never_stand_beside_another_volume(segmented):
    ui, first, first_result = segmented.ui, segmented.volume, segmented.result
    segmented.set_psa(6.5)
    segmented.write(eroded(segmented.mask()))
    second = load_sample("T2 of another patient")  # before the edit has settled
    ui.inputSelector.setCurrentNode(second)
    assert not segmented.shows_result() and segmented.result is None
    assert ui.reviewCollapsibleButton.isHidden() and ui.correctCollapsibleButton.isHidden()
    assert ui.volumeLabel.text == "" and ui.psaLineEdit.text == "" and ui.psaDensityLabel.text == ""
    assert not ui.segNrrdButton.enabled
    assert segmented.status == PRESS

    second_result = segmented.segment()
    assert second_result is not first_result and ui.psaLineEdit.text == ""
    full = ml_of(segmented)
    assert ui.volumeLabel.text == f"{full:.1f} ml"
    segmented.set_psa(12)
    ui.inputSelector.setCurrentNode(first)
    half = ml_of(segmented, first_result)
    assert segmented.result is first_result
    assert ui.psaLineEdit.text == "6.5" and ui.volumeLabel.text == f"{half:.1f} ml" and half < full
    assert segmented.table()["volume_ml"] == pytest.approx(half, abs=0.01)
    assert segmented.table()["contour"] == "corrected" and ui.diceLabel.text == UNCALIBRATED

    # the other volume's segmentation chosen as output
    ui.outputSelector.setCurrentNode(second_result)
    assert not segmented.shows_result() and ui.volumeLabel.text == ""
    ui.outputSelector.setCurrentNode(first_result)
    assert segmented.shows_result() and ui.psaLineEdit.text == "6.5"

    # no input at all
    ui.inputSelector.setCurrentNode(None)
    assert not segmented.shows_result() and ui.volumeLabel.text == ""
    ui.inputSelector.setCurrentNode(second)
    assert ui.psaLineEdit.text == "12" and ui.volumeLabel.text == f"{full:.1f} ml"
    assert psa_of(first_result) == 6.5

    slicer.mrmlScene.RemoveNode(second_result)
    work()
    assert not segmented.shows_result() and ui.volumeLabel.text == "" and ui.psaLineEdit.text == ""
    ui.inputSelector.setCurrentNode(first)
    slicer.mrmlScene.RemoveNode(first)
    work()
    assert not segmented.shows_result() and ui.volumeLabel.text == ""


def test_table_has_the_last_edit_though_another_volume_was_chosen_at_once(segmented):
    first = segmented.volume
    segmented.write(eroded(segmented.mask()))
    node = segmented.result
    segmented.ui.inputSelector.setCurrentNode(None)
    (table,) = nodes("vtkMRMLTableNode")
    expected = np.count_nonzero(segmented.mask(node)) * np.prod(first.GetSpacing()) / 1000
    assert table.GetTable().GetColumnByName("volume_ml").GetValue(0) == pytest.approx(expected, abs=0.01)


# ---- what the views show


def test_contour_fill_and_surface_are_shown_as_chosen(segmented):
    ui, node = segmented.ui, segmented.result
    display, segment_id = node.GetDisplayNode(), "Prostate"
    assert display.GetSegmentVisibility2DOutline(segment_id) and not display.GetSegmentVisibility2DFill(segment_id)
    assert segmented.has_surface() and display.GetSegmentVisibility3D(segment_id)
    ui.fillCheckBox.click()
    assert display.GetVisibility2DFill() and display.GetSegmentVisibility2DFill(segment_id)
    ui.surfaceCheckBox.click()
    assert not segmented.has_surface()
    ui.contourCheckBox.click()
    ui.fillCheckBox.click()
    assert not display.GetSegmentVisibility(segment_id)
    ui.contourCheckBox.click()
    ui.surfaceCheckBox.click()
    assert segmented.has_surface() and display.GetSegmentVisibility2DOutline(segment_id) and display.GetVisibility()


def test_uncertainty_is_laid_over_the_views_and_gives_back_what_was_there(segmented):
    ui = segmented.ui
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
    other = slicer.modules.volumes.logic().CloneVolume(slicer.mrmlScene, segmented.volume, "ADC")
    red.SetForegroundVolumeID(other.GetID())
    red.SetForegroundOpacity(0.3)
    before = segmented.foregrounds()
    assert uncertainty_volume_of(segmented.result) is None and ui.uncertaintyCheckBox.enabled
    assert not ui.uncertaintySlider.enabled
    ui.uncertaintyCheckBox.click()
    shown = uncertainty_volume_of(segmented.result)
    assert segmented.foregrounds() == [(shown, 0.5)] * 3
    assert shown.GetDisplayNode().GetColorNode() is not None
    low, high = slicer.util.arrayFromVolume(shown).min(), slicer.util.arrayFromVolume(shown).max()
    assert low >= 0 and 0.1 < high <= 1
    ui.uncertaintySlider.value = 0.8
    assert segmented.foregrounds() == [(shown, 0.8)] * 3
    ui.uncertaintyCheckBox.click()
    assert segmented.foregrounds() == before
    ui.uncertaintyCheckBox.click()
    assert uncertainty_volume_of(segmented.result) is shown and len(nodes("vtkMRMLScalarVolumeNode")) == 3

    # a new result in the same node has a new uncertainty
    assert segmented.segment() is not None
    again = uncertainty_volume_of(segmented.result)
    assert again is not shown and len(nodes("vtkMRMLScalarVolumeNode")) == 3
    assert segmented.foregrounds() == [(again, 0.8)] * 3
    assert segmented.volume.GetName() == "T2"
    slicer.mrmlScene.RemoveNode(segmented.result)
    work()
    assert segmented.foregrounds() == before


def test_uncertainty_comes_and_goes_with_the_volume(segmented):
    ui, first = segmented.ui, segmented.volume
    ui.uncertaintyCheckBox.click()
    of_first = uncertainty_volume_of(segmented.result)
    second = load_sample("T2 of another patient")
    ui.inputSelector.setCurrentNode(second)
    assert [volume for volume, _ in segmented.foregrounds()] == [None] * 3
    segmented.segment()
    of_second = uncertainty_volume_of(segmented.result)
    assert of_second is not of_first and [volume for volume, _ in segmented.foregrounds()] == [of_second] * 3
    ui.inputSelector.setCurrentNode(first)
    assert [volume for volume, _ in segmented.foregrounds()] == [of_first] * 3
    slicer.mrmlScene.RemoveNode(of_first)
    work()
    assert not ui.uncertaintyCheckBox.checked and segmented.foregrounds() == [(None, 0.0)] * 3
    ui.uncertaintyCheckBox.click()
    again = uncertainty_volume_of(segmented.result)
    assert again is not None and [volume for volume, _ in segmented.foregrounds()] == [again] * 3


def test_uncertainty_after_a_reload_is_there_only_if_it_was_saved(segmented, tmp_path):
    ui = segmented.ui

    def save_and_open(name):
        load_scene(save_scene(tmp_path / name))
        work()

    segmented.set_psa(7)
    volume = ui.volumeLabel.text
    save_and_open("without")
    assert segmented.shows_result() and ui.volumeLabel.text == volume and ui.psaLineEdit.text == "7"
    assert not ui.uncertaintyCheckBox.enabled and "was not saved with the scene" in ui.uncertaintyCheckBox.toolTip
    assert ui.nextSliceButton.enabled
    segmented.segment()
    assert ui.uncertaintyCheckBox.enabled
    ui.uncertaintyCheckBox.click()
    save_and_open("with")
    assert ui.uncertaintyCheckBox.enabled and ui.uncertaintyCheckBox.checked
    shown = uncertainty_volume_of(segmented.result)
    assert shown is not None and [volume for volume, _ in segmented.foregrounds()] == [shown] * 3
    ui.uncertaintyCheckBox.click()
    assert [volume for volume, _ in segmented.foregrounds()] == [None] * 3


def test_buttons_go_through_the_least_certain_slices(segmented):
    ui = segmented.ui
    order = least_certain_slices(facts_of(segmented.result).slice_doubts)
    assert len(order) > 5
    assert ui.nextSliceButton.enabled and "First the least certain slice" in ui.nextSliceButton.toolTip
    assert "More certain slice before" not in ui.nextSliceButton.toolTip
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()

    def slice_in_view():
        to_ijk = vtk.vtkMatrix4x4()
        segmented.volume.GetRASToIJKMatrix(to_ijk)
        to_ras = red.GetSliceToRAS()
        return to_ijk.MultiplyPoint([to_ras.GetElement(row, 3) for row in range(3)] + [1.0])[2]

    zoom = red.GetFieldOfView()
    for click, index, rank in (("next", order[0], 1), ("next", order[1], 2), ("next", order[2], 3),
                               ("previous", order[1], 2), ("previous", order[0], 1),
                               ("previous", order[-1], len(order))):  # fmt: skip
        getattr(ui, f"{click}SliceButton").click()
        assert slice_in_view() == pytest.approx(index, abs=0.01)
        assert ui.tourLabel.text == f"Slice {index + 1} ({rank} of {len(order)})"
    assert red.GetFieldOfView() == pytest.approx(zoom)


def test_views_turn_to_the_plane_of_the_volume_and_keep_their_zoom(person):
    volume = load_sample()
    assert wait_for(lambda: person.volume is volume)
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    red.SetFieldOfView(60, 60, 1)
    person.segment()
    to_ras = slicer.util.arrayFromVTKMatrix(red.GetSliceToRAS())
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASDirectionMatrix(matrix)
    normal = slicer.util.arrayFromVTKMatrix(matrix)[:3, 2]
    assert abs(to_ras[:3, 2] @ normal) == pytest.approx(1, abs=1e-6)
    assert red.GetFieldOfView()[:2] == pytest.approx((60, 60))


# ---- before and after a correction


def before_nodes():
    return [node for node in nodes("vtkMRMLSegmentationNode") if node.GetHideFromEditors()]


def test_before_shows_the_contour_of_the_network_instead_and_back(segmented):
    ui, node = segmented.ui, segmented.result
    assert not ui.beforeButton.enabled and ui.beforeButton.toolTip == ui.resetButton.toolTip
    made = segmented.mask()
    segmented.paint()
    segmented.settle()
    edited = segmented.mask()
    assert ui.beforeButton.enabled and (edited != made).any()
    ui.beforeButton.click()
    work()
    (before,) = before_nodes()
    assert not node.GetDisplayNode().GetVisibility() and before.GetDisplayNode().GetVisibility()
    shown = slicer.util.arrayFromSegmentBinaryLabelmap(before, before.GetSegmentation().GetNthSegmentID(0),
                                                       segmented.volume)  # fmt: skip
    assert ((shown != 0) == (made != 0)).all()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    assert not hierarchy.GetItemByDataNode(before)
    assert segmented.result is node and segmented.shows_result()
    ui.beforeButton.click()
    work()
    assert before_nodes() == [] and node.GetDisplayNode().GetVisibility()
    assert (segmented.mask() == edited).all()


def test_contour_of_another_volume_is_not_shown_over_this_one(segmented):
    first, node = segmented.volume, segmented.result
    second = load_sample("Another")
    segmented.ui.inputSelector.setCurrentNode(second)
    work()
    assert not node.GetDisplayNode().GetVisibility()
    composites = nodes("vtkMRMLSliceCompositeNode")
    assert {composite.GetBackgroundVolumeID() for composite in composites} == {second.GetID()}
    segmented.ui.inputSelector.setCurrentNode(first)
    work()
    assert node.GetDisplayNode().GetVisibility() and segmented.result is node
    assert {composite.GetBackgroundVolumeID() for composite in composites} == {first.GetID()}


@pytest.mark.parametrize("end", ["saved", "left", "other volume", "closed", "edited", "undone", "deleted"])
def test_before_leaves_nothing_behind(segmented, tmp_path, end):
    ui, node = segmented.ui, segmented.result
    segmented.paint()
    segmented.settle()
    segmented_nodes = len(nodes("vtkMRMLSegmentationDisplayNode"))
    ui.beforeButton.click()
    work()
    assert len(before_nodes()) == 1
    if end == "saved":
        slicer.mrmlScene.SetURL(str(tmp_path / "scene.mrml"))
        assert slicer.mrmlScene.Commit()
        written = (tmp_path / "scene.mrml").read_text()
        assert "Before correction" not in written and written.count("<SegmentationDisplay") == segmented_nodes
        ui.beforeButton.click()
    elif end == "left":
        leaveModule("DDSPSegmentation")
        assert before_nodes() == []
        enterModule(MODULE_FILE.stem)
    elif end == "other volume":
        ui.inputSelector.setCurrentNode(load_sample("Another"))
    elif end == "closed":
        slicer.mrmlScene.Clear(0)
    elif end == "edited":
        segmented.paint(5)
    elif end == "undone":
        segmented.editor.undo()
        segmented.settle()
        assert not ui.beforeButton.enabled
    else:
        slicer.mrmlScene.RemoveNode(node)
    work()
    assert before_nodes() == [] and not ui.beforeButton.checked
    if end == "closed":
        assert nodes("vtkMRMLSegmentationNode") == []
    else:
        # The contour does not lie over a volume that it was not made from.
        shown = node.GetDisplayNode()
        assert shown is None or bool(shown.GetVisibility()) == (end != "other volume")
        assert len(nodes("vtkMRMLSegmentationDisplayNode")) == segmented_nodes


def test_before_that_is_not_known_any_more_says_so(segmented):
    segmented.paint()
    segmented.settle()
    segmented.result.SetAttribute("DDSPSegmentation.NetworkMask", None)
    assert network_mask(segmented.result, segmented.volume) is None
    segmented.ui.beforeButton.click()
    assert before_nodes() == [] and not segmented.ui.beforeButton.checked
    assert "no longer available" in segmented.ui.beforeButton.toolTip
    assert segmented.result.GetDisplayNode().GetVisibility()


def test_psa_belongs_to_the_patient_and_reaches_every_result_of_the_volume(segmented):
    first = segmented.result
    segmented.paint()
    segmented.settle()
    segmented.set_psa(4.0)
    segmented.ui.segmentButton.click()
    segmented.ui.firstAnswerButton.click()  # New
    assert wait_for(lambda: segmented.ui.segmentButton.text == READY)
    second = segmented.result
    assert second is not first and psa_of(second) == 4.0
    segmented.set_psa(65.0)
    assert psa_of(first) == psa_of(second) == 65.0
    assert {row_of(node, segmented.volume)["psa_ng_per_ml"] for node in (first, second)} == {65.0}


def row_of(node, volume):
    table = table_of(node, volume).GetTable()
    return {table.GetColumnName(i): table.GetColumn(i).GetValue(0) for i in range(table.GetNumberOfColumns())}


def test_the_result_that_was_looked_at_last_comes_back_with_its_volume(segmented):
    first = segmented.result
    copy = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Backup")
    copy.Copy(first)
    copy.SetName("Backup")
    other = load_sample("Another")
    segmented.ui.inputSelector.setCurrentNode(other)
    segmented.ui.inputSelector.setCurrentNode(first.GetNodeReference("DDSPSegmentation.Volume"))
    work()
    assert segmented.result is first


def test_figures_follow_a_transform_that_scales_the_volume(segmented):
    before = ml_of(segmented)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    scale = slicer.util.vtkMatrixFromArray(np.diag([1.2, 1.2, 1.2, 1.0]))
    transform.SetMatrixTransformToParent(scale)
    segmented.result.SetAndObserveTransformNodeID(transform.GetID())
    segmented.volume.SetAndObserveTransformNodeID(transform.GetID())
    segmented.settle()
    assert segmented.ui.volumeLabel.text == f"{before * 1.2**3:.1f} ml"


def test_threshold_other_than_usual_is_named_beside_the_figures(person, t2):
    person.ui.thresholdSlider.value = 0.7
    person.segment()
    assert person.ui.detailsLabel.text.endswith("threshold 0.7, bias field off")


def test_the_threshold_acts_at_once_on_a_contour_that_nobody_edited(segmented):
    ui, before = segmented.ui, segmented.mask()
    expected = ui.diceLabel.text
    ui.thresholdSlider.value = 0.9
    assert wait_for(lambda: "threshold 0.9" in ui.detailsLabel.text)
    segmented.settle()
    smaller = segmented.mask()
    assert smaller.sum() < before.sum() and not (smaller & ~before).any()
    assert not segmented.panel.result.edited and segmented.table()["threshold"] == 0.9
    ui.thresholdSlider.value = 0.5
    assert wait_for(lambda: "threshold" not in ui.detailsLabel.text)
    segmented.settle()
    assert (segmented.mask() == before).all() and ui.diceLabel.text == expected
    segmented.paint()
    segmented.settle()
    corrected = segmented.mask()
    ui.thresholdSlider.value = 0.8
    assert wait_for(lambda: "counts from the next run on" in segmented.status)
    assert (segmented.mask() == corrected).all()


def test_corrected_contour_says_in_every_export_that_somebody_drew_on_it(segmented):
    def drawn_by():
        kind = vtk.reference("")
        segmented.result.GetSegmentation().GetSegment("Prostate").GetTag("DICOM.SegmentAlgorithmType", kind)
        return str(kind)

    assert drawn_by() == "AUTOMATIC"
    segmented.paint()
    segmented.settle()
    assert drawn_by() == "SEMIAUTOMATIC"
    segmented.editor.undo()
    segmented.settle()
    assert drawn_by() == "AUTOMATIC"
