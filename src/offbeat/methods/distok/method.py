"""DisTok: learn a space of tokens that contains every mixture of known classes.

Source: DisTok, arXiv:2505.03667. Ours: what its paper leaves open, each as a setting; targets that
follow the shares of a mixture; consistency of known classes; an alarm for a decoder that collapses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from offbeat.core import vocab
from offbeat.core.rng import stream
from offbeat.methods.distok.config import NAME, DisTokConfig
from offbeat.methods.distok.space import Space, describe, distribution_of, draw_latent
from offbeat.methods.distok.training import Training  # which needs the losses above
from offbeat.methods.optimizing import run_to_end
from offbeat.methods.settings import Method
from offbeat.protocols import ReadsClasses, TextBackbone
from offbeat.types import Concept, OnStep, Request, Trained, ignore_step


class DisTok(Method[DisTokConfig]):
    """The space: ``train`` it once on a checkpoint, then ``fuse`` and ``dream`` in it."""

    name = NAME
    config_class = DisTokConfig
    needs = TextBackbone
    verbs = frozenset({"fuse", "sweep", "grid", "dream", "train"})
    takes_weights = True

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
        """Return the space; ``seed`` alone decides every draw.

        Args:
            backbone: Frozen.
            vocabulary: The known words, K.
            seed: Of the networks, the draws and the pictures that the judge reads.
            judge: Reads what decoded tokens draw; None leaves class distribution estimation out.
            on_step: Told each step; ``Step.snapshot`` is what ``resume`` takes.
            resume: State to go on from.
        """
        training = Training(self.config, backbone, vocab.check_words(vocabulary), seed, judge)
        run_to_end(training, lambda: training.index >= self.config.num_steps, on_step, resume)
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
