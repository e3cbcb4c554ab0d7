"""A widget that can do nothing now says in its tooltip why."""

from __future__ import annotations

from slicer.i18n import tr as _

from ..result_nodes import is_imported
from .attention import give_up_focus


def enable(widget, obstacle: str, tip: str) -> None:
    """Enable a widget with a tooltip, or disable it with what stands in its way; an empty text is no obstacle."""
    if obstacle:
        give_up_focus(widget)
    widget.enabled = not obstacle
    widget.toolTip = obstacle or tip


def no_network_contour(node, edited: bool) -> str:
    """Why there is no other contour of the network's to go back to or to look at, empty where there is one."""
    if node is not None and is_imported(node):
        return _("This contour was imported; no network drew it.")
    return "" if edited else _("The contour is still as the network made it.")


def other_scan(isElsewhere: bool) -> str:
    """Why nothing is done to a contour that the views do not show."""
    return _("The views show another scan.") if isElsewhere else ""
