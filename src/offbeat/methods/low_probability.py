"""Low-probability exploration: still the subject, far from what the model usually draws.

Source: Song and Elgammal, arXiv:2601.22125. Corrected here: eq. 7 is printed with the sign that
attracts to unwanted clusters; the two losses alternate, as the appendix says and eq. 8 does not.
Ours: a novelty quantile that is reached and held.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from offbeat.baseline import Baseline
from offbeat.checks import check_range
from offbeat.density import AvoidCluster, Density
from offbeat.errors import ConfigError
from offbeat.functional import cosine
from offbeat.methods._spaces import SPACES, ConceptSpace
from offbeat.protocols import ChecksSubject, PriorBackbone
from offbeat.rng import streams
from offbeat.sampling import ordinary_prompt, sample_concept
from offbeat.types import Concept, OnStep, Request, Step, Verdict, ignore_step

BASELINE_BATCH = 250


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
    prior_num_inference_steps: int = 5
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
    """Pictures a question; most of them must pass."""
    probe_every: int = 5
    """Steps between two looks at ``num_probes`` fresh noises."""
    num_probes: int = 64
    hold_tolerance: float = 0.03
    """A probe holds if its median distance is this near the radius, relative."""
    num_holds: int = 3
    """Probes in a row that must hold."""
    max_grad_norm: float = 1.0

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
        for name in (
            "num_steps",
            "num_held_out",
            "judge_every",
            "probe_every",
            "num_probes",
            "num_judged",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, got {getattr(self, name)}")
        check_range("learning_rate", self.learning_rate, 0, 1, open_low=True)
        if self.num_baseline <= self.axes:
            raise ConfigError(
                f"num_baseline: expected more samples than the {self.axes} PCA axes, got "
                f"{self.num_baseline}; draw more, or lower num_components"
            )

    @property
    def axes(self) -> int:
        """PCA axes kept, k."""
        return self.num_components or (8 if self.density == "kde" else 50)

    @property
    def holds(self) -> bool:
        """Whether a distance is held, instead of run away from."""
        return self.novelty is not None or self.reach is not None

    @property
    def noises(self) -> int:
        """Noises a step."""
        return self.num_noises or (4 if self.holds else 1)

    def radius(self, baseline: Baseline) -> float | None:
        """Return the Mahalanobis distance to hold, or None."""
        if self.reach is not None:
            return self.reach * baseline.ordinary_distance
        return None if self.novelty is None else baseline.radius(self.novelty)

    def sampling(self, backbone: PriorBackbone) -> dict[str, Any]:
        """Return the prior's settings, for ``sample_prior``, in search and pictures alike."""
        card = backbone.card
        own = card.get("explore_prior_guidance_scale", card["prior_guidance_scale"])
        scale = own if self.prior_guidance_scale is None else self.prior_guidance_scale
        return {
            "num_inference_steps": self.prior_num_inference_steps,
            "prior_guidance_scale": float(scale),
        }


def creative_loss(image_embeds: Tensor, density: Density) -> Tensor:
    """Return mean log density of ``[B, D]``: minimised, samples go to the tail (eq. 4)."""
    return density.log_prob(image_embeds).mean()


def novelty_loss(image_embeds: Tensor, density: Density, *, radius: float) -> Tensor:
    """Return the mean squared error of the Mahalanobis distance of ``[B, D]`` to ``radius``.

    Ours: the log density has no lower end, so the published loss steps the faster the farther.
    """
    distance = density.squared_distance(image_embeds).clamp_min(1e-12).sqrt()
    return (distance - radius).square().mean()


def anchor_loss(image_embeds: Tensor, text_embeds: Tensor) -> Tensor:
    """Return one minus the cosine of each of ``[B, D]`` to the prompt, ``[1, D]``: ``[B]``."""
    return 1 - cosine(image_embeds, text_embeds)[:, 0]


def avoid_loss(image_embeds: Tensor, clusters: Sequence[AvoidCluster]) -> Tensor:
    """Return the sum over clusters of mean log density, down to where a sample has left one.

    Erratum: eq. 7 has a minus sign, which draws samples into the cluster.
    """
    terms = [cluster.log_prob(image_embeds).clamp_min(cluster.floor).mean() for cluster in clusters]
    return torch.stack(terms).sum() if terms else image_embeds.new_zeros(())


class LowProbability:
    """The search: ``measure`` the ordinary once, then ``fit`` from each seed."""

    name = "low-probability"

    def __init__(self, config: LowProbabilityConfig | None = None) -> None:
        self.config = config or LowProbabilityConfig()

    def measure(
        self,
        backbone: PriorBackbone,
        request: Request,
        *,
        on_sample: Callable[[int, int], None] = lambda done, total: None,
    ) -> Baseline:
        """Sample what the checkpoint usually draws; the same for every seed of a request."""
        cfg, prompt = self.config, ordinary_prompt(backbone, request)
        with torch.no_grad():
            text = backbone.encode_text([prompt])
            settings = {"negative": backbone.encode_text([""]), **cfg.sampling(backbone)}

            def draw(purpose: str, total: int) -> Tensor:
                parts = []
                for start in range(0, total, BASELINE_BATCH):
                    num = min(BASELINE_BATCH, total - start)
                    noise = streams(0, purpose, num=num, start=start)
                    part = backbone.sample_prior(text, generator=noise, num_samples=num, **settings)
                    parts.append(part.cpu())
                    on_sample(start + num, total)
                return torch.cat(parts)

            samples, held_out = (
                draw("baseline", cfg.num_baseline),
                draw("held-out", cfg.num_held_out),
            )
        anchor = text.text_embeds.cpu()
        return Baseline.fit(
            prompt, samples, held_out, anchor, num_components=cfg.axes, kind=cfg.density
        )

    def fit(
        self,
        backbone: PriorBackbone,
        request: Request,
        *,
        baseline: Baseline,
        avoid: Sequence[Tensor] = (),
        judge: ChecksSubject | None = None,
        on_step: OnStep = ignore_step,
        resume: Mapping[str, Any] | None = None,
    ) -> Concept:
        """Return the concept found; ``request.seed`` alone decides every draw.

        Args:
            backbone: Frozen.
            request: The subject and the seed.
            baseline: Of the same request, from ``measure``.
            avoid: Image embeddings of each unwanted cluster, ``[n, D]``.
            judge: Asked every ``judge_every`` steps; a "no" ends the search.
            on_step: Told each step; ``Step.snapshot`` is what ``resume`` takes.
            resume: State to go on from.
        """
        search = _Search(self.config, backbone, request, baseline, avoid, judge)
        if resume is not None:
            search.restore(resume)
        while not search.done:
            on_step(search.advance())
        return search.concept()


class _Search:
    """The state of one search and its rule; everything that changes is in ``snapshot``."""

    def __init__(
        self,
        config: LowProbabilityConfig,
        backbone: PriorBackbone,
        request: Request,
        baseline: Baseline,
        avoid: Sequence[Tensor],
        judge: ChecksSubject | None,
    ) -> None:
        self.config, self.backbone, self.request = config, backbone, request
        self.baseline, self.density, self.judge = baseline, baseline.density, judge
        self.clusters = [AvoidCluster.fit(baseline.space, samples) for samples in avoid]
        self.radius = config.radius(baseline)
        with torch.no_grad():
            self.settings = {"negative": backbone.encode_text([""]), **config.sampling(backbone)}
        self.space = ConceptSpace(
            config.space, backbone, request, rank=config.lora_rank, settings=self.settings
        )
        self.params = self.space.initial()
        self.optimizer = torch.optim.AdamW(self.params.values(), lr=config.learning_rate)
        self.passing = self._copy_params()
        self.index = self.passing_step = 0
        self.noise = self.retries = self.failed_pull_backs = self.holds = 0
        self.stopped = ""

    @property
    def done(self) -> bool:
        """Whether the search has ended."""
        return bool(self.stopped)

    def advance(self) -> Step:
        """Take one optimizer step; look and ask when it is time to."""
        cfg, started = self.config, time.perf_counter()
        noise = streams(self.request.seed, "prior", self.noise, num=cfg.noises)
        image_embeds = self._sample(noise)
        anchor = anchor_loss(image_embeds, self.baseline.text_embeds).mean()
        branch = self._branch(float(anchor.detach()))
        loss = self._loss(branch, image_embeds, anchor)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params.values(), cfg.max_grad_norm)
        self.optimizer.step()
        self.index += 1
        values = self._read(image_embeds.detach(), float(anchor.detach()))
        values |= {"branch": branch, "probe": self._probe(), "verdict": self._ask()}
        if self.index >= cfg.num_steps and not self.stopped:
            self.stopped = "steps"
        values |= {"stopped": self.stopped, "seconds": time.perf_counter() - started}
        return Step(
            index=self.index - 1,
            loss=float(loss.detach()),
            values=values,
            snapshot=self.snapshot,
            concept=lambda: self._concept(self._copy_params(), self.index),
        )

    def _branch(self, anchor: float) -> str:
        """Choose the loss by the rule of appendix S2.4, and the noise of the next step."""
        cfg = self.config
        if cfg.rule == "sum":
            self.noise += 1
            return "sum"
        if cfg.use_anchor and anchor > self.baseline.anchor_threshold:
            self.retries += 1
            if self.retries >= cfg.max_pull_back:
                self.failed_pull_backs += 1
                self.retries, self.noise = 0, self.noise + 1
            return "anchor"
        self.retries, self.noise = 0, self.noise + 1
        return "creative" if self.radius is None else "novelty"

    def _loss(self, branch: str, image_embeds: Tensor, anchor: Tensor) -> Tensor:
        cfg = self.config
        if branch == "anchor":
            return anchor
        if self.radius is None:
            loss = creative_loss(image_embeds, self.density)
        else:
            loss = novelty_loss(image_embeds, self.density, radius=self.radius)
        loss = loss + cfg.avoid_weight * avoid_loss(image_embeds, self.clusters)
        return loss + anchor if branch == "sum" and cfg.use_anchor else loss

    def _read(self, image_embeds: Tensor, anchor: float) -> dict[str, Any]:
        distance = float(self.density.squared_distance(image_embeds).sqrt().median())
        return {
            "anchor_loss": anchor,
            "anchor_cosine": 1 - anchor,
            "log_prob": float(self.density.log_prob(image_embeds).mean()),
            "distance": distance,
            "quantile": self.baseline.quantile(distance),
            "residual": float(self.baseline.space.residual_norm(image_embeds).mean()),
            "avoid": [float(c.log_prob(image_embeds).mean()) for c in self.clusters],
        }

    def _probe(self) -> dict[str, Any] | None:
        """Look at fresh noises, the same at every look, and count how long the radius holds."""
        cfg = self.config
        if self.index % cfg.probe_every:
            return None
        image_embeds = self._fresh("probe", cfg.num_probes)
        probe = self.baseline.describe(image_embeds, self.clusters)
        if self.radius is not None:
            near = abs(probe["distance_median"] / self.radius - 1) <= cfg.hold_tolerance
            self.holds = self.holds + 1 if near else 0
        return probe

    def _ask(self) -> dict[str, Any] | None:
        """Ask the judge when it is time to, and before the search ends of itself."""
        cfg = self.config
        held = self.holds >= cfg.num_holds
        if held or self.index >= cfg.num_steps:
            self.stopped = "held" if held else "steps"
        elif self.index % cfg.judge_every:
            return None
        verdict = self._verdict()
        if verdict is not None and not verdict.passed:
            self.stopped = "judge"
            return asdict(verdict)
        self.passing, self.passing_step = self._copy_params(), self.index
        return asdict(verdict) if verdict else None

    def _verdict(self) -> Verdict | None:
        if self.judge is None:
            return None
        num = self.config.num_judged
        noise = streams(self.request.seed, "judge", num=num)
        with torch.no_grad():
            images = self.backbone.decode_embeds(self._fresh("judge-prior", num), generator=noise)
        verdicts = self.judge.still_a(images.cpu(), self.request.subject)
        share = sum(v.passed for v in verdicts) / len(verdicts)
        probability = sum(v.probability for v in verdicts) / len(verdicts)
        return Verdict(
            "yes" if share >= 0.5 else "no", probability, verdicts[0].judge, verdicts[0].note
        )

    def _fresh(self, purpose: str, num: int) -> Tensor:
        with torch.no_grad():
            return self._sample(streams(self.request.seed, purpose, num=num))

    def _sample(self, noise: list[torch.Generator]) -> Tensor:
        """Return embeddings of the concept as it is now, ``[B, D]``, on the CPU."""
        concept = self._concept(self.params, self.index)
        return sample_concept(self.backbone, concept, noise, **self.settings)

    def _copy_params(self) -> dict[str, Tensor]:
        return {name: param.detach().clone() for name, param in self.params.items()}

    def _concept(self, params: Mapping[str, Tensor], step: int) -> Concept:
        found = {"method": LowProbability.name, "stopped": self.stopped, "step": str(step)}
        return self.space.concept(params, found)

    def concept(self) -> Concept:
        """Return the last state that passed."""
        return self._concept(self.passing, self.passing_step)

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of all that changes."""
        moments = self.optimizer.state_dict()["state"]
        return {
            "params": self._copy_params(),
            "passing": dict(self.passing),
            "moments": {str(i): {k: v.clone() for k, v in m.items()} for i, m in moments.items()},
            **{name: getattr(self, name) for name in _COUNTERS},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a snapshot."""
        with torch.no_grad():
            for name, param in self.params.items():
                param.copy_(state["params"][name])
        own = self.optimizer.state_dict()
        own["state"] = {int(i): dict(m) for i, m in state["moments"].items()}
        self.optimizer.load_state_dict(own)
        self.passing = dict(state["passing"])
        for name in _COUNTERS:
            setattr(self, name, state[name])


_COUNTERS = (
    "index", "passing_step", "noise", "retries", "failed_pull_backs", "holds", "stopped"
)  # fmt: skip
