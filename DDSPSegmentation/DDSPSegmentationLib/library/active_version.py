"""Which version is active, and which ones were before: one small file that is replaced by one rename."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..engine.errors import ModelError
from ..engine.files import os_errors_as, write_json
from ..engine.model import BUILTIN_MODEL
from .model_version import flush_folder, is_former_builtin, is_plain_name

ACTIVE_FILE = "active.json"
ROLL_BACK = "Roll back or activate another version."

_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ActiveVersion:
    """Names of the active version and of those before it, oldest first.

    A built-in version that shipped before is called by the name of today's; ``former`` is what the active one was.
    """

    name: str
    previous: tuple[str, ...] = ()
    former: str = ""


def read_active(folder: Path) -> ActiveVersion:
    """What the models folder says; the built-in version when nothing was ever activated there.

    Raises:
        ModelError: the file cannot be read or understood.
    """
    cause = f"{ACTIVE_FILE} in the models folder cannot be read"
    with os_errors_as(ModelError, cause, "Check its drive and that you may read it."):
        try:
            text = (folder / ACTIVE_FILE).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return ActiveVersion(BUILTIN_MODEL)
    try:
        values = json.loads(text)
        schema, active, previous = values["schema_version"], values["active"], values["previous"]
        if schema == _SCHEMA_VERSION and is_plain_name(active) and all(map(is_plain_name, previous)):
            former = active if is_former_builtin(active) else ""
            return ActiveVersion(_of_today(active), tuple(map(_of_today, previous)), former)
        reason = "it is of another schema version or holds no names"
    except (ValueError, KeyError, TypeError, RecursionError):
        reason = "it is damaged"
    raise ModelError(f"Which version is active cannot be told: {ACTIVE_FILE} is of no use ({reason}).", ROLL_BACK)


def _of_today(name: str) -> str:
    return BUILTIN_MODEL if is_former_builtin(name) else name


def read_active_to_leave(folder: Path) -> ActiveVersion:
    """``read_active`` for those who replace it: a file that is of no use names nothing."""
    try:
        return read_active(folder)
    except ModelError:
        return ActiveVersion("")


def write_active(folder: Path, name: str, previous: Sequence[str]) -> None:
    """Raises StorageError."""
    values = {"schema_version": _SCHEMA_VERSION, "active": name, "previous": list(previous)}
    write_json(values, folder / ACTIVE_FILE)
    flush_folder(folder)
