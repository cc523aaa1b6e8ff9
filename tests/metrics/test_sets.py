"""Measures of sets of features, against the published packages: see fixtures/metrics."""

import json
from pathlib import Path

import pytest
import torch

from offbeat.errors import ConfigError, ImageError, NotFiniteError, ShapeError
from offbeat.metrics import diversity, novelty
from offbeat.metrics.arousal import fit_arousal
from offbeat.metrics.fusion import vendi_score

FILE = Path(__file__).parent.parent / "fixtures" / "metrics" / "reference_values.json"
REFERENCE = json.loads(FILE.read_text())


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("case", REFERENCE["vendi"])
def test_vendi_score_is_the_packages(case):
    assert vendi_score(torch.tensor(case["features"])) == pytest.approx(case["score"], rel=1e-6)


def test_vendi_score_counts_different_items():
    assert vendi_score(torch.ones(5, 3)) == pytest.approx(1)
    assert vendi_score(torch.eye(6)) == pytest.approx(6)


@pytest.mark.parametrize("case", REFERENCE["prdc"])
def test_neighbourhoods_are_the_packages(case):
    found = diversity.neighbourhoods(
        torch.tensor(case["references"]), torch.tensor(case["images"]), nearest_k=case["nearest_k"]
    )
    assert 0 < case["coverage"] < 1  # an end of the range would say little
    for name, value in found._asdict().items():
        assert value == pytest.approx(case[name], abs=1e-12), name


def test_neighbourhoods_of_equal_items_hold_nothing():
    same = torch.ones(4, 3)
    assert diversity.neighbourhoods(same, same, nearest_k=2) == (0, 0, 0, 0)
    with pytest.raises(ConfigError, match="got 4 with 4 references"):
        diversity.neighbourhoods(same, same, nearest_k=4)


def test_mean_pair_distance_by_hand():
    items = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    assert diversity.mean_pair_distance(items) == pytest.approx((1 + 2 + 1) / 3)
    with pytest.raises(ConfigError, match="2 items"):
        diversity.mean_pair_distance(items[:1])


def test_nearest_distance_by_hand():
    references = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    items = torch.tensor([[2.0, 0.0], [-1.0, 0.0], [1.0, 1.0]])
    found = novelty.nearest_distance(items, references)
    assert found.tolist() == pytest.approx([0, 1, 1 - 0.5**0.5], abs=1e-7)


def test_ordinary_items_share_is_even_and_that_of_far_ones_is_1():
    spread = torch.linspace(0.2, 2, 12)
    baseline = novelty.fit_baseline(noise(400, 12) * spread)
    share = novelty.held_out_share(noise(2000, 12, seed=1) * spread, baseline)
    assert share.quantile(torch.tensor([0.25, 0.5, 0.75]).double()).tolist() == pytest.approx(
        [0.25, 0.5, 0.75], abs=0.09
    )
    assert novelty.held_out_share(torch.full((1, 12), 30.0), baseline).tolist() == [1.0]
    with pytest.raises(ImageError, match="at least 20"):
        novelty.fit_baseline(noise(19, 12))
    with pytest.raises(ConfigError, match="identical"):
        novelty.fit_baseline(torch.ones(20, 12))


def test_arousal_peak_is_scipys():
    case = REFERENCE["arousal"][0]
    curve = fit_arousal(case["x"], case["y"])
    assert curve.kind == "berlyne"
    assert curve.parameters["c"] > curve.parameters["a"]
    assert curve.squared_error <= case["squared_error"] * (1 + 1e-3)
    assert curve.peak == pytest.approx(case["peak"], abs=0.05)
    assert float((curve.predict(case["x"]) - torch.tensor(case["y"])).square().sum()) == (
        pytest.approx(curve.squared_error)
    )


def test_arousal_falls_back_to_a_quadratic():
    x = torch.linspace(100, 110, 30)
    curve = fit_arousal(x, 3 - 0.1 * (x - 104) ** 2)
    assert curve.kind == "quadratic"
    assert curve.peak == pytest.approx(104, abs=1e-2)
    assert curve.r_squared == pytest.approx(1)
    assert fit_arousal(x[:5], [1, 2, 3, 4, 5]).kind == "quadratic"


def test_a_curve_that_only_rises_has_no_peak():
    x = torch.linspace(0, 10, 30)
    assert fit_arousal(x, x + 0.1 * noise(30)).peak is None
    flat = fit_arousal(x, torch.full((30,), 2.0))
    assert flat.r_squared == 0


def test_ratings_that_cannot_be_fitted_are_refused():
    with pytest.raises(ConfigError, match="4 different values or more, got 1"):
        fit_arousal([1, 1, 1, 1], [1, 2, 3, 4])
    with pytest.raises(ShapeError, match="got 1"):
        fit_arousal([1, 2, 3], [1])
    with pytest.raises(NotFiniteError, match="ratings"):
        fit_arousal([1, 2, 3, 4], [1, 2, 3, float("nan")])
    with pytest.raises(ConfigError, match="kind"):
        fit_arousal([1, 2, 3, 4], [1, 2, 3, 4], kind="cubic")
