"""review.json: what a person decided about each scan of a batch. The report reads it, the command line writes it, too.

A batch run never writes it. A decision holds for the mask that it was made about: where a later run found another
one, the scan is to be reviewed again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..engine.errors import InputError, StorageError
from ..engine.files import read_json, write_json
from ..library.folder_lock import FolderLock

REVIEW_FILE, LOCK_FILE = "review.json", "review.lock"
TO_REVIEW, CORRECTED, ACCEPTED, REJECTED = STATES = ("to review", "corrected", "accepted", "rejected")

_SCHEMA_VERSION = 1
_WAIT_SECONDS = 5.0


@dataclass(frozen=True)
class Decision:
    """About one scan: the state, the SHA-256 of the mask that it is about, and when."""

    state: str
    mask_sha256: str
    date: str = ""


def read_decisions(folder: Path) -> dict[str, Decision]:
    """The decisions by the names of the scans; none where nobody made any.

    Raises:
        StorageError: the file is damaged or of a newer version; it is left as it is.
    """
    if not (folder / REVIEW_FILE).exists():
        return {}
    try:
        content = read_json(folder / REVIEW_FILE)
        if content["schema_version"] != _SCHEMA_VERSION:
            raise ValueError("schema")
        decisions = {str(name): Decision(**values) for name, values in content["cases"].items()}
        if any(decision.state not in STATES for decision in decisions.values()):
            raise ValueError("state")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        cause = f"{REVIEW_FILE} in '{folder.name}' is damaged or of a newer version."
        raise StorageError(cause, "Restore it, or move it away to begin the review anew.") from error
    return decisions


def decide(folder: Path, state: str, masks: Mapping[str, str]) -> None:
    """Note a state for scans.

    Args:
        masks: the SHA-256 of each scan's mask by its name.

    Raises:
        InputError: there is no such state. StorageError, FolderInUseError: nothing was noted.
    """
    if state not in STATES:
        raise InputError(f"'{state}' is no state of a review.", f"Use one of: {', '.join(STATES)}.")
    with FolderLock(folder, LOCK_FILE, _WAIT_SECONDS, "review"):
        decisions = read_decisions(folder)
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        decisions |= {name: Decision(state, sha256, now) for name, sha256 in masks.items()}
        cases = {name: asdict(decision) for name, decision in sorted(decisions.items())}
        write_json({"schema_version": _SCHEMA_VERSION, "cases": cases}, folder / REVIEW_FILE)


def state_of(name: str, mask_sha256: str, decisions: Mapping[str, Decision]) -> str:
    """The state of a scan with this mask."""
    decision = decisions.get(name)
    return decision.state if decision is not None and decision.mask_sha256 == mask_sha256 else TO_REVIEW


def counts(states: Sequence[str]) -> str:
    """How many scans are in each state, in words; the states of none are left out."""
    return ", ".join(f"{states.count(state)} {state}" for state in STATES if state in states)
