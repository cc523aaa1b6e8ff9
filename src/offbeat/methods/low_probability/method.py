"""Low-probability exploration: still the subject, far from what the model usually draws.

Source: Song and Elgammal, arXiv:2601.22125. Corrected here: eq. 7 is printed with the sign that
attracts to unwanted clusters; the two losses alternate, as the appendix says and eq. 8 does not.
Ours: a novelty quantile that is reached and held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from offbeat.core.baseline import Baseline
from offbeat.core.drawing import ordinary_prompt
from offbeat.core.rng import streams
from offbeat.methods.low_probability.config import NAME, LowProbabilityConfig
from offbeat.methods.low_probability.search import Search  # which needs the losses above
from offbeat.methods.settings import Method
from offbeat.protocols import ChecksSubject, ExploringBackbone
from offbeat.types import Concept, OnStep, Request, ignore_step

BASELINE_BATCH = 250


class LowProbability(Method[LowProbabilityConfig]):
    """The search: ``measure`` the ordinary once, then ``fit`` from each seed."""

    name = NAME
    config_class = LowProbabilityConfig
    needs = ExploringBackbone
    verbs = frozenset({"explore"})

    def measure(
        self,
        backbone: ExploringBackbone,
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
        backbone: ExploringBackbone,
        request: Request,
        *,
        baseline: Baseline | None = None,
        avoid: Sequence[Tensor] = (),
        judge: ChecksSubject | None = None,
        start: Concept | None = None,
        on_step: OnStep = ignore_step,
        resume: Mapping[str, Any] | None = None,
    ) -> Concept:
        """Return the concept found; ``request.seed`` alone decides every draw.

        Args:
            backbone: Frozen.
            request: The subject and the seed.
            baseline: Of the same request, from ``measure``; None measures it.
            avoid: Image embeddings of each unwanted cluster, ``[n, D]``.
            judge: Asked every ``judge_every`` steps; a "no" ends the search.
            start: What an earlier search in the same space found: go on from there.
            on_step: Told each step; ``Step.snapshot`` is what ``resume`` takes.
            resume: State to go on from.
        """
        found = self.measure(backbone, request) if baseline is None else baseline
        search = Search(self.config, backbone, request, found, avoid, judge, start)
        if resume is not None:
            search.restore(resume)
        while not search.done:
            on_step(search.advance())
        return search.concept()
