"""MagicMix: plain img2img at its ends, the window by hand, the port's way as a switch."""

from dataclasses import replace

import pytest
import torch

from offbeat.core.rng import streams
from offbeat.errors import ConfigError, RangeError
from offbeat.methods.mixing.magicmix import MagicMix, MagicMixConfig
from offbeat.types import Request

REQUEST = Request(
    subject="pig + owl", prompt="a {subject}", weights=(("pig", 0.5), ("owl", 0.5)), num_images=2
)
CONFIG = MagicMixConfig(num_inference_steps=10, guidance_scale=1.0)


@pytest.fixture(scope="module")
def layout():
    return torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(2))


def mix(backbone, layout, **changed):
    method = MagicMix(replace(CONFIG, **changed))
    return method.mix(backbone, REQUEST, [layout, "owl"])


@torch.no_grad()
def img2img(backbone, layout, first):
    clean = backbone.encode_latents(layout[None].expand(2, -1, -1, -1))
    noise = streams(0, "magicmix", num=2)
    drawn = torch.stack([torch.randn(clean.shape[1:], generator=one) for one in noise])
    steps = {"num_inference_steps": 10}
    latents = backbone.add_noise(clean, drawn, step=first, **steps)
    text = backbone.encode_text(["a owl"])
    return backbone.decode(
        backbone.denoise(latents, text, generator=noise, start=first, guidance_scale=1.0, **steps)
    )


def test_all_content_is_img2img(tiny_sd, layout):
    plain = img2img(tiny_sd, layout, 4)
    for step_from in ("mixed", "unmixed"):
        assert torch.equal(mix(tiny_sd, layout, mix=1.0, step_from=step_from), plain)
    assert not torch.allclose(mix(tiny_sd, layout, mix=0.5), plain, atol=1e-3)


def test_an_empty_window_is_img2img(tiny_sd, layout):
    found = mix(tiny_sd, layout, mix=0.2, k_min=0.6)
    assert torch.equal(found, img2img(tiny_sd, layout, 4))


def test_no_content_at_all_steps_is_the_layout_but_for_one(tiny_sd, layout):
    """At mix 0 and k_min 0.1 the last step alone is free, and it starts from the layout."""
    found = mix(tiny_sd, layout, mix=0.0, k_min=0.1)
    assert torch.equal(found, mix(tiny_sd, layout, mix=0.0, k_min=0.1, k_max=0.9))


def test_the_port_steps_from_other_latents(tiny_sd, layout):
    paper, port = (mix(tiny_sd, layout, step_from=way) for way in ("mixed", "unmixed"))
    assert float((paper - port).abs().max()) > 0.003


def test_the_share_of_the_content_is_the_mix_factor(tiny_sd, layout):
    weights = (("pig", 0.7), ("owl", 0.3))
    shared = MagicMix(CONFIG).mix(tiny_sd, replace(REQUEST, weights=weights), [layout, "owl"])
    assert torch.equal(shared, mix(tiny_sd, layout, mix=0.3))


def test_steps_of_the_window():
    assert MagicMixConfig().window == (20, 35)
    assert MagicMixConfig(k_min=0, k_max=1, num_inference_steps=7).window == (0, 7)


def test_a_word_s_layout_is_its_ordinary_picture(pocket_sd):
    request = replace(REQUEST, prompt=None, num_images=1)
    text = pocket_sd.encode_text(["a picture of a pig"])
    with torch.no_grad():
        pig = pocket_sd.draw_text(text, generator=streams(0, "image", "decoder", num=1))
    method = MagicMix(replace(CONFIG, num_inference_steps=4))
    one = method.mix(pocket_sd, request, ["pig", "owl"])
    other = method.mix(pocket_sd, request, [pig[0], "owl"])
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"k_min": 0.7}, RangeError),
        ({"k_max": 1.1}, RangeError),
        ({"mix": float("nan")}, RangeError),
        ({"step_from": "neither"}, ConfigError),
        ({"num_inference_steps": 2.5}, ConfigError),
    ],
)
def test_settings_that_cannot_be(changed, error):
    with pytest.raises(error):
        replace(CONFIG, **changed)


def test_content_is_a_word(tiny_sd, layout):
    with pytest.raises(ConfigError, match="from a word"):
        MagicMix(CONFIG).mix(tiny_sd, REQUEST, ["pig", layout])
