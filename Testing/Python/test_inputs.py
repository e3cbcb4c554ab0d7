"""What the user names becomes cases with names that are safe and stay, and a reason for everything else."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_parts import SECRETS, set_element, write_series, write_slice

from DDSPSegmentationLib.engine.errors import InputError
from DDSPSegmentationLib.engine.images import read_image, write_image
from DDSPSegmentationLib.service.inputs import InputCase, collect_inputs, safe_name


def scan(seed: int = 0) -> sitk.Image:
    image = sitk.GetImageFromArray(np.random.default_rng(seed).gamma(3, 90, (12, 48, 40)).astype("int16"))
    image.SetSpacing((2, 2, 4))
    return image


def scan_at(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(scan(seed), path) if path.suffix != ".mhd" else sitk.WriteImage(scan(seed), str(path))
    return path


def names(*paths: Path) -> list[str]:
    return [case.name for case in collect_inputs(paths)[0]]


def reasons(skipped) -> dict[str, str]:
    return {one.label: one.reason for one in skipped}


@pytest.mark.parametrize("suffix", (".nrrd", ".nii", ".nii.gz", ".mha", ".mhd"))
def test_image_file_is_a_case_named_by_its_stem(tmp_path, suffix):
    path = scan_at(tmp_path / f"Case 07{suffix}")
    cases, skipped = collect_inputs([path])
    assert [case.name for case in cases] == ["Case_07"]
    assert skipped == []
    assert np.array_equal(*map(sitk.GetArrayViewFromImage, (cases[0].load(), scan())))
    assert names(tmp_path) == ["Case_07"]


def test_tree_of_files_and_dicom_is_collected_in_a_stable_order(tmp_path):
    scan_at(tmp_path / "b.nrrd", 1)
    scan_at(tmp_path / "a.nii.gz", 2)
    scan_at(tmp_path / "deep" / "er" / "c.mha", 3)
    write_series(tmp_path / "dicom")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / ".hidden.nrrd").write_bytes(b"x")
    (tmp_path / ".git").mkdir()
    scan_at(tmp_path / ".git" / "x.nrrd")
    cases, skipped = collect_inputs([str(tmp_path)])
    assert [case.name.split("-")[0] for case in cases] == ["a", "b", "c", "case"]
    assert all(case.load().GetSize() == (40, 48, 12) for case in cases)
    assert skipped == []
    assert [case.name for case in collect_inputs([tmp_path])[0]] == [case.name for case in cases]


def test_one_file_of_a_series_stands_for_that_series(tmp_path):
    paths = write_series(tmp_path, series=1)
    for path in write_series(tmp_path / "other", series=2):
        path.rename(tmp_path / f"second{path.name}")
    shutil.copyfile(paths[3], tmp_path / f"._{paths[3].name}")
    cases, skipped = collect_inputs([paths[3]])
    assert len(cases) == 1
    assert cases[0].load().GetSize()[2] == 12
    assert skipped == []
    assert len(collect_inputs([tmp_path])[0]) == 2


def test_one_file_stands_for_the_whole_of_a_series_that_was_split_up(tmp_path):
    room = {"0020|0052": "1.2.3"}
    for number in range(20):
        write_slice(tmp_path / f"{number}.dcm", number, series=1 + number // 10, tags=room)
        write_slice(tmp_path / f"other{number}.dcm", number, series=3, tags=room | {"0008|103e": "t2_other"})
    cases, skipped = collect_inputs([tmp_path / "3.dcm"])
    assert [case.load().GetSize()[2] for case in cases] == [20]
    doubts: list[str] = []
    cases[0].load(doubts)
    assert ["came as 2 series" in doubt for doubt in doubts] == [True]
    assert skipped == []


def test_file_without_series_is_listed_with_the_tag_that_it_lacks(tmp_path):
    scan_at(tmp_path / "T2.nrrd")
    slice_ = write_slice(tmp_path / "IM1", 0)
    set_element(slice_, (0x20, 0xE), None)
    _, skipped = collect_inputs([slice_, tmp_path / "T2.nrrd"])
    assert "without SeriesInstanceUID" in reasons(skipped)["IM1"]


def test_series_without_a_telling_name_is_a_case_when_any_is_asked_for(tmp_path):
    scan_at(tmp_path / "T2.nrrd")
    write_series(tmp_path / "dicom", tags={"0008|103e": "Series 5"})
    cases, skipped = collect_inputs([tmp_path])
    assert len(cases) == 1 and "--series any" in skipped[0].reason
    cases, skipped = collect_inputs([tmp_path], any_series=True)
    assert len(cases) == 2 and skipped == []


def test_real_series_is_collected_and_loaded(real_scans):
    folder = real_scans / "prostatex"
    cases, _ = collect_inputs([folder])
    assert [case.name for case in cases] == ["ProstateX-0000", "case-aebcd4d389"]
    assert np.array_equal(*(sitk.GetArrayFromImage(case.load()) for case in cases))


def test_path_named_twice_is_one_case(tmp_path, monkeypatch):
    path = scan_at(tmp_path / "T2.nrrd")
    series = write_series(tmp_path / "dicom")
    monkeypatch.chdir(tmp_path)
    cases, _ = collect_inputs([path, tmp_path, "T2.nrrd", series[0], "dicom"])
    assert [case.name.split("-")[0] for case in cases] == ["T2", "case"]
    assert cases[1].load().GetSize()[2] == 12


def test_names_that_collide_are_kept_apart_and_stay_when_a_file_is_added(tmp_path):
    for folder in ("patient2", "patient1"):
        scan_at(tmp_path / "tree" / folder / "T2.nrrd")
    before = dict(zip(("patient1", "patient2"), names(tmp_path / "tree"), strict=True))
    assert len(set(before.values())) == 2
    assert all(name.startswith("T2-") and len(name) == 11 for name in before.values())
    scan_at(tmp_path / "tree" / "patient0" / "T2.nrrd")
    scan_at(tmp_path / "tree" / "T2.nrrd")
    after = names(tmp_path / "tree")
    assert len(set(after)) == 4
    assert set(before.values()) < set(after)
    assert "T2" in after


def test_names_below_a_folder_do_not_depend_on_where_it_lies_or_how_it_is_named(tmp_path, monkeypatch):
    scan_at(tmp_path / "tree" / "patient1" / "T2.nrrd")
    scan_at(tmp_path / "tree" / "T2.nrrd")
    scan_at(tmp_path / "tree" / "T2.mha")
    before = names(tmp_path / "tree")
    assert len(set(before)) == 3
    monkeypatch.chdir(tmp_path / "tree")
    assert names(Path(".")) == names(Path("../tree/")) == before
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "tree", tmp_path / "elsewhere" / "tree")
    assert names(tmp_path / "elsewhere" / "tree") == before


def test_files_of_one_name_given_one_by_one_are_kept_apart_in_any_order(tmp_path):
    paths = [scan_at(tmp_path / folder / "T2.nrrd", seed) for seed, folder in enumerate("abc")]
    first = {case.name: case.source for case in collect_inputs(paths)[0]}
    second = {case.name: case.source for case in collect_inputs(paths[::-1])[0]}
    assert len(first) == 3
    assert first == second
    earlier = scan_at(tmp_path / "0" / "T2.nrrd", 7)
    assert first.items() < {case.name: case.source for case in collect_inputs([earlier, *paths])[0]}.items()


def test_names_that_differ_in_case_only_are_kept_apart_for_windows(tmp_path):
    paths = [scan_at(tmp_path / "a" / "T2.nrrd"), scan_at(tmp_path / "b" / "t2.nrrd")]
    assert len({name.casefold() for name in names(*paths)}) == 2


def test_same_place_below_two_folders_is_kept_apart(tmp_path):
    for root in ("first", "second"):
        scan_at(tmp_path / root / "patient" / "T2.nrrd")
    assert len(set(names(tmp_path / "first", tmp_path / "second"))) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    (
        ("T2", "T2"),
        ("T2 axial (2)", "T2_axial_2"),
        ('a<b>:"c|d?*\\e/f\n', "a_b_c_d_e_f"),
        ("..", "scan"),
        ("", "scan"),
        ("-rf", "rf"),
        ("name.", "name"),
        ("Größe_é", "Größe_é"),
        ("Gro\u0308ße", "Größe"),
        ("CON", "_CON"),
        ("lpt1.scan", "_lpt1.scan"),
        ("console", "console"),
        ("v1.2", "v1.2"),
    ),
)
def test_names_are_safe_on_every_file_system(text, expected):
    assert safe_name(text) == expected


def test_long_names_are_shortened_and_stay_apart():
    shortened = [safe_name("ü" * 200 + end) for end in "ab"]
    assert len(set(shortened)) == 2
    assert all(len(name.encode()) < 140 for name in shortened)


@pytest.mark.parametrize(
    "name",
    (
        *("T2.seg.nrrd", "T2_segmentation.nii.gz", "Case00_segmentation.mhd", "T2_Segmentation.nrrd"),
        *("T2_seg.nii.gz", "T2_mask.nrrd", "T2-label.nrrd", "T2_label.nii", "T2_Mask.seg.nrrd"),
    ),
)
def test_segmentations_are_skipped_with_their_reason(tmp_path, name):
    scan_at(tmp_path / "T2.nrrd")
    scan_at(tmp_path / name)
    cases, skipped = collect_inputs([tmp_path])
    assert [case.name for case in cases] == ["T2"]
    assert "is a segmentation" in reasons(skipped)[name]


@pytest.mark.parametrize("name", ("T2.probability.nrrd", "T2.uncertainty.nii.gz"))
def test_maps_of_results_are_skipped_with_their_reason(tmp_path, name):
    scan_at(tmp_path / "T2.nrrd")
    scan_at(tmp_path / name)
    cases, skipped = collect_inputs([tmp_path])
    assert [case.name for case in cases] == ["T2"]
    assert reasons(skipped)[name] == f"is a map of a result (.{name.split('.')[1]})"


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("10000_1000000_adc.mha", "ADC map"),
        ("10000_1000000_hbv.nii.gz", "diffusion"),
        ("10000_1000000_SAG.mha", "sagittal"),
        ("T2 koronar.nrrd", "coronal"),
        ("sub-01_dwi.nii.gz", "diffusion"),
        ("t1_tra.nrrd", "T1"),
    ],
)
def test_other_scans_of_an_exam_are_passed_over_by_name(tmp_path, name, word):
    scan_at(tmp_path / "10000_1000000_t2w.nrrd")
    scan_at(tmp_path / name)
    cases, skipped = collect_inputs([tmp_path])
    assert [case.name for case in cases] == ["10000_1000000_t2w"]
    assert word in reasons(skipped)[name]


@pytest.mark.parametrize(
    "name", ["B100.nrrd", "T2_axial.nrrd", "sub-01.nrrd", "sub012.nrrd", "Case00.nrrd", "LOC3.nrrd"]
)
def test_a_name_that_says_no_other_kind_of_scan_is_taken(tmp_path, name):
    scan_at(tmp_path / name)
    assert len(collect_inputs([tmp_path])[0]) == 1


posix = pytest.mark.skipif(os.name == "nt", reason="links and pipes as POSIX has them")


@posix
def test_links_that_lead_nowhere_are_told_and_the_rest_goes_on(tmp_path):
    good = scan_at(tmp_path / "T2.nrrd")
    (tmp_path / "gone.nrrd").symlink_to("absent.nrrd")
    (tmp_path / "loop.nii.gz").symlink_to("loop.nii.gz")
    (tmp_path / "IM0001.dcm").symlink_to("absent.dcm")
    (tmp_path / "again").symlink_to(".")
    cases, skipped = collect_inputs([tmp_path])
    assert {case.name for case in cases} == {"T2", "gone", "loop"}
    for case in cases:
        if case.name == "T2":
            assert case.fingerprint() == InputCase("T2", good).fingerprint()
        else:  # a scan that is not there is a case that fails, as a file that cannot be read does
            with pytest.raises(InputError, match="is a link to a file that is not there"):
                case.fingerprint()
    assert "link to a file that is not there" in reasons(skipped)["IM0001.dcm"]
    assert "link to a folder" in reasons(skipped)["again"]


@posix
@pytest.mark.parametrize("name", ["T2b.nrrd", "T2b.dcm", "T2b"])
def test_pipes_and_devices_are_passed_over_unopened(tmp_path, name):
    scan_at(tmp_path / "T2.nrrd")
    os.mkfifo(tmp_path / name)
    (tmp_path / "zero.nii.gz").symlink_to("/dev/zero")
    cases, skipped = collect_inputs([tmp_path])
    assert [case.name for case in cases] == ["T2"]
    assert set(reasons(skipped).values()) == {"is no file but a pipe or a device"} and len(skipped) == 2
    with pytest.raises(InputError, match="a pipe or a device"):
        collect_inputs([tmp_path / name])


def test_a_scan_may_be_called_as_the_ending_of_a_mask(tmp_path):
    for name in ("_mask.nrrd", "label.nrrd", "mask_T2.nrrd"):
        scan_at(tmp_path / name)
    assert len(collect_inputs([tmp_path])[0]) == 3


def test_what_cannot_be_taken_is_listed_and_the_rest_goes_on(tmp_path):
    good = scan_at(tmp_path / "T2.nrrd")
    (tmp_path / "picture.png").write_bytes(b"x")
    write_series(tmp_path / "t1", tags={"0008|103e": "t1_vibe"})
    cases, skipped = collect_inputs([good, tmp_path / "absent.nrrd", tmp_path / "picture.png", tmp_path / "t1"])
    assert [case.name for case in cases] == ["T2"]
    assert reasons(skipped) == {
        "absent.nrrd": "does not exist",
        "picture.png": "is neither a supported image nor a DICOM image",
        "series 1 of 1 (12 images)": "its name or image type says T1",
    }
    assert not any(secret in repr((cases, skipped)) for secret in (*SECRETS, str(tmp_path)))


def test_files_and_folders_without_permission_are_listed(tmp_path, monkeypatch):
    scan_at(tmp_path / "open.nrrd")
    scan_at(tmp_path / "shut.nrrd")
    (tmp_path / "locked").mkdir()
    access, scandir = os.access, os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "shut.nrrd" and access(path, mode))
    monkeypatch.setattr(os, "scandir", refuse)
    cases, skipped = collect_inputs([tmp_path])
    assert [case.name for case in cases] == ["open"]
    assert reasons(skipped) == {"shut.nrrd": "may not be read", "a folder": "may not be opened"}


def test_a_path_that_is_too_long_is_named_and_the_rest_is_done(tmp_path, monkeypatch):
    scan_at(tmp_path / "open.nrrd")
    monkeypatch.chdir(tmp_path)
    for _ in range(21):
        os.mkdir("z" * 200)
        os.chdir("z" * 200)
    cases, skipped = collect_inputs([tmp_path])
    assert [case.name for case in cases] == ["open"]
    assert reasons(skipped) == {"a folder": "has a path that is too long; move it nearer to the top"}
    os.chdir(tmp_path)
    shutil.rmtree("z" * 200)


def test_nothing_to_segment_is_an_error_that_says_why(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="No scan was found in what was given. Give image files"):
        collect_inputs([tmp_path / "empty"])
    with pytest.raises(InputError, match="No scan was found"):
        collect_inputs([])
    with pytest.raises(InputError) as caught:
        collect_inputs([tmp_path / f"absent{number}.nrrd" for number in range(5)])
    assert "absent0.nrrd: does not exist; absent1.nrrd: does not exist; " in str(caught.value)
    assert "and 2 more" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("suffixes", ((".hdr", ".img"), (".hdr.gz", ".img.gz"), (".HDR",)))
def test_a_pair_of_header_and_voxels_is_named_with_what_to_do(tmp_path, suffixes):
    for suffix in suffixes:
        (tmp_path / f"T2{suffix}").write_bytes(bytes(348))
    for given in (tmp_path, tmp_path / f"T2{suffixes[0]}"):
        with pytest.raises(
            InputError, match=r"(?i)T2\.hdr.*: is half of a NIfTI or Analyze pair .* to \.nii\.gz"
        ) as caught:
            collect_inputs([given])
        assert str(caught.value).count("half") == 1
    scan_at(tmp_path / "other.nii.gz")
    cases, skipped = collect_inputs([tmp_path])
    assert [case.name for case in cases] == ["other"] and len(skipped) == 1


def test_fingerprint_follows_the_content_and_not_the_name_place_or_date(tmp_path):
    paths = [scan_at(tmp_path / name) for name in ("a.nrrd", "b/c.nrrd")]
    os.utime(paths[1], (1, 1))
    other = scan_at(tmp_path / "d.nrrd", seed=1)
    prints = [collect_inputs([path])[0][0].fingerprint() for path in (*paths, other)]
    assert prints[0] == prints[1] != prints[2]
    assert all(len(one) == 64 for one in prints)


@pytest.mark.parametrize("suffix", (".mhd", ".nhdr"))
def test_fingerprint_covers_the_voxels_beside_a_header(tmp_path, suffix):
    path = tmp_path / f"T2{suffix}"
    sitk.WriteImage(scan(), str(path))
    case = collect_inputs([path])[0][0]
    before = case.fingerprint()
    assert case.fingerprint() == before
    voxels = tmp_path / "T2.raw"
    content = voxels.read_bytes()
    voxels.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert case.fingerprint() != before
    voxels.unlink()
    assert case.fingerprint() != before


def test_fingerprint_of_a_series_follows_its_slices_and_not_their_file_names(tmp_path):
    paths = write_series(tmp_path / "a")
    before = collect_inputs([tmp_path])[0][0].fingerprint()
    for number, path in enumerate(paths):
        path.rename(tmp_path / f"{number}.dcm")
    assert collect_inputs([tmp_path])[0][0].fingerprint() == before
    (tmp_path / "3.dcm").unlink()
    assert collect_inputs([tmp_path])[0][0].fingerprint() != before


def test_case_whose_file_went_away_meanwhile_is_an_error_that_names_it(tmp_path):
    path = scan_at(tmp_path / "T2.nrrd")
    series = write_series(tmp_path / "dicom")
    cases, _ = collect_inputs([tmp_path])
    path.unlink()
    series[2].unlink()
    for action in (cases[0].load, cases[0].fingerprint, cases[1].load, cases[1].fingerprint):
        with pytest.raises(InputError) as caught:
            action()
        assert not any(text in str(caught.value) for text in (str(tmp_path), "IM00"))


def test_truncated_file_is_a_case_that_fails_when_loaded(tmp_path):
    path = scan_at(tmp_path / "T2.nii.gz")
    path.write_bytes(path.read_bytes()[:-100])
    case = collect_inputs([path])[0][0]
    assert len(case.fingerprint()) == 64
    with pytest.raises(InputError, match="'T2.nii.gz' is truncated"):
        case.load()
    with pytest.raises(InputError):
        read_image(path)
