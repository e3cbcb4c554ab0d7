"""The file Slicer loads: what importing it does, what it tells Slicer, and how its panel behaves."""

import ast
import hashlib
import re
import sys
import types
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import slicer
from scene_parts import new_volume

from DDSPSegmentationLib.engine.errors import TorchMissingError
from DDSPSegmentationLib.service.runner import INSTALL_TORCH

MODULE = Path(__file__).resolve().parents[2] / "DDSPSegmentation"
UI_FILE = MODULE / "Resources" / "UI" / "DDSPSegmentation.ui"
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


def test_installed_torch_is_found(module):
    assert module.DDSPSegmentationLogic().missingTorch() == ""


def test_segmenting_without_torch_says_how_to_install_it_and_changes_nothing(module, no_torch):
    volume = new_volume()
    count = slicer.mrmlScene.GetNumberOfNodes()
    with pytest.raises(TorchMissingError, match=re.escape(INSTALL_TORCH)):
        module.DDSPSegmentationLogic().segmentProstate(volume)
    assert slicer.mrmlScene.GetNumberOfNodes() == count


def named_widgets() -> set[str]:
    """Every name that the panel's code asks of ``ui``."""
    names = set()
    for path in (MODULE / "DDSPSegmentationLib" / "scene" / "panel").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute | ast.Name):
                owner = node.value.attr if isinstance(node.value, ast.Attribute) else node.value.id
                if owner == "ui":
                    names.add(node.attr)
    return names


def test_code_and_ui_file_know_the_same_widgets():
    root = ElementTree.parse(UI_FILE).getroot()
    there = {widget.get("name") for widget in root.iter("widget")}
    assert named_widgets() <= there and "segmentButton" in named_widgets()
    by_parameter = {
        widget.get("name")
        for widget in root.iter("widget")
        if any(part.get("name") == "SlicerParameterName" for part in widget.findall("property"))
    }
    active = ("Button", "CheckBox", "ComboBox", "Slider", "SpinBox", "Selector")
    unused = {
        name for name in there - named_widgets() - by_parameter if name.endswith(active) and "Collapsible" not in name
    }
    assert unused == set()


def test_every_widget_that_takes_the_keyboard_is_in_the_tab_order():
    root = ElementTree.parse(UI_FILE).getroot()
    kinds = {"QPushButton", "QCheckBox", "QComboBox", "QDoubleSpinBox", "ctkSliderWidget", "qMRMLNodeComboBox"}
    kinds |= {"QLineEdit", "QTableWidget", "QToolButton"}
    by_mouse = {"Qt::ClickFocus", "Qt::NoFocus"}
    in_order = [
        widget.get("name")
        for widget in root.iter("widget")
        if widget.get("class") in kinds and widget.findtext("property[@name='focusPolicy']/enum", "") not in by_mouse
    ]
    assert [stop.text for stop in root.iter("tabstop")] == in_order


def test_colors_are_left_to_the_desktop_so_that_dark_mode_works():
    text = UI_FILE.read_text(encoding="utf-8")
    assert "styleSheet" not in text and "palette" not in text


def test_node_selectors_follow_the_scene_of_the_panel():
    root = ElementTree.parse(UI_FILE).getroot()
    connected = [[part.text for part in connection] for connection in root.iter("connection")]
    selectors = [w.get("name") for w in root.iter("widget") if w.get("class") == "qMRMLNodeComboBox"]
    assert connected == [
        ["DDSPSegmentation", "mrmlSceneChanged(vtkMRMLScene*)", name, "setMRMLScene(vtkMRMLScene*)"]
        for name in selectors
    ]
