"""pocket's second half, SD 1.5, their one-step kin, and SDXL: text (and a picture) -> latents.

All are the same component classes of diffusers and transformers, so they are one adapter: it
differs by what a checkpoint brings, one text encoder or two, an IP-Adapter or none.
Sources: Rombach et al., arXiv:2112.10752; Podell et al., SDXL, arXiv:2307.01952.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offbeat.backbones.emphasis import encode_weighted
from offbeat.backbones.images import clip_pixels
from offbeat.backbones.inversion import ddim_of
from offbeat.backbones.stable_diffusion.latents import LatentDenoiser
from offbeat.backbones.stable_diffusion.load import (
    load_adapter,
    load_components,
    load_named_adapter,
    own_projection,
)
from offbeat.backbones.text import Encoder
from offbeat.checkpoints.known.cards import drawing_settings
from offbeat.checkpoints.known.stable_diffusion import defaults, digested, find, read_cards
from offbeat.checkpoints.pipeline import cell_of, fingerprint
from offbeat.types import TextEmbeds


class StableDiffusionBackbone(LatentDenoiser):
    """A text-to-image latent diffusion model, frozen; gradients reach tokens, text and latents.

    A published pipeline's safety checker is not run: what is drawn is for its user to judge.
    """

    def __init__(
        self,
        parts: Mapping[str, Any],
        *,
        name: str,
        digest: str,
        card: Mapping[str, Any],
    ) -> None:
        self._name = name
        self._fingerprint = digest
        self._card = dict(card)
        self._encoders = tuple(
            Encoder(tokenizer, module, name) for tokenizer, module in parts["texts"]
        )
        self.unet = parts["unet"]
        self.vae = parts["vae"]
        # a scheduler keeps its timesteps: two users of one object would disturb each other
        self.scheduler = copy.deepcopy(parts["scheduler"])
        self._ddim = ddim_of(self.scheduler)
        self.is_xl: bool = self.unet.config.addition_embed_type == "text_time"
        self.lora_loader = f"StableDiffusion{'XL' * self.is_xl}LoraLoaderMixin"
        self._zero_empty: bool = parts["zero_empty"]
        self._adapter = parts.get("adapter")
        self.image_encoder = parts.get("image_encoder")
        self._pixel_stats = parts.get("pixels")
        self._projection = parts.get("text_projection")
        self._freeze()

    @classmethod
    def load(
        cls,
        source: str | Path = "pocket-sd",
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        ip_adapter: str | Path | None = None,
        config: str | Path | None = None,
    ) -> StableDiffusionBackbone:
        """Load a checkpoint by name, folder (with ``model_index.json``), hub id or single file.

        Args:
            source: Which.
            device: Where to run.
            dtype: Of the weights.
            ip_adapter: File of an IP-Adapter; None is ``ip_adapter/ip_adapter.safetensors`` in the
                folder, if it is there.
            config: Folder or hub id with a single file's settings and tokenizers; None is the
                folder beside it of its name without suffix, or the published one of its family.

        Raises:
            CheckpointError: If there is no such checkpoint, or it is damaged or of another family.
            UnsafeWeightsError: If its weights are there only as pickles.
        """
        folder = find(source, config)
        parts = load_components(folder, dtype)
        parts |= load_adapter(folder, parts["unet"], ip_adapter, dtype)
        parts["text_projection"] = own_projection(folder, parts, dtype)
        own = defaults(folder, parts["unet"], cell_of(parts["vae"].config))
        card = {**own, **read_cards(folder)}
        where = digested(folder, ip_adapter)
        digest = fingerprint(*where, settings=drawing_settings(card))
        return cls(parts, name=str(source), digest=digest, card=card).to(device)

    @property
    def takes_images(self) -> bool:
        """Whether pictures can be prompts: it has an IP-Adapter and the encoder for it."""
        return self._adapter is not None and self.image_encoder is not None

    def _add_ip_adapter(self, source: str) -> None:
        parts = load_named_adapter(source, self.unet, self.dtype)
        self._adapter = parts["adapter"]
        self.image_encoder = parts["image_encoder"]
        self._pixel_stats = parts["pixels"]
        for module in (self._adapter.modules, self.image_encoder):
            module.eval().requires_grad_(False)

    # --- text -----------------------------------------------------------------------------

    def encode_text(
        self, prompts: Sequence[str], *, tokens: Mapping[str, Tensor] | None = None
    ) -> TextEmbeds:
        """Encode prompts; each word of ``tokens`` is replaced by its vectors.

        With ``prompt_syntax`` ``a1111``, weights and breaks are read.

        Every prompt fills all positions: this family pads, and the U-Net sees the padding too.

        Args:
            prompts: B texts.
            tokens: Word to its vectors, ``[E]`` or ``[K, E]``, those of two encoders side by side;
                gradients reach them.

        Returns:
            Hidden states of the last layer, or in SDXL of the last but one of each encoder side by
            side; pooled vectors, projected where there is a projection, side by side too.

        Raises:
            PromptError: If there is no prompt, or one is longer than the text encoder's positions:
                it is never cut in silence.
            ShapeError: If a token's width is not the encoders'.
        """
        if self._syntax == "a1111":
            return encode_weighted(self, prompts, tokens)
        return self.encode_plain(prompts, tokens=tokens)

    takes_syntax = True

    @property
    def few_steps_kind(self) -> str:  # type: ignore[override]
        """For which kind of model LoRA of few steps must be."""
        return "sdxl" if self.is_xl else "sd-1.5"

    def encode_plain(
        self, prompts: Sequence[str], *, tokens: Mapping[str, Tensor] | None = None
    ) -> TextEmbeds:
        """Encode prompts as they are: see ``encode_text``."""
        read = self._read(prompts, tokens, to_limit=True, output_hidden_states=self.is_xl)
        outputs = [output for output, _ in read]
        states = [
            output.hidden_states[-2] if self.is_xl else output.last_hidden_state
            for output in outputs
        ]
        pooled = [
            output.text_embeds if "text_embeds" in output else output.pooler_output
            for output in outputs
        ]
        widths = tuple(vector.shape[-1] for vector in pooled) if len(pooled) > 1 else ()
        return TextEmbeds(
            torch.cat(pooled, dim=-1).float(),
            torch.cat(states, dim=-1).float(),
            read[0][1],
            widths,
        )

    # --- pictures -------------------------------------------------------------------------

    def encode_image(self, images: Tensor) -> Tensor:
        """Return ``image_embeds``, ``[B, D]``, of ``images``, ``[B, 3, H, W]``, 0 to 1.

        Raises:
            CapabilityError: If the checkpoint has no image encoder.
        """
        encoder = self._need("encode_image", "image_encoder", self.image_encoder)
        stats = self._need("encode_image", "image_encoder", self._pixel_stats)
        pixels = clip_pixels(images, int(encoder.config.image_size), stats, encoder)
        image_embeds: Tensor = encoder(pixels).image_embeds
        return image_embeds.float()

    def project_text(self, prompts: Sequence[str]) -> Tensor | None:
        """Return prompts in the space of ``encode_image``, ``[B, D]``; None if they share none."""
        if self.image_encoder is None or len(self._encoders) != 1:
            return None
        pooled = StableDiffusionBackbone.encode_text(self, prompts).text_embeds
        if self._projection is not None:
            layer = self._projection
            projected: Tensor = layer(pooled.to(self.device, layer.weight.dtype)).float()
            return projected
        projects = hasattr(self._encoders[0].module, "text_projection")
        return pooled if projects else None

    # --- parts ----------------------------------------------------------------------------

    def lora_parts(self) -> dict[str, Any]:
        """Return the networks that LoRA factors may change: the U-Net, and the text encoders."""
        names = ("text_encoder", "text_encoder_2")
        texts = (encoder.module for encoder in self._encoders)
        return {"unet": self.unet, **dict(zip(names, texts, strict=False))}

    def _empty(self) -> TextEmbeds:
        """Return what guidance steers from if nothing is said: in SDXL, zeros."""
        empty = self.encode_text([""])
        if not (self.is_xl and self._zero_empty):
            return empty
        return replace(
            empty,
            text_embeds=torch.zeros_like(empty.text_embeds),
            text_encoder_hidden_states=torch.zeros_like(empty.text_encoder_hidden_states),
        )

    def _modules(self) -> Iterator[Any]:
        yield self.unet
        yield self.vae
        yield from (encoder.module for encoder in self._encoders)
        if self.image_encoder is not None:
            yield self.image_encoder
        if self._adapter is not None:
            yield self._adapter.modules
        if self._projection is not None:
            yield self._projection
