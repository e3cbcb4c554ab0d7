"""What one DICOM file says about its slice, read through SimpleITK's GDCM, and what can be said of a torn one."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
MR = "1.2.840.10008.5.1.4.1.1.4"
DIRECTORY = "1.2.840.10008.1.3.10"
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
COLOR = ("RGB", "PALETTE COLOR", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_ICT", "YBR_RCT")
RLE = "1.2.840.10008.1.2.5"
READ_BY_GDCM = {
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
    RLE,
    *(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91)),
}

_HEAD_BYTES = 1 << 18
_GROUP_2_BYTES = 512
_PREAMBLE_BYTES = 132
_LENGTH = rb"(?:UI..|IS..|....)"
_SOP_CLASS = re.compile(rb"\x08\x00\x16\x00" + _LENGTH + rb"([0-9.]{5,64})", re.S)
# StudyInstanceUID and SeriesInstanceUID side by side are the file's own; inside a sequence they name another series.
_SERIES = re.compile(
    rb"\x20\x00\x0d\x00" + _LENGTH + rb"[0-9.]{1,64}\x00?\x20\x00\x0e\x00" + _LENGTH + rb"([0-9.]{1,64})", re.S
)
_INSTANCE = re.compile(rb"\x20\x00\x13\x00" + _LENGTH + rb"\s*(\d{1,9})", re.S)
_TRANSFER_SYNTAX = re.compile(rb"\x02\x00\x10\x00UI..([0-9.]{5,64})", re.S)
_RLE_FRAME = re.compile(rb"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0(....)", re.S)


@dataclass(frozen=True)
class DicomFile:
    """One file of a series. ``position``, ``spacing`` and ``thickness`` are mm in LPS, ``echo_time`` ms.

    ``readable`` is False for a truncated or damaged file, of which only ``series`` and perhaps ``instance`` are known.
    ``unsupported`` marks a compression GDCM cannot read. ``names`` is lower-case text and never shown to anyone.
    """

    path: Path = field(repr=False)
    series: str = field(repr=False)
    instance: int | None = None
    readable: bool = False
    modality: str = ""
    names: str = field(default="", repr=False)
    image_type: str = field(default="", repr=False)
    photometric: str = ""
    position: tuple[float, ...] | None = None
    orientation: tuple[float, ...] | None = None
    size: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    thickness: float = 1.0
    echo_time: float | None = None
    echo_number: int | None = None
    frames: int = 1
    enhanced: bool = False
    unsupported: bool = False


def read_dicom_file(path: Path) -> DicomFile | None:
    """What the file says, or None for a hidden file, DICOMDIR or anything that is not DICOM.

    A file that is no image of a series that can be told comes back with an empty ``series``: a report, a file that may
    not be opened, one that is cut off within its first lines.
    """
    if path.name.startswith(".") or path.name.upper() == "DICOMDIR":
        return None
    try:
        with open(path, "rb") as file:
            head = file.read(_PREAMBLE_BYTES)
            if not _looks_like_dicom(head):
                return DicomFile(path, "") if path.suffix.lower() in DICOM_SUFFIXES else None
            head += file.read(_HEAD_BYTES)
    except OSError:
        return DicomFile(path, "")
    if DIRECTORY.encode() in head[:_GROUP_2_BYTES]:
        return None
    syntax = _first(_TRANSFER_SYNTAX, head)
    if syntax == RLE and not _has_rle_segments(path):
        return _torn_file(path, head)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.LoadPrivateTagsOff()
    try:
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
    except (RuntimeError, ValueError):
        return _torn_file(path, head)
    return _whole_file(path, reader, unsupported=bool(syntax) and syntax not in READ_BY_GDCM)


def _looks_like_dicom(head: bytes) -> bool:
    """With the preamble, or without as old scanners write it: then group 8 comes first."""
    return head[128:132] == b"DICM" or (head[:2] == b"\x08\x00" and head[3:4] == b"\x00")


def _torn_file(path: Path, head: bytes) -> DicomFile:
    """A damaged slice still counts in its series, so that it is missed there and not passed over."""
    series = _first(_SERIES, head) if _first(_SOP_CLASS, head) in (MR, ENHANCED_MR) else ""
    instance = _first(_INSTANCE, head)
    return DicomFile(path, series, instance=int(instance) if instance else None)


def _whole_file(path: Path, reader: sitk.ImageFileReader, unsupported: bool) -> DicomFile:
    def text(tag: str) -> str:
        return reader.GetMetaData(tag).strip(" \0") if reader.HasMetaDataKey(tag) else ""

    frames = _integer(text("0028|0008")) or 1
    enhanced = text("0008|0016") == ENHANCED_MR
    position = _floats(text("0020|0032"), 3)
    orientation = _unit_axes(_floats(text("0020|0037"), 6))
    if enhanced or frames > 1:  # the place of a multi-frame object lies in its functional groups, which GDCM reads
        position = tuple(reader.GetOrigin())
        orientation = tuple(np.array(reader.GetDirection()).reshape(3, 3)[:, :2].T.ravel())
    return DicomFile(
        path=path,
        series=text("0020|000e"),
        instance=_integer(text("0020|0013")),
        readable=True,
        modality=text("0008|0060"),
        names=" ".join(text(tag) for tag in ("0008|103e", "0018|1030", "0018|0024")).lower(),
        image_type=text("0008|0008").lower(),
        photometric=text("0028|0004"),
        position=position,
        orientation=orientation,
        size=tuple(reader.GetSize()[:2]),
        spacing=tuple(reader.GetSpacing()[:2]),
        thickness=float(reader.GetSpacing()[2]) if len(reader.GetSpacing()) > 2 else 1.0,
        echo_time=(_floats(text("0018|0081"), 1) or (None,))[0],
        echo_number=_integer(text("0018|0086")),
        frames=frames,
        enhanced=enhanced,
        unsupported=unsupported,
    )


def _has_rle_segments(path: Path) -> bool:
    """GDCM divides by the number of segments of a run-length coded frame: nought of them would end the process."""
    content = path.read_bytes()
    table = _RLE_FRAME.search(content)
    if table is None:
        return False
    frame = table.end() + struct.unpack("<I", table.group(1))[0]
    if content[frame : frame + 4] != b"\xfe\xff\x00\xe0" or len(content) < frame + 12:
        return False
    return 1 <= struct.unpack_from("<I", content, frame + 8)[0] <= 15


def _first(pattern: re.Pattern[bytes], head: bytes) -> str:
    found = pattern.search(head)
    return found.group(1).decode("ascii") if found else ""


def _integer(text: str) -> int | None:
    numbers = _floats(text.split("\\")[0], 1)
    return int(numbers[0]) if numbers else None


def _floats(text: str, count: int) -> tuple[float, ...] | None:
    try:
        numbers = tuple(float(part) for part in text.split("\\"))
    except ValueError:
        return None
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None


def _unit_axes(numbers: tuple[float, ...] | None) -> tuple[float, ...] | None:
    """Row and column directions, or None where they are not two directions at all."""
    if numbers is None or not np.allclose(np.linalg.norm(np.reshape(numbers, (2, 3)), axis=1), 1, atol=1e-2):
        return None
    return numbers
