"""LoRA factors of a frozen network: in it only while a block runs, its weights untouched.

Each sample of a batch may have factors of its own, so that many pictures are fitted at once.
Source: Hu et al., LoRA, arXiv:2106.09685; the layers are those of the diffusers scripts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from offbeat.checkpoints.offload import runs_on, uncompiled
from offbeat.core.checks import check_range
from offbeat.errors import ShapeError

TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""Projections of every attention layer that carry factors."""


def lora_name(layer: str, which: str) -> str:
    """Return the name that diffusers and PEFT give factor ``A`` or ``B`` of a layer."""
    return f"unet.{layer}.lora_{which}.weight"


def lora_layers(unet: Any) -> dict[str, Any]:
    """Return the projections that carry factors, by their name in the U-Net."""
    attentions = [name.removesuffix(".processor") for name in unet.attn_processors]
    return {
        f"{name}.{target}": unet.get_submodule(f"{name}.{target}")
        for name in attentions
        for target in TARGETS
    }


def init_lora(
    unet: Any, rank: int, generator: torch.Generator, *, layers: str = ""
) -> dict[str, Tensor]:
    """Return fresh factors: A ``[r, in]`` Kaiming-uniform as in PEFT, B ``[out, r]`` zero.

    Args:
        unet: What they are for.
        rank: r.
        generator: Of A.
        layers: What the names of the layers hold: ``.attn2.`` is cross-attention alone.
    """
    check_range("rank", rank, 1, 1024)
    factors = {}
    for name, layer in lora_layers(unet).items():
        if layers not in name:
            continue
        wide_out, wide_in = layer.weight.shape
        noise = torch.rand(rank, wide_in, generator=generator) * 2 - 1
        factors[lora_name(name, "A")] = noise * wide_in**-0.5
        factors[lora_name(name, "B")] = torch.zeros(wide_out, rank)
    return factors


@contextmanager
def lora_in(parts: Mapping[str, Any], lora: Mapping[str, Tensor] | None) -> Iterator[None]:
    """Let networks compute with factors in this block, alpha = rank; None changes nothing.

    What they add is computed in float32, and cast to the network's type with what it is added to.

    Args:
        parts: Frozen, by the names that begin those of their factors.
        lora: Of linear layers, A ``[r, in]`` and B ``[out, r]`` for all samples, or ``[B, r, in]``
            and ``[B, out, r]`` for each; of convolutions, as their weights are shaped. Gradients
            reach them.

    Raises:
        ShapeError: If a factor is of no layer, or lacks its other half.
    """
    if not lora:
        yield
        return
    with ExitStack() as hooks:
        for network in parts.values():
            hooks.enter_context(uncompiled(network))
        for name in lora:
            layer, _, end = name.rpartition(".lora_")
            module, other = _layer(parts, layer), "B" if end == "A.weight" else "A"
            half = f"{layer}.lora_{other}.weight"
            if module is None or end not in ("A.weight", "B.weight") or half not in lora:
                raise ShapeError(
                    f"lora: expected factors A and B of layers of {', '.join(parts) or 'nothing'}, "
                    f"got {name!r}"
                )
            if other == "B":
                device = runs_on(parts[name.partition(".")[0]])
                a, b = (lora[factor].to(device, torch.float32) for factor in (name, half))
                hook = _added(name, a, b)
                hooks.callback(module.register_forward_hook(hook).remove)
        yield


def _layer(parts: Mapping[str, Any], name: str) -> Any:
    part, _, inner = name.partition(".")
    try:
        return parts[part].get_submodule(inner)
    except (KeyError, AttributeError):
        return None


def _added(name: str, down: Tensor, up: Tensor) -> Any:
    def add(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        states, a, b = inputs[0].float(), down, up
        if a.ndim == 4:
            inner = conv2d(states, a, None, module.stride, module.padding, module.dilation)
            return (output + conv2d(inner, b)).to(output.dtype)
        if a.ndim == 3:
            if states.ndim != 3 or len(states) % len(a):
                raise ShapeError(
                    f"lora: expected factors of one sample, or of all {len(states)} of the batch, "
                    f"got {len(a)} in {name}"
                )
            times = len(states) // len(a)  # guidance doubles the batch: all unguided halves first
            a, b = a.repeat(times, 1, 1), b.repeat(times, 1, 1)
        return (output + states @ a.mT @ b.mT).to(output.dtype)

    return add
