"""Write the checkpoint that the library loads: ``python -m recipes.pocket.export``.

Layout: ``prior/`` and ``decoder/`` as diffusers saves the two pipelines of Kandinsky 2.2,
``judge/`` (written by its own stage) and ``card.json``. Seeds to train on from go to
``WORK/resume``.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import KandinskyV22Pipeline, KandinskyV22PriorPipeline
from recipes.pocket import autoencoder, data, judge, loop, prior, sources, text, unet, vision, words

SUBJECTS = {
    "pet": "pet",
    "vehicle": "vehicle",
    "building": "building",
    "fruit": "fruit",
    "animal": "animal",
    "bird": "bird",
    "flower": "flower",
}
"""Broad subjects and the coarse class whose concepts are their members."""
LARGEST_FILE = 16_000_000
STAGES = ("judge", "autoencoder", "redecode", "text", "vision", "prior", "unet", "stable_diffusion")


def card(steps: int) -> dict:
    """Return what the library must know about the weights."""
    table = data.concept_table()
    members = {
        subject: [name for name, row in table.items() if label in row["classes"]]
        for subject, label in SUBJECTS.items()
    }
    return {
        "name": "pocket",
        "prompt_template": "a picture of a {subject}",
        "max_prompt_tokens": words.NUM_POSITIONS,
        "prior_guidance_scale": 1.5,
        "prior_num_inference_steps": 10,
        "guidance_scale": 3.0,
        "num_inference_steps": 20,
        "height": 64,
        "width": 64,
        "concepts": {name: row["classes"] for name, row in table.items()},
        "subjects": members,
        "styles": list(sources.STYLES),
        "licence": "Weights Apache-2.0; drawings Apache-2.0, MIT, CC-BY-4.0: ATTRIBUTIONS.md.",
        "notes": f"Decoder trained for {steps} steps on 131 concepts; see recipes/pocket/NOTES.md.",
    }


def main() -> None:
    """Assemble both pipelines from the averaged weights of all stages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=data.work_folder(), help="folder of caches")
    parser.add_argument("--out", type=Path, help="target; default: WORK/export")
    options = parser.parse_args()
    out = options.out or options.work / "export"
    save_pipelines(options.work, out)
    save_seeds(options.work)
    step = torch.load(options.work / "unet.pt", weights_only=True)["step"]
    (out / "card.json").write_text(json.dumps(card(step), indent=1) + "\n")
    (out / "ATTRIBUTIONS.md").write_text(data.attributions())
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"{path}: {path.stat().st_size} bytes, expected at most 16 MB")
    total = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {total / 1e6:.1f} MB, decoder at step {step}")


def save_seeds(work: Path) -> None:
    """Write averaged weights and step counts in fp16: enough to train on elsewhere.

    A stage that finds its seed in ``WORK/resume`` and no checkpoint starts from it, with a fresh
    optimiser and a fresh budget. The joint map goes along, since the prior, the towers and the
    decoder mean nothing in another space.
    """
    for stage in STAGES:
        path = work / f"{stage}.pt"
        if path.exists():
            state = torch.load(path, weights_only=True)
            ema = {
                key: value.half() if value.is_floating_point() else value
                for key, value in state["ema"].items()
            }
            seed = {"ema": ema, "step": state["step"], "minutes": state["seconds"] / 60}
            loop.save_atomically(seed, work / loop.SEEDS / f"{stage}.pt")
    shutil.copy(work / "joint_map.pt", work / loop.SEEDS / "joint_map.pt")


def save_pipelines(work: Path, out: Path) -> None:
    """Write ``prior`` and ``decoder`` in fp16, each swapped in when complete."""
    pipelines = {
        "prior": KandinskyV22PriorPipeline(
            prior=prior.load(work),
            image_encoder=vision.load(work),
            text_encoder=text.load(work),
            tokenizer=words.build_tokenizer(),
            scheduler=prior.scheduler(),
            image_processor=judge.processor(),
        ),
        "decoder": KandinskyV22Pipeline(
            unet=unet.load(work), scheduler=unet.scheduler(), movq=autoencoder.load(work)
        ),
    }
    for name, pipeline in pipelines.items():
        part = out / f"{name}.part"
        shutil.rmtree(part, ignore_errors=True)
        pipeline.to(dtype=torch.float16).save_pretrained(part)
        if name == "prior":
            judge.fix_processor_name(part / "image_processor")
            index = json.loads((part / "model_index.json").read_text())
            index["image_processor"] = ["transformers", "CLIPImageProcessor"]
            (part / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
        shutil.rmtree(out / name, ignore_errors=True)
        part.rename(out / name)


if __name__ == "__main__":
    main()
