"""The model of choices: the field's own special cases, and intervals that cover."""

import choix
import numpy as np
import pytest

from offbeat.study.choice import (
    Choices,
    difference,
    fit_choices,
    of_pairs,
    of_rankings,
)

TRUE = np.array([0.4, 0.0, -0.4])


def pairs(rng, num_raters, num_trials, strengths=TRUE, left=0.0, ties=0.0, spread=0.0):
    """Simulate Davidson's model: conditions left and right, outcomes, raters."""
    shape, num = (num_raters, num_trials), len(strengths)
    lefts = rng.integers(0, num, shape)
    rights = (lefts + rng.integers(1, num, shape)) % num
    own = strengths + spread * rng.standard_normal((num_raters, num))
    a = np.take_along_axis(own, lefts, 1) + left
    b = np.take_along_axis(own, rights, 1)
    tie = np.log(ties) + (a + b) / 2 if ties else np.full(shape, -np.inf)
    outcomes = (np.stack([a, b, tie]) + rng.gumbel(size=(3, *shape))).argmax(0)
    raters = np.repeat(np.arange(num_raters), num_trials)
    return lefts.ravel(), rights.ravel(), outcomes.ravel(), raters


def test_pairs_without_ties_or_sides_are_bradley_terry():
    rng = np.random.default_rng(0)
    lefts, rights, outcomes, raters = pairs(rng, 40, 25)
    winners = np.where(outcomes == 0, lefts, rights)
    losers = np.where(outcomes == 0, rights, lefts)
    by_choix = choix.opt_pairwise(3, list(zip(winners, losers, strict=True)), alpha=1e-3)
    choices = of_pairs(lefts, rights, outcomes, raters, 3)
    without_side = Choices(choices.rows[:, :, :3], choices.chosen, choices.open, raters)
    ours = fit_choices(without_side).weights
    np.testing.assert_allclose(ours - ours.mean(), by_choix - by_choix.mean(), atol=1e-3)


def test_rankings_are_plackett_luce():
    rng = np.random.default_rng(1)
    rankings = [np.argsort(-(TRUE + rng.gumbel(size=3))).tolist() for _ in range(300)]
    by_choix = choix.opt_rankings(3, rankings, alpha=1e-3)
    ours = fit_choices(of_rankings(rankings, np.arange(300), 3)).weights
    np.testing.assert_allclose(ours - ours.mean(), by_choix - by_choix.mean(), atol=1e-3)


def test_the_covariance_of_independent_answers_is_that_of_the_likelihood():
    from statsmodels.discrete.conditional_models import ConditionalLogit

    rng = np.random.default_rng(2)
    lefts, rights, outcomes, _ = pairs(rng, 1500, 1, left=0.3)
    choices = of_pairs(lefts, rights, outcomes, np.arange(1500), 3)
    fit = fit_choices(choices)
    free = [1, 2, 3]  # the first strength is the reference
    rows = choices.rows[:, :, free].reshape(-1, 3)
    chosen = np.eye(2)[outcomes].ravel()
    theirs = ConditionalLogit(chosen, rows, groups=np.repeat(np.arange(1500), 2)).fit(disp=False)
    np.testing.assert_allclose(fit.weights[1:3] - fit.weights[0], theirs.params[:2], atol=1e-3)
    np.testing.assert_allclose(fit.weights[3], theirs.params[2], atol=1e-3)
    error = np.sqrt(fit.covariance[3, 3])
    np.testing.assert_allclose(error, theirs.bse[2], rtol=0.1)


@pytest.mark.parametrize(
    ("num_raters", "num_trials", "ties", "spread"),
    [(20, 20, 0.0, 0.0), (30, 20, 0.5, 0.0), (40, 12, 0.3, 0.6)],
)
def test_intervals_of_pairs_cover_at_their_level(num_raters, num_trials, ties, spread):
    rng = np.random.default_rng(3)
    true = 0.4
    if spread:  # of the mean over raters, which is what the model estimates
        huge = fit_choices(of_pairs(*pairs(rng, 20_000, 12, left=0.2, ties=ties, spread=spread), 3))
        true = float(huge.weights[0] - huge.weights[1])
    strength = side = 0
    for _ in range(500):
        drawn = pairs(rng, num_raters, num_trials, left=0.2, ties=ties, spread=spread)
        fit = fit_choices(of_pairs(*drawn, 3))
        found = fit.contrast(difference(0, 1, len(fit.weights)))
        strength += found.low <= true <= found.high
        row = np.zeros(len(fit.weights))
        row[3] = 1
        found = fit.contrast(row.tolist())
        side += found.low <= 0.2 <= found.high
    assert 0.925 <= strength / 500 <= 0.975
    assert spread or 0.925 <= side / 500 <= 0.975


def test_intervals_of_rankings_cover_at_their_level():
    rng = np.random.default_rng(4)
    covered = 0
    for _ in range(500):
        rankings = [np.argsort(-(TRUE + rng.gumbel(size=3))).tolist() for _ in range(120)]
        fit = fit_choices(of_rankings(rankings, np.repeat(np.arange(24), 5), 3))
        found = fit.contrast(difference(0, 2, 3))
        covered += found.low <= 0.8 <= found.high
    assert 0.925 <= covered / 500 <= 0.975


def test_no_difference_is_found_at_the_level_and_no_more():
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(500):
        drawn = pairs(rng, 25, 16, strengths=np.zeros(2), left=0.5, spread=0.4)
        fit = fit_choices(of_pairs(*drawn, 2))
        hits += fit.contrast(difference(0, 1, len(fit.weights))).p < 0.05
    assert hits / 500 <= 0.075


def test_the_left_place_is_found_and_does_not_move_the_strengths():
    rng = np.random.default_rng(6)
    for left in (0.0, 1.0):
        fit = fit_choices(of_pairs(*pairs(rng, 400, 20, left=left), 3))
        assert fit.weights[3] == pytest.approx(left, abs=0.08)
        assert fit.weights[0] - fit.weights[2] == pytest.approx(0.8, abs=0.12)


def test_a_condition_that_always_wins_stays_finite():
    wins = np.zeros(30, int)
    fit = fit_choices(of_pairs(wins, wins + 1, wins, np.arange(30), 2))
    assert np.isfinite(fit.weights).all()
    assert fit.weights[0] > fit.weights[1]
