"""What all pages share: how they look, and that they need no network, no script and no other file."""

from __future__ import annotations

import base64
from pathlib import Path

RESEARCH_ONLY = "Research use only. Not a medical device."

_STYLE = """
:root { color-scheme: light dark; --line: #d5d9de; --soft: #5c6670; --back: #f6f7f9; --card: #fff; --text: #1b1f24;
  --bad: #b3261e; --good: #1b6e3c; --mark: #fff4d6; --old: #a3348f; --new: #a86400; }
@media (prefers-color-scheme: dark) { :root { --line: #3a4047; --soft: #a2abb5; --back: #16191d; --card: #1f2328;
  --text: #e8eaed; --bad: #ff8a80; --good: #7bd49b; --mark: #3b3218; --old: #f07fe0; --new: #ffc440; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px; max-width: 1100px; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 32px 0 8px; }
p { margin: 4px 0; } .soft { color: var(--soft); }
.research { display: inline-block; margin: 12px 0; padding: 6px 12px; border-radius: 6px; background: var(--mark);
  font-weight: 600; }
table { border-collapse: collapse; width: 100%; background: var(--card); border: 1px solid var(--line); }
@media print { body { background: none; } article, figure { break-inside: avoid; } }
"""


def html_page(title: str, style: str, parts: list[str]) -> str:
    """A page of parts, in light or dark as its reader's screen is.

    Args:
        style: rules of this page alone.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}{style}</style></head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def embedded(picture: Path) -> str:
    """A PNG as an address that holds it; one that cannot be read is empty."""
    try:
        return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode("ascii")
    except OSError:
        return "data:,"
