"""What a case library writes about a case: its patient's split, where it came from and every revision of its mask."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..engine.errors import DatasetError

TRAINING, HOLD_OUT = "training", "hold-out"
PURPOSES = {TRAINING: "for training", HOLD_OUT: "kept for checking"}  # to people
SCHEMA_VERSION = 1
CASE_FILE = "case.json"


@dataclass(frozen=True)
class Revision:
    """One accepted state of a case's mask; never changed afterwards.

    Attributes:
        date: when it was stored, ISO 8601 with the time zone.
        state: "corrected", "unedited" or "imported".
        model_version, model_sha256: what made the prediction that was corrected; "" without.
        dice: of the mask against that prediction, in [0, 1]; None without a prediction.
        note: the radiologist's own words.
        mask_sha256: of the mask's file.
    """

    number: int
    date: str
    state: str
    model_version: str
    model_sha256: str
    dice: float | None
    note: str
    mask_sha256: str


@dataclass(frozen=True)
class StoredCase:
    """One scan of the library with the history of its mask, as it was when it was read.

    Attributes:
        id: chosen by the library, for instance "a3f9-0007"; number: the 7 of it, never used again.
        patient: pseudonym, stable within the library; split: TRAINING or HOLD_OUT, the patient's.
        label: a person's own name for it; source_name: its name in the folder it was imported from, else "".
        folder: of the library.
        is_bundled: the scan that comes with the product; never counted, trained on or compared. None for a case
            that was stored before this was asked, until the library is next written to.
        content: salted hash of the scan's voxels.
        predicted: numbers of the revisions that have a prediction.
        next_revision: the number that the next revision gets.
    """

    id: str
    number: int
    patient: str
    split: str
    label: str
    scanner: str
    source_name: str
    revisions: tuple[Revision, ...]
    folder: Path
    content: str = ""
    predicted: frozenset[int] = frozenset()
    next_revision: int = 1
    is_bundled: bool | None = False

    @property
    def current(self) -> Revision:
        return self.revisions[-1]

    @property
    def image_path(self) -> Path:
        return self.folder / f"images{FOLDER_ENDS[self.split]}" / f"{self.id}_0000.mha"

    @property
    def mask_path(self) -> Path:
        """The newest mask; a file that never changes."""
        return self.mask_path_of(self.current.number)

    @property
    def prediction_path(self) -> Path | None:
        """The prediction that the newest mask was made from."""
        number = self.current.number
        return self.prediction_path_of(number) if number in self.predicted else None

    @property
    def label_path(self) -> Path:
        """The copy of the newest mask that other tools read."""
        return self.folder / f"labels{FOLDER_ENDS[self.split]}" / f"{self.id}.mha"

    @property
    def record_folder(self) -> Path:
        return self.folder / "cases" / self.id

    def mask_path_of(self, revision: int) -> Path:
        return self.record_folder / f"mask-{revision}.mha"

    def prediction_path_of(self, revision: int) -> Path:
        return self.record_folder / f"prediction-{revision}.mha"

    def with_revision(self, revision: Revision, has_prediction: bool) -> StoredCase:
        predicted = self.predicted | {revision.number} if has_prediction else self.predicted
        return replace(
            self, revisions=(*self.revisions, revision), predicted=predicted, next_revision=revision.number + 1
        )

    def without_revision(self, number: int) -> StoredCase:
        kept = tuple(revision for revision in self.revisions if revision.number != number)
        return replace(self, revisions=kept, predicted=self.predicted - {number})

    def to_dict(self) -> dict:
        """What case.json holds."""
        values = {**asdict(self), "predicted": sorted(self.predicted)}
        del values["folder"]
        return {"schema_version": SCHEMA_VERSION, **values}


FOLDER_ENDS = {TRAINING: "Tr", HOLD_OUT: "Ts"}
_PLAIN = ("id", "number", "patient", "split", "label", "scanner", "source_name", "content", "next_revision")


def read_case(text: bytes, case_id: str, folder: Path) -> StoredCase:
    """A case from the text of its case.json.

    Raises:
        DatasetError: damaged, of another case, or made by a newer version.
    """
    try:
        values = json.loads(text)
        check_schema(values, f"Case {case_id}")
        revisions = tuple(Revision(**revision) for revision in values["revisions"])
        plain = {name: values[name] for name in _PLAIN}
        plain["is_bundled"] = values.get("is_bundled")
        case = StoredCase(**plain, revisions=revisions, folder=folder, predicted=frozenset(values["predicted"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DatasetError(f"Case {case_id} has a damaged case.json.", "Restore the file from a backup.") from error
    if case.id != case_id or case.split not in (TRAINING, HOLD_OUT) or not revisions:
        raise DatasetError(f"Case {case_id} has a case.json that is not its own.", "Restore the file from a backup.")
    return case


def check_schema(values: Mapping, what: str, newest: int = SCHEMA_VERSION) -> None:
    """Raises DatasetError for what a newer version wrote."""
    if not isinstance(values["schema_version"], int) or values["schema_version"] > newest:
        raise DatasetError(f"{what} was written by a newer version of DDSPSegmentation.", "Update the extension.")
