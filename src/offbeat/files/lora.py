"""LoRA factors in the layouts of diffusers and PEFT, and of kohya's scripts.

Ours are those of PEFT with alpha = rank: ``unet.X.lora_A.weight`` for a U-Net, ``X.lora_A.weight``
for a prior. kohya writes ``lora_unet_X.lora_down.weight`` with underscores for dots, and alpha.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from offbeat.errors import CorruptRunError, ShapeError
from offbeat.files.disk import parse_json

UNET, PRIOR = "unet.", ""
_KOHYA = {UNET: "lora_unet_", PRIOR: "lora_prior_"}
_WORDS = (
    "down_blocks",
    "up_blocks",
    "mid_block",
    "transformer_blocks",
    "time_emb_proj",
    "conv_shortcut",
    "add_q_proj",
    "add_k_proj",
    "add_v_proj",
    "to_add_out",
    "proj_in",
    "proj_out",
    "to_out",
    "to_q",
    "to_k",
    "to_v",
)
"""Names of modules that have an underscore themselves, in U-Nets and priors of diffusers."""


def is_lora(names: Mapping[str, Any]) -> bool:
    """Return whether a file's entries are factors of a LoRA, in any layout."""
    return any(re.search(r"\.lora_(A|B|down|up)\.|\.lora\.(down|up)\.", name) for name in names)


def to_kohya(lora: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return factors in kohya's names, with alpha = rank.

    Raises:
        ShapeError: If a name is not ``...lora_A.weight`` or ``...lora_B.weight``.
    """
    renamed: dict[str, Tensor] = {}
    for name, factor in lora.items():
        match = re.fullmatch(r"(.+)\.lora_([AB])\.weight", name)
        if match is None:
            raise ShapeError(f"lora: expected factors in PEFT's names, got {name!r}")
        layer, which = match.groups()
        prefix = UNET if layer.startswith(UNET) else PRIOR
        stem = _KOHYA[prefix] + layer.removeprefix(prefix).replace(".", "_")
        renamed[f"{stem}.lora_{'down' if which == 'A' else 'up'}.weight"] = factor
        if which == "A":
            renamed[f"{stem}.alpha"] = torch.tensor(float(len(factor)))
    return renamed


def read_factors(
    tensors: Mapping[str, Tensor], header: Mapping[str, str], file: str
) -> dict[str, Tensor]:
    """Return factors in our names with alpha = rank, whatever layout and alpha the file has.

    Where alpha is not the rank, B is multiplied by their ratio: so the layers compute the same.

    Raises:
        CorruptRunError: If an entry is no factor, or lacks its other half.
        ShapeError: If one is of a convolution, or belongs to a text encoder.
    """
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer, which = _place_of(name, file)
        pairs.setdefault(layer, {})[which] = tensor
    scales = _peft_scales(header, file)
    factors = {}
    for layer, parts in pairs.items():
        if not {"A", "B"} <= set(parts):
            raise CorruptRunError(f"{file}: {layer} lacks one of its two factors")
        a, b = (parts[which].float() for which in ("A", "B"))
        if a.ndim != 2 or b.ndim != 2 or len(a) != b.shape[1]:
            raise ShapeError(
                f"{file}: {layer}: expected factors [r, in] and [out, r], got {list(a.shape)} and "
                f"{list(b.shape)}; factors of convolutions cannot be used"
            )
        alpha = parts.get("alpha")
        scale = float(alpha) / len(a) if alpha is not None else scales(layer)
        factors[f"{layer}.lora_A.weight"] = a
        factors[f"{layer}.lora_B.weight"] = b if scale == 1 else b * scale
    return factors


_HALVES = {
    "lora_A": "A",
    "lora_down": "A",
    "lora.down": "A",
    "lora_B": "B",
    "lora_up": "B",
    "lora.up": "B",
}


def _place_of(name: str, file: str) -> tuple[str, str]:
    """Return the layer of an entry, in our names, and whether it is A, B or alpha."""
    halves = "|".join(map(re.escape, _HALVES))
    match = re.fullmatch(rf"(.+)\.(?:({halves})\.weight|alpha)", name)
    if match is None:
        raise CorruptRunError(
            f"{file}: expected LoRA factors alone, got {name!r} too; LoHa, LoKr and DoRA cannot be "
            "used"
        )
    layer, half = match.groups()
    if layer.startswith(("lora_te", "text_encoder")):
        raise ShapeError(
            f"{file}: holds factors of a text encoder ({name}); Offbeat draws with those of the "
            "U-Net or the prior alone: leave them out when you train or convert it"
        )
    return _dotted(layer, file), _HALVES[half] if half else "alpha"


def _dotted(layer: str, file: str) -> str:
    """Return a layer's name with dots, of kohya's with underscores."""
    for prefix, own in _KOHYA.items():
        if not layer.startswith(own):
            continue
        words = layer.removeprefix(own)
        if re.match(r"(input_blocks|output_blocks|middle_block)_", words):
            raise ShapeError(
                f"{file}: its layers have the names of Stability's code ({layer}); load it in "
                "diffusers and save it with save_lora_weights, then import that"
            )
        kept = re.compile("|".join(map(re.escape, _WORDS)))
        dotted = kept.sub(lambda found: found[0].replace("_", "\0"), words).replace("_", ".")
        return prefix + dotted.replace("\0", "_")
    return layer.removesuffix(".processor")


def _peft_scales(header: Mapping[str, str], file: str) -> Any:
    """Return a function from a layer to alpha over rank, of what diffusers says in the header."""
    text = header.get("lora_adapter_metadata")
    if text is None:
        return lambda layer: 1.0
    try:
        scales = {name.rpartition(".")[2]: value for name, value in parse_json(text).items()}
        alphas, ranks = scales.get("alpha_pattern") or {}, scales.get("rank_pattern") or {}
        alpha, rank = float(scales.get("lora_alpha", 1)), float(scales.get("r", 1))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptRunError(f"{file}: its LoRA settings are damaged ({error})") from error
    if scales.get("use_dora"):
        raise ShapeError(f"{file}: is a DoRA, which cannot be used; give a plain LoRA")

    def scale(layer: str) -> float:
        def own(patterns: Mapping[str, Any], usual: float) -> float:
            fits = (value for name, value in patterns.items() if layer.endswith(name))
            return float(next(fits, usual))

        return own(alphas, alpha) / own(ranks, rank)

    return scale


def rank_of(lora: Mapping[str, Tensor]) -> int:
    """Return the largest rank among factors."""
    return max(len(factor) for name, factor in lora.items() if ".lora_A." in name)
