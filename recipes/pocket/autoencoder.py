"""Stage ``autoencoder``: a convolutional VQModel without quantisation, 16 x 16 x 8 latents.

Kandinsky's pipeline decodes with ``force_not_quantize`` and applies no scale, so the latents' mean
and spread are folded into the two quant convolutions: latents come out with mean 0 and variance 1.
Stage ``redecode`` trains the decoder alone: the latents, and what was trained on them, stay.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import VQModel
from recipes.pocket import augment, data, loop, views, world
from torch import Tensor

BATCH, POOL = 96, 6144
LATENT_CHANNELS = 8
LATENT_NOISE = 0.05
"""Noise on the latents in training, so that the decoder forgives a denoiser's small errors."""
SEEN = world.Settings(
    weights=(0.46, 0.15, 0.09, 0.11, 0.07, 0.09, 0.03), tint=0.25, background=0.35
)
TRAINED_ALONE = ("decoder.", "post_quant_conv.")
CHANNELS_LAST = torch.channels_last


def build() -> VQModel:
    """Return the untrained autoencoder, 1.7 M parameters; a latent is 8 pixels wide."""
    model = VQModel(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=(24, 40, 64, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        sample_size=augment.IMAGE_SIZE,
        num_vq_embeddings=16,
        norm_num_groups=8,
        mid_block_add_attention=False,
        lookup_from_codebook=False,
    )
    return model.to(memory_format=CHANNELS_LAST)


def decode(model: VQModel, latents: Tensor) -> Tensor:
    """Return pictures, -1 to 1."""
    return model.decode(latents, force_not_quantize=True).sample


def slopes(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return differences of neighbouring pixels, across and down."""
    return images[..., 1:] - images[..., :-1], images[..., 1:, :] - images[..., :-1, :]


def errors(restored: Tensor, images: Tensor) -> dict[str, Tensor]:
    """Return what pictures differ by: in their pixels, in decibels, and in their edges."""
    squares = (restored - images).square().mean((1, 2, 3))
    pairs = zip(slopes(restored), slopes(images), strict=True)
    return {
        "absolute": (restored - images).abs().mean(),
        "decibels": 0.04 * (squares + 1e-4).log().mean(),
        "edges": sum((a - b).abs().mean() for a, b in pairs),
    }


def train(folder: Path, minutes: float) -> None:
    """Train all of it, then write it with whitened latents, for the stages that wait for it."""
    pictures = data.load(folder)
    pool = views.Pool(pictures, views.scaled(POOL), seed=1, wide=True, settings=SEEN, fresh=43)
    model = build().train()

    def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        images = views.as_input(pool.pick(views.scaled(BATCH), generator)["images"])
        latents = model.encode(images.contiguous(memory_format=CHANNELS_LAST)).latents
        noise = torch.randn(latents.shape, generator=generator)
        terms = errors(decode(model, latents + LATENT_NOISE * noise).float(), images)
        wide = latents.float()
        spread = wide.square().mean() + wide.var(0).mean().clamp(1e-4) ** -1
        return terms | {"spread": 1e-3 * spread}

    training = loop.Training(
        name="autoencoder", folder=folder, minutes=minutes, learning_rate=2e-3, weight_decay=0.0
    )
    loop.fit(model, losses, training)
    whiten(model.eval(), views.as_input(pool.columns["images"][:2048]))
    loop.save_atomically(model.state_dict(), folder / "whitened.pt")
    print(f"held-out PSNR {psnr(model, pictures):.2f} dB", flush=True)


def train_decoder(folder: Path, minutes: float) -> None:
    """Train the decoder alone: the latents stay."""
    pictures, model = data.load(folder), load(folder).train()
    pool = views.Pool(pictures, views.scaled(POOL), seed=2, wide=True, settings=SEEN, fresh=43)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(TRAINED_ALONE))

    def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        images = views.as_input(pool.pick(views.scaled(BATCH), generator)["images"])
        with torch.no_grad():
            latents = model.encode(images.contiguous(memory_format=CHANNELS_LAST)).latents.float()
        spread = 0.08 * torch.rand(len(latents), 1, 1, 1, generator=generator)
        noise = torch.randn(latents.shape, generator=generator)
        return errors(decode(model, latents + spread * noise).float(), images)

    training = loop.Training(
        name="redecode",
        folder=folder,
        minutes=minutes,
        learning_rate=1e-3,
        weight_decay=0.0,
        ema_decay=0.995,
        muon=True,
    )
    loop.fit(model, losses, training)
    print(f"held-out PSNR {psnr(model.eval(), pictures):.2f} dB", flush=True)


@torch.no_grad()
def whiten(model: VQModel, images: Tensor) -> None:
    """Fold mean and spread of the latents of pictures into the two quant convolutions."""
    latents = torch.cat([model.encode(part).latents for part in images.split(64)])
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    into, out = model.quant_conv, model.post_quant_conv
    into.weight.div_(std[:, None, None, None])
    into.bias.sub_(mean).div_(std)
    out.bias.add_((out.weight[:, :, 0, 0] * mean).sum(1))
    out.weight.mul_(std[None, :, None, None])


def load(folder: Path) -> VQModel:
    """Return the trained autoencoder, with the decoder of ``redecode`` if there is one."""
    model = build().eval()
    try:
        model.load_state_dict(loop.read_ema(folder, "redecode"))
    except FileNotFoundError:
        model.load_state_dict(loop.load(folder / "whitened.pt"))
    return model


@torch.no_grad()
def encode(model: VQModel, images: Tensor) -> Tensor:
    """Return latents of pictures in 0 to 1, ``[B, 8, 16, 16]``, in half precision."""
    with loop.autocast():
        inputs = augment.normalise(images).contiguous(memory_format=CHANNELS_LAST)
        return model.encode(inputs).latents.half()


@torch.no_grad()
def psnr(model: VQModel, pictures: data.Pictures) -> float:
    """Return the mean PSNR over held-out core drawings, dB."""
    values = []
    for rows in pictures.rows(held_out=True).split(64):
        images = views.clean(pictures, rows)
        restored = decode(model, model.encode(augment.normalise(images)).latents)
        error = (restored.clamp(-1, 1) / 2 + 0.5 - images).square().mean((1, 2, 3))
        values.append(-10 * error.log10())
    return float(torch.cat(values).mean())
