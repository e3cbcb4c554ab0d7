"""The two commands of the README: what they say, and how requirements/install.sh makes and keeps .venv."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_demo_says_what_was_measured_and_where_it_is(tmp_path):
    (tmp_path / "measurements.csv").write_text(
        "case,volume_ml,left_right_mm,antero_posterior_mm,cranio_caudal_mm,expected_dice,warnings\n"
        "scan,41.5,50.0,33.5,42.0,0.91,Look at the apex.\n"
        "other,38.2,51.0,30.5,40.0,,\n",
        encoding="utf-8",
    )
    run = subprocess.run(
        [sys.executable, str(ROOT / "Testing/demo.py"), str(tmp_path)], capture_output=True, text=True, check=True
    )
    for said in (
        "41.5 ml",
        "50.0 x 33.5 x 42.0 mm",
        "expected Dice 0.91",
        "Look at the apex.",
        "51.0 x 30.5 x 40.0 mm\n",
    ):
        assert said in run.stdout
    assert run.stdout.count("expected Dice") == 1
    for file in ("scan.seg.nrrd", "scan.png", "report.html"):
        assert str(tmp_path / file) in run.stdout


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_every_dependency_is_pinned():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = re.search(r"^dependencies = \[(.*)\]$", project, re.MULTILINE).group(1)
    for name in re.findall(r'"([\w-]+)', declared):
        assert name in pins("run.txt")
    assert not set(pins("run.txt")) & set(pins("test.txt"))


def test_the_program_installs_none_of_the_libraries_of_slicer():
    assert not {"slicer-core", "vtk", "PySide6-Essentials"} & set(pins("run.txt"))


needs_shell = pytest.mark.skipif(os.name == "nt", reason="the Makefile is for Linux and macOS")


class Copy:
    """The set-up files in a folder of their own, with a stand-in for Python that notes what it is asked to do."""

    def __init__(self, folder: Path, answers: str = ""):
        self.folder = folder / "a folder"
        self.calls = folder / "calls"
        self.python = folder / "fake python"
        (self.folder / "requirements").mkdir(parents=True)
        for name in (
            "requirements/install.sh",
            "requirements/run.txt",
            "requirements/test.txt",
            "requirements/numpy1.txt",
            "pyproject.toml",
        ):
            (self.folder / name).write_bytes((ROOT / name).read_bytes())
        self.python.write_text(
            f"""#!/bin/sh
case "$*" in
{answers}
*venv-numpy1*) mkdir -p .venv-numpy1/bin; cp "$0" .venv-numpy1/bin/python; echo venv >> "{self.calls}" ;;
*"-m venv"*) rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python; echo venv >> "{self.calls}" ;;
*sysconfig*) echo .venv-numpy1 ;;
*"pip install"*)
    echo install >> "{self.calls}"
    case "$*" in *--quiet*) ;; *) echo "Collecting torch"; echo "Downloading torch" ;; esac
    SETUP=$PPID sh -c "$PIP_DOES" ;;
esac
""",
            encoding="utf-8",
        )
        self.python.chmod(0o755)

    def set_up(self, purpose: str = "run", python: str | None = None, pip: str = "") -> subprocess.CompletedProcess:
        self.calls.write_text("", encoding="utf-8")
        settings = {"PYTHON": python or str(self.python), "TORCH_INDEX": "", "PIP_DOES": pip}
        return subprocess.run(
            ["sh", "requirements/install.sh", purpose], cwd=self.folder, env=os.environ | settings,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def asked(self) -> list[str]:
        return self.calls.read_text(encoding="utf-8").split()


@needs_shell
def test_setup_says_what_to_install_when_there_is_no_python(tmp_path):
    copy = Copy(tmp_path)
    run = copy.set_up(python="no-such-python")
    assert run.returncode == 1 and not (copy.folder / ".venv").exists()
    assert "no-such-python" in run.stderr and "sudo apt install python3" in run.stderr


@needs_shell
def test_setup_refuses_an_unsupported_python(tmp_path):
    run = Copy(tmp_path, "*version_info*) exit 1 ;;").set_up()
    assert run.returncode == 1 and "No usable Python 3.10, 3.11 or 3.12" in run.stderr


@needs_shell
def test_setup_says_what_to_install_when_the_venv_module_is_missing(tmp_path):
    run = Copy(tmp_path, "*ensurepip*) exit 1 ;;\n*print*) echo 3.11 ;;").set_up()
    assert run.returncode == 1 and "sudo apt install python3.11-venv" in run.stderr


@needs_shell
def test_a_first_setup_shows_its_steps_and_not_the_lines_of_pip(tmp_path):
    run = Copy(tmp_path).set_up()
    steps = run.stderr.splitlines()
    assert [line.split()[0] for line in steps] == ["Creating", "Installing", "Installing"] and run.stdout == ""
    assert "some minutes" in steps[1]


@needs_shell
def test_a_second_setup_has_nothing_to_do(tmp_path):
    copy = Copy(tmp_path)
    assert copy.set_up().returncode == 0 and copy.asked() == ["venv", "install", "install"]
    assert copy.set_up().returncode == 0 and copy.asked() == []
    assert copy.set_up("test").returncode == 0 and copy.asked() == ["install"]
    assert copy.set_up("test").returncode == 0 and copy.asked() == []


@needs_shell
def test_the_older_numpy_stands_in_front_of_the_packages_of_the_first_environment(tmp_path):
    copy = Copy(tmp_path)
    assert copy.set_up("numpy1").returncode == 0
    assert copy.asked() == ["venv", "install", "install", "install", "venv", "install"]
    assert (copy.folder / ".venv-numpy1" / "everything-else.pth").read_text() == ".venv-numpy1\n"
    assert copy.set_up("numpy1").returncode == 0 and copy.asked() == []
    assert copy.set_up("test").returncode == 0 and copy.asked() == []
    shutil.rmtree(copy.folder / ".venv-numpy1")
    assert copy.set_up("numpy1").returncode == 0 and copy.asked() == ["venv", "install"]


@needs_shell
def test_a_changed_pin_is_installed_into_the_same_environment(tmp_path):
    copy = Copy(tmp_path)
    copy.set_up()
    with open(copy.folder / "requirements/run.txt", "a", encoding="utf-8") as file:
        file.write("another==1.0\n")
    assert copy.set_up().returncode == 0 and copy.asked() == ["install", "install"]


@needs_shell
def test_a_moved_folder_is_installed_again(tmp_path):
    copy = Copy(tmp_path)
    copy.set_up()
    copy.folder = copy.folder.rename(tmp_path / "another folder")
    assert copy.set_up().returncode == 0 and copy.asked() == ["install", "install"]


@needs_shell
@pytest.mark.parametrize("purpose", ["run", "test"])
def test_a_killed_setup_begins_with_a_new_environment(tmp_path, purpose):
    copy = Copy(tmp_path)
    if purpose == "test":
        copy.set_up()
    killed = copy.set_up(purpose, pip="kill -9 $SETUP")
    assert killed.returncode == -9
    assert copy.set_up().returncode == 0 and copy.asked() == ["venv", "install", "install"]


@needs_shell
def test_a_setup_that_pip_refuses_says_so_and_is_tried_again(tmp_path):
    copy = Copy(tmp_path)
    run = copy.set_up(pip="echo 'ERROR: No matching distribution' >&2; exit 1")
    assert run.returncode == 1 and "pip could not install" in run.stderr
    assert "ERROR: No matching distribution" in run.stderr
    assert copy.set_up().returncode == 0 and copy.asked() == ["install", "install"]
