"""What ``generate`` and ``render`` may be told beside a prompt: checked once, recorded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offbeat.backbones.redraw import Redraw
from offbeat.core.checks import check_range, check_whole
from offbeat.core.templates import check_text
from offbeat.errors import CapabilityError, ConfigError
from offbeat.protocols import PriorBackbone, TextBackbone
from offbeat.protocols.capabilities import backbones_with
from offbeat.runs.images import source_files
from offbeat.verbs.pictures import Picture, PictureLike

IMAGE_SHARE = 0.5
"""Share of a picture beside a text in an unCLIP checkpoint's image space, if none is said."""
MAX_WEIGHT = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """The settings of one drawing; None is the checkpoint's own. Checked when made."""

    negative_prompt: str = ""
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    image: PictureLike | None = None
    """Image prompt."""
    image_weight: float | None = None
    init_image: PictureLike | None = None
    """What is drawn anew in the place of noise."""
    strength: float | None = None
    mask: PictureLike | None = None
    """White where ``init_image`` is drawn anew."""

    def __post_init__(self) -> None:
        check_text("negative_prompt", self.negative_prompt)
        if self.num_inference_steps is not None:
            check_whole("num_inference_steps", self.num_inference_steps, 1, 1000)
        if self.guidance_scale is not None:
            check_range("guidance_scale", self.guidance_scale, 0, 1000)
        if self.image_weight is not None:
            check_range("image_weight", self.image_weight, 0, MAX_WEIGHT)
        if self.strength is not None:
            check_range("strength", self.strength, 0, 1)
        for name, needed in (("image_weight", "image"), ("strength", "init_image"),
                             ("mask", "init_image")):  # fmt: skip
            if getattr(self, name) is not None and getattr(self, needed) is None:
                raise ConfigError(f"{name}: expected {needed} beside it, got none")

    def steering(self, model: TextBackbone, *, learned: bool = False) -> Steering:
        """Return what ``draw`` is told for a checkpoint.

        Args:
            model: The checkpoint.
            learned: Whether a concept is drawn, which may have steps and guidance of its own.

        Raises:
            CapabilityError: If it cannot read a picture, or cannot begin from one.
            ConfigError: If a weight is out of the range that it has there.
            ImageError: If a file is no picture.
            ShapeError: If the mask has another shape than the picture.
        """
        decoding: dict[str, Any] = {}
        for name in ("num_inference_steps", "guidance_scale"):
            value = getattr(self, name)
            if value is not None or not learned:
                decoding[name] = model.card[name] if value is None else value
        pictures = {}
        area = int(model.card["height"]) * int(model.card["width"])
        if self.image is not None:
            _check_reads(model)
            pictures["image"] = Picture.read(self.image, "image", round(area**0.5))
        if self.init_image is not None:
            grid = getattr(model, "grid", None)
            if grid is None:
                able = backbones_with("grid")
                raise CapabilityError("a picture to begin from", model.name, "grid", able)
            pictures["init_image"] = Picture.read_fitted(
                self.init_image, "init_image", area=area, grid=grid
            )
        if self.mask is not None:
            pictures["mask"] = Picture.read_mask(self.mask, pictures["init_image"])
        weight = self.image_weight
        if self.image is not None and isinstance(model, PriorBackbone):
            weight = IMAGE_SHARE if weight is None else weight
            check_range("image_weight", weight, 0, 1)
        return Steering(
            negative_prompt=self.negative_prompt,
            decoding=decoding,
            image_weight=weight,
            strength=self.strength,
            pictures=pictures,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Steering:
    """Controls, read for one checkpoint."""

    negative_prompt: str
    decoding: Mapping[str, Any]
    image_weight: float | None = None
    strength: float | None = None
    pictures: Mapping[str, Picture] = field(default_factory=dict)

    @property
    def recipe(self) -> dict[str, Any]:
        """What a picture's recipe says of it, JSON values."""
        said: dict[str, Any] = {
            "negative_prompt": self.negative_prompt,
            "decoding": dict(self.decoding),
        }
        if self.pictures:
            said["pictures"] = {
                role: {"picture": picture.name, "digest": picture.digest}
                for role, picture in self.pictures.items()
            }
        for name in ("image_weight", "strength"):
            if (value := getattr(self, name)) is not None:
                said[name] = value
        return said

    @property
    def request(self) -> dict[str, Any]:
        """What a run's request says of it."""
        recipe = self.recipe
        return {**recipe.pop("decoding"), **recipe}

    def drawing(self, model: Any) -> dict[str, Any]:
        """Return the arguments of ``draw``."""
        decoding = dict(self.decoding)
        if (init := self.pictures.get("init_image")) is not None:
            mask = self.pictures.get("mask")
            area = None if mask is None else mask.image[None]
            decoding["redraw"] = Redraw(init.image[None], self.strength, area)
        told: dict[str, Any] = {"negative_prompt": self.negative_prompt, "decoding": decoding}
        if (picture := self.pictures.get("image")) is not None:
            told["image_prompt"] = model.encode_image(picture.image[None].to(model.device)).detach()
            told["image_weight"] = self.image_weight
        return told

    def copies(self) -> dict[str, Callable[[], bytes | None]]:
        """Return what copies the files that were given into the run folder."""
        return source_files([one.file for one in self.pictures.values() if one.file is not None])


def steering_again(
    recipe: Mapping[str, Any],
    model: TextBackbone,
    find: Callable[[str, Callable[[Path], bool]], Path],
) -> Steering:
    """Return the steering that a picture's recipe tells of.

    Args:
        recipe: How it was drawn; a stranger may have written it.
        model: The checkpoint.
        find: Returns the file of a name that a test accepts.

    Raises:
        ImageError: If a picture is not found.
    """
    decoding = dict(recipe.get("decoding") or {})
    files: dict[str, Path] = {}

    def controls(**more: Any) -> Controls:
        given: dict[str, Any] = {**files, **more}
        return Controls(
            negative_prompt=recipe.get("negative_prompt", ""),
            image_weight=recipe.get("image_weight") if "image" in given else None,
            strength=recipe.get("strength") if "init_image" in given else None,
            **given,
        )

    for role in ("image", "init_image", "mask"):
        if (said := recipe["pictures"].get(role)) is None:
            continue

        def is_it(path: Path, role: str = role, digest: str = said["digest"]) -> bool:
            return controls(**{role: path}).steering(model).pictures[role].digest == digest

        files[role] = find(said["picture"], is_it)
    steering = controls().steering(model)
    return Steering(
        negative_prompt=steering.negative_prompt,
        decoding=decoding or steering.decoding,
        image_weight=steering.image_weight,
        strength=steering.strength,
        pictures=steering.pictures,
    )


def _check_reads(model: Any) -> None:
    """Refuse a checkpoint that a picture cannot be a prompt of."""
    if isinstance(model, PriorBackbone) or getattr(model, "takes_images", False):
        return
    if hasattr(model, "takes_images"):
        raise ConfigError(
            f"image: {model.name} reads pictures by an IP-Adapter and has none; name its file, or "
            "a copy of h94/IP-Adapter, with --ip-adapter"
        )
    raise CapabilityError("an image prompt", model.name, "encode_image", ("pocket", "pocket-sd"))
