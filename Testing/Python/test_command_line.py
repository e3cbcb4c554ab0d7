"""The command line and the batch script: real runs, real files, one clear line for everything that is wrong."""

import contextlib
import copy
import csv
import dataclasses
import importlib.metadata
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_parts import write_series
from engine_parts import a_calibration
from learning_parts import toy_plan, toy_scan, write_images_and_labels

from DDSPSegmentationLib import __version__
from DDSPSegmentationLib.engine.model import BUILTIN_MODEL as BUILTIN
from DDSPSegmentationLib.engine.model import describe_model
from DDSPSegmentationLib.learning.comparison_record import SCHEMA_VERSION
from DDSPSegmentationLib.library.active_version import ROLL_BACK
from DDSPSegmentationLib.library.model_registry import ModelRegistry
from DDSPSegmentationLib.service.arguments import command_parser
from DDSPSegmentationLib.service.command_line import main
from DDSPSegmentationLib.service.mask_files import SEGMENT_COLOR, write_mask

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "DDSPSegmentation"
SAMPLE = MODULE / "Resources" / "SampleData" / "ProstateX-0000.nrrd"
SCRIPT = MODULE / "Scripts" / "segment_batch.py"
# A Slicer without a window that runs the batch script.
SLICER = f"""
import runpy, sys
from headless_host import start
from slicer_stand_in import window
with window(start(), hasLayout=False):
    import slicer
    slicer.util.exit = sys.exit
    runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""


def make_scan(seed=0, size=(40, 40, 14), spacing=(2.0, 2.0, 4.0)):
    """A volume with a bright ellipsoid in soft noise; size and spacing x, y, z."""
    axes = (np.arange(length) * step for length, step in zip(size[::-1], spacing[::-1], strict=True))
    z, y, x = np.meshgrid(*axes, indexing="ij")
    center = np.array(size) * spacing / 2
    inside = ((x - center[0]) / 24) ** 2 + ((y - center[1]) / 18) ** 2 + ((z - center[2]) / 20) ** 2 < 1
    voxels = np.random.default_rng(seed).normal(100, 8, inside.shape) + 60 * inside
    image = sitk.GetImageFromArray(voxels.astype(np.int16))
    image.SetSpacing(spacing)
    return image, sitk.GetImageFromArray(inside.astype(np.uint8))


def write_scan(path, **named):
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(make_scan(**named)[0], str(path))
    return path


@pytest.fixture(scope="session")
def small_model(tmp_path_factory):
    """A model version of the real kind with few channels that takes what is bright for the gland."""
    import torch

    from DDSPSegmentationLib.engine.model import save_model
    from DDSPSegmentationLib.engine.network import DDSPConvNet, NetworkSettings
    from DDSPSegmentationLib.engine.preprocessing import PreprocessingSettings

    torch.manual_seed(0)
    network = DDSPConvNet(NetworkSettings(widths=(2, 4, 4), growth=2, fusion=(1, 0, 0)))
    with torch.no_grad():
        for layer in (*network.encoder1, network.decoder1):  # the first channel carries the scan through
            layer.convolution.weight[0] = 0
            layer.convolution.weight[0, 0, 1, 1, 1] = 1
        network.head1.weight[0] = 0
        network.head1.weight[0, 0], network.head1.bias[0] = 8, -8 * 1.2
    folder = tmp_path_factory.mktemp("models") / "small"
    facts = {"license": "for tests", "calibration": a_calibration().to_dict()}
    save_model(folder, [network], PreprocessingSettings().to_dict(), **facts)
    return folder


@pytest.fixture
def run(capsys, small_model):
    """Run the command line in this process; ``segment`` gets the small model. Gives (exit code, out, err)."""

    def run_line(*arguments, model=small_model):
        words = [str(argument) for argument in arguments]
        if words[0] == "segment" and model is not None:
            words += ["--model", str(model)]
        try:
            code = main(words)
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_line


def assert_one_clear_line(code, err, *folders):
    assert code != 0
    lines = err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and len(lines[0]) > 20, err
    assert "Traceback" not in err and "Unexpected" not in err, err
    for folder in folders:
        assert str(folder) not in err


def environment(**extra):
    return {**os.environ, "PYTHONPATH": str(MODULE), "OMP_NUM_THREADS": "1", **extra}


def run_process(*words, **named):
    named.setdefault("env", environment())
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, timeout=300, **named)


def run_script(*words, **named):
    """Run the batch script as Slicer does."""
    named.setdefault("env", environment())
    path = [named["env"]["PYTHONPATH"], str(Path(__file__).parent)]
    named["env"] = {**named["env"], "PYTHONPATH": os.pathsep.join(path)}
    return run_process("-c", SLICER, *words, **named)


# ---- arguments


def test_importing_the_command_line_does_not_import_torch():
    code = "import sys, DDSPSegmentationLib.service.command_line; print({'torch', 'slicer'} & set(sys.modules))"
    assert run_process("-c", code).stdout.strip() == "set()"


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["paint"],
        ["segment"],
        ["segment", "x.nrrd"],
        ["segment", "--output", "out"],
        ["segment", "x.nrrd", "--output", "out", "--mode", "slow"],
        ["segment", "x.nrrd", "--output", "out", "--device", "tpu"],
        ["segment", "x.nrrd", "--output", "out", "--format", "dcm"],
        ["segment", "x.nrrd", "--output", "out", "--threshold", "1.5"],
        ["segment", "x.nrrd", "--output", "out", "--threshold", "half"],
        ["segment", "x.nrrd", "--output", "out", "--threshold", "nan"],
        ["segment", "x.nrrd", "--output", "out", "--bias-field", "perhaps"],
        ["segment", "x.nrrd", "--output", "out", "--jobs", "0"],
        ["segment", "x.nrrd", "--output", "out", "--jobs", "many"],
        ["segment", "x.nrrd", "--output", "out", "--num-parts", "0"],
        ["segment", "x.nrrd", "--output", "out", "--num-parts", "2.5"],
        ["segment", "x.nrrd", "--output", "out", "--num-parts", "4", "--part-id", "-1"],
        ["segment", "x.nrrd", "--output", "out", "--num-parts", "4", "--part-id", "first"],
        ["report"],
        ["report", ""],
        ["train", "--dataset", "d", "--output", "o"],
        ["train", "--dataset", "d", "--output", "o", "--fold", "first"],
        ["train", "--dataset", "d", "--output", "o", "--fold", "0", "--steps", "-3"],
        ["train", "--dataset", "d", "--output", "o", "--fold", "0", "--minutes", "0"],
        ["models", "paint"],
        ["models", "activate"],
        ["models", "export", "v1"],
        ["models", "list", "--models", ""],
        ["cases", "import"],
        ["cases", "--cases"],
        ["finetune", "--device", "tpu"],
        ["finetune", "v1"],
        ["evaluate", "--output", "o"],
        ["evaluate", "--predictions", "p", "--output", "o"],
        ["evaluate", "--predictions", "p", "--references", "r", "--dataset", "d", "--output", "o"],
    ],
    ids=" ".join,
)
def test_bad_arguments_give_one_line_and_exit_code_2(run, words):
    code, _, err = run(*words, model=None) if words else run("", model=None)
    assert_one_clear_line(code, err)
    assert code == 2


def test_console_script_is_the_main_function():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'ddsp-segmentation = "DDSPSegmentationLib.service.command_line:main"' in project


# ---- bad inputs


def damaged(folder, kind):
    """Write one bad input of the project's list; gives its path."""
    image, _ = make_scan()
    voxels = sitk.GetArrayFromImage(image)
    path = folder / f"{kind.replace(' ', '_')}.nrrd"
    if kind in ("truncated nii.gz", "sheared nii"):
        path = path.with_suffix(".nii.gz" if kind.startswith("trunc") else ".nii")
    if kind == "folder without scans":
        (folder / "empty").mkdir()
        (folder / "empty" / "notes.txt").write_text("nothing here")
        return folder / "empty"
    if kind == "missing":
        return path
    if kind == "unknown suffix":
        path = folder / "scan.jpg"
        path.write_bytes(b"\xff\xd8\xff")
        return path
    if kind in ("empty file", "text"):
        path.write_bytes(b"" if kind == "empty file" else b"this is no image\n" * 50)
        return path
    if kind == "color":
        image = sitk.Compose(image, image, image)
    elif kind == "four dimensions":
        image = sitk.JoinSeries([image, image])
    elif kind == "one slice":
        image = image[:, :, :1]
    elif kind == "few slices":
        image = image[:, :, :5]
    elif kind == "tiny":
        image = image[:16, :16, :]
    elif kind == "constant":
        image = image * 0
    elif kind in ("not a number", "infinite"):
        values = voxels.astype(np.float32)
        values[3, 4, 5] = np.inf
        values = np.full_like(values, np.nan) if kind == "not a number" else values
        copy = sitk.GetImageFromArray(values)
        copy.CopyInformation(image)
        image = copy
    elif kind == "small field of view":
        image.SetSpacing((0.1, 0.1, 4.0))
    elif kind == "huge field of view":
        image.SetSpacing((20.0, 20.0, 4.0))
    elif kind == "labelmap":
        image = sitk.Cast(image > 130, sitk.sitkUInt8)
    elif kind == "CT":
        image = sitk.Cast(image, sitk.sitkInt16) - 1100
    elif kind == "sheared":
        image.SetDirection((1, 0.1, 0, 0, 1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(path))
    if kind in ("truncated", "truncated nii.gz"):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    if kind == "sheared nii":
        content = bytearray(path.read_bytes())
        content[254:256] = (1).to_bytes(2, "little")
        content[280:328] = np.array([2, 0.4, 0, 0, 0, 2, 0, 0, 0, 0, 4, 0], "<f4").tobytes()
        path.write_bytes(bytes(content))
    return path


BAD_INPUTS = [
    "missing", "empty file", "text", "unknown suffix", "truncated", "truncated nii.gz", "sheared", "sheared nii",
    "color", "four dimensions", "one slice", "few slices", "tiny", "constant", "not a number", "infinite",
    "small field of view", "huge field of view", "labelmap", "CT", "folder without scans",
]  # fmt: skip


@pytest.mark.parametrize("kind", BAD_INPUTS)
def test_bad_input_gives_one_clear_line_and_no_mask(run, tmp_path, kind):
    path = damaged(tmp_path, kind)
    code, out, err = run("segment", path, "--output", tmp_path / "out")
    assert_one_clear_line(code, err, tmp_path)
    assert code in (1, 2) and not list((tmp_path).rglob("*.seg.nrrd"))
    assert "Traceback" not in out and str(tmp_path) not in out.replace(str(tmp_path / "out"), "")


def test_a_bad_input_does_not_stop_the_good_ones(run, tmp_path):
    good, bad = write_scan(tmp_path / "in" / "good.nrrd"), damaged(tmp_path / "in", "few slices")
    code, _, err = run("segment", bad, good, "--output", tmp_path / "out")
    assert code == 1 and (tmp_path / "out" / "good.seg.nrrd").is_file()
    assert_one_clear_line(code, err, tmp_path)
    assert err.startswith("error: few_slices: ") and "5 slices" in err


@pytest.mark.parametrize("where", ["same", "inside"])
def test_masks_are_never_written_among_the_scans(run, tmp_path, where):
    scan = write_scan(tmp_path / "in" / "scan.nii.gz")
    before = scan.read_bytes()
    output = scan.parent if where == "same" else scan.parent / "out"
    code, _, err = run("segment", scan.parent, "--output", output, "--format", "nii.gz")
    assert_one_clear_line(code, err, tmp_path)
    assert code == 2 and scan.read_bytes() == before and sorted(scan.parent.iterdir()) == [scan]


def test_output_that_is_a_file_is_a_usage_error(run, tmp_path):
    (tmp_path / "out").write_text("x")
    scan = write_scan(tmp_path / "in" / "scan.nrrd")
    code, _, err = run("segment", scan, "--output", tmp_path / "out")
    assert_one_clear_line(code, err, tmp_path)
    assert code == 2


@pytest.mark.parametrize("trouble", ["missing", "no description", "damaged description", "newer", "damaged weights"])
def test_an_unusable_model_is_a_usage_error(run, tmp_path, small_model, trouble):
    scan = write_scan(tmp_path / "in" / "scan.nrrd")
    model = tmp_path / "model"
    if trouble != "missing":
        model.mkdir()
        for file in small_model.iterdir():
            (model / file.name).write_bytes(file.read_bytes())
    if trouble == "no description":
        (model / "model.json").unlink()
    elif trouble == "damaged description":
        (model / "model.json").write_text("{")
    elif trouble == "newer":
        values = json.loads((model / "model.json").read_text())
        (model / "model.json").write_text(json.dumps({**values, "schema_version": 99}))
    elif trouble == "damaged weights":
        (model / "weights.pt").write_bytes(b"no weights")
    code, _, err = run("segment", scan, "--output", tmp_path / "out", model=model)
    assert_one_clear_line(code, err, tmp_path)
    assert code == 2


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_device_that_is_not_there_is_a_usage_error(run, tmp_path, device):
    import torch

    if {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[device]:
        pytest.skip(f"this machine has {device}")
    scan = write_scan(tmp_path / "in" / "scan.nrrd")
    code, _, err = run("segment", scan, "--output", tmp_path / "out", "--device", device)
    assert_one_clear_line(code, err, tmp_path)
    assert code == 2 and device in err


@pytest.fixture
def without_torch(tmp_path):
    """Environment of a Python in which torch is not installed."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import importlib.metadata as m, sys\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'torch': raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Blocker())\n"
        "real = m.version\n"
        "def version(name):\n"
        "    if name == 'torch': raise m.PackageNotFoundError(name)\n"
        "    return real(name)\n"
        "m.version = version\n"
    )
    return environment(PYTHONPATH=os.pathsep.join([str(folder), str(MODULE)]))


@pytest.mark.parametrize("program", ["command line", "batch script"])
def test_missing_torch_is_exit_code_3_and_one_line(tmp_path, small_model, without_torch, program):
    scan = write_scan(tmp_path / "in" / "scan.nrrd")
    words = [scan, "--output", tmp_path / "out", "--model", small_model]
    if program == "batch script":
        done = run_script(*words, env=without_torch)
    else:
        done = run_process("-m", "DDSPSegmentationLib.service.command_line", "segment", *words, env=without_torch)
    assert_one_clear_line(done.returncode, done.stderr)
    assert done.returncode == 3 and "PyTorch" in done.stderr


def test_info_works_without_torch(without_torch, small_model):
    done = run_process(
        "-m", "DDSPSegmentationLib.service.command_line", "info", "--model", small_model, env=without_torch
    )
    assert done.returncode == 0 and "torch: not installed" in done.stdout and "model: small" in done.stdout


# ---- segment


@pytest.mark.parametrize("form", ["seg.nrrd", "nii.gz"])
def test_segment_writes_a_mask_on_the_grid_of_the_scan(run, tmp_path, form):
    image, _ = make_scan()
    image.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0.2, -0.1, 0.3).GetMatrix())
    image.SetOrigin((-60.0, 33.0, 12.0))
    (tmp_path / "in").mkdir()
    sitk.WriteImage(image, str(tmp_path / "in" / "scan.nrrd"))
    code, out, err = run("segment", tmp_path / "in", "--output", tmp_path / "out", "--format", form)
    assert (code, err) == (0, "")
    mask = sitk.ReadImage(str(tmp_path / "out" / f"scan.{form}"))
    assert mask.GetSize() == image.GetSize()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert np.allclose(getattr(mask, name)(), getattr(image, name)(), atol=1e-4)
    reference = make_scan()[1]
    reference.CopyInformation(mask)
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(sitk.Cast(mask, sitk.sitkUInt8), reference)
    assert overlap.GetDiceCoefficient() > 0.9
    with open(tmp_path / "out" / "measurements.csv", newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    voxel = np.prod(image.GetSpacing()) / 1000
    assert float(row["volume_ml"]) == pytest.approx(sitk.GetArrayViewFromImage(mask).sum() * voxel, abs=0.01)
    assert "1 segmented, 0 unchanged, 0 failed" in out


def test_second_run_leaves_everything_as_it_is_until_the_threshold_changes(run, tmp_path):
    scan = write_scan(tmp_path / "in" / "scan.nrrd")
    words = ("segment", scan, "--output", tmp_path / "out")
    assert run(*words)[0] == 0
    assert "0 segmented, 1 unchanged" in run(*words)[1]
    assert "1 segmented, 0 unchanged" in run(*words, "--threshold", "0.4")[1]


def test_same_names_in_two_folders_are_kept_apart(run, tmp_path):
    for folder, seed in (("a", 0), ("b", 1)):
        write_scan(tmp_path / "in" / folder / "T2.nrrd", seed=seed)
    code, out, _ = run("segment", tmp_path / "in", "--output", tmp_path / "out")
    assert code == 0 and len(list((tmp_path / "out").glob("T2*.seg.nrrd"))) == 2 and "2 segmented" in out


def test_outputs_name_no_folder_of_this_machine(run, tmp_path):
    scan = write_scan(tmp_path / "geheim" / "scan.nrrd")
    damaged(tmp_path / "geheim", "truncated")
    run("segment", scan.parent, "--output", tmp_path / "out")
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file():
            assert b"geheim" not in path.read_bytes() and str(tmp_path).encode() not in path.read_bytes(), path


def test_letters_of_any_script_in_names_and_folders(run, tmp_path):
    scan = write_scan(tmp_path / "Ärzte 日本" / "Größe é.nrrd")
    code, _, err = run("segment", scan, "--output", tmp_path / "Ergebnis ü")
    assert (code, err) == (0, "") and len(list((tmp_path / "Ergebnis ü").glob("Gr*.seg.nrrd"))) == 1


def test_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path, small_model):
    """A limit on the size of files stands for the disk: the kernel refuses the write itself."""
    scan = write_scan(tmp_path / "in" / "scan.nrrd")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    done = run_process(
        "-m", "DDSPSegmentationLib.service.command_line", "segment", scan, "--output", tmp_path / "out",
        "--model", small_model, preexec_fn=limit,
    )  # fmt: skip
    assert done.returncode == 1 and "written: the disk is full" in done.stderr and "Traceback" not in done.stderr
    assert not [path for path in (tmp_path / "out").rglob("*") if path.suffix in (".png", ".nrrd")]


# ---- parts


def slurm(task, first=0, last=1, count=2):
    values = {"ID": task, "MIN": first, "MAX": last, "COUNT": count, "STEP": 1}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


@pytest.fixture
def in_array(monkeypatch):
    """Run as a task of a Slurm array."""

    def set_variables(*words, **named):
        for name, value in slurm(*words, **named).items():
            monkeypatch.setenv(name, value)

    return set_variables


def test_a_slurm_array_does_the_scans_in_parts_and_the_report_merges_them(run, tmp_path, in_array):
    scans = [write_scan(tmp_path / "in" / f"scan{seed}.nrrd", seed=seed) for seed in range(3)]
    folder = tmp_path / "out"
    in_array(0)
    code, out, _ = run("segment", *scans, "--output", folder)
    assert code == 0 and out.startswith("Part 0 of 2, by SLURM_ARRAY_TASK_ID=0 of 0 to 1.\n")
    assert f"ddsp-segmentation report {folder}" in out
    code, out, _ = run("report", folder, model=None)
    assert code == 1 and "missing: part 1 of 2: has not begun" in out
    in_array(1)
    assert run("segment", *scans, "--output", folder)[0] == 0
    code, out, _ = run("report", folder, model=None)
    assert code == 0 and "3 segmented, 0 failed, 0 missing" in out
    assert run("review", folder, model=None)[1].endswith("3 to review\n")


@pytest.mark.parametrize(
    ("array", "words", "said"),
    [
        ({"task": 3, "first": 3, "last": 7}, (), "is no row without gaps"),
        ({"task": 3, "first": 3, "last": 4}, ("--num-parts", "16"), "--num-parts says 16"),
        ({"task": 3, "first": 3, "last": 5, "count": 3}, (), "divided into 2 parts"),
        ({"task": 3, "first": 3, "last": 3, "count": 1}, (), "divided into 2 parts"),
    ],
)
def test_an_array_of_some_of_the_parts_never_divides_the_scans_anew(run, tmp_path, in_array, array, words, said):
    scan = write_scan(tmp_path / "in" / "scan.nrrd")
    parts = tmp_path / "out" / "parts"
    parts.mkdir(parents=True)
    (parts / "parts.json").write_text('{"schema_version": 1, "parts": 2}')
    in_array(**array)
    code, out, err = run("segment", scan, "--output", tmp_path / "out", *words)
    assert_one_clear_line(code, err, tmp_path)
    assert code == 2 and said in err and list(parts.iterdir()) == [parts / "parts.json"]


@pytest.mark.parametrize("words", [("--num-parts", "2"), ("--part-id", "1"), ("--num-parts", "2", "--part-id", "2")])
def test_a_part_that_is_half_named_is_a_usage_error(run, tmp_path, words):
    code, _, err = run("segment", write_scan(tmp_path / "scan.nrrd"), "--output", tmp_path / "out", *words)
    assert_one_clear_line(code, err)
    assert code == 2 and not (tmp_path / "out").exists()


# ---- review


def test_what_a_batch_found_is_listed_and_decided_from_the_shell(run, tmp_path, small_model):
    scans = [write_scan(tmp_path / "in" / f"scan{seed}.nrrd", seed=seed) for seed in range(2)]
    folder = tmp_path / "out"
    assert run("segment", *scans, "--output", folder)[0] == 0
    code, out, _ = run("review", folder, model=None)
    assert code == 0 and "scan0: to review" in out and out.endswith("2 to review\n")
    code, out, _ = run("review", folder, "scan1", "--state", "accepted", model=None)
    assert code == 0 and "scan1: accepted" in out and out.endswith("1 to review, 1 accepted\n")
    assert '<dd class="state">accepted</dd>' in (folder / "report.html").read_text(encoding="utf-8")
    for words in (("scan7", "--state", "accepted"), ("--state", "accepted"), ("scan0", "--state", "fine")):
        code, _, err = run("review", folder, *words, model=None)
        assert code != 0 and err.startswith("error: ")
    code, _, err = run("review", tmp_path, model=None)
    assert code == 1 and "is no folder of results" in err


# ---- what Slicer reads


def test_mask_file_has_name_color_and_terminology_in_slicer(tmp_path, scene):
    import slicer
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    from DDSPSegmentationLib.scene import results
    from DDSPSegmentationLib.scene.conversion import RAS_TO_LPS

    image, mask = make_scan()
    mask.SetSpacing((0.5, 0.7, 3.3))
    mask.SetOrigin((-31.0, 12.5, 88.0))
    mask.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0.25, -0.15, 0.4).GetMatrix())
    write_mask(mask, tmp_path / "scan.seg.nrrd")
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "scan.seg.nrrd"))
    assert storage.ReadData(node)
    segmentation = node.GetSegmentation()
    assert segmentation.GetNumberOfSegments() == 1
    segment = segmentation.GetNthSegment(0)
    assert segment.GetName() == "Prostate" == results.SEGMENT_NAME
    assert np.allclose(segment.GetColor(), SEGMENT_COLOR, atol=1e-5)
    terminology = vtk.reference("")
    assert segment.GetTag("TerminologyEntry", terminology) and str(terminology) == results.TERMINOLOGY
    labelmap = slicer.vtkOrientedImageData()
    assert node.GetBinaryLabelmapRepresentation(segmentation.GetNthSegmentID(0), labelmap)
    matrix = vtk.vtkMatrix4x4()
    labelmap.GetImageToWorldMatrix(matrix)
    expected = np.eye(4)
    expected[:3, :3] = np.reshape(mask.GetDirection(), (3, 3)) * mask.GetSpacing()
    expected[:3, 3] = mask.GetOrigin()
    found = np.array([[matrix.GetElement(i, j) for j in range(4)] for i in range(4)])
    extent = labelmap.GetExtent()
    start = found @ [extent[0], extent[2], extent[4], 1]
    voxels = vtk_to_numpy(labelmap.GetPointData().GetScalars()).reshape(
        extent[5] - extent[4] + 1, extent[3] - extent[2] + 1, extent[1] - extent[0] + 1
    )
    offset = np.round(np.linalg.inv(RAS_TO_LPS @ expected) @ start).astype(int)[:3]
    assert np.allclose(found[:3, :3], (RAS_TO_LPS @ expected)[:3, :3], atol=1e-4)
    whole = np.zeros(mask.GetSize()[::-1], np.uint8)
    whole[tuple(slice(o, o + n) for o, n in zip(offset[::-1], voxels.shape, strict=True))] = voxels
    assert (whole == sitk.GetArrayViewFromImage(mask)).all() and whole.any()


def test_the_batch_script_gives_the_mask_of_the_command_line(run, tmp_path, small_model):
    scans = [write_scan(tmp_path / "in" / f"scan{seed}.nrrd", seed=seed) for seed in range(2)]
    bad = damaged(tmp_path / "in", "one slice")
    words = (*scans, bad, "--model", small_model)
    done = run_script(*words, "--output", tmp_path / "script")
    assert done.returncode == 1, done.stderr
    assert_one_clear_line(done.returncode, done.stderr, tmp_path)
    code, _, _ = run("segment", *words, "--output", tmp_path / "direct", model=None)
    assert code == 1
    for name in ("scan0", "scan1"):
        ours, theirs = (sitk.ReadImage(str(tmp_path / place / f"{name}.seg.nrrd")) for place in ("script", "direct"))
        assert (sitk.GetArrayViewFromImage(ours) == sitk.GetArrayViewFromImage(theirs)).all()
        assert sitk.GetArrayViewFromImage(ours).any()
        assert np.allclose(ours.GetOrigin(), theirs.GetOrigin(), atol=1e-4)
        assert ours.GetMetaData("Segment0_Name") == theirs.GetMetaData("Segment0_Name") == "Prostate"
        for mask in (ours, theirs):
            tags = mask.GetMetaData("Segment0_Tags")
            assert "SCT^41216001^Prostate" in tags and "DICOM.SegmentAlgorithmType:AUTOMATIC|" in tags
            assert f"DICOM.SegmentAlgorithmName:DDSPSegmentation {__version__}|" in tags
        assert (tmp_path / "script" / f"{name}.png").read_bytes() == (tmp_path / "direct" / f"{name}.png").read_bytes()
    _, out, _ = run("segment", *words, "--output", tmp_path / "script", model=None)  # and takes its results for its own
    assert "0 segmented, 2 unchanged, 1 failed" in out


def test_the_command_line_needs_none_of_the_libraries_of_slicer(tmp_path, small_model):
    """What `make demo` shows: mask, picture, table and report, in a Python without slicer-core and vtk."""
    scan = write_scan(tmp_path / "in" / "scan.nrrd")
    words = ["segment", scan, "--output", tmp_path / "out", "--model", small_model]
    code = (
        "import sys; sys.modules.update(slicer=None, vtk=None, qt=None); "
        "from DDSPSegmentationLib.service.command_line import main; sys.exit(main(sys.argv[1:]))"
    )
    done = run_process("-c", code, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert {"scan.seg.nrrd", "scan.png", "measurements.csv", "report.html"} <= set(os.listdir(tmp_path / "out"))


SLICER_STAND_IN = """
import runpy, sys, types
codes = []
slicer = types.ModuleType("slicer")
slicer.app, slicer.util = object(), types.SimpleNamespace(exit=codes.append)
sys.modules["slicer"] = slicer
sys.modules["slicer.i18n"] = types.SimpleNamespace(tr=str)
sys.argv = {argv!r}
runpy.run_path({script!r}, run_name="__main__")
print("exit", codes)
"""


@pytest.mark.parametrize("mark", [["--"], []], ids=["with the mark", "without it"])
@pytest.mark.parametrize("words", [["--mode", "slow"], ["missing.nrrd", "--output", "out"]], ids=["usage", "missing"])
def test_in_slicer_the_script_ends_slicer_with_its_exit_code(tmp_path, small_model, mark, words):
    argv = ["Slicer" if mark else str(SCRIPT), *mark, *words, "--model", str(small_model)]
    code = SLICER_STAND_IN.format(argv=argv, script=str(SCRIPT))
    done = run_process("-c", code, cwd=tmp_path)
    assert done.stdout.split("\n")[-2] == "exit [2]"
    assert_one_clear_line(2, done.stderr)


def test_without_slicer_the_script_names_the_command_that_does_the_same(tmp_path):
    done = run_process(SCRIPT, "scan.nrrd", "--output", tmp_path / "out")
    assert_one_clear_line(done.returncode, done.stderr)
    assert "'ddsp-segmentation segment'" in done.stderr


@pytest.mark.parametrize("what", ["input", "folder of an input", "output"])
def test_names_longer_than_any_may_be_are_one_clear_line(run, tmp_path, what):
    scan, long = write_scan(tmp_path / "in" / "scan.nrrd"), tmp_path / ("q" * 300)
    words = {"input": (f"{long}.nrrd", tmp_path / "out"), "folder of an input": (long / "T2.nrrd", tmp_path / "out")}
    given, output = words.get(what, (scan, long))
    code, _, err = run("segment", given, "--output", output)
    assert_one_clear_line(code, err, tmp_path)
    assert code == 2 and not (tmp_path / "out").exists()


def test_a_coronal_stack_is_called_that(run, tmp_path):
    image, _ = make_scan(size=(40, 40, 40), spacing=(2.0, 2.0, 4.0))
    image.SetDirection((1, 0, 0, 0, 0, 1, 0, -1, 0))
    (tmp_path / "in").mkdir()
    sitk.WriteImage(image, str(tmp_path / "in" / "scan.nrrd"))
    code, _, err = run("segment", tmp_path / "in", "--output", tmp_path / "out")
    assert_one_clear_line(code, err, tmp_path)
    assert code == 1 and "coronal, not axial" in err


def test_maps_are_written_on_the_grid_of_the_scan_when_asked_for(run, tmp_path):
    scan = write_scan(tmp_path / "in" / "scan.nrrd")
    words = ("segment", scan, "--output", tmp_path / "out")
    assert run(*words)[0] == 0 and not list((tmp_path / "out").glob("scan.prob*"))
    code, out, err = run(*words, "--probability", "--uncertainty")
    assert (code, err) == (0, "") and "1 segmented, 0 unchanged" in out, "what is asked for besides is made"
    mask = sitk.ReadImage(str(tmp_path / "out" / "scan.seg.nrrd"))
    for name in ("probability", "uncertainty"):
        image = sitk.ReadImage(str(tmp_path / "out" / f"scan.{name}.nrrd"))
        assert image.GetSize() == mask.GetSize() and image.GetOrigin() == mask.GetOrigin()
        voxels = sitk.GetArrayFromImage(image)
        assert voxels.min() >= 0 and 0.3 < voxels.max() <= 1
    probability = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "scan.probability.nrrd")))
    inside = sitk.GetArrayFromImage(mask) > 0
    assert probability[inside].mean() > 0.6 > probability[~inside].mean()
    assert "0 segmented, 1 unchanged" in run(*words, "--probability", "--uncertainty")[1]
    (tmp_path / "out" / "scan.uncertainty.nrrd").unlink()
    assert "1 segmented" in run(*words, "--probability", "--uncertainty")[1]


def test_a_location_is_a_point_as_slicer_shows_it_in_one_scan(run, tmp_path):
    scan = write_scan(tmp_path / "in" / "scan.nrrd")
    words = ("segment", "--output", tmp_path / "out")
    code, _, err = run(*words, scan, "--location=40,40,28")  # LPS would lie in the scan, RAS is far from it
    assert code == 1 and "outside" in err
    assert run(*words, scan, "--location=-40,-40,28")[0] == 0
    for wrong in ("1,2", "a,b,c", "1,2,3,4"):
        code, _, err = run(*words, scan, f"--location={wrong}")
        assert_one_clear_line(code, err)
        assert code == 2
    other = write_scan(tmp_path / "in" / "other.nrrd")
    code, _, err = run(*words, scan, other, "--location=-40,-40,28")
    assert_one_clear_line(code, err)
    assert code == 2 and "one scan" in err


def test_a_box_around_the_gland_is_taken_by_its_middle_as_the_panel_takes_it(run, tmp_path):
    scan = write_scan(tmp_path / "in" / "scan.nrrd")
    chosen = [
        command_parser().parse_args(["segment", "T2.nrrd", "--output", "out", place]).location
        for place in ("--roi=-60,-50,8,-20,-30,48", "--roi=-20,-30,8,-60,-50,48", "--location=-40,-40,28")
    ]
    assert chosen == [(40, 40, 28)] * 3
    words = ("segment", scan, "--output", tmp_path / "out")
    code, _, err = run(*words, "--roi=30,30,8,50,50,48")  # far from the scan
    assert code == 1 and "outside" in err
    for wrong in (("--roi=1,2,3",), ("--roi=1,2,3,1,5,6",), ("--roi=1,2,3,4,5,6", "--location=1,2,3")):
        code, _, err = run(*words, *wrong)
        assert_one_clear_line(code, err)
        assert code == 2


def test_dicom_comes_out_of_dicom_alone_and_says_that_it_carries_the_patient(run, tmp_path):
    write_series(tmp_path / "in" / "series", tags={"0020|0052": "1.2.826.99.7"})
    write_scan(tmp_path / "in" / "other.nrrd")
    words = ("segment", tmp_path / "in", "--output", tmp_path / "out", "--format", "dicom-seg", "--psa", "6.5")
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    assert out.startswith("Note: the DICOM files will carry the patient's name and identifiers")
    assert "skipped other.nrrd: is no DICOM series" in out and "1 segmented" in out
    suffixes = {"".join(path.suffixes) for path in (tmp_path / "out").glob("case-*")}
    assert suffixes == {".seg.nrrd", ".seg.dcm", ".sr.dcm", ".png"}
    assert "0 segmented, 1 unchanged" in run(*words)[1]


def test_dicom_out_of_no_dicom_is_refused(run, tmp_path):
    scans = [write_scan(tmp_path / "in" / f"{name}.nrrd") for name in ("scan", "other", "third")]
    for count, said in ((1, "'scan.nrrd' is none"), (3, "none of the 3 scans found is one")):
        code, out, err = run("segment", *scans[:count], "--output", tmp_path / "out", "--format", "dicom-seg")
        assert_one_clear_line(code, err, tmp_path)
        assert code == 2 and f"--format dicom-seg is for DICOM series, and {said}. Give a DICOM series" in err
        assert out == "" and not (tmp_path / "out").exists()
    write_series(tmp_path / "in" / "series", tags={"0008|103e": "DWI"})
    code, _, err = run("segment", tmp_path / "in", "--output", tmp_path / "out", "--format", "dicom-seg")
    assert code == 2 and "none of the 3 scans found is one (passed over: " in err and "diffusion" in err


def test_dicom_out_without_a_highdicom_that_is_new_enough_is_refused(run, tmp_path, monkeypatch):
    versions = {"torch": importlib.metadata.version("torch"), "highdicom": "0.9.2"}
    monkeypatch.setattr(importlib.metadata, "version", versions.get)
    write_series(tmp_path / "in")
    code, _, err = run("segment", tmp_path / "in", "--output", tmp_path / "out", "--format", "dicom-seg")
    assert_one_clear_line(code, err, tmp_path)
    assert code == 2 and "pip install -U highdicom" in err and not (tmp_path / "out").exists()


def test_a_psa_is_one_patients_number_and_for_dicom_alone(run, tmp_path):
    for series in (1, 2):
        write_series(tmp_path / "in" / str(series), series=series, tags={"0020|0052": f"1.2.826.99.{series}"})
    words = ("segment", "--output", tmp_path / "out")
    dicom = (*words, "--format", "dicom-seg", tmp_path / "in")
    for wrong, said in (
        ((*dicom, "--psa=lots"), "not a number"),
        ((*dicom, "--psa=0"), "not above 0"),
        ((*dicom, "--psa=nan"), "not above 0"),
        ((*dicom, "--psa=6000"), "5000 at most"),
        ((*dicom, "--psa=6.5"), "Name one scan."),
        ((*words, tmp_path / "in" / "1", "--psa=6.5"), "Add --format dicom-seg."),
    ):
        code, _, err = run(*wrong)
        assert_one_clear_line(code, err, tmp_path)
        assert code == 2 and said in err
    assert not (tmp_path / "out").exists()


def test_a_series_without_a_telling_name_is_segmented_when_any_is_asked_for(run, tmp_path):
    write_series(tmp_path / "in", tags={"0008|103e": "Ax CUBE"})
    words = ("segment", tmp_path / "in", "--output", tmp_path / "out")
    code, _, err = run(*words)
    assert_one_clear_line(code, err)
    assert code == 2 and "--series any takes it" in err
    assert run(*words, "--series", "any")[0] == 0
    code, _, err = run(*words, "--series", "adc")
    assert_one_clear_line(code, err)


@pytest.mark.skipif(os.name == "nt", reason="Windows has neither signals nor pseudo-terminals")
def test_a_terminal_sees_what_is_done_and_a_signal_says_what_is_kept(tmp_path, small_model):
    import pty
    import signal

    scans = [write_scan(tmp_path / "in" / f"scan{number}.nrrd", seed=number) for number in range(30)]
    words = ["-m", "DDSPSegmentationLib.service.command_line", "segment", *scans, "--model", small_model]
    words = [sys.executable, *map(str, words), "--output", str(tmp_path / "out")]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(words, env=environment(), stdout=theirs, stderr=subprocess.PIPE, text=True)
    os.close(theirs)
    seen = b""
    while b"[2/30]" not in seen:
        seen += os.read(ours, 1000)
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(OSError):  # the end of a pseudo-terminal
        while more := os.read(ours, 1000):
            seen += more
    err = process.communicate(timeout=60)[1]
    os.close(ours)
    assert seen.startswith(b"\rLooking for scans") and b"[1/30] scan0: reading" in seen
    assert process.returncode == 1 and "their results are kept. Run the same command again" in err
    assert_one_clear_line(process.returncode, err)
    done = len(list((tmp_path / "out").glob("*.seg.nrrd")))
    assert 1 <= done < 30 and f"Stopped after {done} of 30 cases" in err


# ---- evaluate, train, info


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "dataset"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for seed in range(2):
        image, mask = make_scan(seed)
        mask.CopyInformation(image)
        sitk.WriteImage(image, str(folder / "images" / f"case{seed}.nii.gz"))
        sitk.WriteImage(mask, str(folder / "labels" / f"case{seed}.nii.gz"))
    return folder


@pytest.fixture
def quick_plans(monkeypatch):
    """Every plan trains a small network on small crops."""
    from DDSPSegmentationLib.learning import plans

    network = toy_plan().network
    small = {name: dataclasses.replace(plan, network=network) for name, plan in plans.PLANS.items()}
    monkeypatch.setattr(plans, "PLANS", small)


def test_evaluate_pairs_two_folders_of_masks(run, dataset, tmp_path):
    labels = dataset / "labels"
    code, out, err = run("evaluate", "--predictions", labels, "--references", labels, "--output", tmp_path / "out")
    assert (code, err) == (0, "") and (tmp_path / "out" / "cases.csv").is_file() and "1.000" in out


def test_evaluate_judges_a_model_on_a_data_set(run, dataset, tmp_path, small_model):
    code, out, err = run("evaluate", "--dataset", dataset, "--model", small_model, "--output", tmp_path / "out")
    assert (code, err) == (0, "") and "case0" in (tmp_path / "out" / "cases.csv").read_text() and "[1/2] case1" in out


def test_evaluate_says_that_nobody_names_the_patients_and_takes_masks_as_slicer_saves_them(
    run, dataset, tmp_path, small_model
):
    def evaluated() -> tuple[str, list[str]]:
        code, out, err = run("evaluate", "--dataset", dataset, "--model", small_model, "--output", tmp_path / "out")
        assert (code, err) == (0, "")
        with open(tmp_path / "out" / "cases.csv", newline="") as file:
            return out, [row["whole_dsc"] for row in csv.DictReader(file)]

    out, dice = evaluated()
    assert "Note: Nobody says whose 2 of these 2 scans are" in out and all(dice)
    (dataset / "index.csv").write_text("Case;Patient\ncase0;P-1\ncase1;P-2\n")
    for path in (dataset / "labels").iterdir():
        mask = sitk.ReadImage(str(path))
        shape = sitk.LabelShapeStatisticsImageFilter()
        shape.Execute(mask > 0)
        box = shape.GetBoundingBox(1)
        sitk.WriteImage(sitk.RegionOfInterest(mask, box[3:], box[:3]), str(path))
    assert evaluated()[1] == dice
    assert "Nobody says" not in evaluated()[0]


@pytest.mark.parametrize("words", [("--predictions", "missing", "--references", "missing"), ("--dataset", "missing")])
def test_evaluate_names_a_missing_folder(run, tmp_path, small_model, words):
    words = [str(tmp_path / word) if word == "missing" else word for word in words]
    code, _, err = run("evaluate", *words, "--model", small_model, "--output", tmp_path / "out")
    assert_one_clear_line(code, err, tmp_path)
    assert code == 2 and "missing" in err


def test_a_model_is_never_judged_silently_on_its_own_training_cases(run, dataset, tmp_path, quick_plans):
    train = ("train", "--dataset", dataset, "--device", "cpu", "--steps", "1")
    assert run(*train, "--output", tmp_path / "run", "--fold", "all")[0] == 0
    model = tmp_path / "run" / "model"
    _, out, _ = run("evaluate", "--dataset", dataset, "--model", model, "--output", tmp_path / "out")
    assert "trained on the patients of 2 of these 2 cases" in out
    more = tmp_path / "more"
    shutil.copytree(dataset, more)
    for part, image in zip(("images", "labels"), toy_scan(7), strict=True):
        sitk.WriteImage(image, str(more / part / "case1.nii.gz"))
    (more / "index.csv").write_text("case,patient\ncase0,P-1\ncase1,P-1\n")
    _, out, _ = run("evaluate", "--dataset", more, "--model", model, "--output", tmp_path / "patients")
    assert "trained on the patients of 2 of these 2 cases" in out, "one of them by its other scan"
    code, _, err = run(*train, "--output", tmp_path / "next", "--fold", "0", "--start-from", model)
    assert code == 2 and "was trained on 1 of the validation cases" in err


def test_train_never_replaces_an_earlier_run(run, dataset, tmp_path, quick_plans):
    words = ("train", "--dataset", dataset, "--output", tmp_path / "run", "--fold", "all", "--device", "cpu")
    assert run(*words, "--steps", "1")[0] == 0
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    code, _, err = run(*words, "--steps", "2")
    assert code == 2 and "already holds a training run" in err
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before


def test_train_leaves_a_model_that_segments(run, dataset, tmp_path, quick_plans):
    words = ("train", "--dataset", dataset, "--output", tmp_path / "run", "--fold", "all", "--device", "cpu")
    code, out, err = run(*words, "--steps", "1")
    assert (code, err) == (0, "")
    description = json.loads((tmp_path / "run" / "model" / "model.json").read_text())
    assert description["training"]["steps"] == 1 and description["training"]["cases"] == ["case0", "case1"]
    code, _, err = run("segment", dataset / "images" / "case0.nii.gz", "--output", tmp_path / "out",
                       model=tmp_path / "run" / "model")  # fmt: skip
    assert (code, err) == (0, "")
    code, _, err = run(*words, "--steps", "2", "--resume")
    assert (code, err) == (0, "")
    assert json.loads((tmp_path / "run" / "model" / "model.json").read_text())["training"]["steps"] == 2


@pytest.mark.parametrize(
    "words",
    [
        ("--dataset", "missing", "--fold", "all"),
        ("--dataset", "dataset", "--fold", "9"),
        ("--dataset", "dataset", "--fold", "all", "--start-from", "missing"),
        ("--dataset", "dataset", "--fold", "all", "--resume"),
    ],
    ids=["no data set", "no such fold", "no such model", "nothing to resume"],
)
def test_train_names_what_is_wrong(run, dataset, tmp_path, words):
    words = [str(tmp_path / word) if word in ("missing", "dataset") else word for word in words]
    code, _, err = run("train", *words, "--steps", "1", "--output", tmp_path / "run")
    assert_one_clear_line(code, err, tmp_path)
    assert code == 2


def test_info_shows_versions_devices_and_the_model(run, small_model):
    code, out, err = run("info", "--model", small_model)
    assert (code, err) == (0, "")
    for part in ("torch: ", "model: small (given), SHA-256 ", "terms: for tests", "networks: 1"):
        assert part in out
    assert "devices" not in out and "parameters" not in out
    whole = run("info", "--model", small_model, "--all")[1]
    assert whole.startswith(out) and "devices: cpu" in whole and "receptive field" in whole


def test_info_loads_neither_torch_nor_prints_dicts(small_model):
    code = (
        "import sys; from DDSPSegmentationLib.service.command_line import main; main(['info']);"
        "sys.exit('torch' in sys.modules)"
    )
    done = run_process("-c", code)
    assert done.returncode == 0 and "{" not in done.stdout
    assert "unseen_patients: one unseen network dice 0." in done.stdout


# ---- the model that ships


def test_built_in_model_segments_the_sample_scan(run, tmp_path):
    code, out, err = run("segment", SAMPLE, "--output", tmp_path / "out", model=None)
    assert (code, err) == (0, "")
    with open(tmp_path / "out" / "measurements.csv", newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert 10 < float(row["volume_ml"]) < 150
    assert 0.7 < float(row["expected_dice"]) < 1 and "calibrated" not in row["notices"]
    assert "ml, " in out and "expected Dice" in out
    mask = sitk.ReadImage(str(tmp_path / "out" / "ProstateX-0000.seg.nrrd"))
    assert mask.GetSize() == sitk.ReadImage(str(SAMPLE)).GetSize()
    assert (tmp_path / "out" / "ProstateX-0000.png").is_file()


def test_info_shows_the_built_in_model(run):
    code, out, err = run("info")
    assert (code, err) == (0, "") and "(built-in)" in out


# ---- model versions


@pytest.fixture
def second(home, small_model):
    """A version 'second' in the home folder's registry, no more than a candidate."""
    registry = ModelRegistry()
    assert home in registry.folder.parents
    figures = {"hold_out_summary": {"old": {"dice": 0.871}, "new": {"dice": 0.802}}}
    comparison = {"verdict": "worse", **figures, "cross_validation": {"dice_before": 0.85, "dice_after": 0.861}}
    return registry.publish(small_model, "second", {"comparison.json": json.dumps(comparison).encode()})


def model_of(folder):
    """Name and SHA-256 of the model that a batch's record names."""
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    return record["model_version"], record["model_sha256"]


def test_the_active_version_segments_unless_another_is_named(run, tmp_path, second):
    scan = write_scan(tmp_path / "in" / "scan.nrrd")
    assert run("models", "activate", "second")[0] == 0
    for number, (words, version) in enumerate((((), "second"), (("--model", BUILTIN), BUILTIN))):
        output = tmp_path / f"out{number}"
        code, _, err = run("segment", scan, "--output", output, *words, model=None)
        assert (code, err) == (0, "")
        assert model_of(output) == (version, describe_model(ModelRegistry().version(version).folder).sha256)


def test_a_scan_is_segmented_again_when_another_version_became_active(run, tmp_path, second):
    words = ("segment", write_scan(tmp_path / "in" / "scan.nrrd"), "--output", tmp_path / "out")
    assert "1 segmented, 0 unchanged" in run(*words, model=None)[1]
    run("models", "activate", "second")
    assert "1 segmented, 0 unchanged" in run(*words, model=None)[1]
    assert "0 segmented, 1 unchanged" in run(*words, "--model", second.folder, model=None)[1]


def test_a_damaged_active_version_stops_a_batch_before_its_first_scan(run, tmp_path, second):
    scan = write_scan(tmp_path / "in" / "scan.nrrd")
    run("models", "activate", "second")
    (second.folder / "weights.pt").write_bytes(b"x")
    for words in (("segment", scan, "--output", tmp_path / "out"), ("info",)):
        code, _, err = run(*words, model=None)
        assert_one_clear_line(code, err, tmp_path)
        assert code == 2 and "'second'" in err and ROLL_BACK in err
    assert not (tmp_path / "out").exists()
    code, out, _ = run("info", "--model", BUILTIN)
    assert code == 0 and "active version: none (" in out and "'second'" in out
    assert "No version is active: " in run("models")[1]
    assert run("models", "roll-back")[:2] == (0, f"'{BUILTIN}' is active again.\n")


@pytest.mark.parametrize("program", ["segment", "evaluate", "train", "info"])
def test_an_unknown_version_is_named_with_those_that_there_are(run, dataset, tmp_path, second, program):
    words = {
        "segment": (dataset / "images", "--output", tmp_path / "out", "--model"),
        "evaluate": ("--dataset", dataset, "--output", tmp_path / "out", "--model"),
        "train": ("--dataset", dataset, "--output", tmp_path / "out", "--fold", "all", "--start-from"),
        "info": ("--model",),
    }[program]
    code, _, err = run(program, *words, "third", model=None)
    assert_one_clear_line(code, err, tmp_path)
    assert code == 2 and "'third'" in err and f"'{BUILTIN}', 'second'" in err


def test_training_starts_from_and_evaluation_judges_a_version_by_its_name(run, dataset, tmp_path, second):
    words = ("train", "--dataset", dataset, "--output", tmp_path / "run", "--fold", "all", "--device", "cpu")
    assert run(*words, "--steps", "1", "--start-from", "second")[0] == 0
    description = json.loads((tmp_path / "run" / "model" / "model.json").read_text())
    assert description["training"]["parent"] == "second" and description["network"]["widths"] == [2, 4, 4]
    assert description["calibration"] == {}, "nobody has measured what comes of it"
    code, _, err = run("evaluate", "--dataset", dataset, "--model", "second", "--output", tmp_path / "out")
    assert (code, err) == (0, "")


@pytest.fixture
def five(tmp_path, small_model):
    """A data set of five patients, and a version of five networks that each left out two of their folds.

    The networks differ in the bias of their main output: 1, 2, 3, 4 and 5.
    """
    from DDSPSegmentationLib.engine.model import load_networks, save_model
    from DDSPSegmentationLib.engine.scan_identity import NOTHING_SEEN, ScanIdentity
    from DDSPSegmentationLib.learning.dataset import read_dataset, split_folds
    from DDSPSegmentationLib.learning.ensemble import LEFT_OUT

    folder = write_images_and_labels(tmp_path / "patients", [f"p{number}" for number in range(5)])
    cases = read_dataset(folder)
    fold_of = {name: number for number, names in enumerate(split_folds(cases, [folder])) for name in names}
    (network,), description = load_networks(small_model)
    networks = [copy.deepcopy(network) for _ in LEFT_OUT]
    for bias, member in enumerate(networks, 1):
        member.head1.bias.data[0] = bias
    save_model(
        tmp_path / "five",
        networks,
        description.preprocessing,
        members=[{"left_out": list(folds)} for folds in LEFT_OUT],
        seen=NOTHING_SEEN.with_training([(case.name, ScanIdentity(case.load_image())) for case in cases], fold_of),
        metrics={"dice_of_five": 0.9},
    )
    return folder, tmp_path / "five"


def started_from(run, five, fold, *words):
    """(exit code, out, err) of one step of training that leaves folds out, started from a version of five networks."""
    dataset, version = five
    words = ("--output", dataset.parent / f"run-{fold}", "--cache", dataset.parent / "cache", "--device", "cpu", *words)
    return run("train", "--dataset", dataset, "--fold", fold, "--steps", "1", "--start-from", version, *words)


@pytest.mark.parametrize(("fold", "number"), [("2", 2), ("4,0", 5), ("all", 1)])
def test_training_goes_on_from_the_first_network_that_saw_no_validation_patient(run, five, fold, number):
    from DDSPSegmentationLib.engine.model import load_networks

    code, out, err = started_from(run, five, fold)
    assert (code, err) == (0, "") and f"Starting from network {number} of the 5 of model 'five'" in out
    (network,), description = load_networks(five[0].parent / f"run-{fold}" / "model")
    assert float(network.head1.bias) == pytest.approx(number, abs=0.4)
    assert "dice_of_five" not in description.metrics, "that is what five networks reached together"
    (before, *_) = description.seen.groups
    assert [scan.name for scan in before.scans] == [f"p{place}" for place in range(5)], "all that the version saw"


def test_training_is_refused_where_every_network_saw_a_validation_patient(run, five):
    code, _, err = started_from(run, five, "0,2")
    assert_one_clear_line(code, err, five[0].parent)
    assert code == 2 and "Each of the 5 networks of model 'five' was trained on some of the 2 validation cases" in err
    assert "folds that one of them left out together" in err and "--fold all" in err


def test_training_from_a_single_network_keeps_what_it_measured(run, dataset, tmp_path, small_model):
    single = tmp_path / "single"
    shutil.copytree(small_model, single)
    about = json.loads((single / "model.json").read_text())
    (single / "model.json").write_text(json.dumps({**about, "metrics": {"dice": 0.9}}))
    words = ("train", "--dataset", dataset, "--output", tmp_path / "run", "--fold", "all", "--device", "cpu")
    code, out, _ = run(*words, "--steps", "1", "--start-from", single)
    assert code == 0 and "Starting from network" not in out
    measured = describe_model(tmp_path / "run" / "model").metrics
    assert measured == {"measured_on": f"parent version {about['version']}", "dice": 0.9}


def test_info_says_how_many_networks_a_version_has(run, five, small_model):
    assert "networks: 5\n" in run("info", "--model", five[1])[1]
    assert "networks: 1\n" in run("info", "--model", small_model)[1]


def test_help_says_what_each_mode_and_the_start_of_a_training_is(run):
    for program in ("segment", "evaluate"):
        words = " ".join(run(program, "--help", model=None)[1].split())
        assert "fast: one of them, for old processors, 0.6 s" in words
        assert "paper: one network on the plain central crop" in words and "full: 11 s" in words
    assert "first that saw no validation patient" in " ".join(run("train", "--help")[1].split())


def test_info_says_which_version_is_active(run, second, small_model):
    assert f"active version: {BUILTIN}" in run("info")[1]
    run("models", "activate", "second")
    out = run("info")[1]
    assert "model: second (active), SHA-256 " in out and "active version: second" in out
    out = run("info", "--model", small_model)[1]
    assert "model: small (given)" in out and "active version: second" in out


def test_models_lists_activates_and_rolls_back(run, second):
    code, out, err = run("models")
    assert (code, err) == (0, "") and run("models", "list")[1] == out
    assert out.startswith(f"* {BUILTIN}: ") and "\n  second: " in out
    assert "worse, hold-out Dice 0.871 -> 0.802, left-out Dice 0.850 -> 0.861" in out
    code, out, _ = run("models", "activate", "second")
    assert code == 0 and "says 'worse'" in out and "'second' is active." in out
    assert "* second: " in run("models")[1] and f"Rolling back activates '{BUILTIN}'." in run("models")[1]
    code, _, err = run("models", "delete", "second")
    assert_one_clear_line(code, err)
    assert code == 2 and "active version" in err
    assert run("models", "roll-back")[0] == 0
    code, _, err = run("models", "roll-back")
    assert_one_clear_line(code, err)
    assert run("models", "delete", "second")[0] == 0 and "second" not in run("models")[1]


def test_a_version_that_was_compared_with_another_than_the_active_one_says_so(run, second, small_model):
    record = {"schema_version": SCHEMA_VERSION, "recommendation": "activate", "verdict": "better",
              "old_version": BUILTIN, "sentences": ["It is better."]}  # fmt: skip
    ModelRegistry().publish(small_model, "third", {"comparison.json": json.dumps(record).encode()})
    assert "Note" not in run("models", "activate", "third")[1] and "Note" not in run("models", "activate", "third")[1]
    run("models", "activate", "second")
    out = run("models", "activate", "third")[1]
    assert f"Note: It was compared with {BUILTIN}, not with second. It is better." in out


@pytest.mark.parametrize("before", [True, False])
def test_a_version_goes_from_one_models_folder_to_another_as_one_file(run, tmp_path, second, before):
    path, other = tmp_path / "second.zip", ("--models", tmp_path / "other")
    assert run("models", "export", "second", path)[0] == 0
    code, out, _ = run("models", *(other if before else ()), "import", path, *(() if before else other))
    assert code == 0 and "'models activate second'" in out
    assert "  second: " in run("models", *other)[1] and (tmp_path / "other" / "versions" / "second").is_dir()
    path.write_bytes(path.read_bytes()[:-50])
    code, _, err = run("models", "import", path)
    assert_one_clear_line(code, err, tmp_path)
    assert code == 2 and "second.zip" in err


def test_a_damaged_version_is_listed_with_the_reason(run, second):
    (second.folder / "weights.pt").unlink()
    code, out, err = run("models")
    assert (code, err) == (0, "") and "second: cannot be used. 'weights.pt' of model 'second' is missing." in out


def test_the_batch_script_takes_the_active_version(run, tmp_path, second):
    scan = write_scan(tmp_path / "in" / "scan.nrrd")
    run("models", "activate", "second")
    done = run_script(scan, "--output", tmp_path / "script")
    assert done.returncode == 0, done.stderr
    assert model_of(tmp_path / "script") == ("second", second.description.sha256)
