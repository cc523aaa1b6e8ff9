"""What suits each kind of checkpoint, and what ``card.json`` in a folder says instead."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from offbeat.checkpoints.weights import json_object
from offbeat.core.templates import PAPER_TEMPLATE
from offbeat.errors import CheckpointError

CARD = "card.json"
COMMON: dict[str, Any] = {
    "prompt_template": PAPER_TEMPLATE,
    "decode_batch_size": 4,
    "concepts": {},
    "subjects": {},
}
_SD = {"num_inference_steps": 50, "ip_adapter_scale": 1.0}
_FLOW = {"num_inference_steps": 28, "max_sequence_length": 256}
_LONG = {"max_sequence_length": 512}
SUITED: dict[str, dict[str, Any]] = {
    "unclip": {
        "prior_num_inference_steps": 25,
        "prior_guidance_scale": 4.0,
        "num_inference_steps": 50,
        "guidance_scale": 4.0,
        "height": 512,
        "width": 512,
    },
    "StableDiffusionPipeline": {**_SD, "guidance_scale": 7.5},
    "StableDiffusionImg2ImgPipeline": {**_SD, "guidance_scale": 7.5},
    "LatentConsistencyModelPipeline": {**_SD, "guidance_scale": 8.5, "num_inference_steps": 4},
    "StableDiffusionXLPipeline": {**_SD, "guidance_scale": 5.0},
    "StableDiffusionXLImg2ImgPipeline": {**_SD, "guidance_scale": 5.0},
    "one-step": {
        "num_inference_steps": 1,
        "timesteps": [800],
        "guidance_scale": 0.0,
        "prior_num_inference_steps": 1,
        "prior_guidance_scale": 0.0,
        "explore_prior_num_inference_steps": 1,
    },
    "sd3": {**_FLOW, "guidance_scale": 7.0},
    "sd3.5": {**_FLOW, "guidance_scale": 4.5, "num_inference_steps": 40},
    "flux": {
        **_FLOW,
        "guidance_scale": 3.5,
        "max_sequence_length": 512,
        "true_guidance_scale": 4.0,
    },
    "chroma": {**_FLOW, "guidance_scale": 5.0, "num_inference_steps": 35, **_LONG},
    "z-image": {**_FLOW, "guidance_scale": 5.0, "num_inference_steps": 50, **_LONG},
    "z-image-turbo": {**_FLOW, "guidance_scale": 0.0, "num_inference_steps": 9, **_LONG},
    "qwen-image": {**_FLOW, "guidance_scale": 4.0, "num_inference_steps": 50, **_LONG},
    "sana": {"guidance_scale": 4.5, "num_inference_steps": 20, "max_sequence_length": 300},
    "flux-schnell": {
        **_FLOW,
        "guidance_scale": 0.0,
        "num_inference_steps": 4,
        "true_guidance_scale": 4.0,
    },
}
"""By the publishers, for each kind or class of pipeline; ``card.json`` goes before it."""

LIMITS: dict[str, tuple[type, float, float]] = {
    "height": (int, 8, 16384),
    "width": (int, 8, 16384),
    "num_inference_steps": (int, 1, 1000),
    "prior_num_inference_steps": (int, 1, 1000),
    "explore_prior_num_inference_steps": (int, 1, 1000),
    "guidance_scale": (float, 0, 1000),
    "prior_guidance_scale": (float, 0, 1000),
    "explore_prior_guidance_scale": (float, 0, 1000),
    "true_guidance_scale": (float, 0, 1000),
    "ip_adapter_scale": (float, 0, 10),
    "decode_batch_size": (int, 1, 1000),
    "max_sequence_length": (int, 1, 8192),
}
"""Type and range of the numbers of a card."""
DRAWING = (
    "prompt_template",
    "prior_num_inference_steps",
    "prior_guidance_scale",
    "explore_prior_guidance_scale",
    "num_inference_steps",
    "guidance_scale",
    "height",
    "width",
    "max_sequence_length",
    "true_guidance_scale",
    "timesteps",
)
"""The entries of a card that change pictures; they are part of the fingerprint."""


def suited(kind: str) -> dict[str, Any]:
    """Return the card of a checkpoint of a kind that brings none."""
    return {**COMMON, **SUITED[kind]}


def is_turbo(folder: Path) -> bool:
    """Return whether a folder, or the hub id that it is of, is called turbo: nothing else tells."""
    names = [folder.name]
    if folder.parent.name == "snapshots":  # as the hub's cache lays them out
        names.append(folder.parent.parent.name)
    return any("turbo" in name.lower() for name in names)


def drawing_settings(card: Mapping[str, Any]) -> str:
    """Return what a card says that changes pictures, as canonical JSON."""
    return json.dumps({name: card[name] for name in DRAWING if name in card}, sort_keys=True)


def read_card(folder: Path) -> dict[str, Any]:
    """Return ``card.json`` of a folder, with where its classifier and trained files are.

    Raises:
        CheckpointError: If it is damaged, or an entry has another type or lies outside its range.
    """
    file = folder / CARD
    if not file.exists():
        return {}
    card = json_object(file, expected="a checkpoint's card")
    for name, value in card.items():
        if (expected := _fault(name, value)) is not None:
            raise CheckpointError(f"{file}: {name}: expected {expected}, got {str(value)[:80]!r}")
    if (folder / "judge" / "config.json").exists():
        card["judge"] = str(folder / "judge")
    trained = sorted((folder / "trained").glob("*.safetensors"))
    card["trained"] = {file.stem: str(file) for file in trained}
    return card


def _fault(name: str, value: Any) -> str | None:
    """Return what an entry should be; None if it is that, or if the entry is not known."""
    if name in LIMITS:
        kind, low, high = LIMITS[name]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        whole = kind is float or isinstance(value, int)
        if not (is_number and whole and low <= value <= high):
            return f"{'a whole number' if kind is int else 'a number'} from {low:g} to {high:g}"
    elif name == "prompt_template":
        if not isinstance(value, str) or "{subject}" not in value:
            return "text with {subject} in it"
    elif name in ("concepts", "subjects"):
        lists = value.values() if isinstance(value, dict) else [None]
        if not all(_is_texts(part) for part in lists):
            return "an object of lists of words"
    elif name == "timesteps":
        is_list = isinstance(value, list) and 0 < len(value) <= 1000
        if not (is_list and all(type(one) is int and 0 <= one < 100_000 for one in value)):
            return "a list of 1 to 1,000 timesteps"
    elif name in ("one_step_lora", "form", "licence", "name") and not isinstance(value, str):
        return "text"
    return None


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)
