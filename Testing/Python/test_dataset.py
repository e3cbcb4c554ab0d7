"""Layouts that are read, folds that keep patients together, and a cache that is never stale nor half-written."""

import errno
import gzip
import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from learning_parts import identity_of, toy_scan, write_images_and_labels

from DDSPSegmentationLib.engine.errors import DatasetError, InputError, StorageError
from DDSPSegmentationLib.engine.images import IMAGE_FORMATS
from DDSPSegmentationLib.engine.preprocessing import PreprocessingSettings, prepare
from DDSPSegmentationLib.learning import dataset
from DDSPSegmentationLib.learning.dataset import (
    Case,
    prepare_case,
    prepare_dataset,
    read_dataset,
    read_datasets,
    select_folds,
    split_folds,
)

SETTINGS = PreprocessingSettings()
NO_N4 = PreprocessingSettings(bias_field="off")
MASKLESS = "1 of 2 scans are no case of folder .* {1}: It has no mask {0}"


def write_promise12(folder, names, first_seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names, first_seed):
        image, mask = toy_scan(seed)
        sitk.WriteImage(image, str(folder / f"{name}.mhd"))
        sitk.WriteImage(mask, str(folder / f"{name}_segmentation.mhd"))
    return folder


def write_nnunet(folder, names, channels=1, suffix=".nii.gz"):
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for seed, name in enumerate(names):
        image, mask = toy_scan(seed)
        for channel in range(channels):
            sitk.WriteImage(image + 1000 * channel, str(folder / "imagesTr" / f"{name}_{channel:04d}{suffix}"))
        sitk.WriteImage(mask, str(folder / "labelsTr" / f"{name}{suffix}"))
    return folder


def write_decathlon(folder, names, volumes=2, modality=("T2", "ADC")):
    """4D scans, oblique, whose volumes differ by 1000."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for seed, name in enumerate(names):
        image, mask = toy_scan(seed)
        direction = sitk.Euler3DTransform((0, 0, 0), 0.1, 0.2, 0.3).GetMatrix()
        for part in (image, mask):
            part.SetDirection(direction)
        several = sitk.JoinSeries([image + 1000 * volume for volume in range(volumes)])
        sitk.WriteImage(several, str(folder / "imagesTr" / f"{name}.nii.gz"))
        sitk.WriteImage(mask, str(folder / "labelsTr" / f"{name}.nii.gz"))
    if modality:
        names = {str(number): name for number, name in enumerate(modality)}
        (folder / "dataset.json").write_text(json.dumps({"modality": names}))
    return folder


def hide_macos_files(folder):
    """What an archive made on a Mac leaves beside each file."""
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7Mac OS X")


def made_up_cases(patients, centers=None):
    return [
        Case(f"case{number:02d}", None, None, centers[number] if centers else "", patient)
        for number, patient in enumerate(patients)
    ]


def assert_is_toy_scan(case, seed):
    image, mask = toy_scan(seed)
    assert np.allclose(sitk.GetArrayFromImage(case.load_image()), sitk.GetArrayFromImage(image))
    assert np.array_equal(sitk.GetArrayFromImage(case.load_mask()), sitk.GetArrayFromImage(mask))


# ---- layouts


def test_official_promise12_folder_is_read_without_what_macos_hid_in_it(tmp_path):
    write_promise12(tmp_path, ["Case00", "Case01"])
    hide_macos_files(tmp_path)
    cases = read_dataset(tmp_path)
    assert [(case.name, case.patient) for case in cases] == [("Case00", "Case00"), ("Case01", "Case01")]
    assert_is_toy_scan(cases[1], 1)


def test_promise12_parts_in_subfolders_are_one_data_set_and_test_cases_are_left_out(tmp_path):
    write_promise12(tmp_path / "TrainingData_Part1", ["Case00"])
    write_promise12(tmp_path / "TrainingData_Part2", ["Case25"], first_seed=1)
    write_promise12(tmp_path / "TestData", ["Case03"])
    for path in (tmp_path / "TestData").glob("*_segmentation.*"):
        path.unlink()
    assert [case.name for case in read_dataset(tmp_path)] == ["Case00", "Case25"]


def test_promise12_case_without_mask_is_named(tmp_path):
    write_promise12(tmp_path, ["Case00", "Case01"])
    (tmp_path / "Case01_segmentation.mhd").unlink()
    with pytest.raises(DatasetError, match=MASKLESS.format("beside it", "Case01")):
        read_dataset(tmp_path)


def test_promise12_mask_without_scan_is_named(tmp_path):
    write_promise12(tmp_path, ["Case00", "Case01"])
    (tmp_path / "Case01.mhd").unlink()
    with pytest.raises(DatasetError, match="Case01"):
        read_dataset(tmp_path)


def test_one_name_for_two_cases_is_refused(tmp_path):
    write_promise12(tmp_path / "one", ["Case00"])
    write_promise12(tmp_path / "other", ["Case00"])
    with pytest.raises(DatasetError, match="'Case00' is there twice, in 'one' and 'other'"):
        read_dataset(tmp_path)


def test_images_and_labels_take_center_and_patient_from_the_index(tmp_path):
    write_images_and_labels(tmp_path, ["Case00", "Case01", "Case02"])
    hide_macos_files(tmp_path / "images")
    hide_macos_files(tmp_path / "labels")
    text = "case,center,patient\nCase00,UCL,P1\nCase01,,\nCase02,HK,\n"
    (tmp_path / "index.csv").write_text(text, encoding="utf-8-sig")  # as a spreadsheet saves it
    cases = read_dataset(tmp_path)
    assert [(case.name, case.center, case.patient) for case in cases] == [
        ("Case00", "UCL", "P1"), ("Case01", "", "Case01"), ("Case02", "HK", "Case02"),
    ]  # fmt: skip
    assert_is_toy_scan(cases[2], 2)


@pytest.mark.parametrize("part", ["images", "labels"])
def test_an_index_that_lies_among_the_scans_is_an_error_that_says_where_it_belongs(tmp_path, part):
    write_images_and_labels(tmp_path, ["a", "b"])
    (tmp_path / part / "index.csv").write_text("case,patient\na,P\nb,P\n")
    with pytest.raises(DatasetError, match=f"'{part}/index.csv' is not used"):
        read_dataset(tmp_path)


def test_scans_without_masks_are_counted_and_named(tmp_path):
    write_images_and_labels(tmp_path, ["Case00", "Case01"])
    (tmp_path / "labels" / "Case01.nii.gz").unlink()
    with pytest.raises(DatasetError, match=MASKLESS.format("in 'labels'", "Case01")):
        read_dataset(tmp_path)


@pytest.mark.parametrize("suffix", IMAGE_FORMATS)
def test_every_type_of_image_that_is_read_is_found(tmp_path, suffix):
    for folder, image in zip(("images", "labels"), toy_scan(3), strict=True):
        (tmp_path / folder).mkdir()
        sitk.WriteImage(image, str(tmp_path / folder / f"case{suffix}"))
    assert_is_toy_scan(read_dataset(tmp_path)[0], 3)


def test_a_case_in_two_files_is_refused(tmp_path):
    write_images_and_labels(tmp_path, ["Case00"])
    write_images_and_labels(tmp_path, ["Case00"], suffix=".nrrd")
    with pytest.raises(DatasetError, match="'Case00' twice: 'Case00.nii.gz' and 'Case00.nrrd'"):
        read_dataset(tmp_path)


def test_nnunet_raw_takes_the_first_channel(tmp_path):
    write_nnunet(tmp_path, ["prostate_00", "prostate_01"], channels=2)
    hide_macos_files(tmp_path / "imagesTr")
    cases = read_dataset(tmp_path)
    assert [case.name for case in cases] == ["prostate_00", "prostate_01"]
    assert_is_toy_scan(cases[1], 1)


def test_nnunet_raw_takes_the_channel_that_dataset_json_calls_t2(tmp_path):
    write_nnunet(tmp_path, ["a"], channels=2)
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "ADC", "1": "T2w"}}))
    (case,) = read_dataset(tmp_path)
    assert case.image_path.name == "a_0001.nii.gz" and sitk.GetArrayFromImage(case.load_image()).mean() > 1000


def test_nnunet_case_without_its_t2_channel_is_named(tmp_path):
    write_nnunet(tmp_path, ["a", "b"], channels=2)
    (tmp_path / "imagesTr" / "b_0000.nii.gz").unlink()
    with pytest.raises(DatasetError, match="'b_0000'"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("channels", [1, 2])
def test_nnunet_case_without_mask_is_named(tmp_path, channels):
    write_nnunet(tmp_path, ["a", "b"], channels=channels)
    (tmp_path / "labelsTr" / "b.nii.gz").unlink()
    with pytest.raises(DatasetError, match=MASKLESS.format("in 'labelsTr'", "b")):
        read_dataset(tmp_path)


def test_a_number_at_the_end_of_a_name_is_no_channel(tmp_path):
    write_images_and_labels(tmp_path, ["scan_2017", "scan_2018"])
    assert [case.name for case in read_dataset(tmp_path)] == ["scan_2017", "scan_2018"]
    (tmp_path / "labels" / "scan_2018.nii.gz").unlink()
    with pytest.raises(DatasetError, match=MASKLESS.format("in 'labels'", "scan_2018")):
        read_dataset(tmp_path)


@pytest.mark.parametrize("modality", [("T2", "ADC"), ("ADC", "T2")])
def test_decathlon_scans_of_four_dimensions_give_their_t2_volume_with_its_geometry(tmp_path, modality):
    write_decathlon(tmp_path, ["prostate_00"], modality=modality)
    (case,) = read_dataset(tmp_path)
    image, mask = case.load_image(), case.load_mask()
    added = 1000 * modality.index("T2")
    assert np.allclose(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(toy_scan(0)[0]) + added, atol=1e-3)
    assert np.allclose(image.GetDirection(), mask.GetDirection(), atol=1e-6)
    assert np.allclose(image.GetOrigin(), mask.GetOrigin(), atol=1e-5)
    prepare_case(case, NO_N4)


def test_scan_of_four_dimensions_is_refused_when_nothing_says_which_volume_is_t2(tmp_path):
    write_decathlon(tmp_path, ["prostate_00"], modality=None)
    with pytest.raises(InputError, match="4 dimensions"):
        read_dataset(tmp_path)[0].load_image()


def test_a_volume_of_four_dimensions_is_found_by_the_header_and_not_by_the_files_name(tmp_path):
    write_decathlon(tmp_path, ["prostate_00"], modality=("ADC", "T2"))
    path = tmp_path / "imagesTr" / "prostate_00.nii.gz"
    (case,) = read_dataset(tmp_path)
    wanted, content = sitk.GetArrayFromImage(case.load_image()), gzip.decompress(path.read_bytes())
    path.write_bytes(content)
    assert np.array_equal(sitk.GetArrayFromImage(case.load_image()), wanted)
    several = sitk.ReadImage(str(path), imageIO="NiftiImageIO")
    for suffix in (".nrrd", ".mha"):
        sitk.WriteImage(several, str(tmp_path / f"T2{suffix}"))
        image = replace(case, image_path=tmp_path / f"T2{suffix}").load_image()
        assert np.array_equal(sitk.GetArrayFromImage(image), wanted), suffix
        assert image.GetOrigin() == pytest.approx(case.load_mask().GetOrigin(), abs=1e-4)


def test_of_four_dimensions_the_chosen_volume_alone_is_looked_at_for_what_is_no_number(tmp_path):
    write_decathlon(tmp_path, ["prostate_00"], modality=("ADC", "T2"))
    path = tmp_path / "imagesTr" / "prostate_00.nii.gz"
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    voxels[0, 2, 3, 4], voxels[1, 2, 3, 4:7] = np.inf, np.nan
    several = sitk.GetImageFromArray(voxels, isVector=False)
    several.CopyInformation(sitk.ReadImage(str(path)))
    sitk.WriteImage(several, str(path))
    doubts: list[str] = []
    read_dataset(tmp_path)[0].load_image(doubts)
    assert doubts == [f"3 of {voxels[0].size} voxels are not numbers (NaN) and were read as 0."]
    with pytest.raises(InputError, match="1 infinite voxels"):
        replace(read_dataset(tmp_path)[0], volume=0).load_image()


def test_a_link_that_leads_nowhere_is_a_case_that_says_so_when_it_is_read(tmp_path):
    write_images_and_labels(tmp_path, ["Case00", "Case01"])
    for folder in ("images", "labels"):
        link = tmp_path / folder / f"Case0{int(folder == 'labels')}.nii.gz"
        link.unlink()
        link.symlink_to("gone.nii.gz")
    cases = read_dataset(tmp_path)
    for load in (cases[0].load_image, cases[1].load_mask):
        with pytest.raises(InputError, match="is a link to a file that is not there"):
            load()


def test_scan_with_fewer_volumes_than_dataset_json_says_is_named(tmp_path):
    write_decathlon(tmp_path, ["prostate_00"], modality=("ADC", "DWI", "T2"))
    with pytest.raises(InputError, match="'prostate_00.nii.gz' has 2 volumes.*number 2"):
        read_dataset(tmp_path)[0].load_image()


def test_truncated_scan_of_four_dimensions_is_named(tmp_path):
    write_decathlon(tmp_path, ["prostate_00"])
    path = tmp_path / "imagesTr" / "prostate_00.nii.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match="prostate_00"):
        read_dataset(tmp_path)[0].load_image()


def test_damaged_dataset_json_is_named(tmp_path):
    write_nnunet(tmp_path, ["a"])
    for content, words in (
        (b"{", "no JSON text from line 1 on"),
        (b"", "no JSON text"),
        (b"[]", "holds no names with values"),
        (b'{"labels": {"a": "b"}}', "does not say its channels and labels by number"),
        ('{"labels": {}}'.encode("utf-16"), "neither in UTF-8 nor in Windows-1252|no JSON text"),
    ):
        (tmp_path / "dataset.json").write_bytes(content)
        with pytest.raises(DatasetError, match=words):
            read_dataset(tmp_path)
    (tmp_path / "dataset.json").write_bytes('{"name": "Köln"}'.encode("cp1252"))
    assert len(read_dataset(tmp_path)) == 1


def test_missing_and_empty_folders_are_named_without_their_path(tmp_path):
    for folder in (tmp_path / "nowhere", tmp_path / "void"):
        if folder.name == "void":
            folder.mkdir()
        with pytest.raises(DatasetError, match=folder.name) as caught:
            read_dataset(folder)
        assert str(tmp_path) not in str(caught.value)


def test_zones_are_merged_into_one_gland(tmp_path):
    write_images_and_labels(tmp_path, ["a"])
    path = str(tmp_path / "labels" / "a.nii.gz")
    mask = sitk.ReadImage(path)
    sitk.WriteImage(mask + sitk.Cast(mask > 0, sitk.sitkUInt8), path)
    assert_is_toy_scan(read_dataset(tmp_path)[0], 0)


def test_shared_promise12_cases_are_read_with_their_folds_and_masks_on_their_scans_grids(real_scans):
    folder = real_scans / "promise12"
    cases = read_dataset(folder)
    assert len(cases) == 40 and {case.center for case in cases} == {"BIDMC", "RUNMC", "UCL", "HK"}
    folds = split_folds(cases, [folder])
    assert folds == json.loads((folder / "folds.json").read_text())["folds"]
    assert sorted(name for fold in folds for name in fold) == [case.name for case in cases]
    smallest = min(cases, key=lambda case: case.image_path.stat().st_size)
    prepared = prepare_case(smallest, NO_N4)
    assert (prepared.label >= 0.5).any()


# ---- masks that do not fit


def prepare_changed(tmp_path, change):
    write_images_and_labels(tmp_path, ["Case07"])
    path = str(tmp_path / "labels" / "Case07.nii.gz")
    sitk.WriteImage(change(sitk.ReadImage(path)), path)
    return prepare_dataset(read_dataset(tmp_path), NO_N4, tmp_path / "cache")


def moved(mask, millimetres):
    mask.SetOrigin([place + millimetres for place in mask.GetOrigin()])
    return mask


def respaced(mask):
    mask.SetSpacing((2.1, 2.0, 4.0))
    return mask


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda mask: sitk.ConstantPad(mask, (0, 0, 0), (1, 0, 0)), "'Case07': The mask .*41x36x12 .*40x36x12"),
        (lambda mask: mask * 0, "'Case07': the mask is empty"),
        (lambda mask: moved(mask, 3.0), "'Case07': The mask .*origin 8, -4, 14"),
        (respaced, "'Case07': The mask .*2.1x2x4 mm"),
        (lambda mask: sitk.DICOMOrient(mask, "RAS"), "'Case07': The mask"),
    ],
    ids=["larger", "empty", "moved", "other spacing", "flipped"],
)
def test_mask_that_does_not_fit_its_scan_names_the_case_and_caches_nothing(tmp_path, change, words):
    with pytest.raises(DatasetError, match=words):
        prepare_changed(tmp_path, change)
    assert not (tmp_path / "cache").exists()


def test_mask_saved_no_larger_than_its_gland_trains_as_the_whole_one_does(tmp_path):
    (whole,) = prepare_changed(tmp_path / "whole", lambda mask: mask)
    (cropped,) = prepare_changed(tmp_path / "cropped", lambda mask: mask[10:31, 8:29, 2:11])
    assert_same_arrays(whole, cropped)


def test_mask_within_the_rounding_of_a_header_fits(tmp_path):
    (prepared,) = prepare_changed(tmp_path, lambda mask: moved(mask, 1e-3))
    assert (prepared.label > 0).any()


# ---- folds


def test_folds_file_decides(tmp_path):
    cases = made_up_cases(["a", "b", "c"])
    (tmp_path / "folds.json").write_text(json.dumps({"folds": [["case02"], ["case00", "case01"]]}))
    folds = split_folds(cases, [tmp_path])
    training, validation = select_folds(cases, folds, [0])
    assert [case.name for case in training] == ["case00", "case01"] and [case.name for case in validation] == ["case02"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"folds": [["case00"], ["case01", "case09"], ["case02"]]}', "unknown cases: case09"),
        ('{"folds": [["case00", "case01"], ["case02", "case01"]]}', "more than once: case01"),
        ('{"folds": [["case00"], ["case01", "case02"]]}', "parts the cases of patients: p"),
        ('{"folds": [["case00"]', "cannot be read"),
        ("[]", "cannot be read"),
        ('{"folds": 3}', "cannot be read"),
    ],
)
def test_folds_file_that_cannot_hold_is_refused(tmp_path, text, words):
    (tmp_path / "folds.json").write_text(text)
    with pytest.raises(DatasetError, match=words):
        split_folds(made_up_cases(["p", "p", "q"]), [tmp_path])


def test_drawn_folds_use_every_case_once_keep_patients_together_and_spread_centers():
    patients = [f"p{number // 2}" for number in range(40)]
    centers = ["A" if number < 20 else "B" for number in range(40)]
    cases = made_up_cases(patients, centers)
    folds = split_folds(cases)
    assert sorted(name for fold in folds for name in fold) == [case.name for case in cases]
    patient_of = {case.name: case.patient for case in cases}
    homes = Counter(patient for fold in folds for patient in {patient_of[name] for name in fold})
    assert len(folds) == 5 and set(homes.values()) == {1}
    center_of = {case.name: case.center for case in cases}
    assert all(Counter(center_of[name] for name in fold) == {"A": 4, "B": 4} for fold in folds)


def test_drawn_folds_do_not_depend_on_the_order_or_on_the_machine():
    cases = made_up_cases([f"p{number}" for number in range(11)])
    drawn = [["case02", "case05", "case07"], ["case06", "case08"], ["case01", "case03"], ["case00", "case10"],
             ["case04", "case09"]]  # fmt: skip
    assert split_folds(cases) == drawn
    assert [sorted(fold) for fold in split_folds(cases[::-1])] == drawn


def test_a_patient_seen_at_two_centers_stays_in_one_fold():
    cases = made_up_cases(["p", "q", "r", "p", "s", "t"], ["A", "A", "A", "B", "B", "B"])
    folds = split_folds(cases)
    assert sum("case00" in fold or "case03" in fold for fold in folds) == 1


def test_there_are_no_more_folds_than_patients_and_a_missing_fold_is_named():
    cases = made_up_cases(["p", "q", "q"])
    folds = split_folds(cases)
    assert sorted(map(sorted, folds)) == [["case00"], ["case01", "case02"]]
    with pytest.raises(DatasetError, match="Fold 2 does not exist; there are folds 0 to 1"):
        select_folds(cases, folds, [2])


def test_a_fold_parts_all_cases_in_two_and_none_trains_on_all():
    cases = made_up_cases([f"p{number}" for number in range(7)])
    folds = split_folds(cases)
    for fold in range(len(folds)):
        training, validation = select_folds(cases, folds, [fold])
        assert {case.name for case in validation} == set(folds[fold]) and len(training) + len(validation) == 7
    assert select_folds(cases, folds, []) == (cases, [])


# ---- several data sets


def two_datasets(folder):
    """Five patients with folds.json, and three scans: one of such a patient, two of new ones."""
    one = write_images_and_labels(folder / "one", [f"a{number}" for number in range(5)])
    (one / "folds.json").write_text(json.dumps({"folds": [[f"a{number}"] for number in range(5)]}))
    other = write_images_and_labels(folder / "other", ["b0", "b1", "b2"])
    (other / "index.csv").write_text("case,centre,patient\nb0,X,a3\nb1,X,b1\nb2,X,b2\n")
    return one, other


def test_scans_of_one_patient_in_two_data_sets_never_part(tmp_path):
    folders = two_datasets(tmp_path)
    cases = read_datasets(folders)
    folds = split_folds(cases, folders)
    assert [name for fold in folds for name in fold if name.startswith("a")] == [f"a{number}" for number in range(5)]
    assert "b0" in folds[3] and sorted(name for fold in folds for name in fold) == sorted(case.name for case in cases)
    new = [fold for fold in folds if {"b1", "b2"} & set(fold)]
    assert len(new) == 2 and all(len(fold) == 2 for fold in new)  # spread, into the smallest folds
    training, left_out = select_folds(cases, folds, [0, 3])
    assert {case.patient for case in training}.isdisjoint(case.patient for case in left_out)
    assert {"a0", "a3", "b0"} <= {case.name for case in left_out}


def test_two_data_sets_with_a_case_of_one_name_are_refused(tmp_path):
    folders = [write_images_and_labels(tmp_path / folder, ["Case00"]) for folder in ("one", "other")]
    with pytest.raises(DatasetError, match="Case00"):
        read_datasets(folders)


def test_fold_files_of_two_data_sets_that_part_a_patient_are_refused(tmp_path):
    one, other = two_datasets(tmp_path)
    (other / "folds.json").write_text(json.dumps({"folds": [["b0"], ["b1"], ["b2"]]}))
    with pytest.raises(DatasetError, match="a3"):
        split_folds(read_datasets([one, other]), [one, other])


def test_all_57_shared_patients_lie_in_five_folds_with_every_centre_spread(real_scans):
    folders = [real_scans / "promise12", real_scans / "prostate3t"]
    cases = read_datasets(folders)
    folds = split_folds(cases, folders)
    patient_of = {case.name: case.patient for case in cases}
    patients = [{patient_of[name] for name in fold} for fold in folds]
    assert len(cases) == 66 and sorted(map(len, patients)) == [11, 11, 11, 12, 12]
    assert len(set().union(*patients)) == sum(map(len, patients)) == 57
    for center in ("BIDMC", "HK", "UCL", "RUNMC", "RUNMC-Trio"):
        counts = [sum(case.name in fold and case.center == center for case in cases) for fold in folds]
        assert min(counts) >= 1 and max(counts) - min(counts) <= 2


# ---- preparation and cache


@pytest.fixture
def one_case(tmp_path):
    (case,) = read_dataset(write_images_and_labels(tmp_path / "data", ["Case00"]))
    return case


def prepare_one(case, cache, settings=NO_N4):
    """The prepared case, and whether it was prepared afresh."""
    said = []
    (prepared,) = prepare_dataset([case], settings, cache, said.append)
    return prepared, bool(said)


def assert_same_arrays(one, other):
    for part in ("corrected", "uncorrected", "label"):
        first, second = getattr(one, part), getattr(other, part)
        assert first.dtype == second.dtype == np.float16 and np.array_equal(first, second)
    assert one.gland_center == other.gland_center


def test_prepared_arrays_are_those_of_inference(one_case):
    prepared = prepare_case(one_case, SETTINGS)
    image = one_case.load_image()
    for array, settings in ((prepared.corrected, SETTINGS), (prepared.uncorrected, NO_N4)):
        assert np.array_equal(array, prepare(image, settings)[0].astype(np.float16))
    assert not np.array_equal(prepared.corrected, prepared.uncorrected)


def test_prepared_label_keeps_volume_and_center_of_the_gland(one_case):
    prepared = prepare_case(one_case, NO_N4)
    mask = sitk.GetArrayFromImage(one_case.load_mask())
    voxel_ratio = np.prod(SETTINGS.spacing_mm) / 16.0
    assert prepared.label.astype(float).sum() * voxel_ratio == pytest.approx(mask.sum(), rel=0.03)
    offset_mm = (np.array(prepared.gland_center) - (np.array(prepared.label.shape) - 1) / 2) * SETTINGS.spacing_mm[::-1]
    native_mm = (np.argwhere(mask).mean(axis=0) - (np.array(mask.shape) - 1) / 2) * (4, 2, 2)
    assert np.allclose(offset_mm, native_mm, atol=0.3)


def test_second_time_the_cache_gives_the_same_to_the_bit(one_case, tmp_path):
    first, fresh = prepare_one(one_case, tmp_path / "cache", SETTINGS)
    second, again = prepare_one(one_case, tmp_path / "cache", SETTINGS)
    assert fresh and not again
    assert_same_arrays(first, second)


def test_gland_center_is_that_of_the_cached_label_when_rounding_decides_a_voxel():
    label = np.zeros((3, 3, 3), np.float32)
    label[1, 1, 1], label[2, 2, 2] = 1.0, 0.49999  # becomes 0.5 in half precision
    packed = dataset._packed("a", label, label, label, identity_of(label))
    arrays = (packed.corrected, packed.uncorrected, packed.label)
    assert packed.gland_center == dataset._packed("a", *arrays, packed.identity).gland_center


def test_without_cache_folder_nothing_is_written(one_case, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    prepare_one(one_case, None)
    assert sorted(tmp_path.rglob("*")) == before


def test_renamed_or_moved_case_is_found_in_the_cache_under_its_new_name(one_case, tmp_path):
    prepare_one(one_case, tmp_path / "cache")
    shutil.move(tmp_path / "data", tmp_path / "elsewhere")
    (case,) = read_dataset(tmp_path / "elsewhere")
    prepared, fresh = prepare_one(replace(case, name="other"), tmp_path / "cache")
    assert not fresh and prepared.name == "other"


@pytest.mark.parametrize("part", ["image", "label", "settings"])
def test_changed_scan_mask_or_setting_is_prepared_again(one_case, tmp_path, part):
    before, _ = prepare_one(one_case, tmp_path / "cache")
    settings = replace(NO_N4, clip_percentiles=(2.0, 98.0)) if part == "settings" else NO_N4
    image, mask = toy_scan(1, radii=(3, 7, 7))
    if part == "image":
        sitk.WriteImage(image, str(one_case.image_path))
    if part == "label":
        sitk.WriteImage(mask, str(one_case.label_path))
    after, fresh = prepare_one(one_case, tmp_path / "cache", settings)
    assert fresh and len(list((tmp_path / "cache").iterdir())) == 2
    array = "label" if part == "label" else "corrected"
    assert not np.array_equal(getattr(before, array), getattr(after, array))


def test_changed_voxel_file_beside_an_unchanged_header_is_prepared_again(tmp_path):
    write_promise12(tmp_path / "data", ["Case00"])
    (case,) = read_dataset(tmp_path / "data")
    prepare_one(case, tmp_path / "cache")
    image = toy_scan(5)[0]
    (tmp_path / "data" / "Case00.raw").write_bytes(sitk.GetArrayFromImage(image).tobytes())
    assert prepare_one(case, tmp_path / "cache")[1]


def test_another_volume_of_the_same_file_is_prepared_again(tmp_path):
    write_decathlon(tmp_path / "data", ["a"])
    (case,) = read_dataset(tmp_path / "data")
    prepare_one(case, tmp_path / "cache")
    assert prepare_one(replace(case, volume=1), tmp_path / "cache")[1]


@pytest.mark.parametrize("damage", ["truncated", "empty", "scribbled", "another archive"])
def test_damaged_cache_file_is_prepared_again(one_case, tmp_path, damage):
    first, _ = prepare_one(one_case, tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    content = path.read_bytes()
    if damage == "another archive":
        np.savez(path, something=np.zeros(3))
    else:
        middle = len(content) // 2
        scribbled = content[:middle] + bytes(99) + content[middle + 99 :]
        path.write_bytes({"truncated": content[:middle], "empty": b"", "scribbled": scribbled}[damage])
    second, fresh = prepare_one(one_case, tmp_path / "cache")
    assert fresh and path.read_bytes() == content
    assert_same_arrays(first, second)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_interrupted_cache_write_leaves_nothing(one_case, tmp_path, monkeypatch, error):
    def half(path, **arrays):
        path.write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(np, "savez", half)
    with pytest.raises(StorageError if isinstance(error, OSError) else KeyboardInterrupt):
        prepare_one(one_case, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
