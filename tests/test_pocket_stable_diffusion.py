"""The Stable-Diffusion form of pocket, as diffusers' own pipeline loads it, without a network."""

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, VQModel
from PIL import Image

POCKET = Path(__file__).parents[1] / "src" / "offbeat" / "pocket"
FOLDER = POCKET / "stable_diffusion"


@pytest.fixture(scope="module")
def pipeline():
    pipe = StableDiffusionPipeline.from_pretrained(FOLDER, local_files_only=True)
    pipe.to(dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, prompt, **options):
    return pipe(
        prompt,
        num_inference_steps=8,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
        **options,
    ).images


def test_it_draws_what_the_prompt_says_at_its_own_size(pipeline):
    (image,) = draw(pipeline, "a picture of a red castle on a black background")
    assert image.shape == (3, 64, 64)
    assert image[:, :3].mean() < 0.3
    red, green, blue = image[:, 20:50, 20:44].mean((1, 2))
    assert red > 1.5 * max(green, blue)


def test_both_forms_share_one_space_of_latents(pipeline):
    movq = VQModel.from_pretrained(POCKET / "decoder" / "movq", torch_dtype=torch.float32)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latents = movq.encode(images).latents
        mode = pipeline.vae.encode(images).latent_dist.mode() * pipeline.vae.config.scaling_factor
        torch.testing.assert_close(mode, latents, rtol=0, atol=1e-4)
        decoded = movq.decode(latents, force_not_quantize=True).sample
        torch.testing.assert_close(pipeline.vae.decode(latents).sample, decoded, rtol=0, atol=1e-4)


def test_a_picture_can_be_the_prompt(pipeline):
    plain = draw(pipeline, "a picture of a cat")
    strawberry = Image.fromarray(
        (draw(pipeline, "a picture of a strawberry")[0].permute(1, 2, 0) * 255).byte().numpy()
    )
    pipeline.load_ip_adapter(
        str(FOLDER), subfolder="ip_adapter", weight_name="ip_adapter.safetensors"
    )
    try:
        pipeline.set_ip_adapter_scale(0.0)
        silent = draw(pipeline, "a picture of a cat", ip_adapter_image=strawberry)
        torch.testing.assert_close(silent, plain, rtol=0, atol=1e-4)
        pipeline.set_ip_adapter_scale(1.0)
        shown = draw(pipeline, "", ip_adapter_image=strawberry)
        red, green, blue = shown[0, :, 24:48, 20:44].mean((1, 2))
        assert red > 1.5 * max(green, blue)
    finally:
        pipeline.unload_ip_adapter()


def test_no_file_is_too_large_to_ship():
    sizes = [path.stat().st_size for path in POCKET.rglob("*") if path.is_file()]
    assert max(sizes) < 16e6
    assert sum(sizes) < 90e6
