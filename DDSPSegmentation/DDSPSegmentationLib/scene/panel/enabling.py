"""A widget that can do nothing now says in its tooltip why."""

from __future__ import annotations


def enable(widget, obstacle: str, tip: str) -> None:
    """Enable a widget with a tooltip, or disable it with what stands in its way; an empty text is no obstacle."""
    widget.enabled = not obstacle
    widget.toolTip = obstacle or tip
