"""What the door of the case library refuses, what it warns of, and how it knows a scan again."""

import numpy as np
import pytest
import SimpleITK as sitk
from learning_parts import ellipsoid, toy_scan

from DDSPSegmentationLib.engine.errors import DatasetError
from DDSPSegmentationLib.engine.images import read_image, read_mask
from DDSPSegmentationLib.engine.metrics import dice_of
from DDSPSegmentationLib.engine.scan_identity import BITS, LIMIT, ScanTexture
from DDSPSegmentationLib.library.case_checks import check_case, check_mask

SALT = bytes(range(32))
SIZE = (20, 80, 80)  # z, y, x of 2 mm: a roomy scan


def scan(*glands, seed=0, value=1) -> tuple[sitk.Image, sitk.Image]:
    """A noisy scan of 2 mm voxels and a mask of ellipsoids, each (center, radii) in voxels."""
    mask = np.zeros(SIZE, np.uint8)
    for center, radii in glands:
        mask[ellipsoid(SIZE, center, radii)] = value
    image = np.random.default_rng(seed).normal(100, 10, SIZE).astype(np.float32) + 50 * (mask > 0)
    parts = sitk.GetImageFromArray(image), sitk.GetImageFromArray(mask)
    for part in parts:
        part.SetSpacing((2.0, 2.0, 2.5))
    return parts


GLAND = ((10, 40, 40), (6, 10, 10))


def test_a_sound_case_passes_without_a_word():
    image, mask = scan(GLAND, value=3)
    checked, prediction, dice, warnings = check_case(image, mask)
    assert warnings == [] and prediction is None and dice is None
    assert checked.GetPixelID() == sitk.sitkUInt8 and np.unique(sitk.GetArrayFromImage(checked)).tolist() == [0, 1]


@pytest.mark.parametrize(
    "change",
    [
        lambda mask: mask.SetSpacing((2.0, 2.1, 2.5)),
        lambda mask: mask.SetOrigin((1.5, 0, 0)),
        lambda mask: mask.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1)),
        lambda mask: mask.SetOrigin((float("nan"), 0, 0)),
    ],
    ids=["spacing", "origin", "direction", "no number"],
)
def test_a_mask_on_another_grid_is_refused_with_both_grids(change):
    image, mask = scan(GLAND)
    change(mask)
    with pytest.raises(DatasetError, match="mask .*origin .*scan .*direction"):
        check_case(image, mask)
    with pytest.raises(DatasetError, match="prediction"):
        check_case(image, scan(GLAND)[1], mask)


def test_a_mask_of_another_size_or_kind_is_refused():
    image, mask = scan(GLAND)
    with pytest.raises(DatasetError, match="another grid"):
        check_case(image, sitk.ConstantPad(mask, (0, 0, 1), (0, 0, 0)))
    with pytest.raises(DatasetError, match="3D image"):
        check_case(image, mask[:, :, 5])


def test_a_mask_that_is_off_by_less_than_half_a_voxel_is_put_on_the_scans_very_grid():
    image, mask = scan(GLAND)
    mask.SetOrigin((0.9, 0, 0))
    checked = check_case(image, mask)[0]
    assert checked.GetOrigin() == image.GetOrigin()


def test_an_empty_mask_is_refused():
    image, mask = scan()
    with pytest.raises(DatasetError, match="The mask is empty"):
        check_case(image, mask)


def test_what_is_no_mr_scan_is_refused():
    image, mask = scan(GLAND)
    with pytest.raises(DatasetError, match="slices"):
        check_case(image[:, :, :5], mask[:, :, :5])
    with pytest.raises(DatasetError, match="CT"):
        check_case(image * 0 - 1000 + 5 * image / 100, mask)


def test_two_glands_are_refused_and_a_speck_is_only_named():
    second = ((10, 70, 40), (5, 7, 7))
    with pytest.raises(DatasetError, match="2 separate parts, the two largest of"):
        check_mask(scan(GLAND, second)[1])
    (warning,) = check_mask(scan(GLAND, ((10, 70, 40), (1, 1, 1)))[1])
    assert "1 speck apart from the gland" in warning
    (warning,) = check_mask(scan(GLAND, ((10, 70, 40), (1, 1, 1)), ((10, 10, 40), (1, 2, 1)))[1])
    assert "2 specks" in warning


def test_parts_that_meet_at_a_corner_only_are_two_as_islands_in_the_segment_editor_counts_them():
    voxels = np.zeros(SIZE, np.uint8)
    voxels[4:10, 30:40, 30:40] = voxels[10:16, 40:50, 40:50] = 1
    mask = sitk.GetImageFromArray(voxels)
    mask.SetSpacing((2.0, 2.0, 2.5))
    with pytest.raises(DatasetError, match="has 2 "):
        check_mask(mask)
    voxels[9, 39, 40] = voxels[9, 40, 40] = 1  # a bridge of voxels that share faces
    joined = sitk.GetImageFromArray(voxels)
    joined.SetSpacing((2.0, 2.0, 2.5))
    assert not any("part" in warning or "speck" in warning for warning in check_mask(joined))


@pytest.mark.parametrize(
    ("radii", "millilitres", "outcome"),
    [((3, 5, 5), 3, "refused"), ((4, 6, 7), 7, "warned"), ((9, 26, 24), 237, ""), ((9, 31, 31), 362, "warned"),
     ((9.9, 39, 39), 630, "refused")],
)  # fmt: skip
def test_a_volume_that_no_prostate_has_is_refused_and_a_rare_one_named(radii, millilitres, outcome):
    mask = scan(((9.5, 39.5, 39.5), radii))[1]
    found = float(sitk.GetArrayViewFromImage(mask).sum()) * 0.01
    assert found == pytest.approx(millilitres, rel=0.1)
    if outcome == "refused":
        with pytest.raises(DatasetError, match="a prostate has 5 to 500 ml"):
            check_mask(mask)
    else:
        assert any("10-250 ml" in warning for warning in check_mask(mask)) == (outcome == "warned")


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("last", [False, True])
def test_a_mask_at_any_edge_of_the_scan_is_named(axis, last):
    center = [10, 40, 40]
    center[axis] = SIZE[axis] - 5 if last else 4
    warnings = check_mask(scan((center, (6, 10, 10)))[1])
    assert any("touches the edge" in warning for warning in warnings)


def test_a_gland_far_off_the_middle_is_named_along_the_patients_axes():
    sideways = scan(((10, 40, 49), GLAND[1]))[1]
    (warning,) = check_mask(sideways)
    assert "19 mm off the middle of the scan (left-right)" in warning
    turned = sitk.PermuteAxes(sideways, (1, 2, 0))
    assert check_mask(turned) == [warning]
    assert check_mask(scan(((10, 49, 40), GLAND[1]))[1]) == []  # 19 mm to the front is usual


def test_a_correction_unlike_the_prediction_is_named():
    image, mask = scan(GLAND)
    flipped = scan(((10, 26, 40), GLAND[1]))[1]
    _, _, dice, (warning,) = check_case(image, mask, flipped)
    assert 0 < dice < 0.5 and "little in common" in warning and f"{dice:.2f}" in warning
    assert check_case(image, mask, scan(((10, 43, 40), GLAND[1]))[1])[3] == []
    assert check_case(image, mask, mask * 0)[2:] == (0.0, [])  # nothing was predicted: nothing to compare with
    assert dice_of(mask * 0, mask * 0) == 1.0


def test_real_masks_pass_the_door_and_gross_mistakes_do_not_go_unnoticed(real_scans):
    folder = real_scans / "promise12"
    for name in ("Case13", "Case23", "Case09", "Case26"):  # at the edge, very large, with specks, ordinary
        image, mask = (read_image(folder / part / f"{name}.nii.gz") for part in ("images", "labels"))
        warnings = check_case(image, mask, mask)[3]
        assert len(warnings) <= 2 and not any("middle" in warning for warning in warnings), (name, warnings)
        moved = sitk.Resample(mask, mask, sitk.TranslationTransform(3, (20.0, 0, 0)), sitk.sitkNearestNeighbor, 0)
        assert len(check_case(image, moved, mask)[3]) > len(warnings), name


# ---- knowing a scan again


def fingerprint(image: sitk.Image, salt: bytes = SALT) -> str:
    return ScanTexture(image).fingerprint(salt)


def distance(image: sitk.Image, known: sitk.Image) -> float:
    return ScanTexture(image).nearest({"known": fingerprint(known)}, SALT)[1]


def like(voxels: np.ndarray, image: sitk.Image) -> sitk.Image:
    made = sitk.GetImageFromArray(voxels.astype(np.float32))
    made.CopyInformation(image)
    return made


def copies(image: sitk.Image) -> dict[str, sitk.Image]:
    voxels = sitk.GetArrayFromImage(image).astype(np.float32)
    noise = np.random.default_rng(1).normal(0, 0.3 * voxels.std(), voxels.shape)
    size = [round(count * step / 1.5) for count, step in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    cropped = image[10:, 4:-6, 1:]
    nowhere = sitk.Image(cropped)
    nowhere.SetOrigin((0, 0, 0))
    coarser = sitk.Resample(
        image, size, sitk.Transform(), sitk.sitkLinear, image.GetOrigin(), (1.5,) * 3, image.GetDirection()
    )
    return {
        "rescaled": like(voxels * 0.37 + 12, image),
        "noisy": like(voxels + noise, image),
        "cropped": cropped,
        "without its place": nowhere,
        "resampled": coarser,
        "mirrored": like(voxels[:, :, ::-1], image),
        "other axes": sitk.DICOMOrient(image, "RSA"),
        "mirrored and cropped": like(voxels[:, :, ::-1], image)[3:-9, 5:, :],
    }


def test_copies_of_real_scans_are_known_again_and_other_patients_are_not(real_scans):
    names = ("Case00", "Case04", "Case13", "Case23", "Case27", "Case37", "Case39", "Case41")  # the nearest of all
    scans = {name: read_image(real_scans / "promise12" / "images" / f"{name}.nii.gz") for name in names}
    known = {name: fingerprint(image) for name, image in scans.items()}
    for name, image in scans.items():
        others = {other: known[other] for other in names if other != name}
        assert ScanTexture(image).nearest(others, SALT)[1] > LIMIT + 0.05, name
    for name in names[::3]:
        for kind, copy in copies(scans[name]).items():
            found, apart = ScanTexture(copy).nearest(known, SALT)
            assert found == name and apart < LIMIT - 0.03, (name, kind, found, apart)


def test_scans_of_different_noise_are_different_and_none_is_near_nothing():
    assert distance(toy_scan(0)[0], toy_scan(1)[0]) > LIMIT
    assert ScanTexture(toy_scan(0)[0]).nearest({}, SALT) == ("", 1.0)


def test_a_fingerprint_is_768_bits_that_say_nothing_without_the_salt():
    image = toy_scan()[0]
    one, other = fingerprint(image), fingerprint(image, bytes(32))
    assert len(one) * 4 == BITS and one == fingerprint(image)
    bits = [np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8)) for text in (one, other)]
    assert 0.4 < (bits[0] != bits[1]).mean() < 0.6


def test_a_fingerprint_stays_what_it_was_in_earlier_versions(sample_scan):
    """Fingerprints are kept for ever: another way to make them would no longer know what is stored."""
    kept = (
        "b4b8c44cfa1578fd1771f1f40e4d4963691d1d911be3d2114002129115ddfc1ca79aa76cfb63476f23c736d0d7ec3250"
        "cfe620cc5b4e0cec587c6e234956fc89c0433ae6130532070e4816f917c492eed981f59ddddf2c9e4acc5070c389aa8a"
    )
    found = fingerprint(read_image(sample_scan))
    bits = [np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8)) for text in (kept, found)]
    assert (bits[0] != bits[1]).sum() <= 8  # rounding of another build of ITK


def test_a_mask_read_as_labels_keeps_its_gland(tmp_path):
    image, mask = scan(GLAND, value=2)
    sitk.WriteImage(mask, str(tmp_path / "mask.mha"))
    assert dice_of(check_case(image, read_mask(tmp_path / "mask.mha"))[0], mask) == 1.0
