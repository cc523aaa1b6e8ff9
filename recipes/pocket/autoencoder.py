"""Stage ``autoencoder``: a convolutional VQModel without quantisation, 16 x 16 x 4 latents.

Kandinsky's pipeline decodes with ``force_not_quantize`` and applies no scale, so the latents' mean
and spread are folded into the two quant convolutions: latents come out with mean 0 and variance 1.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import VQModel
from recipes.pocket import augment, data, loop
from torch import Tensor
from torch.nn import functional as F

LOOKS = augment.Looks(scale=0.25, shift=0.1, turn=0.15, tint=0.25, background=0.4)
BATCH = 16
LATENT_CHANNELS = 4
LATENT_NOISE = 0.05
"""Noise on the latents in training, so that the decoder forgives a denoiser's small errors."""


def build() -> VQModel:
    """Return the untrained autoencoder, 0.65 M parameters."""
    return VQModel(
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        sample_size=augment.IMAGE_SIZE,
        num_vq_embeddings=16,
        norm_num_groups=8,
        mid_block_add_attention=False,
        lookup_from_codebook=False,
    )


def decode(model: VQModel, latents: Tensor) -> Tensor:
    """Return pictures, -1 to 1."""
    return model.decode(latents, force_not_quantize=True).sample


def train(folder: Path, minutes: float) -> None:
    """Train on the drawings of all concepts, held-out ones excluded, and measure."""
    pictures = data.load(folder)
    model = build().train()
    rows = pictures.rows(held_out=False, wide=True)

    def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        picked = rows[torch.randint(0, len(rows), (BATCH,), generator=generator)]
        images = augment.normalise(augment.make_batch(pictures, picked, LOOKS, generator).images)
        latents = model.encode(images).latents
        noise = torch.randn(latents.shape, generator=generator)
        restored = decode(model, latents + LATENT_NOISE * noise).float()
        spread = latents.float().square().mean() + latents.float().var(0).mean().clamp(1e-4) ** -1
        return {
            "absolute": (restored - images).abs().mean(),
            "squared": 2 * F.mse_loss(restored, images),
            "spread": 1e-3 * spread,
        }

    def on_save(step: int) -> None:
        print(f"held-out PSNR {psnr(load(folder), pictures):.2f} dB", flush=True)

    training = loop.Training(
        name="autoencoder",
        folder=folder,
        minutes=minutes,
        learning_rate=2.5e-3,
        weight_decay=0.0,
        on_save=on_save,
        ema_decay=0.995,
    )
    loop.fit(model, losses, training)


def load(folder: Path) -> VQModel:
    """Return the trained autoencoder, with the decoder of stage ``redecode`` if there is one."""
    model = load_whitened(folder)
    try:
        better = loop.read_ema(folder, "redecode")
    except FileNotFoundError:
        return model
    missing, unexpected = model.load_state_dict(better, strict=False)
    assert not unexpected
    assert not [key for key in missing if key.startswith("decoder")]
    return model


@torch.no_grad()
def load_whitened(folder: Path) -> VQModel:
    """Return the trained autoencoder with whitened latents."""
    pictures = data.load(folder)
    model = build().eval()
    model.load_state_dict(loop.read_ema(folder, "autoencoder"))
    rows = pictures.rows(held_out=False, wide=True)[::3]
    generator = torch.Generator().manual_seed(1)
    images = augment.make_batch(pictures, rows, LOOKS, generator).images
    parts = [model.encode(augment.normalise(part)).latents for part in images.split(64)]
    latents = torch.cat(parts)
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    into, out = model.quant_conv, model.post_quant_conv
    into.weight.div_(std[:, None, None, None])
    into.bias.sub_(mean).div_(std)
    out.bias.add_((out.weight[:, :, 0, 0] * mean).sum(1))
    out.weight.mul_(std[None, :, None, None])
    return model


@torch.no_grad()
def psnr(model: VQModel, pictures: data.Pictures, looks: augment.Looks = augment.CLEAN) -> float:
    """Return the mean PSNR over held-out core pictures, dB."""
    rows = pictures.rows(held_out=True)
    generator = torch.Generator().manual_seed(2)
    values = []
    for part in rows.split(64):
        images = augment.make_batch(pictures, part, looks, generator).images
        restored = decode(model, model.encode(augment.normalise(images)).latents)
        error = (restored.clamp(-1, 1) / 2 + 0.5 - images).square().mean((1, 2, 3))
        values.append(-10 * error.log10())
    return float(torch.cat(values).mean())
