"""What the disagreement of a version's members says about the Dice: the fit, and what it is worth on unseen patients.

It is fitted on answers of members that never saw the patient, to scans as they are and to copies that are degraded as
scans are in practice, since good scans alone would show few poor contours to learn from. The interval is that of scans
as they are (split conformal prediction, Lei et al. 2018, doi 10.1080/01621459.2017.1307116, with patients left out one
at a time).
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..engine.confidence import FEATURES, Calibration, on_line
from ..engine.errors import DatasetError
from ..engine.files import csv_text, write_text
from ..engine.metrics import dice_of
from ..engine.model import describe_model, write_description
from ..engine.quality import DOUBTFUL_DICE
from ..engine.run_settings import DEFAULTS
from ..engine.segmentation import ExpectedDice
from ..engine.segmenter import Segmenter
from .dataset import Case
from .ensemble import unseen_members
from .statistics import LEAST_PATIENTS_TO_CALIBRATE, mean_interval, patient_means

ORIGINAL = "original"
# What no scanner sends: the line is asked for it, to see whether it notices, and not bent by it.
WRECKED = ("noise 0.25", "noise 0.5", "blur 3.0 mm", "shading 1.6", "contrast", "inverted")
OUTSIDE = 0.2  # of the patients may lie outside the interval
RIDGE = 0.3  # pull of the weights to zero, in units of the features' spread
LEAST_SLICES = 8  # of a copy with thick slices: fewer would not be taken for a scan
CROPPED = 0.3  # of the field of view in plane
LEAST_GAIN = 0.2  # share by which the error must lie below that of the median: less helps nobody
LEAST_SPREAD = 0.01  # of a feature, in -log(1 - Dice); one that hardly differs must not be blown up


@dataclass(frozen=True)
class CalibrationSample:
    """One answer of unseen members to a scan as it is (``kind`` ORIGINAL) or degraded: its features and its Dice."""

    case: str
    patient: str
    kind: str
    features: tuple[float, ...]
    dice: float


@dataclass(frozen=True)
class Judged:
    """A sample beside what a calibration expected of it that never saw its patient."""

    sample: CalibrationSample
    expected: ExpectedDice


def degraded_copies(image: sitk.Image, mask: sitk.Image, seed: int) -> Iterator[tuple[str, sitk.Image, sitk.Image]]:
    """The scan itself, then noisier, blurred, thicker, cropped, shaded and contrast-changed copies; each with its mask.

    Args:
        image: a scan; ``mask``: the expert's, on its grid; ``seed``: of the noise. Where its third axis does not run
            along the patient, the copies' does: neighboring slices of theirs are axial.
    """
    yield ORIGINAL, image, mask
    if sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())[2] not in "SI":
        image, mask = (sitk.DICOMOrient(each, "LPS") for each in (image, mask))
    generator = np.random.default_rng(seed)
    array = sitk.GetArrayFromImage(image).astype(np.float32)
    low, high = np.percentile(array, (0.5, 99.5))

    def as_image(values: np.ndarray) -> sitk.Image:
        result = sitk.GetImageFromArray(values.astype(np.float32))
        result.CopyInformation(image)
        return result

    for level in (0.1, 0.25, 0.5):
        yield f"noise {level}", as_image(array + generator.normal(0, level * (high - low), array.shape)), mask
    for millimetres in (1.5, 3.0):
        yield f"blur {millimetres} mm", sitk.SmoothingRecursiveGaussian(as_image(array), millimetres), mask
    if array.shape[0] >= 2 * LEAST_SLICES:
        yield "thick slices", in_pairs(image), in_pairs(mask) >= 0.5
    border = [round(size * CROPPED / 2) for size in image.GetSize()[:2]]
    yield "cropped", sitk.Crop(image, [*border, 0], [*border, 0]), sitk.Crop(mask, [*border, 0], [*border, 0])
    ramps = np.meshgrid(*(np.linspace(-1, 1, n, dtype=np.float32) for n in array.shape), indexing="ij")
    for strength in (0.8, 1.6):
        direction = generator.normal(size=3)
        direction /= np.linalg.norm(direction)
        field = sum(part * ramp for part, ramp in zip(direction, ramps, strict=True))
        yield f"shading {strength}", as_image((array - low).clip(0) * np.exp(strength * field)), mask
    unit = ((array - low) / (high - low)).clip(0, 1)
    yield "contrast", as_image(unit**3), mask
    yield "inverted", as_image(1 - unit), mask


def in_pairs(image: sitk.Image) -> sitk.Image:
    """The scan with each two neighboring slices averaged to one of double thickness; an odd last one is left out."""
    voxels = sitk.GetArrayFromImage(image).astype(np.float32)
    count = len(voxels) // 2
    result = sitk.GetImageFromArray(voxels[: 2 * count].reshape(count, 2, *voxels.shape[1:]).mean(axis=1))
    result.SetSpacing((*image.GetSpacing()[:2], 2 * image.GetSpacing()[2]))
    result.SetDirection(image.GetDirection())
    result.SetOrigin(image.TransformContinuousIndexToPhysicalPoint((0.0, 0.0, 0.5)))
    return result


def collect_samples(
    segmenter: Segmenter, cases: Sequence[Case], progress: Callable[[str], None] = print, degraded: bool = True
) -> list[CalibrationSample]:
    """Have the unseen members of a version segment each case (and degraded copies of it), and compare with the expert.

    A case that fewer than two members never saw gives no sample, nor does a copy on which a pair sees no gland.
    """
    samples = []
    unseen = unseen_members(segmenter.model, cases)
    for number, case in enumerate(cases):
        members = unseen[case.name]
        if members is None or len(members) < 2:
            continue
        copies = degraded_copies(case.load_image(), case.load_mask(), seed=number)
        for kind, image, reference in copies if degraded else itertools.islice(copies, 1):
            result = segmenter.segment(image, name=case.name, members=members)
            if result.features is not None:
                dice = dice_of(result.mask, reference)
                samples.append(CalibrationSample(case.name, case.patient, kind, tuple(result.features), dice))
        progress(f"calibration: {case.name} ({number + 1} of {len(cases)})")
    return samples


def fit_calibration(samples: Sequence[CalibrationSample]) -> Calibration:
    """The line through all samples, and how far the originals of patients left out of it lie off."""
    patients = sorted({sample.patient for sample in samples})
    off = []
    for patient in patients:
        line = _line([sample for sample in samples if sample.patient != patient])
        off += [
            on_line(sample.dice) - line.on_line(sample.features)
            for sample in samples
            if sample.patient == patient and sample.kind == ORIGINAL
        ]
    off.sort()
    beyond = max(1, math.floor((len(off) + 1) * OUTSIDE / 2))  # on either side
    return replace(_line(samples), reach=(min(off[beyond - 1], 0.0), max(off[-beyond], 0.0)), patients=len(patients))


def judge_calibration(samples: Sequence[CalibrationSample]) -> list[Judged]:
    """Every sample beside what a fit on the other patients expects, interval and all."""
    judged = []
    for patient in dict.fromkeys(sample.patient for sample in samples):
        calibration = fit_calibration([sample for sample in samples if sample.patient != patient])
        judged += [Judged(s, calibration.expect(s.features)) for s in samples if s.patient == patient]
    return judged


def _line(samples: Sequence[CalibrationSample]) -> Calibration:
    """Ridge regression in which every patient counts alike; not on what is ``WRECKED``."""
    samples = [sample for sample in samples if sample.kind not in WRECKED]
    features = np.array([sample.features for sample in samples])
    target = np.array([on_line(sample.dice) for sample in samples])
    of_patient = Counter(sample.patient for sample in samples)
    share = np.array([1 / of_patient[sample.patient] for sample in samples]) / len(of_patient)
    centers = share @ features
    scales = np.maximum(np.sqrt(share @ (features - centers) ** 2), LEAST_SPREAD)
    scaled, middle = (features - centers) / scales, float(share @ target)
    matrix = scaled.T @ (share[:, None] * scaled) + RIDGE * np.eye(len(FEATURES))
    weights = np.linalg.solve(matrix, scaled.T @ (share * (target - middle)))
    return Calibration(
        mode=DEFAULTS.mode,
        threshold=DEFAULTS.threshold,
        centers=tuple(centers.round(5).tolist()),
        scales=tuple(scales.round(5).tolist()),
        weights=tuple(weights.round(5).tolist()),
        intercept=round(middle, 5),
        reach=(0.0, 0.0),
        patients=len(of_patient),
    )


def figures(judged: Sequence[Judged]) -> dict[str, float | int]:
    """What the expected Dice of originals is worth: its mean absolute error beside that of the others' median.

    ``gain_at_least`` is the lower end of the 95 % interval, over patients, by how much the error is smaller. (The plain
    difference is above zero in a quarter of all fits to features that know nothing.)
    """
    originals = [one for one in judged if one.sample.kind == ORIGINAL]
    true = np.array([one.sample.dice for one in originals])
    expected = np.array([one.expected.value for one in originals])
    constant = np.array([
        np.median([other.sample.dice for other in originals if other.sample.patient != one.sample.patient])
        for one in originals
    ])  # fmt: skip
    inside = sum(one.expected.low <= one.sample.dice <= one.expected.high for one in originals)
    gains = np.abs(constant - true) - np.abs(expected - true)
    of_patients = patient_means((one.sample.patient, gain) for one, gain in zip(originals, gains.tolist(), strict=True))
    gain = mean_interval(of_patients) or (-math.inf, math.inf)
    return {
        "patients": len({one.sample.patient for one in originals}),
        "scans": len(originals),
        "mean_absolute_error": round(float(np.abs(expected - true).mean()), 4),
        "mean_absolute_error_of_the_median": round(float(np.abs(constant - true).mean()), 4),
        "gain_at_least": round(gain[0], 4) if math.isfinite(gain[0]) else -1.0,
        "inside_the_interval": round(inside / len(originals), 3),
        "mean_width": round(float(np.mean([one.expected.high - one.expected.low for one in originals])), 4),
        "below_0.85": int((true < DOUBTFUL_DICE).sum()),
        "below_0.85_caught": int(((true < DOUBTFUL_DICE) & (expected < DOUBTFUL_DICE)).sum()),
        "false_alarms": int(((true >= DOUBTFUL_DICE) & (expected < DOUBTFUL_DICE)).sum()),
    }


def calibrate_model(
    folder: Path | str,
    cases: Sequence[Case],
    device: str = "auto",
    progress: Callable[[str], None] = print,
    degraded: bool = True,
) -> dict[str, float | int]:
    """Calibrate a version on cases that some of its members never saw; ``calibration.csv`` is written beside it.

    Nothing is written into model.json where it is not sure that the expected Dice is nearer the truth than the median
    of the other patients, or not nearer by ``LEAST_GAIN``: a figure that knows next to nothing is not shown.

    Args:
        folder: the version; ``cases``: with expert masks.
        degraded: also fit on mildly degraded copies, and tell of ``WRECKED`` ones, which takes twelve times as long.

    Returns:
        See :func:`figures`.

    Raises:
        DatasetError: fewer than ``LEAST_PATIENTS_TO_CALIBRATE`` patients with two unseen members.
    """
    folder = Path(folder)
    samples = collect_samples(Segmenter(folder, device), cases, progress, degraded)
    patients = len({sample.patient for sample in samples if sample.kind == ORIGINAL})
    if patients < LEAST_PATIENTS_TO_CALIBRATE:
        raise DatasetError(
            f"Two networks of '{folder.name}' never saw {patients} of these patients; a calibration needs "
            f"{LEAST_PATIENTS_TO_CALIBRATE}.",
            "Add cases of other patients.",
        )
    found = figures(judge_calibration(samples))
    description = describe_model(folder)
    error, of_the_median = found["mean_absolute_error"], found["mean_absolute_error_of_the_median"]
    is_worth_it = found["gain_at_least"] > 0 and error <= (1 - LEAST_GAIN) * of_the_median
    calibration = fit_calibration(samples).to_dict() if is_worth_it else {}
    metrics = {**description.metrics, "expected_dice": found}
    write_description(folder, replace(description, calibration=calibration, metrics=metrics))
    names = [column.name for column in fields(CalibrationSample) if column.name != "features"]
    rows: list[list[object]] = [[*names, *FEATURES]]
    rows += [[*(asdict(sample)[name] for name in names), *sample.features] for sample in samples]
    write_text(csv_text(rows), folder.parent / "calibration.csv")
    return found
