"""The user's cases and models: the folders that were chosen in the panel, else those in the home folder."""

from __future__ import annotations

import slicer

from ..library.case_library import CaseLibrary
from ..library.model_registry import ModelRegistry
from ..library.user_folder import default_cases_folder, default_models_folder
from .settings import read_setting
from .worker_process import python_program


def case_library() -> CaseLibrary:
    """The library that the user chose."""
    return CaseLibrary(read_setting("casesFolder", str(default_cases_folder())))


def model_registry() -> ModelRegistry:
    """The versions of the network that the user has; PyTorch never loads into a Slicer with a window to try one.

    Raises:
        WorkerError: this Slicer has no Python for other processes.
    """
    folder = read_setting("modelsFolder", str(default_models_folder()))
    return ModelRegistry(folder, python_program() if has_window() else "")


def has_window() -> bool:
    """Whether this is a Slicer with a main window, rather than one that runs a script."""
    return getattr(slicer, "app", None) is not None and slicer.util.mainWindow() is not None
