"""Is a scan known again when it comes back changed, and is nobody taken for somebody else? Distances over real scans.

    python Testing/Benchmarks/scan_recognition.py --dataset PROMISE12 --dataset PROSTATE3T --output FOLDER

True matches are scans of one patient by the data sets' patient column (the same acquisition at another resolution)
and made copies of every scan; false ones are all pairs of different patients, of the scans as they are and of every
copy. Each distance is read under several salts, since a library and a version draw their own. The last table says
how many of both kinds any limit would get wrong: a limit is good when its neighbors do as well, so that no single
pair decides it.

Figures: OUTPUT/scan_recognition.json, and the tables that are printed (Markdown). About 20 minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "DDSPSegmentation"))

import numpy as np  # noqa: E402
import SimpleITK as sitk  # noqa: E402

from DDSPSegmentationLib.engine.files import write_text  # noqa: E402
from DDSPSegmentationLib.engine.scan_identity import LIMIT, ScanTexture, voxel_digest  # noqa: E402
from DDSPSegmentationLib.learning.dataset import Case, read_datasets  # noqa: E402

RESULTS_FILE = "scan_recognition.json"
SALTS = tuple(bytes([number]) * 32 for number in range(3))
LIMITS = (0.13, 0.14, 0.15, 0.16, 0.17, 0.18, 0.19, 0.20, 0.21, 0.22, 0.23)
TWINS, DIFFERENT = "another export of the scan (twins)", "different patients"


# ---- copies


def with_voxels(voxels: np.ndarray, image: sitk.Image) -> sitk.Image:
    copy = sitk.GetImageFromArray(voxels.astype(np.float32))
    copy.CopyInformation(image)
    return copy


def of(voxels: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(voxels).astype(np.float32)


def noisy(image: sitk.Image, share: float) -> sitk.Image:
    voxels = of(image)
    return with_voxels(voxels + np.random.default_rng(1).normal(0, share * voxels.std(), voxels.shape), image)


def with_gamma(image: sitk.Image, power: float) -> sitk.Image:
    voxels = of(image)
    return with_voxels(np.clip(voxels / voxels.max(), 0, 1) ** power, image)


def under_a_coil(image: sitk.Image) -> sitk.Image:
    """Four times as bright at one side as at the other."""
    voxels = of(image)
    return with_voxels(voxels * np.geomspace(2, 0.5, voxels.shape[1], dtype=np.float32)[None, :, None], image)


def mirrored(image: sitk.Image) -> sitk.Image:
    return with_voxels(of(image)[:, :, ::-1], image)


def cropped(image: sitk.Image, voxels: int | None = None) -> sitk.Image:
    """8 mm, or so many voxels, less at one side in plane."""
    left = round(8 / image.GetSpacing()[0]) if voxels is None else voxels
    return image[left:, :, :]


def without_place(image: sitk.Image) -> sitk.Image:
    copy = sitk.Image(image)
    copy.SetOrigin((0.0, 0.0, 0.0))
    return copy


def resampled(image: sitk.Image, in_plane_mm: float, through_mm: float) -> sitk.Image:
    spacing = (in_plane_mm, in_plane_mm, through_mm)
    extent = [count * step for count, step in zip(image.GetSize(), image.GetSpacing(), strict=True)]
    size = [max(1, int(length / step)) for length, step in zip(extent, spacing, strict=True)]
    first = [(new - old) / 2 / old for new, old in zip(spacing, image.GetSpacing(), strict=True)]
    origin = image.TransformContinuousIndexToPhysicalPoint(first)
    return sitk.Resample(
        image, size, sitk.Transform(), sitk.sitkLinear, origin, spacing, image.GetDirection(),
        0.0, sitk.sitkFloat32, True,
    )  # fmt: skip


COPIES: Mapping[str, Callable[[sitk.Image], sitk.Image]] = {
    "other units": lambda image: with_voxels(of(image) * 0.37 + 12, image),
    "gamma of 0.6": lambda image: with_gamma(image, 0.6),
    "noise of 0.3 standard deviations": lambda image: noisy(image, 0.3),
    "noise of 0.5 standard deviations": lambda image: noisy(image, 0.5),
    "under the brightness of a coil": under_a_coil,
    "mirrored left to right": mirrored,
    "cropped by 8 mm at one side": cropped,
    "cropped by ten voxels and a slice": lambda image: cropped(image, 10)[:, :, 1:],
    "cropped, without its origin": lambda image: without_place(cropped(image)),
    "cropped and mirrored": lambda image: mirrored(cropped(image)),
    "resampled to 0.5 x 0.5 x 1 mm": lambda image: resampled(image, 0.5, 1.0),
    "resampled to 1 x 1 x 3 mm": lambda image: resampled(image, 1.0, 3.0),
    "resampled to 1.5 mm": lambda image: resampled(image, 1.5, 1.5),
    "resampled to 2 x 2 x 4 mm": lambda image: resampled(image, 2.0, 4.0),
}


# ---- distances


def measure(cases: Sequence[Case], progress: Callable[[str], None] = print) -> dict:
    """Distances by kind, those to the same patient and those to others, over all salts."""
    textures = {case.name: ScanTexture(case.load_image()) for case in cases}
    prints = {salt: [textures[case.name].fingerprint(salt) for case in cases] for salt in SALTS}
    same: dict[str, list[float]] = {kind: [] for kind in (TWINS, *COPIES)}
    others: dict[str, list[float]] = {kind: [] for kind in (DIFFERENT, *COPIES)}
    nearest: list[tuple[float, str, str]] = []
    digests_changed = 0
    for number, case in enumerate(cases):
        progress(f"{number + 1}/{len(cases)} {case.name}")
        image = case.load_image()
        digest = voxel_digest(image)
        known = {DIFFERENT: textures[case.name]}
        for kind, copied in COPIES.items():
            copy = copied(image)
            digests_changed += voxel_digest(copy) != digest
            known[kind] = ScanTexture(copy)
        for kind, texture in known.items():
            for salt in SALTS:
                distances = texture.distances(prints[salt], salt)
                for other, distance in zip(cases, map(float, distances), strict=True):
                    if other.patient != case.patient:
                        others[kind].append(distance)
                        nearest.append((distance, case.name, other.name))
                    elif kind == DIFFERENT and other.name != case.name:
                        same[TWINS].append(distance)
                    elif kind != DIFFERENT and other.name == case.name:
                        same[kind].append(distance)
    nearest = sorted(nearest)[:10]
    return {"scans": len(cases), "patients": len({case.patient for case in cases}), "salts": len(SALTS),
            "limit": LIMIT, "same": same, "others": others, "nearest_others": nearest}  # fmt: skip


def tables(found: Mapping) -> str:
    """The two tables as Markdown."""
    lines = [
        f"{found['scans']} scans of {found['patients']} patients, {found['salts']} salts, limit {found['limit']:g}",
        "",
        "| the same scan as | compared | median | 95 % | largest | missed |",
        "|---|---|---|---|---|---|",
    ]
    for kind, distances in found["same"].items():
        if distances:
            middle, high = np.percentile(distances, (50, 95))
            missed = sum(distance > found["limit"] for distance in distances)
            lines.append(f"| {kind} | {len(distances)} | {middle:.3f} | {high:.3f} | {max(distances):.3f} | {missed} |")
    lines += [
        "",
        "| different patients, one | compared | 5 % | 0.1 % | smallest | false matches |",
        "|---|---|---|---|---|---|",
    ]
    for kind, distances in found["others"].items():
        low, lowest = np.percentile(distances, (5, 0.1))
        false = sum(distance <= found["limit"] for distance in distances)
        name = "as it is" if kind == DIFFERENT else kind
        lines.append(f"| {name} | {len(distances)} | {low:.3f} | {lowest:.3f} | {min(distances):.3f} | {false} |")
    same = np.concatenate([np.array(values) for values in found["same"].values()])
    twins = np.array(found["same"][TWINS])
    others = np.concatenate([np.array(values) for values in found["others"].values()])
    lines += [
        "",
        f"| limit | missed of {len(same)} | of them twins (of {len(twins)}) | false of {len(others)} |",
        "|---|---|---|---|",
    ]
    for limit in LIMITS:
        counts = ((same > limit).sum(), (twins > limit).sum(), (others <= limit).sum())
        lines.append(f"| {limit:.2f} | {counts[0]} | {counts[1]} | {counts[2]} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, action="append", required=True)
    parser.add_argument("--output", type=Path, required=True)
    chosen = parser.parse_args()
    found = measure(read_datasets(chosen.dataset))
    write_text(json.dumps(found) + "\n", chosen.output / RESULTS_FILE)
    print(tables(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
