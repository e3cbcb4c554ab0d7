"""What a training run tells: a line of progress, the log as CSV and its curve as PNG."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..engine.files import csv_text, write_aside, write_text

LOG_FILE = "log.csv"
CURVE_FILE = "curve.png"
LOG_COLUMNS = ("step", "loss", "learning_rate", "seconds", "validation_dice")


def write_log(log: Sequence[dict], folder: Path) -> None:
    """Replace log and curve in a run's folder.

    Args:
        log: one row of ``LOG_COLUMNS`` each ten steps; ``validation_dice`` is '' where it was not measured.

    Raises:
        StorageError: they cannot be written; the former ones are kept.
    """
    rows = ([row[column] for column in LOG_COLUMNS] for row in log)
    write_text(csv_text([LOG_COLUMNS, *rows]), folder / LOG_FILE)
    draw_curve(log, folder / CURVE_FILE)


def draw_curve(log: Sequence[dict], path: Path) -> None:
    """Loss and validation Dice over the steps as PNG; without matplotlib there is only the CSV."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    if not log:
        return
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    steps = [row["step"] for row in log]
    losses = np.array([row["loss"] for row in log])
    window = max(1, len(losses) // 50)
    smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
    axes.plot(steps, losses, color="0.8", linewidth=0.7)
    axes.plot(steps[window - 1 :], smooth, label=f"training loss (mean of {window * 10} steps)")
    checked = [row for row in log if row["validation_dice"] != ""]
    if checked:
        axes.plot([r["step"] for r in checked], [r["validation_dice"] for r in checked], "o-", label="validation Dice")
    axes.set(xlabel="step", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    write_aside(path, ".png", lambda aside: figure.savefig(aside, format="png", dpi=110))


def line_progress(text: str) -> None:
    """Show progress on one line of a terminal, or as lines in a log file."""
    overwritten = sys.stdout.isatty() and text.startswith("[") and "Dice" not in text
    print(f"\r{text}" if overwritten else text, end="" if overwritten else "\n", flush=True)
