"""The results of a batch as a list to review: what is doubtful first, what was decided, and the scan of each result."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..engine.errors import InputError
from ..engine.files import file_sha256, os_errors_as
from .batch_record import RUN_FILE, BatchRecord
from .inputs import InputCase, collect_inputs
from .report import in_review_order, word_of, write_report
from .review_states import CORRECTED, decide, read_decisions, state_of

_HASH = re.compile(r"-[0-9a-f]{8}$")  # of the place, in the names of scans that lay further down


@dataclass(frozen=True)
class Reviewed:
    """One scan of the list: ``key`` names it there, ``title`` for people; ``word`` as of ``quality.verdict``."""

    key: str
    title: str
    state: str
    word: str


class _Scans(NamedTuple):
    folder: str
    cases: list[InputCase]


class BatchReview:
    """The output folder of a batch.

    Raises:
        InputError: the folder holds no results. StorageError: those of a newer version.
    """

    def __init__(self, folder: Path):
        if not (folder / RUN_FILE).is_file():
            raise InputError(
                f"'{folder.name}' is no folder of results (it has no {RUN_FILE}).", "Name that of a batch."
            )
        self.folder, self._scans = folder, _Scans("", [])
        self._record = BatchRecord.read(folder)
        self._entries = dict(in_review_order(self._record))

    def rows(self) -> list[Reviewed]:
        """Every scan that is done, the most doubtful first, in its state of now. Raises StorageError."""
        decisions = read_decisions(self.folder)
        return [
            Reviewed(name, name, state_of(name, entry["mask"]["sha256"], decisions), word_of(entry))
            for name, entry in self._entries.items()
        ]

    def entry(self, name: str) -> dict:
        """What the batch recorded of a scan."""
        return self._entries[name]

    def decide(self, names: Sequence[str], state: str) -> None:
        """Note a state for scans.

        Raises:
            InputError: there is no such scan or state. StorageError, FolderInUseError: nothing was noted.
        """
        unknown = [name for name in names if name not in self._entries]
        if unknown or not names:
            cause = f"There is no scan '{unknown[0]}' here." if unknown else "No scan is named."
            raise InputError(cause, f"'review {self.folder.name}' lists them.")
        decide(self.folder, state, {name: self._entries[name]["mask"]["sha256"] for name in names})

    def write_report(self) -> None:
        """Bring report.html in line with what was decided. Raises StorageError."""
        write_report(self._record, self.folder)

    def mask_path(self, name: str) -> Path:
        """The mask that the batch wrote."""
        return self.folder / self._entries[name]["mask"]["file"]

    def corrected_path(self, name: str) -> Path:
        """Where the contour lies that somebody corrected and accepted."""
        return self.folder / f"{name}.corrected.seg.nrrd"

    def has_correction(self, name: str) -> bool:
        """Whether that is the contour that holds."""
        entry, decisions = self._entries[name], read_decisions(self.folder)
        state = state_of(name, entry["mask"]["sha256"], decisions)
        return state == CORRECTED and self.corrected_path(name).is_file()

    def is_network_mask(self, name: str) -> bool:
        """Whether the mask is still what the batch wrote. Raises InputError: it cannot be read."""
        path = self.mask_path(name)
        with os_errors_as(InputError, f"Mask '{path.name}' cannot be read", "Run the batch again, or restore it."):
            return file_sha256(path) == self._entries[name]["mask"]["sha256"]

    def look_for_scans(self, folder: Path) -> None:
        """Say where the scans are that the batch was given.

        Raises:
            InputError: the first of the list is not there; where the others were looked for stays as it was.
        """
        before, self._scans = self._scans, _Scans(folder.name, collect_inputs([folder], any_series=True)[0])
        try:
            for name in list(self._entries)[:1]:
                self.scan_of(name)
        except InputError:
            self._scans = before
            raise

    def scan_of(self, name: str) -> InputCase:
        """The scan that a result was made of, known by its content: a name alone could mean another patient's.

        Raises:
            InputError: it is not where the scans are said to be.
        """
        wanted, plain = self._entries[name]["identity"]["input"], _HASH.sub("", name)
        alike = [case for case in self._scans.cases if _HASH.sub("", case.name) == plain]
        for case in sorted(alike, key=lambda case: case.name != name):
            if case.fingerprint() == wanted:
                return case
        found = "another scan of this name lies there" if alike else "no scan of this name lies there"
        raise InputError(
            f"The scan of '{name}' was not found in the folder '{self._scans.folder}' ({found}).",
            "Choose the folder that the batch was given.",
        )
