"""Accept and the section Learn > Cases as a person uses them."""

import os
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from learning_parts import toy_scan, write_images_and_labels
from panel_parts import (
    a_session,
    add_result,
    cut_off,
    focused,
    load_scene,
    module_panel,
    save_scene,
    squeezed,
    user_settings,
    wait_for,
)
from scene_parts import new_volume
from slicer_stand_in import dialogs, enterModule, leaveModule

from DDSPSegmentationLib.engine.errors import Canceled
from DDSPSegmentationLib.engine.model import builtin_model_folder
from DDSPSegmentationLib.library.case_library import CaseLibrary
from DDSPSegmentationLib.library.model_registry import ModelRegistry

STORED = re.compile(r"Stored as case (\d+) \((for training|kept for checking)\)\. (\d) more before retraining pays\.")
CHANGED, UNCHANGED = "Case 1, changed since it was stored.", "Case 1, stored as shown."
STORED_AGAIN = "Stored again: revision 2 of case 1 ("
NOT_KNOWN = "Patient not known: a new one"
RADII = [(4, 8, 8), (3, 7, 9), (4, 9, 7), (3, 9, 9), (4, 7, 7), (3, 8, 9), (4, 9, 9), (3, 7, 7), (4, 8, 9), (3, 9, 8),
         (4, 7, 9), (3, 8, 7)]  # fmt: skip


def show(person, number=0, name="T2", expected_dice=0.9):
    """A small scan with its result, chosen in the panel; returns both nodes."""
    volume, node = add_result(number, name, expected_dice, RADII[number % len(RADII)])
    person.ui.inputSelector.setCurrentNode(volume)
    assert person.result is node and person.shows_result()
    return volume, node


def accepted(person, count):
    """So many cases in the library, numbered from 1."""
    for number in range(count):
        show(person, number, f"scan {number + 1}")
        assert f"case {number + 1} " in person.accept()


@pytest.fixture
def library(home):
    return CaseLibrary(home / "DDSPSegmentation" / "Cases")


def there(person):
    """Numbers of the cases in the table that are not deleted."""
    return [row[0] for row in person.cases() if row[1] != "deleted"]


def files_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ---- accept


def test_one_click_stores_an_untouched_contour_and_says_what_comes_of_it(person, t2, library):
    person.segment()
    said = person.accept()
    assert said.startswith("Stored as case 1 (for training). The scan is known to the product"), said
    assert said.endswith("5 more before retraining pays.")  # the bundled scan is never counted
    case = library.cases()[0]
    assert case.split == "training"
    assert case.current.state == "unedited" and case.current.dice == 1.0
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(case.mask_path)))
    assert (stored == person.mask()).all()
    assert not person.ui.acceptedLabel.isHidden() and person.ui.acceptedLabel.text == UNCHANGED
    assert person.result.GetAttribute("DDSPSegmentation.CaseID") == case.id


def test_the_count_goes_down_to_retraining_pays_now(person, library):
    for number in range(12):
        show(person, number, f"scan {number}")
        said = person.accept()
        training = sum(case.split == "training" for case in library.cases())
        assert ("Retraining pays now: see Learn." if training >= 5 else f"{5 - training} more before") in said
        if training >= 5:
            break


def test_a_correction_is_stored_as_another_revision_and_the_label_follows_the_contour(person, library):
    show(person)
    person.accept()
    made, corrected = person.mask(), person.erase_top()
    assert person.ui.acceptedLabel.text == CHANGED
    assert person.accept().startswith(STORED_AGAIN)
    case = library.cases()[0]
    assert [revision.state for revision in case.revisions] == ["unedited", "corrected"]
    assert 0.5 < case.current.dice < 1
    assert (sitk.GetArrayFromImage(sitk.ReadImage(str(case.mask_path))) == corrected).all()
    person.write(made)
    person.settle()
    assert person.ui.acceptedLabel.text == CHANGED
    person.write(corrected)
    person.settle()
    assert person.ui.acceptedLabel.text == UNCHANGED


def patients_offered(person):
    combo = person.ui.patientComboBox
    return None if combo.isHidden() else [combo.itemText(index) for index in range(combo.count)]


def use_database(monkeypatch, value):
    database = SimpleNamespace(isOpen=True, instanceValue=value, fileForInstance=lambda uid: "")
    monkeypatch.setattr(slicer, "dicomDatabase", database, raising=False)


def test_a_scan_whose_patient_is_not_known_can_join_the_patient_of_a_case(person, library):
    show(person, 0, "first")
    assert patients_offered(person) == [NOT_KNOWN]
    assert "Neither DICOM nor the scene says" in person.ui.patientComboBox.toolTip
    person.accept()
    assert patients_offered(person) is None  # it is a case now, and stays its patient's
    show(person, 1, "second")
    person.accept()
    show(person, 2, "third")
    assert patients_offered(person) == [
        NOT_KNOWN, "Same patient as case 2", "Same patient as case 1",
    ]  # fmt: skip
    person.ui.patientComboBox.currentIndex = 2
    person.accept()
    first, second, third = library.cases()
    assert third.patient == first.patient != second.patient and third.split == first.split
    person.ui.undoAcceptButton.click()
    assert patients_offered(person)[-1] == "Same patient as case 1"
    person.open_learn()
    person.choose_cases(1)
    person.ui.deleteCaseButton.click()
    person.ui.learnSecondAnswerButton.click()
    assert patients_offered(person) == [NOT_KNOWN, "Same patient as case 2"]


def test_a_database_that_fails_is_told_with_the_first_case_and_the_patient_can_be_chosen(person, library, monkeypatch):
    def fail(uid, tag):
        raise RuntimeError("database is locked")

    use_database(monkeypatch, fail)
    said = []
    for number in range(2):
        volume, _node = show(person, number, f"scan {number}")
        volume.SetAttribute("DICOM.instanceUIDs", "1.2.3")
        person.ui.inputSelector.setCurrentNode(None)
        person.ui.inputSelector.setCurrentNode(volume)
        assert patients_offered(person)[0] == NOT_KNOWN
        assert "database is locked" in person.ui.patientComboBox.toolTip
        said.append(person.accept())
    assert "(RuntimeError: database is locked). So the patient is not known." in said[0]
    assert "locked" not in said[1] and len(library.cases()) == 2


def test_where_dicom_tells_the_patient_nothing_is_asked(person, monkeypatch):
    use_database(monkeypatch, lambda uid, tag: "MRN-4711")
    volume, _node = show(person)
    volume.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    person.ui.inputSelector.setCurrentNode(None)
    person.ui.inputSelector.setCurrentNode(volume)
    assert patients_offered(person) is None


def test_undo_takes_the_case_back_and_then_goes_away(person, library):
    show(person)
    assert person.ui.undoAcceptButton.isHidden()
    person.accept()
    assert not person.ui.undoAcceptButton.isHidden()
    person.ui.undoAcceptButton.click()
    assert library.cases() == [] and person.status.startswith("Case 1 was taken back")
    assert person.ui.undoAcceptButton.isHidden()
    assert person.result.GetAttribute("DDSPSegmentation.CaseID") is None
    assert STORED.match(person.accept())


def test_undo_of_a_revision_brings_the_one_before_back(person, library):
    show(person)
    person.accept("first")
    before = library.cases()[0].current
    person.erase_top()
    person.accept("second")
    person.ui.undoAcceptButton.click()
    assert library.cases()[0].current == before and person.status == "Case 1 is again as it was before."


def test_undo_belongs_to_the_result_that_was_accepted(person):
    show(person, 0, "A")
    first = person.volume
    person.accept()
    show(person, 1, "B")
    assert person.ui.undoAcceptButton.isHidden() and person.ui.acceptedLabel.isHidden()
    person.ui.inputSelector.setCurrentNode(first)
    assert not person.ui.undoAcceptButton.isHidden()
    assert person.ui.acceptedLabel.text == UNCHANGED


def test_a_note_stays_with_its_result_and_goes_with_the_case(person, library):
    show(person, 0, "A")
    first = person.volume
    person.ui.noteLineEdit.text = "median lobe"
    show(person, 1, "B")
    assert person.ui.noteLineEdit.text == ""
    person.ui.inputSelector.setCurrentNode(first)
    assert person.ui.noteLineEdit.text == "median lobe"
    person.accept()
    assert library.cases()[0].current.note == "median lobe"


def test_what_the_library_refuses_is_said_with_its_next_step(person, library):
    show(person)
    person.write(np.zeros_like(person.mask()))
    person.settle()
    said = person.accept()
    assert "empty" in said and said.count(".") >= 2, said
    assert person.ui.acceptedLabel.isHidden() and person.ui.undoAcceptButton.isHidden()
    assert library.cases() == []


def test_an_earlier_undo_does_not_stand_beside_a_refusal(person, library):
    show(person)
    person.accept()
    mask = person.mask().copy()
    person.write(np.zeros_like(mask))
    person.settle()
    assert not person.ui.undoAcceptButton.isHidden()
    assert "empty" in person.accept()
    assert person.ui.acceptedLabel.text == CHANGED and person.ui.undoAcceptButton.isHidden()
    person.write(mask)
    person.settle()
    assert not person.ui.undoAcceptButton.isHidden()


def test_after_undo_the_keyboard_is_in_no_field(person):
    show(person)
    person.accept()
    person.ui.undoAcceptButton.setFocus()
    person.ui.undoAcceptButton.click()
    assert person.ui.undoAcceptButton.isHidden() and focused(person) == "segmentCollapsibleButton"


def test_warnings_of_the_library_are_shown(person):
    show(person, 0, "A")
    person.accept()
    image = toy_scan(0, radii=RADII[0])[0]
    voxels = sitk.GetArrayFromImage(image) * np.float32(1.02)  # the same scan, saved by another program
    volume, node = add_result(0, "Copy", radii=RADII[0])
    slicer.util.arrayFromVolume(volume)[:] = voxels
    slicer.util.arrayFromVolumeModified(volume)
    person.ui.inputSelector.setCurrentNode(volume)
    assert person.result is node
    said = person.accept()
    assert "case 2" in said and "copy" in said.lower(), said


def test_a_library_in_use_is_named_and_nothing_is_lost(person, library, monkeypatch):
    from DDSPSegmentationLib.library.folder_lock import FolderInUseError

    show(person)

    def refuse(self, *arguments, **named):
        raise FolderInUseError("Somebody holds it.", "Try again in a moment.")

    monkeypatch.setattr(CaseLibrary, "add", refuse)
    assert person.accept() == "Somebody holds it. Try again in a moment."
    monkeypatch.undo()


def test_a_folder_that_cannot_be_made_gives_a_message(person, home):
    (home / "DDSPSegmentation").write_text("a file")
    show(person)
    said = person.accept()
    assert "cannot" in said and "Traceback" not in said, said
    person.open_learn()
    assert person.ui.casesLabel.text and person.cases() == []


def test_the_scene_keeps_which_case_a_contour_is(scene, warm_worker, tmp_path):
    with a_session(warm_worker) as person:
        show(person)
        person.accept("apex")
        scene_file, settings = save_scene(tmp_path / "saved"), user_settings()
    with a_session(warm_worker, settings) as person:
        load_scene(scene_file)
        assert wait_for(person.shows_result)
        assert person.ui.acceptedLabel.text == UNCHANGED
        assert person.ui.noteLineEdit.text == "apex" and person.ui.undoAcceptButton.isHidden()
        person.erase_top()
        assert person.ui.acceptedLabel.text == CHANGED
        assert person.accept().startswith(STORED_AGAIN)


def test_accept_survives_the_scene_being_closed(person, library):
    show(person)
    person.accept()
    slicer.mrmlScene.Clear(0)
    slicer.app.processEvents()
    assert person.ui.correctCollapsibleButton.isHidden()
    show(person, 1)
    assert person.ui.undoAcceptButton.isHidden() and "case 2 " in person.accept()
    assert len(library.cases()) == 2


# ---- the table


def test_opening_module_and_learn_writes_nothing(person, home):
    person.open_learn()
    leaveModule("DDSPSegmentation")
    enterModule("DDSPSegmentation")
    assert os.listdir(home) == []
    assert person.ui.casesLabel.text == "No cases yet. Accept a contour, or import a folder."
    assert not person.ui.exportCasesButton.enabled and "no cases" in person.ui.exportCasesButton.toolTip


def test_the_library_is_read_only_while_somebody_looks(person, monkeypatch):
    read, cases = [], CaseLibrary.cases
    monkeypatch.setattr(CaseLibrary, "cases", lambda library: read.append(1) or cases(library))
    leaveModule("DDSPSegmentation")
    enterModule("DDSPSegmentation")
    show(person)
    assert read == []
    person.open_learn()
    assert read
    read.clear()
    leaveModule("DDSPSegmentation")
    enterModule("DDSPSegmentation")
    assert read


def test_the_table_tells_of_every_case(person, library):
    person.open_learn()
    show(person, 0, "A")
    person.accept()
    show(person, 1, "B")
    person.erase_top()
    person.accept("median lobe")
    first, second = library.cases()
    rows = person.cases()
    use = {"training": "training", "hold-out": "checking"}
    assert rows[0] == ("1", "unedited", use[first.split], "1.000", "")
    assert rows[1][1:3] == ("corrected", use[second.split]) and rows[1][4] == "median lobe"
    assert float(rows[1][3]) == round(second.current.dice, 3)
    training = sum(case.split == "training" for case in (first, second))
    told = f"2 cases of 2 patients: {training} for training, {2 - training} kept for checking"
    assert person.ui.casesLabel.text.startswith(told) and "hold-out" in person.ui.casesLabel.toolTip
    assert person.ui.chosenCaseLabel.isHidden()
    person.choose_cases(2)
    told = f"Case 2, corrected on {second.current.date[:10]}, "
    assert person.ui.chosenCaseLabel.text.startswith(told)
    assert person.ui.chosenCaseLabel.text.endswith(f"your correction: {second.current.dice:.3f}.\nmedian lobe")


def test_one_case_of_one_patient_is_told_as_one(person):
    show(person)
    person.accept()
    person.open_learn()
    assert person.ui.casesLabel.text.startswith("1 case of 1 patient: ")


def test_figures_stand_at_the_right_of_their_columns(person):
    import qt

    accepted(person, 1)
    person.open_learn()
    table = person.ui.casesTable
    titles = [table.horizontalHeaderItem(column).text() for column in range(table.columnCount)]
    assert titles == ["Case", "State", "Use", "Agreement", "Note"]
    right = [bool(int(table.item(0, column).data(qt.Qt.TextAlignmentRole) or 0) & 2) for column in range(5)]
    assert right == [True, False, False, True, False]
    assert "hold-out" in table.horizontalHeaderItem(2).toolTip() and "Dice" in table.horizontalHeaderItem(3).toolTip()


def test_what_concerns_the_trash_is_there_once_something_is_in_it(person, library):
    accepted(person, 2)
    person.open_learn()
    ui = person.ui
    assert ui.restoreCaseButton.isHidden() and ui.emptyTrashButton.isHidden()
    library.delete(library.cases()[0].id)
    person.panel.learn.refresh()
    assert not ui.restoreCaseButton.isHidden() and not ui.emptyTrashButton.isHidden()


@pytest.mark.parametrize("width", [350, 421, 560])
def test_nothing_lies_over_anything_in_whatever_order_it_is_opened(person, t2, width):
    accepted(person, 4)
    ui = person.ui
    person.open_learn()
    with module_panel(person, width) as (panel, area):
        for name in ("models", "retrain", "cases"):
            box = getattr(ui, f"{name}GroupBox")
            for collapsed in (True, False):
                box.collapsed = collapsed
                assert cut_off(panel) == [] and squeezed(panel) == []
        person.choose_cases(1, 2)
        ui.deleteCaseButton.click()
        assert cut_off(panel) == [] and squeezed(panel) == []
        for box in (ui.casesGroupBox, ui.retrainGroupBox, ui.modelsGroupBox):
            assert box.minimumSizeHint.height() >= box.heightForWidth(box.width)  # what Slicer may squeeze it to
        table = ui.casesTable
        assert table.horizontalScrollBar().maximum == area.horizontalScrollBar().maximum == 0
        assert sum(table.rowHeight(row) for row in range(4)) < table.height
        for column in range(table.columnCount):
            if not table.isColumnHidden(column):
                assert table.columnWidth(column) >= table.horizontalHeader().sectionSizeHint(column)


def test_texts_that_wrap_get_less_room_again_in_a_wider_panel(person):
    person.open_learn()
    label = person.ui.retrainLabel
    with module_panel(person, 350) as (_panel, area):
        slicer.app.processEvents()
        narrow = label.minimumHeight
        assert narrow >= label.heightForWidth(label.width) > 0
        area.resize(700, 900)
        for _ in range(5):
            slicer.app.processEvents()
        assert 0 < label.minimumHeight < narrow
        settled = []
        person.panel.learn._settling.connect("timeout()", lambda: settled.append(1))
        wait_for(lambda: False, 0.2)
        assert settled == []  # it comes to rest


def test_numbers_sort_as_numbers(person):
    import qt

    accepted(person, 11)
    person.open_learn()
    assert [row[0] for row in person.cases()] == [str(number) for number in range(1, 12)]
    person.ui.casesTable.sortByColumn(0, qt.Qt.DescendingOrder)
    assert [row[0] for row in person.cases()] == [str(number) for number in range(11, 0, -1)]
    show(person, 11, "one more")
    person.accept()
    assert person.cases()[0][0] == "12"  # the order stays the one that was asked for


def test_a_damaged_case_is_named_and_the_others_are_there(person, library):
    accepted(person, 2)
    broken = library.cases()[0]
    broken.mask_path.unlink()
    person.open_learn()
    assert [row[0] for row in person.cases()] == ["2"]
    assert broken.id in person.ui.casesLabel.text


def test_buttons_say_what_they_lack(person):
    accepted(person, 2)
    person.open_learn()
    ui = person.ui
    assert not ui.reopenCaseButton.enabled and "Choose one case" in ui.reopenCaseButton.toolTip
    assert not ui.restoreCaseButton.enabled and not ui.emptyTrashButton.enabled
    person.choose_cases(1, 2)
    assert not ui.reopenCaseButton.enabled and ui.deleteCaseButton.enabled
    person.choose_cases(2)
    assert ui.reopenCaseButton.enabled and "Loads scan and contour" in ui.reopenCaseButton.toolTip


# ---- reopen, delete, restore


def test_a_case_is_reopened_edited_and_stored_again(person, library):
    show(person, 0, "DOE^JOHN")
    network = person.mask()
    corrected = person.erase_top()
    person.accept("apex")
    slicer.mrmlScene.Clear(0)
    slicer.app.processEvents()
    person.open_learn()
    person.choose_cases(1)
    person.ui.reopenCaseButton.click()
    assert person.status.startswith("Case 1 is open.") and person.volume.GetName() == "Case 1"
    assert person.shows_result() and (person.mask() == corrected).all()
    assert person.ui.acceptedLabel.text == UNCHANGED and person.ui.noteLineEdit.text == "apex"
    assert person.ui.volumeLabel.text.endswith(" ml") and person.ui.diceLabel.text == ""
    person.ui.resetButton.click()
    person.settle()
    assert (person.mask() == network).all() and not person.ui.resetButton.enabled
    assert person.accept().startswith(STORED_AGAIN)
    assert len(library.cases()) == 1 and library.cases()[0].current.state == "unedited"


def test_a_double_click_reopens_a_case(person):
    accepted(person, 2)
    person.open_learn()
    person.choose_cases(2)
    person.ui.casesTable.cellDoubleClicked.emit(1, 3)
    assert person.status.startswith("Case 2 is open.")


def test_deleting_asks_first_and_can_be_taken_back(person, library):
    accepted(person, 3)
    person.open_learn()
    ui = person.ui
    person.choose_cases(3)
    ui.deleteCaseButton.click()
    assert ui.learnQuestionLabel.text == "Delete case 3?" and len(library.cases()) == 3
    ui.learnFirstAnswerButton.click()
    assert person.status == "Nothing was deleted." and len(library.cases()) == 3
    ui.deleteCaseButton.click()
    ui.learnSecondAnswerButton.click()
    assert there(person) == ["1", "2"] and "Deleted: 3." in ui.casesLabel.text
    assert person.cases()[2] == ("3", "deleted", "", "", "")
    assert person.ui.acceptedLabel.isHidden()  # the contour shown was that case
    person.choose_cases(1)
    assert not ui.restoreCaseButton.enabled
    person.choose_cases(3)
    assert not ui.reopenCaseButton.enabled and not ui.deleteCaseButton.enabled
    ui.restoreCaseButton.click()
    assert there(person) == ["1", "2", "3"] and person.status == "Back again: 3."
    assert not ui.restoreCaseButton.enabled and ui.deleteCaseButton.enabled


def test_several_cases_go_at_once_and_the_trash_is_emptied(person, library):
    accepted(person, 3)
    person.open_learn()
    ui = person.ui
    person.choose_cases(1, 3)
    ui.deleteCaseButton.click()
    assert ui.learnQuestionLabel.text == "Delete 2 cases?"
    ui.learnSecondAnswerButton.click()
    assert there(person) == ["2"]
    ui.emptyTrashButton.click()
    assert ui.learnQuestionLabel.text == "Remove 2 deleted cases from the disk for good?"
    ui.learnFirstAnswerButton.click()
    assert len(library.trashed()) == 2
    ui.emptyTrashButton.click()
    ui.learnSecondAnswerButton.click()
    assert library.trashed() == [] and person.status == "The trash is empty." and not ui.emptyTrashButton.enabled


def test_a_question_about_cases_stands_below_them_and_hands_the_keyboard_to_no_field(person, t2):
    """As in a real Slicer, where the next key went into the PSA."""
    accepted(person, 2)
    person.open_learn()
    ui = person.ui
    person.choose_cases(1)
    ui.deleteCaseButton.click()
    assert ui.questionFrame.isHidden() and person.status == "Answer the question under Learn."
    layout = ui.learnCollapsibleButton.layout()
    assert layout.indexOf(ui.learnQuestionFrame) == layout.indexOf(ui.casesGroupBox) + 1
    ui.learnSecondAnswerButton.setFocus()
    assert focused(person) == "learnSecondAnswerButton"
    ui.learnSecondAnswerButton.click()
    assert ui.learnQuestionFrame.isHidden() and focused(person) == "learnCollapsibleButton"


def test_a_question_is_scrolled_to(person):
    accepted(person, 9)
    person.open_learn()
    person.choose_cases(1)
    frame = person.ui.learnQuestionFrame
    slicer.util.mainWindow().show()
    area = person.widget.parent.parent().parent()
    assert area.inherits("QScrollArea")
    area.verticalScrollBar().value = 0
    person.ui.deleteCaseButton.click()
    assert wait_for(lambda: not frame.visibleRegion().isEmpty(), 2)
    assert frame.visibleRegion().boundingRect().height() == frame.height


def test_a_case_that_another_slicer_deleted_gives_a_message_and_the_table_follows(person, library):
    accepted(person, 2)
    person.open_learn()
    person.choose_cases(1)
    library.delete(library.cases()[0].id)
    person.ui.deleteCaseButton.click()
    person.ui.learnSecondAnswerButton.click()
    assert "no case" in person.status and there(person) == ["2"]


# ---- import, export, folder


def test_a_folder_is_imported_with_its_failures_named(person, library, tmp_path):
    folder = write_images_and_labels(tmp_path / "other", ["alpha", "beta", "gamma"], ".mha")
    empty = sitk.ReadImage(str(folder / "labels" / "beta.mha")) * 0
    sitk.WriteImage(empty, str(folder / "labels" / "beta.mha"))
    said = []
    person.open_learn()
    dialogs.planned.append(str(folder))
    person.panel.learn.cases._say = lambda text: said.append(text) or person.panel.say(text)
    person.ui.importCasesButton.click()
    assert "2 cases imported.\n1 refused:" in person.status and "beta: " in person.status
    assert [text for text in said if text.startswith("Case ")][0] == "Case 1 of 3: alpha"
    assert len(library.cases()) == 2 and [row[1] for row in person.cases()] == ["imported"] * 2
    assert person.cases()[0][4] == "alpha"


def test_an_import_can_be_canceled_and_keeps_what_it_has(person, library, tmp_path):
    folder = write_images_and_labels(tmp_path / "other", ["alpha", "beta", "gamma"], ".mha")
    person.open_learn()
    button = person.ui.importCasesButton

    def click_at_the_second(text):
        person.panel.say(text)
        if text.startswith("Case 2"):
            assert button.text == "Cancel" and not person.ui.exportCasesButton.enabled
            assert "being copied" in person.ui.casesFolderButton.toolTip
            button.click()

    person.panel.learn.cases._say = click_at_the_second
    dialogs.planned.append(str(folder))
    button.click()
    assert person.status.startswith("Canceled; the cases that were copied until then stay.")
    assert len(library.cases()) == 1 and len(person.cases()) == 1
    assert button.text == "Import Folder..." and person.ui.exportCasesButton.enabled


def test_a_folder_without_scans_gives_a_message(person, tmp_path):
    (tmp_path / "empty").mkdir()
    dialogs.planned.append(str(tmp_path / "empty"))
    person.ui.importCasesButton.click()
    assert "empty" in person.status and "Traceback" not in person.status


def test_the_library_is_exported_without_notes_and_salt(person, tmp_path):
    show(person)
    person.accept("a note of mine")
    person.open_learn()
    (tmp_path / "out").mkdir()
    dialogs.planned.append(str(tmp_path / "out"))
    person.ui.exportCasesButton.click()
    assert person.status == f"1 case written into {tmp_path / 'out'}"
    written = files_in(tmp_path / "out")
    assert "dataset.json" in written and not any("salt" in name or "case.json" in name for name in written)
    assert not any(b"a note of mine" in (tmp_path / "out" / name).read_bytes() for name in written)


def test_dialogs_that_are_left_do_nothing(person, home):
    person.open_learn()
    for button in ("importCasesButton", "casesFolderButton"):
        dialogs.planned.append("")
        getattr(person.ui, button).click()
    assert os.listdir(home) == [] and "DDSPSegmentation/casesFolder" not in user_settings()


def test_another_library_folder_is_remembered(scene, warm_worker, tmp_path, library):
    with a_session(warm_worker) as person:
        accepted(person, 1)
        person.open_learn()
        dialogs.planned.append(str(tmp_path / "elsewhere"))
        person.ui.casesFolderButton.click()
        assert person.cases() == [] and str(tmp_path / "elsewhere") in person.ui.casesFolderButton.toolTip
        show(person, 1)
        person.accept()
        settings = user_settings()
        assert len(person.cases()) == 1
    with a_session(warm_worker, settings) as person:
        person.open_learn()
        assert len(person.cases()) == 1 and str(tmp_path / "elsewhere") in person.ui.casesFolderButton.toolTip
    assert len(library.cases()) == 1 and len(CaseLibrary(tmp_path / "elsewhere").cases()) == 1


# ---- what helps most


def test_open_volumes_are_ranked_by_expected_dice(person):
    person.open_learn()
    assert person.ui.nextCasesLabel.isHidden()
    for number, dice in enumerate((0.91, 0.64, 0.85)):
        show(person, number, f"scan {number}", dice)
    lines = person.ui.nextCasesLabel.text.splitlines()
    assert lines[1:] == ["scan 1: expected Dice 0.64", "scan 2: expected Dice 0.85", "scan 0: expected Dice 0.91"]
    person.accept()  # the last one
    assert "scan 2" not in person.ui.nextCasesLabel.text


def test_open_volumes_without_an_expected_dice_are_ranked_by_their_warnings(person):
    person.open_learn()
    for number, warnings in enumerate(([], ["Look."])):
        volume, _node = add_result(number, f"scan {number}", None, RADII[number], warnings)
        person.ui.inputSelector.setCurrentNode(volume)
    assert person.ui.nextCasesLabel.text.splitlines()[1:] == ["scan 1: with a warning", "scan 0: without a warning"]


# ---- the version that segments


@pytest.fixture
def asked(person, warm_worker, monkeypatch):
    """What a click on a small volume asks of the worker, which gets nothing of it."""
    person.ui.inputSelector.setCurrentNode(new_volume())
    requests = []
    monkeypatch.setattr(
        warm_worker, "submit", lambda image, settings, **told: requests.append({"settings": settings, **told})
    )
    yield requests
    for request in requests:
        request["onError"](Canceled())


@pytest.fixture
def second_version(home, person):
    """A copy of the built-in model as the active version v2."""
    registry = ModelRegistry(home / "DDSPSegmentation" / "Models")
    registry.publish(builtin_model_folder(), "v2", {})
    registry.activate("v2")
    return registry


def test_a_run_uses_the_active_version(person, asked, second_version):
    leaveModule("DDSPSegmentation")
    enterModule("DDSPSegmentation")
    assert person.ui.modelComboBox.currentText == "v2"
    person.start()
    assert asked[0]["settings"].model == str(second_version.version("v2").folder)
    asked.pop()["onError"](Canceled())
    second_version.roll_back()
    person.start()
    assert asked[0]["settings"].model is None


def test_an_active_version_that_is_damaged_is_named_and_nothing_runs(person, asked, second_version):
    with open(second_version.version("v2").folder / "weights.pt", "ab") as file:
        file.write(b"tampered")
    person.ui.segmentButton.click()
    assert asked == [] and "v2" in person.status and "Roll back" in person.status
    assert person.ui.segmentButton.text == "Segment Prostate"
    leaveModule("DDSPSegmentation")
    enterModule("DDSPSegmentation")
    assert person.ui.modelComboBox.currentText == "not usable" and "v2" in person.ui.modelComboBox.toolTip


def test_a_version_that_was_deleted_by_hand_does_not_keep_cases_from_being_accepted(person, second_version):
    shutil.rmtree(second_version.version("v2").folder)
    show(person)
    assert STORED.match(person.accept())


def test_a_retraining_waits_while_a_segmentation_runs(person, t2, monkeypatch):
    told = []
    monkeypatch.setattr(person.panel.learn.retrain, "yieldTo", told.append)
    person.segment()
    assert told[0] is True and told[-1] is False
    told.clear()
    person.start()
    slicer.mrmlScene.Clear(0)
    assert told[0] is True and told[-1] is False
