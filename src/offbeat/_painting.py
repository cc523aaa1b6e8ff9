"""Invert the artwork, paint, and write what was painted: the work behind ``_paint``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from offbeat import formats
from offbeat._disk import digest_of
from offbeat._keeper import Keeper
from offbeat._pictures_out import BY_METHOD, GIVEN, png_files, sheet, source_files
from offbeat._runs import Run, numerics_of, reported
from offbeat._trained import config_of
from offbeat.checks import check_finite, check_shape
from offbeat.errors import RangeError
from offbeat.pictures import FORMATS, read_picture
from offbeat.protocols import InvertsArt, PaintingBackbone
from offbeat.store import RunFolder, cached
from offbeat.types import Concept, Observe, Request

if TYPE_CHECKING:
    from PIL import Image

POOR_DB, POOR_LOSS_DB = 25.0, 6.0
"""A reconstruction is poor if its PSNR is below the first, and by the second below the ceiling."""
MAX_DB = 99.0
"""What stands for the PSNR of pictures that are the same."""
COLUMNS = 9


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
class Job:
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
            "versions": formats.versions(),
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
        "versions": formats.versions(),
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

    def __init__(self, job: Job, folder: RunFolder | None, observe: Observe) -> None:
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
        pictures = [formats.to_pil(part) for part in images]
        given = [job.art] + ([job.content] if job.content else [])
        sources = formats.to_pil(torch.stack([one.image for one in given]))
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
