"""Measure a checkpoint with a judge: ``python -m recipes.pocket.evaluate --checkpoint DIR``.

The judge is always the same, whichever weights are measured, so that two checkpoints compare. Both
forms are measured alike, where the checkpoint has both.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from recipes.pocket import augment, autoencoder, data, judge, sheets, teacher, views, world
from torch.nn import functional as F

from offbeat.judges.classifier import ClassifierJudge, PresenceJudge
from offbeat.protocols.judges import PRESENT_FROM

SUBJECTS = ["handbag", "building", "vehicle", "alien", "fruit", "chair", "pet", "dinosaur"]
COLOURED = ["castle", "car", "handbag", "apple", "fish", "house", "hat", "dress", "book", "balloon"]
VARIED = ["handbag", "castle", "cat", "car", "owl", "teapot", "fish", "chair"]
NUM_PAIRS = 100
COPY = 0.08
"""Root mean square distance of pixels, 0 to 1, below which a picture is a copy of a drawing."""


def named(drawer: sheets.Drawer, reader: ClassifierJudge, seeds: int) -> dict[str, object]:
    """Return how often a picture of "a picture of a X" is named X, over all names."""
    names = list(reader.labels)
    ranks = []
    for seed in range(seeds):
        images = drawer.picture([sheets.prompt(name) for name in names], seed=seed)
        ranked = reader.class_probabilities(images).topk(min(5, len(names))).indices
        ranks.append(ranked == torch.arange(len(names))[:, None])
    hit = torch.stack(ranks).float()
    return {
        "top1": float(hit[..., 0].mean()),
        "top5": float(hit.amax(-1).mean()),
        "never_first": [n for n, row in zip(names, hit[..., 0].mean(0), strict=True) if row == 0],
    }


def subjects(drawer: sheets.Drawer, reader: ClassifierJudge, count: int) -> dict[str, float]:
    """Return the share of valid pictures (probability over one half) of the eight subjects."""
    shares = {}
    for word in SUBJECTS:
        images = drawer.picture([sheets.prompt(word)] * count, seed=11)
        shares[word] = float((reader.probability(images, word) > 0.5).float().mean())
    return shares | {"mean": sum(shares.values()) / len(SUBJECTS)}


def pairs(names: list[str], count: int) -> list[tuple[str, str]]:
    """Return so many different pairs of names, always the same."""
    draw, found = random.Random(3), []
    while len(found) < count:
        pair = tuple(draw.sample(names, 2))
        if pair not in found:
            found.append(pair)
    return found


def mixtures(drawer: sheets.Drawer, reader: ClassifierJudge, count: int) -> dict[str, float]:
    """Return what is read in "a picture of a mixture of a A and a B" of drawn pairs."""
    names = list(reader.labels)
    chosen = pairs(names, count)
    prompts = [
        f"a picture of a mixture of {augment.with_article(a)} and {augment.with_article(b)}"
        for a, b in chosen
    ]
    images = drawer.picture(prompts, seed=4)
    shares = reader.class_probabilities(images)
    columns = torch.tensor([[names.index(word) for word in pair] for pair in chosen])
    lesser = shares.gather(1, columns).amin(1)
    top = shares.topk(min(5, len(names))).indices
    both = (top[:, :, None] == columns[:, None]).any(1).all(1)
    found = {"lesser": float(lesser.mean()), "both_in_top5": float(both.float().mean())}
    if isinstance(reader, PresenceJudge):
        there = reader.presence(images).gather(1, columns) >= PRESENT_FROM
        found["both_present"] = float(there.all(1).float().mean())
    return found


def attributes(drawer: sheets.Drawer) -> dict[str, float]:
    """Return how often the named background and colour are there, by the nearest table entry."""
    backgrounds = list(augment.BACKGROUNDS)[1:]
    prompts = [f"a picture of a cat on a {name} background" for name in backgrounds] * 2
    border = drawer.picture(prompts, seed=5)
    edge = torch.cat([border[..., :3, :].flatten(2), border[..., -3:, :].flatten(2)], -1)
    table = torch.tensor(list(augment.BACKGROUNDS.values()))
    nearest = torch.cdist(edge.median(-1).values, table).argmin(-1)
    wanted = torch.arange(1, len(backgrounds) + 1).repeat(2)
    colours = [name for name in augment.COLOURS if name not in {"black", "gray"}]
    prompts = [f"a picture of a {name} {thing}" for name in colours for thing in COLOURED[:4]]
    images = drawer.picture(prompts, seed=6)
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


def surfaces(drawer: sheets.Drawer, reader: ClassifierJudge, folder: Path) -> dict[str, float]:
    """Return how often a named pattern is read by the teacher, and a named texture by the judge."""
    eye = teacher.Eye(folder)
    prompts = [f"a picture of a {p} {thing}" for p in world.PATTERNS for thing in COLOURED[:4]]
    embeds = eye(drawer.picture(prompts, seed=7))
    read = eye.joint.heads["pattern"](embeds).argmax(-1)
    truth = 1 + torch.arange(len(world.PATTERNS)).repeat_interleave(4)
    found = {"pattern": float((read == truth).float().mean())}
    if isinstance(reader, PresenceJudge):
        names = list(reader.labels)
        chosen = pairs(names, 32)
        prompts = [f"a picture of {augment.with_article(a)} made of {b}" for a, b in chosen]
        there = reader.presence(drawer.picture(prompts, seed=8)) >= PRESENT_FROM
        columns = torch.tensor([names.index(b) for _, b in chosen])
        found["texture"] = float(there[torch.arange(len(chosen)), columns].float().mean())
    return found


def spread(drawer: sheets.Drawer, folder: Path, count: int = 32) -> dict[str, float]:
    """Return how far pictures of a thing are from each other, against the world's views of it."""
    pictures, eye = data.load(folder), teacher.Eye(folder)
    drawn, real = [], []
    for number, name in enumerate(VARIED):
        images = drawer.picture([sheets.prompt(name)] * count, seed=20 + number, exploring=True)
        rows = pictures.rows(held_out=False)
        rows = rows[pictures.concept[rows] == pictures.concepts.index(name)]
        generator = torch.Generator().manual_seed(number)
        taken = rows[torch.randint(0, len(rows), (count,), generator=generator)]
        others = world.partners(pictures, taken, generator)
        for place, seen in (
            (drawn, images),
            (real, world.make(pictures, taken, others, generator).images),
        ):
            embeds = eye(seen)
            place.append(float((embeds - embeds.mean(0)).square().sum(1).mean().sqrt()))
    ours, theirs = sum(drawn) / len(drawn), sum(real) / len(real)
    return {"drawn": ours, "world": theirs, "share": ours / theirs}


def copies(drawer: sheets.Drawer, names: list[str]) -> dict[str, float]:
    """Return how many of 64 samples are copies of a training drawing, and how near they are."""
    chosen = (names * 64)[::2][:64]
    images = drawer.picture([sheets.prompt(name) for name in chosen], seed=9)
    _, distances = sheets.nearest(images)
    return {
        "share": float((distances < COPY).float().mean()),
        "nearest": float(distances.min()),
        "median": float(distances.median()),
    }


@torch.no_grad()
def zero_shot(drawer: sheets.Drawer) -> dict[str, float]:
    """Name clean held-out drawings by text with the checkpoint's own two towers."""
    pictures = data.load()
    rows = pictures.rows(held_out=True)
    seen = drawer.backbone.encode_image(drawer.sized(views.clean(pictures, rows)))
    prompts = [sheets.prompt(name) for name in pictures.concepts[: pictures.num_core]]
    text = drawer.backbone.encode_text(prompts).text_embeds
    scores = F.normalize(seen, dim=-1) @ F.normalize(text, dim=-1).T
    right = scores.topk(5).indices == pictures.concept[rows][:, None]
    return {"top1": float(right[:, 0].float().mean()), "top5": float(right.any(1).float().mean())}


def imitated(drawer: sheets.Drawer, reader: ClassifierJudge, count: int = 64) -> dict[str, float]:
    """Return how often an IP-Adapter's picture of a drawing, with no text, is named like it."""
    pictures, shares = data.load(), {}
    names = list(reader.labels)
    for side, held_out in (("held_out", True), ("known", False)):
        rows = pictures.rows(held_out=held_out)
        rows = rows[:: max(1, len(rows) // count)][:count]
        images = drawer.imitate(views.clean(pictures, rows), 1.0)
        wanted = [names.index(pictures.concepts[int(k)]) for k in pictures.concept[rows]]
        right = reader.class_probabilities(images).topk(min(5, len(names))).indices
        right = right == torch.tensor(wanted)[:, None]
        shares[f"{side}_top1"] = float(right[:, 0].float().mean())
        shares[f"{side}_top5"] = float(right.any(1).float().mean())
    return shares


def read_well(reader: ClassifierJudge, folder: Path) -> dict[str, Any]:
    """Return how well a judge reads held-out drawings, their grafts and their textures."""
    pictures = data.load(folder)
    rows = pictures.rows(held_out=True)
    columns = torch.tensor([reader.labels.index(name) for name in _core(pictures)])
    shares = reader.class_probabilities(views.clean(pictures, rows))[:, columns].clamp_min(1e-12)
    found: dict[str, Any] = {"clean": judge.figures(shares.log(), pictures.concept[rows], 1)}
    for kind in ("graft", "texture"):
        scenes, first, other = views.held_out(pictures, kind, seed=8, views=2)
        logits = reader.class_probabilities(scenes.images)[:, columns].clamp_min(1e-12).log()
        share = world.SHARES[world.KINDS.index(kind)]
        top = logits.topk(5).indices
        both = [(top == names[:, None]).any(1) for names in (first, other)]
        found[kind] = {
            "kl": judge.divergence(logits, first, other, share),
            "both_in_top5": float((both[0] & both[1]).float().mean()),
        }
        if isinstance(reader, PresenceJudge):
            presence = reader.presence(scenes.images)[:, columns]
            found[kind] |= judge.seen(presence - PRESENT_FROM, first, other)
    return found


def _core(pictures: data.Pictures) -> tuple[str, ...]:
    return pictures.concepts[: pictures.num_core]


def seconds(draw: Callable[[int], object]) -> float:
    """Return the shortest time of five drawings, each with its seed."""
    times = []
    for seed in range(5):
        started = time.perf_counter()
        draw(seed)
        times.append(time.perf_counter() - started)
    return min(times)


def restored(drawer: sheets.Drawer) -> float:
    """Return the autoencoder's PSNR on held-out drawings, dB."""
    pictures = data.load()
    images = drawer.sized(views.clean(pictures, pictures.rows(held_out=True)))
    movq, values = drawer.backbone.movq, []
    with torch.no_grad():
        for part in images.split(32):
            again = autoencoder.decode(movq, movq.encode(augment.normalise(part)).latents)
            error = (again.clamp(-1, 1) / 2 + 0.5 - part).square().mean((1, 2, 3))
            values.append(-10 * error.log10())
    return float(torch.cat(values).mean())


def measure(form: str, options: argparse.Namespace, reader: ClassifierJudge) -> dict[str, object]:
    """Return all figures of one form."""
    drawer = sheets.Drawer(options.checkpoint, form, **sheets.asked(options))
    names = list(reader.labels)
    table: dict[str, object] = {"named": named(drawer, reader, options.seeds)}
    if options.only_named:
        return table
    table |= {
        "subjects": subjects(drawer, reader, options.count),
        "mixtures": mixtures(drawer, reader, options.pairs),
        "attributes": attributes(drawer) | surfaces(drawer, reader, options.work),
        "spread": spread(drawer, options.work),
        "copies": copies(drawer, names),
        "seconds_per_picture": seconds(lambda seed: drawer.picture(["a picture of a cat"], seed)),
    }
    if form == "unclip":
        return table | {"psnr": restored(drawer), "zero_shot": zero_shot(drawer)}
    return table | {"imitated": imitated(drawer, reader)}


def main() -> None:
    """Print the table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    sheets.add_options(parser)
    parser.add_argument("--judge", type=Path, help="default: that of the checkpoint")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--count", type=int, default=24, help="pictures of each subject")
    parser.add_argument("--pairs", type=int, default=NUM_PAIRS, help="mixtures that are drawn")
    parser.add_argument("--only-named", action="store_true", help="skip the rest of the table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    reader = ClassifierJudge.load(options.judge or options.checkpoint / "judge")
    table: dict[str, object] = {"checkpoint": str(options.checkpoint), "judge": reader.name}
    if not options.only_named:
        table["judge_reads"] = read_well(reader, options.work)
    for form in sheets.FORMS:
        if options.form in {None, form}:
            table[form] = measure(form, options, reader)
            print(json.dumps(table, indent=1), flush=True)


if __name__ == "__main__":
    main()
