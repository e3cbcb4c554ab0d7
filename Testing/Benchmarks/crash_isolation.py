"""What it costs that scans of a batch are done in a process of their own, which a crash may end: one command.

    python Testing/Benchmarks/crash_isolation.py [--cases 30]

The bundled scan is done so many times in this process and in the batch's other one, turn and turn about, each time with
mask, pictures and figures; the first of each is not counted. Printed are the medians, that of the differences, and how
long the other process took to be there.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "DDSPSegmentation"))

from DDSPSegmentationLib.engine.devices import set_threads  # noqa: E402
from DDSPSegmentationLib.engine.run_settings import RunSettings  # noqa: E402
from DDSPSegmentationLib.service.case_process import CaseProcess  # noqa: E402
from DDSPSegmentationLib.service.case_work import Outputs, do_case  # noqa: E402
from DDSPSegmentationLib.service.inputs import InputCase  # noqa: E402
from DDSPSegmentationLib.service.mask_files import write_mask  # noqa: E402
from DDSPSegmentationLib.service.runner import InProcessRunner  # noqa: E402

SAMPLE = REPOSITORY / "DDSPSegmentation" / "Resources" / "SampleData" / "ProstateX-0000.nrrd"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=30)
    chosen = parser.parse_args()
    set_threads()
    settings, runner = RunSettings(device="cpu"), InProcessRunner()

    def here(case: InputCase, outputs: Outputs, tell: Callable) -> dict:
        def segment(name, image, mask_path):
            answer = runner.segment(image, settings, name=name, progress=tell)
            write_mask(answer.mask, mask_path)
            return answer

        return do_case(case, outputs, segment, tell)

    with tempfile.TemporaryDirectory() as place, CaseProcess(settings) as elsewhere:
        folder = Path(place)
        outputs = Outputs(folder / "a.seg.nrrd", folder / "a.png", folder / "a-small.png")
        case = InputCase("a", SAMPLE)

        def seconds(do: Callable) -> float:
            started = time.perf_counter()
            do(case, outputs, lambda phase, fraction: None)
            return time.perf_counter() - started

        seconds(here)
        first = seconds(elsewhere)
        pairs = [(seconds(here), seconds(elsewhere)) for _ in range(chosen.cases)]
    in_this, in_other = (statistics.median(times) for times in zip(*pairs, strict=True))
    difference = statistics.median(other - this for this, other in pairs)
    print(f"{chosen.cases} cases: {in_this:.3f} s in this process, {in_other:.3f} s in the other one (medians).")
    print(f"Median of the differences: {1000 * difference:+.0f} ms ({100 * difference / in_this:+.1f} %).")
    print(f"The first case in the other process, with its start: {first:.1f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
