"""Files that are never half there: written aside, then renamed; with JSON, CSV, folders and checksums."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import math
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from .errors import DDSPSegmentationError, InputError, StorageError

DANGLING = "is a link to a file that is not there"
NO_FILE = "is no file but a pipe or a device"
LINKED_FOLDER = "is a link to a folder, which is not followed"
_SHARING_SECONDS = 2.0

T = TypeVar("T")


def write_aside(path: Path, suffix: str, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file of another name beside ``path``, flush it to the disk, then rename it to ``path``.

    Args:
        suffix: of the file written aside, for writers that go by it.

    Raises:
        StorageError: disk full, no permission or no folder; nothing is left behind.
    """
    aside = path.parent / f".ddsp-{secrets.token_hex(6)}{suffix}"
    try:
        with open(aside, "xb"):
            pass
        write(aside)
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        retry_while_open(lambda: os.replace(aside, path))
    except (OSError, RuntimeError, InputError) as error:
        raise _storage_error(path, error) from error
    finally:
        with suppress(OSError):
            aside.unlink()


def write_bytes(content: bytes, path: str | os.PathLike) -> None:
    """Write bytes, see :func:`write_aside`."""
    write_aside(Path(path), Path(path).suffix, lambda aside: aside.write_bytes(content))


def write_text(text: str, path: str | os.PathLike) -> None:
    """Write UTF-8 text aside in the same folder, then rename.

    Raises:
        StorageError: no permission, no folder, or disk full.
    """
    write_bytes(text.encode("utf-8"), path)


def write_json(values: object, path: str | os.PathLike) -> None:
    """Write a value as indented JSON, see :func:`write_text`."""
    write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", path)


def as_json(value: Any, text: Callable[[str], str] = str) -> Any:
    """A value as JSON has it: tuples, dataclasses, what numpy made too; a number that is not finite becomes null.

    Args:
        text: what every text goes through.
    """
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): as_json(one, text) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(one, text) for one in value]
    if isinstance(value, str):
        return text(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> Any:
    """The value in a JSON file; None when it is not there or cannot be understood."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's bytes, see :func:`write_aside`."""
    write_aside(target, target.suffix, lambda aside: shutil.copyfile(source, aside))


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV with commas, a line each."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def make_folder(folder: str | os.PathLike, advice: str = "Choose a folder you may write to.") -> Path:
    """Make a folder with its parents, unless it is there.

    Args:
        advice: the next step that an error names.

    Raises:
        StorageError: it cannot be made.
    """
    folder = Path(folder)
    if folder.is_file():
        raise StorageError(f"'{folder.name}' is a file, not a folder.", advice)
    with os_errors_as(StorageError, f"Folder '{folder.name}' cannot be made", advice):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def files_below(folder: Path) -> tuple[list[Path], list[OSError], list[Path]]:
    """All files of a tree in the order of their paths, without hidden ones.

    Returns:
        the files, why other parts of the tree cannot be reached (see ``why_unreachable``), and the links to folders,
        which are not followed: they could lead round in a circle.
    """
    files: list[Path] = []
    unreachable: list[OSError] = []
    linked: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=unreachable.append):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        linked += [Path(parent, name) for name in folders if os.path.islink(Path(parent, name))]
        for path in (Path(parent, name) for name in sorted(names) if not name.startswith(".")):
            try:
                os.lstat(path)
                files.append(path)
            except OSError as error:
                unreachable.append(error)
    return files, unreachable, linked


def why_unreachable(error: OSError) -> str:
    """What ``files_below`` met, in words that follow a noun."""
    too_long = error.errno == errno.ENAMETOOLONG
    return "has a path that is too long; move it nearer to the top" if too_long else "may not be opened"


def delete_file(path: Path) -> None:
    """Delete a file, unless it is gone already. Raises OSError."""
    retry_while_open(lambda: path.unlink(missing_ok=True))


def delete_leftovers(folder: Path, before: float = math.inf) -> None:
    """Delete what killed writers left aside in a folder. Raises OSError.

    Args:
        before: time of the last change (s since 1970) from which a file is left alone, in a folder in which others may
            be writing.
    """
    for path in folder.glob(f".ddsp-{'[0-9a-f]' * 12}*"):
        with suppress(FileNotFoundError):  # its writer has ended in this moment
            if path.is_file() and path.stat().st_mtime < before:
                delete_file(path)


def retry_while_open(action: Callable[[], T]) -> T:
    """Do it; on Windows try again for a while where another process has the file open at this moment."""
    give_up = time.monotonic() + (_SHARING_SECONDS if sys.platform == "win32" else 0)
    while True:
        try:
            return action()
        except PermissionError:
            if time.monotonic() >= give_up:
                raise
            time.sleep(0.05)


@contextmanager
def os_errors_as(kind: type[DDSPSegmentationError], cause: str, next_step: str) -> Iterator[None]:
    """What the system refuses in the block becomes an error of the family, the system's reason behind its cause.

    Args:
        cause: without its full stop.
    """
    try:
        yield
    except OSError as error:
        raise kind(f"{cause} ({error.strerror or error}).", next_step) from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, read in blocks. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _storage_error(path: Path, error: Exception) -> StorageError:
    number = error.errno if isinstance(error, OSError) else None
    try:
        full = number is None and shutil.disk_usage(path.parent).free < 1 << 20
    except OSError:
        full = False
    if full or number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageError(f"'{path.name}' could not be written: the disk is full.", "Free some space and try again.")
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError(
            f"'{path.name}' could not be written: no permission.",
            "Choose a folder you may write to, or close the program that has the file open.",
        )
    if number in (errno.ENOENT, errno.ENOTDIR):
        return StorageError(
            f"'{path.name}' could not be written: its folder does not exist.", "Create the folder first."
        )
    reason = os.strerror(number) if number else "it did not arrive whole on the disk, which may be full"
    return StorageError(
        f"'{path.name}' could not be written: {reason}.", "Free some space or check the drive, then try again."
    )
