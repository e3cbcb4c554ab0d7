"""Fine-tuning on a few cases: what steers it, what it keeps, and that it survives being stopped."""

import json
import shutil
from dataclasses import replace

import pytest
import SimpleITK as sitk
import torch
from engine_parts import a_calibration
from learning_parts import taught_network, toy_plan, toy_scan, write_images_and_labels

from DDSPSegmentationLib.engine.errors import Canceled, DatasetError, ModelError
from DDSPSegmentationLib.engine.model import describe_model, load_networks, save_model, write_description
from DDSPSegmentationLib.engine.network import DDSPConvNet
from DDSPSegmentationLib.engine.preprocessing import PreprocessingSettings
from DDSPSegmentationLib.engine.quality import NOT_CALIBRATED
from DDSPSegmentationLib.engine.scan_identity import NOTHING_SEEN, ScanIdentity
from DDSPSegmentationLib.engine.segmenter import Segmenter
from DDSPSegmentationLib.learning import calibration, finetuning
from DDSPSegmentationLib.learning.dataset import Case, read_dataset
from DDSPSegmentationLib.learning.ensemble import LEFT_OUT
from DDSPSegmentationLib.learning.finetuning import STATE_FILE, FineTuner, FineTuningProgress
from DDSPSegmentationLib.learning.finetuning_settings import FineTuningSettings, estimate_seconds
from DDSPSegmentationLib.learning.training import Trainer

QUICK = FineTuningSettings(learning_rate=3e-3, steps_per_case=2, least_steps=6, most_steps=6, folds=3)


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    """A version with a tiny network that knows little yet."""
    folder = tmp_path_factory.mktemp("models") / "parent"
    network = taught_network(folder.parent / "taught")
    preprocessing = PreprocessingSettings(spacing_mm=(2.0, 2.0, 4.0), bias_field="off")
    seen = NOTHING_SEEN.with_training([("old-1", ScanIdentity(toy_scan(50)[0]))])
    facts = {"training": {"cases": ["old-1"]}, "license": "research", "seen": seen}
    facts |= {"calibration": a_calibration().to_dict()}
    save_model(folder, [network], preprocessing.to_dict(), **facts)
    return folder


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Four cases of three patients."""
    folder = write_images_and_labels(tmp_path_factory.mktemp("cases"), ["a1", "a2", "b1", "c1"])
    return [Case(c.name, c.image_path, c.label_path, patient=c.name[0]) for c in read_dataset(folder)]


def tune(parent, cases, folder, settings=QUICK, **options):
    return FineTuner(parent, cases, folder, device="cpu", settings=settings, **options).run()


def stop_after(*pauses):
    """A pause that cancels at these calls of it."""
    calls = 0

    def pause():
        nonlocal calls
        calls += 1
        if calls in pauses:
            raise Canceled()

    return pause


@pytest.fixture(scope="module")
def tuned(parent, cases, tmp_path_factory):
    """A run that nobody disturbed, and its folder."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return tune(parent, cases, folder), folder


def weights_of(folder):
    return load_networks(folder)[0][0].state_dict()


def same(one, other):
    return all(torch.equal(one[key], other[key]) for key in one)


def test_the_new_version_says_where_it_comes_from(parent, cases, tuned):
    described = describe_model(tuned[0].folder)
    assert described.training["parent"] == "parent"
    assert described.training["cases"] == ["a1", "a2", "b1", "c1"]
    seen = [[scan.name for scan in group.scans] for group in described.seen.groups]
    assert seen == [["old-1"], ["a1", "a2", "b1", "c1"]]
    answers = [described.was_trained_on(ScanIdentity(toy_scan(seed)[0])) for seed in (0, 3, 50, 51)]
    assert answers == [True, True, True, False]
    assert described.license == "research"
    assert not same(weights_of(parent), weights_of(tuned[0].folder))


def test_it_has_no_expected_dice_even_where_its_parent_has_one(parent, tuned):
    assert describe_model(parent).calibration and not describe_model(tuned[0].folder).calibration
    result = Segmenter(tuned[0].folder, "cpu").segment(toy_scan()[0])
    assert result.expected_dice is None
    assert result.notices == [NOT_CALIBRATED.format(what=f"version '{result.model_version}'")]


def test_cases_of_a_patient_are_left_out_together(tuned):
    result, folder = tuned
    left_out = [set(json.loads(path.read_text())["dice"]) for path in sorted(folder.glob("left-out-?.json"))]
    assert sorted(map(sorted, left_out)) == [["a1", "a2"], ["b1"], ["c1"]]
    for number, names in enumerate(left_out, 1):
        state = torch.load(folder / f"left-out-{number}" / "checkpoint.pt", weights_only=True)
        assert set(state["cases"]) == {"a1", "a2", "b1", "c1"} - names
    assert result.cross_validation["left_out"] == "one patient"
    assert set(result.cross_validation["per_case"]) == {"a1", "a2", "b1", "c1"}


def test_only_training_cases_steer_a_choice(tuned):
    for choice in tuned[0].ledger["choices"]:
        assert set(choice["steered_by"]) <= {"a1", "a2", "b1", "c1"}
    length = next(choice for choice in tuned[0].ledger["choices"] if choice["choice"] == "steps")
    assert length["steered_by"] == ["a1", "a2", "b1", "c1"]
    assert length["value"] == describe_model(tuned[0].folder).training["steps"] in (2, 4, 6)


def test_the_shortest_length_that_is_about_the_best_is_taken(parent, cases, tmp_path):
    tuner = FineTuner(parent, cases, tmp_path, settings=QUICK)
    rising = {name: [0.5, 0.6, 0.7, 0.8] for name in ("a1", "a2", "b1", "c1")}
    assert tuner._choose_length(rising)[0] == 6
    flat = {name: [0.5, 0.7995, 0.8, 0.8] for name in ("a1", "a2", "b1", "c1")}
    assert tuner._choose_length(flat)[0] == 2
    by_patient = {"a1": [0, 0.9, 0, 0], "a2": [0, 0.9, 0, 0], "b1": [0, 0.1, 0.6, 0], "c1": [0, 0.1, 0.6, 0]}
    assert tuner._choose_length(by_patient)[0] == 4  # two cases of one patient count as one


def test_not_to_train_is_one_of_the_lengths(parent, cases, tmp_path):
    tuner = FineTuner(parent, cases, tmp_path, settings=QUICK)
    falling = {name: [0.8, 0.7, 0.8005, 0.6] for name in ("a1", "a2", "b1", "c1")}
    length, found = tuner._choose_length(falling)
    assert length == found["steps"] == 0 and found["dice_before"] == found["dice_after"] == pytest.approx(0.8)
    assert found["dice_at_stops"] == pytest.approx({"2": 0.7, "4": 0.8005, "6": 0.6})


def test_where_no_training_helps_there_is_no_new_version(parent, cases, tmp_path):
    result = tune(parent, cases, tmp_path, replace(QUICK, learning_rate=1e-9))
    assert result.folder is None and not (tmp_path / "final").exists()
    assert result.cross_validation["dice_after"] == result.cross_validation["dice_before"] > 0
    steps = next(choice for choice in result.ledger["choices"] if choice["choice"] == "steps")
    assert steps["value"] == 0 and steps["steered_by"] == ["a1", "a2", "b1", "c1"]


# ---- the settings reach the training


def one_patient(parent, cases, folder, **settings):
    """The weights that a fixed length of training gives, without cross-validation."""
    return weights_of(tune(parent, cases[:2], folder, replace(QUICK, **settings)).folder)


def distance(one, other):
    return sum(float((one[key] - other[key]).pow(2).sum()) for key in one)


def test_the_new_version_lies_between_the_old_weights_and_the_trained_ones(parent, cases, tmp_path):
    start = weights_of(parent)
    trained, quarter = (one_patient(parent, cases, tmp_path / str(s), new_share=s) for s in (1.0, 0.25))
    assert distance(start, trained) > 0
    assert distance(start, quarter) == pytest.approx(distance(start, trained) / 16, rel=0.05)


def test_the_pull_to_the_old_weights_holds_the_new_version_near_the_old_one(parent, cases, tmp_path):
    start = weights_of(parent)
    free, held = (one_patient(parent, cases, tmp_path / str(a), anchor=a) for a in (0.0, 100.0))
    assert distance(start, held) < 0.7 * distance(start, free)


@pytest.fixture
def optimizer_steps(monkeypatch):
    """Of each run by its folder: learning rate and weight decay of each step that was taken."""
    taken, train_step = {}, Trainer.train_step

    def recorded(trainer):
        loss = train_step(trainer)
        (group,) = trainer.optimizer.param_groups
        taken.setdefault(trainer.folder.name, []).append((group["lr"], group["weight_decay"]))
        return loss

    monkeypatch.setattr(Trainer, "train_step", recorded)
    return taken


def test_the_learning_rate_falls_over_the_longest_run_and_no_weight_decays(parent, cases, tmp_path, optimizer_steps):
    result = tune(parent, cases, tmp_path)
    fall = [1, 1, 1, 3 / 3.6, 2 / 3.6, 1 / 3.6]  # over the last six tenths of six steps
    expected = [(pytest.approx(QUICK.learning_rate * share), 0.0) for share in fall]
    final = optimizer_steps.pop("final")
    assert len(optimizer_steps) == 3 and all(steps == expected for steps in optimizer_steps.values())
    assert final == expected[: result.cross_validation["steps"]]


def test_batch_norm_keeps_its_statistics(parent, tuned):
    before, after = weights_of(parent), weights_of(tuned[0].folder)
    statistics = [key for key in before if "running_" in key]
    assert statistics and all(torch.equal(before[key], after[key]) for key in statistics)


def test_the_old_version_is_not_touched(parent, cases, tmp_path):
    before = (parent / "weights.pt").read_bytes(), (parent / "model.json").read_bytes()
    tune(parent, cases[2:], tmp_path)
    assert before == ((parent / "weights.pt").read_bytes(), (parent / "model.json").read_bytes())


@pytest.mark.parametrize("stop", [3, 8, 17, 24])
def test_a_run_that_was_canceled_goes_on_to_the_very_same_weights(parent, cases, tuned, tmp_path, stop):
    with pytest.raises(Canceled):
        tune(parent, cases, tmp_path / "run", pause=stop_after(stop))
    again = tune(parent, cases, tmp_path / "run")
    assert same(weights_of(again.folder), weights_of(tuned[0].folder))
    assert again.ledger == tuned[0].ledger


def test_a_finished_run_is_not_done_again(parent, cases, tuned):
    told = []
    again = tune(parent, cases, tuned[1], progress=told.append)
    assert again.ledger == tuned[0].ledger
    assert not any(progress.loss for progress in told)


def test_the_folder_of_another_run_is_refused(parent, cases, tuned):
    with pytest.raises(ModelError, match="other cases"):
        tune(parent, cases[:2], tuned[1])


@pytest.mark.parametrize("part", ["cases", "replay"])
def test_the_folder_of_a_run_with_other_files_of_the_same_names_is_refused(parent, tmp_path, part):
    names = ["a", "b", "c"]
    cases = read_dataset(write_images_and_labels(tmp_path / "cases", names))
    options = {} if part == "cases" else {"replay": [replace(cases.pop(), name="old")]}

    def stop():
        if (tmp_path / "run" / STATE_FILE).is_file():
            raise Canceled

    for _ in range(2):
        with pytest.raises(Canceled):
            tune(parent, cases, tmp_path / "run", pause=stop, **options)
    sitk.WriteImage(toy_scan(60)[0], str(tmp_path / "cases" / "images" / "c.nii.gz"))
    with pytest.raises(ModelError, match="'run'"):
        tune(parent, cases, tmp_path / "run", pause=stop, **options)


def test_progress_goes_up_to_the_end_and_shows_loss_and_dice(parent, cases, tmp_path):
    told: list[FineTuningProgress] = []
    tune(parent, cases, tmp_path, progress=told.append)
    fractions = [progress.fraction for progress in told]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
    assert any(progress.loss for progress in told) and any(progress.dice is not None for progress in told)
    assert all(progress.seconds_left >= 0 for progress in told) and told[-1].seconds_left == 0


def test_one_patient_alone_is_trained_on_without_cross_validation(parent, cases, tmp_path):
    result = tune(parent, cases[:2], tmp_path)
    assert result.cross_validation == {}
    assert describe_model(result.folder).training["steps"] == 4


def test_replayed_cases_take_their_share_of_the_samples(parent, cases, tmp_path):
    from learning_parts import toy_cases, toy_trainer

    new, old = toy_cases(2), toy_cases(3, first=10)
    trainer = toy_trainer(tmp_path, toy_plan(replay_share=0.25), new, replay=old)
    names = [trainer.case_of(sample).name for sample in range(48)]
    assert sum(name in {case.name for case in old} for name in names) == 12
    assert {name: names.count(name) for name in {case.name for case in old}} == dict.fromkeys(
        (case.name for case in old), 4
    )
    result = tune(parent, cases[:3], tmp_path / "run", replay=cases[3:])
    described = describe_model(result.folder)
    assert described.training["replay"] == ["c1"] and described.was_trained_on(ScanIdentity(cases[3].load_image()))
    assert result.ledger["choices"][2]["value"] == "rehearsal"


def test_a_case_cannot_be_new_and_replayed(parent, cases, tmp_path):
    with pytest.raises(DatasetError, match="both new and replayed"):
        FineTuner(parent, cases, tmp_path, replay=cases[:1])


def test_the_anchor_holds_the_weights_near_those_they_started_with(tmp_path):
    from learning_parts import toy_trainer

    def distance(anchor):
        start = DDSPConvNet(toy_plan().network).state_dict() if not starts else starts[0]
        starts.append(start)
        plan = toy_plan(anchor=anchor, steps=8, learning_rate=1e-2, weight_decay=0.0, frozen_batch_norm=True)
        trainer = toy_trainer(tmp_path / str(anchor), plan, start_from=start)
        for _ in range(8):
            trainer.train_step()
        names = [name for name, _ in trainer.network.named_parameters()]
        state = trainer.network.state_dict()
        return sum(float((state[name] - start[name]).pow(2).sum()) for name in names)

    starts = []
    assert distance(50.0) < 0.7 * distance(0.0)


def test_the_published_weights_lie_between_the_old_and_the_trained_ones(tmp_path):
    from learning_parts import toy_trainer

    start = DDSPConvNet(toy_plan().network).state_dict()
    options = {"steps": 2, "learning_rate": 1e-2, "frozen_batch_norm": True}
    published = {}
    for share in (1.0, 0.25):
        trainer = toy_trainer(tmp_path / str(share), toy_plan(new_share=share, **options), start_from=start)
        trainer.run()
        published[share] = weights_of(trainer.folder / "model")
    name = "head1.weight"
    expected = start[name] + 0.25 * (published[1.0][name] - start[name])
    assert not torch.equal(published[1.0][name], start[name])
    assert torch.allclose(published[0.25][name], expected, atol=1e-3)


def test_the_estimate_grows_with_the_cases_and_stays_within_ten_minutes_for_five():
    five = estimate_seconds(5, 5, seconds_per_step=1.2)
    assert estimate_seconds(3, 3, seconds_per_step=1.2) < five < 600
    assert estimate_seconds(5, 5, replay=20, seconds_per_step=1.2) > five


# ---- versions of several networks


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    """A version of five tiny networks, each of which left out two of five folds; 'old-1' is in the third."""
    folder = tmp_path_factory.mktemp("models") / "five"
    networks = [taught_network(folder.parent / "taught")] * 5
    seen = NOTHING_SEEN.with_training([("old-1", ScanIdentity(toy_scan(50)[0]))], {"old-1": 2})
    preprocessing = PreprocessingSettings(spacing_mm=(2.0, 2.0, 4.0), bias_field="off").to_dict()
    save_model(folder, networks, preprocessing, members=[{"left_out": list(folds)} for folds in LEFT_OUT], seen=seen)
    return folder


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    """Six cases of five patients."""
    folder = write_images_and_labels(tmp_path_factory.mktemp("patients"), ["a1", "a2", "b1", "c1", "d1", "e1"])
    return [Case(c.name, c.image_path, c.label_path, patient=c.name[0]) for c in read_dataset(folder)]


@pytest.fixture(scope="module")
def tuned_five(five, patients, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "five"
    return tune(five, patients, folder), folder


def members_trained_on(folder):
    """For each member the names of what it trained on or rehearsed."""
    states = (torch.load(folder / f"left-out-{number}" / "checkpoint.pt", weights_only=True) for number in range(1, 6))
    return [set(state["cases"]) for state in states]


def test_every_member_goes_on_without_the_patients_of_its_own_folds(five, patients, tuned_five):
    result, folder = tuned_five
    described, trained_on = describe_model(result.folder), members_trained_on(folder)
    assert [member["left_out"] for member in described.members] == [list(folds) for folds in LEFT_OUT]
    for case in patients:
        judges = [number for number, names in enumerate(trained_on) if case.name not in names]
        assert len(judges) == 2
        assert described.members_that_never_saw(ScanIdentity(case.load_image())) == judges
    assert described.members_that_never_saw(ScanIdentity(toy_scan(50)[0])) == [1, 2]
    assert described.training["cases"] == [case.name for case in patients]
    assert not (folder / "final").exists(), "cross-validation and candidate are one"
    assert result.cross_validation["patients"] == 5
    assert set(result.cross_validation["per_case"]) == {case.name for case in patients}


def test_the_members_are_those_of_the_chosen_length(tuned_five):
    result, folder = tuned_five
    length = result.cross_validation["steps"]
    assert length == describe_model(result.folder).training["steps"] > 0
    for number, network in enumerate(load_networks(result.folder)[0], 1):
        assert same(network.state_dict(), weights_of(folder / f"left-out-{number}" / f"after-{length}"))


def test_members_that_were_canceled_go_on_to_the_very_same_weights(five, patients, tuned_five, tmp_path):
    pause = stop_after(12, 20)
    for _ in range(2):
        with pytest.raises(Canceled):
            tune(five, patients, tmp_path, pause=pause)
    again = tune(five, patients, tmp_path)
    assert again.ledger == tuned_five[0].ledger
    for one, other in zip(load_networks(again.folder)[0], load_networks(tuned_five[0].folder)[0], strict=True):
        assert same(one.state_dict(), other.state_dict())


def test_where_no_member_gains_there_is_no_new_version(five, patients, tmp_path):
    result = tune(five, patients, tmp_path, replace(QUICK, learning_rate=1e-9))
    assert result.folder is None and result.cross_validation["steps"] == 0


def test_a_member_without_a_case_to_learn_from_stays_as_it_is(five, patients, tmp_path):
    scans = [ScanIdentity(case.load_image()) for case in patients]
    seen = describe_model(five).seen.with_training([("b", scans[2]), ("c", scans[3])], {"b": 0, "c": 1})
    write_description(shutil.copytree(five, tmp_path / "model"), replace(describe_model(five), seen=seen))
    result = tune(tmp_path / "model", patients[2:4], tmp_path / "run")
    before, after = (load_networks(folder)[0] for folder in (five, result.folder))
    unchanged = [same(one.state_dict(), other.state_dict()) for one, other in zip(before, after, strict=True)]
    assert unchanged == [True, False, False, False, False] and not (tmp_path / "run" / "left-out-1").exists()


def test_cases_that_nobody_can_leave_out_are_refused(five, patients, tmp_path):
    scans = [ScanIdentity(case.load_image()) for case in patients]
    seen = describe_model(five).seen.with_training([("b", scans[2]), ("c", scans[3])], {"b": 0, "c": 0})
    write_description(shutil.copytree(five, tmp_path / "model"), replace(describe_model(five), seen=seen))
    with pytest.raises(DatasetError, match="left out"):
        tune(tmp_path / "model", patients[2:4], tmp_path / "run")


@pytest.mark.parametrize("change", ["patient", "folds of the version", "an older run"])
def test_a_run_whose_patients_or_folds_changed_is_refused(five, patients, tmp_path, change):
    model = shutil.copytree(five, tmp_path / "model")
    with pytest.raises(Canceled):
        tune(model, patients, tmp_path / "run", pause=stop_after(20))
    cases, words = patients, "other cases, patients"
    if change == "patient":
        cases = [replace(patients[0], patient="b"), *patients[1:]]
    elif change == "folds of the version":
        seen = replace(describe_model(five).seen, groups=())
        write_description(model, replace(describe_model(five), seen=seen))
    else:
        state = tmp_path / "run" / STATE_FILE
        state.write_text(state.read_text(encoding="utf-8").replace('"format"', '"old"'), encoding="utf-8")
        words = "another version of this extension"
    with pytest.raises(ModelError, match=words):
        tune(model, cases, tmp_path / "run")


def test_a_member_whose_weights_were_deleted_is_trained_again(five, patients, tuned_five, tmp_path):
    with pytest.raises(Canceled):
        tune(five, patients, tmp_path, pause=stop_after(20))
    length = tuned_five[0].cross_validation["steps"]
    shutil.rmtree(tmp_path / "left-out-1" / f"after-{length}")
    again = tune(five, patients, tmp_path)
    for one, other in zip(load_networks(again.folder)[0], load_networks(tuned_five[0].folder)[0], strict=True):
        assert same(one.state_dict(), other.state_dict())


def test_no_member_rehearses_what_it_left_out(five, patients, tmp_path):
    images = write_images_and_labels(tmp_path / "old", ["renamed"])
    for part, image in zip(("images", "labels"), toy_scan(50), strict=True):
        sitk.WriteImage(image, str(images / part / "renamed.nii.gz"))
    tune(five, patients, tmp_path / "run", replay=read_dataset(images))
    assert ["renamed" in names for names in members_trained_on(tmp_path / "run")] == [True, False, False, True, True]


def test_with_enough_left_out_patients_the_expected_dice_is_measured_again(five, patients, tmp_path, monkeypatch):
    assert "expected_dice" not in describe_model(tune(five, patients, tmp_path / "few").folder).metrics
    for module in (finetuning, calibration):
        monkeypatch.setattr(module, "LEAST_PATIENTS_TO_CALIBRATE", 3)
    told = []
    described = describe_model(tune(five, patients, tmp_path / "run", progress=told.append).folder)
    assert 3 <= described.metrics["expected_dice"]["patients"] <= 5
    assert any("Calibrating" in progress.stage for progress in told)
    fractions = [progress.fraction for progress in told]
    assert fractions == sorted(fractions)


def test_the_estimate_holds_the_calibration_that_fifteen_patients_allow():
    def difference(members):
        return estimate_seconds(16, 15, members=members) - estimate_seconds(16, 14, members=members)

    assert difference(5) == pytest.approx(16 * 2.0) and difference(1) == 0


def test_five_members_take_no_longer_than_one_network_and_its_cross_validation():
    assert estimate_seconds(5, 5, members=5) < estimate_seconds(5, 5)
