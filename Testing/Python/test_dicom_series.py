"""Axial T2 series are found and stacked exactly; one that is not whole is refused by slice number, never by name."""

import gc
import math
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_parts import (
    SECRETS,
    set_element,
    set_transfer_syntax,
    slice_voxels,
    write_series,
    write_slice,
)

from DDSPSegmentationLib.engine.errors import InputError
from DDSPSegmentationLib.engine.files import files_below
from DDSPSegmentationLib.engine.images import check_image, read_image
from DDSPSegmentationLib.service.dicom_files import read_dicom_file
from DDSPSegmentationLib.service.dicom_series import load_series, series_among, sorted_slices


def tilted(degrees: float) -> tuple[float, ...]:
    """An axial plane turned about the left-right axis."""
    return (1.0, 0.0, 0.0, 0.0, math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))


def only_series(folder: Path):
    found, skipped = series_among(files_below(folder)[0])
    assert (len(found), skipped) == (1, [])
    return found[0]


def reason(folder: Path) -> str:
    """Why the one series of a folder is skipped."""
    found, skipped = series_among(files_below(folder)[0])
    assert found == []
    assert len(skipped) == 1
    assert not any(secret in repr(skipped) for secret in SECRETS)
    return skipped[0].reason


def refusal(folder: Path) -> str:
    """Why the one series of a folder cannot be loaded."""
    series = only_series(folder)
    with pytest.raises(InputError) as caught:
        load_series(series)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.next_step
    assert not any(secret in message + repr(series) for secret in (*SECRETS, str(folder), "IM00"))
    return message


def test_real_series_equals_its_nifti_voxel_for_voxel(real_scans):
    folder = real_scans / "prostatex"
    image = load_series(only_series(folder / "ProstateX-0000-dicom"))
    expected = read_image(folder / "ProstateX-0000.nii.gz")
    check_image(image, "T2")
    assert np.array_equal(sitk.GetArrayViewFromImage(image), sitk.GetArrayViewFromImage(expected))
    assert image.GetSpacing() == pytest.approx(expected.GetSpacing(), abs=1e-3)
    assert image.GetOrigin() == pytest.approx(expected.GetOrigin(), abs=1e-3)
    assert image.GetDirection() == pytest.approx(expected.GetDirection(), abs=1e-3)
    assert image.GetMetaDataKeys() == ()


def test_real_series_is_found_beside_other_files_and_named_by_a_hash(real_scans):
    found, skipped = series_among(files_below(real_scans / "prostatex")[0])
    assert [series.name for series in found] == ["case-aebcd4d389"]
    assert len(found[0].files) == 19
    assert skipped == []


@pytest.mark.parametrize("compressor", (None, "JPEG", "JPEG2000"))
@pytest.mark.parametrize("degrees", (0, 18.4, -30))
def test_slices_are_stacked_by_position_and_not_by_file_name_or_number(tmp_path, degrees, compressor):
    orientation = tilted(degrees)
    for number in range(12):
        scrambled = {"0020|0013": str((number * 5) % 12 + 1)}
        name = f"{(number * 7) % 12}.dcm"
        write_slice(tmp_path / name, number, orientation=orientation, tags=scrambled, compressor=compressor, step=3.3)
    image = load_series(only_series(tmp_path))
    voxels = sitk.GetArrayViewFromImage(image)
    assert all(np.array_equal(voxels[number], slice_voxels(number)) for number in range(12))
    normal = np.cross(orientation[:3], orientation[3:])
    assert image.GetSpacing() == pytest.approx((2, 2, 3.3), abs=1e-4)
    assert image.GetOrigin() == pytest.approx((-40, -48, 5), abs=1e-3)
    assert np.reshape(image.GetDirection(), (3, 3)).T == pytest.approx(
        np.array([orientation[:3], orientation[3:], normal]), abs=1e-4
    )
    last = image.TransformIndexToPhysicalPoint((0, 0, 11))
    assert last == pytest.approx(tuple(np.array((-40, -48, 5)) + 11 * 3.3 * normal), abs=1e-3)
    assert image.GetMetaDataKeys() == ()


@pytest.mark.parametrize("compressor", (None, "JPEG"))
@pytest.mark.parametrize("said", ("9", "0", "-3"))
def test_spacing_comes_from_positions_and_not_from_what_the_header_says_of_it(tmp_path, said, compressor):
    for path in write_series(tmp_path, step=4.5, compressor=compressor):
        set_element(path, (0x18, 0x50), "3")
        set_element(path, (0x18, 0x88), said)
    image = load_series(only_series(tmp_path))
    assert image.GetSpacing()[2] == pytest.approx(4.5, abs=1e-6)
    assert np.array_equal(sitk.GetArrayViewFromImage(image)[3], slice_voxels(3))


def test_unequal_pixel_sizes_are_not_swapped(tmp_path):
    write_series(tmp_path, spacing=(1.5, 2.5))
    assert load_series(only_series(tmp_path)).GetSpacing() == pytest.approx((1.5, 2.5, 4))


def test_rescale_slope_and_intercept_of_each_slice_are_honoured(tmp_path):
    paths = write_series(tmp_path)
    for number, slope, intercept in ((3, 2.5, -10), (4, 0.5, 7)):
        set_element(paths[number], (0x28, 0x1052), str(intercept))
        set_element(paths[number], (0x28, 0x1053), str(slope))
    image = load_series(only_series(tmp_path))
    voxels = sitk.GetArrayViewFromImage(image)
    assert image.GetPixelID() == sitk.sitkFloat32
    assert np.allclose(voxels[3], slice_voxels(3) * 2.5 - 10)
    assert np.allclose(voxels[4], slice_voxels(4) * 0.5 + 7)
    assert np.array_equal(voxels[5], slice_voxels(5))


def test_voxel_type_of_the_scanner_is_kept(tmp_path):
    write_series(tmp_path)
    assert load_series(only_series(tmp_path)).GetPixelID() == sitk.sitkUInt16


def test_tree_with_other_files_is_searched_and_series_told_apart(tmp_path):
    write_series(tmp_path / "b" / "deep", count=9, series=2)
    for path in write_series(tmp_path / "a", count=12, series=1):
        path.rename(path.with_suffix(""))
    (tmp_path / "a" / "README.txt").write_text("hello " * 100)
    (tmp_path / "a" / "empty").write_bytes(b"")
    (tmp_path / "a" / "._IM0001").write_bytes((tmp_path / "a" / "IM0001").read_bytes())
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + bytes(200))
    directory = pydicom.dcmread(next(tmp_path.glob("a/IM*")))
    directory.file_meta.MediaStorageSOPClassUID = directory.SOPClassUID = pydicom.uid.MediaStorageDirectoryStorage
    directory.save_as(tmp_path / "dicomdir2")
    found, skipped = series_among(files_below(tmp_path)[0])
    assert [load_series(series).GetSize()[2] for series in found] == [12, 9]
    assert len({series.name for series in found}) == 2
    assert skipped == []


def test_a_slice_more_takes_little_memory(tmp_path):
    """What the slices of a series have in common is there once."""

    def bytes_kept(count):
        paths = write_series(tmp_path / str(count), count, series=count)
        series_among(paths)  # whatever is imported and remembered once
        tracemalloc.start()
        found = series_among(paths)
        gc.collect()
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        return size if found else 0

    assert (bytes_kept(60) - bytes_kept(10)) / 50 < 700


def test_one_series_spread_over_folders_is_one_volume(tmp_path):
    for number in range(12):
        write_slice(tmp_path / f"part{number % 3}" / f"{number}.dcm", number)
    assert load_series(only_series(tmp_path)).GetSize() == (40, 48, 12)


def test_name_of_a_case_depends_on_its_series_alone(tmp_path):
    write_series(tmp_path / "a", count=8)
    write_series(tmp_path / "b", count=12)
    write_series(tmp_path / "c", series=2)
    names = [only_series(tmp_path / folder).name for folder in "abc"]
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("case-") and len(names[0]) == 15


@pytest.mark.parametrize(
    "name",
    (
        "t2_tse_tra",
        "T2 FSE AX",
        "AX T2 FRFSE",
        "T2W_TSE_ax",
        "AxT2",
        "AXT2",
        "Ax FRFSE-XL",
        "tse_tra_384",
        "t2_spc_rst_tra",
        "SSFSE",
        "T2TSE",
        "Prostata t2",
        "subject_3 t2",
        "T2 locoregional",
    ),
)
def test_names_of_t2_series_are_taken(tmp_path, name):
    write_series(tmp_path, count=8, tags={"0008|103e": name})
    only_series(tmp_path)


@pytest.mark.parametrize(
    ("name", "meaning"),
    (
        ("ep2d_diff_b50_400_800_T2", "says diffusion"),
        ("t2 DWI", "says diffusion"),
        ("ep2d_diff_tra_ADC", "says ADC map"),
        ("T2 dADC map", "says ADC map"),
        ("t2_tse_ADCmap", "says ADC map"),
        ("t2 DCE", "says dynamic contrast"),
        ("Sub_t2_tse", "says subtraction"),
        ("SUB T2 FSE", "says subtraction"),
        ("t2_tse_subtraction", "says subtraction"),
        ("t2_haste_localizer", "says localizer"),
        ("T2 SSFSE LOC", "says localizer"),
        ("t2 localiser", "says localizer"),
        ("gre_tra", "does not say T2"),
        ("T1_vibe_tra", "says T1"),
        ("t20_gre", "does not say T2"),
        ("test2 gre", "does not say T2"),
        ("offset gre", "does not say T2"),
        ("t1_tse_tra", "says T1"),
    ),
)
def test_names_of_other_series_are_skipped_with_their_reason(tmp_path, name, meaning):
    write_series(tmp_path, count=8, tags={"0008|103e": name})
    assert meaning in reason(tmp_path)


@pytest.mark.parametrize("name", ("3D_VISTA", "Ax CUBE", "blade_tra_p2", "Series 5", "ANONYMIZED", None))
def test_series_whose_name_says_nothing_is_taken_by_whoever_knows_that_it_is_t2(tmp_path, name):
    paths = write_series(tmp_path, count=8, tags={"0008|103e": name})
    assert reason(tmp_path) == "its name does not say T2 (t2, tse or fse); --series any takes it"
    found, skipped = series_among(paths, any_name=True)
    assert ([len(series.files) for series in found], skipped) == ([8], [])


@pytest.mark.parametrize(
    ("settings", "words"),
    (
        ({"tags": {"0008|103e": "prostate_ADC"}}, "says ADC map"),
        ({"tags": {"0008|103e": "Series 5", "0008|0008": "DERIVED\\PRIMARY\\DIFFUSION\\ADC"}}, "says ADC map"),
        ({"tags": {"0008|103e": "DWI b800"}}, "says diffusion"),
        ({"tags": {"0008|103e": "localizer"}}, "says localizer"),
        ({"tags": {"0008|103e": "Series 5", "0018|0081": "12"}}, "echo time below 60 ms"),
        ({"tags": {"0008|103e": "Series 5"}, "orientation": tilted(90)}, "coronal, not axial"),
        ({"tags": {"0008|103e": "Series 5"}, "count": 7}, "8 slices are needed"),
    ),
)
def test_what_is_known_to_be_no_axial_t2_is_skipped_whatever_the_name_is_worth(tmp_path, settings, words):
    found, skipped = series_among(write_series(tmp_path, **{"count": 8, **settings}), any_name=True)
    assert found == []
    assert words in skipped[0].reason and "--series" not in skipped[0].reason


@pytest.mark.parametrize("tag", ("0018|1030", "0018|0024"))
def test_protocol_and_sequence_name_count_too(tmp_path, tag):
    write_series(tmp_path / "t2", count=8, tags={"0008|103e": "Prostata", tag: "*tse2d1_25"})
    write_series(tmp_path / "adc", count=8, tags={"0008|103e": "t2", tag: "prostate_ADC"})
    only_series(tmp_path / "t2")
    assert "says ADC map" in reason(tmp_path / "adc")


def test_image_type_tells_an_adc_map_that_its_name_hides(tmp_path):
    write_series(tmp_path, tags={"0008|0008": "DERIVED\\PRIMARY\\DIFFUSION\\ADC"})
    assert "image type says ADC map" in reason(tmp_path)


@pytest.mark.parametrize(
    ("orientation", "plane", "degrees"),
    (
        (tilted(36), "tilted", 36),
        (tilted(-50), "tilted", 50),
        (tilted(60), "coronal", 60),
        (tilted(88), "coronal", 88),
        ((0.0, 1.0, 0.0, 0.0, 0.0, -1.0), "sagittal", 90),
    ),
)
@pytest.mark.parametrize("name", ("t2_tse", "t2_tse_cor", "t2_tse_sag"))
def test_series_that_is_not_axial_is_skipped_with_its_plane_and_angle(tmp_path, name, orientation, plane, degrees):
    write_series(tmp_path, count=8, orientation=orientation, tags={"0008|103e": name})
    assert reason(tmp_path) == f"{plane}, not axial: slice normal {degrees} degrees from cranio-caudal"


@pytest.mark.parametrize("degrees", (34, -34))
def test_oblique_axial_series_is_taken(tmp_path, degrees):
    write_series(tmp_path, orientation=tilted(degrees))
    only_series(tmp_path)


def test_slices_listed_from_head_to_foot_are_axial_too(tmp_path):
    write_series(tmp_path, step=-4)
    image = load_series(only_series(tmp_path))
    assert image.GetSpacing()[2] == pytest.approx(4)
    assert np.array_equal(sitk.GetArrayViewFromImage(image)[0], slice_voxels(11))
    assert image.GetOrigin()[2] == pytest.approx(5 - 44)


def test_axial_slices_whose_normal_points_to_the_feet_are_axial_too(tmp_path):
    write_series(tmp_path, orientation=(1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
    image = load_series(only_series(tmp_path))
    assert image.GetDirection() == pytest.approx((1, 0, 0, 0, -1, 0, 0, 0, -1))
    assert image.TransformIndexToPhysicalPoint((0, 0, 11)) == pytest.approx((-40, -48, 5 - 44))
    assert np.array_equal(sitk.GetArrayViewFromImage(image)[11], slice_voxels(11))


@pytest.mark.parametrize(
    ("tags", "words"),
    (
        ({"0008|0060": "CT", "0008|0016": "1.2.840.10008.5.1.4.1.1.2"}, "not MR"),
        ({"0018|0081": "12"}, "echo time below 60 ms, so not T2-weighted"),
        ({"0018|0081": "59.9"}, "echo time below 60 ms"),
    ),
)
def test_other_modality_or_weighting_is_skipped(tmp_path, tags, words):
    write_series(tmp_path, tags=tags)
    assert words in reason(tmp_path)


@pytest.mark.parametrize("echo_time", (None, "60", "80"))
def test_missing_or_long_echo_time_is_taken(tmp_path, echo_time):
    write_series(tmp_path, tags={"0018|0081": echo_time})
    only_series(tmp_path)


def test_color_inverted_and_unplaced_images_are_skipped(tmp_path):
    write_series(tmp_path / "color", voxels=np.zeros((48, 40), "uint8"))
    write_series(tmp_path / "inverted")
    write_series(tmp_path / "unplaced")
    for path in (tmp_path / "color").iterdir():
        color = sitk.Compose([sitk.GetImageFromArray(np.zeros((48, 40), "uint8"))] * 3)
        for key, value in (("0008|0060", "MR"), ("0020|000e", "1.2.826.99.1"), ("0008|103e", "t2")):
            color.SetMetaData(key, value)
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(path))
        writer.Execute(color)
    for path in (tmp_path / "inverted").iterdir():
        set_element(path, (0x28, 0x4), "MONOCHROME1")
    for path in (tmp_path / "unplaced").iterdir():
        set_element(path, (0x20, 0x37), None)
    assert reason(tmp_path / "color") == "color images"
    assert reason(tmp_path / "inverted") == "inverted gray values"
    assert "no orientation in the patient (two unit vectors in ImageOrientationPatient)" in reason(
        tmp_path / "unplaced"
    )


def test_missing_slice_is_named_by_its_neighbors(tmp_path):
    write_series(tmp_path)[4].unlink()
    message = refusal(tmp_path)
    assert "lacks slices between slices 4 and 6 (by instance number): 8.00 mm where 4.00 mm is usual" in message


def test_slices_without_numbers_of_their_own_are_counted_by_position(tmp_path):
    paths = write_series(tmp_path, tags={"0020|0013": "1"})
    paths[4].unlink()
    assert "between slices 4 and 5 (counted along the slice normal)" in refusal(tmp_path)


def test_copied_slice_is_named(tmp_path):
    paths = write_series(tmp_path)
    (tmp_path / "copy.dcm").write_bytes(paths[6].read_bytes())
    assert "slices 7 and 8 (" in refusal(tmp_path)  # both say 7


def test_second_acquisition_at_the_same_positions_is_refused(tmp_path):
    write_series(tmp_path / "first")
    for number in range(12):
        write_slice(tmp_path / "second" / f"{number}", number, tags={"0020|0013": str(number + 101)})
    message = refusal(tmp_path)
    assert "several slices at one position: slices 1 and 101, 2 and 102" in message
    assert "and 4 more (" in message


def test_spacing_is_uneven_beyond_what_rounding_to_tenths_leaves(tmp_path):
    for folder, shift in (("refused", 0.15), ("taken", 0.1)):
        write_series(tmp_path / folder)
        tags = {"0020|0032": f"-40\\-48\\{5 + 4 * 6 + shift}"}
        write_slice(tmp_path / folder / "IM0006", 6, tags=tags)
    message = refusal(tmp_path / "refused")
    assert "spaced unevenly, 3.85 to 4.15 mm: look between slices 6 and 7, 7 and 8 (" in message
    assert load_series(only_series(tmp_path / "taken")).GetSpacing()[2] == pytest.approx(4)


def test_slices_shifted_sideways_are_refused_as_sheared(tmp_path):
    for number in range(12):
        tags = {"0020|0032": f"{-40 + 0.5 * number}\\-48\\{5 + 4 * number}"}
        write_slice(tmp_path / f"{number}", number, tags=tags)
    assert "is sheared: its slices are shifted sideways by up to 5.5 mm" in refusal(tmp_path)


def test_slice_of_another_orientation_is_named(tmp_path):
    write_series(tmp_path)
    write_slice(tmp_path / "IM0009", 3, orientation=tilted(2))
    assert "1 slice of 12 with another orientation than the others: slice 4 (" in refusal(tmp_path)


def test_series_of_mostly_other_planes_is_skipped(tmp_path):
    write_series(tmp_path, count=3)
    for number in range(3, 12):
        write_slice(tmp_path / f"other{number}", number, orientation=tilted(90))
    assert reason(tmp_path) == "not axial: 9 of 12 slices lie in other orientations"


def test_slices_of_another_matrix_or_pixel_size_are_named(tmp_path):
    write_series(tmp_path / "matrix")
    write_series(tmp_path / "pixel")
    write_slice(tmp_path / "matrix" / "IM0012", 0, voxels=slice_voxels(0, (44, 48)))
    write_slice(tmp_path / "pixel" / "IM0001", 11, spacing=(2.0, 2.1))
    for folder, where in (("matrix", "slice 1 ("), ("pixel", "slice 12 (")):
        message = refusal(tmp_path / folder)
        assert f"{folder} size" in message and where in message


@pytest.mark.parametrize("tag", ("0018|0086", "0018|0081"))
def test_several_echoes_are_refused(tmp_path, tag):
    for number in range(12):
        second = {"0018|0086": "2"} if tag == "0018|0086" else {"0018|0081": "30"}
        write_slice(tmp_path / f"{number}", number, tags=second if number % 2 else None)
    assert "holds 2 echoes; one T2-weighted echo is needed. Export the echo" in refusal(tmp_path)


def test_echo_times_that_differ_by_rounding_are_one_echo(tmp_path):
    for number in range(12):
        write_slice(tmp_path / f"{number}", number, tags={"0018|0081": "104.1" if number % 2 else "104"})
    load_series(only_series(tmp_path))


def test_multi_frame_object_is_refused_with_the_next_step(tmp_path):
    write_slice(tmp_path / "frames.dcm", 0, voxels=np.stack([slice_voxels(number) for number in range(12)]))
    message = refusal(tmp_path)
    assert "is an enhanced multi-frame object" in message
    assert "Export it as a classic single-frame series, or load it in Slicer and save it as NRRD." in message


@pytest.mark.parametrize("kept", (0.25, 0.6, 0.99))
@pytest.mark.parametrize("number", (5, 11))
@pytest.mark.parametrize("compressor", (None, "JPEG"))
def test_truncated_slice_is_named_wherever_it_lies(tmp_path, kept, number, compressor, capfd):
    path = write_series(tmp_path, compressor=compressor)[number]
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    message = refusal(tmp_path)
    assert f"has 1 slice that cannot be read, truncated or damaged: slice {number + 1} (" in message
    assert capfd.readouterr() == ("", "")


def test_truncated_slice_of_the_real_series_is_named(tmp_path, real_scans):
    for path in (real_scans / "prostatex" / "ProstateX-0000-dicom").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = tmp_path / "1-19.dcm"
    path.write_bytes(path.read_bytes()[:100_000])
    assert "slice 19 (" in refusal(tmp_path)


def test_series_of_nothing_but_torn_files_is_skipped(tmp_path):
    for path in write_series(tmp_path):
        path.write_bytes(path.read_bytes()[:-1])
    assert reason(tmp_path) == "none of its images can be read (truncated or damaged)"


def test_file_cut_off_before_its_series_is_known_is_listed(tmp_path):
    path = write_series(tmp_path, count=13)[12]
    path.write_bytes(path.read_bytes()[:300])
    (tmp_path / "empty.dcm").write_bytes(b"")
    found, skipped = series_among(files_below(tmp_path)[0])
    assert len(found) == 1
    assert [one.label for one in skipped] == ["2 DICOM files"]
    assert "no image that can be read" in skipped[0].reason


def test_report_that_refers_to_the_series_is_not_taken_for_a_torn_slice(tmp_path):
    path = write_series(tmp_path, count=13)[12]
    content = path.read_bytes().replace(b"1.2.840.10008.5.1.4.1.1.4\0", b"1.2.840.10008.5.1.4.1.1.8\0")
    path.write_bytes(content[:-50])
    found, skipped = series_among(files_below(tmp_path)[0])
    assert load_series(found[0]).GetSize()[2] == 12
    assert [one.label for one in skipped] == ["1 DICOM file"]


@pytest.mark.parametrize(
    ("uid", "frame", "words"),
    (
        ("1.2.840.10008.1.2.4.201", b"x" * 100, "is compressed in a way that cannot be read here: slice 5 ("),
        ("1.2.840.10008.1.2.4.90", b"x" * 100, "has a slice whose pixels cannot be read: slice 5 ("),
        ("1.2.840.10008.1.2.5", b"\2\0\0\0" + b"x" * 100, "has a slice whose pixels cannot be read: slice 5 ("),
    ),
)
def test_compression_that_cannot_be_unpacked_is_named(tmp_path, capfd, uid, frame, words):
    paths = write_series(tmp_path, compressor="JPEG")
    set_transfer_syntax(paths[4], uid, frame)
    message = refusal(tmp_path)
    assert words in message
    assert "Explicit VR Little Endian" in message
    assert uid not in message
    assert capfd.readouterr() == ("", "")


def test_damaged_run_length_slice_does_not_end_the_process(tmp_path):
    set_transfer_syntax(write_series(tmp_path, compressor="JPEG")[4], "1.2.840.10008.1.2.5", bytes(64))
    script = (
        "import sys\nfrom pathlib import Path\nfrom DDSPSegmentationLib.engine.files import files_below\n"
        "from DDSPSegmentationLib.service import dicom_series as dicom\n"
        "files = files_below(Path(sys.argv[1]))[0]\n"
        "try:\n    dicom.load_series(dicom.series_among(files)[0][0])\nexcept Exception as error:\n    print(error)"
    )
    package = str(Path(sys.modules["DDSPSegmentationLib"].__file__).parents[1])
    run = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=package, capture_output=True, text=True)
    assert run.returncode == 0
    assert "slice 5 (" in run.stdout


def test_slice_without_position_is_named(tmp_path):
    set_element(write_series(tmp_path)[2], (0x20, 0x32), None)
    assert "has 1 slice without position or orientation: slice 3 (" in refusal(tmp_path)


def test_single_slice_is_left_to_the_check_of_the_volume(tmp_path):
    write_series(tmp_path, count=1)
    image = load_series(only_series(tmp_path))
    with pytest.raises(InputError, match="'T2' has 1 "):
        check_image(image, "T2")


def test_nothing_the_files_say_is_carried_by_what_is_returned(tmp_path):
    write_series(tmp_path / "t2")
    write_series(tmp_path / "t1", series=2, tags={"0008|103e": "Doe^John gre"})
    found, skipped = series_among(files_below(tmp_path)[0])
    image = load_series(found[0])
    told = repr((found, skipped, image.GetMetaDataKeys()))
    assert not any(secret in told for secret in (*SECRETS, str(tmp_path)))


def test_folder_without_dicom_and_missing_folder_hold_no_series(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    assert series_among(files_below(tmp_path)[0]) == ([], [])
    assert series_among(files_below(tmp_path / "absent")[0]) == ([], [])


# ---- kinds of files


def written_as(path: Path, uid: str) -> Path:
    """The same slice in another transfer syntax; samples of two bytes change their order with it."""
    dataset = pydicom.dcmread(path)
    if uid == pydicom.uid.RLELossless:
        dataset.compress(uid)
    big = uid == pydicom.uid.ExplicitVRBigEndian
    if big:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = uid
    pydicom.dcmwrite(
        path, dataset, implicit_vr=uid == pydicom.uid.ImplicitVRLittleEndian, little_endian=not big, force_encoding=big
    )
    return path


@pytest.mark.parametrize(
    "uid",
    (
        pydicom.uid.ImplicitVRLittleEndian,
        pydicom.uid.ExplicitVRLittleEndian,
        pydicom.uid.ExplicitVRBigEndian,
        pydicom.uid.DeflatedExplicitVRLittleEndian,
        pydicom.uid.RLELossless,
    ),
    ids=lambda uid: uid.keyword,
)
def test_every_way_of_writing_voxels_is_read_and_a_cut_one_is_named(tmp_path, uid, capfd):
    paths = [written_as(path, uid) for path in write_series(tmp_path)]
    voxels = sitk.GetArrayFromImage(load_series(only_series(tmp_path)))
    assert [number for number in range(12) if not np.array_equal(voxels[number], slice_voxels(number))] == []
    paths[4].write_bytes(paths[4].read_bytes()[:-100])
    if uid == pydicom.uid.DeflatedExplicitVRLittleEndian:  # nothing of it can be unpacked
        assert [one.label for one in series_among(paths)[1]] == ["1 DICOM file"]
    else:
        assert "slice 5 (" in refusal(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_run_length_coded_slices_are_rescaled(tmp_path):
    for path in write_series(tmp_path):
        set_element(path, (0x28, 0x1052), "-10")
        set_element(path, (0x28, 0x1053), "2.5")
        written_as(path, pydicom.uid.RLELossless)
    voxels = sitk.GetArrayFromImage(load_series(only_series(tmp_path)))
    assert np.allclose(voxels[3], slice_voxels(3) * 2.5 - 10)


def test_files_without_preamble_are_read(tmp_path):
    for path in write_series(tmp_path):
        content = path.read_bytes()
        meta = 12 + int.from_bytes(content[140:144], "little")
        path.write_bytes(content[132 + meta :] if int(path.name[2:]) % 2 else content[132:])
    assert load_series(only_series(tmp_path)).GetSize() == (40, 48, 12)


@pytest.mark.parametrize("charset", (b"ISO_IR 192", b"ISO 2022 IR 87", b"GB18030", b"no such set", b"\\ISO_IR 100"))
def test_names_in_any_character_set_are_read_and_not_told(tmp_path, charset, capfd):
    name, holder = b"T2 tra \xe5\x89\x8d\x1b$BA0N)A#\x1b(B\xff", b"ISO 2022 IR 100"
    for path in write_series(tmp_path, count=8, tags={"0008|103e": "x" * len(name)}):
        set_element(path, (0x8, 0x5), holder.decode())
        content = path.read_bytes().replace(b"x" * len(name), name)
        path.write_bytes(content.replace(holder, charset.ljust(len(holder))))
    only_series(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_private_elements_full_of_garbage_do_not_matter(tmp_path, capfd):
    for path in write_series(tmp_path):
        dataset = pydicom.dcmread(path)
        dataset.add_new(0x00190010, "LO", "SOMEBODY")
        dataset.add_new(0x00191001, "UN", bytes(range(256)))
        dataset.add_new(0x00291010, "OB", b"\xfe\xff\x00\xe0\xff\xff\xff\xff" * 40)
        dataset.save_as(path)
    load_series(only_series(tmp_path))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("tag", ("0018|0081", "0018|0086", "0020|0013"))
def test_numbers_that_are_none_are_taken_for_missing(tmp_path, tag, capfd):
    for path in write_series(tmp_path, tags={tag: "123459"}):
        path.write_bytes(path.read_bytes().replace(b"123459", b"1,5 ms"))
    load_series(only_series(tmp_path))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("stored", "highest"), ((8, 11), (12, 15), (17, 16), (0, None)))
def test_a_slice_whose_bits_contradict_each_other_is_named(tmp_path, stored, highest):
    """GDCM cuts off bits of such a slice, and its gray values begin anew."""
    path = write_series(tmp_path)[2]
    set_element(path, (0x28, 0x101), stored)
    set_element(path, (0x28, 0x102), highest)
    assert "has 1 slice whose BitsAllocated, BitsStored and HighBit contradict each other: slice 3 (" in refusal(
        tmp_path
    )


def test_a_transfer_syntax_that_is_no_text_is_refused_as_any_that_is_not_known(tmp_path):
    path = write_series(tmp_path)[2]
    content = path.read_bytes()
    assert content.count(b"\x02\0\x10\0UI") == 1
    path.write_bytes(content.replace(b"\x02\0\x10\0UI", b"\x02\0\x10\0US"))
    assert "compressed in a way that cannot be read here: slice 3 (" in refusal(tmp_path)


def test_slices_without_pixel_spacing_are_named_and_none_is_made_up(tmp_path):
    set_element(write_series(tmp_path)[2], (0x28, 0x30), None)
    assert "has 1 slice without pixel spacing: slice 3 (" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("tag", "keyword"),
    (("0028|0030", "PixelSpacing"), ("0020|0032", "ImagePositionPatient"), ("0020|0037", "ImageOrientationPatient")),
)
@pytest.mark.parametrize("which", (slice(4, 5), slice(None)))
def test_decimal_commas_in_what_places_a_slice_are_named(tmp_path, tag, keyword, which):
    group, element = (int(half, 16) for half in tag.split("|"))
    for path in write_series(tmp_path, spacing=(0.75, 0.75), orientation=tilted(10))[which]:
        dataset = pydicom.dcmread(path)
        text = "\\".join(str(value).replace(".", ",") for value in dataset[group, element].value)
        text = text if "," in text else text.replace("\\", ",0\\", 1)
        content = text.encode() + b" " * (len(text) % 2)
        dataset[group, element] = pydicom.dataelem.RawDataElement(
            pydicom.tag.Tag(group, element), "DS", len(content), content, 0, False, True
        )
        dataset.save_as(path)
    assert f"with a decimal comma in {keyword}, where DICOM has a point: slice" in refusal(tmp_path)


def test_images_without_series_are_listed_with_the_tag_that_they_lack(tmp_path):
    for path in write_series(tmp_path):
        set_element(path, (0x20, 0xE), None)
    found, skipped = series_among(files_below(tmp_path)[0])
    assert (found, [one.label for one in skipped]) == ([], ["12 DICOM images"])
    assert "without SeriesInstanceUID" in skipped[0].reason


def test_multi_frame_object_without_a_place_of_its_own_is_refused_for_what_it_is(tmp_path):
    path = write_slice(tmp_path / "frames", 0, voxels=np.stack([slice_voxels(number) for number in range(12)]))
    set_element(path, (0x20, 0x37), None)
    assert "multi-frame" in refusal(tmp_path)


def test_slices_are_sorted_by_place_whatever_their_numbers_and_names(tmp_path):
    write_series(tmp_path, step=-4)
    files = [read_dicom_file(path) for path in sorted(tmp_path.iterdir())]
    placed = [file.position[2] for file in sorted_slices(files)]
    assert placed == sorted(placed)
    nowhere = replace(files[3], position=(), orientation=())
    assert sorted_slices([nowhere, *files[:2]])[-1] is nowhere
    assert sorted_slices([nowhere, nowhere]) == [nowhere, nowhere]


@pytest.mark.parametrize("compressor", (None, "JPEG"))
def test_garbage_in_a_header_is_passed_over_in_silence(tmp_path, compressor, capfd):
    content = write_slice(tmp_path / "slice.dcm", 0, compressor=compressor).read_bytes()
    noise = np.random.default_rng(4)
    for _ in range(100):
        garbled = bytearray(content)
        for place in noise.integers(132, 1000, 12):
            garbled[place] = noise.integers(256)
        (tmp_path / "slice.dcm").write_bytes(garbled)
        assert sum(map(len, series_among([tmp_path / "slice.dcm"]))) <= 1
    assert capfd.readouterr() == ("", "")
