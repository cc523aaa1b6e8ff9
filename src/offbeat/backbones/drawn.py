"""Any text-to-image model as what a search walks through: its pictures are drawn, and read.

A picture and an encoder's reading of it stand where a prior's sample stands. A model of few
denoising steps lets gradients through them; any other is searched without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from offbeat.backbones.conditions import cut_text
from offbeat.backbones.images import in_batches
from offbeat.backbones.readers import Reader, load_reader
from offbeat.backbones.unclip.prior import check_streams
from offbeat.errors import CapabilityError
from offbeat.protocols import (
    DenoisingBackbone,
    DrawingBackbone,
    ExploringBackbone,
    Generators,
    TextBackbone,
)
from offbeat.protocols.capabilities import backbones_with
from offbeat.types import TextEmbeds

MAX_SEARCH_STEPS = 10
"""Denoising steps of a search and its pictures, at most, where nothing is said."""

CROSS_ATTENTION = ".attn2."
"""Layers that carry LoRA factors, as in the prior: what the text is read by."""


class DrawnPictures:
    """A checkpoint whose samples are an encoder's readings of the pictures that it draws."""

    def __init__(self, backbone: DrawingBackbone, reader: Reader) -> None:
        self.inner, self.reader = backbone, reader
        card = backbone.card
        steps = min(int(card["num_inference_steps"]), MAX_SEARCH_STEPS)
        self._card = {
            "prior_guidance_scale": card["guidance_scale"],
            "prior_num_inference_steps": steps,
            "explore_prior_num_inference_steps": steps,
            **card,
        }

    def __getattr__(self, name: str) -> Any:
        """Return what else the checkpoint has."""
        if name in ("inner", "reader"):  # not made yet, as in a copy
            raise AttributeError(name)
        return getattr(self.inner, name)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.inner.device

    @property
    def name(self) -> str:
        """Of the checkpoint that draws."""
        return self.inner.name

    @property
    def fingerprint(self) -> str:
        """Of the checkpoint that draws: what is learned is its own."""
        return self.inner.fingerprint

    @property
    def card(self) -> Mapping[str, Any]:
        """Its card, with steps and guidance of the search."""
        return self._card

    @property
    def has_gradient(self) -> bool:
        """Whether gradients pass its denoising."""
        return isinstance(self.inner, DenoisingBackbone)

    def token_embed(self, words: str) -> Tensor:
        """Return the input-side vector of ``words``, ``[E]``."""
        return self.inner.token_embed(words)

    def token_embeds(self, words: str) -> Tensor:
        """Return the input-side vectors of ``words``, ``[K, E]``."""
        return self.inner.token_embeds(words)

    def num_tokens(self, text: str) -> int:
        """Return how many tokens ``text`` is cut into, without start and end."""
        return self.inner.num_tokens(text)

    def encode_text(
        self, prompts: Sequence[str], *, tokens: Mapping[str, Tensor] | None = None
    ) -> TextEmbeds:
        """Encode prompts for drawing, words of ``tokens`` replaced by their vectors."""
        return self.inner.encode_text(prompts, tokens=tokens)

    def encode_image(self, images: Tensor) -> Tensor:
        """Return what the encoder reads, ``[B, D]``, of ``images``, ``[B, 3, H, W]``, 0 to 1."""
        return self.reader.read_images(images)

    def read_texts(self, texts: Sequence[str]) -> Tensor | None:
        """Return texts in the encoder's space, ``[B, D]``; None without a text tower."""
        return self.reader.read_texts(texts)

    def draw_text(self, text: TextEmbeds, *, generator: Generators, **settings: Any) -> Tensor:
        """Return ``images``, ``[B, 3, H, W]``, 0 to 1, as the checkpoint draws them."""
        return self.inner.draw_text(text, generator=generator, **settings)

    def sample_prior(
        self,
        text: TextEmbeds,
        *,
        generator: Generators,
        num_samples: int | None = None,
        negative: TextEmbeds | None = None,
        lora: Mapping[str, Tensor] | None = None,
        num_inference_steps: int | None = None,
        prior_guidance_scale: float | None = None,
        gradient_steps: int | None = None,
    ) -> Tensor:
        """Return readings of the pictures of a text, ``[B, D]``: see ``read_pictures``."""
        return read_pictures(
            self.inner,
            self.encode_image,
            text,
            generator=generator,
            num_samples=num_samples,
            negative=negative,
            lora=lora,
            num_inference_steps=num_inference_steps,
            guidance_scale=prior_guidance_scale,
            gradient_steps=gradient_steps,
        )

    def init_lora(self, rank: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Return fresh LoRA factors for the cross-attention of the denoiser.

        Raises:
            CapabilityError: If the checkpoint takes none.
        """
        if not hasattr(self.inner, "init_unet_lora"):
            able = backbones_with("init_unet_lora")
            raise CapabilityError("a search of LoRA", self.name, "init_unet_lora", able)
        factors = self.inner.init_unet_lora(rank, generator=generator)
        return {name: factor for name, factor in factors.items() if CROSS_ATTENTION in name}

    @property
    def takes_lora(self) -> bool:
        """Whether the checkpoint takes LoRA factors."""
        return hasattr(self.inner, "init_unet_lora")

    def adapted(self, lora: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """Return a block in which the denoiser computes with factors."""
        return _adapted(self.inner, lora)


def _adapted(backbone: Any, lora: Mapping[str, Tensor] | None) -> AbstractContextManager[None]:
    block: AbstractContextManager[None] = backbone.adapted(lora) if lora else nullcontext()
    return block


def read_pictures(
    backbone: Any,
    read: Callable[[Tensor], Tensor],
    text: TextEmbeds,
    *,
    generator: Generators,
    num_samples: int | None = None,
    negative: TextEmbeds | None = None,
    lora: Mapping[str, Tensor] | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    gradient_steps: int | None = None,
) -> Tensor:
    """Return what ``read`` makes of the pictures of a text, ``[B, D]``, float32.

    With the same streams, ``draw_text`` within ``adapted(lora)`` draws those pictures. With
    gradients, each denoising step, and decoding with reading, is computed again in the backward
    pass, so that memory holds one of them at a time.

    Args:
        backbone: Draws from text; gradients pass it only if it is a ``DenoisingBackbone``.
        read: Pictures, ``[B, 3, H, W]``, to ``[B, D]``.
        text: One prompt for all samples, or one for each.
        generator: One for each sample (then batches are sized to memory), or one for all.
        num_samples: B; None means the number of streams, or of prompts.
        negative: What guidance steers from; not read where that is off.
        lora: Factors in PEFT's names; gradients reach them.
        num_inference_steps: Denoising steps; None is the checkpoint's own.
        guidance_scale: 1 or less is off; None is the checkpoint's own.
        gradient_steps: Let the gradient pass the last so many denoising steps only.
    """
    noises = generator if isinstance(generator, Sequence) else ()
    count = num_samples or len(noises) or len(text)
    check_streams(generator, count)
    steps = num_inference_steps or int(backbone.card["num_inference_steps"])
    settings = {"num_inference_steps": steps, "guidance_scale": guidance_scale}

    def drawn(rows: slice) -> Tensor:
        noise: Generators = list(noises[rows]) if noises else generator
        part = {"negative": None if negative is None else cut_text(negative, rows), **settings}
        num = len(range(count)[rows])
        if not (torch.is_grad_enabled() and isinstance(backbone, DenoisingBackbone)):
            with _adapted(backbone, lora):
                return read(
                    backbone.draw_text(
                        cut_text(text, rows), generator=noise, num_samples=num, **part
                    )
                )
        latents = backbone.init_latents(noise, num_samples=num, num_inference_steps=steps)
        for start, stop in _pieces(backbone, steps):
            part["gradient_steps"] = _of_piece(gradient_steps, steps, start, stop)
            walk = _walk(backbone, cut_text(text, rows), noise, lora, start, stop, dict(part))
            latents = _again(backbone, walk, latents)
        if getattr(getattr(backbone, "vae", None), "is_gradient_checkpointing", False):
            return read(backbone.decode(latents))  # it computes its blocks again itself
        return _again(backbone, lambda x: read(backbone.decode(x)), latents)

    size = int(backbone.card["decode_batch_size"]) if noises else count
    return in_batches(drawn, count, size, noises)


def _again(backbone: Any, compute: Callable[[Tensor], Tensor], latents: Tensor) -> Tensor:
    """Return what a piece computes; it is computed again for its gradient, to save memory."""
    placement = getattr(backbone, "_placement", None)
    if placement is not None and placement.offload == "model":
        return compute(latents)  # its weights have left by then
    result: Tensor = checkpoint(compute, latents, use_reentrant=False)
    return result


def _pieces(backbone: Any, steps: int) -> list[tuple[int, int]]:
    """Return from where to where the walk is computed at a time."""
    if backbone.sampler_in_pieces == "own":
        return [(at, at + 1) for at in range(steps)]
    return [(0, steps)]  # the scheduler remembers earlier steps, so it walks in one go


def _of_piece(gradient_steps: int | None, steps: int, start: int, stop: int) -> int | None:
    """Return how many of the last steps of a piece the gradient passes."""
    if gradient_steps is None:
        return None
    return max(0, stop - max(start, steps - gradient_steps))


def _walk(
    backbone: Any,
    text: TextEmbeds,
    noise: Generators,
    lora: Mapping[str, Tensor] | None,
    start: int,
    stop: int,
    settings: Mapping[str, Any],
) -> Callable[[Tensor], Tensor]:
    """Return a piece of the walk that gives the same again: its streams are set back first."""
    streams = [noise] if isinstance(noise, torch.Generator) else list(noise)
    states = [stream.get_state() for stream in streams]

    def walk(latents: Tensor) -> Tensor:
        for stream, state in zip(streams, states, strict=True):
            stream.set_state(state)
        with _adapted(backbone, lora):
            stepped: Tensor = backbone.denoise(
                latents, text, generator=noise, start=start, stop=stop, **settings
            )
        return stepped

    return walk


def explorable(backbone: TextBackbone, encoder: str | None = None) -> ExploringBackbone:
    """Return what a search walks through: the checkpoint itself, or its pictures, read.

    Args:
        backbone: A checkpoint that samples embeddings itself, or one that draws from text.
        encoder: Folder or hub id of what reads pictures: see ``load_reader``.

    Raises:
        CapabilityError: If it does neither.
        CheckpointError: If there is no such encoder.
    """
    if isinstance(backbone, DrawnPictures):
        return backbone
    from_text = isinstance(backbone, DrawingBackbone)
    if isinstance(backbone, ExploringBackbone) and not (from_text and encoder):
        return backbone
    if not isinstance(backbone, DrawingBackbone):
        able = backbones_with("draw_text")
        raise CapabilityError("exploration", backbone.name, "draw_text", able)
    return DrawnPictures(backbone, load_reader(encoder, backbone))
