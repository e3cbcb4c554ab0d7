"""What the parts of a batch leave in the output folder that they share, and who is at work on which.

``parts/parts.json`` says how many there are. Every start of a part is a turn: a journal of its own,
``parts/part-<k>/turn-<n>.jsonl``, with a line on each case and, while the part is at work, an empty one now and then.
Nothing is locked, since a lock over a network can outlive the node that holds it, and nothing goes by clocks: a turn
has ended when it says so, or when its journal has not grown while somebody watched. Whoever finds a later turn than its
own stops. Masks and pictures are made in the turn's own folder and then moved to their places.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine.errors import InputError, StorageError
from ..engine.files import make_folder, os_errors_as, read_json, write_json
from ..engine.html_page import RESEARCH_ONLY
from ..library.folder_lock import FolderInUseError
from .batch_record import RUN_FILE, SCHEMA_VERSION, BatchRecord, as_listed, lies_there, now, replay
from .case_entries import CaseEntries, Journal, journal_lines
from .parts import Listed, Part

if TYPE_CHECKING:
    from .inputs import Skipped

PARTS, PARTS_FILE = "parts", "parts.json"
BEAT_SECONDS = 15.0
WATCH_SECONDS = 75.0  # longer than a network's file system believes what it knows of a folder


def recorded_count(folder: Path) -> int | None:
    """In how many parts the scans of an output folder are done; ``None`` where nobody spoke of parts.

    Raises:
        InputError: the file that says it is damaged or of a newer version.
    """
    path = folder / PARTS / PARTS_FILE
    if not path.exists():
        return None
    content = read_json(path)
    known = isinstance(content, dict) and content.get("schema_version") == SCHEMA_VERSION
    if not known or not isinstance(content.get("parts"), int):
        cause = f"{PARTS}/{PARTS_FILE} in '{folder.name}' is damaged or of a newer version."
        raise InputError(cause, "Update DDSPSegmentation or choose another output folder.")
    return content["parts"]


def check_parts(folder: Path, part: Part | None) -> None:
    """Refuse what does not fit the folder, before anything is read.

    Raises:
        InputError: another number of parts is recorded, or the folder was not filled, or was, by parts.
    """
    count = recorded_count(folder)
    if count is None:
        if part is not None and (folder / RUN_FILE).exists():
            cause = f"The output folder '{folder.name}' holds the results of a run that was not divided into parts."
            raise InputError(cause, "Choose another folder, or give --num-parts 1 to go on with all scans.")
        return
    if part is None or part.count != count:
        asked = "all scans in one" if part is None else f"{part.count} ({part.origin})"
        raise InputError(
            f"The scans of the output folder '{folder.name}' are divided into {count} parts, and this run is for "
            f"{asked}.",
            f"Give --num-parts {count} and --part-id, or choose another folder.",
        )


def record_parts(folder: Path, part: Part) -> None:
    """Write the number of parts where it is not written yet; the first who does so wins.

    Raises:
        InputError: another number is recorded. StorageError: it cannot be written.
    """
    check_parts(folder, part)
    if recorded_count(folder) is None:
        aside = folder / f".ddsp-{secrets.token_hex(6)}"
        with os_errors_as(StorageError, f"Folder '{PARTS}' cannot be made", "Choose a folder you may write to."):
            aside.mkdir()
            try:
                write_json({"schema_version": SCHEMA_VERSION, "parts": part.count}, aside / PARTS_FILE)
                with suppress(OSError):  # another part was first: its folder is there, and not empty
                    aside.rename(folder / PARTS)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
    check_parts(folder, part)


@dataclass
class TurnsOfPart:
    """What the turns of a part noted, the newest state of each case.

    Attributes:
        last: number of the newest turn; 0 without any.
        about: what it said of itself when it began, ``end`` when it ended; empty where it did not.
    """

    cases: CaseEntries
    last: int = 0
    about: dict = field(default_factory=dict)
    end: dict = field(default_factory=dict)

    def holder(self) -> str:
        """Who did the newest turn."""
        about = self.about
        if "process" not in about:
            return "another process"
        return f"process {about['process']} on host '{about['host']}' (since {about['started']})"


def read_turns(folder: Path, number: int, cases: CaseEntries) -> TurnsOfPart:
    """Read what a part noted.

    Args:
        folder: the output folder.
        cases: gets the entries.
    """
    turns = TurnsOfPart(cases)
    while (path := _turn_path(folder, number, turns.last + 1)).exists():
        turns.last, turns.about, turns.end = turns.last + 1, {}, {}
        replay(_told_apart(path, turns), cases)
    return turns


def _told_apart(path: Path, turns: TurnsOfPart) -> Iterator[dict]:
    for line in journal_lines(path):
        if "case" in line:
            yield line
        elif "begin" in line:
            turns.about = line["begin"]
        elif "end" in line:
            turns.end = line["end"]


class PartRecord(BatchRecord):
    """The record of one part while it is at work; run.json is written by nobody before the parts are merged."""

    def __init__(self, folder: Path, part: Part, listed: Listed, turns: TurnsOfPart):
        super().__init__(folder, {"schema_version": SCHEMA_VERSION}, turns.cases)
        self._part, self._listed, self._number = part, listed, turns.last + 1
        self.staging = _turn_path(folder, part.number, self._number).with_suffix("")

    @property
    def place(self) -> Path:
        return _part_folder(self._folder, self._part.number)

    def start(self, about: dict, names: Sequence[str], skipped: Iterable[Skipped]) -> None:
        self._forget_all_but(set(names))
        begin = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "started": now(),
            "about": {"notice": RESEARCH_ONLY, **about},
            "listed": asdict(self._listed),
            "cases": list(names),
            "skipped": as_listed(skipped),
        }
        self._add({"begin": begin})

    def finish(self, message: str) -> None:
        self._add({"end": {"message": message, "ended": now()}})

    def save(self) -> None:
        pass

    def check(self) -> None:
        """Raises FolderInUseError: a later turn has begun."""
        if _turn_path(self._folder, self._part.number, self._number + 1).exists():
            cause = f"{str(self._part).capitalize()} was taken over by a later start, as this one gave no sign of life."
            raise FolderInUseError(cause, "Nothing is lost: the other goes on.")

    def _note(self, name: str, entry: dict) -> None:
        self.check()
        super()._note(name, entry)

    def _add(self, line: dict) -> None:
        assert self._journal is not None
        with self.mutex:
            self._journal.add(line)

    @contextmanager
    def open(self) -> Iterator[PartRecord]:
        """At work between ``with`` and its end.

        Raises:
            FolderInUseError: somebody else has begun this turn at this moment. StorageError: nothing can be written.
        """
        try:
            self._journal = Journal(_turn_path(self._folder, self._part.number, self._number), "xb")
        except StorageError as error:
            if isinstance(error.__cause__, FileExistsError):
                cause = f"{str(self._part).capitalize()} has been started by another process at this moment."
                raise FolderInUseError(cause, "Wait for it.") from error
            raise
        over = threading.Event()
        beating = threading.Thread(target=self._beat, args=(over,), daemon=True)
        beating.start()
        try:
            for earlier in range(1, self._number):
                shutil.rmtree(_turn_path(self._folder, self._part.number, earlier).with_suffix(""), ignore_errors=True)
            make_folder(self.staging)
            yield self
        finally:
            over.set()
            beating.join()
            self._journal.close()
            shutil.rmtree(self.staging, ignore_errors=True)

    def _beat(self, over: threading.Event) -> None:
        assert self._journal is not None
        while not over.wait(BEAT_SECONDS):
            with suppress(StorageError), self.mutex:  # whoever works tells of the disk
                self._journal.beat()


def claim_part(
    folder: Path, part: Part, listed: Listed, progress: Callable[[str], None] = lambda line: None
) -> PartRecord:
    """The record of a part that nobody is at work on; see ``PartRecord.open``.

    Raises:
        FolderInUseError: somebody is. InputError: the folder is divided into another number of parts. StorageError:
            nothing can be written.
    """
    record_parts(folder, part)
    make_folder(_part_folder(folder, part.number))
    turns = read_turns(folder, part.number, CaseEntries())
    if turns.last and not turns.end:
        progress(f"Watching for {WATCH_SECONDS:.0f} s whether an earlier start of {part} is still at work.")
        if _grows(_turn_path(folder, part.number, turns.last)):
            cause = f"{str(part).capitalize()} is at work in '{folder.name}': {turns.holder()}."
            raise FolderInUseError(cause, "Wait for it, or end it and start this again.")
        turns = read_turns(folder, part.number, CaseEntries())  # it may have ended meanwhile
    return PartRecord(folder, part, listed, turns)


def _grows(path: Path) -> bool:
    """Whether a journal grows, or ends, within the time in which it would if somebody were at work on it."""
    give_up, before = time.monotonic() + WATCH_SECONDS, _length(path)
    while time.monotonic() < give_up:
        time.sleep(min(1.0, WATCH_SECONDS / 10))
        if _length(path) != before:
            return not any("end" in line for line in journal_lines(path))
    return False


def _length(path: Path) -> int:
    """Asked of the open file, which a network's file system looks at anew."""
    with suppress(OSError), open(path, "rb") as file:
        return os.fstat(file.fileno()).st_size
    return -1


def _part_folder(folder: Path, number: int) -> Path:
    return folder / PARTS / f"part-{number}"


def _turn_path(folder: Path, number: int, turn: int) -> Path:
    return _part_folder(folder, number) / f"turn-{turn}.jsonl"


def merge_parts(folder: Path) -> BatchRecord:
    """Put together what the parts of an output folder noted; its head lists under ``missing`` what is not there.

    Raises:
        InputError: the folder was not filled by parts.
    """
    count = recorded_count(folder)
    if count is None:
        cause = f"'{folder.name}' is no output folder that parts of a batch have filled."
        raise InputError(cause, "Name one; a run without --num-parts writes its report itself.")
    cases, missing = CaseEntries(), list[tuple[str, str]]()
    first: dict = {}
    for number in range(count):
        turns = read_turns(folder, number, CaseEntries())
        if not turns.about:
            missing.append((f"part {number} of {count}", "has not begun"))
            continue
        first = first or turns.about
        missing += [(f"part {number} of {count}", reason) for reason in _reasons(turns, first)]
        planned = set(turns.about["cases"])
        for name, entry in turns.cases.items():
            if lies_there(folder, entry) or (entry["state"] == "failed" and name in planned):
                cases[name] = entry
        lacking = sorted(name for name in planned if name not in cases)
        missing += [(name, f"of part {number}: {_why_lacking(turns.cases.get(name))}") for name in lacking]
    head = {
        "schema_version": SCHEMA_VERSION,
        **first.get("about", {}),
        "parts": count,
        "started": first.get("started", ""),
        "ended": now(),
        "state": f"incomplete: {len(missing)} missing" if missing else "finished",
        "missing": [{"name": name, "reason": reason} for name, reason in missing],
        "skipped": first.get("skipped", []),
    }
    return BatchRecord(folder, head, cases)


def _reasons(turns: TurnsOfPart, first: dict) -> Iterator[str]:
    """Why a part that has begun is not whole, or is none of the same batch."""
    about = turns.about
    if not turns.end:
        yield f"has not ended: {turns.holder()} is at work, or was ended from outside"
    elif turns.end["message"]:
        yield f"stopped: {turns.end['message']}"
    if about["listed"] != first["listed"]:
        counts = about["listed"]["count"], first["listed"]["count"]
        yield "was given other scans ({}) than the first part ({}); run both again".format(*counts)
    if about["about"] != first["about"]:
        odd = [name for name in about["about"] if about["about"][name] != first["about"].get(name)]
        yield f"was run with other settings ({', '.join(odd)}) than the first part; run both again"


def _why_lacking(entry: dict | None) -> str:
    if entry is None:
        return "not done yet"
    return "its mask is not there" if entry["state"] == "done" else "was being done"
