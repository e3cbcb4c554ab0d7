"""Image files as any program may have written them, to the byte; no reader stands between a builder and its file.

Volumes are (x, y, z) with an affine from voxel index to LPS millimetres.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

SAMPLE = Path(__file__).resolve().parents[2] / "DDSPSegmentation/Resources/SampleData/ProstateX-0000.nrrd"
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # from LPS and back

_NIFTI_TYPES = {
    "u1": 2, "i2": 4, "i4": 8, "f4": 16, "c8": 32, "f8": 64, "i1": 256, "u2": 512, "u4": 768, "i8": 1024, "u8": 1280,
}  # fmt: skip
_NRRD_TYPES = {
    "u1": "uint8", "i1": "int8", "i2": "int16", "u2": "uint16", "i4": "int32", "u4": "uint32", "i8": "int64",
    "u8": "uint64", "f4": "float", "f8": "double",
}  # fmt: skip
_META_TYPES = {
    "u1": "MET_UCHAR", "i1": "MET_CHAR", "i2": "MET_SHORT", "u2": "MET_USHORT", "i4": "MET_INT", "u4": "MET_UINT",
    "f4": "MET_FLOAT", "f8": "MET_DOUBLE", "i8": "MET_LONG_LONG", "u8": "MET_ULONG_LONG",
}  # fmt: skip


@dataclass(frozen=True)
class Volume:
    """``voxels`` (x, y, z) and ``affine``, 4 x 4, from index to LPS mm."""

    voxels: np.ndarray
    affine: np.ndarray

    @property
    def spacing(self) -> np.ndarray:
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def axes(self) -> np.ndarray:
        """Unit vectors of the three axes, one a column."""
        return self.affine[:3, :3] / self.spacing

    def with_voxels(self, voxels: np.ndarray) -> Volume:
        return replace(self, voxels=voxels)

    def cropped(self, box: Sequence[slice]) -> Volume:
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ [part.start or 0 for part in box]
        return Volume(self.voxels[tuple(box)], affine)

    def moved(self, matrix: np.ndarray) -> Volume:
        """Elsewhere in the patient: ``matrix`` is 4 x 4, in LPS mm."""
        return replace(self, affine=matrix @ self.affine)

    def sheared(self, by: float) -> Volume:
        """The first axis leans towards the second by ``by``, as a sine; the voxels keep their length."""
        axes = self.axes.copy()
        axes[:, 0] = np.sqrt(1 - by**2) * axes[:, 0] + by * axes[:, 1]
        affine = self.affine.copy()
        affine[:3, :3] = axes * self.spacing
        return replace(self, affine=affine)

    def resliced(self, axes: np.ndarray, spacing: Sequence[float], size: Sequence[int]) -> Volume:
        """Around the same center, with other axes (one a column, LPS), spacing and size; 0 outside."""
        affine = np.eye(4)
        affine[:3, :3] = np.asarray(axes) * np.asarray(spacing)
        middle = self.affine @ [*(np.array(self.voxels.shape) - 1) / 2, 1]
        affine[:3, 3] = middle[:3] - affine[:3, :3] @ ((np.array(size) - 1) / 2)
        to_index = np.linalg.inv(self.affine) @ affine
        index = np.indices(size).reshape(3, -1)
        places = to_index[:3, :3] @ index + to_index[:3, 3:]
        voxels = map_coordinates(self.voxels.astype(np.float32), places, order=1)
        return Volume(np.round(voxels).reshape(size).astype(self.voxels.dtype), affine)


@cache
def sample() -> Volume:
    """The bundled scan, int16."""
    scan = read_nrrd(SAMPLE)
    return scan.with_voxels(scan.voxels.astype(np.int16))


def read_nrrd(path: Path) -> Volume:
    """A gzip-compressed file in LPS, as the bundled scan and the product's masks are.

    Raises:
        ValueError, KeyError: not such a file.
    """
    header, _, content = path.read_bytes().partition(b"\n\n")
    fields = dict(line.split(": ", 1) for line in header.decode().splitlines() if ": " in line)
    size = [int(count) for count in fields["sizes"].split()]
    affine = np.eye(4)
    affine[:3, :3] = np.transpose(
        [[float(x) for x in axis.strip("()").split(",")] for axis in fields["space directions"].split()]
    )
    affine[:3, 3] = [float(x) for x in fields["space origin"].strip("()").split(",")]
    kind = {"unsigned short": "<u2", "unsigned char": "u1", "uint8": "u1"}[fields["type"]]
    return Volume(np.frombuffer(gzip.decompress(content), kind).reshape(size, order="F"), affine)


# NIfTI


def nifti_header(
    volume: Volume,
    *,
    codes: tuple[int, int] = (1, 1),
    qform: np.ndarray | None = None,
    sform: np.ndarray | None = None,
    endian: str = "<",
    version: int = 1,
    pair: bool = False,
    scale: tuple[float, float] = (0, 0),
    units: int = 2,
    kind: int | None = None,
    bits: int | None = None,
) -> bytearray:
    """A header that says what it is told, sense or nonsense.

    Args:
        codes: of qform and sform. qform, sform: LPS affines; the volume's own by default.
        pair: voxels in a file of their own. scale: slope and intercept.
        kind, bits: NIfTI's number for the type of a voxel and its size, where numpy has no such type.
    """
    qform, sform = (volume.affine if form is None else form for form in (qform, sform))
    spacing = np.linalg.norm(qform[:3, :3], axis=0)
    axes = (RAS @ qform)[:3, :3] / spacing
    handed = 1.0 if np.linalg.det(axes) > 0 else -1.0
    quaternion = Rotation.from_matrix(axes * [1, 1, handed]).as_quat()
    quaternion = (quaternion if quaternion[3] >= 0 else -quaternion)[:3]
    shape = volume.voxels.shape
    size = [len(shape), *shape, *[1] * (7 - len(shape))]
    steps = [handed, *spacing[: len(shape)], *[1.0] * (7 - min(3, len(shape)))][:8]
    known = volume.voxels.dtype.str[1:]
    numbers = (kind or _NIFTI_TYPES[known], bits or volume.voxels.dtype.itemsize * 8)
    rows = (RAS @ sform)[:3].ravel()
    offset = (RAS @ qform)[:3, 3]
    if version == 2:
        header = bytearray(544)
        layout = [(0, "i", [540]), (4, "8s", [b"n+2\0\r\n\x1a\n"]), (12, "2h", numbers), (16, "8q", size)]
        layout += [(104, "8d", steps), (168, "q", [544]), (176, "2d", scale), (344, "2i", codes)]
        layout += [(352, "3d", quaternion), (376, "3d", offset), (400, "12d", rows), (500, "i", [units])]
    else:
        header = bytearray(348 if pair else 352)
        layout = [(0, "i", [348]), (40, "8h", size), (70, "2h", numbers), (76, "8f", steps)]
        layout += [(108, "f", [0 if pair else 352]), (112, "2f", scale), (123, "B", [units]), (252, "2h", codes)]
        layout += [(256, "3f", quaternion), (268, "3f", offset), (280, "12f", rows)]
        layout += [(344, "4s", [b"ni1\0" if pair else b"n+1\0"])]
    for place, form, values in layout:
        struct.pack_into(endian + form, header, place, *values)
    return header


def nifti_voxels(voxels: np.ndarray, endian: str = "<") -> bytes:
    return voxels.astype(voxels.dtype.newbyteorder(endian)).tobytes(order="F")


def save_nifti(path: Path, volume: Volume, changes: Sequence[tuple] = (), compress: bool | None = None, **how) -> None:
    """Compressed where the name says so, unless told.

    Args:
        changes: (offset, struct format, value, ...) written over the header. how: see ``nifti_header``.
    """
    header = nifti_header(volume, **how)
    for place, form, *values in changes:
        struct.pack_into(how.get("endian", "<") + form, header, place, *values)
    content = bytes(header) + nifti_voxels(volume.voxels, how.get("endian", "<"))
    compress = path.name.lower().endswith(".gz") if compress is None else compress
    path.write_bytes(packed(content) if compress else content)


def packed(content: bytes) -> bytes:
    """gzip without a date."""
    return gzip.compress(content, compresslevel=1, mtime=0)


def read_nifti(path: Path, form: str = "sform") -> Volume:
    """A mask as the product wrote it, placed by its ``sform`` or its ``qform``.

    Raises:
        ValueError: not such a file.
    """
    content = path.read_bytes()
    content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    if len(content) < 352 or struct.unpack_from("<i", content)[0] != 348:
        raise ValueError("no NIfTI-1 file")
    size = struct.unpack_from("<8h", content, 40)
    kinds = {number: name for name, number in _NIFTI_TYPES.items()}
    kind = np.dtype("<" + kinds[struct.unpack_from("<h", content, 70)[0]])
    shape = [max(1, count) for count in size[1:4]]
    start = int(struct.unpack_from("<f", content, 108)[0])
    voxels = np.frombuffer(content, kind, int(np.prod(shape)), start).reshape(shape, order="F")
    qform_code, sform_code = struct.unpack_from("<2h", content, 252)
    affine = np.eye(4)
    if (form == "sform" and sform_code) or not qform_code:
        affine[:3] = np.reshape(struct.unpack_from("<12f", content, 280), (3, 4))
    else:
        steps = np.array(struct.unpack_from("<4f", content, 76))
        b, c, d = struct.unpack_from("<3f", content, 256)
        turned = Rotation.from_quat([b, c, d, np.sqrt(max(0.0, 1 - b * b - c * c - d * d))]).as_matrix()
        affine[:3, :3] = turned * [1, 1, -1 if steps[0] < 0 else 1] * steps[1:]
        affine[:3, 3] = struct.unpack_from("<3f", content, 268)
    return Volume(voxels, RAS @ affine)


# NRRD


def nrrd_header(volume: Volume, extra: Mapping[str, str] | None = None, keys: Mapping[str, str] | None = None) -> str:
    """Fields and keys (``name:=value``); ``extra`` replaces a field, or leaves it out where it is empty."""
    dimensions = volume.voxels.ndim
    vectors = [f"({','.join(format(x, '.17g') for x in volume.affine[:3, axis])})" for axis in range(3)]
    big = volume.voxels.dtype.byteorder == ">"
    fields = {
        "type": _NRRD_TYPES[volume.voxels.dtype.str[1:]],
        "dimension": str(dimensions),
        "space": "left-posterior-superior",
        "sizes": " ".join(map(str, volume.voxels.shape)),
        "space directions": " ".join(["none"] * (dimensions - 3) + vectors),
        "kinds": " ".join(["list"] * (dimensions - 3) + ["domain"] * 3),
        "endian": "big" if big else "little",
        "encoding": "gzip",
        "space origin": f"({','.join(format(x, '.17g') for x in volume.affine[:3, 3])})",
        **(extra or {}),
    }
    lines = ["NRRD0005", *(f"{name}: {value}" for name, value in fields.items() if value)]
    return "\n".join([*lines, *(f"{key}:={value}" for key, value in (keys or {}).items())]) + "\n"


def save_nrrd(path: Path, volume: Volume, extra: Mapping[str, str] | None = None, keys=None, data: str = "") -> None:
    """With its voxels, or with a second file of them that the header calls ``data`` (written where that leads)."""
    extra = dict(extra or {})
    voxels = volume.voxels.tobytes(order="F")
    voxels = packed(voxels) if extra.get("encoding", "gzip") == "gzip" else voxels
    if data:
        header = nrrd_header(volume, extra | {"data file": data}, keys)
        path.write_bytes(header.encode("utf-8", "surrogateescape"))
        (path.parent / data).write_bytes(voxels)
    else:
        path.write_bytes(nrrd_header(volume, extra, keys).encode() + b"\n" + voxels)


# MetaImage


def meta_header(volume: Volume, data: str, extra: Mapping[str, str] | None = None) -> str:
    numbers = {
        "TransformMatrix": volume.axes.T.ravel(),
        "Offset": volume.affine[:3, 3],
        "ElementSpacing": volume.spacing,
        "DimSize": volume.voxels.shape,
    }
    fields = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "True" if volume.voxels.dtype.byteorder == ">" else "False",
        "CompressedData": "False",
        **{name: " ".join(format(value, ".17g") for value in values) for name, values in numbers.items()},
        "ElementType": _META_TYPES[volume.voxels.dtype.str[1:]],
        **(extra or {}),
    }
    fields["ElementDataFile"] = data
    return "".join(f"{name} = {value}\n" for name, value in fields.items() if value)


def save_meta(path: Path, volume: Volume, named: str = "", data: str = "", extra=None, compress: bool = False) -> None:
    """``.mha`` in one file; ``.mhd`` with ``data`` beside it, which its header calls ``named``; both by the stem."""
    voxels, extra = volume.voxels.tobytes(order="F"), dict(extra or {})
    if compress:
        voxels = zlib.compress(voxels, 1)
        extra |= {"CompressedData": "True", "CompressedDataSize": str(len(voxels))}
    if path.suffix.lower() == ".mha":
        path.write_bytes(meta_header(volume, named or "LOCAL", extra).encode("utf-8", "surrogateescape") + voxels)
        return
    data = data or path.with_suffix(".raw").name
    header = meta_header(volume, named or data, extra)
    path.write_bytes(header.encode("utf-8", "surrogateescape"))
    (path.parent / data).write_bytes(voxels)


def read_meta(path: Path) -> Volume:
    """A file of the case library. Raises ValueError where it is none."""
    content = path.read_bytes()
    header, found, voxels = content.partition(b"ElementDataFile = LOCAL\n")
    if not found:
        raise ValueError("no MetaImage in one file")
    fields = dict(line.split(" = ", 1) for line in header.decode().splitlines() if " = " in line)
    kinds = {name: kind for kind, name in _META_TYPES.items()}
    size = [int(count) for count in fields["DimSize"].split()]
    if fields.get("CompressedData", "").lower() == "true":
        voxels = zlib.decompress(voxels)
    numbers = [
        np.array([float(x) for x in fields[name].split()]) for name in ("TransformMatrix", "ElementSpacing", "Offset")
    ]
    affine = np.eye(4)
    affine[:3, :3] = numbers[0].reshape(3, 3).T * numbers[1]
    affine[:3, 3] = numbers[2]
    kind = np.dtype(kinds[fields["ElementType"].strip()])
    return Volume(np.frombuffer(voxels, kind, int(np.prod(size))).reshape(size, order="F"), affine)
