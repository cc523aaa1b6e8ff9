"""Choose the pictures that are shown: from many candidates, those that differ most.

Embeddings are cheap, so many are sampled; the most different of these are drawn; of the drawn
ones that the judge passes, those are shown that look most different from ordinary pictures and
from each other. With a taste, only the half of them that it likes best is chosen from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from offbeat.core.baseline import Baseline
from offbeat.core.drawing import draw_embeds, prior_settings, sample_concept
from offbeat.core.functional import cosine, farthest_first
from offbeat.core.rng import streams
from offbeat.core.taste import Taste
from offbeat.metrics.encoders import Encoder
from offbeat.metrics.seen import nearest_distances, seen_novelty
from offbeat.protocols import ChecksSubject, ExploringBackbone, PriorBackbone
from offbeat.types import Concept, Observe, Verdict, ignore

POOL_TIMES, MAX_POOL = 5, 512
"""Embeddings sampled for each picture that is drawn, and at most."""
KEPT_BY_TEXT = 0.75
"""Share of these, nearest to the prompt, that may be drawn."""


@dataclass(frozen=True, slots=True)
class Eye:
    """An encoder that no loss uses, and what it saw of ordinary pictures."""

    encoder: Encoder
    references: Tensor
    """Features of ordinary pictures, ``[M, D]``."""
    taste: Taste | None = None
    """What somebody likes, learned from the same features."""
    looked_at: Tensor | None = None
    """Features of ordinary pictures in as few steps as those of a search's looks."""

    def features(self, images: Tensor) -> Tensor:
        """Return features of pictures, ``[B, D]``."""
        return self.encoder.image_embeds(list(images))

    def novelty(self, images: Tensor) -> Tensor:
        """Return the seen novelty of pictures, ``[B]``: 1 is just another ordinary one."""
        return seen_novelty(self.features(images), self.references)

    def look(self, images: Tensor) -> Tensor:
        """Return the seen novelty of pictures of a search's look, ``[B]``."""
        references = self.references if self.looked_at is None else self.looked_at
        return seen_novelty(self.features(images), references)


@dataclass(frozen=True, slots=True)
class Chosen:
    """Pictures of one concept: those that are shown, and what was drawn to choose from."""

    rows: list[int]
    """Numbers of the noises that were drawn, in order."""
    places: list[int]
    """Which of these are shown."""
    image_embeds: Tensor
    """Of those shown, ``[n, D]``."""
    images: Tensor
    """Of those shown, ``[n, 3, H, W]``."""
    verdicts: list[Verdict]
    """Of those shown; none without a judge."""
    drawn_verdicts: list[Verdict]
    """Of all that were drawn."""
    features: Tensor | None
    """What the eye sees of those shown, ``[n, F]``."""
    seen: list[float]
    """Seen novelty of those shown; empty without an eye."""
    drawn_seen: list[float]
    """Of all that were drawn."""


def choose(
    backbone: ExploringBackbone,
    concept: Concept,
    *,
    seed: int,
    num: int,
    times: int = 3,
    subject: str,
    baseline: Baseline,
    judge: ChecksSubject | None = None,
    eye: Eye | None = None,
    beside: Tensor | None = None,
    observe: Observe = ignore,
) -> Chosen:
    """Draw a concept and return the pictures to show.

    Args:
        backbone: Where it was learned.
        concept: What to draw.
        seed: Of all noise.
        num: Pictures to show.
        times: So many times as many are drawn; 1 shows the first ``num`` noises, unchosen.
        subject: What the judge is asked about.
        baseline: The ordinary, in whose axes embeddings are compared.
        judge: What it refuses is shown only where too few pass; None passes all.
        eye: What looks at pictures; None keeps the first that passed.
        beside: Features of what is shown already, ``[n, F]``, to differ from too.
        observe: Told how far it is.
    """
    rows = list(range(num))
    if times > 1:
        rows = promising(backbone, concept, baseline, seed=seed, num=num * times)
    embeds, images = draw_embeds(
        backbone, concept, seed=seed, num=len(rows), rows=rows, observe=observe
    )
    verdicts = judge.still_a(images, subject) if judge else []
    features = None if eye is None else eye.features(images)
    places = list(range(num))
    if times > 1:
        passed = passed_first(verdicts, len(rows), num)
        if eye is not None and eye.taste is not None and features is not None:
            liked, _ = eye.taste.utility(features[passed])
            best = liked.argsort(descending=True)[: max(num, -(-len(passed) // 2))]
            passed = [passed[at] for at in sorted(best.tolist())]
        places = passed[:num]
        if eye is not None and features is not None:
            ordinary = eye.references if beside is None else torch.cat([eye.references, beside])
            places = most_different(features, ordinary, passed, num)
    seen = (
        [] if eye is None or features is None else seen_novelty(features, eye.references).tolist()
    )
    return Chosen(
        rows=rows,
        places=places,
        image_embeds=embeds[places],
        images=images[places],
        verdicts=[verdicts[at] for at in places] if verdicts else [],
        drawn_verdicts=verdicts,
        features=None if features is None else features[places],
        seen=[seen[at] for at in places] if seen else [],
        drawn_seen=seen,
    )


@torch.no_grad()
def promising(
    backbone: ExploringBackbone, concept: Concept, baseline: Baseline, *, seed: int, num: int
) -> list[int]:
    """Return the numbers of the noises worth drawing, ascending.

    Of many embeddings those farthest from their prompt are left out; of the rest the most
    different are taken, by their direction from the ordinary mean in the baseline's axes.
    """
    if not isinstance(backbone, PriorBackbone):  # an embedding costs as much as its picture
        return list(range(num))
    pool = max(num, min(POOL_TIMES * num, MAX_POOL))
    noise = streams(seed, "image", "prior", num=pool)
    embeds = sample_concept(backbone, concept, noise, **prior_settings(concept))
    if concept.image_embeds is not None or pool == num:
        return list(range(num))
    near = cosine(embeds, baseline.text_embeds)[:, 0].argsort(descending=True)
    near = near[: max(num, round(KEPT_BY_TEXT * pool))].sort().values
    order, _ = farthest_first(baseline.space.whiten(embeds[near]), num)
    return sorted(int(near[at]) for at in order)


def most_different(
    features: Tensor, ordinary: Tensor, passed: Sequence[int], num: int
) -> list[int]:
    """Return which ``num`` of the passed pictures differ most from ordinary ones and each other.

    Args:
        features: Of all that were drawn, ``[N, F]``.
        ordinary: Of ordinary pictures, ``[M, F]``.
        passed: Which of the N to choose from.
        num: At most so many as passed.
    """
    chosen_from = list(passed)
    nearest = nearest_distances(features[chosen_from], ordinary).float()
    order, _ = farthest_first(features[chosen_from], num, nearest=nearest.square() / 2)
    return [chosen_from[at] for at in order]


def passed_first(verdicts: list[Verdict], count: int, num: int) -> list[int]:
    """Return the drawn pictures to choose from: those that passed, filled up to ``num``."""
    if not verdicts:
        return list(range(count))
    likeliest = sorted(range(count), key=lambda at: -verdicts[at].probability)
    passed = [at for at in range(count) if verdicts[at].answer != "no"]
    more = [at for at in likeliest if verdicts[at].answer == "no"]
    return passed + more[: max(0, num - len(passed))]
