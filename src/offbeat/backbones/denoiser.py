"""Noise to latents to pictures by a frozen network, whatever network it is: the loop of all forms.

Pipelines run under ``no_grad``; here gradients reach the latents and the text.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from offbeat.backbones.conditions import (
    check_prompts,
    cut_text,
    decode_latents,
    encode_pictures,
    remembers_steps,
    step_settings,
)
from offbeat.backbones.guidance import Walk
from offbeat.backbones.images import in_batches
from offbeat.backbones.inversion import walk_back
from offbeat.backbones.lora import lora_in
from offbeat.backbones.redraw import Redraw, Redrawing, check_grid
from offbeat.backbones.text import ReadsText
from offbeat.backbones.unclip.prior import check_streams
from offbeat.checkpoints.base import Checkpoint
from offbeat.checkpoints.pipeline import cell_of
from offbeat.core.checks import check_range
from offbeat.core.rng import normal
from offbeat.errors import ConfigError
from offbeat.protocols import Generators
from offbeat.types import AfterStep, OnClean, Sampler, TextEmbeds

Predict: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]
"""Given latents, a timestep and its number: the network's prediction, guided, in float32."""


class Denoiser(Checkpoint, ReadsText):
    """The part of an adapter that works on latents; an adapter says what its network predicts."""

    vae: Any
    scheduler: Any
    _lora: Mapping[str, Tensor] | None = None

    @property
    @abstractmethod
    def _network(self) -> Any:
        """The network that denoises."""

    @abstractmethod
    def encode_text(
        self, prompts: Sequence[str], *, tokens: Mapping[str, Tensor] | None = None
    ) -> TextEmbeds:
        """Encode prompts; each word of ``tokens`` is replaced by its vectors."""

    @abstractmethod
    def _empty(self) -> TextEmbeds:
        """Return what guidance steers from if nothing is said."""

    @abstractmethod
    def _scheduler_of(self, sampler: Sampler) -> Any:
        """Return the scheduler of a sampler."""

    @abstractmethod
    def _set_timesteps(
        self, num_inference_steps: int | None, scheduler: Any, size: Sequence[int] | None = None
    ) -> Tensor:
        """Set a scheduler for latents of a size, h and w; None is the card's. Return timesteps."""

    @abstractmethod
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
        """Return what predicts, and the block in which it must run.

        Without a walk guidance is plain, as for one look at a picture.
        """

    @abstractmethod
    def _noised(
        self, scheduler: Any, timesteps: Tensor, latents: Tensor, noise: Tensor, step: int
    ) -> Tensor:
        """Return clean latents with noise as strong as before a step."""

    @abstractmethod
    def _clean(
        self, scheduler: Any, timesteps: Tensor, latents: Tensor, predict: Predict, step: int
    ) -> Tensor:
        """Return the estimate of the clean latents at a step; the scheduler may be changed."""

    @abstractmethod
    def _factors(self, scheduler: Any, like: Tensor) -> list[tuple[Any, Any]]:
        """Return (a, b) of each step ``a x + b prediction`` of the sampler ``ddim``."""

    @contextmanager
    def adapted(self, lora: Mapping[str, Tensor]) -> Iterator[None]:
        """Let the networks compute with LoRA factors in this block.

        Args:
            lora: ``PART.LAYER.lora_A.weight`` and so on, as ``init_unet_lora`` and ``read_lora``
                name them, for all samples, or those of the denoiser with a leading axis for each;
                gradients reach them. The innermost block's factors count alone for the denoiser,
                which is touched only while it predicts, and put back even after an error.
        """
        main, *others = self.lora_parts().items()
        before = self._lora
        self._lora = {name: lora[name] for name in lora if name.startswith(f"{main[0]}.")}
        beside = {name: lora[name] for name in lora if name not in self._lora}
        try:
            with lora_in(dict(others), beside):
                yield
        finally:
            self._lora = before

    def _adapting(self) -> AbstractContextManager[None]:
        """Return the block in which the denoiser has the factors of ``adapted``."""
        part = next(iter(self.lora_parts()))
        return lora_in({part: self._network}, self._lora)

    @property
    def _channels(self) -> int:
        """Channels C of the latents."""
        return int(self._network.config.in_channels)

    @property
    def grid(self) -> int:
        """Pixels that a side of a picture must be a multiple of."""
        return cell_of(self.vae.config)

    def empty_text(self) -> TextEmbeds:
        """Return what guidance steers from if nothing is said, one prompt."""
        return self._once("empty", self._empty)

    def init_latents(
        self,
        generator: Generators,
        *,
        num_samples: int | None = None,
        num_inference_steps: int | None = None,
        sampler: Sampler = "own",
    ) -> Tensor:
        """Return pure noise, ``[B, C, h, w]``, as ``denoise`` starts from it.

        Args:
            generator: One stream, or one for each sample.
            num_samples: B; None means the number of streams.
            num_inference_steps: As it will be denoised: some schedulers scale noise by it.
            sampler: Which one will denoise it.
        """
        count = len(generator) if isinstance(generator, Sequence) else 1
        batch = num_samples or count
        check_streams(generator, batch)
        scheduler = self._scheduler_of(sampler)
        self._set_timesteps(num_inference_steps, scheduler)
        drawn = normal((batch, self._channels, *self._latent_size()), generator, self.device)
        latents: Tensor = drawn * getattr(scheduler, "init_noise_sigma", 1.0)
        return latents

    def _latent_size(self) -> tuple[int, int]:
        """Return height and width of the latents of a picture of the card's size."""
        per_side = self.grid // cell_of(self.vae.config)
        height, width = (
            int(self._card[side]) // self.grid * per_side for side in ("height", "width")
        )
        return height, width

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
        """Return ``latents`` denoised, ``[B, C, h, w]``, float32, as diffusers' pipelines do it.

        Args:
            latents: At the noise level of step ``start``: from ``init_latents`` if that is 0.
            text: One prompt for all samples, or one for each.
            generator: One stream, or one for each sample: read by schedulers that add noise.
            negative: What guidance steers from; None is the checkpoint's own, the empty prompt.
            num_inference_steps: Of the whole way, 1 or more; None is the checkpoint's own.
            guidance_scale: 1 or less is off; None is the checkpoint's own.
            image_embeds: Image prompt, ``[1, D]`` or ``[B, D]``, from ``encode_image``.
            ip_adapter_scale: Its weight beside the text, 0 to 10; None is the checkpoint's own.
            start: First denoising step to run, 0 to ``num_inference_steps``.
            stop: Step before which to stop; None runs to the end.
            gradient_steps: Let the gradient pass the last so many steps only; None is all.
            model_input: May show the network other latents than the step then goes on from.
            after_step: May replace the latents after a step.
            on_clean: Told each step's estimate of the clean latents, from the step's prediction.
            sampler: ``ddim`` walks the way of ``invert``, whatever the checkpoint's scheduler is.

        Raises:
            CapabilityError: If there is an image prompt and no IP-Adapter.
            ConfigError: If a walk is cut short whose scheduler would have to remember its steps.
            RangeError: If a number is out of its range.
            ShapeError: If numbers of prompts, pictures and latents do not fit.
        """
        check_streams(generator, len(latents))
        scheduler = self._scheduler_of(sampler)
        every = self._set_timesteps(num_inference_steps, scheduler, latents.shape[-2:])
        walk = Walk(len(every), generator)
        predict, in_place = self._predictor(
            latents, text, negative, guidance_scale, image_embeds, ip_adapter_scale, walk
        )
        timesteps = every[start:stop]
        if stop is not None and stop < len(every) and remembers_steps(scheduler):
            raise ConfigError(
                f"stop: {type(scheduler).__name__} of {self.name} remembers earlier steps, so its "
                "walk cannot go on after a stop; use sampler='ddim'"
            )
        extra = step_settings(scheduler, generator)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(start)
        first = 0 if gradient_steps is None else len(timesteps) - gradient_steps
        with_gradient = torch.is_grad_enabled()
        latents = latents.to(self.device).float()  # float32 between steps: see ``normal``
        with in_place:
            for index, timestep in enumerate(timesteps):
                with torch.set_grad_enabled(with_gradient and index >= first):
                    shown = latents
                    if model_input is not None:
                        shown = model_input(start + index, latents).to(latents)
                    if hasattr(scheduler, "scale_model_input"):
                        shown = scheduler.scale_model_input(shown, timestep)
                    predicted = predict(shown, timestep, start + index)
                    if on_clean is not None:
                        place = copy.deepcopy(scheduler), every, latents, _always(predicted)
                        on_clean(start + index, self._clean(*place, start + index))
                    latents = scheduler.step(predicted, timestep, latents, **extra).prev_sample
                    if after_step is not None:
                        latents = after_step(start + index, latents).to(latents)
        return latents

    def add_noise(
        self,
        latents: Tensor,
        noise: Tensor,
        *,
        step: int,
        num_inference_steps: int | None = None,
        sampler: Sampler = "own",
    ) -> Tensor:
        """Return clean ``latents`` with noise as strong as before a step, ``[B, C, h, w]``.

        Args:
            latents: Clean, as ``encode_latents`` gives them.
            noise: Standard normal, of their shape, or ``[1, C, h, w]``.
            step: A denoising step, 0 to ``num_inference_steps``, whose level is no noise.
            num_inference_steps: Of the whole way; None is the checkpoint's own.
            sampler: Whose noise levels: those of ``denoise`` with the same one.

        Raises:
            RangeError: If there is no such step.
        """
        scheduler = self._scheduler_of(sampler)
        timesteps = self._set_timesteps(num_inference_steps, scheduler, latents.shape[-2:])
        check_range("step", step, 0, len(timesteps))
        clean, noise = latents.to(self.device), noise.to(self.device)
        return self._noised(scheduler, timesteps, clean, noise, step).float()

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
        """Return the estimate of the clean latents, ``[B, C, h, w]``, float32; ``decode`` takes it.

        It asks the network once, or with guidance twice, and disturbs no denoising.

        Args:
            latents: At the noise level of a step, as ``denoise`` starts from it there.
            text: One prompt for all samples, or one for each.
            step: A denoising step, 0 to before ``num_inference_steps``.
            negative: As in ``denoise``, and so the rest.
            num_inference_steps: Of the whole way.
            guidance_scale: 1 or less is off.
            sampler: Whose noise levels.

        Raises:
            RangeError: If there is no such step.
        """
        # a copy: a denoising that is going on keeps its place, and what it remembers
        scheduler = copy.deepcopy(self._scheduler_of(sampler))
        timesteps = self._set_timesteps(num_inference_steps, scheduler, latents.shape[-2:])
        check_range("step", step, 0, len(timesteps) - 1)
        predict, in_place = self._predictor(latents, text, negative, guidance_scale)
        with in_place:
            return self._clean(scheduler, timesteps, latents.to(self.device).float(), predict, step)

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
        """Return the way of the sampler ``ddim`` that ends at ``images``, ``[T + 1, B, C, h, w]``.

        ``way[i]`` is before step i, ``way[-1]`` the picture's own latents; ``denoise`` from
        ``way[0]`` with ``sampler="ddim"`` and the same settings comes back to about ``way[-1]``.

        Args:
            images: ``[B, 3, H, W]``, 0 to 1.
            text: What is on them: one prompt for all, or one for each.
            negative: What guidance steers from; None is the checkpoint's own.
            num_inference_steps: T; None is the checkpoint's own.
            guidance_scale: As in ``denoise``; 1 is by far the most exact.
            num_refinements: Times that each prediction is made again: exacter, and slower.

        Raises:
            RangeError: If a number is out of its range.
            ShapeError: If a side of the pictures is no multiple of what the network reads.
        """
        check_range("num_refinements", num_refinements, 0, 100)
        latents = self.encode_latents(images)
        predict, in_place = self._predictor(latents, text, negative, guidance_scale)
        scheduler = self._scheduler_of("ddim")
        timesteps = self._set_timesteps(num_inference_steps, scheduler, latents.shape[-2:])
        latents = latents.to(self.device)
        factors = self._factors(scheduler, latents)
        with in_place:
            return walk_back(predict, timesteps, factors, latents, num_refinements)

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
        redraw: Redraw | None = None,
    ) -> Tensor:
        """Return ``images``, ``[B, 3, H, W]``, float32, 0 to 1: noise, ``denoise`` and ``decode``.

        Args:
            text: One prompt for all pictures, or one for each.
            generator: One for each picture (then batches are sized to memory), or one for all.
            num_samples: B; None means the number of streams, or of prompts.
            negative: As in ``denoise``, and so the rest.
            num_inference_steps: Denoising steps.
            guidance_scale: 1 or less is off.
            image_embeds: Image prompt.
            ip_adapter_scale: Its weight.
            redraw: A picture to begin from in the place of noise.
        """
        noises = generator if isinstance(generator, Sequence) else ()
        count = num_samples or len(noises) or len(text)
        check_streams(generator, count)
        for prompts in (text, negative):
            if prompts is not None:
                check_prompts(len(prompts), count)

        def draw(rows: slice) -> Tensor:
            noise = list(noises[rows]) if noises else generator
            num = len(range(count)[rows])
            pictures = image_embeds
            if pictures is not None and len(pictures) > 1:
                pictures = pictures[rows]
            begun: dict[str, Any] = {}
            if redraw is None:
                latents = self.init_latents(
                    noise, num_samples=num, num_inference_steps=num_inference_steps
                )
            else:
                latents, begun = self._begun(redraw, noise, num, num_inference_steps)
            latents = self.denoise(
                latents,
                cut_text(text, rows),
                generator=noise,
                negative=None if negative is None else cut_text(negative, rows),
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                image_embeds=pictures,
                ip_adapter_scale=ip_adapter_scale,
                **begun,
            )
            return self.decode(latents)

        size = int(self._card["decode_batch_size"]) if noises else count
        return in_batches(draw, count, size, noises)

    def _begun(
        self, redraw: Redraw, noise: Generators, num: int, num_inference_steps: int | None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the latents of a picture that is drawn anew, and from where ``denoise`` goes on.

        The scheduler is a copy: that of the walk keeps its place.
        """
        clean = self.encode_latents(redraw.images.to(self.device)).to(self.device)
        clean = clean.expand(num, *clean.shape[1:])
        scheduler = copy.deepcopy(self.scheduler)
        timesteps = self._set_timesteps(num_inference_steps, scheduler, clean.shape[-2:])
        steps = self._num_steps(num_inference_steps, scheduler)
        # some samplers take two timesteps a step
        start = redraw.start(steps, whole_up=self._counts_parts) * int(scheduler.order)
        drawn = normal(clean.shape, noise, self.device)
        redrawing = Redrawing(redraw, clean, drawn, partial(self._noised, scheduler, timesteps))
        latents = redrawing.latents(start, getattr(scheduler, "init_noise_sigma", 1.0))
        return latents, {"start": start, "after_step": redrawing.after_step}

    _counts_parts = False
    """Whether a part of a step counts as one where a picture is drawn anew."""

    def decode(self, latents: Tensor) -> Tensor:
        """Return ``images``, ``[B, 3, H, W]``, float32, 0 to 1, of ``latents``."""
        return decode_latents(self.vae, latents)

    def encode_latents(self, images: Tensor) -> Tensor:
        """Return ``latents``, ``[B, C, h, w]``, of ``images``, ``[B, 3, H, W]``, 0 to 1.

        They are the most probable ones: nothing is drawn.

        Raises:
            ShapeError: If a side is no multiple of the latents' cell.
        """
        check_grid(images, self.grid)
        return encode_pictures(self.vae, images)

    @property
    def sampler_in_pieces(self) -> Sampler:
        """By which sampler a walk may be cut into pieces: ``own`` if it remembers no step."""
        return "ddim" if remembers_steps(self.scheduler) else "own"

    def _num_steps(self, num_inference_steps: int | None, scheduler: Any) -> int:
        """Return the denoising steps that are asked for, or the card's.

        Raises:
            RangeError: If there cannot be so many.
        """
        steps = num_inference_steps or int(self._card["num_inference_steps"])
        check_range("num_inference_steps", steps, 1, scheduler.config.num_train_timesteps)
        return steps

    def _scale(self, guidance_scale: float | None) -> float:
        scale = float(self._card["guidance_scale"]) if guidance_scale is None else guidance_scale
        check_range("guidance_scale", scale, 0, 1000)
        return scale


def _always(prediction: Tensor) -> Predict:
    """Return what predicts this, and asks no network."""
    return lambda latents, timestep, step: prediction
