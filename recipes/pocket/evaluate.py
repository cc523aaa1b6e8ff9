"""Measure a checkpoint with the judge: ``python -m recipes.pocket.evaluate --checkpoint DIR``.

The judge is always the same, whichever weights are measured, so that two checkpoints compare. Both
forms are measured alike, where the checkpoint has both.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from recipes.pocket import augment, autoencoder, data, sheets, sources, teacher
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForImageClassification

SUBJECTS = ["handbag", "building", "vehicle", "alien", "fruit", "chair", "pet", "dinosaur"]
Form = sheets.Checkpoint | sheets.TextCheckpoint
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


def named(checkpoint: Form, judge: Judge, names: list[str], seeds: int) -> dict[str, object]:
    """Return how often a picture of "a picture of a X" is named X, over the names."""
    right1, right5 = [], []
    wanted = torch.tensor([judge.names.index(name) for name in names])
    for seed in range(seeds):
        images = checkpoint.picture([sheets.prompt(name) for name in names], seed=seed)
        ranked = judge.probabilities(images).topk(5).indices
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


def subjects(checkpoint: Form, judge: Judge, count: int) -> dict[str, float]:
    """Return the share of valid pictures (probability over one half) of the eight subjects."""
    shares = {}
    for word in SUBJECTS:
        images = checkpoint.picture([sheets.prompt(word)] * count, seed=11)
        valid = judge.subject(images, word) > 0.5
        shares[word] = float(valid.float().mean())
    shares["mean"] = sum(shares.values()) / len(SUBJECTS)
    return shares


def attributes(checkpoint: Form) -> dict[str, float]:
    """Return how often the named background and colour are there, by the nearest table entry."""
    backgrounds = list(augment.BACKGROUNDS)[1:]
    prompts = [f"a picture of a cat on a {name} background" for name in backgrounds] * 2
    border = checkpoint.picture(prompts, seed=5)
    edge = torch.cat([border[..., :3, :].flatten(2), border[..., -3:, :].flatten(2)], -1)
    table = torch.tensor(list(augment.BACKGROUNDS.values()))
    nearest = torch.cdist(edge.median(-1).values, table).argmin(-1)
    wanted = torch.arange(1, len(backgrounds) + 1).repeat(2)
    colours = [name for name in augment.COLOURS if name not in {"black", "gray"}]
    prompts = [f"a picture of a {name} {thing}" for name in colours for thing in COLOURED[:4]]
    images = checkpoint.picture(prompts, seed=6)
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


STYLED = ["cat", "car", "castle", "owl", "strawberry", "house", "dog", "rocket"]


@torch.no_grad()
def style_of(images: Tensor) -> Tensor:
    """Return which style the teacher's own head reads in pictures, ``[B]``."""
    joint = teacher.load(data.work_folder())
    return joint.heads["style"](joint(teacher.features_of(teacher.network(), images))).argmax(-1)


def styles(checkpoint: Form) -> dict[str, float]:
    """Return how often the named style is read, and how often in held-out drawings themselves."""
    prompts = [f"{augment.with_article(s)} picture of" for s in sources.STYLES]
    prompts = [f"{head} {augment.with_article(thing)}" for head in prompts for thing in STYLED]
    truth = torch.arange(len(sources.STYLES)).repeat_interleave(len(STYLED))
    pictures = data.load()
    rows = pictures.rows(held_out=True)
    generator = torch.Generator().manual_seed(0)
    drawings = augment.make_batch(pictures, rows, augment.CLEAN, generator).images
    read, real = style_of(checkpoint.picture(prompts, seed=7)), style_of(drawings)
    return {
        "style": float((read == truth).float().mean()),
        "style_of_drawings": float((real == pictures.style[rows]).float().mean()),
    }


@torch.no_grad()
def zero_shot(checkpoint: sheets.Checkpoint) -> dict[str, float]:
    """Name clean held-out drawings by text with the checkpoint's own two towers."""
    pictures, pipeline = data.load(), checkpoint.prior
    rows = pictures.rows(held_out=True)
    generator = torch.Generator().manual_seed(0)
    images = augment.make_batch(pictures, rows, augment.CLEAN, generator).images
    pixels = pipeline.image_processor(
        [sheets.picture_of(image) for image in images], return_tensors="pt"
    ).pixel_values
    embeds = F.normalize(pipeline.image_encoder(pixels).image_embeds, dim=-1)
    prompts = [sheets.prompt(name) for name in pictures.concepts[: pictures.num_core]]
    tokens = pipeline.tokenizer(prompts, padding=True, return_tensors="pt")
    text = F.normalize(pipeline.text_encoder(input_ids=tokens.input_ids).text_embeds, dim=-1)
    right = (embeds @ text.T).topk(5).indices == pictures.concept[rows][:, None]
    return {
        "drawings": len(rows),
        "top1": float(right[:, 0].float().mean()),
        "top5": float(right.any(1).float().mean()),
    }


def imitated(checkpoint: sheets.TextCheckpoint, judge: Judge, count: int = 64) -> dict[str, float]:
    """Return how often an IP-Adapter's picture of a drawing, with no text, is named like it."""
    pictures = data.load()
    shares = {}
    for name, held_out in (("held_out", True), ("known", False)):
        rows = pictures.rows(held_out=held_out)
        rows = rows[:: len(rows) // count][:count]
        generator = torch.Generator().manual_seed(0)
        drawings = augment.make_batch(pictures, rows, augment.CLEAN, generator).images
        images = checkpoint.imitate([sheets.picture_of(drawing) for drawing in drawings], 1.0)
        wanted = torch.tensor(
            [judge.names.index(pictures.concepts[int(pictures.concept[row])]) for row in rows]
        )
        right = judge.probabilities(images).topk(5).indices == wanted[:, None]
        shares[f"{name}_top1"] = float(right[:, 0].float().mean())
        shares[f"{name}_top5"] = float(right.any(1).float().mean())
    return shares


def seconds(draw: Callable[[int], object]) -> float:
    """Return the shortest time of five drawings, each with its seed."""
    times = []
    for seed in range(5):
        started = time.perf_counter()
        draw(seed)
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
    parser.add_argument("--form", choices=("unclip", "stable_diffusion"), help="default: both")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    judge = Judge(options.judge)
    names = json.loads(options.names.read_text()) if options.names else judge.names
    table: dict[str, object] = {"checkpoint": str(options.checkpoint)}
    for form in ("unclip", "stable_diffusion"):
        if options.form in {None, form}:
            table[form] = measure(form, options, judge, names)
    print(json.dumps(table, indent=1))


def measure(
    form: str, options: argparse.Namespace, judge: Judge, names: list[str]
) -> dict[str, object]:
    """Return all figures of one form."""
    folder, prompt = options.checkpoint, ["a picture of a cat"]
    guidance, prior_guidance = options.guidance, options.prior_guidance
    checkpoint: Form
    if form == "unclip":
        checkpoint = sheets.Checkpoint(folder, guidance=guidance, prior_guidance=prior_guidance)
    else:
        checkpoint = sheets.TextCheckpoint(folder, guidance=guidance)
    table: dict[str, object] = {"guidance": guidance}
    table["named"] = named(checkpoint, judge, names, options.seeds)
    if options.only_named:
        return table
    table |= {
        "subjects": subjects(checkpoint, judge, options.count),
        "attributes": attributes(checkpoint) | styles(checkpoint),
        "seconds_per_prompt": seconds(lambda seed: checkpoint.picture(prompt, seed)),
    }
    if isinstance(checkpoint, sheets.Checkpoint):
        embeds = checkpoint.embed(prompt)
        return table | {
            "prior_guidance": prior_guidance,
            "psnr": restored(checkpoint),
            "zero_shot": zero_shot(checkpoint),
            "seconds_per_picture": seconds(lambda seed: checkpoint.draw(embeds, seed)),
        }
    if (checkpoint.folder / "ip_adapter").is_dir():
        checkpoint.load_adapter()
        table["imitated"] = imitated(checkpoint, judge)
    return table


if __name__ == "__main__":
    main()
