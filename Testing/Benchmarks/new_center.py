"""Does fine-tuning help at a hospital that the network never saw, and what does it forget? One command.

    python Testing/Benchmarks/new_center.py PROMISE12 --output FOLDER [--center RUNMC] [--shift coil|resolution|none]

PROMISE12 is a folder with images/, labels/, index.csv (centers) and folds.json. A base model is trained without the
center, and without fold 0 of the other centers, which show what is forgotten. The center's cases are split once into
halves. The base model is fine-tuned, exactly as the panel does it, on 3 and on 5 cases of one half, and tested on all
cases of the other; then the halves are swapped, so that every case of the center is tested once for each number.
With --shift the center's scans are changed first: a bright endorectal coil, or half the resolution.

A run that was stopped goes on where it was. Figures: OUTPUT/results.json, and the table that is printed.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from dataclasses import replace
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "DDSPSegmentation"))

import numpy as np  # noqa: E402
import SimpleITK as sitk  # noqa: E402

from DDSPSegmentationLib.engine.devices import set_threads  # noqa: E402
from DDSPSegmentationLib.engine.files import write_text  # noqa: E402
from DDSPSegmentationLib.engine.images import write_image  # noqa: E402
from DDSPSegmentationLib.engine.metrics import dice_of as dice  # noqa: E402
from DDSPSegmentationLib.engine.segmenter import Segmenter  # noqa: E402
from DDSPSegmentationLib.learning.dataset import Case, prepare_dataset, read_dataset, split_folds  # noqa: E402
from DDSPSegmentationLib.learning.finetuning import FineTuner  # noqa: E402
from DDSPSegmentationLib.learning.plans import choose_plan  # noqa: E402
from DDSPSegmentationLib.learning.training import CHECKPOINT_FILE, Trainer  # noqa: E402

COUNTS = (3, 5)
BASE_STEPS = 2400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--center", default="RUNMC")
    parser.add_argument("--shift", choices=("none", "coil", "resolution"), default="none")
    chosen = parser.parse_args()
    set_threads()
    cases = read_dataset(chosen.dataset)
    fold = set(split_folds(cases, [chosen.dataset])[0])
    center = [case for case in cases if case.center == chosen.center]
    others = [case for case in cases if case.center != chosen.center]
    forgetting = [case for case in others if case.name in fold]
    base = train_base([case for case in others if case.name not in fold], chosen.output)
    folder = chosen.output / f"{chosen.center}-{chosen.shift}"
    if chosen.shift != "none":
        center = [shifted(case, chosen.shift, folder / "scans") for case in center]
    results = run(base, center, forgetting, folder)
    print(report(results))


def train_base(cases: list[Case], output: Path) -> Path:
    """The base model: at most about an hour on two processor cores."""
    plan = choose_plan("improved", steps=BASE_STEPS)
    trainer = Trainer(plan, prepare_dataset(cases, plan.preprocessing, output / "cache"), [], output / "base")
    if (output / "base" / CHECKPOINT_FILE).is_file():
        trainer.load_checkpoint()
    trainer.run()
    return output / "base" / "model"


def run(base: Path, center: list[Case], forgetting: list[Case], folder: Path) -> dict:
    """Fine-tune on 3 and 5 cases of each half, and test every version on all cases that it has not seen."""
    names = [case.name for case in center]
    random.Random(0).shuffle(names)
    half = (len(names) + 1) // 2
    halves = {"A": names[:half], "B": names[half:]}
    by_name = {case.name: case for case in (*center, *forgetting)}
    results_file = folder / "results.json"
    results = json.loads(results_file.read_text()) if results_file.is_file() else {"halves": halves, "runs": {}}

    def keep() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(json.dumps(results, indent=2), results_file)

    if "before" not in results:
        results["before"] = dice_of(base, list(by_name.values()))
        keep()
    for count in COUNTS:
        for trained, tested in (("A", "B"), ("B", "A")):
            key = f"{trained}{count}"
            if key in results["runs"]:
                continue
            training = halves[trained][:count]
            assert not set(training) & set(halves[tested])
            print(f"fine-tuning on {count} cases of half {trained}", flush=True)
            started = time.monotonic()
            tuned = FineTuner(base, [by_name[name] for name in training], folder / key, progress=show_progress).run()
            minutes = (time.monotonic() - started) / 60
            # Where not to train was the best length, the base model stays.
            after = dice_of(tuned.folder or base, [by_name[name] for name in halves[tested]] + forgetting)
            results["runs"][key] = {
                "training": training,
                "minutes": minutes,
                "after": after,
                "cross_validation": tuned.cross_validation,
            }
            keep()
    return results


def show_progress(told) -> None:
    if told.step % 20 == 0:
        print(f"  {told.stage}: {told.step}/{told.steps}, {told.seconds_left:.0f} s left", flush=True)


def dice_of(model: Path, cases: list[Case]) -> dict[str, float]:
    """Dice of whole scans on their own grid."""
    segmenter = Segmenter(model)
    return {case.name: dice(segmenter.segment(case.load_image()).mask, case.load_mask()) for case in cases}


def shifted(case: Case, kind: str, folder: Path) -> Case:
    """The case as another scanner might show it; its mask stays."""
    path = folder / f"{case.name}.mha"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        image = sitk.Cast(case.load_image(), sitk.sitkFloat32)
        write_image(with_coil(image) if kind == "coil" else with_half_resolution(image), path)
    return replace(case, image_path=path)


def with_coil(image: sitk.Image) -> sitk.Image:
    """An endorectal coil's brightness: tenfold at the rectum, falling off within some centimetres."""
    values = sitk.GetArrayFromImage(image)
    z, y, x = np.meshgrid(*(np.arange(n) for n in values.shape), indexing="ij")
    sx, sy, sz = image.GetSpacing()
    nz, ny, nx = values.shape
    square = ((z - nz / 2) * sz / 40) ** 2 + ((y - ny / 2) * sy - 35) ** 2 / 25**2 + ((x - nx / 2) * sx / 25) ** 2
    bright = sitk.GetImageFromArray((values * np.exp(np.log(10) * np.exp(-square / 2))).astype(np.float32))
    bright.CopyInformation(image)
    return bright


def with_half_resolution(image: sitk.Image) -> sitk.Image:
    """Half the in-plane resolution and noise, shown on the same grid."""
    x, y, z = image.GetSpacing()
    blurred = image
    for axis, step in ((0, x), (1, y)):
        blurred = sitk.RecursiveGaussian(blurred, 2 * step, False, sitk.RecursiveGaussianImageFilter.ZeroOrder, axis)
    values = sitk.GetArrayFromImage(blurred)
    noise = np.random.default_rng(0).normal(0, 0.1 * values.std(), values.shape)
    noisy = sitk.GetImageFromArray((values + noise).astype(np.float32))
    noisy.CopyInformation(image)
    return noisy


def interval(differences: list[float]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean."""
    values = np.array(differences)
    drawn = np.random.default_rng(0).integers(values.size, size=(10_000, values.size))
    low, high = np.percentile(values[drawn].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


def report(results: dict) -> str:
    lines = []
    before = results["before"]
    tested = sorted(results["halves"]["A"] + results["halves"]["B"])
    forgotten = sorted(set(before) - set(tested))
    for count in COUNTS:
        runs = [results["runs"][f"{half}{count}"] for half in "AB"]
        after = {name: value for run in runs for name, value in run["after"].items() if name in tested}
        minutes = " and ".join(f"{run['minutes']:.1f}" for run in runs)
        lines += [f"{count} cases ({minutes} min), tested on n={len(after)}"]
        for title, names, values in (
            ("new center", sorted(after), after),
            ("other centers, first version", forgotten, runs[0]["after"]),
            ("other centers, second version", forgotten, runs[1]["after"]),
        ):
            differences = [values[name] - before[name] for name in names]
            low, high = interval(differences)
            means = [100 * float(np.mean([scores[name] for name in names])) for scores in (before, values)]
            lines.append(
                f"  {title}: Dice {means[0]:.2f} -> {means[1]:.2f}, difference {100 * np.mean(differences):+.2f} "
                f"[{100 * low:+.2f}, {100 * high:+.2f}]"
            )
            lines.append("    " + ", ".join(f"{n} {100 * d:+.1f}" for n, d in zip(names, differences, strict=True)))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
