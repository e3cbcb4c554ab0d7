"""Runs the module's self test in a real Slicer and ends it with the test's status.

    Slicer --no-splash --testing --python-script Testing/Slicer/run_self_test.py
    Slicer --no-splash --testing --no-main-window --python-script Testing/Slicer/run_self_test.py

A Slicer that does not have the module yet takes it from this checkout. One line is printed for each check: "ok", "FAIL"
with the reason, or "skip" with what it needs and this Slicer lacks, be it a window or a plugin. Exit codes: 0 passed,
1 failed, 3 PyTorch is missing, so that only the message about it was tested.
"""

import pathlib
import sys
import time
import traceback

import slicer

MODULE_FILE = pathlib.Path(__file__).resolve().parents[2] / "DDSPSegmentation" / "DDSPSegmentation.py"
PASSED, FAILED, TORCH_MISSING = 0, 1, 3


def loadModule():
    """Load the module from this checkout when Slicer did not find it at its start."""
    import qt

    if hasattr(slicer.modules, "ddspsegmentation"):
        return
    sys.path.insert(0, str(MODULE_FILE.parent))
    factory = slicer.app.moduleManager().factoryManager()
    factory.registerModule(qt.QFileInfo(str(MODULE_FILE)))
    if not factory.loadModules(["DDSPSegmentation"]):
        raise RuntimeError(f"Slicer cannot load {MODULE_FILE}")


def main():
    loadModule()
    from DDSPSegmentation import DDSPSegmentationLogic

    print("Testing", slicer.modules.ddspsegmentation.path, "in Slicer", slicer.app.applicationVersion)
    started = time.monotonic()
    slicer.selfTests["DDSPSegmentation"]()
    print(f"{time.monotonic() - started:.0f} seconds")
    missing = DDSPSegmentationLogic().missingTorch()
    print(missing or "Self test passed")
    return TORCH_MISSING if missing else PASSED


status = FAILED
try:
    status = main()
except Exception:
    traceback.print_exc()
finally:
    sys.stdout.flush()
    slicer.mrmlScene.Clear()
    slicer.util.exit(status)
