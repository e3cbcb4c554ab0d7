"""What a batch recorded of each case: on disk, so that memory does not grow with it, and read and written line by line.

The file is JSON like any other, laid out so that each case is a line of its own.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import IO

from ..engine.errors import StorageError
from ..engine.files import os_errors_as, read_json, write_aside

_CASES, _END = '  "cases": {\n', "  }\n"


class CaseEntries(MutableMapping[str, dict]):
    """Entries by the names of cases; memory holds only where each lies in a temporary file."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()
        self._places: dict[str, tuple[int, int]] = {}
        self._end = 0

    def __getitem__(self, name: str) -> dict:
        place, length = self._places[name]
        self._file.seek(place)
        return json.loads(self._file.read(length))

    def __setitem__(self, name: str, entry: dict) -> None:
        content = _compact(entry).encode()
        self._file.seek(self._end)
        self._file.write(content)
        self._places[name] = self._end, len(content)
        self._end += len(content)

    def __delitem__(self, name: str) -> None:
        del self._places[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places


class Journal:
    """A file of JSON lines that is only ever added to, by one writer. A kill cuts off its last line at most."""

    def __init__(self, path: Path, mode: str = "wb"):
        self.path = path
        self._torn = False
        with self._errors():
            self._file: IO[bytes] = open(path, mode, buffering=0)

    def add(self, values: dict) -> None:
        """Add a line that is on the disk afterwards. Raises StorageError."""
        self._write(_compact(values).encode() + b"\n")

    def beat(self) -> None:
        """Grow by an empty line. Raises StorageError."""
        self._write(b"\n")

    def _write(self, line: bytes) -> None:
        with self._errors():
            if self._torn:  # by a disk that was full: what comes now is a line of its own
                line = b"\n" + line
            self._torn = True
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())
            self._torn = False

    def clear(self) -> None:
        """Begin anew. Raises StorageError."""
        with self._errors():
            self._file.seek(0)
            self._file.truncate()
            self._torn = False

    def close(self) -> None:
        self._file.close()

    def _errors(self):
        return os_errors_as(StorageError, f"'{self.path.name}' cannot be written", "Free some space and try again.")


def journal_lines(path: Path) -> Iterator[dict]:
    """The lines of a journal, none where there is no such file; a line that was cut off is passed over."""
    try:
        with open(path, "rb") as file:
            for line in file:
                try:
                    values = json.loads(line)
                except ValueError:
                    continue
                if isinstance(values, dict):
                    yield values
    except OSError:
        return


def write_run(path: Path, head: dict, cases: MutableMapping[str, dict]) -> None:
    """Write a record, a line a case. Raises StorageError."""

    def write(aside: Path) -> None:
        with open(aside, "w", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(head, indent=2, ensure_ascii=False)[:-2] + f",\n{_CASES}")
            for number, (name, entry) in enumerate(cases.items()):
                file.write(f"{',' if number else ' '}   {json.dumps(name, ensure_ascii=False)}: {_compact(entry)}\n")
            file.write(_END + "}\n")

    write_aside(path, path.suffix, write)


def read_run(path: Path) -> tuple[dict, CaseEntries]:
    """The head of a record and its cases, in whatever layout.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: there is none, or it is no such record.
    """
    try:
        return _read_lines(path)
    except (OSError, ValueError):
        content = read_json(path)
        cases = CaseEntries()
        for name, entry in content.pop("cases").items():
            cases[str(name)] = entry
        return content, cases


def _read_lines(path: Path) -> tuple[dict, CaseEntries]:
    """Raises ValueError: the layout is another one."""
    head, cases = [], CaseEntries()
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line == _CASES:
                break
            head.append(line)
        for line in file:
            if line == _END:
                break
            for name, entry in json.loads(f"{{{line[1:]}}}").items():
                cases[name] = entry
        if file.read() != "}\n":
            raise ValueError("layout")
    return json.loads("".join(head).rstrip().removesuffix(",") + "}"), cases


def _compact(values: dict) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))
