"""Versions of several networks: who left whom out is kept, and nobody judges a patient that he has seen."""

from dataclasses import dataclass, replace

import pytest
import SimpleITK as sitk
import torch
from learning_parts import SPACING_MM, identity_of, toy_case, toy_cases

from DDSPSegmentationLib.engine.errors import DatasetError, ModelError
from DDSPSegmentationLib.engine.model import describe_model, load_networks, save_model
from DDSPSegmentationLib.engine.network import DDSPConvNet, NetworkSettings
from DDSPSegmentationLib.engine.preprocessing import PreprocessingSettings
from DDSPSegmentationLib.engine.scan_identity import NOTHING_SEEN
from DDSPSegmentationLib.learning.ensemble import LEFT_OUT, draw_folds, join_members, unseen_members

SMALL = NetworkSettings(widths=(2, 3, 4), growth=2, input_size=(8, 8, 8))
FOLDS = [["toy0"], ["toy1"], ["toy2"], ["toy3"], ["toy4"]]


@dataclass(frozen=True)
class ACase:
    """A case as the evaluation sees it, of whom the scan with the given number is there."""

    name: str
    patient: str
    scan: int | None

    def load_image(self) -> sitk.Image:
        if self.scan is None:
            raise DatasetError("It cannot be read.")
        image = sitk.GetImageFromArray(toy_case("", self.scan).corrected.astype("float32"))
        image.SetSpacing(SPACING_MM[::-1])
        return image


@pytest.fixture(scope="module")
def cases():
    return toy_cases(5)


@pytest.fixture(scope="module")
def models(cases, tmp_path_factory):
    """One small network for each pair of folds, trained (as it says) on the cases of the other three."""
    folder = tmp_path_factory.mktemp("models")
    for number, left_out in enumerate(LEFT_OUT):
        torch.manual_seed(number)
        trained_on = [case for fold, case in enumerate(cases) if fold not in left_out]
        seen = NOTHING_SEEN.with_training([(case.name, case.identity) for case in trained_on])
        save_model(folder / str(number), [DDSPConvNet(SMALL)], PreprocessingSettings().to_dict(), seen=seen)
    return [folder / str(number) for number in range(len(LEFT_OUT))]


def test_every_fold_is_left_out_by_two_members():
    assert [sum(fold in folds for folds in LEFT_OUT) for fold in range(5)] == [2] * 5


def test_members_are_joined_in_their_order_and_say_whom_they_left_out(models, cases, tmp_path):
    description = join_members(tmp_path / "five", models, LEFT_OUT, cases, FOLDS, license="research")
    assert describe_model(tmp_path / "five") == description and description.license == "research"
    assert [member["left_out"] for member in description.members] == [list(folds) for folds in LEFT_OUT]
    for network, model in zip(load_networks(tmp_path / "five")[0], models, strict=True):
        assert torch.equal(network.head1.weight, load_networks(model)[0][0].head1.weight)
    for fold, case in enumerate(cases):
        assert description.was_trained_on(case.identity)
        never_saw = [number for number, folds in enumerate(LEFT_OUT) if fold in folds]
        assert description.members_that_never_saw(case.identity) == never_saw


def test_a_network_that_saw_what_it_should_have_left_out_is_refused(models, cases, tmp_path):
    with pytest.raises(ModelError, match="trained on 'toy2', which it should have left out"):
        join_members(tmp_path / "five", models, [(0, 2), *LEFT_OUT[1:]], cases, FOLDS)
    assert not (tmp_path / "five").exists()


def test_a_network_that_does_not_say_what_it_saw_is_refused(models, cases, tmp_path):
    save_model(tmp_path / "silent", load_networks(models[0])[0], PreprocessingSettings().to_dict())
    with pytest.raises(ModelError, match="'silent'"):
        join_members(tmp_path / "five", [tmp_path / "silent", *models[1:]], LEFT_OUT, cases, FOLDS)


def test_what_a_network_saw_elsewhere_is_seen_by_the_version(models, cases, tmp_path):
    (network,), description = load_networks(models[0])
    elsewhere = toy_case("elsewhere", 90).identity
    seen = description.seen.with_training([("elsewhere", elsewhere)])
    save_model(tmp_path / "0", [network], description.preprocessing, seen=seen)
    joined = join_members(tmp_path / "five", [tmp_path / "0", *models[1:]], LEFT_OUT, cases, FOLDS)
    assert joined.was_trained_on(elsewhere) and joined.members_that_never_saw(elsewhere) == []
    assert joined.members_that_never_saw(cases[0].identity) == [0, 4]


def test_networks_of_two_architectures_are_refused(models, cases, tmp_path):
    other = NetworkSettings(widths=(2, 3, 5), growth=2, input_size=(8, 8, 8))
    save_model(tmp_path / "other", [DDSPConvNet(other)], PreprocessingSettings().to_dict())
    with pytest.raises(ModelError, match="'other' is not one network of the architecture of '0'"):
        join_members(tmp_path / "five", [*models[:4], tmp_path / "other"], LEFT_OUT, cases, FOLDS)


def test_only_members_that_saw_no_scan_of_a_patient_judge_it(models, cases, tmp_path):
    description = join_members(tmp_path / "five", models, LEFT_OUT, cases, FOLDS)
    judged = [
        ACase("first", "A", 0),
        ACase("another scan of A", "A", 77),
        ACase("new", "B", 78),
        ACase("of two folds", "C", 1),
        ACase("its other scan", "C", 3),
        ACase("damaged", "D", None),
    ]
    found = unseen_members(description, judged)
    assert found["first"] == found["another scan of A"] == [0, 4]
    assert found["new"] == found["damaged"] == [0, 1, 2, 3, 4]
    assert found["of two folds"] == found["its other scan"] == []
    stripped = save_model(tmp_path / "stripped", load_networks(models[0])[0], PreprocessingSettings().to_dict())
    assert unseen_members(stripped, judged[:1]) == {"first": None}


def test_patients_stay_in_the_fold_that_a_version_knows_them_in(models, cases, tmp_path):
    description = join_members(tmp_path / "five", models, LEFT_OUT, cases, FOLDS)
    scans = {f"known {number}": (f"K{number}", case.identity) for number, case in enumerate(cases[:3])}
    scans["another scan of K1"] = ("K1", toy_case("", 60).identity)
    scans |= {f"new {number}": (f"N{number}", toy_case("", 61 + number).identity) for number in range(7)}
    folds = draw_folds(description, scans, seed=0)
    assert [folds[f"known {number}"] for number in range(3)] == [0, 1, 2] and folds["another scan of K1"] == 1
    sizes = [len({scans[name][0] for name, fold in folds.items() if fold == number}) for number in range(5)]
    assert sizes == [2, 2, 2, 2, 2]
    assert draw_folds(description, dict(reversed(scans.items())), seed=0) == folds


@pytest.mark.parametrize("patients", [2, 3, 4, 5])
def test_two_new_patients_or_more_give_every_member_one_to_learn_from(models, cases, tmp_path, patients):
    description = join_members(tmp_path / "five", models, LEFT_OUT, cases, FOLDS)
    scans = {f"new {n}": (f"N{n}", toy_case("", 60 + n).identity) for n in range(patients)}
    folds = set(draw_folds(description, scans, seed=0).values())
    assert len(folds) == patients and all(folds - set(left_out) for left_out in LEFT_OUT)


def test_copies_of_a_scan_are_in_one_fold_whatever_they_are_called(models, cases, tmp_path):
    description = join_members(tmp_path / "five", models, LEFT_OUT, cases, FOLDS)
    brighter = identity_of(toy_case("", 60).corrected.astype("float32") + 0.5)
    scans = {f"new {n}": (f"N{n}", toy_case("", 60 + n).identity) for n in range(5)} | {"copy": ("N9", brighter)}
    folds = draw_folds(description, scans, seed=0)
    assert folds["copy"] == folds["new 0"] and len(set(folds.values())) == 5


def test_a_copy_in_another_fold_of_the_same_training_is_found_beside_the_scan_itself():
    scan, other = toy_case("", 60).corrected.astype("float32"), toy_case("", 61).identity
    copies = [("scan", identity_of(scan)), ("copy", identity_of(scan + 0.5)), ("other", other)]
    seen = NOTHING_SEEN.with_training(copies, {"scan": 0, "copy": 2, "other": 4})
    assert [match.name for match in seen.matches(identity_of(scan))] == ["scan", "copy"]


def test_a_patient_whom_two_folds_know_is_in_none(models, cases, tmp_path):
    description = join_members(tmp_path / "five", models, LEFT_OUT, cases, FOLDS)
    scans = {
        "one": ("P", cases[0].identity),
        "other": ("P", cases[2].identity),
        "new": ("Q", toy_case("", 60).identity),
    }
    assert draw_folds(description, scans, seed=0) == {"one": None, "other": None, "new": 0}
    scans = {"before": ("P", cases[0].identity)}
    parent = replace(description, seen=description.seen.with_training([("before the folds", cases[0].identity)]))
    assert draw_folds(parent, scans, seed=0) == {"before": None}
