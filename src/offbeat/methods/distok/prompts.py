"""Encode the prompts of DisTok's training: fixed ones once, learned ones in batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from offbeat.methods.distok.pool import ConceptPool
from offbeat.protocols import TextBackbone
from offbeat.types import PLACEHOLDER


class FrozenTexts:
    """Text embeddings in which nothing is learned: encoded once, in batches.

    The table of pairs is filled whole or not at all, so that no update depends on earlier ones.
    """

    MAX_TABLE = 100_000
    """Pairs; beyond, an update encodes its own."""
    BATCH = 64

    def __init__(
        self, backbone: TextBackbone, words: Sequence[str], adaptive: str, restrictive: str
    ) -> None:
        self.backbone, self.words = backbone, words
        self.adaptive, self.restrictive_template = adaptive, restrictive
        self.rows: Tensor | None = None
        self.table = torch.empty(0)
        self.widths: tuple[int, ...] = ()

    def fill_table(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Encode the restrictive prompts of pairs of known words, in both orders."""
        prompts = [
            self._restrictive(self.words[first], self.words[second])
            for pair in pairs
            for first, second in (pair, pair[::-1])
        ]
        self.table = self.encode(prompts).view(len(pairs), 2, -1)
        self.rows = torch.full((len(self.words), len(self.words)), -1)
        for row, (first, second) in enumerate(pairs):
            self.rows[first, second] = self.rows[second, first] = row

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], tokens: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return pooled embeddings, ``[B, D]``, on the CPU."""
        parts = []
        for start in range(0, len(prompts), self.BATCH):
            batch = prompts[start : start + self.BATCH]
            text = self.backbone.encode_text(batch, tokens=tokens)
            self.widths = getattr(text, "widths", ())
            parts.append(text.text_embeds.cpu())
        return torch.cat(parts)

    def of_words(self) -> Tensor:
        """Return the adaptive prompt of every known word, ``[K, D]``."""
        return self.encode([self.adaptive.replace("{concept}", word) for word in self.words])

    def of_tokens(self, tokens: Tensor) -> Tensor:
        """Return the adaptive prompt of every token, ``[B, E]``, as ``[B, D]``, with gradient."""
        named = {place(index): token for index, token in enumerate(tokens)}
        prompts = [self.adaptive.replace("{concept}", word) for word in named]
        text = self.backbone.encode_text(prompts, tokens=named)
        self.widths = getattr(text, "widths", ())
        return text.text_embeds.cpu()

    def of_pairs(self, pairs: Sequence[tuple[int, int]], pool: ConceptPool) -> Tensor:
        """Return the restrictive prompts of pairs of entries, both orders, ``[B, 2, D]``."""
        rows = [self._row(pair) for pair in pairs]
        missing = [index for index, row in enumerate(rows) if row < 0]
        shape = (len(pairs), 2, pool.text_embeds.shape[-1])
        texts = self.table[rows] if len(self.table) else torch.zeros(shape)
        if missing:
            named = {
                place(entry): pool.tokens[entry]
                for index in missing
                for entry in pairs[index]
                if entry >= len(self.words)
            }
            prompts = [
                self._restrictive(self._word(first), self._word(second))
                for index in missing
                for first, second in (pairs[index], pairs[index][::-1])
            ]
            texts[missing] = self.encode(prompts, named).view(len(missing), 2, -1)
        return texts

    def of_shares(
        self, pairs: Sequence[tuple[int, int]], shares: Tensor, pool: ConceptPool
    ) -> Tensor:
        """Return the directions between the texts of pairs of entries, ``[B, 1, D]``.

        Args:
            pairs: Entries.
            shares: Of the first of each, ``[B]``.
            pool: Holds their texts.
        """
        first, second = (self._unit(rows) for rows in pool.sides(pairs, "text_embeds"))
        share = shares[:, None]
        return (share * first + (1 - share) * second)[:, None]

    def _unit(self, rows: Tensor) -> Tensor:
        """Return rows of length one, in the part of each text encoder."""
        parts = rows.split(list(self.widths) or [rows.shape[-1]], dim=-1)
        return torch.cat([normalize(part, dim=-1) for part in parts], dim=-1)

    def _row(self, pair: tuple[int, int]) -> int:
        if self.rows is None or max(pair) >= len(self.words):
            return -1
        return int(self.rows[pair])

    def _word(self, entry: int) -> str:
        """Return a known entry's word, and a novel one's placeholder."""
        return self.words[entry] if entry < len(self.words) else place(entry)

    def _restrictive(self, first: str, second: str) -> str:
        template = self.restrictive_template
        return template.replace("{first}", first).replace("{second}", second)


def place(index: int) -> str:
    """Return the placeholder word of one of several tokens.

    >>> place(3)
    '<offbeat-3>'
    """
    return f"{PLACEHOLDER[:-1]}-{index}>"
