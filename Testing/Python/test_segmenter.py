"""The engine's front door: phantoms whose answer is known, and the bundled scan with the built-in model."""

import dataclasses
import re

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from engine_parts import (
    BRIGHT,
    a_calibration,
    bright_model,
    bright_network,
    centroid,
    dice,
    fail_once,
    middle_of,
    phantom,
    rotation,
    scan_of,
)

from DDSPSegmentationLib.engine import thresholding
from DDSPSegmentationLib.engine.errors import Canceled, DeviceError, InputError, ModelError
from DDSPSegmentationLib.engine.images import read_image, read_mask
from DDSPSegmentationLib.engine.model import save_model
from DDSPSegmentationLib.engine.preprocessing import PreprocessingSettings
from DDSPSegmentationLib.engine.quality import NOT_AXIAL, NOT_CALIBRATED, SOME_SEE_NONE, find_warnings
from DDSPSegmentationLib.engine.run_settings import RunSettings
from DDSPSegmentationLib.engine.segmentation import ExpectedDice, measure_gland
from DDSPSegmentationLib.engine.segmenter import Segmenter
from DDSPSegmentationLib.engine.thresholding import at_threshold, largest_component, touched_sides

PHASES = ["Preprocessing", "Segmenting", "Measuring"]


@pytest.fixture(scope="module")
def bright_folder(tmp_path_factory):
    return bright_model(tmp_path_factory.mktemp("models") / "bright", version="bright-1")


@pytest.fixture
def segmenter(bright_folder):
    return Segmenter(bright_folder, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def built_in():
    return Segmenter(device="cpu")


@pytest.fixture(scope="module")
def sample_image(sample_scan):
    return read_image(sample_scan)


@pytest.fixture(scope="module")
def sample_result(built_in, sample_image):
    return built_in.segment(sample_image)


def voxels(image):
    return sitk.GetArrayFromImage(image)


def same_grid(one, other):
    return all(
        getattr(one, question)() == getattr(other, question)()
        for question in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection")
    )


# ---- phantoms


def test_the_gland_of_a_phantom_is_found_and_measured(segmenter):
    scan, gland = phantom((6, -4, 3), direction=rotation((4, -6, 9)), origin=(-20, 33, 700))
    result = segmenter.segment(scan)
    found = voxels(result.mask) > 0
    assert dice(found, gland) > 0.96
    assert np.abs(centroid(found) - centroid(gland)).max() < 0.5
    measured = result.measurements
    assert measured.volume_ml == pytest.approx(np.count_nonzero(gland) * 1.5 * 1.5 * 3 / 1000, rel=0.06)
    assert measured.left_right_mm == pytest.approx(34, abs=3)
    assert measured.antero_posterior_mm == pytest.approx(30, abs=3)
    assert measured.cranio_caudal_mm == pytest.approx(28, abs=5)
    assert result.warnings == [] and result.notices == [NOT_CALIBRATED.format(what="version 'bright-1'")]
    assert result.expected_dice is None and result.features is None  # of one network nothing can be expected


def test_every_image_of_the_answer_lies_on_the_grid_of_the_scan(segmenter):
    scan, _ = phantom(direction=rotation((4, -6, 9)), origin=(-20, 33, 700))
    result = segmenter.segment(scan)
    for image in (result.mask, result.probability, result.uncertainty):
        assert same_grid(image, scan)
    assert result.mask.GetPixelID() == sitk.sitkUInt8 and set(np.unique(voxels(result.mask))) == {0, 1}
    for image in (result.probability, result.uncertainty):
        assert image.GetPixelID() == sitk.sitkFloat32
        assert 0 <= voxels(image).min() <= voxels(image).max() <= 1
    assert (voxels(result.probability)[voxels(result.mask) > 0] > 0.5).all()


def test_the_answer_says_who_gave_it_and_how(segmenter, bright_folder):
    scan, _ = phantom()
    result = segmenter.segment(scan, RunSettings(mode="fast", threshold=0.4, bias_field="fast"))
    assert (result.model_version, result.model_sha256) == ("bright-1", segmenter.model.sha256)
    assert (result.mode, result.threshold, result.bias_field) == ("fast", 0.4, "fast")
    assert (result.device, result.precision) == ("cpu", "float32")
    assert result.as_row()["mode"] == "fast"
    assert segmenter.segment(scan).bias_field == "off"  # the model's own again


@pytest.mark.parametrize("orientation", ["RAS", "LAI", "SAR", "PIL", "IRP", "ASL"])
def test_the_acquired_orientation_changes_no_voxel_of_the_mask(segmenter, orientation):
    scan, _ = phantom((9, -6, 5), direction=rotation((4, -6, 9)))
    expected = voxels(sitk.DICOMOrient(segmenter.segment(scan).mask, "LPS"))
    result = segmenter.segment(sitk.DICOMOrient(scan, orientation))
    assert np.array_equal(voxels(sitk.DICOMOrient(result.mask, "LPS")), expected)
    assert result.measurements.cranio_caudal_mm < result.measurements.left_right_mm


def test_a_rigid_motion_of_the_patient_changes_no_voxel_of_the_mask(segmenter):
    still, _ = phantom((9, -6, 5))
    moved, _ = phantom((9, -6, 5))
    moved.SetDirection(rotation((12, -17, 8)).ravel().tolist())
    moved.SetOrigin((-87.3, 41.1, 1203.7))
    assert np.array_equal(voxels(segmenter.segment(moved).mask), voxels(segmenter.segment(still).mask))


def test_the_scan_is_never_modified(segmenter):
    scan, _ = phantom(direction=rotation((4, -6, 9)), origin=(-20, 33, 700))
    scan = sitk.DICOMOrient(scan, "SAR")
    scan.SetMetaData("0010|0040", "M")
    before = scan_of(voxels(scan), scan.GetSpacing(), scan.GetDirection(), scan.GetOrigin())
    segmenter.segment(scan, RunSettings(bias_field="fast", mode="fast"))
    assert np.array_equal(voxels(scan), voxels(before)) and same_grid(scan, before)
    assert scan.GetPixelID() == before.GetPixelID() and scan.GetMetaDataKeys() == ("0010|0040",)


def test_a_higher_threshold_gives_a_smaller_mask(segmenter):
    scan, _ = phantom()
    volumes = [
        segmenter.segment(scan, RunSettings(threshold=value)).measurements.volume_ml for value in (0.05, 0.5, 0.95)
    ]
    assert volumes[0] > volumes[1] > volumes[2] > 0


def test_paper_mode_looks_at_the_middle_only(segmenter):
    scan, gland = phantom((30, 0, 0), size=(128, 64, 18))
    assert dice(voxels(segmenter.segment(scan).mask) > 0, gland) > 0.96
    found = voxels(segmenter.segment(scan, RunSettings(mode="paper")).mask) > 0
    assert 0 < np.count_nonzero(found) < np.count_nonzero(gland) / 2


def test_a_scan_without_a_gland_gives_an_empty_mask_and_says_so(bright_folder, tmp_path):
    blind = Segmenter(bright_model(tmp_path / "blind", bright=50.0), device="cpu", precision="float32")
    scan, _ = phantom()
    result = blind.segment(scan)
    assert not voxels(result.mask).any()
    assert result.measurements.volume_ml == 0 and result.expected_dice is None
    assert result.warnings == find_warnings(0.0, [], [], None)


def test_a_point_in_the_gland_chooses_among_two(segmenter):
    left, right = (34, 0, 0), (-34, 0, 0)
    scan, _ = phantom(left, right, size=(96, 64, 18))
    for offset in (left, right):
        point = tuple(middle_of(scan) + offset)
        found = voxels(segmenter.segment(scan, RunSettings(location=point)).mask) > 0
        _, gland = phantom(offset, size=(96, 64, 18))
        assert dice(found, gland) > 0.96


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_point_outside_the_scan_is_refused(segmenter, axis, sign):
    scan, _ = phantom(direction=rotation((4, -6, 9)))
    index = [(n - 1) / 2 for n in scan.GetSize()]
    index[axis] = -2 if sign < 0 else scan.GetSize()[axis] + 1
    point = scan.TransformContinuousIndexToPhysicalPoint(index)
    with pytest.raises(InputError, match="lies outside 'T2'. Place it inside the gland."):
        segmenter.segment(scan, RunSettings(location=point), name="T2")


@pytest.mark.parametrize("orientation", ["LPS", "RAI", "SAR"])
@pytest.mark.parametrize(
    ("side", "offset"),
    [
        ("left", (42, 0, 0)),
        ("right", (-42, 0, 0)),
        ("posterior", (0, 42, 0)),
        ("anterior", (0, -42, 0)),
        ("superior", (0, 0, 22)),
        ("inferior", (0, 0, -22)),
    ],
)
def test_the_side_at_which_the_gland_leaves_the_scan_is_named(segmenter, orientation, side, offset):
    scan, _ = phantom(offset)
    warnings = segmenter.segment(sitk.DICOMOrient(scan, orientation)).warnings
    assert find_warnings(15.0, [side], [], 1.0)[0] in warnings


def test_a_second_large_part_is_told_and_left_out(segmenter):
    scan, gland = phantom()
    both = voxels(scan)
    both[5:13, 17:21, 17:21] = 500
    result = segmenter.segment(scan_of(both, scan.GetSpacing()))
    assert dice(voxels(result.mask) > 0, gland) > 0.96
    assert find_warnings(15.0, [], [0.5], 1.0)[0] in result.warnings


# ---- the Dice to expect


@pytest.fixture(scope="module")
def graded():
    """A scan whose gland has a less bright rim."""
    scan, gland = phantom()
    core = phantom(radii=(12, 11, 10))[1]
    return scan_of(np.where(gland & ~core, 370, voxels(scan)).astype(np.float32), scan.GetSpacing())


def pair_of(folder, *bright, **changes):
    calibration = a_calibration(**changes).to_dict()
    return Segmenter(bright_model(folder, bright, version="pair-1", calibration=calibration), "cpu")


def test_members_that_agree_let_expect_more_than_members_that_do_not(graded, tmp_path):
    agreeing = pair_of(tmp_path / "one", BRIGHT, BRIGHT).segment(graded)
    differing = pair_of(tmp_path / "two", 1.0, BRIGHT).segment(graded)
    assert agreeing.notices == differing.notices == [] and agreeing.features != differing.features
    for result in (agreeing, differing):
        assert result.expected_dice == a_calibration().expect(result.features)
        assert result.expected_dice.low < result.expected_dice.value < result.expected_dice.high
    assert agreeing.expected_dice.value > differing.expected_dice.value + 0.05
    assert agreeing.as_row()["expected_dice_low"] == round(agreeing.expected_dice.low, 3)


@pytest.mark.parametrize(
    ("settings", "members", "what"),
    [
        ({"mode": "fast"}, None, "mode fast"),
        ({"mode": "paper"}, None, "mode paper"),
        ({"threshold": 0.4}, None, "the threshold 0.4"),
        ({}, [1], "one network alone"),
        ({"bias_field": "fast"}, None, "bias field fast"),
        ({"bias_field": "full"}, None, "bias field full"),
    ],
)
def test_what_was_not_calibrated_says_so_and_has_no_expected_dice(tmp_path, settings, members, what):
    result = pair_of(tmp_path / "pair", BRIGHT, BRIGHT).segment(phantom()[0], RunSettings(**settings), members=members)
    assert result.expected_dice is None and result.notices == [NOT_CALIBRATED.format(what=what)]
    assert result.as_row()["expected_dice"] == result.as_row()["expected_dice_high"] == ""


def test_the_bias_field_of_the_model_is_calibrated_however_it_was_asked(tmp_path):
    pair = pair_of(tmp_path / "pair", BRIGHT, BRIGHT)
    asked, own = (pair.segment(phantom()[0], RunSettings(bias_field=bias_field)) for bias_field in ("off", None))
    assert asked.expected_dice == own.expected_dice is not None and asked.notices == []


def test_of_an_empty_mask_nothing_is_expected(tmp_path):
    """Both see a gland at one half, none at the threshold that was calibrated."""
    pair = pair_of(tmp_path / "pair", 5.7, 5.7, threshold=0.99)
    result = pair.segment(phantom()[0], RunSettings(threshold=0.99))
    assert result.features is not None and not voxels(result.mask).any() and voxels(result.probability).max() > 0.5
    assert result.expected_dice is None and result.warnings == find_warnings(0.0, [], [], None)


def test_where_a_member_sees_no_gland_nothing_is_expected_and_a_warning_says_why(tmp_path):
    result = pair_of(tmp_path / "three", BRIGHT, BRIGHT, 99.0).segment(phantom()[0])
    assert voxels(result.mask).any() and result.features is None
    assert result.expected_dice is None and result.warnings == [SOME_SEE_NONE]


def test_a_low_expected_dice_is_a_warning(tmp_path):
    result = pair_of(tmp_path / "pair", BRIGHT, BRIGHT, intercept=0.1).segment(phantom()[0])
    assert result.expected_dice.value < 0.85
    assert result.warnings == find_warnings(15.0, [], [], result.expected_dice.value)


def test_the_uncertainty_is_highest_along_the_border(segmenter):
    scan, gland = phantom()
    uncertainty = voxels(segmenter.segment(scan).uncertainty)
    image = sitk.GetImageFromArray(gland.astype(np.uint8))
    border = voxels(sitk.BinaryDilate(image, (1, 1, 1))) != voxels(sitk.BinaryErode(image, (1, 1, 1)))
    assert uncertainty[border].mean() > 10 * uncertainty[~border].mean()


# ---- what it refuses


def test_a_scan_that_is_no_scan_is_refused_by_name(segmenter):
    scan, _ = phantom()
    for image in (scan[:, :, :1], sitk.Image(64, 64, 18, sitk.sitkFloat32)):
        with pytest.raises(InputError, match="'T2 axial'"):
            segmenter.segment(image, name="T2 axial")


def test_a_model_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(ModelError, match="'nothing'"):
        Segmenter(tmp_path / "nothing")


def test_a_device_or_precision_that_does_not_exist_is_refused(bright_folder):
    with pytest.raises(DeviceError, match="'tpu'"):
        Segmenter(bright_folder, device="tpu")
    with pytest.raises(DeviceError, match="'float8'"):
        Segmenter(bright_folder, device="cpu", precision="float8")


# ---- memory, time, progress


@pytest.mark.parametrize(
    ("device", "error"),
    [
        ("cuda", torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")),
        ("cuda", RuntimeError("CUDA error: out of memory")),
        ("mps", RuntimeError("MPS backend out of memory (MPS allocated: 9.06 GB)")),
    ],
)
def test_a_gpu_out_of_memory_falls_back_to_the_processor_with_a_notice(segmenter, device, error):
    scan, _ = phantom()
    expected = voxels(segmenter.segment(scan).mask)
    segmenter.device = torch.device(device)  # as if the network lay there
    fail_once(segmenter.networks[0], error)
    result = segmenter.segment(scan)
    assert result.notices[1:] == ["The GPU ran out of memory; the processor is used instead."]
    assert result.device == "cpu" and dice(voxels(result.mask) > 0, expected > 0) > 0.99


def test_when_memory_runs_out_one_network_of_several_answers_with_a_notice(tmp_path):
    networks = [bright_network(BRIGHT) for _ in range(3)]
    calibration = a_calibration().to_dict()
    save_model(tmp_path / "three", networks, PreprocessingSettings(bias_field="off").to_dict(), calibration=calibration)
    three, (scan, _) = Segmenter(tmp_path / "three", device="cpu"), phantom()
    expected = three.segment(scan)
    assert expected.notices == []
    fail_once(three.networks[2], RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    alone = three.segment(scan)
    assert alone.notices == [
        NOT_CALIBRATED.format(what="one network alone"),
        "Memory ran out: one network answered instead of 3.",
    ]
    assert np.array_equal(voxels(alone.mask), voxels(expected.mask))
    assert three.segment(scan).notices == []


def test_modes_and_callers_say_which_networks_answer(tmp_path):
    networks = [bright_network(bright) for bright in (BRIGHT, 99.0, BRIGHT)]  # the second one sees nothing
    save_model(tmp_path / "three", networks, PreprocessingSettings(bias_field="off").to_dict())
    three, (scan, _) = Segmenter(tmp_path / "three", device="cpu"), phantom()

    def highest(mode="standard", members=None):
        return voxels(three.segment(scan, RunSettings(mode=mode), members=members).probability).max()

    assert highest() == pytest.approx(2 / 3, abs=0.01)
    assert highest("fast") == highest("paper") == highest(members=[0, 2]) == pytest.approx(1, abs=0.01)
    assert highest(members=[1]) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(("members", "named"), [([], "[]"), ([0, 3], "[3]"), ([-1], "[-1]"), ([True], "[True]")])
def test_networks_that_the_version_has_not_are_refused_by_number(tmp_path, members, named):
    three = Segmenter(bright_model(tmp_path / "three", [BRIGHT] * 3, version="three-1"), "cpu")
    with pytest.raises(InputError, match=re.escape(f"{named} of version 'three-1'")):
        three.segment(phantom()[0], members=members)


def measuring_fails(monkeypatch, times):
    """The measuring phase runs out of memory ``times`` times."""
    left = [MemoryError("Unable to allocate 528. MiB for an array")] * times

    def measure(*arguments):
        if left:
            raise left.pop()
        return measure_gland(*arguments)

    monkeypatch.setattr(thresholding, "measure_gland", measure)


def test_when_memory_runs_out_in_measuring_one_network_answers_with_a_notice(tmp_path, monkeypatch):
    three, (scan, _) = Segmenter(bright_model(tmp_path / "three", [BRIGHT] * 3), "cpu"), phantom()
    measuring_fails(monkeypatch, times=1)
    told = []
    alone = three.segment(scan, progress=lambda phase, fraction: told.append((PHASES.index(phase), fraction)))
    assert alone.notices[1:] == ["Memory ran out: one network answered instead of 3."] and alone.features is None
    assert told == sorted(told), "progress never goes back"
    measuring_fails(monkeypatch, times=2)
    with pytest.raises(DeviceError, match="not enough memory to segment this scan"):
        three.segment(scan)


def test_when_memory_runs_out_in_measuring_one_networks_answer_there_is_a_clear_error(segmenter, monkeypatch):
    measuring_fails(monkeypatch, times=1)
    with pytest.raises(DeviceError, match="not enough memory to segment this scan"):
        segmenter.segment(phantom()[0])


def test_progress_never_goes_back_when_memory_runs_out_in_the_last_network(tmp_path):
    three, (scan, _) = Segmenter(bright_model(tmp_path / "three", [BRIGHT] * 3), "cpu"), phantom()
    fail_once(three.networks[2], RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    told = []
    result = three.segment(scan, progress=lambda phase, fraction: told.append((PHASES.index(phase), fraction)))
    assert "one network answered" in result.notices[-1] and told == sorted(told)


def test_a_processor_out_of_memory_is_a_clear_error(segmenter):
    scan, _ = phantom()
    fail_once(segmenter.networks[0], RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    with pytest.raises(DeviceError, match="not enough memory to segment this scan. Close other programs"):
        segmenter.segment(scan)


def test_any_other_fault_is_not_taken_for_a_lack_of_memory(segmenter):
    scan, _ = phantom()
    fail_once(segmenter.networks[0], RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        segmenter.segment(scan)


def test_seconds_and_peak_memory_are_told_for_each_phase(segmenter):
    scan, _ = phantom()
    result = segmenter.segment(scan)
    assert list(result.seconds) == list(result.peak_memory_mb) == PHASES
    assert all(0 < seconds < 60 for seconds in result.seconds.values())
    peaks = list(result.peak_memory_mb.values())
    assert peaks == sorted(peaks) and peaks[0] >= 0


def test_progress_names_the_phases_in_order_and_ends_at_1(segmenter):
    scan, _ = phantom()
    told = []
    segmenter.segment(scan, progress=lambda phase, fraction: told.append((phase, fraction)))
    assert list(dict.fromkeys(phase for phase, _ in told)) == PHASES
    assert told[-1] == ("Measuring", 1.0)
    assert all(0 <= fraction <= 1 for _, fraction in told)


@pytest.mark.parametrize("phase", PHASES)
def test_canceling_in_any_phase_leaves_the_segmenter_usable(segmenter, phase):
    scan, gland = phantom()

    def cancel(now, fraction):
        if now == phase:
            raise Canceled()

    with pytest.raises(Canceled):
        segmenter.segment(scan, progress=cancel)
    assert dice(voxels(segmenter.segment(scan).mask) > 0, gland) > 0.96


# ---- parts


def test_largest_component_keeps_one_part_and_fills_its_holes():
    inside = np.zeros((12, 20, 20), bool)
    inside[2:9, 2:9, 2:9] = True
    inside[5, 5, 5] = False  # a hole
    inside[9, 9, 9] = True  # touches at a corner only
    inside[3:5, 15:18, 15:18] = True
    kept, shares = largest_component(inside)
    expected = np.zeros_like(inside)
    expected[2:9, 2:9, 2:9] = True
    assert np.array_equal(kept, expected)
    assert shares == pytest.approx([18 / 342, 1 / 342])


def test_a_hole_open_to_the_outside_stays_open():
    inside = np.zeros((9, 9, 9), bool)
    inside[1:8, 1:8, 1:8] = True
    inside[4, 4, 4:] = False
    assert np.array_equal(largest_component(inside)[0], inside)


def test_a_hole_of_the_first_slice_is_filled_across_whichever_axis_the_slices_lie():
    inside = np.zeros((8, 9, 10), bool)
    inside[1:7, 1:8, 1:9] = True
    whole = inside.copy()
    inside[1, 4, 4:6] = False  # open towards the next slice of air, closed within its own
    assert np.array_equal(largest_component(inside)[0], whole)
    turned = np.moveaxis(inside, 0, 2)
    assert np.array_equal(largest_component(turned, slice_axis=2)[0], np.moveaxis(whole, 0, 2))
    assert np.array_equal(largest_component(turned)[0], turned)  # in slices across that axis nothing is enclosed


def test_where_all_spacings_are_alike_the_same_slices_are_filled_by_either_way_to_a_threshold(segmenter):
    voxels = np.random.default_rng(0).uniform(0, 0.45, (60, 64, 62)).astype(np.float32)
    voxels[20:40, 22:42, 21:41] = np.random.default_rng(1).uniform(0.1, 1, (20, 20, 20))  # full of holes
    image = sitk.GetImageFromArray(voxels)
    image.SetDirection((0, 0, 1, 1, 0, 0, 0, 1, 0))
    at_once = segmenter.segment(image, RunSettings(threshold=0.6, bias_field="off"))
    afterwards = at_threshold(segmenter.segment(image, RunSettings(bias_field="off")), 0.6)
    assert 0 < at_once.measurements.volume_ml == afterwards.measurements.volume_ml
    assert np.array_equal(*(sitk.GetArrayViewFromImage(found.mask) for found in (at_once, afterwards)))


def test_largest_component_works_at_the_faces_of_the_scan_and_on_nothing():
    inside = np.zeros((4, 5, 6), bool)
    inside[0, 0, :3] = inside[-1, -1, -1] = True
    kept, shares = largest_component(inside)
    assert np.count_nonzero(kept) == 3 and kept[0, 0, :3].all() and shares == pytest.approx([1 / 3])
    nothing, shares = largest_component(np.zeros((4, 5, 6), bool))
    assert not nothing.any() and shares == []


@pytest.mark.parametrize(
    ("axis", "position", "side"),
    [
        (0, 0, "inferior"),
        (0, -1, "superior"),
        (1, 0, "anterior"),
        (1, -1, "posterior"),
        (2, 0, "right"),
        (2, -1, "left"),
    ],
)
def test_each_face_of_a_canonical_mask_has_its_name(axis, position, side):
    mask = np.zeros((5, 6, 7), bool)
    mask[2, 3, 3] = True
    assert touched_sides(mask) == []
    np.moveaxis(mask, axis, 0)[position] = True
    assert side in touched_sides(mask)
    single = np.zeros((5, 6, 7), bool)
    where = [2, 3, 3]
    where[axis] = position
    single[tuple(where)] = True
    assert touched_sides(single) == [side]


# ---- the bundled scan and the built-in model


def test_the_bundled_scan_gets_a_plausible_prostate(sample_image, sample_result):
    measured = sample_result.measurements
    assert same_grid(sample_result.mask, sample_image)
    assert 20 < measured.volume_ml < 90
    assert all(
        25 < length < 75 for length in (measured.left_right_mm, measured.antero_posterior_mm, measured.cranio_caudal_mm)
    )
    expected = sample_result.expected_dice
    assert 0.7 < expected.low < expected.value < expected.high < 1 and sample_result.notices == []
    middle = centroid(voxels(sample_result.mask) > 0) - (np.array(sample_image.GetSize())[::-1] - 1) / 2
    assert (np.abs(middle * sample_image.GetSpacing()[::-1]) < (20, 30, 20)).all()


@pytest.mark.parametrize("orientation", ["RAS", "SAR", "LAI"])
def test_every_orientation_of_the_bundled_scan_gives_the_same_mask(built_in, sample_image, sample_result, orientation):
    expected = voxels(sitk.DICOMOrient(sample_result.mask, "LPS"))
    turned = sitk.DICOMOrient(sample_image, orientation)
    result = built_in.segment(turned)
    assert same_grid(result.mask, turned)
    assert np.array_equal(voxels(sitk.DICOMOrient(result.mask, "LPS")), expected)
    assert dataclasses.astuple(result.measurements) == pytest.approx(dataclasses.astuple(sample_result.measurements))


def test_bfloat16_and_float32_give_the_same_answer_on_the_bundled_scan(sample_image):
    low, high = (Segmenter(device="cpu", precision=name).segment(sample_image) for name in ("bfloat16", "float32"))
    assert (low.precision, high.precision) == ("bfloat16", "float32")
    assert dice(voxels(low.mask) > 0, voxels(high.mask) > 0) > 0.99
    assert np.abs(voxels(low.probability) - voxels(high.probability)).mean() < 0.002


def test_bfloat16_costs_less_than_0_002_dice_on_a_real_case(real_scans):
    image = read_image(real_scans / "prostate158" / "images" / "p158_020.nii.gz")
    reference = voxels(read_mask(real_scans / "prostate158" / "labels" / "p158_020.nii.gz")) > 0
    found = [
        dice(voxels(Segmenter(device="cpu", precision=name).segment(image).mask) > 0, reference)
        for name in ("bfloat16", "float32")
    ]
    assert min(found) > 0.8
    assert abs(found[0] - found[1]) < 0.002


def test_a_scan_whose_slices_are_not_axial_is_flagged(built_in, sample_image, sample_result):
    assert NOT_AXIAL not in sample_result.warnings
    sagittal = sitk.PermuteAxes(sample_image, (2, 1, 0))  # the same voxels as a stack of sagittal slices
    sagittal.SetDirection((1, 0, 0, 0, 1, 0, 0, 0, 1))
    resized = sitk.Resample(sagittal, (64, 384, 96), sitk.Transform(), sitk.sitkLinear, sagittal.GetOrigin(),
                            (3.0, 0.5, 0.5), sagittal.GetDirection(), 0.0, sagittal.GetPixelID())  # fmt: skip
    assert NOT_AXIAL in built_in.segment(resized).warnings


def test_another_threshold_gives_what_a_run_with_it_would_have_given(built_in, sample_image, sample_result):
    other = at_threshold(sample_result, 0.8)
    run = built_in.segment(sample_image, RunSettings(threshold=0.8))
    assert np.array_equal(voxels(other.mask), voxels(run.mask)) and other.threshold == 0.8
    assert other.measurements == run.measurements and other.slice_doubts == run.slice_doubts
    assert other.warnings == run.warnings and other.expected_dice is None and other.features is None
    assert at_threshold(sample_result, sample_result.threshold) is sample_result


def test_an_expected_dice_does_not_outlive_its_threshold(sample_result):
    calibrated = dataclasses.replace(sample_result, expected_dice=ExpectedDice(0.9, 0.85, 0.93), notices=[])
    other = at_threshold(calibrated, 0.7)
    assert other.expected_dice is None and other.notices == [NOT_CALIBRATED.format(what="the threshold 0.7")]
