"""The error log of Slicer stays as it is, whatever is done in the panel: its red mark is for what really went wrong."""

import contextlib

import numpy as np
import pytest
import slicer
from panel_parts import (
    MODULE_FILE,
    SEGMENTING,
    Person,
    add_result,
    load_sample,
    load_scene,
    save_scene,
    segmentations,
    wait_for,
)
from scene_parts import put_under_transform, rigid_matrix
from slicer_stand_in import enterModule, leaveModule, openModule

from DDSPSegmentationLib.scene.conversion import read_segment
from DDSPSegmentationLib.scene.result_nodes import network_mask


def work():
    for _ in range(5):
        slicer.app.processEvents()


# Slicer itself says so of every scene that was saved with views turned to a scan.
OF_TURNED_VIEWS = "GetSliceOrientationPreset: invalid orientation preset name: Reformat"


@contextlib.contextmanager
def still():
    """The error log has no new entry afterwards."""
    log = slicer.app.errorLogModel()
    before = log.logEntryCount()
    yield
    work()
    entries = [log.logEntryDescription(row) for row in range(before, log.logEntryCount())]
    assert [entry for entry in entries if not entry.endswith(OF_TURNED_VIEWS)] == [], entries


def correct(person):
    mask = person.mask().copy()
    mask[np.flatnonzero(mask.any(axis=(1, 2)))[-2:]] = 0
    person.write(mask)
    person.settle()


def data_items():
    """Names in the tree of the Data module."""
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    ids = []
    hierarchy.GetItemChildren(hierarchy.GetSceneItemID(), ids, True)
    return [hierarchy.GetItemName(number) for number in ids]


def test_a_whole_pass_adds_no_entry(person, home):
    ui = person.ui
    with still():
        load_sample()
        assert wait_for(lambda: person.volume is not None)
        person.segment_at_once()
    for step in (
        ui.nextSliceButton.click,
        ui.uncertaintyCheckBox.click,
        ui.uncertaintyCheckBox.click,
        person.paint,
        person.settle,
        ui.beforeButton.click,
        ui.beforeButton.click,
        person.editor.undo,
        person.settle,
        person.paint,
        person.settle,
        ui.resetButton.click,
        person.settle,
        person.accept,
        ui.undoAcceptButton.click,
        person.accept,
        lambda: leaveModule("DDSPSegmentation"),
        lambda: enterModule(MODULE_FILE.stem),
        lambda: slicer.mrmlScene.Clear(0),
    ):
        with still():
            step()


@pytest.mark.parametrize("degrees", [0, 17])
def test_the_contour_of_the_network_adds_no_entry_and_no_item(segmented, degrees):
    put_under_transform(segmented.volume, rigid_matrix(degrees))
    segmented.result.SetAndObserveTransformNodeID(segmented.volume.GetTransformNodeID())
    correct(segmented)
    items = data_items()
    with still():
        segmented.ui.beforeButton.click()
        work()
        assert data_items() == items
        (before,) = [node for node in segmentations() if node is not segmented.result]
        assert before.GetTransformNodeID() == segmented.volume.GetTransformNodeID()
        shown = read_segment(before, before.GetSegmentation().GetNthSegmentID(0), segmented.volume)
        assert (shown == network_mask(segmented.result, segmented.volume)).all()
        segmented.ui.beforeButton.click()
    assert segmentations() == [segmented.result]


def test_a_result_of_which_nothing_is_shown_in_2d_adds_no_entry(segmented):
    ui = segmented.ui
    with still():
        ui.contourCheckBox.checked = ui.fillCheckBox.checked = False
        work()
        ui.surfaceCheckBox.checked = False
        work()


def test_a_volume_deleted_during_its_run_adds_no_entry(segmented):
    load_sample("Another")
    segmented.start()
    segmented.wait_for_phase(SEGMENTING)
    with still():
        slicer.mrmlScene.RemoveNode(slicer.util.getNode("T2"))
        assert wait_for(lambda: not segmented.panel.segment.isRunning)


def test_a_volume_deleted_with_its_result_shown_adds_no_entry(person):
    add_result(1, "B")
    volume, _node = add_result(0, "A")
    person.ui.inputSelector.setCurrentNode(volume)
    with still():
        slicer.mrmlScene.RemoveNode(volume)


def test_a_reloaded_module_lets_go_of_the_result(slicer_window, own_worker):
    person = Person(openModule(MODULE_FILE))
    volume, node = add_result()
    person.ui.inputSelector.setCurrentNode(volume)
    segment_id = person.editor.currentSegmentID()
    assert person.editor.segmentationNode() is node and segment_id
    with still():
        person.widget.onReload()
        work()
        node.GetSegmentation().GetSegment(segment_id).SetName("Gland")
        node.GetSegmentation().AddEmptySegment("Lesion")
    editor = slicer.modules.DDSPSegmentationWidget.panel.correct.editor
    assert editor.segmentationNode() is node and editor.sourceVolumeNode() is volume


def test_another_input_adds_no_entry(person):
    first, second = (add_result(number, name)[0] for number, name in enumerate("AB"))
    for volume in (first, second, None, first):
        with still():
            person.ui.inputSelector.setCurrentNode(volume)
            work()


def test_a_deleted_result_adds_no_entry(segmented):
    with still():
        slicer.mrmlScene.RemoveNode(segmented.result)


def test_a_scene_saved_and_loaded_adds_no_entry(segmented, tmp_path):
    correct(segmented)
    path = save_scene(tmp_path / "scene")
    with still():
        load_scene(path)
        work()
