"""pytest plugin for the panel: one warm worker for all tests, and the module opened in a window."""

import pytest


@pytest.fixture(scope="session")
def warm_worker(tmp_path_factory):
    """A real worker process that outlives the panels of single tests."""
    from slicer_stand_in import window

    from DDSPSegmentationLib.scene.headless_host import start
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
    yield person
    warm_worker.cancel()
    closeModule("DDSPSegmentation")
    warm_worker.onStateChanged = None
    assert wait_for(lambda: warm_worker.state in ("off", "ready"))
