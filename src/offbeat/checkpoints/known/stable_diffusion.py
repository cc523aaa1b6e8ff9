"""Where Stable-Diffusion checkpoints are, what their folders hold, and what suits them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from offbeat.checkpoints.known.cards import is_turbo, read_card, suited
from offbeat.checkpoints.known.unclip import POCKET
from offbeat.checkpoints.pipeline import PipelineFolder, sides_of
from offbeat.checkpoints.single_file import open_pipeline
from offbeat.checkpoints.weights import PIPELINE_FILES
from offbeat.errors import CheckpointError

CHECKPOINTS: dict[str, str] = {
    "pocket-sd": str(POCKET / "stable_diffusion"),
    "sd-1.5": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "sd-turbo": "stabilityai/sd-turbo",
    "sdxl-turbo": "stabilityai/sdxl-turbo",
}
"""Name to where the pipeline is: a folder or a hub id."""

PIPELINES = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "LatentConsistencyModelPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
)
"""The pipelines of this form."""
FROM_PARENT = ("prompt_template", "concepts", "subjects", "judge")
"""What a pipeline inside an unCLIP checkpoint's folder takes from the card there."""

FILES = (*PIPELINE_FILES, "ip_adapter/*.safetensors")
"""What is fetched from the hub."""

ADAPTER = Path("ip_adapter") / "ip_adapter.safetensors"


def find(source: str | Path, config: str | Path | None = None) -> PipelineFolder:
    """Return the pipeline of a name, folder, hub id or single file with its ``config``.

    Raises:
        CheckpointError: If there is none, or its pipeline is of another form.
    """
    folder = open_pipeline(CHECKPOINTS.get(str(source), source), only=FILES, config=config)
    kind = folder.index.get("_class_name")
    if kind not in PIPELINES:
        raise CheckpointError(
            f"{source}: expected a pipeline of {', '.join(PIPELINES)}, got {kind}"
        )
    if folder.index.get("requires_aesthetics_score") or not folder.has("text_encoder"):
        raise CheckpointError(
            f"{source}: expected a pipeline that draws from noise, got a refiner of SDXL, which "
            "finishes pictures of another; name the base model (sdxl)"
        )
    return folder


def read_cards(folder: PipelineFolder) -> dict[str, Any]:
    """Return what ``card.json`` of a pipeline says, and of the checkpoint that it is a part of."""
    parent = folder.path.parent
    around = read_card(parent) if (parent / "prior").is_dir() else {}
    return {
        **{name: around[name] for name in FROM_PARENT if name in around},
        **read_card(folder.path),
    }


def defaults(folder: PipelineFolder, unet: Any, factor: int) -> dict[str, Any]:
    """Return the settings of a checkpoint that says nothing of itself."""
    height, width = sides_of(unet.config)
    # nothing else tells a model that was distilled to one step
    turbo = {"num_inference_steps": 1, "guidance_scale": 0.0}
    return {
        **suited(folder.index["_class_name"]),
        **(turbo if is_turbo(folder.path) else {}),
        "height": height * factor,
        "width": width * factor,
        "scheduler": folder.index["scheduler"][1],
    }


def digested(folder: PipelineFolder, file: str | Path | None) -> list[Path]:
    """Return the folders, and the file of a given IP-Adapter, that decide what is drawn."""
    used = [path for path in folder.paths() if path.name != "safety_checker"]
    adapter = folder.path / "ip_adapter" if file is None else Path(file)
    return [*used, *([adapter] if adapter.exists() else [])]
