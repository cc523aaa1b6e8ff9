"""A checkpoint in one file: its own weights, another folder's settings and tokenizer."""

import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

import tiny
import tiny_flow
from offbeat.backbones.stable_diffusion.adapter import StableDiffusionBackbone
from offbeat.checkpoints.open import adapter_of
from offbeat.core.rng import stream
from offbeat.errors import CheckpointError, UnsafeWeightsError
from tiny_single import save_single_file


def only_settings(folder, into):
    """Copy a pipeline's folder without its weights."""
    shutil.copytree(folder, into, ignore=shutil.ignore_patterns("*.safetensors", "ip_adapter"))
    return into


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder, and the same checkpoint in one file beside a folder of settings of its name."""
    place = tmp_path_factory.mktemp("single")
    folder = tiny.build_sd(place / "whole", "sd", adapter=False)
    pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    file = save_single_file(pipe, place / "dream.v1.safetensors")
    only_settings(folder, place / "dream.v1")
    return folder, file


def draw(backbone):
    with torch.no_grad():
        return backbone.draw_text(backbone.encode_text(["a pig"]), generator=stream(1))


def test_it_draws_what_the_folder_draws(whole):
    folder, file = whole
    load = adapter_of(file).load
    single = load(file)
    assert isinstance(single, StableDiffusionBackbone)
    assert torch.equal(draw(single), draw(StableDiffusionBackbone.load(folder)))
    assert single.fingerprint == load(file).fingerprint
    assert single.card["num_inference_steps"] == 3  # of the folder's card
    assert not any(p.requires_grad for module in single._modules() for p in module.parameters())


def test_the_fingerprint_is_that_of_the_files_own_weights(whole, tmp_path):
    file = whole[1]
    weights = load_file(file)
    weights["model.diffusion_model.out.2.bias"] += 1
    other = tmp_path / "other.safetensors"
    save_file(weights, other)
    settings = file.with_suffix("")
    prints = {
        StableDiffusionBackbone.load(one, config=settings).fingerprint for one in (file, other)
    }
    assert len(prints) == 2
    moved = shutil.copy(file, tmp_path / "moved.safetensors")
    assert StableDiffusionBackbone.load(moved, config=settings).fingerprint in prints


def test_without_settings_it_says_where_they_belong(whole, tmp_path):
    lone = shutil.copy(whole[1], tmp_path / "lone.safetensors")
    with pytest.raises(CheckpointError, match=r"no settings and no tokenizer.*as .*/lone$"):
        StableDiffusionBackbone.load(lone)


def test_a_file_that_is_not_whole_or_not_safe_is_refused(whole, tmp_path):
    folder, file = whole
    settings, weights = file.with_suffix(""), load_file(file)
    del weights["first_stage_model.decoder.conv_in.bias"]
    broken = tmp_path / "broken.safetensors"
    save_file(weights, broken)
    with pytest.raises(CheckpointError, match=r"its vae cannot be read .* a weight is missing"):
        StableDiffusionBackbone.load(broken, config=settings)
    save_file({n: w for n, w in weights.items() if "cond_stage" not in n}, broken)
    with pytest.raises(CheckpointError, match=r"holds no text_encoder, and .* no weights of it"):
        StableDiffusionBackbone.load(broken, config=settings)
    del weights["cond_stage_model.transformer.text_model.final_layer_norm.bias"]
    weights["first_stage_model.decoder.conv_in.bias"] = torch.zeros(64)
    save_file(weights, broken)
    with pytest.raises(CheckpointError, match=r"text_encoder are missing, such as final_layer_no"):
        StableDiffusionBackbone.load(broken, config=settings)
    broken.write_bytes(b"not safetensors at all")
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        adapter_of(broken).load(broken, config=settings)
    with pytest.raises(CheckpointError, match="there is no such file"):
        adapter_of("absent.safetensors").load("absent.safetensors")
    pickled = tmp_path / "model.ckpt"
    torch.save(weights, pickled)
    with pytest.raises(UnsafeWeightsError, match="pickles"):
        adapter_of(pickled).load(pickled)
    with pytest.raises(CheckpointError, match="takes no config"):
        StableDiffusionBackbone.load(folder, config=settings)


@pytest.mark.parametrize("kind", ["sd3", "flux"])
def test_a_transformer_alone_is_used_in_place_of_the_folders(tmp_path, kind):
    """As FLUX is published in one file: encoders and autoencoder are the folder's."""
    build = tiny_flow.build_sd3 if kind == "sd3" else tiny_flow.build_flux
    folder = build(tmp_path / "mine")
    weights = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    name = "proj_out.bias"
    save_file({**weights, name: weights[name] + 0.5}, tmp_path / "mine.safetensors")
    plain = adapter_of(folder).load(folder)
    single = type(plain).load(tmp_path / "mine.safetensors")
    assert single.fingerprint != plain.fingerprint
    difference = single.transformer.proj_out.bias - plain.transformer.proj_out.bias
    torch.testing.assert_close(difference, torch.full_like(difference, 0.5))
    assert not torch.equal(draw(single), draw(plain))


def test_the_form_is_told_by_the_names_of_the_weights(tmp_path):
    keys = {
        "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": "SD3Backbone",
        "double_blocks.0.img_attn.qkv.weight": "FluxBackbone",
        "model.diffusion_model.input_blocks.0.0.weight": "StableDiffusionBackbone",
    }
    for key, kind in keys.items():
        file = tmp_path / f"{kind}.safetensors"
        save_file({key: torch.zeros(1)}, file)
        assert adapter_of(file).__name__ == kind
