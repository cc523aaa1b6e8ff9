"""The IP-Adapter of the Stable-Diffusion form, in the file format that diffusers reads.

Four tokens made of an image embedding, and keys and values of their own for them in every
cross-attention (Ye et al., IP-Adapter, arXiv:2308.06721).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from diffusers import UNet2DConditionModel
from recipes.pocket import teacher
from torch import Tensor, nn

NUM_TOKENS = 4
"""What diffusers takes a projection without further keys to make."""
PROJECTION = "encoder_hid_proj.image_projection_layers.0."
"""Where a U-Net keeps the layers that make tokens of an embedding."""
LAYERS = {"proj": "image_embeds", "norm": "norm"}
"""Their names in the file and in the U-Net."""


def initial(model: UNet2DConditionModel) -> dict[str, dict[str, Tensor]]:
    """Return an untrained adapter, keys and values copied from those of the text."""
    width = model.config.cross_attention_dim
    projection = nn.Linear(teacher.WIDTH, NUM_TOKENS * width)
    layers = {}
    for index, name in _places(model):
        attention = model.get_submodule(name.removesuffix(".processor"))
        for part in ("k", "v"):
            weight = getattr(attention, f"to_{part}").weight.detach().clone()
            layers[f"{index}.to_{part}_ip.weight"] = weight
    return {
        "image_proj": {
            "proj.weight": projection.weight.detach(),
            "proj.bias": projection.bias.detach(),
            "norm.weight": torch.ones(width),
            "norm.bias": torch.zeros(width),
        },
        "ip_adapter": layers,
    }


def of(model: UNet2DConditionModel) -> dict[str, Tensor]:
    """Return the adapter of a U-Net that has one, as its file holds it."""
    state = model.state_dict()
    kept = {
        f"image_proj.{name}.{kind}": state[f"{PROJECTION}{layer}.{kind}"]
        for name, layer in LAYERS.items()
        for kind in ("weight", "bias")
    }
    for index, name in _places(model):
        for part in ("k", "v"):
            weight = state[f"{name}.to_{part}_ip.0.weight"]
            kept[f"ip_adapter.{index}.to_{part}_ip.weight"] = weight
    return {name: value.contiguous() for name, value in kept.items()}


def into(model: UNet2DConditionModel, file: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a file's adapter under the names that a U-Net with one has: ``of``, backwards."""
    named = {
        f"{PROJECTION}{layer}.{kind}": file[f"image_proj.{name}.{kind}"]
        for name, layer in LAYERS.items()
        for kind in ("weight", "bias")
    }
    for index, name in _places(model):
        for part in ("k", "v"):
            weight = file[f"ip_adapter.{index}.to_{part}_ip.weight"]
            named[f"{name}.to_{part}_ip.0.weight"] = weight
    return named


def without(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a U-Net that are not its adapter's."""
    return {k: v for k, v in state.items() if "_ip." not in k and not k.startswith(PROJECTION)}


def _places(model: UNet2DConditionModel) -> Iterator[tuple[int, str]]:
    """Yield the numbers and names of the cross-attentions, as files of adapters count them."""
    names = [name for name in model.attn_processors if ".attn2." in name]
    return ((2 * number + 1, name) for number, name in enumerate(names))
