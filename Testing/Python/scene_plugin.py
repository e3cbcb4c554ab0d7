"""pytest plugin for the Slicer side: an empty MRML scene a test."""

import pytest

from DDSPSegmentationLib.scene.headless_host import start


@pytest.fixture
def scene():
    """slicer.mrmlScene, emptied before and after."""
    host = start()
    host.scene.Clear(1)
    yield host.scene
    host.scene.Clear(1)
