"""ConceptLab: a new member of a broad subject, a mixture of words, or a child of pictures.

Source: Richardson et al., ConceptLab, arXiv:2308.02669, and its official code. Not reproduced from
that code: evolution there moves the text feature, not the prior's output that the paper means, and
its pictures pool the text elsewhere than its training (here at the end of the text, always). Ours:
words are encoded by the backbone's own text encoder, not Kandinsky 2.1's second, multilingual one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from offbeat import vocab
from offbeat.checks import check_range, check_shape
from offbeat.errors import ConfigError, ShapeError
from offbeat.functional import cosine
from offbeat.methods._conceptlab_templates import check_template
from offbeat.methods._settings import configured, on_card
from offbeat.protocols import PriorBackbone
from offbeat.rng import stream
from offbeat.types import Concept, OnStep, Request, Trained, ignore_step

NAME = "conceptlab"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptLabConfig:
    """Settings of one search, saved as they were asked; defaults as published, for full CLIP."""

    num_steps: int = 2500
    learning_rate: float = 1e-4
    weight_decay: float = 1e-2
    max_cosine: float = 0.28
    """A positive stops pulling above this cosine."""
    min_cosine: float = 0.20
    """A negative stops pushing below this cosine."""
    positive_weight: float = 1.0
    """lambda: of the pull, beside the push."""
    judge_every: int = 250
    """Steps between two new negatives, the first before training; 0 never asks."""
    keep_duplicates: bool = True
    """Whether an answer that is known already counts again, as published."""
    gradual_negatives: bool = False
    """Take the request's negatives, shuffled, one at a time in place of the judge's answers."""
    style: bool = False
    """Learn an art style: positives are the same prompts without the style."""
    space: str = "image"
    """Where cosines are taken: ``image``, the prior's output, or ``text``, as CLIP-ConceptLab."""
    initial_word: str | None = None
    """What the token starts from; None is the subject, or the mean of the words of a mixture."""
    templates: tuple[str, ...] = ()
    """Prompts with ``{article}`` and ``{word}``, drawn as often as listed; none: the method's."""
    prior_num_inference_steps: int = 5
    prior_guidance_scale: float | None = 4.0
    """None is the checkpoint's own."""
    gradient_steps: int | None = None
    """Last denoising steps that the gradient passes; None is all: exact."""

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            if (value := getattr(self, name)) is not None:
                check_range(name, value, low, high)
        if self.min_cosine > self.max_cosine:
            got = f"{self.min_cosine!r} and {self.max_cosine!r}"
            raise ConfigError(f"cosines: expected min_cosine <= max_cosine, got {got}")
        if self.space not in ("image", "text"):
            raise ConfigError(f"space: expected image or text, got {self.space!r}")
        if self.gradual_negatives and not self.judge_every:
            raise ConfigError("judge_every: expected 1 or more with gradual_negatives, got 0")
        for template in self.templates:
            check_template(template, style=self.style)

    @classmethod
    def for_card(cls, card: Mapping[str, Any], **asked: Any) -> ConceptLabConfig:
        """Return what suits a checkpoint by its card, with what was ``asked`` before that.

        Raises:
            ConfigError: If a setting is unknown, or of another kind.
        """
        own = on_card(card, NAME)
        if asked.get("style"):  # a card's prompts are those of objects
            own.pop("templates", None)
        settings = {**own, **asked}
        if "templates" in settings:  # a list in JSON
            settings["templates"] = tuple(settings["templates"])
        return configured(cls, NAME, settings)


_RANGES: dict[str, tuple[float, float]] = {
    "num_steps": (1, 10_000_000),
    "learning_rate": (1e-12, 100),
    "weight_decay": (0, 100),
    "max_cosine": (-1, 1),
    "min_cosine": (-1, 1),
    "positive_weight": (0, 1e6),
    "judge_every": (0, 10_000_000),
    "prior_num_inference_steps": (2, 1000),
    "prior_guidance_scale": (0, 100),
    "gradient_steps": (1, 1000),
}
"""What every number must lie in; NaN lies in none."""


def prior_constraint_loss(
    image_embeds: Tensor,
    positive_embeds: Tensor,
    negative_embeds: Tensor,
    *,
    max_cosine: float,
    min_cosine: float,
    weights: Sequence[float] | None = None,
    positive_weight: float = 1.0,
) -> Tensor:
    """Pull an embedding into a subject and away from the members it knows.

    Args:
        image_embeds: Samples of the prior, ``[B, D]``; carries the gradient.
        positive_embeds: Text embeddings of the subject, ``[P, D]``, P >= 1.
        negative_embeds: Text embeddings of its members, ``[N, D]``; N may be 0.
        max_cosine: A positive stops pulling above this cosine, -1 to 1.
        min_cosine: A negative stops pushing below this cosine, -1 to 1.
        weights: Of the positives, P numbers of sum 1; None is uniform.
        positive_weight: lambda, of the pull.

    Returns:
        Scalar float32 tensor; lower is better.

    Raises:
        ShapeError: If the widths D differ, or there is not one weight for each positive.

    Source: Richardson et al., ConceptLab, arXiv:2308.02669.
    """
    check_shape("positive_embeds", positive_embeds, None, image_embeds.shape[-1])
    check_shape("negative_embeds", negative_embeds, None, image_embeds.shape[-1])
    if not 0 < (count := len(positive_embeds)) == len(weights or range(count)):
        raise ShapeError(f"weights: expected one for each of 1 or more positives, got {weights}")
    shares = image_embeds.new_tensor(weights or [1 / count] * count)
    pull = ((1 - cosine(image_embeds, positive_embeds).clamp(max=max_cosine)) @ shares).mean()
    if len(negative_embeds) == 0:
        return positive_weight * pull
    per_negative = cosine(image_embeds, negative_embeds).clamp(min=min_cosine).mean(dim=0)  # [N]
    return positive_weight * pull + 0.5 * (per_negative.mean() + per_negative.max())


class ConceptLab:
    """One token, searched by gradient: ``fit``, ``fuse``, ``dream`` and ``evolve``."""

    name = NAME
    config_class = ConceptLabConfig
    needs = PriorBackbone
    takes_weights = True

    def __init__(self, config: ConceptLabConfig | None = None) -> None:
        self.config = config or ConceptLabConfig()

    def fit(
        self,
        backbone: PriorBackbone,
        request: Request,
        *,
        judge: Any | None = None,
        on_step: OnStep = ignore_step,
        resume: Mapping[str, Any] | None = None,
    ) -> Concept:
        """Return a new member of a subject; ``request.seed`` alone decides every draw.

        Args:
            backbone: Frozen.
            request: The subject, the members to push from, and the seed.
            judge: ``NamesThings``: what it sees is pushed from too; None asks nobody.
            on_step: Told each step.
            resume: State to go on from, a ``Step.snapshot()``.
        """
        goal = {"shares": ((request.subject, 1.0),), "negatives": request.negatives}
        return self._search(backbone, request, on_step, resume, judge=judge, **goal)

    def fuse(
        self,
        backbone: PriorBackbone,
        request: Request,
        *,
        trained: Trained | None = None,
        judge: Any | None = None,
        on_step: OnStep = ignore_step,
        resume: Mapping[str, Any] | None = None,
    ) -> Concept:
        """Return a mixture of ``request.weights``, any words; ``trained`` and ``judge`` are unused.

        Raises:
            VocabularyError: If there are fewer than two words, one is there twice, a share is not
                positive, or they do not sum to 1.
        """
        words = vocab.check_words([word for word, _ in request.weights])
        own = replace(request, subject=" + ".join(words))
        return self._search(backbone, own, on_step, resume, shares=request.weights)

    def dream(
        self,
        backbone: PriorBackbone,
        request: Request,
        index: int,
        *,
        trained: Trained | None = None,
        judge: Any | None = None,
        on_step: OnStep = ignore_step,
        resume: Mapping[str, Any] | None = None,
    ) -> Concept:
        """Return dream ``index`` of ``request.subject``: a ``fit`` with a seed of its own."""
        seed = stream(request.seed, "dream", index).initial_seed()
        own = replace(request, seed=seed)
        return self.fit(backbone, own, judge=judge, on_step=on_step, resume=resume)

    def evolve(
        self,
        backbone: PriorBackbone,
        parents: Sequence[Tensor],
        request: Request,
        *,
        weights: Sequence[float] | None = None,
        on_step: OnStep = ignore_step,
        resume: Mapping[str, Any] | None = None,
    ) -> Concept:
        """Return a child of pictures: each step draws one of each parent's embeddings.

        ``parents`` are the image embeddings, ``[n, D]``, of each one's pictures; ``weights`` are
        their shares, None uniform. The token starts from the subject; no pull is cut off.
        """
        shares = weights if weights is not None else [1 / len(parents) for _ in parents]
        named = tuple((f"parent {at}", share) for at, share in enumerate(shares, 1))
        return self._search(backbone, request, on_step, resume, shares=named, parents=parents)

    def _search(
        self, backbone: PriorBackbone, request: Request, on_step: OnStep, resume: Any, **goal: Any
    ) -> Concept:
        from offbeat.methods._conceptlab_search import Search  # which needs the loss above

        search = Search(self.config, backbone, request, **goal)
        if resume is not None:
            search.restore(resume)
        while search.index < self.config.num_steps:
            on_step(search.advance())
        return search.concept()
