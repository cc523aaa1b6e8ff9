"""Settings of low-probability exploration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from offbeat.core.baseline import Baseline
from offbeat.core.checks import check_gradients
from offbeat.core.density import VISIBLE_SHARE, KernelDensity
from offbeat.errors import ConfigError
from offbeat.methods.low_probability.spaces import SPACES
from offbeat.methods.settings import Settings, setting
from offbeat.protocols import ExploringBackbone

NAME = "low-probability"

PRIOR_STEPS = 5
"""Denoising steps of a prior, as published."""

OPTIMIZERS = ("auto", "gradient", "cma-es")

FEW_STEPS = 4
"""Denoising steps of pictures, at most, that a gradient passes where nothing is said."""

GRADIENT_STEPS, EVOLUTION_STEPS = 200, 40
"""Steps at most where nothing is said; one of cma-es draws two dozen pictures."""

MANY = 1_000_000

FIRST_REACH = 3.0
"""Where the dial of seen novelty begins, in ordinary distances."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LowProbabilityConfig(Settings):
    """Settings of one search, saved as they were asked."""

    method = NAME

    novelty: float | None = setting(
        2.0, above=0, at_most=100, help="Seen novelty to reach; 1: just another ordinary picture."
    )
    quantile: float | None = setting(
        None, above=0, below=1, help="Hold the distance of this chi-square quantile instead."
    )
    reach: float | None = setting(
        None, above=0, at_most=100, help="Hold so many times the ordinary distance instead."
    )
    seen_quantile: float = setting(
        0.75, 0, 1, help="Of the pictures looked at; those shown are chosen among the different."
    )
    max_reach: float = setting(
        5.0, above=0, at_most=100, help="The dial widens to this reach at most."
    )
    space: str = setting("token+lora", choices=SPACES, help="What is learned.")
    num_steps: int | None = setting(
        None, 1, MANY, help="Steps at most; None: 200, or 40 of cma-es. The paper has 1,000."
    )
    learning_rate: float | None = setting(
        None, 1e-12, 1, help="Of AdamW; None: 2e-4 for a seen novelty, else 1e-4 as published."
    )
    lora_rank: int = setting(10, 1, 1024, help="Rank of the LoRA factors.")
    density: str = setting(
        "gaussian", choices=("gaussian", "kde"), help="Model of the ordinary samples."
    )
    num_baseline: int = setting(
        5000, 2, MANY, help="Ordinary samples that the density is fitted to."
    )
    num_held_out: int = setting(
        1000, 1, MANY, help="Further ordinary samples, to check the density."
    )
    num_drawn: int = setting(
        320, 4, MANY, help="These together at most, where samples are read of pictures."
    )
    num_components: int | None = setting(
        None, 1, 100_000, help="PCA axes (the paper: 50); None: the leading ones, or 8 with kde."
    )
    axes_share: float = setting(
        VISIBLE_SHARE, above=0, at_most=1, help="Share of the variance that the leading axes hold."
    )
    prior_num_inference_steps: int | None = setting(
        None, 1, 1000, help="Denoising steps of the prior; None: 5, or as the checkpoint says."
    )
    prior_guidance_scale: float | None = setting(
        None, 0, 100, help="Guidance of the prior; None: as the checkpoint says."
    )
    num_noises: int | None = setting(
        None, 1, 10_000, help="Noises in a step; None: 4 to hold a distance, else 1 as published."
    )
    use_anchor: bool = setting(True, help="Whether the text pulls back.")
    use_support: bool = setting(
        True, help="Whether to pull back from where no prompt of the checkpoint leads."
    )
    support_weight: float = setting(1.0, 0, 1e6, help="Weight of that pull.")
    rule: str = setting(
        "alternate",
        choices=("alternate", "sum"),
        help="One loss a step (appendix S2.4), or their sum (eq. 8, an ablation).",
    )
    max_pull_back: int = setting(20, 1, MANY, help="Anchor steps on one noise before a new one.")
    avoid_weight: float = setting(
        1.0,
        -1e6,
        1e6,
        help="alpha: of the clusters to avoid; -1 is eq. 7 as printed, which draws in.",
    )
    judge_every: int = setting(25, 1, MANY, help="Steps between two questions to the judge.")
    num_judged: int | None = setting(
        None, 1, 1000, help="Pictures in a question; None: 8 for a seen novelty, else 4."
    )
    pass_share: float | None = setting(
        None, above=0, at_most=1, help="Of them must pass; None: 7/8 for a seen novelty, else half."
    )
    probe_every: int = setting(5, 1, MANY, help="Steps between two looks at fresh noises.")
    num_probes: int = setting(32, 2, 10_000, help="Fresh noises in a look.")
    hold_tolerance: float = setting(
        0.03, 0, 1, help="The distance is held if the median is this near, relative."
    )
    num_holds: int = setting(3, 1, MANY, help="Looks in a row that must hold the distance.")
    max_grad_norm: float = setting(1.0, 1e-12, 1e12, help="Gradients are clipped to this norm.")
    gradient_steps: int | None = setting(
        None, 1, 1000, help="The gradient passes the last so many denoising steps; None: all."
    )

    optimizer: str = setting(
        "auto", choices=OPTIMIZERS, help="auto: gradient where it can pass, in few steps."
    )
    encoder: str | None = setting(
        None, help="Folder or hub id of what reads pictures; None: the checkpoint's own, or CLIP's."
    )
    basis_size: int = setting(16, 1, 512, help="Directions of the vocabulary, for cma-es.")
    population: int | None = setting(
        None, 4, 10_000, help="Tokens in a generation of cma-es; None: by the directions."
    )
    evolution_step: float = setting(
        0.3, above=0, at_most=10, help="First step of cma-es, in deviations of the vocabulary."
    )

    def __post_init__(self) -> None:
        if self.quantile is not None or self.reach is not None:
            object.__setattr__(self, "novelty", None)  # the default gives way
        Settings.__post_init__(self)
        if self.novelty is not None and self.novelty < 1:  # a quantile, in runs of before
            object.__setattr__(self, "quantile", self.novelty)
            object.__setattr__(self, "novelty", None)

    def check(self) -> None:
        """Raise if two distances are given, or the axes do not fit the density or the samples."""
        if self.quantile is not None and self.reach is not None:
            got = f"{self.quantile} and {self.reach}"
            raise ConfigError(f"quantile, reach: expected one of them, got {got}")
        axes = self.axes
        if axes is None:
            return
        if self.density == "kde" and axes > KernelDensity.MAX_COMPONENTS:
            raise ConfigError(
                f"num_components: expected at most {KernelDensity.MAX_COMPONENTS} with "
                f"density='kde', got {axes}"
            )
        if self.num_baseline <= axes:
            raise ConfigError(
                f"num_baseline: expected more samples than the {axes} PCA axes, got "
                f"{self.num_baseline}; draw more, or lower num_components"
            )

    @property
    def axes(self) -> int | None:
        """PCA axes kept, k; None where the variance decides."""
        if self.num_components is not None:
            return self.num_components
        return KernelDensity.MAX_COMPONENTS if self.density == "kde" else None

    @property
    def holds(self) -> bool:
        """Whether a distance is held, instead of run away from."""
        return any(one is not None for one in (self.novelty, self.quantile, self.reach))

    @property
    def rate(self) -> float:
        """Learning rate of AdamW."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 1e-4 if self.novelty is None else 2e-4

    @property
    def passes(self) -> float:
        """Share of the pictures in a question that must pass."""
        if self.pass_share is not None:
            return self.pass_share
        return 0.5 if self.novelty is None else 7 / 8

    @property
    def steps(self) -> int:
        """Steps at most."""
        if self.num_steps is not None:
            return self.num_steps
        return EVOLUTION_STEPS if self.optimizer == "cma-es" else GRADIENT_STEPS

    @property
    def judged(self) -> int:
        """Pictures in a question to the judge."""
        return self.num_judged or (4 if self.novelty is None else 8)

    @property
    def noises(self) -> int:
        """Noises a step."""
        return self.num_noises if self.num_noises is not None else (4 if self.holds else 1)

    def radius(self, baseline: Baseline) -> float | None:
        """Return the Mahalanobis distance to hold, or to begin with; None runs away."""
        if self.quantile is not None:
            return baseline.radius(self.quantile)
        reach = self.reach
        if self.novelty is not None:
            reach = min(FIRST_REACH, self.max_reach)
        return None if reach is None else reach * baseline.ordinary_distance

    def samples(self, backbone: ExploringBackbone) -> tuple[int, int]:
        """Return how many ordinary samples the density is fitted to, and checked on."""
        if not hasattr(backbone, "reader"):
            return self.num_baseline, self.num_held_out
        held = max(1, self.num_drawn // 5)
        return min(self.num_baseline, self.num_drawn - held), min(self.num_held_out, held)

    def on(self, backbone: ExploringBackbone) -> LowProbabilityConfig:
        """Return these settings with what suits a backbone in place of ``auto``.

        Raises:
            ConfigError: If the optimizer, the space and the backbone do not go together, or a
                search would follow gradients through float16.
        """
        drawn = hasattr(backbone, "reader")
        has_gradient = getattr(backbone, "has_gradient", True)
        steps = int(self.sampling(backbone)["num_inference_steps"])
        chosen, space = self.optimizer, self.space
        if chosen == "auto":
            by_gradient = has_gradient and (not drawn or steps <= FEW_STEPS)
            chosen = "gradient" if by_gradient else "cma-es"
        if chosen == "gradient" and not has_gradient:
            raise ConfigError(
                f"optimizer: no gradient passes {backbone.name}; use 'cma-es', or 'auto'"
            )
        if chosen == "gradient":
            check_gradients(NAME, backbone)
        without_lora = chosen == "cma-es" or not getattr(backbone, "takes_lora", True)
        if without_lora and space == "token+lora":
            space = "subject"
        if chosen == "cma-es" and space not in ("subject", "adjective"):
            raise ConfigError(
                f"space: expected 'subject' or 'adjective' with optimizer 'cma-es', got {space!r}"
            )
        noises = self.num_noises
        if noises is None and chosen == "cma-es":
            noises = 2
        return replace(self, optimizer=chosen, space=space, num_noises=noises)

    def sampling(self, backbone: ExploringBackbone) -> dict[str, Any]:
        """Return the prior's settings, for ``sample_prior``, in search and pictures alike."""
        card = backbone.card
        own = card.get("explore_prior_guidance_scale", card["prior_guidance_scale"])
        scale = own if self.prior_guidance_scale is None else self.prior_guidance_scale
        steps = self.prior_num_inference_steps
        if steps is None:
            steps = int(card.get("explore_prior_num_inference_steps", PRIOR_STEPS))
        return {
            "num_inference_steps": steps,
            "prior_guidance_scale": float(scale),
        }
