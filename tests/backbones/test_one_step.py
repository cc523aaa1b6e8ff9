"""One-step models: a picture, read by CLIP, stands where a prior's sample stands."""

import json
import shutil
from contextlib import nullcontext

import pytest
import torch
from diffusers import StableDiffusionPipeline, TCDScheduler
from safetensors.torch import load_file, save_file

import far
import tiny
from offbeat.backbones.stable_diffusion.one_step import OneStepBackbone
from offbeat.checkpoints.open import adapter_of
from offbeat.checkpoints.placement import Placement
from offbeat.core.drawing import draw, draw_embeds
from offbeat.core.functional import cosine
from offbeat.core.rng import stream, streams
from offbeat.errors import CapabilityError, CheckpointError
from offbeat.methods.low_probability.config import LowProbabilityConfig
from offbeat.methods.low_probability.method import LowProbability
from offbeat.protocols import DrawingBackbone, ExploringBackbone, PriorBackbone
from offbeat.types import Concept, Request

SMALL = LowProbabilityConfig(
    num_baseline=40, num_held_out=10, num_components=4, num_steps=12, num_probes=4, probe_every=6,
    judge_every=12, lora_rank=2, learning_rate=0.1, use_anchor=False, num_noises=2, reach=3.0,
)  # fmt: skip
REQUEST = Request(subject="pig", seed=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.build_one_step(tmp_path_factory.mktemp("one-step") / "model")


@pytest.fixture(scope="module")
def backbone(folder):
    return adapter_of(folder).load(folder)


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """A model whose text encoder does not project, and the CLIP model beside it."""
    place = tmp_path_factory.mktemp("apart")
    return tiny.build_sd(place / "plain", "sd", adapter=False), tiny.save_clip(place / "clip")


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "model")


def sample(backbone, **settings):
    text = backbone.encode_text(["a pig"])
    return backbone.sample_prior(text, generator=streams(1, num=2), **settings)


def test_it_is_told_by_its_card_and_explores_as_well_as_draws(backbone):
    assert isinstance(backbone, OneStepBackbone)
    assert isinstance(backbone, ExploringBackbone)
    assert isinstance(backbone, DrawingBackbone)
    assert not isinstance(backbone, PriorBackbone)
    assert backbone.card["timesteps"] == [800]
    assert LowProbabilityConfig().sampling(backbone)["num_inference_steps"] == 1


@torch.no_grad()
def test_a_sample_is_a_reading_of_the_picture_that_is_drawn(backbone):
    images = backbone.draw_text(backbone.encode_text(["a pig"]), generator=streams(1, num=2))
    embeds = sample(backbone)
    torch.testing.assert_close(embeds, backbone.encode_image(images), rtol=0, atol=1e-4)
    one = backbone.sample_prior(backbone.encode_text(["a pig"]), generator=streams(1, num=1))
    torch.testing.assert_close(embeds[:1], one, rtol=1e-4, atol=1e-4)
    text = backbone.encode_text(["a pig"]).text_embeds
    assert cosine(embeds, text).shape == (2, 1)  # one space


def test_gradient_reaches_token_and_lora_through_the_picture(backbone):
    before = [p.clone() for module in backbone._modules() for p in module.parameters()]
    token = backbone.token_embeds("pig").clone().requires_grad_()
    lora = backbone.init_lora(2, generator=stream(1))
    assert lora
    assert all(".attn2." in name for name in lora)
    lora = {name: factor.requires_grad_() for name, factor in lora.items()}
    text = backbone.encode_text(["a <x>"], tokens={"<x>": token})
    embeds = backbone.sample_prior(text, generator=streams(1, num=2), lora=lora)
    embeds.square().sum().backward()
    assert float(token.grad.abs().max()) > 0
    ups = [factor.grad for name, factor in lora.items() if "lora_B" in name]
    assert all(float(grad.abs().max()) > 0 for grad in ups)
    assert backbone.vae.is_gradient_checkpointing
    after = [p for module in backbone._modules() for p in module.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.grad is None for p in after)


def test_checkpointing_the_decoder_changes_no_gradient(backbone, folder):
    plain = OneStepBackbone.load(folder)
    plain.vae.disable_gradient_checkpointing()
    grads = []
    for one in (backbone, plain):
        token = one.token_embeds("pig").clone().requires_grad_()
        text = one.encode_text(["a <x>"], tokens={"<x>": token})
        embeds = one.sample_prior(text, generator=streams(1, num=1))
        grads += torch.autograd.grad(embeds.square().sum(), token)
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize("offload", ["none", "model", "sequential"])
def test_a_second_device_gives_the_same_readings_and_gradients(apart, offload):
    (plain, clip), found = apart, []
    for device in ("cpu", "meta"):
        one = OneStepBackbone.load(plain, clip=clip)
        with far.device() if device == "meta" else nullcontext():
            one.place(Placement(device=device, offload="none" if device == "cpu" else offload))
            token = one.token_embeds("pig").clone().requires_grad_()
            text = one.encode_text(["a <x>"], tokens={"<x>": token})
            embeds = one.sample_prior(text, generator=streams(1, num=1)).cpu()
            (embeds.square().sum() + text.text_embeds.cpu().sum()).backward()
        found.append((embeds.detach(), token.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_exploration_runs_on_it_unchanged_and_goes_far(backbone):
    method = LowProbability(SMALL)
    baseline = method.measure(backbone, REQUEST)
    steps = []
    concept = method.fit(backbone, REQUEST, baseline=baseline, on_step=steps.append)
    distances = [step.values["distance"] for step in steps]
    assert sum(distances[-4:]) > 1.8 * sum(distances[:4])
    assert float((concept.token_embeds["<offbeat>"] - backbone.token_embeds("pig")).abs().max()) > 0
    assert any(float(f.abs().max()) > 0 for n, f in concept.lora.items() if "lora_B" in n)
    again = method.fit(backbone, REQUEST, baseline=baseline)
    assert torch.equal(again.token_embeds["<offbeat>"], concept.token_embeds["<offbeat>"])
    embeds, images = draw_embeds(backbone, concept, seed=1, num=3)
    assert torch.equal(images, draw(backbone, concept, seed=1, num=3))
    with torch.no_grad():
        torch.testing.assert_close(embeds, backbone.encode_image(images))
    plain = Concept(template=concept.template, subject="pig", word="pig")
    ordinary, _ = draw_embeds(backbone, plain, seed=1, num=3)
    far, near = (baseline.describe(part)["distance_median"] for part in (embeds, ordinary))
    assert far > 1.5 * near


def test_a_judge_sees_the_pictures(backbone):
    from offbeat.types import Verdict

    seen = []

    class Judge:
        name = "judge"

        def still_a(self, images, subject):
            seen.append(images)
            return [Verdict("no", 0.0, self.name)] * len(images)

    config = LowProbabilityConfig(**{**_asked(SMALL), "judge_every": 2})
    baseline = LowProbability(config).measure(backbone, REQUEST)
    concept = LowProbability(config).fit(backbone, REQUEST, baseline=baseline, judge=Judge())
    assert seen[0].shape == (4, 3, 16, 16)
    assert concept.metadata["stopped"] == "judge"


def _asked(config):
    return {name: getattr(config, name) for name in config.__slots__}


def test_what_no_picture_shows_is_refused(backbone):
    concept = Concept(template="{concept}", subject="pig", image_embeds=torch.zeros(1, 32))
    with pytest.raises(CapabilityError, match="`decode_embeds`"):
        draw(backbone, concept, seed=0, num=1)


# --- files ------------------------------------------------------------------------------------


def kohya_lora(unet, file):
    """Save LoRA weights of cross-attention in kohya's names, as such files are published."""
    tensors = {}
    for number, (name, layer) in enumerate(unet.named_modules()):
        if name.endswith(("attn2.to_q", "attn2.to_v")):
            stem = "lora_unet_" + name.replace(".", "_")
            wide_out, wide_in = layer.weight.shape
            tensors[f"{stem}.lora_down.weight"] = torch.randn(2, wide_in, generator=stream(number))
            tensors[f"{stem}.lora_up.weight"] = torch.randn(wide_out, 2, generator=stream(number))
            tensors[f"{stem}.alpha"] = torch.tensor(1.0)
    save_file(tensors, file)
    return file


@torch.no_grad()
def test_lora_weights_make_a_model_one_step_as_the_pipeline_does(folder, backbone, copied):
    kohya_lora(backbone.unet, copied / "one-step.safetensors")
    card = json.loads((copied / "card.json").read_text())
    (copied / "card.json").write_text(json.dumps({**card, "one_step_lora": "one-step.safetensors"}))
    merged = adapter_of(copied).load(copied)
    assert merged.card["scheduler"] == "TCDScheduler"
    ours = merged.draw_text(merged.encode_text(["a pig"]), generator=stream(1))
    pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.load_lora_weights(copied, weight_name="one-step.safetensors")
    pipe.scheduler = TCDScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    states = backbone.encode_text(["a pig"]).text_encoder_hidden_states
    theirs = pipe(
        prompt_embeds=states,
        generator=stream(1),
        guidance_scale=0,
        timesteps=[800],
        output_type="np",
    ).images
    torch.testing.assert_close(
        ours, torch.from_numpy(theirs).permute(0, 3, 1, 2), rtol=0, atol=1e-4
    )
    plain = backbone.draw_text(backbone.encode_text(["a pig"]), generator=stream(1))
    assert float((ours - plain).abs().max()) > 0.01
    assert merged.fingerprint != backbone.fingerprint
    assert not hasattr(merged.unet, "peft_config")
    by_hand = OneStepBackbone.load(folder, lora=copied / "one-step.safetensors")
    assert torch.equal(by_hand.draw_text(by_hand.encode_text(["a pig"]), generator=stream(1)), ours)


@torch.no_grad()
def test_text_is_projected_by_the_clip_that_reads_the_pictures(apart, copied, tmp_path):
    plain, clip = apart
    backbone = OneStepBackbone.load(plain, clip=clip)
    weights = load_file(clip / "model.safetensors")
    from offbeat.backbones.stable_diffusion.adapter import StableDiffusionBackbone

    pooled = StableDiffusionBackbone.load(plain).encode_text(["a pig"]).text_embeds
    torch.testing.assert_close(
        backbone.encode_text(["a pig"]).text_embeds,
        pooled @ weights["text_projection.weight"].T,
    )
    assert torch.equal(
        backbone.image_encoder.visual_projection.weight, weights["visual_projection.weight"]
    )
    other = tiny.save_clip(tmp_path / "other", width=16)
    with pytest.raises(CheckpointError, match="another CLIP"):
        OneStepBackbone.load(copied, clip=other)


def test_what_cannot_be_one_step_is_refused(folder, tmp_path):
    xl = tiny.build_sd(tmp_path / "xl", "xl", adapter=False)
    with pytest.raises(CheckpointError, match="one text encoder"):
        OneStepBackbone.load(xl)
    with pytest.raises(CheckpointError, match="file of LoRA weights"):
        OneStepBackbone.load(folder, lora=tmp_path / "absent.safetensors")
    save_file({"nothing.weight": torch.zeros(1)}, tmp_path / "wrong.safetensors")
    with pytest.raises(CheckpointError, match="cannot be merged"):
        OneStepBackbone.load(folder, lora=tmp_path / "wrong.safetensors")
