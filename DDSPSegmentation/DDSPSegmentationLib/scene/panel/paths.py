"""Files and folders that a section asks for; an empty text when the user thinks better of it."""

from __future__ import annotations

import os
from collections.abc import Callable

import slicer
from slicer.i18n import tr as _


def ask_for_folder(title: str) -> str:
    """A folder that is there."""
    import qt

    return qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), title)


def ask_for_file(title: str, kind: str) -> str:
    """A file to read; ``kind`` is a filter such as "Archive (*.zip)"."""
    import qt

    return qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), title, qt.QDir.homePath(), kind)


def ask_for_new_file(title: str, name: str, suffix: str, kind: str, say: Callable[[str], None]) -> str:
    """A file to write, which has the suffix once; one that is there is replaced only when it was chosen itself."""
    import qt

    suggestion = os.path.join(qt.QDir.homePath(), name + suffix)
    path = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), title, suggestion, kind)
    if not path or path.lower().endswith(suffix):
        return path
    # Some systems add the last part of the suffix by themselves.
    path = path.removesuffix("." + suffix.rpartition(".")[2]) + suffix
    if os.path.exists(path):  # the dialog asked about another name
        say(_("{path} exists already; choose it in the list of files to replace it.").format(path=path))
        return ""
    return path
