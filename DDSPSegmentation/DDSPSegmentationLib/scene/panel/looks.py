"""How the panel is arranged: icons on the buttons that are pressed most, and long sections that fold one another."""

from __future__ import annotations

from functools import partial

import slicer

from ...engine.resources import resource_folder

FOLDING = ("correct", "export", "learn", "advanced")  # each is as high as what is left of a screen


class Folding:
    """Of the long sections, one is open at a time; opening one folds the others."""

    def __init__(self, ui):
        self._sections = [getattr(ui, f"{name}CollapsibleButton") for name in FOLDING]
        for section in self._sections:
            section.connect("contentsCollapsed(bool)", partial(self._onFolded, section))

    def _onFolded(self, opened, collapsed: bool) -> None:
        if not collapsed:
            for section in self._sections:
                if section is not opened:
                    section.collapsed = True


def show_icons(ui) -> None:
    """Icons of the module and of the application's style."""
    import qt

    icon = resource_folder() / "Icons" / "DDSPSegmentation.png"
    ui.segmentButton.icon = qt.QIcon(str(icon))
    style = slicer.app.style()
    for button, name in (
        (ui.previousSliceButton, "SP_ArrowBack"),
        (ui.nextSliceButton, "SP_ArrowForward"),
        (ui.acceptButton, "SP_DialogApplyButton"),
        (ui.resetButton, "SP_BrowserReload"),
    ):
        button.icon = style.standardIcon(getattr(qt.QStyle, name))
