"""Contour pictures of a segmentation as PNG files, made without a plotting library."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from .errors import InputError
from .files import write_bytes
from .grids import same_grid
from .picture_text import HEIGHT, WIDTH, write
from .segmentation import bounding_box

Color = tuple[int, int, int]

PROSTATE_COLOR: Color = (255, 196, 64)
REFERENCE_COLOR: Color = (64, 220, 255)
BEYOND = 2  # slices
UNSURE_COLOR = np.array([255, 32, 32])
SURE_MM, UNSURE_MM = (
    4.0,
    7.0,
)  # width of the uncertain band, up to where the line keeps and from where it has changed color

_PANEL_PIXELS = 320
_THUMBNAIL_PIXELS = 200
_COLUMNS = 3
_GAP_PIXELS = 4
_MARGIN_MM = 15.0
_SMALLEST_SIDE_MM = 60.0
_LINE_PIXELS = 2
_LABEL_PIXELS = 6  # from the edge
_BAR_MM = 20.0
_AROUND_MM = 3.0


def contour_picture(
    image: sitk.Image,
    masks: list[tuple[sitk.Image, Color]],
    path: str | Path,
    slices: int = 8,
    uncertainty: sitk.Image | None = None,
) -> None:
    """Write a PNG of axial slices over the gland and beyond it, each mask drawn as a line in its color.

    Args:
        path: the PNG file; replaced only once the new one is complete. For the others see :func:`contour_mosaic`.

    Raises:
        InputError: the image is not 3D.
        StorageError: the file cannot be written.
    """
    write_png(contour_mosaic(image, masks, slices, uncertainty, BEYOND), path)


def contour_mosaic(
    image: sitk.Image,
    masks: list[tuple[sitk.Image, Color]],
    slices: int = 9,
    uncertainty: sitk.Image | None = None,
    beyond: int = 0,
) -> np.ndarray:
    """The same picture as uint8 (rows, columns, 3).

    The slices run from caudal (top left) to cranial (bottom right). Each is cropped around the gland, shown in true
    aspect, anterior up and the patient's right on the left side, as a radiologist sees it, with its number in the scan,
    counted from 1, and a bar of two centimeters.

    Args:
        image: 3D scalar image (LPS mm).
        masks: (label image, (red, green, blue)) pairs, non-zero inside; a mask on another grid is resampled onto the
            image's. The first mask with a voxel inside decides what is shown, else the whole volume.
        slices: how many slices are spread over the gland; ``beyond``: how many more follow at either end, where a
            missed apex or base would show.
        uncertainty: in [0, 1], on the image's grid; the first mask's line turns red where the band in which the network
            is unsure is wide. (On the line itself the uncertainty is always high: a network that draws a contour takes
            it for prostate on one side and for something else on the other.)
    """
    view = _View(image, masks, uncertainty)
    step = _PANEL_PIXELS + _GAP_PIXELS
    shown = view.evenly_spread(slices, beyond)
    columns = min(_COLUMNS + bool(beyond), slices)
    rows = -(-len(shown) // columns)
    canvas = np.zeros((rows * step - _GAP_PIXELS, columns * step - _GAP_PIXELS, 3), np.uint8)
    for position, index in enumerate(shown):
        top, left = (position // columns) * step, (position % columns) * step
        canvas[top : top + _PANEL_PIXELS, left : left + _PANEL_PIXELS] = view.panel(index, _PANEL_PIXELS, True)
    return canvas


def thumbnail(image: sitk.Image, mask: sitk.Image, path: str | Path) -> None:
    """Write a PNG of 200 x 200 pixels: the axial slice through the gland's middle with the mask's contour.

    An empty mask gives the middle slice of the volume. Arguments and errors as in :func:`contour_picture`.
    """
    view = _View(image, [(mask, PROSTATE_COLOR)])
    region, _ = view.regions[0]
    occupied = np.flatnonzero(region.any(axis=(1, 2)))
    middle = int(occupied[occupied.size // 2]) if occupied.size else len(view.volume) // 2
    write_png(view.panel(middle, _THUMBNAIL_PIXELS), path)


class _View:
    """A scan with its masks as arrays (z, y, x) to cranial, posterior and the patient's left, and what is shown of it.

    Attributes:
        volume: float32; ``regions``: each mask as bool with its color.
        box: the gland's own bounding box, or the whole volume.
        side_mm: of the square of the axial plane that is shown around it.
    """

    def __init__(self, image: sitk.Image, masks: list[tuple[sitk.Image, Color]], uncertainty: sitk.Image | None = None):
        if image.GetDimension() != 3:
            raise InputError(f"The image has {image.GetDimension()} dimensions.", "Only a 3D volume can be shown.")
        oriented = sitk.DICOMOrient(image, "LPS")
        self.spacing = oriented.GetSpacing()[::-1]
        self.volume = np.nan_to_num(sitk.GetArrayFromImage(oriented).astype(np.float32), posinf=0.0, neginf=0.0)
        self.numbers = _slice_numbers(image)
        self.uncertainty = None
        if uncertainty is not None:
            self.uncertainty = sitk.GetArrayFromImage(sitk.DICOMOrient(uncertainty, "LPS"))
        self.regions = [(_on_grid_of(oriented, mask != 0), color) for mask, color in masks]
        boxes = [bounding_box(region) for region, _ in self.regions]
        whole = tuple(slice(0, size) for size in self.volume.shape)
        self.box = next(filter(None, boxes), whole)
        margin = _MARGIN_MM if any(boxes) else 0.0
        lengths = [(part.stop - part.start) * step for part, step in zip(self.box[1:], self.spacing[1:], strict=True)]
        self.side_mm = max(max(lengths) + 2 * margin, _SMALLEST_SIDE_MM)
        # Percentiles inside the gland's box: an endorectal coil beside it would leave the gland black.
        self._black, self._white = np.percentile(self.volume[self.box], (1, 99))

    def evenly_spread(self, count: int, beyond: int = 0) -> list[int]:
        """Slice indices over the gland, its first and last one among them, and so many beyond at either end.

        A gland of fewer slices is shown with its neighbors, never a slice twice.
        """
        depth, first, last = len(self.volume), self.box[0].start, self.box[0].stop - 1
        outside = {*range(max(0, first - beyond), first), *range(last + 1, min(depth, last + 1 + beyond))}
        missing = max(0, min(count, depth) - (last - first + 1))
        first = min(max(0, first - missing // 2), max(0, depth - count))
        last = min(depth - 1, max(last, first + count - 1))
        return sorted({int(round(index)) for index in np.linspace(first, last, count)} | outside)

    def panel(self, index: int, pixels: int, labeled: bool = False) -> np.ndarray:
        """One slice as uint8 (pixels, pixels, 3) with every contour drawn on it; labeled with number, side and size."""
        span = self._white - self._black if self._white > self._black else 1
        gray = np.clip((self._sampled(self.volume[index], pixels) - self._black) / span, 0, 1)
        inside_volume = self._sampled(np.ones(self.volume.shape[1:]), pixels) >= 0.5
        picture = np.repeat((gray * inside_volume * 255).astype(np.uint8)[..., None], 3, axis=2)
        for number, (region, color) in enumerate(self.regions):
            inside = self._sampled(region[index], pixels) >= 0.5
            line = inside & ~ndimage.binary_erosion(inside, iterations=_LINE_PIXELS)
            picture[line] = color
            if number == 0 and self.uncertainty is not None:
                width = self._unsure_width(self.uncertainty[index], pixels)[line]
                share = np.clip((width - SURE_MM) / (UNSURE_MM - SURE_MM), 0, 1)[:, None]
                picture[line] = np.rint((1 - share) * color + share * UNSURE_COLOR).astype(np.uint8)
        if labeled:
            self._label(picture, index)
        return picture

    def _unsure_width(self, plane: np.ndarray, pixels: int) -> np.ndarray:
        """Around each pixel, how many millimeters the band is wide in which the network is unsure (pixels, pixels)."""
        smooth = ndimage.gaussian_filter(self._sampled(plane, pixels), _AROUND_MM * pixels / self.side_mm)
        return smooth * np.sqrt(2 * np.pi) * _AROUND_MM  # the integral across a straight band

    def _label(self, picture: np.ndarray, index: int) -> None:
        pixels = len(picture)
        write(picture, str(self.numbers[index]), _LABEL_PIXELS, _LABEL_PIXELS)
        for letter, left in (("R", _LABEL_PIXELS), ("L", pixels - _LABEL_PIXELS - 2 * WIDTH)):
            write(picture, letter, (pixels - 2 * HEIGHT) // 2, left)
        length = round(_BAR_MM * pixels / self.side_mm)
        bottom = pixels - _LABEL_PIXELS
        picture[bottom - 3 : bottom, _LABEL_PIXELS : _LABEL_PIXELS + length] = 235
        write(picture, "2 cm", bottom - 3 - 2 * HEIGHT - 4, _LABEL_PIXELS)

    def _sampled(self, plane: np.ndarray, pixels: int) -> np.ndarray:
        """The square of a plane, interpolated linearly (pixels, pixels); zero beyond the plane."""
        steps = [self.side_mm / spacing / pixels for spacing in self.spacing[1:]]
        middles = [(part.start + part.stop - 1) / 2 for part in self.box[1:]]
        start = [middle - step * (pixels - 1) / 2 for middle, step in zip(middles, steps, strict=True)]
        plane = plane.astype(np.float32)
        return ndimage.affine_transform(plane, np.diag(steps), start, (pixels,) * 2, order=1, mode="grid-constant")


def _slice_numbers(image: sitk.Image) -> list[int]:
    """Numbers from 1 of the scan's own slices, in the order of those that are shown, from caudal to cranial."""
    code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
    axis = next(axis for axis in range(3) if code[axis] in "SI")
    numbers = list(range(1, image.GetSize()[axis] + 1))
    return numbers if code[axis] == "S" else numbers[::-1]


def _on_grid_of(image: sitk.Image, mask: sitk.Image) -> np.ndarray:
    """A mask of 0 and 1 as bool on an image's grid."""
    oriented = sitk.DICOMOrient(mask, "LPS")
    if not same_grid(oriented, image):
        oriented = sitk.Resample(mask, image, sitk.Transform(), sitk.sitkNearestNeighbor, 0, sitk.sitkUInt8)
    return sitk.GetArrayFromImage(oriented) != 0


def write_png(picture: np.ndarray, path: str | Path) -> None:
    """Write uint8 (rows, columns, 3) as an RGB PNG; it holds pixels and nothing else."""
    height, width, _ = picture.shape
    differences = np.diff(picture, axis=0, prepend=np.zeros_like(picture[:1]))  # to the row above, modulo 256
    rows = np.pad(differences.reshape(height, width * 3), ((0, 0), (1, 0)), constant_values=2)  # 2 names that filter
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    write_bytes(png, path)
