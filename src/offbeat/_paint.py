"""Paint content, from a photograph or a text, into an artwork."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offbeat._capabilities import backbones_with
from offbeat._keeper import few_threads
from offbeat._painting import Job, Painting, Picture
from offbeat._runs import Run, check_needs, load_run, loaded
from offbeat._trained import make_method
from offbeat.backbones._placement import Where
from offbeat.checks import check_shape
from offbeat.errors import CapabilityError, ConfigError
from offbeat.protocols import PaintingBackbone, PaintsImages, TextBackbone
from offbeat.store import RunFolder
from offbeat.templates import check_text
from offbeat.types import Observe, ignore

MAX_SWEEP = 64

PictureLike = str | Path | Tensor


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
    job = Job(
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


def _check_inputs(job: Job, backbone: Any) -> None:
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
