"""Stage ``unet``: the unCLIP decoder in Kandinsky 2.2's form, image embedding to latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnAddedKVProcessor
from recipes.pocket import autoencoder, captions, data, loop, teacher, views
from torch import Tensor
from torch.nn import functional as F

BATCH, NUM_VIEWS = 512, 182_000
DROPPED_SHARE = 0.1
"""Share of pictures whose embedding is replaced by zeros, for guidance."""
EMBED_NOISE = 0.2
"""Largest spread of the noise on embeddings, so that the prior's samples are no surprise."""
LATENT_SIZE = 16


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
    """Return the predicted velocity, ``[B, 8, 16, 16]``."""
    added = {"image_embeds": embeds}
    output = model(noisy, times, encoder_hidden_states=None, added_cond_kwargs=added).sample
    return output[:, : autoencoder.LATENT_CHANNELS]


@dataclass(frozen=True, slots=True)
class Latents:
    """Views as a denoiser learns from them.

    Attributes:
        latents: ``[N, 8, 16, 16]``, half precision.
        embeds: ``[N, 256]``, of the joint space.
        sums: ``[N]``, running sums of how often each is drawn.
        tokens: Captions of each, where the stage reads text.
    """

    latents: Tensor
    embeds: Tensor
    sums: Tensor
    tokens: captions.Tokens | None = None

    def pick(self, count: int, generator: torch.Generator) -> Tensor:
        """Return row numbers: plain views and white grounds a little more often."""
        places = torch.searchsorted(self.sums, torch.rand(count, generator=generator))
        return places.clamp(max=len(self.sums) - 1)


def latents_of(folder: Path, name: str, *, seed: int, per: int = 0) -> Latents:
    """Return views of a stage, made once, as soon as the stages before it are done."""
    cache = folder / f"{name}-latents.pt"
    if not cache.exists():
        loop.wait(folder / "whitened.pt", folder / "joint_map.pt")
        model = autoencoder.load(folder)
        made = views.fixed(
            data.load(folder),
            views.scaled(NUM_VIEWS, 64),
            seed=seed,
            latents=lambda images: autoencoder.encode(model, images),
            embeds=teacher.Eye(folder),
        )
        weights = torch.where(made["backgrounds"] > 0, 0.7, 1.0)
        weights = weights * torch.where(made["kinds"] == 0, 1.2, 1.0)
        kept = {name: made[name] for name in ("latents", "embeds")}
        kept["sums"] = (weights / weights.sum()).cumsum(0)
        if per:
            found = captions.tokens(made["labels"], per, seed=seed, workers=views.WORKERS)
            kept["tokens"] = {name: getattr(found, name) for name in found.__slots__}
        loop.save_atomically(kept, cache)
    state = loop.load(cache)
    told = state.pop("tokens", None)
    return Latents(**state, tokens=captions.Tokens(**told) if told else None)


def noised(clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return noisy latents, their times and the velocity to predict."""
    noise = torch.randn(clean.shape, generator=generator)
    times = torch.randint(0, 1000, (len(clean),), generator=generator)
    level = scheduler().alphas_cumprod.to(clean.device)[times].view(-1, 1, 1, 1)
    signal, spread = level.sqrt(), (1 - level).sqrt()
    return signal * clean + spread * noise, times, signal * noise - spread * clean


def roughened(embeds: Tensor, generator: torch.Generator) -> Tensor:
    """Return embeddings with noise of the prior's size on them, and a few of zeros."""
    spread = EMBED_NOISE * torch.rand(len(embeds), 1, generator=generator)
    embeds = embeds + spread * torch.randn(embeds.shape, generator=generator)
    dropped = torch.rand(len(embeds), 1, generator=generator) < DROPPED_SHARE
    return embeds.masked_fill(dropped, 0.0)


def train(folder: Path, minutes: float) -> None:
    """Train on latents of views."""
    source, model = latents_of(folder, "unet", seed=41), build().train()
    if torch.get_default_device().type == "cpu":
        model.set_attn_processor(AttnAddedKVProcessor())  # a sixth faster than the fused kernel

    def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        picked = source.pick(views.scaled(BATCH), generator)
        noisy, times, velocity = noised(source.latents[picked].float(), generator)
        embeds = roughened(source.embeds[picked], generator)
        return {"velocity": F.mse_loss(denoise(model, noisy, times, embeds).float(), velocity)}

    training = loop.Training(
        name="unet",
        folder=folder,
        minutes=minutes,
        learning_rate=1.2e-3,
        ema_decay=0.9995,
        muon=loop.on_cpu(),
    )
    loop.fit(model, losses, training)


def load(folder: Path) -> UNet2DConditionModel:
    """Return the trained U-Net, averaged weights."""
    model = build().eval()
    model.load_state_dict(loop.read_ema(folder, "unet"))
    return model
