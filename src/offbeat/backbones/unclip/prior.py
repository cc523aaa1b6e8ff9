"""The fast prior: exact sampling of image embeddings, with the text read once.

It gives what the pipelines of diffusers give, to rounding: tests hold it against them. See
``prior_pass`` for how one step is computed.
Source: Ramesh et al., Hierarchical Text-Conditional Image Generation, arXiv:2204.06125.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offbeat.backbones.unclip.prior_pass import LORA_TARGETS, Lora, PriorPass, lora_name
from offbeat.checkpoints.offload import ready, runs_on
from offbeat.core.functional import guide
from offbeat.core.rng import normal
from offbeat.errors import CheckpointError, ShapeError
from offbeat.protocols import Generators
from offbeat.types import TextEmbeds

__all__ = ["LORA_TARGETS", "FastPrior", "check_streams", "lora_name"]

MAX_NOISE = 2**24
"""Numbers of noise that are drawn and moved before the first step; more are drawn step by step."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the schedule: ``clean * x0 + kept * x + noise * n``, as plain numbers."""

    clean: float
    kept: float
    noise: float
    """0 at the last step."""


class FastPrior:
    """Samples from a ``diffusers.PriorTransformer``; it holds no copy of the weights."""

    def __init__(
        self, prior: Any, scheduler: Any, count: Callable[[int], None] = lambda samples: None
    ) -> None:
        """Check the prior.

        Args:
            prior: Of any type and device.
            scheduler: An ``UnCLIPScheduler``.
            count: Told at each evaluation how many samples it has.

        Raises:
            CheckpointError: If it is another kind of prior, or its scheduler is.
        """
        config, levels = prior.config, scheduler.config
        plain = (
            config.added_emb_type == "prd"
            and config.encoder_hid_proj_type == "linear"
            and config.norm_in_type is None
            and config.embedding_proj_norm_type is None
        )
        if not plain:
            raise CheckpointError(
                "prior: expected an unCLIP image prior (added_emb_type 'prd', linear text "
                f"projection, no input norm), got {dict(config)}"
            )
        kind = type(scheduler).__name__, levels.get("prediction_type"), levels.get("variance_type")
        if kind != ("UnCLIPScheduler", "sample", "fixed_small_log"):
            raise CheckpointError(
                "prior: expected an UnCLIPScheduler with prediction_type 'sample' and "
                f"variance_type 'fixed_small_log', got {', '.join(map(str, kind))}"
            )
        self.prior = prior
        self.scheduler = scheduler
        self.num_text: int = config.num_embeddings
        self._count = count

    def sample(
        self,
        text: TextEmbeds,
        negative: TextEmbeds | None,
        generator: Generators,
        *,
        num_samples: int,
        num_inference_steps: int,
        prior_guidance_scale: float,
        lora: Lora | None = None,
        gradient_steps: int | None = None,
    ) -> Tensor:
        """Denoise ``num_samples`` embeddings, ``[B, D]``, float32.

        Args:
            text: One prompt for all samples, or one for each.
            negative: What guidance steers from; the same.
            generator: One stream, or one for each sample.
            num_samples: B.
            num_inference_steps: Denoising steps, 2 or more.
            prior_guidance_scale: 1 or less is off.
            lora: Factors in PEFT's names; gradients reach them.
            gradient_steps: Let the gradient pass the last so many steps only; None is all.

        Raises:
            ShapeError: If there are neither one nor B prompts or streams.
        """
        ready(self.prior)
        device = runs_on(self.prior)
        guided = prior_guidance_scale > 1 and negative is not None
        texts = [text, negative] if guided and negative is not None else [text]
        for given in texts:
            if len(given) not in (1, num_samples):
                raise ShapeError(f"text: expected 1 or {num_samples} prompts, got {len(given)}")
        check_streams(generator, num_samples)
        self.scheduler.set_timesteps(num_inference_steps)
        schedule = self._steps()
        groups = max(map(len, texts))
        network = PriorPass(
            self.prior,
            texts,
            self.scheduler.timesteps.to(device),
            num_samples=num_samples // groups,
            lora=lora,
        )
        shape = (num_samples, self.prior.config.embedding_dim)
        draws = 1 + sum(step.noise > 0 for step in schedule)
        noises = _noises(shape, generator, device, draws)
        latents = next(noises) * self.scheduler.init_noise_sigma
        for index, step in enumerate(schedule):
            left = len(schedule) - index
            tracked = torch.is_grad_enabled() and (gradient_steps is None or left <= gradient_steps)
            with torch.set_grad_enabled(tracked):
                grouped = latents.view(groups, num_samples // groups, -1)
                doubled = torch.cat([grouped, grouped]) if guided else grouped
                self._count(len(latents) * len(texts))
                predicted = network.predict(index, doubled).flatten(0, 1)
                if guided:
                    cond, uncond = predicted.chunk(2)
                    predicted = guide(uncond, cond, prior_guidance_scale)
                if self.scheduler.config.clip_sample:
                    limit = self.scheduler.config.clip_sample_range
                    predicted = predicted.clamp(-limit, limit)
                latents = step.clean * predicted + step.kept * latents
                if step.noise:
                    latents = latents + step.noise * next(noises)
        image_embeds: Tensor = self.prior.post_process_latents(latents)
        return image_embeds.float()

    def _steps(self) -> list[Step]:
        """Return the steps of the schedule that is set, computed on the CPU once.

        The scheduler's own ``step`` reads ten numbers back from the device each time.
        """
        scheduler, timesteps = self.scheduler, self.scheduler.timesteps.tolist()
        steps = []
        for now, earlier in zip(timesteps, [*timesteps[1:], -1], strict=True):
            alpha = scheduler.alphas_cumprod[now]
            before = scheduler.alphas_cumprod[earlier] if earlier >= 0 else scheduler.one
            beta = scheduler.betas[now] if earlier == now - 1 else 1 - alpha / before
            kept = scheduler.alphas[now] if earlier == now - 1 else 1 - beta
            left = (1 - before) / (1 - alpha)
            steps.append(
                Step(
                    clean=float(before**0.5 * beta / (1 - alpha)),
                    kept=float(kept**0.5 * left),
                    noise=float((0.5 * (left * beta).clamp(min=1e-20).log()).exp())
                    if now > 0
                    else 0.0,
                )
            )
        return steps


def _noises(
    shape: tuple[int, int], generator: Generators, device: torch.device, count: int
) -> Iterator[Tensor]:
    """Yield the noise of the start and of each step: moved at once if it is not too much."""
    if count * shape[0] * shape[1] > MAX_NOISE:
        yield from (normal(shape, generator, device) for _ in range(count))
    else:
        yield from torch.stack([normal(shape, generator) for _ in range(count)]).to(device)


def check_streams(generator: Generators, count: int) -> None:
    """Raise unless there is one stream, or one for each of ``count`` samples.

    Raises:
        ShapeError: With both counts; a list that is too short would be used twice.
    """
    if isinstance(generator, Sequence) and len(generator) != count:
        raise ShapeError(f"generator: expected one, or {count} streams, got {len(generator)}")
