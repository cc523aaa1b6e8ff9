"""Encoders that compare pictures and texts: the checkpoint's own, or a separate CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from offbeat.checkpoints.weights import fingerprint, load_model, load_part, model_config
from offbeat.errors import CapabilityError
from offbeat.metrics import open_clip
from offbeat.metrics.base import BaseMetric
from offbeat.metrics.checkpoints import (
    fill,
    names_of,
    pixels_of,
    read_weights,
    short_name,
    small_files,
    weights_folder,
)
from offbeat.metrics.common import BATCH, in_equal_sizes
from offbeat.protocols import EncodesImage, SeeingBackbone

if TYPE_CHECKING:
    from typing_extensions import Self

CLIP_LARGE = "openai/clip-vit-large-patch14"
"""What metrics over CLIP take if neither a source nor a backbone is named."""


class Encoder(Protocol):
    """Pictures and texts in one space."""

    name: str
    """What stands in the brackets behind a metric's name."""
    checkpoint: str
    """Its name and a digest of its weights."""
    logit_scale: float | None
    """What its cosines were multiplied by in training; None where that is not kept."""

    def image_embeds(self, images: Sequence[Tensor]) -> Tensor:
        """Return ``[B, D]``, float32, on the CPU, of pictures ``[3, H, W]`` of any sizes."""
        ...

    def text_embeds(self, texts: Sequence[str]) -> Tensor:
        """Return ``[B, D]``, float32, on the CPU."""
        ...


class BackboneEncoder:
    """A backbone's own towers; the whole picture is stretched to what its image tower reads."""

    def __init__(self, backbone: SeeingBackbone) -> None:
        """Hold a backbone.

        Raises:
            CapabilityError: If it cannot read pictures, or its towers have no space in common.
        """
        if not isinstance(backbone, EncodesImage) or not hasattr(backbone, "encode_text"):
            raise CapabilityError("a metric", backbone.name, "encode_image", ("pocket",))
        self._backbone = backbone
        self.logit_scale: float | None = None
        self.name = short_name(backbone.name)
        self.checkpoint = f"{self.name}@{backbone.fingerprint[:8]}"

    def image_embeds(self, images: Sequence[Tensor]) -> Tensor:
        """Return ``[B, D]`` of pictures, ``[3, H, W]`` each."""
        return in_equal_sizes(images, self._backbone.encode_image)

    def text_embeds(self, texts: Sequence[str]) -> Tensor:
        """Return ``[B, D]``; equal texts are encoded once."""
        different = list(dict.fromkeys(texts))
        with torch.no_grad():
            parts = [
                self._backbone.encode_text(different[start : start + BATCH]).text_embeds
                for start in range(0, len(different), BATCH)
            ]
        return torch.cat(parts).float().cpu()[[different.index(text) for text in texts]]


class ClipEncoder:
    """A CLIP of transformers: pictures are resized and cropped as its own processor does it."""

    def __init__(self, model: Any, processor: Any, tokenizer: Any, *, name: str, checkpoint: str):
        self._model = model
        self._processor, self._tokenizer = processor, tokenizer
        self.name, self.checkpoint = name, checkpoint
        self.logit_scale: float | None = float(model.logit_scale.exp())

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "cpu",
        processor: str | Path | None = None,
    ) -> Self:
        """Load a folder or hub id of ``CLIPModel``, or of open_clip's names beside its config.

        Args:
            source: Which.
            device: Where it runs.
            processor: Folder or hub id of tokenizer, image processor and configuration, where the
                weights come without.

        Raises:
            CheckpointError: If it is none, or incomplete.
            UnsafeWeightsError: If the weights are there only as a pickle.
        """
        from transformers import CLIPTokenizer
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        folder = weights_folder(source)
        beside = folder
        if processor is not None and not (folder / "preprocessor_config.json").is_file():
            beside = small_files(processor, f"tokenizer and image processor for {source}")
        return cls(
            _clip_model(folder, beside).to(device),
            load_part(CLIPImageProcessorPil, beside),
            load_part(CLIPTokenizer, beside),
            name=short_name(source),
            checkpoint=f"{short_name(source)}@{fingerprint(folder, size=4)}",
        )

    def image_embeds(self, images: Sequence[Tensor]) -> Tensor:
        """Return ``[B, D]`` of pictures, ``[3, H, W]`` each."""
        device, parts = self._model.device, []
        with torch.no_grad():
            for start in range(0, len(images), BATCH):
                pixels = self._pixels(images[start : start + BATCH]).to(device)
                parts.append(self._model.get_image_features(pixel_values=pixels))
        return torch.cat([part.pooler_output for part in parts]).float().cpu()

    def _pixels(self, images: Sequence[Tensor]) -> Tensor:
        return pixels_of(self._processor, images)

    def text_embeds(self, texts: Sequence[str]) -> Tensor:
        """Return ``[B, D]``; a text beyond the tower's length is cut, as everywhere with CLIP."""
        length = self._model.config.text_config.max_position_embeddings
        parts = []
        with torch.no_grad():
            for start in range(0, len(texts), BATCH):
                batch = self._tokenizer(
                    list(texts[start : start + BATCH]),
                    padding=True,
                    truncation=True,
                    max_length=length,
                    return_tensors="pt",
                ).to(self._model.device)
                parts.append(self._model.get_text_features(**batch).pooler_output)
        return torch.cat(parts).float().cpu()


class FloatClipEncoder(ClipEncoder):
    """A CLIP that resizes pictures as floats, which neither rounds nor clips, as HPSv2 does."""

    def _pixels(self, images: Sequence[Tensor]) -> Tensor:
        side = int(self._model.config.vision_config.image_size)
        mean, std = (
            torch.tensor(part)[:, None, None]
            for part in (self._processor.image_mean, self._processor.image_std)
        )
        return torch.stack([(_cropped(image, side) - mean) / std for image in images])


def _cropped(image: Tensor, side: int) -> Tensor:
    """Return the middle square of a picture whose shorter side is resized, ``[3, side, side]``."""
    short = min(image.shape[-2:])
    size = [int(side * length / short) for length in image.shape[-2:]]
    fitted = torch.nn.functional.interpolate(image[None], size, mode="bicubic", antialias=True)[0]
    top, left = (round((length - side) / 2) for length in size)
    return fitted[:, top : top + side, left : left + side]


def _clip_model(folder: Path, beside: Path) -> Any:
    from transformers import CLIPConfig, CLIPModel

    if not open_clip.is_open_clip(names_of(folder)):
        return load_model(CLIPModel, folder, dtype=torch.float32)
    # open_clip keeps no configuration beside its weights: transformers' of the same CLIP must be
    described = folder if (folder / "config.json").is_file() else beside
    model = CLIPModel(CLIPConfig.from_dict(model_config(described)))
    fill(model, open_clip.to_transformers(read_weights(folder)), folder)
    return model


def load_encoder(
    source: str | Path | None,
    backbone: Any | None,
    default: str,
    device: str | torch.device = "cpu",
    kind: type[ClipEncoder] = ClipEncoder,
    processor: str | Path | None = None,
) -> Encoder:
    """Return the encoder of a metric: of its source, else of the backbone, else the published."""
    if source is None and backbone is not None:
        return BackboneEncoder(backbone)
    return kind.load(default if source is None else source, device=device, processor=processor)


class SharedEncoder:
    """An encoder that reads the same pictures once, for several metrics of one table."""

    def __init__(self, encoder: Encoder) -> None:
        """Stand before this encoder."""
        self._encoder = encoder
        self._read: dict[int, tuple[Tensor, Tensor]] = {}
        self.name, self.checkpoint = encoder.name, encoder.checkpoint
        self.logit_scale = encoder.logit_scale

    def image_embeds(self, images: Sequence[Tensor]) -> Tensor:
        """Return ``[B, D]`` of pictures; a tensor that was read is not read again."""
        fresh = [image for image in images if id(image) not in self._read]
        if fresh:
            embeds = self._encoder.image_embeds(fresh)
            # the picture is kept, too: another could get its id
            self._read |= {
                id(picture): (picture, row) for picture, row in zip(fresh, embeds, strict=True)
            }
        return torch.stack([self._read[id(image)][1] for image in images])

    def text_embeds(self, texts: Sequence[str]) -> Tensor:
        """Return ``[B, D]``."""
        return self._encoder.text_embeds(texts)


class EncoderMetric(BaseMetric):
    """A metric that sees pictures only as an encoder does."""

    default: str = CLIP_LARGE
    """Hub id of what it takes if neither a source nor a backbone is named."""
    processor: str | Path | None = None
    """Whose tokenizer and image processor it takes where the weights come without."""
    clip: type[ClipEncoder] = ClipEncoder
    """How weights of its own see pictures."""

    def __init__(self, encoder: Encoder) -> None:
        """Measure with this encoder."""
        self.encoder = encoder
        self.label, self.checkpoint = encoder.name, encoder.checkpoint

    @classmethod
    def load(
        cls,
        source: str | Path | None = None,
        *,
        backbone: Any | None = None,
        device: str | torch.device = "cpu",
    ) -> Self:
        """Load with weights of its own, or on a backbone's encoders.

        Args:
            source: Folder or hub id; None takes the backbone, or what was published if none.
            backbone: A loaded backbone that encodes text and pictures.
            device: Where weights of its own run.

        Raises:
            CheckpointError: If there are no such weights.
            CapabilityError: If the backbone cannot read pictures.
        """
        return cls(load_encoder(source, backbone, cls.default, device, cls.clip, cls.processor))
