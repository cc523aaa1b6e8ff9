"""Stage ``vision``: the CLIP image encoder, distilled from the joint map.

The picture of zeros, which the pipelines read for their unconditional embedding, is taught to give
zeros, since that is what the decoder saw for a dropped embedding.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from recipes.pocket import augment, data, loop, teacher, views
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

BATCH, POOL = 384, 8192


def build() -> CLIPVisionModelWithProjection:
    """Return the untrained encoder, 3.9 M parameters."""
    config = CLIPVisionConfig(
        hidden_size=240,
        intermediate_size=960,
        num_hidden_layers=5,
        num_attention_heads=6,
        image_size=augment.IMAGE_SIZE,
        patch_size=16,
        projection_dim=teacher.WIDTH,
    )
    return CLIPVisionModelWithProjection(config)


def train(folder: Path, minutes: float) -> None:
    """Train by regression and by telling apart the pictures of a batch."""
    loop.wait(folder / "joint_map.pt")
    read = teacher.Eye(folder)
    pool = views.Pool(data.load(folder), views.scaled(POOL), seed=31, fresh=86, read=read)
    model = build().train()

    def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        picked = pool.pick(views.scaled(BATCH), generator)
        images, target = views.as_input(picked["images"]), picked["read"].clone()
        images[0], target[0] = 0, 0
        guess = model(images).image_embeds.float()
        logits = 15 * F.normalize(guess[1:], dim=-1) @ F.normalize(target[1:], dim=-1).T
        return {
            "embeds": F.mse_loss(guess, target),
            "contrast": 0.3 * F.cross_entropy(logits, torch.arange(len(logits))),
            "nothing": 0.02 * guess[0].square().mean(),
        }

    training = loop.Training(
        name="vision",
        folder=folder,
        minutes=minutes,
        learning_rate=8e-4,
        weight_decay=0.05,
        ema_decay=0.998,
    )
    loop.fit(model, losses, training)
    print(json.dumps(measure(model.eval(), read, folder)), flush=True)


def load(folder: Path) -> CLIPVisionModelWithProjection:
    """Return the trained encoder, averaged weights."""
    model = build().eval()
    model.load_state_dict(loop.read_ema(folder, "vision"))
    return model


@torch.no_grad()
def measure(
    model: CLIPVisionModelWithProjection, read: teacher.Eye, folder: Path
) -> dict[str, float]:
    """Compare the encoder's embeddings of held-out drawings with the teacher's."""
    pictures = data.load(folder)
    images = views.clean(pictures, pictures.rows(held_out=True))
    embeds = model(augment.normalise(images)).image_embeds
    zero = model(torch.zeros(1, 3, augment.IMAGE_SIZE, augment.IMAGE_SIZE)).image_embeds
    return {
        "cosine": float(F.cosine_similarity(embeds, read(images)).mean()),
        "norm_of_nothing": float(zero.norm()),
    }
