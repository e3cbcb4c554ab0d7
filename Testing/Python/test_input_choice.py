"""Which volume is preselected, and which ones are doubted: on a real MRML scene, with real slice view nodes."""

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
import vtk
from scene_parts import new_volume, put_under_transform, rigid_matrix

from DDSPSegmentationLib.engine.images import read_image
from DDSPSegmentationLib.scene.conversion import add_volume_node, image_from_volume_node
from DDSPSegmentationLib.scene.input_choice import doubt_about, preferred_volume

pytestmark = pytest.mark.usefixtures("scene")
SAGITTAL = np.array([[0, 0, 3.0, 0], [-0.5, 0, 0, 0], [0, -0.5, 0, 0], [0, 0, 0, 1]])
CORONAL = np.array([[-0.5, 0, 0, 0], [0, 0, 3.0, 0], [0, -0.5, 0, 0], [0, 0, 0, 1]])
# What it says of what is no axial T2.
ADC = "looks like an ADC map; a T2-weighted scan is needed."
DIFFUSION = "looks like a diffusion image; a T2-weighted scan is needed."
T1 = "looks T1-weighted; a T2-weighted scan is needed."
NOT_AXIAL = "looks like a sagittal or coronal series; an axial T2-weighted scan is needed."
LOOK_TWICE = "Choose another volume, or check this one before you segment it."


def show(volume=None, view="Red", foreground=None):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    node.SetLayoutName(view)
    node.SetBackgroundVolumeID(volume.GetID() if volume else None)
    node.SetForegroundVolumeID(foreground.GetID() if foreground else None)
    return node


class DicomDatabase:
    """Answers as ctkDICOMDatabase does; what it does not know is empty."""

    def __init__(self, tags, is_open=True):
        self.tags = tags
        self.isOpen = is_open
        self.asked = []

    def instanceValue(self, uid, tag):
        self.asked.append(uid)
        return self.tags.get(tag, "") if uid == "1.2.3" else ""


@pytest.fixture
def dicom(monkeypatch):
    def install(tags=None, **options):
        database = DicomDatabase(tags or {}, **options)
        monkeypatch.setattr(slicer, "dicomDatabase", database, raising=False)
        return database

    return install


def from_dicom(name="Series 6", uids="1.2.3 1.2.4"):
    volume = new_volume(name)
    volume.SetAttribute("DICOM.instanceUIDs", uids)
    return volume


# ---- what is preselected


def test_an_empty_scene_has_nothing_to_preselect():
    assert preferred_volume() == (None, "")


def test_the_volume_in_the_red_view_is_preselected():
    shown = new_volume("Case00")
    show(new_volume("t2_tse_tra"), "Yellow")
    show(shown, "Red")
    new_volume("T2 axial")
    assert preferred_volume() == (shown, "")


def test_a_volume_in_another_view_or_a_foreground_counts_when_red_is_empty():
    below, above = new_volume("Case00"), new_volume("Case01")
    new_volume("t2_tse_tra")
    show(None, "Red", foreground=above)
    assert preferred_volume() == (above, "")
    show(below, "Green")
    assert preferred_volume() == (below, "")


def test_without_slice_views_the_latest_volume_that_says_t2_is_preselected():
    new_volume("t2_tse_tra")
    latest = new_volume("T2W axial")
    new_volume("Case00")
    new_volume("ADC")
    new_volume("t2_tse_sag")
    assert preferred_volume() == (latest, "")


def test_without_views_and_without_a_t2_the_latest_volume_without_doubt_is_preselected():
    new_volume("Case00")
    latest = new_volume("Case01")
    new_volume("ADC")
    assert preferred_volume() == (latest, "")


def test_an_axial_t2_is_preselected_instead_of_the_adc_map_that_is_shown():
    new_volume("t2_tse_tra")
    t2 = new_volume("T2 axial")
    new_volume("Case00")
    show(new_volume("ADC"))
    assert preferred_volume() == (
        t2,
        f"'ADC' {ADC} 'T2 axial' is chosen instead; choose another volume if that is wrong.",
    )


def test_a_doubtful_volume_that_is_shown_stays_when_nothing_says_t2():
    shown = new_volume("ADC")
    new_volume("Case00")
    new_volume("t2_tse_sag")
    show(shown)
    assert preferred_volume() == (shown, f"'ADC' {ADC} {LOOK_TWICE}")


def test_the_only_volume_is_preselected_even_when_it_is_doubtful():
    only = new_volume("ep2d_diff_b800")
    assert preferred_volume() == (only, f"{doubt_about(only)} {LOOK_TWICE}")


def test_the_series_description_finds_the_t2_whose_name_says_nothing(dicom):
    t2 = from_dicom("Series 6")
    dicom({"0008,103e": "t2_tse_tra"})
    show(new_volume("ADC"))
    assert preferred_volume()[0] is t2


def test_labelmaps_color_volumes_hidden_volumes_and_our_own_are_never_preselected():
    t2 = new_volume("Case00")
    for class_name in ("vtkMRMLLabelMapVolumeNode", "vtkMRMLVectorVolumeNode", "vtkMRMLDiffusionWeightedVolumeNode"):
        other = slicer.mrmlScene.AddNewNodeByClass(class_name, "T2")
        other.SetAndObserveImageData(t2.GetImageData())
        show(other)
    hidden = new_volume("T2")
    hidden.SetHideFromEditors(True)
    show(hidden)
    uncertainty = new_volume("T2 uncertainty")
    uncertainty.SetNodeReferenceID("DDSPSegmentation.Volume", t2.GetID())
    show(uncertainty)
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "T2 without voxels")
    assert preferred_volume() == (t2, "")


def test_nothing_in_the_scene_is_changed_by_the_choice(dicom):
    dicom({"0008,103e": "ep2d_diff"})
    volume = from_dicom("Case00")
    view = show(volume)
    before = volume.GetMTime(), view.GetMTime(), list(volume.GetAttributeNames())
    preferred_volume()
    assert (volume.GetMTime(), view.GetMTime(), list(volume.GetAttributeNames())) == before


# ---- names


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ADC", ADC),
        ("6: ADC map (mm2/s)", ADC),
        ("AxialADC_1", ADC),
        ("t2 grid eADC", ADC),
        ("ep2d_diff_tra_DYNDIST", DIFFUSION),
        ("DWI", DIFFUSION),
        ("b0", DIFFUSION),
        ("tra b50", DIFFUSION),
        ("calc_b1400", DIFFUSION),
        ("ProstateB1000", DIFFUSION),
        ("resolve TRACEW", DIFFUSION),
        ("DCE 12", "looks like a contrast-enhanced series; a T2-weighted scan"),
        ("perf_tra", "looks like a contrast-enhanced series; a T2-weighted scan"),
        ("Survey", "looks like a localizer; a T2-weighted scan"),
        ("3-plane Loc", "looks like a localizer; a T2-weighted scan"),
        ("localiser", "looks like a localizer; a T2-weighted scan"),
        ("t2_flair", "looks like a FLAIR scan; a T2-weighted scan"),
    ],
)
def test_a_name_that_says_something_else_is_doubted(name, said):
    assert doubt_about(new_volume(name)).startswith(f"'{name}' {said}")


@pytest.mark.parametrize("name", ["T1", "t1_vibe_fs", "AxT1", "VIBE 3"])
def test_a_t1_is_doubted(name):
    assert doubt_about(new_volume(name)) == f"'{name}' {T1}"


def test_a_proton_density_scan_is_doubted():
    assert doubt_about(new_volume("pd_tse")) == "'pd_tse' looks proton-density-weighted; a T2-weighted scan is needed."


@pytest.mark.parametrize("name", ["t2_tse_sag", "T2Sag", "SAGT2", "t2 cor", "T2 Coronal", "t2_sagittal_p2"])
def test_a_name_that_says_sagittal_or_coronal_is_doubted(name):
    assert doubt_about(new_volume(name)) == f"'{name}' {NOT_AXIAL}"


@pytest.mark.parametrize(
    "name",
    [
        "t2_tse_tra_320_p2", "T2 ax", "AXT2", "T2W", "ProstateX-0000", "Case00", "Head_ADCock", "Tracey", "Lockerbie",
        "Sagan", "Coriander", "Perforin", "sub-001_T2w", "b12", "T2 registered to T1", "t2 tra from sag", "{name}",
        "pelvis T10", "3: t2_spc_rst_axial_obl", "Prostate T2 1", "case-a3b50f0c",
    ],
)  # fmt: skip
def test_other_names_are_not_doubted(name):
    assert doubt_about(new_volume(name)) == ""


def test_a_volume_without_a_name_is_not_doubted():
    volume = new_volume("T2")
    volume.SetName(None)
    assert doubt_about(volume) == ""


@pytest.mark.parametrize("name", ["t2star_tra", "T2* axial", "T2 map", "t2map"])
def test_maps_of_t2_and_t2_star_do_not_pass_for_a_t2(name):
    new_volume(name)
    shown = new_volume("ADC")
    show(shown)
    assert preferred_volume()[0] is shown


# ---- geometry


@pytest.mark.parametrize("matrix", [SAGITTAL, CORONAL], ids=["sagittal", "coronal"])
def test_slices_that_do_not_lie_across_the_patient_are_doubted(matrix):
    assert doubt_about(new_volume("Case00", ijk_to_ras=matrix)) == f"'Case00' {NOT_AXIAL}"


@pytest.mark.parametrize("matrix", [SAGITTAL, CORONAL], ids=["sagittal", "coronal"])
def test_isotropic_volumes_are_axial_however_they_were_acquired(matrix):
    isotropic = matrix.copy()
    isotropic[:3, :3] = np.sign(matrix[:3, :3]) * 0.8
    assert doubt_about(new_volume("t2_space", ijk_to_ras=isotropic)) == ""


def test_axial_slices_are_axial_whichever_voxel_axis_counts_them():
    along_the_first_axis = np.array([[0, -0.5, 0, 0], [0, 0, -0.5, 0], [3.0, 0, 0, 0], [0, 0, 0, 1]])
    assert doubt_about(new_volume("Case00", ijk_to_ras=along_the_first_axis)) == ""


@pytest.mark.parametrize(("degrees", "axial"), [(18, True), (40, True), (50, False), (90, False), (140, True)])
def test_the_parent_transform_counts_and_45_degrees_is_the_limit(degrees, axial):
    volume = new_volume("Case00")
    put_under_transform(volume, rigid_matrix(degrees, axis=(1, 0, 0)))
    assert (doubt_about(volume) == "") == axial


def test_a_transform_that_stands_slices_upright_makes_a_sagittal_volume_axial():
    volume = new_volume("Case00", ijk_to_ras=SAGITTAL)
    put_under_transform(volume, rigid_matrix(90, axis=(0, 1, 0)))
    assert doubt_about(volume) == ""


def test_the_geometry_is_judged_as_the_engine_judges_it():
    from DDSPSegmentationLib.engine.preprocessing import Grid, PreprocessingSettings

    turns = np.random.default_rng(7)
    for number in range(40):
        volume = new_volume(f"Case{number:02d}")
        put_under_transform(volume, rigid_matrix(turns.uniform(0, 180), axis=turns.normal(size=3)))
        engine = Grid.of(image_from_volume_node(volume), PreprocessingSettings()).is_axial
        assert (doubt_about(volume) == "") == engine


@pytest.mark.parametrize("odd", [np.diag([0.0, 0.5, 3.0, 1.0]), np.diag([np.nan, 0.5, 3.0, 1.0])], ids=["flat", "nan"])
def test_a_grid_that_is_none_is_left_to_the_conversion_to_refuse(odd):
    volume = new_volume("Case00")
    volume.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(odd))
    assert doubt_about(volume) == ""


def test_axes_in_one_line_are_left_to_the_conversion_to_refuse():
    volume = new_volume("Case00")
    collapse = np.eye(4)
    collapse[:3, :3] = [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    put_under_transform(volume, collapse)
    assert doubt_about(volume) == ""


def test_a_bent_transform_is_left_to_the_conversion_to_refuse():
    volume = new_volume("Case00", ijk_to_ras=SAGITTAL)
    warp = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "Warp")
    warp.SetAndObserveTransformFromParent(vtk.vtkThinPlateSplineTransform())
    volume.SetAndObserveTransformNodeID(warp.GetID())
    assert doubt_about(volume) == ""


def test_the_sample_scan_is_oblique_and_axial(sample_scan):
    volume = add_volume_node(read_image(sample_scan), "ProstateX-0000")
    show(volume)
    assert preferred_volume() == (volume, "")


def test_no_real_scan_is_doubted(real_scans):
    reader = sitk.ImageFileReader()
    paths = sorted(real_scans.glob("*/images/*.nii.gz")) + sorted(real_scans.glob("prostatex/*.nii.gz"))
    assert len(paths) > 40
    doubts = []
    for path in paths:
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        header = sitk.Image(2, 2, 2, sitk.sitkInt16)
        header.SetSpacing(reader.GetSpacing())
        header.SetDirection(reader.GetDirection())
        doubts.append(doubt_about(add_volume_node(header, path.name.split(".")[0])))
    assert doubts == [""] * len(paths)


# ---- DICOM tags


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"0008,103e": "ep2d_diff_b50_400_800"}, DIFFUSION),
        ({"0008,103e": "t1_vibe"}, T1),
        ({"0008,103e": "t2_tse_sag"}, NOT_AXIAL),
        ({"0008,0008": "DERIVED\\PRIMARY\\DIFFUSION\\ADC\\ND"}, ADC),
        ({"0008,0008": "ORIGINAL\\PRIMARY\\DIFFUSION\\NONE"}, DIFFUSION),
        ({"0018,9087": "800"}, DIFFUSION),
        ({"0018,0020": "EP"}, DIFFUSION),
        ({"0018,0020": "SE\\EP"}, DIFFUSION),
        ({"0008,0060": "CT"}, "is not an MR scan; a"),
    ],
)
def test_dicom_tags_that_say_something_else_raise_a_doubt(dicom, tags, said):
    database = dicom(tags)
    assert doubt_about(from_dicom()).startswith(f"'Series 6' {said}")
    assert set(database.asked) == {"1.2.3"}


def test_tags_of_an_axial_t2_raise_no_doubt(dicom):
    dicom(
        {
            "0008,103e": "t2_tse_tra",
            "0008,0008": "DERIVED\\SECONDARY\\M\\NORM\\DIS2D",
            "0018,0020": "SE",
            "0018,9087": "0",
            "0008,0060": "MR",
        }
    )
    assert doubt_about(from_dicom()) == ""


def test_a_b_value_that_is_no_number_raises_no_doubt(dicom):
    dicom({"0018,9087": "none"})
    assert doubt_about(from_dicom()) == ""


def test_a_closed_database_and_unknown_images_raise_no_doubt(dicom):
    tags = {"0008,103e": "ADC"}
    database = dicom(tags, is_open=False)
    assert doubt_about(from_dicom()) == ""
    assert database.asked == []
    dicom(tags)
    assert doubt_about(from_dicom(uids="9.9.9")) == ""
    assert doubt_about(from_dicom(uids="")) == ""
    assert doubt_about(new_volume("Series 6")) == ""


@pytest.mark.parametrize("database", [None, object()], ids=["none", "broken"])
def test_a_database_that_is_missing_or_fails_raises_no_doubt(monkeypatch, database):
    monkeypatch.setattr(slicer, "dicomDatabase", database, raising=False)
    assert doubt_about(from_dicom()) == ""
