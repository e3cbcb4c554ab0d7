"""What an evaluation leaves in its folder: tables, box plots and contour pictures of the worst cases."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine.files import csv_text, write_aside
from ..engine.metrics import METRICS, REGIONS
from ..engine.pictures import PROSTATE_COLOR, REFERENCE_COLOR, contour_picture

if TYPE_CHECKING:
    from .evaluation import CaseResult, EvaluationCase, Statistics

OVERALL = "overall"
MEASURES = (*(f"{region}_{metric}" for region in REGIONS for metric in METRICS), "score", "expected_dice")


def cases_csv(results: Sequence[CaseResult]) -> str:
    """One row a case: the measures it has, then whatever came along with it."""
    measures = [name for name in MEASURES if name != "expected_dice" or any(name in r.extra for r in results)]
    extras = [name for name in dict.fromkeys(key for r in results for key in r.extra) if name not in measures]
    rows = [["case", "center", "apart", *measures, *extras, "error"]]
    for result in results:
        values = [*(result.measure(name) for name in measures), *(result.extra.get(name, "") for name in extras)]
        rows.append([result.name, result.center, result.apart, *map(_cell, values), result.error])
    return csv_text(rows)


def summary_csv(statistics: Mapping[str, Mapping[str, Statistics]]) -> str:
    rows = [["group", "measure", "cases", "undefined", "mean", "sd", "median", "min", "max", "ci95_low", "ci95_high"]]
    for group, measures in statistics.items():
        for name, found in measures.items():
            rows.append([group, name, *map(_cell, vars(found).values())])
    return csv_text(rows)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return str(value)


def draw_boxplots(results: Sequence[CaseResult], path: Path) -> list[str]:
    """Box plots by center and region, cases kept apart as crosses; a notice instead when matplotlib is missing."""
    path.unlink(missing_ok=True)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return ["No boxplots.png: matplotlib is not installed."]
    compared = [result for result in results if not result.error]
    if not compared:
        return ["No boxplots.png: no case could be compared."]
    centers = [OVERALL, *sorted({result.center for result in compared} - {""})]
    figure = Figure(figsize=(12, 8), layout="constrained")
    titles = {"dsc": "Dice", "arvd_percent": "aRVD (%)", "abd_mm": "ABD (mm)", "hd95_mm": "95HD (mm)"}
    for axes, (metric, title) in zip(figure.subplots(2, 2).flat, titles.items(), strict=True):
        for offset, (region, color) in enumerate(zip(REGIONS, ("tab:blue", "tab:orange", "tab:green"), strict=True)):
            for position, center in enumerate(centers):
                members = [result for result in compared if center in (OVERALL, result.center)]
                place = position + 0.25 * (offset - 1)
                _draw_box(axes, members, f"{region}_{metric}", place, color)
            axes.plot([], [], color=color, label=region)
        axes.set_title(title)
        axes.set_xticks(range(len(centers)), centers)
        axes.grid(axis="y", alpha=0.3)
    figure.axes[0].legend(loc="lower left")
    figure.supxlabel("Points: cases; crosses: cases kept apart; cases without a distance are not drawn")
    write_aside(path, ".png", figure.savefig)
    return []


def _draw_box(axes, members: Sequence[CaseResult], measure: str, place: float, color: str) -> None:
    known = [result for result in members if math.isfinite(result.measure(measure))]
    pooled = [result.measure(measure) for result in known if not result.apart]
    apart = [result.measure(measure) for result in known if result.apart]
    axes.boxplot(
        [pooled],
        positions=[place],
        widths=0.2,
        showfliers=False,
        manage_ticks=False,
        boxprops={"color": color},
        medianprops={"color": color},
    )
    axes.plot([place] * len(pooled), pooled, ".", color=color, markersize=4, alpha=0.6)
    axes.plot([place] * len(apart), apart, "x", color=color)


def draw_worst(worst: Sequence[EvaluationCase], folder: Path) -> list[str]:
    """worst-<rank>-<case>.png, the reference's contour and the prediction's; pictures of an earlier run are removed."""
    for earlier in folder.glob("worst-[0-9]-*.png"):
        earlier.unlink(missing_ok=True)
    without_image = []
    for rank, case in enumerate(worst, start=1):
        if case.image is None:
            without_image.append(case.name)
            continue
        masks = [(case.reference, REFERENCE_COLOR), (case.prediction, PROSTATE_COLOR)]
        file_name = re.sub(r"[^\w.-]", "_", f"worst-{rank}-{case.name}.png")
        contour_picture(case.image, masks, folder / file_name)
    if without_image:
        return [f"No contour picture, the image is not known: {', '.join(without_image)}"]
    return ["Contour pictures worst-*.png: reference blue, prediction yellow."] if worst else []
