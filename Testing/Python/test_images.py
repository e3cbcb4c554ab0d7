"""Files that are whole are read exactly; every other one gets a message that names its cause and no folder."""

import gzip
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_parts import write_slice

from DDSPSegmentationLib.engine.errors import InputError, StorageError
from DDSPSegmentationLib.engine.files import write_text
from DDSPSegmentationLib.engine.image_headers import rounding_mm
from DDSPSegmentationLib.engine.images import (
    about_rounding,
    about_small_view,
    check_image,
    other_plane,
    read_image,
    read_mask,
    write_image,
)

FORMATS = (".nrrd", ".nii.gz", ".nii", ".mha")
TRUNCATED, FOREIGN = "'{}' is truncated", "'{}' is not a readable NRRD image"


def scan(size=(40, 48, 12), spacing=(2.0, 2.0, 4.0), seed=0, dtype="int16") -> sitk.Image:
    """A volume of 80 x 96 x 48 mm with MR-like values."""
    voxels = np.random.default_rng(seed).gamma(3, 90, size[::-1])
    image = sitk.GetImageFromArray(voxels.astype(dtype))
    image.SetSpacing(spacing)
    image.SetOrigin((-31.5, 12.25, 7))
    image.SetDirection((1, 0, 0, 0, 0.8, -0.6, 0, 0.6, 0.8))
    return image


def with_voxels(voxels: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((2.0, 2.0, 4.0))
    return image


def far_away() -> sitk.Image:
    image = scan()
    image.SetOrigin((-31.5, 1e6, 7))
    return image


def same(first: sitk.Image, second: sitk.Image) -> bool:
    geometry = [(image.GetSize(), *np.round([*image.GetSpacing(), *image.GetOrigin(), *image.GetDirection()], 4))
                for image in (first, second)]  # fmt: skip
    return geometry[0] == geometry[1] and np.array_equal(*map(sitk.GetArrayViewFromImage, (first, second)))


def refusal(action, *arguments) -> str:
    with pytest.raises(InputError) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    assert caught.value.cause.endswith(".")
    return str(caught.value)


def cut(path: Path, kept: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])


def sheared_nifti(path: Path, shear: float, qform: int = 0, scale: float = 1.0) -> Path:
    write_image(scan(), path, compress=False)
    header = bytearray(path.read_bytes())
    struct.pack_into("<hh", header, 252, qform, 1)
    rows = ((-2 * scale, 2 * shear, 0, 0), (0, -2 * scale, 0, 0), (0, 0, 4 * scale, 0))
    for number, row in enumerate(rows):
        struct.pack_into("<4f", header, 280 + 16 * number, *row)
    path.write_bytes(header)
    return path


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("compress", (True, False))
def test_a_volume_comes_back_voxel_for_voxel_with_its_geometry(tmp_path, suffix, compress):
    write_image(scan(), tmp_path / f"T2{suffix}", compress)
    assert same(read_image(tmp_path / f"T2{suffix}"), scan())
    assert os.listdir(tmp_path) == [f"T2{suffix}"]


@pytest.mark.parametrize("suffix", (".NRRD", ".NII.GZ", ".Nii", ".nii.GZ", ".MHA"))
def test_suffix_in_capitals_is_the_same_suffix(tmp_path, suffix):
    write_image(scan(), tmp_path / f"T2{suffix}")
    assert same(read_image(tmp_path / f"T2{suffix}"), scan())


def test_metaimage_with_voxels_in_a_raw_file_is_read(tmp_path):
    sitk.WriteImage(scan(), str(tmp_path / "Case00.mhd"))
    assert same(read_image(tmp_path / "Case00.mhd"), scan())


def test_accented_and_long_paths_are_read_and_written(tmp_path):
    folder = tmp_path.joinpath(*(["Prostaté Größe " + "ü" * 60] * 5))
    folder.mkdir(parents=True)
    for suffix in FORMATS:
        path = folder / f"Untersuchung é 2{suffix}"
        write_image(scan(), path)
        assert same(read_image(path), scan())


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("compress", (True, False))
@pytest.mark.parametrize("kept", (0.5, 0.97, 0.9995))
def test_truncated_file_is_refused_by_name(tmp_path, suffix, compress, kept, capfd):
    path = tmp_path / f"T2{suffix}"
    write_image(scan(), path, compress)
    cut(path, kept)
    message = refusal(read_image, path)
    assert TRUNCATED.format(f"T2{suffix}") in message
    assert str(tmp_path) not in message
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("compress", (True, False))
def test_truncated_raw_beside_its_header_is_refused_by_name(tmp_path, compress, capfd):
    sitk.WriteImage(scan(), str(tmp_path / "Case00.mhd"), compress)
    data = next(path for path in tmp_path.iterdir() if path.suffix != ".mhd")
    cut(data, 0.9)
    assert TRUNCATED.format(data.name) in refusal(read_image, tmp_path / "Case00.mhd")
    assert capfd.readouterr() == ("", "")


def test_missing_raw_beside_its_header_is_named(tmp_path):
    sitk.WriteImage(scan(), str(tmp_path / "Case00.mhd"))
    (tmp_path / "Case00.raw").unlink()
    assert "'Case00.raw' is not beside it" in refusal(read_image, tmp_path / "Case00.mhd")


@pytest.mark.parametrize("suffix", (".nii.gz", ".nrrd", ".mha", ".mhd"))
def test_single_damaged_byte_in_compressed_voxels_is_noticed(tmp_path, suffix, capfd):
    path = tmp_path / f"T2{suffix}"
    sitk.WriteImage(scan(), str(path), True)
    data = tmp_path / "T2.zraw" if suffix == ".mhd" else path
    content = data.read_bytes()
    for place in range(len(content) // 3, len(content) - 8, len(content) // 20):
        data.write_bytes(content[:place] + bytes([content[place] ^ 0x5A]) + content[place + 1 :])
        message = refusal(read_image, path)
        assert f"'{data.name}' is damaged" in message or TRUNCATED.format(data.name) in message
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("chunk", (2, 7, 5000, 1 << 20))
def test_compressed_file_of_several_streams_is_whole(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("DDSPSegmentationLib.engine.image_headers._CHUNK", chunk)
    write_image(scan(), tmp_path / "plain.nii", compress=False)
    content = (tmp_path / "plain.nii").read_bytes()
    streams = [gzip.compress(part) for part in (content[:5000], content[5000:9000], content[9000:])]
    (tmp_path / "T2.nii.gz").write_bytes(b"".join(streams))
    assert same(read_image(tmp_path / "T2.nii.gz"), scan())
    (tmp_path / "T2.nii.gz").write_bytes(b"".join(streams[:2]))
    assert TRUNCATED.format("T2.nii.gz") + ": 9000 of" in refusal(read_image, tmp_path / "T2.nii.gz")


def test_detached_nrrd_with_a_damaged_data_file_is_refused(tmp_path):
    sitk.WriteImage(scan(), str(tmp_path / "T2.nhdr"), True)
    assert same(read_image(tmp_path / "T2.nhdr"), scan())
    cut(tmp_path / "T2.raw.gz", 0.8)
    assert TRUNCATED.format("T2.raw.gz") in refusal(read_image, tmp_path / "T2.nhdr")


def test_compressed_nifti_is_read_and_not_its_uncompressed_neighbor(tmp_path):
    write_image(scan(seed=1), tmp_path / "T2.nii.gz")
    write_image(scan(seed=2), tmp_path / "T2.nii")
    assert same(read_image(tmp_path / "T2.nii.gz"), scan(seed=1))
    assert same(read_image(tmp_path / "T2.nii"), scan(seed=2))


@pytest.mark.parametrize("suffix", (*FORMATS, ".mhd"))
@pytest.mark.parametrize("content", (b"hello world\n" * 40, b"", os.urandom(900), b"NRRD0004\n", b"NDims = 3\n"))
def test_file_that_is_no_image_is_refused_by_name(tmp_path, suffix, content, capfd):
    (tmp_path / f"T2{suffix}").write_bytes(content)
    message = refusal(read_image, tmp_path / f"T2{suffix}")
    assert f"'T2{suffix}'" in message
    assert str(tmp_path) not in message
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("order", "<>")
def test_nifti_of_either_byte_order_is_read_and_a_cut_one_named(tmp_path, order):
    header, voxels = bytearray(352), sitk.GetArrayFromImage(scan())
    for place, kind, values in (
        (0, "i", (348,)), (40, "8h", (3, 40, 48, 12, 1, 1, 1, 1)), (70, "2h", (4, 16)), (76, "4f", (1, 2, 2, 4)),
        (108, "2f", (352, 1)), (252, "2h", (0, 1)), (280, "12f", (-2, 0, 0, 0, 0, -2, 0, 0, 0, 0, 4, 0)),
    ):  # fmt: skip
        struct.pack_into(order + kind, header, place, *values)
    header[344:348] = b"n+1\0"
    path = tmp_path / "T2.nii"
    path.write_bytes(header + voxels.astype(f"{order}i2").tobytes())
    image = read_image(path)
    assert image.GetSpacing() == (2, 2, 4)
    assert np.array_equal(sitk.GetArrayViewFromImage(image), voxels)
    cut(path, 0.99)
    assert "'T2.nii' is truncated" in refusal(read_image, path)


def test_nifti_2_is_refused_by_name_and_nothing_is_printed(tmp_path, capfd):
    header = bytearray(544)
    struct.pack_into("<i8s2h8q", header, 0, 540, b"n+2\0\r\n\x1a\n", 4, 16, 3, 40, 48, 12, 1, 1, 1, 1)
    struct.pack_into("<8dq", header, 104, 1, 2, 2, 4, 1, 1, 1, 1, 544)
    (tmp_path / "T2.nii").write_bytes(header + bytes(2 * 40 * 48 * 12))
    assert "'T2.nii' is NIfTI-2, which is not read here. Convert it" in refusal(read_image, tmp_path / "T2.nii")
    assert capfd.readouterr() == ("", "")


def test_missing_file_folder_and_foreign_suffix_each_have_their_message(tmp_path):
    (tmp_path / "folder.nrrd").mkdir()
    (tmp_path / "T2.jpg").write_bytes(b"x")
    assert "'T2.nrrd' does not exist" in refusal(read_image, tmp_path / "T2.nrrd")
    assert "'folder.nrrd' is a folder" in refusal(read_image, tmp_path / "folder.nrrd")
    assert "suffix '.jpg'" in refusal(read_image, tmp_path / "T2.jpg")
    assert str(tmp_path) not in refusal(read_image, tmp_path / "T2.nrrd")


def test_image_of_another_format_under_a_wrong_suffix_is_refused(tmp_path):
    write_image(scan(), tmp_path / "T2.nii.gz")
    (tmp_path / "T2.nii.gz").rename(tmp_path / "T2.nrrd")
    assert FOREIGN.format("T2.nrrd") in refusal(read_image, tmp_path / "T2.nrrd")


def test_dicom_file_under_an_image_suffix_is_refused_and_not_read_with_its_header(tmp_path):
    write_slice(tmp_path / "slice.dcm", 0).rename(tmp_path / "T2.nrrd")
    assert FOREIGN.format("T2.nrrd") in refusal(read_image, tmp_path / "T2.nrrd")


@pytest.mark.parametrize("qform", (0, 1))
@pytest.mark.parametrize("shear", (0.1, 0.003))
def test_sheared_nifti_is_refused_even_where_a_qform_would_hide_it(tmp_path, qform, shear, capfd):
    message = refusal(read_image, sheared_nifti(tmp_path / "T2.nii", shear, qform))
    assert "'T2.nii' is sheared" in message
    assert capfd.readouterr() == ("", "")


def test_sheared_nifti_is_refused_when_compressed(tmp_path):
    plain = sheared_nifti(tmp_path / "T2.nii", 0.1)
    (tmp_path / "other.nii.gz").write_bytes(gzip.compress(plain.read_bytes()))
    assert "is sheared" in refusal(read_image, tmp_path / "other.nii.gz")


def test_nifti_without_shear_is_read(tmp_path):
    assert read_image(sheared_nifti(tmp_path / "T2.nii", 0)).GetSpacing() == (2, 2, 4)


def test_nifti_whose_affine_and_pixdim_disagree_is_refused(tmp_path):
    message = refusal(read_image, sheared_nifti(tmp_path / "T2.nii", 0, scale=2))
    assert "voxels of 4 x 4 x 8 mm, its pixdim 2 x 2 x 4 mm" in message


def test_nifti_with_an_unusable_affine_or_spacing_is_refused(tmp_path):
    assert "not valid numbers" in refusal(read_image, sheared_nifti(tmp_path / "a.nii", float("nan")))
    assert "not valid numbers" in refusal(read_image, sheared_nifti(tmp_path / "b.nii", 0, scale=0))
    path = sheared_nifti(tmp_path / "c.nii", 0)
    header = bytearray(path.read_bytes())
    struct.pack_into("<f", header, 80, 0)
    path.write_bytes(header)
    assert "spacing of 0 x 2 x 4 mm" in refusal(read_image, path)


def test_zero_spacing_is_refused(tmp_path):
    write_image(scan(), tmp_path / "T2.mha", compress=False)
    content = (tmp_path / "T2.mha").read_bytes()
    (tmp_path / "T2.mha").write_bytes(content.replace(b"ElementSpacing = 2 2 4", b"ElementSpacing = 0 2 4"))
    assert "spacing of 0 x 2 x 4 mm" in refusal(read_image, tmp_path / "T2.mha")


@pytest.mark.parametrize("suffix", FORMATS)
def test_four_dimensions_and_vectors_are_refused_and_a_single_time_point_is_read(tmp_path, suffix):
    path = str(tmp_path / f"T2{suffix}")
    sitk.WriteImage(sitk.JoinSeries([scan(), scan()]), path)
    assert f"Volume 'T2{suffix}' has 4 dimensions (40 x 48 x 12 x 2)" in refusal(read_image, path)
    sitk.WriteImage(sitk.Compose([scan()] * 3), path)
    assert f"'T2{suffix}'" in refusal(read_image, path)
    sitk.WriteImage(sitk.JoinSeries([scan()]), path)
    assert same(read_image(path), scan())


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("flat", (True, False))
def test_single_slice_is_named_as_such(tmp_path, suffix, flat):
    path = str(tmp_path / f"T2{suffix}")
    sitk.WriteImage(scan()[:, :, 0] if flat else scan()[:, :, :1], path)
    with pytest.raises(InputError) as caught:
        check_image(read_image(path), f"T2{suffix}")
    assert caught.value.cause == f"Volume 'T2{suffix}' has 1 slice; a 3D acquisition of at least 8 slices is needed."


def test_what_the_file_says_about_the_patient_is_not_carried_on(tmp_path):
    image = scan()
    image.SetMetaData("PatientName", "Doe")
    write_image(image, tmp_path / "T2.nrrd")
    assert "PatientName" in sitk.ReadImage(str(tmp_path / "T2.nrrd")).GetMetaDataKeys()
    assert read_image(tmp_path / "T2.nrrd").GetMetaDataKeys() == ()


def test_itk_warnings_are_shown_afterwards_as_before(tmp_path):
    write_image(scan(), tmp_path / "T2.nrrd")
    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    for shown in (True, False):
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)
        read_image(tmp_path / "T2.nrrd")
        refusal(read_image, tmp_path / "absent.nrrd")
        assert sitk.ProcessObject.GetGlobalWarningDisplay() == shown
    sitk.ProcessObject.SetGlobalWarningDisplay(before)


def test_unnamed_labels_are_merged_and_scans_and_probabilities_are_no_masks(tmp_path):
    labels = np.zeros((12, 48, 40))
    labels[3:6], labels[6:8] = 1, 4
    write_image(with_voxels(labels), tmp_path / "labels.nii.gz")
    mask = read_mask(tmp_path / "labels.nii.gz")
    assert mask.GetPixelID() == sitk.sitkUInt8
    assert np.array_equal(sitk.GetArrayViewFromImage(mask), labels > 0)
    write_image(with_voxels(labels / 5), tmp_path / "probability.nrrd")
    assert "looks like a probability map" in refusal(read_mask, tmp_path / "probability.nrrd")
    write_image(scan(), tmp_path / "scan.nrrd")
    assert "looks like a scan" in refusal(read_mask, tmp_path / "scan.nrrd")
    write_image(scan(dtype="uint8"), tmp_path / "bytes.nrrd")
    assert "looks like a scan" in refusal(read_mask, tmp_path / "bytes.nrrd")


def test_mr_volumes_of_every_type_and_axis_order_are_accepted():
    for dtype in ("uint8", "int16", "uint16", "float32", "float64"):
        check_image(scan(dtype=dtype), "T2")
    for order in ([2, 0, 1], [1, 2, 0], [0, 2, 1]):
        check_image(sitk.PermuteAxes(scan(), order), "T2")
    check_image(sitk.Flip(scan(), (True, False, True)), "T2")
    check_image(sitk.Normalize(sitk.Cast(scan(), sitk.sitkFloat32)), "T2")


def test_real_scan_is_accepted_and_read_quickly(real_scans):
    path = real_scans / "prostatex" / "ProstateX-0000.nii.gz"
    image = read_image(path)
    check_image(image, path.name)
    assert image.GetSize() == (384, 384, 19)


@pytest.mark.parametrize(
    ("image", "words"),
    (
        (scan(size=(40, 48, 7)), "has 7 slices; a 3D"),
        (sitk.PermuteAxes(scan(size=(40, 48, 7)), (2, 0, 1)), "has 7 slices"),
        (scan(size=(31, 48, 12)), "has 31 x 48 voxels in plane; at least 32 x 32"),
        (scan(spacing=(1.1, 2, 4)), "field of view of 44 x 96 mm in plane; 45 to 600 mm"),
        (scan(spacing=(2, 12.6, 4)), "field of view of 80 x 604.8 mm in plane"),
        (scan(spacing=(2, 2, 3.3)), "field of view of 39.6 mm through plane; 40 to 500 mm"),
        (scan(spacing=(2, 2, 42)), "field of view of 504 mm through plane"),
        (sitk.JoinSeries([scan(), scan()]), "has 4 dimensions"),
        (sitk.Compose([scan(), scan()]), "has 2 values in each voxel"),
        (sitk.RealAndImaginaryToComplex(scan(dtype="float32"), scan(dtype="float32")), "complex values"),
        (with_voxels(np.full((12, 48, 40), 7)), "is constant: every voxel is 7"),
        (with_voxels(np.arange(12 * 48 * 40).reshape(12, 48, 40) % 7), "looks like a labelmap: it has 7 different"),
        (sitk.Image(0, 0, 0, sitk.sitkInt16), "is empty"),
        (far_away(), "has its origin at -31.5 x 1e+06 x 7 mm, far from any patient"),
    ),
)
def test_volume_that_cannot_be_segmented_is_refused_in_the_fields_words(image, words):
    message = refusal(check_image, image, "T2")
    assert message.startswith("Volume 'T2'")
    assert words in message


@pytest.mark.parametrize("value", (np.nan, np.inf, -np.inf))
def test_voxels_that_are_no_numbers_are_counted(value):
    voxels = sitk.GetArrayFromImage(scan(dtype="float32"))
    voxels[3, 4, 5:7] = value
    assert "has 2 voxels that are not numbers" in refusal(check_image, with_voxels(voxels), "T2")


def test_values_beyond_single_precision_are_refused():
    voxels = sitk.GetArrayFromImage(scan(dtype="float64")) * 1e300
    assert "too large to compute with" in refusal(check_image, with_voxels(voxels), "T2")


def rewritten(path: Path, suffix: str, old: bytes, new: bytes) -> Path:
    """A sound file of one part with a line of its header changed."""
    write_image(scan(), path.with_suffix(suffix), compress=False)
    path = path.with_suffix(suffix)
    content = path.read_bytes()
    header, line, rest = content.partition(old)
    assert line
    _, _, rest = rest.partition(b"\n")
    path.write_bytes(header + new + rest)
    return path


@pytest.mark.parametrize(
    ("suffix", "old", "new", "words"),
    (
        (".nrrd", b"encoding:", b"encoding: bzip2\n", "has the encoding 'bzip2', which is not read here"),
        (".nrrd", b"sizes:", b"sizes: 4x0 48 12\n", "damaged header: its sizes cannot be '4x0 48 12'"),
        (".nrrd", b"kinds:", b"line skip: 0.5\n", "damaged header: its line skip cannot be '0.5'"),
        (".nrrd", b"space directions:", b"", "has no voxel spacing (spacings, space directions)"),
        (".nrrd", b"space directions:", b"space directions: (2,0,0) (0,nan,0) (0,0,4)\n", "are not valid numbers"),
        (".nrrd", b"space origin:", b"space origin: (0,inf,0)\n", "has space origin that are not valid numbers"),
        (".nrrd", b"space origin:", b"space origin: (1 1,0,0)\n", "has space origin that are not valid numbers"),
        (".mha", b"ElementSpacing", b"", "has no voxel spacing (ElementSpacing)"),
        (".mha", b"DimSize", b"DimSize = 4x0 48 12\n", "damaged header: its DimSize cannot be '4x0 48 12'"),
        (".mha", b"TransformMatrix", b"TransformMatrix = 0 0 0 0 0 0 0 0 0\n", "no three axes: its TransformMatrix"),
        (".mha", b"TransformMatrix", b"TransformMatrix = 1,0 0 0 0 1 0 0 0 1\n", "has TransformMatrix that are not"),
        (".mha", b"Offset", b"Offset = nan 0 0\n", "has Offset that are not valid numbers: 'nan 0 0'"),
        (".mha", b"Offset", b"Offset = 0 0\n", "has 2 numbers in its Offset, for 3 dimensions"),
        (".mha", b"ElementSpacing", b"ElementSpacing = 2 2 4;\n", "has ElementSpacing that are not valid numbers"),
        (".mha", b"ElementType", b"ElementType = MET_FLOAT!\n", "its ElementType cannot be 'MET_FLOAT!'"),
        (".mha", b"NDims", b"NDims = 4294967296\n", "damaged header: its NDims cannot be '4294967296'"),
        (".mha", b"CenterOfRotation", b"HeaderSize = 1\n", "damaged header: its HeaderSize cannot be '1'"),
        (".mha", b"CenterOfRotation", b"CenterOf\n", "damaged header: its line 'CenterOf' cannot be right"),
        (".mha", b"TransformMatrix", b"Transformmatrix = 1 0 0 0 1 0 0 0 1\n", "its line 'Transformmatrix = 1"),
        (".mha", b"TransformMatrix", b"TransformMatrix\x1f = 1 0 0 0 1 0 0 0 1\n", "its line 'TransformMatrix"),
        (".mha", b"TransformMatrix", b"TransformMatrix = 1 0 0 0 1 1e308 0 0 1\n", "has TransformMatrix that are not"),
        (".mha", b"CenterOfRotation", b"Offset = 0 0 0\n", "its line 'Offset ="),
        (".mha", b"BinaryDataByteOrderMSB", b"BinaryDataByteOrderMSB = 1 1\n", "ByteOrderMSB cannot be '1 1'"),
    ),
)  # fmt: skip
def test_a_header_whose_numbers_are_none_is_refused_by_the_line(tmp_path, suffix, old, new, words, capfd):
    assert words in refusal(read_image, rewritten(tmp_path / "T2", suffix, old, new))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_volume_that_no_memory_holds_is_called_too_large(tmp_path, suffix, monkeypatch):
    write_image(scan(), tmp_path / f"T2{suffix}")
    monkeypatch.setattr("DDSPSegmentationLib.engine.images.MOST_VOXELS", 40 * 48 * 12 - 1)
    assert f"'T2{suffix}' is too large: 40 x 48 x 12 voxels" in refusal(read_image, tmp_path / f"T2{suffix}")


def written(path: Path) -> Path:
    write_image(scan(), path, compress=False)
    return path


def with_line(path: Path, line: bytes) -> Path:
    """A MetaImage with another line for the one of the same first word."""
    word = line.split(b" ")[0].rstrip(b"\xee")
    header, found, rest = path.read_bytes().partition(word)
    assert found
    path.write_bytes(header + line + b"\n" + rest.partition(b"\n")[2])
    return path


def detached_nrrd(folder: Path, name: str) -> Path:
    """A .nhdr whose voxels lie in T2.raw and which calls them so."""
    sitk.WriteImage(scan(), str(folder / "T2.nhdr"))
    path = folder / "T2.nhdr"
    path.write_bytes(path.read_bytes().replace(b"T2.raw", name.encode()))
    return path


def test_a_detached_nrrd_is_followed_along_backslashes_and_refused_without_its_voxels(tmp_path):
    assert same(read_image(detached_nrrd(tmp_path, ".\\T2.raw")), scan())
    assert "its file 'other.raw' is not beside it" in refusal(read_image, detached_nrrd(tmp_path, "other.raw"))


@pytest.mark.parametrize("name", ("LIST\nT2.raw\nT2.raw", "T2.%03d.raw 1 12 1 2"))
def test_a_detached_nrrd_of_several_files_is_refused(tmp_path, name):
    message = refusal(read_image, detached_nrrd(tmp_path, name))
    assert "'T2.nhdr' keeps its voxels in several files" in message


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs devices")
@pytest.mark.parametrize("device", ("/dev/zero", "/dev/urandom"))
def test_voxels_from_a_device_are_refused(tmp_path, device):
    assert "which it names, is a device" in refusal(read_image, detached_nrrd(tmp_path, device))


def test_voxels_behind_a_header_of_their_own_are_read_from_where_it_ends(tmp_path):
    sitk.WriteImage(scan(), str(tmp_path / "T2.mhd"))
    header, voxels = (tmp_path / "T2.mhd").read_bytes(), (tmp_path / "T2.raw").read_bytes()
    (tmp_path / "T2.raw").write_bytes(b"another header" + voxels)
    for size in (b"14", b"-1"):
        (tmp_path / "T2.mhd").write_bytes(
            header.replace(b"ElementDataFile", b"HeaderSize = %s\nElementDataFile" % size)
        )
        assert same(read_image(tmp_path / "T2.mhd"), scan())
    (tmp_path / "T2.raw").write_bytes(voxels)
    assert "'T2.raw' is truncated" in refusal(read_image, with_line(tmp_path / "T2.mhd", b"HeaderSize = 14"))


@pytest.mark.parametrize(
    ("size", "words"),
    (
        ("1", "is truncated: its compressed data end too early"),
        ("21756.5", "its CompressedDataSize cannot be '21756.5'"),
    ),
)
def test_compressed_voxels_that_are_shorter_than_they_should_be_are_refused(tmp_path, size, words, capfd):
    """ITK unpacks as many bytes as the header says, and leaves the rest of the voxels as memory was."""
    write_image(scan(), tmp_path / "T2.mha", compress=True)
    with_line(tmp_path / "T2.mha", f"CompressedDataSize = {size}".encode())
    assert words in refusal(read_image, tmp_path / "T2.mha")
    assert capfd.readouterr() == ("", "")


def test_a_key_that_is_not_utf8_goes_with_all_others(tmp_path):
    with_line(written(tmp_path / "T2.mha"), b"CenterOfRotation\xee = 0 0 0")
    image = read_image(tmp_path / "T2.mha")
    assert same(image, scan()) and not image.GetMetaDataKeys()


def test_a_compressed_metaimage_that_does_not_say_its_length_is_read(tmp_path):
    write_image(scan(), tmp_path / "T2.mha", compress=True)
    content = (tmp_path / "T2.mha").read_bytes()
    before, line, after = content.partition(b"CompressedDataSize")
    assert line
    (tmp_path / "T2.mha").write_bytes(before + after.partition(b"\n")[2])
    assert same(read_image(tmp_path / "T2.mha"), scan())


def test_computed_tomography_is_refused_and_a_few_low_mr_values_are_not():
    voxels = sitk.GetArrayFromImage(scan())
    voxels[:, :3] = -1024
    message = refusal(check_image, with_voxels(voxels), "T2")
    assert f"looks like CT, values from -1024 to {voxels.max()}" in message
    voxels[:, :3] = 50
    voxels[0, 0, :9] = -1024
    check_image(with_voxels(voxels), "T2")


def test_shear_is_refused_just_above_the_tolerance_and_accepted_just_below():
    image = scan()
    image.SetDirection((1, 3e-3, 0, 0, 1, 0, 0, 0, 1))
    assert "off orthogonal by 0.003" in refusal(check_image, image, "T2")
    image.SetDirection((1, 1.9e-3, 0, 0, 1, 0, 0, 0, 1))
    check_image(image, "T2")


def test_rounded_axes_are_told_with_what_they_cost_and_sound_ones_are_not():
    image = sitk.Image(100, 100, 20, sitk.sitkInt16)
    image.SetSpacing((2.0, 2.0, 3.0))
    assert about_rounding(image) == []
    image.SetDirection((1, 1e-3, 0, 0, 1, 0, 0, 0, 1))
    (told,) = about_rounding(image)
    assert "up to 0.1 mm at the edge of the field of view" in told
    image.SetDirection((1, 5e-5, 0, 0, 1, 0, 0, 0, 1))
    assert about_rounding(image) == []


@pytest.mark.parametrize("suffix", (".nii", ".nii.gz"))
@pytest.mark.parametrize("qform", (0, 1))
def test_nifti_with_a_rounded_affine_is_read(tmp_path, qform, suffix, capfd):
    path = sheared_nifti(tmp_path / "T2.nii", 0.0015, qform)
    if suffix == ".nii.gz":
        path = tmp_path / "T2.nii.gz"
        path.write_bytes(gzip.compress((tmp_path / "T2.nii").read_bytes()))
        (tmp_path / "T2.nii").unlink()
    image = read_image(path)
    assert image.GetSpacing() == pytest.approx((2, 2, 4), rel=1e-4)
    assert np.abs(np.abs(image.GetDirection()) - np.eye(3).ravel()).max() < 0.002
    assert rounding_mm(image.GetDirection(), (80, 96, 48)) == pytest.approx(0.0015 * 48, rel=1e-3)
    assert "axes are rounded and taken as orthogonal" in about_rounding(image)[0]
    assert capfd.readouterr() == ("", "") and "ITK_NIFTI_SFORM_PERMISSIVE" not in os.environ


def test_failed_write_keeps_the_old_file_and_leaves_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "T2.nrrd"
    write_image(scan(seed=1), path)
    write_text("old", tmp_path / "run.json")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("DDSPSegmentationLib.engine.files.os.replace", refuse)
    with pytest.raises(StorageError, match="'T2.nrrd' could not be written: no permission"):
        write_image(scan(seed=2), path)
    with pytest.raises(StorageError, match="'run.json' could not be written: no permission"):
        write_text("new", tmp_path / "run.json")
    assert same(read_image(path), scan(seed=1))
    assert (tmp_path / "run.json").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["T2.nrrd", "run.json"]


def test_folder_that_is_missing_or_a_file_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("x")
    for folder in ("absent", "file"):
        for write, name in ((write_image, "T2.nrrd"), (write_text, "run.json")):
            with pytest.raises(StorageError, match="its folder does not exist") as caught:
                write(scan() if write is write_image else "x", tmp_path / folder / name)
            assert str(tmp_path) not in str(caught.value)


def test_formats_of_two_files_are_not_written(tmp_path):
    for name in ("T2.mhd", "T2.nhdr", "T2.png"):
        with pytest.raises(StorageError, match="Use .nrrd"):
            write_image(scan(), tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_text_is_written_as_utf8_without_changing_line_ends(tmp_path):
    write_text("größe\n", tmp_path / "run.json")
    assert (tmp_path / "run.json").read_bytes() == "größe\n".encode()


def turned(axis: int, degrees: float, spacing=(1.0, 1.0, 4.0)) -> sitk.Image:
    """An axial stack turned about the patient's axis 0 (left) or 1 (posterior)."""
    image = scan(spacing=spacing)
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    plane = [other for other in range(3) if other != axis]
    matrix = np.eye(3)
    matrix[np.ix_(plane, plane)] = [[cosine, -sine], [sine, cosine]]
    image.SetDirection(matrix.ravel())
    return image


@pytest.mark.parametrize(
    ("image", "plane"),
    [
        (turned(0, 0), ""),
        (turned(0, 30), ""),
        (turned(0, 45), "tilted by 45 degrees"),
        (turned(0, 90), "coronal"),
        (turned(0, 70), "coronal"),
        (turned(1, 90), "sagittal"),
        (turned(1, -80), "sagittal"),
        (turned(0, 90, spacing=(1.0, 1.0, 1.2)), ""),
    ],
)
def test_a_stack_of_thick_slices_is_called_by_its_plane(image, plane):
    assert other_plane(image) == plane


@pytest.mark.parametrize("spacing", [(1.1, 2.0, 4.0), (2.0, 1.1, 4.0)])
def test_a_field_of_view_that_may_end_within_the_gland_is_told(spacing):
    image = scan(size=(50, 50, 12), spacing=spacing)
    check_image(image, "T2")
    assert about_small_view(image) == ["The field of view is 55 mm wide; below 60 mm it may end within the gland."]
    assert about_small_view(scan()) == []


WRITE_WITH_LITTLE_SPACE = """
import resource, signal, sys
import numpy as np, SimpleITK as sitk
from DDSPSegmentationLib.engine.errors import StorageError
from DDSPSegmentationLib.engine.files import write_text
from DDSPSegmentationLib.engine.images import write_image
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
image = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 900, (12, 48, 40)).astype("int16"))
for name in sys.argv[2:]:
    try:
        write_text("x" * 30_000, f"{sys.argv[1]}/{name}") if name == "run.json" else write_image(
            image, f"{sys.argv[1]}/{name}")
    except StorageError as error:
        print(error)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="file size limits need a POSIX system")
def test_disk_that_fills_up_keeps_the_old_file_in_every_format(tmp_path):
    names = [f"T2{suffix}" for suffix in FORMATS] + ["run.json"]
    for name in names:
        (tmp_path / name).write_text("old")
    package = str(Path(sys.modules["DDSPSegmentationLib"].__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "-c", WRITE_WITH_LITTLE_SPACE, str(tmp_path), *names],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": package}, check=True,
    )  # fmt: skip
    assert [line.split("'")[1] for line in run.stdout.splitlines()] == names
    assert run.stdout.count("full") == len(names)
    assert sorted(os.listdir(tmp_path)) == sorted(names)
    assert {(tmp_path / name).read_text() for name in names} == {"old"}
