"""Statistics of small samples, without a distribution to believe in: bootstrap and sign flips; both seeded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BOOTSTRAP_RESAMPLES = 10_000
BOOTSTRAP_SEED = 20_180_131
SIGN_FLIP_DRAWS = 10_000
SIGN_FLIP_SEED = 20_180_131
MOST_ENUMERATED = 12


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of the mean; None below two values."""
    sample = np.asarray(values, float)
    if sample.size < 2:
        return None
    generator = np.random.default_rng(BOOTSTRAP_SEED)
    drawn = generator.integers(sample.size, size=(BOOTSTRAP_RESAMPLES, sample.size))
    low, high = np.percentile(sample[drawn].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


def sign_flip_p_value(differences: Sequence[float]) -> float:
    """Two-sided p value of a paired permutation test: were a difference and its opposite equally likely, how often
    would the mean be as far from zero as it is?

    All sign patterns are enumerated up to 12 differences, so the smallest possible value is 2 / 2^n; above, 10,000
    are drawn and the observed one is counted with them, so that the value is never 0.

    Args:
        differences: one for each independent unit (a patient, not a case).
    """
    sample = np.asarray(differences, float)
    count = sample.size
    if count <= MOST_ENUMERATED:
        bits = np.arange(2**count)[:, None] >> np.arange(count) & 1
    else:
        bits = np.random.default_rng(SIGN_FLIP_SEED).integers(2, size=(SIGN_FLIP_DRAWS, count))
    sums = np.abs((1 - 2 * bits) @ sample)
    # Sums of the same numbers in another order differ in the last digit.
    as_far = int((sums >= abs(sample.sum()) - 1e-9).sum())
    return as_far / len(bits) if count <= MOST_ENUMERATED else (as_far + 1) / (len(bits) + 1)
