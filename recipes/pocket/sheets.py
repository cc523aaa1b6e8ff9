"""Draw sheets of a checkpoint to look at: ``python -m recipes.pocket.sheets --checkpoint DIR``.

``--form`` chooses between the unCLIP pipelines and the Stable-Diffusion one; the files of the
latter start with ``sd-``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import KandinskyV22Pipeline, KandinskyV22PriorPipeline, StableDiffusionPipeline
from PIL import Image, ImageDraw
from recipes.pocket import augment, data
from torch import Tensor

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
    "dog",
    "horse",
    "cow",
    "rabbit",
    "bear",
    "panda",
    "tiger",
    "monkey",
    "eagle",
    "duck",
    "turtle",
    "fish",
    "whale",
    "crab",
    "bee",
    "spider",
    "unicorn",
    "ghost",
    "robot",
    "snowman",
    "mushroom",
    "tree",
    "sunflower",
    "apple",
    "pizza",
    "teapot",
    "truck",
    "airplane",
    "bicycle",
    "ship",
    "shoe",
    "umbrella",
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
CELL, LABEL = 96, 14
PRIOR_STEPS = 10


class Checkpoint:
    """Both pipelines of an exported checkpoint, in float32 and quiet."""

    def __init__(
        self, folder: Path, *, guidance: float, prior_guidance: float, steps: int = 20
    ) -> None:
        self.prior = KandinskyV22PriorPipeline.from_pretrained(folder / "prior")
        self.decoder = KandinskyV22Pipeline.from_pretrained(folder / "decoder")
        self.prior.to(dtype=torch.float32)
        self.decoder.to(dtype=torch.float32)
        self.prior.set_progress_bar_config(disable=True)
        self.decoder.set_progress_bar_config(disable=True)
        self.guidance, self.steps = guidance, steps
        self.prior_guidance = prior_guidance

    def embed(self, prompts: list[str], seed: int = 0) -> Tensor:
        """Return image embeddings of prompts from the prior, ``[B, 256]``."""
        generator = torch.Generator().manual_seed(seed)
        output = self.prior(
            prompts,
            generator=generator,
            guidance_scale=self.prior_guidance,
            num_inference_steps=PRIOR_STEPS,
        )
        return output.image_embeds

    def nothing(self, count: int) -> Tensor:
        """Return the unconditional embedding, ``[count, 256]``."""
        return self.prior.get_zero_embed(count)

    def draw(self, embeds: Tensor, seed: int = 0) -> Tensor:
        """Return pictures of embeddings, ``[B, 3, 64, 64]``, 0 to 1."""
        output = self.decoder(
            image_embeds=embeds,
            negative_image_embeds=self.nothing(len(embeds)),
            guidance_scale=self.guidance,
            num_inference_steps=self.steps,
            height=augment.IMAGE_SIZE,
            width=augment.IMAGE_SIZE,
            generator=torch.Generator().manual_seed(seed),
            output_type="pt",
        )
        return (output.images / 2 + 0.5).clamp(0, 1).float()

    def picture(self, prompts: list[str], seed: int = 0) -> Tensor:
        """Return pictures of prompts, ``[B, 3, 64, 64]``, 0 to 1."""
        return self.draw(self.embed(prompts, seed=seed), seed=seed)


class TextCheckpoint:
    """The Stable-Diffusion form of an exported checkpoint, in float32 and quiet."""

    def __init__(self, folder: Path, *, guidance: float, steps: int = 20) -> None:
        folder = folder / "stable_diffusion"
        self.pipeline = StableDiffusionPipeline.from_pretrained(folder)
        self.pipeline.to(dtype=torch.float32)
        self.pipeline.set_progress_bar_config(disable=True)
        self.guidance, self.steps, self.folder = guidance, steps, folder

    def picture(self, prompts: list[str], seed: int = 0, **options: object) -> Tensor:
        """Return pictures of prompts, ``[B, 3, 64, 64]``, 0 to 1."""
        output = self.pipeline(
            prompts,
            guidance_scale=self.guidance,
            num_inference_steps=self.steps,
            generator=torch.Generator().manual_seed(seed),
            output_type="pt",
            **options,
        )
        return output.images.float()

    def load_adapter(self) -> None:
        """Let pictures be prompts too."""
        name = "ip_adapter.safetensors"
        self.pipeline.load_ip_adapter(
            str(self.folder), subfolder="ip_adapter", weight_name=name, local_files_only=True
        )

    def imitate(self, images: list[Image.Image], scale: float, prompt: str = "") -> Tensor:
        """Return a picture of each picture, ``[B, 3, 64, 64]``."""
        self.pipeline.set_ip_adapter_scale(scale)
        parts = [
            self.picture([prompt], seed=index, ip_adapter_image=image)
            for index, image in enumerate(images)
        ]
        return torch.cat(parts)


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


def mixtures(checkpoint: Checkpoint) -> Image.Image:
    """Return eight pairs of concepts, mixed in steps of a quarter."""
    pairs = [pair.split() for pair in PAIRS.split(",")]
    first = checkpoint.embed([prompt(a) for a, _ in pairs])
    second = checkpoint.embed([prompt(b) for _, b in pairs], seed=1)
    shares = torch.linspace(1, 0, 5)
    embeds = shares[None, :, None] * first[:, None] + (1 - shares)[None, :, None] * second[:, None]
    images = checkpoint.draw(embeds.flatten(0, 1))
    labels = [f"{a} {float(share):g} {b}" for a, b in pairs for share in shares]
    return tile(images, labels, columns=10)


def triples(checkpoint: Checkpoint) -> Image.Image:
    """Return eight triples of concepts: each alone, then the mean of all three at four seeds."""
    names = [triple.split() for triple in TRIPLES.split(",")]
    alone = torch.stack(
        [checkpoint.embed([prompt(name) for name in names[k]], seed=k) for k in range(len(names))]
    )
    mixed = alone.mean(1, keepdim=True).expand(-1, 4, -1)
    images = checkpoint.draw(torch.cat([alone, mixed], 1).flatten(0, 1), seed=2)
    labels = [label for row in names for label in (*row, *["all three"] * 4)]
    return tile(images, labels, columns=14)


def imitations(checkpoint: TextCheckpoint) -> Image.Image:
    """Return held-out drawings and what the IP-Adapter makes of each, three ways."""
    pictures = data.load()
    rows = pictures.rows(held_out=True)[::11][:16]
    generator = torch.Generator().manual_seed(0)
    drawings = augment.make_batch(pictures, rows, augment.CLEAN, generator).images
    inputs = [picture_of(drawing) for drawing in drawings]
    checkpoint.load_adapter()
    columns = [
        drawings,
        checkpoint.imitate(inputs, 1.0),
        checkpoint.imitate(inputs, 0.6),
        checkpoint.imitate(inputs, 0.6, "a picture of a castle"),
    ]
    checkpoint.pipeline.unload_ip_adapter()
    names = [pictures.concepts[int(pictures.concept[row])] for row in rows]
    labels = [t for name in names for t in (name, "scale 1", "scale 0.6", "0.6, castle")]
    return tile(torch.stack(columns, 1).flatten(0, 1), labels, columns=8)


def picture_of(image: Tensor) -> Image.Image:
    """Return ``[3, H, W]`` in 0 to 1 as a picture."""
    return Image.fromarray((image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())


def nearest(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the training drawing closest to each picture, and how far it is.

    Pixels are compared, on white and in both mirrorings.

    Returns:
        Drawings ``[B, 3, 64, 64]`` and root mean square distances ``[B]``, 0 to 1.
    """
    pictures = data.load()
    rows = pictures.rows(held_out=False)
    generator = torch.Generator().manual_seed(0)
    known = augment.make_batch(pictures, rows, augment.CLEAN, generator).images
    known = torch.cat([known, known.flip(-1)])
    distances = torch.cdist(images.flatten(1), known.flatten(1)) / images[0].numel() ** 0.5
    closest = distances.min(1)
    return known[closest.indices], closest.values


def memory(checkpoint: Checkpoint | TextCheckpoint, names: list[str]) -> Image.Image:
    """Return samples, each beside the training drawing that is closest to it."""
    images = checkpoint.picture([prompt(name) for name in names], seed=9)
    drawings, distances = nearest(images)
    pairs = torch.stack([images, drawings], dim=1).flatten(0, 1)
    labels = [
        label
        for name, distance in zip(names, distances.tolist(), strict=True)
        for label in (name, f"nearest, {distance:.2f}")
    ]
    return tile(pairs, labels, columns=16)


def save(sheet: Image.Image, path: Path) -> None:
    """Write a sheet small: 256 colours suffice to look at."""
    sheet.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Write ``sheet.png``; with ``--all`` also attributes, mixtures, seeds, nearest drawings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=data.work_folder() / "export")
    parser.add_argument("--out", type=Path, default=data.work_folder() / "sheets")
    parser.add_argument("--form", choices=("unclip", "stable_diffusion"), default="unclip")
    parser.add_argument("--prior-guidance", type=float, default=2.0)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--all", action="store_true", help="all sheets, not only the first")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    guidance, prior_guidance = options.guidance, options.prior_guidance
    is_unclip = options.form == "unclip"
    if is_unclip:
        checkpoint = Checkpoint(
            options.checkpoint, guidance=guidance, prior_guidance=prior_guidance
        )
    else:
        checkpoint = TextCheckpoint(options.checkpoint, guidance=guidance)
    start = "" if is_unclip else "sd-"

    def write(name: str, sheet: Image.Image) -> None:
        save(sheet, options.out / f"{start}{name}.png")

    images = checkpoint.picture([prompt(name) for name in PROMPTS])
    write("sheet", tile(images, PROMPTS, 8))
    if not options.all:
        return
    images = checkpoint.picture([prompt(name) for name in ATTRIBUTED])
    write("attributes", tile(images, [short(name) for name in ATTRIBUTED], 8))
    names = [name for name in SEEDED for _ in range(16)]
    write("seeds", tile(checkpoint.picture([prompt(name) for name in names], 3), names, 16))
    write("nearest", memory(checkpoint, list(data.concept_table())[::2][:64]))
    if is_unclip:
        write("mix", mixtures(checkpoint))
        write("mix3", triples(checkpoint))
    elif (checkpoint.folder / "ip_adapter").is_dir():
        write("images", imitations(checkpoint))


def short(label: str) -> str:
    """Return a label that fits above a picture.

    >>> short("car on a red background")
    'car on red'
    """
    return label.replace(" background", "").replace("on a ", "on ")


if __name__ == "__main__":
    main()
