"""The parts of DiffMorpher: fit LoRA factors, blend factors and attention, equalise steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from offbeat.core.checks import check_shape
from offbeat.core.functional import slerp
from offbeat.core.rng import stream
from offbeat.protocols import PaintingBackbone
from offbeat.types import Attention, OnStep, Step, TextEmbeds

PerceptualDistance = Callable[[Tensor, Tensor], Tensor]
"""How different pictures look: ``[B, 3, H, W]`` twice, 0 to 1, to ``[B]``, 0 or more."""

Lora = Mapping[str, Tensor]


def fit_lora(
    backbone: PaintingBackbone,
    latents: Tensor,
    text: TextEmbeds,
    *,
    rank: int,
    num_steps: int,
    learning_rate: float,
    noise: Sequence[torch.Generator],
    on_step: OnStep,
) -> dict[str, Tensor]:
    """Return factors fitted to each picture alone, ``[B, r, in]`` and ``[B, out, r]``.

    Pictures do not meet: each has its own factors, noise and loss, and AdamW works number by
    number.

    Args:
        backbone: Frozen.
        latents: One row a picture, ``[B, C, h, w]``.
        text: What each shows, B prompts.
        rank: Of the factors.
        num_steps: Optimizer steps; 0 leaves the factors without effect.
        learning_rate: Of AdamW without weight decay.
        noise: One stream a picture.
        on_step: Told each step, with the mean loss.
    """
    fresh = [backbone.init_unet_lora(rank, generator=stream) for stream in noise]
    factors = {
        name: torch.stack([lora[name] for lora in fresh]).to(latents.device).requires_grad_()
        for name in fresh[0]
    }
    optimizer = torch.optim.AdamW(list(factors.values()), lr=learning_rate, weight_decay=0.0)
    for index in range(num_steps):
        with torch.enable_grad(), backbone.adapted(factors):
            losses = backbone.denoising_loss(latents, text, generator=list(noise))
            optimizer.zero_grad()
            losses.sum().backward()
        optimizer.step()
        mean = float(losses.detach().mean())
        on_step(Step(index=index, loss=mean, values={"pictures": len(latents)}))
    return {name: factor.detach() for name, factor in factors.items()}


def blended_lora(
    first: Lora, second: Lora, shares: Tensor, *, blend: str = "factors"
) -> dict[str, Tensor]:
    """Return factors between two pictures, one for each share.

    ``factors``, the published way: A and B are interpolated each for itself, so that half way the
    product has cross terms. ``product``, ours: the two lie side by side, so that the product is
    ``(1 - a) B0 A0 + a B1 A1`` and the rank doubles.

    Args:
        first: Of one picture each, ``[B, r, in]`` and ``[B, out, r]``.
        second: The same.
        shares: The second's, 0 to 1, ``[B]``.
        blend: ``factors`` or ``product``.
    """
    blended = {}
    for name, factor in first.items():
        other, share = second[name], shares.to(factor)[:, None, None]
        if blend == "factors":
            blended[name] = torch.lerp(factor, other, share)
        elif ".lora_A." in name:
            blended[name] = torch.cat([factor, other], dim=1)
        else:
            blended[name] = torch.cat([(1 - share) * factor, share * other], dim=2)
    return blended


def blended_text(first: TextEmbeds, second: TextEmbeds, shares: Tensor) -> TextEmbeds:
    """Return prompts between two, linearly; ``shares`` are the second's, ``[B]``."""
    at = shares.to(first.text_embeds)
    states, others = first.text_encoder_hidden_states, second.text_encoder_hidden_states
    return replace(
        first,
        text_embeds=torch.lerp(first.text_embeds, second.text_embeds, at[:, None]),
        text_encoder_hidden_states=torch.lerp(states, others, at[:, None, None]),
        text_mask=first.text_mask | second.text_mask,
    )


class BlendedAttention:
    """An edit: keys and values of the U-Net's last half come from both ends of a path.

    The ends run in the same batch as what lies between them, so nothing is stored: of each group
    of ``length`` rows the first is all of the one picture, the last all of the other.
    """

    def __init__(self, shares: Tensor, length: int, *, until: int, own: float) -> None:
        """Set where it acts.

        Args:
            shares: Of the second picture in each row, 0 to 1, ``[G * length]``.
            length: Rows of a group, its ends included.
            until: First denoising step that is left alone.
            own: beta: what a row keeps of its own keys and values, 0 to 1.
        """
        self.shares = shares.view(-1, length)
        self.length, self.until, self.own = length, until, own

    def __call__(self, attention: Attention) -> Attention:
        """Return what a layer is to compute with."""
        inside = attention.layer.startswith("up_blocks") and not attention.is_cross
        if not inside or attention.step >= self.until:
            return attention
        return replace(
            attention, key=self._blend(attention.key), value=self._blend(attention.value)
        )

    def _blend(self, states: Tensor) -> Tensor:
        groups = states.unflatten(0, (-1, self.length))  # [G, length, heads, L, d]
        times = len(groups) // len(self.shares)  # guidance: all unguided groups first
        share = self.shares.to(groups).repeat(times, 1)[..., None, None, None]
        ends = (1 - share) * groups[:, :1] + share * groups[:, -1:]
        blended: Tensor = (self.own * groups + (1 - self.own) * ends).flatten(0, 1)
        return blended


def adapted_statistics(latents: Tensor, first: Tensor, second: Tensor, shares: Tensor) -> Tensor:
    """Return latents whose channels have the mean and spread between those of two others.

    Args:
        latents: Noise between two ends, ``[B, C, h, w]``.
        first: Noise of one end, of the same shape.
        second: Of the other.
        shares: The second's, 0 to 1, ``[B]``.

    Source: AdaIN, arXiv:1703.06868, as DiffMorpher, arXiv:2312.07409, interpolates it.
    """
    at = shares.to(latents)[:, None, None, None]
    means, spreads = zip(*(_statistics(part) for part in (latents, first, second)), strict=True)
    spread = torch.lerp(spreads[1], spreads[2], at)
    scaled: Tensor = (latents - means[0]) / spreads[0] * spread
    return scaled + torch.lerp(means[1], means[2], at)


def _statistics(latents: Tensor) -> tuple[Tensor, Tensor]:
    spread, mean = torch.std_mean(latents, dim=(2, 3), keepdim=True)
    return mean, spread.clamp_min(1e-6)


def equal_steps(shares: Tensor, distances: Tensor) -> Tensor:
    """Return shares at which neighbours look equally far apart, ``[F]``, from 0 to 1, rising.

    Args:
        shares: Where frames were drawn, ``[F]``, from 0 to 1, rising.
        distances: Between neighbours, ``[F - 1]``, 0 or more; between frames it is taken to grow
            evenly.

    Source: DiffMorpher, arXiv:2312.07409, its reschedule.
    """
    check_shape("distances", distances, len(shares) - 1)
    curve = torch.cat([distances.new_zeros(1), distances.cumsum(0)]).double()
    if float(curve[-1]) <= 0:
        return shares
    wanted = torch.linspace(0, 1, len(shares), dtype=torch.float64) * curve[-1]
    right = torch.searchsorted(curve, wanted).clamp(1, len(shares) - 1)
    left = right - 1
    step = (curve[right] - curve[left]).clamp_min(1e-12)
    part = ((wanted - curve[left]) / step).clamp(0, 1)
    equal = torch.lerp(shares.double()[left], shares.double()[right], part)
    equal[0], equal[-1] = shares[0], shares[-1]
    return equal.to(shares.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """Both pictures of N pairs, and how what is between them is drawn."""

    noise: tuple[Tensor, Tensor]
    """Where their inversion leads, ``[N, C, h, w]``."""
    texts: tuple[TextEmbeds, TextEmbeds]
    lora: tuple[Lora, Lora]
    """Factors of each picture, ``[N, r, in]`` and ``[N, out, r]``."""
    num_inference_steps: int
    guidance_scale: float
    blended_steps: int
    """Steps, the first ones, in which attention is blended."""
    own_attention: float
    """What a frame keeps of its own keys and values there, 0 to 1."""
    adain: bool
    lora_blend: str
    """``factors`` or ``product``."""

    @torch.no_grad()
    def draw(self, backbone: PaintingBackbone, rows: Tensor, shares: Tensor) -> Tensor:
        """Return frames of some pairs, ``[n, F, 3, H, W]``, drawn in one batch with their ends.

        Args:
            backbone: Frozen.
            rows: Numbers of the pairs, ``[n]``.
            shares: Of the second picture in each frame, 0 to 1, ``[n, F]``.
        """
        length = shares.shape[1] + 2
        ends = torch.zeros(len(rows), 1), torch.ones(len(rows), 1)
        at = torch.cat([ends[0], shares, ends[1]], dim=1).flatten().to(backbone.device)
        pairs = rows.repeat_interleave(length).to(backbone.device)
        of_first, of_second = (lora_rows(lora, pairs) for lora in self.lora)
        lora = blended_lora(of_first, of_second, at, blend=self.lora_blend)
        blend = BlendedAttention(at, length, until=self.blended_steps, own=self.own_attention)
        first, second = (text[pairs] for text in self.texts)
        left, right = (noise[pairs] for noise in self.noise)
        between = slerp(left, right, at)
        if self.adain:
            between = adapted_statistics(between, left, right, at)
        with backbone.adapted(lora), backbone.edit_attention(blend):
            latents = backbone.denoise(
                between,
                blended_text(first, second, at),
                generator=stream(0, "diffmorpher", "unused"),  # DDIM adds no noise
                num_inference_steps=self.num_inference_steps,
                guidance_scale=self.guidance_scale,
                sampler="ddim",
            )
        frames = latents.unflatten(0, (-1, length))[:, 1:-1]  # [n, F, C, h, w]
        images = backbone.decode(frames.flatten(0, 1)).cpu()
        return images.view(len(rows), -1, *images.shape[1:])


def lora_rows(factors: Lora, rows: slice | Tensor) -> dict[str, Tensor]:
    """Return the factors of some pictures, in the order of ``rows``."""
    return {name: factor[rows] for name, factor in factors.items()}
