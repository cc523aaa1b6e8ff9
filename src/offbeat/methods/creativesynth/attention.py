"""CreativeSynth's edits of self-attention: ArtBN of queries and keys, shared keys and values.

The rows of a batch are streams. The pinned ones come first, the artwork at their head; the others
are the pictures that are painted. A pinned stream is never changed: what is appended to its keys
are its own once more, and they move no softmax.
Its equations are in ``equations.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from offbeat.methods.creativesynth.equations import art_bn, shared
from offbeat.types import Attention


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """An edit of attention: what the painted streams take from the pinned ones."""

    num_pinned: int
    """Streams at the head of the batch that are left alone: the artwork, then the content."""
    norm: str
    """``art``, ``as_printed``, ``plain`` (the form of one input) or ``off``."""
    share: bool
    """Whether keys and values of the pinned streams are appended."""
    layers: tuple[str, ...]
    """Parts of the U-Net that are edited: ``down``, ``mid``, ``up``."""
    steps: range
    """Denoising steps that are edited."""
    key_shift: float = 0.0
    """Added to the logits of the artwork's keys."""
    key_scale: float = 1.0
    """Factor of the artwork's keys."""

    def __call__(self, attention: Attention) -> Attention:
        """Return one layer's attention, edited if it is among those asked for."""
        part = attention.layer.partition("_")[0]
        if attention.is_cross or part not in self.layers or attention.step not in self.steps:
            return attention
        pinned = self.num_pinned
        query, key = attention.query[pinned:], attention.key[pinned:]
        art_query, art_key = attention.query[:1], attention.key[:1]
        if self.norm == "plain":
            query, key = art_bn(query), art_bn(key)
        elif self.norm == "art":
            query, key = art_bn(query, art_query), art_bn(key, art_key)
        elif self.norm == "as_printed":  # the artwork's, with the statistics of the other stream
            query, art_key = art_bn(art_query, query), art_bn(art_key, key)
        query = torch.cat([attention.query[:pinned], query])
        key = torch.cat([attention.key[:pinned], key])
        if not self.share:
            return replace(attention, query=query, key=key)
        return self._shared(replace(attention, query=query, key=key), art_key * self.key_scale)

    def _shared(self, attention: Attention, art_key: Tensor) -> Attention:
        """Return attention with the pinned streams' keys and values appended."""
        pinned, length = self.num_pinned, attention.key.shape[2]
        painted = len(attention.key) - pinned
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for row in range(pinned):
            own_key, own_value = attention.key[:pinned], attention.value[:pinned]
            other = attention.key[row : row + 1] if row else art_key
            other = other.expand(painted, -1, -1, -1)
            keys.append(torch.cat([own_key, other]))
            other = attention.value[row : row + 1].expand(painted, -1, -1, -1)
            values.append(torch.cat([own_value, other]))
        bias = attention.bias
        if self.key_shift:
            bias = attention.key.new_zeros(1, 1, 1, length * (1 + pinned))
            bias[..., length : 2 * length] = self.key_shift
        key, value = shared(attention.key, keys), shared(attention.value, values)
        return replace(attention, key=key, value=value, bias=bias)
