"""Write the checkpoint that the library loads: ``python -m recipes.pocket.export``.

Layout: ``prior/`` and ``decoder/`` as diffusers saves the two pipelines of Kandinsky 2.2,
``stable_diffusion/`` as it saves a ``StableDiffusionPipeline`` (``ip_adapter/`` inside; its text
and image encoders are those of ``prior/``, stored once), ``judge/`` (written by its own stage) and
``card.json``. What it takes to train on beyond that goes to ``WORK/resume``.
``--only`` replaces one part of a checkpoint that is there, and leaves the others as they are.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    KandinskyV22Pipeline,
    KandinskyV22PriorPipeline,
    StableDiffusionPipeline,
    VQModel,
)
from recipes.pocket import (
    augment,
    autoencoder,
    data,
    judge,
    loop,
    prior,
    sources,
    stable_diffusion,
    text,
    unet,
    vision,
    words,
)
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection

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
LARGEST_TOTAL = 90_000_000
SHARED = ("text_encoder", "image_encoder", "tokenizer")
"""What both forms read, and ``prior/`` holds."""
METHODS = Path(__file__).with_name("methods.json")
"""What suits the methods on these weights, by measurement: docs/fusion.md, docs/cretok.md."""
PARTS = ("image_encoder", "stable_diffusion")
"""What can be written on its own."""
LOG_VARIANCE = -14.0
"""Of the posterior that the Kullback-Leibler form must have: a spread of a thousandth."""


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
        "prior_guidance_scale": 3.0,
        "prior_num_inference_steps": 10,
        "guidance_scale": 3.0,
        "num_inference_steps": 20,
        "height": augment.IMAGE_SIZE,
        "width": augment.IMAGE_SIZE,
        "concepts": {name: row["classes"] for name, row in table.items()},
        "subjects": members,
        "styles": list(sources.STYLES),
        "licence": "Apache-2.0; drawings that it learnt from: LICENSES.md",
        "notes": f"128 pixels, {len(table)} concepts; its decoder had {steps} steps.",
        "explore_prior_guidance_scale": 2.0,
        "decode_batch_size": 16,
        "methods": json.loads(METHODS.read_text()),
    }


def main() -> None:
    """Assemble both pipelines from the averaged weights of all stages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=data.work_folder(), help="folder of caches")
    parser.add_argument("--out", type=Path, help="target; default: WORK/export")
    parser.add_argument("--only", choices=PARTS, help="replace this part; default: write all")
    options = parser.parse_args()
    out = options.out or options.work / "export"
    if options.only is None:
        save_pipelines(options.work, out)
        save_seeds(options.work)
        step = loop.load(options.work / "unet.pt")["step"]
        (out / "card.json").write_text(json.dumps(card(step), indent=1) + "\n")
        (out / "ATTRIBUTIONS.md").write_text(data.attributions())
        if out != options.work / "export":
            shutil.copytree(options.work / "export" / "judge", out / "judge", dirs_exist_ok=True)
    if options.only == "image_encoder":
        vision.load(options.work).half().save_pretrained(out / "prior" / "image_encoder")
    if options.only in {None, "stable_diffusion"}:
        save_stable_diffusion(options.work, out)
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"{path}: {path.stat().st_size} bytes, expected at most 16 MB")
    total = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    if total > LARGEST_TOTAL:
        raise ValueError(f"{out}: {total} bytes, expected at most 90 MB")
    print(f"{out}: {total / 1e6:.1f} MB")


def save_seeds(work: Path) -> None:
    """Write in half precision what later training needs and the checkpoint does not hold.

    That is the joint map, without which the towers, the prior and the decoder mean nothing, and the
    judge with the wide concepts. ``recipes.pocket.seeds`` takes the rest from the checkpoint.
    """
    joint = {k: v for k, v in loop.load(work / "joint_map.pt").items() if "rebuild" not in k}
    loop.save_atomically(halved(joint), work / loop.SEEDS / "joint_map.pt")
    state = loop.load(work / "judge.pt")
    seed = {"ema": halved(state["ema"]), "step": state["step"]}
    loop.save_atomically(seed, work / loop.SEEDS / "judge.pt")


def halved(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights in half precision on the CPU; counters stay as they are."""
    return {k: (v.half() if v.is_floating_point() else v).cpu() for k, v in state.items()}


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


@torch.no_grad()
def kullback_leibler(model: VQModel) -> AutoencoderKL:
    """Return the same autoencoder in the form that Stable Diffusion's pipelines ask for.

    Its latents need no scale, and the posterior's spread is a constant near nothing.
    """
    width, config = autoencoder.LATENT_CHANNELS, model.config
    twin = AutoencoderKL(
        down_block_types=config.down_block_types,
        up_block_types=config.up_block_types,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        latent_channels=width,
        norm_num_groups=config.norm_num_groups,
        sample_size=config.sample_size,
        scaling_factor=1.0,
        force_upcast=False,
        mid_block_add_attention=config.mid_block_add_attention,
    ).eval()
    state = model.state_dict()
    for name in ("encoder.conv_out", "quant_conv"):
        for kind in ("weight", "bias"):
            key = f"{name}.{kind}"
            wide = torch.zeros_like(twin.state_dict()[key])
            narrow = state[key]
            wide[tuple(slice(side) for side in narrow.shape)] = narrow
            state[key] = wide
    state["quant_conv.bias"][width:] = LOG_VARIANCE
    state = {key: value for key, value in state.items() if not key.startswith("quantize.")}
    twin.load_state_dict(state)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, config.sample_size, config.sample_size, generator=generator) * 2 - 1
    latents = model.encode(images).latents
    mode = twin.encode(images).latent_dist.mode()
    torch.testing.assert_close(mode, latents, rtol=0, atol=1e-4)
    decoded = autoencoder.decode(model, latents)
    torch.testing.assert_close(twin.decode(latents).sample, decoded, rtol=0, atol=1e-4)
    return twin


def save_stable_diffusion(work: Path, out: Path) -> None:
    """Write ``stable_diffusion`` in fp16, from its U-Net and from the parts that ``out`` has."""
    prior_folder, part = out / "prior", out / "stable_diffusion.part"
    shutil.rmtree(part, ignore_errors=True)
    denoiser, adapter = stable_diffusion.load(work)
    movq = VQModel.from_pretrained(out / "decoder" / "movq", torch_dtype=torch.float32)
    # Pipelines of this family ask for this offset; "trailing" does not read it.
    scheduler = DDIMScheduler.from_config(unet.scheduler().config, steps_offset=1)
    pipeline = StableDiffusionPipeline(
        vae=kullback_leibler(movq.eval()),
        text_encoder=CLIPTextModel.from_pretrained(prior_folder / "text_encoder"),
        tokenizer=CLIPTokenizer.from_pretrained(prior_folder / "tokenizer"),
        unet=denoiser,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=judge.processor(),
        image_encoder=CLIPVisionModelWithProjection.from_pretrained(prior_folder / "image_encoder"),
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(part)
    judge.fix_processor_name(part / "feature_extractor")
    index = json.loads((part / "model_index.json").read_text())
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (part / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    (part / "ip_adapter").mkdir()
    adapter = {key: value.half() for key, value in adapter.items()}
    save_file(adapter, part / "ip_adapter" / "ip_adapter.safetensors")
    for name in SHARED:
        shutil.rmtree(part / name)
    about = json.dumps(stable_diffusion.CARD, indent=1) + "\n"
    (part / "card.json").write_text(about)
    shutil.rmtree(out / "stable_diffusion", ignore_errors=True)
    part.rename(out / "stable_diffusion")


if __name__ == "__main__":
    main()
