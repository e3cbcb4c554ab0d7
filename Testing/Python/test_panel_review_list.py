"""The section Scans to Review as a person with many scans uses it."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from dicom_parts import write_series
from learning_parts import toy_scan
from panel_parts import add_result, cut_off, module_panel, save_scene, segmentations, squeezed, wait_for
from scene_parts import ThresholdRunner
from slicer_stand_in import dialogs, enterModule, leaveModule

from DDSPSegmentationLib.engine.images import read_mask
from DDSPSegmentationLib.engine.run_settings import RunSettings
from DDSPSegmentationLib.engine.segmentation import ExpectedDice
from DDSPSegmentationLib.library.case_library import CaseLibrary
from DDSPSegmentationLib.scene.conversion import add_volume_node, write_segment
from DDSPSegmentationLib.scene.result_nodes import case_of, facts_of, own_segment_id, results_of
from DDSPSegmentationLib.scene.results import place_result
from DDSPSegmentationLib.service.batch import BatchSettings, run_batch
from DDSPSegmentationLib.service.batch_review import BatchReview
from DDSPSegmentationLib.service.case_work import do_case
from DDSPSegmentationLib.service.inputs import collect_inputs
from DDSPSegmentationLib.service.mask_files import write_mask

RADII = [(4, 8, 8), (3, 8, 9), (4, 9, 7)]
EXPECTED_DICE = {"scan0": 0.93, "scan1": 0.8, "scan2": 0.86}
MOST_DOUBTFUL_FIRST = ["scan1", "scan2", "scan0"]
DOUBTS = [None] * 3 + [0.1, 0.3, 0.05, 0.02, 0.1, 0.2] + [None] * 3


def a_batch(results, scans, masks):
    """What a batch writes about all scans of a folder, with a network that is right."""

    def segment(name, image, path):
        mask = masks[name]
        mask.CopyInformation(image)
        write_mask(mask, path)
        answer = ThresholdRunner().segment(mask * 100, RunSettings(), name=name)
        dice = EXPECTED_DICE.get(name, 0.9)
        answer.expected_dice, answer.slice_doubts = ExpectedDice(dice, dice - 0.04, dice + 0.03), DOUBTS
        answer.warnings = []
        return answer

    settings = BatchSettings(RunSettings(), ".seg.nrrd", "threshold-1", "0" * 64)
    inputs, skipped = collect_inputs([scans])
    done = run_batch(
        inputs,
        skipped,
        results,
        settings,
        lambda case, outputs, tell: do_case(case, outputs, segment),
        lambda line: None,
    )
    assert done.exit_code == 0, done
    return results


@pytest.fixture
def batch(tmp_path):
    """A folder of three scans and that of a batch on them: (results, scans)."""
    scans, masks = tmp_path / "scans", {}
    scans.mkdir()
    for number, radii in enumerate(RADII):
        image, masks[f"scan{number}"] = toy_scan(number, radii=radii)
        sitk.WriteImage(image, str(scans / f"scan{number}.nrrd"))
    return a_batch(tmp_path / "results", scans, masks), scans


@pytest.fixture
def reviewing(person, home, batch):
    """Somebody who has opened the results of the batch."""
    person.ui.reviewListCollapsibleButton.collapsed = False
    dialogs.planned += map(str, batch)
    person.ui.reviewFolderButton.click()
    return person


def rows(person):
    """The list, top down: (scan, state, verdict)."""
    table = person.ui.reviewTable
    return [tuple(table.item(row, column).text() for column in range(3)) for row in range(table.rowCount)]


def states(person):
    return {scan: state for scan, state, _verdict in rows(person)}


def decisions(folder):
    content = json.loads((folder / "review.json").read_text(encoding="utf-8"))
    return {name: decision["state"] for name, decision in content["cases"].items()}


def chosen_row(person):
    table = person.ui.reviewTable
    return table.item(table.currentRow(), 0).text() if table.currentRow() >= 0 else ""


def press(person, key):
    """Ctrl and a key in the window that the panel is in; what a button then does comes a moment later."""
    from PySide6 import QtCore, QtTest

    window = person.widget.parent.window()
    window.activateWindow()
    assert wait_for(lambda: window.isActiveWindow, 5)
    QtTest.QTest.keyClick(window, key, QtCore.Qt.ControlModifier)
    wait_for(lambda: False, 0.2)


# ---- the scans of the scene


def test_scans_of_the_scene_are_listed_the_most_doubtful_first(person, home):
    for number, (name, dice) in enumerate((("A", 0.92), ("B", 0.7), ("C", 0.86))):
        add_result(number, name, dice, RADII[number], warnings=[])
    person.ui.reviewListCollapsibleButton.collapsed = False
    assert rows(person) == [("B", "to review", "doubtful"), ("C", "to review", "check"), ("A", "to review", "good")]
    assert person.ui.reviewListLabel.text == "3 scans in the scene: 3 to review."
    assert person.ui.reviewSceneButton.isHidden()


def test_next_goes_through_the_scene_until_each_scan_is_decided(person, home):
    volumes = [add_result(n, name, dice, RADII[n], [])[0] for n, (name, dice) in enumerate((("A", 0.92), ("B", 0.7)))]
    person.ui.reviewListCollapsibleButton.collapsed = False
    person.ui.inputSelector.setCurrentNode(volumes[0])
    person.ui.nextScanButton.click()
    assert person.volume is volumes[1] and chosen_row(person) == "B"
    assert "Stored as case 1" in person.accept()
    assert states(person) == {"B": "accepted", "A": "to review"}
    person.ui.nextScanButton.click()
    assert person.volume is volumes[0]
    person.erase_top()
    assert "Stored as case 2" in person.accept() and states(person)["A"] == "corrected"
    assert not person.ui.nextScanButton.enabled and "No scan is left" in person.ui.nextScanButton.toolTip
    person.ui.undoAcceptButton.click()
    assert states(person)["A"] == "to review" and person.ui.nextScanButton.enabled


def test_an_accepted_scan_that_is_changed_is_to_be_reviewed_until_that_is_undone(person, home):
    volume, _node = add_result(0, "A", 0.7, RADII[0], [])
    person.ui.inputSelector.setCurrentNode(volume)
    person.ui.reviewListCollapsibleButton.collapsed = False
    before = person.mask().copy()
    person.accept()
    assert states(person) == {"A": "accepted"}
    person.paint()
    person.settle()
    assert states(person) == {"A": "to review"}
    person.write(before)
    person.settle()
    assert states(person) == {"A": "accepted"}


def test_a_scan_can_be_rejected_and_reviewed_again(person, home):
    volume, _node = add_result(0, "A", 0.7, RADII[0], [])
    person.ui.inputSelector.setCurrentNode(volume)
    person.ui.reviewListCollapsibleButton.collapsed = False
    person.ui.rejectScanButton.click()
    assert states(person) == {"A": "rejected"} and person.status == "'A' is rejected."
    assert person.ui.rejectScanButton.text == "Review Again"
    person.ui.rejectScanButton.click()
    assert states(person) == {"A": "to review"} and person.ui.rejectScanButton.text == "Reject"


def test_a_scan_that_is_not_segmented_yet_is_opened_without_a_contour(person, home):
    add_result(0, "A", 0.7, RADII[0], [])
    plain = add_volume_node(toy_scan(1)[0], "t2_tse_tra")
    person.ui.reviewListCollapsibleButton.collapsed = False
    assert [scan for scan, *_rest in rows(person)] == ["A", "t2_tse_tra"]
    person.ui.reviewTable.cellActivated.emit(1, 0)
    assert person.volume is plain and person.result is None and person.status == "Press Segment Prostate."


def test_reject_counts_for_the_scan_that_a_loaded_scene_shows(person, home, tmp_path):
    person.ui.inputSelector.setCurrentNode(add_volume_node(toy_scan(1)[0], "t2_tse_tra B"))
    scene = save_scene(tmp_path / "scene")
    slicer.mrmlScene.Clear(0)
    person.ui.inputSelector.setCurrentNode(add_volume_node(toy_scan(0)[0], "t2_tse_tra A"))
    person.ui.reviewListCollapsibleButton.collapsed = False
    slicer.mrmlScene.SetURL(str(scene))
    assert slicer.mrmlScene.Import()
    assert person.volume.GetName() == chosen_row(person) == "t2_tse_tra B" and len(rows(person)) == 2
    person.ui.rejectScanButton.click()
    assert states(person) == {"t2_tse_tra A": "to review", "t2_tse_tra B": "rejected"}


# ---- the folder of a batch


def test_a_folder_is_listed_and_next_opens_scan_and_contour(reviewing, batch):
    person = reviewing
    assert rows(person) == [
        ("scan1", "to review", "doubtful"), ("scan2", "to review", "check"), ("scan0", "to review", "good"),
    ]  # fmt: skip
    assert person.status == person.ui.reviewListLabel.text == "3 scans in 'results': 3 to review."
    person.ui.nextScanButton.click()
    assert person.volume.GetName() == "scan1" and chosen_row(person) == "scan1"
    image, mask = toy_scan(1, radii=RADII[1])
    assert np.array_equal(person.mask(), sitk.GetArrayFromImage(mask))
    assert np.array_equal(slicer.util.arrayFromVolume(person.volume), sitk.GetArrayFromImage(image))
    facts = facts_of(person.result)
    assert facts.expected_dice == ExpectedDice(0.8, 0.76, 0.83) and facts.model_version == "threshold-1"
    assert "0.80 (0.76 to 0.83) - doubtful" in person.ui.diceLabel.text and "None" not in person.ui.detailsLabel.text
    person.ui.nextSliceButton.click()
    assert person.ui.tourLabel.text.startswith("Slice 5")  # the least certain one


def test_accepted_and_rejected_scans_leave_the_scene_and_stay_noted(reviewing, batch, home):
    person, results = reviewing, batch[0]
    person.ui.nextScanButton.click()
    assert "Stored as case 1" in person.accept()
    assert decisions(results) == {"scan1": "accepted"}
    person.ui.nextScanButton.click()
    assert person.volume.GetName() == "scan2" and [node.GetName() for node in segmentations()] == ["scan2 prostate"]
    person.ui.rejectScanButton.click()
    person.ui.nextScanButton.click()
    assert decisions(results) == {"scan1": "accepted", "scan2": "rejected"}
    assert person.volume.GetName() == "scan0" and len(segmentations()) == 1
    assert len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")) == 1
    assert len(slicer.util.getNodesByClass("vtkMRMLTableNode")) <= 1
    assert [case.current.state for case in CaseLibrary(home / "DDSPSegmentation" / "Cases").cases()] == ["unedited"]
    leaveModule("DDSPSegmentation")
    html = (results / "report.html").read_text(encoding="utf-8")
    assert "1 to review, 1 accepted, 1 rejected." in html
    enterModule("DDSPSegmentation")


def test_a_corrected_contour_is_kept_beside_the_mask_and_comes_back(reviewing, batch):
    person, results = reviewing, batch[0]
    person.ui.nextScanButton.click()
    drawn = person.erase_top()
    assert "Stored as case 1" in person.accept() and decisions(results) == {"scan1": "corrected"}
    kept = read_mask(results / "scan1.corrected.seg.nrrd")
    assert np.array_equal(sitk.GetArrayFromImage(kept), drawn)
    assert kept.GetOrigin() == sitk.ReadImage(str(results / "scan1.seg.nrrd")).GetOrigin()
    person.ui.nextScanButton.click()
    person.ui.reviewTable.cellActivated.emit(0, 0)
    assert person.volume.GetName() == "scan1" and np.array_equal(person.mask(), drawn)
    assert person.ui.resetButton.enabled  # the network's own contour is there, too
    assert "Stored again: revision 2 of case 1" in person.accept("looked at twice")


def test_taking_back_puts_the_scan_back_into_the_list(reviewing, batch):
    person, results = reviewing, batch[0]
    person.ui.nextScanButton.click()
    person.erase_top()
    person.accept()
    person.ui.undoAcceptButton.click()
    assert decisions(results) == {"scan1": "to review"} and states(person)["scan1"] == "to review"
    assert not (results / "scan1.corrected.seg.nrrd").exists()


def test_a_correction_that_nobody_accepted_stays_in_the_scene(reviewing, batch):
    person = reviewing
    person.ui.nextScanButton.click()
    corrected, drawn = person.result, person.erase_top()
    person.ui.nextScanButton.click()
    assert person.volume.GetName() == "scan2" and slicer.mrmlScene.IsNodePresent(corrected)
    assert person.status.startswith("'scan1' stays open: its contour was changed and is not accepted yet.")
    assert not corrected.GetDisplayNode().GetVisibility()
    person.ui.reviewTable.cellActivated.emit(0, 0)
    assert person.result is corrected and np.array_equal(person.mask(), drawn)


def test_what_was_accepted_and_opened_again_leaves_as_any_other(reviewing, batch):
    person = reviewing
    person.ui.nextScanButton.click()
    person.erase_top()
    person.accept()
    person.ui.nextScanButton.click()
    person.ui.reviewTable.cellActivated.emit(0, 0)
    person.ui.nextScanButton.click()
    assert "stays open" not in person.status and len(segmentations()) == 1


def test_a_lesion_beside_the_contour_keeps_its_scan_open(reviewing, batch):
    person = reviewing
    person.ui.nextScanButton.click()
    node, lesion = person.result, np.zeros_like(person.mask())
    lesion[5:7, 16:19, 18:21] = 1
    write_segment(lesion, node, node.GetSegmentation().AddEmptySegment("", "Lesion"), person.volume)
    person.settle()
    person.accept()
    person.ui.nextScanButton.click()
    assert slicer.mrmlScene.IsNodePresent(node) and "'scan1' stays open: something else was drawn" in person.status


def test_a_scan_that_is_being_segmented_stays_until_it_is_done(reviewing, batch):
    person = reviewing
    person.ui.nextScanButton.click()
    volume = person.volume
    person.start()
    person.ui.nextScanButton.click()
    assert slicer.mrmlScene.IsNodePresent(volume) and person.volume.GetName() == "scan2"
    assert wait_for(lambda: "The result of 'scan1' is in the scene" in person.status), person.status


def test_a_scan_that_cannot_be_opened_does_not_hold_up_the_others(person, home, batch):
    results, scans = batch
    (scans / "scan1.nrrd").unlink()
    person.ui.reviewListCollapsibleButton.collapsed = False
    dialogs.planned += [str(results), str(scans)]
    person.ui.reviewFolderButton.click()
    person.ui.nextScanButton.click()
    assert "The scan of 'scan1' was not found" in person.status and person.volume is None
    person.ui.nextScanButton.click()
    assert person.volume.GetName() == "scan2"


def test_another_contour_than_that_of_the_batch_is_noted_as_corrected(reviewing, batch):
    person, results = reviewing, batch[0]
    person.ui.nextScanButton.click()
    mask = toy_scan(1, radii=(3, 7, 7))[1]
    found = ThresholdRunner().segment(mask * 100, RunSettings(), name="again")
    person.ui.outputSelector.setCurrentNode(place_result(found, person.volume, as_new=True).outputSegmentationNode)
    person.accept()
    assert decisions(results) == {"scan1": "corrected"}
    kept = sitk.GetArrayFromImage(read_mask(results / "scan1.corrected.seg.nrrd"))
    assert np.array_equal(kept, sitk.GetArrayFromImage(mask))


def test_undo_brings_the_correction_before_back(reviewing, batch):
    person, results = reviewing, batch[0]
    person.ui.nextScanButton.click()
    first = person.erase_top()
    person.accept()
    person.erase_top()
    person.accept()
    person.accept()  # as a double click
    person.ui.undoAcceptButton.click()
    assert decisions(results) == {"scan1": "corrected"}
    kept = sitk.GetArrayFromImage(read_mask(results / "scan1.corrected.seg.nrrd"))
    assert np.array_equal(kept, first) and not list(results.glob("*.kept-*"))


def test_a_correction_of_somebody_else_is_set_aside_and_not_deleted(reviewing, batch):
    person, results = reviewing, batch[0]
    person.ui.nextScanButton.click()
    drawn = person.erase_top()
    person.accept()
    person.ui.resetButton.click()
    person.settle()
    person.accept()
    assert decisions(results) == {"scan1": "accepted"} and not (results / "scan1.corrected.seg.nrrd").exists()
    assert np.array_equal(sitk.GetArrayFromImage(read_mask(results / "scan1.kept-1.seg.nrrd")), drawn)


def test_the_mask_of_a_scan_called_corrected_is_no_correction_of_another(person, home, tmp_path):
    scans, masks = tmp_path / "scans", {}
    scans.mkdir()
    for number, name in enumerate(("t2", "t2.corrected")):
        image, masks[name] = toy_scan(number, radii=RADII[number])
        sitk.WriteImage(image, str(scans / f"{name}.nrrd"))
    results = a_batch(tmp_path / "results", scans, masks)
    before = (results / "t2.corrected.seg.nrrd").read_bytes()
    person.ui.reviewListCollapsibleButton.collapsed = False
    dialogs.planned += [str(results), str(scans)]
    person.ui.reviewFolderButton.click()
    person.ui.reviewTable.cellActivated.emit([scan for scan, *_rest in rows(person)].index("t2"), 0)
    person.accept()
    person.erase_top()
    person.accept()
    assert decisions(results) == {"t2": "corrected"}
    assert (results / "t2.corrected.seg.nrrd").read_bytes() == before


def test_a_batch_that_ran_again_meanwhile_is_reviewed_as_it_is_now(reviewing, batch):
    person, (results, scans) = reviewing, batch
    person.ui.nextScanButton.click()
    record = json.loads((results / "run.json").read_text(encoding="utf-8"))
    for entry in record["cases"].values():
        entry["identity"]["package"] = "an older one"
    (results / "run.json").write_text(json.dumps(record), encoding="utf-8")
    a_batch(results, scans, {name: toy_scan(0, radii=(3, 7, 7))[1] for name in EXPECTED_DICE})
    person.accept()  # of the contour that was there before
    assert decisions(results) == {"scan1": "corrected"}
    person.ui.nextScanButton.click()
    assert facts_of(person.result) is not None
    person.accept()
    leaveModule("DDSPSegmentation")
    now = BatchReview(results)
    assert {row.key: row.state for row in now.rows() if row.key != "scan0"} == {
        "scan1": "corrected", "scan2": "accepted",
    }  # fmt: skip
    millilitres = f"{now.entry('scan2')['measurements']['volume_ml']:.1f} ml"
    assert (results / "report.html").read_text(encoding="utf-8").count(millilitres) == 3
    enterModule("DDSPSegmentation")


def test_a_list_that_is_opened_again_knows_what_is_open(reviewing, batch):
    person, results = reviewing, batch[0]
    person.ui.nextScanButton.click()
    person.erase_top()
    person.ui.reviewSceneButton.click()
    dialogs.planned += [str(results)]
    person.ui.reviewFolderButton.click()
    assert chosen_row(person) == "scan1"
    person.accept()
    assert decisions(results) == {"scan1": "corrected"}


def test_a_contour_that_was_deleted_comes_back_on_its_scan(reviewing, batch):
    person = reviewing
    person.ui.nextScanButton.click()
    volume = person.volume
    slicer.mrmlScene.RemoveNode(person.result)
    slicer.app.processEvents()
    person.ui.reviewTable.cellActivated.emit(0, 0)
    assert person.volume is volume and person.mask().any()


def test_a_review_that_is_damaged_is_told_in_the_list(reviewing, batch):
    (batch[0] / "review.json").write_text("{", encoding="utf-8")
    reviewing.panel.reviewList.refresh()
    assert "review.json in 'results' is damaged" in reviewing.ui.reviewListLabel.text


def test_a_scan_is_known_by_its_content_and_never_by_its_name(reviewing, batch):
    person, scans = reviewing, batch[1]
    shutil.copy(scans / "scan0.nrrd", scans / "scan1.nrrd")  # another patient under the same name
    person.ui.nextScanButton.click()
    assert "The scan of 'scan1' was not found" in person.status and "another scan of this name" in person.status
    assert person.volume is None and not segmentations()


def test_a_mask_that_was_changed_on_the_disk_is_no_contour_of_the_network(reviewing, batch):
    person, results = reviewing, batch[0]
    mask = read_mask(results / "scan1.seg.nrrd")
    mask[:, :, 6] = 0
    write_mask(mask, results / "scan1.seg.nrrd")
    person.ui.nextScanButton.click()
    assert np.array_equal(person.mask(), sitk.GetArrayFromImage(mask)) and facts_of(person.result) is None


def test_missing_files_and_foreign_folders_are_told_and_change_nothing(reviewing, batch, tmp_path):
    person, (results, scans) = reviewing, batch
    dialogs.planned += [str(scans)]
    person.ui.reviewFolderButton.click()
    assert "'scans' is no folder of results" in person.status and len(rows(person)) == 3
    (results / "scan1.seg.nrrd").unlink()
    person.ui.nextScanButton.click()
    assert "scan1.seg.nrrd" in person.status and person.volume is None
    (results / "review.json").write_text("{", encoding="utf-8")
    person.ui.reviewTable.cellActivated.emit(1, 0)
    assert (results / "review.json").read_text(encoding="utf-8") == "{"


def test_the_folders_are_remembered_and_asked_for_again_once_the_scans_moved(reviewing, batch, tmp_path):
    person, (results, scans) = reviewing, batch
    person.ui.reviewSceneButton.click()
    assert person.status == "No scan in the scene yet."
    dialogs.planned += [str(results)]
    person.ui.reviewFolderButton.click()
    assert len(rows(person)) == 3 and not dialogs.planned
    scans.rename(tmp_path / "moved")
    dialogs.planned += [str(results), str(tmp_path / "moved")]
    person.ui.reviewFolderButton.click()
    person.ui.nextScanButton.click()
    assert person.volume.GetName() == "scan1"


def test_a_scene_that_is_closed_forgets_what_was_opened(reviewing, batch):
    person = reviewing
    person.ui.nextScanButton.click()
    slicer.mrmlScene.Clear(0)
    assert person.volume is None and not person.ui.rejectScanButton.enabled
    add_result(0, "other", 0.9, RADII[0], [])
    slicer.app.processEvents()
    assert not person.ui.rejectScanButton.enabled  # it has the ID that the scan of the list had
    person.ui.nextScanButton.click()
    assert person.volume.GetName() == "scan1"


def test_two_scans_of_one_patient_from_dicom_are_one_patient_in_the_library(person, home, tmp_path):
    scans, masks = tmp_path / "scans", {}
    for number in (1, 2):
        image, mask = toy_scan(number, radii=RADII[number])
        voxels = sitk.GetArrayFromImage(image).astype(np.uint16)
        folder = scans / str(number)
        for at, slice_ in enumerate(voxels):
            write_series(folder / f"{at:02d}", 1, series=number, voxels=slice_, tags={
                "0020|0013": str(at + 1), "0020|0032": f"-40\\-48\\{4 * at}",
                "0008|0018": f"1.2.826.99.{number}.{at + 1}",
            })  # fmt: skip
        [case] = collect_inputs([folder])[0]
        masks[case.name] = mask
    results = a_batch(tmp_path / "results", scans, masks)
    person.ui.reviewListCollapsibleButton.collapsed = False
    dialogs.planned += [str(results), str(scans)]
    person.ui.reviewFolderButton.click()
    for _ in range(2):
        person.ui.nextScanButton.click()
        assert person.ui.patientComboBox.isHidden()
        assert "Stored as case" in person.accept()
    assert len({case.patient for case in CaseLibrary(home / "DDSPSegmentation" / "Cases").cases()}) == 1
    person.ui.reviewSceneButton.click()
    text = "".join(path.read_text(encoding="utf-8", errors="ignore") for path in results.rglob("*.json"))
    assert "ID4711" not in text and "Doe" not in text


# ---- keyboard and looks


def test_the_keyboard_alone_is_enough(reviewing, batch):
    from PySide6 import QtCore

    person, key = reviewing, QtCore.Qt
    with module_panel(person, 420):
        press(person, key.Key_Right)
        assert person.volume.GetName() == "scan1"
        press(person, key.Key_Down)
        assert person.ui.tourLabel.text.startswith("Slice 5")
        press(person, key.Key_Return)
        assert decisions(batch[0]) == {"scan1": "accepted"} and case_of(person.result)
        press(person, key.Key_Right)
        press(person, key.Key_Backspace)
        assert decisions(batch[0]) == {"scan1": "accepted", "scan2": "rejected"}
        press(person, key.Key_Backspace)
        assert states(person)["scan2"] == "to review"
        press(person, key.Key_Backspace)
        assert states(person)["scan2"] == "rejected"


@pytest.mark.parametrize("width", [350, 421, 560])
def test_the_list_fits_into_the_panel(reviewing, width):
    person = reviewing
    person.ui.nextScanButton.click()
    with module_panel(person, width) as (panel, _area):
        assert not cut_off(panel) and not squeezed(panel)


def test_results_of_the_scene_do_not_belong_to_the_folder(reviewing, batch):
    person = reviewing
    volume, node = add_result(5, "mine", 0.9, RADII[0], [])
    person.ui.inputSelector.setCurrentNode(volume)
    person.accept()
    assert not (batch[0] / "review.json").exists() and results_of(volume) == [node] and own_segment_id(node)


def test_of_a_list_of_thousands_only_rows_that_changed_are_written_anew(reviewing, batch, monkeypatch):
    from DDSPSegmentationLib.scene.panel import review_list_section

    person, results = reviewing, batch[0]
    record = json.loads((results / "run.json").read_text(encoding="utf-8"))
    record["cases"] |= {f"scan{number}": record["cases"]["scan0"] for number in range(3, 5000)}
    (results / "run.json").write_text(json.dumps(record), encoding="utf-8")
    person.panel.reviewList.refresh()
    written, cell = [], review_list_section.cell
    monkeypatch.setattr(review_list_section, "cell", lambda *words: written.append(words) or cell(*words))
    person.panel.reviewList.refresh()
    assert len(rows(person)) == 5000 and not written
    person.ui.nextScanButton.click()
    person.ui.rejectScanButton.click()
    assert len(written) == 3 and states(person)["scan1"] == "rejected"


def test_a_double_click_is_one_click_however_long_it_takes_to_open_a_scan(reviewing, batch):
    person, clock = reviewing, [0.0]
    for watched in (person.panel.reviewList.nextDoubleClick, person.panel.reviewList.rejectDoubleClick):
        watched.now = lambda: clock[0]
    opened = person.panel.reviewList._onOpened

    def slowly(*nodes):
        clock[0] += 3.0
        opened(*nodes)

    person.panel.reviewList._onOpened = slowly
    person.ui.nextScanButton.click()
    clock[0] += 0.2
    person.ui.nextScanButton.click()
    assert person.volume.GetName() == "scan1"
    person.ui.rejectScanButton.click()  # another button is another click
    clock[0] += 0.2
    person.ui.rejectScanButton.click()
    assert states(person)["scan1"] == "rejected"
    clock[0] += 1.0
    person.ui.nextScanButton.click()
    assert person.volume.GetName() == "scan2"


def test_a_scan_with_a_psa_that_is_nowhere_else_stays(reviewing, batch):
    person = reviewing
    person.ui.nextScanButton.click()
    first = person.result
    person.set_psa(6.5)
    person.ui.nextScanButton.click()
    assert slicer.mrmlScene.IsNodePresent(first) and "'scan1' stays open: its PSA is nowhere else." in person.status


def test_an_earlier_correction_stands_again_when_the_new_one_cannot_be_written(reviewing, batch, monkeypatch):
    from DDSPSegmentationLib.engine.errors import StorageError
    from DDSPSegmentationLib.service import batch_review

    person, results = reviewing, batch[0]
    person.ui.nextScanButton.click()
    person.erase_top()
    person.accept()
    kept = (results / "scan1.corrected.seg.nrrd").read_bytes()

    def no_room(*words, **named):
        raise StorageError("The disk is full.", "Free space.")

    monkeypatch.setattr(batch_review, "write_mask", no_room)
    person.erase_top()
    person.accept()
    assert "The disk is full. Free space." in person.status
    assert (results / "scan1.corrected.seg.nrrd").read_bytes() == kept and not list(results.glob("scan1.kept-*"))
    assert decisions(results) == {"scan1": "corrected"}
