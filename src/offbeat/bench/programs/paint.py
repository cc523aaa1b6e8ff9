"""Paint content into an artwork: ablations of the method beside plain ways.

The artworks are drawn by the checkpoint itself, in several manners. Style is read by the features
of a judge that no method has seen; the cosines are of a CLIP pair of towers, which the image
prompt hears too. Sources: CreativeSynth, arXiv:2401.14066; Gram matrices as style: Gatys et al.,
arXiv:1508.06576.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offbeat.bench.cells import Item
from offbeat.bench.lab import Lab, Outcome, spending
from offbeat.bench.spec import Table, Way
from offbeat.checkpoints.open import load_backbone
from offbeat.core.functional import cosine
from offbeat.core.rng import stream, streams
from offbeat.core.templates import article
from offbeat.errors import ConfigError
from offbeat.methods.settings import config_of, make_method
from offbeat.types import Request
from offbeat.verbs.paint import psnr

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


@dataclass(frozen=True, slots=True)
class Triple:
    """An artwork, a content and a text; its number seeds both pictures."""

    number: int
    art_prompt: str
    word: str

    @property
    def text(self) -> str:
        """The prompt; the content picture is drawn from it too."""
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


class Paint:
    """Cells of a triple of artwork, content and text; items are ``{triples: N}``.

    A way's ``form`` is one of ``FORMS``; its ``prompt`` says another text, ``none`` nothing.
    """

    def __init__(self, table: Table, lab: Lab) -> None:
        self.table, self.lab = table, lab
        if not hasattr(lab.backbone, "encode_image"):
            raise ConfigError(f"paint: {lab.backbone.name} cannot read pictures as prompts")
        # pocket's two forms share one image space, and the first has the text tower of it
        towers = table.options.get("towers")
        self.towers = load_backbone(towers) if towers else lab.backbone

    def items(self) -> list[Item]:
        """Return the triples."""
        num = int(self.table.items["triples"])
        return [Item(f"{one.word} {one.number}", one) for one in triples(num)]

    def key(self, way: Way) -> Mapping[str, Any]:
        """Return the method's settings."""
        method = way.method or "creativesynth"
        found = make_method(method, self.lab.backbone, dict(way.set) if way.method else {})
        return {"config": config_of(found), "towers": self.towers.fingerprint}

    @torch.no_grad()
    def cell(self, way: Way, item: Item, seed: int) -> Outcome:
        """Paint and read."""
        triple: Triple = item.value
        art = self._drawn(triple.art_prompt, triple.number, "art")
        content = self._drawn(triple.text, triple.number, "content")
        started = time.perf_counter()
        with spending(self.lab.backbone) as spent:
            image = self._painted(way, triple, art, content)
        seconds = time.perf_counter() - started
        return Outcome(
            readings=self._read(way, image, triple, art, content),
            images=image[None].cpu(),
            texts=(triple.text,),
            references=torch.stack([art, content]),
            evaluations=spent.total,
            seconds=seconds,
        )

    def _drawn(self, prompt: str, seed: int, purpose: str) -> Tensor:
        """Return a picture of a prompt, ``[3, H, W]``, drawn by the plain pipeline."""
        backbone = self.lab.backbone
        text = backbone.encode_text([prompt])
        found: Tensor = backbone.draw_text(text, generator=streams(seed, purpose, num=1))[0]
        return found

    def _painted(self, way: Way, triple: Triple, art: Tensor, content: Tensor) -> Tensor:
        plain = {
            "": self._by_method,
            "no-content": self._by_method,
            "reconstruct": self._reconstructed,
            "artwork": lambda way, triple, art, content: art,
            "content": lambda way, triple, art, content: content,
            "img2img": self._img2img,
            "ip-adapter": self._ip_adapter,
        }
        if way.form not in plain:
            raise ConfigError(f"form: expected one of {', '.join(plain)}, got {way.form!r}")
        found: Tensor = plain[way.form](way, triple, art, content)
        return found

    def _by_method(self, way: Way, triple: Triple, art: Tensor, content: Tensor) -> Tensor:
        settings = {
            k: v.format(prompt=triple.art_prompt) if isinstance(v, str) else v
            for k, v in way.set.items()
        }
        method = make_method(way.method, self.lab.backbone, settings)
        text = None if way.prompt == "none" else way.prompt or triple.text
        request = Request(subject=triple.word, prompt=text, num_images=1, seed=triple.number)
        if hasattr(method, "paint"):
            shown = None if way.form == "no-content" else content
            found: Tensor = method.paint(self.lab.backbone, request, art, content=shown)
            return found[0]
        weights = (("artwork", 0.5), (triple.word, 0.5))
        request = Request(subject=triple.word, weights=weights, num_images=1, seed=triple.number)
        mixed: Tensor = method.mix(self.lab.backbone, request, (art, triple.word))
        return mixed[0]

    def _reconstructed(self, way: Way, triple: Triple, art: Tensor, content: Tensor) -> Tensor:
        settings = {
            k: v.format(prompt=triple.art_prompt) if isinstance(v, str) else v
            for k, v in way.set.items()
        }
        method = make_method(way.method, self.lab.backbone, settings)
        found: Tensor = method.reconstruct(self.lab.backbone, method.invert(self.lab.backbone, art))
        return found

    def _img2img(self, way: Way, triple: Triple, art: Tensor, content: Tensor) -> Tensor:
        """Return the artwork after image-to-image with the text."""
        backbone, own = self.lab.backbone, self._own()
        noise = stream(triple.number, "image", 0)
        steps = {"num_inference_steps": own["num_inference_steps"]}
        start = round((1 - float(way.set.get("strength", 0.8))) * own["num_inference_steps"])
        clean = backbone.encode_latents(art[None])
        drawn = torch.randn(clean.shape, generator=noise)
        latents = backbone.denoise(
            backbone.add_noise(clean, drawn, step=start, **steps),
            backbone.encode_text([triple.text]),
            generator=noise,
            guidance_scale=own["guidance_scale"],
            start=start,
            **steps,
        )
        found: Tensor = backbone.decode(latents)[0]
        return found

    def _ip_adapter(self, way: Way, triple: Triple, art: Tensor, content: Tensor) -> Tensor:
        """Return the plain pipeline's picture of text and content, without the artwork."""
        backbone = self.lab.backbone
        found: Tensor = backbone.draw_text(
            backbone.encode_text([triple.text]),
            generator=streams(triple.number, "image", num=1),
            image_embeds=backbone.encode_image(content[None]),
            ip_adapter_scale=float(way.set.get("scale", 0.6)),
            **self._own(),
        )[0]
        return found

    def _own(self) -> dict[str, Any]:
        """Return CreativeSynth's steps and guidance, which the plain ways use too."""
        config = make_method("creativesynth", self.lab.backbone, {}).config
        return {name: getattr(config, name) for name in ("num_inference_steps", "guidance_scale")}

    def _read(
        self, way: Way, image: Tensor, triple: Triple, art: Tensor, content: Tensor
    ) -> dict[str, float]:
        """Return style similarity to the artwork, and cosines to text, content and artwork."""
        backbone, reader = self.lab.backbone, self.lab.reader
        if way.form == "reconstruct":
            alone = backbone.decode(backbone.encode_latents(art[None]))[0]
            ceiling = psnr(alone, art)
            return {"psnr": (own := psnr(image, art)), "ceiling": ceiling, "lost": ceiling - own}
        both = torch.stack([image, art, content])
        embeds = self.towers.encode_image(both)
        text = self.towers.encode_text([triple.text]).text_embeds
        found = {
            "text": float(cosine(embeds[:1], text)),
            "content": float(cosine(embeds[:1], embeds[2:])),
            "art": float(cosine(embeds[:1], embeds[1:2])),
        }
        if hasattr(reader, "features"):
            pairs = reader.features(both[:1]), reader.features(both[1:2])
            found["style"] = style_similarity(*pairs)
        labels = list(reader.labels)
        if triple.word in labels:
            read = reader.class_probabilities(image[None])[0]
            found["named"] = float(read[labels.index(triple.word)])
        return found


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
