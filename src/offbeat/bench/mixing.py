"""How well pocket's mixtures of two words are both: figures and sheets, as a program.

A cell is one pair of words, mixed by one way from several seeds. Cosines are of pocket's own image
tower, which BASS and AGSwap search by: they flatter these two. The classifier is of other weights,
and no method has seen it.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offbeat import formats, plots
from offbeat._disk import json_bytes
from offbeat._mixture import likeness
from offbeat._pictures_out import plain_concept_of
from offbeat._readings import choose_reader, read
from offbeat._trained import make_method
from offbeat.backbones.stable_diffusion import StableDiffusionBackbone
from offbeat.methods._morphing import blended_text, equal_steps
from offbeat.pictures import read_picture
from offbeat.rng import streams
from offbeat.store import write_atomic
from offbeat.types import Request

PAIRS = (
    ("dog", "pineapple"),
    ("cat", "castle"),
    ("car", "strawberry"),
    ("owl", "sunflower"),
    ("frog", "teapot"),
    ("handbag", "lion"),
    ("house", "octopus"),
    ("mushroom", "penguin"),
)
SEED, NUM_SEEDS = 1, 3
NUM_FRAMES = 8
WAYS = {
    "first": "the first word alone",
    "second": "the second word alone",
    "prompt": 'the prompt "a picture of a X Y"',
    "mean": "the mean of both text embeddings",
    "magicmix": "MagicMix",
    "bass": "BASS",
    "agswap": "AGSwap, our reading",
    "diffmorpher": "DiffMorpher, the middle of the path",
}


def psnr(images: Tensor, wanted: Tensor) -> list[float]:
    """Return the peak signal-to-noise ratio of each picture, in dB."""
    error = (images.clamp(0, 1) - wanted).square().flatten(1).mean(dim=1)
    return (-10 * error.clamp_min(1e-10).log10()).tolist()


def run(out: Path, *, threads: int) -> None:
    """Compute missing cells, then write the tables and the sheets."""
    torch.set_num_threads(threads)
    lab = _Lab(StableDiffusionBackbone.load("pocket-sd"), out)
    for pair in PAIRS:
        for way in WAYS:
            if lab.compute(way, pair):
                print(f"{way} {' '.join(pair)}", flush=True)
        lab.morph(pair)
        lab.ends(pair)
    lab.write()


class _Lab:
    """A checkpoint, its judge, and where cells are kept."""

    def __init__(self, backbone: StableDiffusionBackbone, out: Path) -> None:
        self.backbone, self.out = backbone, out
        self.judge = choose_reader("classifier", backbone)

    def _file(self, way: str, pair: Sequence[str]) -> Path:
        return self.out / "cells" / f"{way}-{'-'.join(pair)}"

    def compute(self, way: str, pair: tuple[str, str]) -> bool:
        """Draw and read one cell, unless it is there."""
        file = self._file(way, pair)
        if file.with_suffix(".json").exists():
            return False
        parents = [self._alone(word) for word in pair]
        begun = time.perf_counter()
        images = self._draw(way, pair, parents)
        seconds = (time.perf_counter() - begun) / NUM_SEEDS
        cosines = likeness(self.backbone, images, parents)
        probabilities = read(self.judge, images)
        if cosines is None or probabilities is None or self.judge is None:
            raise RuntimeError("pocket-sd brings an image encoder and a classifier")
        shares = probabilities[:, [self.judge.labels.index(word) for word in pair]]
        top = probabilities.topk(5, dim=1).indices
        both = [all(self.judge.labels.index(word) in row for word in pair) for row in top.tolist()]
        found = {
            "first": cosines[0].tolist(),
            "second": cosines[1].tolist(),
            "shares": shares.tolist(),
            "both_in_top_5": both,
            "seconds": seconds,
        }
        self._keep(file, images, {"way": way, "pair": list(pair)})
        write_atomic(file.with_suffix(".json"), json_bytes(found))  # last: the cell is whole
        return True

    @torch.no_grad()
    def _alone(self, word: str) -> Tensor:
        text = self.backbone.encode_text([plain_concept_of(word, self.backbone).prompt()])
        noise = streams(SEED, "image", "decoder", num=NUM_SEEDS)
        return self.backbone.draw_text(text, generator=noise)

    @torch.no_grad()
    def _text(self, way: str, pair: tuple[str, str]) -> Any:
        if way == "prompt":
            words = plain_concept_of(" ".join(pair), self.backbone).prompt()
            return self.backbone.encode_text([words])
        one, two = (
            self.backbone.encode_text([plain_concept_of(word, self.backbone).prompt()])
            for word in pair
        )
        return blended_text(one, two, torch.tensor([0.5]))

    def morph(self, pair: tuple[str, str]) -> None:
        """Draw the path between two words' pictures, unless it is there."""
        file = self._file("path", pair)
        if file.with_suffix(".json").exists():
            return
        method = make_method("diffmorpher", self.backbone, None)
        request = Request(subject=" + ".join(pair), num_images=1, seed=SEED)
        frames: Tensor = method.morph(self.backbone, request, pair, num=NUM_FRAMES)[0]
        self._keep(file, frames, {"way": "path", "pair": list(pair)})
        write_atomic(file.with_suffix(".json"), json_bytes({"frames": NUM_FRAMES}))

    @torch.no_grad()
    def ends(self, pair: tuple[str, str]) -> None:
        """Measure how exactly a path's ends are the pictures again, and how even its steps are."""
        file = self._file("ends", pair).with_suffix(".json")
        if file.exists():
            return
        pictures = [self._alone(word)[:1] for word in pair]
        both = torch.cat(pictures)
        ceiling = self.backbone.decode(self.backbone.encode_latents(both))
        found: dict[str, Any] = {"autoencoder": psnr(ceiling, both)}
        request = Request(subject=" + ".join(pair), num_images=1, seed=SEED)
        for name, settings in (("without LoRA", {"num_steps": 0}), ("with LoRA", {})):
            method = make_method("diffmorpher", self.backbone, settings)
            ends = method.ends(self.backbone, request, pair, pictures)
            shares = torch.linspace(0, 1, NUM_FRAMES)
            frames = method.frames(self.backbone, ends, shares[None])[0]
            found[name] = psnr(frames[[0, -1]], both)
            if not settings:
                even = equal_steps(shares, self._steps(frames))
                again = method.frames(self.backbone, ends, even[None])[0]
                steps = self._steps(frames), self._steps(again)
                found["unevenness"] = [float(one.max() / one.mean()) for one in steps]
        write_atomic(file, json_bytes(found))

    def _steps(self, frames: Tensor) -> Tensor:
        latents = self.backbone.encode_latents(frames)
        return (latents[1:] - latents[:-1]).flatten(1).square().mean(dim=1).sqrt()

    def _keep(self, file: Path, images: Tensor, recipe: dict[str, Any]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(formats.to_pil(images)):
            data = formats.encode_png(picture, recipe)
            write_atomic(file.with_name(f"{file.name}-{number}.png"), data)

    def _pictures(self, way: str, pair: Sequence[str], num: int) -> list[Any]:
        files = [f"{self._file(way, pair)}-{number}.png" for number in range(num)]
        return formats.to_pil(torch.stack([read_picture(file, size=64) for file in files]))

    def _draw(self, way: str, pair: tuple[str, str], parents: list[Tensor]) -> Tensor:
        if way in ("first", "second"):
            return parents[way == "second"]
        if way in ("prompt", "mean"):
            noise = streams(SEED, "image", "decoder", num=NUM_SEEDS)
            with torch.no_grad():
                return self.backbone.draw_text(self._text(way, pair), generator=noise)
        request = Request(
            subject=" + ".join(pair),
            weights=tuple((word, 0.5) for word in pair),
            num_images=NUM_SEEDS,
            seed=SEED,
        )
        method = make_method(way, self.backbone, None)
        images: Tensor = method.mix(self.backbone, request, pair, pictures=parents)
        return images

    def _cell(self, way: str, pair: Sequence[str]) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._file(way, pair).with_suffix(".json").read_text())
        return found

    def write(self) -> None:
        """Write the table, and a sheet of the first seed."""
        head = (
            "| way | cosine to the first | to the second | lower | difference | classifier: sum | "
            "lower | both in its top 5 | seconds a picture |\n" + "| --- " * 9 + "|\n"
        )
        rows = "".join(self._row(way) for way in WAYS)
        write_atomic(self.out / "table.md", (head + rows).encode())
        write_atomic(self.out / "ends.md", self._ends().encode())
        pictures = [
            (name, [self._pictures(way, pair, 1)[0] for pair in PAIRS])
            for way, name in WAYS.items()
        ]
        captions = ["\n".join(pair) for pair in PAIRS]
        note = f"One seed of {NUM_SEEDS}, not chosen; each column is drawn from the same noise."
        found = plots.contact_sheet(pictures, captions=captions, note=note)
        write_atomic(self.out / "mixing.png", plots.png_of(found))
        paths = [(" to ".join(pair), self._pictures("path", pair, NUM_FRAMES)) for pair in PAIRS]
        write_atomic(self.out / "morph.png", plots.png_of(plots.contact_sheet(paths)))

    def _ends(self) -> str:
        cells = [self._cell("ends", pair) for pair in PAIRS]
        text = "| both ends against their pictures | mean PSNR, dB | worst |\n| --- | --- | --- |\n"
        for name in ("autoencoder", "without LoRA", "with LoRA"):
            values = [value for cell in cells for value in cell[name]]
            text += f"| {name} | {statistics.fmean(values):.1f} | {min(values):.1f} |\n"
        text += "\n| steps of a path | largest over mean | worst pair |\n| --- | --- | --- |\n"
        for number, name in enumerate(("even shares", "rescheduled")):
            values = [cell["unevenness"][number] for cell in cells]
            text += f"| {name} | {statistics.fmean(values):.2f} | {max(values):.2f} |\n"
        return text

    def _row(self, way: str) -> str:
        cells = [self._cell(way, pair) for pair in PAIRS]
        first, second = (
            torch.tensor([value for cell in cells for value in cell[side]])
            for side in ("first", "second")
        )
        shares = torch.tensor([pair for cell in cells for pair in cell["shares"]])
        both = [hit for cell in cells for hit in cell["both_in_top_5"]]
        seconds = statistics.median(cell["seconds"] for cell in cells)
        alone = way in ("first", "second")
        return (
            f"| {WAYS[way]} | {first.mean():.2f} | {second.mean():.2f} | "
            f"{first.minimum(second).mean():.2f} | {(first - second).abs().mean():.2f} | "
            f"{shares.sum(dim=1).mean():.2f} | {shares.amin(dim=1).mean():.3f} | "
            f"{statistics.fmean(both):.0%} | {'' if alone else f'{seconds:.1f}'} |\n"
        ).replace("%", " %")
