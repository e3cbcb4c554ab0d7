"""Random crops of a prepared scan with spatial and intensity augmentation, in torch, on the network's device.

One resampling does it all: crop, flip, rotation, scale and B-spline deformation are composed into a single sampling
grid, so that intensities are interpolated once. All randomness comes from the seed, so that a resumed run repeats
exactly the samples it would have seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

THICKNESS = (2, 5)  # of the network's 1.5 mm slices: acquired slices of 3 to 7.5 mm
SMALLEST_JACOBIAN = 0.05  # of the sampled voxels, so that nothing folds between them or at the border


@dataclass(frozen=True)
class AugmentationSettings:
    """Ranges of the random changes; probabilities in [0, 1], lengths in mm unless said otherwise.

    Attributes:
        flip: probability of a left-right flip.
        rotation_degrees: largest angle about the cranio-caudal, antero-posterior and left-right axis.
        scale: largest relative change of size; drawn for all axes together, and a third of it for each alone.
        deformation_voxels: standard deviation of the B-spline control points' shift (z, y, x) in voxels of the
            network's grid (Liu et al. 2018, section 4); a deformation that folds is rejected.
        center_jitter: standard deviation (z, y, x) of the crop's center about the gland's center.
        far_jitter: half width (z, y, x) of a uniform shift used instead for ``far_share`` of the crops, so that the
            network also finds a gland far off the crop's center. ``None`` centers on the scan (the paper's crop).
        gamma, contrast, noise: largest log gamma, log contrast and noise level (standard deviations).
        bias, coil: largest log amplitude of a smooth bias field and of an endorectal coil's bright spot.
        blur: probability of in-plane smoothing, as a coarser acquisition shows it.
        thick: probability of through-plane averaging over ``THICKNESS`` network slices, as thicker slices show it.
        uncorrected: share of the samples that come without bias-field correction.
    """

    flip: float = 0.5
    rotation_degrees: tuple[float, float, float] = (15.0, 6.0, 8.0)
    scale: float = 0.2
    deformation_voxels: tuple[float, float, float] = (1.0, 5.0, 5.0)
    center_jitter: tuple[float, float, float] | None = (5.0, 7.0, 6.0)
    far_jitter: tuple[float, float, float] = (24.0, 30.0, 20.0)
    far_share: float = 0.3
    gamma: float = 0.35
    contrast: float = 0.25
    noise: float = 0.15
    bias: float = 0.5
    coil: float = 1.0
    blur: float = 0.15
    thick: float = 0.0
    uncorrected: float = 0.5


PAPER_AUGMENTATION = AugmentationSettings(
    flip=0, rotation_degrees=(0, 0, 0), scale=0, deformation_voxels=(0.0, 15.0, 15.0), center_jitter=None,
    far_share=0, gamma=0, contrast=0, noise=0, bias=0, coil=0, blur=0, thick=0, uncorrected=0,
)  # fmt: skip


def random_crop(
    image: Tensor,
    label: Tensor,
    gland_center: tuple[float, float, float],
    settings: AugmentationSettings,
    size: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    seed: int,
) -> tuple[Tensor, Tensor]:
    """One augmented training sample.

    Args:
        image: normalized scan (z, y, x) on the network's grid.
        label: share of each voxel inside the prostate (z, y, x), in [0, 1].
        gland_center: index (z, y, x) of the gland's centroid.
        size: crop (z, y, x) in voxels; ``spacing_mm``: voxel size (z, y, x).
        seed: the sample's own seed.

    Returns:
        Image (z, y, x) float32 and binary reference (z, y, x) float32 of the given size.
    """
    generator = torch.Generator().manual_seed(seed)
    coordinates = sampling_coordinates(image.shape, gland_center, settings, size, spacing_mm, generator)
    grid = _normalized_grid(coordinates.to(image.device), image.shape)
    crop = F.grid_sample(image[None, None].float(), grid, padding_mode="border", align_corners=True)[0, 0]
    reference = F.grid_sample(label[None, None].float(), grid, padding_mode="zeros", align_corners=True)[0, 0]
    return vary_intensity(crop, settings, generator), (reference >= 0.5).float()


def _uniform(generator: torch.Generator, *size: int) -> Tensor:
    """Uniform in [-1, 1]."""
    return 2 * torch.rand(*size, generator=generator) - 1


def sampling_coordinates(
    volume: Sequence[int],
    gland_center: tuple[float, float, float],
    settings: AugmentationSettings,
    size: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    generator: torch.Generator,
) -> Tensor:
    """Index coordinates (z, y, x, 3) in the scan that a crop's voxels are sampled from."""
    spacing = torch.tensor(spacing_mm)
    flip = -1.0 if torch.rand(1, generator=generator).item() < settings.flip else 1.0
    angles = _uniform(generator, 3) * torch.tensor(settings.rotation_degrees) * math.pi / 180
    common = _uniform(generator, 1) * math.log1p(settings.scale)
    scales = torch.exp(common + _uniform(generator, 3) * math.log1p(settings.scale) / 3)
    gaussian = torch.randn(3, generator=generator)
    far = _uniform(generator, 3)
    is_far = torch.rand(1, generator=generator).item() < settings.far_share
    if settings.center_jitter is None:
        room = torch.tensor(volume) - torch.tensor(size)
        center = torch.round(room / 2) + (torch.tensor(size) - 1) / 2  # whole voxels, as inference crops
    else:
        shift = far * torch.tensor(settings.far_jitter) if is_far else gaussian * torch.tensor(settings.center_jitter)
        center = torch.tensor(gland_center) + shift / spacing
    axes = [(torch.arange(n) - (n - 1) / 2) for n in size]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    deformation = bspline_deformation(size, settings.deformation_voxels, generator)
    if deformation is not None:
        offsets = offsets + deformation
    matrix = (_rotation(angles) * scales) @ torch.diag(torch.tensor([1.0, 1.0, flip]))
    matrix = matrix * spacing[None, :] / spacing[:, None]  # rotate and scale in mm, count in voxels
    return offsets @ matrix.T + center


def _rotation(angles: Tensor) -> Tensor:
    """Rotation about the z (cranio-caudal), y (antero-posterior) and x (left-right) axis, acting on (z, y, x)."""
    result = torch.eye(3)
    for angle, (first, second) in zip(angles, ((1, 2), (0, 2), (0, 1)), strict=True):
        turn = torch.eye(3)
        turn[first, first] = turn[second, second] = torch.cos(angle)
        turn[first, second], turn[second, first] = -torch.sin(angle), torch.sin(angle)
        result = result @ turn
    return result


def cubic_bspline_basis(size: int, cells: int = 2) -> Tensor:
    """Weights (size, cells + 3) of the cubic B-spline's control points at each voxel of one axis."""
    position = torch.linspace(0, cells, size, dtype=torch.float64)
    cell = position.floor().clamp_max(cells - 1)
    t = position - cell
    weights = torch.stack(
        ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3), dim=1
    ) / 6  # fmt: skip
    basis = torch.zeros(size, cells + 3, dtype=torch.float64)
    return basis.scatter_(1, cell.long()[:, None] + torch.arange(4), weights).float()


def bspline_deformation(
    size: tuple[int, int, int], deviation_voxels: tuple[float, float, float], generator: torch.Generator
) -> Tensor | None:
    """Displacement (z, y, x, 3) in voxels of a 2x2x2-cell cubic B-spline, or ``None`` when none is wanted.

    Up to four draws are made; one that folds (a Jacobian determinant near or below 0 anywhere) is rejected. When all
    four fold, there is no deformation.
    """
    if not any(deviation_voxels):
        return None
    bases = [cubic_bspline_basis(n) for n in size]
    for _ in range(4):
        control = torch.randn(5, 5, 5, 3, generator=generator) * torch.tensor(deviation_voxels)
        displacement = torch.einsum("ai,ijkd->ajkd", bases[0], control)
        displacement = torch.einsum("bj,ajkd->abkd", bases[1], displacement)
        displacement = torch.einsum("ck,abkd->abcd", bases[2], displacement)
        if jacobian_determinant(displacement).min() > SMALLEST_JACOBIAN:
            return displacement
    return torch.zeros(*size, 3)


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """Determinant of the Jacobian of x + displacement(x) by forward differences, at every second voxel."""
    inner = displacement[:-1, :-1, :-1]
    gradients = [
        displacement[1:, :-1, :-1] - inner,
        displacement[:-1, 1:, :-1] - inner,
        displacement[:-1, :-1, 1:] - inner,
    ]
    jacobian = torch.stack([gradient[::2, ::2, ::2] for gradient in gradients], dim=-1) + torch.eye(3)
    return torch.linalg.det(jacobian)


def _normalized_grid(coordinates: Tensor, volume: Sequence[int]) -> Tensor:
    """Index coordinates (z, y, x) as grid_sample wants them: (1, z, y, x, 3), order x, y, z, in [-1, 1]."""
    extent = torch.tensor([max(n - 1, 1) for n in volume], dtype=torch.float32, device=coordinates.device)
    return (2 * coordinates / extent - 1).flip(-1)[None]


def vary_intensity(crop: Tensor, settings: AugmentationSettings, generator: torch.Generator) -> Tensor:
    """Random bias field, coil spot, gamma, contrast, blur and noise; the crop keeps its mean and deviation.

    Args:
        crop: normalized intensities (z, y, x).
    """
    mean, deviation = crop.mean(), crop.std()
    draws = _uniform(generator, 8)
    low = crop.min()
    span = (crop.max() - low).clamp_min(1e-6)
    unit = (crop - low) / span
    if settings.bias > 0:
        unit = unit * torch.exp(_smooth_field(crop.shape, generator).to(crop.device) * settings.bias * draws[0].abs())
    if settings.coil > 0 and draws[1] > 0.5:
        unit = unit * torch.exp(settings.coil * draws[2].abs() * _coil_spot(crop.shape, generator).to(crop.device))
    if settings.gamma > 0:
        unit = unit.clamp_min(0) ** torch.exp(settings.gamma * draws[3]).item()
    if settings.blur > 0 and draws[4] < 2 * settings.blur - 1:
        unit = F.avg_pool3d(unit[None, None], (1, 3, 3), stride=1, padding=(0, 1, 1), count_include_pad=False)[0, 0]
    if settings.thick > 0 and torch.rand(1, generator=generator).item() < settings.thick:
        unit = _thick_slices(unit, generator)
    varied = (unit - unit.mean()) / unit.std().clamp_min(1e-6) * deviation
    varied = varied * torch.exp(settings.contrast * draws[5]).item() + mean + settings.contrast * draws[6].item()
    if settings.noise > 0:
        level = settings.noise * draws[7].clamp_min(0).item()
        varied = varied + level * torch.randn(crop.shape, generator=generator).to(crop.device)
    return varied


def _thick_slices(crop: Tensor, generator: torch.Generator) -> Tensor:
    """Average neighboring slices of a crop (z, y, x), then interpolate them back, as preprocessing does."""
    count = int(torch.randint(THICKNESS[0], THICKNESS[1] + 1, (1,), generator=generator))
    before = int(torch.randint(0, count, (1,), generator=generator))  # where the first thick slice begins
    after = -(len(crop) + before) % count
    padded = torch.cat((crop[:1].expand(before, -1, -1), crop, crop[-1:].expand(after, -1, -1)))
    thick = padded.unflatten(0, (-1, count)).mean(dim=1)
    fine = F.interpolate(thick[None, None], size=padded.shape, mode="trilinear", align_corners=False)[0, 0]
    return fine[before : before + len(crop)]


def _smooth_field(size: Sequence[int], generator: torch.Generator) -> Tensor:
    """A smooth field (z, y, x) with values about in [-1, 1]: a 3x3x3 random grid, interpolated."""
    coarse = _uniform(generator, 27).reshape(1, 1, 3, 3, 3)
    return F.interpolate(coarse, size=size, mode="trilinear", align_corners=True)[0, 0]


def _coil_spot(size: Sequence[int], generator: torch.Generator) -> Tensor:
    """A bright spot (z, y, x) with peak 1 at the rectum, behind the gland, as an endorectal coil makes it."""
    draws = _uniform(generator, 4)
    center = (0.5 + 0.2 * draws[0], 0.85 + 0.15 * draws[1], 0.5 + 0.1 * draws[2])
    width = 0.3 + 0.1 * draws[3]
    parts = [
        torch.exp(-(((torch.arange(n) / n - c) / (width * stretch)) ** 2) / 2)
        for n, c, stretch in zip(size, center, (2.0, 1.0, 1.0), strict=True)
    ]
    return torch.einsum("i,j,k->ijk", *parts)
