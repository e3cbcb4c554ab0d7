"""Evaluation against reference masks: a row for each case, a summary by center, box plots and the worst cases."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk

from ..engine.errors import Canceled, DatasetError, DDSPSegmentationError
from ..engine.files import make_folder, write_text
from ..engine.grids import about_fit, on_one_grid
from ..engine.images import image_stem, image_suffix, read_mask, stem_of_scan
from ..engine.metrics import REGIONS, RegionMetrics, compare_masks, promise12_style_score
from ..engine.plain_names import printable
from ..engine.quality import DOUBTFUL_DICE
from ..engine.segmentation import Segmentation
from .comparison_words import listed
from .dataset import Case
from .evaluation_files import MEASURES, OVERALL, cases_csv, draw_boxplots, draw_worst, summary_csv
from .statistics import mean_interval, patient_means

WORST_CASES = 4
NOTES = "notes"


class EvaluationCase(NamedTuple):
    """One answer to compare: the picture's background is ``image``; ``extra`` goes into the case's row as it is.

    What ``extra`` has as ``notes`` is told in the summary, too.
    """

    name: str
    center: str
    image: sitk.Image | None
    prediction: sitk.Image
    reference: sitk.Image
    extra: Mapping[str, object] = {}


class FailedCase(NamedTuple):
    """A case that has no answer, and why; it keeps its row."""

    name: str
    center: str
    reason: str


@dataclass(frozen=True)
class CaseResult:
    """The row of one case; ``regions`` and ``score`` are None and ``error`` is set when it could not be compared.

    ``apart`` says why the case is left out of the means, "" when it is not.
    """

    name: str
    center: str
    apart: str
    regions: Mapping[str, RegionMetrics] | None
    score: float | None
    extra: Mapping[str, Any]
    error: str = ""

    @property
    def dice(self) -> float:
        """Dice of the whole gland, in [0, 1]; NaN when the case could not be compared."""
        return self.regions["whole"].dsc if self.regions else math.nan

    def measure(self, name: str) -> float:
        """One of MEASURES; NaN when this case has none."""
        if name == "expected_dice":
            return math.nan if self.extra.get(name, "") == "" else float(self.extra[name])
        if self.regions is None:
            return math.nan
        if name == "score":
            return math.nan if self.score is None else self.score
        region, metric = name.split("_", 1)
        return getattr(self.regions[region], metric)


@dataclass(frozen=True)
class Statistics:
    """One measure over the cases of a group.

    ``cases`` have a value; ``undefined`` have none (an infinite distance to an empty mask) and enter no statistic.
    ``mean``, ``sd`` (n-1) and the 95 % interval of the mean are those of the patients, whose scans are averaged first
    where it is known whose they are; ``sd`` is NaN for a single patient, the interval below five.
    """

    cases: int
    undefined: int
    mean: float
    sd: float
    median: float
    minimum: float
    maximum: float
    low: float
    high: float


@dataclass(frozen=True)
class EvaluationSummary:
    """What an evaluation found.

    Attributes:
        results: one for each case, in the order they came.
        statistics: by group (overall, each center, each case kept apart), then by measure.
        unmatched: files of ``evaluate_folders`` without a partner.
        notices: sentences about the pictures and about what is missing.
    """

    results: tuple[CaseResult, ...]
    statistics: Mapping[str, Mapping[str, Statistics]]
    unmatched: tuple[str, ...] = field(default=())
    notices: tuple[str, ...] = field(default=())

    @property
    def failed(self) -> list[CaseResult]:
        return [result for result in self.results if result.error]

    def text(self) -> str:
        """The summary as lines of at most 120 columns (names permitting), for a terminal or a log."""
        width = max(len(group) for group in (*self.statistics, OVERALL))
        lines = [
            f"{'':{width}}  cases  Dice   [95 % interval]   lowest  base   apex   aRVD %  ABD mm  95HD mm  score*",
            *(_table_line(group, width, measures) for group, measures in self.statistics.items()),
            "* PROMISE12-style, not the challenge's official score. Mean values; cases kept apart are in no mean.",
        ]
        compared = sorted((result for result in self.results if not result.error), key=lambda result: result.dice)
        if compared:
            lowest = ", ".join(f"{result.name} {result.dice:.3f}" for result in compared[:WORST_CASES])
            lines.append(f"Lowest Dice: {lowest}")
        undefined = [
            f"{result.name} ({region})"
            for result in compared
            for region in REGIONS
            if math.isinf(result.measure(f"{region}_abd_mm"))
        ]
        if undefined:
            lines.append(f"In no mean distance, one mask is empty there: {', '.join(undefined)}")
        lines += _expected_dice_lines(compared)
        lines += [f"{result.name}: {result.extra[NOTES]}" for result in self.results if result.extra.get(NOTES)]
        lines += [f"{result.name}: not compared. {result.error}" for result in self.failed]
        return "\n".join([*lines, *self.notices])


def evaluate_predictions(
    cases: Iterable[EvaluationCase | FailedCase],
    output_folder: str | Path,
    *,
    apart: Mapping[str, str] | None = None,
) -> EvaluationSummary:
    """Compare masks with references and write cases.csv, summary.csv, boxplots.png and worst-*.png.

    Cases are taken one at a time; only the images of the worst four are kept. A case that cannot be compared (masks on
    different grids) gets a row with the reason and does not stop the others.

    Args:
        cases: EvaluationCase (or tuples in its order) and FailedCase.
        output_folder: made when missing; files of an earlier evaluation in it are replaced.
        apart: reason by case name, for cases that are shown in a row of their own and enter no mean.

    Raises:
        DatasetError: there is no case.
        StorageError: a file cannot be written.
    """
    apart = apart or {}
    results: list[CaseResult] = []
    worst: list[tuple[float, EvaluationCase]] = []
    for case in cases:
        answer = case if isinstance(case, FailedCase) else EvaluationCase(*case)
        results.append(_compare(answer, apart.get(answer.name, "")))
        if isinstance(answer, EvaluationCase) and not results[-1].error:
            worst = sorted([*worst, (results[-1].dice, answer)], key=lambda entry: entry[0])[:WORST_CASES]
    if not results:
        raise DatasetError("There is no case to evaluate.", "Choose a folder or a fold that has cases.")
    statistics = _grouped_statistics(results)
    folder = make_folder(output_folder, "Choose another output folder.")
    write_text(cases_csv(results), folder / "cases.csv")
    write_text(summary_csv(statistics), folder / "summary.csv")
    notices = [*draw_boxplots(results, folder / "boxplots.png"), *draw_worst([case for _, case in worst], folder)]
    return EvaluationSummary(tuple(results), statistics, notices=tuple(notices))


def evaluate_model(
    segment: Callable[[sitk.Image, Case], Segmentation],
    cases: Iterable[Case],
    output_folder: str | Path,
    progress: Callable[[str, float], None] | None = None,
    *,
    apart: Mapping[str, str] | None = None,
) -> EvaluationSummary:
    """Segment whole cases on their native grid and evaluate the answers against the full reference.

    A case that cannot be read or segmented gets a row with the reason; ``progress`` (case, fraction) may raise
    Canceled. Files and other arguments as in :func:`evaluate_predictions`.
    """
    cases = list(cases)

    def answers() -> Iterator[EvaluationCase | FailedCase]:
        for position, case in enumerate(cases):
            if progress:
                progress(case.name, position / len(cases))
            doubts: list[str] = []
            try:
                image, reference = case.load_image(doubts), case.load_mask(doubts)
                segmentation = segment(image, case)
            except Canceled:
                raise
            except DDSPSegmentationError as error:
                yield FailedCase(case.name, case.center, str(error))
                continue
            extra = {"patient": case.patient, **segmentation.as_row(), **_noted(doubts)}
            yield EvaluationCase(case.name, case.center, image, segmentation.mask, reference, extra)

    summary = evaluate_predictions(answers(), output_folder, apart=apart)
    if progress:
        progress("evaluated", 1.0)
    return summary


def evaluate_folders(
    predictions: str | Path,
    references: str | Path,
    output: str | Path,
    *,
    apart: Mapping[str, str] | None = None,
) -> EvaluationSummary:
    """Evaluate a folder of masks against a folder of references with the same file stems.

    The stem is the file's name without suffix and without a trailing ``_segmentation``; where a folder holds both
    Case00.mhd and Case00_segmentation.mhd, the scan is left aside. Files without a partner are named in the summary;
    a pair that cannot be read or compared is a row with its reason; a mask saved no larger than its gland, as Slicer
    does, is completed. There is no image here, hence no contour picture.

    Raises:
        DatasetError: a folder is missing or nothing pairs.
        StorageError: a file cannot be written.
    """
    predicted, expected = _masks_by_stem(Path(predictions)), _masks_by_stem(Path(references))
    paired = sorted(predicted.keys() & expected.keys())
    if not paired:
        raise DatasetError(
            f"No prediction has the name of a reference: {_file_names(predicted)} against {_file_names(expected)}.",
            "Name both files of a case alike, such as Case00.seg.nrrd and Case00_segmentation.mhd.",
        )
    summary = evaluate_predictions(
        (_read_pair(printable(stem), predicted[stem], expected[stem]) for stem in paired),
        output,
        apart=apart,
    )
    notices, unmatched = list(summary.notices), []
    for kind, ours, theirs in (("prediction", expected, predicted), ("reference", predicted, expected)):
        lonely = [path.name for stem in sorted(ours.keys() - theirs.keys()) for path in ours[stem]]
        if lonely:
            notices.append(f"Left out, no {kind}: {', '.join(lonely)}")
            unmatched += lonely
    return EvaluationSummary(summary.results, summary.statistics, tuple(unmatched), tuple(notices))


def _compare(case: EvaluationCase | FailedCase, apart: str) -> CaseResult:
    if isinstance(case, FailedCase):
        return CaseResult(case.name, case.center, apart, None, None, {}, case.reason)
    try:
        regions = compare_masks(case.prediction, case.reference)
    except DatasetError as error:
        return CaseResult(case.name, case.center, apart, None, None, case.extra, str(error))
    volumes = {"prediction_ml": _volume_ml(case.prediction), "reference_ml": _volume_ml(case.reference)}
    score = promise12_style_score(regions)
    return CaseResult(case.name, case.center, apart, regions, score, {**volumes, **case.extra})


def _volume_ml(mask: sitk.Image) -> float:
    return float(np.count_nonzero(sitk.GetArrayViewFromImage(mask)) * math.prod(mask.GetSpacing()) / 1000)


def _masks_by_stem(folder: Path) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise DatasetError(f"There is no folder '{folder.name}'.", "Choose a folder of masks.")
    masks: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if image_suffix(path) and path.is_file() and not path.name.startswith("."):
            stem = image_stem(path)
            masks.setdefault(stem_of_scan(stem) or stem, []).append(path)
    for stem, paths in masks.items():  # a scan may lie beside its mask
        masks[stem] = [path for path in paths if image_stem(path) != stem] or paths
    return masks


def _read_pair(name: str, predicted: Sequence[Path], expected: Sequence[Path]) -> EvaluationCase | FailedCase:
    for kind, paths in (("predictions", predicted), ("references", expected)):
        if len(paths) > 1:
            return FailedCase(name, "", f"Several {kind} have its name: {', '.join(path.name for path in paths)}.")
    of_prediction: list[str] = []
    of_reference: list[str] = []
    try:
        prediction, reference = read_mask(predicted[0], (), of_prediction), read_mask(expected[0], (), of_reference)
        masks = on_one_grid(prediction, reference)
    except DDSPSegmentationError as error:
        return FailedCase(name, "", str(error))
    doubts = [f"Its prediction: {doubt}" for doubt in of_prediction] + [f"Its reference: {one}" for one in of_reference]
    doubts += about_fit(prediction, reference, "prediction", "reference")
    if prediction.GetSize() != reference.GetSize():
        doubts += about_fit(reference, prediction, "reference", "prediction")
    return EvaluationCase(name, "", None, *masks, _noted(doubts))


def _noted(doubts: Sequence[str]) -> dict[str, object]:
    return {NOTES: " ".join(doubts)} if doubts else {}


def _file_names(masks: Mapping[str, Sequence[Path]]) -> str:
    return listed([path.name for paths in masks.values() for path in paths]) or "no masks"


def _grouped_statistics(results: Sequence[CaseResult]) -> dict[str, dict[str, Statistics]]:
    """Overall and by center without the cases kept apart, then each of those alone."""
    pooled = [result for result in results if not result.apart and not result.error]
    groups = {OVERALL: pooled}
    for center in sorted({result.center for result in pooled} - {""}):
        groups[center] = [result for result in pooled if result.center == center]
    for result in results:
        if result.apart and not result.error:
            groups[f"{result.name} ({result.apart})"] = [result]
    measured = [name for name in MEASURES if any(not math.isnan(result.measure(name)) for result in results)]
    return {group: {name: _statistics(members, name) for name in measured} for group, members in groups.items()}


def _statistics(results: Sequence[CaseResult], measure: str) -> Statistics:
    finite = [result for result in results if math.isfinite(result.measure(measure))]
    undefined = len(results) - len(finite)
    if not finite:
        return Statistics(0, undefined, *[math.nan] * 7)
    measured = [(result.extra.get("patient") or result.name, result.measure(measure)) for result in finite]
    patients = np.array(patient_means(measured))
    sd = float(patients.std(ddof=1)) if patients.size > 1 else math.nan
    low, high = mean_interval(patients) or (math.nan, math.nan)
    values = np.array([result.measure(measure) for result in finite])
    middle, least, most = float(np.median(values)), float(values.min()), float(values.max())
    return Statistics(len(finite), undefined, float(patients.mean()), sd, middle, least, most, low, high)


def _table_line(group: str, width: int, measures: Mapping[str, Statistics]) -> str:
    if "whole_dsc" not in measures or not measures["whole_dsc"].cases:
        return f"{group:{width}}  {0:5d}"
    dice = measures["whole_dsc"]
    interval = "" if math.isnan(dice.low) else f"[{dice.low:.3f}, {dice.high:.3f}]"
    means = {name: found.mean for name, found in measures.items()}
    return (
        f"{group:{width}}  {dice.cases:5d}  {dice.mean:.3f}  {interval:16}  {dice.minimum:.3f}   "
        f"{means['base_dsc']:.3f}  {means['apex_dsc']:.3f}  {means['whole_arvd_percent']:6.1f}  "
        f"{means['whole_abd_mm']:6.2f}  {means['whole_hd95_mm']:7.2f}  {means['score']:6.1f}"
    )


def _expected_dice_lines(compared: Sequence[CaseResult]) -> list[str]:
    """How far the expected Dice is off, and how many low cases it gives away, the cases kept apart included."""
    known = [result for result in compared if not math.isnan(result.measure("expected_dice"))]
    if not known:
        return []
    error = np.mean([abs(result.measure("expected_dice") - result.dice) for result in known])
    low = [result for result in known if result.dice < DOUBTFUL_DICE]
    caught = sum(result.measure("expected_dice") < DOUBTFUL_DICE for result in low)
    false_alarms = sum(result.measure("expected_dice") < DOUBTFUL_DICE for result in known) - caught
    lines = [
        f"Expected Dice: mean absolute error {error:.3f}; below {DOUBTFUL_DICE:.2f} it caught {caught} of {len(low)} "
        f"cases, with {false_alarms} false alarms"
    ]
    ranged = [result for result in known if "expected_dice_low" in result.extra]
    if ranged:
        inside = sum(r.extra["expected_dice_low"] <= r.dice <= r.extra["expected_dice_high"] for r in ranged)
        lines.append(f"Inside its interval lay {inside} of {len(ranged)} cases; four of five are meant to")
    return lines
