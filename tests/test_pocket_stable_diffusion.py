"""The Stable-Diffusion form of pocket, as diffusers' own pipeline loads it, without a network."""

import pytest
import torch
from diffusers import VQModel
from PIL import Image

import tiny
from offbeat.backbones.stable_diffusion.adapter import StableDiffusionBackbone
from offbeat.checkpoints.known.unclip import POCKET
from offbeat.errors import CheckpointError

FOLDER = POCKET / "stable_diffusion"


@pytest.fixture(scope="module")
def pipeline():
    return tiny.pocket_pipeline()


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
    assert image.shape == (3, 128, 128)
    assert image[:, :3].mean() < 0.3
    red, green, blue = image[:, 40:100, 40:88].mean((1, 2))
    assert red > 1.5 * max(green, blue)


def test_both_forms_share_one_space_of_latents(pipeline):
    movq = VQModel.from_pretrained(POCKET / "decoder" / "movq", torch_dtype=torch.float32)
    images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
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
        red, green, blue = shown[0, :, 48:96, 40:88].mean((1, 2))
        assert red > 1.5 * max(green, blue)
    finally:
        pipeline.unload_ip_adapter()


def test_no_file_is_too_large_to_ship():
    sizes = [path.stat().st_size for path in POCKET.rglob("*") if path.is_file()]
    assert max(sizes) < 16e6
    assert sum(sizes) < 90e6


def test_each_weight_is_stored_once(tmp_path):
    """Both forms read one text and one image encoder: the second form's folder has neither."""
    digests = [path.read_bytes() for path in POCKET.rglob("*.safetensors")]
    assert len(set(digests)) == len(digests)
    assert not (FOLDER / "text_encoder").exists()
    (tmp_path / "stable_diffusion").symlink_to(FOLDER)  # alone, with no prior beside it
    with pytest.raises(CheckpointError, match="and not there"):
        StableDiffusionBackbone.load(tmp_path / "stable_diffusion")
