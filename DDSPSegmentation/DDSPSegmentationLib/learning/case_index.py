"""index.csv beside a data set: whose scan is whose and where it was acquired, whichever spreadsheet wrote it."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..engine.errors import DatasetError

INDEX = "index.csv"
# What is written where an ID is missing; as an ID it would make one patient of everybody. Whole values only: sites
# hand out IDs such as ANON0042.
PLACEHOLDERS = frozenset(
    ("anon", "anonym", "anonymous", "anonymized", "anonymised", "deidentified", "removed", "redacted", "unknown",
     "unbekannt", "notavailable", "none", "null", "na", "nan", "patient", "test")
)  # fmt: skip
_COLUMNS = {
    "centre": "center",
    **dict.fromkeys(("patientid", "patientids", "patients", "subject", "subjectid"), "patient"),
}
_CORRECT = "Correct the file, or take it out of the folder."


@dataclass(frozen=True)
class IndexRow:
    """What the index says about a case; "" where it says nothing."""

    center: str = ""
    patient: str = ""


def known_patient(text: str) -> str:
    """A patient's ID as it is written; "" for PLACEHOLDERS, a spreadsheet's errors, and zeros, x and signs alone."""
    text = text.strip()
    words = re.findall(r"[^\W_]+", text.lower())
    is_placeholder = "".join(words) in PLACEHOLDERS or PLACEHOLDERS.issuperset(words)
    is_error = text.startswith("#") and not re.search("[1-9]", text)  # such as #N/A
    return "" if is_placeholder or is_error or not set("".join(words)) - {"0", "x"} else text


def index_in(folder: Path) -> Path | None:
    """The folder's index.csv, however its letters are written."""
    return next((path for path in folder.iterdir() if path.name.lower() == INDEX and path.is_file()), None)


def read_index(folder: Path, cases: Collection[str]) -> dict[str, IndexRow]:
    """The row of each case in the folder's index.csv; of none when there is no such file.

    Columns ``case``, ``center`` (or ``centre``) and ``patient`` (or ``PatientID``, ``subject``, ...) are found by name
    in any case and order, separated by commas, semicolons or tabs, in UTF-8 or, as older spreadsheets write,
    Windows-1252. Other columns and rows are nobody's concern.

    Args:
        cases: names of the folder's cases.

    Raises:
        DatasetError: the file cannot be used, and why; or it has a column of patients that leaves out a case.
    """
    path = index_in(folder)
    if path is None:
        return {}
    columns, lines = _table(path)
    for name, choices in (("case", ("case",)), ("patient or center", ("patient", "center"))):
        if not any(choice in columns for choice in choices):
            found = ", ".join(column for column in columns if column) or "nothing"
            raise _unusable(f"has no column '{name}' in its first line, which names {found}")
    twice = next((column for column in ("case", "center", "patient") if columns.count(column) > 1), None)
    if twice:
        raise _unusable(f"has the column '{twice}' twice")
    rows: dict[str, IndexRow] = {}
    for number, cells in lines:
        values = dict(zip(columns, cells, strict=False))
        case = values.get("case", "").replace("\\", "/")
        if not case:
            raise _unusable(f"names no case in line {number}")
        row = IndexRow(values.get("center", ""), known_patient(values.get("patient", "")))
        if rows.setdefault(case, row) != row:
            raise _unusable(f"names case '{case}' twice, with different patients or centers")
    written = {case: unicodedata.normalize("NFC", case) for case in cases}  # macOS takes letters in file names apart
    missing = sorted(case for case in cases if written[case] not in rows)
    if len(missing) == len(cases):
        raise _unusable(f"names none of the folder's cases: it names {_some(rows)}; the cases are {_some(cases)}")
    if missing and "patient" in columns:
        raise _unusable(f"does not name the patients of {_some(missing)}")
    return {case: rows[written[case]] for case in cases if written[case] in rows}


def about_unknown_patients(unknown: int, scans: int) -> str:
    """What it means that so many of the scans are of patients whom nobody names; "" for none."""
    if not unknown:
        return ""
    return (
        f"Nobody says whose {unknown} of these {scans} scans are: each counts as a patient of its own. "
        f"Where several show one patient, name the patients in {INDEX} (columns case, patient)."
    )


def about_leading_zeros(patients: Iterable[str]) -> str:
    """That patients may be one whose zeros a spreadsheet dropped; "" where none may."""
    alike = defaultdict(set)
    for patient in patients:
        if patient.isdigit():
            alike[patient.lstrip("0")].add(patient)
    found = next((sorted(names) for names in alike.values() if len(names) > 1), None)
    if found is None:
        return ""
    return (
        f"Patients {' and '.join(found)} differ in leading zeros alone, which spreadsheets drop, and count as "
        f"several. Where they are one, write the number alike in {INDEX}."
    )


def _table(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The names of the columns, then number and cells of each line that is not empty; all stripped."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unusable(f"cannot be read ({error.strerror})") from error
    text = _text_of(content)
    first = text.partition("\n")[0]
    try:
        separator = max(",;\t", key=lambda one: len(next(csv.reader([first], delimiter=one), [])))
        lines = [[cell.strip() for cell in cells] for cells in csv.reader(io.StringIO(text), delimiter=separator)]
    except csv.Error as error:
        raise _unusable(f"cannot be read as a table ({error})") from error
    columns = [_COLUMNS.get(re.sub(r"[\s_-]", "", cell.lower()), cell.lower()) for cell in lines[0]] if lines else []
    return columns, [(number, cells) for number, cells in enumerate(lines[1:], 2) if any(cells)]


def decoded(content: bytes) -> str:
    """Text as programs write it, in UTF-8 or in Windows-1252; UnicodeDecodeError for any other."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252")


def _text_of(content: bytes) -> str:
    try:
        text = decoded(content)
    except ValueError:
        text = "\0"
    if "\0" in text:
        raise _unusable("is text neither in UTF-8 nor in Windows-1252")
    return unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))


def _some(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:5])
    return f"{shown} and {len(names) - 5} more" if len(names) > 5 else shown or "nothing"


def _unusable(what: str) -> DatasetError:
    return DatasetError(f"{INDEX} {what}.", _CORRECT)
