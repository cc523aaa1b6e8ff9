"""A zero-shot judge: it reads rendered pixels with the checkpoint's own CLIP towers.

Source: Radford et al., CLIP, arXiv:2103.00020 (softmax over the cosines to all names).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from offbeat.core.functional import cosine
from offbeat.core.templates import fill
from offbeat.errors import ConfigError, PromptError
from offbeat.judges import rule
from offbeat.protocols import SeeingBackbone
from offbeat.types import Verdict

LOGIT_SCALE = 30.0
"""Of the softmax. CLIP's own 100 divides a weak encoder's pictures worse (measured on pocket)."""
_TEXT_BATCH = 64


class ClipJudge(rule.ClassJudge):
    """Compares pictures with every concept name of the checkpoint's card.

    It is given pixels alone, never the embedding that a search moves. Yet its towers are those of
    the checkpoint under search: prefer a judge of other weights where there is one.
    """

    def __init__(
        self,
        encoder: SeeingBackbone,
        *,
        concepts: Sequence[str] | None = None,
        share: float = 0.4,
        logit_scale: float = LOGIT_SCALE,
    ) -> None:
        """Store the encoder; names are encoded when the first picture comes.

        Args:
            encoder: A checkpoint.
            concepts: Names to choose between; None takes those of its card.
            share: Yes from this share of an ordinary picture's probability on, 0 to 1.
            logit_scale: Inverse temperature of the softmax.

        Raises:
            ConfigError: If there are fewer than two names.
        """
        card = encoder.card
        self._coarse: dict[str, Any] = dict(card.get("concepts", {}))
        self._subjects: dict[str, Any] = dict(card.get("subjects", {}))
        self._labels = tuple(concepts if concepts is not None else self._coarse)
        if len(self._labels) < 2:
            raise ConfigError(
                f"concepts: expected at least 2 names for a judge to choose between, got "
                f"{len(self._labels)} from the card of {encoder.name}; pass concepts="
            )
        self._encoder = encoder
        self._logit_scale = logit_scale
        self._limits = rule.Limits(share)
        self._text_embeds: Tensor | None = None

    @property
    def name(self) -> str:
        """The judge's name, with its checkpoint."""
        return f"clip:{self._encoder.name}@{self._encoder.fingerprint[:8]}"

    @property
    def labels(self) -> tuple[str, ...]:
        """The names that it chooses between, K."""
        return self._labels

    def members(self, subject: str) -> list[str]:
        """Return the labels that count as ``subject``; none if it is not in the vocabulary."""
        return rule.members_of(subject, self._labels, subjects=self._subjects, coarse=self._coarse)

    @torch.no_grad()
    def class_probabilities(self, images: Tensor) -> Tensor:
        """Return ``[B, K]`` over ``labels``, of ``images``, ``[B, 3, H, W]``, 0 to 1."""
        return self._read(images, self._names())

    @torch.no_grad()
    def probability(self, images: Tensor, subject: str) -> Tensor:
        """Return the probability of yes, ``[B]``; an unknown subject is added as another name.

        Raises:
            PromptError: If the subject is empty or too long to encode.
        """
        if not subject.strip():
            raise PromptError(f"subject: expected a word, got {subject!r}")
        members = self.members(subject)
        if not members:
            subject_embed = self._encode([subject])
            return self._read(images, torch.cat([self._names(), subject_embed]))[:, -1]
        columns = [self._labels.index(member) for member in members]
        return self.class_probabilities(images)[:, columns].sum(dim=1)

    def still_a(self, images: Tensor, subject: str) -> list[Verdict]:
        """Return one verdict for each of ``images``, ``[B, 3, H, W]``, 0 to 1."""
        members = len(self.members(subject))
        return self._limits.verdicts(
            subject,
            self.probability(images, subject),
            chance=members / len(self._labels) if members else 1 / (len(self._labels) + 1),
            judge=self.name,
            note=str(self._encoder.card.get("notes", "")),
        )

    def _read(self, images: Tensor, names: Tensor) -> Tensor:
        rule.check_images(images)
        if len(images) == 0:  # attention cannot be cut into heads without a batch
            return torch.empty(0, len(names))
        image_embeds = self._encoder.encode_image(images)
        return (self._logit_scale * cosine(image_embeds, names)).softmax(dim=-1).cpu()

    def _names(self) -> Tensor:
        if self._text_embeds is None:
            self._text_embeds = self._encode(self._labels)
        return self._text_embeds

    def _encode(self, names: Sequence[str]) -> Tensor:
        template = str(self._encoder.card["prompt_template"])
        prompts = [fill(template, subject=name) for name in names]
        parts = [
            texts_of(self._encoder, prompts[start : start + _TEXT_BATCH])
            for start in range(0, len(prompts), _TEXT_BATCH)
        ]
        return torch.cat(parts)


def texts_of(encoder: Any, prompts: Sequence[str]) -> Tensor:
    """Return prompts in the space of an encoder's pictures, ``[B, D]``."""
    if hasattr(encoder, "read_texts"):  # its text for drawing lies in another space
        found: Tensor = encoder.read_texts(prompts)
        return found
    text: Tensor = encoder.encode_text(prompts).text_embeds
    return text
