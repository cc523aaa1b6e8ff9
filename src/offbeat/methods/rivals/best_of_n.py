"""Best of n: draw each picture n times and keep the one with the best score.

Candidate 0 is the ordinary picture, so the choice is never worse by that metric. It costs n times
as much: a method that searches must beat it at its own number of network evaluations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from offbeat.core.drawing import Noise, draw_from_text
from offbeat.core.functional import balance_reward, cosine
from offbeat.errors import ConfigError
from offbeat.methods.pictures import (
    Drawing,
    DrawsSubject,
    MixesSources,
    check_phrases,
    with_articles,
)
from offbeat.methods.rivals.raw_prompt import MIXTURE
from offbeat.methods.settings import Settings, setting
from offbeat.protocols import Metric, SeeingBackbone
from offbeat.types import TextEmbeds

NAME = "best-of-n"
OWN = "own"


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfNConfig(Settings):
    """How many candidates are drawn, of what, and what chooses among them."""

    method = NAME

    num: int = setting(8, 1, 10_000, help="n: candidates for each picture.")
    metric: str = setting(
        OWN,
        help="own: most unusual or best balanced; or any metric, such as taste=FILE.",
    )
    phrase: str = setting("{subject}", help="What is drawn of a subject.")
    mixture: str = setting(MIXTURE, help="What is drawn of a pair, with {first} and {second}.")

    def check(self) -> None:
        """Raise if a phrase lacks its place."""
        check_phrases(self.phrase, self.mixture)


def unusualness(image_embeds: Tensor) -> Tensor:
    """Return the distance of each candidate from the mean of all, 1 - cosine, ``[n]``."""
    return 1 - cosine(image_embeds, image_embeds.mean(dim=0, keepdim=True))[:, 0]


class BestOfN(DrawsSubject[BestOfNConfig], MixesSources[BestOfNConfig]):
    """The best candidate of each picture.

    ``own`` is unusualness for a subject, where candidates that the judge refuses lose to those that
    it passes; for two words it is RMLer's reward of the cosines to both words' ordinary pictures of
    the same number. ``on_step`` is told which candidate was chosen, and its value.
    """

    name = NAME
    config_class = BestOfNConfig
    needs = SeeingBackbone
    verbs = frozenset({"explore", "fuse", "sweep"})

    def __init__(
        self, config: BestOfNConfig | None = None, *, metric: Metric | None = None
    ) -> None:
        """Take settings, and the metric that they name; ``own`` needs none."""
        super().__init__(config)
        self.metric = metric

    @property
    def wants_metric(self) -> str | None:
        """The name of the metric that must be given before it can draw."""
        return None if self.config.metric == OWN or self.metric else self.config.metric

    def with_metric(self, metric: Metric) -> BestOfN:
        """Return the same with a metric.

        Raises:
            ConfigError: If the metric needs more than pictures and a text.
        """
        if more := sorted(set(metric.needs) - {"texts"}):
            raise ConfigError(
                f"metric: {metric.name} needs {', '.join(more)}, and {NAME} has pictures and their "
                "text alone; choose another"
            )
        return BestOfN(self.config, metric=metric)

    @torch.no_grad()
    def draw_subject(self, drawing: Drawing) -> Tensor:
        """Return the best of n for each picture of the subject."""
        backbone, judge, subject = drawing.backbone, drawing.judge, drawing.request.subject

        def rate(row: int, images: Tensor) -> Tensor:
            values = unusualness(backbone.encode_image(images).cpu())
            if judge is None:
                return values
            verdicts = judge.still_a(images, subject)
            # distances end at 2: whatever is refused comes after whatever is passed
            refused = [verdict.answer == "no" for verdict in verdicts]
            return values - 4.0 * torch.tensor(refused)

        return self._choose(drawing, drawing.prompt(self.config.phrase, subject=subject), rate)

    @torch.no_grad()
    def draw_mixture(self, drawing: Drawing) -> Tensor:
        """Return the best of n for each picture of the two words."""
        backbone, words = drawing.backbone, drawing.words
        parents = [
            backbone.encode_image(part.to(backbone.device)).cpu() for part in drawing.parents()
        ]

        def rate(row: int, images: Tensor) -> Tensor:
            embeds = backbone.encode_image(images).cpu()
            return balance_reward(*(cosine(embeds, p[row : row + 1])[:, 0] for p in parents))

        prompt = drawing.prompt(self.config.mixture, **with_articles(words))
        return self._choose(drawing, prompt, rate)

    def _choose(
        self, drawing: Drawing, prompt: str, rate: Callable[[int, Tensor], Tensor]
    ) -> Tensor:
        """Return the candidate of each picture with the highest value.

        Args:
            drawing: What to draw.
            prompt: Of all candidates.
            rate: Given a picture's row and its candidates, ``[n, 3, H, W]``; returns ``[n]``. Used
                if no metric is named.
        """
        if self.wants_metric is not None:
            raise ConfigError(f"metric: {self.wants_metric} must be given with with_metric()")
        text = drawing.backbone.encode_text([prompt])
        kept, chosen, values = [], [], []
        for row in range(drawing.num):
            images = self._candidates(drawing, text, drawing.start + row)
            ratings = self._scored(images, prompt) if self.metric else rate(row, images)
            chosen.append(int(ratings.argmax()))
            values.append(float(ratings[chosen[-1]]))
            kept.append(images[chosen[-1]])
        drawing.report(
            {
                "first": drawing.start,
                "drawn": self.config.num,
                "chosen": chosen,
                "values": values,
            },
            loss=-sum(values) / len(values),
        )
        return torch.stack(kept)

    def _candidates(self, drawing: Drawing, text: TextEmbeds, number: int) -> Tensor:
        """Return n pictures, ``[n, 3, H, W]``: the ordinary one, then those of own streams."""
        seed, more = drawing.request.seed, self.config.num - 1
        noise = Noise.of(seed, "image", num=1, start=number)
        if more:
            others = Noise.of(seed, NAME, number, num=more)
            noise = Noise(noise.prior + others.prior, noise.image + others.image)
        return draw_from_text(drawing.backbone, text, noise)

    def _scored(self, images: Tensor, prompt: str) -> Tensor:
        assert self.metric is not None
        texts = [prompt] if "texts" in self.metric.needs else None
        scores = self.metric.score(images, texts=texts)
        if not scores.per_image:
            raise ConfigError(
                f"metric: {scores.name} says one number of all pictures; choose one "
                "that says a number of each"
            )
        sign = 1.0 if scores.better == "higher" else -1.0
        return sign * torch.tensor(scores.values)
