"""index.csv as spreadsheets write it: separators, encodings, names of columns, and what cannot be used."""

import unicodedata

import pytest

from DDSPSegmentationLib.engine.errors import DatasetError
from DDSPSegmentationLib.learning.case_index import IndexRow, about_leading_zeros, known_patient, read_index

CASES = ("a", "b", "Ü1")
TEXT = "Case,Patient,Centre,note\na,P-7,Göttingen,x\nb,P-7,Göttingen,\nÜ1,P-8,HK,\n"
ROWS = {"a": IndexRow("Göttingen", "P-7"), "b": IndexRow("Göttingen", "P-7"), "Ü1": IndexRow("HK", "P-8")}


def write(folder, text, encoding="utf-8", name="index.csv"):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode(encoding))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_the_index_is_read_whatever_spreadsheet_wrote_it(tmp_path, separator, encoding):
    write(tmp_path, TEXT.replace(",", separator).replace("\n", "\r\n"), encoding)
    assert read_index(tmp_path, CASES) == ROWS


@pytest.mark.parametrize(
    "text",
    [
        'PATIENT;case;"Center"\nP-7;"a";Göttingen\n;;\n P-7 ;b;"Göttingen"\nP-8;Ü1;HK\nP-9;elsewhere;HK\n',
        "case,center,patient\na,Göttingen,P-7\na,Göttingen,P-7\nb,Göttingen,P-7\nÜ1,HK,P-8",
        TEXT.replace("\n", "\r"),
        unicodedata.normalize("NFD", TEXT),
    ],
    ids=["order, quotes, spaces, empty lines, other rows", "a row twice", "old Mac", "letters taken apart"],
)
def test_columns_are_found_by_name_and_what_changes_nothing_is_no_error(tmp_path, text):
    write(tmp_path, text, name="Index.CSV")
    assert read_index(tmp_path, CASES) == ROWS


@pytest.mark.parametrize("name", ["PatientID", "patient_id", "Patient ID", "patients", "Subject", "subject-id"])
def test_a_column_of_patients_is_never_ignored_for_its_name(tmp_path, name):
    write(tmp_path, TEXT.replace("Patient", name))
    assert read_index(tmp_path, CASES) == ROWS


def test_a_case_is_found_whose_file_name_has_its_letters_taken_apart(tmp_path):
    write(tmp_path, TEXT)
    apart = unicodedata.normalize("NFD", "Ü1")
    assert read_index(tmp_path, ("a", "b", apart))[apart] == ROWS["Ü1"]


def test_patients_who_differ_in_leading_zeros_alone_are_named():
    assert "0012345 and 12345" in about_leading_zeros(["12345", "P7", "0012345", "12345"])
    assert about_leading_zeros(["12345", "12346", "A01", "A1", "7", "7"]) == ""


def test_without_an_index_nothing_is_known_and_centers_alone_may_leave_out_cases(tmp_path):
    assert read_index(tmp_path, CASES) == {}
    write(tmp_path, "case,center\na,HK\n")
    assert read_index(tmp_path, CASES) == {"a": IndexRow("HK")}


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("name,patient\na,P\nb,P\nÜ1,P\n", "no column 'case' in its first line, which names name, patient"),
        ("", "no column 'case' in its first line, which names nothing"),
        ("case,patient," + "x" * 140_000 + "\na,P\n", "cannot be read as a table"),
        ("case,remark\na,x\n", "no column 'patient or center'"),
        ("case,patient,patient\na,P,Q\n", "the column 'patient' twice"),
        ("case,patient,Patient ID\na,P,Q\n", "the column 'patient' twice"),
        ("case,center,centre\na,P,Q\n", "the column 'center' twice"),
        ("case,patient\nA1,P\nA2,Q\n", "none of the folder's cases: it names A1, A2; the cases are a, b, Ü1"),
        ("case,patient\n", "none of the folder's cases: it names nothing"),
        ("case,patient\na,P\na,Q\nb,Q\nÜ1,R\n", "'a' twice, with different patients"),
        ("case,patient\na,P\n", "does not name the patients of b, Ü1"),
        ("case,patient\na,P\n,Q\nb,Q\nÜ1,R\n", "names no case in line 3"),
        (TEXT.encode("utf-16"), "neither in UTF-8 nor in Windows-1252"),
        (TEXT.encode() + b"\x81\xff", "neither in UTF-8 nor in Windows-1252"),
    ],
)
def test_an_index_that_cannot_be_used_is_an_error_that_names_the_cause(tmp_path, text, cause):
    write(tmp_path, text)
    with pytest.raises(DatasetError) as raised:
        read_index(tmp_path, CASES)
    assert cause in raised.value.cause and raised.value.next_step


@pytest.mark.parametrize(
    "text", ["ANON0042", "Deidentified_0017", "CANON-1931", "test-3", "0007", "Patient 12", "X9", "#7"]
)
def test_an_id_that_looks_like_a_placeholder_is_an_id(text):
    assert known_patient(f" {text} ") == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "ANONYMOUS",
        "anonymized",
        "Unknown",
        "NONE",
        "n/a",
        "0",
        "0000",
        "---",
        "?",
        "#N/A",
        "#NV",
        "#DIV/0!",
        "n.a.",
        "<unknown>",
        "XXXX",
        "ANONYMOUS^",
        "anonymized^patient",
        "de-identified",
        "[REDACTED]",
    ],
)
def test_a_placeholder_names_nobody(tmp_path, text):
    assert known_patient(text) == ""
    write(tmp_path, f"case,patient\na,{text}\nb,{text}\nÜ1,P\n")
    assert [row.patient for row in read_index(tmp_path, CASES).values()] == ["", "", "P"]
