"""Pictures, drawn and read, in place of a prior: gradients, encoders, what is refused."""

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import tiny
from offbeat.backbones.drawn import explorable
from offbeat.backbones.readers import ModelReader
from offbeat.backbones.stable_diffusion.adapter import StableDiffusionBackbone
from offbeat.core.rng import stream, streams
from offbeat.errors import CheckpointError
from offbeat.judges.choose import choose_judge
from offbeat.protocols import ChecksSubject, DrawingBackbone, ExploringBackbone


@pytest.fixture(scope="module")
def few_steps(tmp_path_factory):
    """A model whose scheduler draws noise between its steps."""
    folder = tiny.build_sd(tmp_path_factory.mktemp("few") / "model", "sd", scheduler="lcm")
    return StableDiffusionBackbone.load(folder)


@pytest.fixture(scope="module")
def dino(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(1)
    config = Dinov2Config(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    Dinov2Model(config).eval().save_pretrained(folder)
    CLIPImageProcessorPil(size=28, crop_size=28).save_pretrained(folder)
    return folder


def gradients(backbone, sample):
    token = backbone.token_embeds("pig").clone().requires_grad_()
    lora = {n: f.requires_grad_() for n, f in backbone.init_lora(2, generator=stream(1)).items()}
    text = backbone.encode_text(["a <x>"], tokens={"<x>": token})
    embeds = sample(text, lora)
    leaves = [token, *(f for n, f in lora.items() if "lora_B" in n)]
    return embeds, torch.autograd.grad(embeds.square().sum(), leaves)


@pytest.mark.parametrize("gradient_steps", [None, 1])
def test_computing_steps_again_changes_no_gradient(few_steps, gradient_steps):
    drawn = explorable(few_steps)
    assert isinstance(drawn, ExploringBackbone)
    assert isinstance(drawn, DrawingBackbone)

    def plainly(text, lora):
        noise = streams(3, num=1)
        latents = few_steps.init_latents(noise, num_inference_steps=3)
        with few_steps.adapted(lora):
            latents = few_steps.denoise(
                latents, text, generator=noise, num_inference_steps=3,
                gradient_steps=gradient_steps,
            )  # fmt: skip
        return few_steps.encode_image(few_steps.decode(latents))

    def again(text, lora):
        return drawn.sample_prior(
            text, generator=streams(3, num=1), lora=lora, num_inference_steps=3,
            gradient_steps=gradient_steps,
        )  # fmt: skip

    (embeds, grads), (expected, others) = gradients(drawn, again), gradients(drawn, plainly)
    torch.testing.assert_close(embeds, expected)
    torch.testing.assert_close(grads, others)
    assert all(float(grad.abs().max()) > 0 for grad in grads)
    with torch.no_grad():  # and it is the picture that is drawn
        text = drawn.encode_text(["a pig"])
        images = drawn.draw_text(text, generator=streams(3, num=1), num_inference_steps=3)
        read = drawn.sample_prior(text, generator=streams(3, num=1), num_inference_steps=3)
        torch.testing.assert_close(read, drawn.encode_image(images), rtol=0, atol=1e-4)


def test_any_encoder_reads_and_one_without_texts_has_no_clip_judge(few_steps, dino):
    drawn = explorable(few_steps, str(dino))
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    embeds = drawn.encode_image(images)
    assert embeds.shape == (2, 24)
    assert float(torch.autograd.grad(embeds.square().sum(), images)[0].abs().max()) > 0
    assert drawn.read_texts(["a pig"]) is None
    assert choose_judge("auto", drawn, ChecksSubject, subject="pig") is None


def test_a_folder_of_another_kind_is_refused(few_steps, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="clip, siglip, dinov2"):
        ModelReader.load(tmp_path)


def test_pocket_reads_texts_and_pictures_in_one_space(pocket, pocket_sd):
    texts = ["a picture of a teapot"]
    with torch.no_grad():
        joint = explorable(pocket_sd).read_texts(texts)
        torch.testing.assert_close(joint, pocket.encode_text(texts).text_embeds)
