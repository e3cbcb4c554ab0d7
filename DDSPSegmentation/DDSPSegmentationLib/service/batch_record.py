"""run.json: what a batch run did to each case, free of folders and tags.

Each case is noted at once, in a journal; run.json is written whole again as often as that takes little of the time.
"""

from __future__ import annotations

import re
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine.errors import DDSPSegmentationError, StorageError, is_out_of_memory, not_enough_memory
from ..engine.files import as_json, delete_file, file_sha256, os_errors_as
from ..engine.html_page import RESEARCH_ONLY
from ..engine.plain_names import printable
from .case_entries import CaseEntries, Journal, journal_lines, read_run, write_run

if TYPE_CHECKING:
    from .inputs import Skipped

RUN_FILE, JOURNAL_FILE = "run.json", "run.jsonl"
LOG_FILE = "unexpected-errors.log"
SCHEMA_VERSION = 1

_FOLDERS = re.compile(r"(?<![\w./\\<])(?:[A-Za-z]:|\\|~)?[\\/](?:[^\\/\n'\"<>|:;,()]{1,255}[\\/])*(?=[^\s\\/'\"])")


class BatchRecord:
    """The state of an output folder.

    A case is ``running``, ``failed`` or ``done``. A case of an earlier run that is not among the inputs of this one
    stays listed as long as it is done and its mask is there.
    """

    def __init__(self, folder: Path, head: dict, cases: CaseEntries):
        self._folder, self.head, self.cases = folder, head, cases
        self._journal: Journal | None = None
        self.mutex = threading.RLock()  # held while the record is read or changed, where several cases are done at once

    @classmethod
    def read(cls, folder: Path) -> BatchRecord:
        """The record of the folder, empty when there is none or it is not readable.

        Raises:
            StorageError: it was written by a newer version.
        """
        try:
            head, cases = read_run(folder / RUN_FILE)
            schema = int(head["schema_version"])
            for name in cases:
                check_entry(cases[name])
        except (ValueError, KeyError, TypeError, AttributeError):
            schema, head, cases = SCHEMA_VERSION, {}, CaseEntries()
        if schema > SCHEMA_VERSION:
            raise StorageError(
                f"The output folder holds a {RUN_FILE} of a newer version (schema {schema}, known {SCHEMA_VERSION}).",
                "Update DDSPSegmentation or choose another output folder.",
            )
        if head:
            replay(journal_lines(folder / JOURNAL_FILE), cases)
        return cls(folder, {"schema_version": SCHEMA_VERSION} | head, cases)

    @property
    def place(self) -> Path:
        """Where files lie that are about the run and no result."""
        return self._folder

    def start(self, about: dict, names: Sequence[str], skipped: Iterable[Skipped]) -> None:
        """Describe the run that begins; forget the cases that are neither in it nor still lying in the folder.

        Raises:
            StorageError: that cannot be noted.
        """
        self.head = {
            "schema_version": SCHEMA_VERSION,
            "notice": RESEARCH_ONLY,
            **about,
            "started": now(),
            "state": "running",
            "skipped": as_listed(skipped),
        }
        self._forget_all_but(set(names))
        self.save()
        self._journal = Journal(self._folder / JOURNAL_FILE)

    def finish(self, message: str) -> None:
        """Say how the run ended. Raises StorageError."""
        self.head["state"] = f"stopped: {message}" if message else "finished"
        self.head["ended"] = now()
        self.save()
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        with os_errors_as(StorageError, f"'{JOURNAL_FILE}' cannot be deleted", "Close what has it open."):
            delete_file(self._folder / JOURNAL_FILE)

    def check(self) -> None:
        """Before files of the folder are touched. Raises FolderInUseError: they are another run's by now."""

    def entry(self, name: str) -> dict:
        with self.mutex:
            return self.cases.get(name, {})

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Around the work on a case, so that a kill leaves no file of unknown origin.

        When the work ends by an error or Ctrl-C before the mask was replaced, the earlier result stands again.
        """
        before = self.entry(name)
        self._note(name, before | {"state": "running"})
        try:
            yield
        except BaseException:
            if before.get("state") == "done":
                mask = before["mask"]
                if known_sha256(self._folder / mask["file"]) == mask["sha256"]:
                    with suppress(StorageError):  # what ended the work is told
                        self._note(name, before)
            raise

    def set_done(self, name: str, entry: dict) -> None:
        """Raises StorageError."""
        self._note(name, as_json({"state": "done"} | entry, text=without_folders))

    def set_failed(self, name: str, reason: str) -> None:
        """Raises StorageError."""
        self._note(name, {"state": "failed", "reason": reason})

    def done(self) -> Iterator[tuple[str, dict]]:
        return self._in_state("done")

    def failed(self) -> list[tuple[str, str]]:
        return [(name, entry["reason"]) for name, entry in self._in_state("failed")]

    def save(self) -> None:
        """Replace run.json. Raises StorageError."""
        write_run(self._folder / RUN_FILE, self.head, self.cases)
        if self._journal is not None:
            self._journal.clear()

    def _note(self, name: str, entry: dict) -> None:
        with self.mutex:
            self.cases[name] = entry
            if self._journal is not None:
                self._journal.add({"case": name, "entry": entry})

    def _in_state(self, state: str) -> Iterator[tuple[str, dict]]:
        for name in sorted(self.cases):
            entry = self.cases[name]
            if entry["state"] == state:
                yield name, entry

    def _forget_all_but(self, names: set[str]) -> None:
        for name in [name for name in self.cases if name not in names]:
            if not lies_there(self._folder, self.cases[name]):
                del self.cases[name]


def check_entry(entry: dict) -> None:
    """Raises KeyError, TypeError, ValueError: it is none of a case."""
    if entry["state"] == "done" and not (entry["mask"]["file"] and entry["mask"]["sha256"] and entry["identity"]):
        raise ValueError("entry")


def replay(lines: Iterable[dict], cases: CaseEntries) -> None:
    """Bring entries to what a journal noted since; lines that are about no case are passed over."""
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):
            check_entry(line["entry"])
            cases[line["case"]] = line["entry"]


def lies_there(folder: Path, entry: dict) -> bool:
    """Whether an entry is of a case that is done, with its mask in the folder."""
    return entry["state"] == "done" and (folder / entry["mask"]["file"]).is_file()


def as_listed(skipped: Iterable[Skipped]) -> list[dict[str, str]]:
    """What was passed over, as a record has it."""
    return [{"name": without_folders(one.label), "reason": without_folders(one.reason)} for one in skipped]


def now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


class UnexpectedError(Exception):
    """A fault of ours in another process: one line on it, and where it arose there."""

    def __init__(self, text: str, frames: Sequence[str]):
        super().__init__(text)
        self.frames = list(frames)


def error_text(error: BaseException) -> str:
    """One line for the user: our own errors as they are, anything else named as unexpected; never a folder."""
    text = str(error)
    if not isinstance(error, (DDSPSegmentationError, UnexpectedError)):
        first_line = text.strip().partition("\n")[0] or "no message"
        unexpected = f"Unexpected error ({type(error).__name__}: {first_line})"
        text = str(not_enough_memory()) if is_out_of_memory(error) else unexpected
    return " ".join(without_folders(text).split())


def without_folders(text: str) -> str:
    """The text with the folders of every absolute path in it taken out, and printable."""
    return "\n".join(map(printable, _FOLDERS.sub("", text).split("\n")))


def log_unexpected(folder: Path, name: str, error: BaseException) -> None:
    """Append where an unexpected error arose to a log beside the outputs: file names without folders, no values."""
    lines = [f"{now()} {name}: {error_text(error)}", *frames_of(error)]
    with suppress(OSError), open(folder / LOG_FILE, "a", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")  # the reason itself is in run.json; the log helps us to find the fault


def frames_of(error: BaseException) -> list[str]:
    """Where an error arose, in this process or another one: file names without folders."""
    told = getattr(error, "frames", None)
    if told is not None:
        return told
    places = traceback.extract_tb(error.__traceback__)
    return [f"  {Path(place.filename).name}:{place.lineno} in {place.name}" for place in places]


def known_sha256(path: Path) -> str | None:
    """SHA-256 of a file, None when it cannot be read."""
    try:
        return file_sha256(path)
    except OSError:
        return None
