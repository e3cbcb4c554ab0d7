"""Where the files are that come with the program: weights, sample scan, and the panel's icons."""

from __future__ import annotations

from pathlib import Path


def resource_folder() -> Path:
    """The folder ``Resources``: inside the package in a wheel, beside it in Slicer's module and in the repository."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "Resources"
    return inside if inside.is_dir() else package.parent / "Resources"
