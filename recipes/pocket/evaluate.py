"""Measure a checkpoint with the judge: ``python -m recipes.pocket.evaluate --checkpoint DIR``.

The judge is always the same, whichever weights are measured, so that two checkpoints compare.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from recipes.pocket import augment, autoencoder, data, sheets
from torch import Tensor
from transformers import AutoModelForImageClassification

SUBJECTS = ["handbag", "building", "vehicle", "alien", "fruit", "chair", "pet", "dinosaur"]
COLOURED = ["castle", "car", "handbag", "apple", "fish", "house", "hat", "dress", "book", "balloon"]


class Judge:
    """The exported classifier, asked about concepts and coarse classes."""

    def __init__(self, folder: Path) -> None:
        self.model = AutoModelForImageClassification.from_pretrained(folder).float().eval()
        self.names = [self.model.config.id2label[k] for k in range(self.model.config.num_labels)]
        self.classes = json.loads((folder / "coarse_classes.json").read_text())

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Return probabilities of all concepts, ``[B, K]``."""
        parts = [self.model(augment.normalise(part)).logits for part in images.split(128)]
        return torch.cat(parts).softmax(-1)

    def subject(self, images: Tensor, word: str) -> Tensor:
        """Return the probability that a picture shows a concept or a coarse class, ``[B]``."""
        columns = [
            index
            for index, name in enumerate(self.names)
            if name == word or word in self.classes[name]
        ]
        return self.probabilities(images)[:, columns].sum(-1)


def named(
    checkpoint: sheets.Checkpoint, judge: Judge, names: list[str], seeds: int
) -> dict[str, object]:
    """Return how often a picture of "a picture of a X" is named X, over the names."""
    right1, right5 = [], []
    wanted = torch.tensor([judge.names.index(name) for name in names])
    for seed in range(seeds):
        embeds = checkpoint.embed([sheets.prompt(name) for name in names], seed=seed)
        ranked = judge.probabilities(checkpoint.draw(embeds, seed=seed)).topk(5).indices
        hit = ranked == wanted[:, None]
        right1.append(hit[:, 0])
        right5.append(hit.any(1))
    first, five = torch.stack(right1).float(), torch.stack(right5).float()
    missed = [name for name, hits in zip(names, five.mean(0), strict=True) if hits == 0]
    return {
        "concepts": len(names),
        "top1": float(first.mean()),
        "top5": float(five.mean()),
        "never_in_top5": missed,
    }


def subjects(checkpoint: sheets.Checkpoint, judge: Judge, count: int) -> dict[str, float]:
    """Return the share of valid pictures (probability over one half) of the eight subjects."""
    shares = {}
    for word in SUBJECTS:
        embeds = checkpoint.embed([sheets.prompt(word)] * count, seed=11)
        valid = judge.subject(checkpoint.draw(embeds, seed=11), word) > 0.5
        shares[word] = float(valid.float().mean())
    shares["mean"] = sum(shares.values()) / len(SUBJECTS)
    return shares


def attributes(checkpoint: sheets.Checkpoint) -> dict[str, float]:
    """Return how often the named background and colour are there, by the nearest table entry."""
    backgrounds = list(augment.BACKGROUNDS)[1:]
    prompts = [f"a picture of a cat on a {name} background" for name in backgrounds] * 2
    border = checkpoint.draw(checkpoint.embed(prompts, seed=5), seed=5)
    edge = torch.cat([border[..., :3, :].flatten(2), border[..., -3:, :].flatten(2)], -1)
    table = torch.tensor(list(augment.BACKGROUNDS.values()))
    nearest = torch.cdist(edge.median(-1).values, table).argmin(-1)
    wanted = torch.arange(1, len(backgrounds) + 1).repeat(2)
    colours = [name for name in augment.COLOURS if name not in {"black", "gray"}]
    prompts = [f"a picture of a {name} {thing}" for name in colours for thing in COLOURED[:4]]
    images = checkpoint.draw(checkpoint.embed(prompts, seed=6), seed=6)
    chroma = images.amax(1) - images.amin(1)
    weights = (chroma * (chroma > 0.15)).flatten(1)[:, None]
    mean = (images.flatten(2) * weights).sum(-1) / weights.sum(-1).clamp(min=1e-3)
    palette = torch.tensor([augment.COLOURS[name] for name in colours])
    close = torch.cdist(mean, palette).argmin(-1)
    truth = torch.arange(len(colours)).repeat_interleave(4)
    return {
        "background": float((nearest == wanted).float().mean()),
        "colour": float((close == truth).float().mean()),
    }


def seconds(checkpoint: sheets.Checkpoint) -> float:
    """Return the shortest time of five for one picture from an embedding."""
    embeds = checkpoint.embed(["a picture of a cat"])
    times = []
    for seed in range(5):
        started = time.perf_counter()
        checkpoint.draw(embeds, seed=seed)
        times.append(time.perf_counter() - started)
    return min(times)


def restored(checkpoint: sheets.Checkpoint) -> float:
    """Return the autoencoder's PSNR on held-out drawings, dB."""
    return autoencoder.psnr(checkpoint.decoder.movq, data.load())


def main() -> None:
    """Print the table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=data.work_folder() / "export")
    parser.add_argument("--judge", type=Path, default=data.work_folder() / "export" / "judge")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--count", type=int, default=24, help="pictures of each subject")
    parser.add_argument("--names", type=Path, help="JSON list of concepts; default: all")
    parser.add_argument("--prior-guidance", type=float, default=2.0)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--only-named", action="store_true", help="skip the rest of the table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = sheets.Checkpoint(
        options.checkpoint, guidance=options.guidance, prior_guidance=options.prior_guidance
    )
    judge = Judge(options.judge)
    names = json.loads(options.names.read_text()) if options.names else judge.names
    table = {
        "checkpoint": str(options.checkpoint),
        "guidance": [options.prior_guidance, options.guidance],
        "named": named(checkpoint, judge, names, options.seeds),
    }
    if not options.only_named:
        table |= {
            "psnr": restored(checkpoint),
            "subjects": subjects(checkpoint, judge, options.count),
            "attributes": attributes(checkpoint),
            "seconds_per_picture": seconds(checkpoint),
        }
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
