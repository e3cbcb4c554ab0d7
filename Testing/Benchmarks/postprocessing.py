"""What could be done with the probability before it becomes a mask: each rule by networks that never saw the patient.

    python Testing/Benchmarks/postprocessing.py --dataset PROMISE12 --dataset PROSTATE3T --model VERSION [--folds 0 1]

Every scan of the folds is segmented by the mean of its two unseen networks; then each rule below makes a mask of that
probability. A patient's scans are averaged to one value. The first row is what the engine does: the largest part above
0.5, its holes filled. Rules are chosen on folds 0 and 1; with the others one sees whether the choice holds.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "DDSPSegmentation"))

import numpy as np  # noqa: E402
import SimpleITK as sitk  # noqa: E402
from scipy import ndimage  # noqa: E402

from DDSPSegmentationLib.engine.devices import set_threads  # noqa: E402
from DDSPSegmentationLib.engine.metrics import compare_masks  # noqa: E402
from DDSPSegmentationLib.engine.segmenter import Segmenter  # noqa: E402
from DDSPSegmentationLib.engine.thresholding import largest_component  # noqa: E402
from DDSPSegmentationLib.learning.dataset import read_datasets, split_folds  # noqa: E402
from DDSPSegmentationLib.learning.ensemble import unseen_members  # noqa: E402

Rule = Callable[[np.ndarray, tuple[float, ...]], np.ndarray]  # probability (z, y, x) and its spacing to a mask


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, action="append", required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1])
    chosen = parser.parse_args()
    set_threads()
    cases = read_datasets(chosen.dataset)
    folds = split_folds(cases, chosen.dataset)
    names = {name for number in chosen.folds for name in folds[number]}
    segmenter = Segmenter(chosen.model)
    unseen = unseen_members(segmenter.model, cases)
    found: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))
    for case in cases:
        members = unseen[case.name]
        if case.name not in names or not members or len(members) < 2:
            continue
        image, reference = case.load_image(), case.load_mask()
        reference.CopyInformation(image)
        probability = segmenter.segment(image, name=case.name, members=members).probability
        voxels = sitk.GetArrayFromImage(probability)
        for name, rule in RULES.items():
            mask = sitk.GetImageFromArray(rule(voxels, image.GetSpacing()[::-1]).astype(np.uint8))
            mask.CopyInformation(image)
            found[name][case.patient].append(_figures(mask, reference))
        print(f"{case.name}: {found['largest part above 0.5'][case.patient][-1][0]:.3f}", file=sys.stderr, flush=True)
    print("| rule | patients | Dice | base | apex | volume % | absolute volume % |\n|---|---|---|---|---|---|---|")
    for name, patients in found.items():
        means = np.mean([np.mean(scans, axis=0) for scans in patients.values()], axis=0)
        cells = [
            name,
            str(len(patients)),
            *(f"{value:.4f}" for value in means[:3]),
            f"{means[3]:+.1f}",
            f"{means[4]:.1f}",
        ]
        print(f"| {' | '.join(cells)} |")
    return 0


def _figures(mask: sitk.Image, reference: sitk.Image) -> list[float]:
    regions = compare_masks(mask, reference)
    volumes = [np.count_nonzero(sitk.GetArrayViewFromImage(part)) for part in (mask, reference)]
    difference = 100 * (volumes[0] / volumes[1] - 1)
    return [regions["whole"].dsc, regions["base"].dsc, regions["apex"].dsc, difference, abs(difference)]


def _above(threshold: float) -> Rule:
    return lambda probability, spacing: largest_component(probability > threshold)[0]


def _smoothed(millimetres: float) -> Rule:
    """A Gaussian through the slices first."""

    def rule(probability: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
        return largest_component(ndimage.gaussian_filter1d(probability, millimetres / spacing[0], axis=0) > 0.5)[0]

    return rule


def _without_thin_ends(share: float) -> Rule:
    """End slices with less than a share of the area of the slice beside them go, one after the other."""

    def rule(probability: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
        mask = largest_component(probability > 0.5)[0].copy()
        for direction in (1, -1):
            areas = mask.sum(axis=(1, 2))[::direction]
            for number in range(len(areas) - 1):
                if areas[number] and areas[number] >= share * areas[number + 1]:
                    break
                mask[::direction][number] = False
        return mask

    return rule


def _one_part_a_slice(probability: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """In every slice the largest part alone, holes filled."""
    mask = largest_component(probability > 0.5)[0]
    return np.stack([largest_component(part[None])[0][0] if part.any() else part for part in mask])


def _opened(millimetres: float) -> Rule:
    """In every slice an opening by a disk: slivers and horns of a C go."""

    def rule(probability: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
        mask = largest_component(probability > 0.5)[0]
        outside = np.stack([ndimage.distance_transform_edt(part, sampling=spacing[1:]) for part in mask])
        core = outside > millimetres
        away = np.stack(
            [
                ndimage.distance_transform_edt(~part, sampling=spacing[1:])
                if part.any()
                else np.full(part.shape, np.inf)
                for part in core
            ]
        )
        return largest_component(mask & (away <= millimetres))[0]

    return rule


RULES: dict[str, Rule] = {
    "largest part above 0.5": _above(0.5),
    **{f"above {threshold}": _above(threshold) for threshold in (0.4, 0.45, 0.55, 0.6)},
    **{f"smoothed through the slices by {width} mm": _smoothed(width) for width in (1.5, 3.0)},
    **{f"end slices above {share} of the next one's area": _without_thin_ends(share) for share in (0.15, 0.3, 0.45)},
    "one part a slice": _one_part_a_slice,
    **{f"opened by {radius} mm in the slice": _opened(radius) for radius in (1.5, 3.0)},
}

if __name__ == "__main__":
    sys.exit(main())
