"""What a review does with the views: real slice nodes, composite nodes and slice logics in a real MRML scene."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import slicer
import vtk
from headless_host import start
from scene_parts import SHAPE, gland_voxels, new_volume, put_under_transform, rigid_matrix
from vtk.util.numpy_support import vtk_to_numpy

from DDSPSegmentationLib.scene.contour_display import apply_display, set_surface_smoothing
from DDSPSegmentationLib.scene.conversion import write_segment
from DDSPSegmentationLib.scene.slice_views import (
    SliceTour,
    acquired_axis,
    jump_to_slice,
    least_certain_slices,
    show_volume,
    slice_logics,
)
from DDSPSegmentationLib.scene.uncertainty_overlay import UncertaintyOverlay

pytestmark = pytest.mark.usefixtures("scene")
SURFACE = slicer.vtkSegmentationConverter.GetClosedSurfaceRepresentationName()


class Layout:
    """A layout manager of real slice views: Red, Green and Yellow, and those that are added."""

    def __init__(self):
        self.logics = vtk.vtkCollection()
        for name in ("Axial", "Coronal", "Sagittal"):
            self.add(name)

    def add(self, orientation, name=None):
        scene = slicer.mrmlScene
        view = slicer.vtkMRMLSliceNode()
        for say in (view.SetName, view.SetLayoutName, view.SetSingletonTag):
            say(name or orientation)
        preset = vtk.vtkMatrix3x3()
        getattr(slicer.vtkMRMLSliceNode, f"Get{orientation}SliceToRASMatrix")(preset)
        view.AddSliceOrientationPreset(orientation, preset)
        view = scene.AddNode(view)
        view.SetOrientation(orientation)
        view.SetDimensions(400, 300, 1)
        logic = slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(start().logics["application"])
        logic.SetMRMLScene(scene)
        logic.SetSliceNode(view)
        self.logics.AddItem(logic)
        return logic

    def mrmlSliceLogics(self):
        return self.logics

    @property
    def views(self):
        return [self.logics.GetItemAsObject(number).GetSliceNode() for number in range(self.logics.GetNumberOfItems())]

    @property
    def composites(self):
        count = self.logics.GetNumberOfItems()
        return [self.logics.GetItemAsObject(number).GetSliceCompositeNode() for number in range(count)]

    def close(self):
        for node in (*self.views, *self.composites):
            slicer.mrmlScene.RemoveNode(node)
        self.logics.RemoveAllItems()


@pytest.fixture
def layout(scene, monkeypatch):
    layout = Layout()
    monkeypatch.setattr(slicer, "app", SimpleNamespace(layoutManager=lambda: layout), raising=False)
    yield layout
    layout.close()


@pytest.fixture
def legends(scene):
    """The color legends that there are."""
    return lambda: slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode")


def oblique_volume(name="T2", degrees=20.0):
    matrix = rigid_matrix(degrees, (1.0, 0.2, -0.3))
    matrix[:3, :3] *= (0.5, 0.5, 3.0)
    return new_volume(name, ijk_to_ras=matrix)


def world(volume, ijk):
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    point = [0.0, 0.0, 0.0]
    volume.TransformPointToWorld(matrix.MultiplyPoint((*ijk, 1.0))[:3], point)
    return np.array(point)


def normal(view):
    return slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS())[:3, 2]


def looked_at(view):
    """The middle of a view in the world, from what the view itself maps its pixels to."""
    width, height, _ = view.GetDimensions()
    return np.array(view.GetXYToRAS().MultiplyPoint((width / 2, height / 2, 0, 1))[:3])


def slice_direction(volume):
    direction = world(volume, (0, 0, 1)) - world(volume, (0, 0, 0))
    return direction / np.linalg.norm(direction)


def show_doubt(overlay, doubt, opacity):
    """Over the scan that is in the views; they are given one where they show none."""
    scan = slicer.mrmlScene.GetFirstNodeByName("T2") or doubt
    for composite in (logic.GetSliceCompositeNode() for logic in slice_logics()):
        if not composite.GetBackgroundVolumeID():
            composite.SetBackgroundVolumeID(scan.GetID())
    overlay.show(doubt, scan, opacity)


def doubt_volume(volume, name="Doubt"):
    node = new_volume(name, gland_voxels().astype(np.float32) / 100)
    node.CopyOrientation(volume)
    return node


# ---- without views


def test_nothing_happens_without_views(monkeypatch):
    volume = new_volume()
    doubt = doubt_volume(volume)
    overlay = UncertaintyOverlay()
    for application in (None, SimpleNamespace(layoutManager=lambda: None)):
        if application is not None:
            monkeypatch.setattr(slicer, "app", application, raising=False)
        show_volume(volume)
        jump_to_slice(volume, gland_voxels(), 5)
        show_doubt(overlay, doubt, 0.5)
        assert not overlay.is_shown()
        overlay.set_opacity(0.3)
        overlay.hide()
        overlay.forget()


def test_nothing_happens_in_a_layout_without_slice_views(layout):
    layout.close()
    volume = new_volume()
    show_volume(volume)
    jump_to_slice(volume, None, 5)
    overlay = UncertaintyOverlay()
    show_doubt(overlay, doubt_volume(volume), 0.5)
    assert not overlay.is_shown()


# ---- the volume


def test_volume_is_the_background_of_every_view_in_its_acquired_plane(layout):
    volume = oblique_volume()
    show_volume(volume)
    assert {composite.GetBackgroundVolumeID() for composite in layout.composites} == {volume.GetID()}
    axial, *others = layout.views
    assert abs(normal(axial) @ slice_direction(volume)) == pytest.approx(1)
    for view in others:
        assert normal(view) @ slice_direction(volume) == pytest.approx(0, abs=1e-6)


def test_parent_transform_turns_the_views_too(layout):
    volume = oblique_volume(degrees=10)
    put_under_transform(volume, rigid_matrix(15.0))
    show_volume(volume)
    assert abs(normal(layout.views[0]) @ slice_direction(volume)) == pytest.approx(1)


def test_non_linear_transform_leaves_the_planes_alone(layout):
    volume = oblique_volume()
    warp = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "Warp")
    warp.SetAndObserveTransformFromParent(vtk.vtkThinPlateSplineTransform())
    volume.SetAndObserveTransformNodeID(warp.GetID())
    show_volume(volume)
    assert normal(layout.views[0]) == pytest.approx((0, 0, 1))
    assert layout.composites[0].GetBackgroundVolumeID() == volume.GetID()


def test_views_are_fitted_to_a_volume_they_did_not_show(layout):
    volume = oblique_volume()
    show_volume(volume)
    for view in layout.views:
        assert looked_at(view) == pytest.approx(world(volume, (11.5, 9.5, 5.5)), abs=3.1)
        assert max(view.GetFieldOfView()) < 100
    other = new_volume("Far away", ijk_to_ras=np.diag([2.0, 2.0, 3.0, 1.0]))
    show_volume(other)
    assert looked_at(layout.views[0]) == pytest.approx(world(other, (11.5, 9.5, 5.5)), abs=3.1)


def test_zoom_and_place_of_a_view_that_shows_the_volume_stay(layout):
    volume = oblique_volume()
    for composite in layout.composites:
        composite.SetBackgroundVolumeID(volume.GetID())
    places = []
    for number, view in enumerate(layout.views):
        view.SetFieldOfView(40, 30, 1)
        view.SetXYZOrigin(3.0, -4.0, 0.0)  # a view that was panned
        view.SetSliceOffset(10.0 + number)
        places.append(looked_at(view))
    show_volume(volume)
    for view, place in zip(layout.views, places, strict=True):
        assert looked_at(view) == pytest.approx(place, abs=1e-6)
        assert view.GetFieldOfView() == (40, 30, 1)
    assert abs(normal(layout.views[0]) @ slice_direction(volume)) == pytest.approx(1)


def test_showing_a_volume_again_moves_nothing(layout):
    volume = oblique_volume()
    show_volume(volume)
    layout.views[0].SetFieldOfView(40, 30, 1)
    layout.views[0].SetSliceOffset(layout.views[0].GetSliceOffset() + 6)
    before = [slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS()).copy() for view in layout.views]
    show_volume(volume)
    show_volume(None)
    for view, matrix in zip(layout.views, before, strict=True):
        np.testing.assert_allclose(slicer.util.arrayFromVTKMatrix(view.GetSliceToRAS()), matrix, atol=1e-9)
    assert layout.views[0].GetFieldOfView() == (40, 30, 1)


def test_a_view_that_comes_later_is_fitted_alone(layout):
    volume = oblique_volume()
    show_volume(volume)
    layout.views[0].SetFieldOfView(40, 30, 1)
    later = layout.add("Axial", "Compare")
    show_volume(volume)
    assert later.GetSliceCompositeNode().GetBackgroundVolumeID() == volume.GetID()
    assert layout.views[0].GetFieldOfView() == (40, 30, 1)


# ---- the doubt


def test_doubt_is_laid_over_every_view_in_fixed_colors(layout, legends):
    color_node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLColorTableNode", "Inferno")
    doubt = doubt_volume(new_volume())
    overlay = UncertaintyOverlay()
    show_doubt(overlay, doubt, 0.4)
    assert overlay.is_shown()
    for composite in layout.composites:
        assert composite.GetForegroundVolumeID() == doubt.GetID()
        assert composite.GetForegroundOpacity() == pytest.approx(0.4)
    display = doubt.GetScalarVolumeDisplayNode()
    assert display.GetColorNode() is color_node
    assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == (0, 1)
    assert not display.GetAutoWindowLevel()
    assert display.GetApplyThreshold() and not display.GetAutoThreshold()
    assert display.GetLowerThreshold() == pytest.approx(0.1) and display.GetUpperThreshold() > 1
    overlay.set_opacity(0.7)
    assert layout.composites[1].GetForegroundOpacity() == pytest.approx(0.7)


def test_another_map_is_taken_where_inferno_is_missing(layout):
    new_volume("Inferno")  # no color table
    doubt = doubt_volume(new_volume())
    show_doubt(UncertaintyOverlay(), doubt, 0.4)
    assert doubt.GetDisplayNode().GetColorNode().GetName() == "Iron"


def test_hiding_restores_what_each_view_had(layout, legends):
    volume, other = new_volume(), new_volume("ADC")
    red, green, yellow = layout.composites
    red.SetForegroundVolumeID(other.GetID())
    red.SetForegroundOpacity(0.6)
    green.SetForegroundOpacity(0.25)
    red.SetLabelVolumeID(volume.GetID())
    overlay = UncertaintyOverlay()
    show_doubt(overlay, doubt_volume(volume), 0.4)
    show_doubt(overlay, doubt_volume(volume, "Another"), 0.5)
    overlay.hide()
    assert not overlay.is_shown()
    assert (red.GetForegroundVolumeID(), red.GetForegroundOpacity()) == (other.GetID(), 0.6)
    assert (green.GetForegroundVolumeID(), green.GetForegroundOpacity()) == (None, 0.25)
    assert yellow.GetForegroundVolumeID() is None
    assert red.GetLabelVolumeID() == volume.GetID()
    overlay.hide()
    assert red.GetForegroundVolumeID() == other.GetID()


def test_foreground_that_the_user_chose_meanwhile_stays(layout):
    volume, other = new_volume(), new_volume("ADC")
    doubt = doubt_volume(volume)
    red, green, _ = layout.composites
    overlay = UncertaintyOverlay()
    show_doubt(overlay, doubt, 0.4)
    red.SetForegroundVolumeID(other.GetID())
    red.SetForegroundOpacity(0.9)
    overlay.set_opacity(0.2)
    show_doubt(overlay, doubt, 0.3)
    assert red.GetForegroundVolumeID() == other.GetID()
    assert green.GetForegroundOpacity() == pytest.approx(0.3)
    overlay.hide()
    assert (red.GetForegroundVolumeID(), red.GetForegroundOpacity()) == (other.GetID(), 0.9)
    assert green.GetForegroundVolumeID() is None


def test_views_that_came_later_are_taken_in_and_given_back(layout):
    doubt, other = doubt_volume(new_volume()), new_volume("ADC")
    overlay = UncertaintyOverlay()
    show_doubt(overlay, doubt, 0.4)
    later = layout.add("Coronal", "Compare").GetSliceCompositeNode()
    later.SetForegroundVolumeID(other.GetID())
    later.SetForegroundOpacity(0.8)
    show_doubt(overlay, doubt, 0.4)
    assert later.GetForegroundVolumeID() == doubt.GetID()
    overlay.hide()
    assert (later.GetForegroundVolumeID(), later.GetForegroundOpacity()) == (other.GetID(), 0.8)


def test_foreground_that_was_deleted_meanwhile_is_not_brought_back(layout):
    other = new_volume("ADC")
    for composite in layout.composites:
        composite.SetForegroundVolumeID(other.GetID())
    overlay = UncertaintyOverlay()
    show_doubt(overlay, doubt_volume(new_volume()), 0.4)
    slicer.mrmlScene.RemoveNode(other)
    overlay.hide()
    assert {composite.GetForegroundVolumeID() for composite in layout.composites} == {None}


def test_deleted_doubt_volume_gives_the_foreground_back(layout, legends):
    other = new_volume("ADC")
    doubt = doubt_volume(other)
    layout.composites[0].SetForegroundVolumeID(other.GetID())
    overlay = UncertaintyOverlay()
    show_doubt(overlay, doubt, 0.4)
    slicer.mrmlScene.RemoveNode(doubt)
    assert not overlay.is_shown()
    overlay.set_opacity(0.5)
    overlay.hide()
    assert layout.composites[0].GetForegroundVolumeID() == other.GetID()
    again = doubt_volume(other)
    show_doubt(overlay, again, 0.4)
    assert overlay.is_shown() and layout.composites[0].GetForegroundVolumeID() == again.GetID()


@pytest.mark.parametrize("end", [UncertaintyOverlay.hide, UncertaintyOverlay.forget])
def test_closed_scene_leaves_no_state(layout, legends, end):
    overlay = UncertaintyOverlay()
    show_doubt(overlay, doubt_volume(new_volume()), 0.4)
    slicer.mrmlScene.Clear(0)
    end(overlay)
    assert not overlay.is_shown()
    bystander = new_volume("Bystander")
    layout.composites[0].SetForegroundVolumeID(bystander.GetID())
    overlay.set_opacity(0.9)
    overlay.hide()
    assert layout.composites[0].GetForegroundVolumeID() == bystander.GetID()
    assert layout.composites[0].GetForegroundOpacity() != pytest.approx(0.9)


def test_overlay_that_a_scene_was_saved_with_can_be_hidden(layout):
    doubt = doubt_volume(new_volume())
    for composite in layout.composites:
        composite.SetForegroundVolumeID(doubt.GetID())
        composite.SetForegroundOpacity(0.4)
    overlay = UncertaintyOverlay()
    show_doubt(overlay, doubt, 0.4)
    overlay.hide()
    assert {composite.GetForegroundVolumeID() for composite in layout.composites} == {None}


def test_one_legend_is_seen_and_only_while_the_doubt_is(layout, legends):
    volume = new_volume()
    doubt, other = doubt_volume(volume), doubt_volume(volume, "Other")
    overlay = UncertaintyOverlay()
    show_doubt(overlay, doubt, 0.4)
    show_doubt(overlay, doubt, 0.4)
    (legend,) = legends()
    assert legend.GetTitleText() == "Uncertainty" and legend.GetVisibility()
    assert legend.GetPrimaryDisplayNode() is doubt.GetDisplayNode()
    show_doubt(overlay, other, 0.4)
    assert [node.GetVisibility() for node in legends()] == [0, 1]
    overlay.hide()
    assert not any(node.GetVisibility() for node in legends())
    show_doubt(overlay, doubt, 0.4)
    assert [node.GetVisibility() for node in legends()] == [1, 0]


# ---- the slices


def test_least_certain_slices_come_first_and_empty_ones_not_at_all():
    assert least_certain_slices([None, 0.1, 0.5, math.nan, 0.0, 0.5, 0.2]) == [2, 5, 6, 1, 4]
    assert least_certain_slices([None, math.nan]) == []


def test_tour_starts_at_the_least_certain_slice_and_goes_round():
    tour = SliceTour([None, 0.1, 0.5, 0.3])
    assert len(tour) == 3
    stops = [tour.step(1) for _ in range(4)]
    assert stops == [(2, "1 of 3"), (3, "2 of 3"), (1, "3 of 3"), (2, "1 of 3")]
    assert tour.step(-1) == (1, "3 of 3")
    assert tour.step(-1) == (3, "2 of 3")
    assert SliceTour([None, 0.1, 0.5]).step(-1) == (2, "1 of 2")


def test_tour_without_slices_stops_nowhere():
    tour = SliceTour([None, None])
    assert tour.step(1) is None and tour.step(-1) is None and not len(tour)


@pytest.mark.parametrize(
    ("spacing", "axis"), [((0.5, 0.5, 3), 0), ((3, 0.5, 0.5), 2), ((0.5, 3, 0.5), 1), ((1, 1, 1), 0)]
)
def test_acquired_axis_is_the_coarsest_one_and_k_on_ties(spacing, axis):
    matrix = rigid_matrix()
    matrix[:3, :3] *= spacing
    volume = new_volume(ijk_to_ras=matrix)
    put_under_transform(volume, rigid_matrix(31.0))
    assert acquired_axis(volume) == axis


def test_scale_of_a_transform_counts_for_the_acquired_axis():
    volume = new_volume(ijk_to_ras=np.diag([1.0, 1.0, 2.0, 1.0]))
    put_under_transform(volume, np.diag([4.0, 1.0, 1.0, 1.0]))
    assert acquired_axis(volume) == 2


def test_views_jump_to_the_middle_of_the_gland_in_a_slice(layout):
    volume = oblique_volume()
    put_under_transform(volume, rigid_matrix(12.0))
    show_volume(volume)
    zoom = [view.GetFieldOfView() for view in layout.views]
    mask = (gland_voxels() > 50).astype(np.uint8)
    jump_to_slice(volume, mask, 4)
    for view in layout.views:
        assert looked_at(view) == pytest.approx(world(volume, (9.5, 9.5, 4)), abs=1e-6)
    assert [view.GetFieldOfView() for view in layout.views] == zoom


def test_views_of_every_group_jump(layout):
    volume = new_volume()
    show_volume(volume)
    layout.views[2].SetViewGroup(3)
    jump_to_slice(volume, None, 2)
    assert looked_at(layout.views[2]) == pytest.approx(world(volume, (11.5, 9.5, 2)))


def test_slice_without_gland_is_shown_at_the_middle_of_the_volume(layout):
    volume = new_volume()
    show_volume(volume)
    for mask in (None, np.zeros(SHAPE, np.uint8), gland_voxels() > 50):
        jump_to_slice(volume, mask, 11)
        assert looked_at(layout.views[0]) == pytest.approx(world(volume, (11.5, 9.5, 11)))


def test_slice_of_another_axis_is_found(layout):
    volume = oblique_volume()
    show_volume(volume)
    jump_to_slice(volume, gland_voxels() > 50, 6, axis=2)
    assert looked_at(layout.views[1]) == pytest.approx(world(volume, (6, 9.5, 5.5)), abs=1e-6)


# ---- contour, filling, surface


def new_segmentation(*names):
    volume = new_volume()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Drawn")
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    segments = [node.GetSegmentation().AddEmptySegment(name, name) for name in names]
    for segment_id in segments:
        write_segment(gland_voxels() > 50, node, segment_id, volume)
    return node


def has_surface(node):
    return node.GetSegmentation().ContainsRepresentation(SURFACE)


def test_contour_filling_and_surface_are_switched_one_by_one():
    node = new_segmentation("Prostate")
    apply_display(node, "Prostate", contour=True, fill=False, surface=False)
    display = node.GetDisplayNode()
    assert display.GetSegmentVisibility2DOutline("Prostate") and display.GetVisibility2DOutline()
    assert not display.GetSegmentVisibility2DFill("Prostate") and not display.GetVisibility2DFill()
    assert not has_surface(node)
    apply_display(node, "Prostate", contour=False, fill=True, surface=True)
    assert display.GetVisibility2DFill() and not display.GetVisibility2DOutline() and display.GetVisibility3D()
    assert has_surface(node)
    apply_display(node, "Prostate", contour=False, fill=False, surface=False)
    assert not display.GetVisibility() and not has_surface(node)
    apply_display(node, "Prostate", contour=True, fill=False, surface=False)
    assert display.GetVisibility() and display.GetSegmentVisibility("Prostate")


def test_other_segments_stay_as_they_are_shown():
    node = new_segmentation("Prostate", "Lesion")
    apply_display(node, "Prostate", contour=True, fill=True, surface=True)
    apply_display(node, "Prostate", contour=False, fill=False, surface=False)
    display = node.GetDisplayNode()
    assert not display.GetSegmentVisibility("Prostate")
    assert display.GetVisibility() and display.GetVisibility2DOutline() and display.GetVisibility3D()
    assert display.GetSegmentVisibility("Lesion") and display.GetSegmentVisibility2DOutline("Lesion")
    assert has_surface(node)


def test_smoothing_recomputes_a_surface_that_is_there_and_makes_none():
    node = new_segmentation("Prostate")
    set_surface_smoothing(node, 0.5)
    assert not has_surface(node)
    apply_display(node, "Prostate", contour=True, fill=True, surface=True)

    def points():
        surface = vtk.vtkPolyData()
        node.GetClosedSurfaceRepresentation("Prostate", surface)
        return vtk_to_numpy(surface.GetPoints().GetData()).copy()

    smooth = points()
    set_surface_smoothing(node, 0.0)
    rough = points()
    assert rough.shape != smooth.shape or not np.allclose(rough, smooth, atol=0.05)
    set_surface_smoothing(node, 0.5)
    np.testing.assert_allclose(points(), smooth, atol=1e-4)
