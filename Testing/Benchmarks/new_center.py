"""Does retraining help at a hospital that the network never saw, and what does it forget? One command.

    python Testing/Benchmarks/new_center.py --dataset PROMISE12 --dataset PROSTATE3T --output FOLDER

RUNMC is the hospital: 27 patients, one scan each. A base version of two networks is trained on the other 30 patients,
each network without two of their five folds; those folds, by the network that left them out, show what is forgotten.
Nine patients of the hospital are only ever tested on. From the other eighteen the base is fine-tuned, exactly as the
panel does it, on 3, 5 and 9 cases in two draws that share nobody, and on all 18 once. With ``--knew ROWS`` (rows.json
of five_networks.py) the nine are also told for two networks that knew the hospital, though not these patients.

The base takes 2 x 2500 steps, about an hour and a half on two idle cores that compute in bfloat16 and three times as
long on others; --base-steps and --small-crops make it shorter. A run that was stopped (SIGTERM, Ctrl-C, a kill) goes on
where it was. Figures: OUTPUT/results.json, the table that is printed, and OUTPUT/curve.png.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "DDSPSegmentation"))

import numpy as np  # noqa: E402
from recipe import first_scans, is_trained  # noqa: E402

from DDSPSegmentationLib.engine.devices import set_threads  # noqa: E402
from DDSPSegmentationLib.engine.files import write_text  # noqa: E402
from DDSPSegmentationLib.engine.metrics import dice_of  # noqa: E402
from DDSPSegmentationLib.engine.segmenter import Segmenter  # noqa: E402
from DDSPSegmentationLib.learning.dataset import (  # noqa: E402
    Case,
    prepare_dataset,
    read_datasets,
    select_folds,
    split_folds,
)
from DDSPSegmentationLib.learning.ensemble import join_members, unseen_members  # noqa: E402
from DDSPSegmentationLib.learning.finetuning import FineTuner  # noqa: E402
from DDSPSegmentationLib.learning.plans import TrainingPlan, choose_plan  # noqa: E402
from DDSPSegmentationLib.learning.statistics import mean_interval  # noqa: E402

HOSPITAL = "RUNMC"
LEFT_OUT = ((0, 1), (3, 4))
BASE_STEPS, SMALL_CROPS = 2500, 0.5
TESTED = 9
COUNTS = (3, 5, 9)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, action="append", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--base-steps", type=int, default=BASE_STEPS)
    parser.add_argument("--small-crops", type=float, default=SMALL_CROPS, help="share of the base's steps with them")
    parser.add_argument("--knew", type=Path, help="rows.json of five_networks.py")
    chosen = parser.parse_args()
    set_threads()
    everybody = first_scans(read_datasets(chosen.dataset))
    hospital = [case for case in everybody if case.center.startswith(HOSPITAL)]
    others = [case for case in everybody if case not in hospital]
    plan = choose_plan("improved", steps=chosen.base_steps, small_crop_share=chosen.small_crops)
    base = make_base(others, plan, chosen.output)
    if base is None:
        return 1
    results = run(base, hospital, others, chosen.output)
    knew = json.loads(chosen.knew.read_text(encoding="utf-8")) if chosen.knew else []
    those_who_knew = of_those_who_knew(knew, results["tested"])
    print(report(results, those_who_knew))
    draw_curve(results, those_who_knew, chosen.output / "curve.png")
    return 0


def make_base(others: Sequence[Case], plan: TrainingPlan, output: Path) -> Path | None:
    """The base version; None where a network's training was stopped before its end."""
    folds = split_folds(others)
    prepared = prepare_dataset(others, plan.preprocessing, output / "cache")
    models = []
    for left_out in LEFT_OUT:
        names = {case.name for case in select_folds(others, folds, left_out)[0]}
        folder = output / f"base-without-{''.join(map(str, left_out))}"
        if not is_trained(plan, [case for case in prepared if case.name in names], folder):
            return None
        models.append(folder / "model")
    join_members(output / "base", models, LEFT_OUT, prepared, folds)
    return output / "base"


def run(base: Path, hospital: Sequence[Case], others: Sequence[Case], output: Path) -> dict:
    """Fine-tune on every draw; test each version on the nine and on what its networks left out of the others."""
    patients = sorted(hospital, key=lambda case: case.name)
    random.Random(0).shuffle(patients)
    tested, rest = patients[:TESTED], patients[TESTED:]
    half = len(rest) // 2
    draws = {
        f"{count}{letter}": part[:count]
        for count in COUNTS
        for letter, part in (("a", rest[:half]), ("b", rest[half:]))
    }
    draws["18"] = rest
    path = output / "results.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"runs": {}}
    results["tested"] = [case.name for case in tested]

    def measure(model: Path) -> dict[str, dict[str, float]]:
        return {"hospital": scores(model, tested), "others": scores(model, others)}

    if "before" not in results:
        results["before"] = measure(base)
        write_text(json.dumps(results, indent=2), path)
    for key, training in draws.items():
        if key in results["runs"]:
            continue
        print(f"fine-tuning on {key}: {', '.join(case.name for case in training)}", flush=True)
        started = time.monotonic()
        tuned = FineTuner(base, training, output / key, progress=show_progress).run()
        results["runs"][key] = {
            "training": [case.name for case in training],
            "minutes": (time.monotonic() - started) / 60,
            "cross_validation": tuned.cross_validation,
            **measure(tuned.folder or base),  # where not to train was the best length, the base version stays
        }
        write_text(json.dumps(results, indent=2), path)
    return results


def show_progress(told) -> None:
    if told.step % 20 == 0:
        print(f"  {told.stage}: {told.step}/{told.steps}, {told.seconds_left:.0f} s left", flush=True)


def scores(model: Path, cases: Sequence[Case]) -> dict[str, float]:
    """Dice of whole scans on their own grid by the members that never saw them; cases that all saw have none."""
    segmenter, found = Segmenter(model), {}
    unseen = unseen_members(segmenter.model, cases)
    for case in cases:
        members = unseen[case.name]
        if members:
            answer = segmenter.segment(case.load_image(), members=members)
            found[case.name] = dice_of(answer.mask, case.load_mask())
    return found


def of_those_who_knew(rows: Sequence[Mapping], names: Sequence[str]) -> dict[str, float]:
    """Dice of the pair of unseen members of a version that was trained on the hospital's other patients."""
    return {
        row["case"]: row["dice"]
        for row in rows
        if row["case"] in names and row["kind"] == "as it is" and len(row["members"]) == 2
    }


def report(results: Mapping, knew: Mapping[str, float]) -> str:
    """The table as Markdown, and every patient's change."""
    before, runs = results["before"], results["runs"]
    lines = [
        "| fine-tuned on | tested on | n | before | after | difference (95 % interval) | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    details = []
    for count in (*COUNTS, 18):
        of_count = {key: found for key, found in runs.items() if key.rstrip("ab") == str(count)}
        minutes = " and ".join(f"{found['minutes']:.0f}" for found in of_count.values())
        for group, words in (("hospital", "its nine"), ("others", "the other hospitals")):
            names = sorted(before[group])
            after = {name: float(np.mean([found[group][name] for found in of_count.values()])) for name in names}
            change = [after[name] - before[group][name] for name in names]
            low, high = mean_interval(change) or (float("nan"),) * 2
            means = (float(np.mean([values[name] for name in names])) for values in (before[group], after))
            told = f"{np.mean(change):+.3f} ({low:+.3f} to {high:+.3f})"
            cells = [f"{count} cases", words, str(len(names)), *(f"{mean:.3f}" for mean in means), told, minutes]
            lines.append(f"| {' | '.join(cells)} |")
            listed = ", ".join(f"{name} {difference:+.3f}" for name, difference in zip(names, change, strict=True))
            details.append(f"{count} cases, {words}: {listed}")
    if knew:
        lines.append(f"| knew the hospital | its nine | {len(knew)} | | {np.mean(list(knew.values())):.3f} | | |")
    return "\n".join([*lines, "", *details])


def draw_curve(results: Mapping, knew: Mapping[str, float], path: Path) -> None:
    """Mean Dice of the nine against the number of cases, every draw a dot."""
    from matplotlib.figure import Figure

    axes = Figure(figsize=(6, 4), layout="constrained").subplots()
    for group, color, words in (("hospital", "tab:blue", "the hospital's nine"), ("others", "tab:gray", "the others")):
        points = [(0, results["before"][group])]
        points += [(int(key.rstrip("ab")), found[group]) for key, found in results["runs"].items()]
        means = [(count, float(np.mean(list(values.values())))) for count, values in points]
        axes.scatter(*zip(*means, strict=True), color=color, s=12)
        counts = sorted({count for count, _ in means})
        axes.plot(counts, [np.mean([m for c, m in means if c == count]) for count in counts], color=color, label=words)
    if knew:
        axes.axhline(np.mean(list(knew.values())), color="tab:green", linestyle="--", label="networks that knew it")
    axes.set(xlabel="cases that the version was fine-tuned on", ylabel="mean Dice")
    axes.legend(frameon=False)
    axes.figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
