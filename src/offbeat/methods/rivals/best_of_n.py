"""Best of n: each picture drawn n times, the best kept, by a metric.

Candidate 0 is the ordinary picture, so the choice is never worse by that metric. It costs n times
as much: a method that searches must beat it at its own number of network evaluations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offbeat.core.checks import check_shape
from offbeat.core.drawing import Noise, draw_from_text
from offbeat.core.functional import balance_reward, cosine
from offbeat.errors import ConfigError
from offbeat.methods.mixing.sources import prompt_of, two_words
from offbeat.methods.rivals.prompts import MIXTURE, check_phrases, mixture_prompt, subject_prompt
from offbeat.methods.settings import Method, Settings, setting
from offbeat.protocols import ChecksSubject, Metric, SeeingBackbone
from offbeat.protocols.methods import Source
from offbeat.types import OnStep, Request, Step, TextEmbeds, ignore_step

NAME = "best-of-n"
OWN = "own"
Judged = Callable[[Tensor], Tensor]
"""Given candidates, ``[n, 3, H, W]``; returns a number for each, ``[n]``, higher is better."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BestOfNConfig(Settings):
    """How many, of what, and by what, saved as it was asked."""

    method = NAME

    num: int = setting(8, 1, 10_000, help="n: candidates for each picture.")
    metric: str = setting(
        OWN, help="own: most unusual of the candidates, or best balanced; or any metric."
    )
    phrase: str = setting("{subject}", help="What is drawn of a subject.")
    mixture: str = setting(MIXTURE, help="What is drawn of a pair, with {first} and {second}.")

    def check(self) -> None:
        """Raise if a phrase lacks its place."""
        check_phrases(self.phrase, self.mixture)


def unusualness(image_embeds: Tensor) -> Tensor:
    """Return the distance of each candidate from the mean of all, 1 - cosine, ``[n]``."""
    return 1 - cosine(image_embeds, image_embeds.mean(dim=0, keepdim=True))[:, 0]


class BestOfN(Method[BestOfNConfig]):
    """The best candidate of each picture."""

    name = NAME
    config_class = BestOfNConfig
    needs = SeeingBackbone
    verbs = frozenset({"explore", "fuse", "sweep"})
    result = "pictures"

    def __init__(
        self, config: BestOfNConfig | None = None, *, metric: Metric | None = None
    ) -> None:
        """Take settings, and the metric that they name; ``own`` needs none."""
        self.config = config or BestOfNConfig()
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
    def draw(
        self,
        backbone: SeeingBackbone,
        request: Request,
        *,
        judge: ChecksSubject | None = None,
        start: int = 0,
        on_step: OnStep = ignore_step,
    ) -> Tensor:
        """Return the best of n for each picture, ``[N, 3, H, W]``, 0 to 1, on the CPU.

        Args:
            backbone: Frozen.
            request: The subject, the number of pictures, and the seed.
            judge: If there is one, candidates that it refuses lose to those that it passes.
            start: Number of the first.
            on_step: Told which candidate was chosen for each picture, and its number by the metric.
        """
        prompt = subject_prompt(backbone, request, self.config.phrase)

        def own(images: Tensor) -> Tensor:
            values = unusualness(backbone.encode_image(images).cpu())
            if judge is None:
                return values
            verdicts = judge.still_a(images, request.subject)
            # distances end at 2: whatever is refused comes after whatever is passed
            return values - torch.tensor([4.0 if one.answer == "no" else 0.0 for one in verdicts])

        return self._choose(backbone, request, prompt, lambda row: own, start, on_step)

    @torch.no_grad()
    def mix(
        self,
        backbone: SeeingBackbone,
        request: Request,
        sources: Sequence[Source],
        *,
        pictures: Sequence[Tensor] | None = None,
        start: int = 0,
        on_step: OnStep = ignore_step,
    ) -> Tensor:
        """Return the best of n for each picture of two words, ``[N, 3, H, W]``, on the CPU.

        ``own`` is RMLer's reward of the cosines to both words' ordinary pictures of the same
        number.

        Raises:
            ConfigError: If a source is a picture.
        """
        words = two_words(NAME, sources)
        if pictures is None:
            pictures = [self._ordinary(backbone, request, word, start) for word in words]
        for one in pictures:
            check_shape("pictures", one, request.num_images, 3, None, None)
        first, second = (backbone.encode_image(part.to(backbone.device)).cpu() for part in pictures)

        def own(row: int) -> Judged:
            def reward(images: Tensor) -> Tensor:
                seen = backbone.encode_image(images).cpu()
                one, other = (cosine(seen, part[row : row + 1])[:, 0] for part in (first, second))
                return balance_reward(one, other)

            return reward

        prompt = mixture_prompt(backbone, request, self.config.mixture, words)
        return self._choose(backbone, request, prompt, own, start, on_step)

    def _ordinary(self, backbone: Any, request: Request, word: str, start: int) -> Tensor:
        text = backbone.encode_text([prompt_of(backbone, request, word)])
        return draw_from_text(backbone, text, Noise.ordinary(request, start))

    def _choose(
        self,
        backbone: Any,
        request: Request,
        prompt: str,
        own: Callable[[int], Judged],
        start: int,
        on_step: OnStep,
    ) -> Tensor:
        if self.wants_metric is not None:
            raise ConfigError(f"metric: {self.wants_metric} must be given with with_metric()")
        text, kept = backbone.encode_text([prompt]), []
        chosen, won = [], []
        for row in range(request.num_images):
            images = self._candidates(backbone, request, text, start + row)
            values = self._scored(images, prompt) if self.metric else own(row)(images)
            chosen.append(int(values.argmax()))
            won.append(float(values[chosen[-1]]))
            kept.append(images[chosen[-1]])
        told = {"first": start, "drawn": self.config.num, "chosen": chosen, "values": won}
        on_step(Step(index=0, loss=-sum(won) / len(won), values=told))
        return torch.stack(kept)

    def _candidates(self, backbone: Any, request: Request, text: TextEmbeds, number: int) -> Tensor:
        """Return n pictures, ``[n, 3, H, W]``: the ordinary one, then those of own streams."""
        seed, more = request.seed, self.config.num - 1
        noise = Noise.of(seed, "image", num=1, start=number)
        if more:
            others = Noise.of(seed, NAME, number, num=more)
            noise = Noise(noise.prior + others.prior, noise.image + others.image)
        return draw_from_text(backbone, text, noise)

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
