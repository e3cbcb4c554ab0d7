"""How far to trust a segmentation: uncertainty, expected Dice and the warnings a radiologist should read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

USUAL_VOLUME_ML = (10.0, 250.0)
DOUBTFUL_DICE = 0.85
GOOD_DICE = 0.87
LARGE_COMPONENT = 0.05  # of the gland's volume
LARGE_SLICE = 0.1  # of the gland's largest cross-section
WORDS = ("doubtful", "check", "", "good")  # of a verdict, as they come in a review
NO_EXPECTED_DICE = "There is no expected Dice"
NOT_CALIBRATED = NO_EXPECTED_DICE + ": {what} was not calibrated."
NOT_AXIAL = "The slices are not axial; the network was trained on axial scans alone."
SOME_SEE_NONE = "Some of the networks see no gland here; check every slice."


def uncertainty_map(probability: np.ndarray, disagreement: np.ndarray) -> np.ndarray:
    """Entropy of the fused probability, raised by the branches' disagreement; float32 in [0, 1].

    Args:
        probability: fused probability (z, y, x).
        disagreement: standard deviation of the branches' probabilities (z, y, x), at most 0.5.
    """
    p = np.clip(probability, 1e-6, 1 - 1e-6)
    entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    spread = np.clip(2 * disagreement, 0, 1)
    return (entropy + spread - entropy * spread).astype(np.float32)


def slice_doubts(mask: np.ndarray, probability: np.ndarray, axis: int) -> list[float | None]:
    """How much of each slice is expected to be wrong, as a share of the gland's largest cross-section.

    Whoever corrects the slices that stand highest gains most. (By the soft Dice of a slice, a relative measure, the few
    voxels at the ends come first, of whatever gland: that finds the worst slices no more often than chance does.)

    Args:
        mask: bool (z, y, x); ``probability``: what made it.
        axis: array axis along which the slices were acquired.

    Returns:
        One value a slice; ``None`` where the mask is empty and the probability promises no more than a rim of gland.
    """
    within = tuple(other for other in range(3) if other != axis)
    area = mask.sum(axis=within, dtype=np.float64)
    promised = probability.sum(axis=within, dtype=np.float64)
    wrong = np.minimum(probability, 1 - probability).sum(axis=within, dtype=np.float64)
    shown = (area > 0) | (promised > LARGE_SLICE * max(promised.max(), 1.0))
    largest = max(area.max(), promised.max(), 1.0)
    return [round(float(one) / largest, 4) if show else None for show, one in zip(shown, wrong, strict=True)]


def verdict(dice: float | None, warnings: Sequence[str]) -> str:
    """One word for an expected Dice and its warnings: ``good``, ``check`` or ``doubtful``.

    Without an expected Dice nothing is called good: the word is "" unless there are warnings.
    """
    if dice is None:
        return "check" if warnings else ""
    if dice < DOUBTFUL_DICE:
        return "doubtful"
    return "check" if warnings or dice < GOOD_DICE else "good"


def review_rank(dice: float | None, warnings: Sequence[str]) -> tuple[int, float]:
    """Where a result stands among others when the most doubtful come first: by its word, then by expected Dice."""
    return WORDS.index(verdict(dice, warnings)), dice or 0.0


def unusual_volume(volume_ml: float) -> list[str]:
    """A warning when few prostates have this volume."""
    low, high = USUAL_VOLUME_ML
    usual = low <= volume_ml <= high
    return [] if usual else [f"The volume of {volume_ml:.0f} ml is outside the usual {low:.0f}-{high:.0f} ml."]


def find_warnings(
    volume_ml: float, touches: Sequence[str], component_shares: Sequence[float], dice: float | None
) -> list[str]:
    """Sentences to read before trusting the mask.

    Args:
        touches: sides of the field of view that the gland touches (``superior``, ``anterior``, ...).
        component_shares: volumes of what was found, relative to the largest component, without it.
        dice: expected Dice, where there is one.
    """
    if volume_ml == 0:
        return ["No prostate was found. Check that this is an axial T2-weighted scan that shows the prostate."]
    warnings = []
    if touches:
        sides = " and ".join(touches)
        warnings.append(
            f"The gland touches the {sides} edge of the scan; part of it may be missing and the volume too small."
        )
    warnings += unusual_volume(volume_ml)
    large = sum(share > LARGE_COMPONENT for share in component_shares)
    if large:
        warnings.append(f"{large + 1} separate parts were found; only the largest is kept.")
    if dice is not None and dice < DOUBTFUL_DICE:
        warnings.append("The network rates its contour as unreliable; check every slice.")
    return warnings
