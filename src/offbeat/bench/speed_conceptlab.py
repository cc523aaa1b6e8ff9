"""One ConceptLab step against the official loop's way, on the same weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from offbeat.backbones.unclip.adapter import UnclipBackbone
from offbeat.bench.ratio import SCALE, Ratio, pair
from offbeat.core.rng import streams
from offbeat.methods.conceptlab import prompts
from offbeat.methods.conceptlab.config import ConceptLabConfig
from offbeat.methods.conceptlab.losses import prior_constraint_loss
from offbeat.methods.conceptlab.search import ClassPrompts
from offbeat.types import PLACEHOLDER

STEPS = 5
POSITIVES, NEGATIVES = ("pet",), ("dog", "cat", "rabbit", "mouse", "parrot")


def ratios(backbone: UnclipBackbone, runs: int) -> list[Ratio]:
    """Compare the gradient of one step: one thread, one noise, a positive and five negatives.

    The plain way runs the whole padded sequence of both halves of guidance at every denoising step,
    and encodes the class prompts at every step.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small products gain nothing from more
    try:
        row = backbone.token_embed(POSITIVES[0])[None].requires_grad_()
        plain = PlainStep(backbone, row)
        fast = FastStep(backbone, row)
        return [
            pair(
                "one thread: gradient of a ConceptLab step",
                lambda: gradient(fast, row),
                lambda: gradient(plain, row),
                runs,
            )
        ]
    finally:
        torch.set_num_threads(threads)


def gradient(terms: Callable[[], tuple[Tensor, Tensor, Tensor]], row: Tensor) -> Tensor:
    """Return the gradient of the loss with respect to the token."""
    row.grad = None
    loss = prior_constraint_loss(*terms(), max_cosine=1.0, min_cosine=-1.0)  # no term is silent
    loss.backward()
    assert row.grad is not None
    return row.grad


class FastStep:
    """Our step: cached class prompts and the fast prior."""

    def __init__(self, backbone: UnclipBackbone, row: Tensor) -> None:
        self.backbone, self.row = backbone, row
        self.prompts = ClassPrompts(backbone, ConceptLabConfig())
        with torch.no_grad():
            self.negative = backbone.encode_text([""])
        self.prompts.read((*POSITIVES, *NEGATIVES), 0)  # encoded once a search, not once a step

    def __call__(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the embedding with gradient, positives and negatives."""
        embeds = self.backbone.sample_prior(
            self.prompts.learned(0, self.row),
            generator=streams(0, "bench", num=1),
            negative=self.negative,
            num_inference_steps=STEPS,
            prior_guidance_scale=SCALE,
        )
        return embeds, self.prompts.read(POSITIVES, 0), self.prompts.read(NEGATIVES, 0)


class PlainStep:
    """The official loop's step, with the pipeline's modules."""

    def __init__(self, backbone: UnclipBackbone, row: Tensor) -> None:
        self.backbone, self.row = backbone, row
        self.fast = backbone.fast_prior
        self.template = prompts.OBJECTS[0], prompts.ARTICLES[0]

    def __call__(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the embedding with gradient, positives and negatives."""
        with torch.no_grad():
            positives, negatives = (
                self.backbone.encode_text(
                    [prompts.filled(*self.template, word) for word in words]
                ).text_embeds
                for words in (POSITIVES, NEGATIVES)
            )
        return self._embeds(), positives, negatives

    def _embeds(self) -> Tensor:
        from diffusers.utils.torch_utils import randn_tensor

        prior, scheduler = self.fast.prior, self.fast.scheduler
        text = prompts.filled(*self.template, PLACEHOLDER)
        halves = (self._padded("", {}), self._padded(text, {PLACEHOLDER: self.row}))
        pooled, states, mask = (torch.cat(parts) for parts in zip(*halves, strict=True))
        noise = streams(0, "bench", num=1)
        scheduler.set_timesteps(STEPS)
        latents = randn_tensor((1, pooled.shape[1]), generator=noise)
        timesteps = scheduler.timesteps
        for index, timestep in enumerate(timesteps):
            uncond, cond = prior(
                torch.cat([latents] * 2),
                timestep=timestep,
                proj_embedding=pooled,
                encoder_hidden_states=states,
                attention_mask=mask,
            ).predicted_image_embedding.chunk(2)
            latents = scheduler.step(
                uncond + SCALE * (cond - uncond),
                timestep,
                latents,
                prev_timestep=timesteps[index + 1] if index + 1 < len(timesteps) else None,
                generator=noise,
            ).prev_sample
        embeds: Tensor = prior.post_process_latents(latents)
        return embeds

    def _padded(self, prompt: str, tokens: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Encode as the pipeline does, padded to full length."""
        text = self.backbone.encode_text([prompt], tokens=tokens)
        extra = self.fast.num_text - text.text_mask.shape[1]
        states = torch.nn.functional.pad(text.text_encoder_hidden_states, (0, 0, 0, extra))
        return text.text_embeds, states, torch.nn.functional.pad(text.text_mask, (0, extra))
