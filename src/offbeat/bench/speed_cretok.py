"""One CreTok update: ours, and the paper's loop (one pair, order and prompt at a time)."""

from __future__ import annotations

import torch
from torch import Tensor

from offbeat.bench.ratio import Ratio, pair
from offbeat.core.functional import truncated_cosine_loss
from offbeat.core.vocab import check_words
from offbeat.methods.cretok.config import WORD, CreTokConfig
from offbeat.methods.cretok.prompts import with_articles
from offbeat.methods.cretok.training import Training
from offbeat.protocols import TextBackbone


def ratios(backbone: TextBackbone, runs: int) -> list[Ratio]:
    """Return the comparison, by the gradient of the token's row."""
    config = CreTokConfig()
    training = Training(config, backbone, check_words(list(backbone.card["concepts"])), seed=0)
    row, drawn = training.row, torch.arange(config.batch_size)

    def ours() -> Tensor:
        row.grad = None
        training.loss(training.encode_adaptive(), drawn).backward()
        assert row.grad is not None
        return row.grad

    def plain() -> Tensor:
        """Accumulate over micro-steps; each encodes both of its prompts, as published."""
        row.grad = None
        for index in drawn.tolist():
            for first, second in (training.pairs[index], training.pairs[index][::-1]):
                words = {"first": first, "second": second}
                restrictive = backbone.encode_text(
                    [with_articles(config.restrictive_template, **words)]
                ).text_embeds.detach()
                adaptive = backbone.encode_text([training.prompt], tokens={WORD: row}).text_embeds
                loss = truncated_cosine_loss(
                    restrictive, adaptive, threshold=training.theta, widths=training.widths
                )
                (loss.mean() / (2 * len(drawn))).backward()
        assert row.grad is not None
        return row.grad

    what = f"one CreTok update, {config.batch_size} pairs in both orders: gradient of the token"
    return [pair(what, ours, plain, runs)]
