"""Edits of a U-Net's attention: in it only while it predicts, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from offbeat.checkpoints.offload import uncompiled
from offbeat.errors import ShapeError
from offbeat.types import Attention, AttentionEdit


class Moment:
    """Which denoising step is running, and whether guidance doubles the batch."""

    def __init__(self) -> None:
        self.step = 0
        self.guided = False


@contextmanager
def edited(unet: Any, edits: Sequence[AttentionEdit], moment: Moment) -> Iterator[None]:
    """Let ``edits`` see and change every attention of ``unet`` in this block, in their order.

    It wraps the processors that are there, so an IP-Adapter goes on speaking.
    """
    if not edits:
        yield
        return
    before = unet.attn_processors
    wrapped = {name: _Edited(name, inner, edits, moment) for name, inner in before.items()}
    try:
        unet.set_attn_processor(wrapped)
        with uncompiled(unet):
            yield
    finally:
        unet.set_attn_processor(dict(before))  # it takes the entries out of what it is given


class _Edited:
    """Attention as ``AttnProcessor2_0`` of diffusers computes it, with edits before the softmax."""

    def __init__(
        self, name: str, inner: Any, edits: Sequence[AttentionEdit], moment: Moment
    ) -> None:
        self._layer = name.removesuffix(".processor")
        self._inner = inner
        self._edits = edits
        self._moment = moment

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        residual = hidden_states
        picture = None
        if isinstance(encoder_hidden_states, tuple):  # text, and what an IP-Adapter adds
            encoder_hidden_states, (picture,) = encoder_hidden_states
        if attention_mask is not None or attn.spatial_norm is not None or hidden_states.ndim != 3:
            raise ShapeError(
                f"{self._layer}: expected tokens [B, L, E] and no mask, got "
                f"{list(hidden_states.shape)}: this U-Net's attention cannot be edited"
            )
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        is_cross = encoder_hidden_states is not None
        context = encoder_hidden_states if is_cross else hidden_states
        if is_cross and attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        seen = Attention(
            layer=self._layer,
            is_cross=is_cross,
            step=self._moment.step,
            guided=self._moment.guided,
            query=_heads(attn, attn.to_q(hidden_states)),
            key=_heads(attn, attn.to_k(context)),
            value=_heads(attn, attn.to_v(context)),
        )
        for edit in self._edits:
            seen = edit(seen)
        mixed = F.scaled_dot_product_attention(
            seen.query, seen.key, seen.value, attn_mask=seen.bias
        )
        if picture is not None:
            mixed = mixed + self._of_picture(attn, seen.query, picture)
        merged = mixed.transpose(1, 2).flatten(2).to(residual.dtype)
        merged = attn.to_out[1](attn.to_out[0](merged))
        if attn.residual_connection:
            merged = merged + residual
        result: Tensor = merged / attn.rescale_output_factor
        return result

    def _of_picture(self, attn: Any, query: Tensor, picture: Tensor) -> Tensor:
        """Return what the IP-Adapter adds, from the edited query."""
        (scale,) = self._inner.scale
        if scale == 0:
            return torch.zeros_like(query)
        key, value = (
            _heads(attn, part[0](picture)) for part in (self._inner.to_k_ip, self._inner.to_v_ip)
        )
        # the projection gives one picture a row of its own: [B, 1, tokens, E]
        added: Tensor = scale * F.scaled_dot_product_attention(query, key, value)
        return added


def _heads(attn: Any, states: Tensor) -> Tensor:
    """Return ``[B, heads, L, d]`` of ``[B, L, heads * d]`` or ``[B, 1, L, heads * d]``."""
    return states.reshape(len(states), -1, attn.heads, states.shape[-1] // attn.heads).transpose(
        1, 2
    )
