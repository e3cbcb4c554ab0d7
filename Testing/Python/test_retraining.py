"""Retraining from the frozen job to the compared candidate: what it trains on, never touches, and records."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import SimpleITK as sitk
from learning_parts import PACKAGE_FOLDER, write_images_and_labels
from library_parts import store_again
from retraining_parts import (
    PARENT,
    QUICK,
    make_library,
    make_registry,
    numbered_scan,
    small_sample,
    tuned_versions,
    write_json,
)

from DDSPSegmentationLib.engine.bundled_scan import bundled_scan_file
from DDSPSegmentationLib.engine.errors import Canceled, DatasetError, ModelError
from DDSPSegmentationLib.engine.images import read_image, read_mask
from DDSPSegmentationLib.engine.model import BUILTIN_MODEL, describe_model, load_networks, save_model
from DDSPSegmentationLib.engine.scan_identity import NOTHING_SEEN, ScanIdentity
from DDSPSegmentationLib.learning import comparison
from DDSPSegmentationLib.learning.ensemble import LEFT_OUT
from DDSPSegmentationLib.library.case_library import CaseLibrary
from DDSPSegmentationLib.library.case_records import HOLD_OUT, TRAINING
from DDSPSegmentationLib.library.folder_lock import FolderInUseError
from DDSPSegmentationLib.library.model_registry import ModelRegistry
from DDSPSegmentationLib.library.model_version import LEDGER_FILE
from DDSPSegmentationLib.library.patients import read_patients
from DDSPSegmentationLib.service import retraining_run
from DDSPSegmentationLib.service.hold_out_uses import USES_FILE, count_use
from DDSPSegmentationLib.service.retraining import RETRAINING_LOCK, make_job, plan_retraining, retrain
from DDSPSegmentationLib.service.retraining_job import (
    JOB_FILE,
    OTHER_SCANNERS,
    REPLAY_FOLDER,
    RetrainingJob,
    measuring_patients,
    split_replay,
)
from DDSPSegmentationLib.service.retraining_run import CANDIDATE_FILE, NothingGained

HOLD_OUT_PATIENT, CHANGED = "of a patient who is kept for checking; nothing was trained", "was deleted or changed"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A library of four training and two hold-out cases, and a registry, as they are before any test."""
    folder = tmp_path_factory.mktemp("stored")
    make_library(folder / "cases")
    make_registry(folder / "models")
    return folder


@pytest.fixture
def folders(stored, tmp_path, one_thread, monkeypatch):
    """Copies of them: the cases folder and the models folder."""
    for name in ("cases", "models"):
        shutil.copytree(stored / name, tmp_path / name)
    sample = small_sample(tmp_path)
    monkeypatch.setattr(comparison, "sample_scan", lambda: sample)
    return tmp_path / "cases", tmp_path / "models"


def quick_retrain(run_folder, **options):
    return retrain(run_folder, settings=QUICK, **options)


def ids(library: CaseLibrary, split: str) -> list[str]:
    return [case.id for case in library.cases() if case.split == split]


def replayed(folders, *names):
    """What cases of a replay folder are called in a version: a salted digest of the name, which may be a patient's."""
    memory = read_patients(folders[0] / "patients.json", folders[0] / "salt")
    return {f"replay-{memory.pseudonym('replay', name)[:12]}" for name in names}


def make_replay(folder, first=20, count=6):
    """A folder of old cases r20, r21, ..., each of a patient of its own."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for number in range(first, first + count):
        for part, image in zip(("images", "labels"), numbered_scan(number), strict=True):
            sitk.WriteImage(image, str(folder / part / f"r{number}.nrrd"))
    return folder


# ---- from the job to the candidate


@pytest.fixture(scope="module")
def finished(stored, tmp_path_factory):
    """A retraining that nobody disturbed: folders, the version, all that was told."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    place = tmp_path_factory.mktemp("finished")
    for name in ("cases", "models"):
        shutil.copytree(stored / name, place / name)
    sample = small_sample(place)
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "sample_scan", lambda: sample)
        run_folder = make_job(place / "cases", place / "models")
        version = retrain(run_folder, told.append, settings=QUICK)
    torch.set_num_threads(threads)
    return place, run_folder, version, told


def test_a_candidate_is_published_and_compared_but_not_activated(finished):
    place, run_folder, version, _ = finished
    registry = ModelRegistry(place / "models")
    assert [found.name for found in tuned_versions(registry)] == [version.name]
    sha256 = version.description.sha256
    assert version.name.startswith("tuned-20") and version.name.endswith(f"-{sha256[:4]}")
    assert version.problem == "" and version.comparison["verdict"] and version.comparison["new_version"] == version.name
    assert registry.active().name == PARENT
    assert (version.folder / "comparison.html").is_file()
    assert not run_folder.exists()


def test_the_new_version_names_its_parent_and_every_case_it_has_seen(finished):
    place, _, version, _ = finished
    training = version.description.training
    assert training["parent"] == PARENT
    assert training["cases"] == ids(CaseLibrary(place / "cases"), TRAINING)
    assert [[scan.name for scan in group.scans] for group in version.description.seen.groups] == [
        ["old-1"],
        training["cases"],
    ]
    asked = [read_image(case.image_path) for case in CaseLibrary(place / "cases").cases()] + [numbered_scan(901)[0]]
    answers = [version.description.was_trained_on(ScanIdentity(image)) for image in asked]
    assert answers == [*(case.split == TRAINING for case in CaseLibrary(place / "cases").cases()), True]


def test_the_ledger_names_the_revisions_and_when_the_hold_out_was_first_read(finished):
    place, _, version, _ = finished
    library, ledger = CaseLibrary(place / "cases"), version.ledger
    for part, split in (("training", TRAINING), ("hold_out", HOLD_OUT)):
        assert [entry["case"] for entry in ledger[part]] == ids(library, split)
        for entry in ledger[part]:
            case = library.case(entry["case"])
            assert entry["revision"] == case.current.number and entry["mask_sha256"] == case.current.mask_sha256
            assert entry["patient"] == case.patient
    assert all(entry["first_read"] for entry in ledger["hold_out"])
    assert ledger["weights_sha256"] == version.description.sha256
    steering = {name for choice in ledger["choices"] for name in choice["steered_by"]}
    assert steering == set(ids(library, TRAINING))


def test_the_comparison_is_on_the_hold_out_and_against_the_parent(finished):
    place, _, version, _ = finished
    compared = version.comparison
    assert compared["old_version"] == PARENT
    assert [case["name"] for case in compared["hold_out"]] == ids(CaseLibrary(place / "cases"), HOLD_OUT)
    assert compared["cross_validation"]["patients"] == 5


def test_progress_rises_to_the_end_through_all_stages(finished):
    told = finished[3]
    fractions = [progress.fraction for progress in told]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
    stages = list(dict.fromkeys(progress.stage for progress in told))
    assert stages[0] == "Checking the cases" and stages[-1] == "Done"
    assert any("Comparing" in stage for stage in stages) and any("Cross-validation" in stage for stage in stages)
    assert any(progress.loss for progress in told) and any(progress.dice is not None for progress in told)
    assert told[-1].seconds_left == 0 and all(progress.seconds_left >= 0 for progress in told)


# ---- the hold-out


def test_no_hold_out_file_is_there_while_it_trains(folders, tmp_path, monkeypatch):
    run_folder = make_job(*folders)
    away = tmp_path / "away"
    away.mkdir()
    hidden = [folders[0] / name for name in ("imagesTs", "labelsTs")]
    hidden += [folders[0] / "cases" / name for name in ids(CaseLibrary(folders[0]), HOLD_OUT)]
    for path in hidden:
        shutil.move(path, away / path.name)
    compare = retraining_run.compare_versions

    def candidate():
        return json.loads((run_folder / CANDIDATE_FILE).read_text())

    def compare_with_them(old, new, hold_out, *rest, **options):
        ledger = candidate()["ledger"]
        assert all(entry["first_read"] for entry in ledger["hold_out"])
        assert ledger["weights_sha256"] == describe_model(new).sha256
        assert tuned_versions(ModelRegistry(folders[1])) == []  # no version without its comparison
        return compare(old, new, hold_out, *rest, **options)

    fix = retraining_run.RetrainingRun._fix_candidate

    def fix_and_bring_back(run, *trained):
        fixed = fix(run, *trained)
        assert [entry["first_read"] for entry in candidate()["ledger"]["hold_out"]] == [None, None]
        for path in hidden:
            shutil.move(away / path.name, path)
        return fixed

    monkeypatch.setattr(retraining_run, "compare_versions", compare_with_them)
    monkeypatch.setattr(retraining_run.RetrainingRun, "_fix_candidate", fix_and_bring_back)
    assert len(quick_retrain(run_folder).comparison["hold_out"]) == 2


def test_a_training_case_of_a_hold_out_patient_is_refused(folders):
    run_folder = make_job(*folders)
    job = RetrainingJob.read(run_folder)
    cases = [asdict(case) for case in job.cases]
    held_out = next(case for case in cases if case["split"] == HOLD_OUT)
    next(case for case in cases if case["split"] == TRAINING)["patient"] = held_out["patient"]
    write_json(run_folder / JOB_FILE, cases=cases)
    with pytest.raises(DatasetError, match=HOLD_OUT_PATIENT):
        quick_retrain(run_folder)
    assert tuned_versions(ModelRegistry(folders[1])) == []


def test_a_training_case_of_a_patient_whose_hold_out_cases_were_all_deleted_is_refused(folders):
    library = CaseLibrary(folders[0])
    held_out = library.case(ids(library, HOLD_OUT)[0])
    library.delete(held_out.id)
    library.empty_trash()
    run_folder = make_job(*folders)
    cases = [asdict(case) for case in RetrainingJob.read(run_folder).cases]
    cases[-1 if cases[-1]["split"] == TRAINING else 0]["patient"] = held_out.patient
    write_json(run_folder / JOB_FILE, cases=cases)
    with pytest.raises(DatasetError, match=HOLD_OUT_PATIENT):
        quick_retrain(run_folder)


def test_a_hold_out_case_that_was_declared_a_training_case_is_refused(folders):
    run_folder = make_job(*folders)
    cases = [asdict(case) for case in RetrainingJob.read(run_folder).cases]
    for case in cases:
        case["split"] = TRAINING
    write_json(run_folder / JOB_FILE, cases=cases)
    with pytest.raises(DatasetError, match=HOLD_OUT_PATIENT):
        quick_retrain(run_folder)


def test_a_hold_out_case_that_was_deleted_meanwhile_or_seen_by_the_parent_is_not_compared(folders, tmp_path):
    library = CaseLibrary(folders[0])
    first, second = ids(library, HOLD_OUT)
    scan = ScanIdentity(read_image(library.case(second).image_path))
    registry = make_registry(tmp_path / "trained elsewhere", seen=NOTHING_SEEN.with_training([("Case07", scan)]))
    run_folder = make_job(folders[0], registry.folder)
    library.delete(first)
    version = quick_retrain(run_folder)
    assert list(version.comparison["hold_out"]) == [] and list(version.comparison["left_out"]) == [second]
    assert [entry["first_read"] is None for entry in version.ledger["hold_out"]] == [True, False]


def test_masks_that_were_corrected_from_the_parent_are_told_to_the_comparison(folders):
    library = CaseLibrary(folders[0])
    case = library.case(ids(library, HOLD_OUT)[0])
    mask = sitk.ReadImage(str(case.mask_path))
    store_again(library, case.id, mask, prediction=mask, model_version=PARENT, model_sha256="0" * 64)
    version = quick_retrain(make_job(*folders))
    assert version.comparison["old_masks"] == [case.id]


# ---- the frozen job


def test_a_revision_that_is_stored_after_the_start_is_not_trained_on(folders):
    run_folder = make_job(*folders)
    library = CaseLibrary(folders[0])
    case = library.case(ids(library, TRAINING)[0])
    mask = sitk.BinaryDilate(sitk.ReadImage(str(case.mask_path)), (1, 1, 0))
    store_again(library, case.id, mask)
    version = quick_retrain(run_folder)
    entry = next(entry for entry in version.ledger["training"] if entry["case"] == case.id)
    assert (entry["revision"], entry["mask_sha256"]) == (1, case.current.mask_sha256)


def test_a_training_case_that_is_gone_is_named(folders):
    run_folder = make_job(*folders)
    library = CaseLibrary(folders[0])
    case = ids(library, TRAINING)[1]
    library.delete(case)
    with pytest.raises(DatasetError, match=f"'{case}' {CHANGED}"):
        quick_retrain(run_folder)


def test_a_mask_that_was_changed_in_its_place_is_named(folders):
    run_folder = make_job(*folders)
    library = CaseLibrary(folders[0])
    case = library.case(ids(library, TRAINING)[1])
    sitk.WriteImage(sitk.ReadImage(str(case.mask_path)) * 0, str(case.mask_path))
    with pytest.raises(DatasetError, match=f"'{case.id}' {CHANGED}"):
        quick_retrain(run_folder)


@pytest.mark.parametrize(("training", "missing"), [(0, "5 more cases"), (4, "1 more case ")])
def test_too_few_training_cases_say_how_many_are_missing(folders, training, missing):
    library = CaseLibrary(folders[0])
    for case in ids(library, TRAINING)[training:]:
        library.delete(case)
    with pytest.raises(DatasetError, match=missing):
        make_job(*folders)
    plan = plan_retraining(*folders)
    assert plan.training == training and missing in plan.obstacles[0]


def test_cases_of_a_single_patient_are_not_retrained_on_since_nobody_can_be_left_out(folders):
    library = CaseLibrary(folders[0])
    first, *others = ids(library, TRAINING)
    for case in others:
        library.delete(case)
    for number in range(30, 34):
        library.add(*numbered_scan(number), same_patient_as=first)
    with pytest.raises(DatasetError, match="All 5 training cases are of one patient"):
        make_job(*folders)
    assert "of one patient" in plan_retraining(*folders).obstacles[0]


def test_training_that_helps_nobody_ends_without_a_version_and_says_so(folders):
    run_folder = make_job(*folders)
    before = [version.name for version in ModelRegistry(folders[1]).versions()]
    with pytest.raises(NothingGained, match="does not help with these cases yet") as ended:
        retrain(run_folder, settings=replace(QUICK, learning_rate=1e-9))
    assert f"'{PARENT}' stays" in ended.value.next_step
    assert [version.name for version in ModelRegistry(folders[1]).versions()] == before
    assert not run_folder.exists()


# ---- how often a hold-out was used


PATIENTS = ["p1", "p2", "p3", "p4", "p5"]


def test_a_comparison_on_a_patient_who_was_used_before_is_counted(tmp_path):
    library = CaseLibrary(tmp_path)
    assert count_use(library, "run 1", PATIENTS) == 1
    assert count_use(library, "run 2", ["p5", "q1", "q2", "q3", "q4"]) == 2
    assert count_use(library, "run 3", ["r1", "r2", "r3", "r4", "r5"]) == 1
    assert count_use(library, "run 4", PATIENTS) == 3


def test_a_run_that_goes_on_after_a_kill_is_counted_once(tmp_path):
    library = CaseLibrary(tmp_path)
    assert [count_use(library, run, PATIENTS) for run in ("run 1", "run 2", "run 2", "run 1")] == [1, 2, 2, 2]


def test_a_look_at_too_few_patients_to_recommend_anything_counts_too(tmp_path):
    library = CaseLibrary(tmp_path)
    assert [count_use(library, f"run {n}", PATIENTS[:4]) for n in range(3)] == [1, 2, 3]
    assert count_use(library, "run 4", PATIENTS) == 4


def test_who_turned_out_to_be_one_patient_since_was_used_as_one(tmp_path):
    library = CaseLibrary(tmp_path)
    assert count_use(library, "run 1", ["p1"]) == count_use(library, "run 2", ["q1"]) == 1
    memory = read_patients(tmp_path / "patients.json", tmp_path / "salt")
    memory.aliases["p1"] = "q1"
    memory.save(tmp_path / "patients.json")
    assert count_use(library, "run 3", ["q1"]) == 3


def test_a_comparison_on_nobody_is_none_and_makes_no_library(tmp_path):
    assert count_use(CaseLibrary(tmp_path / "none"), "run 1", []) == 1 and not (tmp_path / "none").exists()


@pytest.mark.parametrize("damage", ["{", "[]", '{"run 0": 3}'])
def test_a_count_that_cannot_be_read_is_never_taken_for_none(tmp_path, damage):
    (tmp_path / USES_FILE).write_text(damage)
    with pytest.raises(DatasetError, match=USES_FILE):
        count_use(CaseLibrary(tmp_path), "run 1", PATIENTS)


def test_the_comparison_is_told_how_often_its_hold_out_was_used_for_whichever_models_folder(folders, tmp_path):
    another = make_registry(tmp_path / "other models").folder
    counts = [quick_retrain(make_job(folders[0], models)).comparison["comparisons"] for models in (folders[1], another)]
    assert counts == [1, 2]


def test_hold_out_cases_that_turn_out_to_be_of_one_patient_count_as_one_also_in_a_run_made_before(folders):
    run_folder, library = make_job(*folders), CaseLibrary(folders[0])
    first, second = (library.case(case_id) for case_id in ids(library, HOLD_OUT))
    library.add(read_image(second.image_path), read_mask(second.mask_path), same_patient_as=first.id)
    compared = quick_retrain(run_folder).comparison
    assert len(compared["hold_out"]) == 2 and compared["hold_out_summary"]["patients"] == 1


def test_a_held_out_patient_of_whom_a_version_saw_another_scan_is_in_no_plan_and_no_job(folders):
    library, before, memory = CaseLibrary(folders[0]), plan_retraining(*folders), folders[0] / "patients.json"
    held = library.case(ids(library, HOLD_OUT)[0])
    memory.write_text(json.dumps(json.loads(memory.read_text()) | {"seen": [held.patient]}))
    plan = plan_retraining(*folders)
    assert plan.hold_out == before.hold_out - 1 and "1 case kept for checking will not be compared" in " ".join(
        plan.notes
    )
    assert held.id not in {case.id for case in RetrainingJob.read(make_job(*folders)).cases}


def test_the_scan_that_comes_with_the_product_is_neither_counted_nor_in_a_job(folders, sample_scan):
    before, image = plan_retraining(*folders), read_image(sample_scan)
    mask = sitk.Image(image.GetSize(), sitk.sitkUInt8)
    mask.CopyInformation(image)
    mask[160:224, 160:224, 6:13] = 1
    bundled = CaseLibrary(folders[0]).add(image, mask).case
    assert plan_retraining(*folders) == before
    assert bundled.id not in {case.id for case in RetrainingJob.read(make_job(*folders)).cases}


@pytest.mark.parametrize(("members", "replay"), [(1, 0), (5, 0), (1, 3)])
def test_a_run_begins_with_the_time_that_its_plan_announced(folders, tmp_path, members, replay):
    if members > 1:
        registry = ModelRegistry(folders[1])
        networks, parent = load_networks(registry.checked_folder(PARENT))
        left_out = [{"left_out": list(folds)} for folds in LEFT_OUT]
        save_model(tmp_path / "made", networks * members, parent.preprocessing, members=left_out, seen=parent.seen)
        registry.publish(tmp_path / "made", "five", {})
        registry.activate("five")
    replay_folder = str(write_images_and_labels(tmp_path / "replay", "abc")) if replay else ""
    announced = plan_retraining(*folders, replay_folder).seconds

    class EnoughSeen(Exception):
        pass

    def look(told):
        assert told.seconds_left == pytest.approx(announced)
        raise EnoughSeen

    with pytest.raises(EnoughSeen):
        retrain(make_job(*folders, replay_folder), look)


def test_a_library_that_does_not_exist_yet_has_no_cases(folders, tmp_path):
    plan = plan_retraining(tmp_path / "none", tmp_path / "no models")
    assert plan.training == plan.hold_out == 0 and plan.parent == BUILTIN_MODEL and plan.obstacles
    assert not (tmp_path / "none").exists() and not (tmp_path / "no models").exists()


def test_the_plan_says_what_it_will_do_without_loading_torch(folders):
    code = """
import sys
sys.modules["torch"] = None
from DDSPSegmentationLib.service.retraining import plan_retraining
from DDSPSegmentationLib.service import retraining_process
plan = plan_retraining(sys.argv[1], sys.argv[2])
print(plan.parent, plan.training, plan.training_patients, plan.hold_out, plan.hold_out_patients, plan.obstacles)
assert plan.seconds > 0 and len(plan.notes) == 2
"""
    run = subprocess.run(
        [sys.executable, "-c", code, *map(str, folders)],
        env={"PYTHONPATH": str(PACKAGE_FOLDER)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout.strip() == f"{PARENT} 5 5 2 2 ()", run.stderr


def test_a_second_retraining_names_the_process_that_holds_the_models_folder(folders):
    run_folder = make_job(*folders)
    runs = ModelRegistry(folders[1]).runs_folder
    code = "from DDSPSegmentationLib.library.folder_lock import FolderLock\n"
    code += f"with FolderLock({str(runs)!r}, {RETRAINING_LOCK!r}): print('held', flush=True); input()"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE_FOLDER)}
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    try:
        assert other.stdout.readline() == b"held\n"
        for start in (lambda: quick_retrain(run_folder), lambda: make_job(*folders)):
            with pytest.raises(FolderInUseError, match=f"process {other.pid}"):
                start()
    finally:
        other.communicate(b"\n")


# ---- a run that was interrupted


def test_a_run_that_ended_while_comparing_goes_on_with_the_comparison_and_published_nothing(folders, monkeypatch):
    run_folder = make_job(*folders)

    def broken(*_, **__):
        raise Canceled()

    with monkeypatch.context() as patch:
        patch.setattr(retraining_run, "compare_versions", broken)
        with pytest.raises(Canceled):
            quick_retrain(run_folder)
    assert tuned_versions(ModelRegistry(folders[1])) == []
    candidate = json.loads((run_folder / CANDIDATE_FILE).read_text())
    first_read = [entry["first_read"] for entry in candidate["ledger"]["hold_out"]]
    assert all(first_read)
    shutil.rmtree(run_folder / "training" / "prepared")  # nothing is trained or prepared again
    monkeypatch.setattr(retraining_run.FineTuner, "run", broken)
    version = quick_retrain(run_folder)
    assert version.name == candidate["version"] and version.comparison
    assert [entry["first_read"] for entry in version.ledger["hold_out"]] == first_read
    assert len(tuned_versions(ModelRegistry(folders[1]))) == 1


@pytest.mark.parametrize("moment", ["before publishing", "after publishing"])
def test_a_run_that_ended_around_the_publication_makes_one_version(folders, monkeypatch, moment):
    run_folder = make_job(*folders)

    def broken(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "before publishing":
            patch.setattr(ModelRegistry, "publish", broken)
        else:
            patch.setattr(retraining_run, "_clear", broken)
        with pytest.raises(KeyboardInterrupt):
            quick_retrain(run_folder)
    assert (run_folder / CANDIDATE_FILE).is_file()
    assert len(tuned_versions(ModelRegistry(folders[1]))) == (moment == "after publishing")
    monkeypatch.setattr(retraining_run.FineTuner, "run", broken)
    monkeypatch.setattr(retraining_run, "compare_versions", broken)  # what was compared is not compared again
    version = quick_retrain(run_folder)
    assert [found.name for found in tuned_versions(ModelRegistry(folders[1]))] == [version.name]
    assert version.comparison and not run_folder.exists()


def test_a_version_that_was_published_before_it_was_compared_is_not_taken_for_the_end(folders, monkeypatch):
    """As 0.1.0 did it."""
    run_folder = make_job(*folders)
    publish = ModelRegistry.publish

    def publish_alone(registry, folder, name, files):
        publish(registry, folder, name, {LEDGER_FILE: files[LEDGER_FILE]})
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ModelRegistry, "publish", publish_alone)
        with pytest.raises(KeyboardInterrupt):
            quick_retrain(run_folder)
    with pytest.raises(ModelError, match="published before it was compared"):
        quick_retrain(run_folder)
    assert run_folder.exists()


def test_two_runs_on_the_same_cases_are_two_versions(folders):
    first, second = quick_retrain(make_job(*folders)), quick_retrain(make_job(*folders))
    assert first.name != second.name and first.ledger["run"] != second.ledger["run"]
    if first.description.sha256 == second.description.sha256:  # to the last bit, which is up to the processor
        assert second.name == f"{first.name}{first.description.sha256[4]}"


def test_a_parent_that_was_replaced_meanwhile_is_refused(folders):
    run_folder = make_job(*folders)
    write_json(run_folder / JOB_FILE, parent_sha256="0" * 64)
    with pytest.raises(ModelError, match="not the one this retraining started from"):
        quick_retrain(run_folder)


def test_left_overs_of_runs_that_are_over_are_deleted_by_the_next_one(folders):
    runs = ModelRegistry(folders[1]).runs_folder
    for name in ("run-over", ".discarded-run"):
        (runs / name).mkdir(parents=True)
        (runs / name / "status.json").write_text("{}")
    run_folder = make_job(*folders)
    assert [path.name for path in runs.iterdir() if path.is_dir()] == [run_folder.name]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema_version": 99, "cases": []}'])
def test_a_job_that_cannot_be_read_is_refused(tmp_path, text):
    (tmp_path / JOB_FILE).write_text(text)
    with pytest.raises(DatasetError, match="job.json"):
        RetrainingJob.read(tmp_path)


# ---- rehearsal and forgetting


def test_about_a_third_of_the_patients_measure_and_each_always_does_the_same():
    patients = [f"p{number}" for number in range(300)]
    measuring = measuring_patients(patients)
    assert 70 < len(measuring) < 130
    assert measuring_patients(patients[:150]) == measuring & set(patients[:150])
    assert measuring_patients(["one"]) == set()
    for count in range(2, 40):
        assert 0 < len(measuring_patients(patients[:count])) < count


def test_cases_of_a_replay_folder_rehearse_or_measure_forgetting_but_never_both(folders, tmp_path):
    replay = make_replay(tmp_path / "replay")
    (replay / "index.csv").write_text("case,patient\nr20,A\nr21,A\nr22,\nr23,\nr24,\nr25,\n")
    version = quick_retrain(make_job(*folders, replay))
    rehearsed, measured = set(version.ledger["replay"]), set(version.ledger["forgetting"])
    assert rehearsed and measured and not rehearsed & measured
    assert rehearsed | measured == replayed(folders, *(f"r{number}" for number in range(20, 26)))
    twins = replayed(folders, "r20", "r21")
    assert twins <= rehearsed or twins <= measured
    assert set(version.description.training["replay"]) == rehearsed
    assert version.comparison["forgetting_name"] == REPLAY_FOLDER
    assert {case["name"] for case in version.comparison["forgetting"]} == measured


def test_rehearsed_patients_are_training_patients_for_ever_and_known_to_the_version(folders, tmp_path):
    replay, library = make_replay(tmp_path / "replay"), CaseLibrary(folders[0])
    splits_before = read_patients(folders[0] / "patients.json", folders[0] / "salt").splits
    version = quick_retrain(make_job(*folders, replay))
    scans = {f"r{number}": numbered_scan(number) for number in range(20, 26)}
    rehearsed = [name for name in scans if replayed(folders, name) <= set(version.ledger["replay"])]
    assert 0 < len(rehearsed) < 6
    for name, (image, mask) in scans.items():
        copy = sitk.Cast(image * 3 + 7, sitk.sitkInt16)  # under another name, in other units
        assert version.description.was_trained_on(ScanIdentity(copy)) is (name in rehearsed)
        assert (library.add(copy, mask).case.split == TRAINING) or name not in rehearsed
    splits = read_patients(folders[0] / "patients.json", folders[0] / "salt").splits
    assert splits_before.items() <= splits.items()


def test_who_was_rehearsed_once_never_measures(folders, tmp_path):
    library, replay = CaseLibrary(folders[0]), make_replay(tmp_path / "replay")
    scans = [(ScanIdentity(numbered_scan(number)[0]), "") for number in range(20, 26)]
    assert library.rehearse(scans) == [True] * 6
    run_folder = make_job(*folders, replay)
    found = split_replay(RetrainingJob.read(run_folder), run_folder, library)
    assert {case.name for case in found.rehearse} == replayed(folders, *(f"r{number}" for number in range(20, 26)))
    assert found.measure == () and found.left_out == {}


def test_a_copy_under_another_name_does_not_measure_what_is_rehearsed(folders, tmp_path):
    replay = make_replay(tmp_path / "replay")
    for number in range(20, 26):
        image, mask = numbered_scan(number)
        sitk.WriteImage(sitk.Cast(image * 3 + 7, sitk.sitkInt16), str(replay / "images" / f"x{number}.mha"))
        sitk.WriteImage(mask, str(replay / "labels" / f"x{number}.mha"))
    run_folder = make_job(*folders, replay)
    found = split_replay(RetrainingJob.read(run_folder), run_folder, CaseLibrary(folders[0]))
    for number in range(20, 26):
        pair = replayed(folders, f"r{number}", f"x{number}")
        for part in (found.rehearse, found.measure):
            assert len(pair & {case.name for case in part}) in (0, 2)
        assert len({case.patient for case in (*found.rehearse, *found.measure) if case.name in pair}) == 1


@pytest.mark.parametrize("likeness", ["same content", "other format and intensities"])
def test_a_replay_case_that_the_library_has_neither_rehearses_nor_measures(folders, tmp_path, likeness):
    replay = make_replay(tmp_path / "replay")
    library = CaseLibrary(folders[0])
    twins = []
    for case in library.cases():
        image = sitk.ReadImage(str(case.image_path))
        if likeness != "same content":
            image = sitk.Cast(image * 2 + 5, sitk.sitkInt16)
        name = f"twin{len(twins)}"
        sitk.WriteImage(image, str(replay / "images" / f"{name}.nrrd"))
        shutil.copy(case.mask_path, replay / "labels" / f"{name}.mha")
        twins.append(name)
    run_folder = make_job(*folders, replay)
    found = split_replay(RetrainingJob.read(run_folder), run_folder, library)
    assert set(found.left_out) == replayed(folders, *twins)
    others = replayed(folders, *(f"r{number}" for number in range(20, 26)))
    assert {case.name for case in (*found.rehearse, *found.measure)} == others


def test_another_scan_of_a_patient_whom_the_library_knows_by_name_does_not_rehearse(folders, tmp_path):
    replay = make_replay(tmp_path / "replay")
    (replay / "index.csv").write_text("case,patient\nr20,patient 1\nr21,patient 1\nr22,\nr23,\nr24,\nr25,\n")
    run_folder = make_job(*folders, replay)
    found = split_replay(RetrainingJob.read(run_folder), run_folder, CaseLibrary(folders[0]))
    assert set(found.left_out) == replayed(folders, "r20", "r21")


def test_the_split_of_the_replay_folder_stays_when_cases_come_and_goes_wrong_when_they_go(folders, tmp_path):
    replay = make_replay(tmp_path / "replay")
    run_folder = make_job(*folders, replay)
    job, library = RetrainingJob.read(run_folder), CaseLibrary(folders[0])
    first = split_replay(job, run_folder, library)
    make_replay(tmp_path / "more", first=40, count=2)
    shutil.copytree(tmp_path / "more", replay, dirs_exist_ok=True)
    assert split_replay(job, run_folder, library) == first
    first.rehearse[0].image_path.unlink()
    with pytest.raises(DatasetError, match="no longer in the replay folder"):
        split_replay(job, run_folder, library)


@pytest.mark.parametrize("part", ["image_path", "label_path"])
def test_a_case_of_the_replay_folder_whose_files_were_changed_since_goes_wrong(folders, tmp_path, part):
    replay = make_replay(tmp_path / "replay")
    run_folder = make_job(*folders, replay)
    job, library = RetrainingJob.read(run_folder), CaseLibrary(folders[0])
    found = split_replay(job, run_folder, library)
    held_out = next(case for case in library.cases() if case.split == HOLD_OUT)
    other = read_image(held_out.image_path) if part == "image_path" else read_mask(held_out.mask_path)
    sitk.WriteImage(other, str(getattr(found.rehearse[0], part)))
    with pytest.raises(DatasetError, match="1 cases of the replay folder were changed"):
        split_replay(job, run_folder, library)


def test_the_scan_that_everybody_has_neither_rehearses_nor_measures(folders, tmp_path):
    replay = make_replay(tmp_path / "replay")
    scan = read_image(bundled_scan_file())
    sitk.WriteImage(scan, str(replay / "images" / "zz.nrrd"))
    sitk.WriteImage(sitk.Cast(scan > 0, sitk.sitkUInt8), str(replay / "labels" / "zz.nrrd"))
    run_folder = make_job(*folders, replay)
    found = split_replay(RetrainingJob.read(run_folder), run_folder, CaseLibrary(folders[0]))
    assert set(found.left_out) == replayed(folders, "zz")
    assert list(found.left_out.values()) == ["It is the scan that comes with the extension."]


def test_a_scan_of_the_replay_folder_that_cannot_be_read_is_left_out(folders, tmp_path):
    replay = make_replay(tmp_path / "replay")
    (replay / "images" / "r21.nrrd").write_bytes(b"no scan")
    run_folder = make_job(*folders, replay)
    found = split_replay(RetrainingJob.read(run_folder), run_folder, CaseLibrary(folders[0]))
    assert set(found.left_out) == replayed(folders, "r21") and "r21" not in str(found.left_out)


def test_a_replay_folder_without_cases_stands_in_the_way(folders, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "has no scans with masks" in plan_retraining(*folders, tmp_path / "empty").obstacles[0]
    with pytest.raises(DatasetError, match="has no scans with masks"):
        make_job(*folders, tmp_path / "empty")


def test_hold_out_cases_of_other_scanners_measure_forgetting_without_a_replay_folder(folders):
    run_folder = make_job(*folders)
    cases = [asdict(case) for case in RetrainingJob.read(run_folder).cases]
    for case in cases:
        case["scanner"] = "one"
    other = [case for case in cases if case["split"] == HOLD_OUT][0]
    other["scanner"] = "other"
    write_json(run_folder / JOB_FILE, cases=cases)
    compared = quick_retrain(run_folder).comparison
    assert compared["forgetting_name"] == OTHER_SCANNERS
    assert [case["name"] for case in compared["forgetting"]] == [other["id"]]


def test_a_scanner_that_is_not_known_is_not_taken_for_another_one(folders):
    job = RetrainingJob.read(make_job(*folders))
    assert {case.scanner for case in job.cases} == {""}
    assert job.of_other_scanners(job.hold_out) == []


def test_a_replay_folder_with_one_case_rehearses(folders, tmp_path):
    replay = write_images_and_labels(tmp_path / "replay", ["alone"])
    run_folder = make_job(*folders, replay)
    found = split_replay(RetrainingJob.read(run_folder), run_folder, CaseLibrary(folders[0]))
    assert {case.name for case in found.rehearse} == replayed(folders, "alone") and found.measure == ()


def test_what_is_recorded_holds_no_folder_of_this_computer(finished):
    place, _, version, _ = finished
    for path in version.folder.glob("*.json"):
        assert str(place) not in path.read_text()
        json.loads(path.read_text())
