"""ImageReward: how well a picture matches its text, learned from rankings by people.

A BLIP whose text encoder looks at the picture, and five linear layers on its first state; the value
is standardised over the pictures that it learned from.

Source: Xu et al., ImageReward, arXiv:2304.05977; layout and constants of its published file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from offbeat.checkpoints.weights import load_part
from offbeat.errors import CheckpointError
from offbeat.metrics.aesthetics import LearnedMetric, LinearHead
from offbeat.metrics.checkpoints import fill, pixels_of
from offbeat.metrics.common import BATCH, texts_for
from offbeat.protocols import Need

if TYPE_CHECKING:
    from typing_extensions import Self

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Of the raw values over its data, as published."""
MAX_TOKENS = 35
"""Of a text, as published; what is longer is cut."""
CONFIG = "med_config.json"
"""The text encoder's configuration, as it lies beside the published weights."""

_VISION = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj": "embeddings.patch_embedding",
    "norm": "post_layernorm",
}
_IN_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_CONFIGURED = (
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_norm_eps",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "vocab_size",
)
"""What is read of ``med_config.json``."""
_UNUSED = ("blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.embeddings.position_ids")
"""Published with it, and of no part in the value."""


def to_transformers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the published weights under the names of ``BlipVisionModel`` and ``BlipTextModel``.

    They begin with ``vision.``, ``text.`` and ``head.``; what is not known keeps its name.
    """
    renamed = {}
    for name, weight in weights.items():
        if name.startswith(_UNUSED):
            continue
        for old, new in (("blip.text_encoder.", "text."), ("mlp.layers.", "head.")):
            if name.startswith(old):
                name = new + name[len(old) :]
        if name.startswith("blip.visual_encoder."):
            name = "vision." + _vision_name(name.removeprefix("blip.visual_encoder."))
        renamed[name] = weight
    return renamed


def _vision_name(name: str) -> str:
    stem, _, kind = name.rpartition(".")
    if name in _VISION or stem in _VISION:
        return _VISION[name] if name in _VISION else f"{_VISION[stem]}.{kind}"
    _, number, *rest = stem.split(".")
    part = ".".join(rest)
    return f"encoder.layers.{number}.{_IN_BLOCK.get(part, part)}.{kind}"


class ImageReward(LearnedMetric):
    """ImageReward: about mean 0 and standard deviation 1 over its data; higher is better.

    Its folder has the published weights, ``med_config.json`` and the files of the tokenizer
    ``bert-base-uncased``.
    """

    stem = "imagereward"
    needs: tuple[Need, ...] = ("texts",)
    default = "THUDM/ImageReward"
    published = "the weights of THUDM/ImageReward"

    def __init__(self, vision: Any, text: Any, head: nn.Module, tokenizer: Any) -> None:
        """Hold the parts; ``load`` is the way to make one from a folder."""
        self._vision, self._text, self._head, self._tokenizer = vision, text, head, tokenizer
        self._processor = _processor(vision.config.image_size)

    @classmethod
    def _of(cls, folder: Path, weights: dict[str, Tensor], device: torch.device) -> Self:
        from transformers import BertTokenizer

        renamed = to_transformers(weights)
        vision, text, head = (_part(renamed, part) for part in ("vision.", "text.", "head."))
        if not (vision and text and head):
            raise CheckpointError(
                f"{folder}: expected blip.visual_encoder.*, blip.text_encoder.* and mlp.layers.*, "
                f"got {', '.join(sorted(renamed)[:3])}, ..."
            )
        return cls(
            _vision(vision, folder).to(device),
            _text(text, folder).to(device),
            LinearHead.of(head, folder).to(device),
            load_part(BertTokenizer, folder),
        )

    def measure(
        self,
        images: list[Tensor],
        texts: Sequence[str] | None,
        references: Sequence[Tensor] | Tensor | None,
    ) -> Tensor:
        """Return the reward of each picture for its text, ``[B]``."""
        prompts, parts = texts_for(texts, len(images)), []
        with torch.no_grad():
            for start in range(0, len(images), BATCH):
                rows = slice(start, start + BATCH)
                parts.append(self._reward(images[rows], prompts[rows]))
        return (torch.cat(parts) - MEAN) / STD

    def _reward(self, images: Sequence[Tensor], texts: Sequence[str]) -> Tensor:
        device = self._vision.device
        pixels = pixels_of(self._processor, images).to(device)
        seen = self._vision(pixel_values=pixels).last_hidden_state
        said = self._tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        ).to(device)
        states = self._text(
            input_ids=said.input_ids,
            attention_mask=said.attention_mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:-1], dtype=torch.long, device=device),
        ).last_hidden_state
        reward: Tensor = self._head(states[:, 0].float())
        return reward[:, 0].cpu()


def _part(weights: Mapping[str, Tensor], start: str) -> dict[str, Tensor]:
    return {
        name[len(start) :]: weight for name, weight in weights.items() if name.startswith(start)
    }


def _depth(weights: Mapping[str, Tensor], mark: str) -> int:
    """Return how many layers there are, by the weights that each has one of."""
    return sum(mark in name for name in weights)


def _vision(weights: dict[str, Tensor], where: Path) -> Any:
    from transformers import BlipVisionConfig, BlipVisionModel

    try:
        patch = weights["embeddings.patch_embedding.weight"].shape
        places = weights["embeddings.position_embedding"].shape[1] - 1
        mlp = weights["encoder.layers.0.mlp.fc1.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(
            f"{where}: expected a vision transformer, and {error} is missing"
        ) from error
    config = BlipVisionConfig(
        hidden_size=patch[0],
        intermediate_size=mlp,
        num_hidden_layers=_depth(weights, "self_attn.qkv.weight"),
        num_attention_heads=max(1, patch[0] // 64),  # ViT-B, L and H all have heads of 64
        image_size=round(places**0.5) * patch[-1],
        patch_size=patch[-1],
        layer_norm_eps=1e-6,
    )
    model = BlipVisionModel(config)
    fill(model, weights, where)
    return model


def _text(weights: dict[str, Tensor], where: Path) -> Any:
    from transformers import BlipTextConfig, BlipTextModel

    values = _med_config(where / CONFIG)
    cross = weights.get("encoder.layer.0.crossattention.self.key.weight")
    if cross is None:
        raise CheckpointError(f"{where}: expected a text encoder that looks at pictures, got none")
    config = BlipTextConfig(
        **{name: values[name] for name in _CONFIGURED if name in values},
        encoder_hidden_size=cross.shape[1],
        bos_token_id=None,  # it writes nothing: none of these is used
        eos_token_id=None,
        sep_token_id=None,
    )
    model = BlipTextModel(config, add_pooling_layer=False)
    fill(model, weights, where)
    return model


def _med_config(file: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{file}: expected the text encoder's configuration as a JSON object ({error})"
        ) from error
    return config


def _processor(size: int) -> Any:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size=size)
