"""DDSPSegmentationLogic on a real MRML scene: what it leaves there, and what it leaves alone."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import slicer
import vtk
from scene_parts import (
    ThresholdRunner,
    gland_voxels,
    new_volume,
    node_names,
    put_under_transform,
    rigid_matrix,
)
from slicer_stand_in import add_hierarchy_items

from DDSPSegmentationLib.engine.errors import Canceled, InputError
from DDSPSegmentationLib.engine.images import read_image
from DDSPSegmentationLib.engine.quality import NOT_CALIBRATED
from DDSPSegmentationLib.engine.run_settings import RunSettings
from DDSPSegmentationLib.engine.segmentation import EXPECTED_COLUMNS, ExpectedDice
from DDSPSegmentationLib.scene.contour_display import CONTOUR_COLOR
from DDSPSegmentationLib.scene.conversion import add_volume_node
from DDSPSegmentationLib.scene.result_nodes import facts_of
from DDSPSegmentationLib.service import mask_files

pytestmark = pytest.mark.usefixtures("scene")
PROSTATE = slicer.vtkSegment.GetTerminologyEntryTagName()
KEPT, NO_LABELMAP = "was edited and is kept", "is not stored as a labelmap"


@pytest.fixture
def logic(scene):
    from DDSPSegmentation import DDSPSegmentationLogic

    return DDSPSegmentationLogic()


def segment_of(node, name="Prostate"):
    return node.GetSegmentation().GetSegment(node.GetSegmentation().GetSegmentIdBySegmentName(name))


def mask_of(node, volume, name="Prostate"):
    segment_id = node.GetSegmentation().GetSegmentIdBySegmentName(name)
    return slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, volume)


def tag_of(segment, name):
    value = vtk.reference("")
    assert segment.GetTag(name, value)
    return str(value)


def edit(node, volume, name="Prostate"):
    """Take one slice out of a segment, as a radiologist would; returns what is left."""
    mask = mask_of(node, volume, name).copy()
    mask[5] = 0
    segment_id = node.GetSegmentation().GetSegmentIdBySegmentName(name)
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segment_id, volume)
    return mask


def add_segment(node, volume, name, voxels):
    segment_id = node.GetSegmentation().AddEmptySegment(name, name)
    slicer.util.updateSegmentBinaryLabelmapFromArray(voxels, node, segment_id, volume)


def segmentations():
    return slicer.util.getNodesByClass("vtkMRMLSegmentationNode")


def tables():
    return slicer.util.getNodesByClass("vtkMRMLTableNode")


def place_in_study(volume):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "MRI 2026")
    item = hierarchy.GetItemByDataNode(volume) or hierarchy.CreateItem(study, volume)
    hierarchy.SetItemParent(item, study)
    return hierarchy, study


# ---- what is left in the scene


def test_mask_lies_on_the_voxels_it_was_computed_on(logic):
    volume = new_volume()
    result = logic.segmentProstate(volume, runner=ThresholdRunner())
    np.testing.assert_array_equal(mask_of(result.outputSegmentationNode, volume), gland_voxels() > 50)
    reference = result.outputSegmentationNode.GetNodeReference("referenceImageGeometryRef")
    assert reference is volume
    assert result.message == ""


def test_segment_is_a_prostate_in_snomed_terms(logic):
    node = logic.segmentProstate(new_volume(), runner=ThresholdRunner()).outputSegmentationNode
    segment = segment_of(node)
    entry = slicer.vtkSlicerTerminologyEntry()
    assert slicer.vtkSlicerTerminologiesModuleLogic.DeserializeTerminologyEntry(tag_of(segment, PROSTATE), entry)
    category, kind = entry.GetCategoryObject(), entry.GetTypeObject()
    found = [(one.GetCodeValue(), one.GetCodingSchemeDesignator(), one.GetCodeMeaning()) for one in (category, kind)]
    assert found == [mask_files.ANATOMICAL_STRUCTURE, mask_files.PROSTATE]  # as our own DICOM has them
    assert found == [("123037004", "SCT", "Anatomical Structure"), ("41216001", "SCT", "Prostate")]
    assert segment.GetColor() == pytest.approx(CONTOUR_COLOR)


def test_segment_says_that_an_algorithm_made_it(logic):
    from DDSPSegmentationLib import __version__

    segment = segment_of(logic.segmentProstate(new_volume(), runner=ThresholdRunner()).outputSegmentationNode)
    assert tag_of(segment, "DICOM.SegmentAlgorithmType") == "AUTOMATIC"
    assert tag_of(segment, "DICOM.SegmentAlgorithmName") == f"DDSPSegmentation {__version__}"


def test_node_says_how_it_was_made(logic):
    volume = new_volume()
    node = logic.segmentProstate(volume, mode="paper", threshold=0.25, runner=ThresholdRunner()).outputSegmentationNode
    inside = gland_voxels() > 50
    expected = {
        "ModelVersion": "threshold-1",
        "ModelSHA256": "0" * 64,
        "Mode": "paper",
        "Threshold": "0.25",
        "MaskSHA256": hashlib.sha256(b"(12, 20, 24)" + np.packbits(inside).tobytes()).hexdigest(),
    }
    assert {name: node.GetAttribute(f"DDSPSegmentation.{name}") for name in expected} == expected
    assert node.GetNodeReference("DDSPSegmentation.Volume") is volume


def test_measurements_are_one_typed_row_bound_to_both_nodes(logic):
    volume = new_volume()
    result = logic.segmentProstate(volume, runner=ThresholdRunner())
    table = result.tableNode
    assert table.GetNumberOfRows() == 1
    assert slicer.util.arrayFromTableColumn(table, "volume_ml")[0] == pytest.approx(720 * 0.75 / 1000, abs=0.005)
    assert slicer.util.arrayFromTableColumn(table, "left_right_mm")[0] == 6.0
    assert slicer.util.arrayFromTableColumn(table, "cranio_caudal_mm")[0] == 18.0
    columns = {table.GetColumnName(number) for number in range(table.GetNumberOfColumns())}
    assert columns == {*result.segmentation.as_row(), "contour", "psa_ng_per_ml", "psa_density", "threshold"}
    for name, expected in zip(EXPECTED_COLUMNS, (0.9, 0.86, 0.93), strict=True):
        assert table.GetTable().GetColumnByName(name).GetDataTypeAsString() == "double"
        assert slicer.util.arrayFromTableColumn(table, name)[0] == expected
    assert table.GetTable().GetColumnByName("warnings").GetValue(0) == "Gland touches the edge."
    assert table.GetNodeReference("DDSPSegmentation.Segmentation") is result.outputSegmentationNode
    assert table.GetNodeReference("DDSPSegmentation.Volume") is volume


class UncalibratedRunner(ThresholdRunner):
    def segment(self, *asked, **told):
        notice = NOT_CALIBRATED.format(what="version 'threshold-1'")
        return replace(super().segment(*asked, **told), expected_dice=None, notices=[notice])


def test_without_an_expected_dice_its_columns_are_still_numbers(logic):
    table = logic.segmentProstate(new_volume(), runner=UncalibratedRunner()).tableNode
    for name in EXPECTED_COLUMNS:
        assert table.GetTable().GetColumnByName(name).GetDataTypeAsString() == "double"
        assert np.isnan(slicer.util.arrayFromTableColumn(table, name)[0])


def test_the_expected_dice_is_kept_with_its_interval_or_as_unknown(logic):
    node = logic.segmentProstate(new_volume("A"), runner=ThresholdRunner()).outputSegmentationNode
    assert facts_of(node).expected_dice == ExpectedDice(0.9, 0.86, 0.93)
    assert facts_of(node).why_no_expected_dice == ""
    node = logic.segmentProstate(new_volume("B"), runner=UncalibratedRunner()).outputSegmentationNode
    assert facts_of(node).expected_dice is None
    assert facts_of(node).why_no_expected_dice == facts_of(node).notices[0] != ""


def test_an_old_scene_has_no_expected_dice_any_more_and_says_why(logic):
    node = logic.segmentProstate(new_volume(), runner=ThresholdRunner()).outputSegmentationNode
    said = json.loads(node.GetAttribute("DDSPSegmentation.NetworkFacts"))
    node.SetAttribute("DDSPSegmentation.NetworkFacts", json.dumps({**said, "expected_dice": 0.88}))
    facts = facts_of(node)
    assert facts.expected_dice is None and facts.warnings == said["warnings"]
    assert facts.why_no_expected_dice == NOT_CALIBRATED.format(what="version 'threshold-1'")
    for damaged in ([0.8], "0.88", {"value": 0.8}, ["a", "b", "c"]):
        node.SetAttribute("DDSPSegmentation.NetworkFacts", json.dumps({**said, "expected_dice": damaged}))
        assert facts_of(node) is None, damaged


@pytest.mark.parametrize("automatic_items", [False, True], ids=["slicer-core", "as in Slicer"])
def test_results_lie_in_the_study_of_their_volume(logic, scene, request, automatic_items):
    if automatic_items:
        tag = add_hierarchy_items(scene)
        request.addfinalizer(lambda: scene.RemoveObserver(tag))
    volume = new_volume()
    hierarchy, study = place_in_study(volume)
    result = logic.segmentProstate(volume, runner=ThresholdRunner())
    for node in (result.outputSegmentationNode, result.tableNode):
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study


def test_surface_is_made_only_where_it_can_be_seen(logic, monkeypatch):
    def has_surface(result):
        return result.outputSegmentationNode.GetSegmentation().ContainsRepresentation("Closed surface")

    assert not has_surface(logic.segmentProstate(new_volume("A"), runner=ThresholdRunner()))

    class Application:
        def layoutManager(self):
            return object()

        def userSettings(self):
            return SimpleNamespace(value=lambda name: None)

    monkeypatch.setattr(slicer, "app", Application(), raising=False)
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: None)
    result = logic.segmentProstate(new_volume("B"), runner=ThresholdRunner())
    assert has_surface(result)
    node = result.outputSegmentationNode
    assert node.GetClosedSurfaceInternalRepresentation("Prostate").GetNumberOfPoints() > 0


def test_surface_follows_the_mask_when_segmented_again(logic):
    volume = new_volume()
    node = logic.segmentProstate(volume, runner=ThresholdRunner()).outputSegmentationNode
    node.CreateClosedSurfaceRepresentation()
    logic.segmentProstate(volume, runner=ThresholdRunner(above=1000))
    assert node.GetClosedSurfaceInternalRepresentation("Prostate").GetNumberOfPoints() == 0


def test_mask_without_a_voxel_is_placed_like_any_other(logic):
    volume = new_volume()
    node = logic.segmentProstate(volume, runner=ThresholdRunner(above=1000)).outputSegmentationNode
    assert not mask_of(node, volume).any()
    assert logic.segmentProstate(volume, runner=ThresholdRunner()).outputSegmentationNode is node
    assert mask_of(node, volume).sum() == 720


def test_uncertainty_becomes_a_volume_only_when_asked(logic):
    volume = new_volume()
    put_under_transform(volume, rigid_matrix())
    hierarchy, study = place_in_study(volume)
    result = logic.segmentProstate(volume, runner=ThresholdRunner())
    assert len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")) == 1
    shown = logic.addUncertaintyVolume(result, volume)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(shown), 0.25 * (gland_voxels() > 50))
    assert shown.GetParentTransformNode() is volume.GetParentTransformNode()
    assert shown.GetOrigin() == volume.GetOrigin() and shown.GetSpacing() == volume.GetSpacing()
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(shown)) == study


# ---- what the runner is asked


def test_runner_gets_every_setting_and_the_point_in_lps(logic):
    runner, progress = ThresholdRunner(), lambda phase, fraction: None
    logic.segmentProstate(
        new_volume("T2 axial"),
        mode="paper",
        device="cpu",
        model="/models/mine",
        runner=runner,
        biasField="off",
        threshold=0.4,
        location=(1.0, 2.0, 3.0),
        progress=progress,
    )
    assert runner.asked == dict(name="T2 axial", progress=progress)
    assert runner.settings == RunSettings("paper", 0.4, "off", "cpu", Path("/models/mine"), (-1.0, -2.0, 3.0))


# ---- transforms


def test_rigid_transform_moves_the_result_once_and_changes_no_voxel(logic):
    volume = new_volume()
    still = logic.segmentProstate(volume, runner=ThresholdRunner())
    before = mask_of(still.outputSegmentationNode, volume)
    center = np.array(still.outputSegmentationNode.GetSegmentCenterRAS("Prostate"))
    move = rigid_matrix()
    transform_node = put_under_transform(volume, move)
    moved = logic.segmentProstate(volume, runner=ThresholdRunner())
    node = moved.outputSegmentationNode
    assert node is still.outputSegmentationNode and node.GetParentTransformNode() is transform_node
    np.testing.assert_array_equal(mask_of(node, volume), before)
    assert moved.segmentation.measurements.volume_ml == still.segmentation.measurements.volume_ml
    expected = (move @ [*center, 1.0])[:3]
    assert np.array(node.GetSegmentCenterRAS("Prostate")) == pytest.approx(expected, abs=1e-3)


def test_image_of_a_moved_volume_is_moved_once(logic):
    volume, runner = new_volume(), ThresholdRunner()
    put_under_transform(volume, rigid_matrix(0.0, shift=(5.0, 6.0, 7.0)))
    logic.segmentProstate(volume, runner=runner)
    assert runner.image.GetOrigin() == pytest.approx((-16.0, 1.0, 47.0))


def test_scaling_transform_changes_the_millilitres(logic):
    volume = new_volume()
    before = logic.segmentProstate(volume, runner=ThresholdRunner()).segmentation.measurements.volume_ml
    put_under_transform(volume, np.diag([2.0, 1.0, 1.5, 1.0]))
    after = logic.segmentProstate(volume, runner=ThresholdRunner())
    assert after.segmentation.measurements.volume_ml == pytest.approx(3 * before)
    np.testing.assert_array_equal(mask_of(after.outputSegmentationNode, volume), gland_voxels() > 50)


def test_sheared_volume_is_refused_and_the_scene_stays_as_it_was(logic):
    volume = new_volume()
    shear = np.eye(4)
    shear[0, 1] = 0.01
    put_under_transform(volume, shear)
    before = node_names()
    with pytest.raises(InputError, match="sheared"):
        logic.segmentProstate(volume, runner=ThresholdRunner())
    assert node_names() == before


def test_left_handed_oblique_volume_gets_its_mask_back(logic):
    matrix = rigid_matrix(25.0) @ np.diag([-0.5, 0.6, 3.0, 1.0])
    volume = new_volume(ijk_to_ras=matrix)
    result = logic.segmentProstate(volume, runner=ThresholdRunner())
    np.testing.assert_array_equal(mask_of(result.outputSegmentationNode, volume), gland_voxels() > 50)


def test_contour_of_a_volume_that_was_hardened_alone_is_read_where_it_is(logic):
    from DDSPSegmentationLib.scene.conversion import read_segment
    from DDSPSegmentationLib.scene.result_nodes import is_edited, measure

    volume = new_volume()
    put_under_transform(volume, rigid_matrix(0.0, shift=(40.0, 0.0, 0.0)))
    node = logic.segmentProstate(volume, runner=ThresholdRunner()).outputSegmentationNode
    volume.HardenTransform()
    assert node.GetParentTransformNode() is not None and volume.GetParentTransformNode() is None
    np.testing.assert_array_equal(read_segment(node, "Prostate", volume), gland_voxels() > 50)
    assert not is_edited(node, volume)
    assert measure(node, volume).volume_ml == pytest.approx(720 * 0.75 / 1000)


def test_other_segments_stay_where_they_are_when_the_volume_was_moved(logic):
    volume = new_volume()
    node = logic.segmentProstate(volume, runner=ThresholdRunner()).outputSegmentationNode
    node.GetSegmentation().AddEmptySegment("Lesion", "Lesion")
    transform = put_under_transform(node, rigid_matrix())
    again = logic.segmentProstate(volume, runner=ThresholdRunner())
    assert again.outputSegmentationNode is not node and node.GetParentTransformNode() is transform


def test_contour_drawn_on_a_finer_grid_counts_as_edited(logic):
    from DDSPSegmentationLib.scene.result_nodes import is_edited

    volume = new_volume()
    node = logic.segmentProstate(volume, runner=ThresholdRunner()).outputSegmentationNode
    fine = new_volume("Fine", gland_voxels().repeat(2, 0).repeat(2, 1).repeat(2, 2))
    matrix = slicer.util.arrayFromVTKMatrix(ijk_to_ras_of(volume)) @ np.diag([0.5, 0.5, 0.5, 1.0])
    fine.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(matrix))
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        (slicer.util.arrayFromVolume(fine) > 50).astype(np.uint8), node, "Prostate", fine
    )
    assert is_edited(node, volume)
    assert logic.segmentProstate(volume, runner=ThresholdRunner()).outputSegmentationNode is not node


def ijk_to_ras_of(volume):
    found = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(found)
    return found


def test_emptied_result_of_another_patient_leaves_neither_psa_nor_table(logic):
    from DDSPSegmentationLib.scene.result_nodes import psa_of, set_psa

    first, second = new_volume("A"), new_volume("B")
    result = logic.segmentProstate(first, runner=ThresholdRunner())
    node = result.outputSegmentationNode
    set_psa(node, 6.5)
    node.GetSegmentation().RemoveAllSegments()
    again = logic.segmentProstate(second, node, runner=ThresholdRunner())
    assert again.outputSegmentationNode is node and psa_of(node) == 0
    assert tables() == [again.tableNode]


def test_volume_that_was_cropped_since_has_no_result(logic):
    from DDSPSegmentationLib.scene.result_nodes import results_of

    volume = new_volume()
    node = logic.segmentProstate(volume, runner=ThresholdRunner()).outputSegmentationNode
    assert results_of(volume) == [node]
    slicer.util.updateVolumeFromArray(volume, gland_voxels()[:8])
    assert results_of(volume) == []


def test_contour_that_is_no_labelmap_is_not_written_into(logic):
    from DDSPSegmentationLib.scene.conversion import write_segment

    volume = new_volume()
    node = logic.segmentProstate(volume, runner=ThresholdRunner()).outputSegmentationNode
    node.CreateClosedSurfaceRepresentation()
    node.SetSourceRepresentationToClosedSurface()
    with pytest.raises(InputError, match=NO_LABELMAP):
        write_segment(gland_voxels() > 50, node, "Prostate", volume)


# ---- segmenting again


def test_segmenting_again_updates_a_result_that_nobody_edited(logic):
    volume = new_volume()
    first = logic.segmentProstate(volume, runner=ThresholdRunner())
    before = node_names()
    second = logic.segmentProstate(volume, mode="paper", runner=ThresholdRunner(above=1000))
    assert second.outputSegmentationNode is first.outputSegmentationNode
    assert second.tableNode is first.tableNode
    assert node_names() == before
    assert first.outputSegmentationNode.GetSegmentation().GetNumberOfSegments() == 1
    assert not mask_of(second.outputSegmentationNode, volume).any()
    assert slicer.util.arrayFromTableColumn(second.tableNode, "volume_ml")[0] == 0
    assert second.outputSegmentationNode.GetAttribute("DDSPSegmentation.Mode") == "paper"


def test_edited_contour_is_kept_and_the_caller_is_told(logic):
    volume = new_volume()
    first = logic.segmentProstate(volume, runner=ThresholdRunner())
    edited = edit(first.outputSegmentationNode, volume)
    second = logic.segmentProstate(volume, runner=ThresholdRunner())
    assert second.outputSegmentationNode is not first.outputSegmentationNode
    assert second.tableNode is not first.tableNode
    np.testing.assert_array_equal(mask_of(first.outputSegmentationNode, volume), edited)
    np.testing.assert_array_equal(mask_of(second.outputSegmentationNode, volume), gland_voxels() > 50)
    assert KEPT in second.message
    assert first.outputSegmentationNode.GetName() != second.outputSegmentationNode.GetName()
    assert f"'{first.outputSegmentationNode.GetName()}'" in second.message
    assert f"'{second.outputSegmentationNode.GetName()}'" in second.message


def test_edited_output_that_was_asked_for_again_does_not_pile_up_new_ones(logic):
    volume = new_volume()
    edited = logic.segmentProstate(volume, runner=ThresholdRunner()).outputSegmentationNode
    edit(edited, volume)
    second, third = (logic.segmentProstate(volume, edited, runner=ThresholdRunner()) for _ in range(2))
    assert second.outputSegmentationNode is not edited
    assert third.outputSegmentationNode is second.outputSegmentationNode
    assert KEPT in third.message


def test_third_time_updates_the_second_result_beside_an_edited_one(logic):
    volume = new_volume()
    first = logic.segmentProstate(volume, runner=ThresholdRunner())
    edit(first.outputSegmentationNode, volume)
    second = logic.segmentProstate(volume, runner=ThresholdRunner())
    third = logic.segmentProstate(volume, runner=ThresholdRunner())
    assert third.outputSegmentationNode is second.outputSegmentationNode
    assert (len(segmentations()), len(tables())) == (2, 2)


def test_edit_that_was_undone_is_no_edit(logic):
    volume = new_volume()
    node = logic.segmentProstate(volume, runner=ThresholdRunner()).outputSegmentationNode
    edit(node, volume)
    mask = (gland_voxels() > 50).astype(np.uint8)
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, "Prostate", volume)
    assert logic.segmentProstate(volume, runner=ThresholdRunner()).outputSegmentationNode is node


def test_latest_untouched_result_is_updated(logic):
    volume = new_volume()
    first = logic.segmentProstate(volume, runner=ThresholdRunner()).outputSegmentationNode
    edit(first, volume)
    second = logic.segmentProstate(volume, runner=ThresholdRunner()).outputSegmentationNode
    mask = (gland_voxels() > 50).astype(np.uint8)
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, first, "Prostate", volume)
    assert logic.segmentProstate(volume, runner=ThresholdRunner()).outputSegmentationNode is second
    edit(second, volume)
    assert logic.segmentProstate(volume, runner=ThresholdRunner()).outputSegmentationNode is first


def test_edited_contour_is_replaced_when_asked(logic):
    volume = new_volume()
    first = logic.segmentProstate(volume, runner=ThresholdRunner())
    edit(first.outputSegmentationNode, volume)
    second = logic.segmentProstate(volume, runner=ThresholdRunner(), overwriteEdited=True)
    assert second.outputSegmentationNode is first.outputSegmentationNode
    np.testing.assert_array_equal(mask_of(second.outputSegmentationNode, volume), gland_voxels() > 50)
    assert second.message == ""


def test_renamed_result_is_updated_under_its_new_name(logic):
    volume = new_volume()
    node = logic.segmentProstate(volume, runner=ThresholdRunner()).outputSegmentationNode
    segment_of(node).SetName("Gland")
    assert logic.segmentProstate(volume, runner=ThresholdRunner()).outputSegmentationNode is node
    assert node.GetSegmentation().GetNumberOfSegments() == 1 and segment_of(node, "Gland") is not None


def test_segments_that_a_user_added_are_kept(logic):
    volume = new_volume()
    node = logic.segmentProstate(volume, runner=ThresholdRunner()).outputSegmentationNode
    lesion = np.zeros((12, 20, 24), np.uint8)
    lesion[4:6, 8:10, 6:9] = 1
    add_segment(node, volume, "Lesion", lesion)
    node.GetSegmentation().CollapseBinaryLabelmaps(False)
    again = logic.segmentProstate(volume, runner=ThresholdRunner())
    assert again.outputSegmentationNode is node
    np.testing.assert_array_equal(mask_of(node, volume, "Lesion"), lesion)
    np.testing.assert_array_equal(mask_of(node, volume), gland_voxels() > 50)


def test_two_volumes_have_two_results(logic):
    volumes = [new_volume("A"), new_volume("B")]
    nodes = [logic.segmentProstate(volume, runner=ThresholdRunner()).outputSegmentationNode for volume in volumes]
    assert nodes[0] is not nodes[1]
    assert logic.segmentProstate(volumes[0], runner=ThresholdRunner()).outputSegmentationNode is nodes[0]


def test_result_of_a_volume_that_was_cropped_is_kept(logic):
    volume = new_volume()
    first = logic.segmentProstate(volume, runner=ThresholdRunner()).outputSegmentationNode
    slicer.util.updateVolumeFromArray(volume, gland_voxels()[1:])
    second = logic.segmentProstate(volume, runner=ThresholdRunner())
    assert second.outputSegmentationNode is not first
    assert mask_of(second.outputSegmentationNode, volume).shape == (11, 20, 24)


def test_deleted_table_comes_back(logic):
    volume = new_volume()
    first = logic.segmentProstate(volume, runner=ThresholdRunner())
    slicer.mrmlScene.RemoveNode(first.tableNode)
    second = logic.segmentProstate(volume, runner=ThresholdRunner())
    assert second.outputSegmentationNode is first.outputSegmentationNode
    assert tables() == [second.tableNode]


def test_scene_saved_and_opened_again_still_knows_its_result(logic, scene, tmp_path):
    volume = new_volume()
    node = logic.segmentProstate(volume, runner=ThresholdRunner()).outputSegmentationNode
    for stored in (volume, node):
        stored.AddDefaultStorageNode()
        suffix = "nrrd" if stored is volume else "seg.nrrd"
        stored.GetStorageNode().SetFileName(str(tmp_path / f"{stored.GetName()}.{suffix}"))
        assert stored.GetStorageNode().WriteData(stored)
    scene.SetURL(str(tmp_path / "scene.mrml"))
    scene.Commit()
    scene.Clear(0)
    scene.Connect()
    volume = slicer.util.getNode("T2")
    (node,) = segmentations()
    assert logic.segmentProstate(volume, runner=ThresholdRunner()).outputSegmentationNode is node
    edit(node, volume)
    assert logic.segmentProstate(volume, runner=ThresholdRunner()).outputSegmentationNode is not node


# ---- an output chosen by the caller


def test_empty_output_is_filled(logic):
    volume = new_volume()
    output = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Mine")
    result = logic.segmentProstate(volume, output, runner=ThresholdRunner())
    assert result.outputSegmentationNode is output and output.GetName() == "Mine"
    np.testing.assert_array_equal(mask_of(output, volume), gland_voxels() > 50)


def drawn_segmentation(volume, name):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Drawn")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    drawn = np.zeros((12, 20, 24), np.uint8)
    drawn[4:7, 6:12, 5:11] = 1
    add_segment(node, volume, name, drawn)
    return node, drawn


def test_prostate_is_added_beside_foreign_segments(logic):
    volume = new_volume()
    node, drawn = drawn_segmentation(volume, "Bladder")
    result = logic.segmentProstate(volume, node, runner=ThresholdRunner())
    assert result.outputSegmentationNode is node and result.message == ""
    np.testing.assert_array_equal(mask_of(node, volume, "Bladder"), drawn)
    np.testing.assert_array_equal(mask_of(node, volume), gland_voxels() > 50)


def test_prostate_that_somebody_drew_is_kept(logic):
    volume = new_volume()
    node, drawn = drawn_segmentation(volume, "Prostate")
    result = logic.segmentProstate(volume, node, runner=ThresholdRunner())
    assert result.outputSegmentationNode is not node
    np.testing.assert_array_equal(mask_of(node, volume), drawn)
    assert "The segment Prostate in 'Drawn' was not made here and is kept" in result.message


def test_prostate_that_somebody_drew_is_replaced_when_asked(logic):
    volume = new_volume()
    node, _drawn = drawn_segmentation(volume, "Prostate")
    result = logic.segmentProstate(volume, node, runner=ThresholdRunner(), overwriteEdited=True)
    assert result.outputSegmentationNode is node
    assert node.GetSegmentation().GetNumberOfSegments() == 1
    np.testing.assert_array_equal(mask_of(node, volume), gland_voxels() > 50)


@pytest.mark.parametrize("overwrite", [False, True])
def test_result_of_another_volume_is_left_alone(logic, overwrite):
    other, volume = new_volume("Other"), new_volume("T2")
    node = logic.segmentProstate(other, runner=ThresholdRunner()).outputSegmentationNode
    result = logic.segmentProstate(volume, node, runner=ThresholdRunner(above=1000), overwriteEdited=overwrite)
    assert result.outputSegmentationNode is not node
    assert mask_of(node, other).sum() == 720
    assert "belongs to another volume" in result.message


def test_foreign_segments_under_another_transform_are_not_moved(logic):
    volume = new_volume()
    node, drawn = drawn_segmentation(volume, "Bladder")
    put_under_transform(volume, rigid_matrix())
    result = logic.segmentProstate(volume, node, runner=ThresholdRunner())
    assert result.outputSegmentationNode is not node
    assert node.GetParentTransformNode() is None


def test_surface_model_is_left_alone(logic):
    volume = new_volume()
    node, _drawn = drawn_segmentation(volume, "Bladder")
    node.CreateClosedSurfaceRepresentation()
    node.SetSourceRepresentationToClosedSurface()
    result = logic.segmentProstate(volume, node, runner=ThresholdRunner())
    assert result.outputSegmentationNode is not node
    assert NO_LABELMAP in result.message


def test_message_survives_a_name_with_braces(logic):
    volume = new_volume()
    first = logic.segmentProstate(volume, runner=ThresholdRunner())
    first.outputSegmentationNode.SetName("{new} {0}")
    edit(first.outputSegmentationNode, volume)
    assert "'{new} {0}'" in logic.segmentProstate(volume, runner=ThresholdRunner()).message


@pytest.mark.parametrize("make", [lambda: new_volume("Not it"), slicer.vtkMRMLSegmentationNode, lambda: "Prostate"])
def test_output_that_is_no_segmentation_of_the_scene_is_refused(logic, make):
    volume, runner = new_volume(), ThresholdRunner()
    with pytest.raises(InputError, match="is not a segmentation of this scene"):
        logic.segmentProstate(volume, make(), runner=runner)
    assert runner.image is None


# ---- what stays as it was


def test_volume_is_never_changed(logic):
    volume = new_volume()
    put_under_transform(volume, rigid_matrix())
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    geometry = slicer.util.arrayFromVTKMatrix(matrix)

    def state():
        return volume.GetImageData().GetMTime(), volume.GetName(), volume.GetTransformNodeID()

    before = state()
    voxels = slicer.util.arrayFromVolume(volume).copy()
    result = logic.segmentProstate(volume, runner=ThresholdRunner())
    logic.segmentProstate(volume, runner=ThresholdRunner())
    logic.addUncertaintyVolume(result, volume)
    assert state() == before
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(volume), voxels)
    volume.GetIJKToRASMatrix(matrix)
    np.testing.assert_array_equal(slicer.util.arrayFromVTKMatrix(matrix), geometry)


@pytest.mark.parametrize("failure", [InputError("Too small."), Canceled(), RuntimeError("torch")])
def test_failing_runner_leaves_the_scene_as_it_was(logic, failure):
    class FailingRunner:
        def segment(self, *args, **kwargs):
            raise failure

    volume = new_volume()
    before = node_names()
    with pytest.raises(type(failure)):
        logic.segmentProstate(volume, runner=FailingRunner())
    assert node_names() == before


def test_failing_table_takes_the_new_nodes_away_again(logic, monkeypatch):
    from DDSPSegmentationLib.scene import results

    def fail(*args):
        raise MemoryError

    volume = new_volume()
    hierarchy, _study = place_in_study(volume)
    before, items = node_names(), hierarchy.GetNumberOfItems()
    monkeypatch.setattr(results, "write_row", fail)
    with pytest.raises(MemoryError):
        logic.segmentProstate(volume, runner=ThresholdRunner())
    assert node_names() == before and hierarchy.GetNumberOfItems() == items


class MeddlingRunner(ThresholdRunner):
    """Somebody works in the scene while the runner is busy."""

    def __init__(self, meddle):
        super().__init__()
        self.meddle = meddle

    def segment(self, image, settings, **told):
        segmentation = super().segment(image, settings, **told)
        self.meddle()
        return segmentation


@pytest.mark.parametrize(
    "meddle",
    [
        lambda volume: slicer.mrmlScene.RemoveNode(volume),
        lambda volume: slicer.mrmlScene.Clear(0),
        lambda volume: slicer.util.updateVolumeFromArray(volume, gland_voxels()[::-1]),
        lambda volume: volume.SetSpacing(1, 1, 1),
        lambda volume: put_under_transform(volume, rigid_matrix()),
        lambda volume: volume.SetAndObserveImageData(None),
    ],
    ids=["deleted", "scene closed", "voxels", "spacing", "transform", "emptied"],
)
def test_result_of_a_volume_that_changed_meanwhile_is_dropped(logic, meddle):
    volume = new_volume()
    with pytest.raises(InputError, match="Volume 'T2' was (deleted|changed) while.*the result was dropped"):
        logic.segmentProstate(volume, runner=MeddlingRunner(lambda: meddle(volume)))
    assert segmentations() == [] and tables() == []


def test_output_deleted_meanwhile_is_replaced_by_a_new_one(logic):
    volume = new_volume()
    output = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Mine")
    runner = MeddlingRunner(lambda: slicer.mrmlScene.RemoveNode(output))
    result = logic.segmentProstate(volume, output, runner=runner)
    assert segmentations() == [result.outputSegmentationNode] and result.outputSegmentationNode is not output


def test_edit_made_meanwhile_is_kept(logic):
    volume = new_volume()
    node = logic.segmentProstate(volume, runner=ThresholdRunner()).outputSegmentationNode
    result = logic.segmentProstate(volume, runner=MeddlingRunner(lambda: edit(node, volume)))
    assert result.outputSegmentationNode is not node
    assert mask_of(node, volume)[5].sum() == 0


def test_mask_of_another_size_is_refused(logic):
    class CroppingRunner(ThresholdRunner):
        def segment(self, image, settings, **told):
            return super().segment(image[1:], settings, **told)

    before = [new_volume(), node_names()][1]
    with pytest.raises(InputError, match=r"\(23, 20, 12\) voxels, the volume \(24, 20, 12\)"):
        logic.segmentProstate(slicer.util.getNode("T2"), runner=CroppingRunner())
    assert node_names() == before


# ---- the real network


def test_built_in_model_segments_the_sample_scan_wherever_it_lies(logic, sample_scan):
    volume = add_volume_node(read_image(sample_scan), "ProstateX-0000")
    still = logic.segmentProstate(volume, biasField="off")  # quicker, and no matter here
    node = still.outputSegmentationNode
    mask = mask_of(node, volume)
    center = np.array(node.GetSegmentCenterRAS("Prostate"))
    counted_ml = mask.sum() * np.prod(volume.GetSpacing()) / 1000
    assert 10 < counted_ml < 250
    assert slicer.util.arrayFromTableColumn(still.tableNode, "volume_ml")[0] == pytest.approx(counted_ml, abs=0.01)
    assert still.segmentation.expected_dice is None
    assert np.isnan(slicer.util.arrayFromTableColumn(still.tableNode, "expected_dice")).all()

    move = rigid_matrix()
    put_under_transform(volume, move)
    moved = logic.segmentProstate(volume, biasField="off")
    assert moved.outputSegmentationNode is node
    np.testing.assert_array_equal(mask_of(node, volume), mask)
    assert np.array(node.GetSegmentCenterRAS("Prostate")) == pytest.approx((move @ [*center, 1.0])[:3], abs=0.01)
