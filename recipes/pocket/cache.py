"""Stage ``cache``: the latents of all views, so that the decoder's training runs no encoder."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from recipes.pocket import augment, autoencoder, data, loop, teacher
from torch import Tensor


def train(folder: Path, minutes: float) -> None:
    """Write ``latents.pt``, ``[N, 4, 16, 16]`` fp16, in the order of the views."""
    del minutes
    model = autoencoder.load(folder)
    print(json.dumps({"psnr": autoencoder.psnr(model, data.load(folder))}), flush=True)
    images = teacher.make_views(folder)["images"]
    parts = []
    with torch.no_grad():
        for part in images.split(256):
            parts.append(model.encode(augment.normalise(part.float() / 255)).latents.half())
    latents = torch.cat(parts)
    print(json.dumps({"mean": float(latents.float().mean()), "std": float(latents.float().std())}))
    loop.save_atomically(latents, folder / "latents.pt")


def load(folder: Path) -> Tensor:
    """Return the cached latents."""
    return torch.load(folder / "latents.pt", weights_only=True)
