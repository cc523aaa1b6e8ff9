"""Stage ``vision``: the CLIP image encoder, distilled from the joint map.

The picture of zeros, which the pipelines read for their unconditional embedding, is taught to give
zeros, since that is what the decoder saw for a dropped embedding.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from recipes.pocket import augment, loop, teacher, text
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

BATCH = 64
SHIFT = 3
"""Pixels by which a view is moved, as augmentation beyond the views."""


def build() -> CLIPVisionModelWithProjection:
    """Return the untrained encoder, 3.9 M parameters."""
    config = CLIPVisionConfig(
        hidden_size=240,
        intermediate_size=960,
        num_hidden_layers=5,
        num_attention_heads=6,
        image_size=augment.IMAGE_SIZE,
        patch_size=8,
        projection_dim=teacher.WIDTH,
    )
    return CLIPVisionModelWithProjection(config)


def move(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each picture by a few pixels, repeating its border."""
    padded = F.pad(images, (SHIFT,) * 4, mode="replicate")
    offsets = torch.randint(0, 2 * SHIFT + 1, (2, len(images), 1), generator=generator)
    line = torch.arange(augment.IMAGE_SIZE)
    index = torch.arange(len(images))[:, None, None]
    vertical, across = (offsets[0] + line)[:, :, None], (offsets[1] + line)[:, None, :]
    return padded.permute(0, 2, 3, 1)[index, vertical, across].permute(0, 3, 1, 2)


def train(folder: Path, minutes: float) -> None:
    """Train by regression and by telling apart the pictures of a batch."""
    source = text.CaptionedViews(folder)
    model = build().train()
    views = source.views["images"]

    def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        picked = source.pick(BATCH, generator)
        images = augment.normalise(move(views[picked].float() / 255, generator))
        images[0] = 0
        target = source.embeds[picked].clone()
        target[0] = 0
        guess = model(images).image_embeds.float()
        logits = 15 * F.normalize(guess[1:], dim=-1) @ F.normalize(target[1:], dim=-1).T
        return {
            "embeds": F.mse_loss(guess, target),
            "contrast": 0.3 * F.cross_entropy(logits, torch.arange(BATCH - 1)),
            "nothing": 0.02 * guess[0].square().mean(),
        }

    def on_save(step: int) -> None:
        print(json.dumps(measure(load(folder), source, text.load(folder))), flush=True)

    training = loop.Training(
        name="vision",
        muon=True,
        folder=folder,
        minutes=minutes,
        learning_rate=2e-3,
        on_save=on_save,
        weight_decay=0.05,
    )
    loop.fit(model, losses, training)


def load(folder: Path) -> CLIPVisionModelWithProjection:
    """Return the trained encoder, averaged weights."""
    model = build().eval()
    model.load_state_dict(loop.read_ema(folder, "vision"))
    return model


@torch.no_grad()
def measure(
    model: CLIPVisionModelWithProjection, source: text.CaptionedViews, tower: torch.nn.Module
) -> dict[str, float]:
    """Name clean held-out pictures by text, from the encoder's own embeddings."""
    names = list(source.pictures.concepts[: source.pictures.num_core])
    prompts = F.normalize(text.concept_embeds(tower, names), dim=-1)
    test = source.views["held_out"] & source.views["clean"]
    images = augment.normalise(source.views["images"][test].float() / 255)
    embeds = model(images).image_embeds
    right = (F.normalize(embeds, dim=-1) @ prompts.T).topk(5).indices
    right = right == source.views["concept"][test][:, None]
    zero = model(torch.zeros(1, 3, augment.IMAGE_SIZE, augment.IMAGE_SIZE)).image_embeds
    return {
        "zero_shot_top1": float(right[:, 0].float().mean()),
        "zero_shot_top5": float(right.any(1).float().mean()),
        "cosine": float(F.cosine_similarity(embeds, source.embeds[test]).mean()),
        "norm_of_nothing": float(zero.norm()),
    }
