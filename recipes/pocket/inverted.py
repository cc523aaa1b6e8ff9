"""Invert held-out drawings and draw them again: ``python -m recipes.pocket.inverted``.

DDIM inversion of the Stable-Diffusion form, through the package itself, on pictures of (concept,
style) pairs that no stage was trained on.
"""

from __future__ import annotations

import argparse
import json

import torch
from recipes.pocket import data, views

from offbeat.backbones.stable_diffusion.adapter import StableDiffusionBackbone
from offbeat.core.rng import stream

NUM_DRAWINGS, NUM_STEPS = 32, 30


@torch.no_grad()
def main() -> None:
    """Print PSNR, mean, deviation and lowest, dB, for the autoencoder and for inversions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    backbone = StableDiffusionBackbone.load("pocket-sd")
    pictures = data.load()
    rows = pictures.rows(held_out=True)
    rows = rows[:: len(rows) // NUM_DRAWINGS][:NUM_DRAWINGS]
    images = views.clean(pictures, rows)
    text = backbone.encode_text([""])
    found = {"autoencoder": backbone.decode(backbone.encode_latents(images))}
    settings = {"num_inference_steps": NUM_STEPS, "guidance_scale": 1.0}
    for times in (0, 1):
        way = backbone.invert(images, text, num_refinements=times, **settings)
        again = backbone.denoise(way[0], text, generator=stream(0), sampler="ddim", **settings)
        found[f"{NUM_STEPS} steps, refined {times} times"] = backbone.decode(again)
    table = {}
    for name, drawn in found.items():
        psnr = -10 * (drawn - images).square().mean(dim=(1, 2, 3)).log10()
        values = {"mean": psnr.mean(), "deviation": psnr.std(), "lowest": psnr.min()}
        table[name] = {key: round(float(value), 1) for key, value in values.items()}
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
