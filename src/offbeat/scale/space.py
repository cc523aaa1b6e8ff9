"""Where an archive searches: tokens around a subject's own, and what given runs learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from offbeat.core.drawing import plain_concept_of
from offbeat.core.vocab import DEFAULT_LABELS
from offbeat.errors import ConfigError, PromptError
from offbeat.protocols import TextBackbone
from offbeat.types import PLACEHOLDER, Concept

MAX_WORDS = 256


@dataclass(frozen=True, slots=True)
class ConceptSpace:
    """Coordinates of concepts, ``[S]``: 0 is the subject itself.

    The first are of the token, along the leading axes of the tokens of known words; 1 is one
    standard deviation of these. Then there is one for each given run: 1 is what it learned,
    token and LoRA factors, 0 is nothing of it.
    """

    subject: str
    template: str
    origin: Tensor
    """The subject's token, ``[E]``."""
    axes: Tensor
    """``[k, E]``, each as long as a standard deviation."""
    words: tuple[str, ...]
    tokens: Tensor
    """Of the words, ``[K, E]``."""
    runs: tuple[Concept, ...] = field(default=())

    @classmethod
    def of(
        cls,
        backbone: TextBackbone,
        subject: str,
        *,
        num_axes: int = 16,
        prompt: str | None = None,
        runs: Sequence[Concept] = (),
    ) -> ConceptSpace:
        """Return the space around a subject.

        Args:
            backbone: Whose tokens they are.
            subject: A word.
            num_axes: Of the token, at most.
            prompt: With ``{concept}``; None is the checkpoint's own.
            runs: What explorations of the subject learned, one token each, with factors or without.

        Raises:
            ConfigError: If a run learned something else than one token.
        """
        known = tuple(backbone.card["concepts"]) or DEFAULT_LABELS
        words, tokens = [], []
        for word in known[:: -(-len(known) // MAX_WORDS)]:
            try:
                tokens.append(backbone.token_embed(word).detach().cpu().float())
                words.append(word)
            except PromptError:  # more than one token
                continue
        table = torch.stack(tokens)
        _, values, axes = torch.linalg.svd(table - table.mean(dim=0), full_matrices=False)
        count = min(num_axes, len(axes))
        # the sign of a singular vector is the library's whim
        sign = axes[:count].gather(1, axes[:count].abs().argmax(dim=1, keepdim=True)).sign()
        scaled = sign * axes[:count] * values[:count, None] / len(table) ** 0.5
        for concept in runs:
            rows = list(concept.token_embeds.values())
            if len(rows) > 1 or any(len(row) != 1 for row in rows):
                raise ConfigError(
                    f"runs: {concept.subject} is of several tokens; name runs of one token"
                )
        return cls(
            subject=subject,
            template=plain_concept_of(subject, backbone, prompt).template,
            origin=backbone.token_embed(subject).detach().cpu().float(),
            axes=scaled,
            words=tuple(words),
            tokens=table,
            runs=tuple(runs),
        )

    @property
    def size(self) -> int:
        """Coordinates, S."""
        return len(self.axes) + len(self.runs)

    def concept(self, point: Tensor) -> Concept:
        """Return the concept at a point, ``[S]``."""
        count = len(self.axes)
        token = self.origin + point[:count].float() @ self.axes
        lora: dict[str, Tensor] = {}
        for share, run in zip(point[count:].tolist(), self.runs, strict=True):
            for row in run.token_embeds.values():
                token = token + share * (row[0].float() - self.origin)
            for name, factor in run.lora.items():
                down = ".lora_A." in name  # two changes side by side: their ranks add up
                scaled = factor if down else share * factor
                beside = [lora[name], scaled] if name in lora else [scaled]
                lora[name] = torch.cat(beside, dim=0 if down else 1)
        return Concept(
            template=self.template,
            subject=self.subject,
            token_embeds={PLACEHOLDER: token[None]},
            lora=lora,
            metadata={"method": "archive"},
        )

    def coordinates(self, token: Tensor) -> Tensor:
        """Return the point nearest to a token, ``[E]``, that is made of no run."""
        place = (token.float() - self.origin) @ self.axes.T / self.axes.square().sum(dim=1)
        return torch.cat([place, torch.zeros(len(self.runs))])
