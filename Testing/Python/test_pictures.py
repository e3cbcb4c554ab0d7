"""Contour pictures: what a radiologist sees is the right slice, the right way up, with the line where the mask ends."""

import struct
import zlib

import numpy as np
import pytest
import SimpleITK as sitk

from DDSPSegmentationLib.engine.errors import InputError, StorageError
from DDSPSegmentationLib.engine.picture_text import text_mask
from DDSPSegmentationLib.engine.pictures import PROSTATE_COLOR, REFERENCE_COLOR, contour_picture, thumbnail

PANEL, GAP = 320, 4


def read_png(path):
    """The picture as uint8 (rows, columns, 3), read by ITK, which shares no code with the writer."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def panel(picture, number):
    top, left = (number // 4) * (PANEL + GAP), (number % 4) * (PANEL + GAP)
    return picture[top : top + PANEL, left : left + PANEL]


def drawn(picture, color):
    return (picture == np.array(color, np.uint8)).all(axis=-1)


def bounds(flags):
    """(first row, last row, first column, last column)."""
    rows, columns = np.flatnonzero(flags.any(1)), np.flatnonzero(flags.any(0))
    return rows[0], rows[-1], columns[0], columns[-1]


def scan(size=(80, 100, 20), spacing=(1.0, 1.0, 3.0)):
    """A volume (size x, y, z) of soft noise with a bright square near the patient's right front."""
    voxels = np.random.default_rng(0).normal(100, 5, size[::-1]).astype(np.float32)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing)
    return image


def box_mask(image, x, y, z):
    voxels = np.zeros(image.GetSize()[::-1], np.uint8)
    voxels[z[0] : z[1], y[0] : y[1], x[0] : x[1]] = 1
    mask = sitk.GetImageFromArray(voxels)
    mask.CopyInformation(image)
    return mask


def test_eight_slices_of_the_gland_and_two_beyond_it_at_either_end_make_a_picture(tmp_path):
    image = scan()
    contour_picture(image, [(box_mask(image, (30, 50), (40, 60), (4, 16)), PROSTATE_COLOR)], tmp_path / "case.png")
    picture = read_png(tmp_path / "case.png")
    assert picture.shape == (3 * PANEL + 2 * GAP, 4 * PANEL + 3 * GAP, 3)
    with_line = [drawn(panel(picture, number), PROSTATE_COLOR).any() for number in range(12)]
    assert with_line == [False] * 2 + [True] * 8 + [False] * 2


def test_slices_have_their_numbers_and_sides_and_a_bar_of_two_centimeters(tmp_path):
    image = scan()
    mask = box_mask(image, (30, 50), (40, 60), (4, 16))
    for name, code in (("up", "LPS"), ("down", "LPI")):
        stored = [sitk.DICOMOrient(part, code) for part in (image, mask)]
        contour_picture(stored[0], [(stored[1], PROSTATE_COLOR)], tmp_path / f"{name}.png")
    up, down = (read_png(tmp_path / f"{name}.png") for name in ("up", "down"))
    for number, slice_number in ((0, 3), (2, 5), (9, 16), (11, 18)):
        for picture, expected in ((up, text_mask(str(slice_number))), (down, text_mask(str(21 - slice_number)))):
            corner = panel(picture, number)[6 : 6 + expected.shape[0], 6 : 6 + expected.shape[1]]
            assert ((corner == 235).all(axis=-1) == expected).mean() > 0.97  # the scan itself may be as bright
    bar = (panel(up, 4)[-8] == 235).all(axis=-1)
    assert bar.sum() == pytest.approx(20 * PANEL / 60, abs=1)
    right, left = ((panel(up, 4)[140:180, part] == 235).all(axis=-1).sum() for part in (slice(0, 40), slice(-40, None)))
    assert right == text_mask("R").sum() and left == text_mask("L").sum()


def test_the_line_turns_red_where_the_network_is_unsure_over_a_wide_band(tmp_path):
    image = scan()
    mask = box_mask(image, (30, 50), (40, 60), (4, 16))
    doubt = np.zeros((20, 100, 80), np.float32)
    doubt[:, 40:60, 29:31] = 1  # two millimeters about the patient's right edge
    doubt[:, 40:60, 44:56] = 1  # twelve about the left one
    uncertainty = sitk.GetImageFromArray(doubt)
    uncertainty.CopyInformation(image)
    contour_picture(image, [(mask, PROSTATE_COLOR)], tmp_path / "case.png", uncertainty=uncertainty)
    row = panel(read_png(tmp_path / "case.png"), 5)[PANEL // 2]  # through the middle of the gland
    assert drawn(row[None, : PANEL // 2], PROSTATE_COLOR).any() and drawn(row[None, PANEL // 2 :], (255, 32, 32)).any()
    assert not drawn(row[None, PANEL // 2 :], PROSTATE_COLOR).any()


def test_line_lies_on_the_edge_of_the_mask_in_millimetres(tmp_path):
    image = scan(spacing=(0.5, 0.8, 3.0))
    mask = box_mask(image, (20, 60), (30, 60), (4, 16))  # 20 mm wide, 24 mm tall
    contour_picture(image, [(mask, PROSTATE_COLOR)], tmp_path / "case.png")
    top, bottom, left, right = bounds(drawn(panel(read_png(tmp_path / "case.png"), 4), PROSTATE_COLOR))
    pixels_per_mm = PANEL / 60  # 24 mm and two margins of 15 mm stay below the smallest side of 60 mm
    assert abs((right - left + 1) / pixels_per_mm - 20) < 0.6
    assert abs((bottom - top + 1) / pixels_per_mm - 24) < 0.9
    assert abs((left + right) / 2 - PANEL / 2) < 3 and abs((top + bottom) / 2 - PANEL / 2) < 3


def test_inside_and_outside_of_the_line_stay_gray(tmp_path):
    image = scan()
    mask = box_mask(image, (20, 60), (30, 70), (4, 16))
    contour_picture(image, [(mask, PROSTATE_COLOR)], tmp_path / "case.png")
    shown = panel(read_png(tmp_path / "case.png"), 4)
    top, bottom, left, right = bounds(drawn(shown, PROSTATE_COLOR))
    inner = shown[top + 4 : bottom - 3, left + 4 : right - 3].astype(int)
    assert np.ptp(inner, axis=-1).max() == 0
    assert drawn(shown, PROSTATE_COLOR).sum() < 3 * 2 * (bottom - top + right - left)


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "LAS", "PIR", "SAL"])
def test_patients_right_front_is_at_the_upper_left_however_the_volume_is_stored(tmp_path, orientation):
    image = scan()
    voxels = sitk.GetArrayFromImage(image)
    voxels[:, 34:44, 24:34] = 1000  # to the right (low x) and front (low y) of the mask's center
    bright = sitk.GetImageFromArray(voxels)
    bright.CopyInformation(image)
    mask = box_mask(image, (20, 60), (30, 70), (4, 16))
    stored = [sitk.DICOMOrient(part, orientation) for part in (bright, mask)]
    contour_picture(stored[0], [(stored[1], PROSTATE_COLOR)], tmp_path / "case.png")
    shown = panel(read_png(tmp_path / "case.png"), 4)
    top, bottom, left, right = bounds(drawn(shown, PROSTATE_COLOR))
    bright_top, bright_bottom, bright_left, bright_right = bounds(shown.min(axis=-1) > 240)
    assert bright_right < (left + right) / 2 and bright_bottom < (top + bottom) / 2
    assert bright_left > left and bright_top > top


def test_slices_run_from_caudal_to_cranial(tmp_path):
    image = scan()
    voxels = sitk.GetArrayFromImage(image)
    voxels += np.arange(20, dtype=np.float32)[:, None, None] * 100
    ramp = sitk.GetImageFromArray(voxels)
    ramp.CopyInformation(image)
    mask = box_mask(image, (30, 50), (40, 60), (2, 18))
    flipped = [sitk.DICOMOrient(part, "LPI") for part in (ramp, mask)]
    contour_picture(flipped[0], [(flipped[1], PROSTATE_COLOR)], tmp_path / "case.png")
    picture = read_png(tmp_path / "case.png")
    means = [panel(picture, number)[30:90, 60:].mean() for number in range(12)]
    assert means == sorted(means) and means[11] > means[0] + 100


def test_first_and_last_slice_of_the_gland_are_shown(tmp_path):
    image = scan()
    voxels = np.zeros((20, 100, 80), np.uint8)
    for index in range(3, 18):
        voxels[index, 40:60, 30 : 31 + index] = 1  # the width tells the slice
    mask = sitk.GetImageFromArray(voxels)
    mask.CopyInformation(image)
    contour_picture(image, [(mask, PROSTATE_COLOR)], tmp_path / "case.png")
    picture = read_png(tmp_path / "case.png")
    widths = []
    for number in range(2, 10):
        _, _, left, right = bounds(drawn(panel(picture, number), PROSTATE_COLOR))
        widths.append(round((right - left + 1) * 60 / PANEL))
    assert widths[0] == 4 and widths[-1] == 18 and len(set(widths)) == 8


def test_small_gland_is_shown_with_its_neighbor_slices_and_no_slice_twice(tmp_path):
    image = scan()
    voxels = sitk.GetArrayFromImage(image) * 0 + np.arange(20, dtype=np.float32)[:, None, None]
    ramp = sitk.GetImageFromArray(voxels)
    ramp.CopyInformation(image)
    mask = box_mask(image, (30, 50), (40, 60), (18, 20))  # at the cranial end
    contour_picture(ramp, [(mask, PROSTATE_COLOR)], tmp_path / "case.png")
    picture = read_png(tmp_path / "case.png")
    with_line = [drawn(panel(picture, number), PROSTATE_COLOR).any() for number in range(12)]
    assert with_line == [False] * 6 + [True] * 2 + [False] * 4


def test_two_masks_are_drawn_in_their_own_colors(tmp_path):
    image = scan()
    masks = [
        (box_mask(image, (30, 50), (40, 60), (4, 16)), PROSTATE_COLOR),
        (box_mask(image, (25, 55), (35, 65), (4, 16)), REFERENCE_COLOR),
    ]
    contour_picture(image, masks, tmp_path / "case.png")
    shown = panel(read_png(tmp_path / "case.png"), 4)
    inner, outer = bounds(drawn(shown, PROSTATE_COLOR)), bounds(drawn(shown, REFERENCE_COLOR))
    assert outer[0] < inner[0] and outer[1] > inner[1] and outer[2] < inner[2] and outer[3] > inner[3]


def test_mask_on_another_grid_is_drawn_at_its_place(tmp_path):
    image = scan()
    mask = box_mask(image, (20, 60), (30, 70), (4, 16))
    grid = sitk.Resample(mask, (160, 200, 40), sitk.Transform(), sitk.sitkNearestNeighbor, (0, 0, 0), (0.5, 0.5, 1.5))
    for name, drawn_mask in (("own", mask), ("other", grid)):
        contour_picture(image, [(drawn_mask, PROSTATE_COLOR)], tmp_path / f"{name}.png")
    own, other = (panel(read_png(tmp_path / f"{name}.png"), 4) for name in ("own", "other"))
    assert np.abs(np.subtract(bounds(drawn(own, PROSTATE_COLOR)), bounds(drawn(other, PROSTATE_COLOR)))).max() <= 3


def test_oblique_volume_keeps_its_planes(tmp_path):
    image = scan()
    mask = box_mask(image, (20, 60), (30, 70), (4, 16))
    contour_picture(image, [(mask, PROSTATE_COLOR)], tmp_path / "straight.png")
    turn = sitk.Euler3DTransform((0, 0, 0), 0.35, 0.1, 0.0).GetMatrix()
    for part in (image, mask):
        part.SetDirection(turn)
        part.SetOrigin((-40.0, 12.0, 77.0))
    contour_picture(image, [(mask, PROSTATE_COLOR)], tmp_path / "oblique.png")
    assert (read_png(tmp_path / "straight.png") == read_png(tmp_path / "oblique.png")).all()


def test_empty_mask_shows_the_whole_volume_without_a_line(tmp_path):
    image = scan()
    contour_picture(image, [(box_mask(image, (0, 0), (0, 0), (0, 0)), PROSTATE_COLOR)], tmp_path / "case.png")
    picture = read_png(tmp_path / "case.png")
    assert not drawn(picture, PROSTATE_COLOR).any() and all(panel(picture, number).any() for number in range(8))


def test_gland_at_the_edge_of_the_scan_is_black_beyond_it(tmp_path):
    image = scan()
    contour_picture(image, [(box_mask(image, (0, 20), (40, 60), (4, 16)), PROSTATE_COLOR)], tmp_path / "case.png")
    shown = panel(read_png(tmp_path / "case.png"), 4)
    assert (shown[30:140, :80] == 0).all() and drawn(shown, PROSTATE_COLOR).any()


def test_a_coil_beside_the_gland_does_not_leave_it_black(tmp_path):
    image = scan()
    mask = box_mask(image, (20, 60), (30, 60), (4, 16))
    voxels = sitk.GetArrayFromImage(image)
    voxels[:, 62:90, 25:55] = 5000
    bright = sitk.GetImageFromArray(voxels)
    bright.CopyInformation(image)
    contour_picture(bright, [(mask, PROSTATE_COLOR)], tmp_path / "case.png")
    shown = panel(read_png(tmp_path / "case.png"), 4)
    top, bottom, left, right = bounds(drawn(shown, PROSTATE_COLOR))
    inside = shown[top + 5 : bottom - 5, left + 5 : right - 5]
    assert 90 < inside.mean() < 165 and shown[bottom + 25, (left + right) // 2].min() == 255


def test_thumbnail_shows_the_middle_of_the_gland_at_200_pixels(tmp_path):
    image = scan()
    thumbnail(image, box_mask(image, (30, 50), (40, 60), (4, 16)), tmp_path / "small.png")
    picture = read_png(tmp_path / "small.png")
    assert picture.shape == (200, 200, 3) and drawn(picture, PROSTATE_COLOR).any()


def test_png_has_no_chunk_but_the_picture_itself(tmp_path):
    image = scan()
    thumbnail(image, box_mask(image, (30, 50), (40, 60), (4, 16)), tmp_path / "small.png")
    data, offset, kinds = (tmp_path / "small.png").read_bytes(), 8, []
    while offset < len(data):
        length, kind = struct.unpack_from(">I4s", data, offset)
        body = data[offset + 4 : offset + 8 + length]
        assert zlib.crc32(body) == struct.unpack_from(">I", data, offset + 8 + length)[0]
        kinds.append(kind)
        offset += 12 + length
    assert kinds == [b"IHDR", b"IDAT", b"IEND"]


def test_a_volume_of_another_dimension_is_named(tmp_path):
    with pytest.raises(InputError, match="2 dimensions"):
        contour_picture(sitk.Image(40, 40, sitk.sitkFloat32), [], tmp_path / "case.png")


def test_missing_folder_gives_a_clear_error_and_no_file(tmp_path):
    image = scan()
    with pytest.raises(StorageError, match="case.png"):
        contour_picture(image, [], tmp_path / "missing" / "case.png")
    assert list(tmp_path.iterdir()) == []
