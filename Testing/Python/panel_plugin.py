"""pytest plugin for the panel: one warm worker for all tests, and the module opened in a window."""

import importlib.metadata
import itertools
import sys
import warnings

import pytest


@pytest.fixture(scope="session")
def warm_worker(tmp_path_factory):
    """A real worker process that outlives the panels of single tests."""
    from headless_host import start
    from slicer_stand_in import window

    from DDSPSegmentationLib.scene.worker_client import WorkerClient

    with window(start()):
        client = WorkerClient(tmp_path_factory.mktemp("worker"))
    yield client
    with window(start()):
        client.stop(wait=True)


@pytest.fixture
def person(slicer_window, warm_worker, monkeypatch):
    """Somebody in front of the panel, with an empty scene and a warm worker; the bias field is off, for speed."""
    from panel_parts import MODULE_FILE, Person, wait_for
    from slicer_stand_in import closeModule, openModule

    from DDSPSegmentationLib.scene import shared_worker

    monkeypatch.setattr(shared_worker, "_worker", warm_worker)
    monkeypatch.setattr("DDSPSegmentationLib.scene.panel.panel.end_shared_worker", lambda: None)
    person = Person(openModule(MODULE_FILE))
    person.ui.biasFieldCheckBox.checked = False
    person.ui.moreFiguresGroupBox.collapsed = False
    clicks = person.panel.segment.doubleClick, person.panel.reviewList.nextDoubleClick
    for watched in (*clicks, person.panel.reviewList.rejectDoubleClick):
        watched.now = itertools.count().__next__  # no two clicks of a test are a double click
    yield person
    warm_worker.cancel()
    closeModule("DDSPSegmentation")
    warm_worker.onStateChanged = None
    assert wait_for(lambda: warm_worker.state in ("off", "ready"))


@pytest.fixture
def t2(person):
    """The bundled scan, chosen in the panel."""
    from panel_parts import load_sample, wait_for

    volume = load_sample()
    assert wait_for(lambda: person.volume is volume)
    return volume


@pytest.fixture
def segmented(person, t2):
    """Somebody who has segmented the bundled scan; an observer that is added or removed twice fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        person.segment_at_once()
        yield person


@pytest.fixture
def same_package():
    """The package as it was before a test that reloads the module: later tests have its classes."""
    packages = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "DDSPSegmentationLib"}
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "DDSPSegmentationLib"]:
        del sys.modules[name]
    sys.modules.update(packages)


@pytest.fixture
def own_worker(same_package, slicer_window):
    """The engine of a Slicer by itself, for tests of how it ends."""
    from slicer_stand_in import closeModule

    yield
    closeModule("DDSPSegmentation")


@pytest.fixture
def no_torch(monkeypatch):
    """A Python in which PyTorch is not installed."""
    installed = importlib.metadata.version

    def version(name):
        if name == "torch":
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
