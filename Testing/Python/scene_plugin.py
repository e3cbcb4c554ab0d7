"""pytest plugin for the Slicer side: an empty MRML scene a test, and Slicer's window where a test wants it."""

import pytest
from headless_host import start

CONTRACT = "test_slicer_contract.py"


@pytest.fixture
def scene():
    """slicer.mrmlScene, emptied before and after."""
    host = start()
    host.scene.Clear(0)
    yield host.scene
    host.scene.Clear(0)


@pytest.fixture
def slicer_window(scene):
    """slicer.app of a Slicer with a main window, views and the packages that scripts import there."""
    from slicer_stand_in import window

    with window(start()) as application:
        yield application


@pytest.fixture
def slicer_without_window(scene):
    """slicer.app of a Slicer that was started with --no-main-window."""
    from slicer_stand_in import window

    with window(start(), hasLayout=False) as application:
        yield application


@pytest.fixture(autouse=True)
def contract_host(request):
    """The contract with Slicer runs in a window, without asking for it."""
    if request.path.name == CONTRACT:
        request.getfixturevalue("slicer_window")


def pytest_collect_file(file_path, parent):
    """The contract imports qt and slicer's own packages at its head."""
    if file_path.name == CONTRACT:
        start()
        from slicer_stand_in import install

        install()
