"""The wheel and the source archive: what lies in them, and that they work in any folder, far from the repository."""

import email
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from DDSPSegmentationLib import __version__
from DDSPSegmentationLib.engine.resources import resource_folder

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "DDSPSegmentation"
LIBRARY = "DDSPSegmentationLib"
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"
# As pip writes it for [project.scripts].
COMMAND = "import sys\nfrom DDSPSegmentationLib.service.command_line import main\nsys.exit(main())\n"


def build(kind: str, sources: Path, output: Path) -> Path:
    """What ``python -m build`` does with the backend, without network."""
    pytest.importorskip("setuptools", reason="the build backend is not installed here")
    run = subprocess.run([sys.executable, "-c", BUILD, f"build_{kind}", str(output)],
                         cwd=sources, capture_output=True, text=True, check=False)  # fmt: skip
    assert run.returncode == 0, run.stderr
    return output


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel that is built from the source archive alone."""
    folder = tmp_path_factory.mktemp("build")
    sources = folder / "sources"
    shutil.copytree(MODULE, sources / MODULE.name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    with tarfile.open(next(build("sdist", sources, folder / "dist").glob("*.tar.gz"))) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    assert unpacked.name == f"ddsp_segmentation-{__version__}"
    return next(build("wheel", unpacked, folder / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    """A site-packages with the wheel, and with a foreign folder that has the name of ours."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    (folder / "Resources" / "Models").mkdir(parents=True)
    return folder


def installed(site: Path, folder: Path, *words: object) -> subprocess.CompletedProcess:
    """The installed command, started in a folder whose files have the names of modules."""
    command = folder / "bin" / "ddsp-segmentation"
    command.parent.mkdir(exist_ok=True)
    command.write_text(COMMAND, encoding="utf-8")
    here = folder / "Prostatë scans"
    here.mkdir(exist_ok=True)
    if sys.version_info >= (3, 11):
        for name in ("random.py", "numpy.py", f"{LIBRARY}.py"):
            (here / name).write_text("raise RuntimeError('a file of the working directory was imported')\n")
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(command), *map(str, words)],
        cwd=here, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=300, check=False,
    )  # fmt: skip


def test_the_wheel_holds_all_that_runs_without_slicer_with_weights_sample_and_their_terms(wheel):
    with zipfile.ZipFile(wheel) as archive:
        there = {name for name in archive.namelist() if ".dist-info/" not in name}
    library = {path for path in (MODULE / LIBRARY).rglob("*.py") if "scene" not in path.relative_to(MODULE).parts}
    resources = {path for name in ("Models", "SampleData") for path in (MODULE / "Resources" / name).rglob("*")}
    wanted = {path.relative_to(MODULE).as_posix() for path in library}
    wanted |= {f"{LIBRARY}/{path.relative_to(MODULE).as_posix()}" for path in resources if path.is_file()}
    wanted.add(f"{LIBRARY}/py.typed")
    assert there == wanted, f"missing: {sorted(wanted - there)}; too much: {sorted(there - wanted)}"
    assert {"weights.pt", "model.json", "TERMS.md", "ATTRIBUTION.md"} <= {Path(name).name for name in there}


def test_the_wheel_says_what_this_version_is_and_under_which_terms(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        said = email.message_from_bytes(archive.read(name))
        starts = archive.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert said["Version"] == __version__ and "figures" in said.get_all("Provides-Extra")
    assert said["License-Expression"] == "Apache-2.0 AND CC-BY-3.0 AND LicenseRef-research-use-only"
    assert {Path(file).name for file in said.get_all("License-File")} == {"LICENSE", "TERMS.md", "ATTRIBUTION.md"}
    assert re.search(r"^ddsp-segmentation = DDSPSegmentationLib\.service\.command_line:main$", starts, re.MULTILINE)


def test_the_version_stands_in_one_place():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'"{__version__}"' not in project and re.search(r"^version = \{ attr = ", project, re.MULTILINE)


def test_resources_of_the_repository_lie_beside_the_library():
    assert resource_folder() == MODULE / "Resources"


def test_the_installed_command_finds_its_own_model_from_any_folder(site, tmp_path):
    run = installed(site, tmp_path, "info")
    assert run.returncode == 0, run.stderr
    assert f"DDSPSegmentation {__version__}," in run.stdout and "(built-in)" in run.stdout


def test_the_installed_command_segments_its_own_sample_from_any_folder(site, tmp_path):
    (sample,) = (site / LIBRARY / "Resources" / "SampleData").glob("*.nrrd")
    run = installed(site, tmp_path, "segment", sample, "--mode", "fast", "--output", tmp_path / "results")
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "results" / f"{sample.stem}.seg.nrrd").is_file()
