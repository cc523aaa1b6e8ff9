"""What a checkpoint is made of and how large it is, read without its weights.

The header of a safetensors file names every tensor with its type and shape; the weights themselves
stay on the disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from offbeat.checkpoints.forms import form_of
from offbeat.checkpoints.known import cards, flow, one_step, stable_diffusion, unclip
from offbeat.checkpoints.pipeline import PipelineFolder, cell_of, locate, sides_of
from offbeat.checkpoints.single_file import SingleFile, open_pipeline
from offbeat.checkpoints.trust import readable
from offbeat.checkpoints.weights import json_object, weight_files
from offbeat.errors import CheckpointError

UNUSED = ("safety_checker",)
MAX_HEADER = 2**27

ROLES = {
    "unet": "denoiser",
    "transformer": "denoiser",
    "vae": "autoencoder",
    "movq": "autoencoder",
    "prior": "prior",
    "image_encoder": "image encoder",
    "ip_adapter": "image prompts",
}
"""What a component does; those that are not named here read text."""
IN_ONE_FILE = (
    ("first_stage_model.", "vae"),
    ("vae.", "vae"),
    ("cond_stage_model.", "text_encoder"),
    ("conditioner.", "text_encoder"),
    ("text_encoders.", "text_encoder"),
    ("", "unet"),
)
"""How names of weights in a single file begin, and the component that they are of."""


@dataclass(frozen=True, slots=True)
class Tensors:
    """How many numbers a file holds, of each type as safetensors names it."""

    counts: Mapping[str, int]
    largest: int
    """Numbers of the largest tensor."""

    @property
    def parameters(self) -> int:
        """All numbers."""
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True)
class Part:
    """One component with weights."""

    name: str
    kind: str
    """Its class, as the index names it."""
    tensors: Tensors
    num_bytes: int
    """On the disk."""
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def role(self) -> str:
        """What it does."""
        return ROLES.get(self.name, "text encoder")


@dataclass(frozen=True, slots=True)
class Survey:
    """A checkpoint's components and the size of its pictures."""

    source: str
    form: str
    pipeline: str
    """The class that its index names, of the part that draws."""
    folders: tuple[Path, ...]
    parts: tuple[Part, ...]
    height: int
    """Of its pictures, in pixels."""
    width: int

    def part(self, role: str) -> Part | None:
        """Return the first component of a role."""
        return next((part for part in self.parts if part.role == role), None)


def survey(source: str | Path) -> Survey:
    """Look at a checkpoint; hub ids are fetched first, as for loading.

    Raises:
        CheckpointError: If there is none, or a file of weights is damaged.
    """
    with readable(source):
        return _survey(source)


def _survey(source: str | Path) -> Survey:
    form, pipelines = pipelines_of(source)
    last = pipelines[-1]
    parts = tuple(part for pipeline in pipelines for part in _parts(pipeline))
    if str(source) == one_step.NAME:
        parts = (*parts, _clip_tower())
    return Survey(
        source=str(source),
        form=form,
        pipeline=str(last.index.get("_class_name")),
        folders=tuple(dict.fromkeys(pipeline.path for pipeline in pipelines)),
        parts=parts,
        **dict(zip(("height", "width"), _size(form, last.path, parts), strict=True)),
    )


def pipelines_of(source: str | Path) -> tuple[str, list[PipelineFolder]]:
    """Return a checkpoint's form and its pipelines, the one that draws last.

    Raises:
        CheckpointError: If there is no such checkpoint.
    """
    name = str(source)
    known = {
        **dict.fromkeys(unclip.CHECKPOINTS, "unclip"),
        **dict.fromkeys(stable_diffusion.CHECKPOINTS, "stable-diffusion"),
        **{name: next(f for f in flow.FORMS if name.startswith(f)) for name in flow.CHECKPOINTS},
        one_step.NAME: "stable-diffusion",
    }
    form = known.get(name) or form_of(source)
    if form == "unclip":
        prior, decoder, _ = unclip.find(source)
        return form, [prior, decoder]
    if form in flow.FORMS:
        return form, [open_pipeline(flow.CHECKPOINTS.get(name, source), only=flow.FILES)]
    base = one_step.BASE if name == one_step.NAME else source
    return "stable-diffusion", [stable_diffusion.find(base)]


def read_header(file: Path) -> dict[str, Any]:
    """Return the header of a safetensors file: name to dtype, shape and place.

    Raises:
        CheckpointError: If it is no safetensors file, or its header is damaged.
    """
    try:
        with file.open("rb") as handle:
            size = int.from_bytes(handle.read(8), "little")
            if not 2 <= size <= MAX_HEADER:
                raise ValueError(f"a header of {size} bytes")
            header = json.loads(handle.read(size))
        tensors = {name: about for name, about in header.items() if name != "__metadata__"}
        for name, about in tensors.items():
            start, end = about.get("data_offsets", (0, 0))
            numbers = [*about["shape"], start, end]
            if not all(type(number) is int and 0 <= number < 2**63 for number in numbers):
                raise ValueError(f"the tensor {name[:80]!r} has a shape or place that is none")
        return tensors
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{file}: cannot be read as safetensors ({type(error).__name__}: {error})"
        ) from error


def _tensors(headers: Mapping[str, Any]) -> Tensors:
    counts: dict[str, int] = {}
    sizes = [(str(about["dtype"]), prod(about["shape"])) for about in headers.values()]
    for dtype, size in sizes:
        counts[dtype] = counts.get(dtype, 0) + size
    return Tensors(counts, max((size for _, size in sizes), default=0))


def _parts(pipeline: PipelineFolder) -> Iterator[Part]:
    """Yield the components of a pipeline that have weights and are used."""
    inside = _in_file(pipeline) if isinstance(pipeline, SingleFile) else {}
    for entry, about in sorted(pipeline.index.items()):
        name = entry.removeprefix(pipeline.prefix)
        other = entry.startswith("prior_") != bool(pipeline.prefix)  # the other half's, if combined
        if name in UNUSED or other or not pipeline.has(name) or not isinstance(about, list):
            continue
        if name in inside:
            yield Part(name, str(about[1]), *inside[name], _config(pipeline.where(name)))
        elif part := _part(pipeline.where(name), name, str(about[1])):
            yield part
    yield from _beside(pipeline)


def _beside(pipeline: PipelineFolder) -> Iterator[Part]:
    """Yield what is loaded with a Stable-Diffusion pipeline, and is not in its index."""
    if pipeline.index.get("_class_name") not in stable_diffusion.PIPELINES:
        return
    adapter = pipeline.path / stable_diffusion.ADAPTER
    if adapter.is_file():
        yield Part("ip_adapter", "IP-Adapter", _tensors(read_header(adapter)), _bytes(adapter))
    near = pipeline.path.parent / "prior" / "image_encoder"
    if not pipeline.has("image_encoder") and near.is_dir():
        part = _part(near, "image_encoder", "CLIPVisionModelWithProjection")
        if part is not None:
            yield part


def _clip_tower() -> Part:
    """Return the image encoder that a one-step model of SD 1.5's form is read by."""
    file = locate(one_step.CLIP, only=one_step.CLIP_FILES) / "model.safetensors"
    seen = {name: about for name, about in read_header(file).items() if name.startswith("vis")}
    size = sum(end - start for start, end in _places(seen))
    return Part("image_encoder", "CLIPVisionModelWithProjection", _tensors(seen), size)


def _part(folder: Path, name: str, kind: str) -> Part | None:
    files = [file for file in weight_files(folder)[1] if file.suffix == ".safetensors"]
    if not files:
        return None
    headers: dict[str, Any] = {}
    for file in files:
        headers |= read_header(file)
    return Part(name, kind, _tensors(headers), sum(map(_bytes, files)), _config(folder))


def _in_file(pipeline: SingleFile) -> dict[str, tuple[Tensors, int]]:
    """Return what a single file holds of each component; of all text encoders as of one."""
    groups: dict[str, dict[str, Any]] = {}
    denoiser = "transformer" if pipeline.has("transformer") else "unet"
    for name, about in read_header(pipeline.file).items():
        part = next(part for start, part in IN_ONE_FILE if name.startswith(start))
        groups.setdefault(denoiser if part == "unet" else part, {})[name] = about
    return {
        part: (_tensors(group), sum(end - start for start, end in _places(group)))
        for part, group in groups.items()
    }


def _places(group: Mapping[str, Any]) -> Iterator[tuple[int, int]]:
    for about in group.values():
        start, end = about["data_offsets"]
        yield int(start), int(end)


def _bytes(file: Path) -> int:
    return file.stat().st_size


def _config(folder: Path) -> dict[str, Any]:
    """Return the settings of a component; those that cannot be read are reported by loading it."""
    try:
        return json_object(folder / "config.json", expected="a model's folder")
    except CheckpointError:
        return {}


def _size(form: str, folder: Path, parts: tuple[Part, ...]) -> tuple[int, int]:
    """Return height and width of a checkpoint's pictures, as its adapter finds them."""
    card = cards.read_card(folder.parent if form == "unclip" else folder)
    if "height" in card and "width" in card:
        return int(card["height"]), int(card["width"])
    configs = {part.name: part.config for part in parts}
    if form == "unclip":
        suited = cards.SUITED["unclip"]
        return int(suited["height"]), int(suited["width"])
    if form in flow.FORMS and form not in ("sd3", "sana"):
        return 1024, 1024
    denoiser = configs.get("unet") or configs.get("transformer") or {}
    cell = cell_of(configs.get("vae", {}))
    height, width = sides_of(denoiser)
    return height * cell, width * cell
