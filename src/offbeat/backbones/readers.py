"""Encoders that read pictures with a gradient: a checkpoint's own, or a CLIP, SigLIP or DINOv2.

Sources: Radford et al., CLIP, arXiv:2103.00020; Zhai et al., SigLIP, arXiv:2303.15343; Oquab et
al., DINOv2, arXiv:2304.07193.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from offbeat.backbones.images import PixelStats, clip_pixels, read_pixel_stats
from offbeat.checkpoints.weights import (
    fingerprint,
    load_model,
    load_part,
    model_config,
    model_folder,
)
from offbeat.errors import CheckpointError, MissingExtraError
from offbeat.protocols import EncodesImage

PUBLISHED = "openai/clip-vit-large-patch14"
"""What reads the pictures of a checkpoint that brings no image encoder."""

MODELS = {
    "clip": ("CLIPModel", "CLIPTokenizer"),
    "siglip": ("SiglipModel", "SiglipTokenizer"),
    "dinov2": ("Dinov2Model", None),
    "clip_vision_model": ("CLIPVisionModelWithProjection", None),
}
"""``model_type`` of a folder's configuration, and the classes of its model and tokenizer."""


class Reader(Protocol):
    """Reads pictures into a space, and texts where it has a tower for them."""

    checkpoint: str
    """Its name and a digest of its weights: equal ones read the same."""

    def read_images(self, images: Tensor) -> Tensor:
        """Return ``[B, D]`` of ``images``, ``[B, 3, H, W]``, 0 to 1; gradients reach them."""
        ...

    def read_texts(self, texts: Sequence[str]) -> Tensor | None:
        """Return ``[B, D]`` in the same space, or None without a text tower."""
        ...


class OwnReader:
    """A checkpoint's own image encoder, and its text encoder where both share a space."""

    def __init__(self, backbone: Any) -> None:
        self._backbone = backbone
        self.checkpoint = f"own@{backbone.fingerprint[:8]}"

    def read_images(self, images: Tensor) -> Tensor:
        """Return ``image_embeds``, ``[B, D]``."""
        image_embeds: Tensor = self._backbone.encode_image(images)
        return image_embeds

    def read_texts(self, texts: Sequence[str]) -> Tensor | None:
        """Return projected text, ``[B, D]``; None where the checkpoint projects none."""
        project = getattr(self._backbone, "project_text", None)
        return None if project is None else project(texts)


class ModelReader:
    """A model of transformers in a folder: CLIP, SigLIP, DINOv2, or CLIP's image tower alone."""

    def __init__(
        self, model: Any, pixels: PixelStats, tokenizer: Any = None, *, checkpoint: str
    ) -> None:
        self._model, self._pixels, self._tokenizer = model, pixels, tokenizer
        self.checkpoint = checkpoint
        config = model.config
        self._size = int(getattr(config, "vision_config", config).image_size)

    @classmethod
    def load(cls, source: str | Path, *, device: str | torch.device = "cpu") -> ModelReader:
        """Load a folder or hub id.

        Raises:
            CheckpointError: If it holds no model of these kinds, or it is damaged.
            UnsafeWeightsError: If its weights are there only as a pickle.
        """
        import transformers

        folder = model_folder(source)
        kind = str(model_config(folder).get("model_type"))
        if kind not in MODELS:
            raise CheckpointError(
                f"{source}: expected an image encoder of type {', '.join(MODELS)}, got {kind!r}"
            )
        loader, texts = MODELS[kind]
        model = load_model(getattr(transformers, loader), folder, dtype=torch.float32)
        tokenizer = None
        if texts is not None:
            # pictures can be read without it: the anchor is then the mean of ordinary ones
            with suppress(CheckpointError, MissingExtraError):
                tokenizer = load_part(getattr(transformers, texts), folder)
        return cls(
            model.to(device),
            read_pixel_stats(folder),
            tokenizer,
            checkpoint=f"{Path(source).name}@{fingerprint(folder, size=4)}",
        )

    def read_images(self, images: Tensor) -> Tensor:
        """Return ``[B, D]``, float32, in the model's joint space, or pooled where it has none."""
        pixels = clip_pixels(images, self._size, self._pixels, self._model)
        if hasattr(self._model, "get_image_features"):
            output = self._model.get_image_features(pixel_values=pixels)
        else:
            output = self._model(pixel_values=pixels)
        embeds: Tensor = (
            output.image_embeds if "image_embeds" in output else output.pooler_output
        ).float()
        return embeds

    def read_texts(self, texts: Sequence[str]) -> Tensor | None:
        """Return ``[B, D]``, float32; None without a text tower."""
        if self._tokenizer is None:
            return None
        length = self._model.config.text_config.max_position_embeddings
        batch = self._tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=length,
            return_tensors="pt",
        ).to(self._model.device)  # fmt: skip
        embeds: Tensor = self._model.get_text_features(**batch).pooler_output.float()
        return embeds


def load_reader(source: str | Path | None, backbone: Any) -> Reader:
    """Return what reads a checkpoint's pictures.

    Args:
        source: Folder or hub id of an encoder; None takes the checkpoint's own, or the published
            CLIP where it brings none.
        backbone: A loaded checkpoint.

    Raises:
        CheckpointError: If there is no such encoder.
        UnsafeWeightsError: If its weights are there only as a pickle.
    """
    own = isinstance(backbone, EncodesImage) and getattr(backbone, "image_encoder", True)
    if source is None and own:
        return OwnReader(backbone)
    return ModelReader.load(PUBLISHED if source is None else source, device=backbone.device)
