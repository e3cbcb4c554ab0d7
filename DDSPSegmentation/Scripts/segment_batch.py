"""Segments many scans through the module's logic, in a Slicer without a window.

    Slicer --no-splash --no-main-window --python-script segment_batch.py -- INPUT... --output FOLDER

The arguments are those of ``ddsp-segmentation segment``, which does the same without Slicer. Each scan becomes a volume
node, is segmented by ``DDSPSegmentationLogic.segmentProstate`` and its segmentation node is saved. Slicer ends by
itself and asks nothing. Exit codes: 0 all done, 1 some failed, 2 usage, 3 PyTorch is missing.
"""

import pathlib
import sys


def main(arguments):
    """Run the batch; returns the exit code."""
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
    from DDSPSegmentationLib.service.arguments import segment_parser
    from DDSPSegmentationLib.service.command_line import guarded, segment_inputs

    chosen = segment_parser("segment_batch.py").parse_args(arguments)
    return guarded(lambda: segment_inputs(chosen, makeSegmentCase))


def makeSegmentCase(settings):
    """A function that takes one scan through the scene and saves its segmentation node."""
    import slicer

    from DDSPSegmentation import DDSPSegmentationLogic
    from DDSPSegmentationLib.scene.conversion import add_volume_node
    from DDSPSegmentationLib.scene.export import write_seg_nrrd
    from DDSPSegmentationLib.service.mask_files import MASK_SUFFIXES, write_mask

    logic = DDSPSegmentationLogic()

    def segmentCase(name, image, maskPath):
        slicer.mrmlScene.Clear(0)
        try:
            result = logic.segmentProstate(
                add_volume_node(image, name),
                mode=settings.mode,
                device=settings.device,
                model=settings.model,
                biasField=settings.bias_field,
                threshold=settings.threshold,
            )
            if maskPath.name.endswith(MASK_SUFFIXES["seg.nrrd"]):
                write_seg_nrrd(result.outputSegmentationNode, maskPath)
            else:
                write_mask(result.segmentation.mask, maskPath)
            return result.segmentation
        finally:
            slicer.mrmlScene.Clear(0)

    return segmentCase


def argumentsAfter(argv):
    """The script's own arguments: what follows ``--`` where it is still there, else what follows the script's name."""
    return argv[argv.index("--") + 1 :] if "--" in argv else argv[1:]


def run():
    """Run, and end Slicer with the exit code, whatever happens."""
    code = 1
    try:
        code = main(argumentsAfter(sys.argv))
    except SystemExit as stop:  # argparse, for --help and for bad arguments
        code = stop.code if isinstance(stop.code, int) else 2
    finally:
        sys.modules["slicer"].util.exit(code)


if __name__ == "__main__":
    if not hasattr(sys.modules.get("slicer"), "app"):  # Slicer has loaded it before any script runs
        sys.exit("error: This script runs in Slicer; 'ddsp-segmentation segment' takes the same arguments without it.")
    run()
