"""Runs that do not go their way: canceled, killed, overtaken by the scene, refused, or asked again."""

import os
import signal

import numpy as np
import pytest
import slicer
import vtk
from panel_parts import (
    CHECK,
    CORRECTED,
    LOAD,
    PREPARING,
    PRESS,
    READY,
    RUNNING,
    SEGMENTING,
    focused,
    node_ids,
    segmentations,
    wait_for,
)
from scene_parts import gland_voxels, new_volume
from worker_parts import is_running

from DDSPSegmentationLib.scene.result_nodes import is_edited, network_mask


@pytest.fixture
def corrected(person, t2):
    """A result that somebody corrected."""
    node = person.segment_at_once()
    person.paint()
    person.settle()
    assert is_edited(node, t2)
    return node


# ---- cancel


def files_of(worker):
    """Scans and answers between the processes; those of earlier results may be among them."""
    return {path.name for path in worker.logPath.parent.iterdir() if not path.name.startswith("worker.log")}


def cancel_and_check(person, worker, before, files):
    process = worker.processId
    person.ui.segmentButton.click()
    assert wait_for(lambda: not is_running(process), seconds=1.0)
    assert wait_for(lambda: person.ui.segmentButton.text == READY)
    assert person.status == "Canceled; nothing was changed. Press Segment Prostate to start again."
    assert person.ui.progressBar.isHidden() and not person.shows_result()
    assert node_ids() == before
    assert wait_for(lambda: files_of(worker) <= files, 5.0)


def test_a_click_while_the_engine_starts_waits_and_can_be_canceled(person, t2, warm_worker):
    warm_worker.stop(wait=True)
    before, files = node_ids(), files_of(warm_worker)
    person.start()
    person.wait_for_phase("Starting engine (")
    cancel_and_check(person, warm_worker, before, files)
    person.start()
    person.wait_for_phase("Starting engine (")
    assert wait_for(lambda: person.ui.segmentButton.text == READY)
    assert person.mask().any()


def test_a_double_click_starts_a_run_and_does_not_cancel_it(person, t2, warm_worker):
    now = [100.0]
    person.panel.segment.doubleClick.now = lambda: now[0]
    person.start()
    for seconds in (0.1, 0.3):  # each so near to the click before it
        now[0] += seconds
        person.ui.segmentButton.click()
        assert person.ui.segmentButton.text == RUNNING
    now[0] += 0.6
    person.ui.segmentButton.click()
    assert wait_for(lambda: person.ui.segmentButton.text == READY) and "Canceled" in person.status
    now[0] += 0.4
    person.ui.segmentButton.click()
    assert person.ui.segmentButton.text == READY


def test_cancel_at_once(person, t2, warm_worker):
    before, files = node_ids(), files_of(warm_worker)
    person.start()
    cancel_and_check(person, warm_worker, before, files)


@pytest.mark.parametrize("phase", [PREPARING, SEGMENTING])
def test_cancel_in_the_middle(person, t2, warm_worker, phase):
    person.ui.biasFieldCheckBox.checked = phase == PREPARING  # so that it lasts
    before, files = node_ids(), files_of(warm_worker)
    person.start()
    person.wait_for_phase(phase)
    cancel_and_check(person, warm_worker, before, files)


# ---- fail


def test_an_engine_that_is_killed_gives_one_message_and_the_next_click_works(person, t2, warm_worker):
    before, files = node_ids(), files_of(warm_worker)
    person.start()
    person.wait_for_phase(SEGMENTING)
    os.kill(warm_worker.processId, signal.SIGKILL)
    assert wait_for(lambda: person.ui.segmentButton.text == READY)
    assert person.status.startswith("The engine ") and "ry again" in person.status
    assert node_ids() == before and wait_for(lambda: files_of(warm_worker) <= files, 5.0)
    assert person.mask(person.segment()).any() and person.status.startswith(CHECK)


def test_the_result_of_a_deleted_volume_is_dropped(person, t2):
    before = node_ids()
    person.start()
    slicer.mrmlScene.RemoveNode(t2)
    assert wait_for(lambda: person.ui.segmentButton.text == READY)
    assert "'T2' was deleted" in person.status
    assert segmentations() == [] and set(node_ids()) < set(before)


def test_the_result_of_a_changed_volume_is_dropped(person, t2):
    person.start()
    slicer.util.arrayFromVolume(t2)[5] = 0
    slicer.util.arrayFromVolumeModified(t2)
    assert wait_for(lambda: person.ui.segmentButton.text == READY)
    assert "'T2'" in person.status and "Segment it again" in person.status
    assert segmentations() == [] and not person.shows_result()


def test_a_scene_that_is_closed_ends_the_run(person, t2, warm_worker):
    files = files_of(warm_worker)
    person.start()
    person.wait_for_phase(SEGMENTING)
    process = warm_worker.processId
    slicer.mrmlScene.Clear(0)
    assert person.status == "The scene was closed, so the run was ended."
    assert wait_for(lambda: not is_running(process), seconds=1.0)
    assert not person.ui.segmentButton.enabled and person.ui.segmentButton.text == READY
    assert person.ui.progressBar.isHidden() and segmentations() == []
    assert wait_for(lambda: files_of(warm_worker) <= files, 5.0)


def one_slice():
    return new_volume("bad", gland_voxels()[:1])


def constant():
    return new_volume("bad", np.full((12, 64, 64), 7, np.int16))


def vector():
    volume = new_volume("bad")
    voxels = vtk.vtkImageData()
    voxels.SetDimensions(20, 20, 12)
    voxels.AllocateScalars(vtk.VTK_SHORT, 3)
    volume.SetAndObserveImageData(voxels)
    return volume


def empty():
    return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "bad")


@pytest.mark.parametrize("bad", [one_slice, constant, vector, empty])
def test_a_volume_that_cannot_be_segmented_gives_one_message(person, bad):
    person.ui.inputSelector.setCurrentNode(bad())
    before = node_ids()
    person.ui.segmentButton.click()
    assert wait_for(lambda: person.ui.segmentButton.text == READY)
    assert "'bad'" in person.status and len(person.status) < 250 and "Traceback" not in person.status
    assert "Unexpected" not in person.status
    assert node_ids() == before and not person.shows_result() and person.ui.progressBar.isHidden()
    assert person.ui.segmentButton.enabled


# ---- again


def answer(person, text):
    buttons = (person.ui.firstAnswerButton, person.ui.secondAnswerButton, person.ui.thirdAnswerButton)
    (button,) = [button for button in buttons if button.text == text and not button.isHidden()]
    button.click()


def is_asked(person):
    return not person.ui.questionFrame.isHidden()


def test_again_updates_a_result_that_nobody_corrected(person, t2):
    node = person.segment()
    ids = node_ids()
    assert person.segment() is node and node_ids() == ids and not is_asked(person)


def test_a_correction_is_not_lost_without_an_answer(person, corrected, t2):
    mine = person.mask(corrected)
    person.start()
    assert is_asked(person) and person.ui.questionLabel.text.startswith("You corrected this contour.")
    assert person.status == "Answer the question above."
    assert person.ui.segmentButton.text == READY
    answer(person, "Cancel")
    assert not is_asked(person) and (person.mask(corrected) == mine).all()
    assert segmentations() == [corrected] and person.status.startswith(CORRECTED)


@pytest.mark.parametrize("text", ["New", "Replace", "Cancel"])
def test_after_an_answer_the_next_key_changes_no_number(person, corrected, text):
    """As in a real Slicer, where "1" for Paint made the PSA 1."""
    person.start()
    buttons = (person.ui.firstAnswerButton, person.ui.secondAnswerButton, person.ui.thirdAnswerButton)
    next(button for button in buttons if button.text == text).setFocus()
    answer(person, text)
    assert focused(person) == "segmentCollapsibleButton"
    assert wait_for(lambda: person.ui.segmentButton.text == READY)
    assert focused(person) == "segmentCollapsibleButton"


def test_a_question_that_goes_away_by_itself_leaves_the_keyboard_in_no_field(person, corrected):
    person.start()
    person.ui.firstAnswerButton.setFocus()
    choose_another_volume(person)
    assert not is_asked(person) and focused(person) == "segmentCollapsibleButton"


def test_new_puts_the_result_beside_the_correction(person, corrected, t2):
    mine = person.mask(corrected)
    person.start()
    answer(person, "New")
    assert wait_for(lambda: person.ui.segmentButton.text == READY)
    assert len(segmentations()) == 2 and person.result is not corrected
    assert (person.mask(corrected) == mine).all()
    assert (person.mask() == (network_mask(person.result, t2) != 0)).all()
    assert not is_edited(person.result, t2) and not person.ui.resetButton.enabled


def test_replace_can_be_undone(person, corrected, t2):
    mine = person.mask(corrected)
    person.start()
    answer(person, "Replace")
    assert wait_for(lambda: person.ui.segmentButton.text == READY)
    assert segmentations() == [corrected] and not is_edited(corrected, t2)
    assert not person.ui.resetButton.enabled
    person.panel.correct.editor.undo()
    person.settle()
    assert (person.mask(corrected) == mine).all() and person.ui.resetButton.enabled


def test_replace_keeps_a_correction_that_undo_could_not_bring_back(person, corrected, t2):
    other = new_volume("other T2")
    mine = person.mask(corrected)
    person.start()
    answer(person, "Replace")
    person.ui.inputSelector.setCurrentNode(other)
    assert wait_for(lambda: person.ui.segmentButton.text == READY)
    assert len(segmentations()) == 2 and (person.mask(corrected) == mine).all()


def test_a_correction_during_the_run_is_kept(person, t2):
    node = person.segment()
    person.start()
    person.paint()
    mine = person.mask(node)
    assert wait_for(lambda: person.ui.segmentButton.text == READY)
    assert person.result is not node and (person.mask(node) == mine).all()
    assert f"'{node.GetName()}'" in person.status


def choose_another_volume(person):
    person.ui.inputSelector.setCurrentNode(new_volume("other T2"))


def choose_another_output(person):
    person.ui.outputSelector.setCurrentNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode"))


def close_the_scene(person):
    slicer.mrmlScene.Clear(0)


@pytest.mark.parametrize("change", [choose_another_volume, choose_another_output, close_the_scene])
def test_the_question_goes_away_with_what_it_is_about(person, corrected, change):
    person.start()
    assert is_asked(person)
    change(person)
    assert not is_asked(person) and person.status in (PRESS, LOAD)
