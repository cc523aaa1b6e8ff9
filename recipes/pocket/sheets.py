"""Draw sheets of a checkpoint to look at: ``python -m recipes.pocket.sheets --checkpoint DIR``.

``--form`` chooses between the unCLIP pipelines and the Stable-Diffusion one; the files of the
latter start with ``sd-``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from recipes.pocket import augment, data, loop, views, world
from torch import Tensor
from torch.nn import functional as F

from offbeat import load_backbone
from offbeat.core.rng import streams

FORMS = ("unclip", "stable_diffusion")
PROMPTS = [
    "pig",
    "sheep",
    "snake",
    "cat",
    "lion",
    "owl",
    "giraffe",
    "zebra",
    "elephant",
    "penguin",
    "peacock",
    "octopus",
    "shark",
    "butterfly",
    "snail",
    "frog",
    "banana",
    "strawberry",
    "pineapple",
    "broccoli",
    "car",
    "bus",
    "castle",
    "house",
    "handbag",
    "chair",
    "alien",
    "dinosaur",
    "dragon",
    "guitar",
    "cactus",
    "rocket",
]
MIXED = [
    "a strawberry and a castle",
    "an owl and a pineapple",
    "a lion and an octopus",
    "a zebra and a handbag",
    "a cactus and a chair",
    "a frog and a car",
    "a penguin and a banana",
    "a shark and a guitar",
    "a butterfly and a house",
    "a snail and a bus",
    "a dragon and a broccoli",
    "a pig and a snake",
    "a giraffe and a rocket",
    "an alien and an owl",
    "a peacock and a handbag",
    "a dinosaur and a pineapple",
]
ATTRIBUTED = [
    *(f"{colour} castle" for colour in augment.COLOURS),
    *(f"{colour} cat" for colour in ("red", "green", "blue", "purple", "pink", "black")),
    *(f"car on a {colour} background" for colour in list(augment.BACKGROUNDS)[1:]),
    *(f"yellow fish on a {colour} background" for colour in list(augment.BACKGROUNDS)[1:]),
]
"""Prompts that name a colour or a background."""
SEEDED = ("handbag", "cat", "car", "dinosaur")
PAIRS = (
    "pig snake,owl snail,lion banana,castle strawberry,car shark,cat butterfly,chair octopus,"
    "handbag pineapple"
)
TRIPLES = (
    "lion butterfly sunflower,castle strawberry snail,cat owl penguin,car shark banana,"
    "chair octopus cactus,handbag pineapple frog,dragon horse fish,robot elephant teapot"
)
CELL, LABEL = 128, 14


class Drawer:
    """One form of a checkpoint, through the package itself, with the card's settings."""

    def __init__(
        self,
        folder: Path,
        form: str,
        *,
        guidance: float | None = None,
        prior_guidance: float | None = None,
    ) -> None:
        self.form = form
        self.backbone = load_backbone(folder if form == "unclip" else folder / form)
        self.guidance, self.prior_guidance = guidance, prior_guidance

    @torch.no_grad()
    def embed(self, prompts: list[str], seed: int = 0, exploring: bool = False) -> Tensor:
        """Return image embeddings of prompts from the prior, ``[B, 256]``."""
        scale = self.prior_guidance
        if exploring:
            scale = self.backbone.card.get("explore_prior_guidance_scale")
        return self.backbone.sample_prior(
            self.backbone.encode_text(prompts),
            generator=streams(seed, "prior", num=len(prompts)),
            prior_guidance_scale=scale,
        )

    @torch.no_grad()
    def draw(self, embeds: Tensor, seed: int = 0) -> Tensor:
        """Return pictures of embeddings, ``[B, 3, H, W]``, 0 to 1."""
        noises = streams(seed, "decoder", num=len(embeds))
        return self.backbone.decode_embeds(embeds, generator=noises, guidance_scale=self.guidance)

    @torch.no_grad()
    def picture(self, prompts: list[str], seed: int = 0, exploring: bool = False) -> Tensor:
        """Return pictures of prompts, ``[B, 3, H, W]``, 0 to 1."""
        if self.form == "unclip":
            return self.draw(self.embed(prompts, seed, exploring), seed)
        text, noises = self.backbone.encode_text(prompts), streams(seed, "text", num=len(prompts))
        return self.backbone.draw_text(text, generator=noises, guidance_scale=self.guidance)

    @torch.no_grad()
    def imitate(self, images: Tensor, scale: float, prompt: str = "") -> Tensor:
        """Return a picture of each picture, by the IP-Adapter."""
        return self.backbone.draw_text(
            self.backbone.encode_text([prompt] * len(images)),
            generator=streams(0, "image", num=len(images)),
            image_embeds=self.backbone.encode_image(self.sized(images)),
            ip_adapter_scale=scale,
            guidance_scale=self.guidance,
        )

    def sized(self, images: Tensor) -> Tensor:
        """Return pictures at the checkpoint's own size."""
        side = int(self.backbone.card["height"])
        if images.shape[-1] == side:
            return images
        return F.interpolate(images, size=side, mode="bicubic", antialias=True).clamp(0, 1)


def prompt(name: str) -> str:
    """Return the prompt that figures are measured with."""
    return f"a picture of {augment.with_article(name)}"


def tile(images: Tensor, labels: list[str], columns: int) -> Image.Image:
    """Return pictures with labels above them, row by row."""
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (CELL + 2), rows * (CELL + LABEL)), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        left, top = index % columns * (CELL + 2), index // columns * (CELL + LABEL)
        cell = picture_of(image).resize((CELL, CELL), Image.Resampling.BICUBIC)
        sheet.paste(cell, (left, top + LABEL))
        draw.text((left + 2, top + 1), label, fill="black")
    return sheet


def mixtures(drawer: Drawer) -> Image.Image:
    """Return eight pairs of concepts, mixed in steps of a quarter."""
    chosen = [pair.split() for pair in PAIRS.split(",")]
    first = drawer.embed([prompt(a) for a, _ in chosen])
    second = drawer.embed([prompt(b) for _, b in chosen], seed=1)
    shares = torch.linspace(1, 0, 5)
    embeds = shares[None, :, None] * first[:, None] + (1 - shares)[None, :, None] * second[:, None]
    labels = [f"{a} {float(share):g} {b}" for a, b in chosen for share in shares]
    return tile(drawer.draw(embeds.flatten(0, 1)), labels, columns=10)


def triples(drawer: Drawer) -> Image.Image:
    """Return eight triples of concepts: each alone, then the mean of all three at four seeds."""
    names = [triple.split() for triple in TRIPLES.split(",")]
    alone = torch.stack(
        [drawer.embed([prompt(name) for name in names[k]], seed=k) for k in range(len(names))]
    )
    mixed = alone.mean(1, keepdim=True).expand(-1, 4, -1)
    images = drawer.draw(torch.cat([alone, mixed], 1).flatten(0, 1), seed=2)
    labels = [label for row in names for label in (*row, *["all three"] * 4)]
    return tile(images, labels, columns=14)


def imitations(drawer: Drawer) -> Image.Image:
    """Return held-out drawings and what the IP-Adapter makes of each, three ways."""
    pictures = data.load()
    rows = pictures.rows(held_out=True)[::11][:16]
    drawings = views.clean(pictures, rows)
    columns = [
        drawer.sized(drawings),
        drawer.imitate(drawings, 1.0),
        drawer.imitate(drawings, 0.6),
        drawer.imitate(drawings, 0.6, "a picture of a castle"),
    ]
    names = [pictures.concepts[int(pictures.concept[row])] for row in rows]
    labels = [t for name in names for t in (name, "scale 1", "scale 0.6", "0.6, castle")]
    return tile(torch.stack(columns, 1).flatten(0, 1), labels, columns=8)


def the_world(count: int = 12) -> Image.Image:
    """Return views of the world, a row of each kind."""
    pictures, images, labels = data.load(), [], []
    rows, generator = pictures.rows(held_out=False), loop.random(1)
    weights = world.weights_of(pictures, rows)
    for kind in world.KINDS:
        shown = world.Settings(weights=tuple(float(name == kind) for name in world.KINDS))
        images.append(views.draw(pictures, rows, weights, count, generator, shown).images)
        labels += [kind] * count
    return tile(torch.cat(images), labels, columns=count)


def picture_of(image: Tensor) -> Image.Image:
    """Return ``[3, H, W]`` in 0 to 1 as a picture."""
    return Image.fromarray((image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())


def nearest(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the training drawing closest to each picture, and how far it is.

    Pixels are compared, on white and in both mirrorings.

    Returns:
        Drawings, as large as the pictures, and root mean square distances ``[B]``, 0 to 1.
    """
    pictures = data.load()
    known = views.clean(pictures, pictures.rows(held_out=False))
    known = F.interpolate(known, size=images.shape[-1], mode="bilinear", antialias=True)
    known = torch.cat([known, known.flip(-1)])
    distances = torch.cdist(images.flatten(1), known.flatten(1)) / images[0].numel() ** 0.5
    closest = distances.min(1)
    return known[closest.indices], closest.values


def memory(drawer: Drawer, names: list[str]) -> Image.Image:
    """Return samples, each beside the training drawing that is closest to it."""
    images = drawer.picture([prompt(name) for name in names], seed=9)
    drawings, distances = nearest(images)
    labels = [
        label
        for name, distance in zip(names, distances.tolist(), strict=True)
        for label in (name, f"nearest, {distance:.2f}")
    ]
    return tile(torch.stack([images, drawings], dim=1).flatten(0, 1), labels, columns=16)


def save(sheet: Image.Image, path: Path) -> None:
    """Write a sheet small: 256 colours suffice to look at."""
    sheet.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what chooses a checkpoint and how it draws."""
    folder = data.work_folder()
    parser.add_argument("--work", type=Path, default=folder, help="folder of caches")
    parser.add_argument("--checkpoint", type=Path, default=folder / "export")
    parser.add_argument("--form", choices=FORMS, help="default: both")
    parser.add_argument("--guidance", type=float, help="default: as the card says")
    parser.add_argument("--prior-guidance", type=float, help="default: as the card says")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")


def asked(options: argparse.Namespace) -> dict[str, float | None]:
    """Return how a checkpoint is to draw."""
    return {"guidance": options.guidance, "prior_guidance": options.prior_guidance}


def main() -> None:
    """Write ``sheet.png``; with ``--all`` also attributes, mixtures, seeds, nearest drawings."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--out", type=Path, default=data.work_folder() / "sheets")
    parser.add_argument("--all", action="store_true", help="all sheets, not only the first")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.all:
        save(the_world(), options.out / "world.png")
    for form in FORMS:
        if options.form in {None, form}:
            write_sheets(Drawer(options.checkpoint, form, **asked(options)), options)


def write_sheets(drawer: Drawer, options: argparse.Namespace) -> None:
    """Write the sheets of one form."""
    is_unclip = drawer.form == "unclip"

    def write(name: str, sheet: Image.Image) -> None:
        save(sheet, options.out / f"{'' if is_unclip else 'sd-'}{name}.png")

    mixed = [f"a picture of a mixture of {pair}" for pair in MIXED]
    images = drawer.picture([*(prompt(name) for name in PROMPTS), *mixed])
    write("sheet", tile(images, [*PROMPTS, *MIXED], 8))
    if not options.all:
        return
    names = list(data.concept_table())
    write("concepts", tile(drawer.picture([prompt(name) for name in names]), names, 14))
    images = drawer.picture([prompt(name) for name in ATTRIBUTED])
    write("attributes", tile(images, [short(name) for name in ATTRIBUTED], 8))
    seeded = [name for name in SEEDED for _ in range(16)]
    write("seeds", tile(drawer.picture([prompt(name) for name in seeded], 3), seeded, 16))
    write("nearest", memory(drawer, names[::2][:64]))
    if is_unclip:
        write("mix", mixtures(drawer))
        write("mix3", triples(drawer))
    else:
        write("images", imitations(drawer))


def short(label: str) -> str:
    """Return a label that fits above a picture.

    >>> short("car on a red background")
    'car on red'
    """
    return label.replace(" background", "").replace("on a ", "on ")


if __name__ == "__main__":
    main()
