"""``ddsp-segmentation models``: the versions in the shell, with the same rules as in the panel."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..engine.errors import ModelError
from ..learning.comparison_words import dice_change, doubt_about_activation, hold_out_dice, left_out_dice
from ..library.model_registry import ModelRegistry
from ..library.model_version import ModelVersion
from .terminal import say


def models(chosen: argparse.Namespace) -> int:
    """List, activate, roll back, delete, export or import; refusals are raised with their reason."""
    registry = ModelRegistry(chosen.models)
    action = chosen.action or "list"
    if action == "list":
        _list(registry)
    elif action == "activate":
        try:
            active = registry.active().name
        except ModelError:
            active = ""
        version = registry.activate(chosen.name)
        doubt = doubt_about_activation(version.comparison, active)
        if doubt and not version.builtin and version.name != active:
            say(f"Note: {doubt}")
        say(f"'{version.name}' is active. 'models roll-back' takes this back.")
    elif action == "roll-back":
        say(f"'{registry.roll_back().name}' is active again.")
    elif action == "delete":
        registry.delete(chosen.name)
        say(f"'{chosen.name}' is deleted.")
    elif action == "export":
        registry.export(chosen.name, Path(chosen.file), chosen.without_seen)
        say(f"'{chosen.name}' is in {chosen.file}")
    else:
        version = registry.import_file(Path(chosen.file))
        say(f"'{version.name}' is imported. It is used after 'models activate {version.name}'.")
    return 0


def _list(registry: ModelRegistry) -> None:
    try:
        version = registry.active()
        active, note = version.name, version.note
    except ModelError as error:
        active, note = "", f"No version is active: {error}"
    for version in registry.versions():
        say(f"{'*' if version.name == active else ' '} {version.name}: {_facts(version)}")
    previous = registry.previous()
    if note:
        say(note)
    if previous:
        say(f"Rolling back activates '{previous}'.")


def _facts(version: ModelVersion) -> str:
    """One line: date, origin, cases, and how it compared with its parent."""
    if version.problem or version.description is None:
        return f"cannot be used. {version.problem}"
    training = version.description.training
    origin = "built-in" if version.builtin else f"from {training.get('parent', 'elsewhere')}"
    facts = [version.description.date, origin, f"{len(training.get('cases', []))} training cases"]
    comparison = version.comparison
    facts.append(str(comparison.get("verdict", "")))
    figures = {
        "hold-out": dice_change(hold_out_dice(comparison)),
        "left-out": dice_change(left_out_dice(comparison.get("cross_validation") or {})),
    }
    facts += [f"{which} Dice {change}" for which, change in figures.items() if change]
    return ", ".join(filter(None, facts))
