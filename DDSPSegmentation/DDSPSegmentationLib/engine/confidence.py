"""The Dice to expect of a contour: what the members of a version disagree about, and what that meant before.

A version is calibrated on patients by pairs of members that never saw them. So at test time, too, the members are taken
in pairs, and each feature is the mean over all pairs. Everything is told in ``-log(1 - Dice)``, in which a contour that
is half as wrong is one step better, however good it is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .metrics import dice
from .run_settings import MODES
from .segmentation import ExpectedDice, bounding_box

NEIGHBORHOOD_MM = 10.0  # around the gland, in which the network's doubt counts
FEATURES = ("soft_dice", "agreement", "agreement_at_base", "agreement_at_apex", "agreement_in_volume")
BEST = 0.995  # no contour is expected to be better


@dataclass(frozen=True)
class Calibration:
    """The line from the features of a segmentation to its Dice, in ``-log(1 - Dice)``.

    Attributes:
        mode, threshold: what it holds for.
        centers, scales: of the features in FEATURES' order; ``weights``: of the features so scaled; ``intercept``.
        reach: what lies between the line and the ends of the 80 % interval, below and above.
        patients: how many it was fitted on.
    """

    mode: str
    threshold: float
    centers: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float
    reach: tuple[float, float]
    patients: int

    def expect(self, features: Sequence[float]) -> ExpectedDice:
        """What to expect of a segmentation with these features, in FEATURES' order."""
        middle = self.on_line(features)
        return ExpectedDice(*(from_line(middle + step) for step in (0.0, *self.reach)))

    def on_line(self, features: Sequence[float]) -> float:
        """The expected ``-log(1 - Dice)``."""
        scaled = (np.asarray(features) - self.centers) / self.scales
        return self.intercept + float(scaled @ self.weights)

    def to_dict(self) -> dict[str, Any]:
        """As model.json keeps it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration | None:
        """What ``to_dict`` made; ``None`` of nothing, and of the map from soft Dice that version 1 came with: it knew
        nothing of single scans.

        Raises:
            ValueError, TypeError, OverflowError: unusable values.
        """
        if not values or "soft_dice" in values:
            return None
        read: dict[str, Any] = {
            key: tuple(map(float, v)) if isinstance(v, (list, tuple)) else v for key, v in values.items()
        }
        found = cls(**read)
        lengths = {len(found.centers), len(found.scales), len(found.weights)}
        numbers = (*found.centers, *found.scales, *found.weights, *found.reach, found.intercept, found.threshold)
        if lengths != {len(FEATURES)} or len(found.reach) != 2 or not all(map(math.isfinite, numbers)):
            raise ValueError("a calibration of other features")
        if not (all(scale > 0 for scale in found.scales) and found.reach[0] <= 0 <= found.reach[1]):
            raise ValueError("a calibration without scale or order")
        if found.mode not in MODES or not 0 < found.threshold < 1:
            raise ValueError(f"a calibration for mode {found.mode!r} and threshold {found.threshold}")
        if not isinstance(found.patients, int) or isinstance(found.patients, bool) or found.patients < 1:
            raise ValueError("a calibration without a number of patients")
        return found


def on_line(dice: float) -> float:
    """``-log(1 - Dice)``."""
    return -math.log(1 - min(dice, BEST))


def from_line(value: float) -> float:
    """The Dice of a value on the line, in [0, ``BEST``]."""
    return min(1 - math.exp(-max(value, 0.0)), BEST)  # far below 0, exp would overflow


def pair_features(members: np.ndarray, spacing_mm: Sequence[float]) -> list[float] | None:
    """FEATURES of an answer, each the mean over all pairs of members.

    Args:
        members: probability of each member (member, z, y, x), z towards superior.
        spacing_mm: of z, y, x.

    Returns:
        ``None`` for a single member, and where a pair sees no gland.
    """
    pairs = [_features_of_pair(*pair, spacing_mm) for pair in itertools.combinations(members, 2)]
    found = [features for features in pairs if features is not None]
    return np.mean(found, axis=0).tolist() if found and len(found) == len(pairs) else None


def _features_of_pair(one: np.ndarray, other: np.ndarray, spacing_mm: Sequence[float]) -> list[float] | None:
    box = bounding_box(np.maximum(one, other) > 0.5)
    if box is None:
        return None
    wider = [round(NEIGHBORHOOD_MM / step) for step in spacing_mm]
    near = tuple(slice(max(0, part.start - w), part.stop + w) for part, w in zip(box, wider, strict=True))
    one, other = one[near], other[near]
    probability = (one + other) / 2
    mask, masks = probability > 0.5, (one > 0.5, other > 0.5)
    slices = np.flatnonzero(mask.any(axis=(1, 2)))
    if not slices.size:
        return None
    third = max(1, round(len(slices) / 3))
    apex, base = slice(slices[0], slices[0] + third), slice(slices[-1] - third + 1, slices[-1] + 1)
    volumes = sorted(np.count_nonzero(part) for part in masks)
    return [
        on_line(soft_dice(mask, probability)),
        on_line(dice(*masks)),
        on_line(dice(*(part[base] for part in masks))),
        on_line(dice(*(part[apex] for part in masks))),
        on_line(2 * volumes[0] / sum(volumes)),  # the Dice that the volumes alone would allow
    ]


def soft_dice(mask: np.ndarray, probability: np.ndarray) -> float:
    """Dice of a binary mask against the probability that made it: what the network itself expects; 0 when empty."""
    total = float(mask.sum()) + float(probability.sum())
    return 2 * float(probability[mask].sum()) / total if total > 0 else 0.0
