"""Pictures of the panel in each of its states, drawn without a screen: python Testing/screenshots.py [FOLDER].

The window is the stand-in of Testing/Python/slicer_stand_in; panel, worker, scene and the drawing of the views are
Slicer's and the extension's own code.
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "DDSPSegmentation"), str(ROOT / "Testing" / "Python")]

import numpy as np  # noqa: E402
import SimpleITK as sitk  # noqa: E402
from headless_host import start  # noqa: E402

WINDOW_SIZE = (1200, 880)


def take(folder: Path) -> None:
    """Write one PNG for each state of the panel."""
    host = start()
    import slicer
    from panel_parts import MODULE_FILE, SAMPLE, Person, load_sample, wait_for
    from slicer_stand_in import closeModule, dialogs, openModule, window
    from slicer_stand_in.rendering import renderSlice, savePicture, windowPicture

    from DDSPSegmentationLib.scene.conversion import add_volume_node
    from DDSPSegmentationLib.scene.panel.double_click import DOUBLE_CLICK_S

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
        person.set_psa(6.5)
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
        person.accept("apex by hand")
        picture("accepted")
        person.ui.segmentButton.click()
        picture("question")
        scan = sitk.ReadImage(str(SAMPLE))
        show_alone(doubtful(scan), "T2 noisy")
        person.segment()
        picture("doubtful")
        show_alone(scan[:, :, 9:10], "T2 one slice")
        person.ui.segmentButton.click()
        picture("error")
        slicer.mrmlScene.Clear(0)
        person.ui.reviewListCollapsibleButton.collapsed = False
        dialogs.planned += batch_of({"T2-07": scan, "T2-12": doubtful(scan), "T2-31": turned(scan, 0.1, 0.05, -0.1)})
        person.ui.reviewFolderButton.click()
        person.ui.nextScanButton.click()
        person.ui.rejectScanButton.click()
        wait_for(lambda: False, DOUBLE_CLICK_S)
        person.ui.nextScanButton.click()
        picture("review-list")
        person.ui.reviewSceneButton.click()
        person.ui.reviewListCollapsibleButton.collapsed = True
        slicer.mrmlScene.Clear(0)
        for section in ("segment", "result", "review", "correct", "export"):
            getattr(person.ui, f"{section}CollapsibleButton").collapsed = True
        held_out = fill_library(scan)
        person.open_learn()
        picture("cases")
        person.ui.casesGroupBox.collapsed = True
        person.ui.retrainGroupBox.collapsed = False
        person.ui.retrainButton.click()
        assert wait_for(lambda: len(person.panel.learn.retrain._client.points()) > 3, 300), person.status
        picture("retraining")
        person.ui.retrainButton.click()
        assert wait_for(lambda: person.ui.retrainButton.text != "Cancel")
        person.ui.retrainGroupBox.collapsed = True
        person.ui.modelsGroupBox.collapsed = False
        publish_candidate(held_out)
        person.panel.learn.refresh()
        person.ui.modelsTable.selectRow(1)
        picture("models")
        closeModule("DDSPSegmentation")


def doubtful(scan: sitk.Image) -> sitk.Image:
    """The scan without its lowest slices, and with much noise."""
    cut = scan[:, :, 5:]
    voxels = sitk.GetArrayFromImage(cut).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 1.1 * voxels.std(), voxels.shape)
    noisy = sitk.GetImageFromArray(voxels + noise.astype(np.float32))
    noisy.CopyInformation(cut)
    return noisy


def turned(image: sitk.Image, *angles: float, interpolator=sitk.sitkLinear) -> sitk.Image:
    """An image turned about its middle by three angles, in radians."""
    turn = sitk.Euler3DTransform(image.TransformContinuousIndexToPhysicalPoint([n / 2 for n in image.GetSize()]))
    turn.SetRotation(*angles)
    return sitk.Resample(image, turn, interpolator)


def batch_of(scans: dict[str, sitk.Image]) -> list[str]:
    """What the command line makes of a folder of scans: the folder of results and that of the scans."""
    from DDSPSegmentationLib.service.command_line import main

    place = Path(tempfile.mkdtemp())
    (place / "scans").mkdir()
    for name, image in scans.items():
        sitk.WriteImage(image, str(place / "scans" / f"{name}.nrrd"))
    assert main(["segment", str(place / "scans"), "--output", str(place / "results")]) == 0
    return [str(place / "results"), str(place / "scans")]


def fill_library(scan: sitk.Image) -> list:
    """Cases that are the sample scan turned by different angles, five of them held out; returns these."""
    from DDSPSegmentationLib.engine.segmenter import Segmenter
    from DDSPSegmentationLib.library.case_library import HOLD_OUT, CaseLibrary
    from DDSPSegmentationLib.library.user_folder import default_cases_folder

    library, draw = CaseLibrary(default_cases_folder()), np.random.default_rng(1)
    found = Segmenter().segment(scan)
    number, held_out = 0, []
    while len(held_out) < 5 or number - len(held_out) < 8:
        number += 1
        angles = draw.uniform(-0.4, 0.4, 3)
        other, mask = turned(scan, *angles), turned(found.mask, *angles, interpolator=sitk.sitkNearestNeighbor)
        radius = [int(draw.integers(1, 5)), int(draw.integers(1, 5)), 0]
        drawn = sitk.BinaryErode(mask, radius)
        library.add(other, mask, prediction=drawn, model_version=found.model_version, patient_key=f"patient {number}")
        held_out = [case for case in library.cases() if case.split == HOLD_OUT]
    return held_out


def publish_candidate(held_out: list) -> None:
    """A version whose weights are a little off, compared with the old one."""
    from DDSPSegmentationLib.engine.model import builtin_model_folder, load_networks, save_model
    from DDSPSegmentationLib.learning.comparison import compare_versions
    from DDSPSegmentationLib.learning.dataset import Case
    from DDSPSegmentationLib.library.model_registry import ModelRegistry

    networks, parent = load_networks()
    for parameter in networks[0].parameters():
        parameter.data *= 1.002
    cases = [Case(case.id, case.image_path, case.mask_path, patient=case.patient) for case in held_out]
    with tempfile.TemporaryDirectory() as place:
        made, compared = Path(place, "made"), Path(place, "compared")
        training = {"parent": parent.version, "cases": [f"a3f9-{number:04d}" for number in range(1, 10)]}
        save_model(made, networks, parent.preprocessing, training=training, date="2026-05-04", seen=parent.seen)
        comparison = compare_versions(builtin_model_folder(), made, cases, compared)
        ModelRegistry().publish(made, "tuned-2026-05-04-5b1c", {path.name: path for path in compared.iterdir()})
    print(comparison.verdict)


if __name__ == "__main__":
    os.environ["HOME"] = tempfile.mkdtemp()  # the library of whoever draws the pictures is not in them
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "Resources" / "Screenshots"
    target.mkdir(parents=True, exist_ok=True)
    take(target)
