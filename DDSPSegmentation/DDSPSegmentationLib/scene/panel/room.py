"""Room for texts that wrap: nothing lies over anything at any width, whatever was opened before."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def on_resize(widgets: Sequence, action: Callable[[], None]):
    """Do something whenever one of the widgets has another size, or what it holds asks for another one.

    Returns:
        What watches the widgets; it must be kept as long as they are there.
    """
    import qt

    class Watcher(qt.QObject):
        def eventFilter(self, watched, event) -> bool:
            if event.type() in (qt.QEvent.Resize, qt.QEvent.LayoutRequest):
                action()
            return False

    watcher = Watcher()
    for widget in widgets:
        widget.installEventFilter(watcher)
    return watcher


def keep_room(box, labels: Sequence, onFitted: Callable[[], None]):
    """Keep wrapping labels of a box as high as their texts are at their width.

    A wrapping label knows its height only by its width; of boxes in boxes in a scroll area that were opened one by
    one some do not ask for it again, and squeeze what they hold. A least height of pixels reaches them all.

    Args:
        onFitted: called when a label came to need another height, came or went.

    Returns:
        As ``on_resize``.
    """
    fitted: dict[int, tuple] = {}

    def fit() -> None:
        needed = {number: (label.text, label.width, label.isHidden()) for number, label in enumerate(labels)}
        others = [number for number, isFor in needed.items() if fitted.get(number) != isFor]
        fitted.update(needed)  # first, since each height that is set asks again
        for number in others:
            label = labels[number]
            label.minimumHeight = 0  # it is part of what the label answers
            label.minimumHeight = max(label.heightForWidth(label.width), 0)
        if others:
            onFitted()

    return on_resize((box, *labels), fit)


def settle(widget) -> None:
    """Let every layout around a widget find its sizes anew, from the inside out."""
    while widget is not None and not widget.inherits("QScrollArea"):
        layout = widget.layout()
        if layout is not None:
            layout.activate()
        widget.updateGeometry()
        widget = widget.parent()
