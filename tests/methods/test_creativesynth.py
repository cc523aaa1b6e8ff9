"""CreativeSynth: its streams, its attention, and that its parts can be switched off."""

from contextlib import suppress
from dataclasses import replace

import pytest
import torch

import tiny
from offbeat.backbones.stable_diffusion.adapter import StableDiffusionBackbone
from offbeat.core.rng import stream, streams
from offbeat.errors import ConfigError, RangeError, ShapeError
from offbeat.methods.creativesynth.attention import Sharing
from offbeat.methods.creativesynth.config import CreativeSynthConfig
from offbeat.methods.creativesynth.equations import art_bn
from offbeat.methods.creativesynth.method import CreativeSynth
from offbeat.types import Attention, Request

STEPS = 4
PLAIN = {
    "with_art_bn": False,
    "with_shared_attention": False,
    "with_inversion": False,
    "with_semantic": False,
}
REQUEST = Request(subject="pig", prompt="a pig", num_images=3, seed=5)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("creativesynth") / "sd"
    return StableDiffusionBackbone.load(tiny.build_sd(folder, "sd"))


@pytest.fixture(scope="module")
def art():
    return torch.rand(3, 16, 16, generator=stream(1))


@pytest.fixture(scope="module")
def content():
    return torch.rand(3, 16, 16, generator=stream(2))


def method(**settings):
    return CreativeSynth(CreativeSynthConfig(num_inference_steps=STEPS, **settings))


class Watched:
    """A backbone whose latents are noted after each step."""

    def __init__(self, inner):
        self.inner, self.seen = inner, []

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def denoise(self, latents, text, *, after_step, **settings):
        def after(step, found):
            self.seen.append(after_step(step, found))
            return self.seen[-1]

        self.started = latents
        return self.inner.denoise(latents, text, after_step=after, **settings)


def test_art_bn_gives_the_statistics_of_the_artwork_by_hand():
    x = torch.tensor([[[[1.0, 4.0], [3.0, 4.0]]]])  # two tokens, two channels
    y = torch.tensor([[[[10.0, 0.0], [30.0, 2.0]]]])
    # mean 2 and deviation 1 become 20 and 10; a flat channel becomes the other's mean
    expected = torch.tensor([[[[10.0, 1.0], [30.0, 1.0]]]])
    torch.testing.assert_close(art_bn(x, y), expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(
        art_bn(x), torch.tensor([[[[-1.0, 0.0], [1.0, 0.0]]]]), rtol=0, atol=1e-4
    )
    many = torch.randn(2, 3, 50, 4, generator=stream(0))
    found, other = art_bn(many, 5 * many[:1] + 2), 5 * many[:1] + 2
    mean, deviation = other.mean(-2, keepdim=True), other.std(-2, correction=0, keepdim=True)
    torch.testing.assert_close(found.mean(-2, keepdim=True), mean.expand(2, -1, -1, -1))
    spread = found.std(-2, correction=0, keepdim=True)
    torch.testing.assert_close(spread, deviation.expand(2, -1, -1, -1), rtol=1e-4, atol=1e-4)


def attend(seen):
    return torch.nn.functional.scaled_dot_product_attention(
        seen.query, seen.key, seen.value, attn_mask=seen.bias
    )


def seen(step=0, layer="up_blocks.0.attn1", is_cross=False):
    parts = [torch.randn(4, 2, 6, 3, generator=stream(3, name)) for name in "qkv"]
    return Attention(layer=layer, is_cross=is_cross, step=step, guided=False,
                     query=parts[0], key=parts[1], value=parts[2])  # fmt: skip


SHARING = Sharing(
    num_pinned=2, norm="art", share=True, layers=("up",), steps=range(0, 3), key_shift=0.5
)


@pytest.mark.parametrize("norm", ["art", "as_printed", "off"])
def test_pinned_streams_see_what_they_saw_and_the_others_see_the_artwork(norm):
    before, edited = seen(), replace(SHARING, norm=norm)(seen())
    found, plain = attend(edited), attend(before)
    torch.testing.assert_close(found[:2], plain[:2], rtol=0, atol=1e-5)
    assert float((found[2:] - plain[2:]).abs().min(dim=-1).values.mean()) > 1e-3
    assert edited.key.shape == (4, 2, 18, 3)
    torch.testing.assert_close(edited.value[3, :, 6:12], before.value[0])
    torch.testing.assert_close(edited.value[3, :, 12:], before.value[1])


def test_it_edits_self_attention_of_the_layers_and_steps_asked_for():
    assert SHARING(seen()).key.shape[2] > 6
    for other in (seen(step=3), seen(layer="mid_block.attn1"), seen(is_cross=True)):
        assert SHARING(other) is other


@pytest.mark.parametrize("direction", ["art", "as_printed"])
@pytest.mark.parametrize("offset", [0, 2])
def test_the_pinned_stream_is_the_stored_trajectory(backbone, art, content, direction, offset):
    painter = method(
        art_bn_direction=direction, trajectory_offset=offset, with_content_stream=True, variety=0.0
    )
    way, other = painter.invert(backbone, art), painter.invert(backbone, content)
    watched = Watched(backbone)
    painter.paint(watched, replace(REQUEST, num_images=2), art, content=content, way=way)
    assert len(watched.seen) == STEPS
    for step, latents in enumerate([watched.started, *watched.seen]):
        assert torch.equal(latents[0], way[max(offset, step), 0])
        assert torch.equal(latents[1], other[max(offset, step), 0])
        assert len(latents) == 2 + 2 * 2
    torch.testing.assert_close(watched.started[2], way[offset, 0])  # where the pictures start
    assert not torch.equal(watched.seen[-1][2], way[-1, 0])


def test_with_all_parts_off_it_is_the_plain_pipeline(tiny_sd, art):
    images = method(**PLAIN).paint(tiny_sd, REQUEST, art)
    noise = streams(5, "image", num=3)
    with torch.no_grad():
        latents = torch.stack([torch.randn(4, 8, 8, generator=one) for one in noise])
        found = tiny_sd.denoise(
            latents, tiny_sd.encode_text(["a pig"]), generator=noise, guidance_scale=5.0,
            num_inference_steps=STEPS,
        )  # fmt: skip
        plain = tiny_sd.decode(found)
    torch.testing.assert_close(images, plain, rtol=0, atol=1e-4)


@pytest.mark.parametrize("off", sorted(PLAIN))
def test_each_part_shows(backbone, art, content, off):
    full = method().paint(backbone, REQUEST, art, content=content)
    without = method(**{off: False}).paint(backbone, REQUEST, art, content=content)
    assert float((full - without).abs().max()) > 1e-3  # a random network attends little


def test_picture_i_depends_on_the_seed_and_i_alone(backbone, art, content):
    painter = method()
    images = painter.paint(backbone, REQUEST, art, content=content)
    assert images.shape == (3, 3, 16, 16)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    again = painter.paint(backbone, REQUEST, art, content=content)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(images, again)
    last = painter.paint(backbone, replace(REQUEST, num_images=1), art, content=content, start=2)
    torch.testing.assert_close(last, images[2:], rtol=0, atol=1e-4)
    other = painter.paint(backbone, replace(REQUEST, seed=6), art, content=content)
    assert float((other - images).abs().max()) > 0.01


def test_strength_goes_from_the_artwork_to_the_content(backbone, art, content):
    with torch.no_grad():
        ends = [backbone.decode(backbone.encode_latents(one[None]))[0] for one in (art, content)]
    found = {
        strength: method(strength=strength, kept_content=1.0).paint(
            backbone, replace(REQUEST, num_images=1), art, content=content
        )[0]
        for strength in (0.0, 0.5, 1.0)
    }
    torch.testing.assert_close(found[0.0], ends[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[1.0], ends[1], rtol=0, atol=1e-5)
    assert min(float((found[0.5] - end).abs().mean()) for end in ends) > 0.02


def test_without_variety_all_pictures_are_alike_as_published(backbone, art):
    images = method(variety=0.0).paint(backbone, REQUEST, art)
    torch.testing.assert_close(images[1:], images[:1].expand(2, -1, -1, -1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("settings", [{}, {"art_bn_one_input": "plain"}, {"guidance_scale": 1.0}])
@pytest.mark.parametrize("prompt", [None, "a pig"])
def test_every_task_paints(tiny_sd, art, content, settings, prompt):
    request = replace(REQUEST, prompt=prompt, num_images=1)
    painter = method(**settings)
    tasks = [painter.paint(tiny_sd, request, art, content=one) for one in (None, content)]
    assert not torch.equal(*tasks)
    assert all(bool(torch.isfinite(images).all()) for images in tasks)


def test_after_an_error_the_backbone_draws_the_same_bytes(backbone, art, content):
    text = backbone.encode_text(["a pig"])
    noise = streams(1, num=1)

    def stop(step):
        raise KeyboardInterrupt

    with torch.no_grad():
        before = backbone.draw_text(text, generator=streams(1, num=1))
        with suppress(KeyboardInterrupt):
            method().paint(backbone, REQUEST, art, content=content, on_step=stop)
        assert torch.equal(backbone.draw_text(text, generator=noise), before)
    assert not any("_Edited" in type(p).__name__ for p in backbone.unet.attn_processors.values())
    assert not any(module._forward_hooks for module in backbone.unet.modules())


def test_a_trajectory_of_other_settings_is_refused(backbone, art, content):
    way = method().invert(backbone, art)
    with pytest.raises(ShapeError, match="way"):
        method().paint(backbone, REQUEST, art, way=way[1:])
    with pytest.raises(ShapeError, match="content"):
        method().paint(backbone, REQUEST, art, content=content[:, :8])


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"strength": 1.1}, RangeError, "strength"),
        ({"variety": float("nan")}, RangeError, "variety"),
        ({"num_inference_steps": 2.5}, ConfigError, "whole"),
        ({"trajectory_offset": 31}, ConfigError, "trajectory_offset"),
        ({"art_bn_direction": "up"}, ConfigError, "as_printed"),
        ({"layers": ["down", "top"]}, ConfigError, "layers"),
        ({"share_from": 0.5, "share_until": 0.4}, ConfigError, "share_from"),
        ({"semantic_scale": "much"}, ConfigError, "semantic_scale: expected a number"),
        ({"strenght": 1}, ConfigError, "strenght"),
    ],
)
def test_settings_that_cannot_be(settings, error, says):
    with pytest.raises(error, match=says):
        CreativeSynthConfig.for_card({}, **settings)


def test_the_card_speaks_before_the_defaults_and_after_the_user():
    card = {"methods": {"creativesynth": {"guidance_scale": 3.0, "variety": 0.1}}}
    config = CreativeSynthConfig.for_card(card, variety=0.4, layers=["mid"])
    assert (config.guidance_scale, config.variety, config.layers) == (3.0, 0.4, ("mid",))
