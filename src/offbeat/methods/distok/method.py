"""DisTok: learn a space of tokens that contains every mixture of known classes.

Source: DisTok, arXiv:2505.03667. Ours: what its paper leaves open, each as a setting; targets that
follow the shares of a mixture; consistency of known classes; an alarm for a decoder that collapses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from offbeat.core.rng import stream
from offbeat.methods.distok.config import NAME, DisTokConfig
from offbeat.methods.distok.space import Space, describe, distribution_of, draw_latent
from offbeat.methods.distok.training import Training
from offbeat.methods.optimizing import TrainsOnce
from offbeat.protocols import ReadsClasses, TextBackbone
from offbeat.types import Concept, OnStep, Request, Trained, ignore_step


class DisTok(TrainsOnce[DisTokConfig]):
    """The space: ``train`` it once on a checkpoint, then ``fuse`` and ``dream`` in it."""

    name = NAME
    config_class = DisTokConfig
    needs = TextBackbone
    verbs = frozenset({"fuse", "sweep", "grid", "dream", "train"})
    takes_weights = True

    @property
    def needs_reader(self) -> bool:
        """Whether half of the training is missing without a judge: the pool and consistency."""
        return self.config.consistency_from == "novel"

    def new_training(
        self, backbone: TextBackbone, words: tuple[str, ...], seed: int, judge: ReadsClasses | None
    ) -> Training:
        """Return the training of the space.

        The judge reads what decoded tokens draw; None leaves class distribution estimation out.
        """
        return Training(self.config, backbone, words, seed, judge)

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
        """Return the token of a mixture of known words; nothing is drawn, and no step is taken.

        Raises:
            ConfigError: If ``trained`` is absent or of another method.
            FingerprintError: If it belongs to another text encoder.
            VocabularyError: If a word is unknown, or the shares are none.
        """
        space = Space.of(trained, backbone)
        shares = distribution_of(request.weights, space.words, space.class_tokens, backbone)
        subject = " + ".join(space.words[i] for i in shares.nonzero()[:, 0].tolist())
        metadata = describe(shares, space.words)
        power = self.config.share_exponent
        if power != 1:
            metadata["share_exponent"] = f"{power:g}"
        mixture = shares.pow(power) / shares.pow(power).sum()
        return space.concept(request, space.token_of(mixture), subject, metadata)

    def dream(
        self,
        backbone: TextBackbone,
        request: Request,
        index: int,
        *,
        trained: Trained | None = None,
        judge: Any | None = None,
        on_step: OnStep = ignore_step,
        resume: Mapping[str, Any] | None = None,
    ) -> Concept:
        """Return the token of a latent drawn by the config's law, scaled as the space's latents.

        Raises:
            ConfigError: If ``trained`` is absent or of another method.
            FingerprintError: If it belongs to another text encoder.
        """
        space, cfg = Space.of(trained, backbone), self.config
        noise = stream(request.seed, "dream", index)
        token = space.dreamt(draw_latent(cfg.law, space.latent_width, noise))
        metadata = {"law": cfg.law, "dream": str(index)}
        if cfg.dream_classes is not None:
            shares = space.nearest_mixture(token, num=cfg.dream_classes)
            token, metadata = space.token_of(shares), {**metadata, **describe(shares, space.words)}
        return space.concept(request, token, request.subject, metadata)
