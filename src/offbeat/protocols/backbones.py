"""What a backbone must offer: one capability, one Protocol.

Gradients reach everything that is passed in (tokens, LoRA factors, embeddings); the weights of a
backbone stay frozen. All tensors at these edges are float32.

A backbone may have more than its protocol asks for. ``token_layout``, tuples of encoder, width and
unit, says which part of a learned token belongs to which text encoder; a vector times its unit is
what that encoder reads. ``counting()`` is a block in which evaluations of its networks are counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from offbeat.types import AfterStep, AttentionEdit, OnClean, Sampler, TextEmbeds

Generators: TypeAlias = "torch.Generator | Sequence[torch.Generator]"
"""One stream for a whole batch, or one for each sample."""


@runtime_checkable
class TextBackbone(Protocol):
    """A checkpoint of any form: it encodes text, and says who it is and what suits it.

    Learned tokens are passed in, never patched in. What it is called comes after what it can do: a
    capability that is missing tells a reader more than a missing ``device``.
    """

    def token_embed(self, words: str) -> Tensor:
        """Return the input-side vector of ``words``, ``[E]``: the mean over their tokens."""
        ...

    def token_embeds(self, words: str) -> Tensor:
        """Return the input-side vectors of ``words``, ``[K, E]``: one for each of its tokens."""
        ...

    def num_tokens(self, text: str) -> int:
        """Return how many tokens ``text`` is cut into, without start and end."""
        ...

    def encode_text(
        self, prompts: Sequence[str], *, tokens: Mapping[str, Tensor] | None = None
    ) -> TextEmbeds:
        """Encode prompts, words of ``tokens`` replaced by their vectors, ``[E]`` or ``[K, E]``."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    @property
    def name(self) -> str:
        """The name that it was asked for by."""
        ...

    @property
    def fingerprint(self) -> str:
        """A digest of weights, configuration and the card's settings: equal ones draw the same."""
        ...

    @property
    def card(self) -> Mapping[str, Any]:
        """Its recommended settings and vocabulary, read from ``card.json``."""
        ...


@runtime_checkable
class EncodesImage(Protocol):
    """Reads pictures into CLIP image space."""

    def encode_image(self, images: Tensor) -> Tensor:
        """Return ``image_embeds``, ``[B, D]``, of ``images``, ``[B, 3, H, W]``, 0 to 1."""
        ...


@runtime_checkable
class SeeingBackbone(TextBackbone, EncodesImage, Protocol):
    """What methods need that draw on a checkpoint of any form, and compare what they drew."""


@runtime_checkable
class ExploringBackbone(SeeingBackbone, Protocol):
    """Samples of CLIP image space with a gradient, and LoRA factors that change them.

    They come from a prior that maps text there, or are readings of a one-step model's pictures.
    """

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
        """Return ``image_embeds``, ``[B, D]``; all noise comes from ``generator``.

        ``text`` holds one prompt for all ``num_samples`` samples, or one for each. ``None`` takes
        the checkpoint's own setting. ``gradient_steps`` lets the gradient pass the last so many
        denoising steps only; None is all of them.
        """
        ...

    def init_lora(self, rank: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Return fresh factors in PEFT's names: A random, B zero, alpha = rank."""
        ...


@runtime_checkable
class PriorBackbone(ExploringBackbone, Protocol):
    """A prior, and pictures of any point of its space."""

    def decode_embeds(
        self,
        image_embeds: Tensor,
        *,
        generator: Generators,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_image_embeds: Tensor | None = None,
    ) -> Tensor:
        """Return ``images``, ``[B, 3, H, W]``, 0 to 1.

        ``negative_image_embeds``, ``[1, D]`` or ``[B, D]``, are what guidance steers from.
        """
        ...


@runtime_checkable
class DrawingBackbone(TextBackbone, Protocol):
    """Draws pictures from text itself, without a prior."""

    def draw_text(
        self,
        text: TextEmbeds,
        *,
        generator: Generators,
        num_samples: int | None = None,
        negative: TextEmbeds | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image_embeds: Tensor | None = None,
        ip_adapter_scale: float | None = None,
    ) -> Tensor:
        """Return ``images``, ``[B, 3, H, W]``, 0 to 1; all noise comes from ``generator``.

        ``text`` holds one prompt for all ``num_samples`` pictures, or one for each; guidance steers
        from ``negative``, the empty prompt if None. ``image_embeds``, ``[1, D]`` or ``[B, D]``, are
        a picture as prompt. ``None`` takes the checkpoint's own setting.
        """
        ...


@runtime_checkable
class DenoisingBackbone(DrawingBackbone, Protocol):
    """Works on latents: noise, denoising step by step, estimates, inversion, pictures."""

    def init_latents(
        self,
        generator: Generators,
        *,
        num_samples: int | None = None,
        num_inference_steps: int | None = None,
        sampler: Sampler = "own",
    ) -> Tensor:
        """Return pure noise, ``[B, C, h, w]``, as ``denoise`` of this sampler starts from it."""
        ...

    def denoise(
        self,
        latents: Tensor,
        text: TextEmbeds,
        *,
        generator: Generators,
        negative: TextEmbeds | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        image_embeds: Tensor | None = None,
        ip_adapter_scale: float | None = None,
        start: int = 0,
        stop: int | None = None,
        gradient_steps: int | None = None,
        model_input: AfterStep | None = None,
        after_step: AfterStep | None = None,
        on_clean: OnClean | None = None,
        sampler: Sampler = "own",
    ) -> Tensor:
        """Return ``latents`` after the steps from ``start`` to before ``stop``, ``[B, C, h, w]``.

        ``gradient_steps`` lets the gradient pass the last so many steps only; None is all of them.
        ``model_input`` may show the network other latents than a step goes on from, ``after_step``
        may replace the latents after it. ``on_clean`` is told each step's estimate of the clean
        latents, for which the network is not asked again. ``sampler`` ``ddim`` walks the way that
        ``invert`` of ``DenoisingBackbone`` found. The rest is as in ``draw_text``.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Return ``images``, ``[B, 3, H, W]``, 0 to 1; gradients reach ``latents``."""
        ...

    def encode_latents(self, images: Tensor) -> Tensor:
        """Return ``latents``, ``[B, C, h, w]``, of ``images``, ``[B, 3, H, W]``, 0 to 1."""
        ...

    def add_noise(
        self,
        latents: Tensor,
        noise: Tensor,
        *,
        step: int,
        num_inference_steps: int | None = None,
        sampler: Sampler = "own",
    ) -> Tensor:
        """Return ``latents`` with ``noise`` as strong as before ``step``, ``[B, C, h, w]``.

        ``denoise`` with ``start=step`` and the same settings goes on from there.
        """
        ...

    def predict_clean(
        self,
        latents: Tensor,
        text: TextEmbeds,
        *,
        step: int,
        negative: TextEmbeds | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        sampler: Sampler = "own",
    ) -> Tensor:
        """Return the estimate of the clean latents, ``[B, C, h, w]``, that ``decode`` takes.

        ``latents`` are at the noise level of ``step``, as ``denoise`` with ``start=step`` takes
        them; the rest is as in ``denoise``, which is not disturbed.
        """
        ...

    def invert(
        self,
        images: Tensor,
        text: TextEmbeds,
        *,
        negative: TextEmbeds | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float = 1.0,
        num_refinements: int = 0,
    ) -> Tensor:
        """Return latents before each step and at the end, ``[T + 1, B, C, h, w]``.

        ``denoise(way[0], text, sampler="ddim")`` with the same settings leads to about ``way[-1]``.
        """
        ...

    def empty_text(self) -> TextEmbeds:
        """Return one prompt: that of an unguided half if nothing is said."""
        ...

    @property
    def sampler_in_pieces(self) -> Sampler:
        """``own``, or ``ddim`` where the checkpoint's own scheduler remembers earlier steps."""
        ...


@runtime_checkable
class PaintingBackbone(DenoisingBackbone, EncodesImage, Protocol):
    """Lets a method work inside attention, and fit LoRA factors to the denoiser."""

    def edit_attention(self, edit: AttentionEdit) -> AbstractContextManager[None]:
        """Return a block in which ``edit`` sees and changes every attention."""
        ...

    def init_unet_lora(self, rank: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Return fresh factors in PEFT's names: A random, B zero, alpha = rank."""
        ...

    def adapted(self, lora: Mapping[str, Tensor]) -> AbstractContextManager[None]:
        """Return a block in which the denoiser computes with factors, or with each sample's own."""
        ...

    def denoising_loss(self, latents: Tensor, text: TextEmbeds, *, generator: Generators) -> Tensor:
        """Return each sample's error at a timestep and noise drawn for it, ``[B]``."""
        ...


@runtime_checkable
class ComparingBackbone(DrawingBackbone, EncodesImage, Protocol):
    """What methods need that draw, and compare what they drew."""
