"""Paint content, from a photograph or a text, into an artwork."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from offbeat.checkpoints.placement import Where
from offbeat.core.checks import check_shape
from offbeat.core.threads import few_threads
from offbeat.errors import CapabilityError, ConfigError
from offbeat.files.cache import cached
from offbeat.files.png import to_pil
from offbeat.methods.settings import config_of
from offbeat.protocols import PaintingBackbone, TextBackbone
from offbeat.protocols.capabilities import backbones_with
from offbeat.runs.images import BY_METHOD, GIVEN, png_files, sheet, source_files
from offbeat.runs.result import Run, costed
from offbeat.types import Concept, Observe, Request, ignore
from offbeat.verbs.pictures import Picture, PictureLike
from offbeat.verbs.session import Session, check_numbers, checked_text, conditions_of

if TYPE_CHECKING:
    from PIL import Image

POOR_DB, POOR_LOSS_DB = 25.0, 6.0
"""A reconstruction is poor if its PSNR is below the first, and by the second below the ceiling."""

MAX_DB = 99.0
"""What stands for the PSNR of pictures that are the same."""

COLUMNS = 9


MAX_SWEEP = 64


@costed
def paint(
    art: PictureLike,
    content: PictureLike | None = None,
    prompt: str | None = None,
    *,
    method: str = "creativesynth",
    strength: float | None = None,
    sweep: int | Sequence[float] | None = None,
    num_images: int = 4,
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
    backbone: str | Path | TextBackbone = "pocket-sd",
    device: Where = "auto",
    out: str | Path | None = None,
    resume: bool = False,
    observe: Observe = ignore,
) -> Run:
    """Paint a content and a text into an artwork.

    With the artwork alone it is varied; a text edits it; a content is painted in its style; both
    are blended. A picture that is no square of the checkpoint's size is padded to a square with
    the colour of its border and then scaled; the summary says so. The artwork's inversion is kept
    in the cache, and how well it leads back to the artwork is in the summary too.

    Args:
        art: File of the artwork, or a picture, ``[3, H, W]``, 0 to 1, sides that are multiples of
            the latents' cell.
        content: The same, of what shall be painted; None is nothing.
        prompt: What shall be on the picture, in the words of the checkpoint's prompts; None is
            nothing.
        method: That paints.
        strength: 0, the artwork, to 1, the content in its style; None is the method's own.
        sweep: Draw a strip instead: so many strengths from 0 to 1, or these.
        num_images: Pictures, of each strength; 1 or more.
        config: Settings of the method, as ``strength`` is one.
        seed: Same seed, same pictures.
        backbone: Name, folder, hub id, or a loaded one.
        device: Where to run, or a ``Placement``: see ``load_backbone``.
        out: Run folder; None keeps all in memory.
        resume: Go on with the run in ``out``: a finished one is returned.
        observe: Told how far it is.

    Raises:
        ImageError: If a file is no picture, or is too large.
        ShapeError: If a tensor is no picture, or of another size than the other.
        CapabilityError: If the checkpoint lacks what the method needs.
        OffbeatError: Each other kind of bad input has its own, see ``offbeat.errors``.

    Source: CreativeSynth, arXiv:2401.14066.
    """
    check_numbers(num_images=num_images, seed=seed)
    if prompt is not None:
        checked_text("prompt", prompt)
    if strength is not None and sweep is not None:
        raise ConfigError("strength, sweep: expected one of them, got both")
    settings = {**(config or {}), **({} if strength is None else {"strength": strength})}
    session = Session(backbone, device, out=out, resume=resume, observe=observe)
    model = session.load()
    chosen = session.method(method, settings, "paint", "does not paint")
    _check_prompting(chosen, model)
    points = strengths_of(chosen, sweep)
    size = min(int(model.card["height"]), int(model.card["width"]))
    painting = Painting(
        session=session,
        points=points,
        method=chosen,
        art=Picture.read(art, "artwork", size),
        content=None if content is None else Picture.read(content, "content", size),
        prompt=prompt,
    )
    with torch.no_grad():  # what is too long or does not fit fails before a folder is made
        model.encode_text([prompt or ""])
        model.encode_latents(painting.art.image[None].to(model.device))
    if painting.content is not None:
        check_shape("content", painting.content.image, *painting.art.image.shape)
    finished = session.open(
        {
            "verb": "paint",
            "layout": "paint" if sweep is None else "sweep",
            "subject": painting.subject,
            "sources": [{"picture": p.name, "digest": p.digest} for p in painting.given],
            "prompt": prompt,
            "strengths": [at for at, _ in points],
            "method": chosen.name,
            "config": config_of(chosen),
            "num_images": num_images,
            "seed": seed,
        }
    )
    if finished:
        return session.finished()
    with few_threads(model):
        return painting.run()


def _check_prompting(method: Any, backbone: TextBackbone) -> None:
    """Refuse a method that shows a picture to a checkpoint that cannot look at one."""
    prompted = getattr(getattr(method, "config", None), "with_semantic", False)
    if prompted and not getattr(backbone, "takes_images", True):
        who = f"{method.name}, unless with_semantic is false or an adapter is named (--ip-adapter),"
        raise CapabilityError(who, backbone.name, "ip_adapter", backbones_with("edit_attention"))


def strengths_of(
    method: Any, sweep: int | Sequence[float] | None
) -> list[tuple[float | None, Any]]:
    """Return each strength with its method."""
    config = getattr(method, "config", None)
    strength = getattr(config, "strength", None)
    if sweep is None:
        return [(strength, method)]
    if strength is None or config is None:
        raise ConfigError(f"sweep: {method.name} has no setting `strength` to sweep over")
    if isinstance(sweep, int):
        if not 2 <= sweep <= MAX_SWEEP:
            raise ConfigError(f"sweep: expected 2 to {MAX_SWEEP} strengths, got {sweep}")
        strengths = [at / (sweep - 1) for at in range(sweep)]
    else:
        try:
            strengths = [float(at) for at in sweep]
        except (TypeError, ValueError) as error:
            raise ConfigError(f"sweep: expected numbers from 0 to 1, got {sweep!r}") from error
        if not 1 <= len(strengths) <= MAX_SWEEP or not all(map(math.isfinite, strengths)):
            raise ConfigError(f"sweep: expected 1 to {MAX_SWEEP} strengths, got {strengths}")
    return [(at, type(method)(replace(config, strength=at))) for at in strengths]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inversion:
    """An artwork's trajectory, and how well it leads back."""

    way: Tensor
    psnr: float
    """Of the reconstruction against the artwork, dB."""
    ceiling: float
    """Of the autoencoder alone, dB."""

    @property
    def is_poor(self) -> bool:
        """Whether the reconstruction is far from the artwork, and from what can be reached."""
        return self.psnr < POOR_DB and self.ceiling - self.psnr > POOR_LOSS_DB

    def in_words(self) -> str:
        """Return both figures in a sentence."""
        return (
            f"The artwork's inversion leads back to it at {self.psnr:.1f} dB; the autoencoder "
            f"alone reaches {self.ceiling:.1f} dB."
        )


def psnr(image: Tensor, other: Tensor) -> float:
    """Return the peak signal-to-noise ratio of two pictures of 0 to 1, in dB, at most 99."""
    error = float((image.cpu() - other.cpu()).square().mean())
    return MAX_DB if error <= 0 else min(MAX_DB, -10 * math.log10(error))


def inverted(method: Any, backbone: PaintingBackbone, art: Picture) -> Inversion:
    """Return the inversion of an artwork and its error, from the cache where it is there."""
    key = {
        "picture": art.digest,
        "size": list(art.image.shape[-2:]),
        **method.inversion_settings(),
        **conditions_of(backbone),
    }

    def build() -> tuple[dict[str, Tensor], dict[str, Any]]:
        way = method.invert(backbone, art.image)
        back = method.reconstruct(backbone, way)
        with torch.no_grad():
            alone = backbone.decode(way[-1])[0]
        figures = {"psnr": psnr(back, art.image), "ceiling": psnr(alone, art.image)}
        return {"way": way.cpu()}, figures

    tensors, figures = cached("inversions", key, build)
    return Inversion(way=tensors["way"], psnr=figures["psnr"], ceiling=figures["ceiling"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Painting:
    """One painting, or one strip of them: paints it, and writes it."""

    session: Session
    points: Sequence[tuple[float | None, Any]]
    """Strengths, each with its method."""
    method: Any
    art: Picture
    content: Picture | None
    prompt: str | None

    @property
    def given(self) -> list[Picture]:
        """The artwork, and the content if there is one."""
        return [self.art, *([self.content] if self.content else [])]

    @property
    def subject(self) -> str:
        """What is painted into what, by name."""
        parts = [self.content.name] if self.content else []
        parts += [f"“{self.prompt}”"] if self.prompt else []
        return f"{' and '.join(parts)} in {self.art.name}" if parts else f"{self.art.name}, varied"

    def run(self) -> Run:
        """Return the run, written if it has a folder."""
        session = self.session
        # what a killed run painted is painted again: it takes seconds
        session.record("painting", "part").resume(0)
        inversion = self._inverted()
        images = [
            self._painted(number, method, inversion)
            for number, (_, method) in enumerate(self.points)
        ]
        summary = self._summary(inversion)
        pictures = [to_pil(part) for part in images]
        sources = to_pil(torch.stack([picture.image for picture in self.given]))
        return session.write(
            [],
            [picture for part in pictures for picture in part],
            self._files(pictures, sources),
            summary=summary,
            views={
                **source_files([p.file for p in self.given if p.file is not None]),
                "contact.png": lambda: self._sheet(pictures, sources, summary),
            },
            title=f"{self.method.name}: {self.subject}",
            ordinary=sources,
        )

    def draw_one(self, number: int) -> Tensor:
        """Return picture ``number`` alone, ``[3, H, W]``: all of its strength are painted."""
        at, image = divmod(number, self.session.request["num_images"])
        return self._painted(at, self.points[at][1], self._inverted())[image]

    def _inverted(self) -> Inversion | None:
        config = getattr(self.method, "config", None)
        if not hasattr(self.method, "invert") or not getattr(config, "with_inversion", True):
            return None
        self.session.observe("inverting the artwork", 0, 1, {})
        inversion = inverted(self.method, self.session.backbone, self.art)
        self.session.observe("inverting the artwork", 1, 1, {})
        return inversion

    def _painted(self, number: int, method: Any, inversion: Inversion | None) -> Tensor:
        """Return the pictures of one strength, ``[N, 3, H, W]``, on the CPU."""
        recipe = self.session.request
        request = Request(
            subject=self.subject,
            prompt=self.prompt,
            num_images=recipe["num_images"],
            seed=recipe["seed"],
        )
        steps = int(getattr(getattr(method, "config", None), "num_inference_steps", 1))
        images: Tensor = method.paint(
            self.session.backbone,
            request,
            self.art.image,
            content=None if self.content is None else self.content.image,
            way=None if inversion is None else inversion.way,
            on_step=self.session.recorder.observer(number, steps),
        )
        return images.cpu()

    def _summary(self, inversion: Inversion | None) -> dict[str, Any]:
        request = self.session.request
        warnings = [picture.note for picture in self.given if picture.note]
        text = f"Painted: {self.subject}, by {self.method.name}"
        strengths = request["strengths"]
        if strengths[0] is not None:
            text += f" at strength {strengths[0]:g}"
            text += f" to {strengths[-1]:g}" if request["layout"] == "sweep" else ""
        text += "."
        reconstruction = None
        if inversion is not None:
            text += f" {inversion.in_words()}"
            reconstruction = {
                "psnr": inversion.psnr,
                "autoencoder_psnr": inversion.ceiling,
                "poor": inversion.is_poor,
            }
            if inversion.is_poor:
                warnings.append(
                    f"{inversion.in_words()} That is poor: pictures near the artwork lose details "
                    "of it. Use more steps, or --set num_refinements=1 or more."
                )
        return {
            "subject": self.subject,
            "prompt": self.prompt,
            "seed": request["seed"],
            "strengths": strengths,
            "reconstruction": reconstruction,
            "warnings": warnings,
            "in_words": text,
        }

    def _sheet(
        self,
        pictures: Sequence[list[Image.Image]],
        sources: Sequence[Image.Image],
        summary: Mapping[str, Any],
    ) -> bytes:
        """Return artwork, content and what was painted; of a strip, a row for each picture."""
        request = self.session.request
        swept, num_images = request["layout"] == "sweep", request["num_images"]
        heads = ["artwork", "content"][: len(sources)]
        if swept:
            rows = [
                ("", [*sources, *(part[row] for part in pictures)]) for row in range(num_images)
            ]
            captions = [*heads, *(f"strength {at:.2g}" for at, _ in self.points)]
        else:
            rows = [("", [*sources, *pictures[0]])]
            captions = [*heads, *(f"picture {at}" for at in range(num_images))]
        return sheet(
            rows,
            title=f"{self.subject}, by {self.method.name}",
            captions=captions,
            note=summary["in_words"],
            columns=len(captions) if swept else COLUMNS,
        )

    def _files(
        self, pictures: Sequence[list[Image.Image]], sources: Sequence[Image.Image]
    ) -> dict[str, bytes]:
        """Return the files of what was painted, and of what it was painted from."""
        request, backbone = self.session.request, self.session.backbone
        config, num_images = request["config"], request["num_images"]
        steps = ("num_inference_steps", "guidance_scale", "negative_prompt")
        recipe = {**request, **{name: config[name] for name in steps if name in config}}
        text = self.prompt or ""
        metadata = {"method": self.method.name}
        plain = Concept(template="{concept}", subject=text, word=text, metadata=metadata)
        files: dict[str, bytes] = {}
        for number, ((strength, _), part) in enumerate(zip(self.points, pictures, strict=True)):
            point_recipe, start = {**recipe, "strength": strength}, number * num_images
            files |= png_files(
                "images", part, point_recipe, plain, backbone, start=start, drawing=BY_METHOD
            )
        return files | png_files("ordinary", sources, recipe, plain, backbone, drawing=GIVEN)
