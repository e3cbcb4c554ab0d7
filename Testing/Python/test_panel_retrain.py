"""The section Learn > Retrain as a person uses it: what it will do, the run, its curve, what survives it."""

import re
import subprocess
import sys

import pytest
import slicer
from panel_parts import MODULE_FILE, READY, Person, a_session, cut_off, focused, narrow_window, save_scene, wait_for
from retraining_client_parts import (
    furnish,
    is_training,
    let_python_slicer_retrain,
    make_stored,
    run_folders,
    the_run,
    trains,
)
from retraining_parts import PARENT, QUICK_PYTHON, another_at_work, tuned_versions
from scene_parts import new_volume
from slicer_stand_in import dialogs, enterModule, leaveModule
from worker_parts import is_running, wait_until

from DDSPSegmentationLib.engine.errors import Canceled
from DDSPSegmentationLib.learning.comparison_words import too_few_patients
from DDSPSegmentationLib.library.case_library import TRAINING, CaseLibrary
from DDSPSegmentationLib.library.model_registry import ModelRegistry
from DDSPSegmentationLib.scene.learning_curve import LearningCurve
from DDSPSegmentationLib.service.processes import kill_process
from DDSPSegmentationLib.service.retraining import make_job
from DDSPSegmentationLib.service.retraining_status import FAILED, INTERRUPTED, PAUSED, RUNNING, StatusWriter

PATIENCE_SECONDS = 300  # a busy machine gives little to a process that makes way for all others
SLOW = "1.0"  # seconds a step
START = "Start Retraining"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return make_stored(tmp_path_factory.mktemp("stored"))


@pytest.fixture
def folders(slicer_window, home, stored, monkeypatch):
    """Cases and models of the user; the panel is opened after them."""
    let_python_slicer_retrain()
    return furnish(home, stored, monkeypatch)


@pytest.fixture
def person(folders, person):
    person.open_learn()
    yield person
    if person.panel is not None:
        person.panel.learn.retrain._client.cancel(wait=True)


def start(person):
    assert person.ui.retrainButton.text == START and person.ui.retrainButton.enabled, person.ui.retrainButton.toolTip
    person.ui.retrainButton.click()
    assert person.ui.retrainButton.text == "Cancel", person.status


def start_and_train(person, folders, monkeypatch):
    """A run that takes its time, seen by the panel."""
    monkeypatch.setenv("STEP_SECONDS", SLOW)
    start(person)
    assert wait_for(lambda: trains(folders[1]), PATIENCE_SECONDS), person.ui.retrainStatusLabel.text
    assert wait_for(lambda: "left out in turn, 1 of 1" in person.ui.retrainStatusLabel.text)
    return the_run(folders[1])


def charts():
    return slicer.util.getNodesByClass("vtkMRMLPlotChartNode")


def rows_of(chart):
    """Number of points of each line."""
    lines = [chart.GetNthPlotSeriesNode(number) for number in range(chart.GetNumberOfPlotSeriesNodes())]
    return {line.GetName(): line.GetTableNode().GetTable().GetNumberOfRows() for line in lines}


# ---- before it starts


def test_it_says_what_it_will_do(person):
    text = person.ui.retrainLabel.text.splitlines()[0]
    assert re.fullmatch(
        rf"Trains on 5 cases of 5 patients, starting from {PARENT}; 1 patient is kept for checking\. "
        r"(About \d+ minutes?|Less than a minute) on this computer\.", text,
    ), text  # fmt: skip
    assert too_few_patients(1) in person.ui.retrainLabel.text
    assert person.ui.retrainButton.enabled and person.ui.retrainButton.text == START
    assert person.ui.retrainProgressBar.isHidden() and person.ui.resumeRunButton.isHidden()
    assert not person.ui.curveButton.enabled and "first steps" in person.ui.curveButton.toolTip


def test_no_text_of_learn_has_a_word_of_statisticians(person):
    import qt

    ui, texts = person.ui, []
    for table in (ui.casesTable, ui.modelsTable):
        cells = [table.item(row, column) for row in range(table.rowCount) for column in range(table.columnCount)]
        titles = [table.horizontalHeaderItem(column) for column in range(table.columnCount)]
        texts += [item.text() for item in [*titles, *cells]]
    for kind in (qt.QLabel, qt.QPushButton):
        texts += [widget.text for widget in ui.learnCollapsibleButton.findChildren(kind)]
    assert len("".join(texts)) > 200
    found = re.findall(
        "hold-?out|held out|split|drift|dice before|leave-one|cross-validation", "\n".join(texts).lower()
    )
    assert found == []
    assert "hold-out" in ui.retrainLabel.toolTip


def test_a_gray_button_says_that_cases_are_missing_and_wakes_up_with_them(person, folders):
    library = CaseLibrary(folders[0])
    case = next(case for case in library.cases() if case.split == TRAINING)
    library.delete(case.id)
    person.panel.learn.refresh()
    assert not person.ui.retrainButton.enabled
    assert "4 training cases; retraining needs 5" in person.ui.retrainButton.toolTip
    assert "4 training cases; retraining needs 5" in person.ui.retrainLabel.text
    library.restore(case.id)
    person.panel.learn.refresh()
    assert person.ui.retrainButton.enabled


def test_a_gray_button_says_that_pytorch_is_missing(person, no_torch):
    person.panel.learn.refresh()
    assert not person.ui.retrainButton.enabled and "PyTorch" in person.ui.retrainButton.toolTip


def test_a_run_of_another_slicer_is_named(person, folders):
    folder = make_job(*folders)
    with another_at_work(folder):
        person.panel.learn.refresh()
        assert not person.ui.retrainButton.enabled and "Another Slicer" in person.ui.retrainButton.toolTip
        assert "Another Slicer" in person.ui.retrainStatusLabel.text
        assert person.ui.resumeRunButton.isHidden() and person.ui.discardRunButton.isHidden()


def test_a_replay_folder_is_remembered_for_every_session_and_can_be_left_out_again(person, tmp_path):
    from learning_parts import write_images_and_labels

    write_images_and_labels(tmp_path / "old", ["a", "b", "c"])
    assert person.ui.replayFolderLabel.text == "none"
    dialogs.planned.append(str(tmp_path / "old"))
    person.ui.replayFolderButton.click()
    assert person.ui.replayFolderLabel.text == str(tmp_path / "old")
    assert slicer.app.userSettings().value("DDSPSegmentation/replayFolder") == str(tmp_path / "old")
    assert "No replay folder" not in person.ui.retrainLabel.text
    person.ui.replayFolderButton.click()
    assert person.ui.replayFolderLabel.text == "none" and "No replay folder" in person.ui.retrainLabel.text
    dialogs.planned.append("")
    person.ui.replayFolderButton.click()
    assert person.ui.replayFolderLabel.text == "none"


def test_everything_fits_into_a_narrow_panel(person, folders):
    make_job(*folders)  # never begun
    person.panel.learn.enter()
    with narrow_window(person) as panel:
        assert not person.ui.resumeRunButton.isHidden() and cut_off(panel) == []


# ---- the run


def test_from_the_click_to_the_candidate(person, folders, monkeypatch):
    """A real retraining: progress and time left, the live curve, the verdict, the new version."""
    let_python_slicer_retrain(QUICK_PYTHON)
    start(person)
    assert person.status == "Retraining. You can go on working; it yields to you."
    assert not person.ui.replayFolderButton.enabled
    assert wait_for(lambda: person.ui.curveButton.enabled, PATIENCE_SECONDS)
    texts, values = set(), []
    layout = slicer.app.layoutManager().layout
    person.ui.curveButton.click()
    assert person.ui.curveButton.text == "Hide Curve" and slicer.app.layoutManager().plotViewCount == 1
    (chart,) = charts()
    assert slicer.app.layoutManager().plotWidget(0).mrmlPlotViewNode().GetPlotChartNode() is chart
    before = rows_of(chart)["Loss"]

    def over():
        texts.add(person.ui.retrainStatusLabel.text)
        if not person.ui.retrainProgressBar.isHidden():
            values.append(person.ui.retrainProgressBar.value)
        return person.ui.retrainButton.text == START

    assert wait_for(over, PATIENCE_SECONDS), person.status
    assert any(re.search(r" minutes? left\.", text) for text in texts), texts
    assert values == sorted(values) and max(values) > 30
    loss, dice = rows_of(chart).values()
    assert loss > before and dice > 1
    assert chart.GetXAxisRange()[1] >= loss and chart.GetYAxisRange()[1] >= 1
    (version,) = tuned_versions(ModelRegistry(folders[1]))
    assert person.status.startswith(f"{version.name} is a candidate and does not segment yet. ")
    assert version.comparison["sentences"][0] in person.status
    assert person.ui.retrainStatusLabel.text == person.status
    assert person.ui.retrainProgressBar.isHidden() and person.ui.retrainButton.enabled
    table = person.ui.modelsTable
    assert table.item(table.currentRow(), 0).text() == f"{version.name}\ncandidate"
    assert ModelRegistry(folders[1]).active().name == PARENT and run_folders(folders[1]) == []
    person.ui.curveButton.click()
    assert charts() == [] and slicer.app.layoutManager().layout == layout
    assert person.ui.curveButton.text == "Show Curve" and person.ui.curveButton.enabled


def test_the_curve_has_a_line_for_each_of_its_figures_and_grows_with_them(slicer_window):
    curve = LearningCurve()
    curve.update([(1, 0.9, None)])
    assert charts() == []
    curve.show([(1, 0.9, None)])
    (chart,) = charts()
    assert rows_of(chart) == {"Loss": 0, "Dice of patients left out": 0}  # one point is no line
    modified = []
    chart.AddObserver("ModifiedEvent", lambda caller, event: modified.append(event))
    points = [(1, 0.9, None), (5, 1.5, 0.7), (10, 0.4, 0.8)]
    curve.update(points)
    assert rows_of(chart) == {"Loss": 3, "Dice of patients left out": 2} and modified
    assert chart.GetXAxisRange() == (0, 10) and chart.GetYAxisRange() == (0, 1.5)
    chart.SetXAxisRange(2, 4)  # a person looks closer
    curve.update(points)
    assert chart.GetXAxisRange() == (2, 4)
    line = chart.GetNthPlotSeriesNode(1)
    assert line.GetTableNode().GetTable().GetColumnByName(line.GetYColumnName()).GetValue(1) == 0.8
    assert all(node.GetHideFromEditors() and not node.GetSaveWithScene() for node in (line, line.GetTableNode()))
    assert not chart.GetSaveWithScene()
    before = len(slicer.util.getNodesByClass("vtkMRMLTableNode"))
    curve.hide()
    assert charts() == [] and len(slicer.util.getNodesByClass("vtkMRMLTableNode")) == before - 2
    curve.hide()


def test_canceling_ends_the_process_and_makes_no_version(person, folders, monkeypatch):
    pid = start_and_train(person, folders, monkeypatch).pid
    person.ui.retrainButton.click()
    assert wait_for(lambda: person.ui.retrainButton.text == START and person.ui.retrainButton.enabled)
    assert not is_running(pid) and run_folders(folders[1]) == []
    assert person.status == person.ui.retrainStatusLabel.text == "Canceled; no version was made."
    assert person.ui.resumeRunButton.isHidden() and tuned_versions(ModelRegistry(folders[1])) == []


def test_it_pauses_while_a_scan_is_segmented(person, folders, monkeypatch, warm_worker):
    start_and_train(person, folders, monkeypatch)
    requests = []
    monkeypatch.setattr(warm_worker, "submit", lambda image, settings, **told: requests.append(told))
    person.ui.inputSelector.setCurrentNode(new_volume())
    person.start()
    assert wait_for(lambda: person.ui.retrainStatusLabel.text == "Paused while a scan is segmented.")
    assert the_run(folders[1]).state == PAUSED
    requests[0]["onError"](Canceled())
    assert person.ui.segmentButton.text == READY
    assert wait_for(lambda: "left out in turn, 1 of 1" in person.ui.retrainStatusLabel.text)
    assert the_run(folders[1]).state == RUNNING


def test_nothing_in_slicer_disturbs_it(same_package, person, folders, monkeypatch, tmp_path):
    """Another module, a saved and a closed scene, a reload: the same process goes on, and so does its curve."""
    pid = start_and_train(person, folders, monkeypatch).pid
    assert wait_for(lambda: person.ui.curveButton.enabled)
    person.ui.curveButton.click()
    assert "PlotSeries" not in save_scene(tmp_path / "saved").read_text()
    leaveModule("DDSPSegmentation")
    slicer.mrmlScene.Clear(0)
    assert charts() == []
    enterModule("DDSPSegmentation")
    assert person.ui.curveButton.text == "Show Curve" and person.ui.curveButton.enabled
    person.ui.curveButton.click()
    person.widget.onReload()
    person = Person(slicer.modules.DDSPSegmentationWidget)
    person.open_learn()
    assert person.ui.retrainButton.text == "Cancel" and person.ui.curveButton.text == "Hide Curve"
    assert the_run(folders[1]).pid == pid and is_running(pid)
    points = rows_of(charts()[0])["Loss"]
    assert wait_for(lambda: rows_of(charts()[0])["Loss"] > points)
    person.ui.retrainButton.click()
    assert wait_for(lambda: person.ui.retrainButton.text == START and not is_running(pid))


# ---- what was interrupted


def test_a_process_that_is_killed_is_told_and_resumed_at_a_click(person, folders, monkeypatch):
    run = start_and_train(person, folders, monkeypatch)
    kill_process(run.pid)
    assert wait_for(lambda: person.ui.retrainButton.text == START)
    assert person.status == "The retraining ended unexpectedly; Resume goes on where it was."
    assert not person.ui.retrainButton.enabled and "first" in person.ui.retrainButton.toolTip
    person.ui.resumeRunButton.click()
    assert person.ui.retrainButton.text == "Cancel" and person.ui.resumeRunButton.isHidden()
    assert wait_for(lambda: is_training(the_run(folders[1])) and the_run(folders[1]).pid != run.pid)


def test_a_run_that_a_closed_slicer_left_is_offered_by_itself(scene, warm_worker, home, stored, monkeypatch):
    cases, models = furnish(home, stored, monkeypatch)
    folder = make_job(cases, models)
    StatusWriter(folder).end(INTERRUPTED)
    with a_session(warm_worker) as person:
        ui = person.ui
        assert not ui.learnCollapsibleButton.collapsed
        assert not ui.resumeRunButton.isHidden() and not ui.discardRunButton.isHidden()
        assert re.fullmatch(r"The retraining of \S+ \S+ was interrupted at 0 %\.", ui.retrainStatusLabel.text)
        assert person.status == "A retraining was interrupted. Resume or discard it under Learn."
        ui.discardRunButton.setFocus()
        ui.discardRunButton.click()
        assert focused(person) == "learnCollapsibleButton"
        assert run_folders(models) == [] and ui.resumeRunButton.isHidden() and ui.discardRunButton.isHidden()
        assert ui.retrainButton.enabled and ui.retrainStatusLabel.text == ""
        assert "was discarded" in person.status


def test_what_can_be_resumed_is_scrolled_to(scene, warm_worker, home, stored, monkeypatch):
    cases, models = furnish(home, stored, monkeypatch)
    StatusWriter(make_job(cases, models)).end(INTERRUPTED)
    with a_session(warm_worker) as person:
        slicer.util.mainWindow().resize(1000, 400)
        slicer.util.mainWindow().show()
        resume = person.ui.resumeRunButton
        assert wait_for(lambda: not resume.visibleRegion().isEmpty(), 2)
        assert resume.visibleRegion().boundingRect().height() == resume.height


def test_a_retraining_that_helps_nobody_ends_well_and_says_so(person, folders, monkeypatch):
    monkeypatch.setenv("HELPS_NOBODY", "1")
    monkeypatch.setenv("STEP_SECONDS", "0")
    before = [version.name for version in ModelRegistry(folders[1]).versions()]
    start(person)
    told = "Training does not help yet. The old version stays."
    assert wait_for(lambda: person.ui.retrainStatusLabel.text == told, PATIENCE_SECONDS), person.status
    assert person.status == told and person.ui.retrainButton.text == START and person.ui.retrainButton.enabled
    assert person.ui.resumeRunButton.isHidden() and not run_folders(folders[1])
    assert [version.name for version in ModelRegistry(folders[1]).versions()] == before


def test_a_run_that_failed_says_why_and_can_be_resumed_or_discarded(person, folders):
    folder = make_job(*folders)
    StatusWriter(folder).end(FAILED, message="No room.", next_step="Make some.")
    person.panel.learn.enter()
    assert person.ui.retrainStatusLabel.text == "No room. Make some."
    assert not person.ui.resumeRunButton.isHidden() and not person.ui.retrainButton.enabled


def test_a_slicer_that_ends_leaves_no_process_behind(home, stored, tmp_path):
    """A real process in the place of Slicer: it starts a retraining in its window and is killed."""
    program = f"""
import sys, time
sys.path[:0] = {[str(MODULE_FILE.parent), str(MODULE_FILE.parents[1] / "Testing" / "Python")]!r}
from headless_host import start
from slicer_stand_in import install, window
with window(start()):
    import pytest
    from retraining_client_parts import furnish, let_python_slicer_retrain, the_run, trains
    from pathlib import Path
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEP_SECONDS", {SLOW!r})
        let_python_slicer_retrain()
        folders = furnish(Path({str(home)!r}), Path({str(stored)!r}), patch)
        from DDSPSegmentationLib.scene.retraining_client import RetrainingClient
        RetrainingClient().start(*folders, "", "cpu")
        while not trains(folders[1]):
            time.sleep(0.1)
        print(the_run(folders[1]).pid, flush=True)
        time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        pid = int(process.stdout.readline())
        assert is_running(pid)
    finally:
        process.kill()
        process.communicate()
    assert wait_until(lambda: not is_running(pid), 5)
    assert the_run(home / "DDSPSegmentation" / "Models").state == INTERRUPTED
