"""The folder of a case library: which file is the truth, what is derived from it, and how a kill is mended."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..engine.errors import DatasetError, StorageError
from ..engine.files import (
    copy_file,
    delete_file,
    delete_leftovers,
    file_sha256,
    make_folder,
    os_errors_as,
    read_json,
    retry_while_open,
    write_json,
)
from .case_records import CASE_FILE, FOLDER_ENDS, TRAINING, StoredCase, read_case
from .folder_lock import FolderInUseError, FolderLock
from .patients import Patients, read_memory

LOCK_NAME = "library.lock"
WAIT_SECONDS = 5.0
UNFINISHED = "unfinished.json"
_ID = re.compile(r"[0-9a-f]{4}-\d{4,}")
_MASK = re.compile(r"(?:mask|prediction)-([1-9]\d*)\.mha")


class CaseFiles:
    """Moves and derives files; ``case.json`` in ``cases/<id>`` is what makes a case or a revision valid.

    A writer names the case in ``unfinished.json`` before it touches any of its files. Whoever finds that file
    settles the case: what is committed is completed, what is not is removed.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._held: FolderLock | None = None

    @property
    def unfinished(self) -> Path:
        return self.folder / UNFINISHED

    def record(self, case_id: str) -> Path:
        return self.folder / "cases" / case_id

    def trashed_record(self, case_id: str) -> Path:
        return self.folder / "trash" / case_id

    def make_folder(self) -> None:
        """Make the folder of a new library; refuse one that holds a data set of another program.

        Raises:
            StorageError: it cannot be made. DatasetError: it is somebody else's.
        """
        known = self.folder / "patients.json"
        if not known.exists():
            if any(self.folder.glob(f"cases/*/{CASE_FILE}")):
                raise DatasetError(
                    f"patients.json of case library '{self.folder.name}' is missing: nobody knows which patients are "
                    "held out.",
                    "Restore it from a backup, or import the cases into a new folder.",
                )
            if (self.folder / "dataset.json").exists() or any(self.folder.glob("imagesTr/*")):
                raise DatasetError(
                    f"Folder '{self.folder.name}' holds a data set of another program.",
                    "Choose an empty folder and import that data set into it.",
                )
        make_folder(self.folder)

    @contextmanager
    def lock(self, waiting: bool = True) -> Iterator[None]:
        with FolderLock(self.folder, LOCK_NAME, WAIT_SECONDS if waiting else 0.0, "case library") as self._held:
            yield

    def confirm_lock(self) -> None:
        """Before anything counts: raises FolderInUseError where the lock that was taken keeps nobody out any more."""
        if self._held is not None:
            self._held.confirm()

    # ---- reading

    def ids(self) -> list[str]:
        """Of every case by number, damaged ones and one that is being written too."""
        return self._ids("cases")

    def trashed(self) -> list[str]:
        return self._ids("trash")

    def _ids(self, folder: str) -> list[str]:
        cause = f"Case library '{self.folder.name}' cannot be read"
        with os_errors_as(StorageError, cause, "Check the connection to its drive and that you may read it."):
            try:
                names = filter(_ID.fullmatch, os.listdir(self.folder / folder))
            except FileNotFoundError:
                return []
        return sorted(names, key=lambda name: int(name[5:]))

    def read(self, case_id: str) -> StoredCase | None:
        """A committed case whose files are there; None when there is none (any more).

        Raises:
            DatasetError: damaged. StorageError: it cannot be read.
        """
        for attempt in range(3):
            case = self._read_record(case_id)
            if case is None:
                return None
            wanted = (case.image_path, case.mask_path, case.prediction_path)
            missing = [path.name for path in wanted if path is not None and not path.exists()]
            if not missing:
                return case
            time.sleep(0.02 * attempt)  # a writer may have changed the case since its text was read
        raise DatasetError(f"Case {case_id} lacks '{missing[0]}'.", "Restore the file from a backup or delete it.")

    def is_torn(self, case_id: str) -> bool:
        """Whether the folder of a case is there without its case.json although nobody is writing it."""
        record = self.record(case_id)
        return not self.unfinished.exists() and record.exists() and not (record / CASE_FILE).exists()

    def _read_record(self, case_id: str) -> StoredCase | None:
        """What case.json says; None when there is none. Raises as ``read``."""
        step = "Check that you may read the library's files."
        with os_errors_as(StorageError, f"Case {case_id} cannot be read", step):
            try:
                text = retry_while_open((self.record(case_id) / CASE_FILE).read_bytes)
            except (FileNotFoundError, NotADirectoryError):
                return None
        return read_case(text, case_id, self.folder)

    # ---- writing, under the lock

    @contextmanager
    def changing(self, *case_ids: str) -> Iterator[None]:
        """Name the cases, let the block work on their files, then settle them, also when it fails."""
        self.confirm_lock()
        write_json({"cases": case_ids}, self.unfinished)
        try:
            yield
        finally:
            with suppress(StorageError, DatasetError, FolderInUseError):  # settled by the next reader or writer instead
                self.mend()

    def mend(self) -> None:
        """Settle what a writer left unfinished; nothing to do is the rule."""
        self.confirm_lock()
        for leftover in self.folder.glob(".emptied-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        with suppress(OSError):
            delete_leftovers(self.folder)
        if not self.unfinished.exists():
            return
        begun = read_json(self.unfinished)
        if not isinstance(begun, dict) or "cases" not in begun:
            raise StorageError(f"'{UNFINISHED}' of the case library cannot be read.", "Check the drive.")
        cause = f"Case library '{self.folder.name}' cannot be brought up to date"
        with os_errors_as(StorageError, cause, "Check that you may write to it."):
            for pattern in ("images*", "labels*", "cases/*", "trash/*"):
                for folder in self.folder.glob(pattern):
                    delete_leftovers(folder)
            for case_id in filter(_ID.fullmatch, begun["cases"]):
                with suppress(DatasetError):  # a damaged case is left as it is, and named to whoever lists the cases
                    self._settle(case_id)
            self._describe()
            delete_file(self.unfinished)

    def commit(self, case: StoredCase) -> None:
        self.confirm_lock()
        write_json(case.to_dict(), case.record_folder / CASE_FILE)

    def derive_label(self, case: StoredCase) -> None:
        """Bring the copy that other tools read up to the newest revision."""
        path, truth = case.label_path, case.mask_path
        with suppress(OSError):
            if path.stat().st_size == truth.stat().st_size and file_sha256(path) == case.current.mask_sha256:
                return
        make_folder(path.parent)
        copy_file(truth, path)

    def take_out(self, case_id: str) -> None:
        """Into the trash, by one rename."""
        make_folder(self.folder / "trash")
        self._move(self.record(case_id), self.trashed_record(case_id))

    def read_trashed(self, case_id: str) -> StoredCase:
        """Raises DatasetError when it is not there or damaged."""
        try:
            text = (self.trashed_record(case_id) / CASE_FILE).read_bytes()
        except OSError as error:
            raise DatasetError(f"Case {case_id} is not in the trash.", "The trash may have been emptied.") from error
        return read_case(text, case_id, self.folder)

    def put_back(self, case: StoredCase) -> None:
        """Out of the trash, by one rename when image and label are in their places."""
        record = self.trashed_record(case.id)
        make_folder(case.image_path.parent)
        make_folder(case.label_path.parent)
        copy_file(record / case.mask_path.name, case.label_path)
        self._move(record / "image.mha", case.image_path)
        make_folder(self.folder / "cases")
        self._move(record, case.record_folder)

    def empty_trash(self) -> None:
        trash = self.folder / "trash"
        if not trash.exists():
            return
        aside = self.folder / f".emptied-{secrets.token_hex(6)}"
        self._move(trash, aside)
        shutil.rmtree(aside, ignore_errors=True)

    def _settle(self, case_id: str) -> None:
        case, record = self._read_record(case_id), self.record(case_id)
        if case is not None:
            self._sweep_revisions(case)
            self.derive_label(case)
            return
        trashed = self.trashed_record(case_id)
        for end in FOLDER_ENDS.values():
            image = self.folder / f"images{end}" / f"{case_id}_0000.mha"
            if image.exists():
                if trashed.exists():
                    self._move(image, trashed / "image.mha")
                else:
                    delete_file(image)
            delete_file(self.folder / f"labels{end}" / f"{case_id}.mha")
        if record.exists():
            shutil.rmtree(record)

    def _sweep_revisions(self, case: StoredCase) -> None:
        """Masks of no revision: one that was taken back goes into the trash, one that never came to be is deleted."""
        kept = {revision.number for revision in case.revisions}
        for path in list(case.record_folder.iterdir()):
            named = _MASK.fullmatch(path.name)
            if named is None:
                continue  # not ours, such as the copy that a synchronized folder keeps of a file changed twice
            number = int(named[1])
            if number >= case.next_revision:
                delete_file(path)
            elif number not in kept:
                trash = self.folder / "trash" / f"{case.id}-revision-{number}"
                make_folder(trash)
                self._move(path, trash / path.name)

    def _move(self, source: Path, target: Path) -> None:
        self.confirm_lock()
        step = "Close the program that has it open and check that you may write to the library."
        with os_errors_as(StorageError, f"'{source.name}' of the case library cannot be moved", step):
            retry_while_open(lambda: os.rename(source, target))

    def _describe(self) -> None:
        """dataset.json and the folds by patient, as nnU-Net reads them."""
        cases = []
        for case_id in self.ids():
            with suppress(DatasetError):
                case = self._read_record(case_id)
                cases += [case] if case is not None else []
        describe(self.folder, cases, read_memory(self.folder / "patients.json"))


def describe(folder: Path, cases: Sequence[StoredCase], memory: Patients) -> None:
    """Write dataset.json, and splits_final.json with the folds of the training cases.

    The bundled scan is in neither: nnU-Net trains on what "dataset" lists, whatever else lies in imagesTr.

    A fold keeps its number, for ever: those who trained on it know it by that. Where the last case of a fold was
    deleted it leaves out nobody, and nnU-Net can train on the others only.

    Raises:
        StorageError: they cannot be written.
    """
    cases = [case for case in cases if not case.is_bundled]
    training = [case for case in cases if case.split == TRAINING]
    about = {
        "name": "Prostate",
        "channel_names": {"0": "T2"},
        "labels": {"background": 0, "prostate": 1},
        "numTraining": len(training),
        "numTest": len(cases) - len(training),
        "file_ending": ".mha",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "dataset": {
            case.id: {"images": [f"imagesTr/{case.id}_0000.mha"], "label": f"labelsTr/{case.id}.mha"}
            for case in training
        },
    }
    fold = {case.id: memory.fold_of(case.patient) for case in training}
    folds = [
        {
            "train": [case.id for case in training if fold[case.id] != left_out],
            "val": [case.id for case in training if fold[case.id] == left_out],
        }
        for left_out in range(1 + max([*memory.folds.values(), *fold.values()], default=-1))
    ]
    write_json(folds, folder / "splits_final.json")
    write_json(about, folder / "dataset.json")
