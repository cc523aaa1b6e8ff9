"""The memory that a checkpoint takes, told before it is loaded; free memory is made up here."""

import json
from dataclasses import replace

import pytest
import torch

import tiny
import tiny_flow
from offbeat import load_backbone
from offbeat.checkpoints import memory
from offbeat.checkpoints.memory import check_fits, needed, weights_of
from offbeat.checkpoints.placement import Placement
from offbeat.checkpoints.sizes import read_header, survey
from offbeat.errors import CheckpointError, DoesNotFitError
from peak import peak

GB = 10**9
CUDA = torch.device("cuda:0")
BUILD = {
    "sd": lambda folder: tiny.build_sd(folder, "sd"),
    "xl": lambda folder: tiny.build_sd(folder, "xl"),
    "2.1": lambda folder: tiny.build(folder, "2.1"),
    "sd3": tiny_flow.build_sd3,
    "flux": tiny_flow.build_flux,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("memory")
    return {form: build(root / form) for form, build in BUILD.items()}


@pytest.fixture
def machine(monkeypatch):
    """Return what makes up a machine of so many GB: its accelerator's and its own."""

    def made(device, host=1000.0):
        free = {"cuda": int(device * GB), "cpu": int(host * GB)}
        monkeypatch.setattr(memory, "free_memory", lambda where: free[where.type])
        monkeypatch.setattr(memory, "usable", lambda name: torch.device(name))

    return made


@pytest.fixture
def large(folders, tmp_path):
    """A checkpoint of SDXL's form and size, of which nothing but headers and settings is there."""
    made = {
        "unet": (2567, {"block_out_channels": [320, 640, 1280], "sample_size": 128}),
        "vae": (84, {"block_out_channels": [128, 256, 512, 512], "sample_size": 512}),
        "text_encoder": (123, {}),
        "text_encoder_2": (695, {}),
    }
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
    for name, (millions, config) in made.items():
        index[name] = ["diffusers", "AnyModel"]
        folder = tmp_path / name
        folder.mkdir()
        told = {f"w{i}": {"dtype": "F16", "shape": [1000, 10000]} for i in range(millions // 10)}
        told["rest"] = {"dtype": "F16", "shape": [millions % 10, 10**6]}
        header = json.dumps(told).encode()
        file = folder / "diffusion_pytorch_model.safetensors"
        file.write_bytes(len(header).to_bytes(8, "little") + header)
        if name == "vae":
            config["force_upcast"] = True
        (folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    return tmp_path


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("source", ["pocket", "pocket-sd", *BUILD])
def test_weights_are_counted_as_loading_takes_them(folders, source, dtype):
    place = folders.get(source, source)
    found = survey(place)
    backbone = load_backbone(place, device="cpu", dtype=dtype)
    loaded = {
        id(weight): weight.numel() * weight.element_size()
        for module in backbone._modules()
        for weight in module.parameters()
    }
    counted = sum(weights_of(part, found, dtype) for part in found.parts)
    assert counted == pytest.approx(sum(loaded.values()), rel=0.03)
    card = backbone.card
    assert (found.height, found.width) == (card["height"], card["width"])


def test_a_large_checkpoint_needs_what_its_parts_say(large):
    found = survey(large)
    assert (found.height, found.width) == (1024, 1024)
    plain = needed(found, Placement(device="cuda"))
    assert plain.device == pytest.approx(4 * 3469e6 + 6 * 128 * 1024**2 * 4 * 1.25, rel=0.03)
    half = needed(found, Placement(device="cuda", dtype="float16"))
    # the autoencoder stays in float32
    assert half.device == pytest.approx(2 * 3385e6 + 4 * 84e6 + 4.0e9, rel=0.03)
    model = needed(found, Placement(device="cuda", dtype="float16", offload="model"))
    unet = 2 * 2567e6 + 2 * 26 * 320 * 128**2 * 2 * 1.25
    assert model.device == pytest.approx(unet + 2**28, rel=0.03)
    assert model.host > 2 * 3385e6
    tiled = Placement(device="cuda", dtype="float16", offload="sequential", vae_tiling=True)
    assert needed(found, tiled).device < 2 * GB


def test_what_does_not_fit_is_refused_with_what_would(large, machine):
    machine(24)
    check_fits(large, Placement(device="cuda"))
    machine(8)
    with pytest.raises(DoesNotFitError) as caught:
        check_fits(large, Placement(device="cuda"))
    said = str(caught.value)
    assert "needs about 18.2 GB in cuda, and 8.0 GB are free" in said
    assert "--dtype bfloat16 --offload model (6.1 GB)" in said
    assert "--offload sequential" in said
    assert "--no-check-memory" in said
    assert "--dtype bfloat16 (" not in said  # alone it does not
    check_fits(large, Placement(device="cuda", dtype="bfloat16", offload="model"))


def test_advice_is_true(large, machine):
    found = survey(large)
    for size in (2, 4, 6, 8, 12, 16):
        machine(size)
        fits = []
        for told, placement in memory.options(found, Placement(device="cuda")):
            try:
                check_fits(large, placement)
            except DoesNotFitError:
                continue
            fits.append(told)
        with pytest.raises(DoesNotFitError) as caught:
            check_fits(large, Placement(device="cuda"))
        assert all(f"{told} (" in str(caught.value) for told in fits[:4])


def test_where_nothing_helps_the_cpu_is_named_if_it_does(large, machine):
    machine(0.5, host=64)
    with pytest.raises(DoesNotFitError, match=r"Nothing makes it fit here: .*--device cpu"):
        check_fits(large, Placement(device="cuda"))
    machine(0.5, host=2)
    with pytest.raises(DoesNotFitError, match="Choose a smaller checkpoint"):
        check_fits(large, Placement(device="cuda"))


def test_the_cpus_own_memory_counts_too(large, machine):
    machine(80, host=10)
    with pytest.raises(DoesNotFitError, match=r"CPU's memory, and 10.0 GB .*--dtype bfloat16"):
        check_fits(large, Placement(device="cuda"))
    with pytest.raises(DoesNotFitError, match="in the CPU's memory"):
        check_fits(large, Placement(device="cpu"))


def test_loading_asks_first_and_may_be_told_not_to(folders, machine):
    machine(80, host=0.01)
    with pytest.raises(DoesNotFitError, match="--no-check-memory"):
        load_backbone(folders["sd"], device="cpu")
    assert load_backbone(folders["sd"], device=Placement(device="cpu", check_memory=False)).name


def test_activations_are_within_the_rule(folders):
    """The most that is alive at once, counted operation by operation, on the tiny networks."""
    for form in ("sd", "2.1"):
        backbone, found = load_backbone(folders[form], device="cpu"), survey(folders[form])
        vae = backbone.vae if form == "sd" else backbone.movq
        counted = peak(backbone.decode, torch.zeros(1, 4, 32, 32))
        found = replace(found, height=64, width=64)
        numbers = memory._vae_numbers(vae.config, found, Placement())
        assert 0.5 < counted / (4 * numbers) < memory.MARGIN


def test_a_container_limit_counts(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text(f"{4 * GB}\n")
    (tmp_path / "memory.current").write_text(f"{3 * GB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {GB}\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.free_memory(torch.device("cpu")) == 2 * GB
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_memory(torch.device("cpu")) > 0


@pytest.mark.parametrize(
    "data", [b"", b"\xff" * 16, b"\x02\0\0\0\0\0\0\0[]", b"\x09\0\0\0\0\0\0\0{"]
)
def test_a_damaged_header_is_an_error(tmp_path, data):
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        read_header(tmp_path / "x.safetensors")
