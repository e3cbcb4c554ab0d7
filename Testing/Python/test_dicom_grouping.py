"""Screenshots among slices are left out of the scan, and a scan that was split over series is one again."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_parts import set_element, slice_voxels, write_series, write_slice

from DDSPSegmentationLib.engine.errors import InputError
from DDSPSegmentationLib.engine.files import files_below
from DDSPSegmentationLib.service.dicom_grouping import doubts_about_parts
from DDSPSegmentationLib.service.dicom_series import load_series, series_among

ROOM = {"0020|0052": "1.2.3"}  # of one frame of reference
STUDY = "0020|000d"


def found_in(folder: Path):
    return series_among(files_below(folder)[0])


def sizes(folder: Path) -> list[int]:
    found, skipped = found_in(folder)
    assert skipped == []
    return [len(series.files) for series in found]


def screenshot(path: Path, color: bool = True, capture: bool = True, place: bool = False) -> Path:
    """A picture of a workstation under the UID of the series."""
    write_slice(path, 0, voxels=slice_voxels(0, (64, 64)).astype("uint8"))
    if not place:
        set_element(path, (0x20, 0x32), None)
        set_element(path, (0x20, 0x37), None)
    dataset = pydicom.dcmread(path)
    if capture:
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    if color:
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
        dataset.PixelData = dataset.PixelData * 3
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("name", ("AA", "IM0006a", "ZZ"))
@pytest.mark.parametrize(
    "how",
    (
        {},
        {"place": True},
        {"color": False},
        {"color": False, "capture": False},
        {"capture": False},
    ),
    ids=str,
)
def test_screenshot_is_left_out_with_a_line_wherever_its_file_comes(tmp_path, name, how):
    write_series(tmp_path)
    screenshot(tmp_path / name, **how)
    found, skipped = found_in(tmp_path)
    voxels = sitk.GetArrayFromImage(load_series(found[0]))
    assert all(np.array_equal(voxels[number], slice_voxels(number)) for number in range(12))
    assert [(one.label, one.reason) for one in skipped] == [
        (f"1 image of {found[0].name}", "no slice of it: color or a screenshot")
    ]


def test_slice_that_lost_its_place_is_no_screenshot(tmp_path):
    path = write_series(tmp_path)[4]
    set_element(path, (0x20, 0x32), None)
    found, _ = found_in(tmp_path)
    with pytest.raises(InputError, match="1 slice without position"):
        load_series(found[0])


def test_series_of_nothing_but_screenshots_is_called_that(tmp_path):
    for number in range(9):
        screenshot(tmp_path / f"{number}")
    assert [one.reason for one in found_in(tmp_path)[1]] == ["color images"]


@pytest.mark.parametrize(
    "part",
    (lambda number: number // 10, lambda number: number // 7, lambda number: number % 2, lambda number: number),
    ids=("halves", "thirds", "alternating", "each slice"),
)
def test_scan_that_was_split_over_series_is_one_again(tmp_path, part):
    for number in range(20):
        write_slice(tmp_path / f"{number}.dcm", number, series=1 + part(number), tags=ROOM)
    found, skipped = found_in(tmp_path)
    assert (len(found), skipped) == (1, [])
    voxels = sitk.GetArrayFromImage(load_series(found[0]))
    assert all(np.array_equal(voxels[number], slice_voxels(number)) for number in range(20))
    count = len({part(number) for number in range(20)})
    assert f"came as {count} series" in doubts_about_parts(found[0].files)[0]
    assert doubts_about_parts(found[0].files[:1]) == []


@pytest.mark.parametrize("part", (lambda number: number // 10, lambda number: number), ids=("halves", "each slice"))
def test_scan_that_was_split_and_lost_a_slice_is_refused_as_a_whole(tmp_path, part):
    for number in range(20):
        write_slice(tmp_path / f"{number}.dcm", number, series=1 + part(number), tags=ROOM)
    (tmp_path / "10.dcm").unlink()
    found, _ = found_in(tmp_path)
    assert len(found) == 1
    with pytest.raises(InputError, match="lacks slices"):
        load_series(found[0])


@pytest.mark.parametrize(
    "tags",
    (
        {"0020|0052": "1.2.4"},
        {STUDY: "1.2.826.98"},
        {"0008|103e": "t2_tse_tra_2"},
        {"0018|0081": "140"},
    ),
    ids=("frame of reference", "study", "name", "echo time"),
)
def test_series_of_another_kind_or_room_stay_apart(tmp_path, tags):
    for number in range(20):
        series = 1 + number // 10
        write_slice(tmp_path / f"{number}.dcm", number, series=series, tags=ROOM | (tags if series == 2 else {}))
    assert sizes(tmp_path) == [10, 10]


@pytest.mark.parametrize("first", (0, 20, 1.2, 96), ids=("again", "overlapping", "unevenly between", "far off"))
def test_two_acquisitions_of_one_kind_stay_apart(tmp_path, first):
    for number in range(10):
        write_slice(tmp_path / f"a{number}.dcm", number, tags=ROOM)
        place = f"-40\\-48\\{5 + first + 4 * number}"
        write_slice(tmp_path / f"b{number}.dcm", number, series=2, tags=ROOM | {"0020|0032": place})
    assert sizes(tmp_path) == [10, 10]


def test_name_of_a_split_scan_does_not_depend_on_the_order_of_its_files(tmp_path):
    for folder, order in (("a", (1, 2)), ("b", (2, 1))):
        for number in range(20):
            series = order[number // 10]
            path = tmp_path / folder / f"{number if folder == 'a' else 30 - number:02d}.dcm"
            write_slice(path, number, series=series, tags=ROOM)
    assert len({found_in(tmp_path / folder)[0][0].name for folder in "ab"}) == 1
