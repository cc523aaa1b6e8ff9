"""Stage ``judge``: a small ResNet that names pictures and says what is in them, calibrated.

It has two answers: a distribution over concepts, which learns the shares of mixtures, and beside it
a probability of presence for each concept alone, so that a mixture can be read as both its things.
It shares no weights, teacher or loss with the models that the methods optimise, so that a method
cannot please it by accident of architecture.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from recipes.pocket import augment, data, loop, views, world
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPImageProcessorPil, ResNetConfig, ResNetForImageClassification

SIDE = 96
"""Pixels that it looks at."""
BATCH, POOL = 384, 8192
SEEN = world.Settings(
    weights=(0.24, 0.10, 0.08, 0.20, 0.06, 0.27, 0.05),
    tint=0.25,
    background=0.3,
    looks=augment.Looks(scale=0.2, shift=0.08, turn=0.2),
)
SPOILED = 0.35
"""Share of pictures that are blurred, noisy or cut out."""
BOTH = ("texture", "graft", "addon")
"""Kinds of views in which something of the other thing is there."""
ABSENT = 0.95
"""Share of absent things that must be called absent: it sets where presence begins."""


def build(num_classes: int) -> ResNetForImageClassification:
    """Return the untrained classifier, 2.9 M parameters: logits of names, then of presence."""
    config = ResNetConfig(
        embedding_size=32,
        hidden_sizes=[32, 64, 128, 256],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        num_labels=2 * num_classes,
    )
    return ResNetForImageClassification(config)


def targets(pictures: data.Pictures, drawn: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the shares of all concepts in views, and whether each is there, ``[B, K]`` each."""
    count = len(drawn["rows"])
    place, share = torch.arange(count), world.shares(drawn["kinds"])
    first, other = (pictures.concept[drawn[name]] for name in ("rows", "others"))
    shares, there = (torch.zeros(count, len(pictures.concepts)) for _ in range(2))
    shares[place, first] += share
    shares[place, other] += 1 - share
    is_both = torch.tensor([kind in BOTH for kind in world.KINDS])[drawn["kinds"]]
    there[place, other] = is_both.float()
    there[place, first] = 1.0
    return shares, there


def train(folder: Path, minutes: float) -> None:
    """Train on all concepts (the wide ones teach it shapes), and export the core ones."""
    pictures = data.load(folder)
    pool = views.Pool(pictures, views.scaled(POOL), seed=21, wide=True, settings=SEEN, fresh=86)
    model, number = build(len(pictures.concepts)).train(), len(pictures.concepts)
    heavy = torch.tensor(8.0)  # two of 177 are there: without it presence says no to all

    def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        drawn = pool.pick(views.scaled(BATCH), generator)
        images = looked_at(drawn["images"].float() / 255)
        shares, there = targets(pictures, drawn)
        spoiled = torch.rand(len(images), generator=generator) < SPOILED
        worse = augment.degrade(images, generator)
        images = torch.where(spoiled[:, None, None, None], worse, images)
        if step % 3 == 0:
            images, shares, there = laid_over(images, shares, there, generator)
        names, presence = model(augment.normalise(images)).logits.float().split(number, dim=1)
        seen = F.binary_cross_entropy_with_logits(
            presence, there, pos_weight=heavy, reduction="none"
        )
        return {
            "names": -(shares * names.log_softmax(-1)).sum(1).mean(),
            "presence": seen.sum(1).mean() / 8,
        }

    training = loop.Training(
        name="judge",
        folder=folder,
        minutes=minutes,
        learning_rate=1e-3,
        weight_decay=0.05,
        ema_decay=0.995,
        muon=True,
    )
    loop.fit(model, losses, training)
    export(model.eval(), pictures, folder)


def looked_at(images: Tensor) -> Tensor:
    """Return pictures at the size that the judge looks at."""
    return F.interpolate(images, size=SIDE, mode="bilinear", antialias=True)


def laid_over(
    images: Tensor, shares: Tensor, there: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Lay the second quarter of a batch over its first, so that "between" is a reading too."""
    count = len(images) // 4
    amount = torch.rand(count, 1, generator=generator) * 0.6 + 0.2
    wide = amount[:, :, None, None]
    parts = (slice(0, count), slice(count, 2 * count))
    above = wide * images[parts[0]] + (1 - wide) * images[parts[1]]
    mixed = amount * shares[parts[0]] + (1 - amount) * shares[parts[1]]
    both = torch.maximum(there[parts[0]], there[parts[1]])
    return tuple(
        torch.cat([new, old[count:]])
        for new, old in zip((above, mixed, both), (images, shares, there), strict=True)
    )


@torch.no_grad()
def read(
    model: ResNetForImageClassification, pictures: data.Pictures, images: Tensor
) -> tuple[Tensor, Tensor]:
    """Return core logits of names and of presence, ``[B, K]`` each."""
    parts = [model(augment.normalise(part)).logits.float() for part in looked_at(images).split(64)]
    names, presence = torch.cat(parts).split(len(pictures.concepts), dim=1)
    return names[:, : pictures.num_core], presence[:, : pictures.num_core]


def calibration_error(logits: Tensor, labels: Tensor, num_bins: int = 10) -> float:
    """Return the expected calibration error over bins of equal width, 0 to 1."""
    confidence, guess = logits.softmax(-1).max(-1)
    right = (guess == labels).float()
    bins = (confidence * num_bins).long().clamp(max=num_bins - 1)
    error = 0.0
    for index in range(num_bins):
        inside = bins == index
        if inside.any():
            gap = (right[inside].mean() - confidence[inside].mean()).abs()
            error += float(gap * inside.float().mean())
    return error


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature with the smallest cross-entropy, from a grid."""
    grid = torch.linspace(0.3, 3.0, 109)
    scores = [float(F.cross_entropy(logits / value, labels)) for value in grid]
    return float(grid[scores.index(min(scores))])


def figures(logits: Tensor, labels: Tensor, views: int) -> dict[str, float]:
    """Return top-1, top-5 and the calibration error.

    The temperature is fitted on one half of the held-out pictures and the error measured on the
    other, both ways round; all views of a picture are in the same half.
    """
    even = torch.arange(len(labels)) // views % 2 == 0
    errors = []
    for fitted, measured in ((even, ~even), (~even, even)):
        value = best_temperature(logits[fitted], labels[fitted])
        errors.append(calibration_error(logits[measured] / value, labels[measured]))
    top5 = (logits.topk(5).indices == labels[:, None]).any(1).float().mean()
    return {
        "top1": float((logits.argmax(-1) == labels).float().mean()),
        "top5": float(top5),
        "calibration_error": sum(errors) / 2,
    }


def presence_scale(presence: Tensor, first: Tensor, other: Tensor) -> tuple[float, float]:
    """Return slope and limit of presence: at the limit 95 % of what is absent is called so.

    Args:
        presence: Logits of views of two things each, ``[B, K]``.
        first: ``[B]``, one thing.
        other: ``[B]``, the other.
    """
    place = torch.arange(len(presence))
    there = torch.zeros_like(presence, dtype=torch.bool)
    there[place, first] = there[place, other] = True
    limit = float(presence[~there].sort().values[int(ABSENT * int((~there).sum()))])
    shifted, weights = (
        presence - limit,
        torch.where(there, 0.5, 0.5 * float(there.sum()) / float((~there).sum())),
    )
    grid = torch.linspace(0.2, 3.0, 57)
    scores = [
        float(F.binary_cross_entropy_with_logits(value * shifted, there.float(), weight=weights))
        for value in grid
    ]
    return float(grid[scores.index(min(scores))]), limit


def seen(presence: Tensor, first: Tensor, other: Tensor) -> dict[str, float]:
    """Return how often both things are called present, either, and what is absent absent."""
    place, yes = torch.arange(len(presence)), presence > 0
    a, b = yes[place, first], yes[place, other]
    there = torch.zeros_like(yes)
    there[place, first] = there[place, other] = True
    return {
        "both": float((a & b).float().mean()),
        "either": float(torch.cat([a, b]).float().mean()),
        "absent": float((~yes[~there]).float().mean()),
    }


def divergence(names: Tensor, first: Tensor, other: Tensor, share: float) -> float:
    """Return KL(true shares || distribution) of views of two things, nats."""
    place, logs = torch.arange(len(names)), names.log_softmax(-1)
    parts = ((share, logs[place, first]), (1 - share, logs[place, other]))
    return float(sum(part * (torch.tensor(part).log() - log) for part, log in parts).mean())


def export(model: ResNetForImageClassification, pictures: data.Pictures, folder: Path) -> None:
    """Write ``export/judge``: core concepts only, calibrated, fp16, swapped in at once."""
    rows = pictures.rows(held_out=True)
    labels, core = pictures.concept[rows], pictures.concepts[: pictures.num_core]
    clean, _ = read(model, pictures, views.clean(pictures, rows))
    varied, *_ = views.held_out(pictures, "plain", seed=5, views=6)
    logits, _ = read(model, pictures, varied.images)
    temperature = best_temperature(logits, pictures.concept[varied.rows])
    scenes, first, other = views.held_out(pictures, "graft", seed=7, views=2)
    slope, limit = presence_scale(read(model, pictures, scenes.images)[1], first, other)
    measured: dict[str, object] = {
        "clean": figures(clean, labels, 1),
        "varied": figures(logits, pictures.concept[varied.rows], 6),
    }
    for kind in ("graft", "texture"):
        scenes, first, other = views.held_out(pictures, kind, seed=8, views=2)
        names, presence = read(model, pictures, scenes.images)
        share = world.SHARES[world.KINDS.index(kind)]
        kl = divergence(names / temperature, first, other, share)
        measured[kind] = seen(presence - limit, first, other) | {"kl": kl}
    measured |= {"temperature": temperature, "presence_slope": slope, "presence_limit": limit}
    print(json.dumps(measured), flush=True)
    with torch.device("cpu"):
        small = build(len(core)).eval()
    state = {key: value.cpu() for key, value in model.state_dict().items()}
    for key in ("classifier.1.weight", "classifier.1.bias"):
        names, presence = state[key].split(len(pictures.concepts))
        presence = presence - limit if key.endswith("bias") else presence
        state[key] = torch.cat([names[: len(core)] / temperature, presence[: len(core)] * slope])
    small.load_state_dict(state)
    labels = [*core, *(f"presence of {name}" for name in core)]
    small.config.id2label = dict(enumerate(labels))
    small.config.label2id = {name: index for index, name in enumerate(labels)}
    small.config.num_presence = len(core)
    target = folder / "export" / "judge"
    part = target.with_name("judge.part")
    shutil.rmtree(part, ignore_errors=True)
    small.half().save_pretrained(part)
    processor(SIDE, resample=2).save_pretrained(part)  # bilinear, as it was trained
    fix_processor_name(part)
    table = data.concept_table()
    classes = {name: table[name]["classes"] for name in core}
    (part / "coarse_classes.json").write_text(json.dumps(classes, indent=1))
    (part / "figures.json").write_text(json.dumps(measured, indent=1))
    old = target.with_name("judge.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.rename(target, old)
    os.rename(part, target)
    shutil.rmtree(old, ignore_errors=True)


def processor(side: int = augment.IMAGE_SIZE, resample: int = 3) -> CLIPImageProcessorPil:
    """Return an image processor that stretches pictures to a square, -1 to 1."""
    size = {"height": side, "width": side}
    return CLIPImageProcessorPil(
        size=size,
        crop_size=size,
        do_center_crop=False,
        resample=resample,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


def fix_processor_name(folder: Path) -> None:
    """Write the processor's portable class name, which older libraries know too."""
    path = folder / "preprocessor_config.json"
    config = json.loads(path.read_text())
    config["image_processor_type"] = "CLIPImageProcessor"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
