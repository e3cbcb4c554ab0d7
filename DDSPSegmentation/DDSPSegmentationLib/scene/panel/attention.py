"""Where the user looks and where keys go, when part of the panel comes or goes."""

from __future__ import annotations

MARGIN = 8  # pixels


def bring_into_view(widget) -> None:
    """Scroll to a widget that was just shown: whoever clicked far from it would not see it."""
    import qt

    timer = qt.QTimer(widget)  # goes with the widget
    timer.setSingleShot(True)
    timer.connect("timeout()", lambda: _scroll_to(widget, timer))
    timer.start(0)  # it has no place until the layouts around it are done


def _scroll_to(widget, timer) -> None:
    timer.deleteLater()
    area = _around(widget, "QScrollArea")
    if area is not None:
        area.ensureWidgetVisible(widget, 0, MARGIN)


def give_up_focus(widget) -> None:
    """Move the keyboard to the header of the section before a widget that holds it is hidden or disabled.

    Qt would hand it to the next field, and the next key, meant for the Segment Editor, would change a number there.
    """
    focused = widget.window().focusWidget()
    if focused is None or (focused != widget and not widget.isAncestorOf(focused)):
        return
    header = _around(widget, "ctkCollapsibleButton")
    if header is not None:
        header.setFocus()


def set_shown(widget, isShown: bool) -> None:
    """Show a widget, or hide it once the keyboard is elsewhere."""
    if not isShown:
        give_up_focus(widget)
    widget.setVisible(isShown)


def _around(widget, kind: str):
    """The nearest widget of a kind that a widget lies in, or None."""
    found = widget.parent()
    while found is not None and not found.inherits(kind):
        found = found.parent()
    return found
