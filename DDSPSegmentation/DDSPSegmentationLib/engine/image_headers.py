"""What the headers of image files promise, checked before ITK reads: it fills gaps without a word."""

from __future__ import annotations

import math
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
RESAMPLE = "Harden the transform or resample first, then save as NRRD."

# What counts of a NIfTI-1 header; ITK reads no NIfTI-2.
_NIFTI = np.dtype(
    {
        "names": ("size", "dimensions", "bits", "spacing", "offset", "sform", "affine", "magic"),
        "formats": ("i4", "8i2", "i2", "3f4", "f4", "i2", "(3,4)f4", "S3"),
        "offsets": (0, 40, 72, 80, 108, 254, 280, 344),
        "itemsize": 352,
    }
)
_META_BYTES = {
    **dict.fromkeys(("SHORT", "USHORT"), 2),
    **dict.fromkeys(("INT", "UINT", "LONG", "ULONG", "FLOAT"), 4),
    **dict.fromkeys(("LONG_LONG", "ULONG_LONG", "DOUBLE"), 8),
}
_CHUNK = 1 << 20
_LONGEST_HEADER = 1 << 20
_GZIP_OR_ZLIB = 47
_GZIP_START = b"\x1f\x8b"


def check_nifti(path: Path) -> None:
    """ITK fills the missing end of a truncated file with zeros and drops a shear when there is a qform: look first.

    Raises:
        InputError: truncated, damaged, foreign, or an affine that is sheared or contradicts the voxel size.
    """
    with open(path, "rb") as file:
        if path.name.lower().endswith(".gz"):
            header, found = _unpack(file, path.name)
        else:
            header, found = file.read(_NIFTI.itemsize), path.stat().st_size
    _check_length(path.name, found, _check_nifti_header(header, path.name))


def check_nrrd(path: Path) -> None:
    """ITK takes gzip-compressed voxels whose checksum is wrong: unpack them once before it does.

    Raises:
        InputError: truncated or damaged compressed voxels. All else is left to ITK, which notices it.
    """
    fields, offset = text_header(path, ":")
    if fields.get("encoding", "").lower() not in ("gz", "gzip"):
        return
    data = detached_voxels(path) or path
    if data.is_file():
        with open(data, "rb") as file:
            file.seek(offset if data == path else 0)
            _unpack(file, data.name)


def check_metaimage(path: Path) -> None:
    """ITK prints to the console and names no file when voxels are missing, and takes damaged ones: look first.

    Raises:
        InputError: foreign, truncated or damaged, or the file of its voxels is not there.
    """
    fields, offset = text_header(path, "=")
    data_name = fields.get("elementdatafile", "")
    if not data_name or "ndims" not in fields:
        raise InputError(f"File '{path.name}' is not a readable MetaImage.", CHECK_TYPE)
    data = detached_voxels(path) or path
    if not data.is_file():
        if data_name.split()[0] == "LIST" or "%" in data_name:
            cause = f"'{path.name}' keeps its voxels in several files, which is not read here."
            raise InputError(cause, "Save it as one file: NRRD, .mha or NIfTI.")
        raise InputError(
            f"The voxels of '{path.name}' are missing: its file '{data.name}' is not beside it.",
            "Copy both files into one folder.",
        )
    try:
        channels = int(fields.get("elementnumberofchannels", 1))
        voxels = math.prod(int(count) for count in fields["dimsize"].split())
        expected = voxels * channels * _META_BYTES.get(fields["elementtype"].removeprefix("MET_"), 1)
    except (KeyError, ValueError):
        return  # ITK says what is wrong with such a header
    with open(data, "rb") as file:
        file.seek(offset if data == path else 0)
        if fields.get("compresseddata", "").lower().startswith("t"):
            found = _unpack(file, data.name)[1]
        else:
            found = data.stat().st_size - file.tell()
    _check_length(data.name, found, expected)


def detached_voxels(path: Path) -> Path | None:
    """The second file that an NRRD or MetaImage header names for its voxels, there or not; None where there is none."""
    if path.suffix.lower() in (".mha", ".mhd"):
        name = text_header(path, "=")[0].get("elementdatafile", "LOCAL")
    elif path.suffix.lower() in (".nrrd", ".nhdr"):
        fields = text_header(path, ":")[0]
        name = fields.get("data file", fields.get("datafile", "LOCAL"))
    else:
        return None
    if name.upper() == "LOCAL":
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


def _unpack(file: BinaryIO, name: str) -> tuple[bytes, int]:
    """The first bytes and the length of a compressed stream whose checksum is right."""
    unpacker, start, length, packed = zlib.decompressobj(_GZIP_OR_ZLIB), b"", 0, b""
    try:
        while True:
            if len(packed) < len(_GZIP_START):
                packed += file.read(_CHUNK)
            if unpacker.eof:
                if not packed.startswith(_GZIP_START):
                    return start, length
                unpacker = zlib.decompressobj(_GZIP_OR_ZLIB)  # several streams one after the other are one file
            if not packed:
                break
            plain = unpacker.decompress(packed)
            start += plain[: _NIFTI.itemsize - len(start)]
            length += len(plain)
            packed = unpacker.unused_data
    except zlib.error as error:
        raise InputError(f"File '{name}' is damaged: its compressed data cannot be unpacked.", COPY_AGAIN) from error
    raise InputError(f"File '{name}' is truncated: its compressed data end too early.", COPY_AGAIN)


def _check_length(name: str, found: int, expected: int) -> None:
    if found < expected:
        raise InputError(f"File '{name}' is truncated: {found} of {expected} bytes are there.", COPY_AGAIN)


def _check_nifti_header(header: bytes, name: str) -> int:
    """The bytes a whole file has; InputError for a foreign or a sheared one."""
    layouts = (_NIFTI, _NIFTI.newbyteorder()) if len(header) >= _NIFTI.itemsize else ()
    headers = (np.frombuffer(header, layout, 1)[0] for layout in layouts)
    fields = next((one for one in headers if one["size"] == 348 and one["magic"] == b"n+1"), None)
    if fields is None:
        raise InputError(f"File '{name}' is not a readable NIfTI image.", CHECK_TYPE)
    count = max(0, min(7, int(fields["dimensions"][0])))
    spacing = fields["spacing"][:count]
    if not (np.isfinite(spacing).all() and (spacing > 0).all()):
        found = " x ".join(f"{step:g}" for step in spacing)
        raise InputError(
            f"File '{name}' has a voxel spacing of {found} mm; it must be above zero.", "Export the scan again."
        )
    if fields["sform"] > 0:
        _check_affine(fields["affine"][:, :3].astype(float), spacing, name)
    voxels = math.prod(max(1, int(extent)) for extent in fields["dimensions"][1 : 1 + count])
    return (int(fields["offset"]) if np.isfinite(fields["offset"]) else 0) + voxels * int(fields["bits"]) // 8


def _check_affine(columns: np.ndarray, spacing: np.ndarray, name: str) -> None:
    """The affine (sform) has orthogonal columns as long as the voxels are."""
    lengths = np.linalg.norm(columns, axis=0)
    with np.errstate(all="ignore"):
        shear = shear_of(columns / lengths)
    if shear:
        found = f"off orthogonal by {shear:.2g}" if math.isfinite(shear) else "not valid numbers"
        raise InputError(f"File '{name}' is sheared: the axes of its affine (sform) are {found}.", RESAMPLE)
    if (np.abs(lengths[: spacing.size] - spacing) > 0.01 * spacing).any():
        sizes = [" x ".join(f"{step:.3g}" for step in steps) for steps in (lengths[: spacing.size], spacing)]
        raise InputError(
            f"File '{name}' contradicts itself: its affine has voxels of {sizes[0]} mm, its pixdim {sizes[1]} mm.",
            "Export the scan again, as NRRD or from its DICOM series.",
        )


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
