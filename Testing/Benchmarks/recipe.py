"""Which training recipe is better at whole patients that it never saw? Each change alone, two folds.

    python Testing/Benchmarks/recipe.py run --dataset PROMISE12 --dataset PROSTATE3T --output FOLDER
    python Testing/Benchmarks/recipe.py table --output FOLDER

``run`` trains and measures the runs below in their order; a run that was stopped (SIGTERM, Ctrl-C, a kill) goes on
where it was. Every scan of the left-out folds is segmented on its stored grid and compared with its own mask, a
patient's scans averaged to one value: as it is, from the main output alone, and with its through-plane resolution
halved. ``table`` prints the means as Markdown. Needs PyTorch; a step takes about a second on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "DDSPSegmentation"))

import numpy as np  # noqa: E402
import SimpleITK as sitk  # noqa: E402

from DDSPSegmentationLib.engine.devices import set_threads  # noqa: E402
from DDSPSegmentationLib.engine.files import write_text  # noqa: E402
from DDSPSegmentationLib.engine.metrics import compare_masks, promise12_style_score  # noqa: E402
from DDSPSegmentationLib.engine.network import NetworkSettings  # noqa: E402
from DDSPSegmentationLib.engine.segmenter import Segmenter  # noqa: E402
from DDSPSegmentationLib.learning.augmentation import AugmentationSettings  # noqa: E402
from DDSPSegmentationLib.learning.calibration import LEAST_SLICES, in_pairs  # noqa: E402
from DDSPSegmentationLib.learning.dataset import (  # noqa: E402
    Case,
    PreparedCase,
    prepare_dataset,
    read_datasets,
    select_folds,
    split_folds,
)
from DDSPSegmentationLib.learning.plans import TrainingPlan, choose_plan  # noqa: E402
from DDSPSegmentationLib.learning.training import CHECKPOINT_FILE, Trainer  # noqa: E402

STEPS = 800
MEASURES = ("dice", "base", "apex", "volume_percent", "absolute_volume_percent")


@dataclass(frozen=True)
class Run:
    """One training run: folds left out, changes to the plan, and whether a patient's second scan is trained on."""

    name: str
    left_out: tuple[int, ...]
    changes: Mapping[str, object] = field(default_factory=dict)
    twins: bool = False


BASELINE = {"augmentation": AugmentationSettings(), "network": NetworkSettings(), "small_crop": None}
THICK = AugmentationSettings(thick=0.35, noise=0.3, bias=0.8)
CHANGES: Mapping[str, tuple[Mapping[str, object], bool]] = {
    "baseline": ({}, False),
    "thick": ({"augmentation": THICK}, False),
    "twins": ({}, True),
    "cross-entropy": ({"loss": "dsc_cross_entropy"}, False),
    "progressive": ({"small_crop": (32, 64, 64)}, False),
}


def planned_runs() -> list[Run]:
    """Fold 0 of every recipe first, and the network on three folds beside it; then fold 1."""
    runs = [Run("baseline-0", (0,)), Run("three-folds-0", (0, 1))]
    runs += [
        Run(f"{name}-{fold}", (fold,), changes, twins)
        for fold in (0, 1)
        for name, (changes, twins) in CHANGES.items()
        if (name, fold) != ("baseline", 0)
    ]
    return runs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("run", "table"))
    parser.add_argument("--dataset", type=Path, action="append", default=[])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args()
    if chosen.action == "table":
        print(table(chosen.output))
        return 0
    set_threads()
    cases = read_datasets(chosen.dataset)
    folds = split_folds(cases, chosen.dataset)
    chosen.output.mkdir(parents=True, exist_ok=True)
    write_text(json.dumps({"folds": folds}, indent=1), chosen.output / "folds.json")
    for run in planned_runs():
        folder = chosen.output / run.name
        if not (folder / "scores.json").exists() and not finish(run, cases, folds, folder, chosen.device):
            return 1
    print(table(chosen.output))
    return 0


def finish(run: Run, cases: Sequence[Case], folds: list[list[str]], folder: Path, device: str) -> bool:
    """Train what is left of a run, then measure it; whether it came to its end."""
    training, left_out = select_folds(cases, folds, run.left_out)
    if not run.twins:
        training = first_scans(training)
    plan = choose_plan("improved", steps=STEPS, **{**BASELINE, **run.changes})
    prepared = prepare_dataset(training, plan.preprocessing, folder.parent / "cache")
    if not is_trained(plan, prepared, folder, device):
        return False
    # A network that left out two folds is compared with one that left out the first of them alone.
    rows = measure(folder / "model", [case for case in left_out if case.name in folds[run.left_out[0]]], device)
    scores = {"steps": plan.steps, "scans": len(training), "rows": rows}
    write_text(json.dumps(scores, indent=1), folder / "scores.json")
    return True


def is_trained(plan: TrainingPlan, cases: Sequence[PreparedCase], folder: Path, device: str = "auto") -> bool:
    """Train what is left of a run in a folder; whether it came to its end."""
    trainer = Trainer(plan, cases, [], folder, device=device)
    if (folder / CHECKPOINT_FILE).exists():
        trainer.load_checkpoint()
    print(f"{folder.name}: {len(cases)} scans, from step {trainer.step}", flush=True)
    return trainer.run()


def first_scans(cases: Sequence[Case]) -> list[Case]:
    """One scan for each patient, the first."""
    return list({case.patient: case for case in reversed(cases)}.values())[::-1]


def measure(model: Path, cases: Sequence[Case], device: str) -> list[dict[str, object]]:
    """One row for each scan and way of looking at it; figures as in MEASURES."""
    segmenter = Segmenter(model, device)
    all_outputs = segmenter.network.settings
    main_output = replace(all_outputs, fusion=(1, 0, 0))
    rows = []
    for case in cases:
        image, mask = case.load_image(), case.load_mask()
        mask.CopyInformation(image)
        for kind, settings, scan, reference in (
            ("all outputs", all_outputs, image, mask),
            ("main output", main_output, image, mask),
            ("thick slices", main_output, in_pairs(image), in_pairs(mask) >= 0.5),
        ):
            if scan.GetSize()[2] < LEAST_SLICES:
                continue
            segmenter.network.settings = settings
            found = segmenter.segment(scan, name=case.name).mask
            rows.append({"case": case.name, "patient": case.patient, "center": case.center, "kind": kind})
            rows[-1] |= figures(found, reference)
        print(
            "  " + ", ".join(f"{row['kind']} {row['dice']:.3f}" for row in rows if row["case"] == case.name), flush=True
        )
    return rows


def figures(found: sitk.Image, reference: sitk.Image) -> dict[str, float]:
    regions = compare_masks(found, reference)
    volumes = [np.count_nonzero(sitk.GetArrayViewFromImage(mask)) for mask in (found, reference)]
    difference = 100 * (volumes[0] / volumes[1] - 1)
    return {
        "dice": regions["whole"].dsc,
        "base": regions["base"].dsc,
        "apex": regions["apex"].dsc,
        "volume_percent": difference,
        "absolute_volume_percent": abs(difference),
        "score": promise12_style_score(regions),
    }


def by_patient(rows: Sequence[Mapping[str, object]]) -> dict[str, dict[str, float]]:
    """Each patient's figures, averaged over its scans."""
    scans: dict[str, list[Mapping[str, object]]] = defaultdict(list)
    for row in rows:
        scans[row["patient"]].append(row)
    return {
        patient: {name: float(np.mean([row[name] for row in found])) for name in MEASURES}
        for patient, found in scans.items()
    }


def table(output: Path) -> str:
    """Means over patients of every finished run, as Markdown."""
    lines = [
        "| run | scans trained on | looked at | patients | Dice | base | apex | volume % | absolute volume % |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in planned_runs():
        path = output / run.name / "scores.json"
        if not path.exists():
            continue
        scores = json.loads(path.read_text(encoding="utf-8"))
        for kind in dict.fromkeys(row["kind"] for row in scores["rows"]):
            patients = by_patient([row for row in scores["rows"] if row["kind"] == kind])
            means = [float(np.mean([values[name] for values in patients.values()])) for name in MEASURES]
            numbers = [f"{value:.4f}" for value in means[:3]] + [f"{means[3]:+.1f}", f"{means[4]:.1f}"]
            lines.append(f"| {' | '.join((run.name, str(scores['scans']), kind, str(len(patients)), *numbers))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
