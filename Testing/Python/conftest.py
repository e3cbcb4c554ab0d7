"""What every test may use: the package on the path, the shared real scans, one thread for exact figures."""

import os
import sys
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "DDSPSegmentation"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import pytest  # noqa: E402

pytest_plugins = ["scene_plugin", "panel_plugin"]


def shared_data() -> Path:
    """Folder of the real scans with expert masks, beside the checkout or named by DDSP_SHARED_DATA."""
    return Path(os.environ.get("DDSP_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def real_scans() -> Path:
    folder = shared_data()
    if not folder.is_dir():
        pytest.skip("the real scans are not on this machine (DDSP_SHARED_DATA names their folder)")
    return folder


@pytest.fixture(scope="session")
def sample_scan() -> Path:
    """The bundled ProstateX scan."""
    return REPOSITORY / "DDSPSegmentation" / "Resources" / "SampleData" / "ProstateX-0000.nrrd"


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch) -> Path:
    """A home folder without cases and models, whoever runs the tests."""
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path_factory.getbasetemp() / "matplotlib"))  # its fonts, found once
    folder = tmp_path_factory.mktemp("home")
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(folder))
    return folder


@pytest.fixture(autouse=True)
def unflushed(monkeypatch):
    """The disk's own pace is left out; a busy one takes seconds for what a test writes."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def one_thread():
    """Sums do not depend on how many threads share them."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
