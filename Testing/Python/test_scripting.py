"""``from DDSPSegmentationLib import segment``: one scan for a script, from a file or an image."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from engine_parts import bright_model, dice, phantom

import DDSPSegmentationLib
from DDSPSegmentationLib import segment
from DDSPSegmentationLib.engine.errors import InputError, ModelError
from DDSPSegmentationLib.engine.file_doubts import NO_ORIENTATION
from DDSPSegmentationLib.service.scripting import _runner

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return bright_model(tmp_path_factory.mktemp("models") / "bright")


@pytest.fixture
def scan_file(tmp_path) -> Path:
    path = tmp_path / "scans" / "scan.nrrd"
    path.parent.mkdir()
    sitk.WriteImage(phantom()[0], str(path))
    return path


def array_of(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image)


def test_importing_the_package_loads_nothing():
    code = "import sys, DDSPSegmentationLib; print({'torch', 'numpy', 'SimpleITK'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "DDSPSegmentation")}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


def test_the_package_has_what_it_names_and_nothing_else():
    assert [name for name in DDSPSegmentationLib.__all__ if not callable(getattr(DDSPSegmentationLib, name))] == []
    with pytest.raises(AttributeError, match="'DDSPSegmentationLib' has no attribute 'segmant'"):
        DDSPSegmentationLib.segmant  # noqa: B018


def test_a_file_its_folder_and_the_image_give_the_same_answer(scan_file, model):
    image, gland = phantom()
    answers = [segment(scan, model=model) for scan in (str(scan_file), scan_file.parent, image)]
    assert dice(array_of(answers[0].mask) > 0, gland) > 0.95
    for other in answers[1:]:
        assert np.array_equal(array_of(other.mask), array_of(answers[0].mask))


def test_the_network_stays_loaded_for_the_next_scan(scan_file, model):
    segment(scan_file, model=model)
    loaded = _runner()._segmenter
    segment(scan_file, model=model)
    assert _runner()._segmenter is loaded


def test_every_choice_reaches_the_network(scan_file, model):
    phases = []
    answer = segment(
        scan_file, mode="fast", threshold=0.25, bias_field="full", device="cpu", model=str(model),
        progress=lambda phase, fraction: phases.append(phase),
    )  # fmt: skip
    assert (answer.mode, answer.threshold, answer.bias_field, answer.device) == ("fast", 0.25, "full", "cpu")
    assert "Segmenting" in phases
    with pytest.raises(InputError, match="outside 'scan'"):
        segment(scan_file, model=model, location=(10_000.0, 0.0, 0.0))


def test_what_was_assumed_about_a_file_is_among_the_warnings(scan_file, model):
    header, data = scan_file.read_bytes().split(b"\n\n", 1)
    silent = scan_file.with_name("silent.nrrd")
    header = re.sub(rb"\nspace: [^\n]*|\nspace origin: [^\n]*", b"", header)
    header = re.sub(rb"\nspace directions: [^\n]*", b"\nspacings: 1.5 1.5 3", header)
    silent.write_bytes(header + b"\n\n" + data)
    assert NO_ORIENTATION in segment(silent, model=model).warnings


def test_a_folder_of_several_scans_is_refused_with_their_names(scan_file, model):
    shutil.copy(scan_file, scan_file.with_name("other.nrrd"))
    with pytest.raises(InputError, match=r"'scans' holds 2 scans \(other, scan\)\. Name one of them"):
        segment(scan_file.parent, model=model)


def test_bad_words_are_refused_with_cause_and_next_step(scan_file, tmp_path):
    with pytest.raises(InputError, match="Mode 'quick' is unknown. Choose one of"):
        segment(scan_file, mode="quick")
    with pytest.raises(InputError, match="does not exist"):
        segment(tmp_path / "absent.nrrd")
    with pytest.raises(ModelError, match="'absent'"):
        segment(scan_file, model="absent")


def test_the_example_of_the_page_runs(sample_scan, tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "batch.md").read_text(encoding="utf-8")
    example = re.search(r"^## From Python$.*?^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    shutil.copy(sample_scan, tmp_path / "scan.nrrd")
    monkeypatch.chdir(tmp_path)
    exec(compile(example[1], "batch.md", "exec"), {})
    assert re.match(r"\d+\.\d ml ", capsys.readouterr().out)
    assert array_of(sitk.ReadImage("prostate.seg.nrrd")).any() and Path("probability.nrrd").is_file()
