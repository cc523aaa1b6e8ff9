"""CreTok: one learned word that means "fuse what is named here into one thing".

Source: CreTok, arXiv:2410.24160. Ours: theta as a quantile of the initial cosines; the restrictive
prompts are a table that is encoded once; a stop where the loss is flat.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offbeat import vocab
from offbeat.checks import check_range
from offbeat.errors import ConfigError, FingerprintError
from offbeat.functional import truncated_cosine_loss
from offbeat.methods._settings import configured, on_card
from offbeat.protocols import ReadsClasses, TextBackbone
from offbeat.templates import article, fill
from offbeat.types import Concept, OnStep, Request, Trained, ignore_step

NAME = "cretok"
WORD = "<cretok>"
PUBLISHED_THETA = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class CreTokConfig:
    """Settings of one training and of the prompts that use its token, saved as they were asked."""

    theta: float | None = None
    """Cosine above which a pair pulls no more, -1 to 1; None is the published 0.5."""
    theta_quantile: float | None = None
    """Goes in place of ``theta``: this quantile of the cosines before training, 0 to 1."""
    num_steps: int = 10_000
    learning_rate: float = 0.01
    """Of the first step; it falls to 0 along a cosine."""
    batch_size: int = 16
    """Pairs a step, drawn anew at every step, each in both orders."""
    num_pairs: int = 200
    """Training pairs; no evaluation pair is among them."""
    flat_steps: int | None = None
    """Stop when the loss over all pairs has not fallen in so many steps; None never does."""
    flat_tolerance: float = 1e-5
    """What counts as fallen."""
    initial_word: str = "creative"
    restrictive_template: str = "a {first} {second}"
    adaptive_template: str = "a photo of a {concept} mixture"
    use_template: str = "a photo of a {concept}"
    """What the phrase stands in; another prompt may take its place when it is rendered."""
    phrase: str = "{token} mixture that resembles {words}"
    """What a fused concept is called; ``{words}`` becomes ``a pig, an owl and a snake``."""

    def __post_init__(self) -> None:
        if self.theta is not None and self.theta_quantile is not None:
            raise ConfigError(
                "theta: expected theta or theta_quantile, got both: "
                f"{self.theta!r} and {self.theta_quantile!r}"
            )
        for name, (low, high) in _RANGES.items():
            if (value := getattr(self, name)) is not None:
                check_range(name, value, low, high)
        for name in ("num_steps", "batch_size", "num_pairs", "flat_steps"):
            if not isinstance(value := getattr(self, name), int | None):
                raise ConfigError(f"{name}: expected a whole number, got {value!r}")
        fill(self.restrictive_template, first="pig", second="owl")
        fill(self.adaptive_template, concept=WORD)
        fill(self.use_template, concept=WORD)
        fill(self.phrase, token=WORD, words="a pig")

    @classmethod
    def for_card(cls, card: Mapping[str, Any], **asked: Any) -> CreTokConfig:
        """Return what suits a checkpoint by its card, with what was ``asked`` before that.

        Raises:
            ConfigError: If a setting is unknown, or of another kind.
        """
        own = on_card(card, NAME)
        if {"theta", "theta_quantile"} & asked.keys():  # one of them speaks for both
            own = {name: own[name] for name in own.keys() - {"theta", "theta_quantile"}}
        return configured(cls, NAME, {**own, **asked})


_RANGES: dict[str, tuple[float, float]] = {
    "theta": (-1, 1),
    "theta_quantile": (0, 1),
    "num_steps": (1, 10_000_000),
    "learning_rate": (1e-12, 100),
    "batch_size": (1, 100_000),
    "num_pairs": (1, 1_000_000),
    "flat_steps": (1, 10_000_000),
    "flat_tolerance": (0, 2),
}
"""What every number must lie in; NaN lies in none."""


def mixture_loss(
    restrictive: Tensor, adaptive: Tensor, *, theta: float, widths: Sequence[int] = ()
) -> Tensor:
    """Return the mean truncated distance of pairs, in both orders, to the one adaptive prompt.

    Args:
        restrictive: Text embeddings of ``a {t1} {t2}`` and ``a {t2} {t1}``, ``[B, 2, D]``.
        adaptive: Text embedding of the prompt with the token, ``[1, D]``; carries the gradient.
        theta: A prompt stops pulling above this cosine, -1 to 1.
        widths: Of the text encoders' vectors side by side; their cosines are averaged.

    Returns:
        Scalar, 0 to 2; lower is better.

    Source: CreTok, arXiv:2410.24160, the truncated loss.
    """
    return truncated_cosine_loss(restrictive, adaptive, threshold=theta, widths=widths).mean()


def training_pairs(
    words: Sequence[str], num: int, *, seed: int = 0
) -> tuple[tuple[vocab.Pair, ...], tuple[vocab.Pair, ...]]:
    """Return the pairs to train on, and those kept from it: at most a quarter of all there are."""
    total = math.comb(len(words), 2)
    held_out = vocab.evaluation_pairs(words, min(30, total // 4))
    return vocab.pairs(words, num, seed=seed, exclude=held_out), held_out


def with_articles(template: str, **words: str) -> str:
    """Fill a template, ``a`` before a placeholder put right by its word.

    >>> with_articles("a {first} {second}", first="owl", second="pig")
    'an owl pig'
    """
    for name, word in words.items():
        template = re.sub(rf"\ban?(?= \{{{name}\}})", article(word), template)
    return fill(template, **words)


_DETERMINER = re.compile(r"(an?|the|some|my|your|\d+) ", re.IGNORECASE)


def listed(words: Sequence[str]) -> str:
    """Return words as a list in prose.

    >>> listed(["pig", "owl", "the moon"])
    'a pig, an owl and the moon'
    """
    *first, last = (w if _DETERMINER.match(w) else f"{article(w)} {w}" for w in words)
    return f"{', '.join(first)} and {last}" if first else last


class CreTok:
    """The token: ``train`` it once on a checkpoint, ``fuse`` any words with it."""

    name = NAME
    config_class = CreTokConfig
    needs = TextBackbone
    takes_weights = False

    def __init__(self, config: CreTokConfig | None = None) -> None:
        self.config = config or CreTokConfig()

    def train(
        self,
        backbone: TextBackbone,
        vocabulary: Sequence[str],
        *,
        seed: int = 0,
        judge: ReadsClasses | None = None,
        on_step: OnStep = ignore_step,
        resume: Mapping[str, Any] | None = None,
    ) -> Trained:
        """Return the token; ``seed`` alone decides every draw. No picture is drawn.

        Args:
            backbone: Frozen; only its text encoder is used.
            vocabulary: Words that pairs are made of.
            seed: Of the training pairs and their order.
            judge: Not asked.
            on_step: Told each step; ``Step.snapshot`` is what ``resume`` takes.
            resume: State to go on from.
        """
        from offbeat.methods._cretok_training import Training  # which needs the loss above

        training = Training(self.config, backbone, vocab.check_words(vocabulary), seed)
        if resume is not None:
            training.restore(resume)
        while not training.stopped:
            on_step(training.advance())
        return training.trained()

    def fuse(
        self,
        backbone: TextBackbone,
        request: Request,
        *,
        trained: Trained | None = None,
        judge: ReadsClasses | None = None,
        on_step: OnStep = ignore_step,
        resume: Mapping[str, Any] | None = None,
    ) -> Concept:
        """Return the phrase and token that fuse the words of a request, the largest share first.

        Shares set the order alone. Nothing is drawn at random, and no step is taken.

        Raises:
            ConfigError: If ``trained`` is absent or of another method.
            FingerprintError: If it was trained on another checkpoint.
            VocabularyError: If there are fewer than two words.
            PromptError: If the words are too long for the text encoder.
        """
        shares = sorted(request.weights, key=lambda pair: -pair[1])  # stable: ties stay as asked
        words = vocab.check_words([word for word, _ in shares])
        phrase = fill(self.config.phrase, token=WORD, words=listed(words))
        return _concept(backbone, trained, self.config.use_template, phrase, " + ".join(words))

    def imagine(self, backbone: TextBackbone, trained: Trained | None) -> Concept:
        """Return the concept of the token alone, which names nothing; raises as ``fuse`` does."""
        return _concept(backbone, trained, self.config.adaptive_template, WORD, "anything")


def _concept(
    backbone: TextBackbone, trained: Trained | None, template: str, word: str, subject: str
) -> Concept:
    if trained is None or trained.method != NAME or WORD not in trained.tensors:
        got = "none" if trained is None else trained.method
        raise ConfigError(f"trained: expected {NAME}'s token, from `offbeat train`, got {got}")
    if trained.fingerprint != backbone.fingerprint:
        raise FingerprintError(
            f"{NAME}: trained on {trained.checkpoint} ({trained.fingerprint}), and this is "
            f"{backbone.name} ({backbone.fingerprint}); run `offbeat train {NAME}` for it"
        )
    concept = Concept(
        template=template,
        subject=subject,
        token_embeds={WORD: trained.tensors[WORD]},
        word=word,
        metadata={"method": NAME, "stopped": str(trained.readings.get("stopped", ""))},
    )
    with torch.no_grad():  # words that do not fit fail here, not at the first picture
        backbone.encode_text([concept.prompt()], tokens=concept.token_embeds)
    return concept
