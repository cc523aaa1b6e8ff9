"""Edits of attention: seen in every layer and step, exact when they change nothing, gone after."""

from dataclasses import replace

import pytest
import torch

from offbeat.core.rng import stream
from offbeat.protocols import PaintingBackbone

STEPS = 3


def same(attention):
    return attention


def denoise(backbone, *, scale=1.0, batch=1, **settings):
    text = backbone.encode_text(["a pig"])
    noise = [stream(1, index) for index in range(batch)]
    latents = backbone.init_latents(noise, num_inference_steps=STEPS)
    return backbone.denoise(
        latents, text, generator=noise, num_inference_steps=STEPS, guidance_scale=scale, **settings
    )


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("weight", [None, 0.0, 0.7])
def test_an_edit_that_changes_nothing_changes_nothing(tiny_sd, scale, weight):
    picture = {}
    if weight is not None:
        picture = {
            "image_embeds": torch.randn(1, 32, generator=stream(4)),
            "ip_adapter_scale": weight,
        }
    plain = denoise(tiny_sd, scale=scale, **picture)
    with tiny_sd.edit_attention(same):
        edited = denoise(tiny_sd, scale=scale, **picture)
    torch.testing.assert_close(edited, plain, rtol=0, atol=1e-6)
    if weight:
        assert float((plain - denoise(tiny_sd, scale=scale)).abs().max()) > 0.003


@torch.no_grad()
def test_every_layer_is_seen_at_every_step(tiny_sd):
    assert isinstance(tiny_sd, PaintingBackbone)
    seen = []
    with tiny_sd.edit_attention(lambda attention: (seen.append(attention), attention)[1]):
        denoise(tiny_sd, scale=4.0, batch=2, start=1)
    layers = {name.removesuffix(".processor") for name in tiny_sd.unet.attn_processors}
    assert {attention.layer for attention in seen} == layers
    assert len(seen) == 2 * len(layers)
    assert {attention.step for attention in seen} == {1, 2}
    for attention in seen:
        assert attention.is_cross == attention.layer.endswith("attn2")
        assert attention.guided
        assert len(attention.query) == 4
        assert attention.query.shape[1] == attention.key.shape[1]
        assert attention.key.shape == attention.value.shape
        assert (attention.key.shape[2] == 77) == attention.is_cross
    seen.clear()
    with tiny_sd.edit_attention(lambda attention: (seen.append(attention), attention)[1]):
        denoise(tiny_sd)
    assert not any(attention.guided for attention in seen)


@torch.no_grad()
def test_keys_of_another_picture_can_be_shared_and_masked(tiny_sd):
    alone = denoise(tiny_sd, batch=2)

    def share(attention, bias):
        if attention.is_cross:
            return attention
        key, value = (
            torch.cat([states, states[:1].expand(len(states), -1, -1, -1)], dim=2)
            for states in (attention.key, attention.value)
        )
        length = attention.key.shape[2]
        mask = torch.zeros(1, 1, 1, 2 * length)
        mask[..., length:] = bias
        return replace(attention, key=key, value=value, bias=mask)

    found = {}
    for bias in (0.0, float("-inf")):
        with tiny_sd.edit_attention(lambda attention, bias=bias: share(attention, bias)):
            found[bias] = denoise(tiny_sd, batch=2)
    torch.testing.assert_close(found[float("-inf")], alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(found[0.0][0], alone[0], rtol=0, atol=1e-5)  # its own, twice
    assert float((found[0.0][1] - alone[1]).abs().max()) > 1e-5


@torch.no_grad()
def test_blocks_may_be_nested_and_the_outermost_edits_first(tiny_sd):
    order = []

    def told(name):
        return lambda attention: (order.append(name), attention)[1]

    with tiny_sd.edit_attention(told("outer")):
        with tiny_sd.edit_attention(told("inner")):
            denoise(tiny_sd)
        assert order[:4] == ["outer", "inner"] * 2
        order.clear()
        denoise(tiny_sd)
        assert set(order) == {"outer"}


@torch.no_grad()
def test_nothing_outlives_its_block_even_after_an_error(tiny_sd):
    before, processors = denoise(tiny_sd), tiny_sd.unet.attn_processors

    def fail(attention):
        raise RuntimeError("out of luck")

    for picture in ({}, {"image_embeds": torch.zeros(1, 32)}):
        with pytest.raises(RuntimeError, match="out of luck"), tiny_sd.edit_attention(fail):
            denoise(tiny_sd, **picture)
        assert tiny_sd.unet.attn_processors == processors
        assert tiny_sd.unet.encoder_hid_proj is None
        assert torch.equal(denoise(tiny_sd), before)


@torch.no_grad()
def test_inversion_is_edited_too(tiny_sd):
    images = torch.rand(1, 3, 16, 16, generator=stream(0))
    text, steps = tiny_sd.encode_text(["a pig"]), []
    plain = tiny_sd.invert(images, text, num_inference_steps=3)
    with tiny_sd.edit_attention(lambda attention: (steps.append(attention.step), attention)[1]):
        edited = tiny_sd.invert(images, text, num_inference_steps=3)
    torch.testing.assert_close(edited, plain, rtol=0, atol=1e-6)
    assert steps == sorted(steps, reverse=True)
    assert set(steps) == {0, 1, 2}


def test_gradient_passes_an_edit(tiny_sd):
    strength = torch.tensor(1.0, requires_grad=True)

    def scaled(attention):
        return replace(attention, value=attention.value * strength)

    with tiny_sd.edit_attention(scaled):
        denoise(tiny_sd).sum().backward()
    assert float(strength.grad.abs()) > 0
