"""Draw sheets of a checkpoint to look at: ``python -m recipes.pocket.sheets --checkpoint DIR``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from diffusers import KandinskyV22Pipeline, KandinskyV22PriorPipeline
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
]
PAIRS = (
    "pig snake,owl snail,lion banana,castle strawberry,car shark,cat butterfly,chair octopus,"
    "handbag pineapple"
)
CELL, LABEL = 128, 14
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
        array = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        cell = Image.fromarray(array).resize((CELL, CELL), Image.Resampling.BICUBIC)
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


def memory(checkpoint: Checkpoint, names: list[str]) -> Image.Image:
    """Return samples, each beside the training drawing that is closest to it."""
    images = checkpoint.draw(checkpoint.embed([prompt(name) for name in names], seed=9), seed=9)
    drawings, distances = nearest(images)
    pairs = torch.stack([images, drawings], dim=1).flatten(0, 1)
    labels = [
        label
        for name, distance in zip(names, distances.tolist(), strict=True)
        for label in (name, f"nearest, {distance:.2f}")
    ]
    return tile(pairs, labels, columns=16)


def main() -> None:
    """Write ``sheet.png``; with ``--all`` also mixtures, seeds, and the nearest drawings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=data.work_folder() / "export")
    parser.add_argument("--out", type=Path, default=data.work_folder() / "sheets")
    parser.add_argument("--prior-guidance", type=float, default=2.0)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--all", action="store_true", help="mixtures and seeds too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    checkpoint = Checkpoint(
        options.checkpoint, guidance=options.guidance, prior_guidance=options.prior_guidance
    )
    embeds = checkpoint.embed([prompt(name) for name in PROMPTS])
    tile(checkpoint.draw(embeds), PROMPTS, 8).save(options.out / "sheet.png")
    if options.all:
        names = list(data.concept_table())[::2][:64]
        memory(checkpoint, names).save(options.out / "nearest.png")
        mixtures(checkpoint).save(options.out / "mix.png")
        names = [name for name in ("handbag", "cat", "car", "dinosaur") for _ in range(16)]
        embeds = checkpoint.embed([prompt(name) for name in names], seed=3)
        tile(checkpoint.draw(embeds, seed=3), names, 16).save(options.out / "seeds.png")


if __name__ == "__main__":
    main()
