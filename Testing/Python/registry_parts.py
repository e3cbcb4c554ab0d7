"""Model folders and registries for tests: small real networks, damage of every kind, code that must never run."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import torch
from engine_parts import bright_model

from DDSPSegmentationLib.engine.model import BUILTIN_MODEL as BUILTIN
from DDSPSegmentationLib.engine.model import DESCRIPTION_FILE, WEIGHTS_FILE
from DDSPSegmentationLib.library.model_registry import ModelRegistry
from DDSPSegmentationLib.library.model_version import MANIFEST_FILE


def publish(registry: ModelRegistry, name: str, place: Path, bright=2.0, files=None, **facts):
    """Publish the bright network as a version; another ``bright`` is another network."""
    facts = {"date": "2024-05-01", "training": {"cases": ["a3f9-0001"], "parent": BUILTIN}, **facts}
    folder = bright_model(place / f"made-{name}", bright=bright, **facts)
    return registry.publish(folder, name, files or {})


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def vouch(folder: Path) -> None:
    """Let model.json and manifest agree with whatever lies in the folder now, as a careful forger would."""
    edit_json(folder / DESCRIPTION_FILE, sha256=hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest())
    files = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if path.name != MANIFEST_FILE
    }
    edit_json(folder / MANIFEST_FILE, files=files)


class Intruder:
    """Code that runs when it is unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def with_intruder(folder: Path, trace: Path) -> None:
    (state,) = torch.load(folder / WEIGHTS_FILE, weights_only=True)
    torch.save([{**state, "head1.weight": Intruder(trace)}], folder / WEIGHTS_FILE)


def of_another_architecture(folder: Path) -> None:
    values = json.loads((folder / DESCRIPTION_FILE).read_text())
    edit_json(folder / DESCRIPTION_FILE, network={**values["network"], "widths": [1, 1, 2]})


def with_nan(folder: Path) -> None:
    (state,) = torch.load(folder / WEIGHTS_FILE, weights_only=True)
    state["head1.bias"][0] = float("nan")
    torch.save([state], folder / WEIGHTS_FILE)


def snapshot(registry: ModelRegistry) -> dict:
    """Every file of the registry but its lock."""
    return {
        path.relative_to(registry.folder).as_posix(): path.read_bytes()
        for path in sorted(registry.folder.rglob("*"))
        if path.is_file() and not path.name.startswith("registry.lock")
    }


def assert_whole(registry: ModelRegistry) -> None:
    """What a reader needs after anything: every version can be used, and the active one is there."""
    found = registry.versions()
    assert [(version.name, version.problem) for version in found if version.problem] == []
    assert registry.active().name in {version.name for version in found}
    assert registry.checked_folder().is_dir()
    for version in found:
        assert dataclasses.is_dataclass(version.description) and (version.folder / WEIGHTS_FILE).is_file()
