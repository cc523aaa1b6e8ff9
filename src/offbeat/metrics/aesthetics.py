"""Aesthetic scores: three published models predict how much people like a picture.

Sources: LAION aesthetics v1 (``sa_0_4_vit_l_14_linear``) and v2 (``sac+logos+ava1-l14-linearMSE``),
both on CLIP ViT-L/14; Talebi and Milanfar, NIMA, arXiv:1709.05424, in the VGG-16 of
Neural-IMage-Assessment, trained on AVA.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from offbeat.checkpoints.weights import fingerprint
from offbeat.errors import CheckpointError
from offbeat.metrics.base import BaseMetric
from offbeat.metrics.checkpoints import fill, pixels_of, read_weights, short_name, weights_folder
from offbeat.metrics.common import BATCH
from offbeat.metrics.encoders import CLIP_LARGE, ClipEncoder, Encoder

if TYPE_CHECKING:
    from typing_extensions import Self

CLIP_FOLDER = "clip"
"""In a head's folder, optional: the CLIP that it stands on."""


class LearnedMetric(BaseMetric):
    """A metric whose learned part no backbone has: it needs weights of its own."""

    published: str
    """What weights it takes, in words."""

    @classmethod
    def load(
        cls,
        source: str | Path | None = None,
        *,
        backbone: Any | None = None,
        device: str | torch.device = "cpu",
    ) -> Self:
        """Load weights in safetensors under their published names.

        Args:
            source: Folder or hub id: see the class.
            backbone: Of no use here.
            device: Where it runs.

        Raises:
            CheckpointError: If there are no such weights.
            UnsafeWeightsError: If they are there only as a pickle.
        """
        if source is None:
            raise CheckpointError(
                f"{cls.stem}: expected a folder or hub id with {cls.published}; it learned from "
                "people, and no backbone's own encoders can stand in for that. docs/metrics.md "
                "says where the published weights are and how to convert them."
            )
        folder = weights_folder(source)
        metric = cls._of(folder, read_weights(folder), torch.device(device))
        metric.label = short_name(source)
        metric.checkpoint = f"{metric.label}@{fingerprint(folder, size=4)}{metric.below}"
        return metric

    below = ""
    """What else the numbers depend on, for the checkpoint's name."""

    @classmethod
    @abstractmethod
    def _of(cls, folder: Path, weights: dict[str, Tensor], device: torch.device) -> Self:
        """Return the metric of these weights."""


class LinearHead(nn.Sequential):
    """Linear layers without activations, as published; dropout, which does nothing, keeps places.

    The names of the weights say which places have a layer, their shapes how wide it is.
    """

    def __init__(self, shapes: Mapping[int, tuple[int, int]]) -> None:
        """Make the layers.

        Args:
            shapes: Place to its outputs and inputs.
        """
        places = range(max(shapes) + 1)
        layers = [
            nn.Linear(shapes[place][1], shapes[place][0]) if place in shapes else nn.Identity()
            for place in places
        ]
        super().__init__(*layers)

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], where: Path) -> LinearHead:
        """Return the head of weights named ``PLACE.weight`` and ``PLACE.bias``.

        Raises:
            CheckpointError: If they are no such head.
        """
        shapes = {
            int(place): (weight.shape[0], weight.shape[1])
            for name, weight in weights.items()
            for place, _, kind in [name.partition(".")]
            if place.isdigit() and kind == "weight" and weight.ndim == 2
        }
        if not shapes:
            raise CheckpointError(f"{where}: expected the layers of a head, got {sorted(weights)}")
        head = cls(shapes)
        fill(head, dict(weights), where)
        return head


class _ClipAesthetic(LearnedMetric):
    """A head on CLIP's normalised image embeddings.

    The folder may have that CLIP in its subfolder ``clip``; without one it is
    ``openai/clip-vit-large-patch14``.
    """

    def __init__(self, encoder: Encoder, head: nn.Module) -> None:
        """Hold an encoder and a head; ``load`` is the way to make one from a folder."""
        self.encoder, self.head = encoder, head
        self.below = f" on {encoder.checkpoint}"

    @classmethod
    def _of(cls, folder: Path, weights: dict[str, Tensor], device: torch.device) -> Self:
        clip = folder / CLIP_FOLDER
        encoder = ClipEncoder.load(clip if clip.is_dir() else CLIP_LARGE, device=device)
        return cls(encoder, cls._head(weights, folder))

    @classmethod
    def _head(cls, weights: dict[str, Tensor], folder: Path) -> nn.Module:
        return LinearHead.of(
            {name.removeprefix("layers."): weight for name, weight in weights.items()}, folder
        )

    def measure(
        self,
        images: list[Tensor],
        texts: Sequence[str] | None,
        references: Sequence[Tensor] | Tensor | None,
    ) -> Tensor:
        """Return each picture's score, ``[B]``."""
        unit = nn.functional.normalize(self.encoder.image_embeds(images), dim=-1)
        with torch.no_grad():
            scores: Tensor = self.head(unit)
        return scores[:, 0]


class AestheticV1(_ClipAesthetic):
    """LAION aesthetics v1: a linear layer on CLIP ViT-L/14, about 1 to 10."""

    stem = "aesthetic_v1"
    published = "the linear layer of sa_0_4_vit_l_14_linear"

    @classmethod
    def _head(cls, weights: dict[str, Tensor], folder: Path) -> nn.Module:
        return LinearHead.of({f"0.{name}": weight for name, weight in weights.items()}, folder)


class AestheticV2(_ClipAesthetic):
    """LAION aesthetics v2: five linear layers on CLIP ViT-L/14, about 1 to 10."""

    stem = "aesthetic_v2"
    published = "the layers of sac+logos+ava1-l14-linearMSE"


_CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
_POOLS = (4, 9, 16, 23, 30)
_RESIZED, _CROPPED = 256, 224
NUM_RATINGS = 10


class _Vgg16(nn.Module):
    """VGG-16's convolutions with a classifier over ten ratings, under the published names."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.features, self.classifier = nn.Sequential(), nn.Sequential()
        wide = iter(widths)
        before = 3
        for place in range(_POOLS[-1] + 1):
            if place in _CONVOLUTIONS:
                after = next(wide)
                self.features.append(nn.Conv2d(before, after, 3, padding=1))
                before = after
            else:
                self.features.append(nn.MaxPool2d(2) if place in _POOLS else nn.ReLU())
        side = _CROPPED // 2 ** len(_POOLS)
        self.classifier.append(nn.Identity())  # a dropout in training
        self.classifier.append(nn.Linear(before * side**2, NUM_RATINGS))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the probability of each rating, ``[B, 10]``."""
        logits: Tensor = self.classifier(self.features(pixels).flatten(1))
        return logits.softmax(dim=-1)


class Nima(LearnedMetric):
    """NIMA: the mean of ten ratings that a VGG-16 expects, 1 to 10.

    Pictures are resized to 256 on the shorter side and cropped to 224 in the middle, where the
    published program crops at random; like it, colours are not normalised. Weights have the
    published names, ``features.0.weight`` and so on.
    """

    stem = "nima"
    published = "the weights of Neural-IMage-Assessment (VGG-16, AVA)"

    def __init__(self, model: nn.Module, processor: Any) -> None:
        """Hold a model; ``load`` is the way to make one from a folder."""
        self._model, self._processor = model, processor

    @classmethod
    def _of(cls, folder: Path, weights: dict[str, Tensor], device: torch.device) -> Self:
        first = [f"features.{place}.weight" for place in _CONVOLUTIONS]
        if absent := [name for name in first if name not in weights]:
            raise CheckpointError(
                f"{folder}: expected the weights of a VGG-16, and {absent[0]} is missing"
            )
        model = _Vgg16([weights[name].shape[0] for name in first])
        fill(model, weights, folder)
        return cls(model.to(device), _nima_processor())

    def measure(
        self,
        images: list[Tensor],
        texts: Sequence[str] | None,
        references: Sequence[Tensor] | Tensor | None,
    ) -> Tensor:
        """Return each picture's mean rating, ``[B]``."""
        device = next(self._model.parameters()).device
        ratings = torch.arange(1, NUM_RATINGS + 1, dtype=torch.float32)
        parts = []
        with torch.no_grad():
            for start in range(0, len(images), BATCH):
                pixels = pixels_of(self._processor, images[start : start + BATCH])
                parts.append(self._model(pixels.to(device)).cpu() @ ratings)
        return torch.cat(parts)


def _nima_processor() -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPImageProcessorPil(
        size={"shortest_edge": _RESIZED}, crop_size=_CROPPED, resample=2, do_normalize=False
    )
