"""Paint content, from a photograph or a text, into an artwork."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from offbeat.checkpoints.open import check_needs, loaded
from offbeat.checkpoints.placement import Where
from offbeat.core.checks import check_finite, check_shape
from offbeat.core.templates import check_text
from offbeat.errors import CapabilityError, ConfigError, RangeError
from offbeat.files.cache import cached
from offbeat.files.disk import digest_of
from offbeat.files.labels import versions
from offbeat.files.pictures import FORMATS, read_picture
from offbeat.files.png import to_pil
from offbeat.methods.settings import config_of, make_method
from offbeat.protocols import PaintingBackbone, TextBackbone
from offbeat.protocols.capabilities import backbones_with
from offbeat.protocols.methods import InvertsArt, PaintsImages
from offbeat.runs.folder import RunFolder
from offbeat.runs.images import BY_METHOD, GIVEN, png_files, sheet, source_files
from offbeat.runs.recorder import Keeper, few_threads
from offbeat.runs.result import Run, costed, load_run, numerics_of, reported
from offbeat.types import Concept, Observe, Request, ignore

if TYPE_CHECKING:
    from PIL import Image

POOR_DB, POOR_LOSS_DB = 25.0, 6.0
"""A reconstruction is poor if its PSNR is below the first, and by the second below the ceiling."""

MAX_DB = 99.0
"""What stands for the PSNR of pictures that are the same."""

COLUMNS = 9


MAX_SWEEP = 64

PictureLike = str | Path | Tensor


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
    config: dict[str, Any] | None = None,
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
    if num_images < 1:
        raise ConfigError(f"num_images: expected at least 1, got {num_images}")
    if prompt is not None:
        check_text("prompt", prompt)
    if strength is not None and sweep is not None:
        raise ConfigError("strength, sweep: expected one of them, got both")
    given = dict(config or {})
    if strength is not None:
        given["strength"] = strength
    model = loaded(backbone, device)
    chosen = make_method(method, model, given)
    _check_method(chosen, model)
    points = strengths_of(chosen, sweep)
    size = min(int(model.card["height"]), int(model.card["width"]))
    job = PaintJob(
        layout="paint" if sweep is None else "sweep",
        points=points,
        method=chosen,
        backbone=model,
        art=Picture.read(art, "artwork", size),
        content=None if content is None else Picture.read(content, "content", size),
        prompt=prompt,
        num_images=num_images,
        seed=seed,
    )
    _check_inputs(job, model)
    folder = RunFolder.create(Path(out), job.as_json(), resume=resume) if out else None
    if folder is not None and folder.is_finished:
        return load_run(folder.path)
    with few_threads(model):
        return Painting(job, folder, observe).run()


def _check_inputs(job: PaintJob, backbone: Any) -> None:
    """Let a text that is too long and pictures that do not fit fail before a folder is made."""
    with torch.no_grad():
        backbone.encode_text([job.prompt or ""])
        backbone.encode_latents(job.art.image[None].to(backbone.device))
    if job.content is not None:
        check_shape("content", job.content.image, *job.art.image.shape)


def _check_method(method: Any, backbone: TextBackbone) -> None:
    """Refuse a method that does not paint, or not on this checkpoint."""
    if not isinstance(method, PaintsImages):
        raise ConfigError(f"method: {method.name} paints nothing; choose one that does")
    check_needs(method.name, getattr(method, "needs", PaintingBackbone), backbone)
    prompted = getattr(getattr(method, "config", None), "with_semantic", False)
    if prompted and not getattr(backbone, "takes_images", True):
        who = f"{method.name}, unless with_semantic is false,"
        raise CapabilityError(who, backbone.name, "ip_adapter", backbones_with("edit_attention"))


def strengths_of(
    method: Any, sweep: int | Sequence[float] | None
) -> list[tuple[float | None, Any]]:
    """Return each strength with its method."""
    config = getattr(method, "config", None)
    own = getattr(config, "strength", None)
    if sweep is None:
        return [(own, method)]
    if own is None or config is None:
        raise ConfigError(f"sweep: {method.name} has no setting `strength` to sweep over")
    if isinstance(sweep, int):
        if not 2 <= sweep <= MAX_SWEEP:
            raise ConfigError(f"sweep: expected 2 to {MAX_SWEEP} strengths, got {sweep}")
        strengths = [at / (sweep - 1) for at in range(sweep)]
    else:
        strengths = [float(at) for at in sweep]
        if not 1 <= len(strengths) <= MAX_SWEEP or not all(map(math.isfinite, strengths)):
            raise ConfigError(f"sweep: expected 1 to {MAX_SWEEP} strengths, got {list(sweep)}")
    return [(at, type(method)(replace(config, strength=at))) for at in strengths]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture that was given: its file, if there was one, and what was done with it."""

    name: str
    image: Tensor
    """``[3, H, W]``, 0 to 1."""
    digest: str
    """Of its pixels as they are used."""
    file: Path | None = None
    """Where it was read."""
    note: str = ""
    """How it was brought to the checkpoint's size, in a sentence."""

    @classmethod
    def read(cls, source: str | Path | Tensor, role: str, size: int) -> Picture:
        """Read a file as a square of ``size`` pixels, or take a tensor as it is.

        Raises:
            ImageError: If the file is no picture, or is too large.
            ShapeError: If the tensor is no picture.
            RangeError: If its values lie outside 0 to 1.
        """
        if isinstance(source, Tensor):
            check_shape(role, source, 3, None, None)
            check_finite(role, source)
            if float(source.min()) < 0 or float(source.max()) > 1:
                raise RangeError(f"{role}: expected values from 0 to 1")
            image, name, note, file = source.detach().cpu().float(), role, "", None
        else:
            image, name = read_picture(source, size=size), Path(source).name
            file = Path(source).expanduser()
            note = _fitted(file, size)
        digest = digest_of(image.contiguous().numpy().tobytes())
        return cls(name=name, image=image, digest=digest, note=note, file=file)


def _fitted(file: Path, size: int) -> str:
    """Return what ``read_picture`` does with this file, if it is anything; it was read already."""
    import warnings

    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(file, formats=FORMATS) as picture:
            width, height = picture.size
            if picture.getexif().get(0x0112, 1) >= 5:  # lies on its side
                width, height = height, width
            frames = int(getattr(picture, "n_frames", 1))
    done = []
    if frames > 1 and not file.suffix.lower().startswith(".tif"):
        done.append(f"is an animation of {frames} frames, of which the first is used")
    if width != height:
        done.append(f"is {width} x {height}: padded to a square with the colour of its border")
    if max(width, height) < size:
        done.append(f"is small ({width} x {height}): enlarged to {size} x {size}, so it is blurred")
    return f"{file.name} {'; it '.join(done)}." if done else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintJob:
    """Everything that one painting, or one strip of them, is made with."""

    layout: str
    """``paint`` or ``sweep``."""
    points: Sequence[tuple[float | None, Any]]
    """Strengths, each with its method."""
    method: Any
    backbone: Any
    art: Picture
    content: Picture | None
    prompt: str | None
    num_images: int
    seed: int

    @property
    def subject(self) -> str:
        """What is painted into what, by name."""
        parts = [self.content.name] if self.content else []
        parts += [f"“{self.prompt}”"] if self.prompt else []
        return f"{' and '.join(parts)} in {self.art.name}" if parts else f"{self.art.name}, varied"

    def as_json(self) -> dict[str, Any]:
        """Return everything that the result depends on."""
        pictures = [self.art] + ([self.content] if self.content else [])
        return {
            "verb": "paint",
            "layout": self.layout,
            "subject": self.subject,
            "sources": [{"picture": one.name, "digest": one.digest} for one in pictures],
            "prompt": self.prompt,
            "strengths": [strength for strength, _ in self.points],
            "method": self.method.name,
            "config": config_of(self.method),
            "num_images": self.num_images,
            "seed": self.seed,
            "checkpoint": self.backbone.name,
            "fingerprint": self.backbone.fingerprint,
            "versions": versions(),
            **numerics_of(self.backbone),
        }


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


def inverted(method: InvertsArt, backbone: PaintingBackbone, art: Picture) -> Inversion:
    """Return the inversion of an artwork and its error, from the cache where it is there."""
    key = {
        "picture": art.digest,
        "size": list(art.image.shape[-2:]),
        "fingerprint": backbone.fingerprint,
        **method.inversion_settings(),
        "versions": versions(),
        **numerics_of(backbone),
    }

    def build() -> tuple[dict[str, Tensor], dict[str, Any]]:
        way = method.invert(backbone, art.image)
        back = method.reconstruct(backbone, way)
        with torch.no_grad():
            latents = backbone.encode_latents(art.image[None].to(backbone.device))
            alone = backbone.decode(latents)[0]
        figures = {"psnr": psnr(back, art.image), "ceiling": psnr(alone, art.image)}
        return {"way": way.cpu()}, figures

    tensors, figures = cached("inversions", key, build)
    return Inversion(way=tensors["way"], psnr=figures["psnr"], ceiling=figures["ceiling"])


class Painting:
    """Paints what a job asks for, and writes it."""

    def __init__(self, job: PaintJob, folder: RunFolder | None, observe: Observe) -> None:
        self.job, self.folder, self.observe = job, folder, observe
        self.keeper = Keeper(folder, observe, stage="painting", label="part", row_every=1)

    def run(self) -> Run:
        """Return the run, written if it has a folder."""
        job = self.job
        self.keeper.resume(0)  # what a killed run painted is painted again: it takes seconds
        found = self._inverted()
        images = [
            self._painted(number, method, found) for number, (_, method) in enumerate(job.points)
        ]
        asked, summary = job.as_json(), self._summary(found)
        pictures = [to_pil(part) for part in images]
        given = [job.art] + ([job.content] if job.content else [])
        sources = to_pil(torch.stack([one.image for one in given]))
        contact = self._sheet(pictures, sources, summary)
        return reported(
            asked,
            [],
            [picture for part in pictures for picture in part],
            self._files(pictures, sources, asked),
            self.folder,
            title=f"{job.method.name}: {job.subject}",
            contact=contact,
            summary=summary,
            ordinary=sources,
            trace=self.keeper.rows,
        )

    def one(self, number: int) -> Tensor:
        """Return picture ``number`` alone, ``[3, H, W]``: all of its strength are painted."""
        at, image = divmod(number, self.job.num_images)
        return self._painted(at, self.job.points[at][1], self._inverted())[image]

    def _inverted(self) -> Inversion | None:
        method = self.job.method
        if not isinstance(method, InvertsArt):
            return None
        if not getattr(getattr(method, "config", None), "with_inversion", True):
            return None
        self.observe("inverting the artwork", 0, 1, {})
        found = inverted(method, self.job.backbone, self.job.art)
        self.observe("inverting the artwork", 1, 1, {})
        return found

    def _painted(self, number: int, method: Any, found: Inversion | None) -> Tensor:
        """Return the pictures of one strength, ``[N, 3, H, W]``, on the CPU."""
        job = self.job
        request = Request(
            subject=job.subject, prompt=job.prompt, num_images=job.num_images, seed=job.seed
        )
        steps = int(getattr(getattr(method, "config", None), "num_inference_steps", 1))
        images: Tensor = method.paint(
            job.backbone,
            request,
            job.art.image,
            content=None if job.content is None else job.content.image,
            way=None if found is None else found.way,
            on_step=self.keeper.observer(number, steps),
        )
        return images.cpu()

    def _summary(self, found: Inversion | None) -> dict[str, Any]:
        job = self.job
        pictures = [job.art] + ([job.content] if job.content else [])
        warnings = [one.note for one in pictures if one.note]
        if found is not None and found.is_poor:
            warnings.append(
                f"{found.in_words()} That is poor: pictures near the artwork lose details of it. "
                "More steps, or --set num_refinements=1 or more, mend it."
            )
        strengths = [strength for strength, _ in job.points]
        text = f"Painted: {job.subject}, by {job.method.name}"
        if strengths[0] is not None:
            ends = f"{strengths[0]:g}"
            ends += f" to {strengths[-1]:g}" if job.layout == "sweep" else ""
            text += f" at strength {ends}"
        text += "." if found is None else f". {found.in_words()}"
        return {
            "subject": job.subject,
            "prompt": job.prompt,
            "seed": job.seed,
            "strengths": strengths,
            "reconstruction": None
            if found is None
            else {"psnr": found.psnr, "autoencoder_psnr": found.ceiling, "poor": found.is_poor},
            "warnings": warnings,
            "in_words": text,
        }

    def _sheet(
        self,
        pictures: Sequence[list[Image.Image]],
        sources: Sequence[Image.Image],
        summary: dict[str, Any],
    ) -> bytes:
        """Return artwork, content and what was painted; of a strip, a row for each picture."""
        job = self.job
        heads = ["artwork", "content"][: len(sources)]
        if job.layout == "sweep":
            rows = [
                ("", [*sources, *(part[row] for part in pictures)]) for row in range(job.num_images)
            ]
            captions = [*heads, *(f"strength {at:.2g}" for at, _ in job.points)]
        else:
            rows = [("", [*sources, *pictures[0]])]
            captions = [*heads, *(f"picture {at}" for at in range(job.num_images))]
        return sheet(
            rows,
            title=f"{job.subject}, by {job.method.name}",
            captions=captions,
            note=summary["in_words"],
            columns=len(captions) if job.layout == "sweep" else COLUMNS,
        )

    def _files(
        self,
        pictures: Sequence[list[Image.Image]],
        sources: Sequence[Image.Image],
        asked: dict[str, Any],
    ) -> dict[str, bytes]:
        """Return every picture's file: what was painted, and what it was painted from."""
        job, config = self.job, asked["config"]
        pictures_given = [job.art, *([job.content] if job.content else [])]
        files = source_files([one.file for one in pictures_given if one.file is not None])
        steps = ("num_inference_steps", "guidance_scale", "negative_prompt")
        recipe = {**asked, **{name: config[name] for name in steps if name in config}}
        text = job.prompt or ""
        plain = Concept(
            template=text, subject=text, word=text, metadata={"method": job.method.name}
        )
        for number, ((strength, _), part) in enumerate(zip(job.points, pictures, strict=True)):
            own = {**recipe, "strength": strength}
            start = number * job.num_images
            files |= png_files(
                "images", part, own, plain, job.backbone, start=start, drawing=BY_METHOD
            )
        files |= png_files("ordinary", sources, recipe, plain, job.backbone, drawing=GIVEN)
        return files
