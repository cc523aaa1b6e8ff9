"""Stage ``judge``: a small ResNet that names pictures, trained on its own and calibrated.

It shares no weights, teacher or loss with the models that the methods optimise, so that a method
cannot please it by accident of architecture.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from recipes.pocket import augment, data, loop
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPImageProcessorPil, ResNetConfig, ResNetForImageClassification

LOOKS = augment.Looks(scale=0.3, shift=0.1, turn=0.3, tint=0.3, background=0.45, degrade=True)
BATCH = 128


def build(num_classes: int) -> ResNetForImageClassification:
    """Return the untrained classifier, 2.9 M parameters."""
    config = ResNetConfig(
        embedding_size=32,
        hidden_sizes=[32, 64, 128, 256],
        depths=[2, 2, 2, 2],
        layer_type="basic",
        num_labels=num_classes,
    )
    return ResNetForImageClassification(config)


def train(folder: Path, minutes: float) -> None:
    """Train on all concepts (the wide ones teach it shapes), and export the core ones."""
    pictures = data.load(folder)
    model = build(len(pictures.concepts)).train()
    rows = pictures.rows(held_out=False, wide=True)
    counts = torch.bincount(pictures.concept[rows]).float()
    weights = counts[pictures.concept[rows]] ** -0.6

    def losses(step: int, generator: torch.Generator) -> dict[str, Tensor]:
        picked = rows[torch.multinomial(weights, BATCH, replacement=True, generator=generator)]
        batch = augment.make_batch(pictures, picked, LOOKS, generator)
        labels = pictures.concept[picked]
        images, share, other = mix(augment.normalise(batch.images), generator)
        logits = model(images).logits.float()
        smooth = {"label_smoothing": 0.05}
        first = F.cross_entropy(logits, labels, **smooth)
        second = F.cross_entropy(logits, labels[other], **smooth)
        return {"classes": share * first + (1 - share) * second}

    def on_save(step: int) -> None:
        ema = build(len(pictures.concepts)).eval()
        ema.load_state_dict(loop.read_ema(folder, "judge"))
        export(ema, pictures, folder)

    training = loop.Training(
        name="judge",
        folder=folder,
        minutes=minutes,
        learning_rate=2e-3,
        weight_decay=0.05,
        on_save=on_save,
        save_minutes=4.0,
    )
    loop.fit(model, losses, training)


def mix(images: Tensor, generator: torch.Generator) -> tuple[Tensor, float, Tensor]:
    """Cut a box of one picture into another for half of the batches (CutMix)."""
    other = torch.randperm(len(images), generator=generator)
    if torch.rand(1, generator=generator) < 0.5:
        return images, 1.0, other
    side = int(torch.randint(12, 40, (1,), generator=generator))
    top, left = torch.randint(0, images.shape[-1] - side, (2,), generator=generator).tolist()
    mixed = images.clone()
    window = (..., slice(top, top + side), slice(left, left + side))
    mixed[window] = images[other][window]
    return mixed, 1 - side**2 / images.shape[-1] ** 2, other


@torch.no_grad()
def held_out_logits(
    model: ResNetForImageClassification, pictures: data.Pictures, looks: augment.Looks, views: int
) -> tuple[Tensor, Tensor]:
    """Return core logits and labels of views of the held-out pictures, ``[n, K]`` and ``[n]``."""
    rows = pictures.rows(held_out=True).repeat_interleave(views)
    generator = torch.Generator().manual_seed(5)
    batch = augment.make_batch(pictures, rows, looks, generator)
    logits = model(augment.normalise(batch.images)).logits
    return logits[:, : pictures.num_core], pictures.concept[rows]


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


def export(model: ResNetForImageClassification, pictures: data.Pictures, folder: Path) -> None:
    """Write ``export/judge``: core concepts only, calibrated, fp16, swapped in at once."""
    sides = {
        "clean": (*held_out_logits(model, pictures, augment.CLEAN, 1), 1),
        "varied": (*held_out_logits(model, pictures, augment.Looks(), 6), 6),
        "degraded": (*held_out_logits(model, pictures, LOOKS, 6), 6),
    }
    temperature = best_temperature(*sides["varied"][:2])
    core = pictures.concepts[: pictures.num_core]
    small = build(len(core)).eval()
    state = dict(model.state_dict())
    for key in ("classifier.1.weight", "classifier.1.bias"):
        state[key] = state[key][: len(core)] / temperature
    small.load_state_dict(state)
    small.config.id2label = dict(enumerate(core))
    small.config.label2id = {name: index for index, name in enumerate(core)}
    target = folder / "export" / "judge"
    part = target.with_name("judge.part")
    shutil.rmtree(part, ignore_errors=True)
    small.half().save_pretrained(part)
    processor().save_pretrained(part)
    fix_processor_name(part)
    table = data.concept_table()
    classes = {name: table[name]["classes"] for name in core}
    (part / "coarse_classes.json").write_text(json.dumps(classes, indent=1))
    measured = {name: figures(*side) for name, side in sides.items()}
    measured["temperature"] = temperature
    (part / "figures.json").write_text(json.dumps(measured, indent=1))
    print(json.dumps(measured), flush=True)
    old = target.with_name("judge.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.rename(target, old)
    os.rename(part, target)
    shutil.rmtree(old, ignore_errors=True)


def processor() -> CLIPImageProcessorPil:
    """Return the image processor of pocket's models: 64 px, -1 to 1."""
    size = {"height": augment.IMAGE_SIZE, "width": augment.IMAGE_SIZE}
    return CLIPImageProcessorPil(
        size=size,
        crop_size=size,
        do_center_crop=False,
        resample=3,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )


def fix_processor_name(folder: Path) -> None:
    """Write the processor's portable class name, which older libraries know too."""
    path = folder / "preprocessor_config.json"
    config = json.loads(path.read_text())
    config["image_processor_type"] = "CLIPImageProcessor"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
