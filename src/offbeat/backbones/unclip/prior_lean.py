"""The fast prior for a few samples of a prompt, in as few operations as it goes.

A search steps with one sample or a handful. Then the arithmetic is next to nothing, and what costs
is the number of operations that are started and recorded for the gradient. So text and "time" of
all timesteps, of both halves of guidance, are one pass here: a mask lets each time token see the
text and itself. Queries, keys and values are one product, and attention is one call. The result is
that of ``FastPrior`` to rounding: tests hold both against diffusers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from offbeat.types import TextEmbeds

MAX_SAMPLES = 8
"""Of one prompt: keys and values of the text are copied for each of them."""
_MAX_FUSED = 2**20
"""Numbers of one projection up to which three are copied side by side: a big prior would not fit
twice, and its products cost more than their number."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """LoRA factors of one layer."""

    downs: tuple[Tensor, ...]
    """A of queries, keys, values and output, each ``[r, C]``; r is 0 where there is none."""
    ups: tuple[Tensor, ...]
    """B of the same, each ``[C, r]``."""

    def stacked(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return the factors of the three projections as one pair, and those of the output."""
        inner = torch.cat(self.downs[:3]), torch.block_diag(*self.ups[:3])
        return inner, (self.downs[3], self.ups[3])


class LeanPrior:
    """Text and times, read once; ``predict`` is one denoising step."""

    def __init__(
        self,
        prior: Any,
        texts: list[TextEmbeds],
        timesteps: Tensor,
        *,
        num_heads: int,
        num_text: int,
        num_samples: int,
        adapters: list[Adapter] | None = None,
    ) -> None:
        """Read the texts.

        Args:
            prior: A ``diffusers.PriorTransformer`` in float32.
            texts: The prompts, and what guidance steers from; as many of each, or one.
            timesteps: All of the schedule, ``[T]``.
            num_heads: Of the attention.
            num_text: Positions that text may take.
            num_samples: Of each prompt.
            adapters: LoRA factors of each layer.
        """
        self.prior, self.num_heads = prior, num_heads
        self.blocks = list(prior.transformer_blocks)
        self.fused = [_fused(block.attn1) for block in self.blocks]
        self.adapters = [a.stacked() for a in adapters] if adapters else None
        self.own_positions = prior.positional_embedding[0, num_text + 2 :]
        hidden, seen = _read(prior, texts, timesteps, num_text)
        num_times, num_seen = len(timesteps), seen.shape[1]  # [G, P]
        length = num_seen + num_times
        causal = torch.ones(num_seen, num_seen, dtype=torch.bool, device=hidden.device).tril()
        mask = torch.zeros(len(seen), 1, length, length, dtype=torch.bool, device=hidden.device)
        mask[:, 0, :, :num_seen] = seen[:, None]
        mask[:, 0, :num_seen, :num_seen] &= causal
        times = torch.arange(num_seen, length, device=hidden.device)
        mask[:, 0, times, times] = True
        self.pairs = []  # keys and values, [2, G * S, heads, P + T, d]
        for index in range(len(self.blocks)):
            hidden, pair = self._layer(index, hidden, mask)
            self.pairs.append(pair if num_samples == 1 else pair.repeat_interleave(num_samples, 1))
        rows = seen.repeat_interleave(num_samples, 0)[:, None, None]
        self.masks = torch.zeros(
            num_times, len(rows), 1, 2, length + 2, dtype=torch.bool, device=hidden.device
        )
        self.masks[..., :num_seen] = rows
        self.masks[..., length:] = self.masks.new_ones(2, 2).tril()
        steps = torch.arange(num_times, device=hidden.device)
        self.masks[steps, ..., num_seen + steps] = True

    def predict(self, step: int, latents: Tensor) -> Tensor:
        """Predict the clean embeddings, ``[G, S, D]``, of noisy ones at a step of the schedule."""
        prior = self.prior
        noisy = prior.proj_in(latents.flatten(0, 1))
        query = prior.prd_embedding[0].expand_as(noisy)
        hidden = torch.stack([noisy, query], dim=1) + self.own_positions  # [G * S, 2, C]
        mask, last = self.masks[step], len(self.blocks) - 1
        for index in range(last):
            hidden, _ = self._layer(index, hidden, mask, self.pairs[index])
        hidden, _ = self._layer(last, hidden, mask[:, :, 1:], self.pairs[last])
        predicted = prior.proj_to_clip_embeddings(prior.norm_out(hidden[:, -1]))
        shaped: Tensor = predicted.unflatten(0, latents.shape[:2])
        return shaped

    def _layer(
        self, index: int, hidden: Tensor, mask: Tensor, before: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run one layer; only as many of the last tokens go on as the mask has rows.

        Returns:
            The stream, and own keys and values, ``[2, N, heads, tokens, d]``.
        """
        block, (weight, bias) = self.blocks[index], self.fused[index]
        normed = block.norm1(hidden)
        if weight is None:
            parts = (getattr(block.attn1, name)(normed) for name in ("to_q", "to_k", "to_v"))
            flat = torch.cat(list(parts), dim=-1)
        else:
            flat = torch.nn.functional.linear(normed, weight, bias)
        if self.adapters:
            down, up = self.adapters[index][0]
            flat = flat + (normed @ down.T) @ up.T
        heads = flat.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, own = heads[0], heads[1:]
        key, value = (own if before is None else torch.cat([before, own], dim=3)).unbind(0)
        asking = mask.shape[-2]
        if asking < hidden.shape[1]:
            query, hidden = query[..., -asking:, :], hidden[:, -asking:]
        attended = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask
        )
        attended = attended.transpose(1, 2).flatten(2)
        hidden = hidden + block.attn1.to_out[0](attended)
        if self.adapters:
            down, up = self.adapters[index][1]
            hidden = hidden + (attended @ down.T) @ up.T
        result: Tensor = hidden + block.ff(block.norm3(hidden))
        return result, own


def _read(
    prior: Any, texts: list[TextEmbeds], timesteps: Tensor, num_text: int
) -> tuple[Tensor, Tensor]:
    """Return the input tokens of all texts, ``[G, P + T, C]``, and which of P may be seen."""
    count = max(len(text) for text in texts)
    length = max(text.text_mask.shape[1] for text in texts)
    states, pooled, masks = [], [], []
    for text in texts:
        extra = length - text.text_mask.shape[1]
        padded = torch.nn.functional.pad(text.text_encoder_hidden_states, (0, 0, 0, extra))
        states.append(padded.expand(count, -1, -1))
        pooled.append(text.text_embeds.expand(count, -1))
        mask = torch.nn.functional.pad(text.text_mask, (0, extra + 1))
        mask[:, length] = True  # the pooled text stands behind the states
        masks.append(mask.expand(count, -1))
    positions = prior.positional_embedding[0]
    times = prior.time_embedding(prior.time_proj(timesteps).to(prior.dtype))
    hidden = torch.cat(
        [
            prior.encoder_hidden_states_proj(torch.cat(states)) + positions[:length],
            (prior.embedding_proj(torch.cat(pooled)) + positions[num_text])[:, None],
            (times + positions[num_text + 1]).expand(count * len(texts), -1, -1),
        ],
        dim=1,
    )
    return hidden, torch.cat(masks)


def _fused(attention: Any) -> tuple[Tensor | None, Tensor | None]:
    """Return weight and bias of the three projections side by side, or nothing if they are big."""
    parts = [attention.to_q, attention.to_k, attention.to_v]
    if sum(part.weight.numel() for part in parts) > _MAX_FUSED:
        return None, None
    bias = None if parts[0].bias is None else torch.cat([part.bias for part in parts])
    return torch.cat([part.weight for part in parts]), bias
