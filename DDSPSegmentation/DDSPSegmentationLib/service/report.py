"""report.html: one page that shows the doubtful cases first; it needs no network, no script and no other file."""

from __future__ import annotations

from html import escape
from pathlib import Path
from urllib.parse import quote

from ..engine.files import write_text
from ..engine.html_page import RESEARCH_ONLY, embedded, html_page
from ..engine.quality import DOUBTFUL_DICE, review_rank
from ..engine.segmentation import EXPECTED_COLUMNS, ExpectedDice
from .batch_record import BatchRecord

REPORT_FILE = "report.html"

_STYLE = """
article { display: flex; gap: 16px; margin: 12px 0; padding: 12px; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; }
article img { width: 160px; height: 160px; border-radius: 4px; display: block; background: #000; }
article h3 { margin: 0 0 4px; font-size: 16px; overflow-wrap: anywhere; }
article > div { min-width: 0; flex: 1; }
dl { display: flex; flex-wrap: wrap; gap: 4px 24px; margin: 4px 0 8px; }
dt { color: var(--soft); font-size: 12px; } dd { margin: 0; font-variant-numeric: tabular-nums; }
.doubtful dd.dice { color: var(--bad); font-weight: 600; } dd.dice { color: var(--good); font-weight: 600; }
ul.warnings { margin: 4px 0; padding-left: 20px; color: var(--bad); } ul.notices { margin: 4px 0; padding-left: 20px;
  color: var(--soft); }
th, td { text-align: left; padding: 6px 12px; border-bottom: 1px solid var(--line); overflow-wrap: anywhere;
  vertical-align: top; }
a { color: inherit; }
"""


def write_report(record: BatchRecord, folder: Path) -> None:
    """Write report.html for all that the record lists, the most doubtful first.

    That is by expected Dice; without one, what has a warning comes before all others and the rest behind them, each by
    the slice that the network is least sure of.

    Args:
        record: the state of the folder.
        folder: holds ``thumbnails/<case>.png``, which are put into the page, and ``<case>.png``, linked by name.

    Raises:
        StorageError: the page cannot be written.
    """
    done = sorted(record.done(), key=lambda item: _review_order(item[1]))
    parts = [_head(record, len(done)), *(_case(name, entry, folder) for name, entry in done)]
    if not done:
        parts.append('<p class="soft">No case has been segmented.</p>')
    parts.append(_reasons("Failed", record.failed()))
    parts.append(_reasons("Skipped", [(item["name"], item["reason"]) for item in record.content.get("skipped", [])]))
    parts.append(f'<p class="soft">{RESEARCH_ONLY}</p>')
    write_text(html_page("Prostate segmentation report", _STYLE, parts), folder / REPORT_FILE)


def _head(record: BatchRecord, done: int) -> str:
    content = record.content
    settings = content.get("settings", {})
    entries = [entry for _, entry in record.done()]
    doubtful = sum(map(_is_doubtful, entries))
    below = f"an expected Dice below {DOUBTFUL_DICE} or " if any(map(_expected_dice, entries)) else ""
    counts = f"{done} segmented, {len(record.failed())} failed, {len(content.get('skipped', []))} skipped"
    facts = (
        f"DDSPSegmentation {content.get('package', '')}, model {content.get('model_version', '')}, "
        f"mode {settings.get('mode', '')}, {content.get('ended') or content.get('started', '')}"
    )
    state = content.get("state", "")
    complete = state in ("", "finished")
    unfinished = "" if complete else f"<p><strong>The run is not complete ({escape(state)}).</strong></p>\n"
    return (
        f'<h1>Prostate segmentation report</h1>\n<p class="soft">{escape(facts)}</p>\n'
        f'<p class="research">{RESEARCH_ONLY}</p>\n{unfinished}'
        f"<p>{escape(counts)}; {doubtful} with {below}a warning. "
        "The most doubtful cases come first; the thin line is the contour found.</p>"
    )


def _case(name: str, entry: dict, folder: Path) -> str:
    row = entry["measurements"]
    diameters = " x ".join(_number(row.get(f"{axis}_mm"), 0) for axis in _AXES)
    expected = _expected_dice(entry)
    facts = [("Expected Dice", "{:.2f} ({:.2f} to {:.2f})".format(*expected), "dice")] if expected else []
    facts += [
        ("Volume", f"{_number(row.get('volume_ml'), 1)} ml", ""),
        ("Left-right x antero-posterior x cranio-caudal", f"{diameters} mm", ""),
        ("Time", f"{_number(row.get('seconds'), 1)} s on {row.get('device', '')}", ""),
    ]
    items = "".join(
        f'<div><dt>{escape(term)}</dt><dd class="{kind}">{escape(value)}</dd></div>' for term, value, kind in facts
    )
    picture = escape(quote(f"{name}.png"))
    return (
        f'<article class="{"doubtful" if _is_doubtful(entry) else "sure"}"><a href="{picture}">'
        f'<img alt="Contour of {escape(name)}" src="{embedded(folder / "thumbnails" / f"{name}.png")}"></a>'
        f"<div><h3>{escape(name)}</h3><dl>{items}</dl>"
        f"{_list('warnings', entry['warnings'])}{_list('notices', entry['notices'])}"
        f'<p class="soft"><a href="{escape(quote(entry["mask"]["file"]))}">{escape(entry["mask"]["file"])}</a></p>'
        "</div></article>"
    )


_AXES = ("left_right", "antero_posterior", "cranio_caudal")


def _list(kind: str, sentences: list[str]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def _reasons(title: str, entries: list[tuple[str, str]]) -> str:
    if not entries:
        return ""
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(reason)}</td></tr>" for name, reason in entries)
    return f"<h2>{title}</h2>\n<table><tr><th>Case</th><th>Reason</th></tr>{rows}</table>"


def _expected_dice(entry: dict) -> ExpectedDice | None:
    """None also of a result that an older version recorded: its number had no interval and knew nothing."""
    values = [entry["measurements"].get(column) for column in EXPECTED_COLUMNS]
    return ExpectedDice(*values) if all(isinstance(value, (int, float)) for value in values) else None


def _is_doubtful(entry: dict) -> bool:
    expected = _expected_dice(entry)
    return bool(entry["warnings"]) or (expected is not None and expected.value < DOUBTFUL_DICE)


def _review_order(entry: dict) -> tuple[float, float]:
    expected = _expected_dice(entry)
    return review_rank(expected and expected.value, entry["warnings"]), -entry.get("largest_doubt", 0.0)


def _number(value, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else "unknown"
