"""The stand-in for Slicer's window where the contract says nothing: each point is as Slicer's sources have it."""

import contextlib
import enum
import pathlib
import sys
from typing import Annotated, Optional, Union

import numpy as np
import pytest
import slicer
import vtk
from headless_host import start
from scene_parts import gland_voxels, new_volume
from slicer_stand_in import closeModule, dialogs, enterModule, install, leaveModule, openModule, rendering, window

install()

import qt  # noqa: E402
from slicer.parameterNodeWrapper import Choice, Default, WithinRange, parameterNodeWrapper  # noqa: E402

pytestmark = pytest.mark.usefixtures("slicer_window")

MODULE = """
import slicer
from slicer.ScriptedLoadableModule import *

class Sample(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title = "Sample"

class SampleWidget(ScriptedLoadableModuleWidget):
    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        self.calls = ["setup"]
        import qt
        self.layout.addWidget(qt.QLabel("Hello"))

    def enter(self):
        self.calls.append("enter")

    def exit(self):
        self.calls.append("exit")

    def cleanup(self):
        self.calls.append("cleanup")
"""


@pytest.fixture
def module_file(tmp_path):
    path = tmp_path / "Sample.py"
    path.write_text(MODULE)
    return path


def node_box(**options):
    box = slicer.qMRMLNodeComboBox()
    box.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    for name, value in options.items():
        setattr(box, name, value)
    box.setMRMLScene(slicer.mrmlScene)
    return box


# ---- Qt with the manners of PythonQt


def test_misspelled_property_and_unknown_signal_are_refused():
    button = qt.QPushButton()
    with pytest.raises(AttributeError):
        button.enable = False
    with pytest.raises(AttributeError):
        button.connect("pressed(bool)", print)


def test_attributes_of_a_class_derived_in_python_are_free():
    class Panel(qt.QWidget):
        pass

    panel = Panel()
    panel.answer = 42
    assert panel.answer == 42 and isinstance(panel, qt.QWidget)


def test_objects_that_qt_made_have_the_same_manners():
    box = qt.QDialogButtonBox()
    box.setStandardButtons(qt.QDialogButtonBox.Ok)
    button = box.button(qt.QDialogButtonBox.Ok)
    button.enabled = False
    assert type(button) is qt.QPushButton and button.enabled is False and box.findChildren(qt.QPushButton)


def test_slot_gets_as_many_values_as_it_takes():
    seen = []
    button = qt.QPushButton()
    button.connect("clicked(bool)", lambda: seen.append("none"))
    button.connect("clicked(bool)", lambda *values: seen.append(values))
    button.click()
    assert seen == ["none", (False,)]


def test_disconnected_slot_hears_nothing():
    seen = []
    box = qt.QCheckBox()
    box.connect("toggled(bool)", seen.append)
    box.checked = True
    box.disconnect("toggled(bool)", seen.append)
    box.checked = False
    assert seen == [True]


def test_exception_in_a_slot_ends_the_slot_alone_and_fails_the_test_at_its_end(slicer_window, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", lambda *_: None)
    slicer_window.close()
    del slicer.app
    button = qt.QPushButton()
    button.connect("clicked()", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError), window(start()):
        button.click()
    slicer.app = slicer_window


def test_dialogs_wait_for_nobody(tmp_path):
    chosen = str(tmp_path / "file.nrrd")
    slicer.app.testing = False
    dialogs.planned += [qt.QMessageBox.Cancel, chosen]
    assert slicer.util.confirmOkCancelDisplay("Really?") is False
    assert qt.QFileDialog.getSaveFileName(None, "Export") == chosen
    assert dialogs.shown[0][1] == "Really?" and dialogs.shown[1][0] == "Export"
    with pytest.raises(AssertionError, match="Nobody answers"):
        slicer.util.errorDisplay("It failed")


def test_collapsed_section_hides_its_contents_and_keeps_what_the_panel_hid():
    import ctk

    section = ctk.ctkCollapsibleButton()
    layout = qt.QVBoxLayout(section)
    shown, hidden = qt.QLabel("shown"), qt.QLabel("hidden")
    layout.addWidget(shown)
    layout.addWidget(hidden)
    hidden.setVisible(False)
    section.show()
    section.collapsed = True
    assert not shown.visible and not hidden.visible
    section.collapsed = False
    assert shown.visible and not hidden.visible


def test_slider_and_spin_box_have_one_value():
    import ctk

    slider = ctk.ctkSliderWidget()
    slider.maximum, slider.singleStep = 1.0, 0.01
    seen = []
    slider.connect("valueChanged(double)", seen.append)
    slider.value = 0.25
    slider.setValue(7.0)
    assert seen == [0.25, 1.0] and slider.value == 1.0


# ---- node selectors


def test_selector_follows_names_hidden_nodes_and_the_end_of_the_scene():
    box = node_box(addEnabled=False, removeEnabled=False)
    first, second = new_volume("A"), new_volume("B")
    assert (box.currentNode(), box.nodeCount()) == (first, 2)
    box.setCurrentNode(second)
    second.SetName("C")
    second.SetHideFromEditors(True)
    assert (box.currentNode(), box.nodeCount()) == (first, 1)
    slicer.mrmlScene.Clear(0)
    assert box.currentNode() is None and box.currentNodeID == ""


def test_selector_with_the_entry_create_new_chooses_nothing_by_itself():
    box = node_box()
    new_volume()
    assert box.currentNode() is None and box.nodeCount() == 1


def test_selector_creates_nodes_for_the_user():
    box = node_box(noneEnabled=True, baseName="Result")
    added = []
    box.connect("nodeAddedByUser(vtkMRMLNode*)", added.append)
    node = box.addNode()
    assert added == [node] and box.currentNode() is node and node.GetName() == "Result"


def test_selector_tells_whether_there_is_a_node():
    box = node_box(noneEnabled=True)
    seen = []
    box.connect("currentNodeChanged(bool)", seen.append)
    volume = new_volume()
    box.setCurrentNode(volume)
    box.setCurrentNode(None)
    assert seen == [True, False]


def test_deleted_selector_hears_nothing_of_the_scene():
    box = node_box()
    box.deleteLater()
    slicer.app.processEvents()
    new_volume()


# ---- parameter nodes


class Mode(enum.Enum):
    FAST = "fast"
    SLOW = "slow"


@parameterNodeWrapper
class Parameters:
    volume: Optional[Union[slicer.vtkMRMLScalarVolumeNode, slicer.vtkMRMLMarkupsNode]]  # noqa: UP007, UP045
    mode: Mode = Mode.SLOW
    device: Annotated[str, Choice(["auto", "cpu"]), Default("cpu")]
    threshold: Annotated[float, WithinRange(0, 1)] = 0.5
    cases: list[str]


def new_parameters():
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")
    return Parameters(node), node


def test_defaults_are_written_into_the_node_at_once():
    _, node = new_parameters()
    written = {name: node.GetParameter(name) for name in ("mode", "device", "threshold", "cases.len")}
    assert written == {"mode": "SLOW", "device": "cpu", "threshold": "0.5", "cases.len": "0"}


def test_refused_values_leave_the_parameter_as_it_was():
    parameters, _ = new_parameters()
    for name, value in (("device", "tpu"), ("threshold", "0.5"), ("threshold", 2.0), ("mode", "x")):
        with pytest.raises((TypeError, ValueError)):
            setattr(parameters, name, value)
    assert (parameters.device, parameters.threshold, parameters.mode) == ("cpu", 0.5, Mode.SLOW)


def test_changed_list_is_written():
    parameters, node = new_parameters()
    parameters.cases.append("case_1")
    assert list(Parameters(node).cases) == ["case_1"]


def test_node_parameter_takes_any_of_its_classes():
    parameters, node = new_parameters()
    point = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    parameters.volume = point
    assert Parameters(node).volume is point
    parameters.volume = None
    assert Parameters(node).volume is None


def test_combo_box_of_choices_shows_and_changes_its_parameter():
    parameters, _ = new_parameters()
    combo = qt.QComboBox()
    parameters.connectParametersToGui({"device": combo})
    assert combo.currentText == "cpu"
    combo.currentText = "auto"
    combo.currentIndex = 0
    assert parameters.device == "auto"


# ---- Segment Editor


@pytest.fixture
def editor():
    volume = new_volume()
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Prostate")
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segmentation.GetSegmentation().AddEmptySegment("Prostate", "Prostate")
    editor = slicer.qMRMLSegmentEditorWidget()
    editor.setMRMLScene(slicer.mrmlScene)
    editor.setMRMLSegmentEditorNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode"))
    editor.setSegmentationNode(segmentation)
    yield editor
    editor.setMRMLSegmentEditorNode(None)
    editor.setMRMLScene(None)
    editor.deleteLater()


def count_voxels(editor):
    node = editor.segmentationNode()
    return int((slicer.util.arrayFromSegmentBinaryLabelmap(node, "Prostate", editor.sourceVolumeNode()) != 0).sum())


def center_of(volume):
    bounds = [0.0] * 6
    volume.GetRASBounds(bounds)
    return np.array(bounds).reshape(3, 2).mean(axis=1)


def test_chosen_segmentation_brings_its_volume_and_first_segment(editor):
    assert editor.sourceVolumeNode().GetName() == "T2" and editor.currentSegmentID() == "Prostate"
    composite = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceCompositeNode()
    assert composite.GetBackgroundVolumeID() == editor.sourceVolumeNodeID()


def test_active_effect_is_kept_in_the_node_and_observes_the_views(editor):
    editor.setActiveEffectByName("Paint")
    assert editor.activeEffect().name == "Paint" and editor.viewsAreObserved()
    assert editor.mrmlSegmentEditorNode().GetActiveEffectName() == "Paint"
    editor.setActiveEffect(None)
    assert editor.activeEffect() is None and not editor.viewsAreObserved()


def test_strokes_change_the_segment_tell_of_it_and_can_be_undone(editor):
    center = center_of(editor.sourceVolumeNode())
    with pytest.raises(AssertionError):
        editor.paintSphere(center, 3)
    editor.setActiveEffectByName("Paint")
    events = []
    segmentation = editor.segmentationNode().GetSegmentation()
    segmentation.AddObserver(slicer.vtkSegmentation.SourceRepresentationModified, lambda *_: events.append(1))
    editor.paintSphere(center, 3)
    painted = count_voxels(editor)
    editor.eraseSphere(center, 2)
    assert events and 0 < count_voxels(editor) < painted
    editor.undo()
    assert count_voxels(editor) == painted
    editor.undo()
    assert count_voxels(editor) == 0
    editor.redo()
    assert count_voxels(editor) == painted


def test_another_segmentation_ends_the_effect_and_forgets_the_undo_states(editor):
    editor.setActiveEffectByName("Paint")
    editor.paintSphere(center_of(editor.sourceVolumeNode()), 3)
    first = editor.segmentationNode()
    editor.setSegmentationNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Other"))
    assert editor.activeEffect() is None
    editor.setSegmentationNode(first)
    painted = count_voxels(editor)
    editor.undo()
    assert count_voxels(editor) == painted > 0


def test_shortcuts_work_while_they_are_installed(editor):
    editor.installKeyboardShortcuts()
    assert {"Z", "Y", "1"} <= set(editor.installedShortcuts())
    editor.uninstallKeyboardShortcuts()
    assert editor.installedShortcuts() == []


def test_editor_survives_the_end_of_the_scene(editor):
    editor.setActiveEffectByName("Paint")
    slicer.mrmlScene.Clear(0)
    assert editor.segmentationNode() is None


def test_editor_takes_no_source_volume_before_its_nodes():
    editor = slicer.qMRMLSegmentEditorWidget()
    editor.setMRMLScene(slicer.mrmlScene)
    with new_entries(1):
        editor.setSourceVolumeNode(new_volume())
    editor.setMRMLScene(None)
    editor.deleteLater()


def test_editor_chooses_another_source_volume_for_a_deleted_one_even_without_a_segmentation(editor):
    new_volume("B")
    editor.setSegmentationNode(None)
    with new_entries(1):
        slicer.mrmlScene.RemoveNode(slicer.util.getNode("T2"))


def test_editor_whose_node_is_taken_away_still_hears_of_its_segmentation(editor):
    editor.setMRMLSegmentEditorNode(None)
    with new_entries(1):
        editor.setMRMLScene(None)  # the table of segments loses its selection
    with new_entries(1):
        slicer.util.getNode("Prostate").GetSegmentation().AddEmptySegment("Other")


def test_editor_that_let_go_of_its_nodes_first_says_nothing(editor):
    editor.setSourceVolumeNode(None)
    editor.setSegmentationNode(None)
    with new_entries(0):
        editor.setMRMLSegmentEditorNode(None)
        editor.setMRMLScene(None)
        slicer.util.getNode("Prostate").GetSegmentation().AddEmptySegment("Other")
        slicer.mrmlScene.RemoveNode(slicer.util.getNode("T2"))


# ---- layers of the slice views, and the error log


def layers_of(name="Red"):
    composite = slicer.app.layoutManager().sliceWidget(name).mrmlSliceCompositeNode()
    ids = (composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID(), composite.GetLabelVolumeID())
    return tuple(slicer.mrmlScene.GetNodeByID(node_id).GetName() if node_id else "" for node_id in ids)


@contextlib.contextmanager
def new_entries(count):
    log = slicer.app.errorLogModel()
    before = log.logEntryCount()
    yield
    said = [log.logEntryDescription(row) for row in range(before, log.logEntryCount())]
    assert len(said) == count, said


def test_deleted_background_gives_way_to_the_volume_in_its_place():
    first, second, _third = new_volume("A"), new_volume("B"), new_volume("C")
    slicer.util.setSliceViewerLayers(background=second, foreground=first)
    slicer.mrmlScene.RemoveNode(second)
    assert {layers_of(view) for view in ("Red", "Green", "Yellow")} == {("C", "A", "")}


def test_layer_that_was_emptied_stays_empty_even_at_the_last_moment():
    _first, second = new_volume("A"), new_volume("B")
    slicer.util.setSliceViewerLayers(foreground=second)
    scene = slicer.mrmlScene
    empty = scene.AddObserver(
        scene.NodeAboutToBeRemovedEvent, lambda *_: slicer.util.setSliceViewerLayers(foreground=None)
    )
    scene.RemoveNode(second)
    scene.RemoveObserver(empty)
    assert layers_of()[1] == ""


def test_hidden_volumes_replace_nothing_and_an_only_volume_leaves_an_empty_layer():
    hidden, only = new_volume("hidden"), new_volume("only")
    hidden.SetHideFromEditors(True)
    slicer.util.setSliceViewerLayers(background=only)
    slicer.mrmlScene.RemoveNode(only)
    assert layers_of() == ("", "", "")


def test_label_layer_takes_label_maps_alone():
    new_volume("A")
    first, second = (slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", name) for name in ("L", "M"))
    slicer.util.setSliceViewerLayers(label=first)
    slicer.mrmlScene.RemoveNode(first)
    assert layers_of()[2] == "M"
    slicer.mrmlScene.RemoveNode(second)
    assert layers_of()[2] == ""


def test_closed_scene_leaves_empty_layers():
    slicer.util.setSliceViewerLayers(background=new_volume("A"), foreground=new_volume("B"))
    seen, scene = [], slicer.mrmlScene
    tag = scene.AddObserver(scene.NodeRemovedEvent, lambda *_: seen.append(layers_of()))
    scene.Clear(0)
    scene.RemoveObserver(tag)
    assert layers_of() == ("", "", "") and not {("B", "B", ""), ("A", "A", "")} & set(seen)


def test_views_take_another_volume_in_the_middle_of_a_batch_too():
    first, second = new_volume("A"), new_volume("B")
    slicer.util.setSliceViewerLayers(background=first)
    scene = slicer.mrmlScene
    scene.StartState(scene.BatchProcessState)
    scene.RemoveNode(first)
    assert layers_of()[0] == second.GetName()
    scene.EndState(scene.BatchProcessState)
    assert layers_of()[0] == second.GetName()


def test_every_bar_complains_of_the_first_segmentation_without_outline_and_fill():
    nodes = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name) for name in "AB"]
    for node in nodes:
        node.CreateDefaultDisplayNodes()
    for node, count in zip(nodes, (3, 0), strict=True):
        node.GetDisplayNode().SetVisibility2DOutline(False)
        with new_entries(count):
            node.GetDisplayNode().SetVisibility2DFill(False)
    with new_entries(3):
        slicer.mrmlScene.RemoveNode(nodes[0])  # the bars turn to the other one


def test_segmentation_with_an_item_may_be_hidden_from_editors():
    node = slicer.vtkMRMLSegmentationNode()
    node.SetHideFromEditors(True)
    slicer.mrmlScene.AddNode(node)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    with new_entries(0):
        hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
        node.GetSegmentation().AddEmptySegment("Prostate")
    slicer.mrmlScene.RemoveNode(node)
    assert not hierarchy.GetItemByDataNode(node)


def test_warnings_of_vtk_are_entries_too():
    with new_entries(1):
        vtk.vtkOutputWindow.GetInstance().DisplayWarningText("A warning")


# ---- views, modules, samples


def test_views_stay_when_the_scene_is_closed_and_show_what_is_loaded(sample_scan):
    slicer.mrmlScene.Clear(0)
    volume = slicer.util.loadVolume(str(sample_scan))
    layout = slicer.app.layoutManager()
    assert set(layout.sliceViewNames()) == {"Red", "Green", "Yellow"}
    for name in layout.sliceViewNames():
        assert layout.sliceWidget(name).mrmlSliceCompositeNode().GetBackgroundVolumeID() == volume.GetID()


def test_module_lives_as_in_slicer(module_file):
    widget = openModule(module_file)
    assert slicer.util.getModuleWidget("Sample") is widget and slicer.modules.SampleWidget is widget
    assert slicer.util.mainWindow().moduleSelector().selectedModule == "Sample"
    leaveModule("Sample")
    enterModule("Sample")
    closeModule("Sample")
    assert widget.calls == ["setup", "enter", "exit", "enter", "exit", "cleanup"]


def test_reloaded_module_is_another_object(module_file):
    widget = openModule(module_file)
    module_file.write_text(MODULE.replace("Hello", "Hello again"))
    widget.onReload()
    assert slicer.modules.SampleWidget is not widget and widget.calls[-1] == "cleanup"
    assert slicer.util.findChildren(slicer.util.mainWindow(), text="Hello again")


def test_without_a_main_window_there_is_no_layout(slicer_window, module_file):
    slicer_window.close()
    del slicer.app
    with window(start(), hasLayout=False):
        assert slicer.app.layoutManager() is None and slicer.util.mainWindow() is None
        assert openModule(module_file).calls == ["setup", "enter"]
    slicer.app = slicer_window


def test_sample_with_a_wrong_checksum_is_not_loaded(sample_scan):
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="Test",
        sampleName="Wrong",
        uris=pathlib.Path(sample_scan).as_uri(),
        fileNames="wrong.nrrd",
        nodeNames="Wrong",
        checksums="SHA256:" + 64 * "0",
    )
    (path, *_) = SampleData.SampleDataLogic().downloadSamples("Wrong")
    assert isinstance(path, str) and not pathlib.Path(path).exists()
    assert not slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")


# ---- pictures


needs_rendering = pytest.mark.skipif(not rendering.canRender(), reason="this machine cannot render")


@needs_rendering
def test_slice_picture_shows_volume_overlay_and_segment(editor):
    volume = editor.sourceVolumeNode()
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    center = center_of(volume)
    slicer.modules.markups.logic().JumpSlicesToLocation(*center, True)
    plain = rendering.renderSlice("Red", (200, 200), fit=True)
    assert plain.shape == (200, 200, 3) and plain.max() > 100
    editor.setActiveEffectByName("Paint")
    editor.paintSphere(center, 2)
    segment = rendering.renderSlice("Red", (200, 200))
    assert (segment != plain).any(axis=2).mean() > 0.01
    overlay = slicer.util.addVolumeFromArray(gland_voxels().astype(np.float32), name="Uncertainty")
    overlay.CopyOrientation(volume)
    overlay.GetDisplayNode().SetAndObserveColorNodeID(slicer.util.getNode("Inferno").GetID())
    slicer.util.setSliceViewerLayers(foreground=overlay, foregroundOpacity=0.5)
    both = rendering.renderSlice("Red", (200, 200)).astype(int)
    assert (np.ptp(both, axis=2) > 20).mean() > (np.ptp(segment.astype(int), axis=2) > 20).mean()


@needs_rendering
def test_three_d_picture_shows_the_surface(editor):
    empty = rendering.renderThreeD((200, 200))
    editor.setActiveEffectByName("Paint")
    editor.paintSphere(center_of(editor.sourceVolumeNode()), 3)
    editor.segmentationNode().CreateClosedSurfaceRepresentation()
    assert (rendering.renderThreeD((200, 200)) != empty).any()


@needs_rendering
def test_window_picture_is_written(module_file, tmp_path):
    openModule(module_file)
    new_volume()
    rendering.windowPicture(tmp_path / "window.png", (800, 600))
    picture = qt.QImage(str(tmp_path / "window.png"))
    assert (picture.width(), picture.height()) == (800, 600)
