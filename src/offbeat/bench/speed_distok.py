"""One DisTok update beside the paper's loop, and the time of one fused token.

The paper's way, as its batch of 1 with accumulation says it: each sample by itself, with its
prompts encoded one at a time, the frozen ones too, for both orders of the pair.
"""

from __future__ import annotations

import torch
from torch import Tensor

from offbeat.bench.ratio import Ratio, pair
from offbeat.core.functional import truncated_cosine_loss
from offbeat.core.templates import fill
from offbeat.core.vocab import check_words
from offbeat.methods.distok.config import DisTokConfig
from offbeat.methods.distok.losses import latent_regulariser
from offbeat.methods.distok.method import DisTok
from offbeat.methods.distok.prompts import place
from offbeat.methods.distok.space import decode, encode
from offbeat.methods.distok.training import Training
from offbeat.protocols import TextBackbone
from offbeat.types import Request

NUM_WORDS = 24
"""Of the checkpoint's own: an update costs the same with more, and its table takes seconds."""


def ratios(backbone: TextBackbone, runs: int) -> list[Ratio]:
    """Return both comparisons: an update, checked by its gradient, and a fused token."""
    words = check_words(list(backbone.card["concepts"])[:NUM_WORDS])
    training = Training(DisTokConfig(), backbone, words, 0, None)
    return [_update(training, runs), _fused(training, runs)]


def _update(training: Training, runs: int) -> Ratio:
    """Gradient of the published loss with respect to both networks, n samples of fusion."""
    plain = _PlainUpdate(training)

    def gradient(one_by_one: bool) -> Tensor:
        training.optimizer.zero_grad()
        if one_by_one:
            plain.backward()
        else:
            training.loss(training.draw())[0].backward()
        return torch.cat([leaf.grad.flatten() for leaf in training.leaves if leaf.grad is not None])

    return pair(
        f"one DisTok update, {training.config.batch_size} pairs, both orders, gradient of the "
        "networks; plain: a sample and a prompt at a time",
        lambda: gradient(False),
        lambda: gradient(True),
        runs,
    )


class _PlainUpdate:
    """Micro-steps with accumulation; each encodes all of its own prompts."""

    def __init__(self, training: Training) -> None:
        self.training = training

    def backward(self) -> None:
        """Add up the gradient of the total loss, sample by sample."""
        training, drawn = self.training, self.training.draw()
        for one, other in drawn.pairs:
            (self._sample(one, other) / len(drawn.pairs)).backward()
        # the regulariser is of all latents at once, in any way of doing it
        rows = training.pool.tokens
        mixtures = torch.stack([(rows[one] + rows[other]) / 2 for one, other in drawn.pairs])
        latents = encode(training.params, mixtures, row_norm=training.row_norm)
        (training.config.regulariser_weight * latent_regulariser(latents)).backward()

    def _sample(self, one: int, other: int) -> Tensor:
        training = self.training
        cfg, words, rows = training.config, training.words, training.pool.tokens
        mixture = ((rows[one] + rows[other]) / 2)[None]
        latent = encode(training.params, mixture, row_norm=training.row_norm)
        token = decode(training.params, latent, row_norm=training.row_norm)
        prompt = cfg.adaptive_template.replace("{concept}", place(0))
        adaptive = self._encode(prompt, {place(0): token})
        loss = adaptive.new_zeros(())
        for first, second in ((one, other), (other, one)):
            text = fill(cfg.restrictive_template, first=words[first], second=words[second])
            near = truncated_cosine_loss(
                adaptive, self._encode(text), threshold=cfg.max_restrictive_cosine
            )
            loss = loss + near.mean() / 2
        aesthetic = self._encode(str(cfg.aesthetic_prompt))
        limit = cfg.max_aesthetic_cosine
        return loss + truncated_cosine_loss(adaptive, aesthetic, threshold=limit).mean()

    def _encode(self, prompt: str, tokens: dict[str, Tensor] | None = None) -> Tensor:
        return self.training.backbone.encode_text([prompt], tokens=tokens).text_embeds


def _fused(training: Training, runs: int) -> Ratio:
    """Compare a token for three words from the learned space with one from words each time."""
    words, backbone = training.words, training.backbone
    trained = training.trained()
    weights = ((words[0], 0.55), (words[1], 0.25), (words[2], 0.2))
    request, method = Request(subject="fusion", weights=weights), DisTok(training.config)

    def ours() -> Tensor:
        (token,) = method.fuse(backbone, request, trained=trained).token_embeds.values()
        return token[0]

    @torch.no_grad()
    def plain() -> Tensor:
        """Look up every class token again, as training does."""
        table = torch.stack([backbone.token_embed(word) for word in words])
        mixture = torch.stack([share * table[words.index(word)] for word, share in weights])
        scale = float(table.norm(dim=-1).mean())
        latents = encode(training.params, mixture.sum(dim=0)[None], row_norm=scale)
        return decode(training.params, latents, row_norm=scale)[0]

    return pair("a fused token from a DisTok space", ours, plain, runs)
