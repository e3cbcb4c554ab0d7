"""Wrong masks in the training: does the comparison keep the version that was made from them? One command.

    python Testing/Benchmarks/poisoned.py PROMISE12 --model FOLDER/base --output FOLDER [--center RUNMC]

PROMISE12 is a folder with images/, labels/ and index.csv (centers); the model, of one network or several, is one that
was not trained on the center: FOLDER/base is what new_center.py leaves in its output FOLDER. Four cases of the center
are trained on with wrong masks, all others of the center are the hold-out, with right ones:

* shifted: every mask 15 mm to the patient's left;
* upside-down: flipped cranio-caudally within its scan, on the four glands farthest off the middle in that direction;
* mirrored: flipped about the scan's midline, on the four glands farthest off it;
* swapped: two of the four cases have each other's mask.

Controls with right masks on the same cases must not be called worse. Then everything is wrong, the hold-out too, so
that no comparison on it can tell: what says the door of the case library, given the base model's own contour as the
prediction, and how far does the new version differ from the old one? --folds (of a model of one network) and --steps
make the cross-validation and the training shorter than the panel's (two folds and 48 steps: about three minutes a
variant on two processor cores). Of a model of several networks, each goes on without its own folds instead.

    python Testing/Benchmarks/poisoned.py DATASET --output FOLDER --repeats 8

retrains with right masks only, so many times, each time on five other cases and, with one network, for a fixed length,
and tells how far such sound versions agree with the old one, on the bundled scan and on three more. The limit below
which a version "differs from the old version" lies below them (LEAST_AGREEMENT). Cases that the model was trained on
are left aside; without --model it is the built-in one.

A run that was stopped goes on where it was. Figures: results.json in OUTPUT/<center>-<folds>x<steps>, and the table
that is printed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "DDSPSegmentation"))

import numpy as np  # noqa: E402
import SimpleITK as sitk  # noqa: E402

from DDSPSegmentationLib.engine.devices import set_threads  # noqa: E402
from DDSPSegmentationLib.engine.errors import DatasetError  # noqa: E402
from DDSPSegmentationLib.engine.files import write_text  # noqa: E402
from DDSPSegmentationLib.engine.images import read_mask, write_image  # noqa: E402
from DDSPSegmentationLib.engine.metrics import dice_of  # noqa: E402
from DDSPSegmentationLib.engine.model import builtin_model_folder, describe_model  # noqa: E402
from DDSPSegmentationLib.engine.scan_identity import ScanIdentity  # noqa: E402
from DDSPSegmentationLib.engine.segmenter import Segmenter  # noqa: E402
from DDSPSegmentationLib.learning.comparison import compare_versions  # noqa: E402
from DDSPSegmentationLib.learning.comparison_verdict import LEAST_AGREEMENT  # noqa: E402
from DDSPSegmentationLib.learning.dataset import Case, read_dataset  # noqa: E402
from DDSPSegmentationLib.learning.finetuning import FineTuner  # noqa: E402
from DDSPSegmentationLib.learning.finetuning_settings import LEAST_CASES, FineTuningSettings  # noqa: E402
from DDSPSegmentationLib.library.case_library import CaseLibrary  # noqa: E402

TRAINED_ON, LEAST_HOLD_OUT = 4, 6
SHIFT_MM = 15.0
LEFT_RIGHT, CRANIO_CAUDAL = 2, 0  # axes of an axial scan's array (z, y, x)
REPEAT_ON, REPEAT_COMPARED = LEAST_CASES, 3
NO_FIGURES = {"gain": None, "agreement": None, "sentences": []}
CLEAN, EVERYTHING = "clean", "everything "

Masks = dict[str, sitk.Image]


# ---- wrong masks


def shifted(masks: Masks) -> Masks:
    """Every mask 15 mm along the scan's rows, which is to the patient's left in an axial scan."""
    moved = {}
    for name, mask in masks.items():
        along = np.array(mask.GetDirection()).reshape(3, 3)[:, 0]
        transform = sitk.TranslationTransform(3, (-SHIFT_MM * along).tolist())
        moved[name] = sitk.Resample(mask, mask, transform, sitk.sitkNearestNeighbor)
    return moved


def upside_down(masks: Masks) -> Masks:
    return {name: _flipped(mask, CRANIO_CAUDAL) for name, mask in masks.items()}


def mirrored(masks: Masks) -> Masks:
    return {name: _flipped(mask, LEFT_RIGHT) for name, mask in masks.items()}


def _flipped(mask: sitk.Image, axis: int) -> sitk.Image:
    flipped = sitk.GetImageFromArray(np.ascontiguousarray(np.flip(sitk.GetArrayViewFromImage(mask), axis)))
    flipped.CopyInformation(mask)
    return flipped


def two_swapped(masks: Masks) -> Masks:
    """The first two get each other's mask."""
    first, second = sorted(masks)[:2]
    return masks | all_swapped({name: masks[name] for name in (first, second)})


def all_swapped(masks: Masks) -> Masks:
    """Every case gets its neighbor's mask, laid middle on middle where the scans differ in size."""
    names = sorted(masks)
    order = {name: names[place ^ 1] if place ^ 1 < len(names) else names[0] for place, name in enumerate(names)}
    return {name: _laid_on(masks[other], masks[name]) for name, other in order.items()}


def _laid_on(mask: sitk.Image, grid: sitk.Image) -> sitk.Image:
    laid = sitk.Image(mask)
    laid.SetDirection(grid.GetDirection())
    step = np.subtract(_middle(grid), _middle(laid))
    laid.SetOrigin((np.array(laid.GetOrigin()) + step).tolist())
    return sitk.Resample(laid, grid, sitk.Transform(), sitk.sitkNearestNeighbor)


def _middle(image: sitk.Image) -> tuple[float, ...]:
    return image.TransformContinuousIndexToPhysicalPoint([(size - 1) / 2 for size in image.GetSize()])


def unchanged(masks: Masks) -> Masks:
    return dict(masks)


@dataclass(frozen=True)
class Poison:
    """What is done to the training masks and to all masks at once; along which axis the glands lie off the middle."""

    training: Callable[[Masks], Masks]
    everything: Callable[[Masks], Masks] | None
    axis: int = LEFT_RIGHT


VARIANTS = {
    CLEAN: Poison(unchanged, None),
    f"{CLEAN}, as for upside-down": Poison(unchanged, None, CRANIO_CAUDAL),
    "shifted": Poison(shifted, shifted),
    "upside-down": Poison(upside_down, upside_down, CRANIO_CAUDAL),
    "mirrored": Poison(mirrored, mirrored),
    "swapped": Poison(two_swapped, all_swapped),
}


# ---- one variant


class Benchmark:
    """All variants at one center; each result is kept as soon as it is there."""

    def __init__(self, base: Path, cases: list[Case], folder: Path, settings: FineTuningSettings):
        self.base, self.cases, self.folder, self.settings = base, cases, folder, settings
        self._file = folder / "results.json"
        self.results = {"settings": {"folds": settings.folds, "steps": settings.most_steps}}
        self.results |= {"variants": {}, "door": {}, "repeats": {}}
        if self._file.is_file():
            self.results |= json.loads(self._file.read_text(encoding="utf-8"))

    def repeat(self, times: int) -> None:
        """Retrain on right masks again and again, on other cases each time."""
        for number in range(1, times + 1):
            if str(number) in self.results["repeats"]:
                continue
            drawn = random.Random(number - 1).sample(self.cases, REPEAT_ON + REPEAT_COMPARED)
            training = drawn[:REPEAT_ON]
            if len(describe_model(self.base).members) == 1:
                # As those of one patient they are trained on for a fixed length, without cross-validation.
                training = [replace(case, patient="all") for case in training]
            place = self.folder / f"repeat-{number}"
            tuned = FineTuner(self.base, training, place / "run", progress=show_progress, settings=self.settings).run()
            names = [case.name for case in training]
            if tuned.folder is None:
                self._keep("repeats", str(number), {"training": names, "agreement": {}, "gain": None})
                continue
            found = compare_versions(self.base, tuned.folder, drawn[REPEAT_ON:], place / "comparison")
            agreements = {case.name: case.agreement for case in found.evidence.hold_out}
            result = {"training": names, "agreement": {"sample": found.evidence.sample_agreement, **agreements}}
            self._keep("repeats", str(number), {**result, "gain": found.hold_out_summary.gain})

    def run(self, names: list[str]) -> None:
        for name in names:
            if name not in self.results["variants"]:
                print(f"{name} ...", flush=True)
                self._keep("variants", name, self._compared(name))
            if VARIANTS[name].everything and EVERYTHING + name not in self.results["variants"]:
                self._keep("variants", EVERYTHING + name, self._compared(name, everything=True))
        for name in (CLEAN, *(name for name in names if VARIANTS[name].everything)):
            if name not in self.results["door"]:
                self._keep("door", name, self._door(VARIANTS[name].everything or unchanged))

    def _keep(self, part: str, name: str, result: dict) -> None:
        self.results[part][name] = result
        write_text(json.dumps(self.results, indent=2) + "\n", self._file)

    def _compared(self, name: str, everything: bool = False) -> dict:
        """Train on four cases with this poison and compare; poison the hold-out, too, if everything is to be wrong."""
        poison, started = VARIANTS[name], time.monotonic()
        chosen = sorted(self.cases, key=lambda case: -off_the_middle(case.load_mask(), poison.axis))[:TRAINED_ON]
        chosen.sort(key=lambda case: case.name)
        hold_out = [case for case in self.cases if case not in chosen]
        place = self.folder / name.replace(", ", "-").replace(" ", "-")
        training, label_dice = self._with_masks(chosen, poison.training, place / "labels")
        tuned = FineTuner(self.base, training, place / "run", progress=show_progress, settings=self.settings).run()
        if everything:
            hold_out, label_dice = self._with_masks(hold_out, poison.everything, place / "hold-out labels")
        if tuned.folder is None:
            return {"label_dice": label_dice, "verdict": "not to train is best", "recommendation": "keep", **NO_FIGURES}
        output = place / ("comparison of everything" if everything else "comparison")
        found = compare_versions(self.base, tuned.folder, hold_out, output, cross_validation=tuned.cross_validation)
        return {
            "training": [case.name for case in chosen],
            "hold_out": [case.name for case in hold_out],
            "label_dice": label_dice,
            "minutes": (time.monotonic() - started) / 60,
            "steps": tuned.cross_validation["steps"],
            "verdict": found.verdict,
            "recommendation": found.recommendation,
            "gain": found.hold_out_summary.gain,
            "agreement": found.agreement,
            "sentences": list(found.sentences),
        }

    def _with_masks(
        self, cases: list[Case], poison: Callable[[Masks], Masks], folder: Path
    ) -> tuple[list[Case], dict[str, float]]:
        """The cases with other masks, and the Dice of each with the right one."""
        right = {case.name: case.load_mask() for case in cases}
        wrong = poison(right)
        folder.mkdir(parents=True, exist_ok=True)
        for name, mask in wrong.items():
            if not (folder / f"{name}.mha").is_file():
                write_image(mask, folder / f"{name}.mha")
        with_masks = [replace(case, label_path=folder / f"{case.name}.mha") for case in cases]
        return with_masks, {name: dice_of(wrong[name], right[name]) for name in right}

    # ---- the door

    def _door(self, poison: Callable[[Masks], Masks]) -> dict:
        """What the case library says when all cases of the center come with such masks."""
        place = self.folder / "door"
        shutil.rmtree(place, ignore_errors=True)
        library, said = CaseLibrary(place), {}
        masks = poison({case.name: case.load_mask() for case in self.cases})
        for case in self.cases:
            try:
                given = {"prediction": self._prediction(case), "patient_key": case.patient}
                said[case.name] = list(library.add(case.load_image(), masks[case.name], **given).warnings)
            except DatasetError as error:
                said[case.name] = [f"Refused: {error}"]
        shutil.rmtree(place)
        return said

    def _prediction(self, case: Case) -> sitk.Image:
        path = self.folder / "predictions" / f"{case.name}.mha"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(Segmenter(self.base).segment(case.load_image(), name=case.name).mask, path)
        return read_mask(path)


def off_the_middle(mask: sitk.Image, axis: int) -> float:
    """Distance in mm of a gland's center from the middle of its scan along one axis of the array (z, y, x)."""
    inside = sitk.GetArrayViewFromImage(mask) != 0
    center = float(np.nonzero(inside)[axis].mean())
    return abs(center - (inside.shape[axis] - 1) / 2) * mask.GetSpacing()[2 - axis]


def show_progress(told) -> None:
    if told.step % 20 == 0:
        print(f"  {told.stage}: {told.step}/{told.steps}, {told.seconds_left:.0f} s left", flush=True)


def did_harm(result: dict) -> bool:
    """The version is worse on right masks; wrong ones among a few need do none."""
    return result["gain"] is not None and result["gain"] < 0


def flagged_at_the_door(results: dict, name: str) -> list[str]:
    """Cases that the door says something about with wrong masks and nothing with the right ones."""
    right = results["door"][CLEAN]
    return [case for case, words in results["door"][name].items() if words and not right[case]]


def report(results: dict) -> str:
    lines = [f"{'variant':28s}{'masks':>8s}{'gain':>8s}{'agree':>8s}  verdict, recommendation"]
    for name, result in results["variants"].items():
        right = np.mean(list(result["label_dice"].values()))
        gain, agreement = (np.nan if result[key] is None else result[key] for key in ("gain", "agreement"))
        figures = f"{right:8.3f}{gain:+8.3f}{agreement:8.3f}"
        lines.append(f"{name:28s}{figures}  {result['verdict']}, {result['recommendation']}")
    lines.append("(masks: Dice of the wrong masks with the right ones; agree: mean agreement with the old version)")
    for number, repeat in results["repeats"].items():
        if not repeat["agreement"]:
            lines.append(f"right masks once more ({number}): not to train is best")
            continue
        scans = ", ".join(f"{name} {agreement:.3f}" for name, agreement in repeat["agreement"].items())
        mean = np.mean(list(repeat["agreement"].values()))
        lines.append(f"right masks once more ({number}): agreement {mean:.3f} ({scans}), gain {repeat['gain']:+.3f}")
    if not results["door"]:
        return "\n".join(lines)
    alarmed = sum(map(bool, results["door"][CLEAN].values()))
    lines.append(f"at the door, right masks: {alarmed} of {len(results['door'][CLEAN])} flagged")
    for name, said in results["door"].items():
        if name != CLEAN:
            refused = sum(words[0].startswith("Refused") for words in said.values() if words)
            flagged = len(flagged_at_the_door(results, name))
            lines.append(f"at the door, all {name}: {flagged} more of {len(said)} flagged, {refused} refused")
    poisoned = {name: result for name, result in results["variants"].items() if not name.startswith(CLEAN)}
    partly = {name: result for name, result in poisoned.items() if not name.startswith(EVERYTHING)}
    harmful = [result for result in partly.values() if did_harm(result)]
    caught = sum(result["recommendation"] == "keep" for result in harmful)
    kept = sum(result["recommendation"] == "keep" for result in poisoned.values())
    lines.append(
        f"did harm and was kept back: {caught} of {len(harmful)}; not activated by default: {kept} of {len(poisoned)}"
    )
    return "\n".join(lines)


def is_as_expected(results: dict) -> bool:
    """What did harm is kept back, no control called worse, and what is wrong everywhere flagged somewhere."""
    for name, result in results["variants"].items():
        if name.startswith(EVERYTHING):
            flagged = flagged_at_the_door(results, name.removeprefix(EVERYTHING))
            differs = result["agreement"] is not None and result["agreement"] < LEAST_AGREEMENT
            right = bool(flagged) or differs or result["recommendation"] == "keep"
        elif name.startswith(CLEAN):
            right = result["verdict"] != "worse"
        else:
            right = not did_harm(result) or result["recommendation"] == "keep"
        if not right:
            return False
    return True


def never_seen(dataset: Path, model: Path) -> list[Case]:
    """Cases of patients of whom the model saw no scan; by names, too, where it does not say which scans it saw."""
    described, cases = describe_model(model), read_dataset(dataset)
    names = set(described.training.get("cases", []))
    seen = {
        case.patient
        for case in cases
        if {case.name, case.patient} & names or described.was_trained_on(ScanIdentity(case.load_image()))
    }
    return [case for case in cases if case.patient not in seen]


def repeat(dataset: Path, model: Path, folder: Path, times: int) -> int:
    cases = never_seen(dataset, model)
    folder.mkdir(parents=True, exist_ok=True)
    benchmark = Benchmark(model, sorted(cases, key=lambda case: case.name), folder, FineTuningSettings())
    benchmark.repeat(times)
    print(report(benchmark.results))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--model", type=Path, default=builtin_model_folder())
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--center", default="RUNMC")
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=tuple(VARIANTS), default=tuple(VARIANTS))
    chosen = parser.parse_args()
    set_threads()
    if chosen.repeats:
        return repeat(chosen.dataset, chosen.model, chosen.output, chosen.repeats)
    cases = [case for case in read_dataset(chosen.dataset) if case.center == chosen.center]
    if len({case.patient for case in cases}) < TRAINED_ON + LEAST_HOLD_OUT:
        parser.error(f"center {chosen.center} has {len(cases)} cases; {TRAINED_ON + LEAST_HOLD_OUT} are needed")
    settings = FineTuningSettings(folds=chosen.folds, least_steps=chosen.steps, most_steps=chosen.steps)
    folder = chosen.output / f"{chosen.center}-{chosen.folds}x{chosen.steps}"
    folder.mkdir(parents=True, exist_ok=True)
    benchmark = Benchmark(chosen.model, cases, folder, settings)
    benchmark.run(list(chosen.only))
    print(report(benchmark.results))
    return int(not is_as_expected(benchmark.results))


if __name__ == "__main__":
    sys.exit(main())
