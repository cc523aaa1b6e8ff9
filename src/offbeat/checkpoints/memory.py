"""Whether a checkpoint fits into memory, before it is loaded, and what would make it fit.

Weights are counted. Activations follow a rule: a U-Net holds at most 26 maps of its first width
and of the latents' size at once, a transformer 16 vectors for each token, an autoencoder 6 maps of
its first width and of the picture's size, one with spatial norms 10. These numbers were measured on
the published configurations (SD 1.5, SDXL, Kandinsky 2.2, SD3, FLUX and their autoencoders), with
attention that keeps no matrix, and a quarter is added. One picture is assumed, twice with guidance:
larger batches are halved where they do not fit. A search that follows gradients needs more.
The same rule says how many pictures an accelerator draws at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from offbeat.checkpoints.pipeline import cell_of
from offbeat.checkpoints.placement import Placement, usable
from offbeat.checkpoints.quantize import BITS, is_large
from offbeat.checkpoints.sizes import Part, Survey, survey
from offbeat.checkpoints.trust import readable
from offbeat.errors import CheckpointError, DoesNotFitError

UNET_MAPS = 26
TRANSFORMER_VECTORS = 16
VAE_MAPS = 6
SPATIAL_VAE_MAPS = 10
MARGIN = 1.25
"""By which activations are multiplied: workspaces, and memory in pieces."""
RESERVE = 256 * 2**20
"""Bytes that are left to libraries."""
TEXT_TOKENS = 512
MOST_AT_ONCE = 64
"""Pictures of a batch, however much memory is free: more are no faster."""
GUIDED = 2
"""Predictions for one picture: with guidance and without."""
SIZES = {"auto": 4, "float32": 4, "bfloat16": 2, "float16": 2}
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
"""Types that become the type that is asked for; others stay."""
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that a placement takes."""

    device: int
    host: int
    """In the CPU's memory: there the weights are read, and wait if they are offloaded."""


def check_fits(source: str | Path, placement: Placement) -> None:
    """Refuse a checkpoint that does not fit, with what would.

    Args:
        source: Name, folder, hub id or file; loading reports what is not one of these.
        placement: With a device.

    Raises:
        DoesNotFitError: With what it needs, what is free, and which options would fit.
    """
    try:
        checkpoint = survey(source)
    except CheckpointError:
        return
    device = usable(placement.device)
    free, host = free_memory(device), free_memory(torch.device("cpu"))
    with readable(source):
        need = needed(checkpoint, placement)
    if _fits(need, free, host, device):
        return
    if device.type == "cpu" or free is None or need.device <= free:
        where, wanted, there = "the CPU's memory", need.host, host
    else:
        where, wanted, there = f"{device}", need.device, free
    raise DoesNotFitError(
        f"{source}: needs about {_gb(wanted)} in {where}, and {_gb(there or 0)} are free. "
        f"{_advice(checkpoint, placement, free, host, device)} --no-check-memory tries it "
        "all the same"
    )


def pictures_at_once(source: str | Path, placement: Placement) -> int | None:
    """Return how many pictures are drawn at once on an accelerator, its weights there already.

    They take half of what is free at most. It is a power of two, so that little differences of the
    free memory change no batch, and with it the rounding of no picture.

    Args:
        source: Name, folder, hub id or file.
        placement: With a device.

    Returns:
        1 to ``MOST_AT_ONCE``; None on the CPU, with offloaded weights, and where it cannot be said.
    """
    device = usable(placement.device)
    if device.type == "cpu" or placement.offload != "none" or not placement.check_memory:
        return None
    try:
        checkpoint = survey(source)
    except CheckpointError:
        return None
    free = free_memory(device)
    each = max((_activations(part, checkpoint, placement) for part in checkpoint.parts), default=0)
    if free is None or not each:
        return None
    fit = min(MOST_AT_ONCE, max(1, free // (2 * each)))
    return 1 << (int(fit).bit_length() - 1)


def needed(checkpoint: Survey, placement: Placement) -> Need:
    """Return what a checkpoint takes where it is placed, by the rule of this module."""
    weights = {
        part.name: _in_bits(
            weights_of(part, checkpoint, placement.dtype), part, checkpoint, placement
        )
        for part in checkpoint.parts
    }
    work = {part.name: _activations(part, checkpoint, placement) for part in checkpoint.parts}
    total, most = sum(weights.values()), max(work.values(), default=0)
    if placement.offload == "none":
        device = total + most
    else:
        kept = sum(weights[part.name] for part in checkpoint.parts if part.role == "image prompts")
        shown = {
            part.name: weights[part.name]
            if placement.offload == "model" or part.role == "prior"
            else _largest_layer(part, checkpoint, placement.dtype)
            for part in checkpoint.parts
        }
        device = kept + max((shown[name] + work[name] for name in shown), default=0)
    on_cpu = placement.device == "cpu"
    return Need(device + RESERVE, total + (most if on_cpu else 0) + RESERVE)


def weights_of(part: Part, checkpoint: Survey, dtype: str) -> int:
    """Return the bytes of a component's weights in a type."""
    width = SIZES[_dtype_of(part, checkpoint, dtype)]
    integers = {"I64": 8, "I32": 4, "I16": 2}
    return sum(
        count * (width if kind in FLOATS else integers.get(kind, 1))
        for kind, count in part.tensors.counts.items()
    )


def _in_bits(num_bytes: int, part: Part, checkpoint: Survey, placement: Placement) -> int:
    """Return the bytes of weights where they are quantised; all of them are counted as such."""
    if placement.quantize is None or not is_large(part.kind):
        return num_bytes
    width = SIZES[_dtype_of(part, checkpoint, placement.dtype)]
    return int(num_bytes * BITS[placement.quantize] / (8 * width))


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that are free on a device; None where it cannot be asked."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "xpu":
        return int(torch.xpu.mem_get_info(device)[0])
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    if device.type != "cpu":
        return None
    import psutil

    free = int(psutil.virtual_memory().available)
    limit = _free_in_container()
    return free if limit is None else min(free, limit)


def _free_in_container() -> int | None:
    """Return what a container's limit leaves, where there is one."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        if limit == "max":
            return None
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        used = int((CGROUP / "memory.current").read_text()) - int(stat.get("inactive_file", 0))
        return max(0, int(limit) - used)
    except (OSError, ValueError):
        return None


def options(checkpoint: Survey, placement: Placement) -> Iterator[tuple[str, Placement]]:
    """Yield ways to take less memory and how the command line says them, the mildest first."""
    offloads = ("none",) if placement.device == "cpu" else ("none", "model", "sequential")
    dtypes = dict.fromkeys((placement.dtype, "bfloat16"))
    tiles = dict.fromkeys((placement.vae_tiling, _can_tile(checkpoint)))
    for offload, dtype, tiling in product(offloads, dtypes, tiles):
        changed: dict[str, Any] = {"dtype": dtype, "offload": offload, "vae_tiling": tiling}
        if offload != "none":
            changed["compile"] = False
        words = [f"--dtype {dtype}"] if dtype != placement.dtype else []
        words += [f"--offload {offload}"] if offload != placement.offload else []
        words += ["--vae-tiling"] if tiling != placement.vae_tiling else []
        if words:
            yield " ".join(words), replace(placement, **changed)


def _advice(
    checkpoint: Survey,
    placement: Placement,
    free: int | None,
    host: int | None,
    device: torch.device,
) -> str:
    """Return which options fit, or the least that there is."""
    tried = [
        (words, needed(checkpoint, changed)) for words, changed in options(checkpoint, placement)
    ]
    fits = [(words, need) for words, need in tried if _fits(need, free, host, device)]
    on_cpu = device.type == "cpu"
    if fits:
        said = "; ".join(
            f"{words} ({_gb(need.host if on_cpu else need.device)})" for words, need in fits[:4]
        )
        return f"What would fit: {said}."
    said = "Nothing makes it fit here"
    if tried:
        words, need = min(tried, key=lambda one: one[1].host if on_cpu else one[1].device)
        least = need.host if on_cpu else need.device
        said += f": with {words} it needs {_gb(least)}"
    on_the_cpu = needed(checkpoint, Placement(device="cpu", dtype=placement.dtype))
    if not on_cpu and _fits(on_the_cpu, host, host, torch.device("cpu")):
        return f"{said}; on the CPU it fits ({_gb(on_the_cpu.host)}): --device cpu."
    return f"{said}. Choose a smaller checkpoint, or another machine."


def _fits(need: Need, free: int | None, host: int | None, device: torch.device) -> bool:
    on_host = host is None or need.host <= host
    return on_host and (device.type == "cpu" or free is None or need.device <= free)


def _dtype_of(part: Part, checkpoint: Survey, dtype: str) -> str:
    """Return the type of a component: some autoencoders stay in float32."""
    upcast = checkpoint.form == "stable-diffusion" and part.config.get("force_upcast", False)
    return "float32" if part.role == "autoencoder" and upcast else dtype


def _largest_layer(part: Part, checkpoint: Survey, dtype: str) -> int:
    return part.tensors.largest * SIZES[_dtype_of(part, checkpoint, dtype)]


def _activations(part: Part, checkpoint: Survey, placement: Placement) -> int:
    """Return the bytes of a component's activations at the checkpoint's own size."""
    numbers = {"denoiser": _denoiser_numbers, "autoencoder": _vae_numbers}.get(part.role)
    if numbers is None:
        return 0
    width = SIZES[_dtype_of(part, checkpoint, placement.dtype)]
    return int(MARGIN * width * numbers(part.config, checkpoint, placement))


def _denoiser_numbers(config: Mapping[str, Any], checkpoint: Survey, placement: Placement) -> int:
    vae = checkpoint.part("autoencoder")
    cell = cell_of(vae.config if vae is not None else {})
    cells = (checkpoint.height // cell) * (checkpoint.width // cell)
    if "block_out_channels" in config:
        return int(GUIDED * UNET_MAPS * config["block_out_channels"][0] * cells)
    width = int(config.get("num_attention_heads", 24)) * int(config.get("attention_head_dim", 64))
    return GUIDED * TRANSFORMER_VECTORS * width * (cells // 4 + TEXT_TOKENS)


def _vae_numbers(config: Mapping[str, Any], checkpoint: Survey, placement: Placement) -> int:
    height, width = checkpoint.height, checkpoint.width
    if placement.vae_tiling:
        tile = int(config.get("sample_size") or max(height, width))
        height, width = min(height, tile), min(width, tile)
    maps = SPATIAL_VAE_MAPS if config.get("norm_type") == "spatial" else VAE_MAPS
    return int(maps * config.get("block_out_channels", (128,))[0] * height * width)


def _can_tile(checkpoint: Survey) -> bool:
    """Return whether tiles are smaller than the pictures."""
    vae = checkpoint.part("autoencoder")
    if vae is None or vae.kind != "AutoencoderKL":
        return False
    tile = int(vae.config.get("sample_size") or 0)
    return 0 < tile < max(checkpoint.height, checkpoint.width)


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
