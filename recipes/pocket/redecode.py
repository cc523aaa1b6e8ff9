"""Stage ``redecode``: train the autoencoder's decoder further, its encoder frozen.

The latents stay what they are, so the denoisers need not be trained again.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import VQModel
from recipes.pocket import augment, autoencoder, cache, data, loop, text
from torch import Tensor, nn
from torch.nn import functional as F

BATCH = 24
LATENT_NOISE = 0.1


class Decoding(nn.Module):
    """The half of the autoencoder that is trained."""

    def __init__(self, model: VQModel) -> None:
        super().__init__()
        self.post_quant_conv, self.decoder = model.post_quant_conv, model.decoder

    def forward(self, latents: Tensor) -> Tensor:
        """Return pictures, -1 to 1."""
        return self.decoder(self.post_quant_conv(latents))


def train(folder: Path, minutes: float) -> None:
    """Train on cached latents and the views that they came from."""
    source, latents = text.CaptionedViews(folder), cache.load(folder)
    model = Decoding(autoencoder.load_whitened(folder)).train()

    def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        picked = source.pick(BATCH, generator)
        images = augment.normalise(source.views["images"][picked].float() / 255)
        noise = torch.randn(latents[picked].shape, generator=generator)
        spread = LATENT_NOISE * torch.rand(BATCH, 1, 1, 1, generator=generator)
        restored = model(latents[picked].float() + spread * noise).float()
        return {
            "absolute": 0.5 * (restored - images).abs().mean(),
            "squared": 4 * F.mse_loss(restored, images),
        }

    def on_save(step: int) -> None:
        value = autoencoder.psnr(autoencoder.load(folder), data.load(folder))
        print(f"held-out PSNR {value:.2f} dB", flush=True)

    training = loop.Training(
        name="redecode",
        folder=folder,
        minutes=minutes,
        learning_rate=1.5e-3,
        weight_decay=0.0,
        ema_decay=0.99,
        save_minutes=2.0,
        on_save=on_save,
    )
    loop.fit(model, losses, training)
