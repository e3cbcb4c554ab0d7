"""Names that ITK takes for something else: what is read is what lies in the file, whatever it is called."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from DDSPSegmentationLib.engine.errors import InputError
from DDSPSegmentationLib.engine.images import read_image, read_mask, write_image
from DDSPSegmentationLib.engine.plain_names import is_plain, plainly_named, printable

NAMES = [
    "T2 77 % ax",
    "100%d",
    "%s%n",
    "a%%b",
    "50%03d",
    "tab\there",
    'quote"s',
    "Ünïcode 前立腺",
    "--leading",
]
NOT_UTF8 = [os.fsdecode(b"Pr\xfcfung"), os.fsdecode(b"\xff\xfe")]
needs_bytes = pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are text here")


def scan(seed=0, kind=np.int16):
    voxels = np.random.default_rng(seed).integers(0, 1000, (12, 40, 50)).astype(kind)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.6, 0.7, 3.5))
    image.SetOrigin((-20.5, 11.25, 80.0))
    return image


def same(one, other):
    arrays = [sitk.GetArrayFromImage(image) for image in (one, other)]
    return np.array_equal(*arrays) and np.allclose(one.GetSpacing(), other.GetSpacing())


def made(tmp_path, name, suffix, image):
    """The file, written under a plain name and then called so; a detached one with its voxels."""
    plain = tmp_path / f"plain{suffix}"
    sitk.WriteImage(image, str(plain))
    path = tmp_path / f"{name}{suffix}"
    os.rename(plain, path)
    for raw in (".raw", ".zraw"):
        if (voxels := tmp_path / f"plain{raw}").exists():
            os.rename(voxels, tmp_path / f"{name}{raw}")
            header = path.read_bytes().replace(f"plain{raw}".encode(), os.fsencode(f"{name}{raw}"))
            path.write_bytes(header)
    return path


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".nii", ".nii.gz", ".mha", ".mhd"])
@pytest.mark.parametrize("name", [*NAMES, *(pytest.param(name, marks=needs_bytes) for name in NOT_UTF8)], ids=repr)
def test_a_file_of_any_name_is_read_as_it_is(tmp_path, name, suffix):
    image, other = scan(1), scan(2)
    read_image(made(tmp_path, "other", suffix, other))  # what a reader that fails may still have in its hands
    assert same(read_image(made(tmp_path, name, suffix, image)), image)


@needs_bytes
@pytest.mark.parametrize("folder", [os.fsdecode(b"K\xf6ln"), "50 %d"], ids=repr)
def test_a_folder_of_any_name_is_read_from_and_written_to(tmp_path, folder):
    place = tmp_path / folder
    place.mkdir()
    image = scan(3)
    for suffix in (".nrrd", ".nii.gz", ".mha"):
        write_image(image, place / f"T2{suffix}")
        assert same(read_image(place / f"T2{suffix}"), image)
    made(tmp_path, "T2", ".mhd", image)
    for part in tmp_path.glob("T2.*"):
        os.rename(part, place / part.name)
    assert same(read_image(place / "T2.mhd"), image)


def test_a_windows_path_in_a_metaimage_is_followed(tmp_path):
    path = made(tmp_path, "T2", ".mhd", scan(4))
    path.write_bytes(path.read_bytes().replace(b"T2.raw", b".\\T2.raw"))
    assert same(read_image(path), scan(4))


@pytest.mark.parametrize("name", ["slice%03d.raw 1 12 1", "LIST"])
def test_voxels_in_several_files_are_refused_by_name(tmp_path, name):
    path = made(tmp_path, "T2", ".mhd", scan(5))
    path.write_bytes(path.read_bytes().replace(b"T2.raw", name.encode()))
    with pytest.raises(InputError, match="'T2.mhd' keeps its voxels in several files"):
        read_image(path)


def test_voxels_that_are_not_those_of_the_file_are_refused(tmp_path, monkeypatch):
    path = made(tmp_path, "T2", ".mha", scan(6))
    monkeypatch.setattr("DDSPSegmentationLib.engine.images._read", lambda *arguments: scan(7))
    with pytest.raises(InputError, match="What was read is not what lies in the file of 'T2.mha'"):
        read_image(path)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("compressed", [False, True])
def test_sound_metaimages_of_every_type_pass(tmp_path, kind, compressed):
    path = tmp_path / "T2.mha"
    sitk.WriteImage(scan(8, kind), str(path), useCompression=compressed)
    assert same(read_image(path), scan(8, kind))


def test_a_big_endian_metaimage_passes(tmp_path):
    path = made(tmp_path, "T2", ".mhd", scan(9))
    raw = tmp_path / "T2.raw"
    raw.write_bytes(np.fromfile(raw, "<i2").astype(">i2").tobytes())
    header = path.read_text().replace("BinaryDataByteOrderMSB = False", "BinaryDataByteOrderMSB = True")
    path.write_text(header)
    assert same(read_image(path), scan(9))


def test_masks_of_odd_names_are_read(tmp_path):
    mask = sitk.Cast(scan(10) > 500, sitk.sitkUInt8)
    assert same(read_mask(made(tmp_path, "M 50 %_mask", ".mhd", mask)), mask)


def test_a_plain_name_is_not_copied(tmp_path):
    path = made(tmp_path, "T2", ".nrrd", scan())
    with plainly_named(path, ".nrrd") as plain:
        assert plain == path
    with plainly_named(path, ".nrrd", always=True) as plain:
        assert plain != path and plain.read_bytes() == path.read_bytes()
    assert not Path(plain).exists()


def test_what_cannot_be_printed_is_shown_by_its_codes():
    assert printable(os.fsdecode(b"Pr\xfcfung")) == "Pr\\xfcfung" and printable("a\nb") == "a\\nb"
    assert printable("Ünïcode") == "Ünïcode" and is_plain("Ünïcode") and not is_plain("5 %")
