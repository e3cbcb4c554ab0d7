"""From a scan to the network's grid and back: orientation, resampling, bias field, intensities; exact inverse.

All of it works on voxel indices along the patient's axes, never on world coordinates: an oblique scan keeps its
acquired planes, and moving or turning a scan rigidly cannot change a single voxel of its mask. Because every step is
separable, resampling is one small matrix per axis, the same for training, inference and the way back.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import SimpleITK as sitk

from .errors import InputError
from .run_settings import BIAS_FIELD_MODES
from .segmentation import bounding_box

LEAST_SCANNED = (4, 8, 8)  # voxels (z, y, x) that trimming a border must leave: fewer say nothing about a bias field
LEAST_SAMPLES = 2  # of a bias field along each axis; one alone has no extent


@dataclass(frozen=True)
class PreprocessingSettings:
    """Saved beside the weights, so that inference repeats what training saw.

    Attributes:
        spacing_mm: the network's voxel size (x, y, z) (Liu et al. 2018, section 4).
        bias_field: N4 on a strongly shrunk copy that stops early (``fast``), on a copy shrunk 4,4,1 (``full``), or
            ``off``.
        clip_percentiles: intensities are clipped to these before they are normalized.
        normalized_region_mm: in-plane side of the central region whose intensities set percentiles, mean and
            standard deviation, over all slices.
    """

    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.5)
    bias_field: str = "fast"
    clip_percentiles: tuple[float, float] = (0.5, 99.5)
    normalized_region_mm: float = 144.0

    def __post_init__(self) -> None:
        if len(self.spacing_mm) != 3 or not all(0.1 <= step <= 20 for step in self.spacing_mm):
            raise ValueError(f"spacing {self.spacing_mm} mm is not three lengths of 0.1-20 mm.")
        if not 0 <= self.clip_percentiles[0] < self.clip_percentiles[1] <= 100:
            raise ValueError(f"clip percentiles {self.clip_percentiles} do not rise between 0 and 100.")
        if self.bias_field not in BIAS_FIELD_MODES:
            raise ValueError(f"bias_field '{self.bias_field}' is unknown; use one of {', '.join(BIAS_FIELD_MODES)}.")

    def to_dict(self) -> dict:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PreprocessingSettings:
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"preprocessing settings have unknown keys: {', '.join(sorted(unknown))}.")
        read: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return cls(**read)


@dataclass(frozen=True)
class Grid:
    """How a scan's voxels lie along the patient's axes, and the network's grid over the same field of view.

    Attributes:
        orientation: the scan's own orientation code (for instance ``LPS`` or ``LAS``).
        native_size, native_spacing_mm: of the scan in canonical orientation, order z, y, x.
        size, spacing_mm: of the network's grid, order z, y, x; both grids share their center.
    """

    orientation: str
    native_size: tuple[int, int, int]
    native_spacing_mm: tuple[float, float, float]
    size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    @classmethod
    def of(cls, image: sitk.Image, settings: PreprocessingSettings) -> Grid:
        orientation = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(image.GetDirection())
        order = _axis_order(orientation)
        native_size = tuple(image.GetSize()[axis] for axis in order)[::-1]
        native_spacing = tuple(round(image.GetSpacing()[axis], 6) for axis in order)[::-1]
        spacing = settings.spacing_mm[::-1]
        size = tuple(
            max(1, round(n * step / target))
            for n, step, target in zip(native_size, native_spacing, spacing, strict=True)
        )
        return cls(orientation, native_size, native_spacing, size, spacing)

    @property
    def is_axial(self) -> bool:
        """Whether the scan's slices lie across the patient: no other axis is much coarser than the cranio-caudal."""
        return max(self.native_spacing_mm[1:]) <= 1.5 * self.native_spacing_mm[0]

    def to_network(self, array: np.ndarray) -> np.ndarray:
        """Resample a canonical native array (z, y, x) to the network's grid: area average or linear."""
        return resample(array, self.native_spacing_mm, self.size, self.spacing_mm)

    def to_native(self, array: np.ndarray) -> np.ndarray:
        """Resample (linear) an array (z, y, x) on the network's grid to the canonical native grid."""
        return resample(array, self.spacing_mm, self.native_size, self.native_spacing_mm)

    def canonical_array(self, image: sitk.Image) -> np.ndarray:
        """Voxels (z, y, x) of an image on the scan's grid, axes towards left, posterior, superior."""
        return sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS"))

    def restore_image(self, array: np.ndarray, reference: sitk.Image) -> sitk.Image:
        """Turn a canonical native array (z, y, x) back into an image on exactly the scan's own grid."""
        image = sitk.DICOMOrient(sitk.GetImageFromArray(np.ascontiguousarray(array)), self.orientation)
        image.CopyInformation(reference)
        return image

    def index_of(self, location: tuple[float, float, float], reference: sitk.Image) -> np.ndarray:
        """Continuous network-grid index (z, y, x) of a point in the scan's LPS millimetres."""
        index = reference.TransformPhysicalPointToContinuousIndex(location)
        result = np.empty(3)
        for position, axis in enumerate(_axis_order(self.orientation)):
            along = index[axis]
            if self.orientation[axis] in "RAI":
                along = reference.GetSize()[axis] - 1 - along
            result[2 - position] = along
        native_center = (np.array(self.native_size) - 1) / 2
        offset = (result - native_center) * self.native_spacing_mm
        return offset / self.spacing_mm + (np.array(self.size) - 1) / 2


def _axis_order(orientation: str) -> tuple[int, int, int]:
    """Image axis that runs left-right, antero-posterior, cranio-caudal."""
    left_right, antero_posterior, cranio_caudal = (
        next(axis for axis, letter in enumerate(orientation) if letter in letters) for letters in ("LR", "PA", "SI")
    )
    return left_right, antero_posterior, cranio_caudal


def resampling_matrix(size_in: int, spacing_in: float, size_out: int, spacing_out: float) -> np.ndarray:
    """Weights (size_out, size_in) that resample one axis between two grids with a common center.

    Coarser output averages the input over each output voxel's extent; finer output interpolates linearly. Beyond the
    outermost voxel centers the border value holds.
    """
    centers = ((np.arange(size_out) - (size_out - 1) / 2) * spacing_out) / spacing_in + (size_in - 1) / 2
    matrix = np.zeros((size_out, size_in))
    if spacing_out > spacing_in:
        half = spacing_out / spacing_in / 2
        edges = np.arange(size_in)
        lower = np.maximum(centers[:, None] - half, edges[None] - 0.5)
        upper = np.minimum(centers[:, None] + half, edges[None] + 0.5)
        matrix = np.clip(upper - lower, 0, None)
        outside = matrix.sum(axis=1) == 0
        matrix[outside, np.clip(np.rint(centers[outside]), 0, size_in - 1).astype(int)] = 1
    else:
        centers = np.clip(centers, 0, size_in - 1)
        first = np.minimum(np.floor(centers).astype(int), max(size_in - 2, 0))
        fraction = centers - first
        rows = np.arange(size_out)
        matrix[rows, first] += 1 - fraction
        matrix[rows, np.minimum(first + 1, size_in - 1)] += fraction
    return (matrix / matrix.sum(axis=1, keepdims=True)).astype(np.float32)


def resample(
    array: np.ndarray,
    spacing_in: tuple[float, float, float],
    size_out: tuple[int, int, int],
    spacing_out: tuple[float, float, float],
) -> np.ndarray:
    """Resample an array (z, y, x) axis by axis to a grid with the same center; float32."""
    matrices = [
        resampling_matrix(n_in, s_in, n_out, s_out)
        for n_in, s_in, n_out, s_out in zip(array.shape, spacing_in, size_out, spacing_out, strict=True)
    ]
    # Shrinking axes first keeps the intermediate arrays small.
    for axis in sorted(range(3), key=lambda axis: size_out[axis] / array.shape[axis]):
        array = _apply_along(matrices[axis], array, axis)
    return array


def _apply_along(matrix: np.ndarray, array: np.ndarray, axis: int) -> np.ndarray:
    array = np.asarray(array, dtype=np.float32)
    if axis == 0:
        return (matrix @ array.reshape(array.shape[0], -1)).reshape(-1, *array.shape[1:])
    if axis == 1:
        return np.matmul(matrix, array)
    return array @ matrix.T


def tissue_mask(image: sitk.Image) -> sitk.Image:
    """1 where a scan shows tissue and 0 in the air, by Otsu's threshold; single voxels of grain have no say."""
    smoothed = sitk.DiscreteGaussian(image, variance=[float(min(image.GetSpacing())) ** 2] * 3)
    return sitk.OtsuThreshold(smoothed, 0, 1, 200)


def estimate_log_bias_field(array: np.ndarray, spacing: tuple[float, float, float], mode: str) -> np.ndarray:
    """Log of the multiplicative bias field of a scan by N4 (Tustison et al. 2010), on a shrunk grid.

    Args:
        array: intensities (z, y, x), any offset.
        spacing: mm (z, y, x).
        mode: ``fast`` shrinks each axis to about 6 mm but keeps at least 4 slices, and stops early; ``full`` shrinks
            1,4,4 and fits to ITK's own end.

    Returns:
        float32 on the shrunk grid, whose center is the scan's; interpolate it linearly, it is smooth. It holds for
        intensities above the scan's minimum.
    """
    if mode == "full":
        factors = [1, 4, 4]
    else:
        factors = [max(1, round(6.0 / step)) for step in spacing]
        factors[0] = max(1, min(factors[0], array.shape[0] // 4))
    factors = [max(1, min(factor, n // LEAST_SAMPLES)) for factor, n in zip(factors, array.shape, strict=True)]
    size = tuple(n // factor for n, factor in zip(array.shape, factors, strict=True))
    shrunk_spacing = tuple(n * step / m for n, step, m in zip(array.shape, spacing, size, strict=True))
    shrunk = resample(array, spacing, size, shrunk_spacing)
    if min(size) < LEAST_SAMPLES:
        return np.zeros_like(shrunk)
    shrunk -= array.min()
    image = sitk.GetImageFromArray(shrunk)
    image.SetSpacing(shrunk_spacing[::-1])
    mask = tissue_mask(image)
    if not np.any(sitk.GetArrayViewFromImage(mask)):
        return np.zeros_like(shrunk)
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    if mode == "fast":  # one level less and fewer steps: a third of the time, and no mask of 19 scans knew it
        n4.SetMaximumNumberOfIterations([20, 20, 20])
    n4.Execute(image, mask)
    log_field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).astype(np.float32)
    return log_field if np.isfinite(log_field).all() else np.zeros_like(shrunk)


def bias_corrected(array: np.ndarray, grid: Grid, mode: str) -> np.ndarray:
    """The scan on the network's grid (z, y, x), divided by its bias field unless ``mode`` is ``off``.

    The field was estimated above the minimum of what was scanned, so that is what it divides; a border below is 0.

    Args:
        array: canonical native intensities (z, y, x).
    """
    on_grid = grid.to_network(array)
    if mode == "off":
        return on_grid
    scanned = array[_scanned_middle(array)]
    log_field = estimate_log_bias_field(scanned, grid.native_spacing_mm, mode)
    extent = [n * step for n, step in zip(scanned.shape, grid.native_spacing_mm, strict=True)]
    field_spacing = tuple(length / n for length, n in zip(extent, log_field.shape, strict=True))
    return (on_grid - scanned.min()).clip(0) / np.exp(resample(log_field, field_spacing, grid.size, grid.spacing_mm))


def _scanned_middle(array: np.ndarray) -> tuple[slice, ...]:
    """The box about the scan's center that holds all but an even border, as a padded scan has it.

    An axis along which fewer than ``LEAST_SCANNED`` voxels would be left keeps its border.
    """
    box = bounding_box(array != array.flat[0]) or ()
    borders = [min(part.start, n - part.stop) for part, n in zip(box, array.shape, strict=True)] if box else [0] * 3
    return tuple(
        slice(border, n - border) if n - 2 * border >= least else slice(0, n)
        for border, n, least in zip(borders, array.shape, LEAST_SCANNED, strict=True)
    )


def normalized(array: np.ndarray, settings: PreprocessingSettings) -> np.ndarray:
    """Clip to percentiles, zero mean, unit variance; all taken once over the central region of every slice."""
    columns_mm, rows_mm = settings.spacing_mm[:2]
    half = [round(settings.normalized_region_mm / step / 2) for step in (rows_mm, columns_mm)]
    middle = [n // 2 for n in array.shape[1:]]
    rows, columns = (slice(max(0, m - h), m + h) for m, h in zip(middle, half, strict=True))
    region = array[:, rows, columns]
    low, high = np.percentile(region, settings.clip_percentiles)
    if not high > low:
        raise InputError(
            f"The middle of the scan has one and the same intensity ({low:g}) nearly everywhere.",
            "Choose a T2-weighted volume that shows the prostate.",
        )
    clipped = np.clip(array, low, high)
    inner = np.clip(region, low, high)
    return ((clipped - inner.mean()) / inner.std()).astype(np.float32)


def prepare(image: sitk.Image, settings: PreprocessingSettings) -> tuple[np.ndarray, Grid]:
    """Everything before the network: canonical orientation, resampling, bias field, intensities.

    Args:
        image: a checked scan (see ``images.check_image``).

    Returns:
        The normalized scan (z, y, x) float32 on the network's grid, and the grid that leads back.
    """
    grid = Grid.of(image, settings)
    corrected = bias_corrected(grid.canonical_array(image), grid, settings.bias_field)
    return normalized(corrected, settings), grid
