"""Model versions on disk: model.json (what it is), weights.pt (its networks), and how they are checked and loaded.

A version is one to seven networks of one architecture, its members, each trained without some of the training patients.

``model.json`` names the SHA-256 of ``weights.pt``; weights are read with ``weights_only=True`` and only into the
architecture that model.json describes, so that nothing in a model folder is ever executed.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from .errors import ModelError, StorageError
from .files import file_sha256, os_errors_as, write_json
from .resources import resource_folder
from .scan_identity import ScanIdentity, SeenScans, checked_fold

if TYPE_CHECKING:
    from torch import Tensor

    from .network import DDSPConvNet, NetworkSettings

SCHEMA_VERSION = 2  # version 1, one network whose weights.pt is its state_dict, is read for ever
MOST_MEMBERS = 7
DESCRIPTION_FILE = "model.json"
WEIGHTS_FILE = "weights.pt"
BUILTIN_MODEL = "ddsp-prostate-2"
FORMER_BUILTIN_MODELS: tuple[str, ...] = ("ddsp-prostate-1",)  # which shipped before; their names stay theirs
REINSTALL = "Install the extension again, or choose another model."


@dataclass(frozen=True)
class ModelDescription:
    """What model.json says.

    Attributes:
        version: the version's name; ``sha256``: of the weights file.
        network, preprocessing: settings as dictionaries (see ``NetworkSettings``, ``PreprocessingSettings``).
        members: for each network of weights.pt the folds of patients that it left out, ``{"left_out": [0, 1]}``;
            which scans are in a fold, ``seen`` tells.
        calibration: what its expected Dice rests on, see ``confidence.Calibration``; empty where nobody measured it.
        training: plan, steps, training cases by id, parent version; ``metrics``: measured figures; ``license``: terms.
        seen: the scans that it or a version it came from was trained on, see :meth:`was_trained_on`.
    """

    version: str
    sha256: str
    network: dict
    preprocessing: dict
    members: list = field(default_factory=lambda: [{"left_out": []}])
    calibration: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    metrics: dict = field(default_factory=dict)
    license: str = ""
    date: str = ""
    seen: SeenScans = field(default_factory=SeenScans)

    def was_trained_on(self, scan: ScanIdentity) -> bool | None:
        """Whether this version, or one that it came from, saw a scan in training or rehearsal.

        Decided by the voxels, never by a name; a copy at another resolution, renamed or cropped is recognized, see
        ``scan_identity``.

        Returns:
            ``None`` where nobody can tell: the version came without the list of what it saw.
        """
        if self.seen.find(scan):
            return True
        return False if self.seen.known else None

    def members_that_never_saw(self, scan: ScanIdentity) -> list[int]:
        """Numbers of the members that left out the patients of every scan which this one is, or is a copy of."""
        if not self.seen.known:
            return []
        folds = {match.fold for match in self.seen.matches(scan)}
        return [number for number, member in enumerate(self.members) if folds <= set(member["left_out"])]


def builtin_model_folder() -> Path:
    """Folder of the model that ships with the extension."""
    return resource_folder() / "Models" / BUILTIN_MODEL


def describe_model(folder: Path | str | None = None) -> ModelDescription:
    """Read a model folder's description; needs no torch.

    Args:
        folder: a model folder; ``None`` is the built-in model.

    Raises:
        ModelError: no such folder, no or damaged model.json, or one of a newer schema.
    """
    folder = _present(builtin_model_folder() if folder is None else Path(folder))
    path = folder / DESCRIPTION_FILE
    if not path.is_file():
        cause = f"Model '{folder.name}' has no {DESCRIPTION_FILE}."
        raise ModelError(cause, "Choose a folder that holds a model version.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        schema = values.pop("schema_version")
        if schema not in range(1, SCHEMA_VERSION + 1):
            raise ModelError(
                f"Model '{folder.name}' has schema version {schema}; this version reads up to {SCHEMA_VERSION}.",
                "Update the extension, or choose another model.",
            )
        values["seen"] = SeenScans.from_dict(values["seen"]) if "seen" in values else SeenScans()
        if "licence" in values:  # as it was spelled until 2026
            values["license"] = values.pop("licence")
        return _of_known_types(ModelDescription(**values))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelError(f"Model '{folder.name}' has a damaged {DESCRIPTION_FILE} ({reason}).", REINSTALL) from error


def _of_known_types(description: ModelDescription) -> ModelDescription:
    """Make sure that every field is what its readers count on. Raises TypeError."""
    kinds: list[tuple[Any, type]]
    kinds = [(getattr(description, name), kind) for name, kind in get_type_hints(ModelDescription).items()]
    for names in (description.training.get(key, []) for key in ("cases", "replay")):
        kinds += [(names, list), *((name, str) for name in names)]
    kinds += [(member["left_out"], list) for member in description.members]
    for member in description.members:
        for fold in member["left_out"]:
            checked_fold(fold)
    if not 1 <= len(description.members) <= MOST_MEMBERS:
        raise ValueError(f"{len(description.members)} members; 1 to {MOST_MEMBERS} are possible")
    if not all(isinstance(value, kind) for value, kind in kinds):
        raise TypeError("unusable settings: a field of another type")
    return description


def load_networks(folder: Path | str | None = None) -> tuple[list[DDSPConvNet], ModelDescription]:
    """Load a model version's networks: float32 on the CPU, in eval mode.

    Raises:
        ModelError: the description or the weights are missing, damaged, changed or of another architecture.
    """
    import torch

    from .confidence import Calibration
    from .network import NetworkSettings
    from .preprocessing import PreprocessingSettings

    folder = _present(builtin_model_folder() if folder is None else Path(folder))
    description = describe_model(folder)
    weights = folder / WEIGHTS_FILE
    if not weights.is_file():
        raise ModelError(f"Model '{description.version}' has no {WEIGHTS_FILE}.", REINSTALL)
    found = file_sha256(weights)
    if found != description.sha256:
        raise ModelError(
            f"The weights of model '{description.version}' are damaged or were changed "
            f"(SHA-256 {found[:12]}..., expected {description.sha256[:12]}...).",
            REINSTALL,
        )
    try:
        settings = NetworkSettings.from_dict(description.network)
        PreprocessingSettings.from_dict(description.preprocessing)
        Calibration.from_dict(description.calibration)
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        raise ModelError(f"Model '{description.version}' has unusable settings ({error}).", REINSTALL) from error
    try:
        states = torch.load(weights, map_location="cpu", weights_only=True)
        states = [states] if isinstance(states, dict) else states  # as schema version 1 keeps them
        networks = [_network_of(settings, state) for _, state in zip(description.members, states, strict=True)]
    except Exception as error:  # torch raises many types for damaged or foreign files; its advice is not for users
        cause = f"The weights of model '{description.version}' do not fit its description."
        raise ModelError(cause, REINSTALL) from error
    if not all(torch.isfinite(value).all() for network in networks for value in network.state_dict().values()):
        raise ModelError(f"The weights of model '{description.version}' hold values that are not finite.", REINSTALL)
    return networks, description


def _network_of(settings: NetworkSettings, state: dict[str, Tensor]) -> DDSPConvNet:
    from .network import DDSPConvNet

    network = DDSPConvNet(settings)
    network.load_state_dict(
        {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    )
    return network.eval()


def save_model(
    folder: Path | str, networks: Sequence[DDSPConvNet], preprocessing: dict, **facts: Any
) -> ModelDescription:
    """Publish a model version: written aside, then one rename; half-precision weights.

    Args:
        folder: the new version's folder, named like the version; an existing one is replaced.
        networks: weights and settings of the members; ``preprocessing``: settings as a dictionary.
        facts: ``version`` and further fields of ``ModelDescription``.
    """
    import torch

    folder = Path(folder)
    with os_errors_as(StorageError, f"Model '{folder.name}' cannot be written", "Free space or choose another folder."):
        folder.parent.mkdir(parents=True, exist_ok=True)
        if _present(folder) != folder:
            os.replace(_present(folder), folder)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            if folder.is_dir():  # the model card and the terms stay
                shutil.copytree(folder, aside, dirs_exist_ok=True)
            states = [
                {
                    key: value.detach().cpu().half() if value.is_floating_point() else value.cpu()
                    for key, value in network.state_dict().items()
                }
                for network in networks
            ]
            weights = io.BytesIO()  # torch itself reports a full disk as a RuntimeError without a reason
            torch.save(states, weights)
            (aside / WEIGHTS_FILE).write_bytes(weights.getbuffer())
            description = ModelDescription(
                sha256=file_sha256(aside / WEIGHTS_FILE),
                network=networks[0].settings.to_dict(),
                preprocessing=preprocessing,
                **{"version": folder.name, "members": [{"left_out": []} for _ in networks], **facts},
            )
            write_description(aside, description)
            os.chmod(aside, 0o755)
            _put_in_place(aside, folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return description


def _put_in_place(aside: Path, folder: Path) -> None:
    """Rename the new version into place; where that fails the old one comes back."""
    replaced = _replaced(folder)
    if folder.is_dir():
        shutil.rmtree(replaced, ignore_errors=True)
        os.replace(folder, replaced)
    try:
        os.replace(aside, folder)
    except OSError:
        if replaced.is_dir():
            os.replace(replaced, folder)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _replaced(folder: Path) -> Path:
    """Where an old version waits until the new one is in place."""
    return folder.with_name(f".{folder.name}.replaced")


def _present(folder: Path) -> Path:
    """The folder, or the old version that a kill in the middle of a replacement left aside."""
    return _replaced(folder) if folder.name and not folder.exists() and _replaced(folder).is_dir() else folder


def write_description(folder: Path, description: ModelDescription) -> None:
    """Replace model.json atomically."""
    values = {"schema_version": SCHEMA_VERSION, **vars(description), "seen": description.seen.to_dict()}
    write_json(values, folder / DESCRIPTION_FILE)
