"""Settings of low-probability exploration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from offbeat.core.baseline import Baseline
from offbeat.core.checks import check_range
from offbeat.core.density import KernelDensity
from offbeat.errors import ConfigError
from offbeat.methods.low_probability.spaces import SPACES
from offbeat.protocols import ExploringBackbone

NAME = "low-probability"

PRIOR_STEPS = 5
"""Denoising steps of a prior, as published."""

_MANY = 1_000_000

_RANGES: dict[str, tuple[float, float]] = {
    "num_steps": (1, _MANY),
    "learning_rate": (1e-12, 1),
    "lora_rank": (1, 1024),
    "num_baseline": (2, _MANY),
    "num_held_out": (1, _MANY),
    "num_components": (1, 100_000),
    "prior_num_inference_steps": (1, 1000),
    "prior_guidance_scale": (0, 100),
    "gradient_steps": (1, 1000),
    "num_noises": (1, 10_000),
    "max_pull_back": (1, _MANY),
    "avoid_weight": (0, 1e6),
    "judge_every": (1, _MANY),
    "num_judged": (1, 1000),
    "probe_every": (1, _MANY),
    "num_probes": (2, 10_000),
    "hold_tolerance": (0, 1),
    "num_holds": (1, _MANY),
    "max_grad_norm": (1e-12, 1e12),
}
"""What every number must lie in; NaN lies in none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LowProbabilityConfig:
    """Settings of one search, saved as they were asked."""

    novelty: float | None = 0.999
    """Chi-square quantile to reach and hold, inside (0, 1); None runs away as published."""
    reach: float | None = None
    """So many times as far as ordinary samples (their median); goes before ``novelty``."""
    space: str = "token+lora"
    """What is learned: subject, adjective, lora, token+lora or direct."""
    num_steps: int = 200
    """Optimizer steps at most; the paper goes to 1,000."""
    learning_rate: float = 1e-4
    lora_rank: int = 10
    density: str = "gaussian"
    """``gaussian`` or ``kde``."""
    num_baseline: int = 5000
    num_held_out: int = 1000
    """Further samples, not fitted, to check the Gaussian against."""
    num_components: int | None = None
    """PCA axes kept; None is 50, and 8 for ``kde``."""
    prior_num_inference_steps: int | None = None
    """None is the checkpoint's own for exploration: 5, and 1 where a picture takes one step."""
    prior_guidance_scale: float | None = None
    """Of baseline and search alike; None is the checkpoint's own for exploration."""
    num_noises: int | None = None
    """Noises a step; None is 4 where a distance is held and 1, as published, where not."""
    use_anchor: bool = True
    rule: str = "alternate"
    """``alternate`` (appendix S2.4) or ``sum`` (eq. 8, an ablation)."""
    max_pull_back: int = 20
    """Anchor steps on one noise before a new one is drawn."""
    avoid_weight: float = 1.0
    """alpha of the unwanted clusters."""
    judge_every: int = 25
    """Steps between two questions to the judge."""
    num_judged: int = 4
    """Pictures a question; half of them must pass."""
    probe_every: int = 5
    """Steps between two looks at ``num_probes`` fresh noises."""
    num_probes: int = 64
    hold_tolerance: float = 0.03
    """A probe holds if its median distance is this near the radius, relative."""
    num_holds: int = 3
    """Probes in a row that must hold."""
    max_grad_norm: float = 1.0
    gradient_steps: int | None = None
    """Last denoising steps that the gradient passes; None is all: exact."""

    def __post_init__(self) -> None:
        if self.novelty is not None:
            check_range("novelty", self.novelty, 0, 1, open_low=True, open_high=True)
        if self.reach is not None:
            check_range("reach", self.reach, 0, 100, open_low=True)
        for name, got, known in (
            ("space", self.space, SPACES),
            ("rule", self.rule, ("alternate", "sum")),
            ("density", self.density, ("gaussian", "kde")),
        ):
            if got not in known:
                raise ConfigError(f"{name}: expected one of {', '.join(known)}, got {got!r}")
        for name, (low, high) in _RANGES.items():
            if (value := getattr(self, name)) is not None:
                check_range(name, value, low, high)
        if self.density == "kde" and self.axes > KernelDensity.MAX_COMPONENTS:
            raise ConfigError(
                f"num_components: expected at most {KernelDensity.MAX_COMPONENTS} with "
                f"density='kde', got {self.axes}"
            )
        if self.num_baseline <= self.axes:
            raise ConfigError(
                f"num_baseline: expected more samples than the {self.axes} PCA axes, got "
                f"{self.num_baseline}; draw more, or lower num_components"
            )

    @property
    def axes(self) -> int:
        """PCA axes kept, k."""
        if self.num_components is not None:
            return self.num_components
        return KernelDensity.MAX_COMPONENTS if self.density == "kde" else 50

    @property
    def holds(self) -> bool:
        """Whether a distance is held, instead of run away from."""
        return self.novelty is not None or self.reach is not None

    @property
    def noises(self) -> int:
        """Noises a step."""
        return self.num_noises if self.num_noises is not None else (4 if self.holds else 1)

    def radius(self, baseline: Baseline) -> float | None:
        """Return the Mahalanobis distance to hold, or None."""
        if self.reach is not None:
            return self.reach * baseline.ordinary_distance
        return None if self.novelty is None else baseline.radius(self.novelty)

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
