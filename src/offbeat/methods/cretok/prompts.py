"""The prompts and pairs of words that CreTok trains on."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from offbeat.core import vocab
from offbeat.core.templates import article, fill

_DETERMINER = re.compile(r"(an?|the|some|my|your|\d+) ", re.IGNORECASE)


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


def listed(words: Sequence[str]) -> str:
    """Return words as a list in prose.

    >>> listed(["pig", "owl", "the moon"])
    'a pig, an owl and the moon'
    """
    *first, last = (w if _DETERMINER.match(w) else f"{article(w)} {w}" for w in words)
    return f"{', '.join(first)} and {last}" if first else last
