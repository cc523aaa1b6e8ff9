"""LoRA factors of a U-Net: off at the start, each sample's own, gone after an exception."""

import pytest
import torch

from offbeat.backbones.stable_diffusion.adapter import StableDiffusionBackbone
from offbeat.core.rng import stream, streams
from offbeat.errors import ShapeError
from offbeat.protocols import PaintingBackbone

STEPS = {"num_inference_steps": 2}


def factors(backbone, seed, scale=0.3):
    found = backbone.init_unet_lora(3, generator=stream(seed))
    return {
        name: value if "lora_A" in name else scale * torch.randn(value.shape, generator=stream(9))
        for name, value in found.items()
    }


def draw(backbone, batch=1, scale=1.0, start=0):
    noise = [stream(1, index) for index in range(start, start + batch)]
    latents = backbone.init_latents(noise, **STEPS)
    text = backbone.encode_text(["a pig"])
    return backbone.denoise(latents, text, generator=noise, guidance_scale=scale, **STEPS)


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_fresh_factors_change_nothing_and_others_do(tiny_sd, scale):
    assert isinstance(tiny_sd, PaintingBackbone)
    plain = draw(tiny_sd, scale=scale)
    with tiny_sd.adapted(tiny_sd.init_unet_lora(4, generator=stream(2))):
        assert torch.equal(draw(tiny_sd, scale=scale), plain)
    with tiny_sd.adapted(factors(tiny_sd, 2)):
        assert float((draw(tiny_sd, scale=scale) - plain).abs().max()) > 0.003
    assert torch.equal(draw(tiny_sd, scale=scale), plain)


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_each_sample_has_its_own(tiny_sd, scale):
    two = [factors(tiny_sd, seed) for seed in (2, 3)]
    both = {name: torch.stack([one[name] for one in two]) for name in two[0]}
    with tiny_sd.adapted(both):
        together = draw(tiny_sd, batch=2, scale=scale)
    for row, own in enumerate(two):
        with tiny_sd.adapted(own):
            alone = draw(tiny_sd, scale=scale, start=row)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-4)


@torch.no_grad()
def test_it_is_what_adding_to_the_weights_gives(tiny_sd):
    """B A, times alpha / rank = 1, added to a projection: as PEFT merges it."""
    lora = factors(tiny_sd, 5)
    with tiny_sd.adapted(lora):
        found = draw(tiny_sd)
    kept = {}
    for name in lora:
        if "lora_A" not in name:
            continue
        layer = tiny_sd.unet.get_submodule(name[len("unet.") : -len(".lora_A.weight")])
        kept[layer] = layer.weight.clone()
        layer.weight += lora[name.replace("lora_A", "lora_B")] @ lora[name]
    try:
        merged = draw(tiny_sd)
    finally:
        for layer, weight in kept.items():
            layer.weight.copy_(weight)
    torch.testing.assert_close(found, merged, rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_change_too_small_for_a_half_type_counts(tiny_sd_folder, dtype):
    half = StableDiffusionBackbone.load(tiny_sd_folder, dtype=dtype)
    lora = {name: value.to(dtype).float() for name, value in factors(half, 2).items()}
    moved = {name: value * (1 + torch.finfo(dtype).eps / 4) for name, value in lora.items()}
    assert all(torch.equal(moved[name].to(dtype).float(), lora[name]) for name in lora)
    drawn = []
    for one in (lora, moved):
        with half.adapted(one):
            drawn.append(draw(half))
    assert not torch.equal(*drawn)


def test_hooks_are_gone_after_an_error(tiny_sd):
    plain = draw(tiny_sd)

    def fail(attention):
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        tiny_sd.adapted(factors(tiny_sd, 2)),
        tiny_sd.edit_attention(fail),
    ):
        draw(tiny_sd)
    assert torch.equal(draw(tiny_sd), plain)
    assert not any(module._forward_hooks for module in tiny_sd.unet.modules())


def test_what_fits_no_layer_is_refused(tiny_sd):
    lora = factors(tiny_sd, 2)
    name = next(iter(lora))
    for wrong in (
        {"unet.nowhere.lora_A.weight": lora[name]},
        {name: lora[name]},
        {key: value.expand(5, -1, -1) for key, value in lora.items()},
    ):
        with pytest.raises(ShapeError, match="lora"), tiny_sd.adapted(wrong):
            draw(tiny_sd, batch=2)


def test_the_loss_reaches_the_factors_alone_and_is_each_sample_s(tiny_sd):
    text = tiny_sd.encode_text(["a pig"])
    latents = torch.randn(3, 4, 8, 8, generator=stream(4))
    lora = {name: value.requires_grad_() for name, value in factors(tiny_sd, 2).items()}
    with tiny_sd.adapted(lora):
        losses = tiny_sd.denoising_loss(latents, text, generator=streams(6, num=3))
        last = tiny_sd.denoising_loss(latents[2:], text, generator=streams(6, num=1, start=2))
    torch.testing.assert_close(losses[2:], last, rtol=1e-4, atol=1e-5)
    losses.sum().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in lora.values())
    assert all(p.grad is None for p in tiny_sd.unet.parameters())
