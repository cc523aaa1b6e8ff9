"""Stage ``unet``: the unCLIP decoder in Kandinsky 2.2's form, image embedding to latents."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnAddedKVProcessor
from recipes.pocket import autoencoder, cache, loop, sources, teacher, text
from torch import Tensor
from torch.nn import functional as F

BATCH = 96
"""Pictures of a step, over all processes."""
DROPPED_SHARE = 0.1
"""Share of pictures whose embedding is replaced by zeros, for guidance."""
EMBED_NOISE = 0.2
"""Largest spread of the noise on embeddings, so that the prior's samples are no surprise."""
LATENT_SIZE = 16
MAIN_STYLES = ("soft", "flat", "glossy", "simple", "3d")
"""Styles that the decoder sees at full weight: five hands that draw nearly alike."""


def build() -> UNet2DConditionModel:
    """Return the untrained U-Net, 7.8 M parameters; half of its output channels are unused."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=autoencoder.LATENT_CHANNELS,
        out_channels=2 * autoencoder.LATENT_CHANNELS,
        down_block_types=("ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 2),
        up_block_types=(*["SimpleCrossAttnUpBlock2D"] * 2, "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        block_out_channels=(64, 128, 160),
        layers_per_block=1,
        cross_attention_dim=64,
        attention_head_dim=32,
        addition_embed_type="image",
        addition_embed_type_num_heads=64,
        encoder_hid_dim=teacher.WIDTH,
        encoder_hid_dim_type="image_proj",
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
    )


def scheduler() -> DDIMScheduler:
    """Return the noise schedule of training and sampling: cosine, v-prediction, from pure noise."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=0,
    )


def denoise(model: UNet2DConditionModel, noisy: Tensor, times: Tensor, embeds: Tensor) -> Tensor:
    """Return the predicted velocity, ``[B, 4, 16, 16]``."""
    added = {"image_embeds": embeds}
    output = model(noisy, times, encoder_hidden_states=None, added_cond_kwargs=added).sample
    return output[:, : autoencoder.LATENT_CHANNELS]


def view_weights(source: text.CaptionedViews) -> Tensor:
    """Return how often each training view is drawn: plain pictures of the chosen styles most."""
    views, keep = source.views, source.keep
    weights = source.weights.clone()
    chosen = torch.tensor([style in MAIN_STYLES for style in sources.STYLES])
    weights[~chosen[views["style"][keep]]] *= 0.3
    weights[views["tint"][keep] >= 0] *= 0.4
    weights[views["background"][keep] > 0] *= 0.4
    weights[views["clean"][keep]] *= 3
    return weights


def train(folder: Path, minutes: float) -> None:
    """Train on cached latents; several processes (torchrun) share the gradient."""
    source = text.CaptionedViews(folder)
    latents, noises = cache.load(folder), scheduler()
    model = build().train()
    model.set_attn_processor(AttnAddedKVProcessor())  # a sixth faster than the fused kernel here
    weights = view_weights(source)
    batch = BATCH // int(os.environ.get("WORLD_SIZE", "1"))

    def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        picked = source.keep[
            torch.multinomial(weights, batch, replacement=True, generator=generator)
        ]
        clean = latents[picked].float()
        embeds = source.embeds[picked]
        spread = EMBED_NOISE * torch.rand(batch, 1, generator=generator)
        embeds = embeds + spread * torch.randn(embeds.shape, generator=generator)
        dropped = torch.rand(batch, 1, generator=generator) < DROPPED_SHARE
        embeds = embeds.masked_fill(dropped, 0.0)
        noise = torch.randn(clean.shape, generator=generator)
        times = torch.randint(0, 1000, (batch,), generator=generator)
        noisy = noises.add_noise(clean, noise, times)
        velocity = noises.get_velocity(clean, noise, times)
        return {"velocity": F.mse_loss(denoise(model, noisy, times, embeds).float(), velocity)}

    training = loop.Training(
        name="unet",
        folder=folder,
        minutes=minutes,
        learning_rate=2e-3,
        ema_decay=0.9985,
        muon=True,
    )
    loop.fit(model, losses, training)


def load(folder: Path) -> UNet2DConditionModel:
    """Return the trained U-Net, averaged weights."""
    model = build().eval()
    model.load_state_dict(loop.read_ema(folder, "unet"))
    return model
