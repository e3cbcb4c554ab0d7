"""``ddsp-segmentation finetune`` and ``cases``: what they do, what they say, and how they are stopped and resumed."""

import functools
import os
import shutil
import signal

import pytest
import SimpleITK as sitk
from learning_parts import write_images_and_labels
from retraining_parts import (
    PARENT,
    QUICK_SETTINGS,
    make_library,
    make_registry,
    numbered_scan,
    small_sample,
    tuned_versions,
)

from DDSPSegmentationLib.learning import comparison, finetuning
from DDSPSegmentationLib.learning.case_index import INDEX, about_unknown_patients
from DDSPSegmentationLib.learning.dataset import read_dataset
from DDSPSegmentationLib.library.case_library import CaseLibrary
from DDSPSegmentationLib.library.model_registry import ModelRegistry
from DDSPSegmentationLib.service import retraining_commands
from DDSPSegmentationLib.service.command_line import main
from DDSPSegmentationLib.service.retraining import make_job
from DDSPSegmentationLib.service.retraining_job import START_AGAIN


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored")
    make_library(folder / "cases", training=5, hold_out=1)
    make_registry(folder / "models")
    return folder


@pytest.fixture
def place(stored, tmp_path, one_thread, monkeypatch):
    """Cases and models of a user's own home; fine-tuning takes few steps."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for name in ("cases", "models"):
        shutil.copytree(stored / name, tmp_path / "DDSPSegmentation" / name.capitalize())
    sample = small_sample(tmp_path)
    monkeypatch.setattr(comparison, "sample_scan", lambda: sample)
    quick = functools.partial(finetuning.FineTuningSettings, **QUICK_SETTINGS)
    monkeypatch.setattr(finetuning, "FineTuningSettings", quick)
    return tmp_path / "DDSPSegmentation"


def test_finetune_says_what_it_will_do_and_what_came_of_it(place, capsys):
    assert main(["finetune", "--device", "cpu"]) == 0
    (version,) = tuned_versions(ModelRegistry(place / "Models"))
    said = capsys.readouterr().out
    assert f"Fine-tune '{PARENT}' on 5 cases of 5 patients." in said and "1 hold-out case of 1 patient." in said
    assert " on this processor" in said and "Cross-validation 1 of 2" in said
    assert f"Version '{version.name}' is a candidate" in said
    assert all(sentence in said for sentence in version.comparison["sentences"])
    assert [path.name for path in (place / "Models" / "runs").iterdir() if path.is_dir()] == []


def test_finetune_stops_at_ctrl_c_and_goes_on_when_it_is_asked_to(place, capsys, monkeypatch):
    tell = retraining_commands._tell

    def interrupt(told):
        tell(told)
        if told.loss is not None:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(retraining_commands, "_tell", interrupt)
        assert main(["finetune"]) == 1
    assert "Go on with --resume" in capsys.readouterr().out
    assert main(["finetune"]) == 2
    assert "is not finished" in (said := capsys.readouterr().err) and "--resume" in said
    assert main(["finetune", "--resume"]) == 0
    assert len(tuned_versions(ModelRegistry(place / "Models"))) == 1
    capsys.readouterr()
    assert main(["finetune", "--resume"]) == 2
    assert "no retraining that was interrupted" in capsys.readouterr().err


def test_finetune_on_too_few_cases_says_how_many_are_missing(place, capsys, tmp_path):
    assert main(["finetune", "--cases", str(tmp_path / "none"), "--models", str(place / "Models")]) == 2
    said = capsys.readouterr()
    assert "Accept 5 more cases" in said.err and said.out == ""


def test_a_damaged_job_is_named_when_it_is_resumed(place, capsys):
    run_folder = make_job(place / "Cases", place / "Models")
    (run_folder / "job.json").write_text("{")
    assert main(["finetune", "--resume"]) == 2
    assert f"job.json cannot be read. {START_AGAIN}" in capsys.readouterr().err


def test_cases_are_listed_with_their_split(place, capsys):
    assert main(["cases"]) == 0
    listed = capsys.readouterr().out
    for case in CaseLibrary(place / "Cases").cases():
        assert f"{case.id}: {case.current.date[:10]}, corrected, {case.split}, revision 1" in listed
    assert "5 training cases, 1 hold-out case." in listed
    assert main(["cases", "--cases", str(place / "none"), "list"]) == 0
    assert "0 training cases" in capsys.readouterr().out


def test_cases_are_imported_and_what_is_refused_is_named(place, tmp_path, capsys):
    folder = write_images_and_labels(tmp_path / "new", ["a", "b", "old-1"], ".nrrd")
    for number, name in enumerate(("a", "b", "old-1"), start=60):
        for part, image in zip(("images", "labels"), numbered_scan(number), strict=True):
            sitk.WriteImage(image * (0 if (part, name) == ("labels", "b") else 1), str(folder / part / f"{name}.nrrd"))
    assert main(["cases", "import", str(folder), "--cases", str(place / "Cases")]) == 1
    said = capsys.readouterr().out
    assert "Refused: b:" in said and "2 cases stored, 1 refused." in said
    imported = {case.source_name: case for case in CaseLibrary(place / "Cases").cases()}
    assert {"a", "old-1"} <= set(imported)
    assert imported["old-1"].split == "training"  # a version was trained on a case of this name


def test_an_import_says_what_it_means_that_nobody_names_the_patients_and_joins_them_on_request(place, tmp_path, capsys):
    new = [tmp_path / name for name in ("one", "two")]
    for number, folder in enumerate(new, start=60):
        write_images_and_labels(folder, [folder.name], ".nrrd")
        for part, image in zip(("images", "labels"), numbered_scan(number), strict=True):
            sitk.WriteImage(image, str(folder / part / f"{folder.name}.nrrd"))
    assert main(["cases", "import", str(new[0])]) == 0
    assert about_unknown_patients(1, 1) in capsys.readouterr().out
    first = next(case for case in CaseLibrary(place / "Cases").cases() if case.source_name == "one")
    assert main(["cases", "import", str(new[1]), "--patient-of-case", str(first.number)]) == 0
    assert INDEX not in capsys.readouterr().out
    second = next(case for case in CaseLibrary(place / "Cases").cases() if case.source_name == "two")
    assert (second.patient, second.split) == (first.patient, first.split)
    assert main(["cases", "import", str(new[1]), "--patient-of-case", "99"]) == 2
    assert "no case 99" in capsys.readouterr().err


def test_cases_are_exported_for_other_tools(place, tmp_path, capsys):
    assert main(["cases", "export", str(tmp_path / "out")]) == 0
    assert "6 cases exported to" in capsys.readouterr().out
    assert len(read_dataset(tmp_path / "out")) == 5
