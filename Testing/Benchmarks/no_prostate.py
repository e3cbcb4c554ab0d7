"""What a version says of scans that show no prostate: refused, flagged, or taken for one?

    python Testing/Benchmarks/no_prostate.py --dataset PROMISE12 --dataset PROSTATE3T --scans FOLDER --model VERSION

FOLDER holds scans of other parts of the body. To these come the slices above and below the gland of the data sets'
scans, where there are enough of them (a pelvis without a prostate, mirrored to the scan's own length), and three
phantoms that are made here. One line a scan, with the volume and what is said of it; then how many of each kind would
have gone unnoticed. VERSION is a folder; without it the built-in version is used.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "DDSPSegmentation"))

import numpy as np  # noqa: E402
import SimpleITK as sitk  # noqa: E402

from DDSPSegmentationLib.engine.devices import set_threads  # noqa: E402
from DDSPSegmentationLib.engine.errors import DDSPSegmentationError  # noqa: E402
from DDSPSegmentationLib.engine.quality import verdict  # noqa: E402
from DDSPSegmentationLib.engine.segmenter import Segmenter  # noqa: E402
from DDSPSegmentationLib.learning.dataset import Case, read_datasets  # noqa: E402

AWAY = 2  # slices next to the gland that are left out, since readers differ there
LEAST_SLICES = 5  # of what remains
BODY, BEYOND, PHANTOM = "other parts of the body", "pelvis beyond the gland", "phantoms"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, action="append", default=[])
    parser.add_argument("--scans", type=Path)
    parser.add_argument("--model", type=Path)
    chosen = parser.parse_args()
    set_threads()
    segmenter = Segmenter(chosen.model)
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in (BODY, BEYOND, PHANTOM)}
    for kind, name, image in scans_of(chosen.dataset, chosen.scans):
        outcome, words = judge(segmenter, image, name)
        outcomes[kind][outcome] += 1
        print(f"{kind}, {name}: {outcome}; {words}", flush=True)
    print("\n| scans without a prostate | n | refused | flagged | unnoticed |\n|---|---|---|---|---|")
    for kind, found in outcomes.items():
        numbers = [found[outcome] for outcome in ("refused", "flagged", "unnoticed")]
        print(f"| {kind} | {sum(numbers)} | {' | '.join(map(str, numbers))} |")
    return 0


def scans_of(datasets: list[Path], folder: Path | None) -> Iterator[tuple[str, str, sitk.Image]]:
    """Kind, name and image of every scan."""
    for path in sorted(folder.glob("*.nii.gz")) if folder else ():
        yield BODY, path.name.removesuffix(".nii.gz"), sitk.ReadImage(str(path))
    for case in read_datasets(datasets) if datasets else ():
        for name, image in beyond_the_gland(case):
            yield BEYOND, name, image
    for name, image in phantoms():
        yield PHANTOM, name, image


def beyond_the_gland(case: Case) -> Iterator[tuple[str, sitk.Image]]:
    """The slices of a scan on either side of its gland, there and back until they are as many as the scan has."""
    image = case.load_image()
    count = image.GetSize()[2]
    slices = np.flatnonzero(sitk.GetArrayFromImage(case.load_mask()).any(axis=(1, 2)))
    for side, part in (("before", slice(0, max(0, slices[0] - AWAY))), ("after", slice(slices[-1] + 1 + AWAY, count))):
        voxels = sitk.GetArrayFromImage(image)[part]
        if len(voxels) >= LEAST_SLICES:
            beyond = sitk.GetImageFromArray(
                np.pad(voxels, ((0, count - len(voxels)), (0, 0), (0, 0)), mode="symmetric")
            )
            beyond.CopyInformation(image)
            yield f"{case.name} {side} the gland", beyond


def phantoms() -> Iterator[tuple[str, sitk.Image]]:
    """A bottle of gel, a bottle with rods, and one with a ball of a gland's size; of 0.6 x 0.6 x 3 mm, with noise."""
    z, y, x = np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * step for n, step in ((24, 3.0), (256, 0.6), (256, 0.6))), indexing="ij"
    )
    bottle = np.hypot(y, x) < 60
    rods = bottle & (np.hypot(y % 20 - 10, x % 20 - 10) < 4)
    ball = np.sqrt(z**2 + y**2 + x**2) < 24
    generator = np.random.default_rng(0)
    for name, bright in (("gel", bottle), ("rods", bottle & ~rods), ("ball", bottle & ~ball)):
        image = sitk.GetImageFromArray(
            (300.0 * bright + 100.0 * bottle + generator.normal(20, 12, z.shape)).astype(np.float32)
        )
        image.SetSpacing((0.6, 0.6, 3.0))
        yield name, image


def judge(segmenter: Segmenter, image: sitk.Image, name: str) -> tuple[str, str]:
    """The outcome, and what a person reads of it."""
    try:
        found = segmenter.segment(image, name=name)
    except DDSPSegmentationError as error:
        return "refused", str(error)
    dice = found.expected_dice.value if found.expected_dice else None
    word = verdict(dice, found.warnings)
    expected = "no expected Dice" if dice is None else f"expected Dice {dice:.2f}"
    outcome = "flagged" if word in ("check", "doubtful") else "unnoticed"
    return outcome, " ".join([f"{found.measurements.volume_ml:.1f} ml, {expected}, '{word}'.", *found.warnings])


if __name__ == "__main__":
    sys.exit(main())
