"""Weights in fewer bits, caches, groups: what reaches diffusers, and what can be drawn here."""

from importlib.util import find_spec

import pytest
import torch

import offbeat
from offbeat.backbones.flow.flux import FluxBackbone
from offbeat.checkpoints import quantize
from offbeat.checkpoints.memory import needed
from offbeat.checkpoints.placement import Placement, offload
from offbeat.checkpoints.sizes import survey
from offbeat.core.rng import stream
from offbeat.errors import ConfigError, MissingExtraError

needs_torchao = pytest.mark.skipif(find_spec("torchao") is None, reason="offbeat[quantize]")


@torch.no_grad()
def drawn(backbone, steps=6):
    text = backbone.encode_text(["a red pig"])
    return backbone.draw_text(
        text, generator=stream(1), num_inference_steps=steps, guidance_scale=3.0
    )


@pytest.mark.parametrize("kind", ["nf4", "int8", "fp8"])
def test_what_is_large_is_loaded_by_the_configuration_and_nothing_else(tiny_of, monkeypatch, kind):
    """The configurations are stand-ins; the loader is told one for each large component."""
    told = []

    def config_of(asked, library, dtype):
        told.append((asked, library, dtype))
        return None  # which is no quantisation to the libraries

    monkeypatch.setattr(quantize, "config_of", config_of)
    with quantize.quantizing(kind):
        FluxBackbone.load(tiny_of("flux").name, dtype=torch.bfloat16)
    assert sorted(told) == [
        (kind, "diffusers", torch.bfloat16),
        (kind, "transformers", torch.bfloat16),
    ]


@pytest.mark.skipif(find_spec("torchao") is not None, reason="it is installed")
def test_the_package_that_is_missing_is_named(tiny_of):
    with pytest.raises(MissingExtraError, match=r"offbeat\[quantize\]"):
        offbeat.load_backbone(tiny_of("flux").name, quantize="int8")


@needs_torchao
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["flux", "sana"])
def test_pictures_in_fewer_bits_are_almost_the_same(tiny_of, form):
    plain = drawn(tiny_of(form))
    backbone = offbeat.load_backbone(tiny_of(form).name, quantize="int8")
    assert backbone.numerics["quantize"] == "int8"
    assert backbone.fingerprint == tiny_of(form).fingerprint
    difference = float((drawn(backbone) - plain).abs().mean())
    assert 0 < difference < 0.01


def test_memory_counts_the_bits(tiny_of):
    checkpoint = survey(tiny_of("flux").name)
    sizes = [
        needed(checkpoint, Placement(device="cuda", dtype="bfloat16", quantize=kind)).device
        for kind in (None, "int8", "nf4")
    ]
    assert sizes[0] > sizes[1] > sizes[2]


def test_what_cannot_be_quantised_is_refused(tiny_of):
    with pytest.raises(ConfigError, match="nf4 is computed on CUDA"):
        Placement(device="cpu", quantize="nf4")
    with pytest.raises(ConfigError, match="no --lora or --few-steps beside it"):
        Placement(quantize="int8", lora=("a.safetensors",))
    with pytest.raises(ConfigError, match="expected nf4, int8, fp8"):
        Placement(quantize="int4")
    with pytest.raises(ConfigError, match="transformers such as"):
        offbeat.load_backbone(tiny_of("sd").name, quantize="int8")


# --- caches -----------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", ["first-block", "taylorseer"])
@pytest.mark.parametrize("form", ["flux", "qwen-image"])
def test_a_cache_leaves_steps_out_and_begins_anew_with_each_picture(tiny_of, form, cache):
    backbone = offbeat.load_backbone(tiny_of(form).name, cache=cache)
    if cache == "first-block":  # a random network changes too much for the usual threshold
        backbone.transformer.disable_cache()
        from diffusers import FirstBlockCacheConfig

        backbone.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.9))
    first = drawn(backbone, steps=12)
    assert torch.equal(first, drawn(backbone, steps=12))
    assert not torch.equal(first, drawn(tiny_of(form), steps=12))
    assert backbone.numerics["cache"] == cache


def test_a_network_without_caches_is_refused(tiny_of):
    with pytest.raises(ConfigError, match="UNet2DConditionModel has none"):
        offbeat.load_backbone(tiny_of("sd").name, cache="taylorseer")
    with pytest.raises(ConfigError, match="does not know Chroma"):
        offbeat.load_backbone(tiny_of("chroma").name, cache="first-block")


# --- offloading by groups ---------------------------------------------------------------------


def test_layers_that_come_in_groups_draw_the_same(tiny_of):
    backbone = offbeat.load_backbone(tiny_of("flux").name)
    offload(list(backbone._modules()), torch.device("cpu"), "group", whole=[])
    assert torch.equal(drawn(backbone), drawn(tiny_of("flux")))


def test_groups_come_by_streams_on_cuda_alone(tiny_of, monkeypatch):
    told = []
    monkeypatch.setattr(
        "diffusers.hooks.apply_group_offloading", lambda module, **how: told.append(how)
    )
    for device in ("cuda", "mps"):
        module = torch.nn.Linear(2, 2)
        offload([module], torch.device(device), "group", whole=[])
    assert [how["use_stream"] for how in told] == [True, False]
    assert [how["onload_device"].type for how in told] == ["cuda", "mps"]
