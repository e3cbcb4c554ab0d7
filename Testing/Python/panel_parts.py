"""What tests of the panel share: the module opened as in Slicer, one warm worker, and a person at the keyboard."""

import time
from pathlib import Path

import SimpleITK as sitk
import slicer

MODULE_FILE = Path(__file__).resolve().parents[2] / "DDSPSegmentation" / "DDSPSegmentation.py"
SAMPLE = MODULE_FILE.parent / "Resources" / "SampleData" / "ProstateX-0000.nrrd"
READY, RUNNING = "Segment Prostate", "Cancel"


def wait_for(condition, seconds=60.0):
    """Let Slicer work until something is true; returns whether it became so."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        slicer.app.processEvents()
        time.sleep(0.005)
    return bool(condition())


def load_sample(name="T2"):
    """The bundled scan, loaded and shown as by a user."""
    from DDSPSegmentationLib.scene.conversion import add_volume_node

    volume = add_volume_node(sitk.ReadImage(str(SAMPLE)), name)
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    slicer.app.processEvents()
    return volume


class Person:
    """Clicks and reads what the panel shows.

    Attributes:
        widget: the module widget; ``ui``: its widgets by name; ``panel``: the object behind them.
    """

    def __init__(self, widget):
        self.widget, self.ui = widget, widget.ui

    @property
    def panel(self):
        return self.widget.panel

    @property
    def status(self):
        return self.ui.statusLabel.text

    @property
    def result(self):
        """The segmentation whose figures the panel shows, or None."""
        return self.ui.outputSelector.currentNode()

    def start(self):
        assert self.ui.segmentButton.text == READY and self.ui.segmentButton.enabled, self.ui.segmentButton.toolTip
        self.ui.segmentButton.click()

    def segment(self):
        """One click, then wait for the result."""
        self.start()
        assert self.ui.segmentButton.text == RUNNING, self.status
        assert wait_for(lambda: self.ui.segmentButton.text == READY), self.status
        return self.result

    def wait_for_phase(self, words):
        assert wait_for(lambda: self.status.startswith(words)), self.status

    def shows_result(self):
        return not self.ui.resultCollapsibleButton.isHidden()

    def paint(self, radius_mm=8.0):
        """A stroke of the brush at the edge of the gland, as in the Segment Editor."""
        editor = self.panel.correct.editor
        editor.setActiveEffectByName("Paint")
        bounds = [0.0] * 6
        self.result.GetRASBounds(bounds)
        middle = [(low + high) / 2 for low, high in zip(bounds[::2], bounds[1::2], strict=True)]
        editor.paintSphere([bounds[1], middle[1], middle[2]], radius_mm)
        editor.setActiveEffect(None)

    def settle(self):
        """Until the figures follow the last edit."""
        end = time.monotonic() + 0.6
        wait_for(lambda: time.monotonic() > end)
