"""What a backbone must offer: one capability, one Protocol.

Gradients reach everything that is passed in (tokens, LoRA factors, embeddings); the weights of a
backbone stay frozen. All tensors at these edges are float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from offbeat.types import AfterStep, AttentionEdit, Evaluations, Sampler, TextEmbeds

Generators: TypeAlias = "torch.Generator | Sequence[torch.Generator]"
"""One stream for a whole batch, or one for each sample."""


class HasCard(Protocol):
    """A checkpoint that says who it is, where it runs and what suits it."""

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
class CountsEvaluations(Protocol):
    """Counts how often its networks are asked."""

    def counting(self) -> AbstractContextManager[Evaluations]:
        """Return a block in which every evaluation is counted; blocks may be nested."""
        ...


@runtime_checkable
class EncodesText(Protocol):
    """Text to embeddings; learned tokens are passed in, never patched in."""

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


@runtime_checkable
class TextBackbone(HasCard, EncodesText, Protocol):
    """A checkpoint of any form that pictures are drawn with: what every command needs first."""


@runtime_checkable
class SplitsTokens(Protocol):
    """Says which part of a learned token belongs to which of its text encoders."""

    @property
    def token_layout(self) -> Sequence[tuple[str, int, float]]:
        """Each part's encoder (``clip_l``, ``clip_g``, ``t5xxl``), width and unit, in order.

        The unit is what a vector is multiplied by before its encoder reads it.
        """
        ...


@runtime_checkable
class SamplesPrior(Protocol):
    """Maps text to CLIP image space."""

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


@runtime_checkable
class AdaptsPrior(Protocol):
    """Makes LoRA factors for the prior, which ``sample_prior`` accepts."""

    def init_lora(self, rank: int, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Return fresh factors in PEFT's names: A random, B zero, alpha = rank."""
        ...


@runtime_checkable
class DecodesEmbeds(Protocol):
    """Draws pictures from CLIP image embeddings."""

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
class DrawsText(Protocol):
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
class DenoisesText(Protocol):
    """Turns noise into latents under a text, step by step, and latents into pictures."""

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
        sampler: Sampler = "own",
    ) -> Tensor:
        """Return ``latents`` after the steps from ``start`` to before ``stop``, ``[B, C, h, w]``.

        ``gradient_steps`` lets the gradient pass the last so many steps only; None is all of them.
        ``model_input`` may show the network other latents than a step goes on from, ``after_step``
        may replace the latents after it. ``sampler`` ``ddim`` walks the way that ``invert`` of
        ``InvertsImages`` found. The rest is as in ``draw_text``.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Return ``images``, ``[B, 3, H, W]``, 0 to 1; gradients reach ``latents``."""
        ...


@runtime_checkable
class PredictsClean(Protocol):
    """Says, in the middle of a denoising, where it would end if the network were right."""

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


@runtime_checkable
class WalksInPieces(Protocol):
    """Says by which sampler a denoising may be cut into pieces: one that remembers no step."""

    @property
    def sampler_in_pieces(self) -> Sampler:
        """``own``, or ``ddim`` where the checkpoint's own scheduler remembers earlier steps."""
        ...


@runtime_checkable
class EncodesLatents(Protocol):
    """Reads pictures into the space that a denoiser works in."""

    def encode_latents(self, images: Tensor) -> Tensor:
        """Return ``latents``, ``[B, C, h, w]``, of ``images``, ``[B, 3, H, W]``, 0 to 1."""
        ...


@runtime_checkable
class AddsNoise(Protocol):
    """Takes clean latents to a denoising step's level of noise."""

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


@runtime_checkable
class EncodesImage(Protocol):
    """Reads pictures into CLIP image space."""

    def encode_image(self, images: Tensor) -> Tensor:
        """Return ``image_embeds``, ``[B, D]``, of ``images``, ``[B, 3, H, W]``, 0 to 1."""
        ...


@runtime_checkable
class ExploringBackbone(HasCard, EncodesText, SamplesPrior, AdaptsPrior, EncodesImage, Protocol):
    """What the low-probability search needs: samples of CLIP image space, with a gradient.

    They come from a prior, or are readings of the pictures of a one-step model.
    """


@runtime_checkable
class PriorBackbone(ExploringBackbone, DecodesEmbeds, Protocol):
    """What ConceptLab needs beside: pictures of any point of that space."""


@runtime_checkable
class DrawingBackbone(TextBackbone, DrawsText, Protocol):
    """What drawing a prompt, or a token in one, needs where there is no prior."""


@runtime_checkable
class InvertsImages(Protocol):
    """Finds the way of denoising that ends at given pictures."""

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


@runtime_checkable
class HasEmptyText(Protocol):
    """Says what its guidance steers from, to methods that guide streams themselves."""

    def empty_text(self) -> TextEmbeds:
        """Return one prompt: that of an unguided half if nothing is said."""
        ...


@runtime_checkable
class AdaptsDenoiser(Protocol):
    """Lets LoRA factors be fitted to a denoiser; they are passed in, and its weights are frozen."""

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
class EditsAttention(Protocol):
    """Lets a method work inside the attention of the denoiser."""

    def edit_attention(self, edit: AttentionEdit) -> AbstractContextManager[None]:
        """Return a block in which ``edit`` sees and changes every attention."""
        ...


@runtime_checkable
class DenoisingBackbone(DrawingBackbone, DenoisesText, Protocol):
    """What methods need that learn from, or work inside, the denoising of latents."""


@runtime_checkable
class SteppedBackbone(DenoisingBackbone, AddsNoise, Protocol):
    """What methods need that change what a denoising is told from step to step."""


@runtime_checkable
class LookingBackbone(DenoisingBackbone, PredictsClean, Protocol):
    """What methods need that look, in the middle of a denoising, at where it goes."""


@runtime_checkable
class ComparingBackbone(DrawingBackbone, EncodesImage, Protocol):
    """What methods need that draw, and compare what they drew."""


@runtime_checkable
class SeeingBackbone(TextBackbone, EncodesImage, Protocol):
    """What methods need that draw on a checkpoint of any form, and compare what they drew."""


@runtime_checkable
class MixingBackbone(DenoisingBackbone, EncodesLatents, AddsNoise, Protocol):
    """What methods need that start from a picture with noise on it."""


@runtime_checkable
class PaintingBackbone(
    DenoisingBackbone,
    EncodesLatents,
    AddsNoise,
    InvertsImages,
    EditsAttention,
    HasEmptyText,
    EncodesImage,
    Protocol,
):
    """What methods need that start from pictures and work inside attention."""


@runtime_checkable
class MorphingBackbone(
    DenoisingBackbone,
    EncodesLatents,
    InvertsImages,
    EditsAttention,
    AdaptsDenoiser,
    Protocol,
):
    """What DiffMorpher needs: inversion under factors of its own, and attention to blend."""
