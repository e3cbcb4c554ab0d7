"""Small DICOM series made on the spot, and ways to spoil them, for tests on machines without real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
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
    """Set a text element of a file, or take it out with None."""
    dataset = pydicom.dcmread(path)
    if tag in dataset:
        del dataset[tag]
    if value is not None:
        dataset.add_new(tag, pydicom.datadict.dictionary_VR(tag), value)
    dataset.save_as(path)


def set_transfer_syntax(path: Path, uid: str, frame: bytes) -> None:
    """Claim another compression for a slice, with ``frame`` as its pixels."""
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(uid)
    dataset.PixelData = pydicom.encaps.encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
