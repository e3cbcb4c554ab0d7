"""The scene without Slicer, each in a fresh process, as a script starts it."""

import subprocess
import sys
import textwrap
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODULE = HERE.parents[1] / "DDSPSegmentation"


def run_python(code, *options):
    """Run code in a fresh Python that finds module and host; returns what it printed and its exit status."""
    prelude = f"import sys; sys.path[:0] = [{str(MODULE)!r}, {str(HERE)!r}]\n"
    done = subprocess.run(
        [sys.executable, *options, "-c", prelude + textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    return done.stdout.strip(), done.stderr.strip(), done.returncode


def test_scene_starts_quietly_and_ends_without_a_leak():
    printed = run_python(
        """
        import gc, weakref
        from headless_host import start, stop
        host = start()
        import numpy as np, slicer
        volume = slicer.util.addVolumeFromArray(np.zeros((4, 5, 6), np.int16), name="T2")
        segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Prostate")
        segmentation.CreateDefaultDisplayNodes()
        segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        assert segmentation.GetSegmentation().AddEmptySegment("Prostate", "Prostate") == "Prostate"
        left = [weakref.ref(thing) for thing in (host.scene, volume, segmentation, *host.logics.values())]
        del host, volume, segmentation
        stop()
        gc.collect()
        print([thing() for thing in left if thing() is not None], hasattr(slicer, "mrmlScene"))
        """
    )
    assert printed == ("[] False", "", 0)


def test_process_that_never_stops_the_scene_ends_quietly_too():
    printed = run_python(
        """
        from headless_host import start
        start()
        import numpy as np, slicer
        volume = slicer.util.addVolumeFromArray(np.zeros((4, 5, 6), np.int16), name="T2")
        """
    )
    assert printed == ("", "", 0)


def test_starting_twice_gives_the_same_scene_and_stopping_twice_is_allowed():
    out, _, status = run_python(
        """
        from headless_host import start, stop
        first = start()
        first.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "T2")
        import slicer
        assert start() is first and slicer.mrmlScene is first.scene
        stop(); stop()
        assert start().scene.GetNodesByName("T2").GetNumberOfItems() == 0
        print("fine")
        """
    )
    assert (out, status) == ("fine", 0)


def test_neither_torch_nor_qt_is_loaded():
    out, _, status = run_python(
        """
        import sys
        from headless_host import start
        start()
        import DDSPSegmentation, DDSPSegmentationLib.scene.conversion, DDSPSegmentationLib.scene.results
        print([name for name in ("torch", "qt", "PySide6") if name in sys.modules])
        """
    )
    assert (out, status) == ("[]", 0)


def test_stand_ins_leave_the_host_with_it():
    out, _, status = run_python(
        """
        import sys
        from headless_host import start, stop
        start()
        from slicer.i18n import tr
        from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic
        assert tr("Volume {ml} ml").format(ml=3) == "Volume 3 ml"
        class OurLogic(ScriptedLoadableModuleLogic):
            pass
        node = OurLogic().getParameterNode()
        assert node is OurLogic().getParameterNode() and node.GetAttribute("ModuleName") == "Our"
        stop()
        print([name for name in ("slicer.i18n", "slicer.ScriptedLoadableModule") if name in sys.modules])
        """
    )
    assert (out, status) == ("[]", 0)
