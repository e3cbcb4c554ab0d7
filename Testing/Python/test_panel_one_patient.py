"""One patient on the screen: no view shows voxels or a contour of a volume that nobody chose or put there."""

import random

import pytest
import slicer
from panel_parts import add_point, add_result, load_sample, load_scene, save_scene, wait_for
from scene_parts import put_under_transform, rigid_matrix

from DDSPSegmentationLib.scene.result_nodes import all_results, own_segment_id, psa_of, results_of, volume_of
from DDSPSegmentationLib.scene.results import uncertainty_volume_of

LAYERS = ("Background", "Foreground", "Label")
NAMES = ("Red", "Green", "Yellow")


def work():
    for _ in range(4):
        slicer.app.processEvents()


def composite_of(name):
    return slicer.app.layoutManager().sliceWidget(name).mrmlSliceCompositeNode()


def layer(name, which):
    return slicer.mrmlScene.GetNodeByID(getattr(composite_of(name), f"Get{which}VolumeID")() or "")


def put(name, which, volume):
    """A volume in a layer of a view, by hand."""
    getattr(composite_of(name), f"Set{which}VolumeID")(None if volume is None else volume.GetID())
    if which == "Foreground":
        composite_of(name).SetForegroundOpacity(0.5)


def load_by_hand(volume):
    """What loading does: the volume is the background of every view."""
    from slicer_stand_in.application import show_volume

    show_volume(volume)
    work()


def is_seen(node, name=None):
    """Whether a result can be seen: in a slice view, or as a surface without one named."""
    display, segment_id = node.GetDisplayNode(), own_segment_id(node)
    if display is None or not display.GetVisibility() or not display.GetSegmentVisibility(segment_id):
        return False
    views = display.GetViewNodeIDs()
    if name is None:
        return not views or any("vtkMRMLViewNode" in view for view in views)
    view = slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode().GetID()
    return not views or view in views


def seen():
    return {node.GetName() for node in all_results() if any(is_seen(node, name) for name in (*NAMES, None))}


@pytest.fixture
def two(person):
    """Two scans with a result each; the first is chosen and shown."""
    first, of_first = add_result(1, "first")
    second, of_second = add_result(2, "second")
    person.ui.inputSelector.setCurrentNode(second)
    person.ui.inputSelector.setCurrentNode(first)
    work()
    return person, first, of_first, second, of_second


def test_the_contour_of_another_scan_is_hidden_and_comes_back_with_it(two):
    person, first, of_first, second, of_second = two
    assert seen() == {of_first.GetName()}
    person.ui.inputSelector.setCurrentNode(second)
    work()
    assert seen() == {of_second.GetName()}
    person.ui.inputSelector.setCurrentNode(first)
    work()
    assert seen() == {of_first.GetName()} and is_seen(of_first, "Red") and is_seen(of_first)


def test_of_two_results_of_a_scan_one_is_seen_and_deleting_it_takes_up_the_other(person):
    from learning_parts import toy_scan
    from scene_parts import ThresholdRunner

    from DDSPSegmentationLib.engine.run_settings import RunSettings
    from DDSPSegmentationLib.scene.results import place_result

    volume, old = add_result(1, "T2")
    _, mask = toy_scan(1, radii=(4, 8, 8))
    person.ui.inputSelector.setCurrentNode(volume)
    new = place_result(
        ThresholdRunner().segment(mask * 100, RunSettings(device="cpu"), name="T2"), volume, as_new=True
    ).outputSegmentationNode
    work()
    person.ui.outputSelector.setCurrentNode(new)
    work()
    assert person.result is new and seen() == {new.GetName()}
    slicer.mrmlScene.RemoveNode(new)
    work()
    assert person.result is old and seen() == {old.GetName()} and person.ui.volumeLabel.text


def test_a_result_that_comes_while_another_scan_is_shown_stays_hidden(person):
    first = load_sample("first")
    work()
    second, of_second = add_result(2, "second")
    person.start()
    person.ui.inputSelector.setCurrentNode(second)
    assert wait_for(lambda: person.ui.segmentButton.text == "Segment Prostate")
    work()
    (of_first,) = results_of(first)
    assert seen() == {of_second.GetName()} and "first" in person.status
    person.ui.inputSelector.setCurrentNode(first)
    work()
    assert seen() == {of_first.GetName()}


def test_a_second_scan_that_is_loaded_hides_the_contour_and_the_panel_offers_both_ways(two):
    person, first, of_first, second, of_second = two
    ui = person.ui
    assert ui.otherVolumeFrame.isHidden()
    load_by_hand(second)
    assert seen() == set() and person.volume is first and ui.volumeLabel.text
    assert not ui.otherVolumeFrame.isHidden()
    assert ui.otherVolumeLabel.text == "The views show 'second'; the panel works on 'first'."
    ui.showInputButton.click()
    work()
    assert seen() == {of_first.GetName()} and ui.otherVolumeFrame.isHidden()
    assert [layer(name, "Background") for name in NAMES] == [first] * 3
    load_by_hand(second)
    ui.useShownButton.click()
    work()
    assert person.volume is second and seen() == {of_second.GetName()} and ui.otherVolumeFrame.isHidden()


def test_where_one_view_shows_another_scan_the_contour_stays_out_of_it_alone(two):
    person, first, of_first, second, _ = two
    put("Green", "Background", second)
    work()
    assert [is_seen(of_first, name) for name in NAMES] == [True, False, True] and is_seen(of_first)
    assert person.ui.otherVolumeFrame.isHidden()
    put("Green", "Background", first)
    work()
    assert all(is_seen(of_first, name) for name in NAMES) and not of_first.GetDisplayNode().GetViewNodeIDs()


def test_over_another_series_of_the_same_study_the_contour_stays(two):
    person, first, of_first, second, _ = two
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "ANONYMOUS")  # of them both
    studies = [hierarchy.CreateStudyItem(patient, name) for name in ("A", "B")]
    diffusion = slicer.modules.volumes.logic().CloneVolume(slicer.mrmlScene, first, "ADC of the first")
    for volume, study in ((first, studies[0]), (diffusion, studies[0]), (second, studies[1])):
        hierarchy.SetItemParent(hierarchy.GetItemByDataNode(volume), study)
    load_by_hand(diffusion)
    assert is_seen(of_first, "Red") and is_seen(of_first)
    load_by_hand(second)
    assert not is_seen(of_first, "Red") and not is_seen(of_first)


def test_what_a_person_shows_by_hand_stays_until_another_result_is_chosen(two):
    person, first, of_first, second, of_second = two
    of_second.GetDisplayNode().SetVisibility(True)
    work()
    person.panel.refresh()
    assert seen() == {of_first.GetName(), of_second.GetName()}
    person.ui.inputSelector.setCurrentNode(second)
    work()
    assert seen() == {of_second.GetName()}


def test_the_uncertainty_leaves_no_neighbor_in_its_place(person):
    load_sample("first")
    person.segment_at_once()
    other = load_sample("second")
    load_by_hand(person.volume)
    person.ui.uncertaintyCheckBox.click()
    assert [layer(name, "Foreground") for name in NAMES] == [uncertainty_volume_of(person.result)] * 3
    person.segment_at_once()
    assert [layer(name, "Foreground") for name in NAMES] == [uncertainty_volume_of(person.result)] * 3
    slicer.mrmlScene.RemoveNode(uncertainty_volume_of(person.result))
    work()
    assert [layer(name, "Foreground") for name in NAMES] == [None] * 3 and other.GetScene() is not None
    assert not person.ui.uncertaintyCheckBox.checked


def test_a_volume_that_is_deleted_leaves_its_views_empty(two):
    person, first, of_first, second, _ = two
    put("Red", "Foreground", second)
    slicer.mrmlScene.RemoveNode(second)
    work()
    assert layer("Red", "Foreground") is None
    slicer.mrmlScene.RemoveNode(first)
    work()
    assert [layer(name, "Background") for name in NAMES] == [None] * 3 and seen() == set()


def test_what_lay_over_one_scan_goes_when_another_one_is_chosen(two):
    person, first, _, second, _ = two
    diffusion = slicer.modules.volumes.logic().CloneVolume(slicer.mrmlScene, first, "ADC of the first")
    put("Red", "Foreground", diffusion)
    person.ui.inputSelector.setCurrentNode(second)
    work()
    assert layer("Red", "Foreground") is None and layer("Red", "Background") is second


def test_after_the_volume_of_a_run_was_deleted_another_one_is_chosen(person):
    first = load_sample("first")
    work()
    second, _ = add_result(2, "second")
    person.start()
    slicer.mrmlScene.RemoveNode(first)
    assert wait_for(lambda: person.ui.segmentButton.text == "Segment Prostate")
    work()
    assert person.volume is second and "was deleted" in person.status


def test_a_scene_that_was_saved_with_two_contours_shows_one(two, tmp_path):
    person, first, of_first, _, of_second = two
    of_second.GetDisplayNode().SetVisibility(True)  # as an older version left it
    load_scene(save_scene(tmp_path / "scene"))
    work()
    assert person.volume.GetName() == "first" and seen() == {"first prostate"}


def test_a_reload_of_the_module_leaves_one_contour(same_package, two):
    person, _, of_first, _, of_second = two
    of_second.GetDisplayNode().SetVisibility(True)
    person.widget.onReload()
    work()
    assert seen() == {of_first.GetName()}


def test_closing_the_scene_leaves_nothing_behind(two):
    person = two[0]
    slicer.mrmlScene.Clear(0)
    work()
    assert person.volume is None and not person.shows_result() and person.ui.otherVolumeFrame.isHidden()
    assert [layer(name, which) for name in NAMES for which in LAYERS] == [None] * 9


def test_a_volume_that_is_deleted_in_another_module_leaves_its_layer_empty(two):
    person, first, _, second, _ = two
    diffusion = slicer.modules.volumes.logic().CloneVolume(slicer.mrmlScene, first, "ADC of the first")
    put("Red", "Foreground", diffusion)
    person.widget.exit()
    slicer.mrmlScene.RemoveNode(diffusion)
    work()
    assert layer("Red", "Foreground") is None and second.GetScene() is not None
    person.widget.enter()
    assert layer("Red", "Foreground") is None


def test_a_result_that_a_script_made_meanwhile_is_hidden_when_the_panel_is_back(two):
    person, _, of_first, _, _ = two
    person.widget.exit()
    _, of_third = add_result(3, "third")
    work()
    person.widget.enter()
    work()
    assert seen() == {of_first.GetName()} and not of_third.GetDisplayNode().GetVisibility()


def test_the_contour_of_the_network_is_not_laid_over_another_scan(two):
    person, first, of_first, second, _ = two
    mask = person.mask(of_first)
    mask[5, 5:9, 5:9] = 1
    person.write(mask, of_first)
    person.settle()
    assert person.ui.beforeButton.enabled
    person.ui.beforeButton.click()
    load_by_hand(second)
    assert not person.ui.beforeButton.enabled and not person.ui.beforeButton.checked
    assert "another scan" in person.ui.beforeButton.toolTip and seen() == set()
    assert not person.ui.acceptButton.enabled and person.editor.readOnly
    load_by_hand(first)
    assert person.ui.beforeButton.enabled and person.ui.acceptButton.enabled and not person.editor.readOnly


def test_a_place_in_one_scan_is_none_in_another(two):
    person, first, _, second, _ = two
    point = add_point((0.0, 0.0, 0.0))
    person.ui.locationSelector.setCurrentNode(point)
    work()
    person.ui.inputSelector.setCurrentNode(second)
    work()
    assert person.ui.locationSelector.currentNode() is None
    assert not point.GetDisplayNode().GetVisibility(), "it would lie over another patient"
    person.ui.inputSelector.setCurrentNode(first)
    work()
    assert person.ui.locationSelector.currentNode() is point
    assert point.GetDisplayNode().GetVisibility()


def test_a_lesion_of_another_scan_is_hidden_though_its_prostate_is_gone(two):
    person, _, of_first, second, _ = two
    segments = of_first.GetSegmentation()
    segments.AddEmptySegment("Lesion", "Lesion")
    segments.RemoveSegment(own_segment_id(of_first))
    work()
    person.ui.inputSelector.setCurrentNode(second)
    work()
    assert not of_first.GetDisplayNode().GetVisibility()


def test_views_that_somebody_chose_for_a_contour_stay_chosen(two):
    person, _, of_first, _, _ = two
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode().GetID()
    of_first.GetDisplayNode().AddViewNodeID(red)
    person.panel.refresh()
    assert list(of_first.GetDisplayNode().GetViewNodeIDs()) == [red]


# ---- the rule over any way of working


class Acts:
    """A person who does whatever comes to mind, and remembers what he put where by hand."""

    def __init__(self, person, seed):
        self.person, self.draw = person, random.Random(seed)
        self.put, self.made_seen, self.away = {}, set(), None
        self.done = []

    def volumes(self):
        nodes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
        return [node for node in nodes if node.GetName().startswith("scan")]

    def act(self):
        action = self.draw.choice([
            self.choose, self.choose, self.load, self.lay_over, self.segment, self.segment_as_new, self.uncertainty,
            self.delete_uncertainty, self.delete_volume, self.delete_result, self.undo, self.choose_result,
            self.show_by_hand, self.edit, self.leave_and_come_back, self.leave_and_come_back, self.work_on_shown,
            self.show_input, self.look_at_the_networks, self.move, self.move_along, self.threshold,
        ])  # fmt: skip
        self.done.append(action.__name__)
        before = self.person.volume, self.person.result
        action()
        work()
        self.away = None
        if before != (self.person.volume, self.person.result):
            self.made_seen.clear()

    def _any(self, nodes):
        nodes = list(nodes)
        return self.draw.choice(nodes) if nodes else None

    def choose(self):
        volume, before = self._any(self.volumes()), self.person.volume
        self.person.ui.inputSelector.setCurrentNode(volume)
        if volume is not None and volume is not before:  # the same one again changes nothing
            self._now_in_all_views(volume)

    def _now_in_all_views(self, volume):
        for name in NAMES:
            self.put[name, "Background"] = volume
            self.put.pop((name, "Foreground"), None)

    def load(self):
        volume = self._any(self.volumes()) if len(self.volumes()) >= 3 else None
        if volume is None:
            volume, self.away = add_result(self.draw.randrange(5), f"scan {self.draw.randrange(10**6)}")
        load_by_hand(volume)
        for name in NAMES:
            self.put[name, "Background"] = volume  # what lies over it stays, as in Slicer

    def lay_over(self):
        name, volume = self.draw.choice(NAMES), self._any(self.volumes())
        which = self.draw.choice(["Foreground", "Background"])
        put(name, which, volume)
        self.put[name, which] = volume

    def _segment(self, as_new):
        panel = self.person.panel
        if panel._parameters.inputVolume is None:
            return
        from DDSPSegmentationLib.scene.panel.segment_section import Run
        from DDSPSegmentationLib.scene.results import state_of

        run = Run(panel._parameters.inputVolume, None if as_new else self.person.result, False, as_new)
        run.before = state_of(run.volumeNode)
        layers = [layer(name, which) for name in NAMES for which in ("Background", "Foreground")]
        is_news = not results_of(run.volumeNode) or run.volumeNode not in layers
        panel._place(run, a_segmentation_of(run.volumeNode))
        if is_news:
            self._now_in_all_views(run.volumeNode)

    def segment(self):
        self._segment(as_new=False)

    def segment_as_new(self):
        self._segment(as_new=True)

    def uncertainty(self):
        if self.person.ui.uncertaintyCheckBox.enabled:
            self.person.ui.uncertaintyCheckBox.click()

    def delete_uncertainty(self):
        node = None if self.person.result is None else uncertainty_volume_of(self.person.result)
        if node is not None:
            slicer.mrmlScene.RemoveNode(node)

    def delete_volume(self):
        volume = self._any(self.volumes())
        if volume is not None and len(self.volumes()) > 1:
            slicer.mrmlScene.RemoveNode(volume)

    def delete_result(self):
        node = self._any(all_results())
        if node is not None:
            slicer.mrmlScene.RemoveNode(node)

    def undo(self):
        self.person.editor.undo()

    def edit(self):
        if self.person.result is not None and self.person.shows_result() and not self.person.editor.readOnly:
            self.person.paint(3.0)

    def choose_result(self):
        node = self._any(results_of(self.person.volume))
        if node is not None:
            self.person.ui.outputSelector.setCurrentNode(node)

    def show_by_hand(self):
        node = self._any(all_results())
        if node is not None:
            node.GetDisplayNode().SetVisibility(True)
            node.GetDisplayNode().SetSegmentVisibility(own_segment_id(node), True)
            self.made_seen.add(node)

    def leave_and_come_back(self):
        """What another module is for: volumes are deleted, laid over others, and given results by scripts."""
        self.person.widget.exit()
        work()
        self.draw.choice([self.delete_volume, self.lay_over, self.delete_result, self.load, self.script])()
        work()
        self.check()
        self.person.widget.enter()

    def script(self):
        from DDSPSegmentationLib.scene.results import place_result

        volume = self._any(self.volumes())
        if volume is not None:
            self.away = place_result(a_segmentation_of(volume), volume, as_new=True).outputSegmentationNode

    def look_at_the_networks(self):
        if self.person.ui.beforeButton.enabled and self.person.shows_result():
            self.person.ui.beforeButton.click()

    def move(self):
        volume = self._any(self.volumes())
        if volume is not None:
            put_under_transform(volume, rigid_matrix(5.0))

    def move_along(self):
        if not self.person.ui.moveAlongButton.isHidden():
            self.person.ui.moveAlongButton.click()

    def threshold(self):
        self.person.ui.thresholdSlider.value = self.draw.choice([0.3, 0.5, 0.8])

    def work_on_shown(self):
        if not self.person.ui.otherVolumeFrame.isHidden():
            self.person.ui.useShownButton.click()
            if self.person.volume is not None:
                self._now_in_all_views(self.person.volume)

    def show_input(self):
        if not self.person.ui.otherVolumeFrame.isHidden():
            self.person.ui.showInputButton.click()
            self._now_in_all_views(self.person.volume)

    def check(self):
        chosen = self.person.volume
        for name in NAMES:
            for which in LAYERS:
                shown = layer(name, which)
                allowed = [None, chosen, self.put.get((name, which))]
                if which == "Foreground" and layer(name, "Background") is chosen and self.person.result is not None:
                    allowed.append(uncertainty_volume_of(self.person.result))
                assert shown in allowed, (name, which, shown.GetName(), self.done)
            self._check_contours(name, chosen)
        self._check_contours(None, chosen)

    def _check_contours(self, name, chosen):
        """In a slice view, or in 3D without a name; the network's own contour stands for the result."""
        for before in slicer.util.getNodesByClass("vtkMRMLSegmentationNode"):
            if before.GetHideFromEditors() and before.GetDisplayNode().GetVisibility():
                views = before.GetDisplayNode().GetViewNodeIDs()
                view = name and slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode().GetID()
                if name and (not views or view in views):
                    assert chosen in [layer(name, "Background"), layer(name, "Foreground")], (name, self.done)
        for node in all_results():
            if is_seen(node, name) and node not in self.made_seen and node is not self.away:
                assert volume_of(node) is chosen, (name, node.GetName(), self.done)
                assert node is self.person.result, (name, node.GetName(), self.done)
                if name is not None:
                    volumes = [layer(name, which) for which in ("Background", "Foreground")]
                    assert chosen in volumes or volumes == [None, None], (name, node.GetName(), self.done)


def a_segmentation_of(volume):
    """What a network that is right makes of a toy scan."""
    import numpy as np
    import SimpleITK as sitk
    from scene_parts import ThresholdRunner

    from DDSPSegmentationLib.engine.run_settings import RunSettings
    from DDSPSegmentationLib.scene.conversion import image_from_volume_node

    image = image_from_volume_node(volume)
    voxels = sitk.GetArrayFromImage(image)
    bright = sitk.GetImageFromArray((voxels > np.percentile(voxels, 95)).astype(np.float32) * 100)
    bright.CopyInformation(image)
    return ThresholdRunner().segment(bright, RunSettings(device="cpu"), name="scan")


@pytest.mark.parametrize("seed", range(12))
def test_whatever_a_person_does_no_view_shows_another_patient(person, seed):
    acts = Acts(person, seed)
    for _ in range(3):
        acts.load()
    acts.away = None
    acts.check()
    for _ in range(30):
        acts.act()
        acts.check()


# ---- scan and contour apart


def test_a_scan_that_is_moved_alone_is_said_and_the_contour_can_be_brought_along(two):
    person, first, of_first, _, _ = two
    ui, volume = person.ui, person.ui.volumeLabel.text
    assert ui.moveAlongButton.isHidden() and ui.volumeLabel.enabled
    put_under_transform(first, rigid_matrix())
    person.settle()
    assert not ui.moveAlongButton.isHidden() and not ui.volumeLabel.enabled and not ui.diceLabel.enabled
    assert ui.warningsLabel.text.startswith("Scan and contour were moved apart") and "good" not in ui.diceLabel.text
    assert "do not belong together" in person.accept()
    ui.moveAlongButton.click()
    person.settle()
    assert ui.moveAlongButton.isHidden() and ui.volumeLabel.enabled and ui.volumeLabel.text == volume
    assert of_first.GetParentTransformNode() is first.GetParentTransformNode()


def test_a_contour_that_is_moved_alone_is_said_too(two):
    person, _, of_first, _, _ = two
    put_under_transform(of_first, rigid_matrix())
    person.settle()
    assert not person.ui.moveAlongButton.isHidden()
    of_first.SetAndObserveTransformNodeID(None)
    person.settle()
    assert person.ui.moveAlongButton.isHidden() and person.ui.volumeLabel.enabled


def test_nothing_beside_its_scan_leaves_the_program(two, tmp_path, monkeypatch):
    person, first, of_first, _, _ = two
    put_under_transform(first, rigid_matrix())
    person.settle()
    asked = []
    monkeypatch.setattr("DDSPSegmentationLib.scene.panel.export_section.ask_for_new_file", lambda *a: asked.append(a))
    monkeypatch.setattr("DDSPSegmentationLib.scene.panel.export_section.ask_for_folder", lambda *a: asked.append(a))
    for name in ("segNrrd", "nifti", "stl", "dicomSeg"):
        button = getattr(person.ui, f"{name}Button")
        button.enabled = True
        button.click()
        assert "do not belong together" in person.status and not asked, name
    assert person.table() == {}
    person.ui.moveAlongButton.click()
    person.settle()
    assert person.table()["volume_ml"] > 0


def test_the_patient_that_was_chosen_outlives_a_refusal(two):
    person, first, of_first, second, _ = two
    person.accept()
    person.ui.inputSelector.setCurrentNode(second)
    work()
    person.ui.patientComboBox.currentIndex = 1
    transform = put_under_transform(second, rigid_matrix())
    person.settle()
    assert "do not belong together" in person.accept() and person.ui.patientComboBox.currentIndex == 1
    second.SetAndObserveTransformNodeID(None)
    slicer.mrmlScene.RemoveNode(transform)
    person.settle()
    assert person.ui.patientComboBox.currentIndex == 1


# ---- keys


def test_a_number_that_is_being_written_is_not_lost(two):
    person, first, of_first, second, of_second = two
    person.ui.psaLineEdit.text = "6.2"
    person.ui.psaLineEdit.modified = True  # as typing leaves it
    person.panel.result.measure()
    assert person.ui.psaLineEdit.text == "6.2"
    person.ui.inputSelector.setCurrentNode(second)
    work()
    assert psa_of(of_first) == 6.2 and psa_of(of_second) == 0 and person.ui.psaLineEdit.text == ""


def test_a_tool_does_not_stay_active_where_nobody_sees_it(two):
    person = two[0]
    person.editor.setActiveEffectByName("Paint")
    assert person.editor.activeEffect() is not None
    person.ui.exportCollapsibleButton.collapsed = False
    work()
    assert person.ui.correctCollapsibleButton.collapsed and person.editor.activeEffect() is None


def test_the_psa_is_changed_by_a_click_and_enter_alone_and_can_be_taken_back(two):
    import qt
    from PySide6 import QtCore, QtGui, QtWidgets

    person, _, of_first, _, _ = two
    ui = person.ui
    assert ui.psaLineEdit.focusPolicy == qt.Qt.ClickFocus and ui.psaUndoButton.isHidden()
    person.set_psa(6.5)
    assert psa_of(of_first) == 6.5 and "ng/ml per ml" in ui.psaDensityLabel.text
    wheel = QtGui.QWheelEvent(
        QtCore.QPointF(5, 5), QtCore.QPointF(5, 5), QtCore.QPoint(0, 0), QtCore.QPoint(0, 120),
        QtCore.Qt.NoButton, QtCore.Qt.NoModifier, QtCore.Qt.NoScrollPhase, False,
    )  # fmt: skip
    QtWidgets.QApplication.sendEvent(ui.psaLineEdit, wheel)
    assert ui.psaLineEdit.text == "6.5"
    person.set_psa(1)
    assert psa_of(of_first) == 1 and "6.5" in ui.psaUndoButton.toolTip
    ui.psaUndoButton.click()
    assert psa_of(of_first) == 6.5 and ui.psaLineEdit.text == "6.5" and ui.psaUndoButton.isHidden()
    person.set_psa("7,25")
    assert psa_of(of_first) == 7.25
    person.set_psa("seven")
    assert psa_of(of_first) == 7.25 and ui.psaLineEdit.text == "7.25" and "'seven' is no PSA" in person.status
    person.set_psa("")
    assert psa_of(of_first) == 0


# ---- the table


def test_the_table_is_shown_in_a_layout_that_has_a_place_for_it(two):
    person = two[0]
    person.ui.tableButton.click()
    work()
    with_table = slicer.modules.tables.logic().GetLayoutWithTable(slicer.app.layoutManager().layout)
    assert slicer.app.layoutManager().layout == with_table
    selected = slicer.app.applicationLogic().GetSelectionNode().GetActiveTableID()
    assert slicer.mrmlScene.GetNodeByID(selected).GetName() in person.status


# ---- a contour from elsewhere


def test_an_exported_contour_that_is_loaded_again_is_taken_up_when_asked(person, tmp_path):
    from DDSPSegmentationLib.scene.export import export_seg_nrrd

    volume, node = add_result(1, "scan")
    mask = person.mask(node)
    export_seg_nrrd(node, str(tmp_path / "contour.seg.nrrd"))
    slicer.mrmlScene.RemoveNode(node)
    person.ui.inputSelector.setCurrentNode(volume)
    work()
    loaded = slicer.util.loadSegmentation(str(tmp_path / "contour.seg.nrrd"))
    work()
    person.ui.outputSelector.setCurrentNode(loaded)
    work()
    assert not person.ui.questionFrame.isHidden() and "Take up the contour" in person.ui.questionLabel.text
    person.ui.firstAnswerButton.click()
    work()
    assert person.result is loaded and person.shows_result() and (person.mask() == mask).all()
    assert person.ui.volumeLabel.text and "imported" in person.ui.detailsLabel.text and person.ui.diceLabel.isHidden()
    assert not person.ui.resetButton.enabled and "imported" in person.ui.resetButton.toolTip
    assert "Contour: imported" in person.panel.result.text() and "Made by" not in person.panel.result.text()
    person.start()
    assert "imported" in person.ui.questionLabel.text
    person.ui.thirdAnswerButton.click()
    assert "Stored as case" in person.accept()


def test_a_contour_of_another_patient_is_not_offered_though_the_grids_agree(two):
    person, first, of_first, second, _ = two
    of_first.SetNodeReferenceID("DDSPSegmentation.Volume", None)
    person.ui.inputSelector.setCurrentNode(second)
    person.ui.outputSelector.setCurrentNode(of_first)
    work()
    assert person.ui.questionFrame.isHidden()


def test_nothing_that_was_said_of_another_contour_stays_with_one_that_is_taken_up(two):
    person, first, of_first, second, _ = two
    person.set_psa(7.7)
    slicer.mrmlScene.RemoveNode(first)
    of_first.SetNodeReferenceID(of_first.GetReferenceImageGeometryReferenceRole(), None)
    person.ui.inputSelector.setCurrentNode(second)
    person.ui.outputSelector.setCurrentNode(of_first)
    work()
    person.ui.firstAnswerButton.click()
    work()
    assert person.result is of_first and person.ui.psaLineEdit.text == "" and person.ui.diceLabel.isHidden()
    assert "Contour: imported" in person.panel.result.text()


def test_a_contour_on_another_grid_is_not_offered(person):
    volume, node = add_result(1, "scan")
    other, contour = add_result(2, "other")
    contour.SetNodeReferenceID("DDSPSegmentation.Volume", None)
    contour.SetAndObserveTransformNodeID(put_under_transform(other, rigid_matrix()).GetID())
    person.ui.inputSelector.setCurrentNode(volume)
    person.ui.outputSelector.setCurrentNode(contour)
    work()
    assert person.ui.questionFrame.isHidden() and not person.shows_result()


# ---- how it looks


def test_the_first_result_is_looked_at_from_near_and_only_once(person):
    load_sample("scan")
    views = [slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode() for name in NAMES]
    before = [view.GetFieldOfView()[0] for view in views]
    person.segment_at_once()
    near = [view.GetFieldOfView()[0] for view in views]
    assert all(field < whole for field, whole in zip(near, before, strict=True))
    slicer.app.layoutManager().resetSliceViews()
    fitted = [view.GetFieldOfView()[0] for view in views]
    person.segment_at_once()
    assert [view.GetFieldOfView()[0] for view in views] == pytest.approx(fitted)


def test_a_contour_can_be_told_from_the_tissue_and_the_uncertainty(person):
    _, node = add_result(1, "scan")
    red, green, blue = node.GetSegmentation().GetSegment(own_segment_id(node)).GetColor()
    assert green > 0.9 and max(red, blue) < 0.5 and node.GetDisplayNode().GetSliceIntersectionThickness() == 2


def test_long_sections_fold_one_another_and_the_way_through_a_review_stays_in_reach(person):
    ui = person.ui
    assert ui.actionsWidget.isHidden()
    add_result(1, "scan")
    assert wait_for(person.shows_result)
    assert not ui.actionsWidget.isHidden() and not ui.correctCollapsibleButton.collapsed
    for button in (ui.previousSliceButton, ui.nextSliceButton, ui.acceptButton):
        assert ui.segmentCollapsibleButton.isAncestorOf(button) and not button.icon.isNull()
    person.open_learn()
    assert ui.correctCollapsibleButton.collapsed and not ui.reviewCollapsibleButton.collapsed
    ui.correctCollapsibleButton.collapsed = False
    assert ui.learnCollapsibleButton.collapsed
