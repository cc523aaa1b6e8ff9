"""Check a real checkpoint in a minute: it draws what its pipeline draws, and can be searched with.

For whoever has the weights. Every check is held against diffusers, or against what must be true.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offbeat.backbones.flow.flux import packed
from offbeat.backbones.flow.language import LanguageFlow
from offbeat.checkpoints.pipeline import quiet_diffusers
from offbeat.core.rng import normal, stream
from offbeat.errors import OffbeatError

PROMPT, STEPS = "a red castle on a hill", 4
WORD = "<word>"
LIMITS = {"float32": 0.004, "bfloat16": 0.05, "float16": 0.02}
"""Mean difference of pixels, 0 to 1, that rounding makes in each type."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check of a checkpoint."""

    what: str
    result: str
    passed: bool | None
    """None if it is a figure only, or could not be checked here."""
    seconds: float = 0.0


def verify(backbone: Any) -> list[Check]:
    """Check a loaded checkpoint; a check that fails does not end the others.

    Args:
        backbone: Of any form that Offbeat brings.
    """
    name = str(backbone.dtype).removeprefix("torch.")
    checks: list[tuple[str, Callable[[Any], tuple[str, bool | None]]]] = [
        ("text: a known word passed in as a token changes nothing", _token_is_word),
        ("text: words after a learned token count", _words_count),
        ("search: gradients reach a token, finite and not zero", _gradient),
        ("pictures: finite, and the same for the same seed", _repeats),
        ("pictures: those of the diffusers pipeline", _same_as_pipeline),
    ]
    if hasattr(backbone, "fast_prior"):
        checks.append(("prior: the samples of the diffusers pipeline", _same_prior))
    place = f"{backbone.device}, {name}, {sum(_sizes(backbone)) / 1e9:.2f} GB of weights"
    return [Check("where", place, None), *(_timed(backbone, *check) for check in checks),
            Check("memory", _peak(backbone.device), None)]  # fmt: skip


def report(source: str, checks: list[Check]) -> str:
    """Return the checks as Markdown, to be attached to an issue."""
    words = {True: "yes", False: "NO", None: "-"}
    rows = [f"| {c.what} | {words[c.passed]} | {c.result} | {c.seconds:.1f} |" for c in checks]
    head = ["| check | passed | found | seconds |", "| --- | --- | --- | --- |"]
    return "\n".join([f"`offbeat verify {source}`", "", *head, *rows])


def _timed(backbone: Any, what: str, check: Callable[[Any], tuple[str, bool | None]]) -> Check:
    began = time.perf_counter()
    try:
        result, passed = check(backbone)
    except OffbeatError as error:
        result, passed = str(error), False
    except Exception as error:  # the libraries' own; the other checks go on
        result, passed = f"{type(error).__name__}: {error}"[:300], False
    return Check(
        what, result.replace("\n", " ").replace("|", "/"), passed, time.perf_counter() - began
    )


def _sizes(backbone: Any) -> Iterator[int]:
    for module in backbone._modules():
        yield from (weight.numel() * weight.element_size() for weight in module.parameters())


def _peak(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 1e9:.2f} GB at most on {device}"
    return "not measured on this device"


@torch.no_grad()
def _token_is_word(backbone: Any) -> tuple[str, bool]:
    rows = backbone.token_embeds("castle")
    plain = backbone.encode_text([PROMPT])
    passed_in = backbone.encode_text([PROMPT.replace("castle", WORD)], tokens={WORD: rows})
    gap = _gap(passed_in.text_encoder_hidden_states, plain.text_encoder_hidden_states)
    return f"relative difference {gap:.1e}", gap < 0.02


@torch.no_grad()
def _words_count(backbone: Any) -> tuple[str, bool]:
    tokens = {WORD: backbone.token_embeds("castle")}
    texts = [
        backbone.encode_text([f"a {WORD} in {colour}"], tokens=tokens)
        for colour in ("red", "green")
    ]
    gap = _gap(texts[0].text_embeds, texts[1].text_embeds)
    return f"relative difference {gap:.1e}", gap > 1e-3


def _gradient(backbone: Any) -> tuple[str, bool]:
    token = backbone.token_embeds("castle").requires_grad_()
    text = backbone.encode_text([f"a {WORD}"], tokens={WORD: token})
    if hasattr(backbone, "sample_prior"):
        steps = {} if not hasattr(backbone, "fast_prior") else {"num_inference_steps": 2}
        result = backbone.sample_prior(text, generator=stream(0), num_samples=1, **steps)
    else:
        latents = backbone.init_latents(stream(0), num_samples=1, num_inference_steps=2)
        result = backbone.denoise(
            latents, text, generator=stream(0), num_inference_steps=2, gradient_steps=1
        )
    result.float().square().mean().backward()
    slope = token.grad
    size = float("nan") if slope is None else float(slope.norm())
    return f"norm {size:.2e}", 0 < size < float("inf")


@torch.no_grad()
def _repeats(backbone: Any) -> tuple[str, bool]:
    first, second = _draw(backbone), _draw(backbone)
    finite = bool(first.isfinite().all())
    gap = float((first - second).abs().max())
    return f"largest difference {gap:.1e}, spread {float(first.std()):.2f}", finite and gap < 1e-3


@torch.no_grad()
def _same_as_pipeline(backbone: Any) -> tuple[str, bool | None]:
    placement = getattr(backbone, "_placement", None)
    if placement is not None and placement.offload != "none":
        return "not checked with offloaded weights: run it with --offload none", None
    pipeline, settings = _pipeline(backbone)
    pipeline.set_progress_bar_config(disable=True)
    with quiet_diffusers():
        drawn = pipeline(num_inference_steps=STEPS, output_type="np", **settings).images
    theirs = torch.from_numpy(drawn).permute(0, 3, 1, 2)
    gap = float((_draw(backbone).cpu() - theirs).abs().mean())
    limit = LIMITS[str(backbone.dtype).removeprefix("torch.")]
    return f"mean difference {gap:.1e} of at most {limit:g}", gap < limit


@torch.no_grad()
def _same_prior(backbone: Any) -> tuple[str, bool | None]:
    from diffusers import KandinskyV22PriorPipeline

    if backbone._placement is not None and backbone._placement.offload != "none":
        return "not checked with offloaded weights: run it with --offload none", None
    fast = backbone.fast_prior
    pipeline = KandinskyV22PriorPipeline(
        prior=fast.prior, image_encoder=backbone.image_encoder, tokenizer=backbone.tokenizer,
        text_encoder=backbone.text_encoder, scheduler=fast.scheduler, image_processor=None,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": STEPS, "generator": stream(0)}
    scale = float(backbone.card["prior_guidance_scale"])
    theirs = pipeline(
        PROMPT, num_images_per_prompt=2, guidance_scale=scale, **settings
    ).image_embeds
    settings["generator"] = stream(0)
    text = backbone.encode_text([PROMPT])
    ours = backbone.sample_prior(text, num_samples=2, prior_guidance_scale=scale, **settings)
    gap = _gap(ours, theirs)
    is_exact = backbone.dtype == torch.float32
    return f"relative difference {gap:.1e}", gap < 1e-3 if is_exact else None


def _draw(backbone: Any) -> Tensor:
    """Return one picture of few steps, from noise that a pipeline can be given too."""
    settings = {"generator": stream(1), "num_inference_steps": STEPS}
    if hasattr(backbone, "fast_prior"):
        images: Tensor = backbone.decode_embeds(_embeds(backbone), **settings)
    else:
        images = backbone.draw_text(backbone.encode_text([PROMPT]), **settings)
    return images


def _embeds(backbone: Any) -> Tensor:
    return normal((1, backbone.unet_embed_width), stream(2), backbone.device)


def _pipeline(backbone: Any) -> tuple[Any, dict[str, Any]]:
    """Return the pipeline of diffusers around the same modules, and what it is called with."""
    import diffusers

    card = backbone.card
    kind = type(backbone).__name__
    channels = backbone.unet.config.in_channels if kind == "UnclipBackbone" else backbone._channels
    noise = stream(1)  # goes on behind the first noise, as ours does
    drawn = normal((1, channels, *backbone._latent_size()), noise, backbone.device)
    settings: dict[str, Any] = {
        "guidance_scale": float(card["guidance_scale"]),
        "generator": noise,
        "latents": drawn.to(backbone.dtype),
        **{side: int(card[side]) for side in ("height", "width")},
    }
    if kind == "UnclipBackbone":
        settings["image_embeds"] = _embeds(backbone).to(backbone.dtype)
        settings["negative_image_embeds"] = backbone.unconditional_embeds().to(backbone.dtype)
        parts = {"unet": backbone.unet, "scheduler": backbone.scheduler, "movq": backbone.movq}
        if backbone.decoder_text is None:
            return diffusers.KandinskyV22Pipeline(**parts), settings
        tokenizer, encoder = backbone.decoder_text
        texts = {"tokenizer": tokenizer, "text_encoder": encoder}
        return diffusers.KandinskyPipeline(**parts, **texts), {"prompt": "", **settings}
    settings["prompt"] = PROMPT
    numbers = ("", "_2", "_3")
    texts = {}
    for number, encoder in zip(numbers, backbone._encoders, strict=False):
        texts |= {f"tokenizer{number}": encoder.tokenizer, f"text_encoder{number}": encoder.module}
    parts = {"vae": backbone.vae, "scheduler": backbone.scheduler, **texts}
    if kind == "SD3Backbone":
        if len(backbone._encoders) == 2:
            parts |= {"tokenizer_3": None, "text_encoder_3": None}
        settings["max_sequence_length"] = backbone.max_sequence_length
        pipeline = diffusers.StableDiffusion3Pipeline(transformer=backbone.transformer, **parts)
    elif kind == "FluxBackbone":
        settings |= {
            "latents": packed(settings["latents"]),
            "max_sequence_length": backbone.max_sequence_length,
        }
        pipeline = diffusers.FluxPipeline(transformer=backbone.transformer, **parts)
    elif isinstance(backbone, LanguageFlow):
        settings["max_sequence_length"] = backbone.max_sequence_length
        if backbone.packs:
            settings["latents"] = packed(settings["latents"])
        if kind == "QwenImageBackbone":
            settings |= {"true_cfg_scale": settings.pop("guidance_scale"), "negative_prompt": " "}
        if kind == "SanaBackbone":
            settings["use_resolution_binning"] = False
        pipeline = getattr(diffusers, backbone.pipeline)(transformer=backbone.transformer, **parts)
    elif backbone.is_xl:
        pipeline = diffusers.StableDiffusionXLPipeline(
            unet=backbone.unet, force_zeros_for_empty_prompt=backbone._zero_empty, **parts
        )
    else:
        pipeline = diffusers.StableDiffusionPipeline(
            unet=backbone.unet, safety_checker=None, feature_extractor=None,
            requires_safety_checker=False, **parts,
        )  # fmt: skip
        if hasattr(texts["text_encoder"], "text_projection"):  # of a one-step model's towers
            for name, prompt in (("prompt_embeds", PROMPT), ("negative_prompt_embeds", "")):
                states = backbone.encode_text([prompt]).text_encoder_hidden_states
                settings[name] = states.to(backbone.dtype)
            del settings["prompt"]
    return pipeline, settings


def _gap(first: Tensor, second: Tensor) -> float:
    """Return the largest difference, as a share of the largest number."""
    first, second = first.float().cpu(), second.float().cpu()
    return float((first - second).abs().max() / second.abs().max())
