"""Settings of DisTok."""

from __future__ import annotations

from dataclasses import dataclass

from offbeat.core.templates import fill
from offbeat.methods.settings import Settings, denoising_steps, setting
from offbeat.types import PLACEHOLDER

NAME = "distok"


_MANY = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DisTokConfig(Settings):
    """Settings of the training, of fusions and of dreams."""

    method = NAME

    num_steps: int = setting(20_000, 1, _MANY, help="Optimizer steps.")
    batch_size: int = setting(8, 1, 100_000, help="Samples an update, n; each is of one task.")
    learning_rate: float = setting(
        1e-4, 1e-12, 1, help="Of the first step; it falls to 0 along a cosine."
    )
    weight_decay: float = setting(0.01, 0, 1, help="Of AdamW.")
    max_grad_norm: float = setting(
        1.0, 1e-12, 1_000_000_000_000, help="Gradients are clipped to this norm."
    )
    latent_width: int = setting(20, 1, 10_000, help="Width of a latent.")
    hidden_width: int = setting(768, 1, 100_000, help="Width of the hidden layers.")
    adaptive_template: str = setting("a photo of a {concept}", help="Prompt of a token.")
    restrictive_template: str = setting("a {first} {second}", help="Prompt of a pair of words.")
    aesthetic_prompt: str | None = setting(
        "a photo of a cute pet", help="The published one suits pets only; None leaves its term out."
    )
    max_restrictive_cosine: float = setting(
        0.85, -1, 1, help="A restrictive prompt pulls no more above this cosine, eps1."
    )
    max_aesthetic_cosine: float = setting(
        0.80, -1, 1, help="The aesthetic prompt pulls no more above this cosine, eps2."
    )
    fusion_weight: float = setting(1.0, 0, 1_000_000, help="alpha: weight of the mixture loss.")
    consistency_weight: float = setting(
        1.0, 0, 1_000_000, help="beta: weight of the consistency loss."
    )
    regulariser_weight: float = setting(
        0.001, 0, 1_000_000, help="gamma: weight of the regulariser of the latents."
    )
    pair_weighting: str = setting(
        "mean",
        choices=("mean", "sum"),
        help="A pair enters as the mean of its tokens, like any mixture, or as their sum.",
    )
    fusion_target: str = setting(
        "prompt",
        choices=("prompt", "shares"),
        help="prompt, as published: half and half. shares: drawn shares and their texts.",
    )
    regularise_over: str = setting(
        "batch",
        choices=("batch", "per_sample"),
        help="Mean and spread over the samples of an update, or over coordinates.",
    )
    consistency_share: float = setting(
        0.5, 0, 1, help="Probability of the consistency task, once there is an entry for it."
    )
    consistency_from: str = setting(
        "novel",
        choices=("novel", "pool"),
        help="novel entries, as published, or the whole pool with the known classes.",
    )
    known_share: float = setting(
        0.5, 0, 1, help="Probability of drawing a known class where both kinds may be drawn."
    )
    estimate_every: int = setting(
        500, 1, _MANY, help="Updates between two rounds of class distribution estimation."
    )
    num_estimated: int = setting(8, 1, 10_000, help="Samples a round.")
    num_pictures: int = setting(
        1, 1, 1000, help="Pictures of a sample that the judge's reading is the mean of."
    )
    estimate_from: str = setting(
        "noise",
        choices=("noise", "mixtures"),
        help="What the judge reads: decoded noise, as published, or drawn mixtures.",
    )
    max_known_probability: float = setting(
        0.85, 0, 1, help="tau: a sample with a larger known probability does not join the pool."
    )
    max_novel: int = setting(
        1000,
        1,
        1_000_000,
        help="Novel entries in the pool; the oldest leave first, known classes never.",
    )
    num_inference_steps: int | None = denoising_steps()
    watch_every: int = setting(
        500, 1, _MANY, help="Updates between two readings of the collapse alarm."
    )
    min_token_distance: float = setting(
        0.1, 0, 2, help="The alarm rings where decoded tokens are nearer to each other (mean)."
    )
    law: str = setting(
        "gaussian", choices=("gaussian", "laplace", "cauchy"), help="Distribution of dreams."
    )
    dream_classes: int | None = setting(
        None,
        1,
        1_000_000,
        help="A dream becomes the nearest mixture of so many classes; None leaves it.",
    )
    share_exponent: float = setting(
        1.0, 0.01, 100, help="Power of the shares in a fusion; below 1 the lesser word shows more."
    )

    def check(self) -> None:
        """Raise if a prompt lacks its place."""
        fill(self.adaptive_template, concept=PLACEHOLDER)
        fill(self.restrictive_template, first="pig", second="owl")
