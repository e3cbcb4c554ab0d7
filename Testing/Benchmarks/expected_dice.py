"""What the expected Dice of a version is worth on patients that its answering networks and its fit never saw.

    python Testing/Benchmarks/expected_dice.py calibrate --dataset PROMISE12 --dataset PROSTATE3T --model VERSION
    python Testing/Benchmarks/expected_dice.py report --model VERSION

``calibrate`` has every patient's two unseen networks segment its scans and degraded copies of them, fits, and writes
model.json of the version (a folder) and calibration.csv beside it. ``report`` judges from that file: each patient by a
fit on all the others. Native scans: mean absolute error beside that of the other patients' median, with a paired
bootstrap interval of the difference over patients; Spearman's correlation and the share inside the 80 % interval with
their intervals; mean width beside the constant's; share that is flagged. Degraded copies are a table of their own.
It draws expected-dice.png beside the file: expected against true Dice, and how often the interval held.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "DDSPSegmentation"))

import numpy as np  # noqa: E402
from scipy import stats  # noqa: E402

from DDSPSegmentationLib.engine.confidence import FEATURES  # noqa: E402
from DDSPSegmentationLib.engine.devices import set_threads  # noqa: E402
from DDSPSegmentationLib.engine.quality import DOUBTFUL_DICE  # noqa: E402
from DDSPSegmentationLib.learning.calibration import (  # noqa: E402
    ORIGINAL,
    OUTSIDE,
    CalibrationSample,
    Judged,
    calibrate_model,
    judge_calibration,
)
from DDSPSegmentationLib.learning.dataset import read_datasets  # noqa: E402

DRAWS = 10_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("calibrate", "report"))
    parser.add_argument("--dataset", type=Path, action="append", default=[])
    parser.add_argument("--model", type=Path, required=True)
    chosen = parser.parse_args()
    if chosen.action == "calibrate":
        set_threads()
        calibrate_model(chosen.model, read_datasets(chosen.dataset))
    table = chosen.model.parent / "calibration.csv"
    judged = judge_calibration(read_samples(table))
    print(report(judged))
    draw(judged, table.with_name("expected-dice.png"))
    return 0


def read_samples(path: Path) -> list[CalibrationSample]:
    with path.open(encoding="utf-8", newline="") as file:
        return [
            CalibrationSample(
                row["case"],
                row["patient"],
                row["kind"],
                tuple(float(row[name]) for name in FEATURES),
                float(row["dice"]),
            )
            for row in csv.DictReader(file)
        ]


class Columns:
    """The judged samples of some kinds as arrays, with the constant that knows nothing: the others' median."""

    def __init__(self, judged: Sequence[Judged]):
        self.patients = np.array([one.sample.patient for one in judged])
        self.true = np.array([one.sample.dice for one in judged])
        self.expected, self.low, self.high = np.array([one.expected for one in judged]).T
        self.median, self.constant_low, self.constant_high = np.array([
            np.quantile(self.true[self.patients != patient], (0.5, OUTSIDE / 2, 1 - OUTSIDE / 2))
            for patient in self.patients
        ]).T  # fmt: skip

    def over_patients(self, statistic: Callable[[np.ndarray], float]) -> tuple[float, float]:
        """95 % bootstrap interval of a statistic of row numbers, patients drawn with all their rows."""
        generator, names = np.random.default_rng(0), np.unique(self.patients)
        rows = [np.flatnonzero(self.patients == name) for name in names]
        draws = (generator.integers(len(names), size=len(names)) for _ in range(DRAWS))
        found = [statistic(np.concatenate([rows[number] for number in draw])) for draw in draws]
        return float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975))


def report(judged: Sequence[Judged]) -> str:
    """The figures of native scans, then a table of the degraded copies, as Markdown."""
    native = Columns([one for one in judged if one.sample.kind == ORIGINAL])
    error, constant_error = np.abs(native.expected - native.true), np.abs(native.median - native.true)
    gain = native.over_patients(lambda rows: float((constant_error - error)[rows].mean()))
    rank = native.over_patients(lambda rows: float(stats.spearmanr(native.expected[rows], native.true[rows])[0]))
    inside = (native.low <= native.true) & (native.true <= native.high)
    coverage = stats.binomtest(int(inside.sum()), inside.size).proportion_ci(method="exact")
    flagged, poor = native.expected < DOUBTFUL_DICE, native.true < DOUBTFUL_DICE
    ends = (native.low, native.high), (native.constant_low, native.constant_high)
    widths = [(high - low).mean() for low, high in ends]
    lines = [
        f"{native.true.size} native scans of {len(np.unique(native.patients))} patients",
        f"- mean absolute error {error.mean():.4f}, of the others' median {constant_error.mean():.4f}: "
        f"{100 * (1 - error.mean() / constant_error.mean()):.0f} % less (difference {gain[0]:+.4f} to {gain[1]:+.4f})",
        f"- Spearman {stats.spearmanr(native.expected, native.true)[0]:.2f} ({rank[0]:.2f} to {rank[1]:.2f})",
        f"- inside the interval {inside.mean():.2f} ({coverage.low:.2f} to {coverage.high:.2f}); mean width "
        f"{widths[0]:.3f}, the constant's {widths[1]:.3f}",
        f"- flagged (below {DOUBTFUL_DICE}) {flagged.mean():.2f}; {(poor & flagged).sum()} of {poor.sum()} caught",
        "",
        "| copies | n | true Dice | expected | mean absolute error | below 0.85: caught | false alarms |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in dict.fromkeys(one.sample.kind for one in judged):
        rows = [(one.sample.dice, one.expected.value) for one in judged if one.sample.kind == kind]
        true, expected = np.array(rows).T
        poor, flagged = true < DOUBTFUL_DICE, expected < DOUBTFUL_DICE
        numbers = (true.mean(), expected.mean(), np.abs(true - expected).mean())
        caught, false_alarms = f"{(poor & flagged).sum()} of {poor.sum()}", str((flagged & ~poor).sum())
        cells = [kind, str(len(rows)), *(f"{number:.3f}" for number in numbers), caught, false_alarms]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(judged: Sequence[Judged], path: Path) -> None:
    """Left: expected against true Dice with the interval. Right: mean true Dice of five groups by expected Dice."""
    from matplotlib.figure import Figure

    native = Columns([one for one in judged if one.sample.kind == ORIGINAL])
    left, right = Figure(figsize=(9, 4.2), layout="constrained").subplots(1, 2)
    reach = np.abs(np.array([native.low, native.high]) - native.expected)
    left.errorbar(native.expected, native.true, xerr=reach, fmt="o", markersize=3, linewidth=0.6, color="tab:blue")
    groups = np.array_split(np.argsort(native.expected), 5)
    right.plot(*([values[group].mean() for group in groups] for values in (native.expected, native.true)), "o-")
    for axes, words in ((left, "native scans, 80 % interval"), (right, "five groups by expected Dice")):
        ends = min(native.true.min(), native.low.min()), 1.0
        axes.plot(ends, ends, color="gray", linewidth=0.8)
        axes.set(xlabel="expected Dice", ylabel="true Dice", title=words)
    left.figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
