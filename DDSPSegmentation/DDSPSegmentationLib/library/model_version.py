"""A model version's folder: which files it may hold, their checksums, and what it says about itself.

``manifest.json`` names the SHA-256 of every file; what it does not name is refused. A version appears whole and never
changes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..engine.errors import ModelError
from ..engine.files import file_sha256, os_errors_as, read_json
from ..engine.model import (
    BUILTIN_MODEL,
    DESCRIPTION_FILE,
    FORMER_BUILTIN_MODELS,
    WEIGHTS_FILE,
    ModelDescription,
    builtin_model_folder,
    describe_model,
)

MANIFEST_FILE = "manifest.json"
LEDGER_FILE = "ledger.json"
COMPARISON_FILE = "comparison.json"
LEFT_BY_FILE_BROWSERS = ("thumbs.db", "desktop.ini", ".ds_store")
REPAIR = "Choose another version; this one can be deleted and imported again."
UPDATE = "Update the extension, or choose another version."

_MAY_READ = "Check that you may read it."
_FORMAT = "ddsp-segmentation-model"
_SCHEMA_VERSION = 1
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PICTURES = (".html", ".png", ".svg")  # they show scans of patients, and may be deleted whenever somebody likes
_SUFFIXES = (".json", ".md", ".csv", *_PICTURES)
_OF_WINDOWS = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}


@dataclass(frozen=True)
class ModelVersion:
    """One version as a list shows it.

    Attributes:
        folder: its files; ``builtin``: ships with the extension.
        description: model.json, ``None`` when it cannot be read.
        problem: why it cannot be used, empty for a version that can.
        note: what a person should know who finds it active.
        comparison, ledger: comparison.json and ledger.json, empty without.
    """

    name: str
    folder: Path
    builtin: bool = False
    description: ModelDescription | None = None
    problem: str = ""
    note: str = ""
    comparison: dict = field(default_factory=dict)
    ledger: dict = field(default_factory=dict)

    @property
    def pictures(self) -> list[Path]:
        """Pages and pictures of the comparison, which show scans of patients."""
        return sorted(path for path in self.folder.glob("*") if path.suffix in _PICTURES)


def is_plain_name(name: object) -> bool:
    """Whether a version or a file may be called so on every system, without leaving its folder."""
    return (
        isinstance(name, str)
        and _PLAIN_NAME.fullmatch(name) is not None
        and not name.endswith(".")
        and name.split(".")[0].lower() not in _OF_WINDOWS
    )


def is_version_file(name: object) -> bool:
    """Whether a version's folder may hold a file of this name besides its manifest."""
    if not isinstance(name, str) or not is_plain_name(name) or name.lower() == MANIFEST_FILE:
        return False
    return name == WEIGHTS_FILE or name.endswith(_SUFFIXES)


def is_builtin(name: str) -> bool:
    return name.casefold() == BUILTIN_MODEL.casefold()


def is_former_builtin(name: str) -> bool:
    return name.casefold() in map(str.casefold, FORMER_BUILTIN_MODELS)


def manifest_text(name: str, checksums: dict[str, str]) -> str:
    values = {"format": _FORMAT, "schema_version": _SCHEMA_VERSION, "name": name, "files": checksums}
    return json.dumps(values, indent=2) + "\n"


def parse_manifest(text: bytes, name: str) -> tuple[str, dict[str, str]]:
    """Version and SHA-256 of each file from a manifest.

    Args:
        name: what a message calls the version.

    Raises:
        ModelError: damaged, foreign, of a newer schema, or without description and weights.
    """
    try:
        values = json.loads(text)
        if values["format"] != _FORMAT:
            raise ValueError(f"format '{values['format']}'")
        schema = values["schema_version"]
        if schema != _SCHEMA_VERSION:
            raise ModelError(
                f"Model '{name}' has a {MANIFEST_FILE} of schema version {schema}; this version reads "
                f"{_SCHEMA_VERSION}.",
                UPDATE,
            )
        version, checksums = values["name"], dict(values["files"])
        strange = [file for file in checksums if not is_version_file(file)]
        if strange or not is_plain_name(version):
            raise ValueError(f"the name {json.dumps(strange[0] if strange else version)[:80]}")
        missing = {DESCRIPTION_FILE, WEIGHTS_FILE} - set(checksums)
        if missing:
            raise ValueError(f"no {min(missing)}")
        return version, checksums
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise ModelError(f"Model '{name}' has a damaged or foreign {MANIFEST_FILE} ({reason}).", REPAIR) from error


def read_manifest(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a version's folder. Raises ModelError."""
    with os_errors_as(ModelError, f"{MANIFEST_FILE} of model '{folder.name}' cannot be read", _MAY_READ):
        try:
            text = (folder / MANIFEST_FILE).read_bytes()
        except FileNotFoundError as error:
            cause = f"Model '{folder.name}' has no {MANIFEST_FILE}, so nothing says whether it is whole."
            raise ModelError(cause, REPAIR) from error
    name, checksums = parse_manifest(text, folder.name)
    if name != folder.name:
        cause = f"Model '{name}' lies in a folder of another name ('{folder.name}')."
        raise ModelError(cause, f"Call the folder '{name}' again.")
    return checksums


def check_files(folder: Path) -> dict[str, str]:
    """Refuse a version's folder unless every file is the one that was published; gives their checksums.

    Whether the weights fit the description is up to ``engine.model.load_networks``.

    Raises:
        ModelError: the first thing that is missing, changed, added, foreign or of a newer schema.
    """
    name = folder.name
    if folder.is_symlink():
        raise ModelError(f"Model '{name}' is a link to another folder.", "Copy the folder itself.")
    checksums = read_manifest(folder)
    _check_against(folder, checksums)
    description = describe_model(folder)
    if description.version != name:
        cause = f"Model '{name}' calls itself '{description.version}' in its {DESCRIPTION_FILE}."
        raise ModelError(cause, REPAIR)
    if description.sha256 != checksums[WEIGHTS_FILE]:
        raise ModelError(f"The weights of model '{name}' are not those of its {DESCRIPTION_FILE}.", REPAIR)
    return checksums


def _check_against(folder: Path, checksums: dict[str, str]) -> None:
    name = folder.name
    with os_errors_as(ModelError, f"Model '{name}' cannot be read", _MAY_READ):
        for file, sha256 in checksums.items():
            path = folder / file
            if path.is_symlink():
                raise ModelError(f"'{file}' of model '{name}' is a link, not a file.", REPAIR)
            if not path.is_file():
                if path.suffix in _PICTURES:
                    continue
                raise ModelError(f"'{file}' of model '{name}' is missing.", REPAIR)
            if file_sha256(path) != sha256:
                raise ModelError(f"'{file}' of model '{name}' is damaged or was changed.", REPAIR)
        for file in sorted(os.listdir(folder)):
            hidden = file.startswith(".") or file.lower() in LEFT_BY_FILE_BROWSERS
            if not hidden and file not in (*checksums, MANIFEST_FILE):
                raise ModelError(f"Model '{name}' holds '{file}', which does not belong to it.", "Take the file out.")


def sound_version(folder: Path) -> ModelVersion:
    """A version of the registry that is whole. Raises ModelError."""
    checksums = check_files(folder)
    tables = (read_json(folder / name) if name in checksums else {} for name in (COMPARISON_FILE, LEDGER_FILE))
    comparison, ledger = (table if isinstance(table, dict) else {} for table in tables)  # it works without them
    comparison = comparison if _can_be_shown(comparison) else {}
    return ModelVersion(folder.name, folder, description=describe_model(folder), comparison=comparison, ledger=ledger)


def read_version(folder: Path) -> ModelVersion:
    """A version of the registry; what is wrong with it is in ``problem``, nothing is raised."""
    try:
        return sound_version(folder)
    except ModelError as error:
        description = None
        with suppress(ModelError):
            description = describe_model(folder)
        return ModelVersion(folder.name, folder, False, description, str(error))


def builtin_version() -> ModelVersion:
    """The version that ships with the extension; the engine checks its weights when it loads them."""
    folder = builtin_model_folder()
    try:
        return ModelVersion(folder.name, folder, True, describe_model(folder))
    except ModelError as error:
        return ModelVersion(folder.name, folder, True, problem=str(error))


def _can_be_shown(comparison: dict) -> bool:
    """Whether sentences and mean Dice are of the types that a list counts on; the file may come from anywhere."""
    sentences, summary = comparison.get("sentences", []), comparison.get("hold_out_summary") or {}
    if not isinstance(sentences, list) or not isinstance(summary, dict):
        return False
    means = [summary.get(which) or {} for which in ("old", "new")]
    return all(isinstance(sentence, str) for sentence in sentences) and all(
        isinstance(mean, dict) and isinstance(mean.get("dice", 0.0), (int, float, type(None))) for mean in means
    )


def flush_folder(folder: Path) -> None:
    """Renames reach the disk with the folder; Windows has no such call. Raises OSError."""
    if os.name != "nt":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def by_date(version: ModelVersion) -> tuple:
    """By day, then by name with its numbers as numbers."""
    parts = re.split(r"(\d+)", version.name)
    date = version.description.date if version.description else ""
    return date, [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def read_contents(files: Mapping[str, bytes | Path]) -> dict[str, bytes]:
    """Everything is read before anything is written."""
    contents = {}
    for name, file in files.items():
        with os_errors_as(ModelError, f"'{name}' of the model cannot be read", "Make the model again."):
            contents[name] = file if isinstance(file, bytes) else file.read_bytes()
    return contents


def same_version(there: Path, staged: Path) -> ModelVersion:
    """The version that is there, when it holds the same model. Raises ModelError."""
    with suppress(ModelError):
        ours, theirs = check_files(there), check_files(staged)
        if there.name == staged.name and all(ours[file] == theirs[file] for file in (DESCRIPTION_FILE, WEIGHTS_FILE)):
            return read_version(there)
    cause = f"Another model version is called '{there.name}' already."
    raise ModelError(cause, "Give it another name, or delete the other one first.")
