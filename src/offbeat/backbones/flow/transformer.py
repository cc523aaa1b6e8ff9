"""Latents of a frozen rectified-flow transformer: noise to picture along a straight way, and back.

The network predicts the velocity v from clean latents to noise: x = (1 - s) x0 + s noise at noise
level s, and a step of Euler is x' = x + (s' - s) v.
Sources: Liu et al., arXiv:2209.03003; Lipman et al., arXiv:2210.02747; Esser et al., SD3,
arXiv:2403.03206.
"""

from __future__ import annotations

import copy
import itertools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from offbeat.backbones.conditions import spread
from offbeat.backbones.denoiser import Denoiser, Predict
from offbeat.backbones.flow import load as load_file  # which needs PATCH
from offbeat.backbones.guidance import Guidance, Walk
from offbeat.backbones.text import Encoder, T5Encoder
from offbeat.checkpoints.known.flow import PATCH
from offbeat.checkpoints.pipeline import cell_of
from offbeat.core.checks import check_shape
from offbeat.errors import CapabilityError
from offbeat.types import Sampler, TextEmbeds

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, slots=True)
class Told:
    """What a transformer is told beside latents and time, for all of a batch."""

    states: Tensor
    """Hidden states of the text, ``[B, L, E]``."""
    pooled: Tensor
    """Pooled vectors, ``[B, P]``; P is 0 where it hears none."""
    mask: Tensor
    """Which states are of the prompt, ``[B, L]``."""
    guidance_scale: float
    """Of a network that was distilled to be told it."""

    def last(self, count: int) -> Told:
        """Return what the last of the batch are told."""
        states, pooled, mask = (part[-count:] for part in (self.states, self.pooled, self.mask))
        return replace(self, states=states, pooled=pooled, mask=mask)


class FlowDenoiser(Denoiser):
    """What flow models share: the way along a flow; and CLIP and T5, as SD3 and FLUX have them."""

    pipeline: ClassVar[str]
    """The class of diffusers whose folders it reads."""
    patch: ClassVar[int] = PATCH
    """Cells of the latents, a side, that the transformer reads as one token."""
    packs: ClassVar[bool] = False
    """Whether it is given those tokens, and not the latents as they are."""
    _counts_parts = True
    transformer: Any
    _euler: Any
    _clips: tuple[Encoder, ...] = ()
    _t5: T5Encoder | None = None

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
        self._encoders = self._read_encoders(parts)
        self.transformer = parts["transformer"]
        self.vae = parts["vae"]
        # a scheduler keeps its timesteps: two users of one object would disturb each other
        self.scheduler = copy.deepcopy(parts["scheduler"])
        self._euler = euler_of(self.scheduler)
        self._freeze()

    def _read_encoders(self, parts: Mapping[str, Any]) -> tuple[Encoder, ...]:
        """Return what reads prompts."""
        long, name = parts.get("t5"), self._name
        self._clips = tuple(
            Encoder(tokenizer, module, name, cuts=long is not None)
            for tokenizer, module in parts["texts"]
        )
        self._t5 = None
        if long is not None:
            tokenizer, module = long
            self._t5 = T5Encoder(
                tokenizer, module, name, limit=self.max_sequence_length, like=self._clips[0]
            )
        return (*self._clips, *([self._t5] if self._t5 else []))

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        config: str | Path | None = None,
    ) -> Self:
        """Load a checkpoint by name, folder (with ``model_index.json``), hub id or single file.

        Args:
            source: Which.
            device: Where to run.
            dtype: Of the weights.
            config: Folder or hub id with what a single file lacks: settings, tokenizers, and the
                weights of text encoders that are not in it. None is the folder beside the file of
                its name without suffix, or the published one of its family.

        Raises:
            CheckpointError: If there is no such checkpoint, or it is damaged or of another family.
            UnsafeWeightsError: If its weights are there only as pickles.
        """
        return cls(**load_file.load(source, cls.pipeline, dtype, config)).to(device)

    @property
    def max_sequence_length(self) -> int:
        """Positions that T5 reads of every prompt, padding included, by the card."""
        return int(self._card["max_sequence_length"])

    # --- the way --------------------------------------------------------------------------

    @abstractmethod
    def _timestep_settings(self, num_inference_steps: int, num_tokens: int) -> dict[str, Any]:
        """Return how the pipeline sets the scheduler, for latents of so many image tokens."""

    @abstractmethod
    def _velocity(self, latents: Tensor, timestep: Tensor, told: Told) -> Tensor:
        """Return the network's prediction, ``[B, C, h, w]``, of the same type as ``latents``."""

    @property
    def _network(self) -> Any:
        return self.transformer

    @property
    def _channels(self) -> int:
        channels = int(self.transformer.config.in_channels)
        return channels // self.patch**2 if self.packs else channels

    def lora_parts(self) -> dict[str, Any]:
        """Return the networks that LoRA factors may change: the transformer, and CLIP."""
        names = ("text_encoder", "text_encoder_2")
        clips = (clip.module for clip in self._clips)
        return {"transformer": self.transformer, **dict(zip(names, clips, strict=False))}

    @property
    def grid(self) -> int:
        """Pixels that a side of a picture must be a multiple of."""
        return cell_of(self.vae.config) * self.patch

    def _scheduler_of(self, sampler: Sampler) -> Any:
        return self.scheduler if sampler == "own" else self._euler

    def _set_timesteps(
        self, num_inference_steps: int | None, scheduler: Any, size: Sequence[int] | None = None
    ) -> Tensor:
        steps = self._num_steps(num_inference_steps, scheduler)
        height, width = self._latent_size() if size is None else size
        settings = self._timestep_settings(steps, (height // self.patch) * (width // self.patch))
        if not type(scheduler).__name__.startswith("FlowMatch"):  # it has noise levels of its own
            shift = {"mu": settings.get("mu")} if scheduler.config.use_dynamic_shifting else {}
            settings = {"num_inference_steps": steps, **shift}
        scheduler.set_timesteps(**settings)
        timesteps: Tensor = scheduler.timesteps
        return timesteps

    def _guided(self, negative: TextEmbeds | None, scale: float) -> tuple[bool, float]:
        """Return whether an unguided half is predicted too, and how far guidance goes from it."""
        return scale > 1, scale

    def _rescaled(self, combined: Tensor, cond: Tensor) -> Tensor:
        """Return a guided prediction as the pipeline goes on with it."""
        return combined

    def _predictor(
        self,
        latents: Tensor,
        text: TextEmbeds,
        negative: TextEmbeds | None,
        guidance_scale: float | None,
        image_embeds: Tensor | None = None,
        ip_adapter_scale: float | None = None,
        walk: Walk | None = None,
    ) -> tuple[Predict, AbstractContextManager[None]]:
        if image_embeds is not None:
            raise CapabilityError("an image prompt", self.name, "ip_adapter", ("pocket-sd",))
        check_shape("latents", latents, None, self._channels, None, None)
        batch, scale = len(latents), self._scale(guidance_scale)
        guided, reach = self._guided(negative, scale)
        halves = [self.empty_text() if negative is None else negative, text] if guided else [text]
        dtype = self.transformer.dtype
        states, pooled, mask = (
            torch.cat(_one_length([spread(getattr(half, name), batch) for half in halves])).to(
                self.device
            )
            for name in ("text_encoder_hidden_states", "text_embeds", "text_mask")
        )
        pooled = pooled[:, : sum(self._pooled_widths())].to(dtype)
        told = Told(states.to(dtype), pooled, mask, scale)
        guidance = Guidance(self._guider, reach, walk)
        cached = bool(getattr(self.transformer, "is_cache_enabled", False))
        if cached:  # another walk begins
            self.transformer._reset_stateful_cache()

        def predict(shown: Tensor, timestep: Tensor, step: int) -> Tensor:
            shown = shown.to(dtype)
            doubles = guided and guidance.guides(step)
            doubled = torch.cat([shown, shown]) if doubles else shown
            times = timestep.to(self.device).expand(len(doubled))
            self._asked(denoiser=len(doubled))
            condition = told if doubles else told.last(batch)
            if guidance.blurs(step):  # the text's half, which comes last
                states, pooled = (
                    torch.cat([whole[:-batch], guidance.told(whole[-batch:], step)])
                    for whole in (condition.states, condition.pooled)
                )
                condition = replace(condition, states=states, pooled=pooled)
            context: AbstractContextManager[None] = nullcontext()
            if cached:  # what is kept of both halves does not suit one alone
                context = self.transformer.cache_context("both" if doubles else "one")
            with context:
                predicted = self._velocity(doubled, times, condition).float()
            if not doubles:
                return guidance.alone(predicted, step) if guided else predicted
            uncond, cond = predicted.chunk(2)
            return self._rescaled(guidance.combined(uncond, cond, step), cond)

        return predict, self._adapting()

    def _noised(
        self, scheduler: Any, timesteps: Tensor, latents: Tensor, noise: Tensor, step: int
    ) -> Tensor:
        sigma = scheduler.sigmas[step]
        noised: Tensor = (1 - sigma) * latents + sigma * noise
        return noised

    def _clean(
        self, scheduler: Any, timesteps: Tensor, latents: Tensor, predict: Predict, step: int
    ) -> Tensor:
        clean: Tensor = latents - scheduler.sigmas[step] * predict(latents, timesteps[step], step)
        return clean

    def _factors(self, scheduler: Any, like: Tensor) -> list[tuple[Any, Any]]:
        levels = scheduler.sigmas.tolist()
        return [(1.0, after - before) for before, after in itertools.pairwise(levels)]

    # --- text -----------------------------------------------------------------------------

    def _pooled_widths(self) -> tuple[int, ...]:
        """Return the widths of the pooled vectors that the transformer hears: those of CLIP."""
        return tuple(int(getattr(clip.module.config, self._pooled_by)) for clip in self._clips)

    _pooled_by = "projection_dim"
    """The setting of a CLIP encoder that says how wide its pooled vector is."""

    def _empty(self) -> TextEmbeds:
        return self.encode_text([""])

    def _modules(self) -> list[Any]:
        return [self.transformer, self.vae, *(encoder.module for encoder in self._encoders)]


def _one_length(halves: list[Tensor]) -> list[Tensor]:
    """Return ``[B, L, ...]`` of both halves, the shorter one filled up with zeros."""
    if halves[0].ndim == 2 and halves[0].dtype != torch.bool:  # pooled vectors
        return halves
    longest = max(half.shape[1] for half in halves)
    fill = [(0, 0) * (half.ndim - 2) + (0, longest - half.shape[1]) for half in halves]
    return [pad(half, size) for half, size in zip(halves, fill, strict=True)]


def euler_of(scheduler: Any) -> Any:
    """Return Euler's steps along the same flow, without noise: they have an inverse."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    kind, shift = type(scheduler), {}
    if not kind.__name__.startswith("FlowMatch"):
        kind, shift = FlowMatchEulerDiscreteScheduler, {"shift": scheduler.config.flow_shift}
    return kind.from_config(scheduler.config, stochastic_sampling=False, **shift)
