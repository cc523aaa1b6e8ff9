"""Weights that hold NaN or infinity are refused when they are loaded, wherever they come from."""

import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

import tiny
import tiny_vlm
from offbeat.backbones.stable_diffusion.adapter import StableDiffusionBackbone
from offbeat.errors import CheckpointError, NotFiniteError
from offbeat.files.png import to_pil
from offbeat.judges.chat import SmolVlmJudge
from tiny_single import save_single_file


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    return tiny.build_sd(tmp_path_factory.mktemp("healthy") / "sd", "sd")


def spoil(file, number, start=""):
    """Set one number of the last tensor whose name begins so; return the tensor's name."""
    weights = load_file(file)
    name = max(one for one in weights if one.startswith(start))
    weights[name].flatten()[-1] = number
    save_file(weights, file)
    return name


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "image_encoder"])
def test_a_folders_weights(healthy, tmp_path, part, number):
    folder = shutil.copytree(healthy, tmp_path / "copy")
    (file,) = (folder / part).glob("*.safetensors")
    name = spoil(file, number)
    with pytest.raises(CheckpointError, match=rf"{part}: .*{name} holds NaN or infinity"):
        StableDiffusionBackbone.load(folder)


def test_an_adapters_weights(healthy, tmp_path):
    folder = shutil.copytree(healthy, tmp_path / "copy")
    spoil(folder / "ip_adapter" / "ip_adapter.safetensors", float("nan"))
    with pytest.raises(CheckpointError, match=r"ip_adapter.safetensors: .* holds NaN or infinity"):
        StableDiffusionBackbone.load(folder)


def test_a_single_files_weights(healthy, tmp_path):
    pipe = StableDiffusionPipeline.from_pretrained(healthy, local_files_only=True)
    file = save_single_file(pipe, tmp_path / "one.safetensors")
    spoil(file, float("nan"), "model.diffusion_model.")
    with pytest.raises(CheckpointError, match=r"one.safetensors: .* holds NaN or infinity"):
        StableDiffusionBackbone.load(file, config=healthy)


def test_numbers_that_do_not_fit_the_type(healthy, tmp_path):
    folder = shutil.copytree(healthy, tmp_path / "copy")
    spoil(folder / "unet" / "diffusion_pytorch_model.safetensors", 1e5)
    StableDiffusionBackbone.load(folder)
    with pytest.raises(CheckpointError, match=r"as float16; .* try --dtype float32"):
        StableDiffusionBackbone.load(folder, dtype=torch.float16)


def test_a_judges_weights(tmp_path):
    folder = tiny_vlm.smolvlm(tmp_path / "judge")
    spoil(folder / "model.safetensors", float("nan"))
    with pytest.raises(CheckpointError, match="holds NaN or infinity"):
        SmolVlmJudge.load(folder)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_no_picture_is_made_of_what_is_not_finite(number):
    images = torch.rand(2, 3, 4, 4)
    images[1, 2, 0, 0] = number
    with pytest.raises(NotFiniteError, match=r"images: .* NaN or infinity in 1 of 96; .*float32"):
        to_pil(images)
