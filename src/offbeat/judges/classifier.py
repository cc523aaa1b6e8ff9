"""An image classifier as a judge, in transformers' format, from a local folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offbeat.checkpoints.trust import refuse_pickles
from offbeat.checkpoints.weights import load_model
from offbeat.errors import CheckpointError, PromptError
from offbeat.judges import rule
from offbeat.types import Verdict

COARSE = "coarse_classes.json"
"""In the folder, optional: each label's coarse classes, ``{"dog": ["animal", "pet"]}``."""
FIGURES = "figures.json"
"""In the folder, optional: what was measured, ``{"clean": {"top1": 0.7, "top5": 0.9}}``."""


@dataclass(frozen=True, slots=True)
class PixelSettings:
    """Pixel settings of ``preprocessor_config.json``; no image processor is needed."""

    height: int
    width: int
    shortest_edge: int | None
    """Resize the shorter side to this and crop; None stretches to height and width."""
    mode: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def read(cls, file: Path) -> PixelSettings:
        """Read an image processor's settings.

        Raises:
            CheckpointError: If they are absent or damaged.
        """
        config = _read_json(file)
        try:
            size, crop = config["size"], config.get("crop_size")
            size = {"height": size, "width": size} if isinstance(size, int) else size
            shortest = size.get("shortest_edge")
            area = (crop or size) if shortest else size
            side = shortest or 0
            plain = not config.get("do_normalize", True)
            return cls(
                int(area.get("height", side)),
                int(area.get("width", side)),
                None if shortest is None else int(shortest),
                {2: "bilinear", 3: "bicubic"}.get(config.get("resample", 3), "bicubic"),
                (0.0,) * 3 if plain else tuple(config["image_mean"]),
                (1.0,) * 3 if plain else tuple(config["image_std"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"{file}: expected size, image_mean and image_std ({error!r})"
            ) from error

    def apply(self, images: Tensor) -> Tensor:
        """Resize and normalise ``images``, ``[B, 3, H, W]``, 0 to 1."""
        height, width = self.height, self.width
        if (edge := self.shortest_edge) is not None:
            scale = edge / min(images.shape[-2:])
            height, width = (max(edge, round(side * scale)) for side in images.shape[-2:])
        if images.shape[-2:] != (height, width):
            images = torch.nn.functional.interpolate(
                images, (height, width), mode=self.mode, antialias=True
            ).clamp(0, 1)
        top, left = (height - self.height) // 2, (width - self.width) // 2
        images = images[..., top : top + self.height, left : left + self.width]
        mean, std = (torch.tensor(part)[:, None, None] for part in (self.mean, self.std))
        return (images - mean.to(images)) / std.to(images)


class ClassifierJudge(rule.ClassJudge):
    """Names pictures with a classifier that shares no weights with the checkpoint under search."""

    def __init__(
        self,
        model: Any,
        pixels: PixelSettings,
        *,
        name: str,
        coarse: Mapping[str, Sequence[str]],
        subjects: Mapping[str, Sequence[str]] | None = None,
        note: str = "",
        share: float = 0.25,
    ) -> None:
        """Store a model; use ``load`` to make a judge from a folder.

        Args:
            model: An image classification model of transformers.
            pixels: How it wants its pixels.
            name: The judge's name, with its checkpoint.
            coarse: Label to its coarse classes.
            subjects: Subject to the labels that count as it, before the coarse classes.
            note: What a reader must know to weigh an answer.
            share: Yes from this share of an ordinary picture's probability on, 0 to 1.
        """
        self._model = model.eval().requires_grad_(False)
        self._pixels = pixels
        self._name = name
        names, presence = model.config.id2label, int(getattr(model.config, "num_presence", 0))
        self._labels = tuple(str(names[index]) for index in range(len(names) - presence))
        self._coarse = coarse
        self._subjects = dict(subjects or {})
        self._note = note
        self._limits = rule.Limits(share)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str | torch.device = "cpu",
        subjects: Mapping[str, Sequence[str]] | None = None,
        share: float = 0.25,
    ) -> ClassifierJudge:
        """Load from a local folder, weights from safetensors only; nothing is fetched.

        Raises:
            CheckpointError: If it is no such folder, or damaged.
            UnsafeWeightsError: If the weights are there only as a pickle.
        """
        from transformers import AutoModelForImageClassification

        path = Path(folder).expanduser()
        config = path / "config.json"
        if not config.is_file():
            raise CheckpointError(
                f"{path}: expected a classifier's folder with config.json, as save_pretrained "
                "writes it, and found none"
            )
        weights = sorted(path.glob("*.safetensors"))
        refuse_pickles(path)
        pixels = PixelSettings.read(path / "preprocessor_config.json")
        coarse = _read_json(path / COARSE) if (path / COARSE).exists() else {}
        digest = hashlib.blake2b(digest_size=4)
        for file in (config, *weights):
            digest.update(file.read_bytes())
        model = load_model(AutoModelForImageClassification, path, dtype=torch.float32)
        kind = PresenceJudge if getattr(model.config, "num_presence", 0) else cls
        return kind(
            model.to(device),
            pixels,
            name=f"classifier:{path.name}@{digest.hexdigest()}",
            coarse=coarse,
            subjects=subjects,
            note=_describe(path / FIGURES),
            share=share,
        )

    @property
    def name(self) -> str:
        """The judge's name, with its checkpoint."""
        return self._name

    @property
    def labels(self) -> tuple[str, ...]:
        """The names that it chooses between, K."""
        return self._labels

    def members(self, subject: str) -> list[str]:
        """Return the labels that count as ``subject``.

        Raises:
            PromptError: If no label and no coarse class has this name.
        """
        members = rule.members_of(
            subject, self._labels, subjects=self._subjects, coarse=self._coarse
        )
        if not members:
            classes = {name for classes in self._coarse.values() for name in classes}
            names = [*self._labels, *classes, *self._subjects]
            near = rule.nearest(subject, names)
            hint = f"Near: {', '.join(near)}. " if near else ""
            raise PromptError(
                f"subject: {self.name} knows {len(self._labels)} names and {subject!r} is none of "
                f"them. {hint}Choose one of its names, or the clip judge, which takes any word."
            )
        return members

    @torch.no_grad()
    def class_probabilities(self, images: Tensor) -> Tensor:
        """Return ``[B, K]`` over ``labels``, of ``images``, ``[B, 3, H, W]``, 0 to 1."""
        return self._logits(images)[:, : len(self._labels)].softmax(dim=-1)

    def _logits(self, images: Tensor) -> Tensor:
        rule.check_images(images)
        pixels = self._pixels.apply(images.to(self._model.device))
        logits: Tensor = self._model(pixel_values=pixels.to(self._model.dtype)).logits
        return logits.float().cpu()

    @torch.no_grad()
    def features(self, images: Tensor) -> list[Tensor]:
        """Return each stage's feature maps of ``images``, ``[B, C, h, w]`` each.

        It says more of a picture's manner than its classes do: see Gram matrices.
        """
        rule.check_images(images)
        pixels = self._pixels.apply(images.to(self._model.device)).to(self._model.dtype)
        states = self._model(pixel_values=pixels, output_hidden_states=True).hidden_states
        return [state.float().cpu() for state in states]

    def probability(self, images: Tensor, subject: str) -> Tensor:
        """Return the probability of yes, ``[B]``."""
        columns = [self._labels.index(member) for member in self.members(subject)]
        return self.class_probabilities(images)[:, columns].sum(dim=1)

    def still_a(self, images: Tensor, subject: str) -> list[Verdict]:
        """Return one verdict for each of ``images``, ``[B, 3, H, W]``, 0 to 1."""
        return self._limits.verdicts(
            subject,
            self.probability(images, subject),
            chance=len(self.members(subject)) / len(self._labels),
            judge=self.name,
            note=self._note,
        )


class PresenceJudge(ClassifierJudge):
    """A classifier with a second answer: whether something of each label is there.

    Its model gives ``config.num_presence`` logits more, in the order of the labels.
    """

    @torch.no_grad()
    def presence(self, images: Tensor) -> Tensor:
        """Return ``[B, K]``, each 0 to 1 on its own: is something of this label in the picture?

        From 0.5 on the answer is yes.

        Args:
            images: ``[B, 3, H, W]``, 0 to 1.
        """
        return self._logits(images)[:, len(self._labels) :].sigmoid()


def _describe(file: Path) -> str:
    """Return the classifier's measured accuracy in words."""
    if not file.exists():
        return "The classifier's accuracy is not stated."
    figures = _read_json(file).get("clean", {})
    if not {"top1", "top5"} <= figures.keys():
        return "The classifier's accuracy is not stated."
    return (
        f"The classifier names {figures['top1']:.0%} of held-out pictures "
        f"({figures['top5']:.0%} within five)."
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read as JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: expected a JSON object, got {type(value).__name__}")
    return value
