"""One pass of the unCLIP prior: the text read once, then two tokens a sample and step.

In this transformer attention is causal and the sequence is [text states, text embedding, time,
noisy embedding, query]. Nothing before "time" can see the timestep or the sample, and "time" cannot
see the sample. So text and the "time" of all timesteps, of both halves of guidance, are read in one
pass; a mask lets each time token see the text and itself. A step then runs two tokens for each
sample instead of 81. Padding is left out, and positions are kept.

Samples of one prompt share its keys: up to ``MAX_GROUP`` of them stand side by side in one sequence
and a mask keeps them apart. So nothing is copied for a few samples, and little for thousands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, pad, scaled_dot_product_attention

from offbeat.types import TextEmbeds

LORA_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""Projections of every attention layer that carry LoRA factors."""

MAX_GROUP = 16
"""Samples of one prompt that stand in one sequence."""
_MAX_FUSED = 2**20
"""Numbers of one projection up to which three are copied side by side: a big prior would not fit
twice, and its products cost more than their number."""
_ALIGNED = 8
"""Keys of a mask for the fast kernels of accelerators."""

Lora = Mapping[str, Tensor]


def lora_name(index: int, target: str, factor: str) -> str:
    """Return PEFT's name of one LoRA factor; ``factor`` is ``A`` or ``B``."""
    return f"transformer_blocks.{index}.attn1.{target}.lora_{factor}.weight"


@dataclass(frozen=True, slots=True)
class Factors:
    """LoRA factors of all layers, float32 whatever the prior's type, moved to its device once."""

    inner: tuple[Tensor, Tensor]
    """Of queries, keys and values side by side: A ``[N, 3 r, C]``, B ``[N, 3 C, 3 r]``."""
    outer: tuple[Tensor, Tensor]
    """Of the output: A ``[N, r, C]``, B ``[N, C, r]``."""


class PriorPass:
    """Text and times, read once; ``predict`` is one denoising step."""

    def __init__(
        self,
        prior: Any,
        texts: Sequence[TextEmbeds],
        timesteps: Tensor,
        *,
        num_samples: int,
        lora: Lora | None = None,
    ) -> None:
        """Read the texts.

        Args:
            prior: A ``diffusers.PriorTransformer``.
            texts: The prompts, and what guidance steers from; as many of each, or one.
            timesteps: All of the schedule, ``[T]``, on the prior's device.
            num_samples: Of each prompt, S.
            lora: Factors in PEFT's names.
        """
        self.prior = prior
        self.num_heads, self.num_text = (
            prior.config.num_attention_heads,
            prior.config.num_embeddings,
        )
        self.blocks = list(prior.transformer_blocks)
        self.fused = [_fused(block.attn1) for block in self.blocks]
        self.factors = _factors(prior, lora) if lora else None
        self.num_samples = num_samples
        self.size = min(num_samples, MAX_GROUP)
        self.num_parts = -(-num_samples // self.size)
        hidden, seen = self._read(texts, timesteps)
        self.positions = prior.positional_embedding[0, self.num_text + 2 :].repeat(self.size, 1)
        self.pairs = []  # keys and values of each layer, [2, rows, heads, P + T, d]
        mask = _prefix_mask(seen, len(timesteps), hidden.dtype)
        spare = -(hidden.shape[1] + 2 * self.size) % _ALIGNED
        for index in range(len(self.blocks)):
            hidden, pair = self._layer(index, hidden, mask)
            pair = pad(pair, (0, 0, 0, spare))
            self.pairs.append(
                pair.repeat_interleave(self.num_parts, 1) if self.num_parts > 1 else pair
            )
        self.masks = _step_masks(seen, len(timesteps), spare, self.size, hidden.dtype)
        if self.num_parts > 1:
            self.masks = self.masks.repeat_interleave(self.num_parts, 1)

    def predict(self, step: int, latents: Tensor) -> Tensor:
        """Predict the clean embeddings, ``[G, S, D]``, of noisy ones at a step of the schedule."""
        prior, groups = self.prior, len(latents)
        spare = self.num_parts * self.size - self.num_samples
        filled = pad(latents, (0, 0, 0, spare)) if spare else latents
        noisy = prior.proj_in(filled.to(prior.dtype)).view(groups * self.num_parts, self.size, -1)
        query = prior.prd_embedding[0].expand_as(noisy)
        hidden = torch.stack([noisy, query], dim=2).flatten(1, 2) + self.positions
        mask, last = self.masks[step], len(self.blocks) - 1
        for index in range(last):
            hidden, _ = self._layer(index, hidden, mask, self.pairs[index])
        # after the last layer the query alone is read
        hidden, _ = self._layer(last, hidden, mask[:, :, 1::2], self.pairs[last], stride=2)
        predicted = prior.proj_to_clip_embeddings(prior.norm_out(hidden))
        shaped: Tensor = predicted.reshape(groups, -1, predicted.shape[-1])[:, : self.num_samples]
        return shaped.float()

    def _layer(
        self,
        index: int,
        hidden: Tensor,
        mask: Tensor,
        before: Tensor | None = None,
        *,
        stride: int = 1,
    ) -> tuple[Tensor, Tensor]:
        """Run one layer.

        Args:
            index: Which.
            hidden: ``[N, tokens, C]``.
            mask: 0 where a key is seen, -inf elsewhere.
            before: Keys and values that stand before these tokens.
            stride: 2 goes on with every second token alone.

        Returns:
            The stream, and own keys and values, ``[2, N, heads, tokens, d]``.
        """
        block, (weight, bias) = self.blocks[index], self.fused[index]
        normed = block.norm1(hidden)
        if weight is None:
            parts = (getattr(block.attn1, name)(normed) for name in LORA_TARGETS[:3])
            flat = torch.cat(list(parts), dim=-1)
        else:
            flat = linear(normed, weight, bias)
        if self.factors:
            flat = _adapted(flat, normed, self.factors.inner, index)
        heads = flat.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, own = heads[0], heads[1:]
        key, value = (own if before is None else torch.cat([before, own], dim=3)).unbind(0)
        if stride > 1:
            query, hidden = query[..., stride - 1 :: stride, :], hidden[:, stride - 1 :: stride]
        attended = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        attended = attended.transpose(1, 2).flatten(2)
        hidden = hidden + block.attn1.to_out[0](attended)
        if self.factors:
            hidden = _adapted(hidden, attended, self.factors.outer, index)
        result: Tensor = hidden + block.ff(block.norm3(hidden))
        return result, own

    def _read(self, texts: Sequence[TextEmbeds], timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the input tokens of all texts, ``[G, P + T, C]``, and which of P may be seen."""
        prior = self.prior
        count = max(len(text) for text in texts)
        length = max(text.text_mask.shape[1] for text in texts)
        states, pooled, masks = [], [], []
        for text in texts:
            extra = length - text.text_mask.shape[1]
            padded = pad(text.text_encoder_hidden_states, (0, 0, 0, extra))
            states.append(padded.expand(count, -1, -1))
            pooled.append(text.text_embeds.expand(count, -1))
            mask = pad(text.text_mask, (0, extra + 1))
            mask[:, length] = True  # the pooled text stands behind the states
            masks.append(mask.expand(count, -1))
        positions = prior.positional_embedding[0]
        times = prior.time_embedding(prior.time_proj(timesteps).to(prior.dtype))
        read, summed = torch.cat(states).to(prior.dtype), torch.cat(pooled).to(prior.dtype)
        hidden = torch.cat(
            [
                prior.encoder_hidden_states_proj(read) + positions[:length],
                (prior.embedding_proj(summed) + positions[self.num_text])[:, None],
                (times + positions[self.num_text + 1]).expand(count * len(texts), -1, -1),
            ],
            dim=1,
        )
        return hidden, torch.cat(masks)


def _prefix_mask(seen: Tensor, num_times: int, dtype: torch.dtype) -> Tensor:
    """Return the mask of text and times, ``[G, 1, P + T, P + T]``, to be added."""
    groups, num_seen = seen.shape
    length = num_seen + num_times
    causal = torch.ones(num_seen, num_seen, dtype=torch.bool, device=seen.device).tril()
    mask = torch.zeros(groups, 1, length, length, dtype=torch.bool, device=seen.device)
    mask[:, 0, :, :num_seen] = seen[:, None]
    mask[:, 0, :num_seen, :num_seen] &= causal
    mask[:, 0].diagonal(dim1=-2, dim2=-1)[:] = True  # a padding token sees itself: no NaN
    return _additive(mask, dtype)


def _step_masks(seen: Tensor, num_times: int, spare: int, size: int, dtype: torch.dtype) -> Tensor:
    """Return the masks of all steps, ``[T, G, 1, 2 size, P + T + spare + 2 size]``, to be added."""
    groups, num_seen = seen.shape
    before = num_seen + num_times
    shape = (num_times, groups, 1, 2 * size, before + spare + 2 * size)
    mask = torch.zeros(shape, dtype=torch.bool, device=seen.device)
    mask[..., :num_seen] = seen[:, None, None]
    steps = torch.arange(num_times, device=seen.device)
    mask[steps, ..., num_seen + steps] = True
    pair = torch.ones(2, 2, dtype=torch.bool, device=seen.device).tril()
    apart = torch.eye(size, dtype=torch.bool, device=seen.device)
    mask[..., before + spare :] = torch.kron(apart, pair)
    return _additive(mask, dtype)


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    added: Tensor = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    added.masked_fill_(~mask, -torch.inf)
    return added


def _fused(attention: Any) -> tuple[Tensor | None, Tensor | None]:
    """Return weight and bias of the three projections side by side, or nothing if they are big."""
    parts = [attention.to_q, attention.to_k, attention.to_v]
    if sum(part.weight.numel() for part in parts) > _MAX_FUSED:
        return None, None
    bias = None if parts[0].bias is None else torch.cat([part.bias for part in parts])
    return torch.cat([part.weight for part in parts]), bias


def _adapted(output: Tensor, states: Tensor, pair: tuple[Tensor, Tensor], index: int) -> Tensor:
    """Return a layer's output with what factors add to it, computed in float32 and cast once."""
    down, up = pair
    return (output + linear(linear(states.float(), down[index]), up[index])).to(output.dtype)


def _factors(prior: Any, lora: Lora) -> Factors:
    """Return all factors in a few tensors, moved at once; absent ones are zero."""
    count = len(prior.transformer_blocks)
    rank = max(len(factor) for name, factor in lora.items() if ".lora_A." in name)
    like = prior.transformer_blocks[0].attn1.to_q.weight
    anyone = next(iter(lora.values()))

    def stacked(which: str) -> Tensor:
        shape = (rank, like.shape[1]) if which == "A" else (like.shape[0], rank)
        rows = []
        for index in range(count):
            for target in LORA_TARGETS:
                factor = lora.get(lora_name(index, target, which))
                if factor is None:
                    factor = anyone.new_zeros(shape)
                elif factor.shape != shape:  # of a lower rank
                    extra = rank - factor.shape[0 if which == "A" else 1]
                    factor = pad(factor, (0, 0, 0, extra) if which == "A" else (0, extra))
                rows.append(factor)
        together: Tensor = torch.stack(rows).unflatten(0, (count, 4))
        return together.to(like.device, torch.float32)

    downs, ups = stacked("A"), stacked("B")
    # B of the three projections as blocks on a diagonal
    blocks = torch.diag_embed(ups[:, :3].permute(0, 2, 3, 1)).permute(0, 3, 1, 4, 2)
    inner = downs[:, :3].flatten(1, 2), blocks.flatten(3, 4).flatten(1, 2)
    return Factors(inner, (downs[:, 3], ups[:, 3]))
