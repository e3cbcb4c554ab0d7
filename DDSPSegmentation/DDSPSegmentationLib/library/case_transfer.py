"""Cases in from a folder of scans and masks, and out as a data set for nnU-Net."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..engine.errors import DatasetError, StorageError
from ..engine.files import (
    DANGLING,
    LINKED_FOLDER,
    NO_FILE,
    copy_file,
    files_below,
    make_folder,
    os_errors_as,
    why_unreachable,
    write_text,
)
from ..engine.images import image_stem, stem_of_scan
from ..engine.plain_names import printable
from ..learning.case_index import INDEX, about_unknown_patients
from ..learning.dataset import PROMISE12_MASK, Case, find_cases, indexed, is_image_file
from .case_files import describe
from .case_records import StoredCase
from .patients import Patients

_STRUCTURED = ("imagesTr", "images")


def find_pairs(folder: Path) -> tuple[list[Case], dict[str, str], list[str]]:
    """The scans of a folder with their masks, by name why others are no pair, and sentences on what was not looked at.

    They lie in one of the layouts of ``find_cases``, or as loose pairs at any depth.

    A loose pair is ``X.nrrd`` (or another image type) beside ``X_segmentation``, ``X_mask``, ``X_label``, ``X_seg``,
    ``X-label`` or ``X.seg.nrrd``, each of any image type. Whose scan is whose is told by an index.csv at the top, see
    ``read_index``, where a case in a subfolder is named ``folder/X``.

    Raises:
        DatasetError: there is nothing to import, or index.csv cannot be used.
    """
    if not folder.is_dir():
        cause = f"'{folder.name}' is a file." if folder.is_file() else f"Folder '{folder.name}' does not exist."
        raise DatasetError(cause, "Name the folder that holds scans and masks.")
    files, unreachable, linked = files_below(folder)
    notes = [f"{printable(path.name)}: It {LINKED_FOLDER}." for path in linked]
    notes += [f"A folder {why_unreachable(error)}." for error in unreachable]
    known = any((folder / part).is_dir() for part in _STRUCTURED)
    if known or any(path.name.endswith(PROMISE12_MASK) for path in files):
        cases, no_pair = find_cases(folder)
        return cases, no_pair, [] if known else notes
    scans, masks = _loose_files(files)
    names = {key: "/".join((*key[0].relative_to(folder).parts, key[1])) for key in scans}
    cases = [Case(name, scans[key], masks[key][0]) for key, name in names.items() if len(masks.get(key, ())) == 1]
    if not cases and not any(key in masks for key in names):
        raise DatasetError(
            f"Folder '{folder.name}' has no scans with masks.",
            "Expected scans X.nrrd beside masks X_mask.nrrd or X.seg.nrrd, PROMISE12's files, images/ with labels/, "
            "or imagesTr/ with labelsTr/.",
        )
    no_pair = {
        name: _why_no_pair(scans[key], masks.get(key, []))
        for key, name in names.items()
        if len(masks.get(key, ())) != 1
    }
    alone = {path.name: "It has no scan beside it." for key in masks if key not in scans for path in masks[key]}
    return indexed(cases, folder), no_pair | alone, notes


def _why_no_pair(scan: Path, masks: list[Path]) -> str:
    if not scan.is_file():
        return f"It {NO_FILE if scan.exists() else DANGLING}."
    if not masks:
        return "It has no mask beside it."
    names = ", ".join(sorted(path.name for path in masks))
    return f"It has several masks beside it ({names}). Leave the right one there."


def _loose_files(files: list[Path]) -> tuple[dict[tuple[Path, str], Path], dict[tuple[Path, str], list[Path]]]:
    """Scans and masks by their folder and the scan's name."""
    scans: dict[tuple[Path, str], Path] = {}
    masks: dict[tuple[Path, str], list[Path]] = {}
    for path in filter(is_image_file, sorted(files)):
        stem = image_stem(path)
        pointed_to = stem_of_scan(stem)
        if pointed_to is None:
            scans.setdefault((path.parent, stem), path)
        else:
            masks.setdefault((path.parent, pointed_to), []).append(path)
    return scans, masks


def export_cases(
    cases: Sequence[StoredCase],
    memory: Patients,
    folder: Path,
    progress: Callable[[int, int, str], None],
) -> int:
    """Copy scans and newest masks as an nnU-Net data set, and an index.csv that says which are of one patient.

    Nothing else of the library goes along: the names of patients there are hashes of their pseudonyms, the same in
    every export of a library and no other's.

    Args:
        memory: knows the folds of the training patients.
        folder: new or empty.
        progress: called before each case with its index, their number and its id.

    Raises:
        StorageError: it cannot be written, or holds files already.
    """
    with os_errors_as(StorageError, f"Folder '{folder.name}' cannot be made", "Choose a folder you may write to."):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StorageError(f"Folder '{folder.name}' is not empty.", "Choose a new or an empty folder.")
    for part in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
        make_folder(folder / part)
    exported = []
    for number, case in enumerate(cases):
        progress(number, len(cases), case.id)
        try:
            for source, target in ((case.mask_path, case.label_path), (case.image_path, case.image_path)):
                copy_file(source, folder / target.relative_to(case.folder))
        except StorageError:
            if case.image_path.exists() and case.mask_path.exists():
                raise
            continue  # deleted by another process meanwhile
        exported.append(case)
    describe(folder, exported, memory)
    rows = [f"{case.id},P{hashlib.sha256(case.patient.encode()).hexdigest()[:10]}" for case in exported]
    write_text("\n".join(["case,patient", *rows, ""]), folder / INDEX)
    return len(exported)


@dataclass(frozen=True)
class ImportReport:
    """What became of the cases of a folder.

    Attributes:
        stored: one ``Stored`` for each case or revision that is new in the library.
        failed: reason by name of the case in its folder.
        warnings: sentences that start with the case's name.
        without_patient: names of the new cases that nobody says whose they are.
    """

    stored: tuple
    failed: dict[str, str]
    warnings: tuple[str, ...]
    without_patient: tuple[str, ...] = ()

    @property
    def about_patients(self) -> str:
        """What it means that nobody says whose the new cases are; "" where it is said of all."""
        return about_unknown_patients(len(self.without_patient), sum(stored.is_new for stored in self.stored))
