"""Trains the members of a version, joins them, and measures every patient by the members that never saw it.

    python Testing/Benchmarks/five_networks.py train --dataset PROMISE12 --dataset PROSTATE3T --output FOLDER
    python Testing/Benchmarks/five_networks.py join --dataset PROMISE12 --dataset PROSTATE3T --output FOLDER
    python Testing/Benchmarks/five_networks.py measure --dataset PROMISE12 --dataset PROSTATE3T --output FOLDER
    python Testing/Benchmarks/five_networks.py table --output FOLDER

``train`` takes about a second a step on two cores; stopped (SIGTERM, Ctrl-C, a kill), it goes on where it was. Each
member leaves out two of five folds of patients, see ``learning.ensemble``. ``join`` writes the version. ``measure``
segments every scan on its stored grid, as it is and with its through-plane resolution halved, by each of its two unseen
members alone and by the mean of both; scans that are done are not done again, and the means of all go into the
version's model.json. ``table`` averages the scans of a patient
first, and prints Markdown: all patients, those of folds 2 to 4 alone (no choice was made on them), and each center;
then how many of the two worst slices of a scan are among the first three that *Next* shows, and what Dice a reader has
who corrects those three.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "DDSPSegmentation"))

import numpy as np  # noqa: E402
import SimpleITK as sitk  # noqa: E402
from recipe import figures, is_trained  # noqa: E402

from DDSPSegmentationLib.engine.devices import set_threads  # noqa: E402
from DDSPSegmentationLib.engine.files import write_text  # noqa: E402
from DDSPSegmentationLib.engine.metrics import dice  # noqa: E402
from DDSPSegmentationLib.engine.model import describe_model, write_description  # noqa: E402
from DDSPSegmentationLib.engine.segmentation import Segmentation, acquired_axis  # noqa: E402
from DDSPSegmentationLib.engine.segmenter import Segmenter  # noqa: E402
from DDSPSegmentationLib.learning.calibration import LEAST_SLICES, in_pairs  # noqa: E402
from DDSPSegmentationLib.learning.dataset import (  # noqa: E402
    Case,
    prepare_dataset,
    read_datasets,
    select_folds,
    split_folds,
)
from DDSPSegmentationLib.learning.ensemble import LEFT_OUT, join_members, unseen_members  # noqa: E402
from DDSPSegmentationLib.learning.plans import TrainingPlan, choose_plan  # noqa: E402
from DDSPSegmentationLib.learning.statistics import mean_interval  # noqa: E402

VERSION = "ddsp-prostate-2"
TERMS = (
    "Research use only; trained on PROMISE12 (Litjens et al. 2014) and on Prostate-3T (TCIA) with the masks of "
    "NCI-ISBI 2013; see TERMS.md"
)
SMALL_CROP_SHARE = 0.625  # 2000 of 3200 steps
CHOSEN_ON = (0, 1)  # the folds on which recipe, outputs and mode were chosen
SHOWN = 3  # slices that a reader looks at
KINDS = ("as it is", "thick slices")
MEASURES = ("dice", "base", "apex", "volume_percent", "absolute_volume_percent", "score")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("train", "join", "measure", "table"))
    parser.add_argument("--dataset", type=Path, action="append", default=[])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args()
    if chosen.action == "table":
        print(table(json.loads((chosen.output / "rows.json").read_text(encoding="utf-8"))))
        return 0
    set_threads()
    cases = read_datasets(chosen.dataset)
    folds = split_folds(cases, chosen.dataset)
    plan = choose_plan("improved", steps=chosen.steps, small_crop_share=SMALL_CROP_SHARE)
    if chosen.action == "train":
        return train(plan, cases, folds, chosen.output, chosen.device)
    if chosen.action == "join":
        prepared = prepare_dataset(cases, plan.preprocessing, chosen.output / "cache")
        models = [chosen.output / name_of(folds_out) / "model" for folds_out in LEFT_OUT]
        training = {"plan": plan.name, "steps": plan.steps, "loss": plan.loss, "cases": [case.name for case in cases]}
        facts = {"training": training, "license": TERMS, "date": time.strftime("%Y-%m-%d")}
        join_members(chosen.output / VERSION, models, LEFT_OUT, prepared, folds, **facts)
        return 0
    rows = measure(cases, folds, chosen.output, chosen.device)
    description = describe_model(chosen.output / VERSION)
    metrics = {**description.metrics, "unseen_patients": means(rows)}
    write_description(chosen.output / VERSION, replace(description, metrics=metrics))
    return 0


def name_of(left_out: Sequence[int]) -> str:
    return "without-" + "".join(map(str, left_out))


def train(plan: TrainingPlan, cases: Sequence[Case], folds: list[list[str]], output: Path, device: str) -> int:
    """Train the members one after the other; 1 when it was stopped before the last one's end."""
    for number, left_out in enumerate(LEFT_OUT):
        training, _ = select_folds(cases, folds, left_out)
        folder = output / name_of(left_out)
        prepared = prepare_dataset(training, plan.preprocessing, output / "cache")
        if not is_trained(replace(plan, seed=number), prepared, folder, device):  # each from weights of its own
            return 1
    return 0


def measure(cases: Sequence[Case], folds: list[list[str]], output: Path, device: str) -> list[dict]:
    """Write rows.json: one row for each scan, kind and group of unseen members."""
    segmenter = Segmenter(output / VERSION, device)
    unseen = unseen_members(segmenter.model, cases)
    path = output / "rows.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    done = {row["case"] for row in rows}
    for case in cases:
        pair = unseen[case.name]
        if case.name in done or not pair:
            continue
        image, mask = case.load_image(), case.load_mask()
        mask.CopyInformation(image)
        fold = next(number for number, names in enumerate(folds) if case.name in names)
        known = {"case": case.name, "patient": case.patient, "center": case.center, "fold": fold}
        for kind, scan, reference in zip(KINDS, (image, in_pairs(image)), (mask, in_pairs(mask) >= 0.5), strict=True):
            if scan.GetSize()[2] < LEAST_SLICES:
                continue
            for members in (*([number] for number in pair), pair):
                found = segmenter.segment(scan, name=case.name, members=members)
                rows.append({**known, "kind": kind, "members": members, **figures(found.mask, reference)})
                if len(members) == 2:
                    rows[-1] |= after_review(found, reference)
        write_text(json.dumps(rows, indent=1), path)
        print(f"{case.name}: {', '.join(format(row['dice'], '.3f') for row in rows if row['case'] == case.name)}")
    return rows


def means(rows: Sequence[Mapping]) -> dict[str, dict[str, float]]:
    """What model.json says of scans as they are: by one unseen network and by the mean of two, over patients."""
    found = {}
    for words, count in (("one unseen network", 1), ("two unseen networks", 2)):
        chosen = [row for row in rows if row["kind"] == KINDS[0] and len(row["members"]) == count]
        patients = list(patients_of(chosen).values())
        found[words] = {name: round(value, 3) for name, value in _mean(patients).items()} | {"patients": len(patients)}
    return found


def after_review(found: Segmentation, reference: sitk.Image) -> dict[str, float]:
    """What the first three slices of the review are worth: share of the two worst among them, Dice once they are right.

    ``chance`` is the share that three slices drawn from those with gland would have.
    """
    axis = acquired_axis(found.mask.GetSpacing())
    mask, true = (
        np.moveaxis(sitk.GetArrayFromImage(sitk.Cast(image, sitk.sitkUInt8)) > 0, axis, 0)
        for image in (found.mask, reference)
    )
    wrong = (mask != true).sum(axis=(1, 2))
    shown = [number for number, doubt in enumerate(found.slice_doubts) if doubt is not None]
    first = sorted(shown, key=lambda number: -(found.slice_doubts[number] or 0.0))[:SHOWN]
    mask[first] = true[first]
    return {
        "worst_two_found": len(set(np.argsort(-wrong)[:2].tolist()) & set(first)) / 2,
        "chance": min(1.0, SHOWN / max(1, len(shown))),
        "dice_after_review": dice(mask, true),
    }


def patients_of(rows: Sequence[Mapping]) -> dict[str, dict[str, float]]:
    """Each patient's figures, averaged over its rows of each scan, then over its scans."""
    scans: dict[str, dict[str, list[Mapping]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        scans[row["patient"]][row["case"]].append(row)
    return {
        patient: {
            name: float(np.mean([np.mean([row[name] for row in found]) for found in of_patient.values()]))
            for name in MEASURES
        }
        for patient, of_patient in scans.items()
    }


def table(rows: Sequence[Mapping]) -> str:
    """Means over patients, as Markdown."""
    lines = [
        "| patients | scans | networks | n | Dice (95 % interval) | base | apex | volume % | absolute % | score |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups = {"all": lambda row: True, "folds 2 to 4": lambda row: row["fold"] not in CHOSEN_ON}
    groups |= {
        center: lambda row, center=center: row["center"] == center for center in sorted({row["center"] for row in rows})
    }
    for kind in KINDS:
        for group, belongs in groups.items():
            for networks, count in (("one", 1), ("two", 2)):
                chosen = [row for row in rows if belongs(row) and row["kind"] == kind and len(row["members"]) == count]
                if chosen:
                    lines.append(_line(group, kind, networks, list(patients_of(chosen).values())))
    pairs = [row for row in rows if row["kind"] == KINDS[0] and len(row["members"]) == 2]
    found, chance, before, after = (
        float(np.mean([row[name] for row in pairs]))
        for name in ("worst_two_found", "chance", "dice", "dice_after_review")
    )
    lines += [
        "",
        f"Of the two worst slices {found:.2f} are among the first three shown (by chance {chance:.2f}); correcting "
        f"these goes from Dice {before:.3f} to {after:.3f} (mean over {len(pairs)} scans).",
    ]
    return "\n".join(lines)


def _mean(patients: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([patient[name] for patient in patients])) for name in MEASURES}


def _line(group: str, kind: str, networks: str, patients: Sequence[Mapping[str, float]]) -> str:
    means = _mean(patients)
    interval = mean_interval([patient["dice"] for patient in patients])
    dice = f"{means['dice']:.4f}" + ("" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})")
    cells = [group, kind, networks, str(len(patients)), dice, f"{means['base']:.3f}", f"{means['apex']:.3f}"]
    cells += [f"{means['volume_percent']:+.1f}", f"{means['absolute_volume_percent']:.1f}", f"{means['score']:.1f}"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
