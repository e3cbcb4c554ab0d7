"""The file Slicer loads: what importing it does, what it tells Slicer, and how its panel behaves."""

import ast
import hashlib
import importlib.metadata
import sys
import types
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import slicer
from scene_parts import ThresholdRunner, new_volume

from DDSPSegmentationLib.engine.errors import InputError, TorchMissingError

MODULE = Path(__file__).resolve().parents[2] / "DDSPSegmentation"
pytestmark = pytest.mark.usefixtures("scene")


@pytest.fixture
def module(scene):
    import DDSPSegmentation

    return DDSPSegmentation


class Signals:
    """Slicer's application as far as a module constructor asks for it."""

    def __init__(self):
        self.connected = {}

    def connect(self, signal, slot):
        self.connected[signal] = slot

    def layoutManager(self):
        return None

    def processEvents(self, flags=None):
        self.processed = flags


@pytest.fixture
def application(monkeypatch):
    application = Signals()
    monkeypatch.setattr(slicer, "app", application, raising=False)
    return application


def test_slicer_finds_the_four_classes(module):
    bases = {"": "Module", "Widget": "ModuleWidget", "Logic": "ModuleLogic", "Test": "ModuleTest"}
    for suffix, base in bases.items():
        names = [parent.__name__ for parent in getattr(module, f"DDSPSegmentation{suffix}").__mro__]
        assert f"ScriptedLoadable{base}" in names


def test_module_says_what_it_is_for(module, application):
    parent = types.SimpleNamespace()
    module.DDSPSegmentation(parent)
    assert parent.title == "DDSP Segmentation" and parent.categories == ["Segmentation"]
    assert "Research use only. Not a medical device." in parent.helpText
    assert "Liu" in parent.helpText and "PROMISE12" in parent.acknowledgementText


def test_sample_is_registered_only_after_startup(module, application, monkeypatch):
    registered = []
    sample_data = types.ModuleType("SampleData")
    sample_data.SampleDataLogic = types.SimpleNamespace(
        registerCustomSampleDataSource=lambda **source: registered.append(source)
    )
    monkeypatch.setitem(sys.modules, "SampleData", sample_data)
    module.DDSPSegmentation(types.SimpleNamespace())
    assert registered == []
    application.connected["startupCompleted()"]()
    (source,) = registered
    path = MODULE / "Resources" / "SampleData" / source["fileNames"]
    assert source["uris"] == path.as_uri()
    assert source["checksums"] == "SHA256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert source["nodeNames"] == "ProstateX-0000" and source["category"] == "Segmentation"


@pytest.fixture
def no_torch(monkeypatch):
    installed = importlib.metadata.version

    def version(name):
        if name == "torch":
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_installed_torch_is_found(module):
    assert module.DDSPSegmentationLogic().missingTorch() == ""


def test_segmenting_without_torch_says_how_to_install_it_and_changes_nothing(module, no_torch):
    volume = new_volume()
    count = slicer.mrmlScene.GetNumberOfNodes()
    with pytest.raises(TorchMissingError, match="PyTorch is not installed.*install the extension 'PyTorch'"):
        module.DDSPSegmentationLogic().segmentProstate(volume)
    assert slicer.mrmlScene.GetNumberOfNodes() == count


def test_every_widget_the_code_names_is_in_the_ui_file():
    root = ElementTree.parse(MODULE / "Resources" / "UI" / "DDSPSegmentation.ui").getroot()
    there = {widget.get("name") for widget in root.iter("widget")}
    tree = ast.parse((MODULE / "DDSPSegmentation.py").read_text(encoding="utf-8"))
    named = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Attribute | ast.Name)
        and getattr(node.value, "attr", getattr(node.value, "id", "")) == "ui"
    }
    assert named <= there and "segmentButton" in named


def test_node_selector_follows_the_scene_of_the_panel():
    root = ElementTree.parse(MODULE / "Resources" / "UI" / "DDSPSegmentation.ui").getroot()
    (connection,) = root.iter("connection")
    assert [part.text for part in connection] == [
        "DDSPSegmentation", "mrmlSceneChanged(vtkMRMLScene*)", "inputSelector", "setMRMLScene(vtkMRMLScene*)"
    ]


# ---- the panel: its own code on plain objects in place of Qt's


class Selector:
    def __init__(self):
        self.node = None

    def currentNode(self):
        return self.node


@pytest.fixture
def panel(module, application, monkeypatch):
    panel = module.DDSPSegmentationWidget.__new__(module.DDSPSegmentationWidget)
    panel._running = False
    panel.logic = module.DDSPSegmentationLogic()
    panel.logic._inProcessRunner = ThresholdRunner()
    label = types.SimpleNamespace
    panel.ui = types.SimpleNamespace(
        inputSelector=Selector(),
        segmentButton=types.SimpleNamespace(enabled=None, toolTip=""),
        statusLabel=label(text=""),
        resultLabel=label(text=""),
    )
    qt = types.ModuleType("qt")
    qt.QEventLoop = types.SimpleNamespace(ExcludeUserInputEvents="no clicks")
    monkeypatch.setitem(sys.modules, "qt", qt)
    return panel


def test_button_says_why_it_is_disabled(panel):
    panel.onInputChanged()
    assert panel.ui.segmentButton.enabled is False
    assert panel.ui.segmentButton.toolTip == panel.ui.statusLabel.text == "Load an axial T2 volume and choose it here."


def test_button_is_enabled_by_a_volume(panel):
    panel.ui.inputSelector.node = new_volume()
    panel.onInputChanged()
    assert panel.ui.segmentButton.enabled is True and panel.ui.statusLabel.text == "Press Segment Prostate."


def test_missing_torch_is_said_before_the_click(panel, no_torch):
    panel.ui.inputSelector.node = new_volume()
    panel.onInputChanged()
    assert panel.ui.segmentButton.enabled is False
    assert "install the extension 'PyTorch'" in panel.ui.segmentButton.toolTip


def test_coming_back_to_the_panel_finds_torch_installed_meanwhile_and_keeps_a_result(panel, no_torch, monkeypatch):
    panel.ui.inputSelector.node = new_volume()
    panel.onInputChanged()
    monkeypatch.undo()
    panel.enter()
    assert panel.ui.segmentButton.enabled is True and panel.ui.statusLabel.text == "Press Segment Prostate."
    panel.ui.resultLabel.text = "Volume 40.0 ml"
    panel.enter()
    assert panel.ui.resultLabel.text == "Volume 40.0 ml"


def test_click_shows_volume_dice_warnings_and_the_next_step(panel, application):
    panel.ui.inputSelector.node = new_volume()
    panel.onSegment(False)
    assert panel.ui.resultLabel.text == "Volume 0.5 ml, expected Dice 0.90. Gland touches the edge."
    assert "Check the contour slice by slice" in panel.ui.statusLabel.text
    assert panel.ui.segmentButton.enabled is True and application.processed == "no clicks"


def test_click_while_running_does_nothing(panel):
    panel.ui.inputSelector.node = new_volume()
    runner = panel.logic._inProcessRunner
    seen = []

    class ClickingRunner(ThresholdRunner):
        def segment(self, image, **asked):
            panel.onSegment(False)
            panel.onInputChanged()
            seen.append((panel.ui.segmentButton.enabled, panel.ui.segmentButton.toolTip))
            return runner.segment(image, **asked)

    panel.logic._inProcessRunner = ClickingRunner()
    panel.onSegment(False)
    assert seen == [(False, "A scan is being segmented.")]
    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 1


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (InputError("Volume 'T2' has 1 slice.", "Load a 3D scan."), "Volume 'T2' has 1 slice. Load a 3D scan."),
        (ValueError("odd"), "Unexpected error: odd. The application log has the details."),
    ],
)
def test_error_is_one_line_and_the_button_works_again(panel, failure, status):
    class FailingRunner:
        def segment(self, image, **asked):
            raise failure

    panel.ui.inputSelector.node = new_volume()
    panel.logic._inProcessRunner = FailingRunner()
    panel.onSegment(False)
    assert (panel.ui.statusLabel.text, panel.ui.resultLabel.text) == (status, "")
    assert panel.ui.segmentButton.enabled is True


def test_reload_forgets_the_library_so_that_it_is_read_again(panel, monkeypatch):
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    panel.onReload()
    assert not [name for name in sys.modules if name.split(".")[0] == "DDSPSegmentationLib"]
    assert "DDSPSegmentation" in sys.modules
