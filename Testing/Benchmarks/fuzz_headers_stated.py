"""What the header of an image file states, by a plain reading of its format; no reader of the product or of ITK helps.

Voxels are (x, y, z), places LPS mm. What cannot be understood raises one of ``SENSELESS``.
"""

from __future__ import annotations

import itertools
import math
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
from hard_inputs_files import RAS, Volume
from scipy.spatial.transform import Rotation

SENSELESS = (ValueError, KeyError, IndexError, OSError, OverflowError, struct.error, zlib.error, AttributeError)
FILE_MM, QUATERNION_MM, DICOM_VOXELS = 0.01, 0.2, 0.5  # a slice may lie that part of a voxel off the even stack
FARTHEST_MM = 1e5  # beyond it single precision, in which masks are stored, no longer tells neighbors apart
_FIRST_EXACT = 1e-6
_NRRD = {
    "signed char": "i1", "int8": "i1", "int8_t": "i1", "uchar": "u1", "unsigned char": "u1", "uint8": "u1",
    "uint8_t": "u1", "short": "i2", "short int": "i2", "signed short": "i2", "signed short int": "i2", "int16": "i2",
    "int16_t": "i2", "ushort": "u2", "unsigned short": "u2", "unsigned short int": "u2", "uint16": "u2",
    "uint16_t": "u2", "int": "i4", "signed int": "i4", "int32": "i4", "int32_t": "i4", "uint": "u4",
    "unsigned int": "u4", "uint32": "u4", "uint32_t": "u4", "longlong": "i8", "long long": "i8", "int64": "i8",
    "ulonglong": "u8", "unsigned long long": "u8", "uint64": "u8", "float": "f4", "double": "f8",
}  # fmt: skip
_META = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
_NIFTI = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_UNITS = {1: 1000.0, 3: 0.001}


@dataclass(frozen=True)
class Stated:
    """``voxels``: any of these; ``places``, (3, n), of the indices ``at``, (4, n): any of these, none where unknown."""

    voxels: tuple[np.ndarray, ...]
    at: np.ndarray
    places: tuple[np.ndarray, ...]
    spacing: np.ndarray
    most_mm: float

    def faults(self, voxels: np.ndarray, affine: np.ndarray) -> list[str]:
        """How a volume differs from what is stated; nothing where it does not."""
        if voxels.shape != self.voxels[0].shape:
            return [f"{voxels.shape} voxels, not {self.voxels[0].shape}"]
        faults = [] if any(_same(voxels, own) for own in self.voxels) else ["other voxels"]
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if not self.places and not np.allclose(spacing, self.spacing, rtol=1e-3):
            faults.append(f"voxels of {spacing} mm, not {self.spacing}")
        offs = [float(np.linalg.norm((affine @ self.at)[:3] - place, axis=0).max()) for place in self.places]
        largest = max(float(np.abs(place).max()) for place in self.places) if self.places else 0.0
        if offs and not min(offs) <= self.most_mm + _FIRST_EXACT * largest:
            faults.append(f"{min(offs):.3g} mm off")
        return faults


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    if one.dtype.kind == "f" or other.dtype.kind == "f":
        scale = float(np.nanmax(np.abs(other)))
        return np.allclose(one, other, rtol=1e-5, atol=1e-6 * scale if math.isfinite(scale) else 0, equal_nan=True)
    return np.array_equal(one, other)


def stated(paths: Sequence[Path], dicom: bool) -> Stated:
    """What the files of one case state."""
    if dicom:
        return _series(paths)
    name = paths[0].name
    if name.endswith((".nrrd", ".nhdr")):
        return _nrrd(paths[0])
    return _metaimage(paths[0]) if name.endswith((".mha", ".mhd")) else _nifti(paths[0])


def stated_volume(volume: Volume) -> Stated:
    """What a file of a volume would state."""
    return _volume(volume.voxels, [volume.affine], volume.spacing)


def _volume(voxels: np.ndarray, affines: Sequence[np.ndarray], spacing, most_mm: float = FILE_MM) -> Stated:
    at = np.array([[*corner, 1] for corner in itertools.product(*((0, count - 1) for count in voxels.shape))]).T
    if not np.isfinite(affines).all():
        raise ValueError("a place that is no number")
    return Stated((voxels,), at, tuple((affine @ at)[:3] for affine in affines), np.abs(spacing), most_mm)


def _affine(columns: np.ndarray, origin: np.ndarray) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = columns, origin
    return affine


def _shaped(content: bytes, kind: str, size: Sequence[int], start: int = 0) -> np.ndarray:
    """Voxels of a volume; four dimensions are one where the last has one place."""
    size = list(size)
    while len(size) > 3 and size[-1] == 1:
        size.pop()
    if len(size) != 3 or min(size) < 1:
        raise ValueError("no volume")
    return np.frombuffer(content, kind, math.prod(size), start).reshape(size, order="F")


def _floats(text: str) -> list[float]:
    return [float(word) for word in text.replace(",", " ").split()]


def _unpacked(content: bytes) -> bytes:
    return zlib.decompressobj(47).decompress(content)


def _beside(path: Path, name: str) -> bytes:
    there = path.parent / name
    if not there.is_file():
        raise ValueError("no such file")
    return there.read_bytes()


def _nrrd(path: Path) -> Stated:
    header, _, content = path.read_bytes().replace(b"\r\n", b"\n").partition(b"\n\n")
    lines = [line for line in header.decode("utf-8", "surrogateescape").split("\n") if not line.startswith("#")]
    pairs = [line.split(": ", 1) for line in lines[1:] if ": " in line and ":=" not in line]
    fields = {key.strip().lower(): value.strip() for key, value in reversed(pairs)}
    kind = _NRRD[fields["type"].lower()]
    if name := fields.get("data file", fields.get("datafile", "")):
        content = content if name == "LOCAL" else _beside(path, name)
    for _ in range(int(fields.get("line skip", 0))):
        content = content.partition(b"\n")[2]
    encoding = fields["encoding"].lower()
    if encoding in ("gz", "gzip"):
        content = _unpacked(content)
    elif encoding != "raw":
        raise ValueError("encoding")
    size = [int(count) for count in fields["sizes"].split()]
    order = ">" if fields.get("endian", "little").lower() == "big" else "<"
    needed = math.prod(size) * int(kind[1])
    skip = int(fields.get("byte skip", 0))
    voxels = _shaped(content, order + kind, size, len(content) - needed if skip == -1 else skip)
    flips = {"left": (1, 1), "right": (-1, -1), "anterior": (1, -1), "posterior": (1, 1)}
    letters = {"lps": (1, 1), "ras": (-1, -1), "las": (1, -1)}
    space = fields.get("space", "").lower()
    words = space.split("-")
    signs = letters.get(space) or (len(words) == 3 and (flips[words[0]][0], flips[words[1]][1])) or None
    if "space directions" not in fields:
        return _volume(voxels, [], _floats(fields["spacings"]))
    vectors = re.findall(r"\(([^)]*)\)", fields["space directions"])
    columns = np.transpose([_floats(vector) for vector in vectors][:3])
    origin = np.array(_floats(fields.get("space origin", "(0,0,0)").strip("()")))
    if signs is None:
        return _volume(voxels, [], np.linalg.norm(columns, axis=0))
    to_lps = np.diag([*signs, 1.0])
    return _volume(voxels, [_affine(to_lps @ columns, to_lps @ origin)], np.linalg.norm(columns, axis=0))


def _metaimage(path: Path) -> Stated:
    content = path.read_bytes()
    found = re.search(rb"^[ \t]*ElementDataFile\s*=([^\n]*)(?:\n|\Z)", content, re.MULTILINE)
    if found is None:
        raise ValueError("no voxels")
    header = content[: found.start()].decode("utf-8", "surrogateescape")
    fields = {key.strip(): value.strip() for key, value in (x.split("=", 1) for x in header.split("\n") if "=" in x)}
    name = found[1].decode("utf-8", "surrogateescape").strip()
    data = content[found.end() :] if name.upper() == "LOCAL" else _beside(path, name)
    kind = _META[fields["ElementType"]]
    size = [int(count) for count in fields["DimSize"].split()]
    if int(fields["NDims"]) != len(size) or int(fields.get("ElementNumberOfChannels", 1)) != 1:
        raise ValueError("no volume")
    if fields.get("CompressedData", "").lower().startswith("t"):
        data = _unpacked(data)
    skip = int(fields.get("HeaderSize", 0))
    order = fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "")).lower()
    start = len(data) - math.prod(size) * int(kind[1]) if skip == -1 else skip
    voxels = _shaped(data, (">" if order in ("true", "1") else "<") + kind, size, start)
    spacing = np.array(_floats(fields["ElementSpacing"]))[:3]
    origin = _floats(next((fields[key] for key in ("Offset", "Origin", "Position") if key in fields), "0 0 0"))
    axes = next((fields[key] for key in ("TransformMatrix", "Rotation", "Orientation") if key in fields), None)
    if axes is None:
        return _volume(voxels, [], spacing)
    columns = np.reshape(_floats(axes), (len(size), len(size))).T[:3, :3] * spacing
    return _volume(voxels, [_affine(columns, np.array(origin)[:3])], spacing)


def _nifti(path: Path) -> Stated:
    content = path.read_bytes()
    content = _unpacked(content) if content[:2] == b"\x1f\x8b" else content
    order = next(order for order in ("<", ">", "") if not order or struct.unpack_from(order + "i", content)[0] == 348)
    if not order:
        raise ValueError("no NIfTI-1 file")

    def field(form: str, place: int) -> tuple:
        return struct.unpack_from(order + form, content, place)

    size = field("8h", 40)
    kind = _NIFTI[field("h", 70)[0]]
    if field("h", 72)[0] != 8 * int(kind[1]) or not 1 <= size[0] <= 7:
        raise ValueError("it contradicts itself")
    voxels = _shaped(content, order + kind, size[1 : 1 + size[0]], int(field("f", 108)[0]))
    slope, intercept = field("2f", 112)
    scaled = voxels * (slope if math.isfinite(slope) and slope else 1) + (intercept if math.isfinite(intercept) else 0)
    readings = (scaled,) if math.isfinite(slope) and slope else (scaled, voxels)  # with 0, some leave the intercept out
    unit = _UNITS.get(content[123] & 7, 1.0)
    steps = np.array(field("4f", 76))
    spacing, places = steps[1:] * unit, []
    qform, sform = field("2h", 252)
    if qform > 0:
        b, c, d = field("3f", 256)
        turned = Rotation.from_quat([b, c, d, math.sqrt(max(0.0, 1 - b * b - c * c - d * d))]).as_matrix()
        columns = turned * [1, 1, -1 if steps[0] < 0 else 1] * spacing
        places.append(RAS @ _affine(columns, np.array(field("3f", 268)) * unit))
    if sform > 0:
        rows = np.reshape(field("12f", 280), (3, 4)) * unit
        places.append(RAS @ _affine(rows[:, :3], rows[:, 3]))
    return replace(_volume(voxels, places, spacing, QUATERNION_MM), voxels=readings)


def _series(paths: Sequence[Path]) -> Stated:
    planes = [pydicom.dcmread(path, force=True) for path in paths]
    axes = np.array(planes[0].ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(*axes)
    planes.sort(key=lambda plane: float(normal @ np.array(plane.ImagePositionPatient, float)))
    slices = [_plane_voxels(plane) for plane in planes]
    ends = [(x, y) for x in (0, slices[0][0].shape[0] - 1) for y in (0, slices[0][0].shape[1] - 1)]
    at = np.array([[x, y, z, 1] for z in range(len(planes)) for x, y in ends]).T
    places = np.array([_plane_place(plane, x, y) for plane in planes for x, y in ends]).T
    column, row = np.array(planes[0].PixelSpacing, float)
    voxels = tuple(np.stack(reading, axis=-1) for reading in zip(*slices, strict=True))
    return Stated(voxels, at, (places,), np.array([row, column, 0.0]), DICOM_VOXELS * min(row, column))


def _plane_place(plane: pydicom.Dataset, x: int, y: int) -> np.ndarray:
    along = np.array(plane.ImageOrientationPatient, float).reshape(2, 3)
    column, row = (float(step) for step in plane.PixelSpacing)
    return np.array(plane.ImagePositionPatient, float) + along[0] * row * x + along[1] * column * y


def _plane_voxels(plane: pydicom.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Gray values (x, y): all bits there are, and those alone that are said to be stored."""
    signed, bits = int(plane.PixelRepresentation), int(plane.BitsAllocated)
    order = ">" if plane.file_meta.get("TransferSyntaxUID") == pydicom.uid.ExplicitVRBigEndian else "<"
    content = np.frombuffer(plane.PixelData, f"{order}{'i' if signed else 'u'}{bits // 8}", plane.Rows * plane.Columns)
    stored, highest = int(plane.BitsStored), int(plane.get("HighBit", plane.BitsStored - 1))
    part = (content.astype(np.int64) >> (highest + 1 - stored)) & ((1 << stored) - 1)
    part = np.where(signed & (part >> (stored - 1)), part - (1 << stored), part)
    slope, intercept = (float(plane.get(f"Rescale{what}") or usual) for what, usual in (("Slope", 1), ("Intercept", 0)))
    readings = (content.reshape(plane.Rows, plane.Columns).T, part.reshape(plane.Rows, plane.Columns).T)
    if (slope, intercept) == (1, 0):
        return readings
    return readings[0] * slope + intercept, readings[1] * slope + intercept
