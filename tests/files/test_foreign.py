"""What other tools keep in pictures is shown, and asked again, like ours."""

import json

import pytest
from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner

from offbeat.cli import app
from offbeat.errors import ImageError
from offbeat.files.foreign import settings_of, text_of
from offbeat.files.png import infotext, parse_infotext, read_infotext

ASKED = {
    "Prompt": "a red castle, (blue:1.2) sky",
    "Negative prompt": "a tree",
    "Steps": "20",
    "CFG scale": "7.5",
    "Seed": "42",
    "Size": "512x768",
}
PROMPT, NEGATIVE = ASKED["Prompt"], ASKED["Negative prompt"]

COMFY = {
    "3": {"class_type": "KSampler", "inputs": {
        "seed": 42, "steps": 20, "cfg": 7.5, "sampler_name": "euler", "scheduler": "karras",
        "denoise": 1.0, "model": ["10", 0], "positive": ["6", 0], "negative": ["7", 0],
        "latent_image": ["5", 0]}},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 768}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["11", 0], "clip": ["10", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": NEGATIVE, "clip": ["10", 1]}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "10": {"class_type": "LoraLoader", "inputs": {"model": ["4", 0], "clip": ["4", 1]}},
    "11": {"class_type": "PrimitiveString", "inputs": {"value": PROMPT}},
}  # fmt: skip
COMFY_FLUX = {
    "1": {"class_type": "SamplerCustomAdvanced", "inputs": {
        "noise": ["2", 0], "guider": ["3", 0], "sampler": ["4", 0], "sigmas": ["5", 0],
        "latent_image": ["6", 0]}},
    "2": {"class_type": "RandomNoise", "inputs": {"noise_seed": 42}},
    "3": {"class_type": "BasicGuider", "inputs": {"model": ["7", 0], "conditioning": ["8", 0]}},
    "4": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
    "5": {"class_type": "BasicScheduler", "inputs": {"steps": 20, "model": ["7", 0]}},
    "6": {"class_type": "EmptySD3LatentImage", "inputs": {"width": 512, "height": 768}},
    "7": {"class_type": "UNETLoader", "inputs": {"unet_name": "sd15.safetensors"}},
    "8": {"class_type": "FluxGuidance", "inputs": {"guidance": 7.5, "conditioning": ["9", 0]}},
    "9": {"class_type": "CLIPTextEncode", "inputs": {"text": PROMPT, "clip": ["7", 0]}},
}  # fmt: skip
INVOKE = {
    "app_version": "6.0.2", "positive_prompt": PROMPT, "negative_prompt": NEGATIVE, "steps": 20,
    "cfg_scale": 7.5, "seed": 42, "width": 512, "height": 768, "scheduler": "euler",
    "model": {"name": "sd15.safetensors", "base": "sd-1"},
}  # fmt: skip
INVOKE_2 = {
    "model_weights": "sd15.safetensors", "app_version": "2.3.5", "image": {
        "prompt": [{"prompt": PROMPT, "weight": 1}], "steps": 20, "cfg_scale": 7.5, "seed": 42,
        "sampler": "euler", "width": 512, "height": 768},
}  # fmt: skip
NOVELAI = {
    "prompt": PROMPT, "uc": NEGATIVE, "steps": 20, "scale": 7.5, "seed": 42, "sampler": "euler",
    "width": 512, "height": 768,
}  # fmt: skip
FOOOCUS = {
    "prompt": PROMPT, "negative_prompt": NEGATIVE, "steps": 20, "guidance_scale": 7.5, "seed": "42",
    "resolution": "(512, 768)", "sampler": "euler", "base_model": "sd15.safetensors",
    "version": "Fooocus v2.5.5",
}  # fmt: skip
A1111 = (
    f"{PROMPT}\nNegative prompt: {NEGATIVE}\nSteps: 20, Sampler: euler, CFG scale: 7.5, Seed: 42, "
    "Size: 512x768, Model: sd15.safetensors"
)
WITHOUT = ("comfyui-flux", "invokeai-2")
"""Those that keep no negative prompt of its own."""
PNGS = {
    "comfyui": {"prompt": json.dumps(COMFY), "workflow": '{"nodes": []}'},
    "comfyui-flux": {"prompt": json.dumps(COMFY_FLUX)},
    "invokeai": {"invokeai_metadata": json.dumps(INVOKE)},
    "invokeai-2": {"sd-metadata": json.dumps(INVOKE_2)},
    "novelai": {
        "Title": "AI generated image", "Description": PROMPT, "Software": "NovelAI",
        "Source": "sd15.safetensors", "Comment": json.dumps(NOVELAI),
    },
    "fooocus": {"parameters": json.dumps(FOOOCUS), "fooocus_scheme": "fooocus"},
    "a1111": {"parameters": A1111},
}  # fmt: skip


def checked(path, but=()):
    """Every command reads what was asked: what ``show`` prints is read back."""
    fields = parse_infotext(read_infotext(path))
    fields["Sampler"] = fields["Sampler"].lower()  # by A1111's name, or as the file has it
    asked = {**ASKED, "Sampler": "euler", "Model": "sd15.safetensors"}
    assert {name: fields.get(name) for name in asked if name not in but} == {
        name: value for name, value in asked.items() if name not in but
    }
    shown = CliRunner().invoke(app, ["show", str(path)])
    assert shown.exit_code == 0
    assert PROMPT in shown.stdout


@pytest.mark.parametrize("tool", PNGS)
def test_a_png_of_another_tool_is_read(tmp_path, tool):
    info = PngInfo()
    for keyword, text in PNGS[tool].items():
        info.add_text(keyword, text)
    path = tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    checked(path, but=("Negative prompt",) if tool in WITHOUT else ())
    data = path.read_bytes()  # the chunks behind the pixels, as ImageMagick writes them
    first, pixels = data.index(b"tEXt") - 4, data.index(b"IDAT") - 4
    end = data.index(b"IEND") - 4
    path.write_bytes(data[:first] + data[pixels:end] + data[first:pixels] + data[end:])
    checked(path, but=("Negative prompt",) if tool in WITHOUT else ())


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
@pytest.mark.parametrize(
    "comment",
    [
        b"UNICODE\0" + A1111.encode("utf-16-be"),
        b"UNICODE\0" + A1111.encode("utf-16-le"),
        b"ASCII\0\0\0" + A1111.encode(),
        json.dumps(FOOOCUS).encode(),
    ],
)
def test_exif_of_a_jpeg_or_webp_is_read(tmp_path, suffix, comment):
    exif = Image.Exif()
    exif.get_ifd(IFD.Exif)[Base.UserComment] = comment
    path = tmp_path / f"picture.{suffix}"
    Image.new("RGB", (8, 8)).save(path, exif=exif)
    checked(path)


def test_comfyui_s_webp_is_read(tmp_path):
    exif = Image.Exif()
    exif[Base.Make] = "workflow:{}"
    exif[Base.Model] = f"prompt:{json.dumps(COMFY)}"
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.webp", exif=exif)
    checked(tmp_path / "picture.webp")


@pytest.mark.parametrize(
    "info",
    [
        {},
        {"prompt": "{}"},
        {"prompt": "not json"},
        {"prompt": '{"1": {"inputs": {"positive": ["1", 0], "seed": ["1", 0]}}}'},  # a circle
        {"prompt": '{"1": 3, "2": {"inputs": []}, "3": {"inputs": {"positive": 1, "seed": {}}}}'},
        {"invokeai_metadata": '{"image": 3, "model": 4}'},
        {"sd-metadata": '{"image": {"prompt": [3]}}'},
        {"Comment": '{"uc": 3, "prompt": []}'},
        {"parameters": "{" * 5000},
        {"UserComment": b"UNICODE\0\xd8"},
    ],
)
def test_what_is_damaged_or_strange_says_nothing(info):
    settings = settings_of(info) or {}
    assert not settings.get("prompt")
    infotext(settings)
    text_of(info.get("UserComment"))


def test_a_picture_that_keeps_nothing_says_so(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "bare.webp")
    with pytest.raises(ImageError, match="holds no settings"):
        read_infotext(tmp_path / "bare.webp")


def test_samplers_have_the_names_of_a1111():
    text = infotext({"prompt": "x", "scheduler": "EulerAncestralDiscreteScheduler", "seed": 1})
    assert "Sampler: Euler a, Seed: 1" in text
    both = {"sampler": "dpm++-2m-karras", "scheduler": "DPMSolverMultistepScheduler"}
    assert "Sampler: DPM++ 2M Karras" in infotext({"prompt": "x", **both})
    assert "Sampler: MyScheduler" in infotext({"prompt": "x", "scheduler": "MyScheduler"})
