"""Folders made to attack: their code would leave a mark, and it never runs; nothing is asked.

``input`` answers "y" here, as somebody in a hurry would, so code that is offered does run.
"""

import builtins
import json
import pickle
import shutil
import socket
from contextlib import suppress

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import offbeat
import tiny
import tiny_vlm
from offbeat.backbones.stable_diffusion.adapter import StableDiffusionBackbone
from offbeat.checkpoints.open import load_backbone
from offbeat.errors import CheckpointError, UnsafeWeightsError
from offbeat.files.concept import CONCEPT_FILE, encode_concept, made_on
from offbeat.files.png import encode_png, read_recipe
from offbeat.judges.chat import SmolVlmJudge
from offbeat.judges.classifier import ClassifierJudge
from offbeat.types import Concept
from offbeat.verbs.walk import walk

CODE = """
from pathlib import Path
Path({mark!r}).write_text("ran")

class Evil:
    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        return cls()

    from_config = from_single_file = from_pretrained
"""
AUTO = ("AutoTokenizer", "AutoModel", "AutoConfig", "AutoProcessor", "AutoImageProcessor")


@pytest.fixture(scope="module")
def harmless(tmp_path_factory):
    return tiny.build_sd(tmp_path_factory.mktemp("harmless") / "sd", "sd", adapter=False)


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """Return the file that hostile code would write; fail if something prompts or connects."""
    file, happened = tmp_path / "mark", []

    def answer(*args):
        happened.append(f"asked {args}")
        return "y"

    def connect(self, address):
        happened.append(f"connected to {address}")
        raise OSError("no network in this test")

    monkeypatch.setattr(builtins, "input", answer)
    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "importable"))
    (tmp_path / "importable").mkdir()
    (tmp_path / "importable" / "evil_library.py").write_text(CODE.format(mark=str(file)))
    yield file
    assert not file.exists(), "its code ran"
    assert happened == []


def copy(folder, tmp_path, name="hostile"):
    return shutil.copytree(folder, tmp_path / name)


def change(file, **values):
    told = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**told, **values}))


def poison(folder, mark, *files):
    """Let the settings of a folder name code that lies beside them."""
    (folder / "evil.py").write_text(CODE.format(mark=str(mark)))
    for name in files:
        change(
            folder / name,
            auto_map={auto: ["evil.Evil", "evil.Evil"] if "Tok" in auto else "evil.Evil"
                      for auto in AUTO},
            model_type="evil",
        )  # fmt: skip


def refused(folder, match, kind=CheckpointError, **settings):
    with pytest.raises(kind, match=match):
        StableDiffusionBackbone.load(folder, **settings)


@pytest.mark.parametrize(
    ("part", "entry"),
    [
        ("tokenizer", ["transformers", "AutoTokenizer"]),
        ("text_encoder", ["transformers", "AutoModel"]),
        ("text_encoder", ["transformers", "AutoModelForCausalLM"]),
        ("unet", ["diffusers", "AutoModel"]),
        ("unet", ["diffusers", "DiffusionPipeline"]),
        ("scheduler", ["evil_library", "Evil"]),
        ("vae", ["diffusers_modules", "Evil"]),
        ("vae", ["diffusers", "StableDiffusionPipeline"]),
        ("unet", ["transformers", "CLIPTextModel"]),
        ("tokenizer", ["transformers.models.auto", "AutoTokenizer"]),
        ("tokenizer", ["transformers", ["AutoTokenizer"]]),
        ("tokenizer", [["transformers"], "CLIPTokenizer"]),
        ("scheduler", ["diffusers", "SchedulerMixin"]),
    ],
)
def test_an_index_names_known_classes_only(harmless, tmp_path, mark, part, entry):
    folder = copy(harmless, tmp_path)
    poison(folder / part, mark, "config.json", "tokenizer_config.json")
    change(folder / "model_index.json", **{part: entry})
    refused(folder, "expected a component|expected .* one of")


@pytest.mark.parametrize("part", ["tokenizer", "text_encoder", "unet", "vae", "scheduler"])
def test_code_beside_a_known_class_is_not_run(harmless, tmp_path, mark, part):
    """A published folder may bring code for other programs: it loads, and the code is not read."""
    folder = copy(harmless, tmp_path)
    (folder / part / "evil.py").write_text(CODE.format(mark=str(mark)))
    for file in (folder / part).glob("*config.json"):
        change(file, auto_map={auto: "evil.Evil" for auto in AUTO})
    StableDiffusionBackbone.load(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"_attn_implementation": "stranger/kernel"},
        {"attn_implementation": "stranger/kernel@main:run"},
        {"text_config": {"attn_implementation": {"": "stranger/kernel"}}},
        {"experts_implementation": "stranger/kernel"},
        {"custom_generate": "stranger/generate"},
    ],
)
def test_settings_that_fetch_code_are_refused(harmless, tmp_path, mark, settings):
    folder = copy(harmless, tmp_path)
    change(folder / "text_encoder" / "config.json", **settings)
    refused(folder, "config.json: .* names code to be fetched")


def test_an_adapter_that_names_another_model_is_refused(harmless, tmp_path, mark):
    """The library would read the weights of ``base_model_name_or_path`` instead."""
    other = copy(harmless, tmp_path, "other")
    folder = copy(harmless, tmp_path)
    change(
        folder / "text_encoder" / "adapter_config.json",
        base_model_name_or_path=str(other / "text_encoder"),
        megatron_config={"a": 1}, megatron_core="evil_library", peft_type="LORA",
    )  # fmt: skip
    refused(folder, "adapter_config.json: .* names code")


def test_code_beside_judges_is_not_run(tmp_path, mark):
    folder = tiny_vlm.smolvlm(tmp_path / "judge")
    poison(folder, mark, "tokenizer_config.json", "processor_config.json")
    with suppress(CheckpointError):  # the library may do without the code, or refuse
        SmolVlmJudge.load(folder)
    poison(folder, mark, "config.json")
    change(folder / "config.json", architectures=["EvilForImageClassification"])
    change(folder / "preprocessor_config.json", image_mean=[0.5] * 3, image_std=[0.5] * 3)
    with pytest.raises(CheckpointError):
        ClassifierJudge.load(folder, subjects={})


class Payload:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (exec, (f"open({str(self.mark)!r}, 'w').write('ran')",))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickles_are_refused(harmless, tmp_path, mark, name):
    folder = copy(harmless, tmp_path)
    (folder / "text_encoder" / "model.safetensors").unlink()
    (folder / "text_encoder" / name).write_bytes(pickle.dumps(Payload(mark)))
    refused(folder, "pickle", UnsafeWeightsError)


@pytest.fixture(scope="module")
def single(harmless, tmp_path_factory):
    """A single file that holds a U-Net and an autoencoder alone."""
    from diffusers import StableDiffusionPipeline

    from tiny_single import save_single_file

    pipe = StableDiffusionPipeline.from_pretrained(harmless, local_files_only=True)
    file = save_single_file(pipe, tmp_path_factory.mktemp("single") / "whole.safetensors")
    weights = {name: w for name, w in load_file(file).items() if "cond_stage" not in name}
    lone = file.with_name("no_text.safetensors")
    save_file(weights, lone)
    return file, lone


@pytest.mark.parametrize(
    ("part", "entry"),
    [
        ("unet", ["evil_library", "Evil"]),
        ("vae", ["transformers", "AutoModel"]),
        ("text_encoder", ["evil_library", "Evil"]),
        ("tokenizer", ["transformers", "AutoTokenizer"]),
    ],
)
def test_a_single_files_settings_name_known_classes_only(
    harmless, single, tmp_path, mark, part, entry
):
    folder = copy(harmless, tmp_path)
    poison(folder / part, mark, "config.json", "tokenizer_config.json")
    change(folder / "model_index.json", **{part: entry})
    refused(single[0], "expected a component|expected .* one of", config=folder)


def test_a_single_files_settings_bring_no_pickle(harmless, single, tmp_path, mark):
    folder = copy(harmless, tmp_path)
    (folder / "text_encoder" / "model.safetensors").unlink()
    torch.save({"x": torch.zeros(1)}, folder / "text_encoder" / "pytorch_model.bin")
    refused(single[1], "pickle", UnsafeWeightsError, config=folder)


def test_a_link_out_of_the_folder_is_only_read(harmless, tmp_path, mark):
    """A link is followed, as the hub's cache is made of links; it gives weights, never code."""
    folder = copy(harmless, tmp_path)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    moved = shutil.move(file, tmp_path / "elsewhere.safetensors")
    file.symlink_to(moved)
    assert load_backbone(folder, device="cpu").device.type == "cpu"


# --- what is fetched


@pytest.fixture
def online(mark, tmp_path, monkeypatch):
    """Let the hub be asked, in an empty cache; ``mark`` fails the test if it is."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def concept_file(folder, checkpoint, backbone):
    """Write a concept's file that names a checkpoint, as a stranger could."""
    concept = Concept(template="a {concept}", subject="pig",
                      token_embeds={"<x>": backbone.token_embed("pig")})  # fmt: skip
    about = {**made_on(backbone), "checkpoint": checkpoint}
    files = encode_concept(concept, method="m", **about)
    folder.mkdir(exist_ok=True)
    (folder / CONCEPT_FILE).write_bytes(files[CONCEPT_FILE])
    return folder / CONCEPT_FILE


def picture_file(folder, checkpoint, backbone):
    """Write a picture whose recipe names a checkpoint."""
    offbeat.generate("a pig", num_images=1, num_inference_steps=1, backbone=backbone, out=folder)
    file = next(folder.glob("images/*.png"))
    recipe = {**read_recipe(file), "checkpoint": checkpoint}
    with Image.open(file) as picture:
        file.write_bytes(encode_png(picture.convert("RGB"), recipe))
    return file


def test_a_strangers_file_does_not_choose_what_is_fetched(online, tmp_path, pocket):
    said = r"names the checkpoint 'stranger/model', which is not on this machine.*--backbone"
    file = concept_file(tmp_path / "given", "stranger/model", pocket)
    for use in (
        lambda: offbeat.render(file, num_images=1),
        lambda: walk(file, file, num=2),
        lambda: offbeat.import_concept(file),
        lambda: offbeat.again(picture_file(tmp_path / "drawn", "stranger/model", pocket)),
    ):
        with pytest.raises(CheckpointError, match=said):
            use()


def test_what_was_fetched_before_is_read_without_a_network(online, harmless, tmp_path):
    commit = "0" * 40
    where = online / "models--stranger--model"
    shutil.copytree(harmless, where / "snapshots" / commit)
    (where / "refs").mkdir()
    (where / "refs" / "main").write_text(commit)
    model = StableDiffusionBackbone.load(harmless)
    made = offbeat.render(concept_file(tmp_path / "given", "stranger/model", model), num_images=1)
    assert made.request["checkpoint"] == "stranger/model"
    assert made.request["fingerprint"] == model.fingerprint
