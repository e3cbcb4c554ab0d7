"""Small DICOM series made on the spot, and ways to spoil them, for tests on machines without real ones."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import SimpleITK as sitk

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SECRETS = ("Doe^John", "ID4711", "19431224", "1.2.826.99", "Klinik Geheim", "Prof Secret", "t2_tse_tra_vertraulich")


def slice_voxels(number: int, size: tuple[int, int] = (40, 48)) -> np.ndarray:
    """MR-like uint16 values (y, x), others in each slice."""
    return np.random.default_rng(number).gamma(3, 90, size[::-1]).astype(np.uint16)


def write_slice(
    path: Path,
    number: int,
    *,
    series: int = 1,
    step: float = 4.0,
    orientation: tuple[float, ...] = AXIAL,
    spacing: tuple[float, float] = (2.0, 2.0),
    voxels: np.ndarray | None = None,
    tags: dict[str, str | None] | None = None,
    compressor: str | None = None,
) -> Path:
    """Write slice ``number`` (from 0) of an axial T2 series at ``number * step`` mm along its normal.

    Args:
        tags: DICOM tags to set, None to leave one out.
    """
    voxels = slice_voxels(number) if voxels is None else voxels
    image = sitk.GetImageFromArray(voxels if voxels.ndim == 3 else voxels[None])
    image.SetSpacing((*spacing, abs(step) or 1.0))
    normal = np.cross(orientation[:3], orientation[3:])
    origin = np.array((-40.0, -48.0, 5.0)) + number * step * normal
    values = {
        "0008|0016": "1.2.840.10008.5.1.4.1.1.4",
        "0008|0018": f"1.2.826.99.{series}.{number + 1}",
        "0008|0060": "MR",
        "0008|0080": "Klinik Geheim",
        "0008|103e": "t2_tse_tra_vertraulich",
        "0010|0010": "Doe^John",
        "0010|0020": "ID4711",
        "0010|0030": "19431224",
        "0008|1050": "Prof Secret",
        "0018|0050": "3",
        "0018|0081": "104",
        "0018|0086": "1",
        "0020|000d": "1.2.826.99",
        "0020|000e": f"1.2.826.99.{series}",
        "0020|0013": str(number + 1),
        "0020|0032": "\\".join(f"{value:.6g}" for value in origin),
        "0020|0037": "\\".join(f"{value:.6g}" for value in orientation),
        **(tags or {}),
    }
    for tag, value in values.items():
        if value is not None:
            image.SetMetaData(tag, value)
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.KeepOriginalImageUIDOn()
    if compressor:
        writer.UseCompressionOn()
        writer.SetCompressor(compressor)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer.SetFileName(str(path))
    writer.Execute(image)
    return path


def write_series(folder: Path, count: int = 12, **settings) -> list[Path]:
    """An axial T2 series of ``count`` slices whose file names sort the other way round than its slices."""
    return [write_slice(folder / f"IM{count - number:04d}", number, **settings) for number in range(count)]


def set_element(path: Path, tag: tuple[int, int], value: str | None) -> None:
    """Set, or take out with None, a text element of a file with implicit value representations, as GDCM writes them."""
    content = path.read_bytes()
    key = struct.pack("<HH", *tag)
    start = _element(content, key)
    if start >= 0:
        length = struct.unpack_from("<I", content, start + 4)[0]
        content = content[:start] + content[start + 8 + length :]
    if value is not None:
        text = value.encode() + b" " * (len(value) % 2)
        place = next(at for at, found, _ in _elements(content) if found > tag)
        content = content[:place] + key + struct.pack("<I", len(text)) + text + content[place:]
    path.write_bytes(content)


def set_transfer_syntax(path: Path, uid: str, frame: bytes) -> None:
    """Claim another compression for a slice written with ``compressor="JPEG"``, with ``frame`` as its pixels."""
    content = path.read_bytes()
    start = content.index(b"\x02\x00\x10\x00UI") + 6
    length = struct.unpack_from("<H", content, start)[0]
    text = uid.encode() + b"\0" * (len(uid) % 2)
    group = struct.unpack_from("<I", content, 140)[0] + len(text) - length
    meta = content[:140] + struct.pack("<I", group) + content[144:start] + struct.pack("<H", len(text)) + text
    pixels = content.rindex(b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff") + 12
    frame += b"\0" * (len(frame) % 2)
    items = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0" + struct.pack("<I", len(frame)) + frame
    path.write_bytes(meta + content[start + 2 + length : pixels] + items + b"\xfe\xff\xdd\xe0\0\0\0\0")


def _element(content: bytes, key: bytes) -> int:
    return next((at for at, tag, _ in _elements(content) if struct.pack("<HH", *tag) == key), -1)


def _elements(content: bytes):
    """(place, tag, length) of the elements behind group 2."""
    at = 144 + struct.unpack_from("<I", content, 140)[0]
    while at + 8 <= len(content):
        group, element, length = struct.unpack_from("<HHI", content, at)
        yield at, (group, element), length
        at += 8 + length
