"""Does bfloat16 say the same as float32? Masks and expected Dice of both, scan by scan.

    python Testing/Benchmarks/precision.py --dataset PROMISE12 --dataset PROSTATE3T --model VERSION [--every 5]

VERSION is a folder; without it the built-in version is used. Every fifth scan of the data sets is segmented in both
precisions by all networks. Prints one line a scan, then the lowest and mean Dice between the two masks and the largest
difference of the expected Dice. On a processor without bfloat16 instructions this is slow, and as true.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "DDSPSegmentation"))

import numpy as np  # noqa: E402

from DDSPSegmentationLib.engine.devices import set_threads  # noqa: E402
from DDSPSegmentationLib.engine.metrics import dice_of  # noqa: E402
from DDSPSegmentationLib.engine.segmenter import Segmenter  # noqa: E402
from DDSPSegmentationLib.learning.dataset import read_datasets  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, action="append", required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--every", type=int, default=5)
    chosen = parser.parse_args()
    set_threads()
    full, half = (Segmenter(chosen.model, precision=precision) for precision in ("float32", "bfloat16"))
    rows = []
    for case in read_datasets(chosen.dataset)[:: chosen.every]:
        one, other = (segmenter.segment(case.load_image(), name=case.name) for segmenter in (full, half))
        expected = [found.expected_dice.value for found in (one, other) if found.expected_dice is not None]
        apart = abs(expected[0] - expected[1]) if len(expected) == 2 else float("nan")
        rows.append((dice_of(one.mask, other.mask), apart))
        print(f"{case.name}: Dice between the masks {rows[-1][0]:.4f}, expected Dice {apart:.4f} apart", flush=True)
    dices, differences = np.array(rows).T
    print(
        f"{len(rows)} scans: Dice between the masks {dices.min():.4f} at least, {dices.mean():.4f} in the mean; ",
        end="",
    )
    print(f"expected Dice {differences.max():.4f} apart at most")
    return 0


if __name__ == "__main__":
    sys.exit(main())
