"""The user's cases and models: the folders that were chosen in the panel, else those in the home folder."""

from __future__ import annotations

import slicer

from ..library.case_library import CaseLibrary
from ..library.model_registry import ModelRegistry
from ..library.user_folder import default_cases_folder, default_models_folder
from .settings import read_setting


def case_library() -> CaseLibrary:
    """The library that the user chose."""
    return CaseLibrary(read_setting("casesFolder", str(default_cases_folder())), model_registry())


def model_registry() -> ModelRegistry:
    """The versions of the network that the user has; a Slicer with a window changes them through ``change_models``."""
    return ModelRegistry(read_setting("modelsFolder", str(default_models_folder())))


def has_window() -> bool:
    """Whether this is a Slicer with a main window, rather than one that runs a script."""
    return getattr(slicer, "app", None) is not None and slicer.util.mainWindow() is not None
