"""BASS: the swap operator, the balance region, the score and the segmenter, by hand."""

from dataclasses import replace

import pytest
import torch

from offbeat.core.rng import stream, streams
from offbeat.errors import ConfigError, RangeError, ShapeError
from offbeat.methods.mixing.agswap import AGSwap, AGSwapConfig
from offbeat.methods.mixing.bass import BASS, BassConfig, in_balance, segment_score
from offbeat.methods.mixing.segments import ColourSegmenter, patches
from offbeat.methods.mixing.swaps import half_ones, swapped
from offbeat.protocols import Segments
from offbeat.types import Request

PAIR = Request(subject="pig + owl", weights=(("pig", 0.5), ("owl", 0.5)), num_images=1, seed=3)
CONFIG = BassConfig(num_swaps=6, num_pilot=4, num_inference_steps=3)


def test_each_column_is_one_parent_s(tiny_sd):
    first, second = tiny_sd.encode_text(["a pig"]), tiny_sd.encode_text(["an owl"])
    width = first.text_encoder_hidden_states.shape[-1]
    columns = torch.stack([half_ones(width, stream(1)), torch.ones(width, dtype=torch.bool)])
    assert int(columns[0].sum()) == width // 2
    found = swapped(first, second, columns)
    states = found.text_encoder_hidden_states
    for column in range(width):
        parent = first if columns[0, column] else second
        expected = parent.text_encoder_hidden_states[0, :, column]
        assert torch.equal(states[0, :, column], expected)
    assert torch.equal(states[1], first.text_encoder_hidden_states[0])
    assert torch.equal(found.text_embeds[1], first.text_embeds[0])
    assert not torch.equal(found.text_embeds[0], first.text_embeds[0])
    with pytest.raises(ShapeError, match="columns"):
        swapped(first, second, columns[:, 1:])


def test_the_balance_region_by_hand():
    first = torch.tensor([0.50, 0.50, 0.50, 0.90])
    second = torch.tensor([0.54, 0.60, 0.46, 0.90])
    found = in_balance(first, second, alpha=0.05, beta=0.5)
    assert found.tolist() == [False, False, True, False]
    assert in_balance(first, second, alpha=0.11, beta=0.6).tolist() == [True, True, True, False]


def test_the_score_of_segments_by_hand():
    first, second = torch.tensor([0.9, 0.1]), torch.tensor([0.2, 0.6])
    assert float(segment_score(first, second)) == pytest.approx(0.75 - 0.3)
    # one part that is both beats two that are all one
    assert segment_score(torch.tensor([0.5]), torch.tensor([0.5])) > segment_score(
        torch.tensor([0.7, 0.7]), torch.tensor([0.1, 0.1])
    )


def test_patches_are_connected():
    labels = torch.tensor([[1, 1, 0], [0, 1, 0], [1, 0, 1]])
    numbers = patches(labels)
    assert numbers[0, 0] == numbers[0, 1] == numbers[1, 1]
    assert numbers[0, 2] == numbers[1, 2]
    assert len(numbers.unique()) == 6  # corners do not join


def test_the_segmenter_finds_what_is_painted_and_leaves_the_ground():
    image = torch.ones(3, 128, 128)
    image[:, 20:60, 20:60] = torch.tensor([1.0, 0, 0])[:, None, None]
    image[:, 70:110, 30:100] = torch.tensor([0, 0, 1.0])[:, None, None]
    segmenter = ColourSegmenter()
    assert isinstance(segmenter, Segments)
    blue, red = segmenter.segments(image[None])[0]
    assert blue[90, 60]
    assert red[40, 40]
    assert int(blue.sum()) == 40 * 70
    assert int(red.sum()) == 40 * 40
    (whole,) = segmenter.segments(torch.zeros(1, 3, 8, 8))
    assert whole.shape == (1, 8, 8)
    assert whole.all()


def test_the_picture_returned_was_drawn_and_reported(pocket_sd):
    steps = []
    method = BASS(CONFIG)
    (found,) = method.mix(pocket_sd, PAIR, ["pig", "owl"], on_step=steps.append)
    assert [step.index for step in steps] == list(range(method.num_steps))
    assert steps[-1].values["drawn"] == 6
    columns = [half_ones(256, noise) for noise in [stream(3, "bass", 0)] for _ in range(6)]
    texts = [pocket_sd.encode_text([f"a picture of a {word}"]) for word in ("pig", "owl")]
    noise = [streams(3, "image", "decoder", num=1)[0] for _ in columns]
    with torch.no_grad():
        text = swapped(*texts, torch.stack(columns))
        drawn = pocket_sd.draw_text(text, generator=noise, num_inference_steps=3)
    assert float((drawn - found).abs().amax(dim=(1, 2, 3)).min()) < 2e-3


@pytest.mark.parametrize("method", [BASS(CONFIG), AGSwap(AGSwapConfig(num_draws=2))])
def test_the_swaps_draw_where_the_network_hears_pooled_text_too(tiny_sd, method):
    found = method.mix(tiny_sd, PAIR, ["pig", "owl"])
    assert found.shape == (1, 3, 16, 16)
    assert found.isfinite().all()


def test_without_any_in_balance_the_best_balanced_one_comes_back(pocket_sd):
    steps = []
    strict = BASS(replace(CONFIG, alpha=0.0, beta=0.0))
    (found,) = strict.mix(pocket_sd, PAIR, ["pig", "owl"], on_step=steps.append)
    assert steps[-1].values["inside"] == 0
    assert "best-balanced" in steps[-1].values["note"]
    assert found.shape == (3, 128, 128)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"num_pilot": 7}, RangeError),
        ({"alpha": -1}, RangeError),
        ({"segmenter": "sam"}, ConfigError),
        ({"num_swaps": 1.5}, ConfigError),
    ],
)
def test_settings_that_cannot_be(changed, error):
    with pytest.raises(error):
        replace(CONFIG, **changed)


def test_pictures_are_not_taken(pocket_sd):
    with pytest.raises(ConfigError, match="two words"):
        BASS(CONFIG).mix(pocket_sd, PAIR, ["pig", torch.zeros(3, 128, 128)])
