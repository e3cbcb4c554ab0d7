"""What describes the machine and its user, kept in the application settings; what describes a case is in the scene."""

from __future__ import annotations

import slicer

PREFIX = "DDSPSegmentation/"


def read_setting(name: str, default: str) -> str:
    """A choice of the user, or the default as long as none was made or where there is no application to remember it."""
    if getattr(slicer, "app", None) is None:
        return default
    value = slicer.app.userSettings().value(PREFIX + name)
    return default if value is None else str(value)


def write_setting(name: str, value: str) -> None:
    """Remember a choice of the user for every scene and session."""
    slicer.app.userSettings().setValue(PREFIX + name, value)
