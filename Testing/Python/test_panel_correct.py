"""The sections Correct and Export as a person uses them: tools, undo, figures that follow, and files."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import slicer
from panel_parts import MODULE_FILE, load_sample, load_scene, save_scene, wait_for
from slicer_stand_in import dialogs, enterModule, leaveModule

from DDSPSegmentationLib.scene.conversion import read_segment, write_segment
from DDSPSegmentationLib.scene.panel.paths import ask_for_new_file


def work():
    """Let everything happen that was put off."""
    for _ in range(5):
        slicer.app.processEvents()


def count_measurements(person, monkeypatch):
    """A list that grows by one at every measurement of the contour."""
    from DDSPSegmentationLib.scene.panel import result_section

    counted, measure = [], result_section.measure
    monkeypatch.setattr(result_section, "measure", lambda *nodes: counted.append(1) or measure(*nodes))
    return counted


def shown_ml(person):
    return person.ui.volumeLabel.text


def ml_of(person):
    return f"{np.count_nonzero(person.mask()) * np.prod(person.volume.GetSpacing()) / 1000:.1f} ml"


# ---- the editor


def test_editor_is_ready_for_the_contour(segmented):
    editor, node = segmented.editor, segmented.result
    editor_node = editor.mrmlSegmentEditorNode()
    assert editor.segmentationNode() is node and editor.sourceVolumeNode() is segmented.volume
    assert editor.currentSegmentID() == "Prostate"
    assert editor_node.GetSingletonTag() == "DDSPSegmentation"
    of_slicer = slicer.mrmlScene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
    assert editor_node is not of_slicer and editor.maximumNumberOfUndoStates >= 10
    assert tuple(editor.effectNameOrder())[:3] == ("Paint", "Erase", "Draw") and editor.unorderedEffectsVisible
    assert not segmented.ui.resetButton.enabled and "still" in segmented.ui.resetButton.toolTip


def test_shortcuts_work_only_while_the_module_is_shown(segmented):
    editor = segmented.editor
    assert {"1", "Z", "Esc"} <= set(editor.installedShortcuts())
    editor.setActiveEffectByName("Paint")
    leaveModule("DDSPSegmentation")
    assert editor.installedShortcuts() == [] and editor.activeEffect() is None and not editor.viewsAreObserved()
    enterModule(MODULE_FILE.stem)
    assert "1" in editor.installedShortcuts()
    segmented.paint()
    segmented.settle()
    assert shown_ml(segmented) == ml_of(segmented)


def test_tool_without_a_contour_changes_nothing(person):
    said = person.status
    person.editor.setActiveEffectByName("Paint")  # by its shortcut
    assert person.status == said
    load_sample()
    assert wait_for(lambda: person.volume is not None)
    person.segment()
    assert person.editor.activeEffect() is None and person.has_surface()


def test_editor_stays_away_from_segmentations_of_others(segmented):
    foreign = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Bladder")
    foreign.GetSegmentation().AddEmptySegment("Bladder", "Bladder")
    work()
    editor = segmented.editor
    assert editor.segmentationNode() is segmented.result
    segmented.ui.outputSelector.setCurrentNode(foreign)
    work()
    assert not segmented.shows_result() and editor.mrmlSegmentEditorNode().GetSegmentationNode() is None
    slicer.mrmlScene.Clear(0)
    for name in ("Bladder", "Rectum"):  # the first one is chosen by the editor itself
        slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        work()
        assert editor.mrmlSegmentEditorNode().GetSegmentationNode() is None


@pytest.mark.parametrize("what", ["own scene", "scene of another"])
def test_editor_comes_back_after_a_scene_was_opened(segmented, tmp_path, what):
    saved = save_scene(tmp_path / "saved")
    if what == "scene of another":  # imported into the scene that is open
        slicer.mrmlScene.Clear(0)
        other = load_sample("Other")
        assert wait_for(lambda: segmented.volume is other)
        segmented.segment()
        slicer.mrmlScene.SetURL(str(saved))
        assert slicer.mrmlScene.Import()
    else:
        load_scene(saved)
    work()
    assert segmented.shows_result()
    editor = segmented.editor
    assert editor.segmentationNode() is segmented.result and editor.sourceVolumeNode() is segmented.volume
    assert editor.currentSegmentID() == "Prostate"
    segmented.paint()
    segmented.settle()
    assert shown_ml(segmented) == ml_of(segmented) and segmented.ui.resetButton.enabled


def test_editor_works_after_the_scene_was_closed_with_a_tool_in_hand(segmented):
    segmented.editor.setActiveEffectByName("Paint")
    slicer.mrmlScene.Clear(0)
    work()
    assert segmented.editor.activeEffect() is None and not segmented.shows_result()
    load_sample()
    assert wait_for(lambda: segmented.volume is not None)
    segmented.segment()
    assert segmented.has_surface()
    segmented.paint()
    segmented.settle()
    assert shown_ml(segmented) == ml_of(segmented) and segmented.has_surface()


# ---- edits


def test_figures_follow_many_quick_strokes_with_one_measurement(segmented, monkeypatch):
    counted, before = count_measurements(segmented, monkeypatch), shown_ml(segmented)
    segmented.editor.setActiveEffectByName("Paint")
    for radius in (5, 6, 7, 8):
        segmented.stroke(radius)
        slicer.app.processEvents()
    assert counted == [] and shown_ml(segmented) == before
    begin = time.monotonic()
    assert wait_for(lambda: counted, 5)
    assert time.monotonic() - begin < 2
    segmented.settle()
    assert len(counted) == 1
    assert shown_ml(segmented) == ml_of(segmented) != before
    assert segmented.table()["contour"] == "corrected"


def test_surface_waits_while_a_tool_is_active(segmented):
    assert segmented.has_surface()
    segmented.editor.setActiveEffectByName("Erase")
    assert not segmented.has_surface() and "3D surface is hidden" in segmented.status
    segmented.stroke()
    segmented.settle()
    assert not segmented.has_surface()
    segmented.editor.setActiveEffect(None)
    assert segmented.has_surface() and segmented.status.startswith("Corrected.")
    segmented.ui.surfaceCheckBox.click()
    segmented.editor.setActiveEffectByName("Paint")
    segmented.editor.setActiveEffect(None)
    assert not segmented.has_surface()


def test_undo_and_redo_keep_the_surface_and_each_other(segmented):
    made, caption = segmented.mask(), segmented.ui.diceCaptionLabel.text
    segmented.paint()
    segmented.settle()
    edited = segmented.mask()
    assert (edited != made).any() and segmented.has_surface()
    for _ in range(2):
        segmented.editor.undo()
        segmented.settle()
        assert (segmented.mask() == made).all() and segmented.has_surface()
        assert not segmented.ui.resetButton.enabled and shown_ml(segmented) == ml_of(segmented)
        assert segmented.ui.diceCaptionLabel.text == caption
        assert segmented.table()["contour"] == "network"
        segmented.editor.redo()
        segmented.settle()
        assert (segmented.mask() == edited).all() and segmented.has_surface()
        assert segmented.ui.resetButton.enabled and shown_ml(segmented) == ml_of(segmented)
    segmented.editor.undo()
    segmented.settle()
    segmented.editor.setActiveEffectByName("Paint")
    segmented.settle()
    segmented.editor.redo()
    segmented.settle()
    assert (segmented.mask() == edited).all() and not segmented.has_surface()


def test_reset_can_be_undone_and_done_again(segmented):
    ui, made = segmented.ui, segmented.mask()
    segmented.paint()
    segmented.settle()
    edited = segmented.mask()
    assert ui.resetButton.enabled and "Undo brings yours back" in ui.resetButton.toolTip
    ui.resetButton.click()
    segmented.settle()
    assert (segmented.mask() == made).all() and not ui.resetButton.enabled and not ui.beforeButton.enabled
    assert shown_ml(segmented) == ml_of(segmented)
    segmented.editor.undo()
    segmented.settle()
    assert (segmented.mask() == edited).all() and ui.resetButton.enabled and ui.beforeButton.enabled
    segmented.editor.redo()
    segmented.settle()
    assert (segmented.mask() == made).all() and not ui.resetButton.enabled
    segmented.editor.undo()
    segmented.editor.undo()
    segmented.settle()
    assert (segmented.mask() == made).all() and segmented.has_surface()


def test_reset_that_is_not_possible_says_so(segmented):
    segmented.paint()
    segmented.settle()
    edited = segmented.mask()
    segmented.result.SetAttribute("DDSPSegmentation.NetworkMask", None)
    segmented.ui.resetButton.click()
    assert "Segment again" in segmented.status and (segmented.mask() == edited).all()


def test_new_result_in_place_of_a_correction_can_be_undone(segmented):
    segmented.paint()
    segmented.settle()
    edited, node = segmented.mask(), segmented.result
    segmented.start()
    assert segmented.ui.secondAnswerButton.text == "Replace"
    segmented.ui.secondAnswerButton.click()
    assert wait_for(lambda: segmented.ui.segmentButton.text == "Segment Prostate")
    assert segmented.result is node and not segmented.ui.resetButton.enabled
    segmented.editor.undo()
    segmented.settle()
    assert (segmented.mask() == edited).all() and segmented.ui.resetButton.enabled


def test_second_segment_does_not_count(segmented):
    node, volume = segmented.result, segmented.volume
    before = shown_ml(segmented)
    segments = node.GetSegmentation()
    lesion = segments.AddEmptySegment("Lesion", "Lesion", [1.0, 0.0, 0.0])
    corner = np.zeros_like(segmented.mask())
    corner[:3, :40, :40] = 1
    write_segment(corner, node, lesion, volume)
    segmented.settle()
    assert shown_ml(segmented) == before and not segmented.ui.resetButton.enabled
    segmented.editor.setCurrentSegmentID(lesion)
    segmented.paint()
    segmented.settle()
    assert read_segment(node, lesion, volume).sum() > corner.sum()
    assert shown_ml(segmented) == ml_of(segmented)
    assert segmented.editor.currentSegmentID() == lesion
    segmented.ui.fillCheckBox.click()
    segmented.ui.surfaceCheckBox.click()
    assert node.GetDisplayNode().GetSegmentVisibility3D(lesion)
    assert not node.GetDisplayNode().GetSegmentVisibility3D("Prostate")
    segments.RemoveSegment("Prostate")
    work()
    assert not segmented.shows_result() and segments.GetSegment(lesion) is not None


@pytest.mark.parametrize("tool", ["", "Paint"])
@pytest.mark.parametrize("deleted", ["segment", "segmentation", "volume"])
def test_deleted_in_the_data_module(segmented, deleted, tool):
    ui, node, volume = segmented.ui, segmented.result, segmented.volume
    ui.uncertaintyCheckBox.click()
    segmented.paint()
    segmented.settle()
    segmented.editor.setActiveEffectByName(tool)
    if tool:
        segmented.stroke(5)
    else:
        ui.beforeButton.click()
    if deleted == "segment":
        node.GetSegmentation().RemoveSegment("Prostate")
    else:
        slicer.mrmlScene.RemoveNode(node if deleted == "segmentation" else volume)
    work()
    assert not segmented.shows_result() and ui.correctCollapsibleButton.isHidden() and shown_ml(segmented) == ""
    assert segmented.editor.activeEffect() is None
    assert segmented.editor.mrmlSegmentEditorNode().GetSegmentationNode() is None
    assert [layer for layer, _ in segmented.foregrounds()] == [None] * 3
    segmented.settle()
    if deleted == "segmentation":
        assert segmented.segment() is not None
        assert segmented.shows_result() and shown_ml(segmented) == ml_of(segmented)


def test_segment_that_was_deleted_is_made_again_without_a_question(segmented):
    node = segmented.result
    node.GetSegmentation().RemoveSegment("Prostate")
    work()
    assert segmented.segment() is node and shown_ml(segmented) == ml_of(segmented)


# ---- export


EXPORTS = [("segNrrdButton", ".seg.nrrd"), ("niftiButton", ".nii.gz"), ("stlButton", ".stl"), ("pictureButton", ".png")]


def test_every_format_is_written_by_its_button(segmented, tmp_path):
    segmented.volume.SetName("DOE^JOHN")
    segmented.result.SetName("DOE^JOHN prostate")
    for button, suffix in EXPORTS:
        path = tmp_path / f"case{suffix}"
        dialogs.planned.append(str(path))
        getattr(segmented.ui, button).click()
        assert path.stat().st_size > 0 and segmented.status == f"Written: {path}"
    assert len(os.listdir(tmp_path)) == 4
    import SimpleITK as sitk

    written = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "case.nii.gz")))
    assert (written == segmented.mask()).all()


def test_suggested_name_has_no_name_of_the_patient(segmented, monkeypatch):
    import qt

    asked = []
    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", staticmethod(lambda *words: asked.append(words) or ""))
    segmented.volume.SetName("DOE^JOHN")
    segmented.result.SetName("DOE^JOHN prostate")
    for button, suffix in EXPORTS:
        getattr(segmented.ui, button).click()
        assert os.path.basename(asked[-1][2]) == f"prostate{suffix}" and suffix in asked[-1][3]
    assert not any("DOE" in str(word) for words in asked for word in words)


@pytest.mark.parametrize("typed, becomes", [
    ("case", "case.seg.nrrd"), ("case.nrrd", "case.seg.nrrd"), ("case.SEG.NRRD", "case.SEG.NRRD"),
    ("case.seg.nrrd", "case.seg.nrrd"), ("", ""),
])  # fmt: skip
def test_suffix_is_added_once(person, typed, becomes):
    dialogs.planned.append(typed)
    kind = "Segmentation (*.seg.nrrd)"
    assert ask_for_new_file("Export", "prostate", ".seg.nrrd", kind, person.panel.say) == becomes


def test_file_that_nobody_agreed_to_replace_is_kept(segmented, tmp_path):
    kept = tmp_path / "case.seg.nrrd"
    kept.write_text("precious")
    dialogs.planned.append(str(tmp_path / "case"))
    segmented.ui.segNrrdButton.click()
    assert kept.read_text() == "precious" and "exists already" in segmented.status
    dialogs.planned.append(str(kept))
    segmented.ui.segNrrdButton.click()
    assert kept.read_bytes().startswith(b"NRRD")


def test_canceled_dialog_writes_nothing_and_says_nothing(segmented, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    status = segmented.status
    for button, _ in EXPORTS:
        dialogs.planned.append("")
        getattr(segmented.ui, button).click()
    dialogs.planned.append("")
    segmented.panel.export._onDicomSeg()
    assert os.listdir(tmp_path) == [] and segmented.status == status


def test_folder_that_cannot_be_written_gives_one_sentence(segmented, monkeypatch, tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    replace = os.replace

    def refuse(source, target, *rest, **named):  # root may write everywhere
        if str(target).startswith(str(folder)):
            raise PermissionError(13, "Permission denied", str(target))
        return replace(source, target, *rest, **named)

    monkeypatch.setattr(os, "replace", refuse)
    for button, suffix in EXPORTS:
        segmented.panel.say("")
        dialogs.planned.append(str(folder / f"a{suffix}"))
        getattr(segmented.ui, button).click()
        assert f"a{suffix}" in segmented.status and "Traceback" not in segmented.status, segmented.status
        assert "Unexpected" not in segmented.status and "\n" not in segmented.status
        assert os.listdir(folder) == []


def test_empty_contour_is_not_exported(segmented, tmp_path):
    segmented.write(np.zeros_like(segmented.mask()))
    for button, suffix in EXPORTS:
        dialogs.planned.append(str(tmp_path / suffix))
        getattr(segmented.ui, button).click()
        assert "empty" in segmented.status
    assert os.listdir(tmp_path) == []


def test_dicom_seg_says_what_it_lacks(segmented):
    button = segmented.ui.dicomSegButton
    assert not button.enabled and "DICOM" in button.toolTip
    slicer.mrmlScene.RemoveNode(segmented.result)
    work()
    assert not button.enabled and "Segment the prostate first" in button.toolTip


def test_dicom_seg_is_offered_once_the_series_is_in_the_database(segmented, monkeypatch, tmp_path):
    series = tmp_path / "1.dcm"
    series.touch()
    written = tmp_path / "written"
    written.mkdir()

    class Plugin:
        reason = ""

        def examineForExport(self, item):
            return [SimpleNamespace(directory="", subjectHierarchyItemID=item)]

        def export(self, exportables):
            Path(exportables[0].directory, "a.dcm").write_bytes(b"DICM")
            return self.reason

    ui = segmented.ui
    segmented.volume.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    database = SimpleNamespace(isOpen=True, fileForInstance=lambda uid: str(series))
    monkeypatch.setattr(slicer, "dicomDatabase", database, raising=False)
    segmented.panel.export.refresh()
    assert not ui.dicomSegButton.enabled and "QuantitativeReporting" in ui.dicomSegButton.toolTip
    monkeypatch.setattr(slicer.modules, "dicomPlugins", {"DICOMSegmentationPlugin": Plugin}, raising=False)
    segmented.panel.export.refresh()
    assert ui.dicomSegButton.enabled and "in the study of the scan" in ui.dicomSegButton.toolTip
    dialogs.planned.append(str(written))
    ui.dicomSegButton.click()
    assert os.listdir(written) == ["prostate.dcm"] and str(written) in segmented.status
    monkeypatch.setattr(Plugin, "reason", "itkimage2segimage failed.")
    dialogs.planned.append(str(written))
    ui.dicomSegButton.click()
    assert os.listdir(written) == ["prostate.dcm"] and "itkimage2segimage failed" in segmented.status
    series.unlink()
    dialogs.planned.append(str(written))
    ui.dicomSegButton.click()
    assert "1 of 1 slices" in segmented.status and "\n" not in segmented.status
