"""What survives saving, loading and closing the scene, reloading the module and ending Slicer; and what must not."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import slicer
from panel_parts import (
    CHECK,
    CORRECTED,
    LOAD,
    MODULE_FILE,
    NO_PSA,
    PREPARING,
    PRESS,
    READY,
    UNCALIBRATED,
    Person,
    a_session,
    add_point,
    load_sample,
    load_scene,
    save_scene,
    user_settings,
    wait_for,
)
from scene_parts import ThresholdRunner, new_volume
from slicer_stand_in import enterModule, openModule
from worker_parts import is_running

FIGURES = ("volumeLabel", "sizeLabel", "ellipsoidLabel", "psaDensityLabel", "diceLabel", "warningsLabel",
           "detailsLabel")  # fmt: skip


def figures(person):
    return {name: getattr(person.ui, name).text for name in FIGURES}


def choose_everything(person):
    """Choices other than the first ones, in every section."""
    ui = person.ui
    ui.locationSelector.setCurrentNode(add_point((1.0, 2.0, 3.0)))
    ui.thresholdSlider.value = 0.35
    ui.smoothingSlider.value = 0.8
    ui.fillCheckBox.click()
    ui.surfaceCheckBox.click()
    ui.uncertaintySlider.value = 0.25
    ui.modeComboBox.currentIndex = 1
    ui.deviceComboBox.currentIndex = 1
    person.set_psa(6.5)


def choices_of_scene(person):
    ui = person.ui
    return {
        "location": ui.locationSelector.currentNode() and ui.locationSelector.currentNode().GetName(),
        "threshold": ui.thresholdSlider.value,
        "smoothing": ui.smoothingSlider.value,
        "contour": ui.contourCheckBox.checked,
        "fill": ui.fillCheckBox.checked,
        "surface": ui.surfaceCheckBox.checked,
        "opacity": ui.uncertaintySlider.value,
    }


def choices_of_user(person):
    ui = person.ui
    return ui.modeComboBox.currentText, ui.deviceComboBox.currentText, ui.biasFieldCheckBox.checked


# ---- the scene


def test_another_session_goes_on_where_the_first_one_ended(scene, warm_worker, tmp_path):
    with a_session(warm_worker) as person:
        person.ui.biasFieldCheckBox.checked = False
        load_sample()
        assert wait_for(lambda: person.ui.segmentButton.enabled)
        network = person.mask(person.segment())
        choose_everything(person)
        person.paint()
        person.settle()
        corrected = person.mask()
        shown, choices, user = figures(person), choices_of_scene(person), choices_of_user(person)
        assert shown["psaDensityLabel"].startswith("0.1") and shown["diceLabel"] == UNCALIBRATED
        scene_file, settings = save_scene(tmp_path / "saved"), user_settings()

    with a_session(warm_worker, settings) as person:
        assert choices_of_user(person) == user == ("Fast", "CPU", False)
        assert person.status == LOAD
        load_scene(scene_file)
        assert person.volume.GetName() == "T2" and person.result.GetName() == "T2 prostate"
        assert person.shows_result() and figures(person) == shown and person.ui.psaLineEdit.text == "6.5"
        assert choices_of_scene(person) == choices
        assert choices == {
            "location": "P",
            "threshold": 0.35,
            "smoothing": 0.8,
            "contour": True,
            "fill": True,
            "surface": False,
            "opacity": 0.25,
        }
        assert person.status.startswith(CORRECTED)
        assert (person.mask() == corrected).all() and warm_worker.state == "ready"
        person.ui.segmentButton.click()
        assert not person.ui.questionFrame.isHidden()  # the correction is known to be one
        person.ui.thirdAnswerButton.click()
        assert person.ui.resetButton.enabled
        person.ui.resetButton.click()
        person.settle()
        assert (person.mask() == network).all() and not person.ui.resetButton.enabled


def test_a_scene_that_was_loaded_before_the_module_was_opened_is_shown(scene, warm_worker, tmp_path, monkeypatch):
    with a_session(warm_worker) as person:
        place_result(person)
        shown, scene_file = figures(person), save_scene(tmp_path / "saved")
    from slicer_stand_in import closeModule

    with a_session(warm_worker) as person:
        closeModule("DDSPSegmentation")
        load_scene(scene_file)
        person = Person(openModule(MODULE_FILE))
        assert person.shows_result() and figures(person) == shown


def place_result(person, name="T2"):
    """A result without the engine; the panel shows it once its volume is chosen."""
    volume = new_volume(name)
    placed = person.widget.logic.segmentProstate(volume, runner=ThresholdRunner())
    person.ui.inputSelector.setCurrentNode(volume)
    assert person.result is placed.outputSegmentationNode and person.shows_result()
    return volume


def test_a_scene_loaded_into_another_shows_its_own_result(person, tmp_path):
    place_result(person)
    scene_file, shown = save_scene(tmp_path / "saved"), figures(person)
    slicer.mrmlScene.Clear(0)
    place_result(person, "ADC of somebody else")
    assert not person.ui.inputNoteLabel.isHidden()
    slicer.mrmlScene.SetURL(str(scene_file))
    assert slicer.mrmlScene.Import()
    slicer.app.processEvents()
    assert person.volume.GetName() == "T2" and figures(person) == shown
    assert person.ui.inputNoteLabel.isHidden()


def test_a_scene_added_during_a_run_does_not_redirect_it(person, tmp_path):
    place_result(person, "t2_tse_tra")
    scene_file, shown = save_scene(tmp_path / "saved"), figures(person)
    slicer.mrmlScene.Clear(0)
    person.ui.biasFieldCheckBox.checked = False
    volume = load_sample()
    assert wait_for(lambda: person.volume is volume)
    person.start()
    slicer.mrmlScene.SetURL(str(scene_file))
    assert slicer.mrmlScene.Import()
    assert person.ui.segmentButton.text == "Cancel" and person.volume.GetName() == "t2_tse_tra"
    assert wait_for(lambda: person.ui.segmentButton.text == READY)
    assert figures(person) == shown and "'T2'" in person.status
    person.ui.inputSelector.setCurrentNode(volume)
    assert person.shows_result() and np.count_nonzero(person.mask()) > 1000


def test_a_segmentation_chosen_for_the_next_run_is_saved_too(person, tmp_path):
    place_result(person)
    person.ui.outputSelector.setCurrentNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Next"))
    assert not person.shows_result()
    load_scene(save_scene(tmp_path / "saved"))
    assert person.result.GetName() == "Next" and not person.shows_result()
    assert person.status == PRESS


def test_after_the_scene_is_closed_the_panel_is_as_at_first(person, segmented):
    choose_everything(person)
    kept = {**choices_of_scene(person), "location": None}
    person.ui.uncertaintyCheckBox.click()
    slicer.mrmlScene.Clear(0)
    assert person.status == LOAD
    assert person.volume is None and person.result is None and not person.shows_result()
    assert not person.ui.segmentButton.enabled and person.ui.inputNoteLabel.isHidden()
    assert person.ui.questionFrame.isHidden() and person.ui.progressBar.isHidden()
    for section in ("review", "correct"):
        assert getattr(person.ui, f"{section}CollapsibleButton").isHidden()
    assert set(figures(person).values()) <= {"", NO_PSA}
    assert choices_of_scene(person) == kept and not person.ui.uncertaintyCheckBox.checked
    volume = load_sample()
    assert wait_for(lambda: person.volume is volume)
    assert person.ui.psaLineEdit.text == "" and not person.shows_result()


def test_another_scene_for_the_widget_breaks_nothing(person):
    other = slicer.vtkMRMLScene()
    person.widget.parent.setMRMLScene(other)
    person.widget.parent.setMRMLScene(None)
    person.widget.parent.setMRMLScene(slicer.mrmlScene)
    volume = new_volume()
    person.ui.inputSelector.setCurrentNode(volume)
    assert person.ui.segmentButton.enabled


# ---- Slicer without a window, or busy with tests


def test_without_views_the_panel_shows_results_all_the_same(scene, warm_worker):
    with a_session(warm_worker, hasLayout=False) as person:
        assert slicer.app.layoutManager() is None and slicer.util.mainWindow() is None
        place_result(person)
        assert person.ui.volumeLabel.text == "0.5 ml" and person.ui.segmentButton.enabled
        person.ui.uncertaintyCheckBox.click()
        person.ui.nextSliceButton.click()
        slicer.mrmlScene.Clear(0)
        assert person.status == LOAD


def test_entering_starts_the_engine_in_the_background_but_not_in_testing_mode(slicer_window, own_worker):
    assert slicer.app.testingEnabled()
    openModule(MODULE_FILE)
    from DDSPSegmentationLib.scene.shared_worker import shared_worker

    assert shared_worker().state == "off"
    slicer.app.testing = False
    enterModule("DDSPSegmentation")
    assert shared_worker().state == "starting" and is_running(shared_worker().processId)


def test_entering_without_torch_starts_and_asks_nothing(slicer_window, own_worker, no_torch):
    slicer.app.testing = False
    person = Person(openModule(MODULE_FILE))
    from DDSPSegmentationLib.scene.shared_worker import shared_worker

    assert shared_worker().state == "off" and person.ui.questionFrame.isHidden()


# ---- the end


def leftovers():
    """What the module left in Slicer's temporary folder."""
    return [path.name for path in Path(slicer.app.temporaryPath).iterdir() if path.name.startswith("DDSPSeg")]


def run_of_its_own(person):
    """A run that an engine of its own works on; returns the process that computes."""
    from DDSPSegmentationLib.scene.shared_worker import shared_worker

    person.ui.biasFieldCheckBox.checked = True  # so that it lasts
    person.start()
    person.wait_for_phase(PREPARING)
    assert len(leftovers()) == 1
    return shared_worker().processId


def test_a_reload_ends_the_run_and_keeps_the_choices(slicer_window, own_worker):
    person = Person(openModule(MODULE_FILE))
    load_sample()
    assert wait_for(lambda: person.ui.segmentButton.enabled)
    person.ui.biasFieldCheckBox.checked = False
    person.segment()
    choose_everything(person)
    assert wait_for(lambda: "threshold" in person.ui.detailsLabel.text)  # the contour follows it
    person.settle()
    shown, choices, user = figures(person), choices_of_scene(person), choices_of_user(person)
    process, old_widget = run_of_its_own(person), person.widget
    scene_ids = {node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLDisplayableNode")}

    old_widget.onReload()
    slicer.app.processEvents()
    assert wait_for(lambda: not is_running(process), seconds=1.0)
    person = Person(slicer.modules.DDSPSegmentationWidget)
    assert person.widget is not old_widget and old_widget.panel is None
    assert len(slicer.util.findChildren(person.widget.parent, name="segmentButton")) == 1  # the old panel is gone
    assert len(leftovers()) == 1  # of the new engine
    assert person.ui.segmentButton.text == READY and person.ui.segmentButton.enabled
    assert figures(person) == shown and choices_of_scene(person) == choices
    assert choices_of_user(person) == (*user[:2], True)
    assert person.shows_result() and person.status.startswith(CHECK)
    assert {node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLDisplayableNode")} == scene_ids

    point = person.ui.locationSelector.currentNode()
    slicer.mrmlScene.RemoveNode(point)  # nothing of the old panel listens any more
    volume = load_sample("T2 later")
    person.ui.inputSelector.setCurrentNode(volume)
    person.ui.modeComboBox.currentIndex = 0
    person.ui.biasFieldCheckBox.checked = False
    assert np.count_nonzero(person.mask(person.segment())) > 1000


@pytest.mark.parametrize("end", ["cleanup", "aboutToQuit"])
def test_the_end_of_slicer_ends_the_engine_and_its_files(slicer_window, own_worker, end):
    person = Person(openModule(MODULE_FILE))
    load_sample()
    assert wait_for(lambda: person.ui.segmentButton.enabled)
    process = run_of_its_own(person)
    if end == "cleanup":
        person.widget.cleanup()
        person.widget.cleanup()  # Slicer may ask twice
    else:
        slicer.app.raiseSignal("aboutToQuit()")
    assert wait_for(lambda: not is_running(process), seconds=1.0)
    assert leftovers() == []
    assert not any(node.GetName().endswith("prostate") for node in slicer.util.getNodesByClass("vtkMRMLNode"))


def test_importing_the_module_imports_nothing_that_takes_long():
    program = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(MODULE_FILE.parent)!r})
        from headless_host import start
        start()
        import slicer
        for name in [name for name in sys.modules if name.startswith("DDSPSegmentationLib")]:
            del sys.modules[name]
        import DDSPSegmentation
        heavy = {{"torch", "pydicom", "scipy", "matplotlib"}}
        print(sorted(heavy & {{name.partition(".")[0] for name in sys.modules}}))
    """)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert said.stdout == "[]\n"


@pytest.mark.parametrize("what", ["input", "output", "location"])
def test_a_chosen_node_that_is_deleted_is_not_replaced_by_its_neighbor(person, what):
    volume, neighbor = load_sample(), load_sample("T1 neighbor")
    person.ui.inputSelector.setCurrentNode(volume)
    drawn = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name) for name in ("Mine", "Other")]
    points = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name) for name in ("P", "Q")]
    person.ui.outputSelector.setCurrentNode(drawn[0])
    person.ui.locationSelector.setCurrentNode(points[0])
    leaving = {"input": volume, "output": drawn[0], "location": points[0]}[what]
    slicer.mrmlScene.RemoveNode(leaving)
    selector = {"input": "inputSelector", "output": "outputSelector", "location": "locationSelector"}[what]
    assert getattr(person.ui, selector).currentNode() is None
    wait_for(lambda: False, 0.1)
    # Only what the panel itself would propose may take the place of a scan.
    assert getattr(person.ui, selector).currentNode() in ([neighbor, None] if what == "input" else [None])


def test_lightbox_views_are_reset_before_anything_is_painted(person, t2):
    view = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    view.SetLayoutGrid(2, 3)
    person.segment()
    assert (view.GetLayoutGridRows(), view.GetLayoutGridColumns()) == (1, 1)


def test_adding_a_scene_that_knows_nothing_of_the_panel_keeps_what_was_chosen(person, tmp_path):
    place_result(person)
    points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "P")
    person.ui.locationSelector.setCurrentNode(points)
    volume, node, shown = person.volume, person.result, figures(person)
    other = slicer.vtkMRMLScene()
    other.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Move")
    other.SetURL(str(tmp_path / "other.mrml"))
    assert other.Commit()
    slicer.mrmlScene.SetURL(str(tmp_path / "other.mrml"))
    assert slicer.mrmlScene.Import()
    slicer.app.processEvents()
    assert slicer.mrmlScene.GetFirstNodeByName("Move") is not None
    assert person.volume is volume and person.result is node and figures(person) == shown
    assert person.ui.locationSelector.currentNode() is points


def test_scans_that_a_crashed_slicer_left_behind_are_deleted(slicer_window):
    from DDSPSegmentationLib.library.folder_lock import FolderLock, lock_holder
    from DDSPSegmentationLib.scene.shared_worker import FOLDER, end_shared_worker, shared_worker

    temporary = Path(slicer.app.temporaryPath)
    crashed, running = temporary / f"{FOLDER}1", temporary / f"{FOLDER}2"
    for folder in (crashed, running, temporary / "DDSPSegmentation-mine"):
        folder.mkdir()
        (folder / "scan.mha").write_bytes(b"voxels")
    with FolderLock(running):
        own = Path(shared_worker().logPath).parent
        assert not crashed.exists() and running.exists() and (temporary / "DDSPSegmentation-mine").exists()
    assert lock_holder(own).process == os.getpid()
    assert own.exists() and own.parent == temporary
    end_shared_worker()
    assert not own.exists()
