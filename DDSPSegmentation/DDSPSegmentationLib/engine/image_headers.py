"""What the headers of image files promise, checked before ITK reads: it fills gaps without a word."""

from __future__ import annotations

import math
import re
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .errors import InputError

SHEAR_TOLERANCE = 2e-3  # what rounding to three decimals leaves; files, DICOM and scene alike
SOUND_AXES = 1e-4  # off orthonormal: what single precision leaves
COPY_AGAIN = "Copy or export the file again."
CHECK_TYPE = "Check that it is an image of this type and that it was copied whole."
GZIP_START = b"\x1f\x8b"
HEADER_BYTES = 352  # of what is unpacked, as much is kept: a NIfTI header
RESAMPLE = "Harden the transform or resample first, then save as NRRD."

_META_BYTES = {
    **dict.fromkeys(("CHAR", "UCHAR"), 1),
    **dict.fromkeys(("SHORT", "USHORT"), 2),
    **dict.fromkeys(("INT", "UINT", "LONG", "ULONG", "FLOAT"), 4),
    **dict.fromkeys(("LONG_LONG", "ULONG_LONG", "DOUBLE"), 8),
}
_META_KEYS = {
    key.lower(): key
    for key in (
        "NDims BinaryData BinaryDataByteOrderMSB ElementByteOrderMSB CompressedData CompressedDataSize TransformMatrix "
        "Rotation Orientation Offset Origin Position ElementSpacing ElementSize DimSize HeaderSize ElementType "
        "ElementNumberOfChannels ElementDataFile"
    ).split()
}
_META_YES, _META_NO = ("true", "1"), ("false", "0")
_META_CHOICES = ("BinaryData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB", "CompressedData")
_META_AXES = {"transformmatrix": "TransformMatrix", "rotation": "Rotation", "orientation": "Orientation"}
_META_ORIGIN = {"offset": "Offset", "origin": "Origin", "position": "Position"}
_META_SPACING = {"elementspacing": "ElementSpacing", "elementsize": "ElementSize"}
_NRRD_ENCODINGS = ("raw", "txt", "text", "ascii", "hex", "gz", "gzip")
_NRRD_SKIPS = ("line skip", "lineskip", "byte skip", "byteskip")
_NRRD_SPACES = {
    *("left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las"),
    *("left-posterior-superior-time", "lpst", "right-anterior-superior-time", "rast"),
    *("left-anterior-superior-time", "last"),
}
_VECTOR = re.compile(r"\(([^)]*)\)")
_FLAT = 1e-6  # of a determinant
_LARGEST = 1e9  # of what places voxels; ITK computes for ever with axes whose squares overflow
_SHOWN = 60  # letters of a header
_EXPORT_AGAIN = "Export the scan again, as NRRD or from its DICOM series."
_SAVE_GZIP = "Save it as NRRD with the encoding gzip or raw."
_CHUNK = 1 << 20
_LONGEST_HEADER = 1 << 20
_GZIP_OR_ZLIB = 47


def check_nrrd(path: Path) -> None:
    """ITK takes gzip-compressed voxels whose checksum is wrong, reads devices and tells no cause: look first.

    Raises:
        InputError: sizes, axes or an encoding that cannot be read, no spacing, voxels that are missing, truncated or
            damaged. All else is left to ITK, which notices it.
    """
    fields, offset = text_header(path, ":")
    if not all(size.isdecimal() for size in fields.get("sizes", "").split()):
        raise _damaged_header(path, "sizes", fields["sizes"])
    for key in _NRRD_SKIPS:
        if not fields.get(key, "0").removeprefix("-").isdecimal():
            raise _damaged_header(path, key, fields[key])
    encoding = fields.get("encoding", "").lower()
    if encoding and encoding not in _NRRD_ENCODINGS:
        raise InputError(f"File '{path.name}' has the encoding '{encoding}', which is not read here.", _SAVE_GZIP)
    _check_nrrd_place(path, fields)
    data = detached_voxels(path) or path
    if not data.is_file():
        raise _no_voxels(path, data)
    if encoding in ("gz", "gzip"):
        with open(data, "rb") as file:
            file.seek(offset if data == path else 0)
            unpack(file, data.name)


def _check_nrrd_place(path: Path, fields: dict[str, str]) -> None:
    if "sizes" in fields and not fields.get("space directions") and not fields.get("spacings"):
        raise InputError(f"File '{path.name}' has no voxel spacing (spacings, space directions).", _EXPORT_AGAIN)
    for key in ("space directions", "space origin"):
        for vector in _VECTOR.findall(fields.get(key, "")):
            _check_numbers(path, key, fields[key], vector.split(","))


def check_metaimage(path: Path) -> None:
    """ITK prints to the console and names no file when voxels are missing, and takes damaged ones: look first.

    Raises:
        InputError: foreign, truncated or damaged, or the file of its voxels is not there.
    """
    fields, offset = text_header(path, "=")
    data_name = fields.get("elementdatafile", "")
    if not data_name or "ndims" not in fields:
        raise InputError(f"File '{path.name}' is not a readable MetaImage.", CHECK_TYPE)
    _check_metaimage_lines(path, offset)
    _check_metaimage_place(path, fields)
    data = detached_voxels(path) or path
    if not data.is_file():
        raise _no_voxels(path, data)
    sizes = fields.get("dimsize", "").split()
    if not all(size.isdecimal() for size in sizes):
        raise _damaged_header(path, "DimSize", fields["dimsize"])
    compressed = says_true(fields, "compresseddata")
    _check_metaimage_counts(path, fields, len(sizes), alone=data == path or compressed)
    try:
        channels = int(fields.get("elementnumberofchannels", 1))
        expected = math.prod(map(int, sizes)) * channels * _META_BYTES[fields["elementtype"].removeprefix("MET_")]
    except (KeyError, ValueError):
        return  # ITK says what is wrong with such a header
    with open(data, "rb") as file:
        if compressed:
            file.seek(offset if data == path else 0)
            found = unpack(file, data.name, int(fields.get("compresseddatasize", sys.maxsize)))[1]
        else:
            start = offset if data == path else bytes_before_voxels(fields, data, expected)
            found = data.stat().st_size - start
    check_length(data.name, found, expected)


def bytes_before_voxels(fields: dict[str, str], data: Path, expected: int) -> int:
    """Where the voxels start in a file of their own: where HeaderSize says, -1 being as far from its end as needed."""
    size = int(fields.get("headersize", 0))
    return max(0, data.stat().st_size - expected) if size < 0 else size


def says_true(fields: dict[str, str], key: str) -> bool:
    """Whether a MetaImage's header says yes to something; without the key it says no."""
    return fields.get(key, "").lower() in _META_YES


def _check_metaimage_lines(path: Path, end: int) -> None:
    """Each line is a key and its value: ITK takes any other as part of the next one's key, and so misses that."""
    with open(path, "rb") as file:
        lines = file.read(end).decode("utf-8", "surrogateescape").split("\n")
    known: dict[str, str] = {}
    for line in filter(str.strip, lines):
        key, found, value = (part.strip(" \t\r") for part in line.partition("="))
        usual = _META_KEYS.get(key.strip().lower(), key)
        if not found or key != usual or (key in _META_KEYS.values() and known.setdefault(key, value) != value):
            cause = f"File '{path.name}' has a damaged header: its line '{line.strip()[:_SHOWN]}' cannot be right."
            raise InputError(cause, COPY_AGAIN)


def _check_metaimage_counts(path: Path, fields: dict[str, str], dimensions: int, alone: bool) -> None:
    """Counts that ITK believes whatever they are: it ends the process, or reads voxels from another place.

    Args:
        alone: of voxels behind their header, or compressed, HeaderSize tells nothing.
    """
    before = fields.get("headersize", "0")
    right = {
        "NDims": fields["ndims"] == str(dimensions),
        "HeaderSize": before == "0" or (not alone and (before == "-1" or before.isdecimal())),
        "CompressedDataSize": fields.get("compresseddatasize", "0").isdecimal(),
        "ElementType": fields.get("elementtype", "MET_CHAR").removeprefix("MET_") in _META_BYTES,
        **{key: fields.get(key.lower(), "true").lower() in (*_META_YES, *_META_NO) for key in _META_CHOICES},
    }
    for key, is_right in right.items():
        if not is_right:
            raise _damaged_header(path, key, fields[key.lower()])


def _check_metaimage_place(path: Path, fields: dict[str, str]) -> None:
    if "dimsize" in fields and not (fields.get("elementspacing") or fields.get("elementsize")):
        raise InputError(f"File '{path.name}' has no voxel spacing (ElementSpacing).", _EXPORT_AGAIN)
    dimensions = len(fields.get("dimsize", "").split())
    for key, title in {**_META_AXES, **_META_ORIGIN, **_META_SPACING}.items():
        if key not in fields:
            continue
        numbers = _check_numbers(path, title, fields[key], fields[key].split())
        if numbers.size != (dimensions**2 if key in _META_AXES else dimensions):
            cause = f"File '{path.name}' has {numbers.size} numbers in its {title}, for {dimensions} dimensions."
            raise InputError(cause, _EXPORT_AGAIN)
        if key in _META_AXES and numbers.size == 9 and abs(np.linalg.det(numbers.reshape(3, 3))) < _FLAT:
            cause = f"File '{path.name}' has no three axes: its {title} is '{fields[key]}'."
            raise InputError(cause, _EXPORT_AGAIN)


def _check_numbers(path: Path, key: str, value: str, words: Sequence[str]) -> np.ndarray:
    """The numbers of a value; InputError where one is none."""
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError:
        numbers = np.array([np.nan])
    if not (np.abs(numbers) <= _LARGEST).all():
        cause = f"File '{path.name}' has {key} that are not valid numbers: '{value[:_SHOWN]}'."
        raise InputError(cause, _EXPORT_AGAIN)
    return numbers


def _no_voxels(path: Path, data: Path) -> InputError:
    """Why the file of the voxels that a header names is none."""
    name = voxels_name(path)
    if name.split()[0] == "LIST" or "%" in name:
        cause = f"'{path.name}' keeps its voxels in several files, which is not read here."
        return InputError(cause, "Save it as one file: NRRD, .mha or NIfTI.")
    if data.exists() and not data.is_dir():
        cause = f"The voxels of '{path.name}' are missing: '{data.name}', which it names, is a device and not a file."
        return InputError(cause, COPY_AGAIN)
    cause = f"The voxels of '{path.name}' are missing: its file '{data.name}' is not beside it."
    return InputError(cause, "Copy both files into one folder.")


def _damaged_header(path: Path, key: str, value: str) -> InputError:
    return InputError(f"File '{path.name}' has a damaged header: its {key} cannot be '{value[:_SHOWN]}'.", COPY_AGAIN)


def says_orientation(path: Path) -> bool:
    """Whether an NRRD or MetaImage tells how its axes lie in the patient; ITK takes them as left, posterior, superior.

    True for every other file.
    """
    if path.suffix.lower() in (".mha", ".mhd"):
        return any(key in text_header(path, "=")[0] for key in _META_AXES)
    if path.suffix.lower() in (".nrrd", ".nhdr"):
        fields = text_header(path, ":")[0]
        return fields.get("space", "").lower() in _NRRD_SPACES and bool(fields.get("space directions"))
    return True


def voxels_name(path: Path) -> str:
    """What an NRRD or MetaImage header calls the file of its voxels, "" where that is itself."""
    if path.suffix.lower() in (".mha", ".mhd"):
        name = text_header(path, "=")[0].get("elementdatafile", "LOCAL")
    elif path.suffix.lower() in (".nrrd", ".nhdr"):
        fields = text_header(path, ":")[0]
        name = fields.get("data file", fields.get("datafile", "LOCAL"))
    else:
        return ""
    return "" if name.upper() == "LOCAL" else name


def detached_voxels(path: Path) -> Path | None:
    """The second file that an NRRD or MetaImage header names for its voxels, there or not; None where there is none."""
    name = voxels_name(path)
    if not name:
        return None
    beside = path.parent / name
    if "\\" in name and not beside.is_file():  # as Windows writes a folder
        beside = path.parent / name.replace("\\", "/")
    return beside


def metaimage_parts(path: Path) -> tuple[str, dict[str, str], int]:
    """The name that a MetaImage gives its voxels' file ("" for its own), its header, and where that header ends."""
    fields, offset = text_header(path, "=")
    name = fields.get("elementdatafile", "LOCAL")
    return "" if name.upper() == "LOCAL" else name, fields, offset


def shear_of(direction: Sequence[float] | np.ndarray) -> float:
    """How far the columns of a direction are from an orthonormal frame; NaN where they are not numbers.

    0 where that is no more than rounding, ``SHEAR_TOLERANCE``.
    """
    shear = _off_orthonormal(direction)
    return 0.0 if shear <= SHEAR_TOLERANCE else shear


def rounding_mm(direction: Sequence[float], extent_mm: Sequence[float]) -> float:
    """How far axes that were rounded leave a voxel at the edge of the field off its place, in mm; 0 for sound ones.

    Args:
        direction: cosines, as SimpleITK gives them; ``extent_mm``: of the field of view along each image axis.
    """
    off = _off_orthonormal(direction)
    return off * max(extent_mm) / 2 if off > SOUND_AXES else 0.0


def _off_orthonormal(direction: Sequence[float] | np.ndarray) -> float:
    columns = np.reshape(direction, (3, 3))
    return float(np.abs(columns.T @ columns - np.eye(3)).max())


def unpack(file: BinaryIO, name: str, most: int = sys.maxsize) -> tuple[bytes, int]:
    """The first bytes and the length of a compressed stream, of ``most`` bytes itself, whose checksum is right."""
    unpacker, start, length, packed = zlib.decompressobj(_GZIP_OR_ZLIB), b"", 0, b""
    try:
        while True:
            if len(packed) < len(GZIP_START):
                read = file.read(min(_CHUNK, most))
                packed, most = packed + read, most - len(read)
            if unpacker.eof:
                if not packed.startswith(GZIP_START):
                    return start, length
                unpacker = zlib.decompressobj(_GZIP_OR_ZLIB)  # several streams one after the other are one file
            if not packed:
                break
            plain = unpacker.decompress(packed)
            start += plain[: HEADER_BYTES - len(start)]
            length += len(plain)
            packed = unpacker.unused_data
    except zlib.error as error:
        raise InputError(f"File '{name}' is damaged: its compressed data cannot be unpacked.", COPY_AGAIN) from error
    raise InputError(f"File '{name}' is truncated: its compressed data end too early.", COPY_AGAIN)


def check_length(name: str, found: int, expected: int) -> None:
    if found < expected:
        raise InputError(f"File '{name}' is truncated: {found} of {expected} bytes are there.", COPY_AGAIN)


def text_header(path: Path, separator: str) -> tuple[dict[str, str], int]:
    """The lines of an NRRD or MetaImage header by lower-case key, and where the voxels start."""
    fields: dict[str, str] = {}
    with open(path, "rb") as file:
        while file.tell() < _LONGEST_HEADER:
            line = file.readline(_LONGEST_HEADER).decode("utf-8", "surrogateescape").strip()
            key, found, value = line.partition(separator)
            if found and not key.startswith("#"):
                fields[key.strip().lower()] = value.strip()
            if not line or key.strip() == "ElementDataFile":
                break
        return fields, file.tell()
