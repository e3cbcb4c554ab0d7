"""Result files read back: voxels, place in the world, what is left alone, and what happens when writing fails."""

import itertools
import os
import signal
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from scene_parts import ThresholdRunner, gland_voxels, new_volume, put_under_transform, rigid_matrix
from slicer_stand_in import add_hierarchy_items
from vtk.util.numpy_support import vtk_to_numpy

from DDSPSegmentationLib import __version__
from DDSPSegmentationLib.engine.errors import InputError, StorageError
from DDSPSegmentationLib.engine.images import read_image
from DDSPSegmentationLib.engine.pictures import PROSTATE_COLOR, contour_picture
from DDSPSegmentationLib.engine.run_settings import RunSettings
from DDSPSegmentationLib.scene.conversion import image_from_volume_node, read_segment, write_segment
from DDSPSegmentationLib.scene.export import (
    dicom_seg_obstacle,
    export_dicom_seg,
    export_nifti,
    export_picture,
    export_seg_nrrd,
    export_stl,
)
from DDSPSegmentationLib.scene.results import place_result

pytestmark = pytest.mark.usefixtures("scene")
SURFACE = slicer.vtkSegmentationConverter.GetClosedSurfaceRepresentationName()


def gland():
    return (gland_voxels() > 50).astype(np.uint8)


def oblique_volume(moved=False, voxels=None):
    matrix = rigid_matrix(23.0, (1.0, 0.2, -0.5))
    matrix[:3, :3] *= (0.6, 0.7, 3.3)
    volume = new_volume("DOE^JANE T2", voxels, matrix)
    if moved:
        put_under_transform(volume, rigid_matrix(31.0, (0.1, 1.0, 0.4)))
    return volume


def new_segmentation(volume, mask, *names):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{volume.GetName()} prostate")
    node.CreateDefaultDisplayNodes()
    node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for name in names or ("Prostate",):
        node.GetSegmentation().AddEmptySegment(name, name)
        write_segment(mask, node, name, volume)
    return node


def world_lps(volume, ijk):
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    point = [0.0, 0.0, 0.0]
    volume.TransformPointToWorld(matrix.MultiplyPoint((*ijk, 1.0))[:3], point)
    return np.array(point) * (-1, -1, 1)


def read_segmentation(path):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Read")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    return node


def points_of(path):
    reader = vtk.vtkSTLReader()
    reader.SetFileName(str(path))
    reader.Update()
    return vtk_to_numpy(reader.GetOutput().GetPoints().GetData())


WRITERS = {
    "prostate.seg.nrrd": lambda node, volume, path: export_seg_nrrd(node, path),
    "prostate.nii.gz": lambda node, volume, path: export_nifti(node, "Prostate", volume, path),
    "prostate.stl": lambda node, volume, path: export_stl(node, "Prostate", path),
    "prostate.png": lambda node, volume, path: export_picture(node, "Prostate", volume, path),
}
every_writer = pytest.mark.parametrize("name", WRITERS)


# ---- what is in the files


@pytest.mark.parametrize("moved", [False, True])
def test_seg_nrrd_opens_as_the_same_segments_on_the_same_grid(tmp_path, moved):
    volume = oblique_volume(moved)
    node = new_segmentation(volume, gland(), "Prostate", "Whole")
    small = np.zeros_like(gland())
    small[4:6, 8:11, 8:11] = 1
    node.GetSegmentation().AddEmptySegment("Lesion", "Lesion", [1.0, 0.5, 0.0])
    write_segment(small, node, "Lesion", volume)
    node.GetSegmentation().GetSegment("Prostate").SetTag("DICOM.SegmentAlgorithmType", "AUTOMATIC")
    export_seg_nrrd(node, tmp_path / "prostate.seg.nrrd")
    read = read_segmentation(tmp_path / "prostate.seg.nrrd")
    assert read.GetSegmentation().GetNumberOfSegments() == 3
    for segment_id, mask in (("Prostate", gland()), ("Whole", gland()), ("Lesion", small)):
        np.testing.assert_array_equal(read_segment(read, segment_id, volume, ignore_transforms=True), mask)
    assert read.GetSegmentation().GetSegment("Lesion").GetColor() == pytest.approx((1.0, 0.5, 0.0))
    tag = vtk.reference("")
    assert read.GetSegmentation().GetSegment("Prostate").GetTag("DICOM.SegmentAlgorithmType", tag)
    assert tag == "AUTOMATIC"


def test_seg_nrrd_says_who_drew_the_contour(scene, tmp_path):
    volume = new_volume()
    segmentation = ThresholdRunner().segment(image_from_volume_node(volume), RunSettings(device="cpu"), name="T2")
    node = place_result(segmentation, volume).outputSegmentationNode
    for number, drawn_by in enumerate(("AUTOMATIC", "SEMIAUTOMATIC")):
        node.GetSegmentation().GetNthSegment(0).RemoveTag("DICOM.SegmentAlgorithmType")
        export_seg_nrrd(node, tmp_path / f"{number}.seg.nrrd")
        read = read_segmentation(tmp_path / f"{number}.seg.nrrd")
        assert tags_of(read) == [drawn_by, f"DDSPSegmentation {__version__}"]
        write_segment(1 - gland(), node, "Prostate", volume)


def test_seg_nrrd_leaves_where_the_node_is_stored_alone(tmp_path):
    volume = oblique_volume()
    node = new_segmentation(volume, gland())
    export_seg_nrrd(node, tmp_path / "first.seg.nrrd")
    assert node.GetStorageNode() is None
    node.AddDefaultStorageNode()
    storage = node.GetStorageNode()
    storage.SetFileName(str(tmp_path / "own.seg.nrrd"))
    assert storage.WriteData(node)
    write_segment(np.ones_like(gland()), node, "Prostate", volume)
    stored, count = storage.GetStoredTime().GetMTime(), slicer.mrmlScene.GetNumberOfNodes()
    own = (tmp_path / "own.seg.nrrd").read_bytes()
    export_seg_nrrd(node, tmp_path / "second.seg.nrrd")
    assert node.GetStorageNode() is storage and storage.GetFileName() == str(tmp_path / "own.seg.nrrd")
    assert storage.GetStoredTime().GetMTime() == stored and node.GetModifiedSinceRead()
    assert (tmp_path / "own.seg.nrrd").read_bytes() == own
    assert slicer.mrmlScene.GetNumberOfNodes() == count


@pytest.mark.parametrize("moved", [False, True])
def test_nifti_has_the_mask_on_the_volumes_grid_in_the_world(tmp_path, moved):
    volume = oblique_volume(moved)
    node = new_segmentation(volume, gland(), "Prostate", "Other")
    write_segment(np.ones_like(gland()), node, "Other", volume)
    export_nifti(node, "Prostate", volume, tmp_path / "prostate.nii.gz")
    image = read_image(tmp_path / "prostate.nii.gz")
    assert image.GetPixelID() == sitk.sitkUInt8
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), gland())
    for index in itertools.product((0, 23), (0, 19), (0, 11)):
        assert image.TransformIndexToPhysicalPoint(index) == pytest.approx(world_lps(volume, index), abs=1e-3)
    assert image.GetSpacing() == pytest.approx(image_from_volume_node(volume).GetSpacing(), abs=1e-5)


def test_nifti_of_a_sheared_volume_is_refused(tmp_path):
    volume = oblique_volume()
    node = new_segmentation(volume, gland())
    put_under_transform(volume, np.diag([1.3, 1.0, 1.0, 1.0]))
    with pytest.raises(InputError, match="sheared"):
        export_nifti(node, "Prostate", volume, tmp_path / "prostate.nii.gz")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("moved", [False, True])
def test_stl_lies_where_the_gland_is_in_the_world(tmp_path, moved):
    volume = oblique_volume(moved)
    node = new_segmentation(volume, gland(), "Prostate", "A/B")
    export_stl(node, "Prostate", tmp_path / "prostate.stl")
    points = points_of(tmp_path / "prostate.stl")
    corners = np.array([world_lps(volume, ijk) for ijk in itertools.product((3.5, 15.5), (4.5, 14.5), (2.5, 8.5))])
    assert points.min(axis=0) == pytest.approx(corners.min(axis=0), abs=2.0)
    assert points.max(axis=0) == pytest.approx(corners.max(axis=0), abs=2.0)
    assert (tmp_path / "prostate.stl").read_bytes()[:80].startswith(b"3D Slicer output. SPACE=LPS")
    export_stl(node, "A/B", tmp_path / "other.stl")
    np.testing.assert_array_equal(points_of(tmp_path / "other.stl"), points)


def test_stl_is_the_file_that_slicer_itself_writes(tmp_path):
    volume = oblique_volume(moved=True)
    node = new_segmentation(volume, gland())
    (tmp_path / "slicer").mkdir()
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    assert logic.ExportSegmentsClosedSurfaceRepresentationToFiles(str(tmp_path / "slicer"), node, None, "STL", True)
    export_stl(node, "Prostate", tmp_path / "prostate.stl")
    (slicers_own,) = (tmp_path / "slicer").iterdir()
    assert (tmp_path / "prostate.stl").read_bytes() == slicers_own.read_bytes()


@pytest.mark.parametrize("shown", [False, True])
def test_stl_leaves_the_surface_of_the_node_as_it_was(tmp_path, shown):
    node = new_segmentation(oblique_volume(), gland())
    if shown:
        node.CreateClosedSurfaceRepresentation()
    export_stl(node, "Prostate", tmp_path / "prostate.stl")
    assert node.GetSegmentation().ContainsRepresentation(SURFACE) == shown


@every_writer
def test_path_with_accents_and_spaces_is_written(tmp_path, name):
    volume = oblique_volume()
    folder = tmp_path / "Ärzte São 前列腺"
    folder.mkdir()
    WRITERS[name](new_segmentation(volume, gland()), volume, str(folder / name))
    assert os.listdir(folder) == [name] and (folder / name).stat().st_size > 100


# ---- what cannot be written


@every_writer
def test_empty_segment_is_refused_by_name(tmp_path, name):
    volume = oblique_volume()
    (tmp_path / name).write_text("old")
    drawn_and_erased = new_segmentation(volume, gland())
    write_segment(np.zeros_like(gland()), drawn_and_erased, "Prostate", volume)
    never_drawn = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Prostate")
    never_drawn.GetSegmentation().AddEmptySegment("Prostate", "Prostate")
    for node in (drawn_and_erased, never_drawn):
        with pytest.raises(InputError, match="rostate' is empty"):
            WRITERS[name](node, volume, tmp_path / name)
    assert (tmp_path / name).read_text() == "old"


@every_writer
def test_missing_folder_is_named_with_what_to_do(tmp_path, name):
    volume = oblique_volume()
    with pytest.raises(StorageError, match=f"'{name}'.*Create"):
        WRITERS[name](new_segmentation(volume, gland()), volume, tmp_path / "absent" / name)


@every_writer
def test_folder_without_permission_keeps_the_old_file(tmp_path, name, monkeypatch):
    volume = oblique_volume()
    node = new_segmentation(volume, gland())
    (tmp_path / name).write_text("old")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("DDSPSegmentationLib.engine.files.os.replace", refuse)
    with pytest.raises(StorageError, match=f"'{name}'"):
        WRITERS[name](node, volume, tmp_path / name)
    assert (tmp_path / name).read_text() == "old" and os.listdir(tmp_path) == [name]


@contextmanager
def largest_file(size):
    """No file may grow beyond so many bytes, as on a disk that fills up."""
    resource = pytest.importorskip("resource", reason="file size limits need a POSIX system")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@every_writer
def test_disk_that_fills_up_at_any_byte_keeps_the_old_file(tmp_path, name):
    voxels = np.random.default_rng(0).integers(0, 2, (16, 32, 32)).astype(np.int16)
    volume = oblique_volume(voxels=voxels)
    node = new_segmentation(volume, voxels.astype(np.uint8))
    WRITERS[name](node, volume, tmp_path / name)
    whole = (tmp_path / name).stat().st_size
    (tmp_path / name).write_text("old")
    for room in (whole // 2, whole - 100):
        with largest_file(room), pytest.raises(StorageError, match="disk.*full"):
            WRITERS[name](node, volume, tmp_path / name)
        assert (tmp_path / name).read_text() == "old" and os.listdir(tmp_path) == [name]


# ---- the picture


@pytest.mark.parametrize("moved", [False, True])
def test_picture_shows_the_contour_and_where_the_network_was_unsure(tmp_path, moved):
    volume = oblique_volume(moved)
    node = new_segmentation(volume, gland())
    export_picture(node, "Prostate", volume, tmp_path / "sure.png")
    scan, unsure = image_from_volume_node(volume), sitk.GetImageFromArray(np.ones(gland().shape, np.float32))
    export_picture(node, "Prostate", volume, tmp_path / "unsure.png", unsure)
    mask = sitk.GetImageFromArray(gland())
    mask.CopyInformation(scan)
    contour_picture(scan, [(mask, PROSTATE_COLOR)], tmp_path / "expected.png")
    sure, expected, other = ((tmp_path / f"{name}.png").read_bytes() for name in ("sure", "expected", "unsure"))
    assert sure == expected != other


# ---- DICOM SEG


class Plugin:
    """Stands in for the DICOM plugin: keeps what it was asked, writes what the test says."""

    reason, offers, writes = "", True, b"DICM"
    asked: list = []

    def examineForExport(self, item):
        self.asked.append(item)
        return [SimpleNamespace(directory="", subjectHierarchyItemID=item)] if self.offers else []

    def export(self, exportables):
        (exportable,) = exportables
        self.asked.append(exportable.directory)
        if self.writes:
            Path(exportable.directory, "subject_hierarchy_export.SEG2026.dcm").write_bytes(self.writes)
        return self.reason


@pytest.fixture
def plugin(monkeypatch):
    plugin = type("DICOMSegmentationPluginClass", (Plugin,), {"asked": []})
    monkeypatch.setattr(slicer.modules, "dicomPlugins", {"DICOMSegmentationPlugin": plugin}, raising=False)
    return plugin


@pytest.fixture
def dicom_case(scene, monkeypatch, tmp_path_factory):
    """A result on a volume of three slices in an open DICOM database, with its subject hierarchy item."""
    folder = tmp_path_factory.mktemp("database")
    files = {f"1.2.{number}": folder / f"{number}.dcm" for number in range(3)}
    for file in files.values():
        file.touch()
    database = SimpleNamespace(isOpen=True, files=files, fileForInstance=lambda uid: str(files.get(uid, "")))
    monkeypatch.setattr(slicer, "dicomDatabase", database, raising=False)
    tag = add_hierarchy_items(scene)
    volume = new_volume()
    volume.SetAttribute("DICOM.instanceUIDs", " ".join(files))
    segmentation = ThresholdRunner().segment(image_from_volume_node(volume), RunSettings(device="cpu"), name="T2")
    node = place_result(segmentation, volume).outputSegmentationNode
    yield node, volume, database
    scene.RemoveObserver(tag)


def tags_of(node, number=0):
    values = []
    for name in ("DICOM.SegmentAlgorithmType", "DICOM.SegmentAlgorithmName"):
        value = vtk.reference("")
        values.append(str(value) if node.GetSegmentation().GetNthSegment(number).GetTag(name, value) else None)
    return values


def test_dicom_seg_is_written_by_the_plugin_under_a_name_of_ours(tmp_path, plugin, dicom_case):
    node, volume, _ = dicom_case
    assert dicom_seg_obstacle(node, volume) == ""
    assert export_dicom_seg(node, volume, tmp_path) == tmp_path / "prostate.dcm"
    item, directory = plugin.asked
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    assert hierarchy.GetItemDataNode(item) is node
    assert Path(directory).parent == tmp_path
    assert (tmp_path / "prostate.dcm").read_bytes() == b"DICM"
    assert export_dicom_seg(node, volume, str(tmp_path)) == tmp_path / "prostate-2.dcm"
    assert sorted(os.listdir(tmp_path)) == ["prostate-2.dcm", "prostate.dcm"]


def test_dicom_seg_says_who_drew_the_contour(tmp_path, plugin, dicom_case):
    node, volume, _ = dicom_case
    node.GetSegmentation().AddEmptySegment("Lesion", "Lesion")
    export_dicom_seg(node, volume, tmp_path)
    assert tags_of(node) == ["AUTOMATIC", f"DDSPSegmentation {__version__}"]
    mask = gland()
    mask[5] = 0
    write_segment(mask, node, "Prostate", volume)
    export_dicom_seg(node, volume, tmp_path)
    assert tags_of(node) == ["SEMIAUTOMATIC", f"DDSPSegmentation {__version__}"]
    assert tags_of(node, 1) == [None, None]


def test_dicom_seg_that_the_plugin_refuses_leaves_nothing(tmp_path, plugin, dicom_case):
    node, volume, _ = dicom_case
    plugin.reason = "itkimage2segimage failed."
    with pytest.raises(StorageError, match="itkimage2segimage failed. Check"):
        export_dicom_seg(node, volume, tmp_path)
    plugin.reason, plugin.writes = "", b""
    with pytest.raises(StorageError, match="wrote no file"):
        export_dicom_seg(node, volume, tmp_path)
    plugin.offers = False
    with pytest.raises(StorageError, match="does not offer"):
        export_dicom_seg(node, volume, tmp_path)
    with pytest.raises(StorageError, match="folder"):
        export_dicom_seg(node, volume, tmp_path / "absent")
    assert os.listdir(tmp_path) == []


def test_empty_dicom_seg_is_refused(tmp_path, plugin, dicom_case):
    node, volume, _ = dicom_case
    write_segment(np.zeros_like(gland()), node, "Prostate", volume)
    with pytest.raises(InputError, match="rostate'"):
        export_dicom_seg(node, volume, tmp_path)
    assert plugin.asked == []


def test_every_obstacle_to_dicom_seg_is_named(tmp_path, plugin, dicom_case, monkeypatch):
    node, volume, database = dicom_case

    def assert_refused(words):
        assert words in dicom_seg_obstacle(node, volume)
        with pytest.raises(InputError, match=words):
            export_dicom_seg(node, volume, tmp_path)
        assert os.listdir(tmp_path) == []

    monkeypatch.delattr(slicer.modules, "dicomPlugins")
    assert_refused("Slicer 5.12 or newer, or install the extension QuantitativeReporting")
    node.SetReferenceImageGeometryParameterFromVolumeNode(new_volume("ADC"))
    assert_refused("another volume")
    database.files["1.2.1"].unlink()
    assert_refused("1 of 3 slices")
    del database.files["1.2.2"]
    assert_refused("2 of 3 slices")
    volume.RemoveAttribute("DICOM.instanceUIDs")
    assert_refused("not loaded from DICOM")
    database.isOpen = False
    assert_refused("no DICOM database")
    monkeypatch.delattr(slicer, "dicomDatabase")
    assert_refused("no DICOM database")
