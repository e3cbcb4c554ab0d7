"""What a case library remembers for ever: whose scan is whose, and which patients are held out."""

from __future__ import annotations

import getpass
import hashlib
import hmac
import json
import os
import secrets
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..engine.errors import DatasetError, StorageError
from ..engine.files import os_errors_as, write_aside, write_json
from ..engine.scan_identity import LIMIT, ScanIdentity, ScanTexture
from .case_records import HOLD_OUT, TRAINING, check_schema

FIRST_ALL_TRAINING = 4
ONE_IN = 5
FOLDS = 5
PATIENTS_VERSION = 2  # of patients.json; 1 had no folds
SALT_BYTES = 32
CASE, REHEARSED = "case", "rehearsed"


@dataclass
class KnownImage:
    """What is kept of an image after its case was deleted.

    Attributes:
        patient: pseudonym.
        case: id of the case it was last stored as; "" for a scan that was rehearsed and never a case.
        fingerprint: see ``scan_identity.ScanTexture``.
    """

    patient: str
    case: str
    fingerprint: str


@dataclass
class Patients:
    """The memory of a library, kept for ever: every patient's split, every image's fingerprint, the next number.

    Attributes:
        library: four hexadecimal digits that start every id.
        splits: by patient's pseudonym; ``forced``: patients whose split was not drawn.
        folds: of the training patients, 0 to FOLDS - 1, for those who train on an export.
        aliases: pseudonyms of keys and patients that turned out to be a patient who is known under another one.
        images: by the salted hash of the image's content.
        seen: held-out patients of whom a version was trained on a scan that was therefore not stored.
        told: versions of which was said that they cannot tell what they were trained on.
    """

    salt: bytes
    library: str = ""
    next_number: int = 1
    splits: dict[str, str] = field(default_factory=dict)
    forced: list[str] = field(default_factory=list)
    folds: dict[str, int] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    images: dict[str, KnownImage] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        draw_folds(self.splits, self.folds)

    def pseudonym(self, kind: str, key: str | bytes) -> str:
        """A salted hash from which nobody without the salt finds the key."""
        content = key.encode() if isinstance(key, str) else key
        return hmac.new(self.salt, kind.encode() + b"\0" + content, hashlib.sha256).hexdigest()[:24]

    @property
    def bundled(self) -> str:
        """The patient of the scan that comes with the product; in no split, in no fold, and nobody else."""
        return self.pseudonym("scan", "bundled")

    def with_key(self, patient_key: str) -> str:
        """The patient of a key; "" without one."""
        return self.root(self.pseudonym("patient", patient_key)) if patient_key else ""

    def root(self, patient: str) -> str:
        """The patient whom a pseudonym stands for by now; every case's patient is read through this."""
        while patient in self.aliases:
            patient = self.aliases[patient]
        return patient

    def merge(self, patient: str, other: str) -> None:
        """From now on a patient is the other one, with all cases."""
        if self.root(patient) != self.root(other):
            self.aliases[self.root(patient)] = self.root(other)

    def fold_of(self, patient: str) -> int:
        return self.folds.get(self.root(patient), 0)  # unknown where memory was lost

    @property
    def not_compared(self) -> set[str]:
        """The patients of ``seen``, as they are known by now."""
        return {self.root(patient) for patient in self.seen}

    def split_of(self, patient: str) -> str:
        """The patient's split, drawn now if it never was: about one in five is held out.

        When the first four that were drawn all fell to training, the fifth is held out.
        """
        if patient not in self.splits:
            drawn = [split for name, split in self.splits.items() if name not in self.forced]
            overdue = len(drawn) >= FIRST_ALL_TRAINING and HOLD_OUT not in drawn
            hashed = int(hmac.new(self.salt, f"split\0{patient}".encode(), hashlib.sha256).hexdigest(), 16)
            self.splits[patient] = HOLD_OUT if overdue or hashed % ONE_IN == 0 else TRAINING
            draw_folds(self.splits, self.folds)
        return self.splits[patient]

    def force_training(self, patient: str) -> None:
        if patient not in self.splits:
            self.splits[patient] = TRAINING
            self.forced.append(patient)
            draw_folds(self.splits, self.folds)

    def content_of(self, digest: str) -> str:
        """The salted hash by which ``images`` knows a scan of this ``ScanIdentity.digest``."""
        return self.pseudonym("image", bytes.fromhex(digest))

    def known_image(self, scan: ScanIdentity) -> KnownImage | None:
        """This very scan, or the one of which it looks like a copy."""
        return self.images.get(self.content_of(scan.digest)) or self.near_copy(scan.texture)

    def standing(self, scan: ScanIdentity, patient_key: str) -> str:
        """Of the patient, by the scan or by the key: CASE, REHEARSED (of no scan was there a case yet) or ""."""
        known = self.known_image(scan)
        patients = {self.root(known.patient) if known else "", self.with_key(patient_key)} - {""}
        if any(image.case and self.root(image.patient) in patients for image in self.images.values()):
            return CASE
        return REHEARSED if patients & self.splits.keys() else ""

    def rehearse(self, scan: ScanIdentity, patient_key: str) -> bool:
        """Whether a version may rehearse a scan: not of a held-out patient; the patient is for training from now on."""
        known, content = self.known_image(scan), self.content_of(scan.digest)
        with_key = self.with_key(patient_key)
        patient = self.root(known.patient) if known else with_key or self.pseudonym("scan", content)
        if HOLD_OUT in (self.splits.get(patient), self.splits.get(with_key)):
            return False
        self.force_training(patient)
        if with_key:
            self.merge(with_key, patient)
        self.images.setdefault(content, KnownImage(patient, "", scan.texture.fingerprint(self.salt)))
        return True

    def near_copy(self, texture: ScanTexture) -> KnownImage | None:
        """The image of which a scan looks like a copy."""
        name, distance = texture.nearest({name: image.fingerprint for name, image in self.images.items()}, self.salt)
        return self.images[name] if distance <= LIMIT else None

    def save(self, path: Path) -> None:
        values = asdict(self)
        del values["salt"]
        write_json({"schema_version": PATIENTS_VERSION, **values}, path)


def draw_folds(splits: Mapping[str, str], folds: dict[str, int]) -> None:
    """Give each training patient who has none a fold, for ever: the first of those with the fewest patients."""
    for patient, split in splits.items():
        if split == TRAINING and patient not in folds:
            sizes = [list(folds.values()).count(fold) for fold in range(FOLDS)]
            folds[patient] = sizes.index(min(sizes))


def read_memory(path: Path) -> Patients:
    """What readers without the salt see too: splits, folds and aliases; of nobody where memory was lost."""
    try:
        return _parsed(json.loads(path.read_text(encoding="utf-8")), path, b"")
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return Patients(b"")


def _parsed(values: dict, path: Path, salt: bytes) -> Patients:
    values["images"] = {key: KnownImage(**image) for key, image in values["images"].items()}
    values.pop("schema_version")
    values.setdefault("folds", _written_folds(path.with_name("splits_final.json"), values["images"].values()))
    return Patients(salt, **values)


def _written_folds(path: Path, images: Iterable[KnownImage]) -> dict[str, int]:
    """The folds that version 1, which remembered none, wrote for those who train on the library."""
    patient_of = {image.case: image.patient for image in images}
    try:
        folds = [fold["val"] for fold in json.loads(path.read_text(encoding="utf-8"))][:FOLDS]
        return {patient_of[case]: number for number, fold in enumerate(folds) for case in fold if case in patient_of}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def read_patients(path: Path, salt_path: Path) -> Patients:
    """The memory of a library; a new one, with its salt written, where there is none.

    Raises:
        DatasetError: one of the two files is missing or damaged, or made by a newer version.
        StorageError: the salt cannot be read or written.
    """
    text = _read_or_none(path)
    salt = _read_or_none(salt_path)
    if salt is None and text is None:
        salt = secrets.token_hex(SALT_BYTES)
        _write_salt(salt + "\n", salt_path)
    name = path.parent.name
    backup = "Restore it from a backup, or import the cases into a new folder."
    if salt is None or len(salt.strip()) != 2 * SALT_BYTES:
        raise DatasetError(
            f"The file 'salt' of case library '{name}' is missing or damaged: no patient can be recognized.", backup
        )
    if text is None:
        return Patients(bytes.fromhex(salt.strip()), library=secrets.token_hex(2))
    try:
        values = json.loads(text)
        check_schema(values, f"Case library '{name}'", PATIENTS_VERSION)
        return _parsed(values, path, bytes.fromhex(salt.strip()))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DatasetError(f"patients.json of case library '{name}' is damaged.", backup) from error


def _read_or_none(path: Path) -> str | None:
    whose = f"'{path.name}' of case library '{path.parent.name}'"
    with os_errors_as(StorageError, f"{whose} cannot be read", "Check the connection to its drive."):
        try:
            return path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except ValueError:
            return ""
        except PermissionError as error:
            cause = f"You may not read {whose}, which recognizes patients."
            raise StorageError(cause, f"Ask its owner to run: {_let_read(path)}") from error


def _let_read(path: Path) -> str:
    """The command with which the owner of a file lets this account read it."""
    if sys.platform == "win32":
        return f'icacls "{path}" /grant "%USERDOMAIN%\\{getpass.getuser()}:R"'
    quoted = shlex.quote(str(path))
    of_folder = path.parent.stat().st_gid
    if path.stat().st_gid in (os.getgid(), *os.getgroups()):
        return f"chmod g+r {quoted}"
    if of_folder in (os.getgid(), *os.getgroups()):
        return f"chgrp {of_folder} {quoted} && chmod g+r {quoted}"
    return f"chmod o+r {quoted}"


def _write_salt(text: str, path: Path) -> None:
    """Readable by its owner, and by those who may write into the folder, before a word is in it.

    Whoever adds cases must recognize their patients. The scans lie open to the same people, and say more.
    """

    def write(aside: Path) -> None:
        os.chmod(aside, 0o600 | (path.parent.stat().st_mode & 0o022) << 1)
        aside.write_text(text, encoding="utf-8")

    write_aside(path, ".txt", write)
