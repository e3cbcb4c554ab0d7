"""The results of a batch as a list to review: what is doubtful first, what was decided, and the scan of each result."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import SimpleITK as sitk

from ..engine.errors import InputError, StorageError
from ..engine.files import file_sha256, os_errors_as
from .batch_record import RUN_FILE, BatchRecord
from .mask_files import MASK_SUFFIXES, place_aside, write_mask
from .part_record import PARTS
from .report import in_review_order, word_of, write_report
from .review_states import CORRECTED, REVIEW_FILE, decide, read_decisions, state_of

if TYPE_CHECKING:
    from .inputs import InputCase

SCANS_TRIED = 20  # of a list, until one is found where the scans are said to be
_IN_USE = "Close what has it open and try again."
_CORRECTED_SUFFIX = MASK_SUFFIXES["seg.nrrd"]
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
        self.folder, self._scans = Path(os.path.abspath(folder)), _Scans("", [])
        if not (self.folder / RUN_FILE).is_file():
            merge = f"Merge its parts first: 'ddsp-segmentation report {self.folder.name}'."
            advice = merge if (self.folder / PARTS).is_dir() else "Name that of a batch."
            raise InputError(f"'{self.folder.name}' is no folder of results (it has no {RUN_FILE}).", advice)
        self._stamps: tuple = ()
        self._rows: list[Reviewed] = []
        self._read_run()

    def _read_run(self) -> None:
        """The batch may be at work, or have been run again since."""
        self._run_stamp = _stamp(self.folder / RUN_FILE)
        self._record = BatchRecord.read(self.folder)
        self._entries = dict(in_review_order(self._record))

    def _follow_run(self) -> None:
        now = _stamp(self.folder / RUN_FILE)
        if now is None:
            raise StorageError(f"The results in '{self.folder.name}' are gone.", "Choose the folder again.")
        if now != self._run_stamp:
            self._read_run()

    def rows(self) -> list[Reviewed]:
        """Every scan that is done, the most doubtful first, in its state of now.

        Raises:
            StorageError: review.json is damaged, or the results are gone.
        """
        self._follow_run()
        stamps = self._run_stamp, _stamp(self.folder / REVIEW_FILE)
        if stamps != self._stamps:
            decisions = read_decisions(self.folder)
            self._rows = [
                Reviewed(name, name, state_of(name, entry["mask"]["sha256"], decisions), word_of(entry))
                for name, entry in self._entries.items()
            ]
            self._stamps = stamps
        return list(self._rows)

    def entry(self, name: str) -> dict:
        """What the batch recorded of a scan. Raises InputError: nothing, by now."""
        if name not in self._entries:
            raise InputError(f"'{name}' is not among the results of '{self.folder.name}' now.", "Choose another scan.")
        return self._entries[name]

    def knows(self, name: str, fingerprint: str) -> bool:
        """Whether a scan of this name and content is among the results."""
        return name in self._entries and self._entries[name]["identity"]["input"] == fingerprint

    def state(self, name: str) -> str:
        """The state of a scan now. Raises InputError, StorageError."""
        return state_of(name, self.entry(name)["mask"]["sha256"], read_decisions(self.folder))

    def decide(self, names: Sequence[str], state: str) -> None:
        """Note a state for scans.

        Raises:
            InputError: there is no such scan or state. StorageError, FolderInUseError: nothing was noted.
        """
        self._follow_run()
        unknown = [name for name in names if name not in self._entries]
        if unknown or not names:
            cause = f"There is no scan '{unknown[0]}' here." if unknown else "No scan is named."
            raise InputError(cause, f"'review {self.folder.name}' lists them.")
        decide(self.folder, state, {name: self._entries[name]["mask"]["sha256"] for name in names})
        self._stamps = ()  # of two changes in one tick of the disk's clock the second shows, too

    def write_report(self) -> None:
        """Bring report.html in line with what was decided. Raises StorageError."""
        self._follow_run()
        write_report(self._record, self.folder)

    def mask_path(self, name: str) -> Path:
        """The mask that the batch wrote."""
        return self.folder / self.entry(name)["mask"]["file"]

    def corrected_path(self, name: str) -> Path:
        """Where the contour lies that somebody corrected and accepted; never where the mask of another scan does."""
        masks, ending = {entry["mask"]["file"].casefold() for entry in self._entries.values()}, ".corrected"
        while f"{name}{ending}{_CORRECTED_SUFFIX}".casefold() in masks:
            ending += ".corrected"
        return self.folder / f"{name}{ending}{_CORRECTED_SUFFIX}"

    def has_correction(self, name: str) -> bool:
        """Whether that is the contour that holds."""
        return self.state(name) == CORRECTED and self.corrected_path(name).is_file()

    def set_correction(self, name: str, mask: sitk.Image | None) -> Path | None:
        """Put a corrected contour beside the mask, or none; what somebody had drawn earlier is set aside.

        Returns:
            Where an earlier one lies now.

        Raises:
            StorageError: it cannot be written, or the earlier one cannot be set aside.
        """
        path, kept = self.corrected_path(name), None
        if path.exists():
            kept = place_aside(self.folder, name, _CORRECTED_SUFFIX)
            with os_errors_as(StorageError, f"'{path.name}' cannot be set aside", _IN_USE):
                path.rename(kept)
        try:
            if mask is not None:
                write_mask(mask, path, corrected=True)
        except StorageError:
            self.take_back_correction(name, kept)
            raise
        return kept

    def take_back_correction(self, name: str, kept: Path | None) -> None:
        """Undo ``set_correction``, which returned ``kept``. Raises StorageError."""
        path = self.corrected_path(name)
        with os_errors_as(StorageError, f"'{path.name}' cannot be replaced", _IN_USE):
            path.unlink(missing_ok=True)
            if kept is not None:
                kept.rename(path)

    def is_network_mask(self, name: str) -> bool:
        """Whether the mask is still what the batch wrote. Raises InputError: it cannot be read."""
        path = self.mask_path(name)
        with os_errors_as(InputError, f"Mask '{path.name}' cannot be read", "Run the batch again, or restore it."):
            return file_sha256(path) == self.entry(name)["mask"]["sha256"]

    def look_for_scans(self, folder: Path) -> None:
        """Say where the scans are that the batch was given.

        Raises:
            InputError: none of the first of the list is there; where they were looked for stays as it was.
        """
        from .inputs import collect_inputs  # it takes pydicom, which the panel loads only when it is asked for

        before, self._scans = self._scans, _Scans(folder.name, collect_inputs([folder], any_series=True)[0])
        missing = []
        for name in islice(self._entries, SCANS_TRIED):
            try:
                self.scan_of(name)
                return
            except InputError as error:
                missing.append(error)
        if missing:
            self._scans = before
            raise missing[0]

    def scan_of(self, name: str) -> InputCase:
        """The scan that a result was made of, known by its content: a name alone could mean another patient's.

        Raises:
            InputError: it is not where the scans are said to be.
        """
        self._follow_run()
        wanted, plain = self.entry(name)["identity"]["input"], _HASH.sub("", name)
        alike = [case for case in self._scans.cases if _HASH.sub("", case.name) == plain]
        for case in sorted(alike, key=lambda case: case.name != name):
            if case.fingerprint() == wanted:
                return case
        found = "another scan of this name lies there" if alike else "no scan of this name lies there"
        raise InputError(
            f"The scan of '{name}' was not found in the folder '{self._scans.folder}' ({found}).",
            "Choose the folder that the batch was given.",
        )


def _stamp(path: Path) -> tuple | None:
    """Tells one state of a file from the next; ``None`` where it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
