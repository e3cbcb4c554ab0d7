"""The panel as a person uses it: choose, click, watch, cancel; in a window, with the real worker."""


import numpy as np
import slicer
from panel_parts import load_sample, wait_for


def segmentations():
    return slicer.util.getNodesByClass("vtkMRMLSegmentationNode")


def test_an_empty_scene_says_what_to_load(person):
    assert not person.ui.segmentButton.enabled
    assert "Load an axial T2 volume" in person.ui.segmentButton.toolTip
    assert person.status.startswith("Load an axial T2-weighted scan")
    assert not person.shows_result()


def test_one_click_gives_a_contour_with_its_figures(person):
    volume = load_sample()
    assert wait_for(lambda: person.ui.inputSelector.currentNode() is volume)
    assert person.status == "Press Segment Prostate."
    node = person.segment()
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, "Prostate", volume)
    ml = np.count_nonzero(mask) * np.prod(volume.GetSpacing()) / 1000
    assert 30 < ml < 70 and person.ui.volumeLabel.text == f"{ml:.1f} ml"
    assert person.shows_result() and person.status.startswith("Check the contour")
    assert person.ui.diceLabel.text.split(" - ")[1] in ("good", "check", "doubtful")
    assert "ddsp-prostate-1" in person.ui.detailsLabel.text
    assert node.GetSegmentation().ContainsRepresentation("Closed surface")
