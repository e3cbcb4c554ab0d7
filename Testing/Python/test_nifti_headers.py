"""NIfTI files whose headers leave gaps or contradict themselves: refused by the cause, or read with a doubt told."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from DDSPSegmentationLib.engine.errors import InputError
from DDSPSegmentationLib.engine.file_doubts import NO_ORIENTATION
from DDSPSegmentationLib.engine.images import read_image, write_image
from DDSPSegmentationLib.engine.nifti_headers import apart_mm, count_non_numbers, places_of

NAN = float("nan")


def scan(kind="int16", seed=0) -> sitk.Image:
    image = sitk.GetImageFromArray(np.random.default_rng(seed).gamma(3, 90, (12, 48, 40)).astype(kind))
    image.SetSpacing((2.0, 2.0, 4.0))
    image.SetOrigin((-31.5, 12.25, 7))
    image.SetDirection((1, 0, 0, 0, 0.8, -0.6, 0, 0.6, 0.8))
    return image


def changed(path: Path, *changes: tuple, image: sitk.Image | None = None) -> Path:
    """A sound file with numbers written over its header: (offset, struct format, values)."""
    write_image(scan() if image is None else image, path, compress=False)
    content = bytearray(path.read_bytes())
    for place, kind, *values in changes:
        struct.pack_into(f"<{kind}", content, place, *values)
    path.write_bytes(content)
    return path


def told(path: Path) -> list[str]:
    doubts: list[str] = []
    read_image(path, doubts=doubts)
    return doubts


@pytest.mark.parametrize(
    ("changes", "words"),
    (
        ([(252, "2h", 1, 0), (256, "3f", 0.9, 0.9, 0.9)], "qform whose quaternion is too long: 1.559"),
        ([(252, "2h", 1, 0), (256, "f", NAN)], "qform whose quaternion is not valid numbers"),
        ([(252, "2h", 1, 0), (268, "f", float("inf"))], "qform whose origin is not valid numbers"),
        ([(252, "2h", 0, 1), (292, "f", NAN)], "affine (sform) whose origin is not valid numbers"),
        ([(108, "f", 0)], "its voxels start at byte 0 (vox_offset)"),
        ([(108, "f", NAN)], "its voxels start at byte nan (vox_offset)"),
        ([(112, "2f", -1, 1118)], "inverted gray values: its scl_slope is -1, negative"),
        ([(112, "2f", 4e-40, 0)], "e-40, by which nothing can be scaled"),
        ([(70, "2h", 32, 64)], "has complex values; a magnitude image is needed"),
        ([(70, "h", 77)], "a type that is not read here (datatype 77, 16 bits)"),
        ([(70, "2h", 1, 1)], "a type that is not read here (datatype 1, 1 bits)"),
        ([(40, "h", 9)], "damaged header: 9 dimensions of"),
        ([(40, "h", 6), (50, "h", -32768)], "6 dimensions of 40 x 48 x 12 x 1 x -32768 x 1 voxels"),
        ([(70, "h", 8)], "voxels of datatype 8 have 32 bits, and its bitpix is 16"),
        ([(72, "h", -16)], "voxels of datatype 4 have 16 bits, and its bitpix is -16"),
        ([(344, "4s", b"n+1\x08")], "is not a readable NIfTI image"),  # to ITK it is Analyze, which has no place
        ([(344, "4s", b"ni1\0")], "is the header of a NIfTI pair (.hdr, .img)"),
    ),
)  # fmt: skip
@pytest.mark.parametrize("compress", (False, True))
def test_a_header_that_cannot_be_believed_is_refused_by_its_cause(tmp_path, changes, words, compress, capfd):
    path = changed(tmp_path / "T2.nii", *changes)
    if compress:
        (tmp_path / "T2.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = tmp_path / "T2.nii.gz"
    with pytest.raises(InputError) as caught:
        read_image(path)
    assert words in str(caught.value) and caught.value.cause.startswith(f"File '{path.name}' ")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("order", "<>")
def test_nifti_2_is_named_in_either_byte_order(tmp_path, order):
    header = bytearray(544)
    struct.pack_into(f"{order}i8s", header, 0, 540, b"n+2\0\r\n\x1a\n")
    (tmp_path / "T2.nii.gz").write_bytes(gzip.compress(header))
    with pytest.raises(InputError, match="'T2.nii.gz' is NIfTI-2, which is not read here. Convert it to NIfTI-1"):
        read_image(tmp_path / "T2.nii.gz")


@pytest.mark.parametrize(("written", "called"), ((".nii", ".nii.gz"), (".nii.gz", ".nii")))
def test_a_file_called_by_the_wrong_suffix_is_read_by_its_content(tmp_path, written, called):
    write_image(scan(), tmp_path / f"one{written}")
    (tmp_path / f"one{written}").rename(tmp_path / f"T2{called}")
    image = read_image(tmp_path / f"T2{called}")
    assert np.array_equal(*map(sitk.GetArrayViewFromImage, (image, scan())))


def test_a_file_compressed_twice_says_so(tmp_path):
    write_image(scan(), tmp_path / "T2.nii.gz")
    (tmp_path / "T2.nii.gz").write_bytes(gzip.compress((tmp_path / "T2.nii.gz").read_bytes()))
    with pytest.raises(InputError, match="is compressed twice"):
        read_image(tmp_path / "T2.nii.gz")


@pytest.mark.parametrize("kind", ("float32", "float64"))
@pytest.mark.parametrize("suffix", (".nii", ".nii.gz", ".nrrd", ".mha"))
def test_infinite_voxels_are_refused_and_a_few_that_are_not_numbers_are_told(tmp_path, kind, suffix):
    voxels = sitk.GetArrayFromImage(scan(kind))
    path = tmp_path / f"T2{suffix}"

    def stored(place, value) -> Path:
        other = voxels.copy()
        other[place] = value
        image = sitk.GetImageFromArray(other)
        image.CopyInformation(scan())
        sitk.WriteImage(image, str(path))
        return path

    assert told(stored((3, 4, slice(5, 7)), np.nan)) == ["2 of 23040 voxels are not numbers (NaN) and were read as 0."]
    read = sitk.GetArrayFromImage(read_image(path))
    voxels[3, 4, 5:7] = 0
    assert np.array_equal(read, voxels) and read_image(path).GetOrigin() == pytest.approx(scan().GetOrigin())
    for value in (np.inf, -np.inf):
        with pytest.raises(InputError, match="has 2 infinite voxels"):
            read_image(stored((3, 4, slice(5, 7)), value))
    with pytest.raises(InputError, match="nothing but voxels that are not numbers"):
        read_image(stored(slice(None), np.nan))


def test_voxels_are_counted_in_big_endian_files_too(tmp_path):
    path = changed(tmp_path / "T2.nii", image=scan("float32"))
    content = bytearray(path.read_bytes())
    for place, kind in ((0, "i"), (40, "8h"), (70, "2h"), (76, "8f"), (108, "3f"), (252, "2h"), (256, "18f")):
        struct.pack_into(f">{kind}", content, place, *struct.unpack_from(f"<{kind}", content, place))
    voxels = np.frombuffer(content[352:], "<f4").copy()
    voxels[7] = np.nan
    path.write_bytes(bytes(content[:352]) + voxels.astype(">f4").tobytes())
    assert count_non_numbers(path) == (1, 0, voxels.size)


def test_a_sound_file_leaves_no_doubt(tmp_path):
    for name in ("T2.nii", "T2.nii.gz", "T2.nrrd", "T2.mha"):
        write_image(scan(), tmp_path / name)
        assert told(tmp_path / name) == []


def test_both_forms_of_a_sound_file_are_one_place(tmp_path):
    places = places_of(changed(tmp_path / "T2.nii", (252, "2h", 1, 1)))
    assert set(places) == {"qform", "sform"} and apart_mm(*places.values(), (40, 48, 12)) < 1e-3


@pytest.mark.parametrize(("codes", "taken"), (((1, 1), "sform"), ((1, 2), "qform")))
def test_forms_that_contradict_each_other_are_told_with_the_one_taken(tmp_path, codes, taken):
    path = changed(tmp_path / "T2.nii", (252, "2h", *codes), (268, "f", 51.5))
    (doubt,) = told(path)
    assert f"qform and sform contradict each other by up to 20 mm; the {taken} was taken" in doubt
    assert read_image(path).GetOrigin()[0] == pytest.approx({"sform": -31.5, "qform": -51.5}[taken], abs=1e-3)


def test_a_file_without_orientation_is_told(tmp_path):
    assert told(changed(tmp_path / "T2.nii", (252, "2h", 0, 0))) == [NO_ORIENTATION]
    for suffix, lines in (
        (".nrrd", (b"space:", b"space directions", b"space origin")),
        (".mha", (b"TransformMatrix",)),
    ):
        path = tmp_path / f"T2{suffix}"
        write_image(scan(), path, compress=False)
        header, mark, voxels = path.read_bytes().partition(b"\n\n" if suffix == ".nrrd" else b"ElementDataFile")
        kept = [line for line in header.split(b"\n") if not line.startswith(lines)]
        kept += [b"spacings: 2 2 4"] if suffix == ".nrrd" else []
        path.write_bytes(b"\n".join(kept) + mark + voxels)
        assert told(path) == [NO_ORIENTATION], suffix
