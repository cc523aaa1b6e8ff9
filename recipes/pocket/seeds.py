"""Make the seeds of an earlier sitting from the weights that ship: ``recipes.pocket.seeds``.

A stage that finds its seed in ``WORK/resume`` and no checkpoint goes on from it. What the shipped
weights hold is read from them; the joint space lies beside this file.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from recipes.pocket import data, ip_adapter, loop, stable_diffusion
from safetensors.torch import load_file
from torch import Tensor

POCKET = Path(__file__).parents[2] / "src" / "offbeat" / "pocket"
KEPT = Path(__file__).parent / "seeds"
SHIPPED = {
    "unet": "decoder/unet/diffusion_pytorch_model.safetensors",
    "prior": "prior/prior/diffusion_pytorch_model.safetensors",
    "text": "prior/text_encoder/model.safetensors",
    "vision": "prior/image_encoder/model.safetensors",
    "redecode": "decoder/movq/diffusion_pytorch_model.safetensors",
    "stable_diffusion": "stable_diffusion/unet/diffusion_pytorch_model.safetensors",
}
"""Stage to its file. The judge's wide names are not shipped: its seed lies beside this file."""
ADAPTER = "stable_diffusion/ip_adapter/ip_adapter.safetensors"


def of(stage: str, checkpoint: Path) -> dict[str, Tensor]:
    """Return what a stage trains, under its own names."""
    weights = load_file(checkpoint / SHIPPED[stage])
    if stage == "text":
        named = {f"tower.{key}": value for key, value in weights.items()}
        return named | {"log_scale": torch.tensor(3.4)}
    if stage == "stable_diffusion":
        model = stable_diffusion.with_adapter()
        return weights | ip_adapter.into(model, load_file(checkpoint / ADAPTER))
    return weights


def main() -> None:
    """Write one seed a stage into ``WORK/resume``, and what other stages wait for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=data.work_folder())
    parser.add_argument("--checkpoint", type=Path, default=POCKET)
    options = parser.parse_args()
    work = options.work
    folder = work / loop.SEEDS
    folder.mkdir(parents=True, exist_ok=True)
    for stage in SHIPPED:
        weights = of(stage, options.checkpoint)
        loop.save_atomically({"ema": weights, "step": 0}, folder / f"{stage}.pt")
        if stage == "redecode":
            loop.save_atomically(loop.as_floats(weights), work / "whitened.pt")
    for file in sorted(KEPT.glob("*.pt")):
        shutil.copy(file, folder / file.name)
    shutil.copy(folder / "joint_map.pt", work / "joint_map.pt")
    (work / "text.done").touch()


if __name__ == "__main__":
    main()
