"""run.json: what a batch run did to each case, written whole after each one, and free of folders and tags."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine.errors import DDSPSegmentationError, StorageError, is_out_of_memory, not_enough_memory
from ..engine.files import as_json, file_sha256, read_json, write_json
from ..engine.html_page import RESEARCH_ONLY
from ..engine.plain_names import printable

if TYPE_CHECKING:
    from .inputs import Skipped

RUN_FILE = "run.json"
LOG_FILE = "unexpected-errors.log"
SCHEMA_VERSION = 1

_FOLDERS = re.compile(r"(?<![\w./\\<])(?:[A-Za-z]:|\\|~)?[\\/](?:[^\\/\n'\"<>|:;,()]{1,255}[\\/])*(?=[^\s\\/'\"])")


class BatchRecord:
    """The state of an output folder.

    A case is ``running``, ``failed`` or ``done``. A case of an earlier run that is not among the inputs of this one
    stays listed as long as it is done and its mask is there.
    """

    def __init__(self, folder: Path, content: dict):
        self._folder = folder
        self.content = content

    @classmethod
    def read(cls, folder: Path) -> BatchRecord:
        """The record of the folder, empty when there is none or it is not readable.

        Raises:
            StorageError: it was written by a newer version.
        """
        try:
            content = read_json(folder / RUN_FILE)
            schema = int(content["schema_version"])
            cases = {
                str(name): entry
                for name, entry in content["cases"].items()
                if entry["state"] != "done" or (entry["mask"]["file"] and entry["mask"]["sha256"] and entry["identity"])
            }
        except (ValueError, KeyError, TypeError, AttributeError):
            schema, cases = SCHEMA_VERSION, {}
        if schema > SCHEMA_VERSION:
            raise StorageError(
                f"The output folder holds a {RUN_FILE} of a newer version (schema {schema}, known {SCHEMA_VERSION}).",
                "Update DDSPSegmentation or choose another output folder.",
            )
        return cls(folder, {"schema_version": SCHEMA_VERSION, "cases": cases})

    def start(self, about: dict, names: list[str], skipped: list[Skipped]) -> None:
        """Describe the run that begins; forget the cases that are neither in it nor still lying in the folder."""
        earlier = self.content["cases"].items()
        self.content = {
            "schema_version": SCHEMA_VERSION,
            "notice": RESEARCH_ONLY,
            **about,
            "started": time.strftime("%Y-%m-%d %H:%M:%S"),
            "state": "running",
            "cases": {name: entry for name, entry in earlier if name in names or self._lies_there(entry)},
            "skipped": [{"name": without_folders(one.label), "reason": without_folders(one.reason)} for one in skipped],
        }

    def finish(self, message: str) -> None:
        """Say how the run ended."""
        self.content["state"] = f"stopped: {message}" if message else "finished"
        self.content["ended"] = time.strftime("%Y-%m-%d %H:%M:%S")

    def entry(self, name: str) -> dict:
        return self.content["cases"].get(name, {})

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Around the work on a case, so that a kill leaves no file of unknown origin.

        When the work ends by an error or Ctrl-C before the mask was replaced, the earlier result stands again.
        """
        before = self.content["cases"].get(name)
        self.content["cases"][name] = self.entry(name) | {"state": "running"}
        self.save()
        try:
            yield
        except BaseException:
            mask = (before or {}).get("mask")
            if mask and before["state"] == "done" and known_sha256(self._folder / mask["file"]) == mask["sha256"]:
                self.content["cases"][name] = before
            raise

    def set_done(self, name: str, entry: dict) -> None:
        self.content["cases"][name] = as_json({"state": "done"} | entry, text=without_folders)

    def set_failed(self, name: str, reason: str) -> None:
        self.content["cases"][name] = {"state": "failed", "reason": reason}
        self.save()

    def done(self) -> list[tuple[str, dict]]:
        return [(name, entry) for name, entry in sorted(self.content["cases"].items()) if entry["state"] == "done"]

    def failed(self) -> list[tuple[str, str]]:
        entries = sorted(self.content["cases"].items())
        return [(name, entry["reason"]) for name, entry in entries if entry["state"] == "failed"]

    def save(self) -> None:
        """Replace run.json. Raises StorageError."""
        write_json(self.content, self._folder / RUN_FILE)

    def _lies_there(self, entry: dict) -> bool:
        return entry["state"] == "done" and (self._folder / entry["mask"]["file"]).is_file()


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
    lines = [f"{time.strftime('%Y-%m-%d %H:%M:%S')} {name}: {error_text(error)}", *frames_of(error)]
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
