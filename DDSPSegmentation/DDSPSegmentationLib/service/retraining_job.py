"""What one retraining works on, frozen before it starts: its training cases, its hold-out cases, its replay cases."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath

from ..engine.bundled_scan import is_bundled
from ..engine.errors import DatasetError, DDSPSegmentationError
from ..engine.files import read_json, write_json
from ..engine.scan_identity import LIMIT, ScanIdentity
from ..learning.dataset import Case, files_digest, read_dataset
from ..library.case_library import CaseLibrary
from ..library.case_records import HOLD_OUT, TRAINING, StoredCase
from ..library.patients import CASE, REHEARSED, Patients, read_patients
from .batch_record import known_sha256

JOB_FILE = "job.json"
REPLAY_FILE = "replay.json"
JOB_SCHEMA = 2
REPLAY_FOLDER, OTHER_SCANNERS = "replay folder", "cases of other scanners kept for checking"
START_AGAIN = "Discard this run and start again."


@dataclass(frozen=True)
class FrozenCase:
    """One case of the library as it was when the job was made.

    Attributes:
        image, mask: files of this very revision, relative to the library's folder.
        model_version: version whose mask was corrected or accepted, or ''.
    """

    id: str
    revision: int
    mask_sha256: str
    patient: str
    split: str
    scanner: str
    model_version: str
    image: str
    mask: str

    @classmethod
    def of(cls, case: StoredCase, library: Path) -> FrozenCase:
        current = case.current
        places = [path.relative_to(library).as_posix() for path in (case.image_path, case.mask_path)]
        return cls(
            case.id,
            current.number,
            current.mask_sha256,
            case.patient,
            case.split,
            case.scanner,
            current.model_version,
            *places,
        )

    def in_ledger(self) -> dict:
        return {
            "case": self.id,
            "revision": self.revision,
            "mask_sha256": self.mask_sha256,
            "patient": self.patient,
        }


@dataclass(frozen=True)
class RetrainingJob:
    """What a retraining does; nothing of it changes once it is made.

    Attributes:
        token: tells this run from every other.
        parent, parent_sha256: the version it starts from, and the SHA-256 of its weights.
        cases: training and hold-out cases of the library.
    """

    token: str
    made: str
    cases_folder: str
    models_folder: str
    replay_folder: str
    device: str
    parent: str
    parent_sha256: str
    cases: tuple[FrozenCase, ...]

    @property
    def training(self) -> list[FrozenCase]:
        return [case for case in self.cases if case.split == TRAINING]

    @property
    def hold_out(self) -> list[FrozenCase]:
        return [case for case in self.cases if case.split == HOLD_OUT]

    def of_other_scanners(self, hold_out: Sequence[FrozenCase]) -> list[FrozenCase]:
        """Those of scanners that no training case is from; none while the scanner of a training case is unknown."""
        known = {case.scanner for case in self.training}
        return [case for case in hold_out if case.scanner and "" not in known and case.scanner not in known]

    def case(self, frozen: FrozenCase) -> Case:
        folder = Path(self.cases_folder)
        return Case(frozen.id, folder / frozen.image, folder / frozen.mask, patient=frozen.patient)

    def write(self, run_folder: Path) -> None:
        write_json({"schema_version": JOB_SCHEMA, **asdict(self)}, run_folder / JOB_FILE)

    @classmethod
    def read(cls, run_folder: Path | str) -> RetrainingJob:
        """Read a run folder's job.

        Raises:
            DatasetError: there is none, or it is damaged or of a newer version.
        """
        path = Path(run_folder) / JOB_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            schema = values.pop("schema_version")
            if schema == JOB_SCHEMA:
                cases = tuple(FrozenCase(**case) for case in values.pop("cases"))
                return cls(cases=cases, **values)
        except FileNotFoundError:
            raise DatasetError("This retraining is not there any more.", "Start a new one.") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError(f"The retraining's {JOB_FILE} cannot be read.", START_AGAIN) from error
        is_older = isinstance(schema, int) and schema < JOB_SCHEMA
        raise DatasetError(
            f"This retraining was begun by {'an older' if is_older else 'another'} version of the extension "
            f"({JOB_FILE} has schema version {schema}; this one reads {JOB_SCHEMA}).",
            START_AGAIN if is_older else "Update the extension, or discard this run and start again.",
        )


def check_training_cases(job: RetrainingJob, library: CaseLibrary) -> None:
    """Make sure that nothing of the hold-out gets into the training, and that the cases are what they were.

    Raises:
        DatasetError: a training case belongs to a hold-out patient, is gone, or was changed behind our back.
    """
    memory = _memory(library)
    held_out = {memory.root(case.patient) for case in job.hold_out}
    held_out |= {memory.root(patient) for patient, split in memory.splits.items() if split == HOLD_OUT}
    for case in job.training:
        folders = {PurePosixPath(place).parts[0] for place in (case.image, case.mask)}
        if memory.root(case.patient) in held_out or folders & {"imagesTs", "labelsTs"}:
            raise DatasetError(
                f"Case '{case.id}' for training is of a patient who is kept for checking; nothing was trained.",
                f"{START_AGAIN} Both kinds of cases were mixed up in the case library.",
            )
        stored = job.case(case)
        if not stored.image_path.is_file() or known_sha256(stored.label_path) != case.mask_sha256:
            raise DatasetError(
                f"Training case '{case.id}' was deleted or changed since this retraining was started.", START_AGAIN
            )


@dataclass(frozen=True)
class ReplayCases:
    """Cases of the replay folder: some rehearse, others measure forgetting, none does both.

    Attributes:
        left_out: names of the others, and why.
    """

    rehearse: tuple[Case, ...] = ()
    measure: tuple[Case, ...] = ()
    left_out: dict[str, str] | None = None


def split_replay(
    job: RetrainingJob, run_folder: Path, library: CaseLibrary, pause: Callable[[], None] = lambda: None
) -> ReplayCases:
    """Part the replay folder by patient: two thirds rehearse, one third measures forgetting; the same every time.

    A patient of whom the case library had a scan or a near-copy of one is left out: a hold-out case must not rehearse,
    and a training case does not show what was forgotten. The library's memory of its scans decides that, no scan of
    it is opened. The patients who rehearse become training patients of the library for ever, and who rehearsed once
    never measures. The outcome is written into the run folder with a digest of each case, and read from there ever
    after. Left out is the scan that comes with the extension, too. The cases are given pseudonyms, salted by the
    library: their names may be patients', and go into the version.

    Raises:
        DatasetError: the folder is gone, not as expected, or has other scans or masks than when the run was begun.
    """
    if not job.replay_folder:
        return ReplayCases()
    cases = read_dataset(job.replay_folder)
    decided = read_json(run_folder / REPLAY_FILE)
    if decided is None:
        decided = _decide(cases, library, pause)
        write_json(decided, run_folder / REPLAY_FILE)
    by_name = {case.name: case for case in cases}
    missing = sorted({*decided["rehearse"], *decided["measure"]} - set(by_name))
    if missing:
        cause = f"{len(missing)} cases are no longer in the replay folder."
        raise DatasetError(cause, f"Put them back, or discard this run and start again ({missing[0]}).")
    changed = [name for name, digest in decided.get("digests", {}).items() if files_digest(by_name[name]) != digest]
    if changed:
        cause = f"{len(changed)} cases of the replay folder were changed since this retraining was started."
        raise DatasetError(cause, f"Put them back, or discard this run and start again ({changed[0]}).")
    memory = _memory(library)
    pseudonyms = {name: f"replay-{memory.pseudonym('replay', name)[:12]}" for name in by_name}
    patients = decided.get("patients", {})

    def case_of(name: str) -> Case:
        return replace(by_name[name], name=pseudonyms[name], patient=patients.get(name, by_name[name].patient))

    return ReplayCases(
        tuple(map(case_of, decided["rehearse"])),
        tuple(map(case_of, decided["measure"])),
        {pseudonyms[name]: reason for name, reason in decided["left_out"].items() if name in pseudonyms},
    )


def _decide(cases: Sequence[Case], library: CaseLibrary, pause: Callable[[], None]) -> dict:
    memory = _memory(library)
    scans, left_out = {}, {}
    patients = {case.name: case.patient for case in cases}
    one_patient = Patients(memory.salt)  # who turns out to be another one of the folder
    prints: dict[str, str] = {}
    digests: dict[str, str] = {}

    def patient_of(name: str) -> str:
        return one_patient.root(patients[name])

    for case in cases:
        pause()
        try:
            digests[case.name] = files_digest(case)
            case.load_mask()
            scan = ScanIdentity(case.load_image()).without_image()
        except DDSPSegmentationError:  # its words may hold the name
            left_out[case.name] = "The scan or its mask cannot be used."
            continue
        if is_bundled(scan):
            left_out[case.name] = "It is the scan that comes with the extension."
            continue
        twin, distance = scan.texture.nearest(prints, memory.salt)
        if distance <= LIMIT:
            one_patient.merge(patient_of(case.name), patient_of(twin))
        prints[case.name] = scan.texture.fingerprint(memory.salt)
        scans[case.name] = scan, case.patient if case.patient_is_known else ""
    standings = {name: memory.standing(*scan) for name, scan in scans.items()}
    stored = {patient_of(name) for name, standing in standings.items() if standing == CASE}
    rehearsed = {patient_of(name) for name, standing in standings.items() if standing == REHEARSED} - stored
    kept = [name for name in scans if patient_of(name) not in stored]
    measuring = measuring_patients((patient_of(name) for name in kept), rehearsed)
    rehearsing = [name for name in kept if patient_of(name) not in measuring]
    allowed = library.rehearse([scans[name] for name in rehearsing])
    stored |= {patient_of(name) for name, may in zip(rehearsing, allowed, strict=True) if not may}  # meanwhile
    left_out |= {name: "The case library has a scan of this patient." for name in scans if patient_of(name) in stored}
    rehearse = [name for name in rehearsing if name not in left_out]
    measure = [name for name in kept if patient_of(name) in measuring]
    return {
        "rehearse": rehearse,
        "measure": measure,
        "left_out": left_out,
        "digests": {name: digests[name] for name in (*rehearse, *measure)},
        "patients": {name: patient_of(name) for name in (*rehearse, *measure)},
    }


def _memory(library: CaseLibrary) -> Patients:
    """What the library knows of its patients and scans, of those that were deleted, too."""
    return read_patients(library.folder / "patients.json", library.folder / "salt")


def measuring_patients(patients: Iterable[str], rehearsed: Collection[str] = ()) -> set[str]:
    """About a third of the patients, who measure forgetting; whether one is among them depends on him alone.

    Who was rehearsed before never measures. Only where all or none would be, one patient changes sides; a single
    patient rehearses.
    """
    everybody = set(patients)
    ranks = {p: int(hashlib.sha256(p.encode()).hexdigest(), 16) for p in everybody.difference(rehearsed)}
    order = sorted(ranks, key=lambda patient: (ranks[patient] % 3, ranks[patient]))
    measuring = {patient for patient in order if ranks[patient] % 3 == 0}
    if len(everybody) < 2:
        return set()
    return (measuring or set(order[:1])) - (set(order[-1:]) if len(measuring) == len(everybody) else set())
