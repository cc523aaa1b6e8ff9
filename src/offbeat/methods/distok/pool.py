"""DisTok's pool of concepts: the known classes, and new ones that the judge finds between them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offbeat.core import vocab
from offbeat.core.drawing import judged_steps, sample_concept
from offbeat.core.rng import streams
from offbeat.errors import ConfigError, VocabularyError
from offbeat.methods.distok.config import DisTokConfig
from offbeat.protocols import DrawingBackbone, ReadsClasses
from offbeat.types import PLACEHOLDER, Concept


class ConceptPool:
    """Entries in order: the K known classes, then novel ones, the oldest first."""

    def __init__(self, tokens: Tensor, text_embeds: Tensor, *, max_novel: int) -> None:
        self.num_known = len(tokens)
        self.max_novel = max_novel
        self.tokens = tokens
        """``[M, E]``."""
        self.distributions = torch.eye(len(tokens))
        """Over the known classes, ``[M, K]``."""
        self.text_embeds = text_embeds
        """Of the adaptive prompt with each entry's token, ``[M, D]``."""

    def __len__(self) -> int:
        """Return the number of entries, M."""
        return len(self.tokens)

    @property
    def num_novel(self) -> int:
        """Entries that are no known class."""
        return len(self) - self.num_known

    def add(self, tokens: Tensor, distributions: Tensor, text_embeds: Tensor) -> None:
        """Take in novel entries; the oldest novel ones go where there are too many."""
        surplus = max(0, self.num_novel + len(tokens) - self.max_novel)
        for name, rows in zip(_PARTS, (tokens, distributions, text_embeds), strict=True):
            entries = getattr(self, name)
            novel = torch.cat([entries[self.num_known :], rows])[surplus:]
            setattr(self, name, torch.cat([entries[: self.num_known], novel]))

    def sides(self, pairs: Sequence[tuple[int, int]], name: str) -> tuple[Tensor, Tensor]:
        """Return the ``tokens`` or ``text_embeds`` of both sides of pairs of entries."""
        rows: Tensor = getattr(self, name)
        return rows[[first for first, _ in pairs]], rows[[second for _, second in pairs]]

    def snapshot(self) -> dict[str, Tensor]:
        """Return a copy of the novel entries."""
        return {name: getattr(self, name)[self.num_known :].clone() for name in _PARTS}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take the novel entries of a snapshot."""
        for name in _PARTS:
            known = getattr(self, name)[: self.num_known]
            setattr(self, name, torch.cat([known, state[name]]))


_PARTS = ("tokens", "distributions", "text_embeds")


class Reader:
    """Draws what tokens mean and has a judge read it, over the words of a vocabulary."""

    def __init__(
        self,
        backbone: Any,
        judge: ReadsClasses,
        words: Sequence[str],
        template: str,
        num_inference_steps: int | None,
    ) -> None:
        """Hold the judge's columns of the words.

        Raises:
            ConfigError: If the judge knows fewer than two of them.
        """
        self.backbone, self.judge, self.template = backbone, judge, template
        self.settings: dict[str, Any] = {
            "num_inference_steps": num_inference_steps or judged_steps(backbone)
        }
        labels = {label.lower(): column for column, label in enumerate(judge.labels)}
        self.known = [index for index, word in enumerate(words) if word.lower() in labels]
        self.columns = [labels[words[index].lower()] for index in self.known]
        self.num_words = len(words)
        if len(self.known) < 2:
            raise ConfigError(
                f"judge: expected one that knows two words of the vocabulary or more, and "
                f"{judge.name} knows {len(self.known)}; choose another with --judge"
            )

    @torch.no_grad()
    def read(self, tokens: Tensor, *, num: int, seed: int, purpose: Sequence[str | int]) -> Tensor:
        """Return distributions over the words, ``[B, K]``: means over ``num`` pictures of each.

        Args:
            tokens: ``[B, E]``.
            num: Pictures of each token.
            seed: Of their noise.
            purpose: Name of their streams; picture j of token i has its own.
        """
        images = torch.cat([self._draw(t, i, num, seed, purpose) for i, t in enumerate(tokens)])
        read = self.judge.class_probabilities(images)[:, self.columns].cpu()
        read = read.view(len(tokens), num, -1).mean(dim=1).clamp_min(1e-12)
        shares = torch.zeros(len(tokens), self.num_words)
        shares[:, self.known] = read / read.sum(dim=-1, keepdim=True)
        return shares

    def _draw(
        self, token: Tensor, index: int, num: int, seed: int, purpose: Sequence[str | int]
    ) -> Tensor:
        concept = Concept(template=self.template, subject="", token_embeds={PLACEHOLDER: token})
        noise = streams(seed, *purpose, "decoder", index, num=num)
        if isinstance(self.backbone, DrawingBackbone):
            text = self.backbone.encode_text([concept.prompt()], tokens=concept.token_embeds)
            return self.backbone.draw_text(
                text, generator=noise, num_samples=num, **self.settings
            ).cpu()
        prior = streams(seed, *purpose, "prior", index, num=num)
        embeds = sample_concept(self.backbone, concept, prior).to(self.backbone.device)
        images: Tensor = self.backbone.decode_embeds(embeds, generator=noise, **self.settings)
        return images.cpu()


@dataclass(frozen=True, slots=True)
class Draw:
    """The samples of one update: first those of fusion, then those of consistency."""

    pairs: list[tuple[int, int]]
    """Entries that are fused."""
    shares: Tensor
    """Of the first of each pair, ``[pairs]``."""
    entries: list[int]
    """Entries that must return to themselves."""


def training_pairs(
    words: Sequence[str],
) -> tuple[list[tuple[int, int]], tuple[vocab.Pair, ...]]:
    """Return the pairs to train on, as numbers of words, and those kept from it, as words.

    At most a quarter of all pairs is kept.

    Raises:
        VocabularyError: If none is left.
    """
    held_out = vocab.evaluation_pairs(words, min(30, math.comb(len(words), 2) // 4))
    barred = {frozenset(pair) for pair in (*held_out, vocab.UNSEEN_PAIR)}
    pairs = [
        (first, second)
        for first, second in itertools.combinations(range(len(words)), 2)
        if frozenset((words[first], words[second])) not in barred
    ]
    if not pairs:
        raise VocabularyError(f"vocabulary: no pair to train on among {', '.join(words)}")
    return pairs, held_out


def draw_samples(
    config: DisTokConfig,
    known_pairs: Sequence[tuple[int, int]],
    pool: ConceptPool,
    noise: torch.Generator,
) -> Draw:
    """Draw the samples of one update.

    Args:
        config: Its batch size, tasks and their probabilities.
        known_pairs: Pairs of known classes to train on.
        pool: Where entries come from.
        noise: As many numbers are taken from it, whatever is drawn.
    """
    chance = torch.rand(config.batch_size, 4, generator=noise, dtype=torch.float64)
    can_return = pool.num_novel > 0 or config.consistency_from == "pool"
    pairs, shares, entries = [], [], []
    for task, kind, which, share in chance.tolist():
        is_known = kind < config.known_share or not pool.num_novel
        if can_return and task < config.consistency_share:
            is_known = is_known and config.consistency_from == "pool"
            entries.append(_entry(pool, which, is_known=is_known))
            continue
        pairs.append(
            known_pairs[int(which * len(known_pairs))] if is_known else _pool_pair(pool, which)
        )
        shares.append(share if config.fusion_target == "shares" else 0.5)
    return Draw(pairs, torch.tensor(shares), entries)


def draw_mixtures(
    noise: torch.Generator, num: int, pairs: Sequence[tuple[int, int]], *, num_classes: int
) -> Tensor:
    """Draw shares of pairs, ``[num, K]``."""
    shares = torch.zeros(num, num_classes)
    chance = torch.rand(num, 2, generator=noise, dtype=torch.float64)
    for row, (which, share) in zip(shares, chance.tolist(), strict=True):
        first, second = pairs[int(which * len(pairs))]
        row[first], row[second] = share, 1 - share
    return shares


def _entry(pool: ConceptPool, which: float, *, is_known: bool) -> int:
    if is_known:
        return int(which * pool.num_known)
    return pool.num_known + int(which * pool.num_novel)


def _pool_pair(pool: ConceptPool, which: float) -> tuple[int, int]:
    """Return a pair of different entries, one of them novel or both."""
    novel = pool.num_known + int(which * pool.num_novel)
    rest = which * pool.num_novel % 1  # what is left of the draw is uniform again
    other = int(rest * (len(pool) - 1))
    return (novel, other + (other >= novel))
