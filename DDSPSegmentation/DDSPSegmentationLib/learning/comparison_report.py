"""comparison.html: old version against new on one page; it needs no network, no script and no other file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from ..engine.html_page import RESEARCH_ONLY, embedded, html_page
from .comparison_record import ACTIVATE, TIE, ComparedCase, Summary
from .comparison_verdict import Comparison
from .comparison_words import left_out_sentence, signed

REPORT_FILE = "comparison.html"

_STYLE = """
.verdict { padding: 12px 16px; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  border-left: 6px solid var(--bad); } .verdict.fine { border-left-color: var(--good); }
.verdict p:first-child { font-size: 17px; font-weight: 600; }
.verdict p:last-child { margin-top: 8px; font-weight: 600; }
.wide { overflow-x: auto; }
table { font-variant-numeric: tabular-nums; font-size: 14px; }
th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th.name, td:first-child { text-align: left; } td.reason { text-align: left; white-space: normal; }
tr.mean td { font-weight: 600; border-top: 2px solid var(--line); }
td.win { color: var(--good); font-weight: 600; } td.loss { color: var(--bad); font-weight: 600; }
svg { width: 100%; height: auto; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
svg text { fill: var(--text); font-size: 12px; } svg text.soft { fill: var(--soft); font-size: 11px; }
svg .title { font-weight: 600; font-size: 13px; }
svg .grid { stroke: var(--line); } svg .pair { stroke: var(--soft); opacity: .45; }
svg .old { stroke: var(--old); } svg .new { stroke: var(--new); }
svg circle.old { fill: var(--old); stroke: none; } svg circle.new { fill: var(--new); stroke: none; }
svg rect.old, svg rect.new { fill: none; stroke-width: 1.5; } svg line.median { stroke-width: 3; }
figure { margin: 12px 0; padding: 12px; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
figure img { width: 100%; display: block; border-radius: 4px; } figcaption { margin-bottom: 8px; }
.sides { display: flex; } .sides span { flex: 1; font-size: 13px; color: var(--soft); }
.swatch { display: inline-block; width: 22px; height: 4px; vertical-align: middle; margin: 0 4px 0 12px; }
"""

_PANELS: tuple[tuple[str, str, str], ...] = (
    ("dice", "Dice", "higher is better"),
    ("abd_mm", "Mean surface distance (mm)", "ABD; lower is better"),
    ("hd95_mm", "95 % Hausdorff distance (mm)", "95HD; lower is better"),
    ("absolute_volume_error_percent", "Volume error (%)", "lower is better"),
)
_PANEL_WIDTH, _PANEL_HEIGHT, _TOP, _BOTTOM, _LEFT = 265.0, 290.0, 48.0, 34.0, 46.0


def comparison_page(
    comparison: Comparison, pictures: Mapping[Path, ComparedCase], colors: Mapping[str, tuple[int, int, int]]
) -> str:
    """The whole page; the pictures are put into it.

    Args:
        pictures: side by side, and the case that each shows.
        colors: what each line in the pictures is, for the legend.
    """
    parts = [_head(comparison), _groups(comparison), _cross_validation(comparison), _pictures(pictures, colors)]
    return html_page("Comparison of model versions", _STYLE, parts)


def _head(comparison: Comparison) -> str:
    sentences = "".join(f"<p>{escape(sentence)}</p>" for sentence in comparison.sentences)
    old, new = comparison.evidence.old, comparison.evidence.new
    facts = f"Old version {old.version}, new version {new.version}, {comparison.date}"
    return (
        f'<h1>Comparison of model versions</h1>\n<p class="soft">{escape(facts)}</p>\n'
        f'<p class="research">{RESEARCH_ONLY}</p>\n'
        f'<div class="verdict{" fine" if comparison.recommendation == ACTIVATE else ""}">{sentences}</div>'
    )


def _groups(comparison: Comparison) -> str:
    evidence = comparison.evidence
    groups = [("Patients kept for checking", evidence.hold_out, comparison.hold_out_summary)]
    if comparison.forgetting_summary is not None:
        name = f"Forgetting: {evidence.forgetting_name or 'cases of the old training'}"
        groups.append((name, evidence.forgetting, comparison.forgetting_summary))
    parts = []
    for title, cases, summary in groups:
        tip = ' title="The hold-out of the case library"' if cases is evidence.hold_out else ""
        parts.append(f"<h2{tip}>{escape(title)}</h2>")
        if not cases:
            parts.append('<p class="soft">There is no case.</p>')
            continue
        parts.append(_box_plots([case for case in cases if not case.error], title))
        parts.append(_table(cases, summary))
    return "\n".join(part for part in parts if part)


_TABLE_HEAD = (
    '<tr><th class="name" rowspan="2">Case</th><th colspan="3">Dice</th><th colspan="2">ABD (mm)</th>'
    '<th colspan="2">95HD (mm)</th><th colspan="2">Volume (%)</th><th>Expected Dice</th></tr>'
    "<tr><th>old</th><th>new</th><th>change</th>" + "<th>old</th><th>new</th>" * 3 + "<th>new</th></tr>"
)


def _table(cases: Sequence[ComparedCase], summary: Summary) -> str:
    rows = "".join(_row(case) for case in sorted(cases, key=lambda case: (bool(case.error), case.name)))
    if summary.cases:
        cells = _measures(summary.old, summary.new, summary.gain)
        off = "-" if summary.expected_dice_error is None else f"off by {summary.expected_dice_error:.3f}"
        rows += f'<tr class="mean"><td>Mean of {summary.patients} patients</td>{cells}<td>{off}</td></tr>'
    return (
        f'<div class="wide"><table>{_TABLE_HEAD}{rows}</table></div><p class="soft">Measured on the native grid. '
        "Volume: difference from the reference, with its sign. A case without a number in a distance has an empty "
        "mask. Several cases of one patient are averaged first.</p>"
    )


def _row(case: ComparedCase) -> str:
    name = f"<td>{escape(case.name)}</td>"
    if case.error:
        return f'<tr>{name}<td class="reason" colspan="10">not compared: {escape(case.error)}</td></tr>'
    cells = _measures(vars(case.old), vars(case.new), case.gain)
    return f"<tr>{name}{cells}<td>{_number(case.new.expected_dice, 3)}</td></tr>"


def _measures(old: Mapping[str, float | None], new: Mapping[str, float | None], gain: float) -> str:
    kind = "win" if gain > TIE else "loss" if gain < -TIE else "tie"
    cells = [f"<td>{_number(old['dice'], 3)}</td><td>{_number(new['dice'], 3)}</td>"]
    cells.append(f'<td class="{kind}">{signed(gain)}</td>')
    for measure, digits, sign in (("abd_mm", 2, ""), ("hd95_mm", 1, ""), ("volume_error_percent", 1, "+")):
        cells += [f"<td>{_number(version[measure], digits, sign)}</td>" for version in (old, new)]
    return "".join(cells)


def _number(value: float | None, digits: int, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.{digits}f}"


def _cross_validation(comparison: Comparison) -> str:
    found = comparison.evidence.cross_validation
    sentence = left_out_sentence(found)
    if not sentence:
        return ""
    per_case = found.get("per_case")
    pairs = per_case.items() if isinstance(per_case, dict) else ()
    rows = "".join(
        f"<tr><td>{escape(str(name))}</td><td>{_number(before, 3)}</td><td>{_number(after, 3)}</td></tr>"
        for name, (before, after) in pairs
    )
    head = '<tr><th class="name">Training case</th><th>Dice before retraining</th><th>after</th></tr>'
    table = f"<table>{head}{rows}</table>" if rows else ""
    tip = "Leave-one-patient-out" if found.get("left_out") == "one patient" else "Cross-validation by patient"
    return f'<h2 title="{tip}">Patients for training, left out in turn</h2>\n<p>{escape(sentence)}</p>\n{table}'


def _pictures(pictures: Mapping[Path, ComparedCase], colors: Mapping[str, tuple[int, int, int]]) -> str:
    if not pictures:
        return ""
    legend = "".join(
        f'<span class="swatch" style="background: rgb{color}"></span>{escape(name)}' for name, color in colors.items()
    )
    figures = "".join(
        f"<figure><figcaption><strong>{escape(case.name)}</strong>: Dice {case.old.dice:.3f} with the old version, "
        f"{case.new.dice:.3f} with the new one"
        f'<div class="sides"><span>Old version</span><span>New version</span></div></figcaption>'
        f'<img alt="Contours of both versions, {escape(case.name)}" src="{embedded(path)}"></figure>'
        for path, case in pictures.items()
    )
    return (
        "<h2>Lowest Dice of the new version, and its largest losses</h2>\n"
        f'<p class="soft">Axial slices from caudal to cranial.{legend}</p>\n{figures}'
    )


def _box_plots(cases: Sequence[ComparedCase], title: str) -> str:
    """One panel a measure: a box for each version, a point for each case, a line between a case's two points."""
    panels = []
    for position, (measure, name, hint) in enumerate(_PANELS):
        pairs = [(case.name, getattr(case.old, measure), getattr(case.new, measure)) for case in cases]
        pairs = [pair for pair in pairs if None not in pair]
        if pairs:
            panels.append(
                f'<g transform="translate({position * _PANEL_WIDTH:g} 0)">{_panel(pairs, measure, name, hint)}</g>'
            )
    if not panels:
        return ""
    width = len(_PANELS) * _PANEL_WIDTH
    return (
        f'<svg viewBox="0 0 {width:g} {_PANEL_HEIGHT:g}" role="img" '
        f'aria-label="{escape(title)}: box plots of both versions">{"".join(panels)}</svg>'
    )


def _panel(pairs: Sequence[tuple[str, float, float]], measure: str, name: str, hint: str) -> str:
    values = [value for _, *both in pairs for value in both]
    ticks = _ticks(min(values), max(values))
    low, high = ticks[0], ticks[-1]

    def height(value: float) -> float:
        return _PANEL_HEIGHT - _BOTTOM - (value - low) / (high - low) * (_PANEL_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<text class="title" x="12" y="20">{escape(name)}</text><text class="soft" x="12" y="36">{escape(hint)}</text>'
    ]
    for tick in ticks:
        y = height(tick)
        parts.append(f'<line class="grid" x1="{_LEFT:g}" x2="{_PANEL_WIDTH - 10:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="soft" x="{_LEFT - 6:g}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    middles = {"old": _LEFT + 60, "new": _LEFT + 150}
    digits = 3 if measure == "dice" else 2
    for case, before, after in pairs:
        label = f"<title>{escape(case)}: {before:.{digits}f} old, {after:.{digits}f} new</title>"
        y_old, y_new = height(before), height(after)
        x_old, x_new = middles["old"] + 22, middles["new"] - 22
        line = f'<line class="pair" x1="{x_old}" y1="{y_old:.1f}" x2="{x_new}" y2="{y_new:.1f}"/>'
        points = "".join(
            f'<circle class="{which}" cx="{x}" cy="{y:.1f}" r="2.5"/>'
            for which, x, y in (("old", x_old, y_old), ("new", x_new, y_new))
        )
        parts.append(f"<g>{label}{line}{points}</g>")
    both = {"old": [before for _, before, _ in pairs], "new": [after for *_, after in pairs]}
    for which, middle in middles.items():
        parts.append(_box(both[which], which, middle, height))
        parts.append(f'<text x="{middle}" y="{_PANEL_HEIGHT - 12:g}" text-anchor="middle">{which}</text>')
    return "".join(parts)


def _box(values: Sequence[float], which: str, middle: float, height: Callable[[float], float]) -> str:
    """Quartiles, median, and whiskers to the last value within 1.5 interquartile ranges."""
    first, median, third = (float(value) for value in np.percentile(values, (25, 50, 75)))
    reach = 1.5 * (third - first)
    # Quartiles are interpolated: of a few values none may lie within reach on one side.
    lowest = min([first, *(value for value in values if value >= first - reach)])
    highest = max([third, *(value for value in values if value <= third + reach)])
    left, right = middle - 14, middle + 14
    lines = [(middle, height(lowest), middle, height(first)), (middle, height(third), middle, height(highest))]
    lines += [(middle - 7, height(end), middle + 7, height(end)) for end in (lowest, highest)]
    whiskers = "".join(
        f'<line class="{which}" x1="{x1}" y1="{y1:.1f}" x2="{x2}" y2="{y2:.1f}"/>' for x1, y1, x2, y2 in lines
    )
    box_height = max(0.5, height(first) - height(third))
    return (
        f'{whiskers}<rect class="{which}" x="{left}" y="{height(third):.1f}" width="28" height="{box_height:.1f}"/>'
        f'<line class="median {which}" x1="{left}" x2="{right}" y1="{height(median):.1f}" y2="{height(median):.1f}"/>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Four to six round numbers that reach from below the lowest value to above the highest."""
    span = max(high - low, 0.01)
    power = 10.0 ** np.floor(np.log10(span / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= span / 4)
    first, last = np.floor(low / step), max(np.ceil(high / step), np.floor(low / step) + 1)
    return [float(round(number * step, 10)) for number in np.arange(first, last + 1)]
