"""Stage ``stable_diffusion``: a U-Net in Stable Diffusion's form on the same latents.

It reads the text tower's hidden states by cross-attention. The rest of a pipeline (autoencoder,
tokenizer, text tower) is shared with the unCLIP form.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from recipes.pocket import autoencoder, cache, loop, text, unet, words
from torch import Tensor
from torch.nn import functional as F

BATCH = 64
DROPPED_SHARE = 0.1


def build() -> UNet2DConditionModel:
    """Return the untrained U-Net, 7 M parameters."""
    return UNet2DConditionModel(
        sample_size=unet.LATENT_SIZE,
        in_channels=autoencoder.LATENT_CHANNELS,
        out_channels=autoencoder.LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 112, 144),
        layers_per_block=1,
        cross_attention_dim=256,
        attention_head_dim=4,
        norm_num_groups=16,
        use_linear_projection=True,
    )


@torch.no_grad()
def encode(tower: torch.nn.Module, captions: list[str]) -> Tensor:
    """Return hidden states padded to 77 tokens, as the pipeline makes them, ``[B, 77, 256]``."""
    tokens = words.build_tokenizer()(captions, padding="max_length", return_tensors="pt")
    return tower(input_ids=tokens.input_ids).last_hidden_state


def train(folder: Path, minutes: float) -> None:
    """Train on cached latents and captions made on the fly; some prompts are empty."""
    source, tower = text.CaptionedViews(folder), text.load(folder)
    latents, noises = cache.load(folder), unet.scheduler()
    weights = unet.view_weights(source)
    model = build().train()
    model.set_attn_processor(AttnProcessor())

    def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        drawn = torch.multinomial(weights, BATCH, replacement=True, generator=generator)
        picked = source.keep[drawn]
        dropped = (torch.rand(BATCH, generator=generator) < DROPPED_SHARE).tolist()
        captions = [
            "" if drop else source.write(view, generator)
            for view, drop in zip(picked.tolist(), dropped, strict=True)
        ]
        states = encode(tower, captions)
        clean = latents[picked].float()
        noise = torch.randn(clean.shape, generator=generator)
        times = torch.randint(0, 1000, (BATCH,), generator=generator)
        noisy = noises.add_noise(clean, noise, times)
        velocity = noises.get_velocity(clean, noise, times)
        guess = model(noisy, times, states).sample
        return {"velocity": F.mse_loss(guess.float(), velocity)}

    training = loop.Training(
        name="stable_diffusion",
        folder=folder,
        minutes=minutes,
        learning_rate=2e-3,
        ema_decay=0.9985,
        muon=True,
    )
    loop.fit(model, losses, training)
