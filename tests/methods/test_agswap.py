"""AGSwap, our reading: groups by hand, a lean that never grows, and its name on it."""

import torch

from offbeat.core.rng import stream
from offbeat.methods.mixing import agswap
from offbeat.methods.mixing.agswap import AGSwap, AGSwapConfig, flipped, group_size
from offbeat.types import Request

PAIR = Request(subject="pig + owl", weights=(("pig", 0.5), ("owl", 0.5)), num_images=2, seed=3)
CONFIG = AGSwapConfig(num_draws=5, num_inference_steps=3, tolerance=0.0)


def test_the_size_of_a_group_follows_the_lean():
    assert group_size(0.8, 0.8, 256, 0.25) == 64
    assert group_size(-0.4, 0.8, 256, 0.25) == 32
    assert group_size(0.001, 0.8, 256, 0.25) == 1
    assert group_size(2.0, 0.8, 256, 0.25) == 64
    assert group_size(0.1, 0.0, 256, 0.25) == 64


def test_a_group_is_taken_from_the_word_that_leads():
    columns = torch.tensor([True] * 6 + [False] * 4)
    less = flipped(columns, True, 2, stream(1))
    assert int(less[:6].sum()) == 4
    assert not less[6:].any()
    more = flipped(columns, False, 9, stream(1))
    assert more.all()
    assert columns.tolist() == [True] * 6 + [False] * 4


def test_the_lean_never_grows_and_every_round_is_told(pocket_sd):
    steps = []
    images = AGSwap(CONFIG).mix(pocket_sd, PAIR, ["pig", "owl"], on_step=steps.append)
    assert images.shape == (2, 3, 128, 128)
    assert [step.index for step in steps] == list(range(len(steps)))
    for row in range(2):
        leans = [abs(step.values["leans"][row]) for step in steps]
        assert leans == sorted(leans, reverse=True)


def test_a_wide_tolerance_stops_at_the_first_picture(pocket_sd):
    steps = []
    config = AGSwapConfig(num_draws=5, num_inference_steps=3, tolerance=2.0)
    AGSwap(config).mix(pocket_sd, PAIR, ["pig", "owl"], on_step=steps.append)
    assert len(steps) == 1


def test_it_says_whose_reading_it_is():
    assert "our reading" in agswap.__doc__
    assert AGSwapConfig().reading == "offbeat"
