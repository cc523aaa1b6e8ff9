"""DiffMorpher: its parts by hand, ends that are the pictures again, a path of equal steps."""

from dataclasses import replace

import pytest
import torch

from offbeat.core.functional import slerp
from offbeat.core.rng import stream, streams
from offbeat.errors import ConfigError, RangeError
from offbeat.methods.mixing.diffmorpher import DiffMorpher, DiffMorpherConfig
from offbeat.methods.mixing.morphing import (
    BlendedAttention,
    adapted_statistics,
    blended_lora,
    equal_steps,
    fit_lora,
)
from offbeat.types import Attention, Request

PAIR = Request(subject="dog + cat", weights=(("dog", 0.5), ("cat", 0.5)), num_images=1, seed=1)
CONFIG = DiffMorpherConfig(
    num_steps=4, learning_rate=2e-3, num_inference_steps=10, num_refinements=1, reschedule=False
)


def random(*shape, seed=1):
    return torch.randn(*shape, generator=stream(seed))


def test_slerp_has_its_ends_and_keeps_the_length():
    first, second = random(3, 4, 8, 8), random(3, 4, 8, 8, seed=2)
    assert torch.equal(slerp(first, second, torch.zeros(3)), first)
    assert torch.equal(slerp(first, second, torch.ones(3)), second)
    right = slerp(torch.eye(2)[:1], torch.eye(2)[1:], torch.tensor([1 / 3]))
    torch.testing.assert_close(right, torch.tensor([[0.75**0.5, 0.5]]))
    torch.testing.assert_close(slerp(first, first, torch.full((3,), 0.4)), first)


def test_factors_are_blended_each_for_itself_or_by_their_product():
    first = {"x.lora_A.weight": random(2, 3, 5), "x.lora_B.weight": random(2, 7, 3, seed=2)}
    second = {
        "x.lora_A.weight": random(2, 3, 5, seed=3),
        "x.lora_B.weight": random(2, 7, 3, seed=4),
    }
    shares = torch.tensor([0.0, 0.3])
    published = blended_lora(first, second, shares)
    for name, factor in published.items():
        torch.testing.assert_close(factor[0], first[name][0])
        torch.testing.assert_close(factor[1], 0.7 * first[name][1] + 0.3 * second[name][1])
    ours = blended_lora(first, second, shares, blend="product")
    one, two, both = (
        part["x.lora_B.weight"] @ part["x.lora_A.weight"] for part in (first, second, ours)
    )
    torch.testing.assert_close(both[0], one[0])
    torch.testing.assert_close(both[1], 0.7 * one[1] + 0.3 * two[1])


@pytest.mark.parametrize("adain", [False, True])
def test_statistics_are_those_of_the_noise_that_is_denoised(pocket_sd, monkeypatch, adain):
    method = DiffMorpher(replace(CONFIG, num_steps=0, num_inference_steps=2, adain=adain))
    started, denoise = [], pocket_sd.denoise

    def watched(latents, *args, **settings):
        started.append(latents)
        return denoise(latents, *args, **settings)

    monkeypatch.setattr(pocket_sd, "denoise", watched)
    method.mix(pocket_sd, PAIR, ["dog", "cat"])
    first, middle, last = started[-1]  # the ends run in the same batch
    halfway = (first.mean((1, 2)) + last.mean((1, 2))) / 2
    assert torch.allclose(middle.mean((1, 2)), halfway, atol=1e-4) == adain


@pytest.mark.parametrize("guided", [False, True])
def test_keys_and_values_come_from_both_ends(guided):
    shares = torch.tensor([0.0, 0.25, 1.0])
    states = random(6 if guided else 3, 2, 5, 4)
    seen = Attention(
        layer="up_blocks.1.attn1", is_cross=False, step=2, guided=guided,
        query=states, key=states, value=2 * states,
    )  # fmt: skip
    blend = BlendedAttention(shares, 3, until=3, own=0.0)
    found = blend(seen)
    assert torch.equal(found.query, states)
    for at in (0, 3) if guided else (0,):
        assert torch.equal(found.key[at], states[at])
        assert torch.equal(found.key[at + 2], states[at + 2])
        expected = 0.75 * states[at] + 0.25 * states[at + 2]
        torch.testing.assert_close(found.key[at + 1], expected)
        torch.testing.assert_close(found.value[at + 1], 2 * expected)
    for left in ({"step": 3}, {"is_cross": True}, {"layer": "down_blocks.1.attn1"}):
        assert blend(replace(seen, **left)).key is states
    kept = BlendedAttention(shares, 3, until=3, own=1.0)(seen)
    torch.testing.assert_close(kept.key, states)


def test_statistics_are_those_between_both_ends():
    latents, first, second = (random(2, 4, 8, 8, seed=seed) * seed + seed for seed in (1, 2, 3))
    found = adapted_statistics(latents, first, second, torch.tensor([0.0, 0.5]))
    torch.testing.assert_close(found[0].mean((1, 2)), first[0].mean((1, 2)), rtol=0, atol=1e-4)
    torch.testing.assert_close(found[0].std((1, 2)), first[0].std((1, 2)), rtol=0, atol=1e-4)
    between = (first[1].std((1, 2)) + second[1].std((1, 2))) / 2
    torch.testing.assert_close(found[1].std((1, 2)), between, rtol=0, atol=1e-4)


def test_steps_are_made_equal_by_hand():
    shares = torch.linspace(0, 1, 5)
    found = equal_steps(shares, torch.tensor([3.0, 1.0, 0.0, 0.0]))
    torch.testing.assert_close(found, torch.tensor([0.0, 1 / 12, 1 / 6, 0.25, 1.0]))
    assert torch.equal(equal_steps(shares, torch.zeros(4)), shares)
    rising = equal_steps(shares, torch.tensor([0.1, 5.0, 0.3, 2.0]))
    assert rising[0] == 0
    assert rising[-1] == 1
    assert (rising.diff() >= 0).all()


def test_fitting_lowers_the_loss_of_each_picture_alone(pocket_sd):
    with torch.no_grad():
        words = pocket_sd.encode_text(["a picture of a dog", "a picture of a castle"])
        latents = pocket_sd.encode_latents(pocket_sd.draw_text(words, generator=stream(3)))
        text = pocket_sd.encode_text(["", ""])
    steps, still = [], []
    settings = {"rank": 4, "num_steps": 20, "learning_rate": 2e-3}
    both = fit_lora(
        pocket_sd, latents, text, noise=streams(4, num=2), on_step=steps.append, **settings
    )
    unlearning = {**settings, "learning_rate": 1e-12}  # the same noise and times, nothing learned
    fit_lora(pocket_sd, latents, text, noise=streams(4, num=2), on_step=still.append, **unlearning)
    late, before = (sum(step.loss for step in part[-6:]) for part in (steps, still))
    assert late < 0.95 * before
    one = pocket_sd.encode_text([""])
    last = fit_lora(
        pocket_sd, latents[1:], one, noise=streams(4, num=1, start=1), on_step=steps.append,
        **settings,
    )  # fmt: skip
    for name, factor in both.items():
        torch.testing.assert_close(factor[1:], last[name], rtol=0, atol=5e-3)


@pytest.fixture(scope="module")
def path(pocket_sd):
    method = DiffMorpher(CONFIG)
    return method.morph(pocket_sd, PAIR, ["dog", "cat"], num=4)[0]


def test_the_ends_of_a_path_are_the_pictures_again(pocket_sd, path):
    texts = [pocket_sd.encode_text([f"a picture of a {word}"]) for word in ("dog", "cat")]
    for text, frame in zip(texts, (path[0], path[-1]), strict=True):
        with torch.no_grad():
            picture = pocket_sd.draw_text(text, generator=streams(1, "image", "decoder", num=1))
            ceiling = pocket_sd.decode(pocket_sd.encode_latents(picture))
        error = float((frame - ceiling[0]).square().mean())
        assert error < 5e-3  # 23 dB; drawing another picture of the word leaves 15
    assert float((path[0] - path[-1]).square().mean()) > 0.01


def test_a_mixture_is_a_point_of_the_path(pocket_sd, path):
    weights = (("dog", 2 / 3), ("cat", 1 / 3))
    found = DiffMorpher(CONFIG).mix(pocket_sd, replace(PAIR, weights=weights), ["dog", "cat"])
    torch.testing.assert_close(found[0], path[1], rtol=0, atol=2e-3)


def test_frames_do_not_depend_on_their_batch(pocket_sd, path):
    small = DiffMorpher(replace(CONFIG, frame_batch_size=3))
    again = small.morph(pocket_sd, PAIR, ["dog", "cat"], num=4)[0]
    torch.testing.assert_close(again, path, rtol=0, atol=2e-3)


def test_a_distance_of_one_s_own_sets_the_pace(pocket_sd):
    asked = []

    def far(images, others):
        asked.append(len(images))
        return torch.tensor([1.0, 0.0])

    method = DiffMorpher(replace(CONFIG, reschedule=True, num_steps=0), distance=far)
    paced = method.morph(pocket_sd, PAIR, ["dog", "cat"], num=3)[0]
    assert asked == [2]
    quarter = replace(PAIR, weights=(("dog", 0.75), ("cat", 0.25)))
    found = method.mix(pocket_sd, quarter, ["dog", "cat"])
    torch.testing.assert_close(paced[1], found[0], rtol=0, atol=2e-3)


def test_two_pictures_are_mixed_and_prompts_may_be_given(tiny_sd):
    pictures = [torch.rand(3, 16, 16, generator=stream(seed)) for seed in (1, 2)]
    config = DiffMorpherConfig(num_steps=2, num_inference_steps=3, rank=2, prompts=("pig", "owl"))
    found = DiffMorpher(config).morph(tiny_sd, replace(PAIR, num_images=2), pictures, num=3)
    assert found.shape == (2, 3, 3, 16, 16)
    assert found.isfinite().all()


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"rank": 0}, RangeError),
        ({"rank": 1.5}, ConfigError),
        ({"prompts": ("one",)}, ConfigError),
        ({"own_attention": float("nan")}, RangeError),
        ({"attention_share": 1.2}, RangeError),
    ],
)
def test_settings_that_cannot_be(changed, error):
    with pytest.raises(error):
        replace(CONFIG, **changed)
