"""Intervals, tests and verdicts against what they must be."""

import math

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from offbeat.bench.cells import Cell, Item
from offbeat.bench.results import by_unit, decide, judged, summary
from offbeat.bench.spec import Claim, Table, Way
from offbeat.bench.statistics import interval, sign_flip_p, smallest_effect
from offbeat.core.rng import stream

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


def judge(gaps, within=None, equal=None):
    """Return the verdict on one claim of a page that has no other."""
    claim = Claim(says="", way="a", reading="r", over="b", within=within, equal=equal)
    ways = {name: Way(name=name, label=name) for name in "ab"}
    table = Table(name="", title="", program="", source="", ways=ways)
    first, other = ({str(at): gap * times for at, gap in enumerate(gaps)} for times in (1, 0))
    outcome = judged(claim, table, {("a", "r"): first, ("b", "r"): other})
    return decide([{"claims": [outcome]}])[0][0]["verdict"]


@given(st.lists(numbers, min_size=6, max_size=9))
@settings(max_examples=30, deadline=None)
def test_a_claim_and_its_opposite_are_never_both_seen(values):
    both = {judge(values), judge([-value for value in values])}
    assert both in ({"undecided"}, {"as in the paper", "not as in the paper"})


def test_verdicts():
    assert judge([0.1, 0.2, 0.1, 0.3, 0.2, 0.1]) == "as in the paper"
    assert judge([-0.1, -0.2, -0.1, -0.3, -0.2, -0.1]) == "not as in the paper"
    assert judge([9.0] * 5) == "undecided"  # five pairs can show nothing
    worse = [-0.02, -0.01, -0.03, 0.0, -0.02, -0.01]
    assert judge(worse) != "as in the paper"
    assert judge(worse, within=0.1) == "as in the paper"
    assert judge(worse, within=0.001) == "undecided"
    assert judge(worse, equal=0.1) == "equal within the margin"
    assert judge(worse, equal=0.02) == "undecided"
    assert judge([0.0] * 8) == "undecided"


def test_many_claims_are_corrected_together():
    gaps = [1.0] * 6  # p = 0.031 alone
    claim = {"says": "", "of": "ours", "equal": None, "pairs": 6, "unit": "item"}
    table = {"claims": [{**claim, "mean_tested": 1.0, "p": sign_flip_p(gaps)} for _ in range(2)]}
    (one, other), (alone,) = decide([table, {"claims": table["claims"][:1]}])
    assert one["p_corrected"] == pytest.approx(3 * 0.03125)
    assert {one["verdict"], other["verdict"], alone["verdict"]} == {"undecided"}


@pytest.mark.parametrize("num", [8, 24])
def test_no_difference_is_decided_at_most_at_the_level(num):
    noise = torch.randn(400, num, generator=stream(0, "null"), dtype=torch.float64)
    verdicts = [judge(row) for row in noise.tolist()]
    assert sum(v != "undecided" for v in verdicts) / 400 <= 0.05 + 2 * 0.011
    # a difference that lies just at the margin is not called none
    at_margin = [judge(row, equal=1.0) for row in (noise + 1.0).tolist()]
    assert sum(v != "undecided" for v in at_margin) / 400 <= 0.05 + 2 * 0.011


@pytest.mark.parametrize("num", [6, 10, 24])
def test_the_smallest_effect_is_found_with_its_power(num):
    noise = torch.randn(400, num, generator=stream(1, "planted"), dtype=torch.float64)
    verdicts = [judge(row) for row in (noise + smallest_effect(num)).tolist()]
    power = sum(v == "as in the paper" for v in verdicts) / 400
    assert 0.8 - 0.06 < power < 0.8 + 0.06


def test_the_smallest_effect_is_near_that_of_the_t_test_where_pairs_are_many():
    num = 30
    t = sum(scipy.stats.t.ppf(share, num - 1) for share in (0.8, 0.975))
    assert smallest_effect(num) == pytest.approx(t / num**0.5, rel=0.08)
    assert smallest_effect(5) == float("inf")


def training(gaps, equal=None):
    claim = Claim(says="", way="a", reading="r", than=0.0, equal=equal)
    ways = {"a": Way(name="a", label="a")}
    table = Table(name="", title="", program="", source="", unit="training", ways=ways)
    values = {("a", "r"): {str(at): gap for at, gap in enumerate(gaps)}}
    return decide([{"claims": [judged(claim, table, values)]}])[0][0]["verdict"]


def test_trainings_are_tested_by_t_at_the_level_and_with_the_stated_power():
    noise = torch.randn(400, 5, generator=stream(2, "trainings"), dtype=torch.float64)
    verdicts = [training(row) for row in noise.tolist()]
    assert sum(v != "undecided" for v in verdicts) / 400 <= 0.05 + 2 * 0.011
    planted = [training(row) for row in (noise + smallest_effect(5, "training")).tolist()]
    assert 0.74 < sum(v == "as in the paper" for v in planted) / 400 < 0.86
    assert training([1.0, 1.1, 0.9, 1.0]) == "undecided"  # four trainings are too few
    assert training([0.01, -0.01, 0.02, -0.02, 0.0], equal=0.1) == "equal within the margin"


def test_rows_become_units_items_are_chosen_and_numbers_stand_for_rows():
    way = Way(name="a", label="a")
    rows = [
        (Cell(way, Item(item, item), seed), {"readings": {"r": float(value)}, "num_images": 1,
                                             "evaluations": 0, "seconds": 0.0})
        for item, values in {"pig": (1, 3), "owl": (5, 7)}.items()
        for seed, value in enumerate(values)
    ]  # fmt: skip
    assert by_unit(rows, "item")["a", "r"] == {"pig": 2, "owl": 6}
    assert by_unit(rows, "run")["a", "r"] == {"pig 0": 1, "pig 1": 3, "owl 0": 5, "owl 1": 7}
    assert by_unit(rows, "training")["a", "r"] == {"0": 3, "1": 5}
    claims = (
        Claim(says="", way="a", reading="r", than=2.0, items=("owl",)),
        Claim(says="", way="a", reading="r", than=2.0, least=1.5),
    )
    table = Table(name="", title="", program="", source="", ways={"a": way}, claims=claims)
    of_owl, least = summary(table, rows)["claims"]
    assert (of_owl["pairs"], of_owl["difference"]) == (1, 4.0)
    assert (least["pairs"], least["mean_tested"], least["wins"]) == (2, 0.5, 1)
