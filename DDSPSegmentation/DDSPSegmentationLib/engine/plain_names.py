"""Names that ITK takes for what they are: its readers see a pattern in a ``%``, and end the process at other letters.

A file of any other name is handed to them under a plain one, by a link where the system makes links, else by a copy.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError
from .image_headers import COPY_AGAIN, detached_voxels, metaimage_parts, says_true, voxels_name

_RAW = "voxels.raw"


def is_plain(text: str) -> bool:
    """Whether a path or a name is UTF-8 and holds neither ``%`` nor control characters."""
    return "%" not in text and text.isprintable() and not any("\ud800" <= letter <= "\udfff" for letter in text)


def printable(text: str) -> str:
    """A name as it can be shown and stored anywhere: bytes that are no UTF-8 and control characters by their codes."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


@contextmanager
def plainly_named(path: Path, suffix: str, always: bool = False) -> Iterator[Path]:
    """The file under a name that ITK cannot take for another one, while the context lasts.

    Args:
        suffix: of its format; ``always``: hand it over alone, even where its own name is plain.

    Raises:
        InputError: a MetaImage keeps its voxels in several files.
    """
    voxels = detached_voxels(path)
    name = voxels_name(path)
    unsized = suffix in (".mha", ".mhd") and voxels is None and _is_unsized(path)
    if not (always or unsized) and is_plain(str(path)) and is_plain(name) and "\\" not in name:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, f"volume{suffix}")
        if unsized:
            plain.write_bytes(_with_size(path))
        elif voxels is None:
            link(path, plain)
        elif suffix in (".mha", ".mhd"):
            link(voxels, Path(folder, _RAW))
            plain.write_bytes(_with_voxels_in(path, _RAW))
        else:
            link(voxels, Path(folder, voxels.name if is_plain(voxels.name) else _RAW))
            plain.write_bytes(_nrrd_with_voxels_in(path, voxels.name if is_plain(voxels.name) else _RAW))
        yield plain


def link(path: Path, plain: Path) -> None:
    """Another name for a file; a copy where the system makes no links."""
    try:
        os.symlink(os.path.abspath(path), plain)
    except (OSError, NotImplementedError):
        shutil.copyfile(path, plain)


def _is_unsized(path: Path) -> bool:
    """Whether a MetaImage does not say how long its own compressed voxels are; ITK then unpacks nothing."""
    fields = metaimage_parts(path)[1]
    return says_true(fields, "compresseddata") and "compresseddatasize" not in fields


def _with_size(path: Path) -> bytes:
    """A MetaImage that says how long its compressed voxels are."""
    content, offset = path.read_bytes(), metaimage_parts(path)[2]
    size = f"CompressedDataSize = {len(content) - offset}\n".encode()
    start = content[:offset].rindex(b"ElementDataFile")
    return content[:start] + size + content[start:]


def _with_voxels_in(path: Path, name: str) -> bytes:
    """The header of a MetaImage that names another file for its voxels."""
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines):
        if line.split(b"=")[0].strip() == b"ElementDataFile":
            return b"".join(lines[:number]) + f"ElementDataFile = {name}\n".encode()
    raise InputError(f"File '{path.name}' names no file of its voxels.", COPY_AGAIN)


def _nrrd_with_voxels_in(path: Path, name: str) -> bytes:
    """The header of an NRRD that names another file for its voxels."""
    lines = path.read_bytes().splitlines(keepends=True)
    keys = (b"data file", b"datafile")
    return b"".join(
        f"data file: {name}\n".encode() if line.split(b":")[0].strip().lower() in keys else line for line in lines
    )
