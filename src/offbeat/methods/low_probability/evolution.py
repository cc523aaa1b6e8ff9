"""The search without gradients: CMA-ES over a token, in leading directions of the vocabulary.

Ours, for any text-to-image model: the density, the anchor, the judge and the dial are those of the
search by gradient. CMA-ES: Hansen, The CMA Evolution Strategy: A Tutorial, arXiv:1604.00772.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from cmaes import CMA
from torch import Tensor

from offbeat.core.density import PcaSpace
from offbeat.core.rng import stream, streams
from offbeat.core.templates import fill
from offbeat.core.vocab import DEFAULT_LABELS
from offbeat.methods.low_probability.losses import anchor_loss
from offbeat.methods.low_probability.search import Search
from offbeat.protocols import ExploringBackbone
from offbeat.types import TextEmbeds

ANCHOR_WEIGHT = 10.0
"""Of the squared excess of the anchor loss over its threshold, in its standard deviations."""


def vocabulary_basis(backbone: ExploringBackbone, size: int) -> Tensor:
    """Return leading directions of the embeddings of words, ``[k, E]``, k at most ``size``.

    Each is as long as the words' standard deviation along it.
    """
    words = tuple(backbone.card["concepts"])
    words = tuple(dict.fromkeys((*words, *DEFAULT_LABELS)))
    vectors = torch.stack([backbone.token_embed(word) for word in words])
    space = PcaSpace.fit(vectors, min(size, len(vectors) - 1, vectors.shape[1]))
    return space.axes * space.variances.sqrt()[:, None]


def repeated(text: TextEmbeds, times: int) -> TextEmbeds:
    """Return each prompt so many times in a row."""
    rows = torch.arange(len(text)).repeat_interleave(times)
    return replace(
        text,
        text_embeds=text.text_embeds[rows],
        text_encoder_hidden_states=text.text_encoder_hidden_states[rows],
        text_mask=text.text_mask[rows],
    )


class EvolutionSearch(Search):
    """A search whose step is a generation: a population of tokens is drawn, read and ranked."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.basis = vocabulary_basis(self.backbone, self.config.basis_size)
        self.costs: list[list[float]] = []
        """Of each generation since the strategy began: asked and told again, it is the same."""
        self._begin(self.params["token"])

    def _begin(self, center: Tensor) -> None:
        """Start the strategy around a token."""
        self.center, self.costs = center.detach().clone(), []
        self.strategy = CMA(
            mean=np.zeros(len(self.center) * len(self.basis)),
            sigma=self.config.evolution_step,
            seed=stream(self.request.seed, "evolution", self.narrowings).initial_seed() % 2**32,
            population_size=self.config.population,
        )

    def _token(self, point: np.ndarray[Any, np.dtype[np.float64]]) -> Tensor:
        """Return the token of a point of the basis, ``[K, E]``."""
        weights = torch.from_numpy(point).float().view(len(self.center), -1)
        return self.center + weights @ self.basis

    @torch.no_grad()
    def _improve(self) -> tuple[float, Tensor, float, str]:
        points = [self.strategy.ask() for _ in range(self.strategy.population_size)]
        embeds = self._population([self._token(point) for point in points])
        anchors = torch.stack([anchor_loss(e, self.baseline.text_embeds).mean() for e in embeds])
        branch = "novelty" if self.radius is not None else "creative"
        costs = [float(self._cost(branch, e, a)) for e, a in zip(embeds, anchors, strict=True)]
        self.noise += 1
        self._tell(points, costs)
        best = int(np.argmin(costs))
        return costs[best], embeds[best], float(anchors[best]), branch

    def _tell(self, points: list[Any], costs: list[float]) -> None:
        self.strategy.tell(list(zip(points, costs, strict=True)))
        self.costs.append(costs)
        self.params["token"].data.copy_(self._token(self.strategy.mean))

    def _cost(self, branch: str, embeds: Tensor, anchor: Tensor) -> Tensor:
        """Return what one token costs: the losses of a step, and how far it is from the text."""
        loss = self._loss(branch, embeds, anchor)
        if not self.config.use_anchor:
            return loss
        excess = (anchor - self.anchor_limit).clamp_min(0) / max(self.baseline.anchor_std, 1e-9)
        return loss + ANCHOR_WEIGHT * excess.square()

    def _population(self, tokens: list[Tensor]) -> Tensor:
        """Return embeddings of each token on the same noises, ``[P, n, D]``, drawn as one batch."""
        concept = self._concept(self.params, self.index)
        words = [f"<{number}>" for number in range(len(tokens))]
        text = self.backbone.encode_text(
            [fill(concept.template, concept=word) for word in words],
            tokens=dict(zip(words, tokens, strict=True)),
        )
        num = self.config.noises
        noise = [
            one for _ in tokens for one in streams(self.request.seed, "prior", self.noise, num=num)
        ]
        embeds = self.backbone.sample_prior(
            repeated(text, num), generator=noise, num_samples=len(noise), **self.settings
        )
        return embeds.cpu().view(len(tokens), num, -1)

    def _restart(self) -> None:
        self._begin(self.params["token"])

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of all that changes."""
        state = super().snapshot()
        state["moments"] = {}
        return {**state, "center": self.center.clone(), "costs": [list(row) for row in self.costs]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a snapshot: the strategy is asked and told what it was."""
        super().restore({**state, "moments": {}})
        self._begin(state["center"])
        for row in state["costs"]:
            self._tell([self.strategy.ask() for _ in row], list(row))
