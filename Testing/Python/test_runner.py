"""The in-process runner: says what torch is missing, stays warm, notices a changed model."""

import importlib.metadata
import re
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from engine_parts import bright_model, dice, phantom

from DDSPSegmentationLib.engine import segmenter as segmenter_module
from DDSPSegmentationLib.engine.errors import ModelError, TorchMissingError
from DDSPSegmentationLib.engine.run_settings import RunSettings
from DDSPSegmentationLib.service.runner import INSTALL_TORCH, InProcessRunner, require_torch


@pytest.fixture
def loads(monkeypatch):
    """Every model that is loaded from disk."""
    loaded, load = [], segmenter_module.load_networks

    def counted(folder=None):
        loaded.append(folder)
        return load(folder)

    monkeypatch.setattr(segmenter_module, "load_networks", counted)
    return loaded


@pytest.fixture
def model(tmp_path):
    return bright_model(tmp_path / "bright")


def pretend_torch(monkeypatch, version):
    def answer(package):
        if version is None:
            raise importlib.metadata.PackageNotFoundError(package)
        return version

    monkeypatch.setattr(importlib.metadata, "version", answer)


def test_missing_torch_is_told_with_the_way_to_get_it(monkeypatch):
    pretend_torch(monkeypatch, None)
    with pytest.raises(TorchMissingError, match=f"PyTorch is not installed. {re.escape(INSTALL_TORCH)}"):
        InProcessRunner().segment(phantom()[0])


@pytest.mark.parametrize("version", ["1.13.1", "2.3.1+cu121", "2.0"])
def test_a_torch_that_is_too_old_is_told_with_its_version(monkeypatch, version):
    pretend_torch(monkeypatch, version)
    with pytest.raises(TorchMissingError) as caught:
        InProcessRunner().segment(phantom()[0])
    assert caught.value.cause == f"PyTorch {version} is too old; 2.4 or newer is needed."
    assert caught.value.next_step == INSTALL_TORCH and "pip install torch" in INSTALL_TORCH


@pytest.mark.parametrize("version", ["2.4.0", "2.10.1+cpu", "2.13.0.dev20260101", "3.0.0"])
def test_a_torch_that_is_new_enough_is_accepted(monkeypatch, version):
    pretend_torch(monkeypatch, version)
    assert require_torch() == version


def test_the_runner_loads_no_torch_before_it_is_asked():
    package_root = segmenter_module.__file__.split("DDSPSegmentationLib")[0]
    question = "import DDSPSegmentationLib.service.runner as r; r.require_torch(); sys.exit('torch' in sys.modules)"
    code = f"import sys; sys.path.insert(0, {package_root!r}); {question}"
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0


def test_the_runner_segments_and_passes_everything_on(model):
    scan, gland = phantom()
    told = []
    result = InProcessRunner().segment(
        scan,
        RunSettings(mode="paper", threshold=0.4, bias_field="fast", device="cpu", model=model),
        progress=lambda phase, fraction: told.append(phase),
    )
    assert (result.mode, result.threshold, result.bias_field, result.device) == ("paper", 0.4, "fast", "cpu")
    assert dice(sitk.GetArrayFromImage(result.mask) > 0, gland) > 0.9
    assert list(dict.fromkeys(told)) == ["Loading model", "Preprocessing", "Segmenting", "Measuring"]


def test_the_model_stays_loaded_between_scans(model, loads):
    runner, told = InProcessRunner(), []
    scan, _ = phantom()
    for _ in range(3):
        runner.segment(
            scan, RunSettings(model=model, device="cpu"), progress=lambda phase, fraction: told.append(phase)
        )
    assert loads == [model]
    assert told.count(told[0]) == 1  # of loading it


def test_a_model_saved_anew_in_the_same_folder_is_loaded_anew(model, loads):
    runner = InProcessRunner()
    scan, _ = phantom()
    before = runner.segment(scan, RunSettings(model=model, device="cpu"))
    bright_model(model, bright=50.0)
    after = runner.segment(scan, RunSettings(model=model, device="cpu"))
    assert len(loads) == 2 and before.model_sha256 != after.model_sha256
    assert before.measurements.volume_ml > 0 == after.measurements.volume_ml


def test_another_model_or_device_is_loaded_anew(model, loads, tmp_path):
    runner = InProcessRunner()
    scan, _ = phantom()
    runner.segment(scan, RunSettings(model=model, device="cpu"))
    runner.segment(scan, RunSettings(model=bright_model(tmp_path / "other", bright=2.0), device="cpu"))
    assert len(loads) == 2
    if not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        runner.segment(scan, RunSettings(model=tmp_path / "other", device="auto"))
        assert len(loads) == 3


def test_a_model_that_disappeared_is_told_and_the_runner_recovers(model, tmp_path):
    runner = InProcessRunner()
    scan, _ = phantom()
    runner.segment(scan, RunSettings(model=model, device="cpu"))
    with pytest.raises(ModelError, match="'nothing'"):
        runner.segment(scan, RunSettings(model=tmp_path / "nothing", device="cpu"))
    assert np.any(sitk.GetArrayViewFromImage(runner.segment(scan, RunSettings(model=model, device="cpu")).mask))
