"""Header metadata of weight files: Stability's ModelSpec, and the keys of kohya's scripts.

Galleries and user interfaces show both. Nothing here changes what a file draws.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PRIOR = "kandinsky-unclip-prior"
"""ModelSpec names no architecture of this family; diffusers' class is the nearest."""

KOHYA_BASES = {
    "stable-diffusion-v1": "sd_v1",
    "stable-diffusion-xl-v1-base": "sdxl_base_v1-0",
    "stable-diffusion-v3": "sd3",
    "flux-1": "flux1",
}


def architecture_of(encoders: Collection[str], *, has_prior: bool) -> str:
    """Return the family of a checkpoint, as ModelSpec names it.

    Args:
        encoders: Names of its text encoders.
        has_prior: Whether it draws by way of an embedding of the picture.
    """
    if has_prior:
        return PRIOR
    if "t5xxl" in encoders:
        return "stable-diffusion-v3" if "clip_g" in encoders else "flux-1"
    return "stable-diffusion-xl-v1-base" if "clip_g" in encoders else "stable-diffusion-v1"


def labels(about: Mapping[str, Any], kind: str) -> dict[str, str]:
    """Return header entries of a concept, of what ``formats`` says of it.

    Args:
        about: ``subject``, ``trigger``, ``method``, ``checkpoint``, ``fingerprint`` and, where they
            are known, ``architecture``, ``licence``, ``metadata`` and ``vocabulary``.
        kind: ``textual-inversion`` or ``lora``.
    """
    weights = about.get("metadata", {}).get("weights")
    told = [
        f"Learned by {about['method'] or 'Offbeat'} on {about['checkpoint']} "
        f"({about['fingerprint']})",
        f"weights: {weights}" if weights else "",
        f"vocabulary: {', '.join(about['vocabulary'])}" if about.get("vocabulary") else "",
    ]
    found = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{about.get('architecture') or PRIOR}/{kind}",
        "modelspec.implementation": "https://github.com/huggingface/diffusers",
        "modelspec.title": f"Unusual {about['subject']}",
        "modelspec.description": "; ".join(part for part in told if part),
        "modelspec.trigger_phrase": about["trigger"],
    }
    if about.get("licence"):
        found["modelspec.license"] = str(about["licence"])
    return found


def kohya_labels(about: Mapping[str, Any], rank: int) -> dict[str, str]:
    """Return the ``ss_`` entries of a LoRA in kohya's layout, with alpha = rank."""
    base = KOHYA_BASES.get(str(about.get("architecture")))
    return {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(float(rank)),
        "ss_sd_model_name": str(about["checkpoint"]),
        "ss_training_comment": json.dumps(
            {"made_by": "offbeat", "method": about["method"]}, sort_keys=True
        ),
        **({"ss_base_model_version": base} if base else {}),
    }


def versions() -> dict[str, str]:
    """Return the versions that results depend on, of offbeat and the libraries under it."""
    installed = {}
    for name in ("offbeat", "torch", "diffusers", "transformers"):
        try:
            installed[name] = version(name)
        except PackageNotFoundError:  # used from a source tree
            installed[name] = "unknown"
    return installed
