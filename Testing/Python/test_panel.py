"""The panel as a person uses it: choose, click, watch; in a window, with the real worker."""

import re

import numpy as np
import pytest
import slicer
from panel_parts import (
    CHECK,
    LOAD,
    PREPARING,
    PRESS,
    READY,
    RUNNING,
    SEGMENTING,
    add_point,
    add_result,
    cut_off,
    narrow_window,
    node_ids,
    segmentations,
    wait_for,
)
from scene_parts import new_volume, put_under_transform, rigid_matrix
from slicer_stand_in import enterModule, leaveModule
from worker_parts import own_time

from DDSPSegmentationLib.engine.errors import Canceled
from DDSPSegmentationLib.engine.model import BUILTIN_MODEL
from DDSPSegmentationLib.scene.panel.segment_section import PHASE_STARTS
from DDSPSegmentationLib.scene.result_nodes import volume_of


def show(volume):
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    slicer.app.processEvents()


@pytest.fixture
def asked(warm_worker, monkeypatch):
    """What the panel asks of the worker, which gets nothing of it; each request is canceled at the end."""
    requests = []
    monkeypatch.setattr(
        warm_worker, "submit", lambda image, settings, **told: requests.append({"settings": settings, **told})
    )
    yield requests
    for request in requests:
        request["onError"](Canceled())


@pytest.fixture
def sagittal():
    matrix = np.array([[0, 0, 3.0, 0], [0.5, 0, 0, 0], [0, -0.5, 0, 0], [0, 0, 0, 1]])
    return lambda name: new_volume(name, ijk_to_ras=matrix)


# ---- choose


def test_an_empty_scene_says_what_to_load(person):
    assert not person.ui.segmentButton.enabled
    assert "Choose an axial T2 volume" in person.ui.segmentButton.toolTip
    assert person.status == LOAD
    assert not person.shows_result()


def test_the_volume_in_the_slice_views_is_chosen(person):
    volumes = [new_volume("t2_tse_tra"), new_volume("T2 axial repeated")]
    show(volumes[0])
    assert wait_for(lambda: person.ui.inputSelector.currentNode() is volumes[0])
    assert person.ui.inputNoteLabel.isHidden()
    assert person.status == PRESS and person.ui.segmentButton.enabled


@pytest.mark.parametrize("name, word", [("ADC map", "ADC"), ("ep2d_diff b800", "diffusion")])
def test_instead_of_another_kind_of_image_the_axial_t2_is_chosen(person, name, word):
    shown, t2 = new_volume(name), new_volume("t2_tse_tra")
    show(shown)
    assert wait_for(lambda: person.ui.inputSelector.currentNode() is t2)
    note = person.ui.inputNoteLabel
    assert not note.isHidden() and word in note.text and "'t2_tse_tra'" in note.text


def test_instead_of_a_sagittal_scan_the_axial_one_is_chosen(person, sagittal):
    shown, t2 = sagittal("t2 scan"), new_volume("t2_tse_tra")
    show(shown)
    assert wait_for(lambda: person.ui.inputSelector.currentNode() is t2)
    assert "sagittal" in person.ui.inputNoteLabel.text


def test_a_doubt_is_said_and_blocks_nothing(person):
    volume = new_volume("ADC map")
    show(volume)
    assert wait_for(lambda: person.ui.inputSelector.currentNode() is volume)
    assert "'ADC map'" in person.ui.inputNoteLabel.text and not person.ui.inputNoteLabel.isHidden()
    assert person.ui.segmentButton.enabled


def test_a_doubtful_guess_gives_way_to_a_t2_that_comes_later(person):
    first = new_volume("ADC map")
    show(first)
    assert wait_for(lambda: person.ui.inputSelector.currentNode() is first)
    later = new_volume("t2_tse_tra")
    assert wait_for(lambda: person.ui.inputSelector.currentNode() is later)


def test_what_the_user_chose_is_left_alone(person):
    t2, adc = new_volume("t2_tse_tra"), new_volume("ADC map")
    show(t2)
    assert wait_for(lambda: person.ui.inputSelector.currentNode() is t2)
    person.ui.inputSelector.setCurrentNode(adc)
    new_volume("t2_tse_tra again")
    slicer.app.processEvents()
    assert person.ui.inputSelector.currentNode() is adc
    assert "'ADC map'" in person.ui.inputNoteLabel.text
    person.ui.inputSelector.setCurrentNode(t2)
    assert person.ui.inputNoteLabel.isHidden()


def test_a_name_is_shown_as_it_is(person):
    import qt

    volume = new_volume("<b>ADC</b> 50% {name}")
    person.ui.inputSelector.setCurrentNode(volume)
    assert "'<b>ADC</b> 50% {name}'" in person.ui.inputNoteLabel.text
    for label in (person.ui.inputNoteLabel, person.ui.statusLabel, person.ui.questionLabel, person.ui.testLabel):
        assert label.textFormat == qt.Qt.PlainText


def test_a_point_in_the_world_reaches_the_engine_in_lps(person, asked):
    volume = new_volume()
    put_under_transform(volume, rigid_matrix())
    point = add_point((1.0, 2.0, 3.0))
    put_under_transform(point, rigid_matrix(shift=(5.0, 0.0, 0.0)))
    world = [0.0] * 3
    point.GetNthControlPointPositionWorld(0, world)
    person.ui.inputSelector.setCurrentNode(volume)
    person.ui.locationSelector.setCurrentNode(point)
    person.start()
    assert asked[0]["settings"].location == pytest.approx((-world[0], -world[1], world[2]))
    assert world != pytest.approx((1.0, 2.0, 3.0), abs=0.1)


def test_a_box_reaches_the_engine_as_its_center(person, asked):
    person.ui.inputSelector.setCurrentNode(new_volume())
    box = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    box.SetCenterWorld(4.0, -5.0, 6.0)
    box.SetSizeWorld(30.0, 30.0, 30.0)
    put_under_transform(box, np.diag([1.0, 1.0, 2.0, 1.0]))
    person.ui.locationSelector.setCurrentNode(box)
    person.start()
    assert asked[0]["settings"].location == pytest.approx((-4.0, 5.0, 12.0))


def test_without_a_point_the_engine_searches(person, asked):
    person.ui.inputSelector.setCurrentNode(new_volume())
    person.start()
    assert asked[0]["settings"].location is None


def test_an_empty_point_list_gives_one_message(person, asked):
    person.ui.inputSelector.setCurrentNode(new_volume())
    person.ui.locationSelector.setCurrentNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "P"))
    before = node_ids()
    person.start()
    assert person.status.startswith("'P' has no point yet. Click into the prostate in a slice view, or choose 'Find")
    assert asked == [] and node_ids() == before
    assert person.ui.segmentButton.text == READY and person.ui.progressBar.isHidden()


@pytest.mark.parametrize("kind", ["vtkMRMLMarkupsFiducialNode", "vtkMRMLMarkupsROINode"])
def test_a_new_point_or_box_is_placed_by_the_next_click_into_a_view(person, kind):
    node = person.ui.locationSelector.addNode(kind)
    application = slicer.app.applicationLogic()
    interaction, selection = application.GetInteractionNode(), application.GetSelectionNode()
    assert interaction.GetCurrentInteractionMode() == interaction.Place
    assert selection.GetActivePlaceNodeID() == node.GetID()
    assert selection.GetActivePlaceNodeClassName() == kind
    assert node.GetDisplayNode() is not None
    interaction.SwitchToViewTransformMode()


# ---- click and watch


def test_one_click_gives_a_contour_with_its_figures(person, t2):
    assert person.status == PRESS
    person.ui.biasFieldCheckBox.checked = True
    node = person.segment()
    ml = np.count_nonzero(person.mask(node)) * np.prod(t2.GetSpacing()) / 1000
    assert 30 < ml < 70 and person.ui.volumeLabel.text == f"{ml:.1f} ml"
    assert person.shows_result() and person.status.startswith(CHECK)
    assert re.fullmatch(r"0\.\d\d \(0\.\d\d to \d\.\d\d\) - (good|check|doubtful)", person.ui.diceLabel.text)
    assert BUILTIN_MODEL in person.ui.detailsLabel.text
    assert node.GetSegmentation().ContainsRepresentation("Closed surface")


def test_a_run_is_followed_by_phase_seconds_and_bar(person, t2):
    seen, bar = [], []
    person.start()
    assert person.ui.segmentButton.toolTip == "<p>End the run; nothing in the scene changes.</p>"

    def watch():
        if person.ui.segmentButton.text == RUNNING:
            phase, _bracket, seconds = person.status.rpartition(" (")
            assert seconds.endswith(" s elapsed)") and int(seconds.split()[0]) >= 0
            assert not person.ui.progressBar.isHidden()
            seen.append(phase)
            bar.append(person.ui.progressBar.value)
        return person.ui.segmentButton.text == READY

    assert wait_for(watch)
    assert SEGMENTING in seen and set(seen) <= {*PHASE_STARTS, PREPARING} - {"Preprocessing"}
    assert bar == sorted(bar) and max(bar) > 50
    assert person.ui.progressBar.isHidden()


def test_the_window_answers_all_the_time(person, t2):
    import qt

    person.segment()
    ticks = [own_time()]
    timer = qt.QTimer()
    timer.setInterval(5)
    timer.connect("timeout()", lambda: ticks.append(own_time()))
    timer.start()
    person.start()
    assert wait_for(lambda: person.ui.segmentButton.text == READY)
    slicer.app.processEvents()
    timer.stop()
    assert len(ticks) > 20 and max(np.diff(ticks)) < (ticks[-1] - ticks[0]) / 2  # Benchmarks/panel.py has the seconds


def test_the_chosen_segmentation_takes_the_result(person, t2):
    chosen = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Mine")
    person.ui.outputSelector.setCurrentNode(chosen)
    assert person.segment() is chosen and segmentations() == [chosen]


def test_another_volume_can_be_looked_at_during_a_run(person, t2):
    other = new_volume("other T2")
    person.start()
    person.ui.inputSelector.setCurrentNode(other)
    assert person.ui.segmentButton.text == RUNNING and not person.shows_result()
    assert wait_for(lambda: " of 'T2' (" in person.status)
    assert wait_for(lambda: person.ui.segmentButton.text == READY)
    (node,) = segmentations()
    assert volume_of(node) is t2 and person.mask(node).any()
    assert person.result is None and not person.shows_result() and person.ui.volumeLabel.text == ""
    assert person.status == "The result of 'T2' is in the scene; choose that volume to see it."
    person.ui.inputSelector.setCurrentNode(t2)
    assert person.result is node and person.shows_result() and " ml" in person.ui.volumeLabel.text
    person.ui.inputSelector.setCurrentNode(other)
    assert not person.shows_result() and person.status == PRESS


def test_another_module_can_be_used_during_a_run(person, t2):
    person.start()
    leaveModule("DDSPSegmentation")
    assert wait_for(lambda: segmentations())
    enterModule("DDSPSegmentation")
    assert person.result is segmentations()[0] and person.shows_result()
    assert person.ui.segmentButton.text == READY


# ---- look


def test_no_text_is_cut_off_in_a_narrow_panel(person, t2):
    for section in ("advanced", "export"):
        getattr(person.ui, f"{section}CollapsibleButton").collapsed = False
    with narrow_window(person) as panel:
        assert cut_off(panel) == []
        person.start()
        assert cut_off(panel) == []
        assert wait_for(lambda: person.ui.segmentButton.text == READY)
        assert person.shows_result() and cut_off(panel) == []
        person.paint()
        person.settle()
        assert cut_off(panel) == []
        person.start()
        assert not person.ui.questionFrame.isHidden() and cut_off(panel) == []


def test_nothing_that_the_panel_says_widens_it_for_good(person):
    long = "a very long series description " * 6
    add_result(1, long, 0.82, warnings=[f"{long}." for _ in range(3)])
    assert wait_for(person.shows_result)
    with narrow_window(person) as panel:
        for text in (long, "x" * 60 + " " + long):
            person.panel.say(text)
            slicer.app.processEvents()
            assert panel.minimumSizeHint.width() <= 350
        person.set_psa(6.5)
        person.set_psa(7.5)
        person.ui.advancedCollapsibleButton.collapsed = False
        slicer.app.processEvents()
        assert panel.minimumSizeHint.width() <= 350
