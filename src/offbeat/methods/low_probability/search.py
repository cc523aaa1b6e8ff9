"""The loop of the low-probability search: its rule, its looks, its judge, its state.

Source: Song and Elgammal, arXiv:2601.22125, appendix S2.4; holding a distance is ours.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import torch
from torch import Tensor

from offbeat.core.baseline import Baseline
from offbeat.core.checks import check_finite
from offbeat.core.density import AvoidCluster, Support
from offbeat.core.drawing import draw_concept, sample_concept
from offbeat.core.rng import streams
from offbeat.core.threads import usual_threads
from offbeat.methods.low_probability.config import NAME, LowProbabilityConfig
from offbeat.methods.low_probability.losses import (
    anchor_loss,
    avoid_loss,
    creative_loss,
    novelty_loss,
    support_loss,
    total_loss,
)
from offbeat.methods.low_probability.spaces import ConceptSpace
from offbeat.protocols import ChecksSubject, ExploringBackbone
from offbeat.types import Concept, Request, Step, Verdict

Look = Callable[[Tensor], Tensor]
"""Given pictures, ``[B, 3, H, W]``; returns the seen novelty of each, ``[B]``."""

MIN_WIDENING, MAX_WIDENING = 1.15, 1.5
"""By which the distance is widened at a time, where seen novelty is the goal."""

SEEN_DIGITS = 3
"""Of seen novelty, where it decides how far the search goes."""

MAX_NARROWINGS = 3
"""After so many distances that the judge refused, the farthest that it passed is the result."""


class Search:
    """The state of one search and its rule; everything that changes is in ``snapshot``."""

    def __init__(
        self,
        config: LowProbabilityConfig,
        backbone: ExploringBackbone,
        request: Request,
        baseline: Baseline,
        avoid: Sequence[Tensor],
        judge: ChecksSubject | None,
        start: Concept | None = None,
        *,
        support: Support | None = None,
        look: Look | None = None,
    ) -> None:
        self.config, self.backbone, self.request = config, backbone, request
        self.baseline, self.density, self.judge = baseline, baseline.density, judge
        self.clusters = [AvoidCluster.fit(baseline.space, samples) for samples in avoid]
        self.radius = config.radius(baseline)
        self.support = support if config.use_support else None
        self.look = look
        self.settings = config.sampling(backbone)
        self.space = ConceptSpace(
            config.space, backbone, request, rank=config.lora_rank, settings=self.settings
        )
        self.params = self.space.initial(start)
        self.optimizer = torch.optim.AdamW(self.params.values(), lr=config.rate)
        self.passing, self.passing_radius = self._copy_params(), baseline.ordinary_distance
        self.failing_radius: float | None = None
        self.narrowings = 0
        self.index = self.passing_step = self.looked = 0
        self.noise = self.retries = self.failed_pull_backs = self.holds = 0
        self.anchor_limit = baseline.anchor_threshold(config.noises)
        self.stopped = ""

    @property
    def done(self) -> bool:
        """Whether the search has ended."""
        return bool(self.stopped)

    def advance(self) -> Step:
        """Take one step; look and ask when it is time to."""
        started = time.perf_counter()
        loss, image_embeds, anchor, branch = self._improve()
        self.index += 1
        values = self._read(image_embeds, anchor)
        values |= {"branch": branch, "probe": self._probe(), **self._ask()}
        values |= {"stopped": self.stopped, "seconds": time.perf_counter() - started}
        return Step(
            index=self.index - 1,
            loss=loss,
            values=values,
            snapshot=self.snapshot,
            concept=lambda: self._concept(self._copy_params(), self.index),
        )

    def _improve(self) -> tuple[float, Tensor, float, str]:
        """Change the parameters once; return the loss, samples, their anchor loss, and the branch.

        The samples, ``[B, D]``, are of before the change.
        """
        cfg = self.config
        noise = streams(self.request.seed, "prior", self.noise, num=cfg.noises)
        image_embeds = self._sample(noise, gradient_steps=cfg.gradient_steps)
        anchor = anchor_loss(image_embeds, self.baseline.text_embeds).mean()
        branch = self._branch(float(anchor.detach()))
        loss = self._loss(branch, image_embeds, anchor)
        check_finite("loss", loss.detach())
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.params.values(), cfg.max_grad_norm)
        self.optimizer.step()
        return float(loss.detach()), image_embeds.detach(), float(anchor.detach()), branch

    def _branch(self, anchor: float) -> str:
        """Choose the loss by the rule of appendix S2.4, and the noise of the next step."""
        cfg = self.config
        if cfg.rule == "sum":
            self.noise += 1
            return "sum"
        if cfg.use_anchor and anchor > self.anchor_limit:
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
        avoid = avoid_loss(image_embeds, self.clusters, weight=cfg.avoid_weight)
        if branch == "sum" and cfg.use_anchor:
            loss = total_loss(loss, avoid, anchor)
        else:
            loss = loss + avoid
        if self.support is not None:
            loss = loss + cfg.support_weight * support_loss(image_embeds, self.support)
        return loss

    def _read(self, image_embeds: Tensor, anchor: float) -> dict[str, Any]:
        distance = float(self.density.squared_distance(image_embeds).sqrt().median())
        return {
            "anchor_loss": anchor,
            "anchor_cosine": 1 - anchor,
            "log_prob": float(self.density.log_prob(image_embeds).mean()),
            "distance": distance,
            "quantile": self.baseline.quantile(distance),
            "residual": float(self.baseline.space.residual_norm(image_embeds).mean()),
            "radius": self.radius,
            "beyond": None if self.support is None else _mean(self.support.excess(image_embeds)),
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
            gap = probe["distance_median"] / self.radius - 1
            # the dial only needs to get there: avoided clusters may push beyond
            near = abs(gap) <= cfg.hold_tolerance or (gap > 0 and cfg.novelty is not None)
            self.holds = self.holds + 1 if near else 0
        return probe

    def _ask(self) -> dict[str, Any]:
        """Look at pictures and ask the judge when it is time to, and before the search ends.

        Where seen novelty is the goal, a distance that is held and passed is widened until the
        pictures look different enough.
        """
        cfg, dial = self.config, self.config.novelty
        held = self.holds >= (1 if dial is not None else cfg.num_holds)
        if self.index >= cfg.steps:
            self.stopped = "steps"
        elif not held and self.index - self.looked < cfg.judge_every:
            return {"verdict": None, "seen": None}
        self.looked = self.index
        verdict, seen = self._look()
        said = {"verdict": asdict(verdict) if verdict else None, "seen": seen}
        if verdict is not None and verdict.answer == "no":
            if dial is None or self.stopped or not self._narrow():
                self.stopped = "judge"
            return said
        # no answer counts like no judge: the search goes on, and its trace says so
        self.passing, self.passing_step = self._copy_params(), self.index
        if held:
            self.passing_radius = self.radius or self.passing_radius
            if dial is None or seen is None or seen >= dial:
                self.stopped = self.stopped or "held"
            elif not self._widen(dial, seen):
                self.stopped = self.stopped or "farthest"
        return said

    def _widen(self, dial: float, seen: float) -> bool:
        """Move the distance to hold outwards; return whether there is room."""
        assert self.radius is not None
        most = self.config.max_reach * self.baseline.ordinary_distance
        if self.failing_radius is not None:
            most = min(most, self.failing_radius / MIN_WIDENING)
        if self.radius >= most:
            return False
        self.holds = 0
        self.radius = min(most, self.radius * min(MAX_WIDENING, max(MIN_WIDENING, dial / seen)))
        return True

    def _narrow(self) -> bool:
        """Go back to what passed last, to hold a distance between the two; return whether to."""
        assert self.radius is not None
        self.failing_radius = self.radius
        middle = math.sqrt(self.passing_radius * self.failing_radius)
        self.narrowings += 1
        if self.narrowings > MAX_NARROWINGS or middle < MIN_WIDENING * self.passing_radius:
            return False
        with torch.no_grad():
            for name, param in self.params.items():
                param.copy_(self.passing[name])
        self._restart()
        self.radius, self.holds = middle, 0
        return True

    def _restart(self) -> None:
        """Forget what the optimizer remembers."""
        self.optimizer = torch.optim.AdamW(self.params.values(), lr=self.config.rate)

    def _look(self) -> tuple[Verdict | None, float | None]:
        """Return what the judge says of a few pictures, and how different they look."""
        if self.judge is None and self.look is None:
            return None, None
        num = self.config.judged
        prior, image = (
            streams(self.request.seed, purpose, num=num) for purpose in ("judge-prior", "judge")
        )
        concept = self._concept(self.params, self.index)
        with torch.no_grad(), usual_threads():
            images = draw_concept(self.backbone, concept, prior, image, **self.settings)
        seen = None
        if self.look is not None:
            # the last bits depend on the number of threads; the way of the search must not
            seen = round(float(self.look(images).quantile(self.config.seen_quantile)), SEEN_DIGITS)
        if self.judge is None:
            return None, seen
        verdicts = self.judge.still_a(images, self.request.subject)
        answered = [v for v in verdicts if v.answered]
        if not answered:
            return verdicts[0], seen
        share = sum(v.passed for v in answered) / len(answered)
        probability = sum(v.probability for v in answered) / len(answered)
        answer: Literal["yes", "no"] = "yes" if share >= self.config.passes else "no"
        return Verdict(answer, probability, answered[0].judge, answered[0].note), seen

    def _fresh(self, purpose: str, num: int) -> Tensor:
        with torch.no_grad():
            return self._sample(streams(self.request.seed, purpose, num=num))

    def _sample(self, noise: list[torch.Generator], **settings: Any) -> Tensor:
        """Return embeddings of the concept as it is now, ``[B, D]``, on the CPU."""
        concept = self._concept(self.params, self.index)
        return sample_concept(self.backbone, concept, noise, **self.settings, **settings)

    def _copy_params(self) -> dict[str, Tensor]:
        return {name: param.detach().clone() for name, param in self.params.items()}

    def _concept(self, params: Mapping[str, Tensor], step: int) -> Concept:
        metadata = {"method": NAME, "stopped": self.stopped, "step": str(step)}
        return self.space.concept(params, metadata)

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
        state_of_optimizer = self.optimizer.state_dict()
        state_of_optimizer["state"] = {int(i): dict(m) for i, m in state["moments"].items()}
        self.optimizer.load_state_dict(state_of_optimizer)
        self.passing = dict(state["passing"])
        for name in _COUNTERS:
            setattr(self, name, state.get(name, getattr(self, name)))


def _mean(values: Tensor) -> float:
    return float(values.detach().mean())


_COUNTERS = (
    "index", "passing_step", "looked", "noise", "retries", "failed_pull_backs", "holds", "stopped",
    "radius", "passing_radius", "failing_radius", "narrowings",
)  # fmt: skip
