"""Pictures of the panel in each of its states, drawn without a screen: python Testing/screenshots.py [FOLDER].

The window is the stand-in of Testing/Python/slicer_stand_in; panel, worker, scene and the drawing of the views are
Slicer's and the extension's own code.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "DDSPSegmentation"), str(ROOT / "Testing" / "Python")]

import numpy as np  # noqa: E402
import SimpleITK as sitk  # noqa: E402

from DDSPSegmentationLib.scene.headless_host import start  # noqa: E402

WINDOW_SIZE = (1200, 880)


def take(folder: Path) -> None:
    """Write one PNG for each state of the panel."""
    host = start()
    import slicer
    from panel_parts import MODULE_FILE, SAMPLE, Person, load_sample, wait_for
    from slicer_stand_in import closeModule, openModule, window
    from slicer_stand_in.rendering import renderSlice, savePicture, windowPicture

    from DDSPSegmentationLib.scene.conversion import add_volume_node

    def picture(name: str) -> None:
        wait_for(lambda: False, 0.1)
        windowPicture(folder / f"{name}.png", WINDOW_SIZE)
        print(folder / f"{name}.png")

    def show_alone(image, name):
        slicer.mrmlScene.Clear(0)
        volume = add_volume_node(image, name)
        slicer.util.setSliceViewerLayers(background=volume, fit=True)
        assert wait_for(lambda: person.ui.inputSelector.currentNode() is volume)

    with window(host):
        person = Person(openModule(MODULE_FILE))
        volume = load_sample("T2 axial")
        assert wait_for(lambda: person.ui.inputSelector.currentNode() is volume)
        picture("idle")
        person.start()
        person.wait_for_phase("Preparing the scan")
        picture("running")
        assert wait_for(person.shows_result)
        person.ui.psaSpinBox.value = 6.5
        picture("result")
        person.ui.uncertaintyCheckBox.click()
        person.ui.nextSliceButton.click()
        picture("review")
        savePicture(renderSlice("Red", (600, 600)), folder / "uncertainty.png")
        person.ui.uncertaintyCheckBox.click()
        person.panel.review.showInViews()
        person.paint()
        person.panel.correct.editor.setActiveEffectByName("Paint")
        person.settle()
        picture("correcting")
        person.panel.correct.editor.setActiveEffect(None)
        person.ui.segmentButton.click()
        picture("question")
        scan = sitk.ReadImage(str(SAMPLE))
        show_alone(doubtful(scan), "T2 noisy")
        person.segment()
        picture("doubtful")
        show_alone(scan[:, :, 9:10], "T2 one slice")
        person.ui.segmentButton.click()
        picture("error")
        closeModule("DDSPSegmentation")


def doubtful(scan: sitk.Image) -> sitk.Image:
    """The scan without its lowest slices, and with much noise."""
    cut = scan[:, :, 5:]
    voxels = sitk.GetArrayFromImage(cut).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 3 * voxels.std(), voxels.shape)
    noisy = sitk.GetImageFromArray(voxels + noise.astype(np.float32))
    noisy.CopyInformation(cut)
    return noisy


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "Resources" / "Screenshots"
    target.mkdir(parents=True, exist_ok=True)
    take(target)
