"""From a prepared scan to a version's answer: find the gland, center the crop on it, add tiles where it is cut.

The paper crops the middle of the scan; of the 50 PROMISE12 cases that loses tissue in some. Here the first crop only
locates the gland, the next ones are centered on it, and overlapping tiles are added wherever it reaches a crop's edge.
A gland that hardly fits into a crop is looked at once more from further away, ``FURTHER`` times as coarse: the
network knows such glands in that size, while a tile shows it a part of a gland without its surroundings.

One network, the first, finds the crops; all of them look at the last ones, and their answers are averaged.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .network import DDSPConvNet
from .preprocessing import resample

LARGEST_SHIFT = 3  # voxels; a crop this near to the gland's center is centered
EDGE = 3  # voxels; a gland this near to a crop's face may be cut by it
MAXIMAL_TILES = 27  # three along each axis: 160 x 160 x 120 mm
LARGE = 0.85  # of the crop's length; a gland that is longer has hardly any surroundings left in the crop
FURTHER = 1.4  # times as far away such a gland is looked at; from 1.6 on the networks lose glands

Notify = Callable[[float], None]
Tiles = dict[tuple[int, ...], np.ndarray]  # first index (z, y, x) of a crop: outputs (output, z, y, x)
Box = tuple[slice, ...]  # part (z, y, x) of a volume


@dataclass(frozen=True)
class Prediction:
    """Probability maps (z, y, x) float32 on the network's grid; 0 outside the tiles.

    Only what there is one of has the size of the scan: a field of view may be many times what the tiles show.

    Attributes:
        probability: the answer, the mean of all outputs of all networks.
        disagreement: standard deviation of these outputs.
        members: the answer of each network (network, z, y, x), in the box about the tiles alone.
        looks: how often a network looked at a crop.
    """

    probability: np.ndarray
    disagreement: np.ndarray
    members: np.ndarray
    looks: int


class GlandPredictor:
    """Runs the networks of a version over a prepared scan.

    Args:
        networks: of one architecture, in eval mode, on their device and in their precision; the first one locates.
        central: only the plain central crop and the main output, as published (mode ``paper``).
    """

    def __init__(self, *networks: DDSPConvNet, central: bool = False):
        self.networks = networks
        self.central = central
        settings = networks[0].settings
        self.size = np.array(settings.input_size)
        self.branches = [0] if central else [i for i, used in enumerate(settings.fused) if used]
        parameter = next(networks[0].parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.taper = _taper(settings.input_size)

    def predict(self, volume: np.ndarray, center: np.ndarray | None = None, notify: Notify | None = None) -> Prediction:
        """Predict a whole scan.

        Args:
            volume: normalized scan (z, y, x) on the network's grid.
            center: index (z, y, x) of a point in the gland when the user gave one.
            notify: called with a growing fraction before every look; may raise to cancel.
        """
        self.looks = 0
        self.notify = notify or (lambda fraction: None)
        middle = (np.array(volume.shape) - 1) / 2
        tiles = self._locate(volume, middle if center is None else center, scan_when_empty=center is None)
        box = self._box(tiles)
        outputs = self._blend(tiles, box)
        near = outputs.mean(axis=0)
        filled = float((_gland_extent(near) / self.size).max())
        gland = _gland_center(near)
        if not (self.central or filled <= LARGE or gland is None):  # without a center: a few voxels far apart
            far = self._from_further_away(volume, gland + [part.start for part in box])
            if far is not None:
                return far
        probability, disagreement, members = self._answer(volume, tiles, box, outputs)
        return Prediction(_placed(probability, box, volume), _placed(disagreement, box, volume), members, self.looks)

    def _locate(self, volume: np.ndarray, center: np.ndarray, scan_when_empty: bool) -> Tiles:
        """The crops that hold the gland at the volume's own scale, and what the first network says of them."""
        self.volume = volume
        start = self._start(center)
        tiles: Tiles = {tuple(start): self._crop(start)}
        return tiles if self.central else self._extended(self._centered(tiles, scan_when_empty))

    def _answer(
        self, volume: np.ndarray, tiles: Tiles, box: Box, first: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Probability, disagreement and members, in the box about the tiles, of what all networks say there.

        Args:
            first: outputs (output, z, y, x) of the first network, which found the tiles.
        """
        self.volume = volume
        outputs = [first]
        for network in self.networks[1:]:  # one after the other: the crops of one are gone before the next one looks
            outputs.append(self._blend({start: self._crop(start, network) for start in tiles}, box))
        members = np.stack([branches.mean(axis=0) for branches in outputs])
        return members.mean(axis=0), np.concatenate(outputs).std(axis=0), members

    def _from_further_away(self, volume: np.ndarray, gland: np.ndarray) -> Prediction | None:
        """Predict on a grid ``FURTHER`` times as coarse, with tiles where need be; the answer is on the scan's grid.

        ``None`` where the gland is not recognized in that size: the tiles are the better answer.
        """
        size = tuple(max(1, round(n / FURTHER)) for n in volume.shape)
        step = tuple(n / m for n, m in zip(volume.shape, size, strict=True))
        unit = (1.0, 1.0, 1.0)
        coarse = resample(volume, unit, size, step)
        tiles = self._locate(coarse, (gland + 0.5) / step - 0.5, scan_when_empty=False)
        coarse_box = self._box(tiles)
        outputs = self._blend(tiles, coarse_box)
        if _gland_center(outputs.mean(axis=0)) is None:
            return None
        probability, disagreement, members = self._answer(coarse, tiles, coarse_box, outputs)
        box = _finer(coarse_box, step, volume.shape)

        def finer(part: np.ndarray) -> np.ndarray:
            return resample(_placed(part, coarse_box, coarse), step, volume.shape, unit)

        # A copy, since a view would keep the whole of each.
        near = np.stack([finer(member)[box].copy() for member in members])
        return Prediction(finer(probability), finer(disagreement), near, self.looks)

    def _start(self, center: np.ndarray) -> np.ndarray:
        """First index (z, y, x) of the crop about a center, kept inside the scan where the scan is larger."""
        start = np.rint(np.asarray(center) - (self.size - 1) / 2).astype(int)
        room = np.array(self.volume.shape) - self.size
        # A scan smaller than the crop is padded on both sides alike.
        return np.where(room > 0, np.clip(start, 0, np.maximum(room, 0)), -((-room) // 2))

    def _crop(self, start: Sequence[int] | np.ndarray, network: DDSPConvNet | None = None) -> np.ndarray:
        """Outputs (branch, z, y, x) of one crop, of the first network unless another is named."""
        inside = [slice(max(0, s), min(n, s + m)) for s, m, n in zip(start, self.size, self.volume.shape, strict=True)]
        padding = [(max(0, -s), max(0, s + m - n)) for s, m, n in zip(start, self.size, self.volume.shape, strict=True)]
        crop = torch.from_numpy(np.pad(self.volume[tuple(inside)], padding, mode="edge"))
        batch = crop[None, None].to(self.device, self.dtype).contiguous(memory_format=torch.channels_last_3d)
        self.notify(min(0.9, 0.1 * self.looks))
        self.looks += 1
        with torch.inference_mode():
            outputs = (network or self.networks[0])(batch)
        return torch.cat([outputs[branch][0].float().cpu() for branch in self.branches]).numpy()

    def _centered(self, tiles: Tiles, scan_when_empty: bool) -> Tiles:
        """Move the crop onto the gland, at most three times; scan the whole volume when nothing is found."""
        for _ in range(3):
            (start, crop) = next(iter(tiles.items()))
            center = _gland_center(crop.mean(axis=0))
            if center is None:
                return self._scan() if scan_when_empty else tiles
            moved = self._start(center + start)
            if np.abs(moved - start).max() <= LARGEST_SHIFT:
                return tiles
            tiles = {tuple(moved): self._crop(moved)}
        return tiles

    def _scan(self) -> Tiles:
        """Look everywhere with half-overlapping crops; keep the one that holds most of a gland, then center it."""
        starts = [
            sorted({*range(0, max(room, 0) + 1, half), max(room, 0)}) if room > 0 else [-((-room) // 2)]
            for room, half in zip(np.array(self.volume.shape) - self.size, self.size // 2, strict=True)
        ]
        best: Tiles = {}
        most = 0.0
        for start in itertools.product(*starts):
            crop = self._crop(np.array(start))
            mass = float(crop.mean(axis=0).clip(0.5).sum())
            if not best or mass > most:
                best, most = {tuple(start): crop}, mass
        (start, crop) = next(iter(best.items()))
        center = _gland_center(crop.mean(axis=0))
        if center is None:
            return best
        moved = self._start(center + np.array(start))
        return {tuple(moved): self._crop(moved)}

    def _extended(self, tiles: Tiles) -> Tiles:
        """Add crops, shifted by a third, beyond every face that the gland reaches while the scan goes on there."""
        waiting = list(tiles)
        while waiting and len(tiles) < MAXIMAL_TILES:
            start = waiting.pop(0)
            gland = tiles[start].mean(axis=0) > 0.5
            for axis, direction in itertools.product(range(3), (-1, 1)):
                face = [slice(None)] * 3
                face[axis] = slice(0, EDGE) if direction < 0 else slice(-EDGE, None)
                if not gland[tuple(face)].any():
                    continue
                shifted = np.array(start)
                shifted[axis] += direction * (self.size[axis] // 3)
                beyond = tuple(self._start(shifted + (self.size - 1) / 2))
                if beyond not in tiles:
                    tiles[beyond] = self._crop(np.array(beyond))
                    waiting.append(beyond)
        return tiles

    def _box(self, tiles: Tiles) -> Box:
        """The part of the volume that the crops show."""
        starts = np.array(list(tiles))
        first = np.maximum(starts.min(axis=0), 0)
        end = np.minimum(starts.max(axis=0) + self.size, self.volume.shape)
        return tuple(slice(int(one), int(other)) for one, other in zip(first, end, strict=True))

    def _blend(self, tiles: Tiles, box: Box) -> np.ndarray:
        """Outputs (output, z, y, x) in a box: overlapping crops are weighted down towards their faces."""
        count = len(next(iter(tiles.values())))
        shape = [part.stop - part.start for part in box]
        total = np.zeros((count, *shape), np.float32)
        weights = np.zeros(shape, np.float32)
        for start, crop in tiles.items():
            extents = list(
                zip((s - part.start for s, part in zip(start, box, strict=True)), self.size, shape, strict=True)
            )
            target = tuple(slice(max(0, s), min(n, s + m)) for s, m, n in extents)
            source = tuple(slice(max(0, -s), min(n, s + m) - s) for s, m, n in extents)
            total[(slice(None),) + target] += crop[(slice(None),) + source] * self.taper[source]
            weights[target] += self.taper[source]
        total /= np.maximum(weights, 1e-6)
        return total


def _placed(part: np.ndarray, box: Box, volume: np.ndarray) -> np.ndarray:
    """What was found in a box of a volume, 0 outside it."""
    whole = np.zeros(volume.shape, np.float32)
    whole[box] = part
    return whole


def _finer(box: Box, step: Sequence[float], shape: Sequence[int]) -> Box:
    """The box about all voxels of a finer grid, ``step`` times as many, that linear resampling draws from a box."""
    return tuple(
        slice(max(0, math.floor((part.start - 1) * factor)), min(n, math.ceil((part.stop + 1) * factor)))
        for part, factor, n in zip(box, step, shape, strict=True)
    )


def _gland_center(probability: np.ndarray) -> np.ndarray | None:
    """Centroid (z, y, x) of what is likelier prostate than not, weighted by its probability."""
    gland = np.where(probability > 0.5, probability, 0)
    mass = gland.sum()
    if mass < 100:  # less than 0.15 ml is no gland
        return None
    return np.array([
        np.dot(gland.sum(axis=tuple(other for other in range(3) if other != axis)), np.arange(n)) / mass
        for axis, n in enumerate(gland.shape)
    ])  # fmt: skip


def _gland_extent(probability: np.ndarray) -> np.ndarray:
    """Size (z, y, x) in voxels of what is likelier prostate than not, without the outermost hundredth on each side."""
    gland = probability > 0.5
    extent = []
    for axis in range(3):
        share = np.cumsum(gland.sum(axis=tuple(other for other in range(3) if other != axis))) / max(1, gland.sum())
        extent.append(np.searchsorted(share, 0.99) - np.searchsorted(share, 0.01) + 1)
    return np.array(extent)


def _taper(size: tuple[int, int, int]) -> np.ndarray:
    """Weights (z, y, x) that fall over the outer sixth of a crop, never to zero.

    They fall with the cube of the distance to the nearest face: where many crops overlap, their faces, where the
    network sees too little, must not outvote the one crop that sees the place well.
    """
    parts = []
    for n in size:
        distance = np.minimum(np.arange(n), np.arange(n)[::-1]) + 1
        parts.append(np.minimum(1, distance / (n / 6)).astype(np.float32))
    z, y, x = np.ix_(*parts)
    return np.minimum(np.minimum(z, y), x) ** 3
