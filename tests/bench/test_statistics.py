"""Intervals, tests and verdicts against what they must be."""

import math

import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from offbeat.bench.statistics import interval, sign_flip_p, verdict

numbers = st.floats(-100, 100, allow_nan=False).map(lambda x: round(x, 3))


@given(st.lists(numbers, min_size=1, max_size=9))
@settings(max_examples=30, deadline=None)
def test_an_interval_lies_within_its_values_and_is_the_same_each_time(values):
    low, high = interval(values)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert (low, high) == interval(values)


def test_flipped_signs_are_those_of_scipy():
    values = [0.3, 1.2, -0.4, 2.0, 0.9, 0.1, 0.7]
    exact = scipy.stats.permutation_test(
        (values,), lambda x: x.mean(), permutation_type="samples", n_resamples=math.inf
    )
    assert sign_flip_p(values) == pytest.approx(exact.pvalue)


def test_many_pairs_are_sampled_and_come_close():
    values = [0.2 + (-1) ** at * 0.5 for at in range(30)]
    assert sign_flip_p(values) == pytest.approx(scipy.stats.ttest_1samp(values, 0).pvalue, abs=0.02)


@given(st.lists(numbers, min_size=6, max_size=9))
@settings(max_examples=30, deadline=None)
def test_a_claim_and_its_opposite_are_never_both_seen(values):
    one, other = verdict(values), verdict([-value for value in values])
    assert {one, other} in ({"undecided"}, {"as in the paper", "not"})


def test_verdicts():
    assert verdict([0.1, 0.2, 0.1, 0.3, 0.2, 0.1]) == "as in the paper"
    assert verdict([-0.1, -0.2, -0.1, -0.3, -0.2, -0.1]) == "not"
    assert verdict([9.0] * 5) == "undecided"  # five pairs can show nothing
    worse = [-0.02, -0.01, -0.03, 0.0, -0.02, -0.01]
    assert verdict(worse) != "as in the paper"
    assert verdict(worse, within=0.1) == "as in the paper"
    assert verdict(worse, within=0.001) == "undecided"
    assert verdict([0.0] * 8) == "undecided"
