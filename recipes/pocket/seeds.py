"""Make the seeds of an earlier sitting from the weights that ship: ``recipes.pocket.seeds``.

A stage that finds its seed in ``WORK/resume`` and no checkpoint goes on from it. What the shipped
weights hold is read from them; three files beside this one hold the rest (the joint space, the
autoencoder before its spread is folded in, the text tower with its scale).
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from recipes.pocket import data, loop
from safetensors.torch import load_file

POCKET = Path(__file__).parents[2] / "src" / "offbeat" / "pocket"
KEPT = Path(__file__).parent / "seeds"
SHIPPED = {
    "unet": ("decoder/unet/diffusion_pytorch_model.safetensors", 3159, 70.0),
    "prior": ("prior/prior/diffusion_pytorch_model.safetensors", 3500, 45.2),
    "vision": ("prior/image_encoder/model.safetensors", 913, 16.0),
    "judge": ("judge/model.safetensors", 1087, 6.2),
    "redecode": ("decoder/movq/diffusion_pytorch_model.safetensors", 142, 0.75),
    "stable_diffusion": (
        "stable_diffusion/unet/diffusion_pytorch_model.safetensors",
        2869,
        63.1,
    ),
    "ip_adapter": ("stable_diffusion/ip_adapter/ip_adapter.safetensors", 3521, 55.0),
}
"""Stage to its file, the steps and the core-minutes that it had."""
PREFIXES = {"redecode": ("decoder.", "post_quant_conv.")}
"""The part of a file that a stage trains, where it is not the whole."""


def main() -> None:
    """Write one seed a stage into ``WORK/resume``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=data.work_folder())
    folder = parser.parse_args().work / loop.SEEDS
    folder.mkdir(parents=True, exist_ok=True)
    for stage, (file, step, minutes) in SHIPPED.items():
        weights = load_file(POCKET / file)
        kept = {k: v for k, v in weights.items() if k.startswith(PREFIXES.get(stage, ""))}
        seed = {"ema": kept, "step": step, "minutes": minutes}
        loop.save_atomically(seed, folder / f"{stage}.pt")
    for file in sorted(KEPT.glob("*.pt")):
        shutil.copy(file, folder / file.name)


if __name__ == "__main__":
    main()
