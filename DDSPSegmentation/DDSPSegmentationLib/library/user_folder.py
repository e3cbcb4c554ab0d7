"""Where a user's cases and models are, unless told otherwise; the same for Slicer, shell and batch."""

from __future__ import annotations

from pathlib import Path


def default_cases_folder() -> Path:
    return Path.home() / "DDSPSegmentation" / "Cases"


def default_models_folder() -> Path:
    return Path.home() / "DDSPSegmentation" / "Models"
