"""Speed ratios: our code and a plain implementation in turn, same process and weights."""

from __future__ import annotations

import math
import platform
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from offbeat.backbones.unclip.adapter import UnclipBackbone
from offbeat.bench import speed_conceptlab, speed_cretok, speed_distok, speed_paint, speed_sweep
from offbeat.bench.ratio import SCALE, Ratio, pair
from offbeat.checkpoints.known.unclip import CHECKPOINTS
from offbeat.core.drawing import ordinary_prompt
from offbeat.core.rng import stream, streams
from offbeat.files.cache import cached
from offbeat.methods.low_probability.config import LowProbabilityConfig
from offbeat.methods.low_probability.losses import novelty_loss
from offbeat.methods.low_probability.method import LowProbability
from offbeat.types import PLACEHOLDER, Request

SUBJECT = "handbag"


def report(*, runs: int, threads: int) -> str:
    """Return all comparisons as one table, with a description of the machine."""
    parts = (
        speed_cretok.ratios,
        speed_distok.ratios,
        speed_conceptlab.ratios,
        speed_paint.ratios,
        speed_sweep.ratios,
    )
    found = measure(runs=runs, threads=threads) + measure_steps(parts, runs=runs)
    return f"{table(found)}\n{speed_paint.memory()}"


def measure(*, runs: int, threads: int) -> list[Ratio]:
    """Return every comparison on pocket."""
    torch.set_num_threads(threads)
    backbone = UnclipBackbone.load("pocket")
    found = [_sampling(backbone, runs, num=250), _warm_start(backbone)]
    torch.set_num_threads(1)  # as explore runs its steps: small products gain nothing from more
    steps = [_step(backbone, runs, num=num) for num in (4, 1)]
    torch.set_num_threads(threads)
    return [found[0], *steps, found[1]]


def measure_steps(
    parts: Sequence[Callable[[UnclipBackbone, int], list[Ratio]]], *, runs: int
) -> list[Ratio]:
    """Return the comparisons of the methods' steps, on one thread, as commands run them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    backbone = UnclipBackbone.load("pocket")
    found = [ratio for part in parts for ratio in part(backbone, runs)]
    torch.set_num_threads(before)
    return found


def table(ratios: list[Ratio]) -> str:
    """Return a Markdown table and a description of the machine."""
    rows = [
        "| what | ours, ms | plain, ms | ratio, median (min to max) | difference |",
        "| --- | --- | --- | --- | --- |",
    ]
    for ratio in ratios:
        ours, plain = (1e3 * statistics.median(part) for part in (ratio.ours, ratio.plain))
        middle, *ends = (
            f"{value:.3g}"
            for value in (statistics.median(ratio.ratios), min(ratio.ratios), max(ratio.ratios))
        )
        # another thing was drawn: there is nothing to hold against each other
        gap = "-" if math.isnan(ratio.difference) else f"{ratio.difference:.1e}"
        spread = f"{middle} ({' to '.join(ends)})"
        rows.append(f"| {ratio.what} | {ours:.1f} | {plain:.1f} | {spread} | {gap} |")
    machine = f"{torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}"
    return "\n".join([*rows, "", f"Measured in one process, in turn; {machine}."])


def _sampling(backbone: UnclipBackbone, runs: int, *, num: int) -> Ratio:
    """Baseline samples: ours against ``KandinskyV22PriorPipeline``."""
    from diffusers import KandinskyV22PriorPipeline

    pipeline = KandinskyV22PriorPipeline.from_pretrained(
        CHECKPOINTS["pocket"][0], dtype=torch.float32, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    prompt = ordinary_prompt(backbone, Request(subject=SUBJECT))

    @torch.no_grad()
    def ours() -> Tensor:
        return backbone.sample_prior(
            backbone.encode_text([prompt]),
            generator=stream(0, "bench"),
            num_samples=num,
            num_inference_steps=5,
            prior_guidance_scale=SCALE,
        )

    def plain() -> Tensor:
        embeds: Tensor = pipeline(
            prompt,
            num_images_per_prompt=num,
            num_inference_steps=5,
            guidance_scale=SCALE,
            generator=stream(0, "bench"),
        ).image_embeds
        return embeds

    return pair(f"{num} prior samples, 5 steps, guidance {SCALE:g}", ours, plain, runs)


def _step(backbone: UnclipBackbone, runs: int, *, num: int) -> Ratio:
    """Forward and backward of one optimizer step, token and LoRA; compared by their gradient."""
    config = LowProbabilityConfig(num_baseline=200)
    baseline = LowProbability(config).measure(backbone, Request(subject=SUBJECT))
    token = backbone.token_embed(SUBJECT)[None].requires_grad_()
    lora = backbone.init_lora(config.lora_rank, generator=stream(0, "lora"))
    lora = {name: factor.requires_grad_() for name, factor in lora.items()}
    template = str(backbone.card["prompt_template"]).replace("{subject}", PLACEHOLDER)
    radius = baseline.radius(0.999)

    def gradient(sample: Callable[..., Tensor]) -> Tensor:
        token.grad = None
        loss = novelty_loss(sample(), baseline.density, radius=radius)
        loss.backward()
        assert token.grad is not None
        return token.grad

    def fast() -> Tensor:
        text = backbone.encode_text([template], tokens={PLACEHOLDER: token})
        return backbone.sample_prior(
            text,
            generator=streams(0, "bench", num=num),
            num_samples=num,
            lora=lora,
            num_inference_steps=5,
            prior_guidance_scale=SCALE,
        )

    plain = _PlainPrior(backbone, template, token, lora)
    return pair(
        f"one thread: gradient of a step, token + LoRA, {num} noise{'s' * (num > 1)}",
        lambda: gradient(fast),
        lambda: gradient(lambda: plain.sample(num)),
        runs,
    )


class _PlainPrior:
    """The paper's own loop: the whole padded sequence through the prior at every step, with PEFT.

    It runs the modules as the pipeline does, without its ``no_grad``.
    """

    def __init__(
        self, backbone: UnclipBackbone, template: str, token: Tensor, lora: dict[str, Tensor]
    ) -> None:
        import copy

        from peft import LoraConfig

        self.backbone, self.template, self.token = backbone, template, token
        self.prior = copy.deepcopy(backbone.fast_prior.prior)
        self.scheduler = copy.deepcopy(backbone.fast_prior.scheduler)
        rank = next(iter(lora.values())).shape[0]
        targets = ["to_q", "to_k", "to_v", "to_out.0"]
        self.prior.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets))
        with torch.no_grad():
            for name, parameter in self.prior.named_parameters():
                if "lora_" in name:
                    parameter.copy_(lora[name.replace(".default", "")])

    def sample(self, num: int) -> Tensor:
        """Return embeddings, ``[num, D]``, with gradient."""
        from diffusers.utils.torch_utils import randn_tensor

        text = self._padded([self.template], {PLACEHOLDER: self.token})
        empty = self._padded([""], {})
        pooled, states, mask = (
            torch.cat([e.expand(num, *e.shape[1:]), t.expand(num, *t.shape[1:])])
            for e, t in zip(empty, text, strict=True)
        )
        noise = streams(0, "bench", num=num)
        self.scheduler.set_timesteps(5)
        latents = randn_tensor((num, pooled.shape[1]), generator=noise)
        timesteps = self.scheduler.timesteps
        for index, timestep in enumerate(timesteps):
            predicted = self.prior(
                torch.cat([latents] * 2),
                timestep=timestep,
                proj_embedding=pooled,
                encoder_hidden_states=states,
                attention_mask=mask,
            ).predicted_image_embedding
            uncond, cond = predicted.chunk(2)
            earlier = timesteps[index + 1] if index + 1 < len(timesteps) else None
            latents = self.scheduler.step(
                uncond + SCALE * (cond - uncond),
                timestep,
                latents,
                prev_timestep=earlier,
                generator=noise,
            ).prev_sample
        embeds: Tensor = self.prior.post_process_latents(latents)
        return embeds

    def _padded(
        self, prompts: list[str], tokens: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encode as the pipeline does, padded to full length."""
        text = self.backbone.encode_text(prompts, tokens=tokens)
        extra = self.backbone.fast_prior.num_text - text.text_mask.shape[1]
        states = torch.nn.functional.pad(text.text_encoder_hidden_states, (0, 0, 0, extra))
        mask = torch.nn.functional.pad(text.text_mask, (0, extra))
        return text.text_embeds, states, mask


def _warm_start(backbone: Any) -> Ratio:
    """Compare a cached baseline with a measured one; both give the same tensors."""
    import os
    import tempfile

    method = LowProbability(LowProbabilityConfig(num_baseline=1000, num_held_out=200))
    key = {"bench": "warm"}
    before = os.environ.get("OFFBEAT_CACHE")

    def build() -> Any:
        return method.measure(backbone, Request(subject=SUBJECT)).pack()

    with tempfile.TemporaryDirectory() as folder:
        os.environ["OFFBEAT_CACHE"] = folder
        try:
            return pair(
                "baseline of 1,000, from the cache",
                lambda: cached("bench", key, build)[0]["axes"],
                lambda: build()[0]["axes"],
                2,
            )
        finally:
            os.environ.pop("OFFBEAT_CACHE")
            if before is not None:
                os.environ["OFFBEAT_CACHE"] = before
