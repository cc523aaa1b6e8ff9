"""Stage ``ip_adapter``: pictures as prompts for the Stable-Diffusion form, its U-Net frozen.

Four tokens made of an image embedding, and keys and values of their own for them in every
cross-attention (Ye et al., IP-Adapter, arXiv:2308.06721), in the file format that diffusers reads.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import IPAdapterAttnProcessor
from recipes.pocket import augment, cache, loop, stable_diffusion, teacher, text, unet, vision
from torch import Tensor, nn
from torch.nn import functional as F

BATCH = 64
NUM_TOKENS = 4
"""What diffusers takes a projection without further keys to make."""
NO_TEXT_SHARE = 0.6
"""Share of empty prompts: a picture alone must do."""
DROPPED_SHARE = 0.1
"""Share of pictures whose embedding is replaced by zeros, for guidance."""
TEACHER_SHARE = 0.5
"""Share of embeddings of the joint space itself; the others are the image encoder's reading."""


def initial(model: UNet2DConditionModel) -> dict[str, dict[str, Tensor]]:
    """Return an untrained adapter, keys and values copied from those of the text."""
    width = model.config.cross_attention_dim
    projection = nn.Linear(teacher.WIDTH, NUM_TOKENS * width)
    names = [name for name in model.attn_processors if ".attn2." in name]
    layers = {}
    for index, name in enumerate(names):
        attention = model.get_submodule(name.removesuffix(".processor"))
        for part in ("k", "v"):
            weight = getattr(attention, f"to_{part}").weight.detach().clone()
            layers[f"{2 * index + 1}.to_{part}_ip.weight"] = weight
    return {
        "image_proj": {
            "proj.weight": projection.weight.detach(),
            "proj.bias": projection.bias.detach(),
            "norm.weight": torch.ones(width),
            "norm.bias": torch.zeros(width),
        },
        "ip_adapter": layers,
    }


class Adapter(nn.Module):
    """What is trained, under the names of the file."""

    def __init__(self, model: UNet2DConditionModel) -> None:
        super().__init__()
        model._load_ip_adapter_weights([initial(model)])
        layer = model.encoder_hid_proj.image_projection_layers[0]
        self.image_proj = nn.ModuleDict({"proj": layer.image_embeds, "norm": layer.norm})
        self.ip_adapter = nn.ModuleDict()
        found = [p for name, p in model.attn_processors.items() if ".attn2." in name]
        for index, processor in enumerate(found):
            parts = {"to_k_ip": processor.to_k_ip[0], "to_v_ip": processor.to_v_ip[0]}
            self.ip_adapter[str(2 * index + 1)] = nn.ModuleDict(parts)


def plain_attention(model: UNet2DConditionModel) -> None:
    """Swap the fused kernels for plain ones, which are faster here; weights are shared."""
    plain = {}
    for name, processor in model.attn_processors.items():
        plain[name] = processor
        if ".attn2." in name:
            width, inner = processor.cross_attention_dim, processor.hidden_size
            plain[name] = IPAdapterAttnProcessor(inner, width, num_tokens=processor.num_tokens)
            plain[name].to_k_ip, plain[name].to_v_ip = processor.to_k_ip, processor.to_v_ip
    model.set_attn_processor(plain)


@torch.no_grad()
def read(encoder: nn.Module, images: Tensor) -> Tensor:
    """Return the image encoder's embeddings of pictures in bytes, ``[N, 256]``."""
    return encoder(augment.normalise(images.float() / 255)).image_embeds.float()


def train(folder: Path, minutes: float) -> None:
    """Train tokens, keys and values; the U-Net stays as it is."""
    source, encoder = (
        stable_diffusion.Captioned(folder),
        stable_diffusion.Encoder(text.load(folder)),
    )
    latents, noises = cache.load(folder), unet.scheduler()
    reader, images = vision.load(folder), source.views.views["images"]
    model = stable_diffusion.load(folder).train()
    model.requires_grad_(False)
    adapter = Adapter(model)
    plain_attention(model)
    adapter.requires_grad_(True)
    size = sum(parameter.numel() for parameter in adapter.parameters())
    print(json.dumps({"parameters": size}), flush=True)

    def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        picked = source.pick(BATCH, generator)
        silent = (torch.rand(BATCH, generator=generator) < NO_TEXT_SHARE).tolist()
        captions = [
            "" if is_silent else source.write(view, generator)
            for view, is_silent in zip(picked.tolist(), silent, strict=True)
        ]
        states = encoder(captions)
        embeds, told = source.views.embeds[picked], int(BATCH * TEACHER_SHARE)
        embeds = torch.cat([embeds[:told], read(reader, images[picked[told:]])])
        spread = unet.EMBED_NOISE * torch.rand(BATCH, 1, generator=generator)
        embeds = embeds + spread * torch.randn(embeds.shape, generator=generator)
        dropped = torch.rand(BATCH, 1, generator=generator) < DROPPED_SHARE
        embeds = embeds.masked_fill(dropped, 0.0)
        clean = latents[picked].float()
        noise = torch.randn(clean.shape, generator=generator)
        times = torch.randint(0, 1000, (BATCH,), generator=generator)
        noisy = noises.add_noise(clean, noise, times)
        velocity = noises.get_velocity(clean, noise, times)
        added = {"image_embeds": [embeds[:, None]]}
        guess = model(noisy, times, states, added_cond_kwargs=added).sample
        return {"velocity": F.mse_loss(guess.float(), velocity)}

    training = loop.Training(
        name="ip_adapter",
        folder=folder,
        minutes=minutes,
        learning_rate=2e-3,
        ema_decay=0.995,
        muon=True,
    )
    loop.fit(adapter, losses, training)


def load(folder: Path) -> dict[str, Tensor]:
    """Return the trained adapter as its file holds it."""
    return loop.read_ema(folder, "ip_adapter")
