"""LoRA files: their factors as they are named there, with alpha = rank; and kohya's names for ours.

Ours are those of PEFT: ``unet.X.lora_A.weight`` for a U-Net, ``X.lora_A.weight`` for a prior. kohya
writes ``lora_unet_X.lora_down.weight`` with underscores for dots, and alpha. What the names mean
for a checkpoint is the matter of ``checkpoints.lora``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offbeat.errors import ConfigError, CorruptRunError, NotFiniteError, ShapeError, StoreError
from offbeat.files.disk import digest_of, parse_json

UNET = "unet."
PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""What PEFT writes into a folder."""
MAX_BYTES = 2**33
"""Factors of the largest published checkpoints take a few gigabytes; what is larger is weights."""

_A = re.compile(r"(.+)\.(?:lora_down|lora_A|lora_A\.default|down)\.weight")
_B = re.compile(r"(.+)\.(?:lora_up|lora_B|lora_B\.default|up)\.weight")
_SCALES = (".dora_scale", ".lora_magnitude_vector", ".lora_magnitude_vector.weight")
"""Ends of the names of DoRA's magnitudes."""
_OTHERS = {
    ".hada_w1_a": "LoHa",
    ".lokr_w1": "LoKr",
    ".lokr_w1_a": "LoKr",
    ".on_input": "IA3",
    ".oft_blocks": "OFT",
    ".lora_mid.weight": "LoCon with a Tucker core",
    ".diff": "differences of whole weights",
}
"""Ends of names, and the kind of file that has them, of what cannot be used."""


@dataclass(frozen=True, slots=True)
class LoraFile:
    """A LoRA to be merged into a checkpoint, and how strongly."""

    path: str
    scale: float = 1.0
    digest: str = ""
    """What its content must be; empty is whatever it is."""

    @classmethod
    def parse(cls, text: str | Path | LoraFile) -> LoraFile:
        """Return what ``FILE``, ``FOLDER`` or ``FILE:0.8`` says.

        Raises:
            ConfigError: If it is no text, or the strength is not from -10 to 10 and not 0.
        """
        if isinstance(text, LoraFile | Path):
            return text if isinstance(text, LoraFile) else cls(str(text))
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f"lora: expected FILE or FILE:STRENGTH, got {text!r}")
        path, sign, number = text.rpartition(":")
        try:
            scale = float(number) if sign and path else None
        except ValueError:
            scale = None
        if scale is None:  # a colon may be a part of the name
            return cls(text)
        if not -10 <= scale <= 10 or scale == 0:
            raise ConfigError(
                f"lora: expected a strength from -10 to 10 that is not 0, got {number} in {text!r}"
            )
        return cls(path, scale)


def is_lora(names: Iterable[str]) -> bool:
    """Return whether a file's entries are factors of a LoRA, or of one of its kin."""
    ends = (*_SCALES, *_OTHERS)
    return any(
        name.endswith(ends) or ("lora" in name and (_A.fullmatch(name) or _B.fullmatch(name)))
        for name in names
    )


def read_lora_file(path: str | Path) -> tuple[dict[str, Tensor], str]:
    """Return the factors of a file or of PEFT's folder, and a digest of its content.

    Raises:
        StoreError: If it cannot be read.
        CorruptRunError: If it is damaged, or no LoRA.
        ShapeError: If it is a kind that cannot be used.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    file = weights_file(Path(path).expanduser())
    data = read_learned(file)
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, ValueError) as error:
        raise CorruptRunError(
            f"{file}: expected a safetensors file of LoRA factors, and it is cut, damaged or of "
            f"another kind ({error})"
        ) from error
    return read_factors(tensors, with_config(header.get("__metadata__"), file), str(file)), (
        digest_of(data)
    )


def read_learned(path: Path) -> bytes:
    """Return the content of a file with a token or LoRA factors.

    Raises:
        ConfigError: If it is as large as a checkpoint.
        StoreError: If there is no such file, or it cannot be read.
    """
    if path.exists() and not path.is_file():  # a device would be read for ever
        raise StoreError(f"{path}: cannot be read (expected a file)")
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ConfigError(
                f"{path}: expected a token or LoRA factors, got {size / 2**30:.1f} GiB: is it a "
                "whole checkpoint? Name such a one with --backbone"
            )
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror or error})") from error


def weights_file(path: Path) -> Path:
    """Return the file with the weights of a folder of PEFT or diffusers; a file is itself."""
    if not path.is_dir():
        return path
    names = (PEFT_WEIGHTS, "pytorch_lora_weights.safetensors")
    return next((path / name for name in names if (path / name).is_file()), path)


def with_config(header: Mapping[str, str] | None, file: Path) -> dict[str, str]:
    """Return a file's header, with the settings that PEFT keeps beside it if it says none."""
    beside = file.parent / PEFT_CONFIG
    entries = dict(header or {})
    if "lora_adapter_metadata" not in entries and file.name == PEFT_WEIGHTS and beside.is_file():
        entries["lora_adapter_metadata"] = read_learned(beside).decode(errors="replace")
    return entries


def read_factors(
    tensors: Mapping[str, Tensor], header: Mapping[str, str], file: str
) -> dict[str, Tensor]:
    """Return factors under the names that the file gives them, float32, with alpha = rank.

    Where alpha is not the rank, B is multiplied by their ratio: so the layers compute the same.
    Magnitudes of a DoRA stay beside their factors.

    Raises:
        CorruptRunError: If it holds no factors, or one lacks its other half.
        NotFiniteError: If a number is NaN or infinite.
        ShapeError: If it is a kind that cannot be used, or two factors do not fit each other.
    """
    kind = next((k for end, k in _OTHERS.items() for name in tensors if name.endswith(end)), None)
    if kind is not None:
        raise ShapeError(
            f"{file}: holds {kind}, which cannot be used; Offbeat takes LoRA and DoRA. Convert it "
            "to a LoRA by its trainer's tools, or train one"
        )
    downs = {match[1]: name for name in tensors if (match := _A.fullmatch(name))}
    ups = {match[1]: name for name in tensors if (match := _B.fullmatch(name))}
    if not downs and not ups:
        got = ", ".join(sorted(tensors)[:3]) or "nothing"
        raise CorruptRunError(f"{file}: expected LoRA factors, got {got}")
    if lone := sorted(downs.keys() ^ ups.keys()):
        raise CorruptRunError(f"{file}: {lone[0]} lacks one of its two factors")
    scale = _peft_scales(header, file)
    factors = {}
    for layer, name in downs.items():
        a, b = tensors[name].float(), tensors[ups[layer]].float()
        if a.ndim not in (2, 4) or a.ndim != b.ndim or not 0 < len(a) == b.shape[1]:
            raise ShapeError(
                f"{file}: {layer}: expected factors [r, in] and [out, r], or of a convolution, got "
                f"{list(a.shape)} and {list(b.shape)}"
            )
        alpha = tensors.get(f"{layer.removesuffix('.lora')}.alpha")
        if alpha is not None and alpha.numel() != 1:
            raise ShapeError(f"{file}: {layer}: expected one alpha, got {list(alpha.shape)}")
        ratio = scale(layer) if alpha is None else float(alpha) / len(a)
        factors[name] = a
        factors[ups[layer]] = b if ratio == 1 else b * ratio
    for name, tensor in tensors.items():
        if name.endswith(_SCALES):
            factors[name] = tensor.float()
    if bad := next((name for name, part in factors.items() if not part.isfinite().all()), None):
        raise NotFiniteError(f"{file}: {bad} contains NaN or infinity")
    return factors


def _peft_scales(header: Mapping[str, str], file: str) -> Callable[[str], float]:
    """Return a function from a layer to alpha over rank, of what PEFT's settings say.

    diffusers puts the part before each name, ``unet.lora_alpha``: a layer goes by those of its own.
    """
    text = header.get("lora_adapter_metadata")
    if text is None:
        return lambda layer: 1.0
    parts: dict[str, dict[str, Any]] = {}
    try:
        for name, value in parse_json(text).items():
            part, _, setting = name.rpartition(".")
            parts.setdefault(part, {})[setting] = value
        scales = {part: _scale_of(settings) for part, settings in parts.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptRunError(f"{file}: its LoRA settings are damaged ({error})") from error

    def scale(layer: str) -> float:
        part = next((part for part in scales if layer.startswith(f"{part}.")), "")
        return scales[part](layer) if part in scales else 1.0

    return scale


def _scale_of(settings: Mapping[str, Any]) -> Callable[[str], float]:
    """Return alpha over rank by layer, of the settings of one network.

    Raises:
        ValueError: Or another, if they are no settings.
    """
    alphas, ranks = (
        {str(name).lstrip("^"): float(v) for name, v in (settings.get(key) or {}).items()}
        for key in ("alpha_pattern", "rank_pattern")
    )
    alpha, rank = float(settings.get("lora_alpha", 1)), float(settings.get("r", 1))
    if min(rank, *ranks.values(), 1.0) <= 0:
        raise ValueError("a rank is not above 0")
    power = 0.5 if settings.get("use_rslora") else 1.0

    def scale(layer: str) -> float:
        def of(patterns: Mapping[str, float], usual: float) -> float:
            return next((v for name, v in patterns.items() if layer.endswith(name)), usual)

        return float(of(alphas, alpha) / of(ranks, rank) ** power)

    return scale


def to_kohya(lora: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return factors of ours in kohya's names, with alpha = rank.

    Raises:
        ConfigError: If they are of a transformer, for which kohya has other names for its layers.
        ShapeError: If a name is not ``...lora_A.weight`` or ``...lora_B.weight``.
    """
    prefixes = dict(KOHYA_PREFIXES)
    if any(name.startswith("text_encoder_2.") for name in lora):
        prefixes["text_encoder."] = "lora_te1_"
    renamed: dict[str, Tensor] = {}
    for name, factor in lora.items():
        match = re.fullmatch(r"(.+)\.lora_([AB])\.weight", name)
        if match is None:
            raise ShapeError(f"lora: expected factors in PEFT's names, got {name!r}")
        layer, which = match.groups()
        if layer.startswith("transformer."):
            raise ConfigError(
                "format: kohya's names are written for U-Nets and priors; for a transformer choose "
                "--format diffusers"
            )
        prefix = next((p for p in prefixes if p and layer.startswith(p)), "")
        stem = prefixes[prefix] + layer.removeprefix(prefix).replace(".", "_")
        renamed[f"{stem}.lora_{'down' if which == 'A' else 'up'}.weight"] = factor
        if which == "A":
            renamed[f"{stem}.alpha"] = torch.tensor(float(len(factor)))
    return renamed


KOHYA_PREFIXES = {
    UNET: "lora_unet_",
    "text_encoder.": "lora_te_",
    "text_encoder_2.": "lora_te2_",
    "": "lora_prior_",
}
"""Of our names, and of kohya's for the same part."""


def rank_of(lora: Mapping[str, Tensor]) -> int:
    """Return the largest rank among factors."""
    return max(len(factor) for name, factor in lora.items() if ".lora_A." in name)
