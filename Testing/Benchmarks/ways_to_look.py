"""Would the networks see more from elsewhere? Other looks at each scan, by the two networks that never saw the patient.

    python Testing/Benchmarks/ways_to_look.py --dataset PROMISE12 --dataset PROSTATE3T [--scans Case23 Case06]

The crops that the engine finds are looked at as they are, mirrored left to right, moved up and down by 10 mm, and from
nearer or further away. One row for each scan: the share of the crop's length that the gland fills for the network that
locates it, and the Dice of every look alone. Then the mean over patients of each other look averaged with the plain
one. ``inference.FURTHER`` is chosen by the rows of the large glands. About half a minute a scan on one core.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "DDSPSegmentation"))

import numpy as np  # noqa: E402

from DDSPSegmentationLib.engine import inference  # noqa: E402
from DDSPSegmentationLib.engine.devices import set_threads  # noqa: E402
from DDSPSegmentationLib.engine.inference import GlandPredictor  # noqa: E402
from DDSPSegmentationLib.engine.metrics import dice  # noqa: E402
from DDSPSegmentationLib.engine.preprocessing import prepare, resample  # noqa: E402
from DDSPSegmentationLib.engine.segmenter import Segmenter  # noqa: E402
from DDSPSegmentationLib.engine.thresholding import largest_component  # noqa: E402
from DDSPSegmentationLib.learning.dataset import Case, read_datasets  # noqa: E402
from DDSPSegmentationLib.learning.ensemble import unseen_members  # noqa: E402

SCALES = (0.85, 1.2, 1.4, 1.6, 1.8)  # times as small
MOVED = 7  # voxels of 1.5 mm
NEAR, MIRRORED, UP_AND_DOWN = "as it is", "mirrored", "up and down"


class OtherLooks(GlandPredictor):
    """The probabilities (z, y, x) of a prepared scan from every look."""

    def look(self, volume: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
        """The share of the crop's length that the gland fills, and the answer of each look."""
        self.looks, self.notify = 0, lambda fraction: None
        tiles = self._locate(volume, (np.array(volume.shape) - 1) / 2, scan_when_empty=True)
        filled = inference._gland_extent(self._blend(tiles, self._box(tiles)).mean(axis=0)) / self.size
        self.tiles = list(tiles)
        near = self._mean(volume, self.tiles)
        moved = [self._mean(volume, self._moved(step)) for step in (-MOVED, MOVED)]
        mirrored = self._mean(np.ascontiguousarray(volume[..., ::-1]), [self._mirrored(start) for start in self.tiles])
        found = {NEAR: near, MIRRORED: mirrored[..., ::-1], UP_AND_DOWN: np.mean(moved, axis=0)}
        center = inference._gland_center(near)
        for scale in SCALES if center is not None else ():
            size = tuple(max(1, round(n / scale)) for n in volume.shape)
            step = tuple(n / m for n, m in zip(volume.shape, size, strict=True))
            unit = (1.0, 1.0, 1.0)
            scaled = resample(volume, unit, size, step)
            tiles = self._locate(scaled, (center + 0.5) / step - 0.5, scan_when_empty=False)
            found[f"{scale} times as small"] = resample(self._mean(scaled, list(tiles)), step, volume.shape, unit)
        return float(filled.max()), found

    def _mean(self, volume: np.ndarray, starts: Sequence[tuple[int, ...]]) -> np.ndarray:
        """What all networks together say of the crops of a volume, 0 outside them."""
        self.volume = volume
        crops = {start: [self._crop(start, network) for network in self.networks] for start in starts}
        box = self._box(crops)
        blended = self._blend({start: np.mean(crop, axis=0) for start, crop in crops.items()}, box)
        return inference._placed(blended.mean(axis=0), box, volume)

    def _moved(self, step: int) -> list[tuple[int, ...]]:
        middles = (np.array(start) + (step, 0, 0) + (self.size - 1) / 2 for start in self.tiles)
        return [tuple(map(int, self._start(middle))) for middle in middles]

    def _mirrored(self, start: tuple[int, ...]) -> tuple[int, ...]:
        return *start[:2], int(self.volume.shape[2] - start[2] - self.size[2])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, action="append", required=True)
    parser.add_argument("--scans", nargs="+", help="names; all unless told")
    chosen = parser.parse_args()
    set_threads()
    cases = read_datasets(chosen.dataset)
    segmenter = Segmenter()
    unseen = unseen_members(segmenter.model, cases)
    changes: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))  # look, patient: change
    for case in cases:
        if unseen[case.name] and (not chosen.scans or case.name in chosen.scans):
            for look, change in row(segmenter, case, unseen[case.name]).items():
                changes[look][case.patient].append(change)
    print("\n| averaged with | patients | change of Dice | standard error | gained | lost |\n|---|---|---|---|---|---|")
    for look, patients in changes.items():
        change = np.array([np.mean(scans) for scans in patients.values()])
        figures = f"{change.mean():+.4f} | {change.std() / len(change) ** 0.5:.4f}"
        print(f"| {look} | {len(change)} | {figures} | {(change > 0).sum()} | {(change < 0).sum()} |")
    return 0


def row(segmenter: Segmenter, case: Case, members: Sequence[int]) -> dict[str, float]:
    """Print what each look is worth; the change of Dice when it is averaged with the plain one."""
    volume, grid = prepare(case.load_image(), segmenter.preprocessing)
    reference = grid.canonical_array(case.load_mask()) > 0

    def worth(probability: np.ndarray) -> float:
        return dice(largest_component(grid.to_native(np.ascontiguousarray(probability)) > 0.5)[0], reference)

    filled, found = OtherLooks(*(segmenter.networks[number] for number in members)).look(volume)
    told = ", ".join(f"{look} {worth(probability):.3f}" for look, probability in found.items())
    print(f"{case.name}: fills {filled:.2f}; {told}", flush=True)
    near = found.pop(NEAR)
    plain = worth(near)
    return {
        look: worth(np.average([near, probability], axis=0, weights=(1, 2 if look == UP_AND_DOWN else 1))) - plain
        for look, probability in found.items()
    }


if __name__ == "__main__":
    sys.exit(main())
