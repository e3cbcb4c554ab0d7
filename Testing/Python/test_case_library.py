"""The case library on a real disk: histories, splits, kills at every instant, several processes, full disks."""

import hashlib
import io
import json
import os
import random
import shutil
import time
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from learning_parts import toy_scan, write_images_and_labels
from library_parts import (
    assert_whole,
    filled_library,
    finish,
    other_mask,
    start_process,
    state_of,
    store_again,
    wait_for_line,
)

from DDSPSegmentationLib.engine.errors import Canceled, DatasetError, StorageError
from DDSPSegmentationLib.engine.images import read_image, read_mask
from DDSPSegmentationLib.engine.model import ModelDescription, describe_model
from DDSPSegmentationLib.engine.scan_identity import ScanIdentity, SeenScans
from DDSPSegmentationLib.learning.dataset import read_dataset
from DDSPSegmentationLib.library import case_files
from DDSPSegmentationLib.library.case_files import CaseFiles
from DDSPSegmentationLib.library.case_library import HOLD_OUT, TRAINING, CaseLibrary
from DDSPSegmentationLib.library.folder_lock import FolderInUseError
from DDSPSegmentationLib.library.model_registry import ModelRegistry
from DDSPSegmentationLib.library.patients import Patients

KILLS = 15


def voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(read_image(path))


# ---- storing, revising, taking back


def test_a_library_that_is_only_looked_at_leaves_no_trace(tmp_path):
    library = CaseLibrary(tmp_path / "Cases")
    assert library.cases() == [] and library.problems() == [] and library.trashed() == []
    assert library.split_counts() == {"training": 0, "hold-out": 0, "training patients": 0, "hold-out patients": 0}
    with pytest.raises(DatasetError, match="no case a3f9-0001"):
        library.case("a3f9-0001")
    assert not (tmp_path / "Cases").exists()


def test_a_stored_case_comes_back_as_it_was_accepted(tmp_path):
    library = CaseLibrary(tmp_path / "Fälle à moi" / "Cases")
    image, mask = toy_scan(1)
    direction = (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1)
    for part in (image, mask):
        part.SetDirection(direction)
        part.SetSpacing((1.9000000000000004, 2.1, 4.123456789012345))
    prediction = other_mask(mask, 3)
    stored = library.add(
        image, mask, prediction=prediction, model_version="2", model_sha256="ab" * 32, note="à relire", label="Nr. 7",
        scanner="Siemens 3T",
    )  # fmt: skip
    case = CaseLibrary(library.folder).case(stored.case.id)
    assert case == stored.case and stored.is_new and stored.warnings == ()
    assert np.array_equal(voxels(case.image_path), sitk.GetArrayFromImage(image))
    for path in (case.image_path, case.mask_path, case.prediction_path, case.label_path):
        read = read_image(path)
        assert read.GetDirection() == direction and read.GetSpacing() == image.GetSpacing()
        assert read.GetOrigin() == image.GetOrigin()
    assert np.array_equal(voxels(case.prediction_path), sitk.GetArrayFromImage(prediction))
    revision = case.current
    assert (revision.number, revision.state, revision.model_version, revision.note) == (1, "corrected", "2", "à relire")
    assert 0.9 < revision.dice < 1 and (case.label, case.scanner, case.source_name) == ("Nr. 7", "Siemens 3T", "")


def test_a_case_without_a_prediction_has_no_dice_and_an_unedited_one_says_so(tmp_path):
    image, mask = toy_scan()
    library = CaseLibrary(tmp_path)
    case = library.add(image, mask).case
    assert case.prediction_path is None and case.current.dice is None
    case = store_again(library, case.id, mask, prediction=mask, edited=False).case
    assert case.current.state == "unedited" and case.current.dice == 1.0 and case.prediction_path.exists()


def test_zones_are_merged_into_one_gland(tmp_path):
    image, mask = toy_scan()
    zones = sitk.GetArrayFromImage(mask)
    zones[:6] *= 2
    drawn = sitk.GetImageFromArray(zones)
    drawn.CopyInformation(mask)
    case = CaseLibrary(tmp_path).add(image, drawn).case
    assert np.array_equal(voxels(case.label_path), sitk.GetArrayFromImage(mask))


def test_the_same_scan_becomes_a_new_revision_whatever_type_its_values_have(tmp_path):
    library = CaseLibrary(tmp_path)
    image, mask = toy_scan()
    image = sitk.Cast(image, sitk.sitkInt16)
    first = library.add(image, mask, note="first").case
    again = library.add(sitk.Cast(image, sitk.sitkFloat64), other_mask(mask, 1), note="second")
    assert not again.is_new and again.case.id == first.id and again.warnings == ()
    assert [revision.note for revision in again.case.revisions] == ["first", "second"]
    assert np.array_equal(voxels(again.case.label_path), voxels(again.case.mask_path_of(2)))
    assert np.array_equal(voxels(again.case.mask_path_of(1)), sitk.GetArrayFromImage(mask))
    assert_whole(tmp_path)


def test_a_revision_can_be_taken_back_and_its_number_is_not_used_again(tmp_path):
    library = filled_library(tmp_path, 1)
    case_id = library.cases()[0].id
    _, mask = toy_scan(0)
    second = store_again(library, case_id, other_mask(mask, 1))
    library.undo(second)
    assert np.array_equal(voxels(library.case(case_id).label_path), sitk.GetArrayFromImage(mask))
    assert (tmp_path / "trash" / f"{case_id}-revision-2" / "mask-2.mha").exists()
    with pytest.raises(DatasetError, match="taken back already"):
        library.undo(second)
    assert store_again(library, case_id, mask).case.current.number == 3
    assert assert_whole(tmp_path) == {case_id: ("cases", 1, 3)}


@pytest.mark.parametrize("action", ["add", "revise", "undo", "delete", "restore", "rehearse", "empty"])
def test_a_writer_whose_lock_file_was_deleted_changes_nothing(tmp_path, monkeypatch, action):
    library = filled_library(tmp_path, 2)
    first, second = library.cases()
    library.delete(second.id)
    image, mask = toy_scan(0)
    stored = library.add(image, other_mask(mask, 1))
    actions = {
        "add": lambda: library.add(*toy_scan(5)),
        "revise": lambda: library.add(image, mask),
        "undo": lambda: library.undo(stored),
        "delete": lambda: library.delete(first.id),
        "restore": lambda: library.restore(second.id),
        "rehearse": lambda: library.rehearse([(ScanIdentity(toy_scan(6)[0]), "")]),
        "empty": library.empty_trash,
    }
    real, before = CaseFiles.mend, {**state_of(library), "": (tmp_path / "patients.json").read_bytes()}

    def then_delete_the_lock(files):
        real(files)
        (tmp_path / case_files.LOCK_NAME).unlink()

    with monkeypatch.context() as patched:
        patched.setattr(CaseFiles, "mend", then_delete_the_lock)
        with pytest.raises(FolderInUseError, match=case_files.LOCK_NAME):
            actions[action]()
    assert {**state_of(library), "": (tmp_path / "patients.json").read_bytes()} == before
    assert_whole(tmp_path)


def test_a_lock_file_that_is_deleted_while_a_case_is_written_keeps_the_case_out(tmp_path, monkeypatch):
    library, real = filled_library(tmp_path, 1), CaseFiles.commit

    def delete_the_lock_first(files, case):
        (tmp_path / case_files.LOCK_NAME).unlink()
        real(files, case)

    with monkeypatch.context() as patched:
        patched.setattr(CaseFiles, "commit", delete_the_lock_first)
        with pytest.raises(FolderInUseError):
            library.add(*toy_scan(5))
    assert len(library.cases()) == 1
    assert_whole(tmp_path)  # the next who opened it has settled what was begun


def test_taking_back_a_new_case_keeps_what_somebody_added_to_it_since(tmp_path):
    library = CaseLibrary(tmp_path)
    image, mask = toy_scan()
    stored = library.add(image, mask)
    store_again(library, stored.case.id, other_mask(mask, 1))
    library.undo(stored)
    assert state_of(library) == {stored.case.id: ("cases", 2)}
    library.undo(library.add(*toy_scan(1)))
    assert len(library.cases()) == 1 and len(library.trashed()) == 1
    assert_whole(tmp_path)


def test_a_deleted_case_comes_back_with_its_history_until_the_trash_is_emptied(tmp_path):
    library = filled_library(tmp_path, 2)
    first, second = (case.id for case in library.cases())
    store_again(library, first, toy_scan(0)[1], note="again")
    before = library.case(first)
    library.delete(first)
    assert library.trashed() == [first] and [case.id for case in library.cases()] == [second]
    assert_whole(tmp_path)
    assert library.restore(first) == before
    assert_whole(tmp_path)
    library.delete(first)
    library.empty_trash()
    assert library.trashed() == [] and not (tmp_path / "trash").exists()
    with pytest.raises(DatasetError, match="not in the trash"):
        library.restore(first)
    for wrong in (first, "../../x", ""):
        with pytest.raises(DatasetError, match="no case"):
            library.delete(wrong)


def test_a_case_whose_scan_was_stored_again_is_not_restored_beside_it(tmp_path):
    library = filled_library(tmp_path, 1)
    first = library.cases()[0]
    library.delete(first.id)
    second = library.add(*toy_scan(0)).case
    assert (second.number, second.patient, second.split) == (2, first.patient, first.split)
    with pytest.raises(DatasetError, match=f"stored again as case {second.id}"):
        library.restore(first.id)
    library.delete(second.id)
    assert library.restore(first.id).id == first.id
    assert not library.add(*toy_scan(0)).is_new
    assert_whole(tmp_path)


def test_a_damaged_case_is_named_and_hides_no_other(tmp_path):
    library = filled_library(tmp_path, 4)
    cases = library.cases()
    (cases[0].record_folder / "case.json").write_text("{")
    newer = json.loads((cases[1].record_folder / "case.json").read_text()) | {"schema_version": 99}
    (cases[1].record_folder / "case.json").write_text(json.dumps(newer))
    cases[2].image_path.unlink()
    (cases[3].record_folder / "case.json").unlink()
    assert library.cases() == []
    problems = library.problems()
    assert [case.id in problem for case, problem in zip(cases, problems, strict=True)] == [True] * 4
    assert "damaged" in problems[0] and "newer version" in problems[1] and "_0000.mha" in problems[2]
    assert "no case.json" in problems[3]
    for case in cases:
        library.delete(case.id)
    assert library.problems() == [] and library.add(*toy_scan(9)).case.number == 5


# ---- patients and splits


def test_the_split_of_a_patient_is_drawn_once_and_outlives_deletion(tmp_path):
    library = CaseLibrary(tmp_path)
    stored = [library.add(*toy_scan(seed), patient_key=f"patient {seed % 5}").case for seed in range(10)]
    split_of = {case.patient: case.split for case in stored}
    assert [stored[n].patient == stored[n + 5].patient for n in range(5)] == [True] * 5 and len(split_of) == 5
    assert library.split_counts()["training patients"] + library.split_counts()["hold-out patients"] == 5
    for case in stored:
        library.delete(case.id)
    library.empty_trash()
    for seed in range(10, 15):
        case = library.add(*toy_scan(seed), patient_key=f"patient {seed % 5}").case
        assert case.split == split_of[case.patient] and case.number == seed + 1
    again = library.add(*toy_scan(0)).case
    assert (again.patient, again.split) == (stored[0].patient, stored[0].split)


def test_about_one_patient_in_five_is_held_out_and_one_of_the_first_five_always():
    shares = []
    for salt in range(60):
        patients = Patients(salt.to_bytes(32, "big"))
        splits = [patients.split_of(f"patient {number}") for number in range(40)]
        assert HOLD_OUT in splits[:5]
        shares.append(splits.count(HOLD_OUT) / 40)
        assert [patients.split_of(f"patient {number}") for number in range(40)] == splits
    assert 0.17 < sum(shares) / len(shares) < 0.25


def test_no_identifier_of_a_patient_is_written_anywhere(tmp_path):
    image, mask = toy_scan()
    image.SetMetaData("0010|0010", "SECRET^NAME")
    mask.SetMetaData("Segment0_Name", "SECRET")
    library = CaseLibrary(tmp_path)
    library.add(image, mask, patient_key="SECRET-4711")
    for path in tmp_path.rglob("*"):
        assert "SECRET" not in path.name and (path.is_dir() or b"SECRET" not in path.read_bytes())
    assert image.GetMetaData("0010|0010") == "SECRET^NAME"
    if os.name == "posix":
        assert (tmp_path / "salt").stat().st_mode & 0o777 == 0o600


def test_two_libraries_know_the_same_patient_under_different_names(tmp_path):
    one, two = (CaseLibrary(tmp_path / name).add(*toy_scan(), patient_key="4711").case for name in "ab")
    assert one.patient != two.patient and one.content != two.content


def test_a_scan_is_the_same_when_its_spacing_differs_in_the_last_digits(tmp_path):
    library = CaseLibrary(tmp_path)
    image, mask = toy_scan(1)
    ids = set()
    for step in (2.125, 2.125 + 4e-8, 2.125 - 4e-8):
        for part in (image, mask):
            part.SetSpacing((step, step, 4.0))
        ids.add(library.add(image, mask).case.id)
    assert len(ids) == 1


def test_a_scan_that_was_moved_since_is_still_the_same_and_its_mask_is_stored_where_the_scan_is(tmp_path):
    library = CaseLibrary(tmp_path)
    image, mask = toy_scan(1)
    first = library.add(image, mask).case
    corrected = other_mask(mask, 3)
    for part in (image, corrected):
        part.SetOrigin((100.0, -50.0, 3.0))
    again = library.add(image, corrected, prediction=corrected)
    assert again.case.id == first.id and not again.is_new
    stored = read_mask(again.case.mask_path)
    assert np.array_equal(sitk.GetArrayFromImage(stored), sitk.GetArrayFromImage(corrected))
    assert stored.GetOrigin() == read_image(first.image_path).GetOrigin()
    assert_whole(tmp_path)


def test_what_another_program_puts_beside_the_masks_stops_nobody(tmp_path):
    library = filled_library(tmp_path, 1)
    stranger = library.cases()[0].record_folder / "mask-1-LAPTOP.mha"
    stranger.write_bytes(b"of a synchronized folder")
    store_again(library, library.cases()[0].id, other_mask(toy_scan(0)[1], 2))
    assert assert_whole(tmp_path) and stranger.exists()


# ---- what versions were trained on


class Versions(ModelRegistry):
    """Versions that were trained on the toy scans of some seeds, each under the name that is said."""

    def __init__(self, folder: Path, *groups: Mapping[str, int], known: bool = True):
        super().__init__(folder)
        self.seen = SeenScans(known=known)
        for group in groups:
            self.seen = self.seen.with_training([(name, ScanIdentity(toy_scan(n)[0])) for name, n in group.items()])

    def _descriptions(self) -> list[ModelDescription]:
        return [describe_model(), ModelDescription("tuned", "ab", {}, {}, seen=self.seen)]


def test_a_scan_that_a_version_was_trained_on_belongs_to_training_whatever_its_name(tmp_path):
    library = CaseLibrary(tmp_path / "cases", Versions(tmp_path, {"x": 0}, {"y": 1}))
    stored = [library.add(*toy_scan(n), source_name=f"Z{n}") for n in range(8)]
    assert [one.case.split for one in stored[:2]] == [TRAINING] * 2
    assert all("model version was trained" in one.warnings[0] for one in stored[:2])
    assert all(one.warnings == () for one in stored[2:])
    assert HOLD_OUT in {one.case.split for one in stored[2:7]}  # the first five that were drawn
    held = next(one.case for one in stored if one.case.split == HOLD_OUT)
    library.delete(held.id)
    late = CaseLibrary(library.folder, Versions(tmp_path, {"late": held.number - 1}))
    with pytest.raises(DatasetError, match="held out"):
        late.add(*toy_scan(held.number - 1))
    library.restore(held.id)
    again = late.add(*toy_scan(held.number - 1))
    assert again.case.split == HOLD_OUT and "comparisons favor" in again.warnings[0]


def test_names_that_the_built_in_version_lists_force_nothing(tmp_path):
    names = [f"Case{number:02d}" for number in range(14)]  # twelve of these are names of its training cases
    report = CaseLibrary(tmp_path / "cases", ModelRegistry(tmp_path)).import_folder(
        write_images_and_labels(tmp_path / "mail", names)
    )
    assert len(report.stored) == 14 and report.warnings == ()
    assert HOLD_OUT in {stored.case.split for stored in report.stored}


def test_a_real_scan_of_the_built_in_training_is_known_renamed_and_at_another_resolution(tmp_path, real_scans):
    library = CaseLibrary(tmp_path / "cases", ModelRegistry(tmp_path))
    for part, name in (("promise12", "Case13"), ("prostate3t", "Prostate3T-01-0002")):  # the twin of Case14
        image, mask = (read_image(real_scans / part / kind / f"{name}.nii.gz") for kind in ("images", "labels"))
        stored = library.add(image, mask, source_name="patient-1")
        assert stored.case.split == TRAINING and any("version" in warning for warning in stored.warnings)


def test_a_version_that_cannot_tell_is_named_once_and_forces_nothing(tmp_path):
    library = CaseLibrary(tmp_path / "cases", Versions(tmp_path, known=False))
    warnings = [library.add(*toy_scan(n)).warnings for n in range(3)]
    assert ["tuned" in "".join(said) for said in warnings] == [True, False, False]
    assert "Nobody can tell" in warnings[0][0]
    again = CaseLibrary(tmp_path / "cases", Versions(tmp_path, known=False))
    cases = [again.add(*toy_scan(n)) for n in range(3, 9)]
    assert all(stored.warnings == () for stored in cases)
    assert {case.split for case in again.cases()} == {TRAINING, HOLD_OUT}


def test_the_patient_of_a_rehearsed_scan_is_never_held_out(tmp_path):
    library = CaseLibrary(tmp_path / "cases")
    scans = [(ScanIdentity(toy_scan(n)[0]), "") for n in range(12)]
    assert library.rehearse(scans) == [True] * 12
    stored = [library.add(*toy_scan(n), patient_key=f"key {n}") for n in range(12)]
    assert {one.case.split for one in stored} == {TRAINING}
    later = [library.add(*toy_scan(100 + n), patient_key=f"key {n}").case for n in range(12)]  # their next scans
    assert {case.split for case in later} == {TRAINING}


def test_a_held_out_patient_is_not_rehearsed(tmp_path):
    library = filled_library(tmp_path / "cases", 6)
    held = next(case.number - 1 for case in library.cases() if case.split == HOLD_OUT)
    image = toy_scan(held)[0]
    noise = np.random.default_rng(5).normal(0, 2, sitk.GetArrayFromImage(image).shape).astype(np.float32)
    copy = sitk.GetImageFromArray(sitk.GetArrayFromImage(image) * 0.5 + noise)
    copy.CopyInformation(image)
    assert library.rehearse([(ScanIdentity(one), "") for one in (image, copy, toy_scan(77)[0])]) == [False, False, True]
    assert library.case(library.cases()[held].id).split == HOLD_OUT


@pytest.fixture
def bundled(sample_scan) -> tuple[sitk.Image, sitk.Image]:
    """The scan that comes with the product, and a mask of it."""
    image = read_image(sample_scan)
    gland = np.zeros(image.GetSize()[::-1], np.uint8)
    gland[6:13, 160:224, 160:224] = 1
    mask = sitk.GetImageFromArray(gland)
    mask.CopyInformation(image)
    return image, mask


def test_the_scan_that_comes_with_the_product_is_kept_but_never_counts(tmp_path, bundled):
    image, mask = bundled
    for number in range(8):  # whatever the salt says
        library = CaseLibrary(tmp_path / str(number))
        stored = library.add(image, mask)
        assert stored.case.split == TRAINING and "known to the product" in stored.warnings[0]
        assert CaseLibrary(library.folder).cases()[0].is_bundled
        assert library.cases_that_count() == [] and set(library.split_counts().values()) == {0}
        assert library.new_for(describe_model()) == []


def test_the_scan_that_comes_with_the_product_is_a_patient_of_its_own_whatever_is_said(tmp_path, bundled):
    library = filled_library(tmp_path / "cases", 6)
    before, held = library.split_counts(), next(case for case in library.cases() if case.split == HOLD_OUT)
    case = library.add(*bundled, patient_key="4711", same_patient_as=held.id).case
    assert case.split == TRAINING and case.patient not in {one.patient for one in library.cases_that_count()}
    assert library.split_counts() == before
    memory = json.loads((library.folder / "patients.json").read_text())
    assert case.patient not in {*memory["splits"], *memory["folds"], *memory["forced"], *memory["aliases"].values()}
    assert library.export(tmp_path / "out") == 6
    for folder in (library.folder, tmp_path / "out"):
        described = json.loads((folder / "dataset.json").read_text())
        assert described["numTraining"] == len(described["dataset"]) == before[TRAINING]
        assert case.id not in (folder / "splits_final.json").read_text() + str(described)
    assert not list((tmp_path / "out").rglob(f"{case.id}*"))
    with pytest.raises(DatasetError, match="no patient of yours"):
        library.add(*toy_scan(30), same_patient_as=case.id)


def test_the_scan_that_comes_with_the_product_does_not_count_where_an_older_version_stored_it(tmp_path, bundled):
    library = filled_library(tmp_path, 2)
    case = library.add(*bundled).case
    values = case.to_dict()
    del values["is_bundled"]
    (case.record_folder / "case.json").write_text(json.dumps(values))
    assert [one.is_bundled for one in library.cases()] == [False, False, True]  # a reader writes nothing
    assert sum(library.split_counts()[split] for split in (TRAINING, HOLD_OUT)) == 2
    with library.locked():
        assert json.loads((case.record_folder / "case.json").read_text())["is_bundled"] is True
    assert not library.add(*bundled).is_new and len(library.cases_that_count()) == 2


def test_training_cases_are_new_for_a_version_that_was_not_trained_on_their_scans(tmp_path):
    library = filled_library(tmp_path / "cases", 6)
    training = [case for case in library.cases() if case.split == TRAINING]
    seen = {case.id: case.number - 1 for case in training[:2]}
    tuned = Versions(tmp_path, seen)._descriptions()[1]
    assert library.new_for(tuned) == training[2:]
    assert library.new_for(describe_model()) == training


def test_a_patient_recognized_by_the_scan_keeps_the_key_that_comes_later(tmp_path):
    library = CaseLibrary(tmp_path)
    first = library.add(*toy_scan(0)).case
    assert library.add(*toy_scan(0), patient_key="4711").case.patient == first.patient
    assert library.add(*toy_scan(1), patient_key="4711").case.patient == first.patient


def test_a_patient_on_both_sides_is_named(tmp_path):
    library, seed = CaseLibrary(tmp_path), count()
    stored = [library.add(*toy_scan(next(seed))).case for _ in range(6)]
    held = next(case for case in stored if case.split == HOLD_OUT)
    while (other := library.add(*toy_scan(number := next(seed)), patient_key=f"key {number}").case).split == HOLD_OUT:
        pass
    again = library.add(*toy_scan(held.number - 1), patient_key=f"key {number}")
    assert again.case.split == HOLD_OUT and "Other scans of this patient are for training" in again.warnings[0]
    assert other.split == TRAINING


def test_a_new_case_joins_the_patient_of_another_and_takes_its_split(tmp_path):
    library = CaseLibrary(tmp_path)
    stored = [library.add(*toy_scan(seed)).case for seed in range(6)]
    for number, case in enumerate(stored, start=10):
        joined = library.add(*toy_scan(number), same_patient_as=case.id).case
        assert (joined.patient, joined.split) == (case.patient, case.split)
    assert library.split_counts()["training patients"] + library.split_counts()["hold-out patients"] == 6
    later = library.add(*toy_scan(20), patient_key="4711", same_patient_as=stored[0].id).case
    assert library.add(*toy_scan(21), patient_key="4711").case.patient == later.patient == stored[0].patient
    other = next(case for case in stored if case.patient != later.patient)
    with pytest.raises(DatasetError, match=f"own patient ID is not that of the patient of case {other.id}"):
        library.add(*toy_scan(23), patient_key="4711", same_patient_as=other.id)
    with pytest.raises(DatasetError, match="no case 9999-0001"):
        library.add(*toy_scan(22), same_patient_as="9999-0001")
    assert_whole(tmp_path)


def test_a_known_scan_goes_over_to_another_patient_only_within_its_split(tmp_path):
    library = CaseLibrary(tmp_path)
    stored = [library.add(*toy_scan(seed)).case for seed in range(9)]
    held = next(case for case in stored if case.split == HOLD_OUT)
    first, second = [case for case in stored if case.split == TRAINING][:2]
    with pytest.raises(
        DatasetError, match=f"known as case {held.id} .kept for checking. and cannot join case {first.id}"
    ):
        library.add(*toy_scan(held.number - 1), same_patient_as=first.id)
    moved = library.add(*toy_scan(second.number - 1), same_patient_as=first.id)
    assert not moved.is_new and library.case(second.id).patient == first.patient
    library.delete(second.id)
    library.empty_trash()
    assert library.add(*toy_scan(second.number - 1)).case.patient == first.patient
    assert_whole(tmp_path)


def test_who_turns_out_to_be_another_patient_is_that_one_with_all_cases_and_keys(tmp_path):
    library = CaseLibrary(tmp_path)
    stored = [library.add(*toy_scan(seed), patient_key=f"key {seed}").case for seed in range(9)]
    first, second = [case for case in stored if case.split == TRAINING][:2]
    seed = second.number - 1
    visit = library.add(*toy_scan(20), patient_key=f"key {seed}").case
    gone = library.add(*toy_scan(21), same_patient_as=second.id).case
    library.delete(gone.id)
    library.add(*toy_scan(seed), same_patient_as=first.id)
    later = library.add(*toy_scan(22), patient_key=f"key {seed}").case
    library.restore(gone.id)
    for case in (second, visit, gone, later):
        assert library.case(case.id).patient == first.patient
    assert sum(library.split_counts()[f"{split} patients"] for split in (TRAINING, HOLD_OUT)) == 8
    assert first.patient in {case.patient for case in CaseLibrary(tmp_path).cases()}
    fold = next(
        fold["val"] for fold in json.loads((tmp_path / "splits_final.json").read_text()) if gone.id in fold["val"]
    )
    assert {first.id, second.id, visit.id, gone.id, later.id} <= set(fold)
    assert_whole(tmp_path)


def test_taking_back_what_joined_two_patients_parts_them_again(tmp_path):
    library = CaseLibrary(tmp_path)
    stored = [library.add(*toy_scan(seed)).case for seed in range(12)]
    before = {case.id: case.patient for case in stored}
    first, second = [case for case in stored if case.split == TRAINING][:2]
    joined = library.add(*toy_scan(second.number - 1), same_patient_as=first.id)
    assert library.case(second.id).patient == first.patient
    library.undo(joined)
    assert {case.id: case.patient for case in library.cases()} == before
    library.undo(library.add(*toy_scan(40), same_patient_as=first.id))
    assert library.add(*toy_scan(40)).case.patient not in before.values()
    assert_whole(tmp_path)


def test_a_copy_that_links_a_training_patient_to_a_held_out_one_is_refused(tmp_path):
    library = CaseLibrary(tmp_path)
    stored = [library.add(*toy_scan(seed), patient_key=f"key {seed}").case for seed in range(9)]
    held = next(case for case in stored if case.split == HOLD_OUT)
    other = next(case for case in stored if case.split == TRAINING)
    for one, two in ((held, other), (other, held)):
        image, mask = toy_scan(one.number - 1)
        with pytest.raises(DatasetError, match=f"case {one.id} .* cannot join the other scans of its patient ID"):
            library.add(image * 2.5 + 30, mask, patient_key=f"key {two.number - 1}")
    assert len(library.cases()) == 9


def test_a_held_out_patient_of_whom_a_version_saw_another_scan_is_not_compared_any_more(tmp_path):
    library = CaseLibrary(tmp_path / "cases", Versions(tmp_path, {"elsewhere": 50}))
    stored = [library.add(*toy_scan(seed), patient_key=f"key {seed}").case for seed in range(9)]
    held = next(case for case in stored if case.split == HOLD_OUT)
    before = library.split_counts()
    with pytest.raises(DatasetError, match="not compared any more"):
        library.add(*toy_scan(50), patient_key=f"key {held.number - 1}")
    later = CaseLibrary(library.folder)
    assert [case.id for case in later.not_compared()] == [held.id]
    assert held.id not in {case.id for case in later.cases_that_count()}
    assert later.split_counts()["hold-out patients"] == before["hold-out patients"] - 1


def test_cases_whose_patients_an_index_names_later_go_over_when_they_are_imported_again(tmp_path):
    source, library = write_images_and_labels(tmp_path / "source", "abcd"), CaseLibrary(tmp_path / "library")
    report = library.import_folder(source)
    assert report.without_patient == ("a", "b", "c", "d") and "whose 4 of these 4 scans are" in report.about_patients
    training = [stored.case.source_name for stored in report.stored if stored.case.split == TRAINING]
    names = dict.fromkeys("abcd", "") | dict.fromkeys(training, "P-7")
    (source / "index.csv").write_text("case;patient\n" + "".join(f"{case};{names[case]}\n" for case in names))
    report = library.import_folder(source)
    assert report.about_patients == "" and len({case.patient for case in library.cases()}) == 4 - max(
        0, len(training) - 1
    )
    assert len(library.import_folder(source).stored) == 0
    assert all(len(case.revisions) == 1 for case in library.cases())


def test_loose_pairs_take_their_patients_from_an_index_at_the_top(tmp_path):
    for name, seed in (("one/X", 1), ("two/X", 2), ("Y", 3)):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        for part, ending in zip(toy_scan(seed), ("", "_mask"), strict=True):
            sitk.WriteImage(part, str(tmp_path / "in" / f"{name}{ending}.nrrd"))
    index = tmp_path / "in" / "index.csv"
    index.write_text("Case\tPatient\none/X\tMüller 1\ntwo\\X\tMüller 1\nY\tunknown\n", encoding="cp1252")
    report = CaseLibrary(tmp_path / "library").import_folder(tmp_path / "in")
    patient = {stored.case.source_name: stored.case.patient for stored in report.stored}
    assert patient["one/X"] == patient["two/X"] != patient["Y"] and report.without_patient == ("Y",)
    for content in ("case,patient\nX,A\n", "patient\nA\n"):
        index.write_text(content)
        with pytest.raises(DatasetError, match="index.csv"):
            CaseLibrary(tmp_path / "other").import_folder(tmp_path / "in")
    index.rename(tmp_path / "in" / "one" / "index.csv")
    with pytest.raises(DatasetError, match="'one/index.csv' is not used"):
        CaseLibrary(tmp_path / "other").import_folder(tmp_path / "in")


def folds_of(library) -> list[set[str]]:
    """Who is left out by each fold: patients, by the cases that splits_final.json names."""
    patient = {case.id: case.patient for case in library.cases()}
    folds = json.loads((library.folder / "splits_final.json").read_text())
    return [{patient[case] for case in fold["val"]} for fold in folds]


def test_a_patients_fold_is_drawn_once_into_the_smallest_and_outlives_deletion(tmp_path):
    library, seeds = CaseLibrary(tmp_path), iter(range(40))
    while library.split_counts()["training"] < 12:
        library.add(*toy_scan(seed := next(seeds)), patient_key=f"patient {seed}")
    before = folds_of(library)
    assert sorted(map(len, before)) == [2, 2, 2, 3, 3] and len(set.union(*before)) == 12
    gone = next(case for case in library.cases() if case.split == TRAINING)
    library.delete(gone.id)
    assert folds_of(library) == [fold - {gone.patient} for fold in before]
    library.empty_trash()
    library.add(*toy_scan(50), patient_key="somebody new")
    back = library.add(*toy_scan(51), patient_key=f"patient {gone.number - 1}").case
    assert back.patient == gone.patient
    assert all(fold <= now for fold, now in zip(before, folds_of(library), strict=True))


PRINTS = (  # content and fingerprint of toy_scan(1) and toy_scan(2) under the salt 0, 1, ... 31
    ("ba98a468d7001a1f88c1a529",
     "505f03bf8de06ff3d4f01e83d1c22820dd72c84a6559552d0ce3cd25b446393dd2d32a3f37826791ce820d38cf09f0e4"
     "a1957be88b32dbd89ccf50d0a407b77b56bc78134cf5e0893925e5990ddcaa97925fc8edac6293f257a1b7c7d07a4154"),
    ("a73692bdd709eec52b3120a8",
     "5c532be385eb2ffb96609ea1e9e20a69f5d3d0024519433c00efcd65bf54a97fc2c312ff234363908f870dfce484b0e4"
     "61871a788a60da419aed5404240290434ea0fc534e95810ead245cb30fdcc8e6b45fe8d0a8749f7027a9fc1bc27ec890"),
)  # fmt: skip


def version_1_library(folder: Path) -> None:
    """The files of two cases as version 1 wrote them, one for training and one held out."""
    splits, images = {"8a1053f289387d19219a84e7": TRAINING, "293fc2e9eef200c033231572": HOLD_OUT}, {}
    for number, ((patient, split), (content, fingerprint)) in enumerate(zip(splits.items(), PRINTS, strict=True), 1):
        name, part = f"a3f9-{number:04d}", "Tr" if split == TRAINING else "Ts"
        images[content] = {"patient": patient, "case": name, "fingerprint": fingerprint}
        paths = [f"images{part}/{name}_0000.mha", f"labels{part}/{name}.mha", f"cases/{name}/mask-1.mha"]
        image, mask = toy_scan(number)
        for path, voxels in zip(paths, (image, mask, mask), strict=True):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(voxels, str(folder / path), useCompression="cases" in path or "labels" in path)
        revision = {"number": 1, "date": "2025-03-01T10:00:00+01:00", "state": "imported", "model_version": "",
                    "model_sha256": "", "dice": None, "note": "",
                    "mask_sha256": hashlib.sha256((folder / paths[2]).read_bytes()).hexdigest()}  # fmt: skip
        case = {"schema_version": 1, "id": name, "number": number, "patient": patient, "split": split, "label": "",
                "scanner": "HK", "source_name": f"Case0{number}", "content": content, "next_revision": 2,
                "predicted": [], "revisions": [revision]}  # fmt: skip
        (folder / "cases" / name / "case.json").write_text(json.dumps(case))
    memory = {"schema_version": 1, "library": "a3f9", "next_number": 3, "splits": splits, "forced": [], "aliases": {},
              "images": images}  # fmt: skip
    (folder / "patients.json").write_text(json.dumps(memory))
    (folder / "salt").write_text(bytes(range(32)).hex() + "\n")
    (folder / "dataset.json").write_text(json.dumps({"numTraining": 1}))


def test_a_library_that_version_1_wrote_is_read_and_written_for_ever(tmp_path):
    version_1_library(tmp_path)
    library = CaseLibrary(tmp_path)
    assert [(case.split, case.source_name) for case in library.cases()] == [(TRAINING, "Case01"), (HOLD_OUT, "Case02")]
    assert_whole(tmp_path)
    again = library.add(*toy_scan(2))
    assert not again.is_new and again.case.split == HOLD_OUT and again.warnings == ()
    assert library.add(*toy_scan(3), same_patient_as="a3f9-0001").case.id == "a3f9-0003"
    assert folds_of(library) == [{"8a1053f289387d19219a84e7"}]
    library.delete("a3f9-0001")
    library.restore("a3f9-0001")
    assert len(assert_whole(tmp_path)) == 3


def test_folds_of_a_library_that_had_none_are_drawn_once_too(tmp_path):
    library = filled_library(tmp_path, 7)
    path = tmp_path / "patients.json"
    values = json.loads(path.read_text())
    del values["folds"]
    path.write_text(json.dumps(values | {"schema_version": 1}))
    library.delete(library.cases()[0].id)
    drawn = folds_of(library)
    library.delete(library.cases()[-1].id)
    library.restore(library.trashed()[-1])
    assert folds_of(library) == drawn and max(map(len, drawn)) <= 2
    assert set.union(*drawn) == {case.patient for case in library.cases() if case.split == TRAINING}


def test_folds_that_version_1_wrote_are_kept(tmp_path):
    version_1_library(tmp_path)
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": [], "val": []}] * 3 + [{"val": ["a3f9-0001"]}]))
    library = CaseLibrary(tmp_path)
    library.add(*toy_scan(3), same_patient_as="a3f9-0001")
    assert folds_of(library) == [set(), set(), set(), {"8a1053f289387d19219a84e7"}]


def test_a_fold_keeps_its_number_when_its_last_case_is_deleted(tmp_path):
    library = filled_library(tmp_path, 8)
    before = folds_of(library)
    alone = next(iter(next(fold for fold in before if len(fold) == 1)))
    library.delete(next(case.id for case in library.cases() if case.patient == alone))
    assert folds_of(library) == [fold - {alone} for fold in before]


def test_a_near_copy_gets_the_split_of_its_twin_also_when_that_was_deleted(tmp_path):
    library = CaseLibrary(tmp_path)
    image, mask = toy_scan(0)
    twin = library.add(image, mask, patient_key="4711").case
    copy = library.add(image * 2.5 + 30, mask, patient_key="another key")
    assert copy.is_new and (copy.case.patient, copy.case.split) == (twin.patient, twin.split)
    assert copy.warnings == (f"The scan looks like a copy of case {twin.id}; it counts as the same patient.",)
    for case in library.cases():
        library.delete(case.id)
    library.empty_trash()
    mirrored = library.add(*(sitk.Flip(part, (True, False, False)) for part in (image, mask)))
    assert mirrored.case.patient == twin.patient and "which was deleted" in mirrored.warnings[0]


def test_memory_that_was_lost_stops_writing_but_not_reading(tmp_path):
    library = filled_library(tmp_path, 1)
    for name in ("salt", "patients.json"):
        kept = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
        with pytest.raises(DatasetError, match=name):
            library.add(*toy_scan(1))
        assert len(CaseLibrary(tmp_path).cases()) == 1
        (tmp_path / name).write_bytes(kept)
    for text in ("{", json.dumps({"schema_version": 2})):
        (tmp_path / "patients.json").write_text(text)
        with pytest.raises(DatasetError):
            library.add(*toy_scan(1))


def test_a_number_is_not_given_twice_when_an_older_memory_came_from_a_backup(tmp_path):
    library = filled_library(tmp_path, 1)
    backup = (tmp_path / "patients.json").read_bytes()
    library.add(*toy_scan(1))
    library.delete(library.add(*toy_scan(2)).case.id)
    (tmp_path / "patients.json").write_bytes(backup)
    assert library.add(*toy_scan(3)).case.number == 4


def test_a_data_set_of_another_program_is_not_written_into(tmp_path):
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "imagesTr" / "a_0000.nii.gz").write_bytes(b"x")
    with pytest.raises(DatasetError, match="data set of another program"):
        CaseLibrary(tmp_path).add(*toy_scan())
    assert [path.name for path in tmp_path.iterdir()] == ["imagesTr"]


# ---- in and out


def test_other_tools_read_the_folder_as_it_is_and_no_patient_straddles_its_folds(tmp_path):
    library = CaseLibrary(tmp_path / "library")
    for seed in range(9):
        library.add(*toy_scan(seed), patient_key=f"{seed // 2}")
    training = {case.id: case.patient for case in library.cases() if case.split == TRAINING}
    for folder in (library.folder, tmp_path / "exported"):
        if folder.name == "exported":
            assert library.export(folder) == 9
        assert {case.name for case in read_dataset(folder)} == set(training)
        described = json.loads((folder / "dataset.json").read_text())
        assert described["numTraining"] == len(training) and described["file_ending"] == ".mha"
        held = []
        for fold in json.loads((folder / "splits_final.json").read_text()):
            assert set(fold["train"]) | set(fold["val"]) == set(training)
            assert not {training[name] for name in fold["train"]} & {training[name] for name in fold["val"]}
            held += fold["val"]
        assert sorted(held) == sorted(training)


def test_an_export_holds_no_note_no_label_and_no_memory_of_patients(tmp_path):
    library = CaseLibrary(tmp_path / "library")
    library.add(*toy_scan(), note="NOTE", label="LABEL", patient_key="KEY", source_name="SOURCE", scanner="SCANNER")
    store_again(library, library.cases()[0].id, toy_scan()[1])
    library.export(tmp_path / "out")
    exported = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.parent.name for path in exported} <= {"out", "imagesTr", "labelsTr", "imagesTs", "labelsTs"}
    assert {path.name for path in exported if path.parent.name == "out"} == {
        "dataset.json", "index.csv", "splits_final.json"
    }  # fmt: skip
    secrets = [word.encode() for word in ("NOTE", "LABEL", "KEY", "SOURCE", "SCANNER", library.cases()[0].patient)]
    assert not any(secret in path.read_bytes() for path in exported for secret in secrets)
    with pytest.raises(StorageError, match="not empty"):
        library.export(tmp_path / "out")


def test_whose_scan_is_whose_goes_along_with_an_export(tmp_path):
    library = CaseLibrary(tmp_path / "library")
    for seed in range(14):
        library.add(*toy_scan(seed), patient_key=f"{seed // 2}")
    library.export(tmp_path / "out")
    patient = {case.id: case.patient for case in library.cases()}
    other = CaseLibrary(tmp_path / "other")
    assert other.import_folder(tmp_path / "out").about_patients == ""
    exported = {(patient[case.name], case.patient) for case in read_dataset(tmp_path / "out")}
    imported = {(patient[case.source_name], case.patient) for case in other.cases()}
    for pairs in (exported, imported):
        assert len(pairs) == len({one for one, _ in pairs}) == len({two for _, two in pairs}) > 1


def test_folders_of_known_layouts_are_imported_and_importing_twice_adds_nothing(tmp_path):
    source = write_images_and_labels(tmp_path / "source", ["a", "b", "c"])
    (source / "index.csv").write_text("case,center,patient\na,RUNMC,p1\nb,RUNMC,p1\nc,HK,p2\n")
    sitk.WriteImage(toy_scan(1, radii=(1, 2, 2))[1], str(source / "labels" / "b.nii.gz"))
    library, seen = CaseLibrary(tmp_path / "library", Versions(tmp_path, {"x": 0})), []
    report = library.import_folder(source, progress=lambda *words: seen.append(words))
    assert seen == [(0, 3, "a"), (1, 3, "b"), (2, 3, "c")]
    assert [stored.case.source_name for stored in report.stored] == ["a", "c"]
    assert list(report.failed) == ["b"] and "volume" in report.failed["b"]
    assert report.warnings[0].startswith("a: A model version")
    first = report.stored[0].case
    assert (first.scanner, first.split, first.current.state) == ("RUNMC", TRAINING, "imported")
    again = library.import_folder(source)
    assert again.stored == () and "c: It is stored already with this very mask." in again.warnings
    case = library.cases()[0]
    store_again(library, case.id, other_mask(read_mask(case.mask_path), 5))
    assert library.import_folder(source).stored == ()  # or the correction would not be the newest mask any more
    assert library.case(case.id).current.state == "corrected"
    sitk.WriteImage(toy_scan(1)[1], str(source / "labels" / "b.nii.gz"))
    assert [stored.case.patient for stored in library.import_folder(source).stored] == [first.patient]


def test_loose_pairs_are_imported_and_what_has_no_mask_is_named(tmp_path):
    names = ["X.nrrd", "X_mask.nrrd", "Y.nii.gz", "Y-label.mha", "Z.nrrd", "Z.seg.nrrd", "W.mha", "W_Seg.nrrd"]
    for number in range(0, 8, 2):
        parts = toy_scan(number)
        for name, part in zip(names[number : number + 2], parts, strict=True):
            (tmp_path / "in" / str(number)).mkdir(parents=True, exist_ok=True)
            part = part[12:30, 8:28, 1:11] if name == "Z.seg.nrrd" else part  # as Slicer saves a segmentation
            sitk.WriteImage(part, str(tmp_path / "in" / str(number) / name))
    sitk.WriteImage(toy_scan(9)[0], str(tmp_path / "in" / "alone.nrrd"))
    (tmp_path / "in" / "._X.nrrd").write_bytes(b"mac")
    report = CaseLibrary(tmp_path / "library").import_folder(tmp_path / "in")
    assert [stored.case.source_name for stored in report.stored] == ["0/X", "2/Y", "4/Z", "6/W"]
    assert report.failed == {"alone": "It has no mask beside it."}
    assert np.array_equal(voxels(report.stored[2].case.mask_path), sitk.GetArrayFromImage(toy_scan(4)[1]))


def test_of_several_masks_none_is_chosen_and_a_mask_without_its_scan_is_named(tmp_path):
    scan, mask = toy_scan(0)
    for name in ("A.nrrd", "A_mask.nrrd", "A_seg.nrrd", "B.nrrd", "B_mask.nrrd", "C_mask.nrrd"):
        (tmp_path / "in").mkdir(exist_ok=True)
        sitk.WriteImage(mask if "_" in name else scan, str(tmp_path / "in" / name))
    report = CaseLibrary(tmp_path / "library").import_folder(tmp_path / "in")
    assert [stored.case.source_name for stored in report.stored] == ["B"]
    assert report.failed == {
        "A": "It has several masks beside it (A_mask.nrrd, A_seg.nrrd). Leave the right one there.",
        "C_mask.nrrd": "It has no scan beside it.",
    }


def test_what_was_assumed_of_scan_and_mask_is_told_at_import(tmp_path):
    scan, mask = (
        sitk.Cast(part, kind) for part, kind in zip(toy_scan(0), (sitk.sitkFloat32, sitk.sitkUInt8), strict=True)
    )
    holed = sitk.GetArrayFromImage(scan)
    holed[0, 0, :2] = np.nan
    (tmp_path / "in").mkdir()
    image = sitk.GetImageFromArray(holed)
    image.CopyInformation(scan)
    sitk.WriteImage(image, str(tmp_path / "in" / "A.nrrd"))
    sitk.WriteImage(mask[:, :, 1:11], str(tmp_path / "in" / "A_mask.nii"))
    report = CaseLibrary(tmp_path / "library").import_folder(tmp_path / "in")
    assert report.failed == {} and report.warnings[:2] == (
        f"A: 2 of {holed.size} voxels are not numbers (NaN) and were read as 0.",
        "A: The mask has 10 slices and the scan 12: there is no gland on the others.",
    )
    assert voxels(report.stored[0].case.image_path)[0, 0, 0] == 0


def test_links_that_lead_nowhere_pipes_and_linked_folders_are_named_and_the_rest_is_imported(
    tmp_path,
):
    folder = tmp_path / "in"
    for name in ("A", "B"):
        folder.mkdir(exist_ok=True)
        sitk.WriteImage(toy_scan(ord(name))[0], str(folder / f"{name}.nrrd"))
    sitk.WriteImage(toy_scan(ord("B"))[1], str(folder / "B_mask.nrrd"))
    (folder / "A_mask.nrrd").symlink_to("gone.nrrd")
    (folder / "C.nrrd").symlink_to("C.nrrd")
    (folder / "again").symlink_to(".")
    for name in ("D.nrrd", "E.nrrd"):
        os.mkfifo(folder / name)
    sitk.WriteImage(toy_scan(3)[1], str(folder / "E_mask.nrrd"))
    report = CaseLibrary(tmp_path / "library").import_folder(folder)
    assert [stored.case.source_name for stored in report.stored] == ["B"]
    assert "'A_mask.nrrd' is a link to a file that is not there." in report.failed.pop("A")
    assert "'E.nrrd' is no file but a pipe or a device." in report.failed.pop("E")
    assert report.failed == {
        "C": "It is a link to a file that is not there.",
        "D": "It is no file but a pipe or a device.",
    }
    assert report.warnings[0] == "again: It is a link to a folder, which is not followed."


def test_a_pair_whose_name_is_no_text_is_imported_under_one_that_can_be_written(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for part, ending in zip(toy_scan(0), ("", "_mask"), strict=True):
        sitk.WriteImage(part, str(folder / "one.nrrd"))
        (folder / "one.nrrd").rename(os.fsdecode(os.fsencode(folder) + b"/Pr\xfcfung" + ending.encode() + b".nrrd"))
    report = CaseLibrary(tmp_path / "library").import_folder(folder)
    assert report.failed == {} and report.stored[0].case.source_name == "Pr\\xfcfung"


def test_a_scan_without_mask_in_a_data_set_is_named_and_the_rest_is_imported(tmp_path):
    folder = write_images_and_labels(tmp_path / "in", ["X-0080", "X-0081"])
    (folder / "labels" / "X-0080.nii.gz").rename(folder / "labels" / "X-080.nii.gz")
    report = CaseLibrary(tmp_path / "library").import_folder(folder)
    assert [stored.case.source_name for stored in report.stored] == ["X-0081"]
    assert report.failed == {"X-0080": "It has no mask in 'labels', where X-080.nii.gz has no scan."}


def test_a_folder_without_cases_is_refused_and_a_canceled_import_keeps_what_is_stored(tmp_path):
    library = CaseLibrary(tmp_path / "library")
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DatasetError):
            library.import_folder(folder)

    def cancel(number, *_):
        if number == 2:
            raise Canceled

    with pytest.raises(Canceled):
        library.import_folder(write_images_and_labels(tmp_path / "source", "abc"), progress=cancel)
    assert [case.source_name for case in library.cases()] == ["a", "b"]


# ---- kills


class Killed(BaseException):
    pass


@contextmanager
def killed_before_change(number: int, monkeypatch):
    """From its numbered change on, the process can change nothing on the disk; what it was writing is half there."""
    changes = count(1)

    def dying(real, is_change=lambda *_, **__: True, half=None):
        def call(*words, **named):
            if is_change(*words, **named) and next(changes) >= number:
                if half is not None:
                    half(*words)
                raise Killed
            return real(*words, **named)

        return call

    def is_writing(_, mode="r", *__, **___):
        return isinstance(mode, str) and any(letter in mode for letter in "wxa+")

    def half_written(_, path, *__):
        with real_open(path, "wb") as file:
            file.write(b"ObjectType = Image\nNDims = 3\n")

    real_open = open
    with monkeypatch.context() as patch:
        for name in ("replace", "rename", "unlink", "remove", "rmdir", "mkdir"):
            patch.setattr(os, name, dying(getattr(os, name)))
        patch.setattr(os, "open", dying(os.open, lambda _, flags, *__, **___: flags & os.O_CREAT))
        patch.setattr("builtins.open", dying(open, is_writing))
        patch.setattr(io, "open", dying(io.open, is_writing))
        patch.setattr(shutil, "copyfile", dying(shutil.copyfile))
        patch.setattr(shutil, "rmtree", dying(shutil.rmtree))
        patch.setattr(sitk, "WriteImage", dying(sitk.WriteImage, half=half_written))
        with suppress(Killed):
            yield
    assert next(changes) > 1


def add_new(library):
    library.add(*toy_scan(7), prediction=toy_scan(7)[1])


def revise(library):
    case = library.cases()[0]
    store_again(library, case.id, other_mask(read_mask(case.mask_path), 5), prediction=read_mask(case.mask_path))


def undo_revision(library):
    library.undo(store_again(library, library.cases()[0].id, toy_scan(0)[1]))


def delete(library):
    library.delete(library.cases()[0].id)


def restore(library):
    library.restore(library.trashed()[0])


def empty_trash(library):
    library.empty_trash()


ACTIONS = {action.__name__: action for action in (add_new, revise, delete, restore, undo_revision, empty_trash)}


@pytest.mark.parametrize("action", ACTIONS)
def test_a_kill_before_any_change_on_the_disk_leaves_the_case_as_it_was_or_as_it_should_be(
    action, tmp_path, monkeypatch
):
    library = filled_library(tmp_path / "before", 2)
    library.delete(library.cases()[1].id)
    before = state_of(library)
    shutil.copytree(tmp_path / "before", tmp_path / "after")
    ACTIONS[action](CaseLibrary(tmp_path / "after"))
    allowed = [before, assert_whole(tmp_path / "after")]
    if action == "undo_revision":
        allowed.append(before | {library.cases()[0].id: ("cases", 1, 2)})
    seen = []
    for number in count(1):
        folder = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "before", folder)
        finished = False
        with killed_before_change(number, monkeypatch):
            ACTIONS[action](CaseLibrary(folder))
            finished = True
        if number % 3 == 0 and action != "empty_trash":  # a writer comes next instead of a reader
            CaseLibrary(folder).empty_trash()
            state = {name: value for name, value in assert_whole(folder).items() if value[0] == "cases"}
            wanted = [{name: value for name, value in one.items() if value[0] == "cases"} for one in allowed]
            assert state in wanted, number
        else:
            state = assert_whole(folder)
            assert state in allowed, number
            seen.append(allowed.index(state))
        shutil.rmtree(folder)
        if finished:
            break
    assert number > 4 and 0 in seen and allowed[seen[-1]] == allowed[1]


def test_a_kill_during_the_very_first_write_leaves_a_folder_that_works(tmp_path, monkeypatch):
    for number in count(1):
        library, finished = CaseLibrary(tmp_path / str(number)), False
        with killed_before_change(number, monkeypatch):
            library.add(*toy_scan(0))
            finished = True
        if finished:
            break
        library.add(*toy_scan(1))
        assert len(assert_whole(library.folder)) in (1, 2)
        shutil.rmtree(library.folder)
    assert number > 10


def replayed(lines, state):
    """What is certain after the lines of ``change_for_ever``, and the change that was under way, if any."""
    certain, begun = dict(state), None
    for line in lines:
        word, action, case_id = line.split()
        begun = (action, case_id)
        if word == "begin":
            continue
        begun, place = None, certain.get(case_id, ("", 0))
        if action == "add":
            certain[case_id] = ("cases", 1)
        elif action == "revise":
            certain[case_id] = (*place, "new")
        elif action == "delete":
            certain[case_id] = ("trash", *place[1:])
        elif action == "restore":
            certain[case_id] = ("cases", *place[1:])
        else:
            certain[case_id] = place[:-1] if len(place) > 2 else ("trash", *place[1:])
    return certain, begun


def test_processes_that_are_killed_at_random_moments_lose_nothing(tmp_path):
    folder, draw, known = tmp_path / "library", random.Random(11), {}
    filled_library(folder, 3)
    state = assert_whole(folder)
    for kill in range(KILLS):
        process = start_process("change_for_ever", folder, seed=kill, first=100 * (kill + 1))
        first = wait_for_line(process, "end")
        time.sleep(draw.uniform(0, 0.4))
        process.kill()
        lines = [first, *process.stdout.read().splitlines()]
        process.communicate()
        certain, begun = replayed(lines, state)
        state = assert_whole(folder)
        lost = {name for name in certain if name not in state}
        changed = {name for name in certain if name in state and len(state[name]) != len(certain[name])}
        moved = {name for name in certain if name in state and state[name][0] != certain[name][0]}
        new = set(state) - set(certain)
        assert not lost and len(new) <= (begun is not None and begun[0] == "add"), (lines[-2:], lost, new)
        assert changed | moved <= {begun[1] if begun else ""}, (lines[-2:], changed, moved)
        for case in CaseLibrary(folder).cases():
            assert known.setdefault(case.patient, case.split) == case.split
    assert len(state) > KILLS / 2


# ---- several processes


def test_two_computers_write_and_a_reader_reads_and_nothing_is_lost(tmp_path):
    """They share only the folder: neither can see whether the other's process lives."""
    folder = tmp_path / "Gemeinsame Fälle"
    writers = [
        start_process("add_some", folder, first=first, count=6, host=host)
        for first, host in ((0, "reading-room"), (100, "office"))
    ]
    library, looks = CaseLibrary(folder), 0
    while any(writer.poll() is None for writer in writers):
        for case in library.cases():
            assert read_image(case.image_path).GetSize() == read_mask(case.mask_path).GetSize()
        assert library.problems() == []
        looks += 1
    stored = [line.split()[2] for writer in writers for line in finish(writer)]
    assert len(stored) == 12 and looks > 1
    assert set(assert_whole(folder)) == set(stored)
    assert sorted(case.number for case in library.cases()) == list(range(1, 13))


def test_who_holds_the_library_is_named_and_readers_do_not_care(tmp_path, monkeypatch):
    monkeypatch.setattr(case_files, "WAIT_SECONDS", 0.1)
    library = filled_library(tmp_path, 1)
    process = start_process("hold", tmp_path)
    try:
        wait_for_line(process, "held")
        for change in (lambda: library.add(*toy_scan(1)), lambda: library.delete(library.cases()[0].id)):
            with pytest.raises(FolderInUseError, match=f"process {process.pid} "):
                change()
        assert len(library.cases()) == 1
    finally:
        process.kill()
        process.communicate()
    assert library.add(*toy_scan(1)).is_new


# ---- a disk that fails


@pytest.mark.skipif(os.name != "posix", reason="limits of a process as on POSIX")
@pytest.mark.parametrize("most_bytes", [0, 200, 1000, 30000])
def test_a_full_disk_is_said_and_leaves_no_half_case(tmp_path, most_bytes):
    filled_library(tmp_path, 2)
    lines = finish(start_process("add_with_little_disk", tmp_path, most_bytes=most_bytes))
    assert len(lines) == 1 and lines[0].startswith("refused") and str(tmp_path) not in lines[0]
    assert len(assert_whole(tmp_path)) == 2
    assert CaseLibrary(tmp_path).add(*toy_scan(5)).is_new


@contextmanager
def open_to_all(folder: Path):
    """The folders above let other accounts through for a while."""
    parents = [parent for parent in folder.parents if parent.stat().st_mode & 0o005 != 0o005]
    modes = [parent.stat().st_mode for parent in parents]
    try:
        for parent in parents:
            parent.chmod(0o755)
        yield
    finally:
        for parent, mode in zip(parents, modes, strict=True):
            parent.chmod(mode)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can work as two accounts")
def test_two_accounts_share_a_library_whose_folder_both_may_write(tmp_path):
    folder, group = tmp_path / "shared", 4711
    folder.mkdir()
    os.chown(folder, -1, group)
    folder.chmod(0o2775)
    before = os.umask(0o002)
    try:
        filled_library(folder, 2)
    finally:
        os.umask(before)
    salt = folder / "salt"
    assert salt.stat().st_mode & 0o777 == 0o640 and salt.stat().st_gid == group
    with open_to_all(folder):
        (line,) = finish(start_process("add_as_another_account", folder, group=group, seed=7))
        assert line.startswith("added") and len(assert_whole(folder)) == 3
        salt.chmod(0o600)  # a library of an earlier version
        (line,) = finish(start_process("add_as_another_account", folder, group=group, seed=8))
        assert line.startswith("refused You may not read 'salt'") and line.endswith(f"run: chmod g+r {salt}")
        os.chown(salt, -1, 0)
        (line,) = finish(start_process("add_as_another_account", folder, group=group, seed=8))
        assert line.endswith(f"run: chgrp {group} {salt} && chmod g+r {salt}")


@pytest.mark.skipif(os.name != "posix", reason="permissions as on POSIX")
def test_a_library_that_may_only_be_read_is_read(tmp_path):
    folder = tmp_path / "library"
    filled_library(folder, 2)
    for path in [*folder.rglob("*"), folder]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    with open_to_all(folder):
        lines = finish(start_process("add_without_permission", folder))
    folder.chmod(0o755)
    assert lines[0] == "read 2" and lines[1].startswith("refused") and "Permission denied" in lines[1]


def test_a_folder_that_cannot_be_made_is_an_error_with_a_next_step(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError) as caught:
        CaseLibrary(tmp_path / "file" / "Cases").add(*toy_scan())
    assert caught.value.next_step
