"""The question about PyTorch and what a yes does: real imports, stand-ins for the extension and its manager."""

import shutil
import subprocess
import sys
import sysconfig
from collections import namedtuple
from types import ModuleType, SimpleNamespace

import pytest
import slicer

from DDSPSegmentationLib.engine.errors import TorchMissingError
from DDSPSegmentationLib.scene.torch_installation import find_missing
from DDSPSegmentationLib.service.runner import require_torch

pytestmark = pytest.mark.usefixtures("scene", "computer")
INSTALL = "Install PyTorch"
CHECK_NETWORK = (
    "Check the connection to the internet and try again. Behind a proxy, set the environment variable HTTPS_PROXY and "
    "start Slicer from there. The details are in View > Error Log."
)
BY_HAND = (
    "In the Python console (View > Python Console), run slicer.util.pip_install('torch>=2.4'), then press Segment "
    "Prostate again."
)
# The extension's module as far as it matters here: it notes what it is asked, and pip's part is done by the test.
PYTORCH_UTILS = """
calls = []
outcome = None

class PyTorchUtilsLogic:
    def installTorch(self, askConfirmation=False, forceComputationBackend=None, torchVersionRequirement=None):
        calls.append((askConfirmation, forceComputationBackend, torchVersionRequirement))
        return outcome()

    def torchInstalled(self):
        raise AssertionError("loads torch into Slicer")
"""


class Packages:
    """What importlib.metadata finds: real .dist-info folders."""

    def __init__(self, folder):
        self.folder = folder

    def install(self, name, version):
        for earlier in self.folder.glob(f"{name}-*.dist-info"):
            shutil.rmtree(earlier)
        record = self.folder / f"{name}-{version}.dist-info"
        record.mkdir()
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """An installation with SimpleITK and numpy and without torch, which is not loaded either."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    found = Packages(folder)
    found.install("SimpleITK", "2.5.0")
    found.install("numpy", "2.0.2")
    rest = [entry for entry in sys.path if "site-packages" not in entry]
    monkeypatch.setattr(sys, "path", [str(folder), *rest])
    for name in [name for name in sys.modules if name.split(".")[0] in ("torch", "PyTorchUtils")]:
        monkeypatch.delitem(sys.modules, name)
    return found


@pytest.fixture
def computer(packages, monkeypatch):
    """An ordinary one: room on the disk, no NVIDIA driver, no Mac, and a Slicer without an extension manager."""
    monkeypatch.setattr(slicer, "app", SimpleNamespace(), raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(packages.folder))
    free_space(monkeypatch, 50)


def free_space(monkeypatch, gigabytes):
    usage = namedtuple("usage", "total used free")(int(100e9), 0, int(gigabytes * 1e9))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)


@pytest.fixture
def extension(packages):
    """The extension's module on the path, found and imported as any other."""
    (packages.folder / "PyTorchUtils.py").write_text(PYTORCH_UTILS)

    class Extension:
        outcome = staticmethod(lambda: packages.install("torch", "2.9.0"))

        def accept(self):
            missing = find_missing()
            __import__("PyTorchUtils").outcome = self.outcome
            return missing.install()

        @property
        def calls(self):
            return sys.modules["PyTorchUtils"].calls

    yield Extension()
    sys.modules.pop("PyTorchUtils", None)


class ExtensionsManager:
    """As qSlicerExtensionsManagerModel, which says True although the download failed."""

    def __init__(self, reachable=True, offered=True, downloads=True, installed=False):
        self.reachable, self.offered, self.downloads, self.installed = reachable, offered, downloads, installed
        self.interactive = True
        self.calls = []

    def isExtensionInstalled(self, name):
        return self.installed and name == "PyTorch"

    def updateExtensionsMetadataFromServer(self, force, wait):
        self.calls.append(("update", force, wait))
        return self.reachable

    def extensionMetadata(self, name, source):
        assert source == 2
        return {"extensionname": name} if self.offered else {}

    def installExtensionFromServer(self, name, restart, update):
        self.calls.append(("install", name, restart, update, self.interactive))
        self.installed = self.downloads
        return True


@pytest.fixture
def manager(monkeypatch):
    def install(**options):
        model = ExtensionsManager(**options)
        monkeypatch.setattr(slicer.app, "extensionsManagerModel", lambda: model, raising=False)
        return model

    return install


def failure(action):
    """Cause and next step of the error that an action ends in."""
    with pytest.raises(TorchMissingError) as caught:
        action()
    return caught.value.cause, caught.value.next_step


def refusal():
    return failure(find_missing)


def missing_torch():
    """What the runner says is wrong, and its advice."""
    return failure(require_torch)


def pip_failed():
    raise subprocess.CalledProcessError(1, ["PythonSlicer", "-m", "light_the_torch"])


# ---- the question


@pytest.mark.parametrize("version", ["2.4.0", "2.9.0+cu128"])
def test_nothing_is_asked_when_torch_is_there(packages, version):
    packages.install("torch", version)
    assert find_missing() is None


def test_the_question_says_size_minutes_and_what_is_sent(extension):
    missing = find_missing()
    assert missing.question == "Install PyTorch now?" and missing.details == (
        f"{missing_torch()[0]} About 200 MB are downloaded, which takes 1 to 15 minutes; "
        "Slicer's window does not answer meanwhile. Nothing is sent but the request for the download."
    )
    assert missing.accept == INSTALL
    assert missing.refused == "Without PyTorch nothing can be segmented. Press Segment Prostate to be asked again."


def test_a_computer_with_an_nvidia_driver_is_told_the_larger_size(extension, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi" if name == "nvidia-smi" else None)
    assert "About 2 to 3 GB, for this computer's NVIDIA GPU, are downloaded" in find_missing().details


def test_a_torch_that_is_too_old_is_named_in_the_question(packages, extension):
    packages.install("torch", "2.2.2")
    assert find_missing().details.startswith(missing_torch()[0]) and "2.2.2" in find_missing().details


def test_asking_loads_neither_torch_nor_the_extension(extension):
    find_missing()
    assert "torch" not in sys.modules
    assert "PyTorchUtils" not in sys.modules


def test_an_extension_that_slicer_has_loaded_already_is_found(monkeypatch):
    monkeypatch.setitem(sys.modules, "PyTorchUtils", ModuleType("PyTorchUtils"))
    assert find_missing().accept == INSTALL


def test_the_extension_is_asked_for_first_when_it_is_missing(manager):
    model = manager()
    missing = find_missing()
    assert missing.question == "Install Slicer's extension 'PyTorch' now?" and missing.details == (
        f"{missing_torch()[0]} This extension installs it. It is smaller than 1 MB and takes less than a minute, in "
        "which Slicer's window does not answer; then Slicer must be restarted. You are asked again before PyTorch "
        "itself is downloaded, about 200 MB in 1 to 15 minutes. Nothing is sent but the request for the download."
    )
    assert missing.accept == "Install the PyTorch extension"
    assert model.calls == []


# ---- nothing to offer


@pytest.mark.parametrize("app", [SimpleNamespace(), SimpleNamespace(extensionsManagerModel=lambda: None)])
def test_a_slicer_without_extension_manager_tells_how_to_install_by_hand(monkeypatch, app):
    monkeypatch.setattr(slicer, "app", app)
    assert refusal() == (missing_torch()[0], BY_HAND)


def test_outside_slicer_the_runner_s_own_advice_is_given(monkeypatch):
    monkeypatch.delattr(slicer, "app")
    assert refusal() == missing_torch()


def test_an_extension_that_waits_for_a_restart_is_not_installed_again(manager):
    manager(installed=True)
    assert refusal() == (
        f"{missing_torch()[0]} The extension 'PyTorch', which installs it, is not loaded.",
        "Restart Slicer; if that does not help, enable the extension in the Extensions Manager.",
    )


def test_an_intel_mac_is_told_that_there_is_no_torch_for_it(extension, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert "There is no PyTorch 2.4 for Intel Macs" in refusal()[1]
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert find_missing().accept == INSTALL


# ---- installing PyTorch


def test_the_extension_is_called_once_without_a_message_box(extension):
    assert extension.accept() == "PyTorch 2.9.0 is installed. Press Segment Prostate again."
    assert extension.calls == [(False, None, ">=2.4")]
    assert find_missing() is None


def test_an_old_torch_is_replaced(packages, extension):
    packages.install("torch", "1.13.1")
    assert "2.9.0" in extension.accept()
    assert extension.calls == [(False, None, ">=2.4")]


def test_a_slicer_that_has_the_old_torch_loaded_is_to_be_restarted(packages, extension, monkeypatch):
    packages.install("torch", "1.13.1")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())
    assert extension.accept() == (
        "PyTorch 2.9.0 is installed. Slicer still uses the old one: restart it, then press Segment Prostate."
    )


def test_a_torch_in_use_that_cannot_be_replaced_asks_for_a_restart_first(packages, extension, monkeypatch):
    packages.install("torch", "1.13.1")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())
    extension.outcome = pip_failed
    assert failure(extension.accept) == (
        f"{missing_torch()[0]} It could not be replaced while Slicer uses it.",
        "Restart Slicer and press Segment Prostate before any other module uses PyTorch.",
    )


def test_a_failed_download_names_connection_and_proxy(extension):
    extension.outcome = pip_failed
    assert failure(extension.accept) == ("PyTorch could not be downloaded.", CHECK_NETWORK)


def test_another_failure_says_its_reason_in_one_line(extension):
    def outcome():
        raise RuntimeError("PythonSlicer executable not found.\nsecond line")

    extension.outcome = outcome
    assert failure(extension.accept) == (
        "PyTorch could not be installed: PythonSlicer executable not found.",
        BY_HAND,
    )


def test_an_extension_that_does_nothing_is_no_success(extension):
    extension.outcome = lambda: None
    assert failure(extension.accept) == (missing_torch()[0], BY_HAND)


def test_a_torch_that_does_not_load_after_the_installation_asks_for_a_restart(packages, extension):
    def outcome():
        packages.install("torch", "2.9.0")
        raise OSError("c10.dll not found")

    extension.outcome = outcome
    assert failure(extension.accept) == (
        "PyTorch 2.9.0 is installed but cannot be loaded: c10.dll not found.",
        "Restart Slicer and press Segment Prostate again.",
    )


@pytest.mark.parametrize("pip_fails", [False, True])
def test_packages_of_slicer_that_were_replaced_are_named(packages, extension, pip_fails):
    def outcome():
        packages.install("torch", "2.9.0")
        packages.install("numpy", "2.3.1")
        if pip_fails:
            pip_failed()

    extension.outcome = outcome
    assert failure(extension.accept) == (
        "Installing PyTorch replaced packages that belong to Slicer: numpy 2.0.2 > 2.3.1.",
        "Save your work and reinstall Slicer; other modules may not work until then.",
    )


@pytest.mark.parametrize(("gpu", "free", "needed"), [(False, 0.4, 1), (True, 5.2, 6)])
def test_too_little_room_is_found_before_anything_is_downloaded(extension, packages, monkeypatch, gpu, free, needed):
    free_space(monkeypatch, free)
    monkeypatch.setattr(shutil, "which", lambda name: "nvidia-smi" if gpu else None)
    assert failure(extension.accept) == (
        f"PyTorch needs about {needed} GB, and {free} GB are free where Slicer is installed.",
        f"Free disk space there ({packages.folder}), then press Segment Prostate again.",
    )
    assert extension.calls == []


def test_a_folder_that_cannot_be_written_to_is_found_before_anything_is_downloaded(extension, packages, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(packages.folder / "nowhere"))
    cause, next_step = failure(extension.accept)
    assert cause == f"Slicer's folder of Python packages cannot be written to: {packages.folder / 'nowhere'}."
    assert next_step.startswith("Ask an administrator")
    assert extension.calls == []


# ---- installing the extension


def test_the_extension_is_installed_without_boxes_and_without_a_restart_of_ours(manager):
    model = manager()
    assert find_missing().install() == (
        "The extension 'PyTorch' is installed. Restart Slicer, then press Segment Prostate to install PyTorch."
    )
    assert model.calls == [("update", True, True), ("install", "PyTorch", False, False, False)]
    assert model.interactive is True


def test_a_server_that_does_not_answer_names_connection_and_proxy(manager):
    model = manager(reachable=False)
    assert failure(find_missing().install) == (
        "The server of Slicer's extensions could not be reached.",
        CHECK_NETWORK,
    )
    assert model.calls == [("update", True, True)]


def test_an_extension_that_is_not_offered_for_this_slicer_tells_how_to_install_by_hand(manager):
    manager(offered=False)
    assert failure(find_missing().install) == (
        "There is no extension 'PyTorch' for this version of Slicer.",
        BY_HAND,
    )


def test_a_download_that_fails_although_the_manager_says_yes_is_noticed(manager):
    model = manager(downloads=False)
    assert failure(find_missing().install) == ("The extension 'PyTorch' could not be downloaded.", CHECK_NETWORK)
    assert model.interactive is True
