"""How well the network knows its own quality: the map from soft Dice to expected Dice, and how good that map is.

It is fitted on scans the network never saw in training, as they are and in degraded copies, since good scans alone
would show hardly any poor segmentation to learn from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..engine.files import csv_text, write_text
from ..engine.metrics import dice_of
from ..engine.model import describe_model, write_description
from ..engine.quality import DOUBTFUL_DICE, expected_dice, monotone_fit
from ..engine.segmenter import Segmenter
from .dataset import Case


@dataclass(frozen=True)
class CalibrationSample:
    """One segmentation of an unseen scan, as it is (``kind`` 'original') or degraded."""

    case: str
    patient: str
    kind: str
    soft_dice: float
    dice: float


@dataclass(frozen=True)
class CalibrationReport:
    """The fitted calibration and what it is worth on patients left out of its fit.

    Attributes:
        calibration: knots for ``quality.expected_dice``.
        mean_absolute_error: of the expected Dice, over all samples; ``original_error``: over undegraded scans.
        poor: samples with a true Dice below 0.85; ``caught``: those of them whose expected Dice is below it too;
            ``false_alarms``: samples at or above it that were called poor.
    """

    calibration: dict[str, list[float]]
    samples: tuple[CalibrationSample, ...]
    mean_absolute_error: float
    original_error: float
    poor: int
    caught: int
    false_alarms: int

    def figures(self) -> dict[str, float | int]:
        return {
            "samples": len(self.samples),
            "mean_absolute_error": round(self.mean_absolute_error, 4),
            "mean_absolute_error_undegraded": round(self.original_error, 4),
            "below_0.85": self.poor,
            "below_0.85_caught": self.caught,
            "false_alarms": self.false_alarms,
        }


def degraded_copies(image: sitk.Image, seed: int) -> Iterator[tuple[str, sitk.Image]]:
    """The scan itself, then noisier, blurred, shaded and contrast-changed copies of it.

    Args:
        image: a scan; ``seed``: of the noise.
    """
    yield "original", image
    generator = np.random.default_rng(seed)
    array = sitk.GetArrayFromImage(image).astype(np.float32)
    low, high = np.percentile(array, (0.5, 99.5))

    def as_image(values: np.ndarray) -> sitk.Image:
        result = sitk.GetImageFromArray(values.astype(np.float32))
        result.CopyInformation(image)
        return result

    for level in (0.1, 0.25, 0.5):
        yield f"noise {level}", as_image(array + generator.normal(0, level * (high - low), array.shape))
    for millimetres in (1.5, 3.0):
        yield f"blur {millimetres} mm", sitk.SmoothingRecursiveGaussian(as_image(array), millimetres)
    ramps = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in array.shape), indexing="ij")
    for strength in (0.8, 1.6):
        direction = generator.normal(size=3)
        direction /= np.linalg.norm(direction)
        field = sum(part * ramp for part, ramp in zip(direction, ramps, strict=True))
        yield f"shading {strength}", as_image((array - low).clip(0) * np.exp(strength * field))
    unit = ((array - low) / (high - low)).clip(0, 1)
    yield "contrast", as_image(unit**3)
    yield "inverted", as_image(1 - unit)


def collect_samples(
    segmenter: Segmenter, cases: Sequence[Case], progress: Callable[[str], None] = print
) -> list[CalibrationSample]:
    """Segment unseen cases and their degraded copies on the native grid, and compare with the expert.

    Args:
        segmenter: a model that was not trained on any of the cases.
    """
    samples = []
    for number, case in enumerate(cases):
        reference = case.load_mask()
        for kind, image in degraded_copies(case.load_image(), seed=number):
            result = segmenter.segment(image, name=case.name)
            samples.append(
                CalibrationSample(case.name, case.patient, kind, result.soft_dice, dice_of(result.mask, reference))
            )
        progress(f"calibration: {case.name} ({number + 1} of {len(cases)})")
    return samples


def fit_calibration(samples: Sequence[CalibrationSample]) -> CalibrationReport:
    """Fit on all samples; judge on each patient by a fit on the others."""
    others = {one.patient: [other for other in samples if other.patient != one.patient] for one in samples}
    fits = {patient: _fit(rest) if rest else {} for patient, rest in others.items()}
    expected = np.array([expected_dice(sample.soft_dice, fits[sample.patient]) for sample in samples])
    true = np.array([sample.dice for sample in samples])
    errors, original = np.abs(expected - true), np.array([sample.kind == "original" for sample in samples])
    poor, called_poor = true < DOUBTFUL_DICE, expected < DOUBTFUL_DICE
    return CalibrationReport(
        _fit(samples),
        tuple(samples),
        mean_absolute_error=float(errors.mean()),
        original_error=float(errors[original].mean()),
        poor=int(poor.sum()),
        caught=int((poor & called_poor).sum()),
        false_alarms=int((called_poor & ~poor).sum()),
    )


def _fit(samples: Sequence[CalibrationSample]) -> dict[str, list[float]]:
    return monotone_fit([sample.soft_dice for sample in samples], [sample.dice for sample in samples])


def calibrate_model(
    folder: Path | str, cases: Sequence[Case], device: str = "auto", progress: Callable[[str], None] = print
) -> CalibrationReport:
    """Calibrate a model version on cases it was not trained on; writes model.json, and ``calibration.csv`` beside it.

    Args:
        folder: the model version; ``cases``: unseen cases with expert masks.
    """
    folder = Path(folder)
    report = fit_calibration(collect_samples(Segmenter(folder, device), cases, progress))
    description = describe_model(folder)
    metrics = {**description.metrics, "expected_dice": report.figures()}
    write_description(folder, replace(description, calibration=report.calibration, metrics=metrics))
    rows = [[column.name for column in fields(CalibrationSample)], *map(astuple, report.samples)]
    write_text(csv_text(rows), folder.parent / "calibration.csv")
    return report
