"""Where unCLIP checkpoints are, what their folders hold, and what suits them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from offbeat.backbones._images import read_pixel_stats
from offbeat.backbones._loading import PipelineFolder, locate
from offbeat.errors import CheckpointError
from offbeat.templates import PAPER_TEMPLATE

POCKET = Path(__file__).parent.parent / "pocket"
"""The checkpoint that comes with the package."""

CHECKPOINTS: dict[str, tuple[str, str]] = {
    "pocket": (str(POCKET / "prior"), str(POCKET / "decoder")),
    "kandinsky-2.1": (
        "kandinsky-community/kandinsky-2-1-prior",
        "kandinsky-community/kandinsky-2-1",
    ),
    "kandinsky-2.2": (
        "kandinsky-community/kandinsky-2-2-prior",
        "kandinsky-community/kandinsky-2-2-decoder",
    ),
}
"""Name to where the prior and the decoder are: a folder or a hub id each."""

DEFAULT_CARD: dict[str, Any] = {
    "prompt_template": PAPER_TEMPLATE,
    "prior_num_inference_steps": 25,
    "prior_guidance_scale": 4.0,
    "num_inference_steps": 50,
    "guidance_scale": 4.0,
    "height": 512,
    "width": 512,
    "decode_batch_size": 4,
    "concepts": {},
    "subjects": {},
}
"""What suits a checkpoint that brings no ``card.json``: Kandinsky's own settings."""


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
)
"""The entries of a card that change pictures; they are part of the fingerprint."""


def drawing_settings(card: dict[str, Any]) -> str:
    """Return what a card says that changes pictures, as canonical JSON."""
    return json.dumps({name: card[name] for name in DRAWING if name in card}, sort_keys=True)


def find(source: str | Path) -> tuple[Path, Path]:
    """Return the folders of a checkpoint's prior and decoder.

    Raises:
        CheckpointError: If there is no such name or folder.
    """
    if str(source) in CHECKPOINTS:
        prior, decoder = CHECKPOINTS[str(source)]
        return locate(prior), locate(decoder)
    folder = locate(source)
    where = (folder / "prior", folder / "decoder")
    if not all(part.is_dir() for part in where):
        raise CheckpointError(
            f"{source}: expected a folder with prior/ and decoder/, each a pipeline folder of "
            "diffusers, as in the bundled checkpoint, or one with the model_index.json of a "
            "Stable Diffusion pipeline"
        )
    return where


def load_prior(folder: PipelineFolder, dtype: torch.dtype) -> dict[str, Any]:
    """Return the prior's components and its pixel settings."""
    modules = {
        name: folder.load(name, dtype=dtype) for name in ("text_encoder", "image_encoder", "prior")
    }
    return {
        **modules,
        "tokenizer": folder.load("tokenizer"),
        "scheduler": folder.load("scheduler"),
        "pixels": read_pixel_stats(folder.path / "image_processor"),
    }


def load_decoder(folder: PipelineFolder, dtype: torch.dtype) -> dict[str, Any]:
    """Return the decoder's components, in 2.1 with its text encoder."""
    parts: dict[str, Any] = {
        "unet": folder.load("unet", dtype=dtype),
        "movq": folder.load("movq", dtype=dtype),
        "scheduler": folder.load("scheduler"),
    }
    if folder.has("text_encoder"):  # Kandinsky 2.1
        parts["text"] = (folder.load("tokenizer"), folder.load("text_encoder", dtype=dtype))
    return parts


def read_card(folder: Path) -> dict[str, Any]:
    """Return ``card.json`` of a folder, with where its classifier and trained files are."""
    file = folder / "card.json"
    if not file.exists():
        return {}
    try:
        card = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read as JSON ({error})") from error
    if not isinstance(card, dict):
        raise CheckpointError(f"{file}: expected a JSON object, got {type(card).__name__}")
    if (folder / "judge" / "config.json").exists():
        card["judge"] = str(folder / "judge")
    trained = sorted((folder / "trained").glob("*.safetensors"))
    card["trained"] = {file.stem: str(file) for file in trained}
    return card
