"""Contour pictures of a segmentation as PNG files, made with numpy and SimpleITK alone."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .files import write_aside

Color = tuple[int, int, int]

PROSTATE_COLOR: Color = (255, 196, 64)
REFERENCE_COLOR: Color = (64, 220, 255)

_PANEL_PIXELS = 320
_THUMBNAIL_PIXELS = 200
_COLUMNS = 3
_GAP_PIXELS = 4
_MARGIN_MM = 15.0
_SMALLEST_SIDE_MM = 60.0


@dataclass(frozen=True)
class _Crop:
    """A square of the axial plane around the gland.

    Attributes:
        center: continuous index (row, column); ``side_mm``: in mm.
        box: the gland's own bounding box (slice, row, column), or the whole volume.
    """

    center: tuple[float, float]
    side_mm: float
    box: tuple[slice, slice, slice]


def contour_picture(
    image: sitk.Image, masks: list[tuple[sitk.Image, Color]], path: str | Path, slices: int = 9
) -> None:
    """Write a PNG of axial slices spread evenly over the gland, each mask drawn as a line in its color.

    The slices run from caudal (top left) to cranial (bottom right). Each is cropped around the gland, shown in true
    aspect, anterior up and the patient's right on the left side, as a radiologist sees it.

    Args:
        image: 3D scalar image (LPS mm).
        masks: (label image, (red, green, blue)) pairs, non-zero inside; a mask on another grid is resampled onto the
            image's. The first mask with a voxel inside decides what is shown, else the whole volume.
        path: the PNG file; replaced only once the new one is complete.
        slices: how many slices, in rows of three.

    Raises:
        InputError: the image is not 3D.
        StorageError: the file cannot be written.
    """
    volume, regions = _canonical(image, [mask for mask, _ in masks])
    crop = _crop_around(regions, volume, image)
    shown = _evenly_spread(crop, volume.shape[0], slices)
    spacing = sitk.DICOMOrient(image, "LPS").GetSpacing()
    window = _window(volume, crop)
    colors = [color for _, color in masks]
    panels = [_panel(volume, regions, colors, index, crop, spacing, window, _PANEL_PIXELS) for index in shown]
    _write_png(_mosaic(panels, slices), path)


def thumbnail(image: sitk.Image, mask: sitk.Image, path: str | Path) -> None:
    """Write a PNG of 200 x 200 pixels: the axial slice through the gland's middle with the mask's contour.

    An empty mask gives the middle slice of the volume. Arguments and errors as in :func:`contour_picture`.
    """
    volume, regions = _canonical(image, [mask])
    crop = _crop_around(regions, volume, image)
    occupied = np.flatnonzero(regions[0].any(axis=(1, 2)))
    middle = int(occupied[occupied.size // 2]) if occupied.size else volume.shape[0] // 2
    spacing = sitk.DICOMOrient(image, "LPS").GetSpacing()
    window = _window(volume, crop)
    _write_png(_panel(volume, regions, [PROSTATE_COLOR], middle, crop, spacing, window, _THUMBNAIL_PIXELS), path)


def _canonical(image: sitk.Image, masks: list[sitk.Image]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Image as float32 and masks as bool, all z,y,x with z to cranial, y to posterior and x to the patient's left."""
    if image.GetDimension() != 3:
        raise InputError(f"The image has {image.GetDimension()} dimensions.", "Only a 3D volume can be shown.")
    volume = sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS")).astype(np.float32)
    regions = []
    for mask in masks:
        binary = mask != 0
        if not _same_grid(binary, image):
            binary = sitk.Resample(binary, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8)
        regions.append(sitk.GetArrayFromImage(sitk.DICOMOrient(binary, "LPS")) != 0)
    return np.nan_to_num(volume, posinf=0.0, neginf=0.0), regions


def _same_grid(first: sitk.Image, second: sitk.Image) -> bool:
    return first.GetSize() == second.GetSize() and all(
        np.allclose(getattr(first, name)(), getattr(second, name)(), atol=1e-4)
        for name in ("GetSpacing", "GetOrigin", "GetDirection")
    )


def _crop_around(regions: list[np.ndarray], volume: np.ndarray, image: sitk.Image) -> _Crop:
    column_mm, row_mm, _ = sitk.DICOMOrient(image, "LPS").GetSpacing()
    region = next((region for region in regions if region.any()), None)
    margin = _MARGIN_MM
    if region is None:
        region, margin = np.ones(volume.shape, bool), 0.0
    spans = []
    for axis in range(3):
        occupied = np.flatnonzero(region.any(axis=tuple(other for other in range(3) if other != axis)))
        spans.append((int(occupied[0]), int(occupied[-1])))
    (first, last), (top, bottom), (left, right) = spans
    side = max((bottom - top + 1) * row_mm, (right - left + 1) * column_mm) + 2 * margin
    box = (slice(first, last + 1), slice(top, bottom + 1), slice(left, right + 1))
    return _Crop(((top + bottom) / 2, (left + right) / 2), max(side, _SMALLEST_SIDE_MM), box)


def _evenly_spread(crop: _Crop, depth: int, count: int) -> list[int]:
    """Slice indices over the gland; a gland of fewer slices is shown with its neighbors, never a slice twice."""
    first, last = crop.box[0].start, crop.box[0].stop - 1
    missing = max(0, min(count, depth) - (last - first + 1))
    first = min(max(0, first - missing // 2), max(0, depth - count))
    last = min(depth - 1, max(last, first + count - 1))
    return sorted({int(round(index)) for index in np.linspace(first, last, count)})


def _positions(center: float, side_mm: float, spacing_mm: float, pixels: int) -> np.ndarray:
    """Continuous indices of the pixels' centers along one axis of the square."""
    return center + ((np.arange(pixels) + 0.5) / pixels - 0.5) * side_mm / spacing_mm


def _interpolated(plane: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Bilinear samples of a 2D array at rows x columns, zero outside of it."""
    padded = np.pad(plane.astype(np.float32), 1)
    for axis, positions in enumerate((rows, columns)):
        shifted = np.clip(positions + 1, 0, padded.shape[axis] - 1)
        lower = np.minimum(np.floor(shifted).astype(int), padded.shape[axis] - 2)
        weight = (shifted - lower).astype(np.float32)
        weight = weight[:, None] if axis == 0 else weight[None, :]
        padded = np.take(padded, lower, axis) * (1 - weight) + np.take(padded, lower + 1, axis) * weight
    return padded


def _window(volume: np.ndarray, crop: _Crop) -> tuple[float, float]:
    """1st and 99th percentile inside the gland's box: an endorectal coil beside it would leave the gland black."""
    low, high = np.percentile(volume[crop.box], (1, 99))
    return float(low), float(high if high > low else low + 1)


def _panel(
    volume: np.ndarray,
    regions: list[np.ndarray],
    colors: list[Color],
    index: int,
    crop: _Crop,
    spacing: tuple[float, ...],
    window: tuple[float, float],
    pixels: int,
) -> np.ndarray:
    """One slice as uint8 (pixels, pixels, 3) with every contour drawn on it."""
    rows = _positions(crop.center[0], crop.side_mm, spacing[1], pixels)
    columns = _positions(crop.center[1], crop.side_mm, spacing[0], pixels)
    gray = np.clip((_interpolated(volume[index], rows, columns) - window[0]) / (window[1] - window[0]), 0, 1)
    inside_volume = _interpolated(np.ones(volume.shape[1:]), rows, columns) >= 0.5
    picture = np.repeat((gray * inside_volume * 255).astype(np.uint8)[..., None], 3, axis=2)
    for region, color in zip(regions, colors, strict=True):
        picture[_outline(_interpolated(region[index], rows, columns) >= 0.5)] = color
    return picture


def _outline(inside: np.ndarray, thickness: int = 2) -> np.ndarray:
    """The pixels of a 2D region that lie within ``thickness`` pixels of its edge."""
    core = inside
    for _ in range(thickness):
        padded = np.pad(core, 1)
        core = core & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~core


def _mosaic(panels: list[np.ndarray], count: int) -> np.ndarray:
    step = _PANEL_PIXELS + _GAP_PIXELS
    columns, rows = min(_COLUMNS, count), -(-count // _COLUMNS)
    canvas = np.zeros((rows * step - _GAP_PIXELS, columns * step - _GAP_PIXELS, 3), np.uint8)
    for position, panel in enumerate(panels):
        top, left = (position // columns) * step, (position % columns) * step
        canvas[top : top + _PANEL_PIXELS, left : left + _PANEL_PIXELS] = panel
    return canvas


def _write_png(picture: np.ndarray, path: str | Path) -> None:
    """Write uint8 (rows, columns, 3) as an RGB PNG; it holds pixels and nothing else."""
    height, width, _ = picture.shape
    differences = np.diff(picture, axis=0, prepend=np.zeros_like(picture[:1]))  # to the row above, modulo 256
    rows = np.pad(differences.reshape(height, width * 3), ((0, 0), (1, 0)), constant_values=2)  # 2 names that filter
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    write_aside(Path(path), ".png", lambda aside: aside.write_bytes(png))
