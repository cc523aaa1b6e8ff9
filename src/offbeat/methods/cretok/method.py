"""CreTok: learn one token, once, that fuses any words of a prompt into one thing.

Source: CreTok, arXiv:2410.24160. Ours: theta as a quantile of the initial cosines; the restrictive
prompts are a table that is encoded once; a stop where the loss is flat.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from offbeat.core import vocab
from offbeat.core.templates import fill
from offbeat.errors import FingerprintError
from offbeat.methods.cretok.config import NAME, WORD, CreTokConfig
from offbeat.methods.cretok.prompts import listed
from offbeat.methods.cretok.training import Training
from offbeat.methods.optimizing import TrainsOnce
from offbeat.methods.settings import check_trained
from offbeat.protocols import ReadsClasses, TextBackbone
from offbeat.types import Concept, OnStep, Request, Trained, ignore_step


class CreTok(TrainsOnce[CreTokConfig]):
    """The token: ``train`` it once on a checkpoint, ``fuse`` any words with it."""

    name = NAME
    config_class = CreTokConfig
    needs = TextBackbone
    verbs = frozenset({"fuse", "train"})

    def new_training(
        self, backbone: TextBackbone, words: tuple[str, ...], seed: int, judge: ReadsClasses | None
    ) -> Training:
        """Return the training of the token; it draws no picture and asks no judge."""
        return Training(self.config, backbone, words, seed)

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
    trained = check_trained(trained, NAME, WORD)
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
