"""Segments many scans in a Slicer without a window.

    Slicer --no-splash --no-main-window --python-script segment_batch.py -- INPUT... --output FOLDER

The arguments are those of ``ddsp-segmentation segment``, which does the same without Slicer. The scans are done by a
Python of Slicer's in a process of its own, so that no scan can end Slicer. Slicer ends by itself and asks nothing. Exit
codes: 0 all done, 1 some failed, 2 usage, 3 PyTorch is missing.
"""

import pathlib
import sys


def main(arguments):
    """Run the batch; returns the exit code."""
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
    from DDSPSegmentationLib.scene.worker_process import python_program
    from DDSPSegmentationLib.service.arguments import segment_parser
    from DDSPSegmentationLib.service.command_line import guarded, segment_inputs

    chosen = segment_parser("segment_batch.py").parse_args(arguments)
    return guarded(lambda: segment_inputs(chosen, [python_program()]))


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
