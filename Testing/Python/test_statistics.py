"""Statistics of a few patients: intervals that cover what they promise, and a test that is not fooled by few."""

import numpy as np
import pytest
from scipy import stats

from DDSPSegmentationLib.learning.statistics import LEAST_PATIENTS, gain_p_value, mean_interval


@pytest.mark.parametrize("count", [5, 8, 20])
def test_the_interval_is_student_s(count):
    values = np.random.default_rng(count).normal(0.85, 0.05, count)
    expected = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected)


def test_there_is_no_interval_below_five_patients():
    assert LEAST_PATIENTS == 5
    assert mean_interval([0.1, 0.2, 0.3, 0.4]) is None and mean_interval([0.1, 0.2, 0.3, 0.4, 0.5]) is not None


@pytest.mark.parametrize("count", [5, 6, 10, 20])
def test_the_interval_of_95_percent_covers_the_mean_in_95_percent_of_the_samples(count):
    samples = np.random.default_rng([1, count]).normal(0.85, 0.05, (4000, count))
    covered = np.mean([low <= 0.85 <= high for low, high in map(mean_interval, samples)])
    assert 0.94 <= covered <= 0.96


@pytest.mark.parametrize("values", [[0.03, -0.01, 0.02, 0.05, 0.0], [-0.2, 0.1], [0.01] * 4 + [0.012]])
def test_the_p_value_is_that_of_the_one_sided_paired_t_test(values):
    assert gain_p_value(values) == pytest.approx(stats.ttest_1samp(values, 0, alternative="greater").pvalue)


def test_values_that_lie_close_together_by_luck_are_believed_to_scatter():
    close = [0.009, 0.01, 0.011, 0.01, 0.01]
    assert gain_p_value(close) < 1e-4
    assert gain_p_value(close, least_spread=0.01) == pytest.approx(stats.t.sf(5**0.5, 4))
    wide = [0.03, -0.01, 0.02, 0.05, 0.0]
    assert gain_p_value(wide, least_spread=0.01) == gain_p_value(wide)


def test_equal_differences_have_a_p_value_too():
    assert gain_p_value([0.02] * 5) < 1e-6 and gain_p_value([0.0] * 5) == 0.5 and gain_p_value([-0.02] * 5) > 1 - 1e-6
