"""The panel's section Advanced, and what a click asks when PyTorch is not there."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import slicer
import vtk
from panel_parts import (
    MODULE_FILE,
    READY,
    a_session,
    cut_off,
    load_sample,
    narrow_window,
    node_ids,
    user_settings,
    wait_for,
)
from scene_parts import new_volume
from slicer_stand_in import enterModule, leaveModule
from worker_parts import is_running

from DDSPSegmentationLib.engine.errors import Canceled
from DDSPSegmentationLib.engine.model import describe_model
from DDSPSegmentationLib.engine.run_settings import RunSettings
from DDSPSegmentationLib.scene.result_nodes import facts_of
from DDSPSegmentationLib.scene.torch_installation import find_missing


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


def test_the_tip_of_the_mode_names_every_mode_and_no_other(person):
    combo = person.ui.modeComboBox
    assert all(combo.itemText(number) in combo.toolTip for number in range(combo.count))
    assert "Accurate" not in combo.toolTip and "all networks" in combo.toolTip


def choose(combo, text):
    combo.currentIndex = [combo.itemText(number) for number in range(combo.count)].index(text)


# ---- choices


def test_at_first_a_run_is_fast_on_the_best_device_with_the_built_in_model(person, asked):
    person.ui.biasFieldCheckBox.checked = True
    person.start()
    assert asked[0]["settings"] == RunSettings()
    assert person.ui.modelComboBox.currentText == f"{describe_model().version} (built in)"


def test_choices_reach_the_engine(person, asked):
    choose(person.ui.modeComboBox, "Paper")
    choose(person.ui.deviceComboBox, "CPU")
    person.ui.biasFieldCheckBox.checked = False
    person.ui.thresholdSlider.value = 0.7
    person.start()
    settings = asked[0]["settings"]
    assert (settings.mode, settings.device, settings.bias_field) == ("paper", "cpu", "off")
    assert settings.threshold == pytest.approx(0.7)


def test_choices_of_the_machine_are_kept_in_the_settings_and_not_in_the_scene(person):
    choose(person.ui.modeComboBox, "Paper")
    choose(person.ui.deviceComboBox, "CPU")
    assert {name: value for name, value in user_settings().items() if name.startswith("DDSPSegmentation/")} == {
        "DDSPSegmentation/networkMode": "paper",
        "DDSPSegmentation/device": "cpu",
        "DDSPSegmentation/biasField": "off",
    }
    names = person.widget.logic.getParameterNode().GetParameterNames()
    assert not {"mode", "networkMode", "device", "biasField"} & set(names)


def test_the_fast_mode_of_earlier_versions_does_not_become_one_network_alone(warm_worker):
    """It was their default, and gave what standard gives now."""
    with a_session(warm_worker, {"DDSPSegmentation/mode": "fast"}) as person:
        assert person.ui.modeComboBox.currentData == "standard"
        choose(person.ui.modeComboBox, "Fast")
        settings = user_settings()
    with a_session(warm_worker, settings) as person:
        assert person.ui.modeComboBox.currentData == "fast"


def test_the_engine_works_as_it_was_told(person):
    volume = load_sample()
    assert wait_for(lambda: person.volume is volume)
    low = person.mask(person.segment()).sum()
    facts = facts_of(person.result)
    assert (facts.mode, facts.bias_field, facts.device) == ("standard", "off", "cpu")
    person.ui.thresholdSlider.value = 0.9
    assert person.mask(person.segment()).sum() < low
    assert person.result.GetAttribute("DDSPSegmentation.Threshold") == "0.9"


def test_auto_names_the_device_that_the_engine_found(person, warm_worker):
    warm_worker.start()
    assert wait_for(lambda: warm_worker.hello is not None)
    found = warm_worker.hello["auto"]
    assert wait_for(lambda: person.ui.deviceComboBox.itemText(0) == f"Auto ({found})")
    listed = [person.ui.deviceComboBox.itemData(number) for number in range(person.ui.deviceComboBox.count)]
    assert listed == ["auto", *warm_worker.hello["devices"]]
    choose(person.ui.deviceComboBox, "CPU")
    warm_worker.stop(wait=True)
    slicer.app.processEvents()
    assert person.ui.deviceComboBox.itemText(0) == f"Auto ({found})"
    assert person.ui.deviceComboBox.currentText == "CPU"


def test_smoothing_of_the_surface_leaves_the_contour_alone(person):
    volume = load_sample()
    assert wait_for(lambda: person.volume is volume)
    mask = person.mask(person.segment())
    figures = person.ui.volumeLabel.text

    def points():
        surface = vtk.vtkPolyData()
        person.result.GetClosedSurfaceRepresentation(person.result.GetSegmentation().GetNthSegmentID(0), surface)
        return surface.GetBounds()

    before = points()
    person.ui.smoothingSlider.value = 1.0
    assert wait_for(lambda: points() != before, 5.0)
    assert (person.mask() == mask).all() and person.ui.volumeLabel.text == figures


# ---- test of the installation


@pytest.fixture
def second_slicer(tmp_path, monkeypatch):
    """A program in the place of Slicer's launcher, which notes what it was started with; called with its body."""
    program = tmp_path / "Slicer with spaces"

    def make(body):
        program.write_text(f'#!/bin/sh\nfor argument in "$@"; do printf "%s\\0" "$argument"; done > {tmp_path}/said\n'
                           + body)  # fmt: skip
        program.chmod(0o755)
        monkeypatch.setattr(slicer.app, "launcherExecutableFilePath", str(program))
        return lambda: (tmp_path / "said").read_text().split("\0")[:-1]

    return make


def run_test(person):
    person.ui.advancedCollapsibleButton.collapsed = False
    person.ui.testButton.click()
    assert not person.ui.testButton.enabled and "running" in person.ui.testButton.toolTip
    assert person.ui.testLabel.text.startswith("Testing in a second Slicer")
    assert wait_for(lambda: person.ui.testButton.enabled)
    assert "your scene is not touched" in person.ui.testButton.toolTip
    assert not person.ui.testLabel.isHidden()
    return person.ui.testLabel.text


def test_the_installation_is_tested_in_a_second_slicer(person, second_slicer):
    arguments = second_slicer("echo 'DDSP Segmentation: passed'\n")
    new_volume()
    before = node_ids()
    assert run_test(person) == "The installation works: the bundled scan was segmented and checked."
    assert node_ids() == before
    *options, code = arguments()
    assert options == ["--no-splash", "--no-main-window", "--testing", "--additional-module-path",
                       str(MODULE_FILE.parent), "--python-code"]  # fmt: skip
    assert 'slicer.selfTests["DDSPSegmentation"]()' in code and "slicer.util.exit(status)" in code
    compile(code, "self test", "exec")


@pytest.mark.parametrize(
    "body, reason",
    [
        ("echo 'AssertionError: 3 ml'; echo 'DDSP Segmentation: passed'; exit 1\n", "AssertionError: 3 ml "),
        ("kill -9 $$\n", ""),
    ],
)
def test_a_test_that_fails_says_why(person, second_slicer, warm_worker, body, reason):
    second_slicer(body)
    text = run_test(person)
    assert text == f"The test failed. {reason}Press Show Log for details."
    assert "Test of the installation:" in warm_worker.logPath.read_text()


def test_a_second_slicer_without_pytorch_says_so(person, second_slicer):
    second_slicer("exit 3\n")
    assert run_test(person).startswith("PyTorch is missing, so nothing was segmented.")


def test_a_second_slicer_that_does_not_start_is_named(person, monkeypatch):
    monkeypatch.setattr(slicer.app, "launcherExecutableFilePath", "")  # as on a Mac
    monkeypatch.setattr(slicer.app, "applicationFilePath", lambda: "/nowhere/Slicer", raising=False)
    person.ui.testButton.click()
    assert wait_for(lambda: person.ui.testButton.enabled)
    assert person.ui.testLabel.text == "The second Slicer did not start (/nowhere/Slicer)."


def test_a_test_under_way_ends_with_the_panel(person, second_slicer, tmp_path):
    second_slicer(f"echo $$ > {tmp_path}/pid\nexec sleep 60\n")
    person.ui.testButton.click()
    assert wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    process = int((tmp_path / "pid").read_text())
    assert is_running(process)
    person.widget.cleanup()
    assert wait_for(lambda: not is_running(process), 5.0)


# ---- batch and log


def test_the_batch_command_names_a_script_that_exists(person, second_slicer):
    second_slicer("")
    person.ui.batchButton.click()
    program, options, script, rest, scans, *more = slicer.app.clipboard().text().split('"')[1:]
    assert program == slicer.app.launcherExecutableFilePath and Path(script).is_file()
    assert options == " --no-splash --no-main-window --python-script " and rest == " -- "
    assert person.status == "The command is in the clipboard; replace SCANS and RESULTS with your folders."


def test_the_log_is_shown_at_its_end(person, warm_worker):
    person.ui.logButton.click()
    window = person.panel.advanced._logWindow
    assert window.isVisible() and window.readOnly
    with open(warm_worker.logPath, "a") as log:
        log.writelines(f"line {number}\n" for number in range(5000))
    person.ui.logButton.click()
    lines = window.plainText.splitlines()
    assert lines[-1] == "line 4999" and len(lines) <= 2000
    bar = window.verticalScrollBar()
    assert bar.maximum > 1000 and bar.value >= bar.maximum - 1


# ---- PyTorch

INSTALLER = """
calls = []
def done(): pass
outcome = done

class PyTorchUtilsLogic:
    def installTorch(self, askConfirmation=False, forceComputationBackend=None, torchVersionRequirement=None):
        calls.append((askConfirmation, torchVersionRequirement))
        outcome()
"""


@pytest.fixture
def installer(monkeypatch, request):
    """Slicer's extension PyTorch, and no PyTorch; a test says what an installation does."""
    module = ModuleType("PyTorchUtils")
    exec(INSTALLER, module.__dict__)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", module)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    request.getfixturevalue("no_torch")
    return module


@pytest.fixture
def ended(monkeypatch):
    """How often the engine was ended; it keeps running for the other tests."""
    calls = []
    monkeypatch.setattr("DDSPSegmentationLib.scene.panel.segment_section.end_shared_worker", lambda: calls.append(1))
    return calls


@pytest.fixture
def torch_question(person, installer):
    """The question that a click leads to."""
    person.ui.inputSelector.setCurrentNode(new_volume())
    assert person.ui.questionFrame.isHidden()
    person.ui.segmentButton.click()
    assert not person.ui.questionFrame.isHidden()
    return person.ui.questionLabel.text


def test_without_torch_a_click_asks_with_size_and_minutes(person, torch_question, installer):
    assert torch_question == find_missing().question and "minutes" in person.ui.questionDetailsLabel.text
    assert (person.ui.firstAnswerButton.text, person.ui.secondAnswerButton.text) == (find_missing().accept, "Not Now")
    assert person.ui.thirdAnswerButton.isHidden() and installer.calls == []
    assert person.status == "Answer the question above to continue."
    assert person.ui.segmentButton.text == READY
    with narrow_window(person) as panel:
        assert cut_off(panel) == []


def test_yes_installs_once_and_says_the_next_step(person, torch_question, installer, ended, monkeypatch):
    def outcome():
        assert not person.ui.segmentButton.enabled and "being installed" in person.ui.segmentButton.toolTip
        assert person.status.startswith("Installing. Slicer hardly responds") and ended == [1]
        installed = importlib.metadata.version
        monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.5.1" if name == "torch" else installed(name))

    installer.outcome = outcome
    person.ui.firstAnswerButton.click()
    assert installer.calls == [(False, ">=2.4")]
    assert "2.5.1" in person.status
    assert person.ui.questionFrame.isHidden() and person.ui.segmentButton.enabled


def test_no_says_what_then(person, torch_question, installer):
    person.ui.secondAnswerButton.click()
    assert person.status == find_missing().refused
    assert installer.calls == [] and person.ui.questionFrame.isHidden()
    person.ui.segmentButton.click()
    assert not person.ui.questionFrame.isHidden()


def test_an_installation_that_fails_gives_one_message(person, torch_question, installer, ended):
    def outcome():
        raise subprocess.CalledProcessError(1, "pip")

    installer.outcome = outcome
    person.ui.firstAnswerButton.click()
    assert "HTTPS_PROXY" in person.status
    assert person.ui.segmentButton.enabled and person.ui.segmentButton.text == READY
    assert len(installer.calls) == 1 and person.ui.questionFrame.isHidden()


def test_entering_asks_nothing(person, installer):
    leaveModule("DDSPSegmentation")
    enterModule("DDSPSegmentation")
    assert person.ui.questionFrame.isHidden() and installer.calls == []


def test_after_an_installation_the_panel_hears_of_the_devices_that_the_new_engine_finds(person, monkeypatch):
    from DDSPSegmentationLib.scene import shared_worker, worker_client

    monkeypatch.setattr(shared_worker, "_worker", None)  # as an installation leaves it
    requests = []
    monkeypatch.setattr(
        worker_client.WorkerClient, "submit", lambda client, image, settings, **told: requests.append((client, told))
    )
    person.ui.inputSelector.setCurrentNode(new_volume())
    person.start()
    client, told = requests[0]
    monkeypatch.setattr(client, "hello", {"auto": "cuda", "devices": ["cuda", "cpu"]})
    client.onStateChanged()
    assert person.ui.deviceComboBox.itemText(0) == "Auto (cuda)"
    told["onError"](Canceled())
    shared_worker.end_shared_worker()
