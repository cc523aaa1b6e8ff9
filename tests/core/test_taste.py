"""A preference model: what is planted comes back, what is not is refused."""

import pytest
import torch

from offbeat.core.taste import Taste
from offbeat.errors import ConfigError

SIZE = 8


def answers(num, weights, seed=0, num_pictures=60):
    """Draw pictures' features and preferences of somebody with these weights."""
    draws = torch.Generator().manual_seed(seed)
    features = torch.randn(num_pictures, SIZE, generator=draws)
    pairs = torch.stack([
        torch.randperm(num_pictures, generator=draws)[:2] for _ in range(num)
    ])  # fmt: skip
    chances = torch.sigmoid((features[pairs[:, 0]] - features[pairs[:, 1]]) @ weights)
    first = torch.rand(num, generator=draws) < chances
    winners = torch.where(first, pairs[:, 0], pairs[:, 1])
    losers = torch.where(first, pairs[:, 1], pairs[:, 0])
    return features, winners, losers


STRONG = torch.tensor([2.0, -1.0, 0, 0, 0, 0, 0, 0])


def test_a_planted_taste_is_learned():
    taste = Taste.fit(*answers(300, STRONG))
    fresh = torch.randn(500, SIZE, generator=torch.Generator().manual_seed(9))
    liked, _ = taste.utility(fresh)
    assert torch.corrcoef(torch.stack([liked.float(), fresh @ STRONG]))[0, 1] > 0.9
    assert taste.accuracy > 0.7


def test_probabilities_are_calibrated():
    taste = Taste.fit(*answers(400, STRONG))
    draws = torch.Generator().manual_seed(5)
    first, second = (torch.randn(2000, SIZE, generator=draws) for _ in range(2))
    told = taste.probability(first, second)
    true = torch.sigmoid((first - second) @ STRONG)
    for low in (0.2, 0.4, 0.6):
        inside = (told > low) & (told < low + 0.2)
        assert abs(float(true[inside].mean()) - (low + 0.1)) < 0.08


def test_more_answers_leave_less_uncertain():
    few, many = (Taste.fit(*answers(num, STRONG)) for num in (120, 600))
    fresh = torch.randn(50, SIZE, generator=torch.Generator().manual_seed(3))
    assert many.utility(fresh)[1].mean() < few.utility(fresh)[1].mean()


def test_who_answers_by_chance_is_refused_but_for_one_in_twenty():
    refused = 0
    for seed in range(40):
        try:
            Taste.fit(*answers(100, torch.zeros(SIZE), seed))
        except ConfigError as error:
            refused += "no better than chance" in str(error)
    assert refused >= 32  # the best of three priors is taken, so somewhat more than 5 % pass


def test_few_answers_are_refused():
    with pytest.raises(ConfigError, match="at least 20"):
        Taste.fit(*answers(19, STRONG))


def test_the_most_telling_pair_is_one_that_nothing_is_known_of():
    taste = Taste.fit(*answers(300, STRONG))
    draws = torch.Generator().manual_seed(1)
    first, second = (torch.randn(200, SIZE, generator=draws) for _ in range(2))
    told = taste.information(first, second)
    assert bool((told >= 0).all())
    same = taste.information(first[:5], first[:5])
    assert float(same.max()) < float(told.min()) + 1e-9
    # a pair that is surely answered one way tells less than the most telling
    sure = taste.probability(first, second).sub(0.5).abs().argmax()
    assert told[sure] < told.max()
