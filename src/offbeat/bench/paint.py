"""CreativeSynth's claims on pocket, as a program: cells, tables, sheets.

A cell is one triple of artwork, content and text, painted by one way. The artworks are drawn by
the checkpoint itself, in several manners. Style is read by the bundled classifier, whose weights
no method has seen; the cosines are of pocket's own towers, which the image prompt hears too.
Source of the claims: CreativeSynth, arXiv:2401.14066; of the Gram matrices as style: Gatys et al.,
arXiv:1508.06576.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offbeat import formats, plots, registry
from offbeat._disk import json_bytes
from offbeat._painting import psnr
from offbeat._trained import make_method
from offbeat.backbones.stable_diffusion import StableDiffusionBackbone
from offbeat.backbones.unclip import UnclipBackbone
from offbeat.errors import UnknownNameError
from offbeat.functional import cosine
from offbeat.judges.classifier import ClassifierJudge
from offbeat.pictures import read_picture
from offbeat.rng import stream, streams
from offbeat.store import write_atomic
from offbeat.templates import article
from offbeat.types import Request

MANNERS = (
    "{a} on a blue background",
    "an outline drawing of {a}",
    "{a}",
    "{a} on a black background",
    "{a} on a yellow background",
    "a purple {x}",
)
"""How artworks are drawn: with ``a X``, or the bare word."""
ART_WORDS = ("castle", "tree", "butterfly", "sailboat", "mushroom", "fish", "house", "rose")
CONTENT_WORDS = ("strawberry", "owl", "car", "cat", "teapot", "pizza", "rocket", "frog",
                 "sunflower", "robot", "horse", "handbag")  # fmt: skip
NUM_TRIPLES = 24
NUM_ARTWORKS = 32
NUM_SHOWN = 6
STRENGTHS = (0.0, 0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.8, 1.0)
OTHER_TEXT = "a picture of a crown"
"""A text that contradicts the content."""
IMG2IMG_STRENGTH = 0.8
"""Share of the steps that plain img2img runs: as many as painting at pocket's strength, 0.4."""

Way = tuple[str, Mapping[str, Any] | None]
WAYS: dict[str, Way] = {
    "full": ("CreativeSynth, strength 0.4", {}),
    "no-art-bn": ("without ArtBN", {"with_art_bn": False}),
    "no-sharing": ("without shared attention", {"with_shared_attention": False}),
    "neither": (
        "without both",
        {"with_art_bn": False, "with_shared_attention": False},
    ),
    "no-inversion": ("without inversion", {"with_inversion": False}),
    "no-semantic": ("without the semantic branch", {"with_semantic": False}),
    "as-printed": ("ArtBN as printed", {"art_bn_direction": "as_printed"}),
    "third-stream": ("with the content's own stream", {"with_content_stream": True}),
    "published": ("strength 0.5, the published start", {"strength": 0.5}),
    "near": ("strength 0.3", {"strength": 0.3}),
    "far": ("strength 1", {"strength": 1.0}),
    "img2img": (f"plain img2img of the artwork, strength {IMG2IMG_STRENGTH:g}", None),
    "ip-adapter": ("IP-Adapter alone, scale 0.6", None),
    "magicmix": ("MagicMix of the artwork and the word", None),
}
INVERSIONS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "plain": ("nothing said", {}),
    "once": ("nothing said, each step refined once", {"num_refinements": 1}),
    "text": ("its prompt said, guidance 1", {"art_prompt": "{prompt}"}),
    "text-5": (
        "its prompt said, guidance 5",
        {"art_prompt": "{prompt}", "inversion_guidance_scale": 5.0},
    ),
}


@dataclass(frozen=True, slots=True)
class Triple:
    """What is painted into what, and the seeds that draw both."""

    number: int
    art_prompt: str
    word: str

    @property
    def text(self) -> str:
        """What is said of the picture; the content is drawn from it too."""
        return f"a picture of {article(self.word)} {self.word}"


def triples(num: int) -> list[Triple]:
    """Return the first ``num`` triples: every manner with every content word, in turn."""
    found = []
    for number in range(num):
        manner = MANNERS[number % len(MANNERS)]
        word = ART_WORDS[(number + number // len(MANNERS)) % len(ART_WORDS)]
        thing = f"{article(word)} {word}"
        prompt = manner.format(a=thing, x=word)
        prompt = prompt if manner.startswith("an outline") else f"a picture of {prompt}"
        content = CONTENT_WORDS[(number + number // len(CONTENT_WORDS)) % len(CONTENT_WORDS)]
        found.append(Triple(number, prompt, content))
    return found


def run(out: Path, *, threads: int, part: tuple[int, int], backbone: str = "pocket-sd") -> None:
    """Compute missing cells, then write ``table.md``, ``paint.png`` and the other sheets."""
    torch.set_num_threads(threads)
    lab = Lab(StableDiffusionBackbone.load(backbone), out)
    index, count = part
    for triple in triples(NUM_TRIPLES):
        for name in WAYS:
            if triple.number % count == index:
                lab.cell(name, triple)
    for triple in triples(NUM_ARTWORKS):
        for name in INVERSIONS:
            if triple.number % count == index:
                lab.inversion(name, triple)
    if index == 0:
        write_atomic(out / "table.md", table(lab).encode())
        write_atomic(out / "paint.png", _ways_sheet(lab))
        write_atomic(out / "paint-strength.png", _strength_sheet(lab))
        write_atomic(out / "paint-tasks.png", _tasks_sheet(lab))


class Lab:
    """A checkpoint, what reads its pictures, and a folder of cells."""

    def __init__(self, backbone: StableDiffusionBackbone, out: Path) -> None:
        self.backbone, self.out = backbone, out
        self.towers = UnclipBackbone.load("pocket")
        self.judge = ClassifierJudge.load(self.towers.card["judge"])
        self.size = int(backbone.card["height"])

    def picture(self, prompt: str, seed: int, purpose: str) -> Tensor:
        """Return a picture of a prompt, ``[3, H, W]``, drawn by the plain pipeline."""
        with torch.no_grad():
            text = self.backbone.encode_text([prompt])
            return self.backbone.draw_text(text, generator=streams(seed, purpose, num=1))[0]

    def given(self, triple: Triple) -> tuple[Tensor, Tensor]:
        """Return artwork and content of a triple."""
        art = self.picture(triple.art_prompt, triple.number, "art")
        return art, self.picture(triple.text, triple.number, "content")

    def cell(self, name: str, triple: Triple) -> dict[str, Any] | None:
        """Return what was read in one painted picture, computed or from its file."""
        file = self.out / "cells" / name / f"{triple.number:02d}.json"
        if (found := self._kept(file)) is not None:
            return found
        art, content = self.given(triple)
        image = self.painted(name, triple, art, content)
        if image is None:
            return None
        found = {"fingerprint": self.backbone.fingerprint, **self.read(image, triple, art, content)}
        file.parent.mkdir(parents=True, exist_ok=True)
        formats.to_pil(image[None])[0].save(file.with_suffix(".png"))
        write_atomic(file, json_bytes(found))
        return found

    def inversion(self, name: str, triple: Triple) -> dict[str, Any]:
        """Return how well one artwork is reconstructed, computed or from its file."""
        file = self.out / "inversions" / name / f"{triple.number:02d}.json"
        if (found := self._kept(file)) is not None:
            return found
        art = self.picture(triple.art_prompt, triple.number, "art")
        settings = {
            key: value.format(prompt=triple.art_prompt) if isinstance(value, str) else value
            for key, value in INVERSIONS[name][1].items()
        }
        method = make_method("creativesynth", self.backbone, settings)
        back = method.reconstruct(self.backbone, method.invert(self.backbone, art))
        with torch.no_grad():
            alone = self.backbone.decode(self.backbone.encode_latents(art[None]))[0]
        found = {
            "fingerprint": self.backbone.fingerprint,
            "psnr": psnr(back, art),
            "ceiling": psnr(alone, art),
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json_bytes(found))
        return found

    def _kept(self, file: Path) -> dict[str, Any] | None:
        if not file.exists():
            return None
        found: dict[str, Any] = json.loads(file.read_text())
        return found if found["fingerprint"] == self.backbone.fingerprint else None

    @torch.no_grad()
    def painted(self, name: str, triple: Triple, art: Tensor, content: Tensor) -> Tensor | None:
        """Return one picture by one way, ``[3, H, W]``; None where the method is not there."""
        settings = WAYS[name][1]
        if settings is not None:
            method = make_method("creativesynth", self.backbone, dict(settings))
            request = Request(
                subject=triple.word, prompt=triple.text, num_images=1, seed=triple.number
            )
            images: Tensor = method.paint(self.backbone, request, art, content=content)
            return images[0]
        plain: dict[str, Callable[[Triple, Tensor, Tensor], Tensor | None]] = {
            "img2img": self._img2img,
            "ip-adapter": self._ip_adapter,
            "magicmix": self._magicmix,
        }
        return plain[name](triple, art, content)

    def _img2img(self, triple: Triple, art: Tensor, content: Tensor) -> Tensor:
        """Return the artwork with noise on it, denoised under the text."""
        own, noise = self._own(), stream(triple.number, "image", 0)
        start = round((1 - IMG2IMG_STRENGTH) * own["num_inference_steps"])
        steps = {"num_inference_steps": own["num_inference_steps"]}
        clean = self.backbone.encode_latents(art[None])
        drawn = torch.randn(clean.shape, generator=noise)
        latents = self.backbone.denoise(
            self.backbone.add_noise(clean, drawn, step=start, **steps),
            self.backbone.encode_text([triple.text]),
            generator=noise,
            guidance_scale=own["guidance_scale"],
            start=start,
            **steps,
        )
        return self.backbone.decode(latents)[0]

    def _ip_adapter(self, triple: Triple, art: Tensor, content: Tensor) -> Tensor:
        """Return the plain pipeline's picture of text and content; the artwork has no say."""
        return self.backbone.draw_text(
            self.backbone.encode_text([triple.text]),
            generator=streams(triple.number, "image", num=1),
            image_embeds=self.backbone.encode_image(content[None]),
            ip_adapter_scale=0.6,
            **self._own(),
        )[0]

    def _own(self) -> dict[str, Any]:
        """Return CreativeSynth's steps and guidance, for the plain ways too."""
        config = make_method("creativesynth", self.backbone, {}).config
        names = ("num_inference_steps", "guidance_scale")
        return {name: getattr(config, name) for name in names}

    def _magicmix(self, triple: Triple, art: Tensor, content: Tensor) -> Tensor | None:
        """Return MagicMix's picture: the artwork as layout, the word as content."""
        try:
            registry.find("method", "magicmix")
        except UnknownNameError:
            return None
        method = make_method("magicmix", self.backbone, {})
        weights = (("artwork", 0.5), (triple.word, 0.5))
        request = Request(subject=triple.word, weights=weights, num_images=1, seed=triple.number)
        images: Tensor = method.mix(self.backbone, request, (art, triple.word))
        return images[0]

    @torch.no_grad()
    def read(self, image: Tensor, triple: Triple, art: Tensor, content: Tensor) -> dict[str, float]:
        """Return style similarity to the artwork, and cosines to text, content and artwork."""
        both = torch.stack([image, art, content])
        embeds = self.towers.encode_image(both)
        text = self.towers.encode_text([triple.text]).text_embeds
        labels = list(self.judge.labels)
        probabilities = self.judge.class_probabilities(image[None])[0]
        return {
            "style": style_similarity(
                self.judge.features(both[:1]), self.judge.features(both[1:2])
            ),
            "text": float(cosine(embeds[:1], text)),
            "content": float(cosine(embeds[:1], embeds[2:])),
            "art": float(cosine(embeds[:1], embeds[1:2])),
            "judge": float(probabilities[labels.index(triple.word)]),
        }


def style_similarity(features: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    """Return how alike the Gram matrices of two pictures' features are, 0 to 1.

    Args:
        features: One tensor ``[1, C, h, w]`` for each stage of a network.
        others: The same of the other picture.

    Returns:
        Mean over the stages of ``1 - |G1 - G2| / (|G1| + |G2|)``, norms of Frobenius.
    """
    found = []
    for one, other in zip(features, others, strict=True):
        first, second = (_gram(part) for part in (one, other))
        gap = (first - second).norm() / (first.norm() + second.norm()).clamp(min=1e-12)
        found.append(1 - float(gap))
    return statistics.mean(found)


def _gram(features: Tensor) -> Tensor:
    flat = features[0].flatten(1)  # [C, h * w]
    return flat @ flat.T / flat.numel()


def table(lab: Lab) -> str:
    """Return the tables in Markdown, of the cells that are there."""
    lines = [
        "| way | style: artwork | less than the first | cosine: text | content | artwork "
        "| judge: the word |",
        f"|{' --- |' * 7}",
    ]
    notes, first = [], [row["style"] for row in _rows(lab, "cells", "full")]
    for name, (label, _) in WAYS.items():
        rows = _rows(lab, "cells", name)
        if not rows:
            notes.append(f"{label}: not there.")
            continue
        parts = [_spread([row[key] for row in rows]) for key in _READINGS]
        less = [one - row["style"] for one, row in zip(first, rows, strict=False)]
        parts.insert(1, "" if name == "full" else _spread(less))
        lines.append(f"| {label} | {' | '.join(parts)} |")
    lines += [
        "",
        f"Mean of {NUM_TRIPLES} triples, ± standard error.{' '.join(['', *notes])}",
        "",
        "| inversion, 30 steps | PSNR, dB | lowest | below the autoencoder, dB |",
        "| --- | --- | --- | --- |",
    ]
    for name, (label, _) in INVERSIONS.items():
        rows = _rows(lab, "inversions", name)
        if rows:
            values = [row["psnr"] for row in rows]
            gaps = [row["ceiling"] - row["psnr"] for row in rows]
            lines.append(
                f"| {label} | {_spread(values, 1)} | {min(values):.1f} | {_spread(gaps, 1)} |"
            )
    ceilings = [row["ceiling"] for row in _rows(lab, "inversions", "plain")]
    if ceilings:
        lines += [
            "",
            f"{len(ceilings)} artworks; the autoencoder alone: {_spread(ceilings, 1)} dB, lowest "
            f"{min(ceilings):.1f}.",
        ]
    return "\n".join(lines) + "\n"


_READINGS = ("style", "text", "content", "art", "judge")


def _rows(lab: Lab, group: str, name: str) -> list[dict[str, Any]]:
    files = sorted((lab.out / group / name).glob("*.json"))
    return [json.loads(file.read_text()) for file in files]


def _spread(values: Sequence[float], digits: int = 3) -> str:
    """Return the mean, and its standard error."""
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.{digits}f} ± {error:.{digits}f}"


def _ways_sheet(lab: Lab) -> bytes:
    """Return a sheet of every fourth triple: artwork, content, and a row for each way."""
    shown = triples(NUM_TRIPLES)[:: NUM_TRIPLES // NUM_SHOWN]
    given = [lab.given(triple) for triple in shown]
    rows = [
        ("artwork", formats.to_pil(torch.stack([art for art, _ in given]))),
        ("content", formats.to_pil(torch.stack([content for _, content in given]))),
    ]
    for name, (label, _) in WAYS.items():
        files = [lab.out / "cells" / name / f"{triple.number:02d}.png" for triple in shown]
        if all(file.exists() for file in files):
            images = torch.stack([read_picture(file, size=lab.size) for file in files])
            rows.append((label, formats.to_pil(images)))
    captions = [triple.word for triple in shown]
    title = "A content and its word, painted into an artwork on pocket"
    return plots.png_of(plots.contact_sheet(rows, captions=captions, title=title))


def _strength_sheet(lab: Lab) -> bytes:
    """Return a sheet of the dial: a row for each of some triples."""
    rows = []
    for triple in triples(NUM_TRIPLES)[:: NUM_TRIPLES // NUM_SHOWN]:
        art, content = lab.given(triple)
        images = [art, content]
        for strength in STRENGTHS:
            method = make_method("creativesynth", lab.backbone, {"strength": strength})
            request = Request(
                subject=triple.word, prompt=triple.text, num_images=1, seed=triple.number
            )
            images.append(method.paint(lab.backbone, request, art, content=content)[0])
        rows.append((triple.text, formats.to_pil(torch.stack(images))))
    captions = ["artwork", "content", *(f"strength {strength:g}" for strength in STRENGTHS)]
    return plots.png_of(
        plots.contact_sheet(rows, captions=captions, title="Strength", max_columns=len(captions))
    )


def _tasks_sheet(lab: Lab) -> bytes:
    """Return a sheet of the five tasks: a row for each of some artworks."""
    rows = []
    for triple in triples(NUM_TRIPLES)[1 :: NUM_TRIPLES // NUM_SHOWN]:
        art, content = lab.given(triple)
        images, method = [art, content], make_method("creativesynth", lab.backbone, {})
        tasks = ((None, None), (None, triple.text), (content, None), (content, triple.text))
        for shown, text in (*tasks, (content, OTHER_TEXT)):
            request = Request(subject="", prompt=text, num_images=1, seed=triple.number)
            images.append(method.paint(lab.backbone, request, art, content=shown)[0])
        rows.append((triple.text, formats.to_pil(torch.stack(images))))
    captions = ["artwork", "content", "varied", "by the text", "by the content", "by both",
                "content, a crown"]  # fmt: skip
    return plots.png_of(plots.contact_sheet(rows, captions=captions, title="The five tasks"))
