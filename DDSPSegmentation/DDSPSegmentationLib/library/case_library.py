"""The library of corrected cases: every accepted mask with its scan, its history and its patient's split, on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from ..engine.bundled_scan import is_bundled
from ..engine.errors import DatasetError, DDSPSegmentationError, InputError, StorageError
from ..engine.files import file_sha256, make_folder
from ..engine.images import read_image, without_metadata, write_image
from ..engine.model import ModelDescription
from ..engine.scan_identity import ScanIdentity
from .case_files import CaseFiles
from .case_intake import NewCase
from .case_records import HOLD_OUT, PURPOSES, TRAINING, StoredCase
from .case_transfer import ImportReport, export_cases, find_pairs
from .folder_lock import FolderInUseError
from .model_registry import ModelRegistry
from .patients import KnownImage, Patients, read_memory, read_patients

BUNDLED = (
    "The scan is known to the product, which comes with it: it is kept, but never counted, trained on or compared, "
    "since every new version is checked on it."
)


@dataclass(frozen=True)
class Stored:
    """What was stored: the case as it is now, what to look at again, and whether the case is new, or changed at all.

    Attributes:
        joined: pseudonyms that became another patient's with it; ``undo`` parts them again.
    """

    case: StoredCase
    warnings: tuple[str, ...]
    is_new: bool
    is_changed: bool = True
    joined: tuple[str, ...] = ()


class CaseLibrary:
    """Cases in a folder that nnU-Net and others can train on as it is.

    Scans and newest masks lie in ``imagesTr`` and ``labelsTr`` (training) and ``imagesTs`` and ``labelsTs``
    (hold-out); every revision stays in ``cases/<id>``. A case, a revision, a deletion is there or it is not, also when
    the process is killed: what was left half done is completed or removed by whoever opens the library next. Writers
    take turns, readers need not wait for them. A patient's split is drawn once and kept for ever, also when the
    patient's cases are deleted and come back.

    A scan that a model version was trained on, here or elsewhere, is never held out, whatever its name.

    Args:
        folder: made by the first write.
        models: the versions that are asked what they were trained on; whoever stores cases names them.

    Every method may raise StorageError (disk full, no permission); those that write FolderInUseError too, when
    another process holds the library for longer than a few seconds.
    """

    def __init__(self, folder: Path | str, models: ModelRegistry | None = None):
        self.folder, self._models = Path(folder), models
        self._files = CaseFiles(self.folder)

    # ---- reading

    def cases(self) -> list[StoredCase]:
        """Every case, by number; a damaged one is left out, see ``problems``."""
        return self._read()[0]

    def cases_that_count(self) -> list[StoredCase]:
        """Every case but those of ``not_compared`` and the scan that comes with the product."""
        aside = {case.id for case in self.not_compared()}
        return [case for case in self.cases() if not case.is_bundled and case.id not in aside]

    def not_compared(self) -> list[StoredCase]:
        """Hold-out cases of patients of whom a model version was trained on another scan."""
        patients = self._memory().not_compared
        cases = self.cases() if patients else []
        return [case for case in cases if case.split == HOLD_OUT and case.patient in patients]

    def new_for(self, model: ModelDescription) -> list[StoredCase]:
        """Training cases that a version was not trained on, nor those that it came from."""
        training = [case for case in self.cases_that_count() if case.split == TRAINING]
        if not training:
            return []
        patients = self._patients()
        known = {patients.content_of(digest) for digest in model.seen.digests}
        return [case for case in training if case.content not in known]

    def ids(self) -> list[str]:
        """Of every case by number, damaged ones too; no case is read."""
        return self._files.ids()

    def problems(self) -> list[str]:
        """One sentence for every damaged case."""
        return self._read()[1]

    def case(self, case_id: str) -> StoredCase:
        """One case.

        Raises:
            DatasetError: it is damaged, or there is none of this id.
        """
        self._mend_if_free()
        case = self._committed(case_id)
        return replace(case, patient=self._memory().root(case.patient))

    def split_counts(self) -> dict[str, int]:
        """Cases that count in "training" and "hold-out", patients in "training patients" and "hold-out patients"."""
        cases = self.cases_that_count()
        counts = {split: sum(case.split == split for case in cases) for split in (TRAINING, HOLD_OUT)}
        patients = {split: len({case.patient for case in cases if case.split == split}) for split in counts}
        return {**counts, **{f"{split} patients": count for split, count in patients.items()}}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody writes to the library during the block, this process included."""
        self._files.make_folder()
        with self._files.lock():
            self._files.mend()
            self._decide_bundled()
            yield

    # ---- storing

    def add(self, image: sitk.Image, mask: sitk.Image, **said: Any) -> Stored:
        """Store a scan with its accepted mask; a scan that is stored already gets a new revision of its case.

        Args:
            said: what else is known of the two, see ``NewCase``.

        Raises:
            DatasetError: refused at the door (see ``check_case``), a case that some model was trained on although
                its patient is held out, or a known scan of another split than the case it is said to go with.
        """
        return self._add(NewCase(image, mask, **said))

    def undo(self, stored: Stored) -> None:
        """Take back what was stored, the revision or the new case, into the trash.

        A revision that somebody has added since stays, and the case with it.

        Raises:
            DatasetError: it was taken back or deleted already.
        """
        number = stored.case.current.number
        with self.locked():
            case = self._committed(stored.case.id)
            if number not in {revision.number for revision in case.revisions}:
                raise DatasetError(f"Revision {number} of case {case.id} was taken back already.", "Nothing is to do.")
            rest = case.without_revision(number)
            with self._files.changing(case.id):
                if rest.revisions:
                    self._files.commit(rest)
                else:
                    self._files.take_out(case.id)
                if stored.joined:
                    self._part(stored.joined, rest)

    def delete(self, case_id: str) -> None:
        """Move a case, a damaged one too, with its history into the trash. Its patient's split stays known.

        Raises:
            DatasetError: no such case.
        """
        with self.locked():
            if case_id not in self._files.ids():
                raise self._unknown(case_id)
            with self._files.changing(case_id):
                self._files.take_out(case_id)

    def trashed(self) -> list[str]:
        """Ids of the deleted cases that ``restore`` brings back."""
        return self._files.trashed()

    def restore(self, case_id: str) -> StoredCase:
        """Bring a deleted case back with its history.

        Raises:
            DatasetError: it is not in the trash, or its scan has been stored again or its patient's split been drawn
                anew since.
        """
        with self.locked():
            case, patients = self._files.read_trashed(case_id), self._patients()
            twin = self._stored_as(patients.images.get(case.content))
            if twin is not None:
                raise DatasetError(
                    f"The scan of case {case_id} has been stored again as case {twin.id}.", "Delete that one first."
                )
            patient = patients.root(case.patient)
            if patients.splits.setdefault(patient, case.split) != case.split and not case.is_bundled:
                raise DatasetError(
                    f"Case {case_id} is {PURPOSES[case.split]}, but its patient is "
                    f"{PURPOSES[patients.splits[patient]]}.",
                    "Store its scan again instead.",
                )
            with self._files.changing(case_id):
                if case.content in patients.images:
                    patients.images[case.content].case = case_id
                if not case.is_bundled:
                    self._save(patients)
                self._files.put_back(case)
            return replace(self._committed(case_id), patient=patient)

    def empty_trash(self) -> None:
        """Delete for good what is in the trash: deleted cases and revisions that were taken back."""
        with self.locked():
            self._files.empty_trash()

    # ---- many at once

    def rehearse(self, scans: Sequence[tuple[ScanIdentity, str]]) -> list[bool]:
        """Make the patients of scans that a version is about to rehearse training patients, for ever.

        Args:
            scans: what each is recognized by, and its patient's key or "".

        Returns:
            For each whether it may be rehearsed; False for one of a held-out patient.
        """
        with self.locked():
            patients = self._patients()
            allowed = [patients.rehearse(*scan) for scan in scans]
            self._save(patients)
        return allowed

    def import_folder(
        self,
        folder: Path | str,
        progress: Callable[[int, int, str], None] | None = None,
        same_patient_as: str = "",
    ) -> ImportReport:
        """Store the cases of a folder, see ``find_pairs``. One that cannot be stored does not stop the others.

        A case that is stored already with this very mask is not stored again; a correction made since stays the newest.

        Args:
            progress: called before each case with its index, their number and its name; may raise Canceled.
            same_patient_as: as in ``add``, for the cases whose patient no index.csv names.

        Raises:
            DatasetError: the folder has no cases, its index.csv cannot be used, or there is no case
                ``same_patient_as``.
        """
        cases, failed, notes = find_pairs(Path(folder))
        if same_patient_as:
            self.case(same_patient_as)
        stored, warnings, unknown = [], list(notes), []
        for number, case in enumerate(cases):
            name = case.name
            if progress is not None:
                progress(number, len(cases), name)
            try:
                doubts: list[str] = []
                image, mask = case.load_image(doubts), case.load_mask(doubts)
                patient = case.patient if case.patient_is_known else ""
                new = NewCase(image, mask, edited=None, patient_key=patient, scanner=case.center, source_name=name)
                new.same_patient_as = "" if patient else same_patient_as
                result = self._add(new, again=False)
            except (StorageError, FolderInUseError):
                raise
            except DDSPSegmentationError as error:
                failed[name] = str(error)
                continue
            if result.is_changed:
                stored.append(result)
            else:
                warnings.append(f"{name}: It is stored already with this very mask.")
            warnings += [f"{name}: {warning}" for warning in (*doubts, *result.warnings)]
            if result.is_new and not (patient or same_patient_as):
                unknown.append(name)
        return ImportReport(tuple(stored), failed, tuple(warnings), tuple(unknown))

    def export(self, folder: Path | str, progress: Callable[[int, int, str], None] | None = None) -> int:
        """Copy scans and newest masks, but the bundled one, into a new or empty folder as an nnU-Net data set.

        No note, no label, no salt and no history goes along, and of patients only which scans are of the same one.

        Returns:
            The number of cases.
        """
        cases = [case for case in self.cases() if not case.is_bundled]
        return export_cases(cases, self._memory(), Path(folder), progress or (lambda *_: None))

    # ---- inside

    def _read(self) -> tuple[list[StoredCase], list[str]]:
        self._mend_if_free()
        cases, problems, memory = [], [], self._memory()
        for case_id in self._files.ids():
            try:
                case = self._files.read(case_id)
                if case is not None:
                    cases.append(replace(self._decided(case), patient=memory.root(case.patient)))
                elif self._files.is_torn(case_id):
                    problems.append(f"Case {case_id} has no case.json. Restore the file from a backup or delete it.")
            except (DatasetError, InputError, StorageError) as error:
                problems.append(str(error))
        return cases, problems

    def _decided(self, case: StoredCase) -> StoredCase:
        """Whether a case of version 1, which did not ask, is the bundled scan."""
        if case.is_bundled is not None:
            return case
        return replace(case, is_bundled=_is_bundled_file(case.image_path))

    def _decide_bundled(self) -> None:
        """Write down once, under the lock, what ``_decided`` finds."""
        for case_id in self._files.ids():
            with suppress(DatasetError, InputError):  # a damaged case is named to whoever lists the cases
                case = self._files.read(case_id)
                if case is not None and case.is_bundled is None:
                    self._files.commit(self._decided(case))

    def _mend_if_free(self) -> None:
        """What a killed process left behind is settled by readers too, unless a writer is at work."""
        if self._files.unfinished.exists():
            with suppress(FolderInUseError, StorageError), self._files.lock(waiting=False):
                self._files.mend()

    def _committed(self, case_id: str) -> StoredCase:
        case = self._files.read(case_id) if case_id in self._files.ids() else None
        if case is None:
            raise self._unknown(case_id)
        return case

    def _unknown(self, case_id: str) -> DatasetError:
        return DatasetError(f"Case library '{self.folder.name}' has no case {case_id}.", "It may have been deleted.")

    def _memory(self) -> Patients:
        return read_memory(self.folder / "patients.json")

    def _patients(self) -> Patients:
        return read_patients(self.folder / "patients.json", self.folder / "salt")

    def _save(self, patients: Patients) -> None:
        self._files.confirm_lock()
        patients.save(self.folder / "patients.json")

    def _stored_as(self, known: KnownImage | None) -> StoredCase | None:
        return None if known is None or known.case not in self._files.ids() else self._files.read(known.case)

    def _add(self, new: NewCase, again: bool = True) -> Stored:
        """With ``again`` False a case that is stored with this very mask gets no further revision."""
        with self.locked():
            patients = self._patients()
            before = set(patients.aliases)
            case = self._stored_as(patients.images.get(new.content(patients)))
            bundled = is_bundled(new.identity) if case is None else case.is_bundled
            own, was = (case.patient, patients.root(case.patient)) if case else (patients.bundled, "")
            warnings = [BUNDLED] if bundled and case is None else []
            if not bundled:
                own, warnings = self._patient(patients, new)
            joined = tuple(patients.aliases.keys() - before)
            if case is None:
                stored = self._add_new(patients, own, warnings, new)
                return replace(stored, joined=joined)
            is_known = not again and new.is_known_to(case)
            if case.split == HOLD_OUT and not bundled and self._trained_on(new):
                warnings.append(
                    "A model version was trained on this case, but it is held out: comparisons favor that version."
                )
            said, patient = (*new.warnings, *warnings), patients.root(case.patient)
            with self._files.changing(case.id):
                self._save(patients)  # a key may be new
                if not is_known:
                    new.place_as(case)
                    case = self._write_revision(case, new)
                    self._files.commit(case)
            is_changed = not is_known or patient != was
            return Stored(replace(case, patient=patient), said, False, is_changed, joined)

    def _part(self, joined: Sequence[str], case: StoredCase) -> None:
        """Who became another patient is a patient of his own again; a case that stays keeps its split."""
        patients = self._patients()
        for patient in joined:
            patients.aliases.pop(patient, None)
        if case.revisions:
            patients.splits.setdefault(patients.root(case.patient), case.split)
        self._save(patients)

    def _trained_on(self, new: NewCase) -> list[str]:
        return self._models.trained_on(new.identity) if self._models else []

    def _add_new(self, patients: Patients, own: str, warnings: list[str], new: NewCase) -> Stored:
        patient, bundled = patients.root(own), own == patients.bundled
        if not bundled and self._trained_on(new):
            if patients.splits.get(patient) == HOLD_OUT:
                if patient not in patients.seen:
                    patients.seen.append(patient)
                    self._save(patients)
                raise DatasetError(
                    "A model version was trained on this case, but its patient is held out.",
                    "It is not stored, and other cases of its patient are not compared any more.",
                )
            patients.force_training(patient)
            warnings.append("A model version was trained on this case, so it belongs to training.")
        untold = [name for name in self._models.cannot_tell() if name not in patients.told] if self._models else []
        if untold:
            patients.told += untold
            warnings.append(
                f"Nobody can tell whether a scan was trained on by {', '.join(untold)}, which came without a list of "
                "its scans: a comparison with it proves little."
            )
        case = replace(self._new_case(patients, own, new), is_bundled=bundled)
        with self._files.changing(case.id):
            self._save(patients)
            make_folder(case.record_folder)
            case = self._write_revision(case, new)
            self._files.derive_label(case)
            make_folder(case.image_path.parent)
            write_image(without_metadata(new.image), case.image_path, compress=False)  # the user waits
            self._files.commit(case)
        return Stored(replace(case, patient=patient), (*new.warnings, *warnings), True)

    def _patient(self, patients: Patients, new: NewCase) -> tuple[str, list[str]]:
        """Whose scan it is: that of the same scan, of a near-copy, of the case or key it came with, else somebody new.

        Who turns out to be one patient is one from now on, with all cases, unless one of the two is held out.
        """
        other = self._committed(new.same_patient_as) if new.same_patient_as else None
        if other is not None and other.is_bundled:
            raise DatasetError(
                f"Case {other.id} is the scan that comes with the product, which is no patient of yours.",
                "Store the scan as a patient of its own.",
            )
        joined = patients.root(other.patient) if other is not None else ""
        keyed = patients.with_key(new.patient_key)
        if joined and keyed in patients.splits and keyed != joined:
            raise DatasetError(
                f"The scan's own patient ID is not that of the patient of case {new.same_patient_as}.",
                "Leave it to the ID whose scan it is.",
            )
        content = new.content(patients)
        known = patients.images.get(content)
        twin = None if known is not None else patients.near_copy(new.identity.texture)
        recognized, warnings = known or twin, []
        if recognized is None:
            own = (not joined and keyed) or patients.pseudonym("scan", content)
        else:
            own = recognized.patient
        if twin is not None:
            there = twin.case if twin.case in self._files.ids() else f"{twin.case}, which was deleted"
            what = f"case {there}" if twin.case else "one that a retraining rehearsed"
            warnings.append(f"The scan looks like a copy of {what}; it counts as the same patient.")
        for said in filter(None, (joined, keyed)):
            patient = patients.root(own)
            sides = patients.splits.get(patient), patients.splits.get(said)
            if sides[1] is None:  # a key that is new
                patients.merge(said, patient)
            elif sides[0] in (None, sides[1]):
                patients.merge(patient, said)
            elif recognized is not None and (said == joined or twin is not None):
                known_as = f"case {recognized.case}" if recognized.case else "one that was rehearsed"
                known_as = f"looks like a copy of {known_as}" if twin is not None else f"is known as {known_as}"
                whose = f"case {new.same_patient_as}" if said == joined else "the other scans of its patient ID"
                raise DatasetError(
                    f"The scan {known_as} ({PURPOSES[sides[0]]}) and cannot join {whose} ({PURPOSES[sides[1]]}): what "
                    "a patient is there for never changes.",
                    "It is not stored. If both show one patient, delete the cases of one side, so that comparisons "
                    "stay fair.",
                )
            else:
                warnings.append(
                    f"Other scans of this patient are {PURPOSES[sides[1]]}, this one is {PURPOSES[sides[0]]} since it "
                    "was first stored. Delete the one or the other, so that comparisons stay fair."
                )
        return own, warnings

    def _new_case(self, patients: Patients, patient: str, new: NewCase) -> StoredCase:
        """Takes a number and draws the split; both are saved before the case becomes valid."""
        taken = {*self._files.ids(), *self._files.trashed()}
        while (case_id := f"{patients.library}-{patients.next_number:04d}") in taken:
            patients.next_number += 1  # patients.json came from an older backup
        content = new.content(patients)
        split = TRAINING if patient == patients.bundled else patients.split_of(patients.root(patient))
        said = (new.label, new.scanner, new.source_name)
        case = StoredCase(case_id, patients.next_number, patient, split, *said, (), self.folder, content)
        patients.next_number += 1
        patients.images[content] = KnownImage(patient, case_id, new.identity.texture.fingerprint(patients.salt))
        return case

    def _write_revision(self, case: StoredCase, new: NewCase) -> StoredCase:
        number = case.next_revision
        write_image(new.mask, case.mask_path_of(number))
        if new.prediction is not None:
            write_image(new.prediction, case.prediction_path_of(number))
        sha256 = file_sha256(case.mask_path_of(number))
        date = datetime.now().astimezone().isoformat(timespec="seconds")
        return case.with_revision(new.revision(number, date, sha256), new.prediction is not None)


@cache
def _is_bundled_file(path: Path) -> bool:
    """Whether a stored scan, whose file never changes, is the bundled one; it takes a look at every voxel."""
    return is_bundled(ScanIdentity(read_image(path)))
