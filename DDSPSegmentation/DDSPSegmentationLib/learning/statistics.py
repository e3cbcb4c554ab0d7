"""Statistics of a few patients: Student's t for the interval of a mean, and for whether differences lie above zero."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

import numpy as np
from scipy.special import stdtr, stdtrit

LEAST_PATIENTS = 5  # nothing is concluded from fewer
LEAST_PATIENTS_TO_CALIBRATE = 15  # whom two members of a version left out


def patient_means(values: Iterable[tuple[str, float]]) -> list[float]:
    """Mean of each patient's values (patient, value): several scans of one patient are not independent."""
    by_patient: dict[str, list[float]] = {}
    for patient, value in values:
        by_patient.setdefault(patient, []).append(value)
    return [fmean(found) for found in by_patient.values()]


def mean_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float] | None:
    """95 % interval of the mean of independent values, one for each patient; None below five."""
    sample = np.asarray(values, float)
    if sample.size < LEAST_PATIENTS:
        return None
    reach = float(stdtrit(sample.size - 1, 0.975) * sample.std(ddof=1) / np.sqrt(sample.size))
    return float(sample.mean()) - reach, float(sample.mean()) + reach


def gain_p_value(differences: Sequence[float], least_spread: float = 0.0) -> float:
    """One-sided p value of the paired t-test: how often a mean lies so far above zero without a true difference.

    Args:
        differences: one for each patient, two or more.
        least_spread: a smaller standard deviation is taken for chance, and this one in its place. A few values of a
            left-skewed distribution often lie close together above its mean, where the plain test is fooled.
    """
    sample = np.asarray(differences, float)
    spread = max(float(sample.std(ddof=1)), least_spread, np.finfo(float).tiny)
    return float(stdtr(sample.size - 1, -sample.mean() * np.sqrt(sample.size) / spread))
