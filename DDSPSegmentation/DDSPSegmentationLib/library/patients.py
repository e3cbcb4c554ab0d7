"""What a case library remembers for ever: whose scan is whose, and which patients are held out."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..engine.errors import DatasetError, StorageError
from ..engine.files import write_aside, write_text
from ..engine.scan_identity import LIMIT, ScanTexture
from .case_records import HOLD_OUT, SCHEMA_VERSION, TRAINING, check_schema

FIRST_ALL_TRAINING = 4
ONE_IN = 5
SALT_BYTES = 32


@dataclass
class KnownImage:
    """What is kept of an image after its case was deleted.

    Attributes:
        patient: pseudonym.
        case: id of the case it was last stored as.
        fingerprint: see ``near_copies``.
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
        aliases: pseudonyms of keys that turned out to belong to a patient who is known under another one.
        images: by the salted hash of the image's content.
    """

    salt: bytes
    library: str = ""
    next_number: int = 1
    splits: dict[str, str] = field(default_factory=dict)
    forced: list[str] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    images: dict[str, KnownImage] = field(default_factory=dict)

    def pseudonym(self, kind: str, key: str | bytes) -> str:
        """A salted hash from which nobody without the salt finds the key."""
        content = key.encode() if isinstance(key, str) else key
        return hmac.new(self.salt, kind.encode() + b"\0" + content, hashlib.sha256).hexdigest()[:24]

    def patient_of(self, pseudonym: str) -> str:
        return self.aliases.get(pseudonym, pseudonym)

    def split_of(self, patient: str) -> str:
        """The patient's split, drawn now if it never was: about one in five is held out.

        When the first four that were drawn all fell to training, the fifth is held out.
        """
        if patient not in self.splits:
            drawn = [split for name, split in self.splits.items() if name not in self.forced]
            hashed = int(hmac.new(self.salt, f"split\0{patient}".encode(), hashlib.sha256).hexdigest(), 16)
            overdue = len(drawn) >= FIRST_ALL_TRAINING and HOLD_OUT not in drawn
            self.splits[patient] = HOLD_OUT if overdue or hashed % ONE_IN == 0 else TRAINING
        return self.splits[patient]

    def force_training(self, patient: str) -> None:
        if patient not in self.splits:
            self.splits[patient] = TRAINING
            self.forced.append(patient)

    def recognize(self, patient_key: str, patient: str) -> list[str]:
        """Remember that a key belongs to a patient who was recognized by the scan; a warning where it cannot be so."""
        if not patient_key:
            return []
        pseudonym = self.pseudonym("patient", patient_key)
        other = self.patient_of(pseudonym)
        if other == patient:
            return []
        if other not in self.splits:
            self.aliases[pseudonym] = patient
            return []
        if self.splits[other] == self.splits[patient]:
            return []
        return [
            f"Other scans of this patient are in {self.splits[other]}, this one is in {self.splits[patient]} since it "
            "was first stored. Delete the one or the other, so that comparisons stay fair."
        ]

    def near_copy(self, texture: ScanTexture) -> KnownImage | None:
        """The image of which a scan looks like a copy."""
        name, distance = texture.nearest({name: image.fingerprint for name, image in self.images.items()}, self.salt)
        return self.images[name] if distance <= LIMIT else None

    def save(self, path: Path) -> None:
        values = {name: getattr(self, name) for name in ("library", "next_number", "splits", "forced", "aliases")}
        values["images"] = {name: asdict(image) for name, image in self.images.items()}
        write_text(json.dumps({"schema_version": SCHEMA_VERSION, **values}, indent=1) + "\n", path)


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
        _write_private(salt + "\n", salt_path)
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
        check_schema(values, f"Case library '{name}'")
        values["images"] = {key: KnownImage(**image) for key, image in values["images"].items()}
        values.pop("schema_version")
        return Patients(bytes.fromhex(salt.strip()), **values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DatasetError(f"patients.json of case library '{name}' is damaged.", backup) from error


def _read_or_none(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except ValueError:
        return ""
    except OSError as error:
        raise StorageError(
            f"'{path.name}' of case library '{path.parent.name}' cannot be read ({error.strerror}).",
            "Ask whoever made the library for the right to read it.",
        ) from error


def _write_private(text: str, path: Path) -> None:
    """Readable by its owner alone before a word is in it."""

    def write(aside: Path) -> None:
        os.chmod(aside, 0o600)
        aside.write_text(text, encoding="utf-8")

    write_aside(path, ".txt", write)
