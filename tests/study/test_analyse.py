"""The analysis of a study: what was planted is found, and nothing else."""

import json
import math

import numpy as np
import pytest
from statsmodels.stats.multitest import multipletests
from studies import make, planned

from offbeat.errors import ConfigError
from offbeat.metrics.common import holm
from offbeat.study.analyse import analyse
from offbeat.study.metrics import stand_in
from offbeat.study.report import write_report
from offbeat.study.simulate import Crowd, power, raters_needed, simulate

KINDS = ("pairs", "ranking", "scale", "yes-no")
EVEN = {"explored": 0.0, "ordinary": 0.0}
STRONG = {"explored": 1.0, "ordinary": 0.0}


def test_holm_is_holm():
    p_values = [0.01, 0.2, 0.03, 0.04, 0.001]
    np.testing.assert_allclose(holm(p_values), multipletests(p_values, method="holm")[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_preference_is_found_whichever_comes_first(kind):
    study = planned(kind, trials=12)
    ties = 0.3 if kind == "pairs" else 0.0
    for strengths, verdict in (
        (STRONG, "first higher"),
        ({"explored": 0.0, "ordinary": 1.0}, "second higher"),
    ):
        raters = simulate(study, Crowd(strengths=strengths, ties=ties, spread=0.3), 60)
        (found,) = analyse(study, raters).comparisons
        assert found.verdict == verdict
        assert found.low < found.estimate < found.high


@pytest.mark.parametrize("kind", KINDS)
def test_no_difference_is_found_at_most_at_the_level(kind):
    study = planned(kind, trials=8, repeats=0)
    wrong = sum(
        analyse(study, simulate(study, Crowd(strengths=EVEN, spread=0.4), 16, seed=seed))
        .comparisons[0].verdict in ("first higher", "second higher")
        for seed in range(100)
    )  # fmt: skip
    assert wrong <= 11  # of 100 at 5 %: more comes once in 200


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["scale", "yes-no"])
def test_intervals_of_means_cover_at_their_level(kind):
    study = planned(kind, trials=12, repeats=0, checks=0)
    crowd = Crowd(strengths={"explored": 0.7, "ordinary": 0.0}, spread=0.4)
    large = analyse(study, simulate(study, crowd, 2000, seed=999)).comparisons[0]
    covered, odds = 0, 0
    for seed in range(500):
        (found,) = analyse(study, simulate(study, crowd, 30, seed=seed)).comparisons
        covered += found.low <= large.estimate <= found.high
        if kind == "scale":
            odds += found.odds_ratio[1] <= large.odds_ratio[0] <= found.odds_ratio[2]
    assert 0.925 <= covered / 500 <= 0.975
    assert kind != "scale" or 0.925 <= odds / 500 <= 0.975


def test_the_careless_are_left_out_at_the_rate_of_the_checks():
    study = planned(trials=8, checks=3)
    crowd = Crowd(strengths=STRONG, careless=0.1)
    raters = simulate(study, crowd, 1000)
    analysis = analyse(study, raters)
    # who answers anything passes three checks of two or three choices by chance
    share = len(analysis.excluded) / 1000
    assert share == pytest.approx(0.1 * (1 - 0.5**3), abs=0.025)
    assert all("attention checks" in why for why in analysis.excluded.values())


def test_a_side_that_helps_is_told_and_does_not_move_the_preference():
    study = planned(trials=12)
    analysis = analyse(study, simulate(study, Crowd(strengths=EVEN, left=0.8), 400))
    assert analysis.left_place.low > 0.5
    assert analysis.comparisons[0].verdict != "first higher"
    assert abs(analysis.comparisons[0].estimate - 0.5) < 0.05


def test_equal_conditions_are_called_equal_when_many_have_answered():
    study = planned(trials=16)
    analysis = analyse(study, simulate(study, Crowd(strengths=EVEN), 250, seed=1))
    assert analysis.comparisons[0].verdict == "equal within the margin"


def test_rules_leave_out_only_whom_they_name():
    study = planned(trials=6, checks=2, min_seconds=1.0)
    raters = simulate(study, Crowd(strengths=STRONG), 12)
    fast = raters[3]
    hurried = [type(given)(given.position, given.value, 0.1, 0.0) for given in fast.given]
    lazy = raters[5].given[:2]
    raters[3] = type(fast)(3, 3, "person", "", "en", fast.trials, tuple(hurried))
    raters[5] = type(fast)(5, 5, "person", "", "en", raters[5].trials, lazy)
    excluded = analyse(study, raters).excluded
    assert set(excluded) == {"3", "5"}
    assert "sooner" in excluded["3"]
    assert "answered" in excluded["5"]


def test_a_primary_comparison_alone_is_tested():
    study = planned(conditions=("a", "b", "c"), primary=["a", "b"], trials=12)
    crowd = Crowd(strengths={"a": 1.0, "b": 0.0, "c": -2.0})
    found = analyse(study, simulate(study, crowd, 80)).comparisons
    verdicts = {(each.first, each.second): each.verdict for each in found}
    assert verdicts == {
        ("a", "b"): "first higher", ("a", "c"): "undecided", ("b", "c"): "undecided",
    }  # fmt: skip


def test_nobody_left_is_told():
    study = planned()
    with pytest.raises(ConfigError, match="at least one"):
        analyse(study, [])


def test_power_grows_with_raters_and_is_the_level_without_a_preference():
    study = planned(trials=12)
    few = power(study, num_raters=6, num_simulations=60)[0]
    many = power(study, num_raters=60, num_simulations=60)[0]
    assert few < 0.6 < many
    number, tried = raters_needed(study, preference=0.7, num_simulations=40)
    assert dict(tried)[number] >= 0.8


def test_a_metric_that_agrees_is_told_from_one_that_does_not():
    study = planned(trials=12)
    raters = simulate(study, Crowd(strengths=STRONG), 60)
    agrees = {p.id: float(p.condition == "explored") for p in study.pictures}
    good = stand_in(study, raters, "good", agrees)
    assert good.low > 0.6
    assert good.auc == pytest.approx(1 / (1 + math.exp(-1)), abs=0.05)
    rng, found = np.random.default_rng(0), 0
    for _ in range(40):
        noise = {p.id: float(rng.random()) for p in study.pictures}
        held = stand_in(study, raters, "none", noise)
        found += not held.low <= 0.5 <= held.high
    assert found <= 6  # of 40 at 5 %, over 8 comparisons only


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_says_who_answered_and_escapes_what_people_write(tmp_path, kind):
    study = make(tmp_path, kind, title="<b>Which?</b>")
    analysis = analyse(study, simulate(study, Crowd(strengths=STRONG), 20))
    write_report(study, [analysis])
    text = (study.folder / "report.html").read_text()
    assert "Simulated raters (no people)" in text
    assert "<b>Which" not in text
    assert "http" not in text.replace("http-equiv", "")
    numbers = json.loads((study.folder / "analysis.json").read_text())
    assert numbers["analyses"][0]["comparisons"][0]["first"] == "explored"
