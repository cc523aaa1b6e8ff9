"""What DisTok trains on: pairs that no comparison is made on, and the samples of an update."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from offbeat import vocab
from offbeat.errors import VocabularyError
from offbeat.methods._distok_pool import ConceptPool
from offbeat.methods.distok import DisTokConfig


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
    found = [
        (one, other)
        for one, other in itertools.combinations(range(len(words)), 2)
        if frozenset((words[one], words[other])) not in barred
    ]
    if not found:
        raise VocabularyError(f"vocabulary: no pair to train on among {', '.join(words)}")
    return found, held_out


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
        one, other = pairs[int(which * len(pairs))]
        row[one], row[other] = share, 1 - share
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
