"""One model version as one .zip file: written whole or not at all, read with suspicion.

Pictures and pages of a comparison show scans of patients and stay where they are; its figures go along.
"""

from __future__ import annotations

import hashlib
import io
import json
import stat
import zipfile
from pathlib import Path

from ..engine.errors import ModelError
from ..engine.files import os_errors_as, write_aside
from ..engine.model import DESCRIPTION_FILE, WEIGHTS_FILE
from ..engine.scan_identity import SeenScans
from .model_version import (
    COMPARISON_FILE,
    LEDGER_FILE,
    LEFT_BY_FILE_BROWSERS,
    MANIFEST_FILE,
    check_files,
    is_plain_name,
    manifest_text,
    parse_manifest,
)

EXPORT_AGAIN = "Export it again where it came from."
MOST_FILES = 32
MOST_BYTES = 64 << 20  # twenty times the network of the paper

_CARRIED = (DESCRIPTION_FILE, WEIGHTS_FILE, LEDGER_FILE, COMPARISON_FILE, MANIFEST_FILE)
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write_archive(folder: Path, path: Path, without_seen: bool = False) -> None:
    """Write a version's model, ledger, figures and texts with their checksums into one file.

    Args:
        without_seen: without digests and fingerprints of what it was trained on.

    Raises:
        ModelError: the version is not whole.
        StorageError: the file cannot be written.
    """
    checksums = {file: sha256 for file, sha256 in check_files(folder).items() if _is_carried(file)}
    with os_errors_as(ModelError, f"Model '{folder.name}' was removed in this very moment", "Choose another one."):
        contents = {file: (folder / file).read_bytes() for file in checksums}
    if without_seen:
        contents[DESCRIPTION_FILE] = _without_seen(contents[DESCRIPTION_FILE])
        checksums[DESCRIPTION_FILE] = hashlib.sha256(contents[DESCRIPTION_FILE]).hexdigest()
    manifest = manifest_text(folder.name, checksums).encode("utf-8")

    def write(aside: Path) -> None:
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as archive:
            for file, content in {MANIFEST_FILE: manifest, **contents}.items():
                archive.writestr(zipfile.ZipInfo(file, _EPOCH), content, zipfile.ZIP_DEFLATED)
        read_archive(aside)  # a disk that fills up is not always noticed while writing

    write_aside(path, ".zip", write)


def _without_seen(description: bytes) -> bytes:
    values = json.loads(description)
    return (json.dumps({**values, "seen": SeenScans().to_dict()}, indent=2) + "\n").encode("utf-8")


def read_archive(path: Path) -> tuple[str, dict[str, bytes]]:
    """Name and files (without the manifest) of an exported version, every checksum verified; nothing is executed.

    Raises:
        ModelError: not such a file, truncated, too large, with names, links or files that do not belong, or changed.
    """
    with os_errors_as(ModelError, f"File '{path.name}' cannot be read", "Check its name and that you may read it."):
        try:
            if path.stat().st_size > MOST_BYTES:
                raise _refused(path, f"is larger than {MOST_BYTES >> 20} MB")
            with zipfile.ZipFile(path) as archive:
                contents = _read_entries(archive, path)
        except (ModelError, OSError):
            raise
        except Exception as error:  # zipfile and zlib raise many types for what is truncated or foreign
            raise _refused(path, "is damaged or no .zip file") from error
    if MANIFEST_FILE not in contents:
        raise _refused(path, f"is not an exported model version (it has no {MANIFEST_FILE})")
    name, checksums = parse_manifest(contents.pop(MANIFEST_FILE), path.name)
    missing, added = sorted(set(checksums) - set(contents)), sorted(set(contents) - set(checksums))
    if missing:
        raise _refused(path, f"lacks '{missing[0]}'")
    if added:
        raise _refused(path, f"holds '{added[0]}', which does not belong to the model")
    for file, content in contents.items():
        if hashlib.sha256(content).hexdigest() != checksums[file]:
            raise _refused(path, f"was changed: '{file}' is not what was exported")
    _check_weights(contents[WEIGHTS_FILE], path)
    return name, contents


def _read_entries(archive: zipfile.ZipFile, path: Path) -> dict[str, bytes]:
    entries = [entry for entry in archive.infolist() if not _is_left_by_a_browser(_name_of(entry))]
    if len(entries) > MOST_FILES:
        raise _refused(path, f"holds {len(entries)} files; at most {MOST_FILES} are expected")
    folder = _common_folder([_name_of(entry) for entry in entries])
    names = set()
    for entry in entries:
        name = _name_of(entry).removeprefix(folder)
        if not _is_carried(name):
            raise _refused(path, f"holds {ascii(name[:80])}, which does not belong to a model version")
        if name.casefold() in names:
            raise _refused(path, f"holds '{name}' twice")
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
            raise _refused(path, f"holds '{name}' as a link or device, not as a file")
        if entry.flag_bits & 1:
            raise _refused(path, "is encrypted")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _refused(path, f"holds '{name}' in an unknown compression")
        names.add(name.casefold())
    size = sum(entry.file_size for entry in entries)
    if size > MOST_BYTES:
        raise _refused(path, f"would grow to {size >> 20} MB; at most {MOST_BYTES >> 20} MB are expected")
    return {_name_of(entry).removeprefix(folder): archive.read(entry) for entry in entries}


def _name_of(entry: zipfile.ZipInfo) -> str:
    """As it stands in the archive; some programs for Windows write its folders with backslashes."""
    return entry.orig_filename.replace("\\", "/")  # zipfile cuts `filename` at a null byte


def _is_left_by_a_browser(name: str) -> bool:
    """What macOS and Windows add to a .zip that they make anew of an unpacked one: folders, and notes of their own."""
    last = name.rsplit("/", 1)[-1]
    return not last or name.startswith("__MACOSX/") or last.startswith("._") or last.lower() in LEFT_BY_FILE_BROWSERS


def _common_folder(names: list[str]) -> str:
    """The folder that all files lie in, with its slash; "" where there is none."""
    folders = {name.partition("/")[0] for name in names if "/" in name}
    is_one = len(folders) == 1 and all("/" in name for name in names)
    return f"{folders.pop()}/" if is_one else ""


def _check_weights(weights: bytes, path: Path) -> None:
    """The weights file is a .zip of its own, which torch would unpack to whatever size it declares."""
    try:
        with zipfile.ZipFile(io.BytesIO(weights)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except Exception as error:  # zipfile raises many types for what is none
        raise _refused(path, f"holds no weights: '{WEIGHTS_FILE}' is not of the expected format") from error
    if size > MOST_BYTES:
        raise _refused(path, f"holds weights of {size >> 20} MB; at most {MOST_BYTES >> 20} MB are expected")


def _is_carried(name: str) -> bool:
    return name in _CARRIED or (name.endswith(".md") and is_plain_name(name))


def _refused(path: Path, what: str) -> ModelError:
    return ModelError(f"File '{path.name}' {what}.", EXPORT_AGAIN)
