"""report.html: what a batch found, the doubtful first; it needs no network, no script and, up to a page, no other file.

With more cases there are pages of ``PER_PAGE``, whose pictures stay beside them, so that each opens at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from urllib.parse import quote

from ..engine.errors import StorageError
from ..engine.files import write_text
from ..engine.html_page import RESEARCH_ONLY, embedded, html_page
from ..engine.quality import WORDS, review_rank, verdict
from ..engine.segmentation import EXPECTED_COLUMNS, ExpectedDice
from .batch_record import BatchRecord
from .review_states import Decision, counts, read_decisions, state_of

REPORT_FILE = "report.html"
PER_PAGE = 200

_STYLE = """
article { display: flex; gap: 16px; margin: 12px 0; padding: 12px; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; }
article img { width: 160px; height: 160px; border-radius: 4px; display: block; background: #000; }
article h3 { margin: 0 0 4px; font-size: 16px; overflow-wrap: anywhere; }
article > div { min-width: 0; flex: 1; }
dl { display: flex; flex-wrap: wrap; gap: 4px 24px; margin: 4px 0 8px; }
dt { color: var(--soft); font-size: 12px; } dd { margin: 0; font-variant-numeric: tabular-nums; }
.doubtful dd.word { color: var(--bad); } .check dd.word { color: var(--new); } .good dd.word { color: var(--good); }
dd.word, dd.state { font-weight: 600; } .pages { margin: 12px 0; line-height: 2; }
ul.warnings { margin: 4px 0; padding-left: 20px; color: var(--bad); } ul.notices { margin: 4px 0; padding-left: 20px;
  color: var(--soft); }
th, td { text-align: left; padding: 6px 12px; border-bottom: 1px solid var(--line); overflow-wrap: anywhere;
  vertical-align: top; }
a { color: inherit; }
"""


def write_report(record: BatchRecord, folder: Path) -> None:
    """Write report.html, and further pages where there are many cases, for all that the record lists.

    Args:
        record: the state of the folder.
        folder: holds ``thumbnails/<case>.png`` and ``<case>.png``, linked by name; and review.json, where there is one.

    Raises:
        StorageError: a page cannot be written.
    """
    done = _names_in_review_order(record)
    try:
        decisions = read_decisions(folder)
    except StorageError:
        decisions = {}  # whoever reviews is told; the report of a run does not wait for that
    head = _head(record, decisions)
    pages = [done[first : first + PER_PAGE] for first in range(0, len(done), PER_PAGE)] or [[]]
    for number, page in enumerate(pages):
        parts = [head, _pages(number, len(pages))]
        parts += [_case(name, record.entry(name), folder, decisions, len(pages) == 1) for name in page]
        if not done:
            parts.append('<p class="soft">No case has been segmented.</p>')
        if number == 0:
            parts += [_reasons("Missing", _listed(record, "missing")), _reasons("Failed", record.failed())]
            parts.append(_reasons("Skipped", _listed(record, "skipped")))
        parts += [_pages(number, len(pages)), f'<p class="soft">{RESEARCH_ONLY}</p>']
        write_text(html_page("Prostate segmentation report", _STYLE, parts), folder / _page_name(number))
    for left in folder.glob("report-*.html"):  # of a run with more cases
        if left.name not in map(_page_name, range(len(pages))) and left.stem.removeprefix("report-").isdigit():
            left.unlink()


def in_review_order(record: BatchRecord) -> Iterator[tuple[str, dict]]:
    """The cases that are done, in the order of their words, then by expected Dice, then by the least certain slice."""
    return ((name, record.entry(name)) for name in _names_in_review_order(record))


def _names_in_review_order(record: BatchRecord) -> list[str]:
    return [name for _, name in sorted((_review_order(entry), name) for name, entry in record.done())]


def word_of(entry: dict) -> str:
    """The word that panel, report and command line have for a result, see ``quality.verdict``."""
    expected = expected_dice_of(entry)
    return verdict(expected and expected.value, entry["warnings"])


def expected_dice_of(entry: dict) -> ExpectedDice | None:
    """None also of a result that an older version recorded: its number had no interval and knew nothing."""
    values = [entry["measurements"].get(column) for column in EXPECTED_COLUMNS]
    return ExpectedDice(*values) if all(isinstance(value, (int, float)) for value in values) else None


def _page_name(number: int) -> str:
    return REPORT_FILE if number == 0 else f"report-{number + 1}.html"


def _pages(shown: int, count: int) -> str:
    """Links to all pages."""
    if count == 1:
        return ""
    links = (
        f"<strong>{number + 1}</strong>" if number == shown else f'<a href="{_page_name(number)}">{number + 1}</a>'
        for number in range(count)
    )
    return f'<p class="pages">Page {" ".join(links)}</p>'


def _head(record: BatchRecord, decisions: Mapping[str, Decision]) -> str:
    content = record.head
    settings = content.get("settings", {})
    words: list[str] = []
    states: list[str] = []
    for name, entry in record.done():
        words.append(word_of(entry))
        states.append(state_of(name, entry["mask"]["sha256"], decisions))
    judged = ", ".join(f"{words.count(word)} {word}" for word in filter(None, WORDS) if word in words)
    totals = f"{len(words)} segmented, {len(record.failed())} failed, {len(content.get('skipped', []))} skipped"
    sentence = "; ".join(filter(None, (totals, judged, counts(states))))
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
        f"<p>{escape(sentence)}. The most doubtful come first; the thin line is the contour found.</p>"
    )


def _case(name: str, entry: dict, folder: Path, decisions: Mapping[str, Decision], alone: bool) -> str:
    row, word = entry["measurements"], word_of(entry)
    state = state_of(name, entry["mask"]["sha256"], decisions)
    thumbnail = f"thumbnails/{name}.png"
    source = embedded(folder / thumbnail) if alone else escape(quote(thumbnail))
    diameters = " x ".join(_number(row.get(f"{axis}_mm"), 0) for axis in _AXES)
    expected = expected_dice_of(entry)
    facts = [("State", state, "state")] + ([("Verdict", word, "word")] if word else [])
    facts += [("Expected Dice", "{:.2f} ({:.2f} to {:.2f})".format(*expected), "")] if expected else []
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
        f'<article class="{word or "unjudged"}"><a href="{picture}">'
        f'<img loading="lazy" alt="Contour of {escape(name)}" src="{source}"></a>'
        f"<div><h3>{escape(name)}</h3><dl>{items}</dl>"
        f"{_list('warnings', entry['warnings'])}{_list('notices', entry['notices'])}"
        f'<p class="soft"><a href="{escape(quote(entry["mask"]["file"]))}">{escape(entry["mask"]["file"])}</a></p>'
        "</div></article>"
    )


_AXES = ("left_right", "antero_posterior", "cranio_caudal")


def _list(kind: str, sentences: list[str]) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def _listed(record: BatchRecord, what: str) -> list[tuple[str, str]]:
    return [(item["name"], item["reason"]) for item in record.head.get(what, [])]


def _reasons(title: str, entries: list[tuple[str, str]]) -> str:
    if not entries:
        return ""
    rows = "".join(f"<tr><td>{escape(name)}</td><td>{escape(reason)}</td></tr>" for name, reason in entries)
    return f"<h2>{title}</h2>\n<table><tr><th>Case</th><th>Reason</th></tr>{rows}</table>"


def _review_order(entry: dict) -> tuple[tuple[int, float], float]:
    expected = expected_dice_of(entry)
    largest_doubt = max(filter(None, entry.get("slice_doubts", [])), default=0.0)
    return review_rank(expected and expected.value, entry["warnings"]), -largest_doubt


def _number(value, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else "unknown"
